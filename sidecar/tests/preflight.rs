//! The preflight against real servers, and the command line around it: everything is told at once, each
//! with its mend, and no password with it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use rsrepl_sidecar::config::{Config, Environment, Syntax};
use rsrepl_sidecar::preflight::{self, PartReport, Report, Severity};
use rsrepl_tests::SECRET;
use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::scratch::{Scratch, free_port};
use rsrepl_wire::{Element, ElementEncoding, Encoding, Relation, ReplicaIdentity, TypeKind};

fn configuration(source: &str, source_options: &str, target: &str) -> String {
    format!(
        "[source]\nconnection_string = {source:?}\nslot_name = \"rsrepl\"\n{source_options}\n\
         [[targets.postgres]]\nname = \"standby\"\nconnection_string = {target:?}\n\
         [telemetry]\naddress = \"127.0.0.1:{}\"\n",
        free_port()
    )
}

fn parse(text: &str) -> Config {
    Config::parse(text, Syntax::Toml, &Environment::new()).expect("a valid configuration")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

fn check(text: &str) -> Report {
    let config = parse(text);
    let report = block_on(preflight::check(&config, &config.mask()));
    assert!(!report.to_string().contains(SECRET), "{report}");
    report
}

fn assert_found(part: &PartReport, severity: Severity, what: &str, mend: &str) {
    let found = part.findings.iter().any(|finding| {
        finding.severity == severity && finding.what.contains(what) && finding.mend.contains(mend)
    });
    assert!(found, "no {severity:?} {what:?} with {mend:?} in {part:#?}");
}

const SCHEMA: &str = r#"
CREATE TABLE filtered (id int PRIMARY KEY, v text);
CREATE TABLE "Listed" (id int PRIMARY KEY, v text);
CREATE TABLE keyless (v text);
CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE TABLE lists (id int PRIMARY KEY, v text, w text);
CREATE TABLE late (id int PRIMARY KEY);
CREATE PUBLICATION "some" FOR TABLE filtered WHERE (id > 5 AND v > ''), "Listed" (v), keyless, lists (id, v);
CREATE PUBLICATION "Root" FOR TABLE parted, lists (id, w) WITH (publish_via_partition_root);
CREATE PUBLICATION late FOR TABLE late WHERE (id > 0) WITH (publish = 'update');
CREATE ROLE plain LOGIN PASSWORD 'pl4in-never-shown';
"#;

#[test]
fn a_source_where_all_is_wrong() {
    let scratch = Scratch::new("preflight");
    let settings = "wal_level = replica\nmax_replication_slots = 1\nmax_wal_senders = 0";
    let server = Postgres::start(&scratch, "source", settings);
    server.execute("postgres", SCHEMA);
    server.execute("postgres", "SELECT pg_create_physical_replication_slot('taken')");
    let source = server.conninfo("postgres").replace("user=postgres", "user=plain");
    let source = source.replace(SECRET, "pl4in-never-shown");
    let options = "publication = [\"some\", \"Root\", \"late\", \"absent\"]";
    let report = check(&configuration(&source, options, &server.conninfo("template1")));
    assert!(!report.is_good() && !report.to_string().contains("pl4in"), "{report}");
    let part = &report.source;
    let error = Severity::Error;
    assert_found(part, error, "wal_level is replica", "ALTER SYSTEM SET wal_level = logical");
    assert_found(part, error, "plain lacks REPLICATION", "ALTER ROLE \"plain\" REPLICATION");
    assert_found(part, error, "no replication slot is free", "max_replication_slots = 11");
    assert_found(part, Severity::Transient, "no walsender is free", "max_wal_senders = 10");
    assert_found(part, error, "extension rsrepl is", "CREATE EXTENSION rsrepl");
    let reads =
        "GRANT USAGE ON SCHEMA \"public\" TO \"plain\"; GRANT SELECT ON \"public\".\"Listed\"";
    assert_found(part, error, "\"plain\" may not read", reads);
    assert_found(part, error, "no publication absent", "CREATE PUBLICATION \"absent\"");
    let lists = "some and Root have different column lists for lists";
    assert_found(part, error, lists, "ALTER PUBLICATION \"Root\" SET TABLE");
    let warning = Severity::Warning;
    assert_found(
        part,
        warning,
        "the row filter of filtered in publication some",
        "REPLICA IDENTITY",
    );
    assert_found(part, warning, "the column list of \"Listed\" in publication some", "change");
    assert_found(
        part,
        warning,
        "DELETEs of late are published, and INSERTs are not",
        "missing_rows",
    );
    assert_found(part, Severity::Warning, "public.keyless has no usable", "REPLICA IDENTITY FULL");
}

#[test]
fn slots_that_cannot_be_used() {
    let scratch = Scratch::new("preflight-slots");
    let server = Postgres::start(&scratch, "source", "");
    let (source, target) = (server.conninfo("postgres"), server.conninfo("template1"));
    let config = configuration(&source, "", &target);
    let slot = |sql: &str| {
        server.execute("postgres", sql);
        let report = check(&config);
        server.execute("postgres", "SELECT pg_drop_replication_slot('rsrepl')");
        report.source
    };
    let part = slot("SELECT pg_create_logical_replication_slot('rsrepl', 'pgoutput')");
    assert_found(&part, Severity::Error, "belongs to the output plugin pgoutput", "slot_name");
    let part = slot("SELECT pg_create_physical_replication_slot('rsrepl')");
    assert_found(&part, Severity::Error, "is a physical slot", "slot_name");
    let config = configuration(&source, "create_slot = false", &target);
    let part = check(&config).source;
    assert_found(&part, Severity::Error, "no slot rsrepl", "pg_create_logical_replication_slot");
}

#[test]
fn servers_that_let_nobody_in() {
    let scratch = Scratch::new("preflight-access");
    let server = Postgres::start(&scratch, "source", "");
    let wrong = server.conninfo("postgres").replace(SECRET, "wr0ng-never-shown");
    let nobody = server.conninfo_through(free_port(), "postgres");
    let report = check(&configuration(&wrong, "", &nobody));
    assert_eq!(report.source.findings.len(), 1, "{report}");
    assert_found(&report.source, Severity::Error, "28P01", "password");
    assert_found(&report.targets[0], Severity::Transient, "cannot connect", "");
    assert!(!report.to_string().contains("wr0ng"), "{report}");

    let report = check(&configuration(&nobody, "", &wrong));
    assert_found(&report.source, Severity::Transient, "cannot connect", "");
    assert_found(&report.targets[0], Severity::Error, "28P01", "");
    assert!(!report.is_good());
}

#[test]
fn tables_are_described_as_the_stream_will() {
    let scratch = Scratch::new("preflight-tables");
    let server = Postgres::start(&scratch, "source", "");
    server.execute(
        "postgres",
        "CREATE TYPE mood AS ENUM ('a'); CREATE DOMAIN money2 AS numeric(10, 2);
         CREATE DOMAIN price AS money2; CREATE TYPE pair AS (a int, b int);
         CREATE TABLE t (a int, b price NOT NULL, c mood[], d pair, e varchar(5)[], gone int,
                         f bytea, g int GENERATED ALWAYS AS (a + 1) STORED, h regclass, i name,
                         UNIQUE (b));
         ALTER TABLE t DROP COLUMN gone, REPLICA IDENTITY USING INDEX t_b_key;
         CREATE SCHEMA rsrepl; CREATE TABLE rsrepl.positions (slot text PRIMARY KEY);
         CREATE UNLOGGED TABLE u (a int); CREATE TABLE full_one (a int);
         ALTER TABLE full_one REPLICA IDENTITY FULL",
    );
    let config =
        parse(&configuration(&server.conninfo("postgres"), "", &server.conninfo("template1")));
    let (part, tables) = block_on(preflight::check_source(&config, &config.mask()));
    assert_found(&part, Severity::Error, "rsrepl.positions of this database", "PUBLICATION");
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["full_one", "t", "positions"]);
    let Relation { replica_identity, columns, .. } = &tables[1];
    assert_eq!(*replica_identity, ReplicaIdentity::Index);
    let columns: Vec<_> = columns
        .iter()
        .map(|c| (c.number, c.name.as_str(), c.type_name.as_str(), c.kind, c.encoding))
        .collect();
    let texts = Encoding::Array(Element { encoding: ElementEncoding::Varlena, align: 4 });
    assert_eq!(
        columns,
        [
            (1, "a", "int4", TypeKind::Base, Encoding::Fixed(4)),
            (2, "b", "price", TypeKind::Base, Encoding::Numeric),
            (3, "c", "_mood", TypeKind::Array, Encoding::Send),
            (4, "d", "pair", TypeKind::Composite, Encoding::Text),
            (5, "e", "_varchar", TypeKind::Array, texts),
            (7, "f", "bytea", TypeKind::Base, Encoding::Varlena),
            (8, "g", "int4", TypeKind::Base, Encoding::Fixed(4)),
            (9, "h", "regclass", TypeKind::Base, Encoding::Text),
            (10, "i", "name", TypeKind::Base, Encoding::Varlena),
        ]
    );
    let b = &tables[1].columns[1];
    assert_eq!((b.base_oid, b.typmod, b.key, b.not_null), (1700, (10 << 16 | 2) + 4, true, true));
    let g = &tables[1].columns[6];
    assert!(g.generated && !g.key);
    assert_eq!(tables[1].columns[2].element_kind, TypeKind::Enum);
    assert_eq!(tables[1].columns[4].element_oid, 1043);
}

#[test]
fn published_tables_are_described_as_the_stream_will() {
    let scratch = Scratch::new("preflight-published");
    let server = Postgres::start(&scratch, "source", "");
    server.execute(
        "postgres",
        "CREATE TABLE t (id int PRIMARY KEY, gone int, v text, w text); ALTER TABLE t DROP gone;
         CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
         CREATE TABLE p1 (v text, id int NOT NULL); ALTER TABLE p ATTACH PARTITION p1 DEFAULT;
         CREATE SCHEMA s; CREATE TABLE s.q (id int) PARTITION BY RANGE (id);
         CREATE TABLE q1 PARTITION OF s.q DEFAULT; CREATE TABLE s.r (id int);
         CREATE TABLE unpublished (id int);
         CREATE PUBLICATION chosen FOR TABLE t (id, w) WHERE (id > 0), p WITH (publish_via_partition_root);
         CREATE PUBLICATION schemas FOR TABLES IN SCHEMA s",
    );
    let options = "publication = \"chosen, schemas\"";
    let source = server.conninfo("postgres");
    let config = parse(&configuration(&source, options, &server.conninfo("template1")));
    let (_, tables) = block_on(preflight::check_source(&config, &config.mask()));
    let describe = |table: &Relation| {
        let columns: Vec<_> = table.columns.iter().map(|c| c.name.as_str()).collect();
        format!("{}.{} {}", table.schema, table.name, columns.join(" "))
    };
    let tables: Vec<String> = tables.iter().map(describe).collect();
    assert_eq!(tables, ["public.p id v", "public.q1 id", "public.t id w", "s.r id"]);
}

fn rsrepl(arguments: &[&str], file: &Path) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_rsrepl"))
        .args(arguments)
        .arg("-c")
        .arg(file)
        .env("RUST_LOG", "trace")
        .output()
        .expect("run the binary");
    let text = String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat())
        .into_owned();
    assert!(!text.contains("never-shown"), "a password in:\n{text}");
    output
}

/// Every way to fail, with passwords in all places where there can be one.
#[test]
fn exit_statuses_and_passwords() {
    let scratch = Scratch::new("preflight-cli");
    let server = Postgres::start(&scratch, "source", "wal_level = replica");
    let good = server.conninfo("postgres");
    let wrong = good.replace(SECRET, "wr0ng-never-shown");
    let nobody = server.conninfo_through(free_port(), "postgres");
    let (good_target, wrong_target) = (
        good.replace("dbname=postgres", "dbname=template1"),
        wrong.replace("dbname=postgres", "dbname=template1"),
    );
    let nowhere = "postgres://u:never-shown@no-such-host.invalid/d";
    let file = scratch.join("rsrepl.toml");
    let status = |arguments: &[&str], text: &str| {
        fs::write(&file, text).expect("write the file");
        rsrepl(arguments, &file).status.code()
    };
    for bad in [
        "[source\nconnection_string = \"host=h password=never-shown\"",
        "[source]\nconnection_string = \"host=h password=never-shown\nslot_name = 1",
        "[source]\nconnection_string = \"host=h pasword=never-shown user=u\"\nslot_name = \"s\"",
        "[source]\npassword = \"never-shown\"",
        "[[targets.clickhouse]]\nname = \"c\"\nconnection_string = \"http://u:never-shown@h\"",
    ] {
        for command in ["run", "check", "status"] {
            assert_eq!(status(&[command], bad), Some(2), "{command} {bad}");
        }
    }
    for (source, target) in
        [(&wrong, &good_target), (&good, &wrong_target), (&nobody, &wrong_target)]
    {
        let text = configuration(source, "", target);
        assert_eq!(status(&["check"], &text), Some(1));
        assert_eq!(status(&["status"], &text), Some(1));
        assert_eq!(status(&["status", "--json"], &text), Some(1));
    }
    assert_eq!(status(&["check"], &configuration(nowhere, "", &good_target)), Some(1));
    // what waiting cannot mend ends `run`
    for source in [&wrong, &good] {
        assert_eq!(status(&["run"], &configuration(source, "", &nobody)), Some(1));
    }
    assert_eq!(rsrepl(&["run"], Path::new("/no/such/file")).status.code(), Some(2));
}
