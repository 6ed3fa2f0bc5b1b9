//! Commands and snapshots as protobuf.
//!
//! A tag is never given another meaning and never reused; a field that is missing has its type's
//! default.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use types::{DirectoryId, GroupId, LogIndex, NodeId, ProducerId, ReplicaId, TopicId};

use crate::command::{Command, ConfigResource, Endpoint, PartitionSpec, Reassignment};
use crate::configs::StaticSettings;
use crate::error::MetadataError;
use crate::image::{Broker, MetadataImage, Topic, Voter};
use crate::partition::{Moves, Partition};
use crate::state::Counters;

const KIND_SET_CLUSTER_ID: u32 = 1;
const KIND_REGISTER_BROKER: u32 = 2;
const KIND_UNREGISTER_BROKER: u32 = 3;
const KIND_CREATE_TOPIC: u32 = 4;
const KIND_DELETE_TOPIC: u32 = 5;
const KIND_CREATE_PARTITIONS: u32 = 6;
const KIND_ALTER_CONFIGS: u32 = 7;
const KIND_ALLOCATE_PRODUCER_IDS: u32 = 8;
const KIND_REASSIGN: u32 = 9;
const KIND_COMPLETE_MOVES: u32 = 10;
const KIND_ADD_VOTER: u32 = 11;
const KIND_REMOVE_VOTER: u32 = 12;
const KIND_FINISH_REBALANCE: u32 = 13;

const RESOURCE_TOPIC: u32 = 1;
const RESOURCE_BROKER: u32 = 2;
const RESOURCE_BROKER_DEFAULT: u32 = 3;

/// More groups than any cluster allocates, and far from where the counter would overflow.
const GROUP_MAX: u64 = 1 << 62;

/// Raised when a snapshot can no longer be read by ignoring what is new in it.
const SNAPSHOT_FORMAT: u32 = 1;

/// A kind and a body rather than a `oneof`, so that an unknown kind can be named.
#[derive(Clone, PartialEq, Message)]
struct CommandRecord {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(bytes = "bytes", tag = "2")]
    body: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct SetClusterIdRecord {
    #[prost(string, tag = "1")]
    cluster_id: String,
    #[prost(int32, repeated, tag = "2")]
    voters: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct BrokerRecord {
    #[prost(int32, tag = "1")]
    node: i32,
    #[prost(string, optional, tag = "2")]
    rack: Option<String>,
    #[prost(message, repeated, tag = "3")]
    endpoints: Vec<EndpointRecord>,
    #[prost(fixed64, tag = "4")]
    incarnation: u64,
    #[prost(bytes = "bytes", optional, tag = "5")]
    directory_id: Option<Bytes>,
    #[prost(message, optional, tag = "6")]
    peer: Option<EndpointRecord>,
    /// Of snapshots only: what a command is applied to says it.
    #[prost(uint32, tag = "7")]
    voter_generation: u32,
}

#[derive(Clone, PartialEq, Message)]
struct EndpointRecord {
    #[prost(string, tag = "1")]
    listener: String,
    #[prost(string, tag = "2")]
    host: String,
    #[prost(uint32, tag = "3")]
    port: u32,
}

#[derive(Clone, PartialEq, Message)]
struct NodeRecord {
    #[prost(int32, tag = "1")]
    node: i32,
}

/// A topic of a command (`group` is 0) or of a snapshot.
#[derive(Clone, PartialEq, Message)]
struct TopicRecord {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    id: Bytes,
    #[prost(message, repeated, tag = "3")]
    partitions: Vec<PartitionRecord>,
    #[prost(message, repeated, tag = "4")]
    configs: Vec<ConfigRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct PartitionRecord {
    #[prost(int32, repeated, tag = "1")]
    replicas: Vec<i32>,
    #[prost(uint64, tag = "2")]
    group: u64,
    #[prost(uint32, tag = "3")]
    decision: u32,
    #[prost(int32, repeated, tag = "4")]
    target: Vec<i32>,
    /// Raft ids.
    #[prost(uint64, repeated, tag = "5")]
    members: Vec<u64>,
    #[prost(bool, tag = "6")]
    has_moved: bool,
}

#[derive(Clone, PartialEq, Message)]
struct ConfigRecord {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct DeleteTopicRecord {
    #[prost(bytes = "bytes", tag = "1")]
    id: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct CreatePartitionsRecord {
    #[prost(bytes = "bytes", tag = "1")]
    id: Bytes,
    #[prost(uint32, tag = "2")]
    current_count: u32,
    #[prost(message, repeated, tag = "3")]
    partitions: Vec<PartitionRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct AlterConfigsRecord {
    /// Says which of the next two counts; an unknown one must not pass for a known one.
    #[prost(uint32, tag = "1")]
    resource: u32,
    #[prost(bytes = "bytes", tag = "2")]
    topic: Bytes,
    #[prost(int32, tag = "3")]
    broker: i32,
    #[prost(message, repeated, tag = "4")]
    set: Vec<ConfigRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct AllocateProducerIdsRecord {
    #[prost(int32, tag = "1")]
    node: i32,
    #[prost(uint32, tag = "2")]
    count: u32,
}

#[derive(Clone, PartialEq, Message)]
struct ReassignRecord {
    #[prost(message, repeated, tag = "1")]
    partitions: Vec<ReassignmentRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct ReassignmentRecord {
    #[prost(uint64, tag = "1")]
    group: u64,
    /// None for where they were before they began to move.
    #[prost(int32, repeated, tag = "2")]
    replicas: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct CompleteMovesRecord {
    #[prost(message, repeated, tag = "1")]
    moves: Vec<MoveRecord>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct MoveRecord {
    #[prost(uint64, tag = "1")]
    group: u64,
    #[prost(uint32, tag = "2")]
    decision: u32,
}

#[derive(Clone, PartialEq, Message)]
struct VoterRecord {
    #[prost(int32, tag = "1")]
    node: i32,
    #[prost(message, optional, tag = "2")]
    peer: Option<EndpointRecord>,
    /// Of snapshots only.
    #[prost(uint32, tag = "3")]
    generation: u32,
}

#[derive(Clone, PartialEq, Message)]
struct BrokerConfigsRecord {
    #[prost(int32, tag = "1")]
    node: i32,
    #[prost(message, repeated, tag = "2")]
    configs: Vec<ConfigRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct SnapshotRecord {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint64, tag = "2")]
    applied: u64,
    #[prost(uint64, tag = "3")]
    epoch: u64,
    #[prost(uint64, tag = "4")]
    next_group: u64,
    #[prost(int64, tag = "5")]
    next_producer_id: i64,
    #[prost(string, optional, tag = "6")]
    cluster_id: Option<String>,
    #[prost(message, repeated, tag = "7")]
    brokers: Vec<BrokerRecord>,
    #[prost(message, repeated, tag = "8")]
    topics: Vec<TopicRecord>,
    #[prost(message, repeated, tag = "9")]
    cluster_configs: Vec<ConfigRecord>,
    #[prost(message, repeated, tag = "10")]
    broker_configs: Vec<BrokerConfigsRecord>,
    #[prost(message, repeated, tag = "11")]
    voters: Vec<VoterRecord>,
    #[prost(uint32, tag = "12")]
    next_voter_generation: u32,
    #[prost(bool, tag = "13")]
    is_rebalancing: bool,
}

pub(crate) fn encode_command(command: &Command) -> Bytes {
    let (kind, body) = match command {
        Command::SetClusterId { cluster_id, voters } => {
            let record = SetClusterIdRecord { cluster_id: cluster_id.clone(), voters: node_numbers(voters) };
            (KIND_SET_CLUSTER_ID, record.encode_to_vec())
        }
        Command::RegisterBroker { node, rack, endpoints, incarnation, directory_id, peer } => {
            let broker = Broker {
                node: *node,
                rack: rack.clone(),
                endpoints: endpoints.clone(),
                incarnation: *incarnation,
                directory_id: *directory_id,
                peer: peer.clone(),
                voter_generation: 0,
            };
            (KIND_REGISTER_BROKER, broker_record(&broker).encode_to_vec())
        }
        Command::UnregisterBroker { node } => {
            (KIND_UNREGISTER_BROKER, NodeRecord { node: node.0 }.encode_to_vec())
        }
        Command::CreateTopic { name, id, partitions, configs } => {
            let record = TopicRecord {
                name: name.clone(),
                id: id_bytes(*id),
                partitions: partitions.iter().map(spec_record).collect(),
                configs: config_records(configs.iter().map(|(name, value)| (name, value))),
            };
            (KIND_CREATE_TOPIC, record.encode_to_vec())
        }
        Command::DeleteTopic { id } => {
            (KIND_DELETE_TOPIC, DeleteTopicRecord { id: id_bytes(*id) }.encode_to_vec())
        }
        Command::CreatePartitions { id, current_count, partitions } => {
            let record = CreatePartitionsRecord {
                id: id_bytes(*id),
                current_count: *current_count,
                partitions: partitions.iter().map(spec_record).collect(),
            };
            (KIND_CREATE_PARTITIONS, record.encode_to_vec())
        }
        Command::AlterConfigs { resource, set } => {
            (KIND_ALTER_CONFIGS, alter_configs_record(*resource, set).encode_to_vec())
        }
        Command::AllocateProducerIds { node, count } => {
            let record = AllocateProducerIdsRecord { node: node.0, count: *count };
            (KIND_ALLOCATE_PRODUCER_IDS, record.encode_to_vec())
        }
        Command::Reassign { partitions } => {
            let partitions = partitions.iter().map(|partition| ReassignmentRecord {
                group: partition.group.0,
                replicas: node_numbers(partition.replicas.as_deref().unwrap_or_default()),
            });
            (KIND_REASSIGN, ReassignRecord { partitions: partitions.collect() }.encode_to_vec())
        }
        Command::CompleteMoves { moves } => {
            let record =
                |(group, decision): &(GroupId, u32)| MoveRecord { group: group.0, decision: *decision };
            let record = CompleteMovesRecord { moves: moves.iter().map(record).collect() };
            (KIND_COMPLETE_MOVES, record.encode_to_vec())
        }
        Command::FinishRebalance => (KIND_FINISH_REBALANCE, Vec::new()),
        Command::AddVoter { node, peer } => {
            let record = VoterRecord { node: node.0, peer: Some(endpoint_record(peer)), generation: 0 };
            (KIND_ADD_VOTER, record.encode_to_vec())
        }
        Command::RemoveVoter { node } => (KIND_REMOVE_VOTER, NodeRecord { node: node.0 }.encode_to_vec()),
    };
    Bytes::from(CommandRecord { kind, body: Bytes::from(body) }.encode_to_vec())
}

pub(crate) fn decode_command(bytes: &[u8]) -> Result<Command, MetadataError> {
    let CommandRecord { kind, body } = read(bytes)?;
    match kind {
        KIND_SET_CLUSTER_ID => {
            let SetClusterIdRecord { cluster_id, voters } = read(&body)?;
            Ok(Command::SetClusterId { cluster_id, voters: node_ids(voters)? })
        }
        KIND_REGISTER_BROKER => {
            let Broker { node, rack, endpoints, incarnation, directory_id, peer, .. } = broker(read(&body)?)?;
            Ok(Command::RegisterBroker { node, rack, endpoints, incarnation, directory_id, peer })
        }
        KIND_UNREGISTER_BROKER => {
            let NodeRecord { node } = read(&body)?;
            Ok(Command::UnregisterBroker { node: node_id(node)? })
        }
        KIND_CREATE_TOPIC => {
            let TopicRecord { name, id, partitions, configs } = read(&body)?;
            let (id, partitions) = (topic_id(&id)?, specs(partitions)?);
            Ok(Command::CreateTopic { name, id, partitions, configs: configs_set(configs)? })
        }
        KIND_DELETE_TOPIC => {
            let DeleteTopicRecord { id } = read(&body)?;
            Ok(Command::DeleteTopic { id: topic_id(&id)? })
        }
        KIND_CREATE_PARTITIONS => {
            let CreatePartitionsRecord { id, current_count, partitions } = read(&body)?;
            let (id, partitions) = (topic_id(&id)?, specs(partitions)?);
            Ok(Command::CreatePartitions { id, current_count, partitions })
        }
        KIND_ALTER_CONFIGS => alter_configs(read(&body)?),
        KIND_ALLOCATE_PRODUCER_IDS => {
            let AllocateProducerIdsRecord { node, count } = read(&body)?;
            Ok(Command::AllocateProducerIds { node: node_id(node)?, count })
        }
        KIND_REASSIGN => {
            let ReassignRecord { partitions } = read(&body)?;
            let partitions = partitions.into_iter().map(reassignment).collect::<Result<_, _>>()?;
            Ok(Command::Reassign { partitions })
        }
        KIND_COMPLETE_MOVES => {
            let CompleteMovesRecord { moves } = read(&body)?;
            let moves = moves.into_iter().map(|record| (GroupId(record.group), record.decision));
            Ok(Command::CompleteMoves { moves: moves.collect() })
        }
        KIND_FINISH_REBALANCE => Ok(Command::FinishRebalance),
        KIND_ADD_VOTER => {
            let VoterRecord { node, peer, .. } = read(&body)?;
            let peer = peer.ok_or_else(|| invalid("Voter.peer", "it is missing"))?;
            Ok(Command::AddVoter { node: node_id(node)?, peer: endpoint(peer)? })
        }
        KIND_REMOVE_VOTER => {
            let NodeRecord { node } = read(&body)?;
            Ok(Command::RemoveVoter { node: node_id(node)? })
        }
        unknown => Err(MetadataError::UnknownCommandKind(unknown)),
    }
}

pub(crate) fn encode_snapshot(image: &MetadataImage, counters: &Counters) -> Bytes {
    let broker_configs = image.all_broker_configs().iter();
    let snapshot = SnapshotRecord {
        format: SNAPSHOT_FORMAT,
        applied: counters.applied.0,
        epoch: image.epoch().0,
        next_group: counters.next_group.0,
        next_producer_id: counters.next_producer_id.0,
        cluster_id: image.cluster_id().map(str::to_owned),
        brokers: image.brokers().map(|broker| broker_record(broker)).collect(),
        topics: image.topics().map(|topic| topic_record(topic)).collect(),
        cluster_configs: config_records(image.cluster_configs()),
        broker_configs: broker_configs
            .map(|(node, configs)| BrokerConfigsRecord { node: node.0, configs: config_records(configs) })
            .collect(),
        voters: image.voters().map(|(node, voter)| voter_record(node, voter)).collect(),
        next_voter_generation: image.next_voter_generation(),
        is_rebalancing: image.is_rebalancing(),
    };
    Bytes::from(snapshot.encode_to_vec())
}

pub(crate) fn decode_snapshot(
    bytes: &[u8],
    static_settings: StaticSettings,
) -> Result<(MetadataImage, Counters), MetadataError> {
    let snapshot = SnapshotRecord::decode(bytes).map_err(MetadataError::MalformedSnapshot)?;
    if snapshot.format != SNAPSHOT_FORMAT {
        return Err(MetadataError::UnsupportedSnapshotFormat(snapshot.format));
    }
    let counters = Counters {
        applied: LogIndex(snapshot.applied),
        next_group: GroupId(snapshot.next_group),
        next_producer_id: ProducerId(snapshot.next_producer_id),
    };
    if snapshot.epoch > snapshot.applied {
        return Err(invalid("Snapshot.epoch", "it lies beyond the applied index"));
    }
    if !(1..=GROUP_MAX).contains(&snapshot.next_group) {
        return Err(invalid("Snapshot.next_group", "no cluster gets there"));
    }
    if snapshot.next_producer_id < 0 {
        return Err(invalid("Snapshot.next_producer_id", "it is negative"));
    }
    let mut image = MetadataImage::new(static_settings);
    image.set_next_group(counters.next_group);
    if let Some(cluster_id) = &snapshot.cluster_id {
        image.set_cluster_id(cluster_id);
    }
    image.set_cluster_configs(configs_set(snapshot.cluster_configs)?.into_iter().collect());
    for record in snapshot.broker_configs {
        let configs = configs_set(record.configs)?.into_iter().collect();
        image.set_broker_configs(node_id(record.node)?, configs);
    }
    for record in snapshot.voters {
        let peer = record.peer.map(endpoint).transpose()?;
        image.put_voter(node_id(record.node)?, Voter { generation: record.generation, peer });
    }
    let next_voter_generation = snapshot.next_voter_generation.max(1);
    if image.voters().any(|(_, voter)| voter.generation >= next_voter_generation) {
        return Err(invalid("Voter.generation", "it was never given"));
    }
    image.set_next_voter_generation(next_voter_generation);
    image.set_rebalancing(snapshot.is_rebalancing);
    for record in snapshot.brokers {
        image.put_broker(broker(record)?);
    }
    let mut groups = BTreeSet::new();
    for record in snapshot.topics {
        restore_topic(&mut image, record, counters.next_group, &mut groups)?;
    }
    image.set_epoch(LogIndex(snapshot.epoch));
    Ok((image, counters))
}

fn restore_topic(
    image: &mut MetadataImage,
    record: TopicRecord,
    next_group: GroupId,
    groups: &mut BTreeSet<GroupId>,
) -> Result<(), MetadataError> {
    let TopicRecord { name, id, partitions, configs } = record;
    let id = topic_id(&id)?;
    let taken = image.topic(&name).is_some() || image.topic_by_id(id).is_some();
    if taken || image.colliding_topic(&name).is_some() {
        return Err(invalid("Topic.name", "a name or an id stands there twice"));
    }
    let group_ids: Vec<_> = partitions.iter().map(|partition| GroupId(partition.group)).collect();
    for group in &group_ids {
        if *group == GroupId::METADATA || *group >= next_group || !groups.insert(*group) {
            return Err(invalid("Partition.group", "a group was never allocated or is used twice"));
        }
    }
    let moves = partitions.iter().map(moves).collect::<Result<Vec<_>, _>>()?;
    let partitions: Vec<_> = group_ids
        .into_iter()
        .zip(specs(partitions)?)
        .zip(moves)
        .map(|((group, spec), moves)| Partition { group, replicas: spec.replicas, moves })
        .collect();
    let wanted = |partition: &Partition| partition.wanted_brokers().to_vec();
    let is_whole = |partition: &Partition| {
        wanted(partition).into_iter().all(|node| partition.replica_on(node).is_some())
    };
    if !partitions.iter().all(is_whole) {
        return Err(invalid("Partition.members", "a wanted broker is missing"));
    }
    let configs: BTreeMap<_, _> = configs_set(configs)?.into_iter().collect();
    image.insert_topic(&name, id, partitions, configs);
    Ok(())
}

fn read<T: Message + Default>(bytes: &[u8]) -> Result<T, MetadataError> {
    T::decode(bytes).map_err(MetadataError::MalformedCommand)
}

fn invalid(field: &'static str, reason: &str) -> MetadataError {
    MetadataError::InvalidField { field, reason: reason.to_owned() }
}

fn id_bytes(id: TopicId) -> Bytes {
    Bytes::copy_from_slice(&id.0)
}

fn topic_id(bytes: &[u8]) -> Result<TopicId, MetadataError> {
    let id = bytes.try_into().map_err(|_| invalid("Topic.id", "it is not 16 bytes long"))?;
    Ok(TopicId(id))
}

fn node_id(node: i32) -> Result<NodeId, MetadataError> {
    if node < 0 {
        return Err(MetadataError::InvalidField { field: "node", reason: format!("{node} is negative") });
    }
    Ok(NodeId(node))
}

fn spec_record(spec: &PartitionSpec) -> PartitionRecord {
    PartitionRecord { replicas: node_numbers(&spec.replicas), ..PartitionRecord::default() }
}

fn node_numbers(nodes: &[NodeId]) -> Vec<i32> {
    nodes.iter().map(|node| node.0).collect()
}

fn node_ids(nodes: Vec<i32>) -> Result<Vec<NodeId>, MetadataError> {
    nodes.into_iter().map(node_id).collect()
}

fn reassignment(record: ReassignmentRecord) -> Result<Reassignment, MetadataError> {
    let replicas = if record.replicas.is_empty() { None } else { Some(distinct_nodes(record.replicas)?) };
    Ok(Reassignment { group: GroupId(record.group), replicas })
}

fn moves(record: &PartitionRecord) -> Result<Option<Box<Moves>>, MetadataError> {
    if record.decision == 0 {
        return Ok(None);
    }
    let target = record.target.clone();
    let target = if target.is_empty() { None } else { Some(distinct_nodes(target)?) };
    let member = |id: &u64| {
        ReplicaId::from_raft_id(*id).ok_or_else(|| invalid("Partition.members", "it is no id of a replica"))
    };
    let members = record.members.iter().map(member).collect::<Result<Vec<_>, _>>()?;
    if !members.is_sorted() {
        return Err(invalid("Partition.members", "they do not ascend"));
    }
    Ok(Some(Box::new(Moves { decision: record.decision, target, members, has_moved: record.has_moved })))
}

fn partition_record(partition: &Partition) -> PartitionRecord {
    let moves = partition.moves.as_deref();
    let members = moves.iter().flat_map(|moves| &moves.members);
    PartitionRecord {
        replicas: node_numbers(&partition.replicas),
        group: partition.group.0,
        decision: partition.decision(),
        target: node_numbers(moves.and_then(|moves| moves.target.as_deref()).unwrap_or_default()),
        members: members.map(|member| member.raft_id()).collect(),
        has_moved: moves.is_some_and(|moves| moves.has_moved),
    }
}

fn topic_record(topic: &Topic) -> TopicRecord {
    let partitions = topic.partitions.iter().map(partition_record);
    TopicRecord {
        name: topic.name.to_string(),
        id: id_bytes(topic.id),
        partitions: partitions.collect(),
        configs: config_records(&topic.configs),
    }
}

fn specs(records: Vec<PartitionRecord>) -> Result<Vec<PartitionSpec>, MetadataError> {
    if records.is_empty() {
        return Err(invalid("Topic.partitions", "there is none"));
    }
    records.into_iter().map(spec).collect()
}

fn spec(record: PartitionRecord) -> Result<PartitionSpec, MetadataError> {
    Ok(PartitionSpec { replicas: distinct_nodes(record.replicas)? })
}

fn distinct_nodes(nodes: Vec<i32>) -> Result<Vec<NodeId>, MetadataError> {
    let nodes = node_ids(nodes)?;
    let distinct: BTreeSet<_> = nodes.iter().collect();
    if nodes.is_empty() || distinct.len() != nodes.len() {
        return Err(invalid("Partition.replicas", "there is none, or a broker stands there twice"));
    }
    Ok(nodes)
}

fn endpoint_record(endpoint: &Endpoint) -> EndpointRecord {
    EndpointRecord {
        listener: endpoint.listener.clone(),
        host: endpoint.host.clone(),
        port: u32::from(endpoint.port),
    }
}

fn endpoint(record: EndpointRecord) -> Result<Endpoint, MetadataError> {
    match u16::try_from(record.port) {
        Ok(port) => Ok(Endpoint { listener: record.listener, host: record.host, port }),
        Err(_) => Err(invalid("Endpoint.port", "it is greater than 65535")),
    }
}

fn voter_record(node: NodeId, voter: &Voter) -> VoterRecord {
    VoterRecord { node: node.0, peer: voter.peer.as_ref().map(endpoint_record), generation: voter.generation }
}

fn broker_record(broker: &Broker) -> BrokerRecord {
    BrokerRecord {
        node: broker.node.0,
        rack: broker.rack.clone(),
        endpoints: broker.endpoints.iter().map(endpoint_record).collect(),
        incarnation: broker.incarnation,
        directory_id: broker.directory_id.map(|id| Bytes::copy_from_slice(&id.0)),
        peer: broker.peer.as_ref().map(endpoint_record),
        voter_generation: broker.voter_generation,
    }
}

fn broker(record: BrokerRecord) -> Result<Broker, MetadataError> {
    if record.endpoints.is_empty() {
        return Err(invalid("Broker.endpoints", "there is none"));
    }
    let directory_id = |bytes: Bytes| match bytes.as_ref().try_into() {
        Ok(id) => Ok(DirectoryId(id)),
        Err(_) => Err(invalid("Broker.directory_id", "it is not 16 bytes long")),
    };
    Ok(Broker {
        node: node_id(record.node)?,
        rack: record.rack,
        endpoints: record.endpoints.into_iter().map(endpoint).collect::<Result<_, _>>()?,
        incarnation: record.incarnation,
        directory_id: record.directory_id.map(directory_id).transpose()?,
        peer: record.peer.map(endpoint).transpose()?,
        voter_generation: record.voter_generation,
    })
}

fn config_records<'a>(configs: impl IntoIterator<Item = (&'a String, &'a String)>) -> Vec<ConfigRecord> {
    let record =
        |(name, value): (&String, &String)| ConfigRecord { name: name.clone(), value: Some(value.clone()) };
    configs.into_iter().map(record).collect()
}

fn configs_set(records: Vec<ConfigRecord>) -> Result<Vec<(String, String)>, MetadataError> {
    let pair = |record: ConfigRecord| match record.value {
        Some(value) => Ok((record.name, value)),
        None => Err(invalid("Config.value", "it is missing")),
    };
    records.into_iter().map(pair).collect()
}

fn alter_configs_record(resource: ConfigResource, set: &[(String, Option<String>)]) -> AlterConfigsRecord {
    let set = set.iter().map(|(name, value)| ConfigRecord { name: name.clone(), value: value.clone() });
    let mut record = AlterConfigsRecord { set: set.collect(), ..AlterConfigsRecord::default() };
    match resource {
        ConfigResource::Topic(id) => {
            record.resource = RESOURCE_TOPIC;
            record.topic = id_bytes(id);
        }
        ConfigResource::Broker(node) => {
            record.resource = RESOURCE_BROKER;
            record.broker = node.0;
        }
        ConfigResource::BrokerDefault => record.resource = RESOURCE_BROKER_DEFAULT,
    }
    record
}

fn alter_configs(record: AlterConfigsRecord) -> Result<Command, MetadataError> {
    let resource = match record.resource {
        RESOURCE_TOPIC => ConfigResource::Topic(topic_id(&record.topic)?),
        RESOURCE_BROKER => ConfigResource::Broker(node_id(record.broker)?),
        RESOURCE_BROKER_DEFAULT => ConfigResource::BrokerDefault,
        _ => return Err(invalid("AlterConfigs.resource", "this release does not know it")),
    };
    let set = record.set.into_iter().map(|config| (config.name, config.value)).collect();
    Ok(Command::AlterConfigs { resource, set })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;
    use crate::state::MetadataState;
    use crate::testing::{any_command, endpoint, state_after};

    proptest! {
        #[test]
        fn commands_survive_encoding(command in any_command()) {
            prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
        }

        #[test]
        fn damaged_bytes_give_an_error_or_a_value_but_never_a_panic(
            commands in prop::collection::vec(any_command(), 1..20),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
            cut in any::<prop::sample::Index>(),
        ) {
            let flip = |bytes: Bytes| {
                let mut damaged = bytes.to_vec();
                damaged[at.index(bytes.len())] ^= 1 << bit;
                damaged
            };
            let command = commands[0].encode();
            let _ = Command::decode(&flip(command.clone()));
            let _ = Command::decode(&command[..cut.index(command.len())]);

            let snapshot = state_after(&commands).snapshot();
            let mut restored = state_after(&commands);
            let before = restored.snapshot();
            for damaged in [flip(snapshot.clone()), snapshot[..cut.index(snapshot.len())].to_vec()] {
                if restored.restore(&damaged).is_err() {
                    prop_assert_eq!(restored.snapshot(), before.clone());
                } else {
                    restored.restore(&before).expect("a good snapshot");
                }
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Command::decode(&bytes);
            let _ = MetadataState::default().restore(&bytes);
        }
    }

    #[test]
    fn an_unknown_kind_is_named() {
        let record = CommandRecord { kind: 99, body: Bytes::new() };
        assert_eq!(Command::decode(&record.encode_to_vec()), Err(MetadataError::UnknownCommandKind(99)));
        assert_eq!(Command::decode(b""), Err(MetadataError::UnknownCommandKind(0)));
    }

    #[test]
    fn unknown_fields_are_ignored() {
        #[derive(Clone, PartialEq, Message)]
        struct NewerRecord {
            #[prost(bytes = "bytes", tag = "1")]
            id: Bytes,
            #[prost(string, tag = "77")]
            reason: String,
        }
        let id = TopicId([7; 16]);
        let body = NewerRecord { id: id_bytes(id), reason: "quota".to_owned() }.encode_to_vec();
        let record = CommandRecord { kind: KIND_DELETE_TOPIC, body: Bytes::from(body) };
        assert_eq!(Command::decode(&record.encode_to_vec()), Ok(Command::DeleteTopic { id }));
    }

    #[test]
    fn the_encoding_of_a_release_stays_readable() {
        // Written once; a change of these bytes breaks the logs of running clusters.
        let check = |command: Command, expected: Expect| {
            let bytes = command.encode();
            expected.assert_eq(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
            assert_eq!(Command::decode(&bytes), Ok(command));
        };
        let partitions = vec![PartitionSpec { replicas: vec![NodeId(1), NodeId(2)] }];
        let id = TopicId([0xab; 16]);
        check(
            Command::SetClusterId { cluster_id: "c".to_owned(), voters: Vec::new() },
            expect!["080112030a0163"],
        );
        let register = |directory_id| Command::RegisterBroker {
            node: NodeId(3),
            rack: Some("r".to_owned()),
            endpoints: vec![endpoint("h", 9092)],
            incarnation: 5,
            directory_id,
            peer: None,
        };
        check(
            register(None),
            expect!["0802122108031201721a110a09504c41494e54455854120168188447210500000000000000"],
        );
        check(
            register(Some(DirectoryId([0xcd; 16]))),
            expect![
                "0802123308031201721a110a09504c41494e544558541201681884472105000000000000002a10cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"
            ],
        );
        check(Command::UnregisterBroker { node: NodeId(3) }, expect!["080312020803"]);
        check(
            Command::CreateTopic {
                name: "t".to_owned(),
                id,
                partitions: partitions.clone(),
                configs: vec![("retention.ms".to_owned(), "1".to_owned())],
            },
            expect![
                "0804122e0a01741210abababababababababababababababab1a040a02010222110a0c726574656e74696f6e2e6d73120131"
            ],
        );
        check(Command::DeleteTopic { id }, expect!["080512120a10abababababababababababababababab"]);
        check(
            Command::CreatePartitions { id, current_count: 1, partitions },
            expect!["0806121a0a10abababababababababababababababab10011a040a020102"],
        );
        let set = vec![("a".to_owned(), Some("1".to_owned())), ("b".to_owned(), None)];
        for (resource, expected) in [
            (
                ConfigResource::Topic(id),
                expect!["0807122108011210abababababababababababababababab22060a016112013122030a0162"],
            ),
            (ConfigResource::Broker(NodeId(1)), expect!["080712110802180122060a016112013122030a0162"]),
            (ConfigResource::BrokerDefault, expect!["0807120f080322060a016112013122030a0162"]),
        ] {
            check(Command::AlterConfigs { resource, set: set.clone() }, expected);
        }
        check(Command::AllocateProducerIds { node: NodeId(1), count: 1000 }, expect!["08081205080110e807"]);
    }

    #[test]
    fn what_no_node_writes_is_refused() {
        let check = |kind: u32, body: Vec<u8>, expected: Expect| {
            let record = CommandRecord { kind, body: Bytes::from(body) };
            let error = Command::decode(&record.encode_to_vec()).expect_err("refused");
            expected.assert_eq(&error.to_string());
        };
        let topic = |id: &'static [u8], replicas: &[&[i32]]| TopicRecord {
            name: "t".to_owned(),
            id: Bytes::from_static(id),
            partitions: replicas
                .iter()
                .map(|replicas| PartitionRecord { replicas: replicas.to_vec(), ..PartitionRecord::default() })
                .collect(),
            configs: Vec::new(),
        };
        let id = &[1; 16];
        check(
            KIND_CREATE_TOPIC,
            topic(b"short", &[&[1]]).encode_to_vec(),
            expect!["metadata field Topic.id is invalid: it is not 16 bytes long"],
        );
        check(
            KIND_CREATE_TOPIC,
            topic(id, &[]).encode_to_vec(),
            expect!["metadata field Topic.partitions is invalid: there is none"],
        );
        check(
            KIND_CREATE_TOPIC,
            topic(id, &[&[]]).encode_to_vec(),
            expect![
                "metadata field Partition.replicas is invalid: there is none, or a broker stands there twice"
            ],
        );
        check(
            KIND_CREATE_TOPIC,
            topic(id, &[&[1, 1]]).encode_to_vec(),
            expect![
                "metadata field Partition.replicas is invalid: there is none, or a broker stands there twice"
            ],
        );
        check(
            KIND_CREATE_TOPIC,
            topic(id, &[&[-1]]).encode_to_vec(),
            expect!["metadata field node is invalid: -1 is negative"],
        );
        check(
            KIND_REGISTER_BROKER,
            BrokerRecord::default().encode_to_vec(),
            expect!["metadata field Broker.endpoints is invalid: there is none"],
        );
        let record = BrokerRecord {
            endpoints: vec![EndpointRecord::default()],
            directory_id: Some(Bytes::from_static(b"short")),
            ..BrokerRecord::default()
        };
        check(
            KIND_REGISTER_BROKER,
            record.encode_to_vec(),
            expect!["metadata field Broker.directory_id is invalid: it is not 16 bytes long"],
        );
        let record = AlterConfigsRecord { resource: 9, ..AlterConfigsRecord::default() };
        check(
            KIND_ALTER_CONFIGS,
            record.encode_to_vec(),
            expect!["metadata field AlterConfigs.resource is invalid: this release does not know it"],
        );
    }

    #[test]
    fn snapshots_that_contradict_themselves_are_refused() {
        let check = |damage: fn(&mut SnapshotRecord), expected: Expect| {
            let state = state_after(&[Command::CreateTopic {
                name: "a.b".to_owned(),
                id: TopicId([1; 16]),
                partitions: vec![PartitionSpec { replicas: vec![NodeId(1)] }; 2],
                configs: Vec::new(),
            }]);
            let mut record = SnapshotRecord::decode(state.snapshot()).expect("a good snapshot");
            damage(&mut record);
            let error = MetadataState::default().restore(&record.encode_to_vec()).expect_err("refused");
            expected.assert_eq(&error.to_string());
        };
        check(
            |snapshot| snapshot.format = 2,
            expect!["metadata snapshot has format 2: this release is too old for it"],
        );
        check(
            |snapshot| snapshot.epoch = 1_000_000,
            expect!["metadata field Snapshot.epoch is invalid: it lies beyond the applied index"],
        );
        check(
            |snapshot| snapshot.next_group = 0,
            expect!["metadata field Snapshot.next_group is invalid: no cluster gets there"],
        );
        check(
            |snapshot| snapshot.next_group = u64::MAX,
            expect!["metadata field Snapshot.next_group is invalid: no cluster gets there"],
        );
        check(
            |snapshot| snapshot.next_group = 2,
            expect![
                "metadata field Partition.group is invalid: a group was never allocated or is used twice"
            ],
        );
        check(
            |snapshot| snapshot.next_producer_id = -1,
            expect!["metadata field Snapshot.next_producer_id is invalid: it is negative"],
        );
        check(
            |snapshot| snapshot.topics[0].partitions[1].group = 1,
            expect![
                "metadata field Partition.group is invalid: a group was never allocated or is used twice"
            ],
        );
        check(
            |snapshot| snapshot.topics.push(snapshot.topics[0].clone()),
            expect!["metadata field Topic.name is invalid: a name or an id stands there twice"],
        );
        check(
            |snapshot| {
                let mut other = snapshot.topics[0].clone();
                other.name = "a_b".to_owned();
                other.id = Bytes::from_static(&[2; 16]);
                snapshot.topics.push(other);
            },
            expect!["metadata field Topic.name is invalid: a name or an id stands there twice"],
        );
    }
}
