//! What a shard looks like from outside between two steps: for simulators and tests, which judge it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use metadata::MetadataImage;
use partition::ProducerBatch;
use raft_group::{Membership, Role};
use types::{GroupId, LogIndex, NodeId, Offset, ProducerId, ReplicaId, Term};

use crate::shard::{Machine, Shard};

/// A group as its replica on this node sees it. `compacted ≤ applied ≤ committed ≤ last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// Which replica of it this is.
    pub own: ReplicaId,
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

/// See [`Shard::memory`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaMemory {
    /// Epochs with their first offsets.
    pub epochs: Vec<(i32, Offset)>,
    /// Producers with their epochs and batches.
    pub producers: Vec<(ProducerId, i16, VecDeque<ProducerBatch>)>,
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
                own: hosted.raft.own(),
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

    /// The members of a group that is hosted here, as of the last entry applied here.
    pub fn membership(&self, group: GroupId) -> Option<&Membership> {
        self.hosted.get(&group).map(|hosted| hosted.raft.membership())
    }

    /// The in-sync replicas of a partition that is led here; empty elsewhere.
    pub fn in_sync(&self, group: GroupId) -> &[NodeId] {
        match self.hosted.get(&group).map(|hosted| &hosted.machine) {
            Some(Machine::Partition(host)) if host.role.serving => &host.in_sync,
            _ => &[],
        }
    }

    /// What a replica remembers of a partition beside its records: leader epochs, and the latest batches of producers.
    pub fn memory(&self, group: GroupId) -> Option<ReplicaMemory> {
        let Machine::Partition(host) = &self.hosted.get(&group)?.machine else { return None };
        let producers = host.partition.producers().into_iter();
        Some(ReplicaMemory {
            epochs: host.partition.epochs().starts().to_vec(),
            producers: producers.map(|(id, state)| (id, state.epoch, state.batches.clone())).collect(),
        })
    }

    /// The newest metadata that this shard has heard of.
    pub fn image(&self) -> &Arc<MetadataImage> {
        &self.image
    }

    /// Whether batches wait for the commit of those before them, as their group has taken as much as may be uncommitted.
    pub fn has_full_groups(&self) -> bool {
        let mut groups = self.leader_waits.groups();
        groups.any(|group| self.hosted.get(&group).is_some_and(|hosted| hosted.raft.role().serving))
    }
}
