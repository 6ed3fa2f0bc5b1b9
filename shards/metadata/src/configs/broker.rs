//! Broker configurations that can be set at run time.

use types::limits::{PARTITIONS_MAX, SEGMENT_BYTES_MIN};

use super::{Accepts, ConfigDefinition, ConfigType, MESSAGE_BYTES_MAX};

const INT_MAX: i64 = i32::MAX as i64;
const LONG_MAX: i64 = i64::MAX;

/// Whether a broker is to be emptied.
pub const BROKER_DRAINING: &str = "broker.draining";

/// What a broker may send, and pull, of replicas that are throttled (KIP-73).
pub const LEADER_THROTTLED_RATE: &str = "leader.replication.throttled.rate";
pub const FOLLOWER_THROTTLED_RATE: &str = "follower.replication.throttled.rate";

/// For whom a broker configuration may be set at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// For all brokers together.
    Cluster,
    /// For one broker alone.
    Broker,
    /// For all brokers, and for one otherwise.
    Either,
}

/// For whom one of [`BROKER_CONFIGS`] may be set.
pub(crate) fn scope(name: &str) -> Scope {
    match name {
        BROKER_DRAINING => Scope::Broker,
        LEADER_THROTTLED_RATE | FOLLOWER_THROTTLED_RATE => Scope::Either,
        _ => Scope::Cluster,
    }
}

/// Every such configuration, in alphabetic order. Names and defaults are those of Kafka 4.3.
pub static BROKER_CONFIGS: &[ConfigDefinition] = &[
    ConfigDefinition {
        name: "auto.create.topics.enable",
        kind: ConfigType::Boolean,
        default: Some("true"),
        accepts: Accepts::AnyBoolean,
        synonyms: &[],
        documentation: "Whether a topic is created when a client asks for the metadata of one that does not exist.",
    },
    ConfigDefinition {
        name: BROKER_DRAINING,
        kind: ConfigType::Boolean,
        default: Some("false"),
        accepts: Accepts::AnyBoolean,
        synonyms: &[],
        documentation: "Whether the broker is to be emptied: it gets no new replicas while there are enough other brokers.",
    },
    ConfigDefinition {
        name: "default.replication.factor",
        kind: ConfigType::Int,
        default: Some("1"),
        accepts: Accepts::Integer { min: 1, max: i16::MAX as i64 },
        synonyms: &[],
        documentation: "The replication factor of topics that are created without one.",
    },
    ConfigDefinition {
        name: FOLLOWER_THROTTLED_RATE,
        kind: ConfigType::Long,
        default: Some("9223372036854775807"),
        accepts: Accepts::Integer { min: 0, max: LONG_MAX },
        synonyms: &[],
        documentation: "Bytes per second that the replicas named by follower.replication.throttled.replicas of their topics pull on the broker, all together.",
    },
    ConfigDefinition {
        name: LEADER_THROTTLED_RATE,
        kind: ConfigType::Long,
        default: Some("9223372036854775807"),
        accepts: Accepts::Integer { min: 0, max: LONG_MAX },
        synonyms: &[],
        documentation: "Bytes per second that the broker sends to replicas that pull from those named by leader.replication.throttled.replicas of their topics, all together.",
    },
    ConfigDefinition {
        name: "log.message.timestamp.after.max.ms",
        kind: ConfigType::Long,
        default: Some("3600000"),
        accepts: Accepts::Integer { min: 0, max: LONG_MAX },
        synonyms: &[],
        documentation: "The default of message.timestamp.after.max.ms.",
    },
    ConfigDefinition {
        name: "log.message.timestamp.before.max.ms",
        kind: ConfigType::Long,
        default: Some("9223372036854775807"),
        accepts: Accepts::Integer { min: 0, max: LONG_MAX },
        synonyms: &[],
        documentation: "The default of message.timestamp.before.max.ms.",
    },
    ConfigDefinition {
        name: "log.message.timestamp.type",
        kind: ConfigType::String,
        default: Some("CreateTime"),
        accepts: Accepts::OneOf(&["CreateTime", "LogAppendTime"]),
        synonyms: &[],
        documentation: "The default of message.timestamp.type.",
    },
    ConfigDefinition {
        name: "log.retention.bytes",
        kind: ConfigType::Long,
        default: Some("-1"),
        accepts: Accepts::Integer { min: -1, max: LONG_MAX },
        synonyms: &[],
        documentation: "The default of retention.bytes.",
    },
    ConfigDefinition {
        name: "log.retention.hours",
        kind: ConfigType::Int,
        default: Some("168"),
        accepts: Accepts::Integer { min: -1, max: INT_MAX },
        synonyms: &[],
        documentation: "The default of retention.ms, in hours. Gives way to log.retention.minutes and log.retention.ms.",
    },
    ConfigDefinition {
        name: "log.retention.minutes",
        kind: ConfigType::Int,
        default: None,
        accepts: Accepts::Integer { min: -1, max: INT_MAX },
        synonyms: &[],
        documentation: "The default of retention.ms, in minutes. Gives way to log.retention.ms.",
    },
    ConfigDefinition {
        name: "log.retention.ms",
        kind: ConfigType::Long,
        default: None,
        accepts: Accepts::Integer { min: -1, max: LONG_MAX },
        synonyms: &[],
        documentation: "The default of retention.ms.",
    },
    ConfigDefinition {
        name: "log.roll.hours",
        kind: ConfigType::Int,
        default: Some("168"),
        accepts: Accepts::Integer { min: 1, max: INT_MAX },
        synonyms: &[],
        documentation: "The default of segment.ms, in hours. Gives way to log.roll.ms.",
    },
    ConfigDefinition {
        name: "log.roll.ms",
        kind: ConfigType::Long,
        default: None,
        accepts: Accepts::Integer { min: 1, max: LONG_MAX },
        synonyms: &[],
        documentation: "The default of segment.ms.",
    },
    ConfigDefinition {
        name: "log.segment.bytes",
        kind: ConfigType::Int,
        default: Some("1073741824"),
        accepts: Accepts::Integer { min: SEGMENT_BYTES_MIN as i64, max: INT_MAX },
        synonyms: &[],
        documentation: "The default of segment.bytes.",
    },
    ConfigDefinition {
        name: "message.max.bytes",
        kind: ConfigType::Int,
        default: Some("1048588"),
        accepts: Accepts::Integer { min: 1, max: MESSAGE_BYTES_MAX },
        synonyms: &[],
        documentation: "The default of max.message.bytes.",
    },
    ConfigDefinition {
        name: "min.insync.replicas",
        kind: ConfigType::Int,
        default: Some("1"),
        accepts: Accepts::Integer { min: 1, max: INT_MAX },
        synonyms: &[],
        documentation: "The default of the topic configuration of the same name.",
    },
    ConfigDefinition {
        name: "num.partitions",
        kind: ConfigType::Int,
        default: Some("1"),
        accepts: Accepts::Integer { min: 1, max: PARTITIONS_MAX as i64 },
        synonyms: &[],
        documentation: "The number of partitions of topics that are created without one.",
    },
];
