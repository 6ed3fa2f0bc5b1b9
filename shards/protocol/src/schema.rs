//! The shape of every request but Produce, and a walk that checks a body against it before it is decoded.
//!
//! The generated decoder reserves room for as many tagged fields as a section claims, up to one for each byte
//! that is left: forty times the frame. It also takes null for an empty array, and any number of elements. So a
//! body is first walked without reserving anything; what passes can be decoded in memory that
//! [`REQUEST_ELEMENTS_MAX`] bounds. That both agree on the shape is a test below.

use bytes::Buf;

use crate::{
    api::ApiKey,
    error::DecodeError,
    frame::REQUEST_ELEMENTS_MAX,
    wire::{read_array_len, read_bytes_len, read_i8, read_string_len, skip_tagged_fields},
};

/// A field and the versions that have it.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    kind: Kind,
    since: i16,
    until: i16,
    nullable_since: Option<i16>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// So many bytes.
    Fixed(usize),
    String,
    Bytes,
    /// An array of strings, or of integers of so many bytes.
    Array(&'static Kind),
    Structs(&'static [Field]),
    /// One byte that tells whether a struct follows.
    NullableStruct(&'static [Field]),
    /// A tagged field that holds a struct. Those that hold less need no row, because their size bounds them.
    TaggedStruct(u32, &'static [Field]),
}

impl Field {
    const fn new(kind: Kind) -> Field {
        Field { kind, since: 0, until: i16::MAX, nullable_since: None }
    }

    const fn since(self, since: i16) -> Field {
        Field { since, ..self }
    }

    const fn until(self, until: i16) -> Field {
        Field { until, ..self }
    }

    const fn nullable(self) -> Field {
        self.nullable_since(0)
    }

    const fn nullable_since(self, version: i16) -> Field {
        Field { nullable_since: Some(version), ..self }
    }

    const fn exists_in(&self, version: i16) -> bool {
        self.since <= version && version <= self.until
    }

    const fn is_nullable_in(&self, version: i16) -> bool {
        match self.nullable_since {
            Some(since) => version >= since,
            None => false,
        }
    }
}

const INT8: Field = Field::new(Kind::Fixed(1));
const INT16: Field = Field::new(Kind::Fixed(2));
const INT32: Field = Field::new(Kind::Fixed(4));
const INT64: Field = Field::new(Kind::Fixed(8));
const UUID: Field = Field::new(Kind::Fixed(16));
const STRING: Field = Field::new(Kind::String);
const BYTES: Field = Field::new(Kind::Bytes);
const INT8S: Field = Field::new(Kind::Array(&Kind::Fixed(1)));
const INT32S: Field = Field::new(Kind::Array(&Kind::Fixed(4)));
const STRINGS: Field = Field::new(Kind::Array(&Kind::String));

const fn structs(fields: &'static [Field]) -> Field {
    Field::new(Kind::Structs(fields))
}

const FETCH_PARTITION: &[Field] = &[INT32, INT32.since(9), INT64, INT32.since(12), INT64.since(5), INT32];
const FETCH: &[Field] = &[
    INT32.until(14),
    INT32,
    INT32,
    INT32,
    INT8,
    INT32.since(7),
    INT32.since(7),
    structs(&[STRING.until(12), UUID.since(13), structs(FETCH_PARTITION)]),
    structs(&[STRING.until(12), UUID.since(13), INT32S]).since(7),
    STRING.since(11),
    Field::new(Kind::TaggedStruct(1, &[INT32, INT64])).since(15),
];
const LIST_OFFSETS: &[Field] =
    &[INT32, INT8.since(2), structs(&[STRING, structs(&[INT32, INT32.since(4), INT64])]), INT32.since(10)];
const METADATA: &[Field] = &[
    structs(&[UUID.since(10), STRING.nullable_since(10)]).nullable_since(1),
    INT8.since(4),
    INT8.since(8).until(10),
    INT8.since(8),
];
const OFFSET_COMMIT: &[Field] = &[
    STRING,
    INT32,
    STRING,
    STRING.since(7).nullable(),
    INT64.until(4),
    structs(&[STRING.until(9), UUID.since(10), structs(&[INT32, INT64, INT32.since(6), STRING.nullable()])]),
];
const OFFSET_FETCH: &[Field] = &[
    STRING.until(7),
    structs(&[STRING, INT32S]).until(7).nullable_since(2),
    structs(&[
        STRING,
        STRING.since(9).nullable(),
        INT32.since(9),
        structs(&[STRING.until(9), UUID.since(10), INT32S]).nullable(),
    ])
    .since(8),
    INT8.since(7),
];
const FIND_COORDINATOR: &[Field] = &[STRING.until(3), INT8.since(1), STRINGS.since(4)];
const JOIN_GROUP: &[Field] = &[
    STRING,
    INT32,
    INT32.since(1),
    STRING,
    STRING.since(5).nullable(),
    STRING,
    structs(&[STRING, BYTES]),
    STRING.since(8).nullable(),
];
const HEARTBEAT: &[Field] = &[STRING, INT32, STRING, STRING.since(3).nullable()];
const LEAVE_GROUP: &[Field] =
    &[STRING, STRING.until(2), structs(&[STRING, STRING.nullable(), STRING.since(5).nullable()]).since(3)];
const SYNC_GROUP: &[Field] = &[
    STRING,
    INT32,
    STRING,
    STRING.since(3).nullable(),
    STRING.since(5).nullable(),
    STRING.since(5).nullable(),
    structs(&[STRING, BYTES]),
];
const DESCRIBE_GROUPS: &[Field] = &[STRINGS, INT8.since(3)];
const LIST_GROUPS: &[Field] = &[STRINGS.since(4), STRINGS.since(5)];
const SASL_HANDSHAKE: &[Field] = &[STRING];
const API_VERSIONS: &[Field] = &[STRING.since(3), STRING.since(3)];
const NAMES_AND_VALUES: &[Field] = &[STRING, STRING.nullable()];
const CREATE_TOPICS: &[Field] =
    &[structs(&[STRING, INT32, INT16, structs(&[INT32, INT32S]), structs(NAMES_AND_VALUES)]), INT32, INT8];
const DELETE_TOPICS: &[Field] = &[structs(&[STRING.nullable(), UUID]).since(6), STRINGS.until(5), INT32];
const DELETE_RECORDS: &[Field] = &[structs(&[STRING, structs(&[INT32, INT64])]), INT32];
const INIT_PRODUCER_ID: &[Field] = &[STRING.nullable(), INT32, INT64.since(3), INT16.since(3)];
const OFFSET_FOR_LEADER_EPOCH: &[Field] =
    &[INT32.since(3), structs(&[STRING, structs(&[INT32, INT32, INT32])])];
const DESCRIBE_CONFIGS: &[Field] = &[structs(&[INT8, STRING, STRINGS.nullable()]), INT8, INT8.since(3)];
const ALTER_CONFIGS: &[Field] = &[structs(&[INT8, STRING, structs(NAMES_AND_VALUES)]), INT8];
const DESCRIBE_LOG_DIRS: &[Field] = &[structs(&[STRING, INT32S]).nullable()];
const CREATE_PARTITIONS: &[Field] = &[structs(&[STRING, INT32, structs(&[INT32S]).nullable()]), INT32, INT8];
const DELETE_GROUPS: &[Field] = &[STRINGS];
const ELECT_LEADERS: &[Field] = &[INT8.since(1), structs(&[STRING, INT32S]).nullable(), INT32];
const INCREMENTAL_ALTER_CONFIGS: &[Field] =
    &[structs(&[INT8, STRING, structs(&[STRING, INT8, STRING.nullable()])]), INT8];
const OFFSET_DELETE: &[Field] = &[STRING, structs(&[STRING, structs(&[INT32])])];
const DESCRIBE_CLUSTER: &[Field] = &[INT8, INT8.since(1), INT8.since(2)];
const DESCRIBE_PRODUCERS: &[Field] = &[structs(&[STRING, INT32S])];
const LIST_CONFIG_RESOURCES: &[Field] = &[INT8S.since(1)];
const DESCRIBE_TOPIC_PARTITIONS: &[Field] =
    &[structs(&[STRING]), INT32, Field::new(Kind::NullableStruct(&[STRING, INT32]))];
const ALTER_PARTITION_REASSIGNMENTS: &[Field] =
    &[INT32, INT8.since(1), structs(&[STRING, structs(&[INT32, INT32S.nullable()])])];
const LIST_PARTITION_REASSIGNMENTS: &[Field] = &[INT32, structs(&[STRING, INT32S]).nullable()];
const DESCRIBE_QUORUM: &[Field] = &[structs(&[STRING, structs(&[INT32])])];
const UNREGISTER_BROKER: &[Field] = &[INT32];
const ADD_RAFT_VOTER: &[Field] =
    &[STRING.nullable(), INT32, INT32, UUID, structs(&[STRING, STRING, INT16]), INT8.since(1)];
const REMOVE_RAFT_VOTER: &[Field] = &[STRING.nullable(), INT32, UUID];

/// The fields of a request; `None` for those that are not decoded by way of this table.
fn request_fields(key: ApiKey) -> Option<&'static [Field]> {
    Some(match key {
        ApiKey::Fetch => FETCH,
        ApiKey::ListOffsets => LIST_OFFSETS,
        ApiKey::Metadata => METADATA,
        ApiKey::OffsetCommit => OFFSET_COMMIT,
        ApiKey::OffsetFetch => OFFSET_FETCH,
        ApiKey::FindCoordinator => FIND_COORDINATOR,
        ApiKey::JoinGroup => JOIN_GROUP,
        ApiKey::Heartbeat => HEARTBEAT,
        ApiKey::LeaveGroup => LEAVE_GROUP,
        ApiKey::SyncGroup => SYNC_GROUP,
        ApiKey::DescribeGroups => DESCRIBE_GROUPS,
        ApiKey::ListGroups => LIST_GROUPS,
        ApiKey::SaslHandshake => SASL_HANDSHAKE,
        ApiKey::ApiVersions => API_VERSIONS,
        ApiKey::CreateTopics => CREATE_TOPICS,
        ApiKey::DeleteTopics => DELETE_TOPICS,
        ApiKey::DeleteRecords => DELETE_RECORDS,
        ApiKey::InitProducerId => INIT_PRODUCER_ID,
        ApiKey::OffsetForLeaderEpoch => OFFSET_FOR_LEADER_EPOCH,
        ApiKey::DescribeConfigs => DESCRIBE_CONFIGS,
        ApiKey::AlterConfigs => ALTER_CONFIGS,
        ApiKey::DescribeLogDirs => DESCRIBE_LOG_DIRS,
        ApiKey::CreatePartitions => CREATE_PARTITIONS,
        ApiKey::DeleteGroups => DELETE_GROUPS,
        ApiKey::ElectLeaders => ELECT_LEADERS,
        ApiKey::IncrementalAlterConfigs => INCREMENTAL_ALTER_CONFIGS,
        ApiKey::OffsetDelete => OFFSET_DELETE,
        ApiKey::DescribeCluster => DESCRIBE_CLUSTER,
        ApiKey::DescribeProducers => DESCRIBE_PRODUCERS,
        ApiKey::ListConfigResources => LIST_CONFIG_RESOURCES,
        ApiKey::DescribeTopicPartitions => DESCRIBE_TOPIC_PARTITIONS,
        ApiKey::AlterPartitionReassignments => ALTER_PARTITION_REASSIGNMENTS,
        ApiKey::ListPartitionReassignments => LIST_PARTITION_REASSIGNMENTS,
        ApiKey::DescribeQuorum => DESCRIBE_QUORUM,
        ApiKey::UnregisterBroker => UNREGISTER_BROKER,
        ApiKey::AddRaftVoter => ADD_RAFT_VOTER,
        ApiKey::RemoveRaftVoter => REMOVE_RAFT_VOTER,
        _ => return None,
    })
}

/// Checks that `body` begins with the shape of the request and holds a bounded number of elements.
pub fn check_request(key: ApiKey, version: i16, mut body: &[u8]) -> Result<(), DecodeError> {
    let fields = request_fields(key).ok_or(DecodeError::UnsupportedApi { api_key: key.wire() })?;
    let mut walk = Walk { version, flexible: key.is_flexible(version), elements: 0 };
    walk.fields(&mut body, fields)
}

struct Walk {
    version: i16,
    flexible: bool,
    elements: usize,
}

impl Walk {
    fn fields(&mut self, buf: &mut &[u8], fields: &[Field]) -> Result<(), DecodeError> {
        let version = self.version;
        for field in fields.iter().filter(|field| field.exists_in(version)) {
            self.value(buf, field.kind, field.is_nullable_in(version))?;
        }
        if self.flexible { self.tagged_fields(buf, fields) } else { Ok(()) }
    }

    fn value(&mut self, buf: &mut &[u8], kind: Kind, nullable: bool) -> Result<(), DecodeError> {
        match kind {
            Kind::Fixed(bytes) => skip(buf, bytes),
            Kind::String => {
                let len = read_string_len(buf, self.flexible)?;
                skip(buf, null_allowed(len, nullable)?)
            }
            Kind::Bytes => {
                let len = read_bytes_len(buf, self.flexible)?;
                skip(buf, null_allowed(len, nullable)?)
            }
            Kind::Array(&element) => {
                for _ in 0..self.element_count(buf, nullable)? {
                    self.value(buf, element, false)?;
                }
                Ok(())
            }
            Kind::Structs(fields) => {
                for _ in 0..self.element_count(buf, nullable)? {
                    self.fields(buf, fields)?;
                }
                Ok(())
            }
            Kind::NullableStruct(fields) => {
                if read_i8(buf)? < 0 {
                    Ok(())
                } else {
                    self.fields(buf, fields)
                }
            }
            Kind::TaggedStruct(..) => Ok(()),
        }
    }

    /// Bounds the loops over elements too: every element that this lets pass takes at least a byte, or fails.
    fn element_count(&mut self, buf: &mut &[u8], nullable: bool) -> Result<usize, DecodeError> {
        let count = null_allowed(read_array_len(buf, self.flexible)?, nullable)?;
        if count > buf.len() {
            return Err(DecodeError::Truncated);
        }
        self.elements = self.elements.saturating_add(count);
        if self.elements > REQUEST_ELEMENTS_MAX { Err(DecodeError::TooManyElements) } else { Ok(count) }
    }

    fn tagged_fields(&mut self, buf: &mut &[u8], fields: &[Field]) -> Result<(), DecodeError> {
        skip_tagged_fields(buf, |tag, mut content| {
            self.elements += 1;
            if self.elements > REQUEST_ELEMENTS_MAX {
                return Err(DecodeError::TooManyElements);
            }
            let version = self.version;
            for field in fields.iter().filter(|field| field.exists_in(version)) {
                if let Kind::TaggedStruct(known, fields) = field.kind
                    && known == tag
                {
                    self.fields(&mut content, fields)?;
                }
            }
            Ok(())
        })
    }
}

fn null_allowed(len: Option<usize>, nullable: bool) -> Result<usize, DecodeError> {
    match len {
        None if !nullable => Err(DecodeError::InvalidLength),
        len => Ok(len.unwrap_or(0)),
    }
}

fn skip(buf: &mut &[u8], bytes: usize) -> Result<(), DecodeError> {
    if bytes > buf.len() {
        return Err(DecodeError::Truncated);
    }
    buf.advance(bytes);
    Ok(())
}

#[cfg(test)]
pub use generate::generate_request;

/// Bodies made from the table, which the tests of [`crate::frame`] hold against the generated decoder.
#[cfg(test)]
mod generate {
    use super::*;
    use crate::wire::write_unsigned_varint;

    /// A well-formed body of a request, different for different entropy.
    pub fn generate_request(key: ApiKey, version: i16, entropy: &[u8]) -> Vec<u8> {
        let mut generator =
            Generator { version, flexible: key.is_flexible(version), entropy, body: Vec::new(), elements: 0 };
        generator.fields(request_fields(key).unwrap());
        generator.body
    }

    struct Generator<'a> {
        version: i16,
        flexible: bool,
        entropy: &'a [u8],
        body: Vec<u8>,
        elements: usize,
    }

    impl Generator<'_> {
        /// A number below 128; 0 once the entropy is used up.
        fn draw(&mut self) -> u8 {
            self.entropy.split_off_first().copied().unwrap_or(0) & 0x7f
        }

        fn fields(&mut self, fields: &[Field]) {
            let version = self.version;
            for field in fields.iter().filter(|field| field.exists_in(version)) {
                self.value(field.kind, field.is_nullable_in(version));
            }
            if self.flexible {
                self.tagged_fields(fields);
            }
        }

        fn value(&mut self, kind: Kind, nullable: bool) {
            let null = nullable && self.draw() & 3 == 1;
            match kind {
                // Booleans are decoded to 0 or 1 and would not come back otherwise.
                Kind::Fixed(1) => {
                    let bit = self.draw() & 1;
                    self.body.push(bit);
                }
                Kind::Fixed(bytes) => self.bytes(bytes),
                Kind::String if null && !self.flexible => self.body.extend_from_slice(&[0xff; 2]),
                _ if null => self.null(),
                Kind::String => {
                    let len = usize::from(self.draw() & 7);
                    if self.flexible {
                        self.body.push(len as u8 + 1);
                    } else {
                        self.body.extend_from_slice(&(len as i16).to_be_bytes());
                    }
                    self.bytes(len);
                }
                Kind::Bytes => {
                    let len = usize::from(self.draw());
                    self.len(len);
                    self.bytes(len);
                }
                Kind::Array(&element) => {
                    for _ in 0..self.element_count() {
                        self.value(element, false);
                    }
                }
                Kind::Structs(fields) => {
                    for _ in 0..self.element_count() {
                        self.fields(fields);
                    }
                }
                Kind::NullableStruct(fields) => {
                    if self.draw() & 1 == 0 {
                        self.body.push(0xff);
                    } else {
                        self.body.push(1);
                        self.fields(fields);
                    }
                }
                Kind::TaggedStruct(..) => {}
            }
        }

        fn bytes(&mut self, count: usize) {
            for _ in 0..count {
                let byte = self.draw();
                self.body.push(byte);
            }
        }

        fn null(&mut self) {
            self.body.extend_from_slice(if self.flexible { &[0] } else { &[0xff; 4] });
        }

        fn len(&mut self, len: usize) {
            if self.flexible {
                write_unsigned_varint(&mut self.body, len as u32 + 1);
            } else {
                self.body.extend_from_slice(&(len as i32).to_be_bytes());
            }
        }

        fn element_count(&mut self) -> usize {
            let count = if self.elements < 50 { usize::from(self.draw() & 3) } else { 0 };
            self.elements += count;
            self.len(count);
            count
        }

        fn tagged_fields(&mut self, fields: &[Field]) {
            let version = self.version;
            let known =
                fields.iter().filter(|field| field.exists_in(version)).find_map(|field| match field.kind {
                    Kind::TaggedStruct(tag, fields) => Some((tag, fields)),
                    _ => None,
                });
            let unknown_count = u32::from(self.draw() & 7 == 1);
            write_unsigned_varint(&mut self.body, unknown_count + u32::from(known.is_some()));
            if let Some((tag, fields)) = known {
                let body = std::mem::take(&mut self.body);
                self.fields(fields);
                let content = std::mem::replace(&mut self.body, body);
                write_unsigned_varint(&mut self.body, tag);
                write_unsigned_varint(&mut self.body, content.len() as u32);
                self.body.extend_from_slice(&content);
            }
            for _ in 0..unknown_count {
                write_unsigned_varint(&mut self.body, 1_000);
                write_unsigned_varint(&mut self.body, 3);
                self.bytes(3);
            }
        }
    }
}
