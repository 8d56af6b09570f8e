//! Targets that are late on purpose, and that something is kept out of.

use super::*;
use crate::assemble::tests::combined;
use crate::batch::Position;
use crate::control::{Rules, Until};
use crate::spool::Recovered;
use crate::sync::share::Hold;

/// A folder that is not there yet.
fn folder() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("rsrepl-drive-{:016x}", rand::random::<u64>()))
}

fn pause() -> Rules {
    Rules { pauses: [None].into(), ..Rules::default() }
}

fn target(status: &Status) -> TargetStatus {
    status.snapshot().targets.remove(0)
}

#[tokio::test]
async fn a_pause_is_there_before_anything_is_given_out_and_ends_where_it_says() {
    let mut rig = rig();
    let (control, tell) = Control::fixed(pause(), Duration::ZERO);
    rig.drive.control = control;
    // one frame for all of them: the first two are let through in the middle of it
    append(&mut rig.spool, &combined(&[1, 2, 1], 100, &[true])).await;
    let drive = tokio::spawn(run(rig.drive));
    until(|| target(&rig.status).state == TargetState::Paused).await;
    until(|| target(&rig.status).held.is_some_and(|held| held.lsn == Lsn(10))).await;
    assert_eq!(rig.kept.0.lock().unwrap().durable, [0; 0]);
    let up_to_two = Some(Until::Lsn(Lsn(20)));
    tell(Rules { pauses: [up_to_two].into(), ..Rules::default() });
    until(|| target(&rig.status).held.is_some_and(|held| held.lsn == Lsn(30))).await;
    assert_eq!(target(&rig.status).state, TargetState::Paused);
    assert_eq!(rig.kept.0.lock().unwrap().durable, [1, 2, 2]);
    tell(Rules::default());
    until(|| rig.kept.0.lock().unwrap().durable == [1, 2, 2, 3]).await;
    rig.spool.close();
    drive.await.unwrap();
    assert_eq!(target(&rig.status).state, TargetState::Running);
    assert_eq!(rig.kept.0.lock().unwrap().opened, 1, "a pause that ends needs no new session");
}

#[tokio::test]
async fn what_has_gathered_when_a_pause_comes_is_not_handed_over() {
    let mut rig = rig();
    let (control, tell) = Control::fixed(Rules::default(), Duration::ZERO);
    rig.drive.control = control;
    let gate = Arc::new(Semaphore::new(0));
    rig.kept.0.lock().unwrap().gate = Some(gate.clone());
    append(&mut rig.spool, &transaction(1, 1, 1)).await;
    // this one is given out in parts, and taken back
    append(&mut rig.spool, &transaction(2, 5, 1)).await;
    append(&mut rig.spool, &transaction(3, 1, 1)).await;
    let drive = tokio::spawn(run(rig.drive));
    gate.add_permits(2);
    until(|| rig.kept.0.lock().unwrap().partial.len() == 2).await;
    tell(pause());
    gate.add_permits(100);
    until(|| target(&rig.status).held.is_some_and(|held| held.lsn == Lsn(20))).await;
    assert_eq!(rig.kept.0.lock().unwrap().durable, [1]);
    tell(Rules {
        skips: [Lsn(30)].into(),
        pauses: [Some(Until::Lsn(Lsn(20)))].into(),
        ..Rules::default()
    });
    until(|| target(&rig.status).held.is_some_and(|held| held.lsn == Lsn(30))).await;
    assert_eq!(rig.kept.0.lock().unwrap().durable, [1, 2, 2, 2, 2, 2]);
    tell(Rules::default());
    rig.spool.close();
    drive.await.unwrap();
    assert_eq!(rig.kept.0.lock().unwrap().durable, [1, 2, 2, 2, 2, 2, 3]);
}

#[tokio::test]
async fn a_transaction_is_skipped_when_it_is_in_the_dead_letters() {
    let mut rig = rig();
    let dir = folder();
    let rules = Rules { skips: [Lsn(20)].into(), ..Rules::default() };
    rig.drive.control = Control::fixed(rules, Duration::ZERO).0;
    // a folder cannot be made below a file
    let nowhere = std::path::Path::new("/dev/null/below");
    let letters = Letters::new(nowhere, "s", "a");
    rig.drive.letters = letters;
    append(&mut rig.spool, &transaction(1, 1, 1)).await;
    append(&mut rig.spool, &transaction(2, 3, 1)).await;
    append(&mut rig.spool, &transaction(3, 1, 1)).await;
    let shutdown = rig.shutdown.clone();
    let (kept, status) = (rig.kept.clone(), rig.status.clone());
    let drive = tokio::spawn(run(rig.drive));
    until(|| target(&status).last_error.is_some_and(|error| error.contains("dead_letters"))).await;
    assert!(kept.0.lock().unwrap().position < Lsn(20), "passed what was not kept");
    shutdown.cancel();
    rig.spool.close();
    drive.await.unwrap();

    let mut rig = super::rig();
    let rules = Rules { skips: [Lsn(20)].into(), ..Rules::default() };
    rig.drive.control = Control::fixed(rules, Duration::ZERO).0;
    rig.drive.letters = Letters::new(&dir, "s", "a");
    let path = rig.drive.letters.path().to_owned();
    append(&mut rig.spool, &transaction(1, 1, 1)).await;
    append(&mut rig.spool, &transaction(2, 3, 1)).await;
    append(&mut rig.spool, &transaction(3, 1, 1)).await;
    rig.spool.close();
    run(rig.drive).await;
    {
        let kept = rig.kept.0.lock().unwrap();
        assert_eq!((&kept.durable[..], kept.position), (&[1, 3][..], Lsn(30)));
    }
    assert_eq!(target(&rig.status).skipped, 1);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(text.lines().count(), 4, "three rows and their commit: {text}");
    assert!(text.lines().all(|line| line.contains("\"lsn\":\"0/14\"")), "{text}");
}

#[tokio::test]
async fn shutdown_neither_waits_for_a_delay_nor_cuts_it_short() {
    let mut rig = rig();
    // the transactions of these tests committed at the beginning of the year 2000
    let delay = Duration::from_secs(100 * 365 * 24 * 3600);
    rig.drive.control = Control::fixed(Rules::default(), delay).0;
    append(&mut rig.spool, &transaction(1, 1, 1)).await;
    rig.spool.progress(Lsn(15), true);
    let ledger = rig.drive.shared.ledger.clone();
    let drive = tokio::spawn(run(rig.drive));
    until(|| target(&rig.status).state == TargetState::Delayed).await;
    assert!(target(&rig.status).next_attempt.is_some(), "it says when");
    rig.shutdown.cancel();
    rig.spool.close();
    drive.await.unwrap();
    assert_eq!(rig.kept.0.lock().unwrap().durable, [0; 0]);
    assert_eq!(ledger.borrow().confirmable(), Some(START), "a keepalive overtook what waits");
}

/// The slot goes on, as what waits is on the disk, and memory holds none of it.
#[tokio::test]
async fn a_paused_target_holds_up_no_slot_with_a_spool_on_disk() {
    let dir = folder();
    let ledger = Arc::new(watch::channel(Ledger::of_spool(1)).0);
    let recovered = Recovered::open(&dir).unwrap();
    let (mut spool, mut readers) = Spool::on_disk(1, 1 << 30, 1, recovered, Arc::clone(&ledger));
    spool.belongs_to(&SourceIdentity { ancestors: Some(Vec::new()), ..source() }, START).unwrap();
    spool.starts_behind(START);
    let mut rig = rig_over(spool, readers.remove(0), Arc::clone(&ledger));
    let (control, tell) = Control::fixed(pause(), Duration::ZERO);
    rig.drive.control = control;
    let drive = tokio::spawn(run(rig.drive));
    until(|| ledger.borrow().all_opened()).await;
    rig.spool.accept().unwrap();
    for xid in 1..=50 {
        let frames = transaction(xid, 3, 2);
        tokio::time::timeout(LIMIT, append(&mut rig.spool, &frames)).await.expect("there is room");
    }
    until(|| ledger.borrow().confirmable() == Some(Lsn(500))).await;
    assert_eq!(ledger.borrow().applied_everywhere(), Some(START));
    assert_eq!(rig.kept.0.lock().unwrap().durable, [0; 0]);
    tell(Rules::default());
    until(|| ledger.borrow().applied_everywhere() == Some(Lsn(500))).await;
    rig.spool.close();
    drive.await.unwrap();
    let all: Vec<u32> = (1..=50).flat_map(|xid| [xid; 3]).collect();
    assert_eq!(rig.kept.0.lock().unwrap().durable, all);
    drop(rig.spool);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// What waits for a sync is gathered anew when a pause comes, and is still behind what the sync brings.
#[tokio::test]
async fn a_hand_over_while_it_is_paused_neither_loses_nor_doubles() {
    let mut rig = rig();
    let (control, tell) = Control::fixed(pause(), Duration::ZERO);
    rig.drive.control = control;
    let share = Arc::new(watch::channel(Share::main()).0);
    rig.drive.share = Arc::clone(&share);
    let recorded = |hold| {
        share.send_modify(|share| {
            share.hold([(1, hold)].into());
        });
    };
    recorded(Hold::Held);
    for xid in 1..=4 {
        append(&mut rig.spool, &transaction(xid, 1, 1)).await;
    }
    let drive = tokio::spawn(run(rig.drive));
    until(|| target(&rig.status).held.is_some_and(|held| held.lsn == Lsn(10))).await;
    until(|| share.borrow().is_settled()).await;
    recorded(Hold::From { at: Lsn(20), there: false });
    tell(Rules { pauses: [Some(Until::Lsn(Lsn(30)))].into(), ..Rules::default() });
    until(|| target(&rig.status).held.is_some_and(|held| held.lsn == Lsn(40))).await;
    until(|| rig.kept.0.lock().unwrap().position == Lsn(20)).await;
    tell(pause());
    until(|| target(&rig.status).held.is_some_and(|held| held.lsn == Lsn(30))).await;
    recorded(Hold::From { at: Lsn(20), there: true });
    assert_eq!(rig.kept.0.lock().unwrap().durable, [0; 0]);
    tell(Rules::default());
    until(|| rig.kept.0.lock().unwrap().durable == [3, 4]).await;
    rig.spool.close();
    drive.await.unwrap();
    assert_eq!(rig.kept.0.lock().unwrap().durable, [3, 4]);
}

#[tokio::test]
async fn what_waits_while_the_source_is_promoted_comes_once() {
    let mut rig = rig();
    let (control, tell) = Control::fixed(pause(), Duration::ZERO);
    rig.drive.control = control;
    append(&mut rig.spool, &transaction(1, 1, 1)).await;
    let drive = tokio::spawn(run(rig.drive));
    until(|| target(&rig.status).held.is_some_and(|held| held.lsn == Lsn(10))).await;
    rig.link.send_modify(|link| link.as_mut().expect("a source").source.identity.timeline = 2);
    append(&mut rig.spool, &transaction(2, 1, 1)).await;
    tell(Rules::default());
    rig.spool.close();
    drive.await.unwrap();
    let kept = rig.kept.0.lock().unwrap();
    assert_eq!(kept.durable, [1, 2]);
    assert_eq!(kept.commits.last(), Some(&(2, Lsn(20))));
}

#[tokio::test]
async fn a_way_out_is_told_where_it_leads_out() {
    let mut rig = rig();
    let transaction = Position { lsn: Lsn(20), ..Position::default() };
    let error = Error::new(Kind::Row, "no").of(transaction);
    let told = rig.drive.way_out(&error, TargetState::Stopped);
    assert_eq!(told, "", "of a sync's stream nothing is skipped");
    rig.drive.control = Control::fixed(Rules::default(), Duration::ZERO).0;
    let told = rig.drive.way_out(&error, TargetState::Stopped);
    assert!(told.ends_with("rsrepl skip --target a --lsn 0/14"), "{told}");
    assert_eq!(rig.drive.way_out(&error, TargetState::Retrying), "");
}
