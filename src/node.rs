//! From plans to a running node: what the reactor, the shards and the broker are told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use broker::BrokerConfig;
use coordinator::GroupConfig;
use crossbeam_channel::{RecvTimeoutError, bounded};
use metadata::{Endpoint, StaticSettings, cluster_id_from_seed, directory_id_from_seed};
use reactor::{Exit, Fatal, Node, NodeHandle, NodeOptions, Placement, StartError};
use shard::{FatalReason, PeerAddress, Registration, Shard, ShardConfig};
use types::NodeId;

use crate::address::is_own_host;
use crate::exit::{Error, ExitReason};
use crate::machine::Layout;
use crate::options::Options;
use crate::settings::{RACK_AWARE_SELECTOR, Settings};

/// The name of the one listener for clients.
const LISTENER: &str = "PLAINTEXT";

/// The name under which a node's port for other nodes is registered.
const PEER_LISTENER: &str = "RAFT";

/// For how long a shard polls for the end of a WAL write: what a quick disk takes for one, with room.
const WRITE_POLL: Duration = Duration::from_micros(500);

/// How long a node that is alone takes at most to be its own majority, unless something is odd.
const ALONE_TIME_MAX: Duration = Duration::from_secs(10);

/// Everything that decides how the node runs.
pub struct NodePlan<'a> {
    /// The command line and what stands behind it.
    pub options: &'a Options,
    /// Broker settings.
    pub settings: &'a Settings,
    /// Shards and cores.
    pub layout: &'a Layout,
    /// Where to listen for Kafka clients.
    pub listen: &'a [SocketAddr],
    /// The host and port that clients are told.
    pub advertised: &'a (String, u16),
    /// Which node of which cluster this is.
    pub identity: ClusterIdentity,
    /// Where to listen for other nodes.
    pub raft_listen: &'a [SocketAddr],
}

/// What a node knows of its cluster at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterIdentity {
    /// The id of the cluster; `None` until it has joined one.
    pub cluster_id: Option<String>,
    /// The id of the cluster that it begins, if it may begin one.
    pub new_cluster_id: String,
    /// The other nodes, ascending.
    pub peers: Vec<PeerAddress>,
    /// The nodes that the cluster was begun with, ascending; empty where this node joins one that is there.
    pub first_voters: Vec<NodeId>,
    /// Whether it may elect a leader of the metadata group before it has heard of a cluster.
    pub may_begin_cluster: bool,
}

impl ClusterIdentity {
    /// How many nodes the cluster is to have.
    fn nodes(&self) -> usize {
        self.peers.len() + 1
    }
}

/// The replicas of a topic, unless somebody says otherwise, in a cluster that has so many nodes.
const DEFAULT_REPLICATION_FACTOR: usize = 3;

/// The identity of a node that is alone. It needs nobody to give its cluster an id.
///
/// # Errors
///
/// When the data directory cannot be read, or belongs to a cluster of several nodes.
pub fn standalone_identity(options: &Options) -> Result<ClusterIdentity, Error> {
    let own = NodeId(options.node_id);
    let voters = stored_voters(options)?.unwrap_or_else(|| vec![own]);
    if voters.is_empty() {
        return Err(Error::Usage(format!(
            "the data directory {} is of a node that has joined a cluster: use `chronik-server raft-cluster`, or \
             another data directory",
            options.data_dir.display()
        )));
    }
    if voters.len() > 1 {
        return Err(Error::Usage(format!(
            "the data directory {} is of a cluster of nodes {}: use `chronik-server raft-cluster`, or another \
             data directory",
            options.data_dir.display(),
            join(&voters)
        )));
    }
    let new_cluster_id = new_cluster_id(options)?;
    Ok(ClusterIdentity {
        cluster_id: Some(new_cluster_id.clone()),
        new_cluster_id,
        peers: Vec::new(),
        // One that is not this node shows when the data directory is opened, and is refused there.
        first_voters: voters,
        may_begin_cluster: true,
    })
}

/// The identity of one node of several.
///
/// The voters of the metadata group are those of the first start: another `--peers` must not change them behind the
/// group's back.
///
/// # Errors
///
/// When the data directory cannot be read.
pub fn cluster_identity(options: &Options) -> Result<ClusterIdentity, Error> {
    let mut peers = options.peers.clone();
    peers.sort_by_key(|peer| peer.node);
    let mut named: Vec<NodeId> = peers.iter().map(|peer| peer.node).collect();
    named.push(NodeId(options.node_id));
    named.sort();
    let first_voters = match stored_voters(options)? {
        Some(stored) => {
            if stored != named && !stored.is_empty() && !options.join {
                let (stored, named) = (join(&stored), join(&named));
                tracing::warn!(
                    "the cluster was begun with nodes {stored}, which goes on to hold; --peers makes it {named}"
                );
            }
            stored
        }
        None if options.join => Vec::new(),
        None => {
            if named.len().is_multiple_of(2) {
                let (nodes, lost) = (named.len(), named.len() / 2 - 1);
                tracing::warn!(
                    "{nodes} nodes survive the loss of {lost}, as {} do: use an odd number",
                    nodes - 1
                );
            }
            named
        }
    };
    let cluster_id = reactor::stored_cluster_id(&options.data_dir).map_err(refusal)?;
    let identity = ClusterIdentity {
        may_begin_cluster: options.bootstrap || cluster_id.is_some(),
        new_cluster_id: new_cluster_id(options)?,
        cluster_id,
        peers,
        first_voters,
    };
    Ok(identity)
}

/// The nodes that the cluster of the data directory was begun with: none where its node has joined one that was there, and
/// `None` for a new directory.
///
/// # Errors
///
/// When the data directory cannot be read.
pub fn stored_voters(options: &Options) -> Result<Option<Vec<NodeId>>, Error> {
    reactor::stored_voters(&options.data_dir).map_err(refusal)
}

/// The id that the data directory remembers, or a new one.
fn new_cluster_id(options: &Options) -> Result<String, Error> {
    match reactor::stored_cluster_id(&options.data_dir).map_err(refusal)? {
        Some(cluster_id) => Ok(cluster_id),
        None => Ok(cluster_id_from_seed(random_u64()?)),
    }
}

fn join(nodes: &[NodeId]) -> String {
    let nodes: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    nodes.join(",")
}

/// Waits until the node is one of its cluster, and gives the cluster's id; `None` when the node ends before.
///
/// # Errors
///
/// When the machine refuses a thread.
pub fn await_cluster(plan: &NodePlan<'_>, handle: &NodeHandle) -> Result<Option<String>, Error> {
    if !plan.raft_listen.is_empty() {
        tracing::info!("looking for the other nodes of the cluster");
        return Ok(handle.wait_joined().ok());
    }
    // Alone, it has joined at once. But others may have been added since the data directory was begun, and only the metadata
    // know: then it is no majority, and waits for ever.
    let (joined, is_late) = bounded::<()>(0);
    let warn = move || {
        if is_late.recv_timeout(ALONE_TIME_MAX) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(
                "the node cannot serve alone yet: if others have joined its cluster, start it with \
                 `chronik-server raft-cluster`"
            );
        }
    };
    std::thread::Builder::new()
        .name("joining".to_owned())
        .spawn(warn)
        .map_err(|source| Error::System { what: "start a thread for a warning", source })?;
    let cluster_id = handle.wait_joined().ok();
    drop(joined);
    Ok(cluster_id)
}

/// Starts the node.
///
/// # Errors
///
/// Why it does not start, in a line that says what to do.
pub fn start(plan: &NodePlan<'_>) -> Result<NodeHandle, Error> {
    let seed = random_u64()?;
    let config = Arc::new(broker_config(plan, seed));
    let settings = static_settings(plan);
    let (host, port) = plan.advertised.clone();
    let (node, rack) = (NodeId(plan.options.node_id), plan.settings.rack());
    // Other nodes reach it where clients do, and at the port for nodes.
    let peer = plan.raft_listen.first().map(|listen| Endpoint {
        listener: PEER_LISTENER.to_owned(),
        host: host.clone(),
        port: listen.port(),
    });
    let endpoint = Endpoint { listener: LISTENER.to_owned(), host, port };
    let new_cluster_id = plan.identity.new_cluster_id.clone();
    let registration = move |directory_id| Registration {
        node,
        rack: rack.clone(),
        endpoint: endpoint.clone(),
        peer: peer.clone(),
        incarnation: seed,
        directory_id,
        new_cluster_id: new_cluster_id.clone(),
    };
    let ClusterIdentity { peers, first_voters, may_begin_cluster, .. } = plan.identity.clone();
    let is_clustered = !plan.raft_listen.is_empty();
    let shares_out = plan.settings.flag("auto.replica.rebalance.enable");
    let move_bytes_per_second_max = plan.settings.number("replica.move.bytes.per.second.max");
    let replica_lag_ms_max = plan.settings.number("replica.lag.time.max.ms");
    let balance_interval_ms = plan.settings.number::<i64>("leader.imbalance.check.interval.seconds") * 1_000;
    let leader_balance_interval_ms =
        plan.settings.flag("auto.leader.rebalance.enable").then_some(balance_interval_ms);
    let make_shard = move |start: reactor::ShardStart, effects: &mut Vec<shard::Effect>| {
        let config = ShardConfig {
            shard: start.shard,
            broker: Arc::clone(&config),
            settings: settings.clone(),
            registration: registration(start.directory_id),
            peers: peers.clone(),
            is_clustered,
            first_voters: first_voters.clone(),
            may_begin_cluster,
            replica_lag_ms_max,
            move_bytes_per_second_max,
            shares_out,
            leader_balance_interval_ms,
            seed,
        };
        Shard::new(config, start.recovered, start.now, effects)
    };
    Node::start(node_options(plan, seed)?, make_shard).map_err(|error| match error {
        StartError::PortTaken { address } if plan.raft_listen.contains(&address) => {
            Error::PortTaken { address: address.to_string(), option: "raft-addr" }
        }
        other => refusal(other),
    })
}

fn node_options(plan: &NodePlan<'_>, incarnation: u64) -> Result<NodeOptions, Error> {
    let layout = plan.layout.shards;
    let mut options = NodeOptions::new(
        plan.options.data_dir.clone(),
        NodeId(plan.options.node_id),
        layout.shards(),
        Arc::new(move |group| layout.shard_of(group)),
    );
    options.cluster_id = plan.identity.cluster_id.clone();
    options.listen = plan.listen.to_vec();
    options.raft_listen = plan.raft_listen.to_vec();
    options.voters = plan.identity.first_voters.clone();
    options.incarnation = incarnation;
    options.new_directory_id = directory_id_from_seed(random_u64()?);
    options.placement = match &plan.layout.cpus {
        Some(cpus) => {
            let (polls_us, peers) = (plan.options.busy_poll_us, &plan.options.peers);
            options.write_poll = write_poll(polls_us, peers, &plan.advertised.0);
            Placement::Pinned(cpus.clone())
        }
        None => Placement::Unbound,
    };
    options.busy_poll = Duration::from_micros(plan.options.busy_poll_us.unwrap_or(0).into());
    options.request_bytes_max = plan.settings.number("socket.request.max.bytes");
    options.connections_max_idle = Duration::from_millis(plan.settings.number("connections.max.idle.ms"));
    Ok(options)
}

/// How long pinned shards poll for the end of a WAL write. Unless told to, not beside other nodes, since each keeps the others from the
/// cores that they share.
fn write_poll(busy_poll_us: Option<u32>, peers: &[PeerAddress], own_host: &str) -> Duration {
    let is_alone = || !peers.iter().any(|peer| is_own_host(&peer.host, own_host));
    if busy_poll_us.map_or_else(is_alone, |us| us > 0) { WRITE_POLL } else { Duration::ZERO }
}

fn broker_config(plan: &NodePlan<'_>, incarnation: u64) -> BrokerConfig {
    let settings = plan.settings;
    BrokerConfig {
        node: NodeId(plan.options.node_id),
        incarnation,
        layout: plan.layout.shards,
        offsets_topic_partitions: settings.number("offsets.topic.num.partitions"),
        // Fewer than asked for where there are fewer nodes, and not where some are still on their way.
        offsets_topic_replication: settings
            .number::<i16>("offsets.topic.replication.factor")
            .min(i16::try_from(plan.identity.nodes()).unwrap_or(i16::MAX)),
        reads_in_rack: settings.text("replica.selector.class") == RACK_AWARE_SELECTOR,
        producer_id_expiration_ms: settings.number("producer.id.expiration.ms"),
        retention_check_interval_ms: settings.number("log.retention.check.interval.ms"),
        log_dir: absolute_data_dir(plan.options).display().to_string(),
        groups: GroupConfig {
            session_timeout_ms_min: settings.number("group.min.session.timeout.ms"),
            session_timeout_ms_max: settings.number("group.max.session.timeout.ms"),
            initial_rebalance_delay_ms: settings.number("group.initial.rebalance.delay.ms"),
            members_max: settings.number("group.max.size"),
            offset_metadata_max: settings.number("offset.metadata.max.bytes"),
            offsets_retention_ms: settings.number::<i64>("offsets.retention.minutes") * 60_000,
            offsets_retention_check_interval_ms: settings.number("offsets.retention.check.interval.ms"),
            ..GroupConfig::default()
        },
    }
}

/// The settings that options stand for go by Kafka's names too, for DescribeConfigs.
fn static_settings(plan: &NodePlan<'_>) -> StaticSettings {
    let listener =
        |host: &str, port: u16| format!("{LISTENER}://{}", crate::address::host_and_port(host, port));
    let listeners: Vec<String> =
        plan.listen.iter().map(|address| listener(&address.ip().to_string(), address.port())).collect();
    let (host, port) = plan.advertised;
    let mut process = vec![
        ("advertised.listeners", listener(host, *port)),
        ("broker.id", plan.options.node_id.to_string()),
        ("listeners", listeners.join(",")),
        ("log.dirs", absolute_data_dir(plan.options).display().to_string()),
        ("node.id", plan.options.node_id.to_string()),
    ];
    if !plan.settings.is_given("default.replication.factor") {
        let replicas = plan.identity.nodes().min(DEFAULT_REPLICATION_FACTOR);
        process.push(("default.replication.factor", replicas.to_string()));
    }
    plan.settings.static_settings(&process)
}

fn absolute_data_dir(options: &Options) -> PathBuf {
    std::path::absolute(&options.data_dir).unwrap_or_else(|_| options.data_dir.clone())
}

fn random_u64() -> Result<u64, Error> {
    getrandom::u64().map_err(|error| Error::System { what: "get random bytes", source: error.into() })
}

fn refusal(error: StartError) -> Error {
    let reason = match &error {
        StartError::Options(_) => ExitReason::Usage,
        StartError::PortTaken { address } => {
            return Error::PortTaken { address: address.to_string(), option: "kafka-port" };
        }
        StartError::Listen { .. } => ExitReason::CannotListen,
        StartError::DataDirLocked { .. } => ExitReason::DataDirLocked,
        StartError::OtherNode { .. } | StartError::OtherCluster { .. } => ExitReason::DataDirOfOther,
        StartError::MetaProperties { .. }
        | StartError::Incomplete { .. }
        | StartError::Layout { .. }
        | StartError::File { .. } => ExitReason::DataDirUnusable,
        StartError::NoDirectIo { .. } => ExitReason::NoDirectIo,
        StartError::LockedMemory { .. } => ExitReason::LockedMemory,
        StartError::OpenFiles { .. } => ExitReason::OpenFiles,
        StartError::NoIoUring { .. } => ExitReason::NoIoUring,
        StartError::Executor { .. } => ExitReason::CannotStart,
        StartError::Recovery { .. } => ExitReason::WalDamaged,
    };
    Error::NotStarted { message: error.to_string(), reason }
}

/// What the end of the node means for the process.
///
/// # Errors
///
/// Every end but a stop that finished.
pub fn outcome(exit: Exit) -> Result<(), Error> {
    let fatal = match exit {
        Exit::Finished => return Ok(()),
        Exit::GraceExpired => {
            let message = "the stop was cut short: a shard did not finish in time".to_owned();
            return Err(Error::Ended { message, reason: ExitReason::StopTimedOut });
        }
        Exit::Fatal(fatal) => fatal,
    };
    Err(Error::Ended { message: fatal.to_string(), reason: fatal_reason(&fatal) })
}

fn fatal_reason(fatal: &Fatal) -> ExitReason {
    match fatal {
        Fatal::WalWriteFailed { .. } => ExitReason::WalWriteFailed,
        Fatal::Shard { reason: FatalReason::WalFile(_), .. } => ExitReason::WalWriteFailed,
        Fatal::Shard { reason: FatalReason::SegmentWrite(_), .. } => ExitReason::SegmentWriteFailed,
        Fatal::Shard { reason: FatalReason::Damaged(_), .. } => ExitReason::DataDamaged,
        Fatal::ExecutorDied { .. } => ExitReason::ShardDied,
        Fatal::NotJoined { .. } => ExitReason::NotJoined,
    }
}

#[cfg(test)]
mod tests {
    use types::ShardId;

    use super::*;

    #[test]
    fn shards_poll_for_writes_where_no_peer_shares_the_machine_or_they_are_told_to() {
        let at = |host: &str| vec![PeerAddress { node: NodeId(2), host: host.to_owned(), port: 9_192 }];
        let poll = |busy_poll_us, peers: &[PeerAddress]| write_poll(busy_poll_us, peers, "one.example");
        let beside = [at("localhost"), at("127.0.0.1"), at("one.example")];
        assert!(beside.iter().all(|peers| poll(None, peers).is_zero()));
        assert_eq!((poll(None, &[]), poll(None, &at("two.example"))), (WRITE_POLL, WRITE_POLL));
        assert_eq!((poll(Some(1), &beside[0]), poll(Some(0), &[])), (WRITE_POLL, Duration::ZERO));
    }

    #[test]
    fn every_fatal_end_has_a_code_of_its_own() {
        let shard = ShardId(0);
        let of_shard = |reason| Fatal::Shard { shard, reason };
        for (fatal, expected) in [
            (Fatal::WalWriteFailed { shard, why: String::new() }, 20),
            (of_shard(FatalReason::WalFile(String::new())), 20),
            (of_shard(FatalReason::SegmentWrite(String::new())), 21),
            (of_shard(FatalReason::Damaged(String::new())), 22),
            (Fatal::ExecutorDied { shard, why: String::new() }, 23),
            (Fatal::NotJoined { why: String::new() }, 25),
        ] {
            assert_eq!(fatal_reason(&fatal).code(), expected, "{fatal}");
            assert_eq!(outcome(Exit::Fatal(fatal)).map_err(|error| error.reason().code()), Err(expected));
        }
        assert_eq!(
            outcome(Exit::GraceExpired).map_err(|error| error.reason()),
            Err(ExitReason::StopTimedOut)
        );
    }
}
