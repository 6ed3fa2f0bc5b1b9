//! Every version of every API that is advertised gets a response that the version can express, whether the owners
//! of what it asks about succeed or fail.

use broker::{ActiveProducer, MetadataOp, Op, OpResult, Produced};
use bytes::BytesMut;
use coordinator::{GroupRequest, GroupResponse};
use metadata::{MetadataState, StaticSettings};
use proptest::prelude::*;
use proptest::sample::Index;
use protocol::api::{ApiKey, SUPPORTED};
use protocol::client;
use protocol::frame::{Request, RequestHeader};
use protocol::messages::*;
use types::{Offset, ProducerId};

use crate::fetch::{fetch_request, partition};
use crate::moves::quorum;
use crate::produce::produce_request;
use crate::world::*;

fn text(text: &str) -> KafkaString {
    kafka_string(text)
}

/// A request about a partition that exists and one that does not, with what is new in the version.
fn request(key: ApiKey, version: i16) -> Request {
    match key {
        ApiKey::Fetch => {
            let mut data = fetch_request(&[partition(0, 0), partition(9, 0)]);
            data.max_wait_ms = 0;
            if version >= 13 {
                data.topics[0].topic = text("");
                data.topics[0].topic_id = kafka_uuid(ORDERS_ID);
            }
            data.session_epoch = if version >= 7 { 0 } else { -1 };
            Request::Fetch(data)
        }
        ApiKey::ListOffsets => {
            let partitions = [0, 9].map(|partition_index| list_offsets_request::ListOffsetsPartition {
                partition_index,
                timestamp: -1,
                ..Default::default()
            });
            let topics = vec![list_offsets_request::ListOffsetsTopic {
                name: text(ORDERS),
                partitions: partitions.to_vec(),
                ..Default::default()
            }];
            Request::ListOffsets(list_offsets_request::ListOffsetsRequestData {
                replica_id: -1,
                topics,
                ..Default::default()
            })
        }
        ApiKey::Metadata => {
            let topics = [ORDERS, "missing"].map(|name| metadata_request::MetadataRequestTopic {
                name: Some(text(name)),
                ..Default::default()
            });
            Request::Metadata(metadata_request::MetadataRequestData {
                topics: Some(topics.to_vec()),
                allow_auto_topic_creation: version < 4,
                include_cluster_authorized_operations: (8..=10).contains(&version),
                include_topic_authorized_operations: version >= 8,
                ..Default::default()
            })
        }
        ApiKey::FindCoordinator => {
            let mut data = find_coordinator_request::FindCoordinatorRequestData::default();
            if version >= 4 {
                data.coordinator_keys = vec![text("hello"), text("")];
            } else {
                data.key = text("hello");
            }
            Request::FindCoordinator(data)
        }
        ApiKey::ApiVersions => Request::ApiVersions(api_versions_request::ApiVersionsRequestData {
            client_software_name: text("tester"),
            client_software_version: text("1"),
            ..Default::default()
        }),
        ApiKey::SaslHandshake => Request::SaslHandshake(Default::default()),
        ApiKey::InitProducerId => Request::InitProducerId(Default::default()),
        _ => group_request(key, version).unwrap_or_else(|| admin_request(key, version)),
    }
}

fn group_request(key: ApiKey, version: i16) -> Option<Request> {
    let id = if version >= 10 { kafka_uuid(ORDERS_ID) } else { KafkaUuid::ZERO };
    let name = if version >= 10 { text("") } else { text(ORDERS) };
    Some(match key {
        ApiKey::OffsetCommit => {
            let partitions = [0, 9].map(|partition_index| {
                offset_commit_request::OffsetCommitRequestPartition { partition_index, ..Default::default() }
            });
            let topics = vec![offset_commit_request::OffsetCommitRequestTopic {
                name,
                topic_id: id,
                partitions: partitions.to_vec(),
                ..Default::default()
            }];
            Request::OffsetCommit(offset_commit_request::OffsetCommitRequestData {
                topics,
                ..Default::default()
            })
        }
        ApiKey::OffsetFetch if version >= 8 => {
            let topics = vec![offset_fetch_request::OffsetFetchRequestTopics {
                name,
                topic_id: id,
                partition_indexes: vec![0],
                ..Default::default()
            }];
            let group =
                offset_fetch_request::OffsetFetchRequestGroup { topics: Some(topics), ..Default::default() };
            Request::OffsetFetch(offset_fetch_request::OffsetFetchRequestData {
                groups: vec![group],
                ..Default::default()
            })
        }
        ApiKey::OffsetFetch => {
            let topics = vec![offset_fetch_request::OffsetFetchRequestTopic {
                name,
                partition_indexes: vec![0],
                ..Default::default()
            }];
            Request::OffsetFetch(offset_fetch_request::OffsetFetchRequestData {
                topics: Some(topics),
                ..Default::default()
            })
        }
        ApiKey::JoinGroup => Request::JoinGroup(Default::default()),
        ApiKey::Heartbeat => Request::Heartbeat(Default::default()),
        ApiKey::LeaveGroup => Request::LeaveGroup(Default::default()),
        ApiKey::SyncGroup => Request::SyncGroup(Default::default()),
        ApiKey::OffsetDelete => Request::OffsetDelete(Default::default()),
        ApiKey::ListGroups => Request::ListGroups(Default::default()),
        ApiKey::DescribeGroups => {
            Request::DescribeGroups(describe_groups_request::DescribeGroupsRequestData {
                groups: vec![text("hello")],
                include_authorized_operations: version >= 3,
                ..Default::default()
            })
        }
        ApiKey::DeleteGroups => Request::DeleteGroups(delete_groups_request::DeleteGroupsRequestData {
            groups_names: vec![text("hello")],
            ..Default::default()
        }),
        _ => return None,
    })
}

fn admin_request(key: ApiKey, version: i16) -> Request {
    match key {
        ApiKey::CreateTopics => {
            let topics = ["new", ORDERS].map(|name| create_topics_request::CreatableTopic {
                name: text(name),
                num_partitions: 1,
                replication_factor: 1,
                ..Default::default()
            });
            let topics = topics.to_vec();
            Request::CreateTopics(create_topics_request::CreateTopicsRequestData {
                topics,
                ..Default::default()
            })
        }
        ApiKey::DeleteTopics => {
            let mut data = delete_topics_request::DeleteTopicsRequestData::default();
            if version >= 6 {
                let ids = [kafka_uuid(ORDERS_ID), KafkaUuid::ZERO];
                data.topics = ids
                    .map(|topic_id| delete_topics_request::DeleteTopicState {
                        topic_id,
                        ..Default::default()
                    })
                    .to_vec();
            } else {
                data.topic_names = vec![text(ORDERS), text("missing")];
            }
            Request::DeleteTopics(data)
        }
        ApiKey::DeleteRecords => {
            let partitions = [0, 9].map(|partition_index| delete_records_request::DeleteRecordsPartition {
                partition_index,
                ..Default::default()
            });
            let topics = vec![delete_records_request::DeleteRecordsTopic {
                name: text(ORDERS),
                partitions: partitions.to_vec(),
                ..Default::default()
            }];
            Request::DeleteRecords(delete_records_request::DeleteRecordsRequestData {
                topics,
                ..Default::default()
            })
        }
        ApiKey::OffsetForLeaderEpoch => {
            let partitions = [0, 9].map(|partition| {
                offset_for_leader_epoch_request::OffsetForLeaderPartition { partition, ..Default::default() }
            });
            let topics = vec![offset_for_leader_epoch_request::OffsetForLeaderTopic {
                topic: text(ORDERS),
                partitions: partitions.to_vec(),
                ..Default::default()
            }];
            Request::OffsetForLeaderEpoch(offset_for_leader_epoch_request::OffsetForLeaderEpochRequestData {
                topics,
                ..Default::default()
            })
        }
        ApiKey::DescribeProducers => {
            let topics = vec![describe_producers_request::TopicRequest {
                name: text(ORDERS),
                partition_indexes: vec![0, 9],
                ..Default::default()
            }];
            Request::DescribeProducers(describe_producers_request::DescribeProducersRequestData {
                topics,
                ..Default::default()
            })
        }
        ApiKey::CreatePartitions => {
            let topics = [ORDERS, "missing"].map(|name| create_partitions_request::CreatePartitionsTopic {
                name: text(name),
                count: 4,
                ..Default::default()
            });
            Request::CreatePartitions(create_partitions_request::CreatePartitionsRequestData {
                topics: topics.to_vec(),
                ..Default::default()
            })
        }
        ApiKey::ElectLeaders => {
            let topics = vec![elect_leaders_request::TopicPartitions {
                topic: text(ORDERS),
                partitions: vec![0, 9],
                ..Default::default()
            }];
            Request::ElectLeaders(elect_leaders_request::ElectLeadersRequestData {
                topic_partitions: Some(topics),
                ..Default::default()
            })
        }
        _ => config_request(key, version),
    }
}

fn config_request(key: ApiKey, version: i16) -> Request {
    match key {
        ApiKey::DescribeConfigs => {
            let resources = [(2, ORDERS), (4, "1"), (8, "1")].map(|(resource_type, name)| {
                describe_configs_request::DescribeConfigsResource {
                    resource_type,
                    resource_name: text(name),
                    configuration_keys: None,
                    ..Default::default()
                }
            });
            Request::DescribeConfigs(describe_configs_request::DescribeConfigsRequestData {
                resources: resources.to_vec(),
                include_synonyms: true,
                include_documentation: version >= 3,
                ..Default::default()
            })
        }
        ApiKey::AlterConfigs => {
            let resources = [ORDERS, "missing"].map(|name| alter_configs_request::AlterConfigsResource {
                resource_type: 2,
                resource_name: text(name),
                ..Default::default()
            });
            let resources = resources.to_vec();
            Request::AlterConfigs(alter_configs_request::AlterConfigsRequestData {
                resources,
                ..Default::default()
            })
        }
        ApiKey::IncrementalAlterConfigs => {
            let resources =
                [ORDERS, "missing"].map(|name| incremental_alter_configs_request::AlterConfigsResource {
                    resource_type: 2,
                    resource_name: text(name),
                    ..Default::default()
                });
            Request::IncrementalAlterConfigs(
                incremental_alter_configs_request::IncrementalAlterConfigsRequestData {
                    resources: resources.to_vec(),
                    ..Default::default()
                },
            )
        }
        ApiKey::DescribeLogDirs => Request::DescribeLogDirs(Default::default()),
        ApiKey::DescribeCluster => {
            Request::DescribeCluster(describe_cluster_request::DescribeClusterRequestData {
                include_cluster_authorized_operations: true,
                include_fenced_brokers: version >= 2,
                ..Default::default()
            })
        }
        ApiKey::ListConfigResources => Request::ListConfigResources(Default::default()),
        ApiKey::DescribeTopicPartitions => Request::DescribeTopicPartitions(
            describe_topic_partitions_request::DescribeTopicPartitionsRequestData {
                response_partition_limit: 1,
                ..Default::default()
            },
        ),
        _ => membership_request(key, version),
    }
}

fn membership_request(key: ApiKey, version: i16) -> Request {
    match key {
        ApiKey::AlterPartitionReassignments => {
            let partitions =
                [0, 9].map(|partition_index| alter_partition_reassignments_request::ReassignablePartition {
                    partition_index,
                    replicas: Some(vec![2]),
                    ..Default::default()
                });
            let topics = vec![alter_partition_reassignments_request::ReassignableTopic {
                name: text(ORDERS),
                partitions: partitions.to_vec(),
                ..Default::default()
            }];
            Request::AlterPartitionReassignments(
                alter_partition_reassignments_request::AlterPartitionReassignmentsRequestData {
                    allow_replication_factor_change: version < 1,
                    topics,
                    ..Default::default()
                },
            )
        }
        ApiKey::ListPartitionReassignments => Request::ListPartitionReassignments(Default::default()),
        ApiKey::DescribeQuorum => {
            let partitions = vec![describe_quorum_request::PartitionData::default()];
            let topics = vec![describe_quorum_request::TopicData {
                topic_name: text("__cluster_metadata"),
                partitions,
                ..Default::default()
            }];
            Request::DescribeQuorum(describe_quorum_request::DescribeQuorumRequestData {
                topics,
                ..Default::default()
            })
        }
        ApiKey::UnregisterBroker => Request::UnregisterBroker(Default::default()),
        ApiKey::AddRaftVoter => {
            let listener = add_raft_voter_request::Listener {
                name: text("RAFT"),
                host: text("seven"),
                port: 9192,
                ..Default::default()
            };
            Request::AddRaftVoter(add_raft_voter_request::AddRaftVoterRequestData {
                voter_id: 7,
                listeners: vec![listener],
                ack_when_committed: version < 1,
                ..Default::default()
            })
        }
        ApiKey::RemoveRaftVoter => Request::RemoveRaftVoter(Default::default()),
        other => panic!("there is no request of {other:?}"),
    }
}

/// An owner that has what it is asked for.
fn succeed(op: &Op) -> OpResult {
    match op {
        Op::Produce(_) => {
            let produced = Produced { base_offset: Offset(1), log_append_time_ms: -1, log_start: Offset(0) };
            OpResult::Produce(Ok(produced))
        }
        Op::Fetch(op) => {
            let records = vec![batch(10, Default::default())];
            let partitions = op.items.iter().map(|item| fetched(item, 1, records.clone())).collect();
            OpResult::Fetch { partitions, waiting: false }
        }
        Op::ListOffsets(_) => OpResult::ListOffsets(Ok((1, 2, 5))),
        Op::OffsetForLeaderEpoch { .. } => OpResult::OffsetForLeaderEpoch(Ok((5, 2))),
        Op::DeleteRecords { .. } => OpResult::DeleteRecords(Ok(Offset(1))),
        Op::DescribeProducers { .. } => {
            let producer =
                ActiveProducer { id: ProducerId(1), epoch: 0, last_sequence: 2, last_timestamp_ms: 3 };
            OpResult::DescribeProducers(Ok(vec![producer]))
        }
        Op::DescribeLogs { groups } => {
            OpResult::DescribeLogs(groups.iter().map(|group| (*group, 1)).collect())
        }
        Op::MeasureSpace => OpResult::Space(Some((2, 1))),
        Op::Group(op) => OpResult::Group(Ok(group_response(&op.request))),
        Op::Metadata(MetadataOp::DescribeQuorum { .. }) => OpResult::Quorum(quorum()),
        Op::Metadata(_) | Op::CancelFetchWait => unreachable!("made by the test itself"),
    }
}

fn group_response(request: &GroupRequest) -> GroupResponse {
    match request {
        GroupRequest::JoinGroup(_) => GroupResponse::JoinGroup(join_group_response::JoinGroupResponseData {
            protocol_name: Some(text("range")),
            ..Default::default()
        }),
        GroupRequest::SyncGroup(_) => GroupResponse::SyncGroup(Default::default()),
        GroupRequest::Heartbeat(_) => GroupResponse::Heartbeat(Default::default()),
        GroupRequest::LeaveGroup(_) => GroupResponse::LeaveGroup(Default::default()),
        GroupRequest::OffsetCommit(_) => GroupResponse::OffsetCommit(Default::default()),
        GroupRequest::OffsetFetch { .. } => GroupResponse::OffsetFetch(Default::default()),
        GroupRequest::DescribeGroup(_) => GroupResponse::DescribeGroup(Default::default()),
        GroupRequest::ListGroups(_) => {
            GroupResponse::ListGroups(list_groups_response::ListGroupsResponseData {
                groups: vec![list_groups_response::ListedGroup {
                    group_state: text("Stable"),
                    group_type: text("classic"),
                    ..Default::default()
                }],
                ..Default::default()
            })
        }
        GroupRequest::DeleteGroup(_) => GroupResponse::DeleteGroup(Default::default()),
        GroupRequest::OffsetDelete(_) => GroupResponse::OffsetDelete(Default::default()),
    }
}

/// An owner that has moved elsewhere.
fn fail(op: &Op) -> OpResult {
    let error = not_leader();
    match op {
        Op::Produce(_) => OpResult::Produce(Err(error)),
        Op::Fetch(op) => {
            let partitions = op.items.iter().map(|item| broker::FetchedPartition {
                error: Some(error.clone()),
                diverging: Some((1, 2)),
                ..fetched(item, -1, vec![])
            });
            OpResult::Fetch { partitions: partitions.collect(), waiting: false }
        }
        Op::ListOffsets(_) => OpResult::ListOffsets(Err(error)),
        Op::OffsetForLeaderEpoch { .. } => OpResult::OffsetForLeaderEpoch(Err(error)),
        Op::DeleteRecords { .. } => OpResult::DeleteRecords(Err(error)),
        Op::DescribeProducers { .. } => OpResult::DescribeProducers(Err(error)),
        Op::DescribeLogs { .. } => OpResult::DescribeLogs(Vec::new()),
        Op::MeasureSpace => OpResult::Space(None),
        Op::Group(_) => OpResult::Group(Err(ErrorCode::NotCoordinator)),
        Op::Metadata(_) => OpResult::Metadata(Err(ErrorCode::RequestTimedOut)),
        Op::CancelFetchWait => unreachable!("nobody waits"),
    }
}

/// A world, perhaps with the topic of the groups' offsets.
fn world(has_coordinator: bool) -> World {
    let mut world = World::new();
    if has_coordinator {
        world.create_topic("__consumer_offsets", types::TopicId([3; 16]), &[1]);
    }
    world
}

/// The request of [`request`], or of Produce, with its header.
fn frame(key: ApiKey, version: i16) -> BytesMut {
    let client_id = Some(text("tester"));
    let header = RequestHeader { api_key: key.wire(), api_version: version, correlation_id: 1, client_id };
    let frame = if key == ApiKey::Produce {
        let mut request =
            produce_request(1, ORDERS, &[(0, batch(10, Default::default())), (9, Default::default())]);
        if version >= 13 {
            request.topic_data[0].name = text("");
            request.topic_data[0].topic_id = kafka_uuid(ORDERS_ID);
        }
        client::encode_produce(&header, &request)
    } else {
        client::encode_request(&header, &request(key, version))
    };
    frame.expect("a request of this version").split_off(4)
}

/// Answers all operations.
fn serve(world: &mut World, succeeds: bool) {
    while let Some((_, token, op)) = world.ops.pop_front() {
        let result = match op {
            Op::CancelFetchWait => continue,
            Op::Metadata(MetadataOp::Propose { command, .. }) if succeeds => {
                OpResult::Metadata(Ok(world.apply(command)))
            }
            Op::Metadata(MetadataOp::HandOver { .. }) => OpResult::HandedOver(succeeds),
            op if succeeds => succeed(&op),
            op => fail(&op),
        };
        world.answer(token, result);
    }
}

/// Why the broker closed the connection, if it did.
fn check(key: ApiKey, version: i16, succeeds: bool, has_coordinator: bool) -> Option<String> {
    let mut world = world(has_coordinator);
    world.frame(CLIENT, &frame(key, version));
    serve(&mut world, succeeds);
    if let Some((_, reason)) = world.closed.pop() {
        return Some(format!("{key:?} {version}: {reason}"));
    }
    match key {
        ApiKey::Fetch => drop(world.pop_fetch_response(version)),
        key => drop(world.pop_response(key, version)),
    }
    assert!(world.responses.is_empty() && world.ops.is_empty());
    None
}

#[test]
fn every_version_is_answered() {
    let mut closed = Vec::new();
    for (key, version) in versions() {
        for (succeeds, has_coordinator) in [(true, true), (false, true), (true, false), (false, false)] {
            closed.extend(check(key, version, succeeds, has_coordinator));
        }
    }
    assert!(closed.is_empty(), "{closed:#?}");
}

/// All pairs of an API and a version for which there is a frame.
fn versions() -> impl Iterator<Item = (ApiKey, i16)> {
    SUPPORTED.iter().flat_map(|range| {
        // The codec of the test has no Produce below version 3; what it gets is tested by hand.
        let min_version = if range.key == ApiKey::Produce { 3 } else { range.min_version };
        (min_version..=range.max_version).map(|version| (range.key, version))
    })
}

/// A frame, and bytes of it that are others.
fn damaged_frame() -> impl Strategy<Value = (usize, Vec<(Index, Vec<u8>)>)> {
    let number = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        prop_oneof![-3..3i16, any::<i16>()].prop_map(|number| number.to_be_bytes().to_vec()),
        prop_oneof![-3..3i32, Just(i32::MIN), Just(i32::MAX), any::<i32>()]
            .prop_map(|number| number.to_be_bytes().to_vec()),
        prop_oneof![-3..3i64, Just(i64::MIN), Just(i64::MAX)]
            .prop_map(|number| number.to_be_bytes().to_vec()),
    ];
    (0..versions().count(), prop::collection::vec((any::<Index>(), number), 1..4))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever a client says, the broker goes on, and what is decided of the metadata can be read again by all nodes.
    #[test]
    fn damaged_requests_do_no_harm(
        has_coordinator in any::<bool>(),
        requests in prop::collection::vec((damaged_frame(), any::<bool>()), 1..40),
    ) {
        let mut world = world(has_coordinator);
        for ((nth, damages), succeeds) in requests {
            let (key, version) = versions().nth(nth).expect("it is counted");
            let mut damaged = frame(key, version).to_vec();
            // Behind the API and its version.
            for (at, number) in damages {
                let at = 4 + at.index(damaged.len() - 4);
                let end = damaged.len().min(at + number.len());
                damaged[at..end].copy_from_slice(&number[..end - at]);
            }
            world.frame(CLIENT, &damaged);
            serve(&mut world, succeeds);
            world.pass_ms(100);
            if !world.closed.is_empty() {
                world.closed.clear();
                world.broker.on_disconnected(world.now, CLIENT);
                world.broker.on_connected(CLIENT, "/127.0.0.1".to_owned());
            }
        }
        let snapshot = world.state.snapshot();
        let mut restored = MetadataState::new(StaticSettings::default());
        prop_assert_eq!(restored.restore(&snapshot), Ok(()));
        prop_assert_eq!(restored.snapshot(), snapshot);
    }
}
