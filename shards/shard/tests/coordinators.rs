//! Offsets that a coordinator of a shard keeps, and when they go.

mod common;
mod lone;

use broker::{GroupOp, Op, OpResult, OpToken};
use common::{METADATA, register};
use coordinator::{GroupRequest, GroupResponse, RequestContext};
use lone::{LoneShard, NODE};
use metadata::{Command, MetadataState, PartitionSpec, StaticSettings};
use protocol::messages::offset_commit_request::{
    OffsetCommitRequestData, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use protocol::messages::{ErrorCode, kafka_string};
use shard::{Effect, Event, ShardMessage};
use types::{GroupId, LogIndex, TopicId};

/// The shard with the only coordinator of the only node.
struct World {
    metadata: MetadataState,
    shard: LoneShard,
    answers: Vec<OpResult>,
}

impl World {
    /// With these topics beside that of the offsets.
    fn new(topics: &[&str]) -> World {
        let metadata = MetadataState::new(StaticSettings::default());
        let mut world = World { metadata, shard: LoneShard::new(), answers: Vec::new() };
        world.apply(register(NODE));
        for (number, name) in (1..).zip([metadata::CONSUMER_OFFSETS_TOPIC].iter().chain(topics)) {
            world.apply(Command::CreateTopic {
                name: (*name).to_owned(),
                id: TopicId([number; 16]),
                partitions: vec![PartitionSpec { replicas: vec![NODE] }],
                configs: Vec::new(),
            });
        }
        world.tell_image();
        world
    }

    fn apply(&mut self, command: Command) {
        self.metadata.apply(LogIndex(self.metadata.applied().0 + 1), command);
    }

    /// The shard hears of all that was changed, at once.
    fn tell_image(&mut self) {
        let image = self.metadata.image();
        self.message(ShardMessage::Image(image));
    }

    fn message(&mut self, message: ShardMessage) {
        self.shard.step(Event::FromShard { from: METADATA, message });
        self.run();
    }

    fn run(&mut self) {
        self.shard.step(Event::TurnEnded);
        while self.shard.write() {
            self.shard.step(Event::TurnEnded);
        }
        for effect in self.shard.take_effects() {
            if let Effect::SendToShard { message: ShardMessage::OpDone { result, .. }, .. } = effect {
                self.answers.push(result);
            }
        }
    }

    fn ask(&mut self, request: GroupRequest) -> GroupResponse {
        let image = self.metadata.image();
        let group: GroupId =
            image.topic(metadata::CONSUMER_OFFSETS_TOPIC).expect("it was made").partitions[0].group;
        let op = Op::Group(GroupOp { group, context: RequestContext::default(), request });
        self.message(ShardMessage::Op { token: OpToken { request: 1, part: 0 }, op });
        match self.answers.pop() {
            Some(OpResult::Group(Ok(response))) => response,
            other => panic!("no answer of a coordinator: {other:?}"),
        }
    }

    /// Commits offsets of these topics, each of the same partitions.
    fn commit(&mut self, group: &str, topics: &[&str], partitions: i32) {
        let partitions = (0..partitions).map(|partition_index| OffsetCommitRequestPartition {
            partition_index,
            committed_offset: 7,
            ..Default::default()
        });
        let partitions: Vec<_> = partitions.collect();
        let topic = |name: &&str| OffsetCommitRequestTopic {
            name: kafka_string(name),
            partitions: partitions.clone(),
            ..Default::default()
        };
        let answer = self.ask(GroupRequest::OffsetCommit(OffsetCommitRequestData {
            group_id: kafka_string(group),
            generation_id_or_member_epoch: -1,
            retention_time_ms: -1,
            topics: topics.iter().map(topic).collect(),
            ..Default::default()
        }));
        let GroupResponse::OffsetCommit(response) = answer else { panic!("another answer: {answer:?}") };
        let errors = response.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code);
        assert!(errors.into_iter().all(|error| error == ErrorCode::None.code()));
    }

    /// The topics that a group has offsets of, and how many of each.
    fn offsets(&mut self, group: &str) -> Vec<(String, usize)> {
        let group =
            OffsetFetchRequestGroup { group_id: kafka_string(group), topics: None, ..Default::default() };
        let answer = self.ask(GroupRequest::OffsetFetch { group, require_stable: true });
        let GroupResponse::OffsetFetch(group) = answer else { panic!("another answer: {answer:?}") };
        group.topics.iter().map(|topic| (topic.name.to_string(), topic.partitions.len())).collect()
    }
}

#[test]
fn the_offsets_of_all_topics_that_an_image_lacks_are_removed() {
    let mut world = World::new(&["a", "b", "c"]);
    world.commit("group", &["a", "b", "c"], 3);
    world.commit("other", &["b"], 1);
    for number in [2, 3] {
        world.apply(Command::DeleteTopic { id: TopicId([number; 16]) });
    }
    world.tell_image();
    assert_eq!(world.offsets("group"), [("c".to_owned(), 3)]);
    assert_eq!(world.offsets("other"), []);
    // Those of a topic of an earlier deletion are of another one by now.
    world.commit("group", &["a"], 2);
    world.apply(Command::DeleteTopic { id: TopicId([4; 16]) });
    world.tell_image();
    assert_eq!(world.offsets("group"), [("a".to_owned(), 2)]);
}

#[test]
fn a_group_of_more_offsets_than_a_batch_takes_is_deleted_as_a_whole() {
    let mut world = World::new(&["a"]);
    let group = "g".repeat(i16::MAX as usize);
    // 500 of them fill a batch.
    world.commit(&group, &["a"], 400);
    world.commit(&group, &["b"], 400);
    assert_eq!(world.offsets(&group), [("a".to_owned(), 400), ("b".to_owned(), 400)]);
    let answer = world.ask(GroupRequest::DeleteGroup(kafka_string(&group)));
    let GroupResponse::DeleteGroup(deleted) = answer else { panic!("another answer: {answer:?}") };
    assert_eq!(deleted.error_code, ErrorCode::None.code());
    assert_eq!(world.offsets(&group), []);
}
