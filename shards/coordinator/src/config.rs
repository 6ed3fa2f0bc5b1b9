//! Options and bounds of a coordinator.

/// Kafka's group coordinator options, and the bounds that Kafka does not have. Times are in
/// milliseconds and never negative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// `group.min.session.timeout.ms`.
    pub session_timeout_ms_min: i32,
    /// `group.max.session.timeout.ms`.
    pub session_timeout_ms_max: i32,
    /// `group.initial.rebalance.delay.ms`: how long an empty group waits for more members.
    pub initial_rebalance_delay_ms: i32,
    /// How long a member that was never in a generation may wait in JoinGroup. It has no heartbeat
    /// yet, and a client that gave up is not noticed otherwise.
    pub new_member_join_timeout_ms: i32,
    /// `group.max.size`: members of one group.
    pub members_max: usize,
    /// Member ids of one group that were handed out (KIP-394) and have not joined.
    pub pending_members_max: usize,
    /// Bytes of subscriptions and assignments that one group may hold.
    pub group_bytes_max: usize,
    /// `offset.metadata.max.bytes`: length of the text committed with an offset, counted as Kafka
    /// counts it, in UTF-16 units.
    pub offset_metadata_max: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`; at least 1.
    pub offsets_retention_check_interval_ms: i64,
    /// Groups of this coordinator, those included that only have offsets.
    pub groups_max: usize,
    /// Committed offsets of this coordinator.
    pub offsets_max: usize,
}

impl Default for GroupConfig {
    /// Kafka's defaults, and bounds far above what a partition of `__consumer_offsets` meets.
    fn default() -> Self {
        Self {
            session_timeout_ms_min: 6_000,
            session_timeout_ms_max: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            new_member_join_timeout_ms: 300_000,
            members_max: 10_000,
            pending_members_max: 10_000,
            group_bytes_max: 8 * 1024 * 1024,
            offset_metadata_max: 4_096,
            offsets_retention_ms: 7 * 24 * 3_600_000,
            offsets_retention_check_interval_ms: 600_000,
            groups_max: 100_000,
            offsets_max: 2_000_000,
        }
    }
}
