//! The shard's write-ahead log: records of all groups gather here, one flush is under way at a time.

use std::collections::VecDeque;

use log::wal::{Blockers, FileLedger, FlushBuilder, Record, RecordNote, Recovered};
use metrics::{Gauge, Histogram};
use types::limits::{
    BATCH_BYTES_MAX, WAL_FILE_BYTES, WAL_FILES_MAX, WAL_FLUSH_BYTES_MAX, WAL_REWRITE_BYTES_MAX,
};
use types::{GroupId, LogIndex, Now, Offset, ShardId};

use crate::event::{DiskError, Effect};

/// Files in use from which on old ones are made recyclable, by flushing to segments what they still hold.
const FILES_IN_USE_BEFORE_PRESSURE: usize = WAL_FILES_MAX / 2;

/// Files kept ready beside the one being written. With two of them the largest batch always finds room once what
/// waits is written, wherever the current file ends.
const SPARE_FILES: usize = 2;

/// Bytes of the last files that data must not take, so that hard states and checkpoints always find room.
const RESERVED_BYTES: u64 = WAL_REWRITE_BYTES_MAX;

// The largest unit is a batch on top of what a group may gather in a turn; it fits an empty file, and with its share of
// flushes that end early, the spare ones.
const _: () = assert!((BATCH_BYTES_MAX + 2 * WAL_FLUSH_BYTES_MAX) as u64 <= WAL_FILE_BYTES);
// A new WAL takes data while its second file is being made.
const _: () = assert!(RESERVED_BYTES + 2 * WAL_FLUSH_BYTES_MAX as u64 <= WAL_FILE_BYTES);
const _: () = assert!(
    BATCH_BYTES_MAX as u64 + RESERVED_BYTES
        <= SPARE_FILES as u64 * (WAL_FILE_BYTES - WAL_FLUSH_BYTES_MAX as u64)
);

/// How long to wait before another file is tried on a full file system.
const NO_SPACE_RETRY_MS: i64 = 1_000;

/// Records of one group that belong into one flush: those of one Raft `Ready`, or one checkpoint.
#[derive(Debug)]
pub(crate) struct Unit {
    pub group: GroupId,
    /// What to tell the group once the records are durable, see `raft_group::Work::number`.
    pub number: Option<u64>,
    pub records: Vec<Record>,
    /// Whether a flush is started for it, or it may wait for the next one.
    pub must_sync: bool,
    /// Retired segments of the group, whose files may go once the records are durable.
    pub retired_segments: Vec<Offset>,
}

impl Unit {
    /// Records that are no Raft group's work.
    pub(crate) fn of_shard(group: GroupId, records: Vec<Record>, must_sync: bool) -> Unit {
        Unit { group, number: None, records, must_sync, retired_segments: Vec::new() }
    }

    /// Whether it is a checkpoint and nothing else.
    fn is_checkpoint(&self) -> bool {
        self.number.is_none() && matches!(self.records[..], [Record::Checkpoint { .. }])
    }
}

/// What is left of a unit while it is written, and is told once it is durable.
#[derive(Debug)]
pub(crate) struct DurableUnit {
    pub group: GroupId,
    pub number: Option<u64>,
    /// The last entry in it.
    pub last_entry: Option<LogIndex>,
    /// How far it takes the removal of the group's replica.
    pub removal: Option<Removal>,
    pub retired_segments: Vec<Offset>,
}

/// How far a replica's removal is, as the WAL says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// Its files are to go: a crash makes the next start go on with it, whatever is left of them by then.
    Begun,
    /// Nothing is left of it.
    Done,
}

struct InFlight {
    number: u64,
    file: u64,
    notes: Vec<RecordNote>,
    units: Vec<DurableUnit>,
}

/// The WAL of one shard.
///
/// `current` is written; `spare` files are ready and are written after it, in their order. At most one file is
/// being made or recycled, which becomes the last spare one.
pub(crate) struct Wal {
    ledger: FileLedger,
    current: Option<(u64, u64)>,
    spare: VecDeque<u64>,
    preparing: Option<Preparing>,
    /// So many files there may be: more than usual where shards that were more have left more.
    files_max: usize,
    next_file: u64,
    next_flush: u64,
    waiting: VecDeque<Unit>,
    waiting_bytes: u64,
    /// Bytes that were proposed, or sent by leaders, and are not among the waiting ones yet.
    undriven_bytes: u64,
    in_flight: Option<InFlight>,
    no_space_until_us: Option<u64>,
    /// The oldest file whose states were logged again, so that this happens once.
    relogged: Option<u64>,
    metrics: WalMetrics,
}

enum Preparing {
    New,
    Recycled { from: u64 },
}

struct WalMetrics {
    flush_units: Histogram,
    files: Gauge,
}

impl Wal {
    pub(crate) fn new(shard: ShardId, recovered: &mut Recovered) -> Wal {
        let used = recovered.files.iter().filter(|file| file.used_bytes > 0);
        let current = used.max_by_key(|file| file.sequence).map(|file| (file.sequence, file.used_bytes));
        let spare = recovered.files.iter().filter(|file| file.used_bytes == 0).map(|file| file.sequence);
        Wal {
            current,
            spare: spare.collect(),
            preparing: None,
            files_max: WAL_FILES_MAX.max(recovered.files.len() + SPARE_FILES),
            next_file: recovered.next_file_sequence,
            next_flush: recovered.next_flush_sequence,
            ledger: std::mem::take(&mut recovered.ledger),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            undriven_bytes: 0,
            in_flight: None,
            no_space_until_us: None,
            relogged: None,
            metrics: WalMetrics {
                flush_units: metrics::histogram!("chronik_wal_flush_units", "shard" => shard.to_string()),
                files: metrics::gauge!("chronik_wal_files", "shard" => shard.to_string()),
            },
        }
    }

    /// Adds records to the next flush. A checkpoint takes the place of the group's one before, if that still waits and is the
    /// last that the group has pushed: a group that checkpoints faster than it flushes does not fill the WAL.
    pub(crate) fn push(&mut self, mut unit: Unit) {
        if unit.is_checkpoint()
            && let Some(last) = self.waiting.iter().rposition(|waiting| waiting.group == unit.group)
            && self.waiting[last].is_checkpoint()
        {
            let replaced = self.waiting.remove(last).expect("it was just found");
            self.waiting_bytes -= unit_bytes(&replaced);
            unit.must_sync |= replaced.must_sync;
            unit.retired_segments.splice(0..0, replaced.retired_segments);
        }
        self.waiting_bytes += unit_bytes(&unit);
        self.waiting.push_back(unit);
    }

    /// Whether a flush is to start: something that waits must be durable, or as much waits as one flush takes.
    fn wants_flush(&self) -> bool {
        self.waiting_bytes >= WAL_FLUSH_BYTES_MAX as u64 || self.waiting.iter().any(|unit| unit.must_sync)
    }

    /// Whether data of this size finds room in the files that are there. `false` while files are being freed, or the
    /// file system is full, which [`Wal::is_out_of_space`] tells apart.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.room_bytes() >= bytes as u64 + RESERVED_BYTES
    }

    /// Whether a unit that frees a file once it is written finds room, the reserve included. A unit lies in one file.
    pub(crate) fn has_reserve(&self, unit: &Unit) -> bool {
        let bytes = unit_bytes(unit);
        bytes <= WAL_REWRITE_BYTES_MAX && bytes <= self.room_bytes()
    }

    fn room_bytes(&self) -> u64 {
        let in_current = self.current.map_or(0, |(_, used)| WAL_FILE_BYTES - used);
        // What is left at the end of each file when a flush does not fit is lost, so count flushes and not bytes.
        let usable = WAL_FILE_BYTES - WAL_FLUSH_BYTES_MAX as u64;
        let room = in_current.saturating_sub(WAL_FLUSH_BYTES_MAX as u64) + usable * self.spare.len() as u64;
        room.saturating_sub(self.waiting_bytes + self.undriven_bytes)
    }

    /// So many bytes were proposed to a group.
    pub(crate) fn on_proposed(&mut self, bytes: usize) {
        self.undriven_bytes += bytes as u64;
    }

    /// So many bytes that were proposed to a group have been pushed, or went with the group.
    pub(crate) fn on_driven(&mut self, bytes: usize) {
        self.undriven_bytes -= bytes as u64;
    }

    /// Whether the file system had no room for another file.
    pub(crate) fn is_out_of_space(&self) -> bool {
        self.no_space_until_us.is_some()
    }

    /// Whether records of a group wait or are being written.
    pub(crate) fn concerns(&self, group: GroupId) -> bool {
        let in_flight = self.in_flight.iter().flat_map(|in_flight| &in_flight.units);
        self.waiting.iter().map(|unit| unit.group).chain(in_flight.map(|unit| unit.group)).any(|g| g == group)
    }

    /// Whether everything pushed that asked for it is durable.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && !self.waiting.iter().any(|unit| unit.must_sync)
    }

    /// Asserts what holds between any two calls.
    pub(crate) fn assert_consistent(&self) {
        self.ledger.assert_consistent();
        let waiting_bytes: u64 = self.waiting.iter().map(unit_bytes).sum();
        assert!(waiting_bytes == self.waiting_bytes, "every waiting unit is counted");
        let is_ascending =
            self.spare.iter().is_sorted() && self.spare.back().is_none_or(|last| *last < self.next_file);
        assert!(is_ascending, "spare files are written in their order");
    }

    /// Whether old files should be freed: there are many, or the file system has no room for another.
    pub(crate) fn is_under_pressure(&self) -> bool {
        self.ledger.files().len() > FILES_IN_USE_BEFORE_PRESSURE || self.no_space_until_us.is_some()
    }

    /// What keeps the oldest file in use, under pressure.
    pub(crate) fn blockers(&self) -> Option<Blockers> {
        if self.is_under_pressure() { self.ledger.oldest_blockers() } else { None }
    }

    /// Whether the states that a file holds should be logged again now; `true` once for each file.
    pub(crate) fn take_relog(&mut self, file: u64) -> bool {
        let first = self.relogged != Some(file);
        self.relogged = Some(file);
        first
    }

    /// When [`Wal::on_deadline`] is due.
    pub(crate) fn next_deadline_us(&self) -> Option<u64> {
        self.no_space_until_us
    }

    /// Tries again to make a file.
    pub(crate) fn on_deadline(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.no_space_until_us.is_some_and(|at| at <= now.mono_us) {
            self.no_space_until_us = None;
            self.prepare_file(effects);
        }
    }

    /// Starts a flush if none is under way and there is reason to.
    pub(crate) fn flush(&mut self, effects: &mut Vec<Effect>) {
        self.prepare_file(effects);
        if self.in_flight.is_some() || !self.wants_flush() {
            return;
        }
        if self.current.is_none() && !self.open_next_file() {
            return;
        }
        let (mut file, mut position) = self.current.expect("a file was just opened");
        let mut builder = FlushBuilder::new(file, self.next_flush);
        if self.first_unit_bytes(&builder) > WAL_FILE_BYTES - position {
            if !self.open_next_file() {
                return;
            }
            (file, position) = self.current.expect("a file was just opened");
            builder = FlushBuilder::new(file, self.next_flush);
        }
        let units = self.gather(&mut builder, WAL_FILE_BYTES - position);
        let flush = builder.finish();
        let notes = flush.notes.clone();
        self.metrics.flush_units.record(units.len() as f64);
        self.current = Some((file, position + flush.bytes as u64));
        let number = self.next_flush;
        self.in_flight = Some(InFlight { number, file, notes, units });
        effects.push(Effect::WriteWal { number, file, position, flush });
        self.next_flush += 1;
        self.prepare_file(effects);
    }

    fn first_unit_bytes(&self, empty: &FlushBuilder) -> u64 {
        let first = self.waiting.front().expect("something waits");
        assert!(empty.is_empty(), "the size of the first unit is asked for before it is added");
        flush_bytes_with(empty, first)
    }

    /// Moves waiting units into the flush, as long as there is room for whole ones.
    fn gather(&mut self, builder: &mut FlushBuilder, room: u64) -> Vec<DurableUnit> {
        let mut units = Vec::new();
        while let Some(unit) = self.waiting.front() {
            let bytes = unit_bytes(unit);
            let would_be = flush_bytes_with(builder, unit);
            if would_be > room || (!units.is_empty() && would_be > WAL_FLUSH_BYTES_MAX as u64) {
                break;
            }
            let mut unit = self.waiting.pop_front().expect("it was just seen");
            self.waiting_bytes -= bytes;
            let (mut last_entry, mut removal) = (None, None);
            for record in std::mem::take(&mut unit.records) {
                match &record {
                    Record::Entry { index, .. } => last_entry = Some(*index),
                    Record::Checkpoint { state, .. } if state.is_empty() => removal = Some(Removal::Begun),
                    Record::GroupRemoved { .. } => removal = Some(Removal::Done),
                    _ => {}
                }
                builder.push(record);
            }
            let Unit { group, number, retired_segments, .. } = unit;
            units.push(DurableUnit { group, number, last_entry, removal, retired_segments });
        }
        assert!(!units.is_empty(), "the file has room for the first unit");
        units
    }

    fn open_next_file(&mut self) -> bool {
        match self.spare.pop_front() {
            Some(file) => {
                self.current = Some((file, 0));
                true
            }
            None => false,
        }
    }

    /// Keeps spare files: an old one that nobody needs, or a new one while there are not too many.
    fn prepare_file(&mut self, effects: &mut Vec<Effect>) {
        if self.preparing.is_some() || self.spare.len() >= SPARE_FILES {
            return;
        }
        let file = self.next_file;
        if let Some(from) = self.ledger.recyclable().next() {
            self.preparing = Some(Preparing::Recycled { from });
            effects.push(Effect::RecycleWalFile { from, file });
        } else if self.ledger.files().len() + self.spare.len() < self.files_max
            && self.no_space_until_us.is_none()
        {
            self.preparing = Some(Preparing::New);
            effects.push(Effect::CreateWalFile { file });
        } else {
            return;
        }
        self.next_file += 1;
    }

    /// A file is ready, or there is no space for it.
    pub(crate) fn on_file_ready(
        &mut self,
        now: Now,
        file: u64,
        result: Result<(), DiskError>,
    ) -> Result<(), String> {
        let preparing = self.preparing.take().expect("a file was asked for");
        match (result, preparing) {
            (Ok(()), Preparing::Recycled { from }) => {
                self.ledger.on_recycled(from);
                self.spare.push_back(file);
            }
            (Ok(()), Preparing::New) => self.spare.push_back(file),
            (Err(DiskError::NoSpace), Preparing::New) => {
                self.next_file = file;
                self.no_space_until_us = Some(now.after_ms(NO_SPACE_RETRY_MS));
            }
            (Err(DiskError::NoSpace), Preparing::Recycled { .. }) => {
                return Err("a WAL file cannot be renamed for lack of space".into());
            }
            (Err(DiskError::Failed(why)), _) => return Err(why),
        }
        self.metrics.files.set((self.ledger.files().len() + self.spare.len()) as f64);
        Ok(())
    }

    /// A flush is durable.
    pub(crate) fn on_flushed(&mut self, number: u64) -> Vec<DurableUnit> {
        let flushed = self.in_flight.take().expect("a flush is under way");
        assert!(flushed.number == number, "flushes become durable in their order");
        // Only now is what these records supersede no longer needed.
        self.ledger.on_flush(flushed.file, &flushed.notes);
        flushed.units
    }
}

fn flush_bytes_with(builder: &FlushBuilder, unit: &Unit) -> u64 {
    let bytes = usize::try_from(unit_bytes(unit)).expect("a unit fits a WAL file");
    builder.len_bytes_with(bytes) as u64
}

fn unit_bytes(unit: &Unit) -> u64 {
    unit.records.iter().map(|record| record.encoded_bytes() as u64).sum()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use log::wal::recover;
    use types::Term;

    use super::*;

    const GROUP: GroupId = GroupId(3);

    fn empty_wal() -> Wal {
        Wal::new(ShardId(0), &mut recover(&[]).expect("there is nothing to read"))
    }

    fn checkpoint(index: u64, state_bytes: usize, retired: &[i64]) -> Unit {
        let state = Bytes::from(vec![1; state_bytes]);
        let record = Record::Checkpoint { group: GROUP, index: LogIndex(index), term: Term(1), state };
        let retired_segments = retired.iter().copied().map(Offset).collect();
        Unit { retired_segments, ..Unit::of_shard(GROUP, vec![record], !retired.is_empty()) }
    }

    fn hard_state(term: u64) -> Unit {
        let record = Record::HardState { group: GROUP, term: Term(term), vote: 0, commit: LogIndex(0) };
        Unit { number: Some(term), ..Unit::of_shard(GROUP, vec![record], false) }
    }

    #[test]
    fn a_checkpoint_takes_the_place_of_the_one_that_waits() {
        let mut wal = empty_wal();
        wal.push(checkpoint(4, 100, &[0]));
        wal.push(checkpoint(5, 100, &[]));
        wal.push(checkpoint(6, 100, &[20, 40]));
        wal.assert_consistent();
        let [unit] = wal.waiting.make_contiguous() else { panic!("one is left: {:?}", wal.waiting) };
        assert!(matches!(unit.records[..], [Record::Checkpoint { index: LogIndex(6), .. }]));
        assert_eq!(unit.retired_segments, [Offset(0), Offset(20), Offset(40)]);
        assert!(unit.must_sync, "files wait for it to be durable");
    }

    #[test]
    fn a_checkpoint_stays_before_what_was_pushed_behind_it() {
        let mut wal = empty_wal();
        wal.push(checkpoint(0, 100, &[]));
        wal.push(hard_state(1));
        wal.push(checkpoint(0, 100, &[]));
        wal.assert_consistent();
        assert_eq!(wal.waiting.len(), 3);
    }

    #[test]
    fn records_that_may_wait_are_written_when_there_are_many() {
        let mut wal = empty_wal();
        let mut effects = Vec::new();
        wal.flush(&mut effects);
        for file in [1, 2] {
            wal.on_file_ready(Now::default(), file, Ok(())).expect("there is space");
            wal.flush(&mut effects);
        }
        let is_write = |effect: &Effect| matches!(effect, Effect::WriteWal { .. });
        for group in 1.. {
            let group = GroupId(group);
            let state = Bytes::from(vec![1; 100_000]);
            let record = Record::Checkpoint { group, index: LogIndex(0), term: Term(0), state };
            wal.push(Unit::of_shard(group, vec![record], false));
            let are_many = wal.waiting_bytes >= WAL_FLUSH_BYTES_MAX as u64;
            wal.flush(&mut effects);
            assert_eq!(effects.iter().any(is_write), are_many);
            if are_many {
                break;
            }
        }
    }
}
