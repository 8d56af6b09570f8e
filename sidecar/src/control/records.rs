//! What is recorded on a target, in the form that is common to all kinds.

use rsrepl_wire::Lsn;

use super::rules::Until;
use crate::copy::Promise;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// Nothing is applied, or nothing behind a place.
    Pause,
    /// One transaction is not applied.
    Skip,
    /// No transaction up to a place is applied.
    SkipUntil,
}

impl RecordKind {
    /// As it is recorded.
    pub const fn as_str(self) -> &'static str {
        match self {
            RecordKind::Pause => "pause",
            RecordKind::Skip => "skip",
            RecordKind::SkipUntil => "skip until",
        }
    }

    pub fn parse(text: &str) -> Option<RecordKind> {
        let all = [RecordKind::Pause, RecordKind::Skip, RecordKind::SkipUntil];
        all.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// One wish. Kind and place together are its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub kind: RecordKind,
    /// [`Lsn::INVALID`]: none.
    pub lsn: Lsn,
    /// Microseconds since 2000-01-01 00:00:00 UTC.
    pub time: Option<i64>,
    /// What became of it, for who asked; empty: it holds.
    pub note: String,
}

impl Record {
    /// `None` as a place: a pause from now on.
    pub fn new(kind: RecordKind, place: Option<Until>) -> Record {
        let (lsn, time) = match place {
            None => (Lsn::INVALID, None),
            Some(Until::Lsn(lsn)) => (lsn, None),
            Some(Until::Time(time)) => (Lsn::INVALID, Some(time)),
        };
        Record { kind, lsn, time, note: String::new() }
    }

    /// Its place, if it has one.
    pub fn until(&self) -> Option<Until> {
        let lsn = (self.lsn != Lsn::INVALID).then_some(Until::Lsn(self.lsn));
        self.time.map(Until::Time).or(lsn)
    }

    /// Two records of the same key are one.
    pub fn is_same(&self, other: &Record) -> bool {
        (self.kind, self.lsn, self.time) == (other.kind, other.lsn, other.time)
    }
}

/// A target's records. After an error the next call is `open`. What `change` has returned `Ok` for is there after any
/// crash.
pub trait ControlTarget: Send + Sync {
    /// Connects (anew).
    fn open(&mut self) -> Promise<'_, ()>;

    /// All that are recorded; nothing when nothing was ever recorded. One of a kind that is not known is an error:
    /// what it forbids is not known either.
    fn read(&mut self) -> Promise<'_, Vec<Record>>;

    /// Removes some and adds others, in the place of what has the same key; in one where the target has transactions.
    /// Makes what it needs for that.
    fn change<'a>(&'a mut self, remove: &'a [Record], add: &'a [Record]) -> Promise<'a, ()>;

    /// What the target has stored as its position; `None`: nothing yet.
    fn position(&mut self) -> Promise<'_, Option<Lsn>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_as_they_are_written() {
        for kind in [RecordKind::Pause, RecordKind::Skip, RecordKind::SkipUntil] {
            assert_eq!(RecordKind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(RecordKind::parse("stop"), None);
    }

    #[test]
    fn a_place_is_kept() {
        for place in [None, Some(Until::Lsn(Lsn(7))), Some(Until::Time(-5)), Some(Until::Time(0))] {
            assert_eq!(Record::new(RecordKind::SkipUntil, place).until(), place);
        }
    }
}
