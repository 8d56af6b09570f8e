//! A server, a target on it, and what the tables hold.

use std::time::Duration;

use rsrepl_sidecar::batch::{Batch, Change};
use rsrepl_sidecar::config::{Compression, Mode};
use rsrepl_sidecar::error::{Error, Result};
use rsrepl_sidecar::redact::Secret;
use rsrepl_sidecar::schema::Policy;
use rsrepl_sidecar::target::clickhouse::{
    ClickHouseOptions, ClickHouseTarget, GroupLimits, Policies,
};
use rsrepl_sidecar::target::{Event, SourceIdentity, Target};
use rsrepl_tests::SECRET;
use rsrepl_tests::clickhouse::{ClickHouse, USER};
use rsrepl_tests::scratch::Scratch;
use rsrepl_wire::Lsn;

use crate::feed::batch;

pub const DATABASE: &str = "mirror";

/// Nothing is stored before somebody asks for it.
pub const GROUPS: GroupLimits =
    GroupLimits { rows: 1_000_000, bytes: 1 << 30, interval: Duration::from_secs(3600) };

/// One batch at a time.
pub trait Apply {
    /// Has a batch written, and waits until it is stored.
    async fn apply(&mut self, batch: Batch) -> Result<()>;
}

impl Apply for ClickHouseTarget {
    async fn apply(&mut self, batch: Batch) -> Result<()> {
        let last = match batch.commit {
            Some(commit) => Event::Durable(commit.lsn),
            None => Event::Applied,
        };
        self.submit(batch);
        self.hurry();
        while self.next().await? != last {}
        Ok(())
    }
}

/// Dropped in this order: the server before its folder.
pub struct Rig {
    pub server: ClickHouse,
    _scratch: Scratch,
}

pub fn source() -> SourceIdentity {
    SourceIdentity {
        system_id: 7,
        timeline: 1,
        database: "shop".into(),
        slot: "rsrepl".into(),
        ancestors: None,
    }
}

impl Rig {
    pub fn start() -> Rig {
        Self::start_with("")
    }

    /// With settings of the server, as XML.
    pub fn start_with(profile: &str) -> Rig {
        let scratch = Scratch::new("chtarget");
        Rig { server: ClickHouse::start_with(&scratch, profile), _scratch: scratch }
    }

    pub fn options(&self) -> ClickHouseOptions {
        ClickHouseOptions {
            name: "ch".into(),
            url: format!("http://127.0.0.1:{}", self.server.http_port()),
            root_cert: None,
            database: DATABASE.into(),
            user: USER.into(),
            password: Secret::new(SECRET),
            mode: Mode::Mirror,
            table_name: "{table}".into(),
            create_tables: true,
            schema_changes: Policy::default(),
            compression: Compression::Lz4,
            policies: Policies::default(),
        }
    }

    /// A target that has been opened at the beginning.
    pub async fn target(&self) -> ClickHouseTarget {
        self.target_with(self.options()).await
    }

    pub async fn target_with(&self, options: ClickHouseOptions) -> ClickHouseTarget {
        let mut target = ClickHouseTarget::new(options, GROUPS).unwrap();
        target.open(&source()).await.unwrap();
        target
    }

    /// Parts that INSERTs have made of a table, merged since or not.
    pub fn parts(&self, table: &str) -> u64 {
        let query = format!(
            "SELECT max(max_block_number) FROM system.parts
             WHERE database = '{DATABASE}' AND table = '{table}'"
        );
        self.server.query(&query).trim().parse().unwrap()
    }

    /// What a user reads: `FINAL`, in the order of `order`.
    pub fn rows(&self, columns: &str, table: &str) -> Vec<String> {
        let query = format!(
            "SELECT {columns} FROM {DATABASE}.{table} FINAL ORDER BY ALL FORMAT TabSeparated"
        );
        self.server.query(&query).lines().map(str::to_owned).collect()
    }
}

/// Applies changes as one transaction.
pub async fn apply(target: &mut ClickHouseTarget, changes: Vec<Change>, end: u64) -> Result<()> {
    target.apply(batch(changes, Some(end))).await
}

/// Opens again and says from where to go on.
pub async fn reopen(target: &mut ClickHouseTarget) -> Lsn {
    target.open(&source()).await.unwrap()
}

/// Opens until the server is there.
pub async fn reopen_when_up(target: &mut ClickHouseTarget) -> Lsn {
    let mut last = None;
    for _ in 0..100 {
        match target.open(&source()).await {
            Ok(lsn) => return lsn,
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{last:?}");
}

/// Applies a batch that must be refused, and shows the error as a user sees it.
pub async fn refused(target: &mut ClickHouseTarget, batch: Batch) -> Error {
    let error = target.apply(batch).await.expect_err("refused");
    assert!(!error.to_string().contains(SECRET), "{error}");
    error
}
