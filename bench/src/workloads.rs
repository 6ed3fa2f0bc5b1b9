//! Standard workloads by name. Those of the OpenMessaging benchmark keep its topics, partitions, clients and record
//! sizes; rates and backlogs are scaled to a machine with a few cores, and may be set.

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    cli::Acks,
    plan::{ProducePlan, Rate},
};

/// The names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadName {
    /// OpenMessaging: 16 partitions, 1-KiB records, one producer and one consumer; 10,000 records/s (there: 50,000).
    #[value(name = "1-topic-16-partitions-1kb")]
    Partitions16,
    /// OpenMessaging: 100 partitions, 1-KiB records, four producers and four consumers; 20,000 records/s (there: 500,000).
    #[value(name = "1-topic-100-partitions-1kb-4p-4c")]
    Partitions100,
    /// OpenMessaging: one partition, 100-byte records, one producer and one consumer, as fast as it goes.
    #[value(name = "max-rate-1-topic-1-partition-1p-1c-100b")]
    MaxRate100B,
    /// OpenMessaging: the same with 1-KiB records.
    #[value(name = "max-rate-1-topic-1-partition-1p-1c-1kb")]
    MaxRate1KiB,
    /// OpenMessaging: the same with 64-KiB records.
    #[value(name = "max-rate-1-topic-1-partition-1p-1c-64kb")]
    MaxRate64KiB,
    /// OpenMessaging: one partition, 1-KiB records, 1 GiB read by a late consumer while 10,000 records/s go on being
    /// produced (there: 100 GB, 100,000 records/s).
    #[value(name = "1-topic-1-partition-1kb-backlog")]
    Backlog,
    /// 16 partitions that keep 16 MiB each in segments of 4 MiB, 1-KiB records at 20,000 records/s, so that retention is
    /// at work; set the broker's log.retention.check.interval.ms to a few seconds.
    #[value(name = "retention-1-topic-16-partitions-1kb")]
    Retention,
    /// 16 partitions, 1-KiB records with keys, one producer and one consumer; 10,000 records/s.
    #[value(name = "keyed-1-topic-16-partitions-1kb")]
    Keyed,
}

/// What a workload is made of.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Partitions of its topic.
    pub partitions: u32,
    /// Configurations of its topic.
    pub topic_configs: Vec<String>,
    /// MiB that are there before a consumer begins.
    pub backlog_mib: Option<u64>,
    /// The load. With a backlog, what goes on while it is read.
    pub load: ProducePlan,
}

impl WorkloadName {
    /// The name on the command line.
    pub fn name(self) -> String {
        let value = self.to_possible_value().expect("no name is hidden");
        value.get_name().to_owned()
    }

    /// The workload, with another rate where one is given.
    pub fn workload(self, rate: Option<f64>, duration: f64, warm_up: f64) -> Workload {
        let fixed = |standard: f64| Rate::RecordsPerSecond(rate.unwrap_or(standard));
        let fastest = rate.map_or(Rate::Highest { in_flight: 5 }, Rate::RecordsPerSecond);
        let base = ProducePlan {
            rate: fixed(10_000.0),
            record_bytes: 1 << 10,
            batch_records: 8,
            acks: Acks::All,
            is_keyed: false,
            producers: 1,
            consumers: 1,
            warm_up,
            duration,
            spin_us: 0,
            requests_max: None,
            lag_ms_max: None,
        };
        let plain =
            |partitions, load| Workload { partitions, topic_configs: Vec::new(), backlog_mib: None, load };
        let max_rate = |record_bytes, batch_records| {
            plain(1, ProducePlan { rate: fastest, record_bytes, batch_records, ..base.clone() })
        };
        match self {
            WorkloadName::Partitions16 => plain(16, base),
            WorkloadName::Partitions100 => plain(
                100,
                ProducePlan { rate: fixed(20_000.0), batch_records: 16, producers: 4, consumers: 4, ..base },
            ),
            // The largest batch that Kafka's producer sends unless it is told otherwise is 16 KiB; the benchmark sets 128.
            WorkloadName::MaxRate100B => max_rate(100, 1_280),
            WorkloadName::MaxRate1KiB => max_rate(1 << 10, 128),
            WorkloadName::MaxRate64KiB => max_rate(64 << 10, 2),
            WorkloadName::Backlog => {
                Workload { backlog_mib: Some(1_024), ..plain(1, ProducePlan { batch_records: 16, ..base }) }
            }
            WorkloadName::Retention => Workload {
                topic_configs: ["retention.bytes=16777216", "segment.bytes=4194304"]
                    .map(str::to_owned)
                    .to_vec(),
                ..plain(16, ProducePlan { rate: fixed(20_000.0), batch_records: 16, ..base })
            },
            WorkloadName::Keyed => plain(16, ProducePlan { is_keyed: true, ..base }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_can_be_had_by_name() {
        for name in WorkloadName::value_variants() {
            assert_eq!(WorkloadName::from_str(&name.name(), false), Ok(*name));
            let workload = name.workload(Some(500.0), 1.0, 0.0);
            assert_eq!(workload.load.rate, Rate::RecordsPerSecond(500.0), "{}", name.name());
        }
    }
}
