//! What the plugin does is played here on a model of PostgreSQL: subtransactions of any depth, parts that
//! begin and end anywhere, other transactions in between.

use proptest::prelude::*;
use rsrepl_wire::{Lsn, RowShape, STREAM_FRAME_OVERHEAD, StreamPlace};

use super::*;
use crate::assemble::tests::relation;
use crate::assemble::{Assembler, Checkpoint, Pushed};
use crate::batch::Operation;
use crate::spool::{Pending, Reader, Spool};

/// A streamed transaction on the source, and the plugin's side of it.
struct Source {
    xid: u32,
    writer: FrameWriter,
    sent: u64,
    /// Those that are under way, with the place of what they wrote first and how many rows there were.
    inside: Vec<(Option<StreamPlace>, usize)>,
    /// What must arrive.
    rows: Vec<u32>,
    next: u32,
}

impl Source {
    fn new(xid: u32) -> Self {
        let mut source = Source {
            xid,
            writer: FrameWriter::new(),
            sent: 0,
            inside: Vec::new(),
            rows: Vec::new(),
            next: xid * 100_000,
        };
        source.start();
        source
    }

    fn start(&mut self) {
        self.writer.start_stream(Lsn(5), self.xid);
        self.writer.relation(&relation("t"));
    }

    /// Ends the frame that is being written.
    fn send(&mut self) -> Frame {
        self.sent += self.writer.len() as u64 + STREAM_FRAME_OVERHEAD;
        let frame = Frame::parse(Bytes::copy_from_slice(self.writer.finish())).unwrap();
        self.start();
        frame
    }

    fn insert(&mut self) {
        let place = StreamPlace { frame: self.sent, offset: self.writer.len() as u32 };
        for (first, _) in &mut self.inside {
            first.get_or_insert(place);
        }
        let shape = RowShape { columns: 1, nulls: false, unchanged: false };
        self.writer.insert(Lsn(5), 1, shape, |row| row.fixed(&self.next.to_le_bytes()));
        self.rows.push(self.next);
        self.next += 1;
    }

    fn closing(&mut self, write: impl FnOnce(&mut FrameWriter)) -> Frame {
        self.writer.start_stream(Lsn(5), self.xid);
        write(&mut self.writer);
        let frame = Frame::parse(Bytes::copy_from_slice(self.writer.finish())).unwrap();
        self.start();
        frame
    }

    /// ROLLBACK TO the innermost savepoint.
    fn roll_back(&mut self) -> Vec<Frame> {
        let mut frames = vec![self.send()];
        if let Some((first, rows)) = self.inside.pop() {
            self.rows.truncate(rows);
            if let Some(place) = first {
                self.sent = place.size();
                let xid = self.next;
                frames.push(
                    self.closing(|w| w.stream_abort(&StreamAbort { xid, lsn: Lsn(6), place })),
                );
            }
        }
        frames
    }

    fn end(mut self, commit: bool, end_lsn: Lsn) -> (Vec<Frame>, Vec<u32>) {
        let mut frames = vec![self.send()];
        let (xid, size) = (self.xid, self.sent);
        let origin = String::new();
        let begin = Begin { xid, final_lsn: Lsn(end_lsn.0 - 1), end_lsn, commit_time: 3, origin };
        let place = StreamPlace::default();
        frames.push(self.closing(|writer| match commit {
            true => writer.stream_commit(&StreamCommit { size, begin }),
            false => writer.stream_abort(&StreamAbort { xid, lsn: Lsn(6), place }),
        }));
        (frames, if commit { self.rows } else { Vec::new() })
    }
}

/// Of so many bytes at most.
fn bounded(limit: u64) -> Streams {
    Streams::new(std::env::temp_dir().join("rsrepl-streams-tests"), limit)
}

fn streams() -> Streams {
    bounded(u64::MAX)
}

/// Everything that a reader gets, as an assembler sees it; batches of `rows`.
fn read(reader: &mut Reader, rows: usize) -> Vec<u32> {
    let mut assembler = Assembler::default();
    let mut found = Vec::new();
    let mut take = |assembler: &mut Assembler| {
        let (batch, checkpoint) = assembler.take();
        found.extend(batch.changes.iter().map(|change| match &change.operation {
            Operation::Insert { new } => u32::from_le_bytes(new.0[1..5].try_into().unwrap()),
            other => panic!("{other:?}"),
        }));
        checkpoint
    };
    while let Some((sequence, item)) = reader.try_next() {
        assert_eq!(assembler.push(sequence, item).unwrap(), Pushed::Gathered);
        if assembler.rows() >= rows {
            take(&mut assembler);
        }
    }
    if assembler.has_whole() {
        take(&mut assembler);
    }
    found
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert,
    Savepoint,
    Release,
    RollBack,
    EndOfPart,
    /// A small transaction of somebody else.
    Other,
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let step = prop_oneof![
        8 => Just(Step::Insert),
        2 => Just(Step::Savepoint),
        1 => Just(Step::Release),
        2 => Just(Step::RollBack),
        1 => Just(Step::EndOfPart),
        1 => Just(Step::Other),
    ];
    prop::collection::vec((0..3usize, step), 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_was_not_rolled_back_arrives_in_the_order_of_commits(
        steps in steps(),
        commits in any::<[bool; 3]>(),
        rows in 1usize..20,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (mut spool, mut readers) = Spool::new(1 << 20, 2);
        let mut streams = streams();
        let mut sources: Vec<_> = (1..4).map(Source::new).collect();
        let mut expected = Vec::new();
        let mut lsn = 100u32;
        for (index, step) in steps {
            let source = &mut sources[index];
            let frames = match step {
                Step::Insert => {
                    source.insert();
                    continue;
                }
                Step::Savepoint => {
                    source.inside.push((None, source.rows.len()));
                    continue;
                }
                Step::Release => {
                    // what was inside of it is now of the one around it
                    source.inside.pop();
                    continue;
                }
                Step::RollBack => source.roll_back(),
                Step::EndOfPart => vec![source.send()],
                Step::Other => {
                    lsn += 1;
                    for frame in crate::assemble::tests::transaction(lsn, 2, 1) {
                        runtime.block_on(spool.append(&frame)).unwrap();
                    }
                    expected.extend([lsn, lsn]);
                    continue;
                }
            };
            for frame in frames {
                prop_assert!(streams.take(&frame).unwrap().is_none());
            }
        }
        for (source, commit) in sources.into_iter().zip(commits) {
            lsn += 1;
            let (frames, rows) = source.end(commit, Lsn(u64::from(lsn) * 10));
            for frame in frames {
                if let Some(streamed) = streams.take(&frame).unwrap() {
                    runtime.block_on(spool.append_streamed(&Arc::new(streamed))).unwrap();
                }
            }
            expected.extend(rows);
        }
        prop_assert_eq!(streams.open(), 0);
        for reader in &mut readers {
            prop_assert_eq!(&read(reader, rows), &expected);
            // a target that failed reads the same again
            prop_assert!(reader.restart().is_ok());
            reader.try_next();
            reader.try_next();
            prop_assert!(reader.restart().is_ok());
            prop_assert_eq!(&read(reader, rows), &expected);
        }
        for reader in &mut readers {
            reader.checkpoint(u64::MAX);
        }
        prop_assert_eq!(streams.view().files(), 0, "files are left");
        prop_assert_eq!(streams.view().bytes(), 0);
    }
}

/// A transaction that has committed, with this many rows.
fn committed(streams: &mut Streams, xid: u32, rows: usize) -> Streamed {
    let mut source = Source::new(xid);
    (0..rows).for_each(|_| source.insert());
    let (frames, _) = source.end(true, Lsn(u64::from(xid) * 10));
    frames.iter().find_map(|frame| streams.take(frame).unwrap()).expect("a commit")
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut streams = streams();
    let (frames, _) = Source::new(1).end(true, Lsn(10));
    assert_eq!(streams.take(&frames[1]).unwrap_err().kind(), Kind::Frame, "a commit of nothing");
    streams.take(&frames[0]).unwrap();
    streams.take(&frames[0]).unwrap();
    assert_eq!(streams.take(&frames[1]).unwrap_err().kind(), Kind::Frame, "it came twice");
    streams.take(&frames[0]).unwrap();
    streams.clear();
    assert_eq!(streams.view().files(), 0);
    assert!(streams.take(&frames[1]).is_err(), "of another connection");
}

#[test]
fn files_are_bounded() {
    let mut streams = streams();
    let mut kept = Vec::new();
    for xid in 1..=FILES_MAX as u32 {
        kept.push(committed(&mut streams, xid, 1));
    }
    let error = streams.take(&Source::new(1000).send()).unwrap_err();
    assert_eq!(error.kind(), Kind::Disk);
    kept.pop();
    streams.take(&Source::new(1000).send()).unwrap();
}

#[test]
fn bytes_are_bounded_over_all_files() {
    let mut streams = bounded(10_000);
    let view = streams.view();
    let kept = committed(&mut streams, 1, 500);
    let before = view.bytes();
    assert!(before > 5_000);
    let mut source = Source::new(2);
    let error = loop {
        source.insert();
        assert!(view.bytes() <= 10_000);
        match streams.take(&source.send()) {
            Ok(taken) => assert!(taken.is_none()),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), Kind::Disk);
    assert!(error.to_string().contains("spool.max_disk"), "{error}");
    // as the receiver does; what has committed stays
    streams.clear();
    assert_eq!((view.files(), view.bytes()), (1, before));
    drop(kept);
    assert_eq!((view.files(), view.bytes()), (0, 0));
}

#[tokio::test]
async fn what_a_target_has_is_not_read_again() {
    let mut streams = streams();
    let (mut spool, mut readers) = Spool::new(1 << 20, 1);
    spool.append_streamed(&Arc::new(committed(&mut streams, 1, 500))).await.unwrap();
    spool.append_streamed(&Arc::new(committed(&mut streams, 2, 5))).await.unwrap();
    let reader = &mut readers[0];
    let mut assembler = Assembler::resume(&Checkpoint::default(), Lsn(10));
    let mut entries = Vec::new();
    while let Some((sequence, item)) = reader.try_next() {
        entries.push(sequence);
        assembler.push(sequence, item).unwrap();
        if assembler.skips() {
            reader.skip();
        }
    }
    assert_eq!(entries.iter().filter(|sequence| **sequence == 0).count(), 2, "its begin and end");
    let (batch, checkpoint) = assembler.take();
    assert_eq!((batch.changes.len(), checkpoint.map(|c| c.sequence)), (5, Some(2)));
}

#[tokio::test]
async fn an_entry_is_pending_until_it_is_applied_and_is_kept_while_it_is_read() {
    let mut streams = streams();
    let (mut spool, mut readers) = Spool::new(1 << 14, 1);
    let view = spool.view();
    spool.append_streamed(&Arc::new(committed(&mut streams, 1, 5000))).await.unwrap();
    assert!(view.bytes() < 1 << 10, "it takes memory");
    assert_eq!(spool.end(), Lsn(10));
    let reader = &mut readers[0];
    assert!(matches!(reader.try_next(), Some((0, Item::Frame(frame))) if frame.begins()));
    assert!(matches!(view.first_pending(0), Pending::Since(3)));
    // more than the spool holds: room is not made with what is being read
    for frame in crate::assemble::tests::transaction(2, 600, 1) {
        let appended =
            tokio::time::timeout(std::time::Duration::from_millis(5), spool.append(&frame));
        if appended.await.is_err() {
            break;
        }
    }
    let mut sequences = Vec::new();
    while let Some((sequence, Item::Frame(frame))) = reader.try_next() {
        sequences.push(sequence);
        if frame.commits() {
            break;
        }
    }
    assert!(sequences.len() >= 2 && sequences.iter().all(|sequence| *sequence == 0));
    reader.checkpoint(1);
    // it is freed beside
    while streams.view().files() > 0 {
        tokio::task::yield_now().await;
    }
}
