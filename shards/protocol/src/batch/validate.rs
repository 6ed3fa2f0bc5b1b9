//! What Kafka's log validation checks of a produced batch.

use bytes::Bytes;
use types::limits::DECOMPRESSED_BYTES_MAX;

use crate::{
    batch::{
        BatchHeader, Codec, HEADER_BYTES, NO_TIMESTAMP, check_crc, records::skip_record, write_max_timestamp,
    },
    error::BatchError,
};

/// Checks the records of one partition in a Produce: exactly one batch that a client may write. Like Kafka, it
/// corrects the largest timestamp in the header (and the CRC with it) where a client left it out, as Sarama did:
/// look-ups by time depend on it. The header returned is the corrected one.
///
/// The records are walked, those of a compressed batch after inflating them within a bound. That a codec suits the request's version and a batch the topic's cleanup
/// policy is for the caller.
///
/// # Errors
///
/// The first thing found wrong, in Kafka's order: [`BatchError::error_code`] is what to answer. `bytes` is then
/// unchanged.
pub fn validate_produced(bytes: &mut [u8], max_message_bytes: usize) -> Result<BatchHeader, BatchError> {
    if bytes.is_empty() {
        return Err(BatchError::Empty);
    }
    let mut header = BatchHeader::parse(bytes)?;
    if header.base_offset.0 != 0 {
        return Err(BatchError::InvalidBaseOffset { base_offset: header.base_offset.0 });
    }
    let size = header.size_in_bytes();
    if size > max_message_bytes {
        return Err(BatchError::TooLarge { bytes: size, bytes_max: max_message_bytes });
    }
    check_crc(&header, bytes)?;
    let codec = header.codec()?;
    check_counts(&header)?;
    check_flags(&header)?;
    let max_timestamp = if codec == Codec::None {
        walk_records(&header, &bytes[HEADER_BYTES..])?
    } else {
        // A batch that cannot be read would stop every consumer of the partition for good.
        let records = Bytes::copy_from_slice(&bytes[HEADER_BYTES..]);
        walk_records(&header, &codec.decompress(records, DECOMPRESSED_BYTES_MAX)?)?
    };
    if max_timestamp != header.max_timestamp {
        header.max_timestamp = max_timestamp;
        header.crc = write_max_timestamp(bytes, max_timestamp);
    }
    Ok(header)
}

fn check_counts(header: &BatchHeader) -> Result<(), BatchError> {
    let BatchHeader { record_count, last_offset_delta, .. } = *header;
    if record_count > 0 && last_offset_delta == record_count - 1 {
        Ok(())
    } else {
        Err(BatchError::InvalidCount { record_count, last_offset_delta })
    }
}

fn check_flags(header: &BatchHeader) -> Result<(), BatchError> {
    if header.is_control() {
        return Err(BatchError::ControlBatch);
    }
    if header.is_log_append_time() {
        return Err(BatchError::LogAppendTime);
    }
    if header.has_delete_horizon() {
        return Err(BatchError::DeleteHorizon);
    }
    // Without a producer id, epoch and sequence mean nothing: kafkajs sends 0 for both, others -1.
    let producer_is_sane = if header.has_producer_id() {
        header.base_sequence >= 0 && header.producer_epoch >= 0
    } else {
        !header.is_transactional()
    };
    if producer_is_sane {
        Ok(())
    } else {
        Err(BatchError::InvalidProducer {
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
        })
    }
}

/// The largest timestamp of the records, which must be all that there is.
fn walk_records(header: &BatchHeader, mut bytes: &[u8]) -> Result<i64, BatchError> {
    let mut max_timestamp = NO_TIMESTAMP;
    for index in 0..header.record_count {
        let timestamp = skip_record(&mut bytes)
            .filter(|deltas| deltas.offset == index)
            .and_then(|deltas| header.base_timestamp.checked_add(deltas.timestamp));
        max_timestamp = max_timestamp.max(timestamp.ok_or(BatchError::InvalidRecord { index })?);
    }
    if bytes.is_empty() {
        Ok(max_timestamp)
    } else {
        Err(BatchError::InvalidRecord { index: header.record_count })
    }
}
