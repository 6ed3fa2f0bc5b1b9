//! FindCoordinator (key 10). Asking for a group's coordinator makes `__consumer_offsets`, so that it can have one.

use protocol::frame::Response;
use protocol::messages::find_coordinator_request::FindCoordinatorRequestData;
use protocol::messages::find_coordinator_response::{Coordinator, FindCoordinatorResponseData};
use protocol::messages::{ErrorCode, KafkaString, kafka_string};

use crate::create_topics::create_internally;
use crate::state::{OFFSETS_TOPIC, State};
use crate::step::{RequestInfo, Step};

/// `key_type` of a consumer group.
const GROUP: i8 = 0;

/// The version from which several keys are asked for at once (KIP-699).
const SEVERAL_KEYS_VERSION_MIN: i16 = 4;

pub(crate) fn handle(state: &mut State, info: RequestInfo<'_>, request: FindCoordinatorRequestData) -> Step {
    let several = info.api_version >= SEVERAL_KEYS_VERSION_MIN;
    let keys = if several { request.coordinator_keys } else { vec![request.key] };
    if request.key_type != GROUP {
        // Transactions and share groups have coordinators of their own, and neither is served.
        let refused = keys.into_iter().map(|key| refuse(key, ErrorCode::InvalidRequest));
        return respond(several, refused.collect());
    }
    if state.image.topic(OFFSETS_TOPIC).is_some() {
        let found = keys.into_iter().map(|key| locate(state, key));
        return respond(several, found.collect());
    }
    let planned = create_internally(state, info, std::iter::once(OFFSETS_TOPIC));
    match planned.into_iter().collect::<Result<Vec<_>, _>>() {
        Err(error) => {
            // Nodes that are to hold replicas have not registered yet; clients come again.
            let error = match error {
                ErrorCode::InvalidReplicationFactor => ErrorCode::CoordinatorNotAvailable,
                other => other,
            };
            respond(several, keys.into_iter().map(|key| refuse(key, error)).collect())
        }
        Ok(ops) => Step::gather(ops, move |state, _, _| {
            // Whether it was this request or another that made the topic, the image now says so, or the client retries.
            let found = keys.into_iter().map(|key| locate(state, key));
            respond(several, found.collect())
        }),
    }
}

fn locate(state: &State, key: KafkaString) -> Coordinator {
    if key.is_empty() {
        return refuse(key, ErrorCode::InvalidGroupId);
    }
    let leader = state.coordinator_of(key.as_str()).and_then(|(_, group)| state.leader(group));
    let broker = leader.and_then(|(node, _)| state.image.broker(node).map(|broker| (node, broker)));
    match broker {
        Some((node, broker)) => Coordinator {
            key,
            node_id: node.0,
            host: kafka_string(broker.host()),
            port: broker.port().into(),
            ..Default::default()
        },
        None => refuse(key, ErrorCode::CoordinatorNotAvailable),
    }
}

fn refuse(key: KafkaString, error: ErrorCode) -> Coordinator {
    Coordinator { key, node_id: -1, port: -1, error_code: error.code(), ..Default::default() }
}

fn respond(several: bool, mut coordinators: Vec<Coordinator>) -> Step {
    let mut response = FindCoordinatorResponseData::default();
    if several {
        response.coordinators = coordinators;
    } else if let Some(found) = coordinators.pop() {
        response.error_code = found.error_code;
        response.error_message = found.error_message;
        response.node_id = found.node_id;
        response.host = found.host;
        response.port = found.port;
    }
    Step::Reply(Response::FindCoordinator(response))
}
