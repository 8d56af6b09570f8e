//! The last field of `data/text-forms.tsv`; the sidecar's tests read it too.

use rsrepl_wire::text::oid;
use rsrepl_wire::{Element, ElementEncoding};

/// How elements of a built-in type lie in an array, by their length and alignment in `pg_type`;
/// `None` when such arrays are sent otherwise.
pub fn element_of(layout: &str, element_oid: u32) -> Option<Element> {
    let (len, align) = layout.split_at_checked(layout.len().checked_sub(1)?)?;
    let encoding = match (len.parse::<i16>().ok()?, element_oid) {
        (-1, oid::NUMERIC) => ElementEncoding::Numeric,
        (-1, oid::JSONB) => ElementEncoding::Jsonb,
        (-1, _) => ElementEncoding::Varlena,
        (width, _) => ElementEncoding::Fixed(u8::try_from(width).unwrap()),
    };
    let align = match align {
        "d" => 8,
        "i" => 4,
        "s" => 2,
        _ => 1,
    };
    Some(Element { encoding, align })
}
