//! The sequences of a database: reading all of them, setting one.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::advance::State;
use crate::error::{Error, Kind, Result};

/// Sequences whose values are read in one statement.
const BATCH: usize = 100;

#[derive(Clone, Debug)]
pub struct Sequence {
    pub oid: u32,
    /// With its schema, quoted as SQL wants it.
    pub name: String,
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub cycles: bool,
    /// Belongs to a table that is replicated, or to none.
    pub replicated: bool,
    /// `None`: this role may not read it.
    pub state: Option<State>,
}

/// All but temporary ones, those of extensions and our own. `$1`: publications; none means all tables. A
/// partition's or a partitioned table's sequence counts when any part of the tree is published.
const LIST: &str = "
WITH published AS (
    SELECT c.oid FROM pg_catalog.pg_publication_tables AS p
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = p.schemaname
    JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = p.tablename
    WHERE p.pubname = ANY ($1::text[])
), replicated AS (
    SELECT oid FROM published
    UNION SELECT t.relid FROM published AS p, pg_catalog.pg_partition_tree(p.oid) AS t
    UNION SELECT a.relid FROM published AS p, pg_catalog.pg_partition_ancestors(p.oid) AS a
)
SELECT c.oid, format('%I.%I', n.nspname, c.relname), s.seqincrement, s.seqmin, s.seqmax, s.seqcycle,
    cardinality($1::text[]) = 0 OR d.refobjid IS NULL
        OR d.refobjid IN (SELECT oid FROM replicated),
    pg_catalog.has_schema_privilege(n.oid, 'USAGE')
        AND pg_catalog.has_sequence_privilege(c.oid, 'SELECT')
FROM pg_catalog.pg_sequence AS s
JOIN pg_catalog.pg_class AS c ON c.oid = s.seqrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_depend AS d
    ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
    AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjsubid > 0
    AND d.deptype IN ('a', 'i')
WHERE c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'rsrepl')
    AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend AS e
        WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
ORDER BY n.nspname, c.relname";

/// Every sequence, and where it is.
pub async fn all(client: &Client, publications: &[String]) -> Result<Vec<Sequence>> {
    let rows = client.query(LIST, &[&publications]).await.map_err(failed)?;
    let mut sequences = Vec::with_capacity(rows.len());
    let mut readable = Vec::new();
    for row in rows {
        if row.get(7) {
            readable.push(sequences.len());
        }
        sequences.push(Sequence {
            oid: row.get(0),
            name: row.get(1),
            increment: row.get(2),
            min: row.get(3),
            max: row.get(4),
            cycles: row.get(5),
            replicated: row.get(6),
            state: None,
        });
    }
    for some in readable.chunks(BATCH) {
        let one = |place: &usize| {
            let name = sequences.get(*place).map_or("", |sequence| sequence.name.as_str());
            format!("SELECT {place}, last_value, is_called FROM {name}")
        };
        let union: Vec<String> = some.iter().map(one).collect();
        for row in client.query(&union.join(" UNION ALL "), &[]).await.map_err(failed)? {
            let place = usize::try_from(row.get::<_, i32>(0)).unwrap_or(usize::MAX);
            if let Some(sequence) = sequences.get_mut(place) {
                let (last_value, is_called) = (row.get(1), row.get(2));
                sequence.state = Some(State { last_value, is_called });
            }
        }
    }
    Ok(sequences)
}

/// Sets one. Not a part of any transaction.
pub async fn set(client: &Client, sequence: &Sequence, state: State) -> Result<()> {
    let sql = "SELECT pg_catalog.setval($1::oid::regclass, $2, $3)";
    let set = client.execute(sql, &[&sequence.oid, &state.last_value, &state.is_called]).await;
    match set {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            let grant = format!("GRANT UPDATE ON SEQUENCE {} on the target", sequence.name);
            Err(Error::new(Kind::Setup, "permission denied").hint(grant))
        }
        Err(error) => Err(failed(error)),
    }
}

fn failed(error: tokio_postgres::Error) -> Error {
    let kind = if error.is_closed() { Kind::Connection } else { Kind::Server };
    Error::new(kind, "sequences").because(error)
}
