//! One run from its command line to its report.

use std::{
    fs,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use protocol::ApiKey;

use crate::{
    admin::{Admin, Cluster, await_leaders, offset_ranges},
    cli::{Acks, Cli, Command, CommonOptions, ConsumeOptions, LatencyOptions, ProduceOptions},
    clock::{Clock, ns_to_seconds},
    consumer::{ConsumeLoad, ConsumeWorker},
    error::BenchError,
    fetch::{FETCH_VERSIONS, FetchLimits},
    floor::FloorProbe,
    frames::{PRODUCE_VERSIONS, PreparedProduce, Template},
    process::{ProcessReport, Watch},
    producer::{Clients, Pace, ProduceLoad, ProduceWorker, TailOptions},
    report::{
        BrokerReport, ClientReport, ClusterReport, LoadKind, MachineReport, Ratios, Report, Results, render,
    },
    schedule::Window,
    sys,
    tally::{Tally, count_error},
};

const FLOOR_BUDGET: Duration = Duration::from_millis(500);
const SAMPLE_INTERVAL_NS: u64 = 100_000_000;
/// What every thread needs to be at its schedule when the load starts.
const START_DELAY_NS: u64 = 20_000_000;
/// About what a Fetch of one partition is.
const FETCH_REQUEST_BYTES: usize = 100;

/// Makes a run, prints its table and writes its JSON.
///
/// # Errors
///
/// When the run could not be made. Errors that the broker answered are in the report.
pub fn run(cli: &Cli) -> Result<Report, BenchError> {
    cli.command.validate()?;
    let report = measure(&cli.command)?;
    print!("{}", render(&report));
    if let Some(path) = &cli.command.common().json {
        let json = serde_json::to_string_pretty(&report).expect("a report is plain data");
        fs::write(path, json + "\n")
            .map_err(|source| BenchError::WriteReport { path: path.clone(), source })?;
    }
    Ok(report)
}

/// Makes a run.
///
/// # Errors
///
/// As [`run`].
pub fn measure(command: &Command) -> Result<Report, BenchError> {
    let common = command.common();
    let timeout = Duration::from_secs(common.timeout);
    let mut admin = Admin::connect(&common.bootstrap, timeout)?;
    if common.create_topic {
        let configs: Vec<(String, String)> = common
            .topic_configs
            .iter()
            .filter_map(|config| config.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let partitions = i32::try_from(common.partitions.unwrap_or(1)).expect("the command line bounds it");
        admin.create_topics(&common.topics, partitions, common.replication_factor, &configs)?;
    }
    let report = measure_topics(command, &mut admin, timeout);
    if !common.create_topic || common.keep {
        return report;
    }
    match (report, admin.delete_topics(&common.topics)) {
        (Ok(mut report), Err(error)) => {
            count_error(&mut report.errors, error.to_string(), 1);
            Ok(report)
        }
        (report, _) => report,
    }
}

fn measure_topics(command: &Command, admin: &mut Admin, timeout: Duration) -> Result<Report, BenchError> {
    let common = command.common();
    let cluster = admin.locate(&common.topics, common.partitions, common.create_topic)?;
    if common.create_topic {
        await_leaders(&cluster, timeout)?;
    }
    let run = Run { common, cluster, clock: Clock::start(), started_unix_ms: unix_ms(), timeout };
    match command {
        Command::Produce(options) => run.produce(admin, options),
        Command::Consume(options) => run.consume(admin, options),
        Command::Latency(options) => run.latency(admin, options),
    }
}

/// What all commands begin with.
struct Run<'options> {
    common: &'options CommonOptions,
    cluster: Cluster,
    clock: Clock,
    started_unix_ms: u64,
    timeout: Duration,
}

/// What the commands that produce differ in.
struct ProduceRun {
    pace: Pace,
    record_bytes: usize,
    batch_records: usize,
    acks: Acks,
    producers: usize,
    warm_up: f64,
    duration: f64,
    spin_us: u64,
    tail: Option<TailOptions>,
}

/// What the measured part cost.
struct Cost {
    user_seconds: f64,
    system_seconds: f64,
    broker: Option<ProcessReport>,
}

impl Run<'_> {
    fn produce(&self, admin: &Admin, options: &ProduceOptions) -> Result<Report, BenchError> {
        let pace = match options.rate {
            Some(rate) => Pace::Open { requests_per_second: rate / options.batch_records as f64 },
            None => Pace::Closed { in_flight: options.in_flight },
        };
        let produce = ProduceRun {
            pace,
            record_bytes: options.record_size.0,
            batch_records: options.batch_records,
            acks: options.acks,
            producers: options.connections,
            warm_up: options.warm_up,
            duration: options.duration,
            spin_us: options.spin_us,
            tail: None,
        };
        self.run_produce(admin, &produce, "produce", to_json(options))
    }

    fn latency(&self, admin: &Admin, options: &LatencyOptions) -> Result<Report, BenchError> {
        let tail = match options.no_consume {
            true => None,
            false => Some(TailOptions {
                api_version: admin.versions().newest(ApiKey::Fetch, FETCH_VERSIONS)?,
                offsets: offset_ranges(&self.cluster, self.timeout)?.iter().map(|range| range.1).collect(),
                limits: FetchLimits { bytes_max: 8 << 20, partition_bytes_max: 1 << 20, wait_ms_max: 500 },
            }),
        };
        let produce = ProduceRun {
            pace: Pace::Open { requests_per_second: options.rate },
            record_bytes: options.record_size.0,
            batch_records: 1,
            acks: Acks::All,
            producers: 1,
            warm_up: options.warm_up,
            duration: options.duration,
            spin_us: options.spin_us,
            tail,
        };
        self.run_produce(admin, &produce, "latency", to_json(options))
    }

    fn run_produce(
        &self,
        admin: &Admin,
        options: &ProduceRun,
        command: &'static str,
        options_json: serde_json::Value,
    ) -> Result<Report, BenchError> {
        let api_version = admin.versions().newest(ApiKey::Produce, PRODUCE_VERSIONS)?;
        let timestamp_ms = i64::try_from(self.started_unix_ms).unwrap_or(i64::MAX);
        let template = Template::new(options.record_bytes, options.batch_records, timestamp_ms);
        let timeout_ms = i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX);
        let prepared = PreparedProduce::for_cluster(
            &self.cluster,
            &template,
            api_version,
            options.acks.wire(),
            timeout_ms,
        )?;
        let request_bytes = prepared.first().map_or(0, PreparedProduce::size_in_bytes);
        let load = ProduceLoad {
            clock: self.clock,
            pace: options.pace,
            cluster: self.cluster.clone(),
            api_version,
            template,
            prepared,
            stamp_run: options.tail.is_some().then_some(unix_ns()),
            producers: options.producers,
            threads: self.common.threads,
            spin_ns: options.spin_us * 1_000,
            timeout: self.timeout,
        };
        let mut watch = self.watch()?;
        let mut floor = self.floor(request_bytes)?;
        let (tally, window, cost) = self.drive_producers(&load, options, &mut watch)?;
        sample_floor(&mut floor)?;

        let mut results = results(&tally, ns_to_seconds(window.duration_ns()));
        let value_bytes = tally.records * options.record_bytes as u64;
        results.value_bytes = Some(value_bytes);
        results.value_bytes_per_second = Some(value_bytes as f64 / results.seconds);
        if let Pace::Open { requests_per_second } = options.pace {
            results.scheduled_records_per_second = Some(requests_per_second * options.batch_records as f64);
        }
        let load_kind = match options.pace {
            Pace::Open { .. } => LoadKind::Open,
            Pace::Closed { .. } => LoadKind::Closed,
        };
        let mut api_versions = [("Produce", api_version)].to_vec();
        api_versions.extend(options.tail.as_ref().map(|tail| ("Fetch", tail.api_version)));
        let mut report = self.report(
            command,
            load_kind,
            options_json,
            &api_versions,
            floor.as_ref(),
            results,
            cost,
            tally,
        );
        if options.acks == Acks::All && load_kind == LoadKind::Open {
            report.ratios = report.floor.as_ref().and_then(|floor| Ratios::new(&report.results, floor));
        }
        Ok(report)
    }

    fn drive_producers(
        &self,
        load: &ProduceLoad,
        options: &ProduceRun,
        watch: &mut Option<Watch>,
    ) -> Result<(Tally, Window, Cost), BenchError> {
        let mut clients = Vec::new();
        for thread in 0..load.threads {
            clients.push(Clients::connect(load, thread, options.tail.as_ref())?);
        }
        let load_start_ns = self.clock.now_ns() + START_DELAY_NS;
        let window = Window::new(load_start_ns, options.warm_up, options.duration);
        let (done, results) = channel();
        std::thread::scope(|scope| {
            for (thread, clients) in clients.into_iter().enumerate() {
                let done = done.clone();
                scope.spawn(move || {
                    let tally = ProduceWorker::new(load, window, thread, clients).run();
                    done.send(tally).expect("the main thread waits for every result");
                });
            }
            let (tallies, cost) = watch_threads(self.clock, window, watch, &results, load.threads)?;
            let mut sum = Tally::new(window);
            tallies.iter().for_each(|tally| sum.merge(tally));
            Ok((sum, window, cost))
        })
    }

    fn consume(&self, admin: &Admin, options: &ConsumeOptions) -> Result<Report, BenchError> {
        let api_version = admin.versions().newest(ApiKey::Fetch, FETCH_VERSIONS)?;
        let wire = |bytes: usize| i32::try_from(bytes).expect("the command line bounds byte counts");
        let load = ConsumeLoad {
            clock: self.clock,
            cluster: self.cluster.clone(),
            ranges: offset_ranges(&self.cluster, self.timeout)?,
            api_version,
            limits: FetchLimits {
                bytes_max: wire(options.fetch_max_bytes.0),
                partition_bytes_max: wire(options.partition_max_bytes.0),
                wait_ms_max: 500,
            },
            passes: options.passes,
            consumers: options.connections,
            threads: self.common.threads,
            timeout: self.timeout,
        };
        if load.ranges.iter().all(|(start, end)| start >= end) {
            return Err(BenchError::Options(
                "the topics are empty: fill them with produce --keep".to_owned(),
            ));
        }
        let mut watch = self.watch()?;
        let mut floor = self.floor(FETCH_REQUEST_BYTES)?;
        let (tally, seconds, cost) = self.drive_consumers(&load, &mut watch)?;
        sample_floor(&mut floor)?;
        let mut results = results(&tally, seconds);
        // Nothing is scheduled: each Fetch is sent when the one before is answered.
        results.lateness = None;
        results.service = None;
        let api_versions = [("Fetch", api_version)];
        let options = to_json(options);
        let kind = LoadKind::Drain;
        Ok(self.report("consume", kind, options, &api_versions, floor.as_ref(), results, cost, tally))
    }

    fn drive_consumers(
        &self,
        load: &ConsumeLoad,
        watch: &mut Option<Watch>,
    ) -> Result<(Tally, f64, Cost), BenchError> {
        let mut workers = Vec::new();
        for thread in 0..load.threads {
            workers.push(ConsumeWorker::connect(load, thread)?);
        }
        let start_ns = self.clock.now_ns();
        let everything = Window { load_start_ns: start_ns, start_ns, end_ns: u64::MAX };
        let (done, results) = channel();
        std::thread::scope(|scope| {
            for worker in workers {
                let done = done.clone();
                scope.spawn(move || done.send(worker.run()).expect("the main thread waits for every result"));
            }
            let (parts, cost) = watch_threads(self.clock, everything, watch, &results, load.threads)?;
            let mut sum = Tally::new(everything);
            parts.iter().for_each(|(tally, _)| sum.merge(tally));
            let end_ns = parts.iter().map(|&(_, end_ns)| end_ns).max().unwrap_or(start_ns);
            Ok((sum, ns_to_seconds(end_ns - start_ns), cost))
        })
    }

    fn watch(&self) -> Result<Option<Watch>, BenchError> {
        let pids = &self.common.broker_pids;
        if pids.is_empty() { Ok(None) } else { Watch::new(pids).map(Some) }
    }

    fn floor(&self, request_bytes: usize) -> Result<Option<FloorProbe>, BenchError> {
        if self.common.no_floor {
            return Ok(None);
        }
        let mut floor = Some(FloorProbe::new(&self.common.floor_dir, request_bytes)?);
        sample_floor(&mut floor)?;
        Ok(floor)
    }

    #[expect(clippy::too_many_arguments, reason = "each is a part of the report")]
    fn report(
        &self,
        command: &'static str,
        load: LoadKind,
        options: serde_json::Value,
        api_versions: &[(&'static str, i16)],
        floor: Option<&FloorProbe>,
        results: Results,
        cost: Cost,
        tally: Tally,
    ) -> Report {
        let client_seconds = cost.user_seconds + cost.system_seconds;
        let requests = results.requests as f64;
        let gigabytes = results.batch_bytes as f64 / 1e9;
        let broker = cost.broker.map(|process| {
            let cpu_seconds = process.cpu_user_seconds + process.cpu_system_seconds;
            BrokerReport {
                process,
                cores: cpu_seconds / results.seconds,
                cpu_seconds_per_gb: (gigabytes > 0.0).then(|| cpu_seconds / gigabytes),
            }
        });
        Report {
            tool: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            command,
            load,
            started_unix_ms: self.started_unix_ms,
            options,
            machine: machine(),
            cluster: ClusterReport {
                cluster_id: self.cluster.cluster_id.clone(),
                nodes: self.cluster.nodes.clone(),
                partitions: self.cluster.partitions.len(),
                api_versions: api_versions.iter().copied().collect(),
            },
            floor: floor.and_then(FloorProbe::report),
            client: ClientReport {
                cpu_user_seconds: cost.user_seconds,
                cpu_system_seconds: cost.system_seconds,
                cores: client_seconds / results.seconds,
                cpu_us_per_request: (requests > 0.0).then(|| client_seconds * 1e6 / requests),
            },
            broker,
            ratios: None,
            results,
            errors: tally.errors,
        }
    }
}

fn sample_floor(floor: &mut Option<FloorProbe>) -> Result<(), BenchError> {
    floor.as_mut().map_or(Ok(()), |floor| floor.sample(FLOOR_BUDGET))
}

fn results(tally: &Tally, seconds: f64) -> Results {
    let per_second = |count: u64| count as f64 / seconds;
    Results {
        seconds,
        scheduled_records_per_second: None,
        requests: tally.requests,
        records: tally.records,
        batch_bytes: tally.batch_bytes,
        value_bytes: None,
        requests_per_second: per_second(tally.requests),
        records_per_second: per_second(tally.records),
        batch_bytes_per_second: per_second(tally.batch_bytes),
        value_bytes_per_second: None,
        latency: tally.latency.summary(),
        service: tally.service.summary(),
        lateness: tally.lateness.summary(),
        end_to_end: tally.end_to_end.summary(),
    }
}

/// Waits for the result of every thread, and measures what the window costs meanwhile.
fn watch_threads<T>(
    clock: Clock,
    window: Window,
    watch: &mut Option<Watch>,
    results: &Receiver<T>,
    threads: usize,
) -> Result<(Vec<T>, Cost), BenchError> {
    let mut received = Vec::new();
    let mut before = None;
    let mut cost = None;
    while received.len() < threads || cost.is_none() {
        let now_ns = clock.now_ns();
        let is_over = now_ns >= window.end_ns || received.len() == threads;
        if before.is_none() && (now_ns >= window.start_ns || is_over) {
            watch.as_mut().map_or(Ok(()), Watch::begin)?;
            before = Some(sys::own_cpu_time());
        }
        if let (Some((user, system)), true, None) = (before, is_over, &cost) {
            let after = sys::own_cpu_time();
            cost = Some(Cost {
                user_seconds: (after.0 - user).as_secs_f64(),
                system_seconds: (after.1 - system).as_secs_f64(),
                broker: watch.as_mut().map(Watch::report).transpose()?,
            });
            continue;
        }
        let edges = [window.start_ns, window.end_ns, now_ns + SAMPLE_INTERVAL_NS];
        let next_ns = edges.into_iter().filter(|&edge| edge > now_ns).min().unwrap_or(now_ns);
        match results.recv_timeout(Duration::from_nanos(next_ns - now_ns)) {
            Ok(result) => received.push(result),
            Err(RecvTimeoutError::Timeout) => watch.as_mut().map_or(Ok(()), Watch::sample)?,
            Err(RecvTimeoutError::Disconnected) => unreachable!("a sender is kept by the caller"),
        }
    }
    Ok((received, cost.expect("the loop ends with it")))
}

fn machine() -> MachineReport {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu_model = cpuinfo
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(':'))
        .map_or("unknown", |(_, name)| name.trim());
    MachineReport {
        cpus: std::thread::available_parallelism().map_or(0, usize::from),
        cpu_model: cpu_model.to_owned(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
    }
}

fn to_json(options: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(options).expect("options are plain data")
}

fn unix_ns() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since_epoch.as_nanos() as u64
}

fn unix_ms() -> u64 {
    unix_ns() / 1_000_000
}

#[cfg(test)]
mod tests;
