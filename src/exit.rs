//! How the process ends: every exit code, and the errors that lead to them.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// Why the process ended, as the number that it leaves behind. Numbers are never given a new meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitReason {
    /// Everything was done.
    Ok = 0,
    /// A client command failed, or `dump-log` found damage.
    CommandFailed = 1,
    /// An option, a setting or the configuration file is wrong.
    Usage = 2,
    /// A client command found that not all of the cluster is well.
    Unhealthy = 3,
    /// A stop did not finish within its time; what was acknowledged is durable all the same.
    StopTimedOut = 10,
    /// A write or flush of the WAL failed.
    WalWriteFailed = 20,
    /// A write or flush of a segment failed.
    SegmentWriteFailed = 21,
    /// Stored data turned out to be damaged while the broker ran.
    DataDamaged = 22,
    /// A shard's thread ended without being asked.
    ShardDied = 23,
    /// The cluster could not be joined.
    NotJoined = 25,
    /// A port is in use.
    PortTaken = 64,
    /// An address cannot be listened on.
    CannotListen = 65,
    /// Another process works in the data directory.
    DataDirLocked = 66,
    /// The data directory belongs to another node or cluster.
    DataDirOfOther = 67,
    /// The data directory cannot be read or written, or is not a broker's.
    DataDirUnusable = 68,
    /// The file system cannot do direct I/O.
    NoDirectIo = 69,
    /// Too little memory may be locked.
    LockedMemory = 70,
    /// The kernel does not give io_uring.
    NoIoUring = 71,
    /// The WAL is damaged before its end; nothing was changed.
    WalDamaged = 72,
    /// The machine refused a thread or an executor.
    CannotStart = 73,
    /// Too few files may be open at once.
    OpenFiles = 74,
    /// A second signal ended the process at once.
    Interrupted = 130,
}

impl ExitReason {
    /// Every reason, ascending by number.
    pub const ALL: &[ExitReason] = &[
        ExitReason::Ok,
        ExitReason::CommandFailed,
        ExitReason::Usage,
        ExitReason::Unhealthy,
        ExitReason::StopTimedOut,
        ExitReason::WalWriteFailed,
        ExitReason::SegmentWriteFailed,
        ExitReason::DataDamaged,
        ExitReason::ShardDied,
        ExitReason::NotJoined,
        ExitReason::PortTaken,
        ExitReason::CannotListen,
        ExitReason::DataDirLocked,
        ExitReason::DataDirOfOther,
        ExitReason::DataDirUnusable,
        ExitReason::NoDirectIo,
        ExitReason::LockedMemory,
        ExitReason::NoIoUring,
        ExitReason::WalDamaged,
        ExitReason::CannotStart,
        ExitReason::OpenFiles,
        ExitReason::Interrupted,
    ];

    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What the number means, for `--help` and the log.
    pub const fn meaning(self) -> &'static str {
        match self {
            ExitReason::Ok => "ended as asked",
            ExitReason::CommandFailed => "a client command failed, or dump-log found damage",
            ExitReason::Usage => "wrong option, setting or configuration file",
            ExitReason::Unhealthy => "the cluster is not healthy (cluster status, cluster health)",
            ExitReason::StopTimedOut => "the stop took too long and was cut short",
            ExitReason::WalWriteFailed => "a WAL write failed",
            ExitReason::SegmentWriteFailed => "a segment write failed",
            ExitReason::DataDamaged => "stored data is damaged",
            ExitReason::ShardDied => "a shard's thread died",
            ExitReason::NotJoined => "the cluster could not be joined",
            ExitReason::PortTaken => "a port is in use",
            ExitReason::CannotListen => "an address cannot be listened on",
            ExitReason::DataDirLocked => "the data directory is in use by another process",
            ExitReason::DataDirOfOther => "the data directory belongs to another node or cluster",
            ExitReason::DataDirUnusable => "the data directory cannot be used",
            ExitReason::NoDirectIo => "the file system has no direct I/O",
            ExitReason::LockedMemory => "too little memory may be locked",
            ExitReason::NoIoUring => "io_uring is not available",
            ExitReason::WalDamaged => "the WAL is damaged and was left as it is",
            ExitReason::CannotStart => "the system refused a thread",
            ExitReason::OpenFiles => "too few files may be open at once",
            ExitReason::Interrupted => "a second signal ended the process at once",
        }
    }

    /// All reasons as lines for `--help`.
    pub fn table() -> String {
        let mut text = String::from("Exit codes:\n");
        for reason in ExitReason::ALL {
            text += &format!("  {:>3}  {}\n", reason.code(), reason.meaning());
        }
        text + "  134  a broken invariant of the broker itself (SIGABRT)"
    }
}

impl From<ExitReason> for ExitCode {
    fn from(reason: ExitReason) -> ExitCode {
        ExitCode::from(reason.code())
    }
}

/// Why a command ended early. Its text is the one line that the user sees.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option, a setting or the configuration file is wrong.
    #[error("{0}")]
    Usage(String),
    /// A port is in use.
    #[error("{address} is in use by another process: stop it, or choose another port with --{option}")]
    PortTaken {
        /// The address.
        address: String,
        /// The option that chooses it.
        option: &'static str,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose an address of this machine with --{option}")]
    CannotListen {
        /// The address.
        address: String,
        /// The option that chooses it.
        option: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The node did not start.
    #[error("{message}")]
    NotStarted {
        /// What happened, and what to do.
        message: String,
        /// The exit code that says so.
        reason: ExitReason,
    },
    /// The node ended by itself.
    #[error("{message}")]
    Ended {
        /// What happened.
        message: String,
        /// The exit code that says so.
        reason: ExitReason,
    },
    /// The system refused something that the broker cannot do without.
    #[error("cannot {what}: {source}")]
    System {
        /// What was to be done.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// No broker answers.
    #[error("cannot reach a broker at {address}: {source}; is it running, and is --bootstrap-server right?")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A connection broke.
    #[error("the connection to {address} broke: {source}")]
    Connection {
        /// The broker.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Something answered that is not a Kafka broker of a version that is understood.
    #[error("{address} does not answer like a Kafka broker: {why}")]
    NotKafka {
        /// Where it was looked for.
        address: String,
        /// What was wrong.
        why: String,
    },
    /// A broker refused a request.
    #[error("{what}: {}", kafka_message(*.code, .message.as_deref()))]
    Kafka {
        /// What was to be done.
        what: String,
        /// Kafka's error code.
        code: protocol::ErrorCode,
        /// The broker's own words.
        message: Option<String>,
    },
    /// A command cannot do what it was asked to.
    #[error("{0}")]
    Command(String),
    /// The cluster was asked, and not all is well.
    #[error("the cluster is not healthy: {0}")]
    Unhealthy(String),
    /// A local file or stream failed.
    #[error("cannot {operation} {path}: {source}")]
    File {
        /// What was to be done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

fn kafka_message(code: protocol::ErrorCode, message: Option<&str>) -> String {
    match message {
        Some(message) if !message.is_empty() => format!("{message} ({code:?})"),
        _ => format!("{code} ({code:?}, Kafka error {})", code.code()),
    }
}

impl Error {
    /// The exit code that it ends the process with.
    pub fn reason(&self) -> ExitReason {
        match self {
            Error::Usage(_) => ExitReason::Usage,
            Error::PortTaken { .. } => ExitReason::PortTaken,
            Error::CannotListen { .. } => ExitReason::CannotListen,
            Error::NotStarted { reason, .. } | Error::Ended { reason, .. } => *reason,
            Error::System { .. } => ExitReason::CannotStart,
            Error::Unhealthy(_) => ExitReason::Unhealthy,
            Error::Unreachable { .. }
            | Error::Connection { .. }
            | Error::NotKafka { .. }
            | Error::Kafka { .. }
            | Error::Command(_)
            | Error::File { .. } => ExitReason::CommandFailed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_ascend_and_are_listed_once() {
        assert!(ExitReason::ALL.is_sorted_by(|left, right| left.code() < right.code()));
        let table = ExitReason::table();
        for reason in ExitReason::ALL {
            assert!(table.contains(&format!("{:>3}  {}", reason.code(), reason.meaning())), "{reason:?}");
        }
    }
}
