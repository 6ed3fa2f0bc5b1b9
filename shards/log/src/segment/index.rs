//! The offset index and the time index of a segment.
//!
//! An entry of the offset index is (u32 offset relative to the base, u32 position), of the time index (i64 timestamp,
//! u32 relative offset), big-endian. An offset entry names the last offset of a batch and the position at which
//! that batch starts. A time entry (t, o) says: o ends the first batch that reaches t, and nothing up to
//! the offset entry written with it is later than t.

use protocol::batch::BatchHeader;
use types::Offset;
use types::limits::INDEX_INTERVAL_BYTES;
use types::mutants::{Mutant, is_planted};

use super::NO_TIMESTAMP;
use super::read::{BatchSpan, ScanEnd, walk};

/// The size of an entry of the offset index.
pub const OFFSET_ENTRY_BYTES: usize = 8;

/// The size of an entry of the time index.
pub const TIME_ENTRY_BYTES: usize = 12;

/// Relative offsets are Java integers, and so never negative there.
const RELATIVE_OFFSET_MAX: i64 = i32::MAX as i64;

/// Both indexes of one segment while it grows. Owned by the partition; filled as batches go to the
/// segment, and restored from the files and the segment's end after a restart.
///
/// `end_position` grows with every batch; entries only grow.
#[derive(Clone, Debug)]
pub struct SegmentIndex {
    base: Offset,
    offset_entries: Vec<u8>,
    time_entries: Vec<u8>,
    end_position: u32,
    last_offset: Option<Offset>,
    bytes_since_entry: usize,
    /// The highest timestamp and the last offset of the first batch that has it.
    max_timestamp: (i64, Offset),
}

/// A place in both indexes: what stands before it has been written to the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexMark {
    /// Bytes of the offset index.
    pub offset_index_bytes: usize,
    /// Bytes of the time index.
    pub time_index_bytes: usize,
}

impl SegmentIndex {
    /// The indexes of an empty segment.
    pub fn new(base: Offset) -> Self {
        assert!(base.0 >= 0, "a segment starts at an offset");
        SegmentIndex {
            base,
            offset_entries: Vec::new(),
            time_entries: Vec::new(),
            end_position: 0,
            last_offset: None,
            bytes_since_entry: 0,
            max_timestamp: (NO_TIMESTAMP, base),
        }
    }

    /// Takes note of a batch that goes to `position` of the segment and is `bytes` long there. Batches come without
    /// gaps and in the order of their offsets; [`SegmentList::plan_roll`](super::SegmentList::plan_roll)
    /// keeps those out that the segment cannot hold.
    pub fn on_batch(&mut self, header: &BatchHeader, position: u32, bytes: u32) {
        let span = BatchSpan::of(header).expect("only valid batches go to a segment");
        assert_eq!(span.bytes, bytes as usize, "a batch has the size that its header says");
        assert_eq!(position, self.end_position, "batches stand without gaps");
        assert!(self.accepts(&span), "a segment holds ascending offsets and positions below 4 GiB");
        self.add(span);
    }

    fn accepts(&self, span: &BatchSpan) -> bool {
        let follows = self.last_offset.map_or(span.base >= self.base, |last| span.base > last);
        let fits =
            u32::try_from(span.bytes).is_ok_and(|bytes| self.end_position.checked_add(bytes).is_some());
        follows && fits && can_hold_offset(self.base, span.last)
    }

    fn add(&mut self, span: BatchSpan) {
        if span.max_timestamp_ms > self.max_timestamp.0 {
            self.max_timestamp = (span.max_timestamp_ms, span.last);
        }
        if self.bytes_since_entry > INDEX_INTERVAL_BYTES {
            self.offset_entries.extend(self.relative(span.last).to_be_bytes());
            self.offset_entries.extend(self.end_position.to_be_bytes());
            self.add_time_entry();
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry += span.bytes;
        self.end_position += u32::try_from(span.bytes).expect("accepted batches fit");
        self.last_offset = Some(span.last);
    }

    fn add_time_entry(&mut self) {
        let (timestamp_ms, offset) = self.max_timestamp;
        if timestamp_ms > last_timestamp(&self.time_entries).unwrap_or(NO_TIMESTAMP) {
            self.time_entries.extend(timestamp_ms.to_be_bytes());
            self.time_entries.extend(self.relative(offset).to_be_bytes());
        }
    }

    fn relative(&self, offset: Offset) -> u32 {
        u32::try_from(offset.0 - self.base.0).expect("offsets of a segment are at or above its base")
    }

    /// Indexes the batches of `chunk`, which stands at `position` of the segment: the rescan after
    /// [`restore`], or the whole segment where an index file is lost. Cut-off batches are left for the next
    /// call, which starts where [`SegmentIndex::end_position`] then is. Reads arbitrary bytes without panicking.
    pub fn extend(&mut self, chunk: &[u8], position: u32) -> ScanEnd {
        assert_eq!(position, self.end_position, "chunks follow one another without gaps");
        let mut refused_at = None;
        let end = walk(chunk, |at, span| {
            if self.accepts(&span) && is_whole(&chunk[at..at + span.bytes]) {
                self.add(span);
            } else {
                refused_at = Some(at);
            }
            refused_at.is_none()
        });
        refused_at.map_or(end, |at| ScanEnd::Damaged { at })
    }

    /// Closes the time index with the segment's highest timestamp, as Kafka does when it rolls.
    /// Idempotent.
    pub fn seal(&mut self) {
        self.add_time_entry();
    }

    /// The segment's base offset.
    pub fn base(&self) -> Offset {
        self.base
    }

    /// The bytes of all batches so far: where the next one goes.
    pub fn end_position(&self) -> u32 {
        self.end_position
    }

    /// The offset behind the last batch; the base when there is none.
    pub fn end_offset(&self) -> Offset {
        self.last_offset.map_or(self.base, |last| Offset(last.0 + 1))
    }

    /// The highest timestamp so far, or [`NO_TIMESTAMP`].
    pub fn max_timestamp_ms(&self) -> i64 {
        self.max_timestamp.0
    }

    /// The whole offset index, as its file holds it.
    pub fn offset_index(&self) -> &[u8] {
        &self.offset_entries
    }

    /// The whole time index, as its file holds it.
    pub fn time_index(&self) -> &[u8] {
        &self.time_entries
    }

    /// Where both indexes end now.
    pub fn mark(&self) -> IndexMark {
        IndexMark { offset_index_bytes: self.offset_entries.len(), time_index_bytes: self.time_entries.len() }
    }

    /// What offset index and time index gained since `mark`, to be appended to their files.
    pub fn since(&self, mark: IndexMark) -> (&[u8], &[u8]) {
        (&self.offset_entries[mark.offset_index_bytes..], &self.time_entries[mark.time_index_bytes..])
    }

    /// Whether an index has reached `index_bytes_max` (Kafka's `segment.index.bytes`). The time index keeps room for
    /// the entry of [`SegmentIndex::seal`].
    pub(super) fn is_offset_index_full(&self, index_bytes_max: u32) -> bool {
        self.offset_entries.len() / OFFSET_ENTRY_BYTES >= index_bytes_max as usize / OFFSET_ENTRY_BYTES
    }

    pub(super) fn is_time_index_full(&self, index_bytes_max: u32) -> bool {
        self.time_entries.len() / TIME_ENTRY_BYTES + 1 >= index_bytes_max as usize / TIME_ENTRY_BYTES
    }
}

/// Whether a batch is what its checksum says: an index that speaks of other timestamps would stay wrong.
fn is_whole(batch: &[u8]) -> bool {
    BatchHeader::parse(batch).is_ok_and(|header| protocol::batch::check_crc(&header, batch).is_ok())
}

/// Whether a segment that starts at `base` can index `offset`.
pub(super) fn can_hold_offset(base: Offset, offset: Offset) -> bool {
    offset.0.checked_sub(base.0).is_some_and(|relative| (0..=RELATIVE_OFFSET_MAX).contains(&relative))
}

/// A segment's indexes as far as their files can be trusted.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The indexes up to `rescan_from`. Its [mark](SegmentIndex::mark) says where the files are to be cut off.
    pub index: SegmentIndex,
    /// The position in the segment from which its batches must go through [`SegmentIndex::extend`]. Where no
    /// valid batch stands there, the files were wrong: begin with [`SegmentIndex::new`] at position 0.
    pub rescan_from: u32,
}

/// Restores the indexes of the active segment from their files, of which `durable_bytes` of the segment itself are
/// trusted. The files may be torn, lack their end or reach beyond the segment.
///
/// Entries that are out of order or lie beyond the segment are dropped with all behind them. The rescan then
/// starts at the last position that both indexes vouch for: time entries may have been lost separately, and
/// the segment's highest timestamp decides over its deletion.
pub fn restore(base: Offset, index: &[u8], time_index: &[u8], durable_bytes: u32) -> Restored {
    let trusted_bytes = if is_planted(Mutant::IndexNotTruncated) { u32::MAX } else { durable_bytes };
    let offset_entries = valid_offset_entries(base, index, trusted_bytes);
    let indexed = offset_entries.last().map(|(offset, _)| *offset);
    let mut time_entries = valid_time_entries(base, time_index);
    time_entries.retain(|(_, offset)| indexed.is_some_and(|indexed| *offset <= indexed));
    if time_entries.first().is_some_and(|(_, offset)| *offset == base) {
        // The first entry, of which a crash left the beginning of the timestamp and zeros, looks like that too. Those behind
        // another would not ascend.
        time_entries.clear();
    }

    let mut restored = SegmentIndex::new(base);
    if let Some(latest) = time_entries.last() {
        // The offset entry that was written together with the latest time entry. It is written again by the rescan of
        // its batch; the time entry stays, because it may speak of a batch before that.
        let (number, (_, position)) = (0..)
            .zip(&offset_entries)
            .find(|(_, (offset, _))| *offset >= latest.1)
            .expect("time entries reach no further than the offset entries");
        restored.offset_entries = index[..number * OFFSET_ENTRY_BYTES].to_vec();
        restored.time_entries = time_index[..time_entries.len() * TIME_ENTRY_BYTES].to_vec();
        restored.max_timestamp = *latest;
        restored.end_position = *position;
        restored.last_offset = offset_entries[..number].last().map(|(offset, _)| *offset);
        restored.bytes_since_entry = INDEX_INTERVAL_BYTES + 1;
    }
    Restored { rescan_from: restored.end_position, index: restored }
}

/// Whether the index files of a sealed segment of `bytes` bytes can be used as they are. If not, both are rebuilt with
/// [`SegmentIndex::extend`] over the whole segment and [`SegmentIndex::seal`].
pub fn are_sealed_indexes_sane(base: Offset, index: &[u8], time_index: &[u8], bytes: u32) -> bool {
    let offset_entries = valid_offset_entries(base, index, bytes);
    let time_entries = valid_time_entries(base, time_index);
    offset_entries.len() * OFFSET_ENTRY_BYTES == index.len()
        && time_entries.len() * TIME_ENTRY_BYTES == time_index.len()
}

/// The longest prefix whose offsets and positions ascend and lie in the segment.
fn valid_offset_entries(base: Offset, index: &[u8], bytes: u32) -> Vec<(Offset, u32)> {
    let mut entries: Vec<(Offset, u32)> = Vec::new();
    for entry in index.as_chunks().0 {
        let (offset, position) = decode_offset_entry(base, entry);
        // The first entry is written behind at least one interval, so no position is 0.
        let follows = match entries.last() {
            Some(previous) => offset > previous.0 && position > previous.1,
            None => position > 0 && offset > base,
        };
        if !follows || position >= bytes || !can_hold_offset(base, offset) {
            break;
        }
        entries.push((offset, position));
    }
    entries
}

/// The longest prefix whose timestamps and offsets ascend.
fn valid_time_entries(base: Offset, time_index: &[u8]) -> Vec<(i64, Offset)> {
    let mut entries: Vec<(i64, Offset)> = Vec::new();
    for entry in time_index.as_chunks().0 {
        let (timestamp_ms, offset) = decode_time_entry(base, entry);
        let follows = match entries.last() {
            Some(previous) => timestamp_ms > previous.0 && offset > previous.1,
            // Twelve zero bytes are rather a hole that a crash left in the file than the year 1970.
            None => timestamp_ms > NO_TIMESTAMP && (timestamp_ms, offset) != (0, base),
        };
        if !follows || !can_hold_offset(base, offset) {
            break;
        }
        entries.push((timestamp_ms, offset));
    }
    entries
}

fn decode_offset_entry(base: Offset, entry: &[u8; OFFSET_ENTRY_BYTES]) -> (Offset, u32) {
    let [o0, o1, o2, o3, p0, p1, p2, p3] = *entry;
    let relative = u32::from_be_bytes([o0, o1, o2, o3]);
    (Offset(base.0.saturating_add(i64::from(relative))), u32::from_be_bytes([p0, p1, p2, p3]))
}

fn decode_time_entry(base: Offset, entry: &[u8; TIME_ENTRY_BYTES]) -> (i64, Offset) {
    let [t0, t1, t2, t3, t4, t5, t6, t7, o0, o1, o2, o3] = *entry;
    let relative = u32::from_be_bytes([o0, o1, o2, o3]);
    let timestamp_ms = i64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7]);
    (timestamp_ms, Offset(base.0.saturating_add(i64::from(relative))))
}

/// Where to begin to look for `target` in the segment: the position of the last indexed batch that ends at or before
/// `target`, or 0. `index` is an offset index in memory or mapped from its file.
pub fn position_for_offset(index: &[u8], base: Offset, target: Offset) -> u32 {
    let (entries, _) = index.as_chunks();
    let behind = entries.partition_point(|entry| decode_offset_entry(base, entry).0 <= target);
    if is_planted(Mutant::IndexEntryBehind) && behind < entries.len() {
        return decode_offset_entry(base, &entries[behind]).1;
    }
    behind.checked_sub(1).map_or(0, |last| decode_offset_entry(base, &entries[last]).1)
}

/// An offset below which nothing in the segment reaches `timestamp_ms`: that of the last time entry at or before it, or
/// the base. `time_index` is a time index in memory or mapped from its file.
pub fn offset_for_timestamp(time_index: &[u8], base: Offset, timestamp_ms: i64) -> Offset {
    let (entries, _) = time_index.as_chunks();
    let behind = entries.partition_point(|entry| decode_time_entry(base, entry).0 <= timestamp_ms);
    behind.checked_sub(1).map_or(base, |last| decode_time_entry(base, &entries[last]).1)
}

/// Where to begin to look for the first record at `timestamp_ms` or later whose offset is at least `start`
/// (Kafka's `LogSegment.findOffsetByTimestamp`).
pub fn position_for_timestamp(
    index: &[u8],
    time_index: &[u8],
    base: Offset,
    timestamp_ms: i64,
    start: Offset,
) -> u32 {
    let target = offset_for_timestamp(time_index, base, timestamp_ms).max(start);
    position_for_offset(index, base, target)
}

/// The last timestamp of a time index: the segment's highest one, if the segment is sealed.
pub fn last_timestamp(time_index: &[u8]) -> Option<i64> {
    let (entries, _) = time_index.as_chunks();
    entries.last().map(|entry| decode_time_entry(Offset(0), entry).0)
}
