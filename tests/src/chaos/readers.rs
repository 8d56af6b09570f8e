//! Clients of the standby that look all the while.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::bank::State;
use super::{Stop, connect, is_gone};

/// Between two looks.
const REST: Duration = Duration::from_millis(60);

/// Readers at work.
pub struct Readers {
    seen: Arc<Seen>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    /// States that were looked at.
    states: AtomicU64,
    /// Those that were not the same as the one before.
    changes: AtomicU64,
    /// What no state may show.
    faults: Mutex<Vec<String>>,
}

impl Readers {
    /// Lets so many readers look at the bank on a server until `stop`.
    pub fn start(readers: usize, conninfo: &str, stop: &Stop) -> Readers {
        let seen = Arc::new(Seen::default());
        let reader = |_| {
            let (seen, conninfo, stop) = (Arc::clone(&seen), conninfo.to_owned(), stop.clone());
            thread::spawn(move || while session(&conninfo, &seen, &stop).is_some() {})
        };
        let readers = (0..readers).map(reader).collect();
        Readers { seen, readers }
    }

    /// The faults that were seen so far.
    pub fn faults(&self) -> Vec<String> {
        self.seen.faults.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Waits for the readers' end; how many states they have looked at, and how many of these were new to them.
    pub fn join(self) -> (u64, u64) {
        for reader in self.readers {
            reader.join().expect("a reader");
        }
        (self.seen.states.load(Ordering::SeqCst), self.seen.changes.load(Ordering::SeqCst))
    }
}

/// Looks until the server is gone. `None`: it is over.
fn session(conninfo: &str, seen: &Seen, stop: &Stop) -> Option<()> {
    let mut client = connect(conninfo, stop)?;
    // A standby that is killed may lose its last commits, which then come again; one that lives does not go back.
    let mut before = State::default();
    while !stop.said() {
        let state = match State::look(&mut client) {
            Ok(state) => state,
            Err(error) if is_gone(&error) => return Some(()),
            Err(error) => panic!("a reader: {error:?}"),
        };
        let back = before.last.iter().zip(&state.last).any(|(before, now)| now < before)
            || state.last.len() < before.last.len();
        let went_back =
            back.then(|| format!("it went back from {:?} to {:?}", before.last, state.last));
        if let Some(fault) = state.fault().or(went_back) {
            seen.faults.lock().unwrap_or_else(|e| e.into_inner()).push(fault);
        }
        seen.states.fetch_add(1, Ordering::SeqCst);
        seen.changes.fetch_add(u64::from(state != before), Ordering::SeqCst);
        before = state;
        thread::sleep(REST);
    }
    None
}
