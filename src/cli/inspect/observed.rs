//! What the brokers say: asked once, at one moment, of the first broker that answers, and of others where only they know.

use std::collections::BTreeMap;

use protocol::messages::describe_cluster_response::DescribeClusterBroker;
use protocol::messages::describe_log_dirs_request::DescribeLogDirsRequestData;
use protocol::messages::describe_topic_partitions_request::{Cursor, DescribeTopicPartitionsRequestData};
use protocol::messages::describe_topic_partitions_response::{
    DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use serde::Serialize;

use crate::address::host_and_port;
use crate::cli::cluster::{self, Cluster, End, TopicLeaders};
use crate::cli::connection::call;
use crate::cli::moves::is_draining;
use crate::exit::Error;

const DESCRIBE_TOPIC_PARTITIONS_VERSION: i16 = 0;
const DESCRIBE_LOG_DIRS_VERSION: i16 = 4;

/// Partitions of one response; the broker may give fewer.
const PAGE_PARTITIONS: i32 = 2_000;

/// A value that only some node can tell, or why it is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Answer<T> {
    /// As the node says.
    Known(T),
    /// Nobody says.
    Unknown {
        /// Why.
        unknown: String,
    },
}

impl<T> Answer<T> {
    pub fn unknown(why: impl ToString) -> Answer<T> {
        Answer::Unknown { unknown: why.to_string() }
    }
}

/// A registered broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: i32,
    /// HOST:PORT, as clients are told.
    pub address: String,
    pub rack: Option<String>,
    /// Whether the broker that was asked hears it.
    pub is_alive: bool,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub topic: String,
    pub index: i32,
    /// `None` while none is known that is alive.
    pub leader: Option<i32>,
    /// `None` with the leader.
    pub leader_epoch: Option<i32>,
    pub replicas: Vec<i32>,
    pub in_sync: Vec<i32>,
    /// The replicas whose nodes are not alive.
    pub offline: Vec<i32>,
}

impl Partition {
    /// Whether a replica is not in sync.
    pub fn is_under_replicated(&self) -> bool {
        self.in_sync.len() < self.replicas.len()
    }

    /// Whether so many replicas are not alive that nothing can be written: Raft needs a majority.
    pub fn is_offline(&self) -> bool {
        (self.replicas.len() - self.offline.len()) * 2 <= self.replicas.len()
    }
}

/// The cluster, as one broker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    pub cluster_id: Answer<String>,
    /// By id.
    pub nodes: Vec<Node>,
    /// Topics that could not be described, each with the reason.
    pub undescribed: Vec<(String, String)>,
    pub topics: usize,
    /// By topic and number.
    pub partitions: Vec<Partition>,
}

impl Observed {
    /// Asks for nodes and partitions.
    ///
    /// # Errors
    ///
    /// Whatever keeps a broker from being asked.
    pub fn ask(cluster: &mut Cluster) -> Result<Observed, Error> {
        let described = cluster.describe()?;
        let cluster_id = match described.cluster_id.as_str() {
            "" => Answer::unknown("the broker that was asked has not joined a cluster yet"),
            id => Answer::Known(id.to_owned()),
        };
        let mut nodes: Vec<Node> = described.brokers.iter().map(node).collect();
        nodes.sort_by_key(|node| node.id);
        let mut observed =
            Observed { cluster_id, nodes, undescribed: Vec::new(), topics: 0, partitions: Vec::new() };
        observed.ask_partitions(cluster)?;
        Ok(observed)
    }

    fn ask_partitions(&mut self, cluster: &mut Cluster) -> Result<(), Error> {
        let mut cursor = None;
        // The topic that the last page ended in, which the next one begins with.
        let mut last_topic = None;
        loop {
            let request = DescribeTopicPartitionsRequestData {
                response_partition_limit: PAGE_PARTITIONS,
                cursor,
                ..DescribeTopicPartitionsRequestData::default()
            };
            let response =
                call!(cluster.any()?, DescribeTopicPartitions, DESCRIBE_TOPIC_PARTITIONS_VERSION, request);
            for topic in response.topics {
                let name = topic.name.as_ref().map_or("", |name| name.as_str()).to_owned();
                self.topics += usize::from(last_topic.as_ref() != Some(&name));
                self.take_topic(&name, topic);
                last_topic = Some(name);
            }
            match response.next_cursor {
                None => return Ok(()),
                Some(next) => {
                    cursor = Some(Box::new(Cursor {
                        topic_name: next.topic_name.clone(),
                        partition_index: next.partition_index,
                        ..Cursor::default()
                    }));
                }
            }
        }
    }

    fn take_topic(&mut self, name: &str, topic: DescribeTopicPartitionsResponseTopic) {
        match cluster::check(topic.error_code, None, || format!("topic {name}")) {
            Ok(()) => {
                self.partitions.extend(topic.partitions.into_iter().map(|found| partition(name, found)))
            }
            Err(error) => self.undescribed.push((name.to_owned(), error.to_string())),
        }
    }

    /// The bytes that each node's replicas take on its disks, as it says itself.
    pub fn ask_bytes(&self, cluster: &mut Cluster) -> BTreeMap<i32, Answer<u64>> {
        self.ask_each(|node| bytes_on(cluster, node))
    }

    /// Whether each node is to be emptied, as it says itself.
    pub fn ask_draining(&self, cluster: &mut Cluster) -> BTreeMap<i32, Answer<bool>> {
        self.ask_each(|node| is_draining(cluster, node))
    }

    fn ask_each<T>(&self, mut ask: impl FnMut(i32) -> Result<T, Error>) -> BTreeMap<i32, Answer<T>> {
        let answer = |node: &Node| match node.is_alive {
            true => (node.id, ask(node.id).map_or_else(Answer::unknown, Answer::Known)),
            false => (node.id, Answer::unknown(format!("node {} is not alive", node.id))),
        };
        self.nodes.iter().map(answer).collect()
    }

    /// The offset behind the last record that consumers see, of each partition, as its leader says.
    pub fn ask_end_offsets(&self, cluster: &mut Cluster) -> BTreeMap<(String, i32), Answer<i64>> {
        let mut by_topic: BTreeMap<&str, BTreeMap<i32, i32>> = BTreeMap::new();
        let mut ends = BTreeMap::new();
        for partition in &self.partitions {
            match partition.leader {
                Some(leader) => {
                    by_topic.entry(&partition.topic).or_default().insert(partition.index, leader);
                }
                None => {
                    let key = (partition.topic.clone(), partition.index);
                    ends.insert(key, Answer::unknown("it has no leader"));
                }
            }
        }
        for (name, leaders) in by_topic {
            let topic = TopicLeaders { name: name.to_owned(), leaders };
            let indexes: Vec<i32> = topic.leaders.keys().copied().collect();
            let by_leader =
                cluster::by_leader(&topic, &indexes).expect("its partitions are those with leaders");
            for led in by_leader.into_values() {
                let found = cluster.offsets(&topic, &led, End::Latest);
                let end = |index: i32| match &found {
                    Ok(offsets) => offsets
                        .get(&index)
                        .map_or(Answer::unknown("its leader leaves it out"), |offset| Answer::Known(*offset)),
                    Err(error) => Answer::unknown(error),
                };
                ends.extend(led.iter().map(|index| ((name.to_owned(), *index), end(*index))));
            }
        }
        ends
    }

    /// The nodes that are alive and do not answer where clients are told to find them, each with the reason.
    pub fn ask_unreachable(&self, cluster: &mut Cluster) -> Vec<(i32, String)> {
        let alive = self.nodes.iter().filter(|node| node.is_alive);
        alive.filter_map(|node| Some((node.id, cluster.node(node.id).err()?.to_string()))).collect()
    }
}

fn node(broker: &DescribeClusterBroker) -> Node {
    Node {
        id: broker.broker_id,
        address: host_and_port(broker.host.as_str(), u16::try_from(broker.port).unwrap_or_default()),
        rack: broker.rack.as_ref().map(|rack| rack.as_str().to_owned()),
        is_alive: !broker.is_fenced,
    }
}

fn partition(topic: &str, found: DescribeTopicPartitionsResponsePartition) -> Partition {
    let leader = (found.leader_id >= 0).then_some(found.leader_id);
    Partition {
        topic: topic.to_owned(),
        index: found.partition_index,
        leader,
        leader_epoch: leader.map(|_| found.leader_epoch),
        replicas: found.replica_nodes,
        in_sync: found.isr_nodes,
        offline: found.offline_replicas,
    }
}

fn bytes_on(cluster: &mut Cluster, node: i32) -> Result<u64, Error> {
    let request = DescribeLogDirsRequestData { topics: None, ..DescribeLogDirsRequestData::default() };
    let response = call!(cluster.node(node)?, DescribeLogDirs, DESCRIBE_LOG_DIRS_VERSION, request);
    cluster::check(response.error_code, None, || format!("log directories of node {node}"))?;
    let mut bytes = 0;
    for folder in response.results {
        cluster::check(folder.error_code, None, || {
            format!("log directory {} of node {node}", folder.log_dir)
        })?;
        let partitions = folder.topics.iter().flat_map(|topic| &topic.partitions);
        bytes +=
            partitions.map(|partition| u64::try_from(partition.partition_size).unwrap_or(0)).sum::<u64>();
    }
    Ok(bytes)
}
