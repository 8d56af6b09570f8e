use proptest::prelude::*;

use super::*;
use crate::assemble::tests::relation;
use crate::batch::{Change, Operation};

/// A batch number `n`: what it does to tables, `None` for a TRUNCATE, and whether it ends with a commit.
fn work(n: u64, tables: &[(u8, Option<bool>)], commit: bool) -> Work {
    let row = || rsrepl_wire::Row(bytes::Bytes::from_static(&[0, 0, 0, 0, 0]));
    let changes = tables.iter().map(|(table, change)| Change {
        lsn: Lsn(n),
        end_lsn: Lsn(n),
        relation: Arc::new(relation(&format!("t{table}"))),
        operation: match change {
            Some(false) => Operation::Insert { new: row() },
            Some(true) => Operation::Update { old: None, new: row() },
            None => Operation::Truncate { restart_identity: false, parted: false },
        },
    });
    let commit = commit.then_some(Position { lsn: Lsn(n), ..Position::default() });
    let plan = Plan::new(changes.collect());
    Work { plan, from: Lsn(n - 1), commit, full: !n.is_multiple_of(3), ..Work::default() }
}

fn plan(tables: &[(u8, Option<bool>)]) -> Plan {
    work(1, tables, true).plan
}

#[test]
fn only_inserts_of_one_key_may_meet() {
    let (insert, update, truncate) = (Some(false), Some(true), None);
    for (a, b, independent) in [
        (vec![(1, insert)], vec![(1, insert)], true),
        (vec![(1, update)], vec![(2, update)], true),
        (vec![(1, insert)], vec![(1, update)], false),
        (vec![(1, insert), (2, update)], vec![(1, insert), (3, update)], true),
        (vec![(1, insert), (1, update)], vec![(1, insert)], false),
        (vec![(1, truncate)], vec![(2, insert)], false),
        (vec![], vec![(2, update)], true),
    ] {
        assert_eq!(plan(&a).is_independent_of(&plan(&b)), independent, "{a:?} {b:?}");
        assert_eq!(plan(&b).is_independent_of(&plan(&a)), independent, "{b:?} {a:?}");
    }
}

/// A session as `Order` was told to use it.
#[derive(Debug, Default)]
struct Session {
    work: Option<Arc<Work>>,
    alone: bool,
    turn: bool,
    taken_back: bool,
}

/// Plays the sessions, in an order that chance chooses.
struct Play {
    order: Order,
    sessions: Vec<Session>,
    committed: u64,
    /// Parts of a transaction written and not yet committed, and by whom.
    open_on: Option<usize>,
}

impl Play {
    fn proceed(&mut self) {
        while let Some(step) = self.order.next() {
            match step {
                Step::Start { writer, work, alone } => {
                    assert!(self.sessions[writer].work.is_none(), "it is busy");
                    if let Some(open) = self.open_on {
                        assert_eq!(open, writer, "the transaction is open on another");
                    }
                    for other in self.sessions.iter().filter_map(|session| session.work.as_ref()) {
                        assert!(other.plan.is_independent_of(&work.plan));
                        assert!(!alone && other.commit.is_some() && work.commit.is_some());
                    }
                    assert!(!self.sessions.iter().any(|s| s.work.is_some() && s.alone));
                    self.sessions[writer] =
                        Session { work: Some(work), alone, ..Session::default() };
                }
                Step::Turn { writer } => self.sessions[writer].turn = true,
                Step::TakeBack { writer } => self.sessions[writer].taken_back = true,
            }
        }
    }

    /// One session ends what it does; `fails`: badly, if it has company.
    fn end(&mut self, which: usize, fails: bool) {
        let may_end = |s: &Session| {
            s.work.as_ref().is_some_and(|w| s.turn || s.taken_back || w.commit.is_none() || fails)
        };
        let able: Vec<_> =
            (0..self.sessions.len()).filter(|i| may_end(&self.sessions[*i])).collect();
        let Some(writer) = able.get(which % able.len().max(1)).copied() else { return };
        if self.sessions[writer].alone && fails {
            return;
        }
        let session = std::mem::take(&mut self.sessions[writer]);
        let work = session.work.unwrap();
        if fails {
            assert!(self.order.failed(writer), "it was not alone");
        } else if session.taken_back {
            self.order.taken_back(writer);
        } else {
            assert_eq!(work.from, Lsn(self.committed), "commits are in order, each once");
            self.committed += 1;
            self.open_on = work.commit.is_none().then_some(writer);
            assert_eq!(self.order.finished(writer), work.commit);
        }
    }

    /// When nothing is being written, and so nothing can be told, a session is free to look at the WAL,
    /// also while a transaction is open; one of its own it may have only when none is.
    fn check_rest(&self) {
        let writing = self.sessions.iter().any(|session| session.work.is_some());
        match self.order.free() {
            Some(free) => assert!(self.sessions[free].work.is_none(), "it is busy"),
            None => assert!(writing, "nobody can look at the WAL"),
        }
        if self.order.is_idle() {
            assert!(!writing && self.open_on.is_none());
        }
        if !writing && self.order.len() == 0 && self.open_on.is_none() {
            assert!(self.order.is_idle(), "nobody can flush the WAL");
        }
    }
}

proptest! {
    /// Whatever fails and whichever session is fast: never two side by side that depend on each other,
    /// every batch once and in order, and it always goes on.
    #[test]
    fn batches_are_finished_once_and_in_order(
        workers in 1usize..5,
        batches in prop::collection::vec(
            (prop::collection::vec((0u8..4, prop::option::weighted(0.95, any::<bool>())), 0..3),
             prop::bool::weighted(0.9)),
            1..40,
        ),
        events in prop::collection::vec((any::<usize>(), prop::bool::weighted(0.2)), 0..200),
    ) {
        let sessions = (0..workers).map(|_| Session::default()).collect();
        let order = Order::new(workers);
        let mut play = Play { order, sessions, committed: 0, open_on: None };
        let count = batches.len() as u64;
        let mut batches = batches.iter().zip(1..);
        let mut events = events.into_iter();
        let mut idle_rounds = 0;
        while play.committed < count {
            while play.order.len() <= workers && let Some(((tables, commit), n)) = batches.next() {
                // the last one ends the transaction
                play.order.push(work(n, tables, *commit || n == count));
            }
            play.proceed();
            prop_assert!(play.sessions.iter().any(|session| session.work.is_some()), "it hangs");
            play.check_rest();
            let before = play.committed;
            match events.next() {
                Some((which, fails)) => play.end(which, fails),
                None => {
                    // from now on all goes well
                    (0..workers).for_each(|which| play.end(which, false));
                    idle_rounds = if play.committed > before { 0 } else { idle_rounds + 1 };
                    prop_assert!(idle_rounds < 3 * workers, "it hangs");
                }
            }
            play.check_rest();
        }
        prop_assert_eq!(play.order.len(), 0);
    }
}
