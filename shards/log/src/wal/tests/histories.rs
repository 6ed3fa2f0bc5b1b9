//! A shard's life, at random: several groups, flushes over many files that are recycled, then a fault.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;
use types::limits::BLOCK_BYTES;

use super::*;
use crate::wal::{Checkpoint, Entry, FileLedger, RecoveredGroup};

const FILE_BYTES: usize = 6 * BLOCK_BYTES;

#[derive(Clone, Debug)]
enum Op {
    Append { group: u64, rewind: u64, data: Vec<usize> },
    Commit { group: u64, to: Index },
    Checkpoint { group: u64, to: Index },
    InstallSnapshot { group: u64, ahead: u64 },
    Truncate { group: u64, kept: Index },
    Remove { group: u64 },
    Relieve,
}

fn op() -> impl Strategy<Value = Op> {
    let group = || 1..4u64;
    let bytes = || prop_oneof![Just(0usize), 1..100usize, 1_000..3_000usize];
    prop_oneof![
        6 => (group(), 0..4u64, proptest::collection::vec(bytes(), 1..3))
            .prop_map(|(group, rewind, data)| Op::Append { group, rewind, data }),
        4 => (group(), any::<Index>()).prop_map(|(group, to)| Op::Commit { group, to }),
        3 => (group(), any::<Index>()).prop_map(|(group, to)| Op::Checkpoint { group, to }),
        1 => (group(), 1..5u64).prop_map(|(group, ahead)| Op::InstallSnapshot { group, ahead }),
        1 => (group(), any::<Index>()).prop_map(|(group, kept)| Op::Truncate { group, kept }),
        1 => group().prop_map(|group| Op::Remove { group }),
        3 => Just(Op::Relieve),
    ]
}

fn history() -> impl Strategy<Value = Vec<Vec<Op>>> {
    proptest::collection::vec(proptest::collection::vec(op(), 1..4), 1..60)
}

/// What a group is expected to be after recovery.
type Groups = BTreeMap<GroupId, RecoveredGroup>;

fn empty_group() -> RecoveredGroup {
    RecoveredGroup {
        term: Term(1),
        vote: 1,
        commit: LogIndex(0),
        checkpoint: None,
        entries: Vec::new(),
        state_file: None,
    }
}

#[derive(Debug, Default)]
struct World {
    groups: Groups,
    /// Files of the latest hard state and checkpoint of each group.
    state_files: BTreeMap<GroupId, (Option<u64>, Option<u64>)>,
    ledger: FileLedger,
    /// Ascending by sequence number; the last one is being written.
    files: Vec<(u64, Vec<u8>)>,
    position: usize,
    /// Where each flush starts and ends, header to padding: (file, from, to, bytes without padding).
    flushes: Vec<(u64, usize, usize, usize)>,
    /// The groups after each flush; the first element stands before flush 1.
    states: Vec<Groups>,
}

impl World {
    fn live(history: &[Vec<Op>]) -> World {
        let mut world = World { states: vec![Groups::new()], ..World::default() };
        for ops in history {
            let records: Vec<_> = ops.iter().flat_map(|op| world.apply(op)).collect();
            if !records.is_empty() {
                world.flush(&records);
            }
        }
        world
    }

    fn hard_state_of(group: GroupId, state: &RecoveredGroup) -> Record {
        Record::HardState { group, term: state.term, vote: state.vote, commit: state.commit }
    }

    fn apply(&mut self, op: &Op) -> Vec<Record> {
        match op {
            Op::Append { group, rewind, data } => self.append(GroupId(*group), *rewind, data),
            Op::Commit { group, to } => {
                let group = GroupId(*group);
                let Some(state) = self.groups.get_mut(&group) else { return Vec::new() };
                let room = state.last_index().0 - state.commit.0;
                state.commit.0 += to.index(room as usize + 1) as u64;
                vec![World::hard_state_of(group, state)]
            }
            Op::Checkpoint { group, to } => {
                let group = GroupId(*group);
                let Some(state) = self.groups.get(&group) else { return Vec::new() };
                let first = state.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.index.0);
                let index = first + to.index((state.commit.0 - first) as usize + 1) as u64;
                self.checkpoint(group, LogIndex(index))
            }
            Op::InstallSnapshot { group, ahead } => self.install_snapshot(GroupId(*group), *ahead),
            Op::Truncate { group, kept } => {
                let group = GroupId(*group);
                let Some(state) = self.groups.get_mut(&group) else { return Vec::new() };
                let room = state.last_index().0 - state.commit.0;
                let from = LogIndex(state.commit.0 + 1 + kept.index(room as usize + 1) as u64);
                state.entries.retain(|entry| entry.index < from);
                vec![Record::Truncated { group, from }]
            }
            Op::Remove { group } => {
                self.groups.remove(&GroupId(*group));
                vec![removed(*group)]
            }
            Op::Relieve => self.relieve(),
        }
    }

    fn append(&mut self, group: GroupId, rewind: u64, data: &[usize]) -> Vec<Record> {
        let state = self.groups.entry(group).or_insert_with(empty_group);
        let start = (state.last_index().0 + 1).saturating_sub(rewind).max(state.commit.0 + 1);
        if start <= state.last_index().0 {
            state.term.0 += 1;
            state.vote = start % 3;
        }
        state.entries.retain(|entry| entry.index.0 < start);
        let mut records = vec![World::hard_state_of(group, state)];
        for (index, bytes) in (start..).zip(data) {
            let entry = Entry {
                term: state.term,
                index: LogIndex(index),
                entry_type: (index % 3) as u8,
                context: Bytes::from(vec![1; bytes % 40]),
                data: Bytes::from(vec![index as u8; *bytes]),
            };
            let Entry { term, index, entry_type, context, data } = entry.clone();
            records.push(Record::Entry { group, term, index, entry_type, context, data });
            state.entries.push(entry);
        }
        records
    }

    fn checkpoint(&mut self, group: GroupId, index: LogIndex) -> Vec<Record> {
        let state = self.groups.get_mut(&group).expect("the group is there");
        let term = match state.entries.iter().find(|entry| entry.index == index) {
            Some(entry) => entry.term,
            None => state.checkpoint.as_ref().map_or(Term(0), |checkpoint| checkpoint.term),
        };
        state.entries.retain(|entry| entry.index > index);
        let checkpoint = Checkpoint { index, term, state: Bytes::from(vec![9; index.0 as usize % 300]) };
        state.checkpoint = Some(checkpoint.clone());
        vec![Record::Checkpoint { group, index, term, state: checkpoint.state }]
    }

    fn install_snapshot(&mut self, group: GroupId, ahead: u64) -> Vec<Record> {
        let state = self.groups.entry(group).or_insert_with(empty_group);
        state.term.0 += 1;
        state.commit.0 += ahead;
        state.entries.clear();
        let checkpoint = Checkpoint { index: state.commit, term: state.term, state: Bytes::new() };
        state.checkpoint = Some(checkpoint.clone());
        let Checkpoint { index, term, state: opaque } = checkpoint;
        vec![
            World::hard_state_of(group, state),
            Record::Truncated { group, from: index },
            Record::Checkpoint { group, index, term, state: opaque },
        ]
    }

    /// Logs again what the oldest file is kept for, and checkpoints its entries.
    fn relieve(&mut self) -> Vec<Record> {
        let Some(blockers) = self.ledger.oldest_blockers() else { return Vec::new() };
        let mut records = Vec::new();
        for (group, index) in blockers.entries {
            let Some(state) = self.groups.get_mut(&group) else { continue };
            let checkpointed = state.checkpoint.as_ref().map_or(LogIndex(0), |checkpoint| checkpoint.index);
            let index = index.min(state.last_index()).max(checkpointed);
            state.commit = state.commit.max(index);
            records.push(World::hard_state_of(group, state));
            records.extend(self.checkpoint(group, index));
        }
        for group in blockers.states {
            let Some(state) = self.groups.get(&group) else { continue };
            records.push(World::hard_state_of(group, state));
            if let Some(index) = state.checkpoint.as_ref().map(|checkpoint| checkpoint.index) {
                records.extend(self.checkpoint(group, index));
            }
        }
        records
    }

    fn flush(&mut self, records: &[Record]) {
        let flush_sequence = self.flushes.len() as u64 + 1;
        let bytes = build(0, flush_sequence, records).len();
        assert!(bytes <= FILE_BYTES);
        if self.files.is_empty() || self.position + bytes > FILE_BYTES {
            self.begin_file();
        }
        let file_sequence = self.files.last().expect("a file was begun").0;
        let mut builder = FlushBuilder::new(file_sequence, flush_sequence);
        records.iter().for_each(|record| builder.push(record.clone()));
        let flush = builder.finish();
        let unpadded = super::super::FLUSH_HEADER_BYTES
            + records.iter().map(|record| record.encoded_bytes()).sum::<usize>();
        let content = &mut self.files.last_mut().expect("a file was begun").1;
        content[self.position..self.position + bytes].copy_from_slice(&flat(&flush));
        self.flushes.push((file_sequence, self.position, self.position + bytes, unpadded));
        self.position += bytes;
        self.ledger.on_flush(file_sequence, &flush.notes);
        for record in records {
            self.note_state_files(file_sequence, record);
        }
        self.ledger.assert_consistent();
        self.states.push(self.groups.clone());
    }

    /// Recycles the oldest file, if it is free, else takes a new one.
    fn begin_file(&mut self) {
        let sequence = self.files.last().map_or(1, |(newest, _)| newest + 1);
        let free = self.ledger.recyclable().next();
        let content = match free {
            Some(oldest) => {
                self.ledger.on_recycled(oldest);
                assert_eq!(self.files[0].0, oldest);
                self.files.remove(0).1
            }
            None => vec![0; FILE_BYTES],
        };
        self.files.push((sequence, content));
        self.position = 0;
    }

    fn note_state_files(&mut self, file: u64, record: &Record) {
        let files = self.state_files.entry(record.group()).or_default();
        match record {
            Record::Entry { .. } | Record::Truncated { .. } => {}
            Record::HardState { .. } => files.0 = Some(file),
            Record::Checkpoint { .. } => files.1 = Some(file),
            Record::GroupRemoved { .. } => *files = (None, None),
        }
        let state_file = files.0.into_iter().chain(files.1).min();
        if let Some(group) = self.groups.get_mut(&record.group()) {
            group.state_file = state_file;
        }
    }

    fn flush_at(&self, file: u64, byte: usize) -> Option<usize> {
        self.flushes
            .iter()
            .position(|(of, from, _, unpadded)| *of == file && (*from..from + unpadded).contains(&byte))
    }

    /// Asserts that exactly the first `flush_count` flushes were recovered.
    fn assert_prefix(&self, recovered: &Recovered, flush_count: usize) {
        assert_eq!(recovered.next_flush_sequence, flush_count as u64 + 1);
        assert_eq!(recovered.groups, self.states[flush_count]);
        recovered.ledger.assert_consistent();
        let used = |sequence: u64| {
            let flushes = self.flushes[..flush_count].iter().filter(|(file, ..)| *file == sequence);
            flushes.map(|(_, _, to, _)| *to as u64).max().unwrap_or(0)
        };
        for file in &recovered.files {
            assert_eq!(file.used_bytes, used(file.sequence));
        }
    }
}

proptest! {
    #[test]
    fn all_that_was_written_is_recovered(history in history()) {
        let world = World::live(&history);
        let recovered = recover_files(&world.files).expect("nothing is wrong with it");
        world.assert_prefix(&recovered, world.flushes.len());
        prop_assert_eq!(recovered.ledger.oldest_blockers(), world.ledger.oldest_blockers());
        prop_assert!(recovered.ledger.recyclable().eq(world.ledger.recyclable()));
        let newest = world.files.last().map_or(0, |(sequence, _)| *sequence);
        prop_assert_eq!(recovered.next_file_sequence, newest + 1);
    }

    #[test]
    fn a_cut_off_last_file_leaves_a_prefix(history in history(), cut in any::<Index>()) {
        let mut world = World::live(&history);
        if world.files.is_empty() {
            return Ok(());
        }
        let oldest = world.files[0].0;
        let (sequence, content) = world.files.last_mut().expect("there is a file");
        let (sequence, left) = (*sequence, cut.index(FILE_BYTES));
        content.truncate(left);
        let lost = world.flushes.iter().filter(|(file, _, to, _)| *file == sequence && *to > left).count();
        let is_empty = world.flushes.iter().all(|(file, _, to, _)| *file != sequence || *to > left);
        match recover_files(&world.files) {
            Ok(recovered) => world.assert_prefix(&recovered, world.flushes.len() - lost),
            Err(RecoveryError::BeginningDamaged { file, .. }) => {
                prop_assert_eq!(file, file_name(oldest));
                prop_assert!(is_empty && oldest == sequence && sequence > 1);
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }

    #[test]
    fn a_flipped_bit_is_a_torn_tail_or_is_named(
        history in history(),
        file in any::<Index>(),
        byte in any::<Index>(),
        in_a_flush: bool,
        bit in 0..8u8,
    ) {
        let mut world = World::live(&history);
        if world.files.is_empty() {
            return Ok(());
        }
        let file = file.index(world.files.len());
        let (sequence, used) = (world.files[file].0, if file + 1 == world.files.len() { world.position } else { FILE_BYTES });
        let byte = byte.index(if in_a_flush { used } else { FILE_BYTES });
        world.files[file].1[byte] ^= 1 << bit;
        let recovered = recover_files(&world.files);
        let all = world.flushes.len();
        let Some(hit) = world.flush_at(sequence, byte) else {
            world.assert_prefix(&recovered.expect("only padding or stale bytes changed"), all);
            return Ok(());
        };
        let (_, position, ..) = world.flushes[hit];
        let is_beginning = file == 0 && position == 0;
        match recovered {
            Ok(recovered) => {
                prop_assert_eq!(hit + 1, all, "only the last flush may go unnoticed");
                world.assert_prefix(&recovered, hit);
            }
            Err(RecoveryError::BeginningDamaged { file: named, .. }) => {
                prop_assert!(is_beginning);
                prop_assert_eq!(named, file_name(sequence));
            }
            Err(RecoveryError::Damaged { file: named, position: at, expected_flush, found_flush, .. }) => {
                prop_assert!(!is_beginning);
                prop_assert_eq!((expected_flush, found_flush), (hit as u64 + 1, hit as u64 + 2));
                // At the start of a file, the log breaks off at the end of the one before.
                let breaks_off = match position {
                    0 => {
                        let (before, _, end, _) = world.flushes[hit - 1];
                        (file_name(before), end as u64)
                    }
                    _ => (file_name(sequence), position as u64),
                };
                prop_assert_eq!((named, at), breaks_off);
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }

    #[test]
    fn a_missing_file_in_the_middle_is_named(history in history(), missing in any::<Index>()) {
        let mut world = World::live(&history);
        if world.files.len() < 3 {
            return Ok(());
        }
        let (missing, _) = world.files.remove(1 + missing.index(world.files.len() - 2));
        let expected = world.flushes.iter().position(|(file, ..)| *file == missing).expect("it was written") + 1;
        let error = recover_files(&world.files).expect_err("a file is missing");
        prop_assert!(
            matches!(error, RecoveryError::Damaged { expected_flush, .. } if expected_flush == expected as u64),
            "{error}"
        );
    }
}
