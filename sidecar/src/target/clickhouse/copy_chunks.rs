//! The rows of a chunk into one table, the way of every INSERT.

use std::collections::HashMap;
use std::sync::Arc;

use rsrepl_wire::Row;
use tokio::sync::watch;

use super::copies::Copies;
use super::encode::{Item, put_key};
use super::insertion::Inlet;
use super::plan::Layout;
use super::recent::Key;
use super::toast;
use super::version::Version;
use super::write::{Before, Context, Step, Table, Writer};
use crate::batch::{Operation, Position};
use crate::copy::tuples::Tuples;
use crate::copy::{Chunk, ChunkRecord, ChunkWriter, Promise, Rows, Written};
use crate::error::{Error, Kind, Result};

/// Bytes of rows that are encoded at a time: too few cost a thread's wake-up each, many take memory.
const ENCODED: usize = 1 << 20;

/// Keys that are looked up at a time.
const LOOKED_UP: usize = 8192;

/// Rows that a page can have at most: `MaxHeapTuplesPerPage` where pages are of 32 KiB, the largest.
const PAGE_ROWS_MAX: u64 = 1169;
/// Bits for the place of a row in a leaf: that of 2^32 pages.
const PLACE_BITS: u32 = 43;
/// Leaves of a table whose rows are told apart by their place.
const LEAVES_MAX: u64 = 1 << (63 - PLACE_BITS);
const _: () = assert!(PAGE_ROWS_MAX << 32 < 1 << PLACE_BITS);

/// See [`ChunkWriter`].
pub(super) struct Chunks {
    pub(super) context: Context,
    pub(super) copies: Copies,
    /// By oid.
    pub(super) tables: Arc<HashMap<u32, Arc<Table>>>,
    /// When the snapshot was taken: microseconds since 2000-01-01.
    pub(super) at: i64,
}

impl ChunkWriter for Chunks {
    fn write<'a>(&'a mut self, chunk: &'a Chunk, rows: Rows) -> Promise<'a, Written> {
        Box::pin(async move {
            let relation = &chunk.table.relation;
            let unknown = || Error::new(Kind::Internal, format!("{relation} was not accepted"));
            let table = Arc::clone(self.tables.get(&relation.oid).ok_or_else(unknown)?);
            let record = ChunkRecord::of(chunk);
            let next = first_place(chunk, table.plan.layout)?;
            // what is recorded of it holds until it is done: rows of a later snapshot harm nothing
            if chunk.since.is_none() {
                self.copies.begun(&record).await?;
            }
            let inlet = Inlet::default();
            let again = chunk.since.is_some() && table.plan.layout == Layout::History;
            let keyed = table.plan.columns.iter().any(|column| column.key);
            let left_out = again && keyed;
            let mut filling = Filling { chunks: self, table, chunk, inlet, next, left_out };
            let written = filling.fill(rows).await?;
            if let Some(mut insertion) = filling.inlet.insertion.take() {
                insertion.end(&self.context.server).await?;
            }
            self.copies.done(&record, written).await?;
            Ok(written)
        })
    }
}

/// Where rows have to stay apart, what the version of the first one has of its place.
fn first_place(chunk: &Chunk, layout: Layout) -> Result<Option<u64>> {
    if layout == Layout::Keyed {
        return Ok(None);
    }
    let leaf = chunk.table.leaves.iter().position(|leaf| leaf.oid == chunk.leaf.oid);
    let leaf = leaf.map_or(u64::MAX, |leaf| leaf as u64);
    if leaf >= LEAVES_MAX {
        let message = format!("{} has more than {LEAVES_MAX} partitions", chunk.table.relation);
        return Err(Error::new(Kind::Setup, message));
    }
    Ok(Some((leaf << PLACE_BITS) + u64::from(chunk.pages.first) * PAGE_ROWS_MAX))
}

/// A chunk that is being written.
struct Filling<'a> {
    chunks: &'a Chunks,
    table: Arc<Table>,
    chunk: &'a Chunk,
    inlet: Inlet,
    /// Of the next row.
    next: Option<u64>,
    /// Rows with keys that are there would count twice.
    left_out: bool,
}

impl Filling<'_> {
    async fn fill(&mut self, mut rows: Rows) -> Result<Written> {
        let mut tuples = Tuples::new(self.chunk.table.relation.columns.len());
        let mut written = Written::default();
        while let Some(piece) = rows.next().await? {
            tuples.push(&piece)?;
            written.bytes += piece.len() as u64;
            if tuples.bytes() >= ENCODED {
                written.rows += tuples.len() as u64;
                self.put(tuples.take()).await?;
            }
        }
        tuples.finish()?;
        written.rows += tuples.len() as u64;
        self.put(tuples.take()).await?;
        Ok(written)
    }

    async fn put(&mut self, rows: impl Iterator<Item = Row>) -> Result<()> {
        let mut items: Vec<Item> = rows.map(|new| self.item(new)).collect();
        if self.left_out {
            items = self.not_there(items).await?;
        }
        let before = Before(watch::channel(true).1);
        let (context, inlet) = (self.chunks.context.clone(), std::mem::take(&mut self.inlet));
        let table = Arc::clone(&self.table);
        let writer = Writer { context, before, inlet };
        self.inlet = writer.run(vec![Step::Rows { table, items }]).await?;
        Ok(())
    }

    /// Without those of which a row was copied before that nothing has taken away since.
    async fn not_there(&self, items: Vec<Item>) -> Result<Vec<Item>> {
        let Context { server, database, .. } = &self.chunks.context;
        let mut keyed = Vec::with_capacity(items.len());
        for item in items {
            let mut key = Vec::new();
            if let Operation::Insert { new } = &item.operation {
                put_key(&self.table.plan, &item, new, None, &mut key)?;
            }
            keyed.push((Key::from(key), item));
        }
        let mut left = Vec::with_capacity(keyed.len());
        while !keyed.is_empty() {
            let rest = keyed.split_off(keyed.len().min(LOOKED_UP));
            let keys = keyed.iter().map(|(key, _)| key.clone()).collect();
            let there = toast::copied(server, database, &self.table.plan, &keys).await?;
            let new = keyed.into_iter().filter(|(key, _)| !there.contains(key));
            left.extend(new.map(|(_, item)| item));
            keyed = rest;
        }
        Ok(left)
    }

    fn item(&mut self, new: Row) -> Item {
        let lsn = self.chunk.snapshot.lsn;
        let place = self.next.unwrap_or_default();
        self.next = self.next.map(|place| place + 1);
        // of no transaction
        let transaction = Position { lsn, commit_time: self.chunks.at, xid: 0 };
        let operation = Operation::Insert { new };
        Item { lsn, version: Version::copied(lsn, place), transaction, operation }
    }
}

#[cfg(test)]
mod tests {
    use rsrepl_wire::{Lsn, Relation, ReplicaIdentity};

    use super::*;
    use crate::copy::{CopiedTable, Form, Format, Leaf, Pages, Snapshot};

    #[test]
    fn places_stay_apart() {
        let leaf = |oid| Leaf {
            oid,
            schema: "s".into(),
            name: format!("l{oid}"),
            filenode: 1,
            pages: u32::MAX,
            bytes: 0,
            attributes: Vec::new(),
            shape: String::new(),
        };
        let relation = Relation {
            oid: 1,
            schema: "s".into(),
            name: "t".into(),
            replica_identity: ReplicaIdentity::Full,
            columns: Vec::new(),
        };
        let table = Arc::new(CopiedTable {
            changes: true,
            relation: Arc::new(relation),
            leaves: vec![leaf(7), leaf(3)],
            filter: None,
            whole: true,
        });
        let first = |oid: u32, first: u32| {
            let chunk = Chunk {
                table: Arc::clone(&table),
                leaf: leaf(oid),
                pages: Pages { first, end: None },
                snapshot: Snapshot { lsn: Lsn(1), xmin: 1 },
                since: None,
                form: Form { format: Format::Binary, columns: Vec::new() },
            };
            first_place(&chunk, Layout::Log).unwrap()
        };
        assert_eq!(first(7, 0), Some(0));
        assert!(first(7, 1) >= first(7, 0).map(|place| place + PAGE_ROWS_MAX));
        assert!(first(3, 0) >= first(7, u32::MAX).map(|place| place + PAGE_ROWS_MAX));
        assert!(first(3, u32::MAX).unwrap() < 1 << 63);
    }
}
