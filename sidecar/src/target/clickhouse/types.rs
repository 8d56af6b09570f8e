//! The ClickHouse types that columns get, and their values in `RowBinary` (see `sink`). Their names are
//! in `type_names`.
//!
//! The server does not validate them: what is written here is what is stored.

use super::labels::Labels;
use super::sink::Sink;

/// A type without NULL and without elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scalar {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    Int128,
    Int256,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    UInt128,
    UInt256,
    Float32,
    Float64,
    /// Precision 1 to 76, scale up to it.
    Decimal(u8, u8),
    String,
    /// `LowCardinality(String)`; in `RowBinary` a String.
    LowCardinality,
    /// Days since 1970-01-01, unsigned.
    Date,
    /// Days since 1970-01-01.
    Date32,
    /// `DateTime('UTC')`: seconds since 1970-01-01 00:00:00 UTC, unsigned.
    DateTime,
    /// `DateTime64(p, 'UTC')`: 10^-p seconds since 1970-01-01 00:00:00 UTC.
    DateTime64(u8),
    Uuid,
    Ipv4,
    Ipv6,
    Enum8(Labels),
    Enum16(Labels),
    /// Sent, and read back, as a String.
    Json,
}

/// The type of a column.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ColumnType {
    Plain(Scalar),
    Nullable(Scalar),
    /// `Array(Nullable(…))`; there is no Nullable array.
    Array(Scalar),
    /// `Array(Array(Nullable(…)))`
    Matrix(Scalar),
    /// `Tuple(Float64, Float64)`; with `true` both are Nullable, and NULL together.
    Point(bool),
}

/// Largest precision of a Decimal in ClickHouse.
pub(super) const DECIMAL_PRECISION_MAX: u8 = 76;

/// What a JSON column has where there is no value.
const EMPTY_JSON: &[u8] = b"{}";

impl Scalar {
    /// Bytes of a value; `None` for strings, which have their length before them.
    pub(super) fn width(&self) -> Option<usize> {
        Some(match self {
            Scalar::Bool | Scalar::Int8 | Scalar::UInt8 | Scalar::Enum8(_) => 1,
            Scalar::Int16 | Scalar::UInt16 | Scalar::Date | Scalar::Enum16(_) => 2,
            Scalar::Int32 | Scalar::UInt32 | Scalar::Float32 | Scalar::Date32 => 4,
            Scalar::DateTime | Scalar::Ipv4 => 4,
            Scalar::Int64 | Scalar::UInt64 | Scalar::Float64 | Scalar::DateTime64(_) => 8,
            Scalar::Decimal(precision, _) => decimal_width(*precision),
            Scalar::Int128 | Scalar::UInt128 | Scalar::Uuid | Scalar::Ipv6 => 16,
            Scalar::Int256 | Scalar::UInt256 => 32,
            Scalar::String | Scalar::LowCardinality | Scalar::Json => return None,
        })
    }

    /// Whether it is an integer, and with a sign.
    pub(super) fn signed_integer(&self) -> Option<bool> {
        match self {
            Scalar::Int8 | Scalar::Int16 | Scalar::Int32 => Some(true),
            Scalar::Int64 | Scalar::Int128 | Scalar::Int256 => Some(true),
            Scalar::UInt8 | Scalar::UInt16 | Scalar::UInt32 => Some(false),
            Scalar::UInt64 | Scalar::UInt128 | Scalar::UInt256 => Some(false),
            _ => None,
        }
    }

    /// Takes one value from the front of `bytes`; `None` when they end before it does.
    fn skip(&self, bytes: &mut &[u8]) -> Option<()> {
        let len = match self.width() {
            Some(width) => width,
            None => usize::try_from(take_varint(bytes)?).ok()?,
        };
        *bytes = bytes.get(len..)?;
        Some(())
    }

    /// Appends what stands for a missing value: zeros, but for types that they are no value of.
    pub(super) fn put_default(&self, out: &mut Vec<u8>) {
        match self {
            Scalar::Enum8(labels) => out.push(labels.first() as u8),
            Scalar::Enum16(labels) => out.extend_from_slice(&labels.first().to_le_bytes()),
            Scalar::Json => put_string(out, EMPTY_JSON),
            _ => out.resize(out.len() + self.width().unwrap_or(1), 0),
        }
    }
}

/// Bytes of a Decimal of so many digits: Decimal32, 64, 128 or 256.
pub(super) fn decimal_width(precision: u8) -> usize {
    match precision {
        0..=9 => 4,
        10..=18 => 8,
        19..=38 => 16,
        _ => 32,
    }
}

impl ColumnType {
    /// Takes one value from the front of `bytes` and returns its bytes; `None` when they end before
    /// it does.
    pub(super) fn take<'a>(&self, bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
        let start = *bytes;
        match self {
            ColumnType::Plain(scalar) => scalar.skip(bytes)?,
            ColumnType::Nullable(scalar) => skip_nullable(scalar, bytes)?,
            ColumnType::Array(scalar) => skip_array(scalar, bytes)?,
            ColumnType::Matrix(scalar) => {
                for _ in 0..take_varint(bytes)? {
                    skip_array(scalar, bytes)?;
                }
            }
            ColumnType::Point(_) => {
                self.take_point(bytes)?;
            }
        }
        start.get(..start.len() - bytes.len())
    }

    /// Writes NULL, the empty array, or the scalar's default.
    pub(super) fn put_default(&self, to: &mut impl Sink) {
        match self {
            ColumnType::Plain(scalar) => scalar.put_default(to.value(false)),
            ColumnType::Nullable(scalar) => to.null(scalar),
            ColumnType::Array(_) => to.array(0),
            ColumnType::Matrix(_) => to.arrays(0),
            ColumnType::Point(true) => to.point(true, None),
            ColumnType::Point(false) => to.point(false, Some([[0; 8]; 2])),
        }
    }

    /// Writes one value that is there in `RowBinary`; `None` when it is not one.
    pub(super) fn put_row_binary(&self, to: &mut impl Sink, mut value: &[u8]) -> Option<()> {
        match self {
            ColumnType::Plain(_) => to.value(false).extend_from_slice(value),
            ColumnType::Nullable(scalar) => put_nullable(scalar, to, &mut value)?,
            ColumnType::Array(scalar) => put_array(scalar, to, &mut value)?,
            ColumnType::Matrix(scalar) => {
                let len = take_varint(&mut value)?;
                to.arrays(usize::try_from(len).ok()?);
                for _ in 0..len {
                    put_array(scalar, to, &mut value)?;
                }
            }
            ColumnType::Point(nullable) => to.point(*nullable, self.take_point(&mut value)?),
        }
        Some(())
    }

    fn take_point(&self, bytes: &mut &[u8]) -> Option<Option<[[u8; 8]; 2]>> {
        let mut point = Some([[0; 8]; 2]);
        for coordinate in 0..2 {
            if *self == ColumnType::Point(true) {
                let (null, rest) = bytes.split_first()?;
                *bytes = rest;
                if *null != 0 {
                    point = None;
                    continue;
                }
            }
            let (value, rest) = bytes.split_first_chunk()?;
            *bytes = rest;
            if let Some(place) = point.as_mut().and_then(|point| point.get_mut(coordinate)) {
                *place = *value;
            }
        }
        Some(point)
    }
}

fn skip_nullable(scalar: &Scalar, bytes: &mut &[u8]) -> Option<()> {
    let (null, rest) = bytes.split_first()?;
    *bytes = rest;
    if *null == 0 { scalar.skip(bytes) } else { Some(()) }
}

fn skip_array(scalar: &Scalar, bytes: &mut &[u8]) -> Option<()> {
    for _ in 0..take_varint(bytes)? {
        skip_nullable(scalar, bytes)?;
    }
    Some(())
}

fn put_nullable(scalar: &Scalar, to: &mut impl Sink, bytes: &mut &[u8]) -> Option<()> {
    let (null, rest) = bytes.split_first()?;
    *bytes = rest;
    if *null != 0 {
        to.null(scalar);
        return Some(());
    }
    scalar.skip(bytes)?;
    to.value(true).extend_from_slice(rest.get(..rest.len() - bytes.len())?);
    Some(())
}

fn put_array(scalar: &Scalar, to: &mut impl Sink, bytes: &mut &[u8]) -> Option<()> {
    let len = take_varint(bytes)?;
    to.array(usize::try_from(len).ok()?);
    for _ in 0..len {
        put_nullable(scalar, to, bytes)?;
    }
    Some(())
}

/// Appends LEB128, the lengths of `RowBinary`.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes LEB128 from the front of `bytes`.
pub(super) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Appends a String.
pub(super) fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a String that `write` appends the content of.
pub(super) fn put_string_with<E>(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let start = out.len();
    write(out)?;
    let len = out.len() - start;
    put_varint(out, len as u64);
    if let Some(text) = out.get_mut(start..) {
        text.rotate_right(text.len() - len);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_cut_where_they_end() {
        let mut row = Vec::new();
        row.extend_from_slice(&7i32.to_le_bytes());
        row.push(1); // NULL
        put_string(&mut row, &[b'x'; 200]);
        row.extend_from_slice(&[2, 1, 0, 3, b'a', b'b', b'c']); // [NULL, 'abc']
        row.extend_from_slice(&[2, 2, 1, 0, 7, 0]); // [[NULL, 7], []]
        row.extend_from_slice(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 1]); // only half of it is NULL
        let mut rest = row.as_slice();
        let columns = [
            (ColumnType::Plain(Scalar::Int32), 4),
            (ColumnType::Nullable(Scalar::Decimal(50, 2)), 1),
            (ColumnType::Plain(Scalar::String), 202),
            (ColumnType::Array(Scalar::String), 7),
            (ColumnType::Matrix(Scalar::Int8), 6),
            (ColumnType::Point(true), 10),
        ];
        for (column, len) in columns {
            assert_eq!(column.take(&mut rest).map(<[u8]>::len), Some(len), "{column}");
        }
        assert!(rest.is_empty());
        assert_eq!(ColumnType::Plain(Scalar::Uuid).take(&mut &row[..15]), None);
    }

    #[test]
    fn a_value_that_was_read_back_is_written_again() {
        let array = [3, 1, 0, 2, b'a', b'b', 0, 0]; // [NULL, 'ab', '']
        let mut again = Vec::new();
        let ty = ColumnType::Array(Scalar::String);
        assert_eq!(ty.put_row_binary(&mut again, &array), Some(()));
        assert_eq!(again, array);
        assert_eq!(ty.put_row_binary(&mut again, &array[..4]), None);
        again.clear();
        for value in [&[1][..], &[0, 7, 0, 0, 0]] {
            ColumnType::Nullable(Scalar::Int32).put_row_binary(&mut again, value).unwrap();
        }
        assert_eq!(again, [1, 0, 7, 0, 0, 0]);
        for (ty, value) in [
            (ColumnType::Matrix(Scalar::Int8), &[2, 2, 1, 0, 7, 0][..]),
            (ColumnType::Point(true), &[1, 1]),
            (ColumnType::Point(true), &[0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
            (ColumnType::Point(false), &[1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8]),
        ] {
            again.clear();
            assert_eq!(ty.put_row_binary(&mut again, value), Some(()));
            assert_eq!(again, value);
        }
    }

    #[test]
    fn a_string_written_in_place() {
        for len in [0, 1, 127, 128, 20_000] {
            let text = vec![b'y'; len];
            let (mut one, mut other) = (vec![9], vec![9]);
            put_string(&mut one, &text);
            put_string_with::<()>(&mut other, |out| {
                out.extend_from_slice(&text);
                Ok(())
            })
            .unwrap();
            assert_eq!(one, other);
        }
    }
}
