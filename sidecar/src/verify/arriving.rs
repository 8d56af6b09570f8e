//! Sums that differ only by what is on its way to a target: to find that out is cheaper than a list.
//!
//! Most ranges of a table that is written to differ, as a target is always some moments behind. Nearly always it is
//! rows that the source has written lately. These are taken out of both sums, on the source in the snapshot in
//! which its sum was taken; when the rest is equal, only they may differ. When it is not, the range is listed.
//!
//! *Lately* is behind the target's position: [`Marks`] remember which transactions had not begun when the source's WAL
//! ended there. That is a guess (a transaction may have begun long before), but nothing rests on it but time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use rsrepl_wire::Lsn;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::key::Key;
use super::postgres::wal_end;
use super::view::{Found, Row, Sum};
use super::visible::horizon;
use crate::error::Result;

/// Rows that are taken out of a sum.
pub(super) const LATELY_MAX: usize = 2_000;
/// How long marks are kept; who is behind longer gets lists.
const KEPT: Duration = Duration::from_secs(60);
/// Between two marks.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long before a commit its transaction began, mostly.
const BEFORE: Duration = Duration::from_secs(1);

/// What had not begun when the WAL ended where.
#[derive(Default)]
pub(crate) struct Marks(RefCell<VecDeque<Mark>>);

#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    end: Lsn,
    next: u64,
}

impl Marks {
    /// Remembers where the source is now.
    pub(super) async fn mark(&self, source: &Client) -> Result<()> {
        let now = Instant::now();
        if self.0.borrow().back().is_some_and(|last| now - last.at < INTERVAL) {
            return Ok(());
        }
        let next = horizon(source).await?;
        self.add(Mark { at: now, end: wal_end(source).await?, next });
        Ok(())
    }

    fn add(&self, mark: Mark) {
        let mut marks = self.0.borrow_mut();
        while marks.front().is_some_and(|first| mark.at - first.at > KEPT) {
            marks.pop_front();
        }
        marks.push_back(mark);
    }

    /// From which transaction on most may be missing on a target that is there.
    pub(super) fn since(&self, position: Lsn) -> Option<u64> {
        let marks = self.0.borrow();
        let there = marks.iter().rfind(|mark| mark.end <= position)?;
        let began = marks.iter().rfind(|mark| there.at - mark.at >= BEFORE);
        began.or(marks.front()).map(|mark| mark.next)
    }
}

/// The keys that differ when nothing but these rows does; `None`: something else does, too. `lately`: rows of the
/// source; `found`: the same keys on the target.
pub(super) fn explained(
    here: &Sum,
    there: &Sum,
    lately: &[Row],
    profile: usize,
    found: &[Option<Found>],
) -> Option<Vec<Key>> {
    let of = |hashes: &[i128], n: usize| hashes.get(n).copied().unwrap_or_default();
    let (mut here_rows, mut here_sum) = (here.rows, of(&here.hashes, profile));
    let (mut there_rows, mut there_sum) = (there.rows, of(&there.hashes, 0));
    let mut keys = Vec::new();
    for (row, found) in lately.iter().zip(found) {
        let hash = row.hashes.get(profile).copied().unwrap_or_default();
        here_rows = here_rows.checked_sub(1)?;
        here_sum -= i128::from(hash);
        let mut is_equal = false;
        if let Some(found) = found {
            let other = found.hashes.first().copied().unwrap_or_default();
            there_rows = there_rows.checked_sub(1)?;
            there_sum -= i128::from(other);
            is_equal = other == hash;
            // the sum of more rows than one has wrapped around
            if found.rows != 1 {
                return None;
            }
        }
        if !is_equal {
            keys.push(row.key.clone()?);
        }
    }
    ((here_rows, here_sum) == (there_rows, there_sum)).then_some(keys)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lately_begins_before_the_position() {
        let marks = Marks::default();
        assert_eq!(marks.since(Lsn(5)), None);
        let begin = Instant::now();
        for n in 0..100 {
            let at = begin + Duration::from_millis(200) * n;
            marks.add(Mark { at, end: Lsn(u64::from(n) * 10), next: u64::from(n) });
        }
        assert_eq!(marks.since(Lsn(505)), Some(45), "a second before it was there");
        assert_eq!(marks.since(Lsn(20)), Some(0));
        assert_eq!(marks.since(Lsn(u64::MAX)), Some(94));
    }

    proptest! {
        /// It finds what differs among the rows that were written lately, and is silent about nothing else.
        #[test]
        fn nothing_but_what_is_on_its_way_is_explained(
            rows in prop::collection::btree_map(0u8..40, (any::<i64>(), any::<bool>()), 0..40),
            // what the target has instead of a row of the source, or beside them
            there in prop::collection::btree_map(0u8..44, prop::option::of(any::<i64>()), 0..6),
        ) {
            let here: BTreeMap<u8, i64> = rows.iter().map(|(k, (hash, _))| (*k, *hash)).collect();
            let mut target = here.clone();
            for (key, value) in &there {
                match value {
                    Some(hash) => target.insert(*key, *hash),
                    None => target.remove(key),
                };
            }
            let sum = |side: &BTreeMap<u8, i64>, with: &[i128]| {
                let sum: i128 = side.values().copied().map(i128::from).sum();
                let hashes = with.iter().copied().chain([sum]).collect();
                Sum { rows: side.len() as u64, hashes }
            };
            let lately: Vec<u8> = rows.iter().filter(|(_, row)| row.1).map(|(k, _)| *k).collect();
            let of_source = lately.iter().map(|k| Row {
                key: Some(vec![k.to_string()]),
                hashes: vec![3, here[k]],
            });
            let of_source: Vec<Row> = of_source.collect();
            let found = lately.iter().map(|k| target.get(k).map(|hash| {
                let mut found = Found::default();
                found.add("v", &[*hash]);
                found
            }));
            let found: Vec<Option<Found>> = found.collect();
            let differing: Vec<u8> =
                (0..44).filter(|k| here.get(k) != target.get(k)).collect();
            let expected = differing.iter().all(|k| lately.contains(k)).then(|| {
                differing.iter().map(|k| vec![k.to_string()]).collect::<Vec<Key>>()
            });
            let explained = explained(&sum(&here, &[9]), &sum(&target, &[]), &of_source, 1, &found);
            prop_assert_eq!(explained, expected);
        }
    }
}
