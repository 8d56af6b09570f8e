//! What is published: the tables whose changes the slot will send, and what of it is not supported.

use tokio_postgres::Client;

use super::Finding;
use super::source::failed;
use crate::config::Source;
use crate::error::Result;
use crate::quote::{identifier, literal};

/// A table whose changes will come.
pub(super) struct Published {
    pub(super) oid: u32,
    /// UPDATEs or DELETEs of it are sent, so that its rows must be identified.
    pub(super) identified: bool,
}

/// The tables of the configured publications, or all when none is configured.
pub(super) async fn check(
    client: &Client,
    config: &Source,
    version: i32,
    findings: &mut Vec<Finding>,
) -> Result<Vec<Published>> {
    let names = &config.publications;
    if names.is_empty() {
        return all_tables(client).await;
    }
    let sql =
        "SELECT pubname::text FROM pg_catalog.pg_publication WHERE pubname = ANY ($1::text[])";
    let rows = client.query(sql, &[names]).await.map_err(failed)?;
    let known: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    for name in names.iter().filter(|name| !known.contains(name)) {
        findings.push(missing(name, &config.slot_name));
    }
    // row filters and column lists came with 15
    if version >= 150_000 {
        findings.extend(filtered(client, &known).await?);
    }
    findings.extend(through_root(client, &known).await?);
    let tables = tables_of(client, &known).await?;
    if tables.is_empty() && known.len() == names.len() {
        findings.push(Finding::warning(
            "the publications have no tables: nothing will be replicated",
            "ALTER PUBLICATION … ADD TABLE …",
        ));
    }
    Ok(tables)
}

fn missing(name: &str, slot: &str) -> Finding {
    Finding::error(
        format!("there is no publication {name}"),
        format!(
            "CREATE PUBLICATION {} FOR ALL TABLES (or FOR TABLE …); then, as the slot must be the \
             younger of the two, if it exists already: SELECT pg_drop_replication_slot({})",
            identifier(name),
            literal(slot)
        ),
    )
}

/// The plugin refuses to send what would have to be filtered.
async fn filtered(client: &Client, names: &[String]) -> Result<Vec<Finding>> {
    let sql = "SELECT p.pubname::text, r.prrelid::regclass::text, r.prqual IS NOT NULL
               FROM pg_catalog.pg_publication AS p
               JOIN pg_catalog.pg_publication_rel AS r ON r.prpubid = p.oid
               WHERE p.pubname = ANY ($1::text[])
                 AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL)
               ORDER BY 1, 2";
    let rows = client.query(sql, &[&names]).await.map_err(failed)?;
    let finding = |row: &tokio_postgres::Row| {
        let (name, table): (String, String) = (row.get(0), row.get(1));
        let what = if row.get(2) { "a row filter" } else { "a column list" };
        Finding::error(
            format!("publication {name} has {what} for {table}, which is not supported yet"),
            format!(
                "ALTER PUBLICATION {0} DROP TABLE {table}; ALTER PUBLICATION {0} ADD TABLE {table}",
                identifier(&name)
            ),
        )
    };
    Ok(rows.iter().map(finding).collect())
}

/// Changes of partitions come under their own names only.
async fn through_root(client: &Client, names: &[String]) -> Result<Vec<Finding>> {
    let sql = "SELECT p.pubname::text, min(t.relid::regclass::text)
               FROM pg_catalog.pg_publication AS p,
                 LATERAL pg_catalog.pg_get_publication_tables(p.pubname::text) AS t,
                 pg_catalog.pg_class AS c
               WHERE p.pubname = ANY ($1::text[]) AND p.pubviaroot
                 AND c.oid = t.relid AND c.relkind = 'p'
               GROUP BY 1 ORDER BY 1";
    let rows = client.query(sql, &[&names]).await.map_err(failed)?;
    let finding = |row: &tokio_postgres::Row| {
        let (name, table): (String, String) = (row.get(0), row.get(1));
        Finding::error(
            format!(
                "publication {name} publishes {table} via its partition root, which is not supported yet"
            ),
            format!(
                "ALTER PUBLICATION {} SET (publish_via_partition_root = false)",
                identifier(&name)
            ),
        )
    };
    Ok(rows.iter().map(finding).collect())
}

/// Partitioned tables are replaced by their partitions: those have the rows.
async fn tables_of(client: &Client, names: &[String]) -> Result<Vec<Published>> {
    let sql = "SELECT leaf.relid::oid, bool_or(p.pubupdate OR p.pubdelete)
               FROM pg_catalog.pg_publication AS p,
                 LATERAL pg_catalog.pg_get_publication_tables(p.pubname::text) AS t,
                 LATERAL (
                   SELECT t.relid WHERE NOT EXISTS (
                     SELECT FROM pg_catalog.pg_partition_tree(t.relid))
                   UNION ALL
                   SELECT tree.relid FROM pg_catalog.pg_partition_tree(t.relid) AS tree
                   WHERE tree.isleaf) AS leaf
               WHERE p.pubname = ANY ($1::text[]) GROUP BY 1 ORDER BY 1";
    read(client.query(sql, &[&names]).await.map_err(failed)?)
}

/// Permanent tables that are no catalogs, as the plugin decides it.
async fn all_tables(client: &Client) -> Result<Vec<Published>> {
    let sql = "SELECT c.oid, true FROM pg_catalog.pg_class AS c
               JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
               WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384
                 AND n.nspname NOT IN ('pg_catalog', 'information_schema')
               ORDER BY 1";
    read(client.query(sql, &[]).await.map_err(failed)?)
}

fn read(rows: Vec<tokio_postgres::Row>) -> Result<Vec<Published>> {
    let published =
        |row: &tokio_postgres::Row| Published { oid: row.get(0), identified: row.get(1) };
    Ok(rows.iter().map(published).collect())
}
