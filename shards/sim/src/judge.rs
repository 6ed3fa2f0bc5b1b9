//! What holds at every moment: Raft's promises (Raft paper, figure 3) and watermarks that only grow.

use std::collections::{BTreeMap, BTreeSet};

use shard::{GroupStatus, Shard};
use types::hash::mix64;
use types::{GroupId, LogIndex, Term};

use crate::coverage::Coverage;

/// How a replica was when it was last seen.
#[derive(Clone, Copy)]
struct Seen {
    incarnation: u64,
    status: GroupStatus,
}

/// The entries of a group that some replica has applied.
#[derive(Default)]
struct Decided {
    /// Term and hash of the content.
    entries: BTreeMap<LogIndex, (Term, u64)>,
    newest_term: Term,
}

/// See the module. Nodes are named by their place in the cluster.
#[derive(Default)]
pub(crate) struct Judge {
    leaders: BTreeMap<(GroupId, Term), usize>,
    decided: BTreeMap<GroupId, Decided>,
    seen: BTreeMap<(usize, GroupId), Seen>,
    /// The newest metadata that each node was seen with, and the groups of topics that some node knows to be deleted.
    images: BTreeMap<usize, LogIndex>,
    deleted: BTreeSet<GroupId>,
}

impl Judge {
    /// Looks at a shard between two steps.
    ///
    /// # Panics
    ///
    /// When something does not hold.
    pub(crate) fn look(&mut self, node: usize, incarnation: u64, shard: &Shard, coverage: &mut Coverage) {
        self.note_deleted(node, shard);
        for status in
            shard.groups().filter(|status| !self.deleted.contains(&status.group)).collect::<Vec<_>>()
        {
            let key = (node, status.group);
            let before = self.seen.get(&key).copied().filter(|seen| seen.incarnation == incarnation);
            if before.is_some_and(|before| before.status == status) {
                continue;
            }
            let before = before.map(|before| before.status);
            check_status(node, before, status);
            if let Some(before) = before {
                note_changes(before, status, coverage);
            }
            self.check_applied(node, shard, before, status);
            if status.is_leader {
                self.check_leader(node, shard, status, coverage);
            }
            self.seen.insert(key, Seen { incarnation, status });
        }
    }

    /// A node that starts may host the groups of a deleted topic once more until it hears of the deletion.
    fn note_deleted(&mut self, node: usize, shard: &Shard) {
        let image = shard.image();
        if self.images.insert(node, image.epoch()) != Some(image.epoch()) {
            let known = self.decided.keys().filter(|group| **group != GroupId::METADATA);
            let is_gone =
                |group: &GroupId| !image.may_allocate(*group) && image.partition_of_group(*group).is_none();
            self.deleted.extend(known.copied().filter(is_gone));
        }
    }

    /// State machine safety: no two replicas apply different entries at one index.
    fn check_applied(
        &mut self,
        node: usize,
        shard: &Shard,
        before: Option<GroupStatus>,
        status: GroupStatus,
    ) {
        let group = status.group;
        let decided = self.decided.entry(group).or_default();
        decided.newest_term = decided.newest_term.max(status.role.term);
        let first = before.map_or(LogIndex(1), |before| before.applied.next()).max(status.compacted.next());
        for index in (first.0..=status.applied.0).map(LogIndex) {
            let (term, data) =
                shard.entry(group, index).expect("entries behind the start of the log are there");
            let own = (term, hash_of(data));
            let known = *decided.entries.entry(index).or_insert(own);
            assert_eq!(
                known, own,
                "group {group}: node {node} applied another entry {index} than others did"
            );
        }
    }

    /// Election safety and leader completeness.
    fn check_leader(&mut self, node: usize, shard: &Shard, status: GroupStatus, coverage: &mut Coverage) {
        let (group, term) = (status.group, status.role.term);
        let leader = *self.leaders.entry((group, term)).or_insert(node);
        assert_eq!(leader, node, "group {group} has two leaders of term {term}");
        let earlier = self.leaders.range((group, Term(0))..(group, term)).next_back();
        if earlier.is_some_and(|(_, before)| *before != node) {
            coverage.mark("leader changed");
        }
        let decided = &self.decided[&group];
        let Some((index, (decided_in, _))) = decided.entries.last_key_value() else { return };
        if decided.newest_term > term || *index <= status.compacted {
            return;
        }
        let own = shard.entry(group, *index).map(|(term, _)| term);
        assert_eq!(
            own,
            Some(*decided_in),
            "group {group}: node {node} leads term {term} without the committed entry {index}"
        );
    }
}

fn check_status(node: usize, before: Option<GroupStatus>, status: GroupStatus) {
    let GroupStatus { compacted, applied, committed, last, .. } = status;
    assert!(
        compacted <= applied && applied <= committed && committed <= last,
        "node {node}: the indexes are out of order: {status:?}"
    );
    if let Some(bounds) = status.partition {
        assert!(
            bounds.log_start <= bounds.high_watermark,
            "node {node}: a log starts behind its end: {status:?}"
        );
    }
    let Some(before) = before else { return };
    assert!(status.role.term >= before.role.term, "node {node}: a term went back: {before:?} {status:?}");
    assert!(
        applied >= before.applied && committed >= before.committed && compacted >= before.compacted,
        "node {node}: an index went back: {before:?} {status:?}"
    );
    if let (Some(was), Some(is)) = (before.partition, status.partition) {
        assert!(
            is.log_start >= was.log_start && is.high_watermark >= was.high_watermark,
            "node {node}: a watermark went back: {before:?} {status:?}"
        );
    }
}

fn note_changes(before: GroupStatus, status: GroupStatus, coverage: &mut Coverage) {
    if status.is_catching_up && !before.is_catching_up {
        coverage.mark("pull");
    }
    if status.compacted > before.applied {
        coverage.mark("snapshot");
    }
    if before.is_leader && !status.is_leader {
        coverage.mark("leader deposed");
    }
    if status.last < before.last {
        coverage.mark("log cut back");
    }
}

fn hash_of(data: &[u8]) -> u64 {
    data.chunks(8).fold(data.len() as u64, |hash, chunk| {
        mix64(hash ^ chunk.iter().fold(0u64, |word, byte| word << 8 | u64::from(*byte)))
    })
}
