//! What holds for every API: order, back-pressure, disconnection, versions, and bytes that are no request.

use broker::{Op, OpResult};
use proptest::prelude::*;
use protocol::api::{ApiKey, SUPPORTED};
use protocol::frame::{Request, Response};
use protocol::messages::ErrorCode;
use protocol::messages::api_versions_request::ApiVersionsRequestData;
use protocol::messages::kafka_string;
use protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequestData, ListOffsetsTopic,
};
use protocol::messages::metadata_request::MetadataRequestData;
use types::ConnectionId;
use types::limits::{REQUEST_BYTES_IN_FLIGHT_PER_SHARD_MAX, REQUESTS_IN_FLIGHT_PER_CONNECTION_MAX};

use crate::fetch::{fetch_request, partition};
use crate::world::*;

/// A request that waits for an owner.
fn list_offsets() -> Request {
    let partition = ListOffsetsPartition { timestamp: -1, ..Default::default() };
    let topic =
        ListOffsetsTopic { name: kafka_string(ORDERS), partitions: vec![partition], ..Default::default() };
    Request::ListOffsets(ListOffsetsRequestData { replica_id: -1, topics: vec![topic], ..Default::default() })
}

fn metadata() -> Request {
    Request::Metadata(MetadataRequestData { topics: Some(Vec::new()), ..Default::default() })
}

fn api_versions(software: &str) -> Request {
    api_versions_of(software, "1.0")
}

fn api_versions_of(software: &str, version: &str) -> Request {
    Request::ApiVersions(ApiVersionsRequestData {
        client_software_name: kafka_string(software),
        client_software_version: kafka_string(version),
        ..Default::default()
    })
}

fn offset(offset: i64) -> OpResult {
    OpResult::ListOffsets(Ok((-1, offset, 5)))
}

#[test]
fn responses_keep_the_order_of_requests() {
    let mut world = World::new();
    let first = world.send(CLIENT, 7, &list_offsets());
    let second = world.send(CLIENT, 7, &list_offsets());
    let third = world.send(CLIENT, 9, &metadata());
    let (_, first_token, _) = world.pop_op();
    let (_, second_token, _) = world.pop_op();
    world.answer(second_token, offset(20));
    assert!(world.responses.is_empty(), "the first request comes first");
    world.answer(first_token, offset(10));
    let mut answered = Vec::new();
    for (key, version) in [(ApiKey::ListOffsets, 7), (ApiKey::ListOffsets, 7), (ApiKey::Metadata, 9)] {
        let (correlation_id, response) = world.pop_response(key, version);
        if let Response::ListOffsets(data) = response {
            assert_eq!(data.topics[0].partitions[0].offset, if correlation_id == first { 10 } else { 20 });
        }
        answered.push(correlation_id);
    }
    assert_eq!(answered, [first, second, third]);
}

#[test]
fn connections_do_not_wait_for_each_other() {
    let mut world = World::new();
    let other = ConnectionId(2);
    world.broker.on_connected(other, "/10.0.0.2".to_owned());
    world.send(CLIENT, 7, &list_offsets());
    world.send(other, 9, &metadata());
    assert_eq!(world.responses.pop_front().expect("a response").0, other);
    assert!(!world.broker.is_idle());
}

#[test]
fn a_connection_with_too_many_requests_is_left_unread() {
    let mut world = World::new();
    for _ in 0..REQUESTS_IN_FLIGHT_PER_CONNECTION_MAX {
        assert_eq!(world.reading, []);
        world.send(CLIENT, 7, &list_offsets());
    }
    assert_eq!(world.reading, [(CLIENT, false)]);
    let (_, token, _) = world.pop_op();
    world.answer(token, offset(1));
    assert_eq!(world.reading, [(CLIENT, false), (CLIENT, true)]);
}

#[test]
fn a_client_that_does_not_take_its_responses_is_left_unread() {
    let mut world = World::new();
    let record = batch(12 * 1024 * 1024, Default::default());
    let mut sizes = Vec::new();
    for _ in 0..2 {
        world.send(CLIENT, 12, &Request::Fetch(fetch_request(&[partition(0, 0)])));
        world.serve(|op| OpResult::Fetch {
            partitions: fetch_op(op)
                .items
                .iter()
                .map(|item| fetched(item, 1, vec![record.clone()]))
                .collect(),
            waiting: false,
        });
        sizes.push(4 + world.pop_frame().len());
    }
    // A fetch is read alone; after the second one 24 MiB are unsent, which is too much for another request.
    assert_eq!(world.reading, [(CLIENT, false), (CLIENT, true), (CLIENT, false)]);
    world.broker.on_response_sent(world.now, CLIENT, sizes[0]);
    world.pump();
    assert_eq!(world.reading.last(), Some(&(CLIENT, true)));
    assert!(world.broker.is_idle(), "a client that does not read holds nobody up");
}

#[test]
fn a_shard_with_too_many_request_bytes_leaves_everyone_unread() {
    let mut world = World::new();
    let other = ConnectionId(2);
    world.broker.on_connected(other, "/10.0.0.2".to_owned());
    // Produce is the one request that can be so large; what it carries is refused at once unless it is a batch.
    let record = batch(8 * 1024 * 1024, Default::default());
    let config = ("max.message.bytes".to_owned(), Some((16 * 1024 * 1024).to_string()));
    world.apply(metadata::Command::AlterConfigs {
        resource: metadata::ConfigResource::Topic(ORDERS_ID),
        set: vec![config],
    });
    let request = crate::produce::produce_request(-1, ORDERS, &[(0, record)]);
    let needed = REQUEST_BYTES_IN_FLIGHT_PER_SHARD_MAX / (8 * 1024 * 1024);
    for _ in 0..needed {
        world.send_produce(7, &request);
    }
    assert_eq!(world.reading, [(CLIENT, false)]);
    world.send(other, 9, &metadata());
    assert_eq!(world.reading, [(CLIENT, false), (other, false)]);
    // One answer is enough room for both.
    let (_, token, _) = world.pop_op();
    world.answer(token, OpResult::Produce(Err(ErrorCode::NotLeaderOrFollower.into())));
    assert_eq!(world.reading[2..], [(CLIENT, true), (other, true)]);
}

#[test]
fn a_disconnect_forgets_requests_and_frees_their_room() {
    let mut world = World::new();
    let other = ConnectionId(2);
    world.broker.on_connected(other, "/10.0.0.2".to_owned());
    for _ in 0..REQUESTS_IN_FLIGHT_PER_CONNECTION_MAX {
        world.send(other, 7, &list_offsets());
    }
    world.broker.on_disconnected(world.now, other);
    world.pump();
    assert!(world.broker.is_idle());
    world.serve(|_| offset(1));
    assert!(world.responses.is_empty(), "nobody is there to be answered");
    assert!(matches!(
        world.ask_with(7, &list_offsets(), |world| world.serve(|_| offset(1))),
        Response::ListOffsets(_)
    ));
}

#[test]
fn a_disconnect_cancels_the_waits_of_a_fetch() {
    for answered in [false, true] {
        let mut world = World::new();
        world.send(CLIENT, 12, &Request::Fetch(fetch_request(&[partition(0, 0)])));
        let (target, token, op) = world.pop_op();
        if answered {
            let partitions = fetch_op(&op).items.iter().map(|item| fetched(item, 0, vec![])).collect();
            world.answer(token, OpResult::Fetch { partitions, waiting: true });
        }
        world.broker.on_disconnected(world.now, CLIENT);
        world.pump();
        let (cancelled, cancelled_token, op) = world.pop_op();
        assert!(matches!(op, Op::CancelFetchWait), "answered: {answered}");
        assert_eq!((cancelled, cancelled_token.request), (target, token.request));
        world.answer(token, OpResult::FetchWake);
        assert!(world.ops.is_empty());
        assert_eq!(world.broker.next_deadline_us(), None);
    }
}

#[test]
fn a_shutdown_answers_fetches_and_reads_no_more() {
    let mut world = World::new();
    for _ in 0..REQUESTS_IN_FLIGHT_PER_CONNECTION_MAX - 2 {
        world.send(CLIENT, 7, &list_offsets());
    }
    for _ in 0..2 {
        world.send(CLIENT, 12, &Request::Fetch(fetch_request(&[partition(0, 0)])));
    }
    let empty = |op: &Op| OpResult::Fetch {
        partitions: fetch_op(op).items.iter().map(|item| fetched(item, 0, vec![])).collect(),
        waiting: fetch_op(op).wait,
    };
    // One of them waits at the shutdown, the other one would begin to wait after it.
    let (_, unanswered, unanswered_op) = world.ops.pop_back().expect("a fetch");
    let (_, waiting, op) = world.ops.pop_back().expect("a fetch");
    world.answer(waiting, empty(&op));
    world.broker.on_shutdown(world.now);
    world.pump();
    world.answer(unanswered, empty(&unanswered_op));
    world.serve(|op| match op {
        Op::Fetch(_) => empty(op),
        _ => offset(1),
    });
    assert_eq!(world.responses.len(), REQUESTS_IN_FLIGHT_PER_CONNECTION_MAX);
    assert!(world.reading.iter().all(|(_, reading)| !reading), "{:?}", world.reading);
    for (_, frame) in std::mem::take(&mut world.responses) {
        world.broker.on_response_sent(world.now, CLIENT, 4 + frame.len());
    }
    assert!(world.broker.is_idle());
}

#[test]
fn api_versions_lists_what_is_served() {
    for version in 0..=4 {
        let mut world = World::new();
        let Response::ApiVersions(response) = world.ask(version, &api_versions("tester")) else { panic!() };
        assert_eq!(response.error_code, 0);
        let listed: Vec<(i16, i16, i16)> =
            response.api_keys.iter().map(|key| (key.api_key, key.min_version, key.max_version)).collect();
        let supported: Vec<(i16, i16, i16)> =
            SUPPORTED.iter().map(|range| (range.key.wire(), range.min_version, range.max_version)).collect();
        assert_eq!(listed, supported);
    }
}

#[test]
fn api_versions_of_the_future_is_answered_in_version_0() {
    let mut world = World::new();
    // Key 18, version 99, correlation id 7, no client id, then whatever a version 99 may hold.
    world.frame(CLIENT, &[0, 18, 0, 99, 0, 0, 0, 7, 0xff, 0xff, 1, 2, 3]);
    let (correlation_id, Response::ApiVersions(response)) = world.pop_response(ApiKey::ApiVersions, 0) else {
        panic!()
    };
    assert_eq!((correlation_id, code(response.error_code)), (7, ErrorCode::UnsupportedVersion));
    let keys: Vec<i16> = response.api_keys.iter().map(|key| key.api_key).collect();
    assert_eq!(keys, [18]);
    assert_eq!(response.api_keys[0].max_version, 4);
    // The client then asks again on the same connection.
    assert!(matches!(world.ask(4, &api_versions("tester")), Response::ApiVersions(_)));
}

#[test]
fn api_versions_wants_the_name_and_version_of_the_software() {
    for (name, version, expected) in [
        ("apache-kafka-java", "4.1.0", ErrorCode::None),
        ("x", "1", ErrorCode::None),
        ("", "1", ErrorCode::InvalidRequest),
        ("-x", "1", ErrorCode::InvalidRequest),
        ("a b", "1", ErrorCode::InvalidRequest),
        ("x", "", ErrorCode::InvalidRequest),
        ("x", "1.", ErrorCode::InvalidRequest),
    ] {
        let Response::ApiVersions(response) = World::new().ask(3, &api_versions_of(name, version)) else {
            panic!()
        };
        assert_eq!(code(response.error_code), expected, "{name:?} {version:?}");
    }
}

#[test]
fn what_cannot_be_decoded_closes_the_connection() {
    let cases: [(&str, &[u8]); 6] = [
        ("empty", &[]),
        ("half a header", &[0, 3, 0, 9, 0, 0]),
        ("a key that is not served", &[0, 71, 0, 0, 0, 0, 0, 7, 0xff, 0xff, 0]),
        ("a key that does not exist", &[0x7f, 0xff, 0, 0, 0, 0, 0, 7, 0xff, 0xff]),
        ("a version that is not served", &[0, 3, 0, 99, 0, 0, 0, 7, 0xff, 0xff]),
        ("a body that ends early", &[0, 3, 0, 1, 0, 0, 0, 7, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]),
    ];
    for (name, frame) in cases {
        let mut world = World::new();
        world.frame(CLIENT, frame);
        assert_eq!(world.closed.len(), 1, "{name}");
        assert!(world.responses.is_empty(), "{name}");
        // What the client had sent behind it goes nowhere.
        world.send(CLIENT, 9, &metadata());
        assert!(world.responses.is_empty() && world.closed.len() == 1, "{name}");
        world.broker.on_disconnected(world.now, CLIENT);
        assert!(world.broker.is_idle(), "{name}");
    }
}

/// librdkafka writes fields into Metadata 13 that the version does not have.
#[test]
fn bytes_behind_a_request_are_passed_over() {
    let mut world = World::new();
    world.frame(CLIENT, &[0, 3, 0, 1, 0, 0, 0, 7, 0xff, 0xff, 0, 0, 0, 0, 1]);
    let (correlation_id, response) = world.pop_response(ApiKey::Metadata, 1);
    assert!(correlation_id == 7 && matches!(response, Response::Metadata(_)));
}

#[test]
fn requests_before_a_broken_one_are_still_answered() {
    let mut world = World::new();
    world.send(CLIENT, 7, &list_offsets());
    world.frame(CLIENT, &[0, 3, 0, 99, 0, 0, 0, 7, 0xff, 0xff]);
    let (_, token, _) = world.pop_op();
    world.answer(token, offset(1));
    assert_eq!((world.responses.len(), world.closed.len()), (1, 1));
}

#[test]
fn sasl_comes_at_the_wrong_time() {
    for version in 0..=1 {
        let request =
            Request::SaslHandshake(protocol::messages::sasl_handshake_request::SaslHandshakeRequestData {
                mechanism: kafka_string("PLAIN"),
                ..Default::default()
            });
        let Response::SaslHandshake(response) = World::new().ask(version, &request) else { panic!() };
        assert_eq!(code(response.error_code), ErrorCode::IllegalSaslState);
        assert!(response.mechanisms.is_empty());
    }
}

proptest! {
    /// Any bytes behind any header of an API that is served end in a response, in operations, or in a closed connection.
    #[test]
    fn random_bytes_do_no_harm(
        range in prop::sample::select(SUPPORTED),
        version in 0i16..20,
        flexible in any::<bool>(),
        body in prop::collection::vec(prop_oneof![3 => 0u8..8, 1 => any::<u8>()], 0..200),
    ) {
        let mut world = World::new();
        let mut frame = Vec::new();
        frame.extend(range.key.wire().to_be_bytes());
        frame.extend(version.to_be_bytes());
        frame.extend([0, 0, 0, 7, 0xff, 0xff]);
        frame.extend(flexible.then_some(0u8));
        frame.extend(body);
        world.frame(CLIENT, &frame);
        let outcomes = world.closed.len() + world.responses.len() + world.ops.len();
        let silent = range.key == ApiKey::Produce;
        prop_assert!(outcomes > 0 || silent || world.broker.next_deadline_us().is_some());
        world.broker.on_disconnected(world.now, CLIENT);
        world.pump();
        prop_assert!(world.broker.is_idle());
    }

    #[test]
    fn any_frame_does_no_harm(frame in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut world = World::new();
        world.frame(CLIENT, &frame);
    }
}
