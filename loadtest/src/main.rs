//! Load and faults over real chronik-server processes, with a history of what clients saw and an independent judge of it.
//!
//! The way of a run: `run` → `cluster` (processes), `means` (network, disks, clocks) → `workload` (clients on threads) and
//! `faults`, all writing to `history` → `readback` → `checker` (pure) → `report`.

mod checker;
mod cleanup;
mod cli;
mod clock;
mod cluster;
mod command;
mod disks;
mod error;
mod faults;
mod history;
mod means;
mod network;
mod readback;
mod relay;
mod report;
mod run;
mod scenario;
mod values;
mod wall_clock;
mod wire;
mod workload;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    checker::{Judgement, Verdict},
    cli::{Cli, Command, RunOptions},
    run::RunEnd,
};

const EXIT_BROKEN: u8 = 1;
const EXIT_NO_RUN: u8 = 2;
const EXIT_UNKNOWN: u8 = 3;

fn main() -> ExitCode {
    cleanup::install_panic_hook();
    let cli = Cli::parse();
    let code = match &cli.command {
        None => run_scenario(&cli.run),
        Some(Command::Check { file, html }) => match run::check_file(file, html.as_deref()) {
            Ok(judgement) => show(&judgement),
            Err(error) => fail(&error),
        },
        Some(Command::List) => {
            for scenario in scenario::SCENARIOS {
                println!("{:12} {}", scenario.name, scenario.about);
            }
            ExitCode::SUCCESS
        }
    };
    cleanup::run();
    code
}

fn run_scenario(options: &RunOptions) -> ExitCode {
    match run::run(options) {
        Ok(RunEnd::Judged(judgement)) => show(&judgement),
        Ok(RunEnd::Skipped(why)) => {
            println!("skip {}: {why}", options.scenario);
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}

fn show(judgement: &Judgement) -> ExitCode {
    print!("{}", report::table(judgement));
    match judgement.verdict {
        Verdict::Pass => ExitCode::SUCCESS,
        Verdict::Fail => ExitCode::from(EXIT_BROKEN),
        Verdict::Unknown => ExitCode::from(EXIT_UNKNOWN),
    }
}

fn fail(error: &error::LoadtestError) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(EXIT_NO_RUN)
}
