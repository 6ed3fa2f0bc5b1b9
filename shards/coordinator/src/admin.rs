//! DescribeGroups, ListGroups and DeleteGroups.

use std::sync::Arc;

use types::Now;

use crate::coordinator::GroupCoordinator;
use crate::env::{PendingWrite, kafka, owned};
use crate::group::{ClassicGroup, GroupState};
use crate::messages::*;
use crate::records::group_tombstone;
use crate::{Action, GroupResponse, RequestToken};

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

    pub(crate) fn on_list_groups(&self, request: &ListGroupsRequestData) -> ListGroupsResponseData {
        let wants = |filter: &[KafkaString], value: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.as_str().eq_ignore_ascii_case(value))
        };
        let mut response = ListGroupsResponseData::default();
        if !wants(&request.types_filter, CLASSIC) {
            return response;
        }
        let mut list = |id: &Arc<str>, state: GroupState, protocol_type: &str| {
            if wants(&request.states_filter, state.name()) {
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
        let error = match self.groups.get(group_id.as_str()) {
            Some(group) if group.state != GroupState::Empty => Some(ErrorCode::NonEmptyGroup),
            Some(_) => None,
            None if self.has_group(group_id.as_str()) => None,
            None => Some(ErrorCode::GroupIdNotFound),
        };
        if let Some(error) = error {
            let response = GroupResponse::DeleteGroup(deleted(group_id, error));
            self.env(now, actions).respond(token, response);
            return;
        }
        let group = owned(&group_id);
        let mut records = self.group_offset_tombstones(&group);
        let offsets = records.len() as u64;
        records.push(group_tombstone(&group));
        self.env(now, actions).append(records, PendingWrite::DeleteGroup { token, group, offsets });
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
