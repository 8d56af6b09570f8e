//! What the pipeline knows of itself. The pipeline writes it; metrics, probes and the reports to the
//! source read it. It decides nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use rsrepl_wire::Lsn;

use crate::copy::Progress;
use crate::spool::OnDisk;

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
    /// Applying, or waiting for changes.
    Running,
    /// Waiting for its next attempt after an error.
    Retrying,
    /// An error that its owner must mend; the others go on.
    Stopped,
}

impl TargetState {
    /// Lower case, as reported and labelled.
    pub const fn as_str(self) -> &'static str {
        match self {
            TargetState::Starting => "starting",
            TargetState::Running => "running",
            TargetState::Retrying => "retrying",
            TargetState::Stopped => "stopped",
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
    pub batches: u64,
    pub retries: u64,
    /// When the next attempt is made, while retrying.
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
            batches: 0,
            retries: 0,
            next_attempt: None,
            last_error: None,
        }
    }

    /// How long the oldest pending transaction has waited; zero when idle.
    pub fn lag(&self, now: SystemTime) -> std::time::Duration {
        self.pending_since.and_then(|since| now.duration_since(since).ok()).unwrap_or_default()
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
