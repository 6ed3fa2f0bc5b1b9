//! Reads everything back while nobody else is about, and compares it with what was acknowledged.

use std::collections::VecDeque;

use protocol::frame::{Request, Response};
use protocol::messages::fetch_request::{FetchPartition, FetchRequestData, FetchTopic};
use protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequestData, ListOffsetsTopic,
};
use protocol::messages::offset_fetch_request::{OffsetFetchRequestData, OffsetFetchRequestTopic};
use protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderEpochRequestData, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use protocol::messages::{ErrorCode, kafka_string, kafka_uuid};

use crate::actor::{Actor, Answer, Context, Line, Target};
use crate::clients::is_retriable;
use crate::model::{Life, TopicRef};

/// How long the auditor waits before it tries again.
const BACKOFF_US: u64 = 50_000;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;

/// Timestamps to look up in each partition.
const LOOKUPS: usize = 8;

#[derive(Clone, Debug)]
enum Task {
    Start { topic: TopicRef, partition: i32 },
    Drain { topic: TopicRef, partition: i32, start: i64, next: i64 },
    Look { topic: TopicRef, partition: i32, start: i64, end: i64, timestamp_ms: i64 },
    Epoch { topic: TopicRef, partition: i32, epoch: i32, end: i64 },
    Deleted { topic: TopicRef },
    Committed { group: String, topic: TopicRef, partition: i32 },
}

/// See the module.
pub struct Auditor {
    is_begun: bool,
    line: Line,
    tasks: VecDeque<Task>,
    asked: Option<i32>,
}

impl Default for Auditor {
    fn default() -> Auditor {
        Auditor::new()
    }
}

impl Auditor {
    /// An auditor who has not begun.
    pub fn new() -> Auditor {
        Auditor { is_begun: false, line: Line::Down, tasks: VecDeque::new(), asked: None }
    }

    fn begin(&mut self, context: &mut Context<'_>) {
        self.is_begun = true;
        for topic in context.model.topics_in(Life::Live) {
            let partitions = context.model.topic(topic).partitions.len();
            let partitions = 0..i32::try_from(partitions).expect("few partitions");
            self.tasks.extend(partitions.map(|partition| Task::Start { topic, partition }));
        }
        let deleted = context.model.topics_in(Life::Deleted);
        self.tasks.extend(deleted.into_iter().map(|topic| Task::Deleted { topic }));
        let committed = context.model.committed.keys().cloned();
        self.tasks.extend(committed.map(|(group, topic, partition)| Task::Committed {
            group,
            topic,
            partition,
        }));
    }

    fn pump(&mut self, context: &mut Context<'_>) {
        if !self.is_begun {
            self.begin(context);
        }
        if self.asked.is_some() {
            return;
        }
        let Some(task) = self.tasks.front().cloned() else { return };
        if self.line == Line::Up {
            self.asked = Some(self.ask(context, &task));
        } else if self.line == Line::Down {
            self.line = Line::Opening;
            let target = match &task {
                Task::Start { topic, partition }
                | Task::Drain { topic, partition, .. }
                | Task::Look { topic, partition, .. }
                | Task::Epoch { topic, partition, .. } => context.leader(*topic, *partition),
                Task::Deleted { .. } => Target::Any,
                Task::Committed { group, .. } => Target::Coordinator(group.clone()),
            };
            context.connect(target);
        }
    }

    fn ask(&mut self, context: &mut Context<'_>, task: &Task) -> i32 {
        match task {
            Task::Start { topic, partition } => list_offsets(context, *topic, *partition, EARLIEST),
            Task::Look { topic, partition, timestamp_ms, .. } => {
                list_offsets(context, *topic, *partition, *timestamp_ms)
            }
            Task::Drain { topic, partition, next, .. } => fetch(context, *topic, *partition, *next),
            Task::Epoch { topic, partition, epoch, .. } => end_of_epoch(context, *topic, *partition, *epoch),
            Task::Deleted { topic } => fetch(context, *topic, 0, 0),
            Task::Committed { group, topic, partition } => {
                let name = kafka_string(&context.model.topic(*topic).name);
                let topics = vec![OffsetFetchRequestTopic {
                    name,
                    partition_indexes: vec![*partition],
                    ..Default::default()
                }];
                let request = OffsetFetchRequestData {
                    group_id: kafka_string(group),
                    topics: Some(topics),
                    ..Default::default()
                };
                context.send(7, &Request::OffsetFetch(request))
            }
        }
    }

    /// Takes in an answer; `false` when the same is to be asked again.
    fn on_task_answer(&mut self, context: &mut Context<'_>, task: &Task, answer: Answer) -> bool {
        match (task, answer) {
            (Task::Start { topic, partition }, Answer::Response(Response::ListOffsets(response))) => {
                let Some((_, start)) = listed(&response) else { return false };
                let (topic, partition) = (*topic, *partition);
                self.tasks.push_front(Task::Drain { topic, partition, start, next: start });
                true
            }
            (Task::Drain { topic, partition, start, next }, Answer::Fetch(response)) => {
                let answer = &response.responses[0].partitions[0];
                let code = ErrorCode::from(answer.error_code);
                if code != ErrorCode::None {
                    // Retention may have moved the start meanwhile.
                    let has_retention = context.model.topic(*topic).has_retention;
                    if code == ErrorCode::OffsetOutOfRange && has_retention {
                        self.tasks.push_front(Task::Start { topic: *topic, partition: *partition });
                        return true;
                    }
                    // A follower that has just started knows of less.
                    let is_behind = code == ErrorCode::OffsetOutOfRange && context.nodes > 1;
                    assert!(is_behind || is_retriable(code), "{task:?} is refused with {code:?}");
                    return false;
                }
                let floor = context.model.floor(*topic, *partition);
                let (log_start, end) = (answer.log_start_offset, answer.high_watermark);
                if context.nodes > 1 && (end < floor.end || log_start < floor.start) {
                    // A follower that has just started hears of it soon.
                    return false;
                }
                let node = context.run.expect("an answer comes over a connection");
                context.model.on_watermarks((*topic, *partition), node, floor, log_start, end);
                let records = answer.records.clone().unwrap_or_default();
                let read = context.model.on_read(*topic, *partition, *next, end, &records);
                assert!(
                    read > *next || *next == end,
                    "{task:?}: nothing comes, though the log ends at {end}"
                );
                match read == end {
                    true => self.on_drained(context, *topic, *partition, *start, end),
                    false => {
                        let (topic, partition, start) = (*topic, *partition, *start);
                        self.tasks.push_front(Task::Drain { topic, partition, start, next: read });
                    }
                }
                true
            }
            (Task::Look { .. }, Answer::Response(Response::ListOffsets(response))) => {
                let Some(found) = listed(&response) else { return false };
                check_look(context, task, found);
                context.note_checked("time looked up");
                true
            }
            (
                Task::Epoch { topic, partition, epoch, end },
                Answer::Response(Response::OffsetForLeaderEpoch(response)),
            ) => {
                let answer = &response.topics[0].partitions[0];
                let code = ErrorCode::from(answer.error_code);
                if code != ErrorCode::None {
                    assert!(is_retriable(code), "{task:?} is refused with {code:?}");
                    return false;
                }
                let name = &context.model.topic(*topic).name;
                assert_eq!(
                    (answer.leader_epoch, answer.end_offset),
                    (*epoch, *end),
                    "{name}-{partition}: (epoch, end) of what was written in epoch {epoch}"
                );
                context.note_checked("epoch looked up");
                true
            }
            (Task::Deleted { topic }, Answer::Fetch(response)) => {
                let code = ErrorCode::from(response.responses[0].partitions[0].error_code);
                let name = &context.model.topic(*topic).name;
                let is_gone = code == ErrorCode::UnknownTopicId;
                // A node that has just started knows what was so when it ended.
                assert!(is_gone || context.nodes > 1, "{name} was deleted, and is answered with {code:?}");
                is_gone
            }
            (
                Task::Committed { group, topic, partition },
                Answer::Response(Response::OffsetFetch(response)),
            ) => {
                let code = ErrorCode::from(response.error_code);
                if code != ErrorCode::None {
                    assert!(is_retriable(code), "{task:?} is refused with {code:?}");
                    return false;
                }
                if context.model.topic(*topic).life != Life::Live {
                    return true;
                }
                context.note_checked("group offset judged");
                let offset = response.topics[0].partitions[0].committed_offset;
                let known = &context.model.committed[&(group.clone(), *topic, *partition)];
                assert!(
                    (known.acknowledged..=known.sent).contains(&offset),
                    "{task:?}: the group is at {offset}, but {known:?}"
                );
                true
            }
            (task, answer) => panic!("{task:?} is answered with {answer:?}"),
        }
    }

    fn on_drained(
        &mut self,
        context: &mut Context<'_>,
        topic: TopicRef,
        partition: i32,
        start: i64,
        end: i64,
    ) {
        let name = context.model.topic(topic).name.clone();
        let found = context.model.partition(topic, partition);
        found.assert_order(&format!("{name}-{partition}"));
        let times: Vec<i64> =
            found.slots.range(start..end).filter_map(|(_, slot)| slot.timestamp_ms).collect();
        assert_eq!(times.len() as i64, end - start, "{name}-{partition}: every offset was read");
        assert!(
            found.slots.last_key_value().is_none_or(|(offset, _)| *offset < end),
            "{name}-{partition}: the log ends at {end}, before what was acknowledged"
        );
        let mut looks = vec![MAX_TIMESTAMP, LATEST];
        if let (Some(min), Some(max)) = (times.iter().min(), times.iter().max()) {
            looks.extend([*min, *max, *max + 1]);
            for _ in 0..LOOKUPS {
                looks.push(times[context.random.index(times.len())] - context.random.below(2) as i64);
            }
        }
        let mut epochs: Vec<(i32, i64)> = Vec::new();
        for (offset, slot) in found.slots.range(start..end) {
            let epoch = slot.epoch.expect("what was read has an epoch");
            if epochs.last().is_none_or(|(last, _)| *last != epoch) {
                epochs.push((epoch, *offset));
            }
        }
        let place = format!("{name}-{partition}");
        assert!(epochs.is_sorted_by(|a, b| a.0 < b.0), "{place}: epochs only grow along a log: {epochs:?}");
        let look = |timestamp_ms| Task::Look { topic, partition, start, end, timestamp_ms };
        looks.into_iter().map(look).for_each(|look| self.tasks.push_front(look));
        // Retention may move the start meanwhile, and epochs that end before it are forgotten.
        if !context.model.topic(topic).has_retention {
            let ends = epochs.iter().skip(1).map(|(_, first)| *first).chain([end]);
            for ((epoch, _), end) in epochs.iter().zip(ends) {
                self.tasks.push_front(Task::Epoch { topic, partition, epoch: *epoch, end });
            }
        }
    }
}

fn check_look(context: &mut Context<'_>, task: &Task, found: (i64, i64)) {
    let Task::Look { topic, partition, start, end, timestamp_ms } = *task else {
        unreachable!("only looks are checked")
    };
    let has_retention = context.model.topic(topic).has_retention;
    let name = context.model.topic(topic).name.clone();
    let known = context.model.partition(topic, partition);
    let expected = match timestamp_ms {
        LATEST => (-1, end),
        MAX_TIMESTAMP => {
            let times = known.slots.range(start..end).filter_map(|(_, slot)| slot.timestamp_ms);
            times.max().map_or((-1, -1), |max| known.scan(start, end, max).unwrap_or((-1, -1)))
        }
        timestamp_ms => known.scan(start, end, timestamp_ms).unwrap_or((-1, -1)),
    };
    // Retention may have moved the start meanwhile. Of a log that lost its first records only a bound is remembered.
    let is_later = (has_retention && (found.1 > expected.1 || found.1 == -1))
        || (timestamp_ms == MAX_TIMESTAMP && start > 0);
    assert!(
        found == expected || is_later,
        "{name}-{partition}: {task:?} finds (timestamp, offset) {found:?} and not {expected:?}"
    );
}

fn list_offsets(context: &mut Context<'_>, topic: TopicRef, partition: i32, timestamp: i64) -> i32 {
    let asked = ListOffsetsPartition {
        partition_index: partition,
        current_leader_epoch: -1,
        timestamp,
        ..Default::default()
    };
    let name = kafka_string(&context.model.topic(topic).name);
    let topics = vec![ListOffsetsTopic { name, partitions: vec![asked], ..Default::default() }];
    let request = ListOffsetsRequestData { replica_id: -1, topics, ..Default::default() };
    context.send(7, &Request::ListOffsets(request))
}

fn end_of_epoch(context: &mut Context<'_>, topic: TopicRef, partition: i32, leader_epoch: i32) -> i32 {
    let asked =
        OffsetForLeaderPartition { partition, current_leader_epoch: -1, leader_epoch, ..Default::default() };
    let topic = kafka_string(&context.model.topic(topic).name);
    let topics = vec![OffsetForLeaderTopic { topic, partitions: vec![asked], ..Default::default() }];
    let request = OffsetForLeaderEpochRequestData { replica_id: -1, topics, ..Default::default() };
    context.send(4, &Request::OffsetForLeaderEpoch(request))
}

/// The (timestamp, offset) of an answer; `None` when it is to be asked again.
fn listed(
    response: &protocol::messages::list_offsets_response::ListOffsetsResponseData,
) -> Option<(i64, i64)> {
    let answer = &response.topics[0].partitions[0];
    let code = ErrorCode::from(answer.error_code);
    assert!(code == ErrorCode::None || is_retriable(code), "ListOffsets is refused with {code:?}");
    (code == ErrorCode::None).then_some((answer.timestamp, answer.offset))
}

fn fetch(context: &mut Context<'_>, topic: TopicRef, partition: i32, offset: i64) -> i32 {
    let id = context.model.topic(topic).id.expect("a topic that was acknowledged has an id");
    let asked = FetchPartition {
        partition,
        current_leader_epoch: -1,
        fetch_offset: offset,
        last_fetched_epoch: -1,
        log_start_offset: -1,
        partition_max_bytes: i32::try_from(context.random.between(1, 4 << 20)).expect("it is small"),
        ..Default::default()
    };
    let request = FetchRequestData {
        replica_id: -1,
        max_bytes: 8 << 20,
        session_epoch: -1,
        topics: vec![FetchTopic { topic_id: kafka_uuid(id), partitions: vec![asked], ..Default::default() }],
        ..Default::default()
    };
    context.send(16, &Request::Fetch(request))
}

impl Actor for Auditor {
    fn name(&self) -> String {
        format!("auditor at {:?} of {}", self.tasks.front(), self.tasks.len())
    }

    fn on_timer(&mut self, context: &mut Context<'_>) {
        self.pump(context);
    }

    fn on_connected(&mut self, context: &mut Context<'_>) {
        self.line = Line::Up;
        self.pump(context);
    }

    fn on_disconnected(&mut self, context: &mut Context<'_>) {
        self.line = Line::Down;
        self.asked = None;
        context.timer_us(BACKOFF_US);
    }

    fn on_answer(&mut self, context: &mut Context<'_>, correlation_id: i32, answer: Answer) {
        assert_eq!(self.asked.take(), Some(correlation_id), "an answer belongs to the request");
        let task = self.tasks.pop_front().expect("an answer belongs to a task");
        if self.on_task_answer(context, &task, answer) {
            self.pump(context);
        } else {
            self.tasks.push_front(task);
            if context.nodes > 1 {
                // Another node may do better.
                self.line = Line::Down;
                return context.disconnect();
            }
            context.timer_us(BACKOFF_US);
        }
    }

    fn is_idle(&self) -> bool {
        self.is_begun && self.tasks.is_empty()
    }
}
