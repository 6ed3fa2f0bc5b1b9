//! The command line, the environment and the configuration file, in this order of precedence.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use shard::PeerAddress;

use crate::config_file::ConfigFile;
use crate::exit::{Error, ExitReason};
use crate::machine::CpuList;
use crate::peers;

/// The variable that `--set` has; it is read by hand because single settings of it may be overridden.
const SET_VARIABLE: &str = "CHRONIK_SET";

/// The most data shards: between every two of them there are two rings.
pub const SHARDS_MAX: u16 = 256;

/// A shard that polls longer than that hardly ever sleeps.
const BUSY_POLL_US_MAX: u32 = 1_000_000;

/// A Kafka-compatible broker: `acks=all` means durable, at the latency that others reach without it.
#[derive(Debug, Parser)]
#[command(name = "chronik-server", version, after_help = ExitReason::table())]
#[command(disable_help_subcommand = true, max_term_width = 110)]
pub struct CommandLine {
    /// What to do; `standalone` unless given.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of all commands.
    #[command(flatten)]
    pub global: GlobalOptions,
}

/// Options of all commands, as given; nothing stands in for what was not.
#[derive(Args, Clone, Debug, Default)]
pub struct GlobalOptions {
    /// A TOML file with these options (without the dashes in front) and a table `[settings]` of broker settings
    #[arg(long, value_name = "FILE", env = "CHRONIK_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// The port for Kafka clients; 0 takes a free one [default: 9092]
    #[arg(long, value_name = "PORT", env = "CHRONIK_KAFKA_PORT", global = true)]
    pub kafka_port: Option<u16>,
    /// The address or host name to listen on [default: 0.0.0.0]
    #[arg(long, value_name = "ADDR", env = "CHRONIK_BIND_ADDR", global = true)]
    pub bind_addr: Option<String>,
    /// The host name or address that clients are told to connect to [default: the bind address; localhost when
    /// that is a wildcard]
    #[arg(long, value_name = "ADDR", env = "CHRONIK_ADVERTISED_ADDR", global = true)]
    pub advertised_addr: Option<String>,
    /// The port that clients are told to connect to [default: the Kafka port]
    #[arg(long, value_name = "PORT", env = "CHRONIK_ADVERTISED_PORT", global = true)]
    pub advertised_port: Option<u16>,
    /// This broker's id, 0 or greater; the data directory remembers it [default: 1]
    #[arg(long, value_name = "ID", env = "CHRONIK_NODE_ID", global = true, allow_negative_numbers = true)]
    pub node_id: Option<i32>,
    /// Where everything is stored [default: ./data]
    #[arg(long, value_name = "DIR", env = "CHRONIK_DATA_DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// The port of /metrics and /health; 0 takes a free one [default: the Kafka port + 1000]
    #[arg(long, value_name = "PORT", env = "CHRONIK_METRICS_PORT", global = true)]
    pub metrics_port: Option<u16>,
    /// The address of /metrics and /health, which everyone who reaches it may read [default: the bind address]
    #[arg(long, value_name = "ADDR", env = "CHRONIK_METRICS_ADDR", global = true)]
    pub metrics_addr: Option<String>,
    /// Shards for partitions, one thread each [default: the usable cores - 1, at least 1]
    #[arg(long, value_name = "N", env = "CHRONIK_SHARDS", global = true)]
    pub shards: Option<u16>,
    /// The cores to use, as in 2-15 or 0,2,4-7 [default: all that the process may run on]
    #[arg(long, value_name = "LIST", env = "CHRONIK_CPUS", global = true)]
    pub cpus: Option<String>,
    /// Let threads run on any core: for laptops, tests and shared machines
    #[arg(long, env = "CHRONIK_NO_PIN", global = true, value_name = "BOOL", value_parser = BoolishValueParser::new())]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub no_pin: Option<bool>,
    /// Microseconds that a shard polls for the next event before it sleeps: the lowest latency, for a whole core's
    /// time while there is traffic; shards must be pinned. 0: never, not even for the end of a write to the WAL
    /// [default: pinned shards poll for that alone, unless one of --peers is on this machine]
    #[arg(long, value_name = "N", env = "CHRONIK_BUSY_POLL_US", global = true)]
    pub busy_poll_us: Option<u32>,
    /// error, warn, info, debug or trace; also per module, as in info,reactor=debug [default: info]
    #[arg(long, value_name = "LEVEL", env = "CHRONIK_LOG_LEVEL", global = true)]
    pub log_level: Option<String>,
    /// How log lines look [default: text]
    #[arg(long, value_name = "FORMAT", env = "CHRONIK_LOG_FORMAT", global = true)]
    pub log_format: Option<LogFormat>,
    /// A broker setting by Kafka's name; may be repeated. CHRONIK_SET takes several, separated by semicolons
    #[arg(long = "set", value_name = "NAME=VALUE", global = true)]
    pub set: Vec<String>,
    /// Brokers for topic, cluster, produce and consume, separated by commas; the first that answers is asked [default: localhost and the Kafka port]
    #[arg(long, value_name = "HOST:PORT", env = "CHRONIK_BOOTSTRAP_SERVER", global = true)]
    pub bootstrap_server: Option<String>,
    /// The address to listen on for other brokers (raft-cluster) [default: the bind address and the Kafka port + 100]
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "CHRONIK_RAFT_ADDR",
        global = true,
        help_heading = "Cluster"
    )]
    pub raft_addr: Option<String>,
    /// The other brokers as id@host:port, separated by commas (raft-cluster)
    #[arg(long, value_name = "PEER", env = "CHRONIK_PEERS", global = true, help_heading = "Cluster")]
    #[arg(value_delimiter = ',')]
    pub peers: Vec<String>,
    /// Begin a new cluster with these brokers if there is none yet; does nothing later (raft-cluster)
    #[arg(long, env = "CHRONIK_BOOTSTRAP", global = true, help_heading = "Cluster", value_name = "BOOL")]
    #[arg(value_parser = BoolishValueParser::new(), num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true")]
    pub bootstrap: Option<bool>,
    /// Join the cluster of these brokers, which has added this one; does nothing later (raft-cluster)
    #[arg(long, env = "CHRONIK_JOIN", global = true, help_heading = "Cluster", value_name = "BOOL")]
    #[arg(value_parser = BoolishValueParser::new(), num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", conflicts_with = "bootstrap")]
    pub join: Option<bool>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object each.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one broker (what happens without a command)
    Standalone,
    /// Run one broker of a cluster
    RaftCluster,
    /// Run a whole cluster on this machine, on free ports, for trying it out; of the options of a broker it takes --config,
    /// --data-dir, --shards, --set and those of the log
    Local(LocalOptions),
    /// Print the version
    Version,
    /// Create, list, describe, alter and delete topics
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Show how a running cluster is, and change its nodes and where replicas are
    Cluster(ClusterOptions),
    /// Send the lines of standard input to a topic
    Produce(ProduceOptions),
    /// Print the records of a topic
    Consume(ConsumeOptions),
    /// Print WAL and segment files in readable form
    DumpLog(DumpOptions),
}

/// What cluster to run.
#[derive(Args, Debug)]
pub struct LocalOptions {
    /// Brokers, each with a folder node-N in the data directory
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=9))]
    pub nodes: u16,
}

/// What to do with topics.
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Create a topic
    Create {
        /// The topic
        name: String,
        /// Partitions [default: the broker's num.partitions]
        #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        /// Replicas of each partition [default: the broker's default.replication.factor]
        #[arg(long, value_parser = clap::value_parser!(i16).range(1..))]
        replication_factor: Option<i16>,
        /// A topic configuration; may be repeated
        #[arg(long = "topic-config", value_name = "NAME=VALUE")]
        configs: Vec<String>,
        /// Do nothing if the topic exists
        #[arg(long)]
        if_not_exists: bool,
    },
    /// List the names of all topics
    List {
        /// List the broker's own topics too
        #[arg(long)]
        internal: bool,
    },
    /// Show partitions, offsets and configurations
    Describe {
        /// The topics
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Change the replicas of a topic, wait until they have moved, add partitions, set configurations
    #[command(group = clap::ArgGroup::new("alteration").required(true).multiple(true))]
    Alter {
        /// The topic
        name: String,
        /// Replicas of each partition
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..), group = "alteration")]
        replication_factor: Option<u16>,
        /// Partitions, more than there are
        #[arg(long, value_parser = clap::value_parser!(i32).range(1..), group = "alteration")]
        partitions: Option<i32>,
        /// A topic configuration, without a value to go back to its default; may be repeated
        #[arg(long = "topic-config", value_name = "NAME=VALUE", group = "alteration")]
        configs: Vec<String>,
    },
    /// Delete topics with all their records
    Delete {
        /// The topics
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// What to do with a cluster.
#[derive(Args, Debug)]
pub struct ClusterOptions {
    /// How to show it
    #[arg(short, long, value_name = "FORMAT", default_value = "table", global = true)]
    pub output: OutputFormat,
    #[command(subcommand)]
    pub command: ClusterCommand,
}

/// How a report looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Table,
    /// One JSON object; a value that cannot be had is an object with the reason as `unknown`.
    Json,
}

/// What to show or change of a cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    #[command(flatten)]
    View(ClusterView),
    #[command(flatten)]
    Change(ClusterChange),
}

/// The changes of a cluster. Those that move replicas wait until they have moved; the moves go on without that.
#[derive(Debug, Subcommand)]
pub enum ClusterChange {
    /// Let a node join, which is started with --join then; --raft-addr says where the others are to reach it
    AddNode {
        /// Its id
        #[arg(value_parser = clap::value_parser!(i32).range(0..))]
        node: i32,
    },
    /// Forget a node that holds no replicas
    RemoveNode {
        /// Its id
        node: i32,
        /// Move its replicas to other nodes first
        #[arg(long)]
        drain: bool,
    },
    /// Let a node that has lost its disk come back with an empty one, started with --join; --raft-addr says where the others
    /// are to reach it
    ReplaceNode {
        /// Its id
        node: i32,
    },
    /// Move all replicas of a node to other nodes, and give it no new ones
    Drain {
        /// Its id
        node: i32,
    },
    /// Spread replicas and leaders evenly over the nodes, as after one was added
    Rebalance {
        /// Show what would move, and move nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// The views of a cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterView {
    /// Count nodes, partitions and what is wrong with them; exits with 3 unless all is well
    ///
    /// A partition is under-replicated when not all its replicas are in sync, offline when no majority of them is alive,
    /// and leaderless while no leader is known.
    Status,
    /// List the registered nodes, alive or not
    Nodes,
    /// List all partitions
    Partitions,
    /// List the partitions with replicas that are not in sync, and which
    Isr,
    /// Check the cluster, a line for each check; exits with 3 unless all is well
    Health,
}

/// How to produce.
#[derive(Args, Debug)]
pub struct ProduceOptions {
    /// The topic
    pub topic: String,
    /// What separates key and value in a line; without it lines are values
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub key_separator: Option<String>,
    /// Who must have a record before it counts as sent
    #[arg(long, default_value = "all")]
    pub acks: Acks,
    /// The partition for all records [default: by key; without a key spread over all]
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
}

/// Who must have a record before it counts as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Acks {
    /// A majority of the replicas, durably
    All,
    /// The leader, durably
    #[value(name = "1")]
    Leader,
    /// Nobody
    #[value(name = "0")]
    None,
}

impl Acks {
    /// The number in a Produce request.
    pub fn wire(self) -> i16 {
        match self {
            Acks::All => -1,
            Acks::Leader => 1,
            Acks::None => 0,
        }
    }
}

/// How to consume.
#[derive(Args, Debug)]
pub struct ConsumeOptions {
    /// The topic
    pub topic: String,
    /// Begin with the oldest record where there is no committed offset [default: with the next new record]
    #[arg(long)]
    pub from_beginning: bool,
    /// Share the topic with the other members of a consumer group and commit offsets
    #[arg(long, value_name = "GROUP", conflicts_with = "partition")]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub group: Option<String>,
    /// Read one partition only [default: all]
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// Stop after so many records
    #[arg(long, value_name = "N")]
    pub max_messages: Option<u64>,
    /// Print keys too, and this between key and value
    #[arg(long, value_name = "TEXT")]
    pub key_separator: Option<String>,
}

/// What to dump.
#[derive(Args, Debug)]
pub struct DumpOptions {
    /// WAL files (.wal), segments (.log) or folders of them
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

/// What holds after command line, environment, file and defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub kafka_port: u16,
    pub bind_addr: String,
    pub advertised_addr: Option<String>,
    pub advertised_port: Option<u16>,
    pub node_id: i32,
    pub data_dir: PathBuf,
    /// `None` for the Kafka port + 1000.
    pub metrics_port: Option<u16>,
    pub metrics_addr: Option<String>,
    pub shards: Option<u16>,
    pub cpus: Option<CpuList>,
    pub no_pin: bool,
    /// `None` for what suits the machine.
    pub busy_poll_us: Option<u32>,
    pub log_level: String,
    pub log_format: LogFormat,
    pub bootstrap_server: Option<String>,
    /// HOST:PORT; `None` for the bind address and the Kafka port + 100.
    pub raft_addr: Option<String>,
    /// The other brokers; not checked against this one yet.
    pub peers: Vec<PeerAddress>,
    /// Whether a new cluster may begin.
    pub bootstrap: bool,
    /// Whether a node without data waits to be added to a cluster that is there.
    pub join: bool,
    /// The options given that make sense for `raft-cluster` only.
    pub cluster_options: Vec<&'static str>,
    /// The options given that say what one broker is among others, or on its machine; `local` says that itself.
    pub broker_options: Vec<&'static str>,
    /// Broker settings that were given, by Kafka's names; not checked yet.
    pub settings: BTreeMap<String, String>,
}

impl Options {
    /// Reads the file, if one is named, and puts it behind the command line and its environment.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`].
    pub fn resolve(given: GlobalOptions) -> Result<Options, Error> {
        let file = given.config.as_deref().map(ConfigFile::read).transpose()?.unwrap_or_default();
        let variable = std::env::var(SET_VARIABLE).ok();
        merge(given, variable.as_deref(), file).map_err(Error::Usage)
    }

    /// The host and port to listen on for other brokers.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when `--raft-addr` is not HOST:PORT, or the Kafka port leaves no room above it.
    pub fn raft_address(&self) -> Result<(String, u16), Error> {
        match (&self.raft_addr, self.kafka_port) {
            (Some(address), _) => peers::host_and_port(address)
                .ok_or_else(|| Error::Usage(format!("--raft-addr {address:?} is not HOST:PORT"))),
            (None, 0) => Ok((self.bind_addr.clone(), 0)),
            (None, kafka_port) => match kafka_port.checked_add(100) {
                Some(port) => Ok((self.bind_addr.clone(), port)),
                None => Err(Error::Usage(format!(
                    "the Kafka port {kafka_port} + 100 is no port: choose one with --raft-addr"
                ))),
            },
        }
    }

    /// The port of the metrics endpoint.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when the Kafka port leaves no room above it.
    pub fn metrics_port(&self) -> Result<u16, Error> {
        match (self.metrics_port, self.kafka_port) {
            (Some(port), _) => Ok(port),
            (None, 0) => Ok(0),
            (None, kafka_port) => kafka_port.checked_add(1000).ok_or_else(|| {
                Error::Usage(format!(
                    "the Kafka port {kafka_port} + 1000 is no port: choose one with --metrics-port"
                ))
            }),
        }
    }
}

fn merge(given: GlobalOptions, variable: Option<&str>, file: ConfigFile) -> Result<Options, String> {
    let mut settings = file.settings()?;
    for setting in variable.into_iter().flat_map(|variable| variable.split(';')) {
        if !setting.trim().is_empty() {
            let (name, value) = split_setting(setting, SET_VARIABLE)?;
            settings.insert(name, value);
        }
    }
    for setting in &given.set {
        let (name, value) = split_setting(setting, "--set")?;
        settings.insert(name, value);
    }
    let log_format = match (given.log_format, &file.log_format) {
        (Some(format), _) => format,
        (None, Some(text)) => LogFormat::from_str(text, true)
            .map_err(|_| format!("log-format {text:?} in the configuration file is neither text nor json"))?,
        (None, None) => LogFormat::Text,
    };
    let peers = match given.peers.as_slice() {
        [] => file.peers.into_iter().flatten().map(|entry| entry.address()).collect::<Result<_, _>>()?,
        given => given.iter().map(|peer| peers::parse(peer)).collect::<Result<Vec<_>, _>>()?,
    };
    let raft_addr = given.raft_addr.or(file.raft_addr);
    let bootstrap = given.bootstrap.or(file.bootstrap).unwrap_or(false);
    let join = given.join.or(file.join).unwrap_or(false);
    if bootstrap && join {
        return Err("--bootstrap begins a cluster and --join joins one: use one of them".to_owned());
    }
    let cluster_options = [
        ("--peers", !peers.is_empty()),
        ("--raft-addr", raft_addr.is_some()),
        ("--bootstrap", bootstrap),
        ("--join", join),
    ];
    let broker_options = [
        ("--kafka-port", given.kafka_port.or(file.kafka_port).is_some()),
        ("--bind-addr", given.bind_addr.is_some() || file.bind_addr.is_some()),
        ("--advertised-addr", given.advertised_addr.is_some() || file.advertised_addr.is_some()),
        ("--advertised-port", given.advertised_port.or(file.advertised_port).is_some()),
        ("--node-id", given.node_id.or(file.node_id).is_some()),
        ("--metrics-port", given.metrics_port.or(file.metrics_port).is_some()),
        ("--metrics-addr", given.metrics_addr.is_some() || file.metrics_addr.is_some()),
        ("--cpus", given.cpus.is_some() || file.cpus.is_some()),
        ("--busy-poll-us", given.busy_poll_us.or(file.busy_poll_us).is_some()),
    ];
    let options = Options {
        kafka_port: given.kafka_port.or(file.kafka_port).unwrap_or(9092),
        bind_addr: given.bind_addr.or(file.bind_addr).unwrap_or_else(|| "0.0.0.0".to_owned()),
        advertised_addr: given.advertised_addr.or(file.advertised_addr),
        advertised_port: given.advertised_port.or(file.advertised_port),
        node_id: given.node_id.or(file.node_id).unwrap_or(1),
        data_dir: given.data_dir.or(file.data_dir).unwrap_or_else(|| PathBuf::from("./data")),
        metrics_port: given.metrics_port.or(file.metrics_port),
        metrics_addr: given.metrics_addr.or(file.metrics_addr),
        shards: given.shards.or(file.shards),
        cpus: given.cpus.or(file.cpus).as_deref().map(CpuList::parse).transpose()?,
        no_pin: given.no_pin.or(file.no_pin).unwrap_or(false),
        busy_poll_us: given.busy_poll_us.or(file.busy_poll_us),
        log_level: given.log_level.or(file.log_level).unwrap_or_else(|| "info".to_owned()),
        log_format,
        bootstrap_server: given.bootstrap_server.or(file.bootstrap_server),
        raft_addr,
        peers,
        bootstrap,
        join,
        cluster_options: names_given(&cluster_options),
        broker_options: names_given(&broker_options),
        settings,
    };
    check(&options)?;
    Ok(options)
}

fn names_given(options: &[(&'static str, bool)]) -> Vec<&'static str> {
    options.iter().filter(|(_, is_given)| *is_given).map(|(name, _)| *name).collect()
}

fn check(options: &Options) -> Result<(), String> {
    if options.node_id < 0 {
        return Err(format!("--node-id {} is below 0", options.node_id));
    }
    if options.shards.is_some_and(|shards| !(1..=SHARDS_MAX).contains(&shards)) {
        return Err(format!("--shards must be 1 to {SHARDS_MAX}"));
    }
    if options.busy_poll_us.is_some_and(|us| us > BUSY_POLL_US_MAX) {
        return Err(format!("--busy-poll-us must be 0 to {BUSY_POLL_US_MAX}"));
    }
    if options.advertised_port == Some(0) {
        return Err("--advertised-port 0 is no port that clients can connect to".to_owned());
    }
    for (name, address) in [
        ("bind-addr", Some(&options.bind_addr)),
        ("advertised-addr", options.advertised_addr.as_ref()),
        ("metrics-addr", options.metrics_addr.as_ref()),
    ] {
        if address.is_some_and(|address| address.trim().is_empty()) {
            return Err(format!("--{name} is empty"));
        }
    }
    Ok(())
}

fn split_setting(setting: &str, source: &str) -> Result<(String, String), String> {
    match setting.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err(format!("{source} {setting:?} is not NAME=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_global_option_has_its_variable_and_its_name_in_the_file() {
        for argument in CommandLine::command().get_arguments() {
            let Some(name) = argument.get_long() else { continue };
            if matches!(name, "help" | "version" | "set") {
                continue;
            }
            let variable = format!("CHRONIK_{}", name.replace('-', "_").to_uppercase());
            assert_eq!(argument.get_env().and_then(|env| env.to_str()), Some(variable.as_str()), "--{name}");
            if name != "config" {
                let refused = toml::from_str::<ConfigFile>(&format!("{name} = 1979-05-27"));
                let message = refused.expect_err("no option is a date").message().to_owned();
                assert!(!message.contains("unknown field"), "--{name}: {message}");
            }
        }
    }

    fn options(given: GlobalOptions, variable: Option<&str>, file: &str) -> Result<Options, String> {
        merge(given, variable, toml::from_str(file).expect("a well-formed file"))
    }

    #[test]
    fn defaults_hold_where_nothing_is_said() {
        let expected = Options {
            kafka_port: 9092,
            bind_addr: "0.0.0.0".to_owned(),
            advertised_addr: None,
            advertised_port: None,
            node_id: 1,
            data_dir: PathBuf::from("./data"),
            metrics_port: None,
            metrics_addr: None,
            shards: None,
            cpus: None,
            no_pin: false,
            busy_poll_us: None,
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
            bootstrap_server: None,
            raft_addr: None,
            peers: Vec::new(),
            bootstrap: false,
            join: false,
            cluster_options: Vec::new(),
            broker_options: Vec::new(),
            settings: BTreeMap::new(),
        };
        assert_eq!(options(GlobalOptions::default(), None, ""), Ok(expected));
    }

    #[test]
    fn settings_override_one_by_one() {
        let given = GlobalOptions { set: vec!["a=3".to_owned(), "d = x=y".to_owned()], ..Default::default() };
        let options = options(given, Some("a=2;b=2;"), "settings.a = 1\nsettings.b = 1\nsettings.c = 1");
        let settings = options.expect("valid").settings;
        let expected = [("a", "3"), ("b", "2"), ("c", "1"), ("d", "x=y")];
        assert_eq!(settings, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn impossible_values_are_refused() {
        let refused = |file: &str| options(GlobalOptions::default(), None, file).expect_err("refused");
        assert_eq!(refused("node-id = -1"), "--node-id -1 is below 0");
        assert_eq!(refused("shards = 0"), "--shards must be 1 to 256");
        assert_eq!(refused("shards = 257"), "--shards must be 1 to 256");
        assert_eq!(
            refused("advertised-port = 0"),
            "--advertised-port 0 is no port that clients can connect to"
        );
        assert_eq!(refused("bind-addr = ' '"), "--bind-addr is empty");
        assert_eq!(
            refused("log-format = 'xml'"),
            "log-format \"xml\" in the configuration file is neither text nor json"
        );
        let set = |set: &str| GlobalOptions { set: vec![set.to_owned()], ..Default::default() };
        assert_eq!(
            options(set("num.partitions"), None, "").expect_err("refused"),
            "--set \"num.partitions\" is not NAME=VALUE"
        );
    }

    #[test]
    fn peers_are_written_in_several_ways() {
        let addresses =
            |given: GlobalOptions, file: &str| options(given, None, file).map(|options| options.peers);
        let peer =
            |node, host: &str, port| PeerAddress { node: types::NodeId(node), host: host.to_owned(), port };
        let expected = vec![peer(2, "b", 9292), peer(3, "::1", 9392)];
        let text = "peers = ['2@b:9292', '3@[::1]:9392']";
        let tables =
            "[[peers]]\nnode-id = 2\nhost = 'b'\nport = 9292\n[[peers]]\nnode-id = 3\naddress = '[::1]:9392'";
        assert_eq!(addresses(GlobalOptions::default(), text), Ok(expected.clone()));
        assert_eq!(addresses(GlobalOptions::default(), tables), Ok(expected));
        let given = GlobalOptions { peers: vec!["4@c:1".to_owned()], ..Default::default() };
        assert_eq!(addresses(given, text), Ok(vec![peer(4, "c", 1)]), "the command line's alone");
        let refused = |file: &str| addresses(GlobalOptions::default(), file).expect_err("refused");
        assert_eq!(refused("peers = ['b:9292']"), "peer \"b:9292\" is not ID@HOST:PORT");
        assert_eq!(
            refused("[[peers]]\nnode-id = 2\nhost = 'b'"),
            "peer 2 in the configuration file needs either host and port, or address = \"host:port\""
        );
    }

    #[test]
    fn the_port_for_brokers_follows_the_kafka_port() {
        let address = |file: &str| {
            options(GlobalOptions::default(), None, file)
                .expect("valid")
                .raft_address()
                .map_err(|error| error.to_string())
        };
        assert_eq!(address(""), Ok(("0.0.0.0".to_owned(), 9192)));
        assert_eq!(address("kafka-port = 0\nbind-addr = 'a'"), Ok(("a".to_owned(), 0)));
        assert_eq!(address("raft-addr = '[::]:7'"), Ok(("::".to_owned(), 7)));
        assert_eq!(address("raft-addr = '9192'"), Err("--raft-addr \"9192\" is not HOST:PORT".to_owned()));
        let refused = address("kafka-port = 65436").expect_err("no port");
        assert_eq!(refused, "the Kafka port 65436 + 100 is no port: choose one with --raft-addr");
    }

    #[test]
    fn the_metrics_port_follows_the_kafka_port() {
        let port = |file: &str| options(GlobalOptions::default(), None, file).expect("valid").metrics_port();
        assert_eq!(port("").ok(), Some(10_092));
        assert_eq!(port("kafka-port = 0").ok(), Some(0));
        assert_eq!(port("kafka-port = 64535").ok(), Some(65_535));
        assert_eq!(port("kafka-port = 64536").map_err(|error| error.reason()), Err(ExitReason::Usage));
        assert_eq!(port("kafka-port = 64536\nmetrics-port = 1").ok(), Some(1));
    }
}
