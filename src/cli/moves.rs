//! Replicas that are to be elsewhere: how they are described to a planner, and how a plan is begun and waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use metadata::{PlacedPartition, PlanBroker};
use protocol::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequestData, ReassignablePartition, ReassignableTopic,
};
use protocol::messages::describe_configs_request::{DescribeConfigsRequestData, DescribeConfigsResource};
use protocol::messages::kafka_string;
use protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsRequestData;
use types::{NodeId, PartitionIndex};

use super::cluster::{self, Cluster, RETRY_TIME_MAX};
use super::connection::call;
use super::inspect::observed::{Node, Observed};
use super::output;
use crate::exit::Error;

const ALTER_PARTITION_REASSIGNMENTS_VERSION: i16 = 1;
const LIST_PARTITION_REASSIGNMENTS_VERSION: i16 = 0;
const DESCRIBE_CONFIGS_VERSION: i16 = 4;

/// The broker configuration that says that a node is to be emptied, and DescribeConfigs' number for brokers.
pub const DRAINING: &str = "broker.draining";
pub const BROKER_RESOURCE: i8 = 4;

/// How long a decision may take to be committed, milliseconds.
const CHANGE_TIME_MAX_MS: i32 = 30_000;

/// Partitions that move at once: what live traffic shares the disks and the network with.
const MOVING_MAX: usize = 100;

/// Between two looks at how far moves are.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// A partition by topic and number.
type Key = (String, i32);

fn key(partition: &PlacedPartition) -> Key {
    (partition.topic.clone(), partition.index.0)
}

/// Brokers and partitions as a planner takes them.
pub struct Placement {
    /// The registered nodes.
    pub brokers: Vec<PlanBroker>,
    /// All partitions, where they are to be in the end.
    pub partitions: Vec<PlacedPartition>,
}

impl Placement {
    /// Asks the cluster. A node that is not alive takes no replicas, as one that is drained.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being asked, and a topic that cannot be described.
    pub fn ask(cluster: &mut Cluster) -> Result<Placement, Error> {
        let observed = cluster.retry(Observed::ask)?;
        if let Some((topic, why)) = observed.undescribed.first() {
            return Err(Error::Command(format!("topic {topic} cannot be described: {why}")));
        }
        let moving = cluster.retry(ask_moving)?;
        let brokers = observed.nodes.iter().map(|node| plan_broker(cluster, node));
        let brokers = brokers.collect::<Result<_, Error>>()?;
        let partitions = observed.partitions.into_iter().map(|partition| {
            let leaving = moving.get(&(partition.topic.clone(), partition.index));
            let is_leaving = |node: &i32| leaving.is_some_and(|leaving| leaving.contains(node));
            PlacedPartition {
                replicas: partition
                    .replicas
                    .into_iter()
                    .filter(|node| !is_leaving(node))
                    .map(NodeId)
                    .collect(),
                topic: partition.topic,
                index: PartitionIndex(partition.index),
            }
        });
        Ok(Placement { brokers, partitions: partitions.collect() })
    }
}

fn plan_broker(cluster: &mut Cluster, node: &Node) -> Result<PlanBroker, Error> {
    let is_draining = !node.is_alive || cluster.retry(|cluster| is_draining(cluster, node.id))?;
    Ok(PlanBroker { node: NodeId(node.id), rack: node.rack.clone(), is_draining })
}

/// Whether a node is to be emptied. Only a node itself tells its configurations.
///
/// # Errors
///
/// Whatever keeps it from being asked.
pub fn is_draining(cluster: &mut Cluster, node: i32) -> Result<bool, Error> {
    let request = DescribeConfigsRequestData {
        resources: vec![DescribeConfigsResource {
            resource_type: BROKER_RESOURCE,
            resource_name: kafka_string(&node.to_string()),
            configuration_keys: Some(vec![kafka_string(DRAINING)]),
            ..DescribeConfigsResource::default()
        }],
        ..DescribeConfigsRequestData::default()
    };
    let response = call!(cluster.node(node)?, DescribeConfigs, DESCRIBE_CONFIGS_VERSION, request);
    let mut is_draining = false;
    for result in response.results {
        let message = result.error_message.as_ref().map(|message| message.as_str());
        cluster::check(result.error_code, message, || format!("configurations of node {node}"))?;
        let values = result.configs.iter().filter_map(|config| config.value.as_ref());
        is_draining |= values.into_iter().any(|value| value.as_str() == "true");
    }
    Ok(is_draining)
}

/// The partitions whose replicas move, each with the nodes that are to give it up.
fn ask_moving(cluster: &mut Cluster) -> Result<BTreeMap<Key, BTreeSet<i32>>, Error> {
    let request = ListPartitionReassignmentsRequestData {
        timeout_ms: CHANGE_TIME_MAX_MS,
        topics: None,
        ..ListPartitionReassignmentsRequestData::default()
    };
    let response =
        call!(cluster.any()?, ListPartitionReassignments, LIST_PARTITION_REASSIGNMENTS_VERSION, request);
    let message = response.error_message.as_ref().map(|message| message.as_str());
    cluster::check(response.error_code, message, || "list moving replicas".to_owned())?;
    let mut moving = BTreeMap::new();
    for topic in response.topics {
        for partition in topic.partitions {
            let added: BTreeSet<i32> = partition.adding_replicas.into_iter().collect();
            let leaving = partition.removing_replicas.into_iter().filter(|node| !added.contains(node));
            moving.insert((topic.name.to_string(), partition.partition_index), leaving.collect());
        }
    }
    Ok(moving)
}

/// Has the cluster carry out a plan, some partitions at a time, and tells on standard error how far it is.
///
/// # Errors
///
/// What is refused, and a partition that somebody else decided of. What was begun goes on all the same.
pub fn carry_out(cluster: &mut Cluster, plan: &[PlacedPartition]) -> Result<(), Error> {
    let mut arrived = 0;
    for batch in plan.chunks(MOVING_MAX) {
        cluster.retry(|cluster| begin(cluster, batch))?;
        wait(cluster, batch, |left| {
            let there = arrived + batch.len() - left;
            output::tell(format_args!("{there} of {} partitions are where they are to be", plan.len()));
        })?;
        arrived += batch.len();
    }
    Ok(())
}

/// Waits for moves that were decided before, by whomever: those away from a node, or all.
///
/// # Errors
///
/// Whatever keeps the cluster from being asked.
pub fn await_others(cluster: &mut Cluster, from: Option<i32>) -> Result<(), Error> {
    let mut told = 0;
    loop {
        let moving = cluster.retry(ask_moving)?;
        let is_awaited = |leaving: &&BTreeSet<i32>| from.is_none_or(|node| leaving.contains(&node));
        let left = moving.values().filter(is_awaited).count();
        if left == 0 {
            return Ok(());
        }
        if told != left {
            output::tell(format_args!("{left} partitions are moving since before"));
            told = left;
        }
        thread::sleep(LOOK_PAUSE);
    }
}

fn begin(cluster: &mut Cluster, batch: &[PlacedPartition]) -> Result<(), Error> {
    let mut by_topic: BTreeMap<&str, Vec<ReassignablePartition>> = BTreeMap::new();
    for PlacedPartition { topic, index, replicas } in batch {
        by_topic.entry(topic).or_default().push(ReassignablePartition {
            partition_index: index.0,
            replicas: Some(replicas.iter().map(|node| node.0).collect()),
            ..ReassignablePartition::default()
        });
    }
    let topics = by_topic.into_iter().map(|(name, partitions)| ReassignableTopic {
        name: kafka_string(name),
        partitions,
        ..ReassignableTopic::default()
    });
    let request = AlterPartitionReassignmentsRequestData {
        timeout_ms: CHANGE_TIME_MAX_MS,
        topics: topics.collect(),
        ..AlterPartitionReassignmentsRequestData::default()
    };
    let response =
        call!(cluster.any()?, AlterPartitionReassignments, ALTER_PARTITION_REASSIGNMENTS_VERSION, request);
    let message = response.error_message.as_ref().map(|message| message.as_str());
    cluster::check(response.error_code, message, || "move replicas".to_owned())?;
    for topic in response.responses {
        for partition in topic.partitions {
            let message = partition.error_message.as_ref().map(|message| message.as_str());
            let what = || format!("move replicas of {}-{}", topic.name, partition.partition_index);
            cluster::check(partition.error_code, message, what)?;
        }
    }
    Ok(())
}

/// Waits until partitions are where they are to be; those of topics that are gone are.
fn wait(cluster: &mut Cluster, batch: &[PlacedPartition], mut tell: impl FnMut(usize)) -> Result<(), Error> {
    let mut told = None;
    let mut moved_at = Instant::now();
    loop {
        let moving = cluster.retry(ask_moving)?;
        let places = cluster.retry(|cluster| ask_places(cluster, batch))?;
        let is_left = |partition: &&PlacedPartition| {
            let key = key(partition);
            let wanted: Vec<i32> = partition.replicas.iter().map(|node| node.0).collect();
            moving.contains_key(&key) || places.get(&key).is_some_and(|replicas| *replicas != wanted)
        };
        let left: Vec<&PlacedPartition> = batch.iter().filter(is_left).collect();
        if told.replace(left.len()) != Some(left.len()) {
            tell(left.len());
        }
        let Some(first) = left.first() else { return Ok(()) };
        // A broker may be asked that has not heard of the decision yet.
        if left.iter().any(|partition| moving.contains_key(&key(partition))) {
            moved_at = Instant::now();
        } else if moved_at.elapsed() > RETRY_TIME_MAX {
            let PlacedPartition { topic, index, .. } = first;
            return Err(Error::Command(format!(
                "{topic}-{index} neither moves nor is where it was to be: somebody else has decided otherwise"
            )));
        }
        thread::sleep(LOOK_PAUSE);
    }
}

/// The replicas of all partitions of the topics of a plan.
fn ask_places(cluster: &mut Cluster, batch: &[PlacedPartition]) -> Result<BTreeMap<Key, Vec<i32>>, Error> {
    let names: BTreeSet<&str> = batch.iter().map(|partition| partition.topic.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let metadata = cluster.metadata(Some(&names), false)?;
    let topics =
        metadata.topics.into_iter().filter_map(|topic| Some((topic.name?.to_string(), topic.partitions)));
    let partitions = topics.flat_map(|(name, partitions)| {
        partitions.into_iter().map(move |p| ((name.clone(), p.partition_index), p.replica_nodes))
    });
    Ok(partitions.collect())
}
