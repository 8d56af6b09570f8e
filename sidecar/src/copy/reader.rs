//! Sessions that read the source under a snapshot: the catalogs, and the rows of chunks.

use std::pin::pin;

use bytes::BytesMut;
use futures_util::{StreamExt, future};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Column, SimpleQueryMessage};

use super::{Attribute, Chunk, ColumnForm, Format, Held, Leaf, PIECE, Room, RowsSender};
use crate::config::Source;
use crate::error::{Error, Kind, Result};
use crate::quote::{identifier, literal};

/// What every session runs with. Names that the source's version does not know are left out.
const SETTINGS: &[(&str, &str)] = &[
    // names in values and conditions are qualified
    ("search_path", ""),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "warning"),
    // what values in text form are written with; targets read them with the same
    ("datestyle", "ISO, YMD"),
    ("intervalstyle", "postgres"),
    ("lc_monetary", "C"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("xmloption", "content"),
    ("timezone", "UTC"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("transaction_timeout", "0"),
    // somebody alters the table: that shows as an error that is tried again
    ("lock_timeout", "60s"),
    // rows that a policy hides must not be left out silently
    ("row_security", "off"),
    // a chunk is a range of pages, whatever the statistics say of it, and what indexes there are
    ("enable_seqscan", "off"),
    ("enable_indexscan", "off"),
    ("enable_indexonlyscan", "off"),
    ("enable_bitmapscan", "off"),
    // rows come in the same order each time
    ("synchronize_seqscans", "off"),
    ("max_parallel_workers_per_gather", "0"),
    ("jit", "off"),
];

/// Why a chunk was not read.
pub(super) enum Unread {
    /// Its table was truncated, rewritten, renamed or dropped: another snapshot is needed to know it.
    Moved(Error),
    Failed(Error),
}

/// A session with the source.
pub(super) struct Reader {
    client: Client,
}

pub(super) fn failed(what: &str, error: tokio_postgres::Error) -> Error {
    let Some(db) = error.as_db_error() else {
        return Error::new(Kind::Connection, format!("the source: {what}")).because(error);
    };
    let code = db.code().code();
    let text = format!("the source: {what}: {} (SQLSTATE {code})", db.message());
    match code {
        "42501" => Error::new(Kind::Setup, text)
            .hint("grant SELECT on what is published to the sidecar's role"),
        _ if code.starts_with("08") || code.starts_with("57P") => {
            Error::new(Kind::Connection, text)
        }
        _ => Error::new(Kind::Server, text),
    }
}

impl Reader {
    pub(super) async fn connect(source: &Source) -> Result<Reader> {
        let client = source.connection.clone().application_name("rsrepl copy").connect().await?;
        let values: Vec<String> = SETTINGS
            .iter()
            .map(|(name, value)| format!("({}, {})", literal(name), literal(value)))
            .collect();
        let settings = format!(
            "SELECT pg_catalog.set_config(s.name, v.value, false) \
               FROM pg_catalog.pg_settings AS s JOIN (VALUES {}) AS v (name, value) \
                 ON pg_catalog.lower(s.name) = v.name",
            values.join(", ")
        );
        let set = client.batch_execute(&settings).await;
        set.map_err(|error| failed("preparing a session", error))?;
        Ok(Reader { client })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Begins a transaction that sees what the snapshot does.
    pub(super) async fn begin(&self, snapshot: &str) -> Result<()> {
        let begun = self.client.batch_execute(&begin(snapshot)).await;
        begun.map_err(|error| failed("beginning under the exported snapshot", error))
    }

    pub(super) async fn end(&self) -> Result<()> {
        let ended = self.client.batch_execute("COMMIT").await;
        ended.map_err(|error| failed("ending a transaction", error))
    }

    /// Reads a chunk and gives it to all `sinks`, as long as one of them wants it. After an error the session
    /// can only be dropped.
    pub(super) async fn read(
        &self,
        snapshot: &str,
        chunk: &Chunk,
        room: &Room,
        mut sinks: Vec<RowsSender>,
    ) -> Result<(), Unread> {
        self.lock(snapshot, &chunk.leaf).await?;
        let what = format!("reading {}", chunk.table.relation);
        let server = |error| Unread::Failed(failed(&what, error));
        let rows = self.client.copy_out(&query(chunk)).await.map_err(server)?;
        let mut rows = pin!(rows);
        let mut piece = BytesMut::with_capacity(PIECE);
        while let Some(row) = rows.next().await {
            let row = row.map_err(server)?;
            if piece.len() + row.len() > PIECE && !piece.is_empty() {
                let full = room.take(piece.split().freeze()).await.map_err(Unread::Failed)?;
                give(&mut sinks, full).await;
                if sinks.is_empty() {
                    let message = format!("{what}: no target takes it any more");
                    return Err(Unread::Failed(Error::new(Kind::Connection, message)));
                }
                piece.reserve(PIECE);
            }
            if row.len() > PIECE {
                // not copied: it may be very large
                let large = room.take(row).await.map_err(Unread::Failed)?;
                give(&mut sinks, large).await;
                continue;
            }
            piece.extend_from_slice(&row);
        }
        if !piece.is_empty() {
            let last = room.take(piece.freeze()).await.map_err(Unread::Failed)?;
            give(&mut sinks, last).await;
        }
        self.end().await.map_err(Unread::Failed)?;
        for sink in sinks {
            sink.end().await;
        }
        Ok(())
    }

    /// Row addresses and columns are those that the chunk was planned with as long as this lock is held, and the
    /// file and the columns are the same: only now, and not for longer than it takes to read a chunk.
    async fn lock(&self, snapshot: &str, leaf: &Leaf) -> Result<(), Unread> {
        let name = format!("{}.{}", identifier(&leaf.schema), identifier(&leaf.name));
        let file = format!(
            "{}; LOCK TABLE ONLY {name} IN ACCESS SHARE MODE; \
             SELECT pg_catalog.pg_relation_filenode(oid), oid FROM (VALUES ({}::pg_catalog.regclass)) \
               AS t (oid)",
            begin(snapshot),
            literal(&name)
        );
        let moved = |why: &str| {
            let what = format!("{name} {why} while it was copied");
            Unread::Moved(Error::new(Kind::Server, what))
        };
        let unread = |error: tokio_postgres::Error| match error.code().map(SqlState::code) {
            // no such table, schema, column or type
            Some("42P01" | "3F000" | "42703" | "42704") => moved("was dropped, renamed or altered"),
            _ => Unread::Failed(failed(&format!("locking {name}"), error)),
        };
        let messages = self.client.simple_query(&file).await.map_err(unread)?;
        let found = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0)?.parse::<u32>().ok()?),
            _ => None,
        });
        if found != Some(leaf.filenode) {
            return Err(moved("was truncated or rewritten"));
        }
        // a query of the catalogs would see them as they were; what a statement means goes by how they are
        let names: Vec<String> = leaf.attributes.iter().map(|a| identifier(&a.name)).collect();
        let columns = format!("SELECT {} FROM ONLY {name}", names.join(", "));
        let statement = match self.client.prepare(&columns).await {
            // a type that the snapshot does not have yet
            Err(error) if error.as_db_error().is_none() && !self.client.is_closed() => {
                return Err(moved("was altered"));
            }
            prepared => prepared.map_err(unread)?,
        };
        let same = |(column, attribute): (&Column, &Attribute)| {
            column.column_id() == Some(attribute.number)
                && column.type_().oid() == attribute.type_oid
        };
        match statement.columns().iter().zip(&leaf.attributes).all(same) {
            true => Ok(()),
            false => Err(moved("was altered")),
        }
    }
}

fn begin(snapshot: &str) -> String {
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
        literal(snapshot)
    )
}

/// Gives a piece to all who want it; who does not is none of the sinks any more.
async fn give(sinks: &mut Vec<RowsSender>, piece: Held) {
    let sent = future::join_all(sinks.iter().map(|sink| sink.send(piece.clone()))).await;
    let mut sent = sent.into_iter();
    sinks.retain(|_| sent.next() == Some(true));
}

/// The COPY of a chunk.
fn query(chunk: &Chunk) -> String {
    let columns = chunk.table.relation.columns.iter().zip(&chunk.form.columns);
    let columns: Vec<String> = columns
        .filter_map(|(column, form)| {
            let name = identifier(&column.name);
            match form {
                ColumnForm::Omit => None,
                ColumnForm::Native => Some(name),
                // by the output function: a cast may be a function of its own, and char(n) loses its blanks
                ColumnForm::Text => Some(format!(
                    "CASE WHEN {name} IS NOT DISTINCT FROM NULL THEN NULL \
                     ELSE pg_catalog.format('%s', {name}) END"
                )),
            }
        })
        .collect();
    let mut conditions = vec![chunk.pages.condition()];
    conditions.extend(chunk.table.filter.as_ref().map(|filter| format!("({filter})")));
    conditions.extend(chunk.since.filter(|since| !since.is_begun()).map(|since| {
        // numbers of transactions wrap around; a frozen row may look young for it, and is only looked at again
        let xmin = since.xmin & u64::from(u32::MAX);
        format!(
            "pg_catalog.age(xmin) OPERATOR(pg_catalog.<=) pg_catalog.age('{xmin}'::pg_catalog.xid)"
        )
    }));
    let format = match chunk.form.format {
        Format::Binary => "binary",
        Format::Text => "text",
    };
    format!(
        "COPY (SELECT {} FROM ONLY {}.{} WHERE {}) TO STDOUT (FORMAT {format})",
        columns.join(", "),
        identifier(&chunk.leaf.schema),
        identifier(&chunk.leaf.name),
        conditions.join(" AND ")
    )
}
