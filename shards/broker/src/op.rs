//! What a request asks of the owner of a group, and what the owner answers.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use coordinator::{GroupRequest, GroupResponse, RequestContext};
use metadata::{Applied, Command};
use protocol::batch::BatchHeader;
use protocol::messages::ErrorCode;
use types::{GroupId, LogIndex, NodeId, Offset, ProducerId, Term};

use crate::PartitionError;

/// Names one operation of one request of one shard's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpToken {
    /// The request, numbered by the shard of its connection.
    pub request: u64,
    /// Which of the request's operations.
    pub part: u32,
}

/// An operation on a group, carried out by the shard that hosts it.
#[derive(Debug)]
pub enum Op {
    /// Append a batch.
    Produce(ProduceOp),
    /// Read batches of several partitions of one shard.
    Fetch(FetchOp),
    /// The request of this token no longer waits for data. It comes after every [`Op::Fetch`] of the request that
    /// asked to wait, perhaps before that is answered, and has no answer of its own.
    CancelFetchWait,
    /// Look an offset up.
    ListOffsets(ListOffsetsOp),
    /// Where the records of a leader epoch end.
    OffsetForLeaderEpoch {
        /// The partition's group.
        group: GroupId,
        /// The epoch the client believes to be current, -1 for none.
        current_leader_epoch: i32,
        /// The epoch asked for.
        leader_epoch: i32,
    },
    /// Move the start of the log.
    DeleteRecords {
        /// The partition's group.
        group: GroupId,
        /// The new first offset; -1 for the high watermark.
        offset: i64,
    },
    /// The idempotent producers of a partition.
    DescribeProducers {
        /// The partition's group.
        group: GroupId,
    },
    /// How many bytes partitions take on disk.
    DescribeLogs {
        /// The partitions' groups, all of one shard.
        groups: Vec<GroupId>,
    },
    /// How much room the file system of the data directory has.
    MeasureSpace,
    /// A request to the coordinator of a consumer group.
    Group(GroupOp),
    /// A change of the cluster's metadata.
    Metadata(MetadataOp),
}

/// Append one batch to a partition.
#[derive(Debug)]
pub struct ProduceOp {
    /// The partition's group.
    pub group: GroupId,
    /// The validated batch, alone or with its siblings of one request in its allocation; offsets and
    /// epoch are written into it where it stands.
    pub batch: BytesMut,
    /// The header of `batch`.
    pub header: BatchHeader,
    /// 1: answer when durable here; -1: when durable on a majority. 0 is answered like 1 and the answer dropped.
    pub acks: i16,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// The time the broker gave to all its records, or -1 where the producer's times stand.
    pub log_append_time_ms: i64,
    /// The partition's first offset.
    pub log_start: Offset,
}

/// Read from partitions of one shard.
#[derive(Clone, Debug)]
pub struct FetchOp {
    /// What to read, in the order in which bytes are to be spent.
    pub items: Arc<[FetchItem]>,
    /// Bytes over all items; one batch is returned even when it is larger.
    pub max_bytes: usize,
    /// When fewer bytes than this are there, say [`OpResult::FetchWake`] once they are.
    pub min_bytes: usize,
    /// Whether to do so.
    pub wait: bool,
}

/// Read from one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchItem {
    /// Which of the request's partitions this is; given back with the result.
    pub slot: u32,
    /// The partition's group.
    pub group: GroupId,
    /// Whether a replica that does not lead may answer, with what it knows to be committed.
    pub may_follow: bool,
    /// The epoch the client believes to be current, -1 for none.
    pub current_leader_epoch: i32,
    /// Where to read.
    pub offset: Offset,
    /// The epoch of the last record the client has, -1 for none (KIP-595).
    pub last_fetched_epoch: i32,
    /// Bytes of this partition.
    pub max_bytes: usize,
}

/// What was read from one partition.
#[derive(Clone, Debug)]
pub struct FetchedPartition {
    /// The item's slot.
    pub slot: u32,
    /// Why nothing was read.
    pub error: Option<PartitionError>,
    /// The high watermark, -1 where it is not known.
    pub high_watermark: i64,
    /// The first offset, -1 where it is not known.
    pub log_start: i64,
    /// Where the client's log parts from this one: (epoch, end offset).
    pub diverging: Option<(i32, i64)>,
    /// Whole batches, the first of which holds the offset asked for.
    pub records: Vec<Bytes>,
}

/// Look up an offset by time.
#[derive(Clone, Copy, Debug)]
pub struct ListOffsetsOp {
    /// The partition's group.
    pub group: GroupId,
    /// The epoch the client believes to be current, -1 for none.
    pub current_leader_epoch: i32,
    /// Milliseconds, or one of Kafka's negative marks (`ListOffsetsRequest`).
    pub timestamp: i64,
}

/// A request to a consumer group's coordinator.
#[derive(Debug)]
pub struct GroupOp {
    /// The group of the partition of `__consumer_offsets` whose leader coordinates the consumer group.
    pub group: GroupId,
    /// Who asks.
    pub context: RequestContext,
    /// What is asked.
    pub request: GroupRequest,
}

/// A change of the cluster's metadata.
#[derive(Debug)]
pub enum MetadataOp {
    /// Commit the command. Where it makes partitions, answer when they have leaders or `deadline_us` passes.
    Propose {
        /// The change.
        command: Command,
        /// On the monotonic clock of this process.
        deadline_us: u64,
    },
    /// How the metadata group is, as its leader says before `deadline_us`.
    DescribeQuorum {
        /// On the monotonic clock of this process.
        deadline_us: u64,
    },
    /// Let another replica lead a group; answered when it does, or `deadline_us` passes.
    HandOver {
        /// The group.
        group: GroupId,
        /// Who leads it.
        from: NodeId,
        /// Who is to lead it.
        to: NodeId,
        /// On the monotonic clock of this process.
        deadline_us: u64,
    },
}

/// What came of an [`Op`].
#[derive(Debug)]
pub enum OpResult {
    /// Of [`Op::Produce`].
    Produce(Result<Produced, PartitionError>),
    /// Of [`Op::Fetch`].
    Fetch {
        /// One for each item.
        partitions: Vec<FetchedPartition>,
        /// Whether [`OpResult::FetchWake`] will follow.
        waiting: bool,
    },
    /// More bytes came for a fetch that waits.
    FetchWake,
    /// Of [`Op::ListOffsets`]: (timestamp, offset, leader epoch), all -1 where no record is that young.
    ListOffsets(Result<(i64, i64, i32), PartitionError>),
    /// Of [`Op::OffsetForLeaderEpoch`]: (epoch, end offset), -1 each where the epoch is not known.
    OffsetForLeaderEpoch(Result<(i32, i64), PartitionError>),
    /// Of [`Op::DeleteRecords`]: the first offset now.
    DeleteRecords(Result<Offset, PartitionError>),
    /// Of [`Op::DescribeProducers`].
    DescribeProducers(Result<Vec<ActiveProducer>, PartitionError>),
    /// Of [`Op::DescribeLogs`]: bytes of each group.
    DescribeLogs(Vec<(GroupId, u64)>),
    /// Of [`Op::MeasureSpace`]: its size, and what of it may still be written, in bytes. `None` where the system does not say.
    Space(Option<(u64, u64)>),
    /// Of [`Op::Group`].
    Group(Result<GroupResponse, ErrorCode>),
    /// Of [`MetadataOp::Propose`].
    Metadata(Result<Applied, ErrorCode>),
    /// Of [`MetadataOp::DescribeQuorum`]; that it cannot be had is told as [`OpResult::Metadata`].
    Quorum(Quorum),
    /// Of [`MetadataOp::HandOver`]: whether the replica leads; that too many wait is told as [`OpResult::Metadata`].
    HandedOver(bool),
    /// The request's time passed before the owner answered.
    TimedOut,
}

/// The metadata group, as its leader knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// The leader.
    pub leader: NodeId,
    /// Its term.
    pub term: Term,
    /// The last entry that is committed.
    pub committed: LogIndex,
    /// The replicas that vote, by node; while voters change, those of before too.
    pub voters: Vec<QuorumReplica>,
    /// The replicas that learn, by node.
    pub observers: Vec<QuorumReplica>,
}

/// One replica of the metadata group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumReplica {
    /// Its node.
    pub node: NodeId,
    /// The last entry that it is known to have.
    pub last: LogIndex,
    /// When it was last heard, in milliseconds of the leader's wall clock; `None` where it never was.
    pub heard_ms: Option<i64>,
    /// When it was last known to have everything; `None` where that is not known.
    pub caught_up_ms: Option<i64>,
}

/// One producer of a partition (KIP-664).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveProducer {
    /// Its id.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: i16,
    /// The sequence of its last record.
    pub last_sequence: i32,
    /// The time of its last batch.
    pub last_timestamp_ms: i64,
}
