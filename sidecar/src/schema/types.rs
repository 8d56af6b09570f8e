//! Names of types as `format_type` writes them.

use rsrepl_wire::text::oid;
use rsrepl_wire::{Column, Element, ElementEncoding, Encoding, TypeKind};

/// `pg_type.typname`, the name in SQL, `pg_type.oid`, how values come, and `typalign` in bytes.
type BuiltIn = (&'static str, &'static str, u32, Encoding, u8);

const BUILT_IN: &[BuiltIn] = &[
    ("bool", "boolean", oid::BOOL, Encoding::Fixed(1), 1),
    ("int2", "smallint", oid::INT2, Encoding::Fixed(2), 2),
    ("int4", "integer", oid::INT4, Encoding::Fixed(4), 4),
    ("int8", "bigint", oid::INT8, Encoding::Fixed(8), 8),
    ("float4", "real", oid::FLOAT4, Encoding::Fixed(4), 4),
    ("float8", "double precision", oid::FLOAT8, Encoding::Fixed(8), 8),
    ("numeric", "numeric", oid::NUMERIC, Encoding::Numeric, 4),
    ("text", "text", oid::TEXT, Encoding::Varlena, 4),
    ("varchar", "character varying", oid::VARCHAR, Encoding::Varlena, 4),
    ("bpchar", "character", oid::BPCHAR, Encoding::Varlena, 4),
    ("json", "json", oid::JSON, Encoding::Varlena, 4),
    ("jsonb", "jsonb", oid::JSONB, Encoding::Jsonb, 4),
    ("bytea", "bytea", oid::BYTEA, Encoding::Varlena, 4),
    ("uuid", "uuid", oid::UUID, Encoding::Fixed(16), 1),
    ("date", "date", oid::DATE, Encoding::Fixed(4), 4),
    ("time", "time without time zone", oid::TIME, Encoding::Fixed(8), 8),
    ("timetz", "time with time zone", oid::TIMETZ, Encoding::Fixed(12), 8),
    ("timestamp", "timestamp without time zone", oid::TIMESTAMP, Encoding::Fixed(8), 8),
    ("timestamptz", "timestamp with time zone", oid::TIMESTAMPTZ, Encoding::Fixed(8), 8),
    ("interval", "interval", oid::INTERVAL, Encoding::Fixed(16), 8),
    ("oid", "oid", oid::OID, Encoding::Fixed(4), 4),
    ("bit", "bit", oid::BIT, Encoding::Send, 4),
    ("varbit", "bit varying", oid::VARBIT, Encoding::Send, 4),
];

/// `VARHDRSZ`, which some modifiers have added to them.
const HEADER: i32 = 4;

/// The type of a column as `format_type` writes it. Modifiers of types of extensions are not known here,
/// and left out.
pub fn format_type(column: &Column) -> String {
    let built_in = column.type_schema == "pg_catalog";
    let (name, array) = match column.type_name.strip_prefix('_') {
        Some(element) if column.kind == TypeKind::Array => (element, "[]"),
        _ => (column.type_name.as_str(), ""),
    };
    // a domain's modifier is its own
    let typmod = if column.type_oid == column.base_oid { column.typmod } else { -1 };
    if !built_in {
        return format!("{}.{}{array}", quoted(&column.type_schema), quoted(name));
    }
    let found = BUILT_IN.iter().find(|(typname, ..)| *typname == name);
    let sql = match found {
        // without a length it is another type in SQL
        Some(("bpchar", ..)) if typmod < HEADER => "bpchar".to_owned(),
        Some((_, sql, oid, ..)) => with_modifier(sql, *oid, typmod),
        // the one word that is a type in SQL too, and another one
        None if name == "char" => "\"char\"".to_owned(),
        None => quoted(name),
    };
    format!("{sql}{array}")
}

fn with_modifier(sql: &str, type_oid: u32, typmod: i32) -> String {
    if typmod < 0 {
        return sql.to_owned();
    }
    match type_oid {
        oid::VARCHAR | oid::BPCHAR if typmod >= HEADER => format!("{sql}({})", typmod - HEADER),
        oid::BIT | oid::VARBIT => format!("{sql}({typmod})"),
        oid::NUMERIC if typmod >= HEADER => {
            let (precision, scale) = numeric(typmod);
            format!("numeric({precision},{scale})")
        }
        oid::TIME | oid::TIMETZ | oid::TIMESTAMP | oid::TIMESTAMPTZ => match sql.split_once(' ') {
            Some((first, rest)) => format!("{first}({typmod}) {rest}"),
            None => sql.to_owned(),
        },
        _ => sql.to_owned(),
    }
}

/// Precision and scale of a modifier, as `numerictypmodin` packs them.
fn numeric(typmod: i32) -> (i32, i32) {
    (((typmod - HEADER) >> 16) & 0xFFFF, (((typmod - HEADER) & 0x7FF) ^ 1024) - 1024)
}

/// `quote_identifier`, less the reserved words: no type of ours has such a name.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c == '_';
    let simple = name.starts_with(plain) && name.chars().all(|c| plain(c) || c.is_ascii_digit());
    if simple { name.to_owned() } else { crate::quote::identifier(name) }
}

/// A column of the built-in type of this name, as the stream would describe it; `None` for every type whose
/// name alone does not say enough.
pub fn built_in(type_name: &str) -> Option<Column> {
    let (single, is_array) = match type_name.strip_suffix("[]") {
        Some(element) => (element, true),
        None => (type_name, false),
    };
    let (name, modifier) = cut_modifier(single)?;
    let &(typname, _, type_oid, encoding, align) =
        BUILT_IN.iter().find(|(_, sql, ..)| *sql == name)?;
    let typmod = match (type_oid, modifier.as_slice()) {
        (_, []) => -1,
        (oid::NUMERIC, [precision, scale]) => {
            (precision.checked_shl(16)? | scale & 0x7FF).checked_add(HEADER)?
        }
        (oid::VARCHAR | oid::BPCHAR, [length]) => length.checked_add(HEADER)?,
        (_, [modifier]) => *modifier,
        _ => return None,
    };
    let element = ElementEncoding::from_encoding(encoding);
    let (kind, encoding) = match (is_array, element) {
        (false, _) => (TypeKind::Base, encoding),
        (true, Some(encoding)) => (TypeKind::Array, Encoding::Array(Element { encoding, align })),
        (true, None) => (TypeKind::Array, Encoding::Send),
    };
    let own = if is_array { 0 } else { type_oid };
    Some(Column {
        name: String::new(),
        number: 0,
        key: false,
        not_null: false,
        generated: false,
        type_oid: own,
        base_oid: own,
        typmod,
        kind,
        element_oid: if is_array { type_oid } else { 0 },
        element_kind: TypeKind::Base,
        type_schema: "pg_catalog".to_owned(),
        type_name: if is_array { format!("_{typname}") } else { typname.to_owned() },
        encoding,
    })
}

/// `timestamp(3) with time zone` as its name without and the numbers of its modifier.
fn cut_modifier(name: &str) -> Option<(String, Vec<i32>)> {
    let Some((before, rest)) = name.split_once('(') else {
        return Some((name.to_owned(), Vec::new()));
    };
    let (inner, after) = rest.split_once(')')?;
    let numbers = inner.split(',').map(|n| n.trim().parse().ok()).collect::<Option<Vec<_>>>()?;
    Some((format!("{before}{after}"), numbers))
}

/// Whether each value of the one type is a value of the other, and the same: such a change of a column
/// needs nothing but its new type.
pub fn widens(from: &str, to: &str) -> bool {
    if from == to {
        return true;
    }
    let (Some(from), Some(to)) = (built_in(from), built_in(to)) else { return false };
    if from.kind != TypeKind::Base || to.kind != TypeKind::Base {
        return false;
    }
    let unlimited = to.typmod < 0;
    match (from.base_oid, to.base_oid) {
        (oid::INT2, oid::INT4 | oid::INT8) | (oid::INT4, oid::INT8) => true,
        (oid::INT2 | oid::INT4 | oid::INT8, oid::NUMERIC) => unlimited,
        (oid::FLOAT4, oid::FLOAT8) => true,
        (oid::VARCHAR, oid::TEXT) => true,
        (oid::TEXT | oid::VARCHAR, oid::VARCHAR) => {
            unlimited || from.base_oid == oid::VARCHAR && (0..=to.typmod).contains(&from.typmod)
        }
        (oid::NUMERIC, oid::NUMERIC) => {
            let ((digits, scale), (more, same)) = (numeric(from.typmod), numeric(to.typmod));
            unlimited || from.typmod >= HEADER && scale == same && more >= digits
        }
        (a, b) => {
            a == b && unlimited && matches!(a, oid::VARBIT | oid::TIMESTAMP | oid::TIMESTAMPTZ)
        }
    }
}

/// Whether a type that [`format_type`] wrote may be the one of this full name: of some types it cannot
/// write the modifier.
pub(super) fn may_be_same(full: &str, formatted: &str) -> bool {
    // `quote_identifier` quotes keywords, and format_type here does not know them
    let bare = |name: &str| {
        let plain = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_' | '.' | '"' | '[' | ']');
        if name.chars().all(plain) { name.replace('"', "") } else { name.to_owned() }
    };
    let (full, formatted) = (bare(full), bare(formatted));
    let (full, formatted) = (full.as_str(), formatted.as_str());
    let head = |name: &str| name.split('(').next().unwrap_or_default().to_owned();
    let tail = |name: &str| name.ends_with("[]");
    if full.starts_with("interval") && formatted.starts_with("interval") {
        return tail(full) == tail(formatted);
    }
    let modified =
        built_in(formatted).is_some_and(|column| column.typmod >= 0) || built_in(full).is_some();
    full == formatted
        || !modified
            && head(full).trim_end_matches("[]") == head(formatted).trim_end_matches("[]")
            && tail(full) == tail(formatted)
}
