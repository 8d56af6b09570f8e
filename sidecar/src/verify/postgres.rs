//! A table of a PostgreSQL server, source or target.

use rsrepl_wire::Lsn;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row as PgRow};

use super::arriving::LATELY_MAX;
use super::form::{Form, hash_in_postgres};
use super::key::{self, Key, KeyColumn, Range};
use super::view::{Found, Part, Row, Sum};
use crate::error::{Error, Kind, Result};
use crate::quote::literal;
use crate::target::SourceIdentity;
use crate::tls::PgConnect;

/// What every session runs with: values are shown in one way, and a wrong estimate must not make a range a
/// read of the whole table. A policy that hides rows is an error.
const SETTINGS: &[(&str, &str)] = &[
    ("client_encoding", "UTF8"),
    ("client_min_messages", "warning"),
    ("timezone", "UTC"),
    ("datestyle", "ISO, YMD"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("xmloption", "content"),
    ("row_security", "off"),
    ("statement_timeout", "0"),
    ("transaction_timeout", "0"),
    ("lock_timeout", "30s"),
    ("idle_session_timeout", "0"),
    // a statement ends with who asks, also one that has nothing to say for hours
    ("client_connection_check_interval", "5s"),
    ("jit", "off"),
    ("max_parallel_workers_per_gather", "0"),
    ("enable_seqscan", "off"),
    ("default_transaction_isolation", "read committed"),
];

/// Opens a session, and says whether the database is UTF-8, or holds texts of any bytes.
pub async fn open(who: &str, connection: &PgConnect) -> Result<(Client, bool)> {
    let connection = connection.clone().application_name("rsrepl verify");
    let client = connection
        .connect()
        .await
        .map_err(|error| Error::new(error.kind(), who.to_owned()).because(error))?;
    let values: Vec<String> = SETTINGS
        .iter()
        .map(|(name, value)| format!("({}, {})", literal(name), literal(value)))
        .collect();
    // the path first: nothing of the database's own gets between
    let settings = format!(
        "SET search_path = pg_catalog;
         SELECT set_config(s.name, v.value, false) FROM pg_settings AS s
           JOIN (VALUES {}) AS v (name, value) ON lower(s.name) = v.name",
        values.join(", ")
    );
    client.batch_execute(&settings).await.map_err(|error| failed(who, error))?;
    let sql = "SELECT pg_catalog.getdatabaseencoding() IN ('UTF8', 'SQL_ASCII')";
    let row = client.query_one(sql, &[]).await.map_err(|error| failed(who, error))?;
    Ok((client, row.get(0)))
}

/// Opens a session that nobody can wait for long in: for what is read while something else is held up.
pub async fn open_impatient(who: &str, connection: &PgConnect) -> Result<Client> {
    let (client, _) = open(who, connection).await?;
    let impatient = "SET lock_timeout = '300ms'; SET statement_timeout = '1s'";
    client.batch_execute(impatient).await.map_err(|error| failed(who, error))?;
    Ok(client)
}

/// Who the source is, for what is stored on targets.
pub async fn identify(client: &Client, slot: &str) -> Result<SourceIdentity> {
    let sql = "SELECT system_identifier, current_database()::text,
                 ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint
               FROM pg_control_system()";
    let row = client.query_one(sql, &[]).await.map_err(|error| failed("the source", error))?;
    Ok(SourceIdentity {
        system_id: row.get::<_, i64>(0).cast_unsigned(),
        timeline: u32::try_from(row.get::<_, i64>(2)).unwrap_or(u32::MAX),
        database: row.get(1),
        slot: slot.to_owned(),
        // only a replication connection shows them, and nothing is written by what is found here
        ancestors: None,
    })
}

pub fn failed(who: &str, error: tokio_postgres::Error) -> Error {
    let kind = if error.is_closed() { Kind::Connection } else { Kind::Server };
    let lacks = error.code().is_some_and(|code| code.code() == "42501");
    let failed = Error::new(kind, who.to_owned()).because(error);
    match lacks {
        true => failed.hint("rows are read as the configured role: GRANT SELECT ON … TO it"),
        false => failed,
    }
}

/// Where the WAL ends that holds everything that was seen. At the beginning of a page it is the end of the
/// last one: what is flushed and sent does not count the header of a page that has nothing else yet.
pub async fn wal_end(client: &Client) -> Result<Lsn> {
    const PAGE: u64 = 8192;
    /// Of the first page of a segment.
    const HEADER_MAX: u64 = 40;
    let sql = "SELECT pg_catalog.pg_current_wal_insert_lsn()";
    let row = client.query_one(sql, &[]).await.map_err(|error| failed("the source", error))?;
    let end = u64::from(row.get::<_, PgLsn>(0));
    let into_page = end % PAGE;
    Ok(Lsn(if into_page <= HEADER_MAX { end - into_page } else { end }))
}

/// A table, and how its rows are read.
#[derive(Clone, Debug)]
pub struct Table {
    /// `the source` or the target, and the table: for messages.
    pub who: String,
    /// Name, and `ONLY` where it is not partitioned.
    pub from: String,
    /// Of the source's rows those that are published.
    pub filter: Option<String>,
    pub key: Vec<KeyColumn>,
    /// Which rows have a NULL in their key, where there may be some.
    pub nulls: Option<String>,
    hashes: Vec<String>,
    utf8: bool,
}

/// Of a row's version, as a hash.
const VERSION: &str = "('x' || md5(concat(tableoid, ' ', ctid, ' ', xmin)))::bit(64)::bigint";

impl Table {
    /// `profiles`: each the columns and forms that a hash is made of. Without a key there is one more, of versions.
    pub fn new(
        who: String,
        from: String,
        filter: Option<String>,
        key: Vec<KeyColumn>,
        profiles: &[Vec<(String, Form)>],
        utf8: bool,
    ) -> Table {
        let values = profiles.iter().map(|profile| hash_in_postgres(profile, utf8));
        let hashes = values.chain(key.is_empty().then(|| VERSION.to_owned())).collect();
        Table { who, from, filter, key, nulls: None, hashes, utf8 }
    }

    /// The key `rows` rows behind `after`; `None`: there are not as many.
    pub async fn boundary(
        &self,
        client: &Client,
        after: Option<&Key>,
        rows: u64,
    ) -> Result<Option<Key>> {
        self.boundary_in(client, &Range { after: after.cloned(), upto: None }, rows).await
    }

    /// The same within a range.
    pub async fn boundary_in(
        &self,
        client: &Client,
        range: &Range,
        rows: u64,
    ) -> Result<Option<Key>> {
        let names: Vec<&str> = self.key.iter().map(|column| column.name.as_str()).collect();
        let names = names.join(", ");
        let sql = format!(
            "SELECT {} FROM (SELECT {names} FROM {} WHERE {} ORDER BY {names} OFFSET {} LIMIT 1) AS t",
            self.key_array(),
            self.from,
            self.range(range),
            rows.saturating_sub(1)
        );
        let row = client.query_opt(&sql, &[]).await.map_err(|error| self.failed(error))?;
        row.map_or(Ok(None), |row| self.read_key(&row))
    }

    pub async fn sum(&self, client: &Client, range: &Range) -> Result<Sum> {
        let sql = format!(
            "SELECT count(*){} FROM (SELECT {} FROM {} WHERE {}) AS t",
            self.sums(),
            self.hash_columns(),
            self.from,
            self.condition(&self.range(range))
        );
        let whole = range.after.is_none() && range.upto.is_none();
        let rows = self.query(client, &sql, whole).await?;
        rows.first().map_or(Ok(Sum::default()), |row| self.read_sum(row, 0))
    }

    pub async fn buckets(&self, client: &Client, mask: i64) -> Result<Vec<(i64, Sum)>> {
        let sql = format!(
            "SELECT b, count(*){} FROM (SELECT {}, {} FROM {} WHERE {}) AS t GROUP BY b",
            self.sums(),
            self.bucket(mask),
            self.hash_columns(),
            self.from,
            self.condition("true")
        );
        let rows = self.query(client, &sql, true).await?;
        let bucket = |row: &PgRow| {
            let number = row.try_get(0).map_err(|error| self.failed(error))?;
            Ok((number, self.read_sum(row, 1)?))
        };
        rows.iter().map(bucket).collect()
    }

    pub async fn list(&self, client: &Client, part: &Part<'_>) -> Result<Vec<Row>> {
        let condition = match part {
            Part::Range(range) => self.range(range),
            Part::Buckets { mask, numbers } => {
                let numbers: Vec<String> = numbers.iter().map(i64::to_string).collect();
                let bucket = self.bucket_value(*mask);
                format!("{bucket} = ANY ('{{{}}}'::bigint[])", numbers.join(","))
            }
        };
        let sql = format!(
            "SELECT {}, {} FROM {} WHERE {}",
            self.key_array(),
            self.hash_columns(),
            self.from,
            self.condition(&condition)
        );
        let whole = matches!(part, Part::Buckets { .. });
        let rows = self.query(client, &sql, whole).await?;
        self.read_rows(&rows)
    }

    /// Rows of a range that were written by this transaction or a later one; `None`: very many.
    pub async fn list_since(
        &self,
        client: &Client,
        range: &Range,
        transaction: u64,
    ) -> Result<Option<Vec<Row>>> {
        // as a row has it; the first three mean something else
        let xid = (transaction & 0xffff_ffff).max(3);
        let lately = format!("age(xmin) <= age('{xid}'::xid)");
        let sql = format!(
            "SELECT {}, {} FROM {} WHERE {} LIMIT {}",
            self.key_array(),
            self.hash_columns(),
            self.from,
            self.condition(&format!("({}) AND {lately}", self.range(range))),
            LATELY_MAX + 1
        );
        let rows = self.query(client, &sql, false).await?;
        if rows.len() > LATELY_MAX { Ok(None) } else { self.read_rows(&rows).map(Some) }
    }

    /// A read of the whole table may take it as it lies; that of a range must not, whatever the statistics say.
    async fn query(&self, client: &Client, sql: &str, whole: bool) -> Result<Vec<PgRow>> {
        let allow = |how| async move { client.batch_execute(how).await };
        if whole {
            allow("SET enable_seqscan = on").await.map_err(|error| self.failed(error))?;
        }
        let rows = client.query(sql, &[]).await.map_err(|error| self.failed(error));
        let done = if whole { allow("SET enable_seqscan = off").await } else { Ok(()) };
        // of a transaction that has failed the reason is wanted, and its end takes this back
        let rows = rows?;
        done.map_err(|error| self.failed(error))?;
        Ok(rows)
    }

    pub async fn look_up(&self, client: &Client, keys: &[&Key]) -> Result<Vec<Option<Found>>> {
        let mut found: Vec<Option<Found>> = vec![None; keys.len()];
        let sql = format!(
            "SELECT _rsrepl_n, t.tableoid || ' ' || t.ctid || ' ' || t.xmin, {} FROM {} WHERE {}",
            self.hash_columns(),
            self.join_keys(),
            self.condition("true")
        );
        let columns = key::columns_of(keys, self.key.len());
        let parameters: Vec<_> = columns.iter().map(|c| c as _).collect();
        let rows = client.query(&sql, &parameters).await.map_err(|error| self.failed(error))?;
        for row in rows {
            let number: i64 = row.try_get(0).map_err(|error| self.failed(error))?;
            let version = row.try_get(1).map_err(|error| self.failed(error))?;
            let place = usize::try_from(number - 1).unwrap_or(usize::MAX);
            if let Some(place) = found.get_mut(place) {
                place.get_or_insert_default().add(version, &self.read_hashes(&row, 2)?);
            }
        }
        Ok(found)
    }

    /// The keys that parameters hold, by their numbers from 1 on in `_rsrepl_n`, with the rows that they have.
    pub fn join_keys(&self) -> String {
        let names = (1..=self.key.len()).map(|n| format!("_rsrepl_{n}"));
        let parameters = (1..=self.key.len()).map(|n| format!("${n}::text[]"));
        let equal =
            self.key.iter().zip(1..).map(|(column, n)| {
                format!("t.{} = u._rsrepl_{n}::{}", column.name, column.type_name)
            });
        format!(
            "unnest({}) WITH ORDINALITY AS u ({}, _rsrepl_n) JOIN {} AS t ON {}",
            parameters.collect::<Vec<_>>().join(", "),
            names.collect::<Vec<_>>().join(", "),
            self.from,
            equal.collect::<Vec<_>>().join(" AND ")
        )
    }

    fn key_array(&self) -> String {
        let texts: Vec<String> = match &self.nulls {
            None => self.key.iter().map(KeyColumn::in_postgres).collect(),
            Some(nulls) => {
                let text = |column: &KeyColumn| {
                    format!("CASE WHEN {nulls} THEN NULL ELSE {} END", column.in_postgres())
                };
                self.key.iter().map(text).collect()
            }
        };
        format!("ARRAY[{}]::text[]", texts.join(", "))
    }

    fn bucket_value(&self, mask: i64) -> String {
        let texts: Vec<String> = self.key.iter().map(KeyColumn::in_postgres).collect();
        let text = format!("concat_ws(',', {})", texts.join(", "));
        let text = if self.utf8 { text } else { format!("convert_to({text}, 'UTF8')") };
        format!("(('x' || md5({text}))::bit(64)::bigint & {mask})")
    }

    fn bucket(&self, mask: i64) -> String {
        format!("{} AS b", self.bucket_value(mask))
    }

    fn hash_columns(&self) -> String {
        let hashes = self.hashes.iter().zip(1..).map(|(hash, n)| format!("{hash} AS h{n}"));
        hashes.collect::<Vec<_>>().join(", ")
    }

    fn sums(&self) -> String {
        (1..=self.hashes.len()).map(|n| format!(", coalesce(sum(h{n}), 0)::text")).collect()
    }

    fn range(&self, range: &Range) -> String {
        key::range_in_postgres(&self.key, range, self.nulls.as_deref())
    }

    fn condition(&self, more: &str) -> String {
        match &self.filter {
            Some(filter) => format!("({more}) AND ({filter})"),
            None => more.to_owned(),
        }
    }

    /// Keys with hashes.
    fn read_rows(&self, rows: &[PgRow]) -> Result<Vec<Row>> {
        let row =
            |row: &PgRow| Ok(Row { key: self.read_key(row)?, hashes: self.read_hashes(row, 1)? });
        rows.iter().map(row).collect()
    }

    /// `None`: it has a NULL in it.
    fn read_key(&self, row: &PgRow) -> Result<Option<Key>> {
        let texts: Vec<Option<String>> = row.try_get(0).map_err(|error| self.failed(error))?;
        Ok(texts.into_iter().collect())
    }

    fn read_sum(&self, row: &PgRow, first: usize) -> Result<Sum> {
        let unreadable = |_| Error::new(Kind::Server, format!("{}: no sum", self.who));
        let hash = |n: usize| {
            let text: &str = row.try_get(first + n).map_err(|error| self.failed(error))?;
            text.parse().map_err(unreadable)
        };
        let hashes: Result<Vec<i128>> = (1..=self.hashes.len()).map(hash).collect();
        let rows: i64 = row.try_get(first).map_err(|error| self.failed(error))?;
        Ok(Sum { rows: rows.unsigned_abs(), hashes: hashes? })
    }

    fn read_hashes(&self, row: &PgRow, first: usize) -> Result<Vec<i64>> {
        let hash = |n| row.try_get(first + n).map_err(|error| self.failed(error));
        (0..self.hashes.len()).map(hash).collect()
    }

    fn failed(&self, error: tokio_postgres::Error) -> Error {
        failed(&self.who, error)
    }
}
