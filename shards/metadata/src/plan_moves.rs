//! Requests to move replicas, turned into decisions.

use std::collections::BTreeSet;

use types::{NodeId, PartitionIndex};

use crate::command::Reassignment;
use crate::error::MetadataError;
use crate::image::MetadataImage;

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
