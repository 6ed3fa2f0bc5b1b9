//! Groups whose names are long and whose offsets are many, so that their records do not fit in one batch.

mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

use coordinator::*;
use protocol::messages::offset_commit_request::{
    OffsetCommitRequestData, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use protocol::messages::offset_delete_request::{
    OffsetDeleteRequestData, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use world::{World, kafka};

/// The longest name, of which some 500 records fill a batch.
fn long_group() -> String {
    "g".repeat(i16::MAX as usize)
}

fn commit(world: &mut World, partitions: impl Iterator<Item = i32>) -> ErrorCode {
    let partition = |(offset, partition_index)| OffsetCommitRequestPartition {
        partition_index,
        committed_offset: offset,
        ..Default::default()
    };
    let topic = OffsetCommitRequestTopic {
        name: kafka("t"),
        partitions: (0..).zip(partitions).map(partition).collect(),
        ..Default::default()
    };
    let request = OffsetCommitRequestData {
        group_id: kafka(&long_group()),
        generation_id_or_member_epoch: -1,
        retention_time_ms: -1,
        topics: vec![topic],
        ..Default::default()
    };
    world.request("S", 8, GroupRequest::OffsetCommit(request));
    let Some(GroupResponse::OffsetCommit(response)) = &world.last_response else { panic!("no answer") };
    let errors: BTreeSet<i16> =
        response.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code).collect();
    assert_eq!(errors.len(), 1, "all have the same answer");
    ErrorCode::from(*errors.first().expect("there is one"))
}

/// A group with 600 offsets, which are more than a batch.
fn large_group() -> World {
    let mut world = World::new(GroupConfig::default());
    for partitions in [0..300, 300..600] {
        assert_eq!(commit(&mut world, partitions), ErrorCode::None);
    }
    world
}

fn delete(world: &mut World) {
    world.request("admin", 2, GroupRequest::DeleteGroup(kafka(&long_group())));
}

fn deleted(world: &World) -> ErrorCode {
    match &world.last_response {
        Some(GroupResponse::DeleteGroup(result)) => ErrorCode::from(result.error_code),
        other => panic!("no answer to a deletion: {other:?}"),
    }
}

/// Commits the oldest write, which fits in a batch, and gives the number of its records.
fn commit_write(world: &mut World) -> usize {
    let (write, records) = world.writes.pop_front().expect("a write is under way");
    assert!(records.iter().map(CoordinatorRecord::batch_bytes_max).sum::<usize>() <= WRITE_BYTES_MAX);
    for record in &records {
        world.coordinator.replay(record).expect("own records replay");
    }
    let mut actions = Vec::new();
    world.coordinator.on_written(world.now, write, Ok(()), &mut actions);
    world.perform(actions);
    records.len()
}

#[test]
fn a_partition_that_is_named_very_often_is_recorded_once() {
    let mut world = World::new(GroupConfig::default());
    assert_eq!(commit(&mut world, std::iter::repeat_n(0, 66_000)), ErrorCode::None);
    assert_eq!(world.log.len(), 1);
}

#[test]
fn a_commit_that_does_not_fit_in_a_batch_is_refused() {
    let mut world = World::new(GroupConfig::default());
    assert_eq!(commit(&mut world, 0..66_000), ErrorCode::InvalidCommitOffsetSize);
    assert_eq!(world.log.len(), 0);
    assert!(!world.coordinator.has_group(&long_group()));
}

#[test]
fn a_deletion_of_offsets_that_does_not_fit_in_a_batch_is_refused() {
    let mut world = large_group();
    let ask = |world: &mut World, partitions: std::ops::Range<i32>| {
        let partitions = partitions
            .map(|partition_index| OffsetDeleteRequestPartition { partition_index, ..Default::default() });
        let topic = OffsetDeleteRequestTopic {
            name: kafka("t"),
            partitions: partitions.collect(),
            ..Default::default()
        };
        let group_id = kafka(&long_group());
        let request = OffsetDeleteRequestData { group_id, topics: vec![topic], ..Default::default() };
        world.request("admin", 0, GroupRequest::OffsetDelete(request));
        match &world.last_response {
            Some(GroupResponse::OffsetDelete(response)) => ErrorCode::from(response.error_code),
            other => panic!("no answer to a deletion: {other:?}"),
        }
    };
    assert_eq!(ask(&mut world, 0..600), ErrorCode::UnknownServerError);
    assert_eq!(world.coordinator.gauges().offsets, 600);
    assert_eq!(ask(&mut world, 0..400), ErrorCode::None);
    assert_eq!(world.coordinator.gauges().offsets, 200);
}

#[test]
fn a_group_that_takes_several_writes_goes_with_the_last() {
    let mut world = large_group();
    world.holds = true;
    delete(&mut world);
    assert_eq!(world.writes.len(), 1, "one at a time");
    let first = commit_write(&mut world);
    assert_eq!(world.coordinator.gauges().offsets, 600 - first, "no group before its offsets");
    assert_eq!(world.writes.len(), 1, "it goes on");
    assert_eq!(commit_write(&mut world), 600 - first + 1);
    assert_eq!(deleted(&world), ErrorCode::None);
    assert!(world.writes.is_empty() && !world.coordinator.has_group(&long_group()));
}

#[test]
fn a_group_that_is_deleted_in_part_is_there_and_can_be_deleted() {
    let mut world = large_group();
    world.holds = true;
    delete(&mut world);
    commit_write(&mut world);
    world.fail(ErrorCode::CoordinatorNotAvailable);
    assert_eq!(deleted(&world), ErrorCode::CoordinatorNotAvailable);
    assert!(world.coordinator.has_group(&long_group()));
    world.holds = false;
    delete(&mut world);
    assert_eq!(deleted(&world), ErrorCode::None);
    assert!(!world.coordinator.has_group(&long_group()));
}

#[test]
fn offsets_of_a_deleted_topic_go_a_part_at_a_time() {
    let mut world = large_group();
    world.holds = true;
    let topics = BTreeSet::from([Arc::from("t")]);
    let mut steps = 0;
    let mut actions = Vec::new();
    world.coordinator.on_topics_deleted(world.now, &topics, &mut actions);
    world.perform(actions);
    while !world.writes.is_empty() {
        let bytes: usize = world
            .writes
            .iter()
            .flat_map(|(_, records)| records)
            .map(CoordinatorRecord::batch_bytes_max)
            .sum();
        assert!(bytes <= WRITE_BYTES_MAX, "so much is made at once");
        // The next step follows the last write of this one.
        for _ in 0..world.writes.len() {
            commit_write(&mut world);
        }
        steps += 1;
    }
    assert!(!world.coordinator.topics_with_offsets().contains("t"));
    assert!((2..10).contains(&steps), "{steps} steps");
}

#[test]
fn offsets_that_expired_go_a_part_with_each_check() {
    let mut world = large_group();
    let config = GroupConfig::default();
    world.tick(u64::try_from(config.offsets_retention_ms).expect("positive"));
    let left = world.coordinator.gauges().offsets;
    assert!((1..600).contains(&left), "{left} are left");
    world.tick(10 * u64::try_from(config.offsets_retention_check_interval_ms).expect("positive"));
    assert!(!world.coordinator.has_group(&long_group()));
}

#[test]
fn a_snapshot_takes_no_more_than_is_counted_beforehand() {
    let mut world = large_group();
    for line in ["join A v=3", "tick 3000", "sync A assign=A:a", "commit A offsets=0:1 metadata=m"] {
        world.step(line);
    }
    let made: usize = world.coordinator.snapshot().map(|record| record.batch_bytes_max()).sum();
    let counted = world.coordinator.snapshot_bytes_max();
    assert!(made <= counted && counted < made + made / 100, "{made} bytes, not {counted}");
}
