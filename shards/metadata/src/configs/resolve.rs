//! Effective values: topic override, then what brokers set, then the built-in default.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::describe::ConfigSource;
use super::{ConfigDefinition, TOPIC_CONFIGS, ThrottledReplicas, broker_config, topic_config};
use crate::error::MetadataError;
use crate::image::MetadataImage;

/// What happens to old segments (`cleanup.policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CleanupPolicy {
    /// Segments beyond the retention go.
    Delete,
    /// Only the last record of each key stays.
    Compact,
    /// Both.
    CompactAndDelete,
}

impl CleanupPolicy {
    /// Reads a value of `cleanup.policy`; `None` for any other word and for an empty list.
    pub fn parse(value: &str) -> Option<CleanupPolicy> {
        let (mut compact, mut delete) = (false, false);
        for word in value.split(',') {
            match word.trim() {
                "compact" => compact = true,
                "delete" => delete = true,
                _ => return None,
            }
        }
        match (compact, delete) {
            (true, true) => Some(CleanupPolicy::CompactAndDelete),
            (true, false) => Some(CleanupPolicy::Compact),
            (false, true) => Some(CleanupPolicy::Delete),
            (false, false) => None,
        }
    }
}

/// Whose clock stamps records (`message.timestamp.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The leader's, when it appends.
    LogAppendTime,
}

/// The effective configuration of one topic on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// `cleanup.policy`.
    pub cleanup_policy: CleanupPolicy,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// `follower.replication.throttled.replicas`.
    pub follower_throttled_replicas: ThrottledReplicas,
    /// `leader.replication.throttled.replicas`.
    pub leader_throttled_replicas: ThrottledReplicas,
    /// `max.compaction.lag.ms`.
    pub max_compaction_lag_ms: i64,
    /// `max.message.bytes`: the largest batch, 1 byte to 16 MiB.
    pub max_message_bytes: usize,
    /// `message.timestamp.after.max.ms`; `i64::MAX` for no bound.
    pub message_timestamp_after_max_ms: i64,
    /// `message.timestamp.before.max.ms`; `i64::MAX` for no bound.
    pub message_timestamp_before_max_ms: i64,
    /// `message.timestamp.type`.
    pub message_timestamp_type: TimestampType,
    /// `min.compaction.lag.ms`.
    pub min_compaction_lag_ms: i64,
    /// `min.insync.replicas`, at least 1.
    pub min_insync_replicas: usize,
    /// `retention.bytes`; `None` for no bound.
    pub retention_bytes: Option<u64>,
    /// `retention.ms`; `None` for no bound.
    pub retention_ms: Option<i64>,
    /// `segment.bytes`, 1 MiB to 2 GiB.
    pub segment_bytes: u32,
    /// `segment.ms`, at least 1.
    pub segment_ms: i64,
}

/// The effective broker configurations that decide how topics are created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerDefaults {
    /// `auto.create.topics.enable`.
    pub auto_create_topics_enable: bool,
    /// `default.replication.factor`, 1 to 32,767.
    pub default_replication_factor: i16,
    /// `num.partitions`, at least 1.
    pub num_partitions: i32,
}

/// What this process was started with, by Kafka's names: effective settings for DescribeConfigs, and
/// defaults beneath the dynamic ones. Each node has its own; they are not replicated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaticSettings(Arc<BTreeMap<String, String>>);

impl StaticSettings {
    /// Takes the settings of this process. A name that is in the catalogue, or stands behind a topic
    /// configuration, takes effect; any other is only shown.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for a value that the catalogue does not accept.
    pub fn new(settings: impl IntoIterator<Item = (String, String)>) -> Result<Self, MetadataError> {
        let mut checked = BTreeMap::new();
        for (name, value) in settings {
            let value = match broker_config(&name) {
                Some(definition) => definition.validate(&value)?,
                None => {
                    check_fixed_synonym(&name, &value)?;
                    value
                }
            };
            checked.insert(name, value);
        }
        Ok(StaticSettings(Arc::new(checked)))
    }

    pub(super) fn get(&self, name: &str) -> Option<&String> {
        self.0.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter()
    }
}

/// `log.cleanup.policy` and its like give topics their defaults although they cannot be altered at run time.
fn check_fixed_synonym(name: &str, value: &str) -> Result<(), MetadataError> {
    for definition in TOPIC_CONFIGS {
        if definition.synonyms.iter().any(|synonym| synonym.name == name) {
            definition.validate(value).map_err(|error| match error {
                MetadataError::InvalidConfig { reason, .. } => {
                    MetadataError::InvalidConfig { name: name.to_owned(), reason }
                }
                other => other,
            })?;
        }
    }
    Ok(())
}

/// The broker-level values beneath a topic's overrides.
#[derive(Clone, Copy)]
pub(crate) struct BrokerLayers<'a> {
    pub(crate) dynamic_default: &'a BTreeMap<String, String>,
    pub(crate) static_settings: &'a StaticSettings,
}

/// One value that would hold if those before it were not set.
pub(super) struct Layer {
    pub(super) name: &'static str,
    /// As it was set, in the unit of `name`.
    pub(super) value: String,
    /// In the unit of the configuration that is resolved.
    pub(super) effective: String,
    pub(super) source: ConfigSource,
}

/// All values of a topic configuration, the effective one first. Never empty: the built-in default is the last.
pub(super) fn topic_layers(
    definition: &'static ConfigDefinition,
    overrides: &BTreeMap<String, String>,
    brokers: BrokerLayers<'_>,
) -> Vec<Layer> {
    let mut layers = Vec::new();
    if let Some(value) = overrides.get(definition.name).and_then(|value| definition.read(value)) {
        let effective = value.clone();
        layers.push(Layer { name: definition.name, value, effective, source: ConfigSource::Topic });
    }
    // Name by name and not source by source: Kafka merges the sources of each broker configuration
    // before the finer unit beats the coarser one.
    for synonym in definition.synonyms {
        let sources = [
            (brokers.dynamic_default.get(synonym.name), ConfigSource::DynamicDefaultBroker),
            (brokers.static_settings.get(synonym.name), ConfigSource::StaticBroker),
        ];
        for (value, source) in sources {
            let Some(value) = value else { continue };
            let Some(effective) = definition.read(&scaled(value, synonym.unit)) else { continue };
            layers.push(Layer { name: synonym.name, value: value.clone(), effective, source });
        }
    }
    layers.push(built_in_layer(definition));
    layers
}

/// The effective value of one topic configuration, as text.
pub(crate) fn effective_topic_value(
    definition: &'static ConfigDefinition,
    overrides: &BTreeMap<String, String>,
    image: &MetadataImage,
) -> String {
    topic_layers(definition, overrides, image.broker_layers()).swap_remove(0).effective
}

fn built_in_layer(definition: &'static ConfigDefinition) -> Layer {
    let effective = definition.default.expect("every topic configuration has a default");
    // The last synonym is the one that has a default of its own where several units compete.
    let (name, value) = match definition.synonyms.last() {
        Some(synonym) => {
            let own = broker_config(synonym.name).and_then(|broker| broker.default);
            (synonym.name, own.unwrap_or(effective))
        }
        None => (definition.name, effective),
    };
    Layer { name, value: value.to_owned(), effective: effective.to_owned(), source: ConfigSource::Default }
}

fn scaled(value: &str, unit: i64) -> String {
    match value.parse::<i64>() {
        Ok(number) if unit != 1 && number >= 0 => number.saturating_mul(unit).to_string(),
        _ => value.to_owned(),
    }
}

/// All values of a broker configuration, the effective one first; empty if it is not set and has no default.
pub(super) fn broker_layers(
    definition: &'static ConfigDefinition,
    dynamic: Option<&BTreeMap<String, String>>,
    brokers: BrokerLayers<'_>,
) -> Vec<Layer> {
    let name = definition.name;
    let sources = [
        (dynamic.and_then(|configs| configs.get(name)), ConfigSource::DynamicBroker),
        (brokers.dynamic_default.get(name), ConfigSource::DynamicDefaultBroker),
        (brokers.static_settings.get(name), ConfigSource::StaticBroker),
    ];
    let set = sources.into_iter().filter_map(|(value, source)| Some((definition.read(value?)?, source)));
    let default = definition.default.map(|value| (value.to_owned(), ConfigSource::Default));
    set.chain(default)
        .map(|(value, source)| Layer { name, effective: value.clone(), value, source })
        .collect()
}

impl TopicConfig {
    pub(crate) fn resolve(overrides: &BTreeMap<String, String>, brokers: BrokerLayers<'_>) -> TopicConfig {
        let text = |name: &str| {
            let definition = topic_config(name).expect("a name of the catalogue");
            topic_layers(definition, overrides, brokers).swap_remove(0).effective
        };
        let number = |name: &str| text(name).parse::<i64>().expect("an integer that was read as one");
        let bound = |name: &str| Some(number(name)).filter(|bound| *bound >= 0);
        let replicas =
            |name: &str| ThrottledReplicas::parse(&text(name)).expect("a list that was read as one");
        TopicConfig {
            cleanup_policy: CleanupPolicy::parse(&text("cleanup.policy")).unwrap_or(CleanupPolicy::Delete),
            delete_retention_ms: number("delete.retention.ms"),
            follower_throttled_replicas: replicas("follower.replication.throttled.replicas"),
            leader_throttled_replicas: replicas("leader.replication.throttled.replicas"),
            max_compaction_lag_ms: number("max.compaction.lag.ms"),
            max_message_bytes: unsigned(number("max.message.bytes")),
            message_timestamp_after_max_ms: number("message.timestamp.after.max.ms"),
            message_timestamp_before_max_ms: number("message.timestamp.before.max.ms"),
            message_timestamp_type: match text("message.timestamp.type").as_str() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            min_compaction_lag_ms: number("min.compaction.lag.ms"),
            min_insync_replicas: unsigned(number("min.insync.replicas")),
            retention_bytes: bound("retention.bytes").map(unsigned),
            retention_ms: bound("retention.ms"),
            segment_bytes: unsigned(number("segment.bytes")),
            segment_ms: number("segment.ms"),
        }
    }
}

impl BrokerDefaults {
    pub(crate) fn resolve(brokers: BrokerLayers<'_>) -> BrokerDefaults {
        let text = |name: &str| {
            let definition = broker_config(name).expect("a name of the catalogue");
            broker_layers(definition, None, brokers).swap_remove(0).effective
        };
        let number = |name: &str| text(name).parse::<i64>().expect("an integer that was read as one");
        BrokerDefaults {
            auto_create_topics_enable: text("auto.create.topics.enable") == "true",
            default_replication_factor: unsigned(number("default.replication.factor")),
            num_partitions: unsigned(number("num.partitions")),
        }
    }
}

/// A number that its definition bounds to what `T` holds.
fn unsigned<T: TryFrom<i64>>(number: i64) -> T {
    T::try_from(number).ok().expect("the catalogue bounds every integer")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn resolve(topic: &[(&str, &str)], dynamic: &[(&str, &str)], fixed: &[(&str, &str)]) -> TopicConfig {
        let static_settings = StaticSettings::new(map(fixed)).expect("valid settings");
        let layers = BrokerLayers { dynamic_default: &map(dynamic), static_settings: &static_settings };
        TopicConfig::resolve(&map(topic), layers)
    }

    #[test]
    fn defaults_are_those_of_kafka() {
        assert_eq!(
            resolve(&[], &[], &[]),
            TopicConfig {
                cleanup_policy: CleanupPolicy::Delete,
                delete_retention_ms: 86_400_000,
                follower_throttled_replicas: ThrottledReplicas::Listed(BTreeSet::new()),
                leader_throttled_replicas: ThrottledReplicas::Listed(BTreeSet::new()),
                max_compaction_lag_ms: i64::MAX,
                max_message_bytes: 1_048_588,
                message_timestamp_after_max_ms: 3_600_000,
                message_timestamp_before_max_ms: i64::MAX,
                message_timestamp_type: TimestampType::CreateTime,
                min_compaction_lag_ms: 0,
                min_insync_replicas: 1,
                retention_bytes: None,
                retention_ms: Some(604_800_000),
                segment_bytes: 1 << 30,
                segment_ms: 604_800_000,
            }
        );
    }

    #[test]
    fn the_topic_beats_the_dynamic_default_beats_the_static_setting() {
        let retention = |topic: &[_], dynamic: &[_], fixed: &[_]| resolve(topic, dynamic, fixed).retention_ms;
        assert_eq!(retention(&[], &[], &[("log.retention.ms", "3")]), Some(3));
        assert_eq!(retention(&[], &[("log.retention.ms", "2")], &[("log.retention.ms", "3")]), Some(2));
        assert_eq!(retention(&[("retention.ms", "1")], &[("log.retention.ms", "2")], &[]), Some(1));
        assert_eq!(retention(&[("retention.ms", "-1")], &[("log.retention.ms", "2")], &[]), None);
    }

    #[test]
    fn the_finer_unit_beats_the_coarser_whatever_its_source() {
        let retention = |dynamic: &[_], fixed: &[_]| resolve(&[], dynamic, fixed).retention_ms;
        assert_eq!(retention(&[("log.retention.hours", "2")], &[]), Some(7_200_000));
        assert_eq!(retention(&[("log.retention.hours", "-1")], &[]), None);
        assert_eq!(
            retention(&[("log.retention.hours", "2")], &[("log.retention.minutes", "1")]),
            Some(60_000)
        );
        assert_eq!(retention(&[("log.retention.minutes", "1"), ("log.retention.ms", "5")], &[]), Some(5));
    }

    #[test]
    fn values_that_this_release_cannot_use_give_way() {
        let config = resolve(
            &[
                ("segment.bytes", "12"),
                ("retention.ms", "soon"),
                ("cleanup.policy", "shred"),
                ("from.the.future", "1"),
            ],
            &[("message.max.bytes", "2147483647"), ("log.roll.hours", "9223372036854775807")],
            &[],
        );
        assert_eq!(config, TopicConfig { segment_ms: i64::MAX, ..resolve(&[], &[], &[]) });
    }

    #[test]
    fn the_brokers_own_topics_may_be_compacted() {
        let policy = |value| resolve(&[("cleanup.policy", value)], &[], &[]).cleanup_policy;
        assert_eq!(policy("compact"), CleanupPolicy::Compact);
        assert_eq!(policy("compact,delete"), CleanupPolicy::CompactAndDelete);
        assert_eq!(policy("delete"), CleanupPolicy::Delete);
    }

    #[test]
    fn static_settings_are_checked_where_they_take_effect() {
        let new =
            |name: &str, value: &str| StaticSettings::new(map(&[(name, value)])).map_err(|e| e.to_string());
        assert!(new("listeners", "anything").is_ok());
        assert!(new("num.partitions", "0").is_err());
        assert!(new("log.cleanup.policy", "delete").is_ok());
        assert!(new("log.cleanup.policy", "compact").expect_err("refused").contains("log.cleanup.policy"));
    }
}
