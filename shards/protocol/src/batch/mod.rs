//! Record batches of format 2, Kafka's only one since 4.0 (KIP-98, KIP-724).
//!
//! | at | bytes | field |
//! |--|--|--|
//! | 0 | 8 | base offset |
//! | 8 | 4 | batch length: the bytes after this field |
//! | 12 | 4 | partition leader epoch |
//! | 16 | 1 | magic, 2 |
//! | 17 | 4 | CRC-32C of everything that follows |
//! | 21 | 2 | attributes |
//! | 23 | 4 | last offset delta |
//! | 27 | 8 | base timestamp, or the delete horizon |
//! | 35 | 8 | largest timestamp |
//! | 43 | 8 | producer id |
//! | 51 | 2 | producer epoch |
//! | 53 | 4 | base sequence |
//! | 57 | 4 | record count |
//! | 61 | | records, compressed as a whole |

mod builder;
mod compression;
mod control;
mod records;
mod validate;

use std::ops::Range;

use bytes::Buf;
use types::Offset;

use crate::error::BatchError;

pub use builder::{BatchBuilder, BatchOptions, Producer};
pub use compression::Codec;
pub use control::{ControlRecord, control_batch};
pub use records::{Record, RecordHeader, Records, records};
pub use validate::validate_produced;

/// Bytes of a batch header.
pub const HEADER_BYTES: usize = 61;
/// Bytes up to the end of the length field: what the length field does not count.
pub const LOG_OVERHEAD_BYTES: usize = 12;

const LENGTH_AT: usize = 8;
const LEADER_EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;

/// Where the part of a batch begins that its CRC covers.
pub const ATTRIBUTES_AT: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;

const MAGIC: i8 = 2;

const CODEC_BITS: i16 = 0x07;
const LOG_APPEND_TIME_BIT: i16 = 0x08;
const TRANSACTIONAL_BIT: i16 = 0x10;
const CONTROL_BIT: i16 = 0x20;
const DELETE_HORIZON_BIT: i16 = 0x40;

/// The producer id of a batch that has none.
pub const NO_PRODUCER_ID: i64 = -1;

/// The timestamp of a record that has none.
pub const NO_TIMESTAMP: i64 = -1;

/// The header of a batch, as it stands on the wire. Only format and length are known to be sane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// The offset of the first record, or of the first that was there before compaction.
    pub base_offset: Offset,
    /// Bytes after the length field, at least those of the rest of the header.
    pub batch_length: i32,
    /// The leader epoch in which the batch was appended. Outside the CRC.
    pub partition_leader_epoch: i32,
    /// CRC-32C from the attributes to the end.
    pub crc: u32,
    /// Codec, timestamp type and flags; see the methods.
    pub attributes: i16,
    /// The last offset is this much above the base offset.
    pub last_offset_delta: i32,
    /// Milliseconds that the records' timestamps count from; the delete horizon where
    /// [`BatchHeader::has_delete_horizon`].
    pub base_timestamp: i64,
    /// The largest timestamp, or the append time, in milliseconds; -1 for none.
    pub max_timestamp: i64,
    /// The idempotent producer; below 0 for none.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i16,
    /// The sequence number of the first record; it wraps to 0 after 2³¹−1.
    pub base_sequence: i32,
    /// Records in the batch. Fewer than the offsets after compaction.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header that `bytes` begins with. The rest of the batch need not be there.
    ///
    /// # Errors
    ///
    /// [`BatchError::Truncated`] below [`HEADER_BYTES`], [`BatchError::InvalidLength`] when the length field is
    /// smaller than the header, [`BatchError::OldFormat`] and [`BatchError::UnknownFormat`].
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        // Messages of the old formats are shorter than this header and have the magic byte at the same place.
        if let Some(&magic) = bytes.get(MAGIC_AT) {
            check_magic(magic as i8)?;
        }
        let Some(mut fields) = bytes.get(..HEADER_BYTES) else {
            return Err(BatchError::Truncated { needed: HEADER_BYTES, available: bytes.len() });
        };
        let base_offset = Offset(fields.get_i64());
        let batch_length = fields.get_i32();
        if batch_length < (HEADER_BYTES - LOG_OVERHEAD_BYTES) as i32 {
            return Err(BatchError::InvalidLength { length: batch_length });
        }
        let partition_leader_epoch = fields.get_i32();
        fields.advance(1);
        Ok(BatchHeader {
            base_offset,
            batch_length,
            partition_leader_epoch,
            crc: fields.get_u32(),
            attributes: fields.get_i16(),
            last_offset_delta: fields.get_i32(),
            base_timestamp: fields.get_i64(),
            max_timestamp: fields.get_i64(),
            producer_id: fields.get_i64(),
            producer_epoch: fields.get_i16(),
            base_sequence: fields.get_i32(),
            record_count: fields.get_i32(),
        })
    }

    /// Bytes of the whole batch.
    pub fn size_in_bytes(&self) -> usize {
        LOG_OVERHEAD_BYTES + self.batch_length as usize
    }

    /// The offset of the last record, or of the last that was there before compaction.
    pub fn last_offset(&self) -> Offset {
        Offset(self.base_offset.0.wrapping_add(i64::from(self.last_offset_delta)))
    }

    /// The offset after the last one.
    pub fn next_offset(&self) -> Offset {
        Offset(self.last_offset().0.wrapping_add(1))
    }

    /// The sequence number of the last record, which wraps to 0 after 2³¹−1. -1 without a producer.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return self.base_sequence;
        }
        (self.base_sequence as u32).wrapping_add(self.last_offset_delta as u32) as i32 & i32::MAX
    }

    /// The codec.
    ///
    /// # Errors
    ///
    /// [`BatchError::UnknownCodec`].
    pub fn codec(&self) -> Result<Codec, BatchError> {
        Codec::from_attributes(self.attributes)
    }

    /// Whether the broker set the timestamps, so that `max_timestamp` is that of every record.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME_BIT != 0
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether the batch is a transaction marker, which consumers do not see.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// Whether `base_timestamp` says when tombstones may go (KIP-534).
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON_BIT != 0
    }

    /// Whether an idempotent producer wrote the batch.
    pub fn has_producer_id(&self) -> bool {
        self.producer_id > NO_PRODUCER_ID
    }
}

fn check_magic(magic: i8) -> Result<(), BatchError> {
    match magic {
        MAGIC => Ok(()),
        0 | 1 => Err(BatchError::OldFormat { magic }),
        _ => Err(BatchError::UnknownFormat { magic }),
    }
}

/// Compares the CRC of a batch with its header, and its size with `bytes`, which must be exactly the batch.
///
/// # Errors
///
/// [`BatchError::Truncated`], [`BatchError::TrailingBytes`] or [`BatchError::CrcMismatch`].
pub fn check_crc(header: &BatchHeader, bytes: &[u8]) -> Result<(), BatchError> {
    let size = header.size_in_bytes();
    if bytes.len() < size {
        return Err(BatchError::Truncated { needed: size, available: bytes.len() });
    }
    if bytes.len() > size {
        return Err(BatchError::TrailingBytes { count: bytes.len() - size });
    }
    let actual = crc32c::crc32c(&bytes[ATTRIBUTES_AT..]);
    if actual == header.crc { Ok(()) } else { Err(BatchError::CrcMismatch { actual, claimed: header.crc }) }
}

/// Writes the offset and the leader epoch that an append gives to a batch. Both lie outside the CRC.
///
/// # Panics
///
/// When `batch` is shorter than a header: it must have been validated.
pub fn assign(batch: &mut [u8], base_offset: Offset, leader_epoch: i32) {
    assert!(batch.len() >= HEADER_BYTES, "offsets are assigned to validated batches");
    batch[..LENGTH_AT].copy_from_slice(&base_offset.0.to_be_bytes());
    batch[LEADER_EPOCH_AT..MAGIC_AT].copy_from_slice(&leader_epoch.to_be_bytes());
}

/// Makes `timestamp_ms` the time of every record (`message.timestamp.type=LogAppendTime`), and sets the CRC anew.
///
/// # Panics
///
/// When `batch` is not exactly one batch: it must have been validated.
pub fn set_log_append_time(batch: &mut [u8], timestamp_ms: i64) {
    let header = BatchHeader::parse(batch).expect("append time is set on validated batches");
    assert_eq!(header.size_in_bytes(), batch.len(), "append time is set on one whole batch");
    let attributes = header.attributes | LOG_APPEND_TIME_BIT;
    batch[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
    write_max_timestamp(batch, timestamp_ms);
}

/// Returns the new CRC.
fn write_max_timestamp(batch: &mut [u8], timestamp_ms: i64) -> u32 {
    batch[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&timestamp_ms.to_be_bytes());
    write_crc(batch)
}

/// Returns the new CRC.
fn write_crc(batch: &mut [u8]) -> u32 {
    let crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
    batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
    crc
}

/// Iterates over concatenated batches, such as a segment or the records of a fetch.
///
/// Each item is a header and where its batch stands in `bytes`. A batch that is cut off or has no sane header is
/// the last item, as an error. CRCs are not checked, see [`check_crc`].
pub fn batches(bytes: &[u8]) -> Batches<'_> {
    Batches { bytes, position: 0 }
}

/// See [`batches`].
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl Iterator for Batches<'_> {
    type Item = Result<(BatchHeader, Range<usize>), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.bytes[self.position..];
        if rest.is_empty() {
            return None;
        }
        let header = BatchHeader::parse(rest).and_then(|header| {
            let needed = header.size_in_bytes();
            if needed > rest.len() {
                return Err(BatchError::Truncated { needed, available: rest.len() });
            }
            Ok(header)
        });
        let start = self.position;
        self.position = header.as_ref().map_or(self.bytes.len(), |header| start + header.size_in_bytes());
        Some(header.map(|header| (header, start..self.position)))
    }
}

#[cfg(test)]
mod tests;
