//! Rows as blocks of columns, ClickHouse's `Native` format: the server takes them in with little more
//! than copying. Not validated either: what is written here is what is stored.
//!
//! ```text
//! columns varint | rows varint | for each column: name String, type String, [[offsets] offsets] [nulls]
//!                                                 values [[nulls] values]
//! ```
//!
//! `offsets` (of an Array): the number of elements up to the end of each row, u64; of an array of arrays
//! those of the outer ones come first. `nulls` (of a Nullable): a byte for each value. `values`: as in
//! `RowBinary`, with a default for each NULL; a Tuple's elements come one behind the other.
//! Format: <https://clickhouse.com/docs/interfaces/formats/Native>.

use bytes::Bytes;

use super::sink::Sink;
use super::types::{ColumnType, Scalar, put_string, put_varint};

/// Buffers of at least so many bytes are sent as they are; smaller ones are put together.
const PIECE_MIN: usize = 64 << 10;

/// The values of one column.
#[derive(Debug)]
pub(super) struct NativeColumn {
    ty: ColumnType,
    offsets: Vec<u8>,
    nulls: Vec<u8>,
    values: Vec<u8>,
    /// Of arrays of arrays the offsets of the outer ones; of a Tuple the values of its second element.
    more: Vec<u8>,
    /// Of all arrays so far.
    elements: u64,
}

impl NativeColumn {
    fn new(ty: ColumnType) -> Self {
        let [offsets, nulls, values, more] = [const { Vec::new() }; 4];
        NativeColumn { ty, offsets, nulls, values, more, elements: 0 }
    }

    /// Its buffers, in the order in which they are sent.
    fn into_buffers(self) -> [Vec<u8>; 5] {
        let NativeColumn { ty, offsets, nulls, values, more, .. } = self;
        match ty {
            ColumnType::Matrix(_) => [more, offsets, nulls, values, Vec::new()],
            // both elements are NULL together
            ColumnType::Point(_) => [offsets, nulls.clone(), values, nulls, more],
            _ => [offsets, nulls, values, Vec::new(), Vec::new()],
        }
    }

    fn len(&self) -> usize {
        self.offsets.len() + self.nulls.len() + self.values.len() + self.more.len()
    }

    /// An empty one that will hold as much as this one does.
    fn like(&self) -> Self {
        // a little more: the next block is never of quite the same size
        let room = |buffer: &Vec<u8>| Vec::with_capacity(buffer.len() + buffer.len() / 16);
        NativeColumn {
            ty: self.ty.clone(),
            offsets: room(&self.offsets),
            nulls: room(&self.nulls),
            values: room(&self.values),
            more: room(&self.more),
            elements: 0,
        }
    }
}

impl Sink for NativeColumn {
    /// Lengths of `offsets`, `nulls`, `values` and `more`, and `elements`.
    type Mark = (usize, usize, usize, usize, u64);

    fn mark(&self) -> Self::Mark {
        let (offsets, more) = (self.offsets.len(), self.more.len());
        (offsets, self.nulls.len(), self.values.len(), more, self.elements)
    }

    fn rewind(&mut self, (offsets, nulls, values, more, elements): Self::Mark) {
        self.more.truncate(more);
        self.offsets.truncate(offsets);
        self.nulls.truncate(nulls);
        self.values.truncate(values);
        self.elements = elements;
    }

    #[inline]
    fn value(&mut self, nullable: bool) -> &mut Vec<u8> {
        if nullable {
            self.nulls.push(0);
        }
        &mut self.values
    }

    fn null(&mut self, scalar: &Scalar) {
        self.nulls.push(1);
        scalar.put_default(&mut self.values);
    }

    fn array(&mut self, len: usize) {
        self.elements += len as u64;
        self.offsets.extend_from_slice(&self.elements.to_le_bytes());
    }

    fn arrays(&mut self, len: usize) {
        let end = (self.offsets.len() / size_of::<u64>() + len) as u64;
        self.more.extend_from_slice(&end.to_le_bytes());
    }

    fn point(&mut self, nullable: bool, coordinates: Option<[[u8; 8]; 2]>) {
        if nullable {
            self.nulls.push(coordinates.is_none().into());
        }
        let [x, y] = coordinates.unwrap_or_default();
        self.values.extend_from_slice(&x);
        self.more.extend_from_slice(&y);
    }
}

/// Rows on their way into a table.
#[derive(Debug)]
pub(super) struct Block {
    names: Vec<String>,
    pub(super) columns: Vec<NativeColumn>,
    pub(super) rows: usize,
}

impl Block {
    /// An empty block of these columns.
    pub(super) fn new<'a>(columns: impl Iterator<Item = (&'a str, ColumnType)>) -> Self {
        let (names, columns) =
            columns.map(|(name, ty)| (name.to_owned(), NativeColumn::new(ty))).unzip();
        Block { names, columns, rows: 0 }
    }

    /// Bytes of the values.
    pub(super) fn bytes(&self) -> usize {
        self.columns.iter().map(NativeColumn::len).sum()
    }

    /// Takes the rows out; an empty block of the same columns stays.
    pub(super) fn take(&mut self) -> Block {
        let empty = Block {
            names: self.names.clone(),
            columns: self.columns.iter().map(NativeColumn::like).collect(),
            rows: 0,
        };
        std::mem::replace(self, empty)
    }

    /// What is sent, in pieces.
    pub(super) fn into_pieces(self) -> Vec<Bytes> {
        let mut pieces = Pieces::default();
        put_varint(&mut pieces.small, self.columns.len() as u64);
        put_varint(&mut pieces.small, self.rows as u64);
        for (name, column) in self.names.iter().zip(self.columns) {
            put_string(&mut pieces.small, name.as_bytes());
            // the server makes a LowCardinality, or JSON, of it
            let string = |scalar: &Scalar| matches!(scalar, Scalar::LowCardinality | Scalar::Json);
            let ty = match &column.ty {
                ColumnType::Plain(scalar) if string(scalar) => "String".to_owned(),
                ColumnType::Nullable(scalar) if string(scalar) => "Nullable(String)".to_owned(),
                ty => ty.to_string(),
            };
            put_string(&mut pieces.small, ty.as_bytes());
            column.into_buffers().into_iter().for_each(|buffer| pieces.put(buffer));
        }
        pieces.end()
    }
}

#[derive(Default)]
struct Pieces {
    done: Vec<Bytes>,
    small: Vec<u8>,
}

impl Pieces {
    fn put(&mut self, buffer: Vec<u8>) {
        if buffer.len() < PIECE_MIN {
            self.small.extend_from_slice(&buffer);
            return;
        }
        self.flush();
        self.done.push(buffer.into());
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            self.done.push(std::mem::take(&mut self.small).into());
        }
    }

    fn end(mut self) -> Vec<Bytes> {
        self.flush();
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_as_the_server_reads_it() {
        let columns = [
            ("id", ColumnType::Plain(Scalar::Int16)),
            ("v", ColumnType::Nullable(Scalar::LowCardinality)),
            ("a", ColumnType::Array(Scalar::Int8)),
        ];
        let mut block = Block::new(columns.into_iter());
        let [id, v, a] = block.columns.as_mut_slice() else { panic!() };
        for row in [1i16, 2] {
            id.value(false).extend_from_slice(&row.to_le_bytes());
        }
        put_string(v.value(true), b"xy");
        let mark = v.mark();
        v.value(true).extend_from_slice(b"half of it");
        v.rewind(mark);
        v.null(&Scalar::LowCardinality);
        a.array(2);
        a.value(true).push(7);
        let mark = a.mark();
        a.array(1);
        a.value(true).push(8);
        a.rewind(mark);
        a.null(&Scalar::Int8);
        a.array(0);
        block.rows = 2;
        let sent = block.take().into_pieces().concat();
        let mut expected = b"\x03\x02\x02id\x05Int16\x01\0\x02\0".to_vec();
        expected.extend_from_slice(b"\x01v\x10Nullable(String)\0\x01\x02xy\0");
        expected.extend_from_slice(b"\x01a\x15Array(Nullable(Int8))");
        expected.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 7, 0]);
        assert_eq!(sent, expected);
        assert_eq!((block.rows, block.bytes()), (0, 0));
    }

    #[test]
    fn arrays_of_arrays_and_tuples_as_the_server_reads_them() {
        let columns = [
            ("m", ColumnType::Matrix(Scalar::Int8)),
            ("p", ColumnType::Point(true)),
            ("q", ColumnType::Point(false)),
        ];
        let mut block = Block::new(columns.into_iter());
        let [m, p, q] = block.columns.as_mut_slice() else { panic!() };
        m.arrays(2);
        m.array(0);
        m.array(1);
        m.value(true).push(7);
        let mark = m.mark();
        m.arrays(1);
        m.array(1);
        m.null(&Scalar::Int8);
        m.rewind(mark);
        m.arrays(0);
        p.point(true, None);
        p.point(true, Some([[1; 8], [2; 8]]));
        q.point(false, Some([[3; 8], [4; 8]]));
        q.point(false, Some([[5; 8], [6; 8]]));
        block.rows = 2;
        let sent = block.take().into_pieces().concat();
        let mut expected = b"\x03\x02\x01m\x1cArray(Array(Nullable(Int8)))".to_vec();
        for offset in [2u64, 2, 0, 1] {
            expected.extend_from_slice(&offset.to_le_bytes());
        }
        expected.extend_from_slice(&[0, 7]);
        expected.extend_from_slice(b"\x01p\x2bTuple(Nullable(Float64), Nullable(Float64))");
        for half in [[0; 8], [1; 8], [0; 8], [2; 8]].chunks(2) {
            expected.extend_from_slice(&[1, 0]);
            expected.extend_from_slice(&half.concat());
        }
        expected.extend_from_slice(b"\x01q\x17Tuple(Float64, Float64)");
        expected.extend_from_slice(&[[3; 8], [5; 8], [4; 8], [6; 8]].concat());
        assert_eq!(sent, expected);
    }

    #[test]
    fn large_buffers_are_not_copied() {
        let mut block = Block::new([("s", ColumnType::Plain(Scalar::String))].into_iter());
        let value = vec![b'x'; 2 * PIECE_MIN];
        put_string(block.columns[0].value(false), &value);
        block.rows = 1;
        let place = block.columns[0].values.as_ptr();
        let pieces = block.into_pieces();
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces[1].as_ptr(), place);
    }
}
