//! JoinGroup.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::env::{Env, PendingWrite, append_error, owned};
use crate::group::{
    ClassicGroup, GroupState, Member, Protocol, Session, StaticReplacement, join_error, protocols_bytes,
};
use crate::member_id::{MEMBER_ID_SUFFIX_BYTES, MemberIds};
use crate::messages::*;
use crate::records::{STRING_BYTES_MAX, group_record};
use crate::{GroupConfig, GroupResponse, RequestContext, RequestToken};

/// The first version that joins in two steps (KIP-394).
const FIRST_VERSION_WITH_MEMBER_ID_REQUIRED: i16 = 4;
/// The first version that can tell a returning leader to keep the assignment (KIP-814).
const FIRST_VERSION_WITH_SKIP_ASSIGNMENT: i16 = 9;
/// Assignors that one member may offer; clients offer a handful.
const PROTOCOLS_PER_MEMBER_MAX: usize = 100;

/// A JoinGroup whose fields are within bounds.
pub(crate) struct Join<'a> {
    pub token: RequestToken,
    pub context: &'a RequestContext,
    /// Empty for a member that has none yet.
    pub member_id: Arc<str>,
    group_instance_id: Option<Arc<str>>,
    protocol_type: Arc<str>,
    protocols: Vec<Protocol>,
    rebalance_timeout_ms: i32,
    session_timeout_ms: i32,
}

impl<'a> Join<'a> {
    pub fn new(
        token: RequestToken,
        context: &'a RequestContext,
        request: &JoinGroupRequestData,
        config: &GroupConfig,
    ) -> Result<Self, ErrorCode> {
        if request.group_id.is_empty() || request.group_id.len() > STRING_BYTES_MAX {
            return Err(ErrorCode::InvalidGroupId);
        }
        let range = config.session_timeout_ms_min..=config.session_timeout_ms_max;
        if !range.contains(&request.session_timeout_ms) {
            return Err(ErrorCode::InvalidSessionTimeout);
        }
        let instance_id_bytes = request.group_instance_id.as_ref().map_or(0, KafkaString::len);
        let fits = request.member_id.len() <= STRING_BYTES_MAX
            && context.client_id.len().max(instance_id_bytes) + MEMBER_ID_SUFFIX_BYTES <= STRING_BYTES_MAX
            && context.client_host.len() <= STRING_BYTES_MAX
            && request.protocol_type.len() <= STRING_BYTES_MAX
            && request.protocols.len() <= PROTOCOLS_PER_MEMBER_MAX
            && request.protocols.iter().all(|protocol| protocol.name.len() <= STRING_BYTES_MAX);
        if !fits {
            return Err(ErrorCode::InvalidRequest);
        }
        let rebalance_timeout_ms = request.rebalance_timeout_ms;
        Ok(Self {
            token,
            context,
            member_id: owned(&request.member_id),
            group_instance_id: request.group_instance_id.as_ref().map(owned),
            protocol_type: owned(&request.protocol_type),
            protocols: distinct_protocols(&request.protocols),
            // Version 0 has none.
            rebalance_timeout_ms: if rebalance_timeout_ms < 0 {
                request.session_timeout_ms
            } else {
                rebalance_timeout_ms
            },
            session_timeout_ms: request.session_timeout_ms,
        })
    }

    fn refuse(&self, env: &mut Env<'_>, told_id: &str, error: ErrorCode) {
        env.respond(self.token, GroupResponse::JoinGroup(join_error(told_id, error)));
    }
}

/// The member's protocols in its order; of a name that comes twice, the first.
fn distinct_protocols(protocols: &[JoinGroupRequestProtocol]) -> Vec<Protocol> {
    let mut seen = BTreeSet::new();
    let first = protocols.iter().filter(|protocol| seen.insert(protocol.name.as_bytes()));
    first
        .map(|protocol| Protocol {
            name: owned(&protocol.name),
            metadata: Bytes::copy_from_slice(&protocol.metadata),
        })
        .collect()
}

impl ClassicGroup {
    pub(crate) fn join(&mut self, env: &mut Env<'_>, ids: &mut MemberIds, join: Join<'_>) {
        if !self.accepts(&join.member_id, env.config) {
            self.remove_member(env, &join.member_id);
            self.maybe_complete_join(env);
            join.refuse(env, "", ErrorCode::GroupMaxSizeReached);
        } else if self.bytes() + protocols_bytes(&join.protocols) > env.config.group_bytes_max {
            join.refuse(env, "", ErrorCode::GroupMaxSizeReached);
        } else if !self.supports_protocols(&join.protocol_type, &join.protocols) {
            join.refuse(env, &join.member_id, ErrorCode::InconsistentGroupProtocol);
        } else if join.member_id.is_empty() {
            self.join_unknown(env, ids, join);
        } else if self.pending_joins.contains_key(&join.member_id) && join.group_instance_id.is_none() {
            let member_id = join.member_id.clone();
            self.add_member(env, member_id, join);
        } else {
            match self.validate_member(&join.member_id, join.group_instance_id.as_deref()) {
                Ok(()) => self.join_known(env, join),
                Err(error) => join.refuse(env, &join.member_id, error),
            }
        }
    }

    /// A member without an id: a static one takes the place of its instance, a dynamic one is given
    /// an id to come back with.
    fn join_unknown(&mut self, env: &mut Env<'_>, ids: &mut MemberIds, join: Join<'_>) {
        let new_id = self.new_member_id(env, ids, &join);
        match &join.group_instance_id {
            Some(instance) => match self.static_members.get(instance).cloned() {
                Some(old_id) => self.replace_static_member(env, &old_id, &new_id, join),
                None => self.add_member(env, new_id, join),
            },
            None if join.context.api_version < FIRST_VERSION_WITH_MEMBER_ID_REQUIRED => {
                self.add_member(env, new_id, join);
            }
            None if self.pending_joins.len() >= env.config.pending_members_max => {
                join.refuse(env, "", ErrorCode::GroupMaxSizeReached);
            }
            None => {
                self.pending_joins.insert(new_id.clone(), Session::default());
                self.extend_session_by(env, &new_id, join.session_timeout_ms);
                join.refuse(env, &new_id, ErrorCode::MemberIdRequired);
            }
        }
    }

    fn new_member_id(&self, env: &Env<'_>, ids: &mut MemberIds, join: &Join<'_>) -> Arc<str> {
        let prefix = join.group_instance_id.as_deref().unwrap_or(&join.context.client_id);
        loop {
            let id = ids.next(env.now, &self.id, prefix);
            if !self.members.contains_key(&*id) && !self.pending_joins.contains_key(&*id) {
                return Arc::from(id);
            }
        }
    }

    fn join_known(&mut self, env: &mut Env<'_>, join: Join<'_>) {
        let is_leader = self.is_leader(&join.member_id);
        let is_unchanged = self.members[&join.member_id].protocols == join.protocols;
        let must_rebalance = match self.state {
            GroupState::Empty => unreachable!("an empty group has no members"),
            GroupState::PreparingRebalance => true,
            // Unchanged, it may not have received the answer to the JoinGroup before.
            GroupState::CompletingRebalance => !is_unchanged,
            // The leader rejoins for reasons that its subscription need not show.
            GroupState::Stable => is_leader || !is_unchanged,
        };
        if !must_rebalance {
            let response = self.join_response(&join.member_id);
            env.respond(join.token, GroupResponse::JoinGroup(response));
            return;
        }
        self.update_member(
            &join.member_id,
            join.protocols,
            join.rebalance_timeout_ms,
            join.session_timeout_ms,
        );
        self.park_join(env, &join.member_id, join.token);
        self.rebalance_or_complete_join(env);
    }

    fn add_member(&mut self, env: &mut Env<'_>, member_id: Arc<str>, join: Join<'_>) {
        if let Some(timer) = self.pending_joins.remove(&member_id).and_then(|session| session.timer) {
            env.timers.cancel(timer);
        }
        if self.state == GroupState::PreparingRebalance && self.previous_state == GroupState::Empty {
            self.new_member_added = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type);
        }
        let member = Member {
            group_instance_id: join.group_instance_id,
            client_id: Arc::from(&*join.context.client_id),
            client_host: Arc::from(&*join.context.client_host),
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            session_timeout_ms: join.session_timeout_ms,
            protocols: join.protocols,
            assignment: Bytes::new(),
            awaiting_join: Some(join.token),
            awaiting_sync: None,
            is_new: true,
            session: Session::default(),
        };
        self.insert_member(member_id.clone(), member);
        // It does not send heartbeats before it has its answer, and a client that gave up waiting
        // would stay for ever.
        self.extend_session_by(env, &member_id, env.config.new_member_join_timeout_ms);
        self.rebalance_or_complete_join(env);
    }

    /// A static member came back (KIP-345). In a stable group whose protocol stays the same nobody
    /// else has to know; its new id is written, so that the next leader knows it too.
    fn replace_static_member(
        &mut self,
        env: &mut Env<'_>,
        old_id: &Arc<str>,
        new_id: &Arc<str>,
        join: Join<'_>,
    ) {
        let old_leader = self.leader.clone();
        self.rename_static_member(env, old_id, new_id);
        let (old_rebalance_timeout_ms, old_session_timeout_ms) = {
            let member = &self.members[new_id];
            (member.rebalance_timeout_ms, member.session_timeout_ms)
        };
        let old_protocols =
            self.update_member(new_id, join.protocols, join.rebalance_timeout_ms, join.session_timeout_ms);
        self.park_join(env, new_id, join.token);
        self.extend_session(env, new_id);
        match self.state {
            GroupState::Empty => unreachable!("an empty group has no members"),
            GroupState::PreparingRebalance => {
                self.maybe_complete_join(env);
            }
            // The leader may be assigning to the old id.
            GroupState::CompletingRebalance => {
                self.prepare_rebalance(env);
            }
            GroupState::Stable if self.protocol_name != Some(self.select_protocol()) => {
                self.prepare_rebalance(env);
            }
            GroupState::Stable => {
                self.subscribed_topics = self.compute_subscribed_topics();
                let replacement = StaticReplacement {
                    old_member_id: old_id.clone(),
                    new_member_id: new_id.clone(),
                    old_leader,
                    old_protocols,
                    old_rebalance_timeout_ms,
                    old_session_timeout_ms,
                    token: join.token,
                    api_version: join.context.api_version,
                };
                let value = self.to_value(|_, member| member.assignment.clone());
                self.writes_in_flight += 1;
                let pending = PendingWrite::StaticMember {
                    group: self.id.clone(),
                    generation: self.generation,
                    replacement,
                };
                env.append(vec![group_record(&self.id, &value)], pending);
            }
        }
    }

    /// The new id of a static member is in the log, or will never be. A rebalance may have begun
    /// since, which answers the JoinGroup itself, or the member may have come back once more.
    pub(crate) fn on_static_member_written(
        &mut self,
        env: &mut Env<'_>,
        generation: i32,
        replacement: StaticReplacement,
        result: Result<(), ErrorCode>,
    ) {
        let new_id = &replacement.new_member_id;
        let waits =
            self.members.get(new_id).is_some_and(|member| member.awaiting_join == Some(replacement.token));
        if self.state != GroupState::Stable || self.generation != generation || !waits {
            return;
        }
        let mut response = self.join_response(new_id);
        match result {
            Ok(()) if replacement.api_version >= FIRST_VERSION_WITH_SKIP_ASSIGNMENT => {
                response.skip_assignment = self.is_leader(new_id);
                self.answer_join(env, new_id, response);
            }
            Ok(()) => {
                // Told that it leads, it would assign; so it is told of the leader that was.
                response.members = Vec::new();
                response.leader = crate::env::kafka(replacement.old_leader.as_deref().unwrap_or(""));
                self.answer_join(env, new_id, response);
            }
            Err(error) => {
                self.answer_join_error(env, new_id, "", append_error(error));
                self.update_member(
                    new_id,
                    replacement.old_protocols,
                    replacement.old_rebalance_timeout_ms,
                    replacement.old_session_timeout_ms,
                );
                self.rename_static_member(env, new_id, &replacement.old_member_id);
                self.subscribed_topics = self.compute_subscribed_topics();
                self.extend_session(env, &replacement.old_member_id);
                return;
            }
        }
        self.extend_session(env, new_id);
    }
}
