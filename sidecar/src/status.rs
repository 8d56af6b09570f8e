//! What the pipeline knows of itself. The pipeline writes it; metrics, probes and the reports to the
//! source read it. It decides nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rsrepl_wire::Lsn;

use crate::batch::Position;
use crate::control::letters::time_text;
use crate::copy::Progress;
use crate::spool::OnDisk;

/// A target that is further behind than this, not counting a delay that it is to keep, is catching up; and one that
/// was, until it is less than half as far behind.
const CATCHING_UP: Duration = Duration::from_secs(10);

/// Shared by all tasks; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Status(Arc<Mutex<Snapshot>>, Progress);

#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub source: SourceStatus,
    /// In the order of the configuration.
    pub targets: Vec<TargetStatus>,
}

#[derive(Clone, Debug, Default)]
pub struct SourceStatus {
    pub connected: bool,
    /// End of the last complete transaction or keepalive received.
    pub received: Lsn,
    /// The server's WAL end as it last said.
    pub server_wal_end: Lsn,
    /// Last position confirmed to the slot as flushed.
    pub confirmed: Lsn,
    /// When anything last came from the source.
    pub last_message: Option<Instant>,
    pub reconnects: u64,
    /// Without secrets.
    pub last_error: Option<String>,
    /// End of what is in the spool: durable, when it is on disk.
    pub spooled: Lsn,
    /// Bytes of frames in the spool, in memory.
    pub spool_bytes: u64,
    /// With `confirm = "spooled"`.
    pub spool: Option<OnDisk>,
    /// Bytes on disk of transactions in progress, and of those that are not applied everywhere.
    pub streamed_bytes: u64,
    /// Transactions in progress of which something has come.
    pub open_streams: u64,
    /// There was no room for them, so that large transactions come after their commits for a while.
    pub streaming_refused: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetState {
    /// Connecting, checking.
    #[default]
    Starting,
    /// Applying what committed a while ago.
    CatchingUp,
    /// Applying, or waiting for changes.
    Running,
    /// Waiting for its next attempt after an error.
    Retrying,
    /// An error that its owner must mend; the others go on. It is looked at every now and then.
    Stopped,
    /// Nothing is handed over, as its owner wishes.
    Paused,
    /// The next transaction is not due yet by its `apply_delay`.
    Delayed,
}

impl TargetState {
    /// Lower case, as reported and labelled.
    pub const fn as_str(self) -> &'static str {
        match self {
            TargetState::Starting => "starting",
            TargetState::CatchingUp => "catching_up",
            TargetState::Running => "running",
            TargetState::Retrying => "retrying",
            TargetState::Stopped => "stopped",
            TargetState::Paused => "paused",
            TargetState::Delayed => "delayed",
        }
    }

    /// All of them.
    pub const ALL: [TargetState; 7] = [
        TargetState::Starting,
        TargetState::CatchingUp,
        TargetState::Running,
        TargetState::Retrying,
        TargetState::Stopped,
        TargetState::Paused,
        TargetState::Delayed,
    ];

    /// It is open, and does what its owner wants of it.
    pub const fn is_well(self) -> bool {
        !matches!(self, TargetState::Starting | TargetState::Retrying | TargetState::Stopped)
    }

    /// It is behind on purpose.
    pub const fn waits(self) -> bool {
        matches!(self, TargetState::Paused | TargetState::Delayed)
    }

    /// The nearest of the four states that there were at first: what an extension of that time takes.
    pub const fn basic(self) -> TargetState {
        match self {
            TargetState::CatchingUp | TargetState::Paused | TargetState::Delayed => {
                TargetState::Running
            }
            basic => basic,
        }
    }
}

/// The kind of a target, as labelled in metrics and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    Postgres,
    ClickHouse,
}

impl TargetKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            TargetKind::Postgres => "postgres",
            TargetKind::ClickHouse => "clickhouse",
        }
    }
}

/// Counters since the start of the process.
#[derive(Clone, Debug)]
pub struct TargetStatus {
    pub name: String,
    pub kind: TargetKind,
    pub state: TargetState,
    /// End of the last transaction that the target shows, or of what had nothing for it.
    pub applied: Lsn,
    /// Commit time of that transaction on the source.
    pub applied_commit_time: Option<SystemTime>,
    /// Commit time of the oldest transaction received and not yet applied; `None` when there is none
    /// (idle: lag is 0 seconds).
    pub pending_since: Option<SystemTime>,
    /// Bytes of WAL between `applied` and what was received; 0 when nothing is pending.
    pub lag_bytes: u64,
    /// Rows of the initial copy that are there.
    pub copied_rows: u64,
    /// As COPY sends them.
    pub copied_bytes: u64,
    /// Row changes applied.
    pub events: u64,
    pub transactions: u64,
    /// Transactions that went to the dead letters instead.
    pub skipped: u64,
    pub batches: u64,
    pub retries: u64,
    /// What it is to be late by.
    pub delay: Duration,
    /// The transaction that waits, while it is paused or delayed and one does.
    pub held: Option<Position>,
    /// When the next attempt is made, while retrying or stopped; when the next transaction is due, while delayed.
    pub next_attempt: Option<SystemTime>,
    /// Without secrets.
    pub last_error: Option<String>,
}

impl TargetStatus {
    pub fn new(name: impl Into<String>, kind: TargetKind) -> Self {
        TargetStatus {
            name: name.into(),
            kind,
            state: TargetState::Starting,
            applied: Lsn::INVALID,
            applied_commit_time: None,
            pending_since: None,
            lag_bytes: 0,
            copied_rows: 0,
            copied_bytes: 0,
            events: 0,
            transactions: 0,
            skipped: 0,
            batches: 0,
            retries: 0,
            delay: Duration::ZERO,
            held: None,
            next_attempt: None,
            last_error: None,
        }
    }

    /// To be late by so much.
    #[must_use]
    pub fn delayed_by(self, delay: Duration) -> Self {
        TargetStatus { delay, ..self }
    }

    /// How long the oldest pending transaction has waited; zero when idle.
    pub fn lag(&self, now: SystemTime) -> Duration {
        self.pending_since.and_then(|since| now.duration_since(since).ok()).unwrap_or_default()
    }

    /// By how much it is later than it is to be.
    pub fn undue_lag(&self, now: SystemTime) -> Duration {
        self.lag(now).saturating_sub(self.delay)
    }

    /// It has got through with something, or there is nothing to do: what was wrong is history.
    pub fn works(&mut self) {
        if !self.state.is_well() {
            self.state = TargetState::Running;
            self.next_attempt = None;
        }
        self.last_error = None;
    }

    /// Tells one that is near from one that is not.
    pub fn note_lag(&mut self, now: SystemTime) {
        let lag = self.undue_lag(now);
        self.state = match self.state {
            TargetState::Running if lag > CATCHING_UP => TargetState::CatchingUp,
            TargetState::CatchingUp if lag < CATCHING_UP / 2 => TargetState::Running,
            state => state,
        };
    }

    /// What else is to be said of the state.
    pub fn detail(&self) -> Option<String> {
        let Position { lsn, commit_time, xid } = self.held.filter(|_| self.state.waits())?;
        let at = time_text(commit_time);
        Some(format!("the next transaction ends at {lsn} (xid {xid}, committed {at})"))
    }
}

impl Status {
    pub fn new(targets: Vec<TargetStatus>) -> Self {
        let snapshot = Snapshot { targets, ..Snapshot::default() };
        Status(Arc::new(Mutex::new(snapshot)), Progress::default())
    }

    fn lock(&self) -> MutexGuard<'_, Snapshot> {
        // plain data: a panic elsewhere cannot have left it half-changed in a way that matters
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of the initial copy.
    pub fn copy(&self) -> &Progress {
        &self.1
    }

    pub fn snapshot(&self) -> Snapshot {
        self.lock().clone()
    }

    pub fn update_source(&self, change: impl FnOnce(&mut SourceStatus)) {
        change(&mut self.lock().source);
    }

    /// `index` is the target's place in the configuration.
    pub fn update_target(&self, index: usize, change: impl FnOnce(&mut TargetStatus)) {
        if let Some(target) = self.lock().targets.get_mut(index) {
            change(target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catching_up_is_told_from_late_on_purpose() {
        let now = SystemTime::now();
        let mut target =
            TargetStatus::new("a", TargetKind::Postgres).delayed_by(Duration::from_secs(3600));
        target.state = TargetState::Running;
        let mut after = |seconds: u64| {
            target.pending_since = Some(now - Duration::from_secs(3600 + seconds));
            target.note_lag(now);
            target.state
        };
        assert_eq!(after(9), TargetState::Running);
        assert_eq!(after(11), TargetState::CatchingUp);
        assert_eq!(after(6), TargetState::CatchingUp, "it does not flicker");
        assert_eq!(after(4), TargetState::Running);
        target.state = TargetState::Paused;
        target.pending_since = Some(now - Duration::from_secs(9999));
        target.note_lag(now);
        assert_eq!(target.state, TargetState::Paused);
    }

    #[test]
    fn an_older_extension_knows_every_state_by_another_name() {
        let old = ["starting", "running", "retrying", "stopped"];
        for state in TargetState::ALL {
            assert!(old.contains(&state.basic().as_str()), "{state:?}");
            assert!(!state.is_well() || state.basic() == TargetState::Running, "{state:?}");
        }
    }
}
