//! Whole and decimal numbers of any source type in ClickHouse's integers and Decimals, exactly.

use rsrepl_wire::text::Form;
use rsrepl_wire::text::numeric::{BASE, BASE_DIGITS, Numeric, Sign};

use super::convert::{INFINITE, Refusal, wrong_length};
use super::types::decimal_width;

const TOO_LONG: Refusal = Refusal::Unrepresentable("more digits than the Decimal has");
const TOO_LARGE: Refusal = Refusal::Unrepresentable("outside of its range");
const NEGATIVE: Refusal = Refusal::Unrepresentable("negative");

/// How a number comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    /// An integer in two's complement.
    Signed,
    Unsigned,
    Numeric,
}

pub(super) fn numeric(form: Form, value: &[u8]) -> Result<Numeric<'_>, Refusal> {
    Ok(match form {
        Form::Native => Numeric::from_disk(value)?,
        Form::Send => Numeric::from_send(value)?,
    })
}

/// Appends an integer of `width` bytes, little-endian.
pub(super) fn put_integer(
    out: &mut Vec<u8>,
    (width, signed): (u8, bool),
    number: Number,
    form: Form,
    value: &[u8],
) -> Result<(), Refusal> {
    let (negative, mut magnitude) = match number {
        Number::Numeric => {
            let numeric = numeric(form, value)?;
            (sign(&numeric)?, scaled(&numeric, 0)?)
        }
        Number::Signed | Number::Unsigned => integer(number == Number::Signed, form, value)?,
    };
    if negative && !signed && !magnitude.is_zero() {
        return Err(NEGATIVE);
    }
    let bits = u32::from(width) * 8;
    // -2^(n-1) is there, and 2^(n-1) is not
    let lowest = signed && negative && magnitude.is_power_of_two(bits - 1);
    if magnitude.bits() > bits - u32::from(signed) && !lowest {
        return Err(TOO_LARGE);
    }
    if negative {
        magnitude.negate();
    }
    let bytes = magnitude.to_le_bytes();
    out.extend_from_slice(bytes.get(..usize::from(width)).unwrap_or(&bytes));
    Ok(())
}

/// Whether it is negative, and its magnitude.
fn integer(signed: bool, form: Form, value: &[u8]) -> Result<(bool, U256), Refusal> {
    let mut bytes = [0; 8];
    let place = bytes.get_mut(..value.len()).ok_or_else(wrong_length)?;
    place.copy_from_slice(value);
    if form == Form::Send {
        place.reverse();
    }
    let negative = signed && place.last().is_some_and(|byte| byte & 0x80 != 0);
    if negative {
        bytes.iter_mut().skip(value.len()).for_each(|byte| *byte = 0xFF);
    }
    let word = u64::from_le_bytes(bytes);
    Ok((negative, U256([if negative { word.wrapping_neg() } else { word }, 0, 0, 0])))
}

/// Whether it is negative; an error when it is no number.
fn sign(numeric: &Numeric<'_>) -> Result<bool, Refusal> {
    match numeric.sign() {
        Sign::Positive => Ok(false),
        Sign::Negative => Ok(true),
        Sign::NaN => Err(Refusal::Unrepresentable("NaN")),
        Sign::Infinity | Sign::NegInfinity => Err(INFINITE),
    }
}

/// The value times 10^scale as a little-endian integer in two's complement.
pub(super) fn put_decimal(
    out: &mut Vec<u8>,
    precision: u8,
    scale: u8,
    numeric: &Numeric<'_>,
) -> Result<(), Refusal> {
    let negative = sign(numeric)?;
    let mut value = scaled(numeric, scale)?;
    if !value.is_below_power_of_ten(precision) {
        return Err(TOO_LONG);
    }
    if negative {
        value.negate();
    }
    let bytes: [u8; 32] = value.to_le_bytes();
    out.extend_from_slice(bytes.get(..decimal_width(precision)).unwrap_or(&bytes));
    Ok(())
}

/// |value| * 10^scale, when that is a whole number under 2^256.
fn scaled(numeric: &Numeric<'_>, scale: u8) -> Result<U256, Refusal> {
    let mut value = U256::default();
    let scale = i32::from(scale);
    // decimals that the digits so far have brought; negative before the decimal point
    let mut decimals = -(i32::from(numeric.weight()) + 1) * BASE_DIGITS as i32;
    for digit in numeric.digits() {
        let room = scale - decimals;
        decimals += BASE_DIGITS as i32;
        if room >= BASE_DIGITS as i32 {
            value.multiply_add(u64::from(BASE), u64::from(digit)).ok_or(TOO_LONG)?;
            continue;
        }
        // the last decimals are a part of this digit, or it lies wholly behind them
        let room = room.max(0) as u32;
        let cut = 10u16.pow(BASE_DIGITS as u32 - room);
        if digit % cut != 0 {
            return Err(Refusal::Unrepresentable("a number with more decimals"));
        }
        if room > 0 {
            let digit = u64::from(digit / cut);
            value.multiply_add(10u64.pow(room), digit).ok_or(TOO_LONG)?;
        }
        decimals = decimals.min(scale);
    }
    for _ in decimals..scale {
        if value.is_zero() {
            break;
        }
        value.multiply_add(10, 0).ok_or(TOO_LONG)?;
    }
    Ok(value)
}

/// An unsigned integer of 256 bits, least significant word first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct U256([u64; 4]);

impl U256 {
    fn is_zero(&self) -> bool {
        self.0 == [0; 4]
    }

    /// `self * factor + term`; `None` when it does not fit.
    fn multiply_add(&mut self, factor: u64, term: u64) -> Option<()> {
        let mut carry = u128::from(term);
        for word in &mut self.0 {
            carry += u128::from(*word) * u128::from(factor);
            *word = carry as u64;
            carry >>= 64;
        }
        (carry == 0).then_some(())
    }

    fn is_below_power_of_ten(&self, exponent: u8) -> bool {
        if let Some(limit) = 10u128.checked_pow(exponent.into()) {
            let [low, high, rest @ ..] = self.0;
            return rest == [0; 2] && (u128::from(high) << 64 | u128::from(low)) < limit;
        }
        let mut limit = U256([1, 0, 0, 0]);
        for _ in 0..exponent {
            // 10^76 is under 2^253
            if limit.multiply_add(10, 0).is_none() {
                return true;
            }
        }
        self.0.iter().rev().lt(limit.0.iter().rev())
    }

    /// Bits without leading zeros.
    fn bits(&self) -> u32 {
        let zeros = self.0.iter().rev().map(|word| word.leading_zeros());
        let mut bits = 256;
        for zeros in zeros {
            bits -= zeros;
            if zeros < 64 {
                break;
            }
        }
        bits
    }

    fn is_power_of_two(&self, exponent: u32) -> bool {
        self.bits() == exponent + 1 && self.0.iter().map(|word| word.count_ones()).sum::<u32>() == 1
    }

    /// Two's complement.
    fn negate(&mut self) {
        let mut carry = true;
        for word in &mut self.0 {
            (*word, carry) = (!*word).overflowing_add(u64::from(carry));
        }
    }

    fn to_le_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (eight, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            eight.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `numeric_send` writes of a decimal number.
    fn numeric_send(text: &str) -> Vec<u8> {
        let (sign, digits) = text.strip_prefix('-').map_or((0u16, text), |d| (0x4000, d));
        let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
        let mut padded = "0".repeat((4 - whole.len() % 4) % 4) + whole + decimals;
        let weight = padded.len().saturating_sub(decimals.len()) / 4;
        padded += &"0".repeat((4 - decimals.len() % 4) % 4);
        let words: Vec<u16> = padded
            .as_bytes()
            .chunks(4)
            .map(|four| four.iter().fold(0, |word, b| word * 10 + u16::from(b - b'0')))
            .collect();
        let header = [words.len() as u16, weight as u16 - 1, sign, decimals.len() as u16];
        header.iter().chain(&words).flat_map(|word| word.to_be_bytes()).collect()
    }

    fn decimal(text: &str, precision: u8, scale: u8) -> Option<i128> {
        let bytes = numeric_send(text);
        let mut out = Vec::new();
        put_decimal(&mut out, precision, scale, &Numeric::from_send(&bytes).unwrap()).ok()?;
        assert_eq!(out.len(), decimal_width(precision));
        let fill = if out.last().unwrap() & 0x80 == 0 { 0 } else { 0xFF };
        out.resize(32, fill);
        assert!(out[16..].iter().all(|byte| *byte == fill));
        Some(i128::from_le_bytes(out[..16].try_into().unwrap()))
    }

    #[test]
    fn decimals_at_their_edges() {
        assert_eq!(decimal("999.99", 5, 2), Some(99_999));
        assert_eq!(decimal("-999.99", 5, 2), Some(-99_999));
        assert_eq!(decimal("1000.00", 5, 2), None);
        assert_eq!(decimal("0.001", 5, 2), None);
        assert_eq!(decimal("0.010", 5, 2), Some(1));
        assert_eq!(decimal("0.0000", 5, 2), Some(0));
        assert_eq!(decimal("120000", 9, 0), Some(120_000));
        assert_eq!(decimal("1.5", 9, 0), None);
        assert_eq!(decimal(&"9".repeat(38), 38, 0), Some(10i128.pow(38) - 1));
        assert_eq!(decimal(&format!("1{}", "0".repeat(38)), 38, 0), None);
        assert_eq!(decimal(&format!("1{}", "0".repeat(76)), 76, 0), None);
        assert_eq!(decimal("0.00012345", 8, 8), Some(12_345));
    }

    fn number(text: &str, width: u8, signed: bool) -> Option<i128> {
        let mut out = Vec::new();
        let bytes = numeric_send(text);
        put_integer(&mut out, (width, signed), Number::Numeric, Form::Send, &bytes).ok()?;
        assert_eq!(out.len(), usize::from(width));
        let negative = signed && out.last().unwrap() & 0x80 != 0;
        out.resize(16, if negative { 0xFF } else { 0 });
        Some(i128::from_le_bytes(out.try_into().unwrap()))
    }

    #[test]
    fn integers_at_their_edges() {
        for (text, width, signed, fits) in [
            ("127", 1, true, true),
            ("128", 1, true, false),
            ("-128", 1, true, true),
            ("-129", 1, true, false),
            ("255", 1, false, true),
            ("256", 1, false, false),
            ("-1", 8, false, false),
            ("0.00", 8, false, true),
            ("18446744073709551615", 8, false, true),
            ("18446744073709551616", 8, false, false),
            ("-9223372036854775808", 8, true, true),
            ("-9223372036854775809", 8, true, false),
            ("1.5", 8, true, false),
        ] {
            let value = text.split('.').next().unwrap().parse().unwrap();
            assert_eq!(number(text, width, signed), fits.then_some(value), "{text}");
        }
        let edge = "170141183460469231731687303715884105728"; // 2^127
        assert_eq!(number(&format!("-{edge}"), 16, true), Some(i128::MIN));
        assert_eq!(number(edge, 16, true), None);
    }

    #[test]
    fn integers_of_every_source() {
        let put = |width, signed, from: Number, form: Form, value: &[u8]| {
            let mut out = Vec::new();
            put_integer(&mut out, (width, signed), from, form, value).ok().map(|()| out)
        };
        let minus_two = (-2i16).to_be_bytes();
        assert_eq!(
            put(4, true, Number::Signed, Form::Send, &minus_two),
            Some(vec![254, 255, 255, 255])
        );
        assert_eq!(put(1, true, Number::Signed, Form::Send, &minus_two), Some(vec![254]));
        assert_eq!(put(4, false, Number::Signed, Form::Send, &minus_two), None);
        assert_eq!(
            put(8, false, Number::Unsigned, Form::Native, &u32::MAX.to_le_bytes()),
            Some(vec![255, 255, 255, 255, 0, 0, 0, 0])
        );
        assert_eq!(put(8, true, Number::Unsigned, Form::Native, &u64::MAX.to_le_bytes()), None);
        assert_eq!(
            put(8, true, Number::Signed, Form::Native, &i64::MIN.to_le_bytes()),
            Some(i64::MIN.to_le_bytes().to_vec())
        );
        assert_eq!(put(8, true, Number::Signed, Form::Native, &[0; 9]), None);
    }

    proptest! {
        #[test]
        fn decimals_are_exact(value in -10i128.pow(30)..10i128.pow(30), scale in 0u8..20) {
            let digits = format!("{:0>1$}", value.unsigned_abs(), usize::from(scale) + 1);
            let (whole, decimals) = digits.split_at(digits.len() - usize::from(scale));
            let sign = if value < 0 { "-" } else { "" };
            let text = format!("{sign}{whole}.{decimals}");
            let text = text.trim_end_matches('.');
            prop_assert_eq!(decimal(text, 30, scale), Some(value));
            prop_assert_eq!(decimal(text, 50, scale), Some(value));
        }
    }
}
