//! What stops a run. Errors that a broker answers during a run are counted instead, see [`crate::tally::Errors`].

use std::{io, path::PathBuf};

use protocol::{
    ApiKey, ErrorCode,
    error::{DecodeError, EncodeError},
};

/// Why a run cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Options that contradict each other.
    #[error("{0}")]
    Options(String),
    /// An address that cannot be resolved.
    #[error("cannot resolve {address}: {source}")]
    Resolve {
        /// Host and port as given.
        address: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// A broker that cannot be connected to.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Host and port as given or advertised.
        address: String,
        /// What the socket said.
        source: io::Error,
    },
    /// A connection that broke.
    #[error("the connection to {address} broke: {source}")]
    Connection {
        /// The broker's address.
        address: String,
        /// What the socket said.
        source: io::Error,
    },
    /// The kernel does not let us wait for sockets.
    #[error("cannot wait for sockets: {0}")]
    Poll(io::Error),
    /// A rate beyond what is taken off our hands.
    #[error(
        "{outstanding} requests are outstanding: the rate is above what the broker or this client can do"
    )]
    Overload {
        /// Requests of one thread that are not answered.
        outstanding: usize,
    },
    /// A broker without a version of an API that this client speaks.
    #[error("the broker has no version of {} that this client speaks", .0.name())]
    NoCommonVersion(ApiKey),
    /// A broker that refused an administrative request.
    #[error("{what}: {}", kafka_name(*.code))]
    Refused {
        /// What was asked for.
        what: String,
        /// The broker's answer.
        code: ErrorCode,
    },
    /// A response that does not belong to the request.
    #[error("{0}")]
    UnexpectedResponse(String),
    /// A response that cannot be decoded.
    #[error("malformed response: {0}")]
    Decode(#[from] DecodeError),
    /// A request that cannot be encoded in the version of the broker.
    #[error("cannot encode the request: {0}")]
    Encode(#[from] EncodeError),
    /// Partitions that have no leader in time.
    #[error("{count} partitions have no leader after {seconds} s")]
    NoLeader {
        /// Partitions without a leader.
        count: usize,
        /// How long was waited.
        seconds: u64,
    },
    /// The floor of the machine could not be measured.
    #[error(
        "cannot measure a durable write in {}: {source} (choose another --floor-dir or --no-floor)",
        .directory.display()
    )]
    Floor {
        /// The directory of the probe file.
        directory: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// A process that cannot be watched.
    #[error("cannot read /proc/{pid}: {source}")]
    Process {
        /// The process.
        pid: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// A report that cannot be read back.
    #[error("{} is not a report of chronik-bench: {what}", .path.display())]
    ReadReport {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The report could not be written.
    #[error("cannot write {}: {source}", .path.display())]
    WriteReport {
        /// Where to.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
}

/// The name of an error code as Kafka writes it, `NOT_LEADER_OR_FOLLOWER`, with the number for one that is unknown.
pub fn kafka_name(code: ErrorCode) -> String {
    if let ErrorCode::Unknown(number) = code {
        return format!("UNKNOWN_ERROR_CODE_{number}");
    }
    let mut name = String::new();
    for (at, letter) in format!("{code:?}").chars().enumerate() {
        if letter.is_uppercase() && at > 0 {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_are_named_as_in_kafka() {
        assert_eq!(kafka_name(ErrorCode::NotLeaderOrFollower), "NOT_LEADER_OR_FOLLOWER");
        assert_eq!(kafka_name(ErrorCode::from(1)), "OFFSET_OUT_OF_RANGE");
        assert_eq!(kafka_name(ErrorCode::from(31_000)), "UNKNOWN_ERROR_CODE_31000");
    }
}
