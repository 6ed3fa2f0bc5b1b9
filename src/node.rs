//! From plans to a running node: what the reactor, the shards and the broker are told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use broker::BrokerConfig;
use coordinator::GroupConfig;
use metadata::{Endpoint, StaticSettings, cluster_id_from_seed};
use reactor::{Exit, Fatal, Node, NodeHandle, NodeOptions, Placement, StartError};
use shard::{FatalReason, Registration, Shard, ShardConfig};
use types::NodeId;

use crate::exit::{Error, ExitReason};
use crate::machine::Layout;
use crate::options::Options;
use crate::settings::Settings;

/// The name of the one listener for clients.
const LISTENER: &str = "PLAINTEXT";

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
}

/// Starts the node and returns it with the id of its cluster.
///
/// # Errors
///
/// Why it does not start, in a line that says what to do.
pub fn start(plan: &NodePlan<'_>) -> Result<(NodeHandle, String), Error> {
    let seed = random_u64()?;
    let cluster_id = match reactor::stored_cluster_id(&plan.options.data_dir).map_err(refusal)? {
        Some(cluster_id) => cluster_id,
        None => cluster_id_from_seed(random_u64()?),
    };
    let config = Arc::new(broker_config(plan));
    let settings = static_settings(plan);
    let (host, port) = plan.advertised.clone();
    let registration = Registration {
        node: NodeId(plan.options.node_id),
        rack: plan.settings.rack(),
        endpoint: Endpoint { listener: LISTENER.to_owned(), host, port },
        incarnation: seed,
        new_cluster_id: cluster_id.clone(),
    };
    let make_shard = move |start: reactor::ShardStart, effects: &mut Vec<shard::Effect>| {
        let config = ShardConfig {
            shard: start.shard,
            broker: Arc::clone(&config),
            settings: settings.clone(),
            registration: registration.clone(),
            seed,
        };
        Shard::new(config, start.recovered, start.now, effects)
    };
    let handle = Node::start(node_options(plan, &cluster_id), make_shard).map_err(refusal)?;
    Ok((handle, cluster_id))
}

fn node_options(plan: &NodePlan<'_>, cluster_id: &str) -> NodeOptions {
    let layout = plan.layout.shards;
    let mut options = NodeOptions::new(
        plan.options.data_dir.clone(),
        NodeId(plan.options.node_id),
        layout.shards(),
        Arc::new(move |group| layout.shard_of(group)),
    );
    options.cluster_id = Some(cluster_id.to_owned());
    options.listen = plan.listen.to_vec();
    options.placement = match &plan.layout.cpus {
        Some(cpus) => Placement::Pinned(cpus.clone()),
        None => Placement::Unbound,
    };
    options.request_bytes_max = plan.settings.number("socket.request.max.bytes");
    options.connections_max_idle = Duration::from_millis(plan.settings.number("connections.max.idle.ms"));
    options
}

fn broker_config(plan: &NodePlan<'_>) -> BrokerConfig {
    let settings = plan.settings;
    BrokerConfig {
        node: NodeId(plan.options.node_id),
        layout: plan.layout.shards,
        offsets_topic_partitions: settings.number("offsets.topic.num.partitions"),
        offsets_topic_replication: settings.number("offsets.topic.replication.factor"),
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
    plan.settings.static_settings(&[
        ("advertised.listeners", listener(host, *port)),
        ("broker.id", plan.options.node_id.to_string()),
        ("listeners", listeners.join(",")),
        ("log.dirs", absolute_data_dir(plan.options).display().to_string()),
        ("node.id", plan.options.node_id.to_string()),
    ])
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
        StartError::MetaProperties { .. } | StartError::Layout { .. } | StartError::File { .. } => {
            ExitReason::DataDirUnusable
        }
        StartError::NoDirectIo { .. } => ExitReason::NoDirectIo,
        StartError::LockedMemory { .. } => ExitReason::LockedMemory,
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
    }
}

#[cfg(test)]
mod tests {
    use types::ShardId;

    use super::*;

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
