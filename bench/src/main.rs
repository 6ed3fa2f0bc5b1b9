//! The command line of the harness.

use std::process::ExitCode;

use chronik_bench::{cli::Cli, run};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run::run(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("chronik-bench: {error}");
            ExitCode::from(2)
        }
    }
}
