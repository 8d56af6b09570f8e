//! The rows that are there when the stream begins.

use std::sync::Arc;

use rsrepl_sidecar::batch::Change;
use rsrepl_sidecar::config::Mode;
use rsrepl_sidecar::copy::{
    Chunk, ColumnForm, CopiedTable, CopyTarget, Form, Format, Leaf, Pages, Records, Room, Rows,
    Snapshot, Standing, Written,
};
use rsrepl_sidecar::error::{Error, Kind, Result};
use rsrepl_sidecar::target::Target as _;
use rsrepl_sidecar::target::clickhouse::{ClickHouseCopy, ClickHouseOptions, ClickHouseTarget};
use rsrepl_wire::{Lsn, Relation, ReplicaIdentity};

use crate::feed::*;
use crate::rig::{GROUPS, Rig, apply, source};

/// A table of one leaf, which has its oid.
pub fn copied(relation: &Arc<Relation>) -> Arc<CopiedTable> {
    let (schema, name) = (relation.schema.clone(), relation.name.clone());
    let leaf = Leaf {
        oid: relation.oid,
        schema,
        name,
        filenode: 1,
        pages: 100,
        bytes: 100 * 8192,
        attributes: Vec::new(),
        shape: "shape".into(),
    };
    let relation = Arc::clone(relation);
    Arc::new(CopiedTable { relation, leaves: vec![leaf], filter: None, whole: true, changes: true })
}

pub fn snapshot(lsn: u64) -> Snapshot {
    Snapshot { lsn: Lsn(lsn), xmin: lsn }
}

/// As a server sends the rows: `None` is NULL.
pub fn sent(rows: &[Vec<Option<Vec<u8>>>]) -> Vec<u8> {
    let mut out = b"PGCOPY\n\xFF\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for row in rows {
        out.extend_from_slice(&(row.len() as i16).to_be_bytes());
        for cell in row {
            let len = cell.as_ref().map_or(-1, |value| value.len() as i32);
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(cell.as_deref().unwrap_or_default());
        }
    }
    out.extend_from_slice(&(-1i16).to_be_bytes());
    out
}

/// A row of an integer and a text.
fn row(id: i32, v: &str) -> Vec<Option<Vec<u8>>> {
    vec![Some(id.to_be_bytes().to_vec()), Some(v.as_bytes().to_vec())]
}

/// A target, and what was accepted by it.
pub struct Copy {
    pub target: ClickHouseCopy,
    pub tables: Vec<Arc<CopiedTable>>,
}

impl Copy {
    pub async fn open(options: ClickHouseOptions, tables: &[Arc<Relation>]) -> (Copy, Standing) {
        let mut target = ClickHouseCopy::new(options);
        let standing = target.open(&source()).await.unwrap();
        (Copy { target, tables: tables.iter().map(copied).collect() }, standing)
    }

    /// Begins a round.
    pub async fn round(&mut self, lsn: u64) {
        self.target.accept(&self.tables, ("", Lsn(0))).await.unwrap();
        self.target.caught_up(snapshot(lsn)).await.unwrap();
    }

    /// Some pages of a table.
    pub async fn chunk(&self, table: usize, lsn: u64, first: u32) -> Chunk {
        let table = Arc::clone(&self.tables[table]);
        let columns = table.relation.columns.len();
        let form = Form { format: Format::Binary, columns: vec![ColumnForm::Native; columns] };
        let (leaf, pages) = (table.leaves[0].clone(), Pages { first, end: Some(first + 10) });
        Chunk { table, leaf, pages, snapshot: snapshot(lsn), since: None, form }
    }

    /// Writes bytes to the end of them, or breaks off there.
    pub async fn write(&self, chunk: &Chunk, bytes: &[u8], whole: bool) -> Result<Written> {
        let (sender, rows) = Rows::channel();
        let room = Room::new();
        let mut writer = self.target.writer(0).await?;
        let send = async {
            for piece in bytes.chunks(7) {
                if !sender.send(room.take(piece.to_vec().into()).await.unwrap()).await {
                    return;
                }
            }
            if whole {
                sender.end().await;
            }
        };
        let (written, ()) = tokio::join!(writer.write(chunk, rows), send);
        written
    }

    pub async fn copy(&self, table: usize, lsn: u64, first: u32, rows: &[Vec<Option<Vec<u8>>>]) {
        let bytes = sent(rows);
        let chunk = self.chunk(table, lsn, first).await;
        let written = self.write(&chunk, &bytes, true).await.unwrap();
        assert_eq!(written, Written { rows: rows.len() as u64, bytes: bytes.len() as u64 });
    }

    /// The server has the rows, and a record that they were begun: killed in between.
    async fn die_before_the_record(
        &self,
        rig: &Rig,
        (table, lsn, first): (usize, u64, u32),
        rows: &[Vec<Option<Vec<u8>>>],
    ) {
        self.copy(table, lsn, first, rows).await;
        let oid = self.tables[table].relation.oid;
        rig.server.query(&format!(
            "INSERT INTO mirror._rsrepl_copies
             SELECT * REPLACE ('begun' AS state, sequence + 1 AS sequence) FROM mirror._rsrepl_copies FINAL
             WHERE source_oid = {oid} AND first_page = {first}"
        ));
    }

    /// Reading ends in the middle.
    pub async fn break_off(
        &self,
        table: usize,
        lsn: u64,
        first: u32,
        rows: &[Vec<Option<Vec<u8>>>],
    ) {
        let chunk = self.chunk(table, lsn, first).await;
        let error = self.write(&chunk, &sent(rows), false).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Connection);
    }

    async fn again(&mut self) -> Records {
        match self.target.open(&source()).await.unwrap() {
            Standing::Unfinished(records) => records,
            other => panic!("{other:?}"),
        }
    }
}

/// `(table, first page, shape, LSN)` of each record; the LSN is 0 when it was only begun.
fn shown(records: &Records) -> Vec<(u32, u32, &str, u64)> {
    let mut shown: Vec<_> = records
        .chunks
        .iter()
        .map(|c| {
            let lsn = if c.snapshot.is_begun() { 0 } else { c.snapshot.lsn.0 };
            (c.table, c.pages.first, c.shape.as_str(), lsn)
        })
        .collect();
    shown.sort();
    shown
}

fn two_columns(oid: u32, name: &str, identity: ReplicaIdentity, keyed: bool) -> Arc<Relation> {
    let id = if keyed { key(int_column("id")) } else { int_column("id") };
    table(oid, name, identity, vec![id, text_column("v")])
}

fn ended(mut changes: Vec<Change>, end: u64) -> Vec<Change> {
    changes.iter_mut().for_each(|change| change.end_lsn = Lsn(end));
    changes
}

#[tokio::test]
async fn what_is_copied_twice_and_caught_up_with_is_what_the_last_snapshot_shows() {
    let rig = Rig::start();
    let t = two_columns(1, "t", ReplicaIdentity::Default, true);
    let (mut copy, standing) = Copy::open(rig.options(), &[Arc::clone(&t)]).await;
    assert_eq!(standing, Standing::New);
    copy.round(100).await;
    let first = [row(1, "a"), row(2, "b"), row(3, "c"), row(4, "d")];
    for _ in 0..2 {
        copy.copy(0, 100, 0, &first).await;
    }
    copy.break_off(0, 100, 10, &[row(11, "lost")]).await;
    assert_eq!(rig.rows("id, v", "t"), ["1\ta", "2\tb", "3\tc", "4\td"]);
    // nobody streams to what is half there
    let mut target = ClickHouseTarget::new(rig.options(), GROUPS).unwrap();
    refusal(target.open(&source()).await, &["not finished", "rsrepl copy"]);
    // another process, which goes on under a later snapshot
    let (mut copy, standing) = Copy::open(rig.options(), &[Arc::clone(&t)]).await;
    let Standing::Unfinished(records) = standing else { panic!("{standing:?}") };
    assert_eq!(records.caught_up, snapshot(100));
    assert_eq!(shown(&records), [(1, 0, "shape", 100), (1, 10, "shape", 0)]);
    copy.target.accept(&copy.tables, ("", Lsn(0))).await.unwrap();
    let changes = vec![
        insert(&t, 110, &[int(5), text("e")]),
        delete(&t, 111, &[int(2), text("b")]),
        update(&t, 112, &[int(3), text("C")]),
        update_from(&t, 113, &[int(4), text("d")], &[int(6), text("d")]),
        delete(&t, 114, &[int(77), text("never there")]),
    ];
    for _ in 0..2 {
        // it may come again
        copy.target.catch_up(ended(changes.clone(), 200)).await.unwrap();
        assert_eq!(rig.rows("id, v", "t"), ["1\ta"]);
    }
    copy.target.caught_up(snapshot(200)).await.unwrap();
    let again = Chunk { since: Some(snapshot(100)), ..copy.chunk(0, 200, 0).await };
    let since = sent(&[row(3, "C"), row(5, "e"), row(6, "d")]);
    // broken off, what was recorded still holds: the rows that were never read again are there
    copy.write(&again, &since, false).await.unwrap_err();
    assert_eq!(shown(&copy.again().await), [(1, 0, "shape", 100), (1, 10, "shape", 0)]);
    copy.target.finish(Lsn(200)).await.expect_err("something is not done");
    copy.target.accept(&copy.tables, ("", Lsn(0))).await.unwrap();
    copy.write(&again, &since, true).await.unwrap();
    copy.copy(0, 200, 10, &[row(11, "k")]).await;
    let expected = ["1\ta", "3\tC", "5\te", "6\td", "11\tk"];
    assert_eq!(rig.rows("id, v", "t"), expected);
    let records = copy.again().await;
    assert_eq!(records.caught_up, snapshot(200));
    assert_eq!(shown(&records), [(1, 0, "shape", 200), (1, 10, "shape", 200)]);
    copy.target.finish(Lsn(200)).await.unwrap();
    assert_eq!(copy.target.open(&source()).await.unwrap(), Standing::Positioned(Lsn(200)));
    assert_eq!(rig.rows("state", "_rsrepl_copies").iter().filter(|s| *s != "forgotten").count(), 0);
    // the stream is newer than all of it
    let mut target = rig.target().await;
    let changes =
        vec![delete(&t, 201, &[int(1), text("a")]), update(&t, 202, &[int(5), text("E")])];
    apply(&mut target, changes, 210).await.unwrap();
    assert_eq!(rig.rows("id, v", "t"), ["3\tC", "5\tE", "6\td", "11\tk"]);
}

#[tokio::test]
async fn rows_without_a_key_come_once() {
    let rig = Rig::start();
    let t = two_columns(1, "log", ReplicaIdentity::Full, false);
    let u = two_columns(2, "other", ReplicaIdentity::Full, false);
    let (mut copy, _) = Copy::open(rig.options(), &[Arc::clone(&t), u]).await;
    copy.round(100).await;
    let rows = [row(1, "x"), row(1, "x"), row(1, "x"), row(2, "y")];
    copy.copy(0, 100, 0, &rows).await;
    copy.copy(0, 100, 10, &rows[..1]).await;
    copy.copy(1, 100, 0, &rows).await;
    assert_eq!(rig.rows("id, v", "log"), ["1\tx", "1\tx", "1\tx", "1\tx", "2\ty"]);
    // what may be there comes again, with the places that it had
    copy.die_before_the_record(&rig, (0, 100, 20), &rows).await;
    let records = copy.again().await;
    let of_log = [(1, 0, "shape", 100), (1, 10, "shape", 100), (1, 20, "shape", 0)];
    assert_eq!(shown(&records), [&of_log[..], &[(2, 0, "shape", 100)]].concat());
    copy.target.accept(&copy.tables, ("", Lsn(0))).await.unwrap();
    let begun = Some(snapshot(100).begun());
    let again = Chunk { since: begun, ..copy.chunk(0, 100, 20).await };
    copy.write(&again, &sent(&rows), true).await.unwrap();
    assert_eq!(rig.rows("id, v", "log").len(), 9);
    // under another snapshot they would not have: the table starts over, alone
    let table = Arc::clone(&copy.tables[0]);
    copy.target.start_over(1, Some(&table)).await.unwrap();
    assert_eq!(rig.rows("id, v", "log"), [""; 0]);
    copy.target.caught_up(snapshot(200)).await.unwrap();
    copy.copy(0, 200, 0, &rows).await;
    assert_eq!(shown(&copy.again().await), [(1, 0, "shape", 200), (2, 0, "shape", 100)]);
    copy.target.finish(Lsn(200)).await.expect_err("the other one is not of this snapshot");
    copy.target.accept(&copy.tables, ("", Lsn(0))).await.unwrap();
    let other = Arc::clone(&copy.tables[1]);
    copy.target.start_over(2, Some(&other)).await.unwrap();
    copy.copy(1, 200, 0, &rows).await;
    copy.target.finish(Lsn(100)).await.expect_err("nor is it of another");
    copy.target.finish(Lsn(200)).await.unwrap();
    let mut target = rig.target().await;
    apply(&mut target, vec![delete(&t, 201, &[int(1), text("x")])], 210).await.unwrap();
    assert_eq!(rig.rows("id, v", "log"), ["1\tx", "1\tx", "2\ty"]);
    assert_eq!(rig.rows("id, v", "other"), ["1\tx", "1\tx", "1\tx", "2\ty"]);
}

#[tokio::test]
async fn a_history_begins_with_what_is_copied() {
    let rig = Rig::start();
    let options = ClickHouseOptions { mode: Mode::History, ..rig.options() };
    let t = two_columns(1, "t", ReplicaIdentity::Default, true);
    let (mut copy, _) = Copy::open(options, &[Arc::clone(&t)]).await;
    copy.round(100).await;
    for _ in 0..2 {
        copy.copy(0, 100, 0, &[row(1, "a"), row(2, "b")]).await;
    }
    copy.again().await;
    copy.target.accept(&copy.tables, ("", Lsn(0))).await.unwrap();
    copy.die_before_the_record(&rig, (0, 100, 10), &[row(3, "c"), row(4, "d")]).await;
    copy.again().await;
    copy.target.accept(&copy.tables, ("", Lsn(0))).await.unwrap();
    let changes = vec![update(&t, 110, &[int(2), text("B")])];
    copy.target.catch_up(ended(changes, 120)).await.unwrap();
    copy.target.caught_up(snapshot(200)).await.unwrap();
    // rows that were not written since come too: those of a long transaction, and of a chunk that was only begun
    for (first, since, rows) in [
        (0, snapshot(100), vec![row(1, "a"), row(2, "B")]),
        (10, snapshot(100).begun(), vec![row(3, "c"), row(4, "d"), row(5, "e")]),
    ] {
        let again = Chunk { since: Some(since), ..copy.chunk(0, 200, first).await };
        for whole in [false, true] {
            let written = copy.write(&again, &sent(&rows), whole).await;
            assert_eq!(written.is_ok(), whole);
        }
    }
    copy.target.finish(Lsn(200)).await.unwrap();
    let query = "SELECT _rsrepl_operation, id, v, _rsrepl_lsn, _rsrepl_xid, _rsrepl_absent FROM mirror.t FINAL
         ORDER BY _rsrepl_version";
    let found = rig.server.query(query);
    let expected = [
        "copy\t1\ta\t100\t0\t[]",
        "copy\t2\tb\t100\t0\t[]",
        "copy\t3\tc\t100\t0\t[]",
        "copy\t4\td\t100\t0\t[]",
        "delete\t2\t\\N\t110\t0\t['v']",
        "copy\t2\tB\t200\t0\t[]",
        "copy\t5\te\t200\t0\t[]",
    ];
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
}

fn refusal<T: std::fmt::Debug>(result: Result<T>, parts: &[&str]) -> Error {
    let error = result.expect_err("refused");
    for part in parts {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    error
}

#[tokio::test]
async fn what_cannot_be_copied_is_named() {
    let rig = Rig::start();
    let t = two_columns(1, "t", ReplicaIdentity::Default, true);
    let mut target = rig.target().await;
    apply(&mut target, vec![insert(&t, 10, &[int(1), text("a")])], 20).await.unwrap();
    rig.server.query("TRUNCATE TABLE mirror._rsrepl_positions");
    // of somebody else, as far as anybody can tell
    let dates = table(2, "d", ReplicaIdentity::Default, vec![key(int_column("id")), date("at")]);
    let twin = table(3, "d", ReplicaIdentity::Default, vec![key(int_column("id"))]);
    let twin = Arc::new(Relation { schema: "twin".into(), ..(*twin).clone() });
    let (mut copy, standing) =
        Copy::open(rig.options(), &[Arc::clone(&t), Arc::clone(&dates), twin]).await;
    assert_eq!(standing, Standing::New);
    let error = refusal(
        copy.target.accept(&copy.tables, ("", Lsn(0))).await,
        &["`mirror`.`t` has rows", "public.d and twin.d would both", "TRUNCATE TABLE"],
    );
    assert_eq!(error.kind(), Kind::Setup);
    // a value as in the stream
    let (mut copy, _) = Copy::open(rig.options(), &[dates]).await;
    copy.round(100).await;
    let chunk = copy.chunk(0, 100, 0).await;
    let infinite = [Some(7i32.to_be_bytes().to_vec()), Some(i32::MAX.to_be_bytes().to_vec())];
    let written = copy.write(&chunk, &sent(&[infinite.to_vec()]), true).await;
    let error = refusal(written, &["public.d", "key (7)", "column at", "an infinity", "0/64"]);
    assert_eq!(error.kind(), Kind::Row);
    // that another table has been begun says nothing of this one
    let tables: Vec<_> = [&copy.tables[0].relation, &t].map(Arc::clone).to_vec();
    let (mut copy, _) = Copy::open(rig.options(), &tables).await;
    refusal(copy.target.accept(&copy.tables, ("", Lsn(0))).await, &["`mirror`.`t` has rows"]);
}

fn date(name: &str) -> rsrepl_wire::Column {
    column(name, rsrepl_wire::text::oid::DATE, rsrepl_wire::Encoding::Fixed(4))
}
