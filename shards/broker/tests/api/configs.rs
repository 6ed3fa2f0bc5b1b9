//! DescribeConfigs, IncrementalAlterConfigs, AlterConfigs, ListConfigResources.

use broker::OpResult;
use metadata::{Applied, MetadataError};
use protocol::frame::{Request, Response};
use protocol::messages::describe_configs_request::{DescribeConfigsRequestData, DescribeConfigsResource};
use protocol::messages::describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult};
use protocol::messages::list_config_resources_request::ListConfigResourcesRequestData;
use protocol::messages::{
    ErrorCode, KafkaString, alter_configs_request, incremental_alter_configs_request, kafka_string,
};

use crate::world::*;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;

const SET: i8 = 0;
const DELETE: i8 = 1;

fn describe(
    world: &mut World,
    resource: (i8, &str),
    request: DescribeConfigsRequestData,
) -> DescribeConfigsResult {
    describe_named(world, resource, None, request)
}

fn describe_named(
    world: &mut World,
    (resource_type, name): (i8, &str),
    keys: Option<&[&str]>,
    request: DescribeConfigsRequestData,
) -> DescribeConfigsResult {
    let resource = DescribeConfigsResource {
        resource_type,
        resource_name: kafka_string(name),
        configuration_keys: keys.map(|keys| keys.iter().map(|key| kafka_string(key)).collect()),
        ..Default::default()
    };
    let request = DescribeConfigsRequestData { resources: vec![resource], ..request };
    let Response::DescribeConfigs(mut response) = world.ask(4, &Request::DescribeConfigs(request)) else {
        panic!("another response")
    };
    let result = response.results.pop().expect("one resource has one result");
    assert_eq!((result.resource_type, result.resource_name.as_str()), (resource_type, name));
    result
}

fn config<'a>(result: &'a DescribeConfigsResult, name: &str) -> &'a DescribeConfigsResourceResult {
    result.configs.iter().find(|config| config.name.as_str() == name).expect("a configuration of this name")
}

fn value(config: &DescribeConfigsResourceResult) -> &str {
    config.value.as_ref().map_or("(null)", KafkaString::as_str)
}

fn alter(world: &mut World, resource: (i8, &str), configs: &[(&str, i8, Option<&str>)]) -> ErrorCode {
    incremental(world, false, &[(resource, configs)])[0]
}

type Operations<'a> = &'a [(&'a str, i8, Option<&'a str>)];

fn incremental_request(validate_only: bool, resources: &[((i8, &str), Operations<'_>)]) -> Request {
    let resources = resources.iter().map(|((resource_type, name), configs)| {
        let configs = configs.iter().map(|(name, config_operation, value)| {
            incremental_alter_configs_request::AlterableConfig {
                name: kafka_string(name),
                config_operation: *config_operation,
                value: value.map(kafka_string),
                ..Default::default()
            }
        });
        incremental_alter_configs_request::AlterConfigsResource {
            resource_type: *resource_type,
            resource_name: kafka_string(name),
            configs: configs.collect(),
            ..Default::default()
        }
    });
    let data = incremental_alter_configs_request::IncrementalAlterConfigsRequestData {
        resources: resources.collect(),
        validate_only,
        ..Default::default()
    };
    Request::IncrementalAlterConfigs(data)
}

fn incremental(
    world: &mut World,
    validate_only: bool,
    resources: &[((i8, &str), Operations<'_>)],
) -> Vec<ErrorCode> {
    let Response::IncrementalAlterConfigs(response) =
        world.ask(1, &incremental_request(validate_only, resources))
    else {
        panic!("another response")
    };
    for (result, ((resource_type, name), _)) in response.responses.iter().zip(resources) {
        assert_eq!((result.resource_type, result.resource_name.as_str()), (*resource_type, *name));
        assert_eq!(result.error_code == 0, result.error_message.is_none());
    }
    response.responses.iter().map(|result| code(result.error_code)).collect()
}

fn full(
    world: &mut World,
    validate_only: bool,
    resource: (i8, &str),
    configs: &[(&str, Option<&str>)],
) -> ErrorCode {
    let configs = configs.iter().map(|(name, value)| alter_configs_request::AlterableConfig {
        name: kafka_string(name),
        value: value.map(kafka_string),
        ..Default::default()
    });
    let resource = alter_configs_request::AlterConfigsResource {
        resource_type: resource.0,
        resource_name: kafka_string(resource.1),
        configs: configs.collect(),
        ..Default::default()
    };
    let resources = vec![resource];
    let data =
        alter_configs_request::AlterConfigsRequestData { resources, validate_only, ..Default::default() };
    let Response::AlterConfigs(response) = world.ask(2, &Request::AlterConfigs(data)) else {
        panic!("another response")
    };
    code(response.responses[0].error_code)
}

#[test]
fn topics_are_described() {
    let mut world = World::new();
    assert_eq!(alter(&mut world, (TOPIC, ORDERS), &[("retention.ms", SET, Some("1000"))]), ErrorCode::None);
    let result = describe(&mut world, (TOPIC, ORDERS), Default::default());
    assert_eq!(code(result.error_code), ErrorCode::None);
    let retention = config(&result, "retention.ms");
    assert_eq!((value(retention), retention.config_source, retention.config_type), ("1000", 1, 5));
    assert_eq!((retention.synonyms.len(), retention.documentation.is_some()), (0, false));
    let preallocate = config(&result, "preallocate");
    assert_eq!((value(preallocate), preallocate.config_source, preallocate.read_only), ("false", 5, true));

    let everything = DescribeConfigsRequestData {
        include_synonyms: true,
        include_documentation: true,
        ..Default::default()
    };
    let result = describe(&mut world, (TOPIC, ORDERS), everything);
    let retention = config(&result, "retention.ms");
    let synonyms: Vec<_> = retention.synonyms.iter().map(|s| (s.name.to_string(), s.source)).collect();
    assert_eq!(synonyms, [("retention.ms".to_owned(), 1), ("log.retention.hours".to_owned(), 5)]);
    assert!(retention.documentation.as_ref().is_some_and(|text| !text.is_empty()));
}

#[test]
fn names_restrict_what_is_described() {
    let mut world = World::new();
    let mut names = |keys| {
        let result = describe_named(&mut world, (TOPIC, ORDERS), keys, Default::default());
        result.configs.iter().map(|config| config.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(Some(&["segment.ms", "no.such", "retention.ms"])), ["retention.ms", "segment.ms"]);
    assert_eq!(names(Some(&["no.such"])), Vec::<String>::new());
    assert!(names(Some(&[])).len() > 10, "none named means all");
    assert!(names(None).len() > 10);
}

#[test]
fn a_resource_is_described_once_however_often_it_is_named() {
    let resource = |name: &str| DescribeConfigsResource {
        resource_type: TOPIC,
        resource_name: kafka_string(name),
        ..Default::default()
    };
    let resources = [ORDERS, "missing", ORDERS, ORDERS].map(resource).to_vec();
    let request = DescribeConfigsRequestData { resources, ..Default::default() };
    let response = World::new().ask(4, &Request::DescribeConfigs(request));
    let Response::DescribeConfigs(response) = response else { panic!("another response") };
    let names: Vec<&str> = response.results.iter().map(|result| result.resource_name.as_str()).collect();
    assert_eq!(names, [ORDERS, "missing"]);
}

#[test]
fn brokers_are_described() {
    let settings = [("num.partitions", "6"), ("ssl.keystore.password", "hunter2"), ("log.dirs", "/data")];
    let mut world = World::empty(&settings, 1);
    let result = describe(&mut world, (BROKER, "1"), Default::default());
    let partitions = config(&result, "num.partitions");
    assert_eq!((value(partitions), partitions.config_source, partitions.read_only), ("6", 4, false));
    let password = config(&result, "ssl.keystore.password");
    assert_eq!((password.value.clone(), password.is_sensitive), (None, true));
    assert_eq!(value(config(&result, "log.dirs")), "/data");

    assert_eq!(describe(&mut world, (BROKER, ""), Default::default()).configs, []);
    assert_eq!(alter(&mut world, (BROKER, ""), &[("num.partitions", SET, Some("8"))]), ErrorCode::None);
    let result = describe(&mut world, (BROKER, ""), Default::default());
    let partitions = config(&result, "num.partitions");
    assert_eq!((result.configs.len(), value(partitions), partitions.config_source), (1, "8", 3));
    assert_eq!(
        value(config(&describe(&mut world, (BROKER, "1"), Default::default()), "num.partitions")),
        "8"
    );
}

#[test]
fn what_has_no_configurations_is_refused() {
    let mut world = World::new();
    for (resource, expected) in [
        ((TOPIC, "missing"), ErrorCode::UnknownTopicOrPartition),
        ((TOPIC, "a b"), ErrorCode::InvalidTopicException),
        ((TOPIC, ""), ErrorCode::InvalidTopicException),
        ((BROKER, "2"), ErrorCode::InvalidRequest),
        ((BROKER, "one"), ErrorCode::InvalidRequest),
        ((BROKER_LOGGER, "1"), ErrorCode::InvalidRequest),
        ((16, "subscription"), ErrorCode::InvalidRequest),
        ((32, "group"), ErrorCode::InvalidRequest),
        ((0, ORDERS), ErrorCode::InvalidRequest),
        ((-1, ORDERS), ErrorCode::InvalidRequest),
    ] {
        let result = describe(&mut world, resource, Default::default());
        assert_eq!((code(result.error_code), result.configs.len()), (expected, 0), "{resource:?}");
    }
}

#[test]
fn configurations_are_altered_one_by_one() {
    let mut world = World::new();
    let both = [("retention.ms", SET, Some("1000")), ("segment.ms", SET, Some("2000"))];
    assert_eq!(alter(&mut world, (TOPIC, ORDERS), &both), ErrorCode::None);
    assert_eq!(alter(&mut world, (TOPIC, ORDERS), &[("retention.ms", DELETE, None)]), ErrorCode::None);
    let image = world.state.image();
    let configs: Vec<_> = image.topic(ORDERS).expect("a topic").configs.iter().collect();
    assert_eq!(configs, [(&"segment.ms".to_owned(), &"2000".to_owned())]);
}

#[test]
fn alterations_are_refused_one_by_one() {
    let mut world = World::new();
    let good: Operations = &[("retention.ms", SET, Some("1000"))];
    let broker: Operations = &[("num.partitions", SET, Some("8"))];
    for (resource, configs, expected) in [
        ((TOPIC, "missing"), good, ErrorCode::UnknownTopicOrPartition),
        ((TOPIC, ORDERS), &[("no.such", SET, Some("1"))], ErrorCode::InvalidConfig),
        ((TOPIC, ORDERS), &[("retention.ms", SET, Some("never"))], ErrorCode::InvalidConfig),
        ((TOPIC, ORDERS), &[("retention.ms", SET, None)], ErrorCode::InvalidRequest),
        ((TOPIC, ORDERS), &[("retention.ms", 4, Some("1"))], ErrorCode::InvalidRequest),
        (
            (TOPIC, ORDERS),
            &[("retention.ms", SET, Some("1")), ("retention.ms", DELETE, None)],
            ErrorCode::InvalidRequest,
        ),
        ((BROKER, "1"), broker, ErrorCode::InvalidConfig),
        ((BROKER, "2"), broker, ErrorCode::InvalidConfig),
        ((BROKER, "3"), broker, ErrorCode::BrokerIdNotRegistered),
        ((BROKER, ""), &[("broker.draining", SET, Some("true"))], ErrorCode::InvalidConfig),
        ((BROKER, "x"), broker, ErrorCode::InvalidRequest),
        ((BROKER_LOGGER, "1"), good, ErrorCode::InvalidRequest),
        ((16, "subscription"), good, ErrorCode::InvalidRequest),
        ((99, ORDERS), good, ErrorCode::InvalidRequest),
    ] {
        assert_eq!(alter(&mut world, resource, configs), expected, "{resource:?} {configs:?}");
    }
    // Those that stand there twice are refused both times, and do not hinder others.
    let resources = [((TOPIC, ORDERS), good), ((BROKER, ""), broker), ((TOPIC, ORDERS), good)];
    assert_eq!(
        incremental(&mut world, false, &resources),
        [ErrorCode::InvalidRequest, ErrorCode::None, ErrorCode::InvalidRequest]
    );
    assert!(world.state.image().topic(ORDERS).expect("a topic").configs.is_empty());
}

#[test]
fn validation_alters_nothing() {
    let mut world = World::new();
    let resources: [((i8, &str), Operations); 2] = [
        ((TOPIC, ORDERS), &[("retention.ms", SET, Some("1000"))]),
        ((BROKER, ""), &[("num.partitions", SET, Some("0"))]),
    ];
    assert_eq!(incremental(&mut world, true, &resources), [ErrorCode::None, ErrorCode::InvalidConfig]);
    assert_eq!(full(&mut world, true, (TOPIC, ORDERS), &[("retention.ms", Some("1000"))]), ErrorCode::None);
    assert!(world.state.image().topic(ORDERS).expect("a topic").configs.is_empty());
}

#[test]
fn the_older_request_replaces_everything() {
    let mut world = World::new();
    let both = [("retention.ms", Some("1000")), ("segment.ms", Some("2000"))];
    assert_eq!(full(&mut world, false, (TOPIC, ORDERS), &both), ErrorCode::None);
    assert_eq!(full(&mut world, false, (TOPIC, ORDERS), &both[..1]), ErrorCode::None);
    let image = world.state.image();
    let configs: Vec<_> = image.topic(ORDERS).expect("a topic").configs.iter().collect();
    assert_eq!(configs, [(&"retention.ms".to_owned(), &"1000".to_owned())]);
    for (resource, configs, expected) in [
        ((TOPIC, "missing"), &both[..1], ErrorCode::UnknownTopicOrPartition),
        ((TOPIC, ORDERS), &[("retention.ms", None)], ErrorCode::InvalidRequest),
        ((TOPIC, ORDERS), &[("no.such", Some("1"))], ErrorCode::InvalidConfig),
        ((BROKER, "2"), &[], ErrorCode::None),
        ((BROKER_LOGGER, "1"), &[], ErrorCode::InvalidRequest),
    ] {
        assert_eq!(full(&mut world, false, resource, configs), expected, "{resource:?} {configs:?}");
    }
}

#[test]
fn a_topic_that_is_gone_when_its_alteration_commits_is_unknown() {
    let request = incremental_request(false, &[((TOPIC, ORDERS), &[("retention.ms", SET, Some("1000"))])]);
    for (result, expected) in [
        (Ok(Applied::Refused(MetadataError::UnknownTopicId(ORDERS_ID))), ErrorCode::UnknownTopicOrPartition),
        (Err(ErrorCode::RequestTimedOut), ErrorCode::RequestTimedOut),
    ] {
        let answer = |world: &mut World| world.serve(|_| OpResult::Metadata(result.clone()));
        let Response::IncrementalAlterConfigs(response) = World::new().ask_with(1, &request, answer) else {
            panic!("another response")
        };
        assert_eq!(code(response.responses[0].error_code), expected);
    }
}

fn list(version: i16, resource_types: &[i8]) -> (ErrorCode, Vec<(i8, String)>) {
    let data =
        ListConfigResourcesRequestData { resource_types: resource_types.to_vec(), ..Default::default() };
    let Response::ListConfigResources(response) =
        World::new().ask(version, &Request::ListConfigResources(data))
    else {
        panic!("another response")
    };
    let resources = response.config_resources.iter().map(|r| (r.resource_type, r.resource_name.to_string()));
    (code(response.error_code), resources.collect())
}

#[test]
fn resources_are_listed_by_type() {
    let brokers = || [(BROKER, "1".to_owned()), (BROKER, "2".to_owned())].into_iter();
    let topics = || [(TOPIC, ORDERS.to_owned())].into_iter();
    assert_eq!(list(0, &[]), (ErrorCode::None, vec![]), "version 0 means client metrics");
    assert_eq!(list(1, &[]), (ErrorCode::None, brokers().chain(topics()).collect()));
    assert_eq!(list(1, &[TOPIC]), (ErrorCode::None, topics().collect()));
    assert_eq!(list(1, &[BROKER, TOPIC, BROKER]), (ErrorCode::None, brokers().chain(topics()).collect()));
    assert_eq!(list(1, &[BROKER_LOGGER, 16, 32]), (ErrorCode::None, vec![]));
    assert_eq!(list(1, &[TOPIC, 3]), (ErrorCode::UnsupportedVersion, vec![]));
}
