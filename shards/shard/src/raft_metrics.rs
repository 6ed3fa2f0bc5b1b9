//! What a shard shows of its Raft groups.

use metrics::{Counter, Gauge, Histogram};
use types::{NodeId, ShardId};

/// The metrics of all groups of one shard.
pub(crate) struct RaftMetrics {
    shard: String,
    pub elections: Counter,
    /// From the loss of the last leader to this node's serving in its place.
    pub election_seconds: Histogram,
    pub in_sync_shrinks: Counter,
    pub in_sync_expansions: Counter,
    pub snapshots_offered: Counter,
    pub snapshots_installed: Counter,
    pub pulled_bytes: Counter,
    /// From the offer of a snapshot to its being taken over.
    pub snapshot_seconds: Histogram,
    pub handovers: Counter,
    /// From the wish to hand leadership over to another's leading.
    pub handover_seconds: Histogram,
    /// How long all that a node led took to be handed over as it ended.
    pub shutdown_seconds: Histogram,
    pub beats_sent: Counter,
    pub beats_received: Counter,
    pub leaders: Gauge,
    pub followers: Gauge,
    pub ticking: Gauge,
    pub lag_entries: Gauge,
    pub lag_bytes: Gauge,
    pub lag_seconds: Gauge,
    /// From the proposal of an entry to its being applied, in seconds.
    pub commit_seconds: Histogram,
}

impl RaftMetrics {
    pub(crate) fn new(shard: ShardId) -> RaftMetrics {
        let shard = shard.to_string();
        let counter = |name: &'static str| metrics::counter!(name, "shard" => shard.clone());
        let gauge = |name: &'static str| metrics::gauge!(name, "shard" => shard.clone());
        let histogram = |name: &'static str| metrics::histogram!(name, "shard" => shard.clone());
        RaftMetrics {
            elections: counter("chronik_raft_elections_won_total"),
            election_seconds: histogram("chronik_raft_election_seconds"),
            in_sync_shrinks: counter("chronik_raft_isr_shrinks_total"),
            in_sync_expansions: counter("chronik_raft_isr_expansions_total"),
            snapshots_offered: counter("chronik_raft_snapshots_offered_total"),
            snapshots_installed: counter("chronik_raft_snapshots_installed_total"),
            pulled_bytes: counter("chronik_raft_pulled_bytes_total"),
            snapshot_seconds: histogram("chronik_raft_snapshot_transfer_seconds"),
            handovers: counter("chronik_raft_leadership_transfers_total"),
            handover_seconds: histogram("chronik_raft_leadership_transfer_seconds"),
            shutdown_seconds: histogram("chronik_raft_shutdown_handover_seconds"),
            beats_sent: counter("chronik_peer_beats_sent_total"),
            beats_received: counter("chronik_peer_beats_received_total"),
            leaders: gauge("chronik_raft_leaders"),
            followers: gauge("chronik_raft_followers"),
            ticking: gauge("chronik_raft_ticking_groups"),
            lag_entries: gauge("chronik_raft_follower_lag_entries"),
            lag_bytes: gauge("chronik_raft_follower_lag_bytes"),
            lag_seconds: gauge("chronik_raft_follower_lag_seconds"),
            commit_seconds: histogram("chronik_raft_commit_seconds"),
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
