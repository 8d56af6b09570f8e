//! What of a stream is whose, while a table is copied anew beside it: pure.
//!
//! ```text
//! main stream of a target   ── T's changes ──┤ hold: left out …………………………………………… ├── T's changes, from h on ──
//! the sync's stream                                 copy at p ──► T's changes from p on, up to h ┤ end
//! ```
//!
//! Both streams bring the same transactions, each known by the position of its end. A change of a held table T is
//! the sync's when its transaction ends at or before h, and the main stream's when it ends behind h. As long as there
//! is no h, all of them are the sync's: so h must not be before anything that the one has left out or the other has
//! written ([`hand_over_at`]). The main stream waits with the first change behind h until the sync has got there.
//!
//! What a process knows of this follows from the records on the target ([`Table`](super::Table)): a table is
//! recorded as held before anything of it is left out, and h before anything behind it is written. So after any crash
//! the records tell how to read both streams, from whatever position they go on.

use std::collections::{BTreeMap, BTreeSet};

use rsrepl_wire::{Lsn, Relation};

use crate::batch::{Batch, Change, Operation};

/// What a stream does with a change of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Apply,
    /// It is the other stream's.
    LeaveOut,
    /// Not before the other stream has got there.
    Wait,
}

/// A table that a sync has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// All changes are the sync's.
    Held,
    /// Those of transactions that end behind `at` are the main stream's. `there`: the sync has written all before.
    From { at: Lsn, there: bool },
}

/// Which changes are whose: of the main stream, or of a sync.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    Main(BTreeMap<u32, Hold>),
    /// `paused`: where it ends is being recorded, and until it is, nothing may be written or left out.
    Sync {
        tables: BTreeSet<u32>,
        until: Option<Lsn>,
        paused: bool,
    },
}

/// One stream's share in the changes, and how far it has got. Kept in a `watch` channel between the task that
/// writes to the target and the one that looks after syncs.
#[derive(Clone, Debug)]
pub struct Share {
    role: Role,
    /// The records on the target have been read: until then nothing is written.
    pub known: bool,
    /// The target has been opened once.
    pub open: bool,
    /// The last position that was decided on: nothing that ends behind it has been written or left out.
    decided: Lsn,
    /// Everything that was received up to here is handed over or was none of this stream's.
    pub reached: Lsn,
    /// What is durable on the target.
    pub stored: Lsn,
    /// Rises with each table that is held.
    generation: u64,
    /// Everything that was handed over before this generation is on the target, or will never be.
    settled: u64,
    /// Of the main stream: what the tables that it leaves out are called.
    names: BTreeMap<u32, String>,
    /// Such a name, when another table has come with it.
    clash: Option<String>,
    /// Tables that the sync has changed: what is known of them is out of date.
    anew: BTreeSet<u32>,
}

impl Share {
    fn new(role: Role, known: bool) -> Share {
        Share {
            role,
            known,
            open: false,
            decided: Lsn::INVALID,
            reached: Lsn::INVALID,
            stored: Lsn::INVALID,
            generation: 0,
            settled: 0,
            names: BTreeMap::new(),
            clash: None,
            anew: BTreeSet::new(),
        }
    }

    /// Of a target's main stream, which waits until the holds are known.
    pub fn main() -> Share {
        Share::new(Role::Main(BTreeMap::new()), false)
    }

    /// Of a main stream that nothing is held of.
    pub fn everything() -> Share {
        Share::new(Role::Main(BTreeMap::new()), true)
    }

    /// Of a sync of these tables, up to `until` if that is known.
    pub fn sync(tables: impl IntoIterator<Item = u32>, until: Option<Lsn>) -> Share {
        let tables = tables.into_iter().collect();
        Share::new(Role::Sync { tables, until, paused: false }, true)
    }

    /// What becomes of a change of table `oid` in a transaction that ends at `end`.
    pub fn verdict(&self, oid: u32, end: Lsn) -> Verdict {
        match &self.role {
            Role::Main(holds) => match holds.get(&oid) {
                None => Verdict::Apply,
                Some(Hold::Held) => Verdict::LeaveOut,
                Some(Hold::From { at, .. }) if end <= *at => Verdict::LeaveOut,
                Some(Hold::From { there: true, .. }) => Verdict::Apply,
                Some(Hold::From { there: false, .. }) => Verdict::Wait,
            },
            Role::Sync { paused: true, .. } => Verdict::Wait,
            Role::Sync { tables, until, .. } => {
                let ours = tables.contains(&oid) && until.is_none_or(|until| end <= until);
                if ours { Verdict::Apply } else { Verdict::LeaveOut }
            }
        }
    }

    /// The name of a table that a sync still writes to, when `relation` is a newer one of that name: the older one
    /// was dropped, or renamed, and on the target that is the sync's to do. (Another way round than by age, each might
    /// wait for the other.)
    fn clashes(&self, relation: &Relation) -> Option<&String> {
        let Role::Main(holds) = &self.role else { return None };
        let is_it = |oid: u32, name: &str| {
            let newer = relation.oid.wrapping_sub(oid).cast_signed() > 0;
            let rest = name.strip_prefix(&*relation.schema).and_then(|rest| rest.strip_prefix('.'));
            newer && rest == Some(&*relation.name)
        };
        let ends = |hold: &Hold| matches!(hold, Hold::From { there: true, .. });
        let held = holds.iter().filter(|(_, hold)| !ends(hold));
        let mut names = held.filter_map(|(oid, _)| Some((*oid, self.names.get(oid)?)));
        names.find(|(oid, name)| is_it(*oid, name)).map(|(_, name)| name)
    }

    /// The name of a table that is waited for because of another one of its name.
    pub fn clash(&self) -> Option<&str> {
        self.clash.as_deref()
    }

    /// Of the main stream: it waits for a sync to get to where it goes on with this table, or may come to.
    pub fn waits_for(&self, oid: u32) -> bool {
        let Role::Main(holds) = &self.role else { return false };
        matches!(holds.get(&oid), Some(Hold::From { there: false, .. }))
    }

    /// Of the main stream: what the tables are called that are held.
    pub fn call(&mut self, names: BTreeMap<u32, String>) {
        self.names = names;
    }

    fn is_paused(&self) -> bool {
        matches!(&self.role, Role::Sync { paused: true, .. })
    }

    fn has_all(&self) -> bool {
        matches!(&self.role, Role::Main(holds) if holds.is_empty())
    }

    /// Takes out of a batch what is not this stream's. `false`: it has to wait, and is as it was.
    pub fn take(&mut self, batch: &mut Batch) -> bool {
        let commit = batch.commit.map_or(Lsn::INVALID, |commit| commit.lsn);
        let last = batch.changes.last().map_or(commit, |change| change.end_lsn.max(commit));
        self.clash = None;
        if !self.has_all() {
            let mut before = None;
            let clash = batch.changes.iter().find_map(|change| {
                let seen = before.replace(change.relation.oid) == Some(change.relation.oid);
                if seen { None } else { self.clashes(&change.relation).cloned() }
            });
            self.clash = clash;
            if self.clash.is_some() {
                return false;
            }
            let verdict = |oid: u32, end: Lsn| self.verdict(oid, end);
            let waits =
                |change: &Change| verdict(change.relation.oid, change.end_lsn) == Verdict::Wait;
            if self.is_paused() || batch.changes.iter().any(waits) {
                return false;
            }
            let truncates =
                |change: &Change| matches!(change.operation, Operation::Truncate { .. });
            let left: BTreeSet<(Lsn, Lsn)> = (batch.changes.iter().filter(|c| truncates(c)))
                .filter(|change| verdict(change.relation.oid, change.end_lsn) != Verdict::Apply)
                .map(|change| (change.end_lsn, change.lsn))
                .collect();
            for change in &mut batch.changes {
                if let Operation::Truncate { parted, .. } = &mut change.operation {
                    *parted |= left.contains(&(change.end_lsn, change.lsn));
                }
            }
            batch
                .changes
                .retain(|change| verdict(change.relation.oid, change.end_lsn) == Verdict::Apply);
        }
        batch.anew = std::mem::take(&mut self.anew).into_iter().collect();
        self.decided = self.decided.max(last);
        true
    }

    /// The target was opened, and has `stored`: what was handed over before is there, or will never be.
    pub fn opened(&mut self, stored: Lsn) {
        self.decided = self.decided.max(stored);
        (self.open, self.reached, self.stored) = (true, stored, stored);
        self.settled = self.generation;
    }

    /// Of what was handed over before `generation` nothing is under way any more.
    pub fn settle(&mut self, generation: u64) {
        self.settled = self.settled.max(generation);
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Nothing of the held tables is under way.
    pub fn is_settled(&self) -> bool {
        self.known && self.settled == self.generation
    }

    /// Of the main stream: the tables that are held, as they are recorded. `true`: something is new.
    pub fn hold(&mut self, now: BTreeMap<u32, Hold>) -> bool {
        let Role::Main(holds) = &mut self.role else { return false };
        let changed = !self.known || *holds != now;
        let there = |hold: Option<&Hold>| matches!(hold, Some(Hold::From { there: true, .. }));
        for (oid, hold) in &now {
            if there(Some(hold)) && !there(holds.get(oid)) {
                self.anew.insert(*oid);
            }
        }
        // one that was handed over, and is synced once more, may be under way
        let is_new = |(oid, hold): (&u32, &Hold)| match holds.get(oid) {
            None => true,
            Some(before) => *hold == Hold::Held && *before != Hold::Held,
        };
        if now.iter().any(is_new) {
            self.generation += 1;
        }
        *holds = now;
        self.known = true;
        changed
    }

    /// Of a sync: it is recorded that nothing behind `at` is its own.
    pub fn end_at(&mut self, at: Lsn) {
        if let Role::Sync { until, paused, .. } = &mut self.role {
            (*until, *paused) = (Some(at), false);
        }
    }

    /// Of a sync: where it ends, if that is known.
    pub fn until(&self) -> Option<Lsn> {
        match &self.role {
            Role::Sync { until, .. } => *until,
            Role::Main(_) => None,
        }
    }

    /// Somebody waits for what becomes of this stream.
    pub fn is_watched(&self) -> bool {
        !self.has_all()
    }
}

/// Chooses where a sync ends and the main stream goes on with `tables`: at `received`, or later. Neither writes anything
/// behind it, nor leaves it out, before it is recorded: then [`Share::end_at`] is to be told.
pub fn hand_over_at(main: &mut Share, sync: &mut Share, tables: &[u32], received: Lsn) -> Lsn {
    let at = received.max(main.decided).max(sync.decided);
    if let Role::Main(holds) = &mut main.role {
        for oid in tables {
            holds.insert(*oid, Hold::From { at, there: false });
        }
    }
    if let Role::Sync { paused, .. } = &mut sync.role {
        *paused = true;
    }
    at
}

#[cfg(test)]
#[path = "share_tests.rs"]
mod tests;
