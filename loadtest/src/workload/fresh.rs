//! Topics that are produced to as soon as CreateTopics has answered, by our own client: it hides nothing. What a client
//! library would try again without a word, because of an error that passes, is written down here. Only where leaders are is
//! asked again, as every client does, until the node that is asked has heard of them; how long that takes is written down too.

use std::collections::btree_map::Entry;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::Shared;
use crate::{
    clock::micros,
    history::{Operation, Outcome, TopicPartition},
    values,
    wire::{ClusterView, Connection, WireError},
};

const NAME: &str = "fresh";
const PARTITIONS: i32 = 6;
const RECORD_BYTES: usize = 100;
const LEADERS_SECONDS_MAX: u64 = 5;
/// As long as a client waits by default.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Makes `count` topics, each by one node, asks one node for their leaders, and produces to each partition with acks=all.
/// Every node has its turn with every other. `go_on` is asked in between.
///
/// # Errors
///
/// Those of `go_on`.
pub fn produce_to_fresh_topics<E>(
    shared: &Arc<Shared>,
    count: u64,
    mut go_on: impl FnMut() -> Result<(), E>,
) -> Result<(), E> {
    shared.recorder.ok(NAME, shared.recorder.clock.now_us(), Operation::Producer { idempotent: false });
    let nodes: Vec<_> = shared.directory.nodes().collect();
    let mut round = Round { shared, connections: BTreeMap::new(), sequence: 0 };
    // A scenario does this more than once.
    let begun_us = shared.recorder.clock.now_us();
    for number in 0..count as usize {
        go_on()?;
        let (made_by, asked) = (nodes[number % nodes.len()], nodes[number / nodes.len() % nodes.len()]);
        let topic = format!("fresh-{begun_us}-{number}");
        let start_us = shared.recorder.clock.now_us();
        let (known_us, errors) = match round.make_and_produce(&topic, made_by.1, asked.1) {
            Ok(made) => made,
            Err(error) => (0, vec![error.to_string()]),
        };
        let outcome = if errors.is_empty() { Outcome::Ok } else { Outcome::Fail };
        let (made_by, asked) = (made_by.0, asked.0);
        let operation = Operation::FreshTopic { topic, made_by, asked, known_us, errors };
        shared.recorder.record(NAME, start_us, outcome, operation, None);
    }
    Ok(())
}

struct Round<'a> {
    shared: &'a Shared,
    connections: BTreeMap<SocketAddr, Connection>,
    sequence: u64,
}

impl Round<'_> {
    fn connection(&mut self, address: SocketAddr) -> Result<&mut Connection, WireError> {
        Ok(match self.connections.entry(address) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Connection::open(address, TIMEOUT)?),
        })
    }

    /// How long after the first question the leaders were known, and what was not as it should be.
    fn make_and_produce(
        &mut self,
        topic: &str,
        made_by: SocketAddr,
        asked: SocketAddr,
    ) -> Result<(u64, Vec<String>), WireError> {
        let replication = self.shared.plan.replication;
        let start_us = self.shared.recorder.clock.now_us();
        self.connection(made_by)?.create_topic(topic, PARTITIONS, replication, TIMEOUT)?;
        let created = Operation::CreateTopic { topic: topic.to_owned(), partitions: PARTITIONS };
        self.shared.recorder.ok(NAME, start_us, created);
        let (known_us, view) = self.await_leaders(topic, asked)?;
        let mut errors = Vec::new();
        for partition in 0..PARTITIONS {
            let at = TopicPartition::new(topic, partition);
            if let Err(error) = self.produce(&view, &at) {
                errors.push(format!("{at}: {error}"));
            }
        }
        Ok((known_us, errors))
    }

    /// Until a node knows all leaders of a topic, or has had its time: 0 if it knows them at once.
    fn await_leaders(&mut self, topic: &str, asked: SocketAddr) -> Result<(u64, ClusterView), WireError> {
        let asked_at = Instant::now();
        let mut known_us = 0;
        loop {
            let view = self.connection(asked)?.metadata()?;
            let partitions = view.partitions.iter().filter(|partition| partition.at.topic == topic);
            let led = partitions.filter(|partition| partition.leader >= 0).count();
            if led == PARTITIONS as usize || asked_at.elapsed().as_secs() >= LEADERS_SECONDS_MAX {
                return Ok((known_us, view));
            }
            thread::sleep(Duration::from_millis(1));
            known_us = micros(asked_at.elapsed());
        }
    }

    fn produce(&mut self, view: &ClusterView, at: &TopicPartition) -> Result<(), WireError> {
        let known = view.partitions.iter().find(|partition| partition.at == *at);
        let known =
            known.ok_or(WireError::Malformed("the node that was asked does not know the partition"))?;
        let leader = self.shared.directory.address(known.leader);
        let leader = leader.ok_or(WireError::Malformed("the node that was asked knows no leader"))?;
        let sequence = self.sequence;
        self.sequence += 1;
        let value = values::encode(NAME, sequence, RECORD_BYTES);
        let start_us = self.shared.recorder.clock.now_us();
        let produced = self.connection(leader)?.produce(at, &value, TIMEOUT);
        let operation = Operation::Send { at: at.clone(), sequence, offset: produced.as_ref().ok().copied() };
        self.shared.recorder.answer(NAME, start_us, produced.as_ref(), operation);
        produced.map(drop)
    }
}
