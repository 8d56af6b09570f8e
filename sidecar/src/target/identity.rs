//! Whose stream a position belongs to (invariant 10).
//!
//! A server that is promoted, or restored from a backup up to some point, goes on in a new *timeline*: LSNs go on
//! rising from where the old one was left, the *switch point*, and from there on mean something else. So a position
//! is in the past of a source when it lies on the source's timeline, or on one of its ancestors and not behind the
//! point where that was left.

use rsrepl_wire::Lsn;

use crate::error::{Error, Kind, Result};

/// Which stream a target's position belongs to. Stored with it, compared at `open`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceIdentity {
    /// `IDENTIFY_SYSTEM`'s system identifier.
    pub system_id: u64,
    /// Its timeline. A promotion raises it; a stored higher one than the source's is a wrong source.
    pub timeline: u32,
    /// Database name on the source.
    pub database: String,
    /// Slot name.
    pub slot: String,
    /// What the timeline grew out of, the oldest first. `None`: nobody has asked, and only the numbers of timelines
    /// are compared.
    pub ancestors: Option<Vec<Ancestor>>,
}

/// A timeline that the source has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ancestor {
    pub timeline: u32,
    /// The switch point: what is behind it on this timeline, the source has never had.
    pub left_at: Lsn,
}

impl SourceIdentity {
    /// Whether `now` is a later state of the same source: same cluster, same database, same slot, and a timeline
    /// that has everything up to `reached`, the position up to which this one was followed.
    ///
    /// # Errors
    /// [`Kind::Identity`].
    pub fn check_successor(&self, now: &SourceIdentity, reached: Lsn) -> Result<()> {
        let same = (self.system_id, &self.database, &self.slot)
            == (now.system_id, &now.database, &now.slot);
        let stop = |text, hint| Err(Error::new(Kind::Identity, text).hint(hint));
        if !same {
            let text = format!(
                "the source is not the one it was: it was system {} database {} slot {}, \
                 and is system {} database {} slot {}",
                self.system_id, self.database, self.slot, now.system_id, now.database, now.slot
            );
            return stop(
                text,
                "point the connection string at the right server, or load the targets anew",
            );
        }
        match now.has(self.timeline, reached) {
            Ok(()) => Ok(()),
            Err(why) => stop(
                format!("the source is not the one it was: what was received from it {why}"),
                "connect to the server that went on from there; if there is none any more, \
                 load the targets anew and restart the sidecar",
            ),
        }
    }

    /// Whether `position`, which was reached on `timeline`, is in the past of this source.
    ///
    /// # Errors
    /// Why it is not, behind "the position ".
    pub fn has(&self, timeline: u32, position: Lsn) -> std::result::Result<(), String> {
        let now = self.timeline;
        if timeline == now {
            return Ok(());
        }
        if timeline > now {
            return Err(format!(
                "reached {position} of timeline {timeline}, and the source is on timeline {now}: \
                 it is an old primary, or restored from a backup"
            ));
        }
        let Some(ancestors) = &self.ancestors else { return Ok(()) };
        if !ancestors.iter().any(|ancestor| ancestor.timeline == timeline) {
            return Err(format!(
                "reached {position} of timeline {timeline}, which is not in the history of the source's timeline {now}"
            ));
        }
        // A recovery that ends before its timeline has begun is written down as if it had left that one, earlier
        // than that one left the timeline before.
        let since = ancestors.iter().filter(|ancestor| ancestor.timeline >= timeline);
        match since.map(|ancestor| ancestor.left_at).min() {
            Some(left_at) if position > left_at => Err(format!(
                "reached {position} of timeline {timeline}, and the source left that at {left_at} for its timeline \
                 {now}: it does not have what is between the two, and has something else in that place"
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(timeline: u32, ancestors: Option<&[(u32, u64)]>) -> SourceIdentity {
        let ancestor = |(timeline, left_at)| Ancestor { timeline, left_at: Lsn(left_at) };
        SourceIdentity {
            system_id: 1,
            timeline,
            database: "d".into(),
            slot: "s".into(),
            ancestors: ancestors.map(|list| list.iter().copied().map(ancestor).collect()),
        }
    }

    #[test]
    fn a_position_is_on_the_way_to_the_source() {
        // 1 ─► 100 ─► 3 ─► 200 ─► 4; 2 also branched off somewhere
        let now = source(4, Some(&[(1, 100), (3, 200)]));
        for (timeline, position) in [(1, 0), (1, 100), (3, 50), (3, 200), (4, 10), (4, 9999)] {
            now.has(timeline, Lsn(position)).unwrap();
        }
        for (timeline, position, says) in [
            (1, 101, "reached 0/65 of timeline 1, and the source left that at 0/64"),
            (3, 201, "left that at 0/C8"),
            (2, 10, "not in the history of the source's timeline 4"),
            (5, 10, "an old primary"),
        ] {
            let why = now.has(timeline, Lsn(position)).unwrap_err();
            assert!(why.contains(says), "{timeline} {position}: {why}");
        }
        // restored to a point of the first timeline on the way to the second
        let restored = source(3, Some(&[(1, 500), (2, 300)]));
        restored.has(1, Lsn(300)).unwrap();
        restored.has(1, Lsn(301)).unwrap_err();
        // not asked for, and asked for in vain
        source(4, None).has(2, Lsn(500)).unwrap();
        source(4, Some(&[])).has(3, Lsn(1)).unwrap_err();
    }

    #[test]
    fn a_source_is_followed_to_what_went_on_from_it() {
        let was = source(1, Some(&[]));
        was.check_successor(&was, Lsn(500)).unwrap();
        was.check_successor(&source(2, Some(&[(1, 500)])), Lsn(500)).unwrap();
        let other = SourceIdentity { system_id: 2, ..was.clone() };
        for (now, says) in [
            (source(2, Some(&[(1, 499)])), "left that at 0/1F3"),
            (source(3, Some(&[(2, 600)])), "not in the history"),
            (other, "system 2"),
        ] {
            let error = was.check_successor(&now, Lsn(500)).unwrap_err();
            assert_eq!(error.kind(), Kind::Identity);
            assert!(error.to_string().contains(says), "{error}");
        }
        source(2, None).check_successor(&was, Lsn(1)).unwrap_err();
    }
}
