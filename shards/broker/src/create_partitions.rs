//! CreatePartitions (key 37). Answers once the new partitions have leaders.

use std::collections::{HashMap, HashSet};

use metadata::{PartitionsRequest, plan_create_partitions};
use protocol::frame::Response;
use protocol::messages::create_partitions_request::{CreatePartitionsRequestData, CreatePartitionsTopic};
use protocol::messages::create_partitions_response::{
    CreatePartitionsResponseData, CreatePartitionsTopicResult,
};
use protocol::messages::{ErrorCode, KafkaString, kafka_string};
use types::NodeId;

use crate::proposals::{Proposals, Refusal};
use crate::state::State;
use crate::step::{RequestInfo, Step};

pub(crate) fn handle(state: &mut State, info: RequestInfo<'_>, request: CreatePartitionsRequestData) -> Step {
    let seed = state.next_seed();
    let mut mentions: HashMap<KafkaString, usize> = HashMap::new();
    for topic in &request.topics {
        *mentions.entry(topic.name.clone()).or_default() += 1;
    }
    let mut proposals = Proposals::new(request.validate_only, info.now.after_ms(request.timeout_ms.into()));
    let mut answered = HashSet::new();
    for (nth, topic) in (0u64..).zip(request.topics) {
        if !answered.insert(topic.name.clone()) {
            continue;
        }
        let planned = match mentions[&topic.name] {
            1 => {
                let is_alive = |node| state.alive.contains(&node);
                let seed = seed.wrapping_add(nth);
                plan_create_partitions(&state.image, &partitions_request(&topic), seed, is_alive)
                    .map_err(Refusal::from)
            }
            _ => Err(Refusal::new(ErrorCode::InvalidRequest, "the topic is named twice")),
        };
        proposals.push(topic.name, planned);
    }
    proposals.gather(|_, outcomes| {
        let results = outcomes.into_iter().map(|(name, outcome)| respond(name, outcome));
        let results = results.collect();
        Step::Reply(Response::CreatePartitions(CreatePartitionsResponseData {
            results,
            ..Default::default()
        }))
    })
}

fn partitions_request(topic: &CreatePartitionsTopic) -> PartitionsRequest {
    let assignments = topic.assignments.as_ref().map(|assignments| {
        let replicas = |ids: &[i32]| ids.iter().copied().map(NodeId).collect();
        assignments.iter().map(|assignment| replicas(&assignment.broker_ids)).collect()
    });
    PartitionsRequest { name: topic.name.to_string(), count: topic.count, assignments }
}

fn respond(name: KafkaString, outcome: Result<(), Refusal>) -> CreatePartitionsTopicResult {
    let (error, message) = match outcome.map_err(Refusal::by_name) {
        Ok(()) => (ErrorCode::None, None),
        Err(Refusal { code, message }) => (code, message),
    };
    CreatePartitionsTopicResult {
        name,
        error_code: error.code(),
        error_message: message.as_deref().map(kafka_string),
        ..Default::default()
    }
}
