//! One run of the server process: its shards, and the work that each has under way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use broker::BrokerConfig;
use coordinator::GroupConfig;
use log::wal::{
    FILE_SEQUENCE_FIRST, FLUSH_SEQUENCE_FIRST, FlushBuilder, Record, RecordNote, Recovered, RecoveredGroup,
    RecoveryError, WalFileContent, file_name, recover,
};
use metadata::{Endpoint, StaticSettings};
use shard::{DiskRequest, DiskToken, Effect, PeerAddress, Registration, Shard, ShardConfig};
use types::limits::{WAL_FILE_BYTES, WAL_FLUSH_BYTES_MAX};
use types::{DirectoryId, GroupId, NodeId, Now, ShardId, ShardLayout};

use crate::disk::{Disk, WalFile, WalWork};
use crate::random::Random;

/// What stays the same from one run of the process to the next, and on all nodes.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// How many nodes there are. Their ids are counted from 1.
    pub nodes: usize,
    /// Whether each of them may begin the cluster, or only the first.
    pub may_all_begin: bool,
    /// `replica.lag.time.max.ms`.
    pub replica_lag_ms_max: i64,
    /// How often leadership goes back to the first replicas, if it does.
    pub leader_balance_interval_ms: Option<i64>,
    /// `offsets.topic.replication.factor`.
    pub offsets_topic_replication: i16,
    /// `log.retention.check.interval.ms`.
    pub retention_check_interval_ms: i64,
    /// `offsets.topic.num.partitions`.
    pub offsets_topic_partitions: i32,
}

/// One start of a process.
pub struct Start<'a> {
    /// The settings.
    pub options: &'a NodeOptions,
    /// Which node it is.
    pub node: NodeId,
    /// Whether its data directory remembers a cluster.
    pub has_joined: bool,
    /// How groups are spread.
    pub layout: ShardLayout,
    /// Differs from start to start.
    pub incarnation: u64,
    /// The clocks.
    pub now: Now,
}

/// The id of the node at a place in the cluster.
pub fn node_id(node: usize) -> NodeId {
    NodeId(i32::try_from(node).expect("few nodes") + 1)
}

/// The port on which clients reach a node; all nodes have the same host.
pub fn client_port(node: NodeId) -> u16 {
    9_000 + u16::try_from(node.0).expect("few nodes")
}

/// One shard of a running process, with its I/O under way.
pub struct Lane {
    /// The code under test.
    pub shard: Shard,
    /// Whether `TurnEnded` is on its way.
    pub is_turn_due: bool,
    /// The deadline that is armed, on the monotonic clock.
    pub deadline_us: Option<u64>,
    /// The flush under way, with its number and what is in it.
    pub flush: Option<(u64, WalWork, Vec<RecordNote>)>,
    /// The file that is being made.
    pub file: Option<WalWork>,
    /// Requests on segments: in order for each group, the first of each is being worked on.
    pub disk: BTreeMap<GroupId, VecDeque<(DiskToken, DiskRequest)>>,
}

/// A run of the process, from its start to its crash.
pub struct Process {
    /// Differs from run to run.
    pub incarnation: u64,
    /// How groups are spread.
    pub layout: ShardLayout,
    /// By shard number.
    pub lanes: Vec<Lane>,
}

impl Process {
    /// Recovers the WALs of all shards, for the number of shards that there are to be.
    ///
    /// # Panics
    ///
    /// When the disk cannot be recovered: no fault of the simulator may lead there.
    pub fn recover(layout: ShardLayout, disk: &mut Disk) -> Vec<Recovered> {
        if disk.layout.replace(layout).is_some_and(|before| before != layout) {
            regroup(layout, disk);
        }
        let shards = (0..layout.shards()).map(ShardId);
        shards.map(|shard| recover_wal(disk.wals.entry(shard).or_default())).collect()
    }

    /// Starts the shards with what their WALs hold. Returns what each of them wants done first.
    pub fn start(
        start: &Start<'_>,
        wals: Vec<Recovered>,
        random: &mut Random,
    ) -> (Process, Vec<(ShardId, Vec<Effect>)>) {
        let Start { layout, incarnation, now, .. } = *start;
        let seed = random.next_u64();
        let config = start.config(seed);
        let mut begun = Vec::new();
        let mut lanes = Vec::new();
        for (shard, recovered) in (0..).map(ShardId).zip(wals) {
            let mut effects = Vec::new();
            let core = Shard::new(ShardConfig { shard, ..config.clone() }, recovered, now, &mut effects);
            lanes.push(Lane {
                shard: core,
                is_turn_due: false,
                deadline_us: None,
                flush: None,
                file: None,
                disk: BTreeMap::new(),
            });
            begun.push((shard, effects));
        }
        (Process { incarnation, layout, lanes }, begun)
    }

    /// The lane of a shard.
    pub fn lane(&mut self, shard: ShardId) -> &mut Lane {
        &mut self.lanes[usize::from(shard.0)]
    }

    /// Power fails: what was under way reaches the disk wholly, partly or not at all.
    pub fn crash(self, disk: &mut Disk, random: &mut Random) {
        for (shard, lane) in (0..).map(ShardId).zip(self.lanes) {
            for work in lane.flush.map(|(_, work, _)| work).iter().chain(&lane.file) {
                disk.tear_wal(shard, work, random);
            }
            for (_, request) in lane.disk.values().filter_map(VecDeque::front) {
                disk.tear(request, random);
            }
        }
        disk.lose_unsynced(random);
    }
}

impl Start<'_> {
    /// The configuration of the first shard.
    fn config(&self, seed: u64) -> ShardConfig {
        let Start { options, node, incarnation, .. } = *self;
        let nodes = (0..options.nodes).map(node_id);
        let address = |node: NodeId| PeerAddress { node, host: format!("node-{node}"), port: 9_000 };
        let broker = BrokerConfig {
            node,
            incarnation,
            layout: self.layout,
            offsets_topic_partitions: options.offsets_topic_partitions,
            offsets_topic_replication: options.offsets_topic_replication,
            reads_in_rack: false,
            producer_id_expiration_ms: 86_400_000,
            retention_check_interval_ms: options.retention_check_interval_ms,
            log_dir: "/data".to_owned(),
            groups: GroupConfig {
                session_timeout_ms_min: 1_000,
                initial_rebalance_delay_ms: 100,
                ..GroupConfig::default()
            },
        };
        let registration = Registration {
            node,
            rack: None,
            endpoint: Endpoint {
                listener: "PLAINTEXT".to_owned(),
                host: "localhost".to_owned(),
                port: client_port(node),
            },
            incarnation,
            peer: None,
            directory_id: DirectoryId([u8::try_from(node.0).expect("a few nodes"); 16]),
            new_cluster_id: "sim".to_owned(),
        };
        // Topics say whether they are throttled. Slow beside the network, and done within seconds.
        let throttle = ["leader", "follower"]
            .map(|side| (format!("{side}.replication.throttled.rate"), "4194304".to_owned()));
        ShardConfig {
            shard: ShardId(0),
            broker: Arc::new(broker),
            settings: StaticSettings::new(throttle).expect("they are valid settings"),
            registration,
            peers: nodes.clone().filter(|other| *other != node).map(address).collect(),
            first_voters: nodes.collect(),
            is_clustered: true,
            move_bytes_per_second_max: 64 * 1024 * 1024,
            shares_out: true,
            may_begin_cluster: options.may_all_begin || node == node_id(0) || self.has_joined,
            replica_lag_ms_max: options.replica_lag_ms_max,
            leader_balance_interval_ms: options.leader_balance_interval_ms,
            seed,
        }
    }
}

/// Recovers a WAL, if it can be.
pub(crate) fn try_recover(files: &BTreeMap<u64, WalFile>) -> Result<Recovered, RecoveryError> {
    let contents: Vec<WalFileContent<'_>> = files
        .iter()
        .map(|(sequence, file)| WalFileContent {
            sequence: *sequence,
            name: file_name(*sequence),
            content: &file.content,
        })
        .collect();
    recover(&contents)
}

fn recover_wal(files: &BTreeMap<u64, WalFile>) -> Recovered {
    let recovered = try_recover(files).unwrap_or_else(|error| panic!("the WAL is not recovered: {error}"));
    recovered.ledger.assert_consistent();
    recovered
}

/// Writes all groups to new WALs, for another number of shards.
fn regroup(layout: ShardLayout, disk: &mut Disk) {
    let mut writers: BTreeMap<ShardId, WalWriter> =
        (0..layout.shards()).map(|shard| (ShardId(shard), WalWriter::new())).collect();
    for files in disk.wals.values() {
        for (group, content) in recover_wal(files).groups {
            let writer =
                writers.get_mut(&layout.shard_of(group)).expect("a group's shard is one of those there are");
            writer.write_group(group, content);
        }
    }
    disk.wals = writers.into_iter().map(|(shard, writer)| (shard, writer.finish())).collect();
}

struct WalWriter {
    files: BTreeMap<u64, WalFile>,
    flush: FlushBuilder,
    position: u64,
}

impl WalWriter {
    fn new() -> WalWriter {
        let flush = FlushBuilder::new(FILE_SEQUENCE_FIRST, FLUSH_SEQUENCE_FIRST);
        WalWriter { files: BTreeMap::new(), flush, position: 0 }
    }

    fn write_group(&mut self, group: GroupId, content: RecoveredGroup) {
        let RecoveredGroup { term, vote, commit, checkpoint, entries, .. } = content;
        if let Some(checkpoint) = checkpoint {
            let (index, term, state) = (checkpoint.index, checkpoint.term, checkpoint.state);
            self.push(Record::Checkpoint { group, index, term, state });
        }
        self.push(Record::HardState { group, term, vote, commit });
        for entry in entries {
            let (term, index, entry_type) = (entry.term, entry.index, entry.entry_type);
            let (context, data) = (entry.context, entry.data);
            self.push(Record::Entry { group, term, index, entry_type, context, data });
        }
    }

    fn push(&mut self, record: Record) {
        let bytes = self.flush.len_bytes_with(record.encoded_bytes());
        if !self.flush.is_empty()
            && (bytes > WAL_FLUSH_BYTES_MAX || self.position + bytes as u64 > WAL_FILE_BYTES)
        {
            self.write_flush();
        }
        if self.position + self.flush.len_bytes_with(record.encoded_bytes()) as u64 > WAL_FILE_BYTES {
            self.flush = FlushBuilder::new(self.flush.file_sequence() + 1, self.flush.flush_sequence());
            self.position = 0;
        }
        self.flush.push(record);
    }

    fn write_flush(&mut self) {
        let (file, next) = (self.flush.file_sequence(), self.flush.flush_sequence() + 1);
        let flush = std::mem::replace(&mut self.flush, FlushBuilder::new(file, next)).finish();
        let content = &mut self.files.entry(file).or_default().content;
        flush.parts.iter().for_each(|part| content.extend_from_slice(part));
        self.position += flush.bytes as u64;
    }

    fn finish(mut self) -> BTreeMap<u64, WalFile> {
        if !self.flush.is_empty() {
            self.write_flush();
        }
        self.files
    }
}
