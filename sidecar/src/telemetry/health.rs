//! Whether replication is alive (`/healthz`), and whether it is in step (`/readyz`). Pure: what is known
//! is passed in, times included.

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use crate::status::{Snapshot, TargetState, TargetStatus};

/// How long the source may be away before `/healthz` says so.
pub const SOURCE_GRACE: Duration = Duration::from_secs(30);

/// How long a target may have something to do and not get on before `/healthz` says so.
pub const STALL_LIMIT: Duration = Duration::from_secs(60);

/// The lag up to which a target counts as in step, in seconds.
pub const READY_LAG: Duration = Duration::from_secs(60);

/// The same in bytes of WAL.
pub const READY_LAG_BYTES: u64 = 1 << 30;

/// One answer, as it is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    pub ok: bool,
    pub source: Part,
    pub targets: Vec<Part>,
}

/// What is said of the source or of one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    pub name: String,
    pub ok: bool,
    pub detail: String,
}

impl Health {
    fn new(source: Part, targets: Vec<Part>) -> Self {
        let ok = source.ok && targets.iter().all(|target| target.ok);
        Health { ok, source, targets }
    }
}

/// Since when things are as they are; fed with snapshots from time to time.
#[derive(Clone, Debug)]
pub struct Progress {
    /// When the source was last seen connected, at first the start.
    source_seen: Instant,
    targets: Vec<TargetProgress>,
}

#[derive(Clone, Copy, Debug)]
struct TargetProgress {
    /// Rises with everything that the target gets done, parts of a large transaction included.
    marker: (u64, u64, u64),
    /// When it last rose, or nothing was to be done.
    since: Instant,
}

impl Progress {
    pub fn new(targets: usize, now: Instant) -> Self {
        let target = TargetProgress { marker: (0, 0, 0), since: now };
        Progress { source_seen: now, targets: vec![target; targets] }
    }

    /// To be called more often than the limits above.
    pub fn observe(&mut self, snapshot: &Snapshot, now: Instant) {
        if snapshot.source.connected {
            self.source_seen = now;
        }
        for (progress, target) in self.targets.iter_mut().zip(&snapshot.targets) {
            let events = target.events + target.copied_rows;
            let marker = (target.applied.0, target.batches, events);
            // one that waits on purpose is not stuck
            let idle = target.state.waits() || target.state.is_well() && !pending(target);
            if marker != progress.marker || idle {
                *progress = TargetProgress { marker, since: now };
            }
        }
    }
}

/// Something was received that the target does not have yet.
fn pending(target: &TargetStatus) -> bool {
    target.lag_bytes > 0 || target.pending_since.is_some()
}

/// `/healthz`: the stream is not stuck.
pub fn healthy(snapshot: &Snapshot, progress: &Progress, now: Instant) -> Health {
    let away = now.saturating_duration_since(progress.source_seen);
    let source = match snapshot.source.connected {
        true => source_part(snapshot, true),
        false => source_part(snapshot, away <= SOURCE_GRACE),
    };
    let judge = |(target, progress): (&TargetStatus, &TargetProgress)| {
        let still = now.saturating_duration_since(progress.since);
        if target.state == TargetState::Stopped {
            return part(target, false, "stopped".into());
        }
        let stuck = still > STALL_LIMIT;
        let detail = match stuck {
            true => format!("{}, no progress for {} s", target.state.as_str(), still.as_secs()),
            false => target.state.as_str().into(),
        };
        part(target, !stuck, detail)
    };
    let targets = snapshot.targets.iter().zip(&progress.targets).map(judge).collect();
    Health::new(source, targets)
}

/// `/readyz`: what is read from a target is at most [`READY_LAG`] old, and what it is to be late by. One that is
/// paused is not in step.
pub fn ready(snapshot: &Snapshot, now: SystemTime) -> Health {
    let judge = |target: &TargetStatus| {
        let lag = target.lag(now);
        let running = target.state.is_well() && target.state != TargetState::Paused;
        // how much is written while a target is to wait says nothing of it
        let few = target.lag_bytes <= READY_LAG_BYTES || !target.delay.is_zero();
        let close = target.undue_lag(now) <= READY_LAG && few;
        let detail = format!(
            "{}, {:.1} s and {} bytes behind",
            target.state.as_str(),
            lag.as_secs_f64(),
            target.lag_bytes
        );
        part(target, running && close, detail)
    };
    let source = source_part(snapshot, snapshot.source.connected);
    Health::new(source, snapshot.targets.iter().map(judge).collect())
}

fn source_part(snapshot: &Snapshot, ok: bool) -> Part {
    let detail = match (&snapshot.source.last_error, snapshot.source.connected) {
        (_, true) => "connected".into(),
        (Some(error), false) => format!("not connected: {error}"),
        (None, false) => "not connected".into(),
    };
    Part { name: "source".into(), ok, detail }
}

/// A part that is not well shows its last error.
fn part(target: &TargetStatus, ok: bool, mut detail: String) -> Part {
    if let Some(error) = target.last_error.as_ref().filter(|_| !ok) {
        detail = format!("{detail}: {error}");
    }
    Part { name: target.name.clone(), ok, detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::TargetKind;

    struct Setup {
        snapshot: Snapshot,
        progress: Progress,
        start: Instant,
    }

    impl Setup {
        fn new() -> Self {
            let mut snapshot = Snapshot::default();
            for name in ["a", "b"] {
                let mut target = TargetStatus::new(name, TargetKind::Postgres);
                target.state = TargetState::Running;
                snapshot.targets.push(target);
            }
            snapshot.source.connected = true;
            let start = Instant::now();
            Setup { snapshot, progress: Progress::new(2, start), start }
        }

        fn at(&mut self, seconds: u64) -> Health {
            let now = self.start + Duration::from_secs(seconds);
            self.progress.observe(&self.snapshot, now);
            healthy(&self.snapshot, &self.progress, now)
        }
    }

    #[test]
    fn an_idle_stream_is_healthy_for_ever() {
        let mut setup = Setup::new();
        assert!(setup.at(1).ok && setup.at(100_000).ok);
    }

    #[test]
    fn a_source_that_is_away_has_some_grace() {
        let mut setup = Setup::new();
        assert!(setup.at(10).ok);
        setup.snapshot.source.connected = false;
        setup.snapshot.source.last_error = Some("refused".into());
        assert!(setup.at(39).ok);
        let health = setup.at(41);
        assert!(!health.ok && health.targets.iter().all(|target| target.ok));
        assert_eq!(health.source.detail, "not connected: refused");
        setup.snapshot.source.connected = true;
        assert!(setup.at(42).ok);
    }

    #[test]
    fn a_stopped_target_is_told_at_once() {
        let mut setup = Setup::new();
        setup.snapshot.targets[1].state = TargetState::Stopped;
        setup.snapshot.targets[1].last_error = Some("no table".into());
        let health = setup.at(1);
        assert!(!health.ok && health.targets[0].ok && !health.targets[1].ok);
        assert_eq!(health.targets[1].detail, "stopped: no table");
    }

    #[test]
    fn a_target_that_gets_nothing_done_is_stuck() {
        let mut setup = Setup::new();
        setup.snapshot.targets[0].lag_bytes = 1;
        assert!(setup.at(50).ok);
        // a part of a large transaction counts
        setup.snapshot.targets[0].events = 10;
        assert!(setup.at(100).ok && setup.at(160).ok);
        assert!(!setup.at(161).ok);
        setup.snapshot.targets[0].lag_bytes = 0;
        assert!(setup.at(162).ok);
    }

    #[test]
    fn a_target_that_never_comes_up_is_stuck() {
        let mut setup = Setup::new();
        setup.snapshot.targets[0].state = TargetState::Retrying;
        assert!(setup.at(60).ok);
        assert!(!setup.at(61).ok);
    }

    #[test]
    fn who_waits_on_purpose_is_healthy() {
        let mut setup = Setup::new();
        for (target, state) in
            setup.snapshot.targets.iter_mut().zip([TargetState::Paused, TargetState::Delayed])
        {
            (target.lag_bytes, target.state) = (1, state);
        }
        assert!(setup.at(1).ok && setup.at(100_000).ok);
    }

    #[test]
    fn a_delay_is_no_lag_and_a_pause_is_not_in_step() {
        let now = SystemTime::now();
        let mut snapshot = Setup::new().snapshot;
        let target = &mut snapshot.targets[0];
        (target.state, target.delay) = (TargetState::Delayed, Duration::from_secs(3600));
        target.pending_since = Some(now - Duration::from_secs(3650));
        target.lag_bytes = READY_LAG_BYTES + 1;
        assert!(ready(&snapshot, now).ok);
        snapshot.targets[0].pending_since = Some(now - Duration::from_secs(3670));
        assert!(!ready(&snapshot, now).ok);
        snapshot.targets[0].pending_since = None;
        snapshot.targets[0].state = TargetState::Paused;
        assert!(!ready(&snapshot, now).ok);
    }

    #[test]
    fn ready_means_in_step() {
        let now = SystemTime::now();
        let mut snapshot = Setup::new().snapshot;
        assert!(ready(&snapshot, now).ok);
        snapshot.targets[0].pending_since = Some(now - Duration::from_secs(61));
        assert!(!ready(&snapshot, now).ok);
        snapshot.targets[0].pending_since = Some(now - Duration::from_secs(59));
        assert!(ready(&snapshot, now).ok);
        snapshot.targets[0].lag_bytes = READY_LAG_BYTES + 1;
        assert!(!ready(&snapshot, now).ok);
        snapshot.targets[0].lag_bytes = 0;
        snapshot.targets[1].state = TargetState::Starting;
        assert!(!ready(&snapshot, now).ok);
        snapshot.targets[1].state = TargetState::Running;
        snapshot.source.connected = false;
        let health = ready(&snapshot, now);
        assert!(!health.ok && health.targets[1].ok && !health.source.ok);
    }
}
