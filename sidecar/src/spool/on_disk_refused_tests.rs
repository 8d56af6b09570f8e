//! What is not taken for a spool of this source, or for a whole one.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, PermissionsExt};

use super::*;
use crate::target::Ancestor;

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

/// Files and folders in there, with their modes.
fn modes(path: &Path) -> Vec<(PathBuf, u32)> {
    let of = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut found = vec![(path.to_owned(), of(path))];
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        found.extend(entries.flat_map(|path| modes(&path)));
    }
    found
}

#[tokio::test]
async fn nobody_else_reads_it_whatever_the_umask() {
    let above = Folder::new();
    let folder = Folder(above.0.join("spool/log"));
    // of the whole process: other tests get what they ask for, too
    let before = rustix::process::umask(rustix::fs::Mode::empty());
    some(&folder).await;
    rustix::process::umask(before);
    let found = modes(&above.0);
    for (path, mode) in &found {
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(*mode, expected, "{}: {mode:o}", path.display());
    }
    for name in ["lock", "spool.json"] {
        assert!(found.iter().any(|(path, _)| path.ends_with(name)), "{name}: {found:?}");
    }
    assert!(found.len() > 3 + 2 + 3, "folders, files, segments: {found:?}");
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
    rig.spool.belongs_to(&source(), Lsn(400)).unwrap();
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
    let branch = |timeline, left: &[(u32, u64)]| {
        let ancestor = |(timeline, left_at): &(u32, u64)| Ancestor {
            timeline: *timeline,
            left_at: Lsn(*left_at),
        };
        let ancestors = Some(left.iter().map(ancestor).collect());
        SourceIdentity { timeline, ancestors, ..source() }
    };
    let of = |change: fn(&mut SourceIdentity)| {
        let mut source = source();
        change(&mut source);
        source
    };
    let mut refuses = |source: &SourceIdentity, confirmed, part: &str| {
        let error = rig.spool.belongs_to(source, Lsn(confirmed)).unwrap_err();
        assert_eq!(error.kind(), Kind::Identity);
        assert!(error.to_string().contains(part), "{error}");
        assert!(error.advice().is_some());
    };
    refuses(&of(|s| s.system_id = 2), 5, "another source");
    refuses(&of(|s| s.slot = "x".into()), 5, "slot x");
    refuses(&source(), 401, "changes between them are missing");
    refuses(&branch(2, &[(1, 399)]), 5, "left at 0/18F");
    refuses(&branch(3, &[(1, 500), (2, 399)]), 5, "left at 0/18F");
    // no history of it can be had
    refuses(&branch(2, &[]), 5, "left at 0/0");
    // the promoted one has all of it
    rig.spool.belongs_to(&branch(2, &[(1, 400)]), Lsn(5)).unwrap();
    rig.spool.starts_behind(Lsn(5));
    rig.append(&transaction(41, 1, 1)).await;
    rig.spool.end_writing();
    // which is remembered, also of another one with the same number
    for (branch, good) in [
        (source(), false),
        (branch(2, &[(1, 400)]), true),
        (branch(2, &[(1, 405)]), false),
        // is not forgotten when the source's is gone for once
        (branch(2, &[]), true),
        (branch(2, &[(1, 405)]), false),
        (branch(3, &[(1, 400), (2, 410)]), true),
        (branch(4, &[(1, 400), (2, 409)]), false),
    ] {
        let mut rig = open(&folder.0, LARGE, 1).unwrap();
        let seen = rig.spool.belongs_to(&branch, Lsn(5));
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

/// The thread that writes would end with it, and the process then.
#[tokio::test]
async fn a_frame_that_cannot_be_read_is_not_written() {
    let folder = Folder::new();
    let mut rig = started(&folder.0, LARGE, 1);
    rig.append(&transaction(1, 3, 9)).await;
    let frame = transaction(2, 3, 9).remove(0);
    for lie in 0..frame.len() {
        let mut bytes = frame.bytes().to_vec();
        bytes[lie] ^= 0x80;
        let sum = rsrepl_wire::frame::checksum(&bytes).to_le_bytes();
        bytes[4..8].copy_from_slice(&sum);
        let Ok(lie) = rsrepl_wire::Frame::parse(bytes.into()) else { continue };
        if rig.spool.append(&lie).await.is_ok() {
            rig.spool.cut();
        }
    }
    let mut known = 0;
    let error = loop {
        let frame = crate::assemble::tests::descriptions(known, 10, false);
        match rig.spool.append(&frame).await {
            Ok(()) => known += 10,
            Err(error) => break error,
        }
        assert!(known < 10_000, "tables without end");
    };
    assert!(error.to_string().contains("describes tables"), "{error}");
    rig.append(&transaction(3, 3, 9)).await;
    rig.synced().await;
    assert!(rig.spool.failure().is_none(), "{:?}", rig.spool.failure());
}
