//! The canonical text of a value, in PostgreSQL and in ClickHouse; and a row's hash.

use super::{Form, Range};
use crate::target::clickhouse::{ColumnType, Scalar};

impl Form {
    /// Arguments of PostgreSQL's `concat`, which passes over NULLs. `utf8`: the database is.
    pub fn in_postgres(&self, value: &str, utf8: bool) -> String {
        let length = |text: &str| match utf8 {
            true => format!("octet_length({text})"),
            false => format!("octet_length(convert_to({text}, 'UTF8'))"),
        };
        match self {
            Form::Plain => value.to_owned(),
            Form::Sent(function) => format!("encode({function}({value}), 'hex')"),
            Form::Number => format!("trim_scale({value})"),
            Form::Text if utf8 => format!("octet_length({value}), ':', {value}"),
            // a cast of char(n) to text would take its blanks away
            Form::Text => format!(
                "CASE WHEN {value} IS NOT NULL THEN {} END, ':', {value}",
                length(&format!("concat({value})"))
            ),
            Form::Bytes => format!("octet_length({value}), ':', encode({value}, 'hex')"),
            // a composite value with a NULL in it is neither NULL nor NOT NULL, but it is counted
            Form::Output => format!(
                "CASE WHEN num_nonnulls({value}) = 1 THEN {} END, ':', {value}",
                length(&format!("concat({value})"))
            ),
            Form::Host => format!("host({value})"),
            Form::Lsn => format!("{value} - '0/0'::pg_lsn"),
            Form::Point => format!("encode(point_send({value}), 'hex')"),
            Form::Array(element, others_are_empty) => {
                let text = format!(
                    "concat('[', (SELECT string_agg(concat({}, ';'), '' ORDER BY n) \
                     FROM unnest({value}) WITH ORDINALITY AS u (e, n)), ']')",
                    element.in_postgres("e", utf8)
                );
                match others_are_empty {
                    false => format!("CASE WHEN {value} IS NOT NULL THEN {text} END"),
                    true => format!(
                        "CASE WHEN array_ndims({value}) = 1 AND array_lower({value}, 1) = 1 \
                         THEN {text} ELSE '[]' END"
                    ),
                }
            }
            Form::Within(form, range) => format!(
                "CASE WHEN {} THEN concat({}) END",
                range.condition(value),
                form.in_postgres(value, utf8)
            ),
        }
    }

    /// The same text as an expression of ClickHouse, never NULL.
    pub(crate) fn in_clickhouse(&self, value: &str, ty: &ColumnType) -> String {
        match (self, ty) {
            (Form::Array(element, _), ColumnType::Array(scalar)) => format!(
                "concat('[', arrayStringConcat(arrayMap(e -> concat({}, ';'), {value})), ']')",
                element.or_null("e", scalar)
            ),
            (Form::Point, ColumnType::Point(_)) => {
                let bits = |n: u8| {
                    let coordinate = format!("tupleElement({value}, {n})");
                    format!("ifNull({}, '')", Form::Sent("").text_of(&coordinate, &Scalar::Float64))
                };
                format!("concat({}, {})", bits(1), bits(2))
            }
            (_, ColumnType::Plain(scalar)) => self.text_of(value, scalar),
            (_, ColumnType::Nullable(scalar)) => self.or_null(value, scalar),
            _ => "''".to_owned(),
        }
    }

    fn or_null(&self, value: &str, scalar: &Scalar) -> String {
        let null = match self {
            Form::Text | Form::Bytes | Form::Output => "':'",
            _ => "''",
        };
        format!("ifNull({}, {null})", self.text_of(value, scalar))
    }

    fn text_of(&self, value: &str, scalar: &Scalar) -> String {
        let bits = |width: u8, value: &str| {
            let digits = width / 4;
            format!("leftPad(lower(hex(reinterpretAsUInt{width}({value}))), {digits}, '0')")
        };
        // PostgreSQL counts from 2000-01-01
        let micros = |value: &str| bits(64, &format!("toInt64({value} - 946684800000000)"));
        match (self, scalar) {
            (Form::Within(form, _), _) => form.text_of(value, scalar),
            // not by `if`, to which NULL is false
            (Form::Plain, Scalar::Bool) => format!("substring('ft', toUInt8({value}) + 1, 1)"),
            (Form::Sent(_), Scalar::Float32) => bits(32, value),
            (Form::Sent(_), Scalar::Float64) => bits(64, value),
            (Form::Sent(_), Scalar::Date32 | Scalar::Date) => {
                bits(32, &format!("toInt32(toInt32({value}) - 10957)"))
            }
            (Form::Sent(_), Scalar::DateTime64(6)) => {
                micros(&format!("toUnixTimestamp64Micro({value})"))
            }
            (Form::Sent(_), Scalar::DateTime64(_)) => {
                micros(&format!("toUnixTimestamp64Micro(toDateTime64({value}, 6, 'UTC'))"))
            }
            (Form::Sent(_), Scalar::DateTime) => {
                micros(&format!("toInt64(toUnixTimestamp({value})) * 1000000"))
            }
            (Form::Bytes, _) => {
                format!("concat(toString(length({value})), ':', lower(hex({value})))")
            }
            (Form::Text | Form::Output, Scalar::Enum8(_) | Scalar::Enum16(_)) => {
                format!("concat(toString(length(toString({value}))), ':', toString({value}))")
            }
            (Form::Text | Form::Output, _) => {
                format!("concat(toString(length({value})), ':', {value})")
            }
            _ => format!("toString({value})"),
        }
    }
}

impl Range {
    pub(super) fn condition(self, value: &str) -> String {
        match self {
            Range::Dates => format!("{value} BETWEEN '0001-01-01' AND '9999-12-31'"),
            Range::Times => format!(
                "{value} BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00'"
            ),
            Range::Numbers => format!("{value}::text NOT IN ('NaN', 'Infinity', '-Infinity')"),
        }
    }
}

/// Arguments of `concat`: a function has a hundred at most, and a form has three.
const CONCAT_MAX: usize = 24;

/// 64 bits of the MD5 of a row, in PostgreSQL; `columns`: quoted names with their forms.
pub fn hash_in_postgres(columns: &[(String, Form)], utf8: bool) -> String {
    let parts = columns.chunks(CONCAT_MAX).map(|part| {
        let texts: Vec<_> = part.iter().map(|(name, form)| form.in_postgres(name, utf8)).collect();
        format!("concat({})", texts.join(", ',', "))
    });
    let parts: Vec<String> = parts.collect();
    let row = match parts.as_slice() {
        [] => "''::text".to_owned(),
        [only] => only.clone(),
        parts => format!("concat_ws(',', {})", parts.join(", ")),
    };
    let row = if utf8 { row } else { format!("convert_to({row}, 'UTF8')") };
    format!("('x' || md5({row}))::bit(64)::bigint")
}

/// The same in ClickHouse; of the columns their expressions.
pub fn hash_in_clickhouse(texts: &[String]) -> String {
    let row = match texts {
        [] => "''".to_owned(),
        [only] => only.clone(),
        texts => format!("concat({})", texts.join(", ',', ")),
    };
    format!("reinterpretAsInt64(reverse(substring(MD5({row}), 1, 8)))")
}
