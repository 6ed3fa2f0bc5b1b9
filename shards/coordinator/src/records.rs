//! Keys and values of `__consumer_offsets`: Kafka's OffsetCommitKey v0-v1, OffsetCommitValue v0-v4,
//! GroupMetadataKey v2 and GroupMetadataValue v0-v4.
//!
//! Written are the highest versions that are not flexible, as Kafka does, so that its tools and
//! older releases read them.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::api::RECORD_FRAME_BYTES_MAX;
use crate::{CoordinatorRecord, ReplayError};

const OFFSET_KEY_TYPE_LEGACY: i16 = 0;
const OFFSET_KEY_TYPE: i16 = 1;
const GROUP_KEY_TYPE: i16 = 2;
const OFFSET_VALUE_VERSION: i16 = 3;
/// The only version that has an expiry of its own.
const OFFSET_VALUE_VERSION_EXPIRING: i16 = 1;
const OFFSET_VALUE_VERSION_MAX: i16 = 4;
const GROUP_VALUE_VERSION: i16 = 3;
const GROUP_VALUE_VERSION_MAX: i16 = 4;
const FIRST_FLEXIBLE_VERSION: i16 = 4;

/// The longest string that these schemas hold, in bytes. Handlers refuse longer ones.
pub(crate) const STRING_BYTES_MAX: usize = i16::MAX as usize;

/// Bytes of an offset's value beside its metadata: version, offset, expiry, length of the metadata, time of the commit.
/// Without an expiry there is a shorter leader epoch in its place.
const OFFSET_VALUE_BYTES_MAX: usize = 2 + 8 + 8 + 2 + 8;

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RecordKey {
    Offset(OffsetKey),
    Group(Arc<str>),
}

/// One committed offset's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OffsetKey {
    pub group: Arc<str>,
    pub topic: Arc<str>,
    pub partition: i32,
}

/// One committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OffsetValue {
    pub offset: i64,
    /// -1 when the client did not say.
    pub leader_epoch: i32,
    pub metadata: Arc<str>,
    pub commit_timestamp_ms: i64,
    /// Set by OffsetCommit v2-v4 with a retention time.
    pub expire_timestamp_ms: Option<i64>,
}

/// A group as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupValue {
    /// Empty when no member ever joined.
    pub protocol_type: Arc<str>,
    pub generation: i32,
    /// Present if there are members.
    pub protocol: Option<Arc<str>>,
    pub leader: Option<Arc<str>>,
    /// When the group entered its state; `None` in records before v2.
    pub state_timestamp_ms: Option<i64>,
    pub members: Vec<MemberValue>,
}

/// A member as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberValue {
    pub member_id: Arc<str>,
    pub group_instance_id: Option<Arc<str>>,
    pub client_id: Arc<str>,
    pub client_host: Arc<str>,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub subscription: Bytes,
    pub assignment: Bytes,
}

/// A decoded record; a value of `None` deletes the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DecodedRecord {
    Offset(OffsetKey, Option<OffsetValue>),
    Group(Arc<str>, Option<GroupValue>),
}

pub(crate) fn offset_record(key: &OffsetKey, value: &OffsetValue) -> CoordinatorRecord {
    let mut out = Writer::default();
    let version = if value.expire_timestamp_ms.is_some() {
        OFFSET_VALUE_VERSION_EXPIRING
    } else {
        OFFSET_VALUE_VERSION
    };
    out.i16(version);
    out.i64(value.offset);
    if version == OFFSET_VALUE_VERSION {
        out.i32(value.leader_epoch);
    }
    out.string(&value.metadata);
    out.i64(value.commit_timestamp_ms);
    if let Some(expire_timestamp_ms) = value.expire_timestamp_ms {
        out.i64(expire_timestamp_ms);
    }
    CoordinatorRecord { key: encode_offset_key(key), value: Some(out.finish()) }
}

pub(crate) fn offset_tombstone(key: &OffsetKey) -> CoordinatorRecord {
    CoordinatorRecord { key: encode_offset_key(key), value: None }
}

pub(crate) fn group_record(group: &str, value: &GroupValue) -> CoordinatorRecord {
    let mut out = Writer::default();
    out.i16(GROUP_VALUE_VERSION);
    out.string(&value.protocol_type);
    out.i32(value.generation);
    out.nullable_string(value.protocol.as_deref());
    out.nullable_string(value.leader.as_deref());
    out.i64(value.state_timestamp_ms.unwrap_or(-1));
    out.i32(i32::try_from(value.members.len()).expect("a group has fewer than 2^31 members"));
    for member in &value.members {
        out.string(&member.member_id);
        out.nullable_string(member.group_instance_id.as_deref());
        out.string(&member.client_id);
        out.string(&member.client_host);
        out.i32(member.rebalance_timeout_ms);
        out.i32(member.session_timeout_ms);
        out.bytes(&member.subscription);
        out.bytes(&member.assignment);
    }
    CoordinatorRecord { key: encode_group_key(group), value: Some(out.finish()) }
}

pub(crate) fn group_tombstone(group: &str) -> CoordinatorRecord {
    CoordinatorRecord { key: encode_group_key(group), value: None }
}

/// Bytes that [`offset_record`] takes in a batch, at most: known before it is made, as each has the group's whole name.
pub(crate) fn offset_record_bytes(group: &str, topic: &str, metadata: &str) -> usize {
    offset_tombstone_bytes(group, topic) + OFFSET_VALUE_BYTES_MAX + metadata.len()
}

/// Bytes that [`offset_tombstone`] takes in a batch, at most.
pub(crate) fn offset_tombstone_bytes(group: &str, topic: &str) -> usize {
    // Type, both names with their lengths, partition.
    RECORD_FRAME_BYTES_MAX + 2 + 2 + group.len() + 2 + topic.len() + 4
}

/// Bytes that [`group_tombstone`] takes in a batch, at most.
pub(crate) fn group_tombstone_bytes(group: &str) -> usize {
    RECORD_FRAME_BYTES_MAX + 2 + 2 + group.len()
}

fn encode_offset_key(key: &OffsetKey) -> Bytes {
    let mut out = Writer::default();
    out.i16(OFFSET_KEY_TYPE);
    out.string(&key.group);
    out.string(&key.topic);
    out.i32(key.partition);
    out.finish()
}

fn encode_group_key(group: &str) -> Bytes {
    let mut out = Writer::default();
    out.i16(GROUP_KEY_TYPE);
    out.string(group);
    out.finish()
}

pub(crate) fn decode_record(record: &CoordinatorRecord) -> Result<DecodedRecord, ReplayError> {
    Ok(match decode_key(&record.key)? {
        RecordKey::Offset(key) => {
            DecodedRecord::Offset(key, record.value.as_deref().map(decode_offset_value).transpose()?)
        }
        RecordKey::Group(group) => {
            DecodedRecord::Group(group, record.value.as_deref().map(decode_group_value).transpose()?)
        }
    })
}

fn decode_key(bytes: &[u8]) -> Result<RecordKey, ReplayError> {
    let mut input = Reader::new("coordinator key", bytes);
    match input.i16()? {
        OFFSET_KEY_TYPE_LEGACY | OFFSET_KEY_TYPE => {
            input.schema = "OffsetCommitKey";
            let key = OffsetKey { group: input.string()?, topic: input.string()?, partition: input.i32()? };
            input.finish()?;
            Ok(RecordKey::Offset(key))
        }
        GROUP_KEY_TYPE => {
            input.schema = "GroupMetadataKey";
            let group = input.string()?;
            input.finish()?;
            Ok(RecordKey::Group(group))
        }
        other => Err(ReplayError::UnknownRecordType(other)),
    }
}

fn decode_offset_value(bytes: &[u8]) -> Result<OffsetValue, ReplayError> {
    let mut input = Reader::new("OffsetCommitValue", bytes);
    let version = input.version(OFFSET_VALUE_VERSION_MAX)?;
    let offset = input.i64()?;
    let leader_epoch = if version >= 3 { input.i32()? } else { -1 };
    let metadata = input.string()?;
    let commit_timestamp_ms = input.i64()?;
    let expire_timestamp_ms = if version == OFFSET_VALUE_VERSION_EXPIRING {
        Some(input.i64()?).filter(|ms| *ms != -1)
    } else {
        None
    };
    input.tagged_fields()?;
    input.finish()?;
    Ok(OffsetValue { offset, leader_epoch, metadata, commit_timestamp_ms, expire_timestamp_ms })
}

fn decode_group_value(bytes: &[u8]) -> Result<GroupValue, ReplayError> {
    let mut input = Reader::new("GroupMetadataValue", bytes);
    let version = input.version(GROUP_VALUE_VERSION_MAX)?;
    let protocol_type = input.string()?;
    let generation = input.i32()?;
    let protocol = input.nullable_string()?;
    let leader = input.nullable_string()?;
    let state_timestamp_ms = if version >= 2 { Some(input.i64()?).filter(|ms| *ms != -1) } else { None };
    let count = input.array_len()?;
    let mut members = Vec::with_capacity(count.min(1_024));
    for _ in 0..count {
        members.push(decode_member(&mut input, version)?);
    }
    input.tagged_fields()?;
    if !members.is_empty() && protocol.is_none() {
        return Err(input.malformed("members without a protocol"));
    }
    if !are_distinct(members.iter().map(|member| &member.member_id))
        || !are_distinct(members.iter().filter_map(|member| member.group_instance_id.as_ref()))
    {
        return Err(input.malformed("a member twice"));
    }
    input.finish()?;
    Ok(GroupValue { protocol_type, generation, protocol, leader, state_timestamp_ms, members })
}

fn are_distinct<'a>(mut ids: impl Iterator<Item = &'a Arc<str>>) -> bool {
    let mut seen = BTreeSet::new();
    ids.all(|id| seen.insert(id))
}

fn decode_member(input: &mut Reader<'_>, version: i16) -> Result<MemberValue, ReplayError> {
    let member_id = input.string()?;
    let group_instance_id = if version >= 3 { input.nullable_string()? } else { None };
    let client_id = input.string()?;
    let client_host = input.string()?;
    let rebalance_timeout_ms = if version >= 1 { input.i32()? } else { -1 };
    let session_timeout_ms = input.i32()?;
    let subscription = input.bytes()?;
    let assignment = input.bytes()?;
    input.tagged_fields()?;
    Ok(MemberValue {
        member_id,
        group_instance_id,
        client_id,
        client_host,
        rebalance_timeout_ms: if rebalance_timeout_ms == -1 {
            session_timeout_ms
        } else {
            rebalance_timeout_ms
        },
        session_timeout_ms,
        subscription,
        assignment,
    })
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn i16(&mut self, value: i16) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    fn i32(&mut self, value: i32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    fn string(&mut self, value: &str) {
        self.i16(i16::try_from(value.len()).expect("handlers refuse strings above STRING_BYTES_MAX"));
        self.0.extend_from_slice(value.as_bytes());
    }

    fn nullable_string(&mut self, value: Option<&str>) {
        match value {
            Some(value) => self.string(value),
            None => self.i16(-1),
        }
    }

    fn bytes(&mut self, value: &[u8]) {
        self.i32(i32::try_from(value.len()).expect("group bytes are bounded below 2^31"));
        self.0.extend_from_slice(value);
    }

    fn finish(self) -> Bytes {
        Bytes::from(self.0)
    }
}

struct Reader<'a> {
    schema: &'static str,
    rest: &'a [u8],
    flexible: bool,
}

impl<'a> Reader<'a> {
    fn new(schema: &'static str, rest: &'a [u8]) -> Self {
        Self { schema, rest, flexible: false }
    }

    fn malformed(&self, reason: &'static str) -> ReplayError {
        ReplayError::Malformed { schema: self.schema, reason }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], ReplayError> {
        let (head, rest) =
            self.rest.split_at_checked(len).ok_or_else(|| self.malformed("it ends too early"))?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReplayError> {
        Ok(self.take(N)?.try_into().expect("take returns the length asked for"))
    }

    fn i16(&mut self) -> Result<i16, ReplayError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32, ReplayError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, ReplayError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    fn version(&mut self, max: i16) -> Result<i16, ReplayError> {
        let version = self.i16()?;
        if !(0..=max).contains(&version) {
            return Err(ReplayError::UnknownValueVersion { schema: self.schema, version });
        }
        self.flexible = version >= FIRST_FLEXIBLE_VERSION;
        Ok(version)
    }

    fn unsigned_varint(&mut self) -> Result<u32, ReplayError> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| self.malformed("a varint exceeds 32 bits"));
            }
        }
        Err(self.malformed("a varint exceeds 32 bits"))
    }

    /// The length before a string (`wide` false) or before bytes and arrays; `None` for null.
    fn length(&mut self, wide: bool) -> Result<Option<usize>, ReplayError> {
        let length = if self.flexible {
            i64::from(self.unsigned_varint()?) - 1
        } else if wide {
            i64::from(self.i32()?)
        } else {
            i64::from(self.i16()?)
        };
        match length {
            -1 => Ok(None),
            _ => usize::try_from(length).map(Some).map_err(|_| self.malformed("a negative length")),
        }
    }

    fn nullable_string(&mut self) -> Result<Option<Arc<str>>, ReplayError> {
        let Some(length) = self.length(false)? else { return Ok(None) };
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.malformed("a string that is not UTF-8"))?;
        Ok(Some(Arc::from(text)))
    }

    fn string(&mut self) -> Result<Arc<str>, ReplayError> {
        self.nullable_string()?.ok_or_else(|| self.malformed("a null where a string must be"))
    }

    /// Copied, so that a member does not keep the whole batch in memory.
    fn bytes(&mut self) -> Result<Bytes, ReplayError> {
        let length = self.length(true)?.ok_or_else(|| self.malformed("a null where bytes must be"))?;
        Ok(Bytes::copy_from_slice(self.take(length)?))
    }

    /// An element takes at least one byte, so a claimed length never reserves more than the rest holds.
    fn array_len(&mut self) -> Result<usize, ReplayError> {
        let length = self.length(true)?.ok_or_else(|| self.malformed("a null where an array must be"))?;
        if length > self.rest.len() {
            return Err(self.malformed("an array longer than the record"));
        }
        Ok(length)
    }

    fn tagged_fields(&mut self) -> Result<(), ReplayError> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.unsigned_varint()? {
            self.unsigned_varint()?;
            let length = self.unsigned_varint()? as usize;
            self.take(length)?;
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), ReplayError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed("bytes after its end")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::batch::{BatchBuilder, BatchOptions, HEADER_BYTES};

    use super::*;

    fn key() -> OffsetKey {
        OffsetKey { group: Arc::from("g"), topic: Arc::from("t1"), partition: 7 }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Each of them, as it is counted beforehand, once made, and in a batch.
    #[test]
    fn records_take_no_more_than_was_counted_before_they_were_made() {
        for length in [0, 1, 63, 64, 5_000, STRING_BYTES_MAX] {
            let text: Arc<str> = Arc::from("x".repeat(length));
            let key = OffsetKey { group: text.clone(), topic: text.clone(), partition: i32::MAX };
            let value = |expire_timestamp_ms| OffsetValue {
                offset: i64::MAX,
                leader_epoch: i32::MAX,
                metadata: text.clone(),
                commit_timestamp_ms: i64::MAX,
                expire_timestamp_ms,
            };
            for (counted, record) in [
                (offset_record_bytes(&text, &text, &text), offset_record(&key, &value(None))),
                (offset_record_bytes(&text, &text, &text), offset_record(&key, &value(Some(1)))),
                (offset_tombstone_bytes(&text, &text), offset_tombstone(&key)),
                (group_tombstone_bytes(&text), group_tombstone(&text)),
            ] {
                let made = record.batch_bytes_max();
                assert!(made <= counted, "{made} bytes, not {counted}");
                let mut builder = BatchBuilder::new(BatchOptions::default());
                builder.append_at(i32::MAX, i64::MAX, Some(&record.key), record.value.as_deref(), &[]);
                let written = builder.size_in_bytes() - HEADER_BYTES;
                assert!(written <= made, "{written} bytes, not {made}");
            }
        }
    }

    #[test]
    fn an_offset_is_written_as_key_1_and_value_3() {
        let value = OffsetValue {
            offset: 0x0102,
            leader_epoch: 3,
            metadata: Arc::from("m"),
            commit_timestamp_ms: 0x0a,
            expire_timestamp_ms: None,
        };
        let record = offset_record(&key(), &value);
        assert_eq!(hex(&record.key), "0001000167000274310000000".to_owned() + "7");
        let bytes = hex(record.value.as_ref().expect("a value"));
        assert_eq!(bytes, "0003000000000000010200000003".to_owned() + "00016d" + "000000000000000a");
        assert_eq!(decode_record(&record), Ok(DecodedRecord::Offset(key(), Some(value))));
    }

    #[test]
    fn an_offset_with_an_expiry_of_its_own_is_written_as_value_1() {
        let value = OffsetValue {
            offset: 5,
            leader_epoch: -1,
            metadata: Arc::from(""),
            commit_timestamp_ms: 1,
            expire_timestamp_ms: Some(2),
        };
        let record = offset_record(&key(), &value);
        let bytes = hex(record.value.as_ref().expect("a value"));
        assert_eq!(
            bytes,
            "00010000000000000005".to_owned() + "0000" + "0000000000000001" + "0000000000000002"
        );
        assert_eq!(decode_record(&record), Ok(DecodedRecord::Offset(key(), Some(value))));
    }

    #[test]
    fn flexible_versions_are_read() {
        // OffsetCommitValue v4 with one tagged field (a topic id), which is skipped.
        let mut bytes = vec![0, 4];
        bytes.extend_from_slice(&9i64.to_be_bytes());
        bytes.extend_from_slice(&2i32.to_be_bytes());
        bytes.extend_from_slice(&[2, b'm']);
        bytes.extend_from_slice(&11i64.to_be_bytes());
        bytes.extend_from_slice(&[1, 0, 16]);
        bytes.extend_from_slice(&[0xee; 16]);
        let value = decode_offset_value(&bytes).expect("a valid value");
        assert_eq!((value.offset, value.leader_epoch, &*value.metadata), (9, 2, "m"));
        assert_eq!((value.commit_timestamp_ms, value.expire_timestamp_ms), (11, None));

        // GroupMetadataValue v4 with one member.
        let mut bytes = vec![0, 4, 2, b'c', 0, 0, 0, 5, 2, b'r', 2, b'm'];
        bytes.extend_from_slice(&77i64.to_be_bytes());
        bytes.extend_from_slice(&[2, 2, b'm', 0, 2, b'i', 2, b'h']);
        bytes.extend_from_slice(&100i32.to_be_bytes());
        bytes.extend_from_slice(&200i32.to_be_bytes());
        bytes.extend_from_slice(&[2, b's', 2, b'a', 0, 0]);
        let value = decode_group_value(&bytes).expect("a valid value");
        assert_eq!((value.generation, value.state_timestamp_ms), (5, Some(77)));
        let member = &value.members[0];
        assert_eq!((&*member.member_id, member.group_instance_id.as_deref()), ("m", None));
        assert_eq!((member.rebalance_timeout_ms, member.session_timeout_ms), (100, 200));
        assert_eq!((&*member.subscription, &*member.assignment), (&b"s"[..], &b"a"[..]));
    }

    #[test]
    fn old_versions_are_read() {
        let mut bytes = vec![0, 0, 0, 1, b'c', 0, 0, 0, 5, 0, 1, b'r', 0, 1, b'm'];
        bytes.extend_from_slice(&[0, 0, 0, 1, 0, 1, b'm', 0, 1, b'i', 0, 1, b'h']);
        bytes.extend_from_slice(&200i32.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 1, b's', 0, 0, 0, 1, b'a']);
        let value = decode_group_value(&bytes).expect("a valid value");
        assert_eq!(value.state_timestamp_ms, None);
        assert_eq!(value.members[0].rebalance_timeout_ms, 200, "version 0 has only the session timeout");
        let legacy_key = [0, 0, 0, 1, b'g', 0, 1, b't', 0, 0, 0, 1];
        assert!(matches!(decode_key(&legacy_key), Ok(RecordKey::Offset(_))));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let decode = |key: &[u8], value: Option<&[u8]>| {
            decode_record(&CoordinatorRecord {
                key: Bytes::copy_from_slice(key),
                value: value.map(Bytes::copy_from_slice),
            })
        };
        assert_eq!(decode(&[0, 3, 0, 1, b'g'], None), Err(ReplayError::UnknownRecordType(3)));
        assert_eq!(
            decode(&[0, 2, 0, 1, b'g'], Some(&[0, 5])),
            Err(ReplayError::UnknownValueVersion { schema: "GroupMetadataValue", version: 5 })
        );
        let malformed = |key: &[u8], value: Option<&[u8]>| match decode(key, value) {
            Err(ReplayError::Malformed { schema, reason }) => format!("{schema}: {reason}"),
            other => panic!("{other:?}"),
        };
        assert_eq!(malformed(&[0], None), "coordinator key: it ends too early");
        assert_eq!(malformed(&[0, 2, 0, 1, b'g', 0], None), "GroupMetadataKey: bytes after its end");
        assert_eq!(malformed(&[0, 2, 0, 1, 0xff], None), "GroupMetadataKey: a string that is not UTF-8");
        let mut huge = vec![0, 3, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
        huge.extend_from_slice(&i32::MAX.to_be_bytes());
        assert_eq!(
            malformed(&[0, 2, 0, 1, b'g'], Some(&huge)),
            "GroupMetadataValue: an array longer than the record"
        );
    }

    prop_compose! {
        fn text()(text in "[a-zA-Z0-9äß-]{0,12}") -> Arc<str> { Arc::from(text) }
    }

    prop_compose! {
        fn member()(
            group_instance_id in prop::option::of(text()), client_id in text(), client_host in text(),
            rebalance_timeout_ms in 0i32.., session_timeout_ms: i32,
            subscription in prop::collection::vec(any::<u8>(), 0..20),
            assignment in prop::collection::vec(any::<u8>(), 0..20),
        ) -> MemberValue {
            MemberValue {
                member_id: Arc::from(""), group_instance_id, client_id, client_host, rebalance_timeout_ms,
                session_timeout_ms, subscription: Bytes::from(subscription), assignment: Bytes::from(assignment),
            }
        }
    }

    prop_compose! {
        fn group()(
            protocol_type in text(), generation: i32, protocol in text(), leader in prop::option::of(text()),
            state_timestamp_ms in prop::option::of(0i64..), mut members in prop::collection::vec(member(), 0..5),
        ) -> GroupValue {
            for (index, member) in members.iter_mut().enumerate() {
                member.member_id = Arc::from(format!("m{index}"));
                let instance = member.group_instance_id.take();
                member.group_instance_id = instance.map(|id| Arc::from(format!("{id}{index}")));
            }
            GroupValue { protocol_type, generation, protocol: Some(protocol), leader, state_timestamp_ms, members }
        }
    }

    proptest! {
        #[test]
        fn groups_round_trip(id in text(), value in group()) {
            let record = group_record(&id, &value);
            prop_assert_eq!(decode_record(&record), Ok(DecodedRecord::Group(id.clone(), Some(value))));
            prop_assert_eq!(decode_record(&group_tombstone(&id)), Ok(DecodedRecord::Group(id, None)));
        }

        #[test]
        fn a_shortened_value_is_never_taken_for_whole(value in group(), cut: prop::sample::Index) {
            let mut record = group_record("g", &value);
            let whole = record.value.take().expect("a value");
            record.value = Some(whole.slice(..cut.index(whole.len())));
            prop_assert!(decode_record(&record).is_err());
        }

        #[test]
        fn any_bytes_are_refused_or_read(
            key in prop::collection::vec(any::<u8>(), 0..40), value in prop::collection::vec(any::<u8>(), 0..80),
            version in 0i16..6,
        ) {
            let _ = decode_key(&key);
            let mut versioned = version.to_be_bytes().to_vec();
            versioned.extend_from_slice(&value);
            let _ = decode_offset_value(&versioned);
            let _ = decode_group_value(&versioned);
        }
    }
}
