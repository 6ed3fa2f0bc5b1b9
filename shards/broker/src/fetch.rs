//! Fetch (key 1): bytes from the owners of partitions; when too few are there, wait for more (KIP-74, KIP-227).

use std::sync::Arc;

use bytes::Bytes;
use protocol::fetch::{
    EpochEndOffset, FetchPartition, FetchResponse, FetchTopic, LeaderIdAndEpoch, NodeEndpoint,
    encode_fetch_response,
};
use protocol::messages::fetch_request::FetchRequestData;
use protocol::messages::{ErrorCode, kafka_string};
use types::limits::FETCH_BYTES_MAX;
use types::{NodeId, Offset};

use crate::PartitionError;
use crate::broker::Target;
use crate::fetch_session::{Admitted, PartitionKey, SessionPartition, Told};
use crate::op::{FetchItem, FetchOp, FetchedPartition, Op, OpResult};
use crate::state::State;
use crate::step::{RequestInfo, Step, Wake};

/// A fetch under way: its partitions in the order of the response, and the operations that ask their owners.
struct Fetch {
    session_id: i32,
    incremental: bool,
    partitions: Vec<SessionPartition>,
    refused: Vec<Option<ErrorCode>>,
    /// One for each shard that owns some of the partitions.
    asks: Vec<(Target, Arc<[FetchItem]>)>,
    max_bytes: usize,
    min_bytes: usize,
    deadline_us: u64,
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
    let fetch = Fetch {
        max_bytes: usize::try_from(request.max_bytes).unwrap_or(0).min(FETCH_BYTES_MAX),
        min_bytes: usize::try_from(request.min_bytes).unwrap_or(0).min(FETCH_BYTES_MAX),
        deadline_us: info.now.after_ms(request.max_wait_ms.into()),
        ..plan(state, admitted)
    };
    // Where nothing is to be read, nothing will come.
    let wait = fetch.min_bytes > 0 && request.max_wait_ms > 0 && !fetch.asks.is_empty();
    ask(fetch, wait)
}

fn plan(state: &State, admitted: Admitted) -> Fetch {
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
        refused,
        asks: by_shard.into_iter().map(|(target, items)| (target, items.into())).collect(),
        max_bytes: 0,
        min_bytes: 0,
        deadline_us: 0,
    }
}

fn ask(fetch: Fetch, wait: bool) -> Step {
    let ops = fetch.asks.iter().map(|(target, items)| {
        let op = FetchOp {
            items: Arc::clone(items),
            max_bytes: fetch.max_bytes,
            min_bytes: fetch.min_bytes,
            wait: wait && fetch.refused.iter().all(Option::is_none),
        };
        (*target, Op::Fetch(op))
    });
    Step::gather(ops.collect(), move |state, info, results| on_results(state, info, fetch, results, wait))
}

fn on_results(
    state: &mut State,
    info: RequestInfo<'_>,
    fetch: Fetch,
    results: Vec<OpResult>,
    wait: bool,
) -> Step {
    let mut found: Vec<Option<FetchedPartition>> = vec![None; fetch.partitions.len()];
    // An owner that read from the disk does not tell of more; the answer then goes out as it is.
    let mut all_will_wake = true;
    for result in results {
        let OpResult::Fetch { partitions, waiting } = result else {
            unreachable!("a Fetch is answered as one, not by {result:?}")
        };
        all_will_wake &= waiting;
        for partition in partitions {
            let slot = partition.slot as usize;
            found[slot] = Some(partition);
        }
    }
    let has_news = fetch.refused.iter().any(Option::is_some)
        || found.iter().flatten().any(|p| p.error.is_some() || p.diverging.is_some());
    let bytes: usize = found.iter().flatten().flat_map(|p| &p.records).map(Bytes::len).sum();
    if wait && all_will_wake && !has_news && bytes < fetch.min_bytes && info.now.mono_us < fetch.deadline_us {
        return Step::Park {
            deadline_us: fetch.deadline_us,
            resume: Box::new(move |_, _, wake| ask(fetch, wake == Wake::Data)),
        };
    }
    respond(state, info, fetch, found)
}

fn respond(
    state: &mut State,
    info: RequestInfo<'_>,
    fetch: Fetch,
    mut found: Vec<Option<FetchedPartition>>,
) -> Step {
    let mut response = FetchResponse { session_id: fetch.session_id, ..empty_response(ErrorCode::None) };
    let mut told = Vec::new();
    let mut bytes_left = fetch.max_bytes;
    let mut is_first = true;
    for (slot, partition) in fetch.partitions.into_iter().enumerate() {
        let fetched = match (fetch.refused[slot], found[slot].take()) {
            (Some(code), _) => refused_partition(slot, code),
            (None, Some(fetched)) => fetched,
            (None, None) => unreachable!("the owner answers for every partition it was asked about"),
        };
        let mut answer = partition_response(state, &partition.key, fetched, &mut response.node_endpoints);
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
            || partition.told != Some(news);
        if fetch.session_id != 0 {
            told.push((partition.key.clone(), news));
        }
        if is_news || !fetch.incremental {
            push_partition(&mut response.topics, &partition.key, answer);
        }
    }
    if fetch.session_id != 0 {
        state.sessions.remember(fetch.session_id, &told);
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
    let (error_code, leader) = match fetched.error {
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
