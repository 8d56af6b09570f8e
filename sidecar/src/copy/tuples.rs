//! What `COPY … TO STDOUT (FORMAT binary)` sends, as rows of the wire.
//!
//! ```text
//! PGCOPY\n\xFF\r\n\0 | u32 flags | u32 bytes of an extension, and these | tuple, tuple, … | i16 -1
//! tuple:  i16 fields | fields × (i32 length or -1, bytes)
//! ```
//!
//! Its values are what the send functions wrote, so the [`Relation`](rsrepl_wire::Relation) of such a row has
//! no column of a fixed width: [`Encoding::Send`](rsrepl_wire::Encoding::Send), or
//! [`Encoding::Text`](rsrepl_wire::Encoding::Text) where the COPY asks for text.
//!
//! The bytes come in pieces of any size. Memory follows what has come, never what a length announces.

use bytes::Bytes;
use rsrepl_wire::limits::FRAME_MAX;
use rsrepl_wire::{Row, RowWriter};

use crate::error::{Error, Kind, Result};

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xFF\r\n\0";
/// Bits of the flags that a reader must know; there is none that we do.
const CRITICAL: u32 = 0xFFFF_0000;
/// Bytes of a header's extension. No server has ever sent any.
const EXTENSION_MAX: usize = 1 << 20;
/// What the buffer for cut tuples may keep when it is empty, in bytes.
const KEPT_MAX: usize = 1 << 20;

/// Reads one COPY.
pub struct Tuples {
    columns: usize,
    place: Place,
    /// What came behind the last whole tuple.
    rest: Vec<u8>,
    /// Rows that have not been taken, one behind the other, and where each ends.
    rows: Vec<u8>,
    ends: Vec<usize>,
}

/// Where the next byte belongs.
#[derive(Clone, Copy, Debug)]
enum Place {
    Header,
    /// In a tuple, of which so much has been looked at.
    Tuple(Seen),
    /// Behind the trailer.
    End,
}

/// How much of a tuple is there.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Bytes from its first on, up to the field that is not whole; 0: nothing is known of it.
    bytes: usize,
    fields: usize,
    nulls: bool,
}

impl Tuples {
    /// Of a COPY of so many columns.
    pub fn new(columns: usize) -> Tuples {
        Tuples {
            columns,
            place: Place::Header,
            rest: Vec::new(),
            rows: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// [`Kind::Frame`]: it is not what a server sends. Nothing more may be read then.
    pub fn push(&mut self, piece: &[u8]) -> Result<()> {
        if self.rest.is_empty() {
            let used = self.read(piece)?;
            self.rest.extend_from_slice(piece.get(used..).unwrap_or_default());
            return Ok(());
        }
        let mut rest = std::mem::take(&mut self.rest);
        rest.extend_from_slice(piece);
        let used = self.read(&rest)?;
        rest.drain(..used);
        if !rest.is_empty() || rest.capacity() <= KEPT_MAX {
            self.rest = rest;
        }
        Ok(())
    }

    /// Rows that can be taken.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.rows.len()
    }

    /// Takes the rows that are whole.
    pub fn take(&mut self) -> impl ExactSizeIterator<Item = Row> + use<> {
        // as much will come again
        let room = (self.rows.len(), self.ends.len());
        let rows = Bytes::from(std::mem::replace(&mut self.rows, Vec::with_capacity(room.0)));
        let ends = std::mem::replace(&mut self.ends, Vec::with_capacity(room.1));
        let mut start = 0;
        ends.into_iter().map(move |end| Row(rows.slice(std::mem::replace(&mut start, end)..end)))
    }

    /// Says that nothing more comes.
    ///
    /// # Errors
    /// [`Kind::Frame`]: the trailer is missing.
    pub fn finish(&self) -> Result<()> {
        match self.place {
            Place::End => Ok(()),
            _ => Err(malformed("it ends without its trailer")),
        }
    }

    /// Reads as many whole tuples as there are; returns how many bytes are done with.
    fn read(&mut self, input: &[u8]) -> Result<usize> {
        let mut used = 0;
        loop {
            let left = input.get(used..).unwrap_or_default();
            match self.place {
                Place::Header => match header(left)? {
                    Some(len) => {
                        used += len;
                        self.place = Place::Tuple(Seen::default());
                    }
                    None => return Ok(used),
                },
                Place::Tuple(mut seen) => {
                    let found = seen.look(left, self.columns)?;
                    self.place = Place::Tuple(seen);
                    match found {
                        Found::Whole => {
                            let tuple = left.get(..seen.bytes).unwrap_or_default();
                            self.put(tuple, seen.nulls);
                            used += seen.bytes;
                            self.place = Place::Tuple(Seen::default());
                        }
                        Found::Trailer => {
                            used += size_of::<i16>();
                            self.place = Place::End;
                        }
                        Found::More => return Ok(used),
                    }
                }
                Place::End if left.is_empty() => return Ok(used),
                Place::End => return Err(malformed("there is more behind its trailer")),
            }
        }
    }

    /// A whole tuple as a row.
    fn put(&mut self, tuple: &[u8], nulls: bool) {
        let mut row = RowWriter::new(&mut self.rows, self.columns, nulls, false);
        let mut rest = tuple.get(size_of::<i16>()..).unwrap_or_default();
        while let Some((len, after)) = rest.split_first_chunk() {
            match usize::try_from(i32::from_be_bytes(*len)) {
                Ok(len) => {
                    let (value, after) = after.split_at_checked(len).unwrap_or((after, &[]));
                    row.variable(value);
                    rest = after;
                }
                Err(_) => {
                    row.null();
                    rest = after;
                }
            }
        }
        self.ends.push(self.rows.len());
    }
}

enum Found {
    Whole,
    Trailer,
    More,
}

impl Seen {
    /// Goes on from where it had come to.
    fn look(&mut self, input: &[u8], columns: usize) -> Result<Found> {
        if self.bytes == 0 {
            let Some(fields) = input.first_chunk() else { return Ok(Found::More) };
            match i16::from_be_bytes(*fields) {
                -1 => return Ok(Found::Trailer),
                fields if usize::try_from(fields) == Ok(columns) => {}
                fields => {
                    return Err(malformed(&format!("a tuple of {fields} fields, not {columns}")));
                }
            }
            self.bytes = fields.len();
        }
        while self.fields < columns {
            let Some(len) = input.get(self.bytes..).and_then(<[u8]>::first_chunk) else {
                return Ok(Found::More);
            };
            let value = match i32::from_be_bytes(*len) {
                -1 => {
                    self.nulls = true;
                    0
                }
                value => usize::try_from(value)
                    .ok()
                    .filter(|value| *value <= FRAME_MAX)
                    .ok_or_else(|| malformed(&format!("a value of {value} bytes")))?,
            };
            let end = self.bytes.saturating_add(len.len()).saturating_add(value);
            if end > input.len() {
                return Ok(Found::More);
            }
            self.bytes = end;
            self.fields += 1;
        }
        Ok(Found::Whole)
    }
}

/// Bytes of the header; `None` when it is not whole.
fn header(input: &[u8]) -> Result<Option<usize>> {
    let signature = input.get(..SIGNATURE.len().min(input.len())).unwrap_or_default();
    if !SIGNATURE.starts_with(signature) {
        return Err(malformed("it does not begin with PGCOPY"));
    }
    let word = |at: usize| {
        let word = input.get(at..).and_then(<[u8]>::first_chunk);
        word.map(|word| u32::from_be_bytes(*word))
    };
    let at = SIGNATURE.len();
    let (Some(flags), Some(extension)) = (word(at), word(at + 4)) else { return Ok(None) };
    // bit 16 says that oids come, which servers before 12 could be asked for
    if flags & CRITICAL != 0 {
        return Err(malformed(&format!("unknown flags {flags:#x}")));
    }
    let extension = usize::try_from(extension)
        .ok()
        .filter(|extension| *extension <= EXTENSION_MAX)
        .ok_or_else(|| malformed(&format!("a header of {extension} bytes more")))?;
    let len = at + 8 + extension;
    Ok((input.len() >= len).then_some(len))
}

#[cold]
fn malformed(problem: &str) -> Error {
    Error::new(Kind::Frame, format!("the COPY of the source cannot be read: {problem}"))
}

#[cfg(test)]
#[path = "tuples_tests.rs"]
mod tests;
