//! What was found on a target, table by table.

use super::judge::Look;
use super::key::Key;
use super::lists::Listed;
use super::looks::Suspect;
use crate::preflight::Operations;

/// Differences that are kept, to be shown and repaired, over all targets and tables.
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

impl Kind {
    /// Whether a target is meant to differ like that where these operations are published.
    pub fn is_meant(self, published: Operations) -> bool {
        match self {
            Kind::Missing => !published.insert,
            Kind::Surplus => !published.delete || !published.truncate,
            Kind::Changed => !published.update,
        }
    }
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
    /// Rows there with a NULL in their key.
    pub nulls: u64,
    /// Without a key: both sides' rows.
    pub unequal: Option<(u64, u64)>,
    /// Rows that differ as they may, by the operations that are published.
    pub meant: u64,
    /// Rows that changed at each look.
    pub unsettled: u64,
    /// Rows that a commit may have changed which the source does not show yet.
    pub unsure: u64,
    pub repaired: u64,
    /// Why rows were not repaired.
    pub left: Vec<String>,
    /// Why it could not be compared.
    pub failed: Option<String>,
}

impl Tally {
    pub fn total(&self) -> u64 {
        self.differences.len() as u64 + self.nulls + u64::from(self.unequal.is_some())
    }

    pub fn surplus(&self) -> usize {
        self.differences.iter().filter(|difference| difference.kind == Kind::Surplus).count()
    }
}

/// What is known of a target.
#[derive(Debug)]
pub(crate) struct Desk {
    /// Its place among the targets.
    pub(crate) target: usize,
    pub(crate) suspects: Vec<Suspect>,
    /// One for each table.
    pub(crate) tallies: Vec<Tally>,
    /// Differences that it may still keep.
    room: usize,
}

impl Desk {
    pub(crate) fn all(targets: usize) -> Vec<Desk> {
        let room = KEPT_MAX / targets.max(1);
        let desk = |target| Desk { target, suspects: Vec::new(), tallies: Vec::new(), room };
        (0..targets).map(desk).collect()
    }

    pub(super) fn suspect(&mut self, table: usize, listed: Listed) {
        if let Some(tally) = self.tallies.get_mut(table) {
            tally.looked += listed.keys.len() as u64;
            tally.nulls += listed.nulls;
        }
        self.suspects.extend(listed.keys.into_iter().map(|key| Suspect::new(table, key)));
    }

    pub(crate) fn differs(&mut self, table: usize, difference: Difference, published: Operations) {
        let Some(tally) = self.tallies.get_mut(table) else { return };
        if difference.kind.is_meant(published) {
            tally.meant += 1;
        } else if let Some(room) = self.room.checked_sub(1) {
            self.room = room;
            tally.differences.push(difference);
        } else {
            self.fail(
                table,
                "more rows differ than are kept: load what differs so much anew".into(),
            );
        }
    }

    /// Takes the differences of a table, which become suspects again.
    pub(crate) fn take(&mut self, table: usize) -> Vec<Difference> {
        let Some(tally) = self.tallies.get_mut(table) else { return Vec::new() };
        let differences = std::mem::take(&mut tally.differences);
        self.room += differences.len();
        let again = |difference: &Difference| Suspect::new(table, difference.key.clone());
        self.suspects.extend(differences.iter().map(again));
        differences
    }

    pub(crate) fn tally(&mut self, table: usize, change: impl FnOnce(&mut Tally)) {
        if let Some(tally) = self.tallies.get_mut(table) {
            change(tally);
        }
    }

    pub(crate) fn fail(&mut self, table: usize, why: String) {
        self.tally(table, |tally| {
            tally.failed.get_or_insert(why);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(n: usize, kind: Kind) -> Difference {
        Difference { key: vec![n.to_string()], kind, look: Look { source: None, target: None } }
    }

    #[test]
    fn what_is_kept_is_bounded_over_all_tables() {
        let mut desks = Desk::all(2);
        let desk = &mut desks[1];
        desk.tallies = vec![Tally::default(), Tally::default()];
        for n in 0..KEPT_MAX / 2 + 5 {
            desk.differs(n % 2, difference(n, Kind::Missing), Operations::ALL);
        }
        let kept: usize = desk.tallies.iter().map(|tally| tally.differences.len()).sum();
        assert_eq!(kept, KEPT_MAX / 2);
        assert!(desk.tallies.iter().all(|tally| tally.failed.is_some()));
        let again = desk.take(0).len();
        assert_eq!((desk.suspects.len(), desk.room), (again, again));
    }

    #[test]
    fn what_is_not_published_is_meant_to_differ() {
        let all = Operations::ALL;
        let meant = |published| {
            [Kind::Missing, Kind::Surplus, Kind::Changed].map(|k| k.is_meant(published))
        };
        assert_eq!(meant(all), [false; 3]);
        assert_eq!(meant(Operations { insert: false, ..all }), [true, false, false]);
        assert_eq!(meant(Operations { update: false, ..all }), [false, false, true]);
        assert_eq!(meant(Operations { delete: false, ..all }), [false, true, false]);
        assert_eq!(meant(Operations { truncate: false, ..all }), [false, true, false]);
    }
}
