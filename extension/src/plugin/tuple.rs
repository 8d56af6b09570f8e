//! A heap tuple into a row: the hot path.
//!
//! Tuples are walked here and not with `heap_deform_tuple`: each call of a PostgreSQL function costs a
//! `sigsetjmp`. Values in a native encoding need no call at all, unless they are compressed.
//!
//! The layout is that of `access/htup_details.h` (tuple header, null bitmap, alignment) and of
//! `varatt.h` (the four kinds of a varlena's header).

use std::ffi::CStr;

use pgrx::pg_sys;
use rsrepl_wire::text::ValueError;
use rsrepl_wire::text::array::Array;
use rsrepl_wire::{Element, RowShape, RowWriter};

use super::memory;
use super::report;
use super::text::{Invalid, ServerText};
use crate::compat;

/// How the values of a physical attribute are found and written.
pub(super) struct Attribute {
    /// `attlen`: -1 a varlena, -2 a C string.
    pub(super) len: i16,
    pub(super) align: usize,
    pub(super) by_value: bool,
    pub(super) writing: Writing,
    /// What begins here.
    pub(super) run: Run,
}

/// Attributes of fixed width that lie without padding between them, wherever the first one lies: of a
/// row without nulls they go out as one.
#[derive(Clone, Copy, Default)]
pub(super) struct Run {
    columns: usize,
    bytes: usize,
}

impl Run {
    /// Finds the run that begins at each attribute.
    pub(super) fn find(attributes: &mut [Attribute]) {
        for index in 0..attributes.len() {
            let Some((first, rest)) = attributes.get_mut(index..).and_then(<[_]>::split_first_mut)
            else {
                return;
            };
            let mut run = Run::default();
            for next in std::iter::once(&*first).chain(&*rest) {
                // of the place of the first one no more is known than its own alignment
                let packed = next.align <= first.align && run.bytes.is_multiple_of(next.align);
                if !packed || !matches!(next.writing, Writing::Fixed) {
                    break;
                }
                run = Run { columns: run.columns + 1, bytes: run.bytes + next.len as usize };
            }
            first.run = run;
        }
    }
}

/// How a value gets onto the wire.
#[derive(Clone, Copy)]
pub(super) enum Writing {
    /// Not at all: a dropped column.
    Skip,
    /// So many bytes as they are.
    Fixed,
    /// A varlena's payload as it is.
    Payload,
    /// The same, converted to UTF-8.
    ForeignText,
    /// An array of texts of a database that is not UTF-8.
    Texts(Element),
    /// A `name`, without its padding.
    Name,
    /// What the send function says; it lives in the table's memory context.
    Send(*mut pg_sys::FmgrInfo),
    /// What the output function says, likewise.
    Text(*mut pg_sys::FmgrInfo),
}

/// A tuple of the reorder buffer with the attributes of its table.
pub(super) struct Tuple<'a> {
    bytes: &'a [u8],
    infomask: u16,
    /// Attributes that the tuple has; younger columns are missing.
    stored: usize,
    first: usize,
    desc: pg_sys::TupleDesc,
    attributes: &'a [Attribute],
    text: ServerText,
}

/// A value that is there.
enum Varlena<'a> {
    Payload(&'a [u8]),
    /// Stays in the TOAST table: the UPDATE did not touch it.
    Unchanged,
    /// Needs PostgreSQL to be read.
    Packed,
}

impl<'a> Tuple<'a> {
    /// # Safety
    /// `tuple` and `desc` are valid for `'a`, and `attributes` were made from `desc`.
    pub(super) unsafe fn new(
        tuple: pg_sys::HeapTuple,
        desc: pg_sys::TupleDesc,
        attributes: &'a [Attribute],
        text: ServerText,
    ) -> Self {
        // SAFETY: a heap tuple has `t_len` bytes, which start with its header
        unsafe {
            let header = (*tuple).t_data;
            Tuple {
                bytes: std::slice::from_raw_parts(header.cast::<u8>(), (*tuple).t_len as usize),
                infomask: (*header).t_infomask,
                stored: usize::from((*header).t_infomask2) & pg_sys::HEAP_NATTS_MASK as usize,
                first: usize::from((*header).t_hoff),
                desc,
                attributes,
                text,
            }
        }
    }

    fn has_nulls(&self) -> bool {
        self.infomask & pg_sys::HEAP_HASNULL as u16 != 0
    }

    /// What the row writer has to make room for.
    pub(super) fn shape(&self, columns: usize) -> RowShape {
        RowShape {
            columns,
            nulls: self.has_nulls() || self.stored < self.attributes.len(),
            unchanged: self.infomask & pg_sys::HEAP_HASEXTERNAL as u16 != 0,
        }
    }

    /// Writes every column of the table.
    pub(super) fn write(&self, row: &mut RowWriter<'_>) {
        let has_nulls = self.has_nulls();
        let mut at = self.first;
        let mut index = 0;
        while let Some(attribute) = self.attributes.get(index) {
            let run = attribute.run;
            if !has_nulls && run.columns > 1 && index + run.columns <= self.stored {
                row.fixed_run(self.fixed(&mut at, attribute.align, run.bytes), run.columns);
                index += run.columns;
                continue;
            }
            if index >= self.stored {
                self.write_missing(index, attribute, row);
            } else if has_nulls && self.is_null(index) {
                if !matches!(attribute.writing, Writing::Skip) {
                    row.null();
                }
            } else {
                let value = self.value(&mut at, attribute);
                self.write_value(value, index, attribute, row);
            }
            index += 1;
        }
    }

    #[inline]
    fn is_null(&self, index: usize) -> bool {
        // a set bit means a value
        let at = std::mem::offset_of!(pg_sys::HeapTupleHeaderData, t_bits) + index / 8;
        self.bytes.get(at).is_some_and(|byte| byte & (1 << (index % 8)) == 0)
    }

    /// The bytes of the value at `*at`, which moves on behind it.
    #[inline]
    fn value(&self, at: &mut usize, attribute: &Attribute) -> &'a [u8] {
        let (start, len) = match attribute.len {
            len if len > 0 => return self.fixed(at, attribute.align, len as usize),
            -1 => {
                // a short header is not aligned, and is never the zero byte of padding
                let padded = self.bytes.get(*at) == Some(&0);
                let start = if padded { aligned(*at, attribute.align) } else { *at };
                (start, varlena_len(self.bytes.get(start..).unwrap_or_default()))
            }
            _ => {
                let rest = self.bytes.get(*at..).unwrap_or_default();
                (*at, rest.iter().position(|byte| *byte == 0).map_or(usize::MAX, |len| len + 1))
            }
        };
        self.take(at, start, len)
    }

    /// So many bytes at `*at`, aligned.
    #[inline]
    fn fixed(&self, at: &mut usize, align: usize, len: usize) -> &'a [u8] {
        self.take(at, aligned(*at, align), len)
    }

    #[inline]
    fn take(&self, at: &mut usize, start: usize, len: usize) -> &'a [u8] {
        let end = start.saturating_add(len);
        *at = end;
        match self.bytes.get(start..end) {
            Some(value) => value,
            None => report::internal("a tuple is shorter than its values".into()),
        }
    }

    #[inline]
    fn write_value(
        &self,
        value: &'a [u8],
        index: usize,
        attribute: &Attribute,
        row: &mut RowWriter<'_>,
    ) {
        match attribute.writing {
            Writing::Skip => {}
            Writing::Fixed => row.fixed(value),
            Writing::Payload => match self.payload(value) {
                Some(payload) => put(row, payload),
                None => row.unchanged(),
            },
            Writing::ForeignText => match self.payload(value) {
                Some(payload) => self.put_text(row, index, payload),
                None => row.unchanged(),
            },
            Writing::Texts(element) => match self.payload(value) {
                Some(payload) => self.put_texts(row, index, payload, element),
                None => row.unchanged(),
            },
            Writing::Name => {
                let len = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
                self.put_text(row, index, value.get(..len).unwrap_or_default());
            }
            Writing::Send(_) | Writing::Text(_)
                if attribute.len == -1 && matches!(unpack(value), Varlena::Unchanged) =>
            {
                row.unchanged();
            }
            Writing::Send(function) => {
                // SAFETY: the result is a varlena of the current memory context
                put(row, unsafe {
                    detoasted(pg_sys::SendFunctionCall(function, datum(value, attribute)))
                });
            }
            Writing::Text(function) => {
                // SAFETY: the result is a C string of the current memory context
                let text = unsafe {
                    CStr::from_ptr(pg_sys::OutputFunctionCall(function, datum(value, attribute)))
                };
                self.put_text(row, index, text.to_bytes());
            }
        }
    }

    /// The payload of a varlena; `None`: it stays in the TOAST table.
    #[inline]
    fn payload(&self, value: &'a [u8]) -> Option<&'a [u8]> {
        match unpack(value) {
            Varlena::Payload(payload) => Some(payload),
            Varlena::Unchanged => None,
            // SAFETY: a varlena in memory; the result is in the current memory context
            Varlena::Packed => unsafe {
                let value = value.as_ptr().cast_mut().cast();
                Some(detoasted(pg_sys::pg_detoast_datum(value)))
            },
        }
    }

    #[inline]
    fn put_text(&self, row: &mut RowWriter<'_>, index: usize, text: &[u8]) {
        match self.text.utf8(text) {
            Ok(text) => put(row, &text),
            Err(invalid) => self.refuse_text(index, &invalid),
        }
    }

    /// An array of texts in the form of its send function, which would convert by itself.
    fn put_texts(&self, row: &mut RowWriter<'_>, index: usize, array: &[u8], element: Element) {
        let array = Array::from_disk(array, element).unwrap_or_else(|error| unreadable(&error));
        let mut sent = Vec::new();
        // of dimensions, lengths and lower bounds none is over i32::MAX
        sent.extend_from_slice(&(array.dimensions().len() as i32).to_be_bytes());
        sent.extend_from_slice(&i32::from(array.has_nulls()).to_be_bytes());
        sent.extend_from_slice(&array.element_oid().to_be_bytes());
        for dimension in array.dimensions() {
            sent.extend_from_slice(&dimension.len.to_be_bytes());
            sent.extend_from_slice(&dimension.lower_bound.to_be_bytes());
        }
        for element in array.elements() {
            let Some(text) = element.unwrap_or_else(|error| unreadable(&error)) else {
                sent.extend_from_slice(&(-1i32).to_be_bytes());
                continue;
            };
            let text = self.text.utf8(text).unwrap_or_else(|why| self.refuse_text(index, &why));
            memory::make_room(sent.len() + text.len(), |_| sent.try_reserve(text.len()));
            sent.extend_from_slice(&(text.len() as u32).to_be_bytes());
            sent.extend_from_slice(&text);
        }
        put(row, &sent);
    }

    #[cold]
    fn refuse_text(&self, index: usize, why: &Invalid) -> ! {
        // SAFETY: the descriptor has the attribute
        let attribute = unsafe { compat::attributes(self.desc).get(index) };
        let (table, column) = match attribute {
            Some(attribute) => (qualified_name(attribute.attrelid), &attribute.attname),
            None => report::internal(format!("there is no attribute {index}")),
        };
        // SAFETY: names in catalogs are NUL-terminated
        let column = unsafe { CStr::from_ptr(column.data.as_ptr()) }.to_string_lossy();
        let message = format!(
            "column \"{column}\" of table \"{table}\" has text without a UTF-8 form: {why}"
        );
        report::fail(why.code(), message, why.hint())
    }

    /// A column that was added with a default after the tuple was written.
    #[cold]
    fn write_missing(&self, index: usize, attribute: &Attribute, row: &mut RowWriter<'_>) {
        if matches!(attribute.writing, Writing::Skip) {
            return;
        }
        let mut is_null = true;
        // SAFETY: attribute numbers count from 1 and the attribute is in the descriptor; a value by
        // reference lives as long as the descriptor, and has `len` bytes or says so itself
        unsafe {
            let datum = pg_sys::getmissingattr(self.desc, index as i32 + 1, &mut is_null);
            if is_null {
                return row.null();
            }
            let own = datum.value().to_le_bytes();
            let value = if attribute.by_value {
                own.get(..attribute.len as usize).unwrap_or_default()
            } else {
                let from = datum.cast_mut_ptr::<u8>().cast_const();
                let len = match attribute.len {
                    -1 => varlena_len_at(from),
                    -2 => CStr::from_ptr(from.cast()).to_bytes_with_nul().len(),
                    len => len as usize,
                };
                std::slice::from_raw_parts(from, len)
            };
            // the lifetime of `own` ends here, so the row is written here
            Tuple { bytes: value, ..*self }.write_value(value, index, attribute, row);
        }
    }
}

fn unreadable(error: &ValueError) -> ! {
    report::internal(format!("an array cannot be read: {error}"))
}

/// For people: `schema.table`.
fn qualified_name(table: pg_sys::Oid) -> String {
    // SAFETY: lookups by oid; the results are copies in the current memory context, or null
    let names = unsafe {
        [pg_sys::get_namespace_name(pg_sys::get_rel_namespace(table)), pg_sys::get_rel_name(table)]
    };
    let shown = names.iter().filter(|name| !name.is_null()).map(|name| {
        // SAFETY: not null, and NUL-terminated
        unsafe { CStr::from_ptr(*name) }.to_string_lossy().into_owned()
    });
    shown.collect::<Vec<_>>().join(".")
}

#[inline]
fn aligned(at: usize, align: usize) -> usize {
    (at + align - 1) & !(align - 1)
}

/// Writes a value of any length.
#[inline]
fn put(row: &mut RowWriter<'_>, value: &[u8]) {
    memory::make_room(value.len(), |len| row.try_reserve(len));
    row.variable(value);
}

/// The value as an argument of a PostgreSQL function.
///
/// # Safety
/// `value` is one of this attribute.
unsafe fn datum(value: &[u8], attribute: &Attribute) -> pg_sys::Datum {
    if !attribute.by_value {
        return pg_sys::Datum::from(value.as_ptr());
    }
    let mut bytes = [0u8; 8];
    for (to, from) in bytes.iter_mut().zip(value) {
        *to = *from;
    }
    pg_sys::Datum::from(u64::from_le_bytes(bytes) as usize)
}

const TAG_INDIRECT: u8 = 1;
const TAG_ONDISK: u8 = 18;

/// Bytes of a varlena, header included; too many when there is no header.
#[inline]
fn varlena_len(value: &[u8]) -> usize {
    match value {
        [0x01, tag, ..] => external_len(*tag),
        [first, ..] if first & 0x01 != 0 => usize::from(first >> 1),
        [a, b, c, d, ..] => u32::from_le_bytes([*a, *b, *c, *d]) as usize >> 2,
        _ => usize::MAX,
    }
}

/// # Safety
/// `value` points to a varlena.
unsafe fn varlena_len_at(value: *const u8) -> usize {
    // SAFETY: a varlena has a header of one byte, or of four, or of one and a tag
    unsafe {
        let first = *value;
        match first {
            0x01 => external_len(*value.add(1)),
            _ if first & 0x01 != 0 => usize::from(first >> 1),
            _ => value.cast::<u32>().read_unaligned() as usize >> 2,
        }
    }
}

/// Whether a value stays in the TOAST table because an UPDATE did not touch it.
///
/// # Safety
/// `value` points to a varlena.
pub(super) unsafe fn is_unchanged(value: *const u8) -> bool {
    // SAFETY: only a varlena with such a first byte has a tag behind it
    unsafe { *value == 0x01 && *value.add(1) == TAG_ONDISK }
}

/// Two bytes of header, and a pointer into memory or into a TOAST table.
fn external_len(tag: u8) -> usize {
    2 + match tag {
        TAG_ONDISK => size_of::<pg_sys::varatt_external>(),
        _ => size_of::<*const u8>(),
    }
}

/// What there is to see of a whole varlena without asking PostgreSQL. Changed TOAST values come in
/// memory, behind an indirect pointer.
#[inline]
fn unpack(value: &[u8]) -> Varlena<'_> {
    match value {
        [0x01, TAG_ONDISK, ..] => Varlena::Unchanged,
        [0x01, TAG_INDIRECT, pointer @ ..] => match pointer.first_chunk::<8>() {
            // SAFETY: the reorder buffer keeps the value it has put together as long as the tuple
            Some(pointer) => unsafe {
                let target = usize::from_le_bytes(*pointer) as *const u8;
                inline(std::slice::from_raw_parts(target, varlena_len_at(target)))
            },
            None => Varlena::Packed,
        },
        _ => inline(value),
    }
}

#[inline]
fn inline(value: &[u8]) -> Varlena<'_> {
    match value {
        [0x01, ..] => Varlena::Packed,
        [first, payload @ ..] if first & 0x01 != 0 => Varlena::Payload(payload),
        [first, _, _, _, payload @ ..] if first & 0x03 == 0 => Varlena::Payload(payload),
        _ => Varlena::Packed,
    }
}

/// The payload of a varlena with a plain header.
///
/// # Safety
/// `value` points to such a varlena, valid for `'a`.
unsafe fn detoasted<'a>(value: *const pg_sys::varlena) -> &'a [u8] {
    // SAFETY: as promised by the caller
    unsafe {
        let value = value.cast::<u8>();
        match inline(std::slice::from_raw_parts(value, varlena_len_at(value))) {
            Varlena::Payload(payload) => payload,
            _ => report::internal("a value is still compressed".into()),
        }
    }
}
