//! ElectLeaders (key 43): back to the preferred leaders (KIP-183), or to any leader (KIP-460).

use std::collections::{HashMap, HashSet};

use metadata::Partition;
use protocol::frame::Response;
use protocol::messages::elect_leaders_request::{ElectLeadersRequestData, TopicPartitions};
use protocol::messages::elect_leaders_response::{
    ElectLeadersResponseData, PartitionResult, ReplicaElectionResult,
};
use protocol::messages::{ErrorCode, KafkaString, kafka_string};
use types::NodeId;

use crate::broker::Target;
use crate::op::{MetadataOp, Op, OpResult};
use crate::proposals::change_deadline_us;
use crate::state::State;
use crate::step::{RequestInfo, Step};

/// `election_type`: the first replica is to lead. Version 0 has no other.
const PREFERRED: i8 = 0;

/// `election_type`: any replica is to lead, if none does.
const UNCLEAN: i8 = 1;

#[derive(Clone, Copy)]
enum Election {
    Preferred,
    Unclean,
}

/// What becomes of one partition.
enum Outcome {
    Known(ErrorCode),
    /// The leader is to hand over to the preferred one.
    HandOver {
        from: NodeId,
        to: NodeId,
    },
}

/// The code of a partition that needs no election or can have none; `None` while one is under way.
type KnownOutcome = Option<ErrorCode>;

pub(crate) fn handle(state: &State, info: RequestInfo<'_>, request: ElectLeadersRequestData) -> Step {
    let election = match request.election_type {
        PREFERRED => Election::Preferred,
        UNCLEAN => Election::Unclean,
        _ => return refuse_all(request),
    };
    // Where all partitions are asked about, those that need no election are left out (as in Kafka).
    let everywhere = request.topic_partitions.is_none();
    let named = request.topic_partitions.unwrap_or_else(|| all_partitions(state));
    let deadline_us = change_deadline_us(info.now, request.timeout_ms);
    let mut topics: Vec<(KafkaString, Vec<(i32, KnownOutcome)>)> = Vec::new();
    let mut ops = Vec::new();
    // A partition is answered for once, however often it is named: nobody needs to wait for it twice.
    let mut answered: HashMap<KafkaString, HashSet<i32>> = HashMap::new();
    for TopicPartitions { topic, mut partitions, .. } in named {
        let answered = answered.entry(topic.clone()).or_default();
        partitions.retain(|index| answered.insert(*index));
        let known = state.image.topic(topic.as_str());
        let mut outcomes = Vec::with_capacity(partitions.len());
        for index in partitions {
            let partition = known.and_then(|topic| topic.partition(types::PartitionIndex(index)));
            let outcome = match partition {
                None => Outcome::Known(ErrorCode::UnknownTopicOrPartition),
                Some(partition) => elect(state, election, partition),
            };
            match (outcome, partition) {
                (Outcome::HandOver { from, to }, Some(partition)) => {
                    let op = MetadataOp::HandOver { group: partition.group, from, to, deadline_us };
                    ops.push((Target::Metadata, Op::Metadata(op)));
                    outcomes.push((index, None));
                }
                (Outcome::Known(ErrorCode::ElectionNotNeeded), _) if everywhere => {}
                (Outcome::Known(code), _) => outcomes.push((index, Some(code))),
                (Outcome::HandOver { .. }, None) => unreachable!("only a partition is handed over"),
            }
        }
        if !outcomes.is_empty() {
            topics.push((topic, outcomes));
        }
    }
    Step::gather(ops, move |_, _, results| {
        let mut results = results.into_iter();
        let mut code = |known: KnownOutcome| match known {
            Some(code) => code,
            None => match results.next() {
                Some(OpResult::HandedOver(true)) => ErrorCode::None,
                Some(OpResult::HandedOver(false)) => ErrorCode::PreferredLeaderNotAvailable,
                // Too many wait already; it may come about all the same.
                Some(OpResult::Metadata(Err(code))) => code,
                other => unreachable!("a hand-over is answered as such, not by {other:?}"),
            },
        };
        let topics = topics.into_iter().map(|(topic, outcomes)| ReplicaElectionResult {
            topic,
            partition_result: outcomes
                .into_iter()
                .map(|(index, known)| partition_result(index, code(known)))
                .collect(),
            ..Default::default()
        });
        let topics = topics.collect();
        reply(ErrorCode::None, topics)
    })
}

fn all_partitions(state: &State) -> Vec<TopicPartitions> {
    let topics = state.image.topics().map(|topic| TopicPartitions {
        topic: kafka_string(&topic.name),
        partitions: (0i32..).zip(&topic.partitions).map(|(index, _)| index).collect(),
        ..Default::default()
    });
    topics.collect()
}

/// What an election comes to. A group elects its leader by itself whenever a majority of its replicas can, so that there
/// is no unclean one.
fn elect(state: &State, election: Election, partition: &Partition) -> Outcome {
    let leader = state.leader(partition.group).map(|(node, _)| node);
    let preferred = partition.wanted_brokers()[0];
    Outcome::Known(match (election, leader) {
        (Election::Preferred, Some(leader)) if leader == preferred => ErrorCode::ElectionNotNeeded,
        (Election::Preferred, Some(from)) if state.alive.contains(&preferred) => {
            return Outcome::HandOver { from, to: preferred };
        }
        (Election::Preferred, _) => ErrorCode::PreferredLeaderNotAvailable,
        (Election::Unclean, Some(_)) => ErrorCode::ElectionNotNeeded,
        (Election::Unclean, None) => ErrorCode::EligibleLeadersNotAvailable,
    })
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
