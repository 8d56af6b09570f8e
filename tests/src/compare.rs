//! Are the tables of two systems equal, row by row.
//!
//! Two PostgreSQL tables are compared by the text of their whole rows, which shows every bit of every
//! type. A ClickHouse table has other types, so both sides render each column into a text that means
//! the same: see [`crate::mapping`].

use std::fmt;
use std::io::Read;

use postgres::Client;

use crate::clickhouse::ClickHouse;
use crate::mapping::{self, Unrepresentable};

/// How many differing rows a report shows of each side.
const SHOWN: usize = 5;

/// Longer rows are cut in reports.
const SHOWN_BYTES: usize = 400;

/// A column of a source table.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type as `format_type` says it, with modifiers: `numeric(12,2)`, `text[]`.
    pub type_name: String,
    /// `typtype`: `b` base, `e` enum, `c` composite, `d` domain, `r` range.
    pub kind: char,
}

/// The outcome for one table.
pub struct Comparison {
    /// The table.
    pub table: String,
    /// The rows of the source.
    pub rows: usize,
    /// Rows that only the source has.
    pub missing: Vec<String>,
    /// Rows that only the target has.
    pub surplus: Vec<String>,
}

impl Comparison {
    /// Whether the two are equal.
    pub fn equal(&self) -> bool {
        self.missing.is_empty() && self.surplus.is_empty()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.equal() {
            return write!(f, "{}: {} rows, equal", self.table, self.rows);
        }
        let (missing, surplus) = (self.missing.len(), self.surplus.len());
        write!(f, "{}: of {} rows {missing} missing, {surplus} surplus", self.table, self.rows)?;
        for (sign, rows) in [('-', &self.missing), ('+', &self.surplus)] {
            for row in rows.iter().take(SHOWN) {
                write!(f, "\n  {sign} {}", row.chars().take(SHOWN_BYTES).collect::<String>())?;
            }
        }
        Ok(())
    }
}

/// The user tables of a database, except for the extension's own, as quoted `schema.table` names.
pub fn tables(client: &mut Client) -> Vec<String> {
    let query = "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
        WHERE relkind = 'r' AND nspname NOT LIKE 'pg\\_%' AND nspname NOT IN ('information_schema', 'rsrepl')
        ORDER BY 1";
    client.query(query, &[]).expect("list tables").iter().map(|row| row.get(0)).collect()
}

/// The columns of a table.
pub fn columns(client: &mut Client, table: &str) -> Vec<Column> {
    let query = format!(
        "SELECT attname::text, format_type(atttypid, atttypmod), typtype
         FROM pg_attribute JOIN pg_type t ON t.oid = atttypid
         WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    );
    let rows = client.query(&query, &[]).expect("list columns");
    let column = |row: &postgres::Row| Column {
        name: row.get(0),
        type_name: row.get(1),
        kind: char::from(row.get::<_, i8>(2) as u8),
    };
    rows.iter().map(column).collect()
}

/// Compares a table of two PostgreSQL databases by the text of whole rows.
pub fn postgres(source: &mut Client, standby: &mut Client, table: &str) -> Comparison {
    let query = format!("SELECT r::text COLLATE \"C\" FROM ONLY {table} r ORDER BY 1");
    compare(table, copy_out(source, &query), copy_out(standby, &query))
}

/// Compares a table with what ClickHouse shows of it under FINAL.
pub fn clickhouse(source: &mut Client, target: &ClickHouse, table: &str, twin: &str) -> Comparison {
    let columns = columns(source, table);
    let types = mapping::clickhouse_types(target, twin);
    let mut here = Vec::new();
    let mut there = Vec::new();
    for column in &columns {
        let known = types.iter().find(|(name, _)| *name == column.name);
        let (_, target_type) =
            known.unwrap_or_else(|| panic!("{twin} has no column {}", column.name));
        here.push(mapping::source_text(column, target_type, Unrepresentable::None));
        there.push(mapping::target_text(column, target_type));
    }
    let query = format!(
        "SELECT concat_ws('|', {}) COLLATE \"C\" FROM ONLY {table} ORDER BY 1",
        here.join(", ")
    );
    let expected = copy_out(source, &query);
    let query = format!(
        "SELECT arrayStringConcat([{}], '|') AS r FROM {twin} FINAL ORDER BY r FORMAT TabSeparatedRaw",
        there.join(", ")
    );
    let found = target.query(&query).lines().map(str::to_owned).collect();
    compare(table, expected, found)
}

/// The lines of `COPY (query) TO STDOUT` under settings that show values exactly.
pub fn copy_out(client: &mut Client, query: &str) -> Vec<String> {
    let settings = "SET timezone = 'UTC'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres';
        SET extra_float_digits = 3; SET bytea_output = 'hex'; SET lc_monetary = 'C'";
    client.batch_execute(settings).expect("settings");
    let mut text = String::new();
    let copy = format!("COPY ({query}) TO STDOUT");
    let mut reader = client.copy_out(&copy).unwrap_or_else(|e| panic!("{query}: {e:?}"));
    reader.read_to_string(&mut text).unwrap_or_else(|e| panic!("{query}: {e:?}"));
    text.lines().map(str::to_owned).collect()
}

/// Both lists are sorted by bytes.
pub fn compare(table: &str, expected: Vec<String>, found: Vec<String>) -> Comparison {
    let rows = expected.len();
    let (mut missing, mut surplus) = (Vec::new(), Vec::new());
    let (mut left, mut right) = (expected.into_iter().peekable(), found.into_iter().peekable());
    loop {
        match (left.peek(), right.peek()) {
            (None, None) => break,
            (Some(a), Some(b)) if a == b => {
                left.next();
                right.next();
            }
            (Some(a), Some(b)) if a > b => surplus.extend(right.next()),
            (None, Some(_)) => surplus.extend(right.next()),
            (Some(_), _) => missing.extend(left.next()),
        }
    }
    Comparison { table: table.to_owned(), rows, missing, surplus }
}

#[cfg(test)]
mod tests {
    use super::compare;

    fn lines(list: &[&str]) -> Vec<String> {
        list.iter().map(|&s| s.to_owned()).collect()
    }

    #[test]
    fn duplicates_count() {
        let found = compare("t", lines(&["a", "b", "b"]), lines(&["a", "b", "c"]));
        assert_eq!((found.missing, found.surplus), (lines(&["b"]), lines(&["c"])));
        assert!(compare("t", lines(&["a", "a"]), lines(&["a", "a"])).equal());
        assert!(!compare("t", lines(&[]), lines(&["a"])).equal());
    }
}
