//! A partition: what may be appended, what is committed, what has reached its segments.

use std::collections::BTreeMap;

use bytes::Bytes;
use log::segment::{NextBatch, RetentionConfig, RollConfig, SegmentInfo, SegmentList};
use protocol::batch::BatchHeader;
use types::{LogIndex, Offset, ProducerId, Term};

use crate::checkpoint::{self, CheckpointError};
use crate::command::Command;
use crate::epochs::LeaderEpochs;
use crate::indexes::ActiveIndex;
use crate::producers::{ProducerBatch, ProducerState, Producers, SequenceCheck, SequenceError};
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
/// before `flushed_end` to the high watermark.
#[derive(Debug)]
pub struct Partition {
    pub(crate) log_start: Offset,
    pub(crate) high_watermark: Offset,
    next_offset: Offset,
    /// Up to here, epochs and producers were restored from a checkpoint, though the batches come again.
    remembered_end: Offset,
    applied: LogIndex,
    pub(crate) epochs: LeaderEpochs,
    producers: Producers,
    pub(crate) tail: Tail,
    pub(crate) segments: SegmentList,
    pub(crate) active: ActiveIndex,
    flushing: Option<FlushPlan>,
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
        // The last segment is never deleted, so a partition without one has flushed nothing.
        let flushed_end = durable.segments.iter().last().map_or(Offset(0), |segment| segment.end);
        let active = match durable.segments.active() {
            Some(segment) => ActiveIndex::Unloaded { base: segment.base, bytes: segment.bytes },
            None => ActiveIndex::None,
        };
        Partition {
            log_start: durable.log_start,
            high_watermark: flushed_end,
            next_offset: flushed_end,
            remembered_end: durable.end,
            applied: index,
            epochs: durable.epochs,
            producers: Producers::restore(durable.producers),
            tail: Tail::default(),
            segments: durable.segments,
            active,
            flushing: None,
        }
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

    /// The offset behind the last record in a segment.
    pub fn flushed_end(&self) -> Offset {
        self.segments.iter().last().map_or(Offset(0), |segment| segment.end)
    }

    /// Whether anything ever reached a segment.
    pub fn has_segments(&self) -> bool {
        !self.segments.is_empty()
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
        self.next_offset = self.high_watermark;
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
                self.epochs.begin(term.leader_epoch(), self.high_watermark.max(self.remembered_end));
                Applied::TermStart
            }
            Command::LogStart(offset) => {
                self.log_start = self.log_start.max(offset.min(self.high_watermark));
                self.epochs.truncate_front(self.log_start);
                Applied::LogStart(self.log_start)
            }
            Command::Batch => self.apply_batch(index, data, now_ms),
        }
    }

    fn apply_batch(&mut self, index: LogIndex, data: Bytes, now_ms: i64) -> Applied {
        let header = BatchHeader::parse(&data).expect("a committed batch was validated");
        let (base, last) = (header.base_offset, header.last_offset());
        assert!(base == self.high_watermark, "committed batches follow one another");
        if base >= self.remembered_end {
            self.epochs.begin(header.partition_leader_epoch, base);
            if let Some((id, batch)) = producer_batch(&header) {
                self.producers.on_committed(id, header.producer_epoch, batch, now_ms);
            }
        }
        let bytes = data.len();
        self.tail.push(TailBatch { base, last, index, max_timestamp_ms: header.max_timestamp, bytes: data });
        self.high_watermark = Offset(last.0 + 1);
        self.next_offset = self.next_offset.max(self.high_watermark);
        Applied::Batch { base, last, bytes }
    }

    /// The next write to the segments: as many committed batches as fit `max_bytes` and the segment, at least one.
    /// `None` when nothing waits, or a flush is under way.
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
        for batch in self.tail.unflushed() {
            let next = next_batch(batch);
            let rolls = !batches.is_empty() && segments.plan_roll(roll, index, &next, now_ms).is_some();
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
        let Some(last) = plan.batches.last() else {
            self.segments.seal_active();
            self.active = ActiveIndex::None;
            return 0;
        };
        if plan.begins_segment {
            self.segments.push(SegmentInfo::new(plan.segment, now_ms));
        }
        for batch in &plan.batches {
            self.segments.on_batch(batch, now_ms);
        }
        self.tail.on_flushed(last.last_offset)
    }

    /// The checkpoint that the WAL should hold now: the last index whose data is all in segments, and the state.
    pub fn checkpoint(&self) -> (LogIndex, Bytes) {
        let index = match self.tail.unflushed().next() {
            Some(batch) => LogIndex(batch.index.0 - 1),
            None => self.applied,
        };
        let end = self.high_watermark.max(self.remembered_end);
        let state =
            checkpoint::encode(self.log_start, end, &self.epochs, self.producers.committed(), &self.segments);
        (index, state)
    }

    /// Where retention wants the log to start, if that is further than it does. Only committed data in segments goes.
    pub fn plan_retention(&self, retention: &RetentionConfig, now_ms: i64) -> Option<Offset> {
        if self.flushing.is_some() {
            return None;
        }
        let plan = self.segments.plan_retention(retention, self.log_start, now_ms);
        (plan.log_start > self.log_start).then_some(plan.log_start)
    }

    /// Segments that lie wholly below the log start: their files are to be removed.
    pub fn take_deletable_segments(&mut self, limit: Offset) -> Vec<Offset> {
        assert!(limit <= self.log_start, "only what lies below the log start goes");
        let removed = self.segments.remove_below(limit);
        removed.into_iter().map(|segment| segment.base).collect()
    }

    /// Segments below this offset may go once a checkpoint of the present state is durable; `None` when there are
    /// none. Before that, the checkpoint there is may hold one of them for the active segment.
    pub fn deletable_below(&self) -> Option<Offset> {
        let last = self.segments.iter().last()?;
        let limit = self.log_start.min(last.base);
        (!self.segments.segments_below(limit).is_empty()).then_some(limit)
    }

    /// Drops batches from memory that are in segments too. Returns the bytes that went.
    pub fn evict(&mut self, bytes: usize) -> usize {
        self.tail.evict(bytes)
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
