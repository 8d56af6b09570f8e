//! Looks at single keys: whether they differ, or have only not arrived yet.
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
//! version. A row that changes all the time is looked at again and again; from the second look on the source's is
//! read all the while, and the target's may be any of these.

use std::collections::{BTreeMap, HashSet};

use super::differences::{Desk, Difference, Kind as What};
use super::key::Key;
use super::postgres::wal_end;
use super::tables::Table;
use super::target::Target;
use super::view::{Found, View};
use crate::error::Result;

/// Keys that are looked up in one statement.
const KEYS_MAX: usize = 500;
/// Keys in one round: they wait for one position.
const ROUND_MAX: usize = 10_000;
/// After so many looks a row that still changes is left.
const LOOKS_MAX: u32 = 40;
/// From this look on the source's row is read while the position is waited for.
const SAMPLED_FROM: u32 = 1;
/// So many rows at most.
const SAMPLED_MAX: usize = 100;

/// A key that may differ.
#[derive(Clone, Debug)]
pub(crate) struct Suspect {
    pub(crate) table: usize,
    pub(crate) key: Key,
    last: Option<Look>,
    looks: u32,
}

/// What both sides had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    pub source: Option<Seen>,
    pub target: Option<Seen>,
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub version: String,
    pub hash: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Equal,
    Different(What),
    Again,
}

impl Suspect {
    pub(crate) fn new(table: usize, key: Key) -> Suspect {
        Suspect { table, key, last: None, looks: 0 }
    }
}

impl Look {
    fn is_equal(&self) -> bool {
        hash(&self.source) == hash(&self.target)
    }
}

fn hash(seen: &Option<Seen>) -> Option<i64> {
    seen.as_ref().map(|seen| seen.hash)
}

fn version(seen: &Option<Seen>) -> Option<&str> {
    seen.as_ref().map(|seen| seen.version.as_str())
}

/// See the module's documentation. Pure.
fn judge(last: Option<&Look>, now: &Look) -> Verdict {
    if now.is_equal() {
        return Verdict::Equal;
    }
    let Some(last) = last else { return Verdict::Again };
    let target_stays = version(&last.target) == version(&now.target);
    let source_stays = version(&last.source) == version(&now.source);
    let all_there = last.source.is_some() && now.source.is_some() && now.target.is_some();
    if target_stays && (source_stays || all_there && hash(&last.source) != hash(&last.target)) {
        return Verdict::Different(match (&now.source, &now.target) {
            (_, None) => What::Missing,
            (None, _) => What::Surplus,
            _ => What::Changed,
        });
    }
    Verdict::Again
}

fn seen(found: Option<Found>, profile: usize) -> Option<Seen> {
    let Found { version, hashes } = found?;
    Some(Seen { version, hash: hashes.get(profile).copied().unwrap_or_default() })
}

/// Looks at all suspects of a target until it is known of each what it is.
pub(crate) async fn settle(
    source: &tokio_postgres::Client,
    tables: &[Table],
    target: &Target,
    desk: &mut Desk,
) {
    while !desk.suspects.is_empty() {
        let from = desk.suspects.len().saturating_sub(ROUND_MAX);
        let round = desk.suspects.split_off(from);
        let mut of_tables: BTreeMap<usize, Vec<Suspect>> = BTreeMap::new();
        for suspect in round {
            of_tables.entry(suspect.table).or_default().push(suspect);
        }
        if let Err(error) = look(source, tables, target, desk, &mut of_tables).await {
            // the rest of the round, and what is like it
            for table in of_tables.into_keys() {
                desk.fail(table, error.to_string());
            }
        }
        let failed =
            |suspect: &Suspect| desk.tallies.get(suspect.table).is_none_or(|t| t.failed.is_some());
        let left: Vec<Suspect> = std::mem::take(&mut desk.suspects);
        desk.suspects = left.into_iter().filter(|suspect| !failed(suspect)).collect();
    }
}

/// One look at each of them; those that are not settled by it go back to the desk.
async fn look(
    source: &tokio_postgres::Client,
    tables: &[Table],
    target: &Target,
    desk: &mut Desk,
    round: &mut BTreeMap<usize, Vec<Suspect>>,
) -> Result<()> {
    let mut here: BTreeMap<usize, Vec<Option<Seen>>> = BTreeMap::new();
    let mut sampled: Vec<(usize, usize, Key)> = Vec::new();
    for (number, suspects) in round.iter() {
        let Some((table, there)) = on(tables, *number, desk) else { continue };
        let view = View::Postgres(source, &table.source);
        let found = look_up(view, suspects).await?;
        let found = found.into_iter().map(|found| seen(found, there.profile));
        here.insert(*number, found.collect());
        let hot = suspects.iter().enumerate().filter(|(_, s)| s.looks >= SAMPLED_FROM);
        let room = SAMPLED_MAX.saturating_sub(sampled.len());
        sampled.extend(hot.take(room).map(|(place, s)| (*number, place, s.key.clone())));
    }
    let lsn = wal_end(source).await?;
    let mut samples: HashSet<(usize, usize, i64)> = HashSet::new();
    let index = desk.target;
    let mut sample = async || {
        for (number, place, key) in &sampled {
            let Some(table) = tables.get(*number) else { continue };
            let profile =
                table.there.get(index).and_then(|t| t.as_ref().ok()).map_or(0, |t| t.profile);
            let found = View::Postgres(source, &table.source).look_up(&[key]).await?;
            let found = found.into_iter().next().flatten();
            samples.extend(seen(found, profile).map(|seen| (*number, *place, seen.hash)));
        }
        Ok(!sampled.is_empty())
    };
    target.wait_for(lsn, &mut sample).await?;
    let mut there_found: BTreeMap<usize, Vec<Option<Seen>>> = BTreeMap::new();
    for (number, suspects) in round.iter() {
        let Some((_, there)) = on(tables, *number, desk) else { continue };
        let Some(view) = target.look(there) else { continue };
        let found = look_up(view, suspects).await?;
        there_found.insert(*number, found.into_iter().map(|found| seen(found, 0)).collect());
    }
    sample().await?;
    for (number, suspects) in std::mem::take(round) {
        let here = here.remove(&number).unwrap_or_default();
        let there = there_found.remove(&number).unwrap_or_default();
        let looks = here.into_iter().zip(there).map(|(source, target)| Look { source, target });
        for (place, (mut suspect, look)) in suspects.into_iter().zip(looks).enumerate() {
            let is_sample =
                hash(&look.target).is_some_and(|hash| samples.contains(&(number, place, hash)));
            let verdict = match is_sample {
                true => Verdict::Equal,
                false => judge(suspect.last.as_ref(), &look),
            };
            match verdict {
                Verdict::Equal => {}
                Verdict::Different(kind) => {
                    desk.differs(number, Difference { key: suspect.key, kind, look });
                }
                Verdict::Again if suspect.looks >= LOOKS_MAX => desk.unsettled(number),
                Verdict::Again => {
                    suspect.looks += 1;
                    suspect.last = Some(look);
                    desk.suspects.push(suspect);
                }
            }
        }
    }
    Ok(())
}

fn on<'a>(
    tables: &'a [Table],
    number: usize,
    desk: &Desk,
) -> Option<(&'a Table, &'a super::tables::There)> {
    let table = tables.get(number)?;
    Some((table, table.there.get(desk.target)?.as_ref().ok()?))
}

async fn look_up(view: View<'_>, suspects: &[Suspect]) -> Result<Vec<Option<Found>>> {
    let mut all = Vec::with_capacity(suspects.len());
    for some in suspects.chunks(KEYS_MAX) {
        let keys: Vec<&Key> = some.iter().map(|suspect| &suspect.key).collect();
        all.extend(view.look_up(&keys).await?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(version: u32, hash: i64) -> Option<Seen> {
        Some(Seen { version: version.to_string(), hash })
    }

    #[test]
    fn what_stays_different_differs() {
        let look = |source: Option<Seen>, target: Option<Seen>| Look { source, target };
        let cases = [
            // nothing moves
            (
                look(row(1, 5), row(1, 6)),
                look(row(1, 5), row(1, 6)),
                Verdict::Different(What::Changed),
            ),
            (look(row(1, 5), None), look(row(1, 5), None), Verdict::Different(What::Missing)),
            (look(None, row(1, 6)), look(None, row(1, 6)), Verdict::Different(What::Surplus)),
            // the target never follows a row that changes
            (
                look(row(1, 5), row(1, 6)),
                look(row(2, 7), row(1, 6)),
                Verdict::Different(What::Changed),
            ),
            // both go on
            (look(row(1, 5), row(1, 4)), look(row(2, 6), row(2, 5)), Verdict::Again),
            // it came and went: a net effect of nothing
            (look(None, row(1, 6)), look(row(1, 6), None), Verdict::Again),
            (look(row(1, 5), None), look(row(2, 5), None), Verdict::Again),
            (look(row(1, 5), row(1, 6)), look(row(1, 5), row(2, 5)), Verdict::Equal),
        ];
        for (last, now, expected) in cases {
            assert_eq!(judge(None, &last), Verdict::Again);
            assert_eq!(judge(Some(&last), &now), expected, "{last:?} {now:?}");
        }
        assert_eq!(judge(None, &look(None, None)), Verdict::Equal);
    }

    /// A row of the source at each moment, and the target somewhere behind it, which writes the net effect
    /// of what it takes at a time.
    #[derive(Debug)]
    struct World {
        source: Vec<Option<(u32, i64)>>,
        target: Option<(u32, i64)>,
        at: usize,
        writes: u32,
    }

    impl World {
        fn advance(&mut self, to: usize) {
            let to = to.clamp(self.at, self.source.len() - 1);
            let (before, after) = (self.source[self.at], self.source[to]);
            self.at = to;
            let touched = before.map(|row| row.0) != after.map(|row| row.0);
            if touched {
                self.writes += 1;
                self.target = after.map(|(_, hash)| (self.writes, hash));
            }
        }
    }

    fn seen_of(row: Option<(u32, i64)>) -> Option<Seen> {
        row.map(|(version, hash)| Seen { version: version.to_string(), hash })
    }

    proptest! {
        /// Whatever happens meanwhile: a target that follows is never called different.
        #[test]
        fn nothing_is_called_different_that_is_not(
            changes in prop::collection::vec(prop::option::of(0i64..3), 2..30),
            stays in prop::collection::vec(any::<bool>(), 30),
            steps in prop::collection::vec((0usize..4, 0usize..4, 0usize..4), 2..10),
        ) {
            let mut source: Vec<Option<(u32, i64)>> = Vec::new();
            for (n, (hash, stay)) in changes.iter().zip(&stays).enumerate() {
                let last = source.last().copied();
                source.push(match last {
                    Some(last) if *stay => last,
                    _ => hash.map(|hash| (n as u32, hash)),
                });
            }
            let end = source.len() - 1;
            let first = seen_of(source[0]).map(|s| (0, s.hash));
            let mut world = World { source, target: first, at: 0, writes: 0 };
            let (mut now, mut last) = (0usize, None);
            for (pause, wait, beyond) in steps {
                now = (now + pause).min(end);
                let at_source = now;
                now = (now + wait).min(end);
                // everything up to the look at the source, and maybe more
                world.advance((at_source + beyond).min(now).max(at_source));
                let look = Look {
                    source: seen_of(world.source[at_source]),
                    target: seen_of(world.target),
                };
                let verdict = judge(last.as_ref(), &look);
                prop_assert!(!matches!(verdict, Verdict::Different(_)), "{last:?} {look:?} {world:?}");
                last = Some(look);
            }
        }
    }
}
