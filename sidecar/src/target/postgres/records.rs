//! `rsrepl.tables` on the target: what each table of the source looked like when the target's table was made
//! to fit it. Written in the same transaction as the change and the position.
//!
//! Tables and columns are told by their numbers, on both sides: names are what changes.

use std::collections::BTreeMap;

use rsrepl_wire::Lsn;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::errors;
use super::sql::ident;
use crate::error::{Error, Kind, Result};
use crate::schema::Table;

/// What the database's owner may have to run by hand.
const CREATE: &str = "\
CREATE TABLE rsrepl.tables (slot text NOT NULL, source_oid bigint NOT NULL, target_oid bigint NOT NULL, \
record text NOT NULL, updated timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), \
PRIMARY KEY (slot, source_oid))";

const EXISTS: &str = "SELECT pg_catalog.to_regclass('rsrepl.tables') IS NOT NULL";

const LOAD: &str = "SELECT record FROM rsrepl.tables WHERE slot = $1";

const READ: &str =
    "SELECT target_oid, record FROM rsrepl.tables WHERE slot = $1 AND source_oid = $2";

/// Of another table of the source.
const OWNER: &str = "\
SELECT record FROM rsrepl.tables WHERE slot = $1 AND target_oid = $2 AND source_oid <> $3";

const WRITE: &str = "\
INSERT INTO rsrepl.tables (slot, source_oid, target_oid, record) VALUES ($1, $2, $3, $4)
ON CONFLICT (slot, source_oid) DO UPDATE SET target_oid = EXCLUDED.target_oid, record = EXCLUDED.record,
    updated = pg_catalog.clock_timestamp()";

const FORGET: &str = "DELETE FROM rsrepl.tables WHERE slot = $1 AND source_oid = $2";

/// Records belong to a position.
const FORGET_ALL: &str = "DELETE FROM rsrepl.tables WHERE slot = $1";

/// What is known of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// On the source.
    pub table: Table,
    /// The source dropped it, and the target keeps it.
    #[serde(default)]
    pub dropped: bool,
    /// It had rows before the stream brought the first. `None`: that was not looked at, as versions before did not.
    #[serde(default)]
    pub had_rows: Option<bool>,
    /// `attnum` on the target by that on the source; also of columns that only the target still has.
    pub places: BTreeMap<u16, i16>,
    /// `oid` on the target; 0 when there is none.
    #[serde(skip)]
    pub target_oid: u32,
}

impl Record {
    fn parse(text: &str, target_oid: i64) -> Option<Record> {
        let record: Record = serde_json::from_str(text).ok()?;
        Some(Record { target_oid: u32::try_from(target_oid).ok()?, ..record })
    }
}

/// Creates the table when it is not there; `rsrepl` is.
pub async fn create(target: &str, user: &str, client: &Client) -> Result<()> {
    let server = |error| errors::of_server(target, "looking for rsrepl.tables", error);
    let exists =
        client.query_one(EXISTS, &[]).await.and_then(|row| row.try_get(0)).map_err(server)?;
    if exists {
        return Ok(());
    }
    let Err(refused) = client.batch_execute(CREATE).await else { return Ok(()) };
    match refused.as_db_error().map(|db| db.code().code()) {
        // another sidecar was faster
        Some("42P07" | "23505") => Ok(()),
        Some("42501") => {
            let what = format!("target {target}: {user} may not create rsrepl.tables");
            Err(Error::new(Kind::Setup, what)
                .hint(format!("as the database's owner: {}", create_for(user))))
        }
        _ => Err(errors::of_server(target, "creating rsrepl.tables", refused)),
    }
}

/// The statements with which the database's owner makes the table for `user`.
pub fn create_for(user: &str) -> String {
    let grant = "GRANT SELECT, INSERT, UPDATE, DELETE ON rsrepl.tables TO";
    format!("{CREATE}; {grant} {}", ident(user))
}

/// The tables as they are recorded; none when the stream begins on this target.
pub async fn load(target: &str, client: &Client, slot: &str, applied: Lsn) -> Result<Vec<Table>> {
    let server = |error| errors::of_server(target, "reading rsrepl.tables", error);
    if applied == Lsn::INVALID {
        client.execute(FORGET_ALL, &[&slot]).await.map_err(server)?;
    }
    let rows = client.query(LOAD, &[&slot]).await.map_err(server)?;
    let table = |row: &tokio_postgres::Row| {
        let record = Record::parse(row.try_get(0).ok()?, 0)?;
        (!record.dropped).then_some(record.table)
    };
    Ok(rows.iter().filter_map(table).collect())
}

pub async fn read(
    client: &Client,
    slot: &str,
    source_oid: u32,
) -> Result<Option<Record>, tokio_postgres::Error> {
    let Some(row) = client.query_opt(READ, &[&slot, &i64::from(source_oid)]).await? else {
        return Ok(None);
    };
    // what cannot be read is as if it had not been written: the target's table is looked at instead
    Ok(Record::parse(row.try_get(1)?, row.try_get(0)?))
}

/// The record of another table of the source that a table of the target belongs to.
pub async fn owner(
    client: &Client,
    slot: &str,
    target_oid: u32,
    source_oid: u32,
) -> Result<Option<Record>, tokio_postgres::Error> {
    let key = (i64::from(target_oid), i64::from(source_oid));
    let Some(row) = client.query_opt(OWNER, &[&slot, &key.0, &key.1]).await? else {
        return Ok(None);
    };
    Ok(Record::parse(row.try_get(0)?, key.0))
}

pub async fn write(
    client: &Client,
    slot: &str,
    record: &Record,
) -> Result<(), tokio_postgres::Error> {
    let (source, target) = (i64::from(record.table.oid), i64::from(record.target_oid));
    let text = serde_json::to_string(record).unwrap_or_default();
    client.execute(WRITE, &[&slot, &source, &target, &text]).await.map(drop)
}

pub async fn forget(
    client: &Client,
    slot: &str,
    source_oid: u32,
) -> Result<(), tokio_postgres::Error> {
    client.execute(FORGET, &[&slot, &i64::from(source_oid)]).await.map(drop)
}
