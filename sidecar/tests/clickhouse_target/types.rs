//! Every value of `wire/tests/data/text-forms.tsv`, which a real PostgreSQL wrote, arrives exactly or
//! under its policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use rsrepl_sidecar::copy::CopyTarget as _;
use rsrepl_sidecar::error::{Decision, Kind};
use rsrepl_sidecar::target::clickhouse::{ClickHouseOptions, Policies, Unrepresentable};
use rsrepl_wire::text::array::Array;
use rsrepl_wire::text::{self, oid};
use rsrepl_wire::{Column, Encoding, Relation, ReplicaIdentity, TypeKind};

use crate::copy::Copy;
use crate::feed::*;
use crate::rig::{Apply, DATABASE, Rig, apply, refused};

#[path = "../../../wire/tests/support/forms.rs"]
mod forms;
use forms::Case;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The cases by the name of their type.
fn cases() -> BTreeMap<String, Vec<Case>> {
    let mut cases = BTreeMap::<String, Vec<Case>>::new();
    for mut case in forms::cases() {
        case.column.name = "send".into();
        cases.entry(case.type_name.clone()).or_default().push(case);
    }
    cases
}

/// A table of the cases of one type: `id`, `send`, and `native` when there is such a form.
fn table_of(index: usize, cases: &[Case], typmod: i32) -> Arc<Relation> {
    let first = Column { typmod, ..cases[0].column.clone() };
    let native = cases[0].native.as_ref().map(|(encoding, _)| Column {
        name: "native".into(),
        encoding: *encoding,
        ..first.clone()
    });
    let columns = [key(int_column("id")), first].into_iter().chain(native).collect();
    table(100 + index as u32, &format!("t{index}"), ReplicaIdentity::Default, columns)
}

fn rows_of(relation: &Arc<Relation>, cases: &[Case]) -> Vec<rsrepl_sidecar::batch::Change> {
    let row = |(id, case): (usize, &Case)| {
        let mut cells = vec![int(id as i32), Cell::Value(case.send.clone())];
        cells.extend(case.native.clone().map(|(_, native)| Cell::Value(native)));
        insert(relation, 10 + id as u64, &cells)
    };
    cases.iter().enumerate().map(row).collect()
}

fn with_policy(rig: &Rig, policy: Unrepresentable) -> ClickHouseOptions {
    let policies = Policies { unrepresentable: policy, ..Policies::default() };
    ClickHouseOptions { policies, ..rig.options() }
}

/// The type of a column without what does not change how its values look.
fn type_of(rig: &Rig, table: &str, column: &str) -> String {
    let ty = rig.server.query(&format!(
        "SELECT type FROM system.columns WHERE database = '{DATABASE}' AND table = '{table}' AND \
         name = '{column}' FORMAT TabSeparatedRaw"
    ));
    bare(ty.trim())
}

fn bare(ty: &str) -> String {
    ["Nullable(", "LowCardinality("]
        .iter()
        .find_map(|wrapper| ty.strip_prefix(wrapper)?.strip_suffix(')'))
        .map_or(ty.to_owned(), bare)
}

/// An expression that shows a value of a ClickHouse type without loss.
fn image(value: &str, ty: &str) -> String {
    if let Some(element) = ty.strip_prefix("Array(").and_then(|ty| ty.strip_suffix(')')) {
        let element = image("e", &bare(element));
        return format!(
            "concat('[', arrayStringConcat(arrayMap(e -> ifNull({element}, 'NULL'), {value}), ','), ']')"
        );
    }
    match ty.split('(').next().unwrap() {
        "Float32" => format!("leftPad(lower(hex(reinterpretAsUInt32({value}))), 8, '0')"),
        "Float64" => format!("leftPad(lower(hex(reinterpretAsUInt64({value}))), 16, '0')"),
        "String" => format!("lower(hex({value}))"),
        "Decimal" => format!("toDecimalString({value}, 20)"),
        _ => format!("toString({value})"),
    }
}

/// What [`image`] shows of a value that arrived.
fn expected(ty: &str, type_oid: u32, send: &[u8], text: &str) -> String {
    match ty.split('(').next().unwrap() {
        "Bool" => if text == "t" { "true" } else { "false" }.to_owned(),
        "Float32" | "Float64" => hex(send),
        "String" if type_oid == oid::BYTEA => hex(send),
        "String" => hex(text.as_bytes()),
        "Decimal" => with_decimals(text, 20),
        "DateTime64" => with_decimals(text.trim_end_matches("+00"), 6),
        _ => text.to_owned(),
    }
}

/// With so many digits behind the point.
fn with_decimals(text: &str, count: usize) -> String {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let decimals: String = decimals.chars().chain("0".repeat(count).chars()).take(count).collect();
    let zero = whole == "-0" && decimals.bytes().all(|b| b == b'0');
    format!("{}.{decimals}", if zero { "0" } else { whole })
}

/// Compares column `name` of the table with the cases; `want` says what is there.
fn check(rig: &Rig, table: &str, name: &str, cases: &[Case], want: impl Fn(&Case, &str) -> String) {
    let ty = type_of(rig, table, name);
    let found = rig.server.query(&format!(
        "SELECT ifNull({}, 'NULL') FROM {DATABASE}.{table} FINAL ORDER BY id FORMAT TabSeparatedRaw",
        image(name, &ty)
    ));
    let found: Vec<&str> = found.lines().collect();
    assert_eq!(found.len(), cases.len());
    for (case, found) in cases.iter().zip(found) {
        assert_eq!(found, want(case, &ty), "{} as {ty}: {}", case.column.base_oid, case.text);
    }
}

#[tokio::test]
async fn every_value_arrives_under_the_string_policy() {
    let rig = Rig::start();
    let mut target = rig.target_with(with_policy(&rig, Unrepresentable::String)).await;
    let mut end = 0;
    for (index, (type_name, cases)) in cases().into_iter().enumerate() {
        let relation = table_of(index, &cases, -1);
        end += 100_000;
        apply(&mut target, rows_of(&relation, &cases), end)
            .await
            .unwrap_or_else(|error| panic!("{type_name}: {error}"));
        for column in relation.columns.iter().skip(1) {
            check(&rig, &relation.name, &column.name, &cases, |case, ty| {
                expected(ty, case.column.base_oid, &case.send, &case.text)
            });
        }
    }
}

/// 20 decimals of 76 digits, as `numerictypmodin` packs it.
const NUMERIC_76_20: i32 = (76 << 16 | 20) + 4;

/// What a native type holds of a case, or `None` when it does not.
fn representable(case: &Case, ty: &str, type_oid: u32, send: &[u8], text: &str) -> Option<String> {
    let shown = || expected(ty, type_oid, send, text);
    match ty.split('(').next().unwrap() {
        "Date32" | "DateTime64" => {
            let year = text.split('-').next().unwrap().len();
            (year == 4 && !text.ends_with("BC") && text != "infinity").then(shown)
        }
        "Decimal" => {
            let digits = text.trim_start_matches('-');
            let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
            let fits = whole.bytes().all(|b| b.is_ascii_digit())
                && whole.len() <= 56
                && decimals.trim_end_matches('0').len() <= 20;
            fits.then(shown)
        }
        "Array" => {
            let array = Array::from_send(send).unwrap();
            let plain = match array.dimensions() {
                [] => true,
                [only] => only.lower_bound == 1,
                _ => false,
            };
            let element_ty = bare(ty.strip_prefix("Array(").unwrap().strip_suffix(')').unwrap());
            let element = text::Type {
                oid: case.column.element_oid,
                kind: case.column.element_kind,
                element_oid: 0,
                element_kind: TypeKind::Base,
            };
            let show = |value: Option<&[u8]>| {
                let Some(value) = value else { return "NULL".to_owned() };
                let mut text = Vec::new();
                text::write_as(&mut text, Encoding::Send, &element, value).unwrap();
                let text = String::from_utf8(text).unwrap();
                representable(case, &element_ty, element.oid, value, &text)
                    .unwrap_or("NULL".to_owned())
            };
            let elements: Vec<String> = array.elements().map(|e| show(e.unwrap())).collect();
            plain.then(|| format!("[{}]", elements.join(",")))
        }
        _ => Some(shown()),
    }
}

#[tokio::test]
async fn every_value_arrives_in_its_own_type_or_becomes_null() {
    let rig = Rig::start();
    let mut target = rig.target_with(with_policy(&rig, Unrepresentable::Null)).await;
    let mut end = 0;
    let mut refused = 0;
    for (index, (type_name, cases)) in cases().into_iter().enumerate() {
        let numeric = matches!(type_name.as_str(), "numeric" | "numeric[]");
        let relation = table_of(index, &cases, if numeric { NUMERIC_76_20 } else { -1 });
        end += 100_000;
        apply(&mut target, rows_of(&relation, &cases), end)
            .await
            .unwrap_or_else(|error| panic!("{type_name}: {error}"));
        for column in relation.columns.iter().skip(1) {
            let count = std::cell::Cell::new(0);
            check(&rig, &relation.name, &column.name, &cases, |case, ty| {
                let oid = case.column.base_oid;
                representable(case, ty, oid, &case.send, &case.text).unwrap_or_else(|| {
                    count.set(count.get() + 1);
                    if ty.starts_with("Array") { "[]" } else { "NULL" }.to_owned()
                })
            });
            refused += count.get();
        }
    }
    assert!(refused > 100, "{refused} values are outside of their types");
}

/// Each value is copied, and then comes in the stream in its native form: it is the same both times, in a column
/// that both take.
#[tokio::test]
async fn every_value_is_copied_as_it_is_streamed() {
    let rig = Rig::start();
    let options = with_policy(&rig, Unrepresentable::Null);
    let cases: Vec<Vec<Case>> = cases().into_values().collect();
    let tables: Vec<Arc<Relation>> = cases
        .iter()
        .enumerate()
        .map(|(index, cases)| {
            let typmod = if cases[0].type_name.starts_with("numeric") { NUMERIC_76_20 } else { -1 };
            let first = &cases[0];
            let encoding = first.native.as_ref().map_or(Encoding::Send, |native| native.0);
            let v = Column { name: "v".into(), typmod, encoding, ..first.column.clone() };
            let columns = vec![key(int_column("id")), v];
            table(100 + index as u32, &format!("t{index}"), ReplicaIdentity::Default, columns)
        })
        .collect();
    let (mut copy, _) = Copy::open(options.clone(), &tables).await;
    copy.round(1000).await;
    for (index, cases) in cases.iter().enumerate() {
        let row = |(id, case): (usize, &Case)| {
            vec![Some((id as i32).to_be_bytes().to_vec()), Some(case.send.clone())]
        };
        let rows: Vec<_> = cases.iter().enumerate().map(row).collect();
        copy.copy(index, 1000, 0, &rows).await;
    }
    copy.target.finish(rsrepl_wire::Lsn(1000)).await.unwrap();
    let mut target = rig.target_with(options).await;
    let mut end = 1000;
    for (relation, cases) in tables.iter().zip(&cases) {
        let row = |(id, case): (usize, &Case)| {
            let value = case.native.as_ref().map_or(&case.send, |native| &native.1);
            let cells = [int(id as i32 + 10_000), Cell::Value(value.clone())];
            insert(relation, end + id as u64, &cells)
        };
        let rows = cases.iter().enumerate().map(row).collect();
        end += 100_000;
        let what = &cases[0].type_name;
        apply(&mut target, rows, end).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let name = &relation.name;
        let image = image("v", &type_of(&rig, name, "v"));
        let values = |which: &str| {
            let query = format!(
                "SELECT ifNull({image}, 'NULL') FROM {DATABASE}.{name} FINAL WHERE id {which} 10000
                 ORDER BY id FORMAT TabSeparatedRaw"
            );
            rig.server.query(&query)
        };
        let copied = values("<");
        assert_eq!(copied.lines().count(), cases.len(), "{what}");
        assert_eq!(copied, values(">="), "{what}");
    }
}

fn edges(name: &str, type_oid: u32, width: u8) -> Arc<Relation> {
    let value = Column { not_null: true, ..column("v", type_oid, Encoding::Fixed(width)) };
    table(type_oid, name, ReplicaIdentity::Default, vec![key(int_column("id")), value])
}

#[tokio::test]
async fn the_edges_of_dates_and_times() {
    let rig = Rig::start();
    let mut target = rig.target().await;
    let day = |days: i32| Cell::Value(days.to_le_bytes().to_vec());
    let at = |micros: i64| Cell::Value(micros.to_le_bytes().to_vec());
    // 0001-01-01 and 9999-12-31, from 2000-01-01
    let (first, last) = (-730_119, 2_921_939);
    const DAY: i64 = 86_400_000_000;
    let dates = edges("dates", oid::DATE, 4);
    let times = edges("times", oid::TIMESTAMPTZ, 8);
    let good = vec![
        insert(&dates, 10, &[int(1), day(first)]),
        insert(&dates, 11, &[int(2), day(last)]),
        insert(&times, 12, &[int(1), at(i64::from(first) * DAY)]),
        insert(&times, 13, &[int(2), at(i64::from(last) * DAY + DAY - 1)]),
    ];
    apply(&mut target, good, 20).await.unwrap();
    assert_eq!(rig.rows("id, v", "dates"), ["1\t0001-01-01", "2\t9999-12-31"]);
    assert_eq!(
        rig.rows("id, v", "times"),
        ["1\t0001-01-01 00:00:00.000000", "2\t9999-12-31 23:59:59.999999"]
    );
    let bad = [
        (&dates, day(first - 1), "0001-12-31 BC"),
        (&dates, day(last + 1), "10000-01-01"),
        (&dates, day(i32::MAX), "infinity"),
        (&dates, day(i32::MIN), "-infinity"),
        (&times, at(i64::from(first) * DAY - 1), "BC"),
        (&times, at(i64::from(last) * DAY + DAY), "10000-01-01"),
        (&times, at(i64::MAX), "infinity"),
        (&times, at(i64::MIN), "-infinity"),
    ];
    for (relation, value, shown) in bad {
        let mut target = rig.target().await;
        let change = insert(relation, 30, &[int(3), value]);
        let error = refused(&mut target, batch(vec![change], Some(40))).await;
        assert_eq!((error.kind(), error.decision()), (Kind::Row, Decision::Stop));
        let message = error.to_string();
        for part in [shown, &format!("public.{}", relation.name), "key (3)", "column v", "0/1E"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(message.contains(&format!("\"public.{}.v\" = \"string\"", relation.name)));
    }
}

#[tokio::test]
async fn a_null_array_follows_its_policy() {
    let rig = Rig::start();
    let tags = Column {
        kind: TypeKind::Array,
        element_oid: oid::TEXT,
        ..column("tags", 1009, Encoding::Send)
    };
    let t = |i: u32| {
        let columns = vec![key(int_column("id")), tags.clone()];
        table(i, &format!("t{i}"), ReplicaIdentity::Default, columns)
    };
    let row = |i: u32| batch(vec![insert(&t(i), 10, &[int(1), Cell::Null])], Some(20));
    let mut target = rig.target().await;
    let error = refused(&mut target, row(1)).await;
    assert!(error.to_string().contains("a NULL array"), "{error}");
    for (i, policy, shown) in
        [(2, Unrepresentable::Null, "1\t[]"), (3, Unrepresentable::String, "1\t\\N")]
    {
        let mut options = rig.options();
        options.policies.columns.insert(format!("public.t{i}.tags"), policy.into());
        let mut target = rig.target_with(options).await;
        target.apply(row(i)).await.unwrap();
        assert_eq!(rig.rows("id, tags", &format!("t{i}")), [shown]);
    }
}
