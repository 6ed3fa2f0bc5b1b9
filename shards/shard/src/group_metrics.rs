//! What a shard shows of the consumer groups that it coordinates.

use coordinator::{GroupCounts, GroupGauges};
use metrics::{Counter, Gauge};
use types::ShardId;

/// The metrics of all coordinators of one shard.
pub(crate) struct GroupMetrics {
    preparing_rebalance: Gauge,
    completing_rebalance: Gauge,
    stable: Gauge,
    members: Gauge,
    offsets: Gauge,
    rebalances: Counter,
    members_expired: Counter,
    offset_commits: Counter,
    offset_deletions: Counter,
    offsets_expired: Counter,
}

impl GroupMetrics {
    pub(crate) fn new(shard: ShardId) -> GroupMetrics {
        let shard = shard.to_string();
        let groups = |state: &'static str| metrics::gauge!("chronik_consumer_groups", "shard" => shard.clone(), "state" => state);
        let gauge = |name: &'static str| metrics::gauge!(name, "shard" => shard.clone());
        let counter = |name: &'static str| metrics::counter!(name, "shard" => shard.clone());
        GroupMetrics {
            preparing_rebalance: groups("PreparingRebalance"),
            completing_rebalance: groups("CompletingRebalance"),
            stable: groups("Stable"),
            members: gauge("chronik_consumer_group_members"),
            offsets: gauge("chronik_consumer_group_offsets"),
            rebalances: counter("chronik_consumer_group_rebalances_total"),
            members_expired: counter("chronik_consumer_group_members_expired_total"),
            offset_commits: counter("chronik_consumer_group_offset_commits_total"),
            offset_deletions: counter("chronik_consumer_group_offset_deletions_total"),
            offsets_expired: counter("chronik_consumer_group_offsets_expired_total"),
        }
    }

    /// What all coordinators hold together.
    pub(crate) fn set(&self, of_all: GroupGauges) {
        let GroupGauges { preparing_rebalance, completing_rebalance, stable, members, offsets } = of_all;
        self.preparing_rebalance.set(preparing_rebalance as f64);
        self.completing_rebalance.set(completing_rebalance as f64);
        self.stable.set(stable as f64);
        self.members.set(members as f64);
        self.offsets.set(offsets as f64);
    }

    /// What one coordinator has counted.
    pub(crate) fn add(&self, counts: GroupCounts) {
        self.rebalances.increment(counts.rebalances_completed);
        self.members_expired.increment(counts.members_expired);
        self.offset_commits.increment(counts.offset_commits);
        self.offset_deletions.increment(counts.offset_deletions);
        self.offsets_expired.increment(counts.offsets_expired);
    }
}
