//! The canonical form of values: texts that are equal exactly when a value of PostgreSQL and its image are.
//!
//! Each column has a [`Form`], from which both expressions come: the one for PostgreSQL (source and
//! targets) and the one for the type that the column truly has in ClickHouse. The texts of a row stand one
//! after the other with commas between them; what may hold a comma has its length in bytes before it, and
//! NULL looks like no value. So rows are equal exactly when their texts are.
//!
//! The cheap forms matter, as each row is read on the source while it works: numbers as they are shown,
//! dates, times and floats by their bits.

use rsrepl_wire::text::oid;
use rsrepl_wire::{Column, TypeKind};

use crate::target::clickhouse::{self, ColumnType, ImageColumn, Scalar};

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// What the output function says; never empty, without commas.
    Plain,
    /// The bytes of the type's send function, which has this name.
    Sent(&'static str),
    /// A numeric without zeros at the end.
    Number,
    /// A text as it is.
    Text,
    Bytes,
    /// What the output function says, of any other type.
    Output,
    /// An address without a netmask.
    Host,
    /// A place in the WAL as a number.
    Lsn,
    /// The bits of both coordinates.
    Point,
    /// An array of one dimension; `true`: others are empty there.
    Array(Box<Form>, bool),
    /// NULL outside of what ClickHouse's type holds.
    Within(Box<Form>, Range),
}

/// What a type of ClickHouse holds of PostgreSQL's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Range {
    Dates,
    Times,
    Numbers,
}

/// A type without its domains: of a column, or of the elements of its arrays.
#[derive(Clone, Copy)]
struct Values {
    oid: u32,
    kind: TypeKind,
    typmod: i32,
}

impl Form {
    /// Every bit of a value: what PostgreSQL targets are compared by.
    pub fn exact(column: &Column) -> Form {
        exact(Values { oid: column.base_oid, kind: column.kind, typmod: column.typmod })
    }

    /// What the column in ClickHouse has of it.
    ///
    /// # Errors
    /// Why it cannot be compared.
    pub(crate) fn of_image(column: &Column, image: &ImageColumn) -> Result<Form, String> {
        let unknown = || format!("{} is not compared", image.type_name);
        let ty = image.ty.as_ref().ok_or_else(unknown)?;
        // a key is never NULL
        let nulls = image.nulls && !column.key;
        if nulls && image.narrow_dates {
            return Err("the server knows fewer years, and what does not fit is NULL".to_owned());
        }
        let whole = Values { oid: column.base_oid, kind: column.kind, typmod: column.typmod };
        match ty {
            ColumnType::Matrix(_) => Err(unknown()),
            ColumnType::Point(_) => Ok(Form::Point),
            ColumnType::Array(scalar) => {
                let elements = Values {
                    oid: column.element_oid,
                    kind: column.element_kind,
                    typmod: column.typmod,
                };
                let form = of_scalar(elements, scalar, nulls, image.chosen)?;
                Ok(Form::Array(Box::new(form), nulls))
            }
            ColumnType::Plain(scalar) | ColumnType::Nullable(scalar) => {
                of_scalar(whole, scalar, nulls, image.chosen)
            }
        }
    }

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
    fn condition(self, value: &str) -> String {
        match self {
            Range::Dates => format!("{value} BETWEEN '0001-01-01' AND '9999-12-31'"),
            Range::Times => format!(
                "{value} BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00'"
            ),
            Range::Numbers => format!("{value}::text NOT IN ('NaN', 'Infinity', '-Infinity')"),
        }
    }
}

fn exact(values: Values) -> Form {
    if values.kind != TypeKind::Base {
        return Form::Output;
    }
    match values.oid {
        oid::BOOL | oid::INT2 | oid::INT4 | oid::INT8 | oid::OID => Form::Plain,
        oid::XID | oid::CID | oid::XID8 | oid::PG_LSN | oid::UUID => Form::Plain,
        oid::INET | oid::CIDR | oid::MACADDR | oid::MACADDR8 => Form::Plain,
        oid::TIME | oid::TIMETZ | oid::INTERVAL => Form::Plain,
        oid::FLOAT4 => Form::Sent("float4send"),
        oid::FLOAT8 => Form::Sent("float8send"),
        oid::DATE => Form::Sent("date_send"),
        oid::TIMESTAMP => Form::Sent("timestamp_send"),
        oid::TIMESTAMPTZ => Form::Sent("timestamptz_send"),
        // with a scale of its own, every value has it
        oid::NUMERIC if values.typmod >= 0 => Form::Number,
        oid::NUMERIC => Form::Plain,
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME => Form::Text,
        oid::BYTEA => Form::Bytes,
        _ => Form::Output,
    }
}

fn of_scalar(values: Values, scalar: &Scalar, nulls: bool, chosen: bool) -> Result<Form, String> {
    let form = match (scalar, exact(values)) {
        (Scalar::Json, _) => return Err("what JSON keeps is not compared".to_owned()),
        // PostgreSQL's text form
        (Scalar::String | Scalar::LowCardinality, Form::Sent(_) | Form::Number) => {
            return Ok(Form::Plain);
        }
        (Scalar::String | Scalar::LowCardinality, form) => return Ok(form),
        (Scalar::Enum8(_) | Scalar::Enum16(_), Form::Text) => Form::Text,
        (Scalar::Enum8(_) | Scalar::Enum16(_), _) => Form::Output,
        (Scalar::Ipv4 | Scalar::Ipv6, _) => Form::Host,
        (Scalar::Decimal(..), _) => Form::Number,
        (_, Form::Plain) if values.oid == oid::PG_LSN => Form::Lsn,
        (_, Form::Plain) if values.oid == oid::NUMERIC => Form::Number,
        (_, form @ (Form::Plain | Form::Number | Form::Sent(_))) => form,
        (_, _) => return Err(format!("{scalar} is not compared with its type")),
    };
    if !nulls {
        return Ok(form);
    }
    let range = match scalar {
        _ if chosen => return Err("what does not fit its type is NULL".to_owned()),
        Scalar::Date32 => Range::Dates,
        Scalar::DateTime64(_) => Range::Times,
        Scalar::Decimal(..) => Range::Numbers,
        _ => return Ok(form),
    };
    Ok(Form::Within(Box::new(form), range))
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
