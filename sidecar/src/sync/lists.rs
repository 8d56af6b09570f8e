//! Looks at the source: for tables that are published and not complete, and for slots of syncs that nobody knows.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::complete::{Compared, Looker, Published, compare};
use super::manager::{Manager, names};
use super::{Stage, SyncTarget, Table, source};
use crate::config::{Config, Mode, Target, TargetOptions};
use crate::error::{Decision, Error, Kind, Result};
use crate::source::SourceInfo;

/// How often the source is asked what is published.
const PUBLISHED_INTERVAL: Duration = Duration::from_secs(5);

/// How long that may take.
const LOOK_LIMIT: Duration = Duration::from_secs(30);

/// How often slots are looked for that nobody knows.
const SLOTS_INTERVAL: Duration = Duration::from_secs(300);

/// What of it is known from one look to the next.
#[derive(Default)]
pub(crate) struct Lists {
    looker: Option<Looker>,
    looked: Option<Instant>,
    /// Why it cannot be done was told.
    told: bool,
}

/// Before a first copy, which takes its time: what is published now is on the list, what is published later is not. In
/// each of its rounds, what is in its snapshot (`copied`) is, as it is published now: the copy looks after that.
///
/// # Errors
/// The source, or the target's.
pub(crate) async fn begin_list(
    config: &Config,
    info: &SourceInfo,
    target: &mut dyn SyncTarget,
    copied: &BTreeSet<u32>,
) -> Result<()> {
    target.open(&info.identity).await?;
    let list = target.complete().await?;
    if list.is_some() && copied.is_empty() {
        return Ok(());
    }
    let source = &config.source;
    let Some(now) = Looker::connect(source).await?.look(source).await? else { return Ok(()) };
    let begun = match list.clone() {
        None => compare(None, &now, &BTreeSet::new()).list,
        Some(mut list) => {
            let of = now.tables.into_iter().filter(|table| copied.contains(&table.oid));
            list.tables.extend(of.map(|table| (table.oid, table.by)));
            list
        }
    };
    if list.as_ref() == Some(&begun) {
        return Ok(());
    }
    target.set_complete(&begun).await
}

/// What a history has of a table that comes back would be gone.
fn is_history(target: &Target) -> bool {
    match &target.options {
        TargetOptions::ClickHouse(options) => options.mode == Mode::History,
        TargetOptions::Postgres(_) => false,
    }
}

impl Manager {
    /// Tables that are published and not complete are asked for, as `rsrepl resync` does.
    pub(super) async fn look_for_new(&mut self, known: &[Table]) {
        let wanted = self.config.targets.get(self.index).is_some_and(|target| !is_history(target));
        let due = self.lists.looked.is_none_or(|at| at.elapsed() >= PUBLISHED_INTERVAL);
        if !(self.config.copy.data && wanted && due) {
            return;
        }
        self.lists.looked = Some(Instant::now());
        let compared = tokio::time::timeout(LOOK_LIMIT, self.compare_lists(known)).await;
        let Err(error) = compared.unwrap_or_else(|_| {
            Err(Error::new(Kind::Connection, format!("no answer for {LOOK_LIMIT:?}")))
        }) else {
            self.lists.told = false;
            return;
        };
        // a source that is away is told of by others
        if error.decision() == Decision::Stop && !self.lists.told {
            self.lists.told = true;
            warn!(target_name = self.name(), %error, "tables that are published later are not copied by themselves before this is mended");
        } else {
            debug!(target_name = self.name(), %error, "no look at what is published");
        }
    }

    async fn compare_lists(&mut self, known: &[Table]) -> Result<()> {
        let config = std::sync::Arc::clone(&self.config);
        let source = &config.source;
        let mut looker = match self.lists.looker.take() {
            Some(looker) => looker,
            None => Looker::connect(source).await?,
        };
        let Some(now) = looker.look(source).await? else {
            self.lists.looker = Some(looker);
            return Ok(());
        };
        let list = self.target.complete().await?;
        let listed: Vec<u32> = list.iter().flat_map(|list| list.tables.keys().copied()).collect();
        let there = looker.there(&listed).await?;
        let Compared { list: complete, new, changed } = compare(list.as_ref(), &now, &there);
        let is_known = |found: &Published| {
            known.iter().any(|table| table.oid == found.oid && table.stage != Stage::ToDecide)
        };
        let table = |found: &Published| Table {
            oid: found.oid,
            name: found.name.clone(),
            ..Table::default()
        };
        let new: Vec<Table> = new.iter().filter(|new| !is_known(new)).map(table).collect();
        let strange = match new.is_empty() {
            true => Vec::new(),
            false => self.target.strange(&new).await?,
        };
        let (strange, new): (Vec<Table>, Vec<Table>) =
            new.into_iter().partition(|table| strange.contains(&table.oid));
        let changed = changed.iter().filter(|found| !is_known(found)).map(table);
        let name = self.name().to_owned();
        let mut asked: Vec<Table> = changed.map(|table| was_complete(&name, table)).collect();
        asked.extend(strange.into_iter().map(|table| has_rows(&name, table)));
        if !new.is_empty() {
            info!(
                target_name = name,
                tables = names(&new),
                "tables are published that this target does not have: they are copied"
            );
        }
        asked.extend(new);
        if !asked.is_empty() {
            self.target.request(&asked).await?;
        }
        let published = |table: &&Table| now.tables.iter().any(|found| found.oid == table.oid);
        let over: Vec<Table> = known
            .iter()
            .filter(|table| table.stage == Stage::ToDecide && !published(table))
            .cloned()
            .collect();
        if !over.is_empty() {
            self.target.withdraw(&over).await?;
        }
        if list.as_ref() != Some(&complete) {
            self.target.set_complete(&complete).await?;
        }
        self.lists.looker = Some(looker);
        Ok(())
    }

    /// A slot of a sync that no target has a record of keeps WAL on the source for nobody. The first that has nothing else to
    /// do looks for all: only with what every target has recorded is one known to be nobody's.
    pub(super) async fn look_for_slots(&mut self) {
        let is_due = |at: Option<Instant>| at.is_none_or(|at| at.elapsed() >= SLOTS_INTERVAL);
        if !self.slots.lock().is_ok_and(|known| is_due(known.looked)) {
            return;
        }
        // before what is known: a slot is recorded before it is made
        let found = tokio::time::timeout(LOOK_LIMIT, source::idle(&self.config.source)).await;
        let Ok(Ok(idle)) = found else { return };
        let known = self.slots.lock().ok().and_then(|mut known| {
            // a target that has not answered yet may know it
            let all: Option<Vec<_>> = known.of_targets.iter().cloned().collect();
            let is_first = is_due(known.looked.replace(Instant::now()));
            if all.is_none() {
                known.looked = None;
            }
            let all = all?.into_iter().flatten().collect();
            is_first.then_some(all)
        });
        let known: BTreeSet<String> = match known {
            Some(known) => known,
            None => return,
        };
        for slot in idle.iter().filter(|slot| !known.contains(*slot)) {
            warn!(
                slot,
                "this slot keeps WAL on the source for a sync that no target knows of: its target was taken out of the \
                 configuration, or was set back. Run on the source: SELECT pg_catalog.pg_drop_replication_slot('{slot}')"
            );
        }
    }
}

/// Rows that did not come may be missing.
fn was_complete(target: &str, table: Table) -> Table {
    let error = format!(
        "{} was out of the publication for a time, or its row filter or columns there were changed: this target may lack \
         rows of it, or have too many. It is not emptied by itself: `rsrepl resync {} --target {target}` copies it anew",
        table.name, table.name
    );
    Table { stage: Stage::ToDecide, error, ..table }
}

/// They may be somebody's.
fn has_rows(target: &str, table: Table) -> Table {
    let error = format!(
        "{} is published since, and has rows on this target that rsrepl did not bring: it is not copied by itself. \
         `rsrepl resync {} --target {target}` empties it and copies it; or load it by hand",
        table.name, table.name
    );
    Table { stage: Stage::ToDecide, error, ..table }
}
