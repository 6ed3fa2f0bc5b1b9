//! A classic group while its partition is led here: members, votes, and who waits for what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::env::{Env, kafka};
use crate::messages::*;
use crate::records::{GroupValue, MemberValue};
use crate::timers::{TimerId, TimerTask};
use crate::{GroupConfig, GroupResponse, RequestToken};

/// The protocol type of consumers; others (Connect) have subscriptions that only they can read.
pub(crate) const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// Kafka's states of a classic group. A dead group is one that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupState {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
}

impl GroupState {
    pub const ALL: [GroupState; 4] = [
        GroupState::Empty,
        GroupState::PreparingRebalance,
        GroupState::CompletingRebalance,
        GroupState::Stable,
    ];

    pub fn name(self) -> &'static str {
        match self {
            GroupState::Empty => "Empty",
            GroupState::PreparingRebalance => "PreparingRebalance",
            GroupState::CompletingRebalance => "CompletingRebalance",
            GroupState::Stable => "Stable",
        }
    }
}

/// One assignor that a member supports, and what it has to say to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub name: Arc<str>,
    pub metadata: Bytes,
}

/// A session: it ends at `deadline_us`. The timer may be armed for an earlier time, as a heartbeat
/// only moves the deadline; then it is armed again when it fires.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub deadline_us: u64,
    pub timer: Option<TimerId>,
}

/// A member of the group.
#[derive(Debug)]
pub(crate) struct Member {
    pub group_instance_id: Option<Arc<str>>,
    pub client_id: Arc<str>,
    pub client_host: Arc<str>,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// In the order of the member's preference, each name once.
    pub protocols: Vec<Protocol>,
    /// As last committed; empty before, and after a generation that got no assignment.
    pub assignment: Bytes,
    pub awaiting_join: Option<RequestToken>,
    pub awaiting_sync: Option<RequestToken>,
    /// It was never part of a generation, so its client has no id to send heartbeats with.
    pub is_new: bool,
    pub session: Session,
}

impl Member {
    /// A member that waits for a rebalance sends no heartbeats, and needs none.
    pub fn has_satisfied_heartbeat(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }

    pub fn metadata(&self, protocol_name: &str) -> &Bytes {
        let protocol = self.protocols.iter().find(|protocol| &*protocol.name == protocol_name);
        &protocol.expect("a selected protocol is supported by all members").metadata
    }

    fn bytes(&self) -> usize {
        protocols_bytes(&self.protocols) + self.assignment.len()
    }
}

/// What protocols take of a group's bytes.
pub(crate) fn protocols_bytes(protocols: &[Protocol]) -> usize {
    protocols.iter().map(|protocol| protocol.name.len() + protocol.metadata.len()).sum()
}

/// What it takes to undo the replacement of a static member.
#[derive(Debug)]
pub(crate) struct StaticReplacement {
    pub old_member_id: Arc<str>,
    pub new_member_id: Arc<str>,
    pub old_leader: Option<Arc<str>>,
    pub old_protocols: Vec<Protocol>,
    pub old_rebalance_timeout_ms: i32,
    pub old_session_timeout_ms: i32,
    /// The JoinGroup that waits, and its version.
    pub token: RequestToken,
    pub api_version: i16,
}

/// One classic group.
///
/// It lives with the leadership of its partition. Its generation is at least that of the log, and
/// in state Stable its members, leader and assignments are those of the log.
#[derive(Debug)]
pub(crate) struct ClassicGroup {
    pub id: Arc<str>,
    pub state: GroupState,
    pub previous_state: GroupState,
    /// When the group entered its state; `None` after recovery from a record that does not say.
    pub state_timestamp_ms: Option<i64>,
    /// `None` until a member joins.
    pub protocol_type: Option<Arc<str>>,
    /// `None` until a generation has members.
    pub protocol_name: Option<Arc<str>>,
    pub generation: i32,
    pub leader: Option<Arc<str>>,
    pub members: BTreeMap<Arc<str>, Member>,
    /// Member ids by group instance id.
    pub static_members: BTreeMap<Arc<str>, Arc<str>>,
    /// Member ids that were given out and have not joined (KIP-394).
    pub pending_joins: BTreeMap<Arc<str>, Session>,
    /// Members that have not sent SyncGroup in this generation.
    pub pending_syncs: BTreeSet<Arc<str>>,
    /// Topics of all members, or `None` where subscriptions cannot be read.
    pub subscribed_topics: Option<BTreeSet<Arc<str>>>,
    /// A member came while an empty group waited for more.
    pub new_member_added: bool,
    pub join_timer: Option<TimerId>,
    pub sync_timer: Option<TimerId>,
    /// The generation whose assignment is being written.
    pub assignment_in_flight: Option<i32>,
    /// Records of this group that are being written.
    pub writes_in_flight: u32,
    awaiting_join_count: usize,
    /// How many members support each protocol.
    supported_protocols: BTreeMap<Arc<str>, usize>,
    /// Bytes of protocols and assignments.
    bytes: usize,
}

impl ClassicGroup {
    pub fn new(id: Arc<str>, state_timestamp_ms: Option<i64>) -> Self {
        Self {
            id,
            state: GroupState::Empty,
            previous_state: GroupState::Empty,
            state_timestamp_ms,
            protocol_type: None,
            protocol_name: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending_joins: BTreeMap::new(),
            pending_syncs: BTreeSet::new(),
            subscribed_topics: None,
            new_member_added: false,
            join_timer: None,
            sync_timer: None,
            assignment_in_flight: None,
            writes_in_flight: 0,
            awaiting_join_count: 0,
            supported_protocols: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// The group as the log has it: Stable if it has members, else Empty. Only the protocol that was
    /// selected is known of its members.
    pub fn from_value(id: Arc<str>, value: &GroupValue) -> Self {
        let mut group = Self::new(id, value.state_timestamp_ms);
        group.generation = value.generation;
        group.protocol_type = Some(value.protocol_type.clone()).filter(|text| !text.is_empty());
        group.protocol_name = value.protocol.clone();
        for member in &value.members {
            let name = value.protocol.clone().expect("decoding refuses members without a protocol");
            group.insert_member(
                member.member_id.clone(),
                Member {
                    group_instance_id: member.group_instance_id.clone(),
                    client_id: member.client_id.clone(),
                    client_host: member.client_host.clone(),
                    rebalance_timeout_ms: member.rebalance_timeout_ms,
                    session_timeout_ms: member.session_timeout_ms,
                    protocols: vec![Protocol { name, metadata: member.subscription.clone() }],
                    assignment: member.assignment.clone(),
                    awaiting_join: None,
                    awaiting_sync: None,
                    is_new: false,
                    session: Session::default(),
                },
            );
        }
        group.leader = value.leader.clone().filter(|leader| group.members.contains_key(leader));
        if !group.members.is_empty() {
            group.state = GroupState::Stable;
            group.previous_state = GroupState::CompletingRebalance;
            group.leader = group.leader.or_else(|| group.members.keys().next().cloned());
        }
        group.subscribed_topics = group.compute_subscribed_topics();
        group
    }

    /// The record of the group, with these assignments (empty where one is missing).
    pub fn to_value(&self, assignment: impl Fn(&Arc<str>, &Member) -> Bytes) -> GroupValue {
        let members = self.members.iter().map(|(id, member)| MemberValue {
            member_id: id.clone(),
            group_instance_id: member.group_instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            subscription: member.metadata(self.selected_protocol()).clone(),
            assignment: assignment(id, member),
        });
        GroupValue {
            protocol_type: self.protocol_type.clone().unwrap_or_else(|| Arc::from("")),
            generation: self.generation,
            protocol: self.protocol_name.clone(),
            leader: self.leader.clone(),
            state_timestamp_ms: self.state_timestamp_ms,
            members: members.collect(),
        }
    }

    fn selected_protocol(&self) -> &str {
        self.protocol_name.as_deref().expect("a generation with members has a protocol")
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    pub fn has_all_members_joined(&self) -> bool {
        self.members.len() == self.awaiting_join_count && self.pending_joins.is_empty()
    }

    /// The longest rebalance timeout of its members: nobody is given up earlier.
    pub fn rebalance_timeout_ms(&self) -> i32 {
        self.members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0).max(0)
    }

    pub fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL_TYPE)
    }

    /// Whether offsets of the topic are in use. Where subscriptions cannot be read, a consumer group
    /// counts as subscribed to everything.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed_topics {
            Some(topics) => topics.contains(topic),
            None => self.uses_consumer_protocol(),
        }
    }

    /// Whether nothing is lost when the group is forgotten and built again from the log.
    pub fn is_idle(&self) -> bool {
        self.state == GroupState::Empty && self.pending_joins.is_empty() && self.writes_in_flight == 0
    }

    /// Whether the group may take the member in (`group.max.size`). While members join, those that
    /// wait are counted, so that the last to rejoin are turned away if the bound was lowered.
    pub fn accepts(&self, member_id: &str, config: &GroupConfig) -> bool {
        let member = self.members.get(member_id);
        match self.state {
            GroupState::Empty => true,
            GroupState::PreparingRebalance => {
                member.is_some_and(|member| member.awaiting_join.is_some())
                    || self.awaiting_join_count < config.members_max
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                member.is_some() || self.members.len() < config.members_max
            }
        }
    }

    /// Whether one of the protocols is common to all members.
    pub fn supports_protocols(&self, protocol_type: &str, protocols: &[Protocol]) -> bool {
        if self.state == GroupState::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|protocol| {
                self.supported_protocols.get(&protocol.name).copied().unwrap_or(0) == self.members.len()
            })
    }

    /// The protocol with the most votes: each member votes for the one that it prefers among those
    /// that all support. Of equals, the first by name.
    pub fn select_protocol(&self) -> Arc<str> {
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.members.values() {
            let choice = member
                .protocols
                .iter()
                .find(|protocol| self.supported_protocols[&protocol.name] == self.members.len())
                .expect("members are only taken in with a protocol that all support");
            *votes.entry(&choice.name).or_default() += 1;
        }
        let best = votes.iter().rev().max_by_key(|(_, count)| **count);
        (*best.expect("only a group with members selects a protocol").0).clone()
    }

    /// Whether the member, and the instance if one is named, are current (KIP-345).
    pub fn validate_member(&self, member_id: &str, group_instance_id: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance) = group_instance_id {
            match self.static_members.get(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(current) if &**current != member_id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    /// Adds a member that nobody has yet. The first one decides the protocol type and leads.
    pub fn insert_member(&mut self, member_id: Arc<str>, member: Member) {
        if let Some(instance) = &member.group_instance_id {
            self.static_members.insert(instance.clone(), member_id.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(member_id.clone());
        }
        self.count_protocols(&member.protocols);
        self.bytes += member.bytes();
        self.awaiting_join_count += usize::from(member.awaiting_join.is_some());
        let previous = self.members.insert(member_id, member);
        assert!(previous.is_none(), "a member is added once");
    }

    /// Removes a member, or an id that has not joined: ends its session and answers what it waits for.
    pub fn remove_member(&mut self, env: &mut Env<'_>, member_id: &str) {
        if let Some(session) = self.pending_joins.remove(member_id)
            && let Some(timer) = session.timer
        {
            env.timers.cancel(timer);
        }
        self.pending_syncs.remove(member_id);
        if !self.members.contains_key(member_id) {
            return;
        }
        // Unknown to itself, a client that is still there joins anew.
        self.answer_join_error(env, member_id, "", ErrorCode::UnknownMemberId);
        self.answer_sync_error(env, member_id, ErrorCode::UnknownMemberId);
        let member = self.members.remove(member_id).expect("it was there above");
        self.uncount(&member);
        if let Some(timer) = member.session.timer {
            env.timers.cancel(timer);
        }
        if let Some(instance) = &member.group_instance_id {
            self.static_members.remove(instance);
        }
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// Gives a static member a new id. Whoever still uses the old one is fenced.
    pub fn rename_static_member(&mut self, env: &mut Env<'_>, old_id: &Arc<str>, new_id: &Arc<str>) {
        self.answer_join_error(env, old_id, old_id, ErrorCode::FencedInstanceId);
        self.answer_sync_error(env, old_id, ErrorCode::FencedInstanceId);
        let mut member = self.members.remove(old_id).expect("a static member is a member");
        if let Some(timer) = member.session.timer.take() {
            env.timers.cancel(timer);
        }
        let instance = member.group_instance_id.clone().expect("only static members change their id");
        self.static_members.insert(instance, new_id.clone());
        if self.is_leader(old_id) {
            self.leader = Some(new_id.clone());
        }
        if self.pending_syncs.remove(old_id) {
            self.pending_syncs.insert(new_id.clone());
        }
        let taken = self.members.insert(new_id.clone(), member);
        assert!(taken.is_none(), "a new member id is not in use");
    }

    /// Replaces what the member said when it joined. Returns the protocols that it had.
    pub fn update_member(
        &mut self,
        member_id: &str,
        protocols: Vec<Protocol>,
        rebalance_timeout_ms: i32,
        session_timeout_ms: i32,
    ) -> Vec<Protocol> {
        self.count_protocols(&protocols);
        let member = self.members.get_mut(member_id).expect("only members are updated");
        self.bytes += protocols_bytes(&protocols);
        let old_protocols = std::mem::replace(&mut member.protocols, protocols);
        member.rebalance_timeout_ms = rebalance_timeout_ms;
        member.session_timeout_ms = session_timeout_ms;
        self.bytes -= protocols_bytes(&old_protocols);
        self.uncount_protocols(&old_protocols);
        old_protocols
    }

    /// Parks a JoinGroup. One that the member already had parked can only be a client's that gave
    /// up on it, or a second one with its id.
    pub fn park_join(&mut self, env: &mut Env<'_>, member_id: &str, token: RequestToken) {
        self.answer_join_error(env, member_id, member_id, ErrorCode::RebalanceInProgress);
        let member = self.members.get_mut(member_id).expect("only members wait");
        member.awaiting_join = Some(token);
        self.awaiting_join_count += 1;
    }

    /// Answers the parked JoinGroup of a member; false if there is none.
    pub fn answer_join(
        &mut self,
        env: &mut Env<'_>,
        member_id: &str,
        response: JoinGroupResponseData,
    ) -> bool {
        let Some(member) = self.members.get_mut(member_id) else { return false };
        let Some(token) = member.awaiting_join.take() else { return false };
        self.awaiting_join_count -= 1;
        env.respond(token, GroupResponse::JoinGroup(response));
        true
    }

    pub fn answer_join_error(&mut self, env: &mut Env<'_>, member_id: &str, told_id: &str, error: ErrorCode) {
        self.answer_join(env, member_id, join_error(told_id, error));
    }

    /// Parks a SyncGroup; for one that was parked before, as with JoinGroup.
    pub fn park_sync(&mut self, env: &mut Env<'_>, member_id: &str, token: RequestToken) {
        self.answer_sync_error(env, member_id, ErrorCode::RebalanceInProgress);
        self.members.get_mut(member_id).expect("only members wait").awaiting_sync = Some(token);
    }

    /// Answers the parked SyncGroup of a member; false if there is none.
    pub fn answer_sync(
        &mut self,
        env: &mut Env<'_>,
        member_id: &str,
        response: SyncGroupResponseData,
    ) -> bool {
        let Some(member) = self.members.get_mut(member_id) else { return false };
        let Some(token) = member.awaiting_sync.take() else { return false };
        env.respond(token, GroupResponse::SyncGroup(response));
        true
    }

    pub fn answer_sync_error(&mut self, env: &mut Env<'_>, member_id: &str, error: ErrorCode) {
        self.answer_sync(env, member_id, sync_error(error));
    }

    pub fn set_assignment(&mut self, member_id: &str, assignment: Bytes) {
        let member = self.members.get_mut(member_id).expect("only members are assigned to");
        self.bytes += assignment.len();
        let old = std::mem::replace(&mut member.assignment, assignment);
        self.bytes -= old.len();
    }

    pub fn transition_to(&mut self, env: &Env<'_>, state: GroupState) {
        use GroupState::*;
        let valid = match state {
            Empty | CompletingRebalance => self.state == PreparingRebalance,
            PreparingRebalance => self.state != PreparingRebalance,
            Stable => self.state == CompletingRebalance,
        };
        assert!(valid, "a group does not go from {:?} to {state:?}", self.state);
        self.previous_state = std::mem::replace(&mut self.state, state);
        self.state_timestamp_ms = Some(env.now.wall_ms);
    }

    /// Starts the next generation with the members that are left.
    pub fn init_next_generation(&mut self, env: &Env<'_>) {
        assert_eq!(self.state, GroupState::PreparingRebalance, "a generation follows a join phase");
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        if self.members.is_empty() {
            self.protocol_name = None;
            self.transition_to(env, GroupState::Empty);
        } else {
            self.protocol_name = Some(self.select_protocol());
            self.transition_to(env, GroupState::CompletingRebalance);
        }
        self.subscribed_topics = self.compute_subscribed_topics();
        self.pending_syncs.clear();
    }

    /// Reads the topics out of consumers' subscriptions. Only the first fields are read, which all
    /// versions of the consumer protocol share.
    pub fn compute_subscribed_topics(&self) -> Option<BTreeSet<Arc<str>>> {
        if !self.uses_consumer_protocol() {
            return None;
        }
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            let mut bytes = member.metadata(self.protocol_name.as_deref()?).clone();
            if bytes.len() < 2 {
                return None;
            }
            let _version = bytes.split_to(2);
            let subscription = ConsumerProtocolSubscriptionData::read(&mut bytes, 0).ok()?;
            topics.extend(subscription.topics.iter().map(crate::env::owned));
        }
        Some(topics)
    }

    /// The answer to a JoinGroup in the present generation.
    pub fn join_response(&self, member_id: &str) -> JoinGroupResponseData {
        let mut response = JoinGroupResponseData {
            generation_id: self.generation,
            protocol_type: self.protocol_type.as_deref().map(kafka),
            protocol_name: self.protocol_name.as_deref().map(kafka),
            leader: kafka(self.leader.as_deref().unwrap_or("")),
            member_id: kafka(member_id),
            ..JoinGroupResponseData::default()
        };
        if self.is_leader(member_id) {
            response.members = self.join_response_members();
        }
        response
    }

    /// All members with their subscriptions, which the leader assigns by.
    fn join_response_members(&self) -> Vec<JoinGroupResponseMember> {
        let member = |(id, member): (&Arc<str>, &Member)| JoinGroupResponseMember {
            member_id: kafka(id),
            group_instance_id: member.group_instance_id.as_deref().map(kafka),
            metadata: member.metadata(self.selected_protocol()).clone(),
            ..JoinGroupResponseMember::default()
        };
        self.members.iter().map(member).collect()
    }

    /// The answer to a SyncGroup of a member that has its assignment.
    pub fn sync_response(&self, member_id: &str) -> SyncGroupResponseData {
        SyncGroupResponseData {
            protocol_type: self.protocol_type.as_deref().map(kafka),
            protocol_name: self.protocol_name.as_deref().map(kafka),
            assignment: self.members[member_id].assignment.clone(),
            ..SyncGroupResponseData::default()
        }
    }

    /// A heartbeat, or whatever counts as one, of a member: its session starts anew.
    pub fn extend_session(&mut self, env: &mut Env<'_>, member_id: &str) {
        let Some(member) = self.members.get(member_id) else { return };
        self.extend_session_by(env, member_id, member.session_timeout_ms);
    }

    pub fn extend_session_by(&mut self, env: &mut Env<'_>, member_id: &str, timeout_ms: i32) {
        let (member_id, session) = match self.members.get_key_value(member_id) {
            Some((id, _)) => {
                let id = id.clone();
                let session = &mut self.members.get_mut(&id).expect("found above").session;
                (id, session)
            }
            None => {
                let (id, _) = self.pending_joins.get_key_value(member_id).expect("a member or a pending one");
                let id = id.clone();
                let session = self.pending_joins.get_mut(&id).expect("found above");
                (id, session)
            }
        };
        session.deadline_us = env.now.after_ms(i64::from(timeout_ms));
        if let Some(timer) = session.timer {
            if timer.deadline_us() <= session.deadline_us {
                return;
            }
            env.timers.cancel(timer);
        }
        let task = TimerTask::Session { group: self.id.clone(), member: member_id };
        session.timer = Some(env.timers.arm(session.deadline_us, task));
    }

    fn count_protocols(&mut self, protocols: &[Protocol]) {
        for protocol in protocols {
            *self.supported_protocols.entry(protocol.name.clone()).or_default() += 1;
        }
    }

    fn uncount_protocols(&mut self, protocols: &[Protocol]) {
        for protocol in protocols {
            let count = self.supported_protocols.get_mut(&protocol.name).expect("counted when it came");
            *count -= 1;
            if *count == 0 {
                self.supported_protocols.remove(&protocol.name);
            }
        }
    }

    fn uncount(&mut self, member: &Member) {
        self.uncount_protocols(&member.protocols);
        self.bytes -= member.bytes();
        self.awaiting_join_count -= usize::from(member.awaiting_join.is_some());
    }

    /// How many timers of the group are armed.
    pub fn timers(&self) -> usize {
        let sessions = self.members.values().map(|member| &member.session).chain(self.pending_joins.values());
        let phases = usize::from(self.join_timer.is_some()) + usize::from(self.sync_timer.is_some());
        sessions.filter(|session| session.timer.is_some()).count() + phases
    }

    /// Panics if the group contradicts itself.
    pub fn assert_invariants(&self, timer_armed: impl Fn(TimerId) -> bool) {
        let id = &self.id;
        let waiting = self.members.values().filter(|member| member.awaiting_join.is_some()).count();
        assert_eq!(waiting, self.awaiting_join_count, "{id}: joins are counted");
        let bytes: usize = self.members.values().map(Member::bytes).sum();
        assert_eq!(bytes, self.bytes, "{id}: bytes are counted");
        let mut supported = BTreeMap::new();
        for protocol in self.members.values().flat_map(|member| &member.protocols) {
            *supported.entry(protocol.name.clone()).or_default() += 1;
        }
        assert_eq!(supported, self.supported_protocols, "{id}: protocols are counted");
        assert_eq!(
            self.leader.is_some(),
            !self.members.is_empty(),
            "{id}: a group with members has a leader"
        );
        assert!(
            self.leader.iter().all(|leader| self.members.contains_key(leader)),
            "{id}: the leader is a member"
        );
        for (instance, member) in &self.static_members {
            assert_eq!(
                self.members[member].group_instance_id.as_ref(),
                Some(instance),
                "{id}: instances agree"
            );
        }
        let instances = self.members.values().filter(|member| member.group_instance_id.is_some()).count();
        assert_eq!(instances, self.static_members.len(), "{id}: one member per instance");
        assert!(
            self.pending_syncs.iter().all(|member| self.members.contains_key(member)),
            "{id}: members sync"
        );
        assert!(
            self.pending_joins.keys().all(|member| !self.members.contains_key(member)),
            "{id}: who has joined is not awaited"
        );
        match self.state {
            GroupState::Empty => {
                assert!(self.members.is_empty(), "{id}: an empty group has no members");
                assert!(self.join_timer.is_none() && self.sync_timer.is_none(), "{id}: it waits for nothing");
            }
            GroupState::PreparingRebalance => {
                assert!(self.join_timer.is_some(), "{id}: a join phase ends");
                let syncing = self.members.values().any(|member| member.awaiting_sync.is_some());
                assert!(!syncing, "{id}: nobody syncs in a join phase");
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                assert!(!self.members.is_empty(), "{id}: a generation has members");
                assert!(self.protocol_name.is_some(), "{id}: a generation has a protocol");
                assert!(self.join_timer.is_none(), "{id}: the join phase is over");
                assert_eq!(
                    self.sync_timer.is_some(),
                    !self.pending_syncs.is_empty(),
                    "{id}: a sync phase ends"
                );
            }
        }
        let sessions = self.members.values().map(|member| &member.session).chain(self.pending_joins.values());
        for timer in
            sessions.filter_map(|session| session.timer).chain(self.join_timer).chain(self.sync_timer)
        {
            assert!(timer_armed(timer), "{id}: its timers are armed");
        }
    }
}

/// A JoinGroup response that has only an error.
pub(crate) fn join_error(member_id: &str, error: ErrorCode) -> JoinGroupResponseData {
    JoinGroupResponseData {
        error_code: error.code(),
        member_id: kafka(member_id),
        ..JoinGroupResponseData::default()
    }
}

/// A SyncGroup response that has only an error.
pub(crate) fn sync_error(error: ErrorCode) -> SyncGroupResponseData {
    SyncGroupResponseData { error_code: error.code(), ..SyncGroupResponseData::default() }
}
