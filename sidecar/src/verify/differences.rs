//! What was found on a target, table by table.

use super::key::Key;
use super::looks::{Look, Suspect};

/// Differences of one table that are kept, to be shown and repaired; others are counted.
const KEPT_MAX: usize = 100_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The source has the row.
    Missing,
    /// The target has the row.
    Surplus,
    /// Both have it.
    Changed,
}

/// A row that is not the same on both sides.
#[derive(Clone, Debug)]
pub struct Difference {
    pub key: Key,
    pub kind: Kind,
    /// The last one.
    pub look: Look,
}

/// One table on one target.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// On the source.
    pub rows: u64,
    /// Ranges or buckets.
    pub parts: u64,
    /// Keys that were looked at one by one.
    pub looked: u64,
    pub differences: Vec<Difference>,
    /// More than are kept.
    pub more: u64,
    /// Without a key: both sides' rows.
    pub unequal: Option<(u64, u64)>,
    /// Rows that changed at each look.
    pub unsettled: u64,
    pub repaired: u64,
    /// Why it could not be compared.
    pub failed: Option<String>,
}

impl Tally {
    pub fn total(&self) -> u64 {
        self.differences.len() as u64 + self.more + u64::from(self.unequal.is_some())
    }
}

/// What is known of a target.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    /// Its place among the targets.
    pub(crate) target: usize,
    pub(crate) suspects: Vec<Suspect>,
    /// One for each table.
    pub(crate) tallies: Vec<Tally>,
}

impl Desk {
    pub(crate) fn suspect(&mut self, table: usize, keys: Vec<Key>) {
        if let Some(tally) = self.tallies.get_mut(table) {
            tally.looked += keys.len() as u64;
        }
        self.suspects.extend(keys.into_iter().map(|key| Suspect::new(table, key)));
    }

    pub(crate) fn differs(&mut self, table: usize, difference: Difference) {
        let Some(tally) = self.tallies.get_mut(table) else { return };
        match tally.differences.len() < KEPT_MAX {
            true => tally.differences.push(difference),
            false => tally.more += 1,
        }
    }

    pub(crate) fn unsettled(&mut self, table: usize) {
        if let Some(tally) = self.tallies.get_mut(table) {
            tally.unsettled += 1;
        }
    }

    pub(crate) fn fail(&mut self, table: usize, why: String) {
        if let Some(tally) = self.tallies.get_mut(table) {
            tally.failed.get_or_insert(why);
        }
    }
}
