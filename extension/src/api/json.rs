//! JSON as it crosses from Rust to SQL: in ASCII, so that it is right in every database encoding.
//! The cast to `jsonb` turns the escapes into the encoding of the database, or refuses them.

use std::io::{self, Write};

use serde_json::Value;
use serde_json::ser::Formatter;

struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut plain_from = 0;
        for (at, char) in fragment.char_indices().filter(|(_, char)| !char.is_ascii()) {
            writer.write_all(fragment.get(plain_from..at).unwrap_or_default().as_bytes())?;
            for unit in char.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            plain_from = at + char.len_utf8();
        }
        writer.write_all(fragment.get(plain_from..).unwrap_or_default().as_bytes())
    }
}

/// The value as JSON text of ASCII characters.
pub(super) fn to_ascii(value: &Value) -> String {
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, Ascii);
    match serde::Serialize::serialize(value, &mut serializer) {
        Ok(()) => String::from_utf8_lossy(&out).into_owned(),
        // a Vec takes every write and the keys of a Value are strings: nothing is left to go wrong
        Err(error) => pgrx::error!("rsrepl: JSON cannot be written: {error}"),
    }
}
