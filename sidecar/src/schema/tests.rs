//! A difference makes the one description into the other, and nothing from outside does harm.

use proptest::prelude::*;
use rsrepl_wire::{Relation, ReplicaIdentity};

use super::*;
use crate::error::Kind;

/// Does an operation to a description, as a target does it to its table.
fn apply(table: &mut Table, operation: &Operation, to: &Table) {
    let find = |table: &mut Table, name: &str| -> usize {
        table.columns.iter().position(|c| c.name == name).unwrap_or_else(|| panic!("no {name}"))
    };
    match operation {
        Operation::CreateTable | Operation::DropTable => panic!("not between two descriptions"),
        Operation::MoveTable { schema, name } => {
            (table.schema, table.name) = (schema.clone(), name.clone());
        }
        Operation::DropColumn(name) => {
            let at = find(table, name);
            table.columns.remove(at);
        }
        Operation::RenameColumns(renames) => {
            for (from, name) in sequence(renames) {
                assert!(table.columns.iter().all(|c| c.name != name), "{name} is taken");
                let at = find(table, &from);
                table.columns[at].name = name;
            }
        }
        Operation::AddColumn(column) => {
            assert!(
                table.columns.iter().all(|c| c.name != column.name),
                "{} is taken",
                column.name
            );
            table.columns.push(column.clone());
        }
        Operation::ChangeType(column) => {
            let at = find(table, &column.name);
            table.columns[at].type_name.clone_from(&column.type_name);
            table.columns[at].collation.clone_from(&column.collation);
            if table.columns[at].generated == Generated::No {
                table.columns[at].default = None;
            }
        }
        Operation::SetGenerated(column) => {
            let at = find(table, &column.name);
            table.columns[at].generated = column.generated;
            table.columns[at].default.clone_from(&column.default);
        }
        Operation::SetDefault(column) => {
            let at = find(table, &column.name);
            table.columns[at].default.clone_from(&column.default);
        }
        Operation::SetNotNull(name) | Operation::DropNotNull(name) => {
            let at = find(table, name);
            table.columns[at].not_null = matches!(operation, Operation::SetNotNull(_));
        }
    }
    table.columns.sort_by_key(|column| to.columns.iter().position(|c| c.number == column.number));
}

fn column() -> impl Strategy<Value = Column> {
    let word = || prop::option::of("[ab]");
    let types = prop::sample::select(vec!["integer", "bigint", "text"]);
    let generated = prop::bool::weighted(0.1);
    (1..8u16, "[a-f]", types, any::<bool>(), word(), word(), generated).prop_map(
        |(number, name, type_name, not_null, default, missing, generated)| Column {
            number,
            name,
            type_name: type_name.to_owned(),
            not_null,
            default,
            missing,
            generated: if generated { Generated::Stored } else { Generated::No },
            ..Column::default()
        },
    )
}

fn table() -> impl Strategy<Value = Table> {
    (prop::collection::vec(column(), 0..8), "[st]", "[tu]").prop_map(|(columns, schema, name)| {
        let mut table = Table { oid: 1, schema, name, rows: true, ..Table::default() };
        for column in columns {
            let taken = |c: &Column| c.number == column.number || c.name == column.name;
            if !table.columns.iter().any(taken) {
                table.columns.push(column);
            }
        }
        table.columns.sort_by_key(|column| column.number);
        table
    })
}

/// What a difference says nothing of.
fn plain(mut table: Table) -> Table {
    table.columns.iter_mut().for_each(|column| column.missing = None);
    table
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_difference_makes_the_one_into_the_other(from in table(), to in table()) {
        let mut table = from.clone();
        for operation in diff(&from, &to) {
            apply(&mut table, &operation, &to);
        }
        prop_assert_eq!(plain(table), plain(to.clone()));
        prop_assert_eq!(diff(&to, &to), vec![]);
    }

    #[test]
    fn what_is_written_is_read(table in table()) {
        prop_assert_eq!(Table::from_json(&table.to_json()), Ok(table));
    }

    #[test]
    fn hostile_messages_are_errors(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Message::parse(&bytes);
    }

    #[test]
    fn damaged_messages_are_errors_or_tables(at in 0usize..400, byte: u8) {
        let mut bytes = EXAMPLE.as_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(message) = Message::parse(&bytes) {
            prop_assert!(message.table().oid > 0);
        }
    }
}

const EXAMPLE: &str = r#"{"version":1, "command":"ALTER TABLE",
    "table":{"oid":16384,"schema":"public","name":"orders","kind":"r","replica_identity":"d","primary_key":["id"],
      "columns":[{"number":1,"name":"id","type":"bigint","not_null":true,"default":null,"missing":null,
                  "generated":"","identity":"a","collation":null},
                 {"number":4,"name":"at","type":"timestamp with time zone","not_null":false,"default":"now()",
                  "missing":"2026-11-21 17:00:00+00","generated":"","identity":"","collation":null},
                 {"number":5,"name":"v","type":"integer","not_null":false,"default":"id * 2","missing":null,
                  "generated":"v","identity":"","collation":null}]},
    "rewrite":false}"#;

#[test]
fn a_message_is_read() {
    let message = Message::parse(EXAMPLE.as_bytes()).unwrap();
    assert!(!message.rewrite && message.command == "ALTER TABLE");
    let What::Is(table) = message.what else { panic!("dropped") };
    assert_eq!((table.oid, table.to_string().as_str()), (16384, "public.orders"));
    let names: Vec<_> = table.columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["id", "at"], "a virtual column is in no stream");
    assert_eq!(table.columns[0].identity, Identity::Always);
    assert_eq!(table.columns[1].missing.as_deref(), Some("2026-11-21 17:00:00+00"));
    let gone =
        br#"{"version":1,"command":"DROP TABLE","dropped":{"oid":7,"schema":"s","name":"t"}}"#;
    assert!(matches!(Message::parse(gone).unwrap().what, What::Dropped(table) if table.oid == 7));
}

#[test]
fn what_is_not_a_table_is_refused() {
    let changed = |from: &str, to: &str| EXAMPLE.replacen(from, to, 1);
    for text in [
        changed("\"version\":1", "\"version\":2"),
        changed("\"oid\":16384", "\"oid\":0"),
        changed("\"number\":4", "\"number\":1"),
        changed("\"number\":4", "\"number\":1601"),
        changed("\"name\":\"at\"", "\"name\":\"id\""),
        changed("\"name\":\"at\"", "\"name\":\"\""),
        changed("\"name\":\"at\"", "\"name\":\"a\\u0000\""),
        changed("\"type\":\"bigint\"", "\"type\":\"\""),
        changed("\"table\"", "\"other\""),
        EXAMPLE.repeat(2),
        String::new(),
    ] {
        let error = Message::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), Kind::Setup, "{text}");
    }
}

#[test]
fn names_that_are_swapped_go_by_way_of_another() {
    let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    assert_eq!(sequence(&[pair("a", "b"), pair("b", "c")]), [pair("b", "c"), pair("a", "b")]);
    let steps = sequence(&[pair("a", "b"), pair("b", "a")]);
    let aside = steps[0].1.clone();
    assert_eq!(steps, [pair("a", &aside), pair("b", "a"), pair(&aside, "b")]);
}

fn relation_column(type_name: &str) -> rsrepl_wire::Column {
    built_in(type_name).unwrap_or_else(|| panic!("{type_name} is not known"))
}

#[test]
fn types_are_called_as_the_server_calls_them() {
    for name in [
        "integer",
        "character varying(20)",
        "character(3)",
        "numeric(12,2)",
        "numeric(3,-2)",
        "timestamp(3) with time zone",
        "time without time zone",
        "bit varying(7)",
        "text[]",
        "numeric(12,2)[]",
    ] {
        assert_eq!(super::types::format_type(&relation_column(name)), name);
    }
    assert!(built_in("public.mood").is_none() && built_in("interval day to second").is_none());
}

#[test]
fn a_wider_type_holds_every_value() {
    for (from, to, fits) in [
        ("integer", "bigint", true),
        ("bigint", "integer", false),
        ("integer", "numeric", true),
        ("integer", "numeric(12,2)", false),
        ("character varying(10)", "character varying(20)", true),
        ("character varying(20)", "character varying(10)", false),
        ("character varying(20)", "text", true),
        ("text", "character varying", true),
        ("numeric(10,2)", "numeric(12,2)", true),
        ("numeric(10,2)", "numeric(12,3)", false),
        ("numeric(10,2)", "numeric", true),
        ("integer", "text", false),
        ("public.mood", "public.mood", true),
    ] {
        assert_eq!(widens(from, to), fits, "{from} {to}");
    }
}

#[test]
fn a_relation_says_nothing_of_defaults() {
    let relation = Relation {
        oid: 16384,
        schema: "public".into(),
        name: "orders".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: ["bigint", "timestamp with time zone"]
            .into_iter()
            .zip([(1, "id", true), (4, "at", false)])
            .map(|(ty, (number, name, key))| rsrepl_wire::Column {
                name: name.into(),
                number,
                key,
                not_null: key,
                ..relation_column(ty)
            })
            .collect(),
    };
    let What::Is(told) = Message::parse(EXAMPLE.as_bytes()).unwrap().what else { panic!() };
    let shown = Table::of_relation(&relation);
    assert_eq!(shown.primary_key, ["id"]);
    assert_eq!(diff(&told, &shown.clone().completed_by(&told)), []);
    assert_eq!(shown.completed_by(&told), told);
    // modifiers that a RELATION message cannot say are no change
    let mut point = told.clone();
    point.columns[0].type_name = "public.geometry(Point,4326)".to_owned();
    let mut shown = point.clone();
    shown.columns[0].type_name = "public.geometry".to_owned();
    assert_eq!(shown.completed_by(&point), point);
}
