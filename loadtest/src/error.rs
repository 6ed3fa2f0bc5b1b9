//! Why a run could not be made. What a run finds is no error but an anomaly of the checker.

use std::{io, path::PathBuf};

use crate::wire::WireError;

/// Why a run could not be made or a history not be judged.
#[derive(Debug, thiserror::Error)]
pub enum LoadtestError {
    /// Options that make no sense together.
    #[error("{0}")]
    Options(String),
    /// A file cannot be used.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of a history is not one of ours.
    #[error("line {number} of the history: {source}")]
    Line {
        /// Counted from 1.
        number: u64,
        /// Why.
        source: serde_json::Error,
    },
    /// A process cannot be started, signalled or awaited.
    #[error("{what}: {source}")]
    Process {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A node did not do in time, or at all, what a run needs.
    #[error("node {node}: {why}")]
    Node {
        /// Its id.
        node: i32,
        /// What is wrong, with the end of its log.
        why: String,
    },
    /// The cluster as a whole did not get ready in time.
    #[error("the cluster is not ready after {seconds} s: {why}")]
    NotReady {
        /// How long it was awaited.
        seconds: u64,
        /// What was missing last.
        why: String,
    },
    /// A program of the system failed.
    #[error("{command} failed: {message}")]
    Command {
        /// The whole command.
        command: String,
        /// What it said.
        message: String,
    },
    /// The client library refused something that must work.
    #[error("{what}: {source}")]
    Client {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: rdkafka::error::KafkaError,
    },
    /// A broker's answer to our own small client.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}
