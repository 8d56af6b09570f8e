//! A table on all systems, and the sessions with which parts of it are read at the same time.

use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::arriving::{Marks, explained};
use super::key::{Key, Range};
use super::lists::{Listed, suspects};
use super::pace::{Pace, RANGE_ROWS, timed};
use super::postgres::failed;
use super::tables::Table;
use super::target::Target;
use super::view::{Part, Sum, View};
use super::visible::Visibility;
use crate::error::Result;
use crate::tls::PgConnect;

/// Parts that are read at the same time: one is read on the source while another waits for a target.
pub(super) const LANES: usize = 2;

/// Rows of a range when there are so many of it on a target that it is cut there.
const CUT_ABOVE: u64 = 8 * RANGE_ROWS;

/// Sessions with the source.
pub(crate) struct Source {
    pub(crate) connection: PgConnect,
    /// For parts, one for each lane.
    pub(crate) lanes: Vec<Client>,
    /// For boundaries and single rows.
    pub(crate) look: Client,
    pub(crate) utf8: bool,
    pub(crate) visibility: Visibility,
}

/// See the module's documentation.
#[derive(Clone, Copy)]
pub(super) struct Sides<'a> {
    pub(super) source: &'a Source,
    pub(super) targets: &'a [Target],
    pub(super) table: &'a Table,
    pub(super) pace: &'a Pace,
    pub(super) marks: &'a Marks,
    pub(super) lane: usize,
}

/// What sums say of a range.
#[derive(Default)]
pub(super) struct Compared {
    /// On the source.
    pub(super) rows: u64,
    pub(super) found: Vec<(usize, Result<Listed>)>,
    /// Targets that it has to be listed on.
    pub(super) to_list: Vec<usize>,
    /// Targets that have far too many rows of it.
    pub(super) to_cut: Vec<usize>,
}

impl<'a> Sides<'a> {
    pub(super) fn on_lane(self, lane: usize) -> Sides<'a> {
        Sides { lane, ..self }
    }

    pub(super) fn here(self) -> View<'a> {
        View::Postgres(self.session(), &self.table.source)
    }

    fn session(self) -> &'a Client {
        self.source.lanes.get(self.lane).unwrap_or(&self.source.look)
    }

    /// `None`: it cannot be compared there.
    pub(super) fn there(self, target: usize) -> Option<View<'a>> {
        let there = self.table.there.get(target)?.as_ref().ok()?;
        self.targets.get(target)?.scan(there, self.lane)
    }

    pub(super) fn views(self, targets: &[usize]) -> Vec<(usize, View<'a>)> {
        targets.iter().filter_map(|target| Some((*target, self.there(*target)?))).collect()
    }

    /// Which of the source's hashes the target has.
    pub(super) fn profile(self, target: usize) -> usize {
        let there = self.table.there.get(target).and_then(|there| there.as_ref().ok());
        there.map_or(0, |there| there.profile)
    }

    /// Compares the sums of a range, all of them taken at the same time.
    pub(super) async fn compare(self, range: &Range, targets: &[usize]) -> Result<Compared> {
        // the source is asked twice, as of one moment
        self.snapshot("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let compared = self.compare_sums(range, targets).await;
        self.snapshot("COMMIT").await?;
        compared
    }

    async fn snapshot(self, statement: &str) -> Result<()> {
        let done = self.session().batch_execute(statement).await;
        done.map_err(|error| failed(&self.table.source.who, error))
    }

    async fn compare_sums(self, range: &Range, targets: &[usize]) -> Result<Compared> {
        let views = self.views(targets);
        let there = join_all(views.iter().map(|(_, view)| timed(view.sum(range))));
        let ((here, took), there) = tokio::join!(timed(self.here().sum(range)), there);
        let (here, source_ms) = (here?, took.as_millis());
        self.pace.keep(here.rows).await;
        let mut compared = Compared { rows: here.rows, ..Compared::default() };
        let mut target_ms = Vec::new();
        let mut dirty = Vec::new();
        for ((target, view), (there, took)) in views.into_iter().zip(there) {
            target_ms.push(took.as_millis());
            match there {
                Ok(there) if there == here.of_profile(self.profile(target)) => {}
                Ok(there) if there.rows > CUT_ABOVE => compared.to_cut.push(target),
                Ok(there) => dirty.push((target, view, there)),
                Err(error) => compared.found.push((target, Err(error))),
            }
        }
        let began = Instant::now();
        let mut explained = 0;
        for (target, view, there) in dirty {
            match self.explain(range, &here, target, view, &there).await? {
                Some(keys) => {
                    explained += 1;
                    compared.found.push((target, Ok(Listed { keys, nulls: 0 })));
                }
                None => compared.to_list.push(target),
            }
        }
        let explain_ms = began.elapsed().as_millis();
        let lists = compared.to_list.len();
        tracing::debug!(
            here.rows,
            source_ms,
            ?target_ms,
            explain_ms,
            explained,
            lists,
            "sums of a range"
        );
        Ok(compared)
    }

    /// The keys that differ, when these are only on their way; what goes wrong on the target shows in its list.
    async fn explain(
        self,
        range: &Range,
        here: &Sum,
        target: usize,
        view: View<'_>,
        there: &Sum,
    ) -> Result<Option<Vec<Key>>> {
        let position = match self.targets.get(target) {
            Some(target) => target.position().await.ok().flatten(),
            None => None,
        };
        let Some(since) = position.and_then(|position| self.marks.since(position)) else {
            return Ok(None);
        };
        let lately = self.table.source.list_since(self.session(), range, since).await?;
        let Some(lately) = lately else { return Ok(None) };
        let keys: Vec<&Key> = lately.iter().filter_map(|row| row.key.as_ref()).collect();
        if keys.len() < lately.len() {
            return Ok(None);
        }
        let Ok(found) = view.look_up(&keys).await else { return Ok(None) };
        Ok(explained(here, there, &lately, self.profile(target), &found))
    }

    /// Lists a part on the source and on some targets: the keys that may differ there.
    ///
    /// # Errors
    /// Of the source.
    pub(super) async fn list(
        self,
        part: &Part<'_>,
        targets: &[usize],
    ) -> Result<Vec<(usize, Result<Listed>)>> {
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        let views = self.views(targets);
        let there = join_all(views.iter().map(|(_, view)| timed(view.list(part))));
        let ((here, took), there) = tokio::join!(timed(self.here().list(part)), there);
        let (here, source_ms) = (here?, took.as_millis());
        self.pace.keep(here.len() as u64).await;
        let mut found = Vec::with_capacity(views.len());
        for ((target, _), (rows, took)) in views.iter().zip(there) {
            let listed = rows.map(|rows| suspects(&here, self.profile(*target), &rows));
            let keys = listed.as_ref().map_or(0, |listed| listed.keys.len());
            let target_ms = took.as_millis();
            tracing::debug!(rows = here.len(), source_ms, target_ms, keys, "a list");
            found.push((*target, listed));
        }
        Ok(found)
    }
}
