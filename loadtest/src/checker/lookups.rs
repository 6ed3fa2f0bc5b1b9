//! Invariant 11: a look-up by time skips no record, and an epoch ends where the next one begins.

use super::{Counts, Findings, Invariant, replicas::Replicas};
use crate::history::{BatchSummary, Line, Operation, Outcome, TopicPartition};

/// The answers to look-ups. They are asked for when nothing is written any more.
#[derive(Debug, Default)]
pub struct LookUps {
    times: Vec<(TopicPartition, i64, Option<i64>)>,
    epochs: Vec<(TopicPartition, i32, i64)>,
}

impl LookUps {
    /// Takes note of what a line says about look-ups.
    pub fn absorb(&mut self, line: &Line, counts: &mut Counts) {
        match &line.operation {
            Operation::TimeLookUp { at, timestamp_ms, offset } if line.outcome == Outcome::Ok => {
                counts.look_ups += 1;
                self.times.push((at.clone(), *timestamp_ms, *offset));
            }
            Operation::EpochLookUp { at, epoch, offset } if line.outcome == Outcome::Ok => {
                counts.look_ups += 1;
                self.epochs.push((at.clone(), *epoch, *offset));
            }
            _ => {}
        }
    }

    /// Judges each answer by what the replicas hold.
    pub fn conclude(&self, replicas: &Replicas, findings: &mut Findings) {
        for (at, timestamp_ms, offset) in &self.times {
            let Some(batches) = replicas.complete(at) else { continue };
            let first = batches.iter().find(|batch| batch.timestamp_ms_max >= *timestamp_ms);
            // Which record of the batch it is, its bytes would tell.
            let is_right = match (first, offset) {
                (Some(batch), Some(offset)) => (batch.base_offset..=batch.last_offset).contains(offset),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if !is_right {
                findings.add(Invariant::LookUps, || {
                    let expected = first.map(|batch| (batch.base_offset, batch.last_offset));
                    format!("{at}: {timestamp_ms} ms is found at {offset:?}, and stands in {expected:?}")
                });
            }
        }
        for (at, epoch, offset) in &self.epochs {
            let Some(batches) = replicas.complete(at) else { continue };
            let Some(expected) = epoch_end(batches, *epoch) else { continue };
            if *offset != expected {
                findings.add(Invariant::LookUps, || {
                    format!("{at}: epoch {epoch} is said to end at {offset}, and ends at {expected}")
                });
            }
        }
    }
}

/// Where a later epoch begins, or the end. Epochs without a record do not matter: they end where they begin.
fn epoch_end(batches: &[BatchSummary], epoch: i32) -> Option<i64> {
    let next = batches.iter().find(|batch| batch.leader_epoch > epoch).map(|batch| batch.base_offset);
    next.or_else(|| batches.last().map(|batch| batch.last_offset + 1))
}
