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

/// What happens in the middle of a workload.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Sidecar,
    Standby,
    ClickHouse,
    LargeTransaction,
    /// An enum gets another label.
    Label,
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
    let clients = (0..CLIENTS).map(|_| rig.source.client(DATABASE)).collect();
    let workload = Workload::start(seed, count, clients);
    let mut faults = vec![Fault::Sidecar; SIDECAR_KILLS];
    faults.extend([Fault::Standby, Fault::ClickHouse, Fault::LargeTransaction]);
    disturb(&mut rig, seed, faults, count, vec![workload]);
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

/// Lets faults happen until all workloads are done, each at a random number of the first one's `count`
/// transactions.
pub fn disturb(rig: &mut Rig, seed: u64, faults: Vec<Fault>, count: u64, workloads: Vec<Workload>) {
    let mut rng = Rng::with_seed(seed);
    let mut faults = plan(&mut rng, faults, count).into_iter().peekable();
    let committed = || workloads[0].progress.committed.load(Ordering::Relaxed);
    while !workloads.iter().all(Workload::finished) || faults.peek().is_some() {
        match faults.next_if(|(when, _)| committed() >= *when) {
            Some((_, fault)) => happen(fault, rig, &mut rng),
            None => thread::sleep(Duration::from_millis(5)),
        }
    }
    for workload in workloads {
        let (all, there) = (workload.progress.total(), &workload.progress.committed);
        println!("differential: {all} transactions, {} committed", there.load(Ordering::Relaxed));
        workload.join();
    }
}

fn plan(rng: &mut Rng, faults: Vec<Fault>, count: u64) -> Vec<(u64, Fault)> {
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
        Fault::Label => {
            let label = format!("label {}", rng.u32(..));
            let add = format!("ALTER TYPE mood ADD VALUE '{label}' BEFORE 'ok'");
            // types are not replicated
            rig.standby.execute(DATABASE, &add);
            rig.execute(&add);
            rig.execute(&format!(
                "INSERT INTO by_label VALUES ('{label}', 1, 'new', 1);
                 UPDATE others SET m = '{label}' WHERE id IN (SELECT id FROM others LIMIT 9)"
            ));
        }
    }
    // Something is to happen between two faults.
    thread::sleep(pause);
}

/// A number of the environment.
pub fn setting<T: FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}
