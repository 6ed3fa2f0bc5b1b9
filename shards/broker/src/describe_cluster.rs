//! DescribeCluster (key 60): the brokers, without topics (KIP-700), those that are not alive on request (KIP-1073).

use protocol::frame::Response;
use protocol::messages::describe_cluster_request::DescribeClusterRequestData;
use protocol::messages::describe_cluster_response::{DescribeClusterBroker, DescribeClusterResponseData};
use protocol::messages::{ErrorCode, kafka_string};

use crate::authorized_operations::{Resource, authorized_operations};
use crate::state::State;
use crate::step::Step;

/// `endpoint_type` of brokers (KIP-919), which versions without the field mean.
const BROKERS: i8 = 1;

/// `endpoint_type` of controllers. Here every broker takes their part, under its own endpoint.
const CONTROLLERS: i8 = 2;

pub(crate) fn handle(state: &State, request: DescribeClusterRequestData) -> Step {
    let response = match request.endpoint_type {
        BROKERS => describe(state, &request),
        CONTROLLERS => refuse(ErrorCode::MismatchedEndpointType, "this is a broker's endpoint".to_owned()),
        other => refuse(ErrorCode::UnsupportedEndpointType, format!("there is no endpoint type {other}")),
    };
    Step::Reply(Response::DescribeCluster(response))
}

/// Kafka's fenced broker is one that is registered and serves nobody: here, one that is not heard.
fn describe(state: &State, request: &DescribeClusterRequestData) -> DescribeClusterResponseData {
    let is_fenced = |node| !state.alive.contains(&node);
    let shown =
        state.image.brokers().filter(|broker| request.include_fenced_brokers || !is_fenced(broker.node));
    let brokers = shown.map(|broker| DescribeClusterBroker {
        broker_id: broker.node.0,
        host: kafka_string(broker.host()),
        port: broker.port().into(),
        rack: broker.rack.as_deref().map(kafka_string),
        is_fenced: is_fenced(broker.node),
        ..Default::default()
    });
    DescribeClusterResponseData {
        endpoint_type: BROKERS,
        cluster_id: kafka_string(state.image.cluster_id().unwrap_or("")),
        controller_id: state.controller().map_or(-1, |node| node.0),
        brokers: brokers.collect(),
        cluster_authorized_operations: authorized_operations(
            Resource::Cluster,
            request.include_cluster_authorized_operations,
        ),
        ..Default::default()
    }
}

fn refuse(error: ErrorCode, message: String) -> DescribeClusterResponseData {
    DescribeClusterResponseData {
        error_code: error.code(),
        error_message: Some(kafka_string(&message)),
        ..Default::default()
    }
}
