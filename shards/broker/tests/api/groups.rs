//! Requests to coordinators of consumer groups, on their way there and back.

use broker::{GroupOp, Op, OpResult, Target};
use coordinator::{GroupFilter, GroupRequest, GroupResponse};
use protocol::frame::{Request, Response};
use protocol::messages::delete_groups_request::DeleteGroupsRequestData;
use protocol::messages::delete_groups_response::DeletableGroupResult;
use protocol::messages::describe_groups_request::DescribeGroupsRequestData;
use protocol::messages::describe_groups_response::DescribedGroup;
use protocol::messages::heartbeat_request::HeartbeatRequestData;
use protocol::messages::heartbeat_response::HeartbeatResponseData;
use protocol::messages::join_group_request::JoinGroupRequestData;
use protocol::messages::list_groups_request::ListGroupsRequestData;
use protocol::messages::list_groups_response::{ListGroupsResponseData, ListedGroup};
use protocol::messages::offset_commit_request::{
    OffsetCommitRequestData, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use protocol::messages::offset_commit_response::{
    OffsetCommitResponseData, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use protocol::messages::offset_delete_request::{
    OffsetDeleteRequestData, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use protocol::messages::offset_delete_response::{
    OffsetDeleteResponseData, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use protocol::messages::offset_fetch_request::{
    OffsetFetchRequestData, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use protocol::messages::{ErrorCode, kafka_string, kafka_uuid, topic_id};
use types::{GroupId, TopicId};

use crate::world::*;

const MISSING_ID: TopicId = TopicId([9; 16]);

/// A world with an offsets topic of four partitions, the last of which the other node leads.
fn world() -> World {
    let mut world = World::new();
    world.create_topic("__consumer_offsets", TopicId([3; 16]), &[1, 1, 1, 2]);
    world
}

fn group_op(op: &Op) -> &GroupOp {
    match op {
        Op::Group(op) => op,
        other => panic!("not for a coordinator: {other:?}"),
    }
}

fn heartbeat(group: &str) -> Request {
    let data = HeartbeatRequestData { group_id: kafka_string(group), generation_id: 1, ..Default::default() };
    Request::Heartbeat(data)
}

#[test]
fn a_request_goes_to_the_partition_that_kafka_would_choose() {
    // "hello" hashes to 99162322 in Java, which is 2 modulo 4; "polygenelubricants" to the smallest integer.
    for (group, partition) in [("hello", 2), ("polygenelubricants", 0), ("a", 1)] {
        let mut world = world();
        let expected: GroupId = world.group("__consumer_offsets", partition);
        world.send(CLIENT, 4, &heartbeat(group));
        let (target, token, op) = world.pop_op();
        let op = group_op(&op);
        assert_eq!((target, op.group), (Target::Group(expected), expected), "{group}");
        assert_eq!(
            (op.context.api_version, &*op.context.client_id, &*op.context.client_host),
            (4, "tester", "/127.0.0.1")
        );
        assert!(matches!(&op.request, GroupRequest::Heartbeat(data) if data.group_id.as_str() == group));
        let answered =
            HeartbeatResponseData { error_code: ErrorCode::RebalanceInProgress.code(), ..Default::default() };
        world.answer(token, OpResult::Group(Ok(GroupResponse::Heartbeat(answered.clone()))));
        let (_, response) = world.pop_response(protocol::ApiKey::Heartbeat, 4);
        assert_eq!(response, Response::Heartbeat(answered));
    }
}

#[test]
fn without_an_offsets_topic_there_is_no_coordinator() {
    let mut world = World::new();
    let Response::Heartbeat(response) = world.ask(4, &heartbeat("group")) else { panic!("another response") };
    assert_eq!(code(response.error_code), ErrorCode::CoordinatorNotAvailable);
    for version in 0..=9 {
        let join =
            Request::JoinGroup(JoinGroupRequestData { session_timeout_ms: 10_000, ..Default::default() });
        let Response::JoinGroup(response) = world.ask(version, &join) else { panic!("another response") };
        assert_eq!(code(response.error_code), ErrorCode::CoordinatorNotAvailable, "version {version}");
    }
}

#[test]
fn an_error_of_the_owner_is_that_of_the_response() {
    let mut world = world();
    let failed = |world: &mut World| world.serve(|_| OpResult::Group(Err(ErrorCode::NotCoordinator)));
    let Response::Heartbeat(response) = world.ask_with(4, &heartbeat("group"), failed) else {
        panic!("another response")
    };
    assert_eq!(code(response.error_code), ErrorCode::NotCoordinator);
}

fn commit_topic(name: &str, id: TopicId, partitions: &[i32]) -> OffsetCommitRequestTopic {
    let partitions = partitions.iter().map(|index| OffsetCommitRequestPartition {
        partition_index: *index,
        committed_offset: 10,
        ..Default::default()
    });
    OffsetCommitRequestTopic {
        name: kafka_string(name),
        topic_id: kafka_uuid(id),
        partitions: partitions.collect(),
        ..Default::default()
    }
}

/// A coordinator that commits everything, and the topics it was asked about.
fn commit(
    world: &mut World,
    version: i16,
    topics: Vec<OffsetCommitRequestTopic>,
) -> (Vec<String>, OffsetCommitResponseData) {
    let request = OffsetCommitRequestData { group_id: kafka_string("group"), topics, ..Default::default() };
    let mut asked = Vec::new();
    let Response::OffsetCommit(response) =
        world.ask_with(version, &Request::OffsetCommit(request), |world| {
            world.serve(|op| {
                let GroupRequest::OffsetCommit(request) = &group_op(op).request else { panic!("{op:?}") };
                let topics = request.topics.iter().map(|topic| {
                    asked.push(topic.name.to_string());
                    OffsetCommitResponseTopic {
                        name: topic.name.clone(),
                        topic_id: topic.topic_id,
                        partitions: topic
                            .partitions
                            .iter()
                            .map(|p| OffsetCommitResponsePartition {
                                partition_index: p.partition_index,
                                ..Default::default()
                            })
                            .collect(),
                        ..Default::default()
                    }
                });
                let topics = topics.collect();
                OpResult::Group(Ok(GroupResponse::OffsetCommit(OffsetCommitResponseData {
                    topics,
                    ..Default::default()
                })))
            });
        })
    else {
        panic!("another response")
    };
    (asked, response)
}

fn committed(response: &OffsetCommitResponseData) -> Vec<Vec<(i32, ErrorCode)>> {
    let topics = response
        .topics
        .iter()
        .map(|topic| topic.partitions.iter().map(|p| (p.partition_index, code(p.error_code))).collect());
    topics.collect()
}

#[test]
fn offsets_are_committed_of_what_exists() {
    let zero = TopicId::ZERO;
    let (asked, response) = commit(
        &mut world(),
        8,
        vec![commit_topic(ORDERS, zero, &[0, 7]), commit_topic("missing", zero, &[1])],
    );
    assert_eq!(asked, [ORDERS]);
    let unknown = ErrorCode::UnknownTopicOrPartition;
    assert_eq!(committed(&response), [vec![(0, ErrorCode::None), (7, unknown)], vec![(1, unknown)]]);

    let (asked, response) = commit(&mut world(), 8, vec![commit_topic("missing", zero, &[1])]);
    assert_eq!((asked.len(), committed(&response)), (0, vec![vec![(1, unknown)]]));

    let (asked, response) =
        commit(&mut world(), 10, vec![commit_topic("", ORDERS_ID, &[0]), commit_topic("", MISSING_ID, &[1])]);
    assert_eq!(asked, [ORDERS]);
    assert_eq!(committed(&response), [[(0, ErrorCode::None)], [(1, ErrorCode::UnknownTopicId)]]);
    assert_eq!(topic_id(response.topics[1].topic_id), MISSING_ID);

    let (_, response) = commit(
        &mut World::new(),
        8,
        vec![commit_topic(ORDERS, zero, &[0]), commit_topic("missing", zero, &[1])],
    );
    assert_eq!(committed(&response), [[(0, ErrorCode::CoordinatorNotAvailable)], [(1, unknown)]]);
}

fn fetch_group(group: &str, topics: &[(&str, TopicId)]) -> OffsetFetchRequestGroup {
    let topics = topics.iter().map(|(name, id)| OffsetFetchRequestTopics {
        name: kafka_string(name),
        topic_id: kafka_uuid(*id),
        partition_indexes: vec![0],
        ..Default::default()
    });
    OffsetFetchRequestGroup {
        group_id: kafka_string(group),
        topics: Some(topics.collect()),
        ..Default::default()
    }
}

/// A coordinator that knows offset 33 of everything it is asked about.
fn coordinator(op: &Op) -> OpResult {
    let GroupRequest::OffsetFetch { group, .. } = &group_op(op).request else { panic!("{op:?}") };
    let topics = group.topics.iter().flatten().map(|topic| {
        assert!(!topic.name.is_empty(), "the coordinator knows names only");
        let partitions = topic.partition_indexes.iter().map(|index| OffsetFetchResponsePartitions {
            partition_index: *index,
            committed_offset: 33,
            metadata: Some(kafka_string("")),
            ..Default::default()
        });
        OffsetFetchResponseTopics {
            name: topic.name.clone(),
            topic_id: topic.topic_id,
            partitions: partitions.collect(),
            ..Default::default()
        }
    });
    let group = OffsetFetchResponseGroup {
        group_id: group.group_id.clone(),
        topics: topics.collect(),
        ..Default::default()
    };
    OpResult::Group(Ok(GroupResponse::OffsetFetch(group)))
}

fn fetch_groups(
    version: i16,
    groups: Vec<OffsetFetchRequestGroup>,
    owner: fn(&Op) -> OpResult,
) -> Vec<OffsetFetchResponseGroup> {
    let request = Request::OffsetFetch(OffsetFetchRequestData { groups, ..Default::default() });
    match world().ask_with(version, &request, |world| world.serve(owner)) {
        Response::OffsetFetch(response) => response.groups,
        other => panic!("another response: {other:?}"),
    }
}

#[test]
fn offsets_of_several_groups_are_fetched() {
    let zero = TopicId::ZERO;
    let groups =
        vec![fetch_group("hello", &[(ORDERS, zero)]), fetch_group("a", &[(ORDERS, zero), ("gone", zero)])];
    let answered = fetch_groups(8, groups.clone(), coordinator);
    let shown: Vec<_> = answered.iter().map(|g| (g.group_id.as_str(), g.topics.len())).collect();
    assert_eq!(shown, [("hello", 1), ("a", 2)]);

    let answered = fetch_groups(8, groups, |_| OpResult::Group(Err(ErrorCode::NotCoordinator)));
    let shown: Vec<_> =
        answered.iter().map(|g| (g.group_id.as_str(), code(g.error_code), g.topics.len())).collect();
    assert_eq!(shown, [("hello", ErrorCode::NotCoordinator, 0), ("a", ErrorCode::NotCoordinator, 0)]);
}

#[test]
fn offsets_are_fetched_by_topic_id() {
    let groups = vec![fetch_group("hello", &[("", ORDERS_ID), ("", MISSING_ID)])];
    let answered = fetch_groups(10, groups, coordinator);
    let shown: Vec<_> = answered[0]
        .topics
        .iter()
        .map(|t| (topic_id(t.topic_id), code(t.partitions[0].error_code), t.partitions[0].committed_offset))
        .collect();
    assert_eq!(shown, [(ORDERS_ID, ErrorCode::None, 33), (MISSING_ID, ErrorCode::UnknownTopicId, -1)]);
}

#[test]
fn all_offsets_of_a_group_have_the_ids_of_their_topics() {
    let group =
        OffsetFetchRequestGroup { group_id: kafka_string("hello"), topics: None, ..Default::default() };
    let answered = fetch_groups(10, vec![group], |_| {
        let topics = [ORDERS, "gone"]
            .map(|name| OffsetFetchResponseTopics { name: kafka_string(name), ..Default::default() });
        let group = OffsetFetchResponseGroup { topics: topics.to_vec(), ..Default::default() };
        OpResult::Group(Ok(GroupResponse::OffsetFetch(group)))
    });
    let ids: Vec<_> = answered[0].topics.iter().map(|topic| topic_id(topic.topic_id)).collect();
    assert_eq!(ids, [ORDERS_ID], "what has no id any more cannot be named");
}

#[test]
fn offsets_of_one_group_are_fetched_in_old_versions() {
    for version in 1..=7 {
        let topic = OffsetFetchRequestTopic {
            name: kafka_string(ORDERS),
            partition_indexes: vec![0, 1],
            ..Default::default()
        };
        let data = OffsetFetchRequestData {
            group_id: kafka_string("hello"),
            topics: Some(vec![topic]),
            ..Default::default()
        };
        let request = Request::OffsetFetch(data);
        let ask = |owner: fn(&Op) -> OpResult| match world()
            .ask_with(version, &request, |world| world.serve(owner))
        {
            Response::OffsetFetch(response) => response,
            other => panic!("another response: {other:?}"),
        };
        let offsets: Vec<_> =
            ask(coordinator).topics[0].partitions.iter().map(|p| p.committed_offset).collect();
        assert_eq!(offsets, [33, 33]);
        let refused = ask(|_| OpResult::Group(Err(ErrorCode::NotCoordinator)));
        if version >= 2 {
            assert_eq!(code(refused.error_code), ErrorCode::NotCoordinator);
        } else {
            let errors: Vec<_> = refused.topics[0].partitions.iter().map(|p| code(p.error_code)).collect();
            assert_eq!(errors, [ErrorCode::NotCoordinator; 2], "version 1 has errors in partitions only");
        }
    }
}

#[test]
fn groups_are_described_with_operations() {
    for (asks, expected) in [(false, i32::MIN), (true, 3400)] {
        let groups = ["hello", "a"].map(kafka_string).to_vec();
        let data =
            DescribeGroupsRequestData { groups, include_authorized_operations: asks, ..Default::default() };
        let Response::DescribeGroups(response) =
            world().ask_with(5, &Request::DescribeGroups(data), |world| {
                world.serve(|op| {
                    let GroupRequest::DescribeGroup(group_id) = &group_op(op).request else {
                        panic!("{op:?}")
                    };
                    if group_id.as_str() == "a" {
                        return OpResult::Group(Err(ErrorCode::NotCoordinator));
                    }
                    let group = DescribedGroup { group_id: group_id.clone(), ..Default::default() };
                    OpResult::Group(Ok(GroupResponse::DescribeGroup(group)))
                });
            })
        else {
            panic!("another response")
        };
        let shown: Vec<_> = response
            .groups
            .iter()
            .map(|g| (g.group_id.as_str(), code(g.error_code), g.authorized_operations))
            .collect();
        assert_eq!(shown, [("hello", ErrorCode::None, expected), ("a", ErrorCode::NotCoordinator, i32::MIN)]);
    }
}

#[test]
fn groups_are_deleted_each_by_its_coordinator() {
    let groups_names = ["hello", "a"].map(kafka_string).to_vec();
    let data = DeleteGroupsRequestData { groups_names, ..Default::default() };
    let Response::DeleteGroups(response) = world().ask_with(2, &Request::DeleteGroups(data), |world| {
        world.serve(|op| {
            let GroupRequest::DeleteGroup(group_id) = &group_op(op).request else { panic!("{op:?}") };
            let error_code = ErrorCode::NonEmptyGroup.code();
            OpResult::Group(match group_id.as_str() {
                "a" => Err(ErrorCode::NotCoordinator),
                _ => Ok(GroupResponse::DeleteGroup(DeletableGroupResult {
                    group_id: group_id.clone(),
                    error_code,
                    ..Default::default()
                })),
            })
        });
    }) else {
        panic!("another response")
    };
    let shown: Vec<_> = response.results.iter().map(|g| (g.group_id.as_str(), code(g.error_code))).collect();
    assert_eq!(shown, [("hello", ErrorCode::NonEmptyGroup), ("a", ErrorCode::NotCoordinator)]);
}

#[test]
fn groups_are_listed_by_every_coordinator_of_this_node() {
    let request = Request::ListGroups(ListGroupsRequestData::default());
    let mut asked = Vec::new();
    let mut world = world();
    let Response::ListGroups(response) = world.ask_with(5, &request, |world| {
        world.serve(|op| {
            let group = group_op(op).group;
            asked.push(group);
            let listed = ListedGroup { group_id: kafka_string(&format!("of {group}")), ..Default::default() };
            let groups = vec![listed];
            OpResult::Group(Ok(GroupResponse::ListGroups(ListGroupsResponseData {
                groups,
                ..Default::default()
            })))
        });
    }) else {
        panic!("another response")
    };
    let led: Vec<GroupId> = (0..3).map(|partition| world.group("__consumer_offsets", partition)).collect();
    assert_eq!(asked, led);
    assert_eq!(response.groups.len(), 3);

    let Response::ListGroups(response) = World::new().ask(5, &request) else { panic!("another response") };
    assert_eq!((response.error_code, response.groups.len()), (0, 0));
}

#[test]
fn groups_whose_coordinator_has_moved_off_this_node_are_not_listed() {
    let request = Request::ListGroups(ListGroupsRequestData::default());
    let in_response = |error: ErrorCode| {
        let error_code = error.code();
        Ok(GroupResponse::ListGroups(ListGroupsResponseData { error_code, ..Default::default() }))
    };
    let unexpected = ErrorCode::UnknownServerError;
    for (second, third, expected) in [
        (Err(ErrorCode::NotCoordinator), in_response(ErrorCode::NotCoordinator), ErrorCode::None),
        (
            Err(ErrorCode::CoordinatorLoadInProgress),
            in_response(ErrorCode::NotCoordinator),
            ErrorCode::CoordinatorLoadInProgress,
        ),
        (in_response(unexpected), Err(ErrorCode::NotCoordinator), unexpected),
    ] {
        let listed = ListedGroup { group_id: kafka_string("hello"), ..Default::default() };
        let groups = vec![listed];
        let first = Ok(GroupResponse::ListGroups(ListGroupsResponseData { groups, ..Default::default() }));
        let mut answers = [first, second, third].into_iter();
        let Response::ListGroups(response) = world().ask_with(5, &request, |world| {
            world.serve(|_| OpResult::Group(answers.next().expect("three coordinators")));
        }) else {
            panic!("another response")
        };
        assert_eq!((code(response.error_code), response.groups.len()), (expected, 1));
    }
}

fn delete_offsets(
    world: &mut World,
    topics: &[(&str, &[i32])],
    owner: impl FnMut(&Op) -> OpResult,
) -> OffsetDeleteResponseData {
    let topics = topics.iter().map(|(name, partitions)| OffsetDeleteRequestTopic {
        name: kafka_string(name),
        partitions: partitions
            .iter()
            .map(|index| OffsetDeleteRequestPartition { partition_index: *index, ..Default::default() })
            .collect(),
        ..Default::default()
    });
    let (group_id, topics) = (kafka_string("hello"), topics.collect());
    let request = Request::OffsetDelete(OffsetDeleteRequestData { group_id, topics, ..Default::default() });
    match world.ask_with(0, &request, |world| world.serve(owner)) {
        Response::OffsetDelete(response) => response,
        other => panic!("another response: {other:?}"),
    }
}

#[test]
fn offsets_are_deleted_of_what_exists() {
    let mut asked = Vec::new();
    // A coordinator whose group is subscribed to everything.
    let mut owner = |op: &Op| {
        let GroupRequest::OffsetDelete(request) = &group_op(op).request else { panic!("{op:?}") };
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|p| {
                asked.push((topic.name.to_string(), p.partition_index));
                OffsetDeleteResponsePartition {
                    partition_index: p.partition_index,
                    error_code: ErrorCode::GroupSubscribedToTopic.code(),
                    ..Default::default()
                }
            });
            let (name, partitions) = (topic.name.clone(), partitions.collect());
            OffsetDeleteResponseTopic { name, partitions, ..Default::default() }
        });
        let topics = topics.collect();
        let response = OffsetDeleteResponseData { topics, ..Default::default() };
        OpResult::Group(Ok(GroupResponse::OffsetDelete(response)))
    };
    let mut world = world();
    world.create_topic("payments", TopicId([8; 16]), &[1]);
    let topics: &[(&str, &[i32])] =
        &[("payments", &[0]), (ORDERS, &[-1, 0, 7, 1]), ("missing", &[0, 1]), ("", &[0])];
    let response = delete_offsets(&mut world, topics, &mut owner);
    let shown: Vec<_> = response
        .topics
        .iter()
        .flat_map(|topic| {
            topic.partitions.iter().map(|p| (topic.name.to_string(), p.partition_index, code(p.error_code)))
        })
        .collect();
    let (unknown, subscribed) = (ErrorCode::UnknownTopicOrPartition, ErrorCode::GroupSubscribedToTopic);
    let expected = [
        (ORDERS, -1, unknown),
        (ORDERS, 7, unknown),
        (ORDERS, 0, subscribed),
        (ORDERS, 1, subscribed),
        ("missing", 0, unknown),
        ("missing", 1, unknown),
        ("", 0, unknown),
        ("payments", 0, subscribed),
    ];
    assert_eq!(shown, expected.map(|(name, index, error)| (name.to_owned(), index, error)));
    assert_eq!((code(response.error_code), response.topics.len()), (ErrorCode::None, 4));
    let reached = [("payments", 0), (ORDERS, 0), (ORDERS, 1)];
    assert_eq!(asked, reached.map(|(name, index)| (name.to_owned(), index)));
}

#[test]
fn whether_there_is_a_group_is_said_even_where_no_offset_can_be_deleted() {
    let missing: &[(&str, &[i32])] = &[("missing", &[0])];
    let in_response =
        OffsetDeleteResponseData { error_code: ErrorCode::GroupIdNotFound.code(), ..Default::default() };
    let response = delete_offsets(&mut world(), missing, |_| {
        OpResult::Group(Ok(GroupResponse::OffsetDelete(in_response.clone())))
    });
    assert_eq!(response, in_response);
    let response = delete_offsets(&mut world(), missing, |_| OpResult::Group(Err(ErrorCode::NotCoordinator)));
    assert_eq!((code(response.error_code), response.topics.len()), (ErrorCode::NotCoordinator, 0));
    let response = delete_offsets(&mut World::new(), missing, |op| panic!("there is no coordinator: {op:?}"));
    assert_eq!((code(response.error_code), response.topics.len()), (ErrorCode::CoordinatorNotAvailable, 0));
}

#[test]
fn a_commit_is_answered_for_each_mention_of_what_does_not_exist() {
    let missing = || commit_topic("missing", TopicId::ZERO, &[1]);
    let (asked, response) = commit(&mut world(), 8, vec![missing(), missing()]);
    let unknown = (1, ErrorCode::UnknownTopicOrPartition);
    assert_eq!((asked.len(), committed(&response)), (0, vec![vec![unknown, unknown]]));
}

/// The partitions of a topic in an answer.
fn answered_partitions(topic: &OffsetFetchResponseTopics) -> Vec<i32> {
    topic.partitions.iter().map(|partition| partition.partition_index).collect()
}

#[test]
fn offsets_are_fetched_once_however_often_a_partition_is_named() {
    let topic = |name: &str, id: TopicId, partition_indexes: Vec<i32>| OffsetFetchRequestTopics {
        name: kafka_string(name),
        topic_id: kafka_uuid(id),
        partition_indexes,
        ..Default::default()
    };
    let group = |id: &str, topics: Vec<OffsetFetchRequestTopics>| OffsetFetchRequestGroup {
        group_id: kafka_string(id),
        topics: Some(topics),
        ..Default::default()
    };
    let zero = TopicId::ZERO;
    let often = [vec![0; 10_000], vec![1, 0]].concat();
    let topics =
        vec![topic(ORDERS, zero, often), topic("other", zero, vec![0]), topic(ORDERS, zero, vec![1, 2, 0])];
    let groups =
        vec![group("hello", topics), group("a", Vec::new()), fetch_group("hello", &[("more", zero)])];
    let answered = fetch_groups(8, groups, coordinator);
    let shown: Vec<_> = answered.iter().map(|group| group.group_id.as_str()).collect();
    assert_eq!(shown, ["hello", "a"]);
    let shown: Vec<_> =
        answered[0].topics.iter().map(|t| (t.name.as_str(), answered_partitions(t))).collect();
    assert_eq!(shown, [(ORDERS, vec![0, 1]), ("other", vec![0]), (ORDERS, vec![2])]);

    let topics = [ORDERS_ID, MISSING_ID, ORDERS_ID, MISSING_ID].map(|id| topic("", id, vec![0, 0]));
    let answered = fetch_groups(10, vec![group("hello", topics.to_vec())], coordinator);
    let shown: Vec<_> =
        answered[0].topics.iter().map(|t| (topic_id(t.topic_id), answered_partitions(t))).collect();
    assert_eq!(shown, [(ORDERS_ID, vec![0]), (MISSING_ID, vec![0])]);

    let topic = OffsetFetchRequestTopic {
        name: kafka_string(ORDERS),
        partition_indexes: vec![1; 10_000],
        ..Default::default()
    };
    let topics = Some(vec![topic]);
    let data = OffsetFetchRequestData { group_id: kafka_string("hello"), topics, ..Default::default() };
    let Response::OffsetFetch(response) =
        world().ask_with(7, &Request::OffsetFetch(data), |world| world.serve(coordinator))
    else {
        panic!("another response")
    };
    assert_eq!(response.topics[0].partitions.len(), 1);
}

#[test]
fn a_group_that_is_named_more_than_once_is_described_and_deleted_once() {
    let groups = ["hello", "a", "hello", "hello"].map(kafka_string).to_vec();
    let mut asked = Vec::new();
    let data = DescribeGroupsRequestData { groups: groups.clone(), ..Default::default() };
    let Response::DescribeGroups(response) = world().ask_with(5, &Request::DescribeGroups(data), |world| {
        world.serve(|op| {
            let GroupRequest::DescribeGroup(group_id) = &group_op(op).request else { panic!("{op:?}") };
            asked.push(group_id.clone());
            let group = DescribedGroup { group_id: group_id.clone(), ..Default::default() };
            OpResult::Group(Ok(GroupResponse::DescribeGroup(group)))
        });
    }) else {
        panic!("another response")
    };
    let described: Vec<_> = response.groups.iter().map(|group| group.group_id.clone()).collect();
    let distinct = ["hello", "a"].map(kafka_string);
    assert_eq!((&asked[..], &described[..]), (&distinct[..], &distinct[..]));

    let data = DeleteGroupsRequestData { groups_names: groups, ..Default::default() };
    let Response::DeleteGroups(response) = world().ask_with(2, &Request::DeleteGroups(data), |world| {
        world.serve(|_| OpResult::Group(Err(ErrorCode::NotCoordinator)));
    }) else {
        panic!("another response")
    };
    let deleted: Vec<_> = response.results.iter().map(|group| group.group_id.clone()).collect();
    assert_eq!(deleted, distinct);
}

#[test]
fn coordinators_are_asked_for_the_groups_of_a_filter_and_not_given_its_lists() {
    let names = |names: &[&str]| -> Vec<_> { names.iter().map(|name| kafka_string(name)).collect() };
    let same = GroupFilter::new(&ListGroupsRequestData {
        states_filter: names(&["Stable", "Empty"]),
        ..Default::default()
    });
    let states_filter = [names(&["no state"; 10_000]), names(&["empty", "stable", "empty"])].concat();
    let data = ListGroupsRequestData {
        states_filter,
        types_filter: names(&["consumer", "Classic"]),
        ..Default::default()
    };
    let mut asked = 0;
    world().ask_with(5, &Request::ListGroups(data), |world| {
        world.serve(|op| {
            assert_eq!(group_op(op).request, GroupRequest::ListGroups(same.clone()));
            asked += 1;
            OpResult::Group(Ok(GroupResponse::ListGroups(ListGroupsResponseData::default())))
        });
    });
    assert_eq!(asked, 3);
}
