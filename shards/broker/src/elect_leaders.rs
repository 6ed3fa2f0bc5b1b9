//! ElectLeaders (key 43): back to the preferred leaders (KIP-183), or to any leader (KIP-460).

use metadata::Partition;
use protocol::frame::Response;
use protocol::messages::elect_leaders_request::{ElectLeadersRequestData, TopicPartitions};
use protocol::messages::elect_leaders_response::{
    ElectLeadersResponseData, PartitionResult, ReplicaElectionResult,
};
use protocol::messages::{ErrorCode, kafka_string};

use crate::state::State;
use crate::step::Step;

/// `election_type`: the first replica is to lead. Version 0 has no other.
const PREFERRED: i8 = 0;

/// `election_type`: any replica is to lead, if none does.
const UNCLEAN: i8 = 1;

#[derive(Clone, Copy)]
enum Election {
    Preferred,
    Unclean,
}

pub(crate) fn handle(state: &State, request: ElectLeadersRequestData) -> Step {
    let election = match request.election_type {
        PREFERRED => Election::Preferred,
        UNCLEAN => Election::Unclean,
        _ => return refuse_all(request),
    };
    let replica_election_results = match request.topic_partitions {
        None => elect_everywhere(state, election),
        Some(topics) => topics.into_iter().map(|topic| elect_named(state, election, topic)).collect(),
    };
    reply(ErrorCode::None, replica_election_results)
}

/// Where all partitions are asked about, those that need no election are left out (as in Kafka).
fn elect_everywhere(state: &State, election: Election) -> Vec<ReplicaElectionResult> {
    let topics = state.image.topics().map(|topic| {
        let outcomes = (0i32..)
            .zip(&topic.partitions)
            .map(|(index, partition)| (index, elect(state, election, partition)))
            .filter(|(_, outcome)| *outcome != ErrorCode::ElectionNotNeeded);
        ReplicaElectionResult {
            topic: kafka_string(&topic.name),
            partition_result: outcomes.map(|(index, outcome)| partition_result(index, outcome)).collect(),
            ..Default::default()
        }
    });
    topics.filter(|topic| !topic.partition_result.is_empty()).collect()
}

fn elect_named(state: &State, election: Election, named: TopicPartitions) -> ReplicaElectionResult {
    let topic = state.image.topic(named.topic.as_str());
    let results = named.partitions.into_iter().map(|index| {
        let partition = topic.and_then(|topic| topic.partition(types::PartitionIndex(index)));
        let outcome = partition
            .map_or(ErrorCode::UnknownTopicOrPartition, |partition| elect(state, election, partition));
        partition_result(index, outcome)
    });
    ReplicaElectionResult {
        topic: named.topic.clone(),
        partition_result: results.collect(),
        ..Default::default()
    }
}

/// Whether an election is needed, or why there cannot be one: a partition's Raft group elects its leader by itself
/// whenever a majority of its replicas can, and leadership is not handed on between them.
fn elect(state: &State, election: Election, partition: &Partition) -> ErrorCode {
    let leader = state.leader(partition.group).map(|(node, _)| node);
    match (election, leader) {
        (Election::Preferred, leader) if leader == partition.replicas.first().copied() => {
            ErrorCode::ElectionNotNeeded
        }
        (Election::Preferred, _) => ErrorCode::PreferredLeaderNotAvailable,
        (Election::Unclean, Some(_)) => ErrorCode::ElectionNotNeeded,
        (Election::Unclean, None) => ErrorCode::EligibleLeadersNotAvailable,
    }
}

fn refuse_all(request: ElectLeadersRequestData) -> Step {
    let refused = request.topic_partitions.unwrap_or_default().into_iter().map(|topic| {
        let results =
            topic.partitions.iter().map(|index| partition_result(*index, ErrorCode::InvalidRequest));
        ReplicaElectionResult {
            topic: topic.topic.clone(),
            partition_result: results.collect(),
            ..Default::default()
        }
    });
    reply(ErrorCode::InvalidRequest, refused.collect())
}

fn partition_result(partition_id: i32, error: ErrorCode) -> PartitionResult {
    PartitionResult { partition_id, error_code: error.code(), ..Default::default() }
}

fn reply(error: ErrorCode, replica_election_results: Vec<ReplicaElectionResult>) -> Step {
    Step::Reply(Response::ElectLeaders(ElectLeadersResponseData {
        error_code: error.code(),
        replica_election_results,
        ..Default::default()
    }))
}
