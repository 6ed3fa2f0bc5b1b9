//! A broker of one thread per connection that keeps batches in memory, for tests of this crate. It reads requests
//! and writes answers with the broker's end of the codec.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use protocol::{
    ApiKey, BatchHeader, ErrorCode, Request, RequestHeader, Response,
    api::PRODUCE_VERSION_MIN,
    batch::validate_produced,
    decode_header, decode_request, encode_response, fetch,
    messages::{
        api_versions_response::{ApiVersion, ApiVersionsResponseData},
        create_topics_response::{CreatableTopicResult, CreateTopicsResponseData},
        delete_topics_response::{DeletableTopicResult, DeleteTopicsResponseData},
        fetch_request::FetchRequestData,
        kafka_string,
        list_offsets_request::ListOffsetsRequestData,
        list_offsets_response::{
            ListOffsetsPartitionResponse, ListOffsetsResponseData, ListOffsetsTopicResponse,
        },
        metadata_request::MetadataRequestData,
        metadata_response::{
            MetadataResponseBroker, MetadataResponseData, MetadataResponsePartition, MetadataResponseTopic,
        },
        produce_response::{PartitionProduceResponse, ProduceResponseData, TopicProduceResponse},
    },
    produce::decode_produce,
};

const NODE: i32 = 1;

/// How the broker misbehaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Produce is answered only when so many requests have come, so that a client that waits for answers hangs.
    pub hold_until_requests: usize,
    /// Every so-manyth Produce is refused; 0 for none.
    pub refuse_every: usize,
    /// So many ListOffsets are answered with NOT_LEADER_OR_FOLLOWER, as by a leader that does not know yet.
    pub new_leader_refusals: usize,
    /// The connection is closed instead of answering this Produce; 0 for none.
    pub close_at: usize,
}

/// A broker that listens until the test ends.
#[derive(Clone, Debug)]
pub struct FakeBroker {
    /// Where it listens.
    pub address: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    port: i32,
    faults: Faults,
    state: Mutex<State>,
    appended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    topics: HashMap<String, Vec<Partition>>,
    produces: usize,
    list_offsets: usize,
    held: Vec<Bytes>,
}

#[derive(Debug, Default)]
struct Partition {
    next_offset: i64,
    batches: Vec<Bytes>,
}

impl FakeBroker {
    /// Listens.
    pub fn start(faults: Faults) -> FakeBroker {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            port: address.port().into(),
            faults,
            state: Mutex::default(),
            appended: Condvar::new(),
        });
        let broker = FakeBroker { address: address.to_string(), shared: shared.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, shared) = (stream.unwrap(), shared.clone());
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        broker
    }

    /// Topics that exist.
    pub fn topics(&self) -> Vec<String> {
        self.shared.state.lock().unwrap().topics.keys().cloned().collect()
    }

    /// The next offset of each partition of a topic.
    pub fn next_offsets(&self, topic: &str) -> Vec<i64> {
        let state = self.shared.state.lock().unwrap();
        state.topics[topic].iter().map(|partition| partition.next_offset).collect()
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) {
    stream.set_nodelay(true).unwrap();
    while let Some(mut frame) = read_frame(&mut stream) {
        let header = decode_header(&mut frame).unwrap();
        let answer = match ApiKey::from_wire(header.api_key).unwrap() {
            ApiKey::Produce => produce(shared, &header, frame),
            ApiKey::Fetch => match decode_request(&header, frame.freeze()).unwrap() {
                Request::Fetch(request) => Some(fetch(shared, &header, &request)),
                _ => unreachable!("a Fetch was decoded"),
            },
            _ => {
                let response = admin(shared, decode_request(&header, frame.freeze()).unwrap());
                Some(vec![encode_response(header.api_version, header.correlation_id, &response).unwrap()])
            }
        };
        let Some(pieces) = answer else { return };
        for piece in pieces {
            if stream.write_all(&piece).is_err() {
                return;
            }
        }
    }
}

fn read_frame(stream: &mut TcpStream) -> Option<BytesMut> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut frame = BytesMut::zeroed(i32::from_be_bytes(length) as usize);
    stream.read_exact(&mut frame).ok()?;
    Some(frame)
}

fn admin(shared: &Shared, request: Request) -> Response {
    let mut state = shared.state.lock().unwrap();
    match request {
        Request::ApiVersions(_) => Response::ApiVersions(ApiVersionsResponseData {
            api_keys: protocol::SUPPORTED
                .iter()
                .map(|range| ApiVersion {
                    api_key: range.key.wire(),
                    min_version: range.min_version,
                    max_version: range.max_version,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }),
        Request::CreateTopics(request) => {
            let topics = request.topics.iter().map(|topic| {
                let exists = state.topics.contains_key(topic.name.as_str());
                if !exists {
                    let partitions = (0..topic.num_partitions).map(|_| Partition::default()).collect();
                    state.topics.insert(topic.name.as_str().to_owned(), partitions);
                }
                let error = if exists { ErrorCode::TopicAlreadyExists } else { ErrorCode::None };
                CreatableTopicResult {
                    name: topic.name.clone(),
                    error_code: error.code(),
                    ..Default::default()
                }
            });
            Response::CreateTopics(CreateTopicsResponseData {
                topics: topics.collect(),
                ..Default::default()
            })
        }
        Request::DeleteTopics(request) => {
            let responses = request.topic_names.iter().map(|name| {
                state.topics.remove(name.as_str()).expect("only topics that exist are deleted");
                DeletableTopicResult { name: Some(name.clone()), ..Default::default() }
            });
            Response::DeleteTopics(DeleteTopicsResponseData {
                responses: responses.collect(),
                ..Default::default()
            })
        }
        Request::Metadata(request) => Response::Metadata(metadata(&state, shared.port, &request)),
        Request::ListOffsets(request) => {
            state.list_offsets += 1;
            let refused = state.list_offsets <= shared.faults.new_leader_refusals;
            let error = if refused { ErrorCode::NotLeaderOrFollower } else { ErrorCode::None };
            Response::ListOffsets(list_offsets(&state, &request, error))
        }
        other => panic!("{other:?} is not served"),
    }
}

fn metadata(state: &State, port: i32, request: &MetadataRequestData) -> MetadataResponseData {
    let topics = request.topics.iter().flatten().map(|topic| {
        let name = topic.name.clone().unwrap();
        let partitions = state.topics.get(name.as_str());
        let error = if partitions.is_some() { ErrorCode::None } else { ErrorCode::UnknownTopicOrPartition };
        // In another order than their numbers.
        let indexes = (0..partitions.map_or(0, Vec::len) as i32).rev();
        let partition = |partition_index| MetadataResponsePartition {
            partition_index,
            leader_id: NODE,
            ..Default::default()
        };
        MetadataResponseTopic {
            error_code: error.code(),
            name: Some(name),
            partitions: indexes.map(partition).collect(),
            ..Default::default()
        }
    });
    MetadataResponseData {
        brokers: vec![MetadataResponseBroker {
            node_id: NODE,
            host: kafka_string("127.0.0.1"),
            port,
            ..Default::default()
        }],
        cluster_id: Some(kafka_string("fake")),
        topics: topics.collect(),
        ..Default::default()
    }
}

fn list_offsets(
    state: &State,
    request: &ListOffsetsRequestData,
    error: ErrorCode,
) -> ListOffsetsResponseData {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let stored = &state.topics[topic.name.as_str()][partition.partition_index as usize];
            ListOffsetsPartitionResponse {
                partition_index: partition.partition_index,
                error_code: error.code(),
                offset: if partition.timestamp == -2 { 0 } else { stored.next_offset },
                ..Default::default()
            }
        });
        ListOffsetsTopicResponse {
            name: topic.name.clone(),
            partitions: partitions.collect(),
            ..Default::default()
        }
    });
    ListOffsetsResponseData { topics: topics.collect(), ..Default::default() }
}

/// The answers that are due: none while they are held back, all of them then. `None` closes the connection.
fn produce(shared: &Shared, header: &RequestHeader, body: BytesMut) -> Option<Vec<Bytes>> {
    assert!(header.api_version >= PRODUCE_VERSION_MIN);
    let request = decode_produce(body, header.api_version).unwrap();
    let mut state = shared.state.lock().unwrap();
    state.produces += 1;
    if state.produces == shared.faults.close_at {
        return None;
    }
    let refused = state.produces.is_multiple_of(shared.faults.refuse_every);
    let mut responses = Vec::new();
    for topic in request.topics {
        let name = topic.name.unwrap();
        let mut partition_responses = Vec::new();
        for partition in topic.partitions {
            let mut answer = PartitionProduceResponse { index: partition.index, ..Default::default() };
            if refused {
                answer.error_code = ErrorCode::NotEnoughReplicas.code();
            } else {
                let stored = &mut state.topics.get_mut(name.as_str()).unwrap()[partition.index as usize];
                answer.base_offset = stored.append(partition.records.unwrap());
            }
            partition_responses.push(answer);
        }
        responses.push(TopicProduceResponse { name, partition_responses, ..Default::default() });
    }
    shared.appended.notify_all();
    if request.acks == 0 {
        return Some(Vec::new());
    }
    let response = Response::Produce(ProduceResponseData { responses, ..Default::default() });
    state.held.push(encode_response(header.api_version, header.correlation_id, &response).unwrap());
    let is_held = state.produces < shared.faults.hold_until_requests;
    Some(if is_held { Vec::new() } else { std::mem::take(&mut state.held) })
}

impl Partition {
    fn append(&mut self, mut batch: BytesMut) -> i64 {
        let header = validate_produced(&mut batch, usize::MAX).unwrap();
        let base_offset = self.next_offset;
        batch[..8].copy_from_slice(&base_offset.to_be_bytes());
        self.next_offset += i64::from(header.record_count);
        self.batches.push(batch.freeze());
        base_offset
    }

    /// The batches from an offset on, the last one cut where the limit is.
    fn read(&self, offset: i64, bytes_max: usize) -> Vec<Bytes> {
        let mut left = bytes_max;
        let mut found = Vec::new();
        for batch in &self.batches {
            if BatchHeader::parse(batch).unwrap().next_offset().0 <= offset {
                continue;
            }
            if left == 0 {
                break;
            }
            let size = if found.is_empty() { batch.len() } else { batch.len().min(left) };
            left = left.saturating_sub(size);
            found.push(batch.slice(..size));
        }
        found
    }
}

/// Answers a full request, as a broker that keeps no sessions.
fn fetch(shared: &Shared, header: &RequestHeader, request: &FetchRequestData) -> Vec<Bytes> {
    let find = |state: &State| -> Vec<fetch::FetchTopic> {
        let of_topic = |topic: &protocol::messages::fetch_request::FetchTopic| fetch::FetchTopic {
            name: topic.topic.clone(),
            topic_id: types::TopicId([0; 16]),
            partitions: topic
                .partitions
                .iter()
                .map(|partition| {
                    // A request that waits may outlive its topic.
                    let stored = state
                        .topics
                        .get(topic.topic.as_str())
                        .map(|partitions| &partitions[partition.partition as usize]);
                    let end = types::Offset(stored.map_or(-1, |stored| stored.next_offset));
                    fetch::FetchPartition {
                        index: partition.partition,
                        error_code: stored.map_or(ErrorCode::UnknownTopicOrPartition, |_| ErrorCode::None),
                        high_watermark: end,
                        last_stable_offset: end,
                        log_start_offset: types::Offset(0),
                        aborted_transactions: None,
                        preferred_read_replica: None,
                        diverging_epoch: None,
                        current_leader: None,
                        records: stored.map_or(Vec::new(), |stored| {
                            stored.read(partition.fetch_offset, partition.partition_max_bytes.max(1) as usize)
                        }),
                    }
                })
                .collect(),
        };
        request.topics.iter().map(of_topic).collect()
    };
    let has_records = |topics: &[fetch::FetchTopic]| {
        topics.iter().flat_map(|topic| &topic.partitions).any(|partition| !partition.records.is_empty())
    };
    let state = shared.state.lock().unwrap();
    let wait = Duration::from_millis(request.max_wait_ms as u64);
    let nothing_yet = |state: &mut State| !has_records(&find(state));
    let (state, _) = shared.appended.wait_timeout_while(state, wait, nothing_yet).unwrap();
    let response = fetch::FetchResponse {
        throttle_time_ms: 0,
        error_code: ErrorCode::None,
        // Without a session every request names everything.
        session_id: 0,
        topics: find(&state),
        node_endpoints: Vec::new(),
    };
    fetch::encode_fetch_response(header.api_version, header.correlation_id, &response).unwrap()
}
