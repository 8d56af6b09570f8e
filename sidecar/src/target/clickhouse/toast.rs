//! Values that an UPDATE did not change and the stream does not hold (invariant 8): they are read
//! back from the table.
//!
//! What is in the table may be newer than the place in the stream, when a part of the stream is
//! applied again after a failure. So an absent row is one of two things: it was ended by a later
//! change that has already been applied (a tombstone, or a TRUNCATE that `position` knows of), and
//! then the row at hand is not needed; or it is lost, and that is an error, never a default. What is not
//! in the table yet is in `recent`, or is stored first.

use std::collections::{BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use rsrepl_wire::{OldRowKind, Row, Value};

use super::client::Server;
use super::ddl::{qualified, quoted};
use super::encode::{Item, put_key};
use super::failure::Attempt;
use super::lookup_limit::LookupLimit;
use super::plan::{Layout, Plan};
use super::recent::{Key, Needs, Recent};
use super::types::ColumnType;
use super::version::Version;
use crate::batch::Operation;
use crate::error::{Error, Kind, Result};

/// Bytes of the keys of one look-up; the statement holds them in hexadecimal digits.
const KEY_BYTES_MAX: usize = 4 << 20;

/// The rows that the next stretch of changes needs values of.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    keys: BTreeSet<Key>,
    key_bytes: usize,
}

impl Lookup {
    fn add(&mut self, key: Vec<u8>) {
        self.key_bytes += key.len();
        self.keys.insert(key.into());
    }

    /// What must be in the table first.
    pub(super) fn needs(&self, recent: &Recent) -> Needs {
        recent.needs(self.keys.iter())
    }
}

/// Whether values of the row are to be found elsewhere; `recent` takes note of their columns.
fn leaves_out(plan: &Plan, row: &Row, recent: &mut Recent) -> Result<bool> {
    let mut found = false;
    for (index, value) in row.values(&plan.relation)?.enumerate() {
        // those of the key come with the old key
        let key = plan.columns.get(index).is_some_and(|column| column.key);
        if value? == Value::Unchanged && !key {
            recent.left_out(index);
            found = true;
        }
    }
    Ok(found)
}

/// How many of `items` can be encoded with one look-up, and that look-up when one is needed.
pub(super) fn plan_lookup(
    plan: &Plan,
    items: &[Item],
    limit: &LookupLimit,
    recent: &mut Recent,
) -> Result<(usize, Option<Lookup>)> {
    if plan.layout != Layout::Keyed {
        // there is no row to look up; what leaves values out is refused, or said to be absent
        return Ok((items.len(), None));
    }
    let mut lookup = Lookup::default();
    // keys that the stretch itself has rows of
    let mut made: HashSet<Key> = HashSet::new();
    for (count, item) in items.iter().enumerate() {
        let (old, new) = match &item.operation {
            Operation::Insert { new } => (None, new),
            Operation::Update { old, new } => (old.as_ref(), new),
            Operation::Delete { .. } | Operation::Truncate { .. } | Operation::Schema(_) => {
                continue;
            }
        };
        let update = matches!(item.operation, Operation::Update { .. });
        let whole = old.is_some_and(|old| old.kind == OldRowKind::Full);
        let asks = update && !whole && new.may_have_unchanged() && {
            if lookup.keys.len() >= limit.get() || lookup.key_bytes >= KEY_BYTES_MAX {
                return Ok((count, Some(lookup)));
            }
            leaves_out(plan, new, recent)?
        };
        if recent.columns().is_empty() {
            continue;
        }
        let mut new_key = Vec::new();
        put_key(plan, item, new, old.map(|old| &old.row), &mut new_key)?;
        if asks {
            let mut old_key = Vec::new();
            if let Some(old) = old {
                put_key(plan, item, &old.row, None, &mut old_key)?;
            }
            let asked = if old.is_some() { &old_key } else { &new_key };
            // what is not noted is not known when its turn comes
            let is_made = recent.is_noting() && made.contains(asked.as_slice());
            if !is_made && !recent.remembers(asked) {
                // under both keys, see `Known::find`
                if old.is_some() {
                    lookup.add(old_key);
                }
                lookup.add(new_key.clone());
            }
        }
        made.insert(new_key.into());
    }
    let needed = !lookup.keys.is_empty();
    Ok((items.len(), needed.then_some(lookup)))
}

/// What the table holds under a key.
#[derive(Debug)]
pub(super) enum Found {
    /// Its version, and the looked-up columns in `RowBinary`.
    Live {
        version: Version,
        values: Vec<Bytes>,
    },
    /// A tombstone with this version.
    Gone(Version),
    Absent,
}

impl Found {
    fn value(&self, place: usize) -> Fill<'_> {
        match self {
            Found::Live { values, .. } => values.get(place).map_or(Fill::Missing, Fill::Value),
            Found::Gone(_) | Found::Absent => Fill::Missing,
        }
    }
}

/// The outcome of [`Known::find`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fill<'a> {
    /// The column in `RowBinary`.
    Value(&'a Bytes),
    /// The row has been ended by a later change.
    Dominated,
    /// The row should be there, and is not.
    Missing,
    /// It has to be looked up.
    Unknown,
}

/// What is known of the rows of a table, in it and on their way into it.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) recent: Recent,
    /// The rows that were looked up, as they were before the stretch of changes.
    found: HashMap<Key, Found>,
    /// The last TRUNCATE that a predecessor began.
    truncated: Version,
}

impl Known {
    /// Before a stretch of changes: what was looked up for it.
    pub(super) fn begin(&mut self, found: HashMap<Key, Found>, truncated: Version) {
        (self.found, self.truncated) = (found, truncated);
    }

    /// All rows so far are in the table.
    pub(super) fn everything_is_stored(&mut self) {
        self.recent.everything_is_stored();
        self.found.clear();
    }

    /// At the end of a batch.
    pub(super) fn settle(&mut self) {
        self.recent.settle();
        self.found = HashMap::new();
    }

    /// The value of the column in the row before the change.
    pub(super) fn find(
        &self,
        old_key: Option<&[u8]>,
        new_key: &[u8],
        column: usize,
        change: &Item,
    ) -> Fill<'_> {
        let Ok(place) = self.recent.columns().binary_search(&column) else {
            return Fill::Unknown;
        };
        let key = old_key.unwrap_or(new_key);
        if let Some(values) = self.recent.find(key) {
            return values.and_then(|v| v.get(place)).map_or(Fill::Unknown, Fill::Value);
        }
        match self.found.get(key) {
            Some(found) if !self.is_ahead(found, change) => found.value(place),
            // this change, or a later one, has been applied before: the row is under its new key,
            // or was under it
            Some(_) if old_key.is_some() => match self.found.get(new_key) {
                Some(found) if !self.is_ahead(found, change) => found.value(place),
                Some(_) => Fill::Dominated,
                None => Fill::Unknown,
            },
            Some(_) => Fill::Dominated,
            None => Fill::Unknown,
        }
    }

    /// Whether a later change than this one has left the table so (or this one, when the key is the one
    /// that it took away). The changes of a table are applied in stream order, so this one has been, too.
    /// A row of a later change must not be taken for the one before this change: another key may take its
    /// values, and keep them.
    fn is_ahead(&self, found: &Found, change: &Item) -> bool {
        match found {
            Found::Live { version, .. } => *version > change.version,
            // an older tombstone: the row that came after it went with the TRUNCATE
            Found::Gone(version) => *version >= change.version || change.version < self.truncated,
            Found::Absent => change.version < self.truncated,
        }
    }

    /// Whether the values of the row are to be remembered: of one that was asked for, they rather are.
    pub(super) fn remembers(&self, key: &[u8]) -> bool {
        self.recent.has_room()
            || self.recent.remembers(key)
            || self.recent.has_room_for_asked() && self.found.contains_key(key)
    }
}

/// Reads the rows of a look-up from the table, and these columns of them.
pub(super) async fn fetch(
    server: &Server,
    database: &str,
    plan: &Plan,
    lookup: Lookup,
    columns: &[usize],
    limit: &LookupLimit,
) -> Result<HashMap<Key, Found>> {
    let read = Read::of(server, database, plan);
    let mut found = read.live(&lookup.keys, columns, limit).await?;
    let missing: BTreeSet<Key> =
        lookup.keys.into_iter().filter(|key| !found.contains_key(key)).collect();
    if !missing.is_empty() {
        found.extend(read.gone(&missing).await?);
        for key in missing {
            found.entry(key).or_insert(Found::Absent);
        }
    }
    Ok(found)
}

/// Which of these keys a history has rows of that were copied, and that nothing has taken away since. Nothing but
/// copies and deletes may be in it.
pub(super) async fn copied(
    server: &Server,
    database: &str,
    plan: &Plan,
    keys: &BTreeSet<Key>,
) -> Result<HashSet<Key>> {
    let read = Read::of(server, database, plan);
    let list = read.key_list();
    let sql = format!(
        "SELECT {list} FROM {} WHERE {} GROUP BY {list} \
         HAVING argMax(`_rsrepl_operation`, `_rsrepl_version`) = 'copy'",
        read.table,
        read.condition(keys)
    );
    let bytes = server.rows(Attempt::ReadBack(&plan.name), &sql).await?;
    let mut rest = bytes.as_ref();
    let mut found = HashSet::new();
    while !rest.is_empty() {
        found.insert(read.take_key(&mut rest)?);
    }
    Ok(found)
}

struct Read<'a> {
    server: &'a Server,
    plan: &'a Plan,
    table: String,
    keys: Vec<(String, ColumnType)>,
}

impl<'a> Read<'a> {
    fn of(server: &'a Server, database: &str, plan: &'a Plan) -> Self {
        let keys = plan.columns.iter().filter(|column| column.key);
        let keys = keys.map(|column| (quoted(&column.name), column.ty.clone())).collect();
        Read { server, plan, table: qualified(database, &plan.storage()), keys }
    }

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
            "SELECT {}, `_rsrepl_version`, {} FROM {} FINAL WHERE {}{}",
            self.key_list(),
            names.join(", "),
            self.table,
            self.condition(keys),
            // older servers know neither the type nor the setting; up to 25.7 large numbers would be quoted
            match self.plan.has_json() {
                true =>
                    " SETTINGS output_format_binary_write_json_as_string = 1, \
                         output_format_json_quote_64bit_integers = 0",
                false => "",
            }
        );
        let bytes = self.server.rows(Attempt::ReadBack(&self.plan.name), &sql).await?;
        let mut rest = bytes.as_ref();
        let mut found = HashMap::new();
        while !rest.is_empty() {
            let key = self.take_key(&mut rest)?;
            let version = self.take_version(&mut rest)?;
            let mut values = Vec::with_capacity(targets.len());
            for column in &targets {
                let value = column.ty.take(&mut rest).ok_or_else(|| self.unreadable())?;
                // not a slice: it may be remembered for longer than the rest
                values.push(Bytes::copy_from_slice(value));
            }
            found.insert(key, Found::Live { version, values });
        }
        limit.learn(found.len(), bytes.len());
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

    fn take_version(&self, rest: &mut &[u8]) -> Result<Version> {
        let version = Version::TYPE.take(rest).and_then(Version::from_bytes);
        version.ok_or_else(|| self.unreadable())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_were_looked_up_are_remembered_up_to_a_limit() {
        const VALUE: usize = 1 << 20;
        let mut known = Known::default();
        known.recent.left_out(0);
        for n in 0..100_u8 {
            let found = HashMap::from([(Key::from([n]), Found::Absent)]);
            known.begin(found, Version::default());
            let values = known.remembers(&[n]).then(|| vec![Bytes::from(vec![0_u8; VALUE])]);
            known.recent.note(&[n], values);
        }
        let remembered = (0..100).filter(|n| known.recent.remembers(&[*n])).count();
        assert_eq!(remembered, 8);
        known.settle();
        assert!(known.found.is_empty());
    }
}
