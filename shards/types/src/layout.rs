//! Which shard hosts which group.

use crate::hash::mix64;
use crate::{GroupId, ShardId};

/// How the groups of a node are spread over its shards. It follows from the number of shards alone, so a restart
/// with the same number finds every group where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardLayout {
    shards: u16,
    metadata_apart: bool,
}

impl ShardLayout {
    /// `data_shards` (at least 1) that host partitions. With `metadata_apart` the metadata group has one more
    /// shard to itself, shard 0; otherwise it shares shard 0 with partitions.
    pub fn new(data_shards: u16, metadata_apart: bool) -> ShardLayout {
        assert!(data_shards > 0, "partitions need a shard");
        ShardLayout { shards: data_shards + u16::from(metadata_apart), metadata_apart }
    }

    /// All shards.
    pub fn shards(self) -> u16 {
        self.shards
    }

    /// Those that host partitions, and share what a node may do for them.
    pub fn data_shards(self) -> u16 {
        self.shards - u16::from(self.metadata_apart)
    }

    /// The shard that hosts the metadata group.
    pub fn metadata_shard(self) -> ShardId {
        ShardId(0)
    }

    /// The shard that hosts a group.
    pub fn shard_of(self, group: GroupId) -> ShardId {
        if group == GroupId::METADATA {
            return self.metadata_shard();
        }
        let first = u16::from(self.metadata_apart);
        let at = mix64(group.0) % u64::from(self.data_shards());
        ShardId(first + u16::try_from(at).expect("it is below a u16"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_spread_evenly_and_keep_off_the_metadata_shard() {
        let layout = ShardLayout::new(3, true);
        assert_eq!((layout.shards(), layout.data_shards()), (4, 3));
        let mut groups = [0u32; 4];
        for group in 1..=3_000 {
            groups[usize::from(layout.shard_of(GroupId(group)).0)] += 1;
        }
        assert_eq!(groups[0], 0);
        assert!(groups[1..].iter().all(|count| (900..1_100).contains(count)), "{groups:?}");
        assert_eq!(layout.shard_of(GroupId::METADATA), ShardId(0));
        assert_eq!(ShardLayout::new(1, false).shard_of(GroupId(7)), ShardId(0));
    }
}
