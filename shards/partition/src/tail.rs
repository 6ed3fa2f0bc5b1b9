//! Batches in memory: all that are committed and not yet in a segment, and those before them that the
//! cache still has room for.

use std::collections::VecDeque;

use bytes::Bytes;
use types::{LogIndex, Offset};

/// One committed batch in memory.
#[derive(Clone, Debug)]
pub struct TailBatch {
    /// Offset of its first record.
    pub base: Offset,
    /// Offset of its last record.
    pub last: Offset,
    /// The Raft entry that brought it.
    pub index: LogIndex,
    /// Its largest timestamp.
    pub max_timestamp_ms: i64,
    /// The batch, header first.
    pub bytes: Bytes,
}

/// What a batch takes beside its bytes: its place in the tail, and that of its entry in the log view.
const BATCH_OVERHEAD_BYTES: usize = 256;

/// The batches in memory, contiguous, oldest first. `flushed` of them, at the front, are in a segment too.
#[derive(Debug, Default)]
pub struct Tail {
    batches: VecDeque<TailBatch>,
    flushed: usize,
    unflushed_bytes: usize,
}

impl Tail {
    /// Appends a batch that was just committed.
    pub fn push(&mut self, batch: TailBatch) {
        assert!(
            self.batches.back().is_none_or(|before| before.last.0 + 1 == batch.base.0),
            "offsets are contiguous"
        );
        self.unflushed_bytes += batch.bytes.len();
        self.batches.push_back(batch);
    }

    /// The first offset that is in memory.
    pub fn start(&self) -> Option<Offset> {
        self.batches.front().map(|batch| batch.base)
    }

    /// Bytes of batches that are in no segment yet.
    pub fn unflushed_bytes(&self) -> usize {
        self.unflushed_bytes
    }

    /// The batches that are in no segment yet.
    pub fn unflushed(&self) -> impl Iterator<Item = &TailBatch> {
        self.batches.range(self.flushed..)
    }

    /// All batches from the one that holds `offset`.
    pub fn from(&self, offset: Offset) -> impl Iterator<Item = &TailBatch> {
        let first = self.batches.partition_point(|batch| batch.last < offset);
        self.batches.range(first..)
    }

    /// Batches up to `last` are in a segment now. Returns how much memory they take.
    pub fn on_flushed(&mut self, last: Offset) -> usize {
        let mut memory = 0;
        while let Some(batch) = self.batches.get(self.flushed).filter(|batch| batch.last <= last) {
            self.unflushed_bytes -= batch.bytes.len();
            memory += memory_bytes(batch);
            self.flushed += 1;
        }
        memory
    }

    /// Drops flushed batches from the front until so much memory is free or none is left. Returns the entry that brought
    /// the last one.
    pub fn evict(&mut self, memory: usize) -> Option<LogIndex> {
        let mut gone = 0;
        let mut last = None;
        while gone < memory && self.flushed > 0 {
            let batch = self.batches.pop_front().expect("flushed batches are in the list");
            gone += memory_bytes(&batch);
            last = Some(batch.index);
            self.flushed -= 1;
        }
        if self.batches.is_empty() {
            self.batches.shrink_to_fit();
        }
        last
    }
}

/// What a batch takes in memory, with its place here and in the group's log.
fn memory_bytes(batch: &TailBatch) -> usize {
    batch.bytes.len() + BATCH_OVERHEAD_BYTES
}
