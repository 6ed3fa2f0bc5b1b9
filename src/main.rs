//! The broker binary: command line, configuration, wiring of cores, monitoring, and small client commands.
//!
//! No protocol logic lives here: the broker's is in the crates under `shards`, and the client commands speak
//! through the `protocol` crate like any other client.

mod address;
mod cli;
mod config_file;
mod exit;
mod health;
mod http;
mod local;
mod machine;
mod node;
mod observe;
mod options;
mod peers;
mod run;
mod settings;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use cli::output;
use exit::{Error, ExitReason};
use options::{ClusterCommand, ClusterOptions, Command, CommandLine, Options};

fn main() -> ExitCode {
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        Err(error) => return on_parse_error(&error).into(),
    };
    match execute(command_line) {
        Ok(()) => ExitReason::Ok.into(),
        Err(error) => {
            output::tell(format_args!("chronik-server: {error}"));
            error.reason().into()
        }
    }
}

fn execute(CommandLine { command, global }: CommandLine) -> Result<(), Error> {
    let options = || Options::resolve(global);
    match command {
        None | Some(Command::Standalone) => run::standalone(&options()?),
        Some(Command::RaftCluster) => run::raft_cluster(&options()?),
        Some(Command::Local(local)) => local::run(&options()?, &local),
        Some(Command::Version) => {
            output::print(format_args!("chronik-server {}\n", env!("CARGO_PKG_VERSION")))
        }
        Some(Command::Topic(command)) => cli::topic::run(&options()?, command),
        Some(Command::Cluster(ClusterOptions { output, command })) => match command {
            ClusterCommand::View(view) => cli::inspect::run(&options()?, output, &view),
            ClusterCommand::Change(change) => cli::membership::run(&options()?, output, &change),
        },
        Some(Command::Produce(produce)) => cli::produce::run(&options()?, &produce),
        Some(Command::Consume(consume)) => cli::consume::run(&options()?, &consume),
        Some(Command::DumpLog(dump)) => cli::dump::run(&dump),
    }
}

/// Prints help as it is, and a mistake as one line.
fn on_parse_error(error: &clap::Error) -> ExitReason {
    match error.kind() {
        // Whoever asked may have closed the pipe meanwhile.
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitReason::Ok
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitReason::Usage
        }
        _ => {
            let text = error.to_string();
            let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
            let words: Vec<&str> =
                lines.filter(|line| !line.is_empty() && !line.starts_with("For more")).collect();
            let line = words.join("; ").replace(":; ", ": ");
            let mistake = line.trim_start_matches("error: ");
            output::tell(format_args!("chronik-server: {mistake}; see chronik-server --help"));
            ExitReason::Usage
        }
    }
}
