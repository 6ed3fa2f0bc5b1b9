//! `cluster`: nodes that come and go, and replicas that move because of it.

use metadata::{PlacedPartition, plan_drain, plan_rebalance};
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
            inspect::print(&added, output)
        }
        ClusterChange::ReplaceNode { node } => {
            let added = replace_node(cluster, *node, &raft_address(options)?)?;
            inspect::print(&added, output)
        }
        ClusterChange::RemoveNode { node, drain } => {
            if *drain {
                inspect::print(&self::drain(cluster, *node)?, output)?;
            }
            inspect::print(&remove_node(cluster, *node)?, output)
        }
        ClusterChange::Drain { node } => inspect::print(&drain(cluster, *node)?, output),
        ClusterChange::Rebalance { dry_run } => inspect::print(&rebalance(cluster, *dry_run)?, output),
    }
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
    /// Where clients may find it, and where it is to listen for the others: guesses from the address that the others use.
    #[serde(skip)]
    advertised_addr: String,
    #[serde(skip)]
    raft_listen: String,
}

impl Report for Added {
    fn text(&self) -> String {
        let Added { node, raft_address, peers, advertised_addr, raft_listen } = self;
        format!(
            "node {node} may join; the others look for it at {raft_address}. Start it there, with an empty data directory DIR, \
             and as --advertised-addr the name by which clients reach it:\n  \
             chronik-server --node-id {node} --data-dir DIR --advertised-addr {advertised_addr} \
             raft-cluster --join --raft-addr {raft_listen} --peers {peers:?}\n"
        )
    }
}

fn add_node(cluster: &mut Cluster, node: i32, address: &(String, u16)) -> Result<Added, Error> {
    // Asked before anything changes, so that a failure changes nothing.
    let quorum = cluster.retry(Quorum::ask)?;
    match add_voter(cluster, node, address) {
        // An attempt before this one got so far, with an address that nobody tells. The node has not joined since: it is
        // added once more.
        Err(Error::Kafka { code: ErrorCode::DuplicateVoter, .. }) if !quorum.has_joined(cluster, node)? => {
            remove_voter(cluster, node)?;
            add_voter(cluster, node, address)?;
        }
        outcome => outcome?,
    }
    Ok(Added::new(node, address, &quorum))
}

impl Added {
    fn new(node: i32, (host, port): &(String, u16), quorum: &Quorum) -> Added {
        let others = quorum.addresses.iter().filter(|(other, _)| *other != node);
        let others: Vec<String> = others.map(|(node, address)| format!("{node}@{address}")).collect();
        Added {
            node,
            raft_address: host_and_port(host, *port),
            peers: others.join(","),
            advertised_addr: host.clone(),
            // The name may stand for an address that is not the machine's own, or only for its loopback.
            raft_listen: host_and_port(if host.contains(':') { "::" } else { "0.0.0.0" }, *port),
        }
    }
}

fn add_voter(cluster: &mut Cluster, node: i32, (host, port): &(String, u16)) -> Result<(), Error> {
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
    cluster::check(response.error_code, message, || format!("add node {node}"))
}

/// Takes a node out of the metadata group, unless an attempt before this one has.
fn remove_voter(cluster: &mut Cluster, node: i32) -> Result<(), Error> {
    let request = RemoveRaftVoterRequestData { voter_id: node, ..RemoveRaftVoterRequestData::default() };
    let response = call!(cluster.any()?, RemoveRaftVoter, REMOVE_RAFT_VOTER_VERSION, request);
    if ErrorCode::from(response.error_code) == ErrorCode::VoterNotFound {
        return Ok(());
    }
    let message = response.error_message.as_ref().map(|message| message.as_str());
    cluster::check(response.error_code, message, || format!("take node {node} out"))
}

/// The metadata group, as its leader says.
struct Quorum {
    /// Those that vote. A node that was added is none until it has everything.
    voters: Vec<i32>,
    /// Where the nodes reach one another, as far as it is told: not of nodes that were only added.
    addresses: Vec<(i32, String)>,
}

impl Quorum {
    fn ask(cluster: &mut Cluster) -> Result<Quorum, Error> {
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
        let mut voters = Vec::new();
        for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
            cluster::check(partition.error_code, None, what)?;
            voters.extend(partition.current_voters.iter().map(|voter| voter.replica_id));
        }
        let addresses = response.nodes.iter().filter_map(|node| {
            let listener = node.listeners.first()?;
            Some((node.node_id, host_and_port(listener.host.as_str(), listener.port)))
        });
        Ok(Quorum { voters, addresses: addresses.collect() })
    }

    /// Whether a node that is a member of the group has taken part in it, or in the cluster.
    fn has_joined(&self, cluster: &mut Cluster, node: i32) -> Result<bool, Error> {
        let is_registered = cluster.describe()?.brokers.iter().any(|broker| broker.broker_id == node);
        Ok(is_registered || self.voters.contains(&node))
    }
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
    let quorum = cluster.retry(Quorum::ask)?;
    remove_voter(cluster, node)?;
    add_voter(cluster, node, address)?;
    Ok(Added::new(node, address, &quorum))
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
    // Where it is refused, nothing has changed: the node goes on to get new replicas.
    ask_drain(cluster, node)?;
    cluster.retry(|cluster| set_draining(cluster, node))?;
    let mut partitions_moved = 0;
    loop {
        // What was placed there since the last look, by somebody who had not heard, moves too.
        let plan = ask_drain(cluster, node)?;
        if plan.is_empty() {
            // Moves that were decided before are to end too.
            moves::await_others(cluster, Some(node))?;
            return Ok(Drained { drained: node, partitions_moved });
        }
        moves::carry_out(cluster, &plan)?;
        partitions_moved += plan.len();
    }
}

/// What has to move away from a node.
fn ask_drain(cluster: &mut Cluster, node: i32) -> Result<Vec<PlacedPartition>, Error> {
    let Placement { brokers, partitions } = Placement::ask(cluster)?;
    plan_drain(&brokers, &partitions, NodeId(node)).map_err(|error| Error::Command(error.to_string()))
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
        // The plan counts those that the cluster began by itself as carried out.
        moves::await_others(cluster, None)?;
    }
    Ok(Rebalance { dry_run, moves })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_node_that_may_join_is_told_how() {
        let at = |node: i32| (node, format!("node-{node}.example:9192"));
        let quorum = Quorum { voters: vec![1, 2, 3], addresses: vec![at(1), at(2), at(3)] };
        let added = |node, host: &str| Added::new(node, &(host.to_owned(), 9292), &quorum).text();
        expect![[r#"
            node 4 may join; the others look for it at four.example:9292. Start it there, with an empty data directory DIR, and as --advertised-addr the name by which clients reach it:
              chronik-server --node-id 4 --data-dir DIR --advertised-addr four.example raft-cluster --join --raft-addr 0.0.0.0:9292 --peers "1@node-1.example:9192,2@node-2.example:9192,3@node-3.example:9192"
        "#]]
        .assert_eq(&added(4, "four.example"));
        let replaced = added(3, "fe80::3");
        assert!(
            replaced
                .contains(" --raft-addr [::]:9292 --peers \"1@node-1.example:9192,2@node-2.example:9192\"\n")
        );
    }
}
