//! A cursor over bytes from outside that reports where it failed.

use bytes::Bytes;

use crate::error::{DecodeError, DecodeErrorKind};
use crate::lsn::Lsn;
use crate::varint;

/// Reads little-endian fields from `bytes`; `at` is the offset of the next one.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Offset of `bytes[0]` in what errors speak of.
    origin: usize,
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], origin: usize, what: &'static str) -> Self {
        Reader { bytes, at: 0, origin, what }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    #[cold]
    pub(crate) fn error(&self, kind: DecodeErrorKind) -> DecodeError {
        DecodeError { kind, what: self.what, offset: self.origin + self.at }
    }

    #[inline]
    pub(crate) fn take(
        &mut self,
        len: usize,
        field: &'static str,
    ) -> Result<&'a [u8], DecodeError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match rest.get(..len) {
            Some(taken) => {
                self.at += len;
                Ok(taken)
            }
            None => Err(self.error(DecodeErrorKind::Truncated { field, needed: len - rest.len() })),
        }
    }

    /// Like [`Self::take`], as a slice of `shared`, of which `bytes` are a part.
    pub(crate) fn take_shared(
        &mut self,
        shared: &Bytes,
        len: usize,
        field: &'static str,
    ) -> Result<Bytes, DecodeError> {
        Ok(shared.slice_ref(self.take(len, field)?))
    }

    /// The next byte, which stays where it is.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    pub(crate) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, field)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn i32(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        Ok(i32::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn i64(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        Ok(i64::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn lsn(&mut self, field: &'static str) -> Result<Lsn, DecodeError> {
        Ok(Lsn(self.u64(field)?))
    }

    /// A varint in its only form, the shortest.
    #[inline]
    pub(crate) fn varint(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        // nearly all lengths and LSN differences are of one byte
        match self.bytes.get(self.at) {
            Some(byte) if *byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(field),
        }
    }

    fn long_varint(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for index in 0..varint::MAX_LEN {
            let byte = self.u8(field)?;
            // the tenth byte has room for one bit only, and a last byte of zero adds nothing
            let overflows = index == varint::MAX_LEN - 1 && byte > 1;
            if overflows || (index > 0 && byte == 0) {
                return Err(self.error(DecodeErrorKind::Unknown { field, value: u64::from(byte) }));
            }
            value |= u64::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                break;
            }
        }
        Ok(value)
    }

    /// A varint that counts or measures, refused over `limit`.
    pub(crate) fn count(
        &mut self,
        field: &'static str,
        limit: usize,
    ) -> Result<usize, DecodeError> {
        let value = self.varint(field)?;
        match usize::try_from(value) {
            Ok(count) if count <= limit => Ok(count),
            _ => Err(self.error(DecodeErrorKind::Limit { field, value, limit: limit as u64 })),
        }
    }

    pub(crate) fn string(
        &mut self,
        field: &'static str,
        limit: usize,
    ) -> Result<&'a str, DecodeError> {
        let len = self.count(field, limit)?;
        let bytes = self.take(len, field)?;
        std::str::from_utf8(bytes).map_err(|_| self.error(DecodeErrorKind::Utf8 { field }))
    }

    /// Flags of which only `known` may be set.
    pub(crate) fn flags(&mut self, field: &'static str, known: u8) -> Result<u8, DecodeError> {
        let flags = self.u8(field)?;
        if flags & !known != 0 {
            return Err(
                self.error(DecodeErrorKind::Unknown { field, value: u64::from(flags & !known) })
            );
        }
        Ok(flags)
    }

    pub(crate) fn finish(&self, field: &'static str) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            count => Err(self.error(DecodeErrorKind::Trailing { field, count })),
        }
    }
}
