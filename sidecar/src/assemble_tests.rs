use bytes::Bytes;
use proptest::prelude::*;
use rsrepl_wire::{Column, Encoding, Frame, FrameWriter, ReplicaIdentity, RowShape, TypeKind};

use super::*;
use crate::described::DESCRIBED_MAX;

pub(crate) fn relation(name: &str) -> Relation {
    Relation {
        oid: 1,
        schema: "public".into(),
        name: name.into(),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![Column {
            name: "id".into(),
            number: 1,
            key: true,
            not_null: true,
            generated: false,
            type_oid: 23,
            base_oid: 23,
            typmod: -1,
            kind: TypeKind::Base,
            element_oid: 0,
            element_kind: TypeKind::Base,
            type_schema: "pg_catalog".into(),
            type_name: "int4".into(),
            encoding: Encoding::Fixed(4),
        }],
    }
}

/// The frames of transaction `n` (it ends at 10 × n) with `rows` inserts, `per_frame` in each.
pub(crate) fn transaction(n: u32, rows: usize, per_frame: usize) -> Vec<Frame> {
    let end_lsn = Lsn(u64::from(n) * 10);
    let final_lsn = Lsn(end_lsn.0 - 1);
    let frames = rows.div_ceil(per_frame).max(1);
    let mut left = rows;
    let mut out = Vec::new();
    for index in 0..frames {
        let mut writer = FrameWriter::new();
        writer.start(final_lsn, n);
        if index == 0 {
            let origin = String::new();
            writer.begin(&Begin { xid: n, final_lsn, end_lsn, commit_time: 0, origin });
            writer.relation(&relation("t"));
        }
        for _ in 0..per_frame.min(left) {
            let shape = RowShape { columns: 1, nulls: false, unchanged: false };
            writer.insert(final_lsn, 1, shape, |row| row.fixed(&n.to_le_bytes()));
        }
        left = left.saturating_sub(per_frame);
        if index == frames - 1 {
            writer.commit(&Commit { final_lsn, end_lsn, commit_time: 0 });
        }
        out.push(Frame::parse(Bytes::copy_from_slice(writer.finish())).unwrap());
    }
    out
}

/// A transaction that ends at 10 × n: a row, a message, a row of a table that has another name by then.
fn altering(n: u32, prefix: &str, content: &str, transactional: bool) -> Frame {
    let mut frame = transaction(n, 0, 1).remove(0);
    let mut writer = FrameWriter::new();
    writer.start(Lsn(u64::from(n) * 10 - 1), n);
    for message in frame.messages().map(Result::unwrap) {
        match message {
            Message::Begin(begin) => writer.begin(&begin),
            Message::Relation(relation) => {
                let shape = RowShape { columns: 1, nulls: false, unchanged: false };
                let at = Lsn(u64::from(n) * 10 - 5);
                writer.relation(&relation);
                writer.insert(at, 1, shape, |row| row.fixed(&n.to_le_bytes()));
                writer.logical(Lsn(at.0 + 1), transactional, prefix, content.as_bytes());
                writer.relation(&Relation { name: "u".into(), ..relation });
                writer.insert(Lsn(at.0 + 2), 1, shape, |row| row.fixed(&n.to_le_bytes()));
            }
            Message::Commit(commit) => writer.commit(&commit),
            _ => {}
        }
    }
    frame = Frame::parse(Bytes::copy_from_slice(writer.finish())).unwrap();
    frame
}

#[test]
fn a_schema_change_has_its_place_in_the_stream() {
    let content = r#"{"version":1,"command":"ALTER TABLE","table":{"oid":1,"schema":"public","name":"u",
        "columns":[{"number":1,"name":"id","type":"integer"}]}}"#;
    let mut assembler = Assembler::resume(&Checkpoint::default(), Lsn(10));
    for (sequence, n) in (0..).zip([1, 2]) {
        let frame = altering(n, schema::PREFIX, content, true);
        assembler.push(sequence, Item::Frame(frame)).unwrap();
    }
    let (batch, _) = assembler.take();
    let told: Vec<_> = batch
        .changes
        .iter()
        .map(|c| {
            (c.relation.name.as_str(), c.end_lsn.0, matches!(c.operation, Operation::Schema(_)))
        })
        .collect();
    assert_eq!(told, [("t", 20, false), ("u", 20, true), ("u", 20, false)], "the first is skipped");

    // those of others are none, and what cannot be read stops the target
    for (prefix, transactional) in [("other", true), (schema::PREFIX, false)] {
        let mut assembler = Assembler::default();
        assembler.push(0, Item::Frame(altering(1, prefix, "{", transactional))).unwrap();
        assert_eq!(assembler.take().0.changes.len(), 2);
    }
    let frame = altering(1, schema::PREFIX, "{", true);
    let error = Assembler::default().push(0, Item::Frame(frame)).unwrap_err();
    assert_eq!(error.kind(), Kind::Setup, "{error}");
}

/// Transactions 1, 2, … as a plugin sends them that holds some back at their commit: frames of at most
/// `per_frame` rows, or of any number when `hold` says so.
fn combined(sizes: &[usize], per_frame: usize, hold: &[bool]) -> Vec<Frame> {
    let mut out = Vec::new();
    let mut writer = FrameWriter::new();
    let (mut open, mut in_frame) = (false, 0);
    for (index, rows) in sizes.iter().enumerate() {
        let n = index as u32 + 1;
        let end_lsn = Lsn(u64::from(n) * 10);
        let final_lsn = Lsn(end_lsn.0 - 1);
        let start = |writer: &mut FrameWriter, open: &mut bool| {
            if !std::mem::replace(open, true) {
                writer.start(final_lsn, n);
            }
        };
        start(&mut writer, &mut open);
        writer.begin(&Begin { xid: n, final_lsn, end_lsn, commit_time: 0, origin: String::new() });
        writer.relation(&relation("t"));
        for _ in 0..*rows {
            start(&mut writer, &mut open);
            let shape = RowShape { columns: 1, nulls: false, unchanged: false };
            writer.insert(final_lsn, 1, shape, |row| row.fixed(&n.to_le_bytes()));
            in_frame += 1;
            if in_frame >= per_frame {
                out.push(Frame::parse(Bytes::copy_from_slice(writer.finish())).unwrap());
                open = writer.go_on();
                in_frame = 0;
            }
        }
        start(&mut writer, &mut open);
        writer.commit(&Commit { final_lsn, end_lsn, commit_time: 0 });
        if n as usize == sizes.len() || !hold[index % hold.len()] {
            out.push(Frame::parse(Bytes::copy_from_slice(writer.finish())).unwrap());
            assert!(!writer.go_on());
            (open, in_frame) = (false, 0);
        }
    }
    out
}

fn feed(assembler: &mut Assembler, sequence: &mut u64, frames: Vec<Frame>) {
    for frame in frames {
        assert_eq!(assembler.push(*sequence, Item::Frame(frame)).unwrap(), Pushed::Gathered);
        *sequence += 1;
    }
}

#[test]
fn whole_transactions_come_together_and_the_part_of_the_next_waits() {
    let mut assembler = Assembler::default();
    let mut sequence = 0;
    feed(&mut assembler, &mut sequence, transaction(1, 2, 9));
    feed(&mut assembler, &mut sequence, transaction(2, 3, 9));
    let mut third = transaction(3, 4, 2);
    let rest = third.split_off(1);
    feed(&mut assembler, &mut sequence, third);
    let (batch, checkpoint) = assembler.take();
    assert_eq!(batch.changes.len(), 5);
    assert_eq!(batch.transactions, 2);
    assert_eq!(batch.commit.map(|position| position.lsn), Some(Lsn(20)));
    assert_eq!(checkpoint.map(|c| c.sequence), Some(2));
    assert_eq!(assembler.rows(), 2);
    feed(&mut assembler, &mut sequence, rest);
    let (batch, checkpoint) = assembler.take();
    assert_eq!((batch.changes.len(), batch.transactions), (4, 1));
    assert_eq!(checkpoint.map(|c| (c.sequence, c.position)), Some((4, Lsn(30))));
}

#[test]
fn a_large_transaction_comes_in_parts_and_a_cut_takes_them_back() {
    let mut assembler = Assembler::default();
    let mut sequence = 0;
    let frames = transaction(1, 4, 2);
    feed(&mut assembler, &mut sequence, frames[..1].to_vec());
    let (batch, checkpoint) = assembler.take();
    assert_eq!(batch.changes.len(), 2);
    assert!(batch.commit.is_none() && checkpoint.is_none());
    assert_eq!(assembler.push(sequence, Item::Cut).unwrap(), Pushed::TakeBack);
    sequence += 1;
    feed(&mut assembler, &mut sequence, frames);
    let (batch, checkpoint) = assembler.take();
    assert_eq!(batch.changes.len(), 4);
    assert_eq!(checkpoint.map(|c| c.sequence), Some(sequence));
}

#[test]
fn a_cut_after_the_commit_of_what_was_given_out_takes_nothing_back() {
    let mut assembler = Assembler::default();
    let mut sequence = 0;
    let frames = transaction(1, 4, 2);
    feed(&mut assembler, &mut sequence, frames[..1].to_vec());
    let _part = assembler.take();
    feed(&mut assembler, &mut sequence, frames[1..].to_vec());
    feed(&mut assembler, &mut sequence, transaction(2, 4, 2)[..1].to_vec());
    assert_eq!(assembler.push(sequence, Item::Cut).unwrap(), Pushed::Gathered);
    let (batch, _) = assembler.take();
    assert_eq!(batch.changes.len(), 2, "the rest of 1, nothing of 2");
    assert_eq!(batch.commit.map(|position| position.lsn), Some(Lsn(10)));
    assert_eq!(assembler.rows(), 0);
}

#[test]
fn a_change_of_an_unknown_table_or_outside_of_a_transaction_is_an_error() {
    let mut writer = FrameWriter::new();
    writer.start(Lsn(5), 1);
    writer.begin(&Begin {
        xid: 1,
        final_lsn: Lsn(9),
        end_lsn: Lsn(10),
        commit_time: 0,
        origin: String::new(),
    });
    writer.truncate(Lsn(6), false, false, &[77]);
    let frame = Frame::parse(Bytes::copy_from_slice(writer.finish())).unwrap();
    let error = Assembler::default().push(0, Item::Frame(frame)).unwrap_err();
    assert_eq!(error.kind(), Kind::Frame);
    assert!(error.to_string().contains("77"), "{error}");
    assert_eq!(error.lsn(), Some(Lsn(5)));
}

#[test]
fn progress_counts_only_between_transactions() {
    let mut assembler = Assembler::default();
    assembler.push(0, Item::Progress { lsn: Lsn(5), urgent: false }).unwrap();
    assert_eq!(assembler.progress().map(|p| (p.lsn, p.sequence)), Some((Lsn(5), 1)));
    let mut sequence = 1;
    feed(&mut assembler, &mut sequence, transaction(1, 2, 1)[..1].to_vec());
    assert_eq!(assembler.progress(), None);
}

proptest! {
    /// Invariant 2 in the pure part: with failures, restarts and re-sent transactions at any place,
    /// each row is given out exactly once in what ends up applied, in order.
    #[test]
    fn restarts_neither_lose_nor_double_rows(
        sizes in prop::collection::vec(0usize..6, 1..12),
        per_frame in 1usize..4,
        limit in 1usize..8,
        failures in prop::collection::vec(any::<bool>(), 40),
        hold in prop::collection::vec(any::<bool>(), 1..5),
    ) {
        let log = combined(&sizes, per_frame, &hold);
        let expected: Vec<u32> = sizes.iter().enumerate()
            .flat_map(|(n, rows)| std::iter::repeat_n(n as u32 + 1, *rows)).collect();
        let mut failures = failures.into_iter();
        let (mut durable, mut position) = (Vec::new(), Lsn::INVALID);
        let mut checkpoint = Checkpoint::default();
        'session: loop {
            // what the target has taken and would lose
            let mut pending = Vec::new();
            let mut assembler = Assembler::resume(&checkpoint, position);
            let mut next = checkpoint.sequence;
            loop {
                let ended = next as usize == log.len();
                if assembler.rows() >= limit || (ended && assembler.has_whole()) {
                    let (batch, after) = assembler.take();
                    pending.extend(batch.changes.iter().map(|change| match &change.operation {
                        Operation::Insert { new } => {
                            let n = u32::from_le_bytes(new.0[1..5].try_into().unwrap());
                            assert_eq!(change.end_lsn, Lsn(u64::from(n) * 10));
                            n
                        }
                        other => panic!("{other:?}"),
                    }));
                    if failures.next().unwrap_or(false) {
                        // before the target's commit
                        continue 'session;
                    }
                    if let Some(commit) = batch.commit {
                        durable.append(&mut pending);
                        position = commit.lsn;
                        if failures.next().unwrap_or(false) {
                            // committed, but nobody here knows it
                            continue 'session;
                        }
                        checkpoint = after.unwrap();
                    }
                    continue;
                }
                if ended {
                    break 'session;
                }
                assembler.push(next, Item::Frame(log[next as usize].clone())).unwrap();
                next += 1;
            }
        }
        prop_assert_eq!(durable, expected);
        prop_assert_eq!(position, Lsn(sizes.len() as u64 * 10));
    }
}

/// Of batches of any size, and of what is left when the stream is cut.
#[test]
fn a_batch_names_the_transactions_of_its_changes() {
    let mut assembler = Assembler::default();
    let mut sequence = 0;
    let check = |assembler: &mut Assembler, ends: &[u64]| {
        let (batch, _) = assembler.take();
        let mut named: Vec<_> = batch.changes.iter().map(|change| change.end_lsn).collect();
        named.dedup();
        assert_eq!(batch.ends.iter().map(|end| end.lsn).collect::<Vec<_>>(), named);
        assert_eq!(named.iter().map(|end| end.0).collect::<Vec<_>>(), ends);
        assert!(batch.ends.iter().all(|end| u64::from(end.xid) * 10 == end.lsn.0));
    };
    let mut push = |assembler: &mut Assembler, frame: Frame| {
        assembler.push(sequence, Item::Frame(frame)).unwrap();
        sequence += 1;
    };
    let [first, second]: [Frame; 2] = transaction(3, 4, 2).try_into().unwrap();
    transaction(1, 2, 2).into_iter().for_each(|frame| push(&mut assembler, frame));
    transaction(2, 1, 1).into_iter().for_each(|frame| push(&mut assembler, frame));
    push(&mut assembler, first.clone());
    check(&mut assembler, &[10, 20]);
    check(&mut assembler, &[30]); // a part
    push(&mut assembler, second.clone());
    transaction(4, 1, 1).into_iter().for_each(|frame| push(&mut assembler, frame));
    check(&mut assembler, &[30, 40]);
    transaction(5, 1, 1).into_iter().for_each(|frame| push(&mut assembler, frame));
    let open = transaction(6, 4, 2).remove(0);
    push(&mut assembler, open);
    assembler.push(99, Item::Cut).unwrap();
    check(&mut assembler, &[50]);
}

/// A transaction of nothing but tables, each with this oid and more.
pub(crate) fn descriptions(first: u32, tables: u32, streamed: bool) -> Frame {
    let mut writer = FrameWriter::new();
    let begin = Begin {
        xid: 1,
        final_lsn: Lsn(9),
        end_lsn: Lsn(10),
        commit_time: 0,
        origin: String::new(),
    };
    if streamed {
        writer.start_stream(Lsn(9), 1);
    } else {
        writer.start(Lsn(9), 1);
        writer.begin(&begin);
    }
    for oid in first..first + tables {
        writer.relation(&Relation { oid, ..relation("a table") });
    }
    if !streamed {
        writer.commit(&Commit { final_lsn: Lsn(9), end_lsn: Lsn(10), commit_time: 0 });
    }
    Frame::parse(Bytes::copy_from_slice(writer.finish())).unwrap()
}

#[test]
fn a_source_that_describes_tables_without_end_is_refused() {
    for streamed in [false, true] {
        let mut assembler = Assembler::default();
        if streamed {
            assembler.push(0, Item::Frame(transaction(1, 2, 1).remove(0))).unwrap();
        }
        let mut known = 0;
        let error = loop {
            let frame = descriptions(known, 10, streamed);
            match assembler.push(1, Item::Frame(frame)) {
                Ok(_) => known += 10,
                Err(error) => break error,
            }
            assert!(known as usize <= DESCRIBED_MAX / size_of::<Relation>(), "no end");
        };
        assert!(known > 20, "{known}");
        assert_eq!(error.kind(), Kind::Frame);
        assert!(error.to_string().contains("publications"), "{error}");
        // the same ones again and again are no more
        let mut assembler = Assembler::default();
        if streamed {
            assembler.push(0, Item::Frame(transaction(1, 2, 1).remove(0))).unwrap();
        }
        for _ in 0..known {
            assembler.push(1, Item::Frame(descriptions(1, 10, streamed))).unwrap();
        }
    }
}

proptest! {
    /// Invariant 9: whatever is behind a right checksum, in whatever order.
    #[test]
    fn frames_that_lie_do_no_harm(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..12),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..20),
    ) {
        let mut frames: Vec<Vec<u8>> = [transaction(1, 3, 2), transaction(2, 2, 9)].concat()
            .into_iter().chain([descriptions(1, 2, true), altering(3, schema::PREFIX, "{}", true)])
            .map(|frame| frame.bytes().to_vec()).collect();
        for (frame, at, byte) in damage {
            let bytes = frame.get_mut(&mut frames[..]);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let sum = rsrepl_wire::frame::checksum(bytes).to_le_bytes();
            bytes[4..8].copy_from_slice(&sum);
        }
        let mut assembler = Assembler::default();
        for (sequence, place) in (0..).zip(order) {
            let Ok(frame) = Frame::parse(Bytes::from(place.get(&frames).clone())) else { continue };
            match assembler.push(sequence, Item::Frame(frame)) {
                Ok(_) => {}
                Err(_) => assembler = Assembler::default(),
            }
            if sequence % 3 == 0 {
                let (batch, checkpoint) = assembler.take();
                prop_assert_eq!(batch.commit.is_some(), checkpoint.is_some());
            }
        }
    }
}
