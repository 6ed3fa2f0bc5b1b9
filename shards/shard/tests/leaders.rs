//! What a leader answers and when: before its own write is durable, and before it serves.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use broker::{ListOffsetsOp, Op, OpResult, OpToken, ProduceOp};
use bytes::{Bytes, BytesMut};
use common::{METADATA, new_shard, register};
use metadata::{Command, MetadataImage, MetadataState, PartitionSpec, Reassignment, StaticSettings};
use protocol::batch::{self, BatchBuilder, BatchOptions, Producer};
use protocol::messages::ErrorCode;
use shard::{Effect, Event, PeerMessage, Shard, ShardMessage};
use types::limits::{BATCH_BYTES_MAX, WAL_FILE_BYTES};
use types::{GroupId, LogIndex, NodeId, Now, TopicId};

/// The shards of some nodes that host partitions, and nothing else of these nodes.
struct World {
    now: Now,
    shards: BTreeMap<NodeId, DataShard>,
    group: GroupId,
    /// Whether anything went from node to node since this was last looked at.
    has_sent: bool,
}

struct DataShard {
    shard: Shard,
    /// Whether its writes become durable.
    writes: bool,
    unwritten: Option<u64>,
    answers: Vec<(u64, OpResult)>,
}

/// What it says after decisions of where the replicas of its partition are to be.
fn image(nodes: &[NodeId], decisions: &[&[i32]]) -> Arc<MetadataImage> {
    let mut state = MetadataState::new(StaticSettings::default());
    let mut commands: Vec<Command> = nodes.iter().map(|node| register(*node)).collect();
    commands.push(Command::CreateTopic {
        name: "topic".to_owned(),
        id: TopicId([7; 16]),
        partitions: vec![PartitionSpec { replicas: nodes.to_vec() }],
        configs: Vec::new(),
    });
    for (index, command) in (1..).zip(commands) {
        state.apply(LogIndex(index), command);
    }
    for replicas in decisions {
        let group = state.image().topics().next().expect("there is one").partitions[0].group;
        let replicas = Some(replicas.iter().copied().map(NodeId).collect());
        let command = Command::Reassign { partitions: vec![Reassignment { group, replicas }] };
        state.apply(LogIndex(state.applied().0 + 1), command);
    }
    state.image()
}

impl World {
    /// Nodes that know of a topic with one partition, whose first replica campaigns; nothing has gone on from there.
    fn new(nodes: i32) -> World {
        let now = Now { mono_us: 1_000_000, wall_ms: 1_700_000_000_000 };
        let nodes: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let image = image(&nodes, &[]);
        let group = image.topics().next().expect("there is one").partitions[0].group;
        let mut world = World { now, shards: BTreeMap::new(), group, has_sent: false };
        for node in &nodes {
            let mut effects = Vec::new();
            let shard = new_shard(*node, &nodes, now, &mut effects);
            let shard = DataShard { shard, writes: true, unwritten: None, answers: Vec::new() };
            world.shards.insert(*node, shard);
            world.carry_out(*node, effects);
        }
        for node in &nodes {
            for peer in nodes.iter().filter(|peer| *peer != node) {
                world.step(*node, Event::PeerConnected { peer: *peer });
            }
        }
        for node in &nodes {
            let message = ShardMessage::Image(Arc::clone(&image));
            world.step(*node, Event::FromShard { from: METADATA, message });
        }
        world
    }

    fn node(&mut self, node: i32) -> &mut DataShard {
        self.shards.get_mut(&NodeId(node)).expect("it is one of them")
    }

    fn step(&mut self, node: NodeId, event: Event) {
        let mut effects = Vec::new();
        let now = self.now;
        self.shards.get_mut(&node).expect("it is one of them").shard.step(now, event, &mut effects);
        self.carry_out(node, effects);
    }

    fn carry_out(&mut self, node: NodeId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::CreateWalFile { file } => {
                    self.step(node, Event::WalFileReady { file, result: Ok(()) });
                }
                Effect::WriteWal { number, .. } => self.node(node.0).unwritten = Some(number),
                Effect::SendToPeer { to, parts } => {
                    let bytes = parts.iter().map(Bytes::len).sum();
                    let frame = Bytes::from(parts.concat());
                    self.has_sent = true;
                    self.step(node, Event::PeerSent { peer: to, bytes });
                    self.step(to, Event::FromPeer { peer: node, frame });
                }
                Effect::SendToShard { message: ShardMessage::OpDone { token, result }, .. } => {
                    self.node(node.0).answers.push((token.request, result));
                }
                Effect::Fatal(reason) => panic!("node {node} ends: {reason}"),
                _ => {}
            }
        }
    }

    /// Ends turns and makes writes durable, where that may be, until nothing goes on any more.
    fn run(&mut self) {
        loop {
            let nodes: Vec<NodeId> = self.shards.keys().copied().collect();
            for node in &nodes {
                self.step(*node, Event::TurnEnded);
            }
            let mut is_quiet = !std::mem::take(&mut self.has_sent);
            for node in nodes {
                let shard = self.node(node.0);
                if shard.writes
                    && let Some(flush) = shard.unwritten.take()
                {
                    is_quiet = false;
                    self.step(node, Event::WalFlushed { flush });
                }
            }
            if is_quiet {
                return;
            }
        }
    }

    fn ask(&mut self, node: i32, request: u64, op: Op) {
        let token = OpToken { request, part: 0 };
        let message = ShardMessage::Op { token, op };
        self.step(NodeId(node), Event::FromShard { from: METADATA, message });
    }

    /// Sends a batch of one record, the `sequence`th of its producer.
    fn produce(&mut self, node: i32, request: u64, sequence: i32, acks: i16) {
        self.produce_value(node, request, sequence, acks, b"value");
    }

    fn produce_value(&mut self, node: i32, request: u64, sequence: i32, acks: i16, value: &[u8]) {
        let producer = Some(Producer { id: 1, epoch: 0, base_sequence: sequence });
        let mut builder = BatchBuilder::new(BatchOptions { producer, ..BatchOptions::default() });
        builder.append(self.now.wall_ms, None, Some(value), &[]);
        let mut batch: BytesMut = builder.build();
        let header = batch::validate_produced(&mut batch, BATCH_BYTES_MAX).expect("it is a good batch");
        self.ask(node, request, Op::Produce(ProduceOp { group: self.group, batch, header, acks }));
    }

    fn list_end(&mut self, node: i32, request: u64) {
        let op = ListOffsetsOp { group: self.group, current_leader_epoch: -1, timestamp: -1 };
        self.ask(node, request, Op::ListOffsets(op));
    }

    /// The answers since the last look: of each request, an offset or an error.
    fn answers(&mut self, node: i32) -> Vec<(u64, Result<i64, ErrorCode>)> {
        let answers = std::mem::take(&mut self.node(node).answers);
        let outcome = |result| match result {
            OpResult::Produce(Ok(produced)) => Ok(produced.base_offset.0),
            OpResult::ListOffsets(Ok((_, offset, _))) => Ok(offset),
            OpResult::DeleteRecords(Ok(log_start)) => Ok(log_start.0),
            OpResult::Produce(Err(error)) | OpResult::ListOffsets(Err(error)) => Err(error.code),
            other => panic!("nothing else was asked: {other:?}"),
        };
        answers.into_iter().map(|(request, result)| (request, outcome(result))).collect()
    }
}

#[test]
fn acks_all_does_not_wait_for_the_leaders_own_write_and_acks_1_does() {
    let mut world = World::new(3);
    world.run();
    world.node(1).writes = false;
    world.produce(1, 1, 0, -1);
    world.produce(1, 2, 1, 1);
    world.run();
    assert_eq!(world.answers(1), [(1, Ok(0))], "two others have written it");
    world.list_end(1, 3);
    assert_eq!(world.answers(1), [(3, Ok(2))], "both records are committed");
    world.node(1).writes = true;
    world.run();
    assert_eq!(world.answers(1), [(2, Ok(1))]);
}

#[test]
fn acks_1_does_not_wait_for_the_followers_and_acks_all_does() {
    let mut world = World::new(3);
    world.run();
    for follower in [2, 3] {
        world.node(follower).writes = false;
    }
    world.produce(1, 1, 0, -1);
    world.produce(1, 2, 1, 1);
    world.run();
    assert_eq!(world.answers(1), [(2, Ok(1))]);
    world.node(3).writes = true;
    world.run();
    assert_eq!(world.answers(1), [(1, Ok(0))]);
}

#[test]
fn the_only_replica_answers_when_it_has_written() {
    let mut world = World::new(1);
    world.run();
    world.node(1).writes = false;
    world.produce(1, 1, 0, -1);
    world.produce(1, 2, 1, 1);
    world.run();
    assert_eq!(world.answers(1), []);
    world.node(1).writes = true;
    world.run();
    assert_eq!(world.answers(1), [(2, Ok(1)), (1, Ok(0))]);
}

#[test]
fn requests_to_an_elected_leader_wait_until_it_serves_and_keep_their_order() {
    let mut world = World::new(1);
    world.node(1).writes = false;
    world.step(NodeId(1), Event::TurnEnded);
    for sequence in 0..3 {
        world.produce(1, 1 + sequence as u64, sequence, -1);
    }
    world.list_end(1, 4);
    world.run();
    assert_eq!(world.answers(1), [], "its term has not begun");
    world.node(1).writes = true;
    world.run();
    assert_eq!(world.answers(1), [(4, Ok(0)), (1, Ok(0)), (2, Ok(1)), (3, Ok(2))]);
}

#[test]
fn requests_do_not_wait_for_ever_for_a_leader_that_cannot_write() {
    let mut world = World::new(1);
    world.node(1).writes = false;
    world.step(NodeId(1), Event::TurnEnded);
    world.produce(1, 1, 0, -1);
    world.now.mono_us += 1_400_000;
    world.step(NodeId(1), Event::DeadlineReached);
    assert_eq!(world.answers(1), []);
    world.now.mono_us += 200_000;
    world.step(NodeId(1), Event::DeadlineReached);
    assert_eq!(world.answers(1), [(1, Err(ErrorCode::NotLeaderOrFollower))]);
}

/// A leader whose followers write nothing, after so many batches of which it takes no more than two before one is committed.
fn without_commits(batches: i32) -> World {
    let mut world = World::new(3);
    world.run();
    for follower in [2, 3] {
        world.node(follower).writes = false;
    }
    let value = vec![7; 7 << 20];
    for sequence in 0..batches {
        world.produce_value(1, sequence as u64, sequence, -1, &value);
    }
    world
}

#[test]
fn batches_wait_for_commits_where_a_group_has_taken_as_much_as_may_be_uncommitted() {
    let mut world = without_commits(4);
    world.produce(1, 4, 4, -1);
    world.list_end(1, 5);
    world.run();
    assert_eq!(
        world.answers(1),
        [(5, Ok(0))],
        "nothing is committed, and the end of the log is told all the same"
    );
    world.node(3).writes = true;
    world.run();
    assert_eq!(world.answers(1), [(0, Ok(0)), (1, Ok(1)), (2, Ok(2)), (3, Ok(3)), (4, Ok(4))]);
}

#[test]
fn batches_do_not_wait_for_ever_for_commits() {
    let mut world = without_commits(3);
    world.produce(1, 3, 3, -1);
    world.run();
    world.now.mono_us += 1_400_000;
    world.step(NodeId(1), Event::DeadlineReached);
    assert_eq!(world.answers(1), []);
    world.now.mono_us += 200_000;
    world.step(NodeId(1), Event::DeadlineReached);
    let refused = Err(ErrorCode::NotEnoughReplicas);
    assert_eq!(
        world.answers(1),
        [(2, refused), (3, refused)],
        "one that would fit does not overtake one that does not"
    );
}

#[test]
fn all_that_wait_to_know_who_leads_share_one_entry() {
    let mut world = World::new(3);
    world.run();
    world.produce(1, 0, 0, -1);
    world.run();
    world.answers(1);
    let last = |world: &mut World| {
        let group = world.group;
        world.node(1).shard.groups().find(|status| status.group == group).expect("it is hosted").last
    };
    let before = last(&mut world);
    for request in 1..=50 {
        world.produce(1, request, 7, -1);
    }
    for request in 51..=100 {
        world.ask(1, request, Op::DeleteRecords { group: world.group, offset: 0 });
    }
    world.run();
    let answers = world.answers(1);
    let expected =
        |request| (request, if request <= 50 { Err(ErrorCode::OutOfOrderSequenceNumber) } else { Ok(0) });
    assert_eq!(answers, (1..=100).map(expected).collect::<Vec<_>>());
    assert_eq!(last(&mut world), before.next());
    // What moves the start of the log has an entry of its own.
    world.ask(1, 101, Op::DeleteRecords { group: world.group, offset: -1 });
    world.ask(1, 102, Op::DeleteRecords { group: world.group, offset: 0 });
    world.run();
    assert_eq!(world.answers(1), [(101, Ok(1)), (102, Ok(1))]);
    assert_eq!(last(&mut world), LogIndex(before.0 + 3));
}

#[test]
fn a_follower_says_at_once_who_leads() {
    let mut world = World::new(3);
    world.run();
    world.produce(2, 1, 0, -1);
    assert_eq!(world.answers(2), [(1, Err(ErrorCode::NotLeaderOrFollower))]);
}

#[test]
fn a_leader_does_not_carry_out_a_decision_that_another_one_has_replaced() {
    let mut world = World::new(3);
    world.run();
    let nodes = [1, 2, 3].map(NodeId);
    let tell = |world: &mut World, node: i32, decisions: &[&[i32]]| {
        let message = ShardMessage::Image(image(&nodes, decisions));
        world.step(NodeId(node), Event::FromShard { from: METADATA, message });
        world.run();
    };
    // The third node does not hear that the first one may stay after all.
    tell(&mut world, 3, &[&[3, 2]]);
    tell(&mut world, 1, &[&[3, 2], &[3, 2, 1]]);
    let (group, peer) = (world.group, NodeId(2));
    let message = PeerMessage::HandOver { group, to: NodeId(3) };
    let message = ShardMessage::FromPeer { peer, message };
    world.step(NodeId(1), Event::FromShard { from: METADATA, message });
    world.run();
    let voters = |world: &mut World| {
        let shard = &world.node(3).shard;
        let status = shard.groups().find(|status| status.group == group).expect("it is hosted");
        assert!(status.role.serving, "it leads");
        let voters = &shard.membership(group).expect("it is hosted").voters;
        voters.iter().map(|voter| voter.node).collect::<Vec<_>>()
    };
    assert_eq!(voters(&mut world), nodes);
    tell(&mut world, 3, &[&[3, 2], &[3, 2, 1], &[3, 2]]);
    assert_eq!(voters(&mut world), nodes[1..]);
}

/// What it answered before may be lost with its former connection, though the leader's own to it stands.
#[test]
fn a_leader_asks_a_follower_that_has_connected_anew_how_far_it_is() {
    let mut world = World::new(3);
    world.run();
    world.step(NodeId(1), Event::TurnEnded);
    assert!(!world.has_sent, "there is nothing to ask");
    world.step(NodeId(1), Event::PeerJoined { peer: NodeId(3) });
    world.step(NodeId(1), Event::TurnEnded);
    assert!(world.has_sent);
}

#[test]
fn a_follower_takes_more_in_one_turn_than_a_wal_file_holds() {
    let mut world = World::new(3);
    world.run();
    let value = vec![7; 2 << 20];
    let batches = WAL_FILE_BYTES / value.len() as u64 + 3;
    // All of it waits for the third node's disk; the leader takes no more at once than is committed soon.
    world.node(3).writes = false;
    for sequence in 0..batches {
        world.produce_value(1, sequence, sequence as i32, -1, &value);
        if sequence % 4 == 3 {
            world.run();
        }
    }
    world.run();
    world.node(3).writes = true;
    world.run();
    let expected: Vec<_> = (0..batches).map(|sequence| (sequence, Ok(sequence as i64))).collect();
    assert_eq!(world.answers(1), expected);
}
