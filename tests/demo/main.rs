//! `make demo`: a live shop with a past, copied into PostgreSQL and ClickHouse, replicated, and compared.
//!
//! | module | subject |
//! |---|---|
//! | [`shop`] | tables and workload |
//! | [`display`] | the live line and the final tables |
//!
//! Exit status 0 says that every table is equal on the three systems, after a SIGKILL of the sidecar.

mod display;
mod shop;

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use display::Live;
use rsrepl_tests::rig::{CLICKHOUSE, DATABASE, Rig, STANDBY};
use rsrepl_tests::variant::Variant;
use rsrepl_tests::{SECRET, compare};

/// How long the shop is open.
const WORKLOAD: Duration = Duration::from_secs(20);

/// Rows of the large transaction.
const LARGE_TRANSACTION: u64 = 100_000;

/// How long the targets may take to catch up at the end.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);

/// What the sidecar's resident memory must stay below.
const MEMORY_LIMIT: u64 = 256 << 20;

/// What happens while the shop is open.
#[derive(Clone, Copy)]
enum Event {
    LargeTransaction,
    ChangeKeys,
    Kill,
    Restart,
    Truncate,
}

/// When, after the opening.
const EVENTS: [(u64, Event); 5] = [
    (4, Event::LargeTransaction),
    (7, Event::ChangeKeys),
    (10, Event::Kill),
    (12, Event::Restart),
    (15, Event::Truncate),
];

fn main() -> ExitCode {
    println!("starting a source and a standby PostgreSQL, ClickHouse and the sidecar …");
    let mut rig = Rig::with("demo", shop::SCHEMA, Variant::PLAIN);
    rig.configure(|config| config.copy.clear());
    shop::stock(&mut rig.source.client(DATABASE));
    open_the_shop(&mut rig);
    println!("the shop is closed; waiting for the targets …");
    let start = Instant::now();
    rig.settle(SETTLE_LIMIT);
    println!("caught up after {:.1} s\n", start.elapsed().as_secs_f64());
    let mut passed = compare_all(&rig);
    passed &= check_sidecar(&mut rig);
    display::health(&mut rig.source.client(DATABASE));
    println!("\n{}", if passed { "PASSED: all three systems are equal" } else { "FAILED" });
    display::addresses(&rig);
    if std::env::var("KEEP").is_ok_and(|v| v == "1") {
        println!("\nall of it stays up: end it with Ctrl-C");
        loop {
            thread::park();
        }
    }
    println!("(KEEP=1 leaves everything running to look around)");
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn open_the_shop(rig: &mut Rig) {
    let shop = shop::Shop::open(|| rig.source.client(DATABASE));
    let mut client = rig.source.client(DATABASE);
    let mut live = Live::new();
    first_copy(rig, &mut live);
    let opening = Instant::now();
    let mut events = EVENTS.iter().peekable();
    while opening.elapsed() < WORKLOAD {
        if let Some((_, event)) =
            events.next_if(|(second, _)| opening.elapsed() >= Duration::from_secs(*second))
        {
            live.event(describe(*event));
            happen(*event, rig, &mut client);
        }
        live.show(opening.elapsed(), shop.done.transactions.load(Ordering::Relaxed), &rig.sidecar);
        thread::sleep(Duration::from_millis(250));
    }
    shop.close();
    live.end();
    assert!(events.next().is_none(), "the machine was too slow for all events");
}

/// Both targets are empty, and the shop is open.
fn first_copy(rig: &mut Rig, live: &mut Live) {
    let start = Instant::now();
    live.event("the sidecar comes, and copies what is there");
    rig.sidecar.launch();
    rig.sidecar.wait_ready(SETTLE_LIMIT);
    let seconds = start.elapsed().as_secs_f64();
    for target in [STANDBY, CLICKHOUSE] {
        let copied = |metric| rig.sidecar.metric(metric, &[("target", target)]).unwrap_or_default();
        live.event(&format!(
            "{target}: {} rows ({:.1} MiB) copied in {seconds:.1} s",
            copied("rsrepl_copied_rows_total"),
            copied("rsrepl_copied_bytes_total") / f64::from(1 << 20),
        ));
    }
}

fn describe(event: Event) -> &'static str {
    match event {
        Event::LargeTransaction => "a transaction of 100,000 rows",
        Event::ChangeKeys => "keys change under rows with long values",
        Event::Kill => "kill -9 of the sidecar",
        Event::Restart => "the sidecar comes back",
        Event::Truncate => "TRUNCATE carts",
    }
}

fn happen(event: Event, rig: &mut Rig, client: &mut postgres::Client) {
    match event {
        Event::LargeTransaction => shop::big_transaction(client, LARGE_TRANSACTION),
        Event::ChangeKeys => shop::change_keys(client),
        Event::Kill => rig.sidecar.kill(),
        Event::Restart => rig.sidecar.launch(),
        Event::Truncate => shop::truncate(client),
    }
}

/// Compares every table on the three systems.
fn compare_all(rig: &Rig) -> bool {
    let mut source = rig.source.client(DATABASE);
    let mut standby = rig.standby.client(DATABASE);
    let mut equal = true;
    println!("{:<14} {:>9}   {:<14} {:<14}", "table", "rows", "standby", "ClickHouse");
    for table in compare::tables(&mut source) {
        let there = compare::postgres(&mut source, &mut standby, &table);
        let twin = rig.twin(&table);
        let image = compare::clickhouse(&mut source, &rig.clickhouse, &table, &twin);
        let word = |c: &compare::Comparison| if c.equal() { "equal" } else { "DIFFERENT" };
        println!("{table:<14} {:>9}   {:<14} {:<14}", there.rows, word(&there), word(&image));
        for comparison in [there, image] {
            if !comparison.equal() {
                println!("{comparison}");
                equal = false;
            }
        }
    }
    println!();
    equal
}

/// Memory below its limit, and no password where others may read it.
fn check_sidecar(rig: &mut Rig) -> bool {
    let peak = rig.sidecar.peak_memory();
    let small = peak < MEMORY_LIMIT;
    println!("peak memory of the sidecar: {} MiB (limit {})", peak >> 20, MEMORY_LIMIT >> 20);
    let silent = !rig.sidecar.log().contains(SECRET);
    if !silent {
        println!("the sidecar's log shows a password");
    }
    small && silent
}
