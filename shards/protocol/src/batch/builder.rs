//! Writes batches: for coordinators, transaction markers, tools and tests.

use bytes::{BufMut, BytesMut};
use types::Offset;

use crate::{
    batch::{
        CONTROL_BIT, Codec, HEADER_BYTES, LOG_OVERHEAD_BYTES, MAGIC, NO_PRODUCER_ID, NO_TIMESTAMP,
        TRANSACTIONAL_BIT, write_crc,
    },
    wire::{varint_len, varlong_len, write_varint, write_varlong},
};

/// What a batch says about itself, beside its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchOptions {
    /// The offset of the first record. Producers leave it at 0.
    pub base_offset: Offset,
    /// The leader epoch; producers leave it at 0 and the broker sets it.
    pub leader_epoch: i32,
    /// How the records are compressed.
    pub codec: Codec,
    /// Whether the batch belongs to a transaction; it then needs a producer.
    pub transactional: bool,
    /// Whether the batch is a transaction marker, see [`crate::batch::control_batch`].
    pub control: bool,
    /// The idempotent producer, where there is one.
    pub producer: Option<Producer>,
}

/// An idempotent producer and its position (KIP-98).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Its id, 0 or greater.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// The sequence number of the batch's first record; -1 in a control batch.
    pub base_sequence: i32,
}

/// Collects records into one batch.
#[derive(Debug)]
pub struct BatchBuilder {
    options: BatchOptions,
    records: BytesMut,
    record_count: i32,
    last_offset_delta: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// An empty batch.
    pub fn new(options: BatchOptions) -> BatchBuilder {
        BatchBuilder {
            options,
            records: BytesMut::new(),
            record_count: 0,
            last_offset_delta: -1,
            base_timestamp: 0,
            max_timestamp: NO_TIMESTAMP,
        }
    }

    /// Adds a record at the next offset. The time is in milliseconds; headers are keys and values.
    pub fn append(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) {
        self.append_at(self.last_offset_delta + 1, timestamp, key, value, headers);
    }

    /// Adds a record at the base offset plus `offset_delta`, so that compaction can leave gaps.
    ///
    /// # Panics
    ///
    /// When the offset is not above that of the record before, or the batch would pass 2 GiB.
    pub fn append_at(
        &mut self,
        offset_delta: i32,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) {
        assert!(offset_delta > self.last_offset_delta, "offsets ascend in a batch");
        if self.record_count == 0 {
            self.base_timestamp = timestamp;
        }
        let timestamp_delta = timestamp.wrapping_sub(self.base_timestamp);
        let headers_len: usize =
            headers.iter().map(|&(key, value)| sized_len(Some(key)) + sized_len(value)).sum();
        let body_len = 1
            + varlong_len(timestamp_delta)
            + varint_len(offset_delta)
            + sized_len(key)
            + sized_len(value)
            + varint_len(checked_i32(headers.len()))
            + headers_len;
        self.records.reserve(varint_len(checked_i32(body_len)) + body_len);
        write_varint(&mut self.records, checked_i32(body_len));
        self.records.put_u8(0);
        write_varlong(&mut self.records, timestamp_delta);
        write_varint(&mut self.records, offset_delta);
        write_sized(&mut self.records, key);
        write_sized(&mut self.records, value);
        write_varint(&mut self.records, checked_i32(headers.len()));
        for &(key, value) in headers {
            write_sized(&mut self.records, Some(key));
            write_sized(&mut self.records, value);
        }
        self.record_count += 1;
        self.last_offset_delta = offset_delta;
        self.max_timestamp = self.max_timestamp.max(timestamp);
    }

    /// Whether nothing was added yet.
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Bytes of the batch so far, before compression.
    pub fn size_in_bytes(&self) -> usize {
        HEADER_BYTES + self.records.len()
    }

    /// The batch.
    ///
    /// # Panics
    ///
    /// When it has no record, or is transactional without a producer: Kafka refuses such batches.
    pub fn build(self) -> BytesMut {
        assert!(!self.is_empty(), "a batch has at least one record");
        let options = self.options;
        assert!(!options.transactional || options.producer.is_some(), "a transaction has a producer");
        let records = match options.codec {
            Codec::None => self.records.freeze(),
            codec => codec.compress(&self.records).into(),
        };
        let producer =
            options.producer.unwrap_or(Producer { id: NO_PRODUCER_ID, epoch: -1, base_sequence: -1 });
        let mut batch = BytesMut::with_capacity(HEADER_BYTES + records.len());
        batch.put_i64(options.base_offset.0);
        batch.put_i32(checked_i32(HEADER_BYTES - LOG_OVERHEAD_BYTES + records.len()));
        batch.put_i32(options.leader_epoch);
        batch.put_i8(MAGIC);
        batch.put_u32(0);
        batch.put_i16(attributes(&options));
        batch.put_i32(self.last_offset_delta);
        batch.put_i64(self.base_timestamp);
        batch.put_i64(self.max_timestamp);
        batch.put_i64(producer.id);
        batch.put_i16(producer.epoch);
        batch.put_i32(producer.base_sequence);
        batch.put_i32(self.record_count);
        assert_eq!(batch.len(), HEADER_BYTES, "the header has its fixed size");
        batch.put_slice(&records);
        write_crc(&mut batch);
        batch
    }
}

fn attributes(options: &BatchOptions) -> i16 {
    let transactional = if options.transactional { TRANSACTIONAL_BIT } else { 0 };
    let control = if options.control { CONTROL_BIT } else { 0 };
    options.codec as i16 | transactional | control
}

fn checked_i32(len: usize) -> i32 {
    i32::try_from(len).expect("a batch stays below 2 GiB")
}

fn sized_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varint_len(checked_i32(bytes.len())) + bytes.len())
}

fn write_sized(buf: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            write_varint(buf, checked_i32(bytes.len()));
            buf.put_slice(bytes);
        }
        None => write_varint(buf, -1),
    }
}
