//! Reading a tree of values by asking for keys: what was asked for is what is known, so that unknown
//! keys, the key reference of the documentation and the defaults cannot drift apart.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::value::Setting;
use crate::redact::scrub;

/// How far, in edits, a misspelt key may be from the one that is suggested.
const EDITS_MAX: usize = 4;

/// A key that can be set: its path with `[]` for an index, and its default as it would be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub path: String,
    /// `None`: required, or absent means "none".
    pub default: Option<&'static str>,
}

/// What one reading of a tree gathers.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Path of a value → what it came from in the environment. Such values are not shown.
    pub(super) origins: BTreeMap<String, String>,
    problems: RefCell<Vec<String>>,
    unknown: RefCell<Vec<(String, String)>>,
    known: RefCell<Vec<Key>>,
}

impl Reading {
    pub(super) fn new(origins: BTreeMap<String, String>) -> Self {
        Reading { origins, ..Reading::default() }
    }

    /// Notes that something is wrong with the value at `path`.
    pub(super) fn problem(&self, path: &str, what: &str) {
        let origin =
            self.origins.get(path).map(|origin| format!(" (from {origin})")).unwrap_or_default();
        self.problems.borrow_mut().push(scrub(&format!("{path}{origin}: {what}")).into_owned());
    }

    /// Everything that was asked for, each key once.
    pub(super) fn known(self) -> Vec<Key> {
        let mut keys = self.known.into_inner();
        keys.dedup();
        keys
    }

    /// All that was wrong. `catalog` are the keys that there are.
    pub(super) fn into_problems(self, catalog: impl FnOnce() -> Vec<Key>) -> Vec<String> {
        let mut problems = self.problems.into_inner();
        let unknown = self.unknown.into_inner();
        if !unknown.is_empty() {
            let catalog = catalog();
            problems.extend(unknown.iter().map(|(table, key)| {
                let path = join(table, key);
                let origin = self.origins.get(&path).map(|from| format!(" (from {from})"));
                let hint = suggest(table, key, &catalog);
                format!("{path}{}: unknown key; {hint}", origin.unwrap_or_default())
            }));
        }
        problems
    }
}

/// What to write in the place of the unknown `key` of `table`.
fn suggest(table: &str, key: &str, catalog: &[Key]) -> String {
    let table = generic(table);
    let paths: BTreeSet<&str> =
        catalog.iter().flat_map(|known| path_and_tables(&known.path)).collect();
    let nearest = paths
        .iter()
        .filter_map(|path| {
            let (of, leaf) = path.rsplit_once('.').unwrap_or(("", path));
            let edits = strsim::damerau_levenshtein(key, leaf);
            // a part of the name ("slot" for "slot_name") counts as near too
            let near =
                edits <= EDITS_MAX.min(leaf.len() / 2) || leaf.contains(key) && key.len() > 2;
            near.then_some((edits + usize::from(of != table), path))
        })
        .min();
    if let Some((_, path)) = nearest {
        return format!("the nearest known key is {path}");
    }
    let prefix = if table.is_empty() { String::new() } else { format!("{table}.") };
    let rests = catalog.iter().filter_map(|known| known.path.strip_prefix(&prefix));
    let mut here: Vec<&str> =
        rests.map(|rest| rest.split(['.', '[']).next().unwrap_or(rest)).collect();
    here.dedup();
    format!("known here: {}", here.join(", "))
}

/// `a.b[].c` and the tables it is in: `a`, `a.b`.
fn path_and_tables(path: &str) -> impl Iterator<Item = &str> {
    let tables = path.match_indices('.').map(|(at, _)| path[..at].trim_end_matches("[]"));
    tables.chain(std::iter::once(path))
}

/// `targets.postgres[3]` → `targets.postgres[]`.
fn generic(path: &str) -> String {
    path.chars().filter(|c| !c.is_ascii_digit()).collect()
}

fn join(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

/// A table of the tree; each key is taken out as it is asked for.
///
/// The getters return `None` only after noting a problem, or when they say so: read everything
/// first, then put it together with `?`, and all problems are told at once.
pub(super) struct Table<'r> {
    reading: &'r Reading,
    path: String,
    map: Map<String, Value>,
}

impl<'r> Table<'r> {
    pub(super) fn root(reading: &'r Reading, map: Map<String, Value>) -> Self {
        Table { reading, path: String::new(), map }
    }

    /// The key's full path.
    pub(super) fn path(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Notes a problem with a key of this table.
    pub(super) fn problem(&self, key: &str, what: &str) {
        self.reading.problem(&self.path(key), what);
    }

    /// Notes a problem with the table itself.
    pub(super) fn problem_here(&self, what: &str) {
        self.reading.problem(&self.path, what);
    }

    fn take(&mut self, key: &str, default: Option<&'static str>) -> Option<Value> {
        let path = generic(&self.path(key));
        self.reading.known.borrow_mut().push(Key { path, default });
        // YAML's `key:` without a value
        self.map.remove(key).filter(|value| !value.is_null())
    }

    /// A value of this table as a `T`.
    pub(super) fn read<T: Setting>(&self, key: &str, value: &Value) -> Option<T> {
        let setting = T::read(value);
        if setting.is_none() {
            let shown = self.shown(key, value);
            self.problem(key, &format!("expected {}{shown}", T::EXPECTED));
        }
        setting
    }

    /// `, not …`, where the value may be shown.
    fn shown(&self, key: &str, value: &Value) -> String {
        const SHOWN_MAX: usize = 60;
        let secret = key == "connection_string";
        let text = match value {
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "a table".to_owned(),
            _ if secret || self.reading.origins.contains_key(&self.path(key)) => {
                return String::new();
            }
            scalar => scalar.to_string(),
        };
        if text.len() > SHOWN_MAX { String::new() } else { format!(", not {text}") }
    }

    /// A key that must be there.
    pub(super) fn required<T: Setting>(&mut self, key: &str) -> Option<T> {
        match self.take(key, None) {
            Some(value) => self.read(key, &value),
            None => {
                self.problem(key, "is missing");
                None
            }
        }
    }

    /// A key whose absence means `default`, which is written as in the file.
    pub(super) fn or<T: Setting>(&mut self, key: &str, default: &'static str) -> Option<T> {
        let value = self.take(key, Some(default)).unwrap_or_else(|| Value::from(default));
        self.read(key, &value)
    }

    /// The same with a rule that the value must keep; `rule` says what is wrong with it.
    pub(super) fn or_if<T: Setting>(
        &mut self,
        key: &str,
        default: &'static str,
        rule: impl FnOnce(&T) -> Option<String>,
    ) -> Option<T> {
        let value = self.or(key, default)?;
        match rule(&value) {
            None => Some(value),
            Some(what) => {
                self.problem(key, &what);
                None
            }
        }
    }

    /// A number within bounds, both included.
    pub(super) fn within<T: Setting + PartialOrd + std::fmt::Display>(
        &mut self,
        key: &str,
        default: &'static str,
        (low, high): (T, T),
    ) -> Option<T> {
        self.or_if(key, default, |value| {
            let inside = *value >= low && *value <= high;
            (!inside).then(|| format!("must be between {low} and {high}"))
        })
    }

    /// A key whose absence is `Some(None)`.
    pub(super) fn optional<T: Setting>(&mut self, key: &str) -> Option<Option<T>> {
        match self.take(key, None) {
            Some(value) => self.read(key, &value).map(Some),
            None => Some(None),
        }
    }

    /// A table whose keys the user chooses; `read` makes something of each value, with the table that
    /// problems are to be noted with.
    pub(super) fn map<T>(
        &mut self,
        key: &str,
        read: impl Fn(&Self, &str, Value) -> Option<T>,
    ) -> Option<BTreeMap<String, T>> {
        let entries = match self.take(key, None) {
            None => Map::new(),
            Some(Value::Object(entries)) => entries,
            Some(other) => {
                let shown = self.shown(key, &other);
                self.problem(key, &format!("expected a table{shown}"));
                return None;
            }
        };
        let inner = Table { reading: self.reading, path: self.path(key), map: Map::new() };
        // not straight into an Option: all problems are to be told
        let read: Vec<_> = entries.into_iter().map(|(k, v)| (read(&inner, &k, v), k)).collect();
        read.into_iter().map(|(value, key)| Some((key, value?))).collect()
    }

    /// A table below this one, empty when it is absent.
    pub(super) fn table(&mut self, key: &str) -> Table<'r> {
        let path = self.path(key);
        let map = match self.map.remove(key) {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(map)) => map,
            Some(other) => {
                let shown = self.shown(key, &other);
                self.problem(key, &format!("expected a table{shown}"));
                Map::new()
            }
        };
        Table { reading: self.reading, path, map }
    }

    /// An array of tables below this one.
    pub(super) fn tables(&mut self, key: &str) -> Vec<Table<'r>> {
        let items = match self.map.remove(key) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => {
                let path = self.path(key);
                self.problem(key, &format!("expected a list of tables: [[{path}]]"));
                Vec::new()
            }
        };
        let mut tables = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{}[{index}]", self.path(key));
            match item {
                Value::Object(map) => tables.push(Table { reading: self.reading, path, map }),
                _ => self.reading.problem(&path, "expected a table"),
            }
        }
        tables
    }

    /// What is left was not asked for.
    pub(super) fn finish(self) {
        let rest = self.map.into_iter().map(|(key, _)| (self.path.clone(), key));
        self.reading.unknown.borrow_mut().extend(rest);
    }
}
