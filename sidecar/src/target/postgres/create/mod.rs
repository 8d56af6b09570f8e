//! Tables that the target lacks, made as they are on the source by PostgreSQL's own tools (`create_tables`).
//!
//! ```text
//! pg_dump ─► archive ─► pg_restore ─► statements, entry by entry ─┬─► tables and what they need, before the copy
//!                                                                 └─► rsrepl.to_create ─► behind the copy
//! ```
//!
//! The tables, and the list of what is left, come in one transaction; each entry of that list is made in one with its
//! removal from it. So whatever dies, everything is made once. A table that is there is left alone, and all that
//! belongs to it.
//!
//! Keys come behind the rows too, where that is cheapest; but a copy that goes on under another snapshot finds rows
//! by them, and has them made before.
//!
//! | module | subject |
//! |---|---|
//! | `archive` | what is in the archive, and which of it tables need (pure) |
//! | `tools` | `pg_dump` and `pg_restore` as processes |
//! | `check` | what would be made, for the preflight |

mod archive;
mod check;
mod tools;

use std::collections::HashSet;
use std::sync::Arc;

use tokio_postgres::{Client, Error as PgError};
use tracing::{debug, info, warn};

use self::archive::{Entry, Selection};
use super::sql::{ident, literal, qualified};
use super::{copies, errors, session};
use crate::copy::CopiedTable;
use crate::error::{Error, Kind, Result};
use crate::tls::PgConnect;

pub use self::check::{applies, check};

const LIST: &str = "\
CREATE TABLE IF NOT EXISTS rsrepl.to_create (
    slot text NOT NULL, place bigserial, type text NOT NULL, name text NOT NULL, key boolean NOT NULL,
    statements text NOT NULL, refused text, PRIMARY KEY (slot, place))";

const LIST_EXISTS: &str = "SELECT pg_catalog.to_regclass('rsrepl.to_create') IS NOT NULL";

const INSERT: &str = "\
INSERT INTO rsrepl.to_create (slot, type, name, key, statements) VALUES ($1, $2, $3, $4, $5)";

const LEFT: &str = "\
SELECT place, type, name, key, statements FROM rsrepl.to_create
 WHERE slot = $1 AND refused IS NULL AND (key OR $2) ORDER BY place";

const DONE: &str =
    "DELETE FROM rsrepl.to_create WHERE slot = $1 AND place = $2 AND refused IS NULL";

const REFUSED: &str = "UPDATE rsrepl.to_create SET refused = $3 WHERE slot = $1 AND place = $2";

/// Schemas and names of these tables.
const NAMES: &str = "\
SELECT n.nspname::text, c.relname::text
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')";

/// Every table and view of the source, and whether it is one of these or a parent of one.
const OF_SOURCE: &str = "\
WITH RECURSIVE wanted (oid) AS (
    SELECT w.oid FROM pg_catalog.unnest($1::oid[]) AS w (oid)
  UNION
    SELECT i.inhparent FROM pg_catalog.pg_inherits AS i JOIN wanted AS w ON w.oid = i.inhrelid)
SELECT c.oid, n.nspname::text, c.relname::text, c.oid IN (SELECT oid FROM wanted)
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'
   AND n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')";

/// Columns that no INSERT with these columns fills, and that need a value.
const UNFILLED: &str = "\
SELECT attname::text FROM pg_catalog.pg_attribute
 WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attnotnull
   AND NOT atthasdef AND attidentity = '' AND attname <> ALL ($2)";

/// Nothing but what the statements themselves say.
const SETTINGS: &[(&str, &str)] = &[
    ("search_path", ""),
    ("client_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("client_min_messages", "warning"),
    ("check_function_bodies", "off"),
    ("xmloption", "content"),
    ("row_security", "off"),
    ("default_tablespace", ""),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    // an index of a large table takes its time
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("transaction_timeout", "0"),
    // and is given up when nobody waits for it any more
    ("client_connection_check_interval", "10s"),
];

/// What is made of what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// What tells rows apart.
    Keys,
    All,
}

/// Makes what one target lacks, for one epoch of its copy.
pub struct Creator<'a> {
    pub target: &'a str,
    pub connection: &'a PgConnect,
    pub source: &'a PgConnect,
    pub slot: &'a str,
    pub epoch: i64,
}

impl Creator<'_> {
    /// Makes those of `tables` that are not there, as the source's exported `snapshot` has them.
    ///
    /// # Errors
    /// [`Kind::Setup`] when one of them cannot be made: then none is.
    pub async fn tables(&self, snapshot: &str, tables: &[Arc<CopiedTable>]) -> Result<()> {
        let mut client = self.session().await?;
        let there = names(&client).await.map_err(self.failed("looking for its tables"))?;
        let is_missing = |table: &&Arc<CopiedTable>| {
            let relation = &table.relation;
            !there.contains(&(relation.schema.clone(), relation.name.clone()))
        };
        let missing: Vec<_> = tables.iter().filter(is_missing).collect();
        if missing.is_empty() {
            return Ok(());
        }
        info!(
            target_name = self.target,
            tables = missing.len(),
            "making missing tables with pg_dump"
        );
        let selection = self.dump(snapshot, &missing, &there).await?;
        self.make(&mut client, &missing, selection).await
    }

    /// What these tables need, of what the source has.
    async fn dump(
        &self,
        snapshot: &str,
        missing: &[&Arc<CopiedTable>],
        there: &HashSet<(String, String)>,
    ) -> Result<Selection> {
        let leaves = missing.iter().flat_map(|table| table.leaves.iter().map(|leaf| leaf.oid));
        let oids: Vec<u32> = missing.iter().map(|table| table.relation.oid).chain(leaves).collect();
        let source = of_source(self.source, snapshot, &oids).await?;
        tools::check(source.version).await?;
        let (mut wanted, mut without) = (HashSet::new(), Vec::new());
        for (oid, name, needed) in source.tables {
            if needed && !there.contains(&name) {
                wanted.insert(oid);
            } else {
                without.push(name);
            }
        }
        let (pre_data, post_data) = tools::dump(self.source, snapshot, &without).await?;
        let selection = archive::select(pre_data, post_data, &wanted);
        let made = selection.first.iter().filter(|entry| entry.is_table(&wanted)).count();
        if made < wanted.len() {
            let message = format!("pg_dump gave {made} of {} tables", wanted.len());
            return Err(Error::new(Kind::Server, message));
        }
        Ok(selection)
    }

    async fn make(
        &self,
        client: &mut Client,
        missing: &[&Arc<CopiedTable>],
        selection: Selection,
    ) -> Result<()> {
        let failed = self.failed("making tables");
        copies::begin(self.target, client, self.slot, self.epoch).await?;
        client.batch_execute(LIST).await.map_err(&failed)?;
        for entry in &selection.first {
            if let Err(error) = self.try_entry(client, &entry.statements).await? {
                return Err(self.refused(&format!("{} {}", entry.kind, entry.name), &error));
            }
        }
        for table in missing {
            self.allow_null(client, table).await.map_err(&failed)?;
        }
        for (Entry { kind, name, statements, .. }, key) in &selection.later {
            client
                .execute(INSERT, &[&self.slot, kind, name, key, statements])
                .await
                .map_err(&failed)?;
        }
        client.batch_execute("COMMIT").await.map_err(&failed)
    }

    /// Columns that are not replicated stay empty.
    async fn allow_null(&self, client: &Client, table: &CopiedTable) -> Result<(), PgError> {
        let relation = &table.relation;
        let name = qualified(&relation.schema, &relation.name);
        let filled: Vec<&str> =
            relation.columns.iter().map(|column| column.name.as_str()).collect();
        for row in client.query(UNFILLED, &[&name, &filled]).await? {
            let column = ident(row.try_get(0)?);
            client
                .batch_execute(&format!("ALTER TABLE {name} ALTER COLUMN {column} DROP NOT NULL"))
                .await?;
        }
        Ok(())
    }

    /// Makes what is left, one by one. What is refused, and does not tell rows apart, stays on the list with the
    /// reason: that is its owner's to decide.
    pub async fn rest(&self, which: Which) -> Result<()> {
        let client = self.session().await?;
        let failed = self.failed("making what belongs to its tables");
        let there: bool = client
            .query_one(LIST_EXISTS, &[])
            .await
            .and_then(|row| row.try_get(0))
            .map_err(&failed)?;
        if !there {
            return Ok(());
        }
        for row in
            client.query(LEFT, &[&self.slot, &(which == Which::All)]).await.map_err(&failed)?
        {
            let (place, key): (i64, bool) = (row.get(0), row.get(3));
            let what = format!("{} {}", row.get::<_, String>(1), row.get::<_, String>(2));
            let statements: String = row.get(4);
            copies::begin(self.target, &client, self.slot, self.epoch).await?;
            // first of all: it waits for whoever is at it
            if client.execute(DONE, &[&self.slot, &place]).await.map_err(&failed)? == 0 {
                client.batch_execute("ROLLBACK").await.map_err(&failed)?;
                continue;
            }
            info!(target_name = self.target, "making {what}");
            let tried = self.try_entry(&client, &statements).await?;
            match tried {
                Ok(()) => client.batch_execute("COMMIT").await.map_err(&failed)?,
                Err(error) => {
                    client.batch_execute("ROLLBACK").await.map_err(&failed)?;
                    let refused = self.refused(&what, &error);
                    if key || refused.kind() == Kind::Server {
                        return Err(refused.hint(format!(
                            "make it yourself, and on the target DELETE FROM rsrepl.to_create WHERE slot = {} AND \
                             place = {place}",
                            literal(self.slot)
                        )));
                    }
                    warn!(
                        "{}; it is left out, and stays in rsrepl.to_create there",
                        refused.what()
                    );
                    let why = error.as_db_error().map(errors::describe).unwrap_or_default();
                    client.execute(REFUSED, &[&self.slot, &place, &why]).await.map_err(&failed)?;
                }
            }
        }
        Ok(())
    }

    /// Within a transaction, which it leaves usable. What is there already is left alone.
    ///
    /// # Errors
    /// The outer: the connection broke.
    async fn try_entry(&self, client: &Client, statements: &str) -> Result<Result<(), PgError>> {
        let failed = self.failed("making what it lacks");
        client.batch_execute("SAVEPOINT entry").await.map_err(&failed)?;
        let Err(error) = client.batch_execute(statements).await else {
            client.batch_execute("RELEASE SAVEPOINT entry").await.map_err(&failed)?;
            return Ok(Ok(()));
        };
        let code = error.as_db_error().map(|db| db.code().code().to_owned());
        let Some(code) = code else { return Err(failed(error)) };
        client.batch_execute("ROLLBACK TO SAVEPOINT entry").await.map_err(&failed)?;
        // schema, relation, another object, function
        if matches!(code.as_str(), "42P06" | "42P07" | "42710" | "42723") {
            debug!(target_name = self.target, %error, "it is there already");
            return Ok(Ok(()));
        }
        Ok(Err(error))
    }

    async fn session(&self) -> Result<Client> {
        let connection = self.connection.clone().application_name("rsrepl create");
        let named = |error: Error| {
            Error::new(error.kind(), format!("target {}", self.target)).because(error)
        };
        let client = connection.connect().await.map_err(named)?;
        let settings = session::settings(SETTINGS);
        client.batch_execute(&settings).await.map_err(self.failed("preparing the session"))?;
        Ok(client)
    }

    fn failed(&self, what: &str) -> impl Fn(PgError) -> Error + use<> {
        let (target, what) = (self.target.to_owned(), what.to_owned());
        move |error| errors::of_server(&target, &what, error)
    }

    /// What the server does not want: its owner's to mend, unless it may pass by itself.
    fn refused(&self, what: &str, error: &PgError) -> Error {
        let said = error.as_db_error();
        let kind = said.map_or(Kind::Server, |db| match errors::kind_of_code(db.code().code()) {
            Kind::Server | Kind::Connection | Kind::Internal => Kind::Server,
            _ => Kind::Setup,
        });
        let why = said.map_or_else(|| error.to_string(), errors::describe);
        Error::new(kind, format!("target {}: making {what}: {why}", self.target)).hint(
            "extensions, roles, and what no dependency of PostgreSQL's names, have to be there; or make the table \
             yourself: a table that is there is left alone",
        )
    }
}

async fn names(client: &Client) -> Result<HashSet<(String, String)>, PgError> {
    let rows = client.query(NAMES, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// The source under a snapshot.
struct OfSource {
    /// `server_version_num`.
    version: i32,
    /// Each table and view, and whether one of the wanted ones needs it.
    tables: Vec<(u32, (String, String), bool)>,
}

async fn of_source(source: &PgConnect, snapshot: &str, oids: &[u32]) -> Result<OfSource> {
    let server = |error: PgError| {
        let kind = if error.is_closed() { Kind::Connection } else { Kind::Server };
        Error::new(kind, "the source: reading the catalogs").because(error)
    };
    let client = source.clone().application_name("rsrepl create").connect().await?;
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
        literal(snapshot)
    );
    client.batch_execute(&begin).await.map_err(server)?;
    let version = version(&client).await.map_err(server)?;
    let rows = client.query(OF_SOURCE, &[&oids]).await.map_err(server)?;
    let table = |row: &tokio_postgres::Row| {
        Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?), row.try_get(3)?))
    };
    let tables = rows.iter().map(table).collect::<Result<_, PgError>>().map_err(server)?;
    Ok(OfSource { version, tables })
}

async fn version(client: &Client) -> Result<i32, PgError> {
    let query = "SELECT pg_catalog.current_setting('server_version_num')::int";
    client.query_one(query, &[]).await?.try_get(0)
}
