//! A seeded random workload over tables of every type and identity.
//!
//! | module | subject |
//! |---|---|
//! | [`schema`] | the tables |
//! | [`values`] | random and edge-case literals of each type |
//! | [`transaction`] | random transactions over them |
//! | [`evolving`] | random transactions over tables that change meanwhile |
//!
//! The seed and the number of the client decide what a client sends. How clients interleave is left
//! to the server; the conflicts that come of it (deadlocks, unique violations) are rollbacks.

pub mod evolving;
pub mod schema;
pub mod transaction;
pub mod values;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use fastrand::Rng;
use postgres::Client;

use transaction::transaction;

/// How far a workload is.
#[derive(Default)]
pub struct Progress {
    /// Transactions that were committed.
    pub committed: AtomicU64,
    /// Transactions that were rolled back, on purpose or by the server.
    pub rolled_back: AtomicU64,
}

impl Progress {
    /// Transactions so far.
    pub fn total(&self) -> u64 {
        self.committed.load(Ordering::Relaxed) + self.rolled_back.load(Ordering::Relaxed)
    }
}

/// A running workload.
pub struct Workload {
    /// Its progress.
    pub progress: Arc<Progress>,
    clients: Vec<JoinHandle<()>>,
}

/// How a transaction ended.
pub enum End {
    /// With a COMMIT.
    Committed,
    /// On purpose, or by the server.
    RolledBack,
}

impl Workload {
    /// Sends transactions over all of `connections` at once until `count` are committed.
    pub fn start(seed: u64, count: u64, connections: Vec<Client>) -> Workload {
        Workload::of(send_transaction, seed, count, connections)
    }

    /// The same with transactions that `send` makes and sends.
    pub fn of(
        send: impl Fn(&mut Rng, &mut Client) -> End + Clone + Send + 'static,
        seed: u64,
        count: u64,
        connections: Vec<Client>,
    ) -> Workload {
        let progress = Arc::new(Progress::default());
        let client = |(number, mut client): (usize, Client)| {
            let (progress, send) = (Arc::clone(&progress), send.clone());
            let mut rng = Rng::with_seed(seed.wrapping_mul(1_000).wrapping_add(number as u64));
            thread::spawn(move || {
                while progress.committed.load(Ordering::Relaxed) < count {
                    let counter = match send(&mut rng, &mut client) {
                        End::Committed => &progress.committed,
                        End::RolledBack => &progress.rolled_back,
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let clients = connections.into_iter().enumerate().map(client).collect();
        Workload { progress, clients }
    }

    /// Whether all clients are done.
    pub fn finished(&self) -> bool {
        self.clients.iter().all(JoinHandle::is_finished)
    }

    /// Waits for the end; panics if a client did.
    pub fn join(self) {
        for client in self.clients {
            client.join().expect("a client of the workload");
        }
    }
}

fn send_transaction(rng: &mut Rng, client: &mut Client) -> End {
    let next = transaction(rng);
    match client.batch_execute(&next.statements) {
        Ok(()) if next.commits => End::Committed,
        Ok(()) => End::RolledBack,
        Err(error) => {
            give_up(client, &error, &["40P01", "23505", "23503", "40001"], &next.statements);
            End::RolledBack
        }
    }
}

/// Rolls back after a conflict between clients. Any other error is a mistake of the generator.
fn give_up(client: &mut Client, error: &postgres::Error, conflicts: &[&str], statements: &str) {
    let state = error.code().map_or("none", |code| code.code());
    assert!(conflicts.contains(&state), "{state}: {error:?}\n{statements}");
    client.batch_execute("ROLLBACK").expect("roll back");
}
