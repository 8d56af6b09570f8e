//! The built-in ranges and multiranges (`rangetypes.c`, `multirangetypes.c`).

use super::array::quote;
use super::cursor::Cursor;
use super::{Form, Type, ValueError, oid, send};
use crate::limits::TEXT_MAX;
use crate::relation::TypeKind;

// The flags that `range_send` writes.
const EMPTY: u8 = 0x01;
const LOWER_INCLUSIVE: u8 = 0x02;
const UPPER_INCLUSIVE: u8 = 0x04;
const LOWER_INFINITE: u8 = 0x08;
const UPPER_INFINITE: u8 = 0x10;
const KNOWN_FLAGS: u8 = EMPTY | LOWER_INCLUSIVE | UPPER_INCLUSIVE | LOWER_INFINITE | UPPER_INFINITE;

/// The type of the bounds. What users create has an oid of its own and is not known here.
pub(crate) fn subtype(range: u32) -> Option<u32> {
    Some(match range {
        oid::INT4RANGE => oid::INT4,
        oid::INT8RANGE => oid::INT8,
        oid::NUMRANGE => oid::NUMERIC,
        oid::TSRANGE => oid::TIMESTAMP,
        oid::TSTZRANGE => oid::TIMESTAMPTZ,
        oid::DATERANGE => oid::DATE,
        _ => return None,
    })
}

/// The range type that a multirange is made of.
pub(crate) fn of_multirange(multirange: u32) -> Option<u32> {
    Some(match multirange {
        oid::INT4MULTIRANGE => oid::INT4RANGE,
        oid::INT8MULTIRANGE => oid::INT8RANGE,
        oid::NUMMULTIRANGE => oid::NUMRANGE,
        oid::TSMULTIRANGE => oid::TSRANGE,
        oid::TSTZMULTIRANGE => oid::TSTZRANGE,
        oid::DATEMULTIRANGE => oid::DATERANGE,
        _ => return None,
    })
}

/// `range_send`: flags, then each bound that there is with its length before it.
pub(crate) fn write(out: &mut Vec<u8>, range: u32, value: &[u8]) -> Result<(), ValueError> {
    let subtype = subtype(range).ok_or(ValueError::Unsupported { type_oid: range })?;
    let mut cursor = Cursor::new(value, Form::Send, "range");
    let flags = cursor.u8()?;
    if flags & !KNOWN_FLAGS != 0 {
        return Err(cursor.malformed("unknown flags"));
    }
    let has = |flag: u8| flags & flag != 0;
    if has(EMPTY) {
        out.extend_from_slice(b"empty");
        return cursor.finish();
    }
    out.push(if has(LOWER_INCLUSIVE) { b'[' } else { b'(' });
    if !has(LOWER_INFINITE) {
        bound(out, subtype, &mut cursor)?;
    }
    out.push(b',');
    if !has(UPPER_INFINITE) {
        bound(out, subtype, &mut cursor)?;
    }
    out.push(if has(UPPER_INCLUSIVE) { b']' } else { b')' });
    cursor.finish()
}

fn bound(out: &mut Vec<u8>, subtype: u32, cursor: &mut Cursor<'_>) -> Result<(), ValueError> {
    let bytes = cursor.measured()?.ok_or_else(|| cursor.malformed("NULL bound"))?;
    let start = out.len();
    send(out, &Type::scalar(subtype, TypeKind::Base), bytes)?;
    let text = out.get(start..).unwrap_or_default();
    let special = |byte: &u8| {
        matches!(byte, b'"' | b'\\' | b'(' | b')' | b'[' | b']' | b',' | b' ' | b'\t'..=b'\r')
    };
    if text.is_empty() || text.iter().any(special) {
        // doubled, unlike in an array
        quote(out, start, |byte| matches!(byte, b'"' | b'\\').then_some(byte));
    }
    Ok(())
}

/// `multirange_send`: a count, then each range with its length before it.
pub(crate) fn write_multirange(
    out: &mut Vec<u8>,
    multirange: u32,
    value: &[u8],
) -> Result<(), ValueError> {
    let start = out.len();
    let range =
        of_multirange(multirange).ok_or(ValueError::Unsupported { type_oid: multirange })?;
    let mut cursor = Cursor::new(value, Form::Send, "multirange");
    let count = cursor.u32()? as usize;
    if count > cursor.remaining() / size_of::<i32>() {
        return Err(cursor.malformed("truncated"));
    }
    out.push(b'{');
    for index in 0..count {
        if index > 0 {
            out.push(b',');
        }
        let bytes = cursor.measured()?.ok_or_else(|| cursor.malformed("NULL range"))?;
        write(out, range, bytes)?;
        if out.len() - start > TEXT_MAX {
            return Err(cursor.malformed("text over 1 GiB"));
        }
    }
    out.push(b'}');
    cursor.finish()
}
