use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::messages::{
    kafka_string, kafka_uuid,
    produce_request::{PartitionProduceData, ProduceRequestData, TopicProduceData},
    topic_id,
};

fn requests() -> impl Strategy<Value = (i16, ProduceRequestData)> {
    let records = prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
    let partition = (any::<i32>(), records).prop_map(|(index, records)| {
        PartitionProduceData::default().with_index(index).with_records(records.map(Bytes::from))
    });
    let topic = ("[a-z]{0,9}", any::<[u8; 16]>(), prop::collection::vec(partition, 0..4));
    let request = (
        3..=13i16,
        prop::option::of("[a-z]{0,9}"),
        any::<i16>(),
        any::<i32>(),
        prop::collection::vec(topic, 0..4),
    );
    request.prop_map(|(version, transactional_id, acks, timeout_ms, topics)| {
        let topics = topics.into_iter().map(|(name, id, partitions)| {
            let topic = TopicProduceData::default().with_partition_data(partitions);
            if version >= 13 {
                topic.with_topic_id(kafka_uuid(TopicId(id)))
            } else {
                topic.with_name(kafka_string(&name))
            }
        });
        let data = ProduceRequestData::default()
            .with_transactional_id(transactional_id.map(KafkaString::from))
            .with_acks(acks)
            .with_timeout_ms(timeout_ms)
            .with_topic_data(topics.collect());
        (version, data)
    })
}

fn encode(version: i16, data: &ProduceRequestData) -> BytesMut {
    let mut body = BytesMut::new();
    data.write(&mut body, version).unwrap();
    body
}

/// The generated struct of a request, for comparison.
fn generated(version: i16, request: ProduceRequest) -> ProduceRequestData {
    let topics = request.topics.into_iter().map(|topic| {
        assert_eq!(topic.name.is_some(), version <= 12);
        let partitions = topic.partitions.into_iter().map(|partition| {
            PartitionProduceData::default()
                .with_index(partition.index)
                .with_records(partition.records.map(BytesMut::freeze))
        });
        TopicProduceData::default()
            .with_name(topic.name.unwrap_or_default())
            .with_topic_id(kafka_uuid(topic.topic_id))
            .with_partition_data(partitions.collect())
    });
    ProduceRequestData::default()
        .with_transactional_id(request.transactional_id)
        .with_acks(request.acks)
        .with_timeout_ms(request.timeout_ms)
        .with_topic_data(topics.collect())
}

proptest! {
    #[test]
    fn agrees_with_the_generated_decoder((version, data) in requests()) {
        let decoded = decode_produce(encode(version, &data), version).unwrap();
        prop_assert_eq!(generated(version, decoded), data);
    }

    #[test]
    fn agrees_with_the_generated_decoder_on_damage(
        (version, data) in requests(),
        at: prop::sample::Index,
        flip in 1..=255u8,
    ) {
        let mut body = encode(version, &data);
        let position = at.index(body.len());
        body[position] ^= flip;
        let mut bytes = body.clone().freeze();
        let theirs = ProduceRequestData::read(&mut bytes, version);
        match decode_produce(body, version) {
            // Unknown tagged fields are dropped here and kept there.
            Ok(ours) => {
                let theirs = theirs.unwrap();
                prop_assert_eq!(ours.topics.len(), theirs.topic_data.len());
                for (ours, theirs) in ours.topics.iter().zip(&theirs.topic_data) {
                    prop_assert_eq!(ours.topic_id, topic_id(theirs.topic_id));
                    let ours = ours.partitions.iter().map(|ours| (ours.index, ours.records.as_deref()));
                    let theirs = theirs.partition_data.iter().map(|theirs| (theirs.index, theirs.records.as_deref()));
                    prop_assert!(ours.eq(theirs));
                }
            }
            // The generated decoder takes null for an empty array.
            Err(error) => prop_assert!(
                theirs.is_err() || !bytes.is_empty() || matches!(error, DecodeError::InvalidLength)
            ),
        }
    }

    #[test]
    fn every_truncation_is_refused((version, data) in requests(), at: prop::sample::Index) {
        let mut body = encode(version, &data);
        body.truncate(at.index(body.len()));
        prop_assert!(decode_produce(body, version).is_err());
    }

    #[test]
    fn random_bytes_never_panic(version in -1..=14i16, bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = decode_produce(BytesMut::from(&bytes[..]), version);
    }
}

#[test]
fn records_are_disjoint_mutable_slices_of_the_frame() {
    let partition = |index| {
        PartitionProduceData::default()
            .with_index(index)
            .with_records(Some(Bytes::from(vec![index as u8; 100])))
    };
    let topic = TopicProduceData::default()
        .with_name(kafka_string("topic"))
        .with_partition_data(vec![partition(1), partition(2)]);
    let body = encode(9, &ProduceRequestData::default().with_acks(-1).with_topic_data(vec![topic]));
    let frame = body.as_ptr_range();

    let mut request = decode_produce(body, 9).unwrap();
    let [first, second] = &mut request.topics[0].partitions[..] else { panic!("two partitions") };
    let (first, second) = (first.records.as_mut().unwrap(), second.records.as_mut().unwrap());
    first.fill(0xaa);
    assert_eq!(&first[..], &[0xaa; 100]);
    assert_eq!(&second[..], &[2; 100]);
    assert!(frame.contains(&first.as_ptr()) && frame.contains(&second.as_ptr()));
}

#[test]
fn hostile_counts_reserve_nothing() {
    // Null transactional id, acks, timeout, two billion topics.
    let body = |count: &[u8]| BytesMut::from(&[&[0xff, 0xff, 0, 1, 0, 0, 0, 9], count].concat()[..]);
    assert!(matches!(decode_produce(body(&[0x7f, 0xff, 0xff, 0xff]), 3), Err(DecodeError::TooManyElements)));
    assert!(matches!(decode_produce(body(&[0, 1, 0, 0]), 3), Err(DecodeError::Truncated)));
    assert!(matches!(decode_produce(body(&[0xff; 4]), 3), Err(DecodeError::InvalidLength)));
    assert!(decode_produce(body(&[0, 0, 0, 0, 0]), 3).is_ok(), "bytes behind the request are ignored");
}

#[test]
fn old_versions_are_refused_in_their_own_format() {
    // Acks 1, timeout 9 ms, topic "t" with partition 5 and four bytes of records.
    let body = b"\x00\x01\x00\x00\x00\x09\x00\x00\x00\x01\x00\x01t\x00\x00\x00\x01\x00\x00\x00\x05\x00\x00\x00\x04abcd";
    let refusal = |version| {
        let request = decode_produce(BytesMut::from(&body[..]), version).unwrap();
        assert_eq!((request.acks, request.timeout_ms, &request.transactional_id), (1, 9, &None));
        let frame = encode_refusal(version, 42, &request).unwrap();
        assert_eq!(frame[..4], (frame.len() as i32 - 4).to_be_bytes());
        frame.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    expect!["0000001d0000002a0000000100017400000001000000050023ffffffffffffffff"].assert_eq(&refusal(0));
    expect!["000000210000002a0000000100017400000001000000050023ffffffffffffffff00000000"]
        .assert_eq(&refusal(1));
    expect!["000000290000002a0000000100017400000001000000050023ffffffffffffffffffffffffffffffff00000000"]
        .assert_eq(&refusal(2));
    let request = decode_produce(BytesMut::from(&body[..]), 0).unwrap();
    assert!(matches!(encode_refusal(3, 42, &request), Err(EncodeError::UnsupportedVersion { .. })));
}
