//! `topic`: what administrators do with topics.

use std::collections::BTreeMap;
use std::fmt::Write;

use metadata::plan_replication_factor;
use protocol::ErrorCode;
use protocol::messages::create_partitions_request::{CreatePartitionsRequestData, CreatePartitionsTopic};
use protocol::messages::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequestData,
};
use protocol::messages::delete_topics_request::DeleteTopicsRequestData;
use protocol::messages::describe_configs_request::{DescribeConfigsRequestData, DescribeConfigsResource};
use protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequestData,
};
use protocol::messages::kafka_string;
use protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};

use super::cluster::{self, Cluster, End, TopicLeaders};
use super::connection::call;
use super::moves::{self, Placement};
use super::output;
use crate::exit::Error;
use crate::options::{Options, TopicCommand};

const CREATE_TOPICS_VERSION: i16 = 5;
const DELETE_TOPICS_VERSION: i16 = 5;
const DESCRIBE_CONFIGS_VERSION: i16 = 4;
const CREATE_PARTITIONS_VERSION: i16 = 3;
const INCREMENTAL_ALTER_CONFIGS_VERSION: i16 = 1;

/// How long the broker may take for a change, milliseconds.
const CHANGE_TIME_MAX_MS: i32 = 30_000;

/// DescribeConfigs' numbers for a topic, and for a value that was set for it.
const TOPIC_RESOURCE: i8 = 2;
const TOPIC_SOURCE: i8 = 1;

/// IncrementalAlterConfigs' numbers for setting a value and for going back to the default.
const SET: i8 = 0;
const DELETE: i8 = 1;

/// Runs one of the commands.
///
/// # Errors
///
/// Whatever the broker refuses, and whatever keeps it from being asked.
pub fn run(options: &Options, command: TopicCommand) -> Result<(), Error> {
    match command {
        TopicCommand::Create { name, partitions, replication_factor, configs, if_not_exists } => {
            let topic = CreatableTopic {
                name: kafka_string(&name),
                num_partitions: partitions.unwrap_or(-1),
                replication_factor: replication_factor.unwrap_or(-1),
                configs: configs.iter().map(|config| parse_config(config)).collect::<Result<_, _>>()?,
                ..CreatableTopic::default()
            };
            create(&mut Cluster::connect(options)?, topic, if_not_exists)
        }
        TopicCommand::List { internal } => list(&mut Cluster::connect(options)?, internal),
        TopicCommand::Describe { names } => {
            let mut cluster = Cluster::connect(options)?;
            names.iter().try_for_each(|name| describe(&mut cluster, name))
        }
        TopicCommand::Alter { name, replication_factor, partitions, configs } => {
            let configs = configs.iter().map(|config| parse_config(config)).collect::<Result<Vec<_>, _>>()?;
            let mut cluster = Cluster::connect(options)?;
            if !configs.is_empty() {
                alter_configs(&mut cluster, &name, configs)?;
            }
            if let Some(partitions) = partitions {
                add_partitions(&mut cluster, &name, partitions)?;
            }
            replication_factor.map_or(Ok(()), |factor| alter_replication_factor(&mut cluster, &name, factor))
        }
        TopicCommand::Delete { names } => delete(&mut Cluster::connect(options)?, &names),
    }
}

fn parse_config(config: &str) -> Result<CreatableTopicConfig, Error> {
    let Some((name, value)) = config.split_once('=') else {
        return Err(Error::Usage(format!("--topic-config {config:?} is not NAME=VALUE")));
    };
    Ok(CreatableTopicConfig {
        name: kafka_string(name.trim()),
        value: Some(kafka_string(value.trim())),
        ..CreatableTopicConfig::default()
    })
}

fn create(cluster: &mut Cluster, topic: CreatableTopic, if_not_exists: bool) -> Result<(), Error> {
    let request = CreateTopicsRequestData {
        topics: vec![topic],
        timeout_ms: CHANGE_TIME_MAX_MS,
        ..CreateTopicsRequestData::default()
    };
    let response = call!(cluster.any()?, CreateTopics, CREATE_TOPICS_VERSION, request);
    for topic in response.topics {
        let name = topic.name.as_str();
        if if_not_exists && ErrorCode::from(topic.error_code) == ErrorCode::TopicAlreadyExists {
            output::print(format_args!("topic {name} exists already\n"))?;
            continue;
        }
        let message = topic.error_message.as_ref().map(|message| message.as_str());
        cluster::check(topic.error_code, message, || format!("create topic {name}"))?;
        output::print(format_args!(
            "created topic {name} with {} partitions and replication factor {}\n",
            topic.num_partitions, topic.replication_factor
        ))?;
    }
    Ok(())
}

fn alter_configs(
    cluster: &mut Cluster,
    topic: &str,
    configs: Vec<CreatableTopicConfig>,
) -> Result<(), Error> {
    let alterable = |config: CreatableTopicConfig| {
        let value = config.value.filter(|value| !value.as_str().is_empty());
        AlterableConfig {
            name: config.name,
            config_operation: if value.is_some() { SET } else { DELETE },
            value,
            ..AlterableConfig::default()
        }
    };
    let request = IncrementalAlterConfigsRequestData {
        resources: vec![AlterConfigsResource {
            resource_type: TOPIC_RESOURCE,
            resource_name: kafka_string(topic),
            configs: configs.into_iter().map(alterable).collect(),
            ..AlterConfigsResource::default()
        }],
        ..IncrementalAlterConfigsRequestData::default()
    };
    let response = call!(cluster.any()?, IncrementalAlterConfigs, INCREMENTAL_ALTER_CONFIGS_VERSION, request);
    for result in response.responses {
        let message = result.error_message.as_ref().map(|message| message.as_str());
        cluster::check(result.error_code, message, || format!("configure topic {topic}"))?;
    }
    output::print(format_args!("configured topic {topic}\n"))
}

fn add_partitions(cluster: &mut Cluster, topic: &str, count: i32) -> Result<(), Error> {
    let request = CreatePartitionsRequestData {
        topics: vec![CreatePartitionsTopic {
            name: kafka_string(topic),
            count,
            ..CreatePartitionsTopic::default()
        }],
        timeout_ms: CHANGE_TIME_MAX_MS,
        ..CreatePartitionsRequestData::default()
    };
    let response = call!(cluster.any()?, CreatePartitions, CREATE_PARTITIONS_VERSION, request);
    for result in response.results {
        let message = result.error_message.as_ref().map(|message| message.as_str());
        cluster::check(result.error_code, message, || format!("add partitions to topic {topic}"))?;
    }
    output::print(format_args!("topic {topic} has {count} partitions\n"))
}

fn alter_replication_factor(cluster: &mut Cluster, topic: &str, factor: u16) -> Result<(), Error> {
    let Placement { brokers, partitions } = Placement::ask(cluster)?;
    let plan = plan_replication_factor(&brokers, &partitions, topic, factor.into())
        .map_err(|error| Error::Command(error.to_string()))?;
    moves::carry_out(cluster, &plan)?;
    output::print(format_args!("topic {topic} has replication factor {factor}\n"))
}

fn list(cluster: &mut Cluster, internal: bool) -> Result<(), Error> {
    let metadata = cluster.metadata(None, false)?;
    let shown = metadata.topics.iter().filter(|topic| internal || !topic.is_internal);
    let mut names: Vec<&str> =
        shown.filter_map(|topic| topic.name.as_ref()).map(|name| name.as_str()).collect();
    names.sort_unstable();
    output::print(names.iter().map(|name| format!("{name}\n")).collect::<String>())
}

fn delete(cluster: &mut Cluster, names: &[String]) -> Result<(), Error> {
    let request = DeleteTopicsRequestData {
        topic_names: names.iter().map(|name| kafka_string(name)).collect(),
        timeout_ms: CHANGE_TIME_MAX_MS,
        ..DeleteTopicsRequestData::default()
    };
    let response = call!(cluster.any()?, DeleteTopics, DELETE_TOPICS_VERSION, request);
    let mut outcome = Ok(());
    for topic in response.responses {
        let name = topic.name.unwrap_or_default();
        let message = topic.error_message.as_ref().map(|message| message.as_str());
        match cluster::check(topic.error_code, message, || format!("delete topic {name}")) {
            Ok(()) => output::print(format_args!("deleted topic {name}\n"))?,
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    outcome
}

fn describe(cluster: &mut Cluster, name: &str) -> Result<(), Error> {
    let metadata = cluster.metadata(Some(&[name]), false)?;
    let Some(topic) = metadata.topics.into_iter().next() else {
        return Err(Error::NotKafka {
            address: "the broker".to_owned(),
            why: "it leaves out a topic".to_owned(),
        });
    };
    if ErrorCode::from(topic.error_code) == ErrorCode::UnknownTopicOrPartition {
        return Err(cluster::no_topic(name));
    }
    cluster::check(topic.error_code, None, || format!("topic {name}"))?;
    let configs = topic_configs(cluster, name)?;
    let leaders = TopicLeaders {
        name: name.to_owned(),
        leaders: topic
            .partitions
            .iter()
            .filter(|part| part.leader_id >= 0)
            .map(|part| (part.partition_index, part.leader_id))
            .collect(),
    };
    let led: Vec<i32> = leaders.leaders.keys().copied().collect();
    let ends = Ends {
        earliest: cluster.offsets(&leaders, &led, End::Earliest)?,
        latest: cluster.offsets(&leaders, &led, End::Latest)?,
    };
    output::print(description(name, &topic, &configs, &ends))
}

/// The configurations that were set for a topic.
fn topic_configs(cluster: &mut Cluster, name: &str) -> Result<BTreeMap<String, String>, Error> {
    let request = DescribeConfigsRequestData {
        resources: vec![DescribeConfigsResource {
            resource_type: TOPIC_RESOURCE,
            resource_name: kafka_string(name),
            configuration_keys: None,
            ..DescribeConfigsResource::default()
        }],
        ..DescribeConfigsRequestData::default()
    };
    let response = call!(cluster.any()?, DescribeConfigs, DESCRIBE_CONFIGS_VERSION, request);
    let mut configs = BTreeMap::new();
    for result in response.results {
        let message = result.error_message.as_ref().map(|message| message.as_str());
        cluster::check(result.error_code, message, || format!("configurations of topic {name}"))?;
        for config in result.configs.iter().filter(|config| config.config_source == TOPIC_SOURCE) {
            let value = config.value.as_ref().map_or("", |value| value.as_str());
            configs.insert(config.name.as_str().to_owned(), value.to_owned());
        }
    }
    Ok(configs)
}

struct Ends {
    earliest: BTreeMap<i32, i64>,
    latest: BTreeMap<i32, i64>,
}

fn description(
    name: &str,
    topic: &MetadataResponseTopic,
    configs: &BTreeMap<String, String>,
    ends: &Ends,
) -> String {
    let mut text = format!("topic {name}, id {}\n", topic.topic_id);
    for (config, value) in configs {
        let _ = writeln!(text, "  {config}={value}");
    }
    let _ = writeln!(
        text,
        "  {:>9}  {:>6}  {:<16}  {:<16}  {:>12}  {:>12}",
        "partition", "leader", "replicas", "in sync", "first offset", "next offset"
    );
    let mut partitions: Vec<&MetadataResponsePartition> = topic.partitions.iter().collect();
    partitions.sort_by_key(|partition| partition.partition_index);
    for partition in partitions {
        let index = partition.partition_index;
        let offset = |end: &BTreeMap<i32, i64>| end.get(&index).map_or("-".to_owned(), i64::to_string);
        let leader =
            if partition.leader_id < 0 { "none".to_owned() } else { partition.leader_id.to_string() };
        let _ = writeln!(
            text,
            "  {index:>9}  {leader:>6}  {:<16}  {:<16}  {:>12}  {:>12}",
            list_of(&partition.replica_nodes),
            list_of(&partition.isr_nodes),
            offset(&ends.earliest),
            offset(&ends.latest),
        );
    }
    text
}

fn list_of(nodes: &[i32]) -> String {
    nodes.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn topics_are_described_by_partition() {
        let partition = |index: i32, leader: i32| MetadataResponsePartition {
            partition_index: index,
            leader_id: leader,
            replica_nodes: vec![1, 2, 3],
            isr_nodes: vec![1],
            ..MetadataResponsePartition::default()
        };
        let topic = MetadataResponseTopic {
            partitions: vec![partition(1, -1), partition(0, 1)],
            ..MetadataResponseTopic::default()
        };
        let configs = BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]);
        let ends = Ends { earliest: BTreeMap::from([(0, 5)]), latest: BTreeMap::from([(0, 12)]) };
        expect![[r#"
            topic orders, id AAAAAAAAAAAAAAAAAAAAAA
              retention.ms=1000
              partition  leader  replicas          in sync           first offset   next offset
                      0       1  1,2,3             1                            5            12
                      1    none  1,2,3             1                            -             -
        "#]]
        .assert_eq(&description("orders", &topic, &configs, &ends));
    }

    #[test]
    fn configs_need_a_value() {
        assert!(matches!(parse_config("retention.ms"), Err(Error::Usage(_))));
        let config = parse_config(" cleanup.policy = delete").expect("valid");
        assert_eq!(
            (config.name.as_str(), config.value.as_ref().map(|value| value.as_str())),
            ("cleanup.policy", Some("delete"))
        );
    }
}
