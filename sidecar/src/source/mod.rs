//! The source: a replication connection of our own, over `postgres-protocol`. (tokio-postgres cannot
//! speak CopyBoth.)
//!
//! ```text
//!  connect ─► ReplicationClient ── identify, slot, create_slot (simple queries)
//!                   │ start: START_REPLICATION
//!                   ▼
//!             ReplicationStream ─┬─ StreamReader   frames, keepalives ─► spool
//!                                └─ StatusWriter ◄─ ledger
//! ```
//!
//! | module | subject |
//! |---|---|
//! | `socket` | TCP, Unix socket, TLS |
//! | `binding` | what SCRAM binds to of a TLS session |
//! | `framing` | messages in and out, bounded, cancel-safe |
//! | `startup` | startup packet and authentication |
//! | [`client`](ReplicationClient) | simple queries on a replication connection |
//! | `history` | what a timeline grew out of |
//! | [`slot`](SlotInfo) | slots and their commands |
//! | [`start`](verify_position) | from where the stream may start; pure |
//! | [`stream`](ReplicationStream) | the CopyBoth stream |
//! | `server_error` | what an error of the source means |
//!
//! # Progress tracking
//!
//! The walsender sends whole transactions in commit order. A transaction is behind us when its
//! `end_lsn` is applied; that is the position which each target stores. The slot remembers one
//! position of its own, `confirmed_flush_lsn`, which is what the status updates say was *flushed*;
//! WAL and catalog rows that only older positions need may be removed then.
//!
//! **Asked to start below `confirmed_flush_lsn`, PostgreSQL starts at `confirmed_flush_lsn` and says
//! nothing.** What lies between is lost without an error. So [`verify_position`] compares each target's
//! stored position with the slot when the target is opened (invariant 10). For the comparison to
//! mean something one rule must hold, and the pipeline keeps it:
//!
//! > **Nothing is confirmed to the slot that is not stored as every target's position first.**
//!
//! For transactions this comes by itself. But the slot also moves while there is nothing to apply:
//! keepalives carry a `wal_end` up to which the walsender has decoded everything and sent all that was
//! for us (unless the last frame has the flag MORE), and confirming it lets the source recycle WAL that other databases or filtered tables
//! wrote. A target that has applied everything then first gets that `wal_end` as a position (an empty
//! batch with a commit), and only then is it confirmed. To be cheap, this is done
//!
//! - when a keepalive asks for a reply: every `wal_sender_timeout / 2` of silence from us, and when the
//!   source shuts down, which waits until everything that was sent is confirmed;
//! - otherwise at most every few seconds.
//!
//! So a stored position is never below `confirmed_flush_lsn`, and one that is, is a true gap: the slot
//! was advanced by another consumer or by hand, dropped and created again, or the target was restored
//! from an older backup. The stream does not start then.
//!
//! A target *without* a position is new. It begins at the slot's `confirmed_flush_lsn`, a boundary
//! between transactions; its position is to be stored as soon as the stream has started. What the
//! tables held before is not copied.

mod binding;
mod client;
mod framing;
mod history;
mod server_error;
mod slot;
mod socket;
mod start;
mod startup;
mod stream;

pub use client::{ReplicationClient, SourceInfo, identify};
pub use slot::SlotInfo;
pub use start::{PLUGIN, verify_position, verify_present, verify_resume, verify_slot};
pub use stream::{
    CLOSE_TIMEOUT, Event, GIVE_UP_AFTER, PING_AFTER, ReplicationStream, StatusUpdate, StatusWriter,
    StreamReader,
};
