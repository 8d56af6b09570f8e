//! The unit of one `OutputPluginWrite`: a checksummed header and a run of messages.
//!
//! ```text
//!  0  u8   format version
//!  1  u8   flags: 0x01 starts between transactions, with a BEGIN; 0x02 ends between transactions,
//!           with a COMMIT; 0x04 MORE; 0x08 a part of a transaction that has not ended (with no
//!           other flag but MORE)
//!  2  u16  zero
//!  4  u32  CRC32C of bytes 0..4 and 8..end
//!  8  u64  base LSN
//! 16  u32  xid of its first transaction; 0 for a logical message outside of one, and without messages
//! 20  u32  number of messages
//! 24       messages
//! ```
//!
//! A transaction is in one frame, with others before and behind it, or in several without another
//! frame between them. A frame in which a transaction ends, ends with a transaction: so one that goes
//! on in the next frame has no other beside it. A non-transactional logical message is a frame of its
//! own, with neither of the first two flags and xid 0. Frames with flag 0x08 are another way for large
//! transactions: see [`crate::streamed`].
//!
//! # MORE
//!
//! Where a backlog is sent, the plugin may hold back whole transactions for a while, to send several in
//! one frame. The walsender does not know: its keepalives speak of positions behind transactions that
//! were not sent. So the plugin holds back only after a frame with flag 0x04, and keepalives mean nothing
//! until there comes one without it. If there is nothing left to send, that is a frame without messages.

mod cut;
mod read;
mod write;

use crate::error::{DecodeError, DecodeErrorKind};
use crate::limits::FORMAT_VERSION;
use crate::lsn::Lsn;
use crate::reader::Reader;

pub use read::{Frame, Messages};
pub use write::{FrameWriter, RowShape};

/// Bytes before the first message.
pub const HEADER_LEN: usize = 24;

const FLAG_BEGIN: u8 = 0x01;
const FLAG_COMMIT: u8 = 0x02;
/// Transactions may be held back after this frame.
const FLAG_MORE: u8 = 0x04;
/// A part of a transaction in progress, or how it ended.
const FLAG_STREAM: u8 = 0x08;

/// The checksum's own bytes, which it does not cover.
const CHECKSUM: std::ops::Range<usize> = 4..8;

/// The checksum that a frame with these bytes should have. A frame shorter than its header has one
/// too, so that nothing here can fail; it is refused for its length.
pub fn checksum(frame: &[u8]) -> u32 {
    let before = frame.get(..CHECKSUM.start).unwrap_or(frame);
    let after = frame.get(CHECKSUM.end..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(before), after)
}

/// Everything before the messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Header {
    flags: u8,
    checksum: u32,
    base: Lsn,
    xid: u32,
    messages: u32,
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = FORMAT_VERSION;
        bytes[1] = self.flags;
        bytes[CHECKSUM].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.base.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.xid.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.messages.to_le_bytes());
        bytes
    }

    /// Checks version, checksum and fields, in this order: what another version means by its flags
    /// is not for this reader to say, nor what damaged bytes mean.
    fn read(frame: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(frame, 0, "frame");
        let version = reader.u8("format version")?;
        if version != FORMAT_VERSION {
            let kind = DecodeErrorKind::Version { found: version, known: FORMAT_VERSION };
            return Err(DecodeError { kind, what: "frame", offset: 0 });
        }
        let flags = reader.u8("frame flags")?;
        let reserved = reader.array::<2>("reserved bytes")?;
        let header = Header {
            flags,
            checksum: reader.u32("checksum")?,
            base: reader.lsn("base lsn")?,
            xid: reader.u32("xid")?,
            messages: reader.u32("message count")?,
        };
        let computed = checksum(frame);
        let wrong = |kind, offset| Err(DecodeError { kind, what: "frame", offset });
        if header.checksum != computed {
            let found = header.checksum;
            return wrong(DecodeErrorKind::Checksum { found, computed }, CHECKSUM.start);
        }
        let stream = flags & FLAG_STREAM != 0;
        let known = if stream { FLAG_STREAM } else { FLAG_BEGIN | FLAG_COMMIT };
        let unknown = flags & !(known | FLAG_MORE);
        if unknown != 0 {
            let value = unknown.into();
            return wrong(DecodeErrorKind::Unknown { field: "frame flag", value }, 1);
        }
        if reserved != [0, 0] {
            let value = u16::from_le_bytes(reserved).into();
            return wrong(DecodeErrorKind::Unknown { field: "reserved bytes", value }, 2);
        }
        if stream && header.xid == 0 {
            return wrong(DecodeErrorKind::Unknown { field: "streamed xid", value: 0 }, 16);
        }
        Ok(header)
    }
}
