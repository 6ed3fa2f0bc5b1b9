//! A consumer group that commits what it has read, and a watcher that asks where the group stands.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList, bindings,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
};

use super::{
    Shared, client_error, describe,
    producer::wait,
    reader::{Collector, poll_line},
};
use crate::{
    cluster::ANSWER_TIMEOUT,
    error::LoadtestError,
    history::{Operation, Outcome, TopicPartition},
    wire::Connection,
};

/// The group's name.
pub const GROUP: &str = "loadtest-group";
/// How long a member stays before it leaves and comes back.
const STAY_SECONDS: std::ops::Range<u64> = 15..60;
const COMMIT_PAUSE: Duration = Duration::from_millis(500);
const WATCH_PAUSE: Duration = Duration::from_secs(1);
const OFFSETS_TIMEOUT: Duration = Duration::from_secs(5);

/// Counts the rebalances of a member, and writes down what they give it.
#[derive(Debug)]
struct Rebalances {
    count: AtomicU64,
    shared: Arc<Shared>,
    name: String,
}

impl ClientContext for Rebalances {}

impl ConsumerContext for Rebalances {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if let (Rebalance::Assign(list), Some(generation)) = (rebalance, generation(consumer)) {
            let elements = list.elements();
            let partitions =
                elements.iter().map(|element| TopicPartition::new(element.topic(), element.partition()));
            let operation =
                Operation::Assigned { group: GROUP.to_owned(), generation, partitions: partitions.collect() };
            self.shared.recorder.ok(&self.name, self.shared.recorder.clock.now_us(), operation);
        }
    }
}

/// The how manieth generation of its group a member is in; none when it is in none.
fn generation(consumer: &BaseConsumer<Rebalances>) -> Option<i32> {
    // SAFETY: the client lives as long as `consumer`. What is returned is ours, is read while it is there, and is
    // destroyed once.
    let generation = unsafe {
        let metadata = bindings::rd_kafka_consumer_group_metadata(consumer.client().native_ptr());
        if metadata.is_null() {
            return None;
        }
        let generation = bindings::rd_kafka_consumer_group_metadata_generation_id(metadata);
        bindings::rd_kafka_consumer_group_metadata_destroy(metadata);
        generation
    };
    Some(generation).filter(|&generation| generation >= 0)
}

/// A member that leaves and comes back until the run stops.
pub fn run_member(shared: &Arc<Shared>, name: &str, number: u64) -> Result<(), LoadtestError> {
    let mut chance = fastrand::Rng::with_seed(shared.plan.seed.wrapping_add(100 + number));
    while !shared.is_stopping() {
        let consumer: BaseConsumer<Rebalances> = shared
            .client()
            .set("group.id", GROUP)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "1000")
            .set("fetch.error.backoff.ms", "20")
            .create_with_context(Rebalances {
                count: AtomicU64::new(0),
                shared: Arc::clone(shared),
                name: name.to_owned(),
            })
            .map_err(client_error("creating a group member"))?;
        consumer.subscribe(&[&shared.plan.topic]).map_err(client_error("subscribing"))?;
        let stay = Duration::from_secs(chance.u64(STAY_SECONDS));
        member_session(shared, name, &consumer, Instant::now() + stay)?;
    }
    Ok(())
}

fn member_session(
    shared: &Shared,
    name: &str,
    consumer: &BaseConsumer<Rebalances>,
    until: Instant,
) -> Result<(), LoadtestError> {
    let rebalances = || consumer.client().context().count.load(Ordering::Relaxed);
    let mut collector = Collector::new(&shared.recorder, name);
    let mut positions: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    let mut seen_rebalances = rebalances();
    let mut commit_due = Instant::now() + COMMIT_PAUSE;
    while !shared.is_stopping() && Instant::now() < until {
        let polled = consumer.poll(Duration::from_millis(50));
        if rebalances() != seen_rebalances {
            // Positions of an earlier generation are no longer this member's to commit.
            seen_rebalances = rebalances();
            positions.clear();
        }
        if let Some(Ok(message)) = polled {
            let at = TopicPartition::new(message.topic(), message.partition());
            positions.insert(at, message.offset() + 1);
            collector.collect(&message, poll_line);
        }
        collector.write(false, poll_line);
        if Instant::now() >= commit_due {
            for (at, offset) in std::mem::take(&mut positions) {
                commit(shared, name, consumer, &at, offset)?;
            }
            commit_due = Instant::now() + COMMIT_PAUSE;
        }
    }
    collector.write(true, poll_line);
    Ok(())
}

/// One partition at a time: the client library reports one error for all of a call.
fn commit(
    shared: &Shared,
    name: &str,
    consumer: &BaseConsumer<Rebalances>,
    at: &TopicPartition,
    offset: i64,
) -> Result<(), LoadtestError> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&at.topic, at.partition, Offset::Offset(offset))
        .map_err(client_error("choosing an offset"))?;
    let start_us = shared.recorder.clock.now_us();
    let (outcome, error) = match consumer.commit(&list, CommitMode::Sync) {
        Ok(()) => (Outcome::Ok, None),
        // The client library retries by itself: an earlier attempt may have been taken.
        Err(error) => (Outcome::Info, Some(describe(&error))),
    };
    let operation = Operation::Commit { group: GROUP.to_owned(), at: at.clone(), offset };
    shared.recorder.record(name, start_us, outcome, operation, error);
    Ok(())
}

/// Asks where the group stands until the run stops, without being a member.
pub fn run_watcher(shared: &Arc<Shared>) -> Result<(), LoadtestError> {
    while !shared.is_stopping() {
        // An answer that does not come shows in the history's other lines.
        record_committed(shared, "group-offsets")?;
        commit_as_nobody(shared, "group-offsets");
        wait(shared, WATCH_PAUSE);
    }
    Ok(())
}

/// Somebody who is no member, of a generation that is over, tries to set the group back.
fn commit_as_nobody(shared: &Shared, process: &str) {
    const MEMBER: &str = "nobody";
    const GENERATION: i32 = 1;
    let Some(coordinator) = shared.directory.nodes().find_map(|(_, address)| {
        Connection::open(address, ANSWER_TIMEOUT)
            .and_then(|mut connection| connection.coordinator(GROUP))
            .ok()
    }) else {
        return;
    };
    let Some(address) = shared.directory.address(coordinator) else { return };
    let at = TopicPartition::new(&shared.plan.topic, 0);
    let start_us = shared.recorder.clock.now_us();
    let answer = Connection::open(address, ANSWER_TIMEOUT)
        .and_then(|mut connection| connection.commit(GROUP, GENERATION, MEMBER, &at, 0));
    shared.recorder.answer(process, start_us, answer, Operation::ForeignCommit { group: GROUP.to_owned() });
}

/// Asks once and writes the answer down; false when there was none.
///
/// # Errors
///
/// [`LoadtestError::Client`] when the client cannot be made.
pub fn record_committed(shared: &Shared, process: &str) -> Result<bool, LoadtestError> {
    // A client of its own for each question, so that the answer is never one that it remembers.
    let consumer: BaseConsumer = shared
        .client()
        .set("group.id", GROUP)
        .create()
        .map_err(client_error("creating a watcher of the group"))?;
    let mut list = TopicPartitionList::new();
    list.add_partition_range(&shared.plan.topic, 0, shared.plan.partitions - 1);
    let start_us = shared.recorder.clock.now_us();
    let Ok(answer) = consumer.committed_offsets(list, OFFSETS_TIMEOUT) else { return Ok(false) };
    let mut is_complete = true;
    for element in answer.elements() {
        if element.error().is_err() {
            is_complete = false;
            continue;
        }
        let offset = match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        let at = TopicPartition::new(element.topic(), element.partition());
        shared.recorder.ok(process, start_us, Operation::Committed { group: GROUP.to_owned(), at, offset });
    }
    Ok(is_complete)
}
