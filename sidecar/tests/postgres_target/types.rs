//! Every type against what a real server wrote: `text-forms.tsv` and `real-frames.hex` of `wire`.

use std::collections::BTreeMap;
use std::sync::Arc;

use rsrepl_sidecar::batch::{Batch, Change, Operation, Position};
use rsrepl_sidecar::target::Target;
use rsrepl_wire::{Column, Encoding, Frame, Message, Relation, ReplicaIdentity};

use crate::stream::{Stream, V, int, int_column, key, relation};
use crate::{Apply, Standby, blocking};

#[path = "../../../wire/tests/support/forms.rs"]
mod forms;
use forms::unhex;

const FRAMES: &str = include_str!("../../../wire/tests/data/real-frames.hex");
const FRAMES_SQL: &str = include_str!("../../../wire/tests/data/real-frames.sql");

/// The settings that the forms were written with.
const FORM_SETTINGS: &str = "\
SET datestyle = 'ISO, YMD'; SET intervalstyle = postgres; SET timezone = 'UTC';
SET bytea_output = hex; SET lc_monetary = 'C'; SET xmloption = content;";

/// The values of one type, each as the plugin may send it and as text.
struct Forms {
    column: Column,
    values: Vec<(V, String)>,
}

/// By type and encoding. Types of users are left to the frames.
fn forms() -> Vec<Forms> {
    let mut types = BTreeMap::<(u32, bool), Forms>::new();
    for case in forms::cases() {
        let (base, element) = (case.column.base_oid, case.column.element_oid);
        if base >= 16384 || element >= 16384 {
            continue;
        }
        let sent = (Encoding::Send, V::Var(case.send));
        let stored = case.native.map(|(encoding, value)| match encoding {
            Encoding::Fixed(_) => (encoding, V::Fixed(value)),
            _ => (encoding, V::Var(value)),
        });
        for (encoding, value) in [Some(sent), stored].into_iter().flatten() {
            let forms = types.entry((base, encoding == Encoding::Send)).or_insert_with(|| Forms {
                column: Column { encoding, ..case.column.clone() },
                values: Vec::new(),
            });
            forms.values.push((value, case.text.clone()));
        }
    }
    types.into_values().collect()
}

/// Tables `t0`, `t1`, … for the values of each type.
fn create(standby: &Standby, forms: &[Forms], identity: &str) {
    let create = |(number, forms): (usize, &Forms)| {
        format!(
            "EXECUTE format('CREATE TABLE t{number} (id int {identity}, v %s)', \
                            format_type({}, -1));\n",
            forms.column.base_oid
        )
    };
    let all: String = forms.iter().enumerate().map(create).collect();
    standby.execute(&format!("DO $$ BEGIN {all} END $$"));
}

/// Those that the server has.
fn forms_for(standby: &Standby) -> Vec<Forms> {
    let mut forms = forms();
    if !standby.has_libxml() {
        forms.retain(|forms| !forms.column.type_name.contains("xml"));
    }
    forms
}

/// The rows of each of the tables, in order.
fn stored(standby: &Standby, tables: usize) -> Vec<Vec<(i32, String)>> {
    blocking(|| {
        let mut client = standby.server.postgres.client(&standby.database);
        client.batch_execute(FORM_SETTINGS).unwrap();
        let mut rows_of = |number| {
            let query = format!("SELECT id, format('%s', v) FROM t{number} ORDER BY id");
            let rows = client.query(&query, &[]).unwrap();
            rows.iter().map(|row| (row.get(0), row.get(1))).collect()
        };
        (0..tables).map(&mut rows_of).collect()
    })
}

#[tokio::test]
async fn every_form_is_stored_as_the_source_had_it() {
    let standby = Standby::new("forms", "");
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let forms = forms_for(&standby);
    assert!(forms.len() > 120, "{} types and encodings", forms.len());
    create(&standby, &forms, "PRIMARY KEY");
    let mut stream = Stream::after(1000);
    for (number, forms) in forms.iter().enumerate() {
        let columns = vec![key(int_column("id")), forms.column.clone()];
        let table = relation(&format!("t{number}"), ReplicaIdentity::Default, columns);
        // once by statements, as few rows are, and so often that it goes by COPY
        let mut rows = forms.values.iter().cycle().zip(0..);
        for count in [forms.values.len().min(30), forms.values.len().max(40)] {
            for ((value, _), id) in rows.by_ref().take(count) {
                stream.insert(&table, &[int(id), value.clone()]);
            }
            let batch = stream.commit();
            target.apply(batch).await.unwrap_or_else(|e| panic!("{}: {e}", forms.column.type_name));
        }
    }
    for (forms, rows) in forms.iter().zip(stored(&standby, forms.len())) {
        assert!(rows.len() > forms.values.len());
        for (id, text) in rows {
            let expected = &forms.values[usize::try_from(id).unwrap() % forms.values.len()].1;
            assert_eq!(text, *expected, "{} {:?}", forms.column.type_name, forms.column.encoding);
        }
    }
}

#[tokio::test]
async fn every_form_names_its_row() {
    let standby = Standby::new("images", "");
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let forms = forms_for(&standby);
    create(&standby, &forms, "");
    let mut stream = Stream::after(1000);
    for (number, forms) in forms.iter().enumerate() {
        let columns = vec![int_column("id"), forms.column.clone()];
        let table = relation(&format!("t{number}"), ReplicaIdentity::Full, columns);
        for (value, _) in &forms.values {
            stream.insert(&table, &[int(1), value.clone()]);
            stream.insert(&table, &[int(1), value.clone()]);
        }
        for (value, _) in &forms.values {
            let old = [int(1), value.clone()];
            stream.delete(&table, &old);
            stream.update(&table, Some(&old), &[int(2), V::Unchanged]);
        }
        let batch = stream.commit();
        target.apply(batch).await.unwrap_or_else(|e| panic!("{}: {e}", forms.column.type_name));
    }
    for (forms, mut rows) in forms.iter().zip(stored(&standby, forms.len())) {
        rows.sort();
        let mut expected: Vec<_> = forms.values.iter().map(|(_, text)| (2, text.clone())).collect();
        expected.sort();
        assert_eq!(rows, expected, "{} {:?}", forms.column.type_name, forms.column.encoding);
    }
}

/// The statements of `real-frames.sql` that a database without the plugin can run, up to the first
/// with `until`.
fn statements(from: &str, until: &str) -> String {
    let start = FRAMES_SQL.find(from).unwrap();
    let rest = &FRAMES_SQL[start..];
    rest[..rest.find(until).unwrap()].to_owned()
}

/// The changes of the frames as batches of one transaction each.
fn transactions() -> Vec<Batch> {
    let mut relations = BTreeMap::<u32, Arc<Relation>>::new();
    let (mut batches, mut changes) = (Vec::new(), Vec::new());
    for line in FRAMES.lines() {
        let frame = Frame::parse(unhex(line).into()).unwrap();
        for message in frame.messages() {
            let change = |relations: &BTreeMap<_, Arc<Relation>>, lsn, oid, operation| Change {
                lsn,
                end_lsn: rsrepl_wire::Lsn::INVALID,
                relation: relations[&oid].clone(),
                operation,
            };
            match message.unwrap() {
                Message::Relation(relation) => {
                    relations.insert(relation.oid, Arc::new(relation));
                }
                Message::Insert(m) => changes.push(change(
                    &relations,
                    m.lsn,
                    m.relation,
                    Operation::Insert { new: m.new },
                )),
                Message::Update(m) => changes.push(change(
                    &relations,
                    m.lsn,
                    m.relation,
                    Operation::Update { old: m.old, new: m.new },
                )),
                Message::Delete(m) => changes.push(change(
                    &relations,
                    m.lsn,
                    m.relation,
                    Operation::Delete { old: m.old },
                )),
                Message::Truncate(m) => changes.extend(m.relations.iter().map(|oid| {
                    let restart_identity = m.restart_identity;
                    change(
                        &relations,
                        m.lsn,
                        *oid,
                        Operation::Truncate { restart_identity, parted: false },
                    )
                })),
                Message::Commit(m) => {
                    let commit = Position { lsn: m.end_lsn, commit_time: m.commit_time, xid: 1 };
                    let changes = std::mem::take(&mut changes);
                    batches.push(Batch { changes, commit: Some(commit), ..Batch::default() });
                }
                _ => {}
            }
        }
    }
    batches
}

#[tokio::test]
async fn frames_of_a_real_plugin_make_the_same_tables() {
    let tables = statements("CREATE TYPE", "SELECT FROM pg_create_logical");
    let changes = statements("INSERT INTO scalars", "SELECT FROM pg_logical_emit_message(false");
    let changes = changes.replace("SELECT FROM pg_logical_emit_message(true, 'in', 'inside');", "");
    // no target can find these rows: they are refused, which another test shows
    let unnamed = ["UPDATE nothing SET b = 'b';", "DELETE FROM nothing;"];
    let changes = unnamed.iter().fold(changes, |sql, statement| sql.replace(statement, ""));
    let source = Standby::new("frames_source", &tables);
    if !source.has_libxml() {
        return println!("not tested: the frames have values of the type xml");
    }
    // the same names for other oids
    let standby = Standby::new("frames_standby", "CREATE TYPE other AS (x int)");
    standby.execute(&tables);
    for statement in changes.split_inclusive(";\n") {
        assert!(!statement.contains("pg_logical"), "{statement}");
    }
    blocking(|| {
        let mut client = source.server.postgres.client(&source.database);
        for statement in changes.split(";\n").filter(|s| !s.trim().is_empty()) {
            client.batch_execute(statement).unwrap_or_else(|e| panic!("{statement}: {e:?}"));
        }
        client.batch_execute("INSERT INTO whole VALUES (3, 3)").unwrap();
    });

    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let mut altered = false;
    for mut batch in transactions() {
        batch.changes.retain(|change| {
            change.relation.name != "nothing"
                || matches!(change.operation, Operation::Insert { .. })
        });
        let new_column = |change: &Change| {
            change.relation.name == "whole" && change.relation.columns.iter().any(|c| c.name == "c")
        };
        if !altered && batch.changes.iter().any(new_column) {
            standby.execute("ALTER TABLE whole ADD c int4 DEFAULT 5; ALTER TABLE whole DROP b");
            altered = true;
        }
        target.apply(batch).await.unwrap_or_else(|error| panic!("{error}"));
    }
    assert!(altered);
    for table in
        ["scalars", "arrays", "toasted", "whole", "nothing", "by_index", "parts", "no_columns"]
    {
        let query = format!("SELECT t::text FROM {table} AS t ORDER BY 1");
        let expected = source.rows(&query);
        assert_eq!(standby.rows(&query), expected, "{table}");
        assert_eq!(expected.is_empty(), ["by_index", "parts"].contains(&table), "{table}");
    }
}
