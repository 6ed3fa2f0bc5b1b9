//! Requests and responses as frames: what stands between two length prefixes on a connection.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    api::ApiKey,
    error::{DecodeError, EncodeError},
    messages::{self, KafkaString},
    schema,
    wire::{read_i16, read_i32, read_string_len, skip_tagged_fields},
};

/// Array elements of one request, nested ones included, before it is refused: one request may name all partitions of a
/// cluster, in topics of four or more, or all of half a cluster in a topic each. Clients stay far below: a consumer names
/// the partitions that it reads, tools ask broker by broker, and Kafka takes 10,000 partitions in a CreateTopics. A decoded
/// element takes at most a few hundred bytes.
pub const REQUEST_ELEMENTS_MAX: usize = 250_000;

const _: () = assert!(REQUEST_ELEMENTS_MAX >= types::limits::PARTITIONS_MAX * 5 / 4);

/// What stands before every request (Kafka's RequestHeader, versions 1 and 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The API on the wire, which may be one that we do not know.
    pub api_key: i16,
    /// The version on the wire, which may be one that we do not serve.
    pub api_version: i16,
    /// Repeated in the response.
    pub correlation_id: i32,
    /// The client's name for itself; null is allowed.
    pub client_id: Option<KafkaString>,
}

impl RequestHeader {
    /// The API, where it is served in this version. Produce below
    /// [`PRODUCE_VERSION_MIN`](crate::api::PRODUCE_VERSION_MIN) counts as served.
    ///
    /// # Errors
    ///
    /// [`DecodeError::UnsupportedApi`] or [`DecodeError::UnsupportedVersion`].
    pub fn supported_api(&self) -> Result<ApiKey, DecodeError> {
        let range = ApiKey::from_wire(self.api_key)
            .and_then(ApiKey::range)
            .ok_or(DecodeError::UnsupportedApi { api_key: self.api_key })?;
        if !range.contains(self.api_version) {
            return Err(DecodeError::UnsupportedVersion {
                api_key: self.api_key,
                api_version: self.api_version,
            });
        }
        Ok(range.key)
    }
}

/// Reads the header off the front of a frame (without its length prefix) and leaves the body.
///
/// The shape of the header follows from key and version. For those that we do not serve it is unknown, so that
/// only the first three fields are sure: the client id is then read as far as possible, and the body is emptied.
///
/// # Errors
///
/// When the frame is too short for a header or the header is malformed. An unknown key or version is no error
/// here: its answer needs the correlation id.
pub fn decode_header(frame: &mut BytesMut) -> Result<RequestHeader, DecodeError> {
    let api_key = read_i16(frame)?;
    let api_version = read_i16(frame)?;
    let correlation_id = read_i32(frame)?;
    let mut header = RequestHeader { api_key, api_version, correlation_id, client_id: None };
    let Ok(key) = header.supported_api() else {
        header.client_id = read_client_id(frame).unwrap_or(None);
        frame.clear();
        return Ok(header);
    };
    header.client_id = read_client_id(frame)?;
    if key.is_flexible(api_version) {
        skip_tagged_fields(frame, |_, _| Ok::<_, DecodeError>(()))?;
    }
    Ok(header)
}

fn read_client_id(frame: &mut BytesMut) -> Result<Option<KafkaString>, DecodeError> {
    // The client id keeps its two-byte length in header 2, so that a broker that does not know the version can
    // read it (KIP-482).
    let Some(len) = read_string_len(frame, false)? else { return Ok(None) };
    let bytes = frame.split_to(len).freeze();
    KafkaString::new(bytes).map(Some).map_err(|_| DecodeError::InvalidString)
}

macro_rules! apis {
    ($($name:ident: $request:path, $response:path;)*) => {
        /// A decoded request of any API but Produce, which [`crate::produce::decode_produce`] decodes.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(missing_docs, reason = "the names are Kafka's")]
        pub enum Request {
            Fetch(messages::fetch_request::FetchRequestData),
            $($name($request),)*
        }

        /// A response of any API but Fetch, which [`crate::fetch::encode_fetch_response`] encodes.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(missing_docs, reason = "the names are Kafka's")]
        pub enum Response {
            Produce(messages::produce_response::ProduceResponseData),
            $($name($response),)*
        }

        impl Request {
            /// The API that the request is for.
            pub fn api_key(&self) -> ApiKey {
                match self {
                    Request::Fetch(_) => ApiKey::Fetch,
                    $(Request::$name(_) => ApiKey::$name,)*
                }
            }

            fn read(key: ApiKey, version: i16, body: &mut Bytes) -> Result<Request, DecodeError> {
                Ok(match key {
                    ApiKey::Fetch => {
                        Request::Fetch(messages::fetch_request::FetchRequestData::read(body, version)?)
                    }
                    $(ApiKey::$name => Request::$name(<$request>::read(body, version)?),)*
                    _ => return Err(DecodeError::UnsupportedApi { api_key: key.wire() }),
                })
            }

            pub(crate) fn encoded_len(&self, version: i16) -> kacrab_protocol::Result<usize> {
                match self {
                    Request::Fetch(data) => data.encoded_len(version),
                    $(Request::$name(data) => data.encoded_len(version),)*
                }
            }

            pub(crate) fn write(&self, buf: &mut BytesMut, version: i16) -> kacrab_protocol::Result<()> {
                match self {
                    Request::Fetch(data) => data.write(buf, version),
                    $(Request::$name(data) => data.write(buf, version),)*
                }
            }
        }

        impl Response {
            /// The API that the response is of.
            pub fn api_key(&self) -> ApiKey {
                match self {
                    Response::Produce(_) => ApiKey::Produce,
                    $(Response::$name(_) => ApiKey::$name,)*
                }
            }

            /// The response of an API with every field at its default.
            #[cfg(test)]
            fn default_of(key: ApiKey) -> Option<Response> {
                match key {
                    ApiKey::Produce => Some(Response::Produce(Default::default())),
                    $(ApiKey::$name => Some(Response::$name(Default::default())),)*
                    _ => None,
                }
            }

            pub(crate) fn read(key: ApiKey, version: i16, body: &mut Bytes) -> Result<Response, DecodeError> {
                Ok(match key {
                    ApiKey::Produce => Response::Produce(messages::produce_response::ProduceResponseData::read(
                        body, version,
                    )?),
                    $(ApiKey::$name => Response::$name(<$response>::read(body, version)?),)*
                    _ => return Err(DecodeError::UnsupportedApi { api_key: key.wire() }),
                })
            }

            fn encoded_len(&self, version: i16) -> kacrab_protocol::Result<usize> {
                match self {
                    Response::Produce(data) => data.encoded_len(version),
                    $(Response::$name(data) => data.encoded_len(version),)*
                }
            }

            fn write(&self, buf: &mut BytesMut, version: i16) -> kacrab_protocol::Result<()> {
                match self {
                    Response::Produce(data) => data.write(buf, version),
                    $(Response::$name(data) => data.write(buf, version),)*
                }
            }
        }
    };
}

apis! {
    ListOffsets: messages::list_offsets_request::ListOffsetsRequestData,
        messages::list_offsets_response::ListOffsetsResponseData;
    Metadata: messages::metadata_request::MetadataRequestData,
        messages::metadata_response::MetadataResponseData;
    OffsetCommit: messages::offset_commit_request::OffsetCommitRequestData,
        messages::offset_commit_response::OffsetCommitResponseData;
    OffsetFetch: messages::offset_fetch_request::OffsetFetchRequestData,
        messages::offset_fetch_response::OffsetFetchResponseData;
    FindCoordinator: messages::find_coordinator_request::FindCoordinatorRequestData,
        messages::find_coordinator_response::FindCoordinatorResponseData;
    JoinGroup: messages::join_group_request::JoinGroupRequestData,
        messages::join_group_response::JoinGroupResponseData;
    Heartbeat: messages::heartbeat_request::HeartbeatRequestData,
        messages::heartbeat_response::HeartbeatResponseData;
    LeaveGroup: messages::leave_group_request::LeaveGroupRequestData,
        messages::leave_group_response::LeaveGroupResponseData;
    SyncGroup: messages::sync_group_request::SyncGroupRequestData,
        messages::sync_group_response::SyncGroupResponseData;
    DescribeGroups: messages::describe_groups_request::DescribeGroupsRequestData,
        messages::describe_groups_response::DescribeGroupsResponseData;
    ListGroups: messages::list_groups_request::ListGroupsRequestData,
        messages::list_groups_response::ListGroupsResponseData;
    SaslHandshake: messages::sasl_handshake_request::SaslHandshakeRequestData,
        messages::sasl_handshake_response::SaslHandshakeResponseData;
    ApiVersions: messages::api_versions_request::ApiVersionsRequestData,
        messages::api_versions_response::ApiVersionsResponseData;
    CreateTopics: messages::create_topics_request::CreateTopicsRequestData,
        messages::create_topics_response::CreateTopicsResponseData;
    DeleteTopics: messages::delete_topics_request::DeleteTopicsRequestData,
        messages::delete_topics_response::DeleteTopicsResponseData;
    DeleteRecords: messages::delete_records_request::DeleteRecordsRequestData,
        messages::delete_records_response::DeleteRecordsResponseData;
    InitProducerId: messages::init_producer_id_request::InitProducerIdRequestData,
        messages::init_producer_id_response::InitProducerIdResponseData;
    OffsetForLeaderEpoch: messages::offset_for_leader_epoch_request::OffsetForLeaderEpochRequestData,
        messages::offset_for_leader_epoch_response::OffsetForLeaderEpochResponseData;
    DescribeConfigs: messages::describe_configs_request::DescribeConfigsRequestData,
        messages::describe_configs_response::DescribeConfigsResponseData;
    AlterConfigs: messages::alter_configs_request::AlterConfigsRequestData,
        messages::alter_configs_response::AlterConfigsResponseData;
    DescribeLogDirs: messages::describe_log_dirs_request::DescribeLogDirsRequestData,
        messages::describe_log_dirs_response::DescribeLogDirsResponseData;
    CreatePartitions: messages::create_partitions_request::CreatePartitionsRequestData,
        messages::create_partitions_response::CreatePartitionsResponseData;
    DeleteGroups: messages::delete_groups_request::DeleteGroupsRequestData,
        messages::delete_groups_response::DeleteGroupsResponseData;
    ElectLeaders: messages::elect_leaders_request::ElectLeadersRequestData,
        messages::elect_leaders_response::ElectLeadersResponseData;
    IncrementalAlterConfigs: messages::incremental_alter_configs_request::IncrementalAlterConfigsRequestData,
        messages::incremental_alter_configs_response::IncrementalAlterConfigsResponseData;
    OffsetDelete: messages::offset_delete_request::OffsetDeleteRequestData,
        messages::offset_delete_response::OffsetDeleteResponseData;
    DescribeCluster: messages::describe_cluster_request::DescribeClusterRequestData,
        messages::describe_cluster_response::DescribeClusterResponseData;
    DescribeProducers: messages::describe_producers_request::DescribeProducersRequestData,
        messages::describe_producers_response::DescribeProducersResponseData;
    ListConfigResources: messages::list_config_resources_request::ListConfigResourcesRequestData,
        messages::list_config_resources_response::ListConfigResourcesResponseData;
    DescribeTopicPartitions: messages::describe_topic_partitions_request::DescribeTopicPartitionsRequestData,
        messages::describe_topic_partitions_response::DescribeTopicPartitionsResponseData;
    AlterPartitionReassignments: messages::alter_partition_reassignments_request::AlterPartitionReassignmentsRequestData,
        messages::alter_partition_reassignments_response::AlterPartitionReassignmentsResponseData;
    ListPartitionReassignments: messages::list_partition_reassignments_request::ListPartitionReassignmentsRequestData,
        messages::list_partition_reassignments_response::ListPartitionReassignmentsResponseData;
    DescribeQuorum: messages::describe_quorum_request::DescribeQuorumRequestData,
        messages::describe_quorum_response::DescribeQuorumResponseData;
    UnregisterBroker: messages::unregister_broker_request::UnregisterBrokerRequestData,
        messages::unregister_broker_response::UnregisterBrokerResponseData;
    AddRaftVoter: messages::add_raft_voter_request::AddRaftVoterRequestData,
        messages::add_raft_voter_response::AddRaftVoterResponseData;
    RemoveRaftVoter: messages::remove_raft_voter_request::RemoveRaftVoterRequestData,
        messages::remove_raft_voter_response::RemoveRaftVoterResponseData;
}

/// Decodes the body that [`decode_header`] left, of any API but Produce.
///
/// Bytes behind the message are ignored, as Kafka does: librdkafka 2.x still writes fields into Metadata 13 that
/// version 11 dropped.
///
/// # Errors
///
/// [`DecodeError::UnsupportedApi`] (for Produce too) and [`DecodeError::UnsupportedVersion`] when the header
/// names what is not served, everything else when the body does not begin with a well-formed message.
pub fn decode_request(header: &RequestHeader, mut body: Bytes) -> Result<Request, DecodeError> {
    let key = header.supported_api()?;
    schema::check_request(key, header.api_version, &body)?;
    let request = Request::read(key, header.api_version, &mut body)?;
    Ok(request)
}

/// Encodes a response with its length prefix and header, in one allocation.
///
/// An ApiVersions request of an unknown version is answered in version 0 with UNSUPPORTED_VERSION (KIP-511).
///
/// # Errors
///
/// When the API has no such version, when a field is set that the version lacks, or when the frame passes 2 GiB.
pub fn encode_response(
    api_version: i16,
    correlation_id: i32,
    response: &Response,
) -> Result<Bytes, EncodeError> {
    let body_bytes = response.encoded_len(api_version)?;
    let mut frame = begin_response(response.api_key(), api_version, correlation_id, body_bytes)?;
    let header_bytes = frame.len();
    response.write(&mut frame, api_version)?;
    assert_eq!(frame.len() - header_bytes, body_bytes, "the length prefix is already written");
    Ok(frame.freeze())
}

/// The length prefix and header of a response, with room reserved for its body.
pub(crate) fn begin_response(
    key: ApiKey,
    api_version: i16,
    correlation_id: i32,
    body_bytes: usize,
) -> Result<BytesMut, EncodeError> {
    let tagged_fields = key.has_flexible_response_header(api_version);
    let frame_bytes = 4 + usize::from(tagged_fields) + body_bytes;
    let length = i32::try_from(frame_bytes).map_err(|_| EncodeError::TooLarge { bytes: frame_bytes })?;
    let mut frame = BytesMut::with_capacity(4 + frame_bytes);
    frame.put_i32(length);
    frame.put_i32(correlation_id);
    if tagged_fields {
        frame.put_u8(0);
    }
    Ok(frame)
}

#[cfg(test)]
mod tests;
