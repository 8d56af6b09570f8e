//! A table as it is read on one system: sums, lists and single rows, computed there.

use super::key::{Key, Range};
use super::{clickhouse, postgres};
use crate::error::Result;

/// What rows come to, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub rows: u64,
    /// Of the rows' hashes; on the source one of each profile.
    pub hashes: Vec<i128>,
}

impl Sum {
    /// As the targets that have this profile see it.
    pub fn of_profile(&self, profile: usize) -> Sum {
        Sum { rows: self.rows, hashes: self.hashes.get(profile).copied().into_iter().collect() }
    }
}

/// A row in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// `None`: it has a NULL in it.
    pub key: Option<Key>,
    pub hashes: Vec<i64>,
}

/// The rows of a key that was looked up: one, or more where nothing keeps them away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Another one for each version of the row.
    pub version: String,
    pub rows: u64,
    /// Sums of the rows' hashes.
    pub hashes: Vec<i64>,
}

impl Found {
    /// Takes in one more row.
    pub fn add(&mut self, version: &str, hashes: &[i64]) {
        self.rows += 1;
        self.version.push_str(version);
        self.version.push(';');
        self.hashes.resize(hashes.len(), 0);
        for (sum, hash) in self.hashes.iter_mut().zip(hashes) {
            *sum = sum.wrapping_add(*hash);
        }
    }
}

/// Which of a table's rows; buckets are numbers under `mask` that come from the key's MD5.
#[derive(Clone, Debug)]
pub enum Part<'a> {
    Range(&'a Range),
    Buckets { mask: i64, numbers: &'a [i64] },
}

/// A table on one system, with a session to read it.
#[derive(Clone, Copy)]
pub(crate) enum View<'a> {
    Postgres(&'a tokio_postgres::Client, &'a postgres::Table),
    ClickHouse(&'a clickhouse::Mirror, &'a clickhouse::Table),
}

impl View<'_> {
    pub(crate) async fn sum(self, range: &Range) -> Result<Sum> {
        match self {
            View::Postgres(client, table) => table.sum(client, range).await,
            View::ClickHouse(mirror, table) => table.sum(mirror, range).await,
        }
    }

    /// The key `rows` rows behind the beginning of a range; `None`: it has not as many.
    pub(crate) async fn boundary(self, range: &Range, rows: u64) -> Result<Option<Key>> {
        match self {
            View::Postgres(client, table) => table.boundary_in(client, range, rows).await,
            View::ClickHouse(mirror, table) => table.boundary_in(mirror, range, rows).await,
        }
    }

    /// The sum of every bucket that has rows, by its number.
    pub(crate) async fn buckets(self, mask: i64) -> Result<Vec<(i64, Sum)>> {
        match self {
            View::Postgres(client, table) => table.buckets(client, mask).await,
            View::ClickHouse(mirror, table) => table.buckets(mirror, mask).await,
        }
    }

    pub(crate) async fn list(self, part: &Part<'_>) -> Result<Vec<Row>> {
        match self {
            View::Postgres(client, table) => table.list(client, part).await,
            View::ClickHouse(mirror, table) => table.list(mirror, part).await,
        }
    }

    /// Of each key its row, if there is one.
    pub(crate) async fn look_up(self, keys: &[&Key]) -> Result<Vec<Option<Found>>> {
        match self {
            View::Postgres(client, table) => table.look_up(client, keys).await,
            View::ClickHouse(mirror, table) => table.look_up(mirror, keys).await,
        }
    }
}
