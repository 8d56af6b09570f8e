//! The elements of an array, in both forms that [`array`](super::array) describes.

use super::ValueError;
use super::cursor::Cursor;
use crate::relation::{Element, ElementEncoding};

/// Bytes of a varlena's header: what offsets on disk count from is so far before the payload.
pub(super) const HEADER: usize = 4;
/// What the first element on disk is aligned to (`MAXIMUM_ALIGNOF`).
pub(super) const MAX_ALIGN: usize = 8;

/// Iterator over [`Array::elements`](super::array::Array::elements).
#[derive(Clone, Debug)]
pub struct Elements<'a>(Form<'a>);

#[derive(Clone, Debug)]
enum Form<'a> {
    Sent { cursor: Cursor<'a>, left: usize },
    Stored(Stored<'a>),
}

impl<'a> Elements<'a> {
    /// Of `left` elements with their lengths before them.
    pub(super) fn sent(cursor: Cursor<'a>, left: usize) -> Self {
        Elements(Form::Sent { cursor, left })
    }

    /// Of `len` elements in the payload of an array on disk, the first of them at `at`.
    pub(super) fn stored(
        bytes: &'a [u8],
        at: usize,
        element: Element,
        nulls: Option<&'a [u8]>,
        len: usize,
    ) -> Self {
        Elements(Form::Stored(Stored { bytes, at, element, nulls, next: 0, len }))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Option<&'a [u8]>, ValueError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Form::Stored(stored) => stored.next(),
            Form::Sent { cursor, left: 0 } => {
                let ended = cursor.finish();
                cursor.rest();
                ended.err().map(Err)
            }
            Form::Sent { cursor, left } => {
                let element = cursor.measured();
                *left -= 1;
                if element.is_err() {
                    *left = 0;
                    cursor.rest();
                }
                Some(element)
            }
        }
    }
}

/// The elements of an array on disk.
#[derive(Clone, Debug)]
struct Stored<'a> {
    bytes: &'a [u8],
    /// Of the next element, before it is aligned.
    at: usize,
    element: Element,
    nulls: Option<&'a [u8]>,
    next: usize,
    len: usize,
}

impl<'a> Stored<'a> {
    #[inline]
    fn next(&mut self) -> Option<Result<Option<&'a [u8]>, ValueError>> {
        if self.next >= self.len {
            // the last element may be padded too
            let whole = self.next > self.len
                || self.bytes.len() >= self.at && self.bytes.len() - self.at < MAX_ALIGN;
            self.next = usize::MAX; // said once
            return (!whole).then(|| Err(malformed("bytes left over")));
        }
        let index = self.next;
        self.next += 1;
        let is_null =
            |nulls: &[u8]| nulls.get(index / 8).is_some_and(|b| b >> (index % 8) & 1 == 0);
        if self.nulls.is_some_and(is_null) {
            return Some(Ok(None));
        }
        let element = self.read();
        if element.is_err() {
            self.next = usize::MAX;
        }
        Some(element.map(Some))
    }

    #[inline]
    fn read(&mut self) -> Result<&'a [u8], ValueError> {
        let align = usize::from(self.element.align).max(1);
        let start = (self.at + HEADER).next_multiple_of(align) - HEADER;
        let rest = self.bytes.get(start..).unwrap_or_default();
        let (len, header) = match self.element.encoding {
            ElementEncoding::Fixed(width) => (usize::from(width), 0),
            _ => varlena_len(rest).ok_or_else(|| malformed("an element that is not plain"))?,
        };
        self.at = start + len;
        rest.get(header..len).ok_or_else(|| malformed("truncated"))
    }
}

pub(super) fn malformed(problem: &'static str) -> ValueError {
    ValueError::Malformed { type_name: "array", problem }
}

/// Length of a varlena with its header, and of that header. `None` for one that is compressed or out
/// of line, which inside of another value there is not.
#[inline]
pub(super) fn varlena_len(bytes: &[u8]) -> Option<(usize, usize)> {
    match bytes {
        [0x01, ..] => None,
        [first, ..] if first & 0x01 != 0 => Some((usize::from(first >> 1), 1)),
        [a, b, c, d, ..] if a & 0x03 == 0 => {
            let len = u32::from_le_bytes([*a, *b, *c, *d]) as usize >> 2;
            (len >= HEADER).then_some((len, HEADER))
        }
        _ => None,
    }
}
