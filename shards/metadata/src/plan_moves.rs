//! Requests to move replicas, turned into decisions.

use std::collections::BTreeSet;

use types::{NodeId, PartitionIndex};

use crate::command::Reassignment;
use crate::error::MetadataError;
use crate::image::{MetadataImage, Topic};
use crate::partition::{Partition, new_partition_bytes};
use crate::plan::{check_bytes, check_moving_bytes};
use crate::rebalance::{PlacedPartition, PlanBroker, plan_rebalance};

/// Plans where the replicas of the partitions of one request are to be, each with regard to those before it. No partition is
/// planned twice.
pub struct ReassignmentPlanner<'a> {
    image: &'a MetadataImage,
    may_change_factor: bool,
    /// What the partitions planned so far add to the metadata.
    bytes: usize,
    /// What of it stays when the moves are complete.
    lasting_bytes: usize,
}

impl<'a> ReassignmentPlanner<'a> {
    /// A planner for one request, which says whether partitions may get more or fewer replicas (KIP-860).
    pub fn new(image: &'a MetadataImage, may_change_factor: bool) -> ReassignmentPlanner<'a> {
        ReassignmentPlanner { image, may_change_factor, bytes: 0, lasting_bytes: 0 }
    }

    /// Plans where the replicas of one partition are to be; `None` takes back the move that is under way (KIP-455).
    ///
    /// # Errors
    ///
    /// `UnknownPartition`, `InvalidReplicaAssignment` unless the brokers are registered and each stands there
    /// once, `InvalidReplicationFactor` where they may not be more or fewer, `NoReassignmentInProgress` where there is nothing
    /// to take back, `TooLarge`.
    pub fn plan(
        &mut self,
        topic: &Topic,
        partition: PartitionIndex,
        replicas: Option<&[NodeId]>,
    ) -> Result<Reassignment, MetadataError> {
        let unknown =
            || MetadataError::UnknownPartition { topic: topic.name.to_string(), partition: partition.0 };
        let found = topic.partition(partition).ok_or_else(unknown)?;
        match replicas {
            Some(replicas) => {
                check_brokers(self.image, replicas)?;
                self.check_factor(found, replicas)?;
            }
            None if found.is_moving() => {}
            None => return Err(MetadataError::NoReassignmentInProgress),
        }
        self.take_bytes(found, replicas)?;
        Ok(Reassignment { group: found.group, replicas: replicas.map(<[NodeId]>::to_vec) })
    }

    fn check_factor(&self, partition: &Partition, replicas: &[NodeId]) -> Result<(), MetadataError> {
        let current = partition.wanted_brokers().len();
        if self.may_change_factor || replicas.len() == current {
            return Ok(());
        }
        let reason = format!("the partition has {current} replicas and would have {}", replicas.len());
        Err(MetadataError::InvalidReplicationFactor(reason))
    }

    /// Whether there is room for the decision, which has it from then on.
    fn take_bytes(
        &mut self,
        partition: &Partition,
        replicas: Option<&[NodeId]>,
    ) -> Result<(), MetadataError> {
        let decided = partition.reassigned(replicas.unwrap_or(&partition.replicas), None);
        let after = decided.map_or(0, |decided| decided.snapshot_bytes());
        let added = after.saturating_sub(partition.snapshot_bytes());
        let held = partition.replicas.len().max(partition.wanted_brokers().len());
        let wanted = replicas.map_or(0, <[NodeId]>::len);
        let lasting = new_partition_bytes(wanted).saturating_sub(new_partition_bytes(held));
        // More replicas than before are no move: the room that is kept for moves is not for them.
        check_bytes(self.image, if lasting > 0 { self.lasting_bytes + lasting } else { 0 })?;
        check_moving_bytes(self.image, if added > 0 { self.bytes + added } else { 0 })?;
        self.bytes += added;
        self.lasting_bytes += lasting;
        Ok(())
    }
}

/// Plans the next `most` moves by which brokers that have joined get their share; no moves where replicas lie evenly, `None` where
/// the metadata have no room for any. Internal topics move too.
pub fn plan_share(image: &MetadataImage, most: usize) -> Option<Vec<Reassignment>> {
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
    let mut planner = ReassignmentPlanner::new(image, true);
    let moves = plan_rebalance(&brokers, &partitions);
    let is_even = moves.is_empty();
    let decided = moves.into_iter().take(most).map_while(|moved| {
        let topic = image.topic(&moved.topic).expect("the plan is made of what is there");
        planner.plan(topic, moved.index, Some(&moved.replicas)).ok()
    });
    let decided: Vec<Reassignment> = decided.collect();
    (is_even || !decided.is_empty()).then_some(decided)
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

#[cfg(test)]
mod tests {
    use types::TopicId;
    use types::limits::{METADATA_BYTES_MAX, METADATA_MOVING_BYTES_MAX};

    use super::*;
    use crate::command::{Applied, Command, PartitionSpec};
    use crate::testing::{apply, state_with_racks};

    const BROKERS: i32 = 60;

    #[test]
    fn metadata_that_could_not_be_sent_whole_do_not_grow_by_moves() {
        let mut state = state_with_racks(&[BROKERS as usize]);
        let here: Vec<NodeId> = (1..=BROKERS / 2).map(NodeId).collect();
        let there: Vec<NodeId> = (BROKERS / 2 + 1..=BROKERS).map(NodeId).collect();
        let create = |name: &str, id: u8, partitions: usize, config_bytes: usize| Command::CreateTopic {
            name: name.to_owned(),
            id: TopicId([id; 16]),
            partitions: vec![PartitionSpec { replicas: here.clone() }; partitions],
            configs: vec![("name".to_owned(), "x".repeat(config_bytes))],
        };
        assert!(matches!(apply(&mut state, create("moved", 1, 4_000, 0)), Applied::TopicCreated { .. }));
        let room = METADATA_BYTES_MAX - state.image().snapshot_bytes();
        let filler = create("filler", 2, 1, room - 2_000);
        assert!(matches!(apply(&mut state, filler), Applied::TopicCreated { .. }));

        let image = state.image();
        let topic = image.topic("moved").expect("it was made");
        let indexes = || (0..4_000).map(PartitionIndex);
        let mut planner = ReassignmentPlanner::new(&image, true);
        let planned: Vec<_> = indexes().map(|index| planner.plan(topic, index, Some(&there))).collect();
        let partitions: Vec<Reassignment> = planned.iter().flatten().cloned().collect();
        assert!((2_000..2_700).contains(&partitions.len()), "{}", partitions.len());
        let refused = &planned[partitions.len()..];
        assert!(refused.iter().all(|planned| *planned == Err(MetadataError::TooLarge)));
        let last = PartitionIndex(3_999);
        assert!(planner.plan(topic, last, Some(&here)).is_ok(), "where it is, it takes no room");

        // What is kept for moves is not used up by more replicas.
        let everywhere: Vec<NodeId> = (1..=BROKERS).map(NodeId).collect();
        let mut planner = ReassignmentPlanner::new(&image, true);
        let raised = indexes().take_while(|index| planner.plan(topic, *index, Some(&everywhere)).is_ok());
        assert!((1..10).contains(&raised.count()));

        // Another request was planned at the same time, for other partitions.
        let replicas = Some(there.clone());
        let others = topic.partitions[2_700..]
            .iter()
            .map(|partition| Reassignment { group: partition.group, replicas: replicas.clone() });
        let other = Command::Reassign { partitions: others.collect() };
        assert_eq!(apply(&mut state, Command::Reassign { partitions }), Applied::Reassigned);
        assert_eq!(apply(&mut state, other.clone()), Applied::Refused(MetadataError::TooLarge));
        assert!(state.snapshot().len() <= state.image().snapshot_bytes());
        assert!(state.image().snapshot_bytes() <= METADATA_MOVING_BYTES_MAX);

        // What moves may be taken back, and what is there makes room.
        let image = state.image();
        let topic = image.topic("moved").expect("it was made");
        let mut planner = ReassignmentPlanner::new(&image, true);
        assert_eq!(planner.plan(topic, last, Some(&there)), Err(MetadataError::TooLarge));
        let back = indexes().map_while(|index| planner.plan(topic, index, None).ok()).collect();
        assert_eq!(apply(&mut state, Command::Reassign { partitions: back }), Applied::Reassigned);
        let moving = topic.partitions.iter().filter(|partition| partition.is_moving());
        let moves = moving.map(|partition| (partition.group, 2)).collect();
        assert_eq!(apply(&mut state, Command::CompleteMoves { moves }), Applied::MovesCompleted);
        assert_eq!(apply(&mut state, other), Applied::Reassigned);
    }
}
