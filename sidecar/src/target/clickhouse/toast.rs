//! Values that an UPDATE did not change and the stream does not hold (invariant 8): they are read
//! back from the table.
//!
//! What is in the table may be newer than the place in the stream, when a part of the stream is
//! applied again after a failure. So an absent row is one of two things: it was ended by a later
//! change that has already been applied (a tombstone, or a TRUNCATE that `position` knows of), and
//! then the row at hand is not needed; or it is lost, and that is an error, never a default.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use rsrepl_wire::{Lsn, OldRowKind, Value};

use super::client::Server;
use super::ddl::{qualified, quoted};
use super::encode::{Item, put_key};
use super::failure::Attempt;
use super::plan::Plan;
use super::types::{ColumnType, Scalar};
use crate::batch::Operation;
use crate::error::{Error, Kind, Result};

/// Bytes of the keys of one look-up; the statement holds them in hexadecimal digits.
const KEY_BYTES_MAX: usize = 4 << 20;
/// Keys of a table's first look-up, and of the largest one.
const KEYS_FIRST: usize = 32;
const KEYS_MAX: usize = 8192;
/// Bytes that a look-up should bring; its size follows this.
const VALUE_BYTES_TARGET: usize = 8 << 20;

type Key = Box<[u8]>;

/// The rows that the next stretch of changes needs values of.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    keys: BTreeSet<Key>,
    key_bytes: usize,
    /// Indexes of the columns that come unchanged.
    columns: BTreeSet<usize>,
}

/// Keys in one look-up of a table: adapted, so that large values do not fill the memory (invariant 6).
#[derive(Debug)]
pub(super) struct LookupLimit(AtomicUsize);

impl Default for LookupLimit {
    fn default() -> Self {
        LookupLimit(AtomicUsize::new(KEYS_FIRST))
    }
}

impl LookupLimit {
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// `bytes` is what the last look-up brought. One writer serves a table, so nothing is lost between
    /// reading and storing.
    fn learn(&self, bytes: usize) {
        let keys = self.get();
        if bytes > VALUE_BYTES_TARGET {
            self.0.store((keys / 2).max(1), Ordering::Relaxed);
        } else if bytes < VALUE_BYTES_TARGET / 4 {
            self.0.store((keys * 2).min(KEYS_MAX), Ordering::Relaxed);
        }
    }
}

/// How many of `items` can be encoded with one look-up, and that look-up when one is needed.
pub(super) fn plan_lookup(
    plan: &Plan,
    items: &[Item],
    limit: &LookupLimit,
) -> Result<(usize, Option<Lookup>)> {
    let mut lookup = Lookup::default();
    for (count, item) in items.iter().enumerate() {
        let Operation::Update { old, new } = &item.operation else { continue };
        let whole = old.as_ref().is_some_and(|old| old.kind == OldRowKind::Full);
        if whole || !new.may_have_unchanged() {
            continue;
        }
        if lookup.keys.len() >= limit.get() || lookup.key_bytes >= KEY_BYTES_MAX {
            return Ok((count, Some(lookup)));
        }
        let mut found = false;
        for (index, value) in new.values(&plan.relation)?.enumerate() {
            // those of the key come with the old key
            let key = plan.columns.get(index).is_some_and(|column| column.key);
            if value? == Value::Unchanged && !key {
                lookup.columns.insert(index);
                found = true;
            }
        }
        if !found {
            continue;
        }
        let old = old.as_ref().map(|old| &old.row);
        for (row, before) in old.map(|old| (old, None)).into_iter().chain([(new, old)]) {
            let mut key = Vec::new();
            put_key(plan, item, row, before, &mut key)?;
            lookup.key_bytes += key.len();
            lookup.keys.insert(key.into_boxed_slice());
        }
    }
    let needed = !lookup.keys.is_empty();
    Ok((items.len(), needed.then_some(lookup)))
}

/// What the table holds under a key.
#[derive(Debug)]
enum Found {
    /// Its version, and the looked-up columns in `RowBinary`.
    Live {
        version: u64,
        values: Vec<Bytes>,
    },
    /// A tombstone with this version.
    Gone(u64),
    Absent,
}

impl Found {
    fn value(&self, place: usize) -> Fill<'_> {
        match self {
            Found::Live { values, .. } => {
                values.get(place).map_or(Fill::Missing, |v| Fill::Value(v))
            }
            Found::Gone(_) | Found::Absent => Fill::Missing,
        }
    }
}

/// The outcome of [`Known::find`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fill<'a> {
    /// The column in `RowBinary`.
    Value(&'a [u8]),
    /// The row has been ended by a later change.
    Dominated,
    /// The row should be there, and is not.
    Missing,
}

/// The rows that were looked up, as they were before the stretch of changes, and as the changes so
/// far have left them.
#[derive(Debug)]
pub(super) struct Known {
    columns: Vec<usize>,
    found: HashMap<Key, Found>,
    /// Rows of the stretch itself, which may not be in the table yet.
    newer: HashMap<Key, Vec<Bytes>>,
    /// The last TRUNCATE that a predecessor began.
    truncated: Lsn,
}

impl Known {
    /// The value of the column in the row before the change.
    pub(super) fn find(
        &self,
        old_key: Option<&[u8]>,
        new_key: &[u8],
        column: usize,
        change: &Item,
    ) -> Fill<'_> {
        let Some(place) = self.columns.iter().position(|c| *c == column) else {
            return Fill::Missing;
        };
        let key = old_key.unwrap_or(new_key);
        if let Some(value) = self.newer.get(key).and_then(|values| values.get(place)) {
            return Fill::Value(value);
        }
        match self.found.get(key) {
            Some(found) if !self.is_ahead(found, change) => found.value(place),
            // this change, or a later one, has been applied before: the row is under its new key,
            // or was under it
            Some(_) if old_key.is_some() => match self.found.get(new_key) {
                Some(found) if !self.is_ahead(found, change) => found.value(place),
                Some(_) => Fill::Dominated,
                None => Fill::Missing,
            },
            Some(_) => Fill::Dominated,
            None => Fill::Missing,
        }
    }

    /// Whether a later change than this one has left the table so. The changes of a table are applied
    /// in stream order, so this one has been, too. A row of a later change must not be taken for the
    /// one before this change: another key may take its values, and keep them.
    fn is_ahead(&self, found: &Found, change: &Item) -> bool {
        match found {
            Found::Live { version, .. } => *version > change.version,
            // a tombstone is written again on a replay; the row that came after it, before the position,
            // went with the TRUNCATE
            Found::Gone(version) => *version >= change.lsn.0 || change.lsn < self.truncated,
            Found::Absent => change.lsn < self.truncated,
        }
    }

    /// Whether [`Self::remember`] needs the column of the row under this key.
    pub(super) fn keeps(&self, key: &[u8], column: usize) -> bool {
        self.columns.contains(&column) && self.found.contains_key(key)
    }

    /// Takes note of a row that was written, when its key is one that was looked up: `kept` are the
    /// values that [`Self::keeps`] asked for, in `RowBinary`.
    pub(super) fn remember(&mut self, key: &[u8], kept: &mut Vec<Bytes>) {
        if self.found.contains_key(key) {
            self.newer.insert(key.into(), std::mem::take(kept));
        }
    }

    /// Takes note of a tombstone.
    pub(super) fn forget(&mut self, key: &[u8]) {
        self.newer.remove(key);
    }
}

/// Reads the rows of a look-up from the table.
pub(super) async fn fetch(
    server: &Server,
    database: &str,
    plan: &Plan,
    lookup: Lookup,
    truncated: Lsn,
    limit: &LookupLimit,
) -> Result<Known> {
    let keys: Vec<(String, ColumnType)> =
        plan.columns.iter().filter(|c| c.key).map(|c| (quoted(&c.name), c.ty)).collect();
    let columns: Vec<usize> = lookup.columns.iter().copied().collect();
    let read = Read { server, plan, table: qualified(database, &plan.storage()), keys };
    let mut found = read.live(&lookup.keys, &columns, limit).await?;
    let missing: BTreeSet<Key> =
        lookup.keys.into_iter().filter(|key| !found.contains_key(key)).collect();
    if !missing.is_empty() {
        found.extend(read.gone(&missing).await?);
        for key in missing {
            found.entry(key).or_insert(Found::Absent);
        }
    }
    Ok(Known { columns, found, newer: HashMap::new(), truncated })
}

struct Read<'a> {
    server: &'a Server,
    plan: &'a Plan,
    table: String,
    keys: Vec<(String, ColumnType)>,
}

impl Read<'_> {
    fn key_list(&self) -> String {
        self.keys.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// `(k) IN (…)`: the keys go as `RowBinary` too, so that no literal can change them.
    fn condition(&self, keys: &BTreeSet<Key>) -> String {
        let structure: Vec<String> =
            self.keys.iter().enumerate().map(|(i, (_, ty))| format!("k{i} {ty}")).collect();
        let mut hex = String::with_capacity(2 * keys.iter().map(|key| key.len()).sum::<usize>());
        for byte in keys.iter().flatten() {
            for digit in [byte >> 4, byte & 0x0F] {
                hex.extend(char::from_digit(digit.into(), 16));
            }
        }
        format!(
            "({}) IN (SELECT * FROM format(RowBinary, {}, unhex('{hex}')))",
            self.key_list(),
            super::ddl::literal(&structure.join(", ")),
        )
    }

    async fn live(
        &self,
        keys: &BTreeSet<Key>,
        columns: &[usize],
        limit: &LookupLimit,
    ) -> Result<HashMap<Key, Found>> {
        let targets: Vec<_> = columns.iter().filter_map(|i| self.plan.columns.get(*i)).collect();
        let names: Vec<String> = targets.iter().map(|column| quoted(&column.name)).collect();
        let sql = format!(
            "SELECT {}, `_rsrepl_version`, {} FROM {} FINAL WHERE {}",
            self.key_list(),
            names.join(", "),
            self.table,
            self.condition(keys)
        );
        let bytes = self.server.rows(Attempt::ReadBack(&self.plan.name), &sql).await?;
        limit.learn(bytes.len());
        let mut rest = bytes.as_ref();
        let mut found = HashMap::new();
        while !rest.is_empty() {
            let key = self.take_key(&mut rest)?;
            let version = self.take_version(&mut rest)?;
            let mut values = Vec::with_capacity(targets.len());
            for column in &targets {
                let value = column.ty.take(&mut rest).ok_or_else(|| self.unreadable())?;
                values.push(bytes.slice_ref(value));
            }
            found.insert(key, Found::Live { version, values });
        }
        Ok(found)
    }

    async fn gone(&self, keys: &BTreeSet<Key>) -> Result<HashMap<Key, Found>> {
        let list = self.key_list();
        let sql = format!(
            "SELECT {list}, max(`_rsrepl_version`) FROM {} WHERE `_rsrepl_deleted` = 1 AND {} \
             GROUP BY {list}",
            self.table,
            self.condition(keys)
        );
        let bytes = self.server.rows(Attempt::ReadBack(&self.plan.name), &sql).await?;
        let mut rest = bytes.as_ref();
        let mut found = HashMap::new();
        while !rest.is_empty() {
            let key = self.take_key(&mut rest)?;
            let version = self.take_version(&mut rest)?;
            found.insert(key, Found::Gone(version));
        }
        Ok(found)
    }

    fn take_key(&self, rest: &mut &[u8]) -> Result<Key> {
        let start = *rest;
        for (_, ty) in &self.keys {
            ty.take(rest).ok_or_else(|| self.unreadable())?;
        }
        Ok(start.get(..start.len() - rest.len()).unwrap_or_default().into())
    }

    fn take_version(&self, rest: &mut &[u8]) -> Result<u64> {
        ColumnType::Plain(Scalar::UInt64)
            .take(rest)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u64::from_le_bytes)
            .ok_or_else(|| self.unreadable())
    }

    fn unreadable(&self) -> Error {
        Error::new(
            Kind::Server,
            format!(
                "target {}: cannot read what ClickHouse returned of table {}",
                self.server.name(),
                self.plan.name
            ),
        )
    }
}
