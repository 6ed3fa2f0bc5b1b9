//! Requests that come to a leader which does not serve yet: it is elected, and knows the whole log once an entry of its own term is
//! committed. That is one commit away, so they wait for it. Refused, the batches of one producer that are under way together would be
//! refused in part, as the leader begins to serve between them.

use std::collections::{BTreeMap, VecDeque};

use broker::Op;
use types::limits::{ELECTED_WAIT_MS_MAX, ELECTED_WAITS_BYTES_MAX, ELECTED_WAITS_MAX};
use types::{GroupId, Now};

use crate::partition_host::Asker;
use crate::shard::Shard;

struct Wait {
    until_us: u64,
    asker: Asker,
    op: Op,
}

/// The requests that wait, by group and in their order.
#[derive(Default)]
pub(crate) struct ElectedWaits {
    groups: BTreeMap<GroupId, VecDeque<Wait>>,
    count: usize,
    bytes: usize,
}

impl ElectedWaits {
    fn has_room(&self, op: &Op) -> bool {
        self.count < ELECTED_WAITS_MAX && self.bytes + batch_bytes(op) <= ELECTED_WAITS_BYTES_MAX
    }

    fn push(&mut self, now: Now, group: GroupId, asker: Asker, op: Op) {
        self.count += 1;
        self.bytes += batch_bytes(&op);
        let wait = Wait { until_us: now.after_ms(ELECTED_WAIT_MS_MAX), asker, op };
        self.groups.entry(group).or_default().push_back(wait);
    }

    /// Those of a group that came before a moment, in their order.
    fn take(&mut self, group: GroupId, is_due: impl Fn(u64) -> bool) -> Vec<(Asker, Op)> {
        let Some(waits) = self.groups.get_mut(&group) else { return Vec::new() };
        let mut taken = Vec::new();
        while let Some(wait) = waits.pop_front_if(|wait| is_due(wait.until_us)) {
            self.count -= 1;
            self.bytes -= batch_bytes(&wait.op);
            taken.push((wait.asker, wait.op));
        }
        if waits.is_empty() {
            self.groups.remove(&group);
        }
        taken
    }

    pub(crate) fn next_deadline_us(&self) -> Option<u64> {
        self.groups.values().filter_map(VecDeque::front).map(|wait| wait.until_us).min()
    }
}

impl Shard {
    /// Keeps an operation that only a leader can carry out, where this node is elected and does not serve yet. Gives back one that
    /// is to be carried out now.
    pub(crate) fn wait_to_serve(&mut self, now: Now, asker: Asker, op: Op) -> Option<Op> {
        let Some(group) = led_group(&op) else { return Some(op) };
        let is_elected = self.hosted.get(&group).is_some_and(|hosted| {
            let role = hosted.raft.role();
            role.leader == Some(self.node) && !role.serving
        });
        if !is_elected || self.is_shutting_down || !self.elected_waits.has_room(&op) {
            return Some(op);
        }
        self.elected_waits.push(now, group, asker, op);
        None
    }

    /// The group is served, or led by this node no more, or gone: those who waited go on, in their order.
    pub(crate) fn end_elected_waits(&mut self, now: Now, group: GroupId) {
        for (asker, op) in self.elected_waits.take(group, |_| true) {
            self.do_op(now, asker, op);
        }
    }

    /// The time of [`ElectedWaits::next_deadline_us`] has come: those who have waited long enough hear that nobody serves here.
    pub(crate) fn on_elected_deadline(&mut self, now: Now) {
        let groups: Vec<GroupId> = self.elected_waits.groups.keys().copied().collect();
        for group in groups {
            for (asker, op) in self.elected_waits.take(group, |until_us| until_us <= now.mono_us) {
                self.do_op(now, asker, op);
            }
        }
    }

    /// Nobody waits any more.
    pub(crate) fn end_all_elected_waits(&mut self, now: Now) {
        let groups: Vec<GroupId> = self.elected_waits.groups.keys().copied().collect();
        for group in groups {
            self.end_elected_waits(now, group);
        }
    }
}

/// The group that an operation needs the leader of. Fetch is answered by any replica.
fn led_group(op: &Op) -> Option<GroupId> {
    match op {
        Op::Produce(op) => Some(op.group),
        Op::ListOffsets(op) => Some(op.group),
        Op::OffsetForLeaderEpoch { group, .. }
        | Op::DeleteRecords { group, .. }
        | Op::DescribeProducers { group } => Some(*group),
        // The coordinator of a group says by itself that it is being loaded.
        Op::Fetch(_) | Op::CancelFetchWait | Op::DescribeLogs { .. } | Op::Group(_) | Op::Metadata(_) => None,
    }
}

fn batch_bytes(op: &Op) -> usize {
    match op {
        Op::Produce(op) => op.batch.len(),
        _ => 0,
    }
}
