//! Fetch (key 1): bytes from the owners of partitions; when too few are there, wait for more (KIP-74, KIP-227).

use std::sync::Arc;

use bytes::Bytes;
use protocol::fetch::{
    EpochEndOffset, FetchPartition, FetchResponse, FetchTopic, LeaderIdAndEpoch, NodeEndpoint,
    encode_fetch_response,
};
use protocol::messages::fetch_request::FetchRequestData;
use protocol::messages::{ErrorCode, KafkaString, kafka_string};
use types::limits::FETCH_BYTES_MAX;
use types::{NodeId, Offset};

use crate::PartitionError;
use crate::broker::Target;
use crate::fetch_session::{Admitted, Answered, PartitionKey, SessionPartition, Told};
use crate::op::{FetchItem, FetchOp, FetchedPartition, Op, OpResult};
use crate::state::State;
use crate::step::{Gather, RequestInfo, Step, Wake};

/// The version from which a client may ask any replica (KIP-392).
const FOLLOWER_VERSION_MIN: i16 = 11;

/// A fetch under way: its partitions in the order of the response, and the operations that ask their owners.
struct Fetch {
    session_id: i32,
    incremental: bool,
    partitions: Vec<SessionPartition>,
    /// The client's rack; empty where it has none.
    rack: KafkaString,
    /// The errors of partitions that no owner is asked about. As in Kafka they hurry nobody while others are waited for: a
    /// client would ask as fast as it can until its metadata is up to date.
    refused: Vec<Option<ErrorCode>>,
    /// One for each shard that owns some of the partitions.
    asks: Vec<Ask>,
    /// Whether the last operations were let bring less than the client wants.
    is_short_of_memory: bool,
    max_bytes: usize,
    min_bytes: usize,
    deadline_us: u64,
}

/// What one shard is asked for.
struct Ask {
    target: Target,
    items: Arc<[FetchItem]>,
    /// With fewer bytes than this it is to tell of more.
    min_bytes: usize,
}

impl Ask {
    /// The most that it brings, but for a first batch that is larger.
    fn bytes_max(&self, max_bytes: usize) -> usize {
        let wanted = self.items.iter().fold(0usize, |bytes, item| bytes.saturating_add(item.max_bytes));
        wanted.min(max_bytes)
    }
}

pub(crate) fn handle(state: &mut State, info: RequestInfo<'_>, request: FetchRequestData) -> Step {
    // Replicas are fed by Raft; a client that poses as one reads nothing (CVE-2018-1288).
    if request.replica_id >= 0 || request.replica_state.replica_id >= 0 {
        return encode(info, empty_response(ErrorCode::ClusterAuthorizationFailed));
    }
    let admitted = state.sessions.admit(
        info.now.mono_us,
        request.session_id,
        request.session_epoch,
        request.topics,
        &request.forgotten_topics_data,
    );
    let admitted = match admitted {
        Ok(admitted) => admitted,
        Err(error) => return encode(info, empty_response(error)),
    };
    let max_bytes = usize::try_from(request.max_bytes).unwrap_or(0).min(FETCH_BYTES_MAX);
    let mut fetch = Fetch {
        max_bytes,
        // As in Kafka: there is no waiting for more than may be sent.
        min_bytes: usize::try_from(request.min_bytes).unwrap_or(0).min(max_bytes),
        deadline_us: info.now.after_ms(request.max_wait_ms.into()),
        rack: request.rack_id,
        ..plan(state, admitted, info.api_version >= FOLLOWER_VERSION_MIN)
    };
    if !fetch.asks.is_empty() {
        fetch.share_missing_bytes(fetch.min_bytes, |_| 0);
    }
    // Where nothing is to be read, nothing will come.
    let wait = fetch.min_bytes > 0 && request.max_wait_ms > 0 && !fetch.asks.is_empty();
    ask(state, fetch, wait)
}

impl Fetch {
    /// Divides what is missing among the shards, on top of what each has: when all of it is there, wherever it came, at
    /// least one of them has its part and tells.
    fn share_missing_bytes(&mut self, missing_bytes: usize, has_bytes: impl Fn(usize) -> usize) {
        let part = missing_bytes.div_ceil(self.asks.len());
        for (number, ask) in self.asks.iter_mut().enumerate() {
            ask.min_bytes = has_bytes(number) + part;
        }
    }
}

fn plan(state: &State, admitted: Admitted, may_follow: bool) -> Fetch {
    let mut refused = Vec::with_capacity(admitted.partitions.len());
    let mut by_shard: Vec<(Target, Vec<FetchItem>)> = Vec::new();
    for (slot, partition) in (0u32..).zip(&admitted.partitions) {
        let SessionPartition { key, request, .. } = partition;
        match state.locate(key.topic.as_str(), key.topic_id, key.partition) {
            Err(error) => refused.push(Some(error)),
            Ok(located) => {
                refused.push(None);
                let item = FetchItem {
                    slot,
                    group: located.group,
                    may_follow,
                    current_leader_epoch: request.current_leader_epoch,
                    offset: Offset(request.fetch_offset),
                    last_fetched_epoch: request.last_fetched_epoch,
                    max_bytes: usize::try_from(request.partition_max_bytes).unwrap_or(0),
                };
                let shard = state.config.layout.shard_of(located.group);
                let same = |(target, _): &&mut (Target, Vec<FetchItem>)| match target {
                    Target::Group(group) => state.config.layout.shard_of(*group) == shard,
                    Target::Metadata => false,
                };
                match by_shard.iter_mut().find(same) {
                    Some((_, items)) => items.push(item),
                    None => by_shard.push((Target::Group(located.group), vec![item])),
                }
            }
        }
    }
    Fetch {
        session_id: admitted.session_id,
        incremental: admitted.incremental,
        partitions: admitted.partitions,
        rack: KafkaString::default(),
        refused,
        asks: by_shard
            .into_iter()
            .map(|(target, items)| Ask { target, items: items.into(), min_bytes: 0 })
            .collect(),
        is_short_of_memory: false,
        max_bytes: 0,
        min_bytes: 0,
        deadline_us: 0,
    }
}

fn ask(state: &mut State, mut fetch: Fetch, wait: bool) -> Step {
    if fetch.asks.is_empty() {
        return Step::gather(Vec::new(), move |state, info, results| {
            on_results(state, info, fetch, results, wait)
        });
    }
    let wanted_bytes = fetch.asks.iter().map(|ask| ask.bytes_max(fetch.max_bytes)).sum();
    let Some(reserved_bytes) = state.memory.grant(wanted_bytes) else {
        return Step::AwaitMemory(Box::new(move |state, info| {
            let wait = wait && info.now.mono_us < fetch.deadline_us;
            ask(state, fetch, wait)
        }));
    };
    fetch.is_short_of_memory = reserved_bytes < wanted_bytes;
    let max_bytes = match fetch.is_short_of_memory {
        true => fetch.max_bytes.min(reserved_bytes / fetch.asks.len()),
        false => fetch.max_bytes,
    };
    let ops = fetch.asks.iter().map(|ask| {
        let op = FetchOp {
            items: Arc::clone(&ask.items),
            max_bytes,
            min_bytes: ask.min_bytes.min(max_bytes),
            wait,
        };
        (ask.target, Op::Fetch(op))
    });
    Step::Gather(Gather {
        ops: ops.collect(),
        deadline_us: None,
        reserved_bytes,
        finish: Box::new(move |state, info, results| on_results(state, info, fetch, results, wait)),
    })
}

fn on_results(
    state: &mut State,
    info: RequestInfo<'_>,
    mut fetch: Fetch,
    results: Vec<OpResult>,
    wait: bool,
) -> Step {
    let mut found: Vec<Option<FetchedPartition>> = vec![None; fetch.partitions.len()];
    let mut all_will_wake = true;
    // An owner that has less than its part and does not tell of more read from the disk; the answer goes out as it is.
    let mut may_wait = true;
    let mut bytes_of_asks = Vec::with_capacity(results.len());
    for (result, ask) in results.into_iter().zip(&fetch.asks) {
        let OpResult::Fetch { partitions, waiting } = result else {
            unreachable!("a Fetch is answered as one, not by {result:?}")
        };
        let bytes: usize = partitions.iter().flat_map(|p| &p.records).map(Bytes::len).sum();
        all_will_wake &= waiting;
        may_wait &= waiting || (bytes >= ask.min_bytes && !fetch.is_short_of_memory);
        bytes_of_asks.push(bytes);
        for partition in partitions {
            let slot = partition.slot as usize;
            found[slot] = Some(partition);
        }
    }
    let has_news = found.iter().flatten().any(|p| p.error.is_some() || p.diverging.is_some());
    let bytes: usize = bytes_of_asks.iter().sum();
    let is_enough = has_news || bytes >= fetch.min_bytes || info.now.mono_us >= fetch.deadline_us;
    if !wait || !may_wait || is_enough {
        return respond(state, info, fetch, found);
    }
    if all_will_wake {
        return Step::Park {
            deadline_us: fetch.deadline_us,
            resume: Box::new(move |state, _, wake| ask(state, fetch, wake == Wake::Data)),
        };
    }
    // Some have their part and all together have too little.
    fetch.share_missing_bytes(fetch.min_bytes - bytes, |number| bytes_of_asks[number]);
    ask(state, fetch, true)
}

fn respond(
    state: &mut State,
    info: RequestInfo<'_>,
    fetch: Fetch,
    mut found: Vec<Option<FetchedPartition>>,
) -> Step {
    let mut response = FetchResponse { session_id: fetch.session_id, ..empty_response(ErrorCode::None) };
    let mut answered = Vec::new();
    let mut bytes_left = fetch.max_bytes;
    let mut is_first = true;
    for (slot, partition) in fetch.partitions.into_iter().enumerate() {
        let fetched = match (fetch.refused[slot], found[slot].take()) {
            (Some(code), _) => refused_partition(slot, code),
            (None, Some(fetched)) => fetched,
            (None, None) => unreachable!("the owner answers for every partition it was asked about"),
        };
        let mut answer = partition_response(state, &partition.key, fetched, &mut response.node_endpoints);
        if answer.error_code == ErrorCode::None
            && let Some(replica) = read_replica(state, &partition.key, &fetch.rack)
        {
            answer.preferred_read_replica = Some(replica);
            answer.records.clear();
        }
        let bytes: usize = answer.records.iter().map(Bytes::len).sum();
        // Every shard kept to the limit by itself; together they may exceed it, but the first batch always goes.
        if bytes > bytes_left && !is_first {
            answer.records.clear();
        } else if bytes > 0 {
            bytes_left = bytes_left.saturating_sub(bytes);
            is_first = false;
        }
        let news = Told {
            high_watermark: answer.high_watermark.0,
            log_start: answer.log_start_offset.0,
            error: answer.error_code,
        };
        let is_news = !answer.records.is_empty()
            || answer.error_code != ErrorCode::None
            || answer.diverging_epoch.is_some()
            || answer.preferred_read_replica.is_some()
            || partition.told != Some(news);
        if fetch.session_id != 0 {
            let has_records = !answer.records.is_empty();
            answered.push(Answered { key: partition.key.clone(), told: news, has_records });
        }
        if is_news || !fetch.incremental {
            push_partition(&mut response.topics, &partition.key, answer);
        }
    }
    if fetch.session_id != 0 {
        state.sessions.remember(fetch.session_id, &answered);
    }
    encode(info, response)
}

fn refused_partition(slot: usize, code: ErrorCode) -> FetchedPartition {
    FetchedPartition {
        slot: slot as u32,
        error: Some(code.into()),
        high_watermark: -1,
        log_start: -1,
        diverging: None,
        records: Vec::new(),
    }
}

fn partition_response(
    state: &State,
    key: &PartitionKey,
    fetched: FetchedPartition,
    endpoints: &mut Vec<NodeEndpoint>,
) -> FetchPartition {
    let named = (key.topic.as_str(), key.topic_id, key.partition);
    let (error_code, leader) = match fetched.error.map(|error| state.with_leader(named, error)) {
        Some(PartitionError { code, leader, .. }) => (code, leader),
        None => (ErrorCode::None, None),
    };
    if let Some((node, _)) = leader {
        add_endpoint(state, node, endpoints);
    }
    FetchPartition {
        index: key.partition,
        error_code,
        high_watermark: Offset(fetched.high_watermark),
        // Without transactions every committed record is stable.
        last_stable_offset: Offset(fetched.high_watermark),
        log_start_offset: Offset(fetched.log_start),
        aborted_transactions: None,
        preferred_read_replica: None,
        diverging_epoch: fetched
            .diverging
            .map(|(epoch, end_offset)| EpochEndOffset { epoch, end_offset: Offset(end_offset) }),
        current_leader: leader
            .map(|(leader_id, term)| LeaderIdAndEpoch { leader_id, leader_epoch: term.leader_epoch() }),
        records: fetched.records,
    }
}

/// The replica that a client in `rack` is sent to by the leader: one in sync in its rack, where the leader is in another
/// (KIP-392).
fn read_replica(state: &State, key: &PartitionKey, rack: &KafkaString) -> Option<NodeId> {
    if !state.config.reads_in_rack || rack.is_empty() {
        return None;
    }
    let located = state.locate(key.topic.as_str(), key.topic_id, key.partition).ok()?;
    let own = state.config.node;
    let leads = state.leader(located.group).is_some_and(|(leader, _)| leader == own);
    let is_near = |node: &NodeId| {
        let broker = state.image.broker(*node);
        broker.is_some_and(|broker| broker.rack.as_deref() == Some(rack.as_str()))
    };
    if !leads || is_near(&own) {
        return None;
    }
    let partition = located.topic.partitions.iter().find(|partition| partition.group == located.group)?;
    state.in_sync(partition).into_iter().find(|node| is_near(node) && state.alive.contains(node))
}

/// Adds the address of a leader that the response names (KIP-951).
fn add_endpoint(state: &State, node: NodeId, endpoints: &mut Vec<NodeEndpoint>) {
    if endpoints.iter().any(|known| known.node_id == node) {
        return;
    }
    if let Some(broker) = state.image.broker(node) {
        endpoints.push(NodeEndpoint {
            node_id: node,
            host: kafka_string(broker.host()),
            port: broker.port().into(),
            rack: broker.rack.as_deref().map(kafka_string),
        });
    }
}

fn push_partition(topics: &mut Vec<FetchTopic>, key: &PartitionKey, answer: FetchPartition) {
    match topics.last_mut() {
        Some(topic) if topic.name == key.topic && topic.topic_id == key.topic_id => {
            topic.partitions.push(answer)
        }
        _ => topics.push(FetchTopic {
            name: key.topic.clone(),
            topic_id: key.topic_id,
            partitions: vec![answer],
        }),
    }
}

fn empty_response(error_code: ErrorCode) -> FetchResponse {
    FetchResponse {
        throttle_time_ms: 0,
        error_code,
        session_id: 0,
        topics: Vec::new(),
        node_endpoints: Vec::new(),
    }
}

fn encode(info: RequestInfo<'_>, response: FetchResponse) -> Step {
    match encode_fetch_response(info.api_version, info.correlation_id, &response) {
        Ok(parts) => Step::Encoded(parts),
        Err(error) => Step::Close(format!("Fetch response cannot be encoded: {error}")),
    }
}
