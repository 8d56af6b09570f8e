//! Servers that die, batches that are cut off, and a random stream against a model.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use rsrepl_sidecar::batch::{Batch, Change};
use rsrepl_sidecar::error::{Decision, Kind};
use rsrepl_sidecar::target::clickhouse::{ClickHouseTarget, GroupLimits};
use rsrepl_sidecar::target::{Event, Target};
use rsrepl_tests::clickhouse::USER;
use rsrepl_tests::{SECRET, wait};
use rsrepl_wire::{Relation, ReplicaIdentity};

use crate::feed::*;
use crate::rig::{Apply, GROUPS, Rig, apply, reopen, reopen_when_up, source};

/// Changes of one transaction, and the LSNs that one takes.
const CHANGES_MAX: u64 = 30;
const LSN_STEP: u64 = 50;
/// Few, so that rows move to where others were.
const KEYS: i32 = 10;

/// A stream of transactions, and what the tables hold at its end.
struct Model {
    rng: Rng,
    /// The end of the WAL.
    end: u64,
    /// Of the change being made.
    lsn: u64,
    keyed: Arc<Relation>,
    keyless: Arc<Relation>,
    tables: Tables,
    /// The key that a row has just moved away from.
    left: Option<i32>,
    transactions: Vec<Transaction>,
}

/// What the tables hold.
#[derive(Clone, Default)]
struct Tables {
    /// Number and long value by key.
    rows: BTreeMap<i32, (i32, String)>,
    /// Rows of the keyless table.
    bag: Vec<(i32, String)>,
}

struct Transaction {
    changes: Vec<Change>,
    /// Others may have committed after what it wrote.
    long: bool,
    end: u64,
    after: Tables,
}

impl Model {
    fn new(seed: u64) -> Model {
        let columns = vec![key(int_column("id")), int_column("n"), text_column("long")];
        let keyed = table(1, "keyed", ReplicaIdentity::Default, columns);
        let columns = vec![int_column("n"), text_column("v")];
        let keyless = table(2, "keyless", ReplicaIdentity::Full, columns);
        Model {
            rng: Rng::with_seed(seed),
            end: 100,
            lsn: 0,
            keyed,
            keyless,
            tables: Tables::default(),
            left: None,
            transactions: Vec::new(),
        }
    }

    /// Some transactions are long: others commit after what they wrote, and before them.
    fn fill(&mut self, transactions: usize) {
        let mut reserved = None;
        for _ in 0..transactions {
            if reserved.is_none() && self.rng.bool() {
                reserved = Some(self.end);
                self.end += CHANGES_MAX * LSN_STEP;
            }
            self.lsn = match reserved {
                Some(start) if self.rng.bool() => {
                    reserved = None;
                    start
                }
                _ => self.end,
            };
            let long = self.lsn < self.end;
            let mut changes = Vec::new();
            for _ in 0..self.rng.u64(1..CHANGES_MAX) {
                // some have one LSN, as the rows of a COPY
                self.lsn += self.rng.u64(0..LSN_STEP);
                // what a long one writes and then replaces has to be told apart
                let keyed = self.rng.u8(0..4) < if long { 3 } else { 2 };
                let change = if keyed { self.keyed() } else { self.keyless() };
                changes.push(change);
            }
            self.end = self.end.max(self.lsn) + 10;
            let (end, after) = (self.end, self.tables.clone());
            let changes = transaction(changes, end);
            self.transactions.push(Transaction { changes, long, end, after });
        }
    }

    fn keyed(&mut self) -> Change {
        let row = |id: i32, (n, long): &(i32, String)| [int(id), int(*n), text(long)];
        let (t, lsn) = (&self.keyed, self.lsn);
        // often another row comes to where one was
        let left = self.left.take().filter(|_| self.rng.u8(0..4) > 0);
        let id = left.unwrap_or_else(|| self.rng.i32(0..KEYS));
        let fresh = (self.rng.i32(..), format!("{}-{}", self.rng.u64(..), "z".repeat(50)));
        let Some(old) = self.tables.rows.get(&id).cloned() else {
            if left.is_none() && self.rng.u8(..) < 4 {
                self.tables.rows.clear();
                return truncate(t, lsn);
            }
            let change = insert(t, lsn, &row(id, &fresh));
            self.tables.rows.insert(id, fresh);
            return change;
        };
        let to = self.rng.i32(0..KEYS);
        match self.rng.u8(0..10) {
            0..=1 => {
                self.tables.rows.remove(&id);
                delete(t, lsn, &row(id, &old))
            }
            2..=4 => {
                let change = update(t, lsn, &[int(id), int(fresh.0), Cell::Unchanged]);
                self.tables.rows.insert(id, (fresh.0, old.1));
                change
            }
            5..=8 if !self.tables.rows.contains_key(&to) => {
                let new = [int(to), int(fresh.0), Cell::Unchanged];
                let change = update_from(t, lsn, &row(id, &old), &new);
                self.tables.rows.remove(&id);
                self.tables.rows.insert(to, (fresh.0, old.1));
                self.left = Some(id);
                change
            }
            _ => {
                let change = update(t, lsn, &row(id, &fresh));
                self.tables.rows.insert(id, fresh);
                change
            }
        }
    }

    fn keyless(&mut self) -> Change {
        let row = |(n, v): &(i32, String)| [int(*n), text(v)];
        let (t, lsn) = (&self.keyless, self.lsn);
        let fresh = (self.rng.i32(0..3), "v".repeat(self.rng.usize(0..3)));
        if self.tables.bag.is_empty() || self.rng.u8(0..10) < 5 {
            self.tables.bag.push(fresh.clone());
            return insert(t, lsn, &row(&fresh));
        }
        if self.rng.u8(..) < 4 {
            self.tables.bag.clear();
            return truncate(t, lsn);
        }
        let place = self.rng.usize(0..self.tables.bag.len());
        if self.rng.bool() {
            let old = self.tables.bag.swap_remove(place);
            return delete(t, lsn, &row(&old));
        }
        let old = std::mem::replace(&mut self.tables.bag[place], fresh.clone());
        update_from(t, lsn, &row(&old), &row(&fresh))
    }

    /// Batches of whole transactions, or a part of one, from `position` on.
    fn next_batch(&mut self, position: u64, done: &mut (usize, usize)) -> Option<Batch> {
        let (transaction, at) = *done;
        let Transaction { changes, long, end, .. } = self.transactions.get(transaction)?;
        assert!(*end > position);
        if at == 0 && !long && self.rng.u8(0..4) > 0 {
            let count = self.rng.usize(1..8).min(self.transactions.len() - transaction);
            let whole = &self.transactions[transaction..transaction + count];
            let changes = whole.iter().flat_map(|t| t.changes.clone()).collect();
            *done = (transaction + count, 0);
            return Some(batch(changes, whole.last().map(|t| t.end)));
        }
        let stop = self.rng.usize(at..=changes.len());
        let part = changes[at..stop].to_vec();
        let ended = stop == changes.len();
        *done = if ended { (transaction + 1, 0) } else { (transaction, stop) };
        Some(batch(part, ended.then_some(*end)))
    }

    /// How many transactions are applied at this position.
    fn applied(&self, position: u64) -> usize {
        self.transactions.iter().take_while(|t| t.end <= position).count()
    }
}

impl Tables {
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
    // transactions that the tables may hold something of, after a failure
    let mut ahead = 0;
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
        // now and then the rows of a part are stored, and then there is a crash
        let crash = committed.is_none() && rng.bool();
        if crash || !matches!(applied, Some(Ok(()))) {
            let found = reopen_when_up(target).await.0;
            assert!(found >= position, "{found} < {position}: an acknowledged batch is lost");
            position = found;
            ahead = ahead.max(done.0 + usize::from(done.1 > 0));
            done = (model.applied(found), 0);
        } else if committed.is_some() && ahead > 0 && done.0 >= ahead {
            model.transactions[done.0 - 1].after.check(rig);
            ahead = 0;
        }
    }
}

#[tokio::test]
async fn a_random_stream_that_is_cut_off_again_and_again() {
    let mut rig = Rig::start();
    for seed in 0..4 {
        let mut model = Model::new(seed);
        model.fill(60);
        let mut target = rig.target().await;
        run(&mut rig, &mut model, &mut target, |_, rng| {
            (rng.u8(0..3) == 0).then(|| Duration::from_millis(rng.u64(0..60)))
        })
        .await;
        model.tables.check(&rig);
        rig.server.query("OPTIMIZE TABLE mirror.keyed FINAL");
        model.tables.check(&rig);
        rig.server.query("DROP DATABASE mirror SYNC");
    }
}

/// Batches go on while others are being stored, groups end anywhere, and now and then all is cut off.
#[tokio::test]
async fn a_random_stream_in_groups_that_is_cut_off_again_and_again() {
    let rig = Rig::start();
    for seed in 10..13 {
        let mut model = Model::new(seed);
        model.fill(60);
        let limits = GroupLimits { rows: 60, ..GROUPS };
        let mut target = ClickHouseTarget::new(rig.options(), limits).unwrap();
        let mut position = reopen_when_up(&mut target).await.0;
        let (mut rng, mut done) = (Rng::with_seed(seed), (0, 0));
        let end = model.transactions.last().unwrap().end;
        while position < end {
            if rng.u8(0..4) > 0
                && target.has_room(false)
                && let Some(batch) = model.next_batch(position, &mut done)
            {
                target.submit(batch);
                if rng.u8(0..16) == 0 {
                    let found = reopen_when_up(&mut target).await.0;
                    assert!(found >= position, "{found} < {position}: a durable batch is lost");
                    position = found;
                    done = (model.applied(found), 0);
                }
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
        model.tables.check(&rig);
        rig.server.query("OPTIMIZE TABLE mirror.keyed FINAL");
        model.tables.check(&rig);
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

/// What it is told where to go on must not change afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn open_waits_for_what_is_on_its_way() {
    let limit = "function_sleep_max_microseconds_per_block";
    let rig = Rig::start_with(&format!("<{limit}>60000000</{limit}>"));
    let mut target = rig.target().await;
    let t = table(1, "slow", ReplicaIdentity::Default, vec![key(int_column("id"))]);
    apply(&mut target, vec![insert(&t, 10, &[int(1)])], 20).await.unwrap();
    // longer than requests are waited for
    rig.server.query(
        "CREATE MATERIALIZED VIEW mirror.sleeper ENGINE = Null AS
         SELECT sleep(25) AS slept, count() AS n FROM mirror.slow",
    );
    target.submit(batch(vec![insert(&t, 21, &[int(2)])], Some(30)));
    target.hurry();
    let inserts = "SELECT count() FROM system.processes WHERE query LIKE 'INSERT%slow%'";
    wait::until(Duration::from_secs(10), "the INSERT runs", || {
        rig.server.query(inserts).trim() == "1"
    });
    let error = target.open(&source()).await.unwrap_err();
    assert_eq!((error.kind(), error.decision()), (Kind::Connection, Decision::Retry), "{error}");
    assert_eq!(rig.server.query(inserts).trim(), "0");
    assert_eq!(reopen(&mut target).await.0, 20);
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
    model.tables.check(&rig);
}
