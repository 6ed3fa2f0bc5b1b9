//! Membership of a classic consumer group (KIP-394, KIP-62 without its second thread: this member polls often).

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use protocol::ErrorCode;
use protocol::messages::heartbeat_request::HeartbeatRequestData;
use protocol::messages::join_group_request::{JoinGroupRequestData, JoinGroupRequestProtocol};
use protocol::messages::join_group_response::JoinGroupResponseData;
use protocol::messages::kafka_string;
use protocol::messages::leave_group_request::{LeaveGroupRequestData, MemberIdentity};
use protocol::messages::offset_commit_request::{
    OffsetCommitRequestData, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use protocol::messages::offset_fetch_request::{OffsetFetchRequestData, OffsetFetchRequestTopic};
use protocol::messages::sync_group_request::{SyncGroupRequestAssignment, SyncGroupRequestData};

use super::assignment::{
    PROTOCOL, assign_ranges, decode_assignment, decode_subscription, encode_assignment, encode_subscription,
};
use super::cluster::{self, Cluster, RETRY_PAUSE, RETRY_TIME_MAX};
use super::connection::call;
use crate::exit::Error;

const JOIN_GROUP_VERSION: i16 = 5;
const SYNC_GROUP_VERSION: i16 = 3;
const HEARTBEAT_VERSION: i16 = 3;
const LEAVE_GROUP_VERSION: i16 = 3;
const OFFSET_FETCH_VERSION: i16 = 7;
const OFFSET_COMMIT_VERSION: i16 = 7;

const PROTOCOL_TYPE: &str = "consumer";
const SESSION_TIMEOUT_MS: i32 = 30_000;
const REBALANCE_TIMEOUT_MS: i32 = 60_000;
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);

/// Whether a member still has its share of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may go on.
    Kept,
    /// It must join again.
    Lost,
}

/// One member of a group, with a topic that it wants a share of.
///
/// It has a coordinator and a generation from [`Membership::join`] until one of the other calls finds them outdated.
pub struct Membership {
    group: String,
    topic: String,
    member_id: String,
    generation: Option<Generation>,
    heartbeat_at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Generation {
    id: i32,
    coordinator: i32,
}

impl Membership {
    /// A member that has not joined yet.
    pub fn new(group: &str, topic: &str) -> Membership {
        Membership {
            group: group.to_owned(),
            topic: topic.to_owned(),
            member_id: String::new(),
            generation: None,
            heartbeat_at: Instant::now(),
        }
    }

    /// Whether it has a share.
    pub fn is_joined(&self) -> bool {
        self.generation.is_some()
    }

    /// Joins and gives the partitions of its share with their committed offsets.
    ///
    /// # Errors
    ///
    /// What the coordinator refuses for good, and what it refused for too long.
    pub fn join(&mut self, cluster: &mut Cluster) -> Result<BTreeMap<i32, Option<i64>>, Error> {
        let started = Instant::now();
        loop {
            match self.try_join(cluster) {
                Ok(positions) => return Ok(positions),
                Err(error) if self.may_join_again(&error) && started.elapsed() < RETRY_TIME_MAX => {
                    if !matches!(error, Error::Kafka { .. }) {
                        cluster.reconnect();
                    }
                    self.generation = None;
                    thread::sleep(RETRY_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn may_join_again(&mut self, error: &Error) -> bool {
        match error {
            Error::Kafka { code: ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration, .. } => {
                self.member_id.clear();
                true
            }
            error => cluster::is_retriable(error),
        }
    }

    fn try_join(&mut self, cluster: &mut Cluster) -> Result<BTreeMap<i32, Option<i64>>, Error> {
        let coordinator = cluster.coordinator(&self.group)?;
        let joined = self.request_join(cluster, coordinator)?;
        self.generation = Some(Generation { id: joined.generation_id, coordinator });
        let assignments =
            if joined.leader.as_str() == self.member_id { assign(cluster, &joined)? } else { Vec::new() };
        let share = self.request_share(cluster, assignments)?;
        self.heartbeat_at = Instant::now() + HEARTBEAT_INTERVAL;
        self.committed(cluster, &share)
    }

    /// A new member is told its id first, and joins with it.
    fn request_join(
        &mut self,
        cluster: &mut Cluster,
        coordinator: i32,
    ) -> Result<JoinGroupResponseData, Error> {
        for _ in 0..2 {
            let request = JoinGroupRequestData {
                group_id: kafka_string(&self.group),
                session_timeout_ms: SESSION_TIMEOUT_MS,
                rebalance_timeout_ms: REBALANCE_TIMEOUT_MS,
                member_id: kafka_string(&self.member_id),
                protocol_type: kafka_string(PROTOCOL_TYPE),
                protocols: vec![JoinGroupRequestProtocol {
                    name: kafka_string(PROTOCOL),
                    metadata: encode_subscription(&self.topic),
                    ..JoinGroupRequestProtocol::default()
                }],
                ..JoinGroupRequestData::default()
            };
            let joined = call!(cluster.node(coordinator)?, JoinGroup, JOIN_GROUP_VERSION, request);
            if ErrorCode::from(joined.error_code) == ErrorCode::MemberIdRequired {
                self.member_id = joined.member_id.as_str().to_owned();
                continue;
            }
            self.check(joined.error_code, "join")?;
            self.member_id = joined.member_id.as_str().to_owned();
            return Ok(joined);
        }
        Err(self.refusal("join", ErrorCode::MemberIdRequired))
    }

    fn request_share(
        &mut self,
        cluster: &mut Cluster,
        assignments: Vec<SyncGroupRequestAssignment>,
    ) -> Result<Vec<i32>, Error> {
        let generation = self.generation();
        let request = SyncGroupRequestData {
            group_id: kafka_string(&self.group),
            generation_id: generation.id,
            member_id: kafka_string(&self.member_id),
            assignments,
            ..SyncGroupRequestData::default()
        };
        let synced = call!(cluster.node(generation.coordinator)?, SyncGroup, SYNC_GROUP_VERSION, request);
        self.check(synced.error_code, "join")?;
        decode_assignment(synced.assignment, &self.topic).ok_or_else(|| {
            Error::Command(format!("group {}: its leader sent an assignment that cannot be read", self.group))
        })
    }

    fn committed(&self, cluster: &mut Cluster, share: &[i32]) -> Result<BTreeMap<i32, Option<i64>>, Error> {
        if share.is_empty() {
            return Ok(BTreeMap::new());
        }
        let request = OffsetFetchRequestData {
            group_id: kafka_string(&self.group),
            topics: Some(vec![OffsetFetchRequestTopic {
                name: kafka_string(&self.topic),
                partition_indexes: share.to_vec(),
                ..OffsetFetchRequestTopic::default()
            }]),
            require_stable: true,
            ..OffsetFetchRequestData::default()
        };
        let node = self.generation().coordinator;
        let fetched = call!(cluster.node(node)?, OffsetFetch, OFFSET_FETCH_VERSION, request);
        self.check(fetched.error_code, "read offsets of")?;
        let mut committed: BTreeMap<i32, Option<i64>> = share.iter().map(|index| (*index, None)).collect();
        for partition in fetched.topics.into_iter().flat_map(|topic| topic.partitions) {
            self.check(partition.error_code, "read offsets of")?;
            let offset = Some(partition.committed_offset).filter(|offset| *offset >= 0);
            committed.insert(partition.partition_index, offset);
        }
        Ok(committed)
    }

    /// Commits the offsets that are to be read next.
    ///
    /// # Errors
    ///
    /// What the coordinator refuses for good, and what it refused for too long.
    pub fn commit(
        &mut self,
        cluster: &mut Cluster,
        positions: &BTreeMap<i32, i64>,
    ) -> Result<Standing, Error> {
        let partition = |(index, offset): (&i32, &i64)| OffsetCommitRequestPartition {
            partition_index: *index,
            committed_offset: *offset,
            ..OffsetCommitRequestPartition::default()
        };
        let generation = self.generation();
        let request = OffsetCommitRequestData {
            group_id: kafka_string(&self.group),
            generation_id_or_member_epoch: generation.id,
            member_id: kafka_string(&self.member_id),
            topics: vec![OffsetCommitRequestTopic {
                name: kafka_string(&self.topic),
                partitions: positions.iter().map(partition).collect(),
                ..OffsetCommitRequestTopic::default()
            }],
            ..OffsetCommitRequestData::default()
        };
        self.keep_trying(cluster, "commit to", |cluster, node| {
            let response = call!(cluster.node(node)?, OffsetCommit, OFFSET_COMMIT_VERSION, request.clone());
            let codes =
                response.topics.iter().flat_map(|topic| &topic.partitions).map(|part| part.error_code);
            Ok(codes.into_iter().find(|code| *code != 0).unwrap_or(0))
        })
    }

    /// Tells the coordinator that this member is alive, when it is time to.
    ///
    /// # Errors
    ///
    /// What the coordinator refuses for good, and what it refused for too long.
    pub fn heartbeat_if_due(&mut self, cluster: &mut Cluster) -> Result<(), Error> {
        if Instant::now() < self.heartbeat_at {
            return Ok(());
        }
        self.heartbeat_at = Instant::now() + HEARTBEAT_INTERVAL;
        let request = HeartbeatRequestData {
            group_id: kafka_string(&self.group),
            generation_id: self.generation().id,
            member_id: kafka_string(&self.member_id),
            ..HeartbeatRequestData::default()
        };
        self.keep_trying(cluster, "stay in", |cluster, node| {
            Ok(call!(cluster.node(node)?, Heartbeat, HEARTBEAT_VERSION, request.clone()).error_code)
        })?;
        Ok(())
    }

    /// Leaves the group, if it has joined.
    ///
    /// # Errors
    ///
    /// When the coordinator cannot be told; the group then waits for the session to expire.
    pub fn leave(&mut self, cluster: &mut Cluster) -> Result<(), Error> {
        let Some(generation) = self.generation.take() else { return Ok(()) };
        let request = LeaveGroupRequestData {
            group_id: kafka_string(&self.group),
            members: vec![MemberIdentity {
                member_id: kafka_string(&self.member_id),
                ..MemberIdentity::default()
            }],
            ..LeaveGroupRequestData::default()
        };
        let left = call!(cluster.node(generation.coordinator)?, LeaveGroup, LEAVE_GROUP_VERSION, request);
        match ErrorCode::from(left.error_code) {
            // Whoever is not in the group has left it.
            ErrorCode::UnknownMemberId => Ok(()),
            _ => self.check(left.error_code, "leave"),
        }
    }

    /// Makes a request, which gives an error code, until the group's coordinator answers it.
    fn keep_trying(
        &mut self,
        cluster: &mut Cluster,
        verb: &str,
        mut request: impl FnMut(&mut Cluster, i32) -> Result<i16, Error>,
    ) -> Result<Standing, Error> {
        let started = Instant::now();
        loop {
            let node = self.generation().coordinator;
            let outcome = request(cluster, node).and_then(|code| self.check(code, verb));
            let error = match outcome {
                Ok(()) => return Ok(Standing::Kept),
                Err(error) => error,
            };
            if let Error::Kafka { code, .. } = &error
                && is_lost(*code)
            {
                self.generation = None;
                if *code == ErrorCode::UnknownMemberId {
                    self.member_id.clear();
                }
                return Ok(Standing::Lost);
            }
            if !cluster::is_retriable(&error) || started.elapsed() > RETRY_TIME_MAX {
                return Err(error);
            }
            if !matches!(error, Error::Kafka { .. }) {
                cluster.reconnect();
            }
            thread::sleep(RETRY_PAUSE);
            if let (Ok(coordinator), Some(generation)) =
                (cluster.coordinator(&self.group), &mut self.generation)
            {
                generation.coordinator = coordinator;
            }
        }
    }

    fn generation(&self) -> Generation {
        self.generation.expect("a member asks for this only after it joined")
    }

    fn check(&self, code: i16, verb: &str) -> Result<(), Error> {
        cluster::check(code, None, || format!("{verb} group {}", self.group))
    }

    fn refusal(&self, verb: &str, code: ErrorCode) -> Error {
        Error::Kafka { what: format!("{verb} group {}", self.group), code, message: None }
    }
}

fn is_lost(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::RebalanceInProgress | ErrorCode::IllegalGeneration | ErrorCode::UnknownMemberId)
}

/// What the leader of a generation does: shares out the topics that the members want.
fn assign(
    cluster: &mut Cluster,
    joined: &JoinGroupResponseData,
) -> Result<Vec<SyncGroupRequestAssignment>, Error> {
    let mut wishes = BTreeMap::new();
    for member in &joined.members {
        let topics = decode_subscription(member.metadata.clone()).unwrap_or_default();
        wishes.insert(member.member_id.as_str().to_owned(), topics);
    }
    let mut topics: Vec<&str> = wishes.values().flatten().map(String::as_str).collect();
    topics.sort_unstable();
    topics.dedup();
    let metadata = cluster.metadata(Some(&topics), false)?;
    let mut partition_counts = BTreeMap::new();
    for topic in &metadata.topics {
        // A topic that does not exist has no partitions to share.
        if let (0, Some(name)) = (topic.error_code, &topic.name) {
            let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
            partition_counts.insert(name.as_str().to_owned(), count);
        }
    }
    let shares = assign_ranges(&wishes, &partition_counts);
    let assignment = |(member, share): (&String, &BTreeMap<String, Vec<i32>>)| SyncGroupRequestAssignment {
        member_id: kafka_string(member),
        assignment: encode_assignment(share),
        ..SyncGroupRequestAssignment::default()
    };
    Ok(shares.iter().map(assignment).collect())
}
