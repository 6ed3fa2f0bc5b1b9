//! When batches go from the WAL to segments.

mod common;
mod lone;

use broker::{Op, OpToken, ProduceOp};
use bytes::BytesMut;
use common::{METADATA, register};
use lone::{LoneShard, NODE};
use metadata::{Command, MetadataState, PartitionSpec, StaticSettings};
use protocol::batch::{self, BatchBuilder, BatchOptions};
use shard::{DiskAnswer, DiskRequest, Effect, Event, ShardMessage};
use types::limits::BATCH_BYTES_MAX;
use types::{GroupId, LogIndex, TopicId};

/// The one shard of the only node, with a disk that does at once what it is asked to.
struct World {
    shard: LoneShard,
    groups: Vec<GroupId>,
    /// Appends to segments that were begun, each with when, on the monotonic clock in microseconds.
    appends: Vec<(u64, GroupId)>,
}

impl World {
    fn new(partitions: usize) -> World {
        let mut metadata = MetadataState::new(StaticSettings::default());
        metadata.apply(LogIndex(1), register(NODE));
        metadata.apply(
            LogIndex(2),
            Command::CreateTopic {
                name: "topic".to_owned(),
                id: TopicId([7; 16]),
                partitions: vec![PartitionSpec { replicas: vec![NODE] }; partitions],
                configs: Vec::new(),
            },
        );
        let image = metadata.image();
        let topic = image.topic("topic").expect("it was made");
        let groups = topic.partitions.iter().map(|partition| partition.group).collect();
        let mut world = World { shard: LoneShard::new(), groups, appends: Vec::new() };
        let message = ShardMessage::Image(image);
        world.shard.step(Event::FromShard { from: METADATA, message });
        world.run();
        world
    }

    /// Lets the shard, its WAL and its disk do what they have to.
    fn run(&mut self) {
        loop {
            self.shard.step(Event::TurnEnded);
            let was_idle = !self.use_disk();
            if !self.shard.write() && was_idle {
                return;
            }
        }
    }

    /// Ends the disk requests that were made. Whether there were any.
    fn use_disk(&mut self) -> bool {
        let mut is_any = false;
        for effect in self.shard.take_effects() {
            let Effect::Disk { token, request } = effect else { continue };
            if let DiskRequest::AppendSegment { group, .. } = request {
                self.appends.push((self.shard.now.mono_us, group));
            }
            self.shard.step(Event::Disk { token, result: Ok(DiskAnswer::Done) });
            is_any = true;
        }
        is_any
    }

    /// Goes from deadline to deadline until so much time has passed.
    fn pass(&mut self, us: u64) {
        let until_us = self.shard.now.mono_us + us;
        while let Some(due_us) = self.shard.shard.next_deadline_us().filter(|due_us| *due_us <= until_us) {
            self.shard.now.mono_us = self.shard.now.mono_us.max(due_us);
            self.shard.step(Event::DeadlineReached);
            self.run();
        }
        self.shard.now.mono_us = until_us;
    }

    /// Produces a record to each partition.
    fn produce(&mut self) {
        for (request, group) in (0..).zip(self.groups.clone()) {
            let mut builder = BatchBuilder::new(BatchOptions::default());
            builder.append(self.shard.now.wall_ms, None, Some(b"value"), &[]);
            let mut batch: BytesMut = builder.build();
            let header = batch::validate_produced(&mut batch, BATCH_BYTES_MAX).expect("it is a good batch");
            let op = Op::Produce(ProduceOp { group, batch, header, acks: -1 });
            let message = ShardMessage::Op { token: OpToken { request, part: 0 }, op };
            self.shard.step(Event::FromShard { from: METADATA, message });
        }
        self.run();
    }

    /// Microseconds between appends, each of another partition.
    fn distances(&self) -> Vec<u64> {
        let mut groups: Vec<GroupId> = self.appends.iter().map(|(_, group)| *group).collect();
        groups.sort_unstable();
        groups.dedup();
        assert_eq!(groups.len(), self.appends.len(), "one append each: {:?}", self.appends);
        self.appends.windows(2).map(|pair| pair[1].0 - pair[0].0).collect()
    }
}

#[test]
fn batches_that_have_waited_for_company_go_to_segments_one_partition_after_the_other() {
    let mut world = World::new(40);
    world.produce();
    world.pass(9_990_000);
    assert_eq!(world.appends, [], "they wait");
    world.pass(8_000_000);
    let distances = world.distances();
    assert_eq!(distances.len(), 39);
    // Forty that share two seconds, and fewer that share them anew as their turns come.
    assert!(distances.iter().all(|us| (50_000..=250_000).contains(us)), "{distances:?}");
    assert!(distances.is_sorted(), "{distances:?}");
}

#[test]
fn many_partitions_do_not_wait_for_ever_for_their_turn() {
    let mut world = World::new(1_000);
    world.produce();
    world.pass(10_000_000 + 1_000 * 12_500 + 12_000_000);
    let distances = world.distances();
    assert_eq!(distances.len(), 999);
    assert!(distances.iter().all(|us| (12_500..=250_000).contains(us)), "{distances:?}");
}
