//! `_rsrepl_tables` on the server: what each table of the source looked like when the server's was made to
//! fit it, and from which change of the stream on.
//!
//! Before a table is altered, everything before that change is stored, and it is written down that the
//! alteration has begun. So when the stream is applied again, what is older than that of this table is there
//! already, and is left out: rows of an older shape never meet the newer table. And the alteration itself is
//! done again, as far as it was not.

use std::collections::HashMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::client::Server;
use super::ddl::{literal, qualified};
use super::failure::Attempt;
use super::position::number;
use super::types::put_string;
use super::version::Version;
use crate::error::Result;
use crate::schema::{Column, Table};
use crate::target::SourceIdentity;

pub(super) const TABLES: &str = "_rsrepl_tables";

/// What is known of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// On the source, as the server's fits it.
    pub(super) table: Table,
    /// Columns that were told of and have a type that only a row's description says enough of.
    #[serde(default)]
    pub(super) later: Vec<Column>,
    /// Columns that only the server still has.
    #[serde(default)]
    pub(super) kept: Vec<String>,
    /// The source dropped it, and the server keeps it.
    #[serde(default)]
    pub(super) dropped: bool,
    /// It had rows before the stream brought the first. `None`: that was not looked at, as versions before did not.
    #[serde(default)]
    pub(super) had_rows: Option<bool>,
    /// Of the change that made it so. What is older of this table is stored.
    #[serde(skip)]
    pub(super) version: Version,
    /// That change has been made; else it has begun, and the rest is as it was before.
    #[serde(skip)]
    pub(super) done: bool,
}

pub(super) fn create_statement(database: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (slot String, system_id UInt64, source_oid UInt32, place {}, \
         record String) ENGINE = ReplacingMergeTree(place) ORDER BY (slot, system_id, source_oid) \
         SETTINGS fsync_after_insert = 1, fsync_part_directory = 1",
        qualified(database, TABLES),
        Version::TYPE
    )
}

/// By the table's oid on the source.
pub(super) async fn read(
    server: &Server,
    database: &str,
    source: &SourceIdentity,
) -> Result<HashMap<u32, Record>> {
    let sql = format!(
        "SELECT toString(source_oid), toString(place), record FROM {} FINAL \
         WHERE slot = {} AND system_id = {}",
        qualified(database, TABLES),
        literal(&source.slot),
        source.system_id
    );
    let mut records = HashMap::new();
    for [oid, place, text] in server.strings::<3>(Attempt::ReadPosition, &sql).await? {
        let place: u128 = number(server, &place)?;
        // what cannot be read is as if it had not been written: the server's table is looked at instead
        if let Ok(record) = serde_json::from_str::<Record>(&text) {
            let (version, done) = (Version(place >> 1), place & 1 == 1);
            records.insert(number(server, &oid)?, Record { version, done, ..record });
        }
    }
    Ok(records)
}

pub(super) async fn write(
    server: &Server,
    database: &str,
    source: &SourceIdentity,
    record: &Record,
) -> Result<()> {
    // a version's upper half is an LSN, which never has its highest bit
    let place = record.version.0 << 1 | u128::from(record.done);
    let mut row = Vec::with_capacity(1024);
    put_string(&mut row, source.slot.as_bytes());
    row.extend_from_slice(&source.system_id.to_le_bytes());
    row.extend_from_slice(&record.table.oid.to_le_bytes());
    row.extend_from_slice(&place.to_le_bytes());
    let text = serde_json::to_string(record).unwrap_or_default();
    put_string(&mut row, text.as_bytes());
    let sql = format!(
        "INSERT INTO {} (slot, system_id, source_oid, place, record) FORMAT RowBinary",
        qualified(database, TABLES)
    );
    server.insert(Attempt::Alter(&record.table.name), &sql, Bytes::from(row)).await
}
