//! The phases of a rebalance: members join, a generation starts, the leader's assignment is
//! written and handed out.
//!
//! Functions that may append return the write, for a request that must wait for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::env::{Env, PendingWrite, append_error};
use crate::group::{ClassicGroup, GroupState};
use crate::messages::*;
use crate::records::group_record;
use crate::timers::TimerTask;
use crate::{RequestToken, WriteId};

/// The shortest wait before a join phase in which nobody joined is tried again, whatever rebalance
/// timeout the members ask for: at zero the timer would fire without end.
const EMPTY_JOIN_PHASE_RETRY_MS_MIN: i32 = 1_000;

impl ClassicGroup {
    /// Something about the members changed: rebalance, or go on with the rebalance under way.
    pub(crate) fn rebalance_or_complete_join(&mut self, env: &mut Env<'_>) -> Option<WriteId> {
        match self.state {
            GroupState::PreparingRebalance => self.maybe_complete_join(env),
            _ => self.prepare_rebalance(env),
        }
    }

    /// Starts a join phase. An empty group waits a little, so that members that start together
    /// make one generation.
    pub(crate) fn prepare_rebalance(&mut self, env: &mut Env<'_>) -> Option<WriteId> {
        if self.state == GroupState::CompletingRebalance {
            self.reset_assignment(env, ErrorCode::RebalanceInProgress);
        }
        self.pending_syncs.clear();
        self.cancel_sync_timer(env);
        let is_initial = self.state == GroupState::Empty;
        self.transition_to(env, GroupState::PreparingRebalance);
        if is_initial {
            let delay_ms = env.config.initial_rebalance_delay_ms;
            let remaining_ms = self.rebalance_timeout_ms().saturating_sub(delay_ms).max(0);
            self.new_member_added = false;
            self.arm_join_timer(
                env,
                delay_ms,
                TimerTask::InitialJoin { group: self.id.clone(), delay_ms, remaining_ms },
            );
            return None;
        }
        if self.has_all_members_joined() {
            return self.complete_join(env);
        }
        self.arm_join_timer(env, self.rebalance_timeout_ms(), TimerTask::Join { group: self.id.clone() });
        None
    }

    /// Ends the join phase if it waits for nobody any more. The first one of a group is left to its
    /// timer: more members may come.
    pub(crate) fn maybe_complete_join(&mut self, env: &mut Env<'_>) -> Option<WriteId> {
        if self.state == GroupState::PreparingRebalance
            && self.previous_state != GroupState::Empty
            && self.has_all_members_joined()
        {
            self.complete_join(env)
        } else {
            None
        }
    }

    /// The wait of an empty group is over: once more, if members came and may still be waited for.
    pub(crate) fn on_initial_join_timer(&mut self, env: &mut Env<'_>, delay_ms: i32, remaining_ms: i32) {
        self.join_timer = None;
        if !self.new_member_added || remaining_ms == 0 {
            self.complete_join(env);
            return;
        }
        self.new_member_added = false;
        let next_delay_ms = env.config.initial_rebalance_delay_ms.min(remaining_ms);
        let remaining_ms = remaining_ms.saturating_sub(delay_ms).max(0);
        let task = TimerTask::InitialJoin { group: self.id.clone(), delay_ms: next_delay_ms, remaining_ms };
        self.arm_join_timer(env, next_delay_ms, task);
    }

    pub(crate) fn on_join_timer(&mut self, env: &mut Env<'_>) {
        self.join_timer = None;
        self.complete_join(env);
    }

    /// Ends the join phase: dynamic members that did not rejoin are out, the rest is the next
    /// generation.
    pub(crate) fn complete_join(&mut self, env: &mut Env<'_>) -> Option<WriteId> {
        self.cancel_join_timer(env);
        let gone: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| member.awaiting_join.is_none() && member.group_instance_id.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for member_id in gone {
            self.remove_member(env, &member_id);
        }
        if !self.members.is_empty() && !self.elect_joined_leader() {
            // Only static members are left and none of them rejoined: until their sessions end.
            let wait_ms = self.rebalance_timeout_ms().max(EMPTY_JOIN_PHASE_RETRY_MS_MIN);
            self.arm_join_timer(env, wait_ms, TimerTask::Join { group: self.id.clone() });
            return None;
        }
        self.init_next_generation(env);
        if self.state == GroupState::Empty {
            env.counts.rebalances_completed += 1;
            let value = self.to_value(|_, _| Bytes::new());
            self.writes_in_flight += 1;
            let pending = PendingWrite::EmptyGroup { group: self.id.clone(), leave: None };
            return Some(env.append(vec![group_record(&self.id, &value)], pending));
        }
        self.start_sync_phase(env);
        None
    }

    /// The leader keeps its office if it rejoined; else the first member that did takes it. False if
    /// nobody rejoined.
    fn elect_joined_leader(&mut self) -> bool {
        let leader = self.leader.as_ref().expect("a group with members has a leader");
        if self.members[leader].awaiting_join.is_some() {
            return true;
        }
        let joined = self.members.iter().find(|(_, member)| member.awaiting_join.is_some());
        match joined {
            Some((id, _)) => {
                self.leader = Some(id.clone());
                true
            }
            None => false,
        }
    }

    fn start_sync_phase(&mut self, env: &mut Env<'_>) {
        let member_ids: Vec<_> = self.members.keys().cloned().collect();
        for member_id in member_ids {
            let response = self.join_response(&member_id);
            self.answer_join(env, &member_id, response);
            self.members.get_mut(&member_id).expect("listed above").is_new = false;
            self.extend_session(env, &member_id);
            self.pending_syncs.insert(member_id);
        }
        let deadline_us = env.now.after_ms(i64::from(self.rebalance_timeout_ms()));
        let task = TimerTask::Sync { group: self.id.clone(), generation: self.generation };
        assert!(self.sync_timer.is_none(), "a join phase has no sync timer");
        self.sync_timer = Some(env.timers.arm(deadline_us, task));
    }

    /// Members that did not send SyncGroup within the rebalance timeout are out.
    pub(crate) fn on_sync_timer(&mut self, env: &mut Env<'_>, generation: i32) {
        self.sync_timer = None;
        assert_eq!(generation, self.generation, "the sync timer ends with its generation");
        let late: Vec<_> = self.pending_syncs.iter().cloned().collect();
        assert!(!late.is_empty(), "the sync timer ends with the last member that is late");
        for member_id in late {
            self.remove_member(env, &member_id);
        }
        self.prepare_rebalance(env);
    }

    /// A session ended. True if a member was removed for it.
    pub(crate) fn on_session_timer(&mut self, env: &mut Env<'_>, member_id: &Arc<str>) -> bool {
        if let Some(session) = self.pending_joins.get_mut(member_id) {
            session.timer = None;
            if session.deadline_us > env.now.mono_us {
                self.rearm_session(env, member_id);
                return false;
            }
            self.remove_member(env, member_id);
            self.complete_join_after_removal(env);
            return true;
        }
        let member = self.members.get_mut(member_id).expect("sessions end with their members");
        member.session.timer = None;
        if member.session.deadline_us > env.now.mono_us {
            self.rearm_session(env, member_id);
            return false;
        }
        if member.has_satisfied_heartbeat() {
            // The session starts anew when what it waits for is answered.
            return false;
        }
        self.remove_member(env, member_id);
        match self.state {
            GroupState::Stable | GroupState::CompletingRebalance => {
                self.prepare_rebalance(env);
            }
            GroupState::PreparingRebalance | GroupState::Empty => self.complete_join_after_removal(env),
        }
        true
    }

    fn rearm_session(&mut self, env: &mut Env<'_>, member_id: &Arc<str>) {
        let session = match self.members.get_mut(member_id) {
            Some(member) => &mut member.session,
            None => self.pending_joins.get_mut(member_id).expect("a member or a pending one"),
        };
        let task = TimerTask::Session { group: self.id.clone(), member: member_id.clone() };
        session.timer = Some(env.timers.arm(session.deadline_us, task));
    }

    fn complete_join_after_removal(&mut self, env: &mut Env<'_>) {
        if self.state == GroupState::PreparingRebalance && self.has_all_members_joined() {
            self.complete_join(env);
        }
    }

    /// A SyncGroup of a valid member in CompletingRebalance: it waits for the leader's assignment;
    /// the leader's is written.
    pub(crate) fn sync(
        &mut self,
        env: &mut Env<'_>,
        token: RequestToken,
        member_id: &Arc<str>,
        assignments: Vec<SyncGroupRequestAssignment>,
    ) {
        assert_eq!(self.state, GroupState::CompletingRebalance, "members sync after they joined");
        self.park_sync(env, member_id, token);
        self.on_synced(env, member_id);
        // A second SyncGroup of the leader waits for the assignment that is being written: were it
        // written too, members would have been told another one than the log ends with.
        if !self.is_leader(member_id) || self.assignment_in_flight == Some(self.generation) {
            return;
        }
        let mut assignment: BTreeMap<Arc<str>, Bytes> =
            self.members.keys().map(|id| (id.clone(), Bytes::new())).collect();
        for entry in assignments {
            if let Some(slot) = assignment.get_mut(entry.member_id.as_str()) {
                *slot = Bytes::copy_from_slice(&entry.assignment);
            }
        }
        let assigned_bytes: usize = assignment.values().map(Bytes::len).sum();
        if self.bytes() + assigned_bytes > env.config.group_bytes_max {
            self.fail_assignment(env, ErrorCode::UnknownServerError);
            return;
        }
        let value = self.to_value(|id, _| assignment[id].clone());
        self.assignment_in_flight = Some(self.generation);
        self.writes_in_flight += 1;
        let generation = self.generation;
        let pending = PendingWrite::Assignment { group: self.id.clone(), generation, assignment };
        env.append(vec![group_record(&self.id, &value)], pending);
    }

    /// The member has sent its SyncGroup of this generation.
    pub(crate) fn on_synced(&mut self, env: &mut Env<'_>, member_id: &str) {
        self.pending_syncs.remove(member_id);
        if self.pending_syncs.is_empty() {
            self.cancel_sync_timer(env);
        }
    }

    /// The assignment of a generation is in the log, or will never be. A rebalance may have begun
    /// since; then nobody waits for it.
    pub(crate) fn on_assignment_written(
        &mut self,
        env: &mut Env<'_>,
        generation: i32,
        assignment: &BTreeMap<Arc<str>, Bytes>,
        result: Result<(), ErrorCode>,
    ) {
        if self.assignment_in_flight == Some(generation) {
            self.assignment_in_flight = None;
        }
        if self.state != GroupState::CompletingRebalance || self.generation != generation {
            return;
        }
        if let Err(error) = result {
            self.fail_assignment(env, append_error(error));
            return;
        }
        assert!(self.members.keys().eq(assignment.keys()), "members change only with the generation");
        self.transition_to(env, GroupState::Stable);
        env.counts.rebalances_completed += 1;
        for (member_id, bytes) in assignment {
            self.set_assignment(member_id, bytes.clone());
            let response = self.sync_response(member_id);
            if self.answer_sync(env, member_id, response) {
                self.extend_session(env, member_id);
            }
        }
    }

    fn fail_assignment(&mut self, env: &mut Env<'_>, error: ErrorCode) {
        self.reset_assignment(env, error);
        self.prepare_rebalance(env);
    }

    /// Nobody gets an assignment in this generation.
    fn reset_assignment(&mut self, env: &mut Env<'_>, error: ErrorCode) {
        let member_ids: Vec<_> = self.members.keys().cloned().collect();
        for member_id in member_ids {
            self.set_assignment(&member_id, Bytes::new());
            if self.members[&member_id].awaiting_sync.is_some() {
                self.answer_sync_error(env, &member_id, error);
                self.extend_session(env, &member_id);
            }
        }
    }

    fn arm_join_timer(&mut self, env: &mut Env<'_>, delay_ms: i32, task: TimerTask) {
        assert!(self.join_timer.is_none(), "a join phase has one end");
        self.join_timer = Some(env.timers.arm(env.now.after_ms(i64::from(delay_ms)), task));
    }

    fn cancel_join_timer(&mut self, env: &mut Env<'_>) {
        if let Some(timer) = self.join_timer.take() {
            env.timers.cancel(timer);
        }
    }

    fn cancel_sync_timer(&mut self, env: &mut Env<'_>) {
        if let Some(timer) = self.sync_timer.take() {
            env.timers.cancel(timer);
        }
    }
}
