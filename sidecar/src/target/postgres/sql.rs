//! The statements that rows go in by. Every name is quoted, every type and operator qualified.

use super::catalog::{TargetColumn, TargetTable};
pub use crate::quote::{identifier as ident, literal};

/// `"schema"."name"`.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", ident(schema), ident(name))
}

/// Which columns an UPDATE sets: all updates of one shape share a statement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape {
    /// One for each column: its new value is there.
    pub present: Vec<bool>,
    /// Key columns are set as well.
    pub key_changed: bool,
}

impl Shape {
    /// The columns that SET names.
    pub fn set<'a>(
        &'a self,
        table: &'a TargetTable,
    ) -> impl Iterator<Item = (usize, &'a TargetColumn)> {
        self.present_columns(table)
            .filter(|(_, c)| !c.generated && !c.always_identity && (self.key_changed || !c.key))
    }

    /// Columns that cannot be set and whose value is therefore compared. A row in which it differs is to be
    /// replaced: a statement over a set does not find it, and one for a row does that.
    pub fn compared<'a>(
        &'a self,
        table: &'a TargetTable,
    ) -> impl Iterator<Item = (usize, &'a TargetColumn)> {
        self.present_columns(table).filter(|(_, c)| c.always_identity && !c.key)
    }

    /// The new values that a set of updates needs: those to set and those to compare.
    pub fn given<'a>(
        &'a self,
        table: &'a TargetTable,
    ) -> impl Iterator<Item = (usize, &'a TargetColumn)> {
        self.present_columns(table).filter(|(_, c)| !c.generated && (self.key_changed || !c.key))
    }

    fn present_columns<'a>(
        &'a self,
        table: &'a TargetTable,
    ) -> impl Iterator<Item = (usize, &'a TargetColumn)> {
        table.columns.iter().enumerate().filter(|(i, _)| self.present.get(*i) == Some(&true))
    }

    /// A new key in a column that UPDATE may not set: the row is replaced.
    pub fn replaces(&self, table: &TargetTable) -> bool {
        self.key_changed && table.columns.iter().any(|c| c.key && c.always_identity)
    }
}

impl TargetColumn {
    /// A value of the column as parameter `$number`, with the casts that it needs.
    pub fn param(&self, number: usize) -> String {
        match &self.via {
            Some(via) => format!("${number}::{via}::{}", self.sql_type),
            None => format!("${number}::{}", self.sql_type),
        }
    }
}

/// Hands out `$1`, `$2`, …
#[derive(Default)]
struct Params(usize);

impl Params {
    fn next(&mut self, column: &TargetColumn) -> String {
        self.0 += 1;
        column.param(self.0)
    }
}

fn join(parts: impl Iterator<Item = String>, separator: &str) -> String {
    parts.collect::<Vec<_>>().join(separator)
}

impl TargetTable {
    /// Itself, for statements that would see tables that inherit from it, too.
    pub(super) fn only(&self) -> String {
        format!("{}{}", if self.partitioned { "" } else { "ONLY " }, self.name)
    }

    /// The columns that are written, in the order of COPY and INSERT.
    pub fn written(&self) -> impl Iterator<Item = (usize, &TargetColumn)> {
        self.columns.iter().enumerate().filter(|(_, column)| !column.generated)
    }

    /// The columns that name a row.
    pub fn keys(&self) -> impl Iterator<Item = (usize, &TargetColumn)> {
        self.columns.iter().enumerate().filter(|(_, column)| column.key)
    }

    fn column_list(&self) -> String {
        join(self.written().map(|(_, c)| c.ident.clone()), ", ")
    }

    /// Rows can go straight into the table by COPY BINARY.
    pub fn takes_copy(&self) -> bool {
        !self.written().any(|(_, column)| column.via.is_some())
    }

    /// COPY of the written columns.
    pub fn copy(&self) -> String {
        format!("COPY {} ({}) FROM STDIN BINARY", self.name, self.column_list())
    }

    /// Emptying several tables at once.
    pub fn truncate(tables: &[&TargetTable], restart_identity: bool) -> String {
        let names = join(tables.iter().map(|table| table.only()), ", ");
        format!("TRUNCATE {names}{}", if restart_identity { " RESTART IDENTITY" } else { "" })
    }

    /// One row; parameters are the written columns.
    pub fn insert_row(&self) -> String {
        if self.written().next().is_none() {
            return format!("INSERT INTO {} DEFAULT VALUES", self.name);
        }
        let mut params = Params::default();
        format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
            self.name,
            self.column_list(),
            join(self.written().map(|(_, c)| params.next(c)), ", ")
        )
    }

    fn key_is_param(&self, params: &mut Params) -> String {
        join(
            self.keys().map(|(_, c)| format!("t.{} {} {}", c.ident, c.equals, params.next(c))),
            " AND ",
        )
    }

    /// One row by key; parameters are the key columns.
    pub fn delete_row(&self) -> String {
        let by_key = self.key_is_param(&mut Params::default());
        format!("DELETE FROM {} AS t WHERE {by_key}", self.only())
    }

    /// One row by key; parameters are the old key columns, then the columns of [`Shape::given`].
    pub fn update_row(&self, shape: &Shape) -> String {
        let mut params = Params::default();
        let by_key = self.key_is_param(&mut params);
        let given = self.given_params(shape, &mut params);
        let set = join(
            given
                .iter()
                .filter(|(_, c, _)| !c.always_identity)
                .map(|(_, c, param)| format!("{} = {param}", c.ident)),
            ", ",
        );
        let same = join(
            shape.compared(self).map(|(i, c)| {
                let param = given.iter().find(|(g, ..)| *g == i).map_or("NULL", |(.., p)| p);
                format!("t.{} {} {param}", c.ident, c.equals)
            }),
            " AND ",
        );
        let table = self.only();
        if shape.replaces(self) {
            let [old, insert] =
                self.replace(&format!("DELETE FROM {table} AS t WHERE {by_key}"), &given);
            return format!("WITH {old} {insert}");
        }
        if same.is_empty() {
            return format!("UPDATE {table} AS t SET {set} WHERE {by_key}");
        }
        let differing = format!("DELETE FROM {table} AS t WHERE {by_key} AND NOT ({same})");
        let [old, insert] = self.replace(&differing, &given);
        let kept = match set.is_empty() {
            true => format!("SELECT 1 FROM {table} AS t WHERE {by_key} AND {same}"),
            false => format!("UPDATE {table} AS t SET {set} WHERE {by_key} AND {same} RETURNING 1"),
        };
        format!(
            "WITH {old}, replaced AS ({insert} RETURNING 1), kept AS ({kept}) \
             SELECT 1 FROM replaced UNION ALL SELECT 1 FROM kept"
        )
    }

    /// The given columns, each with its parameter.
    fn given_params<'a>(
        &'a self,
        shape: &'a Shape,
        params: &mut Params,
    ) -> Vec<(usize, &'a TargetColumn, String)> {
        shape.given(self).map(|(i, c)| (i, c, params.next(c))).collect()
    }

    /// The WITH query `old`, which is what `delete` deletes, and what inserts that again with new values of
    /// the given columns: what UPDATE may not set can be inserted. Foreign keys do not fire.
    fn replace(&self, delete: &str, given: &[(usize, &TargetColumn, String)]) -> [String; 2] {
        let values = self.written().map(|(i, c)| match given.iter().find(|(g, ..)| *g == i) {
            Some((.., param)) => (c.ident.clone(), param.clone()),
            None => (c.ident.clone(), format!("old.{}", c.ident)),
        });
        let others = self.others.iter().map(|ident| (ident.clone(), format!("old.{ident}")));
        let (columns, values): (Vec<_>, Vec<_>) = values.chain(others).unzip();
        let (columns, values) = (columns.join(", "), values.join(", "));
        [
            format!("old AS ({delete} RETURNING t.*)"),
            format!(
                "INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE SELECT {values} FROM old",
                self.name
            ),
        ]
    }

    /// One of the rows whose every value is, byte for byte, the parameter's (`record_image_eq`);
    /// `known` are the columns that are compared. Without the casts to record PostgreSQL would look
    /// for an operator `*=` of each column.
    fn by_image(&self, known: &[bool], params: &mut Params) -> String {
        let columns: Vec<_> =
            self.columns.iter().zip(known).filter(|(_, known)| **known).map(|(c, _)| c).collect();
        let stored = join(
            columns.iter().map(|c| match c.domain {
                true => format!("t.{}::{}", c.ident, c.sql_type),
                false => format!("t.{}", c.ident),
            }),
            ", ",
        );
        let given = join(columns.iter().map(|c| params.next(c)), ", ");
        format!(
            "(SELECT t.tableoid, t.ctid FROM {} AS t \
             WHERE ROW({stored})::record OPERATOR(pg_catalog.*=) ROW({given})::record LIMIT 1)",
            self.only()
        )
    }

    /// One row of a table without a key; parameters are the known columns.
    pub fn delete_image(&self, known: &[bool]) -> String {
        self.delete_one(known, &mut Params::default())
    }

    fn delete_one(&self, known: &[bool], params: &mut Params) -> String {
        let row = self.by_image(known, params);
        format!(
            "DELETE FROM {} AS t USING {row} AS old \
             WHERE t.tableoid = old.tableoid AND t.ctid = old.ctid",
            self.only()
        )
    }

    /// One row of a table without a key, of which a column changes that UPDATE may not set; parameters are
    /// the known columns of the old row, then the columns of [`Shape::given`].
    pub fn replace_image(&self, known: &[bool], shape: &Shape) -> String {
        let mut params = Params::default();
        let delete = self.delete_one(known, &mut params);
        let [old, insert] = self.replace(&delete, &self.given_params(shape, &mut params));
        format!("WITH {old} {insert}")
    }

    /// One row of a table without a key; parameters are the known columns of the old row, then the
    /// set ones.
    pub fn update_image(&self, known: &[bool], shape: &Shape) -> String {
        let mut params = Params::default();
        let row = self.by_image(known, &mut params);
        let set =
            join(shape.set(self).map(|(_, c)| format!("{} = {}", c.ident, params.next(c))), ", ");
        format!(
            "UPDATE {} AS t SET {set} FROM {row} AS old \
             WHERE t.tableoid = old.tableoid AND t.ctid = old.ctid",
            self.only()
        )
    }
}

/// Statements over a set of rows, which is one parameter: an array of the target's row type, with the
/// key columns `k0…` as they were and the columns `c0…` as they become, numbered as in the relation.
impl TargetTable {
    fn arrival_type(column: &TargetColumn) -> &str {
        column.via.as_ref().unwrap_or(&column.sql_type)
    }

    /// Fields of the row type.
    pub fn row_type_fields(&self) -> usize {
        self.keys().count() + self.columns.len()
    }

    /// The row type, which lasts as long as the session or until the next of that name, and then a query for
    /// its oid.
    pub fn create_row_type(&self, row_type: &str) -> String {
        let keys = self.keys().map(|(i, c)| format!("k{i} {}", Self::arrival_type(c)));
        let columns =
            self.columns.iter().enumerate().map(|(i, c)| format!("c{i} {}", Self::arrival_type(c)));
        let fields = join(keys.chain(columns), ", ");
        format!(
            "DROP TYPE IF EXISTS {row_type}; CREATE TYPE {row_type} AS ({fields}); \
             SELECT {}::pg_catalog.regtype::pg_catalog.oid",
            literal(row_type)
        )
    }

    fn given(name: char, index: usize, column: &TargetColumn) -> String {
        match column.via {
            Some(_) => format!("s.{name}{index}::{}", column.sql_type),
            None => format!("s.{name}{index}"),
        }
    }

    fn key_is_given(&self) -> String {
        join(
            self.keys()
                .map(|(i, c)| format!("t.{} {} {}", c.ident, c.equals, Self::given('k', i, c))),
            " AND ",
        )
    }

    /// Inserts every row of the array `$1`.
    pub fn insert_set(&self, row_type: &str) -> String {
        format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE \
             SELECT {} FROM pg_catalog.unnest($1::{row_type}[]) AS s",
            self.name,
            self.column_list(),
            join(self.written().map(|(i, c)| Self::given('c', i, c)), ", ")
        )
    }

    /// Updates by every row of the array `$1`.
    pub fn update_set(&self, row_type: &str, shape: &Shape) -> String {
        let set = join(
            shape.set(self).map(|(i, c)| format!("{} = {}", c.ident, Self::given('c', i, c))),
            ", ",
        );
        let mut condition = self.key_is_given();
        for (i, c) in shape.compared(self) {
            let value = Self::given('c', i, c);
            condition.push_str(&format!(" AND t.{} {} {value}", c.ident, c.equals));
        }
        format!(
            "UPDATE {} AS t SET {set} FROM pg_catalog.unnest($1::{row_type}[]) AS s \
             WHERE {condition}",
            self.only()
        )
    }

    /// Whether keys can be given as [`delete_set`](Self::delete_set) takes them: arrays have no arrays.
    pub fn takes_key_arrays(&self) -> bool {
        self.keys().all(|(_, column)| !Self::arrival_type(column).ends_with("[]"))
    }

    /// Deletes the rows of many keys; parameters are arrays, one for each key column.
    pub fn delete_set(&self) -> String {
        let keys: Vec<_> = self.keys().collect();
        if let [(_, key)] = keys.as_slice() {
            let given = format!("$1::{}[]", Self::arrival_type(key));
            let given = match key.via {
                Some(_) => format!("{given}::{}[]", key.sql_type),
                None => given,
            };
            return format!(
                "DELETE FROM {} AS t WHERE t.{} {} ANY ({given})",
                self.only(),
                key.ident,
                key.equals
            );
        }
        let arrays = keys.iter().zip(1..).map(|((_, c), number)| {
            format!("pg_catalog.unnest(${number}::{}[])", Self::arrival_type(c))
        });
        format!(
            "DELETE FROM {} AS t USING ROWS FROM ({}) AS s ({}) WHERE {}",
            self.only(),
            join(arrays, ", "),
            join(keys.iter().map(|(i, _)| format!("k{i}")), ", "),
            self.key_is_given()
        )
    }

    /// Deletes the rows between two keys, both included; parameters are an array of each end. For a key
    /// of one integer column.
    pub fn delete_ranges(&self) -> String {
        let key = self.keys().next().map(|(_, c)| (c.ident.as_str(), c.sql_type.as_str()));
        let (key, sql_type) = key.unwrap_or_default();
        format!(
            "DELETE FROM {} AS t \
             USING ROWS FROM (pg_catalog.unnest($1::{sql_type}[]), pg_catalog.unnest($2::{sql_type}[])) \
                   AS s (first, last) \
             WHERE t.{key} OPERATOR(pg_catalog.>=) s.first AND t.{key} OPERATOR(pg_catalog.<=) s.last",
            self.only()
        )
    }
}
