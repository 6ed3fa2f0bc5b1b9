//! Metadata (key 3): brokers, topics and leaders from this shard's image; a missing topic may be made on the way.

use std::collections::{BTreeSet, HashSet};

use metadata::Topic;
use protocol::frame::Response;
use protocol::messages::metadata_request::{MetadataRequestData, MetadataRequestTopic};
use protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponseData, MetadataResponsePartition, MetadataResponseTopic,
};
use protocol::messages::{ErrorCode, kafka_string, kafka_uuid, topic_id};
use types::{NodeId, TopicId};

use crate::authorized_operations::{Resource, authorized_operations};
use crate::broker::Target;
use crate::create_topics::create_internally;
use crate::op::Op;
use crate::state::State;
use crate::step::{RequestInfo, Step};

/// The version from which an empty list of topics means none rather than all.
const EMPTY_MEANS_NONE_VERSION_MIN: i16 = 1;

/// The version from which the client says whether topics may be made; older ones always allow it.
const AUTO_CREATE_FLAG_VERSION_MIN: i16 = 4;

/// The version from which topics may be asked for by id alone (KIP-516); two versions before it have the field.
const TOPIC_ID_VERSION_MIN: i16 = 12;

/// Topics that one request makes; those beyond stay unknown in its answer, and the client's next request makes more.
/// Without a bound one request could fill the cluster.
const TOPICS_MADE_MAX: usize = 1_000;

/// Whether the client wants to know what it may do (KIP-430).
#[derive(Clone, Copy)]
struct OperationsAskedFor {
    cluster: bool,
    topics: bool,
}

pub(crate) fn handle(state: &mut State, info: RequestInfo<'_>, request: MetadataRequestData) -> Step {
    let operations = OperationsAskedFor {
        cluster: request.include_cluster_authorized_operations,
        topics: request.include_topic_authorized_operations,
    };
    let may_create = request.allow_auto_topic_creation || info.api_version < AUTO_CREATE_FLAG_VERSION_MIN;
    let topics = match request.topics {
        Some(topics) if topics.is_empty() && info.api_version < EMPTY_MEANS_NONE_VERSION_MIN => None,
        topics => topics.map(distinct),
    };
    if let Some(topics) = topics.as_ref().filter(|topics| asks_by_id_too_early(info, topics)) {
        return Step::Reply(Response::Metadata(refuse_all(topics)));
    }
    let missing = match &topics {
        Some(topics) if may_create && state.image.broker_defaults().auto_create_topics_enable => {
            missing_names(state, topics)
        }
        _ => BTreeSet::new(),
    };
    let ops = create_missing(state, info, &missing);
    Step::gather(ops, move |state, _, _| Step::Reply(Response::Metadata(respond(state, topics, operations))))
}

/// The topics asked for, each once: an answer can be thousands of times as long as the question.
fn distinct(mut topics: Vec<MetadataRequestTopic>) -> Vec<MetadataRequestTopic> {
    let mut seen = HashSet::new();
    topics.retain(|topic| seen.insert((topic.name.clone(), topic_id(topic.topic_id))));
    topics
}

fn asks_by_id_too_early(info: RequestInfo<'_>, topics: &[MetadataRequestTopic]) -> bool {
    info.api_version < TOPIC_ID_VERSION_MIN
        && topics.iter().any(|topic| topic.name.is_none() || topic_id(topic.topic_id) != TopicId::ZERO)
}

fn refuse_all(topics: &[MetadataRequestTopic]) -> MetadataResponseData {
    let refused = topics.iter().map(|topic| MetadataResponseTopic {
        error_code: ErrorCode::InvalidRequest.code(),
        name: Some(topic.name.clone().unwrap_or_default()),
        ..Default::default()
    });
    MetadataResponseData { topics: refused.collect(), ..Default::default() }
}

/// Names that a topic could have and that none has, each once, as many as may be made at once.
fn missing_names(state: &State, topics: &[MetadataRequestTopic]) -> BTreeSet<String> {
    let names = topics.iter().filter_map(|topic| topic.name.as_ref()).map(|name| name.as_str());
    let missing =
        names.filter(|name| state.image.topic(name).is_none() && metadata::validate_topic_name(name).is_ok());
    let mut found = BTreeSet::new();
    for name in missing {
        if found.len() == TOPICS_MADE_MAX {
            break;
        }
        found.insert(name.to_owned());
    }
    found
}

/// A topic that cannot be made stays unknown in the answer, and does not keep the others from being made.
fn create_missing(state: &mut State, info: RequestInfo<'_>, names: &BTreeSet<String>) -> Vec<(Target, Op)> {
    let mut ops = Vec::new();
    for planned in create_internally(state, info, names.iter().map(String::as_str)) {
        ops.extend(planned.ok());
    }
    ops
}

fn respond(
    state: &State,
    topics: Option<Vec<MetadataRequestTopic>>,
    operations: OperationsAskedFor,
) -> MetadataResponseData {
    let brokers = state.alive_brokers().map(|broker| MetadataResponseBroker {
        node_id: broker.node.0,
        host: kafka_string(broker.host()),
        port: broker.port().into(),
        rack: broker.rack.as_deref().map(kafka_string),
        ..Default::default()
    });
    let described = match topics {
        None => state.image.topics().map(|topic| describe(state, topic, operations)).collect(),
        Some(topics) => topics.into_iter().map(|topic| describe_named(state, topic, operations)).collect(),
    };
    MetadataResponseData {
        brokers: brokers.collect(),
        cluster_id: state.image.cluster_id().map(kafka_string),
        controller_id: state.controller().map_or(-1, |node| node.0),
        topics: described,
        cluster_authorized_operations: authorized_operations(Resource::Cluster, operations.cluster),
        ..Default::default()
    }
}

fn describe_named(
    state: &State,
    asked: MetadataRequestTopic,
    operations: OperationsAskedFor,
) -> MetadataResponseTopic {
    let id = topic_id(asked.topic_id);
    let found = match &asked.name {
        Some(name) => state.image.topic(name.as_str()).ok_or_else(|| {
            match metadata::validate_topic_name(name.as_str()) {
                Ok(()) => ErrorCode::UnknownTopicOrPartition,
                Err(error) => error.error_code(),
            }
        }),
        None if id == TopicId::ZERO => Err(ErrorCode::InvalidTopicException),
        None => state.image.topic_by_id(id).ok_or(ErrorCode::UnknownTopicId),
    };
    match found {
        Ok(topic) => describe(state, topic, operations),
        Err(error) => MetadataResponseTopic {
            error_code: error.code(),
            topic_authorized_operations: authorized_operations(
                Resource::Topic,
                operations.topics && asked.name.is_some(),
            ),
            name: asked.name,
            topic_id: asked.topic_id,
            ..Default::default()
        },
    }
}

fn describe(state: &State, topic: &Topic, operations: OperationsAskedFor) -> MetadataResponseTopic {
    let partitions = (0i32..).zip(&topic.partitions).map(|(index, partition)| {
        let leader = state.leader(partition.group);
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<i32>>();
        let error = match leader {
            Some(_) => ErrorCode::None,
            None => ErrorCode::LeaderNotAvailable,
        };
        MetadataResponsePartition {
            error_code: error.code(),
            partition_index: index,
            leader_id: leader.map_or(-1, |(node, _)| node.0),
            leader_epoch: leader.map_or(-1, |(_, term)| term.leader_epoch()),
            replica_nodes: ids(&partition.brokers()),
            isr_nodes: ids(&state.in_sync(partition)),
            offline_replicas: ids(&state.offline(partition)),
            ..Default::default()
        }
    });
    MetadataResponseTopic {
        name: Some(kafka_string(&topic.name)),
        topic_id: kafka_uuid(topic.id),
        is_internal: topic.internal,
        partitions: partitions.collect(),
        topic_authorized_operations: authorized_operations(Resource::Topic, operations.topics),
        ..Default::default()
    }
}
