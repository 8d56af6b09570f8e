//! What is to be done to a table of the target when the source's has changed: pure.
//!
//! What the source changed is compared with what the target has; anything that is there already is no
//! change, whoever made it, and what the source did not change is left as it is.

use super::ddl;
use super::records::Record;
use super::sql::qualified;
use crate::schema::{self, Column, Generated, Operation, Policy, Table, Verdict, diff};

/// A table of the target, as its catalog has it.
#[derive(Clone, Debug, Default)]
pub struct Actual {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// Foreign keys of other tables refer to it.
    pub referenced: bool,
    pub partitioned: bool,
    pub columns: Vec<ActualColumn>,
}

#[derive(Clone, Debug, Default)]
pub struct ActualColumn {
    pub number: i16,
    pub name: String,
    /// By `format_type`.
    pub type_name: String,
    pub not_null: bool,
    pub default: Option<String>,
    pub generated: bool,
    pub identity: bool,
}

/// How a change came to be known.
#[derive(Clone, Copy, Debug)]
pub struct How<'a> {
    /// The command's tag; `None`: by a row's description, which knows nothing of defaults, nor why a column
    /// is no longer there.
    pub command: Option<&'a str>,
    /// All rows follow.
    pub rewrite: bool,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// In this order.
    pub statements: Vec<String>,
    /// What the target's owner is to do first: what happened, and the statements.
    pub asks: Vec<(String, Vec<String>)>,
}

/// `record`: the table as it was; `actual`: the target's, under whatever name; `owner`: another table of the
/// source that has it.
pub fn plan(
    record: Option<&Record>,
    to: &Table,
    actual: Option<&Actual>,
    owner: Option<&Record>,
    how: How<'_>,
    policy: Policy,
) -> Planned {
    let mut planned = Planned::default();
    let alter = Alter { to, how, policy };
    match (actual, owner) {
        (Some(actual), Some(owner)) => alter.replace(&mut planned, actual, owner),
        (Some(actual), None) => alter.change(&mut planned, record, actual),
        // it was there: the row that comes next says what is missing
        (None, _) if record.is_some() => {}
        (None, _) => alter.create(&mut planned),
    }
    planned
}

struct Alter<'a> {
    to: &'a Table,
    how: How<'a>,
    policy: Policy,
}

impl Alter<'_> {
    fn create(&self, planned: &mut Planned) {
        if !self.to.rows {
            return;
        }
        let statement = ddl::create(self.to);
        // else it may be one that the target has under another name
        let makes = |command: &str| {
            command.starts_with("CREATE")
                || command.contains("PUBLICATION")
                || command == "SELECT INTO"
        };
        let known = self.how.command.is_none_or(makes);
        match self.policy.verdict(&Operation::CreateTable) {
            Verdict::Apply if known => planned.statements.push(statement),
            _ => {
                let what = format!("table {} is missing", self.to);
                planned.asks.push((what, vec![statement]));
            }
        }
    }

    /// The target still has the table of another that is gone from the source, or has another name there.
    fn replace(&self, planned: &mut Planned, actual: &Actual, owner: &Record) {
        let name = qualified(&actual.schema, &actual.name);
        if owner.dropped && self.policy == Policy::Apply {
            planned.statements.push(format!("DROP TABLE {name}"));
            return self.create(planned);
        }
        let what = format!("table {} is a new one, and the target still has the old one", self.to);
        planned.asks.push((what, vec![format!("DROP TABLE {name}")]));
    }

    fn change(&self, planned: &mut Planned, record: Option<&Record>, actual: &Actual) {
        let from = self.rebased(record, actual);
        let mut operations = diff(&from, self.to);
        if record.is_none() && !self.is_plain(&mut operations, actual) {
            let added: Vec<_> = operations.iter().map(describe).collect();
            let run =
                operations.iter().flat_map(|o| ddl::statements(at(actual), o, self.to, false));
            let what = format!("{}, if it had no other name before", added.join(", "));
            planned.asks.push((what, run.collect()));
            return;
        }
        let mut at = at(actual);
        let retypes = operations.iter().any(|o| matches!(o, Operation::ChangeType(_)));
        // a key that others refer to gets its new type while it has the values that they refer to
        let later = self.how.rewrite && actual.referenced && retypes;
        let empty = self.how.rewrite && !later;
        if empty {
            planned.statements.push(clear(at, actual, actual.referenced));
        }
        let mut gone = Vec::new();
        for operation in &operations {
            let statements = ddl::statements(at, operation, self.to, empty);
            match self.verdict(operation, actual) {
                Verdict::Apply => planned.statements.extend(statements),
                Verdict::Ask => planned.asks.push((describe(operation), statements)),
                Verdict::Ignore => {
                    if let Operation::DropColumn(name) = operation {
                        gone.push(name.clone());
                    }
                }
            }
            if let Operation::MoveTable { schema, name } = operation {
                at = (schema, name);
            }
        }
        if later {
            planned.statements.push(clear(at, actual, true));
        }
        self.keep(planned, at, &gone, actual);
        self.make_way(planned, (record, &gone), &from, actual);
    }

    /// Whether it is plain what happened to a table that has not been recorded: no column of the target that
    /// the source does not have may be one that got another name.
    fn is_plain(&self, operations: &mut Vec<Operation>, actual: &Actual) -> bool {
        if !self.to.rows {
            // none of its rows will show what is missing, and those of others will
            operations.retain(|operation| matches!(operation, Operation::AddColumn(_)));
        }
        let alters = self.how.command.is_some_and(|command| command.starts_with("ALTER "));
        let adds = operations.iter().any(|o| matches!(o, Operation::AddColumn(_)));
        let known = |c: &ActualColumn| self.to.columns.iter().any(|column| column.name == c.name);
        !(alters && adds && actual.columns.iter().any(|column| !known(column)))
    }

    /// The target's table in the source's numbers. What the source has not changed counts as it should be.
    fn rebased(&self, record: Option<&Record>, actual: &Actual) -> Table {
        let to = self.to;
        let moved =
            record.is_none_or(|r| (&r.table.schema, &r.table.name) != (&to.schema, &to.name));
        let (schema, name) = match moved {
            true => (actual.schema.clone(), actual.name.clone()),
            false => (to.schema.clone(), to.name.clone()),
        };
        // where the rows come anew into an empty table, nothing is in the way of a narrower type
        let follows = self.policy == Policy::Apply && self.how.rewrite && !actual.referenced;
        let mut columns = Vec::new();
        for old in record.into_iter().flat_map(|record| &record.table.columns) {
            let found = place(record, actual, old.number, &old.name);
            columns.extend(match (found, to.column(old.number)) {
                (Some(found), Some(new)) => Some(as_found(old, new, found, follows)),
                (Some(found), None) => Some(Column { name: found.name.clone(), ..old.clone() }),
                // the row that comes next says that it is missing
                (None, Some(new)) => Some(new.clone()),
                (None, None) => None,
            });
        }
        let new = |new: &&Column| record.is_none_or(|r| r.table.column(new.number).is_none());
        for new in to.columns.iter().filter(new) {
            let owned = |found: &&ActualColumn| !is_owned(record, actual, found);
            let back = record.and_then(|r| by_number(r, actual, new.number));
            let there = actual.columns.iter().find(|c| c.name == new.name).filter(owned);
            if let Some(found) = back.or(there) {
                // what a row shows is looked at with the row
                let shown = self.how.command.is_none();
                let same = shown || schema::widens(&new.type_name, &found.type_name);
                let type_name = if same { &new.type_name } else { &found.type_name };
                let (name, type_name) = (found.name.clone(), type_name.clone());
                columns.push(Column { name, type_name, ..new.clone() });
            }
        }
        Table { schema, name, columns, ..to.clone() }
    }

    fn verdict(&self, operation: &Operation, actual: &Actual) -> Verdict {
        let verdict = self.policy.verdict(operation);
        if self.how.command.is_none_or(|command| command.ends_with(" PUBLICATION")) {
            // it may have left the publication's list of columns
            if let Operation::DropColumn(_) = operation {
                return Verdict::Ignore;
            }
        }
        if self.how.command.is_some() {
            return match operation {
                // by an expression that is not known, and the rows do not come anew: of that PostgreSQL
                // could not tell, or not all changes of the table are published
                Operation::ChangeType(new) if !self.how.rewrite && self.to.rows => {
                    self.cast(new, actual, verdict)
                }
                _ => verdict,
            };
        }
        match operation {
            Operation::SetNotNull(_) => Verdict::Ignore,
            // there is a default that is not known
            Operation::AddColumn(new) if new.not_null => Verdict::Ask,
            Operation::ChangeType(new) => self.cast(new, actual, verdict),
            _ => verdict,
        }
    }

    /// A type that holds the same values needs no more than a cast.
    fn cast(&self, new: &Column, actual: &Actual, verdict: Verdict) -> Verdict {
        let found = actual.columns.iter().find(|c| c.name == new.name);
        let exact = found.is_some_and(|f| schema::widens(&f.type_name, &new.type_name));
        if exact { verdict } else { Verdict::Ask }
    }

    /// Columns that only the target has from here on must do without values.
    fn keep(&self, planned: &mut Planned, at: (&str, &str), gone: &[String], actual: &Actual) {
        let needs_value = |column: &&ActualColumn| {
            column.not_null && column.default.is_none() && !column.generated && !column.identity
        };
        let kept = actual.columns.iter().filter(|column| gone.contains(&column.name));
        for column in kept.filter(needs_value) {
            let operation = Operation::DropNotNull(column.name.clone());
            let statements = ddl::statements(at, &operation, self.to, false);
            match self.policy.verdict(&operation) {
                Verdict::Apply => planned.statements.extend(statements),
                _ => {
                    let what = format!("column {} is gone from the source", column.name);
                    planned.asks.push((what, statements));
                }
            }
        }
    }

    /// A name that a kept column has, and another one gets.
    fn make_way(
        &self,
        planned: &mut Planned,
        (record, gone): (Option<&Record>, &[String]),
        from: &Table,
        actual: &Actual,
    ) {
        let kept = |column: &&ActualColumn| {
            let of_source = from.columns.iter().any(|c| c.name == column.name);
            gone.contains(&column.name) || !of_source && is_owned(record, actual, column)
        };
        for column in actual.columns.iter().filter(kept) {
            if !self.to.columns.iter().any(|new| new.name == column.name) {
                continue;
            }
            let drop = Operation::DropColumn(column.name.clone());
            let statements = ddl::statements(at(actual), &drop, self.to, false);
            if self.policy == Policy::Apply {
                planned.statements.splice(0..0, statements);
            } else {
                let what =
                    format!("column {} is a new one, and the old one is in its way", column.name);
                planned.asks.insert(0, (what, statements));
            }
        }
    }
}

fn at(actual: &Actual) -> (&str, &str) {
    (&actual.schema, &actual.name)
}

/// Empties a table, in place of which all rows follow; not those of tables that inherit from it.
fn clear((schema, name): (&str, &str), actual: &Actual, by_rows: bool) -> String {
    let command = if by_rows { "DELETE FROM" } else { "TRUNCATE" };
    let only = if actual.partitioned { "" } else { "ONLY " };
    format!("{command} {only}{}", qualified(schema, name))
}

fn is_same(record: &Record, actual: &Actual) -> bool {
    record.target_oid == actual.oid
}

fn by_number<'a>(record: &Record, actual: &'a Actual, number: u16) -> Option<&'a ActualColumn> {
    let place = record.places.get(&number).filter(|_| is_same(record, actual))?;
    actual.columns.iter().find(|column| column.number == *place)
}

/// The target's column for a recorded one: by its number, in a table that is another than it was by its name.
fn place<'a>(
    record: Option<&Record>,
    actual: &'a Actual,
    number: u16,
    name: &str,
) -> Option<&'a ActualColumn> {
    match record.filter(|record| is_same(record, actual)) {
        Some(record) => by_number(record, actual, number),
        None => actual.columns.iter().find(|column| column.name == name),
    }
}

/// Whether a column of the target is one that the source has, or had.
fn is_owned(record: Option<&Record>, actual: &Actual, column: &ActualColumn) -> bool {
    record.is_some_and(|r| is_same(r, actual) && r.places.values().any(|n| *n == column.number))
}

/// A column that was `old` and is `new`, as the target has it. A wider type that it has may stay; `follows`: if
/// it is not the source's.
fn as_found(old: &Column, new: &Column, found: &ActualColumn, follows: bool) -> Column {
    let own = old.type_name != found.type_name;
    let holds = || schema::widens(&new.type_name, &found.type_name);
    let fits = old.type_name == new.type_name || (own || !follows) && holds();
    let mut column = Column {
        name: if old.name == new.name { &new.name } else { &found.name }.clone(),
        type_name: if fits { &new.type_name } else { &found.type_name }.clone(),
        not_null: if old.not_null == new.not_null { new.not_null } else { found.not_null },
        collation: if old.partial || fits { &new.collation } else { &old.collation }.clone(),
        ..old.clone()
    };
    if old.partial && !new.partial {
        let stored = if found.generated { Generated::Stored } else { Generated::No };
        // without an expression nothing is known of it either
        column.generated = if old.generated == new.generated { new.generated } else { stored };
        column.default = match new.generated {
            Generated::No => found.default.clone(),
            _ => new.default.clone(),
        };
        if found.identity {
            column.default.clone_from(&new.default);
        }
    }
    column
}

fn describe(operation: &Operation) -> String {
    match operation {
        Operation::CreateTable => "the table is new".to_owned(),
        Operation::DropTable => "the table was dropped".to_owned(),
        Operation::MoveTable { schema, name } => format!("the table is called {schema}.{name} now"),
        Operation::DropColumn(name) => format!("column {name} was dropped"),
        Operation::RenameColumns(renames) => {
            let each = renames.iter().map(|(a, b)| format!("column {a} is called {b} now"));
            each.collect::<Vec<_>>().join(", ")
        }
        Operation::AddColumn(new) => format!("column {} was added", new.name),
        Operation::ChangeType(new) => format!("column {} is {} now", new.name, new.type_name),
        Operation::SetGenerated(new) => format!("column {} is generated in another way", new.name),
        Operation::SetDefault(new) => format!("column {} has another default", new.name),
        Operation::SetNotNull(name) => format!("column {name} is NOT NULL now"),
        Operation::DropNotNull(name) => format!("column {name} may be NULL now"),
    }
}

#[cfg(test)]
#[path = "alter_tests.rs"]
mod tests;
