//! Texts of the server as UTF-8: the wire knows no other encoding.

use std::ffi::{CStr, c_char};

use pgrx::pg_sys;

use super::report;

const UTF8: i32 = pg_sys::pg_enc::PG_UTF8 as i32;

/// Converts from the database's encoding, which does not change during a session.
#[derive(Clone, Copy)]
pub(super) struct ServerText {
    /// The database is not UTF-8.
    foreign: bool,
}

impl ServerText {
    pub(super) fn new() -> Self {
        // SAFETY: only reads the database's encoding
        ServerText { foreign: unsafe { pg_sys::GetDatabaseEncoding() } != UTF8 }
    }

    /// Texts of the database are those of the wire.
    pub(super) fn is_utf8(self) -> bool {
        !self.foreign
    }

    /// The text in UTF-8; a converted one is allocated in the current memory context, and lives as
    /// long as that.
    ///
    /// # Errors
    /// PostgreSQL's own ERROR for a text that has no UTF-8 form.
    pub(super) fn utf8(self, text: &[u8]) -> &[u8] {
        if !self.foreign || text.is_empty() {
            return text;
        }
        // SAFETY: the bytes are `len` long; the result is either they or a new, NUL-terminated string
        unsafe {
            let from = text.as_ptr().cast::<c_char>();
            let to = pg_sys::pg_server_to_any(from, text.len() as i32, UTF8);
            if std::ptr::eq(to, from) { text } else { CStr::from_ptr(to).to_bytes() }
        }
    }

    /// A catalog name, prefix or the like.
    pub(super) fn string(self, text: &CStr) -> String {
        match String::from_utf8(self.utf8(text.to_bytes()).to_vec()) {
            Ok(text) => text,
            Err(_) => report::internal("a name is not in the encoding of the database".into()),
        }
    }

    /// A name of a catalog row.
    pub(super) fn name(self, name: &pg_sys::NameData) -> String {
        // SAFETY: names in catalogs are NUL-terminated
        self.string(unsafe { CStr::from_ptr(name.data.as_ptr()) })
    }
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
