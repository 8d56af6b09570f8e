//! The published tables with what publications leave out of their rows: for who reads the tables
//! themselves.

use std::collections::HashMap;

use rsrepl_wire::Relation;
use tokio_postgres::Client;

use super::published::{Operations, Published};
use super::source::failed;
use super::{Severity, publications, tables};
use crate::config::Source;
use crate::error::{Error, Kind, Result};

/// A table as the stream shows it, and which of its rows that are.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Without the columns that are not published.
    pub relation: Relation,
    /// A condition over its columns that its published rows fulfil; `None`: all do.
    pub filter: Option<String>,
    /// It has no rows of its own but those of its partitions.
    pub is_partitioned: bool,
    /// As the statistics have it.
    pub rows_estimated: u64,
    /// Without some of them a target is meant to differ.
    pub operations: Operations,
}

impl Scope {
    /// Not all of its operations are published.
    pub fn is_partial(&self) -> bool {
        self.operations != Operations::ALL
    }
}

/// The tables that are replicated, by name.
///
/// # Errors
/// [`Kind::Setup`]: a publication that is not there, or that cannot be used.
pub async fn scopes(client: &Client, config: &Source) -> Result<Vec<Scope>> {
    let sql = "SELECT current_setting('server_version_num')::int";
    let version: i32 = client.query_one(sql, &[]).await.map_err(failed)?.get(0);
    let mut findings = Vec::new();
    let published = publications::check(client, config, version, &mut findings).await?;
    if let Some(finding) = findings.iter().find(|finding| finding.severity == Severity::Error) {
        return Err(Error::new(Kind::Setup, finding.what.clone()).hint(finding.mend.clone()));
    }
    let relations = tables::describe(client, &published, &mut findings).await?;
    let oids: Vec<u32> = published.iter().map(|table| table.oid).collect();
    let sizes = read_sizes(client, &oids).await?;
    let by_oid: HashMap<u32, &Published> = published.iter().map(|t| (t.oid, t)).collect();
    let ours = |relation: &Relation| relation.schema == "rsrepl";
    let scope = |relation: Relation| {
        let table = by_oid.get(&relation.oid);
        let (is_partitioned, rows_estimated) =
            sizes.get(&relation.oid).copied().unwrap_or_default();
        Scope {
            filter: table.and_then(|table| table.condition()),
            operations: table.map_or(Operations::ALL, |table| table.operations),
            relation,
            is_partitioned,
            rows_estimated,
        }
    };
    Ok(relations.into_iter().filter(|relation| !ours(relation)).map(scope).collect())
}

async fn read_sizes(client: &Client, tables: &[u32]) -> Result<HashMap<u32, (bool, u64)>> {
    let sql = "SELECT c.oid, c.relkind = 'p', greatest(c.reltuples, 0)::bigint + coalesce((
                 SELECT sum(greatest(leaf.reltuples, 0))::bigint
                 FROM pg_catalog.pg_partition_tree(c.oid) AS t
                 JOIN pg_catalog.pg_class AS leaf ON leaf.oid = t.relid
                 WHERE c.relkind = 'p' AND t.isleaf), 0)
               FROM pg_catalog.pg_class AS c WHERE c.oid = ANY ($1)";
    let rows = client.query(sql, &[&tables]).await.map_err(failed)?;
    let size = |row: &tokio_postgres::Row| {
        let rows: i64 = row.get(2);
        (row.get(0), (row.get(1), rows.unsigned_abs()))
    };
    Ok(rows.iter().map(size).collect())
}
