//! `numeric`: base-10000 digits with a weight, a scale to show, and a sign (`numeric.c`).

use bytes::BufMut;

use super::cursor::Cursor;
use super::simple::push_padded;
use super::{Form, ValueError};

/// The base of the digits (`NBASE`).
pub const BASE: u16 = 10_000;
/// Decimal digits in one of them (`DEC_DIGITS`).
pub const BASE_DIGITS: usize = 4;
/// Largest number of decimals (`NUMERIC_DSCALE_MASK`); with an i16 weight it bounds the text of any
/// value, however short its bytes, at 147,460 characters.
pub const SCALE_MAX: u16 = 0x3FFF;

// The header of NumericChoice: two bits of kind …
const KIND_MASK: u16 = 0xC000;
const KIND_POSITIVE: u16 = 0x0000;
const KIND_NEGATIVE: u16 = 0x4000;
const KIND_SHORT: u16 = 0x8000;
// … of which the fourth is for special values, the same in the sign field of the send form.
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEG_INFINITY: u16 = 0xF000;
// NumericShort: sign, scale and weight in the header.
const SHORT_NEGATIVE: u16 = 0x2000;
const SHORT_SCALE_MASK: u16 = 0x1F80;
const SHORT_SCALE_SHIFT: u32 = 7;
const SHORT_WEIGHT_SIGN: u16 = 0x0040;
const SHORT_WEIGHT_MASK: u16 = 0x003F;

/// What a [`Numeric`] is, before its digits are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Zero too.
    Positive,
    Negative,
    NaN,
    Infinity,
    NegInfinity,
}

/// A checked view of the bytes of a numeric. Its value is the sum of `digit[i] * 10000^(weight - i)`.
#[derive(Clone, Copy, Debug)]
pub struct Numeric<'a> {
    sign: Sign,
    weight: i16,
    scale: u16,
    digits: &'a [u8],
    form: Form,
}

fn malformed(problem: &'static str) -> ValueError {
    ValueError::Malformed { type_name: "numeric", problem }
}

impl<'a> Numeric<'a> {
    /// Reads [`Encoding::Numeric`](crate::Encoding::Numeric): `NumericChoice`, short or long.
    pub fn from_disk(bytes: &'a [u8]) -> Result<Self, ValueError> {
        let mut cursor = Cursor::new(bytes, Form::Native, "numeric");
        let header = cursor.u16()?;
        let (sign, weight, scale) = match header & KIND_MASK {
            KIND_SHORT => {
                let negative = header & SHORT_NEGATIVE != 0;
                let weight = (header & SHORT_WEIGHT_MASK) as i16;
                // six bits and a sign in two's complement
                let weight = if header & SHORT_WEIGHT_SIGN != 0 { weight - 0x40 } else { weight };
                let sign = if negative { Sign::Negative } else { Sign::Positive };
                (sign, weight, (header & SHORT_SCALE_MASK) >> SHORT_SCALE_SHIFT)
            }
            KIND_POSITIVE => (Sign::Positive, cursor.i16()?, header & SCALE_MAX),
            KIND_NEGATIVE => (Sign::Negative, cursor.i16()?, header & SCALE_MAX),
            _ => (special(header)?, 0, 0),
        };
        Numeric { sign, weight, scale, digits: cursor.rest(), form: Form::Native }.checked()
    }

    /// Reads what `numeric_send` writes.
    pub fn from_send(bytes: &'a [u8]) -> Result<Self, ValueError> {
        let mut cursor = Cursor::new(bytes, Form::Send, "numeric");
        let (count, weight, sign, scale) =
            (cursor.u16()?, cursor.i16()?, cursor.u16()?, cursor.u16()?);
        let digits = cursor.rest();
        if digits.len() != usize::from(count) * 2 {
            return Err(malformed("wrong number of digits"));
        }
        let (sign, weight, scale) = match sign {
            KIND_POSITIVE => (Sign::Positive, weight, scale),
            KIND_NEGATIVE => (Sign::Negative, weight, scale),
            other => (special(other)?, 0, 0), // an infinity's scale field holds bits of its sign
        };
        if scale > SCALE_MAX {
            return Err(malformed("scale out of range"));
        }
        Numeric { sign, weight, scale, digits, form: Form::Send }.checked()
    }

    fn checked(self) -> Result<Self, ValueError> {
        if !self.digits.len().is_multiple_of(2) {
            return Err(malformed("half a digit"));
        }
        // it has at most 131,072 decimals before the point and 16,383 behind it
        if self.digits.len() / 2 > usize::from(u16::MAX) {
            return Err(malformed("too many digits"));
        }
        if !self.is_finite() && !self.digits.is_empty() {
            return Err(malformed("digits in a special value"));
        }
        if self.digits().any(|digit| digit >= BASE) {
            return Err(malformed("digit out of range"));
        }
        Ok(self)
    }

    pub fn sign(&self) -> Sign {
        self.sign
    }

    /// Neither NaN nor an infinity.
    pub fn is_finite(&self) -> bool {
        matches!(self.sign, Sign::Positive | Sign::Negative)
    }

    /// The power of [`BASE`] of the first digit.
    pub fn weight(&self) -> i16 {
        self.weight
    }

    /// Decimals to show, at most [`SCALE_MAX`].
    pub fn scale(&self) -> u16 {
        self.scale
    }

    /// The digits, most significant first, each under [`BASE`]. PostgreSQL stores neither leading nor
    /// trailing zeros, but nothing here relies on it.
    pub fn digits(&self) -> Digits<'a> {
        Digits { bytes: self.digits, form: self.form }
    }

    /// Appends what `numeric_out` writes.
    pub fn write(&self, out: &mut impl BufMut) {
        match self.sign {
            Sign::NaN => return out.put_slice(b"NaN"),
            Sign::Infinity => return out.put_slice(b"Infinity"),
            Sign::NegInfinity => return out.put_slice(b"-Infinity"),
            Sign::Negative => out.put_u8(b'-'),
            Sign::Positive => {}
        }
        let mut digits = self.digits();
        let mut weight = i32::from(self.weight);
        if weight < 0 {
            out.put_u8(b'0');
        } else {
            push_padded(out, digits.next().unwrap_or(0).into(), 1);
            for _ in 0..weight {
                push_padded(out, digits.next().unwrap_or(0).into(), BASE_DIGITS);
            }
            weight = -1;
        }
        let mut left = usize::from(self.scale);
        if left > 0 {
            out.put_u8(b'.');
        }
        while left > 0 {
            // the digits start with this group once its own weight is reached
            let digit = if weight == -1 { digits.next().unwrap_or(0) } else { 0 };
            weight = (weight + 1).min(-1);
            let shown = left.min(BASE_DIGITS);
            let cut = 10u16.pow((BASE_DIGITS - shown) as u32);
            push_padded(out, (digit / cut).into(), shown);
            left -= shown;
        }
    }

    /// Appends what `numeric_send` writes.
    pub fn write_send(&self, out: &mut impl BufMut) {
        let (sign, scale) = match self.sign {
            Sign::Positive => (KIND_POSITIVE, self.scale),
            Sign::Negative => (KIND_NEGATIVE, self.scale),
            Sign::NaN => (NAN, 0),
            Sign::Infinity => (INFINITY, (INFINITY & SHORT_SCALE_MASK) >> SHORT_SCALE_SHIFT),
            Sign::NegInfinity => {
                (NEG_INFINITY, (NEG_INFINITY & SHORT_SCALE_MASK) >> SHORT_SCALE_SHIFT)
            }
        };
        out.put_u16(self.digits().len() as u16); // checked
        out.put_i16(self.weight);
        out.put_u16(sign);
        out.put_u16(scale);
        for digit in self.digits() {
            out.put_u16(digit);
        }
    }
}

fn special(field: u16) -> Result<Sign, ValueError> {
    match field {
        NAN => Ok(Sign::NaN),
        INFINITY => Ok(Sign::Infinity),
        NEG_INFINITY => Ok(Sign::NegInfinity),
        _ => Err(malformed("unknown sign")),
    }
}

/// Iterator over [`Numeric::digits`].
#[derive(Clone, Debug)]
pub struct Digits<'a> {
    bytes: &'a [u8],
    form: Form,
}

impl Iterator for Digits<'_> {
    type Item = u16;

    #[inline]
    fn next(&mut self) -> Option<u16> {
        let (digit, rest) = self.bytes.split_first_chunk::<2>()?;
        self.bytes = rest;
        Some(match self.form {
            Form::Native => u16::from_le_bytes(*digit),
            Form::Send => u16::from_be_bytes(*digit),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = self.bytes.len() / 2;
        (len, Some(len))
    }
}

impl ExactSizeIterator for Digits<'_> {}

pub(crate) fn write_send_form(out: &mut Vec<u8>, value: &mut Cursor<'_>) -> Result<(), ValueError> {
    Numeric::from_send(value.rest())?.write(out);
    Ok(())
}
