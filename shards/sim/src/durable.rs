//! What is durable of each group's log on each node, as the completed writes of their WALs say.

use std::collections::BTreeMap;

use log::wal::{RecordNote, Recovered, RecoveredGroup};
use types::{GroupId, LogIndex, Term};

/// The durable log of one group on one node.
#[derive(Debug, Default)]
struct DurableLog {
    /// Everything up to here is in segments or a checkpoint.
    start: LogIndex,
    last: LogIndex,
    /// Where each term begins.
    terms: BTreeMap<LogIndex, Term>,
}

impl DurableLog {
    fn recovered(group: &RecoveredGroup) -> DurableLog {
        let mut log = DurableLog::default();
        if let Some(checkpoint) = &group.checkpoint {
            log.on_checkpoint(checkpoint.index);
        }
        group.entries.iter().for_each(|entry| log.on_entry(entry.index, entry.term));
        log
    }

    fn on_entry(&mut self, index: LogIndex, term: Term) {
        self.terms.split_off(&index);
        if self.terms.last_key_value().is_none_or(|(_, last)| *last != term) {
            self.terms.insert(index, term);
        }
        self.last = index;
    }

    fn on_checkpoint(&mut self, index: LogIndex) {
        self.start = self.start.max(index);
        self.last = self.last.max(index);
    }

    fn on_truncated(&mut self, from: LogIndex) {
        self.terms.split_off(&from);
        self.last = self.last.min(LogIndex(from.0 - 1));
    }

    fn holds(&self, index: LogIndex, term: Term) -> bool {
        let own = || self.terms.range(..=index).next_back().map(|(_, term)| *term);
        index <= self.start || (index <= self.last && own() == Some(term))
    }
}

/// The durable logs of all nodes, which are named by their place in the cluster.
#[derive(Debug, Default)]
pub(crate) struct DurableLogs {
    nodes: BTreeMap<usize, BTreeMap<GroupId, DurableLog>>,
}

impl DurableLogs {
    /// A node starts: a flush that a crash left whole counts, though nobody was told.
    pub(crate) fn on_recovered<'a>(&mut self, node: usize, wals: impl Iterator<Item = &'a Recovered>) {
        let groups = wals.flat_map(|wal| &wal.groups);
        self.nodes
            .insert(node, groups.map(|(group, found)| (*group, DurableLog::recovered(found))).collect());
    }

    /// A flush is durable.
    pub(crate) fn on_flushed(&mut self, node: usize, notes: &[RecordNote]) {
        let logs = self.nodes.entry(node).or_default();
        for note in notes {
            match *note {
                RecordNote::Entry { group, term, index, .. } => {
                    logs.entry(group).or_default().on_entry(index, term);
                }
                RecordNote::Checkpoint { group, index, .. } => {
                    logs.entry(group).or_default().on_checkpoint(index);
                }
                RecordNote::Truncated { group, from } => logs.entry(group).or_default().on_truncated(from),
                RecordNote::GroupRemoved { group } => {
                    logs.remove(&group);
                }
                RecordNote::HardState { .. } => {}
            }
        }
    }

    /// Whether an entry is durable on a node.
    pub(crate) fn holds(&self, node: usize, group: GroupId, index: LogIndex, term: Term) -> bool {
        self.nodes.get(&node).and_then(|logs| logs.get(&group)).is_some_and(|log| log.holds(index, term))
    }

    /// The last durable entry of a group on a node.
    pub(crate) fn last(&self, node: usize, group: GroupId) -> LogIndex {
        let log = self.nodes.get(&node).and_then(|logs| logs.get(&group));
        log.map_or(LogIndex(0), |log| log.last)
    }
}
