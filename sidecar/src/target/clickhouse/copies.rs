//! `_rsrepl_copies` on the server: the chunks of an unfinished copy, and under which snapshot it stands.
//!
//! Rows of a chunk and its record are not one here. So a chunk is recorded twice: as begun before its first
//! row, and as done behind its last. What was begun and not done may have left rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rsrepl_wire::Lsn;

use super::client::Server;
use super::ddl::{literal, qualified};
use super::failure::Attempt;
use super::position::number;
use super::setup;
use super::types::put_string;
use crate::copy::{ChunkRecord, Pages, Snapshot, Written};
use crate::error::{Error, Kind, Result};
use crate::target::SourceIdentity;

const COPIES: &str = "_rsrepl_copies";

/// How far something is. By its name on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Of the copy itself, of table and leaf 0: everything before the snapshot has been caught up with.
    CaughtUp,
    Begun,
    /// Its table is being emptied.
    Emptied,
    Done,
    Forgotten,
}

impl State {
    const ALL: [State; 5] =
        [State::CaughtUp, State::Begun, State::Emptied, State::Done, State::Forgotten];

    const fn as_str(self) -> &'static str {
        match self {
            State::CaughtUp => "caught up",
            State::Begun => "begun",
            State::Emptied => "emptied",
            State::Done => "done",
            State::Forgotten => "forgotten",
        }
    }
}

/// What is recorded of the copy of one slot.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) caught_up: Option<Snapshot>,
    pub(super) chunks: Vec<(State, ChunkRecord)>,
}

impl Found {
    /// Of one table, in all states.
    pub(super) fn of(&self, oid: u32) -> Vec<ChunkRecord> {
        let of = self.chunks.iter().filter(|(_, chunk)| chunk.table == oid);
        of.map(|(_, chunk)| chunk.clone()).collect()
    }

    /// Everything that was begun is there as this snapshot has it.
    pub(super) fn is_whole(&self, lsn: Lsn) -> bool {
        let done = |(state, chunk): &(State, ChunkRecord)| {
            *state == State::Done && chunk.snapshot.lsn == lsn
        };
        self.caught_up.is_some_and(|snapshot| snapshot.lsn == lsn) && self.chunks.iter().all(done)
    }

    /// What can be built on. A table that was being emptied has to start over: its chunks are given a shape that
    /// no table has.
    pub(super) fn usable(&self) -> Vec<ChunkRecord> {
        let usable = |(state, chunk): &(State, ChunkRecord)| {
            let mut chunk = chunk.clone();
            match state {
                State::Begun => chunk.snapshot = chunk.snapshot.begun(),
                State::Emptied => chunk.shape.clear(),
                State::CaughtUp | State::Done | State::Forgotten => {}
            }
            chunk
        };
        self.chunks.iter().map(usable).collect()
    }
}

/// Writes the records of a stream.
#[derive(Clone)]
pub(super) struct Copies {
    server: Server,
    database: Arc<str>,
    slot: Arc<str>,
    system_id: u64,
    /// Of the last record: of those of one chunk the last one counts.
    sequence: Arc<AtomicU64>,
}

pub(super) fn create_statement(database: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (slot String, system_id UInt64, source_oid UInt32, leaf UInt32, \
         first_page UInt32, end_page Nullable(UInt32), sequence UInt64, state String, lsn UInt64, \
         xmin UInt64, filenode UInt32, shape String, rows UInt64, bytes UInt64) \
         ENGINE = ReplacingMergeTree(sequence) \
         ORDER BY (slot, system_id, source_oid, leaf, first_page) \
         SETTINGS fsync_after_insert = 1, fsync_part_directory = 1",
        qualified(database, COPIES)
    )
}

/// Whether there is a table for it.
pub(super) async fn are_kept(server: &Server, database: &str) -> Result<bool> {
    Ok(setup::describe(server, database, COPIES).await?.is_some())
}

/// Refuses to stream to a target that a copy has been begun to.
pub(super) async fn check_none(
    server: &Server,
    database: &str,
    source: &SourceIdentity,
) -> Result<()> {
    if !are_kept(server, database).await? {
        return Ok(());
    }
    let (_, found) = Copies::open(server, database, source).await?;
    if found.caught_up.is_none() {
        return Ok(());
    }
    let message = format!("target {}: an initial copy to it is not finished", server.name());
    Err(Error::new(Kind::Setup, message).hint(format!(
        "set copy.data = true, or run `rsrepl copy -c FILE`; to give it up: TRUNCATE TABLE {}, and empty the tables",
        qualified(database, COPIES)
    )))
}

impl Copies {
    /// Reads what there is of the stream.
    pub(super) async fn open(
        server: &Server,
        database: &str,
        source: &SourceIdentity,
    ) -> Result<(Copies, Found)> {
        let copies = Copies {
            server: server.clone(),
            database: database.into(),
            slot: source.slot.as_str().into(),
            system_id: source.system_id,
            sequence: Arc::default(),
        };
        let sql = format!(
            "SELECT toString(sequence), state, toString(source_oid), toString(leaf), \
             toString(first_page), ifNull(toString(end_page), ''), toString(lsn), toString(xmin), \
             toString(filenode), shape FROM {} FINAL WHERE slot = {} AND system_id = {}",
            qualified(database, COPIES),
            literal(&source.slot),
            source.system_id
        );
        let mut found = Found::default();
        for row in server.strings::<10>(Attempt::ReadPosition, &sql).await? {
            copies.found(row, &mut found)?;
        }
        Ok((copies, found))
    }

    fn found(&self, row: [String; 10], found: &mut Found) -> Result<()> {
        let [sequence, state, table, leaf, first, end, lsn, xmin, filenode, shape] = row;
        let server = &self.server;
        self.sequence.fetch_max(number(server, &sequence)?, Ordering::Relaxed);
        let snapshot = Snapshot { lsn: Lsn(number(server, &lsn)?), xmin: number(server, &xmin)? };
        let known = State::ALL.into_iter().find(|known| known.as_str() == state);
        let state = known.ok_or_else(|| {
            Error::new(
                Kind::Setup,
                format!("target {}: {COPIES} says {state:?}, which is not known", server.name()),
            )
            .hint("it was written by a later version of rsrepl: use that one")
        })?;
        match state {
            State::CaughtUp => found.caught_up = Some(snapshot),
            State::Forgotten => {}
            State::Begun | State::Emptied | State::Done => {
                let end = if end.is_empty() { None } else { Some(number(server, &end)?) };
                let chunk = ChunkRecord {
                    table: number(server, &table)?,
                    shape,
                    leaf: number(server, &leaf)?,
                    filenode: number(server, &filenode)?,
                    pages: Pages { first: number(server, &first)?, end },
                    snapshot,
                };
                found.chunks.push((state, chunk));
            }
        }
        Ok(())
    }

    pub(super) async fn caught_up(&self, snapshot: Snapshot) -> Result<()> {
        self.write(State::CaughtUp, &[of_copy(snapshot)], Written::default()).await
    }

    pub(super) async fn begun(&self, chunk: &ChunkRecord) -> Result<()> {
        self.write(State::Begun, std::slice::from_ref(chunk), Written::default()).await
    }

    pub(super) async fn emptied(&self, chunks: &[ChunkRecord]) -> Result<()> {
        self.write(State::Emptied, chunks, Written::default()).await
    }

    pub(super) async fn done(&self, chunk: &ChunkRecord, written: Written) -> Result<()> {
        self.write(State::Done, std::slice::from_ref(chunk), written).await
    }

    pub(super) async fn forget(&self, chunks: &[ChunkRecord]) -> Result<()> {
        self.write(State::Forgotten, chunks, Written::default()).await
    }

    /// The copy is finished: nothing of it is left.
    pub(super) async fn end(&self, found: &Found) -> Result<()> {
        let mut all: Vec<_> = found.chunks.iter().map(|(_, chunk)| chunk.clone()).collect();
        all.extend(found.caught_up.map(of_copy));
        self.forget(&all).await
    }

    async fn write(&self, state: State, chunks: &[ChunkRecord], written: Written) -> Result<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        let mut rows = Vec::with_capacity(256 * chunks.len());
        for chunk in chunks {
            put_string(&mut rows, self.slot.as_bytes());
            rows.extend_from_slice(&self.system_id.to_le_bytes());
            rows.extend_from_slice(&chunk.table.to_le_bytes());
            rows.extend_from_slice(&chunk.leaf.to_le_bytes());
            rows.extend_from_slice(&chunk.pages.first.to_le_bytes());
            rows.push(chunk.pages.end.is_none().into());
            rows.extend(chunk.pages.end.into_iter().flat_map(u32::to_le_bytes));
            let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
            rows.extend_from_slice(&sequence.to_le_bytes());
            put_string(&mut rows, state.as_str().as_bytes());
            rows.extend_from_slice(&chunk.snapshot.lsn.0.to_le_bytes());
            rows.extend_from_slice(&chunk.snapshot.xmin.to_le_bytes());
            rows.extend_from_slice(&chunk.filenode.to_le_bytes());
            put_string(&mut rows, chunk.shape.as_bytes());
            rows.extend_from_slice(&written.rows.to_le_bytes());
            rows.extend_from_slice(&written.bytes.to_le_bytes());
        }
        let sql = format!(
            "INSERT INTO {} (slot, system_id, source_oid, leaf, first_page, end_page, sequence, state, \
             lsn, xmin, filenode, shape, rows, bytes) FORMAT RowBinary",
            qualified(&self.database, COPIES)
        );
        self.server.insert(Attempt::WritePosition, &sql, Bytes::from(rows)).await
    }
}

/// The record of the copy itself, of no table.
fn of_copy(snapshot: Snapshot) -> ChunkRecord {
    ChunkRecord {
        table: 0,
        shape: String::new(),
        leaf: 0,
        filenode: 0,
        pages: Pages { first: 0, end: None },
        snapshot,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_may_be_there_in_part() {
        let chunk = |table: u32, first: u32| ChunkRecord {
            table,
            shape: "s".into(),
            leaf: table,
            filenode: 1,
            pages: Pages { first, end: None },
            snapshot: Snapshot { lsn: Lsn(1), xmin: 1 },
        };
        let found = Found {
            caught_up: None,
            chunks: vec![
                (State::Done, chunk(1, 0)),
                (State::Begun, chunk(1, 8)),
                (State::Begun, chunk(2, 0)),
                (State::Done, chunk(3, 0)),
                (State::Emptied, chunk(3, 8)),
                (State::Done, chunk(4, 0)),
            ],
        };
        let usable = found.usable().into_iter();
        let usable: Vec<_> =
            usable.map(|c| (c.table, c.pages.first, c.shape, c.snapshot.xmin)).collect();
        let shown =
            |table: u32, first: u32, shape: &str, xmin: u64| (table, first, shape.to_owned(), xmin);
        let expected = [
            shown(1, 0, "s", 1),
            shown(1, 8, "s", 0),
            shown(2, 0, "s", 0),
            shown(3, 0, "s", 1),
            shown(3, 8, "", 1),
            shown(4, 0, "s", 1),
        ];
        assert_eq!(usable, expected);
        assert_eq!(found.of(3).len(), 2);
    }
}
