//! Newtypes for every identifier, so that two integers are never swapped.

use std::fmt;
use std::str::FromStr;

use crate::base64;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

id!(
    /// A broker of the cluster: Kafka's `broker.id`, 0 or greater.
    NodeId(i32)
);
id!(
    /// One executor of this process, counted from 0. Shard 0 hosts the metadata group.
    ShardId(u16)
);
id!(
    /// A Raft group. 0 is the metadata group; every partition that ever existed has a number of its
    /// own, so that frames of a deleted partition are never taken for those of its successor.
    GroupId(u64)
);
id!(
    /// A position in a Raft log, counted from 1; 0 stands before the first entry.
    LogIndex(u64)
);
id!(
    /// A Raft term. A partition's term is its Kafka leader epoch.
    Term(u64)
);
id!(
    /// A Kafka offset: the position of a record in a partition, counted from 0.
    Offset(i64)
);
id!(
    /// The number of a partition within its topic, counted from 0.
    PartitionIndex(i32)
);
id!(
    /// An idempotent producer (KIP-98). Never negative.
    ProducerId(i64)
);
id!(
    /// One client connection of one shard; never reused while the process lives.
    ConnectionId(u64)
);

impl GroupId {
    /// The group that replicates the cluster's metadata.
    pub const METADATA: GroupId = GroupId(0);
}

/// One replica of a Raft group, for ever. A node that left a group and comes back, or lost its disk, is another replica of
/// it: what its former one promised does not bind it, and nobody takes it for that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId {
    /// The node that holds it.
    pub node: NodeId,
    /// Tells the node's replicas of one group apart. The first replicas of a group have generation 0.
    pub generation: u32,
}

impl ReplicaId {
    /// One of the replicas that a group began with.
    pub fn first(node: NodeId) -> ReplicaId {
        ReplicaId { node, generation: 0 }
    }

    /// The Raft peer id: the generation, and the node + 1 in the lower half, because Raft reserves 0 and Kafka does not.
    pub fn raft_id(self) -> u64 {
        let node = u64::try_from(self.node.0).expect("a node id is never negative") + 1;
        u64::from(self.generation) << 32 | node
    }

    /// The inverse of [`ReplicaId::raft_id`]; `None` for Raft's "no replica" and for numbers that are no id.
    pub fn from_raft_id(id: u64) -> Option<ReplicaId> {
        let node = i32::try_from((id & u64::from(u32::MAX)).checked_sub(1)?).ok().map(NodeId)?;
        Some(ReplicaId { node, generation: (id >> 32) as u32 })
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node, self.generation)
    }
}

impl LogIndex {
    /// The index after this one.
    pub fn next(self) -> LogIndex {
        LogIndex(self.0 + 1)
    }
}

impl Term {
    /// The leader epoch that clients see (KIP-320): the term, which stays below 2³¹ for centuries
    /// of elections.
    pub fn leader_epoch(self) -> i32 {
        i32::try_from(self.0).expect("a term fits a Kafka leader epoch")
    }
}

/// A topic's UUID (KIP-516), as its sixteen bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// The id that stands for "no id".
    pub const ZERO: TopicId = TopicId([0; 16]);
}

/// One data directory, from its first start on (Kafka's `directory.id`, KIP-858): two directories of a node are told apart
/// by it, and so a disk that was emptied or replaced from the one that holds what the node has promised.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryId(pub [u8; 16]);

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64::encode(&self.0))
    }
}

impl fmt::Debug for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirectoryId({self})")
    }
}

impl FromStr for DirectoryId {
    type Err = NoDirectoryId;

    fn from_str(text: &str) -> Result<DirectoryId, NoDirectoryId> {
        base64::decode_uuid(text).map(DirectoryId).ok_or(NoDirectoryId)
    }
}

/// The text is not the base64 form of a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoDirectoryId;
