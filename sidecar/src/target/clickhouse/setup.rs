//! What must be true of the server before rows go to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::client::Server;
use super::convert::DateRange;
use super::copies;
use super::ddl::{self, Existing, Misfit, literal, quoted};
use super::failure::Attempt;
use super::options::ClickHouseOptions;
use super::plan::Plan;
use super::position;
use super::records;
use crate::error::{Error, Kind, Result};
use crate::target::SourceIdentity;

/// The oldest server with `is_deleted` in a ReplacingMergeTree in a long-term release.
pub(super) const OLDEST: (u32, u32) = (23, 3);

/// How long queries of a predecessor may take to end.
const FENCE_ATTEMPTS: u32 = 150;
const FENCE_INTERVAL: Duration = Duration::from_millis(200);

/// What the ids of a stream's queries begin with.
pub(super) fn query_prefix(options: &ClickHouseOptions, source: &SourceIdentity) -> String {
    format!("rsrepl:{}:{}:{}:{}:", source.system_id, source.slot, options.database, options.name)
}

/// `26.9.2.1` as `(26, 9)`.
pub(super) fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(super) async fn version(server: &Server) -> Result<String> {
    let rows = server.strings::<1>(Attempt::Connect, "SELECT version()").await?;
    Ok(rows.into_iter().next().map(|[version]| version).unwrap_or_default())
}

/// The error of a server that is too old, if it is.
pub(super) fn too_old(version: &str) -> Option<Misfit> {
    if parse_version(version).is_some_and(|version| version >= OLDEST) {
        return None;
    }
    Some(Misfit {
        what: format!("ClickHouse {version} is too old"),
        mend: format!("use ClickHouse {}.{} or later", OLDEST.0, OLDEST.1),
    })
}

/// Whether the database is there.
pub(super) async fn has_database(server: &Server, database: &str) -> Result<bool> {
    let sql = format!("SELECT name FROM system.databases WHERE name = {}", literal(database));
    Ok(!server.strings::<1>(Attempt::Prepare, &sql).await?.is_empty())
}

/// Checks the server, makes the database and our own tables, and asks for the range of dates.
pub(super) async fn prepare(server: &Server, options: &ClickHouseOptions) -> Result<DateRange> {
    if let Some(misfit) = too_old(&version(server).await?) {
        return Err(setup_error(options, vec![misfit]));
    }
    let database = &options.database;
    if options.create_tables && !has_database(server, database).await? {
        let sql = format!("CREATE DATABASE IF NOT EXISTS {}", quoted(database));
        server.execute(Attempt::Prepare, &sql).await?;
    }
    if options.create_tables {
        for sql in position::create_statements(database) {
            server.execute(Attempt::Prepare, &sql).await?;
        }
        server.execute(Attempt::Prepare, &records::create_statement(database)).await?;
        server.execute(Attempt::Prepare, &copies::create_statement(database)).await?;
    }
    date_range(server).await
}

/// Servers differ in the dates that they show as they were stored.
pub(super) async fn date_range(server: &Server) -> Result<DateRange> {
    const SQL: &str = "SELECT toString(CAST(-719162, 'Date32')), toString(CAST(2932896, 'Date32')), \
                       toString(fromUnixTimestamp64Micro(toInt64(-62135596800000000), 'UTC')), \
                       toString(fromUnixTimestamp64Micro(toInt64(253402300799999999), 'UTC'))";
    let rows = server.strings::<4>(Attempt::Prepare, SQL).await?;
    let wide =
        ["0001-01-01", "9999-12-31", "0001-01-01 00:00:00.000000", "9999-12-31 23:59:59.999999"];
    let is_wide = rows.first().is_some_and(|row| row.iter().zip(wide).all(|(a, b)| a == b));
    Ok(if is_wide { DateRange::WIDE } else { DateRange::NARROW })
}

/// Of `system.processes`: the queries of this stream but for the one that asks.
fn others(server: &Server) -> String {
    format!("startsWith(query_id, {}) AND query_id != queryID()", literal(server.prefix()))
}

/// How many queries of a predecessor there are.
pub(super) async fn running(server: &Server) -> Result<u64> {
    let sql = format!("SELECT toString(count()) FROM system.processes WHERE {}", others(server));
    let rows = server.strings::<1>(Attempt::Prepare, &sql).await?;
    Ok(rows.first().and_then(|[count]| count.parse().ok()).unwrap_or(0))
}

/// Ends what a predecessor (or we, before an error) left running, and waits until it has ended: an
/// INSERT that came to its end after the same rows were sent again could bring back what a TRUNCATE
/// between them took away.
pub(super) async fn fence(server: &Server) -> Result<()> {
    for attempt in 0..FENCE_ATTEMPTS {
        if running(server).await? == 0 {
            return Ok(());
        }
        if attempt == 0 {
            // best effort: without the right to, they end by themselves
            let kill = format!("KILL QUERY WHERE {} ASYNC", others(server));
            if let Err(error) = server.execute(Attempt::Prepare, &kill).await {
                tracing::warn!(%error, "cannot end the queries of a predecessor");
            }
        }
        tokio::time::sleep(FENCE_INTERVAL).await;
    }
    Err(Error::new(
        Kind::Server,
        format!("target {}: queries of a predecessor are still running", server.name()),
    )
    .hint("is another sidecar serving the same slot? See system.processes"))
}

/// Makes the table when it is missing and may be made, and checks the one that is there.
pub(super) async fn ensure_table(
    server: &Server,
    options: &ClickHouseOptions,
    plan: &mut Plan,
) -> Result<()> {
    let database = &options.database;
    let mut existing = describe(server, database, &plan.storage()).await?;
    if existing.is_none() && options.create_tables {
        let sql = ddl::create_table(database, plan);
        server.execute(Attempt::Create(&plan.name), &sql).await?;
        existing = describe(server, database, &plan.storage()).await?;
    }
    let misfits = match existing {
        Some(existing) => ddl::compare(database, plan, &existing),
        None => vec![missing(database, plan)],
    };
    if !misfits.is_empty() {
        return Err(setup_error(options, misfits));
    }
    if options.create_tables { ensure_view(server, options, plan).await } else { Ok(()) }
}

/// Makes the view of a log, and makes it anew when the table has other columns by now. Its owner may
/// have made another one, and without create_tables none is asked for.
async fn ensure_view(server: &Server, options: &ClickHouseOptions, plan: &Plan) -> Result<()> {
    let database = &options.database;
    let Some(sql) = ddl::create_view(database, plan) else { return Ok(()) };
    if let Some(existing) = describe(server, database, &plan.name).await? {
        if existing.kind != "View" {
            let name = ddl::qualified(database, &plan.name);
            return Err(setup_error(
                options,
                vec![Misfit {
                    what: format!("{name} is no view, and the source's table has no key"),
                    mend: format!("move it away: RENAME TABLE {name} TO …"),
                }],
            ));
        }
        if plan.columns.iter().all(|column| existing.columns.contains_key(&column.name)) {
            return Ok(());
        }
    }
    server.execute(Attempt::Create(&plan.name), &sql).await
}

pub(super) fn missing(database: &str, plan: &Plan) -> Misfit {
    Misfit {
        what: format!("table {} is missing", ddl::qualified(database, &plan.storage())),
        mend: ddl::create_table(database, plan),
    }
}

fn setup_error(options: &ClickHouseOptions, misfits: Vec<Misfit>) -> Error {
    let (what, mend): (Vec<_>, Vec<_>) = misfits.into_iter().map(|m| (m.what, m.mend)).unzip();
    Error::new(Kind::Setup, format!("target {}: {}", options.name, what.join("; ")))
        .hint(mend.join("; "))
}

/// The table as the server has it.
pub(super) async fn describe(
    server: &Server,
    database: &str,
    table: &str,
) -> Result<Option<Existing>> {
    let place = |name: &str| {
        format!("WHERE database = {} AND {name} = {}", literal(database), literal(table))
    };
    let sql =
        format!("SELECT engine, engine_full, partition_key FROM system.tables {}", place("name"));
    let rows = server.strings::<3>(Attempt::Describe(table), &sql).await?;
    let Some([kind, engine, partition_key]) = rows.into_iter().next() else { return Ok(None) };
    let sql = format!(
        "SELECT name, type, toString(is_in_sorting_key) FROM system.columns {}",
        place("`table`")
    );
    let mut columns = BTreeMap::new();
    let mut sorting_key = BTreeSet::new();
    for [name, ty, in_key] in server.strings::<3>(Attempt::Describe(table), &sql).await? {
        if in_key == "1" {
            sorting_key.insert(name.clone());
        }
        columns.insert(name, ty);
    }
    Ok(Some(Existing { kind, engine, partition_key, columns, sorting_key }))
}
