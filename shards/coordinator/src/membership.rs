//! Finds the group of a member's request and refuses what no group needs to see.

use std::sync::Arc;

use types::Now;

use crate::coordinator::GroupCoordinator;
use crate::env::owned;
use crate::group::{ClassicGroup, GroupState, join_error, sync_error};
use crate::join::Join;
use crate::leave::{leave_error, leave_response, leaving_members};
use crate::messages::*;
use crate::{Action, GroupResponse, RequestContext, RequestToken};

impl GroupCoordinator {
    pub(crate) fn on_join(
        &mut self,
        now: Now,
        token: RequestToken,
        context: &RequestContext,
        request: &JoinGroupRequestData,
        actions: &mut Vec<Action>,
    ) {
        let refusal = match Join::new(token, context, request, &self.config) {
            Ok(join) => match self.admit(now, request.group_id.as_str(), &join) {
                Ok(()) => {
                    let group_id = owned(&request.group_id);
                    self.join_admitted(now, &group_id, join, actions);
                    return;
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        let response = join_error(request.member_id.as_str(), refusal);
        self.env(now, actions).respond(token, GroupResponse::JoinGroup(response));
    }

    /// Makes sure that the group is there. A member that has an id can only be one of a group that
    /// exists; one without makes the group.
    fn admit(&mut self, now: Now, group_id: &str, join: &Join<'_>) -> Result<(), ErrorCode> {
        if self.groups.contains_key(group_id) {
            return Ok(());
        }
        if !join.member_id.is_empty() {
            // Groups with members are all in `groups`.
            return Err(ErrorCode::UnknownMemberId);
        }
        if self.groups.len() >= self.config.groups_max {
            return Err(ErrorCode::GroupMaxSizeReached);
        }
        let id: Arc<str> = Arc::from(group_id);
        let group = match self.durable.get(group_id) {
            Some(value) => ClassicGroup::from_value(id.clone(), value),
            None => ClassicGroup::new(id.clone(), Some(now.wall_ms)),
        };
        assert_eq!(group.state, GroupState::Empty, "groups with members are all in `groups`");
        self.groups.insert(id, group);
        Ok(())
    }

    fn join_admitted(&mut self, now: Now, group_id: &Arc<str>, join: Join<'_>, actions: &mut Vec<Action>) {
        let mut ids = std::mem::take(&mut self.member_ids);
        let (group, mut env) = self.split(now, group_id, actions);
        group.expect("admitted").join(&mut env, &mut ids, join);
        self.member_ids = ids;
        self.forget_if_idle(group_id);
    }

    pub(crate) fn on_sync(
        &mut self,
        now: Now,
        token: RequestToken,
        request: SyncGroupRequestData,
        actions: &mut Vec<Action>,
    ) {
        let result = self.validate_sync(&request);
        let member_id = owned(&request.member_id);
        let (group, mut env) = self.split(now, request.group_id.as_str(), actions);
        match (result, group) {
            (Ok(()), Some(group)) if group.state == GroupState::Stable => {
                group.on_synced(&mut env, &member_id);
                let response = group.sync_response(&member_id);
                env.respond(token, GroupResponse::SyncGroup(response));
            }
            (Ok(()), Some(group)) => group.sync(&mut env, token, &member_id, request.assignments),
            (result, _) => {
                let error = result.err().unwrap_or(ErrorCode::UnknownMemberId);
                env.respond(token, GroupResponse::SyncGroup(sync_error(error)));
            }
        }
    }

    fn validate_sync(&self, request: &SyncGroupRequestData) -> Result<(), ErrorCode> {
        if request.group_id.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        let group = self.groups.get(request.group_id.as_str()).ok_or(ErrorCode::UnknownMemberId)?;
        let instance = request.group_instance_id.as_ref().map(KafkaString::as_str);
        group.validate_member(request.member_id.as_str(), instance)?;
        if request.generation_id != group.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        // Sent since v5; what is not sent is not compared.
        let differs = |sent: &Option<KafkaString>, ours: &Option<Arc<str>>| {
            sent.as_ref().is_some_and(|sent| ours.as_deref() != Some(sent.as_str()))
        };
        if differs(&request.protocol_type, &group.protocol_type)
            || differs(&request.protocol_name, &group.protocol_name)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        match group.state {
            GroupState::Empty => Err(ErrorCode::UnknownMemberId),
            GroupState::PreparingRebalance => Err(ErrorCode::RebalanceInProgress),
            GroupState::CompletingRebalance | GroupState::Stable => Ok(()),
        }
    }

    pub(crate) fn on_heartbeat(
        &mut self,
        now: Now,
        token: RequestToken,
        request: &HeartbeatRequestData,
        actions: &mut Vec<Action>,
    ) {
        let result = self.validate_heartbeat(request);
        let (group, mut env) = self.split(now, request.group_id.as_str(), actions);
        let error = match (result, group) {
            (Ok(()), Some(group)) => {
                group.extend_session(&mut env, request.member_id.as_str());
                let rebalances = group.state == GroupState::PreparingRebalance;
                if rebalances { ErrorCode::RebalanceInProgress } else { ErrorCode::None }
            }
            (result, _) => result.err().unwrap_or(ErrorCode::UnknownMemberId),
        };
        let response = HeartbeatResponseData { error_code: error.code(), ..HeartbeatResponseData::default() };
        env.respond(token, GroupResponse::Heartbeat(response));
    }

    fn validate_heartbeat(&self, request: &HeartbeatRequestData) -> Result<(), ErrorCode> {
        if request.group_id.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        let group = self.groups.get(request.group_id.as_str()).ok_or(ErrorCode::UnknownMemberId)?;
        let instance = request.group_instance_id.as_ref().map(KafkaString::as_str);
        group.validate_member(request.member_id.as_str(), instance)?;
        if request.generation_id != group.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        Ok(())
    }

    pub(crate) fn on_leave(
        &mut self,
        now: Now,
        token: RequestToken,
        api_version: i16,
        request: LeaveGroupRequestData,
        actions: &mut Vec<Action>,
    ) {
        if request.group_id.is_empty() {
            let response = GroupResponse::LeaveGroup(leave_error(ErrorCode::InvalidGroupId));
            self.env(now, actions).respond(token, response);
            return;
        }
        let group_id = owned(&request.group_id);
        let leaving = leaving_members(request, api_version);
        let (group, mut env) = self.split(now, &group_id, actions);
        match group {
            Some(group) => group.leave(&mut env, token, api_version, leaving),
            None => {
                let unknown =
                    leaving.into_iter().map(|member| (member, Err(ErrorCode::UnknownMemberId))).collect();
                env.respond(token, GroupResponse::LeaveGroup(leave_response(unknown, api_version)));
            }
        }
        self.forget_if_idle(&group_id);
    }
}
