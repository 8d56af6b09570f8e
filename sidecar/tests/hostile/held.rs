//! What memory is held by, of what a source has sent.

use rsrepl_sidecar::source::{Event, ReplicationClient};
use rsrepl_wire::Lsn;
use tokio::time::timeout;

use crate::walsender::{Attack, Stage, Then, Walsender, keepalive, message, xlog_data};
use crate::{Alone, LIMIT, block_on, connect_to, frames, memory};

/// Frames that are kept, as a spool does whose target is away.
const KEPT: usize = 120;

/// KiB that they may hold, each with a buffer of 256 KiB if nobody takes care.
const HELD_MAX: u64 = 12 << 10;

/// Small frames with a lot between them that is not kept.
fn diluted(between: &[u8], name: &str) {
    let _alone = Alone::begin();
    let one = [xlog_data(&frames::transaction(7, b"small")), between.to_vec()].concat();
    let attack = Attack {
        name: name.to_owned(),
        stage: Stage::Stream,
        head: Vec::new(),
        again: (one.clone(), KEPT * one.len()),
        then: Then::Closed,
    };
    let (before, _) = memory();
    let kept = block_on(async {
        let walsender = Walsender::start(vec![attack], 2).await;
        let mut client = ReplicationClient::connect(&connect_to(walsender.port)).await.unwrap();
        let start = client.create_slot("s", "rsrepl").await.unwrap();
        let mut stream = client.start("s", start, &[]).await.unwrap();
        let mut kept = Vec::new();
        while kept.len() < KEPT {
            match timeout(LIMIT, stream.next()).await.expect("it comes").unwrap() {
                Event::Frame { frame, .. } => kept.push(frame),
                Event::Keepalive { wal_end, .. } => assert_eq!(wal_end, Lsn(9)),
                other => panic!("{other:?}"),
            }
        }
        kept
    });
    let (now, _) = memory();
    let grown = now.saturating_sub(before);
    println!("{grown} KiB for {} frames of {} bytes", kept.len(), kept[1].len());
    assert!(grown <= HELD_MAX, "{grown} KiB are held by {} small frames", kept.len());
}

#[test]
fn keepalives_between_frames_are_not_held() {
    let keepalive = keepalive(9, 0, false);
    diluted(&keepalive.repeat(240_000 / keepalive.len()), "keepalives");
}

#[test]
fn settings_between_frames_are_not_held() {
    let setting = [&b"application_name\0"[..], &[b'x'; 4000], b"\0"].concat();
    diluted(&message(b'S', &setting).repeat(60), "settings");
}
