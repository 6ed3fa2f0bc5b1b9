//! Kafka's classic consumer groups and committed offsets, for one partition of `__consumer_offsets`.
//!
//! The shard that leads the partition owns one [`GroupCoordinator`]. It is built like Kafka's
//! coordinator runtime: a handler never changes durable state; it returns records and a response,
//! and the response waits for the commit of the records. Durable state changes only in
//! [`GroupCoordinator::replay`], which is also recovery. What a rebalance needs beside it
//! (who has joined, who waits) lives and dies with the leadership.
//!
//! This crate knows nothing of connections, ACLs, topics that exist, Raft or the log.

mod admin;
mod api;
mod config;
mod coordinator;
mod env;
mod error;
mod group;
mod join;
mod leave;
mod member_id;
mod membership;
mod messages;
mod metrics;
mod offset_store;
mod offsets;
mod rebalance;
mod records;
mod timers;
mod tombstones;

pub use api::{
    Action, CoordinatorRecord, GroupFilter, GroupRequest, GroupResponse, RequestContext, RequestToken,
    WRITE_BYTES_MAX, WriteId,
};
pub use config::GroupConfig;
pub use coordinator::GroupCoordinator;
pub use error::ReplayError;
pub use messages::ErrorCode;
pub use metrics::{GroupCounts, GroupGauges};
