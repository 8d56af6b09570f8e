//! Whether a row differs, from two looks at it. Pure.
//!
//! A look reads the source's row, then the end of its WAL, waits until the stream is there on the target, and
//! reads the target's row. Equal rows are equal. Rows that are not equal may have changed in between; so what
//! counts is what stays:
//!
//! - The source's row is the same version in two looks: it was there all the time (or was not there). The
//!   target had everything up to the first look before its row was read, so it should have shown that.
//! - The target's row is the same version in two looks, and the source's row was there both times, with other
//!   values: between the two the target has passed the moment of the second look at the source, and nobody
//!   wrote its row then.
//!
//! Where both stay, the first holds, also of rows that come and go in between: the target would have another
//! version. Both take for granted that the second look at the source shows all that the target had in the first,
//! which has to be [waited for](super::visible).

use super::differences::Kind as What;

/// What both sides had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    pub source: Option<Seen>,
    pub target: Option<Seen>,
}

/// The rows of a key; more than one are there only where no unique index keeps them away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub version: String,
    pub rows: u64,
    pub hash: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Equal,
    Different(What),
    Again,
}

impl Look {
    fn is_equal(&self) -> bool {
        values(&self.source) == values(&self.target)
    }
}

/// What is compared of a row.
pub(super) fn values(seen: &Option<Seen>) -> Option<(u64, i64)> {
    seen.as_ref().map(|seen| (seen.rows, seen.hash))
}

fn version(seen: &Option<Seen>) -> Option<&str> {
    seen.as_ref().map(|seen| seen.version.as_str())
}

/// `shows`: the source showed in this look all that the target had in the last.
pub(super) fn judge(last: Option<&Look>, now: &Look, shows: bool) -> Verdict {
    if now.is_equal() {
        return Verdict::Equal;
    }
    let Some(last) = last.filter(|_| shows) else { return Verdict::Again };
    let target_stays = version(&last.target) == version(&now.target);
    let source_stays = version(&last.source) == version(&now.source);
    let all_there = last.source.is_some() && now.source.is_some() && now.target.is_some();
    if target_stays && (source_stays || all_there && values(&last.source) != values(&last.target)) {
        return Verdict::Different(match (&now.source, &now.target) {
            (_, None) => What::Missing,
            (None, _) => What::Surplus,
            _ => What::Changed,
        });
    }
    Verdict::Again
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(version: u32, hash: i64) -> Option<Seen> {
        Some(Seen { version: version.to_string(), rows: 1, hash })
    }

    #[test]
    fn what_stays_different_differs() {
        let look = |source: Option<Seen>, target: Option<Seen>| Look { source, target };
        let twice = |hash| row(1, hash).map(|seen| Seen { rows: 2, ..seen });
        let different = |what| Verdict::Different(what);
        let cases = [
            // nothing moves
            (look(row(1, 5), row(1, 6)), look(row(1, 5), row(1, 6)), different(What::Changed)),
            (look(row(1, 5), None), look(row(1, 5), None), different(What::Missing)),
            (look(None, row(1, 6)), look(None, row(1, 6)), different(What::Surplus)),
            (look(row(1, 5), twice(5)), look(row(1, 5), twice(5)), different(What::Changed)),
            // the target never follows a row that changes
            (look(row(1, 5), row(1, 6)), look(row(2, 7), row(1, 6)), different(What::Changed)),
            // both go on
            (look(row(1, 5), row(1, 4)), look(row(2, 6), row(2, 5)), Verdict::Again),
            // it came and went: a net effect of nothing
            (look(None, row(1, 6)), look(row(1, 6), None), Verdict::Again),
            (look(row(1, 5), None), look(row(2, 5), None), Verdict::Again),
            (look(row(1, 5), row(1, 6)), look(row(1, 5), row(2, 5)), Verdict::Equal),
        ];
        for (last, now, expected) in cases {
            assert_eq!(judge(None, &last, true), Verdict::Again);
            assert_eq!(judge(Some(&last), &now, true), expected, "{last:?} {now:?}");
            let unsure = if expected == Verdict::Equal { expected } else { Verdict::Again };
            assert_eq!(judge(Some(&last), &now, false), unsure, "{last:?} {now:?}");
        }
        assert_eq!(judge(None, &look(None, None), true), Verdict::Equal);
    }

    /// A row of the source after each of its commits, and the target somewhere behind them, which writes the
    /// net effect of what it takes at a time.
    #[derive(Debug)]
    struct World {
        commits: Vec<Option<(u32, i64)>>,
        /// The commits that the source shows; those behind are in its WAL, and wait.
        shown: usize,
        target: Option<(u32, i64)>,
        at: usize,
        writes: u32,
    }

    impl World {
        fn advance(&mut self, to: usize) {
            let to = to.clamp(self.at, self.commits.len() - 1);
            let (before, after) = (self.commits[self.at], self.commits[to]);
            self.at = to;
            let touched = before.map(|row| row.0) != after.map(|row| row.0);
            if touched {
                self.writes += 1;
                self.target = after.map(|(_, hash)| (self.writes, hash));
            }
        }
    }

    fn seen_of(row: Option<(u32, i64)>) -> Option<Seen> {
        row.map(|(version, hash)| Seen { version: version.to_string(), rows: 1, hash })
    }

    proptest! {
        /// Whatever happens meanwhile, and however late the source shows it: a target that follows is never
        /// called different.
        #[test]
        fn nothing_is_called_different_that_is_not(
            changes in prop::collection::vec(prop::option::of(0i64..3), 2..30),
            stays in prop::collection::vec(any::<bool>(), 30),
            steps in prop::collection::vec((0usize..4, 0usize..4, 0usize..4, 0usize..3), 2..10),
        ) {
            let mut commits: Vec<Option<(u32, i64)>> = Vec::new();
            for (n, (hash, stay)) in changes.iter().zip(&stays).enumerate() {
                let last = commits.last().copied();
                commits.push(match last {
                    Some(last) if *stay => last,
                    _ => hash.map(|hash| (n as u32, hash)),
                });
            }
            let end = commits.len() - 1;
            let first = seen_of(commits[0]).map(|s| (0, s.hash));
            let mut world = World { commits, shown: 0, target: first, at: 0, writes: 0 };
            // commits of one row wait for one another, so at most the last one is not shown
            let (mut committed, mut last, mut had) = (0usize, None, 0);
            for (pause, wait, beyond, late) in steps {
                committed = (committed + pause).min(end);
                world.shown = world.shown.max(committed - late.min(1).min(committed));
                let at_source = world.shown;
                let wal_end = at_source;
                let shows = at_source >= had;
                committed = (committed + wait).min(end);
                // everything up to the look at the source, and maybe more
                world.advance((wal_end + beyond).min(committed).max(wal_end));
                had = world.at;
                let look = Look {
                    source: seen_of(world.commits[at_source]),
                    target: seen_of(world.target),
                };
                let verdict = judge(last.as_ref(), &look, shows);
                prop_assert!(!matches!(verdict, Verdict::Different(_)), "{last:?} {look:?} {world:?}");
                last = Some(look);
            }
        }
    }
}
