//! The end of a run: everything is healed, a fresh consumer reads every partition, and every replica is read.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};

use crate::{
    cluster::ANSWER_TIMEOUT,
    error::LoadtestError,
    history::{BatchSummary, Operation, Outcome, TopicPartition},
    wire::{ClusterView, Connection, Fetched, PartitionView, WireError},
    workload::{Collector, Shared, record_committed},
};

/// The process under which the last reads are written down.
const NAME: &str = "read-back";
const AGREEMENT_SECONDS_MAX: u64 = 60;
const SETTLE_SECONDS_MAX: u64 = 60;
const DRAIN_SECONDS_MAX: u64 = 300;
const COMMITTED_SECONDS_MAX: u64 = 60;
const REPLICA_FETCH_BYTES: i32 = 1 << 20;
/// Look-ups by time in one partition.
const TIMES_MAX: usize = 24;
const PAUSE: Duration = Duration::from_millis(50);

/// First offset and end.
type Bounds = (i64, i64);

/// Reads everything back into the history.
///
/// # Errors
///
/// [`LoadtestError::NotReady`] when partitions have no leaders or nodes disagree about them, and what keeps the reader from working. That the
/// read-back is incomplete is no error: the checker says what is missing.
pub fn run(shared: &Shared) -> Result<(), LoadtestError> {
    let view = agreed_view(shared)?;
    record_topics(shared, &view);
    let bounds = settle(shared, &view);
    drain(shared, &bounds)?;
    let looks = read_replicas(shared, &view, &bounds);
    look_up(shared, &view, &looks);
    let deadline = Instant::now() + Duration::from_secs(COMMITTED_SECONDS_MAX);
    while !record_committed(shared, NAME)? && Instant::now() < deadline {
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// What all nodes say, once they say the same and every partition has a leader.
fn agreed_view(shared: &Shared) -> Result<ClusterView, LoadtestError> {
    let deadline = Instant::now() + Duration::from_secs(AGREEMENT_SECONDS_MAX);
    loop {
        let views = shared.directory.nodes().map(|(node, _)| shared.directory.view(|id| id == node));
        let why = match views.collect::<Result<Vec<_>, _>>() {
            Ok(views) => match disagreement(&views) {
                None => return Ok(views.into_iter().next().expect("there is a node")),
                Some(why) => why,
            },
            Err(error) => error.to_string(),
        };
        if Instant::now() > deadline {
            return Err(LoadtestError::NotReady { seconds: AGREEMENT_SECONDS_MAX, why });
        }
        thread::sleep(PAUSE);
    }
}

fn disagreement(views: &[ClusterView]) -> Option<String> {
    let summary = |view: &ClusterView| -> BTreeMap<TopicPartition, (i32, Vec<i32>)> {
        user_partitions(view)
            .map(|partition| (partition.at.clone(), (partition.leader, partition.replicas.clone())))
            .collect()
    };
    let first = summary(&views[0]);
    if let Some((at, _)) = first.iter().find(|(_, (leader, _))| *leader < 0) {
        return Some(format!("{at} has no leader"));
    }
    views[1..].iter().map(summary).find(|other| *other != first).map(|other| {
        let known = |at: &TopicPartition| (first.get(at).cloned(), other.get(at).cloned());
        let different = first.keys().chain(other.keys()).find(|&at| known(at).0 != known(at).1);
        format!("nodes disagree about {different:?} (leader, replicas): {:?}", different.map(known))
    })
}

fn user_partitions(view: &ClusterView) -> impl Iterator<Item = &PartitionView> {
    view.partitions.iter().filter(|partition| !partition.is_internal && !partition.at.topic.starts_with("__"))
}

fn record_topics(shared: &Shared, view: &ClusterView) {
    let now_us = shared.recorder.clock.now_us();
    let mut topics: Vec<_> = user_partitions(view).map(|partition| partition.at.topic.clone()).collect();
    topics.sort();
    topics.dedup();
    shared.recorder.ok(NAME, now_us, Operation::Topics { topics });
    for partition in user_partitions(view) {
        let operation = Operation::Replicas { at: partition.at.clone(), nodes: partition.replicas.clone() };
        shared.recorder.ok(NAME, now_us, operation);
    }
}

/// Waits until all replicas of each partition show the same high watermark, or until their time is over. Returns the
/// highest that each partition shows.
fn settle(shared: &Shared, view: &ClusterView) -> BTreeMap<TopicPartition, Bounds> {
    let deadline = Instant::now() + Duration::from_secs(SETTLE_SECONDS_MAX);
    let mut bounds = BTreeMap::new();
    for partition in user_partitions(view) {
        loop {
            let seen: Vec<_> = partition
                .replicas
                .iter()
                .filter_map(|&node| shared.directory.address(node))
                .filter_map(|address| fetch(address, &partition.at, 0).ok())
                .collect();
            let ends = || seen.iter().map(|fetched| fetched.high_watermark);
            let (lowest, highest) = (ends().min().unwrap_or(0), ends().max().unwrap_or(0));
            let is_settled = seen.len() == partition.replicas.len() && lowest == highest;
            if is_settled || Instant::now() > deadline {
                let log_start = seen.iter().map(|fetched| fetched.log_start).min().unwrap_or(0);
                bounds.insert(partition.at.clone(), (log_start, highest));
                break;
            }
            thread::sleep(PAUSE);
        }
    }
    bounds
}

fn fetch(address: SocketAddr, at: &TopicPartition, offset: i64) -> Result<Fetched, WireError> {
    Connection::open(address, ANSWER_TIMEOUT)?.fetch(at, offset, 1)
}

/// A fresh consumer reads all partitions by assignment.
fn drain(shared: &Shared, bounds: &BTreeMap<TopicPartition, Bounds>) -> Result<(), LoadtestError> {
    let start_us = shared.recorder.clock.now_us();
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| LoadtestError::Client { what, source }
    };
    let consumer: BaseConsumer = shared
        .client()
        .set("group.id", NAME)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        .set("fetch.error.backoff.ms", "20")
        .create()
        .map_err(failed("creating the last reader"))?;
    let mut list = TopicPartitionList::new();
    for (at, &(log_start, end)) in bounds {
        if log_start < end {
            list.add_partition_offset(&at.topic, at.partition, Offset::Offset(log_start))
                .map_err(failed("choosing an offset"))?;
        }
    }
    consumer.assign(&list).map_err(failed("assigning partitions"))?;
    let mut missing: BTreeMap<&TopicPartition, Bounds> = bounds
        .iter()
        .filter(|(_, (log_start, end))| log_start < end)
        .map(|(at, &bounds)| (at, bounds))
        .collect();
    let line = |at, records| Operation::Drain { at, records };
    let mut collector = Collector::new(&shared.recorder, NAME);
    let deadline = Instant::now() + Duration::from_secs(DRAIN_SECONDS_MAX);
    while !missing.is_empty() && Instant::now() < deadline {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) else { continue };
        let at = TopicPartition::new(message.topic(), message.partition());
        collector.collect(&message, line);
        if missing.get(&at).is_some_and(|&(_, end)| message.offset() + 1 >= end) {
            missing.remove(&at);
        }
    }
    collector.write(true, line);
    for (at, &(log_start, end)) in bounds {
        let outcome = if missing.contains_key(at) { Outcome::Info } else { Outcome::Ok };
        let operation = Operation::Drained { at: at.clone(), log_start, end };
        shared.recorder.record(NAME, start_us, outcome, operation, None);
    }
    Ok(())
}

/// Times and epochs of a partition that are worth a look-up.
#[derive(Debug, Default)]
struct Looks {
    timestamps_ms: BTreeSet<i64>,
    epochs: BTreeSet<i32>,
}

impl Looks {
    fn add(&mut self, batch: &BatchSummary) {
        self.epochs.insert(batch.leader_epoch);
        // Also what is just not there, and before or behind everything.
        let wanted = [batch.timestamp_ms_max, batch.timestamp_ms_max + 1, 0, i64::MAX / 2];
        for timestamp_ms in wanted.into_iter().take(TIMES_MAX - self.timestamps_ms.len().min(TIMES_MAX)) {
            self.timestamps_ms.insert(timestamp_ms);
        }
    }
}

fn read_replicas(
    shared: &Shared,
    view: &ClusterView,
    bounds: &BTreeMap<TopicPartition, Bounds>,
) -> BTreeMap<TopicPartition, Looks> {
    let mut looks: BTreeMap<TopicPartition, Looks> = BTreeMap::new();
    for partition in user_partitions(view) {
        let (log_start, end) = bounds[&partition.at];
        let looks = looks.entry(partition.at.clone()).or_default();
        for &node in &partition.replicas {
            let start_us = shared.recorder.clock.now_us();
            let mut reached = (log_start, log_start);
            let result = read_replica(shared, node, &partition.at, end, &mut reached, looks);
            let outcome = if result.is_ok() { Outcome::Ok } else { Outcome::Info };
            let operation = Operation::ReplicaRead {
                node,
                at: partition.at.clone(),
                log_start: reached.0,
                end: reached.1,
            };
            let error = result.err().map(|error| error.to_string());
            shared.recorder.record(NAME, start_us, outcome, operation, error);
        }
    }
    looks
}

/// Reads one replica up to `end`; `reached` says from where to where.
fn read_replica(
    shared: &Shared,
    node: i32,
    at: &TopicPartition,
    end: i64,
    reached: &mut Bounds,
    looks: &mut Looks,
) -> Result<(), WireError> {
    let mut connection = connect(shared, node)?;
    while reached.1 < end {
        let start_us = shared.recorder.clock.now_us();
        let fetched = connection.fetch(at, reached.1, REPLICA_FETCH_BYTES)?;
        reached.0 = reached.0.max(fetched.log_start);
        let (Some(first), Some(last)) = (fetched.batches.first(), fetched.batches.last()) else {
            return Err(WireError::Malformed("it is empty below the high watermark"));
        };
        if last.last_offset < reached.1 {
            return Err(WireError::Malformed("its batches lie below the offset that was asked for"));
        }
        looks.add(first);
        reached.1 = last.last_offset + 1;
        let operation = Operation::Replica { node, at: at.clone(), batches: fetched.batches };
        shared.recorder.ok(NAME, start_us, operation);
    }
    Ok(())
}

fn connect(shared: &Shared, node: i32) -> Result<Connection, WireError> {
    let address =
        shared.directory.address(node).ok_or(WireError::Malformed("a replica is on an unknown node"))?;
    Connection::open(address, ANSWER_TIMEOUT)
}

/// Asks each partition's leader for times and epochs. An answer that does not come is `info`.
fn look_up(shared: &Shared, view: &ClusterView, looks: &BTreeMap<TopicPartition, Looks>) {
    for partition in user_partitions(view) {
        let at = &partition.at;
        let Some(Looks { timestamps_ms, epochs }) = looks.get(at) else { continue };
        // A leader that is away shows in the replicas that could not be read.
        let Ok(mut connection) = connect(shared, partition.leader) else { continue };
        for &timestamp_ms in timestamps_ms {
            let start_us = shared.recorder.clock.now_us();
            let answer = connection.offset_at(at, timestamp_ms);
            let offset = answer.as_ref().ok().copied().flatten();
            let operation = Operation::TimeLookUp { at: at.clone(), timestamp_ms, offset };
            shared.recorder.answer(NAME, start_us, answer, operation);
        }
        for &epoch in epochs {
            let start_us = shared.recorder.clock.now_us();
            let answer = connection.epoch_end(at, epoch);
            let offset = answer.as_ref().copied().unwrap_or(-1);
            let operation = Operation::EpochLookUp { at: at.clone(), epoch, offset };
            shared.recorder.answer(NAME, start_us, answer, operation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(leader: i32, replicas: &[i32]) -> ClusterView {
        let partition = PartitionView {
            at: TopicPartition::new("load", 0),
            is_internal: false,
            leader,
            leader_epoch: 1,
            replicas: replicas.to_vec(),
            in_sync: Vec::new(),
        };
        ClusterView { nodes: vec![1, 2], controller: 1, partitions: vec![partition] }
    }

    #[test]
    fn nodes_agree_when_leaders_and_replicas_are_the_same() {
        assert_eq!(disagreement(&[view(1, &[1, 2]), view(1, &[1, 2])]), None);
        assert!(disagreement(&[view(-1, &[1, 2]), view(-1, &[1, 2])]).is_some());
        assert!(disagreement(&[view(1, &[1, 2]), view(2, &[1, 2])]).is_some());
        assert!(disagreement(&[view(1, &[1, 2]), view(1, &[1])]).is_some());
        let mut unaware = view(1, &[1, 2]);
        unaware.partitions.clear();
        assert!(disagreement(&[view(1, &[1, 2]), unaware.clone()]).is_some());
        assert!(disagreement(&[unaware, view(1, &[1, 2])]).is_some());
    }
}
