//! From a decoded request to the file that handles it.

use coordinator::GroupRequest;
use protocol::frame::Request;

use crate::state::State;
use crate::step::{RequestInfo, Step};
use crate::{
    add_raft_voter, alter_configs, alter_partition_reassignments, configs, create_partitions, create_topics,
    delete_records, delete_topics, describe_cluster, describe_log_dirs, describe_producers, describe_quorum,
    describe_topic_partitions, elect_leaders, fetch, find_coordinator, groups, init_producer_id,
    list_config_resources, list_offsets, list_partition_reassignments, metadata_request,
    offset_for_leader_epoch, offsets, remove_raft_voter, sasl_handshake, unregister_broker,
};

pub(crate) fn handle(state: &mut State, info: RequestInfo<'_>, request: Request) -> Step {
    match request {
        Request::Fetch(data) => fetch::handle(state, info, data),
        Request::ListOffsets(data) => list_offsets::handle(state, info, data),
        Request::Metadata(data) => metadata_request::handle(state, info, data),
        Request::OffsetCommit(data) => offsets::commit(state, info, data),
        Request::OffsetFetch(data) => offsets::fetch(state, info, data),
        Request::FindCoordinator(data) => find_coordinator::handle(state, info, data),
        Request::JoinGroup(data) => groups::handle(state, info, GroupRequest::JoinGroup(data)),
        Request::SyncGroup(data) => groups::handle(state, info, GroupRequest::SyncGroup(data)),
        Request::Heartbeat(data) => groups::handle(state, info, GroupRequest::Heartbeat(data)),
        Request::LeaveGroup(data) => groups::handle(state, info, GroupRequest::LeaveGroup(data)),
        Request::OffsetDelete(data) => offsets::delete(state, info, data),
        Request::DescribeGroups(data) => groups::describe(state, info, data),
        Request::ListGroups(data) => groups::list(state, info, data),
        Request::DeleteGroups(data) => groups::delete(state, info, data),
        Request::SaslHandshake(_) => sasl_handshake::handle(),
        Request::ApiVersions(_) => {
            unreachable!("the broker answers ApiVersions of any version before it decodes")
        }
        Request::InitProducerId(data) => init_producer_id::handle(state, info, data),
        Request::OffsetForLeaderEpoch(data) => offset_for_leader_epoch::handle(state, data),
        Request::CreateTopics(data) => create_topics::handle(state, info, data),
        Request::DeleteTopics(data) => delete_topics::handle(state, info, data),
        Request::CreatePartitions(data) => create_partitions::handle(state, info, data),
        Request::DeleteRecords(data) => delete_records::handle(state, info, data),
        Request::DescribeConfigs(data) => configs::describe(state, data),
        Request::AlterConfigs(data) => alter_configs::full(state, info, data),
        Request::IncrementalAlterConfigs(data) => alter_configs::incremental(state, info, data),
        Request::ListConfigResources(data) => list_config_resources::handle(state, info, data),
        Request::DescribeLogDirs(data) => describe_log_dirs::handle(state, data),
        Request::DescribeCluster(data) => describe_cluster::handle(state, data),
        Request::DescribeTopicPartitions(data) => describe_topic_partitions::handle(state, data),
        Request::DescribeProducers(data) => describe_producers::handle(state, data),
        Request::ElectLeaders(data) => elect_leaders::handle(state, info, data),
        Request::AlterPartitionReassignments(data) => {
            alter_partition_reassignments::handle(state, info, data)
        }
        Request::ListPartitionReassignments(data) => list_partition_reassignments::handle(state, data),
        Request::DescribeQuorum(data) => describe_quorum::handle(state, info, data),
        Request::UnregisterBroker(data) => unregister_broker::handle(info, data),
        Request::AddRaftVoter(data) => add_raft_voter::handle(state, info, data),
        Request::RemoveRaftVoter(data) => remove_raft_voter::handle(state, info, data),
    }
}
