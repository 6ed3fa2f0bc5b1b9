//! Kafka's log segments: file names, indexes, and the plans for rolling, reading and deleting segments.
//!
//! A segment is three files named after its base offset: `.log` holds record batches as they travel on the
//! wire, `.index` maps offsets to positions in it and `.timeindex` maps timestamps to offsets. All three are
//! byte for byte what Kafka's `LogSegment`, `OffsetIndex` and `TimeIndex` write, so its tools read them.
//! Segments hold committed batches only and are never truncated.

mod index;
mod list;
mod read;

pub use index::{
    IndexMark, OFFSET_ENTRY_BYTES, Restored, SegmentIndex, TIME_ENTRY_BYTES, are_sealed_indexes_sane,
    last_timestamp, offset_for_timestamp, position_for_offset, position_for_timestamp, restore,
};
pub use list::{NextBatch, RetentionConfig, RollConfig, RollReason, SegmentInfo, SegmentList};
pub use read::{BatchSpan, ReadPlan, ScanEnd, plan_read, plan_timestamp_search};

use types::Offset;

/// The timestamp of a batch or segment that has none (Kafka's `RecordBatch.NO_TIMESTAMP`).
pub const NO_TIMESTAMP: i64 = -1;

/// The three files of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentFile {
    /// Record batches.
    Log,
    /// The offset index.
    OffsetIndex,
    /// The time index.
    TimeIndex,
}

impl SegmentFile {
    /// All of them.
    pub const ALL: [SegmentFile; 3] = [SegmentFile::Log, SegmentFile::OffsetIndex, SegmentFile::TimeIndex];

    /// The suffix of its name, with the dot.
    pub fn suffix(self) -> &'static str {
        match self {
            SegmentFile::Log => ".log",
            SegmentFile::OffsetIndex => ".index",
            SegmentFile::TimeIndex => ".timeindex",
        }
    }

    /// The file's name in the segment that starts at `base`: twenty decimal digits and the suffix.
    /// `base` is not negative.
    pub fn name(self, base: Offset) -> String {
        assert!(base.0 >= 0, "a segment starts at an offset");
        format!("{:020}{}", base.0, self.suffix())
    }

    /// Which file of which segment carries this name; `None` when [`SegmentFile::name`] makes no such name.
    pub fn parse_name(name: &str) -> Option<(Offset, SegmentFile)> {
        let (digits, file) =
            SegmentFile::ALL.into_iter().find_map(|file| Some((name.strip_suffix(file.suffix())?, file)))?;
        let is_number = digits.len() == 20 && digits.bytes().all(|digit| digit.is_ascii_digit());
        let base = if is_number { digits.parse().ok()? } else { return None };
        Some((Offset(base), file))
    }
}

#[cfg(test)]
mod tests;
