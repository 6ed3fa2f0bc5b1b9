//! Whether in-sync replicas are in sync, and whether there were enough of them for what was acknowledged.

use std::collections::{BTreeMap, VecDeque};

use shard::{GroupStatus, Shard};
use types::{GroupId, LogIndex, NodeId, Term, TopicId};

use crate::coverage::Coverage;
use crate::durable::DurableLogs;

/// How much later than `replica.lag.time.max.ms` a leader may notice that a replica lags, in microseconds: it looks a few times a
/// second, and needs two looks.
const NOTICE_US_MAX: u64 = 2_000_000;

/// How a log grew under one leader: when it had which last entry.
struct Growth {
    term: Term,
    incarnation: u64,
    ends: VecDeque<(u64, LogIndex)>,
}

/// Judges the in-sync replicas of leaders.
#[derive(Default)]
pub(crate) struct InSyncJudge {
    growths: BTreeMap<(usize, GroupId), Growth>,
}

impl InSyncJudge {
    /// Looks at a partition that a node leads. `awake_us` says since when the node runs without a pause.
    ///
    /// # Panics
    ///
    /// When a replica counts as in sync that has lacked something for too long.
    #[expect(clippy::too_many_arguments, reason = "all of it is what the world knows at this moment")]
    pub(crate) fn look(
        &mut self,
        (node, incarnation): (usize, u64),
        shard: &Shard,
        status: GroupStatus,
        now_us: u64,
        awake_us: u64,
        lag_ms_max: i64,
        durable: &DurableLogs,
        coverage: &mut Coverage,
    ) {
        let group = status.group;
        if !status.role.serving {
            self.growths.remove(&(node, group));
            return;
        }
        let begun = || Growth { term: status.role.term, incarnation, ends: VecDeque::new() };
        let growth = self.growths.entry((node, group)).or_insert_with(begun);
        if growth.term != status.role.term || growth.incarnation != incarnation {
            *growth = begun();
        }
        if growth.ends.back().is_none_or(|(_, end)| *end != status.last) {
            growth.ends.push_back((now_us, status.last));
        }
        let patience_us = lag_ms_max.unsigned_abs() * 1_000 + NOTICE_US_MAX;
        let Some(then_us) = now_us.checked_sub(patience_us).filter(|then_us| *then_us >= awake_us) else {
            return;
        };
        while growth.ends.get(1).is_some_and(|(at_us, _)| *at_us <= then_us) {
            growth.ends.pop_front();
        }
        let Some((_, expected)) = growth.ends.front().filter(|(at_us, _)| *at_us <= then_us) else { return };
        for NodeId(id) in shard.in_sync(group) {
            let follower = usize::try_from(id - 1).expect("ids are counted from 1");
            coverage.mark("in-sync replica judged");
            let last = durable.last(follower, group);
            assert!(
                follower == node || last >= *expected,
                "group {group}: node {id} counts as in sync in term {}, but lacks what the leader had {patience_us} us \
                 ago: {last} of {expected}",
                growth.term
            );
        }
    }
}

/// When the leaders of partitions had as many in-sync replicas as `min.insync.replicas` asks for, by the run of their process.
#[derive(Debug, Default)]
pub struct Quorums {
    spans: BTreeMap<(u64, TopicId, i32), Span>,
}

#[derive(Debug)]
struct Span {
    is_enough: bool,
    /// When there last were enough of them, as far as was seen.
    enough_us: Option<u64>,
}

impl Quorums {
    /// A leader was looked at.
    pub(crate) fn on_look(&mut self, key: (u64, TopicId, i32), is_enough: bool, now_us: u64) {
        let span = self.spans.entry(key).or_insert(Span { is_enough, enough_us: None });
        if is_enough || span.is_enough {
            span.enough_us = Some(now_us);
        }
        span.is_enough = is_enough;
    }

    /// Whether there were enough at some time since then. What was never looked at needs no more than its leader.
    pub(crate) fn were_enough_since(&self, key: (u64, TopicId, i32), since_us: u64) -> bool {
        self.spans
            .get(&key)
            .is_none_or(|span| span.is_enough || span.enough_us.is_some_and(|at_us| at_us >= since_us))
    }
}
