#[path = "drive/control_tests.rs"]
mod control;

use std::collections::VecDeque;
use std::sync::Mutex;

use rsrepl_wire::{Frame, Row};
use tokio::sync::Semaphore;

use super::super::under_way::APPLIED_MAX;
use super::*;
use crate::assemble::tests::{relation, transaction};
use crate::batch::Operation;
use crate::config::Retry;
use crate::source::SourceInfo;
use crate::spool::Spool;
use crate::status::{TargetKind, TargetStatus};
use crate::sync::share::Hold;
use crate::target::SourceIdentity;
use crate::target::one_by_one::{OneByOne, Writer};

/// More than any of these takes.
const LIMIT: Duration = Duration::from_secs(20);

/// Where the slot and the target stand at first.
const START: Lsn = Lsn(5);

/// Keeps what it is given as the contract of [`Writer`] says.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    durable: Vec<u32>,
    partial: Vec<u32>,
    position: Lsn,
    opened: usize,
    /// Calls of `apply` until the one that panics.
    panics_in: Option<usize>,
    /// Each `apply` takes a permit.
    gate: Option<Arc<Semaphore>>,
    /// Loses its last commits when it is opened for the second time.
    fails_over: bool,
    /// Of the source that it is open for.
    timeline: u32,
    /// Timeline and position of each commit.
    commits: Vec<(u32, Lsn)>,
}

fn number(row: &Row) -> u32 {
    u32::from_le_bytes(row.0[1..5].try_into().unwrap())
}

impl Writer for Recorder {
    async fn open(&mut self, source: &SourceIdentity) -> Result<Lsn> {
        let mut kept = self.0.lock().unwrap();
        kept.timeline = source.timeline;
        kept.partial.clear();
        kept.opened += 1;
        if kept.fails_over && kept.opened == 2 {
            kept.durable.clear();
            kept.position = START;
        }
        Ok(kept.position)
    }

    async fn apply(&mut self, batch: Batch) -> Result<()> {
        let gate = self.0.lock().unwrap().gate.clone();
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
        let mut kept = self.0.lock().unwrap();
        kept.panics_in = match kept.panics_in {
            Some(0) => {
                drop((kept.panics_in.take(), kept));
                panic!("made for a test")
            }
            more => more.map(|more| more - 1),
        };
        for change in &batch.changes {
            match &change.operation {
                Operation::Insert { new } => kept.partial.push(number(new)),
                other => panic!("{other:?}"),
            }
        }
        if let Some(commit) = batch.commit {
            let mut rows = std::mem::take(&mut kept.partial);
            kept.durable.append(&mut rows);
            kept.position = commit.lsn;
            let timeline = kept.timeline;
            kept.commits.push((timeline, commit.lsn));
        }
        Ok(())
    }

    async fn close(&mut self) {}
}

struct Rig {
    kept: Recorder,
    spool: Spool,
    drive: Drive<OneByOne<Recorder>>,
    status: Status,
    shutdown: CancellationToken,
    link: watch::Sender<Option<LinkState>>,
}

fn rig() -> Rig {
    rig_with_spool(1 << 20)
}

fn rig_with_spool(limit: usize) -> Rig {
    let (spool, mut readers) = Spool::new(limit, 1);
    rig_over(spool, readers.remove(0), watch::channel(Ledger::new(1)).0.into())
}

fn source() -> SourceIdentity {
    let (database, slot) = ("d".to_owned(), "s".to_owned());
    SourceIdentity { system_id: 1, timeline: 1, database, slot, ancestors: None }
}

fn rig_over(spool: Spool, reader: Reader, ledger: Arc<watch::Sender<Ledger>>) -> Rig {
    let kept = Recorder::default();
    kept.0.lock().unwrap().position = START;
    let status = Status::new(vec![TargetStatus::new("a", TargetKind::Postgres)]);
    let shutdown = CancellationToken::new();
    let source =
        SourceInfo { identity: source(), wal_end: Lsn(1 << 40), server_version: "15".into() };
    let (link, link_receiver) = watch::channel(Some(LinkState { source, confirmed: START }));
    let retry = Retry {
        max_attempts: None,
        backoff: Duration::from_millis(1),
        max_backoff: Duration::from_millis(1),
    };
    let drive = Drive {
        index: 0,
        name: "a".into(),
        target: OneByOne::new(kept.clone()),
        reader,
        limits: BatchLimits { rows: 2, interval: Duration::ZERO },
        linger: Duration::ZERO,
        backoff: Backoff::new(retry),
        shared: Shared {
            ledger,
            link: link_receiver,
            status: status.clone(),
            metrics: Metrics::new(1),
            shutdown: shutdown.clone(),
        },
        checkpoint: Checkpoint::default(),
        copied: false,
        share: Arc::new(watch::channel(Share::everything()).0),
        reached: Lsn::INVALID,
        refused: None,
        control: Control::none(),
        letters: Letters::new(std::path::Path::new("/nonexistent"), "s", "a"),
    };
    Rig { kept, spool, drive, status, shutdown, link }
}

async fn append(spool: &mut Spool, frames: &[Frame]) {
    for frame in frames {
        spool.append(frame).await.unwrap();
    }
}

async fn until(reached: impl Fn() -> bool) {
    let waiting = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.expect("it comes to that");
}

async fn run(drive: Drive<OneByOne<Recorder>>) {
    tokio::time::timeout(LIMIT, drive.run()).await.expect("it ends");
}

#[tokio::test]
async fn a_panic_is_an_error_that_is_retried() {
    let mut rig = rig();
    append(&mut rig.spool, &transaction(1, 5, 1)).await;
    append(&mut rig.spool, &transaction(2, 3, 1)).await;
    rig.spool.close();
    rig.kept.0.lock().unwrap().panics_in = Some(1);
    run(rig.drive).await;
    assert_eq!(rig.status.snapshot().targets[0].retries, 1, "it was told");
    let kept = rig.kept.0.lock().unwrap();
    assert_eq!((&kept.durable[..], kept.position), (&[1, 1, 1, 1, 1, 2, 2, 2][..], Lsn(20)));
}

#[tokio::test]
async fn the_next_batch_gathers_while_one_is_written() {
    // the spool takes one frame, and another only when that has been read
    let mut rig = rig_with_spool(1);
    let gate = Arc::new(Semaphore::new(0));
    rig.kept.0.lock().unwrap().gate = Some(gate.clone());
    let drive = tokio::spawn(run(rig.drive));
    let appended = async {
        for xid in 1..=3 {
            append(&mut rig.spool, &transaction(xid, 1, 1)).await;
        }
    };
    tokio::time::timeout(LIMIT, appended).await.expect("the second is read");
    assert_eq!(rig.kept.0.lock().unwrap().durable, [0; 0], "none is written yet");
    gate.add_permits(10);
    rig.spool.close();
    drive.await.unwrap();
    assert_eq!(rig.kept.0.lock().unwrap().durable, [1, 2, 3]);
}

#[tokio::test]
async fn who_waits_for_a_sync_says_so() {
    let mut rig = rig();
    let (share, kept) = (rig.drive.share.clone(), rig.kept.clone());
    let drive = tokio::spawn(run(rig.drive));
    append(&mut rig.spool, &transaction(1, 2, 2)).await;
    until(|| kept.0.lock().unwrap().position == Lsn(10)).await;
    let table = relation("t");
    share.send_modify(|share| {
        let older = table.oid - 1;
        share.hold([(older, Hold::Held)].into());
        share.call([(older, format!("{}.{}", table.schema, table.name))].into());
    });
    append(&mut rig.spool, &transaction(2, 2, 2)).await;
    let status = || rig.status.snapshot().targets[0].clone();
    let waits = || status().last_error.is_some_and(|why| why.contains("is another table now"));
    until(|| waits() && status().state == TargetState::Retrying).await;
    // a look at it that comes to the same changes nothing
    share.send_modify(|_| {});
    append(&mut rig.spool, &transaction(3, 1, 1)).await;
    assert!(waits() && kept.0.lock().unwrap().position == Lsn(10), "{:?}", status());
    share.send_if_modified(|share| share.hold([].into()));
    until(|| kept.0.lock().unwrap().position == Lsn(30)).await;
    until(|| status().state == TargetState::Running && status().last_error.is_none()).await;
    rig.spool.close();
    drive.await.unwrap();
}

#[tokio::test]
async fn a_part_is_taken_back_also_while_shutting_down() {
    // many times: which of two ready things is looked at first is left to chance
    for _ in 0..30 {
        let mut rig = rig();
        let frames = transaction(1, 5, 1);
        append(&mut rig.spool, &frames[..3]).await;
        let drive = tokio::spawn(run(rig.drive));
        until(|| rig.kept.0.lock().unwrap().partial.len() >= 2).await;
        rig.shutdown.cancel();
        rig.spool.cut();
        append(&mut rig.spool, &frames).await;
        rig.spool.close();
        drive.await.unwrap();
        assert_eq!(rig.kept.0.lock().unwrap().durable, [1; 5]);
    }
}

#[tokio::test]
async fn a_target_that_lost_commits_between_two_parts_gets_them_again() {
    let mut rig = rig();
    rig.kept.0.lock().unwrap().fails_over = true;
    append(&mut rig.spool, &transaction(1, 1, 1)).await;
    let frames = transaction(2, 5, 1);
    append(&mut rig.spool, &frames[..3]).await;
    let drive = tokio::spawn(run(rig.drive));
    until(|| rig.kept.0.lock().unwrap().partial.len() >= 2).await;
    rig.spool.cut();
    until(|| rig.spool.rewind_wanted()).await;
    rig.spool.rewind();
    append(&mut rig.spool, &transaction(1, 1, 1)).await;
    append(&mut rig.spool, &frames).await;
    rig.spool.close();
    drive.await.unwrap();
    assert_eq!(rig.kept.0.lock().unwrap().durable, [1, 2, 2, 2, 2, 2]);
}

/// A target that makes commits durable only when somebody asks, and then by a transaction of its own, or by
/// the next commit.
#[derive(Default)]
struct Lazy {
    under_way: VecDeque<Option<Lsn>>,
    events: VecDeque<Event>,
    applied: Lsn,
    in_transaction: bool,
    hurried: bool,
}

impl Target for Lazy {
    async fn open(&mut self, _: &SourceIdentity) -> Result<Lsn> {
        self.applied = START;
        Ok(START)
    }

    fn has_room(&self, full: bool) -> bool {
        self.under_way.is_empty() || (full && self.under_way.len() < 2)
    }

    fn submit(&mut self, batch: Batch) {
        self.under_way.push_back(batch.commit.map(|commit| commit.lsn));
    }

    async fn next(&mut self) -> Result<Event> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        if let Some(commit) = self.under_way.pop_front() {
            self.in_transaction = commit.is_none();
            self.applied = commit.unwrap_or(self.applied);
            if self.hurried && !self.in_transaction {
                self.hurried = false;
                self.events.push_back(Event::Durable(self.applied));
            }
            return Ok(Event::Applied);
        }
        if self.hurried && !self.in_transaction {
            self.hurried = false;
            return Ok(Event::Durable(self.applied));
        }
        std::future::pending().await
    }

    fn hurry(&mut self) {
        self.hurried = true;
    }

    async fn close(&mut self) {}
}

/// What is remembered of commits is bounded, and the bound does not keep the one commit away that could
/// make them durable.
#[tokio::test]
async fn a_transaction_in_parts_comes_to_its_end_whatever_waits_for_the_disk() {
    let commits = u32::try_from(APPLIED_MAX).unwrap();
    let Rig { mut spool, drive, link: _link, .. } = rig_with_spool(64 << 20);
    for xid in 1..=commits {
        append(&mut spool, &transaction(xid, 1, 1)).await;
    }
    append(&mut spool, &transaction(commits + 1, 9, 1)).await;
    spool.close();
    let limits = BatchLimits { rows: 1, interval: Duration::ZERO };
    let ledger = Arc::clone(&drive.shared.ledger);
    let drive = Drive {
        index: drive.index,
        name: drive.name,
        target: Lazy::default(),
        reader: drive.reader,
        limits,
        linger: drive.linger,
        backoff: drive.backoff,
        shared: drive.shared,
        checkpoint: drive.checkpoint,
        copied: false,
        share: drive.share,
        reached: drive.reached,
        refused: drive.refused,
        control: drive.control,
        letters: drive.letters,
    };
    tokio::time::timeout(LIMIT, drive.run()).await.expect("it ends");
    let end = Lsn(u64::from(commits + 1) * 10);
    assert_eq!(ledger.borrow().confirmable(), Some(end));
}

/// Invariant 10.
#[tokio::test]
async fn a_target_with_a_gap_is_stopped_and_gets_nothing() {
    let mut rig = rig();
    let behind = Lsn(START.0 - 1);
    rig.kept.0.lock().unwrap().position = behind;
    append(&mut rig.spool, &transaction(1, 3, 1)).await;
    let ledger = rig.drive.shared.ledger.clone();
    let drive = tokio::spawn(run(rig.drive));
    until(|| rig.status.snapshot().targets[0].state == TargetState::Stopped).await;
    rig.shutdown.cancel();
    drive.await.unwrap();
    let kept = rig.kept.0.lock().unwrap();
    assert_eq!((kept.durable.len(), kept.partial.len(), kept.position), (0, 0, behind));
    assert_eq!(ledger.borrow().confirmable(), None, "the slot would move on");
}

/// Invariant 10: what a restored source sends goes on below the target's position, and passes it.
#[tokio::test]
async fn a_target_of_another_future_stays_stopped_when_the_source_passes_it() {
    let mut rig = rig();
    let ahead = Lsn(START.0 + 15);
    rig.kept.0.lock().unwrap().position = ahead;
    rig.link.send_modify(|link| {
        link.as_mut().expect("a source").source.wal_end = Lsn(START.0 + 5);
    });
    for xid in 1..=3 {
        append(&mut rig.spool, &transaction(xid, 3, 1)).await;
    }
    assert!(rig.spool.received() > ahead);
    let drive = rig.drive;
    let look = async |mut drive: Drive<OneByOne<Recorder>>| {
        let error = drive.session().await.expect_err("another source");
        assert_eq!(error.kind(), Kind::Identity);
        assert!(error.to_string().contains("the source's WAL ends at"), "{error}");
        drive
    };
    let drive = look(drive).await;
    // a new connection finds more WAL
    rig.link.send_modify(|link| {
        link.as_mut().expect("a source").source.wal_end = Lsn(START.0 + 1000);
    });
    let mut drive = look(drive).await;
    assert_eq!(rig.kept.0.lock().unwrap().durable, [0; 0]);

    // loaded anew, it has another position
    rig.kept.0.lock().unwrap().position = START;
    rig.spool.close();
    drive.session().await.expect("it goes on");
    assert_eq!(rig.kept.0.lock().unwrap().durable, [1, 1, 1, 2, 2, 2, 3, 3, 3]);
}

/// Invariant 10: a position is stored with the timeline that it was reached on.
#[tokio::test]
async fn what_a_promoted_source_sends_is_stored_with_its_timeline() {
    let mut rig = rig();
    append(&mut rig.spool, &transaction(1, 1, 1)).await;
    let drive = tokio::spawn(run(rig.drive));
    until(|| rig.kept.0.lock().unwrap().durable == [1]).await;
    rig.link.send_modify(|link| link.as_mut().expect("a source").source.identity.timeline = 2);
    append(&mut rig.spool, &transaction(2, 1, 1)).await;
    rig.spool.close();
    drive.await.unwrap();
    let kept = rig.kept.0.lock().unwrap();
    assert_eq!(kept.durable, [1, 2]);
    assert_eq!(kept.commits, [(1, Lsn(10)), (2, Lsn(20))]);
}
