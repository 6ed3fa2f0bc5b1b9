//! The segments of one partition: where a batch goes, where an offset is, what may be deleted.

use types::Offset;

use super::NO_TIMESTAMP;
use super::index::{SegmentIndex, can_hold_offset};

/// One segment, as far as the plans need to know it. `base ≤ end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its base offset, which names its files.
    pub base: Offset,
    /// The offset behind its last batch; `base` while it is empty.
    pub end: Offset,
    /// The size of its `.log` file.
    pub bytes: u64,
    /// The highest timestamp in it, or [`NO_TIMESTAMP`].
    pub max_timestamp_ms: i64,
    /// The highest timestamp of its first batch; `None` while it is empty. Its age under `segment.ms`
    /// is measured from here.
    pub first_timestamp_ms: Option<i64>,
    /// The wall clock when it was made.
    pub created_ms: i64,
    /// The wall clock when it was last appended to. Stands in for the timestamps where there are none.
    pub modified_ms: i64,
    /// Whether it is complete. Only the last segment of a list is not.
    pub is_sealed: bool,
}

impl SegmentInfo {
    /// An empty active segment.
    pub fn new(base: Offset, now_ms: i64) -> Self {
        SegmentInfo {
            base,
            end: base,
            bytes: 0,
            max_timestamp_ms: NO_TIMESTAMP,
            first_timestamp_ms: None,
            created_ms: now_ms,
            modified_ms: now_ms,
            is_sealed: false,
        }
    }

    /// The time that `retention.ms` counts from (Kafka's `LogSegment.largestTimestamp`).
    fn retention_timestamp_ms(&self) -> i64 {
        if self.max_timestamp_ms >= 0 { self.max_timestamp_ms } else { self.modified_ms }
    }
}

/// When a segment is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollConfig {
    /// `segment.bytes`.
    pub segment_bytes: u32,
    /// `segment.ms`, less the jitter that the owner draws for each segment (`segment.jitter.ms`).
    pub segment_ms: i64,
    /// `segment.index.bytes`.
    pub index_bytes: u32,
}

/// The batch or the row of batches that is to be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextBatch {
    /// Its size, or that of all of them.
    pub bytes: u32,
    /// Its last offset.
    pub last_offset: Offset,
    /// Its highest timestamp, or [`NO_TIMESTAMP`].
    pub max_timestamp_ms: i64,
}

/// Why a new segment begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RollReason {
    /// There is no active segment.
    NoActiveSegment,
    /// The batch would make the segment larger than `segment.bytes`.
    Size,
    /// The segment's first batch is older than `segment.ms`.
    Age,
    /// The offset index is full.
    OffsetIndexFull,
    /// The time index is full.
    TimeIndexFull,
    /// The batch's last offset is more than 2³¹−1 above the base.
    OffsetRange,
}

/// How much of a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionConfig {
    /// `retention.ms`; negative keeps everything.
    pub retention_ms: i64,
    /// `retention.bytes`; negative keeps everything.
    pub retention_bytes: i64,
}

/// The segments of one partition, by ascending base offset and without overlap. Owned by the partition; read from the
/// directory at start. All are sealed but possibly the last, the active one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentList {
    segments: Vec<SegmentInfo>,
}

impl SegmentList {
    /// A partition without segments.
    pub fn new() -> Self {
        SegmentList::default()
    }

    /// Adds a segment behind the last one, which must be sealed.
    pub fn push(&mut self, segment: SegmentInfo) {
        assert!(segment.base <= segment.end, "a segment ends at or behind its base");
        if let Some(last) = self.segments.last() {
            assert!(last.is_sealed, "only the last segment is active");
            assert!(last.end <= segment.base && last.base < segment.base, "segments do not overlap");
        }
        self.segments.push(segment);
    }

    /// Takes note of a batch that goes to the active segment, which must exist and have room for it.
    pub fn on_batch(&mut self, batch: &NextBatch, now_ms: i64) {
        let active = self.segments.last_mut().filter(|last| !last.is_sealed);
        let active = active.expect("a batch goes to an active segment");
        assert!(batch.last_offset >= active.end, "batches are appended in the order of their offsets");
        active.end = Offset(batch.last_offset.0 + 1);
        active.bytes += u64::from(batch.bytes);
        active.max_timestamp_ms = active.max_timestamp_ms.max(batch.max_timestamp_ms);
        active.first_timestamp_ms.get_or_insert(batch.max_timestamp_ms);
        active.modified_ms = now_ms;
    }

    /// Seals the active segment, if there is one. It must not be empty: the next one would have its base.
    pub fn seal_active(&mut self) {
        if let Some(active) = self.segments.last_mut().filter(|last| !last.is_sealed) {
            assert!(active.base < active.end, "an empty segment is not sealed");
            active.is_sealed = true;
        }
    }

    /// The segment that batches are appended to.
    pub fn active(&self) -> Option<&SegmentInfo> {
        self.segments.last().filter(|last| !last.is_sealed)
    }

    /// All segments, ascending.
    pub fn iter(&self) -> std::slice::Iter<'_, SegmentInfo> {
        self.segments.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The bytes of all `.log` files.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The segment in which to look for the first record at or above `offset`: offsets that fell out between two
    /// segments belong to the later one. `None` when all segments end at or below `offset`.
    pub fn find(&self, offset: Offset) -> Option<&SegmentInfo> {
        self.segments.get(self.segments.partition_point(|segment| segment.end <= offset))
    }

    /// The segment in which to look first for a record at `timestamp_ms` or later: the first one that reaches it.
    pub fn find_timestamp(&self, timestamp_ms: i64) -> Option<&SegmentInfo> {
        self.segments.iter().find(|segment| segment.max_timestamp_ms >= timestamp_ms)
    }

    /// Whether a new segment must begin before `next` is appended (Kafka's `LogSegment.shouldRoll`); `None` when it goes
    /// to the active one. `index` is that of the active segment. An empty active segment is never too
    /// old, and takes a batch of any size.
    ///
    /// The caller then [seals](SegmentIndex::seal) index and segment and begins one at the batch's base offset.
    pub fn plan_roll(
        &self,
        config: &RollConfig,
        index: &SegmentIndex,
        next: &NextBatch,
        now_ms: i64,
    ) -> Option<RollReason> {
        let Some(active) = self.active() else {
            return Some(RollReason::NoActiveSegment);
        };
        assert_eq!(active.base, index.base(), "the index is that of the active segment");
        if active.bytes == 0 {
            return None;
        }
        let age_ms = match active.first_timestamp_ms.filter(|first| *first >= 0) {
            Some(first_ms) => next.max_timestamp_ms.saturating_sub(first_ms),
            None => now_ms.saturating_sub(active.created_ms),
        };
        if active.bytes + u64::from(next.bytes) > u64::from(config.segment_bytes) {
            Some(RollReason::Size)
        } else if age_ms > config.segment_ms {
            Some(RollReason::Age)
        } else if index.is_offset_index_full(config.index_bytes) {
            Some(RollReason::OffsetIndexFull)
        } else if index.is_time_index_full(config.index_bytes) {
            Some(RollReason::TimeIndexFull)
        } else if !can_hold_offset(active.base, next.last_offset) {
            Some(RollReason::OffsetRange)
        } else {
            None
        }
    }

    /// Where the log should start under the policy `delete` (Kafka's `UnifiedLog.deleteOldSegments`). Whole
    /// segments go, oldest first: those below `log_start` anyway; then, by size, as long as what stays is at
    /// least `retention.bytes`; then, by time, until the first one whose highest timestamp is not older than
    /// `retention.ms`. The active segment may be among them: the log then starts where it ends. An empty one stays.
    pub fn plan_retention(&self, config: &RetentionConfig, log_start: Offset, now_ms: i64) -> Offset {
        let deletable = &self.segments[..self.segments.len() - usize::from(self.is_last_empty())];
        let below = self.count_below(log_start).min(deletable.len());
        let mut kept = &deletable[below..];
        if let Ok(retention_bytes) = u64::try_from(config.retention_bytes) {
            let mut bytes: u64 = kept.iter().map(|segment| segment.bytes).sum();
            while let Some((oldest, rest)) = kept.split_first()
                && bytes - oldest.bytes >= retention_bytes
            {
                bytes -= oldest.bytes;
                kept = rest;
            }
        }
        if config.retention_ms >= 0 {
            while let Some((oldest, rest)) = kept.split_first()
                && now_ms.saturating_sub(oldest.retention_timestamp_ms()) > config.retention_ms
            {
                kept = rest;
            }
        }
        let deleted = &deletable[..deletable.len() - kept.len()];
        match (deleted.last(), self.segments.get(deleted.len())) {
            (None, _) => log_start,
            (Some(_), Some(next)) => next.base.max(log_start),
            (Some(last), None) => last.end.max(log_start),
        }
    }

    fn is_last_empty(&self) -> bool {
        self.segments.last().is_some_and(|last| last.bytes == 0)
    }

    /// How many segments lie wholly below `log_start`. An empty one, which is the last, is not counted.
    fn count_below(&self, log_start: Offset) -> usize {
        self.segments.partition_point(|segment| segment.end <= log_start && segment.base < segment.end)
    }

    /// Takes out the segments that hold nothing of a log that starts at `log_start`, oldest first. The active one is
    /// among them when it ends there or before: a log whose records are all gone has no segment.
    pub fn remove_below(&mut self, log_start: Offset) -> Vec<SegmentInfo> {
        let count = self.count_below(log_start);
        self.segments.drain(..count).collect()
    }
}
