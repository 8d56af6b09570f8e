//! Many rows as one parameter: a one-dimensional array in PostgreSQL's binary form, of the values of a
//! key column, or of whole rows of a composite type.
//!
//! ```text
//! array   i32 dimensions = 1 | i32 flags | u32 element type | i32 count | i32 lower bound = 1 | elements
//! element i32 length | value, or a row
//! row     i32 fields | (u32 type, i32 length or -1 for NULL, value), …
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use rsrepl_wire::{Relation, Row, Value};

use super::catalog::TargetTable;
use super::codec::{Codec, CodecError};
use super::copy::{self, CopyError};
use crate::plan::Image;

/// Where the count of elements is.
const COUNT_AT: usize = 12;

/// An array being written.
pub struct Array {
    out: BytesMut,
    element_oid: u32,
    count: usize,
}

impl Array {
    /// `element_oid`: the element type on the target.
    pub fn new(element_oid: u32) -> Array {
        let mut array = Array { out: BytesMut::new(), element_oid, count: 0 };
        array.start();
        array
    }

    fn start(&mut self) {
        self.count = 0;
        self.out.put_i32(1);
        self.out.put_i32(0); // no element is NULL
        self.out.put_u32(self.element_oid);
        self.out.put_i32(0);
        self.out.put_i32(1);
    }

    /// Elements so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes so far.
    pub fn size(&self) -> usize {
        self.out.len()
    }

    /// The next element, which is not NULL.
    pub fn value(&mut self, data: &[u8], codec: Codec) -> Result<(), CodecError> {
        self.count += 1;
        copy::put_counted(&mut self.out, |out| codec.put(data, out))
    }

    /// The next element, a row of `fields` fields that `write` puts into it.
    pub fn row<E: From<CodecError>>(
        &mut self,
        fields: usize,
        write: impl FnOnce(&mut Fields<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.count += 1;
        copy::put_counted(&mut self.out, |out| {
            out.put_i32(i32::try_from(fields).unwrap_or(i32::MAX)); // at most a table's columns, twice
            write(&mut Fields(out))
        })
    }

    /// The array; a next one begins.
    pub fn take(&mut self) -> Bytes {
        let count = i32::try_from(self.count).unwrap_or(i32::MAX); // bounded by a batch's rows
        if let Some(field) = self.out.get_mut(COUNT_AT..COUNT_AT + size_of::<i32>()) {
            field.copy_from_slice(&count.to_be_bytes());
        }
        let array = self.out.split().freeze();
        self.start();
        array
    }
}

/// The fields of one row.
pub struct Fields<'a>(&'a mut BytesMut);

impl Fields<'_> {
    /// The next field. An unchanged value has no place here.
    pub fn put(&mut self, type_oid: u32, value: Value<'_>, codec: Codec) -> Result<(), CodecError> {
        self.0.put_u32(type_oid);
        copy::put_field(self.0, value, codec)
    }

    /// The next field, which the statement does not look at.
    pub fn skip(&mut self, type_oid: u32) {
        self.0.put_u32(type_oid);
        self.0.put_i32(copy::NULL);
    }
}

/// A table's row type ([`TargetTable::create_row_type`]): the key as it was, then all columns.
pub struct RowType {
    oid: u32,
    columns: Vec<Field>,
    keys: usize,
}

struct Field {
    key: bool,
    type_oid: u32,
    codec: Codec,
}

impl RowType {
    pub fn new(oid: u32, fit: &TargetTable) -> RowType {
        let columns = fit.columns.iter();
        RowType {
            oid,
            columns: columns
                .map(|c| Field { key: c.key, type_oid: c.arrives_oid, codec: c.codec })
                .collect(),
            keys: fit.keys().count(),
        }
    }

    /// An array of such rows.
    pub fn array(&self) -> Array {
        Array::new(self.oid)
    }

    /// Appends a row to `array`: the key of `locator` if it is needed, and the columns of `image` that
    /// the statement looks at, `given`.
    pub fn put(
        &self,
        array: &mut Array,
        relation: &Relation,
        locator: Option<&Row>,
        image: &Image<'_>,
        given: &[bool],
    ) -> Result<(), CopyError> {
        array.row(self.keys + self.columns.len(), |row| {
            match locator {
                Some(locator) => self.put_key(row, relation, locator)?,
                None => self.columns.iter().filter(|c| c.key).for_each(|c| row.skip(c.type_oid)),
            }
            image.for_each(relation, |index, value| {
                match (self.columns.get(index), given.get(index)) {
                    (Some(column), Some(true)) => {
                        Ok(row.put(column.type_oid, value, column.codec)?)
                    }
                    (Some(column), _) => {
                        row.skip(column.type_oid);
                        Ok(())
                    }
                    (None, _) => Ok::<(), CopyError>(()),
                }
            })
        })
    }

    /// Reads no further than the last column of the key.
    fn put_key(
        &self,
        row: &mut Fields<'_>,
        relation: &Relation,
        locator: &Row,
    ) -> Result<(), CopyError> {
        let mut left = self.keys;
        let mut values = locator.values(relation)?.zip(&self.columns);
        while left > 0
            && let Some((value, column)) = values.next()
        {
            let value = value?;
            if column.key {
                row.put(column.type_oid, value, column.codec)?;
                left -= 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::postgres::codec::Plain;

    const INT4: Codec = Codec::Plain(Plain::Fields(&[4]));
    const TEXT: Codec = Codec::Plain(Plain::Raw);

    #[test]
    fn an_array_of_values_is_what_array_recv_reads() {
        let mut array = Array::new(23);
        for round in 0..2u8 {
            array.value(&[round, 0, 0, 0], INT4).unwrap();
            array.value(&[7, 0, 0, 0], INT4).unwrap();
            assert_eq!(array.count(), 2);
            let bytes = array.take();
            let expected: &[&[u8]] = &[
                &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 23, 0, 0, 0, 2, 0, 0, 0, 1],
                &[0, 0, 0, 4, 0, 0, 0, round, 0, 0, 0, 4, 0, 0, 0, 7],
            ];
            assert_eq!(bytes, expected.concat());
        }
    }

    #[test]
    fn a_row_is_typed_fields() {
        let mut array = Array::new(99);
        array
            .row(3, |row| {
                row.put(23, Value::Data(&[5, 0, 0, 0]), INT4)?;
                row.put(25, Value::Null, TEXT)?;
                row.skip(16);
                Ok::<(), CodecError>(())
            })
            .unwrap();
        let bytes = array.take();
        let expected: &[&[u8]] = &[
            &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0, 1, 0, 0, 0, 1],
            &[0, 0, 0, 32, 0, 0, 0, 3, 0, 0, 0, 23, 0, 0, 0, 4, 0, 0, 0, 5],
            &[0, 0, 0, 25, 255, 255, 255, 255, 0, 0, 0, 16, 255, 255, 255, 255],
        ];
        assert_eq!(bytes, expected.concat());
        let refused = array.row(1, |row| row.put(25, Value::Unchanged, TEXT));
        assert!(refused.is_err());
    }
}
