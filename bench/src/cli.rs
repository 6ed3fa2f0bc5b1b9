//! The command line.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

mod series;

pub use series::{
    BacklogOptions, CompareOptions, IdleOptions, SearchOptions, SweepOptions, Varied, WorkloadOptions,
};

use crate::{error::BenchError, frames::STAMP_BYTES};

/// Measures throughput and latency of a broker over the Kafka protocol.
///
/// Latency counts from the time a request was due, not from when it was sent, so that stalls are not hidden. The
/// floor of the machine is measured in the same run: a loopback round trip and a durable 4-KiB write, half way between the
/// load's requests and, before and after it, back to back; memory copy and CRC-32C.
///
/// Tables go to standard output, a progress bar to standard error where that is a terminal.
///
/// Exit code: 0 without errors, 1 when the broker answered errors or left requests unanswered (they are counted and
/// shown, nothing is retried), 2 when the run could not be made.
#[derive(Clone, Debug, Parser)]
#[command(name = "chronik-bench", version, max_term_width = 110)]
pub struct Cli {
    /// What to measure.
    #[command(subcommand)]
    pub command: Command,
}

/// The measurements.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Produce batches: latency at a fixed rate (--rate), or the highest throughput (--max).
    Produce(ProduceOptions),
    /// Read partitions from their start to their end as of now: throughput of Fetch, from memory or from disk.
    Consume(ConsumeOptions),
    /// Produce single records with acks=all at a low fixed rate and read them back: latency of Produce, and end to end.
    Latency(LatencyOptions),
    /// A standard workload by its name, those of the OpenMessaging benchmark among them.
    Workload(WorkloadOptions),
    /// The highest rate whose 99th percentile stays within a bound.
    Search(SearchOptions),
    /// The same load again and again, with one thing different: partitions, record size, producers, rate, or keys.
    Sweep(SweepOptions),
    /// Fill a topic, then read it to its end while producing goes on.
    Backlog(BacklogOptions),
    /// What the broker costs at rest with so many partitions.
    Idle(IdleOptions),
    /// Two reports side by side.
    Compare(CompareOptions),
}

impl Command {
    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Produce(_) => "produce",
            Command::Consume(_) => "consume",
            Command::Latency(_) => "latency",
            Command::Workload(_) => "workload",
            Command::Search(_) => "search",
            Command::Sweep(_) => "sweep",
            Command::Backlog(_) => "backlog",
            Command::Idle(_) => "idle",
            Command::Compare(_) => "compare",
        }
    }

    /// The options that all commands have which use a broker.
    pub fn common(&self) -> Option<&CommonOptions> {
        match self {
            Command::Produce(options) => Some(&options.common),
            Command::Consume(options) => Some(&options.common),
            Command::Latency(options) => Some(&options.common),
            Command::Workload(options) => Some(&options.common),
            Command::Search(options) => Some(&options.common),
            Command::Sweep(options) => Some(&options.common),
            Command::Backlog(options) => Some(&options.common),
            Command::Idle(options) => Some(&options.common),
            Command::Compare(_) => None,
        }
    }

    /// The options as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        let json = match self {
            Command::Produce(options) => serde_json::to_value(options),
            Command::Consume(options) => serde_json::to_value(options),
            Command::Latency(options) => serde_json::to_value(options),
            Command::Workload(options) => serde_json::to_value(options),
            Command::Search(options) => serde_json::to_value(options),
            Command::Sweep(options) => serde_json::to_value(options),
            Command::Backlog(options) => serde_json::to_value(options),
            Command::Idle(options) => serde_json::to_value(options),
            Command::Compare(options) => serde_json::to_value(options),
        };
        json.expect("options are plain data")
    }
}

/// What every command needs to know.
#[derive(Clone, Debug, Args, Serialize)]
pub struct CommonOptions {
    /// A broker of the cluster, host:port.
    #[arg(long, value_name = "HOST:PORT")]
    pub bootstrap: String,
    /// Topic to use; may be given several times.
    #[arg(long = "topic", value_name = "NAME", default_value = "chronik-bench")]
    pub topics: Vec<String>,
    /// Create the topics first, and delete them afterwards unless --keep is given.
    #[arg(long)]
    pub create_topic: bool,
    /// Leave the topics that --create-topic made.
    #[arg(long, requires = "create_topic")]
    pub keep: bool,
    /// Partitions of each topic: as created, or the first so many of an existing topic (default there: all).
    #[arg(long, value_name = "COUNT")]
    pub partitions: Option<u32>,
    /// Replicas of each created partition.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub replication_factor: i16,
    /// Configuration of created topics; may be given several times.
    #[arg(long = "topic-config", value_name = "KEY=VALUE")]
    pub topic_configs: Vec<String>,
    /// Threads that put load on the broker; connections are dealt out to them.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub threads: usize,
    /// Seconds to wait for a connection, an answer, a leader, or for what is outstanding when the load ends.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub timeout: u64,
    /// Process whose CPU time, memory and context switches are reported; may be given several times.
    #[arg(long = "broker-pid", value_name = "PID")]
    pub broker_pids: Vec<u32>,
    /// Directory in which the floor of a durable write is measured: on the broker's device.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub floor_dir: PathBuf,
    /// Do not measure the floor.
    #[arg(long)]
    pub no_floor: bool,
    /// Write the report as JSON too.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report as one HTML page too, with plots.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// What is measured, for the report's title and for `compare`.
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
}

/// The load of the commands that produce.
#[derive(Clone, Debug, Args, Serialize)]
pub struct LoadOptions {
    /// Bytes of each record's value: 100, 1KiB, 64KiB.
    #[arg(long, value_name = "BYTES", default_value = "1KiB")]
    pub record_size: ByteCount,
    /// Records per batch; a request carries one batch for one partition.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub batch_records: usize,
    /// Producers: each has one connection to every broker that leads a partition, and writes to all partitions in turn.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub connections: usize,
    /// Consumers that read along, the partitions dealt out to them: latency end to end, at a fixed rate.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub consumers: usize,
    /// Records have keys, and partitions are taken as Kafka's default partitioner maps random ones, not in turn.
    #[arg(long)]
    pub keyed: bool,
    /// Seconds that are measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub duration: f64,
    /// Seconds of load before the measurement.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub warm_up: f64,
    /// What the broker waits for before it answers.
    #[arg(long, value_enum, default_value = "all")]
    pub acks: Acks,
    /// Microseconds before a request is due in which the client spins instead of sleeping.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    pub spin_us: u64,
}

/// Options of `produce`.
#[derive(Clone, Debug, Args, Serialize)]
pub struct ProduceOptions {
    /// What every command needs to know.
    #[command(flatten)]
    pub common: CommonOptions,
    /// Records per second over all connections: open load, sent on schedule whatever the broker does.
    #[arg(long, value_name = "RECORDS", required_unless_present = "max", conflicts_with = "max")]
    pub rate: Option<f64>,
    /// Closed load for throughput: each connection keeps --in-flight requests outstanding. Its latencies are those of a
    /// saturated queue.
    #[arg(long)]
    pub max: bool,
    /// Requests that each connection keeps outstanding with --max.
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    pub in_flight: usize,
    /// The load.
    #[command(flatten)]
    pub load: LoadOptions,
}

/// Options of `consume`.
#[derive(Clone, Debug, Args, Serialize)]
pub struct ConsumeOptions {
    /// What every command needs to know.
    #[command(flatten)]
    pub common: CommonOptions,
    /// Consumers: each has one connection to every broker that leads one of its share of the partitions.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub connections: usize,
    /// Bytes that one Fetch may return.
    #[arg(long, value_name = "BYTES", default_value = "8MiB")]
    pub fetch_max_bytes: ByteCount,
    /// Bytes that one Fetch may return of each partition.
    #[arg(long, value_name = "BYTES", default_value = "1MiB")]
    pub partition_max_bytes: ByteCount,
    /// Times that the partitions are read.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub passes: usize,
}

/// Options of `latency`.
#[derive(Clone, Debug, Args, Serialize)]
pub struct LatencyOptions {
    /// What every command needs to know.
    #[command(flatten)]
    pub common: CommonOptions,
    /// Records per second over all partitions, one per request.
    #[arg(long, value_name = "RECORDS", default_value_t = 200.0)]
    pub rate: f64,
    /// Bytes of each record's value, at least 16.
    #[arg(long, value_name = "BYTES", default_value = "100")]
    pub record_size: ByteCount,
    /// Seconds that are measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub duration: f64,
    /// Seconds of load before the measurement.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub warm_up: f64,
    /// Do not read the records back: produce latency only.
    #[arg(long)]
    pub no_consume: bool,
    /// Microseconds before a request is due in which the client spins instead of sleeping, so that the client's own
    /// timer does not count as latency.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 200)]
    pub spin_us: u64,
}

/// What the broker waits for before it answers a Produce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Acks {
    /// All in-sync replicas.
    #[value(alias = "-1")]
    All,
    /// The leader.
    #[value(name = "1")]
    #[serde(rename = "1")]
    Leader,
    /// Nothing: there is no answer, and latency ends when the socket has taken the request.
    #[value(name = "0")]
    #[serde(rename = "0")]
    None,
}

impl Acks {
    /// The value on the wire.
    pub fn wire(self) -> i16 {
        match self {
            Acks::All => -1,
            Acks::Leader => 1,
            Acks::None => 0,
        }
    }
}

/// A count of bytes, from 1 to 2³¹−1, written with an optional unit: `100`, `1KiB`, `64k`, `8MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ByteCount(pub usize);

impl FromStr for ByteCount {
    type Err = String;

    fn from_str(text: &str) -> Result<ByteCount, String> {
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let factor: u64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "kb" => 1_000,
            "m" | "mib" => 1 << 20,
            "mb" => 1_000_000,
            unit => return Err(format!("unknown unit {unit:?}: use B, KiB, MiB, kB or MB")),
        };
        let bytes = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(factor));
        match bytes {
            Some(bytes) if (1..=i32::MAX as u64).contains(&bytes) => Ok(ByteCount(bytes as usize)),
            _ => Err("a count from 1 byte to 2 GiB is needed".to_owned()),
        }
    }
}

/// Bytes of one batch beyond which producers are refused: no broker takes so much.
const BATCH_BYTES_MAX: usize = 128 << 20;
const TOPIC_PARTITIONS_MAX: u32 = 100_000;

impl Command {
    /// Checks what the parser cannot.
    ///
    /// # Errors
    ///
    /// [`BenchError::Options`].
    pub fn validate(&self) -> Result<(), BenchError> {
        if let Some(common) = self.common() {
            common.validate()?;
        }
        match self {
            Command::Produce(options) => {
                if options.in_flight == 0 {
                    return refuse("--in-flight is at least 1");
                }
                validate_rate(options.rate.unwrap_or(1.0))?;
                options.load.validate(options.rate.is_some(), &options.common)
            }
            Command::Consume(options) => {
                if options.connections == 0 || options.passes == 0 {
                    return refuse("--connections and --passes are at least 1");
                }
                if options.connections < options.common.threads {
                    return refuse("--threads is at most --connections");
                }
                if options.common.create_topic {
                    return refuse("consume reads a topic that is there: fill it with produce --keep");
                }
                Ok(())
            }
            Command::Latency(options) => {
                if options.record_size.0 < STAMP_BYTES {
                    return refuse("--record-size is at least 16: records carry their time");
                }
                if options.common.threads != 1 {
                    return refuse("latency uses one thread");
                }
                validate_rate(options.rate)?;
                validate_seconds(options.duration, options.warm_up)
            }
            Command::Workload(options) => options.validate(),
            Command::Search(options) => options.validate(),
            Command::Sweep(options) => options.validate(),
            Command::Backlog(options) => options.validate(),
            Command::Idle(options) => options.validate(),
            Command::Compare(_) => Ok(()),
        }
    }
}

impl CommonOptions {
    fn validate(&self) -> Result<(), BenchError> {
        if self.threads == 0 || self.partitions == Some(0) || self.timeout == 0 {
            return refuse("--threads, --partitions and --timeout are at least 1");
        }
        if self.partitions.is_some_and(|count| count > TOPIC_PARTITIONS_MAX) {
            return refuse("--partitions is at most 100000");
        }
        let mut names = self.topics.clone();
        names.sort();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return refuse("a --topic is given twice");
        }
        if let Some(config) = self.topic_configs.iter().find(|config| !config.contains('=')) {
            return refuse(&format!("--topic-config {config} is not KEY=VALUE"));
        }
        Ok(())
    }
}

impl LoadOptions {
    /// Checks a load, which has a rate or is closed.
    ///
    /// # Errors
    ///
    /// [`BenchError::Options`].
    pub fn validate(&self, has_rate: bool, common: &CommonOptions) -> Result<(), BenchError> {
        if self.batch_records == 0 || self.connections == 0 {
            return refuse("--batch-records and --connections are at least 1");
        }
        if self.batch_records.saturating_mul(self.record_size.0) > BATCH_BYTES_MAX {
            return refuse("a batch is at most 128 MiB");
        }
        if self.connections < common.threads {
            return refuse("--threads is at most --connections");
        }
        if has_rate && self.consumers > 0 && self.record_size.0 < STAMP_BYTES {
            return refuse("--record-size is at least 16 with --consumers: records carry their time");
        }
        if self.consumers > 0 && self.acks == Acks::None {
            return refuse("--consumers read what was acknowledged: --acks is all or 1");
        }
        validate_seconds(self.duration, self.warm_up)
    }
}

fn refuse(why: &str) -> Result<(), BenchError> {
    Err(BenchError::Options(why.to_owned()))
}

fn validate_rate(rate: f64) -> Result<(), BenchError> {
    if rate > 0.0 && rate <= 1e9 { Ok(()) } else { refuse("--rate is above 0 and at most 1e9") }
}

fn validate_seconds(duration: f64, warm_up: f64) -> Result<(), BenchError> {
    const SECONDS_MAX: f64 = 1e6;
    if duration > 0.0 && duration <= SECONDS_MAX && (0.0..=SECONDS_MAX).contains(&warm_up) {
        return Ok(());
    }
    refuse("--duration is above 0, --warm-up at least 0")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use expect_test::expect;

    use super::*;

    fn parse(line: &str) -> Result<Cli, String> {
        let cli = Cli::try_parse_from(format!("chronik-bench {line}").split_whitespace())
            .map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())?;
        cli.command.validate().map_err(|error| error.to_string())?;
        Ok(cli)
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_has_help() {
        for command in Cli::command().get_subcommands() {
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
        }
    }

    #[test]
    fn byte_counts_have_units() {
        for (text, bytes) in
            [("100", 100), ("1KiB", 1024), ("64k", 65_536), ("8MiB", 8 << 20), ("1kB", 1_000), ("3b", 3)]
        {
            assert_eq!(text.parse::<ByteCount>().unwrap(), ByteCount(bytes), "{text}");
        }
        for text in ["", "KiB", "-1", "0", "1GiB", "4096MiB", "1.5k", "99999999999999999999"] {
            assert!(text.parse::<ByteCount>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refusals: Vec<String> = [
            "produce --bootstrap a:1",
            "produce --bootstrap a:1 --rate 5 --max",
            "produce --bootstrap a:1 --rate 0",
            "produce --bootstrap a:1 --rate 5 --keep",
            "produce --bootstrap a:1 --max --record-size 1MiB --batch-records 500",
            "produce --bootstrap a:1 --max --topic x --topic x",
            "consume --bootstrap a:1 --create-topic",
            "latency --bootstrap a:1 --record-size 10",
            "latency --bootstrap a:1 --topic-config retention",
            "latency --bootstrap a:1 --duration NaN",
            "produce --bootstrap a:1 --rate 5 --consumers 1 --record-size 10",
            "produce --bootstrap a:1 --rate 5 --consumers 1 --acks 0",
            "sweep --bootstrap a:1 --over partitions --values 1,x --rate 5",
            "sweep --bootstrap a:1 --over keys --values maybe --rate 5",
            "search --bootstrap a:1 --from 10 --to 5",
            "idle --bootstrap a:1",
            "compare a.json",
        ]
        .iter()
        .map(|line| format!("{line}\n  {}", parse(line).unwrap_err()))
        .collect();
        expect![[r#"
            produce --bootstrap a:1
              error: the following required arguments were not provided:
            produce --bootstrap a:1 --rate 5 --max
              error: the argument '--rate <RECORDS>' cannot be used with '--max'
            produce --bootstrap a:1 --rate 0
              --rate is above 0 and at most 1e9
            produce --bootstrap a:1 --rate 5 --keep
              error: the following required arguments were not provided:
            produce --bootstrap a:1 --max --record-size 1MiB --batch-records 500
              a batch is at most 128 MiB
            produce --bootstrap a:1 --max --topic x --topic x
              a --topic is given twice
            consume --bootstrap a:1 --create-topic
              consume reads a topic that is there: fill it with produce --keep
            latency --bootstrap a:1 --record-size 10
              --record-size is at least 16: records carry their time
            latency --bootstrap a:1 --topic-config retention
              --topic-config retention is not KEY=VALUE
            latency --bootstrap a:1 --duration NaN
              --duration is above 0, --warm-up at least 0
            produce --bootstrap a:1 --rate 5 --consumers 1 --record-size 10
              --record-size is at least 16 with --consumers: records carry their time
            produce --bootstrap a:1 --rate 5 --consumers 1 --acks 0
              --consumers read what was acknowledged: --acks is all or 1
            sweep --bootstrap a:1 --over partitions --values 1,x --rate 5
              --values: x is not a value of --over
            sweep --bootstrap a:1 --over keys --values maybe --rate 5
              --values: maybe is not a value of --over
            search --bootstrap a:1 --from 10 --to 5
              --from is at most --to, --precision at least 0.001 and --p99-ms above 0
            idle --bootstrap a:1
              idle needs the broker's --broker-pid
            compare a.json
              error: the following required arguments were not provided:"#]]
        .assert_eq(&refusals.join("\n"));
    }

    #[test]
    fn acks_are_those_of_the_wire() {
        for (text, wire) in [("all", -1), ("-1", -1), ("1", 1), ("0", 0)] {
            let cli = parse(&format!("produce --bootstrap a:1 --max --acks={text}")).unwrap();
            let Command::Produce(options) = cli.command else { panic!("produce was parsed") };
            assert_eq!(options.load.acks.wire(), wire);
        }
    }
}
