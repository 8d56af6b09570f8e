//! Sources that are not UTF-8, end to end.

use std::time::Duration;

use rsrepl_tests::config::Target;
use rsrepl_tests::rig::{DATABASE, Rig};
use rsrepl_tests::variant::Variant;
use rsrepl_tests::wait;

const LIMIT: Duration = Duration::from_secs(60);

fn rig(name: &str, schema: &str, encoding: &str) -> Rig {
    let options = format!("ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
    Rig::of_database(name, schema, Variant::of_test(name), &options)
}

#[test]
fn a_latin1_source_arrives_whatever_the_targets_are() {
    let schema = "CREATE TYPE \"größe\" AS ENUM ('groß', 'klein');
        CREATE TABLE \"tä\" (id int PRIMARY KEY, \"ö\" text, n name, c char(3), j json, b jsonb,
            e \"größe\", x text[], y bytea)";
    let mut rig = rig("latin1", schema, "LATIN1");
    // a second standby, of the source's encoding
    let create =
        "CREATE DATABASE latin1 ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
    rig.standby.execute("postgres", create);
    rig.standby.execute("latin1", "CREATE TABLE rig_marker (id bigint PRIMARY KEY)");
    rig.standby.execute("latin1", schema);
    let connection = rig.standby.conninfo("latin1");
    rig.configure(|config| config.postgres.push(Target::new("latin1", connection)));
    rig.run();
    rig.execute(
        "INSERT INTO \"tä\" SELECT i, repeat('äöü', i), 'ñ' || i, 'é', '\"ß\"', '{\"ß\": \"ü\"}', 'groß',
             ARRAY['ä', NULL, 'ö\"'], '\\xe4' FROM generate_series(1, 2000) i",
    );
    rig.execute(
        "UPDATE \"tä\" SET \"ö\" = 'Ü' || id, e = 'klein', x = x || 'ÿ'::text WHERE id % 3 = 0;
         DELETE FROM \"tä\" WHERE id % 7 = 0",
    );
    rig.settle(LIMIT);
    rig.assert_equal();
    let sum =
        "SELECT md5(string_agg(convert_to(t::text, 'UTF8')::text, '' ORDER BY id)) FROM \"tä\" t";
    let expected = rig.source.value(DATABASE, sum);
    wait::until(LIMIT, "the standby in LATIN1 is equal", || {
        rig.standby.value("latin1", sum) == expected
    });
}

/// What the two targets have as the text of a row, as bytes in hexadecimal.
fn on_targets(rig: &Rig, id: u32) -> [String; 2] {
    let standby = format!("SELECT encode(convert_to(v, 'UTF8'), 'hex') FROM t WHERE id = {id}");
    let clickhouse = format!("SELECT lower(hex(v)) FROM {DATABASE}.t FINAL WHERE id = {id}");
    [
        rig.standby.value(DATABASE, &standby).unwrap_or_default(),
        rig.clickhouse.query(&clickhouse).trim().to_owned(),
    ]
}

#[test]
fn bytes_of_an_sql_ascii_source_follow_the_policy() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v text)";
    let mut rig = rig("sql-ascii", schema, "SQL_ASCII");
    let checked = rig.sidecar.command("check");
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success() && said.contains("the database is SQL_ASCII"), "{said}");
    rig.run();
    rig.execute("INSERT INTO t VALUES (1, 'ä')");
    rig.settle(LIMIT);
    assert_eq!(on_targets(&rig, 1), ["c3a4", "c3a4"]);

    // it stops there, and says where and what to do
    rig.execute("INSERT INTO t VALUES (2, E'\\xe4'); INSERT INTO t VALUES (3, 'behind')");
    wait::until(LIMIT, "the log says where it stopped", || {
        let log = rig.sidecar.log();
        log.contains("column \\\"v\\\" of table \\\"public.t\\\"")
            && log.contains("source.encoding")
            || log.contains("column \"v\" of table \"public.t\"") && log.contains("source.encoding")
    });
    assert_eq!(rig.standby.value(DATABASE, "SELECT count(*) FROM t").as_deref(), Some("1"));

    // goes on with what its owner says
    let plain = rig.config.source_options.clone();
    rig.sidecar.terminate();
    rig.configure(|config| config.source_options = format!("{plain}\nencoding = \"LATIN1\""));
    rig.run();
    rig.settle(LIMIT);
    assert_eq!(on_targets(&rig, 2), ["c3a4", "c3a4"]);
    rig.sidecar.terminate();
    rig.configure(|config| config.source_options = format!("{plain}\ninvalid_text = \"replace\""));
    rig.execute("INSERT INTO t VALUES (4, E'a\\xe4b')");
    rig.run();
    rig.settle(LIMIT);
    assert_eq!(on_targets(&rig, 4), ["61efbfbd62", "61efbfbd62"]);
    assert_eq!(on_targets(&rig, 3), ["626568696e64", "626568696e64"]);
}
