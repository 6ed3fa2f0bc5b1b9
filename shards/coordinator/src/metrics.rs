//! What an operator sees of a coordinator.

/// What there is at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupGauges {
    /// Groups in state PreparingRebalance.
    pub preparing_rebalance: usize,
    /// Groups in state CompletingRebalance.
    pub completing_rebalance: usize,
    /// Groups in state Stable.
    pub stable: usize,
    /// Members of all groups.
    pub members: usize,
    /// Committed offsets.
    pub offsets: usize,
}

/// What happened since the counts were taken last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupCounts {
    /// Rebalances that ended with an assignment or with an empty group.
    pub rebalances_completed: u64,
    /// Members removed because they did not send a heartbeat in time.
    pub members_expired: u64,
    /// Offsets that clients committed.
    pub offset_commits: u64,
    /// Offsets that clients deleted, alone or with their group.
    pub offset_deletions: u64,
    /// Offsets deleted because their retention had passed.
    pub offsets_expired: u64,
}
