//! The task that reads a target's records, and its line to the task that writes to the target.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rsrepl_wire::{Begin, Lsn};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::records::{ControlTarget, Record, RecordKind};
use super::rules::{Rules, Until, Verdict, stream_time};
use crate::batch::Position;
use crate::error::{Error, Kind, Result};
use crate::guard::guarded;

/// How often the records are read.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a target may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// After a failure: a target that is down is told of by its own task.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// What the records say.
#[derive(Clone, Debug, Default)]
struct Told {
    /// The last wish to know ([`Control::look`]) that this answers.
    generation: u64,
    rules: Rules,
    /// They could not be read.
    failure: Option<(Kind, String)>,
}

/// How far the target is with what is recorded.
#[derive(Debug, Default)]
struct Reached {
    /// Everything up to here is durable on the target.
    stored: Lsn,
    /// What was stored when it was first opened.
    first: Option<Lsn>,
    /// Transactions that were skipped.
    skipped: BTreeSet<Lsn>,
    /// For times that something is skipped until: the end of the first transaction that committed later.
    later: BTreeMap<i64, Lsn>,
}

/// The line of a target's task to what is recorded.
#[derive(Debug)]
pub(crate) struct Control {
    delay: Duration,
    rules: Rules,
    wanted: watch::Sender<u64>,
    told: watch::Receiver<Told>,
    reached: Arc<Mutex<Reached>>,
    /// Of one that nobody keeps.
    _keeps: Option<watch::Sender<Told>>,
    /// Whether anybody can ask anything.
    is_asked: bool,
}

/// See the module's documentation.
pub(crate) struct Keeper {
    name: String,
    records: Box<dyn ControlTarget>,
    wanted: watch::Receiver<u64>,
    told: watch::Sender<Told>,
    reached: Arc<Mutex<Reached>>,
    shutdown: CancellationToken,
    is_open: bool,
    /// Records have been read once.
    has_looked: bool,
}

/// For one target: what its task holds, and what keeps its records.
pub(crate) fn channel(
    name: &str,
    delay: Duration,
    records: Box<dyn ControlTarget>,
    shutdown: CancellationToken,
) -> (Control, Keeper) {
    let (wanted, wanted_receiver) = watch::channel(0);
    let (told, told_receiver) = watch::channel(Told::default());
    let reached = Arc::<Mutex<Reached>>::default();
    let control = Control {
        delay,
        rules: Rules::default(),
        wanted,
        told: told_receiver,
        reached: Arc::clone(&reached),
        _keeps: None,
        is_asked: true,
    };
    let keeper = Keeper {
        name: name.to_owned(),
        records,
        wanted: wanted_receiver,
        told,
        reached,
        shutdown,
        is_open: false,
        has_looked: false,
    };
    (control, keeper)
}

fn lock(reached: &Mutex<Reached>) -> MutexGuard<'_, Reached> {
    // plain data
    reached.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// Of a stream that nobody asks anything of.
    pub(crate) fn none() -> Control {
        let (control, _) = Control::fixed(Rules::default(), Duration::ZERO);
        Control { is_asked: false, ..control }
    }

    /// With rules that are what they are told to be.
    pub(crate) fn fixed(rules: Rules, delay: Duration) -> (Control, impl Fn(Rules) + use<>) {
        let told = Told { generation: u64::MAX, rules: rules.clone(), failure: None };
        let (keeps, told) = watch::channel(told);
        let tell = keeps.clone();
        let control = Control {
            delay,
            rules,
            wanted: watch::channel(0).0,
            told,
            reached: Arc::default(),
            _keeps: Some(keeps),
            is_asked: true,
        };
        (control, move |rules| tell.send_modify(|told| told.rules = rules))
    }

    /// Has the records read now, and keeps to them. Cancel-safe.
    ///
    /// # Errors
    /// They cannot be read.
    pub(crate) async fn look(&mut self) -> Result<()> {
        let mut generation = 0;
        self.wanted.send_modify(|wanted| {
            *wanted += 1;
            generation = *wanted;
        });
        let answered = self.told.wait_for(|told| told.generation >= generation).await;
        let failure = answered
            .map_err(|_| Error::new(Kind::Internal, "nobody reads what is asked of the target"))?
            .failure
            .clone();
        if let Some((kind, what)) = failure {
            return Err(Error::new(kind, what));
        }
        self.adopt();
        Ok(())
    }

    /// Keeps to what was last read. `true`: it forbids more than before.
    pub(crate) fn adopt(&mut self) -> bool {
        let rules = self.told.borrow_and_update().rules.clone();
        let more = rules.forbid_more_than(&self.rules);
        self.rules = rules;
        more
    }

    /// Until something else is recorded than what is kept to. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        let Control { told, rules, .. } = self;
        if told.wait_for(|told| told.rules != *rules).await.is_err() {
            // its keeper has ended; so will this soon
            std::future::pending::<()>().await;
        }
    }

    /// Something else is recorded than what is kept to.
    pub(crate) fn is_changed(&self) -> bool {
        self.told.borrow().rules != self.rules
    }

    /// What is asked of the target is about this stream.
    pub(crate) fn is_asked(&self) -> bool {
        self.is_asked
    }

    /// Nothing is handed over, whatever comes.
    pub(crate) fn is_paused(&self) -> bool {
        self.rules.is_paused()
    }

    /// What becomes of a transaction now.
    pub(crate) fn verdict(&self, begin: &Begin) -> Verdict {
        // the way of nearly all
        if self.delay.is_zero() && self.rules == Rules::default() {
            return Verdict::Apply;
        }
        let Begin { xid, end_lsn: lsn, commit_time, .. } = *begin;
        let end = Position { lsn, commit_time, xid };
        for until in &self.rules.skips_until {
            if let Until::Time(time) = until
                && commit_time > *time
            {
                lock(&self.reached).later.entry(*time).or_insert(lsn);
            }
        }
        self.rules.verdict(end, self.delay, stream_time(SystemTime::now()))
    }

    /// A transaction is in the dead letters.
    pub(crate) fn skipped(&self, end: Lsn) {
        if self.rules.skips.contains(&end) {
            lock(&self.reached).skipped.insert(end);
        }
    }

    /// Everything up to here is durable on the target.
    pub(crate) fn stored(&self, position: Lsn) {
        let mut reached = lock(&self.reached);
        reached.stored = position;
        reached.first.get_or_insert(position);
    }
}

/// What is to be done about records that the target has passed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Done {
    remove: Vec<Record>,
    /// No transaction ended there.
    missed: Vec<Record>,
}

impl Reached {
    fn done(&self, records: &[Record]) -> Done {
        let mut done = Done::default();
        let Some(first) = self.first else { return done };
        for record in records {
            let passed = match (record.kind, record.until()) {
                (RecordKind::Pause, _) | (_, None) => false,
                (_, Some(Until::Lsn(lsn))) => self.stored >= lsn,
                (_, Some(Until::Time(time))) => {
                    self.later.get(&time).is_some_and(|lsn| self.stored >= *lsn)
                }
            };
            if !passed || !record.note.is_empty() {
                continue;
            }
            let one = record.kind == RecordKind::Skip;
            // what was passed before this process looked, another one may have skipped
            if one && record.lsn > first && !self.skipped.contains(&record.lsn) {
                done.missed.push(record.clone());
            } else {
                done.remove.push(record.clone());
            }
        }
        done
    }
}

impl Keeper {
    /// Runs until shutdown.
    pub(crate) async fn run(mut self) {
        let shutdown = self.shutdown.clone();
        let mut told = None;
        loop {
            let generation = *self.wanted.borrow_and_update();
            let looked = tokio::select! {
                looked = self.look() => looked,
                () = shutdown.cancelled() => return,
            };
            let wait = match looked {
                Ok(rules) => {
                    told = None;
                    self.told.send_if_modified(|told| {
                        let changed = told.rules != rules || told.generation != generation;
                        *told = Told { generation, rules, failure: None };
                        changed
                    });
                    LOOK_INTERVAL
                }
                Err(error) => {
                    let what = error.to_string();
                    if told.as_ref() != Some(&what) {
                        warn!(target_name = self.name, %error, "what is asked of the target (pause, resume, skip) cannot be read: what was read before goes on to hold");
                        told = Some(what.clone());
                    }
                    // what was read before goes on to hold
                    self.told.send_if_modified(|told| {
                        let waiting = told.generation < generation;
                        if waiting {
                            (told.generation, told.failure) =
                                (generation, Some((error.kind(), what)));
                        }
                        waiting
                    });
                    RETRY_INTERVAL
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                wanted = self.wanted.changed() => if wanted.is_err() { return },
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Reads the records; over a new session if the one that there was is no good any more.
    async fn look(&mut self) -> Result<Rules> {
        if self.is_open
            && let Ok(rules) = self.within_limit().await
        {
            return Ok(rules);
        }
        self.is_open = false;
        self.within_limit().await
    }

    async fn within_limit(&mut self) -> Result<Rules> {
        let name = self.name.clone();
        let looked = tokio::time::timeout(ANSWER_LIMIT, guarded(self.read())).await;
        let looked = looked.unwrap_or_else(|_| {
            let what = format!("target {name}: no answer when asked for what is recorded of it");
            Err(Error::new(Kind::Connection, what))
        });
        self.is_open = looked.is_ok();
        looked
    }

    async fn read(&mut self) -> Result<Rules> {
        if !self.is_open {
            self.records.open().await?;
        }
        let mut records = self.records.read().await?;
        let Done { mut remove, mut missed } = lock(&self.reached).done(&records);
        if !std::mem::replace(&mut self.has_looked, true) {
            // whoever asked for these is gone
            remove.extend(records.iter().filter(|record| !record.note.is_empty()).cloned());
        }
        for record in &mut missed {
            record.note = "no transaction ended there: nothing was skipped".to_owned();
            warn!(target_name = self.name, lsn = %record.lsn, "a transaction was to be skipped, and none ended there");
        }
        if !remove.is_empty() || !missed.is_empty() {
            self.records.change(&remove, &missed).await?;
            for record in &remove {
                info!(target_name = self.name, kind = record.kind.as_str(), lsn = %record.lsn, "done with, and no longer recorded");
            }
            records.retain(|record| !remove.iter().any(|gone| gone.is_same(record)));
            let mut reached = lock(&self.reached);
            for record in &remove {
                reached.skipped.remove(&record.lsn);
                record.time.map(|time| reached.later.remove(&time));
            }
        }
        // what is noted says nothing any more
        records.retain(|record| {
            record.note.is_empty() && !missed.iter().any(|missed| missed.is_same(record))
        });
        Ok(Rules::of(&records))
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
