use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rsrepl_wire::{FrameWriter, Lsn};

use super::*;

const LIMIT: Duration = Duration::from_secs(30);

fn dir() -> PathBuf {
    std::env::temp_dir().join(format!("rsrepl-file-{:016x}", rand::random::<u64>()))
}

fn frame(messages: u32) -> Vec<u8> {
    let mut writer = FrameWriter::new();
    writer.start_stream(Lsn(9), 7);
    (0..messages).for_each(|oid| writer.truncate(Lsn(9), false, false, &[oid]));
    writer.finish().to_vec()
}

fn frames(file: &mut FrameFile) -> Vec<Vec<u8>> {
    file.settle().unwrap();
    let mut place = 0;
    let mut found = Vec::new();
    while let Some((frame, behind)) = file.read(place).unwrap() {
        found.push(frame.bytes().to_vec());
        place = behind;
    }
    found
}

#[test]
fn frames_come_back_and_nothing_is_left_behind() {
    let (dir, usage) = (dir(), Arc::new(Usage::default()));
    // of the whole process: other tests get what they ask for, too
    let before = rustix::process::umask(rustix::fs::Mode::empty());
    let mut file = FrameFile::create(&dir, &usage).unwrap();
    rustix::process::umask(before);
    // small ones, some of which are written together, and one that is larger than that
    let messages: Vec<u32> = (1..40).chain([1000]).chain(1..10).collect();
    assert!(frame(1000).len() > AT_ONCE && frame(39).len() < AT_ONCE);
    for messages in &messages {
        file.append(&frame(*messages)).unwrap();
        assert!(file.tail.len() < AT_ONCE, "it takes memory");
    }
    assert_eq!(frames(&mut file), messages.into_iter().map(frame).collect::<Vec<_>>());
    assert_eq!(file.tail.capacity(), 0);
    assert_eq!(usage.bytes.load(Ordering::Relaxed), file.size());
    assert_eq!(file.file.metadata().unwrap().len(), file.size());
    assert_eq!(mode(&fs::metadata(&dir).unwrap()), 0o700);
    assert_eq!(mode(&file.file.metadata().unwrap()), 0o600);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "a file with a name");
    drop(file);
    assert_eq!((usage.bytes.load(Ordering::Relaxed), usage.files.load(Ordering::Relaxed)), (0, 0));
    fs::remove_dir(&dir).unwrap();
}

fn mode(metadata: &fs::Metadata) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777
}

/// `written`: how many frames are in the file and not in memory when it is cut.
fn cut_leaves_what_was_before(written: usize) {
    let (dir, usage) = (dir(), Arc::new(Usage::default()));
    let mut file = FrameFile::create(&dir, &usage).unwrap();
    let mut second = 0;
    for (index, messages) in [2, 5, 1].into_iter().enumerate() {
        file.append(&frame(messages)).unwrap();
        if index == 0 {
            second = file.size();
        }
        if index + 1 == written {
            file.settle().unwrap();
        }
    }
    // behind the third message of the second frame
    let offset = frame(3).len() as u32;
    file.cut(StreamPlace { frame: second, offset }).unwrap();
    file.append(&frame(4)).unwrap();
    assert_eq!(file.size(), [2, 3, 4].map(|n| frame(n).len() as u64 + 4).iter().sum::<u64>());
    assert_eq!(usage.bytes.load(Ordering::Relaxed), file.size());
    if written == 0 {
        assert_eq!(file.written, 0, "this is not what was to be tested");
    }
    assert_eq!(frames(&mut file), [frame(2), frame(3), frame(4)]);
    file.cut(StreamPlace { frame: second, offset: 24 }).unwrap();
    assert_eq!(frames(&mut file), [frame(2)]);
    file.cut(StreamPlace::default()).unwrap();
    assert_eq!((file.size(), frames(&mut file)), (0, Vec::new()));
    fs::remove_dir(&dir).unwrap();
}

#[test]
fn a_cut_leaves_what_was_before() {
    (0..4).for_each(cut_leaves_what_was_before);
}

fn places_that_are_none_are_errors(settled: bool) {
    let dir = dir();
    let mut file = FrameFile::create(&dir, &Arc::default()).unwrap();
    file.append(&frame(2)).unwrap();
    if settled {
        file.settle().unwrap();
    }
    for (frame, offset) in [(0, 25), (1, 30), (u64::MAX, 24), (u64::MAX, u32::MAX), (1000, 24)] {
        let error = file.cut(StreamPlace { frame, offset }).unwrap_err();
        assert_eq!(error.kind(), Kind::Frame, "{frame} {offset}: {error}");
    }
    assert_eq!(frames(&mut file), [frame(2)], "nothing happened");
    file.file.write_all_at(&[0xFF], 40).unwrap();
    let error = file.read(0).unwrap_err();
    assert_eq!(error.kind(), Kind::Frame, "damage is seen");
    fs::remove_dir(&dir).unwrap();
}

#[test]
fn a_place_that_is_none_is_an_error() {
    places_that_are_none_are_errors(false);
    places_that_are_none_are_errors(true);
}

#[test]
fn what_could_not_be_written_is_not_counted_for_ever() {
    let (dir, usage) = (dir(), Arc::new(Usage::default()));
    let mut file = FrameFile::create(&dir, &usage).unwrap();
    file.append(&frame(2)).unwrap();
    // as a full disk does: it cannot be written to
    file.file = Arc::new(File::open("/dev/null").unwrap());
    assert_eq!(file.settle().unwrap_err().kind(), Kind::Disk);
    assert_eq!(file.append(&frame(1000)).unwrap_err().kind(), Kind::Disk);
    drop(file);
    assert_eq!((usage.bytes.load(Ordering::Relaxed), usage.files.load(Ordering::Relaxed)), (0, 0));
    fs::remove_dir(&dir).unwrap();
}

/// Those that wait for the disk do not keep the runtime's one thread from others.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn others_run_while_the_disk_is_waited_for() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let waits = tokio::spawn(async move { wait_for_disk(|| receiver.recv_timeout(LIMIT)) });
    tokio::spawn(async move { sender.send(()) }).await.unwrap().unwrap();
    waits.await.unwrap().unwrap();
}
