//! Runs histories of the simulator from the command line.

use std::process::{Command, ExitCode, Stdio};

use clap::Parser;

/// Runs the deterministic simulator.
#[derive(Debug, Parser)]
struct Arguments {
    /// Run the history of this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// How many nodes the cluster has.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Print every event of it.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Run the histories of these seeds, `A..B` without B, and print those that fail.
    #[arg(long, value_parser = parse_range, conflicts_with = "seed")]
    seeds: Option<(u64, u64)>,
}

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("seeds are given as A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    Ok((number(from)?, number(to)?))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed {
        let outcome = sim::run_seed(seed, arguments.nodes, arguments.trace);
        println!("seed {seed}: {outcome:?}");
        return ExitCode::SUCCESS;
    }
    let (from, to) = arguments.seeds.unwrap_or((0, 100));
    run_seeds(from, to, arguments.nodes)
}

/// Each in a process of its own, so that one that fails does not end the others.
fn run_seeds(from: u64, to: u64, nodes: usize) -> ExitCode {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            eprintln!("this program cannot find itself: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut failed = 0;
    for seed in from..to {
        let output = Command::new(&program)
            .args(["--seed", &seed.to_string(), "--nodes", &nodes.to_string()])
            .stdin(Stdio::null())
            .output();
        match output {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                failed += 1;
                let message = String::from_utf8_lossy(&output.stderr);
                let lines = message.lines().filter(|line| !line.trim().is_empty()).take(2);
                let why: String = lines.collect::<Vec<_>>().join("\n    ").chars().take(600).collect();
                println!(
                    "seed {seed} fails: cargo run --profile sim -p sim -- --seed {seed} --nodes {nodes} --trace\n    {why}"
                );
            }
            Err(error) => {
                eprintln!("seed {seed} cannot be run: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{failed} of {} seeds fail", to - from);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
