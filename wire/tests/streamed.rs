//! Frames of transactions that are sent while they run.

mod support;

use bytes::Bytes;
use proptest::prelude::*;
use rsrepl_wire::frame::HEADER_LEN;
use rsrepl_wire::{
    Begin, Commit, DecodeError, Frame, FrameWriter, Lsn, Message, STREAM_FRAME_OVERHEAD,
    StreamAbort, StreamCommit, StreamEnd, StreamPlace,
};
use support::{harness, plan};

fn begin(xid: u32) -> Begin {
    Begin { xid, final_lsn: Lsn(90), end_lsn: Lsn(99), commit_time: 5, origin: "o".into() }
}

fn streamed(write: impl FnOnce(&mut FrameWriter)) -> Vec<u8> {
    let mut writer = FrameWriter::new();
    writer.start_stream(Lsn(500), 7);
    write(&mut writer);
    writer.finish().to_vec()
}

fn read(bytes: Vec<u8>) -> Result<(Frame, Vec<Message>), DecodeError> {
    let frame = Frame::parse(Bytes::from(bytes))?;
    let messages = frame.messages().collect::<Result<_, _>>()?;
    Ok((frame, messages))
}

#[test]
fn closing_messages_are_read_as_they_were_written() {
    let commit = StreamCommit { size: 1 << 40, begin: begin(7) };
    let place = StreamPlace { frame: 1 << 33, offset: 77 };
    let abort = StreamAbort { xid: 9, lsn: Lsn(88), place };
    let (frame, messages) = read(streamed(|writer| writer.stream_commit(&commit))).unwrap();
    assert!(frame.streams() && !frame.begins() && !frame.commits());
    assert_eq!(messages, [Message::StreamCommit(commit.clone())]);
    assert_eq!(frame.stream_end(), Ok(Some(StreamEnd::Commit(commit))));
    let (frame, messages) = read(streamed(|writer| writer.stream_abort(&abort))).unwrap();
    assert_eq!(messages, [Message::StreamAbort(abort)]);
    assert_eq!(frame.stream_end(), Ok(Some(StreamEnd::Abort(abort))));
}

#[test]
fn messages_stand_where_they_may_only() {
    let abort = StreamAbort { xid: 7, lsn: Lsn(1), place: StreamPlace::default() };
    let commit = StreamCommit { size: 0, begin: begin(8) };
    let refused = [
        streamed(|w| w.stream_commit(&commit)), // of another transaction
        streamed(|w| {
            w.stream_abort(&abort);
            w.stream_abort(&abort);
        }),
        streamed(|w| {
            w.stream_abort(&abort);
            w.truncate(Lsn(1), false, false, &[]);
        }),
        streamed(|w| w.begin(&begin(7))),
        streamed(|w| w.commit(&Commit { final_lsn: Lsn(1), end_lsn: Lsn(2), commit_time: 0 })),
        streamed(|w| w.logical(Lsn(1), false, "p", b"")),
    ];
    for (index, bytes) in refused.into_iter().enumerate() {
        assert!(read(bytes).is_err(), "{index}");
    }
    let mut writer = FrameWriter::new();
    writer.start(Lsn(1), 7);
    writer.stream_abort(&abort);
    assert!(read(writer.finish().to_vec()).is_err(), "not in a streamed frame");
    writer.start_stream(Lsn(1), 0);
    assert!(read(writer.finish().to_vec()).is_err(), "of no transaction");
    let mut bytes = streamed(|w| w.truncate(Lsn(1), false, false, &[]));
    bytes[1] |= 0x01;
    assert!(read(harness::with_checksum(bytes)).is_err(), "another flag beside it");
}

#[test]
fn a_place_counts_the_bytes_before_it() {
    assert_eq!(StreamPlace::default().size(), 0);
    let first = StreamPlace { frame: 1000, offset: HEADER_LEN as u32 };
    assert!(!first.cuts_frame());
    assert_eq!(first.size(), 1000, "nothing is left of the frame");
    let second = StreamPlace { frame: 1000, offset: 60 };
    assert!(second.cuts_frame());
    assert_eq!(second.size(), 1060 + STREAM_FRAME_OVERHEAD);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What is left of a frame is what it would be had the rest never been written.
    #[test]
    fn a_cut_frame_is_the_frame_without_the_rest(planned in plan::frame()) {
        let planned = plan::PlannedFrame { begin: None, commit: None, ..planned };
        let mut writer = FrameWriter::new();
        let frame = Frame::parse(Bytes::from(planned.write(&mut writer))).unwrap();
        let mut ends = vec![(HEADER_LEN, 0)];
        for count in 1..=planned.messages.len() {
            let messages = planned.messages[..count].to_vec();
            let bytes = plan::PlannedFrame { messages, ..planned.clone() }.write(&mut writer);
            ends.push((bytes.len(), count));
            prop_assert_eq!(frame.until(bytes.len()).unwrap(), bytes);
        }
        for offset in 0..frame.len() + 8 {
            let known = ends.iter().any(|(end, _)| *end == offset);
            prop_assert_eq!(frame.until(offset).is_ok(), known, "offset {}", offset);
        }
    }
}
