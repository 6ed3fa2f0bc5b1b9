//! What goes into the coordinator and what comes out of it.

use std::sync::Arc;

use bytes::Bytes;
use protocol::batch::HEADER_BYTES;
use types::limits::BATCH_BYTES_MAX;

use crate::group::GroupState;
use crate::messages::*;

/// Bytes of the records of one write, as [`CoordinatorRecord::batch_bytes_max`] counts them. More do not fit in one batch.
pub const WRITE_BYTES_MAX: usize = BATCH_BYTES_MAX - HEADER_BYTES;

/// What a record takes in a batch beside key and value, at most: its length, its offset and the lengths of key and value as
/// varints, and one byte each for attributes, time and headers. All records of a write have the same time.
pub(crate) const RECORD_FRAME_BYTES_MAX: usize = 4 * 5 + 3;

/// The caller's name for a request that waits for its answer. Opaque here; every token that is
/// handed in comes back in exactly one [`Action::Respond`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestToken(pub u64);

/// One append to the partition. Grows by one with each append and is never used twice by one
/// coordinator, also not after it was elected again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// What a handler must know of a request beside its body. Shared, as one request may ask of many groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestContext {
    /// The version of the request's API.
    pub api_version: i16,
    /// The client id of the request header; empty when the header has none.
    pub client_id: Arc<str>,
    /// The address of the client, which DescribeGroups shows.
    pub client_host: Arc<str>,
}

/// A request to the coordinator of one group, or (ListGroups) to each coordinator of the node.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupRequest {
    /// JoinGroup v0-v9.
    JoinGroup(JoinGroupRequestData),
    /// SyncGroup v0-v5.
    SyncGroup(SyncGroupRequestData),
    /// Heartbeat v0-v4.
    Heartbeat(HeartbeatRequestData),
    /// LeaveGroup v0-v5.
    LeaveGroup(LeaveGroupRequestData),
    /// OffsetCommit v2-v10. The caller has checked that the topics exist and has filled in their
    /// names where the request (v10) has only ids; the response repeats name and id.
    OffsetCommit(OffsetCommitRequestData),
    /// One group of an OffsetFetch. The caller splits a request (v8) or wraps one (v1-v7) and fills
    /// in names where the request (v10) has only ids; the response repeats name and id. With
    /// `topics: None` all offsets are returned, with a zero topic id.
    OffsetFetch {
        /// The group and its partitions.
        group: OffsetFetchRequestGroup,
        /// Answer UNSTABLE_OFFSET_COMMIT, which clients retry, while a newer commit is under way
        /// (KIP-447).
        require_stable: bool,
    },
    /// One group of a DescribeGroups (v0-v6).
    DescribeGroup(KafkaString),
    /// ListGroups v0-v5: the groups of this coordinator.
    ListGroups(GroupFilter),
    /// One group of a DeleteGroups (v0-v2).
    DeleteGroup(KafkaString),
    /// OffsetDelete v0. The caller has checked that the topics exist.
    OffsetDelete(OffsetDeleteRequestData),
}

/// Which groups a ListGroups asks for, by state (KIP-518) and type (KIP-848). Read once for all coordinators, as the lists of
/// a request may be long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupFilter {
    pub(crate) states: Vec<GroupState>,
}

/// The answer to the [`GroupRequest`] of the same name. `throttle_time_ms` is always 0.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupResponse {
    /// To JoinGroup.
    JoinGroup(JoinGroupResponseData),
    /// To SyncGroup.
    SyncGroup(SyncGroupResponseData),
    /// To Heartbeat.
    Heartbeat(HeartbeatResponseData),
    /// To LeaveGroup; for v0-v2 without members, as those versions have none.
    LeaveGroup(LeaveGroupResponseData),
    /// To OffsetCommit.
    OffsetCommit(OffsetCommitResponseData),
    /// To OffsetFetch: the one group.
    OffsetFetch(OffsetFetchResponseGroup),
    /// To DescribeGroup; the caller fills in `authorized_operations`.
    DescribeGroup(DescribedGroup),
    /// To ListGroups.
    ListGroups(ListGroupsResponseData),
    /// To DeleteGroup.
    DeleteGroup(DeletableGroupResult),
    /// To OffsetDelete.
    OffsetDelete(OffsetDeleteResponseData),
}

/// A record of `__consumer_offsets`, byte for byte as Kafka writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoordinatorRecord {
    /// The version of the key schema, which is also the type of the record, and the key.
    pub key: Bytes,
    /// The version of the value schema and the value; `None` deletes the key.
    pub value: Option<Bytes>,
}

impl CoordinatorRecord {
    /// Bytes that it takes in a batch whose records have one time, at most.
    pub fn batch_bytes_max(&self) -> usize {
        RECORD_FRAME_BYTES_MAX + self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// What the caller must do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Append `records` (never empty) to the partition, after those of all earlier writes. Once all
    /// of them are committed: [`GroupCoordinator::replay`] each, then
    /// [`GroupCoordinator::on_written`]; if they cannot be: `on_written` with the error.
    ///
    /// [`GroupCoordinator::replay`]: crate::GroupCoordinator::replay
    /// [`GroupCoordinator::on_written`]: crate::GroupCoordinator::on_written
    Append {
        /// To be handed back with the outcome.
        write: WriteId,
        /// Records that commit together. They may have more than [`WRITE_BYTES_MAX`] where a group is large; such a write
        /// fails with MESSAGE_TOO_LARGE.
        records: Vec<CoordinatorRecord>,
    },
    /// Answer a parked request.
    Respond {
        /// The request.
        token: RequestToken,
        /// Its answer.
        response: GroupResponse,
    },
}
