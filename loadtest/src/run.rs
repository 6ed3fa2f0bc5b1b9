//! One run: cluster, clients, faults, read-back, judgement.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::{
    checker::{self, Judgement, Verdict},
    cli::RunOptions,
    clock::Clock,
    cluster::{Cluster, ClusterOptions},
    error::LoadtestError,
    faults::Injector,
    history::{self, Operation, Outcome, Recorder, RunFacts},
    means::Means,
    readback, report,
    scenario::{self, Scenario, Step},
    workload::{Shared, Workload, WorkloadPlan, create_topic},
};

/// The process that concerns the run as a whole.
const NAME: &str = "run";
const LOAD_TOPIC: &str = "load";
const CREATE_SECONDS_MAX: u64 = 60;

/// How a run ended.
#[derive(Debug)]
pub enum RunEnd {
    /// It was made and judged.
    Judged(Box<Judgement>),
    /// It could not do any of its steps here.
    Skipped(String),
}

/// What is fixed before anything starts.
struct Plan<'a> {
    options: &'a RunOptions,
    scenario: Scenario,
    steps: Vec<Step>,
    seed: u64,
    folder: PathBuf,
    interrupted: Arc<AtomicBool>,
}

/// Makes a run and judges it.
///
/// # Errors
///
/// [`LoadtestError`] when the run cannot be made. That a broker fails is no error but a finding.
pub fn run(options: &RunOptions) -> Result<RunEnd, LoadtestError> {
    options.validate()?;
    let scenario = scenario::find(&options.scenario).ok_or_else(|| {
        LoadtestError::Options(format!(
            "there is no scenario {}: see `chronik-loadtest list`",
            options.scenario
        ))
    })?;
    let obstacles: Vec<_> =
        scenario.needs().into_iter().filter_map(|need| Some((need, need.obstacle()?))).collect();
    let can_have = |need| obstacles.iter().all(|(missing, _)| *missing != need);
    let steps = scenario.possible(options.nodes, can_have);
    if steps.is_empty() && !scenario.steps.is_empty() {
        let alone = || "none of its faults is possible with one node".to_owned();
        return Ok(RunEnd::Skipped(obstacles.into_iter().next().map_or_else(alone, |(_, why)| why)));
    }
    for (need, why) in &obstacles {
        println!("without {}: {why}", need.faults());
    }
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let folder = options.out.join(format!("{}-{seed}-{}", scenario.name, std::process::id()));
    fs::create_dir_all(&folder).map_err(|source| LoadtestError::File { path: folder.clone(), source })?;
    println!("scenario {}, {} nodes, seed {seed}, {}", scenario.name, options.nodes, folder.display());
    let plan = Plan { options, scenario, steps, seed, folder, interrupted: interrupted()? };
    let recorder = Arc::new(Recorder::create(&plan.history(), Clock::start())?);
    let performed = plan.perform(&recorder);
    recorder.finish()?;
    performed?;
    let judgement = plan.judge()?;
    if judgement.verdict == Verdict::Pass && !options.keep {
        plan.remove_data()?;
    }
    Ok(RunEnd::Judged(Box::new(judgement)))
}

fn interrupted() -> Result<Arc<AtomicBool>, LoadtestError> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&flag))
            .map_err(|source| LoadtestError::Process { what: "catching signals".to_owned(), source })?;
    }
    Ok(flag)
}

impl Plan<'_> {
    fn history(&self) -> PathBuf {
        self.folder.join("history.jsonl")
    }

    fn nodes_folder(&self) -> PathBuf {
        self.folder.join("nodes")
    }

    /// Everything up to the last line of the history.
    fn perform(&self, recorder: &Arc<Recorder>) -> Result<(), LoadtestError> {
        let folder = self.nodes_folder();
        fs::create_dir_all(&folder).map_err(|source| LoadtestError::File { path: folder.clone(), source })?;
        let needs: Vec<_> = self.steps.iter().filter_map(|step| step.need()).collect();
        let means = Means::create(&needs, self.options.nodes, &folder, self.seed)?;
        // It is dropped before the file systems that it uses.
        let mut cluster = self.cluster(&means)?;
        let shared =
            Arc::new(Shared::new(Arc::clone(recorder), cluster.directory.clone(), self.workload_plan()));
        recorder.ok(NAME, 0, Operation::Run(self.facts()));
        cluster.start_all()?;
        self.create_load_topic(&shared)?;
        match self.load(&shared, &mut cluster, &means) {
            Ok(()) => {}
            // A node that does not come back, or a cluster that does not heal, is what a run is there to find.
            Err(error @ (LoadtestError::Node { .. } | LoadtestError::NotReady { .. })) => {
                println!("{error}");
                record_failure(recorder, &error);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        recorder.ok(NAME, 0, Operation::End);
        for error in cluster.stop_all() {
            println!("{error}");
            record_failure(recorder, &error);
        }
        Ok(())
    }

    fn cluster(&self, means: &Means) -> Result<Cluster, LoadtestError> {
        let options = ClusterOptions {
            program: self.options.server.clone(),
            folder: self.nodes_folder(),
            nodes: self.options.nodes,
            shards: self.options.shards,
            settings: self.options.settings.clone(),
        };
        Cluster::new(options, means)
    }

    fn workload_plan(&self) -> WorkloadPlan {
        WorkloadPlan {
            topic: LOAD_TOPIC.to_owned(),
            partitions: self.options.partitions,
            replication: self.options.replication(),
            rate: self.options.rate,
            has_default_retries: self.scenario.is_gentle,
            seed: self.seed,
        }
    }

    fn facts(&self) -> RunFacts {
        RunFacts {
            scenario: self.scenario.name.to_owned(),
            seed: self.seed,
            nodes: i32::from(self.options.nodes),
            replication: self.options.replication(),
            load_topic: LOAD_TOPIC.to_owned(),
            partitions: self.options.partitions,
            outage_ms_max: (self.options.outage_max * 1e3) as u64,
            may_fail_sends: !self.scenario.is_gentle,
        }
    }

    fn create_load_topic(&self, shared: &Shared) -> Result<(), LoadtestError> {
        let deadline = Instant::now() + Duration::from_secs(CREATE_SECONDS_MAX);
        // A cluster that has just formed may ask for patience.
        while create_topic(shared, NAME, LOAD_TOPIC, self.options.partitions)? != Outcome::Ok {
            if shared
                .directory
                .view(|_| true)?
                .partitions
                .iter()
                .any(|partition| partition.at.topic == LOAD_TOPIC)
            {
                break;
            }
            if Instant::now() > deadline {
                let why = "the load topic cannot be created".to_owned();
                return Err(LoadtestError::NotReady { seconds: CREATE_SECONDS_MAX, why });
            }
        }
        Ok(())
    }

    /// Clients and faults, then the read-back.
    fn load(&self, shared: &Arc<Shared>, cluster: &mut Cluster, means: &Means) -> Result<(), LoadtestError> {
        let workload = Workload::start(shared)?;
        let start_us = shared.recorder.clock.now_us();
        let until = Instant::now() + Duration::from_secs_f64(self.options.minutes() * 60.0);
        let mut injector = Injector {
            cluster,
            means,
            shared: Arc::clone(shared),
            chance: fastrand::Rng::with_seed(self.seed),
            outage_max: Duration::from_secs_f64(self.options.outage_max),
            away_bytes: self.options.away_mb * 1_000_000,
            rounds: self.options.rounds,
            interrupted: Arc::clone(&self.interrupted),
        };
        injector.run(&self.scenario, &self.steps, until)?;
        shared.recorder.ok(NAME, start_us, Operation::Load);
        println!("  {} records acknowledged; reading back", shared.acknowledged());
        workload.stop()?;
        readback::run(shared)
    }

    fn judge(&self) -> Result<Judgement, LoadtestError> {
        let judgement = checker::check(history::read(&self.history())?)?;
        write_page(&self.history(), &judgement, &self.folder.join("report.html"))?;
        Ok(judgement)
    }

    fn remove_data(&self) -> Result<(), LoadtestError> {
        let folder = self.nodes_folder();
        fs::remove_dir_all(&folder).map_err(|source| LoadtestError::File { path: folder.clone(), source })
    }
}

/// Judges a history that lies there.
///
/// # Errors
///
/// [`LoadtestError::File`], [`LoadtestError::Line`].
pub fn check_file(file: &Path, html: Option<&Path>) -> Result<Judgement, LoadtestError> {
    let judgement = checker::check(history::read(file)?)?;
    if let Some(html) = html {
        write_page(file, &judgement, html)?;
    }
    Ok(judgement)
}

fn write_page(history: &Path, judgement: &Judgement, page: &Path) -> Result<(), LoadtestError> {
    let seconds = report::Seconds::gather(history::read(history)?)?;
    fs::write(page, report::page(judgement, &seconds))
        .map_err(|source| LoadtestError::File { path: page.to_owned(), source })?;
    println!("{}", page.display());
    Ok(())
}

fn record_failure(recorder: &Recorder, error: &LoadtestError) {
    let node = if let LoadtestError::Node { node, .. } = error { *node } else { 0 };
    let operation = Operation::Crash { node };
    recorder.record(NAME, recorder.clock.now_us(), Outcome::Fail, operation, Some(error.to_string()));
}
