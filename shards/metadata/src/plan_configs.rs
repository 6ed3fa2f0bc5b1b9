//! Requests about configurations, turned into commands.

use std::collections::{BTreeMap, BTreeSet};

use types::NodeId;

use crate::command::{Command, ConfigResource};
use crate::configs::{
    BROKER_CONFIGS, CleanupPolicy, ConfigDefinition, ConfigType, Scope, TOPIC_CONFIGS, TopicConfig,
    broker_config, effective_topic_value, scope, topic_config,
};
use crate::error::{MetadataError, shown_name};
use crate::image::{MetadataImage, topic_bytes};
use crate::plan::{TopicRequest, check_bytes};

/// Kafka's numbers of the resource types that have configurations here.
const RESOURCE_TYPE_TOPIC: i8 = 2;
const RESOURCE_TYPE_BROKER: i8 = 4;

const CLEANUP_POLICY: &str = "cleanup.policy";

/// One operation of IncrementalAlterConfigs (KIP-339).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigOperation {
    /// The configuration.
    pub name: String,
    /// What to do with it.
    pub kind: ConfigOperationKind,
    /// The operand; ignored by `Delete`.
    pub value: Option<String>,
}

/// What an operation does, with Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigOperationKind {
    /// Sets the value.
    Set = 0,
    /// Goes back to the default.
    Delete = 1,
    /// Adds words to a list.
    Append = 2,
    /// Takes words out of a list.
    Subtract = 3,
}

impl ConfigOperationKind {
    /// Reads Kafka's number.
    pub fn from_code(code: i8) -> Option<ConfigOperationKind> {
        match code {
            0 => Some(ConfigOperationKind::Set),
            1 => Some(ConfigOperationKind::Delete),
            2 => Some(ConfigOperationKind::Append),
            3 => Some(ConfigOperationKind::Subtract),
            _ => None,
        }
    }
}

/// Finds the resource that a request names by Kafka's resource type (2 topic, 4 broker) and name. The
/// empty name of a broker stands for all of them.
///
/// # Errors
///
/// `UnknownTopic`, `BrokerNotRegistered`, and `InvalidRequest` for a name that is no number and for other types.
pub fn resolve_config_resource(
    image: &MetadataImage,
    resource_type: i8,
    name: &str,
) -> Result<ConfigResource, MetadataError> {
    match resource_type {
        RESOURCE_TYPE_TOPIC => match image.topic(name) {
            Some(topic) => Ok(ConfigResource::Topic(topic.id)),
            None => Err(MetadataError::UnknownTopic(name.to_owned())),
        },
        RESOURCE_TYPE_BROKER if name.is_empty() => Ok(ConfigResource::BrokerDefault),
        RESOURCE_TYPE_BROKER => {
            let node = name.parse().ok().filter(|node| *node >= 0).map(NodeId).ok_or_else(|| {
                MetadataError::InvalidRequest("the resource name of a broker is its id, or empty".to_owned())
            })?;
            match image.broker(node) {
                Some(_) => Ok(ConfigResource::Broker(node)),
                None => Err(MetadataError::BrokerNotRegistered(node)),
            }
        }
        other => Err(MetadataError::InvalidRequest(format!(
            "resources of type {other} have no configurations here: only topics (2) and brokers (4) do"
        ))),
    }
}

/// Plans an incremental change of one resource (KIP-339): all operations or none.
///
/// # Errors
///
/// `InvalidConfig`; `UnknownTopicId`; `InvalidRequest` for a name that stands twice or a missing value.
pub fn plan_incremental_alter(
    image: &MetadataImage,
    resource: ConfigResource,
    operations: &[ConfigOperation],
) -> Result<Command, MetadataError> {
    check_names_once(operations.iter().map(|operation| &operation.name))?;
    let subject = Subject::new(image, resource)?;
    let mut set = Vec::with_capacity(operations.len());
    for operation in operations {
        let name = &operation.name;
        let change = match (operation.kind, &operation.value) {
            // Deleting what is not set is no error in Kafka, whatever its name.
            (ConfigOperationKind::Delete, _) if !subject.current.contains_key(name) => continue,
            (ConfigOperationKind::Delete, _) => {
                subject.check_reset(name)?;
                None
            }
            (_, None) => return Err(missing_value(name)),
            (ConfigOperationKind::Set, Some(value)) => Some(subject.validate(name, value)?),
            (ConfigOperationKind::Append | ConfigOperationKind::Subtract, Some(words)) => {
                let value = subject.changed_list(name, words, operation.kind)?;
                Some(subject.validate(name, &value)?)
            }
        };
        set.push((name.clone(), change));
    }
    subject.finish(set)
}

/// Plans a full replacement of one resource's configurations (the older AlterConfigs): what is not
/// named goes back to its default.
///
/// # Errors
///
/// Those of [`plan_incremental_alter`].
pub fn plan_alter_configs(
    image: &MetadataImage,
    resource: ConfigResource,
    configs: &[(String, Option<String>)],
) -> Result<Command, MetadataError> {
    check_names_once(configs.iter().map(|(name, _)| name))?;
    let subject = Subject::new(image, resource)?;
    let mut set = Vec::with_capacity(configs.len());
    for (name, value) in configs {
        let value = value.as_ref().ok_or_else(|| missing_value(name))?;
        set.push((name.clone(), Some(subject.validate(name, value)?)));
    }
    for name in subject.current.keys() {
        let named = configs.iter().any(|(other, _)| other == name);
        if !named && subject.check_reset(name).is_ok() {
            set.push((name.clone(), None));
        }
    }
    subject.finish(set)
}

/// The configurations of a new topic, checked and in normal form.
pub(crate) fn new_topic_configs(
    image: &MetadataImage,
    request: &TopicRequest,
) -> Result<Vec<(String, String)>, MetadataError> {
    check_names_once(request.configs.iter().map(|(name, _)| name))?;
    let mut configs = BTreeMap::new();
    for (name, value) in &request.configs {
        let definition = known_topic_config(name)?;
        let value = match value.as_ref().ok_or_else(|| missing_value(name))? {
            policy
                if request.internal && name == CLEANUP_POLICY && CleanupPolicy::parse(policy).is_some() =>
            {
                policy.clone()
            }
            value => definition.validate(value)?,
        };
        configs.insert(name.clone(), value);
    }
    check_together(image, &configs)?;
    Ok(configs.into_iter().collect())
}

/// The resource that is altered, with its overrides.
struct Subject<'a> {
    image: &'a MetadataImage,
    resource: ConfigResource,
    current: BTreeMap<String, String>,
    internal: bool,
}

impl<'a> Subject<'a> {
    fn new(image: &'a MetadataImage, resource: ConfigResource) -> Result<Subject<'a>, MetadataError> {
        let (current, internal) = match resource {
            ConfigResource::Topic(id) => {
                let topic = image.topic_by_id(id).ok_or(MetadataError::UnknownTopicId(id))?;
                (topic.configs.clone(), topic.internal)
            }
            ConfigResource::Broker(node) => (image.broker_configs(node).cloned().unwrap_or_default(), false),
            ConfigResource::BrokerDefault => (image.cluster_configs().clone(), false),
        };
        Ok(Subject { image, resource, current, internal })
    }

    fn validate(&self, name: &str, value: &str) -> Result<String, MetadataError> {
        let definition = self.definition(name)?;
        if self.keeps_cleanup_policy(name) {
            return match self.current.get(name) {
                Some(current) if current == value.trim() => Ok(current.clone()),
                _ => Err(fixed_cleanup_policy()),
            };
        }
        definition.validate(value)
    }

    /// Whether the override may be taken away.
    fn check_reset(&self, name: &str) -> Result<(), MetadataError> {
        if self.keeps_cleanup_policy(name) { Err(fixed_cleanup_policy()) } else { Ok(()) }
    }

    /// Deleting old segments of the broker's own topics would lose committed offsets.
    fn keeps_cleanup_policy(&self, name: &str) -> bool {
        self.internal && name == CLEANUP_POLICY
    }

    fn changed_list(
        &self,
        name: &str,
        words: &str,
        kind: ConfigOperationKind,
    ) -> Result<String, MetadataError> {
        let definition = self.definition(name)?;
        if definition.kind != ConfigType::List {
            return Err(MetadataError::InvalidConfig {
                name: definition.name.to_owned(),
                reason: "it is not a list that one could append to or subtract from".to_owned(),
            });
        }
        let current = effective_topic_value(definition, &self.current, self.image);
        let mut list: Vec<&str> = split(&current).collect();
        let mut operands = BTreeSet::new();
        match kind {
            ConfigOperationKind::Subtract => {
                operands.extend(split(words));
                list.retain(|word| !operands.contains(word));
            }
            _ => {
                operands.extend(list.iter().copied());
                list.extend(split(words).filter(|word| operands.insert(word)));
            }
        }
        Ok(list.join(","))
    }

    fn definition(&self, name: &str) -> Result<&'static ConfigDefinition, MetadataError> {
        match self.resource {
            ConfigResource::Topic(_) => known_topic_config(name),
            ConfigResource::BrokerDefault | ConfigResource::Broker(_) => {
                let definition = known_broker_config(name)?;
                let reason = match (scope(definition.name), self.resource) {
                    (Scope::Broker, ConfigResource::BrokerDefault) => {
                        "it is a single broker's; alter it with the broker's id as resource name"
                    }
                    (Scope::Cluster, ConfigResource::Broker(_)) => {
                        "it holds for the whole cluster; alter it with an empty resource name"
                    }
                    _ => return Ok(definition),
                };
                Err(MetadataError::InvalidConfig {
                    name: definition.name.to_owned(),
                    reason: reason.to_owned(),
                })
            }
        }
    }

    fn finish(self, set: Vec<(String, Option<String>)>) -> Result<Command, MetadataError> {
        if let ConfigResource::Topic(_) = self.resource {
            let bytes_before = topic_bytes("", &self.current);
            let mut configs = self.current;
            for (name, value) in &set {
                match value {
                    Some(value) => configs.insert(name.clone(), value.clone()),
                    None => configs.remove(name),
                };
            }
            check_together(self.image, &configs)?;
            check_bytes(self.image, topic_bytes("", &configs).saturating_sub(bytes_before))?;
        }
        Ok(Command::AlterConfigs { resource: self.resource, set })
    }
}

/// What no single value shows.
fn check_together(image: &MetadataImage, configs: &BTreeMap<String, String>) -> Result<(), MetadataError> {
    let config = TopicConfig::resolve(configs, image.broker_layers());
    if config.min_compaction_lag_ms > config.max_compaction_lag_ms {
        return Err(MetadataError::InvalidConfig {
            name: "min.compaction.lag.ms".to_owned(),
            reason: format!(
                "{} is greater than max.compaction.lag.ms, {}",
                config.min_compaction_lag_ms, config.max_compaction_lag_ms
            ),
        });
    }
    Ok(())
}

fn check_names_once<'n>(names: impl Iterator<Item = &'n String>) -> Result<(), MetadataError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            let reason = format!("configuration {} stands there twice", shown_name(name));
            return Err(MetadataError::InvalidRequest(reason));
        }
    }
    Ok(())
}

fn known_topic_config(name: &str) -> Result<&'static ConfigDefinition, MetadataError> {
    topic_config(name).ok_or_else(|| {
        let reason = match TOPIC_CONFIGS.iter().find(|topic| broker_name_of(topic, name)) {
            Some(topic) => format!("it is a broker configuration; that of a topic is {}", topic.name),
            None => "there is no such topic configuration".to_owned(),
        };
        MetadataError::InvalidConfig { name: name.to_owned(), reason }
    })
}

fn known_broker_config(name: &str) -> Result<&'static ConfigDefinition, MetadataError> {
    broker_config(name).ok_or_else(|| {
        let known = BROKER_CONFIGS.iter().map(|definition| definition.name).collect::<Vec<_>>();
        let reason = format!("it cannot be altered at run time; what can is {}", known.join(", "));
        MetadataError::InvalidConfig { name: name.to_owned(), reason }
    })
}

fn broker_name_of(definition: &ConfigDefinition, name: &str) -> bool {
    definition.synonyms.iter().any(|synonym| synonym.name == name)
}

fn missing_value(name: &str) -> MetadataError {
    MetadataError::InvalidRequest(format!("configuration {} has no value", shown_name(name)))
}

fn fixed_cleanup_policy() -> MetadataError {
    MetadataError::InvalidConfig {
        name: CLEANUP_POLICY.to_owned(),
        reason: "that of an internal topic cannot be altered".to_owned(),
    }
}

fn split(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use types::TopicId;

    use super::*;
    use crate::command::PartitionSpec;
    use crate::state::MetadataState;
    use crate::testing::{apply, state_with_racks};

    const ORDERS: ConfigResource = ConfigResource::Topic(TopicId([1; 16]));
    const OFFSETS: ConfigResource = ConfigResource::Topic(TopicId([2; 16]));
    const BROKER: ConfigResource = ConfigResource::Broker(NodeId(1));

    fn state() -> MetadataState {
        let mut state = state_with_racks(&[2]);
        for (id, name, config) in [
            (1, "orders", ("retention.ms", "1000")),
            (2, "__consumer_offsets", ("cleanup.policy", "compact")),
        ] {
            apply(
                &mut state,
                Command::CreateTopic {
                    name: name.to_owned(),
                    id: TopicId([id; 16]),
                    partitions: vec![PartitionSpec { replicas: vec![NodeId(1)] }],
                    configs: vec![(config.0.to_owned(), config.1.to_owned())],
                },
            );
        }
        state
    }

    fn show(planned: Result<Command, MetadataError>) -> String {
        match planned {
            Ok(Command::AlterConfigs { set, .. }) => set
                .iter()
                .map(|(name, value)| format!("{name}={}", value.as_deref().unwrap_or("(default)")))
                .collect::<Vec<_>>()
                .join(" "),
            Ok(other) => format!("{other:?}"),
            Err(error) => format!("{:?}: {error}", error.error_code()),
        }
    }

    /// `+a=1` sets, `-a` deletes, `<a=1` appends, `>a=1` subtracts, `+a` sets without a value.
    fn operation(text: &str) -> ConfigOperation {
        let kind = match &text[..1] {
            "+" => ConfigOperationKind::Set,
            "-" => ConfigOperationKind::Delete,
            "<" => ConfigOperationKind::Append,
            ">" => ConfigOperationKind::Subtract,
            other => panic!("no operation: {other}"),
        };
        let (name, value) = match text[1..].split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (&text[1..], None),
        };
        ConfigOperation { name: name.to_owned(), kind, value }
    }

    fn check(resource: ConfigResource, operations: &[&str], expected: Expect) {
        let operations: Vec<_> = operations.iter().map(|text| operation(text)).collect();
        expected.assert_eq(&show(plan_incremental_alter(&state().image(), resource, &operations)));
    }

    fn check_full(resource: ConfigResource, configs: &[(&str, Option<&str>)], expected: Expect) {
        let configs: Vec<_> =
            configs.iter().map(|(name, value)| (name.to_string(), value.map(str::to_owned))).collect();
        expected.assert_eq(&show(plan_alter_configs(&state().image(), resource, &configs)));
    }

    #[test]
    fn topics_are_altered_incrementally() {
        check(ORDERS, &["+segment.ms= 5 ", "-retention.ms"], expect!["segment.ms=5 retention.ms=(default)"]);
        check(ORDERS, &[], expect![""]);
        check(ORDERS, &["-segment.ms", "-no.such.thing"], expect![""]);
        check(ORDERS, &["<cleanup.policy=delete"], expect!["cleanup.policy=delete"]);
        check(
            ORDERS,
            &["<cleanup.policy=compact"],
            expect![[
                r#"InvalidConfig: configuration cleanup.policy: "delete,compact" is not supported: the broker does not compact the logs of clients' topics; it accepts only "delete""#
            ]],
        );
        check(
            ORDERS,
            &[">cleanup.policy=delete"],
            expect![[
                r#"InvalidConfig: configuration cleanup.policy: "" is not supported: the broker does not compact the logs of clients' topics; it accepts only "delete""#
            ]],
        );
        check(
            ORDERS,
            &[
                "<leader.replication.throttled.replicas=0:1, 1:1",
                "+follower.replication.throttled.replicas= * ",
            ],
            expect![
                "leader.replication.throttled.replicas=0:1,1:1 follower.replication.throttled.replicas=*"
            ],
        );
        check(
            ORDERS,
            &["+leader.replication.throttled.replicas=0:1;1:1"],
            expect![[
                r#"InvalidConfig: configuration leader.replication.throttled.replicas: "0:1;1:1" is neither * nor a list of replicas as in partition:broker,partition:broker"#
            ]],
        );
        check(
            ORDERS,
            &["<retention.ms=5"],
            expect![
                "InvalidConfig: configuration retention.ms: it is not a list that one could append to or subtract from"
            ],
        );
        check(
            ORDERS,
            &["+retention.ms"],
            expect!["InvalidRequest: the request is invalid: configuration retention.ms has no value"],
        );
        check(
            ORDERS,
            &["+retention.ms=1", "-retention.ms"],
            expect!["InvalidRequest: the request is invalid: configuration retention.ms stands there twice"],
        );
        check(
            ORDERS,
            &["+segment.ms=5", "+retention.ms=never"],
            expect![[r#"InvalidConfig: configuration retention.ms: "never" is not a 64-bit integer"#]],
        );
        check(
            ORDERS,
            &["+num.partitions=5"],
            expect!["InvalidConfig: configuration num.partitions: there is no such topic configuration"],
        );
        check(
            ORDERS,
            &["+message.max.bytes=5"],
            expect![
                "InvalidConfig: configuration message.max.bytes: it is a broker configuration; that of a topic is max.message.bytes"
            ],
        );
        check(
            ORDERS,
            &["+max.compaction.lag.ms=5", "+min.compaction.lag.ms=6"],
            expect![
                "InvalidConfig: configuration min.compaction.lag.ms: 6 is greater than max.compaction.lag.ms, 5"
            ],
        );
        check(
            ConfigResource::Topic(TopicId([9; 16])),
            &["+segment.ms=5"],
            expect!["UnknownTopicId: topic id CQkJCQkJCQkJCQkJCQkJCQ does not exist"],
        );
    }

    #[test]
    fn an_internal_topic_keeps_its_cleanup_policy() {
        check(
            OFFSETS,
            &["+cleanup.policy=delete"],
            expect![
                "InvalidConfig: configuration cleanup.policy: that of an internal topic cannot be altered"
            ],
        );
        check(
            OFFSETS,
            &["+cleanup.policy=compact", "+segment.bytes=2000000"],
            expect!["cleanup.policy=compact segment.bytes=2000000"],
        );
        check(
            OFFSETS,
            &["-cleanup.policy"],
            expect![
                "InvalidConfig: configuration cleanup.policy: that of an internal topic cannot be altered"
            ],
        );
        check(
            OFFSETS,
            &["<cleanup.policy=delete"],
            expect![
                "InvalidConfig: configuration cleanup.policy: that of an internal topic cannot be altered"
            ],
        );
        check_full(OFFSETS, &[("segment.bytes", Some("2000000"))], expect!["segment.bytes=2000000"]);
    }

    #[test]
    fn a_full_replacement_resets_what_it_does_not_name() {
        check_full(ORDERS, &[("segment.ms", Some("5"))], expect!["segment.ms=5 retention.ms=(default)"]);
        check_full(ORDERS, &[("retention.ms", Some("5"))], expect!["retention.ms=5"]);
        check_full(ORDERS, &[], expect!["retention.ms=(default)"]);
        check_full(
            ORDERS,
            &[("segment.ms", None)],
            expect!["InvalidRequest: the request is invalid: configuration segment.ms has no value"],
        );
        check_full(
            ORDERS,
            &[("segment.ms", Some("5")), ("segment.ms", Some("6"))],
            expect!["InvalidRequest: the request is invalid: configuration segment.ms stands there twice"],
        );
        check_full(
            ORDERS,
            &[("segment.ms", Some("0"))],
            expect!["InvalidConfig: configuration segment.ms: 0 lies outside of 1 to 9223372036854775807"],
        );
    }

    #[test]
    fn brokers_are_altered_together_only() {
        check(
            ConfigResource::BrokerDefault,
            &["+log.retention.hours=1", "+auto.create.topics.enable=False"],
            expect!["log.retention.hours=1 auto.create.topics.enable=false"],
        );
        check(
            ConfigResource::BrokerDefault,
            &["+num.partitions=0"],
            expect!["InvalidConfig: configuration num.partitions: 0 lies outside of 1 to 200000"],
        );
        check(
            ConfigResource::BrokerDefault,
            &["+log.cleanup.policy=compact"],
            expect![
                "InvalidConfig: configuration log.cleanup.policy: it cannot be altered at run time; what can is auto.create.topics.enable, broker.draining, default.replication.factor, follower.replication.throttled.rate, leader.replication.throttled.rate, log.message.timestamp.after.max.ms, log.message.timestamp.before.max.ms, log.message.timestamp.type, log.retention.bytes, log.retention.hours, log.retention.minutes, log.retention.ms, log.roll.hours, log.roll.ms, log.segment.bytes, message.max.bytes, min.insync.replicas, num.partitions"
            ],
        );
        check(
            BROKER,
            &["+num.partitions=2"],
            expect![
                "InvalidConfig: configuration num.partitions: it holds for the whole cluster; alter it with an empty resource name"
            ],
        );
        check(BROKER, &["+broker.draining=TRUE"], expect!["broker.draining=true"]);
        check(
            ConfigResource::BrokerDefault,
            &["+broker.draining=true"],
            expect![
                "InvalidConfig: configuration broker.draining: it is a single broker's; alter it with the broker's id as resource name"
            ],
        );
        for resource in [BROKER, ConfigResource::BrokerDefault] {
            check(
                resource,
                &["+leader.replication.throttled.rate=0"],
                expect!["leader.replication.throttled.rate=0"],
            );
            check(
                resource,
                &["+follower.replication.throttled.rate=-1"],
                expect![
                    "InvalidConfig: configuration follower.replication.throttled.rate: -1 lies outside of 0 to 9223372036854775807"
                ],
            );
        }
        check(BROKER, &["-num.partitions"], expect![""]);
        check_full(BROKER, &[], expect![""]);
    }

    #[test]
    fn resources_are_found_by_type_and_name() {
        let image = state().image();
        let check = |resource_type: i8, name: &str, expected: Expect| {
            let found = resolve_config_resource(&image, resource_type, name);
            expected.assert_eq(&match found {
                Ok(resource) => format!("{resource:?}"),
                Err(error) => format!("{:?}: {error}", error.error_code()),
            });
        };
        check(4, "", expect!["BrokerDefault"]);
        check(4, "1", expect!["Broker(NodeId(1))"]);
        check(4, "7", expect!["BrokerIdNotRegistered: broker 7 is not registered"]);
        check(
            4,
            "-1",
            expect![
                "InvalidRequest: the request is invalid: the resource name of a broker is its id, or empty"
            ],
        );
        check(
            4,
            "one",
            expect![
                "InvalidRequest: the request is invalid: the resource name of a broker is its id, or empty"
            ],
        );
        check(2, "missing", expect![[r#"UnknownTopicOrPartition: topic "missing" does not exist"#]]);
        check(2, "", expect![[r#"UnknownTopicOrPartition: topic "" does not exist"#]]);
        check(
            8,
            "logger",
            expect![
                "InvalidRequest: the request is invalid: resources of type 8 have no configurations here: only topics (2) and brokers (4) do"
            ],
        );
        assert_eq!(resolve_config_resource(&image, 2, "orders"), Ok(ORDERS));
    }

    #[test]
    fn operations_have_the_numbers_of_kafka() {
        for code in 0..4 {
            assert_eq!(ConfigOperationKind::from_code(code).map(|kind| kind as i8), Some(code));
        }
        assert_eq!(ConfigOperationKind::from_code(4), None);
    }

    #[test]
    fn long_names_do_not_come_back_whole() {
        let name = "x".repeat(1 << 20);
        let operations = [ConfigOperation {
            name: name.clone(),
            kind: ConfigOperationKind::Set,
            value: Some(name.clone()),
        }];
        for resource in [ORDERS, BROKER, ConfigResource::BrokerDefault] {
            let error = plan_incremental_alter(&state().image(), resource, &operations).expect_err("unknown");
            assert!(error.to_string().len() < 1_000);
        }
        assert!(
            resolve_config_resource(&state().image(), 2, &name).expect_err("unknown").to_string().len() < 400
        );
    }
}
