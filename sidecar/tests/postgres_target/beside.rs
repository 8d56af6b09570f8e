//! Several writers: batches that nothing connects are written at the same time; what the target connects
//! in its own ways is found out, and ends in the same rows.

use std::time::Duration;

use rsrepl_sidecar::target::postgres::PostgresTarget;
use rsrepl_sidecar::target::{Event, Target};
use rsrepl_wire::ReplicaIdentity;

use crate::Standby;
use crate::stream::{Stream, int, int_column, key, relation, text, text_column};

const LIMIT: Duration = Duration::from_secs(60);

pub fn target(standby: &Standby, workers: usize) -> PostgresTarget {
    let mut options = standby.options();
    (options.workers, options.batches) = (workers, 64);
    PostgresTarget::new(options)
}

/// Hands over all of `batches` as fast as there is room, and waits until all are applied.
pub async fn apply_all(target: &mut PostgresTarget, batches: Vec<rsrepl_sidecar::batch::Batch>) {
    let count = batches.len();
    let mut batches = batches.into_iter();
    let mut applied = 0;
    let all = async {
        while applied < count {
            while target.has_room(true)
                && let Some(batch) = batches.next()
            {
                target.submit(batch);
            }
            if target.next().await.unwrap() == Event::Applied {
                applied += 1;
            }
        }
    };
    tokio::time::timeout(LIMIT, all).await.expect("it does not hang");
}

/// The triggers of the target make batches of different tables change the same row, and so wait for each
/// other in both directions.
#[tokio::test]
async fn a_row_that_triggers_share() {
    let standby = Standby::new(
        "shared_row",
        "CREATE TABLE counter (id int PRIMARY KEY, n bigint NOT NULL);
         INSERT INTO counter VALUES (1, 0);
         CREATE TABLE seen (id serial, what text);
         CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             UPDATE public.counter SET n = n + 1; RETURN NEW; END $$;
         CREATE TABLE t0 (id int PRIMARY KEY); CREATE TABLE t1 (id int PRIMARY KEY);
         CREATE TABLE t2 (id int PRIMARY KEY);
         CREATE TRIGGER c AFTER INSERT ON t0 FOR EACH ROW EXECUTE FUNCTION count_it();
         CREATE TRIGGER c AFTER INSERT ON t1 FOR EACH ROW EXECUTE FUNCTION count_it();
         CREATE TRIGGER c AFTER INSERT ON t2 FOR EACH ROW EXECUTE FUNCTION count_it();
         ALTER TABLE t0 ENABLE ALWAYS TRIGGER c; ALTER TABLE t1 ENABLE ALWAYS TRIGGER c;
         ALTER TABLE t2 ENABLE ALWAYS TRIGGER c",
    );
    let mut target = target(&standby, 3);
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    let batches = (0..30).map(|n| {
        let name = format!("t{}", n % 3);
        let table = relation(&name, ReplicaIdentity::Default, vec![key(int_column("id"))]);
        // the first of each round is the longest: those behind it have the row before it
        (0..[300, 3, 1][n as usize % 3]).for_each(|i| stream.insert(&table, &[int(n * 1000 + i)]));
        stream.commit()
    });
    apply_all(&mut target, batches.collect()).await;
    assert_eq!(standby.rows("SELECT n FROM counter"), "(3040)");
}

/// A unique value that goes from a row of one table to a row of another, which only the target's own
/// trigger puts under one constraint.
#[tokio::test]
async fn a_unique_value_that_triggers_share() {
    let standby = Standby::new(
        "shared_value",
        "CREATE TABLE names (name text PRIMARY KEY);
         CREATE FUNCTION name_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF TG_OP <> 'INSERT' THEN DELETE FROM public.names WHERE name = OLD.name; END IF;
             IF TG_OP <> 'DELETE' THEN INSERT INTO public.names VALUES (NEW.name); END IF;
             RETURN NULL; END $$;
         CREATE TABLE a (id int PRIMARY KEY, name text); CREATE TABLE b (id int PRIMARY KEY, name text);
         CREATE TRIGGER n AFTER INSERT OR UPDATE OR DELETE ON a FOR EACH ROW EXECUTE FUNCTION name_it();
         CREATE TRIGGER n AFTER INSERT OR UPDATE OR DELETE ON b FOR EACH ROW EXECUTE FUNCTION name_it();
         ALTER TABLE a ENABLE ALWAYS TRIGGER n; ALTER TABLE b ENABLE ALWAYS TRIGGER n",
    );
    let columns = || vec![key(int_column("id")), text_column("name")];
    let tables = ["a", "b"].map(|name| relation(name, ReplicaIdentity::Default, columns()));
    let mut target = target(&standby, 2);
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    let mut batches = Vec::new();
    // each value is taken in one table and is free again in the next batch, of the other
    for n in 0..40 {
        let (here, there) = (&tables[n % 2], &tables[(n + 1) % 2]);
        let names: Vec<_> = (0..20).map(|i| text(&format!("name {i}"))).collect();
        if n > 0 {
            (0..20).for_each(|i| stream.delete(there, &[int(i), crate::stream::V::Null]));
            batches.push(stream.commit());
        }
        (0..20).for_each(|i| stream.insert(here, &[int(i), names[i as usize].clone()]));
        batches.push(stream.commit());
    }
    apply_all(&mut target, batches).await;
    let rows =
        "SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b), (SELECT count(*) FROM names)";
    assert_eq!(standby.rows(rows), "(0,20,20)");
}

/// Whoever reads the target sees one batch after the other, although they are written side by side.
#[tokio::test(flavor = "multi_thread")]
async fn commits_are_in_order() {
    let standby = Standby::new(
        "in_turn",
        "CREATE TABLE t0 (id int PRIMARY KEY); CREATE TABLE t1 (id int PRIMARY KEY);
         CREATE TABLE t2 (id int PRIMARY KEY)",
    );
    let mut target = target(&standby, 3);
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    let mut batches = Vec::new();
    for n in 0..60 {
        let name = format!("t{}", n % 3);
        let table = relation(&name, ReplicaIdentity::Default, vec![key(int_column("id"))]);
        (0..[2000, 20, 1][n as usize % 3])
            .for_each(|i| stream.insert(&table, &[int(n * 10_000 + i)]));
        batches.push(stream.commit());
    }
    let seen = "SELECT (SELECT count(DISTINCT id / 10000) FROM t0),
                       (SELECT count(DISTINCT id / 10000) FROM t1),
                       (SELECT count(DISTINCT id / 10000) FROM t2)";
    let done = std::sync::atomic::AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let look = scope.spawn(|| {
            let mut looks = Vec::new();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                looks.push(standby.rows(seen));
            }
            looks
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(apply_all(&mut target, batches));
        });
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        look.join().unwrap()
    });
    for look in looks {
        let counts: Vec<u32> =
            look.trim_matches(['(', ')']).split(',').map(|n| n.parse().unwrap()).collect();
        assert!(counts[0] >= counts[1] && counts[1] >= counts[2], "{look}");
        assert!(counts[0] - counts[2] <= 1, "{look}");
    }
    assert_eq!(standby.rows(seen), "(20,20,20)");
}

/// Somebody holds a lock on `t` that keeps writers out, for so many seconds.
fn lock(standby: &Standby, seconds: f64) -> std::thread::JoinHandle<()> {
    let (server, database) = (standby.server.clone(), standby.database.clone());
    let held = std::thread::spawn(move || {
        let hold = format!("BEGIN; LOCK t IN SHARE MODE; SELECT pg_sleep({seconds}); COMMIT");
        server.postgres.execute(&database, &hold);
    });
    let locks =
        "SELECT FROM pg_locks WHERE relation = 't'::regclass AND mode = 'ShareLock' AND granted";
    while standby.rows(locks).is_empty() {
        std::thread::yield_now();
    }
    held
}

/// Longer than a batch waits beside others.
const LONG: f64 = 2.5;

/// With nothing beside it a batch waits for a lock as one of a single writer does.
#[tokio::test]
async fn a_lone_batch_waits_for_a_lock() {
    let standby = Standby::new("lone", "CREATE TABLE t (id int PRIMARY KEY)");
    let table = relation("t", ReplicaIdentity::Default, vec![key(int_column("id"))]);
    let mut target = target(&standby, 2);
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    for emptied in [false, true] {
        let held = lock(&standby, LONG);
        (0..100).for_each(|i| stream.insert(&table, &[int(i)]));
        if emptied {
            stream.truncate(&table);
        }
        // who empties a table is alone in any company
        let batch = if emptied { stream.commit() } else { stream.last_commit() };
        apply_all(&mut target, vec![batch]).await;
        held.join().unwrap();
    }
    assert_eq!(standby.rows("SELECT count(*) FROM t"), "(0)");
}

/// A COPY that is refused costs its session. What it was refused for is told all the same, and the batch
/// is written alone the next time, so that it waits.
#[tokio::test]
async fn a_copy_that_is_refused_in_company_is_written_alone() {
    let standby = Standby::new("refused_copy", "CREATE TABLE t (id int PRIMARY KEY)");
    let table = relation("t", ReplicaIdentity::Default, vec![key(int_column("id"))]);
    let batches = || {
        let (table, mut stream) = (table.clone(), Stream::after(1000));
        (0..2).map(move |n| {
            (0..100).for_each(|i| stream.insert(&table, &[int(n * 100 + i)]));
            stream.commit()
        })
    };
    let mut target = target(&standby, 2);
    target.open(&standby.source()).await.unwrap();
    let held = lock(&standby, 2.0 * LONG);
    batches().for_each(|batch| target.submit(batch));
    let error = loop {
        if let Err(error) = target.next().await {
            break error;
        }
    };
    assert!(error.to_string().contains("lock"), "{error}");
    target.open(&standby.source()).await.unwrap();
    apply_all(&mut target, batches().collect()).await;
    held.join().unwrap();
    assert_eq!(standby.rows("SELECT count(*) FROM t"), "(200)");
}
