//! Metadata and FindCoordinator, and the topics that they make; InitProducerId, ListOffsets.

use std::sync::Arc;

use broker::{MetadataOp, Op, OpResult};
use metadata::{Applied, Command};
use protocol::frame::{Request, Response};
use protocol::messages::find_coordinator_request::FindCoordinatorRequestData;
use protocol::messages::find_coordinator_response::FindCoordinatorResponseData;
use protocol::messages::init_producer_id_request::InitProducerIdRequestData;
use protocol::messages::init_producer_id_response::InitProducerIdResponseData;
use protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequestData, ListOffsetsTopic,
};
use protocol::messages::metadata_request::{MetadataRequestData, MetadataRequestTopic};
use protocol::messages::metadata_response::MetadataResponseData;
use protocol::messages::{ErrorCode, kafka_string, kafka_uuid, topic_id};
use types::{ProducerId, Term, TopicId};

use crate::world::*;

fn named(name: &str) -> MetadataRequestTopic {
    MetadataRequestTopic { name: Some(kafka_string(name)), ..Default::default() }
}

fn by_id(id: TopicId) -> MetadataRequestTopic {
    MetadataRequestTopic { topic_id: kafka_uuid(id), ..Default::default() }
}

fn request(topics: Option<Vec<MetadataRequestTopic>>) -> MetadataRequestData {
    MetadataRequestData { topics, allow_auto_topic_creation: false, ..Default::default() }
}

fn ask(world: &mut World, version: i16, mut request: MetadataRequestData) -> MetadataResponseData {
    // Clients before version 4 cannot say that topics are not to be made.
    request.allow_auto_topic_creation |= version < 4;
    match world.ask(version, &Request::Metadata(request)) {
        Response::Metadata(response) => response,
        other => panic!("another response: {other:?}"),
    }
}

/// Name, error and number of partitions of every topic.
fn topics(response: &MetadataResponseData) -> Vec<(String, ErrorCode, usize)> {
    let shown = response.topics.iter().map(|topic| {
        let name = topic.name.as_ref().map_or("(null)", |name| name.as_str());
        (name.to_owned(), code(topic.error_code), topic.partitions.len())
    });
    shown.collect()
}

#[test]
fn brokers_topics_and_leaders_are_described() {
    let mut world = World::new();
    let response = ask(&mut world, 12, request(None));
    let brokers: Vec<_> = response
        .brokers
        .iter()
        .map(|b| (b.node_id, b.host.as_str(), b.port, b.rack.as_ref().map(|rack| rack.as_str())))
        .collect();
    assert_eq!(brokers, [(1, "one", 9092, None), (2, "two", 9092, Some("rack-b"))]);
    assert_eq!(response.cluster_id, Some(kafka_string("cluster")));
    assert_eq!(response.controller_id, 1);
    assert_eq!(topics(&response), [(ORDERS.to_owned(), ErrorCode::None, 3)]);
    assert_eq!(topic_id(response.topics[0].topic_id), ORDERS_ID);
    let leaders: Vec<_> =
        response.topics[0].partitions.iter().map(|p| (p.leader_id, p.leader_epoch)).collect();
    assert_eq!(leaders, [(1, 5), (1, 5), (2, 5)]);
    assert_eq!(response.topics[0].partitions[2].isr_nodes, [2]);

    let group = world.group(ORDERS, 0);
    world.broker.on_leader(group, Term(4), Some(OTHER_NODE), Arc::default());
    assert_eq!(ask(&mut world, 12, request(None)).topics[0].partitions[0].leader_id, 1, "that was long ago");
    world.broker.on_leader(group, Term(6), None, Arc::default());
    let partition = ask(&mut world, 12, request(None)).topics[0].partitions[0].clone();
    assert_eq!((code(partition.error_code), partition.leader_id), (ErrorCode::LeaderNotAvailable, -1));
}

#[test]
fn the_request_says_which_topics() {
    let mut world = World::new();
    world.create_topic("__consumer_offsets", TopicId([3; 16]), &[1]);
    let mut names = |version, wanted| {
        let response = ask(&mut world, version, request(wanted));
        response
            .topics
            .iter()
            .map(|topic| topic.name.as_ref().expect("a name").to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(0, Some(vec![])), ["__consumer_offsets", ORDERS], "version 0 has no null");
    assert_eq!(names(1, None), ["__consumer_offsets", ORDERS]);
    assert_eq!(names(1, Some(vec![])), Vec::<String>::new());
    assert_eq!(names(9, Some(vec![named(ORDERS)])), [ORDERS]);
    assert_eq!(names(12, Some(vec![by_id(ORDERS_ID)])), [ORDERS]);
    assert_eq!(names(9, Some(vec![named(ORDERS), named("missing"), named(ORDERS)])), [ORDERS, "missing"]);
    let response = ask(&mut world, 12, request(Some(vec![named("__consumer_offsets")])));
    assert!(response.topics[0].is_internal);
}

#[test]
fn what_does_not_exist_is_said_so() {
    let mut world = World::new();
    let wanted = vec![named("missing"), named("a b"), by_id(TopicId([9; 16])), by_id(TopicId::ZERO)];
    let response = ask(&mut world, 12, request(Some(wanted)));
    assert_eq!(
        topics(&response),
        [
            ("missing".to_owned(), ErrorCode::UnknownTopicOrPartition, 0),
            ("a b".to_owned(), ErrorCode::InvalidTopicException, 0),
            ("(null)".to_owned(), ErrorCode::UnknownTopicId, 0),
            ("(null)".to_owned(), ErrorCode::InvalidTopicException, 0),
        ]
    );
    for version in [10, 11] {
        let response = ask(&mut world, version, request(Some(vec![by_id(ORDERS_ID), named(ORDERS)])));
        assert_eq!(
            topics(&response),
            [
                ("".to_owned(), ErrorCode::InvalidRequest, 0),
                (ORDERS.to_owned(), ErrorCode::InvalidRequest, 0)
            ],
            "ids come with version 12"
        );
    }
}

#[test]
fn asking_for_a_topic_makes_it() {
    let mut world = World::new();
    let wanted = vec![
        named("new"),
        named("a b"),
        named("new"),
        named("__transaction_state"),
        named(ORDERS),
        named("newer"),
    ];
    let asked = MetadataRequestData { allow_auto_topic_creation: true, ..request(Some(wanted)) };
    let response = ask(&mut world, 9, asked);
    assert_eq!(
        topics(&response),
        [
            ("new".to_owned(), ErrorCode::None, 1),
            ("a b".to_owned(), ErrorCode::InvalidTopicException, 0),
            ("__transaction_state".to_owned(), ErrorCode::UnknownTopicOrPartition, 0),
            (ORDERS.to_owned(), ErrorCode::None, 3),
            ("newer".to_owned(), ErrorCode::None, 1),
        ]
    );
    assert_eq!(
        topics(&ask(&mut world, 3, request(Some(vec![named("old")])))),
        [("old".to_owned(), ErrorCode::None, 1)]
    );
    assert_eq!(
        topics(&ask(&mut world, 4, request(Some(vec![named("other")])))),
        [("other".to_owned(), ErrorCode::UnknownTopicOrPartition, 0)]
    );
}

#[test]
fn one_request_makes_a_bounded_number_of_topics() {
    let mut world = World::new();
    let wanted: Vec<_> = (0..1_005).map(|number| named(&format!("topic-{number:04}"))).collect();
    let made = |response: &MetadataResponseData| response.topics.iter().filter(|t| t.error_code == 0).count();
    assert_eq!(made(&ask(&mut world, 3, request(Some(wanted.clone())))), 1_000);
    assert_eq!(made(&ask(&mut world, 3, request(Some(wanted)))), 1_005);
}

#[test]
fn a_broker_may_be_told_not_to_make_topics() {
    let mut world = World::empty(&[("auto.create.topics.enable", "false")], 1);
    let asked = MetadataRequestData { allow_auto_topic_creation: true, ..request(Some(vec![named("new")])) };
    world.send(CLIENT, 9, &Request::Metadata(asked));
    assert!(world.ops.is_empty());
}

#[test]
fn operations_are_told_to_those_who_ask() {
    let mut world = World::new();
    for (version, asks, cluster, topic) in
        [(8, true, 8096, 3576), (8, false, i32::MIN, i32::MIN), (12, true, i32::MIN, 3576)]
    {
        let wanted = vec![named(ORDERS), named("missing")];
        let asked = MetadataRequestData {
            include_cluster_authorized_operations: asks && version <= 10,
            include_topic_authorized_operations: asks,
            ..request(Some(wanted))
        };
        let response = ask(&mut world, version, asked);
        assert_eq!(response.cluster_authorized_operations, cluster);
        for described in &response.topics {
            assert_eq!(described.topic_authorized_operations, topic);
        }
    }
}

fn find(world: &mut World, version: i16, key_type: i8, keys: &[&str]) -> FindCoordinatorResponseData {
    let mut request = FindCoordinatorRequestData { key_type, ..Default::default() };
    if version >= 4 {
        request.coordinator_keys = keys.iter().map(|key| kafka_string(key)).collect();
    } else {
        request.key = kafka_string(keys[0]);
    }
    match world.ask(version, &Request::FindCoordinator(request)) {
        Response::FindCoordinator(response) => response,
        other => panic!("another response: {other:?}"),
    }
}

#[test]
fn asking_for_a_coordinator_makes_the_offsets_topic() {
    let mut world = World::new();
    let response = find(&mut world, 2, 0, &["group"]);
    assert_eq!(code(response.error_code), ErrorCode::None);
    assert!([1, 2].contains(&response.node_id) && response.port == 9092);
    let image = world.state.image();
    let topic = image.topic("__consumer_offsets").expect("it was made");
    assert_eq!((topic.partitions.len(), topic.internal), (4, true));
    assert_eq!(topic.configs["cleanup.policy"], "compact");
    assert_eq!(find(&mut world, 2, 0, &["group"]), response);
}

#[test]
fn several_coordinators_are_found_at_once() {
    let mut world = World::new();
    let response = find(&mut world, 4, 0, &["group", ""]);
    let errors: Vec<_> =
        response.coordinators.iter().map(|c| (c.key.to_string(), code(c.error_code))).collect();
    assert_eq!(errors, [("group".to_owned(), ErrorCode::None), ("".to_owned(), ErrorCode::InvalidGroupId)]);
    let response = find(&mut world, 4, 1, &["transaction"]);
    assert_eq!(code(response.coordinators[0].error_code), ErrorCode::InvalidRequest);
    for partition in 0..4 {
        let group = world.group("__consumer_offsets", partition);
        world.broker.on_leader(group, Term(9), None, Arc::default());
    }
    assert_eq!(code(find(&mut world, 0, 0, &["group"]).error_code), ErrorCode::CoordinatorNotAvailable);
}

fn init(
    world: &mut World,
    request: InitProducerIdRequestData,
    serve: impl FnOnce(&mut World),
) -> InitProducerIdResponseData {
    match world.ask_with(4, &Request::InitProducerId(request), serve) {
        Response::InitProducerId(response) => response,
        other => panic!("another response: {other:?}"),
    }
}

#[test]
fn producer_ids_come_from_blocks() {
    let mut world = World::new();
    let mut proposals = 0;
    for expected in 0..1_001 {
        let response = init(&mut world, Default::default(), |world| {
            world.serve(|op| {
                let Op::Metadata(MetadataOp::Propose { command, .. }) = op else { panic!("{op:?}") };
                assert!(matches!(command, Command::AllocateProducerIds { node: NODE, count: 1_000 }));
                proposals += 1;
                let first = ProducerId((proposals - 1) * 5_000);
                OpResult::Metadata(Ok(Applied::ProducerIdBlock { first, count: 1_000 }))
            });
        });
        let id = if expected < 1_000 { expected } else { 5_000 };
        assert_eq!(
            (code(response.error_code), response.producer_id, response.producer_epoch),
            (ErrorCode::None, id, 0)
        );
    }
    assert_eq!(proposals, 2);
}

#[test]
fn without_a_block_or_for_a_transaction_there_is_no_producer_id() {
    let mut world = World::new();
    for error in [ErrorCode::NotController, ErrorCode::RequestTimedOut, ErrorCode::KafkaStorageError] {
        let failed = |world: &mut World| world.serve(|_| OpResult::Metadata(Err(error)));
        let response = init(&mut world, Default::default(), failed);
        let told = (code(response.error_code), response.producer_id, response.producer_epoch);
        assert_eq!(told, (ErrorCode::CoordinatorLoadInProgress, -1, -1), "the client tries again: {error:?}");
    }
    let transactional =
        InitProducerIdRequestData { transactional_id: Some(kafka_string("t")), ..Default::default() };
    let response = init(&mut world, transactional, |world| assert!(world.ops.is_empty()));
    assert_eq!(code(response.error_code), ErrorCode::TransactionalIdAuthorizationFailed);
}

#[test]
fn offsets_are_looked_up_by_their_owners() {
    let partitions = [(0, -1), (7, -2), (1, 1_700)].map(|(partition_index, timestamp)| {
        ListOffsetsPartition { partition_index, timestamp, current_leader_epoch: 5, ..Default::default() }
    });
    let topics = [ORDERS, "missing"].map(|name| ListOffsetsTopic {
        name: kafka_string(name),
        partitions: partitions.to_vec(),
        ..Default::default()
    });
    let request = Request::ListOffsets(ListOffsetsRequestData {
        replica_id: -1,
        topics: topics.to_vec(),
        ..Default::default()
    });
    let Response::ListOffsets(response) = World::new().ask_with(7, &request, |world| {
        world.serve(|op| {
            let Op::ListOffsets(asked) = op else { panic!("{op:?}") };
            assert_eq!(asked.current_leader_epoch, 5);
            OpResult::ListOffsets(if asked.timestamp == -1 { Ok((-1, 40, 5)) } else { Err(not_leader()) })
        });
    }) else {
        panic!("another response")
    };
    let shown: Vec<Vec<_>> = response
        .topics
        .iter()
        .map(|topic| {
            topic.partitions.iter().map(|p| (p.partition_index, code(p.error_code), p.offset)).collect()
        })
        .collect();
    let unknown = ErrorCode::UnknownTopicOrPartition;
    assert_eq!(
        shown,
        [
            [(0, ErrorCode::None, 40), (7, unknown, -1), (1, ErrorCode::NotLeaderOrFollower, -1)],
            [(0, unknown, -1), (7, unknown, -1), (1, unknown, -1)]
        ]
    );
}

#[test]
fn owners_are_asked_once_however_often_a_partition_is_named() {
    let partition = ListOffsetsPartition { timestamp: -1, ..Default::default() };
    let topic =
        ListOffsetsTopic { name: kafka_string(ORDERS), partitions: vec![partition; 3], ..Default::default() };
    let request = Request::ListOffsets(ListOffsetsRequestData {
        replica_id: -1,
        topics: vec![topic.clone(), topic],
        ..Default::default()
    });
    let mut asked = 0;
    let Response::ListOffsets(response) = World::new().ask_with(7, &request, |world| {
        world.serve(|_| {
            asked += 1;
            OpResult::ListOffsets(Ok((-1, 40, 5)))
        });
    }) else {
        panic!("another response")
    };
    let codes: Vec<ErrorCode> =
        response.topics.iter().flat_map(|topic| &topic.partitions).map(|p| code(p.error_code)).collect();
    let again = ErrorCode::InvalidRequest;
    assert_eq!((asked, codes), (1, vec![ErrorCode::None, again, again, again, again, again]));
}
