//! What is to be done to a table of the server when the source's has changed: pure.
//!
//! Columns are told by their names here. Whatever is there already is no change, whoever made it.

use std::collections::BTreeMap;

use super::ddl::{literal, qualified, quoted};
use super::types::ColumnType;
use crate::schema::{Column, Operation, Policy, Table, Verdict, diff, sequence};

/// A table of the server: what rows are written to.
#[derive(Debug, Default)]
pub(super) struct Actual {
    /// `database`.`table`
    pub(super) name: String,
    /// Types by column.
    pub(super) columns: BTreeMap<String, String>,
    /// Told apart and sorted by these: their names and types are fixed.
    pub(super) keys: Vec<String>,
    pub(super) is_empty: bool,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) statements: Vec<String>,
    /// What the server's owner is to do first: what happened, and the statements.
    pub(super) asks: Vec<(String, String)>,
    /// Columns that only the server has from here on.
    pub(super) kept: Vec<String>,
    /// See [`Record::later`](super::records::Record::later).
    pub(super) later: Vec<Column>,
}

/// What is known of a change.
pub(super) struct Change<'a> {
    pub(super) from: &'a Table,
    pub(super) to: &'a Table,
    /// As the target's columns are.
    pub(super) kept: &'a [String],
    /// The command's tag; `None`: a row's description shows it.
    pub(super) command: Option<&'a str>,
    pub(super) policy: Policy,
    /// The type that a column gets, when that is known.
    pub(super) type_of: &'a dyn Fn(&Column) -> Option<ColumnType>,
}

impl Change<'_> {
    pub(super) fn plan(&self, actual: &Actual) -> Planned {
        let mut planned = Planned { kept: self.kept.to_vec(), ..Planned::default() };
        planned.kept.retain(|name| actual.columns.contains_key(name));
        for operation in diff(self.from, self.to) {
            match &operation {
                Operation::DropColumn(name) => self.drop(&mut planned, actual, name),
                Operation::RenameColumns(renames) => self.rename(&mut planned, actual, renames),
                Operation::AddColumn(new) => self.add(&mut planned, actual, new),
                Operation::ChangeType(new) => self.retype(&mut planned, actual, &operation, new),
                Operation::DropNotNull(name) => {
                    let new = self.to.columns.iter().find(|column| column.name == *name);
                    if let Some(new) = new {
                        self.retype(&mut planned, actual, &operation, new);
                    }
                }
                // a column may be Nullable where it need not be, and every value is in the stream
                Operation::SetNotNull(_)
                | Operation::SetDefault(_)
                | Operation::SetGenerated(_)
                // of the table itself: see `evolve`
                | Operation::MoveTable { .. }
                | Operation::CreateTable
                | Operation::DropTable => {}
            }
        }
        planned
    }

    fn drop(&self, planned: &mut Planned, actual: &Actual, name: &str) {
        if !actual.columns.contains_key(name) {
            return;
        }
        let apply = self.policy.verdict(&Operation::DropColumn(name.to_owned())) == Verdict::Apply;
        // it may have left the publication's list of columns
        let sure = self.command.is_some_and(|command| !command.ends_with(" PUBLICATION"));
        if apply && sure && !actual.keys.iter().any(|key| key == name) {
            planned.statements.push(format!(
                "ALTER TABLE {} DROP COLUMN {}",
                actual.name,
                quoted(name)
            ));
        } else {
            planned.kept.push(name.to_owned());
        }
    }

    fn rename(&self, planned: &mut Planned, actual: &Actual, renames: &[(String, String)]) {
        let there = |name: &str| actual.columns.contains_key(name);
        let is_new = |name: &str| renames.iter().any(|(_, to)| to == name);
        let heads = || renames.iter().filter(|(from, _)| !is_new(from));
        // of names that only change places nobody can tell whether they have
        let cyclic = sequence(renames).len() > renames.len();
        if !cyclic
            && renames.iter().all(|(_, to)| there(to))
            && heads().all(|(from, _)| !there(from))
        {
            return;
        }
        // a part of it may have been done before
        let is_freed = |name: &str| renames.iter().any(|(from, _)| from == name);
        let is_left = |from: &str, to: &str| there(from) && (is_freed(to) || !there(to));
        let steps = sequence(renames).into_iter().filter(|(a, b)| cyclic || is_left(a, b));
        let statements = steps.map(|(from, to)| {
            let (from, to) = (quoted(&from), quoted(&to));
            format!("ALTER TABLE {} RENAME COLUMN {from} TO {to}", actual.name)
        });
        let statements: Vec<_> = statements.collect();
        let each: Vec<_> =
            renames.iter().map(|(a, b)| format!("column {a} is called {b} now")).collect();
        let mut what = each.join(", ");
        for (_, to) in renames {
            if there(to) && !is_freed(to) {
                self.make_way(planned, actual, to);
            }
        }
        if renames.iter().any(|(from, _)| actual.keys.contains(from)) {
            what.push_str(", and columns of the key keep their names here");
            return planned.asks.push((what, anew(actual)));
        }
        match self.policy.verdict(&Operation::RenameColumns(renames.to_vec())) {
            Verdict::Apply => planned.statements.extend(statements),
            _ if cyclic => {
                what.push_str(", which cannot be seen when you have done it");
                let set = "set schema_changes = \"apply\" for this target until it has gone on";
                planned.asks.push((what, set.to_owned()));
            }
            _ => planned.asks.push((what, statements.join("; "))),
        }
    }

    /// A column in the place of another one that only the server has.
    fn make_way(&self, planned: &mut Planned, actual: &Actual, name: &str) {
        let statement = format!("ALTER TABLE {} DROP COLUMN {}", actual.name, quoted(name));
        planned.kept.retain(|kept| kept != name);
        if self.policy == Policy::Apply {
            return planned.statements.insert(0, statement);
        }
        let what = format!("column {name} is a new one, and the old one is in its way");
        planned.asks.push((what, statement));
    }

    fn add(&self, planned: &mut Planned, actual: &Actual, new: &Column) {
        let dropped = planned.statements.iter().any(|statement| {
            *statement == format!("ALTER TABLE {} DROP COLUMN {}", actual.name, quoted(&new.name))
        });
        let renamed = self.from.columns.iter().any(|old| {
            let now = self.to.column(old.number);
            old.name == new.name && now.is_some_and(|now| now.name != old.name)
        });
        if planned.kept.contains(&new.name) {
            self.make_way(planned, actual, &new.name);
        } else if actual.columns.contains_key(&new.name) && !dropped && !renamed {
            return;
        }
        let Some(ty) = (self.type_of)(new) else {
            return planned.later.push(new.clone());
        };
        let mut statement =
            format!("ALTER TABLE {} ADD COLUMN {} {ty}", actual.name, quoted(&new.name));
        let missing = new.missing.as_ref().filter(|_| !actual.is_empty);
        let value = missing.map(|text| value(text, &ty.to_string(), &new.type_name));
        if let Some(value) = value.as_ref().and_then(Option::as_ref) {
            statement.push_str(&format!(" DEFAULT {value}"));
        }
        let verdict = self.policy.verdict(&Operation::AddColumn(new.clone()));
        // what the rows have that are there already must be known
        let unknown = new.partial && new.not_null && !actual.is_empty || value == Some(None);
        match verdict {
            Verdict::Apply if !unknown => planned.statements.push(statement),
            _ => planned.asks.push((format!("column {} was added", new.name), statement)),
        }
    }

    fn retype(&self, planned: &mut Planned, actual: &Actual, operation: &Operation, new: &Column) {
        let old = self.from.column(new.number).map_or(&new.name, |old| &old.name);
        let found = actual.columns.get(old).or_else(|| actual.columns.get(&new.name));
        let Some(found) = found else { return };
        let Some(ty) = (self.type_of)(new) else {
            return planned.later.push(new.clone());
        };
        let to = kept_nullable(found, ty.to_string());
        if ty.matches(found) || *found == to {
            return;
        }
        let what = format!("column {} is {} now", new.name, new.type_name);
        if actual.keys.contains(&new.name) || actual.keys.contains(old) {
            let what = format!("{what}, and columns of the key keep their types here");
            return planned.asks.push((what, anew(actual)));
        }
        let (table, name) = (&actual.name, quoted(&new.name));
        let statement = match actual.is_empty {
            false => format!("ALTER TABLE {table} MODIFY COLUMN {name} {to}"),
            // not every type can be made of every other, nor a DEFAULT of the one fit the other
            true => {
                let after = self.after(actual, new);
                format!("ALTER TABLE {table} DROP COLUMN {name}, ADD COLUMN {name} {ty}{after}")
            }
        };
        // the values that are there must stay what they are
        let exact = actual.is_empty || is_exact(found, &to);
        match self.policy.verdict(operation) {
            Verdict::Apply if exact => planned.statements.push(statement),
            _ => planned.asks.push((what, statement)),
        }
    }

    /// Where a column belongs that is made anew: behind the next one before it that was there all the time.
    fn after(&self, actual: &Actual, new: &Column) -> String {
        let before = self.to.columns.iter().take_while(|column| column.number != new.number);
        let stays = |column: &&Column| {
            let old = self.from.column(column.number);
            old.is_some_and(|old| old.name == column.name)
                && actual.columns.contains_key(&column.name)
        };
        let last = before.filter(stays).last();
        last.map(|column| format!(" AFTER {}", quoted(&column.name))).unwrap_or_default()
    }
}

/// For what ClickHouse cannot do to a table: it is made anew, and filled from the old one.
fn anew(actual: &Actual) -> String {
    let table = &actual.name;
    let old = format!("{}_old`", table.trim_end_matches('`'));
    format!(
        "RENAME TABLE {table} TO {old}, and, unless its rows come again by themselves, when the target has gone \
         on: INSERT INTO {table} (…) SELECT … FROM {old}"
    )
}

/// The server makes no column that may be NULL into one that may not; it need not be one, either. Arrays and tuples
/// cannot be NULL: they take the place of what is with a default.
fn kept_nullable(found: &str, to: String) -> String {
    let is_nullable =
        |ty: &str| ty.strip_prefix("LowCardinality(").unwrap_or(ty).starts_with("Nullable(");
    if !is_nullable(found) || is_nullable(&to) {
        return to;
    }
    let low = to.strip_prefix("LowCardinality(").and_then(|to| to.strip_suffix(')'));
    match low {
        Some(inner) => format!("LowCardinality(Nullable({inner}))"),
        None if ["Array(", "Tuple(", "Map("].iter().any(|head| to.starts_with(head)) => {
            format!("{to} DEFAULT defaultValueOfTypeName({})", literal(&to))
        }
        None => format!("Nullable({to})"),
    }
}

/// Whether a conversion of the server's changes no value.
fn is_exact(from: &str, to: &str) -> bool {
    let bare = |name: &str| {
        let inner = name.strip_prefix("Nullable(").and_then(|name| name.strip_suffix(')'));
        (inner.unwrap_or(name).to_owned(), inner.is_some())
    };
    let ((from, from_null), (to, to_null)) = (bare(from), bare(to));
    if from_null && !to_null {
        return false;
    }
    let number = |name: &str, head: &str| name.strip_prefix(head)?.parse::<u32>().ok();
    let decimal = |name: &str| {
        let (digits, scale) = name.strip_prefix("Decimal(")?.strip_suffix(')')?.split_once(',')?;
        Some((digits.trim().parse::<u32>().ok()?, scale.trim().parse::<u32>().ok()?))
    };
    let wider =
        |head| matches!((number(&from, head), number(&to, head)), (Some(a), Some(b)) if a <= b);
    let more = matches!(
        (decimal(&from), decimal(&to)),
        (Some((digits, scale)), Some((more, same))) if scale == same && digits <= more
    );
    from == to || wider("Int") || wider("UInt") || wider("Float") || more
}

/// The expression of a value that PostgreSQL wrote as text, in a type of the server; `None` when there is
/// none.
fn value(text: &str, ty: &str, type_name: &str) -> Option<String> {
    let text_type = ty.contains("String");
    if let Some(element) = ty.strip_prefix("Array(").and_then(|ty| ty.strip_suffix(')')) {
        let element_type = type_name.strip_suffix("[]").unwrap_or(type_name);
        let elements = elements(text)?.into_iter().map(|element_text| match element_text {
            Some(text) => value(&text, element, element_type),
            None => Some("NULL".to_owned()),
        });
        let elements: Vec<_> = elements.collect::<Option<_>>()?;
        return Some(format!("CAST([{}], {})", elements.join(", "), literal(ty)));
    }
    if type_name == "bytea" && text_type {
        return Some(format!("unhex({})", literal(text.strip_prefix("\\x")?)));
    }
    if ty.contains("DateTime64") {
        if text.contains("infinity") || text.ends_with("BC") {
            return None;
        }
        return Some(format!("parseDateTime64BestEffort({}, 6, 'UTC')", literal(text)));
    }
    Some(format!("CAST({}, {})", literal(text), literal(ty)))
}

/// Of an array of one dimension that begins at 1, in text form.
fn elements(text: &str) -> Option<Vec<Option<String>>> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    let mut found = Vec::new();
    let mut chars = inner.chars().peekable();
    while chars.peek().is_some() {
        let (mut element, mut quoted) = (String::new(), false);
        while let Some(c) = chars.next_if(|c| quoted || *c != ',') {
            match c {
                '"' if quoted => break,
                '"' => quoted = true,
                '\\' => element.push(chars.next()?),
                '{' if !quoted => return None,
                c => element.push(c),
            }
        }
        chars.next_if(|c| *c == ',');
        found.push((quoted || element != "NULL").then_some(element));
    }
    Some(found)
}

/// The statement that gives a table another name.
pub(super) fn move_table(database: &str, from: &str, to: &str) -> String {
    format!("RENAME TABLE {} TO {}", qualified(database, from), qualified(database, to))
}
