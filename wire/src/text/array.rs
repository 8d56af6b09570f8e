//! Arrays in the form that `array_send` writes, and their text form.
//!
//! ```text
//! i32 dimensions | i32 has nulls | u32 element type | dimensions × (i32 length, i32 lower bound)
//! elements × (i32 length or -1, bytes)
//! ```

use super::cursor::Cursor;
use super::simple::push_i64;
use super::{Form, Type, ValueError, oid, send};
use crate::limits::TEXT_MAX;

/// Dimensions that PostgreSQL allows (`MAXDIM`).
pub const DIMENSIONS_MAX: usize = 6;

/// One dimension of an [`Array`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dimension {
    /// Elements in this dimension.
    pub len: u32,
    /// Subscript of the first one; 1 unless the user chose another.
    pub lower_bound: i32,
}

impl Dimension {
    /// Subscript of the last element.
    pub fn upper_bound(&self) -> i64 {
        i64::from(self.lower_bound) + i64::from(self.len) - 1
    }
}

/// A checked head of an array; its elements are read by [`elements`](Self::elements).
#[derive(Clone, Copy, Debug)]
pub struct Array<'a> {
    dimensions: [Dimension; DIMENSIONS_MAX],
    ndim: usize,
    has_nulls: bool,
    element_oid: u32,
    len: usize,
    elements: &'a [u8],
}

impl<'a> Array<'a> {
    /// Reads what `array_send` writes. The number of elements is checked against the bytes that are
    /// there, the elements are not.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ValueError> {
        let mut cursor = Cursor::new(bytes, Form::Send, "array");
        let ndim = usize::try_from(cursor.i32()?)
            .ok()
            .filter(|ndim| *ndim <= DIMENSIONS_MAX)
            .ok_or_else(|| cursor.malformed("number of dimensions out of range"))?;
        let has_nulls = match cursor.i32()? {
            0 => false,
            1 => true,
            _ => return Err(cursor.malformed("unknown flags")),
        };
        let element_oid = cursor.u32()?;
        let mut dimensions = [Dimension::default(); DIMENSIONS_MAX];
        let mut len = usize::from(ndim > 0);
        for dimension in dimensions.iter_mut().take(ndim) {
            dimension.len =
                u32::try_from(cursor.i32()?).map_err(|_| cursor.malformed("negative dimension"))?;
            dimension.lower_bound = cursor.i32()?;
            if dimension.upper_bound() > i64::from(i32::MAX) {
                return Err(cursor.malformed("bound out of range"));
            }
            len = len.saturating_mul(dimension.len as usize);
        }
        // each element has at least its length
        if len > cursor.remaining() / size_of::<i32>() {
            return Err(cursor.malformed("fewer elements than its dimensions say"));
        }
        Ok(Array { dimensions, ndim, has_nulls, element_oid, len, elements: cursor.rest() })
    }

    /// The dimensions, outermost first. An empty array has none.
    pub fn dimensions(&self) -> &[Dimension] {
        self.dimensions.get(..self.ndim).unwrap_or_default()
    }

    /// Whether the sender says that an element may be NULL.
    pub fn has_nulls(&self) -> bool {
        self.has_nulls
    }

    /// `pg_type.oid` of the elements, on the source.
    pub fn element_oid(&self) -> u32 {
        self.element_oid
    }

    /// Elements in all dimensions together.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in row-major order, each the result of the element type's send function or
    /// `None` for NULL. The iterator ends after the first error, and bytes left over are one.
    pub fn elements(&self) -> Elements<'a> {
        Elements { cursor: Cursor::new(self.elements, Form::Send, "array"), left: self.len }
    }
}

/// Iterator over [`Array::elements`].
pub struct Elements<'a> {
    cursor: Cursor<'a>,
    left: usize,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Option<&'a [u8]>, ValueError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let ended = self.cursor.finish();
            self.cursor.rest();
            return ended.err().map(Err);
        }
        let element = self.cursor.measured();
        self.left -= 1;
        if element.is_err() {
            self.left = 0;
            self.cursor.rest();
        }
        Some(element)
    }
}

/// `array_out`.
pub(crate) fn write(out: &mut Vec<u8>, ty: &Type, value: &[u8]) -> Result<(), ValueError> {
    let start = out.len();
    let array = Array::parse(value)?;
    let element = element_type(ty, &array);
    let mut elements = array.elements();
    if array.is_empty() {
        out.extend_from_slice(b"{}");
        return elements.next().map_or(Ok(()), |extra| extra.map(|_| ()));
    }
    if array.dimensions().iter().any(|dimension| dimension.lower_bound != 1) {
        push_bounds(out, array.dimensions());
    }
    // box is the one built-in type whose text form has commas
    let delimiter = if element.oid == oid::BOX { b';' } else { b',' };
    let mut subscripts = [0u32; DIMENSIONS_MAX];
    out.extend(std::iter::repeat_n(b'{', array.ndim));
    for index in 0..array.len() {
        if let Some(bytes) = elements.next().transpose()? {
            push_element(out, &element, bytes, delimiter)?;
        }
        if out.len() - start > TEXT_MAX {
            return Err(ValueError::Malformed { type_name: "array", problem: "text over 1 GiB" });
        }
        if index + 1 < array.len() {
            let closed = advance(&mut subscripts, array.dimensions());
            out.extend(std::iter::repeat_n(b'}', closed));
            out.push(delimiter);
            out.extend(std::iter::repeat_n(b'{', closed));
        }
    }
    out.extend(std::iter::repeat_n(b'}', array.ndim));
    elements.next().map_or(Ok(()), |extra| extra.map(|_| ()))
}

/// An element that is itself an array (a domain over one) says what its own elements are.
fn element_type(ty: &Type, array: &Array<'_>) -> Type {
    let oid = if ty.element_oid == 0 { array.element_oid() } else { ty.element_oid };
    Type::scalar(oid, ty.element_kind)
}

fn push_bounds(out: &mut Vec<u8>, dimensions: &[Dimension]) {
    for dimension in dimensions {
        out.push(b'[');
        push_i64(out, dimension.lower_bound.into());
        out.push(b':');
        push_i64(out, dimension.upper_bound());
        out.push(b']');
    }
    out.push(b'=');
}

/// Steps to the next element; returns how many braces close before it.
fn advance(subscripts: &mut [u32; DIMENSIONS_MAX], dimensions: &[Dimension]) -> usize {
    let mut closed = 0;
    for (subscript, dimension) in subscripts.iter_mut().zip(dimensions).rev() {
        *subscript += 1;
        if *subscript < dimension.len {
            break;
        }
        *subscript = 0;
        closed += 1;
    }
    closed
}

fn push_element(
    out: &mut Vec<u8>,
    ty: &Type,
    element: Option<&[u8]>,
    delimiter: u8,
) -> Result<(), ValueError> {
    let Some(bytes) = element else {
        out.extend_from_slice(b"NULL");
        return Ok(());
    };
    let start = out.len();
    send(out, ty, bytes)?;
    let text = out.get(start..).unwrap_or_default();
    let special = |byte: &u8| {
        matches!(byte, b'"' | b'\\' | b'{' | b'}' | b' ' | b'\t'..=b'\r') || *byte == delimiter
    };
    if text.is_empty() || text.eq_ignore_ascii_case(b"NULL") || text.iter().any(special) {
        quote(out, start, |byte| matches!(byte, b'"' | b'\\').then_some(b'\\'));
    }
    Ok(())
}

/// Puts what follows `start` in quotes, with the byte that `escape` gives before each that has one.
pub(crate) fn quote(out: &mut Vec<u8>, start: usize, escape: impl Fn(u8) -> Option<u8>) {
    let text = out.get(start..).unwrap_or_default();
    let escapes = text.iter().filter(|byte| escape(**byte).is_some()).count();
    let mut from = out.len();
    out.resize(from + escapes + 2, b'"');
    // from the end, so that each byte moves once
    let mut to = out.len() - 1;
    while from > start {
        from -= 1;
        to -= 1;
        let byte = out[from];
        out[to] = byte;
        if let Some(escape) = escape(byte) {
            to -= 1;
            out[to] = escape;
        }
    }
    out[start] = b'"';
}
