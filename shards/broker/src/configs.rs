//! DescribeConfigs (key 32), and what the requests about configurations share.

use std::collections::HashSet;

use metadata::configs::{ConfigEntry, describe_broker, describe_topic};
use protocol::frame::Response;
use protocol::messages::describe_configs_request::{DescribeConfigsRequestData, DescribeConfigsResource};
use protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResponseData, DescribeConfigsResult, DescribeConfigsSynonym,
};
use protocol::messages::{ErrorCode, kafka_string};

use crate::proposals::Refusal;
use crate::state::State;
use crate::step::Step;

// Resource types, with the numbers of Kafka's ConfigResource.Type.
pub(crate) const TOPIC: i8 = 2;
pub(crate) const BROKER: i8 = 4;
pub(crate) const BROKER_LOGGER: i8 = 8;
pub(crate) const CLIENT_METRICS: i8 = 16;
pub(crate) const GROUP: i8 = 32;

pub(crate) fn describe(state: &State, request: DescribeConfigsRequestData) -> Step {
    let shown = Shown { synonyms: request.include_synonyms, documentation: request.include_documentation };
    // Each question once: an answer can be thousands of times as long.
    let mut seen = HashSet::new();
    let mut resources = request.resources;
    resources.retain(|resource| {
        let DescribeConfigsResource { resource_type, resource_name, configuration_keys, .. } = resource;
        seen.insert((*resource_type, resource_name.clone(), configuration_keys.clone()))
    });
    let results = resources.into_iter().map(|resource| describe_resource(state, resource, shown));
    let results = results.collect();
    Step::Reply(Response::DescribeConfigs(DescribeConfigsResponseData { results, ..Default::default() }))
}

/// What the client wants to see beside the values.
#[derive(Clone, Copy)]
struct Shown {
    synonyms: bool,
    documentation: bool,
}

fn describe_resource(
    state: &State,
    resource: DescribeConfigsResource,
    shown: Shown,
) -> DescribeConfigsResult {
    let DescribeConfigsResource { resource_type, resource_name, configuration_keys, .. } = resource;
    let outcome = entries(state, resource_type, resource_name.as_str());
    let result = DescribeConfigsResult { resource_type, resource_name, ..Default::default() };
    match outcome {
        Ok(mut entries) => {
            // An empty list of names asks for all of them, as null does.
            if let Some(wanted) = configuration_keys.filter(|wanted| !wanted.is_empty()) {
                let wanted: HashSet<&str> = wanted.iter().map(|name| name.as_str()).collect();
                entries.retain(|entry| wanted.contains(entry.name.as_str()));
            }
            let configs = entries.into_iter().map(|entry| config(entry, shown)).collect();
            DescribeConfigsResult { configs, ..result }
        }
        Err(Refusal { code, message }) => DescribeConfigsResult {
            error_code: code.code(),
            error_message: message.as_deref().map(kafka_string),
            ..result
        },
    }
}

fn entries(state: &State, resource_type: i8, name: &str) -> Result<Vec<ConfigEntry>, Refusal> {
    match resource_type {
        TOPIC => {
            metadata::validate_topic_name(name)?;
            let topic = state.image.topic(name).ok_or(ErrorCode::UnknownTopicOrPartition)?;
            Ok(describe_topic(&state.image, topic))
        }
        BROKER if name.is_empty() => Ok(describe_broker(&state.image, None)),
        BROKER => {
            check_is_this_node(state, name)?;
            Ok(describe_broker(&state.image, Some(state.config.node)))
        }
        other => Err(no_configurations(other)),
    }
}

/// Only a broker itself knows what it was started with, so that clients ask each at its own address.
fn check_is_this_node(state: &State, name: &str) -> Result<(), Refusal> {
    if name.parse() == Ok(state.config.node.0) {
        return Ok(());
    }
    let message = format!("the resource name must be this broker's id, {}, or empty", state.config.node);
    Err(Refusal { code: ErrorCode::InvalidRequest, message: Some(message) })
}

/// Loggers, client metrics and groups: types that Kafka knows, and any number that it does not.
pub(crate) fn no_configurations(resource_type: i8) -> Refusal {
    let message =
        format!("resources of type {resource_type} have no configurations: only topics and brokers do");
    Refusal { code: ErrorCode::InvalidRequest, message: Some(message) }
}

fn config(entry: ConfigEntry, shown: Shown) -> DescribeConfigsResourceResult {
    let synonyms = entry.synonyms.iter().filter(|_| shown.synonyms).map(|synonym| DescribeConfigsSynonym {
        name: kafka_string(&synonym.name),
        value: synonym.value.as_deref().map(kafka_string),
        source: synonym.source as i8,
        ..Default::default()
    });
    DescribeConfigsResourceResult {
        name: kafka_string(&entry.name),
        value: entry.value.as_deref().map(kafka_string),
        read_only: entry.read_only,
        config_source: entry.source as i8,
        is_sensitive: entry.sensitive,
        synonyms: synonyms.collect(),
        config_type: entry.kind as i8,
        documentation: shown.documentation.then(|| kafka_string(entry.documentation)),
        ..Default::default()
    }
}
