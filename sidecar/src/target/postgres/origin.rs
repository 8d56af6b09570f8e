//! Replication origins: what a database that replicates further can tell our rows by.
//!
//! Each session has its own: an origin is used by one session at a time. The server has places for
//! `max_active_replication_origins` of them, which is `max_replication_slots` before PostgreSQL 18, and an
//! origin that was used once keeps its place until it is dropped.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::error::DbError;

use super::errors;
use crate::error::{Error, Kind, Result};
use crate::preflight::Finding;

/// How long a session of ours that was cut off may take to end: until then it has the origin.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(3);

/// How often it is tried.
const RETRY: Duration = Duration::from_millis(50);

const CREATE: &str = "\
SELECT pg_catalog.pg_replication_origin_create($1)
 WHERE pg_catalog.pg_replication_origin_oid($1) IS NULL";

const SET_UP: &str = "SELECT pg_catalog.pg_replication_origin_session_setup($1)";

/// What names the origin's transaction in each commit.
const MAY_MOVE: &str = "SELECT pg_catalog.has_function_privilege(\
    'pg_catalog.pg_replication_origin_xact_setup(pg_lsn,timestamptz)', 'EXECUTE')";

/// SQLSTATE of an origin that another session uses.
const IN_USE: &str = "55006";

/// How many places the server has.
const PLACES: &str = "\
SELECT name, setting::int FROM pg_catalog.pg_settings
 WHERE name IN ('max_active_replication_origins', 'max_replication_slots')
 ORDER BY name LIMIT 1";

/// Whether the role may use origins, and may see which places are taken.
const PERMITTED: &str = "\
SELECT pg_catalog.bool_and(
         pg_catalog.has_function_privilege(pg_catalog.to_regprocedure(f.name), 'EXECUTE')),
       pg_catalog.has_function_privilege('pg_catalog.pg_show_replication_origin_status()', 'EXECUTE')
         AND pg_catalog.has_table_privilege('pg_catalog.pg_replication_origin_status', 'SELECT')
  FROM pg_catalog.unnest(ARRAY[
         'pg_catalog.pg_replication_origin_create(text)',
         'pg_catalog.pg_replication_origin_oid(text)',
         'pg_catalog.pg_replication_origin_session_setup(text)',
         'pg_catalog.pg_replication_origin_xact_setup(pg_lsn,timestamptz)']) AS f (name)";

/// The places that are taken, and those of them that are taken by these origins.
const TAKEN: &str = "\
SELECT pg_catalog.count(*)::int,
       (pg_catalog.count(*) FILTER (WHERE external_id = ANY ($1)))::int
  FROM pg_catalog.pg_replication_origin_status";

/// The name of the origin of session 0; those of others go on from there. Origins belong to the whole
/// server, and two targets may be databases of one: the database's oid is in it.
async fn first_name(client: &Client, slot: &str) -> Result<String, tokio_postgres::Error> {
    let query =
        "SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()";
    let database: u32 = client.query_one(query, &[]).await?.try_get(0)?;
    Ok(format!("rsrepl_{slot}_{database}"))
}

fn name(first: &str, number: usize) -> String {
    if number == 0 { first.to_owned() } else { format!("{first}_{}", number + 1) }
}

/// Sets up the origin of session `number`. `false`: not permitted, or not possible there; rows then count
/// as the target's own.
pub async fn set_up(target: &str, client: &Client, slot: &str, number: usize) -> Result<bool> {
    let server = |error| errors::of_server(target, "setting up the replication origin", error);
    let name = name(&first_name(client, slot).await.map_err(server)?, number);
    let moves: bool =
        client.query_one(MAY_MOVE, &[]).await.and_then(|row| row.try_get(0)).map_err(server)?;
    if !moves {
        return Ok(without(target, "no right to pg_replication_origin_xact_setup"));
    }
    let until = Instant::now() + PREDECESSOR_PATIENCE;
    loop {
        let Err(error) = try_set_up(client, &name).await else { return Ok(true) };
        let Some(db) = error.as_db_error() else { return Err(server(error)) };
        match db.code().code() {
            IN_USE if Instant::now() < until => tokio::time::sleep(RETRY).await,
            IN_USE => return Err(in_use(target, &name, db)),
            // no privilege; max_replication_slots = 0
            "42501" | "55000" => return Ok(without(target, db.message())),
            _ => return Err(server(error)),
        }
    }
}

fn without(target: &str, reason: &str) -> bool {
    tracing::warn!(
        target_name = target,
        reason,
        "no replication origin: a database replicating from this target sees the rows as its own"
    );
    false
}

async fn try_set_up(client: &Client, name: &str) -> Result<(), tokio_postgres::Error> {
    client.execute(CREATE, &[&name]).await?;
    client.execute(SET_UP, &[&name]).await?;
    Ok(())
}

/// The server's words name the process.
fn in_use(target: &str, name: &str, db: &DbError) -> Error {
    Error::new(
        Kind::Server,
        format!(
            "target {target}: another session writes with replication origin {name}: {}",
            errors::describe(db)
        ),
    )
    .hint(
        "run one sidecar per slot; if no other runs, that session has not noticed its end yet: \
         on the target, SELECT pg_terminate_backend(…) with that PID",
    )
}

/// Those of a slot that is no more, by the name of the first.
const DROP: &str = "\
SELECT pg_catalog.pg_replication_origin_drop(roname) FROM pg_catalog.pg_replication_origin
 WHERE roname = $1 OR pg_catalog.starts_with(roname, $1 || '_')
   AND pg_catalog.substr(roname, pg_catalog.length($1) + 2) ~ '^[0-9]+$'";

/// Gives back the places of all origins of a slot whose sessions have ended. What fails is told: they are used again
/// by the next slot of that name.
pub async fn drop_all(target: &str, client: &Client, slot: &str) {
    let until = Instant::now() + PREDECESSOR_PATIENCE;
    loop {
        let dropped = async {
            let first = first_name(client, slot).await?;
            client.execute(DROP, &[&first]).await
        };
        match dropped.await {
            Ok(_) => return,
            Err(error) if error.code().is_some_and(|code| code.code() == IN_USE) => {
                if Instant::now() >= until {
                    tracing::warn!(target_name = target, %error, "the replication origins of a sync are left");
                    return;
                }
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => {
                tracing::debug!(target_name = target, %error, "the replication origins of a sync are left");
                return;
            }
        }
    }
}

/// Whether there is a place for the origin of each of `workers` sessions. Who may not use origins needs none.
pub async fn check(
    target: &str,
    client: &Client,
    slot: &str,
    workers: usize,
) -> Result<Option<Finding>, tokio_postgres::Error> {
    let permitted = client.query_one(PERMITTED, &[]).await?;
    if !permitted.try_get::<_, bool>(0)? {
        return Ok(None);
    }
    let row = client.query_one(PLACES, &[]).await?;
    let (setting, places): (String, i32) = (row.try_get(0)?, row.try_get(1)?);
    let (mut taken, mut ours) = (0, 0);
    if permitted.try_get::<_, bool>(1)? {
        let first = first_name(client, slot).await?;
        let names: Vec<_> = (0..workers).map(|number| name(&first, number)).collect();
        let row = client.query_one(TAKEN, &[&names]).await?;
        (taken, ours) = (row.try_get(0)?, row.try_get(1)?);
    }
    let needed = i32::try_from(workers).unwrap_or(i32::MAX) - ours;
    let missing = needed - (places - taken);
    if missing <= 0 {
        return Ok(None);
    }
    Ok(Some(Finding::error(
        format!(
            "target {target}: {needed} more replication origins are needed, one for each worker, \
             and {taken} of the server's {places} places are taken"
        ),
        format!(
            "ALTER SYSTEM SET {setting} = {}, and restart the target's server; or drop an origin that \
             nobody uses any more",
            places.saturating_add(missing)
        ),
    )))
}
