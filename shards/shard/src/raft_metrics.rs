//! What a shard shows of its Raft groups.

use metrics::{Counter, Gauge, Histogram};
use types::{NodeId, ShardId};

/// The metrics of all groups of one shard.
pub(crate) struct RaftMetrics {
    shard: String,
    pub elections: Counter,
    pub in_sync_shrinks: Counter,
    pub in_sync_expansions: Counter,
    pub snapshots_offered: Counter,
    pub snapshots_installed: Counter,
    pub pulled_bytes: Counter,
    pub handovers: Counter,
    pub leaders: Gauge,
    pub followers: Gauge,
    pub ticking: Gauge,
    pub lag_entries: Gauge,
    /// From the proposal of an entry to its being applied, in seconds.
    pub commit_seconds: Histogram,
}

impl RaftMetrics {
    pub(crate) fn new(shard: ShardId) -> RaftMetrics {
        let shard = shard.to_string();
        let counter = |name: &'static str| metrics::counter!(name, "shard" => shard.clone());
        let gauge = |name: &'static str| metrics::gauge!(name, "shard" => shard.clone());
        RaftMetrics {
            elections: counter("chronik_raft_elections_won_total"),
            in_sync_shrinks: counter("chronik_raft_isr_shrinks_total"),
            in_sync_expansions: counter("chronik_raft_isr_expansions_total"),
            snapshots_offered: counter("chronik_raft_snapshots_offered_total"),
            snapshots_installed: counter("chronik_raft_snapshots_installed_total"),
            pulled_bytes: counter("chronik_raft_pulled_bytes_total"),
            handovers: counter("chronik_raft_leadership_transfers_total"),
            leaders: gauge("chronik_raft_leaders"),
            followers: gauge("chronik_raft_followers"),
            ticking: gauge("chronik_raft_ticking_groups"),
            lag_entries: gauge("chronik_raft_follower_lag_entries"),
            commit_seconds: metrics::histogram!("chronik_raft_commit_seconds", "shard" => shard.clone()),
            shard,
        }
    }

    /// Whether another node is alive, as this shard hears it.
    pub(crate) fn set_alive(&self, peer: NodeId, is_alive: bool) {
        let peer = peer.to_string();
        let gauge = metrics::gauge!("chronik_peer_alive", "shard" => self.shard.clone(), "peer" => peer);
        gauge.set(f64::from(u8::from(is_alive)));
    }
}
