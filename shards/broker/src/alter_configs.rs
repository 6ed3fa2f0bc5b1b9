//! IncrementalAlterConfigs (key 44, KIP-339) and the older AlterConfigs (key 33), which replaces everything.

use std::collections::HashMap;

use metadata::{
    Command, ConfigOperation, ConfigOperationKind, ConfigResource, plan_alter_configs,
    plan_incremental_alter, resolve_config_resource,
};
use protocol::frame::Response;
use protocol::messages::alter_configs_request::{self, AlterConfigsRequestData};
use protocol::messages::alter_configs_response::{self, AlterConfigsResponseData};
use protocol::messages::incremental_alter_configs_request::{self, IncrementalAlterConfigsRequestData};
use protocol::messages::incremental_alter_configs_response::{self, IncrementalAlterConfigsResponseData};
use protocol::messages::{ErrorCode, KafkaString, kafka_string};

use crate::configs::{BROKER, TOPIC, no_configurations};
use crate::proposals::{CHANGE_TIMEOUT_MS, Proposals, Refusal};
use crate::state::State;
use crate::step::{RequestInfo, Step};

/// A resource as the request names it: type and name.
type Named = (i8, KafkaString);

pub(crate) fn incremental(
    state: &State,
    info: RequestInfo<'_>,
    request: IncrementalAlterConfigsRequestData,
) -> Step {
    let resources = request
        .resources
        .into_iter()
        .map(|resource| ((resource.resource_type, resource.resource_name), resource.configs));
    let proposals = plan(state, info, request.validate_only, resources.collect(), |resource, configs| {
        let operations = configs.iter().map(operation).collect::<Result<Vec<_>, _>>()?;
        Ok(plan_incremental_alter(&state.image, resource, &operations)?)
    });
    proposals.gather(|_, outcomes| {
        let responses = outcomes.into_iter().map(|((resource_type, resource_name), outcome)| {
            let (error, error_message) = told(outcome);
            incremental_alter_configs_response::AlterConfigsResourceResponse {
                error_code: error.code(),
                error_message,
                resource_type,
                resource_name,
                ..Default::default()
            }
        });
        let response =
            IncrementalAlterConfigsResponseData { responses: responses.collect(), ..Default::default() };
        Step::Reply(Response::IncrementalAlterConfigs(response))
    })
}

pub(crate) fn full(state: &State, info: RequestInfo<'_>, request: AlterConfigsRequestData) -> Step {
    let resources = request
        .resources
        .into_iter()
        .map(|resource| ((resource.resource_type, resource.resource_name), resource.configs));
    let proposals = plan(state, info, request.validate_only, resources.collect(), |resource, configs| {
        let value = |config: &alter_configs_request::AlterableConfig| {
            (config.name.to_string(), config.value.as_ref().map(KafkaString::to_string))
        };
        let configs: Vec<(String, Option<String>)> = configs.iter().map(value).collect();
        Ok(plan_alter_configs(&state.image, resource, &configs)?)
    });
    proposals.gather(|_, outcomes| {
        let responses = outcomes.into_iter().map(|((resource_type, resource_name), outcome)| {
            let (error, error_message) = told(outcome);
            alter_configs_response::AlterConfigsResourceResponse {
                error_code: error.code(),
                error_message,
                resource_type,
                resource_name,
                ..Default::default()
            }
        });
        let response = AlterConfigsResponseData { responses: responses.collect(), ..Default::default() };
        Step::Reply(Response::AlterConfigs(response))
    })
}

/// A resource that stands in the request twice is refused both times.
fn plan<C>(
    state: &State,
    info: RequestInfo<'_>,
    validate_only: bool,
    resources: Vec<(Named, Vec<C>)>,
    plan_one: impl Fn(ConfigResource, &[C]) -> Result<Command, Refusal>,
) -> Proposals<Named> {
    let mut mentions: HashMap<Named, usize> = HashMap::new();
    for (named, _) in &resources {
        *mentions.entry(named.clone()).or_default() += 1;
    }
    let mut proposals = Proposals::new(validate_only, info.now.after_ms(CHANGE_TIMEOUT_MS));
    for (named, configs) in resources {
        let planned = match mentions[&named] {
            1 => resolve(state, &named).and_then(|resource| plan_one(resource, &configs)),
            _ => Err(Refusal::new(ErrorCode::InvalidRequest, "the resource stands there twice")),
        };
        proposals.push(named, planned);
    }
    proposals
}

fn resolve(state: &State, (resource_type, name): &Named) -> Result<ConfigResource, Refusal> {
    match *resource_type {
        BROKER | TOPIC => {}
        other => return Err(no_configurations(other)),
    }
    Ok(resolve_config_resource(&state.image, *resource_type, name.as_str())?)
}

fn operation(
    config: &incremental_alter_configs_request::AlterableConfig,
) -> Result<ConfigOperation, Refusal> {
    let kind = ConfigOperationKind::from_code(config.config_operation).ok_or_else(|| {
        Refusal::new(ErrorCode::InvalidRequest, "there is no such operation on a configuration")
    })?;
    let value = config.value.as_ref().map(KafkaString::to_string);
    Ok(ConfigOperation { name: config.name.to_string(), kind, value })
}

fn told(outcome: Result<(), Refusal>) -> (ErrorCode, Option<KafkaString>) {
    match outcome.map_err(Refusal::by_name) {
        Ok(()) => (ErrorCode::None, None),
        Err(Refusal { code, message }) => (code, message.as_deref().map(kafka_string)),
    }
}
