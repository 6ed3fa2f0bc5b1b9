//! AlterPartitionReassignments (key 45): where replicas are to be, or that they stay where they are (KIP-455, KIP-860).
//!
//! Answered once the decision is committed; leaders carry it out.

use std::collections::HashMap;

use metadata::{Command, Reassignment, plan_reassignment};
use protocol::frame::Response;
use protocol::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequestData, ReassignablePartition,
};
use protocol::messages::alter_partition_reassignments_response::{
    AlterPartitionReassignmentsResponseData, ReassignablePartitionResponse, ReassignableTopicResponse,
};
use protocol::messages::{ErrorCode, KafkaString, kafka_string};
use types::{NodeId, PartitionIndex};

use crate::broker::Target;
use crate::op::{MetadataOp, Op};
use crate::proposals::{Refusal, outcome};
use crate::state::State;
use crate::step::{RequestInfo, Step};

/// What was planned for the partitions of a topic, in the order of the request.
type Planned = (KafkaString, Vec<(i32, Result<(), Refusal>)>);

pub(crate) fn handle(
    state: &State,
    info: RequestInfo<'_>,
    request: AlterPartitionReassignmentsRequestData,
) -> Step {
    let allow_replication_factor_change = request.allow_replication_factor_change;
    let mut mentions: HashMap<(KafkaString, i32), usize> = HashMap::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            *mentions.entry((topic.name.clone(), partition.partition_index)).or_default() += 1;
        }
    }
    let mut topics: Vec<Planned> = Vec::new();
    // All in one command: what is decided together may be planned together.
    let mut decided = Vec::new();
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let index = partition.partition_index;
            let planned = match mentions[&(topic.name.clone(), index)] {
                1 => plan(state, topic.name.as_str(), partition, allow_replication_factor_change),
                _ => Err(Refusal::new(ErrorCode::InvalidRequest, "the partition is named twice")),
            };
            partitions.push((index, planned.map(|reassignment| decided.push(reassignment))));
        }
        topics.push((topic.name, partitions));
    }
    let mut ops = Vec::new();
    if !decided.is_empty() {
        let command = Command::Reassign { partitions: decided };
        let deadline_us = info.now.after_ms(request.timeout_ms.into());
        ops.push((Target::Metadata, Op::Metadata(MetadataOp::Propose { command, deadline_us })));
    }
    Step::gather(ops, move |_, _, results| {
        let committed = results.into_iter().next().map_or(Ok(()), outcome);
        let told = |planned: Result<(), Refusal>| planned.and(committed.clone());
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

fn plan(
    state: &State,
    topic: &str,
    partition: &ReassignablePartition,
    allow_replication_factor_change: bool,
) -> Result<Reassignment, Refusal> {
    let index = PartitionIndex(partition.partition_index);
    let replicas: Option<Vec<NodeId>> =
        partition.replicas.as_ref().map(|replicas| replicas.iter().copied().map(NodeId).collect());
    let planned = plan_reassignment(&state.image, topic, index, replicas.as_deref())?;
    let current = state.image.topic(topic).and_then(|topic| topic.partition(index));
    let current = current.expect("what could be planned is there").wanted_brokers().len();
    match replicas {
        Some(replicas) if replicas.len() != current && !allow_replication_factor_change => {
            let message = format!("the partition has {current} replicas and would have {}", replicas.len());
            Err(Refusal::new(ErrorCode::InvalidReplicationFactor, &message))
        }
        _ => Ok(planned),
    }
}

fn respond(partition_index: i32, outcome: Result<(), Refusal>) -> ReassignablePartitionResponse {
    let (error, message) = match outcome {
        Ok(()) => (ErrorCode::None, None),
        Err(Refusal { code, message }) => (code, message),
    };
    ReassignablePartitionResponse {
        partition_index,
        error_code: error.code(),
        error_message: message.as_deref().map(kafka_string),
        ..Default::default()
    }
}
