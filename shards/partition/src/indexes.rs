//! The index of the active segment: in memory while batches go there, restored from its files after a restart.

use log::segment::{self, ScanEnd, SegmentIndex};
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
    Scanning { index: SegmentIndex, position: u64, bytes: u64, length: usize },
    /// It is right.
    Ready(SegmentIndex),
}

impl ActiveIndex {
    pub(crate) fn begin(base: Offset) -> ActiveIndex {
        ActiveIndex::Ready(SegmentIndex::new(base))
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self, ActiveIndex::Ready(_))
    }

    pub(crate) fn index(&self) -> Option<&SegmentIndex> {
        match self {
            ActiveIndex::Ready(index) => Some(index),
            _ => None,
        }
    }

    pub(crate) fn index_mut(&mut self) -> Option<&mut SegmentIndex> {
        match self {
            ActiveIndex::Ready(index) => Some(index),
            _ => None,
        }
    }

    pub(crate) fn plan_restore(&self) -> Option<IndexRestore> {
        match self {
            ActiveIndex::None | ActiveIndex::Ready(_) => None,
            ActiveIndex::Unloaded { base, .. } => Some(IndexRestore::ReadIndexes { segment: *base }),
            ActiveIndex::Scanning { index, position, bytes, length } => Some(IndexRestore::ReadSegment {
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
        *self = match u64::from(restored.rescan_from) {
            position if position == bytes => ActiveIndex::Ready(restored.index),
            position => {
                ActiveIndex::Scanning { index: restored.index, position, bytes, length: RESCAN_BYTES }
            }
        };
    }

    pub(crate) fn on_rescan_read(&mut self, chunk: &[u8]) -> Result<(), SegmentDamaged> {
        let ActiveIndex::Scanning { index, position, bytes, length } = self else {
            unreachable!("a segment is scanned while its index is being restored")
        };
        let segment = index.base();
        let damaged = |position: u64| Err(SegmentDamaged { segment, position });
        let from = u32::try_from(*position).expect("a segment ends below 4 GiB");
        let at_end = *position + chunk.len() as u64 >= *bytes;
        match index.extend(chunk, from) {
            ScanEnd::Damaged { at } => return damaged(*position + at as u64),
            ScanEnd::Complete => *position += chunk.len() as u64,
            ScanEnd::NeedMore { from, .. } if at_end => return damaged(*position + from as u64),
            ScanEnd::NeedMore { from, bytes: needed } => {
                *position += from as u64;
                *length = needed.max(RESCAN_BYTES);
            }
        }
        if chunk.is_empty() {
            return damaged(*position);
        }
        if *position == *bytes {
            let ActiveIndex::Scanning { index, .. } = std::mem::replace(self, ActiveIndex::None) else {
                unreachable!("it was just matched")
            };
            *self = ActiveIndex::Ready(index);
        }
        Ok(())
    }
}
