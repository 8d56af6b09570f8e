//! Tables into chunks, and what is left of them to be done. Pure.

use std::cmp::Reverse;
use std::fmt;

use super::{ChunkRecord, CopiedTable, Leaf, Records, Snapshot};

/// Transactions after which `xmin`s of a snapshot can no longer be compared with those of rows: half of the
/// numbers that there are, less what is used while a round runs.
const XMIN_AGE_MAX: u64 = (1 << 31) - (1 << 27);

/// Pages of a leaf, from `first` on and before `end`; without `end` also those that it does not have yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pages {
    pub first: u32,
    pub end: Option<u32>,
}

impl Pages {
    /// As a condition on `ctid`, which PostgreSQL turns into a TID range scan.
    pub fn condition(&self) -> String {
        let first = format!("ctid OPERATOR(pg_catalog.>=) '({},0)'::pg_catalog.tid", self.first);
        match (self.first, self.end) {
            (0, None) => "true".to_owned(),
            (_, None) => first,
            (_, Some(end)) => {
                format!("{first} AND ctid OPERATOR(pg_catalog.<) '({end},0)'::pg_catalog.tid")
            }
        }
    }

    /// How many of a leaf's pages they are.
    fn of(&self, pages: u32) -> u32 {
        self.end.unwrap_or(pages).min(pages).saturating_sub(self.first)
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            Some(end) => write!(f, "pages {} to {}", self.first, end.saturating_sub(1)),
            None => write!(f, "pages from {} on", self.first),
        }
    }
}

/// What is not in `recorded` of a leaf that has `pages` now, cut at multiples of `chunk` pages; the last is
/// open at its end unless that is recorded. `recorded` do not overlap.
pub fn gaps(recorded: impl IntoIterator<Item = Pages>, pages: u32, chunk: u32) -> Vec<Pages> {
    let mut recorded: Vec<Pages> = recorded.into_iter().collect();
    recorded.sort_unstable();
    let mut found = Vec::new();
    let mut at = Some(0);
    for done in recorded {
        if let Some(first) = at.filter(|first| *first < done.first) {
            cut(Pages { first, end: Some(done.first) }, pages, chunk, &mut found);
        }
        at = done.end;
    }
    if let Some(first) = at {
        cut(Pages { first, end: None }, pages, chunk, &mut found);
    }
    found
}

fn cut(gap: Pages, pages: u32, chunk: u32, found: &mut Vec<Pages>) {
    let chunk = chunk.max(1);
    let mut first = gap.first;
    // what lies behind the leaf's end is not worth a chunk of its own
    while let Some(next) = (first / chunk + 1).checked_mul(chunk)
        && next < gap.end.unwrap_or(pages)
    {
        found.push(Pages { first, end: Some(next) });
        first = next;
    }
    found.push(Pages { first, end: gap.end });
}

/// A chunk that a target needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    pub pages: Pages,
    /// It has been copied, or begun, under this snapshot.
    pub since: Option<Snapshot>,
}

/// What a target lacks of a leaf to have it as it is in `now`, in chunks of `chunk` bytes.
pub fn needs(leaf: &Leaf, records: &Records, now: Snapshot, chunk: u64) -> Vec<Need> {
    let of_leaf = || records.chunks.iter().filter(|record| record.leaf == leaf.oid);
    let new = gaps(of_leaf().map(|record| record.pages), leaf.pages, leaf.pages_of(chunk));
    let older =
        of_leaf().filter(|record| record.snapshot.lsn < now.lsn || record.snapshot.is_begun());
    let older = older.map(|record| Need { pages: record.pages, since: Some(record.snapshot) });
    new.into_iter().map(|pages| Need { pages, since: None }).chain(older).collect()
}

/// A chunk and who needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// Place among the tables, and of the leaf in the table.
    pub table: usize,
    pub leaf: usize,
    pub need: Need,
    /// Places of targets that want it in the same form.
    pub targets: Vec<usize>,
}

/// Sorts works so that all workers end together: what was never copied first, for that is what the snapshot's
/// age may cut short; of that the large tables first, and a table's chunks together. Tables without a key come last:
/// nothing of them is of use in another round.
pub fn sort(works: &mut [Work], tables: &[impl AsRef<CopiedTable>]) {
    let bytes = |table: usize| -> u64 {
        let leaves = tables.get(table).map(|table| table.as_ref().leaves.iter());
        leaves.into_iter().flatten().map(|leaf| leaf.bytes).sum()
    };
    let size = |work: &Work| {
        let leaf = tables.get(work.table).and_then(|table| table.as_ref().leaves.get(work.leaf));
        leaf.map_or(0, |leaf| work.need.pages.of(leaf.pages))
    };
    works.sort_by_cached_key(|work| {
        let again = work.need.since.is_some();
        let keyed = tables.get(work.table).is_some_and(|table| table.as_ref().is_keyed());
        (
            !keyed,
            again,
            Reverse(bytes(work.table)),
            work.table,
            Reverse(size(work)),
            work.leaf,
            work.need,
        )
    });
}

/// Why chunks of a table that were copied in earlier rounds are of no use in this one; `recorded` are the
/// table's.
pub fn starts_over(
    table: &CopiedTable,
    recorded: &[&ChunkRecord],
    now: Snapshot,
) -> Option<&'static str> {
    let leaf = |record: &ChunkRecord| table.leaves.iter().find(|leaf| leaf.oid == record.leaf);
    let other_shape =
        recorded.iter().any(|record| leaf(record).is_some_and(|leaf| leaf.shape != record.shape));
    // a target may say so of what this very round has left half done
    if !other_shape && recorded.iter().all(|record| record.snapshot.lsn >= now.lsn) {
        return None;
    }
    if !table.is_keyed() {
        Some(
            "it has no key that its rows could be told by, or not all of its changes are published",
        )
    } else if other_shape {
        Some("its columns, or what is published of it, have changed")
    } else if recorded.iter().any(|record| leaf(record).is_none()) {
        Some("a partition of it is gone")
    } else if recorded
        .iter()
        .any(|record| leaf(record).is_some_and(|leaf| leaf.filenode != record.filenode))
    {
        Some("it was truncated or rewritten")
    } else if recorded
        .iter()
        .filter(|record| !record.snapshot.is_begun())
        .any(|record| now.xmin.saturating_sub(record.snapshot.xmin) > XMIN_AGE_MAX)
    {
        Some("too many transactions have been since")
    } else {
        None
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
