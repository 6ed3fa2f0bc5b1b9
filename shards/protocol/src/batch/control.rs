//! Transaction markers: the control batches that end a transaction in a partition (KIP-98).

use bytes::{Buf, BytesMut};

use crate::{
    batch::{BatchBuilder, BatchOptions, Producer, Record},
    error::BatchError,
};

/// What a control record says (Kafka's `ControlRecordType` and EndTxnMarker).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRecord {
    /// The transaction's records are to be dropped.
    Abort {
        /// The epoch of the transaction coordinator that decided.
        coordinator_epoch: i32,
    },
    /// The transaction's records are valid.
    Commit {
        /// The epoch of the transaction coordinator that decided.
        coordinator_epoch: i32,
    },
    /// A kind of control record that concerns Kafka's own quorum, or one from the future. To be skipped.
    Other {
        /// The kind on the wire.
        kind: i16,
    },
}

const KIND_ABORT: i16 = 0;
const KIND_COMMIT: i16 = 1;
const VERSION: i16 = 0;

impl ControlRecord {
    /// Reads the only record of a control batch.
    ///
    /// # Errors
    ///
    /// [`BatchError::InvalidRecord`] when key or value are missing or too short, or a version is negative. Later
    /// versions only append fields.
    pub fn parse(record: &Record) -> Result<ControlRecord, BatchError> {
        parse(record).ok_or(BatchError::InvalidRecord { index: 0 })
    }
}

fn parse(record: &Record) -> Option<ControlRecord> {
    let mut key = record.key.as_deref()?;
    if key.try_get_i16().ok()? < VERSION {
        return None;
    }
    let kind = key.try_get_i16().ok()?;
    if kind != KIND_ABORT && kind != KIND_COMMIT {
        return Some(ControlRecord::Other { kind });
    }
    let mut value = record.value.as_deref()?;
    if value.try_get_i16().ok()? < VERSION {
        return None;
    }
    let coordinator_epoch = value.try_get_i32().ok()?;
    Some(if kind == KIND_COMMIT {
        ControlRecord::Commit { coordinator_epoch }
    } else {
        ControlRecord::Abort { coordinator_epoch }
    })
}

/// A transaction marker of a producer as a batch of its own, with offset and leader epoch still to be assigned.
///
/// # Panics
///
/// When asked for [`ControlRecord::Other`], which no coordinator writes.
pub fn control_batch(
    record: ControlRecord,
    producer_id: i64,
    producer_epoch: i16,
    timestamp_ms: i64,
) -> BytesMut {
    let (kind, coordinator_epoch) = match record {
        ControlRecord::Abort { coordinator_epoch } => (KIND_ABORT, coordinator_epoch),
        ControlRecord::Commit { coordinator_epoch } => (KIND_COMMIT, coordinator_epoch),
        ControlRecord::Other { kind } => panic!("control record {kind} is not a transaction marker"),
    };
    let key = [VERSION.to_be_bytes(), kind.to_be_bytes()].concat();
    let value = [&VERSION.to_be_bytes()[..], &coordinator_epoch.to_be_bytes()].concat();
    let mut builder = BatchBuilder::new(BatchOptions {
        transactional: true,
        control: true,
        producer: Some(Producer { id: producer_id, epoch: producer_epoch, base_sequence: -1 }),
        ..BatchOptions::default()
    });
    builder.append(timestamp_ms, Some(&key), Some(&value), &[]);
    builder.build()
}
