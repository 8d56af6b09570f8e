//! Changes as the stream brings them, made by the encoder that the plugin uses.

use std::sync::Arc;

use rsrepl_sidecar::batch::{Batch, Change, Operation, Position};
use rsrepl_wire::text::oid;
use rsrepl_wire::{
    Column, Encoding, Frame, FrameWriter, Lsn, Message, OldRowKind, Relation, ReplicaIdentity,
    RowShape, RowWriter, TypeKind,
};

/// One value of a row, in the column's encoding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cell {
    Null,
    Unchanged,
    Value(Vec<u8>),
}

/// A `text` value.
pub fn text(value: &str) -> Cell {
    Cell::Value(value.as_bytes().to_vec())
}

/// An `int4` value.
pub fn int(value: i32) -> Cell {
    Cell::Value(value.to_le_bytes().to_vec())
}

/// A column of any type; see [`rsrepl_wire::Column`] for the rest.
pub fn column(name: &str, base_oid: u32, encoding: Encoding) -> Column {
    Column {
        name: name.into(),
        number: 1, // see `table`
        key: false,
        not_null: false,
        generated: false,
        type_oid: base_oid,
        base_oid,
        typmod: -1,
        kind: TypeKind::Base,
        element_oid: 0,
        element_kind: TypeKind::Base,
        type_schema: "pg_catalog".into(),
        type_name: "t".into(),
        encoding,
    }
}

/// A `text` column.
pub fn text_column(name: &str) -> Column {
    column(name, oid::TEXT, Encoding::Varlena)
}

/// An `int4` column.
pub fn int_column(name: &str) -> Column {
    column(name, oid::INT4, Encoding::Fixed(4))
}

/// Makes a column a part of the key.
pub fn key(column: Column) -> Column {
    Column { key: true, not_null: true, ..column }
}

/// The columns with attribute numbers from 1 on.
pub fn numbered(columns: Vec<Column>) -> Vec<Column> {
    (1..).zip(columns).map(|(number, column)| Column { number, ..column }).collect()
}

/// A table in schema `public` with the oid.
pub fn table(
    oid: u32,
    name: &str,
    identity: ReplicaIdentity,
    columns: Vec<Column>,
) -> Arc<Relation> {
    Arc::new(Relation {
        oid,
        schema: "public".into(),
        name: name.into(),
        replica_identity: identity,
        columns: numbered(columns),
    })
}

/// Runs a change through a frame.
fn change(relation: &Arc<Relation>, lsn: u64, write: impl FnOnce(&mut FrameWriter)) -> Change {
    let mut writer = FrameWriter::new();
    writer.start(Lsn(lsn), 1);
    write(&mut writer);
    let frame = Frame::parse(writer.finish().to_vec().into()).unwrap();
    let operation = match frame.messages().next().unwrap().unwrap() {
        Message::Insert(insert) => Operation::Insert { new: insert.new },
        Message::Update(update) => Operation::Update { old: update.old, new: update.new },
        Message::Delete(delete) => Operation::Delete { old: delete.old },
        other => panic!("{other:?}"),
    };
    made(relation, lsn, operation)
}

/// A change of a transaction whose end is not known yet.
fn made(relation: &Arc<Relation>, lsn: u64, operation: Operation) -> Change {
    Change { lsn: Lsn(lsn), end_lsn: Lsn::INVALID, relation: Arc::clone(relation), operation }
}

fn shape(cells: &[Cell]) -> RowShape {
    RowShape {
        columns: cells.len(),
        nulls: cells.contains(&Cell::Null),
        unchanged: cells.contains(&Cell::Unchanged),
    }
}

fn put(relation: &Relation, cells: &[Cell], row: &mut RowWriter<'_>) {
    assert_eq!(relation.columns.len(), cells.len());
    for (column, cell) in relation.columns.iter().zip(cells) {
        match (cell, column.encoding) {
            (Cell::Null, _) => row.null(),
            (Cell::Unchanged, _) => row.unchanged(),
            (Cell::Value(bytes), Encoding::Fixed(_)) => row.fixed(bytes),
            (Cell::Value(bytes), _) => row.variable(bytes),
        }
    }
}

/// An INSERT.
pub fn insert(relation: &Arc<Relation>, lsn: u64, new: &[Cell]) -> Change {
    change(relation, lsn, |w| {
        w.insert(Lsn(lsn), relation.oid, shape(new), |row| put(relation, new, row));
    })
}

/// An UPDATE that leaves the key as it is.
pub fn update(relation: &Arc<Relation>, lsn: u64, new: &[Cell]) -> Change {
    change(relation, lsn, |w| {
        w.update(Lsn(lsn), relation.oid, shape(new), |row| put(relation, new, row));
    })
}

/// The columns of a replica identity; the others are null and say nothing.
pub fn only_key(relation: &Relation, cells: &[Cell]) -> Vec<Cell> {
    let keep = |(column, cell): (&Column, &Cell)| {
        if column.key { cell.clone() } else { Cell::Null }
    };
    relation.columns.iter().zip(cells).map(keep).collect()
}

/// The old row, as much of it as the replica identity gives.
fn old_row(relation: &Relation, old: &[Cell]) -> (OldRowKind, Vec<Cell>) {
    match relation.replica_identity {
        ReplicaIdentity::Full => (OldRowKind::Full, old.to_vec()),
        _ => (OldRowKind::Key, only_key(relation, old)),
    }
}

/// An UPDATE with its old row.
pub fn update_from(relation: &Arc<Relation>, lsn: u64, old: &[Cell], new: &[Cell]) -> Change {
    let (kind, old) = old_row(relation, old);
    change(relation, lsn, |w| {
        w.update_with_old(
            Lsn(lsn),
            relation.oid,
            kind,
            shape(&old),
            |row| put(relation, &old, row),
            shape(new),
            |row| put(relation, new, row),
        );
    })
}

/// A DELETE.
pub fn delete(relation: &Arc<Relation>, lsn: u64, old: &[Cell]) -> Change {
    let (kind, old) = old_row(relation, old);
    change(relation, lsn, |w| {
        w.delete(Lsn(lsn), relation.oid, kind, shape(&old), |row| put(relation, &old, row));
    })
}

/// A TRUNCATE.
pub fn truncate(relation: &Arc<Relation>, lsn: u64) -> Change {
    made(relation, lsn, Operation::Truncate { restart_identity: false, parted: false })
}

/// The changes of one transaction that ends at `end`.
pub fn transaction(mut changes: Vec<Change>, end: u64) -> Vec<Change> {
    for change in &mut changes {
        change.end_lsn = Lsn(end);
    }
    changes
}

/// A batch that ends with a commit at `end`, or a part of a transaction. What is of no transaction yet
/// is of the one that ends there.
pub fn batch(mut changes: Vec<Change>, end: Option<u64>) -> Batch {
    for change in changes.iter_mut().filter(|change| change.end_lsn == Lsn::INVALID) {
        change.end_lsn = Lsn(end.expect("the end of the transaction, see `transaction`"));
    }
    let commit = end.map(|end| Position { lsn: Lsn(end), commit_time: 0, xid: 1 });
    let mut ends: Vec<Position> = changes
        .iter()
        .map(|c| Position { lsn: c.end_lsn, commit_time: 1_000_000, xid: c.end_lsn.0 as u32 + 700 })
        .collect();
    ends.dedup();
    let transactions = commit.iter().count() as u64;
    Batch { changes, ends, commit, transactions, ..Batch::default() }
}
