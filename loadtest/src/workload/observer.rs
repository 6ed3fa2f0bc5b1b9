//! Looks at every replica of the load topic the way a consumer near it does, and writes down its watermarks.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use super::{Shared, producer::wait};
use crate::{
    cluster::ANSWER_TIMEOUT,
    error::LoadtestError,
    history::{Operation, TopicPartition},
    wire::{Connection, Fetched, WireError},
};

const NAME: &str = "observer";
const PAUSE: Duration = Duration::from_millis(250);
const BYTES_MAX: i32 = 1;
const OFFSET_OUT_OF_RANGE: i16 = 1;

/// What a replica showed last.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    incarnation: u64,
    leader_epoch: i32,
    fetched: Fetched,
}

type Replica = (i32, TopicPartition);

/// Observes until the run stops.
pub fn run(shared: &Arc<Shared>) -> Result<(), LoadtestError> {
    let mut connections = BTreeMap::new();
    let mut last = BTreeMap::new();
    while !shared.is_stopping() {
        for (node, address) in shared.directory.nodes() {
            // A node that does not answer is asked again next time; faults are to be expected.
            let _ = observe(shared, node, address, &mut connections, &mut last);
        }
        wait(shared, PAUSE);
    }
    Ok(())
}

fn observe(
    shared: &Shared,
    node: i32,
    address: SocketAddr,
    connections: &mut BTreeMap<i32, Connection>,
    last: &mut BTreeMap<Replica, Shown>,
) -> Result<(), WireError> {
    let incarnation = shared.directory.incarnation(node);
    // It is put back only if all its answers were whole.
    let mut connection = match connections.remove(&node) {
        Some(connection) => connection,
        None => Connection::open(address, ANSWER_TIMEOUT)?,
    };
    let view = connection.metadata()?;
    for at in shared.load_partitions() {
        let Some(partition) = view.partitions.iter().find(|partition| partition.at == at) else { continue };
        let replica = (node, at);
        // From the end that it showed last: what it has is not wanted, only how far it goes.
        let offset = last.get(&replica).map_or(0, |shown| shown.fetched.high_watermark);
        let start_us = shared.recorder.clock.now_us();
        let answer = match connection.fetch(&replica.1, offset, BYTES_MAX) {
            // It has not come as far again after a restart, or it went back.
            Err(WireError::Code(OFFSET_OUT_OF_RANGE)) => connection.fetch(&replica.1, 0, BYTES_MAX),
            answer => answer,
        };
        let fetched = match answer {
            Ok(fetched) => Fetched { batches: Vec::new(), ..fetched },
            // Not a replica, or not yet ready.
            Err(WireError::Code(_)) => continue,
            Err(error) => return Err(error),
        };
        if shared.directory.incarnation(node) != incarnation {
            return Ok(());
        }
        let shown = Shown { incarnation, leader_epoch: partition.leader_epoch, fetched };
        note(shared, start_us, &replica, &shown, last.get(&replica));
        last.insert(replica, shown);
    }
    connections.insert(node, connection);
    Ok(())
}

/// Writes down what changed. What is seen first under a new leader is not written down: a node knows of the leader
/// before its replica has heard from it.
fn note(shared: &Shared, start_us: u64, replica: &Replica, shown: &Shown, before: Option<&Shown>) {
    let is_new = before.is_none_or(|before| before.leader_epoch != shown.leader_epoch);
    if is_new || before == Some(shown) {
        return;
    }
    let operation = Operation::Watermarks {
        node: replica.0,
        incarnation: shown.incarnation,
        leader_epoch: shown.leader_epoch,
        at: replica.1.clone(),
        log_start: shown.fetched.log_start,
        last_stable: shown.fetched.last_stable,
        high_watermark: shown.fetched.high_watermark,
    };
    shared.recorder.ok(NAME, start_us, operation);
}
