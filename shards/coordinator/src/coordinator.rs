//! The life of a coordinator: recovery, leadership, requests, completed writes, timers.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use types::Now;

use crate::admin::deleted;
use crate::env::{Env, PendingWrite, Writes, append_error, kafka};
use crate::group::{ClassicGroup, GroupState, join_error, sync_error};
use crate::leave::{leave_error, on_leave_written};
use crate::member_id::MemberIds;
use crate::messages::*;
use crate::offset_store::OffsetStore;
use crate::offsets::{commit_error, commit_failed, delete_error, fetch_error};
use crate::records::{
    DecodedRecord, GroupValue, decode_record, group_record, offset_record, offset_record_bytes,
};
use crate::timers::{TimerTask, Timers};
use crate::{
    Action, CoordinatorRecord, GroupConfig, GroupCounts, GroupGauges, GroupRequest, GroupResponse,
    ReplayError, RequestContext, RequestToken, WriteId,
};

/// The groups and committed offsets of one partition of `__consumer_offsets`.
///
/// Every replica owns one, on the partition's shard, and replays what is committed. The leader's
/// is active: between [`GroupCoordinator::on_elected`] and [`GroupCoordinator::on_resigned`] it takes
/// requests and asks for appends. What was not committed by then is forgotten, as the next leader
/// does not know it.
#[derive(Debug)]
pub struct GroupCoordinator {
    pub(crate) config: GroupConfig,
    is_active: bool,
    pub(crate) member_ids: MemberIds,
    /// Groups as the log has them. Changes in `replay` only.
    pub(crate) durable: BTreeMap<Arc<str>, GroupValue>,
    /// Offsets as the log has them. Changes in `replay` only.
    pub(crate) offsets: OffsetStore,
    /// While active: all groups that have members in the log or here, or wait for some.
    pub(crate) groups: BTreeMap<Arc<str>, ClassicGroup>,
    pub(crate) writes: Writes,
    timers: Timers,
    counts: GroupCounts,
    /// The last group that the running check of offset retention has looked at.
    pub(crate) expiry_cursor: Option<Arc<str>>,
}

impl GroupCoordinator {
    /// An empty coordinator that is not active.
    pub fn new(config: GroupConfig) -> Self {
        Self {
            config,
            is_active: false,
            member_ids: MemberIds::default(),
            durable: BTreeMap::new(),
            offsets: OffsetStore::default(),
            groups: BTreeMap::new(),
            writes: Writes::default(),
            timers: Timers::default(),
            counts: GroupCounts::default(),
            expiry_cursor: None,
        }
    }

    /// Applies one committed record, in the order of the log: in recovery, on followers, and on the
    /// leader just before [`GroupCoordinator::on_written`]. A record that fails changes nothing.
    pub fn replay(&mut self, record: &CoordinatorRecord) -> Result<(), ReplayError> {
        match decode_record(record)? {
            DecodedRecord::Offset(key, Some(value)) => self.offsets.put(key, value),
            DecodedRecord::Offset(key, None) => self.offsets.remove(&key),
            DecodedRecord::Group(group, Some(value)) => {
                self.durable.insert(group, value);
            }
            DecodedRecord::Group(group, None) => {
                self.durable.remove(&group);
            }
        }
        Ok(())
    }

    /// This node leads the partition, and every record committed before was replayed. The sessions
    /// of all members start anew.
    ///
    /// `member_id_seed` is where member ids come from. It must differ for each election and each
    /// start of a process, or ids that an earlier leader gave out would be given out again.
    pub fn on_elected(&mut self, now: Now, member_id_seed: u64) {
        assert!(!self.is_active, "a coordinator is elected once until it resigns");
        assert!(self.groups.is_empty(), "a coordinator that is not active has no live groups");
        self.is_active = true;
        self.member_ids = MemberIds::new(member_id_seed);
        for (id, value) in &self.durable {
            if !value.members.is_empty() {
                self.groups.insert(id.clone(), ClassicGroup::from_value(id.clone(), value));
            }
        }
        let ids: Vec<_> = self.groups.keys().cloned().collect();
        // Nobody waits yet, so starting sessions and rebalances answers nobody.
        let mut actions = Vec::new();
        for id in ids {
            let (group, mut env) = self.split(now, &id, &mut actions);
            let group = group.expect("listed above");
            let members: Vec<_> = group.members.keys().cloned().collect();
            for member_id in &members {
                group.extend_session(&mut env, member_id);
            }
            if members.len() > env.config.members_max {
                // The bound was lowered: all join anew, and the last are turned away.
                group.prepare_rebalance(&mut env);
            }
        }
        assert!(actions.is_empty(), "an election answers nobody and writes nothing");
        self.arm_expiry(now);
    }

    /// This node no longer leads. Answers everybody who waits with NOT_COORDINATOR; writes under way
    /// may be reported later or never.
    pub fn on_resigned(&mut self, actions: &mut Vec<Action>) {
        self.is_active = false;
        let error = ErrorCode::NotCoordinator;
        for pending in self.writes.drain() {
            if let Some((token, response)) = failed_response(pending, error) {
                actions.push(Action::Respond { token, response });
            }
        }
        for group in std::mem::take(&mut self.groups).into_values() {
            for (id, member) in group.members {
                if let Some(token) = member.awaiting_join {
                    let response = GroupResponse::JoinGroup(join_error(&id, error));
                    actions.push(Action::Respond { token, response });
                }
                if let Some(token) = member.awaiting_sync {
                    let response = GroupResponse::SyncGroup(sync_error(error));
                    actions.push(Action::Respond { token, response });
                }
            }
        }
        self.timers.clear();
        self.expiry_cursor = None;
    }

    /// Whether it was elected and has not resigned.
    pub fn is_active(&self) -> bool {
        self.is_active
    }

    /// Handles one request. The token is answered in `actions`, now or in a later call; with
    /// NOT_COORDINATOR if not active.
    pub fn on_request(
        &mut self,
        now: Now,
        token: RequestToken,
        context: &RequestContext,
        request: GroupRequest,
        actions: &mut Vec<Action>,
    ) {
        if !self.is_active {
            let response = error_response(request, ErrorCode::NotCoordinator);
            actions.push(Action::Respond { token, response });
            return;
        }
        let api_version = context.api_version;
        let response = match request {
            GroupRequest::JoinGroup(request) => {
                return self.on_join(now, token, context, &request, actions);
            }
            GroupRequest::SyncGroup(request) => return self.on_sync(now, token, request, actions),
            GroupRequest::Heartbeat(request) => return self.on_heartbeat(now, token, &request, actions),
            GroupRequest::LeaveGroup(request) => {
                return self.on_leave(now, token, api_version, request, actions);
            }
            GroupRequest::OffsetCommit(request) => {
                return self.on_offset_commit(now, token, context, request, actions);
            }
            GroupRequest::DeleteGroup(id) => return self.on_delete_group(now, token, id, actions),
            GroupRequest::OffsetDelete(request) => {
                return self.on_offset_delete(now, token, &request, actions);
            }
            GroupRequest::OffsetFetch { group, require_stable } => {
                GroupResponse::OffsetFetch(self.on_offset_fetch(&group, require_stable))
            }
            GroupRequest::DescribeGroup(id) => {
                GroupResponse::DescribeGroup(self.on_describe_group(id, api_version))
            }
            GroupRequest::ListGroups(request) => GroupResponse::ListGroups(self.on_list_groups(&request)),
        };
        actions.push(Action::Respond { token, response });
    }

    /// The records of a write are committed and were replayed, or will never be committed. Writes
    /// come back in their order. One of an earlier leadership is ignored.
    pub fn on_written(
        &mut self,
        now: Now,
        write: WriteId,
        result: Result<(), ErrorCode>,
        actions: &mut Vec<Action>,
    ) {
        let Some(pending) = self.writes.take(write) else { return };
        assert!(self.is_active, "a resignation gives up all writes");
        match pending {
            PendingWrite::Assignment { group, generation, assignment } => {
                self.on_group_written(now, &group, actions, |group, env| {
                    group.on_assignment_written(env, generation, &assignment, result);
                });
            }
            PendingWrite::StaticMember { group, generation, replacement } => {
                self.on_group_written(now, &group, actions, |group, env| {
                    group.on_static_member_written(env, generation, replacement, result);
                });
            }
            PendingWrite::EmptyGroup { group, leave } => {
                // Not written, the log keeps a generation that has no members any more. The next
                // leader would expire them; until then this one knows better.
                self.on_group_written(now, &group, actions, |_, env| {
                    if let Some(leave) = leave {
                        on_leave_written(env, leave, result);
                    }
                });
            }
            PendingWrite::OffsetCommit { token, response, keys } => {
                let response = match result {
                    Ok(()) => response,
                    Err(error) => commit_failed(response, error),
                };
                self.counts.offset_commits += if result.is_ok() { keys.len() as u64 } else { 0 };
                self.env(now, actions).respond(token, GroupResponse::OffsetCommit(response));
            }
            PendingWrite::OffsetDelete { token, response, offsets } => {
                let response = match result {
                    Ok(()) => response,
                    Err(error) => delete_error(append_error(error)),
                };
                self.counts.offset_deletions += if result.is_ok() { offsets } else { 0 };
                self.env(now, actions).respond(token, GroupResponse::OffsetDelete(response));
            }
            PendingWrite::DeleteGroup { token, group, offsets, is_last } => {
                self.counts.offset_deletions += if result.is_ok() { offsets } else { 0 };
                self.on_group_deleted(now, token, group, is_last, result, actions);
            }
            // What was not written is found again by the next check.
            PendingWrite::Cleanup { .. } if result.is_err() => {}
            PendingWrite::Cleanup { groups, expired, topics_left } => {
                self.counts.offsets_expired += expired;
                groups.iter().for_each(|group| self.forget_deleted(group));
                self.on_topics_deleted(now, &topics_left, actions);
            }
        }
    }

    /// A record of a group is committed, or will never be.
    fn on_group_written(
        &mut self,
        now: Now,
        group_id: &Arc<str>,
        actions: &mut Vec<Action>,
        handle: impl FnOnce(&mut ClassicGroup, &mut Env<'_>),
    ) {
        let (group, mut env) = self.split(now, group_id, actions);
        let group = group.expect("a group with a write under way is kept");
        group.writes_in_flight -= 1;
        handle(group, &mut env);
        self.forget_if_idle(group_id);
    }

    /// Does what is due at `now`: ends sessions and phases of rebalances, expires offsets.
    pub fn on_timer(&mut self, now: Now, actions: &mut Vec<Action>) {
        let mark = self.timers.mark();
        while let Some(task) = self.timers.pop_due(now.mono_us, mark) {
            self.on_timer_task(now, task, actions);
        }
    }

    fn on_timer_task(&mut self, now: Now, task: TimerTask, actions: &mut Vec<Action>) {
        let id = match &task {
            TimerTask::ExpireOffsets => return self.expire_offsets(now, actions),
            TimerTask::Session { group, .. }
            | TimerTask::InitialJoin { group, .. }
            | TimerTask::Join { group }
            | TimerTask::Sync { group, .. } => group.clone(),
        };
        let (group, mut env) = self.split(now, &id, actions);
        let group = group.expect("the timers of a group end with it");
        match task {
            TimerTask::Session { member, .. } => {
                if group.on_session_timer(&mut env, &member) {
                    env.counts.members_expired += 1;
                }
            }
            TimerTask::InitialJoin { delay_ms, remaining_ms, .. } => {
                group.on_initial_join_timer(&mut env, delay_ms, remaining_ms);
            }
            TimerTask::Join { .. } => group.on_join_timer(&mut env),
            TimerTask::Sync { generation, .. } => group.on_sync_timer(&mut env, generation),
            TimerTask::ExpireOffsets => unreachable!("handled above"),
        }
        self.forget_if_idle(&id);
    }

    /// When [`GroupCoordinator::on_timer`] must be called next, on the monotonic clock, in
    /// microseconds; `None` when not active. It may find nothing to do then.
    pub fn next_deadline_us(&self) -> Option<u64> {
        self.timers.next_deadline_us()
    }

    /// Whether a group of that id exists, if only as the owner of committed offsets.
    pub fn has_group(&self, group_id: &str) -> bool {
        self.groups.contains_key(group_id)
            || self.durable.contains_key(group_id)
            || self.offsets.group(group_id).is_some()
    }

    /// The records that give the durable state again: one for each group and each offset. Their owner appends them, when the
    /// log has grown far beyond them, and lets the log start there. While a write is under way they lack it.
    pub fn snapshot(&self) -> impl Iterator<Item = CoordinatorRecord> + '_ {
        let groups = self.durable.iter().map(|(id, value)| group_record(id, value));
        let offsets = self.offsets.groups().keys().flat_map(|group| {
            self.offsets.group_keys(group).filter_map(|key| {
                let value = self.offsets.get(&key.group, &key.topic, key.partition)?;
                Some(offset_record(&key, value))
            })
        });
        groups.chain(offsets)
    }

    /// Bytes that the records of [`GroupCoordinator::snapshot`] take in batches, at most. Counted without making them all.
    pub fn snapshot_bytes_max(&self) -> usize {
        let groups = self.durable.iter().map(|(id, value)| group_record(id, value).batch_bytes_max());
        let offsets = self.offsets.groups().iter().flat_map(|(group, topics)| {
            topics.iter().flat_map(move |(topic, partitions)| {
                partitions.values().map(move |value| offset_record_bytes(group, topic, &value.metadata))
            })
        });
        groups.chain(offsets).sum()
    }

    /// What there is at present. Goes over all groups with members.
    pub fn gauges(&self) -> GroupGauges {
        let mut gauges = GroupGauges { offsets: self.offsets.len(), ..GroupGauges::default() };
        for group in self.groups.values() {
            gauges.members += group.members.len();
            match group.state {
                GroupState::Empty => {}
                GroupState::PreparingRebalance => gauges.preparing_rebalance += 1,
                GroupState::CompletingRebalance => gauges.completing_rebalance += 1,
                GroupState::Stable => gauges.stable += 1,
            }
        }
        gauges
    }

    /// What happened since this was asked last.
    pub fn take_counts(&mut self) -> GroupCounts {
        mem::take(&mut self.counts)
    }

    /// Panics if the coordinator contradicts itself. Goes over all groups; for sweeps of the
    /// simulator and of tests.
    pub fn assert_invariants(&self) {
        if !self.is_active {
            assert!(self.groups.is_empty(), "only the leader has live groups");
            assert!(self.timers.next_deadline_us().is_none(), "only the leader has deadlines");
            return;
        }
        let mut timers = 1;
        for (id, group) in &self.groups {
            group.assert_invariants(|timer| self.timers.contains(timer));
            timers += group.timers();
            let Some(value) = self.durable.get(id) else { continue };
            assert!(group.generation >= value.generation, "{id}: the log is never ahead");
        }
        assert_eq!(timers, self.timers.len(), "each timer belongs to a group or to the retention check");
        for (id, value) in &self.durable {
            let is_known = value.members.is_empty() || self.groups.contains_key(id);
            assert!(is_known, "{id}: groups with members are live");
        }
    }

    /// Panics if a group that is settled, with nothing being written, is not as the log has it.
    /// Holds as long as no write failed; for tests and the simulator.
    pub fn assert_matches_log(&self) {
        for (id, group) in &self.groups {
            if group.state != GroupState::Stable || group.writes_in_flight > 0 {
                continue;
            }
            let logged = self.durable.get(id).expect("a stable group is in the log");
            let mut live = group.to_value(|_, member| member.assignment.clone());
            // The record says when its writing began, the group when it was done.
            live.state_timestamp_ms = logged.state_timestamp_ms;
            assert_eq!(live, *logged, "{id}: the leader knows what the log knows");
        }
    }

    /// The surroundings of a handler that needs no group.
    pub(crate) fn env<'a>(&'a mut self, now: Now, actions: &'a mut Vec<Action>) -> Env<'a> {
        Env {
            now,
            config: &self.config,
            timers: &mut self.timers,
            writes: &mut self.writes,
            counts: &mut self.counts,
            actions,
        }
    }

    /// A live group and the surroundings of its handler.
    pub(crate) fn split<'a>(
        &'a mut self,
        now: Now,
        group_id: &str,
        actions: &'a mut Vec<Action>,
    ) -> (Option<&'a mut ClassicGroup>, Env<'a>) {
        let group = self.groups.get_mut(group_id);
        let env = Env {
            now,
            config: &self.config,
            timers: &mut self.timers,
            writes: &mut self.writes,
            counts: &mut self.counts,
            actions,
        };
        (group, env)
    }

    /// Drops a live group of which the log knows as much, so that memory goes with members.
    pub(crate) fn forget_if_idle(&mut self, group_id: &str) {
        let Some(group) = self.groups.get(group_id) else { return };
        let logged = match self.durable.get(group_id) {
            Some(value) => value.members.is_empty() && value.generation == group.generation,
            // A group that was left while its record could not be written keeps its generation
            // until the retention check finds it.
            None => group.generation == 0,
        };
        if group.is_idle() && logged {
            self.groups.remove(group_id);
        }
    }

    /// Drops what is left of a deleted group, unless somebody joined it since.
    pub(crate) fn forget_deleted(&mut self, group_id: &str) {
        if self.groups.get(group_id).is_some_and(ClassicGroup::is_idle) {
            self.groups.remove(group_id);
        }
    }

    /// The next turn of the retention check: at once while a check is under way.
    pub(crate) fn arm_expiry(&mut self, now: Now) {
        let wait_ms = match self.expiry_cursor {
            Some(_) => 0,
            None => self.config.offsets_retention_check_interval_ms.max(1),
        };
        self.timers.arm(now.after_ms(wait_ms), TimerTask::ExpireOffsets);
    }
}

/// The answer to whoever waits for a write that is given up.
fn failed_response(pending: PendingWrite, error: ErrorCode) -> Option<(RequestToken, GroupResponse)> {
    match pending {
        // Their requests wait in the members of the group.
        PendingWrite::Assignment { .. } | PendingWrite::StaticMember { .. } => None,
        PendingWrite::EmptyGroup { leave, .. } => {
            leave.map(|leave| (leave.token, GroupResponse::LeaveGroup(leave_error(error))))
        }
        PendingWrite::OffsetCommit { token, response, .. } => {
            Some((token, GroupResponse::OffsetCommit(commit_failed(response, error))))
        }
        PendingWrite::OffsetDelete { token, .. } => {
            Some((token, GroupResponse::OffsetDelete(delete_error(error))))
        }
        PendingWrite::DeleteGroup { token, group, .. } => {
            Some((token, GroupResponse::DeleteGroup(deleted(kafka(&group), error))))
        }
        PendingWrite::Cleanup { .. } => None,
    }
}

/// The answer with one error for the whole request, in the form of each API.
pub(crate) fn error_response(request: GroupRequest, error: ErrorCode) -> GroupResponse {
    match request {
        GroupRequest::JoinGroup(request) => {
            GroupResponse::JoinGroup(join_error(request.member_id.as_str(), error))
        }
        GroupRequest::SyncGroup(_) => GroupResponse::SyncGroup(sync_error(error)),
        GroupRequest::Heartbeat(_) => GroupResponse::Heartbeat(HeartbeatResponseData {
            error_code: error.code(),
            ..HeartbeatResponseData::default()
        }),
        GroupRequest::LeaveGroup(_) => GroupResponse::LeaveGroup(leave_error(error)),
        GroupRequest::OffsetCommit(request) => GroupResponse::OffsetCommit(commit_error(&request, error)),
        GroupRequest::OffsetFetch { group, .. } => GroupResponse::OffsetFetch(fetch_error(&group, error)),
        GroupRequest::DescribeGroup(group_id) => GroupResponse::DescribeGroup(DescribedGroup {
            error_code: error.code(),
            group_id,
            ..DescribedGroup::default()
        }),
        GroupRequest::ListGroups(_) => GroupResponse::ListGroups(ListGroupsResponseData {
            error_code: error.code(),
            ..ListGroupsResponseData::default()
        }),
        GroupRequest::DeleteGroup(group_id) => GroupResponse::DeleteGroup(deleted(group_id, error)),
        GroupRequest::OffsetDelete(_) => GroupResponse::OffsetDelete(delete_error(error)),
    }
}
