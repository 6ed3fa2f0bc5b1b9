//! A consumer by assignment: reads random partitions from random places, and waits at their ends.

use protocol::frame::Request;
use protocol::messages::fetch_request::{FetchPartition, FetchRequestData, FetchTopic};
use protocol::messages::fetch_response::FetchResponseData;
use protocol::messages::{ErrorCode, kafka_string, kafka_uuid};

use crate::actor::{Actor, Answer, Context, Line, Target};
use crate::clients::is_retriable;
use crate::model::{Floor, Life, TopicRef};

/// How long a consumer waits before it tries again.
const BACKOFF_US: u64 = 20_000;

#[derive(Clone, Copy, Debug)]
struct Position {
    topic: TopicRef,
    partition: i32,
    offset: i64,
    floor: Floor,
    start_asked_max: i64,
    was_deleted: bool,
}

/// See the module.
pub struct Consumer {
    number: usize,
    line: Line,
    positions: Vec<Position>,
    /// The partition whose leader it looked for.
    target: Option<(TopicRef, i32)>,
    asked: Option<i32>,
    is_stopped: bool,
}

impl Consumer {
    /// A consumer that has not begun.
    pub fn new(number: usize) -> Consumer {
        Consumer {
            number,
            line: Line::Down,
            positions: Vec::new(),
            target: None,
            asked: None,
            is_stopped: false,
        }
    }

    fn pump(&mut self, context: &mut Context<'_>) {
        if context.is_stopping {
            self.is_stopped = true;
            return;
        }
        if self.line != Line::Up {
            if self.line == Line::Down {
                self.connect(context);
            }
        } else if self.asked.is_none() {
            if self.positions.is_empty() || context.random.percent(10) {
                self.choose(context);
            }
            self.fetch(context);
        }
    }

    fn connect(&mut self, context: &mut Context<'_>) {
        self.line = Line::Opening;
        let live = context.model.topics_in(Life::Live);
        self.target = (!live.is_empty()).then(|| {
            let topic = live[context.random.index(live.len())];
            let partitions = context.model.topic(topic).partitions.len();
            (topic, i32::try_from(context.random.index(partitions)).expect("few partitions"))
        });
        let target = self.target.map(|(topic, partition)| context.leader(topic, partition));
        context.connect(target.unwrap_or(Target::Any));
    }

    fn choose(&mut self, context: &mut Context<'_>) {
        self.positions.clear();
        let mut topics = context.model.topics_in(Life::Live);
        if context.random.percent(10) {
            topics.extend(context.model.topics_in(Life::Deleted));
        }
        for topic in topics {
            let partitions = context.model.topic(topic).partitions.len();
            for partition in 0..i32::try_from(partitions).expect("few partitions") {
                if context.random.percent(40) || self.target == Some((topic, partition)) {
                    let offset = random_offset(context, topic, partition);
                    self.positions.push(position(context, topic, partition, offset));
                }
            }
        }
    }

    fn fetch(&mut self, context: &mut Context<'_>) {
        if self.positions.is_empty() {
            return context.timer_us(BACKOFF_US);
        }
        for at in self.positions.iter_mut() {
            *at = position(context, at.topic, at.partition, at.offset);
        }
        let version = if context.random.percent(70) { 16 } else { 12 };
        let is_small = context.random.percent(30);
        let mut topics: Vec<FetchTopic> = Vec::new();
        for at in &self.positions {
            let topic = context.model.topic(at.topic);
            let mut asked = FetchTopic::default();
            match version {
                16 => asked.topic_id = kafka_uuid(topic.id.expect("a live topic has an id")),
                _ => asked.topic = kafka_string(&topic.name),
            }
            asked.partitions = vec![FetchPartition {
                partition: at.partition,
                current_leader_epoch: -1,
                fetch_offset: at.offset,
                last_fetched_epoch: -1,
                log_start_offset: -1,
                partition_max_bytes: if is_small { 100 } else { 4 << 20 },
                ..Default::default()
            }];
            topics.push(asked);
        }
        let request = FetchRequestData {
            replica_id: -1,
            max_wait_ms: i32::try_from(context.random.below(800)).expect("it is small"),
            min_bytes: [1, 1, 100, 100_000][context.random.index(4)],
            max_bytes: if is_small { 1_000 } else { 8 << 20 },
            session_id: 0,
            session_epoch: -1,
            topics,
            ..Default::default()
        };
        self.asked = Some(context.send(version, &Request::Fetch(request)));
    }

    fn on_fetched(&mut self, context: &mut Context<'_>, response: FetchResponseData) {
        assert_eq!(response.error_code, 0, "a fetch without a session is not refused as a whole");
        let mut answers = response.responses.into_iter().flat_map(|topic| topic.partitions);
        let mut positions = std::mem::take(&mut self.positions);
        let (node, nodes) = (context.run.expect("an answer comes over a connection"), context.nodes);
        let mut refused = Vec::new();
        let (mut has_more, mut has_any, mut is_refused) = (false, false, false);
        for at in &mut positions {
            let answer = answers.next().expect("every partition is answered");
            assert_eq!(answer.partition_index, at.partition, "partitions are answered in order");
            let code = ErrorCode::from(answer.error_code);
            let (topic, partition) = (at.topic, at.partition);
            let name = context.model.topic(topic).name.clone();
            match code {
                ErrorCode::None => {
                    // Of several nodes some hear of it later.
                    assert!(nodes > 1 || !at.was_deleted, "{name} was deleted, and is served");
                    let (start, end) = (answer.log_start_offset, answer.high_watermark);
                    context.model.on_watermarks((topic, partition), node, at.floor, start, end);
                    let records = answer.records.unwrap_or_default();
                    has_more |= at.offset < end;
                    has_any |= !records.is_empty();
                    let next = context.model.on_read(topic, partition, at.offset, end, &records);
                    assert!(next >= at.offset, "a reader does not go back");
                    at.offset = next;
                }
                ErrorCode::OffsetOutOfRange => {
                    let has_retention = context.model.topic(topic).has_retention;
                    let start_asked = context.model.partition(topic, partition).start_asked_max;
                    assert!(
                        has_retention
                            || at.offset < start_asked.max(at.start_asked_max)
                            || at.offset > at.floor.end,
                        "{name}-{partition}: offset {} is out of range, though the log holds it: {at:?}",
                        at.offset
                    );
                    at.offset = random_offset(context, topic, partition);
                    // The read that found it gone had its share of the fetch.
                    has_any = true;
                }
                code => {
                    let is_damaged = code == ErrorCode::CorruptMessage && context.may_be_damaged;
                    assert!(
                        is_damaged || is_retriable(code),
                        "{name}-{partition}: a fetch is refused with {code:?}"
                    );
                    is_refused = true;
                    refused.push((topic, partition));
                }
            }
        }
        assert!(has_any || !has_more || is_refused, "a reader does not get on: {positions:?}");
        // What this node does not lead, another one does.
        positions.retain(|at| !refused.contains(&(at.topic, at.partition)));
        self.positions = positions;
        if (is_refused && nodes == 1) || context.random.percent(3) {
            self.positions.clear();
        }
        if is_refused && nodes > 1 && self.positions.is_empty() {
            self.line = Line::Down;
            return context.disconnect();
        }
        let pause_us = if is_refused { BACKOFF_US } else { context.random.delay_us(20_000) };
        context.timer_us(pause_us);
    }
}

fn position(context: &mut Context<'_>, topic: TopicRef, partition: i32, offset: i64) -> Position {
    Position {
        topic,
        partition,
        offset,
        floor: context.model.floor_at(topic, partition, context.run),
        start_asked_max: context.model.partition(topic, partition).start_asked_max,
        was_deleted: context.model.topic(topic).life == Life::Deleted,
    }
}

fn random_offset(context: &mut Context<'_>, topic: TopicRef, partition: i32) -> i64 {
    let Floor { start, end } = context.model.floor(topic, partition);
    match context.random.below(4) {
        0 => start,
        1 => end,
        _ => {
            start
                + i64::try_from(context.random.below((end - start).unsigned_abs() + 1)).expect("a short log")
        }
    }
}

impl Actor for Consumer {
    fn name(&self) -> String {
        format!("consumer {} at {:?}", self.number, self.positions)
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
        match answer {
            Answer::Fetch(response) => self.on_fetched(context, response),
            other => panic!("a consumer asked for no {other:?}"),
        }
    }

    fn is_idle(&self) -> bool {
        self.is_stopped && self.asked.is_none()
    }
}
