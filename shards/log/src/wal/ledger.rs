//! Which groups still need which WAL file, and so which files may be recycled.

use std::collections::{BTreeMap, VecDeque};

use types::{GroupId, LogIndex};

use super::record::{Record, RecordNote};

/// The bookkeeping of one shard's WAL files. Owned by the shard; made by recovery and kept up to date with
/// every flush that became durable. A file counts from its first durable record on.
///
/// For each group and file it holds the range of entry indexes that are neither checkpointed nor replaced, and
/// for each group the files of its latest hard state and checkpoint. A file with none of these is free.
#[derive(Clone, Debug, Default)]
pub struct FileLedger {
    /// Ascending by sequence number; the last one is being written.
    files: VecDeque<FileUse>,
    groups: BTreeMap<GroupId, GroupUse>,
}

#[derive(Clone, Debug)]
struct FileUse {
    sequence: u64,
    /// Entry ranges and state records that live in the file.
    references: usize,
}

#[derive(Clone, Debug, Default)]
struct GroupUse {
    checkpoint: LogIndex,
    hard_state_file: Option<u64>,
    checkpoint_file: Option<u64>,
    /// Ascending by file and without overlap by index.
    ranges: VecDeque<EntryRange>,
}

#[derive(Clone, Copy, Debug)]
struct EntryRange {
    file: u64,
    first: LogIndex,
    highest: LogIndex,
}

/// Why the oldest file cannot be recycled yet. With both lists empty, it can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blockers {
    /// The oldest file's sequence number.
    pub file: u64,
    /// Groups with entries in the file that no checkpoint covers, each with the index that a checkpoint
    /// must reach. Ascending by group.
    pub entries: Vec<(GroupId, LogIndex)>,
    /// Groups whose latest hard state or checkpoint stands in the file and must be logged again. Ascending.
    pub states: Vec<GroupId>,
}

impl FileLedger {
    /// The ledger of a WAL without files.
    pub fn new() -> Self {
        FileLedger::default()
    }

    /// Takes note of a flush of the file `file_sequence`, given by its [notes](super::Flush::notes), once it is
    /// durable: before that, what its records supersede is still needed. Flushes come in their order.
    pub fn on_flush(&mut self, file_sequence: u64, notes: &[RecordNote]) {
        notes.iter().for_each(|note| self.on_record(file_sequence, note));
    }

    /// Takes note of one record of a durable flush. Records come in the order in which they stand in the WAL.
    pub fn on_record<B>(&mut self, file_sequence: u64, record: &Record<B>) {
        self.open_file(file_sequence);
        match record {
            Record::Entry { group, index, .. } => self.on_entry(file_sequence, *group, *index),
            Record::HardState { group, .. } => {
                let previous = self.groups.entry(*group).or_default().hard_state_file.replace(file_sequence);
                self.move_reference(previous, file_sequence);
            }
            Record::Checkpoint { group, index, .. } => {
                let previous = self.groups.entry(*group).or_default().checkpoint_file.replace(file_sequence);
                self.move_reference(previous, file_sequence);
                self.drop_entries_up_to(*group, *index);
            }
            Record::Truncated { group, from } => {
                let FileLedger { files, groups } = self;
                if let Some(used) = groups.get_mut(group) {
                    truncate_ranges(files, used, *from);
                }
            }
            Record::GroupRemoved { group } => self.on_group_removed(*group),
        }
    }

    fn open_file(&mut self, sequence: u64) {
        let newest = self.files.back().map(|file| file.sequence);
        assert!(newest.is_none_or(|newest| newest <= sequence), "WAL files are written in ascending order");
        if newest != Some(sequence) {
            self.files.push_back(FileUse { sequence, references: 0 });
        }
    }

    fn on_entry(&mut self, file: u64, group: GroupId, index: LogIndex) {
        let FileLedger { files, groups } = self;
        let used = groups.entry(group).or_default();
        assert!(index > used.checkpoint, "no entry is written at or below the checkpoint");
        let mut first = index;
        truncate_ranges(files, used, index);
        if let Some(range) = used.ranges.back()
            && range.file == file
        {
            first = range.first;
            used.ranges.pop_back();
        } else {
            retain(files, file);
        }
        used.ranges.push_back(EntryRange { file, first, highest: index });
    }

    fn drop_entries_up_to(&mut self, group: GroupId, index: LogIndex) {
        let FileLedger { files, groups } = self;
        let Some(used) = groups.get_mut(&group) else { return };
        used.checkpoint = used.checkpoint.max(index);
        while let Some(range) = used.ranges.front()
            && range.highest <= index
        {
            release(files, range.file);
            used.ranges.pop_front();
        }
        if let Some(range) = used.ranges.front_mut() {
            range.first = range.first.max(index.next());
        }
    }

    fn move_reference(&mut self, from: Option<u64>, to: u64) {
        retain(&mut self.files, to);
        if let Some(from) = from {
            release(&mut self.files, from);
        }
    }

    fn on_group_removed(&mut self, group: GroupId) {
        let FileLedger { files, groups } = self;
        let Some(used) = groups.remove(&group) else { return };
        let states = used.hard_state_file.into_iter().chain(used.checkpoint_file);
        for file in states.chain(used.ranges.iter().map(|range| range.file)) {
            release(files, file);
        }
    }

    /// What keeps the oldest file; `None` when no file but the one being written is in use.
    pub fn oldest_blockers(&self) -> Option<Blockers> {
        if self.files.len() < 2 {
            return None;
        }
        let file = self.files.front()?.sequence;
        let mut blockers = Blockers { file, entries: Vec::new(), states: Vec::new() };
        for (group, used) in &self.groups {
            if let Some(range) = used.ranges.front()
                && range.file == file
            {
                blockers.entries.push((*group, range.highest));
            }
            if used.hard_state_file == Some(file) || used.checkpoint_file == Some(file) {
                blockers.states.push(*group);
            }
        }
        Some(blockers)
    }

    /// The files that hold nothing of use, oldest first. A file behind one that is still needed is not
    /// among them, nor is the newest: the files in use stay a row without gaps.
    pub fn recyclable(&self) -> impl Iterator<Item = u64> {
        let but_newest = self.files.len().saturating_sub(1);
        self.files.iter().take(but_newest).take_while(|file| file.references == 0).map(|file| file.sequence)
    }

    /// Forgets the oldest file, which must be [recyclable](FileLedger::recyclable), when it gets its new name.
    pub fn on_recycled(&mut self, file_sequence: u64) {
        assert!(self.files.len() > 1, "the file being written is not recycled");
        let oldest = self.files.pop_front().expect("more than one file is in use");
        assert_eq!(oldest.sequence, file_sequence, "files are recycled oldest first");
        assert_eq!(oldest.references, 0, "a file that is needed is not recycled");
    }

    /// The sequence numbers of the files in use, ascending.
    pub fn files(&self) -> impl ExactSizeIterator<Item = u64> {
        self.files.iter().map(|file| file.sequence)
    }

    /// Asserts what must hold between any two calls: reference counts are those of the groups' ranges and
    /// states, and ranges ascend without overlap above the checkpoint. Linear in groups and ranges.
    pub fn assert_consistent(&self) {
        let mut references: BTreeMap<u64, usize> = self.files.iter().map(|file| (file.sequence, 0)).collect();
        let mut count = |file: u64| {
            *references.get_mut(&file).expect("every file that is referred to is in use") += 1;
        };
        for used in self.groups.values() {
            used.hard_state_file.into_iter().chain(used.checkpoint_file).for_each(&mut count);
            let mut below = used.checkpoint;
            let mut file_below = 0;
            for range in &used.ranges {
                count(range.file);
                assert!(below < range.first && range.first <= range.highest);
                assert!(file_below < range.file);
                (below, file_below) = (range.highest, range.file);
            }
        }
        for file in &self.files {
            assert_eq!(references[&file.sequence], file.references);
        }
        assert!(self.files.iter().is_sorted_by(|a, b| a.sequence < b.sequence));
    }
}

/// Drops what lies at `from` and above, whichever file it stands in.
fn truncate_ranges(files: &mut VecDeque<FileUse>, used: &mut GroupUse, from: LogIndex) {
    while let Some(range) = used.ranges.back_mut()
        && range.highest >= from
    {
        if range.first < from {
            range.highest = LogIndex(from.0 - 1);
            break;
        }
        release(files, range.file);
        used.ranges.pop_back();
    }
}

fn retain(files: &mut VecDeque<FileUse>, sequence: u64) {
    file_use(files, sequence).references += 1;
}

fn release(files: &mut VecDeque<FileUse>, sequence: u64) {
    let file = file_use(files, sequence);
    assert!(file.references > 0, "a reference is released once");
    file.references -= 1;
}

/// Newest first: most references go to the file being written, and files are few.
fn file_use(files: &mut VecDeque<FileUse>, sequence: u64) -> &mut FileUse {
    files
        .iter_mut()
        .rev()
        .find(|file| file.sequence == sequence)
        .expect("a file that is referred to is in use")
}
