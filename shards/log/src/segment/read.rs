//! Finding batches in the bytes of a segment, by their headers alone.

use std::ops::Range;

use protocol::batch::{BatchHeader, HEADER_BYTES};
use types::Offset;

/// What the plans of this module need of a batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSpan {
    /// The offset of its first record.
    pub base: Offset,
    /// The offset of its last record, at least `base`.
    pub last: Offset,
    /// The highest timestamp in it, or [`NO_TIMESTAMP`](super::NO_TIMESTAMP).
    pub max_timestamp_ms: i64,
    /// Its size with the header.
    pub bytes: usize,
}

/// How a walk over a chunk of a segment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanEnd {
    /// Every batch was visited; the chunk ends where a batch ends.
    Complete,
    /// The batch that begins at `from` in the chunk is cut off; to read it on, at least `bytes` are needed
    /// from there.
    NeedMore {
        /// Where in the chunk the unfinished batch begins.
        from: usize,
        /// Bytes needed from there, at least.
        bytes: usize,
    },
    /// What stands at `at` in the chunk is no batch, or one that does not follow its predecessor.
    Damaged {
        /// Where in the chunk.
        at: usize,
    },
}

/// What to answer a reader from a chunk of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadPlan {
    /// The bytes of whole batches. Empty when the first batch that covers the target lies at or behind the limit.
    Batches(Range<usize>),
    /// The chunk ends before or within the batch that covers the target. Read again from byte `from` of the
    /// chunk, at least `bytes` long. At the end of the segment this means that the target lies in the next one.
    NeedMore {
        /// Where in the chunk to begin again: the start of a batch.
        from: usize,
        /// Bytes needed from there, at least.
        bytes: usize,
    },
    /// What stands at `at` in the chunk is no batch, or one that does not follow its predecessor.
    Damaged {
        /// Where in the chunk.
        at: usize,
    },
}

impl BatchSpan {
    /// The span of the batch with this header; `None` for a header with offsets that no valid batch has.
    pub fn of(header: &BatchHeader) -> Option<BatchSpan> {
        let base = header.base_offset;
        let last = Offset(base.0.checked_add(i64::from(header.last_offset_delta))?);
        let is_sane = base.0 >= 0 && last >= base && last.0 < i64::MAX;
        let bytes = header.size_in_bytes();
        is_sane.then_some(BatchSpan { base, last, max_timestamp_ms: header.max_timestamp, bytes })
    }
}

/// Walks the batches of `chunk`, which begins where a batch begins. `visit` gets each whole batch with its position
/// in the chunk and says whether to go on; a walk that it stops is complete.
pub(super) fn walk(chunk: &[u8], mut visit: impl FnMut(usize, BatchSpan) -> bool) -> ScanEnd {
    let mut at = 0;
    let mut previous_last = Offset(-1);
    while at < chunk.len() {
        let rest = &chunk[at..];
        if rest.len() < HEADER_BYTES {
            return ScanEnd::NeedMore { from: at, bytes: HEADER_BYTES };
        }
        let span = BatchHeader::parse(rest).ok().and_then(|header| BatchSpan::of(&header));
        let Some(span) = span.filter(|span| span.base > previous_last) else {
            return ScanEnd::Damaged { at };
        };
        if span.bytes > rest.len() {
            return ScanEnd::NeedMore { from: at, bytes: span.bytes };
        }
        if !visit(at, span) {
            return ScanEnd::Complete;
        }
        previous_last = span.last;
        at += span.bytes;
    }
    ScanEnd::Complete
}

/// Plans a read of whole batches from `chunk`, a piece of a segment that begins where a batch begins, at or
/// before the batch that covers `target` (see [`position_for_offset`](super::position_for_offset)).
///
/// The range starts with the first batch whose last offset is at least `target`, and goes on while it stays
/// within `max_bytes`, within the chunk, and below `limit` (exclusive: high watermark or last stable offset).
/// The first batch is returned even if it alone is larger than `max_bytes`, so that a reader always gets
/// on (KIP-74); whoever must not return it compares the range with its budget.
pub fn plan_read(chunk: &[u8], target: Offset, limit: Offset, max_bytes: usize) -> ReadPlan {
    let mut range: Option<Range<usize>> = None;
    let mut is_limited = false;
    let end = walk(chunk, |at, batch| {
        if batch.last < target {
            return true;
        }
        let start = range.as_ref().map_or(at, |range| range.start);
        is_limited = batch.last >= limit;
        if is_limited || (range.is_some() && at + batch.bytes - start > max_bytes) {
            return false;
        }
        range = Some(start..at + batch.bytes);
        true
    });
    match (range, end) {
        (Some(range), _) => ReadPlan::Batches(range),
        (None, _) if is_limited => ReadPlan::Batches(0..0),
        (None, ScanEnd::NeedMore { from, bytes }) => ReadPlan::NeedMore { from, bytes },
        (None, ScanEnd::Damaged { at }) => ReadPlan::Damaged { at },
        (None, ScanEnd::Complete) => ReadPlan::NeedMore { from: chunk.len(), bytes: HEADER_BYTES },
    }
}

/// Finds in `chunk`, which begins where a batch begins, the first batch that may hold a record at
/// `timestamp_ms` or later with an offset of at least `start`, as ListOffsets by time needs it. The record itself is
/// to be looked for inside the batch. The range holds that batch alone.
pub fn plan_timestamp_search(chunk: &[u8], timestamp_ms: i64, start: Offset) -> ReadPlan {
    let mut found = None;
    let end = walk(chunk, |at, batch| {
        let is_found = batch.max_timestamp_ms >= timestamp_ms && batch.last >= start;
        if is_found {
            found = Some(at..at + batch.bytes);
        }
        !is_found
    });
    match (found, end) {
        (Some(range), _) => ReadPlan::Batches(range),
        (None, ScanEnd::NeedMore { from, bytes }) => ReadPlan::NeedMore { from, bytes },
        (None, ScanEnd::Damaged { at }) => ReadPlan::Damaged { at },
        (None, ScanEnd::Complete) => ReadPlan::NeedMore { from: chunk.len(), bytes: HEADER_BYTES },
    }
}
