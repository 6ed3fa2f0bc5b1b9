//! Random sequences of requests, failures and failovers. The world checks the coordinator's
//! invariants after each step, and every answer against those before it.

mod world;

use std::collections::BTreeMap;

use bytes::Bytes;
use coordinator::{GroupConfig, GroupCoordinator, GroupRequest, GroupResponse, RequestContext, RequestToken};
use proptest::prelude::*;
use protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use world::{World, kafka};

/// `C`, `D` and `E` are static; `D` and `E` fight for one instance.
const CLIENTS: [(&str, &str); 5] =
    [("A", ""), ("B", ""), ("C", " instance=c"), ("D", " instance=d"), ("E", " instance=d")];

fn client_step() -> impl Strategy<Value = String> {
    let assign = |n: u32| format!("assign=A:a{n},B:b{n},C:c{n},D:d{n},E:e{n}");
    (0..CLIENTS.len(), 0..100u32, any::<u8>()).prop_map(move |(client, kind, n)| {
        let (name, instance) = CLIENTS[client];
        let n = u32::from(n);
        match kind {
            0..40 => {
                let protocols = ["range", "range,sticky", "sticky,range"][n as usize % 3];
                let version = [0, 3, 5, 8, 9][n as usize % 5];
                let session = 6_000 + 100 * n;
                format!("join {name}{instance} v={version} protocols={protocols} session={session}")
            }
            40..70 => format!("sync {name}{instance} {}", assign(n)),
            70..80 => format!("heartbeat {name}{instance}"),
            80..84 => format!("leave {name}{instance}"),
            84..88 => format!("forget {name}"),
            _ => format!("commit {name}{instance} offsets={}:{n}", n % 3),
        }
    })
}

fn other_step() -> impl Strategy<Value = String> {
    (0..100u32, any::<u16>()).prop_map(|(kind, n)| match kind {
        0..40 => format!("tick {}", u32::from(n) % 12_000),
        40..50 => "hold".to_owned(),
        50..65 => "flush".to_owned(),
        65..75 => format!("commit S group=s generation=-1 offsets={}:{n} metadata=m{n} epoch={n}", n % 3),
        75..80 => format!("commit S generation=-1 offsets={}:{n} topic=u", n % 3),
        80..83 => "delete".to_owned(),
        83..86 => "delete group=s".to_owned(),
        86..89 => format!("delete-offsets admin partitions={}", n % 3),
        89..91 => "delete-topic t".to_owned(),
        91..94 => "failover".to_owned(),
        94..97 => "failover-late".to_owned(),
        _ => "restart".to_owned(),
    })
}

fn script(with_failures: bool) -> impl Strategy<Value = Vec<String>> {
    let failure = prop_oneof![Just("fail 19".to_owned()), Just("fail 10".to_owned())];
    prop::collection::vec(
        prop_oneof![
            20 => client_step(),
            8 => other_step(),
            u32::from(with_failures) * 4 => failure,
        ],
        0..120,
    )
}

fn config() -> GroupConfig {
    // Groups are to disappear only where the script deletes them.
    GroupConfig { offsets_retention_check_interval_ms: 1 << 40, ..GroupConfig::default() }
}

fn ask(coordinator: &mut GroupCoordinator, world: &World, request: GroupRequest) -> GroupResponse {
    let context = RequestContext { api_version: 6, ..RequestContext::default() };
    let mut actions = Vec::new();
    coordinator.on_request(world.now, RequestToken(0), &context, request, &mut actions);
    match actions.pop() {
        Some(coordinator::Action::Respond { response, .. }) => response,
        other => panic!("a question is answered at once, not with {other:?}"),
    }
}

/// The log as a compacted topic: the last value of each key.
fn compacted(world: &World) -> BTreeMap<Bytes, Bytes> {
    let mut latest = BTreeMap::new();
    for record in &world.log {
        match &record.value {
            Some(value) => latest.insert(record.key.clone(), value.clone()),
            None => latest.remove(&record.key),
        };
    }
    latest
}

fn fetch_all(coordinator: &mut GroupCoordinator, world: &World, group: &str) -> GroupResponse {
    let group = OffsetFetchRequestGroup { group_id: kafka(group), topics: None, ..Default::default() };
    ask(coordinator, world, GroupRequest::OffsetFetch { group, require_stable: false })
}

fn fetched_offsets(response: &GroupResponse) -> Vec<(String, i32, i64)> {
    let GroupResponse::OffsetFetch(group) = response else { panic!("a fetch, not {response:?}") };
    let partitions = group.topics.iter().flat_map(|topic| {
        topic
            .partitions
            .iter()
            .map(|partition| (topic.name.to_string(), partition.partition_index, partition.committed_offset))
    });
    partitions.collect()
}

/// The offsets of a group, read from the bytes of the log.
fn logged_offsets(world: &World, group: &str) -> Vec<(String, i32, i64)> {
    let mut offsets = Vec::new();
    for (key, value) in compacted(world) {
        if key[1] != 1 {
            continue;
        }
        let group_end = 4 + usize::from(key[3]);
        let topic_end = group_end + 2 + usize::from(key[group_end + 1]);
        if &key[4..group_end] != group.as_bytes() {
            continue;
        }
        let topic = String::from_utf8(key[group_end + 2..topic_end].to_vec()).expect("a name");
        let partition = i32::from_be_bytes(key[topic_end..].try_into().expect("four bytes"));
        offsets.push((topic, partition, i64::from_be_bytes(value[2..10].try_into().expect("eight bytes"))));
    }
    offsets.sort();
    offsets
}

fn run(script: &[String]) -> World {
    let mut world = World::new(config());
    for line in script {
        world.step(line);
    }
    world.step("flush");
    world
}

/// The recovered coordinator and the live one agree on offsets, and both with the log.
fn check_offsets(world: &mut World) {
    let mut recovered = world.recovered();
    recovered.on_elected(world.now, u64::MAX);
    let mut live = std::mem::replace(&mut world.coordinator, GroupCoordinator::new(config()));
    for group in ["g", "s"] {
        let response = fetch_all(&mut live, world, group);
        assert_eq!(response, fetch_all(&mut recovered, world, group));
        assert_eq!(fetched_offsets(&response), logged_offsets(world, group));
    }
    world.coordinator = live;
}

/// A settled group looks the same after recovery.
fn check_groups(world: &mut World) {
    let mut recovered = world.recovered();
    recovered.on_elected(world.now, u64::MAX);
    recovered.assert_invariants();
    let mut live = std::mem::replace(&mut world.coordinator, GroupCoordinator::new(config()));
    for group in ["g", "s"] {
        let response = ask(&mut live, world, GroupRequest::DescribeGroup(kafka(group)));
        let GroupResponse::DescribeGroup(described) = &response else { panic!("a description") };
        let was_never_joined =
            described.protocol_type.is_empty() && described.group_state.as_str() == "Empty";
        let is_settled = matches!(described.group_state.as_str(), "Stable" | "Empty" | "Dead");
        if is_settled && !was_never_joined {
            assert_eq!(response, ask(&mut recovered, world, GroupRequest::DescribeGroup(kafka(group))));
        }
    }
    world.coordinator = live;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]

    #[test]
    fn recovery_finds_what_the_leader_had(script in script(false)) {
        let mut world = run(&script);
        check_offsets(&mut world);
        check_groups(&mut world);
    }

    #[test]
    fn failed_writes_lose_nothing_that_was_acknowledged(script in script(true)) {
        let mut world = run(&script);
        check_offsets(&mut world);
    }

    #[test]
    fn everybody_is_answered_in_the_end(script in script(true)) {
        let mut world = run(&script);
        // Longer than every timeout of a request: new members, joins and syncs.
        world.tick(1_000_000);
        prop_assert!(world.waiting.is_empty(), "{:?}", world.waiting);
        prop_assert_eq!(world.coordinator.gauges().members, 0);
    }

    #[test]
    fn the_same_script_gives_the_same_output(script in script(true)) {
        let first = run(&script);
        let second = run(&script);
        prop_assert_eq!(first.output, second.output);
        prop_assert_eq!(first.log, second.log);
    }

    #[test]
    fn a_committed_offset_is_read_back_exactly(
        offset in any::<i64>(), epoch in any::<i32>(), metadata in "\\PC{0,64}", partition in any::<i32>(),
    ) {
        let mut world = World::new(config());
        let topic = protocol::messages::offset_commit_request::OffsetCommitRequestTopic {
            name: kafka("t"),
            partitions: vec![protocol::messages::offset_commit_request::OffsetCommitRequestPartition {
                partition_index: partition,
                committed_offset: offset,
                committed_leader_epoch: epoch,
                committed_metadata: Some(kafka(&metadata)),
                ..Default::default()
            }],
            ..Default::default()
        };
        world.request("S", 9, GroupRequest::OffsetCommit(
            protocol::messages::offset_commit_request::OffsetCommitRequestData {
                group_id: kafka("s"),
                generation_id_or_member_epoch: -1,
                retention_time_ms: -1,
                topics: vec![topic],
                ..Default::default()
            },
        ));
        let mut recovered = world.recovered();
        recovered.on_elected(world.now, 7);
        let GroupResponse::OffsetFetch(fetched) = fetch_all(&mut recovered, &world, "s") else {
            panic!("a fetch");
        };
        let read = &fetched.topics[0].partitions[0];
        prop_assert_eq!(read.partition_index, partition);
        prop_assert_eq!(read.committed_offset, offset);
        prop_assert_eq!(read.committed_leader_epoch, epoch);
        prop_assert_eq!(read.metadata.as_ref().map(|text| text.as_str()), Some(&*metadata));
    }
}
