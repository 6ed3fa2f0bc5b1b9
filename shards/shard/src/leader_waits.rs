//! Requests that the leader of a group cannot carry out yet, and that are refused only if that lasts.
//!
//! A leader that was just elected knows the whole log once an entry of its own term is committed, which is one commit away. A leader
//! whose group has taken as much as may be uncommitted, or committed and not written here, goes on as that gets less. In both cases
//! batches that were refused would be refused in part, as the leader begins to take them again between those of one producer that
//! are under way together.

use std::collections::{BTreeMap, VecDeque};

use broker::{Op, ProduceOp};
use protocol::messages::ErrorCode;
use types::limits::{
    LEADER_WAIT_MS_MAX, LEADER_WAITS_BYTES_MAX, LEADER_WAITS_BYTES_OF_GROUP_MAX, LEADER_WAITS_MAX,
};
use types::{GroupId, Now};

use crate::partition_host::Asker;
use crate::shard::Shard;

/// The requests to one group that wait, in their order.
struct GroupWaits {
    /// When they have waited long enough, if nothing is committed until then.
    until_us: u64,
    bytes: usize,
    ops: VecDeque<(Asker, Op)>,
}

#[derive(Default)]
pub(crate) struct LeaderWaits {
    groups: BTreeMap<GroupId, GroupWaits>,
    count: usize,
    bytes: usize,
}

impl LeaderWaits {
    fn has_room(&self, group: GroupId, bytes: usize) -> bool {
        let bytes_of_group = self.groups.get(&group).map_or(0, |waits| waits.bytes);
        self.count < LEADER_WAITS_MAX
            && self.bytes + bytes <= LEADER_WAITS_BYTES_MAX
            && (bytes_of_group == 0 || bytes_of_group + bytes <= LEADER_WAITS_BYTES_OF_GROUP_MAX)
    }

    fn push(&mut self, now: Now, group: GroupId, asker: Asker, op: Op) {
        let bytes = batch_bytes(&op);
        self.count += 1;
        self.bytes += bytes;
        let new =
            || GroupWaits { until_us: now.after_ms(LEADER_WAIT_MS_MAX), bytes: 0, ops: VecDeque::new() };
        let waits = self.groups.entry(group).or_insert_with(new);
        waits.bytes += bytes;
        waits.ops.push_back((asker, op));
    }

    /// The bytes of the first request of a group.
    fn first_bytes(&self, group: GroupId) -> Option<usize> {
        self.groups.get(&group)?.ops.front().map(|(_, op)| batch_bytes(op))
    }

    fn pop(&mut self, group: GroupId) -> Option<(Asker, Op)> {
        let waits = self.groups.get_mut(&group)?;
        let (asker, op) = waits.ops.pop_front().expect("a group without requests is not kept");
        waits.bytes -= batch_bytes(&op);
        if waits.ops.is_empty() {
            self.groups.remove(&group);
        }
        self.count -= 1;
        self.bytes -= batch_bytes(&op);
        Some((asker, op))
    }

    /// All requests of a group.
    fn take(&mut self, group: GroupId) -> VecDeque<(Asker, Op)> {
        let Some(waits) = self.groups.remove(&group) else { return VecDeque::new() };
        self.count -= waits.ops.len();
        self.bytes -= waits.bytes;
        waits.ops
    }

    /// The groups that requests wait for.
    pub(crate) fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.groups.keys().copied()
    }

    pub(crate) fn next_deadline_us(&self) -> Option<u64> {
        self.groups.values().map(|waits| waits.until_us).min()
    }
}

impl Shard {
    /// An operation on a group of this shard.
    pub(crate) fn on_op(&mut self, now: Now, asker: Asker, op: Op) {
        match asked_leader(&op) {
            Some(group) if self.must_wait(group, 0) && self.may_wait(group, 0) => {
                self.leader_waits.push(now, group, asker, op);
            }
            _ => self.do_op(now, asker, op),
        }
    }

    /// Appends a batch that the WAL has room for, once its leader can.
    pub(crate) fn append(&mut self, now: Now, asker: Asker, op: ProduceOp) {
        let (group, bytes) = (op.group, op.batch.len());
        if !self.must_wait(group, bytes) {
            self.propose(now, asker, op);
        } else if self.may_wait(group, bytes) {
            self.leader_waits.push(now, group, asker, Op::Produce(op));
        } else {
            self.refuse_to_wait(now, asker, op);
        }
    }

    /// Whether this node leads the group and cannot take a batch of so many bytes yet, or not before those that wait.
    pub(crate) fn must_wait(&self, group: GroupId, bytes: usize) -> bool {
        let is_behind = bytes > 0 && self.leader_waits.groups.contains_key(&group);
        let role = self.hosted.get(&group).map(|hosted| hosted.raft.role());
        role.is_some_and(|role| role.leader == Some(self.node)) && (is_behind || !self.can_take(group, bytes))
    }

    /// Whether one more request may wait for the leader of a group.
    pub(crate) fn may_wait(&self, group: GroupId, bytes: usize) -> bool {
        !self.is_shutting_down && self.leader_waits.has_room(group, bytes)
    }

    /// A group was driven, and perhaps has committed something: those who waited for it go on, in their order.
    pub(crate) fn resume_waits(&mut self, now: Now, group: GroupId, has_committed: bool) {
        let Some(waits) = self.leader_waits.groups.get_mut(&group) else { return };
        if has_committed {
            waits.until_us = now.after_ms(LEADER_WAIT_MS_MAX);
        }
        let role = self.hosted.get(&group).map(|hosted| hosted.raft.role());
        if role.is_none_or(|role| role.leader != Some(self.node)) {
            return self.end_waits(now, group);
        }
        while let Some(bytes) = self.leader_waits.first_bytes(group)
            && self.can_take(group, bytes)
        {
            if !self.wal.has_room(bytes) {
                return self.stall_waits(now, group);
            }
            match self.leader_waits.pop(group).expect("it was just seen") {
                (asker, Op::Produce(op)) => self.propose(now, asker, op),
                (asker, op) => self.do_op(now, asker, op),
            }
        }
    }

    /// Whether this node serves the group and takes a batch of so many bytes now.
    fn can_take(&self, group: GroupId, bytes: usize) -> bool {
        let hosted = self.hosted.get(&group);
        hosted.is_some_and(|hosted| hosted.raft.role().serving && hosted.raft.has_room(bytes))
    }

    /// The WAL has no room for what waited for its leader: it waits for that, and came before all that does.
    fn stall_waits(&mut self, now: Now, group: GroupId) {
        for (asker, op) in self.leader_waits.take(group).into_iter().rev() {
            match op {
                Op::Produce(op) => {
                    self.stalled_bytes += op.batch.len();
                    self.stalled.push_front((asker, op));
                }
                op => self.do_op(now, asker, op),
            }
        }
    }

    /// The time of [`LeaderWaits::next_deadline_us`] has come: who has waited long enough hears why nothing is done.
    pub(crate) fn on_leader_waits_deadline(&mut self, now: Now) {
        let is_due = |waits: &GroupWaits| waits.until_us <= now.mono_us;
        let all = self.leader_waits.groups.iter();
        let due: Vec<GroupId> = all.filter(|(_, waits)| is_due(waits)).map(|(group, _)| *group).collect();
        for group in due {
            self.end_waits(now, group);
        }
    }

    /// Nobody waits for the leader of a group any more, and nothing of what waited is appended.
    pub(crate) fn end_waits(&mut self, now: Now, group: GroupId) {
        for (asker, op) in self.leader_waits.take(group) {
            match op {
                Op::Produce(op) => self.refuse_to_wait(now, asker, op),
                op => self.do_op(now, asker, op),
            }
        }
    }

    /// Nobody waits any more.
    pub(crate) fn end_all_waits(&mut self, now: Now) {
        let groups: Vec<GroupId> = self.leader_waits.groups().collect();
        for group in groups {
            self.end_waits(now, group);
        }
    }

    /// Refuses a batch, even if the group could take it by now: those before it were too.
    fn refuse_to_wait(&mut self, now: Now, asker: Asker, op: ProduceOp) {
        match self.hosted.get(&op.group).is_some_and(|hosted| hosted.raft.role().serving) {
            true => self.refuse(asker, &op, ErrorCode::NotEnoughReplicas),
            // It is told who leads.
            false => self.propose(now, asker, op),
        }
    }
}

/// The group that an operation asks the leader of. Fetch is answered by any replica, and batches wait where they are appended, behind
/// those that wait for room in the WAL.
fn asked_leader(op: &Op) -> Option<GroupId> {
    match op {
        Op::ListOffsets(op) => Some(op.group),
        Op::OffsetForLeaderEpoch { group, .. }
        | Op::DeleteRecords { group, .. }
        | Op::DescribeProducers { group } => Some(*group),
        // The coordinator of a group says by itself that it is being loaded.
        Op::Produce(_)
        | Op::Fetch(_)
        | Op::CancelFetchWait
        | Op::DescribeLogs { .. }
        | Op::MeasureSpace
        | Op::Group(_)
        | Op::Metadata(_) => None,
    }
}

fn batch_bytes(op: &Op) -> usize {
    match op {
        Op::Produce(op) => op.batch.len(),
        _ => 0,
    }
}
