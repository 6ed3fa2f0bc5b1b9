//! OffsetForLeaderEpoch (key 23): where an epoch's records end, by which a consumer notices truncation (KIP-320).

use protocol::frame::Response;
use protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderEpochRequestData, OffsetForLeaderPartition,
};
use protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderEpochResponseData, OffsetForLeaderTopicResult,
};
use types::TopicId;

use crate::PartitionError;
use crate::broker::Target;
use crate::op::{Op, OpResult};
use crate::partitions::{Asked, PartitionRequests};
use crate::state::State;
use crate::step::Step;

pub(crate) fn handle(state: &State, request: OffsetForLeaderEpochRequestData) -> Step {
    let mut asked = PartitionRequests::default();
    for topic in request.topics {
        asked.topic(topic.topic.clone(), TopicId::ZERO);
        for partition in topic.partitions {
            asked.question(partition.partition, plan(state, topic.topic.as_str(), &partition));
        }
    }
    asked.gather(None, |_, topics| {
        let topics = topics.into_iter().map(|topic| OffsetForLeaderTopicResult {
            topic: topic.name,
            partitions: topic.partitions.into_iter().map(partition_response).collect(),
            ..Default::default()
        });
        let response = OffsetForLeaderEpochResponseData { topics: topics.collect(), ..Default::default() };
        Step::Reply(Response::OffsetForLeaderEpoch(response))
    })
}

fn plan(
    state: &State,
    topic: &str,
    partition: &OffsetForLeaderPartition,
) -> Result<(Target, Op), PartitionError> {
    let group = state.locate(topic, TopicId::ZERO, partition.partition)?.group;
    let op = Op::OffsetForLeaderEpoch {
        group,
        current_leader_epoch: partition.current_leader_epoch,
        leader_epoch: partition.leader_epoch,
    };
    Ok((Target::Group(group), op))
}

fn partition_response(asked: Asked) -> EpochEndOffset {
    let found = asked.outcome.and_then(|result| match result {
        OpResult::OffsetForLeaderEpoch(found) => found,
        other => unreachable!("OffsetForLeaderEpoch is answered as such, not by {other:?}"),
    });
    let response = EpochEndOffset { partition: asked.index, ..Default::default() };
    match found {
        Ok((leader_epoch, end_offset)) => EpochEndOffset { leader_epoch, end_offset, ..response },
        Err(error) => EpochEndOffset { error_code: error.code.code(), ..response },
    }
}
