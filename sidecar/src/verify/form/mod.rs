//! The canonical form of values: texts that are equal exactly when a value of PostgreSQL and its image are.
//!
//! Each column has a [`Form`], from which both expressions come: the one for PostgreSQL (source and
//! targets) and the one for the type that the column truly has in ClickHouse. The texts of a row stand one
//! after the other with commas between them; what may hold a comma has its length in bytes before it, and
//! NULL looks like no value. So rows are equal exactly when their texts are.
//!
//! The cheap forms matter, as each row is read on the source while it works: numbers as they are shown,
//! dates, times and floats by their bits.

//!
//! Here is which form a column has; [`text`] has the expressions, [`value`] how values are sent again.

mod text;
mod value;

use rsrepl_wire::text::oid;
use rsrepl_wire::{Column, TypeKind};

pub(crate) use self::text::{hash_in_clickhouse, hash_in_postgres};
use crate::target::clickhouse::{ColumnType, ImageColumn, Scalar};

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
