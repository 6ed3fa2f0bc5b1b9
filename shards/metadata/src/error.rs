//! The errors of this crate and the Kafka code of each.

use protocol::ErrorCode;
use types::limits::TOPIC_NAME_CHARS_MAX;
use types::{DirectoryId, NodeId, TopicId};

use crate::topic_id::topic_id_text;

/// Why a command, a snapshot or a request was refused. Names in its words are as long as a topic's may be and no longer,
/// whatever a client asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// The bytes of a command are not a protobuf message of the expected shape.
    #[error("metadata command is malformed: {0}")]
    MalformedCommand(prost::DecodeError),
    /// The command was written by a newer release; a node that meets it in its log cannot go on.
    #[error("metadata command of unknown kind {0}: this release is too old for the cluster's metadata log")]
    UnknownCommandKind(u32),
    /// A field of a command or snapshot holds what no node writes.
    #[error("metadata field {field} is invalid: {reason}")]
    InvalidField {
        /// The field, as `Message.field`.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The bytes of a snapshot are not a protobuf message of the expected shape.
    #[error("metadata snapshot is malformed: {0}")]
    MalformedSnapshot(prost::DecodeError),
    /// The snapshot was written by a newer release.
    #[error("metadata snapshot has format {0}: this release is too old for it")]
    UnsupportedSnapshotFormat(u32),

    /// The cluster already has another id.
    #[error("the cluster id is already {0}")]
    ClusterIdAlreadySet(String),
    /// No such broker.
    #[error("broker {0} is not registered")]
    BrokerNotRegistered(NodeId),
    /// A broker that clients could not reach, or one more than the cluster may have.
    #[error("registration of broker {node} is invalid: {reason}")]
    InvalidRegistration {
        /// The broker.
        node: NodeId,
        /// What is wrong.
        reason: &'static str,
    },
    /// The broker comes with a data directory that it was not registered with: one that was emptied, or belongs elsewhere.
    #[error("broker {node} is registered with the data directory {registered}, not with another")]
    OtherDirectory {
        /// The broker.
        node: NodeId,
        /// The directory that holds what the broker has promised.
        registered: DirectoryId,
    },
    /// A node that is none of the cluster's wants to register.
    #[error("node {0} is none of this cluster: add it first (`chronik-server cluster add-node`)")]
    NotMember(NodeId),
    /// The node is in the metadata group already.
    #[error("node {0} is a voter already")]
    DuplicateVoter(NodeId),
    /// The node is not in the metadata group.
    #[error("node {0} is no voter")]
    VoterNotFound(NodeId),
    /// The metadata group would have nobody left, or only nodes that never came.
    #[error(
        "node {0} is the last voter that has joined the cluster: one that was added, or removed and added again, joins when it is started"
    )]
    LastVoter(NodeId),
    /// The broker holds replicas, which would be lost with it.
    #[error("broker {node} holds {replicas} replicas: move them first (`chronik-server cluster drain`)")]
    BrokerHoldsReplicas {
        /// The broker.
        node: NodeId,
        /// How many.
        replicas: u32,
    },
    /// No such partition of the topic.
    #[error("topic \"{}\" has no partition {partition}", shown_name(.topic))]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// The number asked for.
        partition: i32,
    },
    /// There is nothing to cancel.
    #[error("the partition's replicas do not move")]
    NoReassignmentInProgress,
    /// A block of producer ids that is empty or beyond what is left of the number space.
    #[error("cannot allocate {count} producer ids")]
    InvalidProducerIdCount {
        /// How many were asked for.
        count: u32,
    },

    /// The name breaks Kafka's rules for topic names.
    #[error("topic name \"{}\" is invalid: {reason}", shown_name(.name))]
    InvalidTopicName {
        /// The name asked for.
        name: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// Metric names replace '.' by '_', so two such names may not stand side by side.
    #[error(
        "topic name \"{}\" collides with the existing topic \"{}\": '.' and '_' are not told apart",
        shown_name(.name),
        shown_name(.existing)
    )]
    TopicNameCollision {
        /// The name asked for.
        name: String,
        /// The topic that stands in its way.
        existing: String,
    },
    /// The topic belongs to the broker itself.
    #[error("topic \"{}\" is internal: {reason}", shown_name(.name))]
    InternalTopic {
        /// The topic.
        name: String,
        /// What is not allowed.
        reason: &'static str,
    },
    /// A topic of this name (or, practically impossible, this id) exists.
    #[error("topic \"{}\" already exists", shown_name(.0))]
    TopicExists(String),
    /// No topic of this name.
    #[error("topic \"{}\" does not exist", shown_name(.0))]
    UnknownTopic(String),
    /// No topic of this id; it may have been deleted meanwhile.
    #[error("topic id {} does not exist", topic_id_text(*.0))]
    UnknownTopicId(TopicId),

    /// `num_partitions`, or the new `count` of CreatePartitions.
    #[error("the number of partitions is invalid: {0}")]
    InvalidPartitions(String),
    /// `replication_factor`.
    #[error("the replication factor is invalid: {0}")]
    InvalidReplicationFactor(String),
    /// `assignments`.
    #[error("the replica assignment is invalid: {0}")]
    InvalidReplicaAssignment(String),
    /// A configuration that does not exist, or a value that it does not accept.
    #[error("configuration {}: {reason}", shown_name(.name))]
    InvalidConfig {
        /// The configuration.
        name: String,
        /// Why it is refused.
        reason: String,
    },
    /// All nodes hold the metadata, and send it to each other.
    #[error(
        "the cluster's metadata would be too large to be sent whole: it has too many partitions, too many that move, or topics with too long configurations"
    )]
    TooLarge,
    /// Fields that contradict each other.
    #[error("the request is invalid: {0}")]
    InvalidRequest(String),
}

impl MetadataError {
    /// The Kafka error code that a client is told. Damage to our own log or snapshot is
    /// `UNKNOWN_SERVER_ERROR`.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            MetadataError::MalformedCommand(_)
            | MetadataError::UnknownCommandKind(_)
            | MetadataError::InvalidField { .. }
            | MetadataError::MalformedSnapshot(_)
            | MetadataError::UnsupportedSnapshotFormat(_)
            | MetadataError::InvalidProducerIdCount { .. } => ErrorCode::UnknownServerError,
            MetadataError::ClusterIdAlreadySet(_) => ErrorCode::InconsistentClusterId,
            MetadataError::BrokerNotRegistered(_) => ErrorCode::BrokerIdNotRegistered,
            MetadataError::InvalidRegistration { .. }
            | MetadataError::OtherDirectory { .. }
            | MetadataError::NotMember(_) => ErrorCode::InvalidRegistration,
            MetadataError::DuplicateVoter(_) => ErrorCode::DuplicateVoter,
            MetadataError::VoterNotFound(_) => ErrorCode::VoterNotFound,
            MetadataError::LastVoter(_) | MetadataError::BrokerHoldsReplicas { .. } => {
                ErrorCode::InvalidRequest
            }
            MetadataError::NoReassignmentInProgress => ErrorCode::NoReassignmentInProgress,
            MetadataError::InvalidTopicName { .. }
            | MetadataError::TopicNameCollision { .. }
            | MetadataError::InternalTopic { .. } => ErrorCode::InvalidTopicException,
            MetadataError::TopicExists(_) => ErrorCode::TopicAlreadyExists,
            MetadataError::UnknownTopic(_) | MetadataError::UnknownPartition { .. } => {
                ErrorCode::UnknownTopicOrPartition
            }
            MetadataError::UnknownTopicId(_) => ErrorCode::UnknownTopicId,
            MetadataError::InvalidPartitions(_) => ErrorCode::InvalidPartitions,
            MetadataError::InvalidReplicationFactor(_) => ErrorCode::InvalidReplicationFactor,
            MetadataError::InvalidReplicaAssignment(_) => ErrorCode::InvalidReplicaAssignment,
            MetadataError::InvalidConfig { .. } => ErrorCode::InvalidConfig,
            MetadataError::TooLarge => ErrorCode::PolicyViolation,
            MetadataError::InvalidRequest(_) => ErrorCode::InvalidRequest,
        }
    }
}

/// A name from outside, fit for a message: whole where a topic could have it, and never longer than that by more than the
/// dots that say that it was cut, with what a line cannot show escaped.
pub(crate) fn shown_name(name: &str) -> String {
    let mut shown = String::new();
    for character in name.chars() {
        let escaped = character.escape_debug();
        if shown.len() + escaped.clone().map(char::len_utf8).sum::<usize>() > TOPIC_NAME_CHARS_MAX {
            return shown + "...";
        }
        shown.extend(escaped);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_do_not_grow_with_the_names_in_them() {
        let longest = "a".repeat(TOPIC_NAME_CHARS_MAX);
        for name in ["", "orders", &longest] {
            assert_eq!(shown_name(name), name);
        }
        assert_eq!(shown_name("a\n\"b\""), r#"a\n\"b\""#);
        for unit in ["a", "\"", "\0", "\u{200b}", "\u{10ffff}", "ü", "🦀"] {
            let name = || unit.repeat(32_767 / unit.len());
            assert!(shown_name(&name()).len() <= TOPIC_NAME_CHARS_MAX + 3, "{unit:?}");
            let reason = "it is so";
            for error in [
                MetadataError::UnknownTopic(name()),
                MetadataError::TopicExists(name()),
                MetadataError::UnknownPartition { topic: name(), partition: i32::MIN },
                MetadataError::InvalidTopicName { name: name(), reason },
                MetadataError::InternalTopic { name: name(), reason },
                MetadataError::InvalidConfig { name: name(), reason: reason.to_owned() },
            ] {
                assert!(error.to_string().len() < TOPIC_NAME_CHARS_MAX + 100, "{error}");
            }
        }
    }
}
