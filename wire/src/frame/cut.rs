//! Cutting off the end of a streamed frame, where a subtransaction began that has aborted.

use super::{CHECKSUM, Frame, HEADER_LEN, Header, checksum};
use crate::error::{DecodeError, DecodeErrorKind};
use crate::message::HEADER_LEN as MESSAGE_HEADER_LEN;
use crate::reader::Reader;

impl Frame {
    /// The bytes of a frame with the messages before `offset` only, which must be the offset of a
    /// message (or the frame's end).
    pub fn until(&self, offset: usize) -> Result<Vec<u8>, DecodeError> {
        let mut at = HEADER_LEN;
        let mut messages = 0;
        while at < offset {
            let rest = self.bytes().get(at..).unwrap_or_default();
            let mut reader = Reader::new(rest, at, "frame");
            reader.u8("message tag")?;
            let len = reader.u32("message length")? as usize;
            reader.take(len, "message")?;
            at += MESSAGE_HEADER_LEN + len;
            messages += 1;
        }
        if at != offset {
            let (found, expected) = (offset as u64, at as u64);
            let field = "offset of a message";
            let kind = DecodeErrorKind::Mismatch { field, found, expected };
            return Err(DecodeError { kind, what: "frame", offset: at });
        }
        let mut bytes = self.bytes().get(..offset).unwrap_or_default().to_vec();
        let header = Header { messages, ..self.header };
        if let Some(place) = bytes.first_chunk_mut::<HEADER_LEN>() {
            *place = header.to_bytes();
        }
        let sum = checksum(&bytes).to_le_bytes();
        if let Some(place) = bytes.get_mut(CHECKSUM) {
            place.copy_from_slice(&sum);
        }
        Ok(bytes)
    }
}
