//! DescribeProducers (key 61): the idempotent producers that partitions remember (KIP-664).

use protocol::frame::Response;
use protocol::messages::describe_producers_request::DescribeProducersRequestData;
use protocol::messages::describe_producers_response::{
    DescribeProducersResponseData, PartitionResponse, ProducerState, TopicResponse,
};
use protocol::messages::{ErrorCode, kafka_string};
use types::TopicId;

use crate::PartitionError;
use crate::broker::Target;
use crate::op::{ActiveProducer, Op, OpResult};
use crate::partitions::{Asked, PartitionRequests};
use crate::state::State;
use crate::step::Step;

/// Of a producer that never wrote a transaction marker.
const NO_COORDINATOR_EPOCH: i32 = -1;

pub(crate) fn handle(state: &State, request: DescribeProducersRequestData) -> Step {
    let mut asked = PartitionRequests::default();
    for topic in request.topics {
        asked.topic(topic.name.clone(), TopicId::ZERO);
        for index in topic.partition_indexes {
            asked.question(index, plan(state, topic.name.as_str(), index));
        }
    }
    asked.gather(None, |_, topics| {
        let topics = topics.into_iter().map(|topic| TopicResponse {
            name: topic.name,
            partitions: topic.partitions.into_iter().map(partition_response).collect(),
            ..Default::default()
        });
        let response = DescribeProducersResponseData { topics: topics.collect(), ..Default::default() };
        Step::Reply(Response::DescribeProducers(response))
    })
}

fn plan(state: &State, topic: &str, index: i32) -> Result<(Target, Op), PartitionError> {
    if let Err(error) = metadata::validate_topic_name(topic) {
        return Err(PartitionError {
            code: error.error_code(),
            leader: None,
            message: Some(error.to_string()),
        });
    }
    let group = state.locate(topic, TopicId::ZERO, index)?.group;
    Ok((Target::Group(group), Op::DescribeProducers { group }))
}

fn partition_response(asked: Asked) -> PartitionResponse {
    let found = asked.outcome.and_then(|result| match result {
        OpResult::DescribeProducers(found) => found,
        other => unreachable!("DescribeProducers is answered as such, not by {other:?}"),
    });
    let response = PartitionResponse { partition_index: asked.index, ..Default::default() };
    match found {
        Ok(producers) => PartitionResponse {
            error_code: ErrorCode::None.code(),
            active_producers: producers.iter().map(producer_state).collect(),
            ..response
        },
        Err(error) => PartitionResponse {
            error_code: error.code.code(),
            error_message: error.message.as_deref().map(kafka_string),
            ..response
        },
    }
}

fn producer_state(producer: &ActiveProducer) -> ProducerState {
    ProducerState {
        producer_id: producer.id.0,
        producer_epoch: producer.epoch.into(),
        last_sequence: producer.last_sequence,
        last_timestamp: producer.last_timestamp_ms,
        coordinator_epoch: NO_COORDINATOR_EPOCH,
        ..Default::default()
    }
}
