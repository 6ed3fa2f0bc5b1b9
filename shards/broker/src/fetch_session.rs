//! Incremental fetch sessions (KIP-227): the broker remembers what a consumer fetches, and says only what changed.

use std::collections::{BTreeMap, HashMap, HashSet};

use protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use protocol::messages::{ErrorCode, KafkaString, kafka_string, topic_id};
use types::TopicId;
use types::hash::mix64;
use types::limits::{FETCH_SESSION_PARTITIONS_MAX, FETCH_SESSIONS_PER_SHARD_MAX, TOPIC_NAME_CHARS_MAX};

/// The epoch of a request without a session, or one that ends its session.
const FINAL_EPOCH: i32 = -1;

/// The epoch of a request that asks for a new session.
const INITIAL_EPOCH: i32 = 0;

/// How long a session must have been idle before another may take its place (Kafka's
/// `min.incremental.fetch.session.eviction.ms`).
const EVICTION_IDLE_MS: u64 = 120_000;

/// A partition as a fetch request names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PartitionKey {
    /// In an allocation of its own, so that a session does not keep a request's frame.
    pub topic: KafkaString,
    pub topic_id: TopicId,
    pub partition: i32,
}

/// What a session knows of one partition.
#[derive(Clone, Debug)]
pub(crate) struct SessionPartition {
    pub key: PartitionKey,
    pub request: FetchPartition,
    /// What was last told: a partition without news is left out of incremental responses.
    pub told: Option<Told>,
}

/// The parts of a response by which the client notices news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub high_watermark: i64,
    pub log_start: i64,
    pub error: ErrorCode,
}

/// What a response says of one partition of a session.
pub(crate) struct Answered {
    pub key: PartitionKey,
    pub told: Told,
    pub has_records: bool,
}

struct Session {
    epoch: i32,
    /// In the order in which they are read.
    partitions: Vec<SessionPartition>,
    used_us: u64,
}

/// What a request is to its session.
pub(crate) struct Admitted {
    /// The session's id for the response, 0 for none.
    pub session_id: i32,
    /// Whether partitions without news are left out.
    pub incremental: bool,
    /// All partitions to fetch, in order.
    pub partitions: Vec<SessionPartition>,
}

/// The sessions of one shard. A client whose next connection comes to another shard starts a new one, as it
/// does when its session was evicted. A client that is given none asks for one with every fetch.
pub(crate) struct FetchSessions {
    sessions: BTreeMap<i32, Session>,
    seed: u64,
}

impl FetchSessions {
    pub(crate) fn new(seed: u64) -> FetchSessions {
        FetchSessions { sessions: BTreeMap::new(), seed }
    }

    /// Finds or makes the session of a request and brings it up to date.
    pub(crate) fn admit(
        &mut self,
        now_us: u64,
        session_id: i32,
        epoch: i32,
        topics: Vec<FetchTopic>,
        forgotten: &[ForgottenTopic],
    ) -> Result<Admitted, ErrorCode> {
        match epoch {
            FINAL_EPOCH | INITIAL_EPOCH => {
                self.sessions.remove(&session_id);
                let partitions = flatten(topics);
                let session_id = match epoch {
                    INITIAL_EPOCH => self.create(now_us, &partitions),
                    _ => 0,
                };
                Ok(Admitted { session_id, incremental: false, partitions })
            }
            _ => {
                let session = self.sessions.get_mut(&session_id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
                if session.epoch != epoch {
                    return Err(ErrorCode::InvalidFetchSessionEpoch);
                }
                session.epoch = epoch.checked_add(1).unwrap_or(1);
                session.used_us = now_us;
                let known = session.partitions.len();
                let named = flatten(topics);
                let has_long_names = has_long_names(&named);
                session.update(named, forgotten);
                let partitions = session.partitions.clone();
                let is_too_large = partitions.len() > known && self.held() > FETCH_SESSION_PARTITIONS_MAX;
                if is_too_large || has_long_names {
                    // It has grown too large to be remembered. The client comes back with all its partitions.
                    self.sessions.remove(&session_id);
                    return Err(ErrorCode::FetchSessionIdNotFound);
                }
                Ok(Admitted { session_id, incremental: true, partitions })
            }
        }
    }

    /// Remembers what was told of a session's partitions. Those that gave records go behind the others, as in Kafka: where a
    /// response cannot hold all that there is, the next one begins with those that had no part in it.
    pub(crate) fn remember(&mut self, session_id: i32, answered: &[Answered]) {
        let Some(session) = self.sessions.get_mut(&session_id) else { return };
        let answered: HashMap<&PartitionKey, &Answered> = answered.iter().map(|a| (&a.key, a)).collect();
        let served = session.partitions.extract_if(.., |partition| match answered.get(&partition.key) {
            Some(answered) => {
                partition.told = Some(answered.told);
                answered.has_records
            }
            None => false,
        });
        let mut served: Vec<SessionPartition> = served.collect();
        session.partitions.append(&mut served);
    }

    /// The partitions of all sessions.
    fn held(&self) -> usize {
        self.sessions.values().map(|session| session.partitions.len()).sum()
    }

    /// A new session, or 0 where it cannot be remembered.
    fn create(&mut self, now_us: u64, partitions: &[SessionPartition]) -> i32 {
        if partitions.is_empty() || has_long_names(partitions) || !self.make_room(now_us, partitions.len()) {
            return 0;
        }
        let id = loop {
            self.seed = mix64(self.seed);
            let id = i32::try_from(self.seed >> 33).expect("31 bits are left");
            if id != 0 && !self.sessions.contains_key(&id) {
                break id;
            }
        };
        self.sessions.insert(id, Session { epoch: 1, partitions: partitions.to_vec(), used_us: now_us });
        id
    }

    /// Whether there is room for a session of so many partitions, perhaps in place of those that were idle longest. What is in
    /// use stays (KIP-227): its client would come back for the place of the next one, and so on, until nobody had a session.
    fn make_room(&mut self, now_us: u64, partitions: usize) -> bool {
        if partitions > FETCH_SESSION_PARTITIONS_MAX {
            return false;
        }
        let mut held = self.held();
        while self.sessions.len() >= FETCH_SESSIONS_PER_SHARD_MAX
            || held + partitions > FETCH_SESSION_PARTITIONS_MAX
        {
            let idlest = self.sessions.iter().min_by_key(|(_, session)| session.used_us);
            let (id, session) = idlest.expect("there are sessions");
            if now_us.saturating_sub(session.used_us) <= EVICTION_IDLE_MS * 1_000 {
                return false;
            }
            held -= session.partitions.len();
            let id = *id;
            self.sessions.remove(&id);
        }
        true
    }
}

impl Session {
    /// Named partitions are changed or added at the end, forgotten ones leave.
    fn update(&mut self, named: Vec<SessionPartition>, forgotten: &[ForgottenTopic]) {
        if !named.is_empty() {
            let positions: HashMap<PartitionKey, usize> =
                self.partitions.iter().enumerate().map(|(at, p)| (p.key.clone(), at)).collect();
            for partition in named {
                match positions.get(&partition.key) {
                    Some(at) => self.partitions[*at].request = partition.request,
                    None => self.partitions.push(partition),
                }
            }
        }
        if !forgotten.is_empty() {
            let keys = forgotten.iter().flat_map(|topic| {
                let id = topic_id(topic.topic_id);
                topic.partitions.iter().map(move |partition| (topic.topic.as_str(), id, *partition))
            });
            let gone: HashSet<(&str, TopicId, i32)> = keys.collect();
            self.partitions.retain(|SessionPartition { key, .. }| {
                !gone.contains(&(key.topic.as_str(), key.topic_id, key.partition))
            });
        }
    }
}

/// Whether there are names that no topic can have: sessions are bounded by the partitions that they remember.
fn has_long_names(partitions: &[SessionPartition]) -> bool {
    partitions.iter().any(|partition| partition.key.topic.as_str().len() > TOPIC_NAME_CHARS_MAX)
}

fn flatten(topics: Vec<FetchTopic>) -> Vec<SessionPartition> {
    let mut partitions = Vec::new();
    for topic in topics {
        let (name, topic_id) = (kafka_string(topic.topic.as_str()), topic_id(topic.topic_id));
        for request in topic.partitions {
            let key = PartitionKey { topic: name.clone(), topic_id, partition: request.partition };
            partitions.push(SessionPartition { key, request, told: None });
        }
    }
    partitions
}
