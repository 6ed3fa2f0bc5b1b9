//! What raft-rs may read: the entries that are not yet compacted, and the hard state.

use std::cell::Cell;
use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};
use types::mutants::{Mutant, is_planted};

/// The retained tail of a group's log, all of it in memory.
///
/// Owner: its [`crate::Group`]. `compacted ≤ every entry's index`; entries are contiguous.
/// An entry is readable here as soon as it is handed to the WAL, before it is durable: raft-rs keeps
/// count of what is persisted by itself.
pub struct LogView {
    hard_state: HardState,
    conf_state: ConfState,
    compacted_index: u64,
    compacted_term: u64,
    entries: VecDeque<Entry>,
    /// For followers that need what is compacted; dropped once it is itself before the start of the log.
    snapshot: Option<Snapshot>,
    /// Raft asked for a snapshot and there was none.
    snapshot_wanted: Cell<bool>,
}

impl LogView {
    /// A log that starts behind `compacted_index` (0 and term 0 for a replica that has to be given all).
    pub fn new(conf_state: ConfState, compacted_index: u64, compacted_term: u64) -> LogView {
        LogView {
            hard_state: HardState::default(),
            conf_state,
            compacted_index,
            compacted_term,
            entries: VecDeque::new(),
            snapshot: None,
            snapshot_wanted: Cell::new(false),
        }
    }

    /// The members have changed. A snapshot from before would tell a newcomer that it is none.
    pub(crate) fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
        self.snapshot = None;
    }

    pub(crate) fn wants_snapshot(&self) -> bool {
        self.snapshot_wanted.get()
    }

    /// A snapshot of the state as of `index`.
    pub(crate) fn offer_snapshot(&mut self, index: u64, term: u64, state: Bytes) {
        assert!((self.compacted_index..=self.last()).contains(&index), "a snapshot meets the log");
        let mut snapshot = Snapshot { data: state, ..Snapshot::default() };
        snapshot.mut_metadata().index = index;
        snapshot.mut_metadata().term = term;
        snapshot.mut_metadata().set_conf_state(self.conf_state.clone());
        self.snapshot = Some(snapshot);
        self.snapshot_wanted.set(false);
    }

    /// The snapshot is out of date: another one is asked for.
    pub(crate) fn forget_snapshot(&mut self) {
        self.snapshot = None;
    }

    /// The leader's snapshot takes the place of the whole log.
    pub(crate) fn install(&mut self, index: u64, term: u64, conf_state: ConfState) {
        assert!(index > self.compacted_index, "a snapshot is newer than the log's start");
        self.entries.clear();
        self.compacted_index = index;
        self.compacted_term = term;
        self.set_conf_state(conf_state);
    }

    pub(crate) fn set_hard_state(&mut self, hard_state: HardState) {
        assert!(hard_state.term >= self.hard_state.term, "a term never goes back");
        self.hard_state = hard_state;
    }

    pub(crate) fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// Appends `entries`, which replace whatever stands at their indexes and behind (Raft paper, section 5.3).
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.compacted_index, "a compacted entry is committed and never replaced");
        assert!(first.index <= self.last() + 1, "entries follow one another");
        let keep = usize::try_from(first.index - self.compacted_index - 1).expect("fits memory");
        let replaced_to = match is_planted(Mutant::TruncateTooLittle) {
            true => self.entries.len().min(keep + entries.len()),
            false => self.entries.len(),
        };
        let behind = self.entries.split_off(replaced_to);
        self.entries.truncate(keep);
        self.entries.extend(entries.iter().cloned());
        self.entries.extend(behind);
    }

    /// Drops the entries up to `index`, which are durable elsewhere.
    pub(crate) fn compact(&mut self, index: u64) {
        assert!(index <= self.last(), "only entries that exist are compacted");
        while self.entries.front().is_some_and(|entry| entry.index <= index) {
            let entry = self.entries.pop_front().expect("it was just seen");
            self.compacted_index = entry.index;
            self.compacted_term = entry.term;
        }
        let compacted_index = self.compacted_index;
        self.snapshot.take_if(|snapshot| snapshot.get_metadata().index < compacted_index);
    }

    /// The index and term that the log starts behind.
    pub fn compacted(&self) -> (u64, u64) {
        (self.compacted_index, self.compacted_term)
    }

    pub(crate) fn entry(&self, index: u64) -> Option<&Entry> {
        let place = usize::try_from(index.checked_sub(self.compacted_index + 1)?).ok()?;
        self.entries.get(place)
    }

    fn last(&self) -> u64 {
        self.compacted_index + self.entries.len() as u64
    }

    fn position(&self, index: u64) -> usize {
        usize::try_from(index - self.compacted_index - 1).expect("fits memory")
    }
}

impl Storage for LogView {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.compacted_index {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last() + 1, "raft-rs asks only for entries it has seen");
        // The first entry goes whatever its size.
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0;
        let fitting = self.entries.range(self.position(low)..self.position(high)).enumerate().take_while(
            |(place, entry)| {
                bytes += (entry.data.len() + entry.context.len()) as u64;
                *place == 0 || bytes <= bytes_max
            },
        );
        Ok(fitting.map(|(_, entry)| entry.clone()).collect())
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.compacted_index {
            return Ok(self.compacted_term);
        }
        if index < self.compacted_index {
            return Err(Error::Store(StorageError::Compacted));
        }
        match self.entries.get(self.position(index)) {
            Some(entry) => Ok(entry.term),
            None => Err(Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.compacted_index + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    /// Raft asks again later when there is none yet.
    fn snapshot(&self, request_index: u64, _to: u64) -> Result<Snapshot> {
        match &self.snapshot {
            Some(snapshot) if snapshot.get_metadata().index >= request_index => Ok(snapshot.clone()),
            _ => {
                self.snapshot_wanted.set(true);
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}
