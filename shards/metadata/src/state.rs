//! The state machine of group 0.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use types::limits::PARTITIONS_MAX;
use types::{GroupId, LogIndex, NodeId, PartitionIndex, ProducerId, TopicId};

use crate::command::{Applied, Command, ConfigResource, Endpoint, PartitionSpec, Reassignment};
use crate::configs::{BROKER_DRAINING, StaticSettings};
use crate::error::MetadataError;
use crate::image::{Broker, MetadataImage, Topic, Voter, topic_bytes};
use crate::partition::Partition;
use crate::plan::{bytes_of, check_bytes, check_moving_bytes};
use crate::wire;

/// Brokers of one cluster.
const BROKERS_MAX: usize = 1_000;

/// The metadata as of one log index. One lives on the metadata core of each node; the shards see
/// only the images that it publishes.
///
/// Everything but the static settings is the same on every node after the same commands.
#[derive(Debug)]
pub struct MetadataState {
    /// Ahead of `published` by the commands applied since it was asked for.
    image: MetadataImage,
    published: Arc<MetadataImage>,
    applied: LogIndex,
    next_producer_id: ProducerId,
}

/// What a snapshot holds beside the image.
pub(crate) struct Counters {
    pub(crate) applied: LogIndex,
    pub(crate) next_group: GroupId,
    pub(crate) next_producer_id: ProducerId,
}

impl Default for MetadataState {
    fn default() -> Self {
        MetadataState::new(StaticSettings::default())
    }
}

impl MetadataState {
    /// The state before the first command, on a node with these settings.
    pub fn new(static_settings: StaticSettings) -> MetadataState {
        let image = MetadataImage::new(static_settings);
        MetadataState {
            published: Arc::new(image.clone()),
            image,
            applied: LogIndex(0),
            next_producer_id: ProducerId(0),
        }
    }

    /// The index of the last command applied, whether or not it changed anything.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The image as of the last command. Costs nothing when no command changed it since the last
    /// call, and otherwise a pointer per few hundred partitions.
    pub fn image(&mut self) -> Arc<MetadataImage> {
        if self.published.epoch() != self.image.epoch() {
            self.published = Arc::new(self.image.clone());
        }
        self.published.clone()
    }

    /// Applies the command at `index` of the log. Indexes ascend; those of entries that are no
    /// commands are left out.
    pub fn apply(&mut self, index: LogIndex, command: Command) -> Applied {
        assert!(index > self.applied, "metadata command {index} applied after {}", self.applied);
        self.applied = index;
        let applied = match command {
            Command::SetClusterId { cluster_id, voters } => self.set_cluster_id(&cluster_id, &voters),
            Command::RegisterBroker { node, rack, endpoints, incarnation, directory_id, peer } => {
                let voter_generation = self.image.voter(node).map_or(0, |voter| voter.generation);
                self.register_broker(Broker {
                    node,
                    rack,
                    endpoints,
                    incarnation,
                    directory_id,
                    peer,
                    voter_generation,
                })
            }
            Command::UnregisterBroker { node } => self.unregister_broker(node),
            Command::CreateTopic { name, id, partitions, configs } => {
                self.create_topic(&name, id, partitions, configs)
            }
            Command::DeleteTopic { id } => self.delete_topic(id),
            Command::CreatePartitions { id, current_count, partitions } => {
                self.create_partitions(id, current_count, partitions)
            }
            Command::AlterConfigs { resource, set } => self.alter_configs(resource, set),
            Command::AllocateProducerIds { node: _, count } => self.allocate_producer_ids(count),
            Command::Reassign { partitions } => self.reassign(partitions),
            Command::CompleteMoves { moves } => self.complete_moves(moves),
            Command::FinishRebalance => Ok(self.finish_rebalance()),
            Command::AddVoter { node, peer } => self.add_voter(node, peer),
            Command::RemoveVoter { node } => self.remove_voter(node),
        };
        let applied = applied.unwrap_or_else(Applied::Refused);
        let changed_image =
            !matches!(applied, Applied::Refused(_) | Applied::Unchanged | Applied::ProducerIdBlock { .. });
        if changed_image {
            self.image.set_epoch(index);
        }
        applied
    }

    /// Everything, as bytes that [`MetadataState::restore`] takes back.
    pub fn snapshot(&self) -> Bytes {
        let counters = Counters {
            applied: self.applied,
            next_group: self.image.next_group(),
            next_producer_id: self.next_producer_id,
        };
        wire::encode_snapshot(&self.image, &counters)
    }

    /// Replaces the state by that of a snapshot; this node's static settings stay. On an error
    /// nothing changes.
    ///
    /// # Errors
    ///
    /// `MalformedSnapshot`, `UnsupportedSnapshotFormat` and `InvalidField`.
    pub fn restore(&mut self, snapshot: &[u8]) -> Result<(), MetadataError> {
        let (image, counters) = wire::decode_snapshot(snapshot, self.image.static_settings().clone())?;
        *self = MetadataState {
            published: Arc::new(image.clone()),
            image,
            applied: counters.applied,
            next_producer_id: counters.next_producer_id,
        };
        Ok(())
    }

    fn set_cluster_id(&mut self, cluster_id: &str, voters: &[NodeId]) -> Result<Applied, MetadataError> {
        match self.image.cluster_id() {
            None => {
                self.image.set_cluster_id(cluster_id);
                for node in voters {
                    self.image.put_voter(*node, Voter { generation: 0, peer: None });
                }
                Ok(Applied::ClusterIdSet)
            }
            Some(existing) if existing == cluster_id => Ok(Applied::Unchanged),
            Some(existing) => Err(MetadataError::ClusterIdAlreadySet(existing.to_owned())),
        }
    }

    fn register_broker(&mut self, broker: Broker) -> Result<Applied, MetadataError> {
        let node = broker.node;
        let existing = self.image.broker(node);
        if existing.is_some_and(|existing| **existing == broker) {
            return Ok(Applied::Unchanged);
        }
        if self.image.voters().len() > 0 && self.image.voter(node).is_none() {
            return Err(MetadataError::NotMember(node));
        }
        let registered = existing.and_then(|existing| existing.directory_id);
        let other = registered.filter(|_| registered != broker.directory_id);
        let may_change = existing.is_some_and(|existing| self.image.may_change_directory(existing));
        if let Some(registered) = other.filter(|_| !may_change) {
            return Err(MetadataError::OtherDirectory { node, registered });
        }
        if broker.endpoints.is_empty() {
            return Err(MetadataError::InvalidRegistration { node, reason: "it has no endpoint" });
        }
        if existing.is_none() && self.image.brokers().len() >= BROKERS_MAX {
            return Err(MetadataError::InvalidRegistration { node, reason: "the cluster has 1000 brokers" });
        }
        if existing.is_none() && self.image.partition_count() > 0 {
            self.image.set_rebalancing(true);
        }
        self.image.put_broker(broker);
        if other.is_some() {
            self.renew_replicas(node);
        }
        Ok(Applied::BrokerRegistered)
    }

    /// A broker comes with another data directory: what it held is to be made anew, beside what it may still be a member of.
    fn renew_replicas(&mut self, node: NodeId) {
        let topics: Vec<Arc<Topic>> = self.image.topics().cloned().collect();
        for topic in topics {
            let partitions = (0..).map(PartitionIndex).zip(&topic.partitions);
            let renewed: Vec<_> = partitions
                .filter(|(_, partition)| partition.wanted_brokers().contains(&node))
                .filter_map(|(index, partition)| {
                    Some((index, partition.reassigned(partition.wanted_brokers(), Some(node))?))
                })
                .collect();
            if !renewed.is_empty() {
                self.image.set_partitions(&topic.name, renewed);
            }
        }
    }

    fn unregister_broker(&mut self, node: NodeId) -> Result<Applied, MetadataError> {
        if self.image.broker(node).is_none() {
            return Err(MetadataError::BrokerNotRegistered(node));
        }
        let replicas = self.image.load(node).replicas;
        if replicas > 0 {
            return Err(MetadataError::BrokerHoldsReplicas { node, replicas });
        }
        self.check_not_last(node)?;
        self.image.remove_broker(node);
        self.image.remove_voter(node);
        // Where it is added again, it is to take part again.
        let mut configs = self.image.broker_configs(node).cloned().unwrap_or_default();
        if configs.remove(BROKER_DRAINING).is_some() {
            self.image.set_broker_configs(node, configs);
        }
        Ok(Applied::BrokerUnregistered)
    }

    /// Whether the metadata group keeps a voter that has joined the cluster as the voter that it is. One that was only added
    /// may never come, and those that went could not come back: nobody would serve again.
    fn check_not_last(&self, node: NodeId) -> Result<(), MetadataError> {
        if self.image.voter(node).is_none() {
            return Ok(());
        }
        let has_joined = |(other, voter): (NodeId, &Voter)| {
            let registered = self.image.broker(other);
            registered.is_some_and(|broker| broker.voter_generation == voter.generation)
        };
        match self.image.voters().filter(|(other, _)| *other != node).any(has_joined) {
            true => Ok(()),
            false => Err(MetadataError::LastVoter(node)),
        }
    }

    fn add_voter(&mut self, node: NodeId, peer: Endpoint) -> Result<Applied, MetadataError> {
        if self.image.voter(node).is_some() {
            return Err(MetadataError::DuplicateVoter(node));
        }
        if self.image.voters().len() >= BROKERS_MAX {
            return Err(MetadataError::InvalidRegistration { node, reason: "the cluster has 1000 brokers" });
        }
        let generation = self.image.next_voter_generation();
        self.image.set_next_voter_generation(generation + 1);
        self.image.put_voter(node, Voter { generation, peer: Some(peer) });
        Ok(Applied::VotersChanged)
    }

    fn remove_voter(&mut self, node: NodeId) -> Result<Applied, MetadataError> {
        if self.image.voter(node).is_none() {
            return Err(MetadataError::VoterNotFound(node));
        }
        self.check_not_last(node)?;
        self.image.remove_voter(node);
        Ok(Applied::VotersChanged)
    }

    fn reassign(&mut self, partitions: Vec<Reassignment>) -> Result<Applied, MetadataError> {
        let decide = |partition: &Partition, replicas: Option<Vec<NodeId>>| {
            let replicas = replicas.unwrap_or_else(|| partition.replicas.clone());
            partition.reassigned(&replicas, None)
        };
        let decisions = partitions.into_iter().map(|decided| (decided.group, decided.replicas));
        let has_changed = self.change_partitions(decisions, decide)?;
        Ok(if has_changed { Applied::Reassigned } else { Applied::Unchanged })
    }

    fn finish_rebalance(&mut self) -> Applied {
        if !self.image.is_rebalancing() {
            return Applied::Unchanged;
        }
        self.image.set_rebalancing(false);
        Applied::RebalanceFinished
    }

    fn complete_moves(&mut self, moves: Vec<(GroupId, u32)>) -> Result<Applied, MetadataError> {
        // What is complete takes no more room than what was under way.
        let has_changed = self.change_partitions(moves.into_iter(), Partition::moved)?;
        Ok(if has_changed { Applied::MovesCompleted } else { Applied::Unchanged })
    }

    /// Changes partitions, topic by topic, or none where the metadata would grow too large. Those that are gone are passed over.
    /// Whether there was anything to change.
    fn change_partitions<T>(
        &mut self,
        changes: impl Iterator<Item = (GroupId, T)>,
        change: impl Fn(&Partition, T) -> Option<Partition>,
    ) -> Result<bool, MetadataError> {
        let mut by_topic: BTreeMap<Arc<str>, BTreeMap<PartitionIndex, Partition>> = BTreeMap::new();
        let (mut bytes_before, mut bytes_after) = (0, 0);
        for (group, what) in changes {
            let Some((topic, index)) = self.image.partition_of_group(group) else { continue };
            let of_topic = by_topic.entry(Arc::clone(&topic.name)).or_default();
            let current = of_topic.get(&index).or_else(|| topic.partition(index));
            let current = current.expect("a group's partition is there");
            if let Some(changed) = change(current, what) {
                bytes_before += current.snapshot_bytes();
                bytes_after += changed.snapshot_bytes();
                of_topic.insert(index, changed);
            }
        }
        check_moving_bytes(&self.image, bytes_after.saturating_sub(bytes_before))?;
        by_topic.retain(|_, partitions| !partitions.is_empty());
        let has_changed = !by_topic.is_empty();
        for (name, partitions) in by_topic {
            self.image.set_partitions(&name, partitions.into_iter().collect());
        }
        Ok(has_changed)
    }

    fn create_topic(
        &mut self,
        name: &str,
        id: TopicId,
        specs: Vec<PartitionSpec>,
        configs: Vec<(String, String)>,
    ) -> Result<Applied, MetadataError> {
        if let Some(existing) = self.image.topic(name) {
            // A proposal whose answer was lost is proposed again; it did create the topic.
            if existing.id == id {
                return Ok(Applied::TopicCreated { groups: groups_of(&existing.partitions) });
            }
            return Err(MetadataError::TopicExists(name.to_owned()));
        }
        if let Some(other) = self.image.topic_by_id(id) {
            return Err(MetadataError::TopicExists(other.name.to_string()));
        }
        if let Some(existing) = self.image.colliding_topic(name) {
            let existing = existing.to_string();
            return Err(MetadataError::TopicNameCollision { name: name.to_owned(), existing });
        }
        let of_topic = topic_bytes(name, configs.iter().map(|(name, value)| (name, value)));
        let partitions = self.allocate_groups(specs, of_topic)?;
        let groups = groups_of(&partitions);
        self.image.insert_topic(name, id, partitions, configs.into_iter().collect());
        Ok(Applied::TopicCreated { groups })
    }

    fn delete_topic(&mut self, id: TopicId) -> Result<Applied, MetadataError> {
        let topic = self.topic_by_id(id)?;
        self.image.remove_topic(&topic);
        Ok(Applied::TopicDeleted { groups: groups_of(&topic.partitions) })
    }

    fn create_partitions(
        &mut self,
        id: TopicId,
        current_count: u32,
        specs: Vec<PartitionSpec>,
    ) -> Result<Applied, MetadataError> {
        let topic = self.topic_by_id(id)?;
        if topic.partitions.len() != current_count as usize {
            let count = topic.partitions.len();
            return Err(MetadataError::InvalidPartitions(format!("the topic has {count} partitions by now")));
        }
        let partitions = self.allocate_groups(specs, 0)?;
        let groups = groups_of(&partitions);
        self.image.append_partitions(&topic, partitions);
        Ok(Applied::PartitionsCreated { groups })
    }

    fn alter_configs(
        &mut self,
        resource: ConfigResource,
        set: Vec<(String, Option<String>)>,
    ) -> Result<Applied, MetadataError> {
        match resource {
            ConfigResource::Topic(id) => {
                let topic = self.topic_by_id(id)?;
                let Some(configs) = altered(&topic.configs, set) else { return Ok(Applied::Unchanged) };
                let before = topic_bytes("", &topic.configs);
                check_bytes(&self.image, topic_bytes("", &configs).saturating_sub(before))?;
                self.image.set_topic_configs(&topic, configs);
            }
            ConfigResource::Broker(node) => {
                if self.image.broker(node).is_none() {
                    return Err(MetadataError::BrokerNotRegistered(node));
                }
                let current = self.image.broker_configs(node).cloned().unwrap_or_default();
                let Some(configs) = altered(&current, set) else { return Ok(Applied::Unchanged) };
                self.image.set_broker_configs(node, configs);
            }
            ConfigResource::BrokerDefault => {
                let Some(configs) = altered(self.image.cluster_configs(), set) else {
                    return Ok(Applied::Unchanged);
                };
                self.image.set_cluster_configs(configs);
            }
        }
        Ok(Applied::ConfigsAltered)
    }

    fn allocate_producer_ids(&mut self, count: u32) -> Result<Applied, MetadataError> {
        let first = self.next_producer_id;
        match first.0.checked_add(i64::from(count)) {
            Some(next) if count > 0 => {
                self.next_producer_id = ProducerId(next);
                Ok(Applied::ProducerIdBlock { first, count })
            }
            _ => Err(MetadataError::InvalidProducerIdCount { count }),
        }
    }

    fn topic_by_id(&self, id: TopicId) -> Result<Arc<Topic>, MetadataError> {
        self.image.topic_by_id(id).cloned().ok_or(MetadataError::UnknownTopicId(id))
    }

    /// New partitions, if there is room for them and for the so many bytes that come with them.
    fn allocate_groups(
        &mut self,
        specs: Vec<PartitionSpec>,
        bytes_beside: usize,
    ) -> Result<Vec<Partition>, MetadataError> {
        if self.image.partition_count() + specs.len() > PARTITIONS_MAX {
            let reason = format!("the cluster may not have more than {PARTITIONS_MAX} partitions");
            return Err(MetadataError::InvalidPartitions(reason));
        }
        check_bytes(&self.image, bytes_of(&specs) + bytes_beside)?;
        let partition = |spec: PartitionSpec| {
            let group = self.image.next_group();
            self.image.set_next_group(GroupId(group.0 + 1));
            Partition::new(group, spec.replicas)
        };
        Ok(specs.into_iter().map(partition).collect())
    }
}

fn groups_of(partitions: &[Partition]) -> Vec<GroupId> {
    partitions.iter().map(|partition| partition.group).collect()
}

/// The configurations after the change; `None` if it changes nothing.
fn altered(
    current: &BTreeMap<String, String>,
    set: Vec<(String, Option<String>)>,
) -> Option<BTreeMap<String, String>> {
    let mut configs = current.clone();
    for (name, value) in set {
        match value {
            Some(value) => configs.insert(name, value),
            None => configs.remove(&name),
        };
    }
    (configs != *current).then_some(configs)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use types::limits::METADATA_BYTES_MAX;
    use types::{DirectoryId, PartitionIndex, ReplicaId};

    use super::*;
    use crate::testing::{any_command, apply, check_image, endpoint, state_after};

    fn spec(replicas: &[i32]) -> PartitionSpec {
        PartitionSpec { replicas: replicas.iter().map(|node| NodeId(*node)).collect() }
    }

    fn create(name: &str, id: u8, partitions: usize) -> Command {
        let partitions = vec![spec(&[1, 2]); partitions];
        Command::CreateTopic { name: name.to_owned(), id: TopicId([id; 16]), partitions, configs: Vec::new() }
    }

    fn register(node: i32, incarnation: u64) -> Command {
        let endpoints = vec![endpoint("host", 9092)];
        Command::RegisterBroker {
            node: NodeId(node),
            rack: None,
            endpoints,
            incarnation,
            directory_id: None,
            peer: None,
        }
    }

    fn groups(groups: &[u64]) -> Vec<GroupId> {
        groups.iter().map(|group| GroupId(*group)).collect()
    }

    #[test]
    fn groups_are_numbered_from_1_and_never_reused() {
        let mut state = MetadataState::default();
        assert_eq!(apply(&mut state, create("a", 1, 2)), Applied::TopicCreated { groups: groups(&[1, 2]) });
        let id = TopicId([1; 16]);
        let add = Command::CreatePartitions { id, current_count: 2, partitions: vec![spec(&[2, 1])] };
        assert_eq!(apply(&mut state, add), Applied::PartitionsCreated { groups: groups(&[3]) });
        assert_eq!(
            apply(&mut state, Command::DeleteTopic { id }),
            Applied::TopicDeleted { groups: groups(&[1, 2, 3]) }
        );
        assert_eq!(apply(&mut state, create("a", 2, 1)), Applied::TopicCreated { groups: groups(&[4]) });
        let image = state.image();
        assert!(image.partition_of_group(GroupId(1)).is_none());
        assert!(image.partition_of_group(GroupId::METADATA).is_none());
        let (topic, index) = image.partition_of_group(GroupId(4)).expect("a partition");
        assert_eq!((&*topic.name, topic.id, index), ("a", TopicId([2; 16]), PartitionIndex(0)));
        assert!(image.topic_by_id(id).is_none());
    }

    #[test]
    fn races_are_decided_by_the_log() {
        let mut state = MetadataState::default();
        apply(&mut state, create("a.b", 1, 1));
        let first = apply(&mut state, create("a.b", 1, 1));
        assert_eq!(first, Applied::TopicCreated { groups: groups(&[1]) }, "the same proposal again");
        let id = TopicId([1; 16]);
        let add = Command::CreatePartitions { id, current_count: 1, partitions: vec![spec(&[1]); 2] };
        apply(&mut state, add.clone());
        let unknown = TopicId([9; 16]);
        let set = vec![("retention.ms".to_owned(), Some("1".to_owned()))];
        for (command, expected) in [
            (create("a.b", 2, 1), MetadataError::TopicExists("a.b".to_owned())),
            (create("c", 1, 1), MetadataError::TopicExists("a.b".to_owned())),
            (
                create("a_b", 3, 1),
                MetadataError::TopicNameCollision { name: "a_b".to_owned(), existing: "a.b".to_owned() },
            ),
            (add, MetadataError::InvalidPartitions("the topic has 3 partitions by now".to_owned())),
            (Command::DeleteTopic { id: unknown }, MetadataError::UnknownTopicId(unknown)),
            (
                Command::AlterConfigs { resource: ConfigResource::Topic(unknown), set: set.clone() },
                MetadataError::UnknownTopicId(unknown),
            ),
            (
                Command::AlterConfigs { resource: ConfigResource::Broker(NodeId(5)), set },
                MetadataError::BrokerNotRegistered(NodeId(5)),
            ),
            (Command::UnregisterBroker { node: NodeId(5) }, MetadataError::BrokerNotRegistered(NodeId(5))),
            (
                create("huge", 4, PARTITIONS_MAX - 2),
                MetadataError::InvalidPartitions(
                    "the cluster may not have more than 200000 partitions".to_owned(),
                ),
            ),
        ] {
            let before = state.image();
            assert_eq!(apply(&mut state, command), Applied::Refused(expected));
            assert!(Arc::ptr_eq(&before, &state.image()), "a refused command changes nothing");
        }
        let next = apply(&mut state, create("next", 5, 1));
        assert_eq!(next, Applied::TopicCreated { groups: groups(&[4]) }, "a refused command takes no group");
    }

    #[test]
    fn the_cluster_id_is_set_once() {
        let mut state = MetadataState::default();
        let set = |cluster_id: &str| Command::SetClusterId {
            cluster_id: cluster_id.to_owned(),
            voters: Vec::new(),
        };
        assert_eq!(apply(&mut state, set("x")), Applied::ClusterIdSet);
        assert_eq!(apply(&mut state, set("x")), Applied::Unchanged);
        let refused = MetadataError::ClusterIdAlreadySet("x".to_owned());
        assert_eq!(apply(&mut state, set("y")), Applied::Refused(refused));
        assert_eq!(state.image().cluster_id(), Some("x"));
    }

    #[test]
    fn the_last_registration_of_a_broker_wins() {
        let mut state = MetadataState::default();
        assert_eq!(apply(&mut state, register(1, 10)), Applied::BrokerRegistered);
        assert_eq!(apply(&mut state, register(1, 10)), Applied::Unchanged);
        assert_eq!(apply(&mut state, register(1, 9)), Applied::BrokerRegistered);
        let image = state.image();
        let broker = image.broker(NodeId(1)).expect("registered");
        assert_eq!((broker.incarnation, broker.host(), broker.port()), (9, "host", 9092));
        assert_eq!(
            apply(&mut state, Command::UnregisterBroker { node: NodeId(1) }),
            Applied::BrokerUnregistered
        );
        assert!(state.image().broker(NodeId(1)).is_none());
        assert!(image.broker(NodeId(1)).is_some(), "an image never changes");
    }

    #[test]
    fn a_broker_keeps_the_data_directory_that_it_was_first_registered_with() {
        let mut state = MetadataState::default();
        let with = |number: u64, directory: Option<u8>| match register(1, number) {
            Command::RegisterBroker { node, rack, endpoints, incarnation, .. } => Command::RegisterBroker {
                node,
                rack,
                endpoints,
                incarnation,
                directory_id: directory.map(|byte| DirectoryId([byte; 16])),
                peer: None,
            },
            other => panic!("no registration: {other:?}"),
        };
        assert_eq!(apply(&mut state, with(1, None)), Applied::BrokerRegistered);
        assert_eq!(apply(&mut state, with(2, Some(7))), Applied::BrokerRegistered, "it had none before");
        assert_eq!(apply(&mut state, with(3, Some(7))), Applied::BrokerRegistered);
        let refused = MetadataError::OtherDirectory { node: NodeId(1), registered: DirectoryId([7; 16]) };
        for other in [Some(8), None] {
            assert_eq!(apply(&mut state, with(4, other)), Applied::Refused(refused.clone()));
        }
        let mut restored = MetadataState::default();
        restored.restore(&state.snapshot()).expect("a good snapshot");
        assert_eq!(apply(&mut restored, with(4, Some(8))), Applied::Refused(refused));
        let image = restored.image();
        assert_eq!(image.directories().collect::<Vec<_>>(), [(NodeId(1), Some(DirectoryId([7; 16])))]);
        assert_eq!(image.broker(NodeId(1)).expect("registered").incarnation, 3);
    }

    fn register_with(node: i32, incarnation: u64, directory: u8) -> Command {
        let Command::RegisterBroker { node, rack, endpoints, incarnation, peer, .. } =
            register(node, incarnation)
        else {
            panic!("it registers")
        };
        let directory_id = Some(DirectoryId([directory; 16]));
        Command::RegisterBroker { node, rack, endpoints, incarnation, directory_id, peer }
    }

    fn cluster_of_three() -> MetadataState {
        let voters = [1, 2, 3].map(NodeId).to_vec();
        let mut commands = vec![Command::SetClusterId { cluster_id: "x".to_owned(), voters }];
        commands.extend([1, 2, 3].map(|node| register_with(node, 1, node as u8)));
        commands.push(create("a", 1, 2));
        state_after(&commands)
    }

    #[test]
    fn a_node_that_is_added_again_may_come_with_another_directory_and_gets_other_replicas() {
        let mut state = cluster_of_three();
        let replicas = |state: &mut MetadataState| {
            let topic = state.image().topic("a").cloned().expect("a topic");
            topic.partitions.iter().map(|partition| partition.replica_on(NodeId(2))).collect::<Vec<_>>()
        };
        let blank = register_with(2, 2, 9);
        let refused = MetadataError::OtherDirectory { node: NodeId(2), registered: DirectoryId([2; 16]) };
        assert_eq!(apply(&mut state, blank.clone()), Applied::Refused(refused));
        let (node, peer) = (NodeId(2), endpoint("peer", 1));
        assert_eq!(
            apply(&mut state, Command::AddVoter { node, peer: peer.clone() }),
            Applied::Refused(MetadataError::DuplicateVoter(node))
        );
        assert_eq!(apply(&mut state, Command::RemoveVoter { node }), Applied::VotersChanged);
        assert_eq!(
            apply(&mut state, blank.clone()),
            Applied::Refused(MetadataError::NotMember(node)),
            "not before it is added again"
        );
        assert_eq!(apply(&mut state, Command::AddVoter { node, peer }), Applied::VotersChanged);
        assert_eq!(state.image().metadata_replicas()[1], ReplicaId { node, generation: 1 });
        assert!(state.image().directories().any(|known| known == (node, None)));
        assert_eq!(replicas(&mut state), [Some(ReplicaId::first(node)); 2]);
        assert_eq!(apply(&mut state, blank), Applied::BrokerRegistered);
        assert_eq!(replicas(&mut state), [Some(ReplicaId { node, generation: 1 }); 2]);
        assert!(state.image().directories().any(|known| known == (node, Some(DirectoryId([9; 16])))));
        let old = MetadataError::OtherDirectory { node, registered: DirectoryId([9; 16]) };
        assert_eq!(
            apply(&mut state, register_with(2, 3, 2)),
            Applied::Refused(old),
            "the lost one came back"
        );

        let mut restored = MetadataState::default();
        restored.restore(&state.snapshot()).expect("a good snapshot");
        assert_eq!(restored.image(), state.image());
    }

    #[test]
    fn a_broker_leaves_once_it_holds_nothing() {
        let mut state = cluster_of_three();
        let node = NodeId(2);
        assert_eq!(
            apply(&mut state, Command::UnregisterBroker { node }),
            Applied::Refused(MetadataError::BrokerHoldsReplicas { node, replicas: 2 })
        );
        let move_away =
            |group| Reassignment { group: GroupId(group), replicas: Some(vec![NodeId(1), NodeId(3)]) };
        let partitions = vec![move_away(1), move_away(2), move_away(77)];
        assert_eq!(
            apply(&mut state, Command::Reassign { partitions: partitions.clone() }),
            Applied::Reassigned
        );
        assert_eq!(apply(&mut state, Command::Reassign { partitions }), Applied::Unchanged);
        assert_eq!(state.image().load(node).replicas, 2, "until they are elsewhere");
        let moves = vec![(GroupId(1), 1), (GroupId(2), 1)];
        assert_eq!(
            apply(&mut state, Command::CompleteMoves { moves: moves.clone() }),
            Applied::MovesCompleted
        );
        assert_eq!(apply(&mut state, Command::CompleteMoves { moves }), Applied::Unchanged);
        assert_eq!(apply(&mut state, Command::UnregisterBroker { node }), Applied::BrokerUnregistered);
        assert_eq!(state.image().voter(node), None);
        assert_eq!(
            apply(&mut state, register_with(2, 4, 2)),
            Applied::Refused(MetadataError::NotMember(node))
        );
    }

    #[test]
    fn the_last_voter_stays() {
        let voters = vec![NodeId(1)];
        let mut state = state_after(&[Command::SetClusterId { cluster_id: "x".to_owned(), voters }]);
        let refused = Applied::Refused(MetadataError::LastVoter(NodeId(1)));
        assert_eq!(apply(&mut state, Command::RemoveVoter { node: NodeId(1) }), refused);
        // One that never came does not take its place.
        assert_eq!(apply(&mut state, register_with(1, 1, 1)), Applied::BrokerRegistered);
        let add = |node| Command::AddVoter { node: NodeId(node), peer: endpoint("peer", 1) };
        assert_eq!(apply(&mut state, add(99)), Applied::VotersChanged);
        assert_eq!(apply(&mut state, Command::RemoveVoter { node: NodeId(1) }), refused);
        assert_eq!(apply(&mut state, Command::UnregisterBroker { node: NodeId(1) }), refused);
        assert_eq!(apply(&mut state, Command::RemoveVoter { node: NodeId(99) }), Applied::VotersChanged);
        assert_eq!(apply(&mut state, register_with(1, 2, 1)), Applied::BrokerRegistered);

        let mut state = cluster_of_three();
        for node in [3, 2].map(NodeId) {
            assert_eq!(apply(&mut state, Command::RemoveVoter { node }), Applied::VotersChanged);
        }
        assert_eq!(apply(&mut state, Command::RemoveVoter { node: NodeId(1) }), refused);
        // Nor does one that was replaced, before it comes with its other disk.
        assert_eq!(apply(&mut state, add(2)), Applied::VotersChanged);
        assert_eq!(apply(&mut state, Command::RemoveVoter { node: NodeId(1) }), refused);
        assert_eq!(apply(&mut state, register_with(2, 2, 9)), Applied::BrokerRegistered);
        assert_eq!(apply(&mut state, Command::RemoveVoter { node: NodeId(1) }), Applied::VotersChanged);
    }

    #[test]
    fn what_was_planned_at_the_same_time_does_not_make_the_metadata_too_large_together() {
        let mut state = cluster_of_three();
        let large = |id: u8| Command::CreateTopic {
            name: format!("large-{id}"),
            id: TopicId([id; 16]),
            partitions: vec![spec(&[1])],
            configs: vec![("name".to_owned(), "x".repeat(METADATA_BYTES_MAX / 2))],
        };
        assert!(matches!(apply(&mut state, large(7)), Applied::TopicCreated { .. }));
        let too_large = Applied::Refused(MetadataError::TooLarge);
        assert_eq!(apply(&mut state, large(8)), too_large);
        let id = TopicId([1; 16]);
        let partitions = vec![spec(&[1]); PARTITIONS_MAX - 10];
        let more = Command::CreatePartitions { id, current_count: 2, partitions };
        let alter = |bytes| Command::AlterConfigs {
            resource: ConfigResource::Topic(TopicId([7; 16])),
            set: vec![("name".to_owned(), Some("x".repeat(bytes)))],
        };
        assert_eq!(apply(&mut state, alter(METADATA_BYTES_MAX)), too_large);
        assert_eq!(apply(&mut state, alter(METADATA_BYTES_MAX - 100_000)), Applied::ConfigsAltered);
        assert_eq!(apply(&mut state, more), too_large);
        assert_eq!(apply(&mut state, alter(1)), Applied::ConfigsAltered);
    }

    #[test]
    fn the_number_of_brokers_is_bounded() {
        let mut state = MetadataState::default();
        for node in 0..BROKERS_MAX as i32 {
            assert_eq!(apply(&mut state, register(node, 1)), Applied::BrokerRegistered);
        }
        assert!(matches!(apply(&mut state, register(5_000, 1)), Applied::Refused(_)));
        assert_eq!(apply(&mut state, register(7, 2)), Applied::BrokerRegistered);
    }

    #[test]
    fn blocks_of_producer_ids_follow_each_other() {
        let mut state = MetadataState::default();
        let mut allocate = |count| apply(&mut state, Command::AllocateProducerIds { node: NodeId(1), count });
        assert_eq!(allocate(1000), Applied::ProducerIdBlock { first: ProducerId(0), count: 1000 });
        assert_eq!(allocate(1), Applied::ProducerIdBlock { first: ProducerId(1000), count: 1 });
        assert_eq!(allocate(0), Applied::Refused(MetadataError::InvalidProducerIdCount { count: 0 }));
        assert_eq!(allocate(5), Applied::ProducerIdBlock { first: ProducerId(1001), count: 5 });
    }

    #[test]
    fn configurations_reach_the_topics_they_concern() {
        let mut state = MetadataState::default();
        apply(&mut state, create("plain", 1, 1));
        apply(&mut state, create("special", 2, 1));
        let alter = |resource, name: &str, value: Option<&str>| Command::AlterConfigs {
            resource,
            set: vec![(name.to_owned(), value.map(str::to_owned))],
        };
        let special = ConfigResource::Topic(TopicId([2; 16]));
        assert_eq!(apply(&mut state, alter(special, "retention.ms", Some("5"))), Applied::ConfigsAltered);
        assert_eq!(apply(&mut state, alter(special, "retention.ms", Some("5"))), Applied::Unchanged);
        assert_eq!(apply(&mut state, alter(special, "segment.ms", None)), Applied::Unchanged);
        let before = state.image();
        let default = ConfigResource::BrokerDefault;
        apply(&mut state, alter(default, "log.retention.ms", Some("7")));
        apply(&mut state, alter(default, "num.partitions", Some("12")));

        let image = state.image();
        let retention = |image: &MetadataImage, name| image.topic(name).expect("a topic").config.retention_ms;
        assert_eq!((retention(&image, "plain"), retention(&image, "special")), (Some(7), Some(5)));
        assert_eq!(retention(&before, "plain"), Some(604_800_000), "an image never changes");
        assert_eq!(image.broker_defaults().num_partitions, 12);
        assert!(
            Arc::ptr_eq(&image.topic("plain").expect("a topic").config, image.default_topic_config()),
            "topics without overrides share one configuration"
        );
        apply(&mut state, alter(special, "retention.ms", None));
        apply(&mut state, alter(default, "log.retention.ms", None));
        let image = state.image();
        assert_eq!(
            (retention(&image, "plain"), retention(&image, "special")),
            (Some(604_800_000), Some(604_800_000))
        );
    }

    #[test]
    fn an_unchanged_image_is_the_same_and_topics_are_shared() {
        let mut state = MetadataState::default();
        apply(&mut state, create("a", 1, 1));
        apply(&mut state, create("b", 2, 1));
        let before = state.image();
        assert_eq!(before.epoch(), state.applied());
        apply(&mut state, Command::AllocateProducerIds { node: NodeId(1), count: 1 });
        assert!(Arc::ptr_eq(&before, &state.image()));
        assert!(before.epoch() < state.applied());
        apply(&mut state, Command::DeleteTopic { id: TopicId([1; 16]) });
        let after = state.image();
        let topic = |image: &MetadataImage| image.topic("b").expect("a topic").clone();
        assert!(Arc::ptr_eq(&topic(&before), &topic(&after)));
        assert_eq!((before.topic_count(), after.topic_count()), (2, 1));
        assert_eq!(after.topics_from("a").count(), 1);
    }

    #[test]
    fn static_settings_stay_with_the_node() {
        let settings = [("log.retention.ms".to_owned(), "9".to_owned())];
        let mut node = MetadataState::new(StaticSettings::new(settings).expect("valid"));
        let mut other = MetadataState::default();
        apply(&mut other, create("a", 1, 1));
        node.restore(&other.snapshot()).expect("a good snapshot");
        let retention =
            |state: &mut MetadataState| state.image().topic("a").expect("a topic").config.retention_ms;
        assert_eq!((retention(&mut node), retention(&mut other)), (Some(9), Some(604_800_000)));
        assert_eq!(node.snapshot(), other.snapshot());
    }

    proptest! {
        #[test]
        fn a_restored_node_goes_on_as_the_others_do(
            before in prop::collection::vec(any_command(), 0..60),
            after in prop::collection::vec(any_command(), 0..30),
        ) {
            let mut original = state_after(&before);
            check_image(&original.image());
            prop_assert!(original.snapshot().len() <= original.image().snapshot_bytes());
            let mut restored = state_after(&after);
            restored.restore(&original.snapshot()).expect("a good snapshot");
            prop_assert_eq!(restored.snapshot(), original.snapshot());
            prop_assert_eq!(restored.image(), original.image());
            prop_assert_eq!(restored.applied(), original.applied());
            for command in after {
                prop_assert_eq!(apply(&mut restored, command.clone()), apply(&mut original, command));
                prop_assert_eq!(restored.image(), original.image());
                check_image(&original.image());
            }
            prop_assert_eq!(restored.snapshot(), original.snapshot());
        }

        #[test]
        fn groups_and_producer_ids_are_handed_out_once(
            commands in prop::collection::vec(any_command(), 0..100),
            restore_every in 1usize..20,
        ) {
            let mut state = MetadataState::default();
            let mut seen = BTreeSet::new();
            let mut next_producer_id = 0;
            for (step, command) in commands.into_iter().enumerate() {
                let created_before = match &command {
                    Command::CreateTopic { id, .. } => state.image().topic_by_id(*id).is_some(),
                    _ => false,
                };
                match apply(&mut state, command) {
                    Applied::TopicCreated { groups } if !created_before => {
                        for group in groups {
                            prop_assert!(group != GroupId::METADATA && seen.insert(group));
                        }
                    }
                    Applied::PartitionsCreated { groups } => {
                        for group in groups {
                            prop_assert!(seen.insert(group));
                        }
                    }
                    Applied::ProducerIdBlock { first, count } => {
                        prop_assert_eq!(first.0, next_producer_id);
                        next_producer_id += i64::from(count);
                    }
                    _ => {}
                }
                if step % restore_every == 0 {
                    let snapshot = state.snapshot();
                    state = MetadataState::default();
                    state.restore(&snapshot).expect("a good snapshot");
                }
            }
        }
    }
}
