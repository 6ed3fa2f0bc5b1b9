//! What histories have exercised: a fault that never happens and a check that never looks prove nothing.

use std::collections::BTreeMap;

/// How often what happened, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    marks: BTreeMap<&'static str, u64>,
}

/// Histories from which on everything of [`EXPECTED`] must have happened.
pub const HISTORIES_MIN: u64 = 300;

/// What must have happened at least once over so many histories of three nodes: faults, branches of recovery, and looks of the
/// checkers at what they judge.
pub const EXPECTED: &[&str] = &[
    // Faults.
    "WAL bit rot",
    "client gone",
    "clock jump",
    "connection broken in flight",
    "connection reset",
    "crash",
    "crash at a change of files",
    "crash of all",
    "cut",
    "disk full",
    "disk of a leader hangs",
    "disk request held up",
    "failing reads",
    "failing write",
    "hung disk",
    "layout changed",
    "leader crashed",
    "leader cut off from nodes, not from clients",
    "left out nodes came back",
    "lost WAL write",
    "misdirected WAL write",
    "one-way cut",
    "process ended itself",
    "process paused",
    "progress without a node that hears or is heard",
    "read failed",
    "request timed out",
    "restart storm",
    "segment bit rot",
    "shutdown",
    "slow disk",
    "slow network",
    "torn WAL write",
    "torn segment write",
    "write failed",
    // What they lead to.
    "WAL file recycled",
    "batch waited for commits",
    "coordinator moved",
    "damaged batch refused",
    "forwarded change",
    "group offsets loaded from a segment",
    "index read back",
    "leader changed",
    "leader deposed",
    "log cut back",
    "peer ended",
    "peer rejoined",
    "pull",
    "replicas reassigned",
    "segment removed",
    "segment sealed",
    "snapshot",
    "snapshot of the metadata",
    "start with checkpoint and entries",
    "start with uncommitted entries",
    "topic deleted",
    // Checkers.
    "aged record expired",
    "checkpoint judged",
    "durable majority judged",
    "epoch looked up",
    "group offset judged",
    "in-sync replica judged",
    "leaders judged",
    "replicas compared",
    "time looked up",
    "too few in sync",
];

impl Coverage {
    /// It happened.
    pub fn mark(&mut self, what: &'static str) {
        *self.marks.entry(what).or_default() += 1;
    }

    /// Adds what another history has exercised.
    pub fn add(&mut self, other: &Coverage) {
        for (what, times) in &other.marks {
            *self.marks.entry(what).or_default() += times;
        }
    }

    /// What of [`EXPECTED`] never happened.
    pub fn missing(&self) -> Vec<&'static str> {
        EXPECTED.iter().copied().filter(|what| !self.marks.contains_key(what)).collect()
    }

    /// How often what happened.
    pub fn marks(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.marks.iter().map(|(what, times)| (*what, *times))
    }
}
