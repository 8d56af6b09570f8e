use std::collections::BTreeMap;
use std::sync::Arc;

use rsrepl_sidecar::target::Target;
use rsrepl_wire::{Relation, ReplicaIdentity};

use crate::beside;
use crate::stream::{Stream, V, int, int_column, key, relation, text, text_column};
use crate::{Apply, Standby};

/// `extra` is the target's own: an update must leave it alone.
const SCHEMA: &str = "\
CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE, a text, b text, extra int DEFAULT 5);
CREATE TABLE bag (x int, y text);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''fired''; END';
CREATE TRIGGER never BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION never();";

fn keyed(identity: ReplicaIdentity) -> Arc<Relation> {
    let columns = vec![key(int_column("id")), int_column("u"), text_column("a"), text_column("b")];
    relation("t", identity, columns)
}

/// The source's rows, and the random changes made to them.
struct Model {
    rows: BTreeMap<i32, (i32, String, String)>,
    random: fastrand::Rng,
    full: bool,
    next_u: i32,
}

impl Model {
    fn new(identity: ReplicaIdentity, seed: u64) -> Model {
        Model {
            rows: BTreeMap::new(),
            random: fastrand::Rng::with_seed(seed),
            full: identity == ReplicaIdentity::Full,
            next_u: 0,
        }
    }

    fn assert_equals(&self, standby: &Standby, seed: u64) {
        let expected: Vec<String> =
            self.rows.iter().map(|(id, (u, a, b))| format!("({id},{u},{a},{b})")).collect();
        let found = standby.rows("SELECT id, u, a, b FROM t ORDER BY id");
        assert_eq!(found, expected.join(";"), "seed {seed}");
    }

    fn row((id, (u, a, b)): (&i32, &(i32, String, String))) -> Vec<V> {
        vec![int(*id), int(*u), text(a), text(b)]
    }

    fn old(&self, id: i32) -> Vec<V> {
        match self.full {
            true => Self::row((&id, &self.rows[&id])),
            false => vec![int(id), V::Null, V::Null, V::Null],
        }
    }

    fn some_id(&mut self) -> Option<i32> {
        let at = self.random.usize(0..self.rows.len().max(1));
        self.rows.keys().nth(at).copied()
    }

    fn word(&mut self) -> String {
        format!("w{}", self.random.u32(0..1_000_000))
    }

    /// One statement's worth of changes.
    fn step(&mut self, table: &Arc<Relation>, stream: &mut Stream) {
        match self.random.u32(0..100) {
            0..40 => self.insert(table, stream),
            40..70 => self.update(table, stream),
            70..80 => self.move_key(table, stream),
            80..84 => self.swap(table, stream),
            84..99 => {
                let Some(id) = self.some_id() else { return };
                stream.delete(table, &self.old(id));
                self.rows.remove(&id);
            }
            _ if self.random.u32(0..10) == 0 => {
                stream.truncate(table);
                self.rows.clear();
            }
            _ => {}
        }
    }

    fn insert(&mut self, table: &Arc<Relation>, stream: &mut Stream) {
        let id = self.random.i32(0..500);
        if self.rows.contains_key(&id) {
            return;
        }
        self.next_u += 1;
        let row = (self.next_u, self.word(), self.word());
        stream.insert(table, &Self::row((&id, &row)));
        self.rows.insert(id, row);
    }

    /// Leaves `a`, `b` or both as they are, as an unchanged TOAST value is.
    fn update(&mut self, table: &Arc<Relation>, stream: &mut Stream) {
        let Some(id) = self.some_id() else { return };
        let old = self.full.then(|| self.old(id));
        let (keep_a, keep_b) = (self.random.bool(), self.random.bool());
        let (a, b) = (self.word(), self.word());
        let row = self.rows.get_mut(&id).unwrap();
        let mut new = vec![int(id), int(row.0), V::Unchanged, V::Unchanged];
        if !keep_a {
            new[2] = text(&a);
            row.1 = a;
        }
        if !keep_b {
            new[3] = text(&b);
            row.2 = b;
        }
        stream.update(table, old.as_deref(), &new);
    }

    fn move_key(&mut self, table: &Arc<Relation>, stream: &mut Stream) {
        let (Some(id), to) = (self.some_id(), self.random.i32(0..500)) else { return };
        if self.rows.contains_key(&to) {
            return;
        }
        let old = self.old(id);
        let mut row = self.rows.remove(&id).unwrap();
        row.1 = self.word();
        stream.update(table, Some(&old), &[int(to), int(row.0), text(&row.1), V::Unchanged]);
        self.rows.insert(to, row);
    }

    /// Two rows exchange their unique value over a third: only the exact order gets there.
    fn swap(&mut self, table: &Arc<Relation>, stream: &mut Stream) {
        let (Some(one), Some(two)) = (self.some_id(), self.some_id()) else { return };
        if one == two {
            return;
        }
        let (u_one, u_two) = (self.rows[&one].0, self.rows[&two].0);
        for (id, u) in [(one, -1), (two, u_one), (one, u_two)] {
            let old = self.full.then(|| self.old(id));
            self.rows.get_mut(&id).unwrap().0 = u;
            stream.update(table, old.as_deref(), &[int(id), int(u), V::Unchanged, V::Unchanged]);
        }
    }
}

async fn random_changes(database: &str, identity: ReplicaIdentity, seed: u64) {
    let standby = Standby::new(database, SCHEMA);
    let table = keyed(identity);
    let mut model = Model::new(identity, seed);
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    for round in 0..150 {
        // from a few to a few hundred: in order, and by sets
        for _ in 0..model.random.usize(1..if round % 3 == 0 { 600 } else { 30 }) {
            model.step(&table, &mut stream);
        }
        let part = model.random.u32(0..4) == 0;
        let batch = if part { stream.part() } else { stream.commit() };
        target.apply(batch).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    target.apply(stream.commit()).await.unwrap();
    model.assert_equals(&standby, seed);
    assert_eq!(standby.rows("SELECT DISTINCT extra FROM t"), "(5)");
}

#[tokio::test]
async fn random_changes_with_keys_arrive() {
    random_changes("random_default", ReplicaIdentity::Default, 1).await;
}

#[tokio::test]
async fn random_changes_with_whole_old_rows_arrive() {
    random_changes("random_full", ReplicaIdentity::Full, 2).await;
}

/// Batches that are small beside the table, so that many have no row in common; and unique values that go
/// from a row of one batch to a row of the next, which no key shows.
#[tokio::test]
async fn random_changes_side_by_side_arrive() {
    let standby = Standby::new("random_beside", SCHEMA);
    let table = keyed(ReplicaIdentity::Default);
    let seed = 3;
    let mut model = Model::new(ReplicaIdentity::Default, seed);
    let mut stream = Stream::after(1000);
    let mut batches = Vec::new();
    for round in 0..400 {
        for _ in 0..model.random.usize(1..if round < 20 { 100 } else { 12 }) {
            model.step(&table, &mut stream);
        }
        batches.push(stream.commit());
    }
    let mut target = beside::target(&standby, 3);
    target.open(&standby.source()).await.unwrap();
    beside::apply_all(&mut target, batches).await;
    model.assert_equals(&standby, seed);
}

#[tokio::test]
async fn an_update_leaves_alone_what_did_not_come() {
    let standby = Standby::new("unchanged", SCHEMA);
    let table = keyed(ReplicaIdentity::Default);
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    for id in 0..100 {
        stream.insert(&table, &[int(id), int(id), text("a"), text("big")]);
    }
    target.apply(stream.commit()).await.unwrap();
    standby.execute("UPDATE t SET extra = 6");
    // keys move far away and back again, never onto each other
    for id in 0..100 {
        let old = [int(id), V::Null, V::Null, V::Null];
        stream.update(&table, Some(&old), &[int(id + 1000), int(id), text("moved"), V::Unchanged]);
        stream.update(&table, None, &[int(id + 1000), int(id), V::Unchanged, V::Unchanged]);
    }
    target.apply(stream.commit()).await.unwrap();
    assert_eq!(
        standby.rows("SELECT a, b, extra, count(*), min(id), max(id) FROM t GROUP BY 1, 2, 3"),
        "(moved,big,6,100,1000,1099)"
    );
}

#[tokio::test]
async fn one_of_several_equal_rows_is_meant() {
    let standby = Standby::new("bag", SCHEMA);
    let bag = relation("bag", ReplicaIdentity::Full, vec![int_column("x"), text_column("y")]);
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    let (twin, null) = ([int(1), text("twin")], [V::Null, V::Null]);
    (0..50).for_each(|_| stream.insert(&bag, &twin));
    (0..3).for_each(|_| stream.insert(&bag, &null));
    stream.delete(&bag, &twin);
    stream.update(&bag, Some(&twin), &[int(2), V::Unchanged]);
    stream.update(&bag, Some(&null), &[int(3), V::Null]);
    stream.delete(&bag, &null);
    target.apply(stream.commit()).await.unwrap();
    assert_eq!(
        standby.rows("SELECT x, y, count(*) FROM bag GROUP BY 1, 2 ORDER BY 1"),
        "(1,twin,48);(2,twin,1);(3,,1);(,,1)"
    );
}

#[tokio::test]
async fn constraints_between_tables_do_not_order_the_changes() {
    let standby = Standby::new("between", SCHEMA);
    let columns = vec![key(int_column("id")), int_column("parent")];
    let child = relation("child", ReplicaIdentity::Default, columns);
    let parent = relation("parent", ReplicaIdentity::Default, vec![key(int_column("id"))]);
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    for id in 0..40 {
        stream.insert(&child, &[int(id), int(id)]);
        stream.insert(&parent, &[int(id)]);
    }
    target.apply(stream.commit()).await.unwrap();
    assert_eq!(
        standby.rows("SELECT count(*) FROM child JOIN parent ON parent = parent.id"),
        "(40)"
    );
    // one TRUNCATE of both, as the source had it, and life after it
    stream.truncate(&parent);
    let both = stream.lsn();
    let mut batch = stream.commit();
    let mut other = batch.changes[0].clone();
    other.relation = Arc::clone(&child);
    assert_eq!(other.lsn, both);
    batch.changes.push(other);
    target.apply(batch).await.unwrap();
    stream.insert(&parent, &[int(7)]);
    target.apply(stream.commit()).await.unwrap();
    assert_eq!(standby.rows("SELECT (SELECT count(*) FROM child), id FROM parent"), "(0,7)");
}
