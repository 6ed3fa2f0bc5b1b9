//! Invariants 1 to 4 and 8: what was acknowledged is there, once, at its offset, in order.
//!
//! A long run has millions of records, so that a value is kept as numbers: of its producer and in its sequence.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    Counts, Findings, Invariant,
    replicas::{Replicas, Writer},
};
use crate::history::{Line, Operation, Outcome, TopicPartition, Value};

/// What is known of one partition: the union of acknowledgements and reads.
#[derive(Debug, Default)]
struct Partition {
    known: BTreeMap<i64, Known>,
    drained_until: Option<Drained>,
}

#[derive(Clone, Copy, Debug)]
struct Drained {
    log_start: i64,
    end: i64,
    is_complete: bool,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    value: Id,
    is_acknowledged: bool,
    is_polled: bool,
    is_drained: bool,
}

/// A value: the number of its producer, and its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Id(u32, u64);

/// Numbers for the names of producers.
#[derive(Debug, Default)]
struct Names {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
}

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = u32::try_from(self.names.len()).expect("a run has few producers");
        self.numbers.insert(name.to_owned(), number);
        self.names.push(name.to_owned());
        number
    }

    fn id(&mut self, value: &Value) -> Id {
        Id(self.number(&value.0), value.1)
    }

    fn show(&self, id: Id) -> String {
        format!("{} {}", self.names[id.0 as usize], id.1)
    }
}

/// How a value became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Acknowledged,
    Polled,
    Drained,
}

/// All partitions and producers.
#[derive(Debug, Default)]
pub struct Records {
    partitions: BTreeMap<TopicPartition, Partition>,
    names: Names,
    idempotent: BTreeSet<u32>,
    failed: BTreeSet<Id>,
    /// Acknowledged as duplicates of what stands at an offset that the broker did not tell.
    anywhere: Vec<(TopicPartition, Id)>,
}

impl Records {
    /// Takes note of what a line says about records.
    pub fn absorb(&mut self, line: &Line, findings: &mut Findings, counts: &mut Counts) {
        match &line.operation {
            Operation::Producer { idempotent: true } => {
                let number = self.names.number(&line.process);
                self.idempotent.insert(number);
            }
            Operation::Send { at, sequence, offset } => {
                let value = Id(self.names.number(&line.process), *sequence);
                match (line.outcome, offset) {
                    (Outcome::Ok, Some(offset)) => {
                        counts.acknowledged += 1;
                        self.learn(at, *offset, value, Source::Acknowledged, findings);
                    }
                    (Outcome::Fail, _) => {
                        self.failed.insert(value);
                    }
                    (Outcome::Ok, None) => {
                        counts.acknowledged += 1;
                        self.anywhere.push((at.clone(), value));
                    }
                    (Outcome::Info, _) => counts.indefinite += 1,
                }
            }
            Operation::Poll { at, records } => {
                counts.polled += records.len() as u64;
                for (offset, value) in records {
                    let value = self.names.id(value);
                    self.learn(at, *offset, value, Source::Polled, findings);
                }
            }
            Operation::Drain { at, records } => {
                counts.drained += records.len() as u64;
                for (offset, value) in records {
                    let value = self.names.id(value);
                    self.learn(at, *offset, value, Source::Drained, findings);
                }
            }
            Operation::Drained { at, log_start, end } => {
                let is_complete = line.outcome == Outcome::Ok;
                let drained = Drained { log_start: *log_start, end: *end, is_complete };
                self.partitions.entry(at.clone()).or_default().drained_until = Some(drained);
            }
            Operation::Corrupt { at, offset } => findings.add(Invariant::InconsistentOffset, || {
                format!("{at} offset {offset}: {} read bytes that no producer wrote", line.process)
            }),
            _ => {}
        }
    }

    fn learn(
        &mut self,
        at: &TopicPartition,
        offset: i64,
        value: Id,
        source: Source,
        findings: &mut Findings,
    ) {
        if !self.partitions.contains_key(at) {
            self.partitions.insert(at.clone(), Partition::default());
        }
        let partition = self.partitions.get_mut(at).expect("it has just been made");
        let known = partition.known.entry(offset).or_insert_with(|| Known {
            value,
            is_acknowledged: false,
            is_polled: false,
            is_drained: false,
        });
        if known.value != value {
            findings.add(Invariant::InconsistentOffset, || {
                let (first, second) = (self.names.show(known.value), self.names.show(value));
                format!("{at} offset {offset}: {first}, and {second} ({source:?})")
            });
        }
        match source {
            Source::Acknowledged => known.is_acknowledged = true,
            Source::Polled => known.is_polled = true,
            Source::Drained => known.is_drained = true,
        }
    }

    /// A visible record of a partition between two offsets, both excluded.
    pub fn between(&self, at: &TopicPartition, from: i64, to: i64) -> Option<i64> {
        self.partitions.get(at)?.known.range(from + 1..to).next().map(|(&offset, _)| offset)
    }

    /// The end of a partition as the last reader saw it.
    pub fn end(&self, at: &TopicPartition) -> Option<i64> {
        Some(self.partitions.get(at)?.drained_until?.end)
    }

    /// Judges what needs the whole history. One that is not ended lacks a read-back, for which nobody is to blame.
    pub fn conclude(&self, replicas: &Replicas, is_ended: bool, findings: &mut Findings) {
        for (at, partition) in &self.partitions {
            if is_ended || partition.drained_until.is_some() {
                check_present(at, partition, &self.names, findings);
            }
            self.check_order(at, partition, replicas, findings);
        }
        self.check_once(replicas, findings);
        self.check_failed(findings);
        self.check_anywhere(findings);
    }

    fn check_anywhere(&self, findings: &mut Findings) {
        if self.anywhere.is_empty() {
            return;
        }
        let drained: BTreeSet<(&TopicPartition, Id)> = self
            .partitions
            .iter()
            .flat_map(|(at, partition)| partition.known.values().map(move |known| (at, known)))
            .filter(|(_, known)| known.is_drained)
            .map(|(at, known)| (at, known.value))
            .collect();
        for (at, value) in self.anywhere.iter().filter(|(at, value)| !drained.contains(&(at, *value))) {
            findings.add(Invariant::Unseen, || format!("{at}: {} was acknowledged", self.names.show(*value)));
        }
    }

    /// No value stands at two offsets, nor in two partitions, with idempotence. Where the two were written under
    /// different epochs, it was the client who wrote twice.
    fn check_once(&self, replicas: &Replicas, findings: &mut Findings) {
        let mut places: HashMap<Id, (&TopicPartition, i64)> = HashMap::new();
        for (at, partition) in &self.partitions {
            for (&offset, known) in &partition.known {
                if !self.idempotent.contains(&known.value.0) {
                    continue;
                }
                if let Some((other, other_offset)) = places.insert(known.value, (at, offset)) {
                    if replicas.writer(other, other_offset) != replicas.writer(at, offset) {
                        continue;
                    }
                    findings.add(Invariant::Duplicate, || {
                        let value = self.names.show(known.value);
                        format!("{value} stands at {other} offset {other_offset} and {at} {offset}")
                    });
                }
            }
        }
    }

    fn check_failed(&self, findings: &mut Findings) {
        for (at, partition) in &self.partitions {
            for (offset, known) in &partition.known {
                if (known.is_polled || known.is_drained) && self.failed.contains(&known.value) {
                    findings.add(Invariant::FailedWriteRead, || {
                        format!("{at} offset {offset}: {} had failed", self.names.show(known.value))
                    });
                }
            }
        }
    }

    /// Under one epoch offsets grow with the sequence.
    fn check_order(
        &self,
        at: &TopicPartition,
        partition: &Partition,
        replicas: &Replicas,
        findings: &mut Findings,
    ) {
        let mut last: HashMap<(u32, Option<Writer>), u64> = HashMap::new();
        for (&offset, known) in &partition.known {
            let Id(number, sequence) = known.value;
            if !self.idempotent.contains(&number) {
                continue;
            }
            let before = last.insert((number, replicas.writer(at, offset)), sequence);
            if let Some(before) = before.filter(|&before| before > sequence) {
                findings.add(Invariant::MonotoneSend, || {
                    format!("{at} offset {offset}: {} stands behind {before}", self.names.show(known.value))
                });
            }
        }
    }
}

/// Everything acknowledged or ever read is read by the last reader, above the log's start.
fn check_present(at: &TopicPartition, partition: &Partition, names: &Names, findings: &mut Findings) {
    let Some(drained) = partition.drained_until else {
        if let Some((offset, _)) = partition.known.first_key_value() {
            findings.add(Invariant::Unseen, || {
                format!("{at} was not read back, though offset {offset} is known")
            });
        }
        return;
    };
    if !drained.is_complete {
        findings
            .add(Invariant::Unseen, || format!("{at} could not be read to its end {} in time", drained.end));
    }
    let highest = partition.known.iter().rev().find(|(_, known)| known.is_drained).map(|(&offset, _)| offset);
    for (&offset, known) in partition.known.range(drained.log_start..) {
        if known.is_drained {
            continue;
        }
        let invariant = if highest.is_some_and(|highest| offset < highest) {
            Invariant::LostWrite
        } else {
            Invariant::Unseen
        };
        findings.add(invariant, || {
            let how = if known.is_acknowledged { "acknowledged" } else { "read once" };
            let value = names.show(known.value);
            format!("{at} offset {offset}: {value} was {how}; the end is {}", drained.end)
        });
    }
}
