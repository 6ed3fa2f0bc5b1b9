//! The values of records: each is unique and says whose it is, and a changed byte shows.
//!
//! Layout: CRC-32 of the rest (4 bytes, big endian), length of the producer's name (1 byte), the name, the sequence
//! (8 bytes, big endian), filler.

use crate::history::Value;

const CHECKSUM_BYTES: usize = 4;
const SEQUENCE_BYTES: usize = 8;

/// Builds the value of a record, at least `length` bytes long.
pub fn encode(producer: &str, sequence: u64, length: usize) -> Vec<u8> {
    let name_length = u8::try_from(producer.len()).expect("names of producers are short");
    let mut bytes = vec![0; CHECKSUM_BYTES];
    bytes.push(name_length);
    bytes.extend_from_slice(producer.as_bytes());
    bytes.extend_from_slice(&sequence.to_be_bytes());
    let mut filler = sequence;
    while bytes.len() < length {
        // Any cheap sequence does that compresses neither to nothing nor not at all.
        filler = filler.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.push(b'a' + (filler >> 61) as u8);
    }
    let checksum = crc32fast::hash(&bytes[CHECKSUM_BYTES..]);
    bytes[..CHECKSUM_BYTES].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// Whose value it is; `None` when it is not as it was written.
pub fn decode(bytes: &[u8]) -> Option<Value> {
    let (checksum, rest) = bytes.split_first_chunk::<CHECKSUM_BYTES>()?;
    if crc32fast::hash(rest) != u32::from_be_bytes(*checksum) {
        return None;
    }
    let (&name_length, rest) = rest.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(name_length))?;
    let (sequence, _) = rest.split_first_chunk::<SEQUENCE_BYTES>()?;
    Some(Value(std::str::from_utf8(name).ok()?.to_owned(), u64::from_be_bytes(*sequence)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_back_and_every_changed_or_missing_byte_shows() {
        for length in [0, 20, 300] {
            let bytes = encode("idempotent-0", 77, length);
            assert!(bytes.len() >= length);
            assert_eq!(decode(&bytes), Some(Value("idempotent-0".to_owned(), 77)));
            for position in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[position] ^= 1;
                assert_eq!(decode(&changed), None);
                assert_eq!(decode(&bytes[..position]), None);
            }
        }
    }
}
