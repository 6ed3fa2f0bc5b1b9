//! Produce requests that are encoded once and sent many times.

use bytes::Bytes;
use protocol::{
    ApiKey, DecodeError, Response,
    batch::{BatchBuilder, BatchOptions},
    client::{decode_response, encode_produce},
    messages::{
        kafka_string,
        produce_request::{PartitionProduceData, ProduceRequestData, TopicProduceData},
    },
};

use crate::{
    admin::{Cluster, request_header},
    connection::{HEAD_BYTES, Outgoing, Ticket},
    error::BenchError,
    keys::{KEY_BYTES, keys_by_partition},
};

/// Produce versions that this client speaks: from the first that has only record batches of format 2 to the last that
/// names topics instead of their ids.
pub const PRODUCE_VERSIONS: std::ops::RangeInclusive<i16> = 3..=12;

/// Bytes at the start of a stamped record's value: the run, and when the record was due.
pub const STAMP_BYTES: usize = 16;

const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;
/// The first version whose structs end with tagged fields (KIP-482).
const FIRST_TAGGED_VERSION: i16 = 9;

/// A batch of equal records, to be sent again and again.
#[derive(Clone, Debug)]
pub struct Template {
    batch: Bytes,
    records: usize,
    /// Where the first record's value stands in the batch.
    value_at: usize,
}

impl Template {
    /// A batch without keys, headers and compression, of incompressible values of `record_bytes` each, as of a time
    /// in milliseconds of the wall clock.
    pub fn new(record_bytes: usize, records: usize, timestamp_ms: i64) -> Template {
        Template::of_records(record_bytes, std::iter::repeat_n(None, records), timestamp_ms)
    }

    /// The same with a record for each key.
    pub fn keyed(record_bytes: usize, keys: &[[u8; KEY_BYTES]], timestamp_ms: i64) -> Template {
        Template::of_records(record_bytes, keys.iter().map(|key| Some(key.as_slice())), timestamp_ms)
    }

    fn of_records<'keys>(
        record_bytes: usize,
        keys: impl Iterator<Item = Option<&'keys [u8]>>,
        timestamp_ms: i64,
    ) -> Template {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut first_end = 0;
        let mut records = 0;
        for key in keys {
            let value: Vec<u8> =
                std::iter::repeat_with(|| next_byte(&mut state)).take(record_bytes).collect();
            builder.append(timestamp_ms, key, Some(&value), &[]);
            records += 1;
            if first_end == 0 {
                first_end = builder.size_in_bytes();
            }
        }
        // A record ends with its value and the count of its headers, one byte for none.
        let value_at = first_end - 1 - record_bytes;
        Template { batch: builder.build().freeze(), records, value_at }
    }

    /// Bytes of the batch.
    pub fn batch_bytes(&self) -> usize {
        self.batch.len()
    }

    /// Records of the batch.
    pub fn records(&self) -> usize {
        self.records
    }

    /// The batch with a stamp in its first record.
    ///
    /// # Panics
    ///
    /// When values are shorter than [`STAMP_BYTES`].
    pub fn stamped(&self, stamp: Stamp) -> Bytes {
        let mut batch = self.batch.to_vec();
        let value = &mut batch[self.value_at..self.value_at + STAMP_BYTES];
        value[..8].copy_from_slice(&stamp.run.to_be_bytes());
        value[8..].copy_from_slice(&stamp.scheduled_ns.to_be_bytes());
        let crc = crc32c::crc32c(&batch[CRC_FROM..]);
        batch[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
        batch.into()
    }

    /// The stamp of a batch that was read back; `None` when it is not one of ours.
    pub fn read_stamp(&self, batch: &[u8]) -> Option<Stamp> {
        if batch.len() != self.batch.len() || batch.len() < self.value_at + STAMP_BYTES {
            return None;
        }
        let (run, rest) = batch[self.value_at..].split_first_chunk::<8>()?;
        let scheduled_ns = rest.first_chunk::<8>()?;
        Some(Stamp { run: u64::from_be_bytes(*run), scheduled_ns: u64::from_be_bytes(*scheduled_ns) })
    }
}

/// The batches of a run, all of one size.
#[derive(Clone, Debug)]
pub enum Templates {
    /// The same for every partition.
    Shared(Template),
    /// One with the partition's own keys for each, in the cluster's order.
    Keyed(Vec<Template>),
}

impl Templates {
    /// Batches with keys that Kafka's default partitioner sends to the partition they are for.
    pub fn keyed(cluster: &Cluster, record_bytes: usize, records: usize, timestamp_ms: i64) -> Templates {
        let of_topic = |topic: usize| {
            let partitions = cluster.partitions.iter().filter(|place| place.topic == topic).count();
            keys_by_partition(partitions, records)
        };
        let keys = (0..cluster.topics.len()).flat_map(of_topic);
        Templates::Keyed(keys.map(|keys| Template::keyed(record_bytes, &keys, timestamp_ms)).collect())
    }

    /// The batch of a partition of the cluster.
    pub fn of(&self, partition: usize) -> &Template {
        match self {
            Templates::Shared(template) => template,
            Templates::Keyed(templates) => &templates[partition],
        }
    }

    /// Any of them: their sizes are the same.
    pub fn any(&self) -> &Template {
        self.of(0)
    }
}

/// What a record says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The run that wrote it.
    pub run: u64,
    /// When it was due, on the run's clock.
    pub scheduled_ns: u64,
}

fn next_byte(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state as u8
}

/// One partition's request around any batch of the template's size.
#[derive(Clone, Debug)]
pub struct PreparedProduce {
    head: [u8; HEAD_BYTES],
    before_batch: Bytes,
    batch: Bytes,
    after_batch: Bytes,
    is_answered: bool,
}

impl PreparedProduce {
    /// Encodes the request of every partition of a cluster, in its order, with its template.
    ///
    /// # Errors
    ///
    /// [`BenchError::Encode`].
    pub fn for_cluster(
        cluster: &Cluster,
        templates: &Templates,
        api_version: i16,
        acks: i16,
        timeout_ms: i32,
    ) -> Result<Vec<PreparedProduce>, BenchError> {
        let prepare = |(at, place): (usize, &crate::admin::PartitionPlace)| {
            let template = templates.of(at);
            let topic = &cluster.topics[place.topic];
            let request = produce_request(topic, place.partition, template.batch.clone(), acks, timeout_ms);
            PreparedProduce::new(&request, template, api_version)
        };
        cluster.partitions.iter().enumerate().map(prepare).collect()
    }

    fn new(
        request: &ProduceRequestData,
        template: &Template,
        api_version: i16,
    ) -> Result<PreparedProduce, BenchError> {
        let header = request_header(ApiKey::Produce, api_version, 0);
        let frame = encode_produce(&header, request)?.freeze();
        // Partition, topic and request each end with an empty section of tagged fields, one byte.
        let after_bytes = if api_version >= FIRST_TAGGED_VERSION { 3 } else { 0 };
        let batch_to = frame.len() - after_bytes;
        let batch_from = batch_to - template.batch_bytes();
        assert!(frame[batch_from..batch_to] == template.batch[..], "the batch is the last field but tags");
        Ok(PreparedProduce {
            head: *frame.first_chunk().expect("a request has a header"),
            // Copies, so that not every partition keeps a batch.
            before_batch: Bytes::copy_from_slice(&frame[HEAD_BYTES..batch_from]),
            batch: template.batch.clone(),
            after_batch: Bytes::copy_from_slice(&frame[batch_to..]),
            is_answered: request.acks != 0,
        })
    }

    /// Bytes of the request with its length prefix.
    pub fn size_in_bytes(&self) -> usize {
        HEAD_BYTES + self.before_batch.len() + self.batch.len() + self.after_batch.len()
    }

    /// Whether the broker answers it.
    pub fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// The request with the template's batch.
    pub fn request(&self, ticket: Ticket) -> Outgoing {
        self.request_with(self.batch.clone(), ticket)
    }

    /// The request with another batch.
    ///
    /// # Panics
    ///
    /// When the batch has another size than the template's.
    pub fn request_with(&self, batch: Bytes, ticket: Ticket) -> Outgoing {
        assert_eq!(batch.len(), self.batch.len(), "the lengths around the batch are already written");
        let mut head = self.head;
        head[HEAD_BYTES - 4..].copy_from_slice(&ticket.correlation_id.to_be_bytes());
        Outgoing {
            head,
            pieces: [self.before_batch.clone(), batch, self.after_batch.clone()],
            ticket,
            is_answered: self.is_answered,
        }
    }
}

fn produce_request(
    topic: &str,
    partition: i32,
    batch: Bytes,
    acks: i16,
    timeout_ms: i32,
) -> ProduceRequestData {
    ProduceRequestData {
        acks,
        timeout_ms,
        topic_data: vec![TopicProduceData {
            name: kafka_string(topic),
            partition_data: vec![PartitionProduceData {
                index: partition,
                records: Some(batch),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The error code that a Produce of one partition was answered with; 0 is none.
///
/// # Errors
///
/// [`BenchError::Decode`], or [`BenchError::UnexpectedResponse`] when it does not answer for exactly one partition.
pub fn read_produce_response(api_version: i16, frame: &[u8]) -> Result<i16, BenchError> {
    let (_, response) = decode_response(ApiKey::Produce, api_version, Bytes::copy_from_slice(frame))?;
    let Response::Produce(response) = response else {
        return Err(DecodeError::UnsupportedApi { api_key: ApiKey::Produce.wire() }.into());
    };
    match response.responses.as_slice() {
        [topic] if topic.partition_responses.len() == 1 => Ok(topic.partition_responses[0].error_code),
        _ => Err(BenchError::UnexpectedResponse(
            "a Produce of one partition is answered for another number of them".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use protocol::{
        batch::{BatchHeader, records, validate_produced},
        decode_header,
    };

    use super::*;
    use crate::admin::PartitionPlace;

    fn cluster() -> Cluster {
        Cluster {
            cluster_id: None,
            nodes: [(1, "localhost:9092".to_owned())].into(),
            topics: vec!["a".to_owned(), "another-topic".to_owned()],
            partitions: vec![
                PartitionPlace { topic: 0, partition: 0, leader: 1 },
                PartitionPlace { topic: 1, partition: 70_000, leader: 1 },
            ],
            replicas: 1,
        }
    }

    fn bytes_of(request: &Outgoing) -> BytesMut {
        let mut bytes = BytesMut::from(&request.head[..]);
        request.pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
        bytes
    }

    #[test]
    fn prepared_requests_are_decoded_by_the_broker_in_every_version() {
        for (record_bytes, count) in [(16, 1), (100, 1), (1_024, 64), (1, 3)] {
            let template = Template::new(record_bytes, count, 1_700_000_000_000);
            let templates = Templates::Shared(template.clone());
            for api_version in PRODUCE_VERSIONS {
                let prepared =
                    PreparedProduce::for_cluster(&cluster(), &templates, api_version, -1, 30_000).unwrap();
                for (at, prepared) in prepared.iter().enumerate() {
                    let ticket = Ticket { correlation_id: 0x0102_0304, scheduled_ns: 0, sent_ns: 0 };
                    let mut frame = bytes_of(&prepared.request(ticket));
                    assert_eq!(frame.len(), prepared.size_in_bytes());
                    let length = frame.split_to(4);
                    assert_eq!(length[..], (frame.len() as i32).to_be_bytes());
                    let header = decode_header(&mut frame).unwrap();
                    assert_eq!(header, request_header(ApiKey::Produce, api_version, 0x0102_0304));
                    let request = ProduceRequestData::read(&mut frame.freeze(), api_version).unwrap();
                    let place = &cluster().partitions[at];
                    let expected = produce_request(
                        &cluster().topics[place.topic],
                        place.partition,
                        template.batch.clone(),
                        -1,
                        30_000,
                    );
                    assert_eq!(request, expected, "version {api_version}");
                }
            }
        }
    }

    #[test]
    fn a_template_is_a_valid_batch() {
        let template = Template::new(1_000, 20, 5);
        let header = validate_produced(&mut template.batch.to_vec(), usize::MAX).unwrap();
        assert_eq!(header.record_count, 20);
        let values: Vec<_> = records(&header, &template.batch, usize::MAX)
            .unwrap()
            .map(|record| record.unwrap().value.unwrap())
            .collect();
        assert_eq!(values.len(), 20);
        assert!(values.iter().all(|value| value.len() == 1_000));
        assert_ne!(values[0], values[1]);
    }

    #[test]
    fn keyed_batches_hold_the_keys_of_their_partition_and_can_be_stamped() {
        let templates = Templates::keyed(&cluster(), 100, 3, 5);
        let Templates::Keyed(all) = &templates else { panic!("they are keyed") };
        assert_eq!(all.len(), 2);
        let stamp = Stamp { run: 7, scheduled_ns: 8 };
        for template in all {
            let batch = template.stamped(stamp);
            let header = validate_produced(&mut batch.to_vec(), usize::MAX).unwrap();
            let records: Vec<_> =
                records(&header, &batch, usize::MAX).unwrap().map(|record| record.unwrap()).collect();
            assert!(records.iter().all(|record| record.key.as_ref().unwrap().len() == KEY_BYTES));
            assert_eq!(templates.any().read_stamp(&batch), Some(stamp));
        }
    }

    #[test]
    fn stamps_are_read_back_and_keep_the_batch_valid() {
        let stamp = Stamp { run: 77, scheduled_ns: u64::MAX - 3 };
        for record_bytes in [16, 100, 1_024, 70_000] {
            let template = Template::new(record_bytes, 1, 5);
            let batch = template.stamped(stamp);
            let header = validate_produced(&mut batch.to_vec(), usize::MAX).unwrap();
            let record = records(&header, &batch, usize::MAX).unwrap().next().unwrap().unwrap();
            assert_eq!(record.value.unwrap()[..8], 77_u64.to_be_bytes());
            assert_eq!(template.read_stamp(&batch), Some(stamp));
            assert_ne!(template.read_stamp(&template.batch), Some(stamp));
            assert_eq!(template.read_stamp(&batch[1..]), None);
            assert_eq!(BatchHeader::parse(&batch).unwrap().size_in_bytes(), template.batch_bytes());
        }
    }
}
