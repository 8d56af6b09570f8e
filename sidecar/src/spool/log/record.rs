//! Segments and records as they are on disk; the offsets are in `docs/spool-format.md`. Pure: encoders
//! beside their decoders, fields in the same order.

use bytes::{Buf, Bytes, BytesMut};
use rsrepl_wire::Lsn;
use rsrepl_wire::limits::FRAME_MAX;

/// The version that this program writes, and the only one that it reads.
pub(super) const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"rsreplS\n";

/// Bytes before the first record of a segment.
pub(super) const HEADER_LEN: usize = 64;

/// Bytes of a record before its content.
pub(super) const RECORD_HEADER_LEN: usize = 32;

/// The entry goes on in the next record.
const FLAG_GOES_ON: u8 = 0x01;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Sequence number of its first entry; names the segment.
    pub(super) first: u64,
    /// That of the segment before it; 0 when there was none.
    pub(super) previous: u64,
    /// Bytes of the segment before it.
    pub(super) previous_len: u64,
    /// Every transaction that ends at or below it is in earlier segments, every other one is not.
    pub(super) start: Lsn,
    pub(super) system_id: u64,
}

/// Why a segment's header cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    Short,
    NotOurs,
    /// Of a format that this program does not know.
    Format(u32),
    Checksum,
}

impl Header {
    pub(super) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        let fields = [self.first, self.previous, self.previous_len, self.start.0, self.system_id];
        for (place, field) in bytes[16..56].chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        let sum = checksum(&bytes);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Header, Unread> {
        let bytes: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(Unread::Short)?;
        let mut rest = &bytes[..];
        if rest.copy_to_bytes(8)[..] != MAGIC {
            return Err(Unread::NotOurs);
        }
        // what another format has behind its number is not for us to say
        let format = rest.get_u32_le();
        if format != FORMAT {
            return Err(Unread::Format(format));
        }
        if rest.get_u32_le() != checksum(bytes) {
            return Err(Unread::Checksum);
        }
        Ok(Header {
            first: rest.get_u64_le(),
            previous: rest.get_u64_le(),
            previous_len: rest.get_u64_le(),
            start: Lsn(rest.get_u64_le()),
            system_id: rest.get_u64_le(),
        })
    }
}

/// Of all but its own bytes.
fn checksum(header: &[u8; HEADER_LEN]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..])
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// As it came from the source, or was made for a transaction that had been streamed.
    Frame,
    /// The source has nothing for us up to this LSN.
    Progress,
    /// A transaction was cut off before it.
    Cut,
    /// A frame that describes the tables known at the beginning of the segment.
    Tables,
}

impl Kind {
    const ALL: [(Kind, u8); 4] =
        [(Kind::Frame, b'F'), (Kind::Progress, b'P'), (Kind::Cut, b'C'), (Kind::Tables, b'T')];

    fn tag(self) -> u8 {
        Kind::ALL.iter().find(|(kind, _)| *kind == self).map_or(0, |(_, tag)| *tag)
    }

    fn of(tag: u8) -> Option<Kind> {
        Kind::ALL.iter().find(|(_, known)| *known == tag).map(|(kind, _)| *kind)
    }
}

/// What is known of a record before its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) kind: Kind,
    /// The entry goes on in the next record, which has the same number.
    pub(super) goes_on: bool,
    pub(super) sequence: u64,
    /// Bytes of the segment that were known to be on the disk when the record was written.
    pub(super) synced: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) header: RecordHeader,
    pub(super) content: Bytes,
}

/// Appends a record.
pub(super) fn put(out: &mut Vec<u8>, header: RecordHeader, content: &[u8]) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    // a frame is under FRAME_MAX
    out.extend_from_slice(&(content.len() as u32).to_le_bytes());
    let flags = if header.goes_on { FLAG_GOES_ON } else { 0 };
    out.extend_from_slice(&[header.kind.tag(), flags, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&header.sequence.to_le_bytes());
    out.extend_from_slice(&header.synced.to_le_bytes());
    out.extend_from_slice(content);
    let sum = crc32c::crc32c(&out[at + 4..]);
    out[at..at + 4].copy_from_slice(&sum.to_le_bytes());
}

/// What is at the beginning of some bytes.
#[derive(Debug)]
pub(super) enum Found {
    Record(Record),
    /// A record of so many bytes, if it is one; there are fewer.
    Longer(usize),
    /// No record.
    Bad(&'static str),
}

/// Takes the record at the beginning of `bytes`, of which nothing is taken otherwise.
pub(super) fn take(bytes: &mut BytesMut) -> Found {
    let (header, len, sum) = match look(bytes) {
        Ok(Some(found)) => found,
        Ok(None) => return Found::Longer(RECORD_HEADER_LEN),
        Err(what) => return Found::Bad(what),
    };
    let total = RECORD_HEADER_LEN + len;
    let Some(record) = bytes.get(4..total) else { return Found::Longer(total) };
    if crc32c::crc32c(record) != sum {
        return Found::Bad("a wrong checksum");
    }
    let content = bytes.split_to(total).freeze().slice(RECORD_HEADER_LEN..);
    Found::Record(Record { header, content })
}

/// The header at the beginning of `bytes`, the length of the content and the checksum; `None`: too short.
pub(super) fn look(bytes: &[u8]) -> Result<Option<(RecordHeader, usize, u32)>, &'static str> {
    let Some(bytes) = bytes.first_chunk::<RECORD_HEADER_LEN>() else { return Ok(None) };
    let mut rest = &bytes[..];
    let sum = rest.get_u32_le();
    let len = rest.get_u32_le() as usize;
    let kind = Kind::of(rest.get_u8()).ok_or("an unknown kind")?;
    let flags = rest.get_u8();
    if flags & !FLAG_GOES_ON != 0 || rest.copy_to_bytes(6)[..] != [0; 6] {
        return Err("an unknown flag");
    }
    if len > FRAME_MAX {
        return Err("an impossible length");
    }
    let header = RecordHeader {
        kind,
        goes_on: flags != 0,
        sequence: rest.get_u64_le(),
        synced: rest.get_u64_le(),
    };
    Ok(Some((header, len, sum)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header { first: 7, previous: 3, previous_len: 900, start: Lsn(50), system_id: 1 << 60 }
    }

    #[test]
    fn a_header_is_read_as_it_was_written_or_not_at_all() {
        let bytes = header().to_bytes();
        assert_eq!(Header::read(&bytes), Ok(header()));
        assert_eq!(Header::read(&bytes[..63]), Err(Unread::Short));
        for at in 0..HEADER_LEN {
            let mut damaged = bytes;
            damaged[at] ^= 0x10;
            assert!(Header::read(&damaged).is_err(), "byte {at}");
        }
        let mut newer = bytes;
        newer[8] = 2;
        assert_eq!(Header::read(&newer), Err(Unread::Format(2)));
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written_or_not_at_all(
            content in prop::collection::vec(any::<u8>(), 0..100),
            goes_on: bool, sequence: u64, synced: u64, kind in 0usize..4,
            damage in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let header = RecordHeader { kind: Kind::ALL[kind].0, goes_on, sequence, synced };
            let mut bytes = Vec::new();
            put(&mut bytes, header, &content);
            let mut whole = BytesMut::from(&bytes[..]);
            let Found::Record(record) = take(&mut whole) else { panic!("no record") };
            prop_assert!(whole.is_empty());
            prop_assert_eq!(record, Record { header, content: content.into() });
            let cut = damage.index(bytes.len());
            prop_assert!(matches!(take(&mut BytesMut::from(&bytes[..cut])), Found::Longer(_)));
            bytes[cut] ^= 1 << bit;
            prop_assert!(!matches!(take(&mut BytesMut::from(&bytes[..])), Found::Record(_)));
        }
    }
}
