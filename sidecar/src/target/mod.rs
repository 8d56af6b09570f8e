//! The contract of a target, and its implementations.

pub mod clickhouse;
mod identity;
#[cfg(test)]
pub(crate) mod one_by_one;
pub mod postgres;

use rsrepl_wire::Lsn;

pub use identity::{Ancestor, SourceIdentity};

use crate::batch::Batch;
use crate::error::Result;

/// A system that the stream is written to.
///
/// Batches are handed over with [`submit`](Target::submit), and written while the next ones gather;
/// [`next`](Target::next) tells what became of them, in the order in which they were handed over.
///
/// # Durability
///
/// *Applied* means that whoever reads the target sees the batch. *Durable* means that a later `open`, in
/// this process or another and after any crash, returns the position that was told, or a later one.
/// What was applied and is not yet durable may be gone after a crash of the target, the last of it
/// first and whole batches at a time. After an error, or when the process died, anything that is not
/// durable may or may not be there, and `open` tells from where to go on; replaying from there must
/// lead to the same result as if nothing had happened.
///
/// One `Target` is driven by one task. After an error the only valid call is `open`.
pub trait Target: Send {
    /// Connects (anew), creates what the target needs and may create, checks that its position
    /// belongs to `source`, drops what an unfinished transaction left, and returns the position:
    /// `end_lsn` of the last applied transaction, or [`Lsn::INVALID`] when there is none. The position
    /// is durable. What was under way is forgotten: no event of it will come.
    fn open(&mut self, source: &SourceIdentity) -> impl Future<Output = Result<Lsn>> + Send;

    /// Whether a batch may be handed over now; `full`: it cannot gather more. Changes only with `submit`
    /// and with what `next` tells; with nothing under way there is room for any batch.
    fn has_room(&self, full: bool) -> bool;

    /// Takes a batch to be written behind those before it. Only when there is room for it.
    fn submit(&mut self, batch: Batch);

    /// Waits for the next event; for ever when nothing is under way. Cancel-safe: dropped before it is
    /// ready, nothing is lost and the writing goes on.
    ///
    /// # Errors
    /// What kept the oldest batch under way from being applied.
    fn next(&mut self) -> impl Future<Output = Result<Event>> + Send;

    /// Somebody waits for what was handed over to become durable: no more delays, until it is.
    fn hurry(&mut self);

    /// Ends sessions in good order. An open partial transaction is rolled back.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// What a [`Target`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// There may be room for more.
    Room,
    /// The oldest batch under way: with a `commit` it is applied now; without, it is written, does not
    /// show, and the next one goes on with it.
    Applied,
    /// Everything that was applied and ends at or below this position is durable.
    Durable(Lsn),
}
