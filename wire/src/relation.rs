//! The description of a table, sent before its first change and again when it changed.

use std::fmt;

use crate::error::{DecodeError, DecodeErrorKind};
use crate::limits::{COLUMNS_MAX, NAME_MAX};
use crate::message::put_string;
use crate::reader::Reader;
use crate::varint;

/// A table as it is at this point of the stream. Dropped columns are not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid` on the source: what changes refer to.
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub replica_identity: ReplicaIdentity,
    /// In attribute order; the order of values in a row.
    pub columns: Vec<Column>,
}

/// One column of a [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// `pg_attribute.attnum`, from 1 on: what stays the same when a column gets another name, and is never
    /// given again when it is dropped. No two columns of a relation have the same.
    pub number: u16,
    /// Part of the replica identity. Under FULL: of the primary key, if there is one.
    pub key: bool,
    /// `pg_attribute.attnotnull`.
    pub not_null: bool,
    /// A stored generated column; its stored value is sent.
    pub generated: bool,
    /// `pg_type.oid` of the declared type on the source. Stable across databases below 16384 only.
    pub type_oid: u32,
    /// The type under all domains; `type_oid` when it is not a domain.
    pub base_oid: u32,
    /// `atttypmod`, or the domain's; of an array that of its elements; -1 when there is none.
    pub typmod: i32,
    /// The kind of the base type.
    pub kind: TypeKind,
    /// For [`TypeKind::Array`]: `pg_type.oid` of the element type (under all domains), else 0.
    pub element_oid: u32,
    /// For [`TypeKind::Array`]: the element's kind, else [`TypeKind::Base`].
    pub element_kind: TypeKind,
    /// Schema of the declared type.
    pub type_schema: String,
    /// `pg_type.typname` of the declared type (`_text` for an array of text).
    pub type_name: String,
    /// How values of this column are written.
    pub encoding: Encoding,
}

/// How the values of a column are written in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// So many bytes (1 to 255), little-endian as on disk: bool, integers, floats, date, time(tz),
    /// timestamp(tz), interval, oid, uuid, macaddr, money, …
    Fixed(u8),
    /// The payload of a varlena, detoasted: text, varchar, char(n), json (UTF-8); bytea; any other
    /// type with the send function of one of these, e.g. citext. Also `name`, without its padding.
    Varlena,
    /// The payload of a `numeric` varlena, as on disk (`NumericChoice` of `numeric.c`,
    /// little-endian).
    Numeric,
    /// The payload of a `jsonb` varlena, as on disk (`JsonbContainer` of `utils/jsonb.h`), its
    /// strings in UTF-8.
    Jsonb,
    /// The payload of an array's varlena, as on disk (`ArrayType` of `utils/array.h`), with elements
    /// of this kind.
    Array(Element),
    /// The result of the type's send function.
    Send,
    /// The result of the type's output function, UTF-8, without a final NUL: types without a send
    /// function, and those whose binary form holds oids of the source (composites, arrays of them,
    /// `regclass` and its like). Also xml, whose output function drops a declared encoding.
    Text,
}

/// How the elements of an [`Encoding::Array`] lie in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Element {
    pub encoding: ElementEncoding,
    /// Where an element may start, in bytes: 1, 2, 4 or 8 (`typalign`).
    pub align: u8,
}

/// The encodings that elements of an [`Encoding::Array`] have: without a header when they are of
/// fixed width, else the payload of a varlena with its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementEncoding {
    Fixed(u8),
    Varlena,
    Numeric,
    Jsonb,
}

impl From<ElementEncoding> for Encoding {
    fn from(element: ElementEncoding) -> Self {
        match element {
            ElementEncoding::Fixed(width) => Encoding::Fixed(width),
            ElementEncoding::Varlena => Encoding::Varlena,
            ElementEncoding::Numeric => Encoding::Numeric,
            ElementEncoding::Jsonb => Encoding::Jsonb,
        }
    }
}

impl ElementEncoding {
    /// `None` for what the elements of an array cannot be encoded as.
    pub const fn from_encoding(encoding: Encoding) -> Option<Self> {
        Some(match encoding {
            Encoding::Fixed(width) => ElementEncoding::Fixed(width),
            Encoding::Varlena => ElementEncoding::Varlena,
            Encoding::Numeric => ElementEncoding::Numeric,
            Encoding::Jsonb => ElementEncoding::Jsonb,
            Encoding::Array(_) | Encoding::Send | Encoding::Text => return None,
        })
    }
}

/// `pg_type.typtype` of a base type, with true arrays told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TypeKind {
    Base,
    Composite,
    Enum,
    Pseudo,
    Range,
    Multirange,
    Array,
}

/// `pg_class.relreplident`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplicaIdentity {
    Default,
    Nothing,
    Full,
    Index,
}

impl ReplicaIdentity {
    /// The byte of `relreplident` and of the wire.
    pub const fn to_byte(self) -> u8 {
        match self {
            ReplicaIdentity::Default => b'd',
            ReplicaIdentity::Nothing => b'n',
            ReplicaIdentity::Full => b'f',
            ReplicaIdentity::Index => b'i',
        }
    }

    /// The inverse of [`Self::to_byte`].
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            _ => return None,
        })
    }
}

impl TypeKind {
    /// The byte of `typtype`, and `a` for a true array.
    pub const fn to_byte(self) -> u8 {
        match self {
            TypeKind::Base => b'b',
            TypeKind::Composite => b'c',
            TypeKind::Enum => b'e',
            TypeKind::Pseudo => b'p',
            TypeKind::Range => b'r',
            TypeKind::Multirange => b'm',
            TypeKind::Array => b'a',
        }
    }

    /// The inverse of [`Self::to_byte`].
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            b'b' => TypeKind::Base,
            b'c' => TypeKind::Composite,
            b'e' => TypeKind::Enum,
            b'p' => TypeKind::Pseudo,
            b'r' => TypeKind::Range,
            b'm' => TypeKind::Multirange,
            b'a' => TypeKind::Array,
            _ => return None,
        })
    }
}

const COLUMN_KEY: u8 = 0x01;
const COLUMN_NOT_NULL: u8 = 0x02;
const COLUMN_GENERATED: u8 = 0x04;

const ENCODING_FIXED: u8 = 1;
const ENCODING_VARLENA: u8 = 2;
const ENCODING_NUMERIC: u8 = 3;
const ENCODING_SEND: u8 = 4;
const ENCODING_TEXT: u8 = 5;
const ENCODING_JSONB: u8 = 6;
const ENCODING_ARRAY: u8 = 7;

impl Encoding {
    fn put(self, buf: &mut Vec<u8>) {
        let (tag, width) = match self {
            Encoding::Fixed(width) => (ENCODING_FIXED, width),
            Encoding::Varlena => (ENCODING_VARLENA, 0),
            Encoding::Numeric => (ENCODING_NUMERIC, 0),
            Encoding::Send => (ENCODING_SEND, 0),
            Encoding::Text => (ENCODING_TEXT, 0),
            Encoding::Jsonb => (ENCODING_JSONB, 0),
            Encoding::Array(_) => (ENCODING_ARRAY, 0),
        };
        buf.extend_from_slice(&[tag, width]);
        if let Encoding::Array(element) = self {
            element.put(buf);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let tag = reader.u8("encoding")?;
        let width = reader.u8("encoding width")?;
        if (width == 0) == (tag == ENCODING_FIXED) {
            let value = u64::from(width);
            return Err(reader.error(DecodeErrorKind::Unknown { field: "encoding width", value }));
        }
        Ok(match tag {
            ENCODING_FIXED => Encoding::Fixed(width),
            ENCODING_VARLENA => Encoding::Varlena,
            ENCODING_NUMERIC => Encoding::Numeric,
            ENCODING_SEND => Encoding::Send,
            ENCODING_TEXT => Encoding::Text,
            ENCODING_JSONB => Encoding::Jsonb,
            ENCODING_ARRAY => Encoding::Array(Element::read(reader)?),
            _ => {
                let value = u64::from(tag);
                return Err(reader.error(DecodeErrorKind::Unknown { field: "encoding", value }));
            }
        })
    }
}

impl Element {
    fn put(self, buf: &mut Vec<u8>) {
        Encoding::from(self.encoding).put(buf);
        buf.push(self.align);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        // looked at before it is read: what is an array again would be read to any depth
        let tag = reader.peek().unwrap_or(0);
        let encoding = match tag {
            ENCODING_ARRAY => None,
            _ => ElementEncoding::from_encoding(Encoding::read(reader)?),
        };
        let Some(encoding) = encoding else {
            let value = u64::from(tag);
            return Err(reader.error(DecodeErrorKind::Unknown { field: "element encoding", value }));
        };
        let align = reader.u8("element alignment")?;
        if !matches!(align, 1 | 2 | 4 | 8) {
            let value = u64::from(align);
            let field = "element alignment";
            return Err(reader.error(DecodeErrorKind::Unknown { field, value }));
        }
        Ok(Element { encoding, align })
    }
}

impl Column {
    fn put(&self, buf: &mut Vec<u8>) {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        put_string(buf, &self.name);
        varint::put(buf, u64::from(self.number));
        buf.push(
            flag(self.key, COLUMN_KEY)
                | flag(self.not_null, COLUMN_NOT_NULL)
                | flag(self.generated, COLUMN_GENERATED),
        );
        buf.extend_from_slice(&self.type_oid.to_le_bytes());
        buf.extend_from_slice(&self.base_oid.to_le_bytes());
        buf.extend_from_slice(&self.typmod.to_le_bytes());
        buf.push(self.kind.to_byte());
        buf.extend_from_slice(&self.element_oid.to_le_bytes());
        buf.push(self.element_kind.to_byte());
        put_string(buf, &self.type_schema);
        put_string(buf, &self.type_name);
        self.encoding.put(buf);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let name = reader.string("column name", NAME_MAX)?.to_owned();
        let number = read_number(reader)?;
        let flags =
            reader.flags("column flags", COLUMN_KEY | COLUMN_NOT_NULL | COLUMN_GENERATED)?;
        Ok(Column {
            name,
            number,
            key: flags & COLUMN_KEY != 0,
            not_null: flags & COLUMN_NOT_NULL != 0,
            generated: flags & COLUMN_GENERATED != 0,
            type_oid: reader.u32("type oid")?,
            base_oid: reader.u32("base type oid")?,
            typmod: reader.i32("type modifier")?,
            kind: read_kind(reader, "type kind")?,
            element_oid: reader.u32("element type oid")?,
            element_kind: read_kind(reader, "element type kind")?,
            type_schema: reader.string("type schema", NAME_MAX)?.to_owned(),
            type_name: reader.string("type name", NAME_MAX)?.to_owned(),
            encoding: Encoding::read(reader)?,
        })
    }
}

fn read_number(reader: &mut Reader<'_>) -> Result<u16, DecodeError> {
    match reader.count("attribute number", COLUMNS_MAX)? {
        0 => Err(reader.error(DecodeErrorKind::Unknown { field: "attribute number", value: 0 })),
        number => Ok(number as u16), // COLUMNS_MAX is under u16::MAX
    }
}

fn read_kind(reader: &mut Reader<'_>, field: &'static str) -> Result<TypeKind, DecodeError> {
    let byte = reader.u8(field)?;
    TypeKind::from_byte(byte)
        .ok_or_else(|| reader.error(DecodeErrorKind::Unknown { field, value: u64::from(byte) }))
}

impl Relation {
    pub(crate) fn put(&self, buf: &mut Vec<u8>) {
        buf.extend_from_slice(&self.oid.to_le_bytes());
        put_string(buf, &self.schema);
        put_string(buf, &self.name);
        buf.push(self.replica_identity.to_byte());
        varint::put(buf, self.columns.len() as u64);
        for column in &self.columns {
            column.put(buf);
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let oid = reader.u32("relation oid")?;
        let schema = reader.string("schema name", NAME_MAX)?.to_owned();
        let name = reader.string("relation name", NAME_MAX)?.to_owned();
        let byte = reader.u8("replica identity")?;
        let replica_identity = ReplicaIdentity::from_byte(byte).ok_or_else(|| {
            let value = u64::from(byte);
            reader.error(DecodeErrorKind::Unknown { field: "replica identity", value })
        })?;
        let count = reader.count("column count", COLUMNS_MAX)?;
        let mut columns: Vec<Column> = Vec::with_capacity(count);
        let mut numbers = [false; COLUMNS_MAX + 1];
        for _ in 0..count {
            let column = Column::read(reader)?;
            if std::mem::replace(&mut numbers[usize::from(column.number)], true) {
                let (field, value) = ("attribute number, again", u64::from(column.number));
                return Err(reader.error(DecodeErrorKind::Unknown { field, value }));
            }
            columns.push(column);
        }
        Ok(Relation { oid, schema, name, replica_identity, columns })
    }

    /// Whether UPDATE and DELETE of this table name the row they mean.
    pub fn identifies_rows(&self) -> bool {
        match self.replica_identity {
            ReplicaIdentity::Nothing => false,
            ReplicaIdentity::Full => true,
            ReplicaIdentity::Default | ReplicaIdentity::Index => self.columns.iter().any(|c| c.key),
        }
    }
}

impl fmt::Display for Relation {
    /// `schema.name`, for messages to people; not quoted for SQL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}
