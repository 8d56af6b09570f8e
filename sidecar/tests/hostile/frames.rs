//! Frames that are right, and what can be made of them.

use fastrand::Rng;
use rsrepl_wire::{
    Begin, Column, Commit, Encoding, FrameWriter, Lsn, Relation, ReplicaIdentity, RowShape,
    StreamCommit, TypeKind,
};

/// WAL between the ends of two transactions of ours.
pub const STEP: u64 = 100;

/// What `v` is of rows that come whole.
pub const HONEST: &[u8] = b"honest";

fn column(number: u16, name: &str, oid: u32, type_name: &str, encoding: Encoding) -> Column {
    Column {
        name: name.into(),
        number,
        key: number == 1,
        not_null: number == 1,
        generated: false,
        type_oid: oid,
        base_oid: oid,
        typmod: -1,
        kind: TypeKind::Base,
        element_oid: 0,
        element_kind: TypeKind::Base,
        type_schema: "pg_catalog".into(),
        type_name: type_name.into(),
        encoding,
    }
}

/// `CREATE TABLE t (id int PRIMARY KEY, v text)`.
pub fn table(oid: u32) -> Relation {
    Relation {
        oid,
        schema: "public".into(),
        name: "t".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![
            column(1, "id", 23, "int4", Encoding::Fixed(4)),
            column(2, "v", 25, "text", Encoding::Varlena),
        ],
    }
}

fn begin_of(n: u32) -> Begin {
    let end = u64::from(n) * STEP;
    Begin {
        xid: n,
        final_lsn: Lsn(end - 10),
        end_lsn: Lsn(end),
        commit_time: 0,
        origin: String::new(),
    }
}

/// A frame that is made of the parts of transaction `n` which are asked for.
fn part(n: u32, begins: bool, v: Option<&[u8]>, commits: bool) -> Vec<u8> {
    let begin = begin_of(n);
    let mut writer = FrameWriter::new();
    writer.start(begin.final_lsn, n);
    if begins {
        writer.begin(&begin);
        writer.relation(&table(1));
    }
    if let Some(v) = v {
        let shape = RowShape { columns: 2, nulls: false, unchanged: false };
        writer.insert(begin.final_lsn, 1, shape, |row| {
            row.fixed(&n.to_le_bytes());
            row.variable(v);
        });
    }
    if commits {
        let Begin { final_lsn, end_lsn, commit_time, .. } = begin;
        writer.commit(&Commit { final_lsn, end_lsn, commit_time });
    }
    writer.finish().to_vec()
}

/// Transaction `n`, which inserts the row `n` and ends at `n` times [`STEP`].
pub fn transaction(n: u32, v: &[u8]) -> Vec<u8> {
    part(n, true, Some(v), true)
}

/// It begins, and does not end.
pub fn beginning(n: u32) -> Vec<u8> {
    part(n, true, Some(b"begun"), false)
}

/// It goes on.
pub fn middle(n: u32) -> Vec<u8> {
    part(n, false, Some(b"going on"), false)
}

/// It ends.
pub fn end(n: u32) -> Vec<u8> {
    part(n, false, None, true)
}

/// Of a transaction in progress.
pub fn streamed(xid: u32) -> Vec<u8> {
    let mut writer = FrameWriter::new();
    writer.start_stream(Lsn(7), xid);
    writer.truncate(Lsn(7), false, false, &[1]);
    writer.finish().to_vec()
}

/// One that never was in progress has committed.
pub fn stream_commit(n: u32) -> Vec<u8> {
    let mut writer = FrameWriter::new();
    writer.start_stream(Lsn(7), n);
    writer.stream_commit(&StreamCommit { size: u64::MAX, begin: begin_of(n) });
    writer.finish().to_vec()
}

/// Some of its bytes are others now, and the checksum fits again.
pub fn changed(frame: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    for _ in 0..rng.usize(1..5) {
        // behind version and flags, mostly: what a checksum alone keeps out is tested elsewhere
        let at =
            if rng.u8(..) < 32 { rng.usize(..bytes.len()) } else { rng.usize(16..bytes.len()) };
        let random = rng.u8(..);
        bytes[at] = *rng.choice(&[0, 1, 0x7F, 0x80, 0xFF, random]).expect("some");
    }
    with_checksum(bytes)
}

pub fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = rsrepl_wire::frame::checksum(&bytes).to_le_bytes();
    bytes[4..8].copy_from_slice(&sum);
    bytes
}

/// The seeds of the fuzzer, and what it found.
pub fn corpus() -> Vec<Vec<u8>> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../wire/fuzz/corpus/frame");
    let mut paths: Vec<_> =
        std::fs::read_dir(dir).expect("the corpus").map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}
