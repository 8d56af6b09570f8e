//! float4 and float8 as `float8out` writes them with `extra_float_digits 1`: the shortest digits that
//! read back as the same value, laid out by `to_chars` of `d2s.c` and `f2s.c`.

use std::fmt::{self, Write};

use super::ValueError;
use super::cursor::Cursor;
use super::simple::{push_padded, push_u64};

/// From this power of ten on, `f2s.c` and `d2s.c` write an exponent.
const FLOAT4_EXPONENT: i32 = 6;
const FLOAT8_EXPONENT: i32 = 15;
/// Below this one they do, too.
const SMALLEST_FIXED: i32 = -4;

pub(crate) fn float4(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result<(), ValueError> {
    write_f32(out, value.f32()?);
    Ok(())
}

pub(crate) fn float8(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result<(), ValueError> {
    write_f64(out, value.f64()?);
    Ok(())
}

pub(crate) fn write_f32(out: &mut Vec<u8>, value: f32) {
    if value.is_finite() && value != 0.0 {
        let bits = value.abs().to_bits();
        let binary = Binary::new((bits >> 23) as i32, (bits & 0x7F_FFFF).into(), 23, -149);
        let decimal = shortest(value.abs(), &binary);
        layout(out, value.is_sign_negative(), &decimal, FLOAT4_EXPONENT);
    } else {
        write_special(out, value.into());
    }
}

pub(crate) fn write_f64(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() && value != 0.0 {
        let bits = value.abs().to_bits();
        let binary = Binary::new((bits >> 52) as i32, bits & ((1 << 52) - 1), 52, -1074);
        let decimal = shortest(value.abs(), &binary);
        layout(out, value.is_sign_negative(), &decimal, FLOAT8_EXPONENT);
    } else {
        write_special(out, value);
    }
}

fn write_special(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(if value.is_nan() {
        b"NaN"
    } else if value == f64::INFINITY {
        b"Infinity"
    } else if value == f64::NEG_INFINITY {
        b"-Infinity"
    } else if value.is_sign_negative() {
        b"-0"
    } else {
        b"0"
    });
}

/// `digits * 10^exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decimal {
    digits: u64,
    exponent: i32,
}

/// `mantissa * 2^exponent`, and whether the next smaller float is only half as far as the next
/// larger one.
#[derive(Debug)]
struct Binary {
    mantissa: u64,
    exponent: i32,
    narrow_below: bool,
}

impl Binary {
    fn new(biased: i32, fraction: u64, fraction_bits: u32, smallest: i32) -> Self {
        if biased == 0 {
            return Binary { mantissa: fraction, exponent: smallest, narrow_below: false };
        }
        Binary {
            mantissa: fraction | (1 << fraction_bits),
            exponent: smallest + biased - 1,
            narrow_below: fraction == 0 && biased > 1,
        }
    }

    fn odd_part(&self) -> (u64, i32) {
        let twos = self.mantissa.trailing_zeros();
        (self.mantissa >> twos, self.exponent + twos as i32)
    }

    /// Whether the decimal lies exactly between this float and a neighbour. PostgreSQL does not write
    /// such digits (`STRICTLY_SHORTEST` of `ryu_common.h`), as they rest on the reader's rounding to
    /// even; Rust does.
    fn is_midpoint(&self, decimal: Decimal) -> bool {
        let below = if self.narrow_below {
            (4 * self.mantissa - 1, self.exponent - 2)
        } else {
            (2 * self.mantissa - 1, self.exponent - 1)
        };
        let above = (2 * self.mantissa + 1, self.exponent - 1);
        decimal.odd_part().is_some_and(|part| part == above || part == below)
    }

    /// Whether this float lies exactly between the decimal and the one `step` after it. PostgreSQL
    /// then takes the even one, Rust the larger.
    fn is_tie(&self, decimal: Decimal, step: i64) -> bool {
        let halfway = (decimal.digits * 2)
            .checked_add_signed(step)
            .and_then(|sum| sum.checked_mul(5))
            .map(|digits| Decimal { digits, exponent: decimal.exponent - 1 });
        halfway.and_then(Decimal::odd_part) == Some(self.odd_part())
    }
}

/// Room for `{:e}` of any float: sign, 17 digits, point, exponent.
#[derive(Default)]
struct Scratch {
    bytes: [u8; 32],
    len: usize,
}

impl Scratch {
    fn format(arguments: fmt::Arguments<'_>) -> Self {
        let mut scratch = Scratch::default();
        // too long a text is cut, and then does not parse: no float comes here
        let _ = scratch.write_fmt(arguments);
        scratch
    }

    fn as_str(&self) -> &str {
        self.bytes.get(..self.len).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default()
    }
}

impl Write for Scratch {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

impl Decimal {
    /// The decimal as an odd number times a power of two, if it is one of no more bits than a float
    /// or the middle of two has.
    fn odd_part(self) -> Option<(u64, i32)> {
        // 10^n = 5^n * 2^n; what overflows or leaves a remainder has too many bits
        let power = 5u64.checked_pow(self.exponent.unsigned_abs())?;
        let twos = self.digits.trailing_zeros();
        let odd = self.digits.checked_shr(twos)?; // none for zero
        let odd = if self.exponent >= 0 {
            odd.checked_mul(power)?
        } else if odd.is_multiple_of(power) {
            odd / power
        } else {
            return None;
        };
        Some((odd, self.exponent + twos as i32))
    }

    /// The decimal with its last digit changed by `step`, if it still is read as `value` for certain.
    fn stepped<F>(self, step: i64, value: F, binary: &Binary) -> Option<Self>
    where
        F: std::str::FromStr + PartialEq,
    {
        let digits = self.digits.checked_add_signed(step)?;
        let candidate = Decimal { digits, ..self };
        let text = Scratch::format(format_args!("{digits}e{}", self.exponent));
        let reads_back = text.as_str().parse::<F>().is_ok_and(|read| read == value);
        (reads_back && !binary.is_midpoint(candidate)).then(|| candidate.without_trailing_zeros())
    }

    /// Reads what `{:e}` wrote: `1.25e-7`.
    fn from_scientific(text: &str) -> Self {
        let (number, exponent) = text.split_once('e').unwrap_or((text, "0"));
        let mut decimal = Decimal { digits: 0, exponent: exponent.parse().unwrap_or(0) };
        let mut fraction = false;
        for byte in number.bytes() {
            if byte == b'.' {
                fraction = true;
                continue;
            }
            decimal.digits = decimal.digits * 10 + u64::from(byte - b'0');
            decimal.exponent -= i32::from(fraction);
        }
        decimal
    }

    fn without_trailing_zeros(mut self) -> Self {
        while self.digits != 0 && self.digits.is_multiple_of(10) {
            self.digits /= 10;
            self.exponent += 1;
        }
        self
    }
}

/// The shortest digits strictly between the two midpoints around `value`, the closest of them.
fn shortest<F>(value: F, binary: &Binary) -> Decimal
where
    F: Copy + fmt::LowerExp + std::str::FromStr + PartialEq,
{
    let found = Decimal::from_scientific(Scratch::format(format_args!("{value:e}")).as_str());
    if binary.is_midpoint(found) {
        return one_digit_more(value, binary).unwrap_or(found);
    }
    if found.digits % 2 == 1 {
        let even = |step: &i64| binary.is_tie(found, *step);
        if let Some(step) = [-1, 1].into_iter().find(even) {
            return found.stepped(step, value, binary).unwrap_or(found);
        }
    }
    found
}

/// The shortest digits when the very shortest are a midpoint: rare, and of no everyday value.
fn one_digit_more<F>(value: F, binary: &Binary) -> Option<Decimal>
where
    F: Copy + fmt::LowerExp + std::str::FromStr + PartialEq,
{
    /// Digits after the first that every float64 can be read back from.
    const PRECISION_MAX: usize = 16;
    (0..=PRECISION_MAX).find_map(|precision| {
        let text = Scratch::format(format_args!("{value:.precision$e}"));
        let rounded = Decimal::from_scientific(text.as_str());
        // next to a power of two, the closest of this length may be just outside on the near side
        [0, 1, -1].into_iter().find_map(|step| rounded.stepped(step, value, binary))
    })
}

fn layout(out: &mut Vec<u8>, negative: bool, decimal: &Decimal, exponent_from: i32) {
    if negative {
        out.push(b'-');
    }
    let start = out.len();
    push_u64(out, decimal.digits);
    let len = (out.len() - start) as i32;
    // the power of ten of the first digit
    let exponent = decimal.exponent + len - 1;
    if !(SMALLEST_FIXED..exponent_from).contains(&exponent) {
        if len > 1 {
            out.insert(start + 1, b'.');
        }
        out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
        push_padded(out, exponent.unsigned_abs().into(), 2);
    } else if decimal.exponent >= 0 {
        out.resize(out.len() + decimal.exponent as usize, b'0');
    } else if exponent >= 0 {
        out.insert(start + exponent as usize + 1, b'.');
    } else {
        let zeros = b"0.000";
        let lead = 1 + exponent.unsigned_abs() as usize;
        out.splice(start..start, zeros.iter().copied().take(lead));
    }
}
