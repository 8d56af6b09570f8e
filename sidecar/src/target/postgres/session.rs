//! A session with the target: its settings, the right to replicate, the replication origin.

use tokio_postgres::Client;

use super::errors;
use super::sql::literal;
use crate::error::{Error, Kind, Result};
use crate::tls::PgConnect;

/// What every session runs with. Names that the target's version does not know are left out.
const SETTINGS: &[(&str, &str)] = &[
    // operators and types are qualified; nothing of the target's can get between
    ("search_path", "pg_catalog"),
    ("client_encoding", "UTF8"),
    // what values in text form are read with
    ("datestyle", "ISO, YMD"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("xmloption", "content"),
    // a long transaction of the source is one here too
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("transaction_timeout", "0"),
    // somebody else's lock shows as a retried error, not as a silent stop
    ("lock_timeout", "30s"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    // a row that a policy hides must not look like a row that is missing
    ("row_security", "off"),
    // rows are found by key, and only where an index has it: no size of a set, and no statistics, may
    // make that a read of the whole table (seen: 300,000 updates of as many rows took 2.3 s of the
    // backend's time instead of 5.6 s); a plan holds for all that follow; compiling it costs more than
    // it gives
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
];

/// What was committed must be on disk before the slot hears of it (invariant 4): a position that a crash
/// takes back would lie below what the slot can send again.
const DURABLE: &str = "\
SELECT pg_catalog.set_config('synchronous_commit', 'local', false)
 WHERE pg_catalog.current_setting('synchronous_commit') = 'off'";

/// Opens a session that may write as a replica: triggers and foreign keys do not fire.
pub async fn open(target: &str, connection: &PgConnect) -> Result<Client> {
    let connection = connection.clone().application_name("rsrepl");
    let client = connection
        .connect()
        .await
        .map_err(|error| Error::new(error.kind(), format!("target {target}")).because(error))?;
    let server = |what| move |error| errors::of_server(target, what, error);
    let recovery: bool = client
        .query_one("SELECT pg_catalog.pg_is_in_recovery()", &[])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(server("asking for its state"))?;
    if recovery {
        return Err(Error::new(
            Kind::Server,
            format!("target {target}: the server is in recovery, so it is read-only"),
        )
        .hint("promote it, or connect to its primary"));
    }
    for statement in [settings().as_str(), DURABLE] {
        client.batch_execute(statement).await.map_err(server("preparing the session"))?;
    }
    client
        .batch_execute("SET session_replication_role = replica")
        .await
        .map_err(|error| replica_role(target, connection.user(), error))?;
    Ok(client)
}

fn settings() -> String {
    let values: Vec<String> = SETTINGS
        .iter()
        .map(|(name, value)| format!("({}, {})", literal(name), literal(value)))
        .collect();
    format!(
        "SELECT pg_catalog.set_config(s.name, v.value, false) \
           FROM pg_catalog.pg_settings AS s JOIN (VALUES {}) AS v (name, value) \
             ON pg_catalog.lower(s.name) = v.name",
        values.join(", ")
    )
}

/// The statement that lets a role without superuser replicate; PostgreSQL 15 and later.
pub fn grant_replica_role(user: &str) -> String {
    format!("GRANT SET ON PARAMETER session_replication_role TO {}", super::sql::ident(user))
}

fn replica_role(target: &str, user: &str, error: tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(db) if db.code().code() == "42501" => Error::new(
            Kind::Setup,
            format!("target {target}: {user} may not write as a replica: {}", db.message()),
        )
        .hint(format!("as superuser: {}", grant_replica_role(user))),
        _ => errors::of_server(target, "setting session_replication_role", error),
    }
}

/// Name of the replication origin, as SQL: what a database that replicates further can tell our rows
/// by. Origins belong to the whole server, and one session at a time may use one: two targets may be
/// databases of one server, so the database's oid is in it.
fn origin_name(slot: &str) -> String {
    let name = literal(&format!("rsrepl_{slot}_"));
    format!(
        "{name} || (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"
    )
}

/// Sets up the replication origin for the session. `false`: not permitted, or not possible there; rows
/// then count as the target's own.
pub async fn set_up_origin(target: &str, client: &Client, slot: &str) -> Result<bool> {
    let name = origin_name(slot);
    let create = format!(
        "SELECT pg_catalog.pg_replication_origin_create({name}) \
          WHERE pg_catalog.pg_replication_origin_oid({name}) IS NULL"
    );
    let set_up = format!("SELECT pg_catalog.pg_replication_origin_session_setup({name})");
    for statement in [create, set_up] {
        let Err(error) = client.batch_execute(&statement).await else { continue };
        return match error.as_db_error().map(|db| (db.code().code().to_owned(), db)) {
            // no privilege; max_replication_slots = 0
            Some((code, db)) if code == "42501" || code == "55000" => {
                tracing::warn!(
                    target_name = target,
                    reason = db.message(),
                    "no replication origin: a database replicating from this target sees the rows as its own"
                );
                Ok(false)
            }
            _ => Err(errors::of_server(target, "setting up the replication origin", error)),
        };
    }
    Ok(true)
}
