//! The generated structs of Kafka 4.3's message schemas, one module per message.
//!
//! A struct that several messages name alike (`PartitionData`, `NodeEndpoint`) is reached through its message's
//! module. Setting a field that a version lacks is an error when that version is encoded, unless the schema
//! marks the field as ignorable.

use types::TopicId;

pub use kacrab_protocol::generated::ErrorCode;
pub use kacrab_protocol::{KafkaString, KafkaUuid, ProtocolError, RawTaggedField};

pub use kacrab_protocol::generated::{
    add_raft_voter_request, add_raft_voter_response, alter_configs_request, alter_configs_response,
    alter_partition_reassignments_request, alter_partition_reassignments_response, api_versions_request,
    api_versions_response, consumer_protocol_assignment, consumer_protocol_subscription,
    create_partitions_request, create_partitions_response, create_topics_request, create_topics_response,
    delete_groups_request, delete_groups_response, delete_records_request, delete_records_response,
    delete_topics_request, delete_topics_response, describe_cluster_request, describe_cluster_response,
    describe_configs_request, describe_configs_response, describe_groups_request, describe_groups_response,
    describe_log_dirs_request, describe_log_dirs_response, describe_producers_request,
    describe_producers_response, describe_quorum_request, describe_quorum_response,
    describe_topic_partitions_request, describe_topic_partitions_response, elect_leaders_request,
    elect_leaders_response, fetch_request, fetch_response, find_coordinator_request,
    find_coordinator_response, heartbeat_request, heartbeat_response, incremental_alter_configs_request,
    incremental_alter_configs_response, init_producer_id_request, init_producer_id_response,
    join_group_request, join_group_response, leave_group_request, leave_group_response,
    list_config_resources_request, list_config_resources_response, list_groups_request, list_groups_response,
    list_offsets_request, list_offsets_response, list_partition_reassignments_request,
    list_partition_reassignments_response, metadata_request, metadata_response, offset_commit_request,
    offset_commit_response, offset_delete_request, offset_delete_response, offset_fetch_request,
    offset_fetch_response, offset_for_leader_epoch_request, offset_for_leader_epoch_response,
    produce_request, produce_response, remove_raft_voter_request, remove_raft_voter_response,
    sasl_handshake_request, sasl_handshake_response, sync_group_request, sync_group_response,
    unregister_broker_request, unregister_broker_response,
};

/// A topic id as it comes from the wire (KIP-516).
pub fn topic_id(uuid: KafkaUuid) -> TopicId {
    TopicId(uuid.to_bytes())
}

/// A topic id as it goes to the wire. Its `Display` is the text that Kafka's tools print.
pub fn kafka_uuid(id: TopicId) -> KafkaUuid {
    let bits = u128::from_be_bytes(id.0);
    KafkaUuid::from_parts((bits >> 64) as u64, bits as u64)
}

/// A string for the wire, copied.
pub fn kafka_string(text: &str) -> KafkaString {
    KafkaString::from(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_ids_keep_their_bytes() {
        let id = TopicId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        assert_eq!(kafka_uuid(id).to_bytes(), id.0);
        assert_eq!(topic_id(kafka_uuid(id)), id);
        assert_eq!(kafka_uuid(id).to_string(), "AQIDBAUGBwgJCgsMDQ4PEA");
    }
}
