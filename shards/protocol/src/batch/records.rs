//! The records inside a batch.

use bytes::{Buf, Bytes};
use types::Offset;

use crate::{
    batch::{BatchHeader, HEADER_BYTES},
    error::BatchError,
    wire::{read_i8, read_varint, read_varlong, reserve_count},
};

/// One record of a batch (KIP-98). Its byte fields are slices of the batch, or of what it inflated to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its offset in the partition.
    pub offset: Offset,
    /// Its time in milliseconds: the client's, or the append time of the whole batch.
    pub timestamp: i64,
    /// Its key; `None` is null.
    pub key: Option<Bytes>,
    /// Its value; `None` is null, which deletes the key from a compacted topic.
    pub value: Option<Bytes>,
    /// Its headers (KIP-82), in order; keys may repeat.
    pub headers: Vec<RecordHeader>,
}

/// A header of a [`Record`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The key: UTF-8 by convention, which nothing checks.
    pub key: Bytes,
    /// The value; `None` is null.
    pub value: Option<Bytes>,
}

/// Iterates over the records of one batch, which `batch` must be exactly, inflating it first to at most
/// `decompressed_bytes_max` bytes. The CRC is not checked, see [`crate::batch::check_crc`].
///
/// # Errors
///
/// [`BatchError::Truncated`] and [`BatchError::TrailingBytes`] when `batch` has another size than its header
/// says, [`BatchError::UnknownCodec`], [`BatchError::Decompression`], [`BatchError::DecompressedTooLarge`] (for
/// an uncompressed batch too).
pub fn records(
    header: &BatchHeader,
    batch: &Bytes,
    decompressed_bytes_max: usize,
) -> Result<Records, BatchError> {
    let size = header.size_in_bytes();
    if batch.len() < size {
        return Err(BatchError::Truncated { needed: size, available: batch.len() });
    }
    if batch.len() > size {
        return Err(BatchError::TrailingBytes { count: batch.len() - size });
    }
    let bytes = header.codec()?.decompress(batch.slice(HEADER_BYTES..), decompressed_bytes_max)?;
    Ok(Records { header: *header, bytes, index: 0, offset_delta_min: 0 })
}

/// See [`records`]. After an error it ends.
#[derive(Clone, Debug)]
pub struct Records {
    header: BatchHeader,
    bytes: Bytes,
    index: i32,
    offset_delta_min: i64,
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.index;
        if index >= self.header.record_count && self.bytes.is_empty() {
            return None;
        }
        let record = if index < self.header.record_count { self.read_record() } else { None };
        if record.is_some() {
            self.index += 1;
        } else {
            self.index = i32::MAX;
            self.bytes.clear();
        }
        Some(record.ok_or(BatchError::InvalidRecord { index }))
    }
}

impl Records {
    fn read_record(&mut self) -> Option<Record> {
        let mut body = read_sized(&mut self.bytes)??;
        read_i8(&mut body).ok()?;
        let timestamp_delta = read_varlong(&mut body).ok()?;
        let offset_delta = i64::from(read_varint(&mut body).ok()?);
        if offset_delta < self.offset_delta_min || offset_delta > i64::from(self.header.last_offset_delta) {
            return None;
        }
        self.offset_delta_min = offset_delta + 1;
        let record = Record {
            offset: Offset(self.header.base_offset.0.checked_add(offset_delta)?),
            timestamp: self.timestamp(timestamp_delta)?,
            key: read_sized(&mut body)?,
            value: read_sized(&mut body)?,
            headers: read_headers(&mut body)?,
        };
        body.is_empty().then_some(record)
    }

    fn timestamp(&self, delta: i64) -> Option<i64> {
        if self.header.is_log_append_time() {
            Some(self.header.max_timestamp)
        } else {
            self.header.base_timestamp.checked_add(delta)
        }
    }
}

fn read_headers(body: &mut Bytes) -> Option<Vec<RecordHeader>> {
    let count = usize::try_from(read_varint(body).ok()?).ok()?;
    let mut headers = Vec::with_capacity(reserve_count(count, body.len(), 2));
    for _ in 0..count {
        let key = read_sized(body)??;
        headers.push(RecordHeader { key, value: read_sized(body)? });
    }
    Some(headers)
}

/// Bytes behind a varint length, of which -1 is null. The outer `None` is an error.
fn read_sized(buf: &mut Bytes) -> Option<Option<Bytes>> {
    let len = read_varint(buf).ok()?;
    if len == -1 {
        return Some(None);
    }
    let len = usize::try_from(len).ok()?;
    (len <= buf.len()).then(|| Some(buf.split_to(len)))
}

/// What a record says relative to its batch.
pub struct Deltas {
    pub offset: i32,
    pub timestamp: i64,
}

/// Steps over one record, checking every length in it; `None` when it is malformed.
pub fn skip_record(bytes: &mut &[u8]) -> Option<Deltas> {
    let len = usize::try_from(read_varint(bytes).ok()?).ok()?;
    let mut body = bytes.get(..len)?;
    bytes.advance(len);
    read_i8(&mut body).ok()?;
    let timestamp = read_varlong(&mut body).ok()?;
    let offset = read_varint(&mut body).ok()?;
    skip_sized(&mut body)?;
    skip_sized(&mut body)?;
    let header_count = u32::try_from(read_varint(&mut body).ok()?).ok()?;
    for _ in 0..header_count {
        if !skip_sized(&mut body)? {
            return None;
        }
        skip_sized(&mut body)?;
    }
    body.is_empty().then_some(Deltas { offset, timestamp })
}

/// Whether there was something else than null; `None` is an error.
fn skip_sized(body: &mut &[u8]) -> Option<bool> {
    let len = read_varint(body).ok()?;
    if len == -1 {
        return Some(false);
    }
    *body = body.get(usize::try_from(len).ok()?..)?;
    Some(true)
}
