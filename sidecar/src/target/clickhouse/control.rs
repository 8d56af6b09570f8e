//! `_rsrepl_control` on the server: a pause, and transactions that are to be skipped.

use std::time::SystemTime;

use bytes::Bytes;
use rsrepl_wire::Lsn;

use super::client::Server;
use super::ddl::{literal, qualified};
use super::failure::Attempt;
use super::options::ClickHouseOptions;
use super::position::{self, number};
use super::setup;
use super::types::put_string;
use crate::control::{ControlTarget, Record, RecordKind};
use crate::copy::Promise;
use crate::error::{Error, Kind, Result};

const CONTROL: &str = "_rsrepl_control";

/// See the module's documentation.
pub struct ClickHouseControl {
    options: ClickHouseOptions,
    slot: String,
    server: Option<Server>,
    /// Of the last record: of those of one key the last one counts.
    sequence: u64,
}

/// A record that was removed stays, with `removed`: what is deleted is deleted later.
fn create_statement(database: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (slot String, kind String, lsn UInt64, has_time UInt8, time Int64, \
         sequence UInt64, note String, removed UInt8) \
         ENGINE = ReplacingMergeTree(sequence) ORDER BY (slot, kind, lsn, has_time, time) \
         SETTINGS fsync_after_insert = 1, fsync_part_directory = 1",
        qualified(database, CONTROL)
    )
}

impl ClickHouseControl {
    pub fn new(options: ClickHouseOptions, slot: &str) -> Self {
        ClickHouseControl { options, slot: slot.to_owned(), server: None, sequence: 0 }
    }

    fn opened(&self) -> Result<&Server> {
        self.server.as_ref().ok_or_else(|| Error::new(Kind::Internal, "it is not open"))
    }

    async fn exists(&self) -> Result<bool> {
        let found = setup::describe(self.opened()?, &self.options.database, CONTROL).await?;
        Ok(found.is_some())
    }

    async fn all(&mut self) -> Result<Vec<Record>> {
        if !self.exists().await? {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT kind, toString(lsn), toString(has_time), toString(time), toString(sequence), note, toString(removed) \
             FROM {} FINAL WHERE slot = {} ORDER BY sequence",
            qualified(&self.options.database, CONTROL),
            literal(&self.slot)
        );
        let server = self.opened()?;
        let rows = server.strings::<7>(Attempt::ReadPosition, &sql).await?;
        let (mut records, mut last) = (Vec::new(), self.sequence);
        for [kind, lsn, has_time, time, sequence, note, removed] in rows {
            last = last.max(number(server, &sequence)?);
            if removed != "0" {
                continue;
            }
            let known = RecordKind::parse(&kind).ok_or_else(|| {
                let name = &self.options.name;
                let what = format!("target {name}: {CONTROL} says {kind:?}, which is not known");
                Error::new(Kind::Setup, what)
                    .hint("it was written by a later version of rsrepl: use that one")
            })?;
            let time = if has_time == "0" { None } else { Some(number(server, &time)?) };
            records.push(Record { kind: known, lsn: Lsn(number(server, &lsn)?), time, note });
        }
        self.sequence = last;
        Ok(records)
    }

    async fn write(&mut self, remove: &[Record], add: &[Record]) -> Result<()> {
        if !self.exists().await? {
            let sql = create_statement(&self.options.database);
            self.opened()?.execute(Attempt::Prepare, &sql).await.map_err(|error| {
                let hint = format!("run it by hand: {sql}");
                Error::new(error.kind(), error.what()).hint(hint)
            })?;
        }
        // what others have written is before it
        self.all().await?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_micros()).unwrap_or(0);
        self.sequence = now.max(self.sequence.saturating_add(1));
        let mut rows = Vec::new();
        // one block: all of them or none
        let added = |record: &Record| add.iter().any(|added| added.is_same(record));
        let removed = remove.iter().filter(|record| !added(record)).map(|record| (record, 1u8));
        for (record, removed) in removed.chain(add.iter().map(|record| (record, 0))) {
            put_string(&mut rows, self.slot.as_bytes());
            put_string(&mut rows, record.kind.as_str().as_bytes());
            rows.extend_from_slice(&record.lsn.0.to_le_bytes());
            rows.push(u8::from(record.time.is_some()));
            rows.extend_from_slice(&record.time.unwrap_or(0).to_le_bytes());
            rows.extend_from_slice(&self.sequence.to_le_bytes());
            put_string(&mut rows, record.note.as_bytes());
            rows.push(removed);
        }
        if rows.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "INSERT INTO {} (slot, kind, lsn, has_time, time, sequence, note, removed) FORMAT RowBinary",
            qualified(&self.options.database, CONTROL)
        );
        self.opened()?.insert(Attempt::WritePosition, &sql, Bytes::from(rows)).await
    }
}

impl ControlTarget for ClickHouseControl {
    fn open(&mut self) -> Promise<'_, ()> {
        Box::pin(async move {
            let prefix = format!("rsrepl-control:{}:", self.options.name);
            self.server = Some(Server::new(&self.options, prefix)?);
            Ok(())
        })
    }

    fn read(&mut self) -> Promise<'_, Vec<Record>> {
        Box::pin(self.all())
    }

    fn change<'a>(&'a mut self, remove: &'a [Record], add: &'a [Record]) -> Promise<'a, ()> {
        Box::pin(self.write(remove, add))
    }

    fn position(&mut self) -> Promise<'_, Option<Lsn>> {
        Box::pin(async move {
            position::look_up(self.opened()?, &self.options.database, &self.slot).await
        })
    }
}
