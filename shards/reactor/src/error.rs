//! Why a node does not start, each in a line that says what to do.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use log::wal::RecoveryError;
use types::NodeId;

/// Why [`crate::Node::start`] failed. Nothing was changed in the data directory except where it says so.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The options contradict themselves.
    #[error("the options are not possible: {0}")]
    Options(String),
    /// Another socket listens on the address, be it one that would share the port.
    #[error("{address} is in use by another process: stop it, or listen on another port")]
    PortTaken {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}; choose an address of this machine and a port that this user may open"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// Another process works in the data directory.
    #[error(
        "the data directory {path} is in use by process {pid}: stop it, or choose another data directory"
    )]
    DataDirLocked {
        /// The data directory.
        path: PathBuf,
        /// The process, as its lock file says; `unknown` while it has not written it yet.
        pid: String,
    },
    /// The data directory belongs to another node.
    #[error(
        "the data directory {path} belongs to node {found}, not {expected}: start with that node id, or choose another data directory"
    )]
    OtherNode {
        /// The data directory.
        path: PathBuf,
        /// The id it remembers.
        found: NodeId,
        /// The id in the options.
        expected: NodeId,
    },
    /// The data directory belongs to another cluster.
    #[error(
        "the data directory {path} belongs to cluster {found}, not {expected}: choose another data directory"
    )]
    OtherCluster {
        /// The data directory.
        path: PathBuf,
        /// The id it remembers.
        found: String,
        /// The id in the options.
        expected: String,
    },
    /// A part of the data directory is gone that holds, or names, what the node has promised.
    #[error(
        "the data directory {path} has lost its {missing}: put it back; without it the node would not know what it has promised"
    )]
    Incomplete {
        /// The data directory.
        path: PathBuf,
        /// The file or folder in it.
        missing: &'static str,
    },
    /// `meta.properties` cannot be understood.
    #[error("{path} is not a file of this broker: {why}; restore it, or choose another data directory")]
    MetaProperties {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file system cannot do direct I/O.
    #[error(
        "the file system of {path} does not support direct I/O ({source}): put the data directory on ext4 or XFS on a local disk"
    )]
    NoDirectIo {
        /// The data directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Too little memory may be locked.
    #[error(
        "only {limit_kib} KiB of memory may be locked, io_uring needs {needed_kib} KiB: raise RLIMIT_MEMLOCK (ulimit -l {needed_kib}, or LimitMEMLOCK= in the service)"
    )]
    LockedMemory {
        /// The limit, KiB.
        limit_kib: u64,
        /// What is needed, KiB.
        needed_kib: u64,
    },
    /// Too few files may be open at once.
    #[error(
        "only {limit} files may be open at once, these shards need {needed}: raise RLIMIT_NOFILE (ulimit -n {needed} or more, or LimitNOFILE= in the service), or start fewer shards"
    )]
    OpenFiles {
        /// The limit.
        limit: u64,
        /// What is needed at least.
        needed: u64,
    },
    /// The kernel does not give io_uring.
    #[error(
        "io_uring is not available ({source}): allow it in the container's seccomp profile, set sysctl kernel.io_uring_disabled=0, and run Linux 5.11 or newer"
    )]
    NoIoUring {
        /// The system's reason.
        source: io::Error,
    },
    /// An executor could not be made.
    #[error("cannot start the executor of shard {shard}: {why}")]
    Executor {
        /// The shard's number.
        shard: u16,
        /// The reason.
        why: String,
    },
    /// A WAL cannot be recovered. Nothing was deleted.
    #[error(
        "the WAL of shard {shard} in {path} cannot be recovered: {source}; restore the disk; in a cluster, `chronik-server cluster replace-node` lets this node begin again, empty, with --join"
    )]
    Recovery {
        /// The shard's number in the data directory.
        shard: u16,
        /// Its folder.
        path: PathBuf,
        /// The reason.
        source: RecoveryError,
    },
    /// The WAL folders are not as this broker leaves them.
    #[error("{path} is not as this broker leaves it: {why}; nothing was changed")]
    Layout {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A file operation failed.
    #[error("cannot {operation} {path}: {source}")]
    File {
        /// What was to be done.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Names the operation and the path of a failed file operation.
pub(crate) fn file_error(
    operation: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> StartError {
    let path = path.into();
    move |source| StartError::File { operation, path, source }
}
