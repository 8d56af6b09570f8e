//! One session's place in the stream: what it has gathered, given and seen stored. It decides nothing.

use std::time::{Duration, Instant};

use rsrepl_wire::Lsn;

use super::super::under_way::UnderWay;
use crate::assemble::{Assembler, Checkpoint, Progress};
use crate::batch::{Batch, Position};
use crate::config::BatchLimits;
use crate::status::TargetState;

/// Progress without changes is stored on a target at least this often (and so confirmed to the slot),
/// or when it has grown by [`PROGRESS_BYTES`], or at once when the source waits for it.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// WAL bytes without changes after which progress is stored before its time.
const PROGRESS_BYTES: u64 = 16 << 20;

/// Bytes of frames in one batch, whatever the number of rows: bounds the memory of a target.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// One session's place in the stream.
pub(super) struct Session {
    /// The source's timeline, which positions are stored with.
    pub(super) timeline: u32,
    pub(super) assembler: Assembler,
    pub(super) under_way: UnderWay,
    /// What the assembler has given out and the target has not got: it waits for another stream.
    pub(super) held_back: Option<(Batch, Option<Checkpoint>)>,
    /// The table that it waits for, when another one of its name has come.
    pub(super) clash: Option<String>,
    /// A generation of the share, and what was given before it.
    pub(super) settling: Option<(u64, Lsn)>,
    /// The end of what the target was last told to hurry with.
    pub(super) hurried: Lsn,
    /// The end of what the target was given.
    pub(super) given: Lsn,
    pub(super) given_at: Instant,
    /// The end of what the target shows.
    pub(super) applied: Lsn,
    /// The end of what is durable on the target.
    pub(super) stored: Lsn,
    /// Since when a whole transaction has waited.
    pub(super) waiting_since: Option<Instant>,
    /// The last look into the spool found nothing to do.
    pub(super) was_idle: bool,
    /// The spool is closed and has been read to its end, or what is left of it waits.
    pub(super) ended: bool,
    /// What has gathered may not be given out any more, and is gathered anew. A transaction of which a part was given
    /// out is taken back with that.
    pub(super) turns: bool,
    /// What was last said of a transaction that waits.
    pub(super) said: Option<(TargetState, Option<Position>)>,
}

impl Session {
    /// Of a target that has just been opened, and has `stored`.
    pub(super) fn new(timeline: u32, assembler: Assembler, stored: Lsn) -> Session {
        Session {
            timeline,
            assembler,
            under_way: UnderWay::default(),
            held_back: None,
            clash: None,
            settling: None,
            hurried: stored,
            given: stored,
            given_at: Instant::now(),
            applied: stored,
            stored,
            waiting_since: None,
            was_idle: false,
            ended: false,
            turns: false,
            // nothing of a session before
            said: Some((TargetState::Starting, None)),
        }
    }

    /// A batch is full: whole transactions, or a part of a large one.
    pub(super) fn is_full(&self, limits: BatchLimits) -> bool {
        let (rows, bytes) = (self.assembler.rows(), self.assembler.bytes());
        let full = rows >= limits.rows || bytes >= BATCH_BYTES_MAX;
        full && (rows > 0 || self.assembler.has_whole())
    }

    /// More may be taken from the spool, if nothing that was taken waits.
    pub(super) fn gathers(&self, limits: BatchLimits) -> bool {
        !self.ended && !self.turns && !self.is_full(limits)
    }

    pub(super) fn is_idle(&self, received: Lsn) -> bool {
        let nothing = self.assembler.rows() == 0 && !self.assembler.has_whole();
        let nothing = nothing && self.assembler.held().is_none();
        let nothing = nothing && self.held_back.is_none();
        nothing && !self.under_way.is_writing() && self.reached() >= received
    }

    /// All that was received up to here was given, or was none of the target's.
    pub(super) fn reached(&self) -> Lsn {
        let progress = self.assembler.progress().filter(|_| self.held_back.is_none());
        progress.map_or(self.given, |progress| progress.lsn.max(self.given))
    }

    pub(super) fn is_due(&self, progress: Progress) -> bool {
        progress.urgent
            || self.given_at.elapsed() >= PROGRESS_INTERVAL
            || progress.lsn.0.saturating_sub(self.given.0) >= PROGRESS_BYTES
    }

    /// When there will be something to hand over if nothing else happens.
    pub(super) fn wake(&self, linger: Duration) -> Option<Instant> {
        match (self.waiting_since, self.assembler.progress()) {
            (Some(since), _) => Some(since + linger),
            (None, Some(_)) => Some(self.given_at + PROGRESS_INTERVAL),
            (None, None) => None,
        }
        // what has waited long enough waits for room, and so for an event
        .filter(|at| *at > Instant::now())
    }
}
