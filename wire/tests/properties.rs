//! Properties of the format: whatever is written is read as it was meant, and whatever else comes is
//! refused without harm.

mod support;

use bytes::Bytes;
use proptest::prelude::*;
use rsrepl_wire::limits::FORMAT_VERSION;
use rsrepl_wire::{DecodeError, Frame, FrameWriter};
use support::{harness, plan};

fn read_all(bytes: Vec<u8>) -> Result<usize, DecodeError> {
    let messages = Frame::parse(Bytes::from(bytes))?.messages();
    messages.map(|message| message.map(|_| 1)).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_message_is_read_as_it_was_written(frame in plan::frame()) {
        frame.check(frame.write(&mut FrameWriter::new()));
    }

    #[test]
    fn a_writer_keeps_nothing_of_the_frame_before(one in plan::frame(), two in plan::frame()) {
        let mut writer = FrameWriter::new();
        one.write(&mut writer);
        prop_assert_eq!(two.write(&mut writer), two.write(&mut FrameWriter::new()));
    }

    #[test]
    fn what_is_read_can_be_written_again(frame in plan::frame()) {
        harness::frame(&frame.write(&mut FrameWriter::new()));
    }

    #[test]
    fn a_frame_cut_anywhere_is_an_error(frame in plan::frame()) {
        let bytes = frame.write(&mut FrameWriter::new());
        // every place of a small frame, and the places near both ends of a large one
        for len in (0..bytes.len()).filter(|len| *len < 200 || bytes.len() - len < 50) {
            prop_assert!(read_all(bytes[..len].to_vec()).is_err(), "checksum, {} bytes", len);
            let cut = harness::with_checksum(bytes[..len].to_vec());
            prop_assert!(read_all(cut).is_err(), "right checksum, {} bytes", len);
        }
    }

    #[test]
    fn a_changed_byte_is_seen(
        frame in plan::frame(),
        at in any::<prop::sample::Index>(),
        xor in 1..=255u8,
    ) {
        let mut bytes = frame.write(&mut FrameWriter::new());
        let at = at.index(bytes.len());
        bytes[at] ^= xor;
        prop_assert!(Frame::parse(Bytes::from(bytes)).is_err());
    }

    #[test]
    fn damage_behind_a_right_checksum_does_no_harm(
        frame in plan::frame(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = frame.write(&mut FrameWriter::new());
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        harness::frame(&bytes);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(
        header in any::<[u8; 23]>(),
        body in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut bytes = vec![FORMAT_VERSION]; // the version; everything else is the checksum's to refuse
        bytes.extend_from_slice(&header);
        bytes[1] &= if bytes[1] & 0x08 == 0 { 0x07 } else { 0x0c };
        bytes[2..4].fill(0);
        bytes.extend_from_slice(&body);
        harness::frame(&bytes);
        harness::value(&body);
    }
}
