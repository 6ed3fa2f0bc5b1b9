//! What handlers share: the metadata image, the leaders, the fetch sessions.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use metadata::{Broker, MetadataImage, Partition, Topic};
use protocol::messages::ErrorCode;
use types::{GroupId, NodeId, PartitionIndex, Term, TopicId};

use crate::fetch_session::FetchSessions;
use crate::response_memory::ResponseMemory;
use crate::{BrokerConfig, PartitionError};

/// The state of one shard's broker side that outlives a request.
pub(crate) struct State {
    pub config: Arc<BrokerConfig>,
    pub image: Arc<MetadataImage>,
    pub leaders: HashMap<GroupId, KnownLeader>,
    /// The nodes that this one hears, itself among them.
    pub alive: Arc<BTreeSet<NodeId>>,
    pub sessions: FetchSessions,
    pub memory: ResponseMemory,
    /// Producer ids that this shard may give out.
    pub producer_ids: Range<i64>,
    /// A seed for ids made here; advanced with each use.
    pub seed: u64,
}

/// What is known of a group's leader.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownLeader {
    pub term: Term,
    pub leader: Option<NodeId>,
    /// As the leader said last; empty before.
    pub in_sync: Arc<[NodeId]>,
}

/// A partition that a request names, with the topic it belongs to.
pub(crate) struct Located {
    pub topic: Arc<Topic>,
    pub group: GroupId,
}

impl State {
    /// The partition of a topic named by name, or by id where the name is empty.
    pub(crate) fn locate(&self, name: &str, id: TopicId, partition: i32) -> Result<Located, ErrorCode> {
        let topic = match (name.is_empty(), id) {
            (true, TopicId::ZERO) => return Err(ErrorCode::UnknownTopicOrPartition),
            (true, id) => self.image.topic_by_id(id).ok_or(ErrorCode::UnknownTopicId)?,
            (false, _) => self.image.topic(name).ok_or(ErrorCode::UnknownTopicOrPartition)?,
        };
        let found = usize::try_from(partition).ok().and_then(|index| topic.partitions.get(index));
        let group = found.ok_or(ErrorCode::UnknownTopicOrPartition)?.group;
        Ok(Located { topic: Arc::clone(topic), group })
    }

    /// Who leads a group, once that is known, while it is alive, and where it can be told how to reach it: the word of a leader
    /// may come before the image that has its registration.
    pub(crate) fn leader(&self, group: GroupId) -> Option<(NodeId, Term)> {
        let known = self.leaders.get(&group)?;
        let may_be_told = |node: &NodeId| self.alive.contains(node) && self.image.broker(*node).is_some();
        known.leader.filter(may_be_told).map(|node| (node, known.term))
    }

    /// The error of a partition, named by topic name, topic id and number, with who leads it (KIP-951). A replica that does not
    /// lead knows that best; of a partition that has none here any more, what this node has heard is told.
    pub(crate) fn with_leader(&self, named: (&str, TopicId, i32), error: PartitionError) -> PartitionError {
        if error.code != ErrorCode::NotLeaderOrFollower || error.leader.is_some() {
            return error;
        }
        let (name, id, partition) = named;
        let heard = self.locate(name, id, partition).ok().and_then(|located| self.leader(located.group));
        // This node has just said that it is not the leader, whatever it heard before.
        PartitionError { leader: heard.filter(|(node, _)| *node != self.config.node), ..error }
    }

    /// The in-sync replicas of a partition.
    pub(crate) fn in_sync(&self, partition: &Partition) -> Vec<NodeId> {
        let said = self.leaders.get(&partition.group).map_or(&[][..], |known| &known.in_sync);
        let among = if said.is_empty() { partition.replicas.as_slice() } else { said };
        partition.brokers().into_iter().filter(|node| among.contains(node)).collect()
    }

    /// The replicas of a partition whose nodes are not alive.
    pub(crate) fn offline(&self, partition: &Partition) -> Vec<NodeId> {
        partition.brokers().into_iter().filter(|node| !self.alive.contains(node)).collect()
    }

    /// The registered brokers that are alive, which are those that clients are told.
    pub(crate) fn alive_brokers(&self) -> impl Iterator<Item = &Arc<Broker>> {
        self.image.brokers().filter(|broker| self.alive.contains(&broker.node))
    }

    /// The broker that clients may take for the controller: any registered one passes admin requests on, so it is
    /// the one that answers, once it is registered.
    pub(crate) fn controller(&self) -> Option<NodeId> {
        self.image.broker(self.config.node).map(|broker| broker.node)
    }

    /// The next value of the seed.
    pub(crate) fn next_seed(&mut self) -> u64 {
        self.seed = types::hash::mix64(self.seed);
        self.seed
    }

    /// The partition of `__consumer_offsets` that coordinates a consumer group, as Kafka places it.
    pub(crate) fn coordinator_of(&self, group_id: &str) -> Option<(PartitionIndex, GroupId)> {
        let topic = self.image.topic(OFFSETS_TOPIC)?;
        let count = i32::try_from(topic.partitions.len()).ok().filter(|count| *count > 0)?;
        // Kafka's Utils.abs clears the sign bit, so that i32::MIN has a partition too.
        let index = (types::hash::java_string_hash(group_id) & i32::MAX) % count;
        let partition = topic.partitions.get(usize::try_from(index).ok()?)?;
        Some((PartitionIndex(index), partition.group))
    }
}

/// The topic that holds consumer groups and their offsets.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";
