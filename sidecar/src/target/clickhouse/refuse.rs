//! What is said when a row cannot be written: target, table, key, column, LSN, value and policy.

use rsrepl_wire::{Row, Value};

use super::convert::{Refusal, Source};
use super::encode::Item;
use super::plan::Plan;
use crate::error::{Error, Kind};

/// Characters of a value that are shown.
const VALUE_MAX: usize = 80;

/// The error for a value of `row` that was refused.
#[cold]
pub(super) fn refused(
    plan: &Plan,
    item: &Item,
    row: &Row,
    index: usize,
    value: Value<'_>,
    refusal: Refusal,
) -> Error {
    let relation = &plan.relation;
    let column = relation.columns.get(index).map_or("?", |column| column.name.as_str());
    let place = format!(
        "target {}: table {relation}, key {}, column {column}",
        plan.target,
        key_text(plan, row)
    );
    let shown = || text(plan, index, value);
    match refusal {
        Refusal::Unrepresentable(why) => {
            let planned = plan.columns.get(index);
            let (ty, policy) = planned.map_or_else(Default::default, |column| {
                (column.ty.to_string(), column.policy.as_str())
            });
            let null = match planned.is_some_and(|column| column.chosen) {
                true => "{ type = …, unrepresentable = \"null\" }",
                false => "\"null\"",
            };
            Error::new(
                Kind::Row,
                format!("{place}: {} is {why}, which {ty} cannot hold (policy {policy})", shown()),
            )
            .hint(format!(
                "set columns = {{ \"{}.{}.{column}\" = \"string\" }} or {null} for this target \
                 (docs/type-mapping.md)",
                relation.schema, relation.name
            ))
        }
        Refusal::NullNotAllowed => {
            Error::new(Kind::Row, format!("{place}: NULL in a column that is NOT NULL"))
        }
        // retried: the row may still be loaded by hand, as docs/operations.md allows
        Refusal::Absent => Error::new(
            Kind::Setup,
            format!("{place}: an unchanged TOAST value, and the row is not in ClickHouse"),
        )
        .hint(
            "load the row with _rsrepl_version = 0 and _rsrepl_deleted = 0 (docs/operations.md), or set \
             REPLICA IDENTITY FULL on the source before the next such UPDATE",
        ),
        Refusal::Malformed(error) => {
            Error::new(Kind::Frame, format!("{place}: unreadable value")).because(error)
        }
    }
    .at(item.lsn)
    .of(item.transaction)
}

/// The error for an UPDATE or DELETE of a table whose rows cannot be told apart.
#[cold]
pub(super) fn without_identity(plan: &Plan, item: &Item) -> Error {
    let relation = &plan.relation;
    Error::new(
        Kind::Setup,
        format!(
            "target {}: table {relation} has neither a key nor REPLICA IDENTITY FULL",
            plan.target
        ),
    )
    .hint(format!("ALTER TABLE {relation} REPLICA IDENTITY FULL on the source"))
    .at(item.lsn)
    .of(item.transaction)
}

/// `(1, abc)`, or `none`.
fn key_text(plan: &Plan, row: &Row) -> String {
    let Ok(values) = row.values(&plan.relation) else { return "unreadable".to_owned() };
    let keys: Vec<String> = values
        .enumerate()
        .filter(|(index, _)| plan.columns.get(*index).is_some_and(|column| column.key))
        .map(|(index, value)| value.map_or_else(|_| "?".to_owned(), |v| text(plan, index, v)))
        .collect();
    if keys.is_empty() { "none".to_owned() } else { format!("({})", keys.join(", ")) }
}

/// A value as PostgreSQL shows it, shortened.
fn text(plan: &Plan, index: usize, value: Value<'_>) -> String {
    let Value::Data(data) = value else {
        return if value == Value::Null { "NULL" } else { "unchanged" }.to_owned();
    };
    let mut text = Vec::new();
    let written = plan
        .relation
        .columns
        .get(index)
        .is_some_and(|column| Source::Column(column).write_text(&mut text, data).is_ok());
    if !written {
        return format!("{} bytes", data.len());
    }
    let text = String::from_utf8_lossy(&text);
    match text.char_indices().nth(VALUE_MAX) {
        Some((end, _)) => format!("{}… ({} bytes)", text.get(..end).unwrap_or(""), text.len()),
        None => text.into_owned(),
    }
}
