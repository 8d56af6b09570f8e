//! The stage: rounds until every target has everything; see the documentation of the module above.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rsrepl_wire::Lsn;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::catch_up::catch_up;
use super::progress::Progress;
use super::reader::Reader;
use super::site::{Shared, Site, works};
use super::snapshot::{Exported, Taken};
use super::tables::{self, Catalog};
use super::workers::{self, Ended, Pass};
use super::{BEGIN_ANEW, CopyTarget, Records, Room, Snapshot, Standing};
use crate::config::{Config, Retry};
use crate::error::{Decision, Error, Kind, Result};
use crate::guard::guarded;
use crate::retry::{Backoff, STOPPED_RETRY};
use crate::source::{self, ReplicationClient, SourceInfo};
use crate::status::Status;
use crate::sync::{SyncTarget, begin_list};

/// The stage is tried again for ever, from what is recorded.
const RETRY: Retry = Retry {
    max_attempts: None,
    backoff: Duration::from_millis(500),
    max_backoff: Duration::from_secs(30),
};

/// How long a target may take to open before it counts as one that does not answer; it is tried again.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// When a copy is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// When no target has a position, or a copy is unfinished: nothing that runs is held up.
    AllAreNew,
    /// When a target has no position.
    AnyIsNew,
}

/// See the module's documentation.
pub struct Stage {
    pub config: Arc<Config>,
    /// Those that can take a copy, by their places in the configuration.
    pub targets: Vec<(usize, Box<dyn CopyTarget>)>,
    pub when: When,
    /// What is known of them beside the copy, by their places in the configuration: the list of their tables is begun
    /// before the first copy.
    pub lists: Vec<(usize, Box<dyn SyncTarget>)>,
    /// The tables that are copied, by oid; `None`: all that are published.
    pub only: Option<BTreeSet<u32>>,
    pub status: Status,
    pub progress: Progress,
    pub shutdown: CancellationToken,
}

/// How a round ended.
enum Round {
    /// All rows are there.
    Copied,
    /// The snapshot is too old, or gone.
    Another,
}

impl Stage {
    /// Copies what is to be copied. `false`: shutdown came first.
    pub async fn run(self) -> bool {
        let targets = self.targets.into_iter();
        let targets: Vec<(usize, Shared)> =
            targets.map(|(index, target)| (index, Arc::new(Mutex::new(target)))).collect();
        let runner = Runner {
            config: self.config,
            targets,
            when: self.when,
            lists: Mutex::new(self.lists),
            only: self.only,
            status: self.status,
            progress: self.progress,
        };
        if runner.targets.is_empty() {
            return true;
        }
        let mut backoff = Backoff::new(RETRY);
        loop {
            let before = runner.progress.chunks();
            let failure = tokio::select! {
                attempted = guarded(runner.attempt()) => match attempted {
                    Ok(()) => return true,
                    Err(error) => error,
                },
                () = self.shutdown.cancelled() => return false,
            };
            if runner.progress.chunks() > before {
                backoff.reset();
            }
            tokio::select! {
                () = runner.wait_after(failure, &mut backoff) => {}
                () = self.shutdown.cancelled() => return false,
            }
        }
    }
}

struct Runner {
    config: Arc<Config>,
    targets: Vec<(usize, Shared)>,
    when: When,
    lists: Mutex<Vec<(usize, Box<dyn SyncTarget>)>>,
    only: Option<BTreeSet<u32>>,
    status: Status,
    progress: Progress,
}

impl Runner {
    /// Rounds, until the copy is finished.
    async fn attempt(&self) -> Result<()> {
        loop {
            let mut client = ReplicationClient::connect(&self.config.source.connection).await?;
            let slot = &self.config.source.slot_name;
            let info = source::identify(&mut client, slot).await?;
            // also of targets that have nothing to tell sidecars apart by
            if !client.lock_copy(slot).await? {
                let message =
                    format!("another sidecar looks after the initial copy of slot {slot}");
                return Err(Error::new(Kind::Connection, message).hint(
                    "if its host is gone, its session ends within a minute, or by pg_terminate_backend of the PID \
                     that has the advisory lock in pg_locks on the source",
                ));
            }
            // it writes to the targets, which opening them would break off
            if let Some(used) = client.slot(slot).await?.filter(|slot| slot.active_pid.is_some()) {
                source::verify_slot(&info, &used, source::PLUGIN)?;
            }
            let Some(mut sites) = self.sites(&info).await? else {
                client.close().await;
                return Ok(());
            };
            self.begin_lists(&sites, &info, &BTreeSet::new()).await?;
            self.status.update_source(|source| source.last_error = None);
            let mut exported = self.export(client, &info, &sites).await?;
            let mut round = self.round(&info, &exported.taken(), &mut sites).await;
            if matches!(round, Ok(Round::Copied)) {
                round = self.finish(&sites, &info, &mut exported).await.map(|()| Round::Copied);
            }
            let begun = sites.iter().any(|site| site.records.caught_up.lsn != Lsn::INVALID);
            match begun {
                true => exported.release().await,
                false => exported.take_back().await,
            }
            match round? {
                Round::Copied => return Ok(()),
                Round::Another => {}
            }
        }
    }

    /// Opens the targets; `None`: there is nothing to copy.
    async fn sites(&self, info: &SourceInfo) -> Result<Option<Vec<Site>>> {
        let mut sites = Vec::new();
        let (mut positioned, mut unfinished, mut failed) = (false, false, None);
        let opened = join_all(self.targets.iter().map(|(_, target)| open(target, info))).await;
        for ((index, target), (name, standing)) in self.targets.iter().zip(opened) {
            let standing = match standing {
                Ok(standing) => standing,
                Err(error) => {
                    self.status.update_target(*index, |status| {
                        status.last_error = Some(error.to_string());
                        status.retries += 1;
                    });
                    failed.get_or_insert(error);
                    continue;
                }
            };
            self.status.update_target(*index, |status| status.last_error = None);
            let records = match standing {
                Standing::Positioned(_) => {
                    positioned = true;
                    continue;
                }
                Standing::New => Records {
                    caught_up: Snapshot { lsn: Lsn::INVALID, xmin: 0 },
                    chunks: Vec::new(),
                },
                Standing::Unfinished(records) => {
                    unfinished = true;
                    records
                }
            };
            let target = Arc::clone(target);
            sites.push(Site { index: *index, name, target, records, forms: Vec::new() });
        }
        let begins = unfinished || !positioned || self.when == When::AnyIsNew;
        // a target that does not answer keeps no stream from the others that have one
        if let Some(error) = failed.filter(|_| begins) {
            return Err(error);
        }
        Ok((begins && !sites.is_empty()).then_some(sites))
    }

    /// What is published while the copy runs is known as new afterwards.
    async fn begin_lists(
        &self,
        sites: &[Site],
        info: &SourceInfo,
        copied: &BTreeSet<u32>,
    ) -> Result<()> {
        for (index, list) in self.lists.lock().await.iter_mut() {
            if sites.iter().any(|site| site.index == *index) {
                let begun = begin_list(&self.config, info, list.as_mut(), copied);
                tokio::time::timeout(OPEN_LIMIT, begun).await.unwrap_or_else(|_| {
                    let message = format!("the list of tables is not begun after {OPEN_LIMIT:?}");
                    Err(Error::new(Kind::Connection, message))
                })?;
            }
        }
        Ok(())
    }

    async fn export(
        &self,
        mut client: ReplicationClient,
        info: &SourceInfo,
        sites: &[Site],
    ) -> Result<Exported> {
        let source = &self.config.source;
        match client.slot(&source.slot_name).await? {
            Some(slot) => {
                source::verify_slot(info, &slot, source::PLUGIN)?;
                info!("taking a snapshot; this waits for the transactions that are running now");
                Exported::of_now(client).await
            }
            None if sites.iter().any(|site| !site.records.chunks.is_empty()) => {
                let message = format!(
                    "slot {} is gone, and with it what the unfinished copy needs",
                    source.slot_name
                );
                Err(Error::new(Kind::Identity, message).hint(BEGIN_ANEW))
            }
            None if source.create_slot => {
                info!(
                    slot = source.slot_name,
                    "creating the slot; this waits for the transactions that are running now"
                );
                Exported::with_slot(client, &source.slot_name).await
            }
            None => Err(Error::new(
                Kind::Setup,
                format!("there is no slot {}, and create_slot is false", source.slot_name),
            )),
        }
    }

    async fn round(
        &self,
        info: &SourceInfo,
        exported: &Taken,
        sites: &mut [Site],
    ) -> Result<Round> {
        let began = Instant::now();
        let source = &self.config.source;
        let reader = Reader::connect(source).await?;
        let mut catalog = tables::read(&reader, source, &exported.name, exported.lsn).await?;
        let mut gone = Vec::new();
        if let Some(only) = &self.only {
            catalog.tables.retain(|table| only.contains(&table.relation.oid));
            let shown = |oid: &u32| catalog.tables.iter().any(|t| t.relation.oid == *oid);
            let missing = only.iter().copied().filter(|oid| !shown(oid)).collect();
            gone = tables::gone(&reader, missing).await?;
        }
        drop(reader);
        let copied = catalog.tables.iter().map(|table| table.relation.oid).collect();
        self.begin_lists(sites, info, &copied).await?;
        info!(
            lsn = %exported.lsn,
            tables = catalog.tables.len(),
            targets = sites.len(),
            "copying what the source has at this LSN"
        );
        self.prepare(sites, &catalog, &gone, exported).await?;
        // however long it took to get here, each round gets on for as long
        let age = self.config.copy.max_snapshot_age;
        let until = (began + age).max(Instant::now() + began.elapsed().max(age / 2));
        let mut backoff = Backoff::new(RETRY);
        loop {
            let pass = self.pass(exported, sites, &catalog, until);
            if pass.works.is_empty() {
                break;
            }
            let before = self.progress.chunks();
            let ended = workers::run(pass).await;
            if self.progress.chunks() > before {
                backoff.reset();
            }
            match ended {
                Ended::Done => self.reopen(sites, info, &catalog).await?,
                Ended::Aged => {
                    info!(age = ?began.elapsed(), "copy.max_snapshot_age: going on with a new snapshot");
                    return Ok(Round::Another);
                }
                Ended::Moved(error) => {
                    warn!("a new snapshot is needed: {error}");
                    return Ok(Round::Another);
                }
                // not for ever: the snapshot costs the source something
                Ended::Failed(error) if Instant::now() >= until => return Err(error),
                Ended::Failed(error) => {
                    self.wait_after(error, &mut backoff).await;
                    // another snapshot would have everything to be looked through again
                    Reader::connect(source).await?.begin(&exported.name).await?;
                    self.reopen(sites, info, &catalog).await?;
                }
            }
        }
        Ok(Round::Copied)
    }

    async fn finish(
        &self,
        sites: &[Site],
        info: &SourceInfo,
        exported: &mut Exported,
    ) -> Result<()> {
        let position = exported.lsn;
        // indexes may take hours, and need no snapshot
        exported.end().await?;
        let finished = sites.iter().map(|site| self.finish_one(site, info, position));
        join_all(finished).await.into_iter().collect()
    }

    /// Tries until it is finished: another round would read the whole source once more for what needs nothing of it.
    ///
    /// # Errors
    /// [`Kind::Server`] when the target is not where this round has brought it.
    async fn finish_one(&self, site: &Site, info: &SourceInfo, position: Lsn) -> Result<()> {
        let mut backoff = Backoff::new(RETRY);
        let mut finished = site.target.lock().await.finish(position).await;
        while let Err(failure) = finished {
            self.wait_after(failure, &mut backoff).await;
            finished = match open(&site.target, info).await.1 {
                Err(error) => Err(error),
                // the answer was lost
                Ok(Standing::Positioned(at)) if at == position => Ok(()),
                Ok(Standing::Unfinished(records)) if records.caught_up.lsn == position => {
                    site.target.lock().await.finish(position).await
                }
                Ok(_) => return Err(taken_on(&site.name)),
            };
        }
        info!(target_name = site.name, %position, "copied: everything is there");
        Ok(())
    }

    /// Between two passes of a round.
    ///
    /// # Errors
    /// [`Kind::Server`] when a target is not where this round has brought it: another sidecar copies, or it
    /// has lost what it had. Chunks of this snapshot may not be written there any more.
    async fn reopen(&self, sites: &mut [Site], info: &SourceInfo, catalog: &Catalog) -> Result<()> {
        for site in sites {
            site.reopen(info).await?;
            if site.records.caught_up != catalog.snapshot {
                return Err(taken_on(&site.name));
            }
            site.start_over_changed(catalog, false).await?;
        }
        Ok(())
    }

    async fn wait_after(&self, failure: Error, backoff: &mut Backoff) {
        let wait = match failure.decision() {
            Decision::Retry => backoff.failed().unwrap_or(STOPPED_RETRY),
            Decision::Stop => STOPPED_RETRY,
        };
        warn!(error = %failure, retry_in = ?wait, "the initial copy was interrupted, and goes on from what is recorded");
        self.status.update_source(|source| source.last_error = Some(failure.to_string()));
        tokio::time::sleep(wait).await;
    }

    /// Brings the targets to where chunks of this snapshot may be written.
    /// `gone`: what was asked for and is not there.
    async fn prepare(
        &self,
        sites: &mut [Site],
        catalog: &Catalog,
        gone: &[u32],
        exported: &Taken,
    ) -> Result<()> {
        let (name, at) = (exported.name.as_str(), exported.lsn);
        for site in sites.iter_mut() {
            // the table of a sync has to become what it is now, which no stream brings, before it can be accepted
            if self.only.is_some() {
                site.start_over_changed(catalog, true).await?;
            }
            site.forms = site.target.lock().await.accept(&catalog.tables, (name, at)).await?;
            site.start_over_changed(catalog, false).await?;
            for oid in gone {
                site.target.lock().await.dropped(*oid, at).await?;
            }
        }
        catch_up(&self.config.source, sites, &catalog.tables, catalog.snapshot).await?;
        for site in sites.iter_mut() {
            site.target.lock().await.caught_up(catalog.snapshot).await?;
            site.records.caught_up = catalog.snapshot;
        }
        Ok(())
    }

    /// What is left to be done under this snapshot.
    fn pass(&self, exported: &Taken, sites: &[Site], catalog: &Catalog, until: Instant) -> Pass {
        let works = works(sites, catalog, self.config.copy.chunk_size);
        // of others, other stages know what is left
        if self.only.is_none() {
            self.progress.nothing_left();
        }
        self.progress.planned(&catalog.tables, &works);
        Pass {
            source: self.config.source.clone(),
            workers: self.config.copy.workers,
            snapshot: catalog.snapshot,
            snapshot_name: exported.name.clone(),
            tables: catalog.tables.clone(),
            works,
            sites: sites.iter().map(|s| (s.index, s.name.clone(), Arc::clone(&s.target))).collect(),
            forms: sites.iter().map(|site| site.forms.clone()).collect(),
            until,
            room: Room::new(),
            status: self.status.clone(),
            progress: self.progress.clone(),
        }
    }
}

fn taken_on(target: &str) -> Error {
    let message = format!(
        "target {target}: its copy has been taken on by somebody else, or was set back, while a snapshot was being \
         copied"
    );
    Error::new(Kind::Server, message)
}

/// Opens a target, which may hang without holding up the others.
async fn open(target: &Shared, info: &SourceInfo) -> (String, Result<Standing>) {
    let mut target = target.lock().await;
    let name = target.name().to_owned();
    let opened = tokio::time::timeout(OPEN_LIMIT, target.open(&info.identity)).await;
    let opened = opened.unwrap_or_else(|_| {
        let message = format!("target {name}: it is not open after {OPEN_LIMIT:?}");
        Err(Error::new(Kind::Connection, message))
    });
    (name, opened)
}
