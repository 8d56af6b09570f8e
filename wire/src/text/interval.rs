//! `interval` under `IntervalStyle postgres`: `1 year 2 mons -3 days +04:05:06.7`.

use super::ValueError;
use super::cursor::Cursor;
use super::datetime::push_clock;
use super::simple::push_i64;

/// `EncodeInterval`. All three fields at their limits are `infinity`, as PostgreSQL 17 defined;
/// earlier ones have no infinite intervals and write the numbers.
pub(crate) fn interval(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result<(), ValueError> {
    let (micros, days, months) = (value.i64()?, value.i32()?, value.i32()?);
    match (micros, days, months) {
        (i64::MAX, i32::MAX, i32::MAX) => out.extend_from_slice(b"infinity"),
        (i64::MIN, i32::MIN, i32::MIN) => out.extend_from_slice(b"-infinity"),
        _ => finite(out, micros, days, months),
    }
    Ok(())
}

fn finite(out: &mut Vec<u8>, micros: i64, days: i32, months: i32) {
    let start = out.len();
    // a field after a negative one has its sign written out
    let mut after_negative = false;
    for (number, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if number == 0 {
            continue;
        }
        if out.len() > start {
            out.push(b' ');
        }
        if after_negative && number > 0 {
            out.push(b'+');
        }
        push_i64(out, number.into());
        out.push(b' ');
        out.extend_from_slice(unit.as_bytes());
        if number != 1 {
            out.push(b's');
        }
        after_negative = number < 0;
    }
    let empty = out.len() == start;
    if empty || micros != 0 {
        if !empty {
            out.push(b' ');
        }
        if micros < 0 {
            out.push(b'-');
        } else if after_negative {
            out.push(b'+');
        }
        push_clock(out, micros.unsigned_abs());
    }
}
