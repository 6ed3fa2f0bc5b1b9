//! What an operator sees of a coordinator.

/// Gauges of the present state, and counters since the coordinator was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupMetrics {
    /// Groups in state Empty, those included that only have offsets.
    pub groups_empty: usize,
    /// Groups in state PreparingRebalance.
    pub groups_preparing_rebalance: usize,
    /// Groups in state CompletingRebalance.
    pub groups_completing_rebalance: usize,
    /// Groups in state Stable.
    pub groups_stable: usize,
    /// Members of all groups.
    pub members: usize,
    /// Committed offsets.
    pub offsets: usize,
    /// Rebalances that ended with an assignment or with an empty group.
    pub rebalances_completed_total: u64,
    /// Members removed because they did not send a heartbeat in time.
    pub members_expired_total: u64,
    /// Offsets that clients committed.
    pub offset_commits_total: u64,
    /// Offsets that clients deleted, alone or with their group.
    pub offset_deletions_total: u64,
    /// Offsets deleted because their retention had passed.
    pub offsets_expired_total: u64,
}

/// The counters among the [`GroupMetrics`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub rebalances_completed: u64,
    pub members_expired: u64,
    pub offset_commits: u64,
    pub offset_deletions: u64,
    pub offsets_expired: u64,
}
