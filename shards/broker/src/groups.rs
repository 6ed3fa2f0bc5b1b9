//! Consumer groups: requests go to the partition of `__consumer_offsets` that coordinates the group.

use std::collections::HashSet;

use coordinator::{GroupFilter, GroupRequest, GroupResponse, RequestContext};
use protocol::frame::Response;
use protocol::messages::delete_groups_request::DeleteGroupsRequestData;
use protocol::messages::delete_groups_response::{DeletableGroupResult, DeleteGroupsResponseData};
use protocol::messages::describe_groups_request::DescribeGroupsRequestData;
use protocol::messages::describe_groups_response::{DescribeGroupsResponseData, DescribedGroup};
use protocol::messages::heartbeat_response::HeartbeatResponseData;
use protocol::messages::join_group_response::JoinGroupResponseData;
use protocol::messages::leave_group_response::LeaveGroupResponseData;
use protocol::messages::list_groups_request::ListGroupsRequestData;
use protocol::messages::list_groups_response::ListGroupsResponseData;
use protocol::messages::sync_group_response::SyncGroupResponseData;
use protocol::messages::{ErrorCode, KafkaString};

use crate::authorized_operations::{Resource, authorized_operations};
use crate::broker::Target;
use crate::op::{GroupOp, Op, OpResult};
use crate::state::{OFFSETS_TOPIC, State};
use crate::step::{RequestInfo, Step};

/// The operation that brings a request to the coordinator of a consumer group.
pub(crate) fn group_op(
    state: &State,
    context: &RequestContext,
    group_id: &str,
    request: GroupRequest,
) -> Result<(Target, Op), ErrorCode> {
    let (_, group) = state.coordinator_of(group_id).ok_or(ErrorCode::CoordinatorNotAvailable)?;
    Ok((Target::Group(group), Op::Group(GroupOp { group, context: context.clone(), request })))
}

/// What coordinators are told of a request: made once, since it may ask for many groups.
pub(crate) fn context(info: RequestInfo<'_>) -> RequestContext {
    RequestContext {
        api_version: info.api_version,
        client_id: info.client_id.into(),
        client_host: info.client_host.into(),
    }
}

/// What came of a [`GroupOp`].
pub(crate) fn group_result(result: OpResult) -> Result<GroupResponse, ErrorCode> {
    match result {
        OpResult::Group(result) => result,
        other => unreachable!("a group request is answered as such, not by {other:?}"),
    }
}

/// Passes a request on whole and answers with what the coordinator says.
fn forward(
    state: &State,
    info: RequestInfo<'_>,
    group_id: &str,
    request: GroupRequest,
    refuse: fn(ErrorCode) -> Response,
) -> Step {
    match group_op(state, &context(info), group_id, request) {
        Err(error) => Step::Reply(refuse(error)),
        Ok(op) => Step::gather(vec![op], move |_, _, mut results| {
            let result = results.pop().expect("one operation has one result");
            Step::Reply(match group_result(result) {
                Ok(response) => whole_response(response),
                Err(error) => refuse(error),
            })
        }),
    }
}

fn whole_response(response: GroupResponse) -> Response {
    match response {
        GroupResponse::JoinGroup(data) => Response::JoinGroup(data),
        GroupResponse::SyncGroup(data) => Response::SyncGroup(data),
        GroupResponse::Heartbeat(data) => Response::Heartbeat(data),
        GroupResponse::LeaveGroup(data) => Response::LeaveGroup(data),
        other => unreachable!("this request is not passed on whole: {other:?}"),
    }
}

/// JoinGroup, SyncGroup, Heartbeat and LeaveGroup.
pub(crate) fn handle(state: &State, info: RequestInfo<'_>, request: GroupRequest) -> Step {
    let (group_id, refuse): (KafkaString, fn(ErrorCode) -> Response) = match &request {
        GroupRequest::JoinGroup(data) => (data.group_id.clone(), |error| {
            Response::JoinGroup(JoinGroupResponseData {
                error_code: error.code(),
                generation_id: -1,
                // Versions before 7 have no null here (KIP-559).
                protocol_name: Some(KafkaString::default()),
                ..Default::default()
            })
        }),
        GroupRequest::SyncGroup(data) => (data.group_id.clone(), |error| {
            Response::SyncGroup(SyncGroupResponseData { error_code: error.code(), ..Default::default() })
        }),
        GroupRequest::Heartbeat(data) => (data.group_id.clone(), |error| {
            Response::Heartbeat(HeartbeatResponseData { error_code: error.code(), ..Default::default() })
        }),
        GroupRequest::LeaveGroup(data) => (data.group_id.clone(), |error| {
            Response::LeaveGroup(LeaveGroupResponseData { error_code: error.code(), ..Default::default() })
        }),
        other => unreachable!("{other:?} has a handler of its own"),
    };
    forward(state, info, group_id.as_str(), request, refuse)
}

pub(crate) fn describe(state: &State, info: RequestInfo<'_>, request: DescribeGroupsRequestData) -> Step {
    let operations = request.include_authorized_operations;
    each_group(
        state,
        info,
        request.groups,
        GroupRequest::DescribeGroup,
        |group_id, error| DescribedGroup { group_id, error_code: error.code(), ..Default::default() },
        move |response| match response {
            GroupResponse::DescribeGroup(group) => DescribedGroup {
                authorized_operations: authorized_operations(
                    Resource::Group,
                    operations && group.error_code == ErrorCode::None.code(),
                ),
                ..group
            },
            other => unreachable!("DescribeGroup is answered as such, not by {other:?}"),
        },
        |groups| Response::DescribeGroups(DescribeGroupsResponseData { groups, ..Default::default() }),
    )
}

pub(crate) fn delete(state: &State, info: RequestInfo<'_>, request: DeleteGroupsRequestData) -> Step {
    each_group(
        state,
        info,
        request.groups_names,
        GroupRequest::DeleteGroup,
        |group_id, error| DeletableGroupResult { group_id, error_code: error.code(), ..Default::default() },
        |response| match response {
            GroupResponse::DeleteGroup(result) => result,
            other => unreachable!("DeleteGroup is answered as such, not by {other:?}"),
        },
        |results| Response::DeleteGroups(DeleteGroupsResponseData { results, ..Default::default() }),
    )
}

/// Asks the coordinator of each of several groups and answers for all of them, in the same order. A group that is named more
/// than once is answered once: a description may be large, and a request name it very often.
fn each_group<T: 'static>(
    state: &State,
    info: RequestInfo<'_>,
    group_ids: Vec<KafkaString>,
    request: fn(KafkaString) -> GroupRequest,
    refuse: fn(KafkaString, ErrorCode) -> T,
    accept: impl Fn(GroupResponse) -> T + 'static,
    respond: fn(Vec<T>) -> Response,
) -> Step {
    let context = context(info);
    let mut named = HashSet::new();
    let mut ops = Vec::new();
    let mut refused = Vec::new();
    for group_id in group_ids.into_iter().filter(|group_id| named.insert(group_id.clone())) {
        match group_op(state, &context, group_id.as_str(), request(group_id.clone())) {
            Ok(op) => {
                ops.push(op);
                refused.push((group_id, None));
            }
            Err(error) => refused.push((group_id, Some(error))),
        }
    }
    Step::gather(ops, move |_, _, results| {
        let mut results = results.into_iter();
        let answered = refused.into_iter().map(|(group_id, refused)| {
            let outcome = match refused {
                Some(error) => Err(error),
                None => group_result(results.next().expect("every operation has a result")),
            };
            outcome.map_or_else(|error| refuse(group_id, error), &accept)
        });
        Step::Reply(respond(answered.collect()))
    })
}

/// ListGroups asks every coordinator of the cluster that this node leads; the client asks every node.
pub(crate) fn list(state: &State, info: RequestInfo<'_>, request: ListGroupsRequestData) -> Step {
    let context = context(info);
    let filter = GroupFilter::new(&request);
    let mut ops = Vec::new();
    if let Some(topic) = state.image.topic(OFFSETS_TOPIC) {
        for partition in &topic.partitions {
            if state.leader(partition.group).is_some_and(|(node, _)| node == state.config.node) {
                let request = GroupRequest::ListGroups(filter.clone());
                let op = GroupOp { group: partition.group, context: context.clone(), request };
                ops.push((Target::Group(partition.group), Op::Group(op)));
            }
        }
    }
    Step::gather(ops, |_, _, results| {
        let mut response = ListGroupsResponseData::default();
        for result in results {
            let (groups, error) = match group_result(result) {
                Ok(GroupResponse::ListGroups(listed)) => (listed.groups, ErrorCode::from(listed.error_code)),
                Ok(other) => unreachable!("ListGroups is answered as such, not by {other:?}"),
                Err(error) => (Vec::new(), error),
            };
            // The groups of a partition that another node leads by now are listed by that one.
            if !matches!(error, ErrorCode::None | ErrorCode::NotCoordinator) {
                response.error_code = error.code();
            }
            response.groups.extend(groups);
        }
        Step::Reply(Response::ListGroups(response))
    })
}
