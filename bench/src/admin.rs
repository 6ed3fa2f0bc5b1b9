//! Finding, creating and deleting topics: one blocking request at a time.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use bytes::Bytes;
use protocol::{
    ApiKey, ErrorCode, Request, RequestHeader, Response,
    client::{decode_response, encode_request},
    messages::{
        api_versions_request::ApiVersionsRequestData,
        create_topics_request::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequestData},
        delete_topics_request::DeleteTopicsRequestData,
        kafka_string,
        list_offsets_request::{ListOffsetsPartition, ListOffsetsRequestData, ListOffsetsTopic},
        metadata_request::{MetadataRequestData, MetadataRequestTopic},
    },
};

use crate::{connection::FRAME_BYTES_MAX, error::BenchError};

/// How this client names itself.
pub const CLIENT_ID: &str = "chronik-bench";

const LEADER_POLL_INTERVAL: Duration = Duration::from_millis(20);
const EARLIEST_TIMESTAMP: i64 = -2;
const LATEST_TIMESTAMP: i64 = -1;

/// The versions of each API that a broker speaks.
#[derive(Clone, Debug, Default)]
pub struct Versions(BTreeMap<i16, RangeInclusive<i16>>);

impl Versions {
    /// Versions as a broker lists them: API key, first and last version.
    pub fn new(listed: impl IntoIterator<Item = (i16, i16, i16)>) -> Versions {
        Versions(listed.into_iter().map(|(key, first, last)| (key, first..=last)).collect())
    }

    /// The newest version of an API that both sides speak.
    ///
    /// # Errors
    ///
    /// [`BenchError::NoCommonVersion`].
    pub fn newest(&self, key: ApiKey, ours: RangeInclusive<i16>) -> Result<i16, BenchError> {
        let theirs = self.0.get(&key.wire()).ok_or(BenchError::NoCommonVersion(key))?;
        let newest = *ours.end().min(theirs.end());
        if newest < *ours.start() || newest < *theirs.start() {
            return Err(BenchError::NoCommonVersion(key));
        }
        Ok(newest)
    }
}

/// Where a partition is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionPlace {
    /// The topic, as an index into [`Cluster::topics`].
    pub topic: usize,
    /// The partition's number in the topic.
    pub partition: i32,
    /// The node that leads it.
    pub leader: i32,
}

/// The topics of a run and where they are.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What the cluster calls itself.
    pub cluster_id: Option<String>,
    /// Address of each node, as advertised.
    pub nodes: BTreeMap<i32, String>,
    /// Names of the topics.
    pub topics: Vec<String>,
    /// Their partitions, by topic and number.
    pub partitions: Vec<PartitionPlace>,
    /// Replicas of each; of those that have most.
    pub replicas: usize,
}

/// Opens a connection that sends at once and gives up in time.
///
/// # Errors
///
/// [`BenchError::Resolve`] and [`BenchError::Connect`].
pub fn connect(address: &str, timeout: Duration) -> Result<TcpStream, BenchError> {
    let resolve = |source| BenchError::Resolve { address: address.to_owned(), source };
    let resolved: Vec<SocketAddr> = address.to_socket_addrs().map_err(resolve)?.collect();
    let connect = |source| BenchError::Connect { address: address.to_owned(), source };
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for candidate in &resolved {
        match TcpStream::connect_timeout(candidate, timeout) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(connect)?;
                stream.set_read_timeout(Some(timeout)).map_err(connect)?;
                stream.set_write_timeout(Some(timeout)).map_err(connect)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(connect(last))
}

/// A connection for one request at a time.
#[derive(Debug)]
pub struct Admin {
    address: String,
    stream: TcpStream,
    correlation_id: i32,
    timeout: Duration,
    versions: Versions,
}

impl Admin {
    /// Connects and asks for the broker's versions.
    ///
    /// # Errors
    ///
    /// When there is no broker, or one that does not answer ApiVersions.
    pub fn connect(address: &str, timeout: Duration) -> Result<Admin, BenchError> {
        let stream = connect(address, timeout)?;
        let versions = Versions::new([(ApiKey::ApiVersions.wire(), 0, 0)]);
        let mut admin = Admin { address: address.to_owned(), stream, correlation_id: 0, timeout, versions };
        let request = Request::ApiVersions(ApiVersionsRequestData::default());
        let Response::ApiVersions(response) = admin.call(request, 0..=0)? else {
            unreachable!("decoded as such")
        };
        refuse("ApiVersions", response.error_code)?;
        admin.versions = Versions::new(
            response.api_keys.iter().map(|api| (api.api_key, api.min_version, api.max_version)),
        );
        Ok(admin)
    }

    /// The broker's versions.
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    fn call(&mut self, request: Request, ours: RangeInclusive<i16>) -> Result<Response, BenchError> {
        let key = request.api_key();
        let api_version = self.versions.newest(key, ours)?;
        self.correlation_id += 1;
        let header = request_header(key, api_version, self.correlation_id);
        let frame = encode_request(&header, &request)?;
        let response = self
            .exchange(&frame)
            .map_err(|source| BenchError::Connection { address: self.address.clone(), source })?;
        let (correlation_id, response) = decode_response(key, api_version, response)?;
        if correlation_id != self.correlation_id {
            return Err(BenchError::UnexpectedResponse(format!(
                "{} of {} answered request {correlation_id} instead of {}",
                key.name(),
                self.address,
                self.correlation_id,
            )));
        }
        Ok(response)
    }

    fn exchange(&mut self, frame: &[u8]) -> std::io::Result<Bytes> {
        self.stream.write_all(frame)?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX {
            return Err(std::io::Error::other("a response of impossible length"));
        }
        let mut response = vec![0; length];
        self.stream.read_exact(&mut response)?;
        Ok(response.into())
    }

    /// Creates topics.
    ///
    /// # Errors
    ///
    /// [`BenchError::Refused`] with the broker's code, when they exist for example.
    pub fn create_topics(
        &mut self,
        topics: &[String],
        partitions: i32,
        replication_factor: i16,
        configs: &[(String, String)],
    ) -> Result<(), BenchError> {
        let creatable = |name: &String| CreatableTopic {
            name: kafka_string(name),
            num_partitions: partitions,
            replication_factor,
            configs: configs
                .iter()
                .map(|(name, value)| CreatableTopicConfig {
                    name: kafka_string(name),
                    value: Some(kafka_string(value)),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let request = CreateTopicsRequestData {
            topics: topics.iter().map(creatable).collect(),
            timeout_ms: self.timeout_ms(),
            ..Default::default()
        };
        let response = self.call(Request::CreateTopics(request), 2..=7)?;
        let Response::CreateTopics(response) = response else { unreachable!("decoded as such") };
        for topic in &response.topics {
            refuse(&format!("creating topic {}", topic.name.as_str()), topic.error_code)?;
        }
        Ok(())
    }

    /// Deletes topics.
    ///
    /// # Errors
    ///
    /// [`BenchError::Refused`] with the broker's code.
    pub fn delete_topics(&mut self, topics: &[String]) -> Result<(), BenchError> {
        let request = DeleteTopicsRequestData {
            topic_names: topics.iter().map(|name| kafka_string(name)).collect(),
            timeout_ms: self.timeout_ms(),
            ..Default::default()
        };
        let response = self.call(Request::DeleteTopics(request), 1..=5)?;
        let Response::DeleteTopics(response) = response else { unreachable!("decoded as such") };
        for topic in &response.responses {
            let name = topic.name.as_ref().map_or("?", |name| name.as_str());
            refuse(&format!("deleting topic {name}"), topic.error_code)?;
        }
        Ok(())
    }

    /// Where the partitions of topics are, as soon as all have a leader: the first `partitions` of each, or all.
    /// Topics that were `just_created` may be unknown for a while.
    ///
    /// # Errors
    ///
    /// [`BenchError::NoLeader`] after the time-out, [`BenchError::Refused`] for a topic that is not there,
    /// [`BenchError::Options`] for one with fewer partitions.
    pub fn locate(
        &mut self,
        topics: &[String],
        partitions: Option<u32>,
        just_created: bool,
    ) -> Result<Cluster, BenchError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let without_leader = match self.metadata(topics, partitions) {
                Ok(cluster) => {
                    let without_leader =
                        cluster.partitions.iter().filter(|place| !cluster.nodes.contains_key(&place.leader));
                    match without_leader.count() {
                        0 => return Ok(cluster),
                        count => Ok(count),
                    }
                }
                Err(refused @ BenchError::Refused { code, .. }) if just_created && is_settling(code) => {
                    Err(refused)
                }
                Err(error) => return Err(error),
            };
            if Instant::now() >= deadline {
                let count = without_leader?;
                return Err(BenchError::NoLeader { count, seconds: self.timeout.as_secs() });
            }
            std::thread::sleep(LEADER_POLL_INTERVAL);
        }
    }

    fn metadata(&mut self, topics: &[String], partitions: Option<u32>) -> Result<Cluster, BenchError> {
        let named =
            |name: &String| MetadataRequestTopic { name: Some(kafka_string(name)), ..Default::default() };
        let request = MetadataRequestData {
            topics: Some(topics.iter().map(named).collect()),
            allow_auto_topic_creation: false,
            ..Default::default()
        };
        let response = self.call(Request::Metadata(request), 4..=12)?;
        let Response::Metadata(response) = response else { unreachable!("decoded as such") };
        let mut places = Vec::new();
        let mut replicas = 1;
        for (at, name) in topics.iter().enumerate() {
            let found = response
                .topics
                .iter()
                .find(|topic| topic.name.as_ref().is_some_and(|found| found.as_str() == name))
                .ok_or_else(|| BenchError::UnexpectedResponse(format!("Metadata without topic {name}")))?;
            refuse(&format!("topic {name}"), found.error_code)?;
            replicas = found
                .partitions
                .iter()
                .map(|partition| partition.replica_nodes.len())
                .fold(replicas, usize::max);
            let mut of_topic: Vec<PartitionPlace> = found
                .partitions
                .iter()
                .map(|partition| PartitionPlace {
                    topic: at,
                    partition: partition.partition_index,
                    leader: partition.leader_id,
                })
                .collect();
            of_topic.sort_unstable_by_key(|place| place.partition);
            let wanted = partitions.map_or(of_topic.len(), |count| count as usize);
            if of_topic.len() < wanted {
                let count = of_topic.len();
                return Err(BenchError::Options(format!("topic {name} has {count} partitions")));
            }
            of_topic.truncate(wanted);
            places.append(&mut of_topic);
        }
        let address = |host: &str, port: i32| {
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
        };
        Ok(Cluster {
            cluster_id: response.cluster_id.as_ref().map(|id| id.as_str().to_owned()),
            nodes: response
                .brokers
                .iter()
                .map(|node| (node.node_id, address(node.host.as_str(), node.port)))
                .collect(),
            topics: topics.to_vec(),
            partitions: places,
            replicas,
        })
    }

    fn list_offsets(
        &mut self,
        cluster: &Cluster,
        leader: i32,
        timestamp: i64,
    ) -> Result<BTreeMap<(usize, i32), i64>, BenchError> {
        let of_topic = |(at, name): (usize, &String)| {
            let partitions: Vec<_> = cluster
                .partitions
                .iter()
                .filter(|place| place.topic == at && place.leader == leader)
                .map(|place| ListOffsetsPartition {
                    partition_index: place.partition,
                    timestamp,
                    ..Default::default()
                })
                .collect();
            let topic = ListOffsetsTopic { name: kafka_string(name), partitions, ..Default::default() };
            (!topic.partitions.is_empty()).then_some(topic)
        };
        let request = ListOffsetsRequestData {
            replica_id: -1,
            topics: cluster.topics.iter().enumerate().filter_map(of_topic).collect(),
            ..Default::default()
        };
        let response = self.call(Request::ListOffsets(request), 1..=9)?;
        let Response::ListOffsets(response) = response else { unreachable!("decoded as such") };
        let mut offsets = BTreeMap::new();
        for topic in &response.topics {
            let at = cluster.topics.iter().position(|name| name == topic.name.as_str());
            for partition in &topic.partitions {
                refuse(
                    &format!("ListOffsets {}-{}", topic.name.as_str(), partition.partition_index),
                    partition.error_code,
                )?;
                if let Some(at) = at {
                    offsets.insert((at, partition.partition_index), partition.offset);
                }
            }
        }
        Ok(offsets)
    }

    fn timeout_ms(&self) -> i32 {
        i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX)
    }
}

/// First and next offset of each partition, in the order of [`Cluster::partitions`].
///
/// # Errors
///
/// When a leader does not answer for one of its partitions.
pub fn offset_ranges(cluster: &Cluster, timeout: Duration) -> Result<Vec<(i64, i64)>, BenchError> {
    let mut ranges = BTreeMap::new();
    for (leader, address) in &cluster.nodes {
        if cluster.partitions.iter().all(|place| place.leader != *leader) {
            continue;
        }
        let mut admin = Admin::connect(address, timeout)?;
        let first = admin.list_offsets(cluster, *leader, EARLIEST_TIMESTAMP)?;
        let mut next = admin.list_offsets(cluster, *leader, LATEST_TIMESTAMP)?;
        for (place, first) in first {
            if let Some(next) = next.remove(&place) {
                ranges.insert(place, (first, next));
            }
        }
    }
    let missing = || BenchError::UnexpectedResponse("ListOffsets without one of its partitions".to_owned());
    cluster
        .partitions
        .iter()
        .map(|place| ranges.get(&(place.topic, place.partition)).copied().ok_or_else(missing))
        .collect()
}

/// Waits until the leaders of new partitions serve them: metadata may name a leader before it knows of it.
///
/// # Errors
///
/// As [`offset_ranges`]; [`BenchError::Refused`] with what a leader still says after the time-out.
pub fn await_leaders(cluster: &Cluster, timeout: Duration) -> Result<(), BenchError> {
    let deadline = Instant::now() + timeout;
    loop {
        match offset_ranges(cluster, timeout) {
            Err(BenchError::Refused { code, .. }) if is_settling(code) && Instant::now() < deadline => {
                std::thread::sleep(LEADER_POLL_INTERVAL);
            }
            result => return result.map(|_| ()),
        }
    }
}

/// The header of a request of this client.
pub fn request_header(key: ApiKey, api_version: i16, correlation_id: i32) -> RequestHeader {
    RequestHeader {
        api_key: key.wire(),
        api_version,
        correlation_id,
        client_id: Some(kafka_string(CLIENT_ID)),
    }
}

fn is_settling(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::UnknownTopicOrPartition | ErrorCode::LeaderNotAvailable | ErrorCode::NotLeaderOrFollower
    )
}

fn refuse(what: &str, code: i16) -> Result<(), BenchError> {
    match ErrorCode::from(code) {
        ErrorCode::None => Ok(()),
        code => Err(BenchError::Refused { what: what.to_owned(), code }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_taken() {
        let versions = Versions::new([(0, 0, 13), (1, 4, 6), (2, 11, 12)]);
        for (key, ours, newest) in [
            (ApiKey::Produce, 3..=12, Some(12)),
            (ApiKey::Fetch, 4..=12, Some(6)),
            (ApiKey::Fetch, 7..=12, None),
            (ApiKey::ListOffsets, 1..=9, None),
            (ApiKey::Metadata, 4..=12, None),
        ] {
            assert_eq!(versions.newest(key, ours).ok(), newest, "{key:?}");
        }
    }
}
