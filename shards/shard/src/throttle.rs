//! What bounds the bytes of pulls: the node's own setting for new replicas, and what an administrator throttles (KIP-73).
//!
//! A leader that has sent as much as it may keeps the next pulls for a while: at most one of each follower and group, since a
//! follower asks for one piece after the other.

use std::collections::BTreeMap;

use metadata::ReplicationRates;
use types::{GroupId, NodeId, Now, Offset, ShardId};

use crate::event::ShardMessage;
use crate::rate::Rate;
use crate::shard::Shard;

/// Pulls with a bound of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Of replicas that are new on this node.
    Newcomers,
    /// From throttled replicas here.
    FromThrottled,
    /// Of throttled replicas here.
    OfThrottled,
}

const KINDS: [Kind; 3] = [Kind::Newcomers, Kind::FromThrottled, Kind::OfThrottled];

/// The kinds of pulls, in the order of their declaration, that a shard has had lately.
pub type PullKinds = [bool; 3];

/// What replicas of this shard may pull and send. Shards that pull at the same time share what the node may: each tells
/// the others which kinds it has.
pub(crate) struct PullRates {
    /// Bytes per second of the whole node, by kind; `None` for no bound.
    of_node: [Option<u64>; 3],
    rates: [Option<Rate>; 3],
    /// Since [`PullRates::rest`].
    used: PullKinds,
    told: PullKinds,
    others: BTreeMap<ShardId, PullKinds>,
}

impl PullRates {
    /// Nothing is throttled yet; new replicas of the node may pull so much.
    pub(crate) fn new(now: Now, bytes_per_second: u64) -> PullRates {
        let mut rates = PullRates {
            of_node: [Some(bytes_per_second), None, None],
            rates: [None; 3],
            used: PullKinds::default(),
            told: PullKinds::default(),
            others: BTreeMap::new(),
        };
        rates.share(now);
        rates
    }

    /// What the node may move of throttled replicas is this from now on.
    fn change(&mut self, now: Now, rates: ReplicationRates) {
        self.of_node[Kind::FromThrottled as usize] = rates.leader;
        self.of_node[Kind::OfThrottled as usize] = rates.follower;
        self.share(now);
    }

    fn share(&mut self, now: Now) {
        for kind in KINDS.map(|kind| kind as usize) {
            let sharers = 1 + self.others.values().filter(|kinds| kinds[kind]).count() as u64;
            let share = self.of_node[kind].map(|rate| rate.div_ceil(sharers));
            match (&mut self.rates[kind], share) {
                (Some(rate), Some(share)) => rate.change(now, share),
                (rate, share) => *rate = share.map(|share| Rate::new(now, share)),
            }
        }
    }

    /// What bounds the pulls of a replica here.
    pub(crate) fn of_pulls(
        &mut self,
        is_newcomer: bool,
        is_throttled: bool,
    ) -> impl Iterator<Item = &mut Rate> {
        let is_bound = [is_newcomer, false, is_throttled];
        let bounds = self.rates.iter_mut().zip(&mut self.used).zip(is_bound);
        bounds.filter(|(_, is_bound)| *is_bound).filter_map(|((rate, used), _)| {
            *used = true;
            rate.as_mut()
        })
    }

    /// What bounds the answers to pulls from a replica here.
    pub(crate) fn of_answers(&mut self, is_throttled: bool) -> Option<&mut Rate> {
        let kind = Kind::FromThrottled as usize;
        self.used[kind] |= is_throttled;
        self.rates[kind].as_mut().filter(|_| is_throttled)
    }

    /// The kinds that this shard has, where the others do not know of all of them.
    fn take_news(&mut self) -> Option<PullKinds> {
        let kinds = [0, 1, 2].map(|kind| self.told[kind] || self.used[kind]);
        (kinds != std::mem::replace(&mut self.told, kinds)).then_some(kinds)
    }

    /// The kinds that this shard has had since this was asked last, where the others believe that there are more.
    fn rest(&mut self, now: Now) -> Option<PullKinds> {
        let mut kinds = std::mem::take(&mut self.used);
        for (kind, rate) in kinds.iter_mut().zip(&mut self.rates) {
            // Whoever waits to have made up for what was taken does not look.
            *kind |= rate.as_mut().is_some_and(|rate| rate.ready_us(now) > now.mono_us);
        }
        (kinds != std::mem::replace(&mut self.told, kinds)).then_some(kinds)
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
        self.pull_rates.change(now, rates);
        self.resume_pulls(now, u64::MAX);
        self.begin_pulls(now);
    }

    /// Tells the other shards that this one has another kind of pulls than they know of.
    pub(crate) fn tell_pulls(&mut self) {
        if let Some(kinds) = self.pull_rates.take_news() {
            self.send_to_all(|| ShardMessage::Pulls(kinds));
        }
    }

    /// Tells the other shards of kinds of pulls that this one has no longer.
    pub(crate) fn rest_pulls(&mut self, now: Now) {
        if let Some(kinds) = self.pull_rates.rest(now) {
            self.send_to_all(|| ShardMessage::Pulls(kinds));
        }
    }

    /// Another shard shares the node's rates for these kinds from now on.
    pub(crate) fn on_other_pulls(&mut self, now: Now, from: ShardId, kinds: PullKinds) {
        self.pull_rates.others.insert(from, kinds);
        self.pull_rates.share(now);
        self.resume_pulls(now, u64::MAX);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_us: u64) -> Now {
        Now { mono_us, wall_ms: 0 }
    }

    /// When a mebibyte that a new replica has pulled is made up for.
    fn pause_us(rates: &mut PullRates) -> u64 {
        let rate = rates.of_pulls(true, false).next().expect("newcomers are bounded");
        let mut after = *rate;
        after.take(1 << 20);
        after.ready_us(at(0))
    }

    #[test]
    fn a_shard_that_pulls_alone_has_the_whole_rate() {
        let mut rates = PullRates::new(at(0), 1 << 20);
        assert_eq!(rates.take_news(), None);
        assert_eq!(pause_us(&mut rates), 1_000_000);
        rates.others.insert(ShardId(1), [true, false, false]);
        rates.others.insert(ShardId(2), [false, true, true]);
        rates.share(at(0));
        assert_eq!(pause_us(&mut rates), 2_000_000);
        rates.others.insert(ShardId(1), PullKinds::default());
        rates.share(at(0));
        assert_eq!(pause_us(&mut rates), 1_000_000);
    }

    #[test]
    fn others_hear_once_of_each_change() {
        let mut rates = PullRates::new(at(0), 1 << 20);
        rates.change(at(0), ReplicationRates { leader: Some(1_000), follower: Some(1_000) });
        assert_eq!(rates.of_pulls(true, false).count(), 1);
        assert_eq!(rates.take_news(), Some([true, false, false]));
        assert_eq!(rates.of_pulls(false, true).count(), 1);
        assert_eq!(rates.take_news(), Some([true, false, true]));
        assert_eq!(rates.of_pulls(true, true).count(), 2);
        assert!(rates.of_answers(false).is_none());
        assert_eq!(rates.take_news(), None);
        assert_eq!(rates.rest(at(0)), None, "all kinds were seen");
        assert!(rates.of_answers(true).is_some());
        assert_eq!(rates.take_news(), Some([true, true, true]));
        assert_eq!(rates.rest(at(0)), Some([false, true, false]));
        assert_eq!(rates.rest(at(0)), Some([false, false, false]));
        assert_eq!(rates.rest(at(0)), None);
        for rate in rates.of_pulls(true, false) {
            rate.take(10 << 20);
        }
        assert_eq!(rates.take_news(), Some([true, false, false]));
        assert_eq!(rates.rest(at(0)), None);
        assert_eq!(rates.rest(at(9_000_000)), None, "it has not made up for what it took");
        assert_eq!(rates.rest(at(11_000_000)), Some([false, false, false]));
    }
}
