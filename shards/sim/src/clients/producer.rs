//! A producer: idempotent or not, pipelined, and stubborn.

use std::collections::VecDeque;

use bytes::Bytes;
use protocol::batch::{BatchBuilder, BatchOptions, Codec, Producer as ProducerFields};
use protocol::frame::{Request, Response};
use protocol::messages::init_producer_id_request::InitProducerIdRequestData;
use protocol::messages::produce_request::{PartitionProduceData, ProduceRequestData, TopicProduceData};
use protocol::messages::produce_response::ProduceResponseData;
use protocol::messages::{ErrorCode, kafka_string, kafka_uuid};

use crate::actor::{Actor, Answer, Context, Line, Target};
use crate::clients::is_retriable;
use crate::model::{Life, Sent, TopicRef, VALUE_HEAD_BYTES, value_of};

/// How long a client waits before it tries again. Longer than anything takes inside the node, so that what was sent
/// before is not overtaken.
const BACKOFF_US: u64 = 50_000;

/// How a producer behaves.
#[derive(Clone, Copy, Debug)]
pub struct ProducerOptions {
    /// For traces, and to tell the producers of a record apart.
    pub number: usize,
    /// Whether it numbers its batches.
    pub is_idempotent: bool,
    /// Kafka's `acks`.
    pub acks: i16,
    /// Requests in flight.
    pub window: usize,
    /// Batches that it sends before it is done.
    pub batches_left: u64,
    /// The largest value, in bytes.
    pub value_bytes_max: u64,
    /// Records of one batch at most.
    pub records_max: u64,
    /// Microseconds between two batches, at most.
    pub pause_us: u64,
}

/// One partition's batch of a request.
struct Part {
    partition: i32,
    uids: Vec<u64>,
    records: Bytes,
}

struct InFlight {
    correlation_id: Option<i32>,
    /// When it was sent last.
    sent_us: u64,
    parts: Vec<Part>,
}

/// See the module.
pub struct Producer {
    options: ProducerOptions,
    line: Line,
    topic: Option<TopicRef>,
    /// The only partition of an idempotent producer.
    partition: i32,
    id: Option<i64>,
    id_asked: Option<i32>,
    next_sequence: i32,
    order: u64,
    unacknowledged: VecDeque<InFlight>,
    /// Nothing is sent before this time.
    backoff_until_us: u64,
    /// When the timer that counts goes off.
    armed_us: Option<u64>,
}

impl Producer {
    /// A producer that has not begun.
    pub fn new(options: ProducerOptions) -> Producer {
        Producer {
            options,
            line: Line::Down,
            topic: None,
            partition: 0,
            id: None,
            id_asked: None,
            next_sequence: 0,
            order: 0,
            unacknowledged: VecDeque::new(),
            backoff_until_us: 0,
            armed_us: None,
        }
    }

    fn is_done(&self, context: &Context<'_>) -> bool {
        self.unacknowledged.is_empty() && (context.is_stopping || self.options.batches_left == 0)
    }

    /// Arms the timer, unless it goes off before that anyway.
    fn arm(&mut self, context: &mut Context<'_>, delay_us: u64) {
        let at_us = context.now.mono_us + delay_us;
        if self.armed_us.is_none_or(|armed_us| armed_us > at_us) {
            self.armed_us = Some(at_us);
            context.timer_us(delay_us);
        }
    }

    fn pump(&mut self, context: &mut Context<'_>) {
        if self.is_done(context) || context.now.mono_us < self.backoff_until_us {
            return;
        }
        if self.line != Line::Up {
            if self.line == Line::Down {
                self.connect(context);
            }
            return;
        }
        if !self.choose_topic(context) {
            return;
        }
        if self.options.is_idempotent && self.id.is_none() {
            if self.id_asked.is_none() {
                let request =
                    InitProducerIdRequestData { producer_id: -1, producer_epoch: -1, ..Default::default() };
                self.id_asked = Some(context.send(4, &Request::InitProducerId(request)));
            }
            return;
        }
        let may_begin = !context.is_stopping && self.options.batches_left > 0;
        if may_begin && self.unacknowledged.len() < self.options.window {
            self.options.batches_left -= 1;
            let in_flight = self.make_request(context);
            self.unacknowledged.push_back(in_flight);
        }
        self.send_unsent(context);
    }

    /// Looks for the leader of what is to be sent first.
    fn connect(&mut self, context: &mut Context<'_>) {
        self.line = Line::Opening;
        let unsent = self.unacknowledged.front().map_or(self.partition, |first| first.parts[0].partition);
        let target = match self.topic {
            Some(topic) => context.leader(topic, unsent),
            None => Target::Any,
        };
        context.connect(target);
    }

    /// Finds a topic to produce to; `false` when there is none now.
    fn choose_topic(&mut self, context: &mut Context<'_>) -> bool {
        if let Some(topic) = self.topic {
            if matches!(context.model.topic(topic).life, Life::Live | Life::Creating) {
                return true;
            }
            // What is in flight may still be answered, one way or the other; nobody counts on it.
            self.give_up(context);
        }
        let live = context.model.topics_in(Life::Live);
        if live.is_empty() || context.is_stopping {
            return false;
        }
        let topic = live[context.random.index(live.len())];
        self.topic = Some(topic);
        let partitions = context.model.topic(topic).partitions.len();
        self.partition = i32::try_from(context.random.index(partitions)).expect("few partitions");
        if context.nodes > 1 {
            // Whoever it is connected to was chosen for another partition.
            self.back_off(context);
            return false;
        }
        true
    }

    fn give_up(&mut self, context: &mut Context<'_>) {
        self.topic = None;
        self.id = None;
        self.id_asked = None;
        self.next_sequence = 0;
        if !self.unacknowledged.is_empty() {
            self.unacknowledged.clear();
            self.back_off(context);
        }
    }

    fn back_off(&mut self, context: &mut Context<'_>) {
        self.backoff_until_us = context.now.mono_us + BACKOFF_US;
        if self.line == Line::Up {
            self.line = Line::Down;
            context.disconnect();
        }
        self.arm(context, BACKOFF_US);
    }

    fn make_request(&mut self, context: &mut Context<'_>) -> InFlight {
        let topic = self.topic.expect("a topic was chosen");
        let partitions = i32::try_from(context.model.topic(topic).partitions.len()).expect("few partitions");
        let mut wanted = vec![self.partition];
        if !self.options.is_idempotent && context.random.percent(30) {
            wanted = (0..partitions).filter(|_| context.random.percent(60)).collect();
            if wanted.is_empty() {
                wanted.push(self.partition);
            }
        }
        let parts = wanted.into_iter().map(|partition| self.make_batch(context, topic, partition)).collect();
        InFlight { correlation_id: None, sent_us: 0, parts }
    }

    fn make_batch(&mut self, context: &mut Context<'_>, topic: TopicRef, partition: i32) -> Part {
        let producer = self.id.map(|id| ProducerFields { id, epoch: 0, base_sequence: self.next_sequence });
        let codec = if context.random.percent(20) { Codec::Lz4 } else { Codec::None };
        let mut builder = BatchBuilder::new(BatchOptions { producer, codec, ..BatchOptions::default() });
        let count = context.random.between(1, self.options.records_max);
        let mut uids = Vec::new();
        for _ in 0..count {
            let uid = context.model.next_uid();
            // Mostly the present, sometimes long ago.
            let age_ms = if context.random.percent(10) {
                context.random.below(10_000)
            } else {
                context.random.below(20)
            };
            let timestamp_ms = context.now.wall_ms - i64::try_from(age_ms).expect("it is small");
            let length = VALUE_HEAD_BYTES as u64 + context.random.below(self.options.value_bytes_max);
            let value = value_of(uid, usize::try_from(length).expect("it is small"));
            builder.append(timestamp_ms, Some(b"key"), Some(&value), &[]);
            self.order += 1;
            let sent = Sent {
                timestamp_ms,
                may_repeat: !self.options.is_idempotent,
                producer: (self.options.number, self.order),
                offset: None,
            };
            context.model.partition(topic, partition).sent.insert(uid, sent);
            uids.push(uid);
        }
        if self.id.is_some() {
            self.next_sequence += i32::try_from(count).expect("it is small");
        }
        Part { partition, uids, records: builder.build().freeze() }
    }

    fn send_unsent(&mut self, context: &mut Context<'_>) {
        let topic = self.topic.expect("a topic was chosen");
        let (acks, name) = (self.options.acks, context.model.topic(topic).name.clone());
        let id = context.model.topic(topic).id.expect("a live topic has an id");
        for in_flight in self.unacknowledged.iter_mut().filter(|in_flight| in_flight.correlation_id.is_none())
        {
            let partition_data = in_flight.parts.iter().map(|part| PartitionProduceData {
                index: part.partition,
                records: Some(part.records.clone()),
                ..Default::default()
            });
            let version = if context.random.percent(50) { 13 } else { 9 };
            let mut topic_data =
                TopicProduceData { partition_data: partition_data.collect(), ..Default::default() };
            match version {
                13 => topic_data.topic_id = kafka_uuid(id),
                _ => topic_data.name = kafka_string(&name),
            }
            let request = ProduceRequestData {
                acks,
                timeout_ms: 30_000,
                topic_data: vec![topic_data],
                ..Default::default()
            };
            in_flight.correlation_id = Some(context.send_produce(version, &request));
            in_flight.sent_us = context.now.mono_us;
        }
        if acks == 0 {
            self.unacknowledged.clear();
        }
    }

    fn on_produced(&mut self, context: &mut Context<'_>, correlation_id: i32, response: ProduceResponseData) {
        let Some(topic) = self.topic else { return };
        let Some(mut in_flight) = self.unacknowledged.pop_front() else { return };
        assert_eq!(in_flight.correlation_id, Some(correlation_id), "answers come in order");
        let mut answers = response.responses.into_iter().flat_map(|topic| topic.partition_responses);
        let mut is_refused = false;
        let (acks, node) = (self.options.acks, context.run.expect("an answer comes over a connection"));
        let sent_us = in_flight.sent_us;
        in_flight.parts.retain(|part| {
            let answer = answers.next().expect("every partition is answered");
            assert_eq!(answer.index, part.partition, "partitions are answered in order");
            let code = ErrorCode::from(answer.error_code);
            if code == ErrorCode::None {
                // In a cluster the only replica may be on its way to another node, and then neither commits alone.
                let is_committed = acks == -1 || context.nodes == 1;
                let at = (topic, part.partition);
                let id = context.model.topic(topic).id.expect("a live topic has an id");
                assert!(
                    acks != -1
                        || context.model.quorums.were_enough_since((node, id, part.partition), sent_us),
                    "{at:?}: a batch is acknowledged, though there were never enough replicas in sync since it was sent at \
                     {sent_us}"
                );
                context.model.on_acknowledged(at, node, answer.base_offset, &part.uids, is_committed);
                return false;
            }
            let number = self.options.number;
            assert!(
                is_retriable(code),
                "producer {number} is refused with {code:?}: {:?}",
                answer.error_message
            );
            is_refused = true;
            true
        });
        if is_refused {
            self.unacknowledged.push_front(in_flight);
            self.back_off(context);
        } else {
            let pause_us = context.random.below(self.options.pause_us + 1);
            self.arm(context, pause_us);
        }
    }
}

impl Actor for Producer {
    fn name(&self) -> String {
        format!("producer {:?} of topic {:?}", self.options, self.topic)
    }

    fn on_timer(&mut self, context: &mut Context<'_>) {
        if self.armed_us.is_some_and(|armed_us| armed_us > context.now.mono_us) {
            return;
        }
        self.armed_us = None;
        self.pump(context);
        if !self.is_done(context) {
            let pause_us = context.random.between(1, self.options.pause_us + 1);
            self.arm(context, pause_us.max(if self.topic.is_none() { 20_000 } else { 0 }));
        }
    }

    fn on_connected(&mut self, context: &mut Context<'_>) {
        self.line = Line::Up;
        self.pump(context);
    }

    fn on_disconnected(&mut self, context: &mut Context<'_>) {
        self.line = Line::Down;
        self.id_asked = None;
        self.unacknowledged.iter_mut().for_each(|in_flight| in_flight.correlation_id = None);
        self.backoff_until_us = self.backoff_until_us.max(context.now.mono_us + BACKOFF_US);
        self.arm(context, BACKOFF_US);
    }

    fn on_answer(&mut self, context: &mut Context<'_>, correlation_id: i32, answer: Answer) {
        match answer {
            Answer::Response(Response::InitProducerId(response)) => {
                if self.id_asked.take() != Some(correlation_id) {
                    return;
                }
                match ErrorCode::from(response.error_code) {
                    ErrorCode::None => {
                        let is_new = context.model.producer_ids.insert(response.producer_id);
                        assert!(is_new, "producer id {} is given out twice", response.producer_id);
                        self.id = Some(response.producer_id);
                    }
                    code if is_retriable(code) => self.back_off(context),
                    code => panic!("a producer id is refused with {code:?}"),
                }
                self.pump(context);
            }
            Answer::Response(Response::Produce(response)) => {
                self.on_produced(context, correlation_id, response)
            }
            other => panic!("a producer asked for no {other:?}"),
        }
    }

    fn is_idle(&self) -> bool {
        self.unacknowledged.is_empty()
    }
}
