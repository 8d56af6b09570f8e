//! The initial copy: while the source is written to, and whoever is killed meanwhile, the standby ends equal to
//! it, and what was copied is not copied again.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rsrepl_tests::compare;
use rsrepl_tests::rig::{DATABASE, Rig};
use rsrepl_tests::variant::seed;
use rsrepl_tests::wait;

pub const LIMIT: Duration = Duration::from_secs(120);

/// Small chunks, so that a table has many.
pub const COPY: &str = "data = true\nworkers = 2\nchunk_size = \"64KiB\"";

/// Says which chunks are copied.
const LOGGING: &str = "[logging]\nlevel = \"info,rsrepl_sidecar::copy=debug\"\n";

const SCHEMA: &str = r#"
CREATE TYPE mood AS ENUM ('sad', 'so-so', 'happy');
CREATE DOMAIN posint AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
CREATE TYPE span AS RANGE (subtype = int);
CREATE TABLE big (id int PRIMARY KEY, v text, n numeric, at timestamptz, tags text[], j jsonb);
CREATE TABLE odd (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, m mood, ms mood[], p posint, c pair, r int4range, s span,
    x xml, o regclass, fixed char(9), "Sel""ect" money, i interval, b bit varying, t tsvector, "char" "char",
    f float8[], twice int GENERATED ALWAYS AS (p * 2) STORED, gone int);
ALTER TABLE odd DROP COLUMN gone;
CREATE TABLE binary_only (id bigint PRIMARY KEY, u uuid, e mood, d date, y bytea, a numeric[], z posint);
CREATE TABLE "No ""key" (a int, b text);
CREATE TABLE nothing (id int PRIMARY KEY, v text);
CREATE TABLE wide (id int PRIMARY KEY, v text);
ALTER TABLE wide ALTER v SET STORAGE EXTERNAL;
CREATE TABLE filtered (id int, a int, hidden text, PRIMARY KEY (id, a));
CREATE TABLE measures (day int, id int, v text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
CREATE TABLE measures_1 PARTITION OF measures FOR VALUES FROM (0) TO (10);
CREATE TABLE measures_2 PARTITION OF measures FOR VALUES FROM (10) TO (20) PARTITION BY LIST (id);
CREATE TABLE measures_2_even (v text, id int NOT NULL, day int NOT NULL);
ALTER TABLE measures_2 ATTACH PARTITION measures_2_even FOR VALUES IN (0, 2, 4, 6, 8);
CREATE TABLE measures_2_rest PARTITION OF measures_2 DEFAULT;
"#;

const ROWS: &str = r#"
INSERT INTO big SELECT i, 'row ' || i, i / 7.0, now() - i * interval '1 s', ARRAY['a', NULL, i::text],
    jsonb_build_object('i', i) FROM generate_series(1, 60000) i;
INSERT INTO odd (m, ms, p, c, r, s, o, fixed, "Sel""ect", i, b, t, "char", f)
    SELECT 'happy', '{sad,NULL}', i, ROW(i, 'x"')::pair, int4range(i, i + 5), span(i, NULL), 'pg_class', 'ab',
        i::money, i * interval '1 mon 3 s', B'101', 'ä b:1', 'c', ARRAY['NaN', -0.0, i]
    FROM generate_series(1, 500) i;
INSERT INTO odd (m) SELECT NULL FROM generate_series(1, 10);
INSERT INTO binary_only SELECT i, gen_random_uuid(), 'sad', '-infinity', '\x00ff', '{NaN,1.50}', i
    FROM generate_series(1, 3000) i;
INSERT INTO "No ""key" SELECT i % 5, 'tab	and \ and ' || i % 3 FROM generate_series(1, 3000) i;
INSERT INTO wide SELECT i, repeat(md5(i::text), 2000) FROM generate_series(1, 100) i;
INSERT INTO filtered SELECT i, i % 10, 'secret' FROM generate_series(1, 2000) i;
INSERT INTO measures SELECT i % 20, i % 10, string_agg(i::text, ' ') FROM generate_series(1, 4000) i GROUP BY 1, 2;
"#;

const PUBLICATION: &str = r#"
CREATE PUBLICATION shop FOR TABLE big, odd, binary_only, "No ""key", nothing, wide, measures, rig_marker,
    filtered (id, a) WHERE (a > 4) WITH (publish_via_partition_root = true)"#;

/// Servers with a publication; the standby is empty, and the only target.
pub fn rig(name: &str, copy: &str) -> Rig {
    let mut rig = Rig::new(name, SCHEMA);
    rig.execute(ROWS);
    rig.execute(PUBLICATION);
    rig.standby.execute(DATABASE, "ALTER TABLE filtered DROP hidden");
    rig.configure(|config| {
        config.source_options.push_str("\npublication = \"shop\"\n");
        config.clickhouse.clear();
        config.copy = copy.to_owned();
        config.sections.push_str(LOGGING);
    });
    rig
}

/// Every table, row by row; of `filtered` what is published.
pub fn assert_equal(rig: &Rig) {
    let mut source = rig.source.client(DATABASE);
    let mut standby = rig.standby.client(DATABASE);
    let mut different = Vec::new();
    for table in compare::tables(&mut source).iter().filter(|table| *table != "filtered") {
        let comparison = compare::postgres(&mut source, &mut standby, table);
        if !comparison.equal() {
            different.push(comparison.to_string());
        }
    }
    let here = compare::copy_out(
        &mut source,
        "SELECT (id || ' ' || a) COLLATE \"C\" FROM filtered WHERE a > 4 ORDER BY 1",
    );
    let there = compare::copy_out(
        &mut standby,
        "SELECT (id || ' ' || a) COLLATE \"C\" FROM filtered ORDER BY 1",
    );
    let comparison = compare::compare("filtered", here, there);
    if !comparison.equal() {
        different.push(comparison.to_string());
    }
    assert!(different.is_empty(), "tables differ:\n{}", different.join("\n"));
}

/// One random transaction over the tables that a seed makes; keys move, rows go and come, filters are passed.
fn transaction(random: &mut fastrand::Rng) -> String {
    let id = random.i32(1..65_000);
    let other = random.i32(1..65_000);
    let (day, small) = (random.i32(0..20), random.i32(0..10));
    match random.u8(0..9) {
        0 => format!("UPDATE big SET v = 'changed {other}' WHERE id BETWEEN {id} AND {id} + 20"),
        1 => format!("DELETE FROM big WHERE id BETWEEN {id} AND {id} + 3"),
        2 => format!("INSERT INTO big (id, v) VALUES ({id}, 'new') ON CONFLICT DO NOTHING"),
        3 => format!(
            "UPDATE big SET id = {other} WHERE id = {id} AND NOT EXISTS (SELECT FROM big WHERE id = {other})"
        ),
        4 => format!("UPDATE filtered SET a = {small} WHERE id % 100 = {day}"),
        5 => format!(
            "UPDATE measures SET day = (day + 10) % 20 WHERE day = {day} AND id = {small} AND NOT EXISTS
             (SELECT FROM measures WHERE day = ({day} + 10) % 20 AND id = {small});
             INSERT INTO measures VALUES ({day}, {small}, 'new') ON CONFLICT DO NOTHING"
        ),
        6 => format!("UPDATE wide SET id = id + 1000 WHERE id = {small}; UPDATE wide SET v = v || 'x' WHERE id = {day}"),
        7 => format!("INSERT INTO nothing VALUES ({id}, 'x') ON CONFLICT (id) DO UPDATE SET v = 'y'"),
        _ => format!(
            "UPDATE odd SET fixed = '{day}', m = 'so-so' WHERE id = {day};
             UPDATE binary_only SET d = '2020-01-01' WHERE id BETWEEN {id} - 5 AND {id}"
        ),
    }
}

/// Tells the writer to stop, also when a test fails.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `act` while the source is written to.
pub fn while_written_to<T>(rig: &mut Rig, act: impl FnOnce(&mut Rig) -> T) -> T {
    let conninfo = rig.source.conninfo(DATABASE);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut random = fastrand::Rng::with_seed(seed());
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                let Ok(mut client) = postgres::Client::connect(&conninfo, postgres::NoTls) else {
                    thread::yield_now();
                    continue;
                };
                while !stop.load(Ordering::Relaxed)
                    && client.batch_execute(&transaction(&mut random)).is_ok()
                {
                    written += 1;
                }
            }
            written
        });
        let stopping = Stopping(&stop);
        let outcome = act(rig);
        drop(stopping);
        let written: u64 = writer.join().expect("the writer");
        assert!(written > 10, "only {written} transactions were committed meanwhile");
        outcome
    })
}

/// Chunks that the standby has a record of, once there are so many; `None`: the copy is finished.
pub fn await_records(rig: &Rig, least: i64) -> Option<i64> {
    let query = "SELECT count(*), (SELECT bool_and(finished IS NOT NULL) FROM rsrepl.copies)
        FROM rsrepl.copied_chunks";
    let mut client = None;
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        if client.is_none() {
            client = rig.standby.try_client(DATABASE).ok();
        }
        let rows = client.as_mut().and_then(|client| client.query(query, &[]).ok());
        match rows.as_deref() {
            Some([row]) if row.get::<_, Option<bool>>(1) == Some(true) => return None,
            Some([row]) if row.get::<_, i64>(0) >= least => return Some(row.get(0)),
            // before the tables are made, too
            _ => thread::yield_now(),
        }
    }
    panic!("there are never {least} chunks");
}

/// What the log says was copied as a whole: each chunk once, but those of a table without a key, which starts
/// over. How many they are.
fn assert_nothing_twice(rig: &Rig) -> usize {
    let log = rig.sidecar.log();
    let chunks = log.lines().filter(|line| line.contains("copied a chunk"));
    let mut seen = HashSet::new();
    for chunk in chunks.filter_map(|line| line.split_once("chunk=").map(|(_, chunk)| chunk)) {
        assert!(seen.insert(chunk) || chunk.contains("key, pages"), "copied twice: {chunk}");
    }
    seen.len()
}

#[test]
fn what_is_there_is_copied_and_the_stream_goes_on_from_there() {
    let mut rig = rig("copy", COPY);
    while_written_to(&mut rig, |rig| {
        rig.run();
        rig.settle_standby(LIMIT);
    });
    rig.settle_standby(LIMIT);
    assert_equal(&rig);
    assert!(assert_nothing_twice(&rig) > 80, "the tables were to be copied in chunks");
    assert_told(&rig);
    // a restart copies nothing
    rig.sidecar.terminate();
    rig.run();
    rig.execute("INSERT INTO nothing VALUES (-1, 'after')");
    rig.settle_standby(LIMIT);
    assert_equal(&rig);
    assert_nothing_twice(&rig);
}

/// What metrics and the source say of it when it is over.
fn assert_told(rig: &Rig) {
    let metric = |name| rig.sidecar.metric(name, &[]);
    let rows = metric("rsrepl_copied_rows_total").unwrap_or_default();
    assert!(rows > 60_000.0, "{rows} rows");
    let left = ["rsrepl_copy_tables_left", "rsrepl_copy_chunks_left"].map(metric);
    assert_eq!(left, [Some(0.0); 2]);
    let query = "SELECT string_agg(DISTINCT state, ' ') || ' ' || sum(rows) FROM rsrepl.copies";
    wait::until(LIMIT, "the source is told", || {
        rig.source.value(DATABASE, query) == Some(format!("copied {rows}"))
    });
}

#[test]
fn kills_in_the_middle_lose_and_double_nothing() {
    let mut rig = rig("copy-kills", COPY);
    let mut random = fastrand::Rng::with_seed(seed());
    let mut victims = ["sidecar", "standby", "source", "sidecar", "source"];
    random.shuffle(&mut victims);
    let killed = while_written_to(&mut rig, |rig| {
        rig.sidecar.launch();
        let (mut least, mut killed) = (1, 0);
        for victim in victims {
            least += random.i64(1..20);
            let Some(found) = await_records(rig, least) else { break };
            least = found;
            match victim {
                "sidecar" => {
                    rig.sidecar.kill();
                    rig.sidecar.launch();
                }
                "standby" => {
                    rig.standby.kill();
                    rig.standby.launch();
                }
                _ => {
                    rig.source.kill();
                    rig.source.launch();
                }
            }
            killed += 1;
        }
        rig.sidecar.wait_ready(LIMIT);
        killed
    });
    rig.settle_standby(LIMIT);
    assert_equal(&rig);
    assert!(killed >= 3, "the copy was finished after {killed} kills");
    assert!(assert_nothing_twice(&rig) > 80);
    let log = rig.sidecar.log();
    assert!(log.contains("reading what was changed since the last snapshot"), "{log}");
    assert!(log.contains("brought a chunk up to date"), "{log}");
}

/// The standby takes longer for the first chunk than a snapshot may last.
#[test]
fn a_snapshot_that_grows_old_is_given_up_for_another() {
    let copy = "data = true\nworkers = 1\nchunk_size = \"64KiB\"\nmax_snapshot_age = \"1s\"";
    let mut rig = rig("copy-age", copy);
    rig.standby.execute(
        DATABASE,
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN IF NEW.id = 1 THEN PERFORM pg_sleep(1.5); END IF; RETURN NEW; END';
         CREATE TRIGGER wait BEFORE INSERT ON big FOR EACH ROW EXECUTE FUNCTION wait();
         ALTER TABLE big ENABLE ALWAYS TRIGGER wait",
    );
    rig.sidecar.launch();
    let mut random = fastrand::Rng::with_seed(seed());
    await_records(&rig, 1).expect("not finished at once");
    rig.execute("DELETE FROM big WHERE id BETWEEN 10 AND 20; UPDATE big SET v = 'y' WHERE id < 10");
    (0..50).for_each(|_| rig.execute(&transaction(&mut random)));
    rig.sidecar.wait_ready(LIMIT);
    rig.settle_standby(LIMIT);
    assert_equal(&rig);
    assert_nothing_twice(&rig);
    let log = rig.sidecar.log();
    assert!(log.contains("copy.max_snapshot_age"), "{log}");
    assert!(log.contains("brought a chunk up to date"), "{log}");
}

/// Rows that are as old as before lie where they did not: nothing tells them apart from those that were copied.
#[test]
fn a_table_that_is_rewritten_or_emptied_meanwhile_starts_over() {
    let mut rig = rig("copy-rewritten", COPY);
    rig.sidecar.launch();
    await_records(&rig, 3).expect("not finished at once");
    rig.sidecar.kill();
    rig.execute("DELETE FROM big WHERE id BETWEEN 2 AND 10000");
    rig.execute("VACUUM FULL big");
    rig.execute("TRUNCATE wide; INSERT INTO wide VALUES (1, 'new')");
    rig.run();
    rig.settle_standby(LIMIT);
    assert_equal(&rig);
    let log = rig.sidecar.log();
    assert!(log.contains("the copy of this table starts over"), "{log}");
}

#[test]
fn a_table_with_rows_is_refused_and_rows_stay() {
    let mut rig = rig("copy-refused", COPY);
    rig.standby.execute(DATABASE, "INSERT INTO big VALUES (1, 'mine')");
    rig.sidecar.launch();
    wait::until(LIMIT, "it is refused", || {
        rig.sidecar.log().contains("has rows already, and the initial copy would double them")
    });
    assert!(!rig.sidecar.ready());
    // nobody would read it, and WAL would be kept for it
    wait::until(LIMIT, "the slot is dropped again", || {
        rig.source.value(DATABASE, "SELECT count(*) FROM pg_replication_slots").as_deref()
            == Some("0")
    });
    let rows = "SELECT count(*) FROM big";
    assert_eq!(rig.standby.value(DATABASE, rows).as_deref(), Some("1"));
    rig.standby.execute(DATABASE, "TRUNCATE big");
    rig.sidecar.wait_ready(LIMIT);
    rig.settle_standby(LIMIT);
    assert_equal(&rig);
}

#[test]
fn an_unfinished_copy_does_not_begin_to_stream() {
    let mut rig = rig("copy-unfinished", COPY);
    rig.sidecar.launch();
    await_records(&rig, 1).expect("not finished at once");
    rig.sidecar.kill();
    rig.configure(|config| config.copy = "data = false".to_owned());
    rig.sidecar.launch();
    wait::until(LIMIT, "it is refused", || {
        rig.sidecar.log().contains("its initial copy is not finished")
    });
    let position = "SELECT applied_lsn FROM rsrepl.positions";
    assert_eq!(rig.standby.value(DATABASE, position).as_deref(), Some("0/0"));
    rig.sidecar.terminate();
    rig.configure(|config| config.copy = COPY.to_owned());
    let copied = rig.sidecar.command_on_terminal("copy");
    let shown = String::from_utf8_lossy(&copied.stdout);
    assert!(copied.status.success(), "{shown}");
    for part in
        ["public.big [", "all tables [", " of 9 tables, ", " rows, ", "every target has what"]
    {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    rig.run();
    rig.settle_standby(LIMIT);
    assert_equal(&rig);
}
