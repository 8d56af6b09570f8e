//! Whether two batches may be written side by side: whether either can see what the other does.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use rsrepl_wire::DecodeError;

use super::key::{Key, KeyColumns};
use super::{Plan, TableChanges};
use crate::batch::Operation;

impl Plan {
    /// Whether neither batch can see what the other does, so that they may be written in any order and
    /// at the same time: no row is changed by both, and no table emptied by either. (Rows that are
    /// inserted by both never have a unique value in common: on the source they are there together.)
    /// Keys are compared by their bytes: two that the target takes for equal although their bytes differ
    /// (`1.0` and `1.00`) show as a wait, an error, or a row count that is wrong, none of which is
    /// silent. Constraints that reach from one table or row to another are not looked at; the target has them,
    /// and refuses or waits.
    pub fn is_independent_of(&self, other: &Plan) -> bool {
        if !self.truncates.is_empty() || !other.truncates.is_empty() {
            return false;
        }
        let mut by_name = HashMap::<_, Vec<&TableChanges>>::new();
        for table in &other.tables {
            by_name.entry(table.name()).or_default().push(table);
        }
        self.tables.iter().all(|table| {
            let shared = by_name.get(&table.name()).into_iter().flatten();
            shared.into_iter().all(|other| table.is_independent_of(other))
        })
    }
}

impl TableChanges {
    fn name(&self) -> (&str, &str) {
        (&self.relation.schema, &self.relation.name)
    }

    fn is_independent_of(&self, other: &TableChanges) -> bool {
        if self.inserts_only && other.inserts_only {
            return true;
        }
        // keys of other columns cannot be compared
        self.relation == other.relation
            && match (self.key_hashes(), other.key_hashes()) {
                (Some(ours), Some(theirs)) => are_disjoint(ours, theirs),
                _ => false,
            }
    }

    /// Hashes of all keys that rows have or had, in their order; `None` when a row is not told by a key.
    /// Two keys with one hash keep batches apart that could meet, which does no harm.
    fn key_hashes(&self) -> Option<&[u64]> {
        self.key_hashes.get_or_init(|| self.hash_keys().unwrap_or_default()).as_deref()
    }

    fn hash_keys(&self) -> Result<Option<Vec<u64>>, DecodeError> {
        let relation = &*self.relation;
        let Some(columns) = KeyColumns::of(relation) else { return Ok(None) };
        let mut hashes = Vec::with_capacity(self.changes.len());
        for change in &self.changes {
            let (old, new) = match &change.operation {
                Operation::Insert { new } => (None, Some(new)),
                Operation::Update { old, new } => (old.as_ref().map(|old| &old.row), Some(new)),
                Operation::Delete { old } => (Some(&old.row), None),
                Operation::Truncate { .. } | Operation::Schema(_) => return Ok(None),
            };
            for (row, older) in [(old, None), (new, old)] {
                let Some(row) = row else { continue };
                match columns.read(relation, row, older)? {
                    Some(key) => hashes.push(hash(&key)),
                    None => return Ok(None),
                }
            }
        }
        hashes.sort_unstable();
        hashes.dedup();
        Ok(Some(hashes))
    }
}

fn hash(key: &Key<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// Of two ascending lists.
fn are_disjoint(a: &[u64], b: &[u64]) -> bool {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
        match x.cmp(y) {
            std::cmp::Ordering::Less => a.next(),
            std::cmp::Ordering::Greater => b.next(),
            std::cmp::Ordering::Equal => return false,
        };
    }
    true
}
