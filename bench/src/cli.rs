//! The command line.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::error::BenchError;

/// Measures throughput and latency of a broker over the Kafka protocol.
///
/// Latency counts from the time a request was due, not from when it was sent, so that stalls are not hidden. The
/// floor of the machine (loopback round trip, durable 4-KiB write, memory copy, CRC-32C) is measured in the same run.
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
}

impl Command {
    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Produce(_) => "produce",
            Command::Consume(_) => "consume",
            Command::Latency(_) => "latency",
        }
    }

    /// The options that all commands have.
    pub fn common(&self) -> &CommonOptions {
        match self {
            Command::Produce(options) => &options.common,
            Command::Consume(options) => &options.common,
            Command::Latency(options) => &options.common,
        }
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
    /// Bytes of each record's value: 100, 1KiB, 64KiB.
    #[arg(long, value_name = "BYTES", default_value = "1KiB")]
    pub record_size: ByteCount,
    /// Records per batch; a request carries one batch for one partition.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub batch_records: usize,
    /// Producers: each has one connection to every broker that leads a partition, and writes to all partitions in turn.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub connections: usize,
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
        let common = self.common();
        let refuse = |why: &str| Err(BenchError::Options(why.to_owned()));
        if common.threads == 0 || common.partitions == Some(0) || common.timeout == 0 {
            return refuse("--threads, --partitions and --timeout are at least 1");
        }
        if common.partitions.is_some_and(|count| count > TOPIC_PARTITIONS_MAX) {
            return refuse("--partitions is at most 100000");
        }
        let mut names = common.topics.clone();
        names.sort();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return refuse("a --topic is given twice");
        }
        if let Some(config) = common.topic_configs.iter().find(|config| !config.contains('=')) {
            return refuse(&format!("--topic-config {config} is not KEY=VALUE"));
        }
        match self {
            Command::Produce(options) => {
                if options.in_flight == 0 || options.batch_records == 0 || options.connections == 0 {
                    return refuse("--in-flight, --batch-records and --connections are at least 1");
                }
                if options.batch_records.saturating_mul(options.record_size.0) > BATCH_BYTES_MAX {
                    return refuse("a batch is at most 128 MiB");
                }
                if options.connections < common.threads {
                    return refuse("--threads is at most --connections");
                }
                validate_load(options.rate.unwrap_or(1.0), options.duration, options.warm_up)
            }
            Command::Consume(options) => {
                if options.connections == 0 || options.passes == 0 {
                    return refuse("--connections and --passes are at least 1");
                }
                if options.connections < common.threads {
                    return refuse("--threads is at most --connections");
                }
                if common.create_topic {
                    return refuse("consume reads a topic that is there: fill it with produce --keep");
                }
                Ok(())
            }
            Command::Latency(options) => {
                if options.record_size.0 < crate::frames::STAMP_BYTES {
                    return refuse("--record-size is at least 16: records carry their time");
                }
                if common.threads != 1 {
                    return refuse("latency uses one thread");
                }
                validate_load(options.rate, options.duration, options.warm_up)
            }
        }
    }
}

fn validate_load(rate: f64, duration: f64, warm_up: f64) -> Result<(), BenchError> {
    const SECONDS_MAX: f64 = 1e6;
    if !(rate > 0.0 && rate <= 1e9) {
        return Err(BenchError::Options("--rate is above 0 and at most 1e9".to_owned()));
    }
    if !(duration > 0.0 && duration <= SECONDS_MAX && (0.0..=SECONDS_MAX).contains(&warm_up)) {
        return Err(BenchError::Options("--duration is above 0, --warm-up at least 0".to_owned()));
    }
    Ok(())
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
              --duration is above 0, --warm-up at least 0"#]]
        .assert_eq(&refusals.join("\n"));
    }

    #[test]
    fn acks_are_those_of_the_wire() {
        for (text, wire) in [("all", -1), ("-1", -1), ("1", 1), ("0", 0)] {
            let cli = parse(&format!("produce --bootstrap a:1 --max --acks={text}")).unwrap();
            let Command::Produce(options) = cli.command else { panic!("produce was parsed") };
            assert_eq!(options.acks.wire(), wire);
        }
    }
}
