//! What becomes of a transaction: pure.
//!
//! A decision depends on nothing but the rules, the transaction and the clock, so a replay comes to the same one as
//! long as the rules are the same.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use rsrepl_wire::Lsn;

use super::records::{Record, RecordKind};
use crate::batch::Position;

/// A place in the stream up to which something holds, itself included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Until {
    /// `end_lsn` of a transaction, or any LSN.
    Lsn(Lsn),
    /// A commit time, microseconds since 2000-01-01 00:00:00 UTC. Commit times rise with the end LSN but for
    /// what committed at the same moment, or when the source's clock is set back.
    Time(i64),
}

impl Until {
    pub fn includes(self, end: Position) -> bool {
        match self {
            Until::Lsn(lsn) => end.lsn <= lsn,
            Until::Time(time) => end.commit_time <= time,
        }
    }
}

/// Why a transaction is not handed over yet. Everything behind it waits, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Paused,
    /// Until `due`, microseconds since 2000-01-01 00:00:00 UTC by this machine's clock.
    Delayed {
        due: i64,
    },
}

/// What becomes of a transaction now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Apply,
    /// To the dead letters, and not to the target.
    Skip,
    Wait(Wait),
}

/// What is recorded on a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Nothing is applied behind any of these; `None`: nothing at all.
    pub pauses: BTreeSet<Option<Until>>,
    /// Ends of transactions that are skipped.
    pub skips: BTreeSet<Lsn>,
    /// All up to there are skipped.
    pub skips_until: BTreeSet<Until>,
}

impl Rules {
    pub fn of(records: &[Record]) -> Rules {
        let mut rules = Rules::default();
        for record in records {
            match (record.kind, record.until()) {
                (RecordKind::Pause, until) => drop(rules.pauses.insert(until)),
                (RecordKind::Skip, _) => drop(rules.skips.insert(record.lsn)),
                (RecordKind::SkipUntil, Some(until)) => drop(rules.skips_until.insert(until)),
                // says nothing
                (RecordKind::SkipUntil, None) => {}
            }
        }
        rules
    }

    /// A pause comes first, then the delay: a transaction is skipped when it would be applied.
    pub fn verdict(&self, end: Position, delay: Duration, now: i64) -> Verdict {
        if self.pauses.iter().any(|until| until.is_none_or(|until| !until.includes(end))) {
            return Verdict::Wait(Wait::Paused);
        }
        let due = due(end.commit_time, delay);
        if !delay.is_zero() && now < due {
            return Verdict::Wait(Wait::Delayed { due });
        }
        let skipped = self.skips.contains(&end.lsn)
            || self.skips_until.iter().any(|until| until.includes(end));
        if skipped { Verdict::Skip } else { Verdict::Apply }
    }

    /// Nothing is handed over, whatever comes.
    pub fn is_paused(&self) -> bool {
        self.pauses.contains(&None)
    }

    /// What the old rules let through may have to wait, or to be skipped, by these.
    pub fn forbid_more_than(&self, old: &Rules) -> bool {
        !self.pauses.is_subset(&old.pauses)
            || !self.skips.is_subset(&old.skips)
            || !self.skips_until.is_subset(&old.skips_until)
    }
}

/// When a transaction is handed over.
fn due(commit_time: i64, delay: Duration) -> i64 {
    commit_time.saturating_add(i64::try_from(delay.as_micros()).unwrap_or(i64::MAX))
}

/// Seconds from 1970-01-01 to 2000-01-01.
const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);

/// A time as the stream has it: microseconds since 2000-01-01 00:00:00 UTC.
pub fn stream_time(time: SystemTime) -> i64 {
    let epoch = SystemTime::UNIX_EPOCH + POSTGRES_EPOCH;
    match time.duration_since(epoch) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => {
            i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros)
        }
    }
}

/// The same the other way round; what a clock cannot show is its epoch.
pub fn from_stream_time(micros: i64) -> SystemTime {
    let epoch = SystemTime::UNIX_EPOCH + POSTGRES_EPOCH;
    let distance = Duration::from_micros(micros.unsigned_abs());
    let time = if micros >= 0 { epoch.checked_add(distance) } else { epoch.checked_sub(distance) };
    time.unwrap_or(epoch)
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
