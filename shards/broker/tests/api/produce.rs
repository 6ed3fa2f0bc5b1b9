//! Produce: validation, acknowledgements, quirks of versions.

use broker::{Op, OpResult, Produced, Target};
use bytes::{Buf, Bytes, BytesMut};
use protocol::batch::{BatchBuilder, BatchOptions, Codec, Producer};
use protocol::client;
use protocol::frame::RequestHeader;
use protocol::messages::produce_request::{PartitionProduceData, ProduceRequestData, TopicProduceData};
use protocol::messages::{ErrorCode, kafka_string, kafka_uuid};
use types::{Offset, TopicId};

use crate::world::*;

pub fn produce_request(acks: i16, topic: &str, records: &[(i32, Bytes)]) -> ProduceRequestData {
    let partition_data = records.iter().map(|(index, records)| PartitionProduceData {
        index: *index,
        records: Some(records.clone()),
        ..Default::default()
    });
    let topic = TopicProduceData {
        name: kafka_string(topic),
        partition_data: partition_data.collect(),
        ..Default::default()
    };
    ProduceRequestData { acks, timeout_ms: 1_000, topic_data: vec![topic], ..Default::default() }
}

fn produced(base_offset: i64) -> OpResult {
    OpResult::Produce(Ok(Produced {
        base_offset: Offset(base_offset),
        log_append_time_ms: -1,
        log_start: Offset(2),
    }))
}

fn one_batch() -> Bytes {
    batch(10, BatchOptions::default())
}

/// The error of each partition of a request that no owner is asked about.
fn refusals(version: i16, request: &ProduceRequestData) -> Vec<ErrorCode> {
    let mut world = World::new();
    world.send_produce(version, request);
    assert!(world.ops.is_empty(), "refused at once");
    let response = world.pop_produce_response(version);
    let partitions = response.responses.iter().flat_map(|topic| &topic.partition_responses);
    let refused = partitions.map(|partition| {
        assert_eq!(partition.base_offset, -1);
        code(partition.error_code)
    });
    refused.collect()
}

#[test]
fn batches_go_to_their_owners_and_the_answers_come_back_in_their_places() {
    let mut world = World::new();
    let records = one_batch();
    world.send_produce(
        9,
        &produce_request(-1, ORDERS, &[(1, records.clone()), (9, records.clone()), (0, records.clone())]),
    );
    let groups = [world.group(ORDERS, 1), world.group(ORDERS, 0)];
    let tokens: Vec<_> = groups
        .into_iter()
        .map(|group| {
            let (target, token, op) = world.pop_op();
            let op = produce_op(&op);
            assert_eq!((target, op.group, op.acks), (Target::Group(group), group, -1));
            assert_eq!(op.batch, records);
            assert_eq!(op.header.record_count, 1);
            token
        })
        .collect();
    world.answer(tokens[1], produced(7));
    assert!(world.responses.is_empty());
    world.answer(tokens[0], produced(5));
    let response = world.pop_produce_response(9);
    let answered: Vec<_> = response.responses[0]
        .partition_responses
        .iter()
        .map(|p| (p.index, code(p.error_code), p.base_offset, p.log_start_offset))
        .collect();
    assert_eq!(
        answered,
        [
            (1, ErrorCode::None, 5, 2),
            (9, ErrorCode::UnknownTopicOrPartition, -1, -1),
            (0, ErrorCode::None, 7, 2)
        ]
    );
}

#[test]
fn topics_are_named_by_id_from_version_13_on() {
    let mut request = produce_request(1, "", &[(0, one_batch())]);
    request.topic_data[0].topic_id = kafka_uuid(ORDERS_ID);
    let mut world = World::new();
    world.send_produce(13, &request);
    world.serve(|_| produced(0));
    let response = world.pop_produce_response(13);
    assert_eq!(response.responses[0].topic_id, kafka_uuid(ORDERS_ID));
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);

    request.topic_data[0].topic_id = kafka_uuid(TopicId([9; 16]));
    assert_eq!(refusals(13, &request), [ErrorCode::UnknownTopicId]);
    request.topic_data[0].topic_id = kafka_uuid(TopicId::ZERO);
    assert_eq!(refusals(13, &request), [ErrorCode::UnknownTopicOrPartition]);
}

#[test]
fn acks_are_0_1_or_all() {
    for acks in [2, -2, i16::MAX] {
        let request = produce_request(acks, ORDERS, &[(0, one_batch()), (1, one_batch())]);
        assert_eq!(refusals(8, &request), [ErrorCode::InvalidRequiredAcks; 2]);
    }
}

#[test]
fn what_cannot_be_appended_is_refused() {
    let options = BatchOptions::default();
    let producer = Some(Producer { id: 1, epoch: 0, base_sequence: 0 });
    let transactional = BatchOptions { transactional: true, producer, ..options };
    let zstd = BatchOptions { codec: Codec::Zstd, ..options };
    let damaged = {
        let mut batch = BytesMut::from(&one_batch()[..]);
        *batch.last_mut().expect("bytes") ^= 1;
        batch.freeze()
    };
    let two = [one_batch(), one_batch()].concat().into();
    let large = batch(2_000_000, options);
    let none = BatchBuilder::new(options);
    assert!(none.is_empty());
    for (version, topic, records, expected) in [
        (3, "missing", one_batch(), ErrorCode::UnknownTopicOrPartition),
        (3, ORDERS, batch(10, zstd), ErrorCode::UnsupportedCompressionType),
        (6, ORDERS, batch(10, zstd), ErrorCode::UnsupportedCompressionType),
        (9, ORDERS, batch(10, transactional), ErrorCode::InvalidTxnState),
        (9, ORDERS, damaged, ErrorCode::CorruptMessage),
        (9, ORDERS, large, ErrorCode::MessageTooLarge),
        (9, ORDERS, two, ErrorCode::InvalidRecord),
        (9, ORDERS, Bytes::new(), ErrorCode::InvalidRecord),
    ] {
        let request = produce_request(-1, topic, &[(0, records)]);
        assert_eq!(refusals(version, &request), [expected], "{topic} version {version}");
    }
    let mut request = produce_request(-1, ORDERS, &[(0, one_batch())]);
    request.transactional_id = Some(kafka_string("t"));
    assert_eq!(refusals(9, &request), [ErrorCode::InvalidTxnState]);
    request = produce_request(-1, ORDERS, &[(-1, one_batch())]);
    assert_eq!(refusals(9, &request), [ErrorCode::UnknownTopicOrPartition]);
}

#[test]
fn zstd_is_taken_from_version_7_on() {
    let mut world = World::new();
    let zstd = BatchOptions { codec: Codec::Zstd, ..BatchOptions::default() };
    world.send_produce(7, &produce_request(1, ORDERS, &[(0, batch(10, zstd))]));
    world.serve(|_| produced(0));
    assert_eq!(world.pop_produce_response(7).responses[0].partition_responses[0].error_code, 0);
}

#[test]
fn group_offsets_are_written_by_coordinators_only() {
    let mut world = World::new();
    world.create_topic("__consumer_offsets", TopicId([3; 16]), &[1]);
    world.send_produce(9, &produce_request(-1, "__consumer_offsets", &[(0, one_batch())]));
    let response = world.pop_produce_response(9);
    assert_eq!(
        code(response.responses[0].partition_responses[0].error_code),
        ErrorCode::InvalidTopicException
    );
}

#[test]
fn a_leader_elsewhere_is_named_with_its_address() {
    for version in 3..=12 {
        let mut world = World::new();
        world.send_produce(version, &produce_request(-1, ORDERS, &[(0, one_batch()), (1, one_batch())]));
        world.serve(|_| OpResult::Produce(Err(not_leader())));
        let response = world.pop_produce_response(version);
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!(code(partition.error_code), ErrorCode::NotLeaderOrFollower);
        if version >= 10 {
            assert_eq!((partition.current_leader.leader_id, partition.current_leader.leader_epoch), (2, 6));
            let endpoints: Vec<_> =
                response.node_endpoints.iter().map(|e| (e.node_id, e.host.as_str(), e.port)).collect();
            assert_eq!(endpoints, [(2, "two", 9092)], "once");
        }
    }
}

#[test]
fn a_leader_that_no_replica_names_is_named_as_this_node_knows_it() {
    // Of partition 0 this node is the leader by what it heard, and has just said that it is not.
    for (version, by_id) in [(10, false), (12, false), (13, true)] {
        let mut world = World::new();
        let name = if by_id { "" } else { ORDERS };
        let mut request = produce_request(-1, name, &[(0, one_batch()), (2, one_batch())]);
        if by_id {
            request.topic_data[0].topic_id = kafka_uuid(ORDERS_ID);
        }
        world.send_produce(version, &request);
        world.serve(|_| OpResult::Produce(Err(ErrorCode::NotLeaderOrFollower.into())));
        let response = world.pop_produce_response(version);
        let leaders: Vec<_> = response.responses[0]
            .partition_responses
            .iter()
            .map(|p| (code(p.error_code), p.current_leader.leader_id, p.current_leader.leader_epoch))
            .collect();
        let error = ErrorCode::NotLeaderOrFollower;
        assert_eq!(leaders, [(error, -1, -1), (error, 2, 5)], "version {version}");
        let endpoints: Vec<_> =
            response.node_endpoints.iter().map(|e| (e.node_id, e.host.as_str())).collect();
        assert_eq!(endpoints, [(2, "two")]);
    }
}

#[test]
fn acks_0_gets_no_response_and_an_error_closes() {
    let mut world = World::new();
    world.send_produce(9, &produce_request(0, ORDERS, &[(0, one_batch())]));
    world.serve(|_| produced(0));
    assert!(world.responses.is_empty() && world.closed.is_empty() && world.broker.is_idle());

    world.send_produce(9, &produce_request(0, ORDERS, &[(0, one_batch())]));
    world.serve(|_| OpResult::Produce(Err(not_leader())));
    assert!(world.responses.is_empty());
    assert_eq!(world.closed.len(), 1);

    let mut world = World::new();
    world.send_produce(9, &produce_request(0, "missing", &[(0, one_batch())]));
    assert_eq!((world.responses.len(), world.closed.len()), (0, 1));
}

#[test]
fn a_produce_waits_no_longer_than_the_client_wants() {
    for acks in [1, -1] {
        let mut world = World::new();
        world.send_produce(9, &produce_request(acks, ORDERS, &[(0, one_batch()), (1, one_batch())]));
        let (_, late, _) = world.pop_op();
        let (_, in_time, _) = world.pop_op();
        world.answer(in_time, produced(4));
        world.pass_ms(999);
        assert!(world.responses.is_empty());
        world.pass_ms(1);
        let response = world.pop_produce_response(9);
        let errors: Vec<_> = response.responses[0]
            .partition_responses
            .iter()
            .map(|p| (code(p.error_code), p.base_offset))
            .collect();
        assert_eq!(errors, [(ErrorCode::RequestTimedOut, -1), (ErrorCode::None, 4)], "acks={acks}");
        world.answer(late, produced(3));
        assert!(world.responses.is_empty() && world.broker.next_deadline_us().is_none());
    }
}

#[test]
fn acks_0_has_no_deadline() {
    let mut world = World::new();
    world.send_produce(9, &produce_request(0, ORDERS, &[(0, one_batch())]));
    assert_eq!(world.broker.next_deadline_us(), None);
    assert!(matches!(&world.ops[0].2, Op::Produce(op) if op.acks == 0));
}

/// A Produce of version 0, 1 or 2: version 3 without its transactional id, which no codec writes any more.
fn send_old_produce(world: &mut World, version: u8, request: &ProduceRequestData) {
    let header = RequestHeader { api_key: 0, api_version: 3, correlation_id: 7, client_id: None };
    let mut frame = client::encode_produce(&header, request).expect("a request").split_off(4);
    frame[3] = version;
    let body = frame.split_off(10);
    assert_eq!(body[..2], [0xff, 0xff], "no transactional id");
    frame.extend_from_slice(&body[2..]);
    world.frame(CLIENT, &frame);
}

#[test]
fn old_formats_are_refused_in_their_own_versions() {
    for version in 0..3 {
        let mut world = World::new();
        send_old_produce(&mut world, version, &produce_request(1, ORDERS, &[(4, one_batch())]));
        let mut response = world.pop_frame();
        assert_eq!((response.get_i32(), response.get_i32()), (7, 1), "correlation id, one topic");
        let name_bytes = usize::from(response.get_u16());
        assert_eq!(response.split_to(name_bytes), ORDERS);
        assert_eq!((response.get_i32(), response.get_i32()), (1, 4), "one partition, its number");
        assert_eq!((code(response.get_i16()), response.get_i64()), (ErrorCode::UnsupportedVersion, -1));
        let append_time_bytes = if version >= 2 { 8 } else { 0 };
        let throttle_bytes = if version >= 1 { 4 } else { 0 };
        assert_eq!(response.len(), append_time_bytes + throttle_bytes);

        let mut world = World::new();
        send_old_produce(&mut world, version, &produce_request(0, ORDERS, &[(0, one_batch())]));
        assert_eq!((world.responses.len(), world.closed.len()), (0, 1), "acks=0 has no response");
    }
}
