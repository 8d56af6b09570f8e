//! One table at a time: tables are copied anew while the stream of all others goes on, and both targets end equal.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use postgres::{Client, NoTls};
use rsrepl_tests::rig::{CLICKHOUSE, DATABASE, Rig, STANDBY};
use rsrepl_tests::variant::seed;
use rsrepl_tests::wait;

mod handed;
mod trouble;

/// For a sync to come to its end, also after kills.
const LIMIT: Duration = Duration::from_secs(300);

/// Rows of the large table.
const ROWS: u32 = 8_000;

/// `orders`: large. `events`: no key. `others`: never copied anew.
const SCHEMA: &str = "
CREATE TABLE orders (id int PRIMARY KEY, n numeric(12,2), note text, doc jsonb);
CREATE TABLE events (n int, v text);
ALTER TABLE events REPLICA IDENTITY FULL;
CREATE TABLE others (id int PRIMARY KEY, v text);
";

const FILL: &str = "
INSERT INTO orders SELECT i, i / 7.0, repeat(md5(i::text), 3), jsonb_build_object('i', i) FROM generate_series(1, 8000) i;
INSERT INTO events SELECT i % 100, 'event ' || i % 10 FROM generate_series(1, 1000) i;
INSERT INTO others SELECT i, 'other ' || i FROM generate_series(1, 1000) i;
";

fn rig(name: &str) -> Rig {
    let mut rig = Rig::new(name, SCHEMA);
    rig.execute(FILL);
    rig.configure(|config| {
        config.copy = "data = true\nworkers = 2\nchunk_size = \"256KiB\"".to_owned();
    });
    rig
}

/// Changes rows all over the tables until it is told to stop, whether or not the source is there.
fn writes(conninfo: &str, stop: &AtomicBool, done: &AtomicU64) {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut client = None;
    while !stop.load(Ordering::Relaxed) {
        let i = done.load(Ordering::Relaxed);
        let id = random.u32(1..=ROWS);
        let statements = format!(
            "BEGIN;
             UPDATE orders SET n = n + 1, note = 'changed {i}' WHERE id = {id};
             DELETE FROM orders WHERE id = {};
             INSERT INTO orders (id, n) VALUES ({}, {i});
             UPDATE orders SET id = -id WHERE id = {} AND id > 0;
             INSERT INTO events VALUES ({i}, 'meanwhile');
             DELETE FROM events WHERE {i} % 20 = 0 AND ctid = (SELECT min(ctid) FROM events WHERE n = {});
             UPDATE others SET v = 'changed {i}' WHERE id = {};
             INSERT INTO others VALUES ({}, 'new');
             COMMIT",
            id / 2,
            1_000_000 + i,
            id / 3,
            i % 100,
            1 + id % 1000,
            1_000_000 + i,
        );
        client = client.or_else(|| Client::connect(conninfo, NoTls).ok());
        let written = client.as_mut().map(|client| client.batch_execute(&statements));
        match written {
            Some(Ok(())) => {}
            // what the source was killed in may be there: with another number it is another transaction
            Some(Err(_)) => client = None,
            None => {
                thread::yield_now();
                continue;
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs `act` while the source is written to, and compares everything afterwards.
fn while_written_to(rig: &mut Rig, act: impl FnOnce(&mut Rig, &AtomicU64)) {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let conninfo = rig.source.conninfo(DATABASE);
    thread::scope(|scope| {
        scope.spawn(|| writes(&conninfo, &stop, &done));
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| act(rig, &done)));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(done.load(Ordering::Relaxed) > 10, "hardly anything was written meanwhile");
    rig.settle(LIMIT);
    rig.assert_equal();
}

/// What a standby and a server lose by mistake.
fn lose(rig: &Rig) {
    rig.standby.execute(
        DATABASE,
        "DELETE FROM orders WHERE id % 3 = 0; UPDATE orders SET note = 'wrong' WHERE id % 7 = 0;
         INSERT INTO orders VALUES (-5, 0, 'never was'); DELETE FROM events WHERE n = 1",
    );
    rig.clickhouse.query(&format!("TRUNCATE TABLE {DATABASE}.orders"));
}

/// Slots, records and origins of syncs that are left anywhere; a server that does not answer may have something left.
fn left(rig: &Rig) -> String {
    let slots =
        "SELECT string_agg(slot_name, ' ') FROM pg_replication_slots WHERE slot_name LIKE '%sync%'";
    [
        rig.source.value(DATABASE, slots).unwrap_or_default(),
        left_on_standby(rig),
        left_on_clickhouse(rig).unwrap_or_else(|error| error),
    ]
    .concat()
}

fn left_on_standby(rig: &Rig) -> String {
    if rig.standby.value(DATABASE, "SELECT 'there'").is_none() {
        return "no answer".to_owned();
    }
    let tables = ["positions", "tables", "copies", "copied_chunks", "to_create"];
    let exists = |table: &str| {
        let sql = format!("SELECT to_regclass('rsrepl.{table}')::text");
        rig.standby.value(DATABASE, &sql).is_some()
    };
    let mut parts: Vec<String> = tables
        .iter()
        .filter(|table| exists(table))
        .map(|table| {
            format!("(SELECT '{table} ' || string_agg(slot, ',') FROM rsrepl.{table} WHERE slot LIKE '%sync%')")
        })
        .collect();
    parts.push(
        "(SELECT string_agg(roname, ',') FROM pg_replication_origin WHERE roname LIKE '%sync%')"
            .to_owned(),
    );
    if exists("syncs") {
        parts.push(
            "(SELECT string_agg(table_name || ' ' || stage, ',') FROM rsrepl.syncs)".to_owned(),
        );
    }
    let sql = format!("SELECT concat_ws(' ', {})", parts.join(", "));
    rig.standby.value(DATABASE, &sql).unwrap_or_default()
}

fn left_on_clickhouse(rig: &Rig) -> Result<String, String> {
    let mut left = String::new();
    // what is recorded by slot is deleted by mutations, which take their time; positions say whether there was one
    for (table, of) in [
        ("_rsrepl_syncs", "FINAL WHERE stage != 'ended'"),
        ("_rsrepl_positions", "WHERE slot LIKE '%sync%'"),
    ] {
        let exists = format!(
            "SELECT count() FROM system.tables WHERE database = '{DATABASE}' AND name = '{table}'"
        );
        if rig.clickhouse.try_query(&exists)?.trim() == "0" {
            continue;
        }
        let count =
            rig.clickhouse.try_query(&format!("SELECT count() FROM {DATABASE}.{table} {of}"))?;
        if count.trim() != "0" {
            left.push_str(&format!(" {table} {}", count.trim()));
        }
    }
    Ok(left)
}

/// How many of its last transactions `others` lacks on each target.
fn behind(rig: &Rig, done: &AtomicU64) -> [u64; 2] {
    let count = |text: Option<String>| text.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let done = done.load(Ordering::Relaxed);
    let there = [
        count(rig.standby.value(DATABASE, "SELECT count(*)::text FROM others WHERE id > 1000000")),
        count(
            rig.clickhouse
                .try_query(&format!("SELECT count() FROM {DATABASE}.others WHERE id > 1000000"))
                .ok(),
        ),
    ];
    there.map(|there: u64| done.saturating_sub(there))
}

/// The most that `others` was behind on each target until `ended`.
fn most_behind(rig: &Rig, done: &AtomicU64, ended: impl Fn() -> bool) -> [u64; 2] {
    let mut most = [0; 2];
    while !ended() {
        let now = behind(rig, done);
        most = [most[0].max(now[0]), most[1].max(now[1])];
    }
    most
}

fn resync(rig: &Rig, arguments: &[&str]) -> String {
    let output = rig.sidecar.command_with("resync", arguments);
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let shown = format!("{out}{err}");
    assert!(output.status.success(), "{shown}");
    shown
}

#[test]
fn a_table_is_copied_anew_and_the_others_do_not_notice() {
    let mut rig = rig("resync");
    // as a first copy takes longer than a start may, where others use the machine
    rig.sidecar.launch();
    rig.settle(LIMIT);
    rig.assert_equal();
    while_written_to(&mut rig, |rig, done| {
        // what the stream does not stumble over
        rig.standby.execute(
            DATABASE,
            "UPDATE orders SET note = 'wrong' WHERE id % 7 = 0; INSERT INTO orders VALUES (-900000, 0, 'never was')",
        );
        rig.clickhouse.query(&format!("TRUNCATE TABLE {DATABASE}.orders"));
        let before = done.load(Ordering::Relaxed);
        let usual = most_behind(rig, done, || done.load(Ordering::Relaxed) > before + 300);
        let ended = AtomicBool::new(false);
        let (shown, during) = thread::scope(|scope| {
            let rig = &*rig;
            let sampled = scope.spawn(|| most_behind(rig, done, || ended.load(Ordering::Relaxed)));
            let shown =
                std::panic::catch_unwind(AssertUnwindSafe(|| resync(rig, &["orders", "events"])));
            ended.store(true, Ordering::Relaxed);
            (
                shown.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                sampled.join().unwrap(),
            )
        });
        println!(
            "resync: others is at most {usual:?} transactions behind without a sync, {during:?} with one"
        );
        for (usual, during) in usual.into_iter().zip(during) {
            assert!(
                during <= 3 * usual + 500,
                "others waits for the sync: {during} behind, {usual} before"
            );
        }
        for target in [STANDBY, CLICKHOUSE] {
            for table in ["orders", "events"] {
                let end = format!("{target}: public.{table} is copied, and part of the stream");
                assert!(shown.contains(&end), "no {end:?} in {shown}");
            }
        }
        assert!(done.load(Ordering::Relaxed) > before, "nothing was written meanwhile");
    });
    assert_eq!(left(&rig), "");
    // none was opened anew, and the source's stream was one
    for target in [STANDBY, CLICKHOUSE] {
        let retries = rig.sidecar.metric("rsrepl_retries_total", &[("target", target)]);
        assert_eq!(retries, Some(0.0), "{target}");
    }
    assert_eq!(rig.sidecar.metric("rsrepl_source_reconnects_total", &[]), Some(0.0));
}

/// Asks for a sync that goes on by itself, whoever has to come back first.
fn ask(rig: &Rig, tables: &[&str]) {
    wait::until(LIMIT, "it can be asked for", || {
        let arguments: Vec<&str> = tables.iter().copied().chain(["--no-wait"]).collect();
        let output = rig.sidecar.command_with("resync", &arguments);
        String::from_utf8_lossy(&output.stdout).contains("copied anew")
    });
}

fn kill(rig: &mut Rig, victim: &str) {
    match victim {
        "sidecar" => {
            rig.sidecar.kill();
            rig.sidecar.launch();
        }
        "clickhouse" => {
            rig.clickhouse.kill();
            rig.clickhouse.launch();
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
}

/// Waits for so many transactions more.
fn await_writes(done: &AtomicU64, more: u64) {
    let least = done.load(Ordering::Relaxed) + more;
    wait::until(LIMIT, "some more writes", || done.load(Ordering::Relaxed) >= least);
}

#[test]
fn kills_in_the_middle_of_a_sync_lose_and_double_nothing() {
    let mut rig = rig("resync-kills");
    // as a first copy takes longer than a start may, where others use the machine
    rig.sidecar.launch();
    rig.settle(LIMIT);
    let mut random = fastrand::Rng::with_seed(seed());
    let mut victims = ["sidecar", "standby", "clickhouse", "source", "sidecar", "sidecar"];
    random.shuffle(&mut victims);
    let mut within = 0;
    while_written_to(&mut rig, |rig, done| {
        lose(rig);
        for victim in victims {
            if left(rig).is_empty() {
                ask(rig, &["orders", "events"]);
            }
            await_writes(done, random.u64(1..80));
            within += usize::from(!left(rig).is_empty());
            println!("resync-kills: kill -9 of the {victim}");
            kill(rig, victim);
        }
        ask(rig, &["orders", "events"]);
        wait::until(LIMIT, "everything is copied", || left(rig).is_empty());
    });
    assert!(within >= 3, "only {within} of the kills were within a sync");
}

#[test]
fn tables_that_change_or_come_while_others_are_copied_are_equal() {
    let mut rig = rig("resync-ddl");
    rig.configure(|config| {
        config.postgres[0].options.push_str("\nschema_changes = \"apply\"\n");
        config.clickhouse[0].options.push_str("\nschema_changes = \"apply\"\n");
    });
    // as a first copy takes longer than a start may, where others use the machine
    rig.sidecar.launch();
    rig.settle(LIMIT);
    while_written_to(&mut rig, |rig, done| {
        ask(rig, &["orders", "events"]);
        for change in [
            "ALTER TABLE orders ADD COLUMN extra int DEFAULT 5",
            "TRUNCATE events; INSERT INTO events VALUES (1, 'first')",
            "CREATE TABLE made (id int PRIMARY KEY, v text); INSERT INTO made VALUES (1, 'made')",
            "ALTER TABLE orders RENAME note TO remark; ALTER TABLE orders ADD COLUMN note text DEFAULT 'x'",
            "UPDATE orders SET extra = id WHERE id % 50 = 0; TRUNCATE others",
            "ALTER TABLE orders DROP COLUMN doc",
            "INSERT INTO made SELECT i, 'more' FROM generate_series(2, 100) i",
        ] {
            await_writes(done, 10);
            rig.execute(change);
        }
        wait::until(LIMIT, "everything is copied", || left(rig).is_empty());
    });
}

#[test]
fn what_cannot_be_copied_anew_is_named() {
    let mut rig = rig("resync-refused");
    rig.configure(|config| config.postgres[0].options.push_str("\nschema_changes = \"stop\"\n"));
    let refused = |rig: &Rig, arguments: &[&str], status: i32, what: &str| {
        let output = rig.sidecar.command_with("resync", arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(what), "no {what:?} in {error}");
        assert_eq!(output.status.code(), Some(status), "{error}");
    };
    refused(&rig, &["orders"], 1, "slot rsrepl does not exist");
    // as a first copy takes longer than a start may, where others use the machine
    rig.sidecar.launch();
    rig.settle(LIMIT);
    refused(&rig, &["nowhere"], 2, "table public.nowhere is not there, or is not published");
    refused(&rig, &["orders", "--target", "elsewhere"], 2, "there is no target elsewhere");
    // a table that the standby has not, and may not be given: the others go on
    rig.standby.execute(DATABASE, "DROP TABLE orders");
    refused(&rig, &["orders", "--target", STANDBY], 1, "orders");
    rig.execute("INSERT INTO others VALUES (-1, 'meanwhile')");
    rig.settle(LIMIT);
    rig.standby.execute(
        DATABASE,
        "CREATE TABLE orders (id int PRIMARY KEY, n numeric(12,2), note text, doc jsonb)",
    );
    wait::until(LIMIT, "it goes on by itself", || left(&rig).is_empty());
    rig.settle(LIMIT);
    rig.assert_equal();
    // without a sidecar the request waits for one
    rig.sidecar.terminate();
    refused(&rig, &["orders"], 1, "the request waits until one does");
    assert!(!left(&rig).is_empty());
    rig.run();
    wait::until(LIMIT, "it is done", || left(&rig).is_empty());
    rig.settle(LIMIT);
    rig.assert_equal();
}

/// How often the log says that a target has got a table again.
fn copied(rig: &Rig, target: &str, table: &str) -> usize {
    let log = rig.sidecar.log();
    let of = log.lines().filter(|line| {
        line.contains("part of the stream again") && line.contains(target) && line.contains(table)
    });
    of.count()
}

#[test]
fn tables_that_are_published_later_are_copied() {
    let mut rig = rig("resync-added");
    rig.execute("CREATE PUBLICATION shop FOR TABLE others, events, rig_marker");
    rig.configure(|config| config.source_options.push_str("\npublication = \"shop\"\n"));
    // as a first copy takes longer than a start may, where others use the machine
    rig.sidecar.launch();
    rig.settle(LIMIT);
    let await_copies = |rig: &Rig, table: &str, times: usize| {
        for target in [STANDBY, CLICKHOUSE] {
            wait::until(LIMIT, "it is copied", || copied(rig, target, table) >= times);
        }
    };
    let await_decision = |rig: &Rig, table: &str, why: &str| {
        wait::until(LIMIT, "it is to be decided", || {
            let log = rig.sidecar.log();
            [STANDBY, CLICKHOUSE].iter().all(|target| {
                let command = format!("`rsrepl resync {table} --target {target}`");
                log.lines().any(|line| line.contains(&command) && line.contains(why))
            })
        });
    };
    while_written_to(&mut rig, |rig, _| {
        rig.execute("ALTER PUBLICATION shop ADD TABLE orders");
        await_copies(rig, "public.orders", 1);
        // rows that came before it was published
        rig.execute(
            "CREATE TABLE made (id int PRIMARY KEY, v text); INSERT INTO made VALUES (1, 'made')",
        );
        rig.execute("ALTER PUBLICATION shop ADD TABLE made; INSERT INTO made VALUES (2, 'more')");
        await_copies(rig, "public.made", 1);
        // all of its rows come in the stream
        rig.execute(
            "BEGIN; CREATE TABLE at_once (id int PRIMARY KEY, v text); ALTER PUBLICATION shop ADD TABLE at_once; COMMIT;
             INSERT INTO at_once VALUES (1, 'made')",
        );
        // out and in again: what was changed meanwhile did not come
        rig.execute("ALTER PUBLICATION shop DROP TABLE orders");
        rig.execute("DELETE FROM orders WHERE id % 5 = 0; UPDATE orders SET note = 'unseen' WHERE id % 11 = 0");
        rig.execute("ALTER PUBLICATION shop ADD TABLE orders");
        // what was complete is not emptied unless somebody says so
        await_decision(rig, "public.orders", "was out of the publication for a time");
        assert_eq!(copied(rig, STANDBY, "public.orders"), 1);
        resync(rig, &["orders"]);
    });
    assert_eq!(copied(&rig, STANDBY, "at_once"), 0);
    // a restart copies nothing
    rig.sidecar.terminate();
    rig.run();
    rig.execute("INSERT INTO at_once VALUES (2, 'after')");
    rig.settle(LIMIT);
    rig.assert_equal();
    assert_eq!((copied(&rig, STANDBY, "public.orders"), left(&rig)), (2, String::new()));
}
