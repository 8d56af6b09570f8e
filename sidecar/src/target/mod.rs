//! The contract of a target, and its implementations.

pub mod clickhouse;
pub mod postgres;

use rsrepl_wire::Lsn;

use crate::batch::Batch;
use crate::error::{Error, Kind, Result};

/// Which stream a target's position belongs to (invariant 10). Stored with it, compared at `open`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceIdentity {
    /// `IDENTIFY_SYSTEM`'s system identifier.
    pub system_id: u64,
    /// Its timeline. A promotion raises it; a stored higher one than the source's is a wrong source.
    pub timeline: u32,
    /// Database name on the source.
    pub database: String,
    /// Slot name.
    pub slot: String,
}

impl SourceIdentity {
    /// Whether `now` is the same source as this one was: same cluster, same database, same slot, and
    /// no older timeline.
    ///
    /// # Errors
    /// [`Kind::Identity`].
    pub fn check_successor(&self, now: &SourceIdentity) -> Result<()> {
        let same = (self.system_id, &self.database, &self.slot)
            == (now.system_id, &now.database, &now.slot);
        if same && now.timeline >= self.timeline {
            return Ok(());
        }
        let text = format!(
            "the source is not the one it was: it was system {} timeline {} database {} slot {}, \
             and is system {} timeline {} database {} slot {}",
            self.system_id,
            self.timeline,
            self.database,
            self.slot,
            now.system_id,
            now.timeline,
            now.database,
            now.slot
        );
        Err(Error::new(Kind::Identity, text)
            .hint("point the connection string at the right server, or load the targets anew"))
    }
}

/// A system that the stream is written to.
///
/// # Durability
///
/// When [`apply`](Target::apply) has returned `Ok` for a batch with a `commit`, all of the batch and of
/// the partial ones before it is durable, and so is the position: a later `open`, in this process or
/// another, returns it (or a later one). When it has returned an error, or the process died, any part
/// may or may not be there, and `open` tells from where to go on; replaying from there must lead to
/// the same result as if nothing had happened.
///
/// One `Target` is driven by one task; calls never overlap. After an error the only valid call is
/// `open`.
pub trait Target: Send {
    /// Connects (anew), creates what the target needs and may create, checks that its position
    /// belongs to `source`, drops what an unfinished transaction left, and returns the position:
    /// `end_lsn` of the last applied transaction, or [`Lsn::INVALID`] when there is none.
    fn open(&mut self, source: &SourceIdentity) -> impl Future<Output = Result<Lsn>> + Send;

    /// Applies one batch; see the type's documentation for what `Ok` promises.
    fn apply(&mut self, batch: Batch) -> impl Future<Output = Result<()>> + Send;

    /// Ends sessions in good order. An open partial transaction is rolled back.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}
