//! Faults one after the other under load, and what must hold all the while.
//!
//! | module | subject |
//! |---|---|
//! | [`plan`] | which fault comes when: the seed decides |
//! | [`fault`] | faults: they happen, and are over |
//! | [`bank`] | a workload whose states show by themselves whether they are whole |
//! | [`mixed`] | the random workload of the differential tests, which survives its server |
//! | [`readers`] | clients of the standby, which never may see a state that the source has not had |
//! | [`table`] | what happened how often, and how long recovery took |

pub mod bank;
pub mod fault;
pub mod mixed;
pub mod plan;
pub mod readers;
pub mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;

/// Pause before a client that lost its server tries again.
const RECONNECT: Duration = Duration::from_millis(50);

/// Tells threads that it is over.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// It is over.
    pub fn now(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it is over.
    pub fn said(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Connects, again and again; `None` when it is over.
fn connect(conninfo: &str, stop: &Stop) -> Option<Client> {
    while !stop.said() {
        match Client::connect(conninfo, postgres::NoTls) {
            Ok(client) => return Some(client),
            Err(_) => thread::sleep(RECONNECT),
        }
    }
    None
}

/// An error of the connection or of a server that ends, and not of a statement.
fn is_gone(error: &postgres::Error) -> bool {
    error.code().is_none_or(|code| code.code().starts_with("57P") || code.code().starts_with("08"))
}

/// Waits until `look` finds something; `None` after `limit`.
pub fn within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Some(found) = look() {
            return Some(found);
        }
        thread::sleep(RECONNECT);
    }
    None
}
