//! The version of a row: the change of the stream that it comes from.
//!
//! # Why a replay ends in the same rows (invariant 3)
//!
//! After a failure the stream is applied again from the position on, over tables that hold some of it
//! already. Of two rows with one key the later one has to win, and a change that values are read back
//! for (`toast`) must tell the row before it from what a change after it left behind. So versions rise
//! from each change of the stream to the next, and a change has the same one whenever it comes again.
//!
//! The LSN of the change alone does neither. Transactions come in the order of their commits: what a
//! long one wrote has lower LSNs than what committed meanwhile and comes before it, for the same key
//! too (an INSERT writes its heap tuple, then waits in the unique index for a transaction that deletes
//! that key and commits first). And the rows of one COPY share an LSN.
//!
//! A version is a pair, the higher half first:
//!
//! 1. `end_lsn` of the transaction, which rises from one to the next;
//! 2. the LSN of the change, which rises within it, also over subtransactions and in what is sent while
//!    it runs; further changes of one record have it plus 1, 2, …, which stays below the next record's:
//!    each takes more than a byte of its record.
//!
//! Both are places in the source's WAL. So nothing is remembered from one session to the next, and
//! nothing depends on where the replay begins, how far a group had come, or how batches are cut.
//!
//! A replay need not even be of the same changes: when another publication is configured in between,
//! those that are sent both times have the same versions, and what is no longer sent stays as it is.
//! (Only among the rows of one record may a row filter that has changed move them up. They are inserts of
//! different keys; in a log of a table without a key, it may then count rows of that record wrongly.)

use rsrepl_wire::Lsn;

use crate::batch::Change;

use super::types::{ColumnType, Scalar};

/// `_rsrepl_version`; see the module's documentation. 0 is before every change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u128);

impl Version {
    pub(super) const TYPE: ColumnType = ColumnType::Plain(Scalar::UInt128);

    /// The version of a change that comes after one of this version; after 0 when it begins a
    /// transaction.
    pub(super) fn next(self, change: &Change) -> Version {
        let own = u128::from(change.end_lsn.0) << 64 | u128::from(change.lsn.0);
        Version(own.max(self.0.saturating_add(1)))
    }

    /// Of a row that is copied under a snapshot: after everything that ends at or before its LSN, and before
    /// everything that ends behind it. No LSN has the highest bit. `place` tells rows apart, below 2^63.
    pub(super) fn copied(snapshot: Lsn, place: u64) -> Version {
        Version(u128::from(snapshot.0) << 64 | u128::from(1 << 63 | place))
    }

    /// In `RowBinary`.
    pub(super) fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// From `RowBinary`; `None` when it is not one.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Version> {
        bytes.try_into().ok().map(u128::from_le_bytes).map(Version)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rsrepl_wire::Lsn;

    use super::*;
    use crate::assemble::tests::relation;
    use crate::batch::Operation;

    /// Transactions, each with the distances of its changes' LSNs from one another, and the distance of
    /// its end from the one before. They may all begin anywhere before.
    fn changes(transactions: &[(u64, Vec<u64>)]) -> Vec<Vec<Change>> {
        let relation = Arc::new(relation("t"));
        let mut end = 1_000_000;
        let change = |end: u64, lsn: u64| Change {
            lsn: Lsn(lsn),
            end_lsn: Lsn(end),
            relation: Arc::clone(&relation),
            operation: Operation::Truncate { restart_identity: false, parted: false },
        };
        let transaction = |(distance, steps): &(u64, Vec<u64>)| {
            end += distance;
            let mut lsn = end - steps.iter().sum::<u64>() - 1;
            let next = |step: &u64| {
                lsn += step;
                change(end, lsn)
            };
            steps.iter().map(next).collect()
        };
        transactions.iter().map(transaction).collect()
    }

    proptest! {
        #[test]
        fn versions_rise_and_are_the_same_from_any_position_on(
            transactions in prop::collection::vec(
                (1u64..50, prop::collection::vec(0u64..30, 0..40)), 1..12
            ),
        ) {
            let stream = changes(&transactions);
            let versions = |from: usize| {
                let mut version = Version::default();
                let mut next = |change: &Change| {
                    version = version.next(change);
                    version
                };
                stream[from..].iter().map(|t| t.iter().map(&mut next).collect()).collect()
            };
            let all: Vec<Vec<Version>> = versions(0);
            let flat: Vec<Version> = all.iter().flatten().copied().collect();
            prop_assert!(flat.is_sorted_by(|a, b| a < b), "{flat:?}");
            for from in 0..stream.len() {
                prop_assert_eq!(&versions(from), &all[from..]);
            }
        }
    }

    #[test]
    fn what_is_copied_is_between_what_its_snapshot_shows_and_what_comes() {
        let stream = changes(&[(10, vec![1]), (1, vec![1])]);
        let [shown, comes] = [&stream[0][0], &stream[1][0]];
        for place in [0, u64::MAX >> 1] {
            let copied = Version::copied(shown.end_lsn, place);
            assert!(Version::default().next(shown) < copied);
            assert!(copied < Version::default().next(comes));
        }
    }

    #[test]
    fn the_rows_of_one_record_do_not_push_the_next_record() {
        let stream = changes(&[(1, vec![0, 0, 0, 24])]);
        let mut version = Version::default();
        for change in &stream[0] {
            version = version.next(change);
        }
        let lsn = stream[0][3].lsn;
        assert_eq!(version.0 as u64, lsn.0);
        assert_eq!(Version::from_bytes(&version.to_bytes()), Some(version));
    }
}
