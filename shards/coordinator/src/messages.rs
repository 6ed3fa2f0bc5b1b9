//! The generated messages that this crate takes and gives, in one place.

pub use protocol::messages::ErrorCode;
pub(crate) use protocol::messages::KafkaString;
pub(crate) use protocol::messages::consumer_protocol_subscription::ConsumerProtocolSubscriptionData;
pub(crate) use protocol::messages::delete_groups_response::DeletableGroupResult;
pub(crate) use protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
pub(crate) use protocol::messages::heartbeat_request::HeartbeatRequestData;
pub(crate) use protocol::messages::heartbeat_response::HeartbeatResponseData;
pub(crate) use protocol::messages::join_group_request::{JoinGroupRequestData, JoinGroupRequestProtocol};
pub(crate) use protocol::messages::join_group_response::{JoinGroupResponseData, JoinGroupResponseMember};
pub(crate) use protocol::messages::leave_group_request::{LeaveGroupRequestData, MemberIdentity};
pub(crate) use protocol::messages::leave_group_response::{LeaveGroupResponseData, MemberResponse};
pub(crate) use protocol::messages::list_groups_request::ListGroupsRequestData;
pub(crate) use protocol::messages::list_groups_response::{ListGroupsResponseData, ListedGroup};
pub(crate) use protocol::messages::offset_commit_request::{
    OffsetCommitRequestData, OffsetCommitRequestPartition,
};
pub(crate) use protocol::messages::offset_commit_response::{
    OffsetCommitResponseData, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
pub(crate) use protocol::messages::offset_delete_request::OffsetDeleteRequestData;
pub(crate) use protocol::messages::offset_delete_response::{
    OffsetDeleteResponseData, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
pub(crate) use protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
pub(crate) use protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
pub(crate) use protocol::messages::sync_group_request::{SyncGroupRequestAssignment, SyncGroupRequestData};
pub(crate) use protocol::messages::sync_group_response::SyncGroupResponseData;
