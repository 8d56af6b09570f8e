//! Every key, its default and its rule: from the tree to [`Config`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::read::{Key, Reading, Table};
use super::value::{Listen, Names, Size};
use super::{
    BatchLimits, ClickHouse, Config, Confirm, Consistency, CopyOptions, Environment, Logging,
    Pipeline, Postgres, Retry, Source, Spool, Target, TargetOptions, Telemetry,
};
use crate::redact::Secret;
use crate::target::clickhouse::{
    ChosenType, ClickHouseOptions, ColumnOptions, Policies, Unrepresentable,
};
use crate::tls::{self, PgConnect};

/// Rows of one batch: an INSERT into ClickHouse is all-or-nothing only as one block, which ends at
/// 1,048,449 rows.
const BATCH_SIZE_MAX: usize = 1_000_000;
/// Batches under way.
const BUFFER_SIZE_MAX: usize = 65_536;
/// Threads.
const WORKERS_MAX: usize = 256;
/// Sessions of one target: each has batches of up to 8 MiB under way.
const WRITERS_MAX: usize = 16;
/// Sessions that copy, on the source and on each target.
const COPIERS_MAX: usize = 32;
/// Bytes of a chunk: below, it costs more to record than to copy.
const CHUNK_MIN: u64 = 64 << 10;
/// Bytes below which a limit on memory or disk cannot be kept, or is of no use.
const SIZE_MIN: u64 = 8 << 20;
/// The slot keeps the WAL of all that time.
const DELAY_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Bytes of PostgreSQL's identifiers.
const NAME_MAX: usize = 63;

/// Reads the whole tree; `None` after at least one problem.
pub(super) fn config(mut root: Table<'_>, environment: &Environment) -> Option<Config> {
    let mut table = root.table("source");
    let source = source(&mut table);
    table.finish();

    let targets = targets(&mut root);

    let mut table = root.table("pipeline");
    let pipeline = pipeline(&mut table);
    table.finish();

    let mut table = root.table("copy");
    let copy = copy(&mut table);
    table.finish();

    let mut table = root.table("spool");
    let has_state = environment.get("STATE_DIRECTORY").is_some_and(|dirs| !dirs.is_empty());
    let spool = spool(&mut table);
    table.finish();
    let default_dir = |slot_name: &str| match environment.get("STATE_DIRECTORY") {
        // systemd's; of several the first
        Some(dirs) if !dirs.is_empty() => dirs.split(':').next().unwrap_or_default().into(),
        _ => std::env::temp_dir().join(format!("rsrepl-{slot_name}")),
    };

    let mut table = root.table("telemetry");
    let address = table.or::<Listen>("address", "127.0.0.1:9477");
    table.finish();

    let mut table = root.table("logging");
    let level = table.or_if("level", "info", |level: &String| {
        (!is_filter(level)).then(|| {
            "expected error, warn, info, debug, trace, off or a filter of RUST_LOG's form".into()
        })
    });
    let format = table.or("format", "plain");
    table.finish();
    if let (Some(source), Some(targets)) = (&source, &targets) {
        check_places(&root, source, targets);
    }
    if let (Some(copy), Some(targets)) = (&copy, &targets) {
        check_creation(&root, copy, targets);
    }
    root.finish();

    let (source, (dir, max_disk, max_size, confirm)) = (source?, spool?);
    let lasts = has_state || dir.is_some();
    let dir = dir.unwrap_or_else(|| default_dir(&source.slot_name));
    Some(Config {
        source,
        targets: targets?,
        pipeline: pipeline?,
        copy: copy?,
        spool: Spool { dir, lasts, max_disk, max_size, confirm },
        telemetry: Telemetry { address: address?.0 },
        logging: Logging { level: level?, format: format? },
    })
}

/// A misspelt level is a valid filter too, one that lets nothing through: each part without `=` must be a
/// level.
fn is_filter(text: &str) -> bool {
    let level = |part: &str| {
        !part.is_empty() && part.parse::<tracing_subscriber::filter::LevelFilter>().is_ok()
    };
    text.split(',').all(|part| part.contains('=') || level(part.trim()))
        && text.parse::<tracing_subscriber::EnvFilter>().is_ok()
}

fn source(table: &mut Table<'_>) -> Option<Source> {
    let connection = postgres_connection(table);
    let slot_name = table.required::<String>("slot_name").and_then(|name| {
        let valid = (1..=NAME_MAX).contains(&name.len())
            && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        if !valid {
            table.problem("slot_name", "must be 1 to 63 of a-z, 0-9 and _");
        }
        valid.then_some(name)
    });
    let publication = table.optional::<Names>("publication");
    let create_slot = table.or("create_slot", "true");
    let streaming = table.or("streaming", "auto");
    let encoding = table.optional::<String>("encoding");
    let invalid_text = table.or("invalid_text", "error");
    Some(Source {
        connection: connection?,
        slot_name: slot_name?,
        publications: publication?.map(|names| names.0).unwrap_or_default(),
        create_slot: create_slot?,
        streaming: streaming?,
        encoding: encoding?.filter(|name| !name.is_empty()),
        invalid_text: invalid_text?,
    })
}

fn targets(root: &mut Table<'_>) -> Option<Vec<Target>> {
    let mut table = root.table("targets");
    let mut found = Vec::new();
    let mut names = BTreeSet::new();
    for mut entry in table.tables("postgres") {
        found.push(target(&mut entry, &mut names, POSTGRES_BATCH, postgres));
        entry.finish();
    }
    for mut entry in table.tables("clickhouse") {
        found.push(target(&mut entry, &mut names, CLICKHOUSE_BATCH, clickhouse));
        entry.finish();
    }
    let path = table.path("postgres");
    table.finish();
    if found.is_empty() {
        root.problem(
            "targets",
            &format!("there is none: add a [[{path}]] or a [[targets.clickhouse]]"),
        );
        return None;
    }
    found.into_iter().collect()
}

/// A target that is the source would feed itself; two targets that are one database would share their
/// position, which is stored there by slot.
fn check_places(root: &Table<'_>, source: &Source, targets: &[Target]) {
    let place = |target: &Target| match &target.options {
        TargetOptions::Postgres(options) => options.connection.endpoint(),
        TargetOptions::ClickHouse(options) => {
            let options = ClickHouseOptions::from_config(&target.name, options);
            options.map(|found| format!("{}/{}", found.url, found.database)).unwrap_or_default()
        }
    };
    let mut seen = BTreeMap::from([(source.connection.endpoint(), "the source".to_owned())]);
    for target in targets {
        let this = format!("target {}", target.name);
        if let Some(other) = seen.insert(place(target), this.clone()) {
            root.problem("targets", &format!("{this} is the same database as {other}"));
        }
    }
}

/// Tables are made for a copy. (Those that are new in the stream come as `schema_changes` says.)
fn check_creation(root: &Table<'_>, copy: &CopyOptions, targets: &[Target]) {
    for target in targets {
        if let TargetOptions::Postgres(options) = &target.options
            && options.create_tables
            && !copy.data
        {
            let name = &target.name;
            root.problem(
                "targets",
                &format!("{name}: create_tables = true needs copy.data = true"),
            );
        }
    }
}

/// Defaults of `batch_size` and `batch_interval`.
type BatchDefaults = (&'static str, &'static str);

const POSTGRES_BATCH: BatchDefaults = ("10000", "200ms");
const CLICKHOUSE_BATCH: BatchDefaults = ("500000", "1s");

/// What targets of all kinds have in common.
fn target(
    table: &mut Table<'_>,
    names: &mut BTreeSet<String>,
    (size, interval): BatchDefaults,
    options: fn(&mut Table<'_>) -> Option<TargetOptions>,
) -> Option<Target> {
    let name = table.required::<String>("name").and_then(|name| name_of_target(table, name, names));
    let rows = table.within("batch_size", size, (1, BATCH_SIZE_MAX));
    let interval = table.or_if("batch_interval", interval, |wait: &Duration| {
        (*wait > Duration::from_secs(60)).then(|| "must be at most 1m".into())
    });
    let apply_delay = table.or_if("apply_delay", "0s", |delay: &Duration| {
        (*delay > DELAY_MAX).then(|| "must be at most 30days".into())
    });
    let dead_letters = table.optional::<String>("dead_letters");
    let options = options(table);
    let mut below = table.table("retry");
    let retry = retry(&mut below);
    below.finish();
    let (name, options) = (name?, options?);
    if let TargetOptions::ClickHouse(options) = &options
        && let Err(error) = ClickHouseOptions::from_config(&name, options)
    {
        table.problem_here(&error.to_string());
        return None;
    }
    let batch = BatchLimits { rows: rows?, interval: interval? };
    Some(Target {
        name,
        batch,
        retry: retry?,
        apply_delay: apply_delay?,
        dead_letters: dead_letters?.filter(|dir| !dir.is_empty()).map(PathBuf::from),
        options,
    })
}

/// Names are labels of metrics and part of keys on the targets.
fn name_of_target(table: &Table<'_>, name: String, names: &mut BTreeSet<String>) -> Option<String> {
    let valid = (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    if !valid {
        table.problem("name", "must be 1 to 63 letters, digits, _, - or .");
        return None;
    }
    if !names.insert(name.clone()) {
        table.problem("name", &format!("another target has the name {name:?} too"));
        return None;
    }
    Some(name)
}

fn retry(table: &mut Table<'_>) -> Option<Retry> {
    let max_attempts = table.or::<u32>("max_attempts", "0");
    let positive = |wait: &Duration| wait.is_zero().then(|| "must be more than zero".into());
    let backoff = table.or_if("backoff", "200ms", positive);
    let max_backoff = table.or_if("max_backoff", "30s", positive);
    let (backoff, max_backoff) = (backoff?, max_backoff?);
    if backoff > max_backoff {
        table.problem("max_backoff", "must not be less than backoff");
        return None;
    }
    Some(Retry { max_attempts: max_attempts.map(|n| (n > 0).then_some(n))?, backoff, max_backoff })
}

/// URL or key=value form.
fn postgres_connection(table: &mut Table<'_>) -> Option<PgConnect> {
    let text = table.required::<Secret>("connection_string")?;
    match tls::parse(text.expose()) {
        Ok(connection) => Some(connection),
        Err(error) => {
            table.problem("connection_string", &error.to_string());
            None
        }
    }
}

fn postgres(table: &mut Table<'_>) -> Option<TargetOptions> {
    let connection = postgres_connection(table);
    let create_tables = table.or("create_tables", "false");
    let consistency = table.or::<Consistency>("consistency", "transaction");
    let parallel = consistency == Some(Consistency::Parallel);
    // the default is that of "transaction", which the catalog of keys shows
    let default = if parallel { "4" } else { "2" };
    let workers = table.within("workers", default, (1, WRITERS_MAX));
    let sync_sequences = table.or("sync_sequences", "true");
    let missing_rows = table.or("missing_rows", "error");
    let schema_changes = table.or("schema_changes", "additive");
    Some(TargetOptions::Postgres(Postgres {
        connection: connection?,
        create_tables: create_tables?,
        consistency: consistency?,
        workers: workers?,
        sync_sequences: sync_sequences?,
        missing_rows: missing_rows?,
        schema_changes: schema_changes?,
    }))
}

fn clickhouse(table: &mut Table<'_>) -> Option<TargetOptions> {
    let connection_string = table.required::<Secret>("connection_string");
    let mode = table.or("mode", "mirror");
    let table_name = table.or("table_name", "{table}");
    let create_tables = table.or("create_tables", "true");
    let schema_changes = table.or("schema_changes", "additive");
    let compression = table.or("compression", "auto");
    let unrepresentable = table.or("unrepresentable", "error");
    let columns = table.map("columns", column_options);
    Some(TargetOptions::ClickHouse(ClickHouse {
        connection_string: connection_string?,
        mode: mode?,
        table_name: table_name?,
        create_tables: create_tables?,
        schema_changes: schema_changes?,
        compression: compression?,
        policies: Policies { unrepresentable: unrepresentable?, columns: columns? },
    }))
}

/// `"null"`, or `{ type = "IPv6", unrepresentable = "null" }`.
fn column_options(columns: &Table<'_>, name: &str, value: Value) -> Option<ColumnOptions> {
    let Value::Object(mut keys) = value else {
        return columns.read::<Unrepresentable>(name, &value).map(ColumnOptions::from);
    };
    let path = |key: &str| format!("{name}.{key}");
    let chosen = keys.remove("type").map(|value| columns.read::<ChosenType>(&path("type"), &value));
    let policy = keys.remove("unrepresentable");
    let policy = policy.map(|value| columns.read(&path("unrepresentable"), &value));
    for key in keys.keys() {
        columns.problem(&path(key), "unknown key; known here: type, unrepresentable");
    }
    // either may be absent, and what is there must be right
    let chosen = chosen.map_or(Some(None), |chosen| chosen.map(Some))?;
    let policy = policy.map_or(Some(None), |policy| policy.map(Some))?;
    if policy == Some(Unrepresentable::String) && chosen.as_ref().is_some_and(|c| !c.is_string()) {
        columns.problem(name, "\"string\" makes the column a String: leave out either");
        return None;
    }
    keys.is_empty().then_some(ColumnOptions { unrepresentable: policy, chosen })
}

fn pipeline(table: &mut Table<'_>) -> Option<Pipeline> {
    let worker_count = table.within("worker_count", "2", (1, WORKERS_MAX));
    let buffer_size = table.within("buffer_size", "64", (1, BUFFER_SIZE_MAX));
    let memory_limit = table.or_if("memory_limit", "64MiB", enough);
    Some(Pipeline {
        worker_count: worker_count?,
        buffer_size: buffer_size?,
        memory_limit: memory_limit?.0,
    })
}

fn enough(size: &Size) -> Option<String> {
    (size.0 < SIZE_MIN).then(|| "must be at least 8MiB".into())
}

fn copy(table: &mut Table<'_>) -> Option<CopyOptions> {
    let data = table.or("data", "true");
    let workers = table.within("workers", "4", (1, COPIERS_MAX));
    let chunk_size = table.or_if("chunk_size", "64MiB", |size: &Size| {
        (size.0 < CHUNK_MIN).then(|| "must be at least 64KiB".into())
    });
    let max_snapshot_age = table.or_if("max_snapshot_age", "1h", |age: &Duration| {
        (*age < Duration::from_secs(1)).then(|| "must be at least 1s".into())
    });
    Some(CopyOptions {
        data: data?,
        workers: workers?,
        chunk_size: chunk_size?.0,
        max_snapshot_age: max_snapshot_age?,
    })
}

/// `dir`, `max_disk`, `max_size` and `confirm`.
fn spool(table: &mut Table<'_>) -> Option<(Option<PathBuf>, u64, u64, Confirm)> {
    let dir = table.optional::<String>("dir").map(|dir| dir.map(PathBuf::from));
    let confirm = table.or::<Confirm>("confirm", "applied");
    let max_disk = table.or_if("max_disk", "10GiB", enough);
    // the default is that of "applied", which the catalog of keys shows
    let spooled = confirm == Some(Confirm::Spooled);
    let max_size = table.or_if("max_size", if spooled { "10GiB" } else { "64MiB" }, enough);
    Some((dir?, max_disk?.0, max_size?.0, confirm?))
}

/// Every key that there is, in the order in which it is read.
pub fn catalog() -> Vec<Key> {
    let specimen = json!({ "targets": { "postgres": [{}], "clickhouse": [{}] } });
    let reading = Reading::default();
    let map = if let Value::Object(map) = specimen { map } else { Map::new() };
    let _ = config(Table::root(&reading, map), &Environment::new());
    reading.known()
}
