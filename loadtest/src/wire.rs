//! A small Kafka client of our own, for what librdkafka does not offer: reading a follower, the roles of nodes, answers
//! as they are.
//!
//! Requests of fixed versions, one at a time; non-flexible ones, where there are.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::history::{BatchSummary, TopicPartition};

/// Key and version.
type Api = (i16, i16);

const PRODUCE: Api = (0, 7);
const FETCH: Api = (1, 11);
const LIST_OFFSETS: Api = (2, 2);
const METADATA: Api = (3, 7);
const OFFSET_COMMIT: Api = (8, 2);
const FIND_COORDINATOR: Api = (10, 0);
const CREATE_TOPICS: Api = (19, 2);
const OFFSET_FOR_LEADER_EPOCH: Api = (23, 2);
const ALTER_PARTITION_REASSIGNMENTS: Api = (45, 0);
const ACKS_ALL: i16 = -1;
/// No answer that we ask for is longer.
const RESPONSE_BYTES_MAX: usize = 64 << 20;
/// Base offset and length: what stands in front of the part that the length counts.
const BATCH_PREFIX_BYTES: usize = 12;
/// Where the part begins that a batch's CRC-32C covers.
const BATCH_CHECKED_FROM: usize = 21;
const BATCH_HEADER_BYTES: usize = 61;

/// What an answer may say instead of what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection failed or timed out.
    #[error("{address}: {source}")]
    Connection {
        /// Whose.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The answer is not one to this request, or ends too early.
    #[error("the answer is malformed: {0}")]
    Malformed(&'static str),
    /// An error code of Kafka.
    #[error("error code {0}")]
    Code(i16),
    /// A batch's checksum does not agree with its bytes.
    #[error("the batch at offset {0} is damaged")]
    Damaged(i64),
}

/// What Metadata says about a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// Ids of the nodes that are known.
    pub nodes: Vec<i32>,
    /// The metadata leader as far as clients are told; −1 is none.
    pub controller: i32,
    /// All partitions of all topics.
    pub partitions: Vec<PartitionView>,
}

/// A partition in Metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionView {
    /// Which.
    pub at: TopicPartition,
    /// Whether clients are told that its topic is the broker's own.
    pub is_internal: bool,
    /// −1 is none.
    pub leader: i32,
    /// Grows with each change of the leader.
    pub leader_epoch: i32,
    /// Nodes.
    pub replicas: Vec<i32>,
    /// Nodes that are caught up.
    pub in_sync: Vec<i32>,
}

/// What one fetch of one partition returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// First offset that can be read.
    pub log_start: i64,
    /// End of what read-committed readers see.
    pub last_stable: i64,
    /// End of what is committed, as far as this replica knows.
    pub high_watermark: i64,
    /// Whole batches.
    pub batches: Vec<BatchSummary>,
}

/// A connection to one node.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    stream: TcpStream,
    correlation_id: i32,
}

impl Connection {
    /// Connects. The time-out also bounds each write and read.
    ///
    /// # Errors
    ///
    /// [`WireError::Connection`].
    pub fn open(address: SocketAddr, timeout: Duration) -> Result<Connection, WireError> {
        let open = || {
            let stream = TcpStream::connect_timeout(&address, timeout)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let stream = open().map_err(|source| WireError::Connection { address, source })?;
        Ok(Connection { address, stream, correlation_id: 0 })
    }

    /// Nodes, controller, topics.
    ///
    /// # Errors
    ///
    /// [`WireError`].
    pub fn metadata(&mut self) -> Result<ClusterView, WireError> {
        const ALL_TOPICS: i32 = -1;
        let mut body = Body::default();
        body.int32(ALL_TOPICS);
        body.int8(0); // create no topics
        let answer = self.request(METADATA, &body)?;
        decode_metadata(&answer)
    }

    /// The node that coordinates a group.
    ///
    /// # Errors
    ///
    /// [`WireError`].
    pub fn coordinator(&mut self, group: &str) -> Result<i32, WireError> {
        let mut body = Body::default();
        body.string(group);
        let answer = self.request(FIND_COORDINATOR, &body)?;
        let mut answer = Answer(&answer);
        answer.succeeds()?;
        answer.int32()
    }

    /// One partition from `offset` on, from this node whether it leads or follows. Does not wait for data.
    ///
    /// # Errors
    ///
    /// [`WireError`].
    pub fn fetch(&mut self, at: &TopicPartition, offset: i64, bytes_max: i32) -> Result<Fetched, WireError> {
        let mut body = Body::default();
        body.int32(-1); // replica id: a consumer
        body.int32(0); // wait at most
        body.int32(0); // bytes at least
        body.int32(bytes_max);
        body.int8(0); // isolation level: read uncommitted
        body.int32(0); // session id and epoch: none
        body.int32(-1);
        body.one_partition(at);
        body.int32(-1); // leader epoch: any
        body.int64(offset);
        body.int64(-1); // log start: followers only
        body.int32(bytes_max);
        body.int32(0); // forgotten topics
        body.string(""); // rack
        let answer = self.request(FETCH, &body)?;
        decode_fetch(&answer)
    }

    /// One record with acks=all. Returns its offset.
    ///
    /// # Errors
    ///
    /// [`WireError`].
    pub fn produce(&mut self, at: &TopicPartition, value: &[u8], within: Duration) -> Result<i64, WireError> {
        let mut body = Body::default();
        body.int16(-1); // transactional id: none
        body.int16(ACKS_ALL);
        body.int32(millis(within));
        body.one_partition(at);
        body.bytes(&batch_of_one(value));
        let answer = self.request(PRODUCE, &body)?;
        let mut answer = Answer(&answer);
        answer.one_partition()?;
        answer.succeeds()?;
        answer.int64()
    }

    /// CreateTopics, for one.
    ///
    /// # Errors
    ///
    /// [`WireError`].
    pub fn create_topic(
        &mut self,
        topic: &str,
        partitions: i32,
        replication: i32,
        within: Duration,
    ) -> Result<(), WireError> {
        let mut body = Body::default();
        body.int32(1);
        body.string(topic);
        body.int32(partitions);
        body.int16(i16::try_from(replication).expect("a cluster has few nodes"));
        body.int32(0); // assignments
        body.int32(0); // configurations
        body.int32(millis(within));
        body.int8(0); // not only to validate
        let answer = self.request(CREATE_TOPICS, &body)?;
        let mut answer = Answer(&answer);
        answer.int32()?; // throttled for
        answer.one()?;
        answer.string()?;
        answer.succeeds()
    }

    /// The first offset of a partition whose timestamp is not before the given one, if there is any.
    ///
    /// # Errors
    ///
    /// [`WireError`].
    pub fn offset_at(&mut self, at: &TopicPartition, timestamp_ms: i64) -> Result<Option<i64>, WireError> {
        let mut body = Body::default();
        body.int32(-1); // replica id: a consumer
        body.int8(0); // isolation level: read uncommitted
        body.one_partition(at);
        body.int64(timestamp_ms);
        let answer = self.request(LIST_OFFSETS, &body)?;
        let mut answer = Answer(&answer);
        answer.int32()?; // throttled for
        answer.one_partition()?;
        answer.succeeds()?;
        answer.int64()?; // its timestamp
        Ok(Some(answer.int64()?).filter(|&offset| offset >= 0))
    }

    /// Where a leader epoch ends.
    ///
    /// # Errors
    ///
    /// [`WireError`].
    pub fn epoch_end(&mut self, at: &TopicPartition, epoch: i32) -> Result<i64, WireError> {
        let mut body = Body::default();
        body.one_partition(at);
        body.int32(-1); // current leader epoch: any
        body.int32(epoch);
        let answer = self.request(OFFSET_FOR_LEADER_EPOCH, &body)?;
        let mut answer = Answer(&answer);
        answer.int32()?; // throttled for
        answer.one()?;
        answer.string()?;
        answer.one()?;
        answer.succeeds()?;
        answer.int32()?; // partition
        answer.int32()?; // epoch
        answer.int64()
    }

    /// Commits an offset as a member of a group.
    ///
    /// # Errors
    ///
    /// [`WireError`].
    pub fn commit(
        &mut self,
        group: &str,
        generation: i32,
        member: &str,
        at: &TopicPartition,
        offset: i64,
    ) -> Result<(), WireError> {
        let mut body = Body::default();
        body.string(group);
        body.int32(generation);
        body.string(member);
        body.int64(-1); // kept for as long as the broker likes
        body.one_partition(at);
        body.int64(offset);
        body.string(""); // metadata
        let answer = self.request(OFFSET_COMMIT, &body)?;
        let mut answer = Answer(&answer);
        answer.one_partition()?;
        answer.succeeds()
    }

    /// Asks for the replicas of a partition to be on these nodes. Returns when that is decided, not when it is done.
    ///
    /// # Errors
    ///
    /// [`WireError`].
    pub fn reassign(
        &mut self,
        at: &TopicPartition,
        nodes: &[i32],
        within: Duration,
    ) -> Result<(), WireError> {
        let mut body = Body::default();
        body.int32(millis(within));
        body.compact_count(1);
        body.compact_string(&at.topic);
        body.compact_count(1);
        body.int32(at.partition);
        body.compact_count(nodes.len());
        nodes.iter().for_each(|&node| body.int32(node));
        // No tagged fields of the partition, the topic and the request.
        (0..3).for_each(|_| body.int8(0));
        decode_reassigned(&self.request(ALTER_PARTITION_REASSIGNMENTS, &body)?)
    }

    fn request(&mut self, (key, version): Api, body: &Body) -> Result<Vec<u8>, WireError> {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let mut head = Body::default();
        head.int16(key);
        head.int16(version);
        head.int32(self.correlation_id);
        head.string("chronik-loadtest");
        if (key, version) == ALTER_PARTITION_REASSIGNMENTS {
            // The head of a flexible version has tagged fields; there are none.
            head.int8(0);
        }
        let length = i32::try_from(head.0.len() + body.0.len()).expect("our requests are short");
        let frame = [&length.to_be_bytes()[..], &head.0, &body.0].concat();
        let answer = self.exchange(&frame).map_err(|source| match source {
            Exchange::Io(source) => WireError::Connection { address: self.address, source },
            Exchange::Length => WireError::Malformed("its length is impossible"),
        })?;
        match answer.split_first_chunk() {
            Some((correlation, rest)) if i32::from_be_bytes(*correlation) == self.correlation_id => {
                Ok(rest.to_vec())
            }
            _ => Err(WireError::Malformed("it answers another request")),
        }
    }

    fn exchange(&mut self, frame: &[u8]) -> Result<Vec<u8>, Exchange> {
        self.stream.write_all(frame)?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).map_err(|_| Exchange::Length)?;
        if length > RESPONSE_BYTES_MAX {
            return Err(Exchange::Length);
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        Ok(answer)
    }
}

enum Exchange {
    Io(io::Error),
    Length,
}

impl From<io::Error> for Exchange {
    fn from(error: io::Error) -> Exchange {
        Exchange::Io(error)
    }
}

fn decode_metadata(answer: &[u8]) -> Result<ClusterView, WireError> {
    let mut answer = Answer(answer);
    let mut view = ClusterView::default();
    answer.int32()?; // throttled for
    for _ in 0..answer.count()? {
        view.nodes.push(answer.int32()?);
        answer.string()?; // host
        answer.int32()?; // port
        answer.string()?; // rack
    }
    answer.string()?; // cluster id
    view.controller = answer.int32()?;
    for _ in 0..answer.count()? {
        answer.int16()?; // a topic's error shows in its partitions' leaders
        let topic = answer.string()?.ok_or(WireError::Malformed("a topic has no name"))?;
        let is_internal = answer.int8()? != 0;
        for _ in 0..answer.count()? {
            answer.int16()?;
            view.partitions.push(PartitionView {
                at: TopicPartition::new(&topic, answer.int32()?),
                is_internal,
                leader: answer.int32()?,
                leader_epoch: answer.int32()?,
                replicas: answer.int32s()?,
                in_sync: answer.int32s()?,
            });
            answer.int32s()?; // replicas on nodes that are away
        }
    }
    Ok(view)
}

/// The answer of a flexible version to a request about one partition: the first error that it has.
fn decode_reassigned(answer: &[u8]) -> Result<(), WireError> {
    let mut answer = Answer(answer);
    answer.no_tags()?;
    answer.int32()?;
    answer.succeeds()?;
    answer.compact_string()?;
    answer.compact_one()?;
    answer.compact_string()?;
    answer.compact_one()?;
    answer.int32()?;
    answer.succeeds()
}

fn decode_fetch(answer: &[u8]) -> Result<Fetched, WireError> {
    let mut answer = Answer(answer);
    answer.int32()?; // throttled for
    answer.succeeds()?;
    answer.int32()?; // session id
    answer.one_partition()?;
    answer.succeeds()?;
    let high_watermark = answer.int64()?;
    let last_stable = answer.int64()?;
    let log_start = answer.int64()?;
    for _ in 0..answer.count()? {
        answer.take(16)?; // an aborted transaction
    }
    answer.int32()?; // preferred read replica
    let batches = summarise(answer.bytes()?)?;
    Ok(Fetched { log_start, last_stable, high_watermark, batches })
}

/// The whole batches at the start of `records`; a cut one at the end is left for the next fetch.
fn summarise(mut records: &[u8]) -> Result<Vec<BatchSummary>, WireError> {
    let mut batches = Vec::new();
    while records.len() >= BATCH_HEADER_BYTES {
        let mut header = Answer(records);
        let base_offset = header.int64()?;
        let length = usize::try_from(header.int32()?)
            .map_err(|_| WireError::Malformed("a batch's length is negative"))?;
        let length = length + BATCH_PREFIX_BYTES;
        if length < BATCH_HEADER_BYTES {
            return Err(WireError::Malformed("a batch is shorter than its header"));
        }
        let Some((batch, rest)) = records.split_at_checked(length) else { break };
        let leader_epoch = header.int32()?;
        if header.int8()? != 2 {
            return Err(WireError::Malformed("a batch is not of format 2"));
        }
        let checksum = header.int32()?.cast_unsigned();
        if crc32c::crc32c(&batch[BATCH_CHECKED_FROM..]) != checksum {
            return Err(WireError::Damaged(base_offset));
        }
        header.int16()?; // attributes
        let last_offset = base_offset + i64::from(header.int32()?);
        header.int64()?; // first timestamp
        let timestamp_ms_max = header.int64()?;
        batches.push(BatchSummary {
            base_offset,
            last_offset,
            leader_epoch,
            timestamp_ms_max,
            bytes: length as u64,
            producer_id: header.int64()?,
            producer_epoch: header.int16()?,
            base_sequence: header.int32()?,
            checksum: crc32fast::hash(batch),
        });
        records = rest;
    }
    Ok(batches)
}

/// A batch of one record, without key and headers, made now. Kafka, implementation/message-format.
fn batch_of_one(value: &[u8]) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    let now_ms = i64::try_from(now.as_millis()).expect("it is not that late");
    let mut record = vec![0, 0, 0]; // attributes, timestamp delta, offset delta
    put_varint(&mut record, -1); // no key
    put_varint(&mut record, value.len() as i64);
    record.extend_from_slice(value);
    record.push(0); // headers
    let mut checked = Body::default();
    checked.int16(0); // attributes
    checked.int32(0); // last offset delta
    checked.int64(now_ms);
    checked.int64(now_ms);
    checked.int64(-1); // producer id, epoch and sequence: none
    checked.int16(-1);
    checked.int32(-1);
    checked.int32(1); // records
    put_varint(&mut checked.0, record.len() as i64);
    checked.0.extend_from_slice(&record);
    let mut batch = Body::default();
    batch.int64(0); // base offset
    let length = checked.0.len() + BATCH_CHECKED_FROM - BATCH_PREFIX_BYTES;
    batch.int32(i32::try_from(length).expect("our batches are short"));
    batch.int32(-1); // leader epoch
    batch.int8(2);
    batch.int32(crc32c::crc32c(&checked.0).cast_signed());
    batch.0.extend(checked.0);
    batch.0
}

/// A number as records have them: zigzag, seven bits at a time.
fn put_varint(bytes: &mut Vec<u8>, value: i64) {
    let mut rest = (value << 1 ^ value >> 63).cast_unsigned();
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).expect("our time-outs are short")
}

/// A request's bytes.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn int8(&mut self, value: i8) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    fn int16(&mut self, value: i16) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    fn int32(&mut self, value: i32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    fn int64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// The heads of arrays of one topic and one partition.
    fn one_partition(&mut self, at: &TopicPartition) {
        self.int32(1);
        self.string(&at.topic);
        self.int32(1);
        self.int32(at.partition);
    }

    fn bytes(&mut self, value: &[u8]) {
        self.int32(i32::try_from(value.len()).expect("our requests are short"));
        self.0.extend_from_slice(value);
    }

    /// Of a compact array or string, which is short enough for one byte of the varint.
    fn compact_count(&mut self, count: usize) {
        self.0.push(
            u8::try_from(count + 1).ok().filter(|count| *count < 0x80).expect("our requests are short"),
        );
    }

    fn compact_string(&mut self, value: &str) {
        self.compact_count(value.len());
        self.0.extend_from_slice(value.as_bytes());
    }

    fn string(&mut self, value: &str) {
        self.int16(i16::try_from(value.len()).expect("our strings are short"));
        self.0.extend_from_slice(value.as_bytes());
    }
}

/// What is left of an answer.
struct Answer<'a>(&'a [u8]);

impl<'a> Answer<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or(WireError::Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], WireError> {
        Ok(self.take(COUNT)?.try_into().expect("so many were taken"))
    }

    fn int8(&mut self) -> Result<i8, WireError> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    fn int16(&mut self) -> Result<i16, WireError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    fn int32(&mut self) -> Result<i32, WireError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    fn int64(&mut self) -> Result<i64, WireError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// Elements of an array; null counts as none. Nothing is reserved for them.
    fn count(&mut self) -> Result<u32, WireError> {
        Ok(u32::try_from(self.int32()?).unwrap_or(0))
    }

    /// The head of an array of one.
    fn one(&mut self) -> Result<(), WireError> {
        if self.count()? == 1 {
            Ok(())
        } else {
            Err(WireError::Malformed("it is not about the one that was asked for"))
        }
    }

    /// The heads of arrays of one topic and one partition.
    fn one_partition(&mut self) -> Result<(), WireError> {
        self.one()?;
        self.string()?;
        self.one()?;
        self.int32().map(drop)
    }

    /// An error code that is none.
    fn succeeds(&mut self) -> Result<(), WireError> {
        match self.int16()? {
            0 => Ok(()),
            code => Err(WireError::Code(code)),
        }
    }

    fn int32s(&mut self) -> Result<Vec<i32>, WireError> {
        (0..self.count()?).map(|_| self.int32()).collect()
    }

    fn string(&mut self) -> Result<Option<String>, WireError> {
        let Ok(length) = usize::try_from(self.int16()?) else { return Ok(None) };
        let text = std::str::from_utf8(self.take(length)?);
        text.map(|text| Some(text.to_owned())).map_err(|_| WireError::Malformed("a string is not UTF-8"))
    }

    /// Of a compact array or string; null counts as none.
    fn compact_count(&mut self) -> Result<usize, WireError> {
        let [first] = self.array()?;
        match first < 0x80 {
            true => Ok(usize::from(first).saturating_sub(1)),
            false => Err(WireError::Malformed("it is longer than what was asked for")),
        }
    }

    fn compact_string(&mut self) -> Result<(), WireError> {
        let length = self.compact_count()?;
        self.take(length).map(drop)
    }

    /// The head of a compact array of one.
    fn compact_one(&mut self) -> Result<(), WireError> {
        match self.compact_count()? {
            1 => Ok(()),
            _ => Err(WireError::Malformed("it is not about the one that was asked for")),
        }
    }

    fn no_tags(&mut self) -> Result<(), WireError> {
        match self.array()? {
            [0] => Ok(()),
            [_] => Err(WireError::Malformed("it has tagged fields")),
        }
    }

    /// Null counts as empty.
    fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = usize::try_from(self.int32()?).unwrap_or(0);
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(base_offset: i64, last_offset_delta: i32) -> Vec<u8> {
        let mut checked = Body::default();
        checked.int16(0);
        checked.int32(last_offset_delta);
        checked.0.resize(BATCH_HEADER_BYTES - BATCH_CHECKED_FROM + 7, 9);
        let mut batch = Body::default();
        batch.int64(base_offset);
        batch.int32(i32::try_from(checked.0.len() + BATCH_CHECKED_FROM - BATCH_PREFIX_BYTES).unwrap());
        batch.int32(4);
        batch.int8(2);
        batch.int32(crc32c::crc32c(&checked.0).cast_signed());
        batch.0.extend(checked.0);
        batch.0
    }

    #[test]
    fn whole_batches_are_summarised_and_a_cut_one_is_left() {
        let first = batch(10, 2);
        let second = batch(13, 0);
        let records = [first.clone(), second.clone()].concat();
        let summaries = summarise(&records).unwrap();
        assert_eq!(
            summaries.iter().map(|batch| (batch.base_offset, batch.last_offset)).collect::<Vec<_>>(),
            [(10, 12), (13, 13)]
        );
        assert_eq!(summaries[0].bytes, first.len() as u64);
        for cut in first.len()..records.len() {
            assert_eq!(summarise(&records[..cut]).unwrap(), summaries[..1]);
        }
    }

    #[test]
    fn a_batch_that_we_send_is_one_that_we_read() {
        let batch = batch_of_one(&[7; 300]);
        let [summary] = &summarise(&batch).unwrap()[..] else { panic!("one batch") };
        assert_eq!((summary.base_offset, summary.last_offset, summary.bytes), (0, 0, batch.len() as u64));
        assert_eq!((summary.producer_id, summary.producer_epoch, summary.base_sequence), (-1, -1, -1));
        // Behind the header: length of the record, three zeros, no key, length of the value, headers.
        let record = [[0xe6, 0x04].as_slice(), &[0, 0, 0, 1], &[0xd8, 0x04], &[7; 300], &[0]].concat();
        assert_eq!(batch[BATCH_HEADER_BYTES..], record);
    }

    #[test]
    fn each_flipped_bit_of_a_batch_shows_in_its_summary_or_as_damage() {
        let good = batch(10, 2);
        let summary = summarise(&good).unwrap();
        for position in 0..good.len() {
            let mut changed = good.clone();
            changed[position] ^= 4;
            assert!(summarise(&changed).map_or(true, |other| other != summary), "byte {position}");
        }
    }

    #[test]
    fn the_error_of_a_reassignment_is_found() {
        // Throttled for 0 ms, no error, no message, "t", partition 3, an error without a message.
        let answer = |whole: u8, partition: u8| {
            [&[0, 0, 0, 0, 0, 0, whole, 0, 2, 2, b't', 2, 0, 0, 0, 3, 0, partition][..], &[0, 0, 0, 0]]
                .concat()
        };
        assert!(decode_reassigned(&answer(0, 0)).is_ok());
        assert!(matches!(decode_reassigned(&answer(41, 0)), Err(WireError::Code(41))));
        assert!(matches!(decode_reassigned(&answer(0, 39)), Err(WireError::Code(39))));
        assert!(matches!(decode_reassigned(&[0, 0]), Err(WireError::Malformed(_))));
    }

    #[test]
    fn no_cut_or_hostile_answer_is_taken_for_a_good_one() {
        let mut answer = Body::default();
        answer.int32(0);
        answer.int32(1);
        answer.int32(7);
        answer.string("host");
        answer.int32(9092);
        answer.int16(-1);
        answer.string("cluster");
        answer.int32(7);
        answer.int32(1);
        answer.int16(0);
        answer.string("load");
        answer.int8(0);
        answer.int32(1);
        answer.int16(0);
        answer.int32(0);
        answer.int32(7);
        answer.int32(12);
        answer.int32(1);
        answer.int32(7);
        answer.int32(0);
        answer.int32(0);
        let view = decode_metadata(&answer.0).unwrap();
        assert_eq!((view.nodes.as_slice(), view.controller), (&[7][..], 7));
        assert_eq!((view.partitions[0].leader_epoch, view.partitions[0].replicas.as_slice()), (12, &[7][..]));
        for cut in 0..answer.0.len() {
            assert!(matches!(decode_metadata(&answer.0[..cut]), Err(WireError::Malformed(_))), "{cut}");
        }
        assert!(decode_fetch(&[0xff; 64]).is_err());
        assert!(decode_metadata(&[0x7f; 64]).is_err());
    }
}
