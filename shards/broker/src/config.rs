//! Settings of the broker side, fixed at the start of the process.

use coordinator::GroupConfig;
use types::{NodeId, ShardLayout};

/// What every shard of a node is told. The names in brackets are Kafka's.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// This node.
    pub node: NodeId,
    /// The number of this process's start, by which its registration is told from those of earlier ones.
    pub incarnation: u64,
    /// Its shards.
    pub layout: ShardLayout,
    /// Partitions of `__consumer_offsets` [`offsets.topic.num.partitions`].
    pub offsets_topic_partitions: i32,
    /// Replicas of `__consumer_offsets` [`offsets.topic.replication.factor`].
    pub offsets_topic_replication: i16,
    /// Whether clients are sent to a replica in their rack for reading [`replica.selector.class`, KIP-392].
    pub reads_in_rack: bool,
    /// Milliseconds after which an idle producer is forgotten [`producer.id.expiration.ms`].
    pub producer_id_expiration_ms: i64,
    /// Milliseconds between two looks at what may be deleted [`log.retention.check.interval.ms`].
    pub retention_check_interval_ms: i64,
    /// Where this node keeps its logs, for DescribeLogDirs [`log.dirs`].
    pub log_dir: String,
    /// Consumer groups.
    pub groups: GroupConfig,
}
