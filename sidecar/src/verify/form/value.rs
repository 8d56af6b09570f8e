//! Values as they are sent again: read as texts from PostgreSQL, written as literals of ClickHouse.

use super::Form;
use crate::target::clickhouse::{self, Scalar};

impl Form {
    /// A text of PostgreSQL that [`literal`](Self::literal) takes; of an array a list of them.
    pub fn value_in_postgres(&self, value: &str) -> String {
        match self {
            Form::Plain | Form::Text | Form::Output => {
                format!("CASE WHEN num_nonnulls({value}) = 1 THEN concat({value}) END")
            }
            Form::Bytes => format!("encode({value}, 'hex')"),
            Form::Array(element, others_are_empty) => {
                let list = format!(
                    "ARRAY(SELECT {} FROM unnest({value}) WITH ORDINALITY AS u (e, n) ORDER BY n)",
                    element.value_in_postgres("e")
                );
                match others_are_empty {
                    false => list,
                    true => format!(
                        "CASE WHEN array_ndims({value}) = 1 AND array_lower({value}, 1) = 1 \
                         THEN {list} ELSE '{{}}' END"
                    ),
                }
            }
            Form::Within(form, range) => format!(
                "CASE WHEN {} THEN {} END",
                range.condition(value),
                form.value_in_postgres(value)
            ),
            // numbers: their text
            Form::Lsn => format!("({})::text", self.in_postgres(value, true)),
            Form::Number | Form::Host => format!("{}::text", self.in_postgres(value, true)),
            Form::Sent(_) | Form::Point => self.in_postgres(value, true),
        }
    }

    /// A value that is there, as ClickHouse reads it.
    pub(crate) fn literal(&self, text: &str, scalar: &Scalar) -> String {
        let quoted = clickhouse::literal(text);
        let bits = |ty: &str| format!("reinterpretAs{ty}(reverse(unhex({quoted})))");
        let name = clickhouse::literal(&scalar.to_string());
        match (self, scalar) {
            (Form::Within(form, _), _) => form.literal(text, scalar),
            (Form::Bytes, _) => format!("unhex({quoted})"),
            (Form::Sent(_), Scalar::Float32) => bits("Float32"),
            (Form::Sent(_), Scalar::Float64) => bits("Float64"),
            (Form::Sent(_), Scalar::Date32 | Scalar::Date) => {
                format!("CAST(toInt32({} + 10957), {name})", bits("Int32"))
            }
            (Form::Sent(_), _) => format!(
                "CAST(fromUnixTimestamp64Micro({} + 946684800000000, 'UTC'), {name})",
                bits("Int64")
            ),
            (_, Scalar::Bool) => format!("CAST({quoted} = 't', 'Bool')"),
            (_, Scalar::String | Scalar::LowCardinality) => quoted,
            _ => format!("CAST({quoted}, {name})"),
        }
    }
}
