use rsrepl_wire::{FrameWriter, Lsn};

use super::*;

fn dir() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("rsrepl-file-{:016x}", rand::random::<u64>()))
}

fn frame(messages: u32) -> Vec<u8> {
    let mut writer = FrameWriter::new();
    writer.start_stream(Lsn(9), 7);
    (0..messages).for_each(|oid| writer.truncate(Lsn(9), false, false, &[oid]));
    writer.finish().to_vec()
}

fn frames(file: &FrameFile) -> Vec<Vec<u8>> {
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
    let mut file = FrameFile::create(&dir, &usage).unwrap();
    for messages in 1..5 {
        file.append(&frame(messages)).unwrap();
    }
    assert_eq!(frames(&file), [1, 2, 3, 4].map(frame));
    assert_eq!(usage.bytes.load(Ordering::Relaxed), file.size());
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&dir).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "a file with a name");
    drop(file);
    assert_eq!((usage.bytes.load(Ordering::Relaxed), usage.files.load(Ordering::Relaxed)), (0, 0));
    fs::remove_dir(&dir).unwrap();
}

#[test]
fn a_cut_leaves_what_was_before() {
    let dir = dir();
    let mut file = FrameFile::create(&dir, &Arc::default()).unwrap();
    file.append(&frame(2)).unwrap();
    let second = file.size();
    file.append(&frame(5)).unwrap();
    file.append(&frame(1)).unwrap();
    // behind the third message of the second frame
    let offset = frame(3).len() as u32;
    file.cut(StreamPlace { frame: second, offset }).unwrap();
    assert_eq!(frames(&file), [frame(2), frame(3)]);
    file.append(&frame(4)).unwrap();
    assert_eq!(frames(&file), [frame(2), frame(3), frame(4)]);
    file.cut(StreamPlace { frame: second, offset: 24 }).unwrap();
    assert_eq!(frames(&file), [frame(2)]);
    file.cut(StreamPlace::default()).unwrap();
    assert_eq!((file.size(), frames(&file)), (0, Vec::new()));
    fs::remove_dir(&dir).unwrap();
}

#[test]
fn a_place_that_is_none_is_an_error() {
    let dir = dir();
    let mut file = FrameFile::create(&dir, &Arc::default()).unwrap();
    file.append(&frame(2)).unwrap();
    for (frame, offset) in [(0, 25), (1, 30), (u64::MAX, 24), (u64::MAX, u32::MAX), (1000, 24)] {
        let error = file.cut(StreamPlace { frame, offset }).unwrap_err();
        assert_eq!(error.kind(), Kind::Frame, "{frame} {offset}: {error}");
    }
    assert_eq!(frames(&file), [frame(2)], "nothing happened");
    file.file.write_all_at(&[0xFF], 40).unwrap();
    assert_eq!(file.read(0).unwrap_err().kind(), Kind::Frame, "damage is seen");
    fs::remove_dir(&dir).unwrap();
}

#[test]
fn a_folder_that_cannot_be_used_is_said() {
    let dir = dir();
    fs::write(&dir, "not a folder").unwrap();
    let error = check_dir(&dir).unwrap_err();
    assert_eq!(error.kind(), Kind::Disk);
    assert!(error.to_string().contains(&*dir.to_string_lossy()), "{error}");
    assert!(error.to_string().contains("spool.dir"), "{error}");
    fs::remove_file(&dir).unwrap();
}
