//! API keys, their versions and the table of what this broker serves.

macro_rules! api_keys {
    ($($name:ident = $key:literal, $first_flexible:expr;)*) => {
        /// A Kafka API by its wire number (Kafka's `ApiKeys`). It names more APIs than [`SUPPORTED`] serves, so
        /// that log lines and metrics can.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        #[expect(missing_docs, reason = "the names are Kafka's")]
        pub enum ApiKey {
            $($name = $key,)*
        }

        impl ApiKey {
            /// Every key, ascending.
            pub const ALL: &[ApiKey] = &[$(ApiKey::$name,)*];

            /// The API of a wire number, where there is one.
            pub const fn from_wire(key: i16) -> Option<ApiKey> {
                match key {
                    $($key => Some(ApiKey::$name),)*
                    _ => None,
                }
            }

            /// The name in Kafka's message schemas, without `Request`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(ApiKey::$name => stringify!($name),)*
                }
            }

            /// The first flexible version (KIP-482); `None` where no version is.
            pub const fn first_flexible(self) -> Option<i16> {
                match self {
                    $(ApiKey::$name => $first_flexible,)*
                }
            }
        }
    };
}

api_keys! {
    Produce = 0, Some(9);
    Fetch = 1, Some(12);
    ListOffsets = 2, Some(6);
    Metadata = 3, Some(9);
    OffsetCommit = 8, Some(8);
    OffsetFetch = 9, Some(6);
    FindCoordinator = 10, Some(3);
    JoinGroup = 11, Some(6);
    Heartbeat = 12, Some(4);
    LeaveGroup = 13, Some(4);
    SyncGroup = 14, Some(4);
    DescribeGroups = 15, Some(5);
    ListGroups = 16, Some(3);
    SaslHandshake = 17, None;
    ApiVersions = 18, Some(3);
    CreateTopics = 19, Some(5);
    DeleteTopics = 20, Some(4);
    DeleteRecords = 21, Some(2);
    InitProducerId = 22, Some(2);
    OffsetForLeaderEpoch = 23, Some(4);
    AddPartitionsToTxn = 24, Some(3);
    AddOffsetsToTxn = 25, Some(3);
    EndTxn = 26, Some(3);
    WriteTxnMarkers = 27, Some(1);
    TxnOffsetCommit = 28, Some(3);
    DescribeAcls = 29, Some(2);
    CreateAcls = 30, Some(2);
    DeleteAcls = 31, Some(2);
    DescribeConfigs = 32, Some(4);
    AlterConfigs = 33, Some(2);
    AlterReplicaLogDirs = 34, Some(2);
    DescribeLogDirs = 35, Some(2);
    SaslAuthenticate = 36, Some(2);
    CreatePartitions = 37, Some(2);
    CreateDelegationToken = 38, Some(2);
    RenewDelegationToken = 39, Some(2);
    ExpireDelegationToken = 40, Some(2);
    DescribeDelegationToken = 41, Some(2);
    DeleteGroups = 42, Some(2);
    ElectLeaders = 43, Some(2);
    IncrementalAlterConfigs = 44, Some(1);
    AlterPartitionReassignments = 45, Some(0);
    ListPartitionReassignments = 46, Some(0);
    OffsetDelete = 47, None;
    DescribeClientQuotas = 48, Some(1);
    AlterClientQuotas = 49, Some(1);
    DescribeUserScramCredentials = 50, Some(0);
    AlterUserScramCredentials = 51, Some(0);
    Vote = 52, Some(0);
    BeginQuorumEpoch = 53, Some(1);
    EndQuorumEpoch = 54, Some(1);
    DescribeQuorum = 55, Some(0);
    AlterPartition = 56, Some(0);
    UpdateFeatures = 57, Some(0);
    Envelope = 58, Some(0);
    FetchSnapshot = 59, Some(0);
    DescribeCluster = 60, Some(0);
    DescribeProducers = 61, Some(0);
    BrokerRegistration = 62, Some(0);
    BrokerHeartbeat = 63, Some(0);
    UnregisterBroker = 64, Some(0);
    DescribeTransactions = 65, Some(0);
    ListTransactions = 66, Some(0);
    AllocateProducerIds = 67, Some(0);
    ConsumerGroupHeartbeat = 68, Some(0);
    ConsumerGroupDescribe = 69, Some(0);
    ControllerRegistration = 70, Some(0);
    GetTelemetrySubscriptions = 71, Some(0);
    PushTelemetry = 72, Some(0);
    AssignReplicasToDirs = 73, Some(0);
    ListConfigResources = 74, Some(0);
    DescribeTopicPartitions = 75, Some(0);
    ShareGroupHeartbeat = 76, Some(0);
    ShareGroupDescribe = 77, Some(0);
    ShareFetch = 78, Some(0);
    ShareAcknowledge = 79, Some(0);
    AddRaftVoter = 80, Some(0);
    RemoveRaftVoter = 81, Some(0);
    UpdateRaftVoter = 82, Some(0);
    InitializeShareGroupState = 83, Some(0);
    ReadShareGroupState = 84, Some(0);
    WriteShareGroupState = 85, Some(0);
    DeleteShareGroupState = 86, Some(0);
    ReadShareGroupStateSummary = 87, Some(0);
    StreamsGroupHeartbeat = 88, Some(0);
    StreamsGroupDescribe = 89, Some(0);
    DescribeShareGroupOffsets = 90, Some(0);
    AlterShareGroupOffsets = 91, Some(0);
    DeleteShareGroupOffsets = 92, Some(0);
}

impl ApiKey {
    /// The number on the wire.
    pub const fn wire(self) -> i16 {
        self as i16
    }

    /// Whether a version uses compact lengths, tagged fields and request header 2.
    pub const fn is_flexible(self, api_version: i16) -> bool {
        match self.first_flexible() {
            Some(first) => api_version >= first,
            None => false,
        }
    }

    /// Whether a version's response header ends in tagged fields (header 1 instead of 0). Never so for
    /// ApiVersions, whose client does not know yet which version the broker answers in (KIP-511).
    pub const fn has_flexible_response_header(self, api_version: i16) -> bool {
        self.is_flexible(api_version) && !matches!(self, ApiKey::ApiVersions)
    }

    /// The row of [`SUPPORTED`], where this broker serves the API.
    pub fn range(self) -> Option<ApiRange> {
        SUPPORTED.binary_search_by_key(&self, |range| range.key).ok().map(|index| SUPPORTED[index])
    }
}

/// The versions of one API that this broker advertises, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiRange {
    /// The API.
    pub key: ApiKey,
    /// The lowest version advertised.
    pub min_version: i16,
    /// The highest version advertised and served.
    pub max_version: i16,
}

impl ApiRange {
    /// Whether a version lies in the range.
    pub const fn contains(self, api_version: i16) -> bool {
        self.min_version <= api_version && api_version <= self.max_version
    }
}

/// The lowest version of Produce that is served. Lower ones are advertised, because librdkafka before 2.11.1
/// does not compress unless it sees them, and answered with UNSUPPORTED_VERSION, see
/// [`crate::produce::encode_refusal`].
pub const PRODUCE_VERSION_MIN: i16 = 3;

const fn range(key: ApiKey, min_version: i16, max_version: i16) -> ApiRange {
    ApiRange { key, min_version, max_version }
}

/// What ApiVersions advertises, ascending by key: the ranges of Kafka 4.3.
pub const SUPPORTED: &[ApiRange] = &[
    range(ApiKey::Produce, 0, 13),
    range(ApiKey::Fetch, 4, 18),
    range(ApiKey::ListOffsets, 1, 11),
    range(ApiKey::Metadata, 0, 13),
    range(ApiKey::OffsetCommit, 2, 10),
    range(ApiKey::OffsetFetch, 1, 10),
    range(ApiKey::FindCoordinator, 0, 6),
    range(ApiKey::JoinGroup, 0, 9),
    range(ApiKey::Heartbeat, 0, 4),
    range(ApiKey::LeaveGroup, 0, 5),
    range(ApiKey::SyncGroup, 0, 5),
    range(ApiKey::DescribeGroups, 0, 6),
    range(ApiKey::ListGroups, 0, 5),
    range(ApiKey::SaslHandshake, 0, 1),
    range(ApiKey::ApiVersions, 0, 4),
    range(ApiKey::CreateTopics, 2, 7),
    range(ApiKey::DeleteTopics, 1, 6),
    range(ApiKey::DeleteRecords, 0, 2),
    range(ApiKey::InitProducerId, 0, 5),
    range(ApiKey::OffsetForLeaderEpoch, 2, 4),
    range(ApiKey::DescribeConfigs, 1, 4),
    range(ApiKey::AlterConfigs, 0, 2),
    range(ApiKey::DescribeLogDirs, 1, 5),
    range(ApiKey::CreatePartitions, 0, 3),
    range(ApiKey::DeleteGroups, 0, 2),
    range(ApiKey::ElectLeaders, 0, 2),
    range(ApiKey::IncrementalAlterConfigs, 0, 1),
    range(ApiKey::AlterPartitionReassignments, 0, 1),
    range(ApiKey::ListPartitionReassignments, 0, 0),
    range(ApiKey::OffsetDelete, 0, 0),
    range(ApiKey::DescribeQuorum, 0, 2),
    range(ApiKey::DescribeCluster, 0, 2),
    range(ApiKey::DescribeProducers, 0, 0),
    range(ApiKey::UnregisterBroker, 0, 0),
    range(ApiKey::ListConfigResources, 0, 1),
    range(ApiKey::DescribeTopicPartitions, 0, 0),
    range(ApiKey::AddRaftVoter, 0, 1),
    range(ApiKey::RemoveRaftVoter, 0, 0),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supported_ascends_so_that_it_can_be_searched() {
        assert!(SUPPORTED.is_sorted_by(|a, b| a.key < b.key));
        assert!(
            SUPPORTED.iter().all(|range| 0 <= range.min_version && range.min_version <= range.max_version)
        );
        assert_eq!(ApiKey::Fetch.range(), Some(range(ApiKey::Fetch, 4, 18)));
        assert_eq!(ApiKey::ShareFetch.range(), None);
    }

    #[test]
    fn keys_round_trip() {
        for &key in ApiKey::ALL {
            assert_eq!(ApiKey::from_wire(key.wire()), Some(key));
        }
        assert_eq!(ApiKey::from_wire(4), None);
        assert_eq!(ApiKey::from_wire(-1), None);
    }

    #[test]
    fn header_versions() {
        assert!(!ApiKey::Metadata.is_flexible(8));
        assert!(ApiKey::Metadata.is_flexible(9));
        assert!(!ApiKey::SaslHandshake.is_flexible(1));
        assert!(ApiKey::ApiVersions.is_flexible(3));
        assert!(!ApiKey::ApiVersions.has_flexible_response_header(3));
        assert!(ApiKey::DescribeCluster.has_flexible_response_header(0));
    }

    /// Clients before 2.11.1 of librdkafka switch features on by these versions (`rdkafka_feature.c`).
    #[test]
    fn old_librdkafka_finds_its_features() {
        for (key, version) in [
            (ApiKey::JoinGroup, 0),
            (ApiKey::SyncGroup, 0),
            (ApiKey::Heartbeat, 0),
            (ApiKey::LeaveGroup, 0),
            (ApiKey::FindCoordinator, 0),
            (ApiKey::OffsetCommit, 2),
            (ApiKey::OffsetFetch, 1),
            (ApiKey::Produce, 0),
            (ApiKey::Produce, 7),
            (ApiKey::Fetch, 10),
        ] {
            assert!(key.range().is_some_and(|range| range.contains(version)), "{key:?} {version}");
        }
    }
}
