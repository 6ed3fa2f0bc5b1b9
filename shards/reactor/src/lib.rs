//! The driver of real machines: it feeds sockets, files, rings and timers to the pure shards and carries out what
//! they ask for. It decides nothing about Kafka, Raft or storage, and it is the only crate that names glommio.
//!
//! One thread and one io_uring executor per shard, one supervisor thread beside them
//! that wakes, watches and ends them. [`Node::start`] checks the machine and the data directory, recovers the
//! WALs and opens the listeners; [`NodeHandle`] is what the process holds afterwards.

mod clock;
mod connection;
mod core;
mod data_dir;
mod deadlines;
mod direct;
mod disk;
mod driver;
mod error;
mod exit;
mod frame;
mod gather;
mod groups;
mod io_failure;
mod listen;
mod machine;
mod metrics;
mod node;
mod notify;
mod options;
mod peer_frame;
mod peer_handshake;
mod peer_identity;
mod peer_incoming;
mod peer_link;
mod peer_listener;
mod polling;
mod regroup;
mod ring;
mod segment;
mod supervisor;
mod wal;
mod wal_dir;
mod wal_progress;

pub use crate::core::ShardCore;
pub use crate::data_dir::{stored_cluster_id, stored_voters};
pub use crate::error::StartError;
pub use crate::exit::{Exit, Fatal};
pub use crate::node::{Node, NodeHandle, ShardStart, Stopper};
pub use crate::options::{NodeOptions, Placement};

#[cfg(test)]
mod tests;
