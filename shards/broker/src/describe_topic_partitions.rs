//! DescribeTopicPartitions (key 75): topics page by page, in the order of their names (KIP-966).

use std::collections::BTreeSet;

use metadata::Topic;
use protocol::frame::Response;
use protocol::messages::describe_topic_partitions_request::{self, DescribeTopicPartitionsRequestData};
use protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponseData, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};
use protocol::messages::{ErrorCode, kafka_string, kafka_uuid};

use types::NodeId;

use crate::authorized_operations::{Resource, authorized_operations};
use crate::state::State;
use crate::step::Step;

/// Partitions of one response, whatever the client asks for (Kafka's `max.request.partition.size.limit`).
const RESPONSE_PARTITIONS_MAX: usize = 2_000;

pub(crate) fn handle(state: &State, request: DescribeTopicPartitionsRequestData) -> Step {
    let limit = usize::try_from(request.response_partition_limit).unwrap_or(0).min(RESPONSE_PARTITIONS_MAX);
    let names: BTreeSet<&str> = request.topics.iter().map(|topic| topic.name.as_str()).collect();
    let start = match request.cursor.as_deref() {
        Some(cursor) => match start_of(cursor, &names) {
            Some(start) => start,
            None => return refuse_all(&names),
        },
        None => ("", 0),
    };
    let mut page = Page { remaining: limit, response: DescribeTopicPartitionsResponseData::default() };
    if names.is_empty() {
        for topic in state.image.topics_from(start.0) {
            if !page.push(state, &topic.name, Some(topic), start) {
                break;
            }
        }
    } else {
        for name in names.range(start.0..) {
            if !page.push(state, name, state.image.topic(name).map(|topic| &**topic), start) {
                break;
            }
        }
    }
    Step::Reply(Response::DescribeTopicPartitions(page.response))
}

/// Where the client wants to go on: at a topic that it names, if it names any.
fn start_of<'a>(
    cursor: &'a describe_topic_partitions_request::Cursor,
    names: &BTreeSet<&str>,
) -> Option<(&'a str, usize)> {
    let partition = usize::try_from(cursor.partition_index).ok()?;
    let name = cursor.topic_name.as_str();
    (names.is_empty() || names.contains(name)).then_some((name, partition))
}

/// The response so far.
struct Page {
    remaining: usize,
    response: DescribeTopicPartitionsResponseData,
}

impl Page {
    /// Adds a topic as far as there is room, and says whether there may be room for the next one.
    fn push(&mut self, state: &State, name: &str, topic: Option<&Topic>, start: (&str, usize)) -> bool {
        if self.remaining == 0 {
            self.end_before(name, 0);
            return false;
        }
        let Some(topic) = topic else {
            self.response.topics.push(unknown_topic(name));
            return true;
        };
        let first = if name == start.0 { start.1 } else { 0 };
        let partitions = partitions(state, topic, first, self.remaining);
        let next = first.saturating_add(partitions.len());
        self.remaining -= partitions.len();
        self.response.topics.push(DescribeTopicPartitionsResponseTopic {
            name: Some(kafka_string(&topic.name)),
            topic_id: kafka_uuid(topic.id),
            is_internal: topic.internal,
            partitions,
            topic_authorized_operations: authorized_operations(Resource::Topic, true),
            ..Default::default()
        });
        if next < topic.partitions.len() {
            self.end_before(name, next);
            return false;
        }
        true
    }

    fn end_before(&mut self, topic: &str, partition: usize) {
        self.response.next_cursor = Some(Box::new(Cursor {
            topic_name: kafka_string(topic),
            partition_index: i32::try_from(partition).expect("partitions are bounded far below 2^31"),
            ..Default::default()
        }));
    }
}

fn partitions(
    state: &State,
    topic: &Topic,
    first: usize,
    limit: usize,
) -> Vec<DescribeTopicPartitionsResponsePartition> {
    let wanted = (0i32..).zip(&topic.partitions).skip(first).take(limit);
    let described = wanted.map(|(partition_index, partition)| {
        let leader = state.leader(partition.group);
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<i32>>();
        let error = if leader.is_some() { ErrorCode::None } else { ErrorCode::LeaderNotAvailable };
        DescribeTopicPartitionsResponsePartition {
            error_code: error.code(),
            partition_index,
            leader_id: leader.map_or(-1, |(node, _)| node.0),
            leader_epoch: leader.map_or(-1, |(_, term)| term.leader_epoch()),
            replica_nodes: ids(&partition.brokers()),
            isr_nodes: ids(&state.in_sync(partition)),
            offline_replicas: ids(&state.offline(partition)),
            // Raft elects only replicas that have everything committed, in sync or not: there is no other list.
            eligible_leader_replicas: Some(Vec::new()),
            last_known_elr: Some(Vec::new()),
            ..Default::default()
        }
    });
    described.collect()
}

fn unknown_topic(name: &str) -> DescribeTopicPartitionsResponseTopic {
    let error = match metadata::validate_topic_name(name) {
        Ok(()) => ErrorCode::UnknownTopicOrPartition,
        Err(error) => error.error_code(),
    };
    refused_topic(name, error, true)
}

/// A cursor that cannot be followed: the response has no error of its own, so every topic bears it.
fn refuse_all(names: &BTreeSet<&str>) -> Step {
    let topics = names.iter().map(|name| refused_topic(name, ErrorCode::InvalidRequest, false));
    let response = DescribeTopicPartitionsResponseData { topics: topics.collect(), ..Default::default() };
    Step::Reply(Response::DescribeTopicPartitions(response))
}

fn refused_topic(name: &str, error: ErrorCode, operations: bool) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic {
        error_code: error.code(),
        name: Some(kafka_string(name)),
        topic_authorized_operations: authorized_operations(Resource::Topic, operations),
        ..Default::default()
    }
}
