//! Source, standby, ClickHouse and sidecar, put together the way most tests want them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clickhouse::ClickHouse;
use crate::config::{Config, Target};
use crate::postgres::Postgres;
use crate::scratch::{Scratch, free_port};
use crate::sidecar::Sidecar;
use crate::wait;

/// The database on all three systems.
pub const DATABASE: &str = "shop";

/// The name of the PostgreSQL target.
pub const STANDBY: &str = "standby";

/// The name of the ClickHouse target.
pub const CLICKHOUSE: &str = "clickhouse";

/// The table that [`Rig::settle`] writes to.
pub const MARKER: &str = "rig_marker";

/// All the servers; dropped in this order, the sidecar first.
pub struct Rig {
    /// The process under test.
    pub sidecar: Sidecar,
    /// Its configuration.
    pub config: Config,
    /// The primary, with the extension installed in [`DATABASE`].
    pub source: Postgres,
    /// The PostgreSQL target.
    pub standby: Postgres,
    /// The ClickHouse target.
    pub clickhouse: ClickHouse,
    /// Everything's folder.
    pub scratch: Scratch,
    markers: AtomicU64,
}

impl Rig {
    /// Starts the servers and makes `schema` in both PostgreSQL databases; the sidecar is configured
    /// but not running.
    pub fn new(name: &str, schema: &str) -> Rig {
        let scratch = Scratch::new(name);
        let source = Postgres::start(&scratch, "source", "");
        let standby = Postgres::start(&scratch, STANDBY, "");
        let clickhouse = ClickHouse::start(&scratch);
        for server in [&source, &standby] {
            server.execute("postgres", &format!("CREATE DATABASE {DATABASE}"));
            server.execute(DATABASE, &format!("CREATE TABLE {MARKER} (id bigint PRIMARY KEY)"));
            server.execute(DATABASE, schema);
        }
        source.execute(DATABASE, "CREATE EXTENSION rsrepl");
        let config = Config {
            source: source.conninfo(DATABASE),
            source_options: String::new(),
            slot: "rsrepl".to_owned(),
            postgres: vec![Target::new(STANDBY, standby.conninfo(DATABASE))],
            clickhouse: vec![Target::new(CLICKHOUSE, clickhouse.url(DATABASE))],
            telemetry_port: free_port(),
            sections: String::new(),
        };
        let sidecar = Sidecar::new(&scratch, &config);
        Rig { sidecar, config, source, standby, clickhouse, scratch, markers: AtomicU64::new(0) }
    }

    /// Writes a changed configuration down; the next launch reads it.
    pub fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        self.sidecar.reconfigure(&self.config);
    }

    /// Starts the sidecar and waits until it is ready.
    pub fn run(&mut self) {
        self.sidecar.launch();
        self.sidecar.wait_ready(Duration::from_secs(60));
    }

    /// Runs statements on the source.
    pub fn execute(&self, statements: &str) {
        self.source.execute(DATABASE, statements);
    }

    /// Waits until everything committed so far is on all targets.
    ///
    /// Observed on the targets themselves, not in what the sidecar says. A marker row's presence
    /// means that its batch is being written; a second one, written after that, comes in a later
    /// batch, so its presence means that all of the earlier batch is there.
    pub fn settle(&self, limit: Duration) {
        self.settle_standby(limit);
        for _ in 0..2 {
            let marker = self.mark();
            self.await_clickhouse(marker, limit);
        }
    }

    /// The same for the standby alone: its transactions are atomic, one marker is enough.
    pub fn settle_standby(&self, limit: Duration) {
        let marker = self.mark();
        let mut client = self.standby.client(DATABASE);
        let query = format!("SELECT FROM {MARKER} WHERE id = {marker}");
        wait::until(limit, "the standby caught up", || {
            !client.query(&query, &[]).expect("query the standby").is_empty()
        });
    }

    /// The name in ClickHouse of a source table, as the default `table_name` template makes it.
    pub fn twin(&self, table: &str) -> String {
        let name = table.rsplit('.').next().unwrap_or(table);
        format!("{DATABASE}.{name}")
    }

    fn mark(&self) -> u64 {
        let marker = self.markers.fetch_add(1, Ordering::Relaxed) + 1;
        self.execute(&format!("INSERT INTO {MARKER} VALUES ({marker})"));
        marker
    }

    fn await_clickhouse(&self, marker: u64, limit: Duration) {
        let query = format!("SELECT count() FROM {DATABASE}.{MARKER} WHERE id = {marker}");
        wait::until(limit, "ClickHouse caught up", || {
            self.clickhouse.try_query(&query).is_ok_and(|n| n.trim() != "0")
        });
    }
}
