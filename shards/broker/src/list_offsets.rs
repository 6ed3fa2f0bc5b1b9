//! ListOffsets (key 2): offsets by time.

use protocol::frame::Response;
use protocol::messages::list_offsets_request::ListOffsetsRequestData;
use protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponseData, ListOffsetsTopicResponse,
};
use types::TopicId;

use crate::broker::Target;
use crate::op::{ListOffsetsOp, Op, OpResult};
use crate::partitions::{Asked, PartitionRequests};
use crate::state::State;
use crate::step::{RequestInfo, Step};

/// The version from which the response has leader epochs; older ones have no room for them.
const LEADER_EPOCH_VERSION_MIN: i16 = 4;

pub(crate) fn handle(state: &State, info: RequestInfo<'_>, request: ListOffsetsRequestData) -> Step {
    let with_epochs = info.api_version >= LEADER_EPOCH_VERSION_MIN;
    let mut asked = PartitionRequests::default();
    for topic in request.topics {
        asked.topic(topic.name.clone(), TopicId::ZERO);
        for partition in topic.partitions {
            let located = state.locate(topic.name.as_str(), TopicId::ZERO, partition.partition_index);
            let op = located.map(|located| {
                let op = ListOffsetsOp {
                    group: located.group,
                    current_leader_epoch: partition.current_leader_epoch,
                    timestamp: partition.timestamp,
                };
                (Target::Group(located.group), Op::ListOffsets(op))
            });
            asked.question(partition.partition_index, op.map_err(Into::into));
        }
    }
    asked.gather(None, move |_, topics| {
        let topics = topics.into_iter().map(|topic| ListOffsetsTopicResponse {
            name: topic.name,
            partitions: topic
                .partitions
                .into_iter()
                .map(|asked| partition_response(asked, with_epochs))
                .collect(),
            ..Default::default()
        });
        Step::Reply(Response::ListOffsets(ListOffsetsResponseData {
            topics: topics.collect(),
            ..Default::default()
        }))
    })
}

fn partition_response(asked: Asked, with_epochs: bool) -> ListOffsetsPartitionResponse {
    let mut response = ListOffsetsPartitionResponse { partition_index: asked.index, ..Default::default() };
    let found = asked.outcome.and_then(|result| match result {
        OpResult::ListOffsets(found) => found,
        other => unreachable!("ListOffsets is answered as such, not by {other:?}"),
    });
    match found {
        Ok((timestamp, offset, leader_epoch)) => {
            response.timestamp = timestamp;
            response.offset = offset;
            if with_epochs {
                response.leader_epoch = leader_epoch;
            }
        }
        Err(error) => {
            response.error_code = error.code.code();
            response.timestamp = -1;
            response.offset = -1;
        }
    }
    response
}
