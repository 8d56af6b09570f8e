//! What happens to a value that ClickHouse cannot hold (invariant 7).

use std::collections::BTreeMap;

use serde::Deserialize;

/// What is done with a value outside of its ClickHouse type: an infinity, a year past 9999, NaN in a
/// decimal, a NULL array, an array of several dimensions. `docs/type-mapping.md` lists them all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
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

/// The policies of one target: keys `unrepresentable` and `columns` of `[[targets.clickhouse]]`.
///
/// ```toml
/// unrepresentable = "error"
/// columns = { "public.orders.valid_until" = "string", "public.orders.tags" = "null" }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policies {
    /// Of every column that is not in `columns`.
    pub unrepresentable: Unrepresentable,
    /// By `schema.table.column`, as the source names them, unquoted.
    pub columns: BTreeMap<String, Unrepresentable>,
}

impl Policies {
    /// The policy of one column of the source.
    pub fn of(&self, schema: &str, table: &str, column: &str) -> Unrepresentable {
        let name = format!("{schema}.{table}.{column}");
        self.columns.get(&name).copied().unwrap_or(self.unrepresentable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_goes_before_the_target() {
        let policies: Policies = toml::from_str(
            "unrepresentable = \"string\"\ncolumns = { \"public.orders.due\" = \"null\" }",
        )
        .unwrap();
        assert_eq!(policies.of("public", "orders", "due"), Unrepresentable::Null);
        assert_eq!(policies.of("public", "orders", "paid"), Unrepresentable::String);
        assert_eq!(Policies::default().of("a", "b", "c"), Unrepresentable::Error);
        assert!(toml::from_str::<Policies>("unrepresentable = \"clamp\"").is_err());
    }
}
