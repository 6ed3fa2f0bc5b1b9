//! Invariant 10, what replicas show while the run lasts, and 13, that they have the same bytes in the end.

use std::collections::{BTreeMap, HashMap};

use super::{Counts, Findings, Invariant, records::Records};
use crate::history::{BatchSummary, Line, Operation, Outcome, TopicPartition};

#[derive(Clone, Copy, Debug)]
struct Marks {
    incarnation: u64,
    leader_epoch: i32,
    log_start: i64,
    last_stable: i64,
    high_watermark: i64,
}

/// An idempotent producer in one of its epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Writer {
    producer_id: i64,
    epoch: i16,
}

#[derive(Debug, Default)]
struct Replica {
    batches: Vec<BatchSummary>,
    /// First offset and end; none as long as it was not read to its end.
    complete: Option<(i64, i64)>,
    failure: Option<String>,
}

/// All replicas.
#[derive(Debug, Default)]
pub struct Replicas {
    marks: HashMap<(i32, TopicPartition), Marks>,
    /// The highest watermark that anybody was shown of each partition, with the node.
    highest: BTreeMap<TopicPartition, (i64, i32)>,
    expected: BTreeMap<TopicPartition, Vec<i32>>,
    read: BTreeMap<TopicPartition, BTreeMap<i32, Replica>>,
}

impl Replicas {
    /// Takes note of what a line says about replicas.
    pub fn absorb(&mut self, line: &Line, findings: &mut Findings, counts: &mut Counts) {
        match &line.operation {
            Operation::Watermarks {
                node,
                incarnation,
                leader_epoch,
                at,
                log_start,
                last_stable,
                high_watermark,
            } => {
                let marks = Marks {
                    incarnation: *incarnation,
                    leader_epoch: *leader_epoch,
                    log_start: *log_start,
                    last_stable: *last_stable,
                    high_watermark: *high_watermark,
                };
                self.on_marks(*node, at, marks, findings);
            }
            Operation::Replicas { at, nodes } => {
                self.expected.insert(at.clone(), nodes.clone());
            }
            Operation::Replica { node, at, batches } => {
                counts.batches += batches.len() as u64;
                self.replica(at, *node).batches.extend_from_slice(batches);
            }
            Operation::ReplicaRead { node, at, log_start, end } => {
                let replica = self.replica(at, *node);
                if line.outcome == Outcome::Ok {
                    counts.replicas_read += 1;
                    replica.complete = Some((*log_start, *end));
                } else {
                    replica.failure = line.error.clone();
                }
            }
            _ => {}
        }
    }

    /// The batches of a replica that was read to its end, if there is one.
    pub fn complete(&self, at: &TopicPartition) -> Option<&[BatchSummary]> {
        let replica = self.read.get(at)?.values().find(|replica| replica.complete.is_some())?;
        Some(&replica.batches)
    }

    fn replica(&mut self, at: &TopicPartition, node: i32) -> &mut Replica {
        self.read.entry(at.clone()).or_default().entry(node).or_default()
    }

    fn on_marks(&mut self, node: i32, at: &TopicPartition, marks: Marks, findings: &mut Findings) {
        let Marks { log_start, last_stable, high_watermark, .. } = marks;
        if !(log_start <= last_stable && last_stable <= high_watermark) {
            findings.add(Invariant::Watermarks, || {
                format!("{at} on node {node}: start {log_start}, stable {last_stable}, high {high_watermark}")
            });
        }
        let highest = self.highest.entry(at.clone()).or_insert((high_watermark, node));
        *highest = (*highest).max((high_watermark, node));
        let Some(before) = self.marks.insert((node, at.clone()), marks) else { return };
        if (before.incarnation, before.leader_epoch) != (marks.incarnation, marks.leader_epoch) {
            // A replica that starts again learns anew how far the others are; and Kafka's new leader may not know yet
            // how far its predecessor had told others to be.
            return;
        }
        for (name, before, now) in [
            ("log start", before.log_start, log_start),
            ("last stable offset", before.last_stable, last_stable),
            ("high watermark", before.high_watermark, high_watermark),
        ] {
            if now < before {
                findings.add(Invariant::Watermarks, || {
                    format!("{at} on node {node}: the {name} went back from {before} to {now}")
                });
            }
        }
    }

    /// Who wrote the record at an offset; none when no replica was read that has it.
    pub fn writer(&self, at: &TopicPartition, offset: i64) -> Option<Writer> {
        let replica = self.read.get(at)?.values().find(|replica| replica.complete.is_some())?;
        let behind = replica.batches.partition_point(|batch| batch.base_offset <= offset);
        let batch = &replica.batches[behind.checked_sub(1)?];
        Some(Writer { producer_id: batch.producer_id, epoch: batch.producer_epoch })
    }

    /// Compares replicas, and what was shown with what is there.
    pub fn conclude(&self, records: &Records, is_ended: bool, findings: &mut Findings) {
        for (at, &(shown, node)) in &self.highest {
            if let Some(end) = records.end(at).filter(|&end| end < shown) {
                findings.add(Invariant::Watermarks, || {
                    format!("{at}: node {node} showed the high watermark {shown}, and the end is {end}")
                });
            }
        }
        for (at, nodes) in self.expected.iter().filter(|_| is_ended) {
            self.check_complete(at, nodes, records, findings);
        }
        for (at, replicas) in &self.read {
            let complete: Vec<_> = replicas
                .iter()
                .filter_map(|(&node, replica)| Some((node, replica, replica.complete?.0)))
                .collect();
            if let Some((_, replica, _)) = complete.first() {
                check_sequences(at, &replica.batches, findings);
            }
            for pair in complete.windows(2) {
                let [(left, left_replica, left_start), (right, right_replica, right_start)] = pair else {
                    continue;
                };
                let start = *left_start.max(right_start);
                if let Some(why) = difference(&left_replica.batches, &right_replica.batches, start) {
                    findings.add(Invariant::Replicas, || format!("{at} on nodes {left} and {right}: {why}"));
                }
            }
        }
    }

    fn check_complete(&self, at: &TopicPartition, nodes: &[i32], records: &Records, findings: &mut Findings) {
        let end = records.end(at).unwrap_or(0);
        for &node in nodes {
            let replica = self.read.get(at).and_then(|replicas| replicas.get(&node));
            match replica {
                Some(Replica { complete: Some((_, reached)), .. }) if *reached >= end => {}
                Some(Replica { failure: Some(why), .. }) => findings.add(Invariant::Unseen, || {
                    format!("{at} on node {node} could not be read to its end {end}: {why}")
                }),
                Some(_) | None => {
                    findings.add(Invariant::Unseen, || {
                        format!("{at} on node {node} was not read to its end {end}")
                    });
                }
            }
        }
    }
}

/// Each producer's batches follow one another without gap or repetition, and no epoch comes back.
fn check_sequences(at: &TopicPartition, batches: &[BatchSummary], findings: &mut Findings) {
    // By producer: its epoch and its next sequence.
    let mut next: HashMap<i64, (i16, i64)> = HashMap::new();
    for batch in batches.iter().filter(|batch| batch.producer_id >= 0) {
        let (epoch, sequence) = (batch.producer_epoch, batch.base_sequence);
        let records = batch.last_offset.wrapping_sub(batch.base_offset).wrapping_add(1);
        // Sequences go on from 0 behind the largest.
        let behind = i64::from(sequence).wrapping_add(records) & i64::from(i32::MAX);
        let Some((last_epoch, expected)) = next.insert(batch.producer_id, (epoch, behind)) else { continue };
        let is_next = if epoch == last_epoch {
            i64::from(sequence) == expected
        } else {
            epoch > last_epoch && sequence == 0
        };
        if !is_next {
            findings.add(Invariant::Duplicate, || {
                format!(
                    "{at} offset {}: producer {} wrote sequence {sequence} of epoch {epoch}, where {expected} of \
                     epoch {last_epoch} was next",
                    batch.base_offset, batch.producer_id
                )
            });
        }
    }
}

/// The first batch from `start` on that the two have not both.
fn difference(left: &[BatchSummary], right: &[BatchSummary], start: i64) -> Option<String> {
    let from_start = |batches: &[BatchSummary]| {
        batches.iter().filter(|batch| batch.base_offset >= start).cloned().collect::<Vec<_>>()
    };
    let (left, right) = (from_start(left), from_start(right));
    let longest = left.len().max(right.len());
    (0..longest).find(|&index| left.get(index) != right.get(index)).map(|index| {
        let show = |batch: Option<&BatchSummary>| match batch {
            Some(batch) => format!(
                "offsets {} to {}, {} bytes, checksum {:08x}",
                batch.base_offset, batch.last_offset, batch.bytes, batch.checksum
            ),
            None => "no batch".to_owned(),
        };
        format!("{} against {}", show(left.get(index)), show(right.get(index)))
    })
}
