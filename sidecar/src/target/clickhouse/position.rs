//! Where the stream is on this server: the position, whose stream it is, and the last TRUNCATE of each
//! table. Written after the rows that it speaks of.

use std::collections::HashMap;
use std::str::FromStr;

use bytes::Bytes;
use rsrepl_wire::Lsn;

use super::client::Server;
use super::ddl::{literal, qualified, quoted};
use super::failure::Attempt;
use super::setup;
use super::types::put_string;
use super::version::Version;
use crate::batch::Position;
use crate::error::{Error, Kind, Result};
use crate::target::SourceIdentity;

const POSITIONS: &str = "_rsrepl_positions";
const TRUNCATES: &str = "_rsrepl_truncates";

/// Microseconds from 1970-01-01 to 2000-01-01.
pub(super) const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The statements that make our own tables.
pub(super) fn create_statements(database: &str) -> [String; 2] {
    const DURABLE: &str = "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1";
    [
        format!(
            "CREATE TABLE IF NOT EXISTS {} (slot String, system_id UInt64, timeline UInt32, \
             database String, lsn UInt64, commit_time DateTime64(6, 'UTC'), xid UInt32) \
             ENGINE = ReplacingMergeTree(lsn) ORDER BY slot {DURABLE}",
            qualified(database, POSITIONS)
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {} (slot String, `table` String, version {}) \
             ENGINE = ReplacingMergeTree(version) ORDER BY (slot, `table`) {DURABLE}",
            qualified(database, TRUNCATES),
            Version::TYPE
        ),
    ]
}

/// Reads the position, and refuses that of another stream (invariant 10).
pub(super) async fn read(server: &Server, database: &str, source: &SourceIdentity) -> Result<Lsn> {
    let table = qualified(database, POSITIONS);
    let sql = format!(
        "SELECT toString(system_id), toString(timeline), database, toString(lsn) \
         FROM {table} FINAL WHERE slot = {}",
        literal(&source.slot)
    );
    let rows = server.strings::<4>(Attempt::ReadPosition, &sql).await?;
    let Some([system_id, timeline, stored_database, lsn]) = rows.into_iter().next() else {
        return Ok(Lsn::INVALID);
    };
    let refuse = |what: String| {
        Err(Error::new(Kind::Identity, format!("target {}: {what}", server.name())).hint(format!(
            "connect the source that the tables in {} were filled from, or begin anew with an empty \
             database",
            quoted(database)
        )))
    };
    if system_id != source.system_id.to_string() {
        return refuse(format!(
            "its position for slot {} belongs to the system with identifier {system_id}, the source \
             has {}",
            source.slot, source.system_id
        ));
    }
    if stored_database != source.database {
        return refuse(format!(
            "its position for slot {} belongs to database {stored_database}, the source is {}",
            source.slot, source.database
        ));
    }
    let position = Lsn(number(server, &lsn)?);
    match source.has(number(server, &timeline)?, position) {
        Ok(()) => Ok(position),
        Err(why) => refuse(format!("its position for slot {} {why}", source.slot)),
    }
}

/// The position, for who only looks, and at whatever source's; `None`: there is none.
pub(super) async fn look_up(server: &Server, database: &str, slot: &str) -> Result<Option<Lsn>> {
    if setup::describe(server, database, POSITIONS).await?.is_none() {
        return Ok(None);
    }
    let table = qualified(database, POSITIONS);
    let sql = format!("SELECT toString(lsn) FROM {table} FINAL WHERE slot = {}", literal(slot));
    let rows = server.strings::<1>(Attempt::ReadPosition, &sql).await?;
    let lsn = rows.first().map(|[lsn]| number(server, lsn)).transpose()?;
    Ok(lsn.map(Lsn).filter(|lsn| *lsn != Lsn::INVALID))
}

pub(super) fn number<T: FromStr>(server: &Server, text: &str) -> Result<T> {
    text.parse().map_err(|_| {
        Error::new(Kind::Server, format!("target {}: unreadable position", server.name()))
    })
}

/// Writes the position. Everything before it must be durable.
pub(super) async fn write(
    server: &Server,
    database: &str,
    source: &SourceIdentity,
    position: Position,
) -> Result<()> {
    let mut row = Vec::with_capacity(128);
    put_string(&mut row, source.slot.as_bytes());
    row.extend_from_slice(&source.system_id.to_le_bytes());
    row.extend_from_slice(&source.timeline.to_le_bytes());
    put_string(&mut row, source.database.as_bytes());
    row.extend_from_slice(&position.lsn.0.to_le_bytes());
    row.extend_from_slice(&position.commit_time.saturating_add(EPOCH_MICROS).to_le_bytes());
    row.extend_from_slice(&position.xid.to_le_bytes());
    let sql = format!(
        "INSERT INTO {} (slot, system_id, timeline, database, lsn, commit_time, xid) FORMAT RowBinary",
        qualified(database, POSITIONS)
    );
    server.insert(Attempt::WritePosition, &sql, Bytes::from(row)).await
}

/// The last TRUNCATE that was begun of each table.
pub(super) async fn read_truncates(
    server: &Server,
    database: &str,
    slot: &str,
) -> Result<HashMap<String, Version>> {
    let sql = format!(
        "SELECT `table`, toString(version) FROM {} FINAL WHERE slot = {}",
        qualified(database, TRUNCATES),
        literal(slot)
    );
    let rows = server.strings::<2>(Attempt::ReadPosition, &sql).await?;
    let truncate = |[table, version]: [String; 2]| Ok((table, Version(number(server, &version)?)));
    rows.into_iter().map(truncate).collect()
}

/// Says that a TRUNCATE of the table is about to happen.
pub(super) async fn write_truncate(
    server: &Server,
    database: &str,
    slot: &str,
    table: &str,
    version: Version,
) -> Result<()> {
    let mut row = Vec::with_capacity(128);
    put_string(&mut row, slot.as_bytes());
    put_string(&mut row, table.as_bytes());
    row.extend_from_slice(&version.to_bytes());
    let sql = format!(
        "INSERT INTO {} (slot, `table`, version) FORMAT RowBinary",
        qualified(database, TRUNCATES)
    );
    server.insert(Attempt::Truncate(table), &sql, Bytes::from(row)).await
}
