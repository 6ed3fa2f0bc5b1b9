//! What a client knows of a cluster: its brokers, and who leads which partition.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use protocol::ErrorCode;
use protocol::messages::describe_cluster_request::DescribeClusterRequestData;
use protocol::messages::describe_cluster_response::DescribeClusterResponseData;
use protocol::messages::find_coordinator_request::FindCoordinatorRequestData;
use protocol::messages::kafka_string;
use protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequestData, ListOffsetsTopic,
};
use protocol::messages::metadata_request::{MetadataRequestData, MetadataRequestTopic};
use protocol::messages::metadata_response::{MetadataResponseData, MetadataResponseTopic};

use super::connection::{Connection, call};
use crate::address::host_and_port;
use crate::exit::Error;
use crate::options::Options;

const METADATA_VERSION: i16 = 12;
const LIST_OFFSETS_VERSION: i16 = 6;
const DESCRIBE_CLUSTER_VERSION: i16 = 2;
const FIND_COORDINATOR_VERSION: i16 = 3;

/// How long a retriable failure is retried: leaders of a new topic, of a restarted broker, of a group.
pub const RETRY_TIME_MAX: Duration = Duration::from_secs(30);

/// The pause before a request is made again.
pub const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Which end of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The first offset that is still there.
    Earliest,
    /// The offset after the last record that consumers see.
    Latest,
}

/// A topic's partitions and their leaders.
#[derive(Clone, Debug)]
pub struct TopicLeaders {
    /// The topic.
    pub name: String,
    /// The broker that leads each partition.
    pub leaders: BTreeMap<i32, i32>,
}

/// Connections to the brokers of a cluster, opened as they are needed.
pub struct Cluster {
    bootstrap: Vec<String>,
    any: Option<Connection>,
    brokers: BTreeMap<i32, String>,
    connections: BTreeMap<i32, Connection>,
}

impl Cluster {
    /// Connects to the first broker of `--bootstrap-server` that answers.
    ///
    /// # Errors
    ///
    /// That of the last one tried.
    pub fn connect(options: &Options) -> Result<Cluster, Error> {
        let bootstrap = bootstrap_addresses(options);
        let mut cluster =
            Cluster { bootstrap, any: None, brokers: BTreeMap::new(), connections: BTreeMap::new() };
        cluster.any()?;
        Ok(cluster)
    }

    /// A connection to any broker, for requests that every broker answers.
    pub fn any(&mut self) -> Result<&mut Connection, Error> {
        if self.any.is_none() {
            let mut outcome = Err(Error::Command("--bootstrap-server is empty".to_owned()));
            for address in &self.bootstrap {
                outcome = Connection::open(address);
                if outcome.is_ok() {
                    break;
                }
            }
            self.any = Some(outcome?);
        }
        Ok(self.any.as_mut().expect("it was just opened"))
    }

    /// A connection to one broker.
    pub fn node(&mut self, node: i32) -> Result<&mut Connection, Error> {
        if !self.connections.contains_key(&node) {
            let address = self.brokers.get(&node).ok_or_else(|| {
                Error::Command(format!("the cluster names no address of its broker {node}"))
            })?;
            self.connections.insert(node, Connection::open(address)?);
        }
        Ok(self.connections.get_mut(&node).expect("it was just opened"))
    }

    /// Forgets the connections that a broken one may stand for; the next request opens new ones.
    pub fn reconnect(&mut self) {
        self.any = None;
        self.connections.clear();
    }

    /// Makes an attempt again while what fails may pass.
    ///
    /// # Errors
    ///
    /// That of the last attempt.
    pub fn retry<T>(&mut self, attempt: impl Fn(&mut Cluster) -> Result<T, Error>) -> Result<T, Error> {
        let started = Instant::now();
        loop {
            match attempt(self) {
                Err(error) if is_retriable(&error) && started.elapsed() < RETRY_TIME_MAX => {
                    if !matches!(error, Error::Kafka { .. }) {
                        self.reconnect();
                    }
                }
                outcome => return outcome,
            }
            thread::sleep(RETRY_PAUSE);
        }
    }

    /// Asks for the registered brokers, also those that are not alive.
    ///
    /// # Errors
    ///
    /// [`Error::Kafka`] when it is refused.
    pub fn describe(&mut self) -> Result<DescribeClusterResponseData, Error> {
        let request = DescribeClusterRequestData {
            include_fenced_brokers: true,
            ..DescribeClusterRequestData::default()
        };
        let response = call!(self.any()?, DescribeCluster, DESCRIBE_CLUSTER_VERSION, request);
        let message = response.error_message.as_ref().map(|message| message.as_str());
        check(response.error_code, message, || "describe the cluster".to_owned())?;
        for broker in &response.brokers {
            self.know(broker.broker_id, broker.host.as_str(), broker.port);
        }
        Ok(response)
    }

    /// Notes where a broker is reached.
    fn know(&mut self, node: i32, host: &str, port: i32) {
        let address = host_and_port(host, u16::try_from(port).unwrap_or_default());
        if self.brokers.insert(node, address.clone()).is_some_and(|known| known != address) {
            self.connections.remove(&node);
        }
    }

    /// Asks for topics, or for all of them.
    pub fn metadata(&mut self, topics: Option<&[&str]>, create: bool) -> Result<MetadataResponseData, Error> {
        let topics = topics.map(|names| {
            let topic = |name: &&str| MetadataRequestTopic {
                name: Some(kafka_string(name)),
                ..MetadataRequestTopic::default()
            };
            names.iter().map(topic).collect()
        });
        let request = MetadataRequestData {
            topics,
            allow_auto_topic_creation: create,
            ..MetadataRequestData::default()
        };
        let response = call!(self.any()?, Metadata, METADATA_VERSION, request);
        for broker in &response.brokers {
            self.know(broker.node_id, broker.host.as_str(), broker.port);
        }
        Ok(response)
    }

    /// One topic with a leader for each partition, which new topics and restarted brokers take a moment to have.
    /// With `create` the broker may create it.
    ///
    /// # Errors
    ///
    /// [`Error::Kafka`] when there is no such topic or its leaders stay away.
    pub fn topic(&mut self, name: &str, create: bool) -> Result<TopicLeaders, Error> {
        let started = Instant::now();
        loop {
            let failure = match self.metadata(Some(&[name]), create) {
                Ok(response) => match leaders(name, response.topics) {
                    Ok(topic) => return Ok(topic),
                    Err(code) => {
                        let is_missing = code == ErrorCode::UnknownTopicOrPartition && !create;
                        let error = Error::Kafka { what: format!("topic {name}"), code, message: None };
                        if is_missing {
                            return Err(no_topic(name));
                        }
                        if !code.is_retriable() {
                            return Err(error);
                        }
                        error
                    }
                },
                // A broker that restarts breaks the connection first, and refuses the next ones until it is back.
                Err(error) if is_retriable(&error) => {
                    self.reconnect();
                    error
                }
                Err(error) => return Err(error),
            };
            if started.elapsed() > RETRY_TIME_MAX {
                return Err(failure);
            }
            thread::sleep(RETRY_PAUSE);
        }
    }

    /// The offsets at one end of some partitions.
    ///
    /// # Errors
    ///
    /// [`Error::Kafka`] for the first partition that is refused.
    pub fn offsets(
        &mut self,
        topic: &TopicLeaders,
        partitions: &[i32],
        end: End,
    ) -> Result<BTreeMap<i32, i64>, Error> {
        let timestamp = match end {
            End::Earliest => -2,
            End::Latest => -1,
        };
        let mut offsets = BTreeMap::new();
        for (node, partitions) in by_leader(topic, partitions)? {
            let partition = |index: i32| ListOffsetsPartition {
                partition_index: index,
                timestamp,
                ..ListOffsetsPartition::default()
            };
            let request = ListOffsetsRequestData {
                topics: vec![ListOffsetsTopic {
                    name: kafka_string(&topic.name),
                    partitions: partitions.into_iter().map(partition).collect(),
                    ..ListOffsetsTopic::default()
                }],
                replica_id: -1,
                ..ListOffsetsRequestData::default()
            };
            let response = call!(self.node(node)?, ListOffsets, LIST_OFFSETS_VERSION, request);
            for partition in response.topics.into_iter().flat_map(|topic| topic.partitions) {
                let index = partition.partition_index;
                check(partition.error_code, None, || format!("offsets of {}-{index}", topic.name))?;
                offsets.insert(index, partition.offset);
            }
        }
        Ok(offsets)
    }

    /// The broker that coordinates a group.
    ///
    /// # Errors
    ///
    /// [`Error::Kafka`] when there is none.
    pub fn coordinator(&mut self, group: &str) -> Result<i32, Error> {
        let request =
            FindCoordinatorRequestData { key: kafka_string(group), ..FindCoordinatorRequestData::default() };
        let response = call!(self.any()?, FindCoordinator, FIND_COORDINATOR_VERSION, request);
        let message = response.error_message.as_ref().map(|message| message.as_str());
        check(response.error_code, message, || format!("coordinator of group {group}"))?;
        let port = u16::try_from(response.port).unwrap_or_default();
        self.brokers.insert(response.node_id, host_and_port(response.host.as_str(), port));
        Ok(response.node_id)
    }
}

/// Partitions by their leaders.
///
/// # Errors
///
/// [`no_partition`]: the topic may have been made anew with fewer since they were chosen.
pub fn by_leader(topic: &TopicLeaders, partitions: &[i32]) -> Result<BTreeMap<i32, Vec<i32>>, Error> {
    let mut by_leader: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for partition in partitions {
        let leader = topic.leaders.get(partition).ok_or_else(|| no_partition(topic, *partition))?;
        by_leader.entry(*leader).or_default().push(*partition);
    }
    Ok(by_leader)
}

/// Turns an error code of a response into an error.
///
/// # Errors
///
/// [`Error::Kafka`] for every code but 0.
pub fn check(code: i16, message: Option<&str>, what: impl FnOnce() -> String) -> Result<(), Error> {
    let code = ErrorCode::from(code);
    if !code.is_error() {
        return Ok(());
    }
    Err(Error::Kafka { what: what(), code, message: message.map(str::to_owned) })
}

/// The error of a topic that does not exist.
pub fn no_topic(name: &str) -> Error {
    Error::Command(format!("there is no topic {name}: `chronik-server topic create {name}` makes one"))
}

/// The error of a partition that its topic does not have.
pub fn no_partition(topic: &TopicLeaders, partition: i32) -> Error {
    Error::Command(format!("topic {} has no partition {partition}", topic.name))
}

/// Whether an attempt may succeed when it is made again.
pub fn is_retriable(error: &Error) -> bool {
    match error {
        Error::Connection { .. } | Error::Unreachable { .. } => true,
        Error::Kafka { code, .. } => code.is_retriable(),
        _ => false,
    }
}

fn leaders(name: &str, topics: Vec<MetadataResponseTopic>) -> Result<TopicLeaders, ErrorCode> {
    let topic = topics.into_iter().next().ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let code = ErrorCode::from(topic.error_code);
    if code.is_error() {
        return Err(code);
    }
    let mut leaders = BTreeMap::new();
    for partition in topic.partitions {
        if partition.leader_id < 0 {
            return Err(ErrorCode::LeaderNotAvailable);
        }
        leaders.insert(partition.partition_index, partition.leader_id);
    }
    if leaders.is_empty() {
        return Err(ErrorCode::LeaderNotAvailable);
    }
    Ok(TopicLeaders { name: name.to_owned(), leaders })
}

fn bootstrap_addresses(options: &Options) -> Vec<String> {
    let port = if options.kafka_port == 0 { 9092 } else { options.kafka_port };
    let Some(given) = &options.bootstrap_server else { return vec![host_and_port("localhost", port)] };
    let addresses = given.split(',').map(str::trim).filter(|address| !address.is_empty());
    addresses.map(|address| with_port(address, port)).collect()
}

fn with_port(address: &str, port: u16) -> String {
    let has_port = match address.strip_prefix('[') {
        Some(rest) => rest.contains("]:"),
        None => address.matches(':').count() == 1,
    };
    if has_port { address.to_owned() } else { host_and_port(crate::address::bare_host(address), port) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_a_port_get_one() {
        for (given, expected) in [
            ("a:1", "a:1"),
            ("a", "a:9092"),
            ("10.0.0.1", "10.0.0.1:9092"),
            ("::1", "[::1]:9092"),
            ("[::1]", "[::1]:9092"),
            ("[::1]:7", "[::1]:7"),
        ] {
            assert_eq!(with_port(given, 9092), expected);
        }
    }

    #[test]
    fn a_partition_that_is_not_there_is_named() {
        let topic = TopicLeaders { name: "t".to_owned(), leaders: BTreeMap::from([(0, 7), (1, 8), (2, 7)]) };
        let led = by_leader(&topic, &[0, 1, 2]).map_err(|error| error.to_string());
        assert_eq!(led, Ok(BTreeMap::from([(7, vec![0, 2]), (8, vec![1])])));
        let missing = by_leader(&topic, &[0, 3]).map_err(|error| error.to_string());
        assert_eq!(missing, Err("topic t has no partition 3".to_owned()));
    }
}
