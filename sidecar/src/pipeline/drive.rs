//! One target's task: reads the spool, assembles batches, hands them to the target and goes on gathering
//! while they are written, notes what has become durable, and tries again when something fails. Each
//! target has its own; none waits for another.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rsrepl_wire::Lsn;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::under_way::UnderWay;
use super::{LinkState, source_time};
use crate::assemble::{Assembler, Checkpoint, Progress, Pushed};
use crate::batch::Batch;
use crate::config::BatchLimits;
use crate::error::{Decision, Error, Kind, Result};
use crate::guard::guarded;
use crate::ledger::Ledger;
use crate::retry::{Backoff, STOPPED_RETRY};
use crate::source::verify_position;
use crate::spool::{Item, Reader};
use crate::status::{Status, TargetState};
use crate::sync::Share;
use crate::target::{Event, Target};
use crate::telemetry::Metrics;

/// Progress without changes is stored on a target at least this often (and so confirmed to the slot),
/// or when it has grown by [`PROGRESS_BYTES`], or at once when the source waits for it.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// WAL bytes without changes after which progress is stored before its time.
const PROGRESS_BYTES: u64 = 16 << 20;

/// Bytes of frames in one batch, whatever the number of rows: bounds the memory of a target.
const BATCH_BYTES_MAX: usize = 8 << 20;

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
}

/// One session's place in the stream.
struct Session {
    /// The source's timeline, which positions are stored with.
    timeline: u32,
    assembler: Assembler,
    under_way: UnderWay,
    /// What the assembler has given out and the target has not got: it waits for another stream.
    held_back: Option<(Batch, Option<Checkpoint>)>,
    /// The table that it waits for, when another one of its name has come.
    clash: Option<String>,
    /// A generation of the share, and what was given before it.
    settling: Option<(u64, Lsn)>,
    /// The end of what the target was last told to hurry with.
    hurried: Lsn,
    /// The end of what the target was given.
    given: Lsn,
    given_at: Instant,
    /// The end of what the target shows.
    applied: Lsn,
    /// The end of what is durable on the target.
    stored: Lsn,
    /// Since when a whole transaction has waited.
    waiting_since: Option<Instant>,
    /// The last look into the spool found nothing to do.
    was_idle: bool,
    /// The spool is closed and has been read to its end.
    ended: bool,
}

impl<T: Target> Drive<T> {
    /// Runs until the spool is closed and applied, or shutdown finds the target failing.
    pub(super) async fn run(mut self) {
        loop {
            let failure = match guarded(self.session()).await {
                Ok(()) => break,
                Err(error) => error,
            };
            if self.shared.shutdown.is_cancelled() {
                warn!(target_name = self.name, error = %failure, "failed while shutting down; it goes on from its position at the next start");
                break;
            }
            let wait = self.after_failure(&failure);
            let generation = self.share.borrow().generation();
            let mut shares = self.share.subscribe();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // without the tables that a sync has now, it may get on
                _ = shares.wait_for(|share| share.generation() != generation) => {}
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
        self.shared.status.update_target(self.index, |status| {
            status.state = state;
            status.retries += 1;
            status.last_error = Some(failure.to_string());
            status.next_attempt = Some(SystemTime::now() + wait);
        });
        // a frame that cannot be decoded may come whole the next time
        if failure.kind() == Kind::Frame {
            self.checkpoint = Checkpoint::default();
            self.reader.ask_for_rewind();
        }
        wait
    }

    async fn session(&mut self) -> Result<()> {
        let Some(link) = self.link_state().await else { return Ok(()) };
        let mut session = self.open(link).await?;
        let mut shares = self.share.subscribe();
        if !self.shares_known(&mut shares).await {
            return Ok(());
        }
        info!(target_name = self.name, position = %session.stored, "target is open");
        loop {
            shares.mark_unchanged();
            self.gather(&mut session).await?;
            if self.hand_over(&mut session) {
                continue;
            }
            if session.ended {
                // what waits for another stream comes again
                if session.under_way.is_empty() {
                    return Ok(());
                }
                self.target.hurry();
            }
            self.note_idle(&mut session);
            self.note_share(&mut session);
            let wake = session.wake(self.linger);
            let gathers = !session.ended && !session.is_full(self.limits);
            tokio::select! {
                biased;
                event = self.target.next() => self.happened(&mut session, event?),
                entry = self.reader.next(), if gathers => match entry {
                    Some((sequence, item)) => self.push(&mut session, sequence, item).await?,
                    None => session.ended = true,
                },
                // its sender is ours
                _ = shares.changed() => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    /// What the source task knows of the source, once it has been connected; `None` at shutdown.
    async fn link_state(&mut self) -> Option<LinkState> {
        let shutdown = self.shared.shutdown.clone();
        tokio::select! {
            link = self.shared.link.wait_for(Option::is_some) => link.ok()?.clone(),
            () = shutdown.cancelled() => None,
        }
    }

    async fn open(&mut self, link: LinkState) -> Result<Session> {
        let mut stored = self.target.open(&link.source.identity).await?;
        // what was confirmed may have risen while the target was being opened
        let confirmed = self.shared.link.borrow().as_ref().map_or(link.confirmed, |l| l.confirmed);
        // What was received since is no measure: a source that was restored from a backup sends other changes under
        // the LSNs of those that this target has.
        let wal_end = match self.refused {
            Some((position, wal_end)) if position == stored => wal_end,
            _ => link.source.wal_end.max(self.reached),
        };
        let slot = &link.source.identity.slot;
        // what is not in a spool on disk the source may not have any more, and the other way round
        let least = self.reader.begin();
        verify_position(slot, &self.name, stored, least.unwrap_or(confirmed), wal_end)
            .inspect_err(|_| self.refused = (stored > wal_end).then_some((stored, wal_end)))?;
        if stored == Lsn::INVALID && self.copied {
            return Err(new_target(&self.name));
        }
        if stored == Lsn::INVALID {
            let from = confirmed.max(least.unwrap_or(Lsn::INVALID));
            info!(target_name = self.name, %from, "new target: it gets what is committed from here on, not the rows that are already there");
            self.store_first(from).await?;
            stored = from;
        }
        let went_back = stored < self.checkpoint.position;
        if let Some(begin) = least
            && (went_back || self.checkpoint.position == Lsn::INVALID)
        {
            if went_back {
                warn!(target_name = self.name, %stored, expected = %self.checkpoint.position, "target went back");
            }
            self.checkpoint = Checkpoint::default();
            if !self.reader.seek(stored) {
                // it has just been given up, as this target had seemed to need it no more
                let begin = self.reader.begin().unwrap_or(begin);
                verify_position(slot, &self.name, stored, begin, wal_end)?;
            }
        } else if went_back {
            // it has lost what it had stored, but the slot can still send it again
            warn!(target_name = self.name, stored = %stored, expected = %self.checkpoint.position, "target went back");
            self.checkpoint = Checkpoint::default();
            self.reader.ask_for_rewind();
        } else if self.reader.restart().is_err() {
            info!(
                target_name = self.name,
                "goes on in a transaction that the spool no longer holds whole: the source sends it again"
            );
            self.checkpoint = Checkpoint::default();
        }
        self.shared.ledger.send_modify(|ledger| ledger.opened(self.index, stored));
        self.share.send_modify(|share| share.opened(stored));
        self.shared.status.update_target(self.index, |status| status.applied = stored);
        Ok(Session {
            timeline: link.source.identity.timeline,
            assembler: Assembler::resume(&self.checkpoint, stored),
            under_way: UnderWay::default(),
            held_back: None,
            clash: None,
            settling: None,
            hurried: stored,
            given: stored,
            given_at: Instant::now(),
            applied: stored,
            stored,
            waiting_since: None,
            was_idle: false,
            ended: false,
        })
    }

    /// Waits until it is known what is held of this stream. `false`: shutdown came first.
    async fn shares_known(&self, shares: &mut watch::Receiver<Share>) -> bool {
        tokio::select! {
            known = shares.wait_for(|share| share.known) => known.is_ok(),
            () = self.shared.shutdown.cancelled() => false,
        }
    }

    /// The position of a new target.
    async fn store_first(&mut self, lsn: Lsn) -> Result<()> {
        self.target.submit(Batch::progress(lsn));
        self.target.hurry();
        while self.target.next().await? != Event::Durable(lsn) {}
        Ok(())
    }

    /// Takes what is in the spool, up to a full batch.
    async fn gather(&mut self, session: &mut Session) -> Result<()> {
        while !session.is_full(self.limits)
            && let Some((sequence, item)) = self.reader.try_next()
        {
            self.push(session, sequence, item).await?;
            // what is skipped fills nothing, however much it is: others have their turn
            tokio::task::coop::consume_budget().await;
        }
        Ok(())
    }

    async fn push(&mut self, session: &mut Session, sequence: u64, item: Item) -> Result<()> {
        self.check_timeline(session)?;
        if session.assembler.push(sequence, item)? == Pushed::TakeBack {
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
        if session.assembler.skips() {
            self.reader.skip();
        }
        if session.assembler.has_whole() && session.waiting_since.is_none() {
            session.waiting_since = Some(Instant::now());
        }
        Ok(())
    }

    /// What comes from a source that was promoted is stored with its new timeline: under the old one, the position would
    /// lie behind the point where that was left. The receiver tells of a source before it passes on what that sends.
    fn check_timeline(&self, session: &Session) -> Result<()> {
        let now = self.shared.link.borrow().as_ref().map(|link| link.source.identity.timeline);
        match now {
            Some(now) if now != session.timeline => {
                let message = format!(
                    "the source has gone on from timeline {} to {now}: target {} is opened anew for it",
                    session.timeline, self.name
                );
                Err(Error::new(Kind::Connection, message))
            }
            _ => Ok(()),
        }
    }

    /// Gives the target what is due, if it has room for it.
    fn hand_over(&mut self, session: &mut Session) -> bool {
        let full = session.is_full(self.limits);
        if !session.under_way.has_room() || !self.target.has_room(full) {
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

    /// Gives what is this stream's of a batch; `false`: it has to wait.
    fn give_share(
        &mut self,
        session: &mut Session,
        mut batch: Batch,
        checkpoint: Option<Checkpoint>,
    ) -> bool {
        let (mut taken, mut clash) = (false, None);
        // no news for who looks at it
        self.share.send_if_modified(|share| {
            taken = share.take(&mut batch);
            clash = share.clash().map(str::to_owned);
            false
        });
        if session.clash != clash {
            session.clash = clash;
            if let Some(why) = self.waits_because(session) {
                warn!(target_name = self.name, "{why}");
            }
            self.works(session);
        }
        match taken {
            true => self.give(session, batch, checkpoint),
            false => session.held_back = Some((batch, checkpoint)),
        }
        taken
    }

    /// Why nothing more is written, although nothing has failed.
    fn waits_because(&self, session: &Session) -> Option<String> {
        session.clash.as_ref().map(|table| {
            format!(
                "target {}: {table} on the source is another table now than the one that is being copied anew: nothing more \
                 is written to this target until that has ended",
                self.name
            )
        })
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

    /// Tells who looks after syncs how far this is.
    fn note_share(&mut self, session: &mut Session) {
        let (generation, until, watched) = {
            let share = self.share.borrow();
            (share.generation(), share.until(), share.is_watched())
        };
        // what is behind a part of a transaction belongs to it
        let new = session.settling.is_none_or(|(seen, _)| seen < generation);
        if new && !session.under_way.is_open() {
            session.settling = Some((generation, session.given));
        }
        let settled = session.settling.filter(|(_, given)| session.applied >= *given);
        let (reached, stored) = (session.reached(), session.stored);
        self.share.send_if_modified(|share| {
            let settled = settled.is_some_and(|(generation, _)| {
                let before = share.is_settled();
                share.settle(generation);
                share.is_settled() != before
            });
            let moved = (share.reached, share.stored) != (reached, stored);
            (share.reached, share.stored) = (reached, stored);
            settled || moved && watched
        });
        let waited_for =
            until.is_some_and(|until| session.stored < until && session.given >= until);
        if waited_for && session.hurried < session.given {
            session.hurried = session.given;
            self.target.hurry();
        }
    }

    /// The target has got through with something, or has nothing to do: what was wrong is history. To
    /// be open is not enough, or a target that fails at each attempt would seem to run in between.
    fn works(&mut self, session: &Session) {
        self.backoff.reset();
        let waits = self.waits_because(session);
        self.shared.status.update_target(self.index, |status| {
            status.state =
                if waits.is_some() { TargetState::Retrying } else { TargetState::Running };
            status.next_attempt = None;
            status.last_error = waits;
        });
    }

    /// Everything up to `position` is durable: the spool may forget, the slot may move on.
    fn stored(&mut self, session: &mut Session, position: Lsn, checkpoint: Checkpoint) {
        session.stored = session.stored.max(position);
        self.reader.checkpoint(checkpoint.sequence);
        self.checkpoint = checkpoint;
        self.shared.ledger.send_modify(|ledger| ledger.applied(self.index, session.stored));
    }
}

impl Session {
    /// A batch is full: whole transactions, or a part of a large one.
    fn is_full(&self, limits: BatchLimits) -> bool {
        let (rows, bytes) = (self.assembler.rows(), self.assembler.bytes());
        let full = rows >= limits.rows || bytes >= BATCH_BYTES_MAX;
        full && (rows > 0 || self.assembler.has_whole())
    }

    fn is_idle(&self, received: Lsn) -> bool {
        let nothing = self.assembler.rows() == 0 && !self.assembler.has_whole();
        let nothing = nothing && self.held_back.is_none();
        nothing && !self.under_way.is_writing() && self.reached() >= received
    }

    /// All that was received up to here was given, or was none of the target's.
    fn reached(&self) -> Lsn {
        let progress = self.assembler.progress().filter(|_| self.held_back.is_none());
        progress.map_or(self.given, |progress| progress.lsn.max(self.given))
    }

    fn is_due(&self, progress: Progress) -> bool {
        progress.urgent
            || self.given_at.elapsed() >= PROGRESS_INTERVAL
            || progress.lsn.0.saturating_sub(self.given.0) >= PROGRESS_BYTES
    }

    /// When there will be something to hand over if nothing else happens.
    fn wake(&self, linger: Duration) -> Option<Instant> {
        match (self.waiting_since, self.assembler.progress()) {
            (Some(since), _) => Some(since + linger),
            (None, Some(_)) => Some(self.given_at + PROGRESS_INTERVAL),
            (None, None) => None,
        }
        // what has waited long enough waits for room, and so for an event
        .filter(|at| *at > Instant::now())
    }
}

/// The others stream, and a copy would hold them up.
fn new_target(name: &str) -> Error {
    let what = format!(
        "target {name} has no position and no rows yet, and an initial copy is only made by itself when all targets are new"
    );
    Error::new(Kind::Setup, what).hint(
        "stop the sidecar and run `rsrepl copy -c FILE` (the other targets wait meanwhile, and nothing is lost); \
         or load its tables by hand and set copy.data = false",
    )
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
