//! Reads that need the disk: where they stand, and what the next piece brings.

use broker::FetchedPartition;
use bytes::Bytes;
use log::segment::{self, ReadPlan};
use partition::SegmentPosition;
use protocol::batch::{self, BatchHeader, HEADER_BYTES};
use types::limits::{DECOMPRESSED_BYTES_MAX, DISK_REQUEST_BYTES_MAX, FETCH_BYTES_MAX};
use types::mutants::{Mutant, is_planted};
use types::{GroupId, NodeId, Offset};

use crate::event::DiskRequest;
use crate::partition_host::Asker;

/// What a read is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Want {
    /// One partition of a fetch: whole batches from the offset, below the limit.
    Fetch { job: u64, slot: u32, limit: Offset, max_bytes: usize },
    /// The first record of this age.
    Timestamp { asker: Asker, timestamp_ms: i64 },
    /// The next records of a coordinator's partition.
    Load { limit: Offset },
    /// Batches for a replica that lacks them.
    Pull { peer: NodeId, limit: Offset, max_bytes: usize },
}

/// A read of one segment under way.
#[derive(Debug)]
pub(crate) struct Read {
    pub group: GroupId,
    pub want: Want,
    /// The first offset that is of use.
    pub offset: Offset,
    pub segment: SegmentPosition,
    /// Where the piece under way starts in the segment, once the index told.
    position: Option<u64>,
    length: usize,
}

/// What a piece brought.
pub(crate) enum Progress {
    /// Another piece is needed.
    Continue(Read),
    /// Whole batches.
    Found(Read, Bytes),
    /// The segment holds nothing of use: go on at the read's new offset.
    NextSegment(Read),
    /// The segment is not what it was.
    Damaged(Read, String),
}

impl Read {
    pub(crate) fn new(group: GroupId, want: Want, offset: Offset, segment: SegmentPosition) -> Read {
        let length = match want {
            Want::Fetch { max_bytes, .. } | Want::Pull { max_bytes, .. } => {
                max_bytes.clamp(HEADER_BYTES, FETCH_BYTES_MAX)
            }
            Want::Timestamp { .. } | Want::Load { .. } => DISK_REQUEST_BYTES_MAX,
        };
        Read { group, want, offset, segment, position: segment.position.map(u64::from), length }
    }

    /// What to ask the disk for.
    pub(crate) fn request(&self) -> DiskRequest {
        let (group, segment) = (self.group, self.segment.segment);
        match self.position {
            None => DiskRequest::ReadIndexes { group, segment },
            Some(position) => {
                let rest = usize::try_from(self.segment.bytes - position).unwrap_or(usize::MAX);
                DiskRequest::ReadSegment { group, segment, position, length: self.length.min(rest) }
            }
        }
    }

    /// The most that the request brings into memory; index files are mapped.
    pub(crate) fn bytes(&self) -> usize {
        if self.position.is_some() { self.length } else { 0 }
    }

    /// The index files of a complete segment.
    pub(crate) fn on_indexes(mut self, offsets: &[u8], times: &[u8]) -> Progress {
        let base = self.segment.segment;
        let position = match self.want {
            Want::Timestamp { timestamp_ms, .. } => {
                segment::position_for_timestamp(offsets, times, base, timestamp_ms, self.offset)
            }
            Want::Fetch { .. } | Want::Load { .. } | Want::Pull { .. } => {
                segment::position_for_offset(offsets, base, self.offset)
            }
        };
        match u64::from(position) < self.segment.bytes {
            true => {
                self.position = Some(position.into());
                Progress::Continue(self)
            }
            false => Progress::Damaged(self, format!("the index of segment {base} points behind its end")),
        }
    }

    /// A piece of the segment.
    pub(crate) fn on_bytes(mut self, chunk: Bytes) -> Progress {
        let position = self.position.expect("a piece was asked for");
        let plan = match self.want {
            Want::Fetch { limit, max_bytes, .. } | Want::Pull { limit, max_bytes, .. } => {
                segment::plan_read(&chunk, self.offset, limit, max_bytes)
            }
            Want::Load { limit } => segment::plan_read(&chunk, self.offset, limit, usize::MAX),
            Want::Timestamp { timestamp_ms, .. } => {
                segment::plan_timestamp_search(&chunk, timestamp_ms, self.offset)
            }
        };
        match plan {
            ReadPlan::Batches(range) => {
                let batches = chunk.slice(range);
                match self.check_batches(&batches) {
                    Ok(()) => Progress::Found(self, batches),
                    Err(why) => {
                        let why = format!("segment {}: {why}", self.segment.segment);
                        Progress::Damaged(self, why)
                    }
                }
            }
            ReadPlan::Damaged { at } => {
                let why = format!(
                    "segment {} holds no batch at byte {}",
                    self.segment.segment,
                    position + at as u64
                );
                Progress::Damaged(self, why)
            }
            ReadPlan::NeedMore { from, .. } if position + from as u64 >= self.segment.bytes => {
                if let Some(target) = self.target().filter(|target| *target < self.segment.end) {
                    let why = format!("segment {} has no batch with offset {target}", self.segment.segment);
                    return Progress::Damaged(self, why);
                }
                self.offset = self.segment.end;
                Progress::NextSegment(self)
            }
            ReadPlan::NeedMore { from, .. } if position + chunk.len() as u64 >= self.segment.bytes => {
                let why = format!(
                    "segment {} ends inside the batch at byte {}",
                    self.segment.segment,
                    position + from as u64
                );
                Progress::Damaged(self, why)
            }
            ReadPlan::NeedMore { from, bytes } => {
                self.position = Some(position + from as u64);
                self.length = self.length.max(bytes);
                Progress::Continue(self)
            }
        }
    }

    /// The offset that the first batch must hold; none where a time is looked for.
    fn target(&self) -> Option<Offset> {
        (!matches!(self.want, Want::Timestamp { .. })).then_some(self.offset)
    }

    /// Compares batches that were read from a disk with their checksums, and their offsets, which these do not cover, with each
    /// other, the target and the segment's end. There is a batch: a limit lies between two, and behind the target.
    fn check_batches(&self, batches: &Bytes) -> Result<(), String> {
        if is_planted(Mutant::ReadsNotChecked) {
            return Ok(());
        }
        if batches.is_empty() {
            return Err(format!("no batch ends where the one with offset {} should", self.offset));
        }
        let mut expected = None;
        for batch in batch::batches(batches) {
            let (header, range) = batch.map_err(|error| error.to_string())?;
            let (offset, batch) = (header.base_offset, batches.slice(range));
            batch::check_crc(&header, &batch)
                .map_err(|error| format!("the batch at offset {offset}: {error}"))?;
            let is_in_place = match expected {
                None => self.target().is_none_or(|target| offset <= target),
                Some(expected) => offset == expected,
            };
            if !is_in_place || header.next_offset() > self.segment.end {
                return Err(format!("the batch at offset {offset} is not the one that belongs there"));
            }
            expected = Some(header.next_offset());
        }
        Ok(())
    }
}

/// Finds the first record at `timestamp_ms` or later, at `from` or behind, in a batch: (timestamp, offset).
pub(crate) fn find_timestamp(
    data: &Bytes,
    timestamp_ms: i64,
    from: Offset,
) -> Result<Option<(i64, i64)>, String> {
    let header = BatchHeader::parse(data).map_err(|error| error.to_string())?;
    let records = batch::records(&header, data, DECOMPRESSED_BYTES_MAX).map_err(|error| error.to_string())?;
    for record in records {
        let record = record.map_err(|error| error.to_string())?;
        if record.timestamp >= timestamp_ms && record.offset >= from {
            return Ok(Some((record.timestamp, record.offset.0)));
        }
    }
    Ok(None)
}

/// The parts of a fetch on this shard, some of which wait for the disk.
pub(crate) struct FetchJob {
    pub asker: Asker,
    pub results: Vec<FetchedPartition>,
    pub reads_under_way: usize,
}

#[cfg(test)]
mod tests {
    use protocol::batch::{BatchBuilder, BatchOptions, assign};

    use super::*;

    /// Offsets 20 to 21, 22 to 24 and 25.
    fn segment() -> (Vec<u8>, [usize; 3]) {
        let mut bytes = Vec::new();
        let mut next = Offset(20);
        let starts = [2, 3, 1].map(|count| {
            let mut batch = BatchBuilder::new(BatchOptions::default());
            for number in 0..count {
                batch.append(1_000 + number, None, Some(b"value"), &[]);
            }
            let mut batch = batch.build();
            assign(&mut batch, next, 1);
            next = BatchHeader::parse(&batch).expect("it was just built").next_offset();
            let start = bytes.len();
            bytes.extend_from_slice(&batch);
            start
        });
        (bytes, starts)
    }

    fn read(bytes: &[u8], offset: i64) -> Progress {
        let position = SegmentPosition {
            segment: Offset(20),
            bytes: bytes.len() as u64,
            end: Offset(26),
            position: Some(0),
        };
        let want = Want::Fetch { job: 1, slot: 0, limit: Offset(40), max_bytes: 1 << 20 };
        Read::new(GroupId(7), want, Offset(offset), position).on_bytes(Bytes::copy_from_slice(bytes))
    }

    /// What was found, or why nothing was.
    fn outcome(progress: Progress) -> Result<usize, String> {
        match progress {
            Progress::Found(_, batches) => Ok(batches.len()),
            Progress::Damaged(_, why) => Err(why),
            Progress::Continue(_) | Progress::NextSegment(_) => panic!("the segment is whole"),
        }
    }

    #[test]
    fn offsets_that_checksums_do_not_cover_are_checked() {
        const LAST_OFFSET_DELTA_AT: usize = 23;
        let (bytes, [first, second, third]) = segment();
        assert_eq!(outcome(read(&bytes, 21)), Ok(bytes.len()));
        assert_eq!(outcome(read(&bytes, 22)), Ok(bytes.len() - second));
        assert_eq!(outcome(read(&bytes, 25)), Ok(bytes.len() - third));
        let damaged = |at: usize, bit: u8, offset: i64| {
            let mut bytes = bytes.clone();
            bytes[at] ^= bit;
            outcome(read(&bytes, offset)).expect_err("damage is found")
        };
        // Base offsets: lower than the last one before, at or below the target, behind the segment, behind the limit.
        assert!(damaged(second + 7, 16, 23).contains("holds no batch at byte"));
        assert!(damaged(first + 7, 16, 20).contains("is not the one that belongs there"));
        assert!(damaged(third + 7, 2, 25).contains("is not the one that belongs there"));
        assert!(damaged(third + 5, 1, 25).contains("no batch ends where"));
        // In the middle of what is read: nothing is given to be read beyond the gap.
        assert!(damaged(third + 7, 2, 20).contains("is not the one that belongs there"));
        // The count of offsets, far behind the limit.
        assert!(damaged(first + LAST_OFFSET_DELTA_AT, 1, 20).contains("no batch ends where"));
    }
}
