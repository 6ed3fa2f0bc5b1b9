//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::error::LoadtestError;

/// Load and faults over real chronik-server processes, and an independent judge of what their clients saw.
///
/// Exit code: 0 when everything holds (or the scenario is skipped, with the reason), 1 when an invariant is broken,
/// 2 when the run could not be made, 3 when a history ends before everything was read back.
#[derive(Clone, Debug, Parser)]
#[command(name = "chronik-loadtest", version, max_term_width = 110, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// Something else than a run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The run.
    #[command(flatten)]
    pub run: RunOptions,
}

/// What there is beside a run.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Judge a history that an earlier run wrote.
    Check {
        /// The history.
        file: PathBuf,
        /// Write a page about it, too.
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
    /// Name the scenarios.
    List,
}

/// Options of a run.
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// Nodes; one runs standalone.
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    pub nodes: u8,
    /// Minutes of load and faults (default: 2, or as long as --rounds take).
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<f64>,
    /// Faults, after which the run ends even if there is time left.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// Repeats the random choices of a run, though not the moments at which processes are scheduled.
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// Which faults: see `list`.
    #[arg(long, value_name = "NAME", default_value = "mix")]
    pub scenario: String,
    /// The broker.
    #[arg(long, value_name = "PATH", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/chronik-server"))]
    pub server: PathBuf,
    /// Where history, report, logs and data go; the data is removed when everything holds.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/loadtest"))]
    pub out: PathBuf,
    /// Partitions of the topic under load.
    #[arg(long, value_name = "COUNT", default_value_t = 6, value_parser = clap::value_parser!(i32).range(1..=1000))]
    pub partitions: i32,
    /// Replicas of each partition (default: 3, or as many as there are nodes).
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..=50))]
    pub replication: Option<i32>,
    /// Records per second of all producers together.
    #[arg(long, value_name = "RECORDS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub rate: u32,
    /// Shards of each node.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub shards: u32,
    /// Seconds within which writes must resume after a fault.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub outage_max: f64,
    /// Megabytes that are written while a follower is away (`catch-up`).
    #[arg(long, value_name = "MEGABYTES", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub away_mb: u64,
    /// A broker setting for all nodes; may be given several times.
    #[arg(long = "set", value_name = "NAME=VALUE", default_values_t = [
        "offsets.topic.num.partitions=4".to_owned(),
        "group.initial.rebalance.delay.ms=100".to_owned(),
    ])]
    pub settings: Vec<String>,
    /// Keep the nodes' data also when everything holds.
    #[arg(long)]
    pub keep: bool,
}

/// More than any run lasts.
const MINUTES_MAX: f64 = 100_000.0;

impl RunOptions {
    /// Minutes of load and faults.
    pub fn minutes(&self) -> f64 {
        self.minutes.unwrap_or(if self.rounds.is_some() { MINUTES_MAX } else { 2.0 })
    }

    /// Replicas of each partition.
    pub fn replication(&self) -> i32 {
        self.replication.unwrap_or_else(|| i32::from(self.nodes).min(3))
    }

    /// Checks what the parser cannot.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::Options`].
    pub fn validate(&self) -> Result<(), LoadtestError> {
        let refuse = |why: String| Err(LoadtestError::Options(why));
        if !(self.minutes() > 0.0 && self.minutes() <= MINUTES_MAX) {
            return refuse("--minutes is above 0".to_owned());
        }
        if !(self.outage_max > 0.0 && self.outage_max <= 3_600.0) {
            return refuse("--outage-max is above 0 and at most an hour".to_owned());
        }
        if self.replication() > i32::from(self.nodes) {
            return refuse("--replication is at most --nodes".to_owned());
        }
        if !self.server.exists() {
            return refuse(format!("{} is not there: cargo build --release", self.server.display()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "--minutes 0",
            "--minutes 1 --rounds 1 --outage-max 0",
            "--nodes 2 --replication 3",
            "--server /nowhere",
        ] {
            let cli = Cli::try_parse_from(["chronik-loadtest"].into_iter().chain(line.split(' '))).unwrap();
            assert!(matches!(cli.run.validate(), Err(LoadtestError::Options(_))), "{line}");
        }
        assert!(Cli::try_parse_from(["chronik-loadtest", "--nodes", "0"]).is_err());
    }
}
