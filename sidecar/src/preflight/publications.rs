//! The publications that are configured: whether they are there, what they publish, and what of that will
//! not work.

use std::collections::HashMap;

use tokio_postgres::Client;

use super::Finding;
use super::published::{By, Catalog, Named, Operations, Publication, Published, Table};
use super::source::failed;
use crate::config::Source;
use crate::error::{Error, Kind, Result};
use crate::quote::{identifier, literal};

/// How many tables a finding names.
const NAMED_MAX: usize = 3;

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
    let catalog = read_catalog(client, names).await?;
    let missing = |name: &&String| !catalog.publications.iter().any(|known| known.name == **name);
    findings.extend(names.iter().filter(missing).map(|name| absent(name, &config.slot_name)));
    let published = catalog.published(&read_tables(client).await?);
    if published.is_empty() && catalog.publications.len() == names.len() {
        findings.push(Finding::warning(
            "the publications have no tables: nothing will be replicated",
            "ALTER PUBLICATION … ADD TABLE …",
        ));
    }
    let facts = Facts::read(client, &published).await?;
    findings.extend(published.iter().filter_map(|table| facts.conflict(table, version)));
    findings.extend(published.iter().flat_map(|table| facts.refused_on_source(table)));
    findings.extend(never_inserted(&published, &facts));
    Ok(published)
}

/// Every table with rows of its own, and what it is shown as, in the snapshot that `client` has.
///
/// # Errors
/// [`Kind::Setup`] for a publication that is not there.
pub(super) async fn leaves(client: &Client, names: &[String]) -> Result<Vec<(u32, Published)>> {
    if names.is_empty() {
        let tables = all_tables(client).await?;
        return Ok(tables.into_iter().map(|table| (table.oid, table)).collect());
    }
    let catalog = read_catalog(client, names).await?;
    let known = |name: &String| catalog.publications.iter().any(|known| known.name == *name);
    if let Some(missing) = names.iter().find(|name| !known(name)) {
        let finding = absent(missing, "…");
        return Err(Error::new(Kind::Setup, finding.what).hint(finding.mend));
    }
    let tables = read_tables(client).await?;
    let of = |table: &Table| Some((table.oid, catalog.of(table)?));
    Ok(tables.iter().filter_map(of).collect())
}

fn absent(name: &str, slot: &str) -> Finding {
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

/// Rows that were never sent cannot be updated.
fn never_inserted(published: &[Published], facts: &Facts) -> Option<Finding> {
    let without: Vec<&str> = published
        .iter()
        .filter(|table| table.operations.identify() && !table.operations.insert)
        .map(|table| facts.name(table.oid))
        .collect();
    let more = if without.len() > NAMED_MAX { " and others" } else { "" };
    (!without.is_empty()).then(|| {
        let named = without.get(..NAMED_MAX).unwrap_or(&without).join(", ");
        Finding::warning(
            format!(
                "UPDATEs or DELETEs of {named}{more} are published, and INSERTs are not: a PostgreSQL target \
                 stops at a row that it does not have"
            ),
            "missing_rows = \"skip\" for the target, or ALTER PUBLICATION … SET (publish = …) with insert",
        )
    })
}

/// What has to be known of the published tables.
struct Facts(HashMap<u32, Fact>);

#[derive(Default)]
struct Fact {
    name: String,
    full: bool,
    /// Numbers of the columns of the replica identity.
    identity: Vec<i16>,
    /// Numbers of all columns that are neither dropped nor generated.
    columns: Vec<i16>,
    /// How many there are with dropped and generated ones.
    attributes: i16,
}

impl Facts {
    async fn read(client: &Client, published: &[Published]) -> Result<Self> {
        let oids: Vec<u32> = published.iter().map(|table| table.oid).collect();
        let sql = "SELECT c.oid, c.oid::regclass::text, c.relreplident = 'f', c.relnatts,
                     coalesce((SELECT i.indkey::int2[] FROM pg_catalog.pg_index AS i
                       WHERE i.indrelid = c.oid AND i.indisvalid
                         AND CASE c.relreplident WHEN 'i' THEN i.indisreplident
                             WHEN 'd' THEN i.indisprimary ELSE false END), '{}'),
                     ARRAY(SELECT a.attnum FROM pg_catalog.pg_attribute AS a
                       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                         AND a.attgenerated = '' ORDER BY 1)
                   FROM pg_catalog.pg_class AS c WHERE c.oid = ANY ($1)";
        let rows = client.query(sql, &[&oids]).await.map_err(failed)?;
        let fact = |row: &tokio_postgres::Row| Fact {
            name: row.get(1),
            full: row.get(2),
            identity: row.get(4),
            columns: row.get(5),
            attributes: row.get(3),
        };
        Ok(Facts(rows.iter().map(|row| (row.get(0), fact(row))).collect()))
    }

    fn name(&self, table: u32) -> &str {
        self.0.get(&table).map_or("", |fact| fact.name.as_str())
    }

    /// Column lists that differ stop the decoding.
    fn conflict(&self, table: &Published, version: i32) -> Option<Finding> {
        let fact = self.0.get(&table.oid)?;
        // 15 counts dropped and generated columns
        let every = |list: &&Vec<i16>| match version < 160_000 {
            true => list.len() == usize::try_from(fact.attributes).unwrap_or(0),
            false => **list == fact.columns,
        };
        let mut lists = table
            .by
            .iter()
            .map(|by| (&by.publication, by.named.columns.as_ref().filter(|list| !every(list))));
        let (first, list) = lists.next()?;
        let (other, _) = lists.find(|(_, other)| *other != list)?;
        Some(Finding::error(
            format!(
                "publications {first} and {other} have different column lists for {}",
                fact.name
            ),
            format!(
                "ALTER PUBLICATION {} SET TABLE … with the same columns, or name only one of them in \
                 source.publication; a slot that has rows of it already has to be made anew",
                identifier(other)
            ),
        ))
    }

    /// PostgreSQL refuses UPDATEs and DELETEs whose old row would not have what a publication needs.
    fn refused_on_source(&self, table: &Published) -> Vec<Finding> {
        let Some(fact) = self.0.get(&table.oid) else { return Vec::new() };
        let has = |numbers: &[i16]| {
            let of_identity = |number: &i16| fact.full || fact.identity.contains(number);
            numbers.iter().all(of_identity)
        };
        let refused = |name: &str, what: &str| {
            Finding::warning(
                format!(
                    "the {what} of {} in publication {name} does not go with its replica identity: \
                     PostgreSQL refuses UPDATEs and DELETEs of it on the source",
                    fact.name
                ),
                format!("ALTER TABLE {} REPLICA IDENTITY …, or change the {what}", fact.name),
            )
        };
        let mut findings = Vec::new();
        for By { publication: name, named, .. } in table.by.iter().filter(|by| by.changes) {
            if named.filter.as_ref().is_some_and(|filter| !has(filter)) {
                findings.push(refused(name, "row filter"));
            }
            let covers = |list: &Vec<i16>| {
                !fact.full && fact.identity.iter().all(|number| list.contains(number))
            };
            if named.columns.as_ref().is_some_and(|list| !covers(list)) {
                findings.push(refused(name, "column list"));
            }
        }
        findings
    }
}

async fn read_catalog(client: &Client, names: &[String]) -> Result<Catalog> {
    let sql =
        "SELECT oid, pubname::text, puballtables, pubviaroot, pubinsert, pubupdate, pubdelete, pubtruncate
               FROM pg_catalog.pg_publication WHERE pubname = ANY ($1::text[])";
    let rows = client.query(sql, &[&names]).await.map_err(failed)?;
    let publication = |row: &tokio_postgres::Row| Publication {
        oid: row.get(0),
        name: row.get(1),
        all_tables: row.get(2),
        via_root: row.get(3),
        operations: Operations {
            insert: row.get(4),
            update: row.get(5),
            delete: row.get(6),
            truncate: row.get(7),
        },
    };
    let mut publications: Vec<Publication> = rows.iter().map(publication).collect();
    publications.sort_by_key(|known| names.iter().position(|name| *name == known.name));
    let oids: Vec<u32> = publications.iter().map(|publication| publication.oid).collect();

    let sql = r"SELECT prpubid, prrelid, (SELECT array_agg(n ORDER BY n) FROM unnest(prattrs) AS n),
                  CASE WHEN prqual IS NOT NULL THEN ARRAY(SELECT DISTINCT match[1]::int2
                    FROM regexp_matches(prqual::text, ':varattno (\d+)', 'g') AS match) END,
                  pg_catalog.pg_get_expr(prqual, prrelid)
                FROM pg_catalog.pg_publication_rel WHERE prpubid = ANY ($1)";
    let rows = client.query(sql, &[&oids]).await.map_err(failed)?;
    let named = |row: &tokio_postgres::Row| Named {
        columns: row.get(2),
        filter: row.get(3),
        condition: row.get(4),
    };
    let named = rows.iter().map(|row| ((row.get(0), row.get(1)), named(row))).collect();

    let sql =
        "SELECT pnpubid, pnnspid FROM pg_catalog.pg_publication_namespace WHERE pnpubid = ANY ($1)";
    let rows = client.query(sql, &[&oids]).await.map_err(failed)?;
    let schemas = rows.iter().map(|row| (row.get(0), row.get(1))).collect();

    let sql = "SELECT oid, relnamespace FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p')";
    let rows = client.query(sql, &[]).await.map_err(failed)?;
    let schema_of = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    Ok(Catalog { publications, named, schemas, schema_of })
}

/// Permanent tables that are no catalogs, as the plugin decides it.
const TABLES: &str = "\
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384
  AND n.nspname NOT IN ('pg_catalog', 'information_schema')
ORDER BY c.oid";

async fn read_tables(client: &Client) -> Result<Vec<Table>> {
    let ancestors = "CASE WHEN c.relispartition THEN ARRAY(
                       SELECT above.relid::oid
                       FROM pg_catalog.pg_partition_ancestors(c.oid) WITH ORDINALITY AS above (relid, level)
                       WHERE above.relid <> c.oid ORDER BY above.level) ELSE '{}' END";
    let sql = format!("SELECT c.oid, {ancestors} {TABLES}");
    let rows = client.query(&sql, &[]).await.map_err(failed)?;
    Ok(rows.iter().map(|row| Table { oid: row.get(0), ancestors: row.get(1) }).collect())
}

async fn all_tables(client: &Client) -> Result<Vec<Published>> {
    let rows = client.query(&format!("SELECT c.oid {TABLES}"), &[]).await.map_err(failed)?;
    Ok(rows.iter().map(|row| Published::whole(row.get(0))).collect())
}
