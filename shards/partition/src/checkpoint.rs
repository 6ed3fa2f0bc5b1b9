//! What a partition remembers outside its entries, as the `state` of a WAL checkpoint (protobuf).

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use log::segment::{SegmentInfo, SegmentList};
use prost::Message;
use types::mutants::{Mutant, is_planted};
use types::{Offset, ProducerId};

use crate::epochs::LeaderEpochs;
use crate::producers::{ProducerBatch, ProducerState};

/// A checkpoint that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It is no such message.
    #[error("the checkpoint cannot be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
    /// It contradicts itself.
    #[error("the checkpoint contradicts itself: {0}")]
    Inconsistent(&'static str),
}

/// The durable state of a partition. The segments, if there are any, end at or before `flushed_end`. That is before `end`, but for
/// a replica that had pulled more than the snapshot that it took over; the log may then start behind `end` too, where what was
/// pulled came from a leader that had applied more. So `log_start ≤ max(end, flushed_end)`.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    pub log_start: Offset,
    /// Where the data that went to segments ends, though they may be gone. The entries behind the checkpoint go on here.
    pub flushed_end: Offset,
    /// The end of the batches that epochs and producers know of.
    pub end: Offset,
    pub epochs: LeaderEpochs,
    pub producers: HashMap<ProducerId, ProducerState>,
    pub segments: SegmentList,
    /// Segments that are no longer part of the log and whose files may still be there.
    pub retired: Vec<Offset>,
    /// See [`crate::Partition::decision`].
    pub decision: u32,
}

/// What of a partition goes into a checkpoint, see [`Durable`].
pub(crate) struct State<'a> {
    pub log_start: Offset,
    pub flushed_end: Offset,
    pub end: Offset,
    pub epochs: &'a LeaderEpochs,
    pub producers: &'a HashMap<ProducerId, ProducerState>,
    pub segments: &'a SegmentList,
    pub retired: Vec<Offset>,
    pub decision: u32,
}

#[derive(Clone, PartialEq, Message)]
struct StateMessage {
    #[prost(int64, tag = "1")]
    log_start: i64,
    #[prost(int64, tag = "2")]
    end: i64,
    #[prost(message, repeated, tag = "3")]
    epochs: Vec<EpochMessage>,
    #[prost(message, repeated, tag = "4")]
    producers: Vec<ProducerMessage>,
    #[prost(message, repeated, tag = "5")]
    segments: Vec<SegmentMessage>,
    #[prost(int64, tag = "6")]
    flushed_end: i64,
    #[prost(int64, repeated, tag = "7")]
    retired: Vec<i64>,
    #[prost(uint32, tag = "8")]
    decision: u32,
}

#[derive(Clone, PartialEq, Message)]
struct EpochMessage {
    #[prost(int32, tag = "1")]
    epoch: i32,
    #[prost(int64, tag = "2")]
    start: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ProducerMessage {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int32, tag = "2")]
    epoch: i32,
    #[prost(int64, tag = "3")]
    last_used_ms: i64,
    #[prost(message, repeated, tag = "4")]
    batches: Vec<BatchMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct BatchMessage {
    #[prost(int32, tag = "1")]
    first_sequence: i32,
    #[prost(int32, tag = "2")]
    last_sequence: i32,
    #[prost(int64, tag = "3")]
    base_offset: i64,
    #[prost(int64, tag = "4")]
    last_offset: i64,
    #[prost(int64, tag = "5")]
    timestamp_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
struct SegmentMessage {
    #[prost(int64, tag = "1")]
    base: i64,
    #[prost(int64, tag = "2")]
    end: i64,
    #[prost(uint64, tag = "3")]
    bytes: u64,
    #[prost(int64, tag = "4")]
    max_timestamp_ms: i64,
    #[prost(int64, optional, tag = "5")]
    first_timestamp_ms: Option<i64>,
    #[prost(int64, tag = "6")]
    created_ms: i64,
    #[prost(int64, tag = "7")]
    modified_ms: i64,
    #[prost(bool, tag = "8")]
    is_sealed: bool,
}

pub(crate) fn encode(state: &State<'_>) -> Bytes {
    let starts = state.epochs.starts().iter().filter(|_| !is_planted(Mutant::ForgetEpochs));
    let mut producers: Vec<ProducerMessage> = state.producers.iter().map(producer_message).collect();
    if is_planted(Mutant::ProducersNotInCheckpoint) {
        producers.clear();
    }
    // The same state gives the same bytes.
    producers.sort_unstable_by_key(|producer| producer.id);
    let message = StateMessage {
        log_start: if is_planted(Mutant::ResurrectDeletedRecords) { 0 } else { state.log_start.0 },
        end: state.end.0,
        epochs: starts.map(|(epoch, start)| EpochMessage { epoch: *epoch, start: start.0 }).collect(),
        producers,
        segments: state.segments.iter().map(segment_message).collect(),
        flushed_end: state.flushed_end.0,
        retired: state.retired.iter().map(|segment| segment.0).collect(),
        decision: state.decision,
    };
    message.encode_to_vec().into()
}

pub(crate) fn decode(state: &[u8]) -> Result<Durable, CheckpointError> {
    let message = StateMessage::decode(state)?;
    let starts: Vec<(i32, Offset)> = message.epochs.iter().map(|e| (e.epoch, Offset(e.start))).collect();
    if !starts.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1) {
        return Err(CheckpointError::Inconsistent("leader epochs do not grow"));
    }
    if !(0..=message.end.max(message.flushed_end)).contains(&message.log_start) {
        return Err(CheckpointError::Inconsistent("the log starts behind its end"));
    }
    if message.flushed_end < 0 || message.end < 0 {
        return Err(CheckpointError::Inconsistent("the log ends before the first offset"));
    }
    Ok(Durable {
        log_start: Offset(message.log_start),
        end: Offset(message.end),
        epochs: LeaderEpochs::restore(starts),
        producers: message.producers.into_iter().map(producer_state).collect::<Result<_, _>>()?,
        segments: segment_list(message.segments, message.flushed_end)?,
        retired: message.retired.into_iter().map(Offset).collect(),
        flushed_end: Offset(message.flushed_end),
        decision: message.decision,
    })
}

/// The offsets at which the log of a snapshot starts and ends.
///
/// # Errors
///
/// [`CheckpointError`], for all of the snapshot.
pub fn snapshot_range(snapshot: &[u8]) -> Result<(Offset, Offset), CheckpointError> {
    decode(snapshot).map(|durable| (durable.log_start, durable.end))
}

fn producer_message((id, state): (&ProducerId, &ProducerState)) -> ProducerMessage {
    let batches = state.batches.iter().map(|batch| BatchMessage {
        first_sequence: batch.first_sequence,
        last_sequence: batch.last_sequence,
        base_offset: batch.base_offset.0,
        last_offset: batch.last_offset.0,
        timestamp_ms: batch.timestamp_ms,
    });
    ProducerMessage {
        id: id.0,
        epoch: state.epoch.into(),
        last_used_ms: state.last_used_ms,
        batches: batches.collect(),
    }
}

fn producer_state(message: ProducerMessage) -> Result<(ProducerId, ProducerState), CheckpointError> {
    let epoch = i16::try_from(message.epoch)
        .map_err(|_| CheckpointError::Inconsistent("a producer's epoch does not fit 16 bits"))?;
    let batches: VecDeque<ProducerBatch> = message
        .batches
        .into_iter()
        .map(|batch| ProducerBatch {
            first_sequence: batch.first_sequence,
            last_sequence: batch.last_sequence,
            base_offset: Offset(batch.base_offset),
            last_offset: Offset(batch.last_offset),
            timestamp_ms: batch.timestamp_ms,
        })
        .collect();
    Ok((ProducerId(message.id), ProducerState { epoch, batches, last_used_ms: message.last_used_ms }))
}

fn segment_message(segment: &SegmentInfo) -> SegmentMessage {
    SegmentMessage {
        base: segment.base.0,
        end: segment.end.0,
        bytes: segment.bytes,
        max_timestamp_ms: segment.max_timestamp_ms,
        first_timestamp_ms: segment.first_timestamp_ms,
        created_ms: segment.created_ms,
        modified_ms: segment.modified_ms,
        is_sealed: segment.is_sealed,
    }
}

fn segment_list(messages: Vec<SegmentMessage>, flushed_end: i64) -> Result<SegmentList, CheckpointError> {
    let ordered = messages.is_sorted_by(|a, b| a.is_sealed && a.end <= b.base && a.base < b.base);
    let whole = messages.iter().all(|segment| 0 <= segment.base && segment.base <= segment.end);
    if !ordered || !whole || messages.last().is_some_and(|last| last.end > flushed_end) {
        return Err(CheckpointError::Inconsistent("segments overlap or end behind what was flushed"));
    }
    let mut segments = SegmentList::new();
    for message in messages {
        segments.push(SegmentInfo {
            base: Offset(message.base),
            end: Offset(message.end),
            bytes: message.bytes,
            max_timestamp_ms: message.max_timestamp_ms,
            first_timestamp_ms: message.first_timestamp_ms,
            created_ms: message.created_ms,
            modified_ms: message.modified_ms,
            is_sealed: message.is_sealed,
        });
    }
    Ok(segments)
}
