//! Runs histories of the simulator from the command line.

use std::ops::Range;
use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::Parser;
use sim::History;
use sim::coverage::HISTORIES_MIN;
use sim::hunt::{SEEDS_MAX, hunt_all};
use sim::runner::{Report, catch_panics, run_all};
use types::mutants::{MUTANTS, Mutant};

/// Runs the deterministic simulator. README.md beside its sources says what it finds and how.
#[derive(Debug, Parser)]
struct Arguments {
    /// Run the history of this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// How many nodes the cluster has.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Print every event of it.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// End it after so many virtual milliseconds.
    #[arg(long, requires = "seed")]
    ticks: Option<u64>,
    /// Run the histories of these seeds, `A..B` without B, and print those that fail.
    #[arg(long, value_parser = parse_range, conflicts_with = "seed")]
    seeds: Option<Range<u64>>,
    /// Threads; as many as there are cores, if not given.
    #[arg(long)]
    jobs: Option<usize>,
    /// Plant this bug in what runs.
    #[arg(long, value_parser = parse_mutant)]
    mutant: Option<Mutant>,
    /// Plant one bug after the other, and fail if histories do not find each of them.
    #[arg(long, conflicts_with_all = ["seed", "seeds"])]
    mutants: bool,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("seeds are given as A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    Ok(number(from)?..number(to)?)
}

fn parse_mutant(name: &str) -> Result<Mutant, String> {
    let names = || MUTANTS.iter().map(|mutant| mutant.name()).collect::<Vec<_>>().join(", ");
    Mutant::named(name).ok_or_else(|| format!("there are {}", names()))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let nodes = usize::from(arguments.nodes);
    let history_of = |seed| History {
        is_traced: arguments.trace,
        ticks: arguments.ticks,
        mutant: arguments.mutant,
        ..History::new(seed, nodes)
    };
    if let Some(seed) = arguments.seed {
        let outcome = history_of(seed).run();
        println!("seed {seed}: {outcome:?}");
        return ExitCode::SUCCESS;
    }
    if cfg!(panic = "abort") {
        eprintln!("many histories need a build that can go on after one fails: --profile ci");
        return ExitCode::FAILURE;
    }
    catch_panics();
    let cores = available_parallelism().map_or(1, usize::from);
    let jobs = arguments.jobs.unwrap_or(cores).max(1);
    if arguments.mutants {
        return hunt(nodes, jobs);
    }
    let seeds = arguments.seeds.unwrap_or(0..100);
    let on_failed = |seed: u64, why: &str| {
        let command = "cargo simulate";
        let mutant = arguments.mutant.map_or(String::new(), |mutant| format!(" --mutant {}", mutant.name()));
        let why: String = why.chars().take(600).collect();
        println!("seed {seed} fails: {command} --seed {seed} --nodes {nodes}{mutant} --trace\n    {why}");
    };
    tell(&run_all(seeds, jobs, history_of, on_failed), nodes)
}

/// Says what the histories came to.
fn tell(report: &Report, nodes: usize) -> ExitCode {
    let Report { histories, failed, coverage, acknowledged_records, virtual_us, took } = report;
    let marks: Vec<String> = coverage.marks().map(|(what, times)| format!("{what} {times}")).collect();
    println!("exercised: {}", marks.join(", "));
    let (seconds, hours) = (took.as_secs_f64(), *virtual_us as f64 / 3.6e9);
    println!(
        "{} of {histories} histories of {nodes} nodes fail; {seconds:.1} s, {:.1} histories and {:.2} virtual hours per second, \
         {acknowledged_records} records acknowledged",
        failed.len(),
        *histories as f64 / seconds,
        hours / seconds
    );
    let missing = coverage.missing();
    let is_judged = *histories >= HISTORIES_MIN && nodes >= 3;
    if !missing.is_empty() {
        println!("never exercised: {}", missing.join(", "));
    }
    if failed.is_empty() && (missing.is_empty() || !is_judged) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Hunts all planted bugs.
fn hunt(nodes: usize, jobs: usize) -> ExitCode {
    if !cfg!(feature = "full") {
        eprintln!("bugs are planted with the feature `full` only");
        return ExitCode::FAILURE;
    }
    let hunted = hunt_all(MUTANTS, 0, nodes, jobs, |one| match &one.found {
        Some((seed, why)) => {
            let why: String = why.lines().next().unwrap_or_default().chars().take(160).collect();
            println!("{:<32} {:>4}  {why}", one.mutant.name(), seed + 1);
        }
        None => println!("{:<32}    -  NOT FOUND within {SEEDS_MAX} histories", one.mutant.name()),
    });
    let missed = hunted.iter().filter(|one| one.found.is_none()).count();
    println!("{missed} of {} planted bugs are not found", hunted.len());
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
