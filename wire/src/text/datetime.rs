//! date, time and timestamp with their calendar: proleptic Gregorian, days and microseconds from
//! 2000-01-01 00:00:00 (UTC).

use super::ValueError;
use super::cursor::Cursor;
use super::simple::push_padded;

type Result<T = ()> = std::result::Result<T, ValueError>;

/// Days from 1970-01-01 to 2000-01-01.
pub const UNIX_EPOCH_DAYS: i32 = 10_957;
pub const MICROS_PER_SECOND: i64 = 1_000_000;
pub const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// `infinity` of a date (`DATEVAL_NOEND`).
pub const DATE_INFINITY: i32 = i32::MAX;
/// `-infinity` of a date (`DATEVAL_NOBEGIN`).
pub const DATE_NEG_INFINITY: i32 = i32::MIN;
/// The first date there is, 4714-11-24 BC.
pub const DATE_MIN: i32 = -2_451_545;
/// The last date there is, 5874897-12-31.
pub const DATE_MAX: i32 = 2_145_031_948;

/// `infinity` of a timestamp (`DT_NOEND`).
pub const TIMESTAMP_INFINITY: i64 = i64::MAX;
/// `-infinity` of a timestamp (`DT_NOBEGIN`).
pub const TIMESTAMP_NEG_INFINITY: i64 = i64::MIN;
/// The first timestamp there is, 4714-11-24 00:00:00 BC (`MIN_TIMESTAMP`).
pub const TIMESTAMP_MIN: i64 = -211_813_488_000_000_000;
/// The last timestamp there is, 294276-12-31 23:59:59.999999 (`END_TIMESTAMP` - 1).
pub const TIMESTAMP_MAX: i64 = 9_223_371_331_199_999_999;

/// Seconds from UTC that an offset stays under (`MAX_TZDISP_HOUR`: 15:59:59).
const ZONE_LIMIT: u32 = 16 * 3600;

/// A day of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// Astronomical: 0 is 1 BC, -1 is 2 BC.
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

impl Civil {
    /// The day that is `days` after 2000-01-01; every i32 has one.
    pub fn from_days(days: i32) -> Self {
        // H. Hinnant, "chrono-compatible low-level date algorithms", civil_from_days: years begin
        // in March, so that the leap day is the last, and come in eras of 400
        const DAYS_PER_ERA: i64 = 146_097;
        /// From 0000-03-01 to 2000-01-01.
        const EPOCH_DAYS: i64 = 730_425;
        let shifted = i64::from(days) + EPOCH_DAYS;
        let era = shifted.div_euclid(DAYS_PER_ERA);
        let day_of_era = shifted.rem_euclid(DAYS_PER_ERA);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        // an i32 of days is under six million years
        Civil { year: year as i32, month: month as u8, day: day as u8 }
    }

    /// Year, month and day as in `2024-02-29`; years before 1 AD are counted backwards from 1, and
    /// the caller adds [`push_era`] at the end.
    fn push(&self, out: &mut Vec<u8>) {
        let year = if self.year > 0 { self.year } else { 1 - self.year };
        push_padded(out, year.unsigned_abs().into(), 4);
        out.push(b'-');
        push_padded(out, self.month.into(), 2);
        out.push(b'-');
        push_padded(out, self.day.into(), 2);
    }

    fn push_era(&self, out: &mut Vec<u8>) {
        if self.year <= 0 {
            out.extend_from_slice(b" BC");
        }
    }
}

/// `.25` for 250,000 microseconds, nothing for none.
pub(crate) fn push_fraction(out: &mut Vec<u8>, micros: u64) {
    if micros == 0 {
        return;
    }
    out.push(b'.');
    push_padded(out, micros, 6);
    while out.last() == Some(&b'0') {
        out.pop();
    }
}

/// `HH:MM:SS[.ffffff]`; the hours may be 24 or more.
pub(crate) fn push_clock(out: &mut Vec<u8>, micros: u64) {
    const SECOND: u64 = MICROS_PER_SECOND as u64;
    let seconds = micros / SECOND;
    push_padded(out, seconds / 3600, 2);
    out.push(b':');
    push_padded(out, seconds / 60 % 60, 2);
    out.push(b':');
    push_padded(out, seconds % 60, 2);
    push_fraction(out, micros % SECOND);
}

/// `EncodeTimezone`; `west` is the stored zone, in seconds west of Greenwich.
fn push_zone(out: &mut Vec<u8>, west: i32) {
    out.push(if west <= 0 { b'+' } else { b'-' });
    let seconds = u64::from(west.unsigned_abs());
    push_padded(out, seconds / 3600, 2);
    if seconds % 3600 != 0 {
        out.push(b':');
        push_padded(out, seconds / 60 % 60, 2);
    }
    if seconds % 60 != 0 {
        out.push(b':');
        push_padded(out, seconds % 60, 2);
    }
}

pub(crate) fn date(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    match value.i32()? {
        DATE_INFINITY => out.extend_from_slice(b"infinity"),
        DATE_NEG_INFINITY => out.extend_from_slice(b"-infinity"),
        days @ DATE_MIN..=DATE_MAX => {
            let civil = Civil::from_days(days);
            civil.push(out);
            civil.push_era(out);
        }
        _ => return Err(value.malformed("out of range")),
    }
    Ok(())
}

fn time_of_day(value: &mut Cursor<'_>) -> Result<u64> {
    match value.i64()? {
        micros @ 0..=MICROS_PER_DAY => Ok(micros.unsigned_abs()), // 24:00:00 is a time
        _ => Err(value.malformed("out of range")),
    }
}

pub(crate) fn time(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    push_clock(out, time_of_day(value)?);
    Ok(())
}

pub(crate) fn timetz(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    push_clock(out, time_of_day(value)?);
    let west = value.i32()?;
    if west.unsigned_abs() >= ZONE_LIMIT {
        return Err(value.malformed("zone out of range"));
    }
    push_zone(out, west);
    Ok(())
}

pub(crate) fn timestamp(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    moment(out, value, b"")
}

/// In UTC.
pub(crate) fn timestamptz(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result {
    moment(out, value, b"+00")
}

fn moment(out: &mut Vec<u8>, value: &mut Cursor<'_>, zone: &[u8]) -> Result {
    match value.i64()? {
        TIMESTAMP_INFINITY => out.extend_from_slice(b"infinity"),
        TIMESTAMP_NEG_INFINITY => out.extend_from_slice(b"-infinity"),
        micros @ TIMESTAMP_MIN..=TIMESTAMP_MAX => {
            // under 110 million days
            let civil = Civil::from_days(micros.div_euclid(MICROS_PER_DAY) as i32);
            civil.push(out);
            out.push(b' ');
            push_clock(out, micros.rem_euclid(MICROS_PER_DAY).unsigned_abs());
            out.extend_from_slice(zone);
            civil.push_era(out);
        }
        _ => return Err(value.malformed("out of range")),
    }
    Ok(())
}
