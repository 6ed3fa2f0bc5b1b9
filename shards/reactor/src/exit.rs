//! How a node ends.

use shard::FatalReason;
use types::ShardId;

/// Why a node ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was stopped, and every shard finished what it had accepted.
    Finished,
    /// It was stopped, and the grace period passed before every shard had finished.
    GraceExpired,
    /// A shard could not go on. The process must end without answering anything more.
    Fatal(Fatal),
}

/// What a node cannot survive. A restart recovers from what is durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// A WAL write or flush failed. What reached the disk is unknown, so nothing more may be acknowledged, and a
    /// flush is never retried: the kernel may have dropped the pages that it could not write.
    #[error("WalWriteFailed on shard {shard}: {why}")]
    WalWriteFailed {
        /// The shard.
        shard: ShardId,
        /// File, position and the system's words.
        why: String,
    },
    /// The shard itself gave up.
    #[error("shard {shard} ends the process: {reason}")]
    Shard {
        /// The shard.
        shard: ShardId,
        /// Its reason.
        reason: FatalReason,
    },
    /// What the cluster is called could not be remembered, or the data directory is of another cluster.
    #[error("cannot join the cluster: {why}")]
    NotJoined {
        /// The reason.
        why: String,
    },
    /// An executor's thread ended without being asked.
    #[error("the executor of shard {shard} died: {why}")]
    ExecutorDied {
        /// The shard.
        shard: ShardId,
        /// What is known.
        why: String,
    },
}
