//! OffsetCommit, OffsetFetch, OffsetDelete, and the offsets that nobody needs any more.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use types::Now;
use types::limits::TOPIC_NAME_CHARS_MAX;
use types::mutants::{Mutant, is_planted};

use crate::coordinator::GroupCoordinator;
use crate::env::{PendingWrite, append_error, commit_append_error, kafka, owned};
use crate::group::{ClassicGroup, GroupState};
use crate::messages::*;
use crate::records::{
    OffsetKey, OffsetValue, STRING_BYTES_MAX, offset_record, offset_record_bytes, offset_tombstone,
    offset_tombstone_bytes,
};
use crate::tombstones::{TombstoneWrite, Tombstones};
use crate::{Action, CoordinatorRecord, GroupResponse, RequestContext, RequestToken, WRITE_BYTES_MAX};

/// The first version that knows GROUP_ID_NOT_FOUND.
const FIRST_VERSION_WITH_GROUP_ID_NOT_FOUND: i16 = 9;
/// The value of `retention_time_ms` that asks for the broker's retention.
const DEFAULT_RETENTION_TIME_MS: i64 = -1;
/// What a fetch answers for a partition without a committed offset.
const NO_OFFSET: i64 = -1;
const NO_LEADER_EPOCH: i32 = -1;
/// Groups looked at in one turn of the retention check.
const EXPIRY_GROUPS_PER_TURN: usize = 256;

impl GroupCoordinator {
    pub(crate) fn on_offset_commit(
        &mut self,
        now: Now,
        token: RequestToken,
        context: &RequestContext,
        request: OffsetCommitRequestData,
        actions: &mut Vec<Action>,
    ) {
        if let Err(error) = self.validate_offset_commit(context.api_version, &request) {
            let response = commit_error(&request, error);
            self.env(now, actions).respond(token, GroupResponse::OffsetCommit(response));
            return;
        }
        let group_id = owned(&request.group_id);
        {
            let (group, mut env) = self.split(now, &group_id, actions);
            if let Some(group) = group
                && matches!(group.state, GroupState::Stable | GroupState::PreparingRebalance)
            {
                group.extend_session(&mut env, request.member_id.as_str());
            }
        }
        let (response, records, keys) = self.plan_commit(now, &group_id, &request);
        let mut env = self.env(now, actions);
        if records.is_empty() {
            env.respond(token, GroupResponse::OffsetCommit(response));
        } else {
            env.append(records, PendingWrite::OffsetCommit { token, response, keys });
        }
    }

    /// The records of a commit, their keys, and the response once they are written. Partitions that
    /// may not be stored have their error in it and no record.
    fn plan_commit(
        &self,
        now: Now,
        group_id: &Arc<str>,
        request: &OffsetCommitRequestData,
    ) -> (OffsetCommitResponseData, Vec<CoordinatorRecord>, Vec<OffsetKey>) {
        let mut response = commit_error(request, ErrorCode::None);
        let stored = self.offsets.group(group_id);
        let has_room_for_group =
            self.has_group(group_id) || self.offsets.groups().len() < self.config.groups_max;
        let room_for_new =
            self.config.offsets_max.saturating_sub(self.offsets.len() + self.writes.offsets_in_flight());
        // A partition may be named more than once. The last one is what is committed, and all are answered.
        let mut accepted = BTreeMap::new();
        for (topic, answers) in request.topics.iter().zip(&mut response.topics) {
            let topic_name = owned(&topic.name);
            let stored = stored.and_then(|topics| topics.get(&topic_name));
            for (partition, answer) in topic.partitions.iter().zip(&mut answers.partitions) {
                let name = (topic_name.clone(), partition.partition_index);
                let is_known = stored.is_some_and(|partitions| partitions.contains_key(&name.1))
                    || accepted.contains_key(&name);
                match self.check_committed(&topic_name, partition) {
                    Err(error) => answer.error_code = error.code(),
                    Ok(()) if !has_room_for_group || (!is_known && accepted.len() >= room_for_new) => {
                        answer.error_code = ErrorCode::InvalidCommitOffsetSize.code();
                    }
                    Ok(()) => {
                        accepted.insert(name, partition);
                    }
                }
            }
        }
        // Before any is made: each has the whole name of the group, so that they may be far more than the request.
        let bytes: usize = accepted
            .iter()
            .map(|((topic, _), partition)| {
                offset_record_bytes(group_id, topic, committed_metadata(partition))
            })
            .sum();
        if bytes > WRITE_BYTES_MAX {
            return (commit_failed(response, ErrorCode::MessageTooLarge), Vec::new(), Vec::new());
        }
        let mut records = Vec::with_capacity(accepted.len());
        let mut keys = Vec::with_capacity(accepted.len());
        for ((topic, partition_index), partition) in accepted {
            let key = OffsetKey { group: group_id.clone(), topic, partition: partition_index };
            let value = committed_value(now, partition, request.retention_time_ms);
            records.push(offset_record(&key, &value));
            keys.push(key);
        }
        (response, records, keys)
    }

    /// Who may commit: a member of the present generation outside the sync phase, and anybody
    /// without a generation while the group is empty.
    fn validate_offset_commit(
        &self,
        api_version: i16,
        request: &OffsetCommitRequestData,
    ) -> Result<(), ErrorCode> {
        if request.group_id.len() > STRING_BYTES_MAX {
            return Err(ErrorCode::InvalidGroupId);
        }
        let generation = request.generation_id_or_member_epoch;
        let group_id = request.group_id.as_str();
        let instance = request.group_instance_id.as_ref().map(KafkaString::as_str);
        let Some(group) = self.groups.get(group_id) else {
            return match (generation < 0, self.has_group(group_id)) {
                (true, _) => Ok(()),
                (false, true) => Err(ErrorCode::UnknownMemberId),
                (false, false) if api_version >= FIRST_VERSION_WITH_GROUP_ID_NOT_FOUND => {
                    Err(ErrorCode::GroupIdNotFound)
                }
                (false, false) => Err(ErrorCode::IllegalGeneration),
            };
        };
        if generation < 0 && group.state == GroupState::Empty {
            return Ok(());
        }
        if generation < 0 && request.member_id.is_empty() && instance.is_none() {
            return Err(ErrorCode::UnknownMemberId);
        }
        group.validate_member(request.member_id.as_str(), instance)?;
        if generation != group.generation && !is_planted(Mutant::StaleMemberCommits) {
            return Err(ErrorCode::IllegalGeneration);
        }
        if group.state == GroupState::CompletingRebalance {
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    /// Whether one offset may be stored, if there is room for it.
    fn check_committed(
        &self,
        topic: &str,
        partition: &OffsetCommitRequestPartition,
    ) -> Result<(), ErrorCode> {
        if topic.is_empty() || topic.len() > TOPIC_NAME_CHARS_MAX {
            return Err(ErrorCode::UnknownTopicOrPartition);
        }
        let text = committed_metadata(partition);
        let is_short = text.len() <= self.config.offset_metadata_max
            || text.encode_utf16().count() <= self.config.offset_metadata_max;
        if !is_short || text.len() > STRING_BYTES_MAX {
            return Err(ErrorCode::OffsetMetadataTooLarge);
        }
        Ok(())
    }

    pub(crate) fn on_offset_fetch(
        &self,
        request: &OffsetFetchRequestGroup,
        require_stable: bool,
    ) -> OffsetFetchResponseGroup {
        let group = owned(&request.group_id);
        let stored = self.offsets.group(&group);
        let unstable = if require_stable { self.group_in_flight(&group) } else { BTreeSet::new() };
        let partition = |topic: &str, partition_index: i32| {
            if unstable.contains(&(topic, partition_index)) {
                return fetched_partition(partition_index, None, ErrorCode::UnstableOffsetCommit);
            }
            let value = stored.and_then(|topics| topics.get(topic)?.get(&partition_index));
            fetched_partition(partition_index, value, ErrorCode::None)
        };
        let topics = match &request.topics {
            Some(topics) => topics
                .iter()
                .map(|topic| OffsetFetchResponseTopics {
                    name: topic.name.clone(),
                    topic_id: topic.topic_id,
                    partitions: topic
                        .partition_indexes
                        .iter()
                        .map(|index| partition(topic.name.as_str(), *index))
                        .collect(),
                    ..OffsetFetchResponseTopics::default()
                })
                .collect(),
            None => stored
                .into_iter()
                .flatten()
                .map(|(name, partitions)| OffsetFetchResponseTopics {
                    name: kafka(name),
                    partitions: partitions.keys().map(|index| partition(name, *index)).collect(),
                    ..OffsetFetchResponseTopics::default()
                })
                .collect(),
        };
        OffsetFetchResponseGroup {
            group_id: request.group_id.clone(),
            topics,
            ..OffsetFetchResponseGroup::default()
        }
    }

    pub(crate) fn on_offset_delete(
        &mut self,
        now: Now,
        token: RequestToken,
        request: &OffsetDeleteRequestData,
        actions: &mut Vec<Action>,
    ) {
        let planned = self.validate_offset_delete(request).and_then(|()| self.plan_offset_delete(request));
        let (response, records) = planned.unwrap_or_else(|error| (delete_error(error), Vec::new()));
        let offsets = records.len() as u64;
        let mut env = self.env(now, actions);
        if records.is_empty() {
            env.respond(token, GroupResponse::OffsetDelete(response));
        } else {
            env.append(records, PendingWrite::OffsetDelete { token, response, offsets });
        }
    }

    fn validate_offset_delete(&self, request: &OffsetDeleteRequestData) -> Result<(), ErrorCode> {
        if request.group_id.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        match self.groups.get(request.group_id.as_str()) {
            // Which topics other kinds of members use cannot be told.
            Some(group) if group.state != GroupState::Empty && !group.uses_consumer_protocol() => {
                Err(ErrorCode::NonEmptyGroup)
            }
            Some(_) => Ok(()),
            None if self.has_group(request.group_id.as_str()) => Ok(()),
            None => Err(ErrorCode::GroupIdNotFound),
        }
    }

    fn plan_offset_delete(
        &self,
        request: &OffsetDeleteRequestData,
    ) -> Result<(OffsetDeleteResponseData, Vec<CoordinatorRecord>), ErrorCode> {
        let group_id = owned(&request.group_id);
        let group = self.groups.get(&group_id);
        let stored = self.offsets.group(&group_id);
        let in_flight = self.group_in_flight(&group_id);
        let mut doomed = BTreeSet::new();
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let name = owned(&topic.name);
            let is_subscribed = group.is_some_and(|group| group.is_subscribed_to(&name));
            let error = if is_subscribed { ErrorCode::GroupSubscribedToTopic } else { ErrorCode::None };
            let stored = stored.and_then(|topics| topics.get(&name));
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let partition_index = partition.partition_index;
                let exists = stored.is_some_and(|partitions| partitions.contains_key(&partition_index))
                    || in_flight.contains(&(&*name, partition_index));
                if !is_subscribed && exists {
                    doomed.insert((name.clone(), partition_index));
                }
                partitions.push(OffsetDeleteResponsePartition {
                    partition_index,
                    error_code: error.code(),
                    ..OffsetDeleteResponsePartition::default()
                });
            }
            topics.push(OffsetDeleteResponseTopic {
                name: topic.name.clone(),
                partitions,
                ..OffsetDeleteResponseTopic::default()
            });
        }
        let bytes: usize = doomed.iter().map(|(topic, _)| offset_tombstone_bytes(&group_id, topic)).sum();
        if bytes > WRITE_BYTES_MAX {
            return Err(append_error(ErrorCode::MessageTooLarge));
        }
        let tombstone =
            |(topic, partition)| offset_tombstone(&OffsetKey { group: group_id.clone(), topic, partition });
        let response = OffsetDeleteResponseData { topics, ..OffsetDeleteResponseData::default() };
        Ok((response, doomed.into_iter().map(tombstone).collect()))
    }

    /// All offsets of a group, those included that are still being committed: a tombstone is after them in the log.
    pub(crate) fn group_offset_keys<'a>(
        &'a self,
        group: &'a Arc<str>,
    ) -> impl Iterator<Item = OffsetKey> + use<'a> {
        let in_flight = self.writes.group_offsets_in_flight(group).filter(|key| !self.is_stored(key));
        self.offsets.group_keys(group).chain(in_flight.cloned())
    }

    fn is_stored(&self, key: &OffsetKey) -> bool {
        self.offsets.get(&key.group, &key.topic, key.partition).is_some()
    }

    /// The partitions of a group that commits are under way for. Looked up without the group's name, which may be long.
    fn group_in_flight<'a>(&'a self, group: &'a Arc<str>) -> BTreeSet<(&'a str, i32)> {
        self.writes.group_offsets_in_flight(group).map(|key| (&*key.topic, key.partition)).collect()
    }

    /// Topics were deleted: deletes the offsets committed for them, whoever is subscribed. Does nothing when not active.
    /// What is beyond one step follows when that is written. Offsets stay whose write fails: the caller asks
    /// [`GroupCoordinator::topics_with_offsets`] later and tries again.
    pub fn on_topics_deleted(&mut self, now: Now, topics: &BTreeSet<Arc<str>>, actions: &mut Vec<Action>) {
        if !self.is_active() {
            return;
        }
        let in_flight = self.writes.topics_offsets_in_flight(topics).filter(|key| !self.is_stored(key));
        let mut doomed = Tombstones::default();
        for key in self.offsets.topics_keys(topics).chain(in_flight.cloned()) {
            doomed.push_offset(&key);
            if doomed.is_full() {
                break;
            }
        }
        let mut topics_left = if doomed.is_full() { topics.clone() } else { BTreeSet::new() };
        let writes = doomed.into_writes();
        let last = writes.len().saturating_sub(1);
        let mut env = self.env(now, actions);
        for (number, write) in writes.into_iter().enumerate() {
            let topics_left = if number == last { std::mem::take(&mut topics_left) } else { BTreeSet::new() };
            env.append(write.records, PendingWrite::Cleanup { groups: Vec::new(), expired: 0, topics_left });
        }
    }

    /// Names of the topics that offsets are committed for, each once.
    pub fn topics_with_offsets(&self) -> BTreeSet<&str> {
        self.offsets.groups().values().flat_map(|topics| topics.keys().map(|topic| &**topic)).collect()
    }

    /// One turn of the retention check (`offsets.retention.minutes`, KIP-211). A check goes over all
    /// groups in several turns, so that it never holds up the shard. Where a group has more than one turn removes, the rest
    /// is for the next check: the next turn, which may come before anything is written, would find the same once more.
    pub(crate) fn expire_offsets(&mut self, now: Now, actions: &mut Vec<Action>) {
        let turn = self.groups_after(self.expiry_cursor.as_ref(), EXPIRY_GROUPS_PER_TURN);
        let mut has_more = turn.len() == EXPIRY_GROUPS_PER_TURN;
        let mut doomed = Tombstones::default();
        for group in turn {
            self.expiry_cursor = Some(group.clone());
            let is_empty = self.expired_offsets(now, &group, &mut doomed);
            if is_empty && self.is_removable(&group) {
                if self.durable.contains_key(&group) {
                    doomed.push_group(group);
                } else if !doomed.is_full() {
                    self.forget_deleted(&group);
                }
            }
            if doomed.is_full() {
                has_more = true;
                break;
            }
        }
        if !has_more {
            self.expiry_cursor = None;
        }
        let mut env = self.env(now, actions);
        for TombstoneWrite { records, groups, offsets } in doomed.into_writes() {
            let topics_left = BTreeSet::new();
            env.append(records, PendingWrite::Cleanup { groups, expired: offsets, topics_left });
        }
        self.arm_expiry(now);
    }

    /// The next groups by name, whatever they exist for.
    fn groups_after(&self, cursor: Option<&Arc<str>>, count: usize) -> Vec<Arc<str>> {
        let after = (cursor.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let mut names = BTreeSet::new();
        names.extend(self.durable.range::<Arc<str>, _>(after).take(count).map(|(name, _)| name.clone()));
        names.extend(self.groups.range::<Arc<str>, _>(after).take(count).map(|(name, _)| name.clone()));
        let with_offsets = self.offsets.groups().range::<Arc<str>, _>(after);
        names.extend(with_offsets.take(count).map(|(name, _)| name.clone()));
        names.into_iter().take(count).collect()
    }

    /// Adds the group's expired offsets to `doomed`; true if it is left without any.
    fn expired_offsets(&self, now: Now, group_id: &Arc<str>, doomed: &mut Tombstones) -> bool {
        let Some(topics) = self.offsets.group(group_id) else { return true };
        let live = self.groups.get(group_id);
        let Some(base) = self.retention_base(group_id) else { return false };
        let in_flight = self.group_in_flight(group_id);
        let mut all_expired = true;
        for (topic, partitions) in topics {
            if live.is_some_and(|group| group.is_subscribed_to(topic)) {
                all_expired = false;
                continue;
            }
            for (partition, value) in partitions {
                let expires_ms = value
                    .expire_timestamp_ms
                    .unwrap_or_else(|| base.start_ms(value).saturating_add(self.config.offsets_retention_ms));
                if now.wall_ms >= expires_ms && !in_flight.contains(&(&**topic, *partition)) {
                    let key =
                        OffsetKey { group: group_id.clone(), topic: topic.clone(), partition: *partition };
                    doomed.push_offset(&key);
                } else {
                    all_expired = false;
                }
            }
        }
        all_expired
    }

    /// From when the retention of a group's offsets counts; `None` while they are in use.
    fn retention_base(&self, group_id: &Arc<str>) -> Option<RetentionBase> {
        let (state, has_protocol, since) = match (self.groups.get(group_id), self.durable.get(group_id)) {
            (Some(group), _) => (group.state, group.protocol_type.is_some(), group.state_timestamp_ms),
            (None, Some(value)) => {
                (GroupState::Empty, !value.protocol_type.is_empty(), value.state_timestamp_ms)
            }
            (None, None) => (GroupState::Empty, false, None),
        };
        let reads_subscriptions =
            |group: &ClassicGroup| group.uses_consumer_protocol() && group.subscribed_topics.is_some();
        match state {
            _ if !has_protocol => Some(RetentionBase::Commit),
            GroupState::Empty => Some(since.map_or(RetentionBase::Commit, RetentionBase::EmptySince)),
            GroupState::Stable if self.groups.get(group_id).is_some_and(reads_subscriptions) => {
                Some(RetentionBase::Commit)
            }
            _ => None,
        }
    }

    /// Whether a group without offsets may be deleted.
    fn is_removable(&self, group_id: &Arc<str>) -> bool {
        self.groups.get(group_id).is_none_or(ClassicGroup::is_idle)
            && self.writes.group_offsets_in_flight(group_id).next().is_none()
    }
}

/// From when the retention of an offset counts (KIP-211).
#[derive(Clone, Copy)]
enum RetentionBase {
    Commit,
    EmptySince(i64),
}

impl RetentionBase {
    fn start_ms(self, value: &OffsetValue) -> i64 {
        match self {
            RetentionBase::Commit => value.commit_timestamp_ms,
            RetentionBase::EmptySince(since_ms) => since_ms,
        }
    }
}

fn committed_value(
    now: Now,
    partition: &OffsetCommitRequestPartition,
    retention_time_ms: i64,
) -> OffsetValue {
    OffsetValue {
        offset: partition.committed_offset,
        leader_epoch: partition.committed_leader_epoch,
        metadata: Arc::from(committed_metadata(partition)),
        commit_timestamp_ms: now.wall_ms,
        expire_timestamp_ms: (retention_time_ms != DEFAULT_RETENTION_TIME_MS)
            .then(|| now.wall_ms.saturating_add(retention_time_ms)),
    }
}

fn committed_metadata(partition: &OffsetCommitRequestPartition) -> &str {
    partition.committed_metadata.as_ref().map_or("", KafkaString::as_str)
}

fn fetched_partition(
    partition_index: i32,
    value: Option<&OffsetValue>,
    error: ErrorCode,
) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: value.map_or(NO_OFFSET, |value| value.offset),
        committed_leader_epoch: value.map_or(NO_LEADER_EPOCH, |value| value.leader_epoch),
        metadata: Some(value.map_or_else(KafkaString::default, |value| kafka(&value.metadata))),
        error_code: error.code(),
        ..OffsetFetchResponsePartitions::default()
    }
}

/// An OffsetCommit response with the same error, or none, for each partition.
pub(crate) fn commit_error(request: &OffsetCommitRequestData, error: ErrorCode) -> OffsetCommitResponseData {
    let topics = request.topics.iter().map(|topic| OffsetCommitResponseTopic {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: topic
            .partitions
            .iter()
            .map(|partition| OffsetCommitResponsePartition {
                partition_index: partition.partition_index,
                error_code: error.code(),
                ..OffsetCommitResponsePartition::default()
            })
            .collect(),
        ..OffsetCommitResponseTopic::default()
    });
    OffsetCommitResponseData { topics: topics.collect(), ..OffsetCommitResponseData::default() }
}

/// The response to a commit that could not be written: partitions refused before keep their error.
pub(crate) fn commit_failed(
    mut response: OffsetCommitResponseData,
    error: ErrorCode,
) -> OffsetCommitResponseData {
    let code = commit_append_error(error).code();
    for partition in response.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
        if partition.error_code == ErrorCode::None.code() {
            partition.error_code = code;
        }
    }
    response
}

/// An OffsetDelete response with an error for the whole request.
pub(crate) fn delete_error(error: ErrorCode) -> OffsetDeleteResponseData {
    OffsetDeleteResponseData { error_code: error.code(), ..OffsetDeleteResponseData::default() }
}

/// An OffsetFetch response with an error for the whole group.
pub(crate) fn fetch_error(request: &OffsetFetchRequestGroup, error: ErrorCode) -> OffsetFetchResponseGroup {
    OffsetFetchResponseGroup {
        group_id: request.group_id.clone(),
        error_code: error.code(),
        ..OffsetFetchResponseGroup::default()
    }
}
