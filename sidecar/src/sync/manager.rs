//! A target's task that does what is recorded; see the module's documentation.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rsrepl_wire::Lsn;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::lists::Lists;
use super::records::{holds, names_held};
use super::{Share, Stage, SyncTarget, Table, source};
use crate::config::{Config, Retry};
use crate::error::{Decision, Error, Kind, Result};
use crate::guard::guarded;
use crate::pipeline::{LinkState, TableSync};
use crate::retry::{Backoff, STOPPED_RETRY};
use crate::spool::View;
use crate::status::{Status, TargetState};
use crate::target::SourceIdentity;

/// How often a target is asked for requests, and what goes on is recorded.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is asked whether a slot is lost, while something fails: each time takes a session of the source.
const LOST_INTERVAL: Duration = Duration::from_secs(30);

/// How long a target may take to answer before that counts as an error: the main stream may be waiting for what it says.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

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
    /// Of all targets: what slots they know of.
    pub slots: Slots,
    /// What was read last.
    pub tables: Vec<Table>,
}

/// Slots of syncs.
pub(crate) type Slots = Arc<Mutex<KnownSlots>>;

/// Those that targets have recorded, and when it was last looked for others.
pub(crate) struct KnownSlots {
    /// By the target's place in the configuration; `None`: not read yet.
    pub of_targets: Vec<Option<BTreeSet<String>>>,
    pub looked: Option<Instant>,
}

impl KnownSlots {
    /// Nothing was read yet.
    pub(crate) fn new(targets: usize) -> KnownSlots {
        KnownSlots { of_targets: vec![None; targets], looked: None }
    }
}

impl Manager {
    /// Runs until shutdown.
    pub(crate) async fn run(mut self) {
        let shutdown = self.shutdown.clone();
        let mut backoff = Backoff::new(RETRY);
        loop {
            let began = Instant::now();
            let mut reading = false;
            let failure = tokio::select! {
                served = guarded(self.serve(&mut reading)) => match served {
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
            self.note_failure(&failure, wait, reading).await;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Says what has failed where people look for it. (A target that is down is told of by its own task.)
    /// `reading`: the records themselves could not be read.
    async fn note_failure(&mut self, failure: &Error, wait: Duration, reading: bool) {
        let (known, open) = (self.share.borrow().known, self.share.borrow().open);
        if !known && open {
            warn!(target_name = self.name(), error = %failure, retry_in = ?wait, "it is not known which tables are being copied anew: nothing is written to this target until that can be read");
            self.status.update_target(self.index, |status| {
                status.state = TargetState::Retrying;
                status.last_error = Some(format!(
                    "nothing is written until it is known which tables are being copied anew: {failure}"
                ));
            });
        } else if reading && failure.kind() != Kind::Connection {
            warn!(target_name = self.name(), error = %failure, retry_in = ?wait, "what is recorded of tables that are copied anew cannot be read: requests wait");
        } else if self.tables.iter().any(Table::is_work) {
            warn!(target_name = self.name(), error = %failure, retry_in = ?wait, "syncing tables was interrupted, and goes on from what is recorded");
            let told = tokio::time::timeout(ANSWER_LIMIT, self.record_failure(failure)).await;
            if !matches!(told, Ok(Ok(()))) {
                debug!(target_name = self.name(), "that could not be recorded");
            }
        } else {
            debug!(target_name = self.name(), error = %failure, "no look at what is to be synced");
        }
    }

    /// For who has asked. What is recorded may have changed since it was read.
    async fn record_failure(&mut self, failure: &Error) -> Result<()> {
        let link = self.link.borrow().clone();
        let Some(link) = link else { return Ok(()) };
        self.target.open(&link.source.identity).await?;
        let mut tables = next(&self.target.read().await?);
        self.tell(&mut tables, Some(failure.to_string())).await
    }

    pub(super) fn name(&self) -> &str {
        self.config.targets.get(self.index).map_or("", |target| &target.name)
    }

    async fn serve(&mut self, reading: &mut bool) -> Result<()> {
        let Ok(link) = self.link.wait_for(Option::is_some).await.map(|link| link.clone()) else {
            return Ok(());
        };
        let Some(identity) = link.map(|link| link.source.identity) else { return Ok(()) };
        // it makes what is not there, and is told of what fails
        let mut share = self.share.subscribe();
        share.wait_for(|share| share.open).await.map(drop).map_err(|_| gone())?;
        within(self.target.open(&identity)).await?;
        loop {
            *reading = true;
            let tables = within(self.target.read()).await?;
            *reading = false;
            self.take_back(&tables).await?;
            self.note(&tables);
            let work = next(&tables);
            let Some(work) = self.without_cancelled(work).await? else { continue };
            match work.first().map(|table| table.stage) {
                None => {
                    self.look_for_new(&tables).await;
                    self.look_for_slots().await;
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
                Some(Stage::ToDecide | Stage::Requested | Stage::RequestedAgain) => {
                    self.begin(work, &identity).await?;
                }
                // what has begun comes first
                Some(Stage::GivenUp) => self.clear_up(work).await?,
                Some(Stage::Copying) => self.copy(work).await?,
                Some(Stage::HandingOver) => self.follow(work).await?,
                Some(Stage::HandedOver) => self.finish(work).await?,
            }
        }
    }

    /// Where the main stream was to go on with tables may have been recorded without an answer, and may yet come to be
    /// recorded. As it is not now, that is made sure of before the main stream leaves out anything behind that place.
    async fn take_back(&mut self, tables: &[Table]) -> Result<()> {
        let undone: Vec<Table> = {
            let share = self.share.borrow();
            let is_undone =
                |table: &&Table| table.stage == Stage::Copying && share.waits_for(table.oid);
            tables.iter().filter(is_undone).cloned().collect()
        };
        if undone.is_empty() { Ok(()) } else { within(self.target.write(&undone)).await }
    }

    /// The target has a position of the sync that the source's past does not have.
    pub(super) async fn is_of_another_past(&mut self, slot: &str) -> Result<bool> {
        match within(self.target.has_begun(slot)).await {
            Err(error) if error.kind() == Kind::Identity => {
                warn!(target_name = self.name(), %error, "a sync has brought what the source does not have any more");
                Ok(true)
            }
            begun => begun.map(|_| false),
        }
    }

    /// Tells the main stream what is recorded.
    fn note(&mut self, tables: &[Table]) {
        let (holds, names) = (holds(tables), names_held(tables));
        self.share.send_if_modified(|share| {
            share.call(names);
            share.hold(holds)
        });
        let waits = |table: &&Table| matches!(table.stage, Stage::ToDecide | Stage::GivenUp);
        for table in tables.iter().filter(waits) {
            if !self.tables.iter().any(|known| known == table) {
                warn!(target_name = self.name(), table = table.name, "{}", table.error);
            }
        }
        if let Ok(mut slots) = self.slots.lock()
            && let Some(known) = slots.of_targets.get_mut(self.index)
        {
            let named = tables.iter().filter(|table| !table.slot.is_empty());
            *known = Some(named.map(|table| table.slot.clone()).collect());
        }
        self.tables = tables.to_vec();
    }

    /// From here on the main stream has them no more.
    async fn begin(&mut self, mut tables: Vec<Table>, identity: &SourceIdentity) -> Result<()> {
        let slot = source::name(&identity.slot, self.index);
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
        if self.is_of_another_past(&slot).await? {
            return self.begin_anew(tables).await;
        }
        let begun = self.target.has_begun(&slot).await?;
        match source::found(&self.config.source, &slot).await? {
            source::Found::Lost => return self.begin_anew(tables).await,
            source::Found::Nothing if begun => return self.begin_anew(tables).await,
            _ => {}
        }
        if !begun {
            // as the main stream has left them: it is done with them
            self.target.begin(&slot, &tables).await?;
        }
        let sync = TableSync::new(&self.config, self.index, &slot, oids(&tables))?;
        let (status, shutdown) = (self.status.clone(), self.shutdown.child_token());
        let _ends = shutdown.clone().drop_guard();
        let copied = {
            let mut asked: Option<Instant> = None;
            let copying = sync.copy(&status, &shutdown);
            let mut copying = std::pin::pin!(copying);
            loop {
                tokio::select! {
                    copied = &mut copying => break copied?,
                    () = tokio::time::sleep(LOOK_INTERVAL) => {
                        let error = sync.status.snapshot().source.last_error;
                        let failed = error.is_some();
                        self.tell(&mut tables, error).await?;
                        let due = asked.is_none_or(|at| at.elapsed() >= LOST_INTERVAL);
                        let lost = failed && due && {
                            asked = Some(Instant::now());
                            self.has_lost(&slot).await
                        };
                        if lost || self.is_cancelled(&tables).await {
                            shutdown.cancel();
                        }
                    }
                }
            }
        };
        if !copied {
            // the next look at it begins anew, if it was for the slot, or gives it up
            return Ok(());
        }
        self.tell(&mut tables, None).await?;
        self.follow(tables).await
    }

    /// The source does not have the slot any more, or not what it is for. `false` also when it does not answer.
    async fn has_lost(&mut self, slot: &str) -> bool {
        match source::found(&self.config.source, slot).await {
            Ok(source::Found::Lost) => true,
            Ok(source::Found::Nothing) => self.target.has_begun(slot).await.unwrap_or(false),
            Ok(source::Found::Usable) | Err(_) => false,
        }
    }

    /// With another slot: what the one that is recorded had to bring is gone. Its records go first, as nobody would know
    /// of them once another name is recorded.
    pub(super) async fn begin_anew(&mut self, mut tables: Vec<Table>) -> Result<()> {
        let slot = slot_of(&tables);
        warn!(
            target_name = self.name(),
            slot,
            tables = names(&tables),
            "the slot of a sync is gone, or what it needs: its tables are copied once more"
        );
        let anew = source::name(&self.config.source.slot_name, self.index);
        self.target.rename(&slot, &anew, &tables).await?;
        self.target.end(&slot, &[]).await?;
        source::drop(&self.config.source, &slot).await?;
        for table in &mut tables {
            table.slot.clone_from(&anew);
            (table.stage, table.hand_over) = (Stage::Copying, Lsn::INVALID);
        }
        self.target.write(&tables).await
    }

    /// What keeps it from getting on is recorded for who asked.
    pub(super) async fn tell(&mut self, tables: &mut [Table], error: Option<String>) -> Result<()> {
        let error = error.unwrap_or_default();
        if tables.iter().all(|table| table.error == error) {
            return Ok(());
        }
        // what another process has recorded meanwhile stays
        let recorded = self.target.read().await?;
        let is_same = |table: &Table, other: &Table| {
            (table.oid, table.stage, &table.slot) == (other.oid, other.stage, &other.slot)
        };
        if !tables.iter().all(|table| recorded.iter().any(|other| is_same(table, other))) {
            return Err(Error::new(Kind::Server, "what is recorded of a sync has changed"));
        }
        tables.iter_mut().for_each(|table| table.error.clone_from(&error));
        self.target.write(tables).await
    }

    /// Nothing of the tables is under way in the main stream.
    async fn settled(&self) -> Result<()> {
        let mut share = self.share.subscribe();
        share.wait_for(Share::is_settled).await.map(drop).map_err(|_| gone())
    }
}

/// What is to be done next: the tables of a sync that has begun, or all that are asked for.
fn next(tables: &[Table]) -> Vec<Table> {
    let wanted = || tables.iter().filter(|table| table.is_work());
    let begun = wanted().find(|table| !table.slot.is_empty());
    let slot = begun.map_or("", |table| table.slot.as_str());
    let mut next: Vec<Table> = wanted().filter(|table| table.slot == slot).cloned().collect();
    // what is given up is the first that is looked at
    next.sort_by_key(|table| table.stage != Stage::GivenUp);
    next
}

pub(super) fn slot_of(tables: &[Table]) -> String {
    tables.first().map(|table| table.slot.clone()).unwrap_or_default()
}

pub(super) fn oids(tables: &[Table]) -> BTreeSet<u32> {
    tables.iter().map(|table| table.oid).collect()
}

pub(super) fn names(tables: &[Table]) -> String {
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    names.join(", ")
}

#[cold]
pub(super) fn gone() -> Error {
    Error::new(Kind::Internal, "a target's task is gone")
}

pub(super) async fn within<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(ANSWER_LIMIT, answer).await.unwrap_or_else(|_| {
        Err(Error::new(Kind::Connection, format!("no answer for {ANSWER_LIMIT:?}")))
    })
}
