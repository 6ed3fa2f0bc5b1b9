//! The text form of UUIDs that Kafka uses: base64 with the URL-safe digits and without padding (RFC 4648, section 5).

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The text of these bytes.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word =
            group.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for digit in 0..=group.len() {
            let index = word >> (18 - 6 * digit) & 0x3f;
            text.push(char::from(DIGITS[index as usize]));
        }
    }
    text
}

/// The sixteen bytes of a UUID; `None` where the text is not what [`encode`] makes of any.
pub fn decode_uuid(text: &str) -> Option<[u8; 16]> {
    // Sixteen bytes are 21 digits and two bits of the 22nd, whose other four are 0.
    let digits = text.as_bytes();
    if digits.len() != 22 {
        return None;
    }
    let mut bits = 0u128;
    for (position, digit) in digits.iter().enumerate() {
        let value = DIGITS.iter().position(|known| known == digit)? as u128;
        bits = match position {
            21 if value & 0xf != 0 => return None,
            21 => bits << 2 | value >> 4,
            _ => bits << 6 | value,
        };
    }
    Some(bits.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_url_safe_and_unpadded() {
        assert_eq!(encode(b""), "");
        assert_eq!(encode(b"f"), "Zg");
        assert_eq!(encode(b"fo"), "Zm8");
        assert_eq!(encode(b"foo"), "Zm9v");
        assert_eq!(encode(&[0xfb, 0xff, 0xfe]), "-__-");
    }

    #[test]
    fn uuids_are_read_as_written_and_nothing_else_is() {
        for uuid in [[0; 16], [0xff; 16], std::array::from_fn(|at| at as u8 * 16 + 1)] {
            assert_eq!(decode_uuid(&encode(&uuid)), Some(uuid));
        }
        let ones = "_".repeat(22);
        for wrong in ["", "AAAA", "AAAAAAAAAAAAAAAAAAAAA=", "AAAAAAAAAAAAAAAAAAAAAAA", ones.as_str()] {
            assert_eq!(decode_uuid(wrong), None, "{wrong:?}");
        }
    }
}
