//! What START_REPLICATION or the SQL functions ask for.

use std::ffi::{CStr, CString, c_char};

use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys;
use rsrepl_wire::limits::FORMAT_VERSION;

use super::report;
use super::text::{self, InvalidText};

const KNOWN: &str = "The options are format_version, publications, messages, origin, streaming, combine, rewrites, \
     encoding and invalid_text.";

/// The validated options of a session.
#[derive(Debug, Default)]
pub(super) struct Options {
    /// Names in the database's encoding; `None`: every table, every operation.
    pub(super) publications: Option<Vec<CString>>,
    /// Logical messages are wanted.
    pub(super) messages: bool,
    /// Only what did not come from another server is wanted (`origin = none`).
    pub(super) local_only: bool,
    /// Large transactions are wanted while they run.
    pub(super) streaming: bool,
    /// Several transactions may come in one frame: the receiver knows what MORE means for keepalives.
    pub(super) combine: bool,
    /// The rows of rewritten tables are wanted, behind a message that says so.
    pub(super) rewrites: bool,
    /// What the texts of an SQL_ASCII database are in.
    pub(super) encoding: Option<i32>,
    pub(super) invalid_text: InvalidText,
}

impl Options {
    /// Reads a list of `DefElem`; every fault is an ERROR that names the option.
    ///
    /// # Safety
    /// `list` is a list of `DefElem`, or null.
    pub(super) unsafe fn parse(list: *mut pg_sys::List) -> Options {
        let mut options = Options::default();
        let mut seen: Vec<&CStr> = Vec::new();
        // SAFETY: as promised by the caller; the strings live as long as the list
        for option in unsafe { elements(list) } {
            let (name, value) = unsafe { option_of(option.ptr_value.cast()) };
            if seen.contains(&name) {
                let text = format!("option \"{}\" is given twice", name.to_string_lossy());
                report::fail(Code::ERRCODE_SYNTAX_ERROR, text, "Give each option once.");
            }
            seen.push(name);
            options.set(name, value);
        }
        options
    }

    fn set(&mut self, name: &CStr, value: Option<&CStr>) {
        let shown = name.to_string_lossy();
        let known = [
            c"format_version",
            c"publications",
            c"messages",
            c"origin",
            c"streaming",
            c"combine",
            c"rewrites",
            c"encoding",
            c"invalid_text",
        ];
        if !known.contains(&name) {
            let text = format!("unknown option \"{shown}\" of output plugin rsrepl");
            report::fail(Code::ERRCODE_INVALID_PARAMETER_VALUE, text, KNOWN);
        }
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            let text = format!("option \"{shown}\" needs a value");
            report::fail(Code::ERRCODE_INVALID_PARAMETER_VALUE, text, "");
        };
        match name.to_bytes() {
            b"format_version" => check_format_version(value),
            b"publications" => self.publications = Some(identifiers(value)),
            b"messages" => self.messages = boolean("messages", value),
            b"streaming" => self.streaming = boolean("streaming", value),
            b"combine" => self.combine = boolean("combine", value),
            b"rewrites" => self.rewrites = boolean("rewrites", value),
            b"encoding" => {
                let hint = "It is an encoding of PostgreSQL, such as LATIN1.";
                let encoding = text::encoding(value);
                self.encoding = Some(encoding.unwrap_or_else(|| invalid("encoding", value, hint)));
            }
            b"invalid_text" => {
                self.invalid_text = match value.to_bytes() {
                    b"error" => InvalidText::Error,
                    b"replace" => InvalidText::Replace,
                    _ => invalid("invalid_text", value, "It is error or replace."),
                }
            }
            _ => {
                self.local_only = match value.to_bytes() {
                    b"any" => false,
                    b"none" => true,
                    _ => invalid("origin", value, "It is any or none."),
                }
            }
        }
    }
}

fn invalid(option: &str, value: &CStr, hint: &str) -> ! {
    let text = format!("option \"{option}\" cannot be \"{}\"", value.to_string_lossy());
    report::fail(Code::ERRCODE_INVALID_PARAMETER_VALUE, text, hint)
}

fn check_format_version(value: &CStr) {
    let version = value.to_str().ok().and_then(|text| text.parse::<u8>().ok());
    if version != Some(FORMAT_VERSION) {
        let hint = format!("This version of rsrepl writes format {FORMAT_VERSION}.");
        invalid("format_version", value, &hint);
    }
}

fn boolean(option: &str, value: &CStr) -> bool {
    let mut result = false;
    // SAFETY: a NUL-terminated string and a place for the result
    if !unsafe { pg_sys::parse_bool(value.as_ptr(), &mut result) } {
        invalid(option, value, "It is a boolean.");
    }
    result
}

/// A comma-separated list of identifiers, quoted or folded to lower case as PostgreSQL does.
fn identifiers(value: &CStr) -> Vec<CString> {
    // SAFETY: the string is copied, as the function writes into it; the names point into the copy
    let names: Option<Vec<CString>> = unsafe {
        let copy = pg_sys::pstrdup(value.as_ptr());
        let mut list = std::ptr::null_mut();
        pg_sys::SplitIdentifierString(copy, b',' as c_char, &mut list).then(|| {
            elements(list)
                .iter()
                .map(|name| CStr::from_ptr(name.ptr_value.cast::<c_char>()).to_owned())
                .collect()
        })
    };
    match names {
        Some(names) if !names.is_empty() => names,
        _ => invalid("publications", value, "It is a comma-separated list of names."),
    }
}

/// # Safety
/// `element` is a `DefElem`.
unsafe fn option_of<'a>(element: *mut pg_sys::DefElem) -> (&'a CStr, Option<&'a CStr>) {
    // SAFETY: names are never null; a value, when there is one, is a node that has a string form
    unsafe {
        let name = CStr::from_ptr((*element).defname);
        let value = if (*element).arg.is_null() {
            None
        } else {
            Some(CStr::from_ptr(pg_sys::defGetString(element)))
        };
        (name, value)
    }
}

/// The cells of a PostgreSQL list; none when it is null.
///
/// # Safety
/// The list is valid for `'a`.
pub(super) unsafe fn elements<'a>(list: *const pg_sys::List) -> &'a [pg_sys::ListCell] {
    if list.is_null() {
        return &[];
    }
    // SAFETY: a list has `length` elements
    unsafe { std::slice::from_raw_parts((*list).elements, (*list).length as usize) }
}
