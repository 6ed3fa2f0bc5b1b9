//! The report of a run, as a table and as JSON.

use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;

use crate::{floor::FloorReport, histogram::Summary, process::ProcessReport, tally::Errors};

/// Everything that one run found. Its fields are the JSON; names say their units.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// `chronik-bench`.
    pub tool: &'static str,
    /// The harness' version.
    pub version: &'static str,
    /// The command: `produce`, `consume` or `latency`.
    pub command: &'static str,
    /// How the load was made.
    pub load: LoadKind,
    /// When the run started, on the wall clock.
    pub started_unix_ms: u64,
    /// The options of the command as given and by default.
    pub options: serde_json::Value,
    /// The machine of the harness.
    pub machine: MachineReport,
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
    /// Errors by kind. Empty in a good run.
    pub errors: Errors,
}

/// How the load was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadKind {
    /// On a fixed schedule.
    Open,
    /// A fixed number of requests outstanding.
    Closed,
    /// One Fetch after the other, until the end.
    Drain,
}

/// The machine of the harness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MachineReport {
    /// CPUs that the harness may use.
    pub cpus: usize,
    /// The CPU's name.
    pub cpu_model: String,
    /// The kernel's release.
    pub kernel: String,
}

/// The cluster as the harness found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClusterReport {
    /// What the cluster calls itself.
    pub cluster_id: Option<String>,
    /// Address of each node.
    pub nodes: BTreeMap<i32, String>,
    /// Partitions that were used.
    pub partitions: usize,
    /// Version of each API that carried the load.
    pub api_versions: BTreeMap<&'static str, i16>,
}

/// Amounts and latencies of the measured part.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    /// From due to answered.
    pub latency: Option<Summary>,
    /// From sent to answered.
    pub service: Option<Summary>,
    /// From due to sent: the harness' own delay, or that of a full socket.
    pub lateness: Option<Summary>,
    /// From due to read back.
    pub end_to_end: Option<Summary>,
}

/// Latencies as multiples of the floor's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
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
        let p50 = |ns: u64| ns as f64 / floor.acks_all_p50_ns as f64;
        let p99 = |ns: u64| ns as f64 / floor.acks_all_p99_ns as f64;
        Some(Ratios {
            latency_p50: p50(latency.p50_ns),
            latency_p99: p99(latency.p99_ns),
            service_p50: p50(service.p50_ns),
            service_p99: p99(service.p99_ns),
        })
    }
}

/// What the harness itself cost during the measured part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BrokerReport {
    /// Of all its processes.
    #[serde(flatten)]
    pub process: ProcessReport,
    /// Cores that were kept busy.
    pub cores: f64,
    /// CPU time per 10⁹ batch bytes.
    pub cpu_seconds_per_gb: Option<f64>,
}

/// How much the parts of the floor may differ without a warning.
const FLOOR_SPREAD_MAX: f64 = 1.5;

/// The report for a terminal.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    render_head(&mut out, report);
    render_amounts(&mut out, report);
    render_latencies(&mut out, report);
    render_cost(&mut out, report);
    if report.errors.is_empty() {
        line(&mut out, "errors", "none");
    }
    for (what, count) in &report.errors {
        line(&mut out, "ERROR", &format!("{count} × {what}"));
    }
    out
}

fn line(out: &mut String, name: &str, value: &str) {
    writeln!(out, "{name:<16}{value}").expect("a string takes everything");
}

fn render_head(out: &mut String, report: &Report) {
    let kind = match report.load {
        LoadKind::Open => "open load, latency from the scheduled time",
        LoadKind::Closed => "CLOSED load, requests outstanding at all times: latency is that of a full queue",
        LoadKind::Drain => "one Fetch after the other",
    };
    line(out, &format!("{} ", report.command), kind);
    let nodes: Vec<&str> = report.cluster.nodes.values().map(String::as_str).collect();
    let versions: Vec<String> =
        report.cluster.api_versions.iter().map(|(api, version)| format!("{api} v{version}")).collect();
    let partitions = report.cluster.partitions;
    let plural = if partitions == 1 { "" } else { "s" };
    line(
        out,
        "cluster",
        &format!("{}, {partitions} partition{plural}, {}", nodes.join(" "), versions.join(", ")),
    );
}

fn render_amounts(out: &mut String, report: &Report) {
    let results = &report.results;
    let scheduled = results
        .scheduled_records_per_second
        .map_or(String::new(), |rate| format!(" of {rate:.0} records/s scheduled"));
    let amounts = format!(
        "{:.0} records/s{scheduled}, {:.0} requests/s over {:.2} s",
        results.records_per_second, results.requests_per_second, results.seconds,
    );
    line(out, "rate", &amounts);
    let batches = format!("{:.1} MB/s of batches", results.batch_bytes_per_second / 1e6);
    let throughput = match results.value_bytes_per_second {
        Some(values) => format!("{:.1} MB/s of record values, {batches}", values / 1e6),
        None => batches,
    };
    line(out, "throughput", &throughput);
}

fn render_latencies(out: &mut String, report: &Report) {
    let floor = report.floor.as_ref();
    let results = &report.results;
    let rows = [
        ("latency", results.latency),
        ("  sent to answer", results.service),
        ("  due to sent", results.lateness),
        ("end to end", results.end_to_end),
        ("floor: loopback", floor.map(|floor| floor.round_trip)),
        ("floor: write", floor.map(|floor| floor.durable_write)),
    ];
    if rows.iter().all(|(_, summary)| summary.is_none()) {
        return;
    }
    let heads = ["p50", "p90", "p99", "p99.9", "p99.99", "max", "count"];
    let mut head = format!("{:<16}", "microseconds");
    heads.iter().for_each(|name| write!(head, "{name:>11}").expect("a string takes everything"));
    writeln!(out, "{head}").expect("a string takes everything");
    for (name, summary) in rows {
        let Some(summary) = summary else { continue };
        let mut row = format!("{name:<16}");
        for ns in [
            summary.p50_ns,
            summary.p90_ns,
            summary.p99_ns,
            summary.p999_ns,
            summary.p9999_ns,
            summary.max_ns,
        ] {
            write!(row, "{:>11.1}", ns as f64 / 1e3).expect("a string takes everything");
        }
        writeln!(out, "{row}{:>11}", summary.count).expect("a string takes everything");
    }
    if let Some(floor) = floor {
        let figures = format!(
            "acks=all p50 {:.1} µs, p99 {:.1} µs ({}-byte request); memcpy {:.1} GB/s, CRC-32C {:.1} GB/s",
            floor.acks_all_p50_ns as f64 / 1e3,
            floor.acks_all_p99_ns as f64 / 1e3,
            floor.request_bytes,
            floor.memcpy_bytes_per_second / 1e9,
            floor.crc32c_bytes_per_second / 1e9,
        );
        line(out, "floor", &figures);
        if floor.spread() > FLOOR_SPREAD_MAX {
            let medians: Vec<String> = floor
                .parts
                .iter()
                .map(|part| {
                    format!("{:.1}", (part.round_trip_p50_ns + part.durable_write_p50_ns) as f64 / 1e3)
                })
                .collect();
            let warning =
                format!("it was {} µs before and after: do not trust the ratio", medians.join(" and "));
            line(out, "UNSTEADY FLOOR", &warning);
        }
    }
    if let Some(ratios) = report.ratios {
        let figures = format!(
            "p50 {:.2} × floor, p99 {:.2} × floor; from sent: p50 {:.2} ×, p99 {:.2} ×",
            ratios.latency_p50, ratios.latency_p99, ratios.service_p50, ratios.service_p99,
        );
        line(out, "ratio", &figures);
    }
}

fn render_cost(out: &mut String, report: &Report) {
    let client = report.client;
    let per_request =
        client.cpu_us_per_request.map_or(String::new(), |us| format!(", {us:.1} µs per request"));
    let figures = format!(
        "{:.2} s user + {:.2} s system = {:.1} % of a core{per_request}",
        client.cpu_user_seconds,
        client.cpu_system_seconds,
        client.cores * 100.0,
    );
    line(out, "client CPU", &figures);
    let Some(broker) = report.broker else { return };
    let process = broker.process;
    let per_gb =
        broker.cpu_seconds_per_gb.map_or(String::new(), |seconds| format!(", {seconds:.2} s per GB"));
    let figures = format!(
        "{:.2} s user + {:.2} s system = {:.1} % of a core{per_gb}",
        process.cpu_user_seconds,
        process.cpu_system_seconds,
        broker.cores * 100.0,
    );
    line(out, "broker CPU", &figures);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let figures = format!(
        "{:.1} MiB resident, at most {:.1}; {:.1} MiB written; {} switches, {} of them forced",
        mib(process.rss_bytes),
        mib(process.rss_max_bytes),
        mib(process.written_bytes),
        process.voluntary_switches + process.involuntary_switches,
        process.involuntary_switches,
    );
    line(out, "broker memory", &figures);
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::floor::FloorPart;

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

    fn report() -> Report {
        let floor = FloorReport {
            request_bytes: 250,
            round_trip: summary(1_000),
            durable_write: summary(2_000),
            acks_all_p50_ns: 90_000,
            acks_all_p99_ns: 270_000,
            parts: vec![
                FloorPart { round_trip_p50_ns: 28_000, durable_write_p50_ns: 55_000 },
                FloorPart { round_trip_p50_ns: 32_000, durable_write_p50_ns: 950_000 },
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
            latency: Some(summary(6_000)),
            service: Some(summary(5_000)),
            lateness: Some(summary(1_000)),
            end_to_end: None,
        };
        Report {
            tool: "chronik-bench",
            version: "0.0.0",
            command: "produce",
            load: LoadKind::Open,
            started_unix_ms: 1_700_000_000_000,
            options: serde_json::json!({"rate": 1000.0}),
            machine: MachineReport { cpus: 2, cpu_model: "a CPU".into(), kernel: "6.18".into() },
            cluster: ClusterReport {
                cluster_id: Some("id".into()),
                nodes: [(1, "127.0.0.1:9092".into())].into(),
                partitions: 100,
                api_versions: [("Produce", 12)].into(),
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
            broker: Some(BrokerReport {
                process: ProcessReport {
                    cpu_user_seconds: 1.0,
                    cpu_system_seconds: 2.0,
                    rss_bytes: 50 << 20,
                    rss_max_bytes: 60 << 20,
                    voluntary_switches: 30_000,
                    involuntary_switches: 7,
                    written_bytes: 40 << 20,
                },
                cores: 0.3,
                cpu_seconds_per_gb: Some(12.5),
            }),
            errors: Errors::from([("Produce NOT_LEADER_OR_FOLLOWER".to_owned(), 3)]),
        }
    }

    #[test]
    fn the_table_is_readable() {
        expect![[r#"
            produce         open load, latency from the scheduled time
            cluster         127.0.0.1:9092, 100 partitions, Produce v12
            rate            1000 records/s of 1000 records/s scheduled, 1000 requests/s over 10.00 s
            throughput      0.1 MB/s of record values, 0.2 MB/s of batches
            microseconds            p50        p90        p99      p99.9     p99.99        max      count
            latency               180.0      360.0      540.0      594.0      660.0      720.0       1000
              sent to answer      150.0      300.0      450.0      495.0      550.0      600.0       1000
              due to sent          30.0       60.0       90.0       99.0      110.0      120.0       1000
            floor: loopback        30.0       60.0       90.0       99.0      110.0      120.0       1000
            floor: write           60.0      120.0      180.0      198.0      220.0      240.0       1000
            floor           acks=all p50 90.0 µs, p99 270.0 µs (250-byte request); memcpy 9.5 GB/s, CRC-32C 7.2 GB/s
            UNSTEADY FLOOR  it was 83.0 and 982.0 µs before and after: do not trust the ratio
            ratio           p50 2.00 × floor, p99 2.00 × floor; from sent: p50 1.67 ×, p99 1.67 ×
            client CPU      0.25 s user + 0.75 s system = 10.0 % of a core, 100.0 µs per request
            broker CPU      1.00 s user + 2.00 s system = 30.0 % of a core, 12.50 s per GB
            broker memory   50.0 MiB resident, at most 60.0; 40.0 MiB written; 30007 switches, 7 of them forced
            ERROR           3 × Produce NOT_LEADER_OR_FOLLOWER
        "#]].assert_eq(&render(&report()));
    }

    #[test]
    fn the_json_keeps_its_shape() {
        let json = serde_json::to_value(report()).unwrap();
        let keys = |value: &serde_json::Value| {
            value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
        };
        let shape: Vec<String> = [
            "",
            "/machine",
            "/cluster",
            "/floor",
            "/floor/round_trip",
            "/results",
            "/ratios",
            "/client",
            "/broker",
        ]
        .iter()
        .map(|path| format!("{path}: {}", keys(json.pointer(path).unwrap())))
        .collect();
        expect![[r#"
            : broker client cluster command errors floor load machine options ratios results started_unix_ms tool version
            /machine: cpu_model cpus kernel
            /cluster: api_versions cluster_id nodes partitions
            /floor: acks_all_p50_ns acks_all_p99_ns crc32c_bytes_per_second durable_write memcpy_bytes_per_second parts request_bytes round_trip
            /floor/round_trip: count max_ns mean_ns min_ns p50_ns p90_ns p9999_ns p999_ns p99_ns
            /results: batch_bytes batch_bytes_per_second end_to_end latency lateness records records_per_second requests requests_per_second scheduled_records_per_second seconds service value_bytes value_bytes_per_second
            /ratios: latency_p50 latency_p99 service_p50 service_p99
            /client: cores cpu_system_seconds cpu_us_per_request cpu_user_seconds
            /broker: cores cpu_seconds_per_gb cpu_system_seconds cpu_user_seconds involuntary_switches rss_bytes rss_max_bytes voluntary_switches written_bytes"#]].assert_eq(&shape.join("\n"));
        assert_eq!(json["load"], "open");
        assert_eq!(json["results"]["latency"]["p50_ns"], 180_000);
        assert_eq!(json["ratios"]["latency_p50"], 2.0);
        assert_eq!(json["errors"]["Produce NOT_LEADER_OR_FOLLOWER"], 3);
    }
}
