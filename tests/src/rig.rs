//! Source, standby, ClickHouse and sidecar, put together the way most tests want them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::clickhouse::ClickHouse;
use crate::config::{Config, NO_COPY, Target};
use crate::postgres::Postgres;
use crate::scratch::{Scratch, free_port};
use crate::sidecar::Sidecar;
use crate::variant::{Variant, seed};
use crate::{SECRET, compare, wait};

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
    variant: Variant,
    markers: AtomicU64,
}

/// Where the source says that its slots and walsenders are, each row as JSON.
const POSITIONS: [&str; 4] = [
    "SELECT 'WAL ends at ' || pg_current_wal_lsn()",
    "SELECT 'slot ' || to_jsonb(s)::text FROM pg_replication_slots s",
    "SELECT 'slot has sent ' || to_jsonb(s)::text FROM pg_stat_replication_slots s",
    "SELECT 'walsender ' || to_jsonb(s)::text FROM pg_stat_replication s",
];

impl Rig {
    /// Starts the servers and makes `schema` in both PostgreSQL databases; the sidecar is configured
    /// but not running. In the configuration that [`Variant::of_test`] picks.
    pub fn new(name: &str, schema: &str) -> Rig {
        Rig::with(name, schema, Variant::of_test(name))
    }

    /// The same in a given configuration.
    pub fn with(name: &str, schema: &str, variant: Variant) -> Rig {
        Rig::of_database(name, schema, variant, "")
    }

    /// The same with options of CREATE DATABASE on the source.
    pub fn of_database(name: &str, schema: &str, variant: Variant, options: &str) -> Rig {
        let scratch = Scratch::new(name);
        let source = Postgres::start(&scratch, "source", variant.settings());
        let standby = Postgres::start(&scratch, STANDBY, "");
        let clickhouse = ClickHouse::start(&scratch);
        for (server, options) in [(&source, options), (&standby, "")] {
            server.execute("postgres", &format!("CREATE DATABASE {DATABASE} {options}"));
            server.execute(DATABASE, &format!("CREATE TABLE {MARKER} (id bigint PRIMARY KEY)"));
            server.execute(DATABASE, schema);
        }
        source.execute(DATABASE, "CREATE EXTENSION rsrepl");
        let config = Config {
            source: source.conninfo(DATABASE),
            source_options: variant.source_options(),
            slot: "rsrepl".to_owned(),
            postgres: vec![Target {
                options: variant.target_options().to_owned(),
                ..Target::new(STANDBY, standby.conninfo(DATABASE))
            }],
            clickhouse: vec![Target::new(CLICKHOUSE, clickhouse.url(DATABASE))],
            telemetry_port: free_port(),
            copy: NO_COPY.to_owned(),
            sections: String::new(),
        };
        let sidecar = Sidecar::new(&scratch, &config);
        let markers = AtomicU64::new(0);
        Rig { sidecar, config, source, standby, clickhouse, scratch, variant, markers }
    }

    /// How to repeat the run, and how far everybody is; who does not answer is left out.
    fn account(&self) -> String {
        let mut lines = vec![format!("SEED={} VARIANT={}", seed(), self.variant)];
        if let Ok(mut source) = self.source.try_client(DATABASE) {
            for query in POSITIONS {
                let rows = source.query(query, &[]).unwrap_or_default();
                lines.extend(rows.iter().filter_map(|row| row.try_get(0).ok()));
            }
        }
        let metrics = self.sidecar.get("/metrics").map(|(_, body)| body).unwrap_or_default();
        let samples = metrics.lines().filter(|line| !line.starts_with('#'));
        lines.extend(samples.filter(|line| !line.contains("_bucket{")).map(str::to_owned));
        lines.join("\n")
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
        self.settle_clickhouse(DATABASE, limit);
    }

    /// The same for a database of ClickHouse alone.
    pub fn settle_clickhouse(&self, database: &str, limit: Duration) {
        for _ in 0..2 {
            let marker = self.mark();
            let query = format!("SELECT count() FROM {database}.{MARKER} WHERE id = {marker}");
            wait::until(limit, "ClickHouse caught up", || {
                self.clickhouse.try_query(&query).is_ok_and(|n| n.trim() != "0")
            });
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

    /// Asserts that no password shows where others may read it.
    pub fn assert_discreet(&self) {
        let pid = self.sidecar.process().pid();
        let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let places = [
            ("the log", self.sidecar.log()),
            ("the process title", String::from_utf8_lossy(&title).into_owned()),
            ("/metrics", self.sidecar.get("/metrics").unwrap_or_default().1),
            ("/readyz", self.sidecar.get("/readyz").unwrap_or_default().1),
            ("/healthz", self.sidecar.get("/healthz").unwrap_or_default().1),
        ];
        for (place, text) in places {
            assert!(!text.is_empty(), "{place} is empty");
            assert!(!text.contains(SECRET), "{place} shows a password");
        }
    }

    /// Compares every table of the source with both targets; panics with all differences.
    pub fn assert_equal(&self) {
        let mut source = self.source.client(DATABASE);
        let mut standby = self.standby.client(DATABASE);
        let mut different = Vec::new();
        for table in compare::tables(&mut source) {
            let there = compare::postgres(&mut source, &mut standby, &table);
            let twin = self.twin(&table);
            let image = compare::clickhouse(&mut source, &self.clickhouse, &table, &twin);
            for (target, comparison) in [(STANDBY, there), (CLICKHOUSE, image)] {
                if !comparison.equal() {
                    different.push(format!("{target}: {comparison}"));
                }
            }
        }
        assert!(different.is_empty(), "tables differ:\n{}", different.join("\n"));
    }

    /// `confirmed_flush_lsn` of the slot, in bytes since 0/0.
    pub fn confirmed(&self) -> u64 {
        self.source_position(&format!(
            "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{}'",
            self.config.slot
        ))
    }

    /// Where the source's WAL ends now, in bytes since 0/0.
    pub fn wal_end(&self) -> u64 {
        self.source_position("SELECT pg_current_wal_lsn()")
    }

    fn source_position(&self, query: &str) -> u64 {
        let bytes = format!("SELECT (({query}) - '0/0')::bigint");
        let value = self.source.value(DATABASE, &bytes);
        value.and_then(|v| v.parse().ok()).unwrap_or(0)
    }

    /// Everything of `rsrepl.targets` about one target, as JSON text.
    pub fn reported(&self, target: &str) -> String {
        let query =
            format!("SELECT to_jsonb(t) FROM rsrepl.targets t WHERE t::text LIKE '%{target}%'");
        self.source.value(DATABASE, &query).unwrap_or_default()
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
}

impl Drop for Rig {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the run that failed ---\n{}", self.account());
        }
    }
}
