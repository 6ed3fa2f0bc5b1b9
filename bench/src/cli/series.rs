//! Options of the commands that make several runs.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{
    ByteCount, CommonOptions, LoadOptions, TOPIC_PARTITIONS_MAX, refuse, validate_rate, validate_seconds,
};
use crate::{error::BenchError, workloads::WorkloadName};

/// Options of `workload`.
#[derive(Clone, Debug, Args, Serialize)]
pub struct WorkloadOptions {
    /// Which one.
    #[arg(value_enum)]
    pub name: WorkloadName,
    /// What every command needs to know. The topic is made, with the workload's partitions.
    #[command(flatten)]
    pub common: CommonOptions,
    /// Records per second instead of the workload's.
    #[arg(long, value_name = "RECORDS")]
    pub rate: Option<f64>,
    /// Seconds that are measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    pub duration: f64,
    /// Seconds of load before the measurement.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    pub warm_up: f64,
}

impl WorkloadOptions {
    pub(super) fn validate(&self) -> Result<(), BenchError> {
        validate_rate(self.rate.unwrap_or(1.0))?;
        validate_seconds(self.duration, self.warm_up)
    }
}

/// Options of `search`. Each rate is tried for --duration seconds, twice before it counts as too high.
#[derive(Clone, Debug, Args, Serialize)]
pub struct SearchOptions {
    /// What every command needs to know.
    #[command(flatten)]
    pub common: CommonOptions,
    /// The load.
    #[command(flatten)]
    pub load: LoadOptions,
    /// The bound on the 99th percentile from due to answered.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 50.0)]
    pub p99_ms: f64,
    /// Records per second to begin with; doubled as long as the bound holds.
    #[arg(long, value_name = "RECORDS", default_value_t = 1000.0)]
    pub from: f64,
    /// Records per second to end with.
    #[arg(long, value_name = "RECORDS", default_value_t = 10_000_000.0)]
    pub to: f64,
    /// How close the highest rate found and the lowest one that is too high come: 0.05 is 5 %.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    pub precision: f64,
}

impl SearchOptions {
    pub(super) fn validate(&self) -> Result<(), BenchError> {
        validate_rate(self.from)?;
        validate_rate(self.to)?;
        if self.from > self.to || !(self.precision >= 0.001 && self.p99_ms > 0.0) {
            return refuse("--from is at most --to, --precision at least 0.001 and --p99-ms above 0");
        }
        self.load.validate(true, &self.common)
    }
}

/// Options of `sweep`. A topic of its own is made for each value.
#[derive(Clone, Debug, Args, Serialize)]
pub struct SweepOptions {
    /// What every command needs to know.
    #[command(flatten)]
    pub common: CommonOptions,
    /// The load.
    #[command(flatten)]
    pub load: LoadOptions,
    /// Records per second over all producers, the same in every run unless it is what varies.
    #[arg(long, value_name = "RECORDS")]
    pub rate: f64,
    /// What varies.
    #[arg(long, value_enum)]
    pub over: Varied,
    /// Its values: 1,10,100 or, for record sizes, 100,1KiB,64KiB, or, for keys, keyed,unkeyed.
    #[arg(long, value_name = "LIST", value_delimiter = ',', required = true)]
    pub values: Vec<String>,
}

/// What differs from run to run of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Varied {
    /// Partitions of the topic.
    Partitions,
    /// Bytes of a record's value.
    RecordSize,
    /// Producers (--connections).
    Producers,
    /// Records per second.
    Rate,
    /// With keys, and without.
    Keys,
}

impl SweepOptions {
    /// The sweep's run with one of its values.
    ///
    /// # Errors
    ///
    /// [`BenchError::Options`] for a value that means nothing.
    pub fn with(&self, value: &str) -> Result<SweepOptions, BenchError> {
        let mut run = self.clone();
        let refused = || BenchError::Options(format!("--values: {value} is not a value of --over"));
        let count = || value.parse::<u32>().ok().filter(|&count| count > 0).ok_or_else(refused);
        match self.over {
            Varied::Partitions => run.common.partitions = Some(count()?),
            Varied::Producers => run.load.connections = count()? as usize,
            Varied::RecordSize => run.load.record_size = value.parse::<ByteCount>().map_err(|_| refused())?,
            Varied::Rate => run.rate = value.parse().map_err(|_| refused())?,
            Varied::Keys => match value {
                "keyed" => run.load.keyed = true,
                "unkeyed" => run.load.keyed = false,
                _ => return Err(refused()),
            },
        }
        Ok(run)
    }

    pub(super) fn validate(&self) -> Result<(), BenchError> {
        for value in &self.values {
            let run = self.with(value)?;
            if run.common.partitions.is_some_and(|count| count > TOPIC_PARTITIONS_MAX) {
                return refuse("--partitions is at most 100000");
            }
            validate_rate(run.rate)?;
            run.load.validate(true, &run.common)?;
        }
        Ok(())
    }
}

/// Options of `backlog`.
#[derive(Clone, Debug, Args, Serialize)]
pub struct BacklogOptions {
    /// What every command needs to know.
    #[command(flatten)]
    pub common: CommonOptions,
    /// The load. Its consumers, one if there are none, begin when the topic is full.
    #[command(flatten)]
    pub load: LoadOptions,
    /// MiB of record values to fill the topic with.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub backlog_mib: u64,
    /// Records per second that are produced while the backlog is read.
    #[arg(long, value_name = "RECORDS", default_value_t = 1000.0)]
    pub rate: f64,
}

impl BacklogOptions {
    pub(super) fn validate(&self) -> Result<(), BenchError> {
        if self.backlog_mib == 0 || self.backlog_mib > 1 << 30 {
            return refuse("--backlog-mib is at least 1 and at most 2^30");
        }
        validate_rate(self.rate)?;
        self.load.validate(false, &self.common)
    }
}

/// Options of `idle`.
#[derive(Clone, Debug, Args, Serialize)]
pub struct IdleOptions {
    /// What every command needs to know.
    #[command(flatten)]
    pub common: CommonOptions,
    /// Seconds that are measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 20.0)]
    pub duration: f64,
    /// Seconds before, after the partitions are made and have leaders.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    pub warm_up: f64,
}

impl IdleOptions {
    pub(super) fn validate(&self) -> Result<(), BenchError> {
        if self.common.broker_pids.is_empty() {
            return refuse("idle needs the broker's --broker-pid");
        }
        validate_seconds(self.duration, self.warm_up)
    }
}

/// Options of `compare`.
#[derive(Clone, Debug, Args, Serialize)]
pub struct CompareOptions {
    /// What the others are multiples of, written by --json.
    pub first: PathBuf,
    /// What is compared with it.
    pub second: PathBuf,
}
