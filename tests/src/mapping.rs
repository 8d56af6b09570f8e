//! Texts that are equal exactly when a value of PostgreSQL and its image in ClickHouse are, under
//! `docs/type-mapping.md`.
//!
//! Each function makes an SQL expression of type text, never NULL and never with a line break. Floats
//! are shown by their bits, times as microseconds, strings as hexadecimal digits or, when long, as
//! their MD5.

use crate::clickhouse::ClickHouse;
use crate::compare::Column;

/// Longer strings are compared by checksum.
const PLAIN_BYTES: usize = 64;

/// Names and types of a ClickHouse table's columns.
pub fn clickhouse_types(server: &ClickHouse, table: &str) -> Vec<(String, String)> {
    let described = server.query(&format!("DESCRIBE TABLE {table} FORMAT TabSeparatedRaw"));
    let mut types = Vec::new();
    for line in described.lines() {
        let mut fields = line.split('\t');
        if let (Some(name), Some(type_name)) = (fields.next(), fields.next()) {
            types.push((name.to_owned(), type_name.to_owned()));
        }
    }
    types
}

/// What became of values that ClickHouse's type cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrepresentable {
    /// There were none.
    None,
    /// NULL, and the empty array.
    Null,
}

/// The source's side.
pub fn source_text(column: &Column, target_type: &str, policy: Unrepresentable) -> String {
    let name = format!("\"{}\"", column.name);
    let text = source_value(&name, &column.type_name, target_type, policy);
    format!("coalesce({text}, 'NULL')")
}

/// ClickHouse's side.
pub fn target_text(column: &Column, target_type: &str) -> String {
    let name = format!("`{}`", column.name);
    format!("ifNull({}, 'NULL')", target_value(&name, target_type))
}

fn source_value(
    value: &str,
    source_type: &str,
    target_type: &str,
    policy: Unrepresentable,
) -> String {
    let target = bare(target_type);
    if let Some(element) = inner(target, "Array(") {
        let source_element = source_type.trim_end_matches("[]");
        let text = source_value("e", source_element, element, policy);
        let text = format!(
            "'[' || coalesce((SELECT string_agg(coalesce({text}, 'NULL'), ',' ORDER BY n)
             FROM unnest({value}) WITH ORDINALITY AS u(e, n)), '') || ']'"
        );
        return match policy {
            Unrepresentable::None => format!("CASE WHEN {value} IS NOT NULL THEN {text} END"),
            Unrepresentable::Null => format!(
                "CASE WHEN array_ndims({value}) = 1 AND array_lower({value}, 1) = 1 THEN {text} ELSE '[]' END"
            ),
        };
    }
    let text = exact_value(value, source_type, target);
    match (policy, representable(value, target)) {
        (Unrepresentable::Null, Some(condition)) => {
            format!("CASE WHEN {condition} THEN {text} END")
        }
        _ => text,
    }
}

/// A condition for a value that the target's type can hold, if there are others.
fn representable(value: &str, target: &str) -> Option<String> {
    Some(match head(target) {
        "Date32" => format!("{value} BETWEEN '0001-01-01' AND '9999-12-31'"),
        "DateTime64" => {
            format!("{value} BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00'")
        }
        "Decimal" => format!("{value}::text NOT IN ('NaN', 'Infinity', '-Infinity')"),
        _ => return None,
    })
}

fn exact_value(value: &str, source_type: &str, target: &str) -> String {
    match head(target) {
        "Bool" => format!("CASE {value} WHEN true THEN 'true' WHEN false THEN 'false' END"),
        "Float32" => format!("encode(float4send({value}), 'hex')"),
        "Float64" => format!("encode(float8send({value}), 'hex')"),
        "Date32" | "Date" => format!("({value} - date '1970-01-01')::text"),
        "DateTime64" => format!("(extract(epoch FROM {value}) * 1000000)::bigint::text"),
        "Time64" => format!("(extract(epoch FROM {value}) * 1000000)::bigint::text"),
        "String" | "FixedString" if source_type == "bytea" => {
            shortened_source(&format!("encode({value}, 'hex')"), value)
        }
        "String" | "FixedString" | "JSON" => {
            let bytes = format!("convert_to({}, 'UTF8')", text_form(value));
            shortened_source(&format!("encode({bytes}, 'hex')"), &bytes)
        }
        "Decimal" => format!("trim_scale({value})::text"),
        // integers, uuid: PostgreSQL's text is canonical
        _ => format!("{value}::text"),
    }
}

/// What the type's output function says. A cast to text says something else for some types: it takes
/// the padding of char(n) away, and gives a plain inet its /32. A composite value with a NULL in it is
/// neither NULL nor NOT NULL to SQL, but it is counted.
fn text_form(value: &str) -> String {
    format!("CASE WHEN num_nonnulls({value}) = 1 THEN format('%s', {value}) END")
}

fn shortened_source(hex: &str, bytes: &str) -> String {
    format!(
        "CASE WHEN octet_length({bytes}) > {PLAIN_BYTES} THEN 'm' || md5({bytes}) ELSE 'x' || {hex} END"
    )
}

fn target_value(value: &str, target_type: &str) -> String {
    let target = bare(target_type);
    if let Some(element) = inner(target, "Array(") {
        let text = target_value("e", element);
        return format!(
            "concat('[', arrayStringConcat(arrayMap(e -> ifNull({text}, 'NULL'), {value}), ','), ']')"
        );
    }
    match head(target) {
        "Float32" => format!("leftPad(lower(hex(reinterpretAsUInt32({value}))), 8, '0')"),
        "Float64" => format!("leftPad(lower(hex(reinterpretAsUInt64({value}))), 16, '0')"),
        "Date32" | "Date" => format!("toString(toInt32({value}))"),
        "DateTime64" => format!("toString(toUnixTimestamp64Micro({value}))"),
        // without zeros at the end
        "Decimal" => format!("toString({value})"),
        "String" | "FixedString" => shortened_target(value),
        "JSON" => shortened_target(&format!("toString({value})")),
        _ => format!("toString({value})"),
    }
}

fn shortened_target(text: &str) -> String {
    format!(
        "if(length({text}) > {PLAIN_BYTES}, concat('m', lower(hex(MD5({text})))), concat('x', lower(hex({text}))))"
    )
}

/// A ClickHouse type without the wrappers that do not change how a value looks.
fn bare(target_type: &str) -> &str {
    for wrapper in ["Nullable(", "LowCardinality("] {
        if let Some(inside) = inner(target_type, wrapper) {
            return bare(inside);
        }
    }
    target_type
}

fn inner<'a>(target_type: &'a str, wrapper: &str) -> Option<&'a str> {
    target_type.strip_prefix(wrapper)?.strip_suffix(')')
}

fn head(target_type: &str) -> &str {
    target_type.split('(').next().unwrap_or(target_type)
}

#[cfg(test)]
mod tests {
    use super::{bare, head, inner};

    #[test]
    fn types_are_taken_apart() {
        assert_eq!(bare("LowCardinality(Nullable(String))"), "String");
        assert_eq!(inner("Array(Nullable(Int32))", "Array("), Some("Nullable(Int32)"));
        assert_eq!(head("DateTime64(6, 'UTC')"), "DateTime64");
    }
}
