//! CreateTopics, DeleteTopics, CreatePartitions, DescribeTopicPartitions.

use std::sync::Arc;

use broker::OpResult;
use metadata::{Applied, MetadataError};
use protocol::frame::{Request, Response};
use protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsRequestData, CreatePartitionsTopic,
};
use protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreateTopicsRequestData,
};
use protocol::messages::create_topics_response::CreateTopicsResponseData;
use protocol::messages::delete_topics_request::{DeleteTopicState, DeleteTopicsRequestData};
use protocol::messages::describe_topic_partitions_request::{
    Cursor, DescribeTopicPartitionsRequestData, TopicRequest,
};
use protocol::messages::describe_topic_partitions_response::DescribeTopicPartitionsResponseData;
use protocol::messages::{ErrorCode, kafka_string, kafka_uuid, topic_id};
use types::{Term, TopicId};

use crate::world::*;

fn creatable(name: &str, num_partitions: i32) -> CreatableTopic {
    CreatableTopic { name: kafka_string(name), num_partitions, replication_factor: 1, ..Default::default() }
}

fn create(world: &mut World, validate_only: bool, topics: Vec<CreatableTopic>) -> CreateTopicsResponseData {
    let request = CreateTopicsRequestData { topics, validate_only, ..Default::default() };
    match world.ask(7, &Request::CreateTopics(request)) {
        Response::CreateTopics(response) => response,
        other => panic!("another response: {other:?}"),
    }
}

fn created(response: &CreateTopicsResponseData) -> Vec<(String, ErrorCode, i32, i16)> {
    let shown = response
        .topics
        .iter()
        .map(|t| (t.name.to_string(), code(t.error_code), t.num_partitions, t.replication_factor));
    shown.collect()
}

#[test]
fn topics_are_created() {
    let mut world = World::new();
    let manual = CreatableTopic {
        assignments: vec![CreatableReplicaAssignment { broker_ids: vec![2, 1], ..Default::default() }],
        replication_factor: -1,
        ..creatable("manual", -1)
    };
    let config = CreatableTopicConfig {
        name: kafka_string("retention.ms"),
        value: Some(kafka_string("1000")),
        ..Default::default()
    };
    let configured = CreatableTopic { configs: vec![config], ..creatable("configured", -1) };
    let response = create(&mut world, false, vec![creatable("four", 4), manual, configured]);
    assert_eq!(
        created(&response),
        [
            ("four".to_owned(), ErrorCode::None, 4, 1),
            ("manual".to_owned(), ErrorCode::None, 1, 2),
            ("configured".to_owned(), ErrorCode::None, 1, 1)
        ]
    );
    let image = world.state.image();
    for topic in &response.topics {
        assert_eq!(topic_id(topic.topic_id), image.topic(topic.name.as_str()).expect("it was made").id);
    }
    let configs = response.topics[2].configs.as_ref().expect("configurations");
    let retention = configs.iter().find(|config| config.name.as_str() == "retention.ms").expect("it has one");
    assert_eq!(
        (retention.value.as_ref().map(|value| value.as_str()), retention.config_source),
        (Some("1000"), 1)
    );
}

#[test]
fn topics_that_cannot_be_created_do_not_hinder_others() {
    let mut world = World::new();
    let response = create(
        &mut world,
        false,
        vec![
            creatable(ORDERS, 1),
            creatable("a b", 1),
            creatable("none", 0),
            CreatableTopic { replication_factor: 3, ..creatable("many", 1) },
            creatable("twice", 1),
            creatable("twice", 1),
            creatable("good", 1),
        ],
    );
    let errors: Vec<_> = created(&response).into_iter().map(|(name, error, _, _)| (name, error)).collect();
    assert_eq!(
        errors,
        [
            (ORDERS.to_owned(), ErrorCode::TopicAlreadyExists),
            ("a b".to_owned(), ErrorCode::InvalidTopicException),
            ("none".to_owned(), ErrorCode::InvalidPartitions),
            ("many".to_owned(), ErrorCode::InvalidReplicationFactor),
            ("twice".to_owned(), ErrorCode::InvalidRequest),
            ("twice".to_owned(), ErrorCode::InvalidRequest),
            ("good".to_owned(), ErrorCode::None),
        ]
    );
    assert!(response.topics[..6].iter().all(|topic| topic.error_message.is_some()));
}

#[test]
fn too_many_partitions_at_once_are_refused_altogether() {
    let mut world = World::new();
    let response = create(&mut world, false, vec![creatable("large", 10_000), creatable("small", -1)]);
    let refused = |name: &str| (name.to_owned(), ErrorCode::PolicyViolation, -1, -1);
    assert_eq!(created(&response), [refused("large"), refused("small")]);
    assert!(world.state.image().topic("small").is_none());
    let response = create(&mut world, false, vec![creatable("large", 9_999), creatable("small", -1)]);
    assert!(response.topics.iter().all(|topic| topic.error_code == 0));
}

#[test]
fn validation_creates_nothing() {
    let mut world = World::new();
    let response = create(&mut world, true, vec![creatable("new", 4), creatable(ORDERS, 1)]);
    assert_eq!(
        created(&response),
        [
            ("new".to_owned(), ErrorCode::None, 4, 1),
            (ORDERS.to_owned(), ErrorCode::TopicAlreadyExists, -1, -1)
        ]
    );
    assert!(world.state.image().topic("new").is_none());
}

#[test]
fn what_becomes_of_a_proposal_is_told() {
    for (result, expected) in [
        (Ok(Applied::Refused(MetadataError::TopicExists("new".to_owned()))), ErrorCode::TopicAlreadyExists),
        (Err(ErrorCode::RequestTimedOut), ErrorCode::RequestTimedOut),
        (Err(ErrorCode::NotController), ErrorCode::NotController),
    ] {
        let request = CreateTopicsRequestData { topics: vec![creatable("new", 1)], ..Default::default() };
        let answer = |world: &mut World| world.serve(|_| OpResult::Metadata(result.clone()));
        let Response::CreateTopics(response) =
            World::new().ask_with(7, &Request::CreateTopics(request), answer)
        else {
            panic!("another response")
        };
        assert_eq!(code(response.topics[0].error_code), expected);
    }
}

fn delete(
    world: &mut World,
    version: i16,
    names: &[&str],
    topics: &[(Option<&str>, TopicId)],
) -> Vec<(String, TopicId, ErrorCode)> {
    let topics = topics.iter().map(|(name, id)| DeleteTopicState {
        name: name.map(kafka_string),
        topic_id: kafka_uuid(*id),
        ..Default::default()
    });
    let request = DeleteTopicsRequestData {
        topic_names: names.iter().map(|name| kafka_string(name)).collect(),
        topics: topics.collect(),
        timeout_ms: 1_000,
        ..Default::default()
    };
    let Response::DeleteTopics(response) = world.ask(version, &Request::DeleteTopics(request)) else {
        panic!("another response")
    };
    let shown = response.responses.into_iter().map(|topic| {
        let name = topic.name.map_or("(null)".to_owned(), |name| name.to_string());
        (name, topic_id(topic.topic_id), code(topic.error_code))
    });
    shown.collect()
}

const OTHER_ID: TopicId = TopicId([8; 16]);

#[test]
fn topics_are_deleted_by_name() {
    for version in 1..=5 {
        let mut world = World::new();
        let deleted = delete(&mut world, version, &[ORDERS, "missing", "missing too", "missing too"], &[]);
        let errors: Vec<_> = deleted.into_iter().map(|(name, _, error)| (name, error)).collect();
        assert_eq!(
            errors,
            [
                (ORDERS.to_owned(), ErrorCode::None),
                ("missing".to_owned(), ErrorCode::UnknownTopicOrPartition),
                ("missing too".to_owned(), ErrorCode::InvalidRequest)
            ]
        );
        assert!(world.state.image().topic(ORDERS).is_none());
    }
}

#[test]
fn a_long_name_is_told_in_a_short_message() {
    let state = DeleteTopicState { name: Some(kafka_string(&"\u{1}".repeat(32_000))), ..Default::default() };
    let request = DeleteTopicsRequestData { topics: vec![state], ..Default::default() };
    let Response::DeleteTopics(response) = World::new().ask(6, &Request::DeleteTopics(request)) else {
        panic!("another response")
    };
    let topic = &response.responses[0];
    assert_eq!(code(topic.error_code), ErrorCode::UnknownTopicOrPartition);
    assert!(topic.error_message.as_ref().is_some_and(|message| message.as_str().len() < 300));
}

#[test]
fn topics_are_deleted_by_name_or_id() {
    let mut world = World::new();
    world.create_topic("other", OTHER_ID, &[1]);
    world.create_topic("third", TopicId([4; 16]), &[1]);
    world.create_topic("__consumer_offsets", TopicId([3; 16]), &[1]);
    let asked = [
        (Some(ORDERS), TopicId::ZERO),
        (None, OTHER_ID),
        (None, TopicId([9; 16])),
        (None, TopicId::ZERO),
        (Some("third"), TopicId([4; 16])),
        (Some("__consumer_offsets"), TopicId::ZERO),
    ];
    assert_eq!(
        delete(&mut world, 6, &[], &asked),
        [
            (ORDERS.to_owned(), ORDERS_ID, ErrorCode::None),
            ("other".to_owned(), OTHER_ID, ErrorCode::None),
            ("(null)".to_owned(), TopicId([9; 16]), ErrorCode::UnknownTopicId),
            ("(null)".to_owned(), TopicId::ZERO, ErrorCode::InvalidRequest),
            ("third".to_owned(), TopicId([4; 16]), ErrorCode::InvalidRequest),
            ("__consumer_offsets".to_owned(), TopicId([3; 16]), ErrorCode::InvalidTopicException),
        ]
    );
    let image = world.state.image();
    let left: Vec<&str> = image.topics().map(|topic| &*topic.name).collect();
    assert_eq!(left, ["__consumer_offsets", "third"]);
}

#[test]
fn a_topic_named_twice_is_not_deleted() {
    let mut world = World::new();
    let twice = [(Some(ORDERS), TopicId::ZERO), (None, ORDERS_ID)];
    assert_eq!(
        delete(&mut world, 6, &[], &twice),
        [(ORDERS.to_owned(), ORDERS_ID, ErrorCode::InvalidRequest)]
    );
    assert!(world.state.image().topic(ORDERS).is_some());
}

#[test]
fn a_topic_that_another_request_deleted_first_is_unknown() {
    for (asked, expected) in [
        ((Some(kafka_string(ORDERS)), TopicId::ZERO), ErrorCode::UnknownTopicOrPartition),
        ((None, ORDERS_ID), ErrorCode::UnknownTopicId),
    ] {
        let mut world = World::new();
        let state = DeleteTopicState { name: asked.0, topic_id: kafka_uuid(asked.1), ..Default::default() };
        let request = DeleteTopicsRequestData { topics: vec![state], ..Default::default() };
        let refused = Applied::Refused(MetadataError::UnknownTopicId(ORDERS_ID));
        let answer = |world: &mut World| world.serve(|_| OpResult::Metadata(Ok(refused.clone())));
        let Response::DeleteTopics(response) = world.ask_with(6, &Request::DeleteTopics(request), answer)
        else {
            panic!("another response")
        };
        assert_eq!(code(response.responses[0].error_code), expected);
    }
}

fn more_partitions(name: &str, count: i32, assignments: Option<&[&[i32]]>) -> CreatePartitionsTopic {
    let assignments = assignments.map(|assignments| {
        let assigned = assignments
            .iter()
            .map(|ids| CreatePartitionsAssignment { broker_ids: ids.to_vec(), ..Default::default() });
        assigned.collect()
    });
    CreatePartitionsTopic { name: kafka_string(name), count, assignments, ..Default::default() }
}

fn create_partitions(
    world: &mut World,
    validate_only: bool,
    topics: Vec<CreatePartitionsTopic>,
) -> Vec<(String, ErrorCode)> {
    let request =
        CreatePartitionsRequestData { topics, timeout_ms: 1_000, validate_only, ..Default::default() };
    let Response::CreatePartitions(response) = world.ask(3, &Request::CreatePartitions(request)) else {
        panic!("another response")
    };
    response.results.iter().map(|result| (result.name.to_string(), code(result.error_code))).collect()
}

#[test]
fn partitions_are_added() {
    let mut world = World::new();
    world.create_topic("other", OTHER_ID, &[1]);
    let asked = vec![more_partitions(ORDERS, 5, None), more_partitions("other", 2, Some(&[&[2]]))];
    assert_eq!(
        create_partitions(&mut world, false, asked),
        [(ORDERS.to_owned(), ErrorCode::None), ("other".to_owned(), ErrorCode::None)]
    );
    let image = world.state.image();
    assert_eq!(image.topic(ORDERS).expect("a topic").partitions.len(), 5);
    assert_eq!(image.topic("other").expect("a topic").partitions[1].replicas, [OTHER_NODE]);
}

#[test]
fn partitions_are_only_added_where_they_can_be() {
    let mut world = World::new();
    world.create_topic("__consumer_offsets", TopicId([3; 16]), &[1]);
    for (asked, expected) in [
        (more_partitions("missing", 5, None), ErrorCode::UnknownTopicOrPartition),
        (more_partitions(ORDERS, 3, None), ErrorCode::InvalidPartitions),
        (more_partitions(ORDERS, -1, None), ErrorCode::InvalidPartitions),
        (more_partitions(ORDERS, i32::MAX, None), ErrorCode::PolicyViolation),
        (more_partitions(ORDERS, 4, Some(&[&[1], &[2]])), ErrorCode::InvalidReplicaAssignment),
        (more_partitions(ORDERS, 4, Some(&[&[9]])), ErrorCode::InvalidReplicaAssignment),
        (more_partitions("__consumer_offsets", 4, None), ErrorCode::InvalidTopicException),
    ] {
        let name = asked.name.to_string();
        assert_eq!(create_partitions(&mut world, false, vec![asked]), [(name, expected)]);
    }
    let twice = vec![more_partitions(ORDERS, 4, None), more_partitions(ORDERS, 5, None)];
    assert_eq!(create_partitions(&mut world, false, twice), [(ORDERS.to_owned(), ErrorCode::InvalidRequest)]);
    let validated = create_partitions(&mut world, true, vec![more_partitions(ORDERS, 4, None)]);
    assert_eq!(validated, [(ORDERS.to_owned(), ErrorCode::None)]);
    assert_eq!(world.state.image().topic(ORDERS).expect("a topic").partitions.len(), 3);
}

#[test]
fn too_many_new_partitions_at_once_are_refused_altogether() {
    let mut world = World::new();
    world.create_topic("other", OTHER_ID, &[1]);
    let asked = |count| vec![more_partitions(ORDERS, count, None), more_partitions("other", 5_001, None)];
    let refused = |name: &str| (name.to_owned(), ErrorCode::PolicyViolation);
    assert_eq!(create_partitions(&mut world, false, asked(5_004)), [refused(ORDERS), refused("other")]);
    assert_eq!(world.state.image().partition_count(), 4);
    let made = |name: &str| (name.to_owned(), ErrorCode::None);
    assert_eq!(create_partitions(&mut world, false, asked(5_003)), [made(ORDERS), made("other")]);
    assert_eq!(world.state.image().partition_count(), 10_004);
}

fn pages(
    world: &mut World,
    names: &[&str],
    limit: i32,
    cursor: Option<(&str, i32)>,
) -> DescribeTopicPartitionsResponseData {
    let cursor = cursor.map(|(topic, partition_index)| {
        Box::new(Cursor { topic_name: kafka_string(topic), partition_index, ..Default::default() })
    });
    let topics = names.iter().map(|name| TopicRequest { name: kafka_string(name), ..Default::default() });
    let request = DescribeTopicPartitionsRequestData {
        topics: topics.collect(),
        response_partition_limit: limit,
        cursor,
        ..Default::default()
    };
    match world.ask(0, &Request::DescribeTopicPartitions(request)) {
        Response::DescribeTopicPartitions(response) => response,
        other => panic!("another response: {other:?}"),
    }
}

/// Topics with their partitions or error, then the cursor.
fn shown(response: &DescribeTopicPartitionsResponseData) -> String {
    let mut text = String::new();
    for topic in &response.topics {
        let partitions: Vec<i32> =
            topic.partitions.iter().map(|partition| partition.partition_index).collect();
        let name = topic.name.as_ref().expect("a name");
        text += &match code(topic.error_code) {
            ErrorCode::None => format!("{name}{partitions:?} "),
            error => format!("{name}:{error:?} "),
        };
    }
    match response.next_cursor.as_deref() {
        Some(cursor) => text + &format!("next {} {}", cursor.topic_name, cursor.partition_index),
        None => text + "end",
    }
}

#[test]
fn topics_are_described_page_by_page() {
    let mut world = World::new();
    world.create_topic("alpha", TopicId([1; 16]), &[1, 2]);
    world.create_topic("zeta", TopicId([2; 16]), &[1]);
    let all: &[&str] = &[];
    for (names, limit, cursor, expected) in [
        (all, 100, None, "alpha[0, 1] orders[0, 1, 2] zeta[0] end"),
        (all, 2, None, "alpha[0, 1] next orders 0"),
        (all, 2, Some(("orders", 0)), "orders[0, 1] next orders 2"),
        (all, 2, Some(("orders", 2)), "orders[2] zeta[0] end"),
        (all, 2, Some(("orders", 9)), "orders[] zeta[0] end"),
        (all, 100, Some(("middle", 1)), "orders[0, 1, 2] zeta[0] end"),
        (all, 1, Some(("zz", 0)), "end"),
        (all, 0, None, "next alpha 0"),
        (all, -5, None, "next alpha 0"),
        (&["zeta", "alpha", "zeta"], 100, None, "alpha[0, 1] zeta[0] end"),
        (&["zeta", "alpha"], 2, None, "alpha[0, 1] next zeta 0"),
        (&["zeta", "alpha"], 2, Some(("zeta", 0)), "zeta[0] end"),
        (&["missing", "a b"], 2, None, "a b:InvalidTopicException missing:UnknownTopicOrPartition end"),
        (&["alpha"], 2, Some(("orders", 0)), "alpha:InvalidRequest end"),
        (&["alpha"], 2, Some(("alpha", -1)), "alpha:InvalidRequest end"),
    ] {
        assert_eq!(shown(&pages(&mut world, names, limit, cursor)), expected, "{names:?} {limit} {cursor:?}");
    }
}

#[test]
fn one_response_has_no_more_than_2000_partitions() {
    let mut world = World::new();
    world.create_topic("large", OTHER_ID, &[1; 2_001]);
    let response = pages(&mut world, &["large"], i32::MAX, None);
    assert_eq!(response.topics[0].partitions.len(), 2_000);
    assert_eq!(response.next_cursor.expect("more").partition_index, 2_000);
}

#[test]
fn partitions_are_described_with_leaders_and_operations() {
    let mut world = World::new();
    let group = world.group(ORDERS, 1);
    world.broker.on_leader(group, Term(6), None, Arc::default());
    let response = pages(&mut world, &[ORDERS], 10, None);
    let topic = &response.topics[0];
    assert_eq!((topic_id(topic.topic_id), topic.topic_authorized_operations), (ORDERS_ID, 3576));
    let partitions: Vec<_> = topic
        .partitions
        .iter()
        .map(|p| {
            (code(p.error_code), p.leader_id, p.leader_epoch, p.replica_nodes.clone(), p.isr_nodes.clone())
        })
        .collect();
    assert_eq!(
        partitions,
        [
            (ErrorCode::None, 1, 5, vec![1], vec![1]),
            (ErrorCode::LeaderNotAvailable, -1, -1, vec![1], vec![1]),
            (ErrorCode::None, 2, 5, vec![2], vec![2])
        ]
    );
    assert_eq!(topic.partitions[0].eligible_leader_replicas, Some(vec![]));
}
