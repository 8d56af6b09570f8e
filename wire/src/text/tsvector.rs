//! `tsvector` (`tsvector.c`): `'brown' 'fox':2A,3`.

use super::ValueError;
use super::cursor::Cursor;
use super::simple::push_u64;

// A position: two bits of weight, fourteen of place (`WordEntryPos`).
const PLACE_MASK: u16 = 0x3FFF;
const WEIGHT_SHIFT: u32 = 14;

/// `tsvectorsend`: a count; for each lexeme its text, a NUL, a count, and the positions.
pub(crate) fn tsvector(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result<(), ValueError> {
    let count = value.u32()?;
    // text, NUL and count take three bytes at least
    if count as usize > value.remaining() / 3 {
        return Err(value.malformed("truncated"));
    }
    for index in 0..count {
        if index > 0 {
            out.push(b' ');
        }
        lexeme(out, value)?;
    }
    Ok(())
}

fn lexeme(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result<(), ValueError> {
    let text = value.until_nul()?;
    if std::str::from_utf8(text).is_err() {
        return Err(value.malformed("not UTF-8"));
    }
    out.push(b'\'');
    for part in text.split_inclusive(|byte| matches!(byte, b'\'' | b'\\')) {
        out.extend_from_slice(part);
        if let Some(special @ (b'\'' | b'\\')) = part.last() {
            out.push(*special);
        }
    }
    out.push(b'\'');
    for index in 0..value.u16()? {
        out.push(if index == 0 { b':' } else { b',' });
        let position = value.u16()?;
        push_u64(out, (position & PLACE_MASK).into());
        match position >> WEIGHT_SHIFT {
            3 => out.push(b'A'),
            2 => out.push(b'B'),
            1 => out.push(b'C'),
            _ => {}
        }
    }
    Ok(())
}
