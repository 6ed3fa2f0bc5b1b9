//! ListConfigResources (key 74): what has configurations (KIP-1142).

use protocol::frame::Response;
use protocol::messages::list_config_resources_request::ListConfigResourcesRequestData;
use protocol::messages::list_config_resources_response::{ConfigResource, ListConfigResourcesResponseData};
use protocol::messages::{ErrorCode, kafka_string};

use crate::configs::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC};
use crate::state::State;
use crate::step::{RequestInfo, Step};

/// The version from which the client names the types; before, it means the subscriptions of client metrics.
const RESOURCE_TYPES_VERSION_MIN: i16 = 1;

const TYPES: &[i8] = &[TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];

pub(crate) fn handle(state: &State, info: RequestInfo<'_>, request: ListConfigResourcesRequestData) -> Step {
    let types = match request.resource_types.as_slice() {
        _ if info.api_version < RESOURCE_TYPES_VERSION_MIN => &[CLIENT_METRICS],
        [] => TYPES,
        types => types,
    };
    if types.iter().any(|resource_type| !TYPES.contains(resource_type)) {
        return reply(ErrorCode::UnsupportedVersion, Vec::new());
    }
    // Loggers, client metrics and groups are types that exist and have no resource here.
    let mut resources = Vec::new();
    if types.contains(&BROKER) {
        let brokers = state.image.brokers().map(|broker| resource(BROKER, &broker.node.to_string()));
        resources.extend(brokers);
    }
    if types.contains(&TOPIC) {
        resources.extend(state.image.topics().map(|topic| resource(TOPIC, &topic.name)));
    }
    reply(ErrorCode::None, resources)
}

fn resource(resource_type: i8, name: &str) -> ConfigResource {
    ConfigResource { resource_name: kafka_string(name), resource_type, ..Default::default() }
}

fn reply(error: ErrorCode, config_resources: Vec<ConfigResource>) -> Step {
    Step::Reply(Response::ListConfigResources(ListConfigResourcesResponseData {
        error_code: error.code(),
        config_resources,
        ..Default::default()
    }))
}
