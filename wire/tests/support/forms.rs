//! `data/text-forms.tsv`: values of every type as a real server sends, stores and writes them.

use rsrepl_wire::text::{Type, oid};
use rsrepl_wire::{Column, Encoding, TypeKind};

use super::element::element_of;
use super::harness::column;

/// One line of the file.
pub struct Case {
    pub line: usize,
    pub type_name: String,
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
        let ty = Type {
            oid: base.parse().unwrap(),
            kind: kind(base_kind),
            element_oid: element.parse().unwrap(),
            element_kind: kind(element_kind),
        };
        let column = column(Encoding::Send, &ty);
        let native = (native != "-").then(|| {
            let native = unhex(native);
            let encoding = match element_of(layout, ty.element_oid) {
                Some(element) => Encoding::Array(element),
                None => native_encoding(ty.oid, &native),
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
