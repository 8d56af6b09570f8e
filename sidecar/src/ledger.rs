//! The ledger: how far each target is, and so how far the slot may go (invariant 4).
//!
//! # Progress tracking
//!
//! A target's position is what it has *stored* so that no crash takes it back: `end_lsn` of the last transaction in it, or a later
//! LSN up to which the source had nothing for it. The slot is confirmed up to the lowest stored
//! position and never further. Hence `confirmed_flush_lsn ≤ position` for every target at all times,
//! also after a crash of anything; a position *below* it at start proves that changes are missing
//! (PostgreSQL would skip them silently), and [`verify_position`](crate::source::verify_position) says so (invariant
//! 10).
//!
//! When nothing comes for the targets (idle, or filtered tables), the source still reports how far it
//! has read. That progress is stored on the targets first, then confirmed; so the slot never pins WAL
//! behind tables that nobody replicates.

use rsrepl_wire::Lsn;

/// Positions of all targets, in the order of the configuration. Pure; the pipeline shares it in a
/// `watch` channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    applied: Vec<Option<Lsn>>,
}

impl Ledger {
    /// No target's position is known yet.
    pub fn new(targets: usize) -> Self {
        Ledger { applied: vec![None; targets] }
    }

    /// Target `index` was opened and has `position` stored; a restored backup may have less than before.
    pub fn opened(&mut self, index: usize, position: Lsn) {
        if let Some(slot) = self.applied.get_mut(index) {
            *slot = Some(position);
        }
    }

    /// Target `index` has stored `position`. Positions only rise.
    pub fn applied(&mut self, index: usize, position: Lsn) {
        if let Some(slot) = self.applied.get_mut(index) {
            *slot = (*slot).max(Some(position));
        }
    }

    /// What may be confirmed to the slot; `None` while a target's position is unknown.
    pub fn confirmable(&self) -> Option<Lsn> {
        self.applied.iter().copied().min().flatten()
    }

    /// The highest position of any target, as far as they are known.
    pub fn highest(&self) -> Lsn {
        self.applied.iter().copied().flatten().max().unwrap_or(Lsn::INVALID)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_confirmed_while_one_target_is_unknown() {
        let mut ledger = Ledger::new(2);
        ledger.applied(0, Lsn(10));
        assert_eq!((ledger.confirmable(), ledger.highest()), (None, Lsn(10)));
        ledger.applied(1, Lsn(7));
        assert_eq!((ledger.confirmable(), ledger.highest()), (Some(Lsn(7)), Lsn(10)));
    }

    proptest! {
        /// Invariant 4, with crashes: whatever is applied where and in whatever order, what is
        /// confirmed never passes a target's stored position, and never goes back.
        #[test]
        fn the_slot_never_runs_ahead(steps in prop::collection::vec((0usize..3, 1u64..1000), 1..200)) {
            let mut ledger = Ledger::new(3);
            let mut stored = [0u64; 3];
            let mut confirmed = 0;
            for (target, lsn) in steps {
                stored[target] = stored[target].max(lsn);
                ledger.applied(target, Lsn(lsn));
                if let Some(Lsn(now)) = ledger.confirmable() {
                    prop_assert!(stored.iter().all(|position| now <= *position));
                    prop_assert!(now >= confirmed);
                    confirmed = now;
                }
            }
        }
    }
}
