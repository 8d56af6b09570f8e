//! Properties: a plan ends where the changes in their order end.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use rsrepl_wire::{
    Column, Encoding, Frame, FrameWriter, Lsn, Message, OldRowKind, Relation, ReplicaIdentity,
    RowShape, RowWriter, TypeKind, Value,
};

use super::*;
use crate::batch::{Change, Operation};

/// A value of a row; `None` is unchanged TOAST.
type Text<'a> = Option<&'a str>;

fn relation(name: &str, identity: ReplicaIdentity) -> Arc<Relation> {
    let column = |number, name: &str, key| Column {
        name: name.into(),
        number,
        key,
        not_null: key,
        generated: false,
        type_oid: 25,
        base_oid: 25,
        typmod: -1,
        kind: TypeKind::Base,
        element_oid: 0,
        element_kind: TypeKind::Base,
        type_schema: "pg_catalog".into(),
        type_name: "text".into(),
        encoding: Encoding::Varlena,
    };
    Arc::new(Relation {
        oid: 16384,
        schema: "public".into(),
        name: name.into(),
        replica_identity: identity,
        // a key of two columns that could be joined in more than one way, around another column
        columns: vec![
            column(1, "k1", true),
            column(2, "a", false),
            column(3, "k2", true),
            column(4, "b", false),
        ],
    })
}

const SHAPE: RowShape = RowShape { columns: 4, nulls: true, unchanged: true };

/// Different keys that are the same when simply put together.
fn key(id: usize) -> (String, String) {
    ("x".repeat(id % 4), "x".repeat(id / 4))
}

fn fill(row: &mut RowWriter<'_>, id: usize, a: Text<'_>, b: Text<'_>) {
    let (k1, k2) = key(id);
    for value in [Some(k1.as_str()), a, Some(k2.as_str()), b] {
        match value {
            Some(text) => row.variable(text.as_bytes()),
            None => row.unchanged(),
        }
    }
}

fn fill_key(row: &mut RowWriter<'_>, id: usize) {
    let (k1, k2) = key(id);
    row.variable(k1.as_bytes());
    row.null();
    row.variable(k2.as_bytes());
    row.null();
}

/// What one random step does; made to fit the rows that are there by [`Source::step`].
#[derive(Clone, Debug)]
struct Step {
    kind: u8,
    id: usize,
    to: usize,
    a: Option<String>,
    b: Option<String>,
}

const IDS: usize = 16;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let word = || proptest::option::of("[a-z]{1,3}");
    let step = (0..6u8, 0..IDS, 0..IDS, word(), word()).prop_map(|(kind, id, to, a, b)| Step {
        kind,
        id,
        to,
        a,
        b,
    });
    proptest::collection::vec(step, 0..60)
}

/// A row with a mark of its own: an update keeps it, a delete and insert would not.
#[derive(Clone, Debug, PartialEq)]
struct TestRow {
    a: String,
    b: String,
    mark: Option<usize>,
}

type Rows = BTreeMap<usize, TestRow>;

fn initial() -> Rows {
    let row = |id: usize| TestRow { a: format!("a{id}"), b: format!("b{id}"), mark: Some(id) };
    (0..IDS).filter(|id| id % 3 != 0).map(|id| (id, row(id))).collect()
}

/// The source: the rows as they become in order, and the changes that say so.
struct Source {
    relation: Arc<Relation>,
    rows: Rows,
    changes: Vec<Change>,
    moved: bool,
}

impl Source {
    fn new(identity: ReplicaIdentity) -> Source {
        let relation = relation("t", identity);
        Source { relation, rows: initial(), changes: Vec::new(), moved: false }
    }

    fn step(&mut self, step: &Step) {
        let there = self.rows.contains_key(&step.id);
        match step.kind {
            0 | 1 if !there => self.insert(step),
            0..=2 if there => self.update(step, step.id),
            3 if there && !self.rows.contains_key(&step.to) => self.update(step, step.to),
            4 | 5 if there => {
                self.push(|writer, source| source.put_delete(writer, step.id));
                self.rows.remove(&step.id);
            }
            _ => {}
        }
    }

    fn insert(&mut self, step: &Step) {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let row = TestRow { a: text(&step.a), b: text(&step.b), mark: None };
        self.push(|writer, source| {
            writer.insert(Lsn(1), source.relation.oid, SHAPE, |out| {
                fill(out, step.id, Some(&row.a), Some(&row.b));
            });
        });
        self.rows.insert(step.id, row);
    }

    fn update(&mut self, step: &Step, to: usize) {
        self.moved |= to != step.id;
        self.push(|writer, source| {
            let new = |out: &mut RowWriter<'_>| fill(out, to, step.a.as_deref(), step.b.as_deref());
            let oid = source.relation.oid;
            match source.old(step.id, to != step.id) {
                None => writer.update(Lsn(1), oid, SHAPE, new),
                Some((kind, old)) => {
                    writer.update_with_old(Lsn(1), oid, kind, SHAPE, old, SHAPE, new);
                }
            }
        });
        if let Some(mut row) = self.rows.remove(&step.id) {
            row.a = step.a.clone().unwrap_or(row.a);
            row.b = step.b.clone().unwrap_or(row.b);
            self.rows.insert(to, row);
        }
    }

    fn put_delete(&self, writer: &mut FrameWriter, id: usize) {
        if let Some((kind, old)) = self.old(id, true) {
            writer.delete(Lsn(1), self.relation.oid, kind, SHAPE, old);
        }
    }

    /// The old row as this replica identity sends it.
    fn old(
        &self,
        id: usize,
        key_needed: bool,
    ) -> Option<(OldRowKind, impl FnOnce(&mut RowWriter<'_>))> {
        let kind = match self.relation.replica_identity {
            ReplicaIdentity::Full => OldRowKind::Full,
            _ if key_needed => OldRowKind::Key,
            _ => return None,
        };
        let row = self.rows.get(&id);
        Some((kind, move |out: &mut RowWriter<'_>| match (kind, row) {
            (OldRowKind::Full, Some(row)) => fill(out, id, Some(&row.a), Some(&row.b)),
            _ => fill_key(out, id),
        }))
    }

    fn push(&mut self, write: impl FnOnce(&mut FrameWriter, &Source)) {
        let mut writer = FrameWriter::new();
        writer.start(Lsn(1), 1);
        write(&mut writer, self);
        let frame = Frame::parse(Bytes::copy_from_slice(writer.finish())).unwrap();
        let operation = match frame.messages().next().unwrap().unwrap() {
            Message::Insert(insert) => Operation::Insert { new: insert.new },
            Message::Update(update) => Operation::Update { old: update.old, new: update.new },
            Message::Delete(delete) => Operation::Delete { old: delete.old },
            other => panic!("{other:?}"),
        };
        let (lsn, end_lsn) = (Lsn(1), Lsn(2));
        self.changes.push(Change { lsn, end_lsn, relation: self.relation.clone(), operation });
    }
}

fn read(cells: &[Cell]) -> (usize, Text<'_>, Text<'_>) {
    let text = |i: usize| match cells[i].value() {
        Value::Data(data) => Some(std::str::from_utf8(data).unwrap()),
        Value::Null | Value::Unchanged => None,
    };
    let id = text(0).unwrap().len() + 4 * text(2).unwrap().len();
    (id, text(1), text(3))
}

/// What a target does with the three sets, each as one statement.
fn apply(net: &Net, relation: &Relation, mut rows: Rows) -> Rows {
    for locator in &net.deletes {
        let (id, ..) = read(&Cell::of_row(locator, relation).unwrap());
        assert!(rows.remove(&id).is_some(), "a delete hits a row");
    }
    let mut updated = Vec::new();
    for update in &net.updates {
        let (id, ..) = read(&Cell::of_row(update.locator, relation).unwrap());
        let cells = update.image.cells(relation).unwrap();
        let (to, a, b) = read(&cells);
        assert_eq!(update.key_changed, to != id);
        let mut row = rows.remove(&id).expect("an update hits a row, and no row twice");
        row.a = a.map_or(row.a, str::to_owned);
        row.b = b.map_or(row.b, str::to_owned);
        updated.push((to, row));
    }
    for (id, row) in updated {
        assert!(rows.insert(id, row).is_none(), "an updated key is free");
    }
    for image in &net.inserts {
        let cells = image.cells(relation).unwrap();
        let (id, a, b) = read(&cells);
        let row = TestRow { a: a.unwrap().into(), b: b.unwrap().into(), mark: None };
        assert!(rows.insert(id, row).is_none(), "an inserted key is free");
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_net_effect_is_the_effect_in_order(steps in steps(), full: bool) {
        let identity = if full { ReplicaIdentity::Full } else { ReplicaIdentity::Default };
        let mut source = Source::new(identity);
        steps.iter().for_each(|step| source.step(step));
        match net(&source.relation, &source.changes).unwrap() {
            Effect::Sets(net) => {
                prop_assert_eq!(apply(&net, &source.relation, initial()), source.rows);
            }
            Effect::InOrder => prop_assert!(source.moved, "only moved keys need an order"),
        }
    }

    #[test]
    fn batches_that_touch_no_row_in_common_are_independent(
        steps in steps(), cut in 0.0..1.0, full: bool
    ) {
        let identity = if full { ReplicaIdentity::Full } else { ReplicaIdentity::Default };
        let mut source = Source::new(identity);
        let mut touched = Vec::new();
        for step in &steps {
            let (rows, count) = (source.rows.clone(), source.changes.len());
            source.step(step);
            let ids = |a: &Rows, b: &Rows| -> Vec<usize> { a.keys().filter(|id| !b.contains_key(id)).copied().collect() };
            let mut ids: Vec<usize> =
                [ids(&rows, &source.rows), ids(&source.rows, &rows)].concat();
            ids.push(step.id);
            touched.extend((source.changes.len() > count).then_some(ids));
        }
        let at = (cut * source.changes.len() as f64) as usize;
        let only_inserts = |changes: &[Change]| {
            changes.iter().all(|change| matches!(change.operation, Operation::Insert { .. }))
        };
        let meet = touched[at..].iter().flatten().any(|id| touched[..at].concat().contains(id));
        let meet = meet && !(only_inserts(&source.changes[..at]) && only_inserts(&source.changes[at..]));
        let later = Plan::new(source.changes.split_off(at));
        let earlier = Plan::new(source.changes);
        prop_assert_eq!(earlier.is_independent_of(&later), !meet);
        prop_assert_eq!(later.is_independent_of(&earlier), !meet);
    }

    #[test]
    fn changes_that_no_source_can_make_are_left_to_the_target(steps in steps()) {
        // each step as if all rows were there, and none: must not panic, whatever it comes to
        let mut source = Source::new(ReplicaIdentity::Default);
        for step in &steps {
            source.rows = if step.kind % 2 == 0 { initial() } else { Rows::new() };
            source.step(step);
        }
        let _ = net(&source.relation, &source.changes).unwrap();
    }

    #[test]
    fn tables_and_truncates_end_as_in_order(
        steps in proptest::collection::vec((0..4usize, 0..3u8), 0..40)
    ) {
        // two tables, each of them described in two ways that come and go as they like
        let tables = [
            relation("one", ReplicaIdentity::Default),
            relation("one", ReplicaIdentity::Full),
            relation("two", ReplicaIdentity::Default),
            relation("two", ReplicaIdentity::Full),
        ];
        let mut in_order = BTreeMap::<String, Vec<u64>>::new();
        let mut changes = Vec::new();
        for (number, (table, kind)) in steps.iter().enumerate() {
            let relation = tables[*table].clone();
            let lsn = Lsn(number as u64);
            let rows = in_order.entry(relation.name.clone()).or_default();
            let operation = if *kind == 0 {
                rows.clear();
                Operation::Truncate { restart_identity: false, parted: false }
            } else {
                rows.push(lsn.0);
                Operation::Insert { new: rsrepl_wire::Row(Bytes::new()) }
            };
            changes.push(Change { lsn, end_lsn: lsn, relation, operation });
        }
        let plan = Plan::new(changes);
        let mut planned: BTreeMap<String, Vec<u64>> =
            in_order.keys().map(|name| (name.clone(), Vec::new())).collect();
        for table in &plan.tables {
            prop_assert!(!table.changes.is_empty());
            let rows = planned.get_mut(&table.relation.name).unwrap();
            rows.extend(table.changes.iter().map(|change| change.lsn.0));
            prop_assert!(table.changes.iter().all(|c| c.relation == table.relation));
        }
        prop_assert_eq!(planned, in_order);
        let truncated: Vec<u64> = plan.truncates.iter().map(|t| t.lsn.0).collect();
        let expected = steps.iter().enumerate().filter(|(_, (_, kind))| *kind == 0);
        prop_assert_eq!(truncated, expected.map(|(n, _)| n as u64).collect::<Vec<_>>());
    }
}

#[test]
fn what_no_key_tells_or_another_key_is_not_independent() {
    let batch = |relation: &Arc<Relation>| {
        let mut source = Source::new(ReplicaIdentity::Full);
        source.relation = relation.clone();
        let [id] = source.rows.keys().take(1).copied().collect::<Vec<_>>()[..] else {
            return Plan::default();
        };
        let step = Step { kind: 4, id, to: 0, a: None, b: None };
        source.step(&step);
        Plan::new(source.changes)
    };
    let keyed = relation("t", ReplicaIdentity::Full);
    let without = |keys: &[usize]| {
        let mut relation = (*keyed).clone();
        keys.iter().for_each(|index| relation.columns[*index].key = false);
        Arc::new(relation)
    };
    let (keyless, other) = (without(&[0, 2]), without(&[0]));
    for (a, b) in [(&keyless, &keyless), (&keyless, &keyed), (&keyed, &other)] {
        assert!(!batch(a).is_independent_of(&batch(b)));
    }
}

#[test]
fn one_truncate_of_several_tables_stays_one() {
    let change = |lsn, name| Change {
        lsn: Lsn(lsn),
        end_lsn: Lsn(10),
        relation: relation(name, ReplicaIdentity::Default),
        operation: Operation::Truncate { restart_identity: false, parted: false },
    };
    let plan = Plan::new(vec![change(1, "a"), change(1, "b"), change(2, "c")]);
    let names: Vec<Vec<&str>> = plan
        .truncates
        .iter()
        .map(|truncation| truncation.relations.iter().map(|r| r.name.as_str()).collect())
        .collect();
    assert_eq!(names, [vec!["a", "b"], vec!["c"]]);
}
