//! The second pipeline of a sync: some tables, one target, a slot of its own. See [`crate::sync`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rsrepl_wire::Lsn;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{drive, groups, patience, postgres_options, receive};
use crate::assemble::Checkpoint;
use crate::config::{BatchLimits, Config, TargetOptions};
use crate::control::{Control, Letters};
use crate::copy::{CopyTarget, Stage, When};
use crate::error::{Error, Kind, Result};
use crate::ledger::Ledger;
use crate::retry::Backoff;
use crate::spool::{Spool, Streams};
use crate::status::{Status, TargetStatus};
use crate::sync::{Share, SyncTarget};
use crate::target::Target;
use crate::target::clickhouse::{
    ClickHouseCopy, ClickHouseOptions, ClickHouseSyncs, ClickHouseTarget,
};
use crate::target::postgres::{PostgresCopy, PostgresSyncs, PostgresTarget};
use crate::telemetry::Metrics;

/// The `application_name` of a sync's walsender.
const APPLICATION: &str = "rsrepl sync";

/// Of the spool of the main stream: what that of a sync may take.
const SPOOL_PART: usize = 4;

/// The records of syncs of one of the targets.
pub(crate) fn records_of(config: &Config, index: usize) -> Result<Box<dyn SyncTarget>> {
    let target = config.targets.get(index).ok_or_else(no_target)?;
    Ok(match &target.options {
        TargetOptions::Postgres(options) => {
            Box::new(PostgresSyncs::new(postgres_options(target, options, 1)))
        }
        TargetOptions::ClickHouse(options) => {
            Box::new(ClickHouseSyncs::new(ClickHouseOptions::from_config(&target.name, options)?))
        }
    })
}

/// What a sync is made of.
pub(crate) struct TableSync {
    /// With the sync's slot, and the one target.
    pub config: Arc<Config>,
    pub tables: BTreeSet<u32>,
    /// The slot of the main stream.
    main: String,
    /// Of the sync alone.
    pub status: Status,
}

impl TableSync {
    /// `index`: the target's place in the configuration.
    pub(crate) fn new(
        config: &Config,
        index: usize,
        slot: &str,
        tables: BTreeSet<u32>,
    ) -> Result<TableSync> {
        let mut config = config.clone();
        let target = config.targets.get(index).cloned().ok_or_else(no_target)?;
        let status = Status::new(vec![TargetStatus::new(&target.name, target.kind())]);
        let main = std::mem::replace(&mut config.source.slot_name, slot.to_owned());
        config.source.create_slot = true;
        // commits that wait for the main stream must not take this one for it
        config.source.connection = config.source.connection.application_name(APPLICATION);
        config.targets = vec![target];
        Ok(TableSync { config: Arc::new(config), tables, main, status })
    }

    fn target(&self) -> Result<&crate::config::Target> {
        self.config.targets.first().ok_or_else(no_target)
    }

    /// Copies the tables. `false`: shutdown came first.
    pub(crate) async fn copy(&self, main: &Status, shutdown: &CancellationToken) -> Result<bool> {
        let target = self.target()?;
        let copy: Box<dyn CopyTarget> = match &target.options {
            TargetOptions::Postgres(options) => {
                let creates = options.create_tables.then(|| self.config.source.connection.clone());
                let options = postgres_options(target, options, 1);
                let options = crate::target::postgres::PostgresOptions { creates, ..options };
                Box::new(PostgresCopy::new(options).replacing(&self.main))
            }
            TargetOptions::ClickHouse(options) => {
                let options = ClickHouseOptions::from_config(&target.name, options)?;
                Box::new(ClickHouseCopy::new(options).replacing(&self.main))
            }
        };
        let stage = Stage {
            config: Arc::clone(&self.config),
            targets: vec![(0, copy)],
            when: When::AnyIsNew,
            lists: Vec::new(),
            only: Some(self.tables.clone()),
            status: self.status.clone(),
            progress: main.copy().clone(),
            shutdown: shutdown.clone(),
        };
        Ok(stage.run().await)
    }

    /// Follows the tables from where their copy ends, until `stop`; what has been received then is still written.
    pub(crate) async fn follow(
        &self,
        share: Arc<watch::Sender<Share>>,
        stop: CancellationToken,
    ) -> Result<()> {
        let config = {
            let mut config = Config::clone(&self.config);
            // without it, what the sync has to bring is gone
            config.source.create_slot = false;
            Arc::new(config)
        };
        let limit = config.spool.max_size.min(config.pipeline.memory_limit);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX) / SPOOL_PART;
        let (spool, mut readers) = Spool::new(limit, 1);
        let reader = readers.pop().ok_or_else(no_target)?;
        let streams =
            Streams::new(config.spool.dir.clone(), config.spool.max_disk / SPOOL_PART as u64);
        let (ledger, ledger_receiver) = watch::channel(Ledger::new(1));
        let (link, link_receiver) = watch::channel(None);
        let shared = drive::Shared {
            ledger: Arc::new(ledger),
            link: link_receiver,
            status: self.status.clone(),
            metrics: Metrics::new(1),
            shutdown: stop.clone(),
        };
        let target = self.target()?;
        let mut tasks = JoinSet::new();
        let interval = target.batch.interval;
        match &target.options {
            TargetOptions::Postgres(options) => {
                let options = postgres_options(target, options, config.pipeline.buffer_size);
                // one writer: its origins are taken from those that the target has places for
                let options = crate::target::postgres::PostgresOptions { workers: 1, ..options };
                let writer = PostgresTarget::new(options);
                let limits = (target.batch, Duration::ZERO);
                tasks.spawn(driver(target, writer, reader, limits, shared, share).run());
            }
            TargetOptions::ClickHouse(options) => {
                let options = ClickHouseOptions::from_config(&target.name, options)?;
                let writer = ClickHouseTarget::new(options, groups(target.batch, reader.limit()))?;
                let rows = target.batch.rows.min(super::ENCODED_ROWS);
                let limits = BatchLimits { rows, ..target.batch };
                let limits = (limits, super::ENCODE_INTERVAL.min(interval));
                tasks.spawn(driver(target, writer, reader, limits, shared, share).run());
            }
        }
        let drained = CancellationToken::new();
        let receiver = receive::Receiver {
            config,
            spool,
            streams,
            refusal: None,
            ledger: ledger_receiver,
            link,
            status: self.status.clone(),
            shutdown: stop.clone(),
            drained: drained.clone(),
            patience: patience::Patience::default(),
            gone_back: None,
        };
        let mut receiving = JoinSet::new();
        receiving.spawn(receiver.run());
        // tasks end with who waits for them
        tasks.join_next().await;
        let ended_by_itself = !stop.is_cancelled();
        stop.cancel();
        drained.cancel();
        receiving.join_next().await;
        if ended_by_itself {
            return Err(Error::new(Kind::Internal, "a sync's task ended by itself"));
        }
        Ok(())
    }
}

fn driver<T: Target>(
    config: &crate::config::Target,
    target: T,
    reader: crate::spool::Reader,
    (limits, linger): (BatchLimits, Duration),
    shared: drive::Shared,
    share: Arc<watch::Sender<Share>>,
) -> drive::Drive<T> {
    drive::Drive {
        index: 0,
        name: config.name.clone(),
        target,
        reader,
        limits,
        linger,
        backoff: Backoff::new(config.retry),
        shared,
        checkpoint: Checkpoint::default(),
        copied: true,
        share,
        reached: Lsn::INVALID,
        refused: None,
        // What is asked of the target is about its main stream: a table that is copied anew shows the source as it is, and
        // a sync that waited would keep its slot's WAL.
        control: Control::none(),
        letters: Letters::new(std::path::Path::new(""), "", &config.name),
    }
}

fn no_target() -> Error {
    Error::new(Kind::Internal, "there is no such target")
}
