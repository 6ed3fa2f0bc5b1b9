//! Frames and record batches.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use protocol::{
    ApiKey, ErrorCode, RequestHeader, Response,
    batch::{BatchBuilder, BatchOptions, validate_produced},
    client::encode_produce,
    decode_header, decode_request, encode_response,
    fetch::{FetchPartition, FetchResponse, FetchTopic, encode_fetch_response},
    messages::{
        fetch_request::{FetchPartition as AskedPartition, FetchRequestData, FetchTopic as AskedTopic},
        kafka_string,
        produce_request::{PartitionProduceData, ProduceRequestData, TopicProduceData},
        produce_response::{PartitionProduceResponse, ProduceResponseData, TopicProduceResponse},
    },
    produce::decode_produce,
};

use types::{Offset, TopicId};

use crate::{REPETITIONS, measured};

const PRODUCE_VERSION: i16 = 12;
const FETCH_VERSION: i16 = 12;
const RECORD_BYTES: usize = 1024;

/// A batch of equal records.
pub fn batch(records: usize) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let value = vec![0x5a; RECORD_BYTES];
    (0..records).for_each(|_| builder.append(1_700_000_000_000, None, Some(&value), &[]));
    builder.build().freeze()
}

/// A Produce of one batch to partition 0 of a topic, with its length prefix.
pub fn produce_frame(topic: &str, batch: &Bytes) -> BytesMut {
    let partition = PartitionProduceData { index: 0, records: Some(batch.clone()), ..Default::default() };
    let request = ProduceRequestData {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![TopicProduceData {
            name: kafka_string(topic),
            partition_data: vec![partition],
            ..Default::default()
        }],
        ..Default::default()
    };
    encode_produce(&header(ApiKey::Produce, PRODUCE_VERSION), &request).expect("the version has every field")
}

/// The header of a request.
pub fn header(key: ApiKey, api_version: i16) -> RequestHeader {
    RequestHeader {
        api_key: key.wire(),
        api_version,
        correlation_id: 7,
        client_id: Some(kafka_string("client")),
    }
}

/// A request without its length prefix, in an allocation of its own.
pub fn body_of(frame: &[u8]) -> BytesMut {
    BytesMut::from(&frame[4..])
}

pub fn batch_validation_1_record() {
    validate(1);
}

pub fn batch_validation_256_records() {
    validate(256);
}

fn validate(records: usize) {
    let mut bytes = batch(records).to_vec();
    for _ in 0..REPETITIONS {
        measured(|| validate_produced(black_box(&mut bytes), usize::MAX).expect("the batch is valid"));
    }
}

pub fn produce_request_decode() {
    let frame = produce_frame("topic", &batch(1));
    for _ in 0..REPETITIONS {
        let mut request = body_of(&frame);
        measured(|| {
            let header = decode_header(&mut request).expect("the frame has a header");
            decode_produce(request, header.api_version).expect("the frame is whole")
        });
    }
}

pub fn produce_response_encode() {
    let response = Response::Produce(ProduceResponseData {
        responses: vec![TopicProduceResponse {
            name: kafka_string("topic"),
            partition_responses: vec![PartitionProduceResponse { base_offset: 77, ..Default::default() }],
            ..Default::default()
        }],
        ..Default::default()
    });
    for _ in 0..REPETITIONS {
        measured(|| {
            encode_response(PRODUCE_VERSION, 7, black_box(&response)).expect("the version has every field")
        });
    }
}

pub fn fetch_request_decode() {
    let partition = |number| AskedPartition { partition: number, fetch_offset: 1_000, ..Default::default() };
    let request = FetchRequestData {
        max_wait_ms: 500,
        topics: vec![AskedTopic {
            topic: kafka_string("topic"),
            partitions: (0..16).map(partition).collect(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let request = protocol::Request::Fetch(request);
    let frame = protocol::client::encode_request(&header(ApiKey::Fetch, FETCH_VERSION), &request)
        .expect("the version has every field");
    for _ in 0..REPETITIONS {
        let mut request = body_of(&frame);
        measured(|| {
            let header = decode_header(&mut request).expect("the frame has a header");
            decode_request(&header, request.freeze()).expect("the frame is whole")
        });
    }
}

pub fn fetch_response_encode() {
    let records = batch(16);
    let partition = |index| FetchPartition {
        index,
        error_code: ErrorCode::None,
        high_watermark: Offset(1_016),
        last_stable_offset: Offset(1_016),
        log_start_offset: Offset(0),
        aborted_transactions: None,
        preferred_read_replica: None,
        diverging_epoch: None,
        current_leader: None,
        records: vec![records.clone()],
    };
    let response = FetchResponse {
        throttle_time_ms: 0,
        error_code: ErrorCode::None,
        session_id: 0,
        topics: vec![FetchTopic {
            name: kafka_string("topic"),
            topic_id: TopicId::ZERO,
            partitions: (0..16).map(partition).collect(),
        }],
        node_endpoints: Vec::new(),
    };
    for _ in 0..REPETITIONS {
        measured(|| {
            encode_fetch_response(FETCH_VERSION, 7, black_box(&response))
                .expect("the version has every field")
        });
    }
}
