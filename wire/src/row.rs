//! One row: which values are null, which are unchanged TOAST, and the others in attribute order.
//!
//! ```text
//! flags u8 | [null bitmap] | [unchanged bitmap] | value, value, …
//! ```
//!
//! Bit `i % 8` of byte `i / 8` stands for column `i` of the [`Relation`]; a bitmap has
//! `ceil(columns / 8)` bytes and is there when its flag is set. A null or unchanged column has no
//! value; no column is both, and bits past the last column are zero. A fixed-width value is its bytes; every other one is a varint length and that many bytes.

use std::collections::TryReserveError;

use bytes::Bytes;

use crate::error::{DecodeError, DecodeErrorKind};
use crate::limits::FRAME_MAX;
use crate::reader::Reader;
use crate::relation::{Column, Encoding, Relation};
use crate::varint;

const HAS_NULLS: u8 = 0x01;
const HAS_UNCHANGED: u8 = 0x02;

/// Writes the values of one row, in attribute order, straight into the frame.
///
/// Every column gets exactly one call, which the [`FrameWriter`](crate::FrameWriter) asserts.
pub struct RowWriter<'a> {
    buf: &'a mut Vec<u8>,
    nulls: Option<usize>,
    unchanged: Option<usize>,
    column: usize,
}

impl<'a> RowWriter<'a> {
    /// Starts a row of `columns` columns. The bitmaps are there when the caller says that a null, or
    /// an unchanged value, may come; it may say so and none come.
    pub fn new(buf: &'a mut Vec<u8>, columns: usize, nulls: bool, unchanged: bool) -> Self {
        let flags = if nulls { HAS_NULLS } else { 0 } | if unchanged { HAS_UNCHANGED } else { 0 };
        buf.push(flags);
        let bitmap_len = columns.div_ceil(8);
        let mut bitmap = |present: bool| {
            present.then(|| {
                let at = buf.len();
                buf.resize(at + bitmap_len, 0);
                at
            })
        };
        let nulls = bitmap(nulls);
        let unchanged = bitmap(unchanged);
        RowWriter { buf, nulls, unchanged, column: 0 }
    }

    #[inline]
    fn mark(&mut self, bitmap: Option<usize>) {
        // a row without the mark would be read as another one: better none at all
        let Some(at) = bitmap else { panic!("the row was started without this bitmap") };
        if let Some(byte) = self.buf.get_mut(at + self.column / 8) {
            *byte |= 1 << (self.column % 8);
        }
        self.column += 1;
    }

    /// Makes room for so many bytes. Who must not be aborted by a failed allocation asks for this
    /// before a large value.
    pub fn try_reserve(&mut self, bytes: usize) -> Result<(), TryReserveError> {
        self.buf.try_reserve(bytes)
    }

    /// The next column is NULL.
    ///
    /// # Panics
    /// When the row's shape has no nulls.
    #[inline]
    pub fn null(&mut self) {
        self.mark(self.nulls);
    }

    /// The next column is a TOAST value that the UPDATE did not change.
    ///
    /// # Panics
    /// When the row's shape has no unchanged values.
    #[inline]
    pub fn unchanged(&mut self) {
        self.mark(self.unchanged);
    }

    /// The next column's value, of exactly the width its encoding says.
    #[inline]
    pub fn fixed(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
        self.column += 1;
    }

    /// The values of the next `columns` columns, each of the width its encoding says and one right
    /// behind the other.
    #[inline]
    pub fn fixed_run(&mut self, bytes: &[u8], columns: usize) {
        self.buf.extend_from_slice(bytes);
        self.column += columns;
    }

    /// The next column's value, of any length.
    #[inline]
    pub fn variable(&mut self, bytes: &[u8]) {
        varint::put(self.buf, bytes.len() as u64);
        self.buf.extend_from_slice(bytes);
        self.column += 1;
    }

    /// How many columns were written so far.
    pub fn columns_written(&self) -> usize {
        self.column
    }
}

/// A row as received: bytes that only a [`Relation`] gives a meaning to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row(pub Bytes);

/// One column of a [`Row`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// SQL NULL.
    Null,
    /// A TOAST value that the UPDATE did not change, and that is therefore not here.
    Unchanged,
    /// The value in the column's [`Encoding`].
    Data(&'a [u8]),
}

impl Row {
    /// The values, one item per column of `relation`; the iterator ends after the first error, and
    /// bytes left over after the last column are one.
    pub fn values<'a>(&'a self, relation: &'a Relation) -> Result<Values<'a>, DecodeError> {
        Values::new(&self.0, &relation.columns)
    }

    /// Whether an [`Unchanged`](Value::Unchanged) value may be in the row: cheap to ask of rows that
    /// have none.
    pub fn may_have_unchanged(&self) -> bool {
        self.0.first().is_some_and(|flags| flags & HAS_UNCHANGED != 0)
    }

    /// Walks the whole row, so that later reads of it cannot fail.
    pub fn validate(&self, relation: &Relation) -> Result<(), DecodeError> {
        self.values(relation)?.try_for_each(|value| value.map(|_| ()))
    }
}

/// Iterator over the values of a row; see [`Row::values`].
pub struct Values<'a> {
    reader: Reader<'a>,
    columns: &'a [Column],
    nulls: &'a [u8],
    unchanged: &'a [u8],
    next: usize,
    failed: bool,
}

impl<'a> Values<'a> {
    fn new(bytes: &'a [u8], columns: &'a [Column]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, 0, "row");
        let flags = reader.flags("row flags", HAS_NULLS | HAS_UNCHANGED)?;
        let bitmap_len = columns.len().div_ceil(8);
        let mut bitmap = |flag: u8, field| {
            if flags & flag != 0 { reader.take(bitmap_len, field) } else { Ok(&[][..]) }
        };
        let nulls = bitmap(HAS_NULLS, "null bitmap")?;
        let unchanged = bitmap(HAS_UNCHANGED, "unchanged bitmap")?;
        let strays = |bitmap: &[u8]| match (columns.len() % 8, bitmap.last()) {
            (1.., Some(last)) => last >> (columns.len() % 8),
            _ => 0,
        };
        let both = nulls.iter().zip(unchanged).map(|(null, unchanged)| null & unchanged);
        let bad = both.fold(strays(nulls) | strays(unchanged), |bad, byte| bad | byte);
        if bad != 0 {
            let value = u64::from(bad);
            return Err(reader.error(DecodeErrorKind::Unknown { field: "bitmap bits", value }));
        }
        Ok(Values { reader, columns, nulls, unchanged, next: 0, failed: false })
    }

    #[inline]
    fn read(&mut self, index: usize, encoding: Encoding) -> Result<Value<'a>, DecodeError> {
        let bit =
            |bitmap: &[u8]| bitmap.get(index / 8).is_some_and(|b| b & (1 << (index % 8)) != 0);
        if bit(self.nulls) {
            return Ok(Value::Null);
        }
        if bit(self.unchanged) {
            return Ok(Value::Unchanged);
        }
        let len = match encoding {
            Encoding::Fixed(width) => usize::from(width),
            _ => self.reader.count("value length", FRAME_MAX)?,
        };
        Ok(Value::Data(self.reader.take(len, "value")?))
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Result<Value<'a>, DecodeError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let Some(column) = self.columns.get(self.next) else {
            self.failed = true; // said once
            return match self.reader.remaining() {
                0 => None,
                count => Some(Err(self
                    .reader
                    .error(DecodeErrorKind::Trailing { field: "the last column", count }))),
            };
        };
        let value = self.read(self.next, column.encoding);
        self.next += 1;
        self.failed = value.is_err();
        Some(value)
    }
}
