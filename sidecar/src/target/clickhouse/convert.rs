//! From a value of the stream to `RowBinary`, exactly or not at all.

use rsrepl_wire::text::{self, Form, ValueError};
use rsrepl_wire::{Column, Encoding};

use super::json;
use super::labels::Labels;
use super::numbers::{self, Number};
use super::types::{put_string, put_string_with};

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

/// What a DateTime64 of microseconds has behind the point.
pub(super) const MICROS: u8 = 6;

/// How the values of a column, or of the elements of its arrays, become `RowBinary`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// So many bytes, little-endian in both.
    Fixed(u8),
    /// A String of the same bytes.
    Bytes,
    /// A String of PostgreSQL's text form.
    Text,
    Uuid,
    Date(DateRange),
    /// Days in two bytes, from 1970 on.
    ShortDate,
    /// In `MICROS`.
    Timestamp(DateRange),
    /// With so many digits behind the point.
    TimestampOf(DateRange, u8),
    /// Seconds in four bytes, from 1970 on.
    ShortTimestamp,
    /// Precision and scale.
    Decimal(u8, u8),
    /// An integer of so many bytes, with a sign or without.
    Integer(Number, u8, bool),
    /// The number of a label, in a byte or in two.
    Label(Labels, u8),
    Ipv4,
    Ipv6,
    /// A String of an object in JSON.
    Json,
    /// Two float8; as a whole value only, see [`Codec::point`].
    Point,
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
    pub(super) fn is_partial(&self) -> bool {
        let total = [Codec::Bytes, Codec::Text, Codec::Uuid, Codec::Point];
        !matches!(self, Codec::Fixed(_)) && !total.contains(self)
    }

    /// Appends one value. After an error `out` may hold a part of it.
    #[inline]
    pub(super) fn put(
        &self,
        out: &mut Vec<u8>,
        source: Source<'_>,
        value: &[u8],
    ) -> Result<(), Refusal> {
        let form = source.form();
        match self {
            Codec::Fixed(width) => return put_fixed(out, form, usize::from(*width), value),
            Codec::Bytes => put_string(out, value),
            Codec::Text => put_string_with(out, |out| source.write_text(out, value))?,
            Codec::Uuid => put_uuid(out, fixed(value)?),
            Codec::Date(range) => {
                let day = day(form, value)?;
                let day = day.filter(|day| range.has_day(*day)).ok_or(OUT_OF_RANGE)?;
                out.extend_from_slice(&day.to_le_bytes());
            }
            Codec::Timestamp(range) => {
                let at = micros(form, value)?;
                let at = at.filter(|at| range.has_micros(*at)).ok_or(OUT_OF_RANGE)?;
                out.extend_from_slice(&at.to_le_bytes());
            }
            Codec::Decimal(precision, scale) => {
                numbers::put_decimal(out, *precision, *scale, &numbers::numeric(form, value)?)?;
            }
            _ => return self.put_chosen(out, source, value),
        }
        Ok(())
    }

    /// The same for what columns get only when the user asks for it.
    fn put_chosen(
        &self,
        out: &mut Vec<u8>,
        source: Source<'_>,
        value: &[u8],
    ) -> Result<(), Refusal> {
        let form = source.form();
        match self {
            Codec::ShortDate => {
                let day = day(form, value)?.and_then(|day| u16::try_from(day).ok());
                out.extend_from_slice(&day.ok_or(OUT_OF_RANGE)?.to_le_bytes());
            }
            Codec::TimestampOf(range, precision) => {
                let at = micros(form, value)?;
                let at = at.filter(|at| range.has_micros(*at)).ok_or(OUT_OF_RANGE)?;
                let at = at_precision(at, *precision)?;
                out.extend_from_slice(&at.to_le_bytes());
            }
            Codec::ShortTimestamp => {
                let at = at_precision(micros(form, value)?.ok_or(OUT_OF_RANGE)?, 0)?;
                let at = u32::try_from(at).map_err(|_| OUT_OF_RANGE)?;
                out.extend_from_slice(&at.to_le_bytes());
            }
            Codec::Integer(number, width, signed) => {
                numbers::put_integer(out, (*width, *signed), *number, form, value)?;
            }
            Codec::Label(labels, width) => {
                let number = labels.number(value).ok_or(NO_LABEL)?;
                let bytes = number.to_le_bytes();
                out.extend_from_slice(bytes.get(..usize::from(*width)).unwrap_or(&bytes));
            }
            Codec::Ipv4 => {
                let mut address: [u8; 4] = address(value, IPV4)?;
                address.reverse();
                out.extend_from_slice(&address);
            }
            Codec::Ipv6 => out.extend_from_slice(&address::<16>(value, IPV6)?),
            Codec::Json => {
                let mut fits = Ok(());
                put_string_with(out, |out| {
                    let start = out.len();
                    source.write_text(out, value)?;
                    fits = json::fits(out.get(start..).unwrap_or_default());
                    Ok::<(), ValueError>(())
                })?;
                fits.map_err(Refusal::Unrepresentable)?;
            }
            // written by `put`, or never by themselves
            _ => return Err(wrong_length()),
        }
        Ok(())
    }

    /// The coordinates of a point, each as a Float64.
    pub(super) fn point(source: Source<'_>, value: &[u8]) -> Result<[[u8; 8]; 2], Refusal> {
        let (x, y) = value.split_at_checked(8).ok_or_else(wrong_length)?;
        let form = source.form();
        Ok([native(form, fixed(x)?), native(form, fixed(y)?)])
    }
}

/// Days since 1970-01-01; `None`: too many.
#[inline]
fn day(form: Form, value: &[u8]) -> Result<Option<i32>, Refusal> {
    match i32::from_le_bytes(native(form, fixed(value)?)) {
        i32::MAX | i32::MIN => Err(INFINITE),
        day => Ok(day.checked_add(EPOCH_DAYS)),
    }
}

/// Microseconds since 1970-01-01 00:00:00 UTC; `None`: too many.
#[inline]
fn micros(form: Form, value: &[u8]) -> Result<Option<i64>, Refusal> {
    match i64::from_le_bytes(native(form, fixed(value)?)) {
        i64::MAX | i64::MIN => Err(INFINITE),
        micros => Ok(micros.checked_add(EPOCH_MICROS)),
    }
}

/// Microseconds in 10^-`precision` seconds.
fn at_precision(micros: i64, precision: u8) -> Result<i64, Refusal> {
    match precision.checked_sub(MICROS) {
        Some(more) => micros.checked_mul(10i64.pow(more.into())).ok_or(OUT_OF_RANGE),
        None => {
            let unit = 10i64.pow((MICROS - precision).into());
            if micros % unit != 0 {
                return Err(Refusal::Unrepresentable("a time with more decimals"));
            }
            Ok(micros / unit)
        }
    }
}

// Address families as the send functions write them.
const IPV4: u8 = 2;
const IPV6: u8 = 3;

/// `network_send`: family, bits of the netmask, whether it is a cidr, length, address.
fn address<const N: usize>(value: &[u8], wanted: u8) -> Result<[u8; N], Refusal> {
    let [family, bits, _, _, address @ ..] = value else { return Err(wrong_length()) };
    if *family != wanted {
        return Err(Refusal::Unrepresentable("an address of the other family"));
    }
    if usize::from(*bits) != 8 * N {
        return Err(Refusal::Unrepresentable("an address with a netmask"));
    }
    fixed(address)
}

pub(super) const INFINITE: Refusal = Refusal::Unrepresentable("an infinity");
const OUT_OF_RANGE: Refusal = Refusal::Unrepresentable("outside of the range of dates");
const NO_LABEL: Refusal = Refusal::Unrepresentable("none of the labels");

pub(super) fn wrong_length() -> Refusal {
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
