//! A session with the target: its settings, and the right to replicate.

use rsrepl_wire::Lsn;
use tokio_postgres::Client;

use super::apply::Session;
use super::copies;
use super::errors;
use super::evolve::Follows;
use super::origin;
use super::positions::{self, Positions};
use super::records;
use super::sql::literal;
use super::{PostgresOptions, SourceIdentity};
use crate::error::{Error, Kind, Result};
use crate::schema::Table;
use crate::tls::PgConnect;

/// What every session runs with. Names that the target's version does not know are left out.
const SETTINGS: &[(&str, &str)] = &[
    // operators and types are qualified; nothing of the target's can get between
    ("search_path", "pg_catalog"),
    ("client_encoding", "UTF8"),
    // nobody reads notices
    ("client_min_messages", "warning"),
    // what values in text form are read with
    ("datestyle", "ISO, YMD"),
    ("intervalstyle", "postgres"),
    ("lc_monetary", "C"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("xmloption", "content"),
    // a column becomes one with a time zone without its rows coming anew where the source is in UTC alone
    ("timezone", "UTC"),
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

/// The position that a session begins with is on disk once this session has locked it and committed.
const DURABLE: &str = "\
SELECT pg_catalog.set_config('synchronous_commit', 'local', false)
 WHERE pg_catalog.current_setting('synchronous_commit') = 'off'";

/// What was committed must be on disk before the slot hears of it (invariant 4): a position that a crash
/// takes back would lie below what the slot can send again. Nobody has to wait for the disk for that, as
/// long as the disk of this server is all that the user wants to wait for.
const ASYNCHRONOUS: &str = "\
SELECT pg_catalog.set_config('synchronous_commit', 'off', false)
 WHERE pg_catalog.current_setting('synchronous_commit') = 'local'
    OR (pg_catalog.current_setting('synchronous_commit') = 'on'
        AND pg_catalog.current_setting('synchronous_standby_names') = '')";

/// From here on rows are written in transactions that are begun as such only; see `positions`.
const READ_ONLY: &str = "SET default_transaction_read_only = on";

/// Opens the sessions that write, and gives the stored position and the recorded tables.
pub async fn open_all(
    options: &PostgresOptions,
    source: &SourceIdentity,
) -> Result<(Vec<Session>, Lsn, Vec<Table>)> {
    let target = options.name.as_str();
    let mut first = open(target, &options.connection).await?;
    positions::create(target, options.connection.user(), &first).await?;
    records::create(target, options.connection.user(), &first).await?;
    let applied = positions::load(target, &mut first, source).await?;
    if applied == Lsn::INVALID {
        copies::refuse_unfinished(target, &first, &source.slot).await?;
    }
    let recorded = records::load(target, &first, &source.slot, applied).await?;
    let mut sessions = vec![to_write(options, first, source, 0).await?];
    for number in 1..options.workers {
        let client = open(target, &options.connection).await?;
        sessions.push(to_write(options, client, source, number).await?);
    }
    Ok((sessions, applied, recorded))
}

/// Makes session `number` ready to write.
async fn to_write(
    options: &PostgresOptions,
    client: Client,
    source: &SourceIdentity,
    number: usize,
) -> Result<Session> {
    let target = options.name.as_str();
    let server = |error| errors::of_server(target, "preparing the session", error);
    let origin = origin::set_up(target, &client, &source.slot, number).await?;
    let asynchronous = client.query_opt(ASYNCHRONOUS, &[]).await.map_err(server)?.is_some();
    let positions = Positions::prepare(target, &client, &source.slot, origin, asynchronous).await?;
    client.batch_execute(READ_ONLY).await.map_err(server)?;
    let follows = Follows { slot: source.slot.clone(), policy: options.schema_changes, main: None };
    Ok(Session::new(target, client, positions, options.missing_rows, follows))
}

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
    for statement in [settings(SETTINGS).as_str(), DURABLE] {
        client.batch_execute(statement).await.map_err(server("preparing the session"))?;
    }
    client
        .batch_execute("SET session_replication_role = replica")
        .await
        .map_err(|error| replica_role(target, connection.user(), error))?;
    Ok(client)
}

/// Sets these where the server knows them.
pub fn settings(settings: &[(&str, &str)]) -> String {
    let values: Vec<String> = settings
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
