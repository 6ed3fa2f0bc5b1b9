//! A partition: what may be appended, what is committed, what has reached its segments.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use log::segment::{NextBatch, RetentionConfig, RollConfig, SegmentInfo, SegmentList};
use protocol::batch::BatchHeader;
use types::mutants::{Mutant, is_planted};
use types::{LogIndex, Offset, ProducerId, Term};

use crate::checkpoint::{self, CheckpointError};
use crate::command::Command;
use crate::epochs::LeaderEpochs;
use crate::indexes::ActiveIndex;
use crate::producers::{ProducerBatch, ProducerState, Producers, SequenceCheck, SequenceError};
use crate::retired::RetiredSegments;
use crate::tail::{Tail, TailBatch};

/// The topic's rules for batches, as far as a partition enforces them.
#[derive(Clone, Copy, Debug)]
pub struct AppendRules {
    /// Whether records get the broker's time (`message.timestamp.type=LogAppendTime`).
    pub log_append_time: bool,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
}

/// Why a batch is not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// It does not fit its producer's sequence.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// Its timestamps are too far from the broker's clock.
    #[error("timestamp {timestamp_ms} is too far from the broker's {now_ms}")]
    Timestamp {
        /// The offending timestamp.
        timestamp_ms: i64,
        /// The broker's clock.
        now_ms: i64,
    },
}

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendPlan {
    /// Propose it at this offset; its records get this time where it is given.
    Append {
        /// The offset of its first record.
        base: Offset,
        /// The broker's time, under LogAppendTime.
        log_append_time_ms: Option<i64>,
    },
    /// It is a retry of a batch that is committed, or proposed and under way.
    Duplicate {
        /// Where its first record stands.
        base: Offset,
        /// Where its last record stands.
        last: Offset,
    },
}

/// What applying an entry changed beside the log's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// A batch stands at these offsets now.
    Batch {
        /// Its first offset.
        base: Offset,
        /// Its last offset.
        last: Offset,
        /// Its size.
        bytes: usize,
    },
    /// The log starts here now.
    LogStart(Offset),
    /// A term began.
    TermStart,
    /// Other replicas belong to the group now.
    Membership,
    /// A batch that this replica had pulled from its leader before.
    Known,
}

/// One append to a segment's files, with what it takes into account when it is durable.
#[derive(Clone, Debug)]
pub struct FlushPlan {
    /// The segment's base offset.
    pub segment: Offset,
    /// Where the data starts in the segment.
    pub position: u64,
    /// Whole batches; empty when only the indexes of a complete segment are written out.
    pub data: Vec<Bytes>,
    /// Entries for the offset index, and where they start in its file.
    pub offsets: (u64, Bytes),
    /// Entries for the time index, and where they start in its file.
    pub times: (u64, Bytes),
    /// Whether batches are left over that belong to the next segment.
    pub rolls: bool,
    batches: Vec<NextBatch>,
    begins_segment: bool,
}

/// What stands in the way of a flush, or the flush itself.
#[derive(Debug)]
pub enum NextFlush {
    /// Write this, then say [`Partition::on_flushed`].
    Write(FlushPlan),
    /// The active segment's index must be restored first, with [`Partition::plan_index_restore`].
    RestoreIndex,
}

/// One partition on the shard that hosts its group.
///
/// Lifecycle: made new or from a checkpoint, fed committed entries in order, checkpointed after each flush to its
/// segments, dropped with its topic.
/// `log_start ≤ high_watermark ≤ next_offset` and `flushed_end ≤ high_watermark`; the tail in memory reaches from at or
/// before `flushed_end` to the high watermark; segments hold what lies between `log_start` and `flushed_end`, and there
/// are none when that is nothing. (Only after a restart may `log_start` be ahead, until the entries come again.)
#[derive(Debug)]
pub struct Partition {
    pub(crate) log_start: Offset,
    pub(crate) high_watermark: Offset,
    next_offset: Offset,
    /// Epochs and producers are those of the log up to here. After a start it is behind `high_watermark`'s batches that come
    /// again; after a snapshot whose batches this replica had and more, before it.
    remembered_end: Offset,
    /// The offset behind the last record that went to a segment.
    flushed_end: Offset,
    applied: LogIndex,
    pub(crate) epochs: LeaderEpochs,
    producers: Producers,
    pub(crate) tail: Tail,
    pub(crate) segments: SegmentList,
    pub(crate) active: ActiveIndex,
    flushing: Option<FlushPlan>,
    /// The flush under way is of batches that are no longer part of the log.
    is_flush_void: bool,
    retired: RetiredSegments,
    decision: u32,
}

impl Partition {
    /// A partition without records.
    pub fn new() -> Partition {
        Partition::from_durable(checkpoint::Durable::default(), LogIndex(0))
    }

    /// Restores a partition from the checkpoint at `index`; the entries behind it must be applied again.
    pub fn restore(index: LogIndex, state: &[u8]) -> Result<Partition, CheckpointError> {
        Ok(Partition::from_durable(checkpoint::decode(state)?, index))
    }

    fn from_durable(durable: checkpoint::Durable, index: LogIndex) -> Partition {
        let active = match durable.segments.active() {
            Some(segment) => ActiveIndex::Unloaded { base: segment.base, bytes: segment.bytes },
            None => ActiveIndex::None,
        };
        Partition {
            log_start: durable.log_start,
            high_watermark: durable.flushed_end,
            next_offset: durable.flushed_end,
            remembered_end: durable.end,
            flushed_end: durable.flushed_end,
            applied: index,
            epochs: durable.epochs,
            producers: Producers::restore(durable.producers),
            tail: Tail::default(),
            segments: durable.segments,
            active,
            flushing: None,
            is_flush_void: false,
            retired: RetiredSegments::restore(durable.retired),
            decision: durable.decision,
        }
    }

    /// Empties the partition: it has no batches and no segments, and begins at `offset`, as of the entry at `index`.
    /// A follower that is too far behind goes on from there with what its leader has. What it remembers of producers stays: it
    /// may be sent entries after all, or lead. The files of its segments go like
    /// those that retention takes: [`Partition::take_retired_segments`] hands them out for after the next checkpoint.
    pub fn reset_to(&mut self, index: LogIndex, offset: Offset) {
        let flushed_to = self.flushing.as_ref().map(|plan| plan.segment);
        self.is_flush_void = flushed_to.is_some();
        let segments = std::mem::take(&mut self.segments);
        // The one that is written to goes when that ends.
        self.retired
            .add(segments.iter().map(|segment| segment.base).filter(|base| Some(*base) != flushed_to));
        self.log_start = offset;
        self.go_on_at(offset);
        self.applied = index;
        self.epochs.truncate_front(offset);
        self.tail = Tail::default();
        self.active = ActiveIndex::None;
    }

    /// The first offset that may be read.
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// The offset behind the last committed record.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The offset that the next proposed batch gets.
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// The offset behind the last record that went to a segment, which retention may have taken since.
    pub fn flushed_end(&self) -> Offset {
        self.flushed_end
    }

    /// Whether the segment with this base is part of the log.
    pub fn has_segment(&self, base: Offset) -> bool {
        self.segments.iter().any(|segment| segment.base == base)
    }

    /// The last decision of where the replicas are to be that the group knows of; 0 for that by which it was made.
    pub fn decision(&self) -> u32 {
        self.decision
    }

    /// Leader epochs and their first offsets.
    pub fn epochs(&self) -> &LeaderEpochs {
        &self.epochs
    }

    /// Producers of committed batches, by id.
    pub fn producers(&self) -> BTreeMap<ProducerId, &ProducerState> {
        self.producers.committed().iter().map(|(id, state)| (*id, state)).collect()
    }

    /// Bytes on disk, and those on their way there.
    pub fn bytes(&self) -> u64 {
        self.segments.bytes() + self.tail.unflushed_bytes() as u64
    }

    /// Committed bytes that are in no segment yet.
    pub fn unflushed_bytes(&self) -> usize {
        self.tail.unflushed_bytes()
    }

    /// Decides about a batch that a producer sent to the leader, before anything is changed.
    pub fn plan_append(
        &self,
        header: &BatchHeader,
        rules: &AppendRules,
        now_ms: i64,
    ) -> Result<AppendPlan, AppendError> {
        if header.producer_id >= 0 {
            let last = header.last_sequence();
            let id = ProducerId(header.producer_id);
            match self.producers.check(id, header.producer_epoch, header.base_sequence, last)? {
                SequenceCheck::Duplicate(batch) => {
                    return Ok(AppendPlan::Duplicate { base: batch.base_offset, last: batch.last_offset });
                }
                SequenceCheck::Next => {}
            }
        }
        let log_append_time_ms = rules.log_append_time.then_some(now_ms);
        if log_append_time_ms.is_none() {
            check_timestamps(header, rules, now_ms)?;
        }
        Ok(AppendPlan::Append { base: self.next_offset, log_append_time_ms })
    }

    /// A batch was refused for the time being, so that its producer sends it again.
    pub fn on_refused(&mut self, header: &BatchHeader) {
        if header.producer_id >= 0 {
            let id = ProducerId(header.producer_id);
            self.producers.on_refused(id, header.producer_epoch, header.base_sequence);
        }
    }

    /// A batch was proposed, with `header` as it stands in the entry.
    pub fn on_proposed(&mut self, header: &BatchHeader, now_ms: i64) {
        assert!(header.base_offset == self.next_offset, "offsets are given out in order");
        if let Some((id, batch)) = producer_batch(header) {
            self.producers.on_proposed(id, header.producer_epoch, batch, now_ms);
        }
        self.next_offset = header.next_offset();
    }

    /// This node does not lead any more: proposed batches may be lost.
    pub fn on_resigned(&mut self) {
        self.producers.forget_proposed();
        if !is_planted(Mutant::KeepOffsetsOfLostBatches) {
            self.next_offset = self.high_watermark;
        }
    }

    /// Applies a committed entry. The data of a batch is one whole batch that was validated before it was proposed.
    pub fn apply(
        &mut self,
        index: LogIndex,
        term: Term,
        command: Command,
        data: Bytes,
        now_ms: i64,
    ) -> Applied {
        assert!(index > self.applied, "entries are applied once, in order");
        self.applied = index;
        match command {
            Command::TermStart => {
                self.epochs.begin(term.leader_epoch(), self.remembered_end);
                Applied::TermStart
            }
            Command::LogStart(offset) => {
                self.log_start = self.log_start.max(offset.min(self.high_watermark));
                self.epochs.truncate_front(self.log_start);
                self.retire_segments();
                Applied::LogStart(self.log_start)
            }
            Command::Membership { decision } => {
                self.decision = self.decision.max(decision);
                Applied::Membership
            }
            Command::Batch => self.apply_batch(index, data, now_ms),
        }
    }

    fn apply_batch(&mut self, index: LogIndex, data: Bytes, now_ms: i64) -> Applied {
        let header = BatchHeader::parse(&data).expect("a committed batch was validated");
        let (base, last) = (header.base_offset, header.last_offset());
        if base >= self.remembered_end {
            self.epochs.begin(header.partition_leader_epoch, base);
            if let Some((id, batch)) = producer_batch(&header) {
                self.producers.on_committed(id, header.producer_epoch, batch, now_ms);
            }
            self.remembered_end = header.next_offset();
        }
        if last < self.high_watermark {
            return Applied::Known;
        }
        let bytes = data.len();
        self.begin_within(base);
        self.push_batch(index, &header, data);
        Applied::Batch { base, last, bytes }
    }

    fn push_batch(&mut self, index: LogIndex, header: &BatchHeader, data: Bytes) {
        let (base, last) = (header.base_offset, header.last_offset());
        assert!(base == self.high_watermark, "committed batches follow one another");
        self.tail.push(TailBatch { base, last, index, max_timestamp_ms: header.max_timestamp, bytes: data });
        self.high_watermark = header.next_offset();
        self.next_offset = self.next_offset.max(self.high_watermark);
    }

    /// The next write to the segments: as many committed batches as fit `max_bytes` and the segment, at least one.
    /// `None` when nothing waits, or a flush is under way, or files of retired segments must go first.
    pub fn plan_flush(&mut self, roll: &RollConfig, max_bytes: usize, now_ms: i64) -> Option<NextFlush> {
        if self.flushing.is_some() {
            return None;
        }
        let first = self.tail.unflushed().next()?;
        let next = next_batch(first);
        let base = first.base;
        if self.segments.active().is_some() && !self.active.is_ready() {
            return Some(NextFlush::RestoreIndex);
        }
        let plan = match self.active.index() {
            Some(index) if self.segments.plan_roll(roll, index, &next, now_ms).is_none() => {
                self.plan_append_to_active(roll, max_bytes, now_ms, false)
            }
            Some(_) => self.plan_seal(),
            // A file of that name would be taken for one of the new log, and a later one for its continuation.
            None if self.retired.iter().any(|segment| segment >= base) => return None,
            None => {
                self.active = ActiveIndex::begin(base);
                self.plan_append_to_active(roll, max_bytes, now_ms, true)
            }
        };
        self.flushing = Some(plan.clone());
        Some(NextFlush::Write(plan))
    }

    fn plan_append_to_active(
        &mut self,
        roll: &RollConfig,
        max_bytes: usize,
        now_ms: i64,
        begins: bool,
    ) -> FlushPlan {
        let (index, written) = self.active.ready_mut().expect("the caller made sure of it");
        // A copy of the active segment grows with the plan, so that rolling is decided as it will be.
        let mut segments = SegmentList::new();
        segments.push(match self.segments.active() {
            Some(active) if !begins => active.clone(),
            _ => SegmentInfo::new(index.base(), now_ms),
        });
        let position = segments.active().expect("it was there or was just made").bytes;
        let (mut data, mut batches, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut rolls = false;
        for batch in self.tail.unflushed() {
            let next = next_batch(batch);
            rolls = !batches.is_empty() && segments.plan_roll(roll, index, &next, now_ms).is_some();
            if rolls || (bytes > 0 && bytes + batch.bytes.len() > max_bytes) {
                break;
            }
            let header = BatchHeader::parse(&batch.bytes).expect("a committed batch was validated");
            let at = u32::try_from(position + bytes as u64).expect("a segment ends below 4 GiB");
            index.on_batch(&header, at, next.bytes);
            segments.on_batch(&next, now_ms);
            bytes += batch.bytes.len();
            data.push(batch.bytes.clone());
            batches.push(next);
        }
        let mark = std::mem::replace(written, index.mark());
        let (offsets, times) = index.since(mark);
        FlushPlan {
            segment: index.base(),
            position,
            data,
            offsets: (mark.offset_index_bytes as u64, Bytes::copy_from_slice(offsets)),
            times: (mark.time_index_bytes as u64, Bytes::copy_from_slice(times)),
            rolls,
            batches,
            begins_segment: begins,
        }
    }

    /// The last entries of a complete segment's indexes.
    fn plan_seal(&mut self) -> FlushPlan {
        let active = self.segments.active().expect("the caller made sure of it");
        let (segment, position) = (active.base, active.bytes);
        let (index, written) = self.active.ready_mut().expect("the caller made sure of it");
        index.seal();
        let mark = std::mem::replace(written, index.mark());
        let (offsets, times) = index.since(mark);
        FlushPlan {
            segment,
            position,
            data: Vec::new(),
            offsets: (mark.offset_index_bytes as u64, Bytes::copy_from_slice(offsets)),
            times: (mark.time_index_bytes as u64, Bytes::copy_from_slice(times)),
            rolls: true,
            batches: Vec::new(),
            begins_segment: false,
        }
    }

    /// The flush under way, to be written again after the file system was full.
    pub fn flush_to_retry(&self) -> Option<&FlushPlan> {
        self.flushing.as_ref()
    }

    /// The flush under way is durable. Returns the bytes that left the unflushed tail.
    pub fn on_flushed(&mut self, now_ms: i64) -> usize {
        let plan = self.flushing.take().expect("a flush is under way");
        if std::mem::take(&mut self.is_flush_void) {
            self.retired.add([plan.segment]);
            return 0;
        }
        let Some(last) = plan.batches.last() else {
            self.segments.seal_active();
            self.active = ActiveIndex::None;
            self.retire_segments();
            return 0;
        };
        if plan.begins_segment {
            self.segments.push(SegmentInfo::new(plan.segment, now_ms));
        }
        for batch in &plan.batches {
            self.segments.on_batch(batch, now_ms);
        }
        self.flushed_end = Offset(last.last_offset.0 + 1);
        self.retire_segments();
        self.tail.on_flushed(last.last_offset)
    }

    /// Segments wholly below the log start are no longer part of the log. The one that is being written to stays
    /// until that ends.
    fn retire_segments(&mut self) {
        let limit = match self.segments.iter().last() {
            Some(last) if self.flushing.is_some() => self.log_start.min(last.base),
            _ => self.log_start,
        };
        let removed = self.segments.remove_below(limit);
        self.retired.add(removed.into_iter().map(|segment| segment.base));
        if self.flushing.is_none() && self.segments.active().is_none() {
            self.active = ActiveIndex::None;
        }
    }

    /// The checkpoint that the WAL should hold now: the last index whose data is all in segments, and the state.
    pub fn checkpoint(&self) -> (LogIndex, Bytes) {
        let index = match self.tail.unflushed().next() {
            Some(batch) if !is_planted(Mutant::CheckpointBeforeSegment) => LogIndex(batch.index.0 - 1),
            Some(_) | None => self.applied,
        };
        // Of a void flush nothing is known but that its file may be there.
        let void = self.flushing.as_ref().filter(|_| self.is_flush_void).map(|plan| plan.segment);
        // A log that starts within a batch that was pulled begins as empty as it was before that batch.
        let begins_pulled = self.remembered_end < self.log_start;
        let flushed_end = if begins_pulled { self.flushed_end.max(self.log_start) } else { self.flushed_end };
        let state = checkpoint::encode(&checkpoint::State {
            log_start: self.log_start,
            flushed_end,
            end: self.remembered_end,
            epochs: &self.epochs,
            producers: self.producers.committed(),
            segments: &self.segments,
            retired: self.retired.iter().chain(void).collect(),
            decision: self.decision,
        });
        (index, state)
    }

    /// Where retention wants the log to start, if that is further than it does. Only committed data in segments goes.
    pub fn plan_retention(&self, retention: &RetentionConfig, now_ms: i64) -> Option<Offset> {
        if self.flushing.is_some() {
            return None;
        }
        let log_start = self.segments.plan_retention(retention, self.log_start, now_ms);
        (log_start > self.log_start).then_some(log_start)
    }

    /// Whether [`Partition::take_retired_segments`] has some to hand out.
    pub fn has_retired_segments(&self) -> bool {
        self.retired.are_waiting()
    }

    /// The segments that are no longer part of the log, each handed out once. Their files may go when a checkpoint of the
    /// present state is durable, and not before: the one there is may count on them. When they are gone, say
    /// [`Partition::on_segments_removed`].
    ///
    /// Those of a partition that was just restored may go at once: its checkpoint is durable.
    pub fn take_retired_segments(&mut self) -> Vec<Offset> {
        self.retired.take()
    }

    /// The segments whose files are there, or may be: of the log, and retired.
    pub fn segment_files(&self) -> Vec<Offset> {
        self.segments.iter().map(|segment| segment.base).chain(self.retired.iter()).collect()
    }

    /// The files of retired segments are gone.
    pub fn on_segments_removed(&mut self, segments: &[Offset]) {
        self.retired.on_removed(segments);
    }

    /// Drops batches from memory that are in segments too, until so many bytes are free. Returns the entry that brought
    /// the last one.
    pub fn evict(&mut self, memory: usize) -> Option<LogIndex> {
        self.tail.evict(memory)
    }

    /// What another replica needs beside the batches, as of the last applied entry.
    pub fn snapshot(&self) -> Bytes {
        let nobody = HashMap::new();
        let lacks_producers = is_planted(Mutant::SnapshotLacksProducers);
        checkpoint::encode(&checkpoint::State {
            log_start: self.log_start,
            flushed_end: self.high_watermark,
            end: self.high_watermark,
            epochs: &self.epochs,
            producers: if lacks_producers { &nobody } else { self.producers.committed() },
            segments: &SegmentList::new(),
            retired: Vec::new(),
            decision: self.decision,
        })
    }

    /// Takes over a snapshot of the entry at `index`, whose batches this replica has pulled and written to segments. It may have
    /// more of them, pulled from a leader whose log had grown meanwhile: their entries are known when they come.
    pub fn install(&mut self, index: LogIndex, snapshot: &[u8]) -> Result<(), CheckpointError> {
        let checkpoint::Durable { log_start, end, epochs, producers, decision, .. } =
            checkpoint::decode(snapshot)?;
        assert!(index > self.applied, "a snapshot is newer than what was applied");
        assert!(
            self.high_watermark >= end && self.flushed_end == self.high_watermark,
            "all batches of a snapshot are there before it is taken over"
        );
        self.applied = index;
        self.next_offset = self.high_watermark;
        self.remembered_end = end;
        self.log_start = self.log_start.max(log_start);
        self.epochs = epochs;
        self.epochs.truncate_front(self.log_start);
        self.producers = Producers::restore(producers);
        self.decision = self.decision.max(decision);
        self.retire_segments();
        Ok(())
    }

    /// Appends committed batches that the leader sent. Producers and epochs are remembered as of the last entry all the same, for
    /// the case that entries come after all. Those that are there already are passed over. An empty log takes one that
    /// its start lies within.
    ///
    /// # Errors
    ///
    /// In words, where they are not batches that go on from here; those before are appended.
    pub fn append_pulled(&mut self, data: &Bytes) -> Result<(), String> {
        for batch in protocol::batch::batches(data) {
            let (header, range) = batch.map_err(|error| error.to_string())?;
            if header.last_offset() < self.high_watermark {
                continue;
            }
            self.begin_within(header.base_offset);
            if header.base_offset != self.high_watermark {
                let (base, expected) = (header.base_offset, self.high_watermark);
                return Err(format!("a batch at offset {base} does not go on at {expected}"));
            }
            let batch = data.slice(range);
            protocol::batch::check_crc(&header, &batch).map_err(|error| error.to_string())?;
            // They come before the next entry, wherever that will be.
            self.push_batch(self.applied.next(), &header, batch);
        }
        Ok(())
    }

    /// Whether there are no batches at all, nor segments: as after [`Partition::reset_to`], also one before a restart.
    fn is_blank(&self) -> bool {
        self.high_watermark == self.log_start
            && self.segments.active().is_none()
            && self.tail.start().is_none()
    }

    /// The log may start within its first batch, which is there as a whole.
    fn begin_within(&mut self, base: Offset) {
        if self.is_blank() && base < self.high_watermark {
            self.go_on_at(base);
        }
    }

    /// With nothing in it, the log goes on at this offset: its start, or that of the batch in which it lies.
    fn go_on_at(&mut self, base: Offset) {
        self.high_watermark = base;
        self.next_offset = base;
        self.flushed_end = base;
    }

    /// Whether a write to the segments is under way.
    pub fn is_flushing(&self) -> bool {
        self.flushing.is_some()
    }

    /// Forgets producers that were last used before `before_ms`.
    pub fn expire_producers(&mut self, before_ms: i64) {
        self.producers.expire(before_ms);
    }
}

impl Default for Partition {
    fn default() -> Partition {
        Partition::new()
    }
}

fn check_timestamps(header: &BatchHeader, rules: &AppendRules, now_ms: i64) -> Result<(), AppendError> {
    let too_old = |timestamp_ms: i64| now_ms.saturating_sub(timestamp_ms) > rules.timestamp_before_max_ms;
    let too_new = |timestamp_ms: i64| timestamp_ms.saturating_sub(now_ms) > rules.timestamp_after_max_ms;
    let has_time = |timestamp_ms: i64| timestamp_ms >= 0;
    if has_time(header.base_timestamp) && too_old(header.base_timestamp) {
        return Err(AppendError::Timestamp { timestamp_ms: header.base_timestamp, now_ms });
    }
    if has_time(header.max_timestamp) && too_new(header.max_timestamp) {
        return Err(AppendError::Timestamp { timestamp_ms: header.max_timestamp, now_ms });
    }
    Ok(())
}

fn next_batch(batch: &TailBatch) -> NextBatch {
    NextBatch {
        bytes: u32::try_from(batch.bytes.len()).expect("a batch is far below 4 GiB"),
        last_offset: batch.last,
        max_timestamp_ms: batch.max_timestamp_ms,
    }
}

fn producer_batch(header: &BatchHeader) -> Option<(ProducerId, ProducerBatch)> {
    if header.producer_id < 0 || header.base_sequence < 0 {
        return None;
    }
    let batch = ProducerBatch {
        first_sequence: header.base_sequence,
        last_sequence: header.last_sequence(),
        base_offset: header.base_offset,
        last_offset: header.last_offset(),
        timestamp_ms: header.max_timestamp,
    };
    Some((ProducerId(header.producer_id), batch))
}
