//! Looks at single keys until it is known of each whether it differs, or has only not arrived yet.
//!
//! What two looks say is decided in [`judge`](super::judge). A row that changes all the time is looked at again and
//! again; from the second look on the source's is read all the while, and the target's may be any of these.

use std::collections::{BTreeMap, HashSet};

use tokio_postgres::Client;

use super::differences::{Desk, Difference};
use super::judge::{Look, Seen, Verdict, judge, values};
use super::key::Key;
use super::postgres::wal_end;
use super::sides::Source;
use super::tables::{Table, There};
use super::target::Target;
use super::view::{Found, View};
use super::visible;
use crate::error::Result;

/// Keys that are looked up in one statement.
const KEYS_MAX: usize = 500;
/// Keys in one round: they wait for one position.
const ROUND_MAX: usize = 10_000;
/// After so many looks a row that still changes is left.
const LOOKS_MAX: u32 = 40;
/// After so many, of which the source never showed all that the target had, a row is left.
const UNSURE_MAX: u32 = 2;
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
    /// What the source has to show for the next look to count.
    horizon: u64,
    looks: u32,
    /// Looks that did not count.
    unsure: u32,
}

impl Suspect {
    pub(crate) fn new(table: usize, key: Key) -> Suspect {
        Suspect { table, key, last: None, horizon: 0, looks: 0, unsure: 0 }
    }
}

/// Suspects that are looked at together, by table.
type Round = BTreeMap<usize, Vec<Suspect>>;

/// Rows of a round, in its order.
type Rows = BTreeMap<usize, Vec<Option<Seen>>>;

/// Hashes that rows of the source had, by table and place in the round.
type Samples = HashSet<(usize, usize, (u64, i64))>;

/// Looks at all suspects of a target until it is known of each what it is.
pub(super) async fn settle(source: &Source, tables: &[Table], target: &Target, desk: &mut Desk) {
    while !desk.suspects.is_empty() {
        let from = desk.suspects.len().saturating_sub(ROUND_MAX);
        let mut round = Round::new();
        for suspect in desk.suspects.split_off(from) {
            round.entry(suspect.table).or_default().push(suspect);
        }
        let places = Places { source, tables, target, number: desk.target };
        if let Err(error) = places.round(desk, &mut round).await {
            // the rest of the round, and what is like it
            for table in round.into_keys() {
                desk.fail(table, error.to_string());
            }
        }
        let failed = |suspect: &Suspect| {
            desk.tallies.get(suspect.table).is_none_or(|tally| tally.failed.is_some())
        };
        let left: Vec<Suspect> = std::mem::take(&mut desk.suspects);
        desk.suspects = left.into_iter().filter(|suspect| !failed(suspect)).collect();
    }
}

/// Where rows are looked at.
#[derive(Clone, Copy)]
struct Places<'a> {
    source: &'a Source,
    tables: &'a [Table],
    target: &'a Target,
    number: usize,
}

impl<'a> Places<'a> {
    fn table(self, number: usize) -> Option<(&'a Table, &'a There)> {
        let table = self.tables.get(number)?;
        Some((table, table.there.get(self.number)?.as_ref().ok()?))
    }

    fn client(self) -> &'a Client {
        &self.source.look
    }

    /// One look at each of them; those that are not settled by it go back to the desk.
    async fn round(self, desk: &mut Desk, round: &mut Round) -> Result<()> {
        let horizon = round.values().flatten().map(|suspect| suspect.horizon).max();
        let visibility = &self.source.visibility;
        let shows = visibility.reaches(self.client(), horizon.unwrap_or(0)).await?;
        let mut here = self.rows_here(round).await?;
        let lsn = wal_end(self.client()).await?;
        let hot = hot(round);
        let mut samples = Samples::new();
        let mut sample = async || self.sample(&hot, &mut samples).await;
        self.target.wait_for(lsn, &mut sample).await?;
        let mut there = self.rows_there(round).await?;
        let horizon = visible::horizon(self.client()).await?;
        sample().await?;
        for (number, suspects) in std::mem::take(round) {
            let here = here.remove(&number).unwrap_or_default();
            let there = there.remove(&number).unwrap_or_default();
            let looks = here.into_iter().zip(there).map(|(source, target)| Look { source, target });
            for (place, (mut suspect, look)) in suspects.into_iter().zip(looks).enumerate() {
                let was_there = values(&look.target)
                    .is_some_and(|values| samples.contains(&(number, place, values)));
                suspect.horizon = horizon;
                self.conclude(desk, suspect, look, shows, was_there);
            }
        }
        Ok(())
    }

    fn conclude(
        self,
        desk: &mut Desk,
        mut suspect: Suspect,
        look: Look,
        shows: bool,
        was_there: bool,
    ) {
        let number = suspect.table;
        let Some((table, _)) = self.table(number) else { return };
        suspect.unsure += u32::from(!shows);
        match judge(suspect.last.as_ref(), &look, shows) {
            Verdict::Equal => {}
            Verdict::Different(kind) => {
                let difference = Difference { key: suspect.key, kind, look };
                desk.differs(number, difference, table.scope.operations);
            }
            Verdict::Again if was_there => {}
            Verdict::Again if suspect.unsure >= UNSURE_MAX => {
                desk.tally(number, |tally| tally.unsure += 1);
            }
            Verdict::Again if suspect.looks >= LOOKS_MAX => {
                desk.tally(number, |tally| tally.unsettled += 1);
            }
            Verdict::Again => {
                suspect.looks += 1;
                suspect.last = Some(look);
                desk.suspects.push(suspect);
            }
        }
    }

    async fn rows_here(self, round: &Round) -> Result<Rows> {
        let mut rows = Rows::new();
        for (number, suspects) in round {
            let Some((table, there)) = self.table(*number) else { continue };
            let found = look_up(View::Postgres(self.client(), &table.source), suspects).await?;
            let found = found.into_iter().map(|found| seen(found, there.profile));
            rows.insert(*number, found.collect());
        }
        Ok(rows)
    }

    async fn rows_there(self, round: &Round) -> Result<Rows> {
        let mut rows = Rows::new();
        for (number, suspects) in round {
            let view = self.table(*number).and_then(|(_, there)| self.target.look(there));
            let Some(view) = view else { continue };
            let found = look_up(view, suspects).await?;
            rows.insert(*number, found.into_iter().map(|found| seen(found, 0)).collect());
        }
        Ok(rows)
    }

    /// Whether there was anything to read.
    async fn sample(self, hot: &[(usize, usize, Key)], samples: &mut Samples) -> Result<bool> {
        for (number, place, key) in hot {
            let Some((table, there)) = self.table(*number) else { continue };
            let found = View::Postgres(self.client(), &table.source).look_up(&[key]).await?;
            let row = seen(found.into_iter().next().flatten(), there.profile);
            samples.extend(values(&row).map(|values| (*number, *place, values)));
        }
        Ok(!hot.is_empty())
    }
}

/// Those that have been looked at before, with their places.
fn hot(round: &Round) -> Vec<(usize, usize, Key)> {
    let all = round.iter().flat_map(|(number, suspects)| {
        let again = suspects.iter().enumerate().filter(|(_, s)| s.looks >= SAMPLED_FROM);
        again.map(|(place, suspect)| (*number, place, suspect.key.clone()))
    });
    all.take(SAMPLED_MAX).collect()
}

fn seen(found: Option<Found>, profile: usize) -> Option<Seen> {
    let Found { version, rows, hashes } = found?;
    Some(Seen { version, rows, hash: hashes.get(profile).copied().unwrap_or_default() })
}

async fn look_up(view: View<'_>, suspects: &[Suspect]) -> Result<Vec<Option<Found>>> {
    let mut all = Vec::with_capacity(suspects.len());
    for some in suspects.chunks(KEYS_MAX) {
        let keys: Vec<&Key> = some.iter().map(|suspect| &suspect.key).collect();
        all.extend(view.look_up(&keys).await?);
    }
    Ok(all)
}
