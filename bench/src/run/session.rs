//! Runs on topics that are there.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

use protocol::ApiKey;

use super::unix_ns;
use crate::{
    admin::{Cluster, Versions, offset_ranges},
    cli::{Acks, CommonOptions},
    clock::{Clock, ns_to_seconds},
    consumer::{ConsumeLoad, ConsumeWorker},
    error::BenchError,
    fetch::{FETCH_VERSIONS, FetchLimits},
    floor::{FloorPace, FloorProbe},
    frames::{PRODUCE_VERSIONS, PreparedProduce, Template, Templates},
    plan::{ConsumePlan, IdlePlan, ProducePlan, Rate, TopicPlan},
    process::{ProcessReport, ProcessSample, Watch},
    producer::{Clients, Pace, ProduceLoad, ProduceWorker, TailOptions},
    progress::{Bar, Progress},
    report::{BrokerReport, ClientReport, ClusterReport, Curves, LoadKind, Ratios, Results, RunReport},
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
const FETCH_WAIT_MS_MAX: i32 = 500;

/// Topics, where they are, and how to measure on them.
pub(super) struct Session<'command> {
    pub(super) common: &'command CommonOptions,
    pub(super) cluster: Cluster,
    pub(super) versions: &'command Versions,
    pub(super) clock: Clock,
    pub(super) timeout: Duration,
    pub(super) topics: &'command TopicPlan,
}

/// What the measured part cost.
struct Cost {
    user_seconds: f64,
    system_seconds: f64,
    broker: Option<ProcessReport>,
    broker_samples: Vec<ProcessSample>,
}

impl Session<'_> {
    pub(super) fn produce(&self, name: &str, plan: &ProducePlan) -> Result<RunReport, BenchError> {
        let api_version = self.versions.newest(ApiKey::Produce, PRODUCE_VERSIONS)?;
        let tail = self.tail(plan)?;
        let load = self.load(plan, api_version, tail.is_some())?;
        let request_bytes = load.prepared.first().map_or(0, PreparedProduce::size_in_bytes);
        let starts = if self.topics.has_retention() { Some(self.log_starts()?) } else { None };
        let mut watch = self.watch()?;
        let mut floor = self.floor(request_bytes)?;
        let (mut tally, window, cost) =
            self.drive_producers(name, &load, plan, tail.as_ref(), &mut watch, &mut floor)?;
        sample_floor(&mut floor)?;
        if tail.is_some() {
            let unread = load.progress.unread();
            count_error(&mut tally.errors, "acknowledged but not read back".to_owned(), unread);
        }

        let mut results = results(&tally, ns_to_seconds(window.duration_ns()));
        let value_bytes = tally.records * plan.record_bytes as u64;
        results.value_bytes = Some(value_bytes);
        results.value_bytes_per_second = Some(value_bytes as f64 / results.seconds);
        results.read_back_records = load.progress.read.load(std::sync::atomic::Ordering::Acquire);
        if let Some(starts) = starts {
            results.expired_records = Some(self.log_starts()?.saturating_sub(starts));
        }
        let load_kind = match plan.rate {
            Rate::RecordsPerSecond(rate) => {
                results.scheduled_records_per_second = Some(rate);
                LoadKind::Open
            }
            Rate::Highest { .. } => LoadKind::Closed,
        };
        let mut api_versions = vec![("Produce", api_version)];
        api_versions.extend(tail.map(|tail| ("Fetch", tail.api_version)));
        let mut run = self.report(name, load_kind, &api_versions, results, cost, &tally);
        if let Some(floor) = &floor {
            run.floor = floor.report();
            run.curves.floor = floor.curve();
        }
        if plan.acks == Acks::All && load_kind == LoadKind::Open {
            run.ratios = run.floor.as_ref().and_then(|floor| Ratios::new(&run.results, floor));
        }
        Ok(run)
    }

    fn tail(&self, plan: &ProducePlan) -> Result<Option<TailOptions>, BenchError> {
        if plan.consumers == 0 {
            return Ok(None);
        }
        Ok(Some(TailOptions {
            api_version: self.versions.newest(ApiKey::Fetch, FETCH_VERSIONS)?,
            offsets: offset_ranges(&self.cluster, self.timeout)?.iter().map(|range| range.1).collect(),
            limits: FetchLimits {
                bytes_max: 8 << 20,
                partition_bytes_max: 1 << 20,
                wait_ms_max: FETCH_WAIT_MS_MAX,
            },
            consumers: plan.consumers,
        }))
    }

    fn load(&self, plan: &ProducePlan, api_version: i16, is_read: bool) -> Result<ProduceLoad, BenchError> {
        let timestamp_ms = i64::try_from(unix_ns() / 1_000_000).unwrap_or(i64::MAX);
        let templates = match plan.is_keyed {
            true => Templates::keyed(&self.cluster, plan.record_bytes, plan.batch_records, timestamp_ms),
            false => Templates::Shared(Template::new(plan.record_bytes, plan.batch_records, timestamp_ms)),
        };
        let timeout_ms = i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX);
        let acks = plan.acks.wire();
        let prepared =
            PreparedProduce::for_cluster(&self.cluster, &templates, api_version, acks, timeout_ms)?;
        // Stamping takes a copy and a checksum of every batch, which the highest rate would measure too.
        let is_stamped = is_read && matches!(plan.rate, Rate::RecordsPerSecond(_));
        Ok(ProduceLoad {
            clock: self.clock,
            pace: plan.pace(),
            cluster: self.cluster.clone(),
            api_version,
            templates,
            is_keyed: plan.is_keyed,
            prepared,
            stamp_run: is_stamped.then(unix_ns),
            producers: plan.producers,
            threads: self.common.threads,
            spin_ns: plan.spin_us * 1_000,
            timeout: self.timeout,
            requests_max: plan.requests_max,
            lag_ns_max: plan.lag_ms_max.map(|ms| (ms * 1e6) as u64),
            progress: Progress::new(self.common.threads),
        })
    }

    fn drive_producers(
        &self,
        name: &str,
        load: &ProduceLoad,
        plan: &ProducePlan,
        tail: Option<&TailOptions>,
        watch: &mut Option<Watch>,
        floor: &mut Option<FloorProbe>,
    ) -> Result<(Tally, Window, Cost), BenchError> {
        let mut clients = Vec::new();
        for thread in 0..load.threads {
            clients.push(Clients::connect(load, thread, tail)?);
        }
        let load_start_ns = self.clock.now_ns() + START_DELAY_NS;
        let window = Window::new(load_start_ns, plan.warm_up, plan.duration);
        let (done, results) = channel();
        std::thread::scope(|scope| {
            for (thread, clients) in clients.into_iter().enumerate() {
                let done = done.clone();
                scope.spawn(move || {
                    let tally = ProduceWorker::new(load, window, thread, clients).run();
                    done.send(tally).expect("the main thread waits for every result");
                });
            }
            let sampler = match (load.pace, floor) {
                (Pace::Open { requests_per_second }, Some(floor)) => {
                    let pace =
                        FloorPace { clock: load.clock, window, requests_per_second, spin_ns: load.spin_ns };
                    Some(scope.spawn(move || floor.sample_paced(pace)))
                }
                _ => None,
            };
            let bar = Bar::new(name);
            let (tallies, cost) =
                watch_threads((self.clock, window), watch, (&bar, &load.progress), &results, load.threads)?;
            if let Some(sampler) = sampler {
                sampler.join().expect("the sampler does not panic")?;
            }
            let mut sum = Tally::new(window);
            tallies.iter().for_each(|tally| sum.merge(tally));
            let until_ns = if load.requests_max.is_some() { self.clock.now_ns() } else { window.end_ns };
            Ok((sum, Window { end_ns: until_ns.min(window.end_ns), ..window }, cost))
        })
    }

    pub(super) fn consume(&self, name: &str, plan: &ConsumePlan) -> Result<RunReport, BenchError> {
        let api_version = self.versions.newest(ApiKey::Fetch, FETCH_VERSIONS)?;
        let wire = |bytes: usize| i32::try_from(bytes).expect("the command line bounds byte counts");
        let load = ConsumeLoad {
            clock: self.clock,
            cluster: self.cluster.clone(),
            ranges: offset_ranges(&self.cluster, self.timeout)?,
            api_version,
            limits: FetchLimits {
                bytes_max: wire(plan.bytes_max),
                partition_bytes_max: wire(plan.partition_bytes_max),
                wait_ms_max: FETCH_WAIT_MS_MAX,
            },
            passes: plan.passes,
            consumers: plan.consumers,
            threads: self.common.threads.min(plan.consumers),
            timeout: self.timeout,
            progress: Progress::new(0),
        };
        if load.ranges.iter().all(|(start, end)| start >= end) {
            return Err(BenchError::Options(
                "the topics are empty: fill them with produce --keep".to_owned(),
            ));
        }
        let mut watch = self.watch()?;
        let mut floor = if plan.is_beside_load { None } else { self.floor(FETCH_REQUEST_BYTES)? };
        let (tally, seconds, cost) = self.drive_consumers(name, &load, &mut watch)?;
        sample_floor(&mut floor)?;
        let mut results = results(&tally, seconds);
        // Nothing is scheduled: each Fetch is sent when the one before is answered.
        results.lateness = None;
        results.service = None;
        let mut run = self.report(name, LoadKind::Drain, &[("Fetch", api_version)], results, cost, &tally);
        run.floor = floor.as_ref().and_then(FloorProbe::report);
        run.timeline = Vec::new();
        Ok(run)
    }

    fn drive_consumers(
        &self,
        name: &str,
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
            let times = (self.clock, everything);
            let bar = Bar::new(name);
            let (parts, cost) = watch_threads(times, watch, (&bar, &load.progress), &results, load.threads)?;
            let mut sum = Tally::new(ConsumeWorker::WINDOW);
            parts.iter().for_each(|(tally, _)| sum.merge(tally));
            let end_ns = parts.iter().map(|&(_, end_ns)| end_ns).max().unwrap_or(start_ns);
            Ok((sum, ns_to_seconds(end_ns - start_ns), cost))
        })
    }

    /// What the broker costs without load.
    pub(super) fn idle(&self, name: &str, plan: IdlePlan) -> Result<RunReport, BenchError> {
        let mut watch = self.watch()?;
        let seconds = plan.settle.as_secs_f64();
        let window = Window::new(self.clock.now_ns(), seconds, plan.duration.as_secs_f64());
        let (_done, results) = channel::<()>();
        let progress = Progress::new(0);
        let bar = Bar::new(name);
        let (_, cost) = watch_threads((self.clock, window), &mut watch, (&bar, &progress), &results, 0)?;
        let results = Results { seconds: plan.duration.as_secs_f64(), ..Results::default() };
        Ok(self.report(name, LoadKind::Idle, &[], results, cost, &Tally::new(window)))
    }

    /// The sum of the first offsets of all partitions.
    fn log_starts(&self) -> Result<u64, BenchError> {
        let ranges = offset_ranges(&self.cluster, self.timeout)?;
        Ok(ranges.iter().map(|&(start, _)| start.unsigned_abs()).sum())
    }

    fn watch(&self) -> Result<Option<Watch>, BenchError> {
        let pids = &self.common.broker_pids;
        if pids.is_empty() { Ok(None) } else { Watch::new(pids).map(Some) }
    }

    fn floor(&self, request_bytes: usize) -> Result<Option<FloorProbe>, BenchError> {
        if self.common.no_floor {
            return Ok(None);
        }
        let mut floor = Some(FloorProbe::new(&self.common.floor_dir, request_bytes, self.cluster.replicas)?);
        sample_floor(&mut floor)?;
        Ok(floor)
    }

    fn report(
        &self,
        name: &str,
        load: LoadKind,
        api_versions: &[(&str, i16)],
        results: Results,
        cost: Cost,
        tally: &Tally,
    ) -> RunReport {
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
        RunReport {
            name: name.to_owned(),
            load,
            cluster: ClusterReport {
                cluster_id: self.cluster.cluster_id.clone(),
                nodes: self.cluster.nodes.clone(),
                partitions: self.cluster.partitions.len(),
                api_versions: api_versions.iter().map(|&(api, version)| (api.to_owned(), version)).collect(),
            },
            floor: None,
            client: ClientReport {
                cpu_user_seconds: cost.user_seconds,
                cpu_system_seconds: cost.system_seconds,
                cores: client_seconds / results.seconds,
                cpu_us_per_request: (requests > 0.0).then(|| client_seconds * 1e6 / requests),
            },
            broker,
            curves: Curves {
                latency: tally.latency.curve(),
                end_to_end: tally.end_to_end.curve(),
                floor: Vec::new(),
            },
            timeline: tally.timeline.points(),
            broker_samples: cost.broker_samples,
            ratios: None,
            results,
            errors: tally.errors.clone(),
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
        requests: tally.requests,
        records: tally.records,
        batch_bytes: tally.batch_bytes,
        requests_per_second: per_second(tally.requests),
        records_per_second: per_second(tally.records),
        batch_bytes_per_second: per_second(tally.batch_bytes),
        latency: tally.latency.summary(),
        service: tally.service.summary(),
        lateness: tally.lateness.summary(),
        end_to_end: tally.end_to_end.summary(),
        ..Results::default()
    }
}

/// Waits for the result of every thread, and measures what the window costs meanwhile.
fn watch_threads<T>(
    (clock, window): (Clock, Window),
    watch: &mut Option<Watch>,
    (bar, progress): (&Bar, &Progress),
    results: &Receiver<T>,
    threads: usize,
) -> Result<(Vec<T>, Cost), BenchError> {
    let mut received = Vec::new();
    let mut before = None;
    let mut cost = None;
    while received.len() < threads || cost.is_none() {
        let now_ns = clock.now_ns();
        bar.show(now_ns, window, progress);
        let is_over = now_ns >= window.end_ns || (threads > 0 && received.len() == threads);
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
                broker_samples: watch.as_ref().map_or(Vec::new(), |watch| watch.samples().to_vec()),
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
    bar.clear();
    Ok((received, cost.expect("the loop ends with it")))
}
