//! When batches go from the WAL to segments.

mod common;

use broker::{Op, OpToken, ProduceOp};
use bytes::BytesMut;
use common::{METADATA, new_shard, register};
use metadata::{Command, MetadataState, PartitionSpec, StaticSettings};
use protocol::batch::{self, BatchBuilder, BatchOptions};
use shard::{DiskAnswer, DiskRequest, Effect, Event, Shard, ShardMessage};
use types::limits::BATCH_BYTES_MAX;
use types::{GroupId, LogIndex, NodeId, Now, TopicId};

const NODE: NodeId = NodeId(1);

/// The one shard of the only node, with a disk that does at once what it is asked to.
struct World {
    now: Now,
    shard: Shard,
    groups: Vec<GroupId>,
    unwritten: Option<u64>,
    disk_answers: Vec<Event>,
    /// Appends to segments that were begun, each with when, on the monotonic clock in microseconds.
    appends: Vec<(u64, GroupId)>,
}

impl World {
    fn new(partitions: usize) -> World {
        let now = Now { mono_us: 1_000_000, wall_ms: 1_700_000_000_000 };
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
        let mut effects = Vec::new();
        let shard = new_shard(NODE, &[NODE], now, &mut effects);
        let (unwritten, disk_answers, appends) = (None, Vec::new(), Vec::new());
        let mut world = World { now, shard, groups, unwritten, disk_answers, appends };
        world.carry_out(effects);
        world.step(Event::FromShard { from: METADATA, message: ShardMessage::Image(image) });
        world.run();
        world
    }

    fn step(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.shard.step(self.now, event, &mut effects);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::CreateWalFile { file } => self.step(Event::WalFileReady { file, result: Ok(()) }),
                Effect::WriteWal { number, .. } => self.unwritten = Some(number),
                Effect::Disk { token, request } => {
                    if let DiskRequest::AppendSegment { group, .. } = request {
                        self.appends.push((self.now.mono_us, group));
                    }
                    self.disk_answers.push(Event::Disk { token, result: Ok(DiskAnswer::Done) });
                }
                Effect::Fatal(reason) => panic!("the node ends: {reason}"),
                _ => {}
            }
        }
    }

    /// Lets the shard, its WAL and its disk do what they have to.
    fn run(&mut self) {
        loop {
            self.step(Event::TurnEnded);
            if let Some(flush) = self.unwritten.take() {
                self.step(Event::WalFlushed { flush });
            } else if let Some(answer) = self.disk_answers.pop() {
                self.step(answer);
            } else {
                return;
            }
        }
    }

    /// Goes from deadline to deadline until so much time has passed.
    fn pass(&mut self, us: u64) {
        let until_us = self.now.mono_us + us;
        while let Some(due_us) = self.shard.next_deadline_us().filter(|due_us| *due_us <= until_us) {
            self.now.mono_us = self.now.mono_us.max(due_us);
            self.step(Event::DeadlineReached);
            self.run();
        }
        self.now.mono_us = until_us;
    }

    /// Produces a record to each partition.
    fn produce(&mut self) {
        for (request, group) in (0..).zip(self.groups.clone()) {
            let mut builder = BatchBuilder::new(BatchOptions::default());
            builder.append(self.now.wall_ms, None, Some(b"value"), &[]);
            let mut batch: BytesMut = builder.build();
            let header = batch::validate_produced(&mut batch, BATCH_BYTES_MAX).expect("it is a good batch");
            let op = Op::Produce(ProduceOp { group, batch, header, acks: -1 });
            let message = ShardMessage::Op { token: OpToken { request, part: 0 }, op };
            self.step(Event::FromShard { from: METADATA, message });
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
