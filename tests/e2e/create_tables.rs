//! Tables that the standby lacks: made by pg_dump as they are on the source, with what they need and nothing else,
//! whoever is killed meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::rig::{DATABASE, Rig};
use rsrepl_tests::{SECRET, build, compare, wait};

const LIMIT: Duration = Duration::from_secs(120);

/// In `shop` what is to come, in `private` what is not; `there` is on the standby already.
const SCHEMA: &str = r#"
CREATE SCHEMA shop;
CREATE SCHEMA private;
CREATE TYPE shop.mood AS ENUM ('sad', 'so-so', 'happy');
CREATE TYPE private.unused AS ENUM ('a');
CREATE FUNCTION shop.is_code(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 ~ ''^[a-z]+$''';
CREATE DOMAIN shop.code AS text CHECK (shop.is_code(VALUE));
CREATE TYPE shop.pair AS (a int, m shop.mood);
CREATE SEQUENCE shop.numbers START 100 INCREMENT 10;
CREATE FUNCTION shop.greeting() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN ''hello''; END';
CREATE FUNCTION private.of_nobody() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TABLE private.secret (id int PRIMARY KEY);
CREATE TABLE shop."Cus""tomer" (
    id serial PRIMARY KEY, code shop.code UNIQUE, m shop.mood DEFAULT 'happy', p shop.pair,
    number bigint DEFAULT nextval('shop.numbers'), hello text DEFAULT shop.greeting(),
    twice bigint GENERATED ALWAYS AS (number * 2) STORED, CONSTRAINT positive CHECK (number > 0));
COMMENT ON COLUMN shop."Cus""tomer".code IS 'in small
letters; Type: TABLE';
CREATE INDEX ON shop."Cus""tomer" (lower(hello)) INCLUDE (m) WHERE number > 100;
CREATE STATISTICS shop.of_both ON code, m FROM shop."Cus""tomer";
CREATE TABLE shop.orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int NOT NULL REFERENCES shop."Cus""tomer",
    previous bigint REFERENCES shop.orders DEFERRABLE, hidden int CONSTRAINT to_a_private_table REFERENCES private.secret,
    during int4range, v text, changed int DEFAULT 0, EXCLUDE USING gist (during WITH &&));
ALTER TABLE shop.orders ADD CONSTRAINT later CHECK (changed < 1000) NOT VALID;
ALTER TABLE shop.orders ALTER v SET STORAGE EXTERNAL;
CREATE FUNCTION shop.count_changes() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN NEW.changed := OLD.changed + 1; RETURN NEW; END';
CREATE TRIGGER count_changes BEFORE UPDATE ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.count_changes();
CREATE FUNCTION shop.slowly(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN PERFORM pg_sleep(0.2); RETURN $1; END';
CREATE TABLE shop.slow (a int NOT NULL, b int);
CREATE UNIQUE INDEX slow_key ON shop.slow (a);
ALTER TABLE shop.slow REPLICA IDENTITY USING INDEX slow_key;
CREATE INDEX slow_index ON shop.slow (shop.slowly(b));
CREATE TABLE shop.whole (a int, b text);
ALTER TABLE shop.whole REPLICA IDENTITY FULL;
ALTER TABLE shop.whole ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_of_it ON shop.whole USING (a > 0);
CREATE TABLE shop.days (day int, id int, v text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
CREATE TABLE shop.days_1 PARTITION OF shop.days FOR VALUES FROM (0) TO (10);
CREATE TABLE shop.days_2 PARTITION OF shop.days FOR VALUES FROM (10) TO (20) PARTITION BY LIST (id);
CREATE TABLE shop.days_2_even (v text, id int NOT NULL, day int NOT NULL);
ALTER TABLE shop.days_2 ATTACH PARTITION shop.days_2_even FOR VALUES IN (0, 2, 4, 6, 8);
CREATE TABLE shop.days_2_rest PARTITION OF shop.days_2 DEFAULT;
CREATE INDEX ON shop.days (v);
CREATE TABLE shop.parent (id int PRIMARY KEY, v text);
CREATE TABLE shop.child (w text, PRIMARY KEY (id)) INHERITS (shop.parent);
CREATE TABLE shop.listed (id int PRIMARY KEY, a text, left_out text NOT NULL);
CREATE TABLE there (id int PRIMARY KEY, v text);
CREATE INDEX there_v ON there (v);
CREATE VIEW private.view AS SELECT id FROM shop.orders;
CREATE MATERIALIZED VIEW private.stored AS SELECT id FROM shop.orders;
CREATE FUNCTION private.of_a_table(shop.orders) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE PUBLICATION shop FOR TABLE shop."Cus""tomer", shop.orders, shop.slow, shop.whole, shop.days, shop.parent,
    shop.listed (id, a), there, rig_marker WITH (publish_via_partition_root = true);
"#;

const ROWS: &str = r#"
INSERT INTO shop."Cus""tomer" (code, p) SELECT 'a' || translate(i::text, '0123456789', 'abcdefghij'), ROW(i, 'sad'::shop.mood)::shop.pair
    FROM generate_series(1, 3000) i;
INSERT INTO shop.orders (customer, previous, during, v)
    SELECT i % 3000 + 1, NULLIF(i - 1, 0), int4range(i, i + 1), repeat(md5(i::text), 3) FROM generate_series(1, 6000) i;
INSERT INTO shop.slow VALUES (1, 1), (2, 2), (3, 3);
INSERT INTO shop.whole SELECT i % 7, 'x' FROM generate_series(1, 500) i;
INSERT INTO shop.days SELECT i % 20, i / 20, md5(i::text) FROM generate_series(1, 4000) i;
INSERT INTO shop.parent SELECT i, 'p' FROM generate_series(1, 500) i;
INSERT INTO shop.child SELECT i, 'c', 'w' FROM generate_series(400, 1500) i;
INSERT INTO shop.listed SELECT i, 'a', 'secret' FROM generate_series(1, 500) i;
INSERT INTO there SELECT i, 'v' FROM generate_series(1, 500) i;
"#;

/// While the copy is not finished.
const CHANGES: &str = r#"
UPDATE shop.orders SET v = 'changed' WHERE id % 100 = 7;
UPDATE shop."Cus""tomer" SET id = id + 100000 WHERE id BETWEEN 2990 AND 2999 AND NOT EXISTS
    (SELECT FROM shop.orders WHERE customer = "Cus""tomer".id);
DELETE FROM shop.orders WHERE id > 5900;
INSERT INTO shop.orders (customer) SELECT 1 FROM generate_series(1, 50);
DELETE FROM shop.days WHERE day = 3;
UPDATE shop.days SET v = 'changed' WHERE day = 12;
UPDATE shop.parent SET v = v || '!' WHERE id % 10 = 0;
UPDATE shop.whole SET b = 'y' WHERE a = 3;
"#;

const COPY: &str = "data = true\nworkers = 2\nchunk_size = \"64KiB\"";

const LOGGING: &str = "[logging]\nlevel = \"info,rsrepl_sidecar::copy=debug\"\n";

/// Everything of a database, statement by statement; but for what is private, ours, or about `but`.
fn statements(server: &Postgres, but: &[&str]) -> BTreeSet<String> {
    let output = Command::new(build::postgres_bindir().join("pg_dump"))
        .args(["--schema-only", "--exclude-schema=private", "--exclude-schema=rsrepl"])
        .args(["--no-publications", "--dbname"])
        .arg(server.conninfo(DATABASE))
        .output()
        .expect("run pg_dump");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let skipped = ["--", "SET ", "SELECT pg_catalog.set_config", "\\"];
    let lines = text.lines().filter(|line| !skipped.iter().any(|skip| line.starts_with(skip)));
    let text: Vec<&str> = lines.collect();
    let about = |statement: &&str| but.iter().any(|name| statement.contains(name));
    let found = text.join("\n");
    let found = found.split("\n\n").map(str::trim).filter(|part| !part.is_empty());
    found.filter(|part| !about(part)).map(str::to_owned).collect()
}

/// What is made of them is compared elsewhere, or not made.
const APART: &[&str] =
    &["EXTENSION", "SCHEMA private", "to_a_private_table", "shop.listed", "there"];

fn assert_same_definitions(rig: &Rig) {
    let (here, there) = (statements(&rig.source, APART), statements(&rig.standby, APART));
    assert!(here.len() > 50, "{here:?}");
    let missing: Vec<_> = here.difference(&there).collect();
    let surplus: Vec<_> = there.difference(&here).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "missing: {missing:#?}\nsurplus: {surplus:#?}"
    );
}

fn assert_same_rows(rig: &Rig) {
    let (mut source, mut standby) = (rig.source.client(DATABASE), rig.standby.client(DATABASE));
    let mut different = Vec::new();
    let private = |table: &String| table.starts_with("private.") || table == "shop.listed";
    for table in compare::tables(&mut source).iter().filter(|table| !private(table)) {
        let comparison = compare::postgres(&mut source, &mut standby, table);
        if !comparison.equal() {
            different.push(comparison.to_string());
        }
    }
    assert!(different.is_empty(), "tables differ:\n{}", different.join("\n"));
}

/// A standby with nothing but one of the tables.
fn rig(name: &str) -> Rig {
    let mut rig = Rig::new(name, "");
    rig.execute(SCHEMA);
    rig.execute(ROWS);
    rig.standby.execute(
        DATABASE,
        "DROP TABLE rig_marker; CREATE TABLE there (id int PRIMARY KEY, v text)",
    );
    rig.configure(|config| {
        config.source_options.push_str("\npublication = \"shop\"\n");
        config.clickhouse.clear();
        config.postgres[0].options.push_str("\ncreate_tables = true\n");
        config.copy = COPY.to_owned();
        config.sections.push_str(LOGGING);
    });
    rig
}

fn check(rig: &Rig) -> String {
    String::from_utf8_lossy(&rig.sidecar.command("check").stdout).into_owned()
}

/// Waits until the standby builds the index that takes its time.
fn await_slow_index(rig: &Rig) {
    let query =
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()
        AND query LIKE '%CREATE INDEX slow_index%'";
    wait::until(LIMIT, "an index is built", || {
        rig.standby.value(DATABASE, query).as_deref() == Some("1")
    });
}

#[test]
fn an_empty_standby_becomes_equal_with_all_that_belongs_to_its_tables() {
    let mut rig = rig("create");
    let found = check(&rig);
    assert!(found.contains("9 missing tables will be made with pg_dump"), "{found}");
    assert!(found.contains("shop.orders") && !found.contains("error"), "{found}");

    rig.sidecar.launch();
    let chunks = "SELECT count(*) FROM rsrepl.copied_chunks";
    wait::until(LIMIT, "the tables are there, and some rows", || {
        let mut client = rig.standby.client(DATABASE);
        client.query_one(chunks, &[]).is_ok_and(|row| row.get::<_, i64>(0) > 0)
    });
    rig.sidecar.kill();
    let keys = "SELECT count(*) FROM pg_index JOIN pg_class c ON c.oid = indrelid
        WHERE relnamespace = 'shop'::regnamespace";
    assert_eq!(rig.standby.value(DATABASE, keys).as_deref(), Some("0"), "before the rows");
    rig.execute(CHANGES);
    rig.sidecar.launch();
    // it finds rows by keys now; whoever has built half of what is left dies
    await_slow_index(&rig);
    rig.sidecar.kill();
    rig.execute(CHANGES);
    rig.sidecar.launch();
    await_slow_index(&rig);
    rig.standby.kill();
    rig.standby.launch();
    rig.sidecar.wait_ready(LIMIT);
    rig.execute(CHANGES);
    rig.settle_standby(LIMIT);

    assert_same_rows(&rig);
    assert_same_definitions(&rig);
    let log = rig.sidecar.log();
    assert!(log.contains("brought a chunk up to date"), "{log}");
    assert_eq!(log.matches("making missing tables with pg_dump").count(), 1, "{log}");
    let indexes = "SELECT string_agg(indexrelid::regclass::text, ' ') FROM pg_index
        WHERE indrelid = 'there'::regclass";
    assert_eq!(rig.standby.value(DATABASE, indexes).as_deref(), Some("there_pkey"), "its owner's");
    let listed = "SELECT count(*) FROM shop.listed WHERE a = 'a' AND left_out IS NULL";
    assert_eq!(rig.standby.value(DATABASE, listed).as_deref(), Some("500"));
    let left =
        "SELECT string_agg(concat_ws(' ', type, name, refused), E'\\n') FROM rsrepl.to_create";
    let left = rig.standby.value(DATABASE, left).unwrap_or_default();
    assert!(left.starts_with("FK CONSTRAINT shop.orders to_a_private_table"), "{left}");
    assert!(left.contains("private") && left.lines().count() == 1, "{left}");
    let found = check(&rig);
    assert!(found.contains("to_a_private_table could not be made"), "{found}");
}

/// Runs `rsrepl check` with these scripts before everything else in PATH.
fn check_with(rig: &Rig, name: &str, scripts: &[(&str, String)], others: &str) -> String {
    let folder = rig.scratch.join(name);
    fs::create_dir(&folder).expect("make a folder");
    for (tool, script) in scripts {
        let path = folder.join(tool);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it a program");
    }
    let output = Command::new(build::sidecar())
        .args(["check", "-c"])
        .arg(rig.sidecar.config())
        .env("PATH", format!("{}:{others}", folder.display()))
        .output()
        .expect("run the sidecar");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn tools_that_will_not_do_are_told_before_anything_is_made() {
    let mut rig = rig("create-tools");
    let found = check_with(&rig, "none", &[], "");
    assert!(found.contains("needs pg_dump, which cannot be run"), "{found}");
    assert!(found.contains("install PostgreSQL's client tools"), "{found}");
    let old = ("pg_dump", "echo 'pg_dump (PostgreSQL) 9.6.24'".to_owned());
    let found = check_with(&rig, "old", &[old], "/bin");
    assert!(found.contains("pg_dump (PostgreSQL) 9.6.24 is too old for a source of"), "{found}");

    // where one table is refused, none is made
    rig.standby.execute(DATABASE, "CREATE TABLE blocker ();
        CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS
          $$ BEGIN IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity LIKE 'shop.parent')
                   AND to_regclass('public.blocker') IS NOT NULL
             THEN RAISE insufficient_privilege; END IF; END $$;
        CREATE EVENT TRIGGER refuse ON ddl_command_end EXECUTE FUNCTION refuse()");
    rig.sidecar.launch();
    wait::until(LIMIT, "it is refused", || rig.sidecar.log().contains("making TABLE shop.parent"));
    assert_eq!(rig.standby.value(DATABASE, "to_regclass('shop.orders')"), None);
    rig.standby.execute(DATABASE, "DROP TABLE blocker");
    rig.sidecar.wait_ready(LIMIT);
    rig.settle_standby(LIMIT);
    assert_same_rows(&rig);
    rig.assert_discreet();
    assert!(!rig.sidecar.log().contains(SECRET));
}
