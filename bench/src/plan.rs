//! What a run is to do, whichever command asked for it.

use std::time::Duration;

use crate::{
    cli::{Acks, CommonOptions, LatencyOptions, LoadOptions},
    producer::Pace,
};

/// The topics of a run.
#[derive(Clone, Debug)]
pub struct TopicPlan {
    /// Their names.
    pub names: Vec<String>,
    /// Whether they are made first.
    pub is_created: bool,
    /// Whether those that were made are left.
    pub is_kept: bool,
    /// Partitions of each: as made, or the first so many (all) of what is there.
    pub partitions: Option<u32>,
    /// `key=value` for those that are made.
    pub configs: Vec<String>,
}

impl TopicPlan {
    /// The topics as the command line says.
    pub fn new(common: &CommonOptions) -> TopicPlan {
        TopicPlan {
            names: common.topics.clone(),
            is_created: common.create_topic,
            is_kept: common.keep,
            partitions: common.partitions,
            configs: common.topic_configs.clone(),
        }
    }

    /// Topics of a run of its own, made for it and deleted behind it.
    pub fn own(common: &CommonOptions, suffix: &str) -> TopicPlan {
        let names = common.topics.iter().map(|name| format!("{name}-{suffix}")).collect();
        TopicPlan { names, is_created: true, is_kept: false, ..TopicPlan::new(common) }
    }

    /// Whether retention is one of their configurations.
    pub fn has_retention(&self) -> bool {
        self.configs.iter().any(|config| config.starts_with("retention."))
    }
}

/// How fast records are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// On schedule.
    RecordsPerSecond(f64),
    /// As fast as answers come.
    Highest {
        /// Requests that each connection keeps outstanding.
        in_flight: usize,
    },
}

/// A load that produces, and may read along.
#[derive(Clone, Debug)]
pub struct ProducePlan {
    /// How fast.
    pub rate: Rate,
    /// Bytes of each record's value.
    pub record_bytes: usize,
    /// Records of each batch.
    pub batch_records: usize,
    /// What the broker waits for.
    pub acks: Acks,
    /// Whether records have keys.
    pub is_keyed: bool,
    /// Producers.
    pub producers: usize,
    /// Consumers that read along.
    pub consumers: usize,
    /// Seconds before the measured part.
    pub warm_up: f64,
    /// Seconds of it.
    pub duration: f64,
    /// Microseconds of spinning before a request is due.
    pub spin_us: u64,
    /// Requests after which a load at the highest rate ends, before its time is over.
    pub requests_max: Option<u64>,
    /// Milliseconds that an answer may take before the run is given up.
    pub lag_ms_max: Option<f64>,
}

impl ProducePlan {
    /// A load as the command line says.
    pub fn new(load: &LoadOptions, rate: Rate) -> ProducePlan {
        ProducePlan {
            rate,
            record_bytes: load.record_size.0,
            batch_records: load.batch_records,
            acks: load.acks,
            is_keyed: load.keyed,
            producers: load.connections,
            consumers: load.consumers,
            warm_up: load.warm_up,
            duration: load.duration,
            spin_us: load.spin_us,
            requests_max: None,
            lag_ms_max: None,
        }
    }

    /// The load of `latency`.
    pub fn latency(options: &LatencyOptions) -> ProducePlan {
        ProducePlan {
            rate: Rate::RecordsPerSecond(options.rate),
            record_bytes: options.record_size.0,
            batch_records: 1,
            acks: Acks::All,
            is_keyed: false,
            producers: 1,
            consumers: usize::from(!options.no_consume),
            warm_up: options.warm_up,
            duration: options.duration,
            spin_us: options.spin_us,
            requests_max: None,
            lag_ms_max: None,
        }
    }

    /// When requests are made.
    pub fn pace(&self) -> Pace {
        match self.rate {
            Rate::RecordsPerSecond(rate) => {
                Pace::Open { requests_per_second: rate / self.batch_records as f64 }
            }
            Rate::Highest { in_flight } => Pace::Closed { in_flight },
        }
    }
}

/// Partitions that are read to their end.
#[derive(Clone, Debug)]
pub struct ConsumePlan {
    /// Consumers; partitions are dealt out to them.
    pub consumers: usize,
    /// Bytes that one Fetch may return.
    pub bytes_max: usize,
    /// Bytes that one Fetch may return of each partition.
    pub partition_bytes_max: usize,
    /// Times that everything is read.
    pub passes: usize,
    /// Whether another load runs at the same time, which then has the floor to itself.
    pub is_beside_load: bool,
}

/// A time without load.
#[derive(Clone, Copy, Debug)]
pub struct IdlePlan {
    /// Before the measurement.
    pub settle: Duration,
    /// Of the measurement.
    pub duration: Duration,
}
