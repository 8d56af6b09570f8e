//! What the user says of columns: their ClickHouse types, and what happens to a value that ClickHouse
//! cannot hold (invariant 7).

use std::collections::BTreeMap;

use super::types::ColumnType;

/// What is done with a value outside of its ClickHouse type: an infinity, a year past 9999, NaN in a
/// decimal, a NULL array, an array of several dimensions. `docs/type-mapping.md` lists them all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unrepresentable {
    /// The target stops and names table, key, column, LSN and value. Nothing is changed silently.
    #[default]
    Error,
    /// NULL is written instead; for a whole array `[]`, as ClickHouse has no NULL array. The column
    /// becomes Nullable. Key columns cannot be NULL and stay with `error`.
    Null,
    /// The column is created as String and holds PostgreSQL's text form of every value.
    String,
}

impl Unrepresentable {
    /// As written in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Unrepresentable::Error => "error",
            Unrepresentable::Null => "null",
            Unrepresentable::String => "string",
        }
    }
}

/// A type that the user has chosen for a column; whether it is Nullable depends on the column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenType(pub(super) ColumnType);

impl ChosenType {
    /// What a message says of names that are none.
    pub const EXPECTED: &'static str = "a ClickHouse type such as \"IPv6\", \"UInt64\", \
        \"Decimal(38, 10)\", \"DateTime64(9)\", \"Enum8('a' = 1, 'b' = 2)\" or \
        \"Array(Array(Nullable(Int32)))\" (docs/type-mapping.md lists them)";

    /// By its name in ClickHouse; `None`: not one that a column can get.
    pub fn parse(name: &str) -> Option<ChosenType> {
        ColumnType::parse(name).map(ChosenType)
    }

    /// It holds the text form of every value.
    pub fn is_string(&self) -> bool {
        use super::types::Scalar::{LowCardinality, String};
        let (ColumnType::Plain(scalar) | ColumnType::Nullable(scalar)) = &self.0 else {
            return false;
        };
        matches!(scalar, String | LowCardinality)
    }
}

/// What is said of one column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnOptions {
    /// `None`: as its target.
    pub unrepresentable: Option<Unrepresentable>,
    /// `None`: the one of `docs/type-mapping.md`.
    pub chosen: Option<ChosenType>,
}

impl From<Unrepresentable> for ColumnOptions {
    fn from(policy: Unrepresentable) -> Self {
        ColumnOptions { unrepresentable: Some(policy), chosen: None }
    }
}

/// The policies of one target: keys `unrepresentable` and `columns` of `[[targets.clickhouse]]`.
///
/// ```toml
/// unrepresentable = "error"
/// columns = { "public.orders.valid_until" = "string", "public.orders.ip" = { type = "IPv6" } }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// Of every column that is not in `columns`.
    pub unrepresentable: Unrepresentable,
    /// By `schema.table.column`, as the source names them, unquoted.
    pub columns: BTreeMap<String, ColumnOptions>,
}

impl Policies {
    /// The policy of one column of the source, and the type that it is to have.
    pub fn of(
        &self,
        schema: &str,
        table: &str,
        column: &str,
    ) -> (Unrepresentable, Option<&ChosenType>) {
        let options = self.columns.get(&format!("{schema}.{table}.{column}"));
        let chosen = options.and_then(|options| options.chosen.as_ref());
        let policy = match options.and_then(|options| options.unrepresentable) {
            Some(policy) => policy,
            // the target's would be another type
            None if chosen.is_some() && self.unrepresentable == Unrepresentable::String => {
                Unrepresentable::Error
            }
            None => self.unrepresentable,
        };
        (policy, chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_goes_before_the_target() {
        let chosen = ChosenType::parse("IPv6");
        let typed = ColumnOptions { unrepresentable: None, chosen: chosen.clone() };
        let policies = Policies {
            unrepresentable: Unrepresentable::String,
            columns: BTreeMap::from([
                ("public.orders.due".to_owned(), Unrepresentable::Null.into()),
                ("public.orders.ip".to_owned(), typed),
            ]),
        };
        assert_eq!(policies.of("public", "orders", "due"), (Unrepresentable::Null, None));
        assert_eq!(policies.of("public", "orders", "paid"), (Unrepresentable::String, None));
        let ip = policies.of("public", "orders", "ip");
        assert_eq!(ip, (Unrepresentable::Error, chosen.as_ref()));
        assert_eq!(Policies::default().of("a", "b", "c"), (Unrepresentable::Error, None));
    }
}
