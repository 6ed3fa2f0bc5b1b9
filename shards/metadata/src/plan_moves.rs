//! Requests to move replicas, turned into decisions.

use std::collections::BTreeSet;

use types::{NodeId, PartitionIndex};

use crate::command::Reassignment;
use crate::error::MetadataError;
use crate::image::MetadataImage;
use crate::rebalance::{PlacedPartition, PlanBroker, plan_rebalance};

/// Plans where the replicas of one partition are to be; `None` takes back the move that is under way (KIP-455).
///
/// # Errors
///
/// `UnknownTopic`, `UnknownPartition`, `InvalidReplicaAssignment` unless the brokers are registered and each stands there
/// once, `NoReassignmentInProgress` where there is nothing to take back.
pub fn plan_reassignment(
    image: &MetadataImage,
    topic: &str,
    partition: PartitionIndex,
    replicas: Option<&[NodeId]>,
) -> Result<Reassignment, MetadataError> {
    let found = image.topic(topic).ok_or_else(|| MetadataError::UnknownTopic(topic.to_owned()))?;
    let found = found
        .partition(partition)
        .ok_or_else(|| MetadataError::UnknownPartition { topic: topic.to_owned(), partition: partition.0 })?;
    match replicas {
        Some(replicas) => check_brokers(image, replicas)?,
        None if found.is_moving() => {}
        None => return Err(MetadataError::NoReassignmentInProgress),
    }
    Ok(Reassignment { group: found.group, replicas: replicas.map(<[NodeId]>::to_vec) })
}

/// Plans the next `most` moves by which brokers that have joined get their share; none where replicas lie evenly. Internal
/// topics move too.
pub fn plan_share(image: &MetadataImage, most: usize) -> Vec<Reassignment> {
    let brokers: Vec<PlanBroker> = image
        .brokers()
        .map(|broker| PlanBroker {
            node: broker.node,
            rack: broker.rack.clone(),
            is_draining: image.is_draining(broker.node),
        })
        .collect();
    let partitions: Vec<PlacedPartition> = image
        .topics()
        .flat_map(|topic| {
            (0..).map(PartitionIndex).zip(&topic.partitions).map(|(index, partition)| PlacedPartition {
                topic: topic.name.to_string(),
                index,
                replicas: partition.wanted_brokers().to_vec(),
            })
        })
        .collect();
    let moves = plan_rebalance(&brokers, &partitions).into_iter().take(most);
    let decided = moves.map(|moved| {
        let partition = image.topic(&moved.topic).and_then(|topic| topic.partition(moved.index));
        let group = partition.expect("the plan is made of what is there").group;
        Reassignment { group, replicas: Some(moved.replicas) }
    });
    decided.collect()
}

fn check_brokers(image: &MetadataImage, replicas: &[NodeId]) -> Result<(), MetadataError> {
    let distinct: BTreeSet<_> = replicas.iter().collect();
    let reason = if replicas.is_empty() {
        "it is empty".to_owned()
    } else if distinct.len() != replicas.len() {
        "a broker stands there twice".to_owned()
    } else if let Some(unknown) = replicas.iter().find(|node| image.broker(**node).is_none()) {
        format!("broker {unknown} is not registered")
    } else {
        return Ok(());
    };
    Err(MetadataError::InvalidReplicaAssignment(reason))
}
