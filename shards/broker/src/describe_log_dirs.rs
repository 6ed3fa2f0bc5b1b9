//! DescribeLogDirs (key 35): what this node's replicas take on disk (KIP-113), and how much room there is (KIP-827).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use metadata::Topic;
use protocol::frame::Response;
use protocol::messages::describe_log_dirs_request::{DescribableLogDirTopic, DescribeLogDirsRequestData};
use protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResponseData, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use protocol::messages::kafka_string;
use types::{GroupId, ShardId};

use crate::broker::Target;
use crate::op::{Op, OpResult};
use crate::state::State;
use crate::step::Step;

/// The groups of the replicas asked about, by topic and partition.
type Replicas = BTreeMap<String, BTreeMap<i32, GroupId>>;

pub(crate) fn handle(state: &State, request: DescribeLogDirsRequestData) -> Step {
    let replicas = match request.topics {
        None => state.image.topics().map(|topic| local_replicas(state, topic, |_| true)).collect(),
        Some(named) => named_replicas(state, named),
    };
    let mut by_shard: BTreeMap<ShardId, Vec<GroupId>> = BTreeMap::new();
    for group in replicas.values().flat_map(BTreeMap::values) {
        by_shard.entry(state.config.layout.shard_of(*group)).or_default().push(*group);
    }
    let ops = by_shard.into_values().map(|groups| (Target::Group(groups[0]), Op::DescribeLogs { groups }));
    let ops = ops.chain([(Target::Metadata, Op::MeasureSpace)]);
    Step::gather(ops.collect(), move |state, _, results| {
        let mut sizes = HashMap::new();
        let mut space = None;
        for result in results {
            match result {
                OpResult::DescribeLogs(of_shard) => sizes.extend(of_shard),
                OpResult::Space(measured) => space = measured,
                other => unreachable!("log directories are described, not by {other:?}"),
            }
        }
        let (total_bytes, usable_bytes) =
            space.map_or((-1, -1), |(total, usable)| (signed(total), signed(usable)));
        let result = DescribeLogDirsResult {
            log_dir: kafka_string(&state.config.log_dir),
            topics: replicas
                .into_iter()
                .filter_map(|(name, groups)| describe(&name, groups, &sizes))
                .collect(),
            total_bytes,
            usable_bytes,
            ..Default::default()
        };
        let response = DescribeLogDirsResponseData { results: vec![result], ..Default::default() };
        Step::Reply(Response::DescribeLogDirs(response))
    })
}

/// Replicas that exist; like Kafka, others are passed over in silence.
fn named_replicas(state: &State, named: Vec<DescribableLogDirTopic>) -> Replicas {
    let mut wanted: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for topic in named {
        wanted.entry(topic.topic.to_string()).or_default().extend(topic.partitions);
    }
    let found = wanted.iter().filter_map(|(name, partitions)| {
        let topic = state.image.topic(name)?;
        Some(local_replicas(state, topic, |index| partitions.contains(&index)))
    });
    found.collect()
}

fn local_replicas(
    state: &State,
    topic: &Topic,
    is_wanted: impl Fn(i32) -> bool,
) -> (String, BTreeMap<i32, GroupId>) {
    let local = (0i32..)
        .zip(&topic.partitions)
        .filter(|(index, partition)| is_wanted(*index) && partition.replica_on(state.config.node).is_some());
    (topic.name.to_string(), local.map(|(index, partition)| (index, partition.group)).collect())
}

/// `None` for a topic without a replica here.
fn describe(
    name: &str,
    groups: BTreeMap<i32, GroupId>,
    sizes: &HashMap<GroupId, u64>,
) -> Option<DescribeLogDirsTopic> {
    let sized = groups.into_iter().filter_map(|(index, group)| Some((index, *sizes.get(&group)?)));
    let partitions: Vec<DescribeLogDirsPartition> = sized
        .map(|(partition_index, bytes)| DescribeLogDirsPartition {
            partition_index,
            partition_size: signed(bytes),
            ..Default::default()
        })
        .collect();
    (!partitions.is_empty()).then(|| DescribeLogDirsTopic {
        name: kafka_string(name),
        partitions,
        ..Default::default()
    })
}

/// Bytes as the protocol has them.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
