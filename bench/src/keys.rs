//! Keys of records, and the partitions that Kafka's default partitioner sends them to.

/// Bytes of each key.
pub const KEY_BYTES: usize = 8;

const SEED: u32 = 0x9747_b28c;
const MULTIPLIER: u32 = 0x5bd1_e995;

/// The hash of Kafka's default partitioner (`org.apache.kafka.common.utils.Utils.murmur2`).
pub fn murmur2(bytes: &[u8]) -> u32 {
    let mut hash = SEED ^ bytes.len() as u32;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        let mut mixed = u32::from_le_bytes(word.try_into().expect("chunks of four")).wrapping_mul(MULTIPLIER);
        mixed ^= mixed >> 24;
        hash = hash.wrapping_mul(MULTIPLIER) ^ mixed.wrapping_mul(MULTIPLIER);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte));
        hash = (hash ^ last).wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ hash >> 15
}

/// The partition of a key.
pub fn partition_of(key: &[u8], partitions: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % partitions
}

/// Different keys for every partition of a topic, `count` for each.
pub fn keys_by_partition(partitions: usize, count: usize) -> Vec<Vec<[u8; KEY_BYTES]>> {
    let mut keys = vec![Vec::with_capacity(count); partitions];
    let mut missing = partitions * count;
    for number in 0_u64.. {
        if missing == 0 {
            break;
        }
        let key = number.to_be_bytes();
        let of_partition = &mut keys[partition_of(&key, partitions)];
        if of_partition.len() < count {
            of_partition.push(key);
            missing -= 1;
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cases of Kafka's own test (UtilsTest.testMurmur2).
    #[test]
    fn the_hash_is_that_of_kafka() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn every_partition_has_keys_of_its_own() {
        let keys = keys_by_partition(10, 5);
        for (partition, keys) in keys.iter().enumerate() {
            assert_eq!(keys.len(), 5);
            assert!(keys.iter().all(|key| partition_of(key, 10) == partition));
        }
    }
}
