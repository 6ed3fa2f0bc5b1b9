//! Replicas that move, and nodes that come and go: AlterPartitionReassignments, ListPartitionReassignments, DescribeQuorum,
//! UnregisterBroker, AddRaftVoter, RemoveRaftVoter.

use broker::{MetadataOp, Op, OpResult, Quorum, QuorumReplica};
use metadata::{Applied, Command, ConfigResource, Endpoint};
use protocol::frame::{Request, Response};
use protocol::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequestData, ReassignablePartition, ReassignableTopic,
};
use protocol::messages::describe_quorum_request::{DescribeQuorumRequestData, PartitionData, TopicData};
use protocol::messages::describe_quorum_response::{self, DescribeQuorumResponseData, ReplicaState};
use protocol::messages::list_partition_reassignments_request::{
    ListPartitionReassignmentsRequestData, ListPartitionReassignmentsTopics,
};
use protocol::messages::metadata_request::MetadataRequestData;
use protocol::messages::{
    ErrorCode, KafkaUuid, add_raft_voter_request, kafka_string, remove_raft_voter_request,
    unregister_broker_request,
};
use types::{LogIndex, NodeId, Term};

use crate::world::*;

/// Partitions of `orders` and where they are to be; `None` for where they were.
type Wanted<'a> = &'a [(i32, Option<&'a [i32]>)];

fn alter_request(topic: &str, wanted: Wanted, may_change_factor: bool) -> Request {
    let partitions = wanted.iter().map(|(partition_index, replicas)| ReassignablePartition {
        partition_index: *partition_index,
        replicas: replicas.map(<[i32]>::to_vec),
        ..Default::default()
    });
    let topic = ReassignableTopic {
        name: kafka_string(topic),
        partitions: partitions.collect(),
        ..Default::default()
    };
    Request::AlterPartitionReassignments(AlterPartitionReassignmentsRequestData {
        timeout_ms: 1_000,
        allow_replication_factor_change: may_change_factor,
        topics: vec![topic],
        ..Default::default()
    })
}

fn alter_with(world: &mut World, request: &Request, serve: impl FnOnce(&mut World)) -> Vec<(i32, ErrorCode)> {
    let Response::AlterPartitionReassignments(response) = world.ask_with(1, request, serve) else {
        panic!("another response");
    };
    assert_eq!(response.error_code, 0);
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|partition| (partition.partition_index, code(partition.error_code))).collect()
}

fn alter(world: &mut World, wanted: Wanted) -> Vec<(i32, ErrorCode)> {
    alter_with(world, &alter_request(ORDERS, wanted, true), World::serve_metadata)
}

/// A partition that moves: its number, all its replicas, those that are added and those that are removed.
type Moving = (i32, Vec<i32>, Vec<i32>, Vec<i32>);

/// What moves: partition, all replicas, those that are added, those that are removed.
fn moving(world: &mut World, topics: Option<&[(&str, &[i32])]>) -> Vec<Moving> {
    let topics = topics.map(|topics| {
        let named = topics.iter().map(|(name, partitions)| ListPartitionReassignmentsTopics {
            name: kafka_string(name),
            partition_indexes: partitions.to_vec(),
            ..Default::default()
        });
        named.collect()
    });
    let request = ListPartitionReassignmentsRequestData { topics, ..Default::default() };
    let Response::ListPartitionReassignments(response) =
        world.ask(0, &Request::ListPartitionReassignments(request))
    else {
        panic!("another response");
    };
    let partitions = response.topics.into_iter().flat_map(|topic| topic.partitions);
    partitions.map(|p| (p.partition_index, p.replicas, p.adding_replicas, p.removing_replicas)).collect()
}

#[test]
fn replicas_are_where_they_are_to_be_once_their_leader_says_so() {
    let mut world = World::new();
    assert_eq!(moving(&mut world, None), []);
    let wanted: Wanted = &[(0, Some(&[2])), (2, Some(&[1, 2]))];
    assert_eq!(alter(&mut world, wanted), [(0, ErrorCode::None), (2, ErrorCode::None)]);
    let all = [(0, vec![2, 1], vec![2], vec![1]), (2, vec![1, 2], vec![1], vec![])];
    assert_eq!(moving(&mut world, None), all);
    let asked: &[(&str, &[i32])] = &[(ORDERS, &[1, 2, 9]), ("missing", &[0])];
    assert_eq!(moving(&mut world, Some(asked)), all[1..]);

    let Response::Metadata(metadata) =
        world.ask(12, &Request::Metadata(MetadataRequestData { topics: None, ..Default::default() }))
    else {
        panic!("another response");
    };
    let first = &metadata.topics[0].partitions[0];
    assert_eq!(
        (&first.replica_nodes, &first.isr_nodes),
        (&vec![2, 1], &vec![1]),
        "it holds nothing there yet"
    );

    let group = world.group(ORDERS, 0);
    assert_eq!(world.apply(Command::CompleteMoves { moves: vec![(group, 1)] }), Applied::MovesCompleted);
    assert_eq!(moving(&mut world, None), all[1..]);
}

#[test]
fn a_move_is_taken_back_while_it_is_under_way() {
    let mut world = World::new();
    assert_eq!(alter(&mut world, &[(0, None)]), [(0, ErrorCode::NoReassignmentInProgress)]);
    alter(&mut world, &[(0, Some(&[2]))]);
    assert_eq!(alter(&mut world, &[(0, None)]), [(0, ErrorCode::None)]);
    // The new replica may be a member already, and is to go.
    assert_eq!(moving(&mut world, None), [(0, vec![1, 2], vec![], vec![])]);
}

#[test]
fn moves_are_refused_partition_by_partition() {
    let mut world = World::new();
    let wanted: Wanted =
        &[(0, Some(&[])), (1, Some(&[2, 2])), (2, Some(&[3])), (9, Some(&[1])), (-1, Some(&[1]))];
    let expected = [
        (0, ErrorCode::InvalidReplicaAssignment),
        (1, ErrorCode::InvalidReplicaAssignment),
        (2, ErrorCode::InvalidReplicaAssignment),
        (9, ErrorCode::UnknownTopicOrPartition),
        (-1, ErrorCode::UnknownTopicOrPartition),
    ];
    let nobody = |world: &mut World| assert!(world.ops.is_empty());
    assert_eq!(alter_with(&mut world, &alter_request(ORDERS, wanted, true), nobody), expected);
    let missing = alter_request("missing", &[(0, Some(&[1]))], true);
    assert_eq!(alter_with(&mut world, &missing, nobody), [(0, ErrorCode::UnknownTopicOrPartition)]);
    let twice = alter_request(ORDERS, &[(0, Some(&[2])), (0, Some(&[1]))], true);
    let refused = [(0, ErrorCode::InvalidRequest), (0, ErrorCode::InvalidRequest)];
    assert_eq!(alter_with(&mut world, &twice, nobody), refused);
    // In two entries of one topic as well.
    let Request::AlterPartitionReassignments(mut request) = twice else { panic!("another request") };
    let second = request.topics[0].partitions.split_off(1);
    request.topics.push(ReassignableTopic { partitions: second, ..request.topics[0].clone() });
    let apart = Request::AlterPartitionReassignments(request);
    assert_eq!(alter_with(&mut world, &apart, nobody), refused);

    // KIP-860: the others are not hindered.
    let wanted: Wanted = &[(0, Some(&[2])), (1, Some(&[1, 2]))];
    let outcome = alter_with(&mut world, &alter_request(ORDERS, wanted, false), World::serve_metadata);
    assert_eq!(outcome, [(0, ErrorCode::None), (1, ErrorCode::InvalidReplicationFactor)]);
    assert_eq!(moving(&mut world, None), [(0, vec![2, 1], vec![2], vec![1])]);
}

#[test]
fn a_long_name_does_not_come_back_with_each_of_its_partitions() {
    let mut world = World::new();
    let name = "\u{1}".repeat(32_000);
    let wanted: Vec<(i32, Option<&[i32]>)> = (0..50_000).map(|index| (index, None)).collect();
    let Response::AlterPartitionReassignments(response) = world.ask(1, &alter_request(&name, &wanted, true))
    else {
        panic!("another response");
    };
    let partitions = &response.responses[0].partitions;
    assert_eq!(partitions.len(), wanted.len());
    for partition in partitions {
        assert_eq!(code(partition.error_code), ErrorCode::UnknownTopicOrPartition);
        let message = partition.error_message.as_ref().expect("it says why").as_str();
        assert!(message.len() < 300 && message.contains("does not exist"), "{message}");
    }
}

#[test]
fn a_decision_that_is_not_committed_is_told_for_all_its_partitions() {
    let mut world = World::new();
    let request = alter_request(ORDERS, &[(0, Some(&[2])), (9, Some(&[2])), (1, Some(&[2]))], true);
    let outcome = alter_with(&mut world, &request, |world| {
        world.serve(|_| OpResult::Metadata(Err(ErrorCode::NotController)));
    });
    let expected = [
        (0, ErrorCode::NotController),
        (9, ErrorCode::UnknownTopicOrPartition),
        (1, ErrorCode::NotController),
    ];
    assert_eq!(outcome, expected);
}

fn quorum_request(names: &[(&str, i32)]) -> Request {
    let topics = names.iter().map(|(name, partition_index)| TopicData {
        topic_name: kafka_string(name),
        partitions: vec![PartitionData { partition_index: *partition_index, ..Default::default() }],
        ..Default::default()
    });
    Request::DescribeQuorum(DescribeQuorumRequestData { topics: topics.collect(), ..Default::default() })
}

fn describe_quorum(
    world: &mut World,
    names: &[(&str, i32)],
    answer: impl Fn() -> OpResult,
) -> DescribeQuorumResponseData {
    let response = world.ask_with(2, &quorum_request(names), |world| {
        world.serve(|op| {
            assert!(matches!(op, Op::Metadata(MetadataOp::DescribeQuorum { .. })), "{op:?}");
            answer()
        });
    });
    match response {
        Response::DescribeQuorum(response) => response,
        other => panic!("another response: {other:?}"),
    }
}

/// A quorum of both nodes.
pub fn quorum() -> Quorum {
    let leader = QuorumReplica { node: NODE, last: LogIndex(9), heard_ms: Some(50), caught_up_ms: Some(50) };
    let follower =
        QuorumReplica { node: OTHER_NODE, last: LogIndex(7), heard_ms: Some(40), caught_up_ms: None };
    Quorum {
        leader: NODE,
        term: Term(3),
        committed: LogIndex(8),
        voters: vec![leader, follower],
        observers: Vec::new(),
    }
}

#[test]
fn the_quorum_is_described_as_its_leader_knows_it() {
    let mut world = World::new();
    let names = [("__cluster_metadata", 0), ("__cluster_metadata", 1), (ORDERS, 0)];
    let response = describe_quorum(&mut world, &names, || OpResult::Quorum(quorum()));
    let partitions: Vec<&describe_quorum_response::PartitionData> =
        response.topics.iter().flat_map(|topic| &topic.partitions).collect();
    let codes: Vec<ErrorCode> = partitions.iter().map(|partition| code(partition.error_code)).collect();
    let unknown = ErrorCode::UnknownTopicOrPartition;
    assert_eq!(codes, [ErrorCode::None, unknown, unknown]);
    let described = partitions[0];
    assert_eq!((described.leader_id, described.leader_epoch, described.high_watermark), (1, 3, 9));
    let replica = |replica: &ReplicaState| {
        let times = (replica.last_fetch_timestamp, replica.last_caught_up_timestamp);
        (replica.replica_id, replica.log_end_offset, times)
    };
    let voters: Vec<_> = described.current_voters.iter().map(replica).collect();
    assert_eq!(voters, [(1, 10, (50, 50)), (2, 8, (40, -1))]);

    let failed = || OpResult::Metadata(Err(ErrorCode::NotLeaderOrFollower));
    let response = describe_quorum(&mut world, &names[..1], failed);
    assert_eq!(code(response.topics[0].partitions[0].error_code), ErrorCode::NotLeaderOrFollower);
    let nobody_is_asked = describe_quorum(&mut world, &names[1..], || unreachable!());
    assert_eq!(nobody_is_asked.topics.len(), 2);
}

fn add_voter(world: &mut World, node: i32, host: &str, cluster_id: Option<&str>) -> ErrorCode {
    let listener = add_raft_voter_request::Listener {
        name: kafka_string("RAFT"),
        host: kafka_string(host),
        port: 9192,
        ..Default::default()
    };
    let request = add_raft_voter_request::AddRaftVoterRequestData {
        cluster_id: cluster_id.map(kafka_string),
        timeout_ms: 1_000,
        voter_id: node,
        listeners: vec![listener],
        ..Default::default()
    };
    match world.ask(1, &Request::AddRaftVoter(request)) {
        Response::AddRaftVoter(response) => code(response.error_code),
        other => panic!("another response: {other:?}"),
    }
}

fn remove_voter(world: &mut World, node: i32, directory: KafkaUuid) -> ErrorCode {
    let request = remove_raft_voter_request::RemoveRaftVoterRequestData {
        voter_id: node,
        voter_directory_id: directory,
        ..Default::default()
    };
    match world.ask(0, &Request::RemoveRaftVoter(request)) {
        Response::RemoveRaftVoter(response) => code(response.error_code),
        other => panic!("another response: {other:?}"),
    }
}

#[test]
fn voters_come_and_go() {
    let mut world = World::new();
    assert_eq!(add_voter(&mut world, 7, "seven", Some("another")), ErrorCode::InconsistentClusterId);
    assert_eq!(add_voter(&mut world, 7, "", None), ErrorCode::InvalidRequest);
    assert_eq!(add_voter(&mut world, -1, "seven", None), ErrorCode::InvalidRequest);
    assert_eq!(add_voter(&mut world, 7, "seven", Some("cluster")), ErrorCode::None);
    assert_eq!(add_voter(&mut world, 7, "seven", None), ErrorCode::DuplicateVoter);
    assert_eq!(add_voter(&mut world, 8, "eight", None), ErrorCode::None);
    assert_eq!(add_voter(&mut world, NODE.0, "one", None), ErrorCode::None);
    let voters = world.state.image().metadata_replicas();
    assert_eq!(voters.iter().map(|voter| voter.node.0).collect::<Vec<_>>(), [1, 7, 8]);
    // Of them, this node comes.
    let endpoint = Endpoint { listener: "PLAINTEXT".to_owned(), host: "one".to_owned(), port: 9092 };
    let registered = world.apply(Command::RegisterBroker {
        node: NODE,
        rack: None,
        endpoints: vec![endpoint],
        incarnation: 2,
        directory_id: None,
        peer: None,
    });
    assert_eq!(registered, Applied::BrokerRegistered);

    assert_eq!(remove_voter(&mut world, 9, KafkaUuid::ZERO), ErrorCode::VoterNotFound);
    assert_eq!(remove_voter(&mut world, -9, KafkaUuid::ZERO), ErrorCode::VoterNotFound);
    assert_eq!(remove_voter(&mut world, 8, KafkaUuid::ZERO), ErrorCode::None);
    let last = |world: &mut World| remove_voter(world, NODE.0, KafkaUuid::ZERO);
    assert_eq!(last(&mut world), ErrorCode::InvalidRequest, "the other one never came");
    assert_eq!(remove_voter(&mut world, 7, KafkaUuid::ZERO), ErrorCode::None);
    assert_eq!(last(&mut world), ErrorCode::InvalidRequest, "the last one stays");
}

fn unregister(world: &mut World, broker_id: i32) -> ErrorCode {
    let request = unregister_broker_request::UnregisterBrokerRequestData { broker_id, ..Default::default() };
    match world.ask(0, &Request::UnregisterBroker(request)) {
        Response::UnregisterBroker(response) => code(response.error_code),
        other => panic!("another response: {other:?}"),
    }
}

#[test]
fn a_broker_is_forgotten_once_it_holds_nothing() {
    let mut world = World::new();
    assert_eq!(unregister(&mut world, 9), ErrorCode::BrokerIdNotRegistered);
    assert_eq!(unregister(&mut world, -9), ErrorCode::BrokerIdNotRegistered);
    assert_eq!(unregister(&mut world, 2), ErrorCode::InvalidRequest, "it holds a replica");
    let set = vec![("broker.draining".to_owned(), Some("true".to_owned()))];
    world.apply(Command::AlterConfigs { resource: ConfigResource::Broker(OTHER_NODE), set });
    alter(&mut world, &[(2, Some(&[1]))]);
    assert_eq!(unregister(&mut world, 2), ErrorCode::InvalidRequest, "it still does");
    let group = world.group(ORDERS, 2);
    world.apply(Command::CompleteMoves { moves: vec![(group, 1)] });
    assert_eq!(unregister(&mut world, 2), ErrorCode::None);
    assert!(world.state.image().broker(NodeId(2)).is_none() && !world.state.image().is_draining(OTHER_NODE));
}
