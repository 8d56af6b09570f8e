//! The random workload of the differential tests, with clients that come back when their server does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fastrand::Rng;

use super::{Stop, connect, is_gone};
use crate::workload::transaction::transaction;

/// A client's rest between two transactions, so that others have a processor.
const REST: Duration = Duration::from_millis(25);

/// Conflicts between clients.
const CONFLICTS: [&str; 4] = ["40P01", "23505", "23503", "40001"];

/// Clients at work.
pub struct Mixed {
    committed: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

impl Mixed {
    /// Lets so many clients work on a server until `stop`.
    pub fn start(seed: u64, clients: usize, conninfo: &str, stop: &Stop) -> Mixed {
        let committed = Arc::new(AtomicU64::new(0));
        let client = |number: usize| {
            let mut rng = Rng::with_seed(seed.wrapping_mul(1_000).wrapping_add(number as u64));
            let (committed, conninfo, stop) =
                (Arc::clone(&committed), conninfo.to_owned(), stop.clone());
            thread::spawn(
                move || while session(&mut rng, &conninfo, &committed, &stop).is_some() {},
            )
        };
        let clients = (0..clients).map(client).collect();
        Mixed { committed, clients }
    }

    /// Waits for the clients' end; how many transactions they know to be committed.
    pub fn join(self) -> u64 {
        for client in self.clients {
            client.join().expect("a client of the workload");
        }
        self.committed.load(Ordering::SeqCst)
    }
}

/// Works until the server is gone. `None`: it is over.
fn session(rng: &mut Rng, conninfo: &str, committed: &AtomicU64, stop: &Stop) -> Option<()> {
    let mut client = connect(conninfo, stop)?;
    while !stop.said() {
        let next = transaction(rng);
        match client.batch_execute(&next.statements) {
            Ok(()) => {
                committed.fetch_add(u64::from(next.commits), Ordering::SeqCst);
                thread::sleep(REST);
            }
            Err(error) if is_gone(&error) => return Some(()),
            Err(error) => {
                let state = error.code().map_or("none", |code| code.code());
                assert!(CONFLICTS.contains(&state), "{state}: {error:?}\n{}", next.statements);
                if client.batch_execute("ROLLBACK").is_err() {
                    return Some(());
                }
            }
        }
    }
    None
}
