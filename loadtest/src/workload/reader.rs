//! Consumers by assignment: they read all partitions of the load topic, and go back now and then.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{Shared, client_error, describe};
use crate::{
    error::LoadtestError,
    history::{Operation, Outcome, Recorder, TopicPartition, Value},
    values,
};

/// How long a reader keeps an assignment.
const SESSION_SECONDS: std::ops::Range<u64> = 5..25;
/// Records of one partition that are written down together.
const RECORDS_PER_LINE_MAX: usize = 200;
const LINE_SECONDS_MAX: Duration = Duration::from_millis(200);

/// Collects records until they are worth a line.
#[derive(Debug)]
pub struct Collector<'a> {
    recorder: &'a Recorder,
    process: &'a str,
    since_us: u64,
    collected: BTreeMap<TopicPartition, Vec<(i64, Value)>>,
}

impl<'a> Collector<'a> {
    /// Nothing collected.
    pub fn new(recorder: &'a Recorder, process: &'a str) -> Collector<'a> {
        Collector { recorder, process, since_us: recorder.clock.now_us(), collected: BTreeMap::new() }
    }

    /// A record was handed out.
    pub fn collect(
        &mut self,
        message: &impl Message,
        line: fn(TopicPartition, Vec<(i64, Value)>) -> Operation,
    ) {
        let at = TopicPartition::new(message.topic(), message.partition());
        let Some(value) = message.payload().and_then(values::decode) else {
            let operation = Operation::Corrupt { at, offset: message.offset() };
            self.recorder.ok(self.process, self.since_us, operation);
            return;
        };
        let records = self.collected.entry(at.clone()).or_default();
        records.push((message.offset(), value));
        if records.len() >= RECORDS_PER_LINE_MAX {
            let records = std::mem::take(records);
            self.recorder.ok(self.process, self.since_us, line(at, records));
        }
    }

    /// Writes down what was collected if it is old enough, or at once.
    pub fn write(&mut self, at_once: bool, line: fn(TopicPartition, Vec<(i64, Value)>) -> Operation) {
        let age = Duration::from_micros(self.recorder.clock.now_us() - self.since_us);
        if !at_once && age < LINE_SECONDS_MAX {
            return;
        }
        for (at, records) in std::mem::take(&mut self.collected) {
            if !records.is_empty() {
                self.recorder.ok(self.process, self.since_us, line(at, records));
            }
        }
        self.since_us = self.recorder.clock.now_us();
    }
}

/// A line of a consumer.
pub fn poll_line(at: TopicPartition, records: Vec<(i64, Value)>) -> Operation {
    Operation::Poll { at, records }
}

/// Reads until the run stops.
pub fn run(shared: &Arc<Shared>, name: &str, number: u64) -> Result<(), LoadtestError> {
    let consumer: BaseConsumer = shared
        .client()
        .set("group.id", name)
        .set("enable.auto.commit", "false")
        // A reader only ever asks for what it knows to exist.
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        .set("fetch.error.backoff.ms", "20")
        .set("queued.max.messages.kbytes", "16384")
        .create()
        .map_err(client_error("creating a consumer"))?;
    let mut chance = fastrand::Rng::with_seed(shared.plan.seed.wrapping_add(number));
    let mut positions: BTreeMap<TopicPartition, i64> = shared.load_partitions().map(|at| (at, 0)).collect();
    while !shared.is_stopping() {
        assign(shared, name, &consumer, &mut positions, &mut chance)?;
        let session = Duration::from_secs(chance.u64(SESSION_SECONDS));
        read_session(shared, name, &consumer, &mut positions, Instant::now() + session);
    }
    Ok(())
}

/// Goes on where it stood in most partitions, and goes back in some.
fn assign(
    shared: &Shared,
    name: &str,
    consumer: &BaseConsumer,
    positions: &mut BTreeMap<TopicPartition, i64>,
    chance: &mut fastrand::Rng,
) -> Result<(), LoadtestError> {
    let mut list = TopicPartitionList::new();
    for (at, position) in positions {
        if chance.u32(0..4) == 0 {
            *position = chance.i64((*position - 20_000).max(0)..=*position);
        }
        list.add_partition_offset(&at.topic, at.partition, Offset::Offset(*position))
            .map_err(client_error("choosing an offset"))?;
        let operation = Operation::Assign { at: at.clone(), offset: *position };
        shared.recorder.ok(name, shared.recorder.clock.now_us(), operation);
    }
    consumer.assign(&list).map_err(client_error("assigning partitions"))
}

fn read_session(
    shared: &Shared,
    name: &str,
    consumer: &BaseConsumer,
    positions: &mut BTreeMap<TopicPartition, i64>,
    until: Instant,
) {
    let mut collector = Collector::new(&shared.recorder, name);
    while !shared.is_stopping() && Instant::now() < until {
        match consumer.poll(Duration::from_millis(50)) {
            None => {}
            Some(Ok(message)) => {
                let at = TopicPartition::new(message.topic(), message.partition());
                positions.insert(at, message.offset() + 1);
                collector.collect(&message, poll_line);
            }
            Some(Err(error)) if is_reset(&error) => {
                let start_us = shared.recorder.clock.now_us();
                shared.recorder.record(
                    name,
                    start_us,
                    Outcome::Fail,
                    Operation::Reset,
                    Some(describe(&error)),
                );
            }
            // Brokers that are away: what faults are for.
            Some(Err(_)) => {}
        }
        collector.write(false, poll_line);
    }
    collector.write(true, poll_line);
}

fn is_reset(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)
    )
}
