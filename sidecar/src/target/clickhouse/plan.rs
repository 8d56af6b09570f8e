//! What a source table becomes: the type and codec of each column, the layout of the table.
//! Resolved once per relation; rows only follow it.

use std::sync::Arc;

use rsrepl_wire::text::array::Array;
use rsrepl_wire::text::{self, oid};
use rsrepl_wire::{Column, Encoding, Relation, TypeKind, Value};

use super::convert::{Codec, DateRange, Refusal, Source};
use super::policy::{Policies, Unrepresentable};
use super::sink::Sink;
use super::types::{ColumnType, DECIMAL_PRECISION_MAX, Scalar};
use super::version::Version;
use crate::error::{Error, Kind, Result};

/// Names of our own columns and tables begin so.
pub(super) const OWN_PREFIX: &str = "_rsrepl_";

/// How the rows of a table are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// One row per key, the newest version wins.
    Keyed,
    /// The source table has no key: a log of rows that came (+1) and went (-1), and a view of the
    /// rows that are there.
    Log,
}

/// One column of the target table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ColumnPlan {
    pub(super) name: String,
    pub(super) ty: ColumnType,
    /// Of the values, or of the elements of an array.
    codec: Codec,
    /// The type of an array's elements, and how they come.
    element: Option<(Encoding, text::Type)>,
    pub(super) policy: Unrepresentable,
    pub(super) key: bool,
}

/// A source table and what it becomes.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The target's name as configured; errors say it.
    pub(super) target: Arc<str>,
    pub(super) relation: Arc<Relation>,
    /// The table, or the view of a log, that users read.
    pub(super) name: String,
    pub(super) layout: Layout,
    /// As many as the relation has, in its order.
    pub(super) columns: Vec<ColumnPlan>,
}

impl Plan {
    /// # Errors
    /// [`Kind::Setup`]: a column has a name of ours.
    pub(super) fn new(
        target: &str,
        relation: &Arc<Relation>,
        name: String,
        policies: &Policies,
        dates: DateRange,
    ) -> Result<Self> {
        if let Some(column) = relation.columns.iter().find(|c| c.name.starts_with(OWN_PREFIX)) {
            return Err(Error::new(
                Kind::Setup,
                format!(
                    "target {target}: column {} of table {relation} has a name that is ours",
                    column.name
                ),
            )
            .hint("rename the column on the source, or leave it out of the publication"));
        }
        let column = |column: &Column| {
            let policy = policies.of(&relation.schema, &relation.name, &column.name);
            ColumnPlan::new(column, policy, dates)
        };
        let columns: Vec<_> = relation.columns.iter().map(column).collect();
        let keyed = columns.iter().any(|column| column.key);
        let layout = if keyed { Layout::Keyed } else { Layout::Log };
        Ok(Plan { target: target.into(), relation: Arc::clone(relation), name, layout, columns })
    }

    /// The table that rows are written to.
    pub(super) fn storage(&self) -> String {
        match self.layout {
            Layout::Keyed => self.name.clone(),
            Layout::Log => format!("{OWN_PREFIX}log_{}", self.name),
        }
    }

    /// Our columns, behind the source's.
    pub(super) fn own_columns(&self) -> &'static [(&'static str, ColumnType)] {
        match self.layout {
            Layout::Keyed => &[
                ("_rsrepl_version", Version::TYPE),
                ("_rsrepl_deleted", ColumnType::Plain(Scalar::UInt8)),
            ],
            Layout::Log => &[
                ("_rsrepl_version", Version::TYPE),
                ("_rsrepl_sign", ColumnType::Plain(Scalar::Int8)),
            ],
        }
    }

    /// All columns that are written, in the order that the encoder has them.
    pub(super) fn written_columns(&self) -> impl Iterator<Item = (&str, ColumnType)> {
        let theirs = self.columns.iter().map(|column| (column.name.as_str(), column.ty));
        theirs.chain(self.own_columns().iter().copied())
    }

    /// What the rows of the table are sorted and told apart by.
    pub(super) fn sorting_key(&self) -> Vec<&str> {
        match self.layout {
            Layout::Keyed => {
                self.columns.iter().filter(|c| c.key).map(|c| c.name.as_str()).collect()
            }
            Layout::Log => self.own_columns().iter().map(|(name, _)| *name).collect(),
        }
    }
}

impl ColumnPlan {
    fn new(column: &Column, policy: Unrepresentable, dates: DateRange) -> Self {
        // a key cannot be NULL
        let policy = match policy {
            Unrepresentable::Null if column.key => Unrepresentable::Error,
            policy => policy,
        };
        let (ty, codec, element) = type_of(column, policy, dates);
        let nullable = !column.key
            && (!column.not_null || codec.is_partial() && policy == Unrepresentable::Null);
        let ty = match ty {
            ColumnType::Plain(scalar) if nullable => ColumnType::Nullable(scalar),
            ty => ty,
        };
        ColumnPlan { name: column.name.clone(), ty, codec, element, policy, key: column.key }
    }

    /// Writes a value, or what the policy puts in its place.
    ///
    /// # Errors
    /// `value` is refused; `to` then holds an unknown part of it.
    #[inline]
    pub(super) fn put(
        &self,
        to: &mut impl Sink,
        column: &Column,
        value: Value<'_>,
    ) -> Result<(), Refusal> {
        let start = to.mark();
        match self.put_exactly(to, column, value) {
            Err(Refusal::Unrepresentable(_)) if self.policy == Unrepresentable::Null => {
                to.rewind(start);
                self.ty.put_default(to);
                Ok(())
            }
            result => result,
        }
    }

    #[inline]
    fn put_exactly(
        &self,
        to: &mut impl Sink,
        column: &Column,
        value: Value<'_>,
    ) -> Result<(), Refusal> {
        match (self.ty, value) {
            (_, Value::Unchanged) => Err(Refusal::Absent),
            (ColumnType::Plain(_), Value::Data(data)) => {
                self.codec.put(to.value(false), Source::Column(column), data)
            }
            (ColumnType::Plain(_), Value::Null) => Err(Refusal::NullNotAllowed),
            (ColumnType::Nullable(_), Value::Data(data)) => {
                self.codec.put(to.value(true), Source::Column(column), data)
            }
            (ColumnType::Nullable(scalar), Value::Null) => {
                to.null(scalar);
                Ok(())
            }
            (ColumnType::Array(scalar), Value::Data(data)) => {
                self.put_array(to, column, scalar, data)
            }
            (ColumnType::Array(_), Value::Null) => Err(Refusal::Unrepresentable("a NULL array")),
        }
    }

    fn put_array(
        &self,
        to: &mut impl Sink,
        column: &Column,
        scalar: Scalar,
        data: &[u8],
    ) -> Result<(), Refusal> {
        let array = Array::parse(column.encoding, data)?;
        match array.dimensions() {
            [] => {}
            [only] if only.lower_bound == 1 => {}
            [_] => return Err(Refusal::Unrepresentable("an array that does not start at 1")),
            _ => return Err(Refusal::Unrepresentable("an array of several dimensions")),
        }
        to.array(array.len());
        let (encoding, ty) = self.element.as_ref().ok_or(Refusal::Absent)?;
        for element in array.elements() {
            let Some(element) = element? else {
                to.null(scalar);
                continue;
            };
            let start = to.mark();
            match self.codec.put(to.value(true), Source::Element(*encoding, ty), element) {
                Err(Refusal::Unrepresentable(_)) if self.policy == Unrepresentable::Null => {
                    to.rewind(start);
                    to.null(scalar);
                }
                result => result?,
            }
        }
        Ok(())
    }
}

/// The type before NULL is thought of, the codec, and the element type of an array.
fn type_of(
    column: &Column,
    policy: Unrepresentable,
    dates: DateRange,
) -> (ColumnType, Codec, Option<(Encoding, text::Type)>) {
    let as_string = policy == Unrepresentable::String;
    if column.kind == TypeKind::Array {
        let encoding = match column.encoding {
            Encoding::Send => Some(Encoding::Send),
            Encoding::Array(element) => Some(element.encoding.into()),
            _ => None,
        };
        // an array in ORDER BY may not hold NULLs
        let encoding = encoding.filter(|_| !column.key && !as_string);
        let Some(encoding) = encoding else {
            return (ColumnType::Plain(Scalar::String), text_codec(column), None);
        };
        let element = text::Type {
            oid: column.element_oid,
            kind: column.element_kind,
            element_oid: 0,
            element_kind: TypeKind::Base,
        };
        let (scalar, codec) = match element.kind {
            TypeKind::Enum => (Scalar::LowCardinality, Codec::Bytes),
            _ => any_type(column, element.oid, dates),
        };
        // LowCardinality does not go into an array of Nullable as it goes into a column
        let scalar = if scalar == Scalar::LowCardinality { Scalar::String } else { scalar };
        return (ColumnType::Array(scalar), codec, Some((encoding, element)));
    }
    let (scalar, codec) = match (column.kind, column.encoding) {
        (TypeKind::Enum, _) => (Scalar::LowCardinality, Codec::Bytes),
        (_, Encoding::Text | Encoding::Varlena) => (Scalar::String, Codec::Bytes),
        (_, Encoding::Numeric) => decimal(column.typmod),
        (_, Encoding::Send | Encoding::Jsonb | Encoding::Array(_)) => {
            any_type(column, column.base_oid, dates)
        }
        (_, Encoding::Fixed(width)) => match typed(column.base_oid, dates) {
            Some((scalar, codec)) if scalar.width() == Some(usize::from(width)) => (scalar, codec),
            _ => (Scalar::String, text_codec(column)),
        },
    };
    if codec.is_partial() && as_string {
        return (ColumnType::Plain(Scalar::String), Codec::Text, None);
    }
    (ColumnType::Plain(scalar), codec, None)
}

/// Text when we know it, else the bytes as they came: nothing is lost.
fn text_codec(column: &Column) -> Codec {
    if text::is_supported(column) { Codec::Text } else { Codec::Bytes }
}

/// A type in any form: of a column, or of the elements of an array column.
fn any_type(column: &Column, type_oid: u32, dates: DateRange) -> (Scalar, Codec) {
    match type_oid {
        oid::NUMERIC => decimal(column.typmod),
        oid::TEXT
        | oid::VARCHAR
        | oid::BPCHAR
        | oid::NAME
        | oid::UNKNOWN
        | oid::JSON
        | oid::XML
        | oid::BYTEA => (Scalar::String, Codec::Bytes),
        _ => typed(type_oid, dates).unwrap_or_else(|| (Scalar::String, text_codec(column))),
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
        oid::TIMESTAMP | oid::TIMESTAMPTZ => (Scalar::DateTime64, Codec::Timestamp(dates)),
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
}
