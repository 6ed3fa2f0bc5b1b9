//! What bounds the bytes of pulls: the node's own setting for new replicas, and what an administrator throttles (KIP-73).
//!
//! A leader that has sent as much as it may keeps the next pulls for a while: at most one of each follower and group, since a
//! follower asks for one piece after the other.

use metadata::ReplicationRates;
use types::{GroupId, NodeId, Now, Offset};

use crate::rate::Rate;
use crate::shard::Shard;

/// What replicas of this shard may pull and send: its share of what the node may.
pub(crate) struct PullRates {
    /// Replicas that are new here, while they pull.
    newcomers: Rate,
    /// Replicas that are throttled, while others pull from them and while they pull; `None` for no bound.
    leader: Option<Rate>,
    follower: Option<Rate>,
}

impl PullRates {
    /// Nothing is throttled yet; new replicas may pull so much.
    pub(crate) fn new(now: Now, bytes_per_second: u64) -> PullRates {
        PullRates { newcomers: Rate::new(now, bytes_per_second), leader: None, follower: None }
    }

    /// What the node may move of throttled replicas is this from now on, and `data_shards` share it.
    fn change(&mut self, now: Now, rates: ReplicationRates, data_shards: u16) {
        let share = |rate: Option<u64>| rate.map(|rate| rate.div_ceil(u64::from(data_shards)));
        for (rate, wanted) in
            [(&mut self.leader, share(rates.leader)), (&mut self.follower, share(rates.follower))]
        {
            match (rate.as_mut(), wanted) {
                (Some(rate), Some(wanted)) => rate.change(now, wanted),
                _ => *rate = wanted.map(|wanted| Rate::new(now, wanted)),
            }
        }
    }

    /// What bounds the pulls of a replica here.
    pub(crate) fn of_pulls(
        &mut self,
        is_newcomer: bool,
        is_throttled: bool,
    ) -> impl Iterator<Item = &mut Rate> {
        let newcomers = is_newcomer.then_some(&mut self.newcomers);
        newcomers.into_iter().chain(self.follower.as_mut().filter(|_| is_throttled))
    }

    /// What bounds the answers to pulls from a replica here.
    pub(crate) fn of_answers(&mut self, is_throttled: bool) -> Option<&mut Rate> {
        self.leader.as_mut().filter(|_| is_throttled)
    }
}

/// A pull that is answered later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeferredPull {
    pub offset: Offset,
    pub bytes: u32,
    /// When, on the monotonic clock in microseconds; never where nothing may be sent.
    pub ready_us: u64,
}

impl Shard {
    /// When [`Shard::on_pulls_deadline`] is due.
    pub(crate) fn next_pull_deadline_us(&self) -> Option<u64> {
        let deferred = self.deferred_pulls.values().map(|pull| pull.ready_us);
        let ready_us = self.paced_pulls.values().copied().chain(deferred).min();
        // What waits for another rate has no deadline.
        ready_us.filter(|ready_us| *ready_us < u64::MAX)
    }

    /// Pulls that waited, so as not to move more bytes per second than they may, go on.
    pub(crate) fn on_pulls_deadline(&mut self, now: Now) {
        self.resume_pulls(now, now.mono_us);
    }

    /// There is a newer image. What is throttled may be so no longer, and a replica that had a place among those that pull may be
    /// gone.
    pub(crate) fn review_pulls(&mut self, now: Now) {
        let rates = self.image.replication_rates(self.node);
        self.pull_rates.change(now, rates, self.config.broker.layout.data_shards());
        self.resume_pulls(now, u64::MAX);
        self.begin_pulls(now);
    }

    /// Looks again at the pulls that were to wait until `ready_us` at most.
    fn resume_pulls(&mut self, now: Now, ready_us: u64) {
        let paced: Vec<GroupId> =
            self.paced_pulls.extract_if(.., |_, at_us| *at_us <= ready_us).map(|(group, _)| group).collect();
        for group in paced {
            self.catch_up(now, group);
        }
        let deferred: Vec<((GroupId, NodeId), DeferredPull)> =
            self.deferred_pulls.extract_if(.., |_, pull| pull.ready_us <= ready_us).collect();
        for ((group, peer), pull) in deferred {
            self.on_pull(now, peer, group, pull.offset, pull.bytes);
        }
    }

    /// Nobody waits for the answers to a node's pulls any more: it asks anew when it hears of this one.
    pub(crate) fn forget_deferred_pulls(&mut self, peer: NodeId) {
        self.deferred_pulls.retain(|(_, from), _| *from != peer);
    }
}
