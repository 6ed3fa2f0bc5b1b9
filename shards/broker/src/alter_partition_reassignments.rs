//! AlterPartitionReassignments (key 45): where replicas are to be, or that they stay where they are (KIP-455, KIP-860).
//!
//! Answered once the decision is committed; leaders carry it out.

use std::collections::HashMap;

use metadata::{Command, MetadataError, Reassignment, ReassignmentPlanner, Topic};
use protocol::frame::Response;
use protocol::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequestData, ReassignablePartition, ReassignableTopic,
};
use protocol::messages::alter_partition_reassignments_response::{
    AlterPartitionReassignmentsResponseData, ReassignablePartitionResponse, ReassignableTopicResponse,
};
use protocol::messages::{ErrorCode, KafkaString, kafka_string};
use types::{NodeId, PartitionIndex};

use crate::broker::Target;
use crate::op::{MetadataOp, Op};
use crate::proposals::{Refusal, change_deadline_us, outcome};
use crate::state::State;
use crate::step::{RequestInfo, Step};

/// Why the replicas of a partition stay where they are. The words are shared by all partitions that are told them.
type Refused = (ErrorCode, Option<KafkaString>);

/// What was planned for the partitions of a topic, in the order of the request.
type Planned = (KafkaString, Vec<(i32, Result<(), Refused>)>);

/// How often a request names each partition of a topic, in all that it says of it.
type Mentions = HashMap<i32, usize>;

pub(crate) fn handle(
    state: &State,
    info: RequestInfo<'_>,
    request: AlterPartitionReassignmentsRequestData,
) -> Step {
    let allow_replication_factor_change = request.allow_replication_factor_change;
    let mut mentions: HashMap<&KafkaString, Mentions> = HashMap::new();
    for topic in &request.topics {
        let of_topic = mentions.entry(&topic.name).or_default();
        for partition in &topic.partitions {
            *of_topic.entry(partition.partition_index).or_default() += 1;
        }
    }
    let mut planner = ReassignmentPlanner::new(&state.image, allow_replication_factor_change);
    // All in one command: what is decided together may be planned together.
    let mut decided = Vec::new();
    let planned = request.topics.iter().map(|topic| {
        let outcomes = plan_topic(state, &mut planner, topic, &mentions[&topic.name], &mut decided);
        (topic.name.clone(), outcomes)
    });
    let topics: Vec<Planned> = planned.collect();
    let mut ops = Vec::new();
    if !decided.is_empty() {
        let command = Command::Reassign { partitions: decided };
        let deadline_us = change_deadline_us(info.now, request.timeout_ms);
        ops.push((Target::Metadata, Op::Metadata(MetadataOp::Propose { command, deadline_us })));
    }
    Step::gather(ops, move |_, _, results| {
        let committed = results.into_iter().next().map_or(Ok(()), outcome).map_err(refused);
        let told = |planned: Result<(), Refused>| planned.and_then(|()| committed.clone());
        let responses = topics.into_iter().map(|(name, partitions)| ReassignableTopicResponse {
            name,
            partitions: partitions
                .into_iter()
                .map(|(index, planned)| respond(index, told(planned)))
                .collect(),
            ..Default::default()
        });
        Step::Reply(Response::AlterPartitionReassignments(AlterPartitionReassignmentsResponseData {
            allow_replication_factor_change,
            responses: responses.collect(),
            ..Default::default()
        }))
    })
}

fn plan_topic(
    state: &State,
    planner: &mut ReassignmentPlanner<'_>,
    topic: &ReassignableTopic,
    mentions: &Mentions,
    decided: &mut Vec<Reassignment>,
) -> Vec<(i32, Result<(), Refused>)> {
    let name = topic.name.as_str();
    // Refused once: it may have a long name, and be said to have very many partitions.
    let unknown = || refused(MetadataError::UnknownTopic(name.to_owned()).into());
    let found: Result<&Topic, Refused> = state.image.topic(name).map(|topic| &**topic).ok_or_else(unknown);
    let twice = refused(Refusal::new(ErrorCode::InvalidRequest, "the partition is named twice"));
    let mut plan = |partition: &ReassignablePartition| {
        let index = partition.partition_index;
        if mentions[&index] > 1 {
            return Err(twice.clone());
        }
        let found = found.as_ref().map_err(Refused::clone)?;
        let replicas: Option<Vec<NodeId>> =
            partition.replicas.as_ref().map(|replicas| replicas.iter().copied().map(NodeId).collect());
        let planned = planner.plan(found, PartitionIndex(index), replicas.as_deref());
        decided.push(planned.map_err(|error| refused(error.into()))?);
        Ok(())
    };
    topic.partitions.iter().map(|partition| (partition.partition_index, plan(partition))).collect()
}

fn refused(Refusal { code, message }: Refusal) -> Refused {
    (code, message.as_deref().map(kafka_string))
}

fn respond(partition_index: i32, outcome: Result<(), Refused>) -> ReassignablePartitionResponse {
    let (error, error_message) = outcome.err().unwrap_or((ErrorCode::None, None));
    ReassignablePartitionResponse {
        partition_index,
        error_code: error.code(),
        error_message,
        ..Default::default()
    }
}
