//! The judge: reads a history and says which invariants it breaks. Pure; it knows nothing of how the run was made.
//!
//! What Kafka allows does not alarm: offsets with gaps, repeats and skips of a group across a rebalance, a duplicate of
//! a plain producer, a write that timed out and happened all the same, a follower that lags.

mod groups;
mod latency;
mod lookups;
mod outage;
mod readers;
mod records;
mod replicas;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use self::{
    groups::Groups, latency::Latencies, lookups::LookUps, outage::Outages, readers::Readers,
    records::Records, replicas::Replicas,
};
use crate::{
    error::LoadtestError,
    history::{Line, Operation, Outcome, RunFacts},
};

pub use self::latency::Quantiles;
pub use self::outage::FaultReport;

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Invariant {
    /// An acknowledged record, or one that was read once, is there below the last offset that is read.
    LostWrite,
    /// Everything acknowledged is read in the end.
    Unseen,
    /// With idempotence a value stands at one offset only, and a producer's batches of one epoch in the order of their
    /// sequences. A client that begins a new epoch may repeat what it had no answer to.
    Duplicate,
    /// A partition and an offset have one value, in every answer and every read.
    InconsistentOffset,
    /// A write that failed for certain is not read.
    FailedWriteRead,
    /// By assignment a consumer's offsets only grow, and no visible record is skipped.
    MonotonePoll,
    /// One producer's acknowledged records to one partition stand in order.
    MonotoneSend,
    /// A group's committed offset never goes back and was committed by somebody, who was a member.
    GroupOffsets,
    /// A partition has one owner in each generation of a group.
    OneOwner,
    /// A look-up by time skips no record; an epoch ends where the next begins.
    LookUps,
    /// Watermarks of a replica only grow while its process lives, in their order, and never beyond what is there.
    Watermarks,
    /// Replicas have the same bytes.
    Replicas,
    /// An acknowledged topic is there.
    Metadata,
    /// Writes resume in time after a fault.
    BoundedOutage,
    /// Where it is bounded, the p99 of acknowledgements stays within so many times that of quiet times.
    Slowdown,
    /// Where none may, no producer sees an error.
    ProducerError,
    /// A topic can be produced to as soon as CreateTopics has answered, without an error that passes.
    FreshTopic,
    /// No broker ends by itself.
    Crash,
}

impl Invariant {
    /// All of them.
    pub const ALL: [Invariant; 18] = [
        Invariant::LostWrite,
        Invariant::Unseen,
        Invariant::Duplicate,
        Invariant::InconsistentOffset,
        Invariant::FailedWriteRead,
        Invariant::MonotonePoll,
        Invariant::MonotoneSend,
        Invariant::GroupOffsets,
        Invariant::OneOwner,
        Invariant::LookUps,
        Invariant::Watermarks,
        Invariant::Replicas,
        Invariant::Metadata,
        Invariant::BoundedOutage,
        Invariant::Slowdown,
        Invariant::ProducerError,
        Invariant::FreshTopic,
        Invariant::Crash,
    ];
}

impl fmt::Display for Invariant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Invariant::LostWrite => "lost write",
            Invariant::Unseen => "unseen",
            Invariant::Duplicate => "duplicate",
            Invariant::InconsistentOffset => "inconsistent offset",
            Invariant::FailedWriteRead => "failed write read",
            Invariant::MonotonePoll => "monotone poll",
            Invariant::MonotoneSend => "monotone send",
            Invariant::GroupOffsets => "group offsets",
            Invariant::OneOwner => "one owner",
            Invariant::LookUps => "time and epoch look-ups",
            Invariant::Watermarks => "watermarks",
            Invariant::Replicas => "replicas",
            Invariant::Metadata => "metadata",
            Invariant::BoundedOutage => "bounded outage",
            Invariant::Slowdown => "slowdown",
            Invariant::ProducerError => "producer error",
            Invariant::FreshTopic => "fresh topic",
            Invariant::Crash => "crash",
        })
    }
}

/// Examples that are kept of each anomaly; the rest is counted.
const EXAMPLES_MAX: usize = 5;

/// What was found against one invariant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How often.
    pub count: u64,
    /// The first few, in words.
    pub examples: Vec<String>,
}

/// All that was found.
#[derive(Debug, Default)]
pub struct Findings(BTreeMap<Invariant, Finding>);

impl Findings {
    /// Takes note of an anomaly.
    fn add(&mut self, invariant: Invariant, example: impl FnOnce() -> String) {
        let finding = self.0.entry(invariant).or_default();
        finding.count += 1;
        if finding.examples.len() < EXAMPLES_MAX {
            finding.examples.push(example());
        }
    }
}

/// How a history is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything was read back and nothing is wrong.
    Pass,
    /// An invariant is broken.
    Fail,
    /// Nothing wrong was found, but the history ends before everything was read back.
    Unknown,
}

/// The judgement.
#[derive(Clone, Debug, Serialize)]
pub struct Judgement {
    /// In one word.
    pub verdict: Verdict,
    /// What the run was; none when the history does not say.
    pub run: Option<RunFacts>,
    /// What is wrong.
    pub findings: BTreeMap<Invariant, Finding>,
    /// Each fault and how long writes stood still for it.
    pub faults: Vec<FaultReport>,
    /// From send to acknowledgement, in quiet times.
    pub quiet: Quantiles,
    /// How much was checked.
    pub counts: Counts,
}

/// How much was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Lines of the history.
    pub lines: u64,
    /// Records that were acknowledged.
    pub acknowledged: u64,
    /// Records of which nobody knows.
    pub indefinite: u64,
    /// Records that were handed to consumers, with repeats.
    pub polled: u64,
    /// Records that the last reader was handed.
    pub drained: u64,
    /// Commits that were acknowledged.
    pub commits: u64,
    /// Answers about where the group stands.
    pub committed_reads: u64,
    /// Replicas that were read to their end.
    pub replicas_read: u64,
    /// Batches compared between replicas.
    pub batches: u64,
    /// What members were given by rebalances.
    pub assignments: u64,
    /// Attempts of somebody who is no member to commit.
    pub foreign_commits: u64,
    /// Answers to look-ups by time and epoch.
    pub look_ups: u64,
    /// Topics that were produced to as soon as they were made.
    pub fresh_topics: u64,
    /// Those of them whose leaders the node that was asked did not know at once, and the longest that this took.
    pub fresh_topics_asked_again: u64,
    pub fresh_topics_known_us_max: u64,
}

/// Judges a history, line by line.
///
/// # Errors
///
/// Those of the lines.
pub fn check(lines: impl Iterator<Item = Result<Line, LoadtestError>>) -> Result<Judgement, LoadtestError> {
    let mut checker = Checker::default();
    for line in lines {
        checker.absorb(line?);
    }
    Ok(checker.conclude())
}

#[derive(Default)]
struct Checker {
    run: Option<RunFacts>,
    findings: Findings,
    counts: Counts,
    records: Records,
    readers: Readers,
    groups: Groups,
    replicas: Replicas,
    outages: Outages,
    latencies: Latencies,
    look_ups: LookUps,
    topics_acknowledged: Vec<String>,
    topics_found: Option<Vec<String>>,
    is_ended: bool,
}

impl Checker {
    fn absorb(&mut self, line: Line) {
        self.counts.lines += 1;
        self.records.absorb(&line, &mut self.findings, &mut self.counts);
        self.readers.absorb(&line, &mut self.findings);
        self.groups.absorb(&line, &mut self.findings, &mut self.counts);
        self.replicas.absorb(&line, &mut self.findings, &mut self.counts);
        self.outages.absorb(&line);
        self.latencies.absorb(&line);
        self.look_ups.absorb(&line, &mut self.counts);
        self.absorb_run(line);
    }

    /// What concerns the run as a whole.
    fn absorb_run(&mut self, line: Line) {
        match line.operation {
            Operation::Run(facts) => self.run = Some(facts),
            Operation::Send { at, sequence, .. } => {
                let may_fail = self.run.as_ref().is_none_or(|run| run.may_fail_sends);
                if line.outcome != Outcome::Ok && !may_fail {
                    self.findings.add(Invariant::ProducerError, || {
                        let error = line.error.unwrap_or_default();
                        format!(
                            "{} {sequence} to {at} at {} s: {error}",
                            line.process,
                            line.end_us / 1_000_000
                        )
                    });
                }
            }
            Operation::Flush { left } if left > 0 => self.findings.add(Invariant::BoundedOutage, || {
                let seconds = (line.end_us - line.start_us) / 1_000_000;
                format!("{left} records of {} have no answer {seconds} s after the last fault", line.process)
            }),
            Operation::CreateTopic { topic, .. } if line.outcome == Outcome::Ok => {
                self.topics_acknowledged.push(topic);
            }
            Operation::FreshTopic { topic, made_by, asked, known_us, errors } => {
                self.counts.fresh_topics += 1;
                self.counts.fresh_topics_asked_again += u64::from(known_us > 0);
                self.counts.fresh_topics_known_us_max = self.counts.fresh_topics_known_us_max.max(known_us);
                for error in errors {
                    self.findings.add(Invariant::FreshTopic, || {
                        format!("{topic}, made by node {made_by}, node {asked} asked: {error}")
                    });
                }
            }
            Operation::Topics { topics } => self.topics_found = Some(topics),
            Operation::Crash { node } => self.findings.add(Invariant::Crash, || {
                format!("node {node} at {} s: {}", line.end_us / 1_000_000, line.error.unwrap_or_default())
            }),
            Operation::End => self.is_ended = true,
            _ => {}
        }
    }

    fn conclude(mut self) -> Judgement {
        self.records.conclude(&self.replicas, self.is_ended, &mut self.findings);
        self.readers.conclude(&self.records, &mut self.findings);
        self.groups.conclude(&mut self.findings);
        self.replicas.conclude(&self.records, self.is_ended, &mut self.findings);
        self.look_ups.conclude(&self.replicas, &mut self.findings);
        self.latencies.sort();
        let faults = self.outages.conclude(self.run.as_ref(), &self.latencies, &mut self.findings);
        if let Some(found) = &self.topics_found {
            for topic in self.topics_acknowledged.iter().filter(|topic| !found.contains(topic)) {
                self.findings.add(Invariant::Metadata, || format!("topic {topic} is lost"));
            }
        }
        let is_complete = self.is_ended && self.run.is_some() && self.topics_found.is_some();
        let verdict = match (self.findings.0.is_empty(), is_complete) {
            (false, _) => Verdict::Fail,
            (true, true) => Verdict::Pass,
            (true, false) => Verdict::Unknown,
        };
        let quiet = self.latencies.quiet();
        Judgement { verdict, run: self.run, findings: self.findings.0, faults, quiet, counts: self.counts }
    }
}
