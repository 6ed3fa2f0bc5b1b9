//! The log of `__consumer_offsets` starts anew when it has grown far beyond what it says.

use std::cell::Cell;
use std::rc::Rc;

use protocol::frame::{Request, Response};
use protocol::messages::find_coordinator_request::FindCoordinatorRequestData;
use protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequestData, ListOffsetsTopic,
};
use protocol::messages::offset_commit_request::{
    OffsetCommitRequestData, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use protocol::messages::offset_fetch_request::OffsetFetchRequestData;
use protocol::messages::{ErrorCode, kafka_string};
use sim::world::World;
use types::limits::COORDINATOR_SNAPSHOT_BYTES;

use crate::script::{Ask, ask_all, create_topic, quiet_world};

const PARTITIONS: i32 = 64;
const GROUPS: usize = 3;
const EARLIEST: i64 = -2;

/// Bytes of metadata with each offset, so that what all groups have together is far below what a log is cut at; a commit may
/// have up to 4096.
const METADATA_BYTES: usize = COORDINATOR_SNAPSHOT_BYTES / (PARTITIONS as usize * 32);

/// Commits that go well beyond it, and beyond four times what all groups have together.
const COMMITS: usize = 2 * COORDINATOR_SNAPSHOT_BYTES / (PARTITIONS as usize * METADATA_BYTES);

fn find_coordinator(group: usize) -> Ask {
    let request = FindCoordinatorRequestData { key: kafka_string(&name(group)), ..Default::default() };
    let is_found = |response: &Response| match response {
        Response::FindCoordinator(response) => response.error_code == 0,
        other => panic!("another response: {other:?}"),
    };
    Ask::new(3, Request::FindCoordinator(request), is_found)
}

fn name(group: usize) -> String {
    format!("group-{group}")
}

/// A commit of all partitions by a consumer without a group protocol.
fn commit(group: usize, offset: i64) -> Ask {
    let partitions = (0..PARTITIONS).map(|partition_index| OffsetCommitRequestPartition {
        partition_index,
        committed_offset: offset + i64::from(partition_index),
        committed_leader_epoch: -1,
        committed_metadata: Some(kafka_string(&"m".repeat(METADATA_BYTES))),
        ..Default::default()
    });
    let topic = OffsetCommitRequestTopic {
        name: kafka_string("topic"),
        partitions: partitions.collect(),
        ..Default::default()
    };
    let request = OffsetCommitRequestData {
        group_id: kafka_string(&name(group)),
        generation_id_or_member_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    };
    let is_committed = |response: &Response| match response {
        Response::OffsetCommit(response) => {
            response.topics.iter().flat_map(|topic| &topic.partitions).all(|p| p.error_code == 0)
        }
        other => panic!("another response: {other:?}"),
    };
    Ask::new(8, Request::OffsetCommit(request), is_committed)
}

/// All offsets of a group are there, with their metadata.
fn check_offsets(group: usize, offset: i64) -> Ask {
    let request = OffsetFetchRequestData { group_id: kafka_string(&name(group)), ..Default::default() };
    let look = move |response: &Response| {
        let Response::OffsetFetch(response) = response else { panic!("another response: {response:?}") };
        if response.error_code != 0 {
            return false;
        }
        let found: Vec<_> = response.topics.iter().flat_map(|topic| &topic.partitions).collect();
        assert_eq!(found.len(), PARTITIONS as usize, "offsets of group {group}");
        for partition in found {
            assert_eq!(partition.committed_offset, offset + i64::from(partition.partition_index));
            assert_eq!(partition.metadata.as_ref().map_or(0, |text| text.as_str().len()), METADATA_BYTES);
        }
        true
    };
    let request = OffsetFetchRequestData { topics: None, ..request };
    Ask::new(7, Request::OffsetFetch(request), look)
}

fn check_groups() -> Ask {
    let look = |response: &Response| {
        let Response::ListGroups(response) = response else { panic!("another response: {response:?}") };
        if response.error_code != 0 {
            return false;
        }
        assert_eq!(response.groups.len(), GROUPS);
        true
    };
    Ask::new(2, Request::ListGroups(Default::default()), look)
}

/// Where the log of `__consumer_offsets` starts.
fn log_start(world: &mut World) -> i64 {
    let partition = ListOffsetsPartition { timestamp: EARLIEST, ..Default::default() };
    let topic = ListOffsetsTopic {
        name: kafka_string("__consumer_offsets"),
        partitions: vec![partition],
        ..Default::default()
    };
    let request = ListOffsetsRequestData { replica_id: -1, topics: vec![topic], ..Default::default() };
    let found = Rc::new(Cell::new(0));
    let seen = Rc::clone(&found);
    let look = move |response: &Response| {
        let Response::ListOffsets(response) = response else { panic!("another response: {response:?}") };
        let partition = &response.topics[0].partitions[0];
        seen.set(partition.offset);
        ErrorCode::from(partition.error_code) == ErrorCode::None
    };
    ask_all(world, [Ask::new(1, Request::ListOffsets(request), look)]);
    found.get()
}

#[test]
fn groups_and_offsets_outlive_the_log_that_they_were_written_to() {
    let mut world = quiet_world(500);
    let begin = [create_topic(PARTITIONS, &[]), find_coordinator(0)].into_iter();
    // The others are written once, at the beginning: only the snapshot has them in the end.
    ask_all(&mut world, begin.chain((1..GROUPS).map(|group| commit(group, 100 * group as i64))));
    assert_eq!(log_start(&mut world), 0);
    ask_all(&mut world, (0..COMMITS).map(|number| commit(0, 1_000 + number as i64)));
    let start = log_start(&mut world);
    assert!(start > 0, "the log is not cut");
    let check_all = || {
        let offset_of = |group: usize| if group == 0 { 999 + COMMITS as i64 } else { 100 * group as i64 };
        (0..GROUPS).map(move |group| check_offsets(group, offset_of(group))).chain([check_groups()])
    };
    ask_all(&mut world, check_all());
    for _ in 0..2 {
        world.restart();
        ask_all(&mut world, check_all());
        assert_eq!(log_start(&mut world), start);
        // What is cut also leaves the disk, and the next start knows nothing but the snapshot.
        world.run_for_us(60_000_000);
    }
}
