//! A table in buckets of its keys' MD5, each side in one statement, and so as of one moment: what differs is
//! what has not arrived.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::future::join_all;

use super::lists::differing;
use super::pace::RANGE_ROWS;
use super::scan::Scan;
use super::view::{Part, Sum};
use crate::error::Result;

/// Rows of a bucket, about.
const BUCKET_ROWS: u64 = 128;
const BUCKETS_MAX: u64 = 1 << 16;
/// Rows of buckets that are listed at a time, on one side.
const LISTED_MAX: u64 = 50_000;

/// Buckets that differ, each with the rows of the larger side and the targets.
type Dirty = BTreeMap<i64, (u64, BTreeSet<usize>)>;

impl Scan<'_> {
    pub(super) async fn buckets(&mut self) -> Result<()> {
        let rows = self.sides.table.scope.rows_estimated.max(RANGE_ROWS);
        let buckets = (rows / BUCKET_ROWS).next_power_of_two().clamp(256, BUCKETS_MAX);
        let mask = i64::try_from(buckets - 1).unwrap_or(i64::MAX);
        let (rows, dirty) = self.bucket_sums(mask).await?;
        self.count(rows, buckets);
        self.sides.pace.keep(rows).await;
        let mut rest = dirty.into_iter().peekable();
        while rest.peek().is_some() {
            let (mut numbers, mut targets, mut rows) = (Vec::new(), BTreeSet::new(), 0);
            while let Some((number, (most, of))) = rest.next_if(|_| rows < LISTED_MAX) {
                rows += most;
                numbers.push(number);
                targets.extend(of);
            }
            let open = self.open().into_iter();
            let targets: Vec<usize> = open.filter(|target| targets.contains(target)).collect();
            let part = Part::Buckets { mask, numbers: &numbers };
            let found = self.sides.list(&part, &targets).await?;
            self.suspect(found).await;
        }
        Ok(())
    }

    /// The source's rows, and the buckets that differ.
    async fn bucket_sums(&mut self, mask: i64) -> Result<(u64, Dirty)> {
        let sides = self.sides;
        let views = sides.views(&self.open());
        let there = join_all(views.iter().map(|(_, view)| view.buckets(mask)));
        let (here, there) = tokio::join!(sides.here().buckets(mask), there);
        let here: HashMap<i64, Sum> = here?.into_iter().collect();
        let mut dirty = Dirty::new();
        for ((target, _), found) in views.iter().zip(there) {
            let there: HashMap<i64, Sum> = match found {
                Ok(found) => found.into_iter().collect(),
                Err(error) => {
                    self.fail(*target, &error.to_string());
                    continue;
                }
            };
            for (number, rows) in differing(&here, &there, sides.profile(*target)) {
                let (most, targets) = dirty.entry(number).or_default();
                *most = rows.max(*most);
                targets.insert(*target);
            }
        }
        Ok((here.values().map(|sum| sum.rows).sum(), dirty))
    }
}
