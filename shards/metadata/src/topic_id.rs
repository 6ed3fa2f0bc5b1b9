//! Identifiers made from a seed.

use types::hash::mix64;
use types::{DirectoryId, TopicId, base64};

/// The first six bits of a UUID whose base64 form starts with `-`.
const DASH: u8 = 62;

/// The id of a new topic: shaped like a random (version 4) UUID, hence never one of Kafka's reserved
/// ids, and never one whose base64 form starts with `-`, which command-line tools take for an option
/// (KIP-516).
///
/// `seed` must differ from request to request; topics of one request differ by name.
pub fn topic_id_from_seed(seed: u64, name: &str) -> TopicId {
    let mut hash = mix64(seed);
    for chunk in name.as_bytes().chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = mix64(hash ^ u64::from_le_bytes(word));
    }
    TopicId(uuid_from_hash(mix64(hash ^ name.len() as u64)))
}

/// A new cluster's id: the base64 form of a UUID, as Kafka's own are.
pub fn cluster_id_from_seed(seed: u64) -> String {
    base64::encode(&uuid_from_hash(mix64(seed ^ 0x636c_7573_7465_7221)))
}

/// The id of a new data directory.
pub fn directory_id_from_seed(seed: u64) -> DirectoryId {
    DirectoryId(uuid_from_hash(mix64(seed ^ 0x6469_7265_6374_6f72)))
}

/// A topic id as Kafka prints it.
pub fn topic_id_text(id: TopicId) -> String {
    base64::encode(&id.0)
}

fn uuid_from_hash(hash: u64) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&mix64(hash).to_be_bytes());
    uuid[8..].copy_from_slice(&mix64(hash ^ 0x5555_5555_5555_5555).to_be_bytes());
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    if uuid[0] >> 2 == DASH {
        uuid[0] ^= 0x80;
    }
    uuid
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn topic_ids_are_version_4_distinct_and_never_look_like_an_option() {
        let mut seen = BTreeSet::new();
        for seed in 0..5_000 {
            let TopicId(id) = topic_id_from_seed(seed, "orders");
            assert_eq!((id[6] >> 4, id[8] >> 6), (4, 2));
            assert!(!base64::encode(&id).starts_with('-'));
            assert!(seen.insert(id));
        }
        assert_ne!(topic_id_from_seed(1, "a"), topic_id_from_seed(1, "b"));
        assert_ne!(topic_id_from_seed(1, "a"), topic_id_from_seed(1, "a\0"));
        assert_eq!(topic_id_from_seed(1, "a"), topic_id_from_seed(1, "a"));
    }

    #[test]
    fn cluster_ids_look_like_those_of_kafka() {
        let id = cluster_id_from_seed(7);
        assert_eq!(id.len(), 22);
        assert_ne!(id, cluster_id_from_seed(8));
    }

    #[test]
    fn directory_ids_are_read_as_kafka_prints_them() {
        let id = directory_id_from_seed(7);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(id, directory_id_from_seed(8));
    }
}
