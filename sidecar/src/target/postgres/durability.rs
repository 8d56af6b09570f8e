//! When what was committed is on the target's disk.
//!
//! Sessions commit without waiting for the disk (`synchronous_commit = off`); the server's walwriter
//! flushes its WAL a moment later, in order. Behind each COMMIT a session reads how far the WAL has been
//! written and how far it is flushed: a commit is durable once the flushed end has passed the end that
//! was read behind it.

use std::collections::VecDeque;

use rsrepl_wire::Lsn;

/// The target's WAL at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wal {
    /// `pg_current_wal_insert_lsn()`
    pub end: Lsn,
    /// `pg_current_wal_flush_lsn()`
    pub flushed: Lsn,
}

impl Wal {
    /// Behind a commit that waited for the disk itself.
    pub const FLUSHED: Wal = Wal { end: Lsn::INVALID, flushed: Lsn::INVALID };
}

/// Commits that are not yet known to be durable, oldest first. Pure.
#[derive(Debug, Default)]
pub struct Durability {
    /// The stream's position, and the target's WAL end behind its commit.
    waiting: VecDeque<(Lsn, Lsn)>,
}

impl Durability {
    /// `position` was committed, and `wal` read behind it; gives the position up to which all is durable,
    /// if that is news.
    pub fn committed(&mut self, position: Lsn, wal: Wal) -> Option<Lsn> {
        self.waiting.push_back((position, wal.end));
        self.seen(wal)
    }

    /// The WAL was looked at again.
    pub fn seen(&mut self, wal: Wal) -> Option<Lsn> {
        let mut durable = None;
        while let Some((position, _)) = self.waiting.pop_front_if(|(_, end)| *end <= wal.flushed) {
            durable = Some(position);
        }
        durable
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
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
        let mut durability = Durability::default();
        assert_eq!(durability.committed(Lsn(1), wal(100, 50)), None);
        assert_eq!(durability.committed(Lsn(2), wal(200, 99)), None);
        assert_eq!(durability.seen(wal(300, 100)), Some(Lsn(1)));
        assert_eq!(durability.seen(wal(300, 199)), None);
        assert!(durability.is_waiting());
        assert_eq!(durability.committed(Lsn(3), wal(250, 250)), Some(Lsn(3)));
        assert!(!durability.is_waiting());
        assert_eq!(durability.committed(Lsn(4), Wal::FLUSHED), Some(Lsn(4)));
    }
}
