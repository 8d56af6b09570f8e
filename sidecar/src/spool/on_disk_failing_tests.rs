//! A disk that fails, fills up, or takes its time.

use super::*;
use crate::spool::Item;
use crate::spool::log::Faults;

fn faults(rig: &Rig) -> Arc<Faults> {
    rig.spool.log.as_ref().unwrap().failing.0.clone()
}

async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let reached = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LIMIT, reached).await.expect(what);
}

#[tokio::test]
async fn what_ends_the_spool_is_told_to_who_appends_nothing() {
    for (part, panics) in [("not synchronized", false), ("a panic: it was told to", true)] {
        let folder = Folder::new();
        let mut rig = started(&folder.0, LARGE, 1);
        rig.append(&transaction(1, 2, 1)).await;
        rig.synced().await;
        let faults = faults(&rig);
        let fault = if panics { &faults.panic } else { &faults.sync };
        fault.store(true, Ordering::Relaxed);
        // one frame: behind a failure a second would be refused
        rig.append(&transaction(2, 2, 2)).await;
        let broken = rig.spool.broken();
        tokio::time::timeout(LIMIT, broken.cancelled()).await.expect("it is told");
        let failure = rig.spool.failure().expect("it has ended");
        assert!(failure.to_string().contains(part), "{failure}");
        rig.spool.end_writing();
        assert_eq!(all_behind(&folder.0, START).unwrap(), rows([(1, 2)]));
    }
}

#[tokio::test]
async fn what_a_failure_takes_away_is_not_taken_for_damage() {
    let folder = Folder::new();
    let mut rig = started(&folder.0, (1000, 1 << 20), 1);
    Taker::at(&mut rig.readers[0], START);
    let faults = faults(&rig);
    faults.slow.store(true, Ordering::Relaxed);
    let cursor = rig.spool.shared.lock().cursors[0].next;
    for n in 1.. {
        rig.append(&transaction(n, 1, 1)).await;
        // memory gives up what is written
        if rig.spool.shared.lock().base > cursor {
            break;
        }
    }
    faults.sync.store(true, Ordering::Relaxed);
    faults.slow.store(false, Ordering::Relaxed);
    let broken = rig.spool.broken();
    tokio::time::timeout(LIMIT, broken.cancelled()).await.expect("it is told");
    assert!(rig.readers[0].try_next().is_none());
}

#[tokio::test]
async fn a_reader_waits_while_what_it_reads_is_cut_off() {
    let folder = Folder::new();
    let mut rig = started(&folder.0, (3000, 1 << 20), 1);
    rig.append(&transaction(1, 2, 1)).await;
    rig.append(&transaction(2, 100, 1)[..80]).await;
    rig.synced().await;
    let mut taker = Taker::at(&mut rig.readers[0], START);
    taker.take(&mut rig.readers[0], 30).unwrap();
    let faults = faults(&rig);
    faults.slow.store(true, Ordering::Relaxed);
    rig.spool.cut();
    let shared = rig.spool.shared.clone();
    let cutting = || shared.lock().files.as_ref().unwrap().cutting.is_some();
    until("the cut is under way", cutting).await;
    assert!(rig.readers[0].try_next().is_none());
    faults.slow.store(false, Ordering::Relaxed);
    let next = tokio::time::timeout(LIMIT, rig.readers[0].next()).await.expect("it is told");
    assert!(matches!(next, Some((_, Item::Cut))), "{next:?}");
}

#[tokio::test]
async fn a_file_that_cannot_be_removed_keeps_those_behind_it() {
    let folder = Folder::new();
    let mut rig = started(&folder.0, (3000, 1 << 16), 1);
    faults(&rig).remove.store(true, Ordering::Relaxed);
    let mut taker = Taker::at(&mut rig.readers[0], START);
    for n in 1..=40 {
        rig.append(&transaction(n, 3, 1)).await;
        rig.synced().await;
        taker.take(&mut rig.readers[0], usize::MAX).unwrap();
    }
    rig.spool.end_writing();
    let before = folder.segments().len();
    assert!(before > 3);
    // and the next time they can be
    let mut rig = started(&folder.0, LARGE, 1);
    let mut taker = Taker::at(&mut rig.readers[0], START);
    taker.take(&mut rig.readers[0], usize::MAX).unwrap();
    assert_eq!(taker.rows, rows((1..=40).map(|n| (n, 3))));
    rig.spool.end_writing();
    assert_eq!(folder.segments().len(), 1);
}

#[tokio::test]
async fn what_is_there_is_served_when_the_disk_is_full_at_the_start() {
    let folder = Folder::new();
    // a new one has nothing to serve: the next connection tries again
    let mut rig = open(&folder.0, (3000, 1 << 16), 1).unwrap();
    *faults(&rig).full.lock().unwrap() = Some(0);
    assert_eq!(rig.spool.belongs_to(&source(), START).unwrap_err().kind(), Kind::Setup);
    *faults(&rig).full.lock().unwrap() = None;
    rig.spool.belongs_to(&source(), START).unwrap();
    for n in 1..=40 {
        rig.append(&transaction(n, 3, 1)).await;
        rig.synced().await;
    }
    rig.spool.end_writing();
    let before = folder.segments().len();

    let mut rig = open(&folder.0, LARGE, 1).unwrap();
    *faults(&rig).full.lock().unwrap() = Some(0);
    rig.spool.belongs_to(&source(), START).unwrap();
    let view = rig.spool.view();
    until("it is told", || view.on_disk().unwrap().stuck.is_some()).await;
    let mut taker = Taker::at(&mut rig.readers[0], START);
    taker.take(&mut rig.readers[0], usize::MAX).unwrap();
    assert_eq!(taker.rows, rows((1..=40).map(|n| (n, 3))));
    until("what was passed is removed", || folder.segments().len() < before).await;
    *faults(&rig).full.lock().unwrap() = None;
    rig.append(&transaction(41, 1, 1)).await;
    rig.synced().await;
    assert!(rig.spool.failure().is_none());
    taker.take(&mut rig.readers[0], usize::MAX).unwrap();
    assert_eq!(taker.rows.last(), Some(&41));
}
