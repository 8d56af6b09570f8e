//! Which operations of which tables are wanted, and as what they are shown: as `pgoutput` of the
//! server's version decides it.
//!
//! A partition may be published as itself or, with `publish_via_partition_root`, as the topmost
//! partitioned table above it that a publication has. The operations are those of all its
//! publications; columns and rows are chosen by those alone that publish it as that table.

use std::ffi::{CStr, CString};

use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys;

use super::column_lists;
use super::options::elements;
use super::report;
use super::row_filter::Filters;
use crate::compat;

/// The operations of a table that are sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Operations {
    pub(super) insert: bool,
    pub(super) update: bool,
    pub(super) delete: bool,
    pub(super) truncate: bool,
}

impl Operations {
    const ALL: Operations = Operations { insert: true, update: true, delete: true, truncate: true };
    pub(super) const NONE: Operations =
        Operations { insert: false, update: false, delete: false, truncate: false };

    pub(super) fn any(self) -> bool {
        self.any_row() || self.truncate
    }

    /// Whatever happens to rows is sent.
    pub(super) fn every_row(self) -> bool {
        self.insert && self.update && self.delete
    }

    fn any_row(self) -> bool {
        self.insert || self.update || self.delete
    }

    fn add(&mut self, other: Operations) {
        self.insert |= other.insert;
        self.update |= other.update;
        self.delete |= other.delete;
        self.truncate |= other.truncate;
    }
}

/// A publication of the session.
pub(super) struct Publication {
    pub(super) oid: pg_sys::Oid,
    pub(super) all_tables: bool,
    via_root: bool,
    /// Publishes stored generated columns, too, of tables without a column list (from PostgreSQL 18 on).
    pub(super) generated: bool,
    pub(super) operations: Operations,
}

/// What is published of a table.
pub(super) struct Published {
    pub(super) operations: Operations,
    /// The partitioned tables above it: whatever happens to them may change all of this.
    pub(super) ancestors: Vec<u32>,
    /// As what it is shown; none when nothing is wanted.
    pub(super) shown: Option<Shown>,
}

/// The table that changes come under.
pub(super) struct Shown {
    /// The table itself, or a partitioned table above it.
    pub(super) relation: Opened,
    /// Numbers of its attributes that are wanted; `None`: all.
    pub(super) columns: Option<Vec<i16>>,
    pub(super) filters: Filters,
}

/// The publications of a session, read when first needed and again after they changed.
pub(super) struct Publications {
    names: Option<Vec<CString>>,
    loaded: Option<Vec<Publication>>,
}

impl Publications {
    /// `None`: every operation of every table.
    pub(super) fn new(names: Option<Vec<CString>>) -> Self {
        Publications { names, loaded: None }
    }

    /// Something changed in the catalogs of publications.
    pub(super) fn forget(&mut self) {
        self.loaded = None;
    }

    /// All that were asked for exist, or it does not matter. Needs a snapshot for catalogs.
    pub(super) fn are_there(&self) -> bool {
        let exists = |name: &CString| {
            // SAFETY: the result is a copy in the current memory context, or null
            unsafe { !pg_sys::GetPublicationByName(name.as_ptr(), true).is_null() }
        };
        compat::SKIPS_MISSING_PUBLICATIONS
            || self.loaded.is_some()
            || self.names.iter().flatten().all(exists)
    }

    /// What is published of the partitions of a partitioned table under their own names; nothing of other
    /// tables.
    ///
    /// # Safety
    /// As [`Self::published`].
    pub(super) unsafe fn of_partitions(&mut self, relation: pg_sys::Relation) -> Operations {
        // SAFETY: as promised by the caller
        let table = unsafe {
            if !is_partitioned(relation) || !pg_sys::is_publishable_relation(relation) {
                return Operations::NONE;
            }
            Table::of(relation)
        };
        let Some(names) = &self.names else { return Operations::ALL };
        let publications =
            self.loaded.get_or_insert_with(|| names.iter().filter_map(load).collect());
        let mut operations = Operations::NONE;
        for publication in publications.iter().filter(|of| table.partitions_shown_by(of)) {
            operations.add(publication.operations);
        }
        operations
    }

    /// The publications agree about the columns of a table; otherwise [`Self::published`] is an ERROR.
    ///
    /// # Safety
    /// `relation` is open, and there is a snapshot for catalogs.
    pub(super) unsafe fn agree(&mut self, relation: pg_sys::Relation) -> bool {
        let Some(names) = &self.names else { return true };
        let publications =
            self.loaded.get_or_insert_with(|| names.iter().filter_map(load).collect());
        // SAFETY: as promised by the caller
        unsafe {
            let (operations, reached) = Table::of(relation).reached_by(publications);
            !operations.any_row()
                || column_lists::agreed(&reached.publications, Opened::new(reached.oid).0).is_ok()
        }
    }

    /// What is published of a table.
    ///
    /// # Safety
    /// `relation` is open, and there is a snapshot for catalogs.
    pub(super) unsafe fn published(&mut self, relation: pg_sys::Relation) -> Published {
        // SAFETY: as promised by the caller
        unsafe {
            let oid = (*relation).rd_id;
            let mut published =
                Published { operations: Operations::NONE, ancestors: Vec::new(), shown: None };
            if !pg_sys::is_publishable_relation(relation) {
                return published;
            }
            let Some(names) = &self.names else {
                if is_partitioned(relation) {
                    return published; // its partitions have the rows, and are truncated with it
                }
                published.operations = Operations::ALL;
                published.shown = Some(Shown::whole(oid));
                return published;
            };
            let publications =
                self.loaded.get_or_insert_with(|| names.iter().filter_map(load).collect());
            let table = Table::of(relation);
            published.ancestors = table.ancestors().map(pg_sys::Oid::to_u32).collect();
            let (operations, reached) = table.reached_by(publications);
            published.operations = operations;
            if operations.any_row() {
                published.shown = Some(Shown::by(&reached));
            } else if operations.any() {
                published.shown = Some(Shown::whole(reached.oid));
            }
            published
        }
    }
}

impl Shown {
    /// # Safety
    /// There is such a table, and a snapshot for catalogs.
    unsafe fn whole(oid: pg_sys::Oid) -> Self {
        // SAFETY: as promised by the caller
        let relation = unsafe { Opened::new(oid) };
        Shown { relation, columns: None, filters: Filters::default() }
    }

    /// # Safety
    /// As [`Self::whole`].
    unsafe fn by(reached: &Reached<'_>) -> Self {
        // SAFETY: as promised by the caller
        unsafe {
            let relation = Opened::new(reached.oid);
            let columns = column_lists::combined(&reached.publications, relation.0);
            let filters = Filters::of(&reached.publications, relation.0);
            Shown { relation, columns, filters }
        }
    }
}

/// A table that is closed when this is dropped; after an ERROR PostgreSQL would do it, too.
pub(super) struct Opened(pub(super) pg_sys::Relation);

impl Opened {
    /// # Safety
    /// There is a snapshot for catalogs.
    unsafe fn new(oid: pg_sys::Oid) -> Self {
        // SAFETY: as promised by the caller
        match unsafe { Self::find(oid) } {
            Some(opened) => opened,
            None => report::internal(format!("there is no table {}", oid.to_u32())),
        }
    }

    /// `None`: there is no such table.
    ///
    /// # Safety
    /// As [`Self::new`].
    pub(super) unsafe fn find(oid: pg_sys::Oid) -> Option<Self> {
        // SAFETY: as promised by the caller
        let relation = unsafe { pg_sys::RelationIdGetRelation(oid) };
        // not `then_some`: one that is null must never be dropped
        (!relation.is_null()).then(|| Opened(relation))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: opened by `find`
        unsafe { pg_sys::RelationClose(self.0) };
    }
}

/// # Safety
/// `relation` is open.
unsafe fn is_partitioned(relation: pg_sys::Relation) -> bool {
    // SAFETY: as promised by the caller
    unsafe { (*(*relation).rd_rel).relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE }
}

/// `None`: there is no such publication, and this version of PostgreSQL goes on without it.
fn load(name: &CString) -> Option<Publication> {
    // SAFETY: the result is a copy in the current memory context, or null
    let found = unsafe { pg_sys::GetPublicationByName(name.as_ptr(), true).as_ref() };
    let Some(found) = found else {
        missing(name);
        return None;
    };
    Some(Publication {
        oid: found.oid,
        all_tables: found.alltables,
        via_root: found.pubviaroot,
        generated: compat::publishes_generated(found),
        operations: Operations {
            insert: found.pubactions.pubinsert,
            update: found.pubactions.pubupdate,
            delete: found.pubactions.pubdelete,
            truncate: found.pubactions.pubtruncate,
        },
    })
}

fn missing(name: &CStr) {
    let message = format!("publication \"{}\" does not exist", name.to_string_lossy());
    let hint = "A publication is looked up as of the change that is decoded: it must have been created \
                before the slot, or before the first change that the slot still has to send.";
    if compat::SKIPS_MISSING_PUBLICATIONS {
        report::warn(Code::ERRCODE_UNDEFINED_OBJECT, message, hint);
    } else {
        report::fail(Code::ERRCODE_UNDEFINED_OBJECT, message, hint);
    }
}

/// A table, and through which publications it may be reached.
struct Table {
    oid: pg_sys::Oid,
    partitioned: bool,
    publications: *const pg_sys::List,
    schema_publications: *const pg_sys::List,
    /// For a partition: the tables above it, the nearest first.
    ancestors: *mut pg_sys::List,
}

/// The table that another one is published as, and the publications that do it.
struct Reached<'a> {
    oid: pg_sys::Oid,
    /// How far above it is.
    level: usize,
    publications: Vec<&'a Publication>,
}

impl Table {
    unsafe fn of(relation: pg_sys::Relation) -> Table {
        // SAFETY: `relation` is open; the lists are made in the current memory context
        unsafe {
            let oid = (*relation).rd_id;
            let class = &*(*relation).rd_rel;
            let ancestors = match class.relispartition {
                true => compat::partition_ancestors(oid),
                false => std::ptr::null_mut(),
            };
            Table {
                oid,
                partitioned: is_partitioned(relation),
                publications: pg_sys::GetRelationPublications(oid),
                schema_publications: pg_sys::GetSchemaPublications(class.relnamespace),
                ancestors,
            }
        }
    }

    fn ancestors(&self) -> impl DoubleEndedIterator<Item = pg_sys::Oid> + '_ {
        // SAFETY: a list of oids made by `of`
        unsafe { elements(self.ancestors).iter().map(|cell| cell.oid_value) }
    }

    /// All operations, and the topmost table that any of the publications shows it as.
    fn reached_by<'a>(&self, publications: &'a [Publication]) -> (Operations, Reached<'a>) {
        let mut operations = Operations::NONE;
        let mut reached = Reached { oid: self.oid, level: 0, publications: Vec::new() };
        for publication in publications {
            let Some((level, oid)) = self.shown_by(publication) else { continue };
            operations.add(publication.operations);
            if level > reached.level {
                reached = Reached { oid, level, publications: Vec::new() };
            }
            if level == reached.level {
                reached.publications.push(publication);
            }
        }
        (operations, reached)
    }

    /// The table that a publication shows this one as, and how far above it is.
    fn shown_by(&self, publication: &Publication) -> Option<(usize, pg_sys::Oid)> {
        let itself = Some((0, self.oid));
        if self.partitioned && !publication.via_root {
            return None; // its partitions are published instead
        }
        if publication.all_tables {
            let root = self.ancestors().next_back().filter(|_| publication.via_root);
            return root.map_or(itself, |root| Some((self.ancestors().count(), root)));
        }
        let (named, in_schema, level, above) = self.membership(publication);
        match above {
            pg_sys::InvalidOid => itself.filter(|_| named || in_schema),
            above if publication.via_root => Some((level, above)),
            _ => itself,
        }
    }

    /// Of a partitioned table: whether a publication shows its partitions as themselves.
    fn partitions_shown_by(&self, publication: &Publication) -> bool {
        let (named, in_schema, _, above) = self.membership(publication);
        let has = named || in_schema || publication.all_tables || above != pg_sys::InvalidOid;
        has && !publication.via_root
    }

    /// Whether a publication has it by name or by schema, and the topmost table above it that it has, with how
    /// far above that is.
    fn membership(&self, publication: &Publication) -> (bool, bool, usize, pg_sys::Oid) {
        let mut level = 0;
        // SAFETY: lists of oids made by `of`
        let (named, in_schema, above) = unsafe {
            (
                pg_sys::list_member_oid(self.publications, publication.oid),
                pg_sys::list_member_oid(self.schema_publications, publication.oid),
                pg_sys::GetTopMostAncestorInPublication(
                    publication.oid,
                    self.ancestors,
                    &mut level,
                ),
            )
        };
        (named, in_schema, usize::try_from(level).unwrap_or(0), above)
    }
}
