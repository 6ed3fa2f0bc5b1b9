//! The cluster's metadata as a replicated state machine: brokers, topics, placements, configurations.
//!
//! Group 0 replicates [`Command`]s; every node applies them to a [`MetadataState`] in log order and hands
//! its shards the resulting [`MetadataImage`]. Requests are turned into commands by the planners, which
//! only read an image; what two racing proposals do to each other is decided by
//! [`MetadataState::apply`], the same way on every node.
//!
//! Nothing here does I/O, reads a clock or draws randomness: seeds come from the caller.

pub mod command;
pub mod configs;
mod error;
mod image;
mod names;
mod partition;
mod placement;
mod plan;
mod plan_configs;
mod plan_moves;
mod rebalance;
mod shared_map;
mod state;
#[cfg(test)]
mod testing;
mod topic_id;
mod wire;

pub use command::{Applied, Command, ConfigResource, Endpoint, PartitionSpec, Reassignment};
pub use configs::{
    BrokerDefaults, CleanupPolicy, ReplicationRates, StaticSettings, ThrottledReplicas, TimestampType,
    TopicConfig,
};
pub use error::MetadataError;
pub use image::{Broker, BrokerLoad, MetadataImage, Topic, Voter};
pub use names::{CONSUMER_OFFSETS_TOPIC, TRANSACTION_STATE_TOPIC, is_internal_topic, validate_topic_name};
pub use partition::Partition;
pub use plan::{
    CreatePartitionsPlanner, CreateTopicPlanner, ManualAssignment, PartitionsRequest, TopicRequest,
    TopicSelector, plan_delete_topic,
};
pub use plan_configs::{
    ConfigOperation, ConfigOperationKind, plan_alter_configs, plan_incremental_alter, resolve_config_resource,
};
pub use plan_moves::{ReassignmentPlanner, plan_share};
pub use rebalance::{PlacedPartition, PlanBroker, plan_drain, plan_rebalance, plan_replication_factor};
pub use state::MetadataState;
pub use topic_id::{cluster_id_from_seed, directory_id_from_seed, topic_id_from_seed, topic_id_text};
