//! A row of a frame as a JSON object: each value in PostgreSQL's own text form.
//!
//! The text forms are `rsrepl_wire::text`'s, which is safe on any bytes. Only a value in send form of a
//! type that it does not know is given to this server's own functions, see [`in_server`].

use std::ffi::{CStr, c_char, c_int};
use std::fmt::Write;

use pg_sys::SysCacheIdentifier::TYPEOID;
use pgrx::pg_sys;
use rsrepl_wire::text::{self, ValueError};
use rsrepl_wire::{Column, Encoding, Relation, Row, Value};
use serde_json::{Map, Value as Json};

/// What a row holds, for people.
pub(super) struct ShownRow {
    /// By column name; null or a string. Unchanged TOAST values are absent.
    pub(super) values: Map<String, Json>,
    /// The columns whose value is not in the frame, as the UPDATE did not change it.
    pub(super) unchanged: Vec<String>,
    /// The columns shown as their bytes, as nothing here knows their type.
    pub(super) bytes: Vec<String>,
}

/// With `key_only`, columns outside of the replica identity, which say nothing, are left out.
pub(super) fn row_json(row: &Row, relation: &Relation, key_only: bool) -> Result<ShownRow, String> {
    row.validate(relation).map_err(|error| error.to_string())?;
    let mut shown = ShownRow { values: Map::new(), unchanged: Vec::new(), bytes: Vec::new() };
    let values = row.values(relation).map_err(|error| error.to_string())?;
    for (column, value) in relation.columns.iter().zip(values) {
        let name = || column.name.clone();
        match value.map_err(|error| error.to_string())? {
            _ if key_only && !column.key => {}
            Value::Null => {
                shown.values.insert(name(), Json::Null);
            }
            Value::Unchanged => shown.unchanged.push(name()),
            Value::Data(data) => {
                let text = show(column, data)
                    .map_err(|error| format!("column {:?}: {error}", column.name))?;
                if text.is_none() {
                    shown.bytes.push(name());
                }
                shown.values.insert(name(), Json::String(text.unwrap_or_else(|| hex(data))));
            }
        }
    }
    Ok(shown)
}

/// `None` when nothing here knows the type.
fn show(column: &Column, data: &[u8]) -> Result<Option<String>, String> {
    let mut out = Vec::new();
    match text::write(&mut out, column, data) {
        Ok(()) => String::from_utf8(out).map(Some).map_err(|error| error.to_string()),
        Err(ValueError::Unsupported { .. }) if column.encoding == Encoding::Send => {
            Ok(in_server(column, data))
        }
        Err(ValueError::Unsupported { .. }) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// The bytes as `bytea` writes them.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 + 2 * bytes.len());
    out.push_str("\\x");
    for byte in bytes {
        // a String takes every write
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// A row of `pg_type`.
fn type_row(oid: pg_sys::Oid) -> Option<pg_sys::FormData_pg_type> {
    // SAFETY: the cache has one key, an oid; the fixed part of the row is copied before its release
    unsafe {
        let row = pg_sys::SearchSysCache1(TYPEOID as c_int, oid.into());
        if row.is_null() {
            return None;
        }
        let form = *pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_type>();
        pg_sys::ReleaseSysCache(row);
        Some(form)
    }
}

/// The frame may come from another database, where the oid is another type: the name has to fit too.
fn is_declared_type(form: &pg_sys::FormData_pg_type, column: &Column) -> bool {
    // SAFETY: the name of a catalog row ends with a NUL; the schema's is a copy, or null
    let (name, schema) = unsafe {
        let schema = pg_sys::get_namespace_name(form.typnamespace);
        if schema.is_null() {
            return false;
        }
        (CStr::from_ptr(form.typname.data.as_ptr()), CStr::from_ptr(schema))
    };
    name.to_bytes() == column.type_name.as_bytes()
        && schema.to_bytes() == column.type_schema.as_bytes()
}

/// The type's receive function may be called on bytes from anywhere: only a superuser can have created
/// it. A domain's calls the CHECK of whoever made the domain, with the rights of whoever looks at the
/// frame; so a domain, and what may hold one (range, composite), is not received.
fn is_plain(form: &pg_sys::FormData_pg_type) -> bool {
    form.typtype as u8 == pg_sys::TYPTYPE_BASE && form.typisdefined
}

/// The text form of a value that the type's send function wrote, by this server's own receive and
/// output function; `None` when the type is not here or not safe to receive. Bytes that the receive
/// function refuses are its ERROR.
///
/// `rsrepl.decode_frame` sets `client_encoding` to UTF8, in which texts inside of values came.
fn in_server(column: &Column, data: &[u8]) -> Option<String> {
    let declared = type_row(column.type_oid.into())?;
    let base_oid = pg_sys::Oid::from(column.base_oid);
    let base = type_row(base_oid)?;
    // SAFETY: a lookup by oid of a type that exists
    let real_base = unsafe { pg_sys::getBaseType(column.type_oid.into()) };
    if !is_declared_type(&declared, column) || real_base != base_oid || !is_plain(&base) {
        return None;
    }
    if base.typelem != pg_sys::InvalidOid && !is_plain(&type_row(base.typelem)?) {
        return None;
    }
    if base.typreceive == pg_sys::InvalidOid {
        return None;
    }
    // SAFETY: both functions belong to the type, and both check what they are given; the buffer is a
    // copy with a NUL behind it, as every StringInfo has, and is not used after the call
    unsafe {
        let mut buffer = pg_sys::StringInfoData::default();
        pg_sys::initStringInfo(&mut buffer);
        pg_sys::appendBinaryStringInfo(&mut buffer, data.as_ptr().cast(), data.len() as c_int);
        let io_param = if base.typelem == pg_sys::InvalidOid { base_oid } else { base.typelem };
        let value =
            pg_sys::OidReceiveFunctionCall(base.typreceive, &mut buffer, io_param, column.typmod);
        if buffer.cursor != buffer.len {
            pgrx::error!(
                "rsrepl.decode_frame: column {:?}: {} bytes left over after a value of type {}",
                column.name,
                buffer.len - buffer.cursor,
                column.type_name
            );
        }
        let output = pg_sys::OidOutputFunctionCall(base.typoutput, value);
        Some(utf8(CStr::from_ptr(output)))
    }
}

/// A text of the server in UTF-8.
fn utf8(text: &CStr) -> String {
    let (from, len) = (text.as_ptr().cast_mut(), text.to_bytes().len());
    // SAFETY: `len` bytes are there; the result is `from` itself or a NUL-terminated copy
    let converted: *mut c_char =
        unsafe { pg_sys::pg_server_to_any(from, len as c_int, pg_sys::pg_enc::PG_UTF8 as c_int) };
    // SAFETY: as above, and never null
    String::from_utf8_lossy(unsafe { CStr::from_ptr(converted) }.to_bytes()).into_owned()
}
