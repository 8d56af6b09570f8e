//! LEB128 variable-length integers (7 bits a byte, least significant first) and zigzag signs.

/// Bytes of the longest 64-bit varint.
pub(crate) const MAX_LEN: usize = 10;

#[inline]
pub(crate) fn put(buf: &mut Vec<u8>, value: u64) {
    // nearly all lengths and LSN differences are of one byte
    match u8::try_from(value) {
        Ok(byte) if byte < 0x80 => buf.push(byte),
        _ => put_long(buf, value),
    }
}

/// In one piece: `buf` looks for room once.
fn put_long(buf: &mut Vec<u8>, mut value: u64) {
    let mut bytes = [0; MAX_LEN];
    let mut len = 0;
    for byte in &mut bytes {
        *byte = (value as u8) | 0x80;
        value >>= 7;
        len += 1;
        if value == 0 {
            *byte &= 0x7F;
            break;
        }
    }
    buf.extend_from_slice(bytes.get(..len).unwrap_or_default());
}

pub(crate) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

pub(crate) const fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reader::Reader;

    fn read(bytes: &[u8]) -> Option<u64> {
        let mut reader = Reader::new(bytes, 0, "test");
        let value = reader.varint("test").ok()?;
        reader.finish("test").ok().map(|()| value)
    }

    /// Values of every length, not mostly of the greatest.
    fn any_length() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0..u64::BITS).prop_map(|(value, shift)| value >> shift)
    }

    proptest! {
        #[test]
        fn reads_what_it_wrote(value in any_length()) {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            prop_assert!(bytes.len() <= MAX_LEN);
            prop_assert_eq!(read(&bytes), Some(value));
            for len in 0..bytes.len() {
                prop_assert_eq!(read(&bytes[..len]), None, "cut to {}", len);
            }
        }

        #[test]
        fn small_differences_of_either_sign_are_short(value in any::<i64>()) {
            prop_assert_eq!(unzigzag(zigzag(value)), value);
            if (-64..64).contains(&value) {
                prop_assert!(zigzag(value) < 0x80);
            }
        }

        #[test]
        fn each_value_has_one_form(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            if let Some(value) = read(&bytes) {
                let mut again = Vec::new();
                put(&mut again, value);
                prop_assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    fn ends_and_limits() {
        assert_eq!(read(&[0]), Some(0));
        assert_eq!(read(&[0x7F]), Some(127));
        assert_eq!(read(&[0x80, 0x01]), Some(128));
        assert_eq!(read(&[0x80, 0x00]), None, "a longer form of 0");
        let most = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01];
        assert_eq!(read(&most), Some(u64::MAX));
        assert_eq!(read(&[0x80; 10]), None, "no end within 64 bits");
        assert_eq!(read(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02]), None);
    }
}
