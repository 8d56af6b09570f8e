//! A table of a PostgreSQL server, source or target.

use rsrepl_wire::Lsn;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row as PgRow};

use super::form::{Form, hash_in_postgres};
use super::key::{self, Key, KeyColumn, Range};
use super::view::{Found, Part, Row, Sum};
use crate::error::{Error, Kind, Result};
use crate::quote::literal;
use crate::tls::PgConnect;

/// What every session runs with: values are shown in one way, and a wrong estimate must not make a range a
/// read of the whole table. A policy that hides rows is an error.
const SETTINGS: &[(&str, &str)] = &[
    ("search_path", "pg_catalog"),
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
    ("lock_timeout", "30s"),
    ("idle_session_timeout", "0"),
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
    let settings = format!(
        "SELECT pg_catalog.set_config(s.name, v.value, false)
           FROM pg_catalog.pg_settings AS s JOIN (VALUES {}) AS v (name, value)
             ON pg_catalog.lower(s.name) = v.name",
        values.join(", ")
    );
    client.batch_execute(&settings).await.map_err(|error| failed(who, error))?;
    let sql = "SELECT pg_catalog.getdatabaseencoding() IN ('UTF8', 'SQL_ASCII')";
    let row = client.query_one(sql, &[]).await.map_err(|error| failed(who, error))?;
    Ok((client, row.get(0)))
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
    hashes: Vec<String>,
    utf8: bool,
}

impl Table {
    /// `profiles`: each the columns and forms that a hash is made of.
    pub fn new(
        who: String,
        from: String,
        filter: Option<String>,
        key: Vec<KeyColumn>,
        profiles: &[Vec<(String, Form)>],
        utf8: bool,
    ) -> Table {
        let hashes = profiles.iter().map(|profile| hash_in_postgres(profile, utf8)).collect();
        Table { who, from, filter, key, hashes, utf8 }
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
            key::range_in_postgres(&self.key, range),
            rows.saturating_sub(1)
        );
        let row = client.query_opt(&sql, &[]).await.map_err(|error| self.failed(error))?;
        Ok(row.map(|row| row.get(0)))
    }

    pub async fn sum(&self, client: &Client, range: &Range) -> Result<Sum> {
        let sql = format!(
            "SELECT count(*){} FROM (SELECT {} FROM {} WHERE {}) AS t",
            self.sums(),
            self.hash_columns(),
            self.from,
            self.condition(&key::range_in_postgres(&self.key, range))
        );
        let row = client.query_one(&sql, &[]).await.map_err(|error| self.failed(error))?;
        self.read_sum(&row, 0)
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
        // the whole table is what is wanted
        client
            .batch_execute("SET enable_seqscan = on")
            .await
            .map_err(|error| self.failed(error))?;
        let rows = client.query(&sql, &[]).await.map_err(|error| self.failed(error))?;
        rows.iter().map(|row| Ok((row.get(0), self.read_sum(row, 1)?))).collect()
    }

    pub async fn list(&self, client: &Client, part: &Part<'_>) -> Result<Vec<Row>> {
        let condition = match part {
            Part::Range(range) => key::range_in_postgres(&self.key, range),
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
        let rows = client.query(&sql, &[]).await.map_err(|error| self.failed(error))?;
        let row = |row: &PgRow| Row { key: row.get(0), hashes: self.read_hashes(row, 1) };
        Ok(rows.iter().map(row).collect())
    }

    pub async fn look_up(&self, client: &Client, keys: &[&Key]) -> Result<Vec<Option<Found>>> {
        let mut found = vec![None; keys.len()];
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
            let place = usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or(usize::MAX);
            if let Some(place) = found.get_mut(place) {
                *place = Some(Found { version: row.get(1), hashes: self.read_hashes(&row, 2) });
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
        let texts: Vec<String> = self.key.iter().map(KeyColumn::in_postgres).collect();
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

    fn condition(&self, more: &str) -> String {
        match &self.filter {
            Some(filter) => format!("({more}) AND ({filter})"),
            None => more.to_owned(),
        }
    }

    fn read_sum(&self, row: &PgRow, first: usize) -> Result<Sum> {
        let hash = |n: usize| {
            let text: String = row.get(first + n);
            text.parse().map_err(|_| Error::new(Kind::Server, format!("{}: no sum", self.who)))
        };
        let hashes: Result<Vec<i128>> = (1..=self.hashes.len()).map(hash).collect();
        let rows: i64 = row.get(first);
        Ok(Sum { rows: rows.unsigned_abs(), hashes: hashes? })
    }

    fn read_hashes(&self, row: &PgRow, first: usize) -> Vec<i64> {
        (0..self.hashes.len()).map(|n| row.get(first + n)).collect()
    }

    fn failed(&self, error: tokio_postgres::Error) -> Error {
        failed(&self.who, error)
    }
}
