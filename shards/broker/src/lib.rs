//! Kafka requests: decode, validate, ask the shards that own the data, translate what they say, encode.
//!
//! One file per API. A handler returns a [`step::Step`]: an answer, or operations to be carried out by the
//! owners of groups and what to do with their results. The broker holds no partition: the shard routes
//! each [`Op`] to the owner of its group, here or over a ring, and brings the [`OpResult`] back.

mod add_raft_voter;
mod alter_configs;
mod alter_partition_reassignments;
mod api_versions;
mod authorized_operations;
mod broker;
mod config;
mod configs;
mod connection;
mod create_partitions;
mod create_topics;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_log_dirs;
mod describe_producers;
mod describe_quorum;
mod describe_topic_partitions;
mod elect_leaders;
mod errors;
mod fetch;
mod fetch_session;
mod find_coordinator;
mod groups;
mod handlers;
mod init_producer_id;
mod list_config_resources;
mod list_offsets;
mod list_partition_reassignments;
mod metadata_request;
mod offset_for_leader_epoch;
mod offsets;
mod op;
mod partitions;
mod produce;
mod proposals;
mod remove_raft_voter;
mod response_memory;
mod sasl_handshake;
mod state;
mod step;
mod unregister_broker;

pub use broker::{Broker, Output, Target};
pub use config::BrokerConfig;
pub use errors::PartitionError;
pub use op::{
    ActiveProducer, FetchItem, FetchOp, FetchedPartition, GroupOp, ListOffsetsOp, MetadataOp, Op, OpResult,
    OpToken, ProduceOp, Produced, Quorum, QuorumReplica,
};
