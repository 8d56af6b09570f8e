//! Statements that make tables, and the comparison of a table that is there with what is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::plan::{Layout, Plan};
use super::types::ColumnType;

/// An acknowledged INSERT is on disk (invariant 4). Merged parts need no sync of their own: what they
/// were merged from is kept for minutes.
const DURABLE: &str = "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1";

/// A name in backquotes.
pub(crate) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// A string literal.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// `database`.`table`
pub(crate) fn qualified(database: &str, table: &str) -> String {
    format!("{}.{}", quoted(database), quoted(table))
}

fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}

/// The table that rows are written to.
pub(super) fn create_table(database: &str, plan: &Plan) -> String {
    let mut sql = format!("CREATE TABLE IF NOT EXISTS {} (", qualified(database, &plan.storage()));
    for (i, (name, ty)) in plan.written_columns().enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        let _ = write!(sql, "{comma}{} {ty}", quoted(name)); // a String takes all
    }
    let engine = engine(plan);
    let _ = write!(sql, ") ENGINE = {engine} ORDER BY ({}) {DURABLE}", list(plan.sorting_key()));
    sql
}

fn engine(plan: &Plan) -> &'static str {
    match plan.layout {
        Layout::Keyed => "ReplacingMergeTree(`_rsrepl_version`, `_rsrepl_deleted`)",
        Layout::Log | Layout::History => "ReplacingMergeTree",
    }
}

/// The view of the rows that are in a log: each as often as it came and did not go. `None` for a table
/// with a key, and for one without columns.
pub(super) fn create_view(database: &str, plan: &Plan) -> Option<String> {
    if plan.layout != Layout::Log {
        return None;
    }
    let columns: Vec<_> = plan.columns.iter().map(|column| column.name.as_str()).collect();
    create_view_of(database, &plan.name, &plan.storage(), &columns)
}

/// The same of a table that has these columns; `None` when it has none.
pub(super) fn create_view_of(
    database: &str,
    name: &str,
    storage: &str,
    columns: &[&str],
) -> Option<String> {
    if columns.is_empty() {
        return None;
    }
    let columns = list(columns.iter().copied());
    Some(format!(
        "CREATE OR REPLACE VIEW {} AS SELECT {columns} FROM (\
         SELECT {columns}, sum(`_rsrepl_sign`) AS `_rsrepl_copies` FROM {} FINAL GROUP BY {columns}) \
         ARRAY JOIN range(toUInt64(greatest(`_rsrepl_copies`, 0))) AS `_rsrepl_copy`",
        qualified(database, name),
        qualified(database, storage),
    ))
}

/// `INSERT` of the columns that the encoder writes.
pub(super) fn insert(database: &str, plan: &Plan) -> String {
    let names = list(plan.written_columns().map(|(name, _)| name));
    // a text in JSON stays a text, and becomes neither a date nor a number
    let json = match plan.has_json() {
        true => {
            " SETTINGS input_format_try_infer_dates = 0, input_format_try_infer_datetimes = 0, \
                 input_format_json_try_infer_numbers_from_strings = 0"
        }
        false => "",
    };
    format!("INSERT INTO {} ({names}){json} FORMAT Native", qualified(database, &plan.storage()))
}

/// What `system.tables` and `system.columns` say of a table.
#[derive(Debug, Default)]
pub(super) struct Existing {
    /// `engine`: its name.
    pub(super) kind: String,
    /// `engine_full`, with its arguments; empty for a view.
    pub(super) engine: String,
    pub(super) partition_key: String,
    /// Types by column.
    pub(super) columns: BTreeMap<String, String>,
    pub(super) sorting_key: BTreeSet<String>,
}

/// Something about a table that does not fit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    pub(super) what: String,
    pub(super) mend: String,
}

/// Compares a table with its plan, and takes over what may differ: a column may be Nullable where it
/// need not be.
pub(super) fn compare(database: &str, plan: &mut Plan, existing: &Existing) -> Vec<Misfit> {
    let table = qualified(database, &plan.storage());
    let mut misfits = table_misfits(&table, plan, existing);
    for column in &mut plan.columns {
        let Some(found) = existing.columns.get(&column.name) else {
            misfits.push(Misfit {
                what: format!("table {table} has no column {}", column.name),
                mend: format!(
                    "ALTER TABLE {table} ADD COLUMN {} {}",
                    quoted(&column.name),
                    column.ty
                ),
            });
            continue;
        };
        if column.ty.matches(found) {
            continue;
        }
        if let ColumnType::Plain(scalar) = &column.ty {
            let nullable = ColumnType::Nullable(scalar.clone());
            if nullable.matches(found) {
                column.ty = nullable;
                continue;
            }
        }
        misfits.push(Misfit {
            what: format!(
                "column {} of table {table} is {found}, the source's values need {}",
                column.name, column.ty
            ),
            mend: if column.key {
                format!("DROP TABLE {table} and replicate it anew: a key column's type is fixed")
            } else {
                format!("ALTER TABLE {table} MODIFY COLUMN {} {}", quoted(&column.name), column.ty)
            },
        });
    }
    misfits
}

fn table_misfits(table: &str, plan: &Plan, existing: &Existing) -> Vec<Misfit> {
    let mut misfits = Vec::new();
    let make = create_make(plan);
    let mut misfit = |what: String| misfits.push(Misfit { what, mend: make.clone() });
    for (name, ty) in plan.own_columns() {
        match existing.columns.get(*name) {
            Some(found) if ty.matches(found) => {}
            Some(found) => misfit(format!("column {name} of table {table} is {found}, not {ty}")),
            None => misfit(format!("table {table} has no column {name}")),
        }
    }
    for old in &plan.old_columns {
        let Some(ty) = plan.columns.get(old.index).map(|column| &column.ty) else { continue };
        if !existing.columns.get(&old.name).is_some_and(|found| ty.matches(found)) {
            misfits.push(Misfit {
                what: format!("table {table} has no column {} of type {ty}", old.name),
                mend: format!("ALTER TABLE {table} ADD COLUMN {} {ty}", quoted(&old.name)),
            });
        }
    }
    let mut misfit = |what: String| misfits.push(Misfit { what, mend: make.clone() });
    let plain: String = existing.engine.chars().filter(|c| !matches!(c, '`' | ' ')).collect();
    let head = plain.split("ORDERBY").next().unwrap_or_default();
    let versions =
        plan.layout != Layout::Keyed || head.contains("_rsrepl_version,_rsrepl_deleted)");
    if !head.contains("ReplacingMergeTree") || !versions {
        misfit(format!("table {table} has engine {}, not {}", existing.kind, engine(plan)));
    }
    // in a history a row of the same version has the same values
    let history = plan.layout == Layout::History;
    if !existing.partition_key.is_empty() && !history {
        misfit(format!("table {table} is partitioned: versions of a row could not meet"));
    }
    let needed: BTreeSet<String> = plan.sorting_key().into_iter().map(str::to_owned).collect();
    let more = history && existing.sorting_key.is_superset(&needed);
    if existing.sorting_key != needed && !more {
        misfit(format!(
            "table {table} is ordered by ({}), the rows are told apart by ({})",
            existing.sorting_key.iter().cloned().collect::<Vec<_>>().join(", "),
            needed.into_iter().collect::<Vec<_>>().join(", "),
        ));
    }
    misfits
}

fn create_make(plan: &Plan) -> String {
    format!(
        "move it away (RENAME TABLE) and let create_tables = true make it: ENGINE = {} ORDER BY ({})",
        engine(plan),
        list(plan.sorting_key())
    )
}
