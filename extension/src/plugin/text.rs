//! Texts of the server as UTF-8: the wire knows no other encoding.
//!
//! A database that is not UTF-8 is one of two kinds. PostgreSQL has checked the texts of most (LATIN1,
//! EUC_JP, …), and they can be converted but for a few bytes that stand for nothing (0x81 in WIN1252).
//! In an SQL_ASCII database it has checked nothing: texts may be in any encoding, or in several. They are
//! taken for UTF-8, or for what the option `encoding` says. What is not valid then is an ERROR, or, by the
//! option `invalid_text`, replaced; names are never changed.

use std::borrow::Cow;
use std::cell::Cell;
use std::ffi::{CStr, c_char};
use std::fmt;

use pgrx::PgSqlErrorCode as Code;
use pgrx::{IntoDatum, direct_function_call, direct_function_call_as_datum, pg_sys};

use super::{memory, report};

const UTF8: i32 = pg_sys::pg_enc::PG_UTF8 as i32;
const SQL_ASCII: i32 = pg_sys::pg_enc::PG_SQL_ASCII as i32;

/// Bytes that are converted at a time, and the most that one may become (`MAX_CONVERSION_GROWTH`).
const CHUNK: usize = 64 * 1024;
const GROWTH: usize = 4;

const REPLACEMENT: &str = "\u{FFFD}";

/// What is done with text that has no UTF-8 form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum InvalidText {
    #[default]
    Error,
    /// U+FFFD in its place.
    Replace,
}

/// Converts from the database's encoding, which does not change during a session.
#[derive(Clone, Copy)]
pub(super) struct ServerText {
    database: i32,
    /// What texts are in: the database's encoding; of SQL_ASCII the declared one, or UTF-8.
    encoding: i32,
    invalid: InvalidText,
}

/// Bytes that have no UTF-8 form.
#[derive(Debug)]
pub(super) struct Invalid {
    encoding: i32,
    /// Where in the text, from 0.
    at: usize,
    byte: u8,
    database: i32,
}

impl ServerText {
    /// `declared`: the encoding of an SQL_ASCII database's texts, as PostgreSQL numbers it.
    pub(super) fn new(declared: Option<i32>, invalid: InvalidText) -> Self {
        // SAFETY: only reads the database's encoding
        let database = unsafe { pg_sys::GetDatabaseEncoding() };
        if declared.is_some() && database != SQL_ASCII {
            report::fail(
                Code::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("option \"encoding\" is not for a database that is {}", name(database)),
                "It says what the texts of an SQL_ASCII database are in; others are converted by \
                 themselves. Leave it out.",
            );
        }
        let encoding = match database {
            SQL_ASCII => declared.unwrap_or(UTF8),
            known => known,
        };
        ServerText { database, encoding, invalid }
    }

    /// Texts of the database are those of the wire.
    pub(super) fn is_utf8(self) -> bool {
        self.database == UTF8
    }

    /// The text in UTF-8.
    #[inline]
    pub(super) fn utf8(self, text: &[u8]) -> Result<Cow<'_, [u8]>, Invalid> {
        // every encoding has ASCII in its place
        if self.is_utf8() || text.is_ascii() {
            return Ok(Cow::Borrowed(text));
        }
        self.convert(text, self.invalid)
    }

    fn convert(self, text: &[u8], invalid: InvalidText) -> Result<Cow<'_, [u8]>, Invalid> {
        if self.encoding == UTF8 && std::str::from_utf8(text).is_ok() {
            return Ok(Cow::Borrowed(text));
        }
        let mut converted: Vec<u8> = Vec::new();
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            // one that cuts a character ends before it
            let chunk = rest.get(..CHUNK).unwrap_or(rest);
            let room = chunk.len() * GROWTH + 1;
            memory::make_room(converted.len() + room, |_| converted.try_reserve(room));
            let consumed = match self.encoding {
                UTF8 => valid_utf8(chunk, &mut converted),
                other => from_encoding(other, chunk, &mut converted),
            };
            at += consumed;
            if consumed == 0 {
                if invalid == InvalidText::Error {
                    let byte = rest.first().copied().unwrap_or_default();
                    let Self { encoding, database, .. } = self;
                    return Err(Invalid { encoding, at, byte, database });
                }
                converted.extend_from_slice(REPLACEMENT.as_bytes());
                at += 1;
            }
        }
        Ok(Cow::Owned(converted))
    }

    /// A catalog name, prefix or the like: never changed.
    pub(super) fn string(self, text: &CStr) -> String {
        let text = text.to_bytes();
        let converted = match self.is_utf8() || text.is_ascii() {
            true => Ok(Cow::Borrowed(text)),
            false => self.convert(text, InvalidText::Error),
        };
        let invalid = match converted.map(|text| String::from_utf8(text.into_owned())) {
            Ok(Ok(text)) => return text,
            Ok(Err(_)) => report::internal("a name is not in the encoding of the database".into()),
            Err(invalid) => invalid,
        };
        let shown = text.escape_ascii();
        let message = format!("the name \"{shown}\" has no UTF-8 form: {invalid}");
        report::fail(invalid.code(), message, "Rename it, or set the option encoding.")
    }

    /// A name of a catalog row.
    pub(super) fn name(self, name: &pg_sys::NameData) -> String {
        // SAFETY: names in catalogs are NUL-terminated
        self.string(unsafe { CStr::from_ptr(name.data.as_ptr()) })
    }
}

impl Invalid {
    pub(super) fn code(&self) -> Code {
        Code::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE
    }

    /// What whoever runs the source or the sidecar can do.
    pub(super) fn hint(&self) -> &'static str {
        match self.database {
            SQL_ASCII => {
                "The database is SQL_ASCII, so PostgreSQL took any bytes for text. Say which encoding its \
                 texts are in with the option encoding (source.encoding of the sidecar), or have what is \
                 invalid replaced with invalid_text = replace (source.invalid_text)."
            }
            _ => {
                "These bytes stand for no character. Have them replaced with the option invalid_text = \
                 replace (source.invalid_text of the sidecar)."
            }
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {} (0x{:02x}) is not valid in {}", self.at, self.byte, name(self.encoding))
    }
}

/// Appends what is valid at the beginning of `text`, and returns how much that is.
fn valid_utf8(text: &[u8], into: &mut Vec<u8>) -> usize {
    let valid = text.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    into.extend_from_slice(valid.as_bytes());
    valid.len()
}

/// The same of another encoding, converted.
fn from_encoding(encoding: i32, text: &[u8], into: &mut Vec<u8>) -> usize {
    let room = text.len() * GROWTH + 1;
    into.reserve(room);
    let before = into.len();
    // SAFETY: source and destination are as long as they say, and do not overlap; the function ends what
    // it writes with a NUL, and a text has none
    unsafe {
        let end = into.as_mut_ptr().add(before);
        *end = 0;
        let consumed = pg_sys::pg_do_encoding_conversion_buf(
            conversion(encoding),
            encoding,
            UTF8,
            text.as_ptr().cast_mut(),
            text.len() as i32,
            end,
            room as i32,
            true,
        );
        into.set_len(before + CStr::from_ptr(end.cast::<c_char>()).to_bytes().len());
        usize::try_from(consumed).unwrap_or_default()
    }
}

/// The function that converts an encoding to UTF-8, looked up once.
fn conversion(encoding: i32) -> pg_sys::Oid {
    thread_local! {
        static FOUND: Cell<(i32, pg_sys::Oid)> = const { Cell::new((-1, pg_sys::InvalidOid)) };
    }
    let (known, function) = FOUND.get();
    if known == encoding {
        return function;
    }
    // SAFETY: a lookup in the catalogs, of which there is a snapshot
    let function = unsafe { pg_sys::FindDefaultConversionProc(encoding, UTF8) };
    if function == pg_sys::InvalidOid {
        report::fail(
            Code::ERRCODE_UNDEFINED_FUNCTION,
            format!("there is no conversion from {} to UTF8", name(encoding)),
            "",
        );
    }
    FOUND.set((encoding, function));
    function
}

/// PostgreSQL's number of an encoding that texts may be in.
pub(super) fn encoding(name: &CStr) -> Option<i32> {
    let mut padded = pg_sys::NameData::default();
    let room = padded.data.len() - 1;
    for (to, from) in padded.data.iter_mut().zip(name.to_bytes().iter().take(room)) {
        *to = *from as c_char;
    }
    let name = pg_sys::Datum::from(&raw const padded);
    // SAFETY: an argument of the type `name`, which is only read; the C functions behind it are called
    // otherwise in each version
    let encoding: i32 =
        unsafe { direct_function_call(pg_sys::PG_char_to_encoding, &[Some(name)])? };
    (encoding >= 0 && encoding != SQL_ASCII).then_some(encoding)
}

fn name(encoding: i32) -> String {
    // SAFETY: an argument of the type `int4`; the result is a `name` in the current memory context
    let name = unsafe {
        let number = encoding.into_datum();
        let name = direct_function_call_as_datum(pg_sys::PG_encoding_to_char, &[number]);
        name.map(|name| CStr::from_ptr(name.cast_mut_ptr::<c_char>()).to_owned())
    };
    name.map_or_else(|| format!("encoding {encoding}"), |name| name.to_string_lossy().into_owned())
}

/// Whether messages of the server are UTF-8 as they are.
pub(super) fn database_is_utf8() -> bool {
    // SAFETY: only reads the database's encoding
    unsafe { pg_sys::GetDatabaseEncoding() == UTF8 }
}

/// Send functions convert to the client's encoding, so it has to be the one of the wire.
pub(super) fn check_client_encoding() {
    // SAFETY: only read the session's encoding; the name is a static string
    let (encoding, name) = unsafe {
        let name = pg_sys::pg_get_client_encoding_name();
        (pg_sys::pg_get_client_encoding(), CStr::from_ptr(name))
    };
    if encoding != UTF8 {
        report::fail(
            pgrx::PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("rsrepl needs client_encoding UTF8, it is {}", name.to_string_lossy()),
            "Connect with client_encoding=UTF8 (in the connection string, or as PGCLIENTENCODING), \
             or SET client_encoding = 'UTF8'.",
        );
    }
}
