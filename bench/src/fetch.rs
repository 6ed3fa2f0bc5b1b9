//! Fetch as a consumer uses it: incremental sessions (KIP-227), and responses that are read where they lie.

use std::collections::HashMap;

use bytes::BytesMut;
use protocol::{
    ApiKey, BatchHeader, ErrorCode, Request,
    client::encode_request,
    messages::{
        fetch_request::{FetchPartition, FetchRequestData, FetchTopic, ForgottenTopic},
        kafka_string,
    },
};

use crate::{admin::request_header, error::BenchError};

/// Fetch versions that this client speaks: from the first with sessions to the last that names topics instead of their
/// ids.
pub const FETCH_VERSIONS: std::ops::RangeInclusive<i16> = 7..=12;

const FIRST_TAGGED_VERSION: i16 = 12;
const FIRST_PREFERRED_REPLICA_VERSION: i16 = 11;

/// The limits of each Fetch.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// Bytes that a response may have, more only for its first batch.
    pub bytes_max: i32,
    /// Bytes that it may have of each partition.
    pub partition_bytes_max: i32,
    /// How long the broker may wait for the first byte.
    pub wait_ms_max: i32,
}

/// A partition that is read.
#[derive(Clone, Debug)]
pub struct Position {
    /// The topic, as an index into the session's.
    pub topic: usize,
    /// The partition's number in the topic.
    pub partition: i32,
    /// The first offset that is not yet read.
    pub offset: i64,
    /// Where reading ends; `None` for never.
    pub end: Option<i64>,
    is_listed: bool,
}

impl Position {
    /// A partition to be read from an offset on.
    pub fn new(topic: usize, partition: i32, offset: i64, end: Option<i64>) -> Position {
        Position { topic, partition, offset, end, is_listed: false }
    }

    /// Whether everything is read.
    pub fn is_done(&self) -> bool {
        self.end.is_some_and(|end| self.offset >= end)
    }
}

/// One consumer's partitions on one broker, and the broker's memory of them.
///
/// A request names the partitions whose offset has changed, and drops those that are done; a broker that keeps no
/// sessions is told everything each time.
#[derive(Debug)]
pub struct FetchSession {
    api_version: i16,
    limits: FetchLimits,
    topics: Vec<String>,
    positions: Vec<Position>,
    by_place: HashMap<String, HashMap<i32, usize>>,
    session_id: i32,
    /// The next request's epoch; 0 opens a session.
    epoch: i32,
    /// Positions that the next incremental request must name.
    changed: Vec<usize>,
}

impl FetchSession {
    /// A session that does not exist yet.
    pub fn new(
        api_version: i16,
        limits: FetchLimits,
        topics: Vec<String>,
        positions: Vec<Position>,
    ) -> FetchSession {
        let mut by_place: HashMap<String, HashMap<i32, usize>> = HashMap::new();
        for (at, position) in positions.iter().enumerate() {
            by_place.entry(topics[position.topic].clone()).or_default().insert(position.partition, at);
        }
        FetchSession {
            api_version,
            limits,
            topics,
            positions,
            by_place,
            session_id: 0,
            epoch: 0,
            changed: Vec::new(),
        }
    }

    /// The partitions as far as they are read.
    pub fn positions(&self) -> &[Position] {
        &self.positions
    }

    /// Whether everything is read.
    pub fn is_done(&self) -> bool {
        self.positions.iter().all(Position::is_done)
    }

    /// Begins to read again, from other offsets in the order of the positions.
    pub fn restart(&mut self, offsets: impl Iterator<Item = i64>) {
        for (position, offset) in self.positions.iter_mut().zip(offsets) {
            position.offset = offset;
        }
        self.epoch = 0;
    }

    /// The next Fetch, with its length prefix.
    ///
    /// # Errors
    ///
    /// [`BenchError::Encode`].
    pub fn request(&mut self, correlation_id: i32) -> Result<BytesMut, BenchError> {
        let changed = std::mem::take(&mut self.changed);
        let is_full = self.epoch == 0;
        let asked = if is_full { (0..self.positions.len()).collect() } else { changed };
        let mut topics: Vec<FetchTopic> = Vec::new();
        let mut forgotten: Vec<ForgottenTopic> = Vec::new();
        for at in asked {
            let position = &mut self.positions[at];
            let name = &self.topics[position.topic];
            let was_listed = position.is_listed;
            position.is_listed = !position.is_done();
            if position.is_listed {
                let topic = last_or_push(&mut topics, |topic| topic.topic.as_str() == name);
                topic.topic = kafka_string(name);
                topic.partitions.push(FetchPartition {
                    partition: position.partition,
                    fetch_offset: position.offset,
                    partition_max_bytes: self.limits.partition_bytes_max,
                    ..Default::default()
                });
            } else if was_listed && !is_full {
                let topic = last_or_push(&mut forgotten, |topic| topic.topic.as_str() == name);
                topic.topic = kafka_string(name);
                topic.partitions.push(position.partition);
            }
        }
        let request = FetchRequestData {
            max_wait_ms: self.limits.wait_ms_max,
            min_bytes: 1,
            max_bytes: self.limits.bytes_max,
            session_id: self.session_id,
            session_epoch: self.epoch,
            topics,
            forgotten_topics_data: forgotten,
            ..Default::default()
        };
        let header = request_header(ApiKey::Fetch, self.api_version, correlation_id);
        Ok(encode_request(&header, &Request::Fetch(request))?)
    }

    /// Reads a response: every whole batch is given to `on_batch`, every error code to `on_error`, and the
    /// positions move on.
    ///
    /// # Errors
    ///
    /// [`BenchError::UnexpectedResponse`] when the response is malformed, or holds bytes but no whole batch.
    pub fn accept(
        &mut self,
        frame: &[u8],
        mut on_batch: impl FnMut(&BatchHeader, &[u8]),
        mut on_error: impl FnMut(i16),
    ) -> Result<(), BenchError> {
        let mut reader = Reader { bytes: frame };
        let flexible = self.api_version >= FIRST_TAGGED_VERSION;
        reader.i32()?;
        if flexible {
            reader.skip_tagged_fields()?;
        }
        reader.i32()?;
        let error_code = reader.i16()?;
        let session_id = reader.i32()?;
        if ErrorCode::from(error_code) != ErrorCode::None {
            on_error(error_code);
            (self.session_id, self.epoch) = (0, 0);
            return Ok(());
        }
        self.session_id = session_id;
        // A broker without a session for us answers 0, and must be told everything again.
        self.epoch = if session_id == 0 { 0 } else { self.epoch.checked_add(1).unwrap_or(1) };
        for _ in 0..reader.array_length(flexible)? {
            let topic = reader.string(flexible)?;
            for _ in 0..reader.array_length(flexible)? {
                let answer = reader.partition(self.api_version)?;
                let at = self.by_place.get(topic).and_then(|partitions| partitions.get(&answer.partition));
                let Some(&at) = at else {
                    return Err(BenchError::UnexpectedResponse(format!(
                        "Fetch answered for {topic}-{}, which was not asked for",
                        answer.partition,
                    )));
                };
                if ErrorCode::from(answer.error_code) != ErrorCode::None {
                    on_error(answer.error_code);
                }
                if answer.records.is_empty() {
                    continue;
                }
                let next_offset = read_batches(answer.records, &mut on_batch)?;
                self.positions[at].offset = next_offset;
                self.changed.push(at);
            }
            if flexible {
                reader.skip_tagged_fields()?;
            }
        }
        Ok(())
    }
}

fn last_or_push<T: Default>(items: &mut Vec<T>, is_it: impl Fn(&T) -> bool) -> &mut T {
    if !items.last().is_some_and(is_it) {
        items.push(T::default());
    }
    items.last_mut().expect("there is one now")
}

/// Hands out whole batches, of which there is at least one, and returns the offset after the last.
fn read_batches(
    mut records: &[u8],
    on_batch: &mut impl FnMut(&BatchHeader, &[u8]),
) -> Result<i64, BenchError> {
    let mut next_offset = None;
    // The last batch may be cut off by the limits of the Fetch.
    while let Ok(header) = BatchHeader::parse(records) {
        let Some((batch, rest)) = records.split_at_checked(header.size_in_bytes()) else { break };
        on_batch(&header, batch);
        next_offset = Some(header.next_offset().0);
        records = rest;
    }
    next_offset.ok_or_else(|| {
        BenchError::UnexpectedResponse(
            "Fetch returned bytes but no whole batch of format 2: raise --partition-max-bytes".to_owned(),
        )
    })
}

struct PartitionAnswer<'a> {
    partition: i32,
    error_code: i16,
    records: &'a [u8],
}

/// Reads fields of Kafka's wire off the front of a slice.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BenchError> {
        let cut = || BenchError::UnexpectedResponse("a Fetch response ends inside a field".to_owned());
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or_else(cut)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BenchError> {
        Ok(*self.take(N)?.first_chunk().expect("as many bytes were taken"))
    }

    fn i16(&mut self) -> Result<i16, BenchError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32, BenchError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    fn unsigned_varint(&mut self) -> Result<u32, BenchError> {
        let mut value = 0;
        for shift in (0..32).step_by(7) {
            let [byte] = self.array()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(BenchError::UnexpectedResponse("a Fetch response holds an overlong integer".to_owned()))
    }

    /// A length, with null as 0: a compact one is stored one greater, with 0 for null.
    fn length(
        &mut self,
        flexible: bool,
        fixed: fn(&mut Self) -> Result<i32, BenchError>,
    ) -> Result<usize, BenchError> {
        if flexible {
            return Ok(self.unsigned_varint()?.saturating_sub(1) as usize);
        }
        Ok(usize::try_from(fixed(self)?).unwrap_or(0))
    }

    fn array_length(&mut self, flexible: bool) -> Result<usize, BenchError> {
        self.length(flexible, Self::i32)
    }

    fn string(&mut self, flexible: bool) -> Result<&'a str, BenchError> {
        let length = self.length(flexible, |reader| reader.i16().map(i32::from))?;
        std::str::from_utf8(self.take(length)?)
            .map_err(|_| BenchError::UnexpectedResponse("a topic's name is not UTF-8".to_owned()))
    }

    fn skip_tagged_fields(&mut self) -> Result<(), BenchError> {
        for _ in 0..self.unsigned_varint()? {
            self.unsigned_varint()?;
            let length = self.unsigned_varint()? as usize;
            self.take(length)?;
        }
        Ok(())
    }

    fn partition(&mut self, api_version: i16) -> Result<PartitionAnswer<'a>, BenchError> {
        const OFFSET_BYTES: usize = 8;
        const ABORTED_TRANSACTION_BYTES: usize = 16;
        let flexible = api_version >= FIRST_TAGGED_VERSION;
        let partition = self.i32()?;
        let error_code = self.i16()?;
        // High watermark, last stable offset, log start offset.
        self.take(3 * OFFSET_BYTES)?;
        for _ in 0..self.array_length(flexible)? {
            self.take(ABORTED_TRANSACTION_BYTES)?;
            if flexible {
                self.skip_tagged_fields()?;
            }
        }
        if api_version >= FIRST_PREFERRED_REPLICA_VERSION {
            self.i32()?;
        }
        let length = self.length(flexible, Self::i32)?;
        let records = self.take(length)?;
        if flexible {
            self.skip_tagged_fields()?;
        }
        Ok(PartitionAnswer { partition, error_code, records })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use protocol::{decode_header, decode_request, fetch};

    use super::*;
    use crate::frames::Template;

    const LIMITS: FetchLimits =
        FetchLimits { bytes_max: 1 << 20, partition_bytes_max: 1 << 16, wait_ms_max: 500 };

    fn session(api_version: i16) -> FetchSession {
        let positions = vec![
            Position::new(0, 0, 10, Some(14)),
            Position::new(0, 3, 0, Some(2)),
            Position::new(1, 0, 5, None),
        ];
        FetchSession::new(api_version, LIMITS, vec!["one".to_owned(), "two".to_owned()], positions)
    }

    /// What the broker reads: session id, epoch, (topic, partition, offset), forgotten (topic, partition).
    type Asked = (i32, i32, Vec<(String, i32, i64)>, Vec<(String, i32)>);

    fn asked(session: &mut FetchSession) -> Asked {
        let mut frame = session.request(1).unwrap();
        let length = frame.split_to(4);
        assert_eq!(length[..], (frame.len() as i32).to_be_bytes());
        let header = decode_header(&mut frame).unwrap();
        let Request::Fetch(request) = decode_request(&header, frame.freeze()).unwrap() else {
            panic!("a Fetch was sent")
        };
        assert_eq!((request.max_bytes, request.min_bytes, request.max_wait_ms), (1 << 20, 1, 500));
        let named = request.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|partition| {
                (topic.topic.as_str().to_owned(), partition.partition, partition.fetch_offset)
            })
        });
        let forgotten = request.forgotten_topics_data.iter().flat_map(|topic| {
            topic.partitions.iter().map(|&partition| (topic.topic.as_str().to_owned(), partition))
        });
        (request.session_id, request.session_epoch, named.collect(), forgotten.collect())
    }

    fn answer(
        api_version: i16,
        session_id: i32,
        partitions: Vec<(&str, i32, ErrorCode, Vec<Bytes>)>,
    ) -> Vec<u8> {
        let topics = partitions
            .into_iter()
            .map(|(topic, index, error_code, records)| fetch::FetchTopic {
                name: kafka_string(topic),
                topic_id: types::TopicId([0; 16]),
                partitions: vec![fetch::FetchPartition {
                    index,
                    error_code,
                    high_watermark: types::Offset(99),
                    last_stable_offset: types::Offset(99),
                    log_start_offset: types::Offset(0),
                    aborted_transactions: Some(vec![fetch::AbortedTransaction {
                        producer_id: 1,
                        first_offset: types::Offset(2),
                    }]),
                    preferred_read_replica: None,
                    diverging_epoch: None,
                    current_leader: None,
                    records,
                }],
            })
            .collect();
        let response = fetch::FetchResponse {
            throttle_time_ms: 0,
            error_code: ErrorCode::None,
            session_id,
            topics,
            node_endpoints: Vec::new(),
        };
        let slices = fetch::encode_fetch_response(api_version, 1, &response).unwrap();
        slices.iter().flat_map(|slice| slice.to_vec()).skip(4).collect()
    }

    fn batch_at(base_offset: i64, records: usize) -> Bytes {
        let template = Template::new(100, records, 0);
        let mut batch = template.stamped(crate::frames::Stamp { run: 1, scheduled_ns: 2 }).to_vec();
        batch[..8].copy_from_slice(&base_offset.to_be_bytes());
        batch.into()
    }

    #[test]
    fn a_session_names_what_changed_and_forgets_what_is_done() {
        for api_version in FETCH_VERSIONS {
            let mut session = session(api_version);
            let all = vec![("one".to_owned(), 0, 10), ("one".to_owned(), 3, 0), ("two".to_owned(), 0, 5)];
            assert_eq!(asked(&mut session), (0, 0, all, vec![]));

            let cut = batch_at(13, 1).slice(..100);
            let frame = answer(
                api_version,
                42,
                vec![
                    ("one", 0, ErrorCode::None, vec![batch_at(10, 1), batch_at(11, 2), cut]),
                    ("one", 3, ErrorCode::None, vec![batch_at(0, 2)]),
                    ("two", 0, ErrorCode::NotLeaderOrFollower, vec![]),
                ],
            );
            let (mut batches, mut errors) = (Vec::new(), Vec::new());
            session
                .accept(
                    &frame,
                    |header, batch| batches.push((header.base_offset.0, header.record_count, batch.len())),
                    |code| errors.push(code),
                )
                .unwrap();
            let sizes = [1, 2].map(|records| Template::new(100, records, 0).batch_bytes());
            assert_eq!(batches, [(10, 1, sizes[0]), (11, 2, sizes[1]), (0, 2, sizes[1])]);
            assert_eq!(errors, [6]);

            assert_eq!(
                asked(&mut session),
                (42, 1, vec![("one".to_owned(), 0, 13)], vec![("one".to_owned(), 3)]),
            );
            let frame = answer(api_version, 42, vec![("one", 0, ErrorCode::None, vec![batch_at(13, 1)])]);
            session.accept(&frame, |_, _| {}, |code| panic!("{code}")).unwrap();
            assert_eq!(asked(&mut session), (42, 2, vec![], vec![("one".to_owned(), 0)]));
            assert!(!session.is_done(), "one partition is read for ever");
        }
    }

    #[test]
    fn a_broker_without_sessions_is_told_everything() {
        let mut session = session(12);
        asked(&mut session);
        let frame = answer(12, 0, vec![("one", 3, ErrorCode::None, vec![batch_at(0, 2)])]);
        session.accept(&frame, |_, _| {}, |code| panic!("{code}")).unwrap();
        let rest = vec![("one".to_owned(), 0, 10), ("two".to_owned(), 0, 5)];
        assert_eq!(asked(&mut session), (0, 0, rest, vec![]));
    }

    #[test]
    fn a_restart_opens_a_new_session_in_place_of_the_old() {
        let mut session = session(12);
        asked(&mut session);
        let frame = answer(12, 42, vec![("one", 3, ErrorCode::None, vec![batch_at(0, 2)])]);
        session.accept(&frame, |_, _| {}, |code| panic!("{code}")).unwrap();
        session.restart([10, 0, 5].into_iter());
        let all = vec![("one".to_owned(), 0, 10), ("one".to_owned(), 3, 0), ("two".to_owned(), 0, 5)];
        assert_eq!(asked(&mut session), (42, 0, all, vec![]));
    }

    #[test]
    fn malformed_responses_are_errors() {
        for api_version in [7, 11, 12] {
            let whole = answer(api_version, 42, vec![("one", 0, ErrorCode::None, vec![batch_at(10, 1)])]);
            for length in 0..whole.len() {
                let result = session(api_version).accept(&whole[..length], |_, _| {}, |_| {});
                // The last byte of the newest version is that of the response's own tagged fields.
                assert!(result.is_err() || length + 1 == whole.len(), "{length} of {}", whole.len());
            }
            let unknown = answer(api_version, 42, vec![("one", 1, ErrorCode::None, vec![])]);
            assert!(session(api_version).accept(&unknown, |_, _| {}, |_| {}).is_err());
            let cut = batch_at(10, 1).slice(..80);
            let nothing_whole = answer(api_version, 42, vec![("one", 0, ErrorCode::None, vec![cut])]);
            assert!(session(api_version).accept(&nothing_whole, |_, _| {}, |_| {}).is_err());
        }
    }
}
