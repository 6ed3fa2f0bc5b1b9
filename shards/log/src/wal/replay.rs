//! One group's state, put together again from its records in WAL order.

use std::collections::VecDeque;

use bytes::Bytes;
use types::{LogIndex, Term};

use super::record::RecordRef;

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

#[derive(Clone, Copy, Debug)]
struct EntryRef<'a> {
    term: Term,
    entry_type: u8,
    context: &'a [u8],
    data: &'a [u8],
}

/// A group while its records are replayed. Nothing is copied out of the files before the end.
#[derive(Debug, Default)]
pub(super) struct GroupReplay<'a> {
    term: Term,
    vote: u64,
    commit: LogIndex,
    checkpoint: Option<(LogIndex, Term, &'a [u8])>,
    hard_state_file: Option<u64>,
    checkpoint_file: Option<u64>,
    /// The index of the first of `entries`; meaningless while there are none.
    first: u64,
    entries: VecDeque<EntryRef<'a>>,
    /// The committed entries that were there when all were written again, with the index of the first.
    rewritten: (u64, VecDeque<EntryRef<'a>>),
}

/// Why a group's records contradict each other, in plain words.
pub(super) type Contradiction = &'static str;

impl<'a> GroupReplay<'a> {
    /// Replays one record of the group; its removal is the caller's.
    pub(super) fn on_record(&mut self, file: u64, record: &RecordRef<'a>) -> Result<(), Contradiction> {
        match *record {
            RecordRef::Entry { term, index, entry_type, context, data, .. } => {
                self.on_entry(index, EntryRef { term, entry_type, context, data })
            }
            RecordRef::HardState { term, vote, commit, .. } => {
                if term < self.term {
                    return Err("the term of a hard state is below that of an earlier one");
                }
                self.term = term;
                self.vote = vote;
                self.commit = self.commit.max(commit);
                self.hard_state_file = Some(file);
                Ok(())
            }
            RecordRef::Checkpoint { index, term, state, .. } => {
                self.checkpoint_file = Some(file);
                self.on_checkpoint(index, term, state)
            }
            RecordRef::Truncated { from, .. } => {
                let kept = usize::try_from(from.0.saturating_sub(self.first)).unwrap_or(usize::MAX);
                self.entries.truncate(kept);
                Ok(())
            }
            RecordRef::GroupRemoved { .. } => Ok(()),
        }
    }

    fn on_entry(&mut self, index: LogIndex, entry: EntryRef<'a>) -> Result<(), Contradiction> {
        if index <= self.checkpointed() {
            return Err("an entry stands at or below the checkpoint written before it");
        }
        if index.0 == u64::MAX {
            return Err("the index of an entry is out of range");
        }
        // Files are recycled once a later checkpoint covers them, so the oldest one may begin with a checkpoint that
        // lags behind, and with entries that do not reach down to it or were replaced from further below since.
        // Replay starts at whatever index comes first; whether the entries reach the checkpoint is judged at the end.
        if self.entries.is_empty() || index.0 < self.first {
            // All entries behind the checkpoint are written again where the oldest file is wanted back that has the first of them.
            let committed = self.commit.0.saturating_add(1).saturating_sub(self.first);
            self.entries.truncate(usize::try_from(committed).unwrap_or(usize::MAX));
            self.rewritten = (self.first, std::mem::take(&mut self.entries));
            self.first = index.0;
        }
        let place = index.0 - self.first;
        match usize::try_from(place) {
            Ok(place) if place <= self.entries.len() => {
                let differs = |known: Option<&EntryRef<'a>>| known.is_some_and(|old| old.term != entry.term);
                let is_replaced = index <= self.commit && differs(self.entries.get(place));
                if is_replaced || differs(self.rewritten_at(index)) {
                    return Err("a committed entry was replaced by one of another term");
                }
                self.entries.truncate(place);
                self.entries.push_back(entry);
                Ok(())
            }
            _ => Err("entries are missing between two entries"),
        }
    }

    fn rewritten_at(&self, index: LogIndex) -> Option<&EntryRef<'a>> {
        let (first, entries) = &self.rewritten;
        entries.get(usize::try_from(index.0.checked_sub(*first)?).ok()?)
    }

    fn on_checkpoint(&mut self, index: LogIndex, term: Term, state: &'a [u8]) -> Result<(), Contradiction> {
        if let Some((previous_index, previous_term, _)) = self.checkpoint {
            if index < previous_index {
                return Err("a checkpoint is below an earlier one");
            }
            if index == previous_index && term != previous_term {
                return Err("two checkpoints of one index have different terms");
            }
        }
        if index.0 == u64::MAX {
            return Err("the index of a checkpoint is out of range");
        }
        self.checkpoint = Some((index, term, state));
        self.commit = self.commit.max(index);
        if self.entries.is_empty() || index.0 < self.first {
            return Ok(());
        }
        let covered = usize::try_from(index.0 - self.first).unwrap_or(usize::MAX);
        match self.entries.get(covered) {
            Some(entry) if entry.term != term => {
                return Err("a checkpoint has another term than the entry at its index");
            }
            Some(_) => {
                self.entries.drain(..=covered);
                self.first = index.0 + 1;
            }
            None => self.entries.clear(),
        }
        Ok(())
    }

    fn checkpointed(&self) -> LogIndex {
        self.checkpoint.map_or(LogIndex(0), |(index, ..)| index)
    }

    /// Checks the group as a whole and copies what it needs out of the files.
    pub(super) fn finish(self) -> Result<RecoveredGroup, Contradiction> {
        let checkpointed = self.checkpointed();
        if !self.entries.is_empty() && self.first != checkpointed.0 + 1 {
            return Err("entries are missing between the checkpoint and the first entry");
        }
        let last_index = LogIndex(checkpointed.0 + self.entries.len() as u64);
        if self.commit > last_index {
            return Err("the commit index is beyond the last entry");
        }
        let base_term = self.checkpoint.map_or(Term(0), |(_, term, _)| term);
        let terms = || self.entries.iter().map(|entry| entry.term);
        if !std::iter::once(base_term).chain(terms()).is_sorted() {
            return Err("the terms of the entries decrease");
        }
        if terms().next_back().is_some_and(|last_term| last_term > self.term) {
            return Err("the term of the last entry is above that of the hard state");
        }
        let own = |part: &[u8]| if part.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(part) };
        let entries = (self.first..).zip(&self.entries).map(|(index, entry)| Entry {
            term: entry.term,
            index: LogIndex(index),
            entry_type: entry.entry_type,
            context: own(entry.context),
            data: own(entry.data),
        });
        let checkpoint =
            self.checkpoint.map(|(index, term, state)| Checkpoint { index, term, state: own(state) });
        Ok(RecoveredGroup {
            term: self.term,
            vote: self.vote,
            commit: self.commit,
            checkpoint,
            entries: entries.collect(),
            state_file: self.hard_state_file.into_iter().chain(self.checkpoint_file).min(),
        })
    }
}
