//! Timelines: up to where the WAL of a spool and that of a source are the same. Pure.
//!
//! For positions of targets, which know the number of their timeline alone, there is
//! [`SourceIdentity::has`](crate::target::SourceIdentity::has). A spool remembers the whole history, and so tells two standbys
//! apart that were promoted to the same number.

use rsrepl_wire::Lsn;

use crate::target::SourceIdentity;

/// A server's timeline, and how it came to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Branch {
    pub(super) timeline: u32,
    /// The timelines before, oldest first, each with the position at which it was left. Empty behind the first
    /// timeline: not known.
    pub(super) history: Vec<(u32, Lsn)>,
}

impl Branch {
    pub(super) fn of(identity: &SourceIdentity) -> Branch {
        let ancestors = identity.ancestors.as_deref().unwrap_or_default();
        let history = ancestors.iter().map(|ancestor| (ancestor.timeline, ancestor.left_at));
        Branch { timeline: identity.timeline, history: history.collect() }
    }

    pub(super) fn is_known(&self) -> bool {
        self.timeline <= 1 || !self.history.is_empty()
    }

    /// Up to where the WAL of both is the same; `None`: all of it, as far as is known. Where it is not known that
    /// one grew out of the other, nothing is the same.
    pub(super) fn parting(&self, now: &Branch) -> Option<Lsn> {
        if self.timeline == now.timeline && !(self.is_known() && now.is_known()) {
            return None;
        }
        let mut common = Lsn::INVALID;
        // without a history it is its own timeline alone that can be found in the other's
        let first = self.history.first().map_or(self.timeline, |(first, _)| *first);
        let theirs = now.stretches().into_iter();
        let theirs = theirs.skip_while(|(timeline, _)| !self.is_known() && *timeline != first);
        for (ours, theirs) in self.stretches().into_iter().zip(theirs) {
            if ours.0 != theirs.0 {
                return Some(common);
            }
            if ours.1 != theirs.1 {
                return ours.1.into_iter().chain(theirs.1).min();
            }
            common = ours.1?;
        }
        // the last stretch of each is the only one without an end: so they differed before
        Some(common)
    }

    /// Each timeline, and where it was left for good: a recovery that ends before its timeline has begun is written
    /// down as if it had left that one, earlier than that one left the timeline before.
    fn stretches(&self) -> Vec<(u32, Option<Lsn>)> {
        let mut least = Lsn(u64::MAX);
        let mut stretches = vec![(self.timeline, None)];
        for (timeline, end) in self.history.iter().rev() {
            least = least.min(*end);
            stretches.push((*timeline, Some(least)));
        }
        stretches.reverse();
        stretches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch(timeline: u32, history: &[(u32, u64)]) -> Branch {
        Branch { timeline, history: history.iter().map(|(t, end)| (*t, Lsn(*end))).collect() }
    }

    #[test]
    fn servers_part_where_the_first_of_them_left() {
        let first = branch(1, &[]);
        let promoted = branch(2, &[(1, 100)]);
        let again = branch(3, &[(1, 100), (2, 200)]);
        let cases = [
            (&first, &first, None),
            (&again, &again, None),
            (&first, &promoted, Some(100)),
            (&first, &again, Some(100)),
            (&promoted, &again, Some(200)),
            // two standbys of the same primary were promoted, and have the same number
            (&promoted, &branch(2, &[(1, 90)]), Some(90)),
            // the second of them skipped a number
            (&promoted, &branch(3, &[(1, 100)]), Some(100)),
            // restored on the way to the second timeline, to a point before that began
            (&first, &branch(3, &[(1, 100), (2, 60)]), Some(60)),
            (&promoted, &branch(3, &[(1, 100), (2, 60)]), Some(60)),
            (&again, &branch(4, &[(1, 100), (2, 200), (3, 60)]), Some(60)),
        ];
        for (a, b, parting) in cases {
            assert_eq!(a.parting(b), parting.map(Lsn), "{a:?} {b:?}");
            assert_eq!(b.parting(a), parting.map(Lsn), "{b:?} {a:?}");
        }
    }

    #[test]
    fn what_has_no_history_is_not_taken_for_the_beginning() {
        let unknown = branch(2, &[]);
        let cases = [
            // an older timeline may not be in it at all
            (&branch(1, &[]), &unknown, Some(0)),
            (&branch(2, &[(1, 100)]), &branch(3, &[]), Some(0)),
            // the same timeline needs none
            (&branch(2, &[(1, 100)]), &unknown, None),
            (&unknown, &branch(2, &[(1, 100)]), None),
            (&unknown, &unknown, None),
            // the later one's is enough
            (&unknown, &branch(3, &[(1, 100), (2, 200)]), Some(200)),
            (&unknown, &branch(3, &[(1, 100)]), Some(0)),
        ];
        for (a, b, parting) in cases {
            assert_eq!(a.parting(b), parting.map(Lsn), "{a:?} {b:?}");
        }
    }
}
