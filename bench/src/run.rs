//! A command from its options to its report.

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    admin::{Admin, Cluster, await_leaders},
    cli::{Cli, Command, CommonOptions},
    clock::Clock,
    compare::compare,
    error::BenchError,
    html,
    plan::{ConsumePlan, ProducePlan, Rate, TopicPlan},
    report::{MachineReport, Report, RunReport, SearchReport},
    table::{render_overview, render_run},
};

mod series;
mod session;

use session::Session;

/// Does what the command line says, and prints what it found. Returns whether all is well.
///
/// # Errors
///
/// When a run could not be made. Errors that the broker answered are in the report.
pub fn run(cli: &Cli) -> Result<bool, BenchError> {
    cli.command.validate()?;
    if let Command::Compare(options) = &cli.command {
        let (first, second) = (Report::read_json(&options.first)?, Report::read_json(&options.second)?);
        print!("{}", compare(&first, &second));
        return Ok(true);
    }
    let report = measure(&cli.command, |run| println!("{}", render_run(run)))?;
    print!("{}", render_overview(&report));
    if let Some(path) = cli.command.common().and_then(|common| common.json.as_ref()) {
        report.write_json(path)?;
    }
    if let Some(path) = cli.command.common().and_then(|common| common.html.as_ref()) {
        html::write(&report, path)?;
    }
    Ok(report.is_good())
}

/// Makes the runs of a command, and shows each when it is over.
///
/// # Errors
///
/// As [`run`].
///
/// # Panics
///
/// With a command that makes no run.
pub fn measure(command: &Command, show: impl FnMut(&RunReport)) -> Result<Report, BenchError> {
    let common = command.common().expect("the command makes runs");
    let started_unix_ms = unix_ns() / 1_000_000;
    let mut harness = Harness {
        common,
        timeout: Duration::from_secs(common.timeout),
        runs: Vec::new(),
        show: Box::new(show),
    };
    let mut search = None;
    match command {
        Command::Produce(options) => {
            let rate =
                options.rate.map_or(Rate::Highest { in_flight: options.in_flight }, Rate::RecordsPerSecond);
            harness.produce("produce", &TopicPlan::new(common), &ProducePlan::new(&options.load, rate))?;
        }
        Command::Consume(options) => {
            let plan = ConsumePlan {
                consumers: options.connections,
                bytes_max: options.fetch_max_bytes.0,
                partition_bytes_max: options.partition_max_bytes.0,
                passes: options.passes,
                is_beside_load: false,
            };
            let run =
                harness.with_topics(&TopicPlan::new(common), |session| session.consume("consume", &plan))?;
            harness.add(run);
        }
        Command::Latency(options) => {
            harness.produce("latency", &TopicPlan::new(common), &ProducePlan::latency(options))?;
        }
        Command::Workload(options) => harness.workload(options)?,
        Command::Search(options) => search = Some(harness.search(options)?),
        Command::Sweep(options) => harness.sweep(options)?,
        Command::Backlog(options) => harness.backlog(options)?,
        Command::Idle(options) => harness.idle(options)?,
        Command::Compare(_) => unreachable!("it has no common options"),
    }
    Ok(report(command, started_unix_ms, harness.runs, search))
}

fn report(
    command: &Command,
    started_unix_ms: u64,
    runs: Vec<RunReport>,
    search: Option<SearchReport>,
) -> Report {
    Report {
        tool: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: command.name().to_owned(),
        label: command.common().and_then(|common| common.label.clone()),
        started_unix_ms,
        options: command.to_json(),
        machine: machine(),
        runs,
        search,
    }
}

/// What all runs of a command share.
struct Harness<'command> {
    common: &'command CommonOptions,
    timeout: Duration,
    runs: Vec<RunReport>,
    show: Box<dyn FnMut(&RunReport) + 'command>,
}

impl Harness<'_> {
    fn add(&mut self, run: RunReport) {
        (self.show)(&run);
        self.runs.push(run);
    }

    fn produce(&mut self, name: &str, topics: &TopicPlan, plan: &ProducePlan) -> Result<(), BenchError> {
        let run = self.with_topics(topics, |session| session.produce(name, plan))?;
        self.add(run);
        Ok(())
    }

    /// Makes topics if they are to be made, finds them, and deletes them again unless they are to be kept.
    fn with_topics<T>(
        &self,
        topics: &TopicPlan,
        work: impl FnOnce(&Session<'_>) -> Result<T, BenchError>,
    ) -> Result<T, BenchError> {
        let mut admin = Admin::connect(&self.common.bootstrap, self.timeout)?;
        if topics.is_created {
            let configs: Vec<(String, String)> = topics
                .configs
                .iter()
                .filter_map(|config| config.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            let partitions =
                i32::try_from(topics.partitions.unwrap_or(1)).expect("the command line bounds it");
            admin.create_topics(&topics.names, partitions, self.common.replication_factor, &configs)?;
        }
        let result = self.locate(&mut admin, topics).and_then(|cluster| {
            let (common, timeout) = (self.common, self.timeout);
            work(&Session {
                common,
                cluster,
                versions: admin.versions(),
                clock: Clock::start(),
                timeout,
                topics,
            })
        });
        if topics.is_created && !topics.is_kept {
            // An error of the run says more than one of tidying up behind it.
            let deleted = admin.delete_topics(&topics.names);
            let result = result?;
            deleted?;
            return Ok(result);
        }
        result
    }

    fn locate(&self, admin: &mut Admin, topics: &TopicPlan) -> Result<Cluster, BenchError> {
        let cluster = admin.locate(&topics.names, topics.partitions, topics.is_created)?;
        if topics.is_created {
            await_leaders(&cluster, self.timeout)?;
        }
        Ok(cluster)
    }
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

fn unix_ns() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since_epoch.as_nanos() as u64
}

#[cfg(test)]
mod tests;
