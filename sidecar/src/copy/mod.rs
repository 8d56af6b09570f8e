//! The initial copy: a stage of a pipeline, before its stream.
//!
//! ```text
//! slot ─► exported snapshot at p ─► tables ─► chunks ─┬─► worker: COPY … TO STDOUT ─┬─► writer of target A
//!                                                     ├─► worker  (one read for all)└─► writer of target B
//!                                                     └─► …
//! all chunks there ─► position p on each target ─► the stream starts from p
//! ```
//!
//! # Rounds
//!
//! A *round* is what is copied under one snapshot. Exactly what commits before its LSN p is visible in it,
//! and everything else comes in the stream behind p. A copy that is cut short (or whose snapshot grows older
//! than `copy.max_snapshot_age`) goes on with another round, under a new snapshot at a later p, from what
//! the targets have *recorded*:
//!
//! 1. The slot's stream from the end of the round before up to the new p is read, and what it deletes is
//!    deleted ([`CopyTarget::catch_up`]): of an UPDATE the old row, of an INSERT nothing. What is left on a
//!    target are rows that are so in the new snapshot.
//! 2. Each target records that it has got there ([`CopyTarget::caught_up`]), before any chunk of the new
//!    round: deletes must never meet rows that are newer than they are.
//! 3. Chunks that are not recorded are copied. When all are, those that an earlier round copied get the rows
//!    that were written since: those of which `xmin` is not older than the earlier snapshot's. Rows that are
//!    there already are left alone.
//!
//! The rows of a chunk and its record come together. So after any crash the records say what is there.
//!
//! Nothing is confirmed to the slot before the copy is finished: what the stream has to bring is kept.
//!
//! | module | subject |
//! |---|---|
//! | `plan` | tables into chunks, and what is left of them to be done (pure) |
//! | `snapshot` | an exported snapshot and the session that keeps it |
//! | `tables` | what is to be copied, from the source's catalogs |
//! | `reader` | sessions that read the source under the snapshot |
//! | `rows` | the bytes of a chunk on their way to the writers, and the room that they take |
//! | `columns` | how columns come in a COPY that is converted here (pure) |
//! | `tuples` | COPY in binary as rows of the wire (pure) |
//! | `catch_up` | what the stream takes away between two rounds |
//! | `stage` | the rounds |
//! | `site` | a target, and what is left to be done for all of them |
//! | `workers` | chunks, several at the same time |
//! | `progress` | how far it is |
//! | `show` | the same for people: rates, lines in the log, reports |
//! | `bars` | the same on a terminal |

mod bars;
mod catch_up;
pub(crate) mod columns;
mod plan;
mod progress;
mod reader;
mod rows;
pub mod show;
mod site;
mod snapshot;
mod stage;
mod tables;
pub(crate) mod tuples;
mod workers;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use rsrepl_wire::{Lsn, Relation};

pub use plan::Pages;
pub use progress::{Progress, TableProgress};
pub use rows::{Held, PIECE, PIECES, Room, Rows, RowsSender, WAITING};
pub use stage::{Stage, When};

use crate::batch::Change;
use crate::error::Result;
use crate::target::SourceIdentity;

/// What an asynchronous method of the traits returns: they are used as trait objects.
pub type Promise<'a, T> = BoxFuture<'a, Result<T>>;

/// The way out when what an unfinished copy needs is gone.
const BEGIN_ANEW: &str = "empty the targets' tables, remove what is recorded of the copy (PostgreSQL: DELETE FROM \
     rsrepl.copies; DELETE FROM rsrepl.copied_chunks; ClickHouse: DROP TABLE _rsrepl_copies), and start again";

/// A snapshot of the source, in a form that can be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Snapshot {
    /// Exactly what commits before it is visible.
    pub lsn: Lsn,
    /// `pg_snapshot_xmin(pg_current_snapshot())`: every transaction that is not visible is this one or a
    /// later one.
    pub xmin: u64,
}

impl Snapshot {
    /// Of a chunk that was begun under this one, and of which nobody knows how much is there: what is written
    /// since is all of it.
    pub fn begun(self) -> Snapshot {
        Snapshot { xmin: 0, ..self }
    }

    /// It is one of [`begun`](Self::begun).
    pub fn is_begun(self) -> bool {
        self.xmin == 0
    }
}

/// A table that is copied, as it is shown in the stream.
#[derive(Clone, Debug)]
pub struct CopiedTable {
    /// As the stream describes it, with the columns that are published. Of a partitioned table that is
    /// published as such, the root.
    pub relation: Arc<Relation>,
    /// Where its rows are: the table itself, or its partitions.
    pub leaves: Vec<Leaf>,
    /// The row filter of its publications, an SQL condition.
    pub filter: Option<String>,
    /// It has no other columns than those that are shown.
    pub whole: bool,
    /// UPDATEs and DELETEs of its rows are published.
    pub changes: bool,
}

impl CopiedTable {
    /// The stream says which rows are gone, and they can be told apart.
    pub fn is_keyed(&self) -> bool {
        self.changes && self.relation.columns.iter().any(|column| column.key)
    }
}

/// A relation with rows of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// `pg_relation_filenode`: another one means other row addresses.
    pub filenode: u32,
    /// Pages that it has now.
    pub pages: u32,
    /// Bytes of them and of the values that are stored out of line.
    pub bytes: u64,
    /// The columns that are read, as its own catalog rows have them.
    pub attributes: Vec<Attribute>,
    /// Changes with everything that chunks copied earlier depend on: the columns and what is read of them,
    /// and whether the leaf has left the table, or the publications, in between.
    pub shape: String,
}

/// A column of a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    pub name: String,
    /// `attnum`: another column of the same name has another one.
    pub number: i16,
    /// Of a domain that of its base type, as a server describes what a SELECT returns.
    pub type_oid: u32,
}

impl Leaf {
    /// Pages of a chunk of so many bytes.
    fn pages_of(&self, bytes: u64) -> u32 {
        let pages = u128::from(bytes) * u128::from(self.pages) / u128::from(self.bytes.max(1));
        u32::try_from(pages).unwrap_or(u32::MAX).max(1)
    }
}

/// How a target wants the rows of a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Form {
    pub format: Format,
    /// One for each column of the relation.
    pub columns: Vec<ColumnForm>,
}

/// Of COPY.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    Binary,
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColumnForm {
    /// Not read.
    Omit,
    /// As its type is sent.
    Native,
    /// The text of its output function, also in a binary COPY.
    Text,
}

/// Rows of a leaf that are copied together.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub table: Arc<CopiedTable>,
    pub leaf: Leaf,
    pub pages: Pages,
    /// The snapshot that it is read under.
    pub snapshot: Snapshot,
    /// It was copied, or begun, under this snapshot: these are the rows that were written since, and some that
    /// the target has already. With the key of what is there they are left out.
    pub since: Option<Snapshot>,
    pub form: Form,
}

/// A chunk that a target has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRecord {
    /// `oid` of the table as it is shown in the stream.
    pub table: u32,
    /// [`Leaf::shape`].
    pub shape: String,
    /// [`Leaf::oid`].
    pub leaf: u32,
    /// [`Leaf::filenode`].
    pub filenode: u32,
    pub pages: Pages,
    /// The snapshot that it was read under, the last time; [`begun`](Snapshot::begun), when only some of its rows
    /// may be there.
    pub snapshot: Snapshot,
}

impl ChunkRecord {
    /// What is to be recorded with a chunk.
    pub fn of(chunk: &Chunk) -> ChunkRecord {
        ChunkRecord {
            table: chunk.table.relation.oid,
            shape: chunk.leaf.shape.clone(),
            leaf: chunk.leaf.oid,
            filenode: chunk.leaf.filenode,
            pages: chunk.pages,
            snapshot: chunk.snapshot,
        }
    }
}

/// What a target has recorded of an unfinished copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    /// What [`CopyTarget::caught_up`] said last.
    pub caught_up: Snapshot,
    /// No two of one leaf overlap; none is of a later snapshot than `caught_up`.
    pub chunks: Vec<ChunkRecord>,
}

/// How a target stands to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has a position: nothing is to be copied.
    Positioned(Lsn),
    /// Neither position nor records.
    New,
    /// A copy has begun and is not finished.
    Unfinished(Records),
}

/// A target that takes the rows that the source has when the stream begins.
///
/// # Durability
///
/// What a method or a [`ChunkWriter`] has returned `Ok` for is there after any crash. After an error, or when
/// the process died, it may or may not be there; `open` tells. A chunk that is written again after its record
/// was lost must not double its rows.
///
/// The methods are called by one task, in the order in which they stand here; writers are used by others
/// between `caught_up` and `finish`. After an error the next call is `open`.
pub trait CopyTarget: Send {
    /// As configured.
    fn name(&self) -> &str;

    /// Connects (anew), makes what it needs for records and checks that what is recorded is of `source`. What a
    /// predecessor, or a writer, has under way is at its end when this returns: nothing of it comes later. Also
    /// called between passes of a round, which then goes on with what `accept` was told.
    /// Errors as [`Target::open`](crate::target::Target::open) gives them.
    fn open<'a>(&'a mut self, source: &'a SourceIdentity) -> Promise<'a, Standing>;

    /// Whether it can take these tables, and how it wants the rows of each, in their order; makes missing
    /// tables if it may, as the snapshot of the source has them that is exported by this name and shows what commits
    /// before this LSN. A table of which there is no record at all must be empty, unless writing its rows
    /// twice does no harm.
    ///
    /// # Errors
    /// [`Kind::Setup`] with everything that is wrong, of all tables.
    fn accept<'a>(
        &'a mut self,
        tables: &'a [Arc<CopiedTable>],
        exported: (&'a str, Lsn),
    ) -> Promise<'a, Vec<Form>>;

    /// Empties a table and forgets its records; with `None` it is no table of the source any more, or one that `accept`
    /// will empty, and its records are forgotten alone. Before or between calls of `catch_up`.
    fn start_over<'a>(&'a mut self, oid: u32, table: Option<&'a CopiedTable>) -> Promise<'a, ()>;

    /// A table that was asked for is none of the source's any more, by `at`: it is treated as `schema_changes` says of a DROP
    /// TABLE. Behind `accept`.
    fn dropped(&mut self, oid: u32, at: Lsn) -> Promise<'_, ()>;

    /// Deletes what `changes` take away: the old row of an UPDATE (which has that of its key, or is the new
    /// one where the key is the same), a row that is deleted. A row that is not there is none of its
    /// business; INSERTs say nothing. There is no TRUNCATE in it, nor a table without chunks, and every
    /// table has a key and the columns that it had when `accept` was asked.
    fn catch_up(&mut self, changes: Vec<Change>) -> Promise<'_, ()>;

    /// Records that everything up to `snapshot` has been through `catch_up`; the first time, that a copy
    /// has begun.
    fn caught_up(&mut self, snapshot: Snapshot) -> Promise<'_, ()>;

    /// A session that chunks are written with, beside those of other numbers, from 0 on.
    fn writer(&self, number: usize) -> Promise<'_, Box<dyn ChunkWriter>>;

    /// Everything is copied: makes what was left for then, and stores `position` as the target's, and that the
    /// copy is finished, in one. The snapshot may be gone.
    ///
    /// # Errors
    /// When `caught_up` has recorded another snapshot than that of `position`: somebody else copies too.
    fn finish(&mut self, position: Lsn) -> Promise<'_, ()>;
}

/// Writes chunks, one after the other. After an error it is dropped.
pub trait ChunkWriter: Send {
    /// Writes the rows and [`ChunkRecord::of`] the chunk, in the place of the record that it may have.
    fn write<'a>(&'a mut self, chunk: &'a Chunk, rows: Rows) -> Promise<'a, Written>;
}

/// What a writer has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub rows: u64,
    pub bytes: u64,
}
