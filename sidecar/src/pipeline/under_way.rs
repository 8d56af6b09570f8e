//! What a target was given, until it is durable.

use std::collections::VecDeque;
use std::time::Instant;

use rsrepl_wire::Lsn;

use crate::assemble::Checkpoint;
use crate::batch::{Batch, Position};

/// Batches applied and not yet durable, at most, but for one more that ends a transaction: bounds what is
/// remembered of them.
pub(super) const APPLIED_MAX: usize = 4096;

/// First the batches being written, then those that are applied and not yet durable. Pure.
#[derive(Default)]
pub(super) struct UnderWay {
    writing: VecDeque<Written>,
    applied: VecDeque<Applied>,
    /// Bytes of frames in `applied`.
    bytes: usize,
    /// The last batch was a part of a transaction that goes on.
    open: bool,
}

/// A batch that was handed over, and what holds once it is applied.
pub(super) struct Written {
    pub rows: usize,
    pub transactions: u64,
    pub bytes: usize,
    pub commit: Option<Position>,
    /// With a commit.
    pub checkpoint: Option<Checkpoint>,
    pub since: Instant,
}

struct Applied {
    lsn: Lsn,
    bytes: usize,
    checkpoint: Checkpoint,
}

impl Written {
    /// A position alone.
    pub(super) fn is_progress(&self) -> bool {
        self.rows == 0 && self.transactions == 0
    }
}

impl UnderWay {
    pub(super) fn handed_over(&mut self, batch: &Batch, checkpoint: Option<Checkpoint>) {
        self.writing.push_back(Written {
            rows: batch.changes.len(),
            transactions: batch.transactions,
            bytes: batch.bytes,
            commit: batch.commit,
            checkpoint,
            since: Instant::now(),
        });
        self.open = batch.commit.is_none();
    }

    /// The part of a transaction was taken back.
    pub(super) fn taken_back(&mut self) {
        self.open = false;
    }

    /// The oldest batch has been applied; [`Self::wait_for`] is to be told of its checkpoint.
    pub(super) fn written(&mut self) -> Option<Written> {
        self.writing.pop_front()
    }

    /// `checkpoint` holds once everything up to `lsn` is durable.
    pub(super) fn wait_for(&mut self, lsn: Lsn, bytes: usize, checkpoint: Checkpoint) {
        self.bytes += bytes;
        self.applied.push_back(Applied { lsn, bytes, checkpoint });
    }

    /// Everything up to `lsn` is durable: the last checkpoint that holds now.
    pub(super) fn durable(&mut self, lsn: Lsn) -> Option<Checkpoint> {
        let mut last = None;
        while let Some(applied) = self.applied.pop_front_if(|applied| applied.lsn <= lsn) {
            self.bytes -= applied.bytes;
            last = Some(applied.checkpoint);
        }
        last
    }

    /// The last batch was a part of a transaction that goes on.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn is_writing(&self) -> bool {
        !self.writing.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writing.is_empty() && self.applied.is_empty()
    }

    /// So much waits to become durable that it is to be hurried.
    pub(super) fn is_full(&self) -> bool {
        self.applied.len() >= APPLIED_MAX
    }

    /// Whether more may be handed over: a transaction that was begun must come to its end, or its target
    /// could be unable to make anything durable.
    pub(super) fn has_room(&self) -> bool {
        self.open || !self.is_full()
    }

    /// Bytes of frames that are applied and not yet durable.
    pub(super) fn applied_bytes(&self) -> usize {
        self.bytes
    }
}
