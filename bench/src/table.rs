//! A report for a terminal.

use std::fmt::Write;

use crate::report::{LoadKind, Report, RunReport};

/// How much the parts of the floor may differ without a warning.
const FLOOR_SPREAD_MAX: f64 = 1.5;

/// The whole report: each run as [`render_run`] shows it, and a line for each when there are several.
pub fn render(report: &Report) -> String {
    let runs: Vec<String> = report.runs.iter().map(render_run).collect();
    let mut out = runs.join("\n");
    out.push_str(&render_overview(report));
    out
}

/// A line for each run, and what a search came to.
pub fn render_overview(report: &Report) -> String {
    let mut out = String::new();
    if report.runs.len() > 1 {
        let heads =
            ["records/s", "MB/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "e2e p99", "CPU s/GB", "MiB"];
        let width = report.runs.iter().map(|run| run.name.len()).max().unwrap_or(0);
        write!(out, "\n{:<width$}", "run").expect("a string takes everything");
        heads.iter().for_each(|head| write!(out, "{head:>11}").expect("a string takes everything"));
        out.push('\n');
        for run in &report.runs {
            write!(out, "{:<width$}", run.name).expect("a string takes everything");
            overview_cells(run)
                .iter()
                .for_each(|cell| write!(out, "{cell:>11}").expect("a string takes everything"));
            out.push_str(if run.errors.is_empty() { "\n" } else { "  ERRORS\n" });
        }
    }
    if let Some(search) = &report.search {
        let found = match search.records_per_second {
            Some(rate) => format!("{rate:.0} records/s with p99 within {} ms", search.p99_ms_max),
            None => format!("no rate that was tried has its p99 within {} ms", search.p99_ms_max),
        };
        line(&mut out, "highest rate", &found);
    }
    out
}

/// The figures of a run for a row of a table; a dash for what there is not.
pub fn overview_cells(run: &RunReport) -> [String; 9] {
    let results = &run.results;
    let ms = |ns: Option<u64>| ns.map_or("-".to_owned(), |ns| format!("{:.3}", ns as f64 / 1e6));
    let latency = results.latency.filter(|_| run.load != LoadKind::Drain);
    [
        format!("{:.0}", results.records_per_second),
        format!("{:.1}", results.batch_bytes_per_second / 1e6),
        ms(latency.map(|summary| summary.p50_ns)),
        ms(latency.map(|summary| summary.p99_ns)),
        ms(latency.map(|summary| summary.p999_ns)),
        ms(latency.map(|summary| summary.max_ns)),
        ms(results.end_to_end.map(|summary| summary.p99_ns)),
        run.broker
            .and_then(|broker| broker.cpu_seconds_per_gb)
            .map_or("-".to_owned(), |seconds| format!("{seconds:.2}")),
        run.broker.map_or("-".to_owned(), |broker| format!("{:.0}", mib(broker.process.rss_max_bytes))),
    ]
}

/// One run.
pub fn render_run(run: &RunReport) -> String {
    let mut out = String::new();
    render_head(&mut out, run);
    if run.load != LoadKind::Idle {
        render_amounts(&mut out, run);
    }
    render_latencies(&mut out, run);
    render_cost(&mut out, run);
    if run.errors.is_empty() {
        line(&mut out, "errors", "none");
    }
    for (what, count) in &run.errors {
        line(&mut out, "ERROR", &format!("{count} × {what}"));
    }
    out
}

fn line(out: &mut String, name: &str, value: &str) {
    writeln!(out, "{name:<16}{value}").expect("a string takes everything");
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn render_head(out: &mut String, run: &RunReport) {
    let kind = match run.load {
        LoadKind::Open => "open load, latency from the scheduled time",
        LoadKind::Closed => "CLOSED load, requests outstanding at all times: latency is that of a full queue",
        LoadKind::Drain => "one Fetch after the other",
        LoadKind::Idle => "no load",
    };
    writeln!(out, "{}: {kind}", run.name).expect("a string takes everything");
    let nodes: Vec<&str> = run.cluster.nodes.values().map(String::as_str).collect();
    let versions: Vec<String> =
        run.cluster.api_versions.iter().map(|(api, version)| format!(", {api} v{version}")).collect();
    let partitions = run.cluster.partitions;
    let plural = if partitions == 1 { "" } else { "s" };
    line(
        out,
        "cluster",
        &format!("{}, {partitions} partition{plural}{}", nodes.join(" "), versions.concat()),
    );
}

fn render_amounts(out: &mut String, run: &RunReport) {
    let results = &run.results;
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
    if results.read_back_records > 0 {
        line(out, "read back", &format!("{} records", results.read_back_records));
    }
    if let Some(expired) = results.expired_records {
        line(out, "expired", &format!("{expired} records"));
    }
}

fn render_latencies(out: &mut String, run: &RunReport) {
    let floor = run.floor.as_ref();
    let paced = floor.and_then(|floor| floor.paced);
    let back_to_back = floor.map(|floor| floor.back_to_back);
    let results = &run.results;
    let rows = [
        ("latency", results.latency),
        ("  sent to answer", results.service),
        ("  due to sent", results.lateness),
        ("end to end", results.end_to_end),
        ("floor at pace", paced.map(|floor| floor.acks_all)),
        ("  messages", paced.map(|floor| floor.messages)),
        ("  write", paced.map(|floor| floor.durable_write)),
        ("back to back", back_to_back.map(|floor| floor.acks_all)),
        ("  messages", back_to_back.map(|floor| floor.messages)),
        ("  write", back_to_back.map(|floor| floor.durable_write)),
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
        let replicas = match floor.replicas {
            1 => String::new(),
            count => format!(" on most of {count} replicas"),
        };
        let figures = format!(
            "of a {}-byte request and a 4-KiB write{replicas}; memcpy {:.1} GB/s, CRC-32C {:.1} GB/s",
            floor.request_bytes,
            floor.memcpy_bytes_per_second / 1e9,
            floor.crc32c_bytes_per_second / 1e9,
        );
        line(out, "floor", &figures);
        if floor.spread() > FLOOR_SPREAD_MAX {
            let medians: Vec<String> = floor
                .parts
                .iter()
                .map(|part| format!("{:.1}", (part.messages_p50_ns + part.durable_write_p50_ns) as f64 / 1e3))
                .collect();
            let warning =
                format!("it was {} µs before and after: do not trust the ratio", medians.join(" and "));
            line(out, "UNSTEADY FLOOR", &warning);
        }
    }
    if let Some(ratios) = run.ratios {
        let figures = format!(
            "p50 {:.2} × floor, p99 {:.2} × floor; from sent: p50 {:.2} ×, p99 {:.2} ×",
            ratios.latency_p50, ratios.latency_p99, ratios.service_p50, ratios.service_p99,
        );
        line(out, "ratio", &figures);
    }
}

fn render_cost(out: &mut String, run: &RunReport) {
    let client = run.client;
    let per_request =
        client.cpu_us_per_request.map_or(String::new(), |us| format!(", {us:.1} µs per request"));
    let figures = format!(
        "{:.2} s user + {:.2} s system = {:.1} % of a core{per_request}",
        client.cpu_user_seconds,
        client.cpu_system_seconds,
        client.cores * 100.0,
    );
    line(out, "client CPU", &figures);
    let Some(broker) = run.broker else { return };
    let process = broker.process;
    let per_gb =
        broker.cpu_seconds_per_gb.map_or(String::new(), |seconds| format!(", {seconds:.2} s per GB"));
    let figures = format!(
        "{:.2} s user + {:.2} s system = {:.2} % of a core{per_gb}",
        process.cpu_user_seconds,
        process.cpu_system_seconds,
        broker.cores * 100.0,
    );
    line(out, "broker CPU", &figures);
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
    use crate::report::{SearchReport, samples};

    #[test]
    fn the_table_is_readable() {
        let mut report = samples::report();
        report.runs[0].errors.insert("Produce NOT_LEADER_OR_FOLLOWER".to_owned(), 3);
        expect![[r#"
            produce: open load, latency from the scheduled time
            cluster         127.0.0.1:9092, 100 partitions, Produce v12
            rate            1000 records/s of 1000 records/s scheduled, 1000 requests/s over 10.00 s
            throughput      0.1 MB/s of record values, 0.2 MB/s of batches
            expired         4000 records
            microseconds            p50        p90        p99      p99.9     p99.99        max      count
            latency               180.0      360.0      540.0      594.0      660.0      720.0       1000
              sent to answer      150.0      300.0      450.0      495.0      550.0      600.0       1000
              due to sent          30.0       60.0       90.0       99.0      110.0      120.0       1000
            floor at pace          90.0      180.0      270.0      297.0      330.0      360.0       1000
              messages             30.0       60.0       90.0       99.0      110.0      120.0       1000
              write                60.0      120.0      180.0      198.0      220.0      240.0       1000
            back to back           45.0       90.0      135.0      148.5      165.0      180.0       1000
              messages             15.0       30.0       45.0       49.5       55.0       60.0       1000
              write                30.0       60.0       90.0       99.0      110.0      120.0       1000
            floor           of a 250-byte request and a 4-KiB write; memcpy 9.5 GB/s, CRC-32C 7.2 GB/s
            UNSTEADY FLOOR  it was 83.0 and 982.0 µs before and after: do not trust the ratio
            ratio           p50 2.00 × floor, p99 2.00 × floor; from sent: p50 1.67 ×, p99 1.67 ×
            client CPU      0.25 s user + 0.75 s system = 10.0 % of a core, 100.0 µs per request
            broker CPU      1.00 s user + 2.00 s system = 30.00 % of a core, 12.50 s per GB
            broker memory   50.0 MiB resident, at most 60.0; 40.0 MiB written; 30007 switches, 7 of them forced
            ERROR           3 × Produce NOT_LEADER_OR_FOLLOWER
        "#]].assert_eq(&render(&report));
    }

    #[test]
    fn several_runs_have_an_overview() {
        let mut report = samples::report();
        let mut second = samples::run();
        second.name = "rate 2000".to_owned();
        second.broker = None;
        report.runs.push(second);
        let run = Some("produce".to_owned());
        report.search = Some(SearchReport { p99_ms_max: 50.0, records_per_second: Some(1_000.0), run });
        expect![[r#"

            run        records/s       MB/s     p50 ms     p99 ms   p99.9 ms     max ms    e2e p99   CPU s/GB        MiB
            produce         1000        0.2      0.180      0.540      0.594      0.720          -      12.50         60
            rate 2000       1000        0.2      0.180      0.540      0.594      0.720          -          -          -
            highest rate    1000 records/s with p99 within 50 ms
        "#]].assert_eq(&render_overview(&report));
    }
}
