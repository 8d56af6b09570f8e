//! `confirm = "spooled"`: the spool on disk stands in for targets that are away, and commits may wait for it.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rsrepl_tests::rig::{CLICKHOUSE, DATABASE, Rig};
use rsrepl_tests::tmpfs::Tmpfs;
use rsrepl_tests::wait;

const LIMIT: Duration = Duration::from_secs(120);

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

fn spooled(name: &str, more: &str) -> Rig {
    let mut rig = Rig::new(name, SCHEMA);
    rig.configure(|config| {
        config.sections = format!("[spool]\nconfirm = \"spooled\"\n{more}\n");
    });
    rig
}

/// Rows of about 1 kB that do not compress away, ten transactions.
fn write(rig: &Rig, round: u32, rows: u32) {
    for part in 0..10 {
        let first = (round * 10 + part) * rows;
        rig.execute(&format!(
            "INSERT INTO t SELECT i, (SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, 30) j)
               FROM generate_series({first}, {first} + {rows} - 1) i;
             UPDATE t SET v = left(v, 10) WHERE id % 7 = 0 AND id >= {first}"
        ));
    }
}

fn metric(rig: &Rig, name: &str) -> Option<u64> {
    let (_, text) = rig.sidecar.get("/metrics")?;
    let line = text.lines().find(|line| line.split(' ').next() == Some(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn retained(rig: &Rig) -> i64 {
    rig.execute("CHECKPOINT");
    let query = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint FROM pg_replication_slots";
    rig.source.value(DATABASE, query).and_then(|bytes| bytes.parse().ok()).expect("a slot")
}

#[test]
fn a_target_that_is_away_holds_no_wal_and_catches_up() {
    let mut rig = spooled("spooled", "");
    rig.run();
    rig.settle(LIMIT);
    rig.clickhouse.kill();
    for round in 0..4 {
        write(&rig, round, 200);
        match round {
            1 => {
                rig.sidecar.kill();
                rig.sidecar.launch();
            }
            2 => {
                assert!(rig.sidecar.terminate().success());
                rig.sidecar.launch();
            }
            _ => {}
        }
    }
    rig.settle_standby(LIMIT);
    let end = rig.wal_end();
    wait::until(LIMIT, "the slot moves on", || rig.confirmed() >= end);
    wait::until(LIMIT, "no WAL is kept", || retained(&rig) < 4 << 20);
    wait::until(LIMIT, "the spool is shown", || {
        metric(&rig, "rsrepl_spool_disk_bytes").is_some_and(|bytes| bytes > 4 << 20)
    });
    let report = rig.reported(CLICKHOUSE);
    assert!(report.contains("\"spooled_lsn\""), "{report}");
    rig.sidecar.kill();
    rig.clickhouse.launch();
    rig.run();
    rig.settle(LIMIT);
    rig.assert_equal();
    rig.assert_discreet();
}

#[test]
fn no_acknowledged_transaction_is_lost() {
    let mut rig = spooled("spooled-sync", "");
    rig.configure(|config| config.source.push_str(" application_name=sidecar"));
    rig.run();
    rig.settle(LIMIT);
    for statement in
        ["ALTER SYSTEM SET synchronous_standby_names = 'sidecar'", "SELECT pg_reload_conf()"]
    {
        rig.source.client(DATABASE).batch_execute(statement).expect("set it");
    }
    wait::until(LIMIT, "commits wait for the sidecar", || {
        rig.source.value(DATABASE, "SELECT sync_state FROM pg_stat_replication").as_deref()
            == Some("sync")
    });
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let conninfo = rig.source.conninfo(DATABASE);
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (acknowledged, stop, conninfo) =
                (acknowledged.clone(), stop.clone(), conninfo.clone());
            thread::spawn(move || {
                let mut id = writer;
                let mut client = None;
                while !stop.load(Ordering::Relaxed) {
                    let Some(connected) = client.as_mut() else {
                        client = postgres::Client::connect(&conninfo, postgres::NoTls).ok();
                        thread::sleep(Duration::from_millis(10));
                        continue;
                    };
                    id += 3;
                    match connected.execute("INSERT INTO t VALUES ($1, 'v')", &[&id]) {
                        Ok(_) => {
                            acknowledged.lock().expect("writers").insert(id);
                        }
                        Err(_) => client = None,
                    }
                }
            })
        })
        .collect();
    let count = || acknowledged.lock().expect("writers").len();
    let more = |what: &str| {
        let before = count();
        wait::until(LIMIT, what, || count() > before + 30);
    };
    more("commits are acknowledged");
    for _ in 0..2 {
        rig.sidecar.kill();
        let before = count();
        // what was on its way, and what a writer has not told yet
        wait::stays(Duration::from_millis(500), "commits wait", || count() <= before + 6);
        rig.sidecar.launch();
        more("commits go on behind a kill of the sidecar");
        rig.source.kill();
        rig.source.launch();
        more("commits go on behind a kill of the source");
    }
    // and now it does not come back
    rig.source.kill();
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().expect("a writer");
    }
    let acknowledged: BTreeSet<i32> = acknowledged.lock().expect("writers").clone();
    wait::until(LIMIT, "the standby has all of them", || {
        let rows = rig.standby.client(DATABASE).query("SELECT id FROM t", &[]).expect("query");
        let there: BTreeSet<i32> = rows.iter().map(|row| row.get(0)).collect();
        acknowledged.is_subset(&there)
    });
    rig.source.launch();
    rig.settle(LIMIT);
    rig.assert_equal();
}

/// What `synchronous_commit` asks for is what a commit waits for.
#[test]
fn remote_apply_waits_for_the_targets() {
    let mut rig = spooled("spooled-apply", "");
    rig.configure(|config| config.source.push_str(" application_name=sidecar"));
    rig.run();
    rig.settle(LIMIT);
    for statement in
        ["ALTER SYSTEM SET synchronous_standby_names = 'sidecar'", "SELECT pg_reload_conf()"]
    {
        rig.source.client(DATABASE).batch_execute(statement).expect("set it");
    }
    wait::until(LIMIT, "commits wait for the sidecar", || {
        rig.source.value(DATABASE, "SELECT sync_state FROM pg_stat_replication").as_deref()
            == Some("sync")
    });
    rig.execute("SET synchronous_commit = remote_apply; INSERT INTO t VALUES (1, 'v')");
    let there = rig.standby.value(DATABASE, "SELECT count(*) FROM t");
    assert_eq!(there.as_deref(), Some("1"), "it was acknowledged before");
    let query = format!("SELECT count() FROM {DATABASE}.t FINAL");
    assert_eq!(rig.clickhouse.try_query(&query).expect("query").trim(), "1");
    rig.clickhouse.kill();
    for (id, setting) in [(2, "remote_write"), (3, "on")] {
        rig.execute(&format!(
            "SET statement_timeout = '60s'; SET synchronous_commit = {setting}; INSERT INTO t VALUES ({id}, 'v')"
        ));
    }
    let conninfo = rig.source.conninfo(DATABASE);
    let waits = thread::spawn(move || {
        let mut client = postgres::Client::connect(&conninfo, postgres::NoTls).expect("connect");
        client.batch_execute("SET synchronous_commit = remote_apply; INSERT INTO t VALUES (4, 'v')")
    });
    rig.settle_standby(LIMIT);
    wait::stays(Duration::from_secs(1), "it waits for ClickHouse", || !waits.is_finished());
    rig.clickhouse.launch();
    wait::until(LIMIT, "it is acknowledged", || waits.is_finished());
    waits.join().expect("a client").expect("a commit");
    rig.settle(LIMIT);
    rig.assert_equal();
}

#[test]
fn a_full_disk_holds_up_the_slot_and_nothing_is_lost() {
    // segments of 1 MiB; the disk is full before the spool is
    let mut rig = spooled("spooled-full", "max_size = \"16MiB\"");
    let Some(_disk) = Tmpfs::mount(rig.sidecar.state(), "8m") else {
        eprintln!("skipped: a small file system takes root and the right to mount");
        return;
    };
    rig.configure(|config| config.sections.push_str("[pipeline]\nmemory_limit = \"8MiB\"\n"));
    rig.run();
    rig.settle(LIMIT);
    rig.clickhouse.kill();
    for round in 0..4 {
        write(&rig, round, 300);
    }
    wait::until(LIMIT, "it is told", || metric(&rig, "rsrepl_spool_stuck") == Some(1));
    let end = rig.wal_end();
    assert!(rig.confirmed() < end);
    assert!(rig.sidecar.log().contains("the spool cannot be written to"));
    rig.clickhouse.launch();
    rig.settle(LIMIT);
    rig.assert_equal();
    wait::until(LIMIT, "it is over", || metric(&rig, "rsrepl_spool_stuck") == Some(0));
}

#[test]
fn what_is_not_the_spool_of_this_source_is_refused() {
    let mut rig = spooled("spooled-refused", "");
    rig.run();
    rig.settle(LIMIT);
    rig.clickhouse.kill();
    write(&rig, 0, 50);
    rig.settle_standby(LIMIT);
    rig.sidecar.kill();
    // a tail that was torn is cut off
    let last = rig.sidecar.segments().pop().expect("a segment");
    let mut file = OpenOptions::new().append(true).open(&last).expect("open the segment");
    file.write_all(&[0x46; 1000]).expect("write garbage");
    rig.sidecar.launch();
    write(&rig, 1, 50);
    rig.settle_standby(LIMIT);
    assert!(rig.sidecar.log().contains("is cut off"));
    assert!(rig.sidecar.terminate().success());

    // another source's
    let meta = rig.sidecar.spool().join("spool.json");
    let text = fs::read_to_string(&meta).expect("spool.json");
    let system = text.lines().find(|line| line.contains("system_id")).expect("a system");
    fs::write(&meta, text.replace(system, "\"system_id\": 7,")).expect("write");
    rig.sidecar.launch();
    let refused = rig.sidecar.wait_exit(LIMIT);
    assert!(!refused.success());
    let log = rig.sidecar.log();
    assert!(log.contains("it belongs to another spool"), "{log}");
    fs::write(&meta, &text).expect("write");

    // damaged where it was synchronized
    let all = rig.sidecar.segments();
    assert!(all.len() > 1, "each start begins one");
    let damaged = all.into_iter().next().expect("a segment");
    let good = fs::read(&damaged).expect("read the segment");
    fs::write(&damaged, &good[..good.len() - 1]).expect("write");
    rig.sidecar.launch();
    assert!(!rig.sidecar.wait_exit(LIMIT).success());
    let log = rig.sidecar.log();
    assert!(log.contains("the spool is damaged") && log.contains("at byte"), "{log}");
    fs::write(&damaged, &good).expect("write");

    // as it was, it is good
    rig.clickhouse.launch();
    rig.run();
    rig.settle(LIMIT);
    rig.assert_equal();
}

#[test]
fn a_spool_that_is_gone_is_missed() {
    let mut rig = spooled("spooled-gone", "");
    rig.run();
    rig.settle(LIMIT);
    rig.clickhouse.kill();
    write(&rig, 0, 50);
    rig.settle_standby(LIMIT);
    let end = rig.wal_end();
    wait::until(LIMIT, "the slot moves on", || rig.confirmed() >= end);
    assert!(rig.sidecar.terminate().success());
    let (dir, away) = (rig.sidecar.spool(), rig.scratch.join("away"));
    fs::rename(&dir, &away).expect("take the spool away");
    rig.clickhouse.launch();
    rig.sidecar.launch();
    wait::until(LIMIT, "ClickHouse is reported as stopped", || {
        rig.reported(CLICKHOUSE).contains("\"stopped\"")
    });
    let report = rig.reported(CLICKHOUSE);
    assert!(report.contains("gives nothing below") && report.contains("spool"), "{report}");
    // the standby goes on, and nothing is confirmed over ClickHouse's head
    let confirmed = rig.confirmed();
    rig.execute("INSERT INTO t VALUES (-1, 'later')");
    rig.settle_standby(LIMIT);
    wait::stays(Duration::from_secs(2), "the slot waits", || rig.confirmed() <= confirmed);
    assert!(rig.sidecar.terminate().success());

    // it was found again
    fs::remove_dir_all(&dir).expect("remove the new one");
    fs::rename(&away, &dir).expect("bring the spool back");
    rig.run();
    rig.settle(LIMIT);
    rig.assert_equal();
}
