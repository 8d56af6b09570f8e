//! When what was committed is on the target's disk.
//!
//! Sessions commit without waiting for the disk (`synchronous_commit = off`); the server's walwriter
//! flushes its WAL a moment later, in order. Behind each COMMIT a session reads how far the WAL has been
//! written and how far it is flushed: a commit is durable once the flushed end has passed the end that
//! was read behind it. It is looked at again behind each part of a large transaction, and by a session
//! that writes nothing. When somebody waits for a commit, or it has waited for the walwriter too long,
//! commits wait for the disk themselves until it is durable.

use std::collections::VecDeque;
use std::time::Duration;

use rsrepl_wire::Lsn;
use tokio::time::Instant;

/// How long a commit is left to the walwriter, which takes three times `wal_writer_delay` (200 ms) at
/// most, unless the server is asked to be lazier.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// The target's WAL at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wal {
    /// `pg_current_wal_insert_lsn()`
    pub end: Lsn,
    /// `pg_current_wal_flush_lsn()`
    pub flushed: Lsn,
}

impl Wal {
    /// Behind a commit that waited for the disk itself: it is flushed, and so is all before it.
    pub const FLUSHED: Wal = Wal { end: Lsn::INVALID, flushed: Lsn(u64::MAX) };

    /// Behind a commit where it could not be read: only one that waits for the disk tells more.
    pub const UNKNOWN: Wal = Wal { end: Lsn(u64::MAX), flushed: Lsn::INVALID };
}

/// Commits that are not yet known to be durable. Pure.
#[derive(Debug)]
pub struct Durability {
    /// Oldest first.
    waiting: VecDeque<Commit>,
    /// Everything up to here is durable.
    durable: Lsn,
    /// Somebody waits until everything up to here is.
    wanted: Lsn,
}

#[derive(Debug)]
struct Commit {
    /// Of the stream.
    position: Lsn,
    /// The target's WAL end behind it.
    end: Lsn,
    at: Instant,
}

impl Durability {
    /// Everything up to `durable` is.
    pub fn new(durable: Lsn) -> Durability {
        Durability { waiting: VecDeque::new(), durable, wanted: Lsn::INVALID }
    }

    /// `position` was committed behind those before it, and `wal` read behind that; gives the position up
    /// to which all is durable, if that is news.
    pub fn committed(&mut self, position: Lsn, wal: Wal, now: Instant) -> Option<Lsn> {
        self.waiting.push_back(Commit { position, end: wal.end, at: now });
        self.seen(wal)
    }

    /// The WAL was looked at again.
    pub fn seen(&mut self, wal: Wal) -> Option<Lsn> {
        let mut durable = None;
        while let Some(commit) = self.waiting.pop_front_if(|commit| commit.end <= wal.flushed) {
            durable = Some(commit.position);
        }
        self.durable = durable.unwrap_or(self.durable);
        durable
    }

    /// Somebody waits for everything up to `position`, which was handed over.
    pub fn want(&mut self, position: Lsn) {
        self.wanted = self.wanted.max(position);
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether commits are to wait for the disk: until what is wanted, or has waited too long, is on it.
    pub fn is_urgent(&self, now: Instant) -> bool {
        let overdue = |commit: &Commit| now.duration_since(commit.at) >= FLUSH_PATIENCE;
        self.wanted > self.durable || self.waiting.front().is_some_and(overdue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wal(end: u64, flushed: u64) -> Wal {
        Wal { end: Lsn(end), flushed: Lsn(flushed) }
    }

    #[test]
    fn a_commit_is_durable_when_the_wal_behind_it_is_flushed() {
        let now = Instant::now();
        let mut durability = Durability::new(Lsn(0));
        assert_eq!(durability.committed(Lsn(1), wal(100, 50), now), None);
        assert_eq!(durability.committed(Lsn(2), wal(200, 99), now), None);
        assert_eq!(durability.seen(wal(300, 100)), Some(Lsn(1)));
        assert_eq!(durability.seen(wal(300, 199)), None);
        assert!(durability.is_waiting());
        assert_eq!(durability.committed(Lsn(3), wal(250, 250), now), Some(Lsn(3)));
        assert!(!durability.is_waiting());
    }

    #[test]
    fn a_commit_that_waited_for_the_disk_makes_all_before_it_durable() {
        let now = Instant::now();
        let mut durability = Durability::new(Lsn(0));
        assert_eq!(durability.committed(Lsn(1), wal(100, 50), now), None);
        assert_eq!(durability.committed(Lsn(2), Wal::UNKNOWN, now), None);
        assert_eq!(durability.seen(wal(900, 900)), Some(Lsn(1)), "nothing is known of the second");
        assert_eq!(durability.committed(Lsn(3), Wal::FLUSHED, now), Some(Lsn(3)));
        assert!(!durability.is_waiting());
    }

    #[test]
    fn commits_wait_for_the_disk_until_what_is_wanted_is_on_it() {
        let now = Instant::now();
        let mut durability = Durability::new(Lsn(1));
        durability.want(Lsn(1));
        assert!(!durability.is_urgent(now), "it is durable");
        durability.want(Lsn(3));
        assert_eq!(durability.committed(Lsn(2), Wal::FLUSHED, now), Some(Lsn(2)));
        assert!(durability.is_urgent(now), "this was not the one");
        assert_eq!(durability.committed(Lsn(4), Wal::FLUSHED, now), Some(Lsn(4)));
        assert!(!durability.is_urgent(now));
    }

    #[test]
    fn a_commit_is_left_to_the_walwriter_for_a_while_only() {
        let start = Instant::now();
        let mut durability = Durability::new(Lsn(0));
        assert!(!durability.is_urgent(start + FLUSH_PATIENCE), "nothing waits");
        durability.committed(Lsn(1), wal(100, 50), start);
        assert!(!durability.is_urgent(start));
        // however many there are behind it
        durability.committed(Lsn(2), wal(200, 50), start + FLUSH_PATIENCE);
        assert!(durability.is_urgent(start + FLUSH_PATIENCE));
        durability.seen(wal(300, 100));
        assert!(!durability.is_urgent(start + FLUSH_PATIENCE), "the second is young");
    }
}
