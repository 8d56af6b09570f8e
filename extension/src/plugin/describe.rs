//! A table as the wire shows it, and how its tuples are read.

use pgrx::pg_sys;
use rsrepl_wire::{Column, Encoding, OldRowKind, Relation, ReplicaIdentity};

use super::conversion::{self, Conversion};
use super::invalidation::type_hash;
use super::memory::TableMemory;
use super::publications::{Operations, Shown};
use super::report;
use super::row_filter::RowFilter;
use super::text::ServerText;
use super::tuple::{Attribute, Run, Writing};
use super::types::{ColumnType, alignment, schema_name};
use crate::compat;

/// `pg_attribute.attgenerated` of a column that is not stored (from PostgreSQL 18 on).
const GENERATED_VIRTUAL: u8 = b'v';

/// What is known of a table.
pub(super) struct Table {
    /// The table itself, or the partitioned one that it is published as.
    pub(super) relation: Relation,
    /// The physical attributes of that, dropped ones included.
    pub(super) attributes: Vec<Attribute>,
    pub(super) wanted: Operations,
    /// How much an old row has: that is the table's own matter.
    pub(super) old_rows: OldRowKind,
    /// What its tuples need to have those attributes.
    pub(super) conversion: Option<Conversion>,
    /// Which rows are wanted.
    pub(super) filter: Option<RowFilter>,
    /// Hash values of the types that are not builtin: they may change.
    pub(super) types: Vec<u32>,
    /// Holds what PostgreSQL has for the table; null when that is nothing.
    memory: pg_sys::MemoryContext,
}

impl Table {
    /// Looks everything up that changes of this table need.
    ///
    /// # Safety
    /// `table` is open, there is a snapshot for catalogs, and `parent` lives longer than the result.
    pub(super) unsafe fn describe(
        table: pg_sys::Relation,
        wanted: Operations,
        shown: &Shown,
        parent: pg_sys::MemoryContext,
        text: ServerText,
    ) -> Table {
        let relation = shown.relation.0;
        // SAFETY: as promised by the caller
        let (oid, class, physical, own_identity) = unsafe {
            let class = &*(*relation).rd_rel;
            let own = identity_of(&*(*table).rd_rel);
            ((*relation).rd_id, class, compat::attributes((*relation).rd_att), own)
        };
        let identity = identity_of(class);
        // SAFETY: `relation` is open
        let key = unsafe { key_attributes(relation, identity) };
        let mut memory = TableMemory::below(parent);
        let mut columns = Vec::with_capacity(physical.len());
        let mut attributes = Vec::with_capacity(physical.len());
        let mut types = Vec::new();
        for attribute in physical {
            let listed = shown.columns.as_ref().is_none_or(|list| list.contains(&attribute.attnum));
            let there = listed
                && !attribute.attisdropped
                && attribute.attgenerated as u8 != GENERATED_VIRTUAL;
            let column_type =
                there.then(|| ColumnType::resolve(attribute.atttypid, attribute.atttypmod, text));
            let writing = column_type
                .as_ref()
                .map_or(Writing::Skip, |of| writing(of, attribute, &mut memory));
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
        // SAFETY: both are open; tuples are those of `table`, or converted
        let (conversion, filter) = unsafe {
            let conversion = Conversion::between(table, relation, &mut memory);
            let desc = |memory: &mut TableMemory| match &conversion {
                Some(conversion) => conversion.desc(),
                None => conversion::copy((*table).rd_att, memory),
            };
            let filter = RowFilter::compile(&shown.filters, relation, desc, &mut memory);
            (conversion, filter)
        };
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
            old_rows: match own_identity {
                ReplicaIdentity::Full => OldRowKind::Full,
                _ => OldRowKind::Key,
            },
            conversion,
            filter,
            types,
            memory: memory.keep(),
        }
    }

    /// A table of which nothing is wanted needs no description.
    pub(super) fn unwanted() -> Table {
        Table {
            relation: Relation {
                oid: 0,
                schema: String::new(),
                name: String::new(),
                replica_identity: ReplicaIdentity::Nothing,
                columns: Vec::new(),
            },
            attributes: Vec::new(),
            wanted: Operations::NONE,
            old_rows: OldRowKind::Key,
            conversion: None,
            filter: None,
            types: Vec::new(),
            memory: std::ptr::null_mut(),
        }
    }

    /// Frees what PostgreSQL holds for the table. Not in `drop`: at the end of a session the memory
    /// context of the session has already taken this one with it.
    pub(super) fn release(self) {
        if !self.memory.is_null() {
            // SAFETY: a child of the session's context, which is still there; nothing points into it
            // but what ends here
            unsafe { pg_sys::MemoryContextDelete(self.memory) };
        }
    }
}

fn identity_of(class: &pg_sys::FormData_pg_class) -> ReplicaIdentity {
    ReplicaIdentity::from_byte(class.relreplident as u8).unwrap_or(ReplicaIdentity::Nothing)
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

fn writing(
    of: &ColumnType,
    attribute: &pg_sys::FormData_pg_attribute,
    memory: &mut TableMemory,
) -> Writing {
    if let Some(element) = of.texts {
        return Writing::Texts(element);
    }
    match of.encoding {
        Encoding::Fixed(width) => {
            if i16::from(width) != attribute.attlen {
                report::internal(format!("type {} has another width", of.base_oid.to_u32()));
            }
            Writing::Fixed
        }
        Encoding::Varlena if of.base_oid == pg_sys::NAMEOID => Writing::Name,
        Encoding::Varlena if of.is_foreign_text => Writing::ForeignText,
        Encoding::Varlena | Encoding::Numeric | Encoding::Jsonb | Encoding::Array(_) => {
            Writing::Payload
        }
        Encoding::Send => Writing::Send(function(of.function, memory)),
        Encoding::Text => Writing::Text(function(of.function, memory)),
    }
}

fn function(oid: pg_sys::Oid, memory: &mut TableMemory) -> *mut pg_sys::FmgrInfo {
    let context = memory.context();
    // SAFETY: the context is valid; what is allocated is filled before it is used
    unsafe {
        let size = size_of::<pg_sys::FmgrInfo>();
        let function = pg_sys::MemoryContextAllocZero(context, size).cast();
        pg_sys::fmgr_info_cxt(oid, function, context);
        function
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
