//! What a shard looks like from outside between two steps: for simulators and tests, which judge it.

use std::sync::Arc;

use bytes::Bytes;
use metadata::MetadataImage;
use raft_group::Role;
use types::{GroupId, LogIndex, Offset, Term};

use crate::shard::{Machine, Shard};

/// A group as its replica on this node sees it. `compacted ≤ applied ≤ committed ≤ last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// This node's part in it.
    pub role: Role,
    /// Whether this node leads the term, though it may not serve yet.
    pub is_leader: bool,
    /// The log in memory starts behind this entry.
    pub compacted: LogIndex,
    /// The last entry that was applied.
    pub applied: LogIndex,
    /// The last entry that is known to be committed.
    pub committed: LogIndex,
    /// The last entry of the log.
    pub last: LogIndex,
    /// The bounds of the partition; `None` for the metadata group.
    pub partition: Option<PartitionBounds>,
    /// Whether the replica pulls what its leader's log holds no more.
    pub is_catching_up: bool,
}

/// The bounds of a partition. `log_start ≤ high_watermark`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionBounds {
    /// The first offset that is still there.
    pub log_start: Offset,
    /// The offset behind the last committed record.
    pub high_watermark: Offset,
}

impl Shard {
    /// The groups that are hosted here, ascending.
    pub fn groups(&self) -> impl Iterator<Item = GroupStatus> {
        self.hosted.iter().map(|(group, hosted)| {
            let (partition, is_catching_up) = match &hosted.machine {
                Machine::Metadata(_) => (None, false),
                Machine::Partition(host) => {
                    let (log_start, high_watermark) =
                        (host.partition.log_start(), host.partition.high_watermark());
                    (Some(PartitionBounds { log_start, high_watermark }), host.catch_up.is_some())
                }
            };
            GroupStatus {
                group: *group,
                role: hosted.raft.role(),
                is_leader: hosted.raft.is_leader(),
                compacted: hosted.raft.compacted().0,
                applied: hosted.raft.applied(),
                committed: hosted.raft.committed(),
                last: hosted.raft.last_index(),
                partition,
                is_catching_up,
            }
        })
    }

    /// An entry that is still in memory: its term and its payload.
    pub fn entry(&self, group: GroupId, index: LogIndex) -> Option<(Term, &Bytes)> {
        self.hosted.get(&group)?.raft.entry(index)
    }

    /// The newest metadata that this shard has heard of.
    pub fn image(&self) -> &Arc<MetadataImage> {
        &self.image
    }
}
