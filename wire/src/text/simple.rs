//! The types whose text form is a line or two, and the digits that all others are made of.

use bytes::BufMut;

use super::ValueError;
use super::cursor::Cursor;

type Result = std::result::Result<(), ValueError>;

/// Digits of the largest u64.
const U64_DIGITS: usize = 20;

/// Decimal digits of `value`, at least `width` of them.
pub(crate) fn push_padded(out: &mut impl BufMut, mut value: u64, width: usize) {
    let mut digits = [b'0'; U64_DIGITS];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        if value == 0 && used >= width.max(1) {
            break;
        }
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
        used += 1;
    }
    out.put_slice(&digits[U64_DIGITS - used..]);
}

pub(crate) fn push_u64(out: &mut Vec<u8>, value: u64) {
    push_padded(out, value, 1);
}

pub(crate) fn push_i64(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    push_u64(out, value.unsigned_abs());
}

const HEX: [u8; 16] = *b"0123456789abcdef";

/// Two lower-case hexadecimal digits for each byte.
pub(crate) fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xF)]]);
    }
}

/// Bytes that should be UTF-8 already.
pub(crate) fn utf8(out: &mut Vec<u8>, type_name: &'static str, bytes: &[u8]) -> Result {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            out.extend_from_slice(text.as_bytes());
            Ok(())
        }
        Err(_) => Err(ValueError::Malformed { type_name, problem: "not UTF-8" }),
    }
}

pub(crate) fn text(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    utf8(out, value.type_name(), value.rest())
}

/// `jsonb_send`, `jsonpath_send`: a version, which is 1 in all releases, and the text form.
pub(crate) fn versioned_text(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    match value.u8()? {
        1 => text(out, value),
        _ => Err(value.malformed("unknown version")),
    }
}

pub(crate) fn bytea(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(b"\\x");
    push_hex(out, value);
}

pub(crate) fn bytea_send(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    bytea(out, value.rest());
    Ok(())
}

pub(crate) fn bool(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    out.push(if value.u8()? != 0 { b't' } else { b'f' });
    Ok(())
}

/// `charout`: NUL is empty. A byte that is not ASCII is written in octal, as PostgreSQL 16 does;
/// earlier ones write the bare byte, which is not UTF-8.
pub(crate) fn char(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    match value.u8()? {
        0 => {}
        ascii @ 1..=0x7F => out.push(ascii),
        byte => {
            let octal = |shift: u32| b'0' + ((byte >> shift) & 7);
            out.extend_from_slice(&[b'\\', octal(6), octal(3), octal(0)]);
        }
    }
    Ok(())
}

pub(crate) fn int2(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    push_i64(out, value.i16()?.into());
    Ok(())
}

pub(crate) fn int4(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    push_i64(out, value.i32()?.into());
    Ok(())
}

pub(crate) fn int8(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    push_i64(out, value.i64()?);
    Ok(())
}

/// oid, xid, cid.
pub(crate) fn uint4(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    push_u64(out, value.u32()?.into());
    Ok(())
}

/// xid8.
pub(crate) fn uint8(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    push_u64(out, value.u64()?);
    Ok(())
}

/// On disk the block number is two halves, the high one first; both orders of bytes agree on that.
pub(crate) fn tid(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    let block = (u64::from(value.u16()?) << 16) | u64::from(value.u16()?);
    let offset = value.u16()?;
    out.push(b'(');
    push_u64(out, block);
    out.push(b',');
    push_u64(out, offset.into());
    out.push(b')');
    Ok(())
}

fn push_upper_hex(out: &mut Vec<u8>, value: u64) {
    let digits = (u64::BITS - value.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        let nibble = (value >> (digit * 4)) & 0xF;
        out.push(HEX[nibble as usize].to_ascii_uppercase());
    }
}

pub(crate) fn pg_lsn(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    let lsn = value.u64()?;
    push_upper_hex(out, lsn >> 32);
    out.push(b'/');
    push_upper_hex(out, lsn & 0xFFFF_FFFF);
    Ok(())
}

/// `cash_out` under `lc_monetary C`: `-$1,234.56`.
pub(crate) fn money(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    let cents = value.i64()?;
    out.extend_from_slice(if cents < 0 { b"-$" } else { b"$" });
    let (units, cents) = (cents.unsigned_abs() / 100, cents.unsigned_abs() % 100);
    let mut group = 1_000_000_000_000_000; // 10^15: i64 has five full groups at most
    while group > units && group > 1 {
        group /= 1000;
    }
    push_u64(out, units / group);
    while group > 1 {
        group /= 1000;
        out.push(b',');
        push_padded(out, units / group % 1000, 3);
    }
    out.push(b'.');
    push_padded(out, cents, 2);
    Ok(())
}

pub(crate) fn uuid(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    for (index, len) in [4, 2, 2, 2, 6].into_iter().enumerate() {
        if index > 0 {
            out.push(b'-');
        }
        push_hex(out, value.take(len)?);
    }
    Ok(())
}

/// `bit_send`: the number of bits and as many bytes as they need, the first bit the highest.
pub(crate) fn bit(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    let len = usize::try_from(value.i32()?).map_err(|_| value.malformed("negative length"))?;
    let bytes = value.take(len.div_ceil(8))?;
    let bits =
        bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| b'0' + ((byte >> bit) & 1)));
    out.extend(bits.take(len));
    Ok(())
}
