//! The operations between two descriptions of a table.

use std::collections::HashSet;

use super::table::{Column, Generated, Table};

/// One step. They are in an order in which they can be done one after the other, and a column is called
/// in each as it is called by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// As the new description has it.
    CreateTable,
    DropTable,
    /// RENAME TABLE, SET SCHEMA, or both.
    MoveTable {
        schema: String,
        name: String,
    },
    /// By name.
    DropColumn(String),
    /// From and to, all at once: names may be swapped. See [`sequence`].
    RenameColumns(Vec<(String, String)>),
    /// With everything that the new description says of it.
    AddColumn(Column),
    /// To the type and collation of this column.
    ChangeType(Column),
    /// To what this column is generated from, or no more generated.
    SetGenerated(Column),
    SetDefault(Column),
    SetNotNull(String),
    DropNotNull(String),
}

/// What makes `from` into `to`, both of them of one table of the source.
pub fn diff(from: &Table, to: &Table) -> Vec<Operation> {
    let mut operations = Vec::new();
    if (&from.schema, &from.name) != (&to.schema, &to.name) {
        operations.push(Operation::MoveTable { schema: to.schema.clone(), name: to.name.clone() });
    }
    for column in &from.columns {
        if to.column(column.number).is_none() {
            operations.push(Operation::DropColumn(column.name.clone()));
        }
    }
    let both = || to.columns.iter().filter_map(|c| Some((from.column(c.number)?, c)));
    let renames: Vec<_> = both()
        .filter(|(old, new)| old.name != new.name)
        .map(|(old, new)| (old.name.clone(), new.name.clone()))
        .collect();
    if !renames.is_empty() {
        operations.push(Operation::RenameColumns(renames));
    }
    for (old, new) in both() {
        change_column(&mut operations, old, new);
    }
    for column in &to.columns {
        if from.column(column.number).is_none() {
            operations.push(Operation::AddColumn(column.clone()));
        }
    }
    operations
}

fn change_column(operations: &mut Vec<Operation>, old: &Column, new: &Column) {
    let retyped = (&old.type_name, &old.collation) != (&new.type_name, &new.collation);
    // first: what is generated takes a new type in another way
    let regenerated = new.generated != Generated::No && old.default != new.default;
    if old.generated != new.generated || regenerated {
        operations.push(Operation::SetGenerated(new.clone()));
    }
    if retyped {
        operations.push(Operation::ChangeType(new.clone()));
    }
    if new.generated == Generated::No
        && (old.default != new.default || retyped && new.default.is_some())
    {
        operations.push(Operation::SetDefault(new.clone()));
    }
    match (old.not_null, new.not_null) {
        (false, true) => operations.push(Operation::SetNotNull(new.name.clone())),
        (true, false) => operations.push(Operation::DropNotNull(new.name.clone())),
        _ => {}
    }
}

/// Renames one after the other, such that no name is taken when it is given: names that are swapped go
/// by way of one that nobody has.
pub fn sequence(renames: &[(String, String)]) -> Vec<(String, String)> {
    let mut left: Vec<(String, String)> = renames.to_vec();
    let mut steps = Vec::new();
    while !left.is_empty() {
        let taken: HashSet<String> = left.iter().map(|(from, _)| from.clone()).collect();
        match left.iter().position(|(_, to)| !taken.contains(to)) {
            Some(free) => steps.push(left.remove(free)),
            // nothing but cycles: one name of each has to make way
            None => {
                let Some((from, _)) = left.first_mut() else { break };
                let aside = aside(from, &taken);
                steps.push((std::mem::replace(from, aside.clone()), aside));
            }
        }
    }
    steps
}

/// A name for the time being, shorter than PostgreSQL cuts names at.
fn aside(name: &str, taken: &HashSet<String>) -> String {
    let short: String = name.chars().take(12).collect();
    (0..).map(|n| format!("{short}_rsrepl_{n}")).find(|n| !taken.contains(n)).unwrap_or_default()
}
