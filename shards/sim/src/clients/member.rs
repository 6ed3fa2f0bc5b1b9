//! A member of a consumer group: joins, takes its assignment, and commits offsets that only grow.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use protocol::frame::{Request, Response};
use protocol::messages::find_coordinator_request::FindCoordinatorRequestData;
use protocol::messages::heartbeat_request::HeartbeatRequestData;
use protocol::messages::join_group_request::{JoinGroupRequestData, JoinGroupRequestProtocol};
use protocol::messages::join_group_response::JoinGroupResponseData;
use protocol::messages::leave_group_request::{LeaveGroupRequestData, MemberIdentity};
use protocol::messages::offset_commit_request::{
    OffsetCommitRequestData, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use protocol::messages::offset_fetch_request::{OffsetFetchRequestData, OffsetFetchRequestTopic};
use protocol::messages::sync_group_request::{SyncGroupRequestAssignment, SyncGroupRequestData};
use protocol::messages::{ErrorCode, KafkaString, kafka_string};

use crate::actor::{Actor, Answer, Context, Line, Target};
use crate::clients::is_retriable;
use crate::model::{Life, TopicRef};

/// How long a member waits before it tries again. Longer than anything takes inside the node, so that a commit that was
/// given up is not overtaken.
const BACKOFF_US: u64 = 50_000;

const PROTOCOL: &str = "all-to-all";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Assigned {
    topic: TopicRef,
    partition: i32,
}

#[derive(Clone, Debug)]
enum Step {
    Find,
    Join,
    Sync { assignments: Vec<SyncGroupRequestAssignment> },
    Heartbeat,
    Commit { at: Assigned, offset: i64, generation: i32 },
    Fetch { at: Assigned },
    Leave,
}

/// See the module.
pub struct Member {
    number: usize,
    group: String,
    leaves: bool,
    line: Line,
    member_id: KafkaString,
    generation: i32,
    /// The generation before it, and the run of the process that told of the new one.
    superseded: Option<(i32, u64)>,
    generation_floor: i32,
    assigned: Vec<Assigned>,
    step: Step,
    asked: Option<i32>,
    wait_until_us: u64,
    is_stopped: bool,
    /// What the node must know that was asked for an offset.
    told_floor: i64,
}

impl Member {
    /// A member that has not begun; `leaves` says whether it takes its leave at the end.
    pub fn new(number: usize, group: String, leaves: bool) -> Member {
        Member {
            number,
            group,
            leaves,
            line: Line::Down,
            member_id: KafkaString::default(),
            generation: -1,
            superseded: None,
            generation_floor: -1,
            assigned: Vec::new(),
            step: Step::Find,
            asked: None,
            wait_until_us: 0,
            is_stopped: false,
            told_floor: -1,
        }
    }

    fn pump(&mut self, context: &mut Context<'_>) {
        if self.is_stopped || self.asked.is_some() || context.now.mono_us < self.wait_until_us {
            return;
        }
        if context.is_stopping {
            // A commit whose fate is open stays open.
            match self.leaves && !self.member_id.as_str().is_empty() {
                true => self.step = Step::Leave,
                false => {
                    self.is_stopped = true;
                    return;
                }
            }
        }
        if self.line == Line::Up {
            self.asked = Some(self.ask(context));
        } else if self.line == Line::Down {
            self.line = Line::Opening;
            context.connect(Target::Coordinator(self.group.clone()));
        }
    }

    fn wait(&mut self, context: &mut Context<'_>, us: u64) {
        self.wait_until_us = context.now.mono_us + us;
        context.timer_us(us);
    }

    fn ask(&mut self, context: &mut Context<'_>) -> i32 {
        let group_id = kafka_string(&self.group);
        let (member_id, generation_id) = (self.member_id.clone(), self.generation);
        match &self.step {
            Step::Find => {
                let request = FindCoordinatorRequestData { key: group_id, ..Default::default() };
                context.send(3, &Request::FindCoordinator(request))
            }
            Step::Join => {
                self.generation_floor = context.model.generations.get(&self.group).copied().unwrap_or(-1);
                let protocol = JoinGroupRequestProtocol {
                    name: kafka_string(PROTOCOL),
                    metadata: Bytes::from_static(b"subscription"),
                    ..Default::default()
                };
                let request = JoinGroupRequestData {
                    group_id,
                    session_timeout_ms: 2_000,
                    rebalance_timeout_ms: 1_000,
                    member_id,
                    protocol_type: kafka_string("consumer"),
                    protocols: vec![protocol],
                    ..Default::default()
                };
                context.send(7, &Request::JoinGroup(request))
            }
            Step::Sync { assignments } => {
                let request = SyncGroupRequestData {
                    group_id,
                    generation_id,
                    member_id,
                    protocol_type: Some(kafka_string("consumer")),
                    protocol_name: Some(kafka_string(PROTOCOL)),
                    assignments: assignments.clone(),
                    ..Default::default()
                };
                context.send(5, &Request::SyncGroup(request))
            }
            Step::Heartbeat => {
                let request =
                    HeartbeatRequestData { group_id, generation_id, member_id, ..Default::default() };
                context.send(4, &Request::Heartbeat(request))
            }
            Step::Commit { at, offset, generation } => {
                let name = kafka_string(&context.model.topic(at.topic).name);
                let partition = OffsetCommitRequestPartition {
                    partition_index: at.partition,
                    committed_offset: *offset,
                    committed_leader_epoch: -1,
                    ..Default::default()
                };
                let request = OffsetCommitRequestData {
                    group_id,
                    generation_id_or_member_epoch: *generation,
                    member_id,
                    topics: vec![OffsetCommitRequestTopic {
                        name,
                        partitions: vec![partition],
                        ..Default::default()
                    }],
                    ..Default::default()
                };
                context.send(8, &Request::OffsetCommit(request))
            }
            Step::Fetch { at } => {
                let known = context.model.committed.get(&(self.group.clone(), at.topic, at.partition));
                let told = context.run.zip(known).map(|(run, known)| known.told_by(run));
                self.told_floor = told.unwrap_or(-1);
                let name = kafka_string(&context.model.topic(at.topic).name);
                let topics = vec![OffsetFetchRequestTopic {
                    name,
                    partition_indexes: vec![at.partition],
                    ..Default::default()
                }];
                let request = OffsetFetchRequestData { group_id, topics: Some(topics), ..Default::default() };
                context.send(7, &Request::OffsetFetch(request))
            }
            Step::Leave => {
                let members = vec![MemberIdentity { member_id, ..Default::default() }];
                let request = LeaveGroupRequestData { group_id, members, ..Default::default() };
                context.send(4, &Request::LeaveGroup(request))
            }
        }
    }

    /// What to do next as a member.
    fn choose(&mut self, context: &mut Context<'_>) {
        let live = self.assigned.iter().filter(|at| context.model.topics[at.topic.0].life == Life::Live);
        let live: Vec<Assigned> = live.copied().collect();
        if live.is_empty() || context.random.percent(30) {
            self.step = Step::Heartbeat;
        } else {
            let at = live[context.random.index(live.len())];
            let known =
                context.model.committed.entry((self.group.clone(), at.topic, at.partition)).or_default();
            self.step = match context.random.percent(50) {
                true => {
                    known.sent += 1;
                    // Now and then it has not noticed that a generation is over.
                    let superseded = self.superseded.filter(|_| context.random.percent(20));
                    let generation = superseded.map_or(self.generation, |(generation, _)| generation);
                    Step::Commit { at, offset: known.sent, generation }
                }
                false => Step::Fetch { at },
            };
        }
        let pause_us = context.random.between(1_000, 200_000);
        self.wait(context, pause_us);
    }

    /// Begins again after an error of the group; `false` when it is none of those that a member lives with.
    fn on_group_error(&mut self, context: &mut Context<'_>, code: ErrorCode) -> bool {
        match code {
            ErrorCode::RebalanceInProgress => self.step = Step::Join,
            ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration => {
                if code == ErrorCode::UnknownMemberId {
                    self.member_id = KafkaString::default();
                }
                self.generation = -1;
                self.step = Step::Join;
            }
            code if is_retriable(code) => {
                if context.nodes > 1 {
                    // The group may have another coordinator.
                    self.line = Line::Down;
                    context.disconnect();
                }
            }
            _ => return false,
        }
        if !matches!(self.step, Step::Commit { .. } | Step::Fetch { .. } | Step::Heartbeat) {
            self.assigned.clear();
        }
        self.wait(context, BACKOFF_US);
        true
    }

    fn on_joined(&mut self, context: &mut Context<'_>, response: JoinGroupResponseData) {
        let newest = context.model.generations.entry(self.group.clone()).or_insert(-1);
        let generation = response.generation_id;
        // A coordinator that was deposed does not know of newer generations, nor they of its last one.
        assert!(
            context.nodes > 1 || generation > self.generation_floor || generation == *newest,
            "{}: generation {generation} comes after {}",
            self.group,
            self.generation_floor
        );
        *newest = generation.max(*newest);
        let run = context.run.expect("an answer comes over a connection");
        self.superseded = Some((self.generation, run)).filter(|(before, _)| (0..generation).contains(before));
        self.generation = generation;
        self.member_id = response.member_id;
        let mut assignments = Vec::new();
        if response.leader == self.member_id {
            let live = context.model.topics_in(Life::Live);
            let all: Vec<Assigned> = live
                .iter()
                .flat_map(|topic| {
                    let partitions = context.model.topics[topic.0].partitions.len();
                    (0..).take(partitions).map(|partition| Assigned { topic: *topic, partition })
                })
                .collect();
            let count = response.members.len();
            for (nth, member) in response.members.iter().enumerate() {
                let own: Vec<Assigned> = all.iter().skip(nth).step_by(count).copied().collect();
                assignments.push(SyncGroupRequestAssignment {
                    member_id: member.member_id.clone(),
                    assignment: encode_assignment(&member.member_id, &own),
                    ..Default::default()
                });
            }
        }
        self.step = Step::Sync { assignments };
        self.wait(context, 0);
    }

    fn on_response(&mut self, context: &mut Context<'_>, response: Response) {
        let node = context.run.expect("an answer comes over a connection");
        let code = match &response {
            Response::FindCoordinator(response) => response.error_code,
            Response::JoinGroup(response) => response.error_code,
            Response::SyncGroup(response) => response.error_code,
            Response::Heartbeat(response) => response.error_code,
            Response::OffsetCommit(response) => response.topics[0].partitions[0].error_code,
            Response::OffsetFetch(response) => response.error_code,
            Response::LeaveGroup(_) => {
                self.is_stopped = true;
                return;
            }
            other => panic!("a member asked for no {other:?}"),
        };
        let code = ErrorCode::from(code);
        if let Response::JoinGroup(response) = &response
            && code == ErrorCode::MemberIdRequired
        {
            self.member_id = response.member_id.clone();
            return self.wait(context, 0);
        }
        if code != ErrorCode::None {
            let is_gone = match &self.step {
                Step::Commit { at, generation, .. } => {
                    *generation != self.generation || context.model.topic(at.topic).life != Life::Live
                }
                _ => false,
            };
            if is_gone {
                return self.choose(context);
            }
            assert!(
                self.on_group_error(context, code),
                "{}: {:?} is refused with {code:?}",
                self.group,
                self.step
            );
            return;
        }
        match response {
            Response::FindCoordinator(_) => {
                self.step = Step::Join;
                self.wait(context, 0);
            }
            Response::JoinGroup(response) => self.on_joined(context, response),
            Response::SyncGroup(response) => {
                self.assigned = decode_assignment(&self.member_id, response.assignment);
                self.choose(context);
            }
            Response::Heartbeat(_) => self.choose(context),
            Response::OffsetCommit(_) => {
                let Step::Commit { at, offset, generation } = self.step else {
                    unreachable!("a commit was asked for")
                };
                // A new coordinator may not have heard of the newest generation.
                let is_over = self.superseded == Some((generation, node));
                assert!(
                    !is_over,
                    "{}: a commit of generation {generation} is taken, which is over",
                    self.group
                );
                let key = (self.group.clone(), at.topic, at.partition);
                let known = context.model.committed.entry(key).or_default();
                known.acknowledged = known.acknowledged.max(offset);
                known.on_told(node, offset);
                self.choose(context);
            }
            Response::OffsetFetch(response) => {
                let Step::Fetch { at } = self.step else { unreachable!("a fetch was asked for") };
                let offset = response.topics[0].partitions[0].committed_offset;
                let key = (self.group.clone(), at.topic, at.partition);
                let floor = self.told_floor;
                let known = context.model.committed.entry(key.clone()).or_default();
                known.on_told(node, offset);
                let sent = known.sent;
                let is_live = context.model.topic(at.topic).life == Life::Live;
                assert!(
                    !is_live || (floor..=sent).contains(&offset),
                    "{key:?}: the group is at {offset}, though the node told {floor} and {sent} was the last sent"
                );
                self.choose(context);
            }
            other => panic!("a member asked for no {other:?}"),
        }
    }
}

/// The member's id, so that a mix-up shows, then topics and partitions.
fn encode_assignment(member_id: &KafkaString, assigned: &[Assigned]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u16(u16::try_from(member_id.len()).expect("a short id"));
    bytes.put_slice(member_id.as_bytes());
    for at in assigned {
        bytes.put_u64(at.topic.0 as u64);
        bytes.put_i32(at.partition);
    }
    bytes.freeze()
}

fn decode_assignment(member_id: &KafkaString, mut bytes: Bytes) -> Vec<Assigned> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let length = usize::from(bytes.get_u16());
    let named = bytes.split_to(length);
    assert_eq!(&named[..], member_id.as_bytes(), "a member gets its own assignment");
    let mut assigned = Vec::new();
    while bytes.has_remaining() {
        let topic = TopicRef(usize::try_from(bytes.get_u64()).expect("few topics"));
        assigned.push(Assigned { topic, partition: bytes.get_i32() });
    }
    assigned
}

impl Actor for Member {
    fn name(&self) -> String {
        format!("member {} of {} at {:?}", self.number, self.group, self.step)
    }

    fn on_timer(&mut self, context: &mut Context<'_>) {
        self.pump(context);
    }

    fn on_connected(&mut self, context: &mut Context<'_>) {
        self.line = Line::Up;
        self.pump(context);
    }

    fn on_disconnected(&mut self, context: &mut Context<'_>) {
        self.line = Line::Down;
        self.asked = None;
        self.wait(context, BACKOFF_US);
    }

    fn on_answer(&mut self, context: &mut Context<'_>, correlation_id: i32, answer: Answer) {
        assert_eq!(self.asked.take(), Some(correlation_id), "an answer belongs to the request");
        match answer {
            Answer::Response(response) => self.on_response(context, response),
            Answer::Fetch(_) => panic!("a member does not fetch records"),
        }
    }

    fn is_idle(&self) -> bool {
        self.is_stopped
    }
}
