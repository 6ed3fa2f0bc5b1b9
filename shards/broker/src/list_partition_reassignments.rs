//! ListPartitionReassignments (key 46): the replicas that are to be elsewhere and are not yet (KIP-455).

use metadata::{Partition, Topic};
use protocol::frame::Response;
use protocol::messages::kafka_string;
use protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsRequestData;
use protocol::messages::list_partition_reassignments_response::{
    ListPartitionReassignmentsResponseData, OngoingPartitionReassignment, OngoingTopicReassignment,
};
use types::NodeId;

use crate::state::State;
use crate::step::Step;

pub(crate) fn handle(state: &State, request: ListPartitionReassignmentsRequestData) -> Step {
    let topics = match request.topics {
        None => state.image.topics().filter_map(|topic| of_topic(topic, |_| true)).collect(),
        // What does not exist does not move (as in Kafka).
        Some(named) => named
            .iter()
            .filter_map(|named| {
                let topic = state.image.topic(named.name.as_str())?;
                of_topic(topic, |index| named.partition_indexes.contains(&index))
            })
            .collect(),
    };
    Step::Reply(Response::ListPartitionReassignments(ListPartitionReassignmentsResponseData {
        topics,
        ..Default::default()
    }))
}

fn of_topic(topic: &Topic, is_asked: impl Fn(i32) -> bool) -> Option<OngoingTopicReassignment> {
    let moving = (0i32..).zip(&topic.partitions).filter(|(_, partition)| partition.is_moving());
    let partitions: Vec<OngoingPartitionReassignment> = moving
        .filter(|(index, _)| is_asked(*index))
        .map(|(index, partition)| ongoing(index, partition))
        .collect();
    (!partitions.is_empty()).then(|| OngoingTopicReassignment {
        name: kafka_string(&topic.name),
        partitions,
        ..Default::default()
    })
}

fn ongoing(partition_index: i32, partition: &Partition) -> OngoingPartitionReassignment {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<i32>>();
    OngoingPartitionReassignment {
        partition_index,
        replicas: ids(&partition.brokers()),
        adding_replicas: ids(&partition.adding()),
        removing_replicas: ids(&partition.removing()),
        ..Default::default()
    }
}
