//! `rsrepl.positions` on the target: how far each stream is applied.
//!
//! ```text
//! BEGIN
//!   UPDATE rsrepl.positions …               from where I think it is to the new position, or an error
//!   rows
//! COMMIT                                    all or nothing: exactly once
//! ```
//!
//! The compare-and-set is what keeps two sidecars of one slot, and two sessions of one sidecar, from
//! applying the same transactions: the second waits for the first's row lock, then finds another position
//! than it has, and nothing of it is committed. At the beginning it lets a second sidecar find that out
//! before it stumbles over the rows of the first. It comes behind the rows instead when others may
//! commit meanwhile (a batch written beside others), or when the new position is not known yet (the
//! first part of a large transaction, which locks the row and looks at it).
//!
//! What belongs together is sent without waiting for each answer, and what is the same each time is
//! prepared (`PREPARE`, and `EXECUTE` within a text of several statements): small transactions cost the
//! server more for messages and plans than for rows. That is safe: nothing of a text is run behind its
//! first error, COMMIT after an error rolls back, and a session is read-only outside of a transaction
//! that was begun here, so that no row is written when BEGIN itself has failed.

use std::pin::pin;

use futures_util::TryStreamExt;
use rsrepl_wire::{Lsn, Relation};
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row, SimpleQueryMessage};

use super::durability::Wal;
use super::errors;
use super::flight::Sent;
use super::sql::{ident, literal};
use crate::batch::Position;
use crate::error::{Error, Kind, Result};
use crate::target::SourceIdentity;

/// What the position's owner may have to run by hand.
pub const CREATE: &[&str] = &[
    "CREATE SCHEMA IF NOT EXISTS rsrepl",
    "CREATE TABLE rsrepl.positions (\n    \
       slot text PRIMARY KEY,\n    \
       system_id bigint NOT NULL,\n    \
       timeline bigint NOT NULL,\n    \
       database text NOT NULL,\n    \
       applied_lsn pg_catalog.pg_lsn NOT NULL,\n    \
       commit_time timestamptz,\n    \
       xid bigint,\n    \
       updated timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()\n)",
];

const EXISTS: &str = "SELECT pg_catalog.to_regclass('rsrepl.positions') IS NOT NULL";

const INSERT: &str = "\
INSERT INTO rsrepl.positions (slot, system_id, timeline, database, applied_lsn)
VALUES ($1, $2, $3, $4, '0/0') ON CONFLICT (slot) DO NOTHING";

const SELECT: &str = "\
SELECT system_id, timeline, database, applied_lsn FROM rsrepl.positions WHERE slot = $1 FOR UPDATE";

const LOOK_UP: &str =
    "SELECT system_id, timeline, database, applied_lsn FROM rsrepl.positions WHERE slot = $1";

const SET_TIMELINE: &str = "UPDATE rsrepl.positions SET timeline = $2 WHERE slot = $1";

/// Exact until the year 2285: it goes through a float8.
const COMMIT_TIME: &str = "(timestamptz '2000-01-01 00:00:00+00' + $2 * interval '1 microsecond')";

/// SQLSTATE of a division by zero.
const NOT_MOVED: &str = "22012";

const PREPARE_LOOK: &str = "PREPARE rsrepl_look AS \
    SELECT pg_catalog.pg_current_wal_insert_lsn(), pg_catalog.pg_current_wal_flush_lsn()";

const LOOK: &str = "EXECUTE rsrepl_look";

const WAIT_FOR_DISK: &str = "SET LOCAL synchronous_commit = local";

/// How long a batch written beside others waits for a lock: one of them may have it, and waits itself.
const LOCK_TIMEOUT_BESIDE: &str = "1s";

/// The statements of one session, for the position of one slot.
pub struct Positions {
    target: String,
    slot: String,
    /// Commits do not wait for the disk.
    asynchronous: bool,
    begin_locked: String,
    begin_beside: String,
    flush: String,
}

/// How a transaction begins.
#[derive(Clone, Copy, Debug)]
pub enum Begin {
    /// Alone, moving the position.
    Moved { from: Lsn, to: Position },
    /// Alone: nobody else can have begun from here.
    Locked { at: Lsn },
    /// Beside others: the position is looked at when it is moved.
    Beside,
}

/// The transaction that [`Positions::begin`] began.
pub struct Begun<'a> {
    positions: &'a Positions,
    begin: Begin,
    answer: Sent<'a, Result<Vec<SimpleQueryMessage>, tokio_postgres::Error>>,
}

/// Whether this is one of our own tables: a source that is a target itself has them too.
pub fn is_ours(relation: &Relation) -> bool {
    let ours = [
        "positions",
        "tables",
        "copies",
        "copied_chunks",
        "to_create",
        "syncs",
        "complete",
        "control",
    ];
    relation.schema == "rsrepl" && ours.contains(&relation.name.as_str())
}

/// Creates the table when it is not there.
pub async fn create(target: &str, user: &str, client: &Client) -> Result<()> {
    let server = |error| errors::of_server(target, "looking for rsrepl.positions", error);
    let exists: bool =
        client.query_one(EXISTS, &[]).await.and_then(|row| row.try_get(0)).map_err(server)?;
    if exists {
        return Ok(());
    }
    let refused = match client.batch_execute(&CREATE.join(";")).await {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    match refused.as_db_error().map(|db| db.code().code()) {
        // another sidecar was faster
        Some("42P07" | "42P06" | "23505") => Ok(()),
        Some("42501") => Err(Error::new(
            Kind::Setup,
            format!("target {target}: {user} may not create rsrepl.positions"),
        )
        .hint(format!("as the database's owner: {}", create_for(user)))),
        _ => Err(errors::of_server(target, "creating rsrepl.positions", refused)),
    }
}

/// The statements with which the database's owner makes the table for `user`.
pub fn create_for(user: &str) -> String {
    let user = ident(user);
    format!(
        "{}; GRANT USAGE ON SCHEMA rsrepl TO {user}; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON rsrepl.positions TO {user}",
        CREATE.join("; ").replace("\n    ", " ").replace('\n', "")
    )
}

/// Reads the position of `source` after checking that it is this source's (invariant 10). Waits for a
/// predecessor's open transaction.
pub async fn load(target: &str, client: &mut Client, source: &SourceIdentity) -> Result<Lsn> {
    let server = |error| errors::of_server(target, "reading rsrepl.positions", error);
    let transaction = client.transaction().await.map_err(server)?;
    let system_id = system_id_for_sql(source);
    let timeline = i64::from(source.timeline);
    transaction
        .execute(INSERT, &[&source.slot, &system_id, &timeline, &source.database])
        .await
        .map_err(server)?;
    let row = transaction.query_one(SELECT, &[&source.slot]).await.map_err(server)?;
    let stored = Stored::read(&row).map_err(server)?;
    stored.check(target, source)?;
    if stored.timeline != timeline {
        transaction.execute(SET_TIMELINE, &[&source.slot, &timeline]).await.map_err(server)?;
    }
    transaction.commit().await.map_err(server)?;
    Ok(stored.applied)
}

/// The position of `source`, for who only looks; `None`: there is none. That of another is refused, too.
pub(crate) async fn look_up(
    target: &str,
    client: &Client,
    source: &SourceIdentity,
) -> Result<Option<Lsn>> {
    let server = |error| errors::of_server(target, "reading rsrepl.positions", error);
    let Some(row) = client.query_opt(LOOK_UP, &[&source.slot]).await.map_err(server)? else {
        return Ok(None);
    };
    let stored = Stored::read(&row).map_err(server)?;
    stored.check(target, source)?;
    Ok(Some(stored.applied))
}

/// `pg_control_system()` shows the identifier as a bigint, and so does the table.
fn system_id_for_sql(source: &SourceIdentity) -> i64 {
    source.system_id.cast_signed()
}

struct Stored {
    system_id: i64,
    timeline: i64,
    database: String,
    applied: Lsn,
}

impl Stored {
    fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let (system_id, timeline) = (row.try_get(0)?, row.try_get(1)?);
        let applied: PgLsn = row.try_get(3)?;
        Ok(Stored { system_id, timeline, database: row.try_get(2)?, applied: Lsn(applied.into()) })
    }

    fn check(&self, target: &str, source: &SourceIdentity) -> Result<()> {
        let slot = &source.slot;
        let start_over = format!(
            "if the target is to follow this source from now on: make its tables equal to the source's, \
             DELETE FROM rsrepl.positions WHERE slot = {}, and start again; \
             or give this source's slot another name",
            literal(slot)
        );
        if self.system_id != system_id_for_sql(source) || self.database != source.database {
            return Err(Error::new(
                Kind::Identity,
                format!(
                    "target {target}: the position of slot {slot} belongs to database {} of system {}, \
                     and the source is database {} of system {}",
                    self.database,
                    self.system_id.cast_unsigned(),
                    source.database,
                    source.system_id
                ),
            )
            .hint(start_over));
        }
        // the column is wider than a timeline is
        let timeline = u32::try_from(self.timeline).unwrap_or(u32::MAX);
        source.has(timeline, self.applied).map_err(|why| {
            let text = format!("target {target}: the position of slot {slot} {why}");
            Error::new(Kind::Identity, text)
                .hint(format!("connect to the server that went on from there; {start_over}"))
        })
    }
}

impl Positions {
    /// Prepares the statements of a session; `origin`: it has a replication origin; `asynchronous`: its
    /// commits do not wait for the disk.
    pub async fn prepare(
        target: &str,
        client: &Client,
        slot: &str,
        origin: bool,
        asynchronous: bool,
    ) -> Result<Self> {
        let server = |error| errors::of_server(target, "preparing to write positions", error);
        let prepare = format!("{}; {PREPARE_LOOK}", prepare_move(slot, origin));
        client.batch_execute(&prepare).await.map_err(server)?;
        let of_slot = format!("slot = {}", literal(slot));
        Ok(Positions {
            target: target.to_owned(),
            slot: slot.to_owned(),
            asynchronous,
            begin_locked: format!(
                "BEGIN READ WRITE; \
                 SELECT applied_lsn FROM rsrepl.positions WHERE {of_slot} FOR UPDATE"
            ),
            begin_beside: format!(
                "BEGIN READ WRITE; SET LOCAL lock_timeout = '{LOCK_TIMEOUT_BESIDE}'"
            ),
            flush: format!(
                "BEGIN READ WRITE; {WAIT_FOR_DISK}; UPDATE rsrepl.positions \
                 SET updated = pg_catalog.clock_timestamp() WHERE {of_slot}; COMMIT"
            ),
        })
    }

    /// Sends what begins a transaction.
    pub async fn begin<'a>(&'a self, client: &'a Client, begin: Begin) -> Begun<'a> {
        let text = match begin {
            Begin::Moved { from, to } => format!("BEGIN READ WRITE; {}", execute_move(from, to)),
            Begin::Locked { .. } => self.begin_locked.clone(),
            Begin::Beside => self.begin_beside.clone(),
        };
        let answer = Sent::new(async move { client.simple_query(&text).await }).await;
        Begun { positions: self, begin, answer }
    }

    /// Commits the open transaction, after moving the position within it, unless that is done. `durable`:
    /// comes back when it is on disk; else when others see it.
    pub async fn commit(
        &self,
        client: &Client,
        to_move: Option<(Lsn, Position)>,
        durable: bool,
    ) -> Result<Wal> {
        // the one or the other fails in a transaction that has failed, and nothing of the text is run behind
        // it: there, COMMIT would be a ROLLBACK without an error
        let first = match to_move {
            Some((from, to)) => execute_move(from, to),
            None => "SELECT 1".to_owned(),
        };
        let looks = self.asynchronous && !durable;
        let text = match (self.asynchronous, durable) {
            (true, false) => format!("{first}; COMMIT; {LOOK}"),
            (true, true) => format!("{first}; {WAIT_FOR_DISK}; COMMIT"),
            (false, _) => format!("{first}; COMMIT"),
        };
        let (messages, error) = answers(client, &text).await;
        match (error, to_move) {
            // what is committed is committed: a look that says nothing is no error of the batch
            (None, _) if looks => Ok(self.wal(&messages).unwrap_or(Wal::UNKNOWN)),
            (None, _) => Ok(Wal::FLUSHED),
            // what is committed is committed; a broken connection shows at what comes next
            (Some(error), _) if looks && ended(&messages) == 2 => {
                tracing::debug!(target_name = self.target, %error, "a look behind a COMMIT failed");
                Ok(Wal::UNKNOWN)
            }
            (Some(error), Some((from, _))) if ended(&messages) == 0 => {
                Err(self.not_moved(from, "committing", error))
            }
            (Some(error), _) => Err(errors::of_server(&self.target, "committing", error)),
        }
    }

    /// How far the WAL is written and flushed.
    pub async fn look(&self, client: &Client) -> Result<Wal> {
        let server = |error| errors::of_server(&self.target, "looking at its WAL", error);
        let messages = client.simple_query(LOOK).await.map_err(server)?;
        self.wal(&messages)
    }

    /// Has everything flushed that was committed before. Not while a transaction is open.
    pub async fn flush(&self, client: &Client) -> Result<Wal> {
        let server = |error| errors::of_server(&self.target, "flushing its WAL", error);
        client.batch_execute(&self.flush).await.map_err(server)?;
        Ok(Wal::FLUSHED)
    }

    fn wal(&self, messages: &[SimpleQueryMessage]) -> Result<Wal> {
        let wal = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some(Wal { end: row.get(0)?.parse().ok()?, flushed: row.get(1)?.parse().ok()? })
            }
            _ => None,
        });
        wal.ok_or_else(|| {
            let message = format!("target {}: its WAL positions cannot be read", self.target);
            Error::new(Kind::Server, message)
        })
    }

    /// The error of a text that was to move the position.
    fn not_moved(&self, from: Lsn, what: &str, error: tokio_postgres::Error) -> Error {
        match error.code() {
            Some(code) if code.code() == NOT_MOVED => self.not_at(from, "elsewhere"),
            _ => errors::of_server(&self.target, what, error),
        }
    }

    fn not_at(&self, expected: Lsn, found: &str) -> Error {
        Error::new(
            Kind::Server,
            format!(
                "target {}: the position of slot {} is {found} and should be {expected}: \
                 another sidecar writes here",
                self.target, self.slot
            ),
        )
        .hint("run one sidecar per slot")
    }
}

impl Begun<'_> {
    pub async fn answer(self) -> Result<()> {
        let Begun { positions, begin, answer } = self;
        let messages = answer.answer().await.map_err(|error| match begin {
            Begin::Moved { from, .. } => positions.not_moved(from, "moving the position", error),
            _ => errors::of_server(&positions.target, "locking rsrepl.positions", error),
        })?;
        let Begin::Locked { at } = begin else { return Ok(()) };
        let stored = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse::<Lsn>().ok(),
            _ => None,
        });
        if stored == Some(at) {
            return Ok(());
        }
        let found = stored.map_or("gone".to_owned(), |lsn| format!("{lsn}"));
        Err(positions.not_at(at, &found))
    }
}

/// What a text of several statements gave, up to the first error.
async fn answers(
    client: &Client,
    text: &str,
) -> (Vec<SimpleQueryMessage>, Option<tokio_postgres::Error>) {
    let mut messages = Vec::new();
    let mut stream = match client.simple_query_raw(text).await {
        Ok(stream) => pin!(stream),
        Err(error) => return (messages, Some(error)),
    };
    loop {
        match stream.try_next().await {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return (messages, None),
            Err(error) => return (messages, Some(error)),
        }
    }
}

/// Statements that have come to their end.
fn ended(messages: &[SimpleQueryMessage]) -> usize {
    let is_end =
        |message: &&SimpleQueryMessage| matches!(message, SimpleQueryMessage::CommandComplete(_));
    messages.iter().filter(is_end).count()
}

/// Takes the new position, its commit time in microseconds since 2000-01-01, its xid, and the position
/// that it is moved from. Without that one it divides by zero: an error, so that a COMMIT behind it
/// cannot succeed. With an `origin` the commit record names the transaction of the source that it ends
/// with; that function is strict: a position that no transaction ends at leaves the origin as it is.
fn prepare_move(slot: &str, origin: bool) -> String {
    let returning = match origin {
        true => format!("pg_catalog.pg_replication_origin_xact_setup($1, {COMMIT_TIME})"),
        false => "slot".to_owned(),
    };
    format!(
        "PREPARE rsrepl_move (pg_catalog.pg_lsn, bigint, bigint, pg_catalog.pg_lsn) AS \
         WITH moved AS (\
         UPDATE rsrepl.positions \
            SET applied_lsn = $1, commit_time = COALESCE({COMMIT_TIME}, commit_time), \
                xid = COALESCE($3, xid), updated = pg_catalog.clock_timestamp() \
          WHERE slot = {} AND applied_lsn = $4 RETURNING {returning}) \
         SELECT 1 / pg_catalog.count(*) FROM moved",
        literal(slot)
    )
}

/// See [`prepare_move`]. Without an xid the position is one of progress alone, between transactions.
fn execute_move(from: Lsn, to: Position) -> String {
    match to.xid {
        0 => format!("EXECUTE rsrepl_move('{}', NULL, NULL, '{from}')", to.lsn),
        xid => format!("EXECUTE rsrepl_move('{}', {}, {xid}, '{from}')", to.lsn, to.commit_time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Ancestor;

    #[test]
    fn only_the_source_that_wrote_a_position_may_use_it() {
        let source = SourceIdentity {
            system_id: 7_000_000_000_000_000_001,
            timeline: 2,
            database: "shop".into(),
            slot: "s".into(),
            ancestors: Some(vec![Ancestor { timeline: 1, left_at: Lsn(100) }]),
        };
        let stored = |system_id, timeline, database: &str| Stored {
            system_id,
            timeline,
            database: database.into(),
            applied: Lsn(100),
        };
        let id = 7_000_000_000_000_000_001;
        assert!(stored(id, 2, "shop").check("t", &source).is_ok());
        assert!(stored(id, 1, "shop").check("t", &source).is_ok(), "promotion raises it");
        let lost = Stored { applied: Lsn(101), ..stored(id, 1, "shop") };
        for wrong in
            [stored(id, 3, "shop"), stored(id, 2, "other"), stored(id + 1, 2, "shop"), lost]
        {
            let error = wrong.check("t", &source).unwrap_err();
            assert_eq!(error.kind(), Kind::Identity);
            assert!(error.to_string().contains("DELETE FROM rsrepl.positions"), "{error}");
        }
    }
}
