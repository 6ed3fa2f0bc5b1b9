//! A group coordinator on the partition of `__consumer_offsets` that it writes to.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use coordinator::{CoordinatorRecord, GroupConfig, GroupCoordinator, RequestToken};
use protocol::batch::{self, BatchBuilder, BatchOptions, HEADER_BYTES};
use types::Offset;
use types::limits::{COORDINATOR_SNAPSHOT_BYTES, DECOMPRESSED_BYTES_MAX};

use crate::partition_host::Asker;

/// The coordinator of the consumer groups of one partition, while this node leads it.
pub(crate) struct CoordinatorHost {
    pub coordinator: GroupCoordinator,
    /// What is to be read before it may serve: (next offset, end). `None` once it serves.
    pub loading: Option<(Offset, Offset)>,
    /// Bytes of batches since the log last began with a snapshot, and how many of them call for the next one.
    pub logged_bytes: usize,
    pub snapshot_at_bytes: usize,
    /// Topics that were deleted, and whose offsets may still be there: they are removed once this serves and has room to write.
    pub deleted_topics: BTreeSet<Arc<str>>,
    askers: HashMap<u64, Asker>,
    next_token: u64,
}

impl CoordinatorHost {
    pub(crate) fn new(config: GroupConfig, log_start: Offset, end: Offset) -> CoordinatorHost {
        CoordinatorHost {
            coordinator: GroupCoordinator::new(config),
            loading: Some((log_start, end)),
            logged_bytes: 0,
            snapshot_at_bytes: COORDINATOR_SNAPSHOT_BYTES,
            deleted_topics: BTreeSet::new(),
            askers: HashMap::new(),
            next_token: 0,
        }
    }

    /// A token for a request, to be given back with the answer.
    pub(crate) fn park(&mut self, asker: Asker) -> RequestToken {
        let token = self.next_token;
        self.next_token += 1;
        self.askers.insert(token, asker);
        RequestToken(token)
    }

    /// Who asked.
    pub(crate) fn unpark(&mut self, token: RequestToken) -> Asker {
        self.askers.remove(&token.0).expect("a request is answered once")
    }

    /// Applies the records of a committed batch.
    pub(crate) fn replay(&mut self, data: &Bytes) -> Result<(), String> {
        self.logged_bytes += data.len();
        let header = batch::BatchHeader::parse(data).map_err(|error| error.to_string())?;
        if header.is_control() {
            return Ok(());
        }
        let records =
            batch::records(&header, data, DECOMPRESSED_BYTES_MAX).map_err(|error| error.to_string())?;
        for record in records {
            let record = record.map_err(|error| error.to_string())?;
            let key = record.key.unwrap_or_default();
            let record = CoordinatorRecord { key, value: record.value };
            self.coordinator.replay(&record).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// Bytes of [`encode_records`], at most. Known before there is a batch, which could be too large to be made.
pub(crate) fn encoded_bytes_max<'a>(records: impl IntoIterator<Item = &'a CoordinatorRecord>) -> usize {
    HEADER_BYTES + records.into_iter().map(CoordinatorRecord::batch_bytes_max).sum::<usize>()
}

/// One batch of a coordinator's records.
pub(crate) fn encode_records<'a>(
    records: impl IntoIterator<Item = &'a CoordinatorRecord>,
    now_ms: i64,
) -> BytesMut {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for record in records {
        builder.append(now_ms, Some(&record.key), record.value.as_deref(), &[]);
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_no_more_bytes_than_was_counted_beforehand() {
        for count in [1, 100, 10_000] {
            let value =
                |number: usize| (!number.is_multiple_of(3)).then(|| Bytes::from(vec![b'v'; number % 200]));
            let record = |number: usize| CoordinatorRecord {
                key: vec![b'k'; number % 150].into(),
                value: value(number),
            };
            let records: Vec<_> = (0..count).map(record).collect();
            let (counted, batch) = (encoded_bytes_max(&records), encode_records(&records, i64::MAX));
            assert!(batch.len() <= counted && counted <= batch.len() + 20 * count);
        }
    }
}
