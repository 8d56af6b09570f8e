//! The names of [`ColumnType`]s: as they are written in CREATE TABLE, and read from the configuration and
//! from `system.columns`.

use std::fmt;

use super::labels::Labels;
use super::types::{ColumnType, DECIMAL_PRECISION_MAX, Scalar};

/// The types whose names are a word.
const WORDS: &[(&str, Scalar)] = &[
    ("Bool", Scalar::Bool),
    ("Int8", Scalar::Int8),
    ("Int16", Scalar::Int16),
    ("Int32", Scalar::Int32),
    ("Int64", Scalar::Int64),
    ("Int128", Scalar::Int128),
    ("Int256", Scalar::Int256),
    ("UInt8", Scalar::UInt8),
    ("UInt16", Scalar::UInt16),
    ("UInt32", Scalar::UInt32),
    ("UInt64", Scalar::UInt64),
    ("UInt128", Scalar::UInt128),
    ("UInt256", Scalar::UInt256),
    ("Float32", Scalar::Float32),
    ("Float64", Scalar::Float64),
    ("String", Scalar::String),
    ("LowCardinality(String)", Scalar::LowCardinality),
    ("Date", Scalar::Date),
    ("Date32", Scalar::Date32),
    ("DateTime('UTC')", Scalar::DateTime),
    ("UUID", Scalar::Uuid),
    ("IPv4", Scalar::Ipv4),
    ("IPv6", Scalar::Ipv6),
    ("JSON", Scalar::Json),
];

/// Digits behind the point of a DateTime64.
const PRECISION_MAX: u8 = 9;

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Decimal(precision, scale) => write!(f, "Decimal({precision}, {scale})"),
            Scalar::DateTime64(precision) => write!(f, "DateTime64({precision}, 'UTC')"),
            Scalar::Enum8(labels) => write!(f, "Enum8({labels})"),
            Scalar::Enum16(labels) => write!(f, "Enum16({labels})"),
            _ => f.write_str(WORDS.iter().find(|(_, s)| s == self).map_or("?", |(name, _)| name)),
        }
    }
}

impl fmt::Display for ColumnType {
    /// As written in CREATE TABLE.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ColumnType::Plain(scalar) => scalar.fmt(f),
            ColumnType::Nullable(Scalar::LowCardinality) => {
                f.write_str("LowCardinality(Nullable(String))")
            }
            ColumnType::Nullable(scalar) => write!(f, "Nullable({scalar})"),
            ColumnType::Array(scalar) => write!(f, "Array(Nullable({scalar}))"),
            ColumnType::Matrix(scalar) => write!(f, "Array(Array(Nullable({scalar})))"),
            ColumnType::Point(false) => f.write_str("Tuple(Float64, Float64)"),
            ColumnType::Point(true) => f.write_str("Tuple(Nullable(Float64), Nullable(Float64))"),
        }
    }
}

impl ColumnType {
    /// The type of this name; `None`: not one that columns get here. Time zones are a matter of display
    /// only, and dropped.
    pub(crate) fn parse(name: &str) -> Option<ColumnType> {
        let name = name.trim();
        if let Some(inner) = inside(name, "Array") {
            return match inside(inner, "Array") {
                Some(inner) => inside(inner, "Nullable").and_then(scalar).map(ColumnType::Matrix),
                None => inside(inner, "Nullable").and_then(scalar).map(ColumnType::Array),
            };
        }
        if let Some(inner) = inside(name, "Tuple") {
            let elements: Vec<&str> = inner.split(',').map(str::trim).collect();
            return match elements.as_slice() {
                ["Float64", "Float64"] => Some(ColumnType::Point(false)),
                ["Nullable(Float64)", "Nullable(Float64)"] => Some(ColumnType::Point(true)),
                _ => None,
            };
        }
        if let Some(inner) = inside(name, "LowCardinality").and_then(|n| inside(n, "Nullable")) {
            return (inner == "String").then_some(ColumnType::Nullable(Scalar::LowCardinality));
        }
        match inside(name, "Nullable") {
            Some(inner) => scalar(inner).map(ColumnType::Nullable),
            None => scalar(name).map(ColumnType::Plain),
        }
    }

    /// Whether the server's name of a type stands for this one, as far as `RowBinary` can tell:
    /// LowCardinality is a matter of storage only.
    pub(super) fn matches(&self, server: &str) -> bool {
        let string = |scalar: Scalar| match scalar {
            Scalar::LowCardinality => Scalar::String,
            scalar => scalar,
        };
        let plain = |ty: ColumnType| match ty {
            ColumnType::Plain(scalar) => ColumnType::Plain(string(scalar)),
            ColumnType::Nullable(scalar) => ColumnType::Nullable(string(scalar)),
            ty => ty,
        };
        ColumnType::parse(server).is_some_and(|found| plain(found) == plain(self.clone()))
    }
}

/// What is between the parentheses of `wrapper(…)`.
fn inside<'a>(name: &'a str, wrapper: &str) -> Option<&'a str> {
    let rest = name.strip_prefix(wrapper)?.trim_start();
    rest.strip_prefix('(')?.strip_suffix(')').map(str::trim)
}

fn scalar(name: &str) -> Option<Scalar> {
    if let Some((_, scalar)) = WORDS.iter().find(|(word, _)| *word == name) {
        return Some(scalar.clone());
    }
    if inside(name, "LowCardinality") == Some("String") {
        return Some(Scalar::LowCardinality);
    }
    if name == "DateTime" || inside(name, "DateTime").is_some_and(is_zone) {
        return Some(Scalar::DateTime);
    }
    if let Some(inner) = inside(name, "DateTime64") {
        let (precision, zone) = inner.split_once(',').unwrap_or((inner, "''"));
        let precision = precision.trim().parse().ok().filter(|p| *p <= PRECISION_MAX)?;
        return is_zone(zone.trim()).then_some(Scalar::DateTime64(precision));
    }
    if let Some(inner) = inside(name, "Decimal") {
        let (precision, scale) = inner.split_once(',').unwrap_or((inner, "0"));
        let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
        let fits = (1..=DECIMAL_PRECISION_MAX).contains(&precision) && scale <= precision;
        return fits.then_some(Scalar::Decimal(precision, scale));
    }
    if let Some(inner) = inside(name, "Enum8") {
        return labels(inner).filter(Labels::fit_a_byte).map(Scalar::Enum8);
    }
    inside(name, "Enum16").and_then(labels).map(Scalar::Enum16)
}

fn is_zone(text: &str) -> bool {
    text.len() >= 2 && text.starts_with('\'') && text.ends_with('\'')
}

/// `'a' = 1, 'b' = 2`
fn labels(mut text: &str) -> Option<Labels> {
    let mut pairs = Vec::new();
    loop {
        let (label, rest) = literal(text.trim_start())?;
        let rest = rest.trim_start().strip_prefix('=')?;
        let (number, rest) = rest.split_once(',').map_or((rest, None), |(n, rest)| (n, Some(rest)));
        pairs.push((label, number.trim().parse().ok()?));
        match rest {
            Some(rest) => text = rest,
            None => return Labels::new(pairs),
        }
    }
}

/// A literal in quotes, with backslashes before quotes and backslashes, and what follows it.
fn literal(text: &str) -> Option<(String, &str)> {
    let mut label = String::new();
    let mut chars = text.strip_prefix('\'')?.chars();
    loop {
        match chars.next()? {
            '\'' => return Some((label, chars.as_str())),
            '\\' => label.push(match chars.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '0' => '\0',
                'b' => '\u{8}',
                'f' => '\u{c}',
                other => other,
            }),
            other => label.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_the_server_writes_them() {
        let date = ColumnType::Nullable(Scalar::DateTime64(6));
        assert_eq!(date.to_string(), "Nullable(DateTime64(6, 'UTC'))");
        assert!(date.matches("Nullable(DateTime64(6, 'Europe/Berlin'))"));
        assert!(date.matches("Nullable(DateTime64(6))"));
        assert!(!date.matches("Nullable(DateTime64(3, 'UTC'))"));
        assert!(!date.matches("DateTime64(6, 'UTC')"));
        let label = ColumnType::Nullable(Scalar::LowCardinality);
        assert!(label.matches("Nullable(String)"));
        assert!(label.matches("LowCardinality(Nullable(String))"));
        assert!(ColumnType::Plain(Scalar::String).matches("LowCardinality(String)"));
        assert!(ColumnType::Plain(Scalar::Decimal(12, 2)).matches("Decimal(12, 2)"));
        assert!(!ColumnType::Plain(Scalar::String).matches("FixedString(3)"));
        assert_eq!(ColumnType::Array(Scalar::Uuid).to_string(), "Array(Nullable(UUID))");
    }

    #[test]
    fn every_name_is_read_as_it_is_written() {
        let enums = ["Enum8('a b' = -2, 'it\\'s, = 5' = 1)", "Enum16('' = 0, 'x\\\\' = 30000)"];
        let more = ["Decimal(76, 20)", "DateTime64(9, 'UTC')", enums[0], enums[1]];
        let scalars = WORDS.iter().map(|(name, _)| *name).chain(more);
        for name in scalars {
            let nullable = format!("Nullable({name})");
            for name in [name, &nullable, &format!("Array({nullable})")] {
                let ty = ColumnType::parse(name).unwrap_or_else(|| panic!("{name}"));
                let again = ty.to_string();
                assert!(again == name || again == "LowCardinality(Nullable(String))", "{again}");
            }
        }
        for name in [
            "Array(Array(Nullable(Int32)))",
            "Tuple(Float64, Float64)",
            "Tuple(Nullable(Float64), Nullable(Float64))",
            "LowCardinality(Nullable(String))",
        ] {
            assert_eq!(ColumnType::parse(name).map(|ty| ty.to_string()).as_deref(), Some(name));
        }
    }

    #[test]
    fn other_names_are_none() {
        for name in [
            "",
            "int",
            "Int32)",
            "Nullable(Array(Int8))",
            "Array(Int32)",
            "Decimal(77, 0)",
            "Decimal(3, 4)",
            "Decimal",
            "DateTime64",
            "DateTime64(10)",
            "DateTime64(6, UTC)",
            "Enum8()",
            "Enum8('a' = 1, 'a' = 2)",
            "Enum8('a' = 1, 'b' = 1)",
            "Enum8('a' = 200)",
            "Enum8('a')",
            "Enum8('a' = 1,)",
            "Map(String, String)",
            "Tuple(Float64)",
            "Nullable(Nullable(Int8))",
        ] {
            assert_eq!(ColumnType::parse(name), None, "{name}");
        }
    }
}
