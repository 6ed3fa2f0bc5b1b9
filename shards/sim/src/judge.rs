//! What holds at every moment: Raft's promises (Raft paper, figure 3) and watermarks that only grow.

use std::collections::{BTreeMap, BTreeSet};

use log::wal::Recovered;
use raft_group::Membership;
use shard::{GroupStatus, Shard};
use types::hash::mix64;
use types::{GroupId, LogIndex, ReplicaId, Term};

use crate::coverage::Coverage;
use crate::durable::DurableLogs;
use crate::in_sync::{InSyncJudge, Quorums};

/// Bytes of an entry that tell it from others, at its beginning and at its end: a batch has its checksum among the first.
const TELLING_BYTES: usize = 256;

/// Nobody decides on what a group begins behind.
const GROUP_BEGINS_BEHIND: LogIndex = LogIndex(1);

/// How a replica was when it was last seen.
#[derive(Clone, Copy)]
struct Seen {
    incarnation: u64,
    status: GroupStatus,
    /// The term of its last entry.
    last_term: Option<Term>,
}

/// A shard, as the world sees it between two steps. Nodes are named by their place in the cluster.
#[derive(Clone, Copy)]
pub(crate) struct Look<'a> {
    pub(crate) node: usize,
    pub(crate) incarnation: u64,
    pub(crate) shard: &'a Shard,
    pub(crate) now_us: u64,
    /// Since when the node runs without a pause.
    pub(crate) awake_us: u64,
    pub(crate) lag_ms_max: i64,
}

/// The entries of a group that some replica has applied.
#[derive(Default)]
struct Decided {
    /// Term and hash of the content.
    entries: BTreeMap<LogIndex, (Term, u64)>,
    newest_term: Term,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Judge {
    leaders: BTreeMap<(GroupId, Term), usize>,
    decided: BTreeMap<GroupId, Decided>,
    /// What stands at an index in a term, wherever it does.
    appended: BTreeMap<(GroupId, LogIndex, Term), u64>,
    seen: BTreeMap<(usize, GroupId), Seen>,
    /// The last entry of each group that a leader took for committed.
    committed: BTreeMap<GroupId, LogIndex>,
    /// The members of each group as each node last knew them.
    members: BTreeMap<(usize, GroupId), Membership>,
    /// The newest metadata that each node was seen with, and the groups of topics that some node knows to be deleted.
    images: BTreeMap<usize, LogIndex>,
    deleted: BTreeSet<GroupId>,
    pub(crate) durable: DurableLogs,
    in_sync: InSyncJudge,
}

impl Judge {
    /// A node starts with these WALs.
    pub(crate) fn on_recovered(&mut self, node: usize, wals: &[Recovered]) {
        self.durable.on_recovered(node, wals.iter());
    }

    /// Looks at a shard at the end of a turn.
    ///
    /// # Panics
    ///
    /// When something does not hold.
    pub(crate) fn look(&mut self, look: Look<'_>, coverage: &mut Coverage) {
        let Look { node, incarnation, shard, now_us, awake_us, lag_ms_max } = look;
        self.note_deleted(node, shard);
        for status in shard.groups() {
            if self.deleted.contains(&status.group) {
                continue;
            }
            if status.role.serving {
                let of = (node, incarnation);
                self.in_sync.look(of, shard, status, now_us, awake_us, lag_ms_max, &self.durable, coverage);
            }
            let key = (node, status.group);
            let is_same = |seen: &Seen| seen.incarnation == incarnation && seen.status.own == status.own;
            let seen = self.seen.get(&key).copied().filter(is_same);
            if seen.is_some_and(|seen| seen.status == status) {
                continue;
            }
            let before = seen.map(|seen| seen.status);
            check_status(node, before, status);
            if let Some(before) = before {
                note_changes(before, status, coverage);
            }
            let last_term = shard.entry(status.group, status.last).map(|(term, _)| term);
            self.check_log(node, shard, seen, status);
            self.check_applied(node, shard, before, status);
            let members = shard.membership(status.group).expect("the group is hosted");
            let members_before = self.members.insert(key, members.clone());
            if before.is_none_or(|before| before.committed < status.committed) {
                self.check_committed(node, status);
                if status.is_leader && before.is_some() {
                    self.check_durable(
                        node,
                        shard,
                        status,
                        [members_before.as_ref(), Some(members)],
                        coverage,
                    );
                }
            }
            if status.is_leader {
                self.check_leader(node, shard, status, coverage);
            }
            self.seen.insert(key, Seen { incarnation, status, last_term });
        }
    }

    /// Log matching: what stands at an index in a term is the same everywhere, terms only grow along a log, and what a replica has
    /// of a leader's term stays there for as long as the term lasts.
    fn check_log(&mut self, node: usize, shard: &Shard, seen: Option<Seen>, status: GroupStatus) {
        let group = status.group;
        let known = seen.map_or(LogIndex(0), |seen| seen.status.committed);
        let mut before = Term(0);
        for index in (known.max(status.compacted).0 + 1..=status.last.0).map(LogIndex) {
            let (term, data) = shard.entry(group, index).expect("the log has no gaps");
            assert!(
                before <= term,
                "group {group}: node {node} has an entry {index} of term {term} behind one of term {before}"
            );
            before = term;
            let own = hash_of(data);
            let first = *self.appended.entry((group, index, term)).or_insert(own);
            assert_eq!(first, own, "group {group}: node {node} has another entry {index} of term {term}");
        }
        if let Some(Seen { status: was, last_term: Some(term), .. }) = seen
            && term == was.role.term
            && term == status.role.term
            && was.last > status.compacted
        {
            let kept = shard.entry(group, was.last).map(|(term, _)| term);
            assert_eq!(
                kept,
                Some(term),
                "group {group}: node {node} lost entry {} of term {term}, which lasts",
                was.last
            );
        }
    }

    /// Notes after each step what leaders on a shard take for committed, before others hear of it, and whether they have enough
    /// in-sync replicas: both may change more than once in a turn.
    pub(crate) fn note_leaders(
        &mut self,
        shard: &Shard,
        incarnation: u64,
        now_us: u64,
        quorums: &mut Quorums,
        coverage: &mut Coverage,
    ) {
        for GroupStatus { group, committed, role, .. } in shard.groups().filter(|status| status.is_leader) {
            let known = self.committed.entry(group).or_insert(GROUP_BEGINS_BEHIND);
            *known = committed.max(*known);
            if role.serving
                && let Some((topic, index)) = shard.image().partition_of_group(group)
                && topic.config.min_insync_replicas > 1
            {
                let is_enough = shard.in_sync(group).len() >= topic.config.min_insync_replicas;
                if !is_enough {
                    coverage.mark("too few in sync");
                }
                quorums.on_look((incarnation, topic.id, index.0), is_enough, now_us);
            }
        }
    }

    /// Only a leader decides that an entry is committed; others are told, or have written it down before they started.
    fn check_committed(&self, node: usize, status: GroupStatus) {
        let GroupStatus { group, committed, .. } = status;
        let known = self.committed.get(&group).copied().unwrap_or(GROUP_BEGINS_BEHIND);
        assert!(
            committed <= known,
            "group {group}: node {node} takes entry {committed} for committed, and leaders those up to {known}"
        );
    }

    /// What a leader takes for committed is durable on a majority, so that it survives the loss of what is not. The entry that changes the
    /// members commits by those before it, and so do the ones that commit along with it.
    fn check_durable(
        &self,
        node: usize,
        shard: &Shard,
        status: GroupStatus,
        members: [Option<&Membership>; 2],
        coverage: &mut Coverage,
    ) {
        let (group, index) = (status.group, status.committed);
        let Some((term, _)) = shard.entry(group, index) else { return };
        let place = |voter: &ReplicaId| usize::try_from(voter.node.0 - 1).expect("ids are counted from 1");
        let holds = |voter: &ReplicaId| self.durable.holds(place(voter), group, index, term);
        if members.into_iter().flatten().all(|members| members.voters.len() > 1) {
            coverage.mark("durable majority judged");
        }
        assert!(
            members.into_iter().flatten().any(|members| members.has_majority(holds)),
            "group {group}: node {node} takes entry {index} of term {term} for committed, which is not durable on a majority \
             of {members:?}"
        );
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
        let is_metadata = status.group == GroupId::METADATA;
        coverage.mark(if is_metadata { "snapshot of the metadata" } else { "snapshot" });
    }
    if before.is_leader && !status.is_leader {
        coverage.mark("leader deposed");
    }
    if status.last < before.last {
        coverage.mark("log cut back");
    }
}

fn hash_of(data: &[u8]) -> u64 {
    let parts = match data.len() > 2 * TELLING_BYTES {
        true => [&data[..TELLING_BYTES], &data[data.len() - TELLING_BYTES..]],
        false => [data, &[]],
    };
    let mut hash = data.len() as u64;
    for part in parts {
        let (words, rest) = part.as_chunks();
        for word in words {
            hash = mix64(hash ^ u64::from_le_bytes(*word));
        }
        for byte in rest {
            hash = mix64(hash ^ u64::from(*byte));
        }
    }
    hash
}
