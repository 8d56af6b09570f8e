//! The spool on disk, over real files: what was durable is there again, whatever happened behind it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rsrepl_wire::{Frame, FrameWriter, RowShape, StreamCommit};

use super::*;
use crate::assemble::tests::{relation, transaction};
use crate::assemble::{Assembler, Checkpoint};
use crate::batch::Operation;
use crate::spool::{Reader, Streamed, Streams};

/// More than any of these takes.
const LIMIT: Duration = Duration::from_secs(20);

/// Where the slot stands at first.
const START: Lsn = Lsn(5);

/// A folder that goes away.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        Folder(std::env::temp_dir().join(format!("rsrepl-log-{:016x}", rand::random::<u64>())))
    }

    fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
        let mut found: Vec<_> =
            entries.filter(|path| path.extension().is_some_and(|e| e == "segment")).collect();
        found.sort();
        found
    }

    fn last(&self) -> PathBuf {
        self.segments().pop().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn source() -> SourceIdentity {
    let (database, slot) = ("d".to_owned(), "s".to_owned());
    SourceIdentity { system_id: 1, timeline: 1, database, slot, ancestors: Some(Vec::new()) }
}

struct Rig {
    spool: Spool,
    readers: Vec<Reader>,
    ledger: watch::Receiver<Ledger>,
}

/// `limits`: bytes in memory, on disk.
fn open(folder: &Path, limits: (usize, u64), readers: usize) -> Result<Rig> {
    let recovered = Recovered::open(folder)?;
    let (ledger, receiver) = watch::channel(Ledger::of_spool(readers));
    let (spool, readers) = Spool::on_disk(limits.0, limits.1, readers, recovered, Arc::new(ledger));
    Ok(Rig { spool, readers, ledger: receiver })
}

fn started(folder: &Path, limits: (usize, u64), readers: usize) -> Rig {
    let mut rig = open(folder, limits, readers).unwrap();
    rig.spool.belongs_to(&source(), START).unwrap();
    rig.spool.starts_behind(START);
    rig
}

const LARGE: (usize, u64) = (1 << 20, 1 << 30);

impl Rig {
    async fn append(&mut self, frames: &[Frame]) {
        for frame in frames {
            let appended = self.spool.append(frame);
            tokio::time::timeout(LIMIT, appended).await.expect("there is room").unwrap();
        }
    }

    async fn synced(&mut self) {
        tokio::time::timeout(LIMIT, self.spool.synced()).await.expect("it becomes durable");
    }
}

/// What a target has and takes.
struct Taker {
    assembler: Assembler,
    position: Lsn,
    rows: Vec<u32>,
}

impl Taker {
    fn at(reader: &mut Reader, position: Lsn) -> Taker {
        assert!(reader.seek(position), "the spool has it");
        let assembler = Assembler::resume(&Checkpoint::default(), position);
        Taker { assembler, position, rows: Vec::new() }
    }

    /// Takes what is there, `entries` at most, and has it durably.
    fn take(&mut self, reader: &mut Reader, entries: usize) -> Result<()> {
        for _ in 0..entries {
            let Some((sequence, item)) = reader.try_next() else { break };
            self.assembler.push(sequence, item)?;
            if self.assembler.skips() {
                reader.skip();
            }
        }
        if self.assembler.has_whole() {
            let (batch, checkpoint) = self.assembler.take();
            self.rows.extend(batch.changes.iter().map(|change| match &change.operation {
                Operation::Insert { new } => u32::from_le_bytes(new.0[1..5].try_into().unwrap()),
                other => panic!("{other:?}"),
            }));
            self.position = batch.commit.unwrap().lsn;
            reader.checkpoint(checkpoint.unwrap().sequence);
        }
        Ok(())
    }
}

fn rows(numbers: impl IntoIterator<Item = (u32, usize)>) -> Vec<u32> {
    numbers.into_iter().flat_map(|(n, rows)| std::iter::repeat_n(n, rows)).collect()
}

/// Everything that the spool in a folder has behind `position`.
fn all_behind(folder: &Path, position: Lsn) -> Result<Vec<u32>> {
    let mut rig = open(folder, LARGE, 1)?;
    rig.spool.belongs_to(&source(), START)?;
    let mut taker = Taker::at(&mut rig.readers[0], position);
    taker.take(&mut rig.readers[0], usize::MAX)?;
    rig.spool.end_writing();
    Ok(taker.rows)
}

fn streamed(folder: &Folder, n: u32, count: usize) -> Arc<Streamed> {
    let mut streams = Streams::new(folder.0.join("streams"), 1 << 30);
    let mut size = 0;
    let mut writer = FrameWriter::new();
    for _ in 0..count {
        writer.start_stream(Lsn(7), n);
        writer.relation(&relation("t"));
        let shape = RowShape { columns: 1, nulls: false, unchanged: false };
        writer.insert(Lsn(7), 1, shape, |row| row.fixed(&n.to_le_bytes()));
        let frame = Frame::parse(bytes::Bytes::copy_from_slice(writer.finish())).unwrap();
        size += frame.len() as u64 + rsrepl_wire::STREAM_FRAME_OVERHEAD;
        assert!(streams.take(&frame).unwrap().is_none());
    }
    writer.start_stream(Lsn(7), n);
    let begin = transaction(n, 0, 1)[0].begin().unwrap().unwrap();
    writer.stream_commit(&StreamCommit { size, begin });
    let frame = Frame::parse(bytes::Bytes::copy_from_slice(writer.finish())).unwrap();
    Arc::new(streams.take(&frame).unwrap().unwrap())
}

#[tokio::test]
async fn what_is_durable_is_there_again_and_confirmed_once_all_targets_are_known() {
    let folder = Folder::new();
    let mut rig = started(&folder.0, LARGE, 2);
    rig.append(&transaction(1, 3, 1)).await;
    let whole = streamed(&folder, 2, 30);
    rig.spool.append_streamed(&whole).await.unwrap();
    drop(whole);
    rig.append(&transaction(3, 2, 2)).await;
    rig.synced().await;
    assert_eq!(rig.ledger.borrow().confirmable(), None, "no target is known");
    assert_eq!(rig.ledger.borrow().spooled_of(Lsn::INVALID), Lsn(30));
    rig.spool.accept().unwrap();
    assert_eq!(rig.ledger.borrow().confirmable(), None, "no target is known");
    rig.spool.log.as_ref().unwrap().ledger.send_modify(|ledger| {
        ledger.opened(0, Lsn(5));
        ledger.opened(1, Lsn(20));
    });
    rig.spool.accept().unwrap();
    assert_eq!(rig.ledger.borrow().confirmable(), Some(Lsn(30)));
    assert_eq!(rig.ledger.borrow().applied_everywhere(), Some(Lsn(5)));
    rig.spool.end_writing();

    // and again, of which the slot has heard: targets need not be known any more
    let mut rig = started(&folder.0, LARGE, 2);
    assert_eq!(rig.spool.end(), Lsn(30));
    assert_eq!(rig.ledger.borrow().confirmable(), Some(Lsn(30)));
    rig.append(&transaction(4, 1, 1)).await;
    for (reader, position, left) in [
        (0, Lsn(5), [(1, 3), (2, 30), (3, 2), (4, 1)]),
        (1, Lsn(20), [(0, 0), (0, 0), (3, 2), (4, 1)]),
    ] {
        let mut taker = Taker::at(&mut rig.readers[reader], position);
        taker.take(&mut rig.readers[reader], usize::MAX).unwrap();
        assert_eq!(taker.rows, rows(left));
    }
}

#[tokio::test]
async fn who_lags_reads_files_and_what_all_have_passed_goes() {
    let folder = Folder::new();
    // memory for a few frames, segments of 4 KiB
    let mut rig = started(&folder.0, (2000, 1 << 16), 2);
    let mut fast = Taker::at(&mut rig.readers[0], START);
    let mut slow = Taker::at(&mut rig.readers[1], START);
    for n in 1..=60 {
        rig.append(&transaction(n, 4, 2)).await;
        fast.take(&mut rig.readers[0], usize::MAX).unwrap();
    }
    rig.synced().await;
    assert_eq!(fast.rows, rows((1..=60).map(|n| (n, 4))));
    let view = rig.spool.view();
    assert!(view.bytes() <= 2000 && view.on_disk().unwrap().bytes > 10_000);
    let files = folder.segments().len();
    assert!(files > 3, "{files}");
    while slow.position < Lsn(600) {
        slow.take(&mut rig.readers[1], 7).unwrap();
    }
    assert_eq!(slow.rows, fast.rows);
    let gone = async {
        while folder.segments().len() > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.expect("files that nobody needs go");
    assert!(view.on_disk().unwrap().begin > Lsn(300));
    // who comes back with less than what is there is told so
    assert!(!rig.readers[0].seek(Lsn(100)));
    assert!(rig.readers[0].begin().unwrap() <= Lsn(600));
}

#[tokio::test]
async fn the_limit_holds_between_transactions_and_never_in_one() {
    let folder = Folder::new();
    let mut rig = started(&folder.0, (1 << 20, 1 << 14), 1);
    let mut taker = Taker::at(&mut rig.readers[0], START);
    // far larger than the limit
    rig.append(&transaction(1, 400, 1)).await;
    rig.synced().await;
    assert!(rig.spool.view().on_disk().unwrap().bytes > 1 << 14);
    let next = &transaction(2, 1, 1)[0];
    let waits = tokio::time::timeout(Duration::from_millis(30), rig.spool.append(next));
    assert!(waits.await.is_err(), "it waits");
    assert!(!rig.spool.has_room());
    taker.take(&mut rig.readers[0], usize::MAX).unwrap();
    rig.append(std::slice::from_ref(next)).await;
    taker.take(&mut rig.readers[0], usize::MAX).unwrap();
    assert_eq!(taker.rows, rows([(1, 400), (2, 1)]));
}

#[tokio::test]
async fn what_was_cut_off_is_not_kept() {
    let folder = Folder::new();
    let mut rig = started(&folder.0, (3000, 1 << 20), 2);
    rig.append(&transaction(1, 2, 1)).await;
    rig.synced().await;
    let size = || fs::metadata(folder.last()).unwrap().len();
    let before = size();
    let mut slow = Taker::at(&mut rig.readers[1], START);
    let cut = transaction(2, 100, 1);
    for _ in 0..3 {
        rig.append(&cut[..80]).await;
        rig.synced().await;
        assert!(size() > before + 5000);
        // in the middle of what is taken away
        slow.take(&mut rig.readers[1], 40).unwrap();
        rig.spool.cut();
        rig.spool.starts_behind(START);
        rig.synced().await;
        assert!(size() < before + 200, "{} after {before}", size());
    }
    rig.append(&cut).await;
    rig.append(&transaction(3, 1, 1)).await;
    let expected = rows([(1, 2), (2, 100), (3, 1)]);
    slow.take(&mut rig.readers[1], usize::MAX).unwrap();
    assert_eq!(slow.rows, expected);
    rig.spool.end_writing();
    assert_eq!(all_behind(&folder.0, START).unwrap(), expected);
}

#[tokio::test]
async fn a_full_disk_is_waited_for() {
    let folder = Folder::new();
    let mut rig = started(&folder.0, (3000, 1 << 20), 1);
    rig.append(&transaction(1, 2, 1)).await;
    rig.synced().await;
    let faults = rig.spool.log.as_ref().unwrap().failing.0.clone();
    *faults.full.lock().unwrap() = Some(700);
    let mut taker = Taker::at(&mut rig.readers[0], START);
    let mut appended = 1;
    for n in 2..100 {
        let frames = transaction(n, 1, 1);
        let append = rig.spool.append(&frames[0]);
        if tokio::time::timeout(Duration::from_millis(50), append).await.is_err() {
            break;
        }
        appended = n;
    }
    assert!(appended < 90, "memory is full");
    let why = rig.spool.view().on_disk().unwrap().stuck.expect("it is told");
    assert!(why.contains("cannot be written"), "{why}");
    // up to date, a target goes on
    taker.take(&mut rig.readers[0], usize::MAX).unwrap();
    assert_eq!(taker.rows.last(), Some(&appended));
    *faults.full.lock().unwrap() = None;
    rig.append(&transaction(appended + 1, 1, 1)).await;
    rig.synced().await;
    assert_eq!(rig.spool.view().on_disk().unwrap().stuck, None);
    rig.spool.end_writing();
    let expected = rows((1..=appended + 1).map(|n| (n, if n == 1 { 2 } else { 1 })));
    assert_eq!(all_behind(&folder.0, START).unwrap(), expected);
}

#[tokio::test]
async fn what_was_not_synchronized_is_not_believed() {
    let folder = Folder::new();
    let mut rig = started(&folder.0, LARGE, 1);
    rig.append(&transaction(1, 2, 1)).await;
    rig.synced().await;
    let faults = rig.spool.log.as_ref().unwrap().failing.0.clone();
    faults.sync.store(true, Ordering::Relaxed);
    // one frame: behind a failure a second would be refused
    rig.append(&transaction(2, 2, 2)).await;
    rig.synced().await;
    let failure = rig.spool.failure().expect("it has ended");
    assert!(failure.to_string().contains("not synchronized"), "{failure}");
    assert_eq!(rig.spool.append(&transaction(3, 1, 1)[0]).await.unwrap_err().kind(), Kind::Disk);
    assert_eq!(rig.ledger.borrow().spooled_of(Lsn::INVALID), Lsn(10));
    rig.spool.end_writing();
    assert_eq!(all_behind(&folder.0, START).unwrap(), rows([(1, 2)]));
}

#[tokio::test]
async fn nothing_is_confirmed_before_it_is_on_the_disk() {
    let folder = Folder::new();
    let mut rig = started(&folder.0, LARGE, 1);
    let faults = rig.spool.log.as_ref().unwrap().failing.0.clone();
    faults.slow.store(true, Ordering::Relaxed);
    // one frame: behind the first, nothing is written before it is synchronized
    rig.append(&transaction(1, 2, 2)).await;
    let mut ledger = rig.ledger.clone();
    let written = ledger.wait_for(|ledger| ledger.written_of(Lsn::INVALID) == Lsn(10));
    tokio::time::timeout(LIMIT, written).await.expect("it is written").unwrap();
    assert_eq!(rig.ledger.borrow().spooled_of(Lsn::INVALID), START);
    faults.slow.store(false, Ordering::Relaxed);
    rig.synced().await;
    assert_eq!(rig.ledger.borrow().spooled_of(Lsn::INVALID), Lsn(10));
}

#[tokio::test]
async fn progress_alone_is_not_synchronized_each_time() {
    let folder = Folder::new();
    let mut rig = started(&folder.0, LARGE, 1);
    rig.append(&transaction(1, 1, 1)).await;
    rig.synced().await;
    let syncs = |rig: &Rig| rig.spool.view().on_disk().unwrap().syncs;
    let before = syncs(&rig);
    for lsn in 11..200 {
        rig.spool.progress(Lsn(lsn), false);
        rig.readers[0].try_next();
        if lsn % 20 == 0 {
            // it has time to do what it should not
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert_eq!(syncs(&rig), before);
    rig.spool.progress(Lsn(200), true);
    rig.synced().await;
    assert_eq!(rig.ledger.borrow().spooled_of(Lsn::INVALID), Lsn(200));
    assert!(syncs(&rig) <= before + 2);
    rig.spool.hurry_progress(true);
    rig.spool.progress(Lsn(201), false);
    rig.synced().await;
    rig.spool.hurry_progress(false);
    // at the end none is left
    rig.spool.progress(Lsn(202), false);
    rig.spool.end_writing();
    assert_eq!(open(&folder.0, LARGE, 1).unwrap().spool.end(), Lsn(202));
}

#[path = "on_disk_failing_tests.rs"]
mod failing;
#[path = "on_disk_random_tests.rs"]
mod random;
#[path = "on_disk_refused_tests.rs"]
mod refused;
