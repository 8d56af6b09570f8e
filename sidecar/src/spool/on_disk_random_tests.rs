//! Random appends, cuts, restarts and crashes.

use proptest::prelude::*;

use super::*;

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
                let per_frame = if let Step::Transaction(_, per_frame) = step { per_frame } else { 2 };
                let frames = transaction(n, rows, per_frame);
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
