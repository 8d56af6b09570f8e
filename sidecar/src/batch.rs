//! What a target is given: the changes of whole transactions, or a part of a large one.

use std::sync::Arc;

use rsrepl_wire::{Lsn, OldRow, Relation, Row};

use crate::schema;

/// Changes in stream order, all of them after the target's position. Nothing but complete
/// transactions, except that a transaction larger than the batch limit comes in several batches, of
/// which only the last has a `commit`.
#[derive(Debug, Default)]
pub struct Batch {
    pub changes: Vec<Change>,
    /// Position after the last transaction of the batch, when the batch ends with a commit. Without
    /// it the target must show nothing that it could not take back (PostgreSQL: leave its own
    /// transaction open), and the next batch goes on.
    pub commit: Option<Position>,
    /// The transactions that the changes are of, in order; `lsn` is the `end_lsn` of the changes.
    pub ends: Vec<Position>,
    /// How many transactions end in the batch.
    pub transactions: u64,
    /// Bytes of the frames that the changes are slices of.
    pub bytes: usize,
    /// It is as large as batches get: more waits behind it.
    pub full: bool,
    /// Tables, by oid, that a sync has written to and perhaps altered: what is known of them is to be looked up
    /// again on the target before these changes.
    pub anew: Vec<u32>,
}

/// A place between two transactions of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// `end_lsn` of the transaction before it: everything that ends at or below it is applied.
    pub lsn: Lsn,
    /// Its commit time, microseconds since 2000-01-01 00:00:00 UTC.
    pub commit_time: i64,
    /// Its xid on the source.
    pub xid: u32,
}

/// One change of one table.
#[derive(Clone, Debug)]
pub struct Change {
    /// LSN of the change record. It rises within a transaction, but not from one to the next.
    pub lsn: Lsn,
    /// `end_lsn` of its transaction, which rises from one transaction of the stream to the next.
    pub end_lsn: Lsn,
    /// The table as it was at this change. The same table keeps the same `Arc` until it is altered. With
    /// [`Operation::Schema`] nothing but its oid and name.
    pub relation: Arc<Relation>,
    pub operation: Operation,
}

#[derive(Clone, Debug)]
pub enum Operation {
    Insert {
        new: Row,
    },
    Update {
        old: Option<OldRow>,
        new: Row,
    },
    Delete {
        old: OldRow,
    },
    /// One change for each table of the TRUNCATE, each with its own `relation`; CASCADE has already
    /// been resolved by the source.
    Truncate {
        restart_identity: bool,
        /// Others of its tables are left to another stream: a foreign key between the two does not let this one be
        /// truncated by itself.
        parted: bool,
    },
    /// The table is another one from here on, as the source's event trigger says. (Without the trigger, the
    /// `relation` of the next change shows it.)
    Schema(Arc<schema::Message>),
}

impl Batch {
    /// No changes: the source has nothing for the target up to `lsn`.
    pub fn progress(lsn: Lsn) -> Batch {
        Batch { commit: Some(Position { lsn, ..Position::default() }), ..Batch::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.commit.is_none()
    }
}
