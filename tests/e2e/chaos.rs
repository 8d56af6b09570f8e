//! Faults one after the other, under load: whatever happens, nothing is lost, nothing comes twice, nobody sees half of a
//! transaction, and the stream goes on.
//!
//! `SEED=…` repeats the faults, `FAULTS=…` says how many there are; `make chaos`.

use std::thread;
use std::time::{Duration, Instant};

use rsrepl_tests::chaos::bank::{self, Bank, State};
use rsrepl_tests::chaos::fault::{Tools, happen};
use rsrepl_tests::chaos::mixed::Mixed;
use rsrepl_tests::chaos::plan::{is_spooled, plan};
use rsrepl_tests::chaos::readers::Readers;
use rsrepl_tests::chaos::table::Table;
use rsrepl_tests::chaos::{Stop, within};
use rsrepl_tests::rig::{CLICKHOUSE, DATABASE, MARKER, Rig, STANDBY};
use rsrepl_tests::variant::{Variant, seed};
use rsrepl_tests::workload::schema;

use crate::differential::setting;

/// Faults, by default: two minutes.
const FAULTS: usize = 12;

/// Clients of the source, and of the standby.
const TELLERS: usize = 3;
const OTHERS: usize = 2;
const READERS: usize = 2;

/// Before each third fault a transaction of so many rows is committed: it is on its way when the fault comes.
const LARGE_EVERY: usize = 3;
const LARGE_ROWS: usize = 20_000;

/// A stream that needs longer than this from the end of a fault is stuck. Minutes: the machine may be busy with other
/// things.
const STUCK: Duration = Duration::from_secs(300);

/// A rig whose folder is kept when the run fails.
struct Run {
    rig: Rig,
    seed: u64,
    markers: i64,
}

impl Run {
    /// Commits a row, and waits until all targets have it. Returns the time that took; an error says who is stuck.
    fn caught_up(&mut self) -> Result<Duration, String> {
        // negative: others are the rig's own
        self.markers -= 1;
        let marker = self.markers;
        self.rig.execute(&format!("INSERT INTO {MARKER} VALUES ({marker})"));
        let start = Instant::now();
        let on_standby = || {
            let query = format!("SELECT FROM {MARKER} WHERE id = {marker}");
            let mut client = self.rig.standby.try_client(DATABASE).ok()?;
            client.query_opt(&query, &[]).ok()?.map(drop)
        };
        let on_clickhouse = || {
            let query = format!("SELECT count() FROM {DATABASE}.{MARKER} WHERE id = {marker}");
            self.rig.clickhouse.try_query(&query).is_ok_and(|n| n.trim() != "0").then_some(())
        };
        within(STUCK, on_standby).ok_or_else(|| self.stuck(STANDBY))?;
        within(STUCK, on_clickhouse).ok_or_else(|| self.stuck(CLICKHOUSE))?;
        Ok(start.elapsed())
    }

    fn stuck(&self, target: &str) -> String {
        let report = self.rig.reported(target);
        format!(
            "the stream to {target} is stuck: nothing came within {STUCK:?}; it reports {report}"
        )
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if thread::panicking() {
            self.rig.scratch.keep();
            let folder = self.rig.scratch.path().display();
            eprintln!(
                "chaos: failed with SEED={}; all logs and data are kept in {folder}",
                self.seed
            );
        }
    }
}

#[test]
fn faults_one_after_the_other() {
    let (seed, faults) = (seed(), setting("FAULTS", FAULTS));
    println!("chaos: SEED={seed} FAULTS={faults}, spooled: {}", is_spooled(seed));
    let schema = format!("{}; {}", schema::statements(), bank::SCHEMA);
    let variant = Variant::of_test("chaos").without_loss();
    let mut run = Run { rig: Rig::with("chaos", &schema, variant), seed, markers: 0 };
    let tools = Tools::before(&mut run.rig, is_spooled(seed));
    prepare(&mut run.rig);

    let stop = Stop::default();
    let source = run.rig.source.conninfo(DATABASE);
    let readers = Readers::start(READERS, &run.rig.standby.conninfo(DATABASE), &stop);
    let bank = Bank::open(seed, TELLERS, &source, &stop);
    let mixed = Mixed::start(seed, OTHERS, &source, &stop);
    let mut table = Table::default();
    for (number, fault) in plan(seed, faults).iter().enumerate() {
        println!("chaos: {} of {faults}: {fault}", number + 1);
        thread::sleep(fault.pause);
        if number % LARGE_EVERY == 0 {
            let (first, last) = (number * LARGE_ROWS, (number + 1) * LARGE_ROWS - 1);
            run.rig.execute(&format!(
                "INSERT INTO bulk SELECT i, md5(i::text), i FROM generate_series({first}, {last}) i"
            ));
        }
        happen(fault, &mut run.rig, &tools);
        let took =
            run.caught_up().unwrap_or_else(|stuck| panic!("SEED={seed}: after {fault}: {stuck}"));
        table.add(fault.kind, fault.who, took);
        let running = run.rig.sidecar.is_running();
        assert!(running, "SEED={seed}: after {fault}: the sidecar ended by itself");
        let seen = readers.faults();
        assert!(
            seen.is_empty(),
            "SEED={seed}: after {fault}: a reader saw that {}",
            seen.join("\nand ")
        );
    }
    stop.now();
    let (acknowledged, committed) = (bank.close(), mixed.join());
    let (states, changes) = readers.join();
    println!("{table}");
    finish(&mut run, &acknowledged);
    println!(
        "chaos: SEED={seed}: {committed} random transactions and transfers {acknowledged:?}; \
         readers saw {states} states, {changes} of them new; peak memory of the sidecar {} MiB",
        run.rig.sidecar.peak_memory() >> 20
    );
    assert!(
        changes > states / 100 && changes > 10,
        "SEED={seed}: the readers saw too little happen"
    );
    assert_eq!(table.count(), faults);
}

/// Settings under which faults show soon, and the first rows.
fn prepare(rig: &mut Rig) {
    rig.configure(|config| {
        // the workload has values that ClickHouse's own types cannot hold
        config.clickhouse[0].options = "unrepresentable = \"string\"".to_owned();
    });
    for setting in ["deadlock_timeout = '10ms'", "wal_sender_timeout = '5s'"] {
        rig.source.execute("postgres", &format!("ALTER SYSTEM SET {setting}"));
    }
    rig.source.execute("postgres", "SELECT pg_reload_conf()");
    rig.run();
    rig.execute(schema::FIRST_ROWS);
    rig.execute(&bank::opening(TELLERS));
}

/// All systems are equal, and have what clients were told to be committed; nothing is kept back on the source.
fn finish(run: &mut Run, acknowledged: &[i64]) {
    let seed = run.seed;
    for _ in 0..2 {
        run.caught_up().unwrap_or_else(|stuck| panic!("SEED={seed}: at the end: {stuck}"));
    }
    run.rig.settle(STUCK);
    run.rig.assert_equal();
    for server in [&run.rig.source, &run.rig.standby] {
        let state = State::look(&mut server.client(DATABASE)).expect("look at the bank");
        assert_eq!(state.fault(), None, "SEED={seed}");
        let kept = state.last.iter().zip(acknowledged).all(|(last, told)| last >= told);
        assert!(kept, "SEED={seed}: acknowledged {acknowledged:?}, and there is {:?}", state.last);
        assert_eq!(state.last.len(), TELLERS);
    }
    let end = run.rig.wal_end();
    let follows = within(STUCK, || (run.rig.confirmed() >= end).then_some(()));
    assert!(follows.is_some(), "SEED={seed}: the slot keeps what all targets have");
    // it survives one, but there is to be none
    assert!(!run.rig.sidecar.log().contains("panic"), "SEED={seed}: the sidecar panicked");
    run.rig.assert_discreet();
}
