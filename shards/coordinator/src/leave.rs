//! LeaveGroup.

use std::sync::Arc;

use crate::env::{Env, LeaveAnswer, PendingWrite, append_error};
use crate::group::{ClassicGroup, GroupState};
use crate::messages::*;
use crate::{GroupResponse, RequestToken};

/// The first version that names several members (KIP-345).
const FIRST_VERSION_WITH_MEMBERS: i16 = 3;

/// Who leaves: one member before v3, any number since.
pub(crate) fn leaving_members(request: LeaveGroupRequestData, api_version: i16) -> Vec<MemberIdentity> {
    if api_version >= FIRST_VERSION_WITH_MEMBERS {
        request.members
    } else {
        vec![MemberIdentity { member_id: request.member_id, ..MemberIdentity::default() }]
    }
}

/// The response with one error for each member, in the form of the version.
pub(crate) fn leave_response(
    members: Vec<(MemberIdentity, Result<(), ErrorCode>)>,
    api_version: i16,
) -> LeaveGroupResponseData {
    let code = |result: Result<(), ErrorCode>| result.err().unwrap_or(ErrorCode::None).code();
    if api_version < FIRST_VERSION_WITH_MEMBERS {
        let error_code = members.into_iter().next().map_or(0, |(_, result)| code(result));
        return LeaveGroupResponseData { error_code, ..LeaveGroupResponseData::default() };
    }
    let members = members.into_iter().map(|(member, result)| MemberResponse {
        member_id: member.member_id,
        group_instance_id: member.group_instance_id,
        error_code: code(result),
        ..MemberResponse::default()
    });
    LeaveGroupResponseData { members: members.collect(), ..LeaveGroupResponseData::default() }
}

/// A response with one error for the whole request.
pub(crate) fn leave_error(error: ErrorCode) -> LeaveGroupResponseData {
    LeaveGroupResponseData { error_code: error.code(), ..LeaveGroupResponseData::default() }
}

impl ClassicGroup {
    /// Removes the members; the group rebalances once for all of them. If it is empty then, the
    /// answer waits until the log knows.
    pub(crate) fn leave(
        &mut self,
        env: &mut Env<'_>,
        token: RequestToken,
        api_version: i16,
        leaving: Vec<MemberIdentity>,
    ) {
        let members_before = self.members.len();
        let results: Vec<_> = leaving
            .into_iter()
            .map(|member| {
                let result = self.leave_one(env, &member);
                (member, result)
            })
            .collect();
        let members_left = self.members.len() < members_before;
        let response = leave_response(results, api_version);
        let write = match self.state {
            GroupState::Empty => None,
            // It may have waited only for an id that had not joined.
            GroupState::PreparingRebalance => self.maybe_complete_join(env),
            GroupState::Stable | GroupState::CompletingRebalance if members_left => {
                self.prepare_rebalance(env)
            }
            GroupState::Stable | GroupState::CompletingRebalance => None,
        };
        let Some(write) = write else {
            env.respond(token, GroupResponse::LeaveGroup(response));
            return;
        };
        let Some(PendingWrite::EmptyGroup { leave, .. }) = env.writes.get_mut(write) else {
            unreachable!("a rebalance without members appends the empty group");
        };
        *leave = Some(LeaveAnswer { token, response });
    }

    fn leave_one(&mut self, env: &mut Env<'_>, member: &MemberIdentity) -> Result<(), ErrorCode> {
        let instance = member.group_instance_id.as_ref().map(KafkaString::as_str);
        let member_id: Arc<str> = if member.member_id.is_empty() {
            // An administrator names the instance only.
            let current = instance.and_then(|instance| self.static_members.get(instance));
            current.cloned().ok_or(ErrorCode::UnknownMemberId)?
        } else {
            let member_id: Arc<str> = Arc::from(member.member_id.as_str());
            if !self.pending_joins.contains_key(&member_id) {
                self.validate_member(&member_id, instance)?;
            }
            member_id
        };
        self.remove_member(env, &member_id);
        Ok(())
    }
}

/// Answers a LeaveGroup whose record of the empty group was written, or will never be.
pub(crate) fn on_leave_written(env: &mut Env<'_>, leave: LeaveAnswer, result: Result<(), ErrorCode>) {
    let response = match result {
        Ok(()) => leave.response,
        Err(error) => leave_error(append_error(error)),
    };
    env.respond(leave.token, GroupResponse::LeaveGroup(response));
}
