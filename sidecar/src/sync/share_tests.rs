use std::sync::Arc;

use proptest::prelude::*;
use rsrepl_wire::{Relation, ReplicaIdentity};

use super::*;
use crate::batch::{Change, Operation, Position};

/// The table that is synced, and one that is not.
const TABLES: [u32; 2] = [1, 2];

fn change(oid: u32, end: u64) -> Change {
    let relation = Relation {
        oid,
        schema: "public".into(),
        name: format!("t{oid}"),
        replica_identity: ReplicaIdentity::Default,
        columns: Vec::new(),
    };
    let operation = Operation::Truncate { restart_identity: false, parted: false };
    Change { lsn: Lsn(end - 1), end_lsn: Lsn(end), relation: Arc::new(relation), operation }
}

/// A stream and its half of the target: transactions end at 10, 20, …, each with a change of both tables.
struct Stream {
    share: Share,
    /// Handed over: the end, and the oids that were applied.
    written: Vec<(u64, Vec<u32>)>,
    next: u64,
    durable: u64,
}

impl Stream {
    fn new(share: Share, from: u64) -> Stream {
        let mut stream = Stream { share, written: Vec::new(), next: from + 10, durable: from };
        stream.share.opened(Lsn(from));
        stream
    }

    fn step(&mut self, end: u64) {
        if self.next > end {
            return;
        }
        let mut batch = Batch {
            changes: TABLES.map(|oid| change(oid, self.next)).into(),
            commit: Some(Position { lsn: Lsn(self.next), ..Position::default() }),
            ..Batch::default()
        };
        if self.share.take(&mut batch) {
            let applied = batch.changes.iter().map(|change| change.relation.oid).collect();
            self.written.push((self.next, applied));
            self.next += 10;
        }
    }

    fn store(&mut self) {
        self.durable = self.next - 10;
        self.share.stored = Lsn(self.durable);
    }

    /// Goes on from what is durable; with a share that was made from the records if the process was killed, too.
    fn crash(&mut self, share: Option<Share>) {
        self.written.retain(|(end, _)| *end <= self.durable);
        self.next = self.durable + 10;
        self.share = share.unwrap_or(self.share.clone());
        self.share.opened(Lsn(self.durable));
    }
}

/// What is recorded on the target.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Recorded {
    Nothing,
    Held,
    From(Lsn),
    There(Lsn),
}

fn main_share(recorded: Recorded) -> Share {
    let hold = match recorded {
        Recorded::Nothing => None,
        Recorded::Held => Some(Hold::Held),
        Recorded::From(at) => Some(Hold::From { at, there: false }),
        Recorded::There(at) => Some(Hold::From { at, there: true }),
    };
    let mut share = Share::main();
    share.hold(hold.map(|hold| (1, hold)).into_iter().collect());
    share
}

fn sync_share(recorded: Recorded) -> Share {
    let until = match recorded {
        Recorded::From(at) | Recorded::There(at) => Some(at),
        Recorded::Nothing | Recorded::Held => None,
    };
    Share::sync([1], until)
}

proptest! {
    /// However both streams run, whatever crashes, and whenever it is decided where one ends: each change of the
    /// table behind its snapshot is applied once, and each of another table once, by the main stream.
    #[test]
    fn each_change_is_applied_once(steps in prop::collection::vec(0u8..11, 1..300)) {
        let mut end = 100;
        let mut main = Stream::new(main_share(Recorded::Nothing), 0);
        let mut sync: Option<Stream> = None;
        let (mut recorded, mut copied_at) = (Recorded::Nothing, 0);
        // where the sync is to end, before that is recorded
        let mut chosen = None;
        // then everything runs to its end
        let rest = std::iter::repeat_n([1, 3, 2, 4, 7, 9, 8, 1, 3, 2, 4], 200).flatten();
        for step in steps.into_iter().chain(rest) {
            // it has ended when it is recorded that all of its own is there
            let runs = matches!(recorded, Recorded::Held | Recorded::From(_));
            match step {
                3 | 4 | 6 if !runs => {}
                0 => end += 10,
                1 => main.step(end),
                2 => main.store(),
                3 => if let Some(sync) = &mut sync { sync.step(end) },
                4 => if let Some(sync) = &mut sync { sync.store() },
                5 => main.crash(None),
                6 => if let Some(sync) = &mut sync { sync.crash(None) },
                10 => {
                    chosen = None;
                    main.crash(Some(main_share(recorded)));
                    if let (Some(sync), true) = (&mut sync, runs) { sync.crash(Some(sync_share(recorded))) }
                }
                7 if recorded == Recorded::Nothing && copied_at == 0 => {
                    recorded = Recorded::Held;
                    main.share.hold([(1, Hold::Held)].into());
                    prop_assert!(!main.share.is_settled());
                    let seen = main.share.generation();
                    main.share.settle(seen);
                    prop_assert!(main.share.is_settled());
                    // the table is emptied, and the snapshot is taken at some time after that
                    copied_at = end;
                    main.written.iter_mut().for_each(|(_, oids)| oids.retain(|oid| *oid != 1));
                    sync = Some(Stream::new(sync_share(recorded), copied_at));
                }
                7 => if let (Some(sync), Recorded::Held, None) = (&mut sync, recorded, chosen) {
                    // what was received, by whichever of the two has received less
                    let received = Lsn(main.next.min(sync.next) - 10);
                    chosen = Some(hand_over_at(&mut main.share, &mut sync.share, &[1], received));
                },
                9 => if let (Some(sync), Recorded::Held, Some(at)) = (&mut sync, recorded, chosen) {
                    recorded = Recorded::From(at);
                    sync.share.end_at(at);
                },
                _ => match (&sync, recorded) {
                    (Some(sync), Recorded::From(at)) if Lsn(sync.durable) >= at => {
                        recorded = Recorded::There(at);
                        main.share.hold([(1, Hold::From { at, there: true })].into());
                    }
                    (Some(_), Recorded::There(at)) if Lsn(main.durable) >= at => {
                        recorded = Recorded::Nothing;
                        main.share.hold(BTreeMap::new());
                    }
                    _ => {}
                },
            }
        }
        prop_assert_eq!(recorded, Recorded::Nothing);
        prop_assert_eq!(main.next, end + 10);
        for at in (10..=end).step_by(10) {
            let by = |stream: &Stream, oid: u32| {
                let of = stream.written.iter().filter(|(end, _)| *end == at);
                of.filter(|(_, oids)| oids.contains(&oid)).count()
            };
            let synced = sync.as_ref().map_or([0, 0], |sync| [by(sync, 1), by(sync, 2)]);
            prop_assert_eq!(by(&main, 1) + synced[0], usize::from(at > copied_at), "at {}", at);
            prop_assert_eq!((by(&main, 2), synced[1]), (1, 0), "at {}", at);
        }
    }
}

#[test]
fn what_waits_is_as_it_was_and_the_target_hears_of_what_the_sync_has_changed() {
    let mut share = Share::main();
    share.hold([(1, Hold::From { at: Lsn(15), there: false })].into());
    let batch = || Batch { changes: vec![change(2, 20), change(1, 20)], ..Batch::default() };
    let mut waits = batch();
    assert!(!share.take(&mut waits));
    assert_eq!(waits.changes.len(), 2);
    let mut before = Batch { changes: vec![change(1, 15), change(2, 15)], ..Batch::default() };
    assert!(share.take(&mut before));
    assert_eq!(before.changes.len(), 1, "of before, it is the sync's");
    assert!(share.hold([(1, Hold::From { at: Lsn(15), there: true })].into()));
    assert!(share.take(&mut waits));
    assert_eq!((waits.changes.len(), waits.anew), (2, vec![1]));
    let mut next = batch();
    assert!(share.take(&mut next));
    assert!(next.anew.is_empty(), "it is told once");
}

#[test]
fn a_truncate_of_which_another_stream_has_a_part_says_so() {
    let mut share = Share::main();
    share.hold([(1, Hold::Held)].into());
    let parted = |batch: &Batch| -> Vec<(u32, bool)> {
        let of = |change: &Change| match change.operation {
            Operation::Truncate { parted, .. } => (change.relation.oid, parted),
            _ => unreachable!("there are no others"),
        };
        batch.changes.iter().map(of).collect()
    };
    let changes = vec![change(1, 20), change(2, 20), change(2, 30)];
    let mut batch = Batch { changes, ..Batch::default() };
    assert!(share.take(&mut batch));
    assert_eq!(parted(&batch), [(2, true), (2, false)]);
}

#[test]
fn a_newer_table_of_the_same_name_waits_until_the_sync_has_written_all_of_its_own() {
    let named = |oid: u32, name: &str| {
        let mut change = change(oid, 20);
        let relation = Relation { name: name.into(), ..(*change.relation).clone() };
        change.relation = Arc::new(relation);
        Batch { changes: vec![change], ..Batch::default() }
    };
    let mut share = Share::main();
    let hold = |share: &mut Share, there: Option<bool>| {
        let hold = match there {
            None => Hold::Held,
            Some(there) => Hold::From { at: Lsn(50), there },
        };
        share.hold([(5, hold)].into());
        share.call([(5, "public.orders".to_owned())].into());
    };
    hold(&mut share, None);
    for other in [named(4, "orders"), named(6, "others"), named(6, "s.orders")] {
        assert!(
            share.take(&mut { other }),
            "an older one, which the sync may wait for, or of another name"
        );
    }
    assert!(!share.take(&mut named(6, "orders")));
    assert_eq!(share.clash(), Some("public.orders"));
    hold(&mut share, Some(false));
    assert!(!share.take(&mut named(6, "orders")));
    hold(&mut share, Some(true));
    assert!(share.take(&mut named(6, "orders")));
    assert_eq!(share.clash(), None);
}

#[test]
fn what_is_synced_once_more_is_waited_for() {
    let mut share = Share::main();
    let held = |share: &mut Share, hold| {
        share.hold([(5, hold)].into());
    };
    held(&mut share, Hold::Held);
    assert!(!share.is_settled());
    share.settle(share.generation());
    held(&mut share, Hold::From { at: Lsn(50), there: false });
    assert!(share.waits_for(5) && !share.waits_for(6));
    held(&mut share, Hold::From { at: Lsn(50), there: true });
    assert!(share.is_settled() && !share.waits_for(5));
    // from there on it has written to it
    held(&mut share, Hold::Held);
    assert!(!share.is_settled());
}
