//! The index of the active segment: in memory while batches go there, restored from its files after a restart.

use log::segment::{self, IndexMark, ScanEnd, SegmentIndex};
use types::Offset;

/// How much of a segment one step of the rescan reads.
const RESCAN_BYTES: usize = 256 * 1024;

/// What the index of the active segment needs to be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexRestore {
    /// Both index files of the segment, for [`crate::Partition::on_indexes_read`].
    ReadIndexes {
        /// The segment's base offset.
        segment: Offset,
    },
    /// A piece of the segment, for [`crate::Partition::on_rescan_read`].
    ReadSegment {
        /// The segment's base offset.
        segment: Offset,
        /// The first byte.
        position: u64,
        /// How many bytes.
        length: usize,
    },
}

/// A segment that does not hold what its partition remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("segment {segment} is damaged at byte {position}")]
pub struct SegmentDamaged {
    /// The segment's base offset.
    pub segment: Offset,
    /// Where.
    pub position: u64,
}

#[derive(Debug)]
pub(crate) enum ActiveIndex {
    /// There is no active segment.
    None,
    /// The segment was found after a restart.
    Unloaded { base: Offset, bytes: u64 },
    /// Its index is right up to `position`; what follows is being read.
    Scanning { index: SegmentIndex, written: IndexMark, position: u64, bytes: u64, length: usize },
    /// It is right. What stands before `written` is in its files, as far as a file that is not made durable can be.
    Ready { index: SegmentIndex, written: IndexMark },
}

impl ActiveIndex {
    pub(crate) fn begin(base: Offset) -> ActiveIndex {
        ActiveIndex::Ready { index: SegmentIndex::new(base), written: IndexMark::default() }
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self, ActiveIndex::Ready { .. })
    }

    pub(crate) fn index(&self) -> Option<&SegmentIndex> {
        match self {
            ActiveIndex::Ready { index, .. } => Some(index),
            _ => None,
        }
    }

    /// The index, and what of it the next write to its files need not repeat.
    pub(crate) fn ready_mut(&mut self) -> Option<(&mut SegmentIndex, &mut IndexMark)> {
        match self {
            ActiveIndex::Ready { index, written } => Some((index, written)),
            _ => None,
        }
    }

    pub(crate) fn plan_restore(&self) -> Option<IndexRestore> {
        match self {
            ActiveIndex::None | ActiveIndex::Ready { .. } => None,
            ActiveIndex::Unloaded { base, .. } => Some(IndexRestore::ReadIndexes { segment: *base }),
            ActiveIndex::Scanning { index, position, bytes, length, .. } => Some(IndexRestore::ReadSegment {
                segment: index.base(),
                position: *position,
                length: (*length).min(usize::try_from(bytes - position).expect("a segment ends below 4 GiB")),
            }),
        }
    }

    pub(crate) fn on_indexes_read(&mut self, offsets: &[u8], times: &[u8]) {
        let ActiveIndex::Unloaded { base, bytes } = *self else {
            unreachable!("index files are read while nothing is known of the index")
        };
        let durable = u32::try_from(bytes).expect("a segment ends below 4 GiB");
        let restored = segment::restore(base, offsets, times, durable);
        // What the files lack is written with the next batch, so that they have no holes once the segment is complete.
        let (written, index) = (restored.index.mark(), restored.index);
        *self = match u64::from(restored.rescan_from) {
            position if position == bytes => ActiveIndex::Ready { index, written },
            position => ActiveIndex::Scanning { index, written, position, bytes, length: RESCAN_BYTES },
        };
    }

    pub(crate) fn on_rescan_read(&mut self, chunk: &[u8]) -> Result<(), SegmentDamaged> {
        let ActiveIndex::Scanning { index, written, position, bytes, length } = self else {
            unreachable!("a segment is scanned while its index is being restored")
        };
        let from = u32::try_from(*position).expect("a segment ends below 4 GiB");
        let at_end = *position + chunk.len() as u64 >= *bytes;
        let damaged_at = match index.extend(chunk, from) {
            ScanEnd::Damaged { at } => Some(*position + at as u64),
            ScanEnd::NeedMore { from, .. } if at_end => Some(*position + from as u64),
            _ if chunk.is_empty() => Some(*position),
            ScanEnd::Complete => {
                *position += chunk.len() as u64;
                None
            }
            ScanEnd::NeedMore { from, bytes: needed } => {
                *position += from as u64;
                *length = needed.max(RESCAN_BYTES);
                None
            }
        };
        if let Some(at) = damaged_at {
            // The files are not made durable, so what they say of a segment may be wrong: once without them.
            let segment = index.base();
            if *written == IndexMark::default() {
                return Err(SegmentDamaged { segment, position: at });
            }
            let (index, bytes) = (SegmentIndex::new(segment), *bytes);
            let written = IndexMark::default();
            *self = ActiveIndex::Scanning { index, written, position: 0, bytes, length: RESCAN_BYTES };
            return Ok(());
        }
        if *position == *bytes {
            let ActiveIndex::Scanning { index, written, .. } = std::mem::replace(self, ActiveIndex::None)
            else {
                unreachable!("it was just matched")
            };
            *self = ActiveIndex::Ready { index, written };
        }
        Ok(())
    }
}
