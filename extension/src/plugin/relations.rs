//! The cache of tables: bounded, and rebuilt after invalidations.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use pgrx::pg_sys;

use super::describe::Table;
use super::invalidation::Marks;
use super::publications::Publications;
use super::report;
use super::text::ServerText;

/// Columns of all tables in the cache, dropped ones included; some 300 bytes each. A table counts as
/// one more, as there may be any number without columns. Beyond that the cache is emptied, and tables
/// that are still used are described again.
const COLUMNS_MAX: usize = 64 * 1024;

/// A table in the cache.
pub(super) struct Entry {
    oid: u32,
    /// How many attributes its tuples have, dropped ones included.
    attributes: usize,
    /// The partitioned tables above it: what happens to them may concern it.
    ancestors: Vec<u32>,
    pub(super) table: Table,
    /// This very description is on the wire, for whole transactions.
    pub(super) sent: bool,
    /// The part of a transaction in progress that has this very description.
    pub(super) sent_in_part: Option<u64>,
    /// That a row cannot be identified was said.
    pub(super) warned: bool,
    valid: bool,
}

/// Hashes an oid: they are not chosen by users, so one multiplication will do.
#[derive(Default)]
struct OidHasher(u64);

impl Hasher for OidHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, oid: u32) {
        self.0 = (self.0 ^ u64::from(oid)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    }
}

impl Entry {
    /// What it counts for against [`COLUMNS_MAX`].
    fn columns(&self) -> usize {
        self.attributes + 1
    }

    /// It comes under its own name, and not under that of a partitioned table above it.
    pub(super) fn is_shown_as_itself(&self) -> bool {
        self.oid == self.table.relation.oid
    }
}

/// What a table is described with.
pub(super) struct Catalog {
    pub(super) publications: Publications,
    pub(super) text: ServerText,
    /// Parent of the tables' memory contexts.
    pub(super) memory: pg_sys::MemoryContext,
}

/// All tables that were seen and not yet forgotten.
#[derive(Default)]
pub(super) struct Relations {
    entries: Vec<Entry>,
    /// Where the table of an oid is in `entries`.
    places: HashMap<u32, usize, BuildHasherDefault<OidHasher>>,
    /// The place of the last change's table, which is mostly that of the next one.
    last: usize,
    columns: usize,
}

impl Relations {
    /// The table as it is now, described again if something about it changed.
    ///
    /// # Safety
    /// `relation` is open, and there is a snapshot for catalogs.
    #[inline]
    pub(super) unsafe fn entry(
        &mut self,
        relation: pg_sys::Relation,
        catalog: &mut Catalog,
    ) -> &mut Entry {
        // SAFETY: as promised by the caller
        let (oid, columns) =
            unsafe { ((*relation).rd_id.to_u32(), (*(*relation).rd_att).natts as usize) };
        if self.entries.get(self.last).is_none_or(|entry| entry.oid != oid) {
            self.last = self.places.get(&oid).copied().unwrap_or(usize::MAX);
        }
        let known = self.entries.get(self.last);
        if !known.is_some_and(|entry| entry.valid && entry.attributes == columns) {
            // SAFETY: as promised by the caller
            unsafe { self.rebuild(relation, catalog) };
        }
        match self.entries.get_mut(self.last) {
            Some(entry) => entry,
            None => report::internal(format!("table {oid} is not in the cache")),
        }
    }

    /// Describes the table at `last`, or a new one.
    ///
    /// # Safety
    /// As [`Self::entry`].
    #[cold]
    unsafe fn rebuild(&mut self, relation: pg_sys::Relation, catalog: &mut Catalog) {
        // SAFETY: as promised by the caller; the catalog's memory is the session's
        let mut entry = unsafe {
            let published = catalog.publications.published(relation);
            let (wanted, memory, text) = (published.operations, catalog.memory, catalog.text);
            let table = match &published.shown {
                Some(shown) => Table::describe(relation, wanted, shown, memory, text),
                None => Table::unwanted(),
            };
            Entry {
                oid: (*relation).rd_id.to_u32(),
                attributes: (*(*relation).rd_att).natts as usize,
                ancestors: published.ancestors,
                table,
                sent: false,
                sent_in_part: None,
                warned: false,
                valid: true,
            }
        };
        let known = self.entries.get(self.last).map_or(0, Entry::columns);
        let columns = self.columns - known + entry.columns();
        if columns > COLUMNS_MAX {
            self.clear();
        } else if let Some(old) = self.entries.get_mut(self.last) {
            if old.table.relation == entry.table.relation {
                (entry.sent, entry.sent_in_part) = (old.sent, old.sent_in_part);
            }
            entry.warned = old.warned;
            self.columns = columns;
            std::mem::replace(old, entry).table.release();
            return;
        }
        self.columns += entry.columns();
        self.last = self.entries.len();
        self.places.insert(entry.oid, self.last);
        self.entries.push(entry);
    }

    /// Marks what may have changed; nothing is freed.
    pub(super) fn invalidate(&mut self, marks: &Marks) {
        if marks.all || marks.publications {
            return self.entries.iter_mut().for_each(|entry| entry.valid = false);
        }
        let changed = marks.relations();
        for oid in changed {
            let place = self.places.get(oid).copied().unwrap_or(usize::MAX);
            if let Some(entry) = self.entries.get_mut(place) {
                entry.valid = false;
            }
        }
        let below = |entry: &Entry| entry.ancestors.iter().any(|oid| changed.contains(oid));
        for entry in &mut self.entries {
            entry.valid &= !below(entry);
        }
        if !marks.types().is_empty() {
            let changed =
                |entry: &Entry| entry.table.types.iter().any(|t| marks.types().contains(t));
            for entry in &mut self.entries {
                entry.valid &= !changed(entry);
            }
        }
    }

    /// Forgets all tables.
    pub(super) fn clear(&mut self) {
        self.places.clear();
        for entry in self.entries.drain(..) {
            entry.table.release();
        }
        self.columns = 0;
    }
}
