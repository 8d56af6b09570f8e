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

/// Which rows and columns of a source table a target is to have, and no others.
pub struct Part {
    /// The table.
    pub table: String,
    /// What a FROM clause has for it: `ONLY` makes a difference to partitions.
    pub from: String,
    /// These columns.
    pub columns: Vec<Column>,
    /// The rows that a WHERE clause with this finds.
    pub filter: String,
}

impl Part {
    /// All of a table, but for what its partitions and children have.
    pub fn whole(client: &mut Client, table: &str) -> Part {
        let (from, columns) = (format!("ONLY {table}"), columns(client, table));
        Part { table: table.to_owned(), from, columns, filter: "true".to_owned() }
    }

    /// What a publication of a table, with its partitions, lets through. No columns: all of them.
    pub fn published(client: &mut Client, table: &str, names: &[&str], filter: &str) -> Part {
        let mut columns = columns(client, table);
        columns.retain(|column| names.is_empty() || names.contains(&column.name.as_str()));
        Part { table: table.to_owned(), from: table.to_owned(), columns, filter: filter.to_owned() }
    }

    /// Compares these rows and columns with all rows of the standby's table.
    pub fn postgres(&self, source: &mut Client, standby: &mut Client) -> Comparison {
        let names: Vec<_> =
            self.columns.iter().map(|column| format!("{:?}", column.name)).collect();
        let row = format!("ROW({})::text COLLATE \"C\"", names.join(", "));
        let (from, filter) = (&self.from, &self.filter);
        let expected = format!("SELECT {row} FROM {from} WHERE {filter} ORDER BY 1");
        let found = format!("SELECT {row} FROM {from} ORDER BY 1");
        compare(&self.table, copy_out(source, &expected), copy_out(standby, &found))
    }

    /// Compares them with what ClickHouse shows of its table under FINAL.
    pub fn clickhouse(&self, source: &mut Client, target: &ClickHouse, twin: &str) -> Comparison {
        let types = mapping::clickhouse_types(target, twin);
        let mut here = Vec::new();
        let mut there = Vec::new();
        for column in &self.columns {
            let known = types.iter().find(|(name, _)| *name == column.name);
            let (_, target_type) =
                known.unwrap_or_else(|| panic!("{twin} has no column {}", column.name));
            here.push(mapping::source_text(column, target_type, Unrepresentable::None));
            there.push(mapping::target_text(column, target_type));
        }
        let query = format!(
            "SELECT concat_ws('|', {}) COLLATE \"C\" FROM {} WHERE {} ORDER BY 1",
            here.join(", "),
            self.from,
            self.filter
        );
        let expected = copy_out(source, &query);
        let query = format!(
            "SELECT arrayStringConcat([{}], '|') AS r FROM {twin} FINAL ORDER BY r FORMAT TabSeparatedRaw",
            there.join(", ")
        );
        let found = target.query(&query).lines().map(str::to_owned).collect();
        compare(&self.table, expected, found)
    }
}

/// Compares a table of two PostgreSQL databases by the text of whole rows.
pub fn postgres(source: &mut Client, standby: &mut Client, table: &str) -> Comparison {
    let query = format!("SELECT r::text COLLATE \"C\" FROM ONLY {table} r ORDER BY 1");
    compare(table, copy_out(source, &query), copy_out(standby, &query))
}

/// Compares a table with what ClickHouse shows of it under FINAL.
pub fn clickhouse(source: &mut Client, target: &ClickHouse, table: &str, twin: &str) -> Comparison {
    Part::whole(source, table).clickhouse(source, target, twin)
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
