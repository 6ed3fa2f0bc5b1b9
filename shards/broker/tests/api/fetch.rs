//! Fetch: waiting, sessions, limits.

use broker::{FetchedPartition, Op, OpResult, OpToken, PartitionError, Target};
use bytes::Bytes;
use protocol::frame::Request;
use protocol::messages::fetch_request::{
    FetchPartition, FetchRequestData, FetchTopic, ForgottenTopic, ReplicaState,
};
use protocol::messages::fetch_response::FetchResponseData;
use protocol::messages::{ErrorCode, kafka_string, kafka_uuid};
use types::limits::{
    FETCH_BYTES_MAX, FETCH_SESSION_PARTITIONS_MAX, FETCH_SESSIONS_PER_SHARD_MAX, RESPONSE_BYTES_PER_SHARD_MAX,
};
use types::{ConnectionId, GroupId, Offset, TopicId};

use crate::world::*;

pub fn partition(partition: i32, fetch_offset: i64) -> FetchPartition {
    FetchPartition { partition, fetch_offset, partition_max_bytes: 1_000_000, ..Default::default() }
}

/// A fetch without a session that waits half a second for one byte.
pub fn fetch_request(partitions: &[FetchPartition]) -> FetchRequestData {
    let topic =
        FetchTopic { topic: kafka_string(ORDERS), partitions: partitions.to_vec(), ..Default::default() };
    FetchRequestData {
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 10_000_000,
        topics: vec![topic],
        ..Default::default()
    }
}

fn in_session(session_id: i32, session_epoch: i32, partitions: &[FetchPartition]) -> FetchRequestData {
    let mut request = FetchRequestData { session_id, session_epoch, ..fetch_request(partitions) };
    request.topics.retain(|topic| !topic.partitions.is_empty());
    request
}

fn records(bytes: usize) -> Vec<Bytes> {
    vec![vec![1; bytes].into()]
}

/// Answers every item alike.
fn every(op: &Op, high_watermark: i64, records: &[Bytes]) -> OpResult {
    let items = fetch_op(op).items.iter();
    let partitions = items.map(|item| fetched(item, high_watermark, records.to_vec())).collect();
    let bytes: usize = records.iter().map(Bytes::len).sum();
    OpResult::Fetch { partitions, waiting: fetch_op(op).wait && bytes < fetch_op(op).min_bytes }
}

/// Index, error, high watermark and bytes of every partition.
fn shown(response: &FetchResponseData) -> Vec<(i32, ErrorCode, i64, usize)> {
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    partitions
        .map(|p| {
            (
                p.partition_index,
                code(p.error_code),
                p.high_watermark,
                p.records.as_ref().map_or(0, Bytes::len),
            )
        })
        .collect()
}

fn send(world: &mut World, version: i16, request: &FetchRequestData) {
    world.send(CLIENT, version, &Request::Fetch(request.clone()));
}

fn fetch(
    world: &mut World,
    request: &FetchRequestData,
    serve: impl FnMut(&Op) -> OpResult,
) -> FetchResponseData {
    send(world, 12, request);
    world.serve(serve);
    world.pop_fetch_response(12)
}

#[test]
fn what_is_there_is_answered_at_once() {
    let mut world = World::new();
    let request = fetch_request(&[partition(1, 5), partition(0, 7)]);
    send(&mut world, 12, &request);
    let groups = [world.group(ORDERS, 1), world.group(ORDERS, 0)];
    let (target, token, op) = world.pop_op();
    let asked = fetch_op(&op);
    assert_eq!(
        (target, asked.wait, asked.min_bytes, asked.max_bytes),
        (Target::Group(groups[0]), true, 1, 10_000_000)
    );
    let items: Vec<_> = asked.items.iter().map(|i| (i.slot, i.group, i.offset, i.max_bytes)).collect();
    assert_eq!(items, [(0, groups[0], Offset(5), 1_000_000), (1, groups[1], Offset(7), 1_000_000)]);
    assert!(world.ops.is_empty(), "one shard is asked once");
    let partitions = vec![fetched(&asked.items[1], 8, records(3)), fetched(&asked.items[0], 5, vec![])];
    world.answer(token, OpResult::Fetch { partitions, waiting: false });
    let response = world.pop_fetch_response(12);
    assert_eq!(shown(&response), [(1, ErrorCode::None, 5, 0), (0, ErrorCode::None, 8, 3)]);
    assert!(world.ops.is_empty(), "nobody waits for more");
}

#[test]
fn too_few_bytes_wait_until_an_owner_has_more() {
    let mut world = World::new();
    send(&mut world, 12, &fetch_request(&[partition(0, 0)]));
    let (target, token, op) = world.pop_op();
    world.answer(token, every(&op, 0, &[]));
    assert!(world.responses.is_empty() && world.ops.is_empty());
    assert_eq!(world.broker.next_deadline_us(), Some(world.now.mono_us + 500_000));

    world.answer(token, OpResult::FetchWake);
    let (cancelled, _, op) = world.pop_op();
    assert!(matches!(op, Op::CancelFetchWait));
    assert_eq!(cancelled, target);
    let (_, token, op) = world.pop_op();
    assert!(fetch_op(&op).wait, "there may be too little still");
    world.answer(token, every(&op, 1, &records(9)));
    assert_eq!(shown(&world.pop_fetch_response(12)), [(0, ErrorCode::None, 1, 9)]);
    assert_eq!(world.broker.next_deadline_us(), None);
}

#[test]
fn a_wake_that_overtakes_the_first_answer_is_not_lost() {
    let mut world = World::empty(&[], 2);
    let groups = world.create_topic(ORDERS, ORDERS_ID, &[1, 1, 1, 1]);
    let layout = config(2).layout;
    let second =
        groups.iter().position(|g| layout.shard_of(*g) != layout.shard_of(groups[0])).expect("two shards");
    send(&mut world, 12, &fetch_request(&[partition(0, 0), partition(second as i32, 0)]));
    let (_, slow_token, slow_op) = world.pop_op();
    let (_, quick_token, quick_op) = world.pop_op();
    world.answer(quick_token, every(&quick_op, 0, &[]));
    world.answer(quick_token, OpResult::FetchWake);
    assert!(world.responses.is_empty());
    world.answer(slow_token, every(&slow_op, 0, &[]));
    let cancelled = world.ops.iter().filter(|(_, _, op)| matches!(op, Op::CancelFetchWait)).count();
    assert_eq!(cancelled, 2);
    world.serve(|op| every(op, 1, &records(4)));
    assert_eq!(shown(&world.pop_fetch_response(12)).len(), 2);
}

#[test]
fn an_owner_that_waits_in_vain_is_told() {
    let mut world = World::empty(&[], 2);
    let groups = world.create_topic(ORDERS, ORDERS_ID, &[1, 1, 1, 1]);
    let layout = config(2).layout;
    let second =
        groups.iter().position(|g| layout.shard_of(*g) != layout.shard_of(groups[0])).expect("two shards");
    send(&mut world, 12, &fetch_request(&[partition(0, 0), partition(second as i32, 0)]));
    let (idle, idle_token, idle_op) = world.pop_op();
    let (_, busy_token, busy_op) = world.pop_op();
    world.answer(idle_token, every(&idle_op, 0, &[]));
    world.answer(busy_token, every(&busy_op, 1, &records(4)));
    assert_eq!(shown(&world.pop_fetch_response(12)).len(), 2);
    let (target, token, op) = world.pop_op();
    assert!(matches!(op, Op::CancelFetchWait));
    assert_eq!((target, token.request), (idle, idle_token.request));
    assert!(world.ops.is_empty(), "the other one does not wait");
}

#[test]
fn nothing_comes_until_the_deadline() {
    let mut world = World::new();
    send(&mut world, 12, &fetch_request(&[partition(0, 0)]));
    world.serve(|op| every(op, 3, &[]));
    world.pass_ms(499);
    assert!(world.ops.is_empty() && world.responses.is_empty());
    world.pass_ms(1);
    world.serve(|op| {
        assert!(!fetch_op(op).wait, "it has waited enough");
        every(op, 3, &[])
    });
    assert_eq!(shown(&world.pop_fetch_response(12)), [(0, ErrorCode::None, 3, 0)]);
    assert_eq!(world.broker.next_deadline_us(), None);
}

#[test]
fn min_bytes_counts_over_all_partitions() {
    let mut world = World::new();
    let request = FetchRequestData { min_bytes: 10, ..fetch_request(&[partition(0, 0), partition(1, 0)]) };
    let response = fetch(&mut world, &request, |op| every(op, 1, &records(5)));
    assert_eq!(shown(&response).len(), 2);
}

/// A topic over two shards: a partition of each of them, and which one an operation is about.
fn two_shards() -> (World, [FetchPartition; 2], impl Fn(&Op) -> usize) {
    let mut world = World::empty(&[], 2);
    let groups = world.create_topic(ORDERS, ORDERS_ID, &[1; 8]);
    let layout = config(2).layout;
    let second =
        groups.iter().position(|g| layout.shard_of(*g) != layout.shard_of(groups[0])).expect("two shards");
    let first = groups[0];
    let number = move |op: &Op| usize::from(fetch_op(op).items[0].group != first);
    (world, [partition(0, 0), partition(second as i32, 0)], number)
}

/// Answers as owners of so many bytes each do.
fn serve_bytes(world: &mut World, number: &impl Fn(&Op) -> usize, bytes: [usize; 2]) {
    world.serve(|op| every(op, 1, &records(bytes[number(op)])));
}

#[test]
fn min_bytes_counts_over_all_shards() {
    for (early, late, woken) in [([0, 0], [50, 50], 0), ([30, 0], [60, 40], 1), ([70, 0], [70, 30], 1)] {
        let (mut world, both, number) = two_shards();
        send(&mut world, 12, &FetchRequestData { min_bytes: 100, ..fetch_request(&both) });
        let tokens: Vec<OpToken> = world.ops.iter().map(|(_, token, _)| *token).collect();
        serve_bytes(&mut world, &number, early);
        assert!(world.responses.is_empty() && world.ops.is_empty(), "{early:?} is too little");
        // The owner that has its part tells, and then all are asked again.
        world.answer(tokens[woken], OpResult::FetchWake);
        serve_bytes(&mut world, &number, late);
        let sizes: Vec<_> = shown(&world.pop_fetch_response(12)).iter().map(|p| p.3).collect();
        assert_eq!(sizes, late);
    }
}

#[test]
fn the_owners_of_a_fetch_wait_for_parts_of_what_is_missing() {
    let (mut world, both, number) = two_shards();
    send(&mut world, 12, &FetchRequestData { min_bytes: 100, ..fetch_request(&both) });
    let parts = |world: &World| -> Vec<usize> {
        let fetches = world.ops.iter().filter(|(_, _, op)| matches!(op, Op::Fetch(_)));
        fetches.map(|(_, _, op)| fetch_op(op).min_bytes).collect()
    };
    assert_eq!(parts(&world), [50, 50]);
    let (_, first, first_op) = world.pop_op();
    let (_, second, second_op) = world.pop_op();
    world.answer(first, every(&first_op, 1, &records(70)));
    world.answer(second, every(&second_op, 1, &records(11)));
    // 19 bytes are missing: whoever gets 10 more tells.
    assert_eq!(parts(&world), [80, 21]);
    let cancelled = world.ops.iter().filter(|(_, _, op)| matches!(op, Op::CancelFetchWait)).count();
    assert_eq!(cancelled, 1, "the second one waited already");
    serve_bytes(&mut world, &number, [70, 11]);
    assert!(world.responses.is_empty() && world.ops.is_empty());
    world.pass_ms(500);
    serve_bytes(&mut world, &number, [70, 11]);
    assert_eq!(shown(&world.pop_fetch_response(12)).len(), 2);
}

#[test]
fn an_owner_that_read_too_little_from_the_disk_is_not_waited_for() {
    let (mut world, both, number) = two_shards();
    send(&mut world, 12, &FetchRequestData { min_bytes: 100, ..fetch_request(&both) });
    world.serve(|op| match every(op, 1, &records([49, 0][number(op)])) {
        OpResult::Fetch { partitions, waiting } => {
            OpResult::Fetch { partitions, waiting: waiting && number(op) == 1 }
        }
        other => other,
    });
    assert_eq!(shown(&world.pop_fetch_response(12)).len(), 2);
}

/// Lets clients hold responses of 12 MiB each until memory is short; returns the connections and the size of a response.
fn use_up_memory(world: &mut World) -> (Vec<ConnectionId>, usize) {
    let record = batch(12 * 1024 * 1024, Default::default());
    let mut holders = Vec::new();
    let mut size = 0;
    while (holders.len() + 1) * record.len() <= RESPONSE_BYTES_PER_SHARD_MAX {
        let holder = ConnectionId(100 + holders.len() as u64);
        holders.push(holder);
        world.broker.on_connected(holder, "/10.0.0.3".to_owned());
        world.send(holder, 12, &Request::Fetch(fetch_request(&[partition(0, 0)])));
        world.serve(|op| every(op, 1, std::slice::from_ref(&record)));
        size = 4 + world.pop_frame().len();
    }
    (holders, size)
}

/// The same, and the client takes what is left, so that the next fetch waits.
fn use_up_all_memory(world: &mut World) -> (Vec<ConnectionId>, usize) {
    let held = use_up_memory(world);
    let record = batch(8 * 1024 * 1024, Default::default());
    send(world, 12, &fetch_request(&[partition(0, 0)]));
    world.serve(|op| every(op, 1, std::slice::from_ref(&record)));
    world.pop_frame();
    held
}

#[test]
fn fetches_get_less_and_then_wait_when_responses_fill_the_memory() {
    let mut world = World::new();
    let (holders, size) = use_up_memory(&mut world);
    let free = RESPONSE_BYTES_PER_SHARD_MAX - holders.len() * size;
    let large = FetchPartition { partition_max_bytes: i32::MAX, ..partition(0, 0) };
    let greedy = FetchRequestData { max_bytes: i32::MAX, min_bytes: 1, ..fetch_request(&[large]) };
    send(&mut world, 12, &greedy);
    let (_, token, op) = world.pop_op();
    assert_eq!(fetch_op(&op).max_bytes, free, "what is left");
    // While it is under way nothing is left.
    let (second, third) = (ConnectionId(2), ConnectionId(3));
    for waiting in [second, third] {
        world.broker.on_connected(waiting, "/10.0.0.2".to_owned());
        world.send(waiting, 12, &Request::Fetch(fetch_request(&[partition(0, 0)])));
    }
    assert!(world.ops.is_empty());
    // Too little, and no more was let be read: the client is told what there is.
    world.answer(token, every(&op, 1, &records(3)));
    assert_eq!(shown(&world.pop_fetch_response(12)), [(0, ErrorCode::None, 1, 3)]);
    assert_eq!(world.ops.len(), 2, "both go on with what came free");
    world.serve(|op| every(op, 1, &records(5)));
    assert_eq!(world.responses.drain(..).map(|(id, _)| id).collect::<Vec<_>>(), [second, third]);
}

#[test]
fn memory_comes_free_when_responses_are_sent_or_their_connections_are_gone() {
    for is_sent in [true, false] {
        let mut world = World::new();
        let (holders, size) = use_up_all_memory(&mut world);
        let waiting = ConnectionId(2);
        world.broker.on_connected(waiting, "/10.0.0.2".to_owned());
        world.send(waiting, 12, &Request::Fetch(fetch_request(&[partition(0, 0)])));
        assert!(world.ops.is_empty(), "nothing is left");
        match is_sent {
            true => world.broker.on_response_sent(world.now, holders[0], size),
            false => world.broker.on_disconnected(world.now, holders[0]),
        }
        world.pump();
        assert_eq!(world.ops.len(), 1, "sent: {is_sent}");
    }
}

#[test]
fn clients_that_do_not_read_are_cut_off_while_others_wait_for_their_memory() {
    let mut world = World::new();
    let (holders, size) = use_up_all_memory(&mut world);
    world.pass_ms(60_000);
    assert!(world.aborted.is_empty(), "nobody waits");
    let waiting = ConnectionId(2);
    world.broker.on_connected(waiting, "/10.0.0.2".to_owned());
    world.send(waiting, 12, &Request::Fetch(fetch_request(&[partition(0, 0)])));
    world.pass_ms(9_999);
    // This one reads, if slowly.
    world.broker.on_response_sent(world.now, holders[0], size - 9 * 1024 * 1024);
    world.pump();
    world.pass_ms(1);
    let cut_off: Vec<ConnectionId> = world.aborted.iter().map(|(id, _)| *id).collect();
    assert!(!cut_off.contains(&holders[0]) && !cut_off.contains(&waiting));
    assert_eq!(cut_off.len(), holders.len(), "the other holders and the first client");
    world.pass_ms(1_000);
    assert_eq!(world.aborted.len(), holders.len(), "each is told once");
    world.broker.on_disconnected(world.now, cut_off[1]);
    world.pump();
    assert_eq!(world.ops.len(), 1, "the fetch goes on");
    world.pass_ms(1_000);
    assert_eq!(world.broker.next_deadline_us(), None);
}

#[test]
fn a_fetch_that_waits_for_memory_may_go_and_ends_with_the_broker() {
    let mut world = World::new();
    use_up_all_memory(&mut world);
    let (gone, waiting) = (ConnectionId(2), ConnectionId(3));
    for connection in [gone, waiting] {
        world.broker.on_connected(connection, "/10.0.0.2".to_owned());
        world.send(connection, 12, &Request::Fetch(fetch_request(&[partition(0, 0)])));
    }
    world.broker.on_disconnected(world.now, gone);
    world.broker.on_shutdown(world.now);
    world.pump();
    assert!(world.broker.is_idle() && world.ops.is_empty());
    assert_eq!(world.closed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [waiting]);
}

#[test]
fn errors_and_empty_requests_are_answered_at_once() {
    let mut world = World::new();
    let error = PartitionError::from(ErrorCode::OffsetOutOfRange);
    let response = fetch(&mut world, &fetch_request(&[partition(0, 99)]), |op| OpResult::Fetch {
        partitions: vec![FetchedPartition {
            error: Some(error.clone()),
            ..fetched(&fetch_op(op).items[0], 5, vec![])
        }],
        waiting: true,
    });
    assert_eq!(shown(&response), [(0, ErrorCode::OffsetOutOfRange, 5, 0)]);

    let missing = fetch_request(&[partition(9, 0)]);
    let response = fetch(&mut world, &missing, |op| panic!("nothing is asked for: {op:?}"));
    assert_eq!(shown(&response), [(9, ErrorCode::UnknownTopicOrPartition, -1, 0)]);

    let response = fetch(&mut world, &in_session(0, -1, &[]), |op| panic!("nothing is asked for: {op:?}"));
    assert_eq!(shown(&response), []);

    let impatient = FetchRequestData { max_wait_ms: 0, ..fetch_request(&[partition(0, 0)]) };
    let response = fetch(&mut world, &impatient, |op| {
        assert!(!fetch_op(op).wait);
        every(op, 5, &[])
    });
    assert_eq!(shown(&response), [(0, ErrorCode::None, 5, 0)]);
}

#[test]
fn a_partition_that_is_missing_is_told_with_what_the_others_have() {
    let missing = (9, ErrorCode::UnknownTopicOrPartition, -1, 0);
    for (bytes, wait_ms) in [(0, 500), (7, 100)] {
        let mut world = World::new();
        send(&mut world, 12, &fetch_request(&[partition(9, 0), partition(0, 0)]));
        let (_, token, op) = world.pop_op();
        assert!(fetch_op(&op).wait);
        world.answer(token, every(&op, 5, &[]));
        world.pass_ms(wait_ms);
        if bytes > 0 {
            assert!(world.responses.is_empty() && world.ops.is_empty());
            world.answer(token, OpResult::FetchWake);
        }
        let found = if bytes > 0 { records(bytes) } else { Vec::new() };
        world.serve(|op| every(op, 5, &found));
        assert_eq!(shown(&world.pop_fetch_response(12)), [missing, (0, ErrorCode::None, 5, bytes)]);
    }
}

#[test]
fn a_leader_that_no_replica_names_is_named_as_this_node_knows_it() {
    let mut world = World::new();
    let mut request = fetch_request(&[partition(0, 9), partition(2, 9)]);
    request.topics[0].topic = kafka_string("");
    request.topics[0].topic_id = kafka_uuid(ORDERS_ID);
    send(&mut world, 16, &request);
    world.serve(|op| {
        let error = Some(PartitionError::from(ErrorCode::NotLeaderOrFollower));
        let items = fetch_op(op).items.iter();
        let partitions = items.map(|i| FetchedPartition { error: error.clone(), ..fetched(i, -1, vec![]) });
        OpResult::Fetch { partitions: partitions.collect(), waiting: false }
    });
    let response = world.pop_fetch_response(16);
    let leaders: Vec<_> = response.responses[0]
        .partitions
        .iter()
        .map(|p| (code(p.error_code), p.current_leader.leader_id, p.current_leader.leader_epoch))
        .collect();
    // Of partition 0 this node is the leader by what it heard, and has just said that it is not.
    let error = ErrorCode::NotLeaderOrFollower;
    assert_eq!(leaders, [(error, -1, -1), (error, 2, 5)]);
    let endpoints: Vec<_> = response.node_endpoints.iter().map(|e| (e.node_id, e.host.as_str())).collect();
    assert_eq!(endpoints, [(2, "two")]);
}

#[test]
fn a_diverging_log_and_a_leader_elsewhere_are_told() {
    let mut world = World::new();
    send(&mut world, 16, &{
        let mut request = fetch_request(&[partition(0, 9), partition(1, 9)]);
        request.topics[0].topic = kafka_string("");
        request.topics[0].topic_id = kafka_uuid(ORDERS_ID);
        request
    });
    world.serve(|op| {
        let items = &fetch_op(op).items;
        let diverging = FetchedPartition { diverging: Some((4, 6)), ..fetched(&items[0], 5, vec![]) };
        let elsewhere = FetchedPartition { error: Some(not_leader()), ..fetched(&items[1], -1, vec![]) };
        OpResult::Fetch { partitions: vec![diverging, elsewhere], waiting: false }
    });
    let response = world.pop_fetch_response(16);
    let [diverging, elsewhere] = &response.responses[0].partitions[..] else { panic!("two partitions") };
    assert_eq!((diverging.diverging_epoch.epoch, diverging.diverging_epoch.end_offset), (4, 6));
    assert_eq!((elsewhere.current_leader.leader_id, elsewhere.current_leader.leader_epoch), (2, 6));
    assert_eq!(response.node_endpoints.len(), 1);
    assert_eq!(response.node_endpoints[0].rack.as_ref().map(|rack| rack.as_str()), Some("rack-b"));
}

#[test]
fn topics_are_named_by_id_from_version_13_on() {
    for (id, expected) in [(ORDERS_ID, ErrorCode::None), (TopicId([9; 16]), ErrorCode::UnknownTopicId)] {
        let mut world = World::new();
        let mut request = fetch_request(&[partition(0, 0)]);
        request.topics[0].topic = kafka_string("");
        request.topics[0].topic_id = kafka_uuid(id);
        send(&mut world, 13, &request);
        world.serve(|op| every(op, 1, &records(2)));
        let response = world.pop_fetch_response(13);
        assert_eq!(response.responses[0].topic_id, kafka_uuid(id));
        assert_eq!(code(response.responses[0].partitions[0].error_code), expected);
    }
}

#[test]
fn max_bytes_holds_over_shards_but_the_first_batch_always_goes() {
    let mut world = World::empty(&[], 2);
    let groups = world.create_topic(ORDERS, ORDERS_ID, &[1; 8]);
    let layout = config(2).layout;
    let second =
        groups.iter().position(|g| layout.shard_of(*g) != layout.shard_of(groups[0])).expect("two shards");
    let both = [partition(0, 0), partition(second as i32, 0)];
    let sizes = |world: &mut World, max_bytes: i32| {
        let response = fetch(world, &FetchRequestData { max_bytes, ..fetch_request(&both) }, |op| {
            assert_eq!(fetch_op(op).max_bytes, max_bytes as usize);
            every(op, 1, &records(100))
        });
        shown(&response).into_iter().map(|(_, _, _, bytes)| bytes).collect::<Vec<_>>()
    };
    assert_eq!(sizes(&mut world, 200), [100, 100]);
    assert_eq!(sizes(&mut world, 199), [100, 0]);
    assert_eq!(sizes(&mut world, 10), [100, 0]);
    send(&mut world, 12, &FetchRequestData { max_bytes: i32::MAX, ..fetch_request(&both) });
    assert_eq!(fetch_op(&world.ops[0].2).max_bytes, FETCH_BYTES_MAX);
    let negative = FetchRequestData { max_bytes: -1, min_bytes: -1, ..fetch_request(&[partition(0, 0)]) };
    send(&mut world, 12, &negative);
    assert_eq!(fetch_op(&world.ops[2].2).max_bytes, 0);
}

#[test]
fn a_client_that_poses_as_a_replica_reads_nothing() {
    for (version, request) in [
        (7, FetchRequestData { replica_id: 2, ..fetch_request(&[partition(0, 0)]) }),
        (14, FetchRequestData { replica_id: 0, ..in_session(0, -1, &[]) }),
        (
            15,
            FetchRequestData {
                replica_state: ReplicaState { replica_id: 2, ..Default::default() },
                ..in_session(0, -1, &[])
            },
        ),
    ] {
        let mut world = World::new();
        send(&mut world, version, &request);
        assert!(world.ops.is_empty());
        let response = world.pop_fetch_response(version);
        assert_eq!(code(response.error_code), ErrorCode::ClusterAuthorizationFailed);
        assert!(response.responses.is_empty());
    }
}

#[test]
fn a_session_tells_only_what_changed() {
    let mut world = World::new();
    let full = fetch(&mut world, &in_session(0, 0, &[partition(0, 0), partition(1, 0)]), |op| {
        every(op, 1, &records(3))
    });
    let session = full.session_id;
    assert!(session > 0);
    assert_eq!(shown(&full).len(), 2);

    // Partition 0 moves on and has nothing new; partition 1 is as it was.
    let group = world.group(ORDERS, 1);
    let mut serve = |op: &Op| OpResult::Fetch {
        partitions: fetch_op(op)
            .items
            .iter()
            .map(|item| fetched(item, 1, if item.group == group { records(3) } else { vec![] }))
            .collect(),
        waiting: false,
    };
    let step = fetch(&mut world, &in_session(session, 1, &[partition(0, 1)]), &mut serve);
    assert_eq!((step.session_id, shown(&step)), (session, vec![(1, ErrorCode::None, 1, 3)]));

    // A new high watermark is news without records; nobody hurries for it.
    let mut serve = |op: &Op| OpResult::Fetch {
        partitions: fetch_op(op)
            .items
            .iter()
            .map(|item| fetched(item, if item.group == group { 2 } else { 1 }, vec![]))
            .collect(),
        waiting: fetch_op(op).wait,
    };
    send(&mut world, 12, &in_session(session, 2, &[partition(1, 1)]));
    world.serve(&mut serve);
    assert!(world.responses.is_empty());
    world.pass_ms(500);
    world.serve(&mut serve);
    assert_eq!(shown(&world.pop_fetch_response(12)), [(1, ErrorCode::None, 2, 0)]);
}

#[test]
fn a_session_forgets_and_adds_partitions() {
    let mut world = World::new();
    let full = fetch(&mut world, &in_session(0, 0, &[partition(0, 0), partition(1, 0)]), |op| {
        every(op, 1, &records(3))
    });
    let forgotten = ForgottenTopic { topic: kafka_string(ORDERS), partitions: vec![0], ..Default::default() };
    let request = FetchRequestData {
        forgotten_topics_data: vec![forgotten],
        ..in_session(full.session_id, 1, &[partition(2, 0)])
    };
    let step = fetch(&mut world, &request, |op| every(op, 1, &records(3)));
    assert_eq!(shown(&step), [(1, ErrorCode::None, 1, 3), (2, ErrorCode::None, 1, 3)]);
}

#[test]
fn names_that_no_topic_can_have_are_not_remembered() {
    let mut world = World::new();
    let long = FetchTopic {
        topic: kafka_string(&"x".repeat(250)),
        partitions: vec![partition(0, 0)],
        ..Default::default()
    };
    let mut request = in_session(0, 0, &[partition(0, 0)]);
    request.topics.push(long.clone());
    let full = fetch(&mut world, &request, |op| every(op, 1, &records(3)));
    assert_eq!((full.session_id, full.responses.len()), (0, 2), "it is answered");
    let session_id = open_session(&mut world);
    let grown = FetchRequestData { topics: vec![long], ..in_session(session_id, 1, &[]) };
    for _ in 0..2 {
        let response = fetch(&mut world, &grown, |op| panic!("nothing is asked for: {op:?}"));
        assert_eq!(code(response.error_code), ErrorCode::FetchSessionIdNotFound);
    }
}

#[test]
fn partitions_that_gave_records_go_to_the_end_of_their_session() {
    let mut world = World::new();
    let groups: Vec<GroupId> = (0..3).map(|partition| world.group(ORDERS, partition)).collect();
    let mut asked = Vec::new();
    // An owner that has more of every partition than a response holds.
    let mut serve = |op: &Op| {
        let items = &fetch_op(op).items;
        let order = items.iter().map(|item| groups.iter().position(|group| *group == item.group));
        asked.push(order.map(|index| index.expect("a partition of the topic")).collect::<Vec<_>>());
        let mut left = records(10);
        let partitions = items.iter().map(|item| fetched(item, 9, std::mem::take(&mut left))).collect();
        OpResult::Fetch { partitions, waiting: false }
    };
    let all = [partition(0, 0), partition(1, 0), partition(2, 0)];
    let session = fetch(&mut world, &in_session(0, 0, &all), &mut serve).session_id;
    for (epoch, served) in [(1, 1), (2, 2), (3, 0)] {
        // What the client says of a partition leaves it in its place.
        let response = fetch(&mut world, &in_session(session, epoch, &[partition(0, 1)]), &mut serve);
        assert_eq!(shown(&response), [(served, ErrorCode::None, 9, 10)]);
    }
    assert_eq!(asked, [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]);
}

#[test]
fn shards_take_turns_in_a_session_whose_responses_are_full() {
    let (mut world, both, _) = two_shards();
    let mut step = |session_id: i32, epoch: i32, partitions: &[FetchPartition]| {
        let request = FetchRequestData { max_bytes: 100, ..in_session(session_id, epoch, partitions) };
        let response = fetch(&mut world, &request, |op| every(op, 1, &records(100)));
        let served = shown(&response).into_iter().filter(|p| p.3 > 0).map(|p| p.0).collect::<Vec<_>>();
        (response.session_id, served)
    };
    let [first, second] = both.each_ref().map(|p| p.partition);
    let (session, served) = step(0, 0, &both);
    assert_eq!(served, [first]);
    assert_eq!(step(session, 1, &[]).1, [second]);
    assert_eq!(step(session, 2, &[]).1, [first]);
}

/// Asks for a session of one partition; 0 where there is none.
fn open_session(world: &mut World) -> i32 {
    fetch(world, &in_session(0, 0, &[partition(0, 0)]), |op| every(op, 1, &records(3))).session_id
}

#[test]
fn a_session_in_use_does_not_go_for_another() {
    let mut world = World::new();
    let sessions: Vec<i32> = (0..FETCH_SESSIONS_PER_SHARD_MAX).map(|_| open_session(&mut world)).collect();
    assert!(sessions.iter().all(|session| *session > 0));
    assert_eq!(open_session(&mut world), 0);
    world.pass_ms(1);
    let used = |session: i32, epoch: i32, world: &mut World| {
        let response = fetch(world, &in_session(session, epoch, &[]), |op| every(op, 1, &records(3)));
        code(response.error_code)
    };
    for session in &sessions[1..] {
        assert_eq!(used(*session, 1, &mut world), ErrorCode::None);
    }
    world.pass_ms(119_999);
    assert_eq!(open_session(&mut world), 0, "nothing was idle for longer than two minutes");
    world.pass_ms(1);
    assert!(open_session(&mut world) > 0);
    assert_eq!(used(sessions[0], 1, &mut world), ErrorCode::FetchSessionIdNotFound);
    assert_eq!(open_session(&mut world), 0, "the others were used since");
    assert_eq!(used(sessions[1], 2, &mut world), ErrorCode::None);
}

#[test]
fn a_large_session_in_use_does_not_go_for_another() {
    let mut world = World::new();
    let missing: Vec<FetchPartition> =
        (0..FETCH_SESSION_PARTITIONS_MAX).map(|index| partition(1_000 + index as i32, 0)).collect();
    let large = fetch(&mut world, &in_session(0, 0, &missing), |op| panic!("all are missing: {op:?}"));
    assert!(large.session_id > 0);
    assert_eq!(open_session(&mut world), 0);
    world.pass_ms(120_000);
    assert_eq!(open_session(&mut world), 0);
    world.pass_ms(1);
    assert!(open_session(&mut world) > 0);
    let response = fetch(&mut world, &in_session(large.session_id, 1, &[]), |op| panic!("gone: {op:?}"));
    assert_eq!(code(response.error_code), ErrorCode::FetchSessionIdNotFound);
}

#[test]
fn a_session_that_outgrows_what_is_remembered_ends() {
    let mut world = World::new();
    let session = open_session(&mut world);
    let more: Vec<FetchPartition> =
        (0..FETCH_SESSION_PARTITIONS_MAX).map(|index| partition(1_000 + index as i32, 0)).collect();
    let refused = |request: &FetchRequestData, world: &mut World| {
        code(fetch(world, request, |op| panic!("refused at once: {op:?}")).error_code)
    };
    assert_eq!(refused(&in_session(session, 1, &more), &mut world), ErrorCode::FetchSessionIdNotFound);
    assert_eq!(refused(&in_session(session, 2, &[]), &mut world), ErrorCode::FetchSessionIdNotFound);
}

#[test]
fn a_session_has_epochs_and_ends() {
    let mut world = World::new();
    let full = fetch(&mut world, &in_session(0, 0, &[partition(0, 0)]), |op| every(op, 1, &records(3)));
    let session = full.session_id;
    let refused = |world: &mut World, request: &FetchRequestData| {
        let response = fetch(world, request, |op| panic!("refused at once: {op:?}"));
        assert_eq!((response.session_id, response.responses.len()), (0, 0));
        code(response.error_code)
    };
    assert_eq!(refused(&mut world, &in_session(session, 7, &[])), ErrorCode::InvalidFetchSessionEpoch);
    assert_eq!(refused(&mut world, &in_session(session, -7, &[])), ErrorCode::InvalidFetchSessionEpoch);
    assert_eq!(refused(&mut world, &in_session(session ^ 1, 1, &[])), ErrorCode::FetchSessionIdNotFound);
    // The session stands; its end is asked for by epoch -1.
    let last =
        fetch(&mut world, &in_session(session, -1, &[partition(0, 0)]), |op| every(op, 1, &records(3)));
    assert_eq!((last.session_id, shown(&last).len()), (0, 1));
    assert_eq!(refused(&mut world, &in_session(session, 1, &[])), ErrorCode::FetchSessionIdNotFound);
}

#[test]
fn a_wake_for_a_request_that_is_gone_is_ignored() {
    let mut world = World::new();
    world.answer(OpToken { request: 12_345, part: 0 }, OpResult::FetchWake);
    assert!(world.ops.is_empty() && world.responses.is_empty());
}
