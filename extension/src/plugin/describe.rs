//! A table as the wire shows it, and how its tuples are read.

use pgrx::pg_sys;
use rsrepl_wire::{Column, Encoding, Relation, ReplicaIdentity};

use super::invalidation::type_hash;
use super::publications::Operations;
use super::report;
use super::text::ServerText;
use super::tuple::{Attribute, Run, Writing};
use super::types::{ColumnType, alignment, schema_name};
use crate::compat;

/// `pg_attribute.attgenerated` of a column that is not stored (from PostgreSQL 18 on).
const GENERATED_VIRTUAL: u8 = b'v';

/// What is known of a table.
pub(super) struct Table {
    pub(super) relation: Relation,
    /// The physical attributes, dropped ones included.
    pub(super) attributes: Vec<Attribute>,
    pub(super) wanted: Operations,
    /// Hash values of the types that are not builtin: they may change.
    pub(super) types: Vec<u32>,
    /// Holds the functions of `attributes`; null when there are none.
    memory: pg_sys::MemoryContext,
}

impl Table {
    /// Looks everything up that changes of this table need.
    ///
    /// # Safety
    /// `relation` is open, there is a snapshot for catalogs, and `parent` lives longer than the table.
    pub(super) unsafe fn describe(
        relation: pg_sys::Relation,
        wanted: Operations,
        parent: pg_sys::MemoryContext,
        text: ServerText,
    ) -> Table {
        // SAFETY: as promised by the caller
        let (oid, class, physical) = unsafe {
            let class = &*(*relation).rd_rel;
            ((*relation).rd_id, class, compat::attributes((*relation).rd_att))
        };
        let identity = ReplicaIdentity::from_byte(class.relreplident as u8)
            .unwrap_or(ReplicaIdentity::Nothing);
        // SAFETY: `relation` is open
        let key = unsafe { key_attributes(relation, identity) };
        let mut functions = Functions { parent, memory: std::ptr::null_mut() };
        let mut columns = Vec::with_capacity(physical.len());
        let mut attributes = Vec::with_capacity(physical.len());
        let mut types = Vec::new();
        for attribute in physical {
            let there =
                !attribute.attisdropped && attribute.attgenerated as u8 != GENERATED_VIRTUAL;
            let column_type =
                there.then(|| ColumnType::resolve(attribute.atttypid, attribute.atttypmod, text));
            let writing =
                column_type.as_ref().map_or(Writing::Skip, |t| functions.writing(t, attribute));
            attributes.push(Attribute {
                len: attribute.attlen,
                align: usize::from(alignment(attribute.attalign as u8)),
                by_value: attribute.attbyval,
                writing,
                run: Run::default(),
            });
            if let Some(column_type) = column_type {
                let mut may_change = [attribute.atttypid, column_type.base_oid].to_vec();
                may_change.push(column_type.element_oid);
                may_change.retain(|oid| oid.to_u32() >= pg_sys::FirstNormalObjectId);
                types.extend(may_change.into_iter().map(type_hash));
                columns.push(column(attribute, column_type, &key, text));
            }
        }
        Run::find(&mut attributes);
        types.sort_unstable();
        types.dedup();
        Table {
            relation: Relation {
                oid: oid.to_u32(),
                schema: schema_name(class.relnamespace, text),
                name: text.name(&class.relname),
                replica_identity: identity,
                columns,
            },
            attributes,
            wanted,
            types,
            memory: functions.finish(),
        }
    }

    /// A table of which nothing is wanted needs no description.
    pub(super) fn unwanted(attributes: usize) -> Table {
        let skip = || Attribute {
            len: -1,
            align: 1,
            by_value: false,
            writing: Writing::Skip,
            run: Run::default(),
        };
        Table {
            relation: Relation {
                oid: 0,
                schema: String::new(),
                name: String::new(),
                replica_identity: ReplicaIdentity::Nothing,
                columns: Vec::new(),
            },
            attributes: std::iter::repeat_with(skip).take(attributes).collect(),
            wanted: Operations::NONE,
            types: Vec::new(),
            memory: std::ptr::null_mut(),
        }
    }

    /// Frees what PostgreSQL holds for the table. Not in `drop`: at the end of a session the memory
    /// context of the session has already taken this one with it.
    pub(super) fn release(self) {
        if !self.memory.is_null() {
            // SAFETY: a child of the session's context, which is still there; nothing points into it
            // but `attributes`, which end here
            unsafe { pg_sys::MemoryContextDelete(self.memory) };
        }
    }
}

fn column(
    attribute: &pg_sys::FormData_pg_attribute,
    of: ColumnType,
    key: &[i16],
    text: ServerText,
) -> Column {
    Column {
        name: text.name(&attribute.attname),
        number: attribute.attnum.unsigned_abs(), // of a column, so positive
        key: key.contains(&attribute.attnum),
        not_null: attribute.attnotnull,
        generated: attribute.attgenerated != 0,
        type_oid: attribute.atttypid.to_u32(),
        base_oid: of.base_oid.to_u32(),
        typmod: of.typmod,
        kind: of.kind,
        element_oid: of.element_oid.to_u32(),
        element_kind: of.element_kind,
        type_schema: of.schema,
        type_name: of.name,
        encoding: of.encoding,
    }
}

/// Makes the table's memory context when the first function needs it.
struct Functions {
    parent: pg_sys::MemoryContext,
    memory: pg_sys::MemoryContext,
}

impl Drop for Functions {
    /// After an ERROR in the middle of a description: the session may go on (see `streaming`).
    fn drop(&mut self) {
        if !self.memory.is_null() {
            // SAFETY: made by `function`, a child of the session's context; nothing points into it
            unsafe { pg_sys::MemoryContextDelete(self.memory) };
        }
    }
}

impl Functions {
    /// The memory of the functions, now the table's.
    fn finish(mut self) -> pg_sys::MemoryContext {
        std::mem::replace(&mut self.memory, std::ptr::null_mut())
    }

    fn writing(&mut self, of: &ColumnType, attribute: &pg_sys::FormData_pg_attribute) -> Writing {
        match of.encoding {
            Encoding::Fixed(width) => {
                if i16::from(width) != attribute.attlen {
                    report::internal(format!("type {} has another width", of.base_oid.to_u32()));
                }
                Writing::Fixed
            }
            Encoding::Varlena if of.base_oid == pg_sys::NAMEOID => Writing::Name,
            Encoding::Varlena => Writing::Payload { text: of.is_text },
            Encoding::Numeric | Encoding::Jsonb | Encoding::Array(_) => {
                Writing::Payload { text: false }
            }
            Encoding::Send => Writing::Send(self.function(of.function)),
            Encoding::Text => Writing::Text(self.function(of.function)),
        }
    }

    fn function(&mut self, oid: pg_sys::Oid) -> *mut pg_sys::FmgrInfo {
        // SAFETY: the contexts are valid; what is allocated is filled before it is used
        unsafe {
            if self.memory.is_null() {
                self.memory = pg_sys::AllocSetContextCreateExtended(
                    self.parent,
                    c"rsrepl table".as_ptr(),
                    pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
                    pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
                    pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
                );
            }
            let size = size_of::<pg_sys::FmgrInfo>();
            let function = pg_sys::MemoryContextAllocZero(self.memory, size).cast();
            pg_sys::fmgr_info_cxt(oid, function, self.memory);
            function
        }
    }
}

/// Attribute numbers of the replica identity; under FULL of the primary key.
///
/// # Safety
/// `relation` is open, and there is a snapshot for catalogs.
unsafe fn key_attributes(relation: pg_sys::Relation, identity: ReplicaIdentity) -> Vec<i16> {
    // SAFETY: as promised by the caller; an index has as many columns as it says
    unsafe {
        let oid = match identity {
            ReplicaIdentity::Default | ReplicaIdentity::Index => {
                pg_sys::RelationGetReplicaIndex(relation)
            }
            ReplicaIdentity::Full => compat::primary_key_index(relation),
            ReplicaIdentity::Nothing => pg_sys::InvalidOid,
        };
        if oid == pg_sys::InvalidOid {
            return Vec::new();
        }
        let index = pg_sys::RelationIdGetRelation(oid);
        if index.is_null() {
            report::internal(format!("there is no index {}", oid.to_u32()));
        }
        let form = (*index).rd_index;
        let count = (*form).indnkeyatts as usize;
        let key = (*form).indkey.values.as_slice(count).to_vec();
        pg_sys::RelationClose(index);
        key
    }
}
