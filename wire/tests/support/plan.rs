//! Frames as they are meant, before they are written: what a round trip is compared with.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use rsrepl_wire::{
    Begin, Column, Commit, Element, ElementEncoding, Encoding, Frame, FrameWriter, Lsn, Message,
    OldRowKind, Relation, ReplicaIdentity, Row, RowShape, RowWriter, Truncate, TypeKind, Value,
};

/// One value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    Null,
    Unchanged,
    Data(Vec<u8>),
}

/// A row with its table; the flags say that a bitmap is there though nothing needs it.
#[derive(Clone, Debug)]
pub struct PlannedRow {
    pub relation: Relation,
    pub cells: Vec<Cell>,
    pub spare_nulls: bool,
    pub spare_unchanged: bool,
}

#[derive(Clone, Debug)]
pub enum Planned {
    Relation(Relation),
    Insert(Lsn, PlannedRow),
    Update(Lsn, Option<(OldRowKind, PlannedRow)>, PlannedRow),
    Delete(Lsn, OldRowKind, PlannedRow),
    Truncate(Truncate),
    Logical(Lsn, bool, String, Vec<u8>),
}

#[derive(Clone, Debug)]
pub struct PlannedFrame {
    pub base: Lsn,
    pub xid: u32,
    pub begin: Option<Begin>,
    pub messages: Vec<Planned>,
    pub commit: Option<Commit>,
    /// Whole transactions behind the commit, if there is one.
    pub others: Vec<(Begin, Vec<Planned>, Commit)>,
    pub more: bool,
}

impl PlannedRow {
    fn shape(&self) -> RowShape {
        RowShape {
            columns: self.cells.len(),
            nulls: self.spare_nulls || self.cells.contains(&Cell::Null),
            unchanged: self.spare_unchanged || self.cells.contains(&Cell::Unchanged),
        }
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        for (cell, column) in self.cells.iter().zip(&self.relation.columns) {
            match (cell, column.encoding) {
                (Cell::Null, _) => row.null(),
                (Cell::Unchanged, _) => row.unchanged(),
                (Cell::Data(bytes), Encoding::Fixed(_)) => row.fixed(bytes),
                (Cell::Data(bytes), _) => row.variable(bytes),
            }
        }
    }

    fn check(&self, row: &Row) {
        let read = row.values(&self.relation).unwrap().map(|value| match value.unwrap() {
            Value::Null => Cell::Null,
            Value::Unchanged => Cell::Unchanged,
            Value::Data(bytes) => Cell::Data(bytes.to_vec()),
        });
        assert_eq!(read.collect::<Vec<_>>(), self.cells);
        row.validate(&self.relation).unwrap();
    }
}

impl Planned {
    fn write(&self, writer: &mut FrameWriter) {
        match self {
            Planned::Relation(relation) => writer.relation(relation),
            Planned::Insert(lsn, new) => {
                writer.insert(*lsn, new.relation.oid, new.shape(), |w| new.write(w));
            }
            Planned::Update(lsn, None, new) => {
                writer.update(*lsn, new.relation.oid, new.shape(), |w| new.write(w));
            }
            Planned::Update(lsn, Some((kind, old)), new) => writer.update_with_old(
                *lsn,
                new.relation.oid,
                *kind,
                old.shape(),
                |w| old.write(w),
                new.shape(),
                |w| new.write(w),
            ),
            Planned::Delete(lsn, kind, old) => {
                writer.delete(*lsn, old.relation.oid, *kind, old.shape(), |w| old.write(w));
            }
            Planned::Truncate(t) => {
                writer.truncate(t.lsn, t.cascade, t.restart_identity, &t.relations);
            }
            Planned::Logical(lsn, transactional, prefix, content) => {
                writer.logical(*lsn, *transactional, prefix, content);
            }
        }
    }

    fn check(&self, message: &Message) {
        match (self, message) {
            (Planned::Relation(expected), Message::Relation(found)) => assert_eq!(found, expected),
            (Planned::Insert(lsn, new), Message::Insert(found)) => {
                assert_eq!((found.lsn, found.relation), (*lsn, new.relation.oid));
                new.check(&found.new);
            }
            (Planned::Update(lsn, old, new), Message::Update(found)) => {
                assert_eq!((found.lsn, found.relation), (*lsn, new.relation.oid));
                new.check(&found.new);
                assert_eq!(found.old.is_some(), old.is_some());
                if let (Some((kind, old)), Some(found)) = (old, &found.old) {
                    assert_eq!(found.kind, *kind);
                    old.check(&found.row);
                }
            }
            (Planned::Delete(lsn, kind, old), Message::Delete(found)) => {
                assert_eq!((found.lsn, found.relation), (*lsn, old.relation.oid));
                assert_eq!(found.old.kind, *kind);
                old.check(&found.old.row);
            }
            (Planned::Truncate(expected), Message::Truncate(found)) => assert_eq!(found, expected),
            (Planned::Logical(lsn, transactional, prefix, content), Message::Logical(found)) => {
                assert_eq!((found.lsn, found.transactional), (*lsn, *transactional));
                assert_eq!((&found.prefix, &found.content[..]), (prefix, &content[..]));
            }
            _ => panic!("{self:?} was read as {message:?}"),
        }
    }
}

impl PlannedFrame {
    pub fn write(&self, writer: &mut FrameWriter) -> Vec<u8> {
        writer.start(self.base, self.xid);
        if let Some(begin) = &self.begin {
            writer.begin(begin);
        }
        self.messages.iter().for_each(|message| message.write(writer));
        if let Some(commit) = &self.commit {
            writer.commit(commit);
            for (begin, messages, commit) in &self.others {
                writer.begin(begin);
                messages.iter().for_each(|message| message.write(writer));
                writer.commit(commit);
            }
        }
        writer.set_more(self.more);
        writer.finish().to_vec()
    }

    /// Compares every field of what was read with what was meant.
    pub fn check(&self, bytes: Vec<u8>) {
        let frame = Frame::parse(Bytes::from(bytes)).unwrap();
        assert_eq!((frame.base(), frame.xid()), (self.base, self.xid));
        assert_eq!(frame.begins(), self.begin.is_some());
        assert_eq!(frame.commits(), self.commit.is_some());
        assert_eq!(frame.begin(), Ok(self.begin.clone()));
        assert_eq!(frame.more(), self.more);
        let last = self.others.last().map(|(_, _, commit)| *commit);
        assert_eq!(frame.commit(), Ok(self.commit.and(last).or(self.commit)));
        let mut messages = frame.messages().map(Result::unwrap);
        if let Some(begin) = &self.begin {
            assert_eq!(messages.next(), Some(Message::Begin(begin.clone())));
        }
        for expected in &self.messages {
            expected.check(&messages.next().expect("as many messages as were written"));
        }
        if let Some(commit) = self.commit {
            assert_eq!(messages.next(), Some(Message::Commit(commit)));
            for (begin, expected, commit) in &self.others {
                assert_eq!(messages.next(), Some(Message::Begin(begin.clone())));
                for expected in expected {
                    expected.check(&messages.next().expect("as many as were written"));
                }
                assert_eq!(messages.next(), Some(Message::Commit(*commit)));
            }
        }
        assert_eq!(messages.next(), None);
    }
}

fn lsn() -> impl Strategy<Value = Lsn> {
    // near each other, as in a stream, or anywhere
    prop_oneof![(0..100_000u64).prop_map(Lsn), any::<u64>().prop_map(Lsn)]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z_]{1,12}", ".{0,30}", Just("n".repeat(130))]
}

fn element_encoding() -> impl Strategy<Value = ElementEncoding> {
    prop_oneof![
        prop_oneof![Just(1), Just(2), Just(4), Just(8), Just(16), 1..=255u8]
            .prop_map(ElementEncoding::Fixed),
        Just(ElementEncoding::Varlena),
        Just(ElementEncoding::Numeric),
        Just(ElementEncoding::Jsonb),
    ]
}

fn encoding() -> impl Strategy<Value = Encoding> {
    prop_oneof![
        4 => element_encoding().prop_map(Encoding::from),
        1 => (element_encoding(), 0..4u32).prop_map(|(encoding, power)| {
            Encoding::Array(Element { encoding, align: 1 << power })
        }),
        1 => Just(Encoding::Send),
        1 => Just(Encoding::Text),
    ]
}

fn kind() -> impl Strategy<Value = TypeKind> {
    prop::sample::select(&b"bceprma"[..]).prop_map(|byte| TypeKind::from_byte(byte).unwrap())
}

fn column() -> impl Strategy<Value = Column> {
    let names = (name(), name(), name());
    let flags = any::<(bool, bool, bool)>();
    let oids = any::<(u32, u32, u32, i32)>();
    (names, flags, oids, kind(), kind(), encoding()).prop_map(
        |(names, flags, oids, kind, element_kind, encoding)| Column {
            name: names.0,
            number: 1, // see `relation`
            key: flags.0,
            not_null: flags.1,
            generated: flags.2,
            type_oid: oids.0,
            base_oid: oids.1,
            typmod: oids.3,
            kind,
            element_oid: oids.2,
            element_kind,
            type_schema: names.1,
            type_name: names.2,
            encoding,
        },
    )
}

pub fn relation() -> impl Strategy<Value = Relation> {
    let identity = prop::sample::select(&b"dnfi"[..]);
    // around the ends of a bitmap's bytes, none, and many
    let columns = prop_oneof![vec(column(), 0..4), vec(column(), 7..18), vec(column(), 31..34)];
    // no number comes twice: 34 columns end below 1600
    let numbers = (1..200u16, 1..40u16);
    (any::<u32>(), name(), name(), identity, columns, numbers).prop_map(
        |(oid, schema, name, identity, mut columns, (first, step))| {
            for (column, number) in columns.iter_mut().zip((first..).step_by(step.into())) {
                column.number = number;
            }
            Relation {
                oid,
                schema,
                name,
                replica_identity: ReplicaIdentity::from_byte(identity).unwrap(),
                columns,
            }
        },
    )
}

fn cell(encoding: Encoding) -> BoxedStrategy<Cell> {
    let len = match encoding {
        Encoding::Fixed(width) => usize::from(width)..usize::from(width) + 1,
        _ => 0..140, // lengths of one and of two bytes
    };
    prop_oneof![
        1 => Just(Cell::Null),
        1 => Just(Cell::Unchanged),
        4 => vec(any::<u8>(), len).prop_map(Cell::Data),
    ]
    .boxed()
}

fn row(relation: Relation) -> impl Strategy<Value = PlannedRow> {
    let cells: Vec<_> = relation.columns.iter().map(|column| cell(column.encoding)).collect();
    (cells, any::<bool>(), any::<bool>()).prop_map(move |(cells, spare_nulls, spare_unchanged)| {
        PlannedRow { relation: relation.clone(), cells, spare_nulls, spare_unchanged }
    })
}

fn change() -> impl Strategy<Value = Vec<Planned>> {
    let old_kind = prop_oneof![Just(OldRowKind::Key), Just(OldRowKind::Full)];
    let deleted_kind = prop_oneof![old_kind.clone(), Just(OldRowKind::None)];
    (lsn(), relation(), deleted_kind, option::of(old_kind), 0..3)
        .prop_flat_map(|(lsn, relation, deleted, old, which)| {
            (Just((lsn, deleted, old, which)), row(relation.clone()), row(relation))
        })
        .prop_map(|((lsn, deleted, old, which), one, two)| {
            let relation = Planned::Relation(one.relation.clone());
            let change = match which {
                0 => Planned::Insert(lsn, one),
                1 => Planned::Update(lsn, old.map(|kind| (kind, one)), two),
                _ => Planned::Delete(lsn, deleted, one),
            };
            vec![relation, change]
        })
}

fn truncate() -> impl Strategy<Value = Planned> {
    (lsn(), any::<bool>(), any::<bool>(), vec(any::<u32>(), 0..200)).prop_map(
        |(lsn, cascade, restart_identity, relations)| {
            Planned::Truncate(Truncate { lsn, cascade, restart_identity, relations })
        },
    )
}

fn logical() -> impl Strategy<Value = Planned> {
    (lsn(), any::<bool>(), name(), vec(any::<u8>(), 0..300)).prop_map(
        |(lsn, transactional, prefix, content)| {
            Planned::Logical(lsn, transactional, prefix, content)
        },
    )
}

fn begin(xid: u32) -> impl Strategy<Value = Begin> {
    (lsn(), lsn(), any::<i64>(), name()).prop_map(
        move |(final_lsn, end_lsn, commit_time, origin)| Begin {
            xid,
            final_lsn,
            end_lsn,
            commit_time,
            origin,
        },
    )
}

fn commit() -> impl Strategy<Value = Commit> {
    (lsn(), lsn(), any::<i64>()).prop_map(|(final_lsn, end_lsn, commit_time)| Commit {
        final_lsn,
        end_lsn,
        commit_time,
    })
}

pub fn frame() -> impl Strategy<Value = PlannedFrame> {
    let one = |planned: BoxedStrategy<Planned>| planned.prop_map(|message| vec![message]);
    let message =
        prop_oneof![6 => change(), 1 => one(truncate().boxed()), 1 => one(logical().boxed())];
    (lsn(), any::<u32>(), any::<u32>(), any::<bool>())
        .prop_flat_map(move |(base, xid, other, more)| {
            let messages = vec(message.clone(), 0..5);
            let others = vec((begin(other), vec(message.clone(), 0..2), commit()), 0..3);
            let first = (option::of(begin(xid)), messages, option::of(commit()));
            (Just((base, xid, more)), first, others)
        })
        .prop_map(|((base, xid, more), (begin, messages, commit), others)| PlannedFrame {
            base,
            xid,
            begin,
            messages: messages.concat(),
            commit,
            others: others
                .into_iter()
                .map(|(begin, messages, commit)| (begin, messages.concat(), commit))
                .collect(),
            more,
        })
}
