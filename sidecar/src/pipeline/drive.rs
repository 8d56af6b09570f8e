//! One target's task: reads the spool, assembles batches, has them applied, stores positions, and tries
//! again when something fails. Each target has its own; none waits for another.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rsrepl_wire::Lsn;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{LinkState, guarded, source_time};
use crate::assemble::{Assembler, Checkpoint, Progress, Pushed};
use crate::batch::{Batch, Position};
use crate::config::BatchLimits;
use crate::error::{Decision, Error, Kind, Result};
use crate::ledger::Ledger;
use crate::retry::{Backoff, STOPPED_RETRY};
use crate::source::verify_position;
use crate::spool::{Item, Reader};
use crate::status::{Status, TargetState};
use crate::target::Target;
use crate::telemetry::Metrics;

/// Progress without changes is stored on a target at least this often (and so confirmed to the slot),
/// or when it has grown by [`PROGRESS_BYTES`], or at once when the source waits for it.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// WAL bytes without changes after which progress is stored before its time.
const PROGRESS_BYTES: u64 = 16 << 20;

/// Bytes of frames in one batch, whatever the number of rows: bounds the memory of a target.
const BATCH_BYTES_MAX: usize = 8 << 20;

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
}

/// One session's place in the stream.
struct Session {
    assembler: Assembler,
    /// What the target has stored.
    stored: Lsn,
    stored_at: Instant,
    /// The last look into the spool found nothing to do.
    was_idle: bool,
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
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
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
        info!(target_name = self.name, position = %session.stored, "target is open");
        loop {
            let more = self.gather(&mut session).await?;
            if session.assembler.rows() > 0 || session.assembler.has_whole() {
                if more || session.assembler.has_whole() {
                    self.apply(&mut session).await?;
                }
            } else if let Some(progress) = session.assembler.progress() {
                self.store_progress(&mut session, progress).await?;
            }
            if !more && !session.assembler.has_whole() {
                return Ok(());
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
        let wal_end = link.source.wal_end.max(self.reader.received());
        let slot = &link.source.identity.slot;
        verify_position(slot, &self.name, stored, confirmed, wal_end)?;
        if stored == Lsn::INVALID {
            info!(target_name = self.name, from = %confirmed, "new target: it gets what is committed from here on, not the rows that are already there");
            let position = Position { lsn: confirmed, ..Position::default() };
            self.target.apply(Batch { commit: Some(position), ..Batch::default() }).await?;
            stored = confirmed;
        }
        if stored < self.checkpoint.position {
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
        self.shared.status.update_target(self.index, |status| status.applied = stored);
        let assembler = Assembler::resume(&self.checkpoint, stored);
        Ok(Session { assembler, stored, stored_at: Instant::now(), was_idle: false })
    }

    /// Reads the spool until there is something to do: a full batch, whole transactions that have
    /// waited long enough, or progress that is due. `false` when the spool has ended.
    async fn gather(&mut self, session: &mut Session) -> Result<bool> {
        let mut linger_until = None;
        loop {
            let assembler = &session.assembler;
            let full = assembler.rows() >= self.limits.rows || assembler.bytes() >= BATCH_BYTES_MAX;
            if full && (assembler.rows() > 0 || assembler.has_whole()) {
                return Ok(true);
            }
            if let Some((sequence, item)) = self.reader.try_next() {
                self.push(session, sequence, item).await?;
                continue;
            }
            let idle = session.is_idle(self.reader.received());
            if idle && !session.was_idle {
                self.works();
            }
            session.was_idle = idle;
            let assembler = &session.assembler;
            let wake = if assembler.has_whole() {
                *linger_until.get_or_insert_with(|| Instant::now() + self.linger)
            } else {
                match assembler.progress() {
                    Some(progress) if session.is_due(progress) => return Ok(true),
                    _ => session.stored_at + PROGRESS_INTERVAL,
                }
            };
            if assembler.has_whole() && wake <= Instant::now() {
                return Ok(true);
            }
            let wake = wake.max(Instant::now() + Duration::from_millis(1));
            match tokio::time::timeout_at(wake.into(), self.reader.next()).await {
                Ok(Some((sequence, item))) => self.push(session, sequence, item).await?,
                Ok(None) => return Ok(false),
                Err(_) if assembler.has_whole() => return Ok(true),
                // nothing to store either: look again in a while
                Err(_) if assembler.progress().is_none() => session.stored_at = Instant::now(),
                Err(_) => {}
            }
        }
    }

    async fn push(&mut self, session: &mut Session, sequence: u64, item: Item) -> Result<()> {
        if session.assembler.push(sequence, item)? == Pushed::TakeBack {
            // the target holds a part of a transaction that will come again: opening rolls it back;
            // also while shutting down, as all of it may be here already
            let link = self.shared.link.borrow().clone();
            let link = link.ok_or_else(|| Error::new(Kind::Internal, "a cut before a source"))?;
            let stored = self.target.open(&link.source.identity).await?;
            if stored != session.stored {
                let message = format!(
                    "target {} stands at {stored}, and should at {}",
                    self.name, session.stored
                );
                return Err(Error::new(Kind::Server, message));
            }
        }
        Ok(())
    }

    async fn apply(&mut self, session: &mut Session) -> Result<()> {
        let (batch, checkpoint) = session.assembler.take();
        let (rows, transactions, commit) = (batch.changes.len(), batch.transactions, batch.commit);
        let started = Instant::now();
        self.target.apply(batch).await?;
        self.shared.metrics.observe_batch(self.index, rows, started.elapsed());
        self.shared.status.update_target(self.index, |status| {
            status.events += rows as u64;
            status.transactions += transactions;
            status.batches += 1;
            if let Some(commit) = commit {
                status.applied_commit_time = Some(source_time(commit.commit_time));
            }
        });
        if let (Some(checkpoint), Some(commit)) = (checkpoint, commit) {
            self.works();
            self.stored(session, commit.lsn, checkpoint);
        }
        Ok(())
    }

    async fn store_progress(&mut self, session: &mut Session, progress: Progress) -> Result<()> {
        if progress.lsn > session.stored {
            let position = Position { lsn: progress.lsn, ..Position::default() };
            self.target.apply(Batch { commit: Some(position), ..Batch::default() }).await?;
            self.works();
        }
        let checkpoint = session.assembler.progress_stored(progress);
        self.stored(session, progress.lsn, checkpoint);
        Ok(())
    }

    /// The target has got through with something, or has nothing to do: what was wrong is history. To
    /// be open is not enough, or a target that fails at each attempt would seem to run in between.
    fn works(&mut self) {
        self.backoff.reset();
        self.shared.status.update_target(self.index, |status| {
            status.state = TargetState::Running;
            status.next_attempt = None;
            status.last_error = None;
        });
    }

    /// The target has stored `position`: the spool may forget, the slot may move on.
    fn stored(&mut self, session: &mut Session, position: Lsn, checkpoint: Checkpoint) {
        session.stored = session.stored.max(position);
        session.stored_at = Instant::now();
        self.reader.checkpoint(checkpoint.sequence);
        self.checkpoint = checkpoint;
        self.shared.status.update_target(self.index, |status| status.applied = session.stored);
        self.shared.ledger.send_modify(|ledger| ledger.applied(self.index, session.stored));
    }
}

impl Session {
    /// Nothing is left to do of all that was `received`. (After a rewind the spool may be empty although
    /// what failed has yet to come again.)
    fn is_idle(&self, received: Lsn) -> bool {
        let nothing = self.assembler.rows() == 0 && !self.assembler.has_whole();
        let reached = self.assembler.progress().map_or(self.stored, |p| p.lsn.max(self.stored));
        nothing && reached >= received
    }

    fn is_due(&self, progress: Progress) -> bool {
        progress.urgent
            || self.stored_at.elapsed() >= PROGRESS_INTERVAL
            || progress.lsn.0.saturating_sub(self.stored.0) >= PROGRESS_BYTES
    }
}

#[cfg(test)]
#[path = "drive_tests.rs"]
mod tests;
