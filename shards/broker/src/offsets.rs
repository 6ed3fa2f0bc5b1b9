//! OffsetCommit (key 8) and OffsetFetch (key 9), whose versions differ more than most, and OffsetDelete (key 47).

use std::collections::{HashMap, HashSet};

use coordinator::{GroupRequest, GroupResponse};
use protocol::frame::Response;
use protocol::messages::offset_commit_request::{OffsetCommitRequestData, OffsetCommitRequestTopic};
use protocol::messages::offset_commit_response::{
    OffsetCommitResponseData, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use protocol::messages::offset_delete_request::OffsetDeleteRequestData;
use protocol::messages::offset_delete_response::{
    OffsetDeleteResponseData, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use protocol::messages::offset_fetch_request::{
    OffsetFetchRequestData, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use protocol::messages::offset_fetch_response::{
    OffsetFetchResponseData, OffsetFetchResponseGroup, OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions, OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use protocol::messages::{ErrorCode, KafkaString, KafkaUuid, kafka_string, kafka_uuid, topic_id};
use types::TopicId;

use crate::groups::{context, group_op, group_result};
use crate::state::State;
use crate::step::{RequestInfo, Step};

/// The version from which topics are named by id alone.
const TOPIC_ID_VERSION_MIN: i16 = 10;

/// The version from which OffsetFetch answers with an error of the whole group.
const GROUP_ERROR_VERSION_MIN: i16 = 2;

/// The version from which one OffsetFetch asks for several groups (KIP-709).
const SEVERAL_GROUPS_VERSION_MIN: i16 = 8;

pub(crate) fn commit(state: &State, info: RequestInfo<'_>, mut request: OffsetCommitRequestData) -> Step {
    // Partitions that do not exist are refused here; the coordinator gets the rest.
    let mut refused = Refused::new();
    let mut accepted = Vec::new();
    for mut topic in std::mem::take(&mut request.topics) {
        let id = topic_id(topic.topic_id);
        if info.api_version >= TOPIC_ID_VERSION_MIN
            && let Some(known) = state.image.topic_by_id(id)
        {
            topic.name = kafka_string(&known.name);
        }
        let mut unknown = Vec::new();
        topic.partitions.retain(|partition| {
            match state.locate(topic.name.as_str(), id, partition.partition_index) {
                Ok(_) => true,
                Err(error) => {
                    unknown.push(commit_partition(partition.partition_index, error));
                    false
                }
            }
        });
        if !unknown.is_empty() {
            // A topic may be named more than once, and all that is asked is answered.
            refused.entry((topic.name.clone(), topic.topic_id)).or_default().append(&mut unknown);
        }
        if !topic.partitions.is_empty() {
            accepted.push(topic);
        }
    }
    if accepted.is_empty() && !refused.is_empty() {
        return commit_response(Vec::new(), refused);
    }
    let group_id = request.group_id.clone();
    request.topics = accepted.clone();
    match group_op(state, &context(info), group_id.as_str(), GroupRequest::OffsetCommit(request)) {
        Err(error) => commit_response(refuse_topics(&accepted, error), refused),
        Ok(op) => Step::gather(vec![op], move |_, _, mut results| {
            match group_result(results.pop().expect("one operation has one result")) {
                Ok(GroupResponse::OffsetCommit(response)) => commit_response(response.topics, refused),
                Ok(other) => unreachable!("OffsetCommit is answered as such, not by {other:?}"),
                Err(error) => commit_response(refuse_topics(&accepted, error), refused),
            }
        }),
    }
}

/// Partitions that no coordinator was asked about, by topic.
type Refused = HashMap<(KafkaString, KafkaUuid), Vec<OffsetCommitResponsePartition>>;

fn refuse_topics(topics: &[OffsetCommitRequestTopic], error: ErrorCode) -> Vec<OffsetCommitResponseTopic> {
    let refused = topics.iter().map(|topic| OffsetCommitResponseTopic {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: topic.partitions.iter().map(|p| commit_partition(p.partition_index, error)).collect(),
        ..Default::default()
    });
    refused.collect()
}

fn commit_partition(partition_index: i32, error: ErrorCode) -> OffsetCommitResponsePartition {
    OffsetCommitResponsePartition { partition_index, error_code: error.code(), ..Default::default() }
}

/// One answer for each topic, whether all, some or none of its partitions reached the coordinator.
fn commit_response(mut topics: Vec<OffsetCommitResponseTopic>, mut refused: Refused) -> Step {
    for topic in &mut topics {
        if let Some(mut partitions) = refused.remove(&(topic.name.clone(), topic.topic_id)) {
            topic.partitions.append(&mut partitions);
        }
    }
    let mut rest: Vec<OffsetCommitResponseTopic> = refused
        .into_iter()
        .map(|((name, topic_id), partitions)| OffsetCommitResponseTopic {
            name,
            topic_id,
            partitions,
            ..Default::default()
        })
        .collect();
    rest.sort_by(|a, b| (a.name.as_str(), a.topic_id).cmp(&(b.name.as_str(), b.topic_id)));
    topics.append(&mut rest);
    Step::Reply(Response::OffsetCommit(OffsetCommitResponseData { topics, ..Default::default() }))
}

pub(crate) fn delete(state: &State, info: RequestInfo<'_>, mut request: OffsetDeleteRequestData) -> Step {
    // Partitions that do not exist are refused here; the coordinator gets the rest. Even where nothing is left it is asked: it
    // knows whether there is such a group.
    let mut refused = Vec::new();
    request.topics.retain_mut(|topic| {
        let mut unknown = Vec::new();
        topic.partitions.retain(|partition| {
            match state.locate(topic.name.as_str(), TopicId::ZERO, partition.partition_index) {
                Ok(_) => true,
                Err(error) => {
                    unknown.push(OffsetDeleteResponsePartition {
                        partition_index: partition.partition_index,
                        error_code: error.code(),
                        ..Default::default()
                    });
                    false
                }
            }
        });
        if !unknown.is_empty() {
            let (name, partitions) = (topic.name.clone(), unknown);
            refused.push(OffsetDeleteResponseTopic { name, partitions, ..Default::default() });
        }
        !topic.partitions.is_empty()
    });
    let group_id = request.group_id.clone();
    match group_op(state, &context(info), group_id.as_str(), GroupRequest::OffsetDelete(request)) {
        Err(error) => refuse_delete(error),
        Ok(op) => Step::gather(vec![op], move |_, _, mut results| {
            match group_result(results.pop().expect("one operation has one result")) {
                Ok(GroupResponse::OffsetDelete(response)) => delete_response(response, refused),
                Ok(other) => unreachable!("OffsetDelete is answered as such, not by {other:?}"),
                Err(error) => refuse_delete(error),
            }
        }),
    }
}

fn refuse_delete(error: ErrorCode) -> Step {
    let response = OffsetDeleteResponseData { error_code: error.code(), ..Default::default() };
    Step::Reply(Response::OffsetDelete(response))
}

/// One answer for each topic, as in [`commit_response`]; an error of the whole group stands alone.
fn delete_response(
    mut response: OffsetDeleteResponseData,
    mut topics: Vec<OffsetDeleteResponseTopic>,
) -> Step {
    if response.error_code == ErrorCode::None.code() {
        let positions: HashMap<KafkaString, usize> =
            topics.iter().enumerate().map(|(at, topic)| (topic.name.clone(), at)).collect();
        for topic in response.topics {
            match positions.get(&topic.name) {
                Some(at) => topics[*at].partitions.extend(topic.partitions),
                None => topics.push(topic),
            }
        }
        response.topics = topics;
    }
    Step::Reply(Response::OffsetDelete(response))
}

pub(crate) fn fetch(state: &State, info: RequestInfo<'_>, request: OffsetFetchRequestData) -> Step {
    let require_stable = request.require_stable;
    let mut groups = if info.api_version >= SEVERAL_GROUPS_VERSION_MIN {
        request.groups
    } else {
        vec![single_group(request)]
    };
    drop_repeated(&mut groups);
    let context = context(info);
    let mut ops = Vec::new();
    let mut asked = Vec::with_capacity(groups.len());
    for mut group in groups {
        let unknown = match info.api_version >= TOPIC_ID_VERSION_MIN {
            true => name_topics(state, &mut group),
            false => Vec::new(),
        };
        let only_in_partitions = info.api_version < GROUP_ERROR_VERSION_MIN;
        let named = if only_in_partitions { group.topics.clone().unwrap_or_default() } else { Vec::new() };
        let group_id = group.group_id.clone();
        let request = GroupRequest::OffsetFetch { group, require_stable };
        let refused = group_op(state, &context, group_id.as_str(), request).map(|op| ops.push(op)).err();
        asked.push(AskedGroup { group_id, unknown, named, refused });
    }
    Step::gather(ops, move |state, info, results| {
        let mut results = results.into_iter();
        let answered = asked.into_iter().map(|asked| {
            let outcome = match asked.refused {
                Some(error) => Err(error),
                None => group_result(results.next().expect("every operation has a result")),
            };
            match outcome {
                Ok(GroupResponse::OffsetFetch(group)) => asked.answer(group),
                Ok(other) => unreachable!("OffsetFetch is answered as such, not by {other:?}"),
                Err(error) => {
                    asked.answer(OffsetFetchResponseGroup { error_code: error.code(), ..Default::default() })
                }
            }
        });
        let answered = answered.collect();
        fetch_response(state, info, answered)
    })
}

/// Leaves the first mention of each group, and of each partition of it. An answer has the text that was committed with the
/// offset, so that a small request could ask for more bytes than there is memory.
fn drop_repeated(groups: &mut Vec<OffsetFetchRequestGroup>) {
    let mut named_groups = HashSet::new();
    groups.retain(|group| named_groups.insert(group.group_id.clone()));
    for topics in groups.iter_mut().filter_map(|group| group.topics.as_mut()) {
        // By topic first: a name may be long, and is not to be hashed for each partition.
        let mut named: HashMap<(KafkaString, KafkaUuid), HashSet<i32>> = HashMap::new();
        topics.retain_mut(|topic| {
            let named = named.entry((topic.name.clone(), topic.topic_id)).or_default();
            let asks_for_none = topic.partition_indexes.is_empty();
            topic.partition_indexes.retain(|index| named.insert(*index));
            asks_for_none || !topic.partition_indexes.is_empty()
        });
    }
}

/// One group of an OffsetFetch, with what its answer needs beside that of the coordinator.
struct AskedGroup {
    group_id: KafkaString,
    /// Topics that are asked for by an id that no topic has.
    unknown: Vec<OffsetFetchResponseTopics>,
    /// The topics asked for, in versions that have errors in partitions only.
    named: Vec<OffsetFetchRequestTopics>,
    refused: Option<ErrorCode>,
}

impl AskedGroup {
    fn answer(self, group: OffsetFetchResponseGroup) -> OffsetFetchResponseGroup {
        let mut group = OffsetFetchResponseGroup { group_id: self.group_id, ..group };
        if group.error_code == ErrorCode::None.code() {
            group.topics.extend(self.unknown);
        } else {
            group.topics = self.named.iter().map(|topic| refused_topic(topic, group.error_code)).collect();
        }
        group
    }
}

/// Fills in the names of topics that a request names by id, and takes out those that do not exist.
fn name_topics(state: &State, group: &mut OffsetFetchRequestGroup) -> Vec<OffsetFetchResponseTopics> {
    let mut unknown = Vec::new();
    if let Some(topics) = &mut group.topics {
        topics.retain_mut(|topic| match state.image.topic_by_id(topic_id(topic.topic_id)) {
            Some(known) => {
                topic.name = kafka_string(&known.name);
                true
            }
            None => {
                unknown.push(refused_topic(topic, ErrorCode::UnknownTopicId.code()));
                false
            }
        });
    }
    unknown
}

fn refused_topic(topic: &OffsetFetchRequestTopics, error_code: i16) -> OffsetFetchResponseTopics {
    let partitions = topic.partition_indexes.iter().map(|index| OffsetFetchResponsePartitions {
        partition_index: *index,
        committed_offset: -1,
        committed_leader_epoch: -1,
        metadata: Some(KafkaString::default()),
        error_code,
        ..Default::default()
    });
    OffsetFetchResponseTopics {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: partitions.collect(),
        ..Default::default()
    }
}

/// A request of the versions before several groups, as one group.
fn single_group(request: OffsetFetchRequestData) -> OffsetFetchRequestGroup {
    let topics = request.topics.map(|topics| {
        let named = topics.into_iter().map(|topic| OffsetFetchRequestTopics {
            name: topic.name,
            partition_indexes: topic.partition_indexes,
            ..Default::default()
        });
        named.collect()
    });
    OffsetFetchRequestGroup { group_id: request.group_id, topics, ..Default::default() }
}

fn fetch_response(state: &State, info: RequestInfo<'_>, mut groups: Vec<OffsetFetchResponseGroup>) -> Step {
    let mut response = OffsetFetchResponseData::default();
    if info.api_version >= SEVERAL_GROUPS_VERSION_MIN {
        if info.api_version >= TOPIC_ID_VERSION_MIN {
            for group in &mut groups {
                group.topics.retain_mut(|topic| identify(state, topic));
            }
        }
        response.groups = groups;
    } else if let Some(group) = groups.pop() {
        response.error_code = group.error_code;
        response.topics = group.topics.into_iter().map(single_group_topic).collect();
    }
    Step::Reply(Response::OffsetFetch(response))
}

/// Fills in the id of a topic that has a name only, as all of a group do that was asked for whole. One that is
/// gone has no id to be named by.
fn identify(state: &State, topic: &mut OffsetFetchResponseTopics) -> bool {
    if topic_id(topic.topic_id) == TopicId::ZERO
        && let Some(known) = state.image.topic(topic.name.as_str())
    {
        topic.topic_id = kafka_uuid(known.id);
    }
    topic_id(topic.topic_id) != TopicId::ZERO
}

fn single_group_topic(topic: OffsetFetchResponseTopics) -> OffsetFetchResponseTopic {
    let partitions = topic.partitions.into_iter().map(|partition| OffsetFetchResponsePartition {
        partition_index: partition.partition_index,
        committed_offset: partition.committed_offset,
        committed_leader_epoch: partition.committed_leader_epoch,
        metadata: partition.metadata,
        error_code: partition.error_code,
        ..Default::default()
    });
    OffsetFetchResponseTopic { name: topic.name, partitions: partitions.collect(), ..Default::default() }
}
