//! Fetch responses that pass records on without copying them.

use bytes::{BufMut, Bytes, BytesMut};
use types::{NodeId, Offset, TopicId};

use crate::{
    api::ApiKey,
    error::EncodeError,
    messages::{ErrorCode, KafkaString},
    wire::write_unsigned_varint,
};

/// A Fetch response (Kafka's FetchResponse, versions 4 to 18). What a version lacks is left out.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchResponse {
    /// How long the client was or should be throttled, in milliseconds.
    pub throttle_time_ms: i32,
    /// An error of the whole request, since version 7.
    pub error_code: ErrorCode,
    /// The fetch session (KIP-227), 0 for none, since version 7.
    pub session_id: i32,
    /// The topics that have something to say.
    pub topics: Vec<FetchTopic>,
    /// Where the leaders named in the partitions are (KIP-951), since version 16.
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// One topic of a [`FetchResponse`].
#[derive(Clone, Debug, PartialEq)]
pub struct FetchTopic {
    /// The name, which goes out up to version 12.
    pub name: KafkaString,
    /// The id, which goes out since version 13.
    pub topic_id: TopicId,
    /// The partitions that have something to say.
    pub partitions: Vec<FetchPartition>,
}

/// One partition of a [`FetchTopic`].
#[derive(Clone, Debug, PartialEq)]
pub struct FetchPartition {
    /// The partition's number in its topic.
    pub index: i32,
    /// What went wrong with this partition.
    pub error_code: ErrorCode,
    /// The high watermark; -1 with an error.
    pub high_watermark: Offset,
    /// The last stable offset, at most the high watermark; -1 with an error.
    pub last_stable_offset: Offset,
    /// The first offset of the log, since version 5; -1 with an error.
    pub log_start_offset: Offset,
    /// The aborted transactions that reach into the records, for a read-committed reader; `None` otherwise.
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    /// The replica that the client should fetch from instead (KIP-392), since version 11.
    pub preferred_read_replica: Option<NodeId>,
    /// Where the reader's log leaves ours (KIP-595), since version 12.
    pub diverging_epoch: Option<EpochEndOffset>,
    /// The leader that we know (KIP-951), since version 12.
    pub current_leader: Option<LeaderIdAndEpoch>,
    /// The batches. Their concatenation is what the client reads; empty pieces are allowed.
    pub records: Vec<Bytes>,
}

/// A transaction whose records a read-committed reader drops (KIP-98).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// Its first offset in the partition.
    pub first_offset: Offset,
}

/// A leader epoch and the offset after its last record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEndOffset {
    /// The leader epoch.
    pub epoch: i32,
    /// The first offset that does not belong to it.
    pub end_offset: Offset,
}

/// Who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderIdAndEpoch {
    /// The leader.
    pub leader_id: NodeId,
    /// Its leader epoch.
    pub leader_epoch: i32,
}

/// Where a broker is reached (KIP-951).
#[derive(Clone, Debug, PartialEq)]
pub struct NodeEndpoint {
    /// The broker.
    pub node_id: NodeId,
    /// Its host on the listener that the client uses.
    pub host: KafkaString,
    /// Its port there.
    pub port: i32,
    /// Its rack.
    pub rack: Option<KafkaString>,
}

/// Encodes a response with its length prefix and header. The pieces are to be sent in order; the records among
/// them are those of `response`, not copied.
///
/// # Errors
///
/// [`EncodeError::UnsupportedVersion`] outside 4 to 18, [`EncodeError::TooLarge`] when a length does not fit.
pub fn encode_fetch_response(
    api_version: i16,
    correlation_id: i32,
    response: &FetchResponse,
) -> Result<Vec<Bytes>, EncodeError> {
    if !(4..=18).contains(&api_version) {
        return Err(EncodeError::UnsupportedVersion { api_key: ApiKey::Fetch.wire(), api_version });
    }
    let mut encoder = Encoder {
        api_version,
        flexible: ApiKey::Fetch.is_flexible(api_version),
        fields: BytesMut::with_capacity(field_bytes_max(response)),
        records: Vec::new(),
        record_bytes: 0,
    };
    encoder.frame(correlation_id, response)?;
    encoder.into_pieces()
}

/// At least as much as the fields of a response take, without its records.
fn field_bytes_max(response: &FetchResponse) -> usize {
    let topics = response.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            96 + 17 * partition.aborted_transactions.as_ref().map_or(0, |aborted| aborted.len())
        });
        32 + topic.name.len() + partitions.sum::<usize>()
    });
    let endpoints = response.node_endpoints.iter().map(endpoint_bytes_max);
    64 + topics.sum::<usize>() + endpoints.sum::<usize>()
}

fn endpoint_bytes_max(endpoint: &NodeEndpoint) -> usize {
    24 + endpoint.host.len() + endpoint.rack.as_ref().map_or(0, KafkaString::len)
}

struct Encoder<'a> {
    api_version: i16,
    flexible: bool,
    /// Everything but the records.
    fields: BytesMut,
    /// Records and the position in `fields` that they stand at.
    records: Vec<(usize, &'a [Bytes])>,
    record_bytes: usize,
}

impl<'a> Encoder<'a> {
    fn frame(&mut self, correlation_id: i32, response: &'a FetchResponse) -> Result<(), EncodeError> {
        self.fields.put_i32(0);
        self.fields.put_i32(correlation_id);
        self.end_of_struct();
        self.fields.put_i32(response.throttle_time_ms);
        if self.api_version >= 7 {
            self.fields.put_i16(response.error_code.code());
            self.fields.put_i32(response.session_id);
        }
        self.array_len(response.topics.len())?;
        for topic in &response.topics {
            self.topic(topic)?;
        }
        if self.api_version >= 16 && !response.node_endpoints.is_empty() {
            self.node_endpoints(&response.node_endpoints)?;
        } else {
            self.end_of_struct();
        }
        Ok(())
    }

    fn topic(&mut self, topic: &'a FetchTopic) -> Result<(), EncodeError> {
        if self.api_version >= 13 {
            self.fields.put_slice(&topic.topic_id.0);
        } else {
            self.string(&topic.name)?;
        }
        self.array_len(topic.partitions.len())?;
        for partition in &topic.partitions {
            self.partition(partition)?;
        }
        self.end_of_struct();
        Ok(())
    }

    fn partition(&mut self, partition: &'a FetchPartition) -> Result<(), EncodeError> {
        self.fields.put_i32(partition.index);
        self.fields.put_i16(partition.error_code.code());
        self.fields.put_i64(partition.high_watermark.0);
        self.fields.put_i64(partition.last_stable_offset.0);
        if self.api_version >= 5 {
            self.fields.put_i64(partition.log_start_offset.0);
        }
        self.aborted_transactions(partition.aborted_transactions.as_deref())?;
        if self.api_version >= 11 {
            self.fields.put_i32(partition.preferred_read_replica.map_or(-1, |node| node.0));
        }
        let record_bytes = partition.records.iter().map(Bytes::len).sum();
        self.bytes_len(record_bytes)?;
        if record_bytes > 0 {
            self.records.push((self.fields.len(), &partition.records));
            self.record_bytes += record_bytes;
        }
        self.partition_tags(partition);
        Ok(())
    }

    fn aborted_transactions(&mut self, aborted: Option<&[AbortedTransaction]>) -> Result<(), EncodeError> {
        let Some(aborted) = aborted else {
            if self.flexible {
                self.fields.put_u8(0);
            } else {
                self.fields.put_i32(-1);
            }
            return Ok(());
        };
        self.array_len(aborted.len())?;
        for transaction in aborted {
            self.fields.put_i64(transaction.producer_id);
            self.fields.put_i64(transaction.first_offset.0);
            self.end_of_struct();
        }
        Ok(())
    }

    fn partition_tags(&mut self, partition: &FetchPartition) {
        if !self.flexible {
            return;
        }
        let diverging_epoch = partition.diverging_epoch;
        let current_leader = partition.current_leader;
        self.fields.put_u8(u8::from(diverging_epoch.is_some()) + u8::from(current_leader.is_some()));
        if let Some(EpochEndOffset { epoch, end_offset }) = diverging_epoch {
            self.fields.put_slice(&[0, 13]);
            self.fields.put_i32(epoch);
            self.fields.put_i64(end_offset.0);
            self.fields.put_u8(0);
        }
        if let Some(LeaderIdAndEpoch { leader_id, leader_epoch }) = current_leader {
            self.fields.put_slice(&[1, 9]);
            self.fields.put_i32(leader_id.0);
            self.fields.put_i32(leader_epoch);
            self.fields.put_u8(0);
        }
    }

    fn node_endpoints(&mut self, endpoints: &[NodeEndpoint]) -> Result<(), EncodeError> {
        let before = std::mem::take(&mut self.fields);
        self.fields.reserve(16 + endpoints.iter().map(endpoint_bytes_max).sum::<usize>());
        self.array_len(endpoints.len())?;
        for endpoint in endpoints {
            self.fields.put_i32(endpoint.node_id.0);
            self.string(&endpoint.host)?;
            self.fields.put_i32(endpoint.port);
            match &endpoint.rack {
                Some(rack) => self.string(rack)?,
                None => self.fields.put_u8(0),
            }
            self.end_of_struct();
        }
        let content = std::mem::replace(&mut self.fields, before);
        self.fields.put_slice(&[1, 0]);
        write_unsigned_varint(&mut self.fields, checked_u32(content.len())?);
        self.fields.put_slice(&content);
        Ok(())
    }

    fn string(&mut self, text: &KafkaString) -> Result<(), EncodeError> {
        let len = i16::try_from(text.len()).map_err(|_| EncodeError::TooLarge { bytes: text.len() })?;
        if self.flexible {
            write_unsigned_varint(&mut self.fields, u32::from(len as u16) + 1);
        } else {
            self.fields.put_i16(len);
        }
        self.fields.put_slice(text.as_bytes());
        Ok(())
    }

    fn array_len(&mut self, len: usize) -> Result<(), EncodeError> {
        let checked = i32::try_from(len).map_err(|_| EncodeError::TooLarge { bytes: len })?;
        if self.flexible {
            write_unsigned_varint(&mut self.fields, checked as u32 + 1);
        } else {
            self.fields.put_i32(checked);
        }
        Ok(())
    }

    /// A byte field's length is written as an array's.
    fn bytes_len(&mut self, len: usize) -> Result<(), EncodeError> {
        self.array_len(len)
    }

    fn end_of_struct(&mut self) {
        if self.flexible {
            self.fields.put_u8(0);
        }
    }

    fn into_pieces(mut self) -> Result<Vec<Bytes>, EncodeError> {
        let frame_bytes = self.fields.len() - 4 + self.record_bytes;
        let length = i32::try_from(frame_bytes).map_err(|_| EncodeError::TooLarge { bytes: frame_bytes })?;
        self.fields[..4].copy_from_slice(&length.to_be_bytes());
        let mut rest = self.fields.freeze();
        let mut pieces = Vec::with_capacity(2 * self.records.len() + 1);
        let mut sent = 0;
        for (position, records) in self.records {
            pieces.push(rest.split_to(position - sent));
            sent = position;
            pieces.extend(records.iter().filter(|piece| !piece.is_empty()).cloned());
        }
        if !rest.is_empty() {
            pieces.push(rest);
        }
        Ok(pieces)
    }
}

fn checked_u32(len: usize) -> Result<u32, EncodeError> {
    u32::try_from(len).map_err(|_| EncodeError::TooLarge { bytes: len })
}

#[cfg(test)]
mod tests;
