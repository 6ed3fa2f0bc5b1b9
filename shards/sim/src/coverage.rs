//! What histories have exercised: a fault that never happens and a check that never looks prove nothing.

use std::collections::BTreeMap;

/// How often what happened, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    marks: BTreeMap<&'static str, u64>,
}

/// What must have happened at least once over the histories of a test.
pub const EXPECTED: &[&str] = &[
    "client gone",
    "clock jump",
    "connection broken in flight",
    "connection reset",
    "coordinator moved",
    "crash",
    "crash of all",
    "cut",
    "disk full",
    "forwarded change",
    "layout changed",
    "leader changed",
    "leader deposed",
    "left out nodes came back",
    "peer ended",
    "peer rejoined",
    "pull",
    "replicas compared",
    "shutdown",
    "slow disk",
    "slow network",
    "snapshot",
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
