//! A table of a ClickHouse target.

use std::collections::HashMap;
use std::time::Duration;

use super::form::{Form, hash_in_clickhouse};
use super::key::{self, ImageKey, Key, Range};
use super::view::{Found, Part, Row, Sum};
use crate::error::Result;

use crate::target::clickhouse::ColumnType;
pub(crate) use crate::target::clickhouse::Mirror;
use crate::target::clickhouse::Reader;

/// For a range or a list of keys.
const PART_LIMIT: Duration = Duration::from_secs(120);
/// For a whole table.
const TABLE_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// A table, and how its rows are read.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// With its database, quoted.
    pub(crate) name: String,
    pub(crate) key: Vec<ImageKey>,
    /// Those that are compared.
    pub(crate) columns: Vec<ImageValues>,
    hash: String,
}

/// A column that is compared.
#[derive(Clone, Debug)]
pub(crate) struct ImageValues {
    /// Quoted, on the source.
    pub(crate) source: String,
    /// Quoted, there.
    pub(crate) name: String,
    pub(crate) form: Form,
    pub(crate) ty: ColumnType,
}

impl Table {
    pub(crate) fn new(name: String, key: Vec<ImageKey>, columns: Vec<ImageValues>) -> Table {
        let text = |column: &ImageValues| column.form.in_clickhouse(&column.name, &column.ty);
        let texts: Vec<String> = columns.iter().map(text).collect();
        Table { name, key, hash: hash_in_clickhouse(&texts), columns }
    }

    /// Without a key it is a view, which has the rows that are there.
    fn from(&self) -> String {
        if self.key.is_empty() { self.name.clone() } else { format!("{} FINAL", self.name) }
    }

    pub(crate) async fn sum(&self, mirror: &Mirror, range: &Range) -> Result<Sum> {
        let condition = key::range_in_clickhouse(&self.key, range);
        let sql = format!(
            "SELECT toInt64(count()), sum(toInt128(`_rsrepl_hash`)) \
             FROM (SELECT {} AS `_rsrepl_hash` FROM {} WHERE {condition})",
            self.hash,
            self.from()
        );
        let whole = range.after.is_none() && range.upto.is_none();
        let limit = if whole { TABLE_LIMIT } else { PART_LIMIT };
        let mut rows = mirror.rows(&self.name, &sql, limit).await?;
        Ok(Sum { rows: rows.int64()?.unsigned_abs(), hashes: vec![rows.int128()?] })
    }

    /// The key `rows` rows behind the beginning of a range; `None`: it has not as many.
    pub(crate) async fn boundary_in(
        &self,
        mirror: &Mirror,
        range: &Range,
        rows: u64,
    ) -> Result<Option<Key>> {
        let names: Vec<&str> = self.key.iter().map(|column| column.name.as_str()).collect();
        let sql = format!(
            "SELECT {} FROM {} WHERE {} ORDER BY {} LIMIT 1 OFFSET {}",
            self.key_columns(),
            self.from(),
            key::range_in_clickhouse(&self.key, range),
            names.join(", "),
            rows.saturating_sub(1)
        );
        let mut answer = mirror.rows(&self.name, &sql, PART_LIMIT).await?;
        if answer.is_empty() { Ok(None) } else { self.read_key(&mut answer) }
    }

    pub(crate) async fn buckets(&self, mirror: &Mirror, mask: i64) -> Result<Vec<(i64, Sum)>> {
        let sql = format!(
            "SELECT `_rsrepl_bucket`, toInt64(count()), sum(toInt128(`_rsrepl_hash`)) \
             FROM (SELECT {} AS `_rsrepl_bucket`, {} AS `_rsrepl_hash` FROM {}) GROUP BY `_rsrepl_bucket`",
            self.bucket(mask),
            self.hash,
            self.from()
        );
        let mut rows = mirror.rows(&self.name, &sql, TABLE_LIMIT).await?;
        let mut buckets = Vec::new();
        while !rows.is_empty() {
            let number = rows.int64()?;
            let (count, sum) = (rows.int64()?, rows.int128()?);
            buckets.push((number, Sum { rows: count.unsigned_abs(), hashes: vec![sum] }));
        }
        Ok(buckets)
    }

    pub(crate) async fn list(&self, mirror: &Mirror, part: &Part<'_>) -> Result<Vec<Row>> {
        let (condition, limit) = match part {
            Part::Range(range) => (key::range_in_clickhouse(&self.key, range), PART_LIMIT),
            Part::Buckets { mask, numbers } => {
                let numbers: Vec<String> = numbers.iter().map(i64::to_string).collect();
                (format!("{} IN ({})", self.bucket(*mask), numbers.join(", ")), TABLE_LIMIT)
            }
        };
        let sql = format!(
            "SELECT {}, {} FROM {} WHERE {condition}",
            self.key_columns(),
            self.hash,
            self.from()
        );
        let mut answer = mirror.rows(&self.name, &sql, limit).await?;
        let mut rows = Vec::new();
        while !answer.is_empty() {
            let key = self.read_key(&mut answer)?;
            rows.push(Row { key, hashes: vec![answer.int64()?] });
        }
        Ok(rows)
    }

    pub(crate) async fn look_up(
        &self,
        mirror: &Mirror,
        keys: &[&Key],
    ) -> Result<Vec<Option<Found>>> {
        let sql = format!(
            "SELECT {}, toString(`_rsrepl_version`), {} FROM {} WHERE {}",
            self.key_columns(),
            self.hash,
            self.from(),
            key::keys_in_clickhouse(&self.key, keys)
        );
        let mut answer = mirror.rows(&self.name, &sql, PART_LIMIT).await?;
        let mut found: HashMap<Option<Key>, Found> = HashMap::new();
        while !answer.is_empty() {
            let key = self.read_key(&mut answer)?;
            let version = answer.text()?;
            found.entry(key).or_default().add(&version, &[answer.int64()?]);
        }
        Ok(keys.iter().map(|key| found.remove(&Some((*key).clone()))).collect())
    }

    fn key_texts(&self) -> Vec<String> {
        self.key.iter().map(ImageKey::in_clickhouse).collect()
    }

    /// What [`Self::read_key`] reads.
    fn key_columns(&self) -> String {
        let nullable = |text| format!("CAST({text}, 'Nullable(String)')");
        self.key_texts().into_iter().map(nullable).collect::<Vec<_>>().join(", ")
    }

    fn read_key(&self, answer: &mut Reader) -> Result<Option<Key>> {
        let texts: Result<Vec<Option<String>>> =
            self.key.iter().map(|_| answer.nullable_text()).collect();
        Ok(texts?.into_iter().collect())
    }

    fn bucket(&self, mask: i64) -> String {
        // as PostgreSQL's concat_ws passes over them
        let text = |text| format!("ifNull({text}, '')");
        let texts: Vec<String> = self.key_texts().into_iter().map(text).collect();
        let hash = hash_in_clickhouse(&texts);
        format!("toInt64(bitAnd({hash}, {mask}))")
    }
}
