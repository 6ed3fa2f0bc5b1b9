//! Invariant 7: under manual assignment a consumer's offsets only grow, without skipping a visible record.

use std::collections::HashMap;

use super::{Findings, Invariant, records::Records};
use crate::history::{Line, Operation, TopicPartition};

/// A stretch that a consumer passed over; whether there was something is known at the end only.
#[derive(Debug)]
struct Gap {
    process: String,
    at: TopicPartition,
    from: i64,
    to: i64,
}

/// The consumers that were assigned partitions.
#[derive(Debug, Default)]
pub struct Readers {
    /// By consumer: the last offset that it was handed of each partition, or the one before the first it asked for.
    /// Members of groups are not in here: across a rebalance they may repeat and skip.
    positions: HashMap<String, HashMap<TopicPartition, i64>>,
    gaps: Vec<Gap>,
}

impl Readers {
    /// Takes note of what a line says about readers.
    pub fn absorb(&mut self, line: &Line, findings: &mut Findings) {
        match &line.operation {
            Operation::Assign { at, offset } => {
                self.positions.entry(line.process.clone()).or_default().insert(at.clone(), offset - 1);
            }
            Operation::Poll { at, records } => {
                let Some(position) = self.positions.get_mut(&line.process).and_then(|all| all.get_mut(at))
                else {
                    return;
                };
                for &(offset, _) in records {
                    let last = std::mem::replace(position, offset);
                    if offset <= last {
                        findings.add(Invariant::MonotonePoll, || {
                            format!("{}: {at} offset {offset} came behind {last}", line.process)
                        });
                    } else if offset > last + 1 {
                        let process = line.process.clone();
                        self.gaps.push(Gap { process, at: at.clone(), from: last, to: offset });
                    }
                }
            }
            Operation::Reset => findings.add(Invariant::MonotonePoll, || {
                format!(
                    "{} at {} s: the offset that it had reached does not exist",
                    line.process,
                    line.end_us / 1_000_000
                )
            }),
            _ => {}
        }
    }

    /// Judges the gaps.
    pub fn conclude(&self, records: &Records, findings: &mut Findings) {
        for Gap { process, at, from, to } in &self.gaps {
            if let Some(skipped) = records.between(at, *from, *to) {
                findings.add(Invariant::MonotonePoll, || {
                    format!("{process}: {at} offset {to} came behind {from}, and {skipped} was skipped")
                });
            }
        }
    }
}
