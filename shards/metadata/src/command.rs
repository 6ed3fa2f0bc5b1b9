//! What group 0 replicates, and what applying it gives.

use bytes::Bytes;
use types::{DirectoryId, GroupId, NodeId, ProducerId, TopicId};

use crate::error::MetadataError;
use crate::wire;

/// One change of the cluster's metadata.
///
/// A planner has validated it against an image that may be old by the time it is applied, so
/// applying it may still refuse it ([`Applied::Refused`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Names the cluster: the first command of a new one. Refused once another id is set.
    SetClusterId {
        /// The id that clients see; Kafka uses a base64 UUID (see [`crate::cluster_id_from_seed`]).
        cluster_id: String,
        /// The nodes that the cluster begins with: the first voters of the metadata group.
        voters: Vec<NodeId>,
    },
    /// Makes a broker known, or replaces what is known of it after a restart. Refused when it comes with another data
    /// directory than it was registered with: what it promised with that one, it may not have any more. Only a node that
    /// was added as a voter again since may; its replicas of partitions are then others, which are to be filled.
    RegisterBroker {
        /// The broker.
        node: NodeId,
        /// Its `broker.rack`.
        rack: Option<String>,
        /// Where it listens; the first endpoint is the one that clients are told. Never empty.
        endpoints: Vec<Endpoint>,
        /// Differs at each start of the process, so that a node can tell whether the registration
        /// in the image is its own. The last registration applied wins.
        incarnation: u64,
        /// Its data directory; `None` in logs from before there were such ids.
        directory_id: Option<DirectoryId>,
        /// Where other nodes reach it; `None` where it is alone.
        peer: Option<Endpoint>,
    },
    /// Forgets a broker, and ends its part in the metadata group (Kafka's UnregisterBroker). Refused while it holds
    /// replicas. Its configurations stay, but for that it was to be emptied.
    UnregisterBroker {
        /// The broker.
        node: NodeId,
    },
    /// Creates a topic. Groups are numbered by `apply`.
    CreateTopic {
        /// A valid topic name.
        name: String,
        /// Unique for ever.
        id: TopicId,
        /// One per partition, from partition 0 on. Never empty.
        partitions: Vec<PartitionSpec>,
        /// Overrides of topic configurations.
        configs: Vec<(String, String)>,
    },
    /// Deletes a topic with all its partitions.
    DeleteTopic {
        /// The topic.
        id: TopicId,
    },
    /// Appends partitions to a topic.
    CreatePartitions {
        /// The topic.
        id: TopicId,
        /// The number of partitions that the planner saw. Refused when there are more by now, so
        /// that two racing requests do not both add theirs.
        current_count: u32,
        /// One per new partition. Never empty.
        partitions: Vec<PartitionSpec>,
    },
    /// Sets and resets configurations of one resource.
    AlterConfigs {
        /// Whose configurations.
        resource: ConfigResource,
        /// Name and new value; `None` removes the override, so that the default holds again.
        set: Vec<(String, Option<String>)>,
    },
    /// Reserves a block of producer ids, never to be handed out again (KIP-730).
    AllocateProducerIds {
        /// The broker that will hand them out.
        node: NodeId,
        /// How many, at least 1.
        count: u32,
    },
    /// Decides where the replicas of partitions are to be (Kafka's AlterPartitionReassignments). Their leaders carry it out.
    Reassign {
        /// The partitions; those that are gone by now are passed over.
        partitions: Vec<Reassignment>,
    },
    /// The replicas of partitions are where they were to be, as their leaders say.
    CompleteMoves {
        /// The groups, each with the number of the decision that was carried out. Passed over where there is a newer one.
        moves: Vec<(GroupId, u32)>,
    },
    /// Replicas lie evenly on the brokers again, those that joined included.
    FinishRebalance,
    /// Adds a node to the metadata group, from where it learns of everything (Kafka's AddRaftVoter). Refused where it is one
    /// already.
    AddVoter {
        /// The node.
        node: NodeId,
        /// Where the others reach it.
        peer: Endpoint,
    },
    /// Takes a node out of the metadata group (Kafka's RemoveRaftVoter). Its registration and its replicas stay: it is
    /// expected to be added again, perhaps with another data directory.
    RemoveVoter {
        /// The node.
        node: NodeId,
    },
}

/// Where the replicas of one partition are to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassignment {
    /// The partition's group.
    pub group: GroupId,
    /// The brokers, each once, the preferred leader first; `None` for where they were before they began to move.
    pub replicas: Option<Vec<NodeId>>,
}

/// The address of one listener of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The listener's name, such as `PLAINTEXT`.
    pub listener: String,
    /// A host name or an address, as clients should connect to it.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

/// Where one new partition's replicas go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionSpec {
    /// The brokers, each once; the first is the preferred leader and campaigns first. Never empty.
    pub replicas: Vec<NodeId>,
}

/// Whose configurations are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigResource {
    /// One topic, by id: a topic that was deleted and created again is another one.
    Topic(TopicId),
    /// One broker.
    Broker(NodeId),
    /// The dynamic defaults of all brokers (resource BROKER with an empty name).
    BrokerDefault,
}

/// The outcome of one command, the same on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The cluster has its id.
    ClusterIdSet,
    /// The broker is known.
    BrokerRegistered,
    /// The broker is forgotten.
    BrokerUnregistered,
    /// The topic exists. Also the answer to a repetition of the very command that created it.
    TopicCreated {
        /// The groups of its partitions, in order.
        groups: Vec<GroupId>,
    },
    /// The topic is gone.
    TopicDeleted {
        /// The groups that its partitions had.
        groups: Vec<GroupId>,
    },
    /// The topic has more partitions.
    PartitionsCreated {
        /// The groups of the new ones, in order.
        groups: Vec<GroupId>,
    },
    /// The configurations are as asked.
    ConfigsAltered,
    /// It is decided where the replicas are to be.
    Reassigned,
    /// The moves are recorded.
    MovesCompleted,
    /// No broker waits for its share any more.
    RebalanceFinished,
    /// The voters of the metadata group are to be others.
    VotersChanged,
    /// `count` producer ids from `first` on belong to the broker that asked.
    ProducerIdBlock {
        /// The first id of the block.
        first: ProducerId,
        /// The number of ids.
        count: u32,
    },
    /// Everything was as the command wanted it.
    Unchanged,
    /// The command conflicts with one that came before it; nothing changed.
    Refused(MetadataError),
}

impl Command {
    /// The bytes to replicate.
    pub fn encode(&self) -> Bytes {
        wire::encode_command(self)
    }

    /// Reads what [`Command::encode`] wrote, of this release or another one: unknown fields are
    /// ignored.
    ///
    /// # Errors
    ///
    /// `MalformedCommand`, `InvalidField`, and `UnknownCommandKind` for a command that this release
    /// does not know; the node must not apply anything after it.
    pub fn decode(bytes: &[u8]) -> Result<Command, MetadataError> {
        wire::decode_command(bytes)
    }
}
