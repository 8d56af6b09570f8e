//! Which ClickHouse type a column gets, and how its values become that: the one of
//! `docs/type-mapping.md`, or one that the user has chosen.

use rsrepl_wire::text::{self, oid};
use rsrepl_wire::{Column, Encoding, TypeKind};

use super::convert::{Codec, DateRange, MICROS};
use super::numbers::Number;
use super::policy::Unrepresentable;
use super::types::{ColumnType, DECIMAL_PRECISION_MAX, Scalar};

/// A type before NULL is thought of, and how its values are written.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) ty: ColumnType,
    /// Of the values, or of the elements of an array.
    pub(super) codec: Codec,
    /// The type of an array's elements, and how they come.
    pub(super) element: Option<(Encoding, text::Type)>,
}

impl Choice {
    fn plain((scalar, codec): (Scalar, Codec)) -> Choice {
        Choice { ty: ColumnType::Plain(scalar), codec, element: None }
    }
}

/// # Errors
/// The types that are possible, when the wanted one is not.
pub(super) fn choose(
    column: &Column,
    policy: Unrepresentable,
    wanted: Option<&ColumnType>,
    dates: DateRange,
) -> Result<Choice, String> {
    let values = Values { column, encoding: column.encoding, ty: text::Type::from(column), dates };
    // an array in ORDER BY may not hold NULLs
    let elements = values.elements().filter(|_| !column.key);
    match wanted {
        Some(wanted) => values
            .wanted(elements.as_ref(), wanted)
            .ok_or_else(|| values.possible(elements.as_ref())),
        None => Ok(values.by_default(elements.as_ref(), policy)),
    }
}

/// The values of a column, or the elements of its arrays.
struct Values<'a> {
    column: &'a Column,
    encoding: Encoding,
    ty: text::Type,
    dates: DateRange,
}

impl Values<'_> {
    /// The elements of arrays that come as such.
    fn elements(&self) -> Option<Values<'_>> {
        let encoding = match self.encoding {
            _ if self.ty.kind != TypeKind::Array => return None,
            Encoding::Send => Encoding::Send,
            Encoding::Array(element) => element.encoding.into(),
            _ => return None,
        };
        let ty = text::Type {
            oid: self.ty.element_oid,
            kind: self.ty.element_kind,
            element_oid: 0,
            element_kind: TypeKind::Base,
        };
        Some(Values { column: self.column, encoding, ty, dates: self.dates })
    }

    fn by_default(&self, elements: Option<&Values<'_>>, policy: Unrepresentable) -> Choice {
        let as_string = policy == Unrepresentable::String;
        if self.ty.kind == TypeKind::Array {
            let Some(elements) = elements.filter(|_| !as_string) else {
                return Choice::plain(self.text());
            };
            let (scalar, codec) = elements.scalar();
            // LowCardinality does not go into an array of Nullable as it goes into a column
            let scalar = if scalar == Scalar::LowCardinality { Scalar::String } else { scalar };
            return elements.inside(ColumnType::Array(scalar), codec);
        }
        let (scalar, codec) = self.scalar();
        if codec.is_partial() && as_string {
            return Choice::plain((Scalar::String, Codec::Text));
        }
        Choice::plain((scalar, codec))
    }

    /// As elements of arrays.
    fn inside(&self, ty: ColumnType, codec: Codec) -> Choice {
        Choice { ty, codec, element: Some((self.encoding, self.ty)) }
    }

    /// `None`: the type cannot hold the values.
    fn wanted(&self, elements: Option<&Values<'_>>, wanted: &ColumnType) -> Option<Choice> {
        match wanted {
            ColumnType::Array(scalar) | ColumnType::Matrix(scalar) => {
                let elements = elements?;
                Some(elements.inside(wanted.clone(), elements.codec(scalar)?))
            }
            ColumnType::Point(_) => {
                let is_point = self.ty.oid == oid::POINT && !self.column.key;
                is_point.then(|| Choice { ty: wanted.clone(), codec: Codec::Point, element: None })
            }
            ColumnType::Plain(Scalar::Json) | ColumnType::Nullable(Scalar::Json)
                if self.column.key =>
            {
                None
            }
            ColumnType::Plain(scalar) | ColumnType::Nullable(scalar) => {
                let codec = self.codec(scalar)?;
                Some(Choice { ty: wanted.clone(), codec, element: None })
            }
        }
    }

    /// Text when we know it, else the bytes as they came: nothing is lost.
    fn text(&self) -> (Scalar, Codec) {
        let is_text = text::is_supported_as(self.encoding, &self.ty);
        (Scalar::String, if is_text { Codec::Text } else { Codec::Bytes })
    }

    /// What the values become when nobody says otherwise; not for arrays.
    fn scalar(&self) -> (Scalar, Codec) {
        if self.ty.kind == TypeKind::Enum {
            return (Scalar::LowCardinality, Codec::Bytes);
        }
        match self.encoding {
            Encoding::Text | Encoding::Varlena => (Scalar::String, Codec::Bytes),
            Encoding::Numeric => decimal(self.column.typmod),
            Encoding::Fixed(width) => match typed(self.ty.oid, self.dates) {
                Some((scalar, codec)) if scalar.width() == Some(width.into()) => (scalar, codec),
                _ => self.text(),
            },
            Encoding::Send | Encoding::Jsonb | Encoding::Array(_) => match self.ty.oid {
                oid::NUMERIC => decimal(self.column.typmod),
                oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME | oid::UNKNOWN => {
                    (Scalar::String, Codec::Bytes)
                }
                oid::JSON | oid::XML | oid::BYTEA => (Scalar::String, Codec::Bytes),
                oid => typed(oid, self.dates).unwrap_or_else(|| self.text()),
            },
        }
    }

    /// How the values become this type; `None`: they do not.
    fn codec(&self, wanted: &Scalar) -> Option<Codec> {
        if self.ty.kind == TypeKind::Array {
            let is_string = matches!(wanted, Scalar::String | Scalar::LowCardinality);
            return is_string.then(|| self.text().1);
        }
        let (scalar, codec) = self.scalar();
        if scalar == *wanted {
            return Some(codec);
        }
        if let (Some(signed), Some(number)) = (wanted.signed_integer(), self.number()) {
            let width = u8::try_from(wanted.width()?).ok()?;
            return Some(Codec::Integer(number, width, signed));
        }
        Some(match (wanted, self.ty.oid) {
            (Scalar::String | Scalar::LowCardinality, _) => match scalar {
                Scalar::String | Scalar::LowCardinality => codec,
                _ => Codec::Text,
            },
            (Scalar::Decimal(precision, scale), oid::NUMERIC) => Codec::Decimal(*precision, *scale),
            (Scalar::Date, oid::DATE) => Codec::ShortDate,
            (Scalar::DateTime, oid::TIMESTAMP | oid::TIMESTAMPTZ) => Codec::ShortTimestamp,
            (Scalar::DateTime64(precision), oid::TIMESTAMP | oid::TIMESTAMPTZ) => {
                Codec::TimestampOf(self.dates, *precision)
            }
            (Scalar::Ipv4, oid::INET | oid::CIDR) => Codec::Ipv4,
            (Scalar::Ipv6, oid::INET | oid::CIDR) => Codec::Ipv6,
            (Scalar::Json, oid::JSONB) => Codec::Json,
            (Scalar::Enum8(labels), _) if self.has_labels() => Codec::Label(labels.clone(), 1),
            (Scalar::Enum16(labels), _) if self.has_labels() => Codec::Label(labels.clone(), 2),
            _ => return None,
        })
    }

    fn number(&self) -> Option<Number> {
        match self.ty.oid {
            oid::INT2 | oid::INT4 | oid::INT8 => Some(Number::Signed),
            oid::OID | oid::XID | oid::CID | oid::XID8 | oid::PG_LSN => Some(Number::Unsigned),
            oid::NUMERIC => Some(Number::Numeric),
            _ => None,
        }
    }

    /// The bytes of a value are its text.
    fn has_labels(&self) -> bool {
        self.ty.kind == TypeKind::Enum
            || self.ty.kind == TypeKind::Base
                && self.ty.oid != oid::BYTEA
                && self.scalar() == (Scalar::String, Codec::Bytes)
    }

    /// The types that [`Values::wanted`] takes, for a message.
    fn possible(&self, elements: Option<&Values<'_>>) -> String {
        match elements {
            Some(elements) => {
                let inside = elements.possible(None);
                format!(
                    "String, or Array(Nullable(T)) or Array(Array(Nullable(T))) with a T of {inside}"
                )
            }
            None => {
                let integers = "Int8 to Int256, UInt8 to UInt256";
                let named = match self.ty.oid {
                    _ if self.ty.kind == TypeKind::Array => String::new(),
                    oid::NUMERIC => format!("Decimal(P, S), {integers}"),
                    _ if self.number().is_some() => integers.to_owned(),
                    oid::DATE => "Date32, Date".to_owned(),
                    oid::TIMESTAMP | oid::TIMESTAMPTZ => {
                        "DateTime64(0) to DateTime64(9), DateTime".to_owned()
                    }
                    oid::INET | oid::CIDR => "IPv4, IPv6".to_owned(),
                    oid::JSONB => "JSON".to_owned(),
                    oid::POINT => "Tuple(Float64, Float64)".to_owned(),
                    _ if self.has_labels() => {
                        "Enum8('label' = 1, …), Enum16('label' = 1, …)".to_owned()
                    }
                    _ => match self.scalar().0 {
                        Scalar::String | Scalar::LowCardinality => String::new(),
                        scalar => scalar.to_string(),
                    },
                };
                let comma = if named.is_empty() { "" } else { ", " };
                format!("{named}{comma}String, LowCardinality(String)")
            }
        }
    }
}

/// The types of fixed width that ClickHouse has too.
fn typed(type_oid: u32, dates: DateRange) -> Option<(Scalar, Codec)> {
    let (scalar, codec) = match type_oid {
        oid::BOOL => (Scalar::Bool, Codec::Fixed(1)),
        oid::INT2 => (Scalar::Int16, Codec::Fixed(2)),
        oid::INT4 => (Scalar::Int32, Codec::Fixed(4)),
        oid::INT8 => (Scalar::Int64, Codec::Fixed(8)),
        oid::OID => (Scalar::UInt32, Codec::Fixed(4)),
        oid::FLOAT4 => (Scalar::Float32, Codec::Fixed(4)),
        oid::FLOAT8 => (Scalar::Float64, Codec::Fixed(8)),
        oid::UUID => (Scalar::Uuid, Codec::Uuid),
        oid::DATE => (Scalar::Date32, Codec::Date(dates)),
        oid::TIMESTAMP | oid::TIMESTAMPTZ => (Scalar::DateTime64(MICROS), Codec::Timestamp(dates)),
        _ => return None,
    };
    Some((scalar, codec))
}

/// `numeric(p, s)` by its type modifier, as `numerictypmodin` packs it; exact text when there is none
/// or ClickHouse has no such Decimal.
fn decimal(typmod: i32) -> (Scalar, Codec) {
    const TEXT: (Scalar, Codec) = (Scalar::String, Codec::Text);
    /// `VARHDRSZ`
    const HEADER: i32 = 4;
    if typmod < HEADER {
        return TEXT;
    }
    let precision = ((typmod - HEADER) >> 16) & 0xFFFF;
    // eleven bits in two's complement
    let scale = (((typmod - HEADER) & 0x7FF) ^ 1024) - 1024;
    // a negative scale rounds to tens; a scale above the precision asks for leading zeros
    let (precision, scale) =
        if scale < 0 { (precision - scale, 0) } else { (precision.max(scale), scale) };
    match (u8::try_from(precision), u8::try_from(scale)) {
        (Ok(precision @ 1..=DECIMAL_PRECISION_MAX), Ok(scale)) => {
            (Scalar::Decimal(precision, scale), Codec::Decimal(precision, scale))
        }
        _ => TEXT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(precision: i32, scale: i32) -> String {
        decimal((precision << 16 | scale & 0x7FF) + 4).0.to_string()
    }

    #[test]
    fn numerics_become_the_decimal_that_holds_them() {
        assert_eq!(decimal(-1).0, Scalar::String);
        assert_eq!(numeric(12, 2), "Decimal(12, 2)");
        assert_eq!(numeric(76, 76), "Decimal(76, 76)");
        assert_eq!(numeric(77, 2), "String");
        assert_eq!(numeric(1000, 0), "String");
        assert_eq!(numeric(3, -2), "Decimal(5, 0)");
        assert_eq!(numeric(70, -10), "String");
        assert_eq!(numeric(2, 5), "Decimal(5, 5)");
        assert_eq!(numeric(2, 100), "String");
    }

    fn column(type_oid: u32, kind: TypeKind, encoding: Encoding) -> Column {
        Column {
            number: 1,
            name: "v".into(),
            key: false,
            not_null: false,
            generated: false,
            type_oid,
            base_oid: type_oid,
            typmod: -1,
            kind,
            element_oid: if kind == TypeKind::Array { oid::INT4 } else { 0 },
            element_kind: TypeKind::Base,
            type_schema: "pg_catalog".into(),
            type_name: "t".into(),
            encoding,
        }
    }

    fn chosen(column: &Column, name: &str) -> Result<String, String> {
        let wanted = ColumnType::parse(name).unwrap_or_else(|| panic!("{name}"));
        choose(column, Unrepresentable::Error, Some(&wanted), DateRange::WIDE)
            .map(|choice| choice.ty.to_string())
    }

    #[test]
    fn a_chosen_type_must_hold_the_values() {
        use TypeKind::{Array, Base, Enum};
        let labels = "Enum8('a' = 1)";
        let array = "Array(Array(Nullable(Int64)))";
        for (type_oid, kind, encoding, good, bad) in [
            (oid::INET, Base, Encoding::Send, "IPv4", "UInt32"),
            (oid::CIDR, Base, Encoding::Send, "IPv6", "UUID"),
            (oid::NUMERIC, Base, Encoding::Numeric, "Decimal(38, 10)", "Float64"),
            (oid::NUMERIC, Base, Encoding::Numeric, "UInt256", labels),
            (oid::INT4, Base, Encoding::Fixed(4), "UInt8", "Date"),
            (oid::XID8, Base, Encoding::Fixed(8), "UInt64", "DateTime"),
            (oid::DATE, Base, Encoding::Fixed(4), "Date", "DateTime"),
            (oid::TIMESTAMPTZ, Base, Encoding::Fixed(8), "DateTime64(9, 'UTC')", "Date"),
            (oid::JSONB, Base, Encoding::Jsonb, "JSON", array),
            (oid::JSON, Base, Encoding::Varlena, labels, "JSON"),
            (oid::UUID, Base, Encoding::Fixed(16), "String", "UInt128"),
            (oid::POINT, Base, Encoding::Send, "Tuple(Float64, Float64)", array),
            (oid::BYTEA, Base, Encoding::Varlena, "LowCardinality(String)", labels),
            (oid::TEXT, Base, Encoding::Varlena, labels, "Int32"),
            (70_000, Enum, Encoding::Send, labels, "Int8"),
            (1007, Array, Encoding::Send, array, "Array(Nullable(UUID))"),
            (1007, Array, Encoding::Send, "String", "Int32"),
        ] {
            let column = column(type_oid, kind, encoding);
            assert_eq!(chosen(&column, good).as_deref(), Ok(good));
            let possible = chosen(&column, bad).expect_err(bad);
            assert!(possible.contains("String"), "{possible}");
        }
        let key = Column { key: true, ..column(oid::JSONB, Base, Encoding::Jsonb) };
        assert!(chosen(&key, "JSON").is_err());
        assert!(chosen(&key, "String").is_ok());
    }
}
