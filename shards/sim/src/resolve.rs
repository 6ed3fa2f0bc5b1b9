//! How a client finds the node that serves what it wants: as real clients do, with Metadata and FindCoordinator.

use protocol::client;
use protocol::frame::{Request, RequestHeader, Response};
use protocol::messages::find_coordinator_request::FindCoordinatorRequestData;
use protocol::messages::metadata_request::{MetadataRequestData, MetadataRequestTopic};
use protocol::messages::{ErrorCode, kafka_string};
use types::NodeId;

use crate::actor::{Answer, Outgoing, Target};
use crate::process::client_port;

/// What came of the question.
pub(crate) enum Found {
    /// It is this node.
    Node(NodeId),
    /// Nobody yet, or not as far as the node knows that was asked.
    Nobody,
}

/// The question.
pub(crate) fn request(target: &Target, next_correlation_id: &mut i32) -> Outgoing {
    let (version, request) = match target {
        Target::Any => unreachable!("who wants any node asks nobody"),
        Target::Leader { topic, .. } => {
            let topics = vec![MetadataRequestTopic { name: Some(kafka_string(topic)), ..Default::default() }];
            let request = MetadataRequestData {
                topics: Some(topics),
                allow_auto_topic_creation: false,
                ..Default::default()
            };
            (12, Request::Metadata(request))
        }
        Target::Coordinator(group) => {
            let request = FindCoordinatorRequestData { key: kafka_string(group), ..Default::default() };
            (3, Request::FindCoordinator(request))
        }
    };
    *next_correlation_id += 1;
    let key = request.api_key();
    let correlation_id = *next_correlation_id;
    let header = RequestHeader {
        api_key: key.wire(),
        api_version: version,
        correlation_id,
        client_id: Some(kafka_string("sim")),
    };
    let frame = client::encode_request(&header, &request).expect("clients send what can be encoded");
    Outgoing { key, version, correlation_id, is_answered: true, frame: frame.freeze().slice(4..) }
}

/// The answer.
///
/// # Panics
///
/// When it contradicts itself.
pub(crate) fn found(target: &Target, answer: Answer) -> Found {
    match (target, answer) {
        (Target::Leader { partition, .. }, Answer::Response(Response::Metadata(response))) => {
            let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
            let leader = partitions
                .filter(|found| found.partition_index == *partition)
                .find(|found| found.leader_id >= 0);
            let Some(leader) = leader.map(|found| found.leader_id) else { return Found::Nobody };
            let broker = response.brokers.iter().find(|broker| broker.node_id == leader);
            let broker = broker.unwrap_or_else(|| panic!("leader {leader} is not among the brokers"));
            let node = NodeId(leader);
            assert_eq!(broker.port, i32::from(client_port(node)), "a broker is where it says");
            Found::Node(node)
        }
        (Target::Coordinator(_), Answer::Response(Response::FindCoordinator(response))) => {
            if ErrorCode::from(response.error_code) != ErrorCode::None {
                return Found::Nobody;
            }
            let node = NodeId(response.node_id);
            assert_eq!(response.port, i32::from(client_port(node)), "a coordinator is where it says");
            Found::Node(node)
        }
        (target, answer) => panic!("{target:?} is answered with {answer:?}"),
    }
}
