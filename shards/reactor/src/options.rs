//! What the caller of [`crate::Node::start`] chooses.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use types::{DirectoryId, GroupId, NodeId, ShardId};

/// Where the executors run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Wherever the scheduler puts them: for laptops, tests and shared machines.
    Unbound,
    /// Executor k on the k-th of these processors, which nothing else should use. There are as many as shards.
    Pinned(Vec<usize>),
}

/// How a node runs.
#[derive(Clone)]
pub struct NodeOptions {
    /// The folder of all files. Made if it is not there.
    pub data_dir: PathBuf,
    /// This node's id; the data directory remembers it and refuses another.
    pub node_id: NodeId,
    /// The cluster's id where the caller knows it; the data directory remembers it and refuses another.
    pub cluster_id: Option<String>,
    /// The addresses to accept Kafka clients on. Port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// The addresses to accept other nodes on; none for a node that is alone. Port 0 takes a free one.
    pub raft_listen: Vec<SocketAddr>,
    /// The nodes that vote in the metadata group, ascending. Remembered at the first start, and never changed by another.
    pub voters: Vec<NodeId>,
    /// Differs at each start of the process.
    pub incarnation: u64,
    /// The id of the data directory if this is its first start, drawn at random.
    pub new_directory_id: DirectoryId,
    /// Executors, from 1 on.
    pub shards: u16,
    /// Where the executors run.
    pub placement: Placement,
    /// How long a pinned executor polls for the next event before it sleeps. Sleeping costs a wake-up and what other
    /// programs leave of the core's caches; polling costs this much of the core's time after each event.
    pub busy_poll: Duration,
    /// How long a pinned executor polls for the end of a WAL write, where the last one took no longer. Zero lets it sleep, as suits
    /// cores that others use too: nodes that share one wait for each other's polling.
    pub write_poll: Duration,
    /// The shard that a group lives on: asked when the number of shards has changed since the last run.
    pub shard_of: Arc<dyn Fn(GroupId) -> ShardId + Send + Sync>,
    /// The largest request in bytes, without its length prefix (Kafka's `socket.request.max.bytes`).
    pub request_bytes_max: usize,
    /// How long a connection may complete no request and take no response (Kafka's `connections.max.idle.ms`).
    pub connections_max_idle: Duration,
    /// How long [`crate::NodeHandle::stop`] waits for the shards to finish what they accepted.
    pub stop_grace: Duration,
}

impl NodeOptions {
    /// Options with Kafka's defaults for everything that has one, unbound, listening nowhere yet, and alone.
    pub fn new(
        data_dir: PathBuf,
        node_id: NodeId,
        shards: u16,
        shard_of: Arc<dyn Fn(GroupId) -> ShardId + Send + Sync>,
    ) -> NodeOptions {
        NodeOptions {
            data_dir,
            node_id,
            cluster_id: None,
            listen: Vec::new(),
            raft_listen: Vec::new(),
            voters: vec![node_id],
            incarnation: 0,
            new_directory_id: DirectoryId([0; 16]),
            shards,
            placement: Placement::Unbound,
            busy_poll: Duration::ZERO,
            write_poll: Duration::ZERO,
            shard_of,
            request_bytes_max: 100 * 1024 * 1024,
            connections_max_idle: Duration::from_secs(600),
            stop_grace: Duration::from_secs(30),
        }
    }
}
