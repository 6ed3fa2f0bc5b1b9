//! CreateTopics (key 19), and topics that the broker makes by itself: they answer once their partitions have leaders.

use std::collections::HashMap;

use metadata::configs::describe_topic;
use metadata::{Applied, Command, CreateTopicPlanner, ManualAssignment, MetadataError, TopicRequest};
use protocol::frame::Response;
use protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequestData};
use protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult, CreateTopicsResponseData,
};
use protocol::messages::{ErrorCode, KafkaString, kafka_string, kafka_uuid};
use types::NodeId;

use crate::broker::Target;
use crate::op::{MetadataOp, Op, OpResult};
use crate::proposals::{Refusal, change_deadline_us, too_many_partitions};
use crate::state::{OFFSETS_TOPIC, State};
use crate::step::{RequestInfo, Step};

/// How long a topic that the broker makes by itself may take.
const INTERNAL_TIMEOUT_MS: i64 = 10_000;

/// Bytes of one segment of `__consumer_offsets` (Kafka's `offsets.topic.segment.bytes`).
const OFFSETS_SEGMENT_BYTES: u32 = 100 * 1024 * 1024;

pub(crate) fn handle(state: &mut State, info: RequestInfo<'_>, request: CreateTopicsRequestData) -> Step {
    if let Some(Refusal { code, message }) = too_many_partitions(partitions_asked_for(&request)) {
        let refused = request.topics.into_iter().map(|topic| refuse(topic.name, code, message.clone()));
        let topics = refused.collect();
        return Step::Reply(Response::CreateTopics(CreateTopicsResponseData {
            topics,
            ..Default::default()
        }));
    }
    let seed = state.next_seed();
    let image = std::sync::Arc::clone(&state.image);
    let mut planner = CreateTopicPlanner::new(&image, |node| state.alive.contains(&node));
    let deadline_us = change_deadline_us(info.now, request.timeout_ms);
    let mut ops = Vec::new();
    let mut planned = Vec::with_capacity(request.topics.len());
    let mut mentions: HashMap<&KafkaString, usize> = HashMap::new();
    for topic in &request.topics {
        *mentions.entry(&topic.name).or_default() += 1;
    }
    for (nth, topic) in (0u64..).zip(&request.topics) {
        // A name that the request names twice is refused both times, as Kafka does.
        let command = match mentions[&topic.name] > 1 {
            true => Err(MetadataError::InvalidRequest("the topic is named twice".to_owned())),
            false => planner.plan(&topic_request(topic), seed.wrapping_add(nth)),
        };
        let outcome = command.map(|command| {
            let partitions = match &command {
                Command::CreateTopic { partitions, .. } => partitions.clone(),
                other => unreachable!("a topic is created by CreateTopic, not by {other:?}"),
            };
            if !request.validate_only {
                ops.push((Target::Metadata, Op::Metadata(MetadataOp::Propose { command, deadline_us })));
            }
            (partitions.len(), partitions.first().map_or(0, |first| first.replicas.len()))
        });
        planned.push((topic.name.clone(), outcome));
    }
    let validate_only = request.validate_only;
    Step::gather(ops, move |state, _, results| {
        let mut results = results.into_iter();
        let topics = planned.into_iter().map(|(name, outcome)| match outcome {
            Err(error) => refuse(name, error.error_code(), Some(error.to_string())),
            Ok(counts) if validate_only => describe(state, name, counts),
            Ok(counts) => match results.next() {
                Some(OpResult::Metadata(Ok(Applied::Refused(error)))) => {
                    refuse(name, error.error_code(), Some(error.to_string()))
                }
                Some(OpResult::Metadata(Ok(_))) => describe(state, name, counts),
                Some(OpResult::Metadata(Err(error))) => refuse(name, error, None),
                other => unreachable!("a metadata change is answered as such, not by {other:?}"),
            },
        });
        let topics = topics.collect();
        Step::Reply(Response::CreateTopics(CreateTopicsResponseData { topics, ..Default::default() }))
    })
}

/// A topic that leaves the number to the broker counts as one partition.
fn partitions_asked_for(request: &CreateTopicsRequestData) -> usize {
    let partitions = |topic: &CreatableTopic| {
        usize::try_from(topic.num_partitions).unwrap_or(0).max(topic.assignments.len()).max(1)
    };
    request.topics.iter().map(partitions).fold(0, usize::saturating_add)
}

fn topic_request(topic: &CreatableTopic) -> TopicRequest {
    let assignments = topic.assignments.iter().map(|assignment| ManualAssignment {
        partition: assignment.partition_index,
        replicas: assignment.broker_ids.iter().copied().map(NodeId).collect(),
    });
    let configs = topic
        .configs
        .iter()
        .map(|config| (config.name.to_string(), config.value.as_ref().map(KafkaString::to_string)));
    TopicRequest {
        name: topic.name.to_string(),
        num_partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: assignments.collect(),
        configs: configs.collect(),
        internal: false,
    }
}

fn refuse(name: KafkaString, error: ErrorCode, message: Option<String>) -> CreatableTopicResult {
    CreatableTopicResult {
        name,
        error_code: error.code(),
        error_message: message.as_deref().map(kafka_string),
        num_partitions: -1,
        replication_factor: -1,
        ..Default::default()
    }
}

fn describe(
    state: &State,
    name: KafkaString,
    (partitions, replicas): (usize, usize),
) -> CreatableTopicResult {
    let topic = state.image.topic(name.as_str());
    let configs = topic.map(|topic| {
        let entries = describe_topic(&state.image, topic).into_iter().map(|entry| CreatableTopicConfigs {
            name: kafka_string(&entry.name),
            value: entry.value.as_deref().map(kafka_string),
            read_only: entry.read_only,
            config_source: entry.source as i8,
            is_sensitive: entry.sensitive,
            ..Default::default()
        });
        entries.collect()
    });
    CreatableTopicResult {
        topic_id: topic.map(|topic| kafka_uuid(topic.id)).unwrap_or_default(),
        num_partitions: i32::try_from(partitions).expect("the planner keeps to the limit"),
        replication_factor: i16::try_from(replicas).expect("the planner keeps to the limit"),
        configs: Some(configs.unwrap_or_default()),
        name,
        ..Default::default()
    }
}

/// The operations that make topics nobody asked to create: those that a client asked about, and our own. One for
/// each name, or why the topic cannot be made.
pub(crate) fn create_internally<'n>(
    state: &mut State,
    info: RequestInfo<'_>,
    names: impl Iterator<Item = &'n str>,
) -> Vec<Result<(Target, Op), ErrorCode>> {
    let seed = state.next_seed();
    let mut planner = CreateTopicPlanner::new(&state.image, |node| state.alive.contains(&node));
    let deadline_us = info.now.after_ms(INTERNAL_TIMEOUT_MS);
    let planned = (0u64..).zip(names).map(|(nth, name)| {
        let command = planner.plan(&internal_request(state, name), seed.wrapping_add(nth));
        let command = command.map_err(|error| error.error_code())?;
        Ok((Target::Metadata, Op::Metadata(MetadataOp::Propose { command, deadline_us })))
    });
    planned.collect()
}

fn internal_request(state: &State, name: &str) -> TopicRequest {
    let mut request = TopicRequest {
        name: name.to_owned(),
        num_partitions: -1,
        replication_factor: -1,
        assignments: Vec::new(),
        configs: Vec::new(),
        internal: false,
    };
    if name == OFFSETS_TOPIC {
        request.num_partitions = state.config.offsets_topic_partitions;
        request.replication_factor = state.config.offsets_topic_replication;
        request.internal = true;
        request.configs = vec![
            ("cleanup.policy".to_owned(), Some("compact".to_owned())),
            ("segment.bytes".to_owned(), Some(OFFSETS_SEGMENT_BYTES.to_string())),
        ];
    }
    request
}
