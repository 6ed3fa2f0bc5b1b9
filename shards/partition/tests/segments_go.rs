//! Segments come and go: with retention, with a reset, and over crashes at any moment.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use log::segment::{RetentionConfig, RollConfig};
use partition::{Command, FlushPlan, IndexRestore, NextFlush, Partition, Position};
use proptest::prelude::*;
use protocol::batch::{self, BatchBuilder, BatchOptions};
use types::{LogIndex, Offset, Term};

const ROLL: RollConfig = RollConfig { segment_bytes: 300, segment_ms: i64::MAX, index_bytes: 4_096 };
const EPOCH: Term = Term(1);

enum DiskWork {
    /// Remove all segments but these: once after a restart.
    Tidy(Vec<Offset>),
    Append(FlushPlan),
    Remove(Vec<Offset>),
}

/// A checkpoint on its way to the WAL, with the segments that may go once it is there.
struct Unit {
    index: LogIndex,
    state: Bytes,
    retired: Vec<Offset>,
}

/// A partition with the disk and the WAL that its shard would give it.
struct World {
    partition: Partition,
    /// Entries behind the last reset, all durable.
    entries: Vec<(LogIndex, Command, Bytes)>,
    next_index: u64,
    checkpoint: Option<(LogIndex, Bytes)>,
    wal: VecDeque<Unit>,
    disk: VecDeque<DiskWork>,
    files: BTreeMap<Offset, Vec<u8>>,
    /// Whether files that a crash left are gone.
    is_tidy: bool,
    now_ms: i64,
    log_start: Offset,
    end: Offset,
}

impl World {
    fn new() -> World {
        World {
            partition: Partition::new(),
            entries: Vec::new(),
            next_index: 1,
            checkpoint: None,
            wal: VecDeque::new(),
            disk: VecDeque::new(),
            files: BTreeMap::new(),
            is_tidy: false,
            now_ms: 1_000,
            log_start: Offset(0),
            end: Offset(0),
        }
    }

    fn commit(&mut self, command: Command, data: Bytes) {
        let index = LogIndex(self.next_index);
        self.next_index += 1;
        self.entries.push((index, command, data.clone()));
        self.partition.apply(index, EPOCH, command, data, self.now_ms);
    }

    fn append(&mut self, records: i64) {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        (0..records).for_each(|_| builder.append(self.now_ms, None, Some(b"some value"), &[]));
        let mut batch = builder.build();
        batch::assign(&mut batch, self.end, EPOCH.leader_epoch());
        self.end = Offset(self.end.0 + records);
        self.commit(Command::Batch, batch.freeze());
    }

    fn start_log_at(&mut self, offset: Offset) {
        self.log_start = self.log_start.max(offset);
        self.commit(Command::LogStart(offset), Bytes::new());
        if self.partition.has_retired_segments() {
            self.push_checkpoint();
        }
    }

    fn retain(&mut self, retention_ms: i64) {
        let retention = RetentionConfig { retention_ms, retention_bytes: -1 };
        if let Some(offset) = self.partition.plan_retention(&retention, self.now_ms) {
            self.start_log_at(offset);
        }
    }

    fn push_checkpoint(&mut self) {
        let retired = self.partition.take_retired_segments();
        let (index, state) = self.partition.checkpoint();
        self.wal.push_back(Unit { index, state, retired });
    }

    /// Makes ready what a flush needs, or begins one.
    fn flush(&mut self) {
        if !self.is_tidy {
            let has_begun = self.disk.iter().any(|work| matches!(work, DiskWork::Tidy(_)));
            if !has_begun {
                self.disk.push_back(DiskWork::Tidy(self.partition.segment_files()));
            }
            return;
        }
        match self.partition.plan_flush(&ROLL, 200, self.now_ms) {
            None => {}
            Some(NextFlush::Write(plan)) => self.disk.push_back(DiskWork::Append(plan)),
            Some(NextFlush::RestoreIndex) => {
                match self.partition.plan_index_restore().expect("it is missing") {
                    IndexRestore::ReadIndexes { .. } => self.partition.on_indexes_read(&[], &[]),
                    IndexRestore::ReadSegment { segment, position, length } => {
                        let at = position as usize;
                        let piece = &self.files[&segment][at..at + length];
                        self.partition.on_rescan_read(piece).expect("the segment is whole");
                    }
                }
            }
        }
    }

    /// The WAL's oldest flush is durable.
    fn sync_wal(&mut self) {
        let Some(unit) = self.wal.pop_front() else { return };
        self.checkpoint = Some((unit.index, unit.state));
        if !unit.retired.is_empty() {
            self.disk.push_back(DiskWork::Remove(unit.retired));
        }
    }

    /// The disk's oldest request ends.
    fn sync_disk(&mut self) {
        match self.disk.pop_front() {
            None => {}
            Some(DiskWork::Tidy(segments)) => {
                self.files.retain(|segment, _| segments.contains(segment));
                self.is_tidy = true;
            }
            Some(DiskWork::Append(plan)) => {
                self.write(&plan);
                self.partition.on_flushed(self.now_ms);
                self.push_checkpoint();
            }
            Some(DiskWork::Remove(segments)) => {
                segments.iter().for_each(|segment| {
                    self.files.remove(segment);
                });
                self.partition.on_segments_removed(&segments);
            }
        }
    }

    fn write(&mut self, plan: &FlushPlan) {
        let file = self.files.entry(plan.segment).or_default();
        assert!(plan.position as usize <= file.len(), "segment {} would get a hole", plan.segment);
        file.truncate(plan.position as usize);
        plan.data.iter().for_each(|part| file.extend_from_slice(part));
    }

    /// Power fails: the request under way was carried out or not, those behind it were not.
    fn crash(&mut self, is_carried_out: bool) {
        match self.disk.pop_front() {
            Some(DiskWork::Append(plan)) if is_carried_out => self.write(&plan),
            Some(DiskWork::Remove(segments)) if is_carried_out => {
                segments.iter().for_each(|segment| {
                    self.files.remove(segment);
                });
            }
            _ => {}
        }
        self.disk.clear();
        self.wal.clear();
        self.is_tidy = false;
        self.recover();
    }

    fn recover(&mut self) {
        let index = self.checkpoint.as_ref().map_or(LogIndex(0), |(index, _)| *index);
        self.partition = match &self.checkpoint {
            Some((index, state)) => Partition::restore(*index, state).expect("a checkpoint is readable"),
            None => Partition::new(),
        };
        let retired = self.partition.take_retired_segments();
        if !retired.is_empty() {
            self.disk.push_back(DiskWork::Remove(retired));
        }
        for (at, command, data) in self.entries.iter().filter(|(at, ..)| *at > index) {
            self.partition.apply(*at, EPOCH, *command, data.clone(), self.now_ms);
        }
        if self.partition.has_retired_segments() {
            self.push_checkpoint();
        }
    }

    /// The partition begins anew; its checkpoint is durable before anything else goes on.
    fn reset_to(&mut self, offset: Offset) {
        self.next_index += 10;
        self.partition.reset_to(LogIndex(self.next_index - 1), offset);
        self.entries.clear();
        (self.log_start, self.end) = (offset, offset);
        self.push_checkpoint();
        while !self.wal.is_empty() {
            self.sync_wal();
        }
    }

    /// Everything between start and end of the log is where it is said to be. Returns the segments that hold some of it.
    fn check(&mut self) -> BTreeSet<Offset> {
        assert_eq!(self.partition.log_start(), self.log_start);
        assert_eq!(self.partition.high_watermark(), self.end);
        assert_eq!(self.partition.next_offset(), self.end);
        assert!(self.partition.flushed_end() <= self.end);
        let mut segments = BTreeSet::new();
        for offset in (self.log_start.0..self.end.0).map(Offset) {
            match self.partition.locate(offset).expect("it is in the log") {
                Position::Memory => {}
                Position::End => panic!("{offset} is before the end"),
                Position::Disk(found) => {
                    let file = self.files.get(&found.segment).expect("the segment's file is there");
                    assert!(file.len() as u64 >= found.bytes, "segment {} is cut", found.segment);
                    segments.insert(found.segment);
                }
            }
        }
        segments
    }

    /// Lets everything under way end, with nothing cached.
    fn settle(&mut self) {
        while !self.is_tidy
            || self.partition.unflushed_bytes() > 0
            || !self.disk.is_empty()
            || !self.wal.is_empty()
        {
            self.flush();
            self.sync_disk();
            self.sync_wal();
        }
        self.partition.evict(usize::MAX);
    }
}

#[test]
fn an_expired_log_has_no_segment_and_goes_on_after_a_restart() {
    let mut world = World::new();
    (0..5).for_each(|_| world.append(3));
    world.settle();
    assert!(world.files.len() > 1, "the records fill more than one segment");
    world.now_ms += 1_001;
    world.retain(1_000);
    assert_eq!(world.partition.bytes(), 0);
    assert_eq!(world.partition.log_start(), Offset(15));
    assert!(!world.files.is_empty(), "files stay until a checkpoint is durable");
    world.settle();
    assert_eq!(world.files.len(), 0);
    world.crash(false);
    assert_eq!(world.partition.high_watermark(), Offset(15));
    world.append(2);
    world.settle();
    assert_eq!(world.check(), BTreeSet::from([Offset(15)]));
    assert_eq!(world.files.keys().copied().collect::<Vec<_>>(), [Offset(15)]);
}

#[test]
fn a_segment_that_is_written_to_stays_until_that_ends() {
    let mut world = World::new();
    world.append(3);
    world.settle();
    world.append(3);
    world.flush();
    world.start_log_at(Offset(6));
    assert!(world.partition.bytes() > 0);
    world.sync_disk();
    assert_eq!(world.partition.bytes(), 0);
    world.settle();
    assert_eq!(world.files.len(), 0);
}

#[test]
fn an_index_that_is_being_restored_is_not_missed() {
    let mut world = World::new();
    world.append(3);
    world.settle();
    world.crash(false);
    assert!(matches!(world.partition.plan_index_restore(), Some(IndexRestore::ReadIndexes { .. })));
    world.start_log_at(Offset(3));
    assert_eq!(world.partition.plan_index_restore(), None);
    world.settle();
    assert_eq!(world.files.len(), 0);
}

#[test]
fn a_reset_partition_begins_at_its_offset_and_takes_no_old_file_for_its_own() {
    let mut world = World::new();
    (0..5).for_each(|_| world.append(3));
    world.settle();
    world.append(3);
    world.flush();
    let old: Vec<Offset> = world.files.keys().copied().collect();
    world.reset_to(Offset(0));
    assert_eq!(world.partition.bytes(), 0);
    world.append(2);
    world.flush();
    assert_eq!(
        world.files.keys().copied().collect::<Vec<_>>(),
        old,
        "nothing is written while old files are there"
    );
    world.settle();
    assert_eq!(world.files.keys().copied().collect::<Vec<_>>(), [Offset(0)]);
    world.reset_to(Offset(1_000));
    world.crash(true);
    world.settle();
    assert_eq!((world.partition.high_watermark(), world.files.len()), (Offset(1_000), 0));
}

/// A log may start within a batch, which a replica that has nothing pulls whole.
#[test]
fn a_reset_partition_goes_on_within_a_batch() {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    (0..5).for_each(|_| builder.append(1_000, None, Some(b"some value"), &[]));
    let mut batch = builder.build();
    batch::assign(&mut batch, Offset(100), EPOCH.leader_epoch());
    let batch = batch.freeze();
    let mut partition = Partition::new();
    partition.reset_to(LogIndex(7), Offset(103));
    assert_eq!(partition.append_pulled(&batch), Ok(()));
    assert_eq!((partition.log_start(), partition.high_watermark()), (Offset(103), Offset(105)));
    assert_eq!(partition.locate(Offset(103)), Ok(Position::Memory));
    assert_eq!(partition.read_memory(Offset(103), 1), std::slice::from_ref(&batch));
    // What comes twice is passed over, and what leaves a gap is not taken.
    assert_eq!(partition.append_pulled(&batch), Ok(()));
    let mut behind = batch.to_vec();
    behind[..8].copy_from_slice(&110i64.to_be_bytes());
    assert!(partition.append_pulled(&Bytes::from(behind)).is_err());
}

#[test]
fn checkpoints_that_contradict_themselves_are_refused() {
    let mut world = World::new();
    world.append(3);
    world.settle();
    let (index, state) = world.partition.checkpoint();
    Partition::restore(index, &state).expect("it is whole");
    // Where flushed data ends (field 6) comes behind the segments.
    let at = state.windows(2).rposition(|bytes| bytes == [0x30, 3]).expect("the field is there");
    let mut damaged = state.to_vec();
    damaged[at + 1] = 2;
    let error = Partition::restore(index, &damaged).expect_err("it contradicts itself");
    assert!(error.to_string().contains("contradicts itself"), "{error}");
}

#[derive(Clone, Debug)]
enum Action {
    Append(i64),
    Flush,
    SyncWal,
    SyncDisk,
    StartLogAt(u8),
    Retain,
    Wait(i64),
    Evict,
    Crash(bool),
    ResetTo(i64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (1i64..5).prop_map(Action::Append),
        8 => Just(Action::Flush),
        8 => Just(Action::SyncWal),
        8 => Just(Action::SyncDisk),
        2 => any::<u8>().prop_map(Action::StartLogAt),
        3 => Just(Action::Retain),
        3 => (1i64..2_000).prop_map(Action::Wait),
        2 => Just(Action::Evict),
        2 => any::<bool>().prop_map(Action::Crash),
        1 => (0i64..60).prop_map(Action::ResetTo),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn no_crash_loses_a_segment_or_leaves_one(actions in prop::collection::vec(action(), 1..120)) {
        let mut world = World::new();
        for action in actions {
            match action {
                Action::Append(records) => world.append(records),
                Action::Flush => world.flush(),
                Action::SyncWal => world.sync_wal(),
                Action::SyncDisk => world.sync_disk(),
                Action::StartLogAt(share) => {
                    let reach = world.end.0 - world.log_start.0;
                    world.start_log_at(Offset(world.log_start.0 + reach * i64::from(share) / 255));
                }
                Action::Retain => world.retain(1_000),
                Action::Wait(ms) => world.now_ms += ms,
                Action::Evict => {
                    world.partition.evict(100);
                }
                Action::Crash(is_carried_out) => world.crash(is_carried_out),
                Action::ResetTo(offset) => world.reset_to(Offset(offset)),
            }
            world.check();
        }
        world.settle();
        let segments = world.check();
        let files: BTreeSet<Offset> = world.files.keys().copied().collect();
        prop_assert_eq!(files, segments);
        world.crash(false);
        world.settle();
        world.check();
    }
}
