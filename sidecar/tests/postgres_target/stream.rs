//! A stream as the assembler gives it to a target, built by the format's own writer.

use std::sync::Arc;

use bytes::Bytes;
use rsrepl_sidecar::batch::{Batch, Change, Operation, Position};
use rsrepl_wire::{
    Column, Encoding, Frame, FrameWriter, Lsn, Message, OldRowKind, Relation, ReplicaIdentity,
    RowShape, RowWriter, TypeKind,
};

/// One value of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum V {
    Null,
    Unchanged,
    Fixed(Vec<u8>),
    Var(Vec<u8>),
}

pub fn int(value: i32) -> V {
    V::Fixed(value.to_le_bytes().to_vec())
}

pub fn text(value: &str) -> V {
    V::Var(value.as_bytes().to_vec())
}

/// A column of a built-in type.
pub fn column(name: &str, oid: u32, type_name: &str, encoding: Encoding) -> Column {
    Column {
        name: name.into(),
        number: 1, // see `relation`
        key: false,
        not_null: false,
        generated: false,
        type_oid: oid,
        base_oid: oid,
        typmod: -1,
        kind: TypeKind::Base,
        element_oid: 0,
        element_kind: TypeKind::Base,
        type_schema: "pg_catalog".into(),
        type_name: type_name.into(),
        encoding,
    }
}

pub fn int_column(name: &str) -> Column {
    column(name, 23, "int4", Encoding::Fixed(4))
}

pub fn text_column(name: &str) -> Column {
    column(name, 25, "text", Encoding::Varlena)
}

pub fn key(column: Column) -> Column {
    Column { key: true, not_null: true, ..column }
}

/// The columns with attribute numbers from 1 on.
pub fn numbered(columns: Vec<Column>) -> Vec<Column> {
    (1..).zip(columns).map(|(number, column)| Column { number, ..column }).collect()
}

pub fn relation(name: &str, identity: ReplicaIdentity, columns: Vec<Column>) -> Arc<Relation> {
    Arc::new(Relation {
        // any number that tells tables apart
        oid: 16384 + name.bytes().fold(0, |sum, b| sum * 31 % 1_000_003 + u32::from(b)),
        schema: "public".into(),
        name: name.into(),
        replica_identity: identity,
        columns: numbered(columns),
    })
}

/// Collects changes, and hands them out as batches. Nothing here looks at `end_lsn` of a change.
pub struct Stream {
    lsn: u64,
    changes: Vec<Change>,
}

impl Stream {
    /// Changes after this position.
    pub fn after(lsn: u64) -> Stream {
        Stream { lsn, changes: Vec::new() }
    }

    pub fn lsn(&self) -> Lsn {
        Lsn(self.lsn)
    }

    pub fn insert(&mut self, table: &Arc<Relation>, new: &[V]) {
        self.push(table, |writer, lsn| {
            writer.insert(lsn, table.oid, shape(new), |row| fill(row, new));
        });
    }

    pub fn update(&mut self, table: &Arc<Relation>, old: Option<&[V]>, new: &[V]) {
        let kind = old_kind(table);
        self.push(table, |writer, lsn| match old {
            None => writer.update(lsn, table.oid, shape(new), |row| fill(row, new)),
            Some(old) => writer.update_with_old(
                lsn,
                table.oid,
                kind,
                shape(old),
                |row| fill(row, old),
                shape(new),
                |row| fill(row, new),
            ),
        });
    }

    pub fn delete(&mut self, table: &Arc<Relation>, old: &[V]) {
        let kind = old_kind(table);
        self.push(table, |writer, lsn| {
            writer.delete(lsn, table.oid, kind, shape(old), |row| fill(row, old));
        });
    }

    pub fn truncate(&mut self, table: &Arc<Relation>) {
        self.change(
            Arc::clone(table),
            Operation::Truncate { restart_identity: false, parted: false },
        );
    }

    pub fn change(&mut self, relation: Arc<Relation>, operation: Operation) {
        self.lsn += 8;
        self.changes.push(Change {
            lsn: Lsn(self.lsn),
            end_lsn: Lsn::INVALID,
            relation,
            operation,
        });
    }

    /// What has gathered, as part of a transaction that goes on.
    pub fn part(&mut self) -> Batch {
        Batch { changes: std::mem::take(&mut self.changes), ..Batch::default() }
    }

    /// What has gathered, with a commit.
    pub fn commit(&mut self) -> Batch {
        self.commit_of(true)
    }

    /// The same of a batch that nothing waits behind.
    pub fn last_commit(&mut self) -> Batch {
        self.commit_of(false)
    }

    fn commit_of(&mut self, full: bool) -> Batch {
        self.lsn += 8;
        let commit = Position { lsn: Lsn(self.lsn), commit_time: 1_000_000, xid: 7 };
        Batch { commit: Some(commit), transactions: 1, full, ..self.part() }
    }

    fn push(&mut self, table: &Arc<Relation>, write: impl FnOnce(&mut FrameWriter, Lsn)) {
        self.lsn += 8;
        let lsn = Lsn(self.lsn);
        let mut writer = FrameWriter::new();
        writer.start(lsn, 7);
        write(&mut writer, lsn);
        let frame = Frame::parse(Bytes::copy_from_slice(writer.finish())).unwrap();
        let operation = match frame.messages().next().unwrap().unwrap() {
            Message::Insert(insert) => Operation::Insert { new: insert.new },
            Message::Update(update) => Operation::Update { old: update.old, new: update.new },
            Message::Delete(delete) => Operation::Delete { old: delete.old },
            other => panic!("not a change: {other:?}"),
        };
        let (end_lsn, relation) = (Lsn::INVALID, Arc::clone(table));
        self.changes.push(Change { lsn, end_lsn, relation, operation });
    }
}

fn old_kind(table: &Relation) -> OldRowKind {
    match table.replica_identity {
        ReplicaIdentity::Full => OldRowKind::Full,
        ReplicaIdentity::Nothing => OldRowKind::None,
        ReplicaIdentity::Default | ReplicaIdentity::Index => OldRowKind::Key,
    }
}

fn shape(row: &[V]) -> RowShape {
    RowShape {
        columns: row.len(),
        nulls: row.contains(&V::Null),
        unchanged: row.contains(&V::Unchanged),
    }
}

fn fill(row: &mut RowWriter<'_>, values: &[V]) {
    for value in values {
        match value {
            V::Null => row.null(),
            V::Unchanged => row.unchanged(),
            V::Fixed(bytes) => row.fixed(bytes),
            V::Var(bytes) => row.variable(bytes),
        }
    }
}
