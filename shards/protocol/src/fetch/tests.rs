use bytes::Buf;
use proptest::prelude::*;

use super::*;
use crate::{
    client::decode_fetch_response,
    messages::{fetch_response, kafka_string, kafka_uuid},
};

fn partitions() -> impl Strategy<Value = FetchPartition> {
    let records =
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30).prop_map(Bytes::from), 0..4);
    let aborted = (any::<i64>(), any::<i64>())
        .prop_map(|(producer_id, offset)| AbortedTransaction { producer_id, first_offset: Offset(offset) });
    let offsets = any::<(i64, i64, i64)>();
    let aborted = prop::option::of(prop::collection::vec(aborted, 0..3));
    let optional = any::<(Option<u16>, Option<(u16, u16)>, Option<(u16, u16)>)>();
    (any::<i32>(), 0..100i16, offsets, aborted, optional, records).prop_map(
        |(
            index,
            error_code,
            (high_watermark, last_stable_offset, log_start_offset),
            aborted,
            optional,
            records,
        )| {
            FetchPartition {
                index,
                error_code: ErrorCode::from(error_code),
                high_watermark: Offset(high_watermark),
                last_stable_offset: Offset(last_stable_offset),
                log_start_offset: Offset(log_start_offset),
                aborted_transactions: aborted,
                preferred_read_replica: optional.0.map(|node| NodeId(node.into())),
                diverging_epoch: optional.1.map(|(epoch, end)| EpochEndOffset {
                    epoch: epoch.into(),
                    end_offset: Offset(end.into()),
                }),
                current_leader: optional.2.map(|(leader, epoch)| LeaderIdAndEpoch {
                    leader_id: NodeId(leader.into()),
                    leader_epoch: epoch.into(),
                }),
                records,
            }
        },
    )
}

fn responses() -> impl Strategy<Value = FetchResponse> {
    let topic = ("[a-z]{0,12}", any::<[u8; 16]>(), prop::collection::vec(partitions(), 0..4)).prop_map(
        |(name, id, partitions)| FetchTopic { name: kafka_string(&name), topic_id: TopicId(id), partitions },
    );
    let endpoint = (any::<u16>(), "[a-z.]{0,200}", any::<u16>(), prop::option::of("[a-z]{0,9}")).prop_map(
        |(node_id, host, port, rack)| NodeEndpoint {
            node_id: NodeId(node_id.into()),
            host: kafka_string(&host),
            port: port.into(),
            rack: rack.as_deref().map(kafka_string),
        },
    );
    let topics = prop::collection::vec(topic, 0..4);
    (any::<i32>(), 0..100i16, any::<i32>(), topics, prop::collection::vec(endpoint, 0..4)).prop_map(
        |(throttle_time_ms, error_code, session_id, topics, node_endpoints)| FetchResponse {
            throttle_time_ms,
            error_code: ErrorCode::from(error_code),
            session_id,
            topics,
            node_endpoints,
        },
    )
}

/// What the generated decoder should find.
fn generated(version: i16, response: &FetchResponse) -> fetch_response::FetchResponseData {
    let since = |first: i16| version >= first;
    let topics = response.topics.iter().map(|topic| {
        let decoded = fetch_response::FetchableTopicResponse::default().with_partitions(
            topic.partitions.iter().map(|partition| generated_partition(version, partition)).collect(),
        );
        if since(13) {
            decoded.with_topic_id(kafka_uuid(topic.topic_id))
        } else {
            decoded.with_topic(topic.name.clone())
        }
    });
    let endpoints = response.node_endpoints.iter().filter(|_| since(16)).map(|endpoint| {
        fetch_response::NodeEndpoint::default()
            .with_node_id(endpoint.node_id.0)
            .with_host(endpoint.host.clone())
            .with_port(endpoint.port)
            .with_rack(endpoint.rack.clone())
    });
    fetch_response::FetchResponseData::default()
        .with_throttle_time_ms(response.throttle_time_ms)
        .with_error_code(if since(7) { response.error_code.code() } else { 0 })
        .with_session_id(if since(7) { response.session_id } else { 0 })
        .with_responses(topics.collect())
        .with_node_endpoints(endpoints.collect())
}

fn generated_partition(version: i16, partition: &FetchPartition) -> fetch_response::PartitionData {
    let aborted = partition.aborted_transactions.as_ref().map(|aborted| {
        let aborted = aborted.iter().map(|aborted| {
            fetch_response::AbortedTransaction::default()
                .with_producer_id(aborted.producer_id)
                .with_first_offset(aborted.first_offset.0)
        });
        aborted.collect()
    });
    let mut decoded = fetch_response::PartitionData::default()
        .with_partition_index(partition.index)
        .with_error_code(partition.error_code.code())
        .with_high_watermark(partition.high_watermark.0)
        .with_last_stable_offset(partition.last_stable_offset.0)
        .with_aborted_transactions(aborted)
        .with_records(Some(Bytes::from(partition.records.concat())));
    if version >= 5 {
        decoded.log_start_offset = partition.log_start_offset.0;
    }
    if version >= 11 {
        decoded.preferred_read_replica = partition.preferred_read_replica.map_or(-1, |node| node.0);
    }
    if version >= 12 {
        if let Some(diverging) = partition.diverging_epoch {
            decoded.diverging_epoch.epoch = diverging.epoch;
            decoded.diverging_epoch.end_offset = diverging.end_offset.0;
        }
        if let Some(leader) = partition.current_leader {
            decoded.current_leader.leader_id = leader.leader_id.0;
            decoded.current_leader.leader_epoch = leader.leader_epoch;
        }
    }
    decoded
}

proptest! {
    #[test]
    fn decodes_to_the_same_in_every_version(response in responses(), correlation_id: i32) {
        for version in 4..=18 {
            let pieces = encode_fetch_response(version, correlation_id, &response).unwrap();
            prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
            let mut frame = Bytes::from(pieces.concat());
            prop_assert_eq!(frame.get_i32() as usize, frame.len());
            let decoded = decode_fetch_response(version, frame).unwrap();
            prop_assert_eq!(decoded, (correlation_id, generated(version, &response)));
        }
    }

    #[test]
    fn one_allocation_suffices(response in responses()) {
        for version in 4..=18 {
            let pieces = encode_fetch_response(version, 1, &response).unwrap();
            let records: usize =
                response.topics.iter().flat_map(|topic| &topic.partitions).flat_map(|p| &p.records).map(Bytes::len).sum();
            let fields = pieces.iter().map(Bytes::len).sum::<usize>() - records;
            prop_assert!(fields <= field_bytes_max(&response));
        }
    }
}

#[test]
fn records_are_not_copied() {
    let first = Bytes::from(vec![1; 1000]);
    let second = Bytes::from(vec![2; 1000]);
    let partition = FetchPartition {
        index: 0,
        error_code: ErrorCode::None,
        high_watermark: Offset(9),
        last_stable_offset: Offset(9),
        log_start_offset: Offset(0),
        aborted_transactions: None,
        preferred_read_replica: None,
        diverging_epoch: None,
        current_leader: None,
        records: vec![first.clone(), Bytes::new(), second.clone()],
    };
    let response = FetchResponse {
        throttle_time_ms: 0,
        error_code: ErrorCode::None,
        session_id: 0,
        topics: vec![FetchTopic {
            name: kafka_string("t"),
            topic_id: TopicId::ZERO,
            partitions: vec![partition.clone(), FetchPartition { records: Vec::new(), ..partition }],
        }],
        node_endpoints: Vec::new(),
    };
    let pieces = encode_fetch_response(11, 1, &response).unwrap();
    assert_eq!(pieces.len(), 4);
    assert_eq!((pieces[1].as_ptr(), pieces[2].as_ptr()), (first.as_ptr(), second.as_ptr()));
}

#[test]
fn other_versions_are_refused() {
    let response = FetchResponse {
        throttle_time_ms: 0,
        error_code: ErrorCode::None,
        session_id: 0,
        topics: Vec::new(),
        node_endpoints: Vec::new(),
    };
    for version in [-1, 0, 3, 19] {
        assert!(matches!(
            encode_fetch_response(version, 1, &response),
            Err(EncodeError::UnsupportedVersion { api_key: 1, .. })
        ));
    }
}
