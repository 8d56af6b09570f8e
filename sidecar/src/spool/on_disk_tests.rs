//! The spool on disk, over real files: what was durable is there again, whatever happened behind it.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;
use rsrepl_wire::{Frame, FrameWriter, RowShape, StreamCommit};

use super::*;
use crate::assemble::tests::{relation, transaction};
use crate::assemble::{Assembler, Checkpoint};
use crate::batch::Operation;
use crate::spool::{Reader, Streamed, Streams};
use crate::target::SourceIdentity;

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

fn source() -> SourceInfo {
    let (database, slot) = ("d".to_owned(), "s".to_owned());
    SourceInfo {
        identity: SourceIdentity { system_id: 1, timeline: 1, database, slot },
        wal_end: Lsn(1 << 40),
        server_version: "15".into(),
    }
}

fn first_timeline() -> Branch {
    Branch { timeline: 1, history: Vec::new() }
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
    rig.spool.belongs_to(&source(), &first_timeline(), START).unwrap();
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
    rig.spool.belongs_to(&source(), &first_timeline(), START)?;
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
    rig.append(&transaction(2, 2, 1)).await;
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
    rig.append(&transaction(1, 2, 1)).await;
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

async fn some(folder: &Folder) -> Vec<u32> {
    let mut rig = started(&folder.0, (3000, 1 << 16), 1);
    for n in 1..=40 {
        rig.append(&transaction(n, 3, 1)).await;
        rig.synced().await;
    }
    rig.spool.end_writing();
    assert!(folder.segments().len() > 3);
    rows((1..=40).map(|n| (n, 3)))
}

fn refused(folder: &Folder) -> Error {
    open(&folder.0, LARGE, 1).err().expect("it is refused")
}

#[tokio::test]
async fn damage_is_not_taken_for_a_torn_tail() {
    let folder = Folder::new();
    some(&folder).await;
    let segments = folder.segments();
    let damage = |path: &Path, at: u64| {
        use std::os::unix::fs::FileExt;
        let file = OpenOptions::new().write(true).read(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        byte[0] ^= 1;
        file.write_all_at(&byte, at).unwrap();
    };
    // the first record after the tables, with others behind it
    let last = folder.last();
    let at = fs::metadata(&last).unwrap().len() / 2;
    damage(&last, at);
    let error = refused(&folder);
    assert_eq!(error.kind(), Kind::Identity);
    assert!(error.to_string().contains(&*last.to_string_lossy()), "{error}");
    assert!(error.to_string().contains("at byte"), "{error}");
    damage(&last, at);
    // in one that is read when it is needed
    let at = fs::metadata(&segments[1]).unwrap().len() / 2;
    damage(&segments[1], at);
    let error = all_behind(&folder.0, START).unwrap_err();
    assert_eq!(error.kind(), Kind::Identity, "{error}");
    assert!(error.to_string().contains(&*segments[1].to_string_lossy()), "{error}");
    damage(&segments[1], at);
    // shorter than it was
    let cut = OpenOptions::new().write(true).open(&segments[1]).unwrap();
    cut.set_len(fs::metadata(&segments[1]).unwrap().len() - 1).unwrap();
    assert_eq!(refused(&folder).kind(), Kind::Identity);
}

#[tokio::test]
async fn what_is_gone_is_missed() {
    let folder = Folder::new();
    some(&folder).await;
    let segments = folder.segments();
    let away = folder.0.join("away");
    for (gone, part) in
        [(&segments[1], "is gone"), (&folder.0.join("spool.json"), "spool.json is gone")]
    {
        fs::rename(gone, &away).unwrap();
        let error = refused(&folder);
        assert_eq!(error.kind(), Kind::Identity);
        assert!(error.to_string().contains(part), "{error}");
        fs::rename(&away, gone).unwrap();
    }
    segments.iter().for_each(|path| fs::remove_file(path).unwrap());
    assert!(refused(&folder).to_string().contains("segments are gone"));
    // all of it: a new one begins at the slot, and targets that are behind are told
    fs::remove_dir_all(&folder.0).unwrap();
    let mut rig = open(&folder.0, LARGE, 1).unwrap();
    assert!(!rig.spool.is_used());
    rig.spool.belongs_to(&source(), &first_timeline(), Lsn(400)).unwrap();
    assert_eq!(rig.readers[0].begin(), Some(Lsn(400)));
    assert!(!rig.readers[0].seek(Lsn(399)) && rig.readers[0].seek(Lsn(400)));
    assert_eq!(rig.ledger.borrow().confirmable(), None);
}

#[tokio::test]
async fn only_its_own_source_goes_on_with_it() {
    let folder = Folder::new();
    some(&folder).await;
    assert_eq!(fs::metadata(&folder.0).unwrap().permissions().mode() & 0o777, 0o700);
    for path in folder.segments().into_iter().chain([folder.0.join("spool.json")]) {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let mut rig = open(&folder.0, LARGE, 1).unwrap();
    assert!(refused(&folder).to_string().contains("another process uses"));
    assert_eq!(rig.spool.end(), Lsn(400));
    let branch = |timeline, left: &[(u32, u64)]| Branch {
        timeline,
        history: left.iter().map(|(timeline, end)| (*timeline, Lsn(*end))).collect(),
    };
    let of = |change: fn(&mut SourceInfo)| {
        let mut source = source();
        change(&mut source);
        source
    };
    let mut refuses = |source: &SourceInfo, branch: &Branch, confirmed, part: &str| {
        let error = rig.spool.belongs_to(source, branch, Lsn(confirmed)).unwrap_err();
        assert_eq!(error.kind(), Kind::Identity);
        assert!(error.to_string().contains(part), "{error}");
        assert!(error.advice().is_some());
    };
    let first = first_timeline();
    refuses(&of(|s| s.identity.system_id = 2), &first, 5, "another source");
    refuses(&of(|s| s.identity.slot = "x".into()), &first, 5, "slot x");
    refuses(&of(|s| s.wal_end = Lsn(399)), &first, 5, "restored");
    refuses(&source(), &first, 401, "changes between them are missing");
    refuses(&source(), &branch(2, &[(1, 399)]), 5, "left at 0/18F");
    // the promoted one has all of it
    rig.spool.belongs_to(&source(), &branch(2, &[(1, 400)]), Lsn(5)).unwrap();
    rig.spool.starts_behind(Lsn(5));
    rig.append(&transaction(41, 1, 1)).await;
    rig.spool.end_writing();
    // which is remembered, also of another one with the same number
    for (branch, good) in [
        (first_timeline(), false),
        (branch(2, &[(1, 400)]), true),
        (branch(2, &[(1, 405)]), false),
        (branch(3, &[(1, 400), (2, 410)]), true),
        (branch(4, &[(1, 400), (2, 409)]), false),
    ] {
        let mut rig = open(&folder.0, LARGE, 1).unwrap();
        let seen = rig.spool.belongs_to(&source(), &branch, Lsn(5));
        assert_eq!(seen.is_ok(), good, "{branch:?} {seen:?}");
        rig.spool.end_writing();
    }
}

#[tokio::test]
async fn a_newer_format_is_refused_with_what_to_do() {
    let folder = Folder::new();
    some(&folder).await;
    let path = folder.0.join("spool.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
    let error = refused(&folder);
    assert!(error.to_string().contains("format 2") && error.advice().is_some(), "{error}");
    assert_eq!(error.kind(), Kind::Config);
}

#[derive(Clone, Debug)]
enum Step {
    /// Rows, rows in a frame.
    Transaction(usize, usize),
    /// The same, of which only the first frames come.
    Cut(usize),
    Streamed(usize),
    Progress,
    /// A target takes entries; it has them durably.
    Take(usize, usize),
    Synced,
    Restart,
    /// What is not synchronized is there up to some byte, and behind that there is garbage.
    Crash(prop::sample::Index, Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1usize..30, 1usize..5).prop_map(|(rows, per_frame)| Step::Transaction(rows, per_frame)),
        2 => (2usize..30).prop_map(Step::Cut),
        1 => (1usize..30).prop_map(Step::Streamed),
        2 => Just(Step::Progress),
        6 => (0usize..2, 1usize..60).prop_map(|(target, entries)| Step::Take(target, entries)),
        2 => Just(Step::Synced),
        1 => Just(Step::Restart),
        2 => (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(at, garbage)| Step::Crash(at, garbage)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens, each target gets every transaction once and in order, and what was durable is there.
    #[test]
    fn targets_get_everything_once_whatever_happens(
        steps in prop::collection::vec(step(), 1..60),
        memory in 1usize..6000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let folder = Folder::new();
        let limits = (memory, 1 << 16);
        let mut rig = started(&folder.0, limits, 2);
        let mut takers: Vec<Taker> =
            rig.readers.iter_mut().map(|reader| Taker::at(reader, START)).collect();
        // the source's: number (the end is ten times that) and rows
        let mut wal: Vec<(u32, usize)> = Vec::new();
        let mut sent = 0;
        let mut known_durable = START;
        for step in steps {
            let n = wal.last().map_or(1, |(n, _)| n + 1);
            match step {
                Step::Transaction(rows, _) | Step::Streamed(rows) => wal.push((n, rows)),
                _ => {}
            }
            // what a crash took away comes again
            while sent < wal.len() {
                let (n, rows) = wal[sent];
                let whole = match &step {
                    Step::Streamed(_) => Some(streamed(&folder, n, rows)),
                    _ => None,
                };
                let frames = transaction(n, rows, 2);
                let append = async {
                    match &whole {
                        Some(whole) => rig.spool.append_streamed(whole).await.unwrap(),
                        None => for frame in &frames {
                            rig.spool.append(frame).await.unwrap();
                        }
                    }
                };
                let limit = Duration::from_millis(200);
                if runtime.block_on(async { tokio::time::timeout(limit, append).await }).is_err() {
                    // full: the one who lags most goes on
                    rig.spool.cut();
                    rig.spool.starts_behind(START);
                    for (taker, reader) in takers.iter_mut().zip(&mut rig.readers) {
                        taker.take(reader, usize::MAX).unwrap();
                    }
                    continue;
                }
                sent += 1;
            }
            match step {
                Step::Cut(frames) => {
                    for frame in &transaction(n, 30, 1)[..frames] {
                        let append = rig.spool.append(frame);
                        let limit = Duration::from_millis(200);
                        let _ = runtime.block_on(async { tokio::time::timeout(limit, append).await });
                        if !rig.spool.is_open() { break }
                    }
                    rig.spool.cut();
                    rig.spool.starts_behind(START);
                }
                Step::Progress => {
                    let end = rig.spool.end();
                    rig.spool.progress(Lsn(end.0 / 10 * 10 + 5), false);
                }
                Step::Take(target, entries) => {
                    takers[target].take(&mut rig.readers[target], entries).unwrap();
                }
                Step::Synced => {
                    runtime.block_on(rig.synced());
                    known_durable = rig.ledger.borrow().spooled_of(Lsn::INVALID);
                    prop_assert_eq!(known_durable, rig.spool.end());
                }
                Step::Restart | Step::Crash(..) => {
                    let floor = runtime.block_on(async {
                        if matches!(step, Step::Crash(..)) {
                            // what is synchronized from here on is not, for this
                            let durable = rig.ledger.borrow().spooled_of(Lsn::INVALID);
                            let place = (folder.last(), fs::metadata(folder.last()).unwrap().len());
                            known_durable = durable.max(known_durable);
                            Some(place)
                        } else { None }
                    });
                    rig.spool.end_writing();
                    drop(rig.readers);
                    if let (Some((last, _)), Step::Crash(at, garbage)) = (floor, step) {
                        let now = folder.last();
                        let bytes = fs::read(&now).unwrap();
                        // nothing behind a torn place may have been written after it was synchronized
                        let least = if now == last { durable_len(&bytes, known_durable) } else { head_len(&bytes) };
                        let cut = least + at.index(bytes.len() - least + 1);
                        let mut torn = bytes[..cut].to_vec();
                        torn.extend(&garbage);
                        fs::write(&now, torn).unwrap();
                    }
                    rig = started(&folder.0, limits, 2);
                    let end = rig.spool.end();
                    prop_assert!(end >= known_durable, "{} {}", end, known_durable);
                    sent = wal.iter().take_while(|(n, _)| u64::from(*n) * 10 <= end.0).count();
                    for (taker, reader) in takers.iter_mut().zip(&mut rig.readers) {
                        let had = std::mem::take(&mut taker.rows);
                        *taker = Taker { rows: had, ..Taker::at(reader, taker.position) };
                    }
                }
                _ => {}
            }
        }
        while sent < wal.len() {
            let (n, rows) = wal[sent];
            for (taker, reader) in takers.iter_mut().zip(&mut rig.readers) {
                taker.take(reader, usize::MAX).unwrap();
            }
            runtime.block_on(rig.append(&transaction(n, rows, 3)));
            sent += 1;
        }
        for (taker, reader) in takers.iter_mut().zip(&mut rig.readers) {
            taker.take(reader, usize::MAX).unwrap();
            prop_assert_eq!(&taker.rows, &rows(wal.iter().copied()));
        }
        let held: BTreeSet<_> = folder.segments().into_iter().collect();
        prop_assert!(!held.is_empty());
    }
}

/// Bytes of a segment up to the end of its header and tables.
fn head_len(bytes: &[u8]) -> usize {
    match bytes.get(72) {
        Some(b'T') => 64 + 32 + u32::from_le_bytes(bytes[68..72].try_into().unwrap()) as usize,
        _ => 64,
    }
}

/// Bytes of a segment up to the record with which `durable` is reached.
fn durable_len(bytes: &[u8], durable: Lsn) -> usize {
    let mut at = head_len(bytes);
    let mut whole = at;
    while at + 32 <= bytes.len() {
        let len = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        let content = &bytes[at + 32..at + 32 + len];
        let end = match bytes[at + 8] {
            b'F' => {
                Frame::parse(content.to_vec().into()).unwrap().commit().unwrap().map(|c| c.end_lsn)
            }
            b'P' => Some(Lsn(u64::from_le_bytes(content.try_into().unwrap()))),
            _ => None,
        };
        at += 32 + len;
        if end.is_some_and(|end| end <= durable) {
            whole = at;
        }
    }
    whole
}
