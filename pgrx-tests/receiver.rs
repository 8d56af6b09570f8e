//! A receiver of transactions in progress.

use std::collections::BTreeMap;

use bytes::Bytes;
use rsrepl_wire::{Frame, Message, STREAM_FRAME_OVERHEAD, StreamEnd};

use super::harness::{Options, Reader, Source};

/// Lays frames down as a receiver does.
#[derive(Default)]
pub(super) struct Receiver {
    pub(super) open: BTreeMap<u32, Vec<Vec<u8>>>,
    /// Lines of whole transactions in the order of their commits, without RELATION.
    pub(super) lines: Vec<String>,
    plain: Reader,
    pub(super) commits: usize,
    pub(super) aborts: usize,
}

impl Receiver {
    pub(super) fn take(&mut self, bytes: &Bytes) {
        let frame = Frame::parse(bytes.clone()).unwrap();
        if !frame.streams() {
            let lines = self.plain.lines(std::slice::from_ref(bytes));
            return self.keep(lines);
        }
        let xid = frame.xid();
        let laid = self.open.entry(xid).or_default();
        let size = |frames: &[Vec<u8>]| {
            frames.iter().map(|f| f.len() as u64 + STREAM_FRAME_OVERHEAD).sum::<u64>()
        };
        match frame.stream_end().unwrap() {
            None => {
                assert!(frame.messages().count() > 0, "an empty frame");
                laid.push(bytes.to_vec());
            }
            Some(StreamEnd::Abort(abort)) => {
                self.aborts += 1;
                let mut count = 0;
                while size(&laid[..count]) < abort.place.frame {
                    count += 1;
                }
                assert_eq!(size(&laid[..count]), abort.place.frame, "the start of a frame");
                let cut = laid.drain(count..).next().map(Bytes::from);
                if abort.place.cuts_frame() {
                    let cut = Frame::parse(cut.expect("a frame")).unwrap();
                    laid.push(cut.until(abort.place.offset as usize).unwrap());
                }
                assert_eq!(size(laid), abort.place.size());
                if abort.xid == xid {
                    self.open.remove(&xid);
                }
            }
            Some(StreamEnd::Commit(commit)) => {
                self.commits += 1;
                assert_eq!(size(laid), commit.size);
                let frames = self.open.remove(&xid).unwrap();
                let mut reader = Reader::default(); // descriptions of its own
                let mut lines = vec![match commit.begin.origin.as_str() {
                    "" => "BEGIN".to_owned(),
                    origin => format!("BEGIN from {origin}"),
                }];
                for bytes in frames {
                    let frame = Frame::parse(bytes.into()).unwrap();
                    let messages = frame.messages().map(Result::unwrap);
                    lines.extend(messages.map(|message: Message| reader.line(message)));
                }
                lines.push("COMMIT".into());
                self.keep(lines);
            }
        }
    }

    fn keep(&mut self, lines: Vec<String>) {
        self.lines.extend(lines.into_iter().filter(|line| !line.starts_with("RELATION")));
    }
}

/// What comes with streaming, after it was compared with what comes whole.
pub(super) fn compare(source: &mut Source, options: Options) -> Receiver {
    let whole = Reader::default().lines(&source.peek(options));
    let whole: Vec<_> = whole.into_iter().filter(|line| !line.starts_with("RELATION")).collect();
    let mut receiver = Receiver::default();
    let streaming: Vec<_> = [&[("streaming", "on")], options].concat();
    for frame in source.take(&streaming) {
        receiver.take(&frame);
    }
    assert!(receiver.open.is_empty(), "a transaction without an end: {:?}", receiver.open.keys());
    assert_eq!(receiver.lines.len(), whole.len());
    for (streamed, whole) in receiver.lines.iter().zip(&whole) {
        assert_eq!(streamed, whole);
    }
    receiver
}
