use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use rsrepl_wire::{Begin, Commit, FrameWriter};

use super::*;
use crate::spool::{Evicted, Pending};

/// A frame of transaction `xid`, padded by `padding` bytes; `end` is 10 × xid.
fn frame(xid: u32, begins: bool, commits: bool, padding: usize) -> Frame {
    let end_lsn = Lsn(u64::from(xid) * 10);
    let final_lsn = Lsn(end_lsn.0 - 1);
    let mut writer = FrameWriter::new();
    writer.start(final_lsn, xid);
    if begins {
        let origin = String::new();
        writer.begin(&Begin { xid, final_lsn, end_lsn, commit_time: 0, origin });
    }
    writer.logical(final_lsn, true, "padding", &vec![0; padding]);
    if commits {
        writer.commit(&Commit { final_lsn, end_lsn, commit_time: 0 });
    }
    Frame::parse(Bytes::copy_from_slice(writer.finish())).unwrap()
}

fn whole(xid: u32) -> Frame {
    frame(xid, true, true, 1000)
}

fn xid(entry: Option<(u64, Item)>) -> Option<u32> {
    match entry?.1 {
        Item::Frame(frame) => Some(frame.xid()),
        _ => None,
    }
}

async fn would_wait(future: impl Future) -> bool {
    tokio::time::timeout(Duration::from_millis(30), future).await.is_err()
}

#[tokio::test]
async fn each_reader_gets_everything_once_in_order() {
    let (mut spool, mut readers) = Spool::new(1 << 20, 2);
    for n in 1..=3 {
        spool.append(&whole(n)).await.unwrap();
    }
    spool.close();
    for reader in &mut readers {
        for n in 1..=3 {
            assert_eq!(xid(reader.next().await), Some(n));
        }
        assert!(reader.next().await.is_none());
    }
}

#[tokio::test]
async fn a_full_spool_waits_for_the_slowest_reader_and_drops_nothing() {
    let (mut spool, mut readers) = Spool::new(2500, 2);
    spool.append(&whole(1)).await.unwrap();
    spool.append(&whole(2)).await.unwrap();
    assert_eq!(xid(readers[0].try_next()), Some(1));
    assert!(would_wait(spool.append(&whole(3))).await, "reader 1 has read nothing");
    assert_eq!(xid(readers[1].try_next()), Some(1));
    spool.append(&whole(3)).await.unwrap();
    for n in 2..=3 {
        assert_eq!(xid(readers[1].try_next()), Some(n));
    }
    assert!(spool.view().bytes() <= 2500);
}

#[tokio::test]
async fn a_reader_restarts_at_its_checkpoint() {
    let (mut spool, mut readers) = Spool::new(1 << 20, 1);
    for n in 1..=3 {
        spool.append(&whole(n)).await.unwrap();
    }
    let reader = &mut readers[0];
    let (first, _) = reader.try_next().unwrap();
    reader.checkpoint(first + 1);
    assert_eq!(xid(reader.try_next()), Some(2));
    assert_eq!(xid(reader.try_next()), Some(3));
    reader.restart().unwrap();
    assert_eq!(xid(reader.try_next()), Some(2));
}

#[tokio::test]
async fn the_head_of_a_large_transaction_is_evicted_and_comes_again_after_a_rewind() {
    let (mut spool, mut readers) = Spool::new(2500, 2);
    spool.append(&frame(1, true, false, 1000)).await.unwrap();
    for _ in 0..5 {
        for reader in &mut readers {
            while reader.try_next().is_some() {}
        }
        spool.append(&frame(1, false, false, 1000)).await.unwrap();
    }
    assert_eq!(readers[0].restart(), Err(Evicted));
    assert!(spool.rewind_wanted());
    assert!(readers[0].try_next().is_none(), "nothing from before the rewind");
    spool.rewind();
    assert_eq!(spool.end(), Lsn::INVALID, "the source starts from the slot's own position");
    spool.append(&whole(1)).await.unwrap();
    assert_eq!(xid(readers[0].try_next()), Some(1));
    // the other reader sees that the transaction under way was cut
    let mut seen = std::iter::from_fn(|| readers[1].try_next()).map(|(_, item)| item);
    assert!(seen.any(|item| matches!(item, Item::Cut)));
    assert!(matches!(seen.next(), Some(Item::Frame(_))));
}

#[tokio::test]
async fn progress_is_one_entry_and_never_inside_a_transaction() {
    let (mut spool, mut readers) = Spool::new(1 << 20, 1);
    for lsn in 1..=1000 {
        spool.progress(Lsn(lsn), false);
    }
    assert!(matches!(
        readers[0].try_next(),
        Some((_, Item::Progress { lsn: Lsn(1000), urgent: false }))
    ));
    assert!(readers[0].try_next().is_none());
    spool.append(&frame(900, true, false, 0)).await.unwrap();
    spool.progress(Lsn(5000), true);
    spool.append(&frame(900, false, true, 0)).await.unwrap();
    assert_eq!(spool.end(), Lsn(9000));
}

#[tokio::test]
async fn a_broken_connection_cuts_only_a_transaction_under_way() {
    let (mut spool, mut readers) = Spool::new(1 << 20, 1);
    spool.append(&whole(1)).await.unwrap();
    spool.cut();
    spool.append(&frame(2, true, false, 0)).await.unwrap();
    spool.cut();
    assert_eq!(spool.end(), Lsn(10), "where the source goes on");
    spool.append(&whole(2)).await.unwrap();
    let kinds: Vec<bool> = std::iter::from_fn(|| readers[0].try_next())
        .map(|(_, item)| matches!(item, Item::Cut))
        .collect();
    assert_eq!(kinds, [false, false, true, false]);
}

#[tokio::test]
async fn frames_out_of_order_are_refused() {
    let (mut spool, _readers) = Spool::new(1 << 20, 1);
    assert!(spool.append(&frame(1, false, true, 0)).await.is_err(), "no begin");
    spool.append(&frame(1, true, false, 0)).await.unwrap();
    assert!(spool.append(&frame(2, true, true, 0)).await.is_err(), "inside another");
}

#[tokio::test]
async fn pending_is_what_is_not_applied() {
    let (mut spool, mut readers) = Spool::new(1 << 20, 1);
    let view = spool.view();
    spool.progress(Lsn(5), false);
    assert!(matches!(view.first_pending(0), Pending::Nothing));
    spool.append(&whole(1)).await.unwrap();
    while readers[0].try_next().is_some() {}
    assert!(matches!(view.first_pending(0), Pending::Frame(_)), "read is not applied");
    readers[0].applied(2);
    assert!(matches!(view.first_pending(0), Pending::Nothing));
    readers[0].restart().unwrap();
    assert!(matches!(view.first_pending(0), Pending::Frame(_)), "it was not durable");
    while readers[0].try_next().is_some() {}
    readers[0].checkpoint(2);
    assert!(matches!(view.first_pending(0), Pending::Nothing));
}

#[tokio::test]
async fn what_the_source_reads_again_is_not_where_to_go_on() {
    let (mut spool, mut readers) = Spool::new(1 << 20, 1);
    spool.starts_behind(Lsn(500));
    spool.progress(Lsn(300), false);
    assert_eq!(spool.end(), Lsn(500));
    assert!(readers[0].try_next().is_none());
    spool.rewind();
    spool.starts_behind(Lsn(400));
    spool.progress(Lsn(300), true);
    assert_eq!(spool.end(), Lsn(400));
}

/// What a source does with transactions that end at 10, 20, 30 …: sends them, alone or held back and
/// several in a frame, and says at any time how far it has decoded.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Decodes the next transaction, and holds it if it may.
    Hold,
    /// Decodes the next transaction, and sends everything; `true`: it may hold what comes next.
    Send(bool),
    /// Sends what is held, or takes back that it may hold.
    Flush,
    Keepalive,
    /// The connection breaks, and the source is asked to go on from where the spool is.
    Reconnect,
}

fn several(xids: std::ops::RangeInclusive<u32>, more: bool) -> Frame {
    let mut writer = FrameWriter::new();
    writer.start(Lsn(1), *xids.start());
    if xids.is_empty() {
        writer.start(Lsn(1), 0);
    }
    for xid in xids {
        let (final_lsn, end_lsn) = (Lsn(u64::from(xid) * 10 - 1), Lsn(u64::from(xid) * 10));
        let origin = String::new();
        writer.begin(&Begin { xid, final_lsn, end_lsn, commit_time: 0, origin });
        writer.commit(&Commit { final_lsn, end_lsn, commit_time: 0 });
    }
    writer.set_more(more);
    Frame::parse(Bytes::copy_from_slice(writer.finish())).unwrap()
}

proptest! {
    /// Whatever is held back when: what the spool takes for received was received, each once, in order.
    #[test]
    fn positions_of_a_source_that_holds_back_are_not_believed(
        acts in prop::collection::vec(
            prop_oneof![
                4 => Just(Act::Hold),
                2 => any::<bool>().prop_map(Act::Send),
                1 => Just(Act::Flush),
                4 => Just(Act::Keepalive),
                1 => Just(Act::Reconnect),
            ],
            0..60,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (mut spool, mut readers) = Spool::new(1 << 20, 1);
        let (mut sent, mut decoded, mut may_hold) = (0u32, 0u32, false);
        let deliver = |spool: &mut Spool, sent: &mut u32, decoded: u32, more: bool| {
            let frame = several(*sent + 1..=decoded, more);
            spool.expect_more(frame.more());
            runtime.block_on(spool.append(&frame)).unwrap();
            *sent = decoded;
        };
        for act in acts.into_iter().chain([Act::Flush, Act::Keepalive]) {
            match act {
                Act::Hold if may_hold => decoded += 1,
                Act::Hold => {
                    decoded += 1;
                    deliver(&mut spool, &mut sent, decoded, false);
                }
                Act::Send(more) => {
                    decoded += 1;
                    deliver(&mut spool, &mut sent, decoded, more);
                    may_hold = more;
                }
                Act::Flush if may_hold => {
                    deliver(&mut spool, &mut sent, decoded, false);
                    may_hold = false;
                }
                Act::Flush => {}
                Act::Keepalive => spool.progress(Lsn(u64::from(decoded) * 10 + 5), true),
                Act::Reconnect => {
                    spool.cut();
                    may_hold = false;
                    decoded = u32::try_from(spool.end().0 / 10).unwrap();
                    prop_assert!(decoded <= sent, "{} was not sent", spool.end());
                    sent = decoded;
                }
            }
            prop_assert!(spool.end().0 / 10 <= u64::from(sent), "{} was not sent", spool.end());
        }
        prop_assert_eq!(spool.end(), Lsn(u64::from(sent) * 10 + 5), "and then they are believed");
        let mut got = Vec::new();
        while let Some((_, item)) = readers[0].try_next() {
            if let Item::Frame(frame) = item {
                got.extend(frame.messages().filter_map(|message| match message.unwrap() {
                    rsrepl_wire::Message::Begin(begin) => Some(begin.xid),
                    _ => None,
                }));
            }
        }
        prop_assert_eq!(got, (1..=sent).collect::<Vec<_>>());
    }
}
