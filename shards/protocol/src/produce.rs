//! Produce: a decoder that hands each partition's records out as a mutable slice of the frame, so that the
//! broker can write offsets and leader epoch into them without a copy.

use bytes::{BufMut, Bytes, BytesMut};
use types::TopicId;

use crate::{
    api::{ApiKey, PRODUCE_VERSION_MIN},
    error::{DecodeError, EncodeError},
    frame::{REQUEST_ELEMENTS_MAX, begin_response},
    messages::{ErrorCode, KafkaString},
    wire::{
        read_array_len, read_bytes_len, read_i16, read_i32, read_string_len, reserve_count,
        skip_tagged_fields,
    },
};

/// A Produce request (Kafka's ProduceRequest, versions 0 to 13).
#[derive(Debug, PartialEq, Eq)]
pub struct ProduceRequest {
    /// The transactional id, since version 3. Null without transactions.
    pub transactional_id: Option<KafkaString>,
    /// 0: no response; 1: the leader has it; -1: the in-sync replicas have it. Not checked here.
    pub acks: i16,
    /// How long the broker may wait for the acknowledgements, in milliseconds. May be negative.
    pub timeout_ms: i32,
    /// The topics, in the request's order. Neither these nor their partitions are checked for repetition.
    pub topics: Vec<ProduceTopic>,
}

/// One topic of a [`ProduceRequest`].
#[derive(Debug, PartialEq, Eq)]
pub struct ProduceTopic {
    /// The name, up to version 12.
    pub name: Option<KafkaString>,
    /// The id, since version 13; [`TopicId::ZERO`] before.
    pub topic_id: TopicId,
    /// The partitions, in the request's order.
    pub partitions: Vec<ProducePartition>,
}

/// One partition of a [`ProduceRequest`].
#[derive(Debug, PartialEq, Eq)]
pub struct ProducePartition {
    /// The partition's number in the topic, as the client sent it.
    pub index: i32,
    /// What should be one record batch. It shares the frame's allocation with its siblings and keeps all of it.
    pub records: Option<BytesMut>,
}

/// Decodes the body of a Produce request that [`crate::decode_header`] left.
///
/// Versions 0 to 2 differ only in the lack of a transactional id. They are decoded for [`encode_refusal`].
///
/// # Errors
///
/// [`DecodeError::UnsupportedVersion`] outside 0 to 13, everything else when the body does not begin
/// with a well-formed request. What follows it is ignored, see [`crate::decode_request`].
pub fn decode_produce(mut body: BytesMut, api_version: i16) -> Result<ProduceRequest, DecodeError> {
    if !(0..=13).contains(&api_version) {
        return Err(DecodeError::UnsupportedVersion { api_key: ApiKey::Produce.wire(), api_version });
    }
    let mut decoder = Decoder {
        api_version,
        flexible: ApiKey::Produce.is_flexible(api_version),
        elements_left: REQUEST_ELEMENTS_MAX,
    };
    decoder.request(&mut body)
}

struct Decoder {
    api_version: i16,
    flexible: bool,
    elements_left: usize,
}

impl Decoder {
    fn request(&mut self, body: &mut BytesMut) -> Result<ProduceRequest, DecodeError> {
        let transactional_id =
            if self.api_version >= PRODUCE_VERSION_MIN { self.nullable_string(body)? } else { None };
        let acks = read_i16(body)?;
        let timeout_ms = read_i32(body)?;
        let topic_count = self.element_count(body)?;
        let mut topics = Vec::with_capacity(reserve_count(topic_count, body.len(), 5));
        for _ in 0..topic_count {
            topics.push(self.topic(body)?);
        }
        self.end_of_struct(body)?;
        Ok(ProduceRequest { transactional_id, acks, timeout_ms, topics })
    }

    fn topic(&mut self, body: &mut BytesMut) -> Result<ProduceTopic, DecodeError> {
        let (name, topic_id) = if self.api_version >= 13 {
            let bytes = body.first_chunk::<16>().ok_or(DecodeError::Truncated)?;
            let id = TopicId(*bytes);
            let _ = body.split_to(16);
            (None, id)
        } else {
            (Some(self.nullable_string(body)?.ok_or(DecodeError::InvalidLength)?), TopicId::ZERO)
        };
        let partition_count = self.element_count(body)?;
        let mut partitions = Vec::with_capacity(reserve_count(partition_count, body.len(), 6));
        for _ in 0..partition_count {
            partitions.push(self.partition(body)?);
        }
        self.end_of_struct(body)?;
        Ok(ProduceTopic { name, topic_id, partitions })
    }

    fn partition(&mut self, body: &mut BytesMut) -> Result<ProducePartition, DecodeError> {
        let index = read_i32(body)?;
        let records = read_bytes_len(body, self.flexible)?.map(|len| body.split_to(len));
        self.end_of_struct(body)?;
        Ok(ProducePartition { index, records })
    }

    fn nullable_string(&self, body: &mut BytesMut) -> Result<Option<KafkaString>, DecodeError> {
        let Some(len) = read_string_len(body, self.flexible)? else { return Ok(None) };
        let bytes = body.split_to(len).freeze();
        KafkaString::new(bytes).map(Some).map_err(|_| DecodeError::InvalidString)
    }

    fn element_count(&mut self, body: &mut BytesMut) -> Result<usize, DecodeError> {
        let count = read_array_len(body, self.flexible)?.ok_or(DecodeError::InvalidLength)?;
        self.elements_left = self.elements_left.checked_sub(count).ok_or(DecodeError::TooManyElements)?;
        Ok(count)
    }

    fn end_of_struct(&self, body: &mut BytesMut) -> Result<(), DecodeError> {
        if self.flexible { skip_tagged_fields(body, |_, _| Ok::<_, DecodeError>(())) } else { Ok(()) }
    }
}

/// Answers a Produce of version 0, 1 or 2 with UNSUPPORTED_VERSION for every partition, length prefix included.
/// A request with acks 0 expects no answer: the caller closes the connection instead.
///
/// # Errors
///
/// [`EncodeError::UnsupportedVersion`] for any other version, [`EncodeError::TooLarge`] past 2 GiB.
///
/// # Panics
///
/// When a topic has no name: a request of these versions always has one.
pub fn encode_refusal(
    api_version: i16,
    correlation_id: i32,
    request: &ProduceRequest,
) -> Result<Bytes, EncodeError> {
    if !(0..PRODUCE_VERSION_MIN).contains(&api_version) {
        return Err(EncodeError::UnsupportedVersion { api_key: ApiKey::Produce.wire(), api_version });
    }
    let mut body = BytesMut::new();
    body.put_i32(request.topics.len() as i32);
    for topic in &request.topics {
        let name = topic.name.as_ref().expect("Produce below version 13 names its topics");
        body.put_i16(name.len() as i16);
        body.put_slice(name.as_bytes());
        body.put_i32(topic.partitions.len() as i32);
        for partition in &topic.partitions {
            body.put_i32(partition.index);
            body.put_i16(ErrorCode::UnsupportedVersion.code());
            body.put_i64(-1);
            if api_version >= 2 {
                body.put_i64(-1);
            }
        }
    }
    if api_version >= 1 {
        body.put_i32(0);
    }
    let mut frame = begin_response(ApiKey::Produce, api_version, correlation_id, body.len())?;
    frame.put_slice(&body);
    Ok(frame.freeze())
}

#[cfg(test)]
mod tests;
