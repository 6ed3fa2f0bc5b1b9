//! One core's state and its only entrance, [`Shard::step`].
//!
//! A shard owns everything of one core: connections, the Raft groups placed on it, its WAL, its segments. It does no I/O and
//! reads no clock: [`Event`]s come in, [`Effect`]s go out. The reactor drives it on real devices.

mod catch_up;
mod coordinator_host;
mod coordinators;
mod disk;
mod event;
mod group_metrics;
mod inspect;
mod leader_waits;
mod leadership;
mod metadata_group;
mod metadata_host;
mod moves;
mod partition_host;
mod peer_message;
mod peers;
mod pull_pace;
mod quorum;
mod raft_metrics;
mod rate;
mod reads;
mod requests;
mod shard;
mod throttle;
mod turn;
mod wal;

pub use event::{
    DiskAnswer, DiskError, DiskRequest, DiskToken, Effect, Event, FatalReason, LeaderChange, PeerAddress,
    ShardMessage,
};
pub use inspect::{GroupStatus, PartitionBounds, ReplicaMemory};
pub use metadata_host::Registration;
pub use peer_message::PeerMessage;
pub use shard::{Shard, ShardConfig};
pub use throttle::PullKinds;
