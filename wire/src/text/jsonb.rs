//! `jsonb` as it is on disk, and its text form (`utils/jsonb.h`).
//!
//! ```text
//! container:  u32 header (count, kind) | entries × u32 | data of the entries
//! entry:      type, and either the length of its data or where they end
//! ```
//!
//! An array has one entry per element; an object first one per key, then one per value, in the same
//! order. Strings lie as they are; a numeric (with the header of its varlena) and a container begin at
//! the next multiple of four, counted from the first byte of data. A value that is neither object nor
//! array is the element of an array that says so.

use bytes::BufMut;

use super::ValueError;
use super::numeric::Numeric;
use crate::limits::{JSONB_DEPTH_MAX, TEXT_MAX};

// The header of a container.
const COUNT_MASK: u32 = 0x0FFF_FFFF;
const SCALAR: u32 = 0x1000_0000;
const OBJECT: u32 = 0x2000_0000;
const ARRAY: u32 = 0x4000_0000;

// An entry: length or end, its type, and which of both it has.
const LENGTH_MASK: u32 = 0x0FFF_FFFF;
const TYPE_MASK: u32 = 0x7000_0000;
const HAS_END: u32 = 0x8000_0000;
const STRING: u32 = 0x0000_0000;
const NUMERIC: u32 = 0x1000_0000;
const FALSE: u32 = 0x2000_0000;
const TRUE: u32 = 0x3000_0000;
const NULL: u32 = 0x4000_0000;
const CONTAINER: u32 = 0x5000_0000;

/// Bytes of a header, of an entry, and what numerics and containers are aligned to.
const WORD: usize = 4;

fn malformed(problem: &'static str) -> ValueError {
    ValueError::Malformed { type_name: "jsonb", problem }
}

fn word(bytes: &[u8], index: usize) -> Option<u32> {
    let at = index.checked_mul(WORD)?;
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

/// What a [`Container`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Object,
    Array,
    /// One element that stands for itself; outermost only.
    Scalar,
}

/// An object or array with a checked header; its items are read by [`items`](Self::items).
#[derive(Clone, Copy, Debug)]
pub struct Container<'a> {
    kind: Kind,
    count: usize,
    entries: &'a [u8],
    data: &'a [u8],
}

/// One value inside of a container.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    Null,
    Bool(bool),
    Numeric(Numeric<'a>),
    String(&'a str),
    Container(Container<'a>),
}

impl<'a> Container<'a> {
    /// Reads [`Encoding::Jsonb`](crate::Encoding::Jsonb). That the entries are there is checked, what
    /// they hold is not.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ValueError> {
        let header = word(bytes, 0).ok_or_else(|| malformed("truncated"))?;
        let count = (header & COUNT_MASK) as usize;
        let kind = match header & !COUNT_MASK {
            OBJECT => Kind::Object,
            ARRAY => Kind::Array,
            kind if kind == ARRAY | SCALAR && count == 1 => Kind::Scalar,
            _ => return Err(malformed("unknown kind of container")),
        };
        let entries = if kind == Kind::Object { count * 2 } else { count };
        let rest = bytes.get(WORD..).unwrap_or_default();
        let (entries, data) =
            rest.split_at_checked(entries * WORD).ok_or_else(|| malformed("truncated"))?;
        Ok(Container { kind, count, entries, data })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Elements, or pairs of key and value.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The items as they are stored, keys in PostgreSQL's order. The iterator ends after the first
    /// error, and bytes left over are one.
    pub fn items(&self) -> Result<Items<'a>, ValueError> {
        let mut items = Items { of: *self, next: 0, key_at: 0, at: 0 };
        if self.kind == Kind::Object {
            // values begin where keys end
            for index in 0..self.count {
                items.at = span(items.at, items.entry(index)?)?.1;
            }
        }
        Ok(items)
    }
}

/// First byte and end of an entry's data, given the end of the one before.
fn span(at: usize, entry: u32) -> Result<(usize, usize), ValueError> {
    let length = (entry & LENGTH_MASK) as usize;
    match entry & HAS_END {
        0 => Ok((at, at + length)),
        _ if length < at => Err(malformed("an entry that ends before it begins")),
        _ => Ok((at, length)),
    }
}

/// Iterator over [`Container::items`]: the key, in an object, and the value.
#[derive(Clone, Copy, Debug)]
pub struct Items<'a> {
    of: Container<'a>,
    next: usize,
    key_at: usize,
    at: usize,
}

impl<'a> Items<'a> {
    fn entry(&self, index: usize) -> Result<u32, ValueError> {
        word(self.of.entries, index).ok_or_else(|| malformed("truncated"))
    }

    fn data(&self, (start, end): (usize, usize)) -> Result<&'a [u8], ValueError> {
        self.of.data.get(start..end).ok_or_else(|| malformed("truncated"))
    }

    fn read(&mut self) -> Result<(Option<&'a str>, Item<'a>), ValueError> {
        let (key, first_value) = match self.of.kind {
            Kind::Object => {
                let entry = self.entry(self.next)?;
                if entry & TYPE_MASK != STRING {
                    return Err(malformed("a key that is not a string"));
                }
                let key = span(self.key_at, entry)?;
                self.key_at = key.1;
                (Some(utf8(self.data(key)?)?), self.of.count)
            }
            Kind::Array | Kind::Scalar => (None, 0),
        };
        let entry = self.entry(first_value + self.next)?;
        let value = span(self.at, entry)?;
        self.at = value.1;
        self.next += 1;
        Ok((key, self.item(entry, value)?))
    }

    fn item(&self, entry: u32, span: (usize, usize)) -> Result<Item<'a>, ValueError> {
        let data = self.data(span)?;
        let aligned = || {
            let padding = span.0.next_multiple_of(WORD) - span.0;
            data.get(padding..).ok_or_else(|| malformed("truncated"))
        };
        Ok(match entry & TYPE_MASK {
            STRING => Item::String(utf8(data)?),
            NUMERIC => Item::Numeric(Numeric::from_disk(payload(aligned()?)?)?),
            CONTAINER => match Container::parse(aligned()?)? {
                container if container.kind != Kind::Scalar => Item::Container(container),
                _ => return Err(malformed("a scalar container inside of another")),
            },
            FALSE | TRUE | NULL if !data.is_empty() => return Err(malformed("bytes left over")),
            FALSE => Item::Bool(false),
            TRUE => Item::Bool(true),
            NULL => Item::Null,
            _ => return Err(malformed("unknown type of entry")),
        })
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<(Option<&'a str>, Item<'a>), ValueError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.of.count {
            let whole = self.next > self.of.count || self.at == self.of.data.len();
            self.next = usize::MAX; // said once
            return (!whole).then(|| Err(malformed("bytes left over")));
        }
        let item = self.read();
        if item.is_err() {
            self.next = usize::MAX;
        }
        Some(item)
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, ValueError> {
    std::str::from_utf8(bytes).map_err(|_| malformed("not UTF-8"))
}

/// The payload of a whole varlena that is neither compressed nor elsewhere.
fn payload(varlena: &[u8]) -> Result<&[u8], ValueError> {
    let (len, header) =
        super::elements::varlena_len(varlena).ok_or_else(|| malformed("varlena"))?;
    match varlena.get(header..) {
        Some(payload) if len == varlena.len() => Ok(payload),
        _ => Err(malformed("wrong length of a numeric")),
    }
}

/// Containers around the one that is written: the first few without memory of their own.
#[derive(Default)]
struct Outer<'a> {
    near: [Option<Items<'a>>; 4],
    far: Vec<Items<'a>>,
    len: usize,
}

impl<'a> Outer<'a> {
    fn push(&mut self, items: Items<'a>) -> Result<(), ValueError> {
        match self.near.get_mut(self.len) {
            Some(place) => *place = Some(items),
            None if self.len >= JSONB_DEPTH_MAX => return Err(malformed("nested too deep")),
            None => self.far.push(items),
        }
        self.len += 1;
        Ok(())
    }

    fn pop(&mut self) -> Option<Items<'a>> {
        self.len = self.len.checked_sub(1)?;
        match self.near.get_mut(self.len) {
            Some(place) => place.take(),
            None => self.far.pop(),
        }
    }
}

/// Appends what `jsonb_out` writes. After an error `out` may hold a part of it.
pub fn write(out: &mut impl BufMut, value: &[u8]) -> Result<(), ValueError> {
    let room = out.remaining_mut();
    let mut container = Container::parse(value)?;
    let mut items = container.items()?;
    let mut outer = Outer::default();
    open(out, container.kind);
    loop {
        let first = items.next == 0;
        let Some(item) = items.next().transpose()? else {
            close(out, items.of.kind);
            match outer.pop() {
                Some(around) => items = around,
                None => return Ok(()),
            }
            continue;
        };
        if !first {
            out.put_slice(b", ");
        }
        if let Some(key) = item.0 {
            put_string(out, key);
            out.put_slice(b": ");
        }
        match item.1 {
            Item::Null => out.put_slice(b"null"),
            Item::Bool(true) => out.put_slice(b"true"),
            Item::Bool(false) => out.put_slice(b"false"),
            Item::Numeric(numeric) => numeric.write(out),
            Item::String(text) => put_string(out, text),
            Item::Container(inner) => {
                container = inner;
                open(out, container.kind);
                outer.push(std::mem::replace(&mut items, container.items()?))?;
            }
        }
        if room - out.remaining_mut() > TEXT_MAX {
            return Err(malformed("text over 1 GiB"));
        }
    }
}

fn open(out: &mut impl BufMut, kind: Kind) {
    match kind {
        Kind::Object => out.put_u8(b'{'),
        Kind::Array => out.put_u8(b'['),
        Kind::Scalar => {}
    }
}

fn close(out: &mut impl BufMut, kind: Kind) {
    match kind {
        Kind::Object => out.put_u8(b'}'),
        Kind::Array => out.put_u8(b']'),
        Kind::Scalar => {}
    }
}

/// In quotes, with the escapes of `escape_json`.
fn put_string(out: &mut impl BufMut, text: &str) {
    const HEX: [u8; 16] = *b"0123456789abcdef";
    out.put_u8(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| matches!(byte, 0..0x20 | b'"' | b'\\')) {
        let (plain, special) = rest.split_at(at);
        out.put_slice(plain);
        let Some((byte, after)) = special.split_first() else { break };
        match byte {
            b'"' | b'\\' => out.put_slice(&[b'\\', *byte]),
            0x08 => out.put_slice(b"\\b"),
            0x0C => out.put_slice(b"\\f"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            b'\t' => out.put_slice(b"\\t"),
            byte => {
                let digit = |nibble: u8| HEX[usize::from(nibble & 0xF)];
                out.put_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(*byte)]);
            }
        }
        rest = after;
    }
    out.put_slice(rest);
    out.put_u8(b'"');
}
