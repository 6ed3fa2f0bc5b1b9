//! CreatePartitions (key 37). Answers once the new partitions have leaders.

use std::collections::{HashMap, HashSet};

use metadata::{CreatePartitionsPlanner, PartitionsRequest};
use protocol::frame::Response;
use protocol::messages::create_partitions_request::{CreatePartitionsRequestData, CreatePartitionsTopic};
use protocol::messages::create_partitions_response::{
    CreatePartitionsResponseData, CreatePartitionsTopicResult,
};
use protocol::messages::{ErrorCode, KafkaString, kafka_string};
use types::NodeId;

use crate::proposals::{Proposals, Refusal, change_deadline_us, too_many_partitions};
use crate::state::State;
use crate::step::{RequestInfo, Step};

pub(crate) fn handle(state: &mut State, info: RequestInfo<'_>, request: CreatePartitionsRequestData) -> Step {
    if let Some(refusal) = too_many_partitions(partitions_asked_for(state, &request)) {
        let mut answered = HashSet::new();
        let names = request.topics.into_iter().map(|topic| topic.name);
        let once = names.filter(|name| answered.insert(name.clone()));
        return reply(once.map(|name| (name, Err(refusal.clone()))));
    }
    let seed = state.next_seed();
    let image = std::sync::Arc::clone(&state.image);
    let mut planner = CreatePartitionsPlanner::new(&image, |node| state.alive.contains(&node));
    let mut mentions: HashMap<KafkaString, usize> = HashMap::new();
    for topic in &request.topics {
        *mentions.entry(topic.name.clone()).or_default() += 1;
    }
    let deadline_us = change_deadline_us(info.now, request.timeout_ms);
    let mut proposals = Proposals::new(request.validate_only, deadline_us);
    let mut answered = HashSet::new();
    for (nth, topic) in (0u64..).zip(request.topics) {
        if !answered.insert(topic.name.clone()) {
            continue;
        }
        let planned = match mentions[&topic.name] {
            1 => planner.plan(&partitions_request(&topic), seed.wrapping_add(nth)).map_err(Refusal::from),
            _ => Err(Refusal::new(ErrorCode::InvalidRequest, "the topic is named twice")),
        };
        proposals.push(topic.name, planned);
    }
    proposals.gather(|_, outcomes| reply(outcomes.into_iter()))
}

/// How many partitions there would be more.
fn partitions_asked_for(state: &State, request: &CreatePartitionsRequestData) -> usize {
    let added = |topic: &CreatePartitionsTopic| {
        let current = state.image.topic(topic.name.as_str()).map_or(0, |topic| topic.partitions.len());
        usize::try_from(topic.count).unwrap_or(0).saturating_sub(current)
    };
    request.topics.iter().map(added).fold(0, usize::saturating_add)
}

fn reply(outcomes: impl Iterator<Item = (KafkaString, Result<(), Refusal>)>) -> Step {
    let results = outcomes.map(|(name, outcome)| respond(name, outcome)).collect();
    Step::Reply(Response::CreatePartitions(CreatePartitionsResponseData { results, ..Default::default() }))
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
