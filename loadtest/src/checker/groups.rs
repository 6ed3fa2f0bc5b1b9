//! Invariant 9: where a group stands was committed by a member and never goes back; in each generation a partition has
//! one owner.

use std::collections::HashMap;

use super::{Counts, Findings, Invariant};
use crate::history::{Line, Operation, Outcome, TopicPartition};

#[derive(Clone, Copy, Debug)]
struct Commit {
    start_us: u64,
    end_us: u64,
    offset: i64,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug)]
struct Read {
    start_us: u64,
    end_us: u64,
    offset: Option<i64>,
}

#[derive(Debug, Default)]
struct Offsets {
    commits: Vec<Commit>,
    reads: Vec<Read>,
}

/// How long after its healing a node may still not know what was decided without it.
const LEARNING_US: u64 = 3_000_000;

/// A time in which a coordinator may answer that has been replaced.
#[derive(Clone, Copy, Debug)]
struct Blur {
    start_us: u64,
    end_us: u64,
}

/// All groups' offsets.
#[derive(Debug, Default)]
pub struct Groups {
    offsets: HashMap<(String, TopicPartition), Offsets>,
    blurs: Vec<Blur>,
    /// By group, generation and partition.
    owners: HashMap<(String, i32, TopicPartition), String>,
}

impl Groups {
    /// Takes note of what a line says about groups.
    pub fn absorb(&mut self, line: &Line, findings: &mut Findings, counts: &mut Counts) {
        let (start_us, end_us) = (line.start_us, line.end_us);
        match &line.operation {
            Operation::Commit { group, at, offset } => {
                counts.commits += u64::from(line.outcome == Outcome::Ok);
                let commit = Commit { start_us, end_us, offset: *offset, outcome: line.outcome };
                self.offsets.entry((group.clone(), at.clone())).or_default().commits.push(commit);
            }
            Operation::Committed { group, at, offset } if line.outcome == Outcome::Ok => {
                counts.committed_reads += 1;
                let read = Read { start_us, end_us, offset: *offset };
                self.offsets.entry((group.clone(), at.clone())).or_default().reads.push(read);
            }
            Operation::Assigned { group, generation, partitions } => {
                counts.assignments += 1;
                for at in partitions {
                    self.on_owner(group, *generation, at, &line.process, findings);
                }
            }
            Operation::ForeignCommit { group } => {
                counts.foreign_commits += 1;
                if line.outcome == Outcome::Ok {
                    findings.add(Invariant::GroupOffsets, || {
                        format!("{group} at {} s: a commit by no member was taken", end_us / 1_000_000)
                    });
                }
            }
            Operation::Fault { leaves_behind: true, .. } => {
                self.blurs.push(Blur { start_us, end_us: end_us + LEARNING_US });
            }
            _ => {}
        }
    }

    fn on_owner(
        &mut self,
        group: &str,
        generation: i32,
        at: &TopicPartition,
        process: &str,
        findings: &mut Findings,
    ) {
        let key = (group.to_owned(), generation, at.clone());
        let owner = self.owners.entry(key).or_insert_with(|| process.to_owned());
        if owner != process {
            findings.add(Invariant::OneOwner, || {
                format!("{group}, generation {generation}: {at} is {owner}'s and {process}'s")
            });
        }
    }

    /// Judges each answer.
    pub fn conclude(&mut self, findings: &mut Findings) {
        let mut all: Vec<_> = self.offsets.iter_mut().collect();
        all.sort_by(|left, right| left.0.cmp(right.0));
        for ((group, at), offsets) in all {
            offsets.reads.sort_by_key(|read| read.end_us);
            offsets.commits.sort_by_key(|commit| commit.end_us);
            for index in 0..offsets.reads.len() {
                if let Some(why) = offsets.wrong(index, &self.blurs) {
                    let seconds = offsets.reads[index].end_us / 1_000_000;
                    findings.add(Invariant::GroupOffsets, || format!("{group}, {at} at {seconds} s: {why}"));
                }
            }
        }
    }
}

impl Offsets {
    /// What is wrong with an answer, if anything.
    fn wrong(&self, index: usize, blurs: &[Blur]) -> Option<String> {
        let read = self.reads[index];
        // Kafka lets a coordinator that is cut off answer from memory. What it says was true once.
        let may_be_old =
            blurs.iter().any(|blur| read.start_us <= blur.end_us && blur.start_us <= read.end_us);
        // Whatever was acknowledged, or read, before the question was asked.
        let acknowledged = self
            .commits
            .iter()
            .take_while(|commit| commit.end_us <= read.start_us)
            .filter(|commit| commit.outcome == Outcome::Ok)
            .map(|commit| commit.offset);
        let seen = self.reads[..index]
            .iter()
            .filter(|other| other.end_us <= read.start_us)
            .filter_map(|read| read.offset);
        let floor = acknowledged.chain(seen).max();
        let Some(offset) = read.offset else {
            return floor
                .filter(|_| !may_be_old)
                .map(|floor| format!("nothing is committed, but {floor} was"));
        };
        let mut attempts = self
            .commits
            .iter()
            .filter(|commit| commit.offset == offset && commit.start_us <= read.end_us)
            .map(|commit| commit.outcome)
            .filter(|&outcome| outcome != Outcome::Fail)
            .peekable();
        if attempts.peek().is_none() {
            return Some(format!("it stands at {offset}, which nobody committed"));
        }
        // A commit that timed out may have been taken late.
        let may_be_late = attempts.any(|outcome| outcome == Outcome::Info);
        floor
            .filter(|&floor| offset < floor && !may_be_late && !may_be_old)
            .map(|floor| format!("it stands at {offset}, but {floor} was committed before"))
    }
}
