//! The tasks, and what runs between them.
//!
//! ```text
//!            ┌── receive (1 task) ──┐   spool    ┌── drive (1 task per target) ──┐
//! source ───►│ frames, keepalives   ├──────────►─┤ gather ─► give ─► checkpoint  │───► target
//!    ▲       │                      │            └───────────────┬───────────────┘
//!    └───────┤ standby status       │◄── ledger (watch channel) ─┘
//!            └──────────────────────┘
//! ```
//!
//! | queue | limit |
//! |---|---|
//! | spool | `spool.max_size` bytes, at most `pipeline.memory_limit`; with `confirm = "spooled"` `pipeline.memory_limit` bytes, and `spool.max_size` and one transaction on disk |
//! | a sync of a target, while it is under way | its own spool, a quarter of that in memory, and a quarter of `spool.max_disk`; its batches as below, with one writer |
//! | streamed transactions | `spool.max_disk` bytes in 256 files; in memory 512 KiB that gather to be written, and a frame that is written or read |
//! | batch of a target | its `batch_size` rows, 8 MiB of frames |
//! | batches of a target | 1 gathering; under way: 2 that wait or are encoded (ClickHouse), 1 more than `workers` and at most `pipeline.buffer_size` (PostgreSQL) |
//! | groups of a ClickHouse target | 1 being filled, 1 being stored; of each its `batch_size` rows or three eighths of the spool, and one batch more |
//! | rows that a table in ClickHouse knows of | of each of the two groups: 50,000 rows and one batch more; 4 MiB of values, 8 MiB with those that were read back, and what a batch holds |
//! | values read back from a table in ClickHouse | of 8192 keys, and 4 MiB of keys; as many as brought 8 MiB the last time |
//! | ledger, link state | one value each |
//!
//! At shutdown the receiver stops reading and closes the spool; each target applies the whole
//! transactions that are in it; the last positions are confirmed to the slot; the source is told good
//! bye. A transaction of which only a part was received is rolled back and comes again.

mod drive;
mod feedback;
mod options;
mod patience;
mod pulse;
mod receive;
mod sync;
mod under_way;

pub(crate) use options::plugin_options;
pub(crate) use sync::{TableSync, records_of};

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rsrepl_wire::Lsn;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::assemble::Checkpoint;
use crate::config::{self, BatchLimits, Config, Confirm, TargetOptions};
use crate::control::rules::from_stream_time;
use crate::control::{self, Control, ControlTarget, Letters};
use crate::copy::{CopyTarget, Stage, When, show};
use crate::error::{Error, Kind, Result};
use crate::ledger::Ledger;
use crate::retry::Backoff;
use crate::source::SourceInfo;
use crate::spool::{Reader, Recovered, Spool, Streams};
use crate::status::Status;
use crate::sync::{KnownSlots, Manager, Share, Slots};
use crate::target::Target;
use crate::target::clickhouse::{
    ClickHouseControl, ClickHouseCopy, ClickHouseOptions, ClickHouseTarget, GroupLimits,
};
use crate::target::postgres::{PostgresControl, PostgresCopy, PostgresOptions, PostgresTarget};
use crate::telemetry::Metrics;

/// Changes that are handed to a ClickHouse target at a time, which puts them into larger groups, and how
/// long they may wait for more: too few cost a thread's wake-up each, many take memory.
const ENCODED_ROWS: usize = 50_000;
const ENCODE_INTERVAL: Duration = Duration::from_millis(20);

/// How long targets may take at shutdown to apply what has been received; the rest comes again.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// What the receiver knows of the source; the targets need it to open.
#[derive(Clone, Debug)]
pub(crate) struct LinkState {
    pub source: SourceInfo,
    /// The slot's `confirmed_flush_lsn`: the source sends only what ends after it.
    pub confirmed: Lsn,
}

/// Microseconds since 2000-01-01, PostgreSQL's epoch, as a time.
pub(crate) fn source_time(microseconds: i64) -> SystemTime {
    from_stream_time(microseconds)
}

/// Replicates until `shutdown`. Faults of source and targets are retried inside; this returns an error
/// only for what cannot be begun at all, and for a task that ended by itself.
pub async fn run(
    config: Arc<Config>,
    status: Status,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<()> {
    // before a long copy: who cannot have it must know now
    let recovered = match config.spool.confirm {
        Confirm::Applied => None,
        Confirm::Spooled => Some(recovered(config.spool.log_dir()).await?),
    };
    if !copy(&config, &status, &shutdown, When::AllAreNew).await {
        return Ok(());
    }
    let (spool, readers, ledger, ledger_receiver) = open_spool(&config, recovered);
    let view = spool.view();
    let streams = Streams::new(config.spool.dir.clone(), config.spool.max_disk);
    let streams_view = streams.view();
    let (link, link_receiver) = watch::channel(None);
    let shared = drive::Shared {
        ledger,
        link: link_receiver.clone(),
        status: status.clone(),
        metrics,
        shutdown: shutdown.clone(),
    };
    let (batches, copies) = (config.pipeline.buffer_size, config.copy.data);
    let mut drives = JoinSet::new();
    let mut syncs = JoinSet::new();
    let slots: Slots = Arc::new(Mutex::new(KnownSlots::new(config.targets.len())));
    for ((index, target), reader) in config.targets.iter().enumerate().zip(readers) {
        let share = Arc::new(watch::channel(Share::main()).0);
        syncs.spawn(
            Manager {
                config: Arc::clone(&config),
                index,
                target: records_of(&config, index)?,
                share: Arc::clone(&share),
                link: link_receiver.clone(),
                view: view.clone(),
                status: status.clone(),
                shutdown: shutdown.clone(),
                lists: Default::default(),
                slots: slots.clone(),
                tables: Vec::new(),
            }
            .run(),
        );
        let records = control_of(&config, index)?;
        let (control, keeper) =
            control::channel(&target.name, target.apply_delay, records, shutdown.clone());
        syncs.spawn(keeper.run());
        let dir = config.dead_letters(target);
        let letters = Letters::new(&dir, &config.source.slot_name, &target.name);
        let own = Own { reader, share, control, letters };
        spawn_target(&mut drives, index, target, (batches, copies), shared.clone(), own)?;
    }
    drop((shared, link_receiver));

    let pulse_done = CancellationToken::new();
    let pulse = tokio::spawn(pulse::run(
        view,
        streams_view,
        status.clone(),
        config.targets.len(),
        pulse_done.clone(),
    ));
    let drained = CancellationToken::new();
    let receiver = receive::Receiver {
        config: config.clone(),
        spool,
        streams,
        refusal: None,
        ledger: ledger_receiver,
        link,
        status,
        shutdown: shutdown.clone(),
        drained: drained.clone(),
        patience: patience::Patience::default(),
        gone_back: None,
    };
    let mut receiver = tokio::spawn(receiver.run());

    let ended = tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        ended = &mut receiver => Some(("the source's task", cause(ended))),
        Some(ended) = drives.join_next() => Some(("a target's task", cause(ended.map(Ok)))),
    };
    shutdown.cancel();
    info!("shutting down: applying what has been received");
    let all_done = async {
        // a sync that is under way goes on at the next start
        while syncs.join_next().await.is_some() {}
        while drives.join_next().await.is_some() {}
    };
    if tokio::time::timeout(DRAIN_LIMIT, all_done).await.is_err() {
        warn!(limit = ?DRAIN_LIMIT, "targets were not done in time; they go on from their positions at the next start");
        drives.shutdown().await;
        syncs.shutdown().await;
    }
    drained.cancel();
    if !receiver.is_finished()
        && let Ok(Err(error)) = receiver.await
    {
        warn!(%error, "the spool did not end in good order");
    }
    pulse_done.cancel();
    let _ = pulse.await;
    match ended {
        None => Ok(()),
        Some((task, cause)) => {
            let error = Error::new(Kind::Internal, format!("{task} ended by itself"));
            Err(match cause {
                Some(cause) => error.because(cause),
                None => error,
            })
        }
    }
}

/// What a task ended with.
fn cause(
    ended: std::result::Result<Result<()>, tokio::task::JoinError>,
) -> Option<Box<dyn std::error::Error + Send + Sync>> {
    match ended {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.into()),
        Err(error) => Some(error.into()),
    }
}

/// What is there of a spool on disk. Its last segment is read, which has a whole transaction, however large: beside
/// this task, which also answers probes.
async fn recovered(dir: PathBuf) -> Result<Recovered> {
    info!(dir = %dir.display(), "the spool is opened");
    let opened = tokio::task::spawn_blocking(move || Recovered::open(&dir)).await;
    opened.unwrap_or_else(|panic| {
        Err(Error::new(Kind::Internal, "the spool was not opened").because(panic))
    })
}

type LedgerSender = Arc<watch::Sender<Ledger>>;

fn open_spool(
    config: &Config,
    recovered: Option<Recovered>,
) -> (Spool, Vec<Reader>, LedgerSender, watch::Receiver<Ledger>) {
    let targets = config.targets.len();
    let config::Spool { max_size, .. } = config.spool;
    let memory =
        |limit: u64| usize::try_from(limit.min(config.pipeline.memory_limit)).unwrap_or(usize::MAX);
    let Some(recovered) = recovered else {
        let (ledger, receiver) = watch::channel(Ledger::new(targets));
        let (spool, readers) = Spool::new(memory(max_size), targets);
        return (spool, readers, Arc::new(ledger), receiver);
    };
    let (ledger, receiver) = watch::channel(Ledger::of_spool(targets));
    let ledger = Arc::new(ledger);
    let (spool, readers) =
        Spool::on_disk(memory(u64::MAX), max_size, targets, recovered, ledger.clone());
    (spool, readers, ledger, receiver)
}

/// Copies to the targets what the source has before its stream begins. `false`: `shutdown` came first.
pub async fn copy(
    config: &Arc<Config>,
    status: &Status,
    shutdown: &CancellationToken,
    when: When,
) -> bool {
    if !config.copy.data {
        return true;
    }
    let mut targets: Vec<(usize, Box<dyn CopyTarget>)> = Vec::new();
    for (index, target) in config.targets.iter().enumerate() {
        match &target.options {
            TargetOptions::Postgres(options) => {
                let creates = options.create_tables.then(|| config.source.connection.clone());
                let options = PostgresOptions { creates, ..postgres_options(target, options, 1) };
                targets.push((index, Box::new(PostgresCopy::new(options))));
            }
            TargetOptions::ClickHouse(options) => {
                match ClickHouseOptions::from_config(&target.name, options) {
                    Ok(options) => targets.push((index, Box::new(ClickHouseCopy::new(options)))),
                    // nor can it be replicated to, which ends the process
                    Err(error) => warn!("{error}"),
                }
            }
        }
    }
    let lists = targets.iter().map(|(index, _)| *index);
    let lists = lists.filter_map(|index| Some((index, records_of(config, index).ok()?))).collect();
    let stage = Stage {
        config: config.clone(),
        targets,
        when,
        lists,
        only: None,
        status: status.clone(),
        progress: status.copy().clone(),
        shutdown: shutdown.clone(),
    };
    tokio::select! {
        done = stage.run() => done,
        () = show::follow(status.copy().clone()) => false,
    }
}

fn postgres_options(
    target: &config::Target,
    options: &config::Postgres,
    batches: usize,
) -> PostgresOptions {
    PostgresOptions {
        name: target.name.clone(),
        connection: options.connection.clone(),
        schema_changes: options.schema_changes,
        workers: options.workers,
        batches,
        missing_rows: options.missing_rows,
        creates: None,
    }
}

/// What is recorded on one of the targets of what people ask of it.
pub(crate) fn control_of(config: &Config, index: usize) -> Result<Box<dyn ControlTarget>> {
    let target = config.targets.get(index);
    let target = target.ok_or_else(|| Error::new(Kind::Internal, "there is no such target"))?;
    let slot = &config.source.slot_name;
    Ok(match &target.options {
        TargetOptions::Postgres(options) => {
            Box::new(PostgresControl::new(postgres_options(target, options, 1), slot))
        }
        TargetOptions::ClickHouse(options) => {
            let options = ClickHouseOptions::from_config(&target.name, options)?;
            Box::new(ClickHouseControl::new(options, slot))
        }
    })
}

/// What is one target's alone.
struct Own {
    reader: Reader,
    share: Arc<watch::Sender<Share>>,
    control: Control,
    letters: Letters,
}

fn spawn_target(
    drives: &mut JoinSet<()>,
    index: usize,
    config: &config::Target,
    (batches, copies): (usize, bool),
    shared: drive::Shared,
    own: Own,
) -> Result<()> {
    match &config.options {
        TargetOptions::Postgres(options) => {
            let target = PostgresTarget::new(postgres_options(config, options, batches));
            let drive = driver(index, config, Duration::ZERO, target, shared, own);
            drives.spawn(drive::Drive { copied: copies, ..drive }.run());
        }
        TargetOptions::ClickHouse(options) => {
            let options = ClickHouseOptions::from_config(&config.name, options)?;
            let target = ClickHouseTarget::new(options, groups(config.batch, own.reader.limit()))?;
            let limits = BatchLimits { rows: config.batch.rows.min(ENCODED_ROWS), ..config.batch };
            let linger = ENCODE_INTERVAL.min(config.batch.interval);
            let drive = driver(index, config, linger, target, shared, own);
            drives.spawn(drive::Drive { limits, copied: copies, ..drive }.run());
        }
    }
    Ok(())
}

/// Three eighths of the spool: as much again is being stored meanwhile, and the rest is for what the
/// source sends.
fn groups(batch: BatchLimits, spool: usize) -> GroupLimits {
    GroupLimits { rows: batch.rows, bytes: spool / 8 * 3, interval: batch.interval }
}

fn driver<T: Target>(
    index: usize,
    config: &config::Target,
    linger: Duration,
    target: T,
    shared: drive::Shared,
    Own { reader, share, control, letters }: Own,
) -> drive::Drive<T> {
    drive::Drive {
        index,
        name: config.name.clone(),
        target,
        reader,
        limits: config.batch,
        linger,
        backoff: Backoff::new(config.retry),
        shared,
        checkpoint: Checkpoint::default(),
        copied: false,
        share,
        reached: Lsn::INVALID,
        refused: None,
        control,
        letters,
    }
}
