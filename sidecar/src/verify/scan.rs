//! Reads a table on all sides at the same time, part by part, and finds the keys that may differ.
//!
//! | | parts |
//! |---|---|
//! | [`ranges`](Scan::ranges) | of the key, in the order of its index: short statements, a pause wherever it is wanted |
//! | [`buckets`](Scan::buckets) | all at once, by the key's MD5: for keys that systems sort differently |
//! | [`whole`](Scan::whole) | one: for tables without a key |
//!
//! A sum that differs is looked at as a list; of the lists the keys come out that are not on both sides with
//! the same hash. Most of these have only not arrived yet, which [`looks`](super::looks) finds out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::differences::Desk;
use super::key::{Key, Range};
use super::looks;
use super::postgres::{failed, wal_end};
use super::progress::Progress;
use super::tables::Table;
use super::target::{Session, Target};
use super::view::{Part, Row, Sum, View};
use crate::error::Result;

/// Rows of a range on the source.
const RANGE_ROWS: u64 = 25_000;
/// Rows of a range when there are so many of it on a target that it is cut there.
const CUT_ABOVE: u64 = 8 * RANGE_ROWS;
/// Rows of a bucket, about.
const BUCKET_ROWS: u64 = 128;
const BUCKETS_MAX: u64 = 1 << 16;
/// Rows of buckets that are listed at a time, on one side.
const LISTED_MAX: u64 = 200_000;
/// Keys that may wait to be looked at, over all targets.
const SUSPECTS_MAX: usize = 50_000;
/// How often a table without a key is read, in the hope that nobody writes to it meanwhile.
const ATTEMPTS: u32 = 3;

/// Sessions with the source: for rows, for boundaries and single rows.
pub(crate) struct Source {
    pub(crate) scan: Client,
    pub(crate) look: Client,
    pub(crate) utf8: bool,
}

/// One table.
pub(crate) struct Scan<'a> {
    pub(crate) source: &'a Source,
    pub(crate) targets: &'a [Target],
    pub(crate) desks: &'a mut [Desk],
    pub(crate) tables: &'a [Table],
    pub(crate) number: usize,
    pub(crate) table: &'a Table,
    pub(crate) pace: &'a mut Pace,
    pub(crate) progress: &'a mut Progress,
}

/// Looks at what may differ, on all targets at the same time.
pub(crate) async fn settle(
    source: &Source,
    tables: &[Table],
    targets: &[Target],
    desks: &mut [Desk],
) {
    let of = targets.iter().zip(desks);
    join_all(of.map(|(target, desk)| looks::settle(&source.look, tables, target, desk))).await;
}

/// Rows a second on the source.
pub(crate) struct Pace {
    pub(crate) rate: Option<u64>,
    next: Instant,
}

impl Pace {
    pub(crate) fn new(rate: Option<u64>) -> Pace {
        Pace { rate, next: Instant::now() }
    }

    fn range_rows(&self) -> u64 {
        // half a second's at most
        self.rate.map_or(RANGE_ROWS, |rate| (rate / 2).clamp(100, RANGE_ROWS))
    }

    async fn keep(&mut self, rows: u64) {
        let Some(rate) = self.rate else { return };
        let takes = Duration::from_secs_f64(rows as f64 / rate.max(1) as f64);
        self.next = self.next.max(Instant::now() - takes) + takes;
        tokio::time::sleep_until(self.next).await;
    }
}

impl Scan<'_> {
    /// # Errors
    /// The source cannot be read; what goes wrong on a target is noted there.
    pub(crate) async fn run(mut self) -> Result<()> {
        for (target, there) in self.table.there.iter().enumerate() {
            if let (Err(why), Some(desk)) = (there, self.desks.get_mut(target)) {
                desk.fail(self.number, why.clone());
            }
        }
        if self.views().is_empty() {
            return Ok(());
        }
        if self.table.source.key.is_empty() {
            return self.whole().await;
        }
        let rows = self.pace.range_rows();
        let first = self.table.source.boundary(&self.source.look, None, rows).await?;
        match first {
            Some(_) if !self.table.has_one_order() => self.buckets().await,
            first => self.ranges(first).await,
        }
    }

    /// The targets that this table can be compared with, and how it is read there.
    fn views(&self) -> Vec<(usize, View<'_>)> {
        let is_open = |n: usize| {
            let tally = self.desks.get(n).and_then(|desk| desk.tallies.get(self.number));
            tally.is_some_and(|tally| tally.failed.is_none())
        };
        let mut views = Vec::with_capacity(self.targets.len());
        for (n, (target, there)) in self.targets.iter().zip(&self.table.there).enumerate() {
            let view = there.as_ref().ok().and_then(|there| target.scan(there));
            views.extend(view.filter(|_| is_open(n)).map(|view| (n, view)));
        }
        views
    }

    fn here(&self) -> View<'_> {
        View::Postgres(&self.source.scan, &self.table.source)
    }

    fn profile(&self, target: usize) -> usize {
        let there = self.table.there.get(target).and_then(|there| there.as_ref().ok());
        there.map_or(0, |there| there.profile)
    }

    fn count(&mut self, rows: u64, parts: u64) {
        for desk in self.desks.iter_mut() {
            if let Some(tally) = desk.tallies.get_mut(self.number) {
                tally.rows += rows;
                tally.parts += parts;
            }
        }
        let looked = self.desks.iter().map(|desk| desk.suspects.len()).sum();
        self.progress.rows(rows, looked);
    }

    /// A read of the whole table may be one; that of a range must not.
    async fn allow_sequential_scans(&self, allowed: bool) -> Result<()> {
        let set = if allowed { "SET enable_seqscan = on" } else { "SET enable_seqscan = off" };
        let source = self.source.scan.batch_execute(set).await;
        source.map_err(|error| failed("the source", error))?;
        for target in self.targets {
            if let Ok(Session::Postgres(session)) = &target.session {
                // the next statement says why
                let _ = session.scan.batch_execute(set).await;
            }
        }
        Ok(())
    }

    async fn ranges(&mut self, first: Option<Key>) -> Result<()> {
        self.allow_sequential_scans(false).await?;
        let rows = self.pace.range_rows();
        let mut range = Range { after: None, upto: first };
        loop {
            // the end of the next one meanwhile
            let next = async {
                match &range.upto {
                    Some(upto) => {
                        self.table.source.boundary(&self.source.look, Some(upto), rows).await
                    }
                    None => Ok(None),
                }
            };
            let (dirty, next) = tokio::join!(self.sums(&range), next);
            let ((rows, dirty), next) = (dirty?, next?);
            self.count(rows, 1);
            self.narrow(&range, dirty).await?;
            self.settle_many().await;
            self.pace.keep(rows).await;
            let Some(upto) = range.upto else { return Ok(()) };
            range = Range { after: Some(upto), upto: next };
        }
    }

    /// The rows of the range on the source, and the targets whose sums differ with theirs, or why there is
    /// none.
    async fn sums(&self, range: &Range) -> Result<(u64, Vec<(usize, Result<u64>)>)> {
        let views = self.views();
        let there = join_all(views.iter().map(|(_, view)| view.sum(range)));
        let (here, there) = tokio::join!(self.here().sum(range), there);
        let here = here?;
        let mut dirty = Vec::new();
        for ((target, _), sum) in views.iter().zip(there) {
            match sum {
                Ok(sum) if sum == here.of_profile(self.profile(*target)) => {}
                sum => dirty.push((*target, sum.map(|sum| sum.rows))),
            }
        }
        Ok((here.rows, dirty))
    }

    /// From a range to keys; one that has far too many rows on a target is cut there first.
    async fn narrow(&mut self, range: &Range, dirty: Vec<(usize, Result<u64>)>) -> Result<()> {
        let mut listed = Vec::new();
        for (target, rows) in dirty {
            match rows {
                Ok(rows) if rows > CUT_ABOVE => self.cut(target, range).await?,
                Ok(_) => listed.push(target),
                Err(error) => self.fail(target, &error.to_string()),
            }
        }
        self.list(&Part::Range(range), &listed).await
    }

    /// Goes over a range of one target in parts that the target's own keys make.
    async fn cut(&mut self, target: usize, range: &Range) -> Result<()> {
        let mut after = range.after.clone();
        loop {
            let end = self.cut_end(target, &after, range).await;
            let end = match end {
                Ok(end) => end,
                Err(error) => {
                    self.fail(target, &error.to_string());
                    return Ok(());
                }
            };
            let is_last = end.is_none();
            let upto = end.or_else(|| range.upto.clone());
            let part = Range { after, upto: upto.clone() };
            self.list(&Part::Range(&part), &[target]).await?;
            if is_last {
                return Ok(());
            }
            after = upto;
        }
    }

    async fn cut_end(
        &self,
        target: usize,
        after: &Option<Key>,
        range: &Range,
    ) -> Result<Option<Key>> {
        let views = self.views();
        let Some((_, view)) = views.iter().find(|(n, _)| *n == target) else { return Ok(None) };
        let rest = Range { after: after.clone(), upto: range.upto.clone() };
        view.boundary(&rest, RANGE_ROWS).await
    }

    /// Lists a part on the source and on some targets, and finds the keys that may differ.
    async fn list(&mut self, part: &Part<'_>, targets: &[usize]) -> Result<()> {
        if targets.is_empty() {
            return Ok(());
        }
        let found = {
            let views: Vec<_> =
                self.views().into_iter().filter(|(n, _)| targets.contains(n)).collect();
            let there = join_all(views.iter().map(|(_, view)| view.list(part)));
            let (here, there) = tokio::join!(self.here().list(part), there);
            let here = here?;
            let of = |((n, _), rows): (&(usize, View<'_>), Result<Vec<Row>>)| {
                (*n, rows.map(|rows| suspects(&here, self.profile(*n), &rows)))
            };
            views.iter().zip(there).map(of).collect::<Vec<_>>()
        };
        for (target, keys) in found {
            match keys {
                Ok(keys) => {
                    if let Some(desk) = self.desks.get_mut(target) {
                        desk.suspect(self.number, keys);
                    }
                }
                Err(error) => self.fail(target, &error.to_string()),
            }
        }
        Ok(())
    }

    /// Keys wait to be looked at together, but not too many.
    async fn settle_many(&mut self) {
        if self.desks.iter().map(|desk| desk.suspects.len()).sum::<usize>() > SUSPECTS_MAX {
            settle(self.source, self.tables, self.targets, self.desks).await;
        }
    }

    fn fail(&mut self, target: usize, why: &str) {
        if let Some(desk) = self.desks.get_mut(target) {
            desk.fail(self.number, why.to_owned());
        }
    }

    /// Each side in one statement, and so as of one moment: what differs is what has not arrived.
    async fn buckets(&mut self) -> Result<()> {
        self.allow_sequential_scans(true).await?;
        let rows = self.table.scope.rows_estimated.max(RANGE_ROWS);
        let buckets = (rows / BUCKET_ROWS).next_power_of_two().clamp(256, BUCKETS_MAX);
        let mask = i64::try_from(buckets - 1).unwrap_or(i64::MAX);
        let mut dirty: BTreeMap<i64, (u64, BTreeSet<usize>)> = BTreeMap::new();
        let (rows, faults) = {
            let views = self.views();
            let there = join_all(views.iter().map(|(_, view)| view.buckets(mask)));
            let (here, there) = tokio::join!(self.here().buckets(mask), there);
            let here: HashMap<i64, Sum> = here?.into_iter().collect();
            let mut faults = Vec::new();
            for ((target, _), found) in views.iter().zip(there) {
                let there: HashMap<i64, Sum> = match found {
                    Ok(found) => found.into_iter().collect(),
                    Err(error) => {
                        faults.push((*target, error.to_string()));
                        continue;
                    }
                };
                let profile = self.profile(*target);
                for (number, rows) in differing(&here, &there, profile) {
                    let (most, targets) = dirty.entry(number).or_default();
                    *most = rows.max(*most);
                    targets.insert(*target);
                }
            }
            (here.values().map(|sum| sum.rows).sum(), faults)
        };
        self.count(rows, buckets);
        for (target, why) in faults {
            self.fail(target, &why);
        }
        let mut rest = dirty.into_iter().peekable();
        while rest.peek().is_some() {
            let (mut numbers, mut targets, mut rows) = (Vec::new(), BTreeSet::new(), 0);
            while let Some((number, (most, of))) = rest.next_if(|_| rows < LISTED_MAX) {
                rows += most;
                numbers.push(number);
                targets.extend(of);
            }
            let targets: Vec<usize> = targets.into_iter().collect();
            self.list(&Part::Buckets { mask, numbers: &numbers }, &targets).await?;
            self.settle_many().await;
        }
        self.pace.keep(rows).await;
        Ok(())
    }

    /// Rows that cannot be told apart are compared when they stay as they are.
    async fn whole(&mut self) -> Result<()> {
        self.allow_sequential_scans(true).await?;
        let all = Range::default();
        let mut open: Vec<usize> = self.views().iter().map(|(n, _)| *n).collect();
        let mut rows = 0;
        for _ in 0..ATTEMPTS {
            if open.is_empty() {
                break;
            }
            let before = self.here().sum(&all).await?;
            let end = wal_end(&self.source.look).await?;
            let mut sums = Vec::new();
            for target in &open {
                sums.push((*target, self.whole_of(*target, end, &all).await));
            }
            let after = self.here().sum(&all).await?;
            rows = after.rows;
            for (target, sum) in sums {
                let profile = self.profile(target);
                let is_equal = |sum: &Sum| {
                    [&before, &after].iter().any(|here| here.of_profile(profile) == *sum)
                };
                match sum {
                    Err(error) => self.fail(target, &error.to_string()),
                    Ok(sum) if is_equal(&sum) => {}
                    Ok(sum) if before == after => self.unequal(target, before.rows, sum.rows),
                    Ok(_) => continue,
                }
                open.retain(|other| *other != target);
            }
            self.pace.keep(rows).await;
        }
        for target in open {
            self.fail(
                target,
                "it has no key, and is written to: it can be compared while nobody writes",
            );
        }
        self.count(rows, 1);
        Ok(())
    }

    async fn whole_of(&self, target: usize, end: rsrepl_wire::Lsn, all: &Range) -> Result<Sum> {
        let views = self.views();
        let (Some((_, view)), Some(target)) =
            (views.iter().find(|(n, _)| *n == target), self.targets.get(target))
        else {
            return Ok(Sum::default());
        };
        target.wait_for(end, async || Ok(false)).await?;
        view.sum(all).await
    }

    fn unequal(&mut self, target: usize, here: u64, there: u64) {
        let tally = self.desks.get_mut(target).and_then(|d| d.tallies.get_mut(self.number));
        if let Some(tally) = tally {
            tally.unequal = Some((here, there));
        }
    }
}

/// Keys that are not on both sides with one hash.
fn suspects(here: &[Row], profile: usize, there: &[Row]) -> Vec<Key> {
    let hash = |row: &Row, n: usize| row.hashes.get(n).copied().unwrap_or_default();
    let mut rows: HashMap<&Key, i64> =
        here.iter().map(|row| (&row.key, hash(row, profile))).collect();
    let mut keys = BTreeSet::new();
    for row in there {
        if rows.remove(&row.key) != Some(hash(row, 0)) {
            keys.insert(row.key.clone());
        }
    }
    keys.extend(rows.into_keys().cloned());
    keys.into_iter().collect()
}

/// The buckets that differ, and how many rows the larger side has.
fn differing(
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
        /// Exactly the keys that are not the same on both sides.
        #[test]
        fn lists_give_the_keys_that_differ(
            here in prop::collection::btree_map(0u8..30, 0i64..3, 0..30),
            there in prop::collection::btree_map(0u8..30, 0i64..3, 0..30),
        ) {
            let rows = |side: &BTreeMap<u8, i64>, with: Option<i64>| -> Vec<Row> {
                let hashes = |hash: i64| with.into_iter().chain([hash]).collect();
                side.iter().map(|(k, h)| Row { key: vec![k.to_string()], hashes: hashes(*h) }).collect()
            };
            let found: BTreeSet<Key> =
                suspects(&rows(&here, Some(9)), 1, &rows(&there, None)).into_iter().collect();
            let differs = |k: &u8| here.get(k) != there.get(k);
            let expected: BTreeSet<Key> =
                (0..30).filter(differs).map(|k| vec![k.to_string()]).collect();
            prop_assert_eq!(found, expected);
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
