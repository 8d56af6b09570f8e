//! The spool on disk: the entries of the log in files, in order, so that `confirm = "spooled"` may confirm what is
//! not on the targets yet.
//!
//! ```text
//! spool.dir/log/ lock
//!                spool.json                  whose it is: system, database, slot, timelines
//!                0000000000000001.segment    header, tables, entries …
//!                00000000000003e8.segment    the last one is written to
//! ```
//!
//! | module | subject |
//! |---|---|
//! | `record` | segments and records as bytes; pure (`docs/spool-format.md`) |
//! | `segment` | one file |
//! | `meta` | whose spool it is |
//! | `recover` | what is there at the start |
//! | `branch` | timelines; pure |
//! | `writer` | the thread that writes, synchronizes, and removes |
//! | `room` | a disk that is full; what is removed |
//! | `disk` | a reader that lags |
//! | `faults` | a disk that fails, for tests |
//!
//! # Segments
//!
//! A segment begins between two transactions, with a description of the tables known there (the source describes a
//! table once on each connection), so that a target can begin to read at any segment: that of its position. This is the
//! index: one entry for each segment.
//! A segment goes when every target has durably passed it. One transaction is never in two.
//!
//! # Durable
//!
//! One thread writes what has gathered, calls `fdatasync`, says so, and goes on with what has gathered meanwhile. A
//! `fdatasync` that fails is not tried again: nobody can say what is on the disk then. What was not known to be there
//! is cut off and the process ends; at the next start it comes again from the slot.
//!
//! # Cuts
//!
//! The part of a transaction that was cut off is taken away from the file, with everything that has been read of it
//! told by [`Item::Cut`](super::Item::Cut).

mod branch;
mod disk;
mod faults;
mod meta;
mod record;
mod recover;
mod room;
mod segment;
mod writer;

pub(super) use disk::{DiskReader, Place, tables};
pub(super) use faults::Failing;
#[cfg(test)]
pub(super) use faults::Faults;
pub(super) use meta::Meta;
pub use recover::Recovered;
pub(super) use writer::{Running, Writer};

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rsrepl_wire::Lsn;

use crate::error::{Error, Kind, Result};

/// What to do when something of a spool is gone.
const LOST: &str = "what is missing was confirmed to the slot, and does not come again: restore the folder as it was, \
     or remove it and load those targets anew that the log names then as behind the slot";

/// What to do when source and spool have gone different ways.
const RESYNC: &str = "what targets have of it differs from the source: remove the folder `log` of spool.dir, forget the targets' \
     positions and load the targets anew";

/// One file of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Sequence number of its first entry.
    pub(super) first: u64,
    /// Every transaction that ends at or below it is in earlier segments.
    pub(super) start: Lsn,
    /// Those of whole records.
    pub(super) bytes: u64,
}

/// What all who share a spool on disk know of it.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) dir: std::path::PathBuf,
    /// Oldest first; the last one is written to. There is one at least, once the source is known.
    pub(super) segments: VecDeque<Segment>,
    /// Bytes on disk from which no other transaction begins.
    pub(super) limit: u64,
    /// Bytes of entries that are not written.
    pub(super) unwritten: u64,
    /// Entries before it are being written, or are.
    pub(super) taken: u64,
    /// Entries before it are on the disk for good.
    pub(super) synced: u64,
    /// End of what is written.
    pub(super) end: Lsn,
    /// End of what is on the disk for good.
    pub(super) durable: Lsn,
    /// There is something that must not wait.
    pub(super) due: bool,
    /// Nor must progress.
    pub(super) prompt: bool,
    /// From this entry on, the source describes its tables anew.
    pub(super) anew: u64,
    /// How often something was cut off from the last segment.
    pub(super) cuts: u64,
    /// While something is cut off: the number of its first entry. What is behind is not to be read meanwhile.
    pub(super) cutting: Option<u64>,
    /// The oldest segment could not be removed; it is tried again then.
    pub(super) kept_until: Option<Instant>,
    /// It cannot be written to for now.
    pub(super) stuck: Option<String>,
    /// It will not be written to any more.
    pub(super) failed: Option<Arc<Error>>,
    /// The thread is to end.
    pub(super) finish: bool,
    pub(super) syncs: u64,
    pub(super) sync_time: Duration,
}

impl Files {
    /// Bytes on disk, and those that will be.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum::<u64>() + self.unwritten
    }

    /// The segment that has the entry of this number, or the first one behind it.
    pub(super) fn segment_of(&self, sequence: u64) -> Option<Segment> {
        let behind = self.segments.partition_point(|segment| segment.first <= sequence);
        self.segments.get(behind.saturating_sub(1)).copied()
    }

    /// The segment in which everything is that ends behind `position`.
    pub(super) fn segment_at(&self, position: Lsn) -> Option<Segment> {
        let behind = self.segments.partition_point(|segment| segment.start <= position);
        self.segments.get(behind.checked_sub(1)?).copied()
    }

    /// Why nothing more is taken.
    pub(super) fn failure(&self) -> Option<Error> {
        let error = self.failed.as_ref()?;
        Some(
            Error::new(Kind::Disk, "the spool cannot be written to any more")
                .because(error.clone()),
        )
    }
}

/// A size for segments, of which the limit has some.
pub(super) fn segment_size(limit: u64) -> u64 {
    (limit / 16).clamp(1 << 12, 64 << 20)
}

/// The content of a record of progress.
fn progress(content: &[u8]) -> Result<Lsn> {
    let bytes = content.try_into();
    let bytes = bytes.map_err(|_| Error::new(Kind::Frame, "a position of another length"))?;
    Ok(Lsn(u64::from_le_bytes(bytes)))
}
