//! What the user says of single columns: policies that are changed when a value was refused, and types.

use std::time::Duration;

use rsrepl_tests::rig::{CLICKHOUSE, DATABASE, Rig};
use rsrepl_tests::wait;

const LIMIT: Duration = Duration::from_secs(60);

fn rows(rig: &Rig, columns: &str, table: &str) -> Vec<String> {
    let query = format!(
        "SELECT {columns} FROM {DATABASE}.{table} FINAL ORDER BY ALL FORMAT TabSeparatedRaw"
    );
    rig.clickhouse.query(&query).lines().map(str::to_owned).collect()
}

/// Waits until ClickHouse says all of `parts`, and the standby is not held up.
fn refused(rig: &Rig, parts: &[&str]) -> String {
    rig.settle_standby(LIMIT);
    wait::value(LIMIT, &format!("ClickHouse says {parts:?}"), || {
        let report = rig.reported(CLICKHOUSE);
        parts.iter().all(|part| report.contains(part)).then_some(report)
    })
}

/// Starts the sidecar anew with these `columns`.
fn reconfigure(rig: &mut Rig, columns: &str) {
    rig.sidecar.terminate();
    rig.configure(|config| config.clickhouse[0].options = format!("columns = {{ {columns} }}"));
    rig.sidecar.launch();
}

/// Runs the ALTER TABLE that a report asks for.
fn obey(rig: &Rig, report: &str) {
    let from = report.find("ALTER TABLE").expect("a statement");
    let statement = &report[from..];
    let end = statement.find([';', '"']).expect("the end of the hint");
    rig.clickhouse.query(&statement[..end]);
}

/// A value that is refused holds up ClickHouse alone, and no other table of it loses anything, whatever the
/// owner then decides.
#[test]
fn a_changed_policy_loses_nothing() {
    let mut rig = Rig::new(
        "policies",
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz, d date NOT NULL, n numeric);
         CREATE TABLE other (id int PRIMARY KEY)",
    );
    rig.run();
    rig.execute("INSERT INTO t VALUES (1, '2026-01-02 03:04:05+00', '2026-01-02', 1.50)");
    rig.settle(LIMIT);

    // to NULL
    rig.execute(
        "INSERT INTO t VALUES (42, 'infinity', '2026-01-03', 2); INSERT INTO other VALUES (1)",
    );
    let report = refused(&rig, &["\"stopped\""]);
    for part in
        [CLICKHOUSE, "public.t", "key (42)", "column at", "infinity", "DateTime64", "policy error"]
    {
        assert!(report.contains(part), "{part:?} is missing in {report}");
    }
    reconfigure(&mut rig, "\"public.t.at\" = \"null\"");
    rig.settle(LIMIT);
    let first = "1\t2026-01-02 03:04:05.000000";
    assert_eq!(rows(&rig, "id, at", "t"), [first, "42\t\\N"]);
    assert_eq!(rows(&rig, "id", "other"), ["1"]);

    // to a String, which the table has to have first
    rig.execute("INSERT INTO t VALUES (43, NULL, 'infinity', 3); INSERT INTO other VALUES (2)");
    refused(&rig, &["\"stopped\"", "key (43)", "column d", "infinity"]);
    let columns = "\"public.t.at\" = \"null\", \"public.t.d\" = \"string\"";
    reconfigure(&mut rig, columns);
    obey(&rig, &refused(&rig, &["MODIFY COLUMN `d` String"]));
    rig.settle(LIMIT);
    assert_eq!(rows(&rig, "id, d", "t"), ["1\t2026-01-02", "42\t2026-01-03", "43\tinfinity"]);
    assert_eq!(rows(&rig, "id", "other"), ["1", "2"]);

    // to another type, and back to more than it holds
    let typed = |options: &str| {
        format!("{columns}, \"public.t.n\" = {{ type = \"Decimal(20, 5)\"{options} }}")
    };
    reconfigure(&mut rig, &typed(""));
    rig.execute("UPDATE t SET n = 12.34567 WHERE id = 42");
    obey(&rig, &refused(&rig, &["MODIFY COLUMN `n` Nullable(Decimal(20, 5))"]));
    rig.settle(LIMIT);
    rig.execute("UPDATE t SET n = 0.000001 WHERE id = 43; INSERT INTO other VALUES (3)");
    refused(&rig, &["\"stopped\"", "key (43)", "column n", "0.000001", "Decimal(20, 5)"]);
    reconfigure(&mut rig, &typed(", unrepresentable = \"null\""));
    rig.settle(LIMIT);
    assert_eq!(rows(&rig, "id, n", "t"), ["1\t1.5", "42\t12.34567", "43\t\\N"]);
    assert_eq!(rows(&rig, "id", "other"), ["1", "2", "3"]);
    rig.assert_discreet();
}

const TYPED: &str = "
CREATE TYPE mood AS ENUM ('sad', 'so ''so''', 'ok');
CREATE TABLE typed (
    id inet, mood mood, PRIMARY KEY (id, mood),
    v4 inet, v6 cidr, label text NOT NULL, moods mood[], u numeric NOT NULL, big numeric, i bigint,
    at timestamptz, nanos timestamp, seconds timestamp, d date, j jsonb NOT NULL, k jsonb,
    m int[], p point, q point NOT NULL, s int, long text, lsns pg_lsn[]);
ALTER TABLE typed ALTER long SET STORAGE EXTERNAL, ALTER j SET STORAGE EXTERNAL;
CREATE TABLE log (v4 inet, j jsonb, m int[], p point, mood mood);
ALTER TABLE log REPLICA IDENTITY FULL;
CREATE TABLE nullable (id int PRIMARY KEY, v4 inet NOT NULL, mood text NOT NULL, u int NOT NULL, j jsonb NOT NULL,
    m int[] NOT NULL)";

const LABELS: &str = "Enum8('sad' = -2, 'so \\\\'so\\\\'' = 1, 'ok' = 7)";

fn options() -> String {
    let wide = LABELS.replace("Enum8", "Enum16");
    let typed = [
        ("typed.id", "IPv6"),
        ("typed.mood", LABELS),
        ("typed.v4", "IPv4"),
        ("typed.v6", "IPv6"),
        ("typed.label", &wide),
        ("typed.moods", &format!("Array(Nullable({LABELS}))")),
        ("typed.u", "UInt64"),
        ("typed.big", "Int256"),
        ("typed.i", "Int128"),
        ("typed.at", "DateTime64(3)"),
        ("typed.nanos", "DateTime64(9)"),
        ("typed.seconds", "DateTime"),
        ("typed.d", "Date"),
        ("typed.j", "JSON"),
        ("typed.k", "JSON"),
        ("typed.m", "Array(Array(Nullable(Int64)))"),
        ("typed.p", "Tuple(Float64, Float64)"),
        ("typed.q", "Tuple(Float64, Float64)"),
        ("typed.s", "LowCardinality(String)"),
        ("typed.lsns", "Array(Nullable(UInt64))"),
        ("log.v4", "IPv4"),
        ("log.j", "JSON"),
        ("log.m", "Array(Array(Nullable(Int32)))"),
        ("log.p", "Tuple(Float64, Float64)"),
        ("log.mood", LABELS),
    ];
    let nullable = [
        ("nullable.v4", "IPv4"),
        ("nullable.mood", "Enum8('ok' = 1)"),
        ("nullable.u", "UInt8"),
        ("nullable.j", "JSON"),
        ("nullable.m", "Array(Array(Nullable(UInt8)))"),
    ];
    let entry = |more: &'static str| {
        move |(column, ty): &(&str, &str)| {
            format!("\"public.{column}\" = {{ type = \"{ty}\"{more} }}")
        }
    };
    let null = ", unrepresentable = \"null\"";
    let columns: Vec<String> =
        typed.iter().map(entry("")).chain(nullable.iter().map(entry(null))).collect();
    format!("columns = {{ {} }}", columns.join(", "))
}

#[test]
fn columns_have_the_types_of_their_owners_choice() {
    let mut rig = Rig::new("typed", TYPED);
    rig.configure(|config| config.clickhouse[0].options = options());
    rig.run();
    rig.execute(
        r#"INSERT INTO typed VALUES
        ('::1', 'sad', '1.2.3.4', '2001:db8::1', 'ok', '{sad,NULL,ok}', 18446744073709551615,
         -57896044618658097711785492504343953926634992332820282019728792003956564819968, -1,
         '2026-01-02 03:04:05.678+00', '2262-04-11 23:47:16.854775', '2106-02-07 06:28:15', '2149-06-06',
         '{"a": [1, 2.5, "x"], "b": {"c": "2020-01-01 00:00:00"}}', '{"n": 18446744073709551615}',
         '{{1,NULL},{-3,4}}', '(NaN,-0)', '(Infinity,1e-300)', -7, repeat('x', 3000),
         '{FFFFFFFF/FFFFFFFF,NULL}'),
        ('fe80::1', 'so ''so''', '0.0.0.0', '::', 'sad', '{}', 0, 7, 9223372036854775807,
         '0001-01-01 00:00:00+00', '1677-09-21 00:12:44', '1970-01-01 00:00:00', '1970-01-01', '{}', NULL, '{}',
         NULL, '(0,0)', NULL, NULL, '{}'),
        ('::2', 'ok', NULL, NULL, 'so ''so''', '{}', 1, NULL, NULL, NULL, NULL, NULL, NULL,
         jsonb_build_object('long', repeat('y', 3000)), NULL, '{}', NULL, '(1,2)', NULL, repeat('z', 3000), '{}');
        INSERT INTO log VALUES ('1.2.3.4', '{"a": 1}', '{{1}}', '(1,2)', 'ok'), (NULL, NULL, '{}', NULL, NULL),
            (NULL, NULL, '{}', NULL, NULL), ('4.3.2.1', '{}', '{}', '(3,4)', 'sad');
        INSERT INTO nullable VALUES (1, '1.2.3.4', 'ok', 255, '{"a": true}', '{{255}}'),
            (2, '1.2.3.4/8', 'no', 256, '[1]', '{{256},{1}}'), (3, '::1', '', -1, '{"a.b": 1}', '{1}'),
            (4, '1.1.1.1', 'ok', 0, '{"a": 1e30}', '{{{1}}}')"#,
    );
    rig.settle(LIMIT);
    // large values that stay as they are come from the table, and tombstones have values of every type
    rig.execute(
        "UPDATE typed SET u = u - 1 WHERE u > 0; UPDATE typed SET id = '::3' WHERE id = '::2';
         DELETE FROM typed WHERE id = 'fe80::1'; DELETE FROM log WHERE v4 = '4.3.2.1';
         UPDATE log SET p = '(5,6)' WHERE v4 IS NOT NULL",
    );
    rig.settle(LIMIT);
    let typed = rows(
        &rig,
        "* EXCEPT (long, `_rsrepl_version`, `_rsrepl_deleted`, j), length(long), j",
        "typed",
    );
    let long = format!("{{\"long\":\"{}\"}}", "y".repeat(3000));
    assert_eq!(
        typed,
        [
            "::1\tsad\t1.2.3.4\t2001:db8::1\tok\t['sad',NULL,'ok']\t18446744073709551614\t\
             -57896044618658097711785492504343953926634992332820282019728792003956564819968\t-1\t\
             2026-01-02 03:04:05.678\t2262-04-11 23:47:16.854775000\t2106-02-07 06:28:15\t2149-06-06\t\
             {\"n\":18446744073709551615}\t[[1,NULL],[-3,4]]\t(nan,-0)\t(inf,1e-300)\t-7\t\
             [18446744073709551615,NULL]\t3000\t\
             {\"a\":[1,2.5,\"x\"],\"b\":{\"c\":\"2020-01-01 00:00:00\"}}".to_owned(),
            "::3\tok\t\\N\t\\N\tso 'so'\t[]\t0\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t[]\t(NULL,NULL)\t(1,2)\t\\N\t[]\t\
             3000\t".to_owned() + &long,
        ]
    );
    assert_eq!(
        rows(&rig, "*", "log"),
        [
            "1.2.3.4\t{\"a\":1}\t[[1]]\t(5,6)\tok",
            "\\N\t\\N\t[]\t(NULL,NULL)\t\\N",
            "\\N\t\\N\t[]\t(NULL,NULL)\t\\N"
        ]
    );
    assert_eq!(
        rows(&rig, "id, v4, mood, u, j, m", "nullable"),
        [
            "1\t1.2.3.4\tok\t255\t{\"a\":true}\t[[255]]",
            "2\t\\N\t\\N\t\\N\t\\N\t[[NULL],[1]]",
            "3\t\\N\t\\N\t\\N\t\\N\t[]",
            "4\t1.1.1.1\tok\t0\t\\N\t[]",
        ]
    );
    // all versions can be read, those of deleted rows too
    rig.clickhouse.query(&format!("SELECT * FROM {DATABASE}.typed FORMAT Null"));

    rig.sidecar.terminate();
    let output = rig.sidecar.command("check");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    rig.clickhouse
        .query(&format!("ALTER TABLE {DATABASE}.typed MODIFY COLUMN big Nullable(String)"));
    rig.configure(|config| {
        let options = &mut config.clickhouse[0].options;
        *options = options.replace(
            "\"public.typed.s\" = { type = \"LowCardinality(String)\" }",
            "\"public.typed.s\" = { type = \"IPv4\" }",
        );
    });
    let output = rig.sidecar.command("check");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success(), "{text}");
    for part in ["IPv4 cannot hold the values of public.typed.s", "Int8 to Int256"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    rig.configure(|config| config.clickhouse[0].options = options());
    let output = rig.sidecar.command("check");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("MODIFY COLUMN `big` Nullable(Int256)"), "{text}");
}
