//! Whether the initial copy may read what is published.

use rsrepl_wire::Relation;
use tokio_postgres::Client;

use super::Finding;
use super::source::failed;
use crate::error::Result;
use crate::quote::identifier;

/// Tables that are named.
const NAMED_MAX: usize = 5;

/// Rows of a partitioned table are read from its partitions.
const UNREADABLE: &str = "\
SELECT DISTINCT n.nspname::text, c.relname::text, CURRENT_USER::text
  FROM pg_catalog.unnest($1::oid[]) AS p (oid)
       CROSS JOIN LATERAL (
           SELECT p.oid UNION SELECT t.relid FROM pg_catalog.pg_partition_tree(p.oid) AS t
       ) AS l (oid)
       JOIN pg_catalog.pg_class AS c ON c.oid = l.oid AND c.relkind = 'r'
       JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE NOT (pg_catalog.has_table_privilege(c.oid, 'SELECT')
            AND pg_catalog.has_schema_privilege(n.oid, 'USAGE'))
 ORDER BY 1, 2";

pub(super) async fn check(client: &Client, tables: &[Relation]) -> Result<Option<Finding>> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let rows = client.query(UNREADABLE, &[&oids]).await.map_err(failed)?;
    let Some(role) = rows.first().map(|row| identifier(row.get(2))) else { return Ok(None) };
    let tables: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut schemas: Vec<String> = tables.iter().map(|(schema, _)| identifier(schema)).collect();
    schemas.dedup();
    let quoted =
        |(schema, name): &(String, String)| format!("{}.{}", identifier(schema), identifier(name));
    let names: Vec<String> = tables.iter().map(quoted).collect();
    let more = if names.len() > NAMED_MAX { ", …" } else { "" };
    let named = names.get(..NAMED_MAX).unwrap_or(&names).join(", ");
    Ok(Some(Finding::error(
        format!("{role} may not read {named}{more}, which the initial copy does"),
        format!(
            "GRANT USAGE ON SCHEMA {} TO {role}; GRANT SELECT ON {} TO {role}; or set copy.data = false",
            schemas.join(", "),
            names.join(", ")
        ),
    )))
}
