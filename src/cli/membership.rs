//! `cluster`: nodes that come and go, and replicas that move because of it.

use metadata::{MetadataError, PlacedPartition, plan_drain, plan_rebalance};
use protocol::ErrorCode;
use protocol::messages::add_raft_voter_request::{AddRaftVoterRequestData, Listener};
use protocol::messages::describe_quorum_request::{DescribeQuorumRequestData, PartitionData, TopicData};
use protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequestData,
};
use protocol::messages::kafka_string;
use protocol::messages::remove_raft_voter_request::RemoveRaftVoterRequestData;
use protocol::messages::unregister_broker_request::UnregisterBrokerRequestData;
use serde::Serialize;
use types::NodeId;

use super::cluster::{self, Cluster};
use super::connection::call;
use super::inspect::{self, Report, table::Table};
use super::moves::{self, BROKER_RESOURCE, DRAINING, Placement};
use crate::address::host_and_port;
use crate::exit::Error;
use crate::options::{ClusterChange, Options, OutputFormat};
use crate::peers;

const DESCRIBE_QUORUM_VERSION: i16 = 2;
const ADD_RAFT_VOTER_VERSION: i16 = 1;
const REMOVE_RAFT_VOTER_VERSION: i16 = 0;
const UNREGISTER_BROKER_VERSION: i16 = 0;
const INCREMENTAL_ALTER_CONFIGS_VERSION: i16 = 1;

/// How long a change may take, milliseconds.
const CHANGE_TIME_MAX_MS: i32 = 30_000;

/// IncrementalAlterConfigs' number for setting a value.
const SET: i8 = 0;

/// Runs one of the commands.
///
/// # Errors
///
/// Whatever the cluster refuses, and whatever keeps it from being asked.
pub fn run(options: &Options, output: OutputFormat, change: &ClusterChange) -> Result<(), Error> {
    let cluster = &mut Cluster::connect(options)?;
    match change {
        ClusterChange::AddNode { node } => {
            let added = add_node(cluster, *node, &raft_address(options)?)?;
            inspect::print(&added, output);
        }
        ClusterChange::ReplaceNode { node } => {
            let added = replace_node(cluster, *node, &raft_address(options)?)?;
            inspect::print(&added, output);
        }
        ClusterChange::RemoveNode { node, drain } => {
            if *drain {
                inspect::print(&self::drain(cluster, *node)?, output);
            }
            inspect::print(&remove_node(cluster, *node)?, output);
        }
        ClusterChange::Drain { node } => inspect::print(&drain(cluster, *node)?, output),
        ClusterChange::Rebalance { dry_run } => inspect::print(&rebalance(cluster, *dry_run)?, output),
    }
    Ok(())
}

/// Where the other nodes are to reach a node.
fn raft_address(options: &Options) -> Result<(String, u16), Error> {
    let Some(address) = &options.raft_addr else {
        let message = "say where the other nodes reach this one: --raft-addr HOST:PORT";
        return Err(Error::Usage(message.to_owned()));
    };
    peers::host_and_port(address)
        .filter(|(_, port)| *port > 0)
        .ok_or_else(|| Error::Usage(format!("--raft-addr {address:?} is not HOST:PORT")))
}

/// A node that may join.
#[derive(Debug, Serialize)]
struct Added {
    node: i32,
    raft_address: String,
    /// The others, as its `--peers`.
    peers: String,
}

impl Report for Added {
    fn text(&self) -> String {
        let Added { node, raft_address, peers } = self;
        format!(
            "node {node} may join; the others look for it at {raft_address}. Start it with an empty data directory:\n  \
             chronik-server --node-id {node} raft-cluster --join --peers {peers:?}\n"
        )
    }
}

fn add_node(cluster: &mut Cluster, node: i32, (host, port): &(String, u16)) -> Result<Added, Error> {
    let request = AddRaftVoterRequestData {
        timeout_ms: CHANGE_TIME_MAX_MS,
        voter_id: node,
        listeners: vec![Listener {
            name: kafka_string("RAFT"),
            host: kafka_string(host),
            port: *port,
            ..Listener::default()
        }],
        ..AddRaftVoterRequestData::default()
    };
    let response = call!(cluster.any()?, AddRaftVoter, ADD_RAFT_VOTER_VERSION, request);
    let message = response.error_message.as_ref().map(|message| message.as_str());
    cluster::check(response.error_code, message, || format!("add node {node}"))?;
    let others = cluster.retry(ask_raft_addresses)?.into_iter().filter(|(other, _)| *other != node);
    let others: Vec<String> = others.map(|(node, address)| format!("{node}@{address}")).collect();
    Ok(Added { node, raft_address: host_and_port(host, *port), peers: others.join(",") })
}

/// The voters of the metadata group, and where nodes reach them.
fn ask_raft_addresses(cluster: &mut Cluster) -> Result<Vec<(i32, String)>, Error> {
    let request = DescribeQuorumRequestData {
        topics: vec![TopicData {
            topic_name: kafka_string("__cluster_metadata"),
            partitions: vec![PartitionData::default()],
            ..TopicData::default()
        }],
        ..DescribeQuorumRequestData::default()
    };
    let response = call!(cluster.any()?, DescribeQuorum, DESCRIBE_QUORUM_VERSION, request);
    let what = || "describe the metadata group".to_owned();
    cluster::check(response.error_code, None, what)?;
    for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
        cluster::check(partition.error_code, None, what)?;
    }
    let addresses = response.nodes.iter().filter_map(|node| {
        let listener = node.listeners.first()?;
        Some((node.node_id, host_and_port(listener.host.as_str(), listener.port)))
    });
    Ok(addresses.collect())
}

/// The node comes back with an empty data directory: what it promised with the former one, nobody counts on any more.
fn replace_node(cluster: &mut Cluster, node: i32, address: &(String, u16)) -> Result<Added, Error> {
    let described = cluster.describe()?;
    let found = described.brokers.iter().find(|broker| broker.broker_id == node);
    match found {
        None => return Err(Error::Command(format!("node {node} is not registered: add it with add-node"))),
        Some(broker) if !broker.is_fenced => {
            return Err(Error::Command(format!("node {node} is alive: stop it before it is replaced")));
        }
        Some(_) => {}
    }
    let request = RemoveRaftVoterRequestData { voter_id: node, ..RemoveRaftVoterRequestData::default() };
    let response = call!(cluster.any()?, RemoveRaftVoter, REMOVE_RAFT_VOTER_VERSION, request);
    // It is none where an attempt before this one got so far.
    if ErrorCode::from(response.error_code) != ErrorCode::VoterNotFound {
        let message = response.error_message.as_ref().map(|message| message.as_str());
        cluster::check(response.error_code, message, || format!("replace node {node}"))?;
    }
    add_node(cluster, node, address)
}

/// A node that is forgotten.
#[derive(Debug, Serialize)]
struct Removed {
    removed: i32,
}

impl Report for Removed {
    fn text(&self) -> String {
        format!("node {} is removed: stop it, its data directory is of no use any more\n", self.removed)
    }
}

fn remove_node(cluster: &mut Cluster, node: i32) -> Result<Removed, Error> {
    let request = UnregisterBrokerRequestData { broker_id: node, ..UnregisterBrokerRequestData::default() };
    let response = call!(cluster.any()?, UnregisterBroker, UNREGISTER_BROKER_VERSION, request);
    let message = response.error_message.as_ref().map(|message| message.as_str());
    cluster::check(response.error_code, message, || format!("remove node {node}"))?;
    Ok(Removed { removed: node })
}

/// A node that holds nothing and gets nothing.
#[derive(Debug, Serialize)]
struct Drained {
    drained: i32,
    partitions_moved: usize,
}

impl Report for Drained {
    fn text(&self) -> String {
        let Drained { drained, partitions_moved } = self;
        format!(
            "node {drained} holds nothing any more ({partitions_moved} partitions moved), and gets no new replicas: \
             {DRAINING}=true\n"
        )
    }
}

fn drain(cluster: &mut Cluster, node: i32) -> Result<Drained, Error> {
    cluster.retry(|cluster| set_draining(cluster, node))?;
    let mut partitions_moved = 0;
    loop {
        // What was placed there since the last look, by somebody who had not heard, moves too.
        let Placement { brokers, partitions } = Placement::ask(cluster)?;
        let plan = plan_drain(&brokers, &partitions, NodeId(node)).map_err(|error| refused(&error))?;
        if plan.is_empty() {
            // Moves that were decided before are to end too.
            moves::await_others(cluster, node)?;
            return Ok(Drained { drained: node, partitions_moved });
        }
        moves::carry_out(cluster, &plan)?;
        partitions_moved += plan.len();
    }
}

fn refused(error: &MetadataError) -> Error {
    Error::Command(error.to_string())
}

fn set_draining(cluster: &mut Cluster, node: i32) -> Result<(), Error> {
    let request = IncrementalAlterConfigsRequestData {
        resources: vec![AlterConfigsResource {
            resource_type: BROKER_RESOURCE,
            resource_name: kafka_string(&node.to_string()),
            configs: vec![AlterableConfig {
                name: kafka_string(DRAINING),
                config_operation: SET,
                value: Some(kafka_string("true")),
                ..AlterableConfig::default()
            }],
            ..AlterConfigsResource::default()
        }],
        ..IncrementalAlterConfigsRequestData::default()
    };
    let response = call!(cluster.any()?, IncrementalAlterConfigs, INCREMENTAL_ALTER_CONFIGS_VERSION, request);
    for result in response.responses {
        let message = result.error_message.as_ref().map(|message| message.as_str());
        cluster::check(result.error_code, message, || format!("drain node {node}"))?;
    }
    Ok(())
}

/// What a rebalance moves.
#[derive(Debug, Serialize)]
struct Rebalance {
    dry_run: bool,
    moves: Vec<MoveRow>,
}

#[derive(Debug, Serialize)]
struct MoveRow {
    topic: String,
    partition: i32,
    from: Vec<i32>,
    to: Vec<i32>,
}

impl Report for Rebalance {
    fn text(&self) -> String {
        if self.moves.is_empty() {
            return "replicas and leaders are spread evenly\n".to_owned();
        }
        let mut table = Table::new(&["topic", "partition", "from", "to"]);
        let list = |nodes: &[i32]| nodes.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
        for row in &self.moves {
            table.row([row.topic.clone(), row.partition.to_string(), list(&row.from), list(&row.to)]);
        }
        let outcome = if self.dry_run { "would change" } else { "changed" };
        format!("{}{} partitions {outcome}\n", table.text(), self.moves.len())
    }
}

fn rebalance(cluster: &mut Cluster, dry_run: bool) -> Result<Rebalance, Error> {
    let Placement { brokers, partitions } = Placement::ask(cluster)?;
    let plan = plan_rebalance(&brokers, &partitions);
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
    let row = |planned: &PlacedPartition| {
        let is_same =
            |other: &&PlacedPartition| (&other.topic, other.index) == (&planned.topic, planned.index);
        let before = partitions.iter().find(is_same).expect("a plan is of partitions that are there");
        MoveRow {
            topic: planned.topic.clone(),
            partition: planned.index.0,
            from: ids(&before.replicas),
            to: ids(&planned.replicas),
        }
    };
    let moves = plan.iter().map(row).collect();
    if !dry_run {
        moves::carry_out(cluster, &plan)?;
    }
    Ok(Rebalance { dry_run, moves })
}
