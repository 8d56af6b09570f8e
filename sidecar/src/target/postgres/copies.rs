//! `rsrepl.copies` and `rsrepl.copied_chunks` on the target: what of an initial copy is there. A chunk's record is
//! written in the transaction of its rows, and the end of a copy in that of the position.
//!
//! Each `open` begins an *epoch*. Every transaction of a copy holds the row of its copy while it runs, and finds
//! it in its epoch, or fails: so `open` waits for what sessions of a predecessor still have under way, and none of
//! them writes behind it. A chunk of an older snapshot must not come behind the deletes that it has missed.

use rsrepl_wire::Lsn;
use tokio_postgres::types::{PgLsn, ToSql};
use tokio_postgres::{Client, Row, SimpleQueryMessage};

use super::errors;
use super::sql::{ident, literal};
use crate::copy::{ChunkRecord, Pages, Records, Snapshot, Written};
use crate::error::{Error, Kind, Result};

/// What the database's owner may have to run by hand. Numbers that are unsigned on the source are bigint;
/// `end_page` is NULL for the end of the table, wherever that is.
const CREATE: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS rsrepl.copies (slot text PRIMARY KEY, epoch bigint NOT NULL, \
     lsn pg_catalog.pg_lsn NOT NULL, snapshot_xmin bigint NOT NULL, started timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), \
     finished timestamptz)",
    "CREATE TABLE IF NOT EXISTS rsrepl.copied_chunks (slot text NOT NULL, source_table bigint NOT NULL, \
     shape text NOT NULL, leaf bigint NOT NULL, filenode bigint NOT NULL, first_page bigint NOT NULL, \
     end_page bigint, lsn pg_catalog.pg_lsn NOT NULL, snapshot_xmin bigint NOT NULL, rows bigint NOT NULL, \
     bytes bigint NOT NULL, written timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), \
     PRIMARY KEY (slot, leaf, first_page))",
];

const EXISTS: &str = "SELECT pg_catalog.to_regclass('rsrepl.copies') IS NOT NULL \
                         AND pg_catalog.to_regclass('rsrepl.copied_chunks') IS NOT NULL";

/// Of a copy that has written something.
const UNFINISHED: &str = "\
SELECT FROM rsrepl.copies WHERE slot = $1 AND finished IS NULL AND lsn <> '0/0'";

/// Begins an epoch; a copy that is finished begins anew.
const OPEN: &str = "\
INSERT INTO rsrepl.copies AS c (slot, epoch, lsn, snapshot_xmin) VALUES ($1, 1, '0/0', 0)
ON CONFLICT (slot) DO UPDATE SET epoch = c.epoch + 1, finished = NULL,
    lsn = CASE WHEN c.finished IS NULL THEN c.lsn ELSE EXCLUDED.lsn END,
    snapshot_xmin = CASE WHEN c.finished IS NULL THEN c.snapshot_xmin ELSE EXCLUDED.snapshot_xmin END,
    started = CASE WHEN c.finished IS NULL THEN c.started ELSE EXCLUDED.started END
RETURNING epoch, lsn, snapshot_xmin";

const CHUNKS: &str = "\
SELECT source_table, shape, leaf, filenode, first_page, end_page, lsn, snapshot_xmin
  FROM rsrepl.copied_chunks WHERE slot = $1";

const CAUGHT_UP: &str = "UPDATE rsrepl.copies SET lsn = $2, snapshot_xmin = $3 WHERE slot = $1";

/// That it is there already would be an error: another session has copied it.
const INSERT: &str = "\
INSERT INTO rsrepl.copied_chunks
    (slot, leaf, first_page, lsn, snapshot_xmin, rows, bytes, source_table, shape, filenode, end_page)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";

const UPDATE: &str = "\
UPDATE rsrepl.copied_chunks SET lsn = $4, snapshot_xmin = $5, rows = rows + $6, bytes = bytes + $7,
    written = pg_catalog.clock_timestamp()
 WHERE slot = $1 AND leaf = $2 AND first_page = $3 AND lsn < $4";

const FINISH: &str = "\
UPDATE rsrepl.copies SET finished = pg_catalog.clock_timestamp() WHERE slot = $1 AND lsn = $2";

const POSITION: &str = "\
UPDATE rsrepl.positions SET applied_lsn = $2, updated = pg_catalog.clock_timestamp()
 WHERE slot = $1 AND applied_lsn = '0/0'";

/// Creates the tables when they are not there; the schema is.
pub async fn create(target: &str, user: &str, client: &Client) -> Result<()> {
    let server = |error| errors::of_server(target, "looking for rsrepl.copies", error);
    let exists: bool =
        client.query_one(EXISTS, &[]).await.and_then(|row| row.try_get(0)).map_err(server)?;
    if exists {
        return Ok(());
    }
    let Err(refused) = client.batch_execute(&CREATE.join("; ")).await else { return Ok(()) };
    match refused.as_db_error().map(|db| db.code().code()) {
        // another sidecar was faster
        Some("42P07" | "23505") => Ok(()),
        Some("42501") => {
            let what = format!("target {target}: {user} may not create rsrepl.copies");
            Err(Error::new(Kind::Setup, what)
                .hint(format!("as the database's owner: {}", create_for(user))))
        }
        _ => Err(errors::of_server(target, "creating rsrepl.copies", refused)),
    }
}

/// The statements with which the database's owner makes the tables for `user`.
pub fn create_for(user: &str) -> String {
    format!(
        "{}; GRANT SELECT, INSERT, UPDATE, DELETE ON rsrepl.copies, rsrepl.copied_chunks TO {}",
        CREATE.join("; "),
        ident(user)
    )
}

/// The stream must not begin on what is there in part.
pub async fn refuse_unfinished(target: &str, client: &Client, slot: &str) -> Result<()> {
    let server = |error| errors::of_server(target, "reading rsrepl.copies", error);
    let exists: bool =
        client.query_one(EXISTS, &[]).await.and_then(|row| row.try_get(0)).map_err(server)?;
    if !exists || client.query_opt(UNFINISHED, &[&slot]).await.map_err(server)?.is_none() {
        return Ok(());
    }
    let what = format!("target {target}: its initial copy is not finished");
    Err(Error::new(Kind::Setup, what).hint(format!(
        "restart the sidecar with copy.data = true: it goes on; or, to give up the copy, load the tables by hand \
         and DELETE FROM rsrepl.copies WHERE slot = {0}; DELETE FROM rsrepl.copied_chunks WHERE slot = {0}",
        literal(slot)
    )))
}

/// Begins an epoch, and gives what there is of an unfinished copy.
pub async fn open(target: &str, client: &Client, slot: &str) -> Result<(i64, Option<Records>)> {
    let server = |error| errors::of_server(target, "opening rsrepl.copies", error);
    let copy = client.query_one(OPEN, &[&slot]).await.map_err(server)?;
    let epoch: i64 = copy.try_get(0).map_err(server)?;
    let unreadable = || {
        Error::new(Kind::Server, format!("target {target}: rsrepl.copied_chunks cannot be read"))
    };
    let caught_up = snapshot(&copy, 1).ok_or_else(unreadable)?;
    if caught_up.lsn == Lsn::INVALID {
        forget_chunks(client, slot).await.map_err(server)?;
        return Ok((epoch, None));
    }
    let rows = client.query(CHUNKS, &[&slot]).await.map_err(server)?;
    let chunks: Option<Vec<ChunkRecord>> = rows.iter().map(chunk).collect();
    let chunks = chunks.ok_or_else(unreadable)?;
    Ok((epoch, Some(Records { caught_up, chunks })))
}

/// Begins a transaction of this epoch.
pub async fn begin(target: &str, client: &Client, slot: &str, epoch: i64) -> Result<()> {
    let begin = format!(
        "BEGIN READ WRITE; SELECT epoch FROM rsrepl.copies WHERE slot = {} FOR SHARE",
        literal(slot)
    );
    let server = |error| errors::of_server(target, "beginning a transaction", error);
    let messages = client.simple_query(&begin).await.map_err(server)?;
    let found = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse::<i64>().ok(),
        _ => None,
    });
    if found == Some(epoch) {
        return Ok(());
    }
    let what = format!("target {target}: another sidecar copies to it");
    Err(Error::new(Kind::Server, what).hint("run one sidecar per slot"))
}

/// Something of a table was copied.
pub async fn has_chunks(
    client: &Client,
    slot: &str,
    table: u32,
) -> Result<bool, tokio_postgres::Error> {
    let sql =
        "SELECT EXISTS (SELECT FROM rsrepl.copied_chunks WHERE slot = $1 AND source_table = $2)";
    client.query_one(sql, &[&slot, &i64::from(table)]).await?.try_get(0)
}

async fn forget_chunks(client: &Client, slot: &str) -> Result<(), tokio_postgres::Error> {
    let sql = "DELETE FROM rsrepl.copied_chunks WHERE slot = $1";
    client.execute(sql, &[&slot]).await.map(drop)
}

fn snapshot(row: &Row, at: usize) -> Option<Snapshot> {
    let lsn: PgLsn = row.try_get(at).ok()?;
    let xmin: i64 = row.try_get(at + 1).ok()?;
    Some(Snapshot { lsn: Lsn(lsn.into()), xmin: xmin.cast_unsigned() })
}

fn chunk(row: &Row) -> Option<ChunkRecord> {
    let number = |at: usize| u32::try_from(row.try_get::<_, i64>(at).ok()?).ok();
    let end: Option<i64> = row.try_get(5).ok()?;
    Some(ChunkRecord {
        table: number(0)?,
        shape: row.try_get(1).ok()?,
        leaf: number(2)?,
        filenode: number(3)?,
        pages: Pages { first: number(4)?, end: end.map(u32::try_from).transpose().ok()? },
        snapshot: snapshot(row, 6)?,
    })
}

pub async fn caught_up(
    client: &Client,
    slot: &str,
    snapshot: Snapshot,
) -> Result<(), tokio_postgres::Error> {
    let lsn = PgLsn::from(snapshot.lsn.0);
    client.execute(CAUGHT_UP, &[&slot, &lsn, &snapshot.xmin.cast_signed()]).await.map(drop)
}

/// Within the transaction of the rows. `again`: in the place of the record that it has.
pub async fn write(
    client: &Client,
    slot: &str,
    record: &ChunkRecord,
    written: Written,
    again: bool,
) -> Result<bool, tokio_postgres::Error> {
    let ChunkRecord { table, shape, leaf, filenode, pages, snapshot } = record;
    let [table, leaf, filenode, first] = [*table, *leaf, *filenode, pages.first].map(i64::from);
    let end = pages.end.map(i64::from);
    let (lsn, xmin) = (PgLsn::from(snapshot.lsn.0), snapshot.xmin.cast_signed());
    let [rows, bytes] = [written.rows, written.bytes].map(u64::cast_signed);
    let changed = match again {
        true => client.execute(UPDATE, &[&slot, &leaf, &first, &lsn, &xmin, &rows, &bytes]).await?,
        false => {
            let identity: [&(dyn ToSql + Sync); 7] =
                [&slot, &leaf, &first, &lsn, &xmin, &rows, &bytes];
            let rest: [&(dyn ToSql + Sync); 4] = [&table, shape, &filenode, &end];
            client.execute(INSERT, &[&identity[..], &rest[..]].concat()).await?
        }
    };
    Ok(changed == 1)
}

/// Within the transaction that empties the table.
pub async fn forget(client: &Client, slot: &str, table: u32) -> Result<(), tokio_postgres::Error> {
    let sql = "DELETE FROM rsrepl.copied_chunks WHERE slot = $1 AND source_table = $2";
    client.execute(sql, &[&slot, &i64::from(table)]).await.map(drop)
}

/// Within one transaction; whether the copy is of this position, and there was none before.
pub async fn finish(
    client: &Client,
    slot: &str,
    position: Lsn,
) -> Result<bool, tokio_postgres::Error> {
    let position = PgLsn::from(position.0);
    let finished = client.execute(FINISH, &[&slot, &position]).await? == 1;
    forget_chunks(client, slot).await?;
    Ok(finished && client.execute(POSITION, &[&slot, &position]).await? == 1)
}
