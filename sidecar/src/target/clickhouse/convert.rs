//! From a value of the stream to `RowBinary`, exactly or not at all.

use rsrepl_wire::text::numeric::{BASE, BASE_DIGITS, Numeric, Sign};
use rsrepl_wire::text::{self, Form, ValueError};
use rsrepl_wire::{Column, Encoding};

use super::types::{decimal_width, put_string, put_string_with};

/// Days from 1970-01-01 to 2000-01-01, PostgreSQL's day 0.
const EPOCH_DAYS: i32 = 10_957;
/// The same in microseconds.
const EPOCH_MICROS: i64 = EPOCH_DAYS as i64 * 86_400_000_000;

/// The dates that a server shows as they were written: it stores any, and shows others wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DateRange {
    /// Days since 1970-01-01.
    first: i32,
    last: i32,
}

impl DateRange {
    /// 0001-01-01 to 9999-12-31, as recent servers have it.
    pub(super) const WIDE: DateRange = DateRange { first: -719_162, last: 2_932_896 };
    /// 1900-01-01 to 2299-12-31.
    pub(super) const NARROW: DateRange = DateRange { first: -25_567, last: 120_529 };

    fn has_day(self, day: i32) -> bool {
        (self.first..=self.last).contains(&day)
    }

    fn has_micros(self, micros: i64) -> bool {
        i32::try_from(micros.div_euclid(86_400_000_000)).is_ok_and(|day| self.has_day(day))
    }
}

/// How the values of a column, or of the elements of its arrays, become `RowBinary`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// So many bytes, little-endian in both.
    Fixed(u8),
    /// A String of the same bytes.
    Bytes,
    /// A String of PostgreSQL's text form.
    Text,
    Uuid,
    Date(DateRange),
    Timestamp(DateRange),
    /// Precision and scale.
    Decimal(u8, u8),
}

/// Where a value comes from, which says in which form it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a> {
    /// A row, in the column's encoding.
    Column(&'a Column),
    /// An array, in this encoding of its element type.
    Element(Encoding, &'a text::Type),
}

impl Source<'_> {
    fn form(self) -> Form {
        let encoding = match self {
            Source::Column(column) => column.encoding,
            Source::Element(encoding, _) => encoding,
        };
        if encoding == Encoding::Send { Form::Send } else { Form::Native }
    }

    /// Appends PostgreSQL's text form.
    pub(super) fn write_text(self, out: &mut Vec<u8>, value: &[u8]) -> Result<(), ValueError> {
        match self {
            Source::Column(column) => text::write(out, column, value),
            Source::Element(encoding, ty) => text::write_as(out, encoding, ty, value),
        }
    }
}

/// Why a value was not written.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The ClickHouse type cannot hold it: a case for the policy.
    Unrepresentable(&'static str),
    /// A NULL in a column that was described as NOT NULL.
    NullNotAllowed,
    /// An unchanged TOAST value that is not in the stream.
    Absent,
    /// The bytes are not what the relation says.
    Malformed(ValueError),
}

impl From<ValueError> for Refusal {
    fn from(error: ValueError) -> Self {
        Refusal::Malformed(error)
    }
}

impl Codec {
    /// Whether the type has values that ClickHouse cannot hold.
    pub(super) fn is_partial(self) -> bool {
        matches!(self, Codec::Date(_) | Codec::Timestamp(_) | Codec::Decimal(..))
    }

    /// Appends one value. After an error `out` may hold a part of it.
    #[inline]
    pub(super) fn put(
        self,
        out: &mut Vec<u8>,
        source: Source<'_>,
        value: &[u8],
    ) -> Result<(), Refusal> {
        let form = source.form();
        match self {
            Codec::Fixed(width) => return put_fixed(out, form, usize::from(width), value),
            Codec::Bytes => put_string(out, value),
            Codec::Text => put_string_with(out, |out| source.write_text(out, value))?,
            Codec::Uuid => put_uuid(out, fixed(value)?),
            Codec::Date(range) => {
                let day = i32::from_le_bytes(native(form, fixed(value)?));
                match day.checked_add(EPOCH_DAYS) {
                    _ if day == i32::MAX || day == i32::MIN => return Err(INFINITE),
                    Some(day) if range.has_day(day) => out.extend_from_slice(&day.to_le_bytes()),
                    _ => return Err(OUT_OF_RANGE),
                }
            }
            Codec::Timestamp(range) => {
                let micros = i64::from_le_bytes(native(form, fixed(value)?));
                match micros.checked_add(EPOCH_MICROS) {
                    _ if micros == i64::MAX || micros == i64::MIN => return Err(INFINITE),
                    Some(at) if range.has_micros(at) => out.extend_from_slice(&at.to_le_bytes()),
                    _ => return Err(OUT_OF_RANGE),
                }
            }
            Codec::Decimal(precision, scale) => {
                let numeric = match form {
                    Form::Native => Numeric::from_disk(value)?,
                    Form::Send => Numeric::from_send(value)?,
                };
                put_decimal(out, precision, scale, &numeric)?;
            }
        }
        Ok(())
    }
}

const INFINITE: Refusal = Refusal::Unrepresentable("an infinity");
const OUT_OF_RANGE: Refusal = Refusal::Unrepresentable("outside of the range of dates");
const TOO_LONG: Refusal = Refusal::Unrepresentable("more digits than the Decimal has");

fn wrong_length() -> Refusal {
    Refusal::Malformed(ValueError::Malformed { type_name: "value", problem: "wrong length" })
}

fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], Refusal> {
    value.try_into().map_err(|_| wrong_length())
}

/// Little-endian from either form.
fn native<const N: usize>(form: Form, mut bytes: [u8; N]) -> [u8; N] {
    if form == Form::Send {
        bytes.reverse();
    }
    bytes
}

fn put_fixed(out: &mut Vec<u8>, form: Form, width: usize, value: &[u8]) -> Result<(), Refusal> {
    if value.len() != width {
        return Err(wrong_length());
    }
    match form {
        Form::Native => out.extend_from_slice(value),
        Form::Send => out.extend(value.iter().rev()),
    }
    Ok(())
}

/// Two little-endian halves, the first eight bytes of the text form first.
fn put_uuid(out: &mut Vec<u8>, bytes: [u8; 16]) {
    let value = u128::from_be_bytes(bytes);
    out.extend_from_slice(&((value >> 64) as u64).to_le_bytes());
    out.extend_from_slice(&(value as u64).to_le_bytes());
}

/// The value times 10^scale as a little-endian integer in two's complement.
fn put_decimal(
    out: &mut Vec<u8>,
    precision: u8,
    scale: u8,
    numeric: &Numeric<'_>,
) -> Result<(), Refusal> {
    let negative = match numeric.sign() {
        Sign::Positive => false,
        Sign::Negative => true,
        Sign::NaN => return Err(Refusal::Unrepresentable("NaN")),
        Sign::Infinity | Sign::NegInfinity => return Err(INFINITE),
    };
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
            return Err(Refusal::Unrepresentable("more decimals than the Decimal has"));
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
    fn numeric(text: &str) -> Vec<u8> {
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
        let bytes = numeric(text);
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
