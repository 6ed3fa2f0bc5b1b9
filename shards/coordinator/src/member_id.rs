//! Member ids: a prefix that says whose they are, and a UUID.

use types::Now;
use types::hash::mix64;

/// Bytes that the UUID and its hyphen add to the prefix.
pub(crate) const MEMBER_ID_SUFFIX_BYTES: usize = 37;

/// Makes member ids without randomness of its own: the same seed, clock and sequence of requests
/// give the same ids.
#[derive(Debug, Default)]
pub(crate) struct MemberIds {
    seed: u64,
    made: u64,
}

impl MemberIds {
    pub fn new(seed: u64) -> Self {
        Self { seed, made: 0 }
    }

    /// `prefix-UUID`; the UUID has the bits of a random one (RFC 9562, version 4).
    pub fn next(&mut self, now: Now, group: &str, prefix: &str) -> String {
        self.made += 1;
        let mut high = mix64(self.seed ^ mix64(self.made));
        for byte in group.bytes() {
            high = mix64(high ^ u64::from(byte));
        }
        high = mix64(high ^ now.mono_us) ^ mix64(now.wall_ms.cast_unsigned());
        let low = mix64(high ^ self.seed.rotate_left(32));
        let high = (high & !0xf000) | 0x4000;
        let low = (low & !(0b11 << 62)) | (0b10 << 62);
        format!(
            "{prefix}-{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_unique_uuids_and_repeat_with_the_seed() {
        let now = Now { mono_us: 5, wall_ms: 6 };
        let make = |seed| {
            let mut ids = MemberIds::new(seed);
            (0..1_000).map(|_| ids.next(now, "group", "client")).collect::<Vec<_>>()
        };
        let ids = make(1);
        assert_eq!(ids, make(1));
        let distinct: BTreeSet<_> = ids.iter().chain(&make(2)).cloned().collect();
        assert_eq!(distinct.len(), 2_000);
        for id in &distinct {
            let uuid = id.strip_prefix("client-").expect("the prefix");
            let parts: Vec<_> = uuid.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12]);
            assert_eq!(&uuid[14..15], "4");
            assert!(matches!(&uuid[19..20], "8" | "9" | "a" | "b"), "{uuid}");
            assert_eq!(id.len(), "client".len() + MEMBER_ID_SUFFIX_BYTES);
        }
    }
}
