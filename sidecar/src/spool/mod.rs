//! The spool: what was received and not yet applied everywhere, read by each target on its own.
//!
//! An append-only log of [`Item`]s with one [`Reader`] per target. A reader has two places in it: where
//! it reads next, and its *checkpoint*, the place from which it would have to read again if its
//! target failed now. What every reader has passed with its checkpoint is dropped.
//!
//! # Bounded
//!
//! At `limit` bytes the spool first gives up what every reader has read but not yet checkpointed (the
//! head of a large transaction): a reader that then has to go back finds it evicted and asks for a
//! *rewind*, that is, for the source to send again from the slot's confirmed position. If that frees
//! nothing, `append` waits: the slowest reader holds up the slot, and nothing is dropped.
//!
//! # Cuts
//!
//! The log is never rewritten. When the connection to the source breaks inside a transaction, or for a
//! rewind, a [`Item::Cut`] says that the transaction under way will not go on; it comes again, whole.
//!
//! # Transactions in progress
//!
//! What is streamed of a transaction before it commits is not part of the log: it waits in a file
//! ([`Streams`]). With its commit it becomes one entry of the log, which a reader reads as if the
//! transaction had come whole, from the file and piece by piece. Such an entry counts as few bytes; all
//! files together have a limit of their own.
//!
//! # In memory, or on disk
//!
//! By default the log lives in memory. With `confirm = "spooled"` it is also on disk ([`log`]): everything is written
//! there behind memory's back, and memory holds the end of it, from which targets that are up to date read. At `limit`
//! bytes memory gives up whatever is written; who lags then reads files. Nothing is evicted, nobody asks for a rewind,
//! and `append` waits for the limit on disk, between two transactions alone.
//!
//! | module | subject |
//! |---|---|
//! | `memory` | [`Spool`], the writer's side |
//! | `reader` | [`Reader`], a target's side |
//! | `state` | what they share |
//! | `view` | [`View`], for those who tell of it |
//! | [`log`], `on_disk` | the files; whose they are |
//! | `streams`, `file`, `dir` | transactions in progress |

mod dir;
mod file;
mod log;
mod memory;
mod on_disk;
mod reader;
mod state;
mod streams;
mod view;

pub use dir::{Medium, check_dir};
pub use log::Recovered;
pub use memory::Spool;
pub use reader::{Evicted, Reader};
pub use streams::{Streamed, Streams, StreamsView};
pub use view::{OnDisk, Pending, View};

use std::sync::Arc;

use rsrepl_wire::{Frame, Lsn};

use crate::error::Error;

/// One entry of the log.
#[derive(Clone, Debug)]
pub enum Item {
    /// A part of a transaction, or a logical message.
    Frame(Frame),
    /// A transaction that was streamed. A reader never gives this out: it gives the frames.
    Streamed(Arc<Streamed>),
    /// What a reader gives out for a frame that is no longer what it was.
    Unreadable(Arc<Error>),
    /// Between two transactions: the source has nothing (more) for us up to here. `urgent` when it
    /// waits for that to be confirmed (it does so before it shuts down).
    Progress { lsn: Lsn, urgent: bool },
    /// The transaction under way, if any, ends here without a commit; forget it.
    Cut,
}

impl Item {
    /// Bytes counted against the limit: the frame and what an entry costs.
    fn bytes(&self) -> usize {
        const ENTRY: usize = size_of::<Item>();
        match self {
            Item::Frame(frame) => frame.len() + ENTRY,
            Item::Streamed(_) | Item::Unreadable(_) | Item::Progress { .. } | Item::Cut => ENTRY,
        }
    }

    /// Bytes that it takes in a file, about.
    fn bytes_on_disk(&self) -> u64 {
        match self {
            Item::Frame(frame) => frame.len() as u64,
            Item::Streamed(streamed) => streamed.size(),
            Item::Unreadable(_) | Item::Progress { .. } | Item::Cut => 0,
        }
    }
}
