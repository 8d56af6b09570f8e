//! Where values go: one row behind the other (`RowBinary`), or column by column (`native`). Both write
//! a value without NULL and elements in the same bytes, and differ in what they put around it.

use super::types::{Scalar, put_varint};

/// Takes the values of a column, one after the other.
pub(super) trait Sink {
    /// A place to come back to.
    type Mark: Copy;

    fn mark(&self) -> Self::Mark;

    /// Forgets what was written behind the mark.
    fn rewind(&mut self, mark: Self::Mark);

    /// Where to append the bytes of a value that is not NULL; `nullable`: of a Nullable type.
    fn value(&mut self, nullable: bool) -> &mut Vec<u8>;

    /// A NULL.
    fn null(&mut self, scalar: &Scalar);

    /// An array; so many elements follow.
    fn array(&mut self, len: usize);

    /// An array of arrays; so many follow.
    fn arrays(&mut self, len: usize);

    /// Two Float64 in a Tuple, or two NULLs; `nullable`: of Nullable types.
    fn point(&mut self, nullable: bool, coordinates: Option<[[u8; 8]; 2]>);
}

/// `RowBinary`: <https://clickhouse.com/docs/interfaces/formats/RowBinary>.
impl Sink for Vec<u8> {
    type Mark = usize;

    fn mark(&self) -> usize {
        self.len()
    }

    fn rewind(&mut self, mark: usize) {
        self.truncate(mark);
    }

    #[inline]
    fn value(&mut self, nullable: bool) -> &mut Vec<u8> {
        if nullable {
            self.push(0);
        }
        self
    }

    fn null(&mut self, _: &Scalar) {
        self.push(1);
    }

    fn array(&mut self, len: usize) {
        put_varint(self, len as u64);
    }

    fn arrays(&mut self, len: usize) {
        put_varint(self, len as u64);
    }

    fn point(&mut self, nullable: bool, coordinates: Option<[[u8; 8]; 2]>) {
        let Some(coordinates) = coordinates else { return self.extend_from_slice(&[1, 1]) };
        for coordinate in coordinates {
            self.value(nullable).extend_from_slice(&coordinate);
        }
    }
}
