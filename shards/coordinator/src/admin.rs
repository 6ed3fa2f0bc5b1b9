//! DescribeGroups, ListGroups and DeleteGroups.

use std::sync::Arc;

use types::Now;

use crate::coordinator::GroupCoordinator;
use crate::env::{PendingWrite, append_error, kafka, owned};
use crate::group::{ClassicGroup, GroupState};
use crate::messages::*;
use crate::records::{group_tombstone, group_tombstone_bytes, offset_tombstone, offset_tombstone_bytes};
use crate::{Action, CoordinatorRecord, GroupFilter, GroupResponse, RequestToken, WRITE_BYTES_MAX};

/// The first version of DescribeGroups that says that a group does not exist.
const FIRST_VERSION_WITH_GROUP_ID_NOT_FOUND: i16 = 6;
/// What clients are told of a group that does not exist.
const DEAD: &str = "Dead";
/// Kafka's name of the only type of group here.
const CLASSIC: &str = "classic";

impl GroupCoordinator {
    pub(crate) fn on_describe_group(&self, group_id: KafkaString, api_version: i16) -> DescribedGroup {
        let mut described = DescribedGroup { group_id, ..DescribedGroup::default() };
        let id = described.group_id.as_str();
        if let Some(group) = self.groups.get(id) {
            describe_live(group, &mut described);
        } else if self.has_group(id) {
            described.group_state = kafka(GroupState::Empty.name());
            described.protocol_type = kafka(self.durable_protocol_type(id));
        } else {
            described.group_state = kafka(DEAD);
            if api_version >= FIRST_VERSION_WITH_GROUP_ID_NOT_FOUND {
                described.error_code = ErrorCode::GroupIdNotFound.code();
                described.error_message = Some(kafka(&format!("Group {id} not found.")));
            }
        }
        described
    }

    pub(crate) fn on_list_groups(&self, filter: &GroupFilter) -> ListGroupsResponseData {
        let mut response = ListGroupsResponseData::default();
        if filter.states.is_empty() {
            return response;
        }
        let mut list = |id: &Arc<str>, state: GroupState, protocol_type: &str| {
            if filter.states.contains(&state) {
                response.groups.push(ListedGroup {
                    group_id: kafka(id),
                    protocol_type: kafka(protocol_type),
                    group_state: kafka(state.name()),
                    group_type: kafka(CLASSIC),
                    ..ListedGroup::default()
                });
            }
        };
        for (id, group) in &self.groups {
            list(id, group.state, group.protocol_type.as_deref().unwrap_or(""));
        }
        for id in self.groups_without_members() {
            list(id, GroupState::Empty, self.durable_protocol_type(id));
        }
        response.groups.sort_by(|a, b| a.group_id.as_str().cmp(b.group_id.as_str()));
        response
    }

    /// Groups that only the log knows; none of them has members.
    pub(crate) fn groups_without_members(&self) -> impl Iterator<Item = &Arc<str>> {
        let named = self.durable.keys();
        let simple = self.offsets.groups().keys().filter(|id| !self.durable.contains_key(*id));
        named.chain(simple).filter(|id| !self.groups.contains_key(*id))
    }

    fn durable_protocol_type(&self, group_id: &str) -> &str {
        self.durable.get(group_id).map_or("", |value| &value.protocol_type)
    }

    pub(crate) fn on_delete_group(
        &mut self,
        now: Now,
        token: RequestToken,
        group_id: KafkaString,
        actions: &mut Vec<Action>,
    ) {
        if self.has_group(group_id.as_str()) {
            self.delete_group(now, token, owned(&group_id), actions);
        } else {
            let response = GroupResponse::DeleteGroup(deleted(group_id, ErrorCode::GroupIdNotFound));
            self.env(now, actions).respond(token, response);
        }
    }

    /// Deletes a group, or as many of its offsets as one write takes: the rest when that is written, so that no group is
    /// gone whose offsets are not. Somebody who joins in between keeps the group.
    fn delete_group(&mut self, now: Now, token: RequestToken, group: Arc<str>, actions: &mut Vec<Action>) {
        if self.groups.get(&group).is_some_and(|group| group.state != GroupState::Empty) {
            let response = GroupResponse::DeleteGroup(deleted(kafka(&group), ErrorCode::NonEmptyGroup));
            self.env(now, actions).respond(token, response);
            return;
        }
        let (mut records, is_last) = self.plan_group_tombstones(&group);
        let offsets = records.len() as u64;
        if is_last {
            records.push(group_tombstone(&group));
        }
        self.env(now, actions).append(records, PendingWrite::DeleteGroup { token, group, offsets, is_last });
    }

    /// Tombstones for the offsets of a group, as many as go in one write with that of the group, and whether those are all.
    fn plan_group_tombstones(&self, group: &Arc<str>) -> (Vec<CoordinatorRecord>, bool) {
        let mut bytes = group_tombstone_bytes(group);
        let mut records = Vec::new();
        for key in self.group_offset_keys(group) {
            bytes += offset_tombstone_bytes(&key.group, &key.topic);
            if bytes > WRITE_BYTES_MAX {
                return (records, false);
            }
            records.push(offset_tombstone(&key));
        }
        (records, true)
    }

    /// A write of a group that is being deleted is committed, or will never be.
    pub(crate) fn on_group_deleted(
        &mut self,
        now: Now,
        token: RequestToken,
        group: Arc<str>,
        is_last: bool,
        result: Result<(), ErrorCode>,
        actions: &mut Vec<Action>,
    ) {
        if result.is_ok() && !is_last {
            return self.delete_group(now, token, group, actions);
        }
        if result.is_ok() {
            self.forget_deleted(&group);
        }
        let error = result.err().map_or(ErrorCode::None, append_error);
        let response = GroupResponse::DeleteGroup(deleted(kafka(&group), error));
        self.env(now, actions).respond(token, response);
    }
}

impl GroupFilter {
    /// What a request asks for.
    pub fn new(request: &ListGroupsRequestData) -> GroupFilter {
        let wants = |filter: &[KafkaString], value: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.as_str().eq_ignore_ascii_case(value))
        };
        let is_wanted = |state: &GroupState| {
            wants(&request.types_filter, CLASSIC) && wants(&request.states_filter, state.name())
        };
        GroupFilter { states: GroupState::ALL.into_iter().filter(is_wanted).collect() }
    }
}

fn describe_live(group: &ClassicGroup, described: &mut DescribedGroup) {
    described.group_state = kafka(group.state.name());
    described.protocol_type = kafka(group.protocol_type.as_deref().unwrap_or(""));
    // While a group rebalances, protocol and subscriptions are not settled.
    let protocol = group.protocol_name.as_deref().filter(|_| group.state == GroupState::Stable);
    described.protocol_data = kafka(protocol.unwrap_or(""));
    let members = group.members.iter().map(|(id, member)| DescribedGroupMember {
        member_id: kafka(id),
        group_instance_id: member.group_instance_id.as_deref().map(kafka),
        client_id: kafka(&member.client_id),
        client_host: kafka(&member.client_host),
        member_metadata: protocol.map(|name| member.metadata(name).clone()).unwrap_or_default(),
        member_assignment: member.assignment.clone(),
        ..DescribedGroupMember::default()
    });
    described.members = members.collect();
}

/// The result of deleting one group.
pub(crate) fn deleted(group_id: KafkaString, error: ErrorCode) -> DeletableGroupResult {
    DeletableGroupResult { group_id, error_code: error.code(), ..DeletableGroupResult::default() }
}
