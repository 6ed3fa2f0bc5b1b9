//! The tombstones of one step, in writes that fit in batches.

use std::sync::Arc;

use types::limits::BATCH_BYTES_MAX;

use crate::records::{
    OffsetKey, group_tombstone, group_tombstone_bytes, offset_tombstone, offset_tombstone_bytes,
};
use crate::{CoordinatorRecord, WRITE_BYTES_MAX};

/// Tombstones of one write.
const RECORDS_PER_WRITE: usize = 1_000;

/// Bytes of one write, so that it finds room beside others; a tombstone that is larger goes alone.
const BYTES_PER_WRITE: usize = BATCH_BYTES_MAX / 4;

/// Bytes of one step. Each tombstone has the whole name of its group, and there may be millions: those of more than this
/// would neither fit in memory nor find room in the log, so the rest is for another step.
const BYTES_PER_STEP: usize = BATCH_BYTES_MAX / 2;

const _: () = assert!(BYTES_PER_WRITE <= WRITE_BYTES_MAX);

/// Collects tombstones until a step has enough.
#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    writes: Vec<TombstoneWrite>,
    bytes_of_last: usize,
    bytes: usize,
    is_full: bool,
}

/// What is removed by one write.
#[derive(Debug, Default)]
pub(crate) struct TombstoneWrite {
    pub records: Vec<CoordinatorRecord>,
    pub groups: Vec<Arc<str>>,
    /// How many of the records are for offsets.
    pub offsets: u64,
}

impl Tombstones {
    /// Whether something was left out, for another step.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    pub fn push_offset(&mut self, key: &OffsetKey) {
        if let Some(write) = self.write_for(offset_tombstone_bytes(&key.group, &key.topic)) {
            write.records.push(offset_tombstone(key));
            write.offsets += 1;
        }
    }

    pub fn push_group(&mut self, group: Arc<str>) {
        if let Some(write) = self.write_for(group_tombstone_bytes(&group)) {
            write.records.push(group_tombstone(&group));
            write.groups.push(group);
        }
    }

    pub fn into_writes(self) -> Vec<TombstoneWrite> {
        self.writes
    }

    /// The write that takes the next record. Once one was left out all are, so that no group goes before its offsets.
    fn write_for(&mut self, bytes: usize) -> Option<&mut TombstoneWrite> {
        self.is_full |= self.bytes + bytes > BYTES_PER_STEP;
        if self.is_full {
            return None;
        }
        let fits = self.writes.last().is_some_and(|last| {
            last.records.len() < RECORDS_PER_WRITE && self.bytes_of_last + bytes <= BYTES_PER_WRITE
        });
        if !fits {
            self.writes.push(TombstoneWrite::default());
            self.bytes_of_last = 0;
        }
        self.bytes += bytes;
        self.bytes_of_last += bytes;
        self.writes.last_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::STRING_BYTES_MAX;

    fn key(group: &Arc<str>, partition: i32) -> OffsetKey {
        OffsetKey { group: Arc::clone(group), topic: Arc::from("t"), partition }
    }

    /// The records of each write, and whether the step left something out.
    fn collect(group: &str, offsets: i32) -> (Vec<usize>, bool) {
        let group = Arc::from(group);
        let mut tombstones = Tombstones::default();
        for partition in 0..offsets {
            tombstones.push_offset(&key(&group, partition));
        }
        tombstones.push_group(group);
        let is_full = tombstones.is_full();
        let writes = tombstones.into_writes();
        for write in &writes {
            let bytes: usize = write.records.iter().map(CoordinatorRecord::batch_bytes_max).sum();
            assert!(bytes <= BYTES_PER_WRITE, "{bytes} bytes in one write");
            assert_eq!(write.records.len() as u64, write.offsets + write.groups.len() as u64);
        }
        let removes_group = writes.iter().any(|write| !write.groups.is_empty());
        assert_ne!(removes_group, is_full, "a group stays while offsets of it are left out");
        (writes.iter().map(|write| write.records.len()).collect(), is_full)
    }

    #[test]
    fn writes_are_bounded_by_records_and_by_bytes_and_so_is_a_step() {
        assert_eq!(collect("g", 3), (vec![4], false));
        assert_eq!(collect("g", 2_000), (vec![1_000, 1_000, 1], false));
        let long = "g".repeat(STRING_BYTES_MAX);
        assert_eq!(collect(&long, 254), (vec![127, 127, 1], false));
        assert_eq!(collect(&long, 255), (vec![127, 127, 1], true));
        assert_eq!(collect(&long, 10_000), (vec![127, 127, 1], true));
    }
}
