//! What can be wrong with bytes from outside, and with a response that we build.

use crate::messages::ErrorCode;

/// Why a request cannot be decoded. The connection that sent it is closed, except for the two variants that
/// [`DecodeError::error_code`] names.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The frame ends before the field does.
    #[error("the request ends inside a field")]
    Truncated,
    /// A length or an element count that its field cannot have: negative, null where null is not allowed.
    #[error("the request claims an impossible length")]
    InvalidLength,
    /// A variable-length integer of more than five bytes.
    #[error("the request holds an overlong variable-length integer")]
    InvalidVarint,
    /// Tags of a tagged-field section that do not ascend (KIP-482).
    #[error("tagged fields are not in ascending order")]
    InvalidTags,
    /// A string longer than any field may have.
    #[error("the request holds a string of more than {} bytes", crate::wire::STRING_BYTES_MAX)]
    StringTooLong,
    /// A string that is not UTF-8.
    #[error("the request holds a string that is not UTF-8")]
    InvalidString,
    /// Bytes after the end of the message.
    #[error("{count} bytes follow the request")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// More array elements than any request may have, see [`crate::frame::REQUEST_ELEMENTS_MAX`].
    #[error("the request holds more than {} array elements", crate::frame::REQUEST_ELEMENTS_MAX)]
    TooManyElements,
    /// An API that is not in [`crate::SUPPORTED`].
    #[error("API key {api_key} is not supported")]
    UnsupportedApi {
        /// The key on the wire.
        api_key: i16,
    },
    /// A version outside the range in [`crate::SUPPORTED`].
    #[error("version {api_version} of API key {api_key} is not supported")]
    UnsupportedVersion {
        /// The key on the wire.
        api_key: i16,
        /// The version on the wire.
        api_version: i16,
    },
    /// The generated decoder found something else.
    #[error("malformed request: {0}")]
    Malformed(#[from] kacrab_protocol::ProtocolError),
}

impl DecodeError {
    /// The Kafka error that the client is told, where it can be told anything.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            DecodeError::UnsupportedApi { .. } | DecodeError::UnsupportedVersion { .. } => {
                ErrorCode::UnsupportedVersion
            }
            _ => ErrorCode::InvalidRequest,
        }
    }
}

/// Why a response cannot be encoded: a handler filled it in a way that the version has no room for.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// A frame, a partition's records or an array that its length field cannot express.
    #[error("the response has {bytes} bytes or elements where the length field cannot express them")]
    TooLarge {
        /// The length that did not fit.
        bytes: usize,
    },
    /// A version that the encoder does not know.
    #[error("version {api_version} of API key {api_key} cannot be encoded")]
    UnsupportedVersion {
        /// The key on the wire.
        api_key: i16,
        /// The version on the wire.
        api_version: i16,
    },
    /// The generated encoder refused: most often a field that is set in a version which lacks it.
    #[error("the response cannot be encoded: {0}")]
    Message(#[from] kacrab_protocol::ProtocolError),
}

/// What is wrong with a record batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than a batch header, or than the header's length field claims.
    #[error("the record batch ends early: {available} bytes of {needed}")]
    Truncated {
        /// Bytes that the batch should have.
        needed: usize,
        /// Bytes that are there.
        available: usize,
    },
    /// A length field too small for the rest of the header.
    #[error("the record batch claims a length of {length} bytes")]
    InvalidLength {
        /// The length field, as on the wire.
        length: i32,
    },
    /// A message set of the formats 0 or 1, which Kafka 4 no longer writes (KIP-724).
    #[error("message format {magic} is not supported")]
    OldFormat {
        /// 0 or 1.
        magic: i8,
    },
    /// A format that does not exist.
    #[error("unknown message format {magic}")]
    UnknownFormat {
        /// The byte on the wire.
        magic: i8,
    },
    /// The checksum does not match.
    #[error("the record batch has CRC {actual:#010x} but claims {claimed:#010x}")]
    CrcMismatch {
        /// CRC-32C of the bytes.
        actual: u32,
        /// CRC-32C in the header.
        claimed: u32,
    },
    /// Larger than the topic's `max.message.bytes`.
    #[error("the record batch has {bytes} bytes, more than the {bytes_max} allowed")]
    TooLarge {
        /// Size of the batch.
        bytes: usize,
        /// The topic's limit.
        bytes_max: usize,
    },
    /// No batch at all.
    #[error("there is no record batch")]
    Empty,
    /// More than one batch, or bytes after the only one.
    #[error("{count} bytes follow the record batch")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// A compression codec that Kafka does not know.
    #[error("unknown compression codec {id}")]
    UnknownCodec {
        /// The codec bits of the attributes.
        id: u8,
    },
    /// A client's batch does not start at offset 0.
    #[error("a produced batch starts at offset {base_offset} instead of 0")]
    InvalidBaseOffset {
        /// The offset in the header.
        base_offset: i64,
    },
    /// The record count does not fit the offsets.
    #[error("{record_count} records, but the last offset delta is {last_offset_delta}")]
    InvalidCount {
        /// The count in the header.
        record_count: i32,
        /// The last offset delta in the header.
        last_offset_delta: i32,
    },
    /// A client sent a control batch, which only coordinators write.
    #[error("clients must not write control batches")]
    ControlBatch,
    /// A client set the timestamp type to log append time, which only brokers do.
    #[error("a producer must not set log append time")]
    LogAppendTime,
    /// A client set the delete horizon, which only compaction does (KIP-534).
    #[error("a producer must not set a delete horizon")]
    DeleteHorizon,
    /// Producer id, epoch, sequence and the transactional flag contradict each other.
    #[error("producer id {producer_id} with epoch {producer_epoch} and sequence {base_sequence}")]
    InvalidProducer {
        /// The id in the header.
        producer_id: i64,
        /// The epoch in the header.
        producer_epoch: i16,
        /// The sequence in the header.
        base_sequence: i32,
    },
    /// A record whose lengths, offset or header count are wrong.
    #[error("record {index} of the batch is malformed")]
    InvalidRecord {
        /// Its position in the batch, from 0. The record count itself when bytes follow the last record.
        index: i32,
    },
    /// The compressed part is damaged.
    #[error("the {codec:?} data of the record batch is damaged")]
    Decompression {
        /// The codec that failed.
        codec: crate::batch::Codec,
    },
    /// The records are larger than the caller's bound once decompressed.
    #[error("the record batch inflates to more than {bytes_max} bytes")]
    DecompressedTooLarge {
        /// The caller's bound.
        bytes_max: usize,
    },
}

impl BatchError {
    /// The error that Kafka's log validation answers a Produce with.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            BatchError::Truncated { .. }
            | BatchError::InvalidLength { .. }
            | BatchError::UnknownFormat { .. }
            | BatchError::CrcMismatch { .. }
            | BatchError::Decompression { .. } => ErrorCode::CorruptMessage,
            BatchError::OldFormat { .. } => ErrorCode::UnsupportedForMessageFormat,
            BatchError::TooLarge { .. } | BatchError::DecompressedTooLarge { .. } => {
                ErrorCode::MessageTooLarge
            }
            BatchError::UnknownCodec { .. } => ErrorCode::UnsupportedCompressionType,
            BatchError::LogAppendTime => ErrorCode::InvalidTimestamp,
            BatchError::Empty
            | BatchError::TrailingBytes { .. }
            | BatchError::InvalidBaseOffset { .. }
            | BatchError::InvalidCount { .. }
            | BatchError::ControlBatch
            | BatchError::DeleteHorizon
            | BatchError::InvalidProducer { .. }
            | BatchError::InvalidRecord { .. } => ErrorCode::InvalidRecord,
        }
    }
}
