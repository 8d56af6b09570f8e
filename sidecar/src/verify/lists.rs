//! Which keys may differ, from what both sides list. Pure.

use std::collections::{BTreeSet, HashMap};

use super::key::Key;
use super::view::{Row, Sum};

/// What a target's list has that the source's has not, or the other way round.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    /// In order, each once.
    pub(super) keys: Vec<Key>,
    /// Rows of the target that have a NULL in their key: the source has no such rows.
    pub(super) nulls: u64,
}

/// Keys that have not the same rows on both sides. `profile`: which of the source's hashes the target has.
pub(super) fn suspects(here: &[Row], profile: usize, there: &[Row]) -> Listed {
    let hash = |row: &Row, n: usize| row.hashes.get(n).copied().unwrap_or_default();
    // rows, and the sum of their hashes: more there than here
    let mut more: HashMap<&Key, (i64, i64)> = HashMap::with_capacity(here.len());
    for row in here {
        let Some(key) = &row.key else { continue };
        let (rows, sum) = more.entry(key).or_default();
        (*rows, *sum) = (*rows - 1, sum.wrapping_sub(hash(row, profile)));
    }
    let mut nulls = 0;
    for row in there {
        let Some(key) = &row.key else {
            nulls += 1;
            continue;
        };
        let (rows, sum) = more.entry(key).or_default();
        (*rows, *sum) = (*rows + 1, sum.wrapping_add(hash(row, 0)));
    }
    let differs = more.into_iter().filter(|(_, more)| *more != (0, 0));
    let keys: BTreeSet<Key> = differs.map(|(key, _)| key.clone()).collect();
    Listed { keys: keys.into_iter().collect(), nulls }
}

/// The buckets that differ, and how many rows the larger side has.
pub(super) fn differing(
    here: &HashMap<i64, Sum>,
    there: &HashMap<i64, Sum>,
    profile: usize,
) -> Vec<(i64, u64)> {
    let of = |sums: &HashMap<i64, Sum>, number: i64, profile: usize| {
        sums.get(&number).map(|sum| sum.of_profile(profile))
    };
    let numbers: BTreeSet<i64> = here.keys().chain(there.keys()).copied().collect();
    let differs = |number: i64| {
        let (a, b) = (of(here, number, profile), of(there, number, 0));
        let rows = |sum: &Option<Sum>| sum.as_ref().map_or(0, |sum| sum.rows);
        (a != b).then(|| (number, rows(&a).max(rows(&b))))
    };
    numbers.into_iter().filter_map(differs).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Exactly the keys that have not the same rows on both sides, however often each is there.
        #[test]
        fn lists_give_the_keys_that_differ(
            here in prop::collection::btree_set((0u8..20, 0i64..3), 0..30),
            there in prop::collection::btree_set((0u8..20, 0i64..3), 0..30),
            nulls in 0u64..3,
        ) {
            let rows = |side: &BTreeSet<(u8, i64)>, with: Option<i64>| -> Vec<Row> {
                let hashes = |hash: i64| with.into_iter().chain([1 << hash]).collect();
                let row = |(k, h): &(u8, i64)| Row { key: Some(vec![k.to_string()]), hashes: hashes(*h) };
                side.iter().map(row).collect()
            };
            let mut of_target = rows(&there, None);
            of_target.extend((0..nulls).map(|_| Row { key: None, hashes: vec![1] }));
            let found = suspects(&rows(&here, Some(9)), 1, &of_target);
            let of = |side: &BTreeSet<(u8, i64)>, k: u8| -> Vec<i64> {
                side.iter().filter(|row| row.0 == k).map(|row| row.1).collect()
            };
            let mut expected: Vec<Key> = (0..20u8)
                .filter(|k| of(&here, *k) != of(&there, *k))
                .map(|k| vec![k.to_string()])
                .collect();
            expected.sort();
            prop_assert_eq!(found, Listed { keys: expected, nulls });
        }
    }

    #[test]
    fn buckets_of_one_side_alone_differ() {
        let sum = |rows, hash| Sum { rows, hashes: vec![hash] };
        let here = HashMap::from([(1, sum(2, 5)), (2, sum(3, 1)), (3, sum(1, 1))]);
        let there = HashMap::from([(1, sum(2, 5)), (2, sum(4, 1)), (4, sum(7, 7))]);
        assert_eq!(differing(&here, &there, 0), [(2, 4), (3, 1), (4, 7)]);
    }
}
