//! The text form of values, exactly as PostgreSQL's output functions write it.
//!
//! | module | types |
//! |---|---|
//! | [`numeric`] | numeric, on disk and in send form |
//! | [`array`] | arrays of any dimensions, on disk and in send form; the quoting of their elements |
//! | [`jsonb`] | jsonb on disk |
//! | [`datetime`] | date, time, timestamp, with and without zone; the calendar |
//! | `interval`, `float`, `network`, `geometric`, `range`, `tsvector` | what they are called |
//! | `simple` | everything that is a line or two |
//! | [`oid`] | the oids of the built-in types |
//!
//! The settings of the session are those that dumps use, so that the text means the same everywhere:
//! `DateStyle ISO`, `IntervalStyle postgres`, `TimeZone UTC`, `extra_float_digits 1`,
//! `bytea_output hex`, `lc_monetary C`. `tests/data/text-forms.tsv` holds what a real server wrote.
//!
//! What is appended is always UTF-8. Nothing is allocated but the growth of `out`, and bytes that are
//! not a value of their type are an error, never a panic.

pub mod array;
mod cursor;
pub mod datetime;
mod elements;
mod float;
mod geometric;
mod interval;
pub mod jsonb;
mod network;
pub mod numeric;
pub mod oid;
mod range;
mod simple;
mod tsvector;

use crate::relation::{Column, ElementEncoding, Encoding, TypeKind};
use cursor::Cursor;
use numeric::Numeric;

/// A value that cannot be written as text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The type is not known here. Its bytes are whole, and its own system can read them.
    #[error("no text form for values of type {type_oid}")]
    Unsupported { type_oid: u32 },
    /// The bytes are not a value of the type.
    #[error("malformed {type_name}: {problem}")]
    Malformed { type_name: &'static str, problem: &'static str },
}

/// How the bytes of a value are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As on disk: little-endian.
    Native,
    /// As the type's send function writes it: big-endian.
    Send,
}

/// What is known of a type: its oid and kind, and those of its elements when it is an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type {
    pub oid: u32,
    pub kind: TypeKind,
    pub element_oid: u32,
    pub element_kind: TypeKind,
}

impl From<&Column> for Type {
    fn from(column: &Column) -> Self {
        Type {
            oid: column.base_oid,
            kind: column.kind,
            element_oid: column.element_oid,
            element_kind: column.element_kind,
        }
    }
}

impl Type {
    /// A type that is not an array.
    pub(crate) fn scalar(oid: u32, kind: TypeKind) -> Self {
        Type { oid, kind, element_oid: 0, element_kind: TypeKind::Base }
    }
}

/// Writes one value, and the bytes it takes away.
type WriteFn = fn(&mut Vec<u8>, &mut Cursor<'_>) -> Result<(), ValueError>;

/// Appends the text form of `value`, a value of `column` in the column's encoding. After an error
/// `out` is as it was.
pub fn write(out: &mut Vec<u8>, column: &Column, value: &[u8]) -> Result<(), ValueError> {
    write_as(out, column.encoding, &Type::from(column), value)
}

/// Appends the text form of `value`, a value of `ty` in this encoding. After an error `out` is as it
/// was.
pub fn write_as(
    out: &mut Vec<u8>,
    encoding: Encoding,
    ty: &Type,
    value: &[u8],
) -> Result<(), ValueError> {
    let start = out.len();
    form(out, encoding, ty, value).inspect_err(|_| out.truncate(start))
}

fn form(out: &mut Vec<u8>, encoding: Encoding, ty: &Type, value: &[u8]) -> Result<(), ValueError> {
    match encoding {
        Encoding::Text => simple::utf8(out, "text", value),
        Encoding::Varlena if ty.oid == oid::BYTEA => {
            simple::bytea(out, value);
            Ok(())
        }
        Encoding::Varlena => simple::utf8(out, "text", value),
        Encoding::Numeric => {
            Numeric::from_disk(value)?.write(out);
            Ok(())
        }
        Encoding::Jsonb => jsonb::write(out, value),
        Encoding::Array(_) => array::write(out, encoding, ty, value),
        Encoding::Fixed(width) => {
            let (type_name, write) =
                scalar(ty.oid).ok_or(ValueError::Unsupported { type_oid: ty.oid })?;
            if value.len() != usize::from(width) {
                return Err(ValueError::Malformed { type_name, problem: "wrong length" });
            }
            whole(out, type_name, write, Form::Native, value)
        }
        Encoding::Send => send(out, ty, value),
    }
}

/// Whether [`write`] knows the column's type in its encoding. An array may still hold elements of a
/// type that its column does not name.
pub fn is_supported(column: &Column) -> bool {
    is_supported_as(column.encoding, &Type::from(column))
}

/// Whether [`write_as`] knows the type in this encoding.
pub fn is_supported_as(encoding: Encoding, ty: &Type) -> bool {
    match encoding {
        Encoding::Text | Encoding::Varlena | Encoding::Numeric | Encoding::Jsonb => true,
        Encoding::Fixed(_) => scalar(ty.oid).is_some(),
        Encoding::Array(element) => match element.encoding {
            ElementEncoding::Fixed(_) => scalar(ty.element_oid).is_some(),
            _ => true,
        },
        Encoding::Send => is_send_supported(ty),
    }
}

fn is_send_supported(ty: &Type) -> bool {
    match ty.kind {
        TypeKind::Enum => true,
        // an array inside of an array (of a domain over one) says itself what it holds
        TypeKind::Array if ty.element_kind == TypeKind::Array || ty.element_oid == 0 => true,
        TypeKind::Array => is_send_supported(&Type::scalar(ty.element_oid, ty.element_kind)),
        TypeKind::Range => range::subtype(ty.oid).is_some(),
        TypeKind::Multirange => range::of_multirange(ty.oid).is_some(),
        TypeKind::Base => scalar(ty.oid).or_else(|| send_only(ty.oid)).is_some(),
        TypeKind::Composite | TypeKind::Pseudo => false,
    }
}

fn whole(
    out: &mut Vec<u8>,
    type_name: &'static str,
    write: WriteFn,
    form: Form,
    value: &[u8],
) -> Result<(), ValueError> {
    let mut cursor = Cursor::new(value, form, type_name);
    write(out, &mut cursor)?;
    cursor.finish()
}

/// The send form of any type; recursive over arrays and ranges, which nest only as deep as built-in
/// types do.
fn send(out: &mut Vec<u8>, ty: &Type, value: &[u8]) -> Result<(), ValueError> {
    match ty.kind {
        TypeKind::Enum => simple::utf8(out, "enum", value),
        TypeKind::Array => array::write(out, Encoding::Send, ty, value),
        TypeKind::Range => range::write(out, ty.oid, value),
        TypeKind::Multirange => range::write_multirange(out, ty.oid, value),
        TypeKind::Base => {
            let (type_name, write) = scalar(ty.oid)
                .or_else(|| send_only(ty.oid))
                .ok_or(ValueError::Unsupported { type_oid: ty.oid })?;
            whole(out, type_name, write, Form::Send, value)
        }
        TypeKind::Composite | TypeKind::Pseudo => Err(ValueError::Unsupported { type_oid: ty.oid }),
    }
}

/// The types whose native and send forms differ in nothing but the order of bytes.
fn scalar(type_oid: u32) -> Option<(&'static str, WriteFn)> {
    Some(match type_oid {
        oid::BOOL => ("bool", simple::bool),
        oid::CHAR => ("\"char\"", simple::char),
        oid::INT2 => ("int2", simple::int2),
        oid::INT4 => ("int4", simple::int4),
        oid::INT8 => ("int8", simple::int8),
        oid::OID => ("oid", simple::uint4),
        oid::XID => ("xid", simple::uint4),
        oid::CID => ("cid", simple::uint4),
        oid::XID8 => ("xid8", simple::uint8),
        oid::TID => ("tid", simple::tid),
        oid::PG_LSN => ("pg_lsn", simple::pg_lsn),
        oid::MONEY => ("money", simple::money),
        oid::UUID => ("uuid", simple::uuid),
        oid::FLOAT4 => ("float4", float::float4),
        oid::FLOAT8 => ("float8", float::float8),
        oid::DATE => ("date", datetime::date),
        oid::TIME => ("time", datetime::time),
        oid::TIMETZ => ("timetz", datetime::timetz),
        oid::TIMESTAMP => ("timestamp", datetime::timestamp),
        oid::TIMESTAMPTZ => ("timestamptz", datetime::timestamptz),
        oid::INTERVAL => ("interval", interval::interval),
        oid::MACADDR => ("macaddr", network::macaddr),
        oid::MACADDR8 => ("macaddr8", network::macaddr8),
        oid::POINT => ("point", geometric::point),
        oid::LSEG => ("lseg", geometric::lseg),
        oid::BOX => ("box", geometric::r#box),
        oid::LINE => ("line", geometric::line),
        oid::CIRCLE => ("circle", geometric::circle),
        _ => return None,
    })
}

/// The types that come in their send form only, or whose two forms have nothing in common.
fn send_only(type_oid: u32) -> Option<(&'static str, WriteFn)> {
    Some(match type_oid {
        oid::TEXT => ("text", simple::text),
        oid::VARCHAR => ("varchar", simple::text),
        oid::BPCHAR => ("bpchar", simple::text),
        oid::NAME => ("name", simple::text),
        oid::UNKNOWN => ("unknown", simple::text),
        oid::JSON => ("json", simple::text),
        oid::XML => ("xml", simple::text),
        oid::JSONB => ("jsonb", simple::versioned_text),
        oid::JSONPATH => ("jsonpath", simple::versioned_text),
        oid::BYTEA => ("bytea", simple::bytea_send),
        oid::BIT | oid::VARBIT => ("bit", simple::bit),
        oid::NUMERIC => ("numeric", numeric::write_send_form),
        oid::INET => ("inet", network::inet),
        oid::CIDR => ("cidr", network::cidr),
        oid::PATH => ("path", geometric::path),
        oid::POLYGON => ("polygon", geometric::polygon),
        oid::TSVECTOR => ("tsvector", tsvector::tsvector),
        _ => return None,
    })
}
