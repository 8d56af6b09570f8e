//! Arrays, in the form that `array_send` writes and as they are on disk, and their text form.
//!
//! ```text
//! sent:   i32 dimensions | i32 has nulls | u32 element type | dimensions × (i32 length, i32 lower bound)
//!         elements × (i32 length or -1, bytes)
//! stored: i32 dimensions | i32 where the elements begin, 0: no nulls | u32 element type
//!         dimensions × i32 length | dimensions × i32 lower bound
//!         a bit for each element, 0: it is NULL, when there are nulls | elements, each aligned
//! ```
//!
//! What is stored counts from the varlena's header (`utils/array.h`), which is not a part of the payload.

use super::cursor::Cursor;
use super::elements::{Elements, HEADER, MAX_ALIGN, malformed};
use super::simple::push_i64;
use super::{Form, Type, ValueError, form, oid};
use crate::limits::TEXT_MAX;
use crate::relation::{Element, Encoding};

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
#[derive(Clone, Debug)]
pub struct Array<'a> {
    dimensions: [Dimension; DIMENSIONS_MAX],
    ndim: usize,
    has_nulls: bool,
    element_oid: u32,
    len: usize,
    elements: Elements<'a>,
}

impl<'a> Array<'a> {
    /// Reads a value of `column`, which is one of arrays: [`Encoding::Send`] or [`Encoding::Array`].
    pub fn parse(encoding: Encoding, bytes: &'a [u8]) -> Result<Self, ValueError> {
        match encoding {
            Encoding::Array(element) => Array::from_disk(bytes, element),
            _ => Array::from_send(bytes),
        }
    }

    /// Reads [`Encoding::Array`]. The number of elements is checked against the bytes that are there,
    /// the elements are not.
    pub fn from_disk(bytes: &'a [u8], element: Element) -> Result<Self, ValueError> {
        let mut cursor = Cursor::new(bytes, Form::Native, "array");
        let ndim = dimension_count(&mut cursor)?;
        let first = usize::try_from(cursor.i32()?)
            .map_err(|_| cursor.malformed("elements before the value"))?;
        let element_oid = cursor.u32()?;
        let mut dimensions = [Dimension::default(); DIMENSIONS_MAX];
        for dimension in dimensions.iter_mut().take(ndim) {
            dimension.len = length(&mut cursor)?;
        }
        for dimension in dimensions.iter_mut().take(ndim) {
            dimension.lower_bound = cursor.i32()?;
        }
        let len = total(dimensions.get(..ndim).unwrap_or_default())
            .ok_or_else(|| cursor.malformed("bound out of range"))?;
        let has_nulls = first != 0;
        let nulls = if has_nulls { Some(cursor.take(len.div_ceil(8))?) } else { None };
        // an element has at least a byte, and a null at least a bit
        if !has_nulls && len > cursor.remaining() {
            return Err(cursor.malformed("fewer elements than its dimensions say"));
        }
        let here = (HEADER + bytes.len() - cursor.remaining()).next_multiple_of(MAX_ALIGN);
        let first = if has_nulls { first } else { here };
        if first < here || !first.is_multiple_of(MAX_ALIGN) {
            return Err(cursor.malformed("elements at a wrong place"));
        }
        let elements = Elements::stored(bytes, first - HEADER, element, nulls, len);
        Ok(Array { dimensions, ndim, has_nulls, element_oid, len, elements })
    }

    /// Reads what `array_send` writes. The number of elements is checked against the bytes that are
    /// there, the elements are not.
    pub fn from_send(bytes: &'a [u8]) -> Result<Self, ValueError> {
        let mut cursor = Cursor::new(bytes, Form::Send, "array");
        let ndim = dimension_count(&mut cursor)?;
        let has_nulls = match cursor.i32()? {
            0 => false,
            1 => true,
            _ => return Err(cursor.malformed("unknown flags")),
        };
        let element_oid = cursor.u32()?;
        let mut dimensions = [Dimension::default(); DIMENSIONS_MAX];
        for dimension in dimensions.iter_mut().take(ndim) {
            dimension.len = length(&mut cursor)?;
            dimension.lower_bound = cursor.i32()?;
        }
        let len = total(dimensions.get(..ndim).unwrap_or_default())
            .ok_or_else(|| cursor.malformed("bound out of range"))?;
        // each element has at least its length
        if len > cursor.remaining() / size_of::<i32>() {
            return Err(cursor.malformed("fewer elements than its dimensions say"));
        }
        let elements = Elements::sent(cursor, len);
        Ok(Array { dimensions, ndim, has_nulls, element_oid, len, elements })
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

    /// The elements in row-major order, each the result of the element type's send function, or the
    /// value in its [`ElementEncoding`], or `None` for NULL. The iterator ends after the first error,
    /// and bytes left over are one.
    pub fn elements(&self) -> Elements<'a> {
        self.elements.clone()
    }
}

fn dimension_count(cursor: &mut Cursor<'_>) -> Result<usize, ValueError> {
    usize::try_from(cursor.i32()?)
        .ok()
        .filter(|ndim| *ndim <= DIMENSIONS_MAX)
        .ok_or_else(|| cursor.malformed("number of dimensions out of range"))
}

fn length(cursor: &mut Cursor<'_>) -> Result<u32, ValueError> {
    u32::try_from(cursor.i32()?).map_err(|_| cursor.malformed("negative dimension"))
}

/// Elements in all dimensions; `None` when a subscript would be out of range.
fn total(dimensions: &[Dimension]) -> Option<usize> {
    let mut len = usize::from(!dimensions.is_empty());
    for dimension in dimensions {
        if dimension.upper_bound() > i64::from(i32::MAX) {
            return None;
        }
        len = len.saturating_mul(dimension.len as usize);
    }
    Some(len)
}

/// `array_out`.
pub(crate) fn write(
    out: &mut Vec<u8>,
    encoding: Encoding,
    ty: &Type,
    value: &[u8],
) -> Result<(), ValueError> {
    let start = out.len();
    let array = Array::parse(encoding, value)?;
    let encoding = match encoding {
        Encoding::Array(element) => element.encoding.into(),
        _ => Encoding::Send,
    };
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
            push_element(out, encoding, &element, bytes, delimiter)?;
        }
        if out.len() - start > TEXT_MAX {
            return Err(malformed("text over 1 GiB"));
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
    encoding: Encoding,
    ty: &Type,
    element: Option<&[u8]>,
    delimiter: u8,
) -> Result<(), ValueError> {
    let Some(bytes) = element else {
        out.extend_from_slice(b"NULL");
        return Ok(());
    };
    let start = out.len();
    form(out, encoding, ty, bytes)?;
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
