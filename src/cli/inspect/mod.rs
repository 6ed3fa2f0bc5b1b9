//! `cluster`: how the cluster is, as its own brokers say over the Kafka protocol.

pub(super) mod observed;
mod report;
pub(super) mod table;

use serde::Serialize;

use super::cluster::Cluster;
use super::output;
use crate::exit::Error;
use crate::options::{ClusterView, Options, OutputFormat};

use observed::Observed;
use report::{Health, Isr, Nodes, Partitions, Status};

/// Something that a command shows.
pub(super) trait Report: Serialize {
    /// For people; ends with a line feed.
    fn text(&self) -> String;
}

/// Runs one of the commands.
///
/// # Errors
///
/// [`Error::Unhealthy`] of `status` and `health`, after they have printed what they found, when not all is well; and
/// whatever keeps the cluster from being asked.
pub fn run(options: &Options, format: OutputFormat, view: &ClusterView) -> Result<(), Error> {
    let mut cluster = Cluster::connect(options)?;
    let observed = Observed::ask(&mut cluster)?;
    match view {
        ClusterView::Status => {
            let status = Status::new(&observed, &observed.ask_unreachable(&mut cluster));
            print(&status, format)?;
            status.outcome()
        }
        ClusterView::Nodes => {
            let bytes = observed.ask_bytes(&mut cluster);
            let draining = observed.ask_draining(&mut cluster);
            print(&Nodes::new(&observed, bytes, draining), format)
        }
        ClusterView::Partitions => {
            let ends = observed.ask_end_offsets(&mut cluster);
            print(&Partitions::new(&observed, &ends), format)
        }
        ClusterView::Isr => print(&Isr::new(&observed), format),
        ClusterView::Health => {
            let health = Health::new(&observed, &observed.ask_unreachable(&mut cluster));
            print(&health, format)?;
            health.outcome()
        }
    }
}

/// Prints a report.
///
/// # Errors
///
/// As [`output::print`].
pub(super) fn print(report: &impl Report, format: OutputFormat) -> Result<(), Error> {
    match format {
        OutputFormat::Table => output::print(report.text()),
        OutputFormat::Json => {
            let json = serde_json::to_string_pretty(report).expect("a report of plain fields is JSON");
            output::print(json + "\n")
        }
    }
}
