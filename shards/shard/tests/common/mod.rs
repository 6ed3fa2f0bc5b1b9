//! A data shard as these tests begin it: of a node whose disk is empty.

use std::collections::BTreeMap;
use std::sync::Arc;

use broker::BrokerConfig;
use coordinator::GroupConfig;
use log::wal::{FILE_SEQUENCE_FIRST, FLUSH_SEQUENCE_FIRST, FileLedger, Recovered};
use metadata::{Command, Endpoint, StaticSettings};
use shard::{Effect, PeerAddress, Registration, Shard, ShardConfig};
use types::{DirectoryId, NodeId, Now, ShardId, ShardLayout};

/// The metadata shard of each node.
pub const METADATA: ShardId = ShardId(0);

/// The one shard of each node that hosts partitions.
const DATA: ShardId = ShardId(1);

fn endpoint() -> Endpoint {
    Endpoint { listener: "PLAINTEXT".to_owned(), host: "localhost".to_owned(), port: 9_092 }
}

/// By which the metadata know a node.
pub fn register(node: NodeId) -> Command {
    Command::RegisterBroker {
        node,
        rack: None,
        endpoints: vec![endpoint()],
        incarnation: 1,
        directory_id: None,
        peer: None,
    }
}

/// The data shard of one of these nodes.
pub fn new_shard(node: NodeId, nodes: &[NodeId], now: Now, effects: &mut Vec<Effect>) -> Shard {
    let broker = BrokerConfig {
        node,
        incarnation: 1,
        layout: ShardLayout::new(1, true),
        offsets_topic_partitions: 1,
        offsets_topic_replication: 1,
        reads_in_rack: false,
        producer_id_expiration_ms: 86_400_000,
        retention_check_interval_ms: 300_000,
        log_dir: "/data".to_owned(),
        groups: GroupConfig::default(),
    };
    let address = |node: NodeId| PeerAddress { node, host: "localhost".to_owned(), port: 9_192 };
    let config = ShardConfig {
        shard: DATA,
        broker: Arc::new(broker),
        settings: StaticSettings::default(),
        registration: Registration {
            node,
            rack: None,
            endpoint: endpoint(),
            incarnation: 1,
            peer: None,
            directory_id: DirectoryId([1; 16]),
            new_cluster_id: "test".to_owned(),
        },
        peers: nodes.iter().copied().filter(|other| *other != node).map(address).collect(),
        first_voters: nodes.to_vec(),
        is_clustered: nodes.len() > 1,
        move_bytes_per_second_max: 1 << 30,
        shares_out: true,
        may_begin_cluster: true,
        replica_lag_ms_max: 30_000,
        leader_balance_interval_ms: None,
        seed: 1,
    };
    let recovered = Recovered {
        groups: BTreeMap::new(),
        next_file_sequence: FILE_SEQUENCE_FIRST,
        next_flush_sequence: FLUSH_SEQUENCE_FIRST,
        files: Vec::new(),
        ledger: FileLedger::new(),
    };
    Shard::new(config, recovered, now, effects)
}
