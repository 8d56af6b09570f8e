//! Keys: as texts that all systems write alike, in ranges and in lists of keys.
//!
//! # Why ranges miss nothing
//!
//! A range is what lies behind one key of the source and not behind the next. The last one has no end and the
//! first one no beginning, so together they hold every row of a target in *its* order, whatever that is: a row
//! that is behind some boundary and not behind the last lies between two that follow each other. When the
//! orders differ, rows are in two ranges, or in another one than on the source; that shows as a difference,
//! which is then looked at key by key. So an order that differs costs time and hides nothing. Where it is
//! known to differ ([`KeyColumn::has_one_order`]), rows are told apart by [buckets](super::buckets).

use rsrepl_wire::text::oid;
use rsrepl_wire::{Column, TypeKind};

use crate::quote;
use crate::target::clickhouse::{self, ColumnType, Scalar};

/// The values of a key's columns, as [`KeyColumn`] writes them.
pub type Key = Vec<String>;

/// The rows behind a key and not behind another; `None`: without an end there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    pub after: Option<Key>,
    pub upto: Option<Key>,
}

/// A column of the key on the source.
#[derive(Clone, Debug)]
pub struct KeyColumn {
    pub name: String,
    /// With its modifiers, as a cast has it.
    pub type_name: String,
    text: Text,
    /// All systems sort it alike.
    pub has_one_order: bool,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Output,
    /// Without zeros at the end.
    Number,
    /// With six digits behind the point.
    Time,
}

impl KeyColumn {
    /// `is_c`: texts are sorted by their bytes.
    pub fn new(column: &Column, type_name: String, is_c: bool) -> KeyColumn {
        let name = quote::identifier(&column.name);
        let has_one_order = column.kind == TypeKind::Base
            && match column.base_oid {
                oid::INT2 | oid::INT4 | oid::INT8 | oid::OID | oid::NUMERIC | oid::DATE => true,
                oid::TIMESTAMP | oid::TIMESTAMPTZ | oid::UUID | oid::BYTEA => true,
                oid::TEXT | oid::VARCHAR => is_c,
                _ => false,
            };
        KeyColumn { name, type_name, text: Text::Output, has_one_order }
    }

    /// Takes into account what it is on a target.
    ///
    /// # Errors
    /// It has another text there that cannot be made the same.
    pub(crate) fn meet(&mut self, column: &Column, image: &ColumnType) -> Result<(), String> {
        let (ColumnType::Plain(scalar) | ColumnType::Nullable(scalar)) = image else {
            return Err(format!("key column {} is {image} there", column.name));
        };
        let refuse = || Err(format!("key column {} is {scalar} there", column.name));
        let is_text = matches!(scalar, Scalar::String | Scalar::LowCardinality);
        let (text, sorted) = match (column.base_oid, scalar) {
            (oid::NUMERIC, _) if !is_text => (Text::Number, true),
            (oid::PG_LSN | oid::FLOAT4 | oid::FLOAT8 | oid::INET | oid::CIDR, _) if !is_text => {
                return refuse();
            }
            (oid::TIMESTAMP | oid::TIMESTAMPTZ, _) if !is_text => (Text::Time, true),
            // it sorts their second halves first
            (oid::UUID, _) => (Text::Output, false),
            (oid::TEXT | oid::VARCHAR | oid::BYTEA, Scalar::String) => (Text::Output, true),
            _ => (Text::Output, !is_text),
        };
        if self.text != Text::Output && self.text != text {
            return refuse();
        }
        self.text = text;
        self.has_one_order &= sorted;
        Ok(())
    }

    /// Its text in PostgreSQL.
    pub fn in_postgres(&self) -> String {
        let name = &self.name;
        match self.text {
            // a cast would take the blanks of char(n) away
            Text::Output => format!("concat({name})"),
            Text::Number => format!("trim_scale({name})::text"),
            // what ClickHouse does not hold must not look like anything else
            Text::Time => format!(
                "CASE WHEN isfinite({name}) AND {name} >= '0001-01-01' \
                 THEN to_char({name}, 'YYYY-MM-DD HH24:MI:SS.US') ELSE {name}::text END"
            ),
        }
    }

    fn literal(&self, value: &str) -> String {
        format!("{}::{}", quote::literal(value), self.type_name)
    }
}

/// A key column as a ClickHouse table has it.
#[derive(Clone, Debug)]
pub(crate) struct ImageKey {
    pub name: String,
    pub ty: Scalar,
    pub is_bytea: bool,
    /// As somebody else has made it.
    pub is_nullable: bool,
    text: Text,
}

impl ImageKey {
    pub(crate) fn new(column: &Column, of: &KeyColumn, image: &ColumnType) -> ImageKey {
        let (ty, text) = match image {
            ColumnType::Plain(scalar) | ColumnType::Nullable(scalar) => (scalar.clone(), of.text),
            _ => (Scalar::String, of.text),
        };
        let is_bytea = column.base_oid == oid::BYTEA;
        let is_nullable = matches!(image, ColumnType::Nullable(_));
        ImageKey { name: clickhouse::quoted(&column.name), ty, is_bytea, is_nullable, text }
    }

    /// Takes over what other targets made of the key's text.
    pub(crate) fn settle(&mut self, of: &KeyColumn) {
        self.text = of.text;
    }

    /// The text of [`KeyColumn::in_postgres`]; NULL is NULL.
    pub(crate) fn in_clickhouse(&self) -> String {
        let name = &self.name;
        match (&self.ty, self.text) {
            (_, Text::Time) => format!("toString(toDateTime64({name}, 6, 'UTC'))"),
            (Scalar::Bool, _) => format!("substring('ft', toUInt8({name}) + 1, 1)"),
            (Scalar::String, _) if self.is_bytea => {
                format!("concat('\\\\x', lower(hex({name})))")
            }
            _ => format!("toString({name})"),
        }
    }

    fn literal(&self, value: &str) -> String {
        let text = clickhouse::literal(value);
        match &self.ty {
            Scalar::String if self.is_bytea => {
                format!("unhex({})", clickhouse::literal(value.trim_start_matches("\\x")))
            }
            Scalar::String | Scalar::LowCardinality => text,
            Scalar::Bool => format!("CAST({text} = 't', 'Bool')"),
            ty => format!("CAST({text}, {})", clickhouse::literal(&ty.to_string())),
        }
    }
}

/// The condition of a range in PostgreSQL, for which an index is used. `nulls`: which rows have a NULL in their
/// key, and so no place in any order; they are in the first range.
pub fn range_in_postgres(key: &[KeyColumn], range: &Range, nulls: Option<&str>) -> String {
    let names: Vec<&str> = key.iter().map(|column| column.name.as_str()).collect();
    let row = |values: &Key| {
        let values: Vec<_> = key.iter().zip(values).map(|(c, v)| c.literal(v)).collect();
        format!("({})", values.join(", "))
    };
    let side = |sign: &str, values: &Key| format!("({}) {sign} {}", names.join(", "), row(values));
    let upto = range.upto.as_ref().map(|upto| side("<=", upto));
    match (&range.after, upto, nulls) {
        (None, Some(upto), Some(nulls)) => format!("({upto}) OR {nulls}"),
        (after, upto, _) => both(after.as_ref().map(|after| side(">", after)), upto),
    }
}

/// The same in ClickHouse, which uses its index for comparisons of single columns only.
pub(crate) fn range_in_clickhouse(key: &[ImageKey], range: &Range) -> String {
    let after = range.after.as_ref().map(|values| beyond(key, values, ">", ">"));
    let upto = range.upto.as_ref().map(|values| beyond(key, values, "<", "<="));
    let nulls: Vec<String> = key
        .iter()
        .filter(|column| column.is_nullable)
        .map(|column| format!("isNull({})", column.name))
        .collect();
    match (after, upto) {
        (None, Some(upto)) if !nulls.is_empty() => format!("({upto}) OR {}", nulls.join(" OR ")),
        (after, upto) => both(after, upto),
    }
}

/// `a >= 1 AND (a > 1 OR (b > 2))`
fn beyond(key: &[ImageKey], values: &[String], sign: &str, last: &str) -> String {
    let (Some((column, key)), Some((value, values))) = (key.split_first(), values.split_first())
    else {
        return "1".to_owned();
    };
    let (name, value) = (&column.name, column.literal(value));
    match key.is_empty() {
        true => format!("{name} {last} {value}"),
        false => {
            let rest = beyond(key, values, sign, last);
            format!("{name} {sign}= {value} AND ({name} {sign} {value} OR ({rest}))")
        }
    }
}

fn both(after: Option<String>, upto: Option<String>) -> String {
    let parts: Vec<String> =
        after.into_iter().chain(upto).map(|part| format!("({part})")).collect();
    if parts.is_empty() { "true".to_owned() } else { parts.join(" AND ") }
}

/// The condition of single keys in ClickHouse.
pub(crate) fn keys_in_clickhouse(key: &[ImageKey], keys: &[&Key]) -> String {
    let names: Vec<&str> = key.iter().map(|column| column.name.as_str()).collect();
    let one = |values: &&Key| {
        let values: Vec<_> = key.iter().zip(values.iter()).map(|(c, v)| c.literal(v)).collect();
        if values.len() == 1 { values.concat() } else { format!("({})", values.join(", ")) }
    };
    let keys: Vec<String> = keys.iter().map(one).collect();
    format!("({}) IN ({})", names.join(", "), keys.join(", "))
}

/// Keys as PostgreSQL takes them: a list for each column.
pub fn columns_of(keys: &[&Key], columns: usize) -> Vec<Vec<String>> {
    let column = |n| keys.iter().map(|key| key.get(n).cloned().unwrap_or_default()).collect();
    (0..columns).map(column).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(names: &[&str]) -> Vec<KeyColumn> {
        let column = |name: &&str| KeyColumn {
            name: quote::identifier(name),
            type_name: "integer".into(),
            text: Text::Output,
            has_one_order: true,
        };
        names.iter().map(column).collect()
    }

    fn values(values: &[&str]) -> Option<Key> {
        Some(values.iter().map(|&value| value.to_owned()).collect())
    }

    #[test]
    fn ranges_are_conditions() {
        let open = Range::default();
        assert_eq!(range_in_postgres(&key(&["a"]), &open, Some("a IS NULL")), "true");
        let first = Range { after: None, upto: values(&["1"]) };
        assert_eq!(
            range_in_postgres(&key(&["a"]), &first, Some("a IS NULL")),
            "((\"a\") <= ('1'::integer)) OR a IS NULL"
        );
        let range = Range { after: values(&["1", "x'"]), upto: values(&["2", "y"]) };
        assert_eq!(
            range_in_postgres(&key(&["a", "b"]), &range, Some("a IS NULL")),
            "((\"a\", \"b\") > ('1'::integer, 'x'''::integer)) AND \
             ((\"a\", \"b\") <= ('2'::integer, 'y'::integer))"
        );
        let image = |name: &str, ty: Scalar| ImageKey {
            name: clickhouse::quoted(name),
            ty,
            is_bytea: false,
            is_nullable: false,
            text: Text::Output,
        };
        let image = [image("a", Scalar::Int32), image("b", Scalar::String)];
        assert_eq!(
            range_in_clickhouse(&image, &Range { after: values(&["1", "x'"]), upto: None }),
            "(`a` >= CAST('1', 'Int32') AND (`a` > CAST('1', 'Int32') OR (`b` > 'x\\'')))"
        );
        let range = Range { after: None, upto: values(&["1", "x"]) };
        let upto = range_in_clickhouse(&image, &range);
        assert!(upto.ends_with("OR (`b` <= 'x')))"), "{upto}");
    }

    proptest! {
        /// Whatever order the target has: each of its rows is in a range.
        #[test]
        fn ranges_hold_every_row_in_any_order(
            order in Just((0usize..40).collect::<Vec<_>>()).prop_shuffle(),
            boundaries in prop::collection::btree_set(0usize..40, 0..10),
        ) {
            let place = |key: usize| order.iter().position(|k| *k == key);
            let mut ends: Vec<Option<usize>> = boundaries.into_iter().map(Some).collect();
            ends.push(None);
            for row in 0..40 {
                let mut after = None;
                let holds = ends.iter().any(|end| {
                    let behind = after.is_none_or(|after| place(row) > place(after));
                    let within = end.is_none_or(|end| place(row) <= place(end));
                    after = *end;
                    behind && within
                });
                prop_assert!(holds, "{row}");
            }
        }
    }
}
