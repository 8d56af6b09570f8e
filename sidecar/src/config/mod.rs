//! The configuration: read once into a resolved, validated form. Nothing downstream parses.
//!
//! | module | subject |
//! |---|---|
//! | `load` | file and environment to one tree of values |
//! | `read` | asking the tree for keys; what was never asked for is unknown |
//! | `value` | the types of settings |
//! | `resolve` | every key, its default and its rule |
//!
//! Keys and defaults are described for users in `docs/configuration.md`, which a test compares with
//! [`catalog`].

#[cfg(test)]
mod docs_tests;
mod load;
mod read;
mod resolve;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use load::{Environment, OVERRIDE_PREFIX, Syntax, environment};
pub use read::Key;
pub use resolve::catalog;

use crate::redact::{Mask, Secret};
use crate::schema::Policy;
use crate::status::TargetKind;
use crate::target::clickhouse::{ClickHouseOptions, Policies};
use crate::tls::PgConnect;

/// Everything that the sidecar is told.
#[derive(Clone, Debug)]
pub struct Config {
    pub source: Source,
    /// PostgreSQL targets first, then ClickHouse targets, each in the order of the file. At least one;
    /// names are unique across kinds. A target's place here is its index everywhere.
    pub targets: Vec<Target>,
    pub pipeline: Pipeline,
    pub copy: CopyOptions,
    pub spool: Spool,
    pub telemetry: Telemetry,
    pub logging: Logging,
}

/// `[source]`
#[derive(Clone, Debug)]
pub struct Source {
    /// Server, credentials and TLS; `Debug` shows no password.
    pub connection: PgConnect,
    pub slot_name: String,
    /// Empty: all tables.
    pub publications: Vec<String>,
    /// Create the slot when it is missing.
    pub create_slot: bool,
    /// Receive large transactions while they run.
    pub streaming: Streaming,
    /// What the texts of an SQL_ASCII database are in; PostgreSQL's name of an encoding.
    pub encoding: Option<String>,
    pub invalid_text: InvalidText,
}

/// Whether transactions in progress are received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streaming {
    /// Where the source's version is known to send them whole.
    Auto,
    On,
    Off,
}

/// What the source does with text that has no UTF-8 form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidText {
    /// Stops there.
    Error,
    /// U+FFFD in its place.
    Replace,
}

/// One of `[[targets.postgres]]` or `[[targets.clickhouse]]`.
#[derive(Clone, Debug)]
pub struct Target {
    pub name: String,
    pub batch: BatchLimits,
    pub retry: Retry,
    /// It gets a transaction so long after it has committed.
    pub apply_delay: Duration,
    /// Where what is skipped is written to; `None`: below the spool's folder.
    pub dead_letters: Option<PathBuf>,
    pub options: TargetOptions,
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a handful for the life of the process")]
pub enum TargetOptions {
    Postgres(Postgres),
    ClickHouse(ClickHouse),
}

impl Target {
    pub fn kind(&self) -> TargetKind {
        match self.options {
            TargetOptions::Postgres(_) => TargetKind::Postgres,
            TargetOptions::ClickHouse(_) => TargetKind::ClickHouse,
        }
    }
}

/// When a batch is handed to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Row changes; at least 1. A larger transaction comes in several batches.
    pub rows: usize,
    /// How long changes may wait for more to come.
    pub interval: Duration,
}

/// Exponential backoff with jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in a row without success after which the target stops; `None`: never.
    pub max_attempts: Option<u32>,
    /// Before the second attempt; doubles from there.
    pub backoff: Duration,
    pub max_backoff: Duration,
}

#[derive(Clone, Debug)]
pub struct Postgres {
    /// Server, credentials and TLS; `Debug` shows no password.
    pub connection: PgConnect,
    /// Before the first copy, tables that are missing are made as they are on the source.
    pub create_tables: bool,
    pub consistency: Consistency,
    /// Which changes of tables it makes by itself.
    pub schema_changes: Policy,
    /// Sessions that write.
    pub workers: usize,
    /// Set its sequences at a clean shutdown.
    pub sync_sequences: bool,
    pub missing_rows: MissingRows,
}

/// What becomes of an UPDATE or DELETE of a row that the target does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingRows {
    /// It stops the target: the two differ.
    Error,
    /// It changes nothing, as with a native subscription.
    Skip,
}

/// What a PostgreSQL target shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Whole transactions in commit order, by one writer.
    Transaction,
    /// The same, by several: what does not depend on each other is written at the same time.
    Parallel,
}

#[derive(Clone, Debug)]
pub struct ClickHouse {
    /// `http(s)://user:password@host:port/database`; has been parsed once.
    pub connection_string: Secret,
    pub mode: Mode,
    /// With `{schema}` and `{table}`.
    pub table_name: String,
    pub create_tables: bool,
    /// Which changes of tables it makes by itself.
    pub schema_changes: Policy,
    pub compression: Compression,
    /// `unrepresentable` and `columns`.
    pub policies: Policies,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// ReplacingMergeTree; `FINAL` equals the source.
    Mirror,
    /// An append-only table of changes.
    History,
}

/// Of inserts into ClickHouse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not on this machine, LZ4 otherwise.
    Auto,
    Lz4,
    None,
}

/// `[pipeline]`
#[derive(Clone, Copy, Debug)]
pub struct Pipeline {
    /// Threads that convert values, for all targets together.
    pub worker_count: usize,
    /// Batches of one target that are written or wait to be, at most.
    pub buffer_size: usize,
    /// Bytes of changes held in memory, over all targets.
    pub memory_limit: u64,
}

/// `[copy]`
#[derive(Clone, Copy, Debug)]
pub struct CopyOptions {
    /// The rows that the source has when the stream begins are copied.
    pub data: bool,
    /// Chunks that are copied at the same time.
    pub workers: usize,
    /// Bytes of a table's pages that are copied together.
    pub chunk_size: u64,
    /// How long one snapshot of the source is held for new chunks.
    pub max_snapshot_age: Duration,
}

/// `[spool]`
#[derive(Clone, Debug)]
pub struct Spool {
    /// Where transactions in progress wait for their commits.
    pub dir: PathBuf,
    /// Somebody has said that it is there: nothing clears it.
    pub lasts: bool,
    /// Bytes there, over all transactions.
    pub max_disk: u64,
    /// Bytes of frames held for the slowest target before the slot waits.
    pub max_size: u64,
    pub confirm: Confirm,
}

impl Spool {
    /// Where a spool on disk is.
    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }
}

/// What lets the slot move on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// Every target has stored the position.
    Applied,
    /// The spool is on disk, and has it there.
    Spooled,
}

/// `[telemetry]`
#[derive(Clone, Copy, Debug)]
pub struct Telemetry {
    /// `None`: no endpoint.
    pub address: Option<std::net::SocketAddr>,
}

/// `[logging]`
#[derive(Clone, Debug)]
pub struct Logging {
    /// A level, or a filter as `RUST_LOG` takes it.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Plain,
    Json,
}

/// Everything that is wrong with a configuration, each with the key's path. Shows no secrets.
#[derive(Debug)]
pub struct Problems(Vec<String>);

impl Problems {
    /// One line each.
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

impl Config {
    /// Reads `path`, replaces `${NAME}` from `environment` and applies its `RSREPL__…` overrides.
    ///
    /// # Errors
    /// All problems at once.
    pub fn load(path: &Path, environment: &Environment) -> Result<Config, Problems> {
        let text = load::read_file(path).map_err(|problem| Problems(vec![problem]))?;
        Config::parse(&text, Syntax::of(path), environment)
    }

    /// Where what a target skips is written to.
    pub fn dead_letters(&self, target: &Target) -> PathBuf {
        target.dead_letters.clone().unwrap_or_else(|| self.spool.dir.join("dead-letters"))
    }

    /// Its passwords, to be masked.
    pub fn mask(&self) -> Mask {
        let of = |connection: &PgConnect| {
            let password = connection.config().get_password();
            password.map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        };
        let target = |target: &Target| match &target.options {
            TargetOptions::Postgres(options) => of(&options.connection),
            TargetOptions::ClickHouse(options) => {
                let options = ClickHouseOptions::from_config(&target.name, options).ok()?;
                Some(options.password.expose().to_owned())
            }
        };
        Mask::new(
            of(&self.source.connection).into_iter().chain(self.targets.iter().filter_map(target)),
        )
    }

    /// The same from a text.
    ///
    /// # Errors
    /// All problems at once.
    pub fn parse(
        text: &str,
        syntax: Syntax,
        environment: &Environment,
    ) -> Result<Config, Problems> {
        let loaded = load::load(text, syntax, environment).map_err(|p| Problems(vec![p]))?;
        let reading = read::Reading::new(loaded.origins);
        let config = resolve::config(read::Table::root(&reading, loaded.root), environment);
        let mut problems = loaded.problems;
        problems.extend(reading.into_problems(catalog));
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(Problems(problems)),
        }
    }
}
