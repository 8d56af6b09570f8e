//! How the values of a type are written: the decision of each column's encoding.
//!
//! Values whose form on disk is simple, or known to the reader (numeric, jsonb, arrays of such), go out
//! as they are on disk; the others in the form of their send function, unless that holds oids, which
//! mean something else in another database, or the reader could not make text of it: a type of users or
//! of an extension, and what is made of one, is sent as text, which every system takes.

use std::ffi::c_int;

use pg_sys::SysCacheIdentifier::TYPEOID;
use pgrx::pg_sys;
use rsrepl_wire::{Element, ElementEncoding, Encoding, TypeKind, text as forms};

use super::report;
use super::text::ServerText;

/// Builtin types whose bytes on disk are little-endian fields and nothing else, with their width.
const FIXED: &[(pg_sys::Oid, u8)] = &[
    (pg_sys::BOOLOID, 1),
    (pg_sys::CHAROID, 1),
    (pg_sys::INT2OID, 2),
    (pg_sys::INT4OID, 4),
    (pg_sys::INT8OID, 8),
    (pg_sys::FLOAT4OID, 4),
    (pg_sys::FLOAT8OID, 8),
    (pg_sys::MONEYOID, 8),
    (pg_sys::DATEOID, 4),
    (pg_sys::TIMEOID, 8),
    (pg_sys::TIMETZOID, 12),
    (pg_sys::TIMESTAMPOID, 8),
    (pg_sys::TIMESTAMPTZOID, 8),
    (pg_sys::INTERVALOID, 16),
    (pg_sys::UUIDOID, 16),
    (pg_sys::MACADDROID, 6),
    (pg_sys::MACADDR8OID, 8),
    (pg_sys::PG_LSNOID, 8),
    (pg_sys::OIDOID, 4),
    (pg_sys::XIDOID, 4),
    (pg_sys::CIDOID, 4),
    (pg_sys::XID8OID, 8),
];

/// Send functions that give a varlena's payload as it is, in the client's encoding. What uses them
/// (text, varchar, char(n), json, citext, …) can be read without calling them.
const TEXT_SEND: &[u32] =
    &[pg_sys::F_TEXTSEND, pg_sys::F_VARCHARSEND, pg_sys::F_BPCHARSEND, pg_sys::F_JSON_SEND];

/// The same for bytes that are no text.
const BYTES_SEND: &[u32] = &[pg_sys::F_BYTEASEND];

/// Other builtin types that hold text, which their send functions convert by themselves.
const HOLD_TEXT: &[pg_sys::Oid] = &[
    pg_sys::NAMEOID,
    pg_sys::JSONBOID,
    pg_sys::JSONPATHOID,
    pg_sys::TSVECTOROID,
    pg_sys::TSQUERYOID,
];

/// Builtin types that hold oids of this database: their names travel, not the numbers.
const NAMES_OF_OIDS: &[pg_sys::Oid] = &[
    pg_sys::REGPROCOID,
    pg_sys::REGPROCEDUREOID,
    pg_sys::REGOPEROID,
    pg_sys::REGOPERATOROID,
    pg_sys::REGCLASSOID,
    pg_sys::REGTYPEOID,
    pg_sys::REGCONFIGOID,
    pg_sys::REGDICTIONARYOID,
    pg_sys::REGNAMESPACEOID,
    pg_sys::REGROLEOID,
    pg_sys::REGCOLLATIONOID,
];

/// A row of `pg_type`.
#[derive(Clone, Copy)]
struct Type {
    oid: pg_sys::Oid,
    form: pg_sys::FormData_pg_type,
}

impl Type {
    fn read(oid: pg_sys::Oid) -> Type {
        // SAFETY: the cache has one key, an oid; the row is copied before it is released
        let form = unsafe {
            let row = pg_sys::SearchSysCache1(TYPEOID as c_int, oid.into());
            if row.is_null() {
                report::internal(format!("there is no type {}", oid.to_u32()));
            }
            let form = *pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_type>();
            pg_sys::ReleaseSysCache(row);
            form
        };
        Type { oid, form }
    }

    fn is_domain(&self) -> bool {
        self.form.typtype as u8 == pg_sys::TYPTYPE_DOMAIN
    }

    /// The type under all domains, and the last type modifier on the way down (-1: none).
    fn base(self, mut typmod: i32) -> (Type, i32) {
        let mut base = self;
        while base.is_domain() {
            if base.form.typtypmod != -1 {
                typmod = base.form.typtypmod;
            }
            base = Type::read(base.form.typbasetype);
        }
        (base, typmod)
    }

    /// The element type of a true array, under all domains.
    fn element(&self) -> Option<Type> {
        self.element_and_modifier().map(|(element, _)| element)
    }

    /// The same with the modifier that a domain under the array gives its elements.
    fn element_and_modifier(&self) -> Option<(Type, i32)> {
        // SAFETY: a lookup by oid
        let element = unsafe { pg_sys::get_element_type(self.oid) };
        (element != pg_sys::InvalidOid).then(|| Type::read(element).base(-1))
    }

    /// The kind of a type that is no domain.
    fn kind(&self) -> TypeKind {
        // SAFETY: a lookup by oid
        if unsafe { pg_sys::get_element_type(self.oid) } != pg_sys::InvalidOid {
            return TypeKind::Array;
        }
        TypeKind::from_byte(self.form.typtype as u8).unwrap_or(TypeKind::Base)
    }

    fn is_builtin(&self) -> bool {
        self.oid.to_u32() < pg_sys::FirstNormalObjectId
    }

    /// Its send function is one of these builtin ones, maybe under another name (citext).
    fn sends_with(&self, functions: &[u32]) -> bool {
        let send = self.form.typsend.to_u32();
        if send < pg_sys::FirstNormalObjectId {
            return functions.contains(&send);
        }
        functions.iter().any(|function| address(self.form.typsend) == address((*function).into()))
    }

    /// Its send function gives the same bytes in any database. An array's has the oid of the element
    /// type at a known place, which a reader can mend; not so when it is `nested` in another value.
    fn sends_portably(&self, nested: bool) -> bool {
        let has_send = self.form.typsend != pg_sys::InvalidOid;
        if !has_send || NAMES_OF_OIDS.contains(&self.oid) {
            return false;
        }
        match self.kind() {
            TypeKind::Base | TypeKind::Enum => true,
            TypeKind::Composite | TypeKind::Pseudo => false,
            TypeKind::Range => {
                // SAFETY: a lookup by oid
                let subtype = unsafe { pg_sys::get_range_subtype(self.oid) };
                Type::read(subtype).base(-1).0.sends_portably(true)
            }
            TypeKind::Multirange => {
                // SAFETY: a lookup by oid
                let range = unsafe { pg_sys::get_multirange_range(self.oid) };
                Type::read(range).sends_portably(true)
            }
            // oidvector and its like have the kind of an array, and a text form of their own
            TypeKind::Array => {
                self.sends_as_array()
                    && self.element().is_some_and(|element| {
                        (!nested || element.is_builtin()) && element.sends_portably(true)
                    })
            }
        }
    }

    /// There may be text of the server's encoding in its values.
    fn may_hold_text(&self) -> bool {
        match self.kind() {
            TypeKind::Base => {
                !self.is_builtin() || HOLD_TEXT.contains(&self.oid) || self.sends_with(TEXT_SEND)
            }
            TypeKind::Array => self.element().is_some_and(|element| element.may_hold_text()),
            TypeKind::Range => {
                // SAFETY: a lookup by oid
                let subtype = unsafe { pg_sys::get_range_subtype(self.oid) };
                Type::read(subtype).base(-1).0.may_hold_text()
            }
            TypeKind::Multirange => {
                // SAFETY: a lookup by oid
                let range = unsafe { pg_sys::get_multirange_range(self.oid) };
                Type::read(range).may_hold_text()
            }
            TypeKind::Enum | TypeKind::Composite | TypeKind::Pseudo => true,
        }
    }

    /// An array of texts: its elements can be converted one by one.
    fn texts(&self) -> Option<Element> {
        let element = self.element()?;
        let texts = self.sends_as_array()
            && element.form.typlen == -1
            && !matches!(element.kind(), TypeKind::Array)
            && element.sends_with(TEXT_SEND);
        let align = alignment(element.form.typalign as u8);
        texts.then_some(Element { encoding: ElementEncoding::Varlena, align })
    }

    fn sends_as_array(&self) -> bool {
        self.form.typsend.to_u32() == pg_sys::F_ARRAY_SEND
    }

    /// The reader can make text of what its send function writes.
    fn is_readable_as_sent(&self) -> bool {
        let element = self.element();
        let ty = forms::Type {
            oid: self.oid.to_u32(),
            kind: self.kind(),
            element_oid: element.map_or(0, |element| element.oid.to_u32()),
            element_kind: element.map_or(TypeKind::Base, |element| element.kind()),
        };
        forms::is_supported_as(Encoding::Send, &ty)
    }

    /// How the elements of a true array may lie in it as they are on disk.
    fn element_layout(&self, text: ServerText) -> Option<Element> {
        if !self.sends_as_array() {
            return None;
        }
        let element = self.element()?;
        // elements do not nest; text in them cannot be converted in its place
        let plain = !matches!(element.kind(), TypeKind::Array)
            && (text.is_utf8() || !element.sends_with(TEXT_SEND))
            && element.oid != pg_sys::NAMEOID;
        let encoding = ElementEncoding::from_encoding(element.encoding(text))?;
        let align = alignment(element.form.typalign as u8);
        plain.then_some(Element { encoding, align })
    }

    fn encoding(&self, text: ServerText) -> Encoding {
        if let Some((_, width)) = FIXED.iter().find(|(oid, _)| *oid == self.oid) {
            return Encoding::Fixed(*width);
        }
        let varlena = self.form.typlen == -1;
        match self.oid {
            pg_sys::NUMERICOID => Encoding::Numeric,
            pg_sys::JSONBOID if text.is_utf8() => Encoding::Jsonb,
            pg_sys::NAMEOID => Encoding::Varlena,
            // what is stored may declare another encoding than it has; the output function drops that
            pg_sys::XMLOID => Encoding::Text,
            _ if varlena && self.sends_with(TEXT_SEND) => Encoding::Varlena,
            _ if varlena && self.sends_with(BYTES_SEND) => Encoding::Varlena,
            // converted element by element, which gives what its send function would
            _ if !text.is_utf8() && self.texts().is_some() => Encoding::Send,
            // here, and not by a send function: what is invalid has to be seen
            _ if !text.is_utf8() && self.may_hold_text() => Encoding::Text,
            _ if !self.sends_portably(false) => Encoding::Text,
            _ => match self.element_layout(text) {
                Some(element) => Encoding::Array(element),
                None if self.is_readable_as_sent() => Encoding::Send,
                None => Encoding::Text,
            },
        }
    }
}

/// `pg_type.typalign` in bytes.
pub(super) const fn alignment(align: u8) -> u8 {
    match align {
        b'd' => 8,
        b'i' => 4,
        b's' => 2,
        _ => 1,
    }
}

/// Where a function is in memory: internal functions of the same code have the same place.
fn address(function: pg_sys::Oid) -> usize {
    let mut info = pg_sys::FmgrInfo::default();
    // SAFETY: a function of a type, which exists as long as the type
    unsafe { pg_sys::fmgr_info(function, &mut info) };
    info.fn_addr.map_or(0, |function| function as usize)
}

/// All that the wire and the reading of tuples need to know of a column's type.
pub(super) struct ColumnType {
    pub(super) base_oid: pg_sys::Oid,
    pub(super) typmod: i32,
    pub(super) kind: TypeKind,
    pub(super) element_oid: pg_sys::Oid,
    pub(super) element_kind: TypeKind,
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) encoding: Encoding,
    /// The payload is text of another encoding than the wire's.
    pub(super) is_foreign_text: bool,
    /// An array of texts that have to be converted one by one.
    pub(super) texts: Option<Element>,
    /// The send or output function, where the encoding calls for one.
    pub(super) function: pg_sys::Oid,
}

impl ColumnType {
    pub(super) fn resolve(oid: pg_sys::Oid, typmod: i32, text: ServerText) -> ColumnType {
        let declared = Type::read(oid);
        let (base, typmod) = declared.base(typmod);
        let (element, element_typmod) = base.element_and_modifier().unzip();
        let encoding = base.encoding(text);
        ColumnType {
            base_oid: base.oid,
            // an array's modifier is that of its elements
            typmod: if typmod == -1 { element_typmod.unwrap_or(-1) } else { typmod },
            kind: base.kind(),
            element_oid: element.map_or(pg_sys::InvalidOid, |element| element.oid),
            element_kind: element.map_or(TypeKind::Base, |element| element.kind()),
            schema: schema_name(declared.form.typnamespace, text),
            name: text.name(&declared.form.typname),
            encoding,
            is_foreign_text: !text.is_utf8() && base.sends_with(TEXT_SEND),
            texts: if text.is_utf8() { None } else { base.texts() },
            function: match encoding {
                Encoding::Send => base.form.typsend,
                Encoding::Text => base.form.typoutput,
                _ => pg_sys::InvalidOid,
            },
        }
    }
}

/// The name of a schema.
pub(super) fn schema_name(oid: pg_sys::Oid, text: ServerText) -> String {
    // SAFETY: the result is a copy in the current memory context, or null
    let name = unsafe {
        let name = pg_sys::get_namespace_name(oid);
        if name.is_null() {
            report::internal(format!("there is no schema {}", oid.to_u32()));
        }
        std::ffi::CStr::from_ptr(name)
    };
    text.string(name)
}
