//! DeleteRecords, OffsetForLeaderEpoch, DescribeProducers, DescribeCluster, DescribeLogDirs, ElectLeaders.

use std::sync::Arc;

use std::collections::HashMap;

use broker::{ActiveProducer, MetadataOp, Op, OpResult, Target};
use metadata::{Command, ConfigResource};
use protocol::frame::{Request, Response};
use protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsRequestData, DeleteRecordsTopic,
};
use protocol::messages::delete_records_response::DeleteRecordsResponseData;
use protocol::messages::describe_cluster_request::DescribeClusterRequestData;
use protocol::messages::describe_cluster_response::DescribeClusterResponseData;
use protocol::messages::describe_log_dirs_request::{DescribableLogDirTopic, DescribeLogDirsRequestData};
use protocol::messages::describe_log_dirs_response::DescribeLogDirsResponseData;
use protocol::messages::describe_producers_request::{DescribeProducersRequestData, TopicRequest};
use protocol::messages::elect_leaders_request::{ElectLeadersRequestData, TopicPartitions};
use protocol::messages::elect_leaders_response::ElectLeadersResponseData;
use protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderEpochRequestData, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use protocol::messages::{ErrorCode, kafka_string};
use types::limits::CHANGE_WAIT_MS_MAX;
use types::{GroupId, Offset, ProducerId, Term, TopicId};

use crate::world::*;

fn delete_records_request(topic: &str, partitions: &[(i32, i64)]) -> Request {
    let partitions = partitions.iter().map(|(partition_index, offset)| DeleteRecordsPartition {
        partition_index: *partition_index,
        offset: *offset,
        ..Default::default()
    });
    let topic = DeleteRecordsTopic {
        name: kafka_string(topic),
        partitions: partitions.collect(),
        ..Default::default()
    };
    Request::DeleteRecords(DeleteRecordsRequestData {
        topics: vec![topic],
        timeout_ms: 1_000,
        ..Default::default()
    })
}

fn deleted(response: &DeleteRecordsResponseData) -> Vec<(i32, ErrorCode, i64)> {
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|p| (p.partition_index, code(p.error_code), p.low_watermark)).collect()
}

fn delete_records(
    world: &mut World,
    topic: &str,
    partitions: &[(i32, i64)],
    serve: impl FnOnce(&mut World),
) -> Vec<(i32, ErrorCode, i64)> {
    match world.ask_with(2, &delete_records_request(topic, partitions), serve) {
        Response::DeleteRecords(response) => deleted(&response),
        other => panic!("another response: {other:?}"),
    }
}

#[test]
fn records_are_deleted_by_their_owners() {
    let mut world = World::new();
    let first = world.group(ORDERS, 0);
    let answered = delete_records(&mut world, ORDERS, &[(1, -1), (0, 30), (9, 1), (0, -2)], |world| {
        world.serve(|op| match op {
            Op::DeleteRecords { group, offset: 30 } if *group == first => {
                OpResult::DeleteRecords(Ok(Offset(30)))
            }
            Op::DeleteRecords { offset: -1, .. } => OpResult::DeleteRecords(Err(not_leader())),
            other => panic!("{other:?}"),
        });
    });
    assert_eq!(
        answered,
        [
            (1, ErrorCode::NotLeaderOrFollower, -1),
            (0, ErrorCode::None, 30),
            (9, ErrorCode::UnknownTopicOrPartition, -1),
            (0, ErrorCode::OffsetOutOfRange, -1),
        ]
    );
}

#[test]
fn some_records_are_not_to_be_deleted() {
    let mut world = World::new();
    world.create_topic("__consumer_offsets", TopicId([3; 16]), &[1]);
    let set = vec![("cleanup.policy".to_owned(), Some("compact".to_owned()))];
    world.apply(Command::AlterConfigs { resource: ConfigResource::Topic(ORDERS_ID), set });
    for (topic, expected) in [
        ("missing", ErrorCode::UnknownTopicOrPartition),
        ("__consumer_offsets", ErrorCode::InvalidTopicException),
        (ORDERS, ErrorCode::PolicyViolation),
    ] {
        let nobody = |world: &mut World| assert!(world.ops.is_empty());
        assert_eq!(delete_records(&mut world, topic, &[(0, 1)], nobody), [(0, expected, -1)]);
    }
}

#[test]
fn deleting_records_waits_no_longer_than_the_client_wants() {
    let mut world = World::new();
    let answered = delete_records(&mut world, ORDERS, &[(0, 1)], |world| {
        world.ops.clear();
        world.pass_ms(999);
        assert!(world.responses.is_empty());
        world.pass_ms(1);
    });
    assert_eq!(answered, [(0, ErrorCode::RequestTimedOut, -1)]);
}

#[test]
fn ends_of_epochs_are_looked_up() {
    for version in 2..=4 {
        let partitions = [(0, 3), (1, 4), (9, 3)].map(|(partition, leader_epoch)| OffsetForLeaderPartition {
            partition,
            leader_epoch,
            current_leader_epoch: 5,
            ..Default::default()
        });
        let topic = OffsetForLeaderTopic {
            topic: kafka_string(ORDERS),
            partitions: partitions.to_vec(),
            ..Default::default()
        };
        let replica_id = if version >= 3 { -1 } else { Default::default() };
        let mut data = OffsetForLeaderEpochRequestData { topics: vec![topic], ..Default::default() };
        data.replica_id = if version >= 3 { replica_id } else { data.replica_id };
        let request = Request::OffsetForLeaderEpoch(data);
        let Response::OffsetForLeaderEpoch(response) = World::new().ask_with(version, &request, |world| {
            world.serve(|op| match op {
                Op::OffsetForLeaderEpoch { current_leader_epoch: 5, leader_epoch: 3, .. } => {
                    OpResult::OffsetForLeaderEpoch(Ok((2, 70)))
                }
                Op::OffsetForLeaderEpoch { leader_epoch: 4, .. } => {
                    OpResult::OffsetForLeaderEpoch(Err(ErrorCode::FencedLeaderEpoch.into()))
                }
                other => panic!("{other:?}"),
            });
        }) else {
            panic!("another response")
        };
        let shown: Vec<_> = response.topics[0]
            .partitions
            .iter()
            .map(|p| (p.partition, code(p.error_code), p.leader_epoch, p.end_offset))
            .collect();
        assert_eq!(
            shown,
            [
                (0, ErrorCode::None, 2, 70),
                (1, ErrorCode::FencedLeaderEpoch, -1, -1),
                (9, ErrorCode::UnknownTopicOrPartition, -1, -1)
            ]
        );
    }
}

#[test]
fn producers_are_described() {
    let topics = [(ORDERS, vec![0, 1, 9]), ("a b", vec![0])].map(|(name, partition_indexes)| TopicRequest {
        name: kafka_string(name),
        partition_indexes,
        ..Default::default()
    });
    let request = Request::DescribeProducers(DescribeProducersRequestData {
        topics: topics.to_vec(),
        ..Default::default()
    });
    let mut world = World::new();
    let first = world.group(ORDERS, 0);
    let Response::DescribeProducers(response) = world.ask_with(0, &request, |world| {
        world.serve(|op| match op {
            Op::DescribeProducers { group } if *group == first => {
                let producer =
                    ActiveProducer { id: ProducerId(4), epoch: 1, last_sequence: 17, last_timestamp_ms: 99 };
                OpResult::DescribeProducers(Ok(vec![producer]))
            }
            _ => OpResult::DescribeProducers(Err(not_leader())),
        });
    }) else {
        panic!("another response")
    };
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    let shown: Vec<_> =
        partitions.map(|p| (p.partition_index, code(p.error_code), p.active_producers.len())).collect();
    assert_eq!(
        shown,
        [
            (0, ErrorCode::None, 1),
            (1, ErrorCode::NotLeaderOrFollower, 0),
            (9, ErrorCode::UnknownTopicOrPartition, 0),
            (0, ErrorCode::InvalidTopicException, 0)
        ]
    );
    let producer = &response.topics[0].partitions[0].active_producers[0];
    assert_eq!((producer.producer_id, producer.producer_epoch, producer.last_sequence), (4, 1, 17));
    assert_eq!(
        (producer.last_timestamp, producer.coordinator_epoch, producer.current_txn_start_offset),
        (99, -1, -1)
    );
}

fn cluster(world: &mut World, request: DescribeClusterRequestData) -> DescribeClusterResponseData {
    match world.ask(1, &Request::DescribeCluster(request)) {
        Response::DescribeCluster(response) => response,
        other => panic!("another response: {other:?}"),
    }
}

#[test]
fn the_cluster_is_described() {
    let mut world = World::new();
    let response = cluster(&mut world, DescribeClusterRequestData::default());
    assert_eq!(
        (code(response.error_code), response.cluster_id.as_str(), response.controller_id),
        (ErrorCode::None, "cluster", 1)
    );
    let brokers: Vec<_> = response.brokers.iter().map(|b| (b.broker_id, b.host.as_str(), b.port)).collect();
    assert_eq!(brokers, [(1, "one", 9092), (2, "two", 9092)]);
    assert_eq!(response.cluster_authorized_operations, i32::MIN);
    let asks =
        DescribeClusterRequestData { include_cluster_authorized_operations: true, ..Default::default() };
    assert_eq!(cluster(&mut world, asks).cluster_authorized_operations, 8096);
    for (endpoint_type, expected) in
        [(2, ErrorCode::MismatchedEndpointType), (7, ErrorCode::UnsupportedEndpointType)]
    {
        let response =
            cluster(&mut world, DescribeClusterRequestData { endpoint_type, ..Default::default() });
        assert_eq!((code(response.error_code), response.brokers.len()), (expected, 0));
        assert!(response.error_message.is_some());
    }
}

#[test]
fn brokers_that_are_not_alive_are_described_on_request() {
    let mut world = World::new();
    world.broker.on_alive(Arc::new([NODE].into()));
    let described = |world: &mut World, version, include_fenced_brokers| {
        let request = DescribeClusterRequestData { include_fenced_brokers, ..Default::default() };
        let Response::DescribeCluster(response) = world.ask(version, &Request::DescribeCluster(request))
        else {
            panic!("another response")
        };
        response.brokers.iter().map(|broker| (broker.broker_id, broker.is_fenced)).collect::<Vec<_>>()
    };
    assert_eq!(described(&mut world, 1, false), [(1, false)]);
    assert_eq!(described(&mut world, 2, false), [(1, false)]);
    assert_eq!(described(&mut world, 2, true), [(1, false), (2, true)]);
    world.broker.on_alive(Arc::new([NODE, OTHER_NODE].into()));
    assert_eq!(described(&mut world, 2, true), [(1, false), (2, false)]);
}

/// Asks for log directories, where each group has ten bytes times its number unless it is `unhosted`.
fn log_dirs(
    world: &mut World,
    topics: Option<&[(&str, &[i32])]>,
    unhosted: Option<GroupId>,
) -> (usize, DescribeLogDirsResponseData) {
    let topics = topics.map(|topics| {
        let named = topics.iter().map(|(topic, partitions)| DescribableLogDirTopic {
            topic: kafka_string(topic),
            partitions: partitions.to_vec(),
            ..Default::default()
        });
        named.collect()
    });
    let request = Request::DescribeLogDirs(DescribeLogDirsRequestData { topics, ..Default::default() });
    let mut shards = 0;
    let response = world.ask_with(4, &request, |world| {
        let layout = config(2).layout;
        assert!(world.ops.iter().all(|(target, _, op)| match (target, op) {
            (Target::Group(target), Op::DescribeLogs { groups }) => {
                groups.iter().all(|group| layout.shard_of(*group) == layout.shard_of(*target))
            }
            (Target::Metadata, Op::MeasureSpace) => true,
            _ => false,
        }));
        shards = world.ops.len() - 1;
        world.serve(|op| match op {
            Op::DescribeLogs { groups } => {
                let hosted = groups.iter().filter(|group| Some(**group) != unhosted);
                OpResult::DescribeLogs(hosted.map(|group| (*group, group.0 * 10)).collect())
            }
            Op::MeasureSpace => OpResult::Space(Some((1_000, 600)).filter(|_| unhosted.is_none())),
            other => panic!("{other:?}"),
        });
    });
    match response {
        Response::DescribeLogDirs(response) => (shards, response),
        other => panic!("another response: {other:?}"),
    }
}

fn sizes(response: &DescribeLogDirsResponseData) -> Vec<(String, Vec<(i32, i64)>)> {
    let shown = response.results[0].topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|p| (p.partition_index, p.partition_size));
        (topic.name.to_string(), partitions.collect())
    });
    shown.collect()
}

#[test]
fn log_directories_are_described() {
    let mut world = World::empty(&[], 2);
    world.create_topic(ORDERS, ORDERS_ID, &[1, 1, 2, 1]);
    world.create_topic("elsewhere", TopicId([8; 16]), &[2]);
    let groups: HashMap<i32, i64> =
        [0, 1, 3].map(|index| (index, world.group(ORDERS, index as usize).0 as i64 * 10)).into();
    let of = |indexes: &[i32]| indexes.iter().map(|index| (*index, groups[index])).collect::<Vec<_>>();

    let (shards, response) = log_dirs(&mut world, None, None);
    assert_eq!(shards, 2, "each shard is asked once");
    assert_eq!(response.results.len(), 1);
    let result = &response.results[0];
    assert_eq!(
        (result.log_dir.as_str(), result.total_bytes, result.usable_bytes),
        ("/var/lib/chronik", 1_000, 600)
    );
    assert_eq!(sizes(&response), [(ORDERS.to_owned(), of(&[0, 1, 3]))]);

    let some: &[(&str, &[i32])] = &[(ORDERS, &[3, 2, 9, 3]), ("missing", &[0]), (ORDERS, &[0])];
    let (_, response) = log_dirs(&mut world, Some(some), None);
    assert_eq!(sizes(&response), [(ORDERS.to_owned(), of(&[0, 3]))]);
    let (shards, response) = log_dirs(&mut world, Some(&[]), None);
    assert_eq!((shards, sizes(&response).len()), (0, 0));
    let unhosted = world.group(ORDERS, 1);
    let (_, response) = log_dirs(&mut world, None, Some(unhosted));
    assert_eq!(sizes(&response), [(ORDERS.to_owned(), of(&[0, 3]))]);
    let result = &response.results[0];
    assert_eq!((result.total_bytes, result.usable_bytes), (-1, -1), "the system did not say");
}

fn elect(
    world: &mut World,
    election_type: i8,
    topics: Option<&[(&str, &[i32])]>,
) -> ElectLeadersResponseData {
    let topics = topics.map(|topics| {
        let named = topics.iter().map(|(topic, partitions)| TopicPartitions {
            topic: kafka_string(topic),
            partitions: partitions.to_vec(),
            ..Default::default()
        });
        named.collect()
    });
    let data = ElectLeadersRequestData { election_type, topic_partitions: topics, ..Default::default() };
    match world.ask(2, &Request::ElectLeaders(data)) {
        Response::ElectLeaders(response) => response,
        other => panic!("another response: {other:?}"),
    }
}

fn elected(response: &ElectLeadersResponseData) -> Vec<(String, i32, ErrorCode)> {
    let results = response.replica_election_results.iter().flat_map(|topic| {
        topic.partition_result.iter().map(|p| (topic.topic.to_string(), p.partition_id, code(p.error_code)))
    });
    results.collect()
}

#[test]
fn elections_are_held_where_they_are_needed() {
    const PREFERRED: i8 = 0;
    const UNCLEAN: i8 = 1;
    let mut world = World::new();
    let group = world.group(ORDERS, 1);
    world.broker.on_leader(group, Term(6), None, Arc::default());
    let asked: &[(&str, &[i32])] = &[(ORDERS, &[0, 1, 9]), ("missing", &[0])];
    for (election_type, without_leader) in [
        (PREFERRED, ErrorCode::PreferredLeaderNotAvailable),
        (UNCLEAN, ErrorCode::EligibleLeadersNotAvailable),
    ] {
        let response = elect(&mut world, election_type, Some(asked));
        assert_eq!(response.error_code, 0);
        assert_eq!(
            elected(&response),
            [
                (ORDERS.to_owned(), 0, ErrorCode::ElectionNotNeeded),
                (ORDERS.to_owned(), 1, without_leader),
                (ORDERS.to_owned(), 9, ErrorCode::UnknownTopicOrPartition),
                ("missing".to_owned(), 0, ErrorCode::UnknownTopicOrPartition),
            ]
        );
        let everywhere = elect(&mut world, election_type, None);
        assert_eq!(elected(&everywhere), [(ORDERS.to_owned(), 1, without_leader)]);
    }
    assert_eq!(elected(&elect(&mut world, PREFERRED, Some(&[]))), []);

    let response = elect(&mut world, 2, Some(&[(ORDERS, &[0])]));
    assert_eq!(code(response.error_code), ErrorCode::InvalidRequest);
    assert_eq!(elected(&response), [(ORDERS.to_owned(), 0, ErrorCode::InvalidRequest)]);

    world.broker.on_leader(group, Term(7), Some(OTHER_NODE), Arc::default());
    let response = elect(&mut world, PREFERRED, Some(&[(ORDERS, &[1])]));
    assert_eq!(elected(&response), [(ORDERS.to_owned(), 1, ErrorCode::None)]);
    let response = elect(&mut world, PREFERRED, Some(&[(ORDERS, &[1])]));
    assert_eq!(elected(&response), [(ORDERS.to_owned(), 1, ErrorCode::ElectionNotNeeded)]);

    world.broker.on_leader(group, Term(101), Some(OTHER_NODE), Arc::default());
    world.broker.on_alive(Arc::new([NODE].into()));
    let response = elect(&mut world, UNCLEAN, Some(&[(ORDERS, &[1])]));
    assert_eq!(elected(&response), [(ORDERS.to_owned(), 1, ErrorCode::EligibleLeadersNotAvailable)]);
}

#[test]
fn an_election_is_waited_for_once_and_not_for_days() {
    let mut world = World::new();
    let group = world.group(ORDERS, 1);
    world.broker.on_leader(group, Term(6), Some(OTHER_NODE), Arc::default());
    let named = |partitions: Vec<i32>| TopicPartitions {
        topic: kafka_string(ORDERS),
        partitions,
        ..Default::default()
    };
    let request = Request::ElectLeaders(ElectLeadersRequestData {
        topic_partitions: Some(vec![named(vec![1, 1, 0]), named(vec![1, 2, 0])]),
        timeout_ms: i32::MAX,
        ..Default::default()
    });
    let longest_us = world.now.after_ms(CHANGE_WAIT_MS_MAX);
    let Response::ElectLeaders(response) = world.ask_with(2, &request, |world| {
        assert_eq!(world.ops.len(), 1);
        world.serve(|op| match op {
            Op::Metadata(MetadataOp::HandOver { deadline_us, .. }) if *deadline_us == longest_us => {
                OpResult::Metadata(Err(ErrorCode::RequestTimedOut))
            }
            other => panic!("{other:?}"),
        });
    }) else {
        panic!("another response")
    };
    assert_eq!(
        elected(&response),
        [
            (ORDERS.to_owned(), 1, ErrorCode::RequestTimedOut),
            (ORDERS.to_owned(), 0, ErrorCode::ElectionNotNeeded),
            (ORDERS.to_owned(), 2, ErrorCode::ElectionNotNeeded),
        ]
    );
}
