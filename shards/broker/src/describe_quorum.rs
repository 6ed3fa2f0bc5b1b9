//! DescribeQuorum (key 55): the voters of the metadata group and how far each is (KIP-595, KIP-836, KIP-853).
//!
//! Any node passes the question on to the group's leader.

use metadata::Endpoint;
use protocol::frame::Response;
use protocol::messages::describe_quorum_request::{self, DescribeQuorumRequestData};
use protocol::messages::describe_quorum_response::{
    DescribeQuorumResponseData, Listener, Node, PartitionData, ReplicaState, TopicData,
};
use protocol::messages::{ErrorCode, KafkaString, kafka_string, kafka_uuid};
use types::{LogIndex, NodeId, TopicId};

use crate::broker::Target;
use crate::op::{MetadataOp, Op, OpResult, Quorum, QuorumReplica};
use crate::state::State;
use crate::step::{RequestInfo, Step};

/// The name of the metadata group as a topic, which has one partition.
const METADATA_TOPIC: &str = "__cluster_metadata";

/// How long the leader may take to say.
const TIMEOUT_MS: i64 = 5_000;

pub(crate) fn handle(state: &State, info: RequestInfo<'_>, request: DescribeQuorumRequestData) -> Step {
    let version = info.api_version;
    let topics = request.topics;
    if !topics.iter().any(|topic| topic.partitions.iter().any(|asked| is_metadata(topic, asked))) {
        return reply(state, version, topics, &Err(ErrorCode::UnknownTopicOrPartition));
    }
    let op = MetadataOp::DescribeQuorum { deadline_us: info.now.after_ms(TIMEOUT_MS) };
    Step::gather(vec![(Target::Metadata, Op::Metadata(op))], move |state, _, results| {
        let outcome = match results.into_iter().next() {
            Some(OpResult::Quorum(quorum)) => Ok(quorum),
            Some(OpResult::Metadata(Err(error))) => Err(error),
            other => unreachable!("the quorum is told as such, not as {other:?}"),
        };
        reply(state, version, topics, &outcome)
    })
}

fn is_metadata(
    topic: &describe_quorum_request::TopicData,
    asked: &describe_quorum_request::PartitionData,
) -> bool {
    topic.topic_name.as_str() == METADATA_TOPIC && asked.partition_index == 0
}

fn reply(
    state: &State,
    version: i16,
    topics: Vec<describe_quorum_request::TopicData>,
    outcome: &Result<Quorum, ErrorCode>,
) -> Step {
    let described = topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let described = match (is_metadata(topic, asked), outcome) {
                (true, Ok(quorum)) => describe(state, version, quorum),
                (true, Err(error)) => refuse(*error),
                (false, _) => refuse(ErrorCode::UnknownTopicOrPartition),
            };
            PartitionData { partition_index: asked.partition_index, ..described }
        });
        TopicData {
            topic_name: topic.topic_name.clone(),
            partitions: partitions.collect(),
            ..Default::default()
        }
    });
    let nodes = match outcome {
        Ok(quorum) if version >= 2 => {
            quorum.voters.iter().filter_map(|voter| node(state, voter.node)).collect()
        }
        _ => Vec::new(),
    };
    Step::Reply(Response::DescribeQuorum(DescribeQuorumResponseData {
        topics: described.collect(),
        nodes,
        ..Default::default()
    }))
}

fn refuse(error: ErrorCode) -> PartitionData {
    PartitionData { error_code: error.code(), leader_id: -1, leader_epoch: -1, ..Default::default() }
}

fn describe(state: &State, version: i16, quorum: &Quorum) -> PartitionData {
    let states = |replicas: &[QuorumReplica]| -> Vec<ReplicaState> {
        replicas.iter().map(|replica| replica_state(state, version, replica)).collect()
    };
    PartitionData {
        leader_id: quorum.leader.0,
        leader_epoch: quorum.term.leader_epoch(),
        high_watermark: end(quorum.committed),
        current_voters: states(&quorum.voters),
        observers: states(&quorum.observers),
        ..Default::default()
    }
}

fn replica_state(state: &State, version: i16, replica: &QuorumReplica) -> ReplicaState {
    let registered = state.image.broker(replica.node).and_then(|broker| broker.directory_id);
    let directory = registered.map_or(TopicId::ZERO, |directory| TopicId(directory.0));
    ReplicaState {
        replica_id: replica.node.0,
        replica_directory_id: kafka_uuid(if version >= 2 { directory } else { TopicId::ZERO }),
        log_end_offset: end(replica.last),
        last_fetch_timestamp: replica.heard_ms.unwrap_or(-1),
        last_caught_up_timestamp: replica.caught_up_ms.unwrap_or(-1),
        ..Default::default()
    }
}

/// The offset behind an entry.
fn end(last: LogIndex) -> i64 {
    i64::try_from(last.next().0).expect("a log does not grow so long")
}

fn node(state: &State, node: NodeId) -> Option<Node> {
    let said = state.image.broker(node).and_then(|broker| broker.peer.as_ref());
    let peer = state.image.voter(node).and_then(|voter| voter.peer.as_ref()).or(said)?;
    Some(Node { node_id: node.0, listeners: vec![listener(peer)], ..Default::default() })
}

fn listener(peer: &Endpoint) -> Listener {
    let text = |text: &str| -> KafkaString { kafka_string(text) };
    Listener { name: text(&peer.listener), host: text(&peer.host), port: peer.port, ..Default::default() }
}
