//! DescribeConfigs as plain data (KIP-226, KIP-569).

use types::NodeId;

use super::resolve::{Layer, broker_layers, topic_layers};
use super::{BROKER_CONFIGS, ConfigType, TOPIC_CONFIGS, broker_config};
use crate::image::{MetadataImage, Topic};

/// Where a value comes from, with the number that DescribeConfigs gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigSource {
    /// Set for this topic.
    Topic = 1,
    /// Set at run time for one broker.
    DynamicBroker = 2,
    /// Set at run time for all brokers.
    DynamicDefaultBroker = 3,
    /// Given to the process when it started.
    StaticBroker = 4,
    /// Built in.
    Default = 5,
}

/// One configuration of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its name.
    pub name: String,
    /// The effective value; `None` if it has none or is sensitive.
    pub value: Option<String>,
    /// Where the effective value comes from.
    pub source: ConfigSource,
    /// Whether it cannot be set to another value.
    pub read_only: bool,
    /// Whether it is a secret.
    pub sensitive: bool,
    /// All values that are set, the effective one first.
    pub synonyms: Vec<ConfigSynonym>,
    /// The type of the value.
    pub kind: ConfigType,
    /// What it does, for people; empty for a setting of the process.
    pub documentation: &'static str,
}

/// A value that holds, or would hold if those before it were not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSynonym {
    /// The configuration by which it was set.
    pub name: String,
    /// The value, in the unit of `name`; `None` if it is sensitive.
    pub value: Option<String>,
    /// Where it was set.
    pub source: ConfigSource,
}

/// Every configuration of a topic, by name.
pub fn describe_topic(image: &MetadataImage, topic: &Topic) -> Vec<ConfigEntry> {
    TOPIC_CONFIGS
        .iter()
        .map(|definition| {
            let layers = topic_layers(definition, &topic.configs, image.broker_layers());
            ConfigEntry {
                name: definition.name.to_owned(),
                value: Some(layers[0].effective.clone()),
                source: layers[0].source,
                read_only: definition.is_fixed(),
                sensitive: false,
                synonyms: synonyms(&layers),
                kind: definition.kind,
                documentation: definition.documentation,
            }
        })
        .collect()
}

/// Every configuration of the broker whose image this is, by name; or, for `None`, the dynamic
/// defaults that are set for all brokers (resource BROKER with an empty name).
///
/// Each node knows only its own static settings, so a request about another broker must be answered there.
pub fn describe_broker(image: &MetadataImage, node: Option<NodeId>) -> Vec<ConfigEntry> {
    let Some(node) = node else { return describe_dynamic_defaults(image) };
    let mut entries = describe_catalogue(image, node);
    let listed = image.static_settings().iter().filter(|(name, _)| broker_config(name).is_none());
    entries.extend(listed.map(|(name, value)| describe_static(name, value)));
    entries.sort_by(|left, right| left.name.cmp(&right.name));
    entries
}

fn describe_catalogue(image: &MetadataImage, node: NodeId) -> Vec<ConfigEntry> {
    BROKER_CONFIGS
        .iter()
        .map(|definition| {
            let layers = broker_layers(definition, image.broker_configs(node), image.broker_layers());
            ConfigEntry {
                name: definition.name.to_owned(),
                value: layers.first().map(|layer| layer.effective.clone()),
                source: layers.first().map_or(ConfigSource::Default, |layer| layer.source),
                read_only: false,
                sensitive: false,
                synonyms: synonyms(&layers),
                kind: definition.kind,
                documentation: definition.documentation,
            }
        })
        .collect()
}

fn describe_dynamic_defaults(image: &MetadataImage) -> Vec<ConfigEntry> {
    let known =
        image.cluster_configs().iter().filter_map(|(name, value)| Some((broker_config(name)?, value)));
    known
        .map(|(definition, value)| ConfigEntry {
            name: definition.name.to_owned(),
            value: Some(value.clone()),
            source: ConfigSource::DynamicDefaultBroker,
            read_only: false,
            sensitive: false,
            synonyms: vec![ConfigSynonym {
                name: definition.name.to_owned(),
                value: Some(value.clone()),
                source: ConfigSource::DynamicDefaultBroker,
            }],
            kind: definition.kind,
            documentation: definition.documentation,
        })
        .collect()
}

fn describe_static(name: &str, value: &str) -> ConfigEntry {
    let sensitive = is_sensitive(name);
    let value = (!sensitive).then(|| value.to_owned());
    ConfigEntry {
        name: name.to_owned(),
        value: value.clone(),
        source: ConfigSource::StaticBroker,
        read_only: true,
        sensitive,
        synonyms: vec![ConfigSynonym { name: name.to_owned(), value, source: ConfigSource::StaticBroker }],
        kind: ConfigType::String,
        documentation: "",
    }
}

/// Settings outside the catalogue have no type that says so; a secret among them has a name that does.
fn is_sensitive(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "secret", "jaas", "credential", "token"].iter().any(|word| name.contains(word))
}

fn synonyms(layers: &[Layer]) -> Vec<ConfigSynonym> {
    layers
        .iter()
        .map(|layer| ConfigSynonym {
            name: layer.name.to_owned(),
            value: Some(layer.value.clone()),
            source: layer.source,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use types::TopicId;

    use super::*;
    use crate::command::{Command, ConfigResource, PartitionSpec};
    use crate::configs::StaticSettings;
    use crate::state::MetadataState;
    use crate::testing::{apply, endpoint};

    fn state() -> MetadataState {
        let settings = [
            ("listeners", "PLAINTEXT://:9092"),
            ("ssl.keystore.password", "hunter2"),
            ("log.retention.minutes", "30"),
            ("num.partitions", "6"),
            ("log.preallocate", "false"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut state = MetadataState::new(StaticSettings::new(settings).expect("valid settings"));
        let set = |resource, name: &str, value: &str| Command::AlterConfigs {
            resource,
            set: vec![(name.to_owned(), Some(value.to_owned()))],
        };
        for command in [
            Command::RegisterBroker {
                node: NodeId(1),
                rack: None,
                endpoints: vec![endpoint("h", 1)],
                incarnation: 1,
                directory_id: None,
                peer: None,
            },
            Command::CreateTopic {
                name: "orders".to_owned(),
                id: TopicId([1; 16]),
                partitions: vec![PartitionSpec { replicas: vec![NodeId(1)] }],
                configs: vec![("retention.ms".to_owned(), "1000".to_owned())],
            },
            set(ConfigResource::BrokerDefault, "log.retention.hours", "2"),
            set(ConfigResource::BrokerDefault, "num.partitions", "8"),
            set(ConfigResource::Broker(NodeId(1)), "num.partitions", "9"),
        ] {
            apply(&mut state, command);
        }
        state
    }

    fn show(entries: &[ConfigEntry], names: &[&str]) -> String {
        let mut lines = String::new();
        for entry in entries.iter().filter(|entry| names.is_empty() || names.contains(&entry.name.as_str())) {
            let synonyms: Vec<String> = entry
                .synonyms
                .iter()
                .map(|synonym| {
                    let value = synonym.value.as_deref().unwrap_or("null");
                    format!("{}:{}={value}", synonym.source as i8, synonym.name)
                })
                .collect();
            lines += &format!(
                "{}={} source={} type={}{}{} [{}]\n",
                entry.name,
                entry.value.as_deref().unwrap_or("null"),
                entry.source as i8,
                entry.kind as i8,
                if entry.read_only { " read_only" } else { "" },
                if entry.sensitive { " sensitive" } else { "" },
                synonyms.join(" ")
            );
        }
        lines
    }

    fn check(entries: Vec<ConfigEntry>, names: &[&str], expected: Expect) {
        assert!(entries.is_sorted_by(|left, right| left.name < right.name), "by name, each once");
        expected.assert_eq(&show(&entries, names));
    }

    #[test]
    fn topics_show_where_their_values_come_from() {
        let image = state().image();
        let topic = image.topic("orders").expect("a topic");
        check(
            describe_topic(&image, topic),
            &["cleanup.policy", "retention.ms", "segment.ms", "remote.storage.enable", "preallocate"],
            expect![[r#"
                cleanup.policy=delete source=5 type=7 read_only [5:log.cleanup.policy=delete]
                preallocate=false source=4 type=1 read_only [4:log.preallocate=false 5:log.preallocate=false]
                remote.storage.enable=false source=5 type=1 read_only [5:remote.storage.enable=false]
                retention.ms=1000 source=1 type=5 [1:retention.ms=1000 4:log.retention.minutes=30 3:log.retention.hours=2 5:log.retention.hours=168]
                segment.ms=604800000 source=5 type=5 [5:log.roll.hours=168]
            "#]],
        );
        assert_eq!(describe_topic(&image, topic).len(), TOPIC_CONFIGS.len());
    }

    #[test]
    fn brokers_show_catalogue_and_settings() {
        let image = state().image();
        check(
            describe_broker(&image, Some(NodeId(1))),
            &[],
            expect![[r#"
            auto.create.topics.enable=true source=5 type=1 [5:auto.create.topics.enable=true]
            broker.draining=false source=5 type=1 [5:broker.draining=false]
            default.replication.factor=1 source=5 type=3 [5:default.replication.factor=1]
            follower.replication.throttled.rate=9223372036854775807 source=5 type=5 [5:follower.replication.throttled.rate=9223372036854775807]
            leader.replication.throttled.rate=9223372036854775807 source=5 type=5 [5:leader.replication.throttled.rate=9223372036854775807]
            listeners=PLAINTEXT://:9092 source=4 type=2 read_only [4:listeners=PLAINTEXT://:9092]
            log.message.timestamp.after.max.ms=3600000 source=5 type=5 [5:log.message.timestamp.after.max.ms=3600000]
            log.message.timestamp.before.max.ms=9223372036854775807 source=5 type=5 [5:log.message.timestamp.before.max.ms=9223372036854775807]
            log.message.timestamp.type=CreateTime source=5 type=2 [5:log.message.timestamp.type=CreateTime]
            log.preallocate=false source=4 type=2 read_only [4:log.preallocate=false]
            log.retention.bytes=-1 source=5 type=5 [5:log.retention.bytes=-1]
            log.retention.hours=2 source=3 type=3 [3:log.retention.hours=2 5:log.retention.hours=168]
            log.retention.minutes=30 source=4 type=3 [4:log.retention.minutes=30]
            log.retention.ms=null source=5 type=5 []
            log.roll.hours=168 source=5 type=3 [5:log.roll.hours=168]
            log.roll.ms=null source=5 type=5 []
            log.segment.bytes=1073741824 source=5 type=3 [5:log.segment.bytes=1073741824]
            message.max.bytes=1048588 source=5 type=3 [5:message.max.bytes=1048588]
            min.insync.replicas=1 source=5 type=3 [5:min.insync.replicas=1]
            num.partitions=9 source=2 type=3 [2:num.partitions=9 3:num.partitions=8 4:num.partitions=6 5:num.partitions=1]
            ssl.keystore.password=null source=4 type=2 read_only sensitive [4:ssl.keystore.password=null]
        "#]],
        );
    }

    #[test]
    fn dynamic_defaults_show_what_is_set() {
        check(
            describe_broker(&state().image(), None),
            &[],
            expect![[r#"
            log.retention.hours=2 source=3 type=3 [3:log.retention.hours=2]
            num.partitions=8 source=3 type=3 [3:num.partitions=8]
        "#]],
        );
    }
}
