//! Servers that die, batches that are cut off, and a random stream against a model.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use rsrepl_sidecar::batch::{Batch, Change};
use rsrepl_sidecar::error::Decision;
use rsrepl_sidecar::target::clickhouse::{ClickHouseTarget, GroupLimits};
use rsrepl_sidecar::target::{Event, Target};
use rsrepl_tests::clickhouse::USER;
use rsrepl_tests::{SECRET, wait};
use rsrepl_wire::{Relation, ReplicaIdentity};

use crate::feed::*;
use crate::rig::{Apply, GROUPS, Rig, reopen_when_up};

/// A stream of transactions, and what the tables hold at its end.
struct Model {
    rng: Rng,
    lsn: u64,
    keyed: Arc<Relation>,
    keyless: Arc<Relation>,
    /// Number and long value by key.
    rows: BTreeMap<i32, (i32, String)>,
    /// Rows of the keyless table.
    bag: Vec<(i32, String)>,
    /// The changes of each transaction, and its end.
    transactions: Vec<(Vec<Change>, u64)>,
}

impl Model {
    fn new(seed: u64) -> Model {
        let columns = vec![key(int_column("id")), int_column("n"), text_column("long")];
        let keyed = table(1, "keyed", ReplicaIdentity::Default, columns);
        let columns = vec![int_column("n"), text_column("v")];
        let keyless = table(2, "keyless", ReplicaIdentity::Full, columns);
        Model {
            rng: Rng::with_seed(seed),
            lsn: 100,
            keyed,
            keyless,
            rows: BTreeMap::new(),
            bag: Vec::new(),
            transactions: Vec::new(),
        }
    }

    fn fill(&mut self, transactions: usize) {
        for _ in 0..transactions {
            let changes = self.rng.usize(1..30);
            let mut transaction = Vec::new();
            for _ in 0..changes {
                self.lsn += self.rng.u64(1..50);
                let change = if self.rng.bool() { self.keyed() } else { self.keyless() };
                transaction.push(change);
            }
            self.lsn += 10;
            self.transactions.push((transaction, self.lsn));
        }
    }

    fn keyed(&mut self) -> Change {
        let row = |id: i32, (n, long): &(i32, String)| [int(id), int(*n), text(long)];
        let (t, lsn) = (&self.keyed, self.lsn);
        let id = self.rng.i32(0..40);
        let fresh = (self.rng.i32(..), format!("{}-{}", self.rng.u64(..), "z".repeat(50)));
        let Some(old) = self.rows.get(&id).cloned() else {
            if self.rng.u8(..) < 4 {
                self.rows.clear();
                return truncate(t, lsn);
            }
            let change = insert(t, lsn, &row(id, &fresh));
            self.rows.insert(id, fresh);
            return change;
        };
        let to = self.rng.i32(0..40);
        match self.rng.u8(0..10) {
            0..=2 => {
                self.rows.remove(&id);
                delete(t, lsn, &row(id, &old))
            }
            3..=5 => {
                let change = update(t, lsn, &[int(id), int(fresh.0), Cell::Unchanged]);
                self.rows.insert(id, (fresh.0, old.1));
                change
            }
            6..=7 if !self.rows.contains_key(&to) => {
                let new = [int(to), int(fresh.0), Cell::Unchanged];
                let change = update_from(t, lsn, &row(id, &old), &new);
                self.rows.remove(&id);
                self.rows.insert(to, (fresh.0, old.1));
                change
            }
            _ => {
                let change = update(t, lsn, &row(id, &fresh));
                self.rows.insert(id, fresh);
                change
            }
        }
    }

    fn keyless(&mut self) -> Change {
        let row = |(n, v): &(i32, String)| [int(*n), text(v)];
        let (t, lsn) = (&self.keyless, self.lsn);
        let fresh = (self.rng.i32(0..3), "v".repeat(self.rng.usize(0..3)));
        if self.bag.is_empty() || self.rng.u8(0..10) < 5 {
            self.bag.push(fresh.clone());
            return insert(t, lsn, &row(&fresh));
        }
        if self.rng.u8(..) < 4 {
            self.bag.clear();
            return truncate(t, lsn);
        }
        let place = self.rng.usize(0..self.bag.len());
        if self.rng.bool() {
            let old = self.bag.swap_remove(place);
            return delete(t, lsn, &row(&old));
        }
        let old = std::mem::replace(&mut self.bag[place], fresh.clone());
        update_from(t, lsn, &row(&old), &row(&fresh))
    }

    /// Batches of whole transactions, now and then a part of one, from `position` on.
    fn next_batch(&mut self, position: u64, done: &mut (usize, usize)) -> Option<Batch> {
        let (transaction, at) = *done;
        let (changes, end) = self.transactions.get(transaction)?;
        assert!(*end > position);
        if at == 0 && self.rng.u8(0..4) > 0 {
            let count = self.rng.usize(1..8).min(self.transactions.len() - transaction);
            let whole = &self.transactions[transaction..transaction + count];
            let changes = whole.iter().flat_map(|(changes, _)| changes.clone()).collect();
            *done = (transaction + count, 0);
            return Some(batch(changes, whole.last().map(|(_, end)| *end)));
        }
        let stop = self.rng.usize(at..=changes.len());
        let part = changes[at..stop].to_vec();
        let ended = stop == changes.len();
        *done = if ended { (transaction + 1, 0) } else { (transaction, stop) };
        Some(batch(part, ended.then_some(*end)))
    }

    fn check(&self, rig: &Rig) {
        let rows: Vec<String> =
            self.rows.iter().map(|(id, (n, long))| format!("{id}\t{n}\t{long}")).collect();
        assert_eq!(rig.rows("id, n, long", "keyed"), rows);
        let mut bag: Vec<String> = self.bag.iter().map(|(n, v)| format!("{n}\t{v}")).collect();
        bag.sort();
        assert_eq!(rig.rows("n, v", "keyless"), bag);
    }
}

/// Applies the whole stream; `fault` may do something to the server before a batch, and says how long
/// the batch may take before it is cut off.
async fn run(
    rig: &mut Rig,
    model: &mut Model,
    target: &mut ClickHouseTarget,
    mut fault: impl FnMut(&mut Rig, &mut Rng) -> Option<Duration>,
) {
    let mut rng = Rng::with_seed(model.rng.u64(..));
    let mut position = reopen_when_up(target).await.0;
    let mut done = (0, 0);
    loop {
        let Some(next) = model.next_batch(position, &mut done) else { break };
        let committed = next.commit.map(|commit| commit.lsn.0);
        let limit = fault(rig, &mut rng);
        let applied = match limit {
            Some(limit) => tokio::time::timeout(limit, target.apply(next)).await.ok(),
            None => Some(target.apply(next).await),
        };
        match &applied {
            Some(Ok(())) => position = committed.unwrap_or(position),
            Some(Err(error)) => assert_eq!(error.decision(), Decision::Retry, "{error}"),
            None => {}
        }
        if !matches!(applied, Some(Ok(()))) {
            let found = reopen_when_up(target).await.0;
            assert!(found >= position, "{found} < {position}: an acknowledged batch is lost");
            position = found;
            done = (model.transactions.iter().take_while(|(_, end)| *end <= found).count(), 0);
        }
    }
}

#[tokio::test]
async fn a_random_stream_that_is_cut_off_again_and_again() {
    let mut rig = Rig::start();
    for seed in 0..4 {
        let mut model = Model::new(seed);
        model.fill(120);
        let mut target = rig.target().await;
        run(&mut rig, &mut model, &mut target, |_, rng| {
            (rng.u8(0..3) == 0).then(|| Duration::from_millis(rng.u64(0..60)))
        })
        .await;
        model.check(&rig);
        rig.server.query("OPTIMIZE TABLE mirror.keyed FINAL");
        model.check(&rig);
        rig.server.query("DROP DATABASE mirror SYNC");
    }
}

/// Batches go on while others are being stored, groups end anywhere, and now and then all is cut off.
#[tokio::test]
async fn a_random_stream_in_groups_that_is_cut_off_again_and_again() {
    let rig = Rig::start();
    for seed in 10..13 {
        let mut model = Model::new(seed);
        model.fill(120);
        let limits = GroupLimits { rows: 60, ..GROUPS };
        let mut target = ClickHouseTarget::new(rig.options(), limits).unwrap();
        let mut position = reopen_when_up(&mut target).await.0;
        let (mut rng, mut done) = (Rng::with_seed(seed), (0, 0));
        let end = model.transactions.last().unwrap().1;
        while position < end {
            if rng.u8(0..24) == 0 {
                let found = reopen_when_up(&mut target).await.0;
                assert!(found >= position, "{found} < {position}: a durable batch is lost");
                position = found;
                done = (model.transactions.iter().take_while(|(_, end)| *end <= found).count(), 0);
            }
            if rng.u8(0..4) > 0
                && target.has_room(false)
                && let Some(batch) = model.next_batch(position, &mut done)
            {
                target.submit(batch);
                continue;
            }
            if rng.u8(0..6) == 0 {
                target.hurry();
            }
            match tokio::time::timeout(Duration::from_millis(10), target.next()).await {
                Ok(event) => {
                    if let Event::Durable(lsn) = event.unwrap() {
                        assert!(lsn.0 > position);
                        position = lsn.0;
                    }
                }
                Err(_) => target.hurry(),
            }
        }
        model.check(&rig);
        rig.server.query("OPTIMIZE TABLE mirror.keyed FINAL");
        model.check(&rig);
        rig.server.query("DROP DATABASE mirror SYNC");
    }
}

/// A predecessor's INSERT that ends after `open` could bring back what a TRUNCATE took away.
#[tokio::test]
async fn open_ends_the_queries_of_a_predecessor() {
    let rig = Rig::start();
    let mut target = rig.target().await;
    let running = |id: &str| {
        rig.server.query(&format!("SELECT count() FROM system.processes WHERE query_id = '{id}'"))
    };
    let ids = ["rsrepl:7:rsrepl:mirror:ch:99-1", "rsrepl:7:rsrepl:mirror:other:99-1"];
    let mut connections = Vec::new();
    for id in ids {
        let mut stream = TcpStream::connect(("127.0.0.1", rig.server.http_port())).unwrap();
        let query = "SELECT sleep(1) FROM numbers(30) SETTINGS max_block_size = 1";
        write!(
            stream,
            "POST /?query_id={id} HTTP/1.1\r\nHost: x\r\nX-ClickHouse-User: {USER}\r\n\
             X-ClickHouse-Key: {SECRET}\r\nContent-Length: {}\r\n\r\n{query}",
            query.len()
        )
        .unwrap();
        wait::until(Duration::from_secs(10), "the query runs", || running(id).trim() == "1");
        connections.push(stream);
    }
    reopen_when_up(&mut target).await;
    assert_eq!(running(ids[0]).trim(), "0");
    assert_eq!(running(ids[1]).trim(), "1", "another target's");
}

#[tokio::test]
async fn a_server_that_is_killed_again_and_again() {
    let mut rig = Rig::start();
    let mut model = Model::new(77);
    model.fill(150);
    let mut target = rig.target().await;
    let mut kills = 0;
    run(&mut rig, &mut model, &mut target, |rig, rng| {
        if rng.u8(0..12) == 0 && kills < 5 {
            kills += 1;
            rig.server.kill();
            rig.server.launch();
        }
        None
    })
    .await;
    assert!(kills > 1);
    model.check(&rig);
}
