//! What is done, and what is left to the target's owner.

use super::*;
use crate::schema::Identity;

fn column(number: u16, name: &str, type_name: &str) -> Column {
    let (name, type_name) = (name.to_owned(), type_name.to_owned());
    Column { number, name, type_name, ..Column::default() }
}

fn table(columns: Vec<Column>) -> Table {
    Table { oid: 1, schema: "s".into(), name: "t".into(), rows: true, columns, ..Table::default() }
}

/// A target's table that was made like this one, its columns numbered from 1.
fn made(table: &Table) -> (Record, Actual) {
    let places = (1..).zip(&table.columns).map(|(place, c)| (c.number, place)).collect();
    let columns = (1..).zip(&table.columns).map(|(number, c)| ActualColumn {
        number,
        name: c.name.clone(),
        type_name: c.type_name.clone(),
        not_null: c.not_null,
        default: c.default.clone(),
        generated: c.generated != Generated::No,
        identity: c.identity != Identity::No,
    });
    let record = Record {
        table: table.clone(),
        dropped: false,
        had_rows: Some(false),
        places,
        target_oid: 7,
    };
    let (schema, name) = (table.schema.clone(), table.name.clone());
    let actual = Actual {
        oid: 7,
        schema,
        name,
        referenced: false,
        partitioned: false,
        columns: columns.collect(),
    };
    (record, actual)
}

const TOLD: How<'static> = How { command: Some("ALTER TABLE"), rewrite: false };
const SHOWN: How<'static> = How { command: None, rewrite: false };

fn planned(from: &Table, to: &Table, how: How<'_>, policy: Policy) -> Planned {
    let (record, actual) = made(from);
    plan(Some(&record), to, Some(&actual), None, how, policy)
}

fn asked(planned: Planned) -> Vec<String> {
    planned.asks.into_iter().flat_map(|(_, statements)| statements).collect()
}

#[test]
fn each_policy_has_its_own() {
    let from =
        table(vec![column(1, "a", "integer"), column(2, "b", "text"), column(3, "c", "text")]);
    let mut to =
        table(vec![column(1, "A", "integer"), column(3, "c", "text"), column(4, "d", "text")]);
    to.columns[2].missing = Some("it's".into());
    let [drop, rename, add, default] = [
        "ALTER TABLE \"s\".\"t\" DROP COLUMN \"b\"",
        "ALTER TABLE \"s\".\"t\" RENAME COLUMN \"a\" TO \"A\"",
        "ALTER TABLE \"s\".\"t\" ADD COLUMN \"d\" text DEFAULT 'it''s'::text",
        "ALTER TABLE \"s\".\"t\" ALTER COLUMN \"d\" DROP DEFAULT",
    ];
    assert_eq!(planned(&from, &to, TOLD, Policy::Apply).statements, [drop, rename, add, default]);
    // without the trigger a column may have left the publication
    let shown = planned(&from, &to, SHOWN, Policy::Apply);
    assert_eq!(shown.statements[0], rename);
    assert_eq!(asked(planned(&from, &to, TOLD, Policy::Additive)), [rename]);
    assert_eq!(asked(planned(&from, &to, TOLD, Policy::Stop)), [rename, add, default]);
}

#[test]
fn values_are_not_made_up() {
    let from = table(vec![column(1, "a", "integer")]);
    let mut to = table(vec![column(1, "a", "integer"), column(2, "b", "integer")]);
    // ADD COLUMN b int, ALTER COLUMN b SET DEFAULT 5
    to.columns[1].default = Some("5".into());
    let added = planned(&from, &to, TOLD, Policy::Additive).statements;
    let add = "ALTER TABLE \"s\".\"t\" ADD COLUMN \"b\" integer";
    assert_eq!(added, [add, "ALTER TABLE \"s\".\"t\" ALTER COLUMN \"b\" SET DEFAULT (5)"]);
    // by whatever USING says
    let to = table(vec![column(1, "a", "date")]);
    let changed = planned(&from, &to, TOLD, Policy::Apply);
    assert_eq!((changed.statements.len(), changed.asks.len()), (0, 1));
    let to = table(vec![column(1, "a", "bigint")]);
    assert_eq!(planned(&from, &to, TOLD, Policy::Apply).asks.len(), 0);
}

#[test]
fn what_is_there_already_is_no_change() {
    let from = table(vec![column(1, "a", "integer"), column(2, "b", "integer")]);
    let to =
        table(vec![column(1, "b", "integer"), column(2, "a", "bigint"), column(3, "c", "text")]);
    let (record, mut actual) = made(&from);
    // names that were swapped by hand are told by the numbers of the columns
    for (column, (name, ty)) in actual.columns.iter_mut().zip([("b", "integer"), ("a", "numeric")])
    {
        (column.name, column.type_name) = (name.into(), ty.into());
    }
    let (name, type_name) = ("c".to_owned(), "text".to_owned());
    actual.columns.push(ActualColumn { number: 3, name, type_name, ..ActualColumn::default() });
    for policy in [Policy::Apply, Policy::Additive, Policy::Stop] {
        let planned = plan(Some(&record), &to, Some(&actual), None, TOLD, policy);
        assert_eq!(planned, Planned::default(), "{policy}");
    }
    // in a table that was loaded anew numbers say nothing
    actual.oid = 8;
    let planned = plan(Some(&record), &from, Some(&actual), None, TOLD, Policy::Apply);
    assert_eq!(planned, Planned::default());
}

#[test]
fn a_column_in_the_way_of_another_is_the_owners() {
    let from = table(vec![column(1, "a", "integer"), column(2, "b", "integer")]);
    let to = table(vec![column(1, "a", "integer"), column(3, "b", "integer")]);
    let drop = "ALTER TABLE \"s\".\"t\" DROP COLUMN \"b\"";
    let add = "ALTER TABLE \"s\".\"t\" ADD COLUMN \"b\" integer";
    assert_eq!(planned(&from, &to, TOLD, Policy::Apply).statements, [drop, add]);
    assert_eq!(asked(planned(&from, &to, TOLD, Policy::Additive)), [drop]);
    assert_eq!(asked(planned(&from, &to, TOLD, Policy::Stop)), [drop, add]);
    // after it was dropped by hand
    let (record, mut actual) = made(&from);
    actual.columns.pop();
    let planned = plan(Some(&record), &to, Some(&actual), None, TOLD, Policy::Additive);
    assert_eq!((planned.statements, planned.asks), (vec![add.to_owned()], vec![]));
    // and made anew
    actual.columns.push(ActualColumn {
        number: 5,
        name: "b".into(),
        type_name: "integer".into(),
        ..ActualColumn::default()
    });
    let planned = plan(Some(&record), &to, Some(&actual), None, TOLD, Policy::Stop);
    assert_eq!(planned, Planned::default());
}

#[test]
fn kept_columns_do_without_values() {
    let mut from = table(vec![column(1, "a", "integer"), column(2, "b", "integer")]);
    from.columns[1].not_null = true;
    let to = table(vec![column(1, "a", "integer")]);
    let null = "ALTER TABLE \"s\".\"t\" ALTER COLUMN \"b\" DROP NOT NULL";
    assert_eq!(planned(&from, &to, TOLD, Policy::Additive).statements, [null]);
    assert_eq!(asked(planned(&from, &to, TOLD, Policy::Stop)), [null]);
    let left = How { command: Some("ALTER PUBLICATION"), rewrite: false };
    assert_eq!(planned(&from, &to, left, Policy::Apply).statements, [null]);
}

#[test]
fn rows_that_come_anew_find_an_empty_table() {
    let from = table(vec![column(1, "a", "integer")]);
    let to = table(vec![column(1, "a", "date"), column(2, "b", "integer")]);
    let rewrite = How { rewrite: true, ..TOLD };
    let retype = |via: &str| {
        format!(
            "ALTER TABLE \"s\".\"t\" ALTER COLUMN \"a\" DROP DEFAULT, ALTER COLUMN \"a\" TYPE date USING \"a\"{via}::date"
        )
    };
    let add = "ALTER TABLE \"s\".\"t\" ADD COLUMN \"b\" integer".to_owned();
    let truncate = "TRUNCATE ONLY \"s\".\"t\"".to_owned();
    let statements = planned(&from, &to, rewrite, Policy::Apply).statements;
    assert_eq!(statements, [truncate.clone(), retype("::text"), add.clone()]);
    let (record, mut actual) = made(&from);
    actual.referenced = true;
    let statements =
        plan(Some(&record), &to, Some(&actual), None, rewrite, Policy::Apply).statements;
    assert_eq!(statements, [retype(""), add, "DELETE FROM ONLY \"s\".\"t\"".to_owned()]);
    // whatever the policy, when nothing else is left to do
    assert_eq!(planned(&to, &to, rewrite, Policy::Stop).statements, [truncate]);
}

#[test]
fn a_narrower_type_is_followed_where_the_rows_come_anew() {
    let from = table(vec![column(1, "a", "text")]);
    let to = table(vec![column(1, "a", "character varying(40)")]);
    let rewrite = How { rewrite: true, ..TOLD };
    let statements = planned(&from, &to, rewrite, Policy::Apply).statements;
    assert!(statements.iter().any(|s| s.contains("TYPE character varying(40)")), "{statements:?}");
    // it holds the values, and nobody is to be stopped for it
    let truncate = "TRUNCATE ONLY \"s\".\"t\"".to_owned();
    for policy in [Policy::Additive, Policy::Stop] {
        let planned = planned(&from, &to, rewrite, policy);
        assert_eq!(
            (planned.statements, planned.asks.len()),
            (vec![truncate.clone()], 0),
            "{policy}"
        );
    }
    assert_eq!(planned(&from, &to, TOLD, Policy::Apply), Planned::default());
    // the owner has made it wider than the source ever was
    let from = table(vec![column(1, "a", "character varying(50)")]);
    let (record, mut actual) = made(&from);
    actual.columns[0].type_name = "text".into();
    let planned = plan(Some(&record), &to, Some(&actual), None, rewrite, Policy::Apply);
    assert_eq!(planned.statements, [truncate]);
}

#[test]
fn a_description_of_rows_is_not_all() {
    let from = table(vec![column(1, "a", "integer"), column(2, "b", "text")]);
    let mut to =
        table(vec![column(1, "a", "bigint"), column(2, "b", "date"), column(3, "c", "text")]);
    to.columns[2].not_null = true;
    let planned = planned(&from, &to, SHOWN, Policy::Apply);
    assert_eq!(planned.statements.len(), 1, "a wider type alone: {planned:?}");
    assert_eq!(planned.asks.len(), 2, "a USING, and a default: {planned:?}");
}

#[test]
fn a_table_is_made_or_asked_for() {
    let mut to = table(vec![column(1, "id", "bigint"), column(2, "n", "integer")]);
    to.primary_key = vec!["id".into()];
    to.columns[0].identity = Identity::Always;
    to.columns[0].not_null = true;
    to.columns[1].default = Some("nextval('public.s'::regclass)".into());
    let create = "CREATE TABLE \"s\".\"t\" (\"id\" bigint GENERATED ALWAYS AS IDENTITY NOT NULL, \
                  \"n\" integer, PRIMARY KEY (\"id\"))";
    let new = How { command: Some("CREATE TABLE"), rewrite: false };
    let make = |how, policy| plan(None, &to, None, None, how, policy);
    assert_eq!(make(new, Policy::Additive).statements, [create]);
    assert_eq!(asked(make(new, Policy::Stop)), [create]);
    assert_eq!(asked(make(TOLD, Policy::Apply)), [create], "it may have had another name");
    // the old one of that name
    let (record, actual) = made(&to);
    let old = Record { dropped: true, table: Table { oid: 2, ..record.table.clone() }, ..record };
    let replace = |policy| plan(None, &to, Some(&actual), Some(&old), new, policy);
    let drop = "DROP TABLE \"s\".\"t\"";
    assert_eq!(replace(Policy::Apply).statements, [drop, create]);
    assert_eq!(asked(replace(Policy::Additive)), [drop]);
}

#[test]
fn a_table_that_was_moved_by_hand_is_found() {
    let from = table(vec![column(1, "a", "integer")]);
    let to = Table { schema: "x".into(), name: "u".into(), ..from.clone() };
    let moves =
        ["ALTER TABLE \"s\".\"t\" SET SCHEMA \"x\"", "ALTER TABLE \"x\".\"t\" RENAME TO \"u\""];
    assert_eq!(planned(&from, &to, TOLD, Policy::Apply).statements, moves);
    assert_eq!(asked(planned(&from, &to, SHOWN, Policy::Additive)), moves);
    let (record, mut actual) = made(&from);
    (actual.schema, actual.name) = ("x".into(), "u".into());
    let planned = plan(Some(&record), &to, Some(&actual), None, TOLD, Policy::Stop);
    assert_eq!(planned, Planned::default());
}
