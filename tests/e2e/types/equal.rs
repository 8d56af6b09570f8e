//! Comparing the tables of the walk on all systems.

use std::collections::HashMap;

use postgres::Client;
use rsrepl_tests::compare::{self, Column};
use rsrepl_tests::mapping::{self, Unrepresentable};
use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::rig::{DATABASE, Rig};

use super::document::{Array, Document};
use super::tables::{Table, Walked};

/// The database of the ClickHouse target with ClickHouse's own types.
pub const NATIVE: &str = "native";

/// Connections for many comparisons: each costs a key derivation.
pub struct Clients {
    source: Client,
    standby: Client,
}

impl Clients {
    /// With nothing in the search path, names are shown as they travel: qualified.
    pub fn new(rig: &Rig) -> Clients {
        let client = |server: &Postgres| {
            let mut client = server.client(DATABASE);
            client.batch_execute("SET search_path = ''").expect("settings");
            client
        };
        Clients { source: client(&rig.source), standby: client(&rig.standby) }
    }
}

/// Panics with everything that differs, and with every type that is not what the document says.
pub fn check(rig: &Rig, tables: &[Table], document: &Document) {
    let clients = &mut Clients::new(rig);
    let types = &Types::read(rig);
    let mut wrong = Vec::new();
    let mut check = |name: &str, columns: &[Walked]| {
        wrong.extend(standby(clients, name, columns));
        wrong.extend(undocumented(types, name, columns, document));
        wrong.extend(clickhouse(rig, clients, types, name, columns));
    };
    for table in tables {
        check(&table.name, &table.columns);
        if table.bare {
            check(&format!("bare_{}", table.name), &table.bare_columns());
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// By the output function and, where there is one, the send function of each value.
pub fn standby(clients: &mut Clients, table: &str, columns: &[Walked]) -> Option<String> {
    let shown = columns.iter().flat_map(|walked| {
        let name = &walked.column.name;
        let text = format!("CASE WHEN num_nonnulls({name}) = 1 THEN format('%s', {name}) END");
        let sent = walked.send.as_ref().map(|send| format!("{send}({name})"));
        [Some(text), sent]
    });
    let shown: Vec<String> = shown.flatten().collect();
    // more than a function's arguments
    let parts: Vec<String> =
        shown.chunks(50).map(|part| format!("ROW({})::text", part.join(", "))).collect();
    let query = format!(
        "SELECT x COLLATE \"C\" FROM (SELECT concat_ws(' ', id, {}) AS x FROM public.{table}) AS x ORDER BY 1",
        parts.join(", ")
    );
    let source = compare::copy_out(&mut clients.source, &query);
    let standby = compare::copy_out(&mut clients.standby, &query);
    let compared = compare::compare(table, source, standby);
    (!compared.equal()).then(|| format!("standby: {compared}"))
}

/// Columns that are not what the document says.
fn undocumented(types: &Types, name: &str, columns: &[Walked], document: &Document) -> Vec<String> {
    let wrong = |walked: &Walked| {
        let (expected, found) =
            (said(document, walked), types.of(NATIVE, name, &walked.column.name));
        let name = &walked.column.type_name;
        (found != expected)
            .then(|| format!("{name} is {found}; docs/type-mapping.md says {expected}"))
    };
    columns.iter().filter_map(wrong).collect()
}

/// By what ClickHouse shows, under both policies.
pub fn clickhouse(
    rig: &Rig,
    clients: &mut Clients,
    types: &Types,
    name: &str,
    columns: &[Walked],
) -> Vec<String> {
    let policies = [(DATABASE, Unrepresentable::None), (NATIVE, Unrepresentable::Null)];
    let different = policies.iter().filter_map(|(database, policy)| {
        let type_of = |column: &str| types.of(database, name, column);
        same(rig, clients, name, database, columns, type_of, *policy)
    });
    different.collect()
}

/// The types that the columns of all tables have in ClickHouse.
pub struct Types(HashMap<[String; 3], String>);

impl Types {
    pub fn read(rig: &Rig) -> Types {
        let query = format!(
            "SELECT database, `table`, name, type FROM system.columns
             WHERE database IN ('{DATABASE}', '{NATIVE}') FORMAT TabSeparatedRaw"
        );
        let read = |line: &str| {
            let fields: Vec<String> = line.split('\t').map(str::to_owned).collect();
            let [database, table, name, ty] = <[String; 4]>::try_from(fields).expect("four");
            ([database, table, name], ty)
        };
        Types(rig.clickhouse.query(&query).lines().map(read).collect())
    }

    fn of(&self, database: &str, table: &str, column: &str) -> &str {
        let place = [database, table, column].map(str::to_owned);
        self.0.get(&place).unwrap_or_else(|| panic!("ClickHouse has no {place:?}"))
    }
}

/// What differs between a table and the one of its name in a database of ClickHouse.
fn same<'a>(
    rig: &Rig,
    clients: &mut Clients,
    name: &str,
    database: &str,
    columns: &[Walked],
    type_of: impl Fn(&str) -> &'a str,
    policy: Unrepresentable,
) -> Option<String> {
    let id = Column { name: "id".into(), type_name: "integer".into(), kind: 'b' };
    let columns: Vec<&Column> =
        [&id].into_iter().chain(columns.iter().map(|walked| &walked.column)).collect();
    let source = |part: &[&Column]| {
        let part: Vec<_> = part
            .iter()
            .map(|column| mapping::source_text(column, type_of(&column.name), policy))
            .collect();
        format!("concat_ws('|', {})", part.join(", "))
    };
    // a function has a hundred arguments at most
    let here: Vec<String> = columns.chunks(50).map(source).collect();
    let there: Vec<String> =
        columns.iter().map(|column| mapping::target_text(column, type_of(&column.name))).collect();
    let query = format!(
        "SELECT concat_ws('|', {}) COLLATE \"C\" FROM public.{name} ORDER BY 1",
        here.join(", ")
    );
    let expected = compare::copy_out(&mut clients.source, &query);
    let query = format!(
        "SELECT arrayStringConcat([{}], '|') AS r FROM {database}.{name} FINAL ORDER BY r \
         FORMAT TabSeparatedRaw",
        there.join(", ")
    );
    let found = rig.clickhouse.query(&query).lines().map(str::to_owned).collect();
    let compared = compare::compare(&format!("{database}.{name}"), expected, found);
    (!compared.equal()).then(|| format!("ClickHouse: {compared}"))
}

/// The type that a column has to have, which may be NULL.
fn said(document: &Document, walked: &Walked) -> String {
    let element = walked.column.type_name.trim_end_matches("[]");
    let said = match walked.column.type_name.strip_prefix("numeric(") {
        Some(modifier) => return decimal(modifier, walked.is_array),
        None => document.of(unmodified(element).as_str(), walked.kind_of_base()),
    };
    match (walked.is_array, said.array) {
        (false, _) => nullable(&said.value),
        (true, Array::Of(element)) => format!("Array(Nullable({element}))"),
        (true, Array::OneString) => "Nullable(String)".to_owned(),
    }
}

fn nullable(value: &str) -> String {
    match value {
        "LowCardinality(String)" => "LowCardinality(Nullable(String))".to_owned(),
        value => format!("Nullable({value})"),
    }
}

fn decimal(modifier: &str, is_array: bool) -> String {
    let (precision, scale) =
        modifier.trim_end_matches("[]").trim_end_matches(')').split_once(',').expect("a scale");
    let (precision, scale): (i32, i32) = (precision.parse().unwrap(), scale.parse().unwrap());
    let ty = match (precision, scale) {
        (77.., _) => "String".to_owned(),
        (_, ..0) => format!("Decimal({}, 0)", precision - scale),
        _ => format!("Decimal({}, {scale})", precision.max(scale)),
    };
    if is_array { format!("Array(Nullable({ty}))") } else { format!("Nullable({ty})") }
}

/// Without its modifier, and under the name that `format_type` has without one.
fn unmodified(name: &str) -> String {
    let plain: String = match (name.find('('), name.find(')')) {
        (Some(from), Some(to)) => format!("{}{}", &name[..from], &name[to + 1..]),
        _ => name.to_owned(),
    };
    match plain.as_str() {
        "character" => "bpchar".to_owned(),
        "interval day to second" => "interval".to_owned(),
        _ => plain,
    }
}

impl Walked {
    /// A domain is what is under it, which is never a composite type in a fresh database.
    fn kind_of_base(&self) -> char {
        if self.kind == 'd' { 'b' } else { self.kind }
    }
}
