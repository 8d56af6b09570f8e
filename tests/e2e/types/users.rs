//! Types that users make, and values of the types of extensions.

use rsrepl_tests::compare::Column;
use rsrepl_tests::rig::{DATABASE, Rig};
use rsrepl_tests::wait;

use super::equal::{self, Clients, NATIVE, Types};
use super::tables::{Walked, element, quote};
use super::{LIMIT, fill, rig, settle};

/// On source and standby. `odd` borrows the functions of text, `odder` has no send function.
const SCHEMA: &str = r#"
CREATE SCHEMA "My Types";
CREATE TYPE settings AS (t timestamptz, b bytea, d date, i interval, m money, f float4);
CREATE TYPE odd;
CREATE FUNCTION odd_in(cstring) RETURNS odd LANGUAGE internal IMMUTABLE STRICT AS 'byteain';
CREATE FUNCTION odd_out(odd) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'byteaout';
CREATE TYPE odd (INPUT = odd_in, OUTPUT = odd_out, LIKE = bytea, DELIMITER = ';');
-- a cast that is not what the input function does
CREATE FUNCTION odd_of(text) RETURNS odd LANGUAGE internal IMMUTABLE STRICT AS 'upper';
CREATE CAST (text AS odd) WITH FUNCTION odd_of(text);
CREATE TYPE texty;
CREATE FUNCTION texty_in(cstring) RETURNS texty LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION texty_out(texty) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE FUNCTION texty_recv(internal) RETURNS texty LANGUAGE internal IMMUTABLE STRICT AS 'textrecv';
CREATE FUNCTION texty_send(texty) RETURNS bytea LANGUAGE internal IMMUTABLE STRICT AS 'textsend';
CREATE TYPE texty (INPUT = texty_in, OUTPUT = texty_out, RECEIVE = texty_recv, SEND = texty_send,
                   INTERNALLENGTH = VARIABLE, STORAGE = extended);
CREATE TYPE pairs;
CREATE FUNCTION pairs_in(cstring) RETURNS pairs LANGUAGE internal IMMUTABLE STRICT AS 'point_in';
CREATE FUNCTION pairs_out(pairs) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'point_out';
CREATE FUNCTION pairs_recv(internal) RETURNS pairs LANGUAGE internal IMMUTABLE STRICT AS 'point_recv';
CREATE FUNCTION pairs_send(pairs) RETURNS bytea LANGUAGE internal IMMUTABLE STRICT AS 'point_send';
CREATE TYPE pairs (INPUT = pairs_in, OUTPUT = pairs_out, RECEIVE = pairs_recv, SEND = pairs_send,
                   INTERNALLENGTH = 16, ALIGNMENT = double);
CREATE TYPE "My Types"."Mood" AS ENUM ('sad', 'it''s "so, so"', 'ok');
CREATE DOMAIN "My Types".positive AS int CHECK (VALUE > 0);
CREATE DOMAIN numbers AS numeric(8,2)[] CHECK (array_length(VALUE, 1) < 4);
CREATE TYPE inner_pair AS (n "My Types".positive, "a b" text, moods "My Types"."Mood"[]);
CREATE TYPE outer_pair AS (i inner_pair, list inner_pair[], at timestamptz, nums numbers);
CREATE DOMAIN checked_pair AS outer_pair CHECK (VALUE IS NULL OR (VALUE).at IS NOT NULL);
CREATE DOMAIN twice_checked AS checked_pair CHECK ((VALUE).nums IS NULL);
CREATE TYPE float_range AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE TYPE mood_range AS RANGE (subtype = "My Types"."Mood");
CREATE TABLE "My Types".here (id int PRIMARY KEY);
"#;

/// Each type with its values.
const VALUES: &[(&str, &[&str])] = &[
    ("settings", &[r#"("2026-01-01 00:00:00+00","\\x00ff",2026-02-03,"1 mon",$1.50,0.1)"#]),
    ("odd", &["", r"\x00ff", "abc;,"]),
    ("texty", &["", "NULL", "a \"b\" \\ {,;}", "é\n\t"]),
    ("pairs", &["(NaN,Infinity)", "(-0,1e300)", "(0.1,2)"]),
    (r#""My Types"."Mood""#, &["sad", "it's \"so, so\""]),
    (r#""My Types".positive"#, &["1", "2147483647"]),
    ("numbers", &["{}", "{1.50,NULL,NaN}", "[0:1]={1,2}", "{{1},{2}}"]),
    ("inner_pair", &["(,,)", r#"(1,"a ""b"" \\,","{sad,NULL}")"#, r#"(2,"","{ok}")"#]),
    ("outer_pair", &["(,,,)", r#"("(1,x,)","{NULL,""(2,,{})""}",infinity,"[3:4]={NaN,0.10}")"#]),
    ("checked_pair", &[r#"("(1,x,)",{},"0044-03-15 12:00:00+00 BC",{7})"#]),
    ("twice_checked", &[r#"("(1,x,)",{},-infinity,)"#]),
    ("float_range", &["empty", "(,)", "[-Infinity,NaN]", "[0.1,0.30000000000000004)"]),
    ("float_multirange", &["{}", "{[1,2),(3.5,)}"]),
    ("mood_range", &[r#"[sad,"it's \"so, so\""]"#, "(,ok)"]),
    ("regclass", &[r#""My Types".here"#, "pg_class"]),
    ("regtype", &[r#""My Types"."Mood""#, "outer_pair[]"]),
    ("regprocedure", &["odd_in(cstring)"]),
    ("aclitem", &["pg_monitor=r*w/postgres"]),
    ("hstore", &["", r#""a"=>NULL, "b c"=>"\"x\"""#]),
    ("citext", &["", "MiXeD é"]),
];

/// What contrib brings, where the server has it.
const EXTENSIONS: [&str; 2] = ["hstore", "citext"];

fn is_available(rig: &Rig, extension: &str) -> bool {
    let query = format!("SELECT count(*) FROM pg_available_extensions WHERE name = '{extension}'");
    rig.source.value(DATABASE, &query).as_deref() == Some("1")
}

fn column(name: &str, type_name: String) -> Walked {
    let column = Column { name: name.to_owned(), type_name, kind: 'b' };
    Walked { column, kind: 'b', is_array: false, send: None }
}

#[test]
fn types_of_users_arrive() {
    walk("users", false);
}

#[test]
fn types_of_users_are_copied() {
    walk("copied-users", true);
}

fn walk(name: &str, copied: bool) {
    let mut rig = rig(name);
    let mut values = VALUES.to_vec();
    for extension in EXTENSIONS {
        if is_available(&rig, extension) {
            both(&rig, &format!("CREATE EXTENSION {extension}"));
        } else {
            eprintln!("SKIPPED: the server has no extension {extension}; its type is not tested");
            values.retain(|(name, _)| *name != extension);
        }
    }
    both(&rig, SCHEMA);
    let mut tables = Vec::new();
    // what a database sets changes no text
    rig.execute(
        "ALTER DATABASE shop SET timezone = 'Asia/Tokyo'; ALTER DATABASE shop SET bytea_output = 'escape';
         ALTER DATABASE shop SET datestyle = 'German'; ALTER DATABASE shop SET intervalstyle = 'iso_8601'",
    );
    let mut all = "SET datestyle = ISO;".to_owned();
    for (number, (ty, values)) in values.iter().enumerate() {
        let name = format!("u{number}");
        both(
            &rig,
            &format!(
                "CREATE TABLE {name} (id int PRIMARY KEY, v {ty}, a {ty}[]);
                 CREATE TABLE bare_{name} (id int, v {ty}, a {ty}[]);
                 ALTER TABLE bare_{name} REPLICA IDENTITY FULL"
            ),
        );
        let mut rows = format!("INSERT INTO {name} VALUES (0, NULL, '{{}}');");
        let delimiter = if *ty == "odd" { ';' } else { ',' };
        for (id, value) in (1..).step_by(3).zip(*values) {
            let (value, element) = (quote(value), element(value));
            let arrays = [
                format!("{{{element}{delimiter}NULL}}"),
                format!("{{{{{element}}}{delimiter}{{{element}}}}}"),
                format!("[-1:0]={{{element}{delimiter}{element}}}"),
            ];
            for (id, array) in (id..).zip(arrays) {
                rows += &format!("INSERT INTO {name} VALUES ({id}, {value}, {});", quote(&array));
            }
        }
        all += &format!("{rows} INSERT INTO bare_{name} SELECT * FROM {name};");
        let columns = vec![column("v", (*ty).to_owned()), column("a", format!("{ty}[]"))];
        tables.push((format!("bare_{name}"), columns.clone()));
        tables.push((name, columns));
    }
    fill(&mut rig, copied, &all);
    let check = |rig: &Rig| {
        let (clients, types) = (&mut Clients::new(rig), &Types::read(rig));
        let mut wrong = Vec::new();
        for (name, columns) in &tables {
            wrong.extend(equal::standby(clients, name, columns));
            wrong.extend(equal::clickhouse(rig, clients, types, name, columns));
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    };
    check(&rig);
    for (name, _) in &tables {
        rig.execute(&format!(
            "UPDATE {name} SET id = id + 100 WHERE id % 2 = 0; UPDATE {name} SET v = NULL WHERE id % 3 = 2;
             DELETE FROM {name} WHERE id % 5 = 1"
        ));
    }
    settle(&rig);
    check(&rig);
}

/// A label that is new on the standby first, and one that changes its name between two changes: what
/// ClickHouse has of the old name stays, until the row changes.
#[test]
fn enums_change_meanwhile() {
    let mut rig = rig("labels");
    both(
        &rig,
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE t (id int PRIMARY KEY, v mood, a mood[]);
         CREATE TABLE by_mood (v mood PRIMARY KEY, n int)",
    );
    rig.run();
    rig.execute(
        "INSERT INTO t VALUES (1, 'sad', '{sad}'), (2, 'ok', '{}'), (3, 'sad', '{}');
         INSERT INTO by_mood VALUES ('sad', 1), ('ok', 2)",
    );
    settle(&rig);
    rig.standby.execute(DATABASE, "ALTER TYPE mood ADD VALUE 'fine' BEFORE 'ok'");
    rig.execute("ALTER TYPE mood ADD VALUE 'fine' BEFORE 'ok'");
    rig.execute("INSERT INTO t VALUES (4, 'fine', '{fine,NULL}'); UPDATE by_mood SET v = 'fine' WHERE v = 'ok'");
    settle(&rig);
    both(&rig, "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'");
    rig.execute("INSERT INTO t VALUES (5, 'blue', '{blue,fine}'); UPDATE t SET v = v WHERE id = 1");
    settle(&rig);
    let columns = [column("v", "mood".into()), column("a", "mood[]".into())];
    assert_eq!(equal::standby(&mut Clients::new(&rig), "t", &columns), None);
    let all = "SELECT string_agg(b::text, ' ' ORDER BY v) FROM by_mood b";
    assert_eq!(rig.standby.value(DATABASE, all).as_deref(), Some("(blue,1) (fine,2)"));
    for database in [DATABASE, NATIVE] {
        let found = rig.clickhouse.query(&format!(
            "SELECT arrayStringConcat(groupArray(v), ' ') FROM (SELECT v FROM {database}.t FINAL ORDER BY id)"
        ));
        assert_eq!(found.trim(), "blue ok sad fine blue");
        let found = rig.clickhouse.query(&format!("SELECT count() FROM {database}.by_mood FINAL"));
        assert_eq!(found.trim(), "2", "the key under the old label is gone");
    }
    wait::until(LIMIT, "ready", || rig.sidecar.ready());
}

/// On source and standby: types are not replicated.
fn both(rig: &Rig, statements: &str) {
    rig.standby.execute(DATABASE, statements);
    rig.execute(statements);
}
