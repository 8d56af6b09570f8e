//! One target's task: reads the spool, assembles batches, hands them to the target and goes on gathering
//! while they are written, notes what has become durable, and tries again when something fails. Each
//! target has its own; none waits for another.
//!
//! Before a transaction is gathered it is asked what becomes of it (`control`), and before a batch is given out, which of
//! its changes are this stream's (`share`). Either may have it wait, and all behind it. What only waits for its turn in
//! `control` is not gathered; what waits in `share` is, and is gathered anew when a pause comes meanwhile.
//!
//! | module | subject |
//! |---|---|
//! | `open` | how a session begins |
//! | `session` | its place in the stream |
//! | `control` | what people ask of the target |
//! | `share` | what is this stream's while tables are copied anew beside it |

mod control;
mod open;
mod session;
mod share;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rsrepl_wire::{Begin, Lsn};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::session::Session;
use super::{LinkState, source_time};
use crate::assemble::{Checkpoint, Progress, Pushed};
use crate::batch::Batch;
use crate::config::BatchLimits;
use crate::control::{Control, Letters};
use crate::error::{Decision, Error, Kind, Result};
use crate::guard::guarded;
use crate::ledger::Ledger;
use crate::retry::{Backoff, STOPPED_RETRY};
use crate::spool::{Item, Reader};
use crate::status::{Status, TargetState};
use crate::sync::Share;
use crate::target::{Event, Target};
use crate::telemetry::Metrics;

/// Bytes of frames that may be applied and not yet durable before the target is told to hurry: until
/// then they stay in the spool, and a failure would have them sent again.
const APPLIED_BYTES: usize = 16 << 20;

/// What all target tasks share.
#[derive(Clone)]
pub(super) struct Shared {
    pub ledger: Arc<watch::Sender<Ledger>>,
    pub link: watch::Receiver<Option<LinkState>>,
    pub status: Status,
    pub metrics: Metrics,
    /// Ends waits and retries. What has been received is still applied: the spool's end ends a session.
    pub shutdown: CancellationToken,
}

/// See the module's documentation.
pub(super) struct Drive<T> {
    pub index: usize,
    pub name: String,
    pub target: T,
    pub reader: Reader,
    pub limits: BatchLimits,
    /// How long whole transactions may wait for more: nothing, or ClickHouse's `batch_interval`.
    pub linger: Duration,
    pub backoff: Backoff,
    pub shared: Shared,
    pub checkpoint: Checkpoint,
    /// It begins with a copy, and not where the slot is.
    pub copied: bool,
    /// Which changes are its own.
    pub share: Arc<watch::Sender<Share>>,
    /// The end of what it was given so far, in any session.
    pub reached: Lsn,
    /// A position that the source did not have when it was compared, and where its WAL ended. It may have passed the
    /// position since, with something else in that place.
    pub refused: Option<(Lsn, Lsn)>,
    /// What is asked of the target.
    pub control: Control,
    /// Where what is skipped goes.
    pub letters: Letters,
}

/// How a session ended that did not fail.
#[derive(Debug)]
enum End {
    /// There will be nothing more.
    Over,
    /// What has gathered is to be judged anew.
    Again,
}

impl<T: Target> Drive<T> {
    /// Runs until the spool is closed and applied, or shutdown finds the target failing.
    pub(super) async fn run(mut self) {
        loop {
            let failure = match guarded(self.session()).await {
                Ok(End::Over) => break,
                Ok(End::Again) => continue,
                Err(error) => error,
            };
            if self.shared.shutdown.is_cancelled() {
                warn!(target_name = self.name, error = %failure, "failed while shutting down; it goes on from its position at the next start");
                break;
            }
            let wait = self.after_failure(&failure);
            // the next attempt reads it again
            self.control.adopt();
            let generation = self.share.borrow().generation();
            let mut shares = self.share.subscribe();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // without the tables that a sync has now, it may get on
                _ = shares.wait_for(|share| share.generation() != generation) => {}
                // a skip, perhaps, of what failed
                () = self.control.changed() => {}
                () = self.shared.shutdown.cancelled() => break,
            }
        }
        self.target.close().await;
    }

    /// Notes the failure where people look, and gives the wait before the next attempt.
    fn after_failure(&mut self, failure: &Error) -> Duration {
        let wait = match failure.decision() {
            Decision::Retry => self.backoff.failed(),
            Decision::Stop => None,
        };
        let name = &self.name;
        let state = match wait {
            Some(wait) => {
                warn!(target_name = name, error = %failure, retry_in = ?wait, "target failed");
                TargetState::Retrying
            }
            None => {
                error!(target_name = name, error = %failure, look_again_in = ?STOPPED_RETRY, "target stopped; the others go on");
                TargetState::Stopped
            }
        };
        let wait = wait.unwrap_or(STOPPED_RETRY);
        let way_out = self.way_out(failure, state);
        self.shared.status.update_target(self.index, |status| {
            status.state = state;
            status.retries += 1;
            status.held = None;
            status.last_error = Some(format!("{failure}{way_out}"));
            status.next_attempt = Some(SystemTime::now() + wait);
        });
        // a frame that cannot be decoded may come whole the next time
        if failure.kind() == Kind::Frame {
            self.checkpoint = Checkpoint::default();
            self.reader.ask_for_rewind();
        }
        wait
    }

    async fn session(&mut self) -> Result<End> {
        self.letters.restart();
        let Some(link) = self.link_state().await else { return Ok(End::Over) };
        let mut session = self.open(link).await?;
        let mut shares = self.share.subscribe();
        if !self.shares_known(&mut shares).await || !self.control_known().await? {
            return Ok(End::Over);
        }
        info!(target_name = self.name, position = %session.stored, "target is open");
        loop {
            shares.mark_unchanged();
            self.obey(&mut session);
            self.gather(&mut session).await?;
            if self.hand_over(&mut session) {
                continue;
            }
            if session.ended {
                // what waits for another stream comes again
                if session.under_way.is_empty() {
                    return Ok(End::Over);
                }
                self.target.hurry();
            } else if session.turns {
                if !session.under_way.is_writing() {
                    info!(target_name = self.name, "what is asked of the target has changed");
                    return Ok(End::Again);
                }
                self.target.hurry();
            }
            self.note_idle(&mut session);
            self.note_share(&mut session);
            let due = self.note_wait(&mut session);
            let wake = [session.wake(self.linger), due].into_iter().flatten().min();
            let held = session.assembler.held().is_some();
            let gathers = session.gathers(self.limits) && !held;
            tokio::select! {
                biased;
                event = self.target.next() => self.happened(&mut session, event?),
                entry = self.reader.next(), if gathers => match entry {
                    Some((sequence, item)) => {
                        self.push(&mut session, sequence, item).await?;
                        self.letters.sync().await?;
                    }
                    None => session.ended = true,
                },
                () = self.control.changed() => {}
                // what waits comes again, at its time
                () = self.shared.shutdown.cancelled(), if held && !session.ended => session.ended = true,
                // its sender is ours
                _ = shares.changed() => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Takes what is in the spool, up to a full batch.
    async fn gather(&mut self, session: &mut Session) -> Result<()> {
        if session.assembler.held().is_some() && !session.turns && !session.ended {
            let control = &self.control;
            session.assembler.go_on(|begin| control.verdict(begin))?;
            self.taken_in(session)?;
        }
        while session.gathers(self.limits)
            && session.assembler.held().is_none()
            && let Some((sequence, item)) = self.reader.try_next()
        {
            self.push(session, sequence, item).await?;
            // what is skipped fills nothing, however much it is: others have their turn
            tokio::task::coop::consume_budget().await;
        }
        self.letters.sync().await
    }

    async fn push(&mut self, session: &mut Session, sequence: u64, item: Item) -> Result<()> {
        self.check_timeline(session)?;
        let control = &self.control;
        let judge = |begin: &Begin| control.verdict(begin);
        if session.assembler.push_judged(sequence, item, judge)? == Pushed::TakeBack {
            // the target holds a part of a transaction that will come again: opening rolls it back;
            // also while shutting down, as all of it may be here already
            while session.under_way.is_writing() {
                self.target.hurry();
                let event = self.target.next().await?;
                self.happened(session, event);
            }
            let link = self.shared.link.borrow().clone();
            let link = link.ok_or_else(|| Error::new(Kind::Internal, "a cut before a source"))?;
            let stored = self.target.open(&link.source.identity).await?;
            if stored != session.applied {
                let message = format!(
                    "target {} stands at {stored}, and should at {}",
                    self.name, session.applied
                );
                return Err(Error::new(Kind::Server, message));
            }
            session.under_way.taken_back();
            // without a commit it is a part of the same transaction
            session.held_back.take_if(|(batch, _)| batch.commit.is_none());
            self.happened(session, Event::Durable(stored));
        }
        self.taken_in(session)
    }

    /// Gives the target what is due, if it has room for it.
    fn hand_over(&mut self, session: &mut Session) -> bool {
        let full = session.is_full(self.limits);
        if !session.under_way.has_room() || !self.target.has_room(full) {
            return false;
        }
        if session.turns {
            return false;
        }
        if let Some((batch, checkpoint)) = session.held_back.take() {
            return self.give_share(session, batch, checkpoint);
        }
        let waited = session.waiting_since.is_some_and(|since| since.elapsed() >= self.linger);
        if full || (session.assembler.has_whole() && (waited || session.ended)) {
            let (mut batch, checkpoint) = session.assembler.take();
            batch.full = full;
            session.waiting_since = None;
            return self.give_share(session, batch, checkpoint);
        }
        // what is already given says nothing new, and waits for its place behind it
        let next =
            |progress: &Progress| progress.lsn > session.given || !session.under_way.is_writing();
        let wanted = self.share.borrow().until().filter(|until| session.given < *until);
        let due = |progress: &Progress| {
            let asked = wanted.is_some_and(|wanted| progress.lsn >= wanted);
            next(progress) && (asked || session.ended || session.is_due(*progress))
        };
        match session.assembler.progress().filter(due) {
            Some(progress) => {
                self.store_progress(session, progress);
                true
            }
            None => false,
        }
    }

    fn give(&mut self, session: &mut Session, batch: Batch, checkpoint: Option<Checkpoint>) {
        session.under_way.handed_over(&batch, checkpoint);
        if let Some(commit) = batch.commit {
            session.given = commit.lsn;
            session.given_at = Instant::now();
            self.reached = self.reached.max(commit.lsn);
        }
        self.target.submit(batch);
    }

    /// Nothing has gathered, and nothing of the source's is left up to here.
    fn store_progress(&mut self, session: &mut Session, progress: Progress) {
        let checkpoint = session.assembler.progress_stored(progress);
        if progress.lsn > session.given {
            self.give(session, Batch::progress(progress.lsn), Some(checkpoint));
        } else if session.under_way.is_empty() {
            self.stored(session, session.stored, checkpoint);
        } else {
            // behind what is under way; with it, it becomes durable
            session.under_way.wait_for(session.given, 0, checkpoint);
        }
        if progress.urgent {
            self.target.hurry();
        }
    }

    fn happened(&mut self, session: &mut Session, event: Event) {
        match event {
            Event::Room => {}
            Event::Applied => self.applied(session),
            Event::Durable(lsn) => {
                if let Some(checkpoint) = session.under_way.durable(lsn) {
                    self.stored(session, lsn, checkpoint);
                }
            }
        }
    }

    /// The oldest batch under way shows on the target, or is written as a part of what will.
    fn applied(&mut self, session: &mut Session) {
        let Some(written) = session.under_way.written() else { return };
        let batches = u64::from(!written.is_progress());
        if !written.is_progress() {
            self.shared.metrics.observe_batch(self.index, written.rows, written.since.elapsed());
        }
        self.shared.status.update_target(self.index, |status| {
            status.events += written.rows as u64;
            status.transactions += written.transactions;
            status.batches += batches;
            if let Some(commit) = written.commit {
                status.applied = commit.lsn;
                if commit.xid != 0 {
                    status.applied_commit_time = Some(source_time(commit.commit_time));
                }
            }
        });
        if let (Some(checkpoint), Some(commit)) = (written.checkpoint, written.commit) {
            session.applied = commit.lsn;
            self.reader.applied(checkpoint.sequence);
            session.under_way.wait_for(commit.lsn, written.bytes, checkpoint);
            if session.under_way.applied_bytes() > APPLIED_BYTES || session.under_way.is_full() {
                self.target.hurry();
            }
            self.works(session);
        }
    }

    /// Says so when nothing is left to do of all that was received. (After a rewind the spool may be
    /// empty although what failed has yet to come again.)
    fn note_idle(&mut self, session: &mut Session) {
        let idle = session.is_idle(self.reader.received());
        if idle && !session.was_idle {
            self.works(session);
        }
        session.was_idle = idle;
    }

    /// The target has got through with something, or has nothing to do: what was wrong is history. To
    /// be open is not enough, or a target that fails at each attempt would seem to run in between.
    fn works(&mut self, session: &Session) {
        self.backoff.reset();
        let waits = self.waits_because(session);
        self.shared.status.update_target(self.index, |status| {
            status.works();
            if waits.is_some() {
                (status.state, status.last_error) = (TargetState::Retrying, waits);
            }
        });
    }

    /// Everything up to `position` is durable: the spool may forget, the slot may move on.
    fn stored(&mut self, session: &mut Session, position: Lsn, checkpoint: Checkpoint) {
        session.stored = session.stored.max(position);
        self.reader.checkpoint(checkpoint.sequence);
        self.checkpoint = checkpoint;
        self.shared.ledger.send_modify(|ledger| ledger.applied(self.index, session.stored));
        self.control.stored(session.stored);
        self.letters.passed(session.stored);
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "drive_tests.rs"]
mod tests;
