//! The ClickHouse types that columns get, and their values in `RowBinary` (see `sink`).
//!
//! The server does not validate them: what is written here is what is stored.

use std::fmt;

use super::sink::Sink;

/// A type without NULL and without elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scalar {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt32,
    UInt128,
    Float32,
    Float64,
    /// Precision 1 to 76, scale up to it.
    Decimal(u8, u8),
    String,
    /// `LowCardinality(String)`; in `RowBinary` a String.
    LowCardinality,
    /// Days since 1970-01-01.
    Date32,
    /// `DateTime64(6, 'UTC')`: microseconds since 1970-01-01 00:00:00 UTC.
    DateTime64,
    Uuid,
}

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ColumnType {
    Plain(Scalar),
    Nullable(Scalar),
    /// `Array(Nullable(…))`; there is no Nullable array.
    Array(Scalar),
}

/// Largest precision of a Decimal in ClickHouse.
pub(super) const DECIMAL_PRECISION_MAX: u8 = 76;

impl Scalar {
    /// Bytes of a value; `None` for strings, which have their length before them.
    pub(super) fn width(self) -> Option<usize> {
        Some(match self {
            Scalar::Bool | Scalar::Int8 | Scalar::UInt8 => 1,
            Scalar::Int16 => 2,
            Scalar::Int32 | Scalar::UInt32 | Scalar::Float32 | Scalar::Date32 => 4,
            Scalar::Int64 | Scalar::Float64 | Scalar::DateTime64 => 8,
            Scalar::Decimal(precision, _) => decimal_width(precision),
            Scalar::UInt128 | Scalar::Uuid => 16,
            Scalar::String | Scalar::LowCardinality => return None,
        })
    }

    /// Takes one value from the front of `bytes`; `None` when they end before it does.
    fn skip(self, bytes: &mut &[u8]) -> Option<()> {
        let len = match self.width() {
            Some(width) => width,
            None => usize::try_from(take_varint(bytes)?).ok()?,
        };
        *bytes = bytes.get(len..)?;
        Some(())
    }

    /// Appends the value that ClickHouse takes for a missing one.
    pub(super) fn put_default(self, out: &mut Vec<u8>) {
        out.resize(out.len() + self.width().unwrap_or(1), 0);
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
    pub(super) fn take<'a>(self, bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
        let start = *bytes;
        match self {
            ColumnType::Plain(scalar) => scalar.skip(bytes)?,
            ColumnType::Nullable(scalar) => skip_nullable(scalar, bytes)?,
            ColumnType::Array(scalar) => {
                for _ in 0..take_varint(bytes)? {
                    skip_nullable(scalar, bytes)?;
                }
            }
        }
        start.get(..start.len() - bytes.len())
    }

    /// Writes NULL, the empty array, or the scalar's default.
    pub(super) fn put_default(self, to: &mut impl Sink) {
        match self {
            ColumnType::Plain(scalar) => scalar.put_default(to.value(false)),
            ColumnType::Nullable(scalar) => to.null(scalar),
            ColumnType::Array(_) => to.array(0),
        }
    }

    /// Writes one value that is there in `RowBinary`; `None` when it is not one.
    pub(super) fn put_row_binary(self, to: &mut impl Sink, mut value: &[u8]) -> Option<()> {
        match self {
            ColumnType::Plain(_) => to.value(false).extend_from_slice(value),
            ColumnType::Nullable(scalar) => put_nullable(scalar, to, &mut value)?,
            ColumnType::Array(scalar) => {
                let len = take_varint(&mut value)?;
                to.array(usize::try_from(len).ok()?);
                for _ in 0..len {
                    put_nullable(scalar, to, &mut value)?;
                }
            }
        }
        Some(())
    }

    /// Whether the server's name of a type stands for this one, as far as `RowBinary` can tell.
    pub(super) fn matches(self, server: &str) -> bool {
        normalized(&self.to_string()) == normalized(server)
    }
}

fn skip_nullable(scalar: Scalar, bytes: &mut &[u8]) -> Option<()> {
    let (null, rest) = bytes.split_first()?;
    *bytes = rest;
    if *null == 0 { scalar.skip(bytes) } else { Some(()) }
}

fn put_nullable(scalar: Scalar, to: &mut impl Sink, bytes: &mut &[u8]) -> Option<()> {
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

/// Without spaces, without LowCardinality (a matter of storage only) and without the time zone of a
/// DateTime64 (a matter of display only).
fn normalized(name: &str) -> String {
    let mut name: String = name.chars().filter(|c| !c.is_whitespace()).collect();
    if let Some(inner) = name.strip_prefix("LowCardinality(").and_then(|n| n.strip_suffix(')')) {
        name = inner.to_owned();
    }
    if let Some((before, after)) = name.split_once("DateTime64(6,")
        && let Some((_, rest)) = after.split_once(')')
    {
        name = format!("{before}DateTime64(6){rest}");
    }
    name
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scalar::Bool => "Bool",
            Scalar::Int8 => "Int8",
            Scalar::Int16 => "Int16",
            Scalar::Int32 => "Int32",
            Scalar::Int64 => "Int64",
            Scalar::UInt8 => "UInt8",
            Scalar::UInt32 => "UInt32",
            Scalar::UInt128 => "UInt128",
            Scalar::Float32 => "Float32",
            Scalar::Float64 => "Float64",
            Scalar::Decimal(precision, scale) => {
                return write!(f, "Decimal({precision}, {scale})");
            }
            Scalar::String => "String",
            Scalar::LowCardinality => "LowCardinality(String)",
            Scalar::Date32 => "Date32",
            Scalar::DateTime64 => "DateTime64(6, 'UTC')",
            Scalar::Uuid => "UUID",
        })
    }
}

impl fmt::Display for ColumnType {
    /// As written in CREATE TABLE.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ColumnType::Plain(scalar) => scalar.fmt(f),
            ColumnType::Nullable(Scalar::LowCardinality) => {
                f.write_str("LowCardinality(Nullable(String))")
            }
            ColumnType::Nullable(scalar) => write!(f, "Nullable({scalar})"),
            ColumnType::Array(scalar) => write!(f, "Array(Nullable({scalar}))"),
        }
    }
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
    fn names_as_the_server_writes_them() {
        let date = ColumnType::Nullable(Scalar::DateTime64);
        assert_eq!(date.to_string(), "Nullable(DateTime64(6, 'UTC'))");
        assert!(date.matches("Nullable(DateTime64(6, 'Europe/Berlin'))"));
        assert!(date.matches("Nullable(DateTime64(6))"));
        assert!(!date.matches("Nullable(DateTime64(3, 'UTC'))"));
        assert!(!date.matches("DateTime64(6, 'UTC')"));
        let label = ColumnType::Nullable(Scalar::LowCardinality);
        assert!(label.matches("Nullable(String)"));
        assert!(ColumnType::Plain(Scalar::String).matches("LowCardinality(String)"));
        assert!(ColumnType::Plain(Scalar::Decimal(12, 2)).matches("Decimal(12, 2)"));
        assert_eq!(ColumnType::Array(Scalar::Uuid).to_string(), "Array(Nullable(UUID))");
    }

    #[test]
    fn values_are_cut_where_they_end() {
        let mut row = Vec::new();
        row.extend_from_slice(&7i32.to_le_bytes());
        row.push(1); // NULL
        put_string(&mut row, &[b'x'; 200]);
        row.extend_from_slice(&[2, 1, 0, 3, b'a', b'b', b'c']); // [NULL, 'abc']
        let mut rest = row.as_slice();
        let columns = [
            (ColumnType::Plain(Scalar::Int32), 4),
            (ColumnType::Nullable(Scalar::Decimal(50, 2)), 1),
            (ColumnType::Plain(Scalar::String), 202),
            (ColumnType::Array(Scalar::String), 7),
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
