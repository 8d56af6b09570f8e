//! The whole pipeline: hostile sources, a real PostgreSQL as its target.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;
use rsrepl_sidecar::config::{Config, Syntax};
use rsrepl_sidecar::error::Result;
use rsrepl_sidecar::pipeline;
use rsrepl_sidecar::status::{Status, TargetKind, TargetStatus};
use rsrepl_sidecar::telemetry::Metrics;
use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::scratch::Scratch;
use rsrepl_tests::wait;
use tokio_util::sync::CancellationToken;

use crate::walsender::{Attack, Walsender};
use crate::{Alone, GROWTH_MAX, LIMIT, attacks, block_on, conninfo, frames, seed};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

struct Sidecar {
    status: Status,
    shutdown: CancellationToken,
    running: JoinHandle<Result<()>>,
}

fn start(
    walsender: &Walsender,
    slot: &str,
    standby: &Postgres,
    scratch: &Scratch,
    confirm: &str,
) -> Sidecar {
    let text = format!(
        "[source]\nconnection_string = \"{}\"\nslot_name = \"{slot}\"\nstreaming = false\n\
         [[targets.postgres]]\nname = \"standby\"\nconnection_string = \"{}\"\n\
         [copy]\ndata = false\n[pipeline]\nmemory_limit = \"8MiB\"\n\
         [spool]\ndir = \"{}\"\nconfirm = \"{confirm}\"\n",
        conninfo(walsender.port),
        standby.conninfo("postgres"),
        scratch.join(&format!("spool-{slot}")).display(),
    );
    let config = Config::parse(&text, Syntax::Toml, &std::iter::empty().collect())
        .unwrap_or_else(|problems| panic!("{problems}"));
    let status = Status::new(vec![TargetStatus::new("standby", TargetKind::Postgres)]);
    let shutdown = CancellationToken::new();
    // a thread of its own, as the program has
    let (runtime, running) =
        (tokio::runtime::Handle::current(), (status.clone(), shutdown.clone()));
    let running = std::thread::spawn(move || {
        let (status, shutdown) = running;
        runtime.block_on(pipeline::run(Arc::new(config), status, Metrics::new(1), shutdown))
    });
    Sidecar { status, shutdown, running }
}

impl Sidecar {
    /// SIGTERM. It ends, whatever the source does.
    async fn end(self) {
        self.shutdown.cancel();
        let ended = async {
            while !self.running.is_finished() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, ended).await.expect("it hangs");
        self.running.join().expect("it panics").expect("it ends well");
    }
}

/// Waits without keeping a thread from its tasks.
async fn until(what: &str, sidecar: &Sidecar, walsender: &Walsender, done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            assert!(!sidecar.running.is_finished(), "the pipeline has ended");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(LIMIT * 2, waiting).await.is_err() {
        panic!("{what}: {:?} {:#?}", sidecar.status.snapshot(), walsender.journal.lock().unwrap());
    }
}

fn attacked(confirm: &str, attacks: Vec<Attack>) {
    let alone = Alone::begin();
    let scratch = Scratch::new("hostile");
    let standby = Postgres::start(&scratch, "standby", "");
    standby.execute("postgres", TABLE);
    let last = attacks.len() as u32 + 20;
    block_on(async {
        let walsender = Walsender::start(attacks, last).await;
        let sidecar = start(&walsender, "hostile", &standby, &scratch, confirm);
        until("everything is confirmed", &sidecar, &walsender, || {
            walsender.journal.lock().unwrap().flushed >= u64::from(last) * frames::STEP
        })
        .await;
        sidecar.end().await;
        let journal = walsender.journal.lock().unwrap();
        assert!(journal.attacks.is_empty(), "attacks that were not made: {:?}", journal.attacks);
        assert!(journal.failures.is_empty(), "{:#?}", journal.failures);
        for (name, peak) in &journal.peaks {
            let taken =
                if name == "a frame that does not end" { attacks::TAKEN as u64 >> 10 } else { 0 };
            let grown = peak.saturating_sub(journal.before);
            println!("{grown:>8} KiB behind: {name}");
            assert!(grown <= GROWTH_MAX + taken, "{name}: {grown} KiB");
        }
    });
    assert_eq!(alone.panics(), 0, "a panic was caught");
    // the slot began behind the first transaction
    let rows = "SELECT count(*) || ' ' || min(id) || ' ' || max(id) || ' ' || bool_and(v = 'honest') FROM t";
    let expected = format!("{} 2 {last} true", last - 1);
    assert_eq!(standby.value("postgres", rows).as_deref(), Some(&*expected));
}

#[test]
fn what_is_not_whole_is_refused_and_nothing_is_lost_or_confirmed_for_it() {
    attacked("applied", attacks::refused(&mut Rng::with_seed(seed())));
}

#[test]
fn the_same_with_a_spool_on_disk() {
    attacked("spooled", attacks::in_the_stream(&mut Rng::with_seed(seed())));
}

/// What is well-formed is believed. Whatever it says, the sidecar goes on, and ends when it is told to.
#[test]
fn well_formed_lies_do_no_harm() {
    let alone = Alone::begin();
    let scratch = Scratch::new("hostile-lies");
    let standby = Postgres::start(&scratch, "standby", "");
    standby.execute("postgres", TABLE);
    let lies = attacks::lies(&mut Rng::with_seed(seed()));
    let before = crate::memory().0;
    block_on(async {
        for (number, lies) in lies.chunks(3).map(<[Attack]>::to_vec).enumerate() {
            let made = lies.len();
            let walsender = Walsender::start(lies, 1000).await;
            let confirm = if number % 2 == 0 { "applied" } else { "spooled" };
            let sidecar = start(&walsender, &format!("lies_{number}"), &standby, &scratch, confirm);
            until("it comes again", &sidecar, &walsender, || {
                walsender.journal.lock().unwrap().connections > made
            })
            .await;
            sidecar.end().await;
            std::thread::scope(|scope| {
                scope.spawn(|| standby.execute("postgres", "TRUNCATE t")).join()
            })
            .unwrap();
        }
    });
    assert_eq!(alone.panics(), 0, "a panic was caught");
    let grown = crate::memory().1.saturating_sub(before);
    // another test's peak may be in it
    assert!(grown <= GROWTH_MAX + (attacks::TAKEN as u64 >> 10), "{grown} KiB");
    wait::until(LIMIT, "the standby answers", || standby.value("postgres", "1").is_some());
}
