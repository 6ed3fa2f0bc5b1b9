//! Produce (key 0): each partition's batch is validated here and appended by the owner of the partition.

use bytes::BytesMut;
use protocol::batch::{self, Codec};
use protocol::frame::Response;
use protocol::messages::produce_response::{
    LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, ProduceResponseData, TopicProduceResponse,
};
use protocol::messages::{ErrorCode, kafka_string, kafka_uuid};
use protocol::produce::{self, ProducePartition, ProduceRequest};
use types::TopicId;

use crate::PartitionError;
use crate::broker::Target;
use crate::op::{Op, OpResult, ProduceOp, Produced};
use crate::partitions::{Asked, AskedTopic, PartitionRequests};
use crate::state::{Located, OFFSETS_TOPIC, State};
use crate::step::{RequestInfo, Step};

/// The first version that may carry zstd (KIP-110).
const ZSTD_VERSION_MIN: i16 = 7;

/// Versions before record batches of format 2 (KIP-98) are advertised for old clients' sake and refused.
const FORMAT_2_VERSION_MIN: i16 = 3;

const ACKS_NONE: i16 = 0;
const ACKS_LEADER: i16 = 1;
const ACKS_ALL: i16 = -1;

pub(crate) fn handle(state: &mut State, info: RequestInfo<'_>, body: BytesMut) -> Step {
    let request = match produce::decode_produce(body, info.api_version) {
        Ok(request) => request,
        Err(error) => return Step::Close(format!("Produce version {}: {error}", info.api_version)),
    };
    if info.api_version < FORMAT_2_VERSION_MIN {
        return refuse_old_version(info, &request);
    }
    let acks = request.acks;
    // With acks=1 too, though Kafka has none there: the owner may have to wait for room. Either way the batch may be
    // appended later.
    let deadline_us = (acks != ACKS_NONE).then(|| info.now.after_ms(request.timeout_ms.into()));
    plan(state, info, request).gather(deadline_us, move |state, topics| {
        let response = respond(state, topics);
        let failed =
            || response.responses.iter().flat_map(|t| &t.partition_responses).any(|p| p.error_code != 0);
        match acks {
            // Without responses, closing the connection is the one way to tell that something went wrong.
            ACKS_NONE if failed() => Step::Close("a batch sent with acks=0 was refused".into()),
            ACKS_NONE => Step::NoReply,
            _ => Step::Reply(Response::Produce(response)),
        }
    })
}

fn refuse_old_version(info: RequestInfo<'_>, request: &ProduceRequest) -> Step {
    if request.acks == ACKS_NONE {
        return Step::Close(format!("Produce version {} is not supported", info.api_version));
    }
    match produce::encode_refusal(info.api_version, info.correlation_id, request) {
        Ok(response) => Step::Encoded(vec![response]),
        Err(error) => Step::Close(format!("Produce version {}: {error}", info.api_version)),
    }
}

fn plan(state: &State, info: RequestInfo<'_>, request: ProduceRequest) -> PartitionRequests {
    let refused = if !matches!(request.acks, ACKS_NONE | ACKS_LEADER | ACKS_ALL) {
        Some(ErrorCode::InvalidRequiredAcks)
    } else if request.transactional_id.is_some() {
        Some(ErrorCode::InvalidTxnState)
    } else {
        None
    };
    let mut asked = PartitionRequests::default();
    for topic in request.topics {
        let name = topic.name.unwrap_or_default();
        asked.topic(name.clone(), topic.topic_id);
        for partition in topic.partitions {
            let index = partition.index;
            let planned = match refused {
                Some(code) => Err(code.into()),
                None => plan_partition(state, info, request.acks, (name.as_str(), topic.topic_id), partition),
            };
            asked.partition(index, planned.map(|op| (Target::Group(op.group), Op::Produce(op))));
        }
    }
    asked
}

fn plan_partition(
    state: &State,
    info: RequestInfo<'_>,
    acks: i16,
    topic: (&str, TopicId),
    partition: ProducePartition,
) -> Result<ProduceOp, PartitionError> {
    let Located { topic, group } = state.locate(topic.0, topic.1, partition.index)?;
    if topic.name.as_ref() == OFFSETS_TOPIC {
        return Err(ErrorCode::InvalidTopicException.into());
    }
    let mut batch = partition.records.unwrap_or_default();
    let header = batch::validate_produced(&mut batch, topic.config.max_message_bytes)?;
    if header.codec()? == Codec::Zstd && info.api_version < ZSTD_VERSION_MIN {
        return Err(ErrorCode::UnsupportedCompressionType.into());
    }
    if header.is_transactional() {
        return Err(ErrorCode::InvalidTxnState.into());
    }
    Ok(ProduceOp { group, batch, header, acks })
}

fn respond(state: &State, topics: Vec<AskedTopic>) -> ProduceResponseData {
    let mut response = ProduceResponseData::default();
    for topic in topics {
        let mut answered = TopicProduceResponse {
            name: topic.name,
            topic_id: kafka_uuid(topic.id),
            ..TopicProduceResponse::default()
        };
        for Asked { index, outcome } in topic.partitions {
            let outcome = outcome.and_then(|result| match result {
                OpResult::Produce(outcome) => outcome,
                OpResult::TimedOut => Err(ErrorCode::RequestTimedOut.into()),
                other => unreachable!("a Produce is answered as one, not by {other:?}"),
            });
            let named = (answered.name.as_str(), topic.id, index);
            let outcome = outcome.map_err(|error| state.with_leader(named, error));
            if let Err(PartitionError { leader: Some((node, _)), .. }) = &outcome {
                add_endpoint(state, node.0, &mut response.node_endpoints);
            }
            answered.partition_responses.push(partition_response(index, outcome));
        }
        response.responses.push(answered);
    }
    response
}

fn partition_response(index: i32, outcome: Result<Produced, PartitionError>) -> PartitionProduceResponse {
    let mut response = PartitionProduceResponse { index, ..PartitionProduceResponse::default() };
    match outcome {
        Ok(produced) => {
            response.base_offset = produced.base_offset.0;
            response.log_append_time_ms = produced.log_append_time_ms;
            response.log_start_offset = produced.log_start.0;
        }
        Err(error) => {
            response.error_code = error.code.code();
            response.base_offset = -1;
            response.log_append_time_ms = -1;
            response.log_start_offset = -1;
            response.error_message = error.message.as_deref().map(kafka_string);
            if let Some((node, term)) = error.leader {
                response.current_leader = LeaderIdAndEpoch {
                    leader_id: node.0,
                    leader_epoch: term.leader_epoch(),
                    ..LeaderIdAndEpoch::default()
                };
            }
        }
    }
    response
}

/// Adds the address of a leader that the response names (KIP-951).
fn add_endpoint(state: &State, node: i32, endpoints: &mut Vec<NodeEndpoint>) {
    if endpoints.iter().any(|known| known.node_id == node) {
        return;
    }
    if let Some(broker) = state.image.broker(types::NodeId(node)) {
        endpoints.push(NodeEndpoint {
            node_id: node,
            host: kafka_string(broker.host()),
            port: broker.port().into(),
            rack: broker.rack.as_deref().map(kafka_string),
            ..NodeEndpoint::default()
        });
    }
}
