//! Which batch is written when, and beside which others. Pure code; the target does what it says.
//!
//! Batches begin in stream order, each on a free session, as long as each is independent of all that are
//! under way ([`Plan::is_independent_of`]). Only the first of them, the *head*, may commit: commit order is stream
//! order. A batch without a commit (a part of a large transaction) and one that depends on another wait
//! until they are the head.
//!
//! What a plan does not show (a unique value that goes from one row to another, an exclusion
//! constraint, a trigger of the target's) shows as an error or as a wait for a lock, which is an error
//! soon. **An error counts only for a batch that was written alone.** Any other is rolled back with all
//! behind it, and these are written again alone, one after the other; and so are some more after them,
//! twice as many each time, as what happened once is likely to happen again.

use std::collections::VecDeque;
use std::sync::Arc;

use rsrepl_wire::{Lsn, Relation};

use super::schemas::Step as SchemaStep;
use crate::batch::Position;
use crate::plan::Plan;

/// Batches written alone after a failure in company, at first and at most.
const CAUTION: (u32, u32) = (4, 256);

/// A batch, planned.
#[derive(Debug, Default)]
pub struct Work {
    pub plan: Plan,
    /// The position that it goes on from.
    pub from: Lsn,
    pub commit: Option<Position>,
    /// More waits behind it.
    pub full: bool,
    /// To be done before the rows, of which there are none then.
    pub schema: Option<SchemaStep>,
    /// Tables to be recorded.
    pub seeds: Vec<Arc<Relation>>,
    /// Sessions forget what they know of tables when it changes.
    pub epoch: u64,
    /// It ends a batch.
    pub last: bool,
    /// The transactions that its changes are of, and perhaps others of the same batch.
    pub transactions: Vec<Position>,
}

impl Work {
    /// A part of a transaction; a table to be altered, or emptied, which may mean to wait for its readers;
    /// or a batch that there is nothing to write beside. Alone, it may wait for locks, and an error is its own.
    fn wants_to_be_alone(&self) -> bool {
        let locks = self.schema.is_some() || !self.plan.truncates.is_empty();
        self.commit.is_none() || locks || !self.full
    }
}

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// Write this on a free session.
    Start { writer: usize, work: Arc<Work>, alone: bool },
    /// Its predecessors are committed.
    Turn { writer: usize },
    /// It is to be rolled back: [`Order::taken_back`] is told when that is done.
    TakeBack { writer: usize },
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Order {
    queue: VecDeque<Entry>,
    /// Sessions without work.
    free: Vec<usize>,
    workers: usize,
    /// The session that has the first parts of a large transaction.
    open_on: Option<usize>,
    /// Batches that are to be written alone.
    alone_for: u32,
    caution: u32,
}

#[derive(Debug)]
struct Entry {
    work: Arc<Work>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Writing {
        writer: usize,
        alone: bool,
        turn: bool,
    },
    /// Its session has to be told.
    Doomed {
        writer: usize,
    },
    TakingBack {
        writer: usize,
    },
}

impl Order {
    /// `workers` sessions, numbered from 0.
    pub fn new(workers: usize) -> Order {
        Order {
            queue: VecDeque::new(),
            free: (0..workers).rev().collect(),
            workers,
            open_on: None,
            alone_for: 0,
            caution: CAUTION.0,
        }
    }

    /// Sessions were lost by an error in company: what comes next is written alone, and so tells whose it is.
    pub fn be_cautious(&mut self) {
        self.alone_for = CAUTION.0;
    }

    pub fn push(&mut self, work: Work) {
        self.queue.push_back(Entry { work: Arc::new(work), state: State::Waiting });
    }

    /// Batches that are not finished.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// The next step, if there is one before something happens.
    pub fn next(&mut self) -> Option<Step> {
        for entry in &mut self.queue {
            if let State::Doomed { writer } = entry.state {
                entry.state = State::TakingBack { writer };
                return Some(Step::TakeBack { writer });
            }
        }
        if let Some(Entry { state: State::Writing { writer, turn: turn @ false, .. }, .. }) =
            self.queue.front_mut()
        {
            *turn = true;
            return Some(Step::Turn { writer: *writer });
        }
        self.start()
    }

    fn start(&mut self) -> Option<Step> {
        let leaving =
            |entry: &Entry| matches!(entry.state, State::Doomed { .. } | State::TakingBack { .. });
        let busy = self.free.is_empty() && self.open_on.is_none();
        if busy || self.queue.iter().any(leaving) {
            return None;
        }
        let at = self.queue.iter().position(|entry| entry.state == State::Waiting)?;
        let (before, rest) = (self.queue.range(..at), self.queue.get(at)?);
        let alone = self.workers == 1
            || self.alone_for > 0
            || self.open_on.is_some()
            || rest.work.wants_to_be_alone();
        let may_join = |entry: &Entry| {
            let beside = matches!(entry.state, State::Writing { alone: false, .. });
            beside && !alone && entry.work.plan.is_independent_of(&rest.work.plan)
        };
        if !before.clone().all(may_join) {
            return None;
        }
        let writer = match self.open_on {
            Some(writer) => {
                self.free.retain(|free| *free != writer);
                writer
            }
            None => self.free.pop()?,
        };
        let entry = self.queue.get_mut(at)?;
        entry.state = State::Writing { writer, alone, turn: false };
        Some(Step::Start { writer, work: Arc::clone(&entry.work), alone })
    }

    /// The first of them all ends a batch.
    pub fn head_ends_batch(&self) -> bool {
        self.queue.front().is_some_and(|head| head.work.last)
    }

    /// The head has been committed, or, as a part, written.
    pub fn finished(&mut self, writer: usize) -> Option<Position> {
        let head = self.queue.pop_front()?;
        self.free.push(writer);
        self.open_on = head.work.commit.is_none().then_some(writer);
        match head.state {
            State::Writing { alone: true, .. } => {
                self.alone_for = self.alone_for.saturating_sub(1);
            }
            _ => self.caution = self.caution.saturating_sub(1).max(CAUTION.0),
        }
        head.work.commit
    }

    /// Whether a session writes its batch beside others.
    pub fn is_beside(&self, writer: usize) -> bool {
        let beside = State::Writing { writer, alone: false, turn: false };
        let in_turn = State::Writing { writer, alone: false, turn: true };
        self.queue.iter().any(|entry| entry.state == beside || entry.state == in_turn)
    }

    /// A session has failed, and rolled back. `false`: it wrote alone, so that the error counts.
    pub fn failed(&mut self, writer: usize) -> bool {
        let of_writer = |entry: &Entry| entry.state.writer() == Some(writer);
        let Some(at) = self.queue.iter().position(of_writer) else { return false };
        match self.queue.get(at).map(|entry| entry.state) {
            Some(State::Writing { alone: true, .. }) | None => return false,
            // it was to be rolled back anyway
            Some(State::TakingBack { .. } | State::Doomed { .. }) => {
                self.taken_back(writer);
                return true;
            }
            Some(_) => {}
        }
        let mut again = 0;
        for entry in self.queue.range_mut(at..) {
            let Some(other) = entry.state.writer() else { continue };
            again += 1;
            if other == writer {
                entry.state = State::Waiting;
            } else if matches!(entry.state, State::Writing { .. }) {
                entry.state = State::Doomed { writer: other };
            }
        }
        self.free.push(writer);
        self.alone_for = self.alone_for.max(again + self.caution);
        self.caution = (self.caution * 2).min(CAUTION.1);
        true
    }

    /// What was to be rolled back is.
    pub fn taken_back(&mut self, writer: usize) {
        for entry in &mut self.queue {
            if entry.state.writer() == Some(writer) {
                entry.state = State::Waiting;
                self.free.push(writer);
            }
        }
    }

    /// A session that writes nothing now, so that it can look at the WAL: there is one whenever nothing is
    /// being written. It may be the one that a large transaction is open on.
    pub fn free(&self) -> Option<usize> {
        self.free.last().copied()
    }

    /// No batch is under way and no transaction open, so that a free session may have one of its own.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.open_on.is_none()
    }
}

impl State {
    fn writer(self) -> Option<usize> {
        match self {
            State::Waiting => None,
            State::Writing { writer, .. }
            | State::Doomed { writer }
            | State::TakingBack { writer } => Some(writer),
        }
    }
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
