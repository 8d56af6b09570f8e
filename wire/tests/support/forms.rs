//! `data/text-forms.tsv`: values of every type as a real server sends, stores and writes them. The
//! sidecar's tests read it with this file too.

use rsrepl_wire::text::oid;
use rsrepl_wire::{Column, Element, ElementEncoding, Encoding, TypeKind};

/// One line of the file.
pub struct Case {
    /// For messages; not every reader has any.
    #[allow(dead_code)]
    pub line: usize,
    #[allow(dead_code)]
    pub type_name: String,
    /// With [`Encoding::Send`].
    pub column: Column,
    /// As on the heap page, with the encoding that says so, for the types that are sent so.
    pub native: Option<(Encoding, Vec<u8>)>,
    pub send: Vec<u8>,
    pub text: String,
}

pub fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// The escapes of COPY that the file has.
fn unescape(field: &str) -> String {
    let mut text = String::new();
    let mut chars = field.chars();
    while let Some(char) = chars.next() {
        text.push(match char {
            '\\' => match chars.next().unwrap() {
                't' => '\t',
                'n' => '\n',
                'r' => '\r',
                'v' => '\u{b}',
                'f' => '\u{c}',
                '\\' => '\\',
                other => panic!("escape {other:?}"),
            },
            other => other,
        });
    }
    text
}

fn kind(field: &str) -> TypeKind {
    TypeKind::from_byte(field.as_bytes()[0]).unwrap()
}

pub fn cases() -> Vec<Case> {
    let file = include_str!("../data/text-forms.tsv");
    let parse = |(index, line): (usize, &str)| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [type_name, base, base_kind, element, element_kind, native, send, text, layout] =
            fields[..]
        else {
            panic!("line {}: {} fields", index + 1, fields.len())
        };
        let (base_oid, element_oid) = (base.parse().unwrap(), element.parse().unwrap());
        let column = Column {
            name: "v".into(),
            number: 1,
            key: false,
            not_null: false,
            generated: false,
            type_oid: base_oid,
            base_oid,
            typmod: -1,
            kind: kind(base_kind),
            element_oid,
            element_kind: kind(element_kind),
            type_schema: "pg_catalog".into(),
            type_name: type_name.into(),
            encoding: Encoding::Send,
        };
        let native = (native != "-").then(|| {
            let native = unhex(native);
            let encoding = match element_of(layout, element_oid) {
                Some(element) => Encoding::Array(element),
                None => native_encoding(base_oid, &native),
            };
            (encoding, native)
        });
        Case {
            line: index + 1,
            type_name: type_name.into(),
            column,
            native,
            send: unhex(send),
            text: unescape(text),
        }
    };
    file.lines().enumerate().map(parse).collect()
}

/// How the plugin sends a type that is no array and whose native bytes the file has.
fn native_encoding(base_oid: u32, value: &[u8]) -> Encoding {
    match base_oid {
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::JSON | oid::XML | oid::NAME | oid::BYTEA => {
            Encoding::Varlena
        }
        oid::NUMERIC => Encoding::Numeric,
        oid::JSONB => Encoding::Jsonb,
        _ => Encoding::Fixed(u8::try_from(value.len()).unwrap()),
    }
}

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
