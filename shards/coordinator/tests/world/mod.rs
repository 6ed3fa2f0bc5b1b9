//! A coordinator, its log and its clients, driven by lines of text.
//!
//! A step is a verb, a client or group, and options `name=value`. Its output is every append and
//! every answer that follows from it. Member ids are shown as their prefix and a number.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use coordinator::*;
use protocol::messages::delete_groups_response::DeleteGroupsResponseData;
use protocol::messages::describe_groups_response::DescribeGroupsResponseData;
use protocol::messages::heartbeat_request::HeartbeatRequestData;
use protocol::messages::join_group_request::{JoinGroupRequestData, JoinGroupRequestProtocol};
use protocol::messages::leave_group_request::{LeaveGroupRequestData, MemberIdentity};
use protocol::messages::list_groups_request::ListGroupsRequestData;
use protocol::messages::offset_commit_request::{
    OffsetCommitRequestData, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use protocol::messages::offset_delete_request::{
    OffsetDeleteRequestData, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use protocol::messages::offset_fetch_response::OffsetFetchResponseData;
use protocol::messages::sync_group_request::{SyncGroupRequestAssignment, SyncGroupRequestData};
use protocol::messages::{KafkaString, ProtocolError};
use types::Now;

/// What a client remembers between its requests.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// Of its last request.
    pub api_version: i16,
    pub member_id: String,
    pub generation: i32,
}

pub struct World {
    pub coordinator: GroupCoordinator,
    pub config: GroupConfig,
    pub now: Now,
    /// Committed records, in order.
    pub log: Vec<CoordinatorRecord>,
    pub clients: BTreeMap<String, Client>,
    /// Who asked, and as what, by token that is not answered.
    pub waiting: BTreeMap<RequestToken, (String, Client)>,
    pub last_response: Option<GroupResponse>,
    /// Appends that are neither committed nor failed.
    pub writes: VecDeque<(WriteId, Vec<CoordinatorRecord>)>,
    /// Appends stay under way until `flush` or `fail`.
    pub holds: bool,
    /// A write failed.
    has_failed: bool,
    pub output: String,
    /// Assignments that members were told, by incarnation of the group, generation and member id.
    assignments: BTreeMap<(u64, i32, String), Bytes>,
    /// Who was given a member id.
    owners: BTreeMap<String, String>,
    /// The highest generation told in an incarnation and leadership.
    generations: BTreeMap<(u64, u64), i32>,
    /// How often the group `g` was deleted.
    incarnation: u64,
    next_token: u64,
    elections: u64,
    aliases: BTreeMap<String, String>,
}

type Options<'a> = BTreeMap<&'a str, &'a str>;

impl World {
    pub fn new(config: GroupConfig) -> Self {
        let now = Now { mono_us: 1_000_000, wall_ms: 1_700_000_000_000 };
        let mut world = Self {
            coordinator: GroupCoordinator::new(config.clone()),
            config,
            now,
            log: Vec::new(),
            clients: BTreeMap::new(),
            waiting: BTreeMap::new(),
            last_response: None,
            writes: VecDeque::new(),
            holds: false,
            has_failed: false,
            output: String::new(),
            assignments: BTreeMap::new(),
            owners: BTreeMap::new(),
            generations: BTreeMap::new(),
            incarnation: 0,
            next_token: 0,
            elections: 0,
            aliases: BTreeMap::new(),
        };
        world.elect();
        world
    }

    pub fn elect(&mut self) {
        self.elections += 1;
        self.coordinator.on_elected(self.now, self.elections);
    }

    /// This node stops leading, its last writes commit all the same, and it leads again.
    pub fn resign_and_commit(&mut self) {
        let writes = std::mem::take(&mut self.writes);
        self.resign();
        for (write, records) in writes {
            for record in records {
                self.coordinator.replay(&record).expect("own records replay");
                self.log.push(record);
            }
            let mut actions = Vec::new();
            self.coordinator.on_written(self.now, write, Ok(()), &mut actions);
            assert!(actions.is_empty(), "a write of an earlier leadership is ignored");
        }
    }

    pub fn resign(&mut self) {
        let mut actions = Vec::new();
        self.coordinator.on_resigned(&mut actions);
        self.perform(actions);
        self.writes.clear();
        assert!(self.waiting.is_empty(), "a resignation answers everybody: {:?}", self.waiting);
    }

    /// A new coordinator that has replayed the committed records.
    pub fn recovered(&self) -> GroupCoordinator {
        let mut coordinator = GroupCoordinator::new(self.config.clone());
        for record in &self.log {
            coordinator.replay(record).expect("own records replay");
        }
        coordinator
    }

    pub fn client(&mut self, name: &str) -> &mut Client {
        self.clients.entry(name.to_owned()).or_default()
    }

    pub fn request(&mut self, who: &str, api_version: i16, request: GroupRequest) {
        self.next_token += 1;
        let token = RequestToken(self.next_token);
        self.client(who).api_version = api_version;
        let client = self.client(who).clone();
        self.waiting.insert(token, (who.to_owned(), client));
        let context =
            RequestContext { api_version, client_id: who.into(), client_host: format!("/{who}").into() };
        let mut actions = Vec::new();
        self.coordinator.on_request(self.now, token, &context, request, &mut actions);
        self.perform(actions);
    }

    pub fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Append { write, records } => {
                    let names: Vec<_> = records.iter().map(record_name).collect();
                    writeln!(self.output, "  append {}", names.join(" ")).expect("a string");
                    self.writes.push_back((write, records));
                }
                Action::Respond { token, response } => {
                    let (who, asked_as) = self.waiting.remove(&token).expect("each token is answered once");
                    self.check_response(&who, asked_as, &response);
                    self.on_response(&who, response);
                }
            }
        }
        self.coordinator.assert_invariants();
        if !self.has_failed {
            self.coordinator.assert_matches_log();
        }
        if !self.holds {
            self.flush();
        }
    }

    pub fn flush(&mut self) {
        while let Some((write, records)) = self.writes.pop_front() {
            for record in records {
                self.coordinator.replay(&record).expect("own records replay");
                self.log.push(record);
            }
            let mut actions = Vec::new();
            self.coordinator.on_written(self.now, write, Ok(()), &mut actions);
            self.perform(actions);
        }
    }

    pub fn fail(&mut self, error: ErrorCode) {
        if let Some((write, _)) = self.writes.pop_front() {
            self.has_failed = true;
            let mut actions = Vec::new();
            self.coordinator.on_written(self.now, write, Err(error), &mut actions);
            self.perform(actions);
        }
    }

    /// Lets time pass, firing timers as they come due.
    pub fn tick(&mut self, ms: u64) {
        let end_us = self.now.mono_us + ms * 1_000;
        for _ in 0..100_000 {
            let next_us = self.coordinator.next_deadline_us().filter(|due_us| *due_us <= end_us);
            let step_us = next_us.unwrap_or(end_us).max(self.now.mono_us);
            self.now.wall_ms += i64::try_from((step_us - self.now.mono_us) / 1_000).expect("short");
            self.now.mono_us = step_us;
            if next_us.is_none() {
                return;
            }
            let mut actions = Vec::new();
            self.coordinator.on_timer(self.now, &mut actions);
            self.perform(actions);
        }
        panic!("timers do not come to rest");
    }

    /// What holds for every answer, whatever happened before.
    fn check_response(&mut self, who: &str, client: Client, response: &GroupResponse) {
        encode(client.api_version, response.clone()).expect("each version can say it");
        match response {
            GroupResponse::JoinGroup(response) if !response.member_id.is_empty() => {
                let owner = self.owners.entry(response.member_id.to_string()).or_insert(who.to_owned());
                assert_eq!(owner, who, "a member id has one owner");
                if response.error_code == 0 {
                    let highest = self.generations.entry((self.incarnation, self.elections)).or_default();
                    assert!(response.generation_id >= *highest, "generations only grow");
                    *highest = response.generation_id;
                }
            }
            GroupResponse::SyncGroup(response) if response.error_code == 0 => {
                let key = (self.incarnation, client.generation, client.member_id);
                let told = self.assignments.entry(key).or_insert(response.assignment.clone());
                assert_eq!(told, &response.assignment, "a member has one assignment in a generation");
            }
            GroupResponse::DeleteGroup(result) if result.error_code == 0 => self.incarnation += 1,
            _ => {}
        }
    }

    fn on_response(&mut self, who: &str, response: GroupResponse) {
        self.last_response = Some(response.clone());
        let text = match response {
            GroupResponse::JoinGroup(response) => {
                let member = self.alias(response.member_id.as_str());
                let error = ErrorCode::from(response.error_code);
                let client = self.client(who);
                match error {
                    ErrorCode::None => {
                        client.member_id = response.member_id.to_string();
                        client.generation = response.generation_id;
                    }
                    ErrorCode::MemberIdRequired => client.member_id = response.member_id.to_string(),
                    ErrorCode::UnknownMemberId => client.member_id.clear(),
                    _ => {}
                }
                if error == ErrorCode::None {
                    let members: Vec<_> =
                        response.members.iter().map(|member| self.alias(member.member_id.as_str())).collect();
                    let skip = if response.skip_assignment { " skip" } else { "" };
                    format!(
                        "join {member}: generation {} {} leader {} members [{}]{skip}",
                        response.generation_id,
                        protocol(&response.protocol_type, &response.protocol_name),
                        self.alias(response.leader.as_str()),
                        members.join(" "),
                    )
                } else {
                    format!("join {member}: {error:?}")
                }
            }
            GroupResponse::SyncGroup(response) => match ErrorCode::from(response.error_code) {
                ErrorCode::None => format!(
                    "sync: {} {:?}",
                    protocol(&response.protocol_type, &response.protocol_name),
                    response.assignment
                ),
                error => format!("sync: {error:?}"),
            },
            GroupResponse::Heartbeat(response) => {
                format!("heartbeat: {:?}", ErrorCode::from(response.error_code))
            }
            GroupResponse::LeaveGroup(response) => {
                let members: Vec<_> = response
                    .members
                    .iter()
                    .map(|member| {
                        let id = self.alias(member.member_id.as_str());
                        let instance = member.group_instance_id.as_ref();
                        let instance = instance.map(|id| format!("@{id}")).unwrap_or_default();
                        format!("{id}{instance}={:?}", ErrorCode::from(member.error_code))
                    })
                    .collect();
                format!("leave: {:?} [{}]", ErrorCode::from(response.error_code), members.join(" "))
            }
            GroupResponse::OffsetCommit(response) => {
                let mut text = "commit:".to_owned();
                for topic in &response.topics {
                    for partition in &topic.partitions {
                        let error = ErrorCode::from(partition.error_code);
                        write!(text, " {}-{}={error:?}", topic.name, partition.partition_index)
                            .expect("a string");
                    }
                }
                text
            }
            GroupResponse::OffsetFetch(response) => {
                let mut text = "fetch:".to_owned();
                if response.error_code != 0 {
                    write!(text, " {:?}", ErrorCode::from(response.error_code)).expect("a string");
                }
                for topic in &response.topics {
                    for partition in &topic.partitions {
                        let value = match ErrorCode::from(partition.error_code) {
                            ErrorCode::None => format!(
                                "{}/{}/{:?}",
                                partition.committed_offset,
                                partition.committed_leader_epoch,
                                partition.metadata.as_ref().map_or("null", KafkaString::as_str)
                            ),
                            error => format!("{error:?}"),
                        };
                        write!(text, " {}-{}={value}", topic.name, partition.partition_index)
                            .expect("a string");
                    }
                }
                text
            }
            GroupResponse::DescribeGroup(group) => {
                let members: Vec<_> = group
                    .members
                    .iter()
                    .map(|member| {
                        let id = self.alias(member.member_id.as_str());
                        format!("{id}{}={:?}", member.client_host, member.member_assignment)
                    })
                    .collect();
                format!(
                    "describe: {:?} {} {}/{} [{}]{}",
                    ErrorCode::from(group.error_code),
                    group.group_state,
                    group.protocol_type,
                    group.protocol_data,
                    members.join(" "),
                    group.error_message.map(|text| format!(" {text:?}")).unwrap_or_default(),
                )
            }
            GroupResponse::ListGroups(response) => {
                let groups: Vec<_> = response
                    .groups
                    .iter()
                    .map(|group| {
                        format!(
                            "{}:{}:{}:{}",
                            group.group_id, group.group_state, group.protocol_type, group.group_type
                        )
                    })
                    .collect();
                format!("list: {:?} [{}]", ErrorCode::from(response.error_code), groups.join(" "))
            }
            GroupResponse::DeleteGroup(result) => {
                format!("delete {}: {:?}", result.group_id, ErrorCode::from(result.error_code))
            }
            GroupResponse::OffsetDelete(response) => {
                let mut text = format!("delete-offsets: {:?}", ErrorCode::from(response.error_code));
                for topic in &response.topics {
                    for partition in &topic.partitions {
                        let error = ErrorCode::from(partition.error_code);
                        write!(text, " {}-{}={error:?}", topic.name, partition.partition_index)
                            .expect("a string");
                    }
                }
                text
            }
        };
        writeln!(self.output, "  {who} <- {text}").expect("a string");
    }

    /// `A-<uuid>` as `A#1`, and so on for each further id with that prefix.
    fn alias(&mut self, member_id: &str) -> String {
        if member_id.is_empty() {
            return "-".to_owned();
        }
        if let Some(alias) = self.aliases.get(member_id) {
            return alias.clone();
        }
        let prefix = member_id.get(..member_id.len().saturating_sub(37)).unwrap_or(member_id);
        let number = 1 + self
            .aliases
            .keys()
            .filter(|id| id.len() == member_id.len() && id.starts_with(prefix))
            .count();
        let alias = format!("{prefix}#{number}");
        self.aliases.insert(member_id.to_owned(), alias.clone());
        alias
    }

    /// Runs one line.
    pub fn step(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let verb = words.next().expect("a verb");
        let who = words.clone().next().filter(|word| !word.contains('=')).unwrap_or("");
        let options: Options<'_> = words.filter_map(|word| word.split_once('=')).collect();
        match verb {
            "tick" => self.tick(who.parse().expect("milliseconds")),
            "hold" => self.holds = true,
            "flush" => {
                self.holds = false;
                self.flush();
            }
            "fail" => self.fail(ErrorCode::from(who.parse::<i16>().expect("an error code"))),
            "failover" => {
                self.resign();
                self.elect();
            }
            "failover-late" => {
                self.resign_and_commit();
                self.elect();
            }
            "restart" => {
                self.coordinator = self.recovered();
                self.waiting.clear();
                self.writes.clear();
                self.elect();
            }
            "delete-topic" => {
                let mut actions = Vec::new();
                let topics = who.split(',').map(Arc::from).collect();
                self.coordinator.on_topics_deleted(self.now, &topics, &mut actions);
                self.perform(actions);
            }
            "forget" => *self.client(who) = Client::default(),
            _ => {
                let version = option(&options, "v").unwrap_or(i16::MAX);
                let request = self.build(verb, who, version, &options);
                self.request(who, version, request);
            }
        }
    }

    fn build(&mut self, verb: &str, who: &str, version: i16, options: &Options<'_>) -> GroupRequest {
        let group = kafka(options.get("group").copied().unwrap_or("g"));
        let instance = options.get("instance").map(|id| kafka(id));
        let client = self.client(who).clone();
        let member_id = match options.get("member") {
            Some(other) if *other == "-" => KafkaString::default(),
            Some(other) => kafka(&self.client(other).member_id),
            None => kafka(&client.member_id),
        };
        let generation = option(options, "generation").unwrap_or(client.generation);
        match verb {
            "join" => GroupRequest::JoinGroup(JoinGroupRequestData {
                group_id: group,
                session_timeout_ms: option(options, "session").unwrap_or(10_000),
                rebalance_timeout_ms: option(options, "rebalance").unwrap_or(60_000),
                member_id,
                group_instance_id: instance,
                protocol_type: kafka(options.get("type").copied().unwrap_or("consumer")),
                protocols: options
                    .get("protocols")
                    .copied()
                    .unwrap_or("range")
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(|name| JoinGroupRequestProtocol {
                        name: kafka(name),
                        metadata: subscription(options.get("topics").copied().unwrap_or("t")),
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            }),
            "sync" => GroupRequest::SyncGroup(SyncGroupRequestData {
                group_id: group,
                generation_id: generation,
                member_id,
                group_instance_id: instance,
                protocol_type: options.get("type").map(|name| kafka(name)),
                protocol_name: options.get("protocol").map(|name| kafka(name)),
                assignments: options
                    .get("assign")
                    .into_iter()
                    .flat_map(|list| list.split(','))
                    .map(|entry| {
                        let (client, assignment) = entry.split_once(':').expect("client:assignment");
                        SyncGroupRequestAssignment {
                            member_id: kafka(&self.client(client).member_id),
                            assignment: Bytes::copy_from_slice(assignment.as_bytes()),
                            ..Default::default()
                        }
                    })
                    .collect(),
                ..Default::default()
            }),
            "heartbeat" => GroupRequest::Heartbeat(HeartbeatRequestData {
                group_id: group,
                generation_id: generation,
                member_id,
                group_instance_id: instance,
                ..Default::default()
            }),
            "leave" if version < 3 => GroupRequest::LeaveGroup(LeaveGroupRequestData {
                group_id: group,
                member_id,
                ..Default::default()
            }),
            "leave" => {
                let others = options.get("and").into_iter().flat_map(|list| list.split(','));
                let others: Vec<_> = others.map(|name| kafka(&self.client(name).member_id)).collect();
                let mut members =
                    vec![MemberIdentity { member_id, group_instance_id: instance, ..Default::default() }];
                members.extend(
                    others.into_iter().map(|member_id| MemberIdentity { member_id, ..Default::default() }),
                );
                GroupRequest::LeaveGroup(LeaveGroupRequestData {
                    group_id: group,
                    members,
                    ..Default::default()
                })
            }
            "commit" => GroupRequest::OffsetCommit(OffsetCommitRequestData {
                group_id: group,
                generation_id_or_member_epoch: generation,
                member_id,
                group_instance_id: instance,
                retention_time_ms: option(options, "retention").unwrap_or(-1),
                topics: vec![OffsetCommitRequestTopic {
                    name: kafka(options.get("topic").copied().unwrap_or("t")),
                    partitions: options["offsets"]
                        .split(',')
                        .map(|entry| {
                            let (partition, offset) = entry.split_once(':').expect("partition:offset");
                            OffsetCommitRequestPartition {
                                partition_index: partition.parse().expect("a partition"),
                                committed_offset: offset.parse().expect("an offset"),
                                committed_leader_epoch: option(options, "epoch").unwrap_or(-1),
                                committed_metadata: options.get("metadata").map(|text| kafka(text)),
                                ..Default::default()
                            }
                        })
                        .collect(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            "fetch" => GroupRequest::OffsetFetch {
                group: OffsetFetchRequestGroup {
                    group_id: group,
                    topics: options.get("partitions").map(|list| {
                        vec![OffsetFetchRequestTopics {
                            name: kafka(options.get("topic").copied().unwrap_or("t")),
                            partition_indexes: list
                                .split(',')
                                .map(|partition| partition.parse().expect("a partition"))
                                .collect(),
                            ..Default::default()
                        }]
                    }),
                    ..Default::default()
                },
                require_stable: options.contains_key("stable"),
            },
            "describe" => GroupRequest::DescribeGroup(group),
            "list" => GroupRequest::ListGroups(GroupFilter::new(&ListGroupsRequestData {
                states_filter: options.get("state").map(|state| kafka(state)).into_iter().collect(),
                types_filter: options.get("type").map(|name| kafka(name)).into_iter().collect(),
                ..Default::default()
            })),
            "delete" => GroupRequest::DeleteGroup(group),
            "delete-offsets" => GroupRequest::OffsetDelete(OffsetDeleteRequestData {
                group_id: group,
                topics: vec![OffsetDeleteRequestTopic {
                    name: kafka(options.get("topic").copied().unwrap_or("t")),
                    partitions: options["partitions"]
                        .split(',')
                        .map(|partition| OffsetDeleteRequestPartition {
                            partition_index: partition.parse().expect("a partition"),
                            ..Default::default()
                        })
                        .collect(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            other => panic!("unknown step {other}"),
        }
    }
}

/// The response on the wire, in the version asked for or the highest there is.
fn encode(version: i16, response: GroupResponse) -> Result<(), ProtocolError> {
    let mut out = BytesMut::new();
    match response {
        GroupResponse::JoinGroup(response) => response.write(&mut out, version.min(9)),
        GroupResponse::SyncGroup(response) => response.write(&mut out, version.min(5)),
        GroupResponse::Heartbeat(response) => response.write(&mut out, version.min(4)),
        GroupResponse::LeaveGroup(response) => response.write(&mut out, version.min(5)),
        GroupResponse::OffsetCommit(response) => response.write(&mut out, version.clamp(2, 10)),
        GroupResponse::OffsetFetch(group) => {
            let response = OffsetFetchResponseData { groups: vec![group], ..Default::default() };
            response.write(&mut out, version.clamp(8, 10))
        }
        GroupResponse::DescribeGroup(group) => {
            let response = DescribeGroupsResponseData { groups: vec![group], ..Default::default() };
            response.write(&mut out, version.min(6))
        }
        GroupResponse::ListGroups(response) => response.write(&mut out, version.min(5)),
        GroupResponse::DeleteGroup(result) => {
            let response = DeleteGroupsResponseData { results: vec![result], ..Default::default() };
            response.write(&mut out, version.min(2))
        }
        GroupResponse::OffsetDelete(response) => response.write(&mut out, 0),
    }
}

fn option<T: std::str::FromStr>(options: &Options<'_>, name: &str) -> Option<T> {
    options.get(name).map(|text| text.parse().ok().expect("a number"))
}

pub fn kafka(text: &str) -> KafkaString {
    KafkaString::from(text.to_owned())
}

fn protocol(protocol_type: &Option<KafkaString>, name: &Option<KafkaString>) -> String {
    let text = |part: &Option<KafkaString>| part.as_ref().map_or("null", KafkaString::as_str).to_owned();
    format!("{}/{}", text(protocol_type), text(name))
}

/// A consumer's subscription (version 1) to comma-separated topics.
pub fn subscription(topics: &str) -> Bytes {
    let topics: BTreeSet<_> = topics.split(',').collect();
    let mut bytes = vec![0, 1];
    bytes.extend_from_slice(&u32::try_from(topics.len()).expect("few").to_be_bytes());
    for topic in topics {
        bytes.extend_from_slice(&u16::try_from(topic.len()).expect("short").to_be_bytes());
        bytes.extend_from_slice(topic.as_bytes());
    }
    bytes.extend_from_slice(&(-1i32).to_be_bytes());
    bytes.extend_from_slice(&0i32.to_be_bytes());
    Bytes::from(bytes)
}

/// `group(g)`, `offset(g,t,0)`, with a minus for a tombstone.
fn record_name(record: &CoordinatorRecord) -> String {
    let key = &record.key;
    let text = |at: usize| {
        let length = usize::from(u16::from_be_bytes([key[at], key[at + 1]]));
        let end = at + 2 + length;
        (String::from_utf8_lossy(&key[at + 2..end]).into_owned(), end)
    };
    let sign = if record.value.is_none() { "-" } else { "" };
    let (group, end) = text(2);
    match key[1] {
        2 => format!("{sign}group({group})"),
        _ => {
            let (topic, end) = text(end);
            let partition = i32::from_be_bytes(key[end..end + 4].try_into().expect("four bytes"));
            format!("{sign}offset({group},{topic},{partition})")
        }
    }
}
