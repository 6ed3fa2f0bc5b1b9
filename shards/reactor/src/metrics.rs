//! The handles of one shard's metrics, fetched once: a recorder that is to see them is installed before the
//! node starts.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use types::{NodeId, ShardId};

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The client closed it, or it broke.
    Client,
    /// The shard wanted it.
    Shard,
    /// No request came to its end, and no response was taken, for too long.
    Idle,
    /// The client sent a length that is not allowed.
    BadFrame,
    /// A large request stood still while memory for requests was short, or a response while fetches waited for memory.
    Memory,
    /// The node ends.
    Stop,
}

const CLOSE_REASONS: [(CloseReason, &str); 6] = [
    (CloseReason::Client, "client"),
    (CloseReason::Shard, "shard"),
    (CloseReason::Idle, "idle"),
    (CloseReason::BadFrame, "bad_frame"),
    (CloseReason::Memory, "memory"),
    (CloseReason::Stop, "stop"),
];

/// The kinds of disk work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskKind {
    CreateGroup,
    RemoveGroup,
    Append,
    RemoveSegments,
    Read,
    ReadIndexes,
    MeasureSpace,
    CreateWalFile,
    RecycleWalFile,
}

const DISK_KINDS: [(DiskKind, &str); 9] = [
    (DiskKind::CreateGroup, "create_group"),
    (DiskKind::RemoveGroup, "remove_group"),
    (DiskKind::Append, "append"),
    (DiskKind::RemoveSegments, "remove_segments"),
    (DiskKind::Read, "read"),
    (DiskKind::ReadIndexes, "read_indexes"),
    (DiskKind::MeasureSpace, "measure_space"),
    (DiskKind::CreateWalFile, "create_wal_file"),
    (DiskKind::RecycleWalFile, "recycle_wal_file"),
];

/// The metrics of one kind of disk work.
pub(crate) struct DiskMetrics {
    pub(crate) requests: Counter,
    pub(crate) failures: Counter,
    pub(crate) duration: Histogram,
}

/// The metrics of one shard's driver.
pub(crate) struct ShardMetrics {
    pub(crate) connections: Gauge,
    pub(crate) connections_accepted: Counter,
    pub(crate) connections_refused: Counter,
    connections_closed: [Counter; CLOSE_REASONS.len()],
    pub(crate) received_bytes: Counter,
    pub(crate) sent_bytes: Counter,
    pub(crate) requests: Counter,
    pub(crate) frame_bytes: Gauge,
    pub(crate) wal_flushes: Counter,
    pub(crate) wal_bytes: Counter,
    pub(crate) wal_flush_duration: Histogram,
    pub(crate) wal_flush_records: Histogram,
    disk: [DiskMetrics; DISK_KINDS.len()],
    pub(crate) disk_queued: Gauge,
    pub(crate) ring_messages: Counter,
    pub(crate) ring_waiting: Gauge,
    pub(crate) turns: Counter,
    pub(crate) events: Counter,
}

impl ShardMetrics {
    pub(crate) fn new(shard: ShardId) -> ShardMetrics {
        let shard = shard.to_string();
        let count = |name: &'static str| counter!(name, "shard" => shard.clone());
        let level = |name: &'static str| gauge!(name, "shard" => shard.clone());
        let spread = |name: &'static str| histogram!(name, "shard" => shard.clone());
        ShardMetrics {
            connections: level("chronik_connections"),
            connections_accepted: count("chronik_connections_accepted_total"),
            connections_refused: count("chronik_connections_refused_total"),
            connections_closed: CLOSE_REASONS.map(|(_, reason)| {
                counter!("chronik_connections_closed_total", "shard" => shard.clone(), "reason" => reason)
            }),
            received_bytes: count("chronik_received_bytes_total"),
            sent_bytes: count("chronik_sent_bytes_total"),
            requests: count("chronik_requests_total"),
            frame_bytes: level("chronik_frame_assembly_bytes"),
            wal_flushes: count("chronik_wal_flushes_total"),
            wal_bytes: count("chronik_wal_bytes_total"),
            wal_flush_duration: spread("chronik_wal_flush_duration_seconds"),
            wal_flush_records: spread("chronik_wal_flush_records"),
            disk: DISK_KINDS.map(|(_, kind)| DiskMetrics {
                requests: counter!("chronik_disk_requests_total", "shard" => shard.clone(), "kind" => kind),
                failures: counter!("chronik_disk_failures_total", "shard" => shard.clone(), "kind" => kind),
                duration: histogram!("chronik_disk_duration_seconds", "shard" => shard.clone(), "kind" => kind),
            }),
            disk_queued: level("chronik_disk_requests_queued"),
            ring_messages: count("chronik_ring_messages_total"),
            ring_waiting: level("chronik_ring_messages_waiting"),
            turns: count("chronik_loop_turns_total"),
            events: count("chronik_events_total"),
        }
    }

    pub(crate) fn closed(&self, reason: CloseReason) -> &Counter {
        &self.connections_closed[reason as usize]
    }

    pub(crate) fn disk(&self, kind: DiskKind) -> &DiskMetrics {
        &self.disk[kind as usize]
    }
}

/// The metrics of the way from one shard to one peer.
pub(crate) struct PeerMetrics {
    pub(crate) connected: Gauge,
    pub(crate) bytes_sent: Counter,
    pub(crate) frames_sent: Counter,
    pub(crate) queued_bytes: Gauge,
}

impl PeerMetrics {
    pub(crate) fn new(shard: ShardId, peer: NodeId) -> PeerMetrics {
        let (shard, peer) = (shard.to_string(), peer.to_string());
        let count = |name: &'static str| counter!(name, "shard" => shard.clone(), "peer" => peer.clone());
        let level = |name: &'static str| gauge!(name, "shard" => shard.clone(), "peer" => peer.clone());
        PeerMetrics {
            connected: level("chronik_peer_connected"),
            bytes_sent: count("chronik_peer_bytes_sent_total"),
            frames_sent: count("chronik_peer_frames_sent_total"),
            queued_bytes: level("chronik_peer_queued_bytes"),
        }
    }
}

/// The metrics of the way from one peer to one shard.
pub(crate) struct IncomingPeerMetrics {
    pub(crate) bytes_received: Counter,
    pub(crate) frames_received: Counter,
}

impl IncomingPeerMetrics {
    pub(crate) fn new(shard: ShardId, peer: NodeId) -> IncomingPeerMetrics {
        let (shard, peer) = (shard.to_string(), peer.to_string());
        let count = |name: &'static str| counter!(name, "shard" => shard.clone(), "peer" => peer.clone());
        IncomingPeerMetrics {
            bytes_received: count("chronik_peer_bytes_received_total"),
            frames_received: count("chronik_peer_frames_received_total"),
        }
    }
}

/// The metrics of the supervisor about one shard.
#[derive(Clone)]
pub(crate) struct StallMetrics {
    pub(crate) stalls: Counter,
    pub(crate) duration: Histogram,
}

impl StallMetrics {
    pub(crate) fn new(shard: ShardId) -> StallMetrics {
        let shard = shard.to_string();
        StallMetrics {
            stalls: counter!("chronik_stalls_total", "shard" => shard.clone()),
            duration: histogram!("chronik_stall_duration_seconds", "shard" => shard),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_stand_in_the_order_of_their_enums() {
        for (place, (reason, _)) in CLOSE_REASONS.iter().enumerate() {
            assert_eq!(*reason as usize, place);
        }
        for (place, (kind, _)) in DISK_KINDS.iter().enumerate() {
            assert_eq!(*kind as usize, place);
        }
    }
}
