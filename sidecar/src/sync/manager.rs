//! A target's task that does what is recorded; see the module's documentation.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rsrepl_wire::Lsn;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::complete::{Looker, compare};
use super::records::holds;
use super::share::hand_over_at;
use super::{Share, Stage, SyncTarget, Table, source};
use crate::config::{Config, Mode, Retry, TargetOptions};
use crate::error::{Decision, Error, Kind, Result};
use crate::guard::guarded;
use crate::pipeline::{LinkState, Sync};
use crate::retry::{Backoff, STOPPED_RETRY};
use crate::source::ReplicationClient;
use crate::spool::View;
use crate::status::Status;
use crate::target::SourceIdentity;

/// How often a target is asked for requests, and what goes on is recorded.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often the source is asked what is published.
const PUBLISHED_INTERVAL: Duration = Duration::from_secs(5);

/// How long a list may take to be begun, before the first copy.
const LIST_LIMIT: Duration = Duration::from_secs(10);

/// A sync that brings what was received that lately is near enough: the main stream may have to wait for as long.
const NEAR: Duration = Duration::from_millis(500);

/// Until it is near, how often it may take longer: the main stream then waits for so long.
const NEAR_ATTEMPTS: u32 = 20;

/// How long something may keep the sync from getting to where it ends: the main stream may be waiting for it.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(30);

/// It is tried again for ever, from what is recorded.
const RETRY: Retry = Retry {
    max_attempts: None,
    backoff: Duration::from_millis(200),
    max_backoff: Duration::from_secs(5),
};

/// See the module's documentation.
pub(crate) struct Manager {
    pub config: Arc<Config>,
    /// The target's place in the configuration.
    pub index: usize,
    pub target: Box<dyn SyncTarget>,
    /// The main stream's.
    pub share: Arc<watch::Sender<Share>>,
    pub link: watch::Receiver<Option<LinkState>>,
    /// Of the main stream's spool.
    pub view: View,
    pub status: Status,
    pub shutdown: CancellationToken,
    /// Tables that are published later are copied.
    pub lists: Lists,
}

/// Looks for tables that are published and not complete.
#[derive(Default)]
pub(crate) struct Lists {
    looker: Option<Looker>,
    looked: Option<Instant>,
    /// Why it cannot be done was told.
    told: bool,
}

/// Before a first copy, which takes its time: what is published now is on the list, what is published later is not.
pub(crate) async fn begin_list(config: &Config, index: usize, mut target: Box<dyn SyncTarget>) {
    let begin = async {
        let source = &config.source;
        let mut client = ReplicationClient::connect(&source.connection).await?;
        let identity = crate::source::identify(&mut client, &source.slot_name).await?.identity;
        client.close().await;
        target.open(&identity).await?;
        if target.complete().await?.is_some() {
            return Ok(());
        }
        let Some(now) = Looker::connect(source).await?.look(source).await? else { return Ok(()) };
        target.set_complete(&compare(None, &now).0).await
    };
    let begun = tokio::time::timeout(LIST_LIMIT, begin).await;
    let begun: Result<()> =
        begun.unwrap_or_else(|_| Err(Error::new(Kind::Connection, "no answer")));
    if let Err(error) = begun {
        let name = config.targets.get(index).map_or("", |target| &target.name);
        debug!(target_name = name, %error, "the list of its tables is begun later");
    }
}

impl Manager {
    /// Runs until shutdown.
    pub(crate) async fn run(mut self) {
        let shutdown = self.shutdown.clone();
        let mut backoff = Backoff::new(RETRY);
        loop {
            let began = Instant::now();
            let failure = tokio::select! {
                served = guarded(self.serve()) => match served {
                    Ok(()) => return,
                    Err(error) => error,
                },
                () = shutdown.cancelled() => return,
            };
            if began.elapsed() > STOPPED_RETRY {
                backoff.reset();
            }
            let wait = match failure.decision() {
                Decision::Retry => backoff.failed().unwrap_or(STOPPED_RETRY),
                Decision::Stop => STOPPED_RETRY,
            };
            // a target that is down is told of by its own task
            if !self.share.borrow().is_watched() {
                debug!(target_name = self.name(), error = %failure, "no look at what is to be synced");
            } else {
                warn!(target_name = self.name(), error = %failure, retry_in = ?wait, "syncing tables was interrupted, and goes on from what is recorded");
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    fn name(&self) -> &str {
        self.config.targets.get(self.index).map_or("", |target| &target.name)
    }

    async fn serve(&mut self) -> Result<()> {
        let Ok(link) = self.link.wait_for(Option::is_some).await.map(|link| link.clone()) else {
            return Ok(());
        };
        let Some(identity) = link.map(|link| link.source.identity) else { return Ok(()) };
        // it makes what is not there, and is told of what fails
        let mut share = self.share.subscribe();
        share.wait_for(|share| share.open).await.map(drop).map_err(|_| gone())?;
        self.target.open(&identity).await?;
        loop {
            let tables = self.target.read().await?;
            self.note(&tables);
            let work = next(&tables);
            match work.first().map(|table| table.stage) {
                None => {
                    self.look_for_new(&tables).await;
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
                Some(Stage::Requested) => self.begin(work, &identity).await?,
                Some(Stage::Copying) => self.copy(work).await?,
                Some(Stage::HandingOver) => self.follow(work).await?,
                Some(Stage::HandedOver) => self.finish(work).await?,
            }
        }
    }

    /// Tells the main stream what is recorded.
    fn note(&self, tables: &[Table]) {
        let holds = holds(tables);
        self.share.send_if_modified(|share| share.hold(holds));
    }

    /// Tables that are published and not complete are asked for, as `rsrepl resync` does.
    async fn look_for_new(&mut self, known: &[Table]) {
        let is_history = |target: &crate::config::Target| match &target.options {
            TargetOptions::ClickHouse(options) => options.mode == Mode::History,
            TargetOptions::Postgres(_) => false,
        };
        // what a history has of a table that comes back would be gone
        let wanted = self.config.targets.get(self.index).is_some_and(|target| !is_history(target));
        let due = self.lists.looked.is_none_or(|at| at.elapsed() >= PUBLISHED_INTERVAL);
        if !(self.config.copy.data && wanted && due) {
            return;
        }
        self.lists.looked = Some(Instant::now());
        let Err(error) = self.compare_lists(known).await else {
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
        let source = &self.config.source;
        let mut looker = match self.lists.looker.take() {
            Some(looker) => looker,
            None => Looker::connect(source).await?,
        };
        let Some(now) = looker.look(source).await? else {
            self.lists.looker = Some(looker);
            return Ok(());
        };
        let list = self.target.complete().await?;
        let (complete, new) = compare(list.as_ref(), &now);
        let asked: Vec<Table> = new
            .into_iter()
            .filter(|new| !known.iter().any(|table| table.oid == new.oid))
            .map(|new| Table { oid: new.oid, name: new.name, ..Table::default() })
            .collect();
        if !asked.is_empty() {
            info!(
                target_name = self.name(),
                tables = names(&asked),
                "tables are published that this target does not have: they are copied"
            );
            self.target.write(&asked).await?;
        }
        if list.as_ref() != Some(&complete) {
            self.target.set_complete(&complete).await?;
        }
        self.lists.looker = Some(looker);
        Ok(())
    }

    /// From here on the main stream has them no more.
    async fn begin(&mut self, mut tables: Vec<Table>, identity: &SourceIdentity) -> Result<()> {
        let slot = source::name(&identity.slot, self.index);
        self.target.begin(&slot, &tables).await?;
        for table in &mut tables {
            table.stage = Stage::Copying;
            table.slot.clone_from(&slot);
            table.error.clear();
        }
        self.target.write(&tables).await?;
        info!(
            target_name = self.name(),
            slot,
            tables = names(&tables),
            "tables are copied anew; the stream goes on without them"
        );
        Ok(())
    }

    /// Empties and copies the tables, and follows them.
    async fn copy(&mut self, mut tables: Vec<Table>) -> Result<()> {
        let slot = slot_of(&tables);
        self.settled().await?;
        let source = &self.config.source;
        if self.target.has_begun(&slot).await? && !source::is_usable(source, &slot).await? {
            warn!(
                target_name = self.name(),
                slot,
                tables = names(&tables),
                "the slot of a sync is gone, or what it needs: its tables are copied once more"
            );
            // the records of the old name are of no use, and nobody's but ours
            let anew = source::name(&source.slot_name, self.index);
            self.target.begin(&anew, &tables).await?;
            source::drop(source, &slot).await?;
            tables.iter_mut().for_each(|table| table.slot.clone_from(&anew));
            self.target.write(&tables).await?;
            return self.target.end(&slot, &[]).await;
        }
        let sync = Sync::new(&self.config, self.index, &slot, oids(&tables))?;
        let (status, shutdown) = (self.status.clone(), self.shutdown.child_token());
        let _ends = shutdown.clone().drop_guard();
        let copied = {
            let copying = sync.copy(&status, &shutdown);
            let mut copying = std::pin::pin!(copying);
            loop {
                tokio::select! {
                    copied = &mut copying => break copied?,
                    () = tokio::time::sleep(LOOK_INTERVAL) => {
                        let error = sync.status.snapshot().source.last_error;
                        self.tell(&mut tables, error).await?;
                    }
                }
            }
        };
        if !copied {
            return Ok(());
        }
        self.tell(&mut tables, None).await?;
        self.follow(tables).await
    }

    /// What keeps it from getting on is recorded for who asked.
    async fn tell(&mut self, tables: &mut [Table], error: Option<String>) -> Result<()> {
        let error = error.unwrap_or_default();
        if tables.iter().all(|table| table.error == error) {
            return Ok(());
        }
        tables.iter_mut().for_each(|table| table.error.clone_from(&error));
        self.target.write(tables).await
    }

    /// Nothing of the tables is under way in the main stream.
    async fn settled(&self) -> Result<()> {
        let mut share = self.share.subscribe();
        share.wait_for(Share::is_settled).await.map(drop).map_err(|_| gone())
    }

    /// Follows the tables until the main stream can go on with them; to where it does if that is recorded.
    async fn follow(&mut self, mut tables: Vec<Table>) -> Result<()> {
        let slot = slot_of(&tables);
        let sync = Sync::new(&self.config, self.index, &slot, oids(&tables))?;
        let recorded = tables.first().map(|table| table.hand_over).filter(|at| *at > Lsn::INVALID);
        let own = Arc::new(watch::channel(Share::sync(oids(&tables), recorded)).0);
        let stop = self.shutdown.child_token();
        let _ends = stop.clone().drop_guard();
        let status = sync.status.clone();
        let following = sync.follow(Arc::clone(&own), stop.clone());
        let mut following = std::pin::pin!(following);
        let handed_over = tokio::select! {
            ended = &mut following => return ended,
            done = self.until_handed_over(&mut tables, recorded, &own, &status) => done?,
        };
        // its sessions end before anything of it is taken away
        stop.cancel();
        following.await?;
        if !handed_over {
            warn!(
                target_name = self.name(),
                slot,
                tables = names(&tables),
                "a sync does not get to where it is to end, and the stream waits for it: its tables are copied once more"
            );
            // without it, the sync begins anew
            source::drop(&self.config.source, &slot).await?;
            for table in &mut tables {
                (table.stage, table.hand_over) = (Stage::Copying, Lsn::INVALID);
            }
            return self.target.write(&tables).await;
        }
        tables.iter_mut().for_each(|table| {
            table.stage = Stage::HandedOver;
            table.error.clear();
        });
        self.target.hand_over(&slot, &tables).await
    }

    /// Until the sync has brought all that is its own. `false`: something keeps it from that.
    async fn until_handed_over(
        &mut self,
        tables: &mut [Table],
        recorded: Option<Lsn>,
        own: &watch::Sender<Share>,
        status: &Status,
    ) -> Result<bool> {
        let at = match recorded {
            Some(at) => at,
            None => {
                self.near(tables, own, status).await?;
                let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
                let mut at = self.view.received();
                own.send_modify(|own| {
                    self.share.send_modify(|main| at = hand_over_at(main, own, &oids, at));
                });
                for table in tables.iter_mut() {
                    (table.stage, table.hand_over) = (Stage::HandingOver, at);
                }
                self.target.write(tables).await?;
                own.send_modify(|own| own.end_at(at));
                at
            }
        };
        let mut shares = own.subscribe();
        self.watching(tables, status, shares.wait_for(|own| own.stored >= at), HAND_OVER_PATIENCE)
            .await
    }

    /// Until the sync brings what is received without delay.
    async fn near(
        &mut self,
        tables: &mut [Table],
        own: &watch::Sender<Share>,
        status: &Status,
    ) -> Result<()> {
        for _ in 0..NEAR_ATTEMPTS {
            let (mark, since) = (self.view.received(), Instant::now());
            let mut shares = own.subscribe();
            let reached = shares.wait_for(|own| own.reached >= mark);
            self.watching(tables, status, reached, Duration::MAX).await?;
            if since.elapsed() <= NEAR {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits for the sync to get somewhere, and records what keeps it from that. `false`: something has for so long.
    async fn watching<T>(
        &mut self,
        tables: &mut [Table],
        status: &Status,
        reached: impl Future<Output = Result<T, watch::error::RecvError>>,
        patience: Duration,
    ) -> Result<bool> {
        let mut reached = std::pin::pin!(reached);
        let slot = slot_of(tables);
        let mut failing: Option<Instant> = None;
        loop {
            tokio::select! {
                reached = &mut reached => return reached.map(|_| true).map_err(|_| gone()),
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            let now = status.snapshot();
            let of_target = now.targets.first().and_then(|target| target.last_error.clone());
            let error = of_target.or(now.source.last_error);
            let failed = error.is_some();
            self.tell(tables, error).await?;
            failing = failed.then(|| failing.unwrap_or_else(Instant::now));
            if failing.is_some_and(|since| since.elapsed() >= patience) {
                return Ok(false);
            }
            // a slot that is gone does not come back
            if failed && !source::is_usable(&self.config.source, &slot).await? {
                let what = format!("slot {slot}, of a sync, is gone, or what it needs");
                for table in tables.iter_mut() {
                    (table.stage, table.hand_over) = (Stage::Copying, Lsn::INVALID);
                }
                self.target.write(tables).await?;
                return Err(Error::new(Kind::Server, what));
            }
        }
    }

    /// Once the main stream is behind the place where it goes on with the tables, nothing of the sync is left.
    async fn finish(&mut self, tables: Vec<Table>) -> Result<()> {
        let slot = slot_of(&tables);
        let at = tables.iter().map(|table| table.hand_over).max().unwrap_or(Lsn::INVALID);
        let mut share = self.share.subscribe();
        share.wait_for(|main| main.stored >= at).await.map(drop).map_err(|_| gone())?;
        source::drop(&self.config.source, &slot).await?;
        self.target.end(&slot, &tables).await?;
        info!(
            target_name = self.name(),
            tables = names(&tables),
            "tables are copied, and part of the stream again"
        );
        Ok(())
    }
}

/// What is to be done next: the tables of a sync that has begun, or all that are asked for.
fn next(tables: &[Table]) -> Vec<Table> {
    let begun = tables.iter().find(|table| table.stage != Stage::Requested);
    let slot = begun.map_or("", |table| table.slot.as_str());
    tables.iter().filter(|table| table.slot == slot).cloned().collect()
}

fn slot_of(tables: &[Table]) -> String {
    tables.first().map(|table| table.slot.clone()).unwrap_or_default()
}

fn oids(tables: &[Table]) -> BTreeSet<u32> {
    tables.iter().map(|table| table.oid).collect()
}

fn names(tables: &[Table]) -> String {
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    names.join(", ")
}

#[cold]
fn gone() -> Error {
    Error::new(Kind::Internal, "a target's task is gone")
}
