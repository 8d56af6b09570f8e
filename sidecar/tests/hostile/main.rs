//! The sidecar against a walsender that means it harm: garbage, lies, and more than anybody can hold.
//!
//! | module | subject |
//! |---|---|
//! | `walsender` | a server that speaks as much of the protocol as the sidecar uses, until it attacks |
//! | `attacks` | what it sends then |
//! | `frames` | frames that are right, and what can be made of them |
//! | `whole` | the whole pipeline, with a real PostgreSQL as its target |
//! | `held` | what the source client's memory is held by |
//!
//! `HOSTILE_SEED` chooses what is random. What is measured is this process, so one test runs at a time.

mod attacks;
mod frames;
mod held;
mod walsender;
mod whole;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use rsrepl_sidecar::tls::{self, PgConnect};

/// More than any step takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Memory that may be taken over what was taken before, in KiB: the spool's least, two buffers, allocators.
const GROWTH_MAX: u64 = 48 << 10;

const PASSWORD: &str = "a password";

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Keeps the other tests waiting, and counts panics, also those that are caught.
struct Alone {
    _lock: MutexGuard<'static, ()>,
    panics: usize,
}

impl Alone {
    fn begin() -> Alone {
        static LOCK: Mutex<()> = Mutex::new(());
        static HOOK: Once = Once::new();
        let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                PANICS.fetch_add(1, Ordering::SeqCst);
                before(info);
            }));
        });
        Alone { _lock: lock, panics: PANICS.load(Ordering::SeqCst) }
    }

    fn panics(&self) -> usize {
        PANICS.load(Ordering::SeqCst) - self.panics
    }
}

fn seed() -> u64 {
    let seed = std::env::var("HOSTILE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(1);
    println!("HOSTILE_SEED={seed}");
    seed
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(test)
}

/// A connection string for the walsender on this port.
fn conninfo(port: u16) -> String {
    format!(
        "host=127.0.0.1 port={port} user=u password='{PASSWORD}' dbname=d sslmode=disable connect_timeout=1"
    )
}

fn connect_to(port: u16) -> PgConnect {
    tls::parse(&conninfo(port)).expect("a connection string")
}

/// KiB of memory that this process takes now, and the most that it ever took.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("a size")
    };
    (field("VmRSS:"), field("VmHWM:"))
}
