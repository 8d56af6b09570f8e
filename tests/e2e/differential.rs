//! The differential test: whatever the workload did and whoever was killed, all systems are equal.
//!
//! `SEED=…` repeats a workload, its faults and its configuration, `VARIANT=…` chooses another
//! configuration, `TRANSACTIONS=…` changes its size.

use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rsrepl_tests::rig::{DATABASE, Rig};
use rsrepl_tests::variant::seed;
use rsrepl_tests::workload::{Workload, schema};

/// Committed transactions, at least.
const TRANSACTIONS: u64 = 20_000;

/// Clients of the source.
const CLIENTS: usize = 4;

/// How often the sidecar is killed.
const SIDECAR_KILLS: usize = 10;

/// Rows of the one large transaction.
const LARGE_TRANSACTION: u64 = 100_000;

/// What the sidecar's resident memory must stay below.
const MEMORY_LIMIT: u64 = 256 << 20;

/// How long the targets may take to catch up after the last fault.
const SETTLE_LIMIT: Duration = Duration::from_secs(400);

#[derive(Clone, Copy, Debug)]
enum Fault {
    Sidecar,
    Standby,
    ClickHouse,
    LargeTransaction,
}

#[test]
fn whatever_happens_all_systems_are_equal() {
    let seed = seed();
    let count = setting("TRANSACTIONS", TRANSACTIONS);
    println!("differential: SEED={seed} TRANSACTIONS={count}");
    let mut rig = Rig::new("differential", &schema::statements());
    rig.configure(|config| {
        // The workload has values that ClickHouse's own types cannot hold.
        config.clickhouse[0].options = "unrepresentable = \"string\"".to_owned();
    });
    rig.source.execute("postgres", "ALTER SYSTEM SET deadlock_timeout = '10ms'");
    rig.source.execute("postgres", "SELECT pg_reload_conf()");
    rig.run();
    rig.execute(schema::FIRST_ROWS);

    let start = Instant::now();
    disturb(&mut rig, seed, count);
    println!("differential: workload and faults took {:?}", start.elapsed());
    let start = Instant::now();
    rig.sidecar.wait_ready(SETTLE_LIMIT);
    rig.settle(SETTLE_LIMIT);
    println!("differential: caught up after {:?}", start.elapsed());
    rig.assert_equal();
    // the sidecar's own comparison agrees, and knows every type
    let verified = rig.sidecar.command("verify");
    let said = String::from_utf8_lossy(&[verified.stdout, verified.stderr].concat()).into_owned();
    assert_eq!(verified.status.code(), Some(0), "rsrepl verify:\n{said}");
    rig.assert_discreet();
    let peak = rig.sidecar.peak_memory();
    println!("differential: peak memory of the sidecar {} MiB", peak >> 20);
    assert!(peak < MEMORY_LIMIT, "the sidecar took {peak} bytes");
}

/// Runs the workload, and a fault at each of some random numbers of transactions.
fn disturb(rig: &mut Rig, seed: u64, count: u64) {
    let mut rng = Rng::with_seed(seed);
    let mut faults = plan(&mut rng, count).into_iter().peekable();
    let clients = (0..CLIENTS).map(|_| rig.source.client(DATABASE)).collect();
    let workload = Workload::start(seed, count, clients);
    let committed = || workload.progress.committed.load(Ordering::Relaxed);
    while !workload.finished() || faults.peek().is_some() {
        match faults.next_if(|(when, _)| committed() >= *when) {
            Some((_, fault)) => happen(fault, rig, &mut rng),
            None => thread::sleep(Duration::from_millis(5)),
        }
    }
    println!("differential: {} transactions, {} committed", workload.progress.total(), committed());
    workload.join();
}

fn plan(rng: &mut Rng, count: u64) -> Vec<(u64, Fault)> {
    let mut faults = vec![Fault::Sidecar; SIDECAR_KILLS];
    faults.extend([Fault::Standby, Fault::ClickHouse, Fault::LargeTransaction]);
    let mut when = || rng.u64(count / 50..count);
    let mut plan: Vec<_> = faults.into_iter().map(|fault| (when(), fault)).collect();
    plan.sort_by_key(|(when, _)| *when);
    plan
}

fn happen(fault: Fault, rig: &mut Rig, rng: &mut Rng) {
    let pause = Duration::from_millis(rng.u64(0..1_000));
    println!("differential: {fault:?}, {pause:?}");
    match fault {
        Fault::Sidecar => {
            assert!(rig.sidecar.is_running(), "the sidecar ended by itself:\n{}", rig.sidecar.log());
            rig.sidecar.kill();
            thread::sleep(pause);
            rig.sidecar.launch();
        }
        Fault::Standby => {
            rig.standby.kill();
            thread::sleep(pause);
            rig.standby.launch();
        }
        Fault::ClickHouse => {
            rig.clickhouse.kill();
            thread::sleep(pause);
            rig.clickhouse.launch();
        }
        Fault::LargeTransaction => rig.execute(&format!(
            "INSERT INTO bulk SELECT i, md5(i::text), i FROM generate_series(1, {LARGE_TRANSACTION}) i"
        )),
    }
    // Something is to happen between two faults.
    thread::sleep(pause);
}

fn setting<T: FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}
