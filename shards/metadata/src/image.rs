//! The immutable view of the metadata that every shard reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use types::{DirectoryId, GroupId, LogIndex, NodeId, PartitionIndex, ReplicaId, TopicId};

use crate::command::Endpoint;
use crate::configs::{
    BROKER_DRAINING, BrokerDefaults, BrokerLayers, ReplicationRates, StaticSettings, TopicConfig,
};
use crate::names::{collision_key, is_internal_topic};
use crate::partition::Partition;
use crate::shared_map::SharedMap;

/// A registered broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Its id.
    pub node: NodeId,
    /// Its `broker.rack`.
    pub rack: Option<String>,
    /// Where it listens; never empty, and the first is the one that clients are told.
    pub endpoints: Vec<Endpoint>,
    /// Differs at each start of its process.
    pub incarnation: u64,
    /// Its data directory; `None` where it registered before there were such ids.
    pub directory_id: Option<DirectoryId>,
    /// Where other nodes reach it.
    pub peer: Option<Endpoint>,
    /// Which of the voters that this node ever was it was when it registered, see [`Voter`].
    pub voter_generation: u32,
}

/// A node that is to vote in the metadata group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    /// Tells the voters apart that this node ever was, as [`ReplicaId::generation`].
    pub generation: u32,
    /// Where the others reach it, as was said when it was added; `None` for the first nodes of the cluster.
    pub peer: Option<Endpoint>,
}

impl Broker {
    /// The endpoint that clients are told.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoints[0]
    }

    /// The host that clients are told.
    pub fn host(&self) -> &str {
        &self.endpoint().host
    }

    /// The port that clients are told.
    pub fn port(&self) -> u16 {
        self.endpoint().port
    }

    /// The endpoint of one listener.
    pub fn endpoint_of(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.listener == listener)
    }
}

/// A topic with its partitions and its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Its id.
    pub id: TopicId,
    /// Its partitions by number; never empty.
    pub partitions: Vec<Partition>,
    /// The overrides as they were set, in normal form.
    pub configs: BTreeMap<String, String>,
    /// What holds on this node: overrides, broker settings and built-in defaults together.
    pub config: Arc<TopicConfig>,
    /// Whether it is one of the broker's own.
    pub internal: bool,
}

impl Topic {
    /// One partition; `None` if the topic has no such number.
    pub fn partition(&self, index: PartitionIndex) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index.0).ok()?)
    }
}

/// What the assignments put on one broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BrokerLoad {
    /// Partitions that it is the preferred leader of.
    pub leaders: u32,
    /// Partitions that it holds, those that it leads included.
    pub replicas: u32,
}

/// The metadata after some command: shared by reference among the shards and never changed.
/// Successive images share what did not change between them.
#[derive(Clone, Debug, PartialEq)]
pub struct MetadataImage {
    epoch: LogIndex,
    cluster_id: Option<Arc<str>>,
    voters: Arc<BTreeMap<NodeId, Voter>>,
    next_voter_generation: u32,
    brokers: Arc<BTreeMap<NodeId, Arc<Broker>>>,
    is_rebalancing: bool,
    loads: Arc<BTreeMap<NodeId, BrokerLoad>>,
    topics: SharedMap<Arc<str>, Arc<Topic>>,
    names_by_id: SharedMap<TopicId, Arc<str>>,
    names_by_collision_key: SharedMap<String, Arc<str>>,
    groups: SharedMap<GroupId, (Arc<str>, PartitionIndex)>,
    next_group: GroupId,
    /// What all topics take in a snapshot, with their partitions.
    topics_bytes: usize,
    cluster_configs: Arc<BTreeMap<String, String>>,
    broker_configs: Arc<BTreeMap<NodeId, BTreeMap<String, String>>>,
    static_settings: StaticSettings,
    default_topic_config: Arc<TopicConfig>,
    broker_defaults: Arc<BrokerDefaults>,
}

/// What parts of a snapshot take at most, without their text.
const FIXED_BYTES: usize = 4096;
const BROKER_BYTES: usize = 1024;
const TOPIC_BYTES: usize = 32;
const CONFIG_BYTES: usize = 12;

/// What a topic takes without its partitions.
pub(crate) fn topic_bytes<'a>(
    name: &str,
    configs: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> usize {
    let of_configs = configs.into_iter().map(|(name, value)| CONFIG_BYTES + name.len() + value.len());
    TOPIC_BYTES + name.len() + of_configs.sum::<usize>()
}

impl Default for MetadataImage {
    fn default() -> Self {
        MetadataImage::new(StaticSettings::default())
    }
}

impl MetadataImage {
    pub(crate) fn new(static_settings: StaticSettings) -> MetadataImage {
        let cluster_configs = BTreeMap::new();
        let layers = BrokerLayers { dynamic_default: &cluster_configs, static_settings: &static_settings };
        let default_topic_config = Arc::new(TopicConfig::resolve(&BTreeMap::new(), layers));
        let broker_defaults = Arc::new(BrokerDefaults::resolve(layers));
        MetadataImage {
            epoch: LogIndex(0),
            cluster_id: None,
            voters: Arc::default(),
            next_voter_generation: 1,
            brokers: Arc::default(),
            is_rebalancing: false,
            loads: Arc::default(),
            topics: SharedMap::default(),
            names_by_id: SharedMap::default(),
            names_by_collision_key: SharedMap::default(),
            groups: SharedMap::default(),
            // Group 0 is the metadata's own.
            next_group: GroupId(1),
            topics_bytes: 0,
            cluster_configs: Arc::new(cluster_configs),
            broker_configs: Arc::default(),
            static_settings,
            default_topic_config,
            broker_defaults,
        }
    }

    /// The index of the last command that changed the image; 0 before the first.
    pub fn epoch(&self) -> LogIndex {
        self.epoch
    }

    /// The cluster's id, once it has one.
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.as_deref()
    }

    /// The registered brokers, by id. Registered does not mean alive.
    pub fn brokers(&self) -> impl ExactSizeIterator<Item = &Arc<Broker>> {
        self.brokers.values()
    }

    /// Whether a broker has joined a cluster that had partitions, and its share of them has not moved there yet.
    pub fn is_rebalancing(&self) -> bool {
        self.is_rebalancing
    }

    /// One registered broker.
    pub fn broker(&self, node: NodeId) -> Option<&Arc<Broker>> {
        self.brokers.get(&node)
    }

    /// The nodes that are to vote in the metadata group; none before the cluster has its id.
    pub fn voters(&self) -> impl ExactSizeIterator<Item = (NodeId, &Voter)> {
        self.voters.iter().map(|(node, voter)| (*node, voter))
    }

    /// One of them.
    pub fn voter(&self, node: NodeId) -> Option<&Voter> {
        self.voters.get(&node)
    }

    /// The replicas that are to vote in the metadata group, ascending.
    pub fn metadata_replicas(&self) -> Vec<ReplicaId> {
        self.voters().map(|(node, voter)| ReplicaId { node, generation: voter.generation }).collect()
    }

    /// The bytes of a snapshot of this image, or somewhat more.
    pub(crate) fn snapshot_bytes(&self) -> usize {
        FIXED_BYTES + BROKER_BYTES * self.brokers.len().max(self.voters.len()) + self.topics_bytes
    }

    pub(crate) fn next_voter_generation(&self) -> u32 {
        self.next_voter_generation
    }

    /// The data directories that brokers must come with: those that they are registered with, but for `None` where a node
    /// was added again since, which may come with another one.
    pub fn directories(&self) -> impl Iterator<Item = (NodeId, Option<DirectoryId>)> {
        self.brokers.values().filter_map(|broker| {
            let registered = broker.directory_id?;
            Some((broker.node, Some(registered).filter(|_| !self.may_change_directory(broker))))
        })
    }

    /// Whether a broker was taken out of the cluster and added again since it registered.
    pub(crate) fn may_change_directory(&self, broker: &Broker) -> bool {
        self.voter(broker.node).is_none_or(|voter| voter.generation > broker.voter_generation)
            && !self.voters.is_empty()
    }

    /// How many partitions the assignments put on a broker, registered or not.
    pub fn load(&self, node: NodeId) -> BrokerLoad {
        self.loads.get(&node).copied().unwrap_or_default()
    }

    /// The number of topics.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// The number of partitions of all topics.
    pub fn partition_count(&self) -> usize {
        self.groups.len()
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.iter().map(|(_, topic)| topic)
    }

    /// The topics whose names are `name` or greater, by name: for requests that page through them.
    pub fn topics_from(&self, name: &str) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.iter_from(name).map(|(_, topic)| topic)
    }

    /// A topic by name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// A topic by id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topic(self.names_by_id.get(&id)?)
    }

    /// Whose log a Raft group is; `None` for the metadata group and for groups of deleted topics.
    pub fn partition_of_group(&self, group: GroupId) -> Option<(Arc<Topic>, PartitionIndex)> {
        let (name, index) = self.groups.get(&group)?;
        Some((self.topic(name)?.clone(), *index))
    }

    /// Whether a partition made after this image may get this group, so that the image says nothing of it. Any other
    /// group that it does not know of is gone for ever.
    pub fn may_allocate(&self, group: GroupId) -> bool {
        group >= self.next_group
    }

    pub(crate) fn next_group(&self) -> GroupId {
        self.next_group
    }

    /// The topic that a new name would collide with, if there is one other than of that very name.
    pub(crate) fn colliding_topic(&self, name: &str) -> Option<&Arc<str>> {
        let existing = self.names_by_collision_key.get(&collision_key(name)?)?;
        (&**existing != name).then_some(existing)
    }

    /// The dynamic configurations of one broker alone.
    pub fn broker_configs(&self, node: NodeId) -> Option<&BTreeMap<String, String>> {
        self.broker_configs.get(&node)
    }

    /// Whether a broker is to be emptied.
    pub fn is_draining(&self, node: NodeId) -> bool {
        self.broker_configs(node)
            .and_then(|configs| configs.get(BROKER_DRAINING))
            .is_some_and(|value| value == "true")
    }

    /// What this node moves of replicas that are throttled.
    pub fn replication_rates(&self, node: NodeId) -> ReplicationRates {
        ReplicationRates::resolve(self, node)
    }

    pub(crate) fn all_broker_configs(&self) -> &BTreeMap<NodeId, BTreeMap<String, String>> {
        &self.broker_configs
    }

    /// The dynamic defaults of all brokers, as they were set.
    pub fn cluster_configs(&self) -> &BTreeMap<String, String> {
        &self.cluster_configs
    }

    /// What the process was started with.
    pub fn static_settings(&self) -> &StaticSettings {
        &self.static_settings
    }

    /// The effective broker configurations that decide how topics are created.
    pub fn broker_defaults(&self) -> &BrokerDefaults {
        &self.broker_defaults
    }

    /// The configuration of a topic without overrides.
    pub fn default_topic_config(&self) -> &Arc<TopicConfig> {
        &self.default_topic_config
    }

    pub(crate) fn broker_layers(&self) -> BrokerLayers<'_> {
        BrokerLayers { dynamic_default: &self.cluster_configs, static_settings: &self.static_settings }
    }
}

/// Changes, made by the state machine on its own copy only.
impl MetadataImage {
    pub(crate) fn set_epoch(&mut self, epoch: LogIndex) {
        assert!(self.epoch <= epoch, "the image's epoch went from {} back to {epoch}", self.epoch);
        self.epoch = epoch;
    }

    pub(crate) fn set_next_group(&mut self, next_group: GroupId) {
        assert!(self.next_group <= next_group, "groups are numbered upwards");
        self.next_group = next_group;
    }

    pub(crate) fn set_cluster_id(&mut self, cluster_id: &str) {
        self.cluster_id = Some(Arc::from(cluster_id));
    }

    pub(crate) fn put_voter(&mut self, node: NodeId, voter: Voter) {
        Arc::make_mut(&mut self.voters).insert(node, voter);
    }

    pub(crate) fn remove_voter(&mut self, node: NodeId) {
        Arc::make_mut(&mut self.voters).remove(&node);
    }

    pub(crate) fn set_next_voter_generation(&mut self, generation: u32) {
        assert!(self.next_voter_generation <= generation, "generations are numbered upwards");
        self.next_voter_generation = generation;
    }

    pub(crate) fn set_rebalancing(&mut self, is_rebalancing: bool) {
        self.is_rebalancing = is_rebalancing;
    }

    pub(crate) fn put_broker(&mut self, broker: Broker) {
        assert!(!broker.endpoints.is_empty(), "broker {} has no endpoint", broker.node);
        Arc::make_mut(&mut self.brokers).insert(broker.node, Arc::new(broker));
    }

    pub(crate) fn remove_broker(&mut self, node: NodeId) {
        Arc::make_mut(&mut self.brokers).remove(&node);
    }

    pub(crate) fn insert_topic(
        &mut self,
        name: &str,
        id: TopicId,
        partitions: Vec<Partition>,
        configs: BTreeMap<String, String>,
    ) {
        assert!(!partitions.is_empty(), "topic {name} has no partition");
        let name: Arc<str> = Arc::from(name);
        assert!(self.names_by_id.insert(id, name.clone()).is_none(), "topic id {id:?} was taken");
        if let Some(key) = collision_key(&name) {
            let previous = self.names_by_collision_key.insert(key, name.clone());
            assert!(previous.is_none(), "topic {name} collides with another one");
        }
        self.index_partitions(&name, 0, &partitions);
        self.topics_bytes += topic_bytes(&name, &configs);
        let config = self.resolve_topic_config(&configs);
        let internal = is_internal_topic(&name);
        let topic = Topic { name: name.clone(), id, partitions, configs, config, internal };
        assert!(self.topics.insert(name, Arc::new(topic)).is_none(), "topic name was taken");
    }

    pub(crate) fn remove_topic(&mut self, topic: &Topic) {
        assert!(self.topics.remove(&*topic.name).is_some(), "topic {} is not there", topic.name);
        self.names_by_id.remove(&topic.id);
        self.topics_bytes -= topic_bytes(&topic.name, &topic.configs);
        if let Some(key) = collision_key(&topic.name) {
            self.names_by_collision_key.remove(&key);
        }
        for partition in &topic.partitions {
            self.groups.remove(&partition.group);
            self.uncount(partition);
        }
    }

    /// Other decisions for some partitions of a topic, by number.
    pub(crate) fn set_partitions(&mut self, name: &str, partitions: Vec<(PartitionIndex, Partition)>) {
        let mut topic = (**self.topic(name).expect("the topic exists")).clone();
        for (index, partition) in partitions {
            let place = usize::try_from(index.0).expect("partitions are counted from 0");
            let before = std::mem::replace(&mut topic.partitions[place], partition);
            assert!(before.group == topic.partitions[place].group, "a partition keeps its group");
            self.uncount(&before);
            self.count(&topic.partitions[place]);
        }
        self.topics.insert(topic.name.clone(), Arc::new(topic));
    }

    pub(crate) fn append_partitions(&mut self, topic: &Topic, partitions: Vec<Partition>) {
        self.index_partitions(&topic.name, topic.partitions.len(), &partitions);
        let mut topic = topic.clone();
        topic.partitions.extend(partitions);
        self.topics.insert(topic.name.clone(), Arc::new(topic));
    }

    pub(crate) fn set_topic_configs(&mut self, topic: &Topic, configs: BTreeMap<String, String>) {
        let config = self.resolve_topic_config(&configs);
        self.topics_bytes += topic_bytes(&topic.name, &configs);
        self.topics_bytes -= topic_bytes(&topic.name, &topic.configs);
        let topic = Topic { configs, config, ..topic.clone() };
        self.topics.insert(topic.name.clone(), Arc::new(topic));
    }

    pub(crate) fn set_broker_configs(&mut self, node: NodeId, configs: BTreeMap<String, String>) {
        let all = Arc::make_mut(&mut self.broker_configs);
        if configs.is_empty() {
            all.remove(&node);
        } else {
            all.insert(node, configs);
        }
    }

    /// Replaces the dynamic defaults and, with them, the effective configuration of every topic.
    pub(crate) fn set_cluster_configs(&mut self, configs: BTreeMap<String, String>) {
        self.cluster_configs = Arc::new(configs);
        let layers =
            BrokerLayers { dynamic_default: &self.cluster_configs, static_settings: &self.static_settings };
        let mut default_config = Arc::new(TopicConfig::resolve(&BTreeMap::new(), layers));
        if default_config == self.default_topic_config {
            default_config = self.default_topic_config.clone();
        }
        self.topics.update_all(|topic| {
            let config = if topic.configs.is_empty() {
                default_config.clone()
            } else {
                Arc::new(TopicConfig::resolve(&topic.configs, layers))
            };
            if config == topic.config {
                topic.clone()
            } else {
                Arc::new(Topic { config, ..(**topic).clone() })
            }
        });
        self.broker_defaults = Arc::new(BrokerDefaults::resolve(layers));
        self.default_topic_config = default_config;
    }

    fn index_partitions(&mut self, name: &Arc<str>, first: usize, partitions: &[Partition]) {
        for (index, partition) in (first..).zip(partitions) {
            let index = i32::try_from(index).expect("partitions are bounded far below 2^31");
            let place = (name.clone(), PartitionIndex(index));
            assert!(self.groups.insert(partition.group, place).is_none(), "{:?} was taken", partition.group);
            self.count(partition);
        }
    }

    fn count(&mut self, partition: &Partition) {
        self.topics_bytes += partition.snapshot_bytes();
        let loads = Arc::make_mut(&mut self.loads);
        for (position, node) in partition.brokers().into_iter().enumerate() {
            let load = loads.entry(node).or_default();
            load.replicas += 1;
            load.leaders += u32::from(position == 0);
        }
    }

    fn uncount(&mut self, partition: &Partition) {
        self.topics_bytes -= partition.snapshot_bytes();
        let loads = Arc::make_mut(&mut self.loads);
        for (position, node) in partition.brokers().into_iter().enumerate() {
            let load = loads.get_mut(&node).expect("every assigned broker has a load");
            load.replicas -= 1;
            load.leaders -= u32::from(position == 0);
            if *load == BrokerLoad::default() {
                loads.remove(&node);
            }
        }
    }

    fn resolve_topic_config(&self, configs: &BTreeMap<String, String>) -> Arc<TopicConfig> {
        if configs.is_empty() {
            return self.default_topic_config.clone();
        }
        Arc::new(TopicConfig::resolve(configs, self.broker_layers()))
    }
}
