//! Reads a table on all sides at the same time, part by part, and finds the keys that may differ.
//!
//! | | parts |
//! |---|---|
//! | [`ranges`](super::ranges) | of the key, in the order of its index: short statements, a pause wherever it is wanted |
//! | [`buckets`](super::buckets) | all at once, by the key's MD5: for keys that systems sort differently |
//! | [`whole`](super::whole) | one: for tables without a key |
//!
//! A sum that differs is looked at as a list; of the lists the keys come out that are not on both sides with
//! the same hash. Most of these have only not arrived yet, which [`looks`] finds out.

use futures_util::future::join_all;

use super::differences::Desk;
use super::lists::Listed;
use super::looks;
use super::progress::Progress;
use super::sides::{Sides, Source};
use super::tables::Table;
use super::target::Target;
use crate::error::Result;

/// Keys that may wait to be looked at, over all targets.
const SUSPECTS_MAX: usize = 50_000;

/// One table.
pub(super) struct Scan<'a> {
    pub(super) sides: Sides<'a>,
    pub(super) desks: &'a mut [Desk],
    pub(super) tables: &'a [Table],
    pub(super) number: usize,
    pub(super) progress: &'a mut Progress,
}

/// Looks at what may differ, on all targets at the same time.
pub(super) async fn settle(
    source: &Source,
    tables: &[Table],
    targets: &[Target],
    desks: &mut [Desk],
) {
    let of = targets.iter().zip(desks);
    join_all(of.map(|(target, desk)| looks::settle(source, tables, target, desk))).await;
}

impl Scan<'_> {
    /// # Errors
    /// The source cannot be read; what goes wrong on a target is noted there.
    pub(super) async fn run(mut self) -> Result<()> {
        let Sides { table, source, pace, .. } = self.sides;
        for (target, there) in table.there.iter().enumerate() {
            if let Err(why) = there {
                self.fail(target, why);
            }
        }
        if self.open().is_empty() {
            return Ok(());
        }
        if table.source.key.is_empty() {
            return self.whole().await;
        }
        let first = table.source.boundary(&source.look, None, pace.range_rows()).await?;
        match first {
            Some(_) if !table.has_one_order() => self.buckets().await,
            first => self.ranges(first).await,
        }
    }

    /// The targets that this table is still compared with.
    pub(super) fn open(&self) -> Vec<usize> {
        let is_open = |target: &usize| {
            let desk = self.desks.get(*target);
            let tally = desk.and_then(|desk| desk.tallies.get(self.number));
            tally.is_some_and(|tally| tally.failed.is_none()) && self.sides.there(*target).is_some()
        };
        (0..self.desks.len()).filter(is_open).collect()
    }

    pub(super) fn count(&mut self, rows: u64, parts: u64) {
        for desk in self.desks.iter_mut() {
            if let Some(tally) = desk.tallies.get_mut(self.number) {
                tally.rows += rows;
                tally.parts += parts;
            }
        }
        let looked = self.desks.iter().map(|desk| desk.suspects.len()).sum();
        self.progress.rows(rows, looked);
    }

    /// Keys wait to be looked at together, but not too many.
    pub(super) async fn suspect(&mut self, found: Vec<(usize, Result<Listed>)>) {
        for (target, listed) in found {
            match (listed, self.desks.get_mut(target)) {
                (Ok(listed), Some(desk)) => desk.suspect(self.number, listed),
                (Err(error), _) => self.fail(target, &error.to_string()),
                (Ok(_), None) => {}
            }
        }
        if self.desks.iter().map(|desk| desk.suspects.len()).sum::<usize>() > SUSPECTS_MAX {
            let Sides { source, targets, .. } = self.sides;
            settle(source, self.tables, targets, self.desks).await;
        }
    }

    pub(super) fn fail(&mut self, target: usize, why: &str) {
        if let Some(desk) = self.desks.get_mut(target) {
            desk.fail(self.number, why.to_owned());
        }
    }
}
