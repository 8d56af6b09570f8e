//! A transaction that is sent while it runs: its closing messages, and places in it.
//!
//! Its frames have the flag STREAM and come between those of whole transactions. A receiver lays them
//! down one behind the other until the transaction ends; what a subtransaction wrote is at the end of
//! them when it aborts, and is cut off there. Plugin and receiver count the bytes that are laid down
//! in the same way ([`StreamPlace`]), so that the plugin can say where to cut, and neither has to
//! remember which subtransaction wrote what.

use crate::error::DecodeError;
use crate::frame::HEADER_LEN;
use crate::lsn::Lsn;
use crate::message::{Begin, Body};

/// Bytes that a frame counts beside its own: it is laid down behind its length, a u32.
pub const STREAM_FRAME_OVERHEAD: u64 = 4;

/// A place between two messages of a streamed transaction, and where everything from there on is cut
/// off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamPlace {
    /// Bytes laid down before the frame.
    pub frame: u64,
    /// Offset of a message in that frame.
    pub offset: u32,
}

impl StreamPlace {
    /// Bytes that are laid down when everything from here on is cut off. A frame that is left without
    /// messages goes too.
    pub fn size(self) -> u64 {
        match self.cuts_frame() {
            true => self.frame.saturating_add(STREAM_FRAME_OVERHEAD + u64::from(self.offset)),
            false => self.frame,
        }
    }

    /// Messages before the place are in the same frame, and stay.
    pub fn cuts_frame(self) -> bool {
        self.offset as usize > HEADER_LEN
    }
}

/// The last message of a streamed transaction that has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamCommit {
    /// Bytes that its receiver has laid down.
    pub size: u64,
    /// What BEGIN says of a transaction that is sent whole.
    pub begin: Begin,
}

/// The whole transaction, or one of its subtransactions, was rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamAbort {
    /// Of what was rolled back: that of the frame for the whole transaction, which ends here.
    pub xid: u32,
    /// LSN of the abort record; 0 when there is none.
    pub lsn: Lsn,
    /// Everything from here on is cut off; the very start for the whole transaction.
    pub place: StreamPlace,
}

/// See [`Frame::stream_end`](crate::Frame::stream_end).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    Commit(StreamCommit),
    Abort(StreamAbort),
}

impl StreamCommit {
    pub(crate) fn put(&self, buf: &mut Vec<u8>) {
        buf.extend_from_slice(&self.size.to_le_bytes());
        self.begin.put(buf);
    }

    pub(crate) fn read(body: &mut Body<'_>) -> Result<Self, DecodeError> {
        let size = body.reader.u64("size of the transaction")?;
        Ok(StreamCommit { size, begin: Begin::read(body)? })
    }
}

impl StreamAbort {
    pub(crate) fn put(&self, buf: &mut Vec<u8>) {
        buf.extend_from_slice(&self.xid.to_le_bytes());
        buf.extend_from_slice(&self.lsn.0.to_le_bytes());
        buf.extend_from_slice(&self.place.frame.to_le_bytes());
        buf.extend_from_slice(&self.place.offset.to_le_bytes());
    }

    pub(crate) fn read(body: &mut Body<'_>) -> Result<Self, DecodeError> {
        let r = &mut body.reader;
        Ok(StreamAbort {
            xid: r.u32("xid")?,
            lsn: r.lsn("abort lsn")?,
            place: StreamPlace {
                frame: r.u64("bytes before the frame")?,
                offset: r.u32("offset in the frame")?,
            },
        })
    }
}
