//! Replicas that move no faster than an administrator lets them, as `kafka-reassign-partitions --throttle` says it.

use protocol::frame::{Request, Response};
use protocol::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequestData, ReassignablePartition, ReassignableTopic,
};
use protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequestData,
};
use protocol::messages::kafka_string;
use protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsRequestData;
use sim::world::World;

use crate::script::{Ask, ask_all, create, produce, quiet_cluster};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// What each partition holds.
const RECORDS: usize = 16;
const RECORD_BYTES: usize = 30_000;
const PARTITION_BYTES: u64 = (RECORDS * RECORD_BYTES) as u64;

/// What the copy of a partition takes if nothing holds it up, and more.
const QUICK_US: u64 = 3_000_000;

/// Who throttles: the only node that has the partitions, or the one that is to get them too.
#[derive(Clone, Copy, Debug)]
enum Side {
    Leader,
    Follower,
}

impl Side {
    fn rate(self) -> &'static str {
        match self {
            Side::Leader => "leader.replication.throttled.rate",
            Side::Follower => "follower.replication.throttled.rate",
        }
    }

    fn replicas(self) -> &'static str {
        match self {
            Side::Leader => "leader.replication.throttled.replicas",
            Side::Follower => "follower.replication.throttled.replicas",
        }
    }

    fn broker(self) -> i32 {
        match self {
            Side::Leader => 1,
            Side::Follower => 2,
        }
    }

    fn other(self) -> Side {
        match self {
            Side::Leader => Side::Follower,
            Side::Follower => Side::Leader,
        }
    }
}

fn create_topic(partitions: i32) -> Ask {
    let assignments = (0..partitions).map(|partition_index| CreatableReplicaAssignment {
        partition_index,
        broker_ids: vec![1],
        ..Default::default()
    });
    let topic = CreatableTopic {
        name: kafka_string("topic"),
        num_partitions: -1,
        replication_factor: -1,
        assignments: assignments.collect(),
        ..Default::default()
    };
    create(topic)
}

/// Sets a configuration, or takes it away.
fn alter(resource_type: i8, resource: &str, name: &str, value: Option<&str>) -> Ask {
    let config = AlterableConfig {
        name: kafka_string(name),
        config_operation: i8::from(value.is_none()),
        value: value.map(kafka_string),
        ..Default::default()
    };
    let resource = AlterConfigsResource {
        resource_type,
        resource_name: kafka_string(resource),
        configs: vec![config],
        ..Default::default()
    };
    let request = IncrementalAlterConfigsRequestData { resources: vec![resource], ..Default::default() };
    Ask::new(1, Request::IncrementalAlterConfigs(request), |response| match response {
        Response::IncrementalAlterConfigs(response) => response.responses[0].error_code == 0,
        other => panic!("another response: {other:?}"),
    })
}

fn set_rate(side: Side, rate: Option<&str>) -> Ask {
    alter(BROKER, &side.broker().to_string(), side.rate(), rate)
}

/// The second node is to hold all partitions too.
fn reassign(partitions: i32) -> Ask {
    let partitions = (0..partitions).map(|partition_index| ReassignablePartition {
        partition_index,
        replicas: Some(vec![1, 2]),
        ..Default::default()
    });
    let topics = vec![ReassignableTopic {
        name: kafka_string("topic"),
        partitions: partitions.collect(),
        ..Default::default()
    }];
    let request = AlterPartitionReassignmentsRequestData { timeout_ms: 10_000, topics, ..Default::default() };
    Ask::new(0, Request::AlterPartitionReassignments(request), |response| match response {
        Response::AlterPartitionReassignments(response) => {
            response.responses.iter().flat_map(|topic| &topic.partitions).all(|p| p.error_code == 0)
        }
        other => panic!("another response: {other:?}"),
    })
}

/// Waits until just these partitions move.
fn await_moving(expected: &'static [i32]) -> Ask {
    let request = ListPartitionReassignmentsRequestData { timeout_ms: 10_000, ..Default::default() };
    Ask::new(0, Request::ListPartitionReassignments(request), |response| match response {
        Response::ListPartitionReassignments(response) => {
            let moving = response.topics.iter().flat_map(|topic| &topic.partitions);
            response.error_code == 0
                && moving.map(|partition| partition.partition_index).eq(expected.iter().copied())
        }
        other => panic!("another response: {other:?}"),
    })
}

/// A topic of so many partitions on the first of two nodes, throttled so at one side.
fn world(side: Side, partitions: i32, replicas: &str, rate: &str) -> World {
    let mut world = quiet_cluster(2, 500);
    let produced =
        (0..partitions).flat_map(|partition| (0..RECORDS).map(move |_| produce(partition, RECORD_BYTES)));
    let throttle = [alter(TOPIC, "topic", side.replicas(), Some(replicas)), set_rate(side, Some(rate))];
    ask_all(&mut world, [create_topic(partitions)].into_iter().chain(produced).chain(throttle));
    world
}

/// How long the only partition takes to move.
fn move_us(world: &mut World) -> u64 {
    let begin_us = world.now_us();
    ask_all(world, [reassign(1), await_moving(&[])]);
    world.now_us() - begin_us
}

#[test]
fn a_throttled_replica_takes_as_long_as_the_rate_says() {
    for (side, replicas) in
        [(Side::Leader, "0:1"), (Side::Follower, "0:2"), (Side::Leader, "*"), (Side::Follower, "*")]
    {
        let mut world = world(side, 1, replicas, "48000");
        let expected_us = PARTITION_BYTES * 1_000_000 / 48_000;
        let took_us = move_us(&mut world);
        // A quarter of a second's worth may come at once, and the last record is made up for when nobody waits any more.
        let at_once_us = 250_000 + RECORD_BYTES as u64 * 1_000_000 / 48_000;
        assert!(took_us > expected_us - at_once_us, "{side:?} {replicas}: {took_us}");
        assert!(took_us < expected_us + QUICK_US, "{side:?} {replicas}: {took_us}");
    }
}

#[test]
fn a_rate_binds_only_the_replicas_that_are_listed_for_it() {
    for (side, replicas) in [(Side::Leader, "0:2,1:1"), (Side::Follower, "0:1,1:2"), (Side::Leader, "")] {
        let mut world = world(side, 1, replicas, "0");
        ask_all(&mut world, [alter(TOPIC, "topic", side.other().replicas(), Some("*"))]);
        let took_us = move_us(&mut world);
        assert!(took_us < QUICK_US, "{side:?} {replicas}: {took_us}");
    }
}

#[test]
fn nothing_moves_at_no_rate_and_a_change_takes_effect_at_once() {
    for side in [Side::Leader, Side::Follower] {
        let changes = [
            set_rate(side, Some("100000000")),
            set_rate(side, None),
            alter(TOPIC, "topic", side.replicas(), Some("0:9")),
            alter(TOPIC, "topic", side.replicas(), None),
        ];
        for change in changes {
            let mut world = world(side, 1, "*", "0");
            ask_all(&mut world, [reassign(1)]);
            world.run_for_us(60_000_000);
            ask_all(&mut world, [await_moving(&[0])]);
            let begin_us = world.now_us();
            ask_all(&mut world, [change, await_moving(&[])]);
            assert!(world.now_us() - begin_us < QUICK_US, "{side:?}");
        }
    }
}

#[test]
fn replicas_that_are_not_throttled_do_not_wait_for_those_that_are() {
    for side in [Side::Leader, Side::Follower] {
        let listed: Vec<String> = (0..4).map(|partition| format!("{partition}:{}", side.broker())).collect();
        let mut world = world(side, 6, &listed.join(","), "0");
        ask_all(&mut world, [reassign(6), await_moving(&[0, 1, 2, 3])]);
        ask_all(&mut world, [set_rate(side, None), await_moving(&[])]);
    }
}
