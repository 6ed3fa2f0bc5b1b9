//! One group's state, put together again from its records in WAL order.

use std::collections::VecDeque;

use bytes::Bytes;
use types::{LogIndex, Term};

use super::record::{Record, RecordRef};

/// What the WAL knows of one group. `checkpoint.index ≤ commit ≤ last index`, and `term` is at least that of
/// the last entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// The term of the latest hard state; 0 when there is none.
    pub term: Term,
    /// The vote of the latest hard state: a Raft id, or 0.
    pub vote: u64,
    /// The highest index known to be committed: by the hard states, or because it is checkpointed.
    pub commit: LogIndex,
    /// The latest checkpoint; without one the group's log starts at index 1.
    pub checkpoint: Option<Checkpoint>,
    /// The entries behind the checkpoint, without gaps.
    pub entries: Vec<Entry>,
    /// The older of the files that hold the latest hard state and the latest checkpoint: it must stay
    /// until both are logged again. `None` when the group has neither.
    pub state_file: Option<u64>,
}

impl RecoveredGroup {
    /// The index of the last entry, or that of the checkpoint when no entry follows it.
    pub fn last_index(&self) -> LogIndex {
        let checkpointed = self.checkpoint.as_ref().map_or(LogIndex(0), |checkpoint| checkpoint.index);
        self.entries.last().map_or(checkpointed, |entry| entry.index)
    }
}

/// A checkpoint, as [`Record::Checkpoint`](super::Record::Checkpoint) describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last index that is durable outside the WAL.
    pub index: LogIndex,
    /// The term of the entry at `index`.
    pub term: Term,
    /// The owner's state; opaque here.
    pub state: Bytes,
}

/// A Raft entry, as [`Record::Entry`](super::Record::Entry) describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The term in which a leader created it.
    pub term: Term,
    /// Its position in the group's log.
    pub index: LogIndex,
    /// raft-rs's `EntryType` as a number.
    pub entry_type: u8,
    /// The descriptor; opaque here.
    pub context: Bytes,
    /// The payload; opaque here.
    pub data: Bytes,
}

/// A group while its records are replayed. What it will need is copied out of the files at once, so that one file at a time
/// need be in memory.
#[derive(Debug, Default)]
pub(super) struct GroupReplay {
    term: Term,
    vote: u64,
    commit: LogIndex,
    checkpoint: Option<Checkpoint>,
    hard_state_file: Option<u64>,
    checkpoint_file: Option<u64>,
    /// Behind the first one without gaps.
    entries: VecDeque<Entry>,
    /// The committed entries that were there when all were written again.
    rewritten: VecDeque<(LogIndex, Term)>,
}

fn own(part: &[u8]) -> Bytes {
    if part.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(part) }
}

/// Why a group's records contradict each other, in plain words.
pub(super) type Contradiction = &'static str;

impl GroupReplay {
    /// Replays one record of the group; its removal is the caller's.
    pub(super) fn on_record(&mut self, file: u64, record: &RecordRef<'_>) -> Result<(), Contradiction> {
        match *record {
            Record::Entry { term, index, entry_type, context, data, .. } => {
                self.make_place(index, term)?;
                let (context, data) = (own(context), own(data));
                self.entries.push_back(Entry { term, index, entry_type, context, data });
                Ok(())
            }
            Record::HardState { term, vote, commit, .. } => {
                if term < self.term {
                    return Err("the term of a hard state is below that of an earlier one");
                }
                self.term = term;
                self.vote = vote;
                self.commit = self.commit.max(commit);
                self.hard_state_file = Some(file);
                Ok(())
            }
            Record::Checkpoint { index, term, state, .. } => {
                self.checkpoint_file = Some(file);
                self.on_checkpoint(index, term, state)
            }
            Record::Truncated { from, .. } => {
                let kept = self.entries.partition_point(|entry| entry.index < from);
                self.entries.truncate(kept);
                Ok(())
            }
            Record::GroupRemoved { .. } => Ok(()),
        }
    }

    /// An entry comes: those that it replaces go.
    fn make_place(&mut self, index: LogIndex, term: Term) -> Result<(), Contradiction> {
        if index <= self.checkpointed() {
            return Err("an entry stands at or below the checkpoint written before it");
        }
        if index.0 == u64::MAX {
            return Err("the index of an entry is out of range");
        }
        // Files are recycled once a later checkpoint covers them, so the oldest one may begin with a checkpoint that
        // lags behind, and with entries that do not reach down to it or were replaced from further below since.
        // Replay starts at whatever index comes first; whether the entries reach the checkpoint is judged at the end.
        let Some(first) = self.entries.front().map(|entry| entry.index).filter(|first| *first <= index)
        else {
            // All entries behind the checkpoint are written again where the oldest file is wanted back that has the first of them.
            let committed = self.entries.drain(..).take_while(|entry| entry.index <= self.commit);
            self.rewritten = committed.map(|entry| (entry.index, entry.term)).collect();
            return if self.is_rewritten_with(index, term) { Ok(()) } else { Err(REPLACED) };
        };
        match usize::try_from(index.0 - first.0) {
            Ok(place) if place <= self.entries.len() => {
                let is_other = self.entries.get(place).is_some_and(|old| old.term != term);
                if (index <= self.commit && is_other) || !self.is_rewritten_with(index, term) {
                    return Err(REPLACED);
                }
                self.entries.truncate(place);
                Ok(())
            }
            _ => Err("entries are missing between two entries"),
        }
    }

    /// Whether the entry is the one that was rewritten, if one was.
    fn is_rewritten_with(&self, index: LogIndex, term: Term) -> bool {
        let known = self.rewritten.binary_search_by_key(&index, |(rewritten, _)| *rewritten);
        known.is_ok_and(|place| self.rewritten[place].1 == term) || known.is_err()
    }

    fn on_checkpoint(&mut self, index: LogIndex, term: Term, state: &[u8]) -> Result<(), Contradiction> {
        if let Some(previous) = &self.checkpoint {
            if index < previous.index {
                return Err("a checkpoint is below an earlier one");
            }
            if index == previous.index && term != previous.term {
                return Err("two checkpoints of one index have different terms");
            }
        }
        if index.0 == u64::MAX {
            return Err("the index of a checkpoint is out of range");
        }
        self.checkpoint = Some(Checkpoint { index, term, state: own(state) });
        self.commit = self.commit.max(index);
        let covered = self.entries.partition_point(|entry| entry.index <= index);
        let at_index = covered.checked_sub(1).map(|last| &self.entries[last]);
        if at_index.is_some_and(|entry| entry.index == index && entry.term != term) {
            return Err("a checkpoint has another term than the entry at its index");
        }
        self.entries.drain(..covered);
        Ok(())
    }

    fn checkpointed(&self) -> LogIndex {
        self.checkpoint.as_ref().map_or(LogIndex(0), |checkpoint| checkpoint.index)
    }

    /// Checks the group as a whole.
    pub(super) fn finish(self) -> Result<RecoveredGroup, Contradiction> {
        let checkpointed = self.checkpointed();
        if self.entries.front().is_some_and(|first| first.index.0 != checkpointed.0 + 1) {
            return Err("entries are missing between the checkpoint and the first entry");
        }
        let last_index = LogIndex(checkpointed.0 + self.entries.len() as u64);
        if self.commit > last_index {
            return Err("the commit index is beyond the last entry");
        }
        let base_term = self.checkpoint.as_ref().map_or(Term(0), |checkpoint| checkpoint.term);
        let terms = || self.entries.iter().map(|entry| entry.term);
        if !std::iter::once(base_term).chain(terms()).is_sorted() {
            return Err("the terms of the entries decrease");
        }
        if terms().next_back().is_some_and(|last_term| last_term > self.term) {
            return Err("the term of the last entry is above that of the hard state");
        }
        Ok(RecoveredGroup {
            term: self.term,
            vote: self.vote,
            commit: self.commit,
            checkpoint: self.checkpoint,
            entries: self.entries.into(),
            state_file: self.hard_state_file.into_iter().chain(self.checkpoint_file).min(),
        })
    }
}

const REPLACED: Contradiction = "a committed entry was replaced by one of another term";
