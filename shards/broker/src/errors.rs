//! How inner errors reach the client: the one place where they become Kafka error codes.

use partition::{AppendError, ReadError, SequenceError};
use protocol::BatchError;
use protocol::messages::ErrorCode;
use types::{NodeId, Term};

/// A Kafka error of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionError {
    /// The code.
    pub code: ErrorCode,
    /// The current leader and its epoch, as far as they are known (KIP-951).
    pub leader: Option<(NodeId, Term)>,
    /// More words for the client, where its protocol version has room for them.
    pub message: Option<String>,
}

impl From<ErrorCode> for PartitionError {
    fn from(code: ErrorCode) -> PartitionError {
        PartitionError { code, leader: None, message: None }
    }
}

impl From<BatchError> for PartitionError {
    fn from(error: BatchError) -> PartitionError {
        PartitionError { code: error.error_code(), leader: None, message: Some(error.to_string()) }
    }
}

impl From<AppendError> for PartitionError {
    fn from(error: AppendError) -> PartitionError {
        let code = match error {
            AppendError::Sequence(SequenceError::FencedEpoch { .. }) => ErrorCode::InvalidProducerEpoch,
            AppendError::Sequence(SequenceError::OutOfOrder { .. }) => ErrorCode::OutOfOrderSequenceNumber,
            AppendError::Timestamp { .. } => ErrorCode::InvalidTimestamp,
        };
        PartitionError { code, leader: None, message: Some(error.to_string()) }
    }
}

impl From<ReadError> for PartitionError {
    fn from(error: ReadError) -> PartitionError {
        let code = match error {
            ReadError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            ReadError::FencedEpoch { .. } => ErrorCode::FencedLeaderEpoch,
            ReadError::UnknownEpoch { .. } => ErrorCode::UnknownLeaderEpoch,
        };
        PartitionError::from(code)
    }
}
