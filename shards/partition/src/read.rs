//! Where to read, and whether the reader may.

use bytes::Bytes;
use types::{Offset, Term};

use crate::Partition;
use crate::indexes::{IndexRestore, SegmentDamaged};

/// Why nothing can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The offset is not in the log.
    #[error("offset {offset} is outside the log, which reaches from {log_start} to {high_watermark}")]
    OutOfRange {
        /// What was asked for.
        offset: Offset,
        /// The first offset.
        log_start: Offset,
        /// The offset behind the last committed record.
        high_watermark: Offset,
    },
    /// The client believes in an older leader.
    #[error("leader epoch {got} is older than {current}")]
    FencedEpoch {
        /// The client's epoch.
        got: i32,
        /// The current one.
        current: i32,
    },
    /// The client knows of a newer leader than this node.
    #[error("leader epoch {got} is newer than {current}")]
    UnknownEpoch {
        /// The client's epoch.
        got: i32,
        /// The current one.
        current: i32,
    },
}

/// Where batches are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// In memory.
    Memory,
    /// In this segment.
    Disk(SegmentPosition),
    /// Nowhere yet: the offset is the high watermark.
    End,
}

/// A segment to read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentPosition {
    /// Its base offset.
    pub segment: Offset,
    /// Its size.
    pub bytes: u64,
    /// The offset behind its last record.
    pub end: Offset,
    /// Where to begin; `None` while its index files must be asked (the segment is complete).
    pub position: Option<u32>,
}

/// Where the first record of some age may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimestampPosition {
    /// In this batch in memory.
    Memory(Bytes),
    /// In this segment or behind it.
    Disk(SegmentPosition),
    /// No record is that young.
    Nowhere,
}

impl Partition {
    /// Compares the epoch that a client believes in with the leader's own; -1 believes in nothing (KIP-320).
    pub fn check_epoch(&self, got: i32, term: Term) -> Result<(), ReadError> {
        let current = term.leader_epoch();
        match got {
            -1 => Ok(()),
            got if got < current => Err(ReadError::FencedEpoch { got, current }),
            got if got > current => Err(ReadError::UnknownEpoch { got, current }),
            _ => Ok(()),
        }
    }

    /// Where the record at `offset` is.
    pub fn locate(&self, offset: Offset) -> Result<Position, ReadError> {
        let (log_start, high_watermark) = (self.log_start, self.high_watermark);
        if offset < log_start || offset > high_watermark {
            return Err(ReadError::OutOfRange { offset, log_start, high_watermark });
        }
        if offset == high_watermark {
            return Ok(Position::End);
        }
        if self.tail.start().is_some_and(|start| start <= offset) {
            return Ok(Position::Memory);
        }
        let position = self.segment_position(offset);
        Ok(Position::Disk(position.expect("what is not in memory is in a segment")))
    }

    fn segment_position(&self, offset: Offset) -> Option<SegmentPosition> {
        let segment = self.segments.find(offset)?;
        let position = match self.active.index() {
            Some(index) if !segment.is_sealed => {
                Some(log::segment::position_for_offset(index.offset_index(), segment.base, offset))
            }
            _ => None,
        };
        Some(SegmentPosition { segment: segment.base, bytes: segment.bytes, end: segment.end, position })
    }

    /// Whole batches in memory from the one that holds `offset`, up to `max_bytes`; the first one always.
    pub fn read_memory(&self, offset: Offset, max_bytes: usize) -> Vec<Bytes> {
        let mut records: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        for batch in self.tail.from(offset) {
            bytes += batch.bytes.len();
            if bytes > max_bytes && !records.is_empty() {
                break;
            }
            records.push(batch.bytes.clone());
        }
        records
    }

    /// The youngest timestamp of the log.
    pub fn max_timestamp_ms(&self) -> Option<i64> {
        let in_segments = self.segments.iter().filter(|s| s.end > self.log_start).map(|s| s.max_timestamp_ms);
        let in_memory = self.tail.from(self.log_start).map(|batch| batch.max_timestamp_ms);
        in_segments.chain(in_memory).filter(|timestamp_ms| *timestamp_ms >= 0).max()
    }

    /// Where the first record at `timestamp_ms` or later, at `from` or behind, may be.
    pub fn locate_timestamp(&self, timestamp_ms: i64, from: Offset) -> TimestampPosition {
        let from = from.max(self.log_start);
        let memory_start = self.tail.start().unwrap_or(self.high_watermark);
        let in_segment = self
            .segments
            .iter()
            .find(|s| s.end > from && s.base < memory_start && s.max_timestamp_ms >= timestamp_ms);
        if let Some(segment) = in_segment {
            let found = self.segment_position(segment.base.max(from)).expect("the segment holds this offset");
            return TimestampPosition::Disk(found);
        }
        let young = self.tail.from(from).find(|batch| batch.max_timestamp_ms >= timestamp_ms);
        young.map_or(TimestampPosition::Nowhere, |batch| TimestampPosition::Memory(batch.bytes.clone()))
    }

    /// What is missing of the active segment's index; `None` when it is whole.
    pub fn plan_index_restore(&self) -> Option<IndexRestore> {
        self.active.plan_restore()
    }

    /// Whether reads of a segment must wait for [`Partition::plan_index_restore`].
    pub fn needs_index_restore(&self, segment: Offset) -> bool {
        self.segments.active().is_some_and(|active| active.base == segment) && !self.active.is_ready()
    }

    /// The index files of the active segment were read.
    pub fn on_indexes_read(&mut self, offsets: &[u8], times: &[u8]) {
        self.active.on_indexes_read(offsets, times);
    }

    /// A piece of the active segment was read.
    pub fn on_rescan_read(&mut self, chunk: &[u8]) -> Result<(), SegmentDamaged> {
        self.active.on_rescan_read(chunk)
    }
}
