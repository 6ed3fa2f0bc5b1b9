//! DeleteRecords (key 21): moves the first offset of partitions forward (KIP-107).

use metadata::CleanupPolicy;
use protocol::frame::Response;
use protocol::messages::ErrorCode;
use protocol::messages::delete_records_request::DeleteRecordsRequestData;
use protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsResponseData, DeleteRecordsTopicResult,
};
use types::TopicId;

use crate::PartitionError;
use crate::broker::Target;
use crate::op::{Op, OpResult};
use crate::partitions::{Asked, PartitionRequests};
use crate::state::State;
use crate::step::{RequestInfo, Step};

/// The offset that stands for the high watermark.
const HIGH_WATERMARK: i64 = -1;

/// `low_watermark` where nothing was deleted.
const INVALID_LOW_WATERMARK: i64 = -1;

pub(crate) fn handle(state: &State, info: RequestInfo<'_>, request: DeleteRecordsRequestData) -> Step {
    let mut asked = PartitionRequests::default();
    for topic in request.topics {
        asked.topic(topic.name.clone(), TopicId::ZERO);
        for partition in topic.partitions {
            let op = plan(state, topic.name.as_str(), partition.partition_index, partition.offset);
            asked.question(partition.partition_index, op);
        }
    }
    asked.gather(Some(info.now.after_ms(request.timeout_ms.into())), |_, topics| {
        let topics = topics.into_iter().map(|topic| DeleteRecordsTopicResult {
            name: topic.name,
            partitions: topic.partitions.into_iter().map(partition_response).collect(),
            ..Default::default()
        });
        let response = DeleteRecordsResponseData { topics: topics.collect(), ..Default::default() };
        Step::Reply(Response::DeleteRecords(response))
    })
}

fn plan(state: &State, topic: &str, partition: i32, offset: i64) -> Result<(Target, Op), PartitionError> {
    let located = state.locate(topic, TopicId::ZERO, partition)?;
    if located.topic.internal {
        return Err(ErrorCode::InvalidTopicException.into());
    }
    // A compacted log has no first offset that could be moved without losing the last values of keys.
    if located.topic.config.cleanup_policy == CleanupPolicy::Compact {
        return Err(ErrorCode::PolicyViolation.into());
    }
    if offset < HIGH_WATERMARK {
        return Err(ErrorCode::OffsetOutOfRange.into());
    }
    Ok((Target::Group(located.group), Op::DeleteRecords { group: located.group, offset }))
}

fn partition_response(asked: Asked) -> DeleteRecordsPartitionResult {
    let deleted = asked.outcome.and_then(|result| match result {
        OpResult::DeleteRecords(deleted) => deleted,
        OpResult::TimedOut => Err(ErrorCode::RequestTimedOut.into()),
        other => unreachable!("DeleteRecords is answered as such, not by {other:?}"),
    });
    let (error, low_watermark) = match deleted {
        Ok(log_start) => (ErrorCode::None, log_start.0),
        Err(error) => (error.code, INVALID_LOW_WATERMARK),
    };
    DeleteRecordsPartitionResult {
        partition_index: asked.index,
        low_watermark,
        error_code: error.code(),
        ..Default::default()
    }
}
