//! What a command found, as data: the JSON is made of it, and the table, the page and comparisons are.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    error::BenchError,
    floor::FloorReport,
    histogram::{CurvePoint, Summary},
    process::{ProcessReport, ProcessSample},
    tally::Errors,
    timeline::TimelinePoint,
};

/// Everything that one command found. Its fields are the JSON; names say their units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `chronik-bench`.
    pub tool: String,
    /// The harness' version.
    pub version: String,
    /// The command: `produce`, `sweep` and so on.
    pub command: String,
    /// What is measured, in the words of whoever ran it (`--label`).
    pub label: Option<String>,
    /// When the command started, on the wall clock.
    pub started_unix_ms: u64,
    /// The options of the command as given and by default.
    pub options: serde_json::Value,
    /// The machine of the harness.
    pub machine: MachineReport,
    /// The runs, in their order.
    pub runs: Vec<RunReport>,
    /// What a search came to.
    pub search: Option<SearchReport>,
}

/// One load, from its start to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// Its name, the same for the same load in another report.
    pub name: String,
    /// How the load was made.
    pub load: LoadKind,
    /// The cluster.
    pub cluster: ClusterReport,
    /// The floor of the machine; absent with `--no-floor`.
    pub floor: Option<FloorReport>,
    /// What was measured.
    pub results: Results,
    /// Latency as multiples of the floor, for `acks=all`.
    pub ratios: Option<Ratios>,
    /// What the harness itself cost.
    pub client: ClientReport,
    /// What the broker cost, of the processes named by `--broker-pid`.
    pub broker: Option<BrokerReport>,
    /// Percentile curves.
    pub curves: Curves,
    /// Latency from due to answered over time.
    pub timeline: Vec<TimelinePoint>,
    /// CPU time and memory of the broker over time.
    pub broker_samples: Vec<ProcessSample>,
    /// Errors by kind. Empty in a good run.
    pub errors: Errors,
}

/// How the load was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadKind {
    /// On a fixed schedule.
    Open,
    /// A fixed number of requests outstanding.
    Closed,
    /// One Fetch after the other, until the end.
    Drain,
    /// None: what the broker costs at rest.
    Idle,
}

/// The machine of the harness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineReport {
    /// CPUs that the harness may use.
    pub cpus: usize,
    /// The CPU's name.
    pub cpu_model: String,
    /// The kernel's release.
    pub kernel: String,
}

/// The cluster as the harness found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// What the cluster calls itself.
    pub cluster_id: Option<String>,
    /// Address of each node.
    pub nodes: BTreeMap<i32, String>,
    /// Partitions that were used.
    pub partitions: usize,
    /// Version of each API that carried the load.
    pub api_versions: BTreeMap<String, i16>,
}

/// Amounts and latencies of the measured part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Length of the measured part.
    pub seconds: f64,
    /// The rate asked for, in open load.
    pub scheduled_records_per_second: Option<f64>,
    /// Requests answered without error.
    pub requests: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of their record batches, headers included.
    pub batch_bytes: u64,
    /// Bytes of their records' values; unknown when consuming.
    pub value_bytes: Option<u64>,
    /// Requests per second.
    pub requests_per_second: f64,
    /// Records per second.
    pub records_per_second: f64,
    /// Batch bytes per second.
    pub batch_bytes_per_second: f64,
    /// Value bytes per second.
    pub value_bytes_per_second: Option<f64>,
    /// Records that consumers read back during the load and after it.
    pub read_back_records: u64,
    /// Records that retention removed by the end of the run, where the topic was made with a retention of its own.
    pub expired_records: Option<u64>,
    /// From due to answered.
    pub latency: Option<Summary>,
    /// From sent to answered.
    pub service: Option<Summary>,
    /// From due to sent: the harness' own delay, or that of a full socket.
    pub lateness: Option<Summary>,
    /// From due to read back.
    pub end_to_end: Option<Summary>,
}

/// Latencies as multiples of the floor's: at the load's pace where it was sampled so.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratios {
    /// Median from due to answered.
    pub latency_p50: f64,
    /// 99th percentile from due to answered.
    pub latency_p99: f64,
    /// Median from sent to answered.
    pub service_p50: f64,
    /// 99th percentile from sent to answered.
    pub service_p99: f64,
}

impl Ratios {
    /// The ratios of a run that has latencies.
    pub fn new(results: &Results, floor: &FloorReport) -> Option<Ratios> {
        let (latency, service) = (results.latency?, results.service?);
        let floor = floor.reference().acks_all;
        let p50 = |ns: u64| ns as f64 / floor.p50_ns as f64;
        let p99 = |ns: u64| ns as f64 / floor.p99_ns as f64;
        Some(Ratios {
            latency_p50: p50(latency.p50_ns),
            latency_p99: p99(latency.p99_ns),
            service_p50: p50(service.p50_ns),
            service_p99: p99(service.p99_ns),
        })
    }
}

/// Percentile curves of a run; empty where there are no latencies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curves {
    /// From due to answered.
    pub latency: Vec<CurvePoint>,
    /// From due to read back.
    pub end_to_end: Vec<CurvePoint>,
    /// Of the floor that latencies are compared with.
    pub floor: Vec<CurvePoint>,
}

/// What the harness itself cost during the measured part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientReport {
    /// CPU time in user space.
    pub cpu_user_seconds: f64,
    /// CPU time in the kernel.
    pub cpu_system_seconds: f64,
    /// Cores that were kept busy.
    pub cores: f64,
    /// CPU time per request, in microseconds.
    pub cpu_us_per_request: Option<f64>,
}

/// What the broker cost during the measured part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BrokerReport {
    /// Of all its processes.
    #[serde(flatten)]
    pub process: ProcessReport,
    /// Cores that were kept busy.
    pub cores: f64,
    /// CPU time per 10⁹ batch bytes.
    pub cpu_seconds_per_gb: Option<f64>,
}

/// The outcome of a search for the highest rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchReport {
    /// The bound on the 99th percentile from due to answered.
    pub p99_ms_max: f64,
    /// The highest rate within it that was run; absent when none was.
    pub records_per_second: Option<f64>,
    /// The name of its run.
    pub run: Option<String>,
}

impl Report {
    /// Whether the command found what it was to find, without errors. A search tries rates that are too high, so its
    /// runs may have them.
    pub fn is_good(&self) -> bool {
        match &self.search {
            Some(search) => search.run.is_some(),
            None => self.runs.iter().all(|run| run.errors.is_empty()),
        }
    }

    /// Writes the report as JSON.
    ///
    /// # Errors
    ///
    /// [`BenchError::WriteReport`].
    pub fn write_json(&self, path: &Path) -> Result<(), BenchError> {
        let json = serde_json::to_string(self).expect("a report is plain data");
        fs::write(path, json + "\n")
            .map_err(|source| BenchError::WriteReport { path: path.to_owned(), source })
    }

    /// Reads what [`Report::write_json`] wrote.
    ///
    /// # Errors
    ///
    /// [`BenchError::ReadReport`].
    pub fn read_json(path: &Path) -> Result<Report, BenchError> {
        let refuse = |what: String| BenchError::ReadReport { path: path.to_owned(), what };
        let json = fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
        serde_json::from_str(&json).map_err(|error| refuse(error.to_string()))
    }
}

#[cfg(test)]
pub mod samples {
    //! A report for tests.

    use super::*;
    use crate::floor::{FloorFigures, FloorPart};

    fn summary(scale: u64) -> Summary {
        Summary {
            count: 1_000,
            min_ns: 10 * scale,
            mean_ns: 40 * scale,
            p50_ns: 30 * scale,
            p90_ns: 60 * scale,
            p99_ns: 90 * scale,
            p999_ns: 99 * scale,
            p9999_ns: 110 * scale,
            max_ns: 120 * scale,
        }
    }

    fn figures(scale: u64) -> FloorFigures {
        FloorFigures {
            messages: summary(scale),
            durable_write: summary(2 * scale),
            acks_all: summary(3 * scale),
        }
    }

    /// A run with something in every field.
    pub fn run() -> RunReport {
        let floor = FloorReport {
            request_bytes: 250,
            replicas: 1,
            back_to_back: figures(500),
            paced: Some(figures(1_000)),
            parts: vec![
                FloorPart { messages_p50_ns: 28_000, durable_write_p50_ns: 55_000 },
                FloorPart { messages_p50_ns: 32_000, durable_write_p50_ns: 950_000 },
            ],
            memcpy_bytes_per_second: 9.5e9,
            crc32c_bytes_per_second: 7.25e9,
        };
        let results = Results {
            seconds: 10.0,
            scheduled_records_per_second: Some(1_000.0),
            requests: 10_000,
            records: 10_000,
            batch_bytes: 1_700_000,
            value_bytes: Some(1_000_000),
            requests_per_second: 1_000.0,
            records_per_second: 1_000.0,
            batch_bytes_per_second: 170_000.0,
            value_bytes_per_second: Some(100_000.0),
            read_back_records: 0,
            expired_records: Some(4_000),
            latency: Some(summary(6_000)),
            service: Some(summary(5_000)),
            lateness: Some(summary(1_000)),
            end_to_end: None,
        };
        let process = ProcessReport {
            cpu_user_seconds: 1.0,
            cpu_system_seconds: 2.0,
            rss_bytes: 50 << 20,
            rss_max_bytes: 60 << 20,
            voluntary_switches: 30_000,
            involuntary_switches: 7,
            written_bytes: 40 << 20,
        };
        let curve = [(1.0, 60_000), (0.1, 360_000), (0.001, 720_000)]
            .map(|(beyond, latency_ns)| CurvePoint { beyond, latency_ns });
        let point = |second: u64| TimelinePoint {
            start_ns: second * 1_000_000_000,
            count: 1_000,
            p50_ns: 180_000,
            p99_ns: 540_000,
            max_ns: 720_000 + second,
        };
        RunReport {
            name: "produce".to_owned(),
            load: LoadKind::Open,
            cluster: ClusterReport {
                cluster_id: Some("id".into()),
                nodes: [(1, "127.0.0.1:9092".into())].into(),
                partitions: 100,
                api_versions: [("Produce".to_owned(), 12)].into(),
            },
            ratios: Ratios::new(&results, &floor),
            floor: Some(floor),
            results,
            client: ClientReport {
                cpu_user_seconds: 0.25,
                cpu_system_seconds: 0.75,
                cores: 0.1,
                cpu_us_per_request: Some(100.0),
            },
            broker: Some(BrokerReport { process, cores: 0.3, cpu_seconds_per_gb: Some(12.5) }),
            curves: Curves { latency: curve.to_vec(), end_to_end: Vec::new(), floor: curve.to_vec() },
            timeline: (0..3).map(point).collect(),
            broker_samples: vec![
                ProcessSample { seconds: 0.0, cpu_seconds: 0.0, rss_bytes: 40 << 20 },
                ProcessSample { seconds: 5.0, cpu_seconds: 1.5, rss_bytes: 60 << 20 },
            ],
            errors: Errors::new(),
        }
    }

    /// A report of one run.
    pub fn report() -> Report {
        Report {
            tool: "chronik-bench".to_owned(),
            version: "0.0.0".to_owned(),
            command: "produce".to_owned(),
            label: Some("a <broker>".to_owned()),
            started_unix_ms: 1_700_000_000_000,
            options: serde_json::json!({"rate": 1000.0}),
            machine: MachineReport { cpus: 2, cpu_model: "a CPU".into(), kernel: "6.18".into() },
            runs: vec![run()],
            search: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{samples::report, *};

    #[test]
    fn the_json_is_read_back() {
        let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
        let path = folder.join(format!("chronik-bench-report-{}.json", std::process::id()));
        report().write_json(&path).unwrap();
        assert_eq!(Report::read_json(&path).unwrap(), report());
        fs::write(&path, "{}").unwrap();
        let refused = Report::read_json(&path).unwrap_err().to_string();
        assert!(refused.contains("missing field `tool`"), "{refused}");
        fs::remove_file(&path).unwrap();
        assert!(matches!(Report::read_json(&path), Err(BenchError::ReadReport { .. })));
    }

    #[test]
    fn ratios_are_to_the_floor_at_the_pace_of_the_load() {
        let run = report().runs.remove(0);
        assert_eq!(run.ratios.unwrap().latency_p50, 2.0);
        let mut floor = run.floor.unwrap();
        floor.paced = None;
        assert_eq!(Ratios::new(&run.results, &floor).unwrap().latency_p50, 4.0);
    }

    #[test]
    fn a_search_is_good_when_a_rate_was_found() {
        let mut report = report();
        report.runs[0].errors.insert("Produce NOT_LEADER_OR_FOLLOWER".to_owned(), 3);
        assert!(!report.is_good());
        let run = Some("rate 1000".to_owned());
        report.search = Some(SearchReport { p99_ms_max: 50.0, records_per_second: Some(1_000.0), run });
        assert!(report.is_good());
        report.search = Some(SearchReport { p99_ms_max: 50.0, records_per_second: None, run: None });
        assert!(!report.is_good());
    }
}
