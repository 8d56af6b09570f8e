//! What else may happen while the source is copied: tables change before their turn, partitions leave and come
//! back, and a second sidecar wants to copy too.

use postgres::Client;
use rsrepl_tests::rig::{DATABASE, Rig};
use rsrepl_tests::scratch::{Scratch, free_port};
use rsrepl_tests::sidecar::Sidecar;
use rsrepl_tests::{compare, wait};

use super::copy::LIMIT;

/// One table after the other, the large ones first.
const COPY: &str = "data = true\nworkers = 1\nchunk_size = \"64KiB\"";

const SCHEMA: &str = "
CREATE TABLE first (id int PRIMARY KEY, v text);
CREATE TABLE swapped (id int PRIMARY KEY, a text, b text);
CREATE TABLE changed (id int PRIMARY KEY, v text);
CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (1000) TO (2000);
CREATE TABLE left_out (id int PRIMARY KEY, v text);
CREATE TABLE last (id int PRIMARY KEY)";

const ROWS: &str = "
INSERT INTO first SELECT i, repeat('x', 100) FROM generate_series(1, 5000) i;
INSERT INTO swapped SELECT i, 'a' || i, 'b' || i FROM generate_series(1, 1000) i;
INSERT INTO changed SELECT i, 'v' || i FROM generate_series(1, 1000) i;
INSERT INTO parts SELECT i, 'v' || i FROM generate_series(0, 1999) i;
INSERT INTO left_out SELECT i, 'v' || i FROM generate_series(1, 1000) i;
INSERT INTO last VALUES (1)";

const PUBLICATION: &str = "
CREATE PUBLICATION shop FOR TABLE first, swapped, changed, parts, left_out, last, rig_marker
    WITH (publish_via_partition_root = true)";

fn rig(name: &str) -> Rig {
    let mut rig = Rig::new(name, SCHEMA);
    rig.execute(ROWS);
    rig.execute(PUBLICATION);
    rig.configure(|config| {
        config.source_options.push_str("\npublication = \"shop\"\n");
        config.clickhouse.clear();
        config.copy = COPY.to_owned();
    });
    rig
}

fn assert_equal(rig: &Rig) {
    let mut source = rig.source.client(DATABASE);
    let mut standby = rig.standby.client(DATABASE);
    for table in compare::tables(&mut source) {
        let comparison = compare::postgres(&mut source, &mut standby, &table);
        assert!(comparison.equal(), "{comparison}");
    }
}

/// Keeps the copy in the first row of a table, as long as it is there.
pub(super) struct Hold(Client);

impl Hold {
    pub(super) fn of(rig: &Rig, table: &str) -> Hold {
        rig.standby.execute(
            DATABASE,
            &format!(
                "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
                   'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END';
                 CREATE TRIGGER hold BEFORE INSERT ON {table} FOR EACH ROW WHEN (NEW.id = 1)
                   EXECUTE FUNCTION hold();
                 ALTER TABLE {table} ENABLE ALWAYS TRIGGER hold"
            ),
        );
        let mut client = rig.standby.client(DATABASE);
        client.batch_execute("SELECT pg_advisory_lock(1)").expect("lock");
        Hold(client)
    }

    pub(super) fn wait(&mut self) {
        let query = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        wait::until(LIMIT, "the copy has got there", || {
            !self.0.query(query, &[]).expect("look at the locks").is_empty()
        });
    }
}

/// Alters a table on the source (and the standby) when the copy has its snapshot, and has not got to the table.
fn altered(name: &str, table: &str, on_source: &str, on_standby: &str) {
    let mut rig = rig(name);
    let mut hold = Hold::of(&rig, "first");
    rig.sidecar.launch();
    hold.wait();
    rig.execute(on_source);
    rig.standby.execute(DATABASE, on_standby);
    drop(hold);
    rig.sidecar.wait_ready(LIMIT);
    rig.settle_standby(LIMIT);
    let rows = format!("SELECT string_agg(to_jsonb(r)::text, ' ' ORDER BY id) FROM {table} r");
    let [source, standby] = [&rig.source, &rig.standby].map(|s| s.value(DATABASE, &rows));
    assert_eq!(source, standby);
    let log = rig.sidecar.log();
    let noticed = format!("\"{table}\" was altered while it was copied");
    assert!(log.contains(&noticed), "{log}");
}

/// What a SELECT means goes by the columns that a table has now, and which rows there are by the snapshot: values
/// would come in the columns of others, and the stream, which begins before the change, would not mend it.
#[test]
fn columns_that_change_names_before_their_table_is_read_keep_their_values() {
    let rename = "ALTER TABLE swapped RENAME a TO c; ALTER TABLE swapped RENAME b TO a;
         ALTER TABLE swapped RENAME c TO b";
    altered("copy-renamed", "swapped", rename, "");
}

/// In the snapshot there is neither the column nor its type.
#[test]
fn a_column_that_takes_the_name_of_another_before_its_table_is_read_is_not_that() {
    let change = "CREATE TYPE late AS ENUM ('x');
         ALTER TABLE changed DROP v, ADD v late; UPDATE changed SET v = 'x'";
    altered("copy-altered", "changed", change, change);
}

/// Between the two its changes are not those of a published table, and do not come.
#[test]
fn what_left_the_publication_and_came_back_starts_over() {
    let mut rig = rig("copy-left");
    let mut hold = Hold::of(&rig, "last");
    rig.sidecar.launch();
    hold.wait();
    rig.sidecar.kill();
    drop(hold);
    rig.execute(
        "ALTER TABLE parts DETACH PARTITION parts_1;
         ALTER PUBLICATION shop DROP TABLE left_out;
         DELETE FROM parts_1 WHERE id % 2 = 0; UPDATE parts_1 SET v = 'changed' WHERE id % 3 = 0;
         DELETE FROM left_out WHERE id % 2 = 0; UPDATE left_out SET v = 'changed' WHERE id % 3 = 0;
         ALTER TABLE parts ATTACH PARTITION parts_1 FOR VALUES FROM (0) TO (1000);
         ALTER PUBLICATION shop ADD TABLE left_out",
    );
    rig.run();
    rig.settle_standby(LIMIT);
    assert_equal(&rig);
    let log = rig.sidecar.log();
    for table in ["public.parts", "public.left_out"] {
        let over = |line: &&str| line.contains("starts over") && line.contains(table);
        assert_eq!(log.lines().filter(over).count(), 1, "{table}:\n{log}");
    }
    assert!(!log.contains("of this table starts over: it was truncated"), "{log}");
}

#[test]
fn a_second_sidecar_waits_until_the_first_has_copied() {
    let mut rig = rig("copy-second");
    let mut hold = Hold::of(&rig, "first");
    rig.sidecar.launch();
    hold.wait();
    let scratch = Scratch::new("copy-second-sidecar");
    let mut config = rig.config.clone();
    config.telemetry_port = free_port();
    let mut second = Sidecar::new(&scratch, &config);
    second.launch();
    wait::until(LIMIT, "the second one is kept out", || {
        second.log().contains("another sidecar looks after the initial copy")
    });
    drop(hold);
    // between the first one's copy and its stream the second may be faster
    wait::until(LIMIT, "one of them streams", || rig.sidecar.ready() || second.ready());
    rig.settle_standby(LIMIT);
    assert_equal(&rig);
    // the other takes over a stream, and nothing to copy
    if rig.sidecar.ready() {
        rig.sidecar.kill();
        second.wait_ready(LIMIT);
    } else {
        second.kill();
        rig.sidecar.wait_ready(LIMIT);
    }
    rig.settle_standby(LIMIT);
    assert!(!second.log().contains("copying what the source has"), "{}", second.log());
    let slots = "SELECT string_agg(slot_name, ' ') FROM pg_replication_slots";
    assert_eq!(rig.source.value(DATABASE, slots).as_deref(), Some("rsrepl"));
}
