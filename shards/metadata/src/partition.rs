//! Where the replicas of one partition are, and where they are to be.

use types::{GroupId, NodeId, ReplicaId};

/// What a partition takes of a snapshot at most, without its lists. What is written only once it has moved is counted from the
/// start, here and for its replicas: a cluster does not grow by moves that are complete.
const PARTITION_BYTES: usize = 28;

/// A broker that holds it, as a replica and as a member: of any id, as one of its first 2^17 decisions made it, or of an id
/// below 2^14.
const REPLICA_BYTES: usize = 12;

/// A broker that is to hold it.
const TARGET_BYTES: usize = 5;

/// A member beyond those that the replicas are.
const MEMBER_BYTES: usize = 10;

/// What a new partition with so many replicas takes of a snapshot.
pub(crate) fn new_partition_bytes(replicas: usize) -> usize {
    PARTITION_BYTES + REPLICA_BYTES * replicas
}

/// A partition: the Raft group that replicates it, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its group; no two partitions ever had the same.
    pub group: GroupId,
    /// The brokers that hold it, and held it before they began to move; never empty, and the first is the preferred leader.
    pub replicas: Vec<NodeId>,
    /// What was decided since the partition was made.
    pub(crate) moves: Option<Box<Moves>>,
}

/// What was decided of a partition's replicas since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moves {
    /// The number of the last decision, from 1 on.
    pub(crate) decision: u32,
    /// The brokers that are to hold the partition, while they do not, or others do too; the preferred leader first.
    pub(crate) target: Option<Vec<NodeId>>,
    /// Every replica that may be a member of the group, ascending; of a broker perhaps two, of which the last counts.
    pub(crate) members: Vec<ReplicaId>,
    /// Whether a decision was ever carried out.
    pub(crate) has_moved: bool,
}

impl Partition {
    /// A new partition on these brokers.
    pub(crate) fn new(group: GroupId, replicas: Vec<NodeId>) -> Partition {
        Partition { group, replicas, moves: None }
    }

    /// Which replica of the partition a broker is to hold, now or until the move that takes it away is complete.
    pub fn replica_on(&self, node: NodeId) -> Option<ReplicaId> {
        match &self.moves {
            None => self.replicas.contains(&node).then_some(ReplicaId::first(node)),
            Some(moves) => moves.member(node),
        }
    }

    /// The replicas that the group begins with, the preferred leader first; none once the replicas have moved, when whoever comes
    /// is told of the group by its leader.
    pub fn first_voters(&self) -> Vec<ReplicaId> {
        match self.moves.as_ref().is_some_and(|moves| moves.has_moved) {
            true => Vec::new(),
            false => self.replicas.iter().map(|node| ReplicaId::first(*node)).collect(),
        }
    }

    /// The number of the last decision of where the replicas are to be; 0 for that by which the partition was made.
    pub fn decision(&self) -> u32 {
        self.moves.as_ref().map_or(0, |moves| moves.decision)
    }

    /// Whether the last decision is not carried out yet.
    pub fn is_moving(&self) -> bool {
        self.target().is_some()
    }

    /// What it takes of a snapshot at most; never more once a move is complete than while it is under way.
    pub(crate) fn snapshot_bytes(&self) -> usize {
        let replicas = self.replicas.len();
        // As if it were as long as the replicas: then a decision that is taken back takes no more.
        let target = self.target().map_or(0, |target| target.len().max(replicas));
        let members = self.moves.as_ref().map_or(0, |moves| moves.members.len());
        new_partition_bytes(replicas)
            + TARGET_BYTES * target
            + MEMBER_BYTES * members.saturating_sub(replicas)
    }

    fn target(&self) -> Option<&[NodeId]> {
        self.moves.as_ref()?.target.as_deref()
    }

    /// The brokers that are to hold the partition in the end, the preferred leader first.
    pub fn wanted_brokers(&self) -> &[NodeId] {
        self.target().unwrap_or(&self.replicas)
    }

    /// The replicas that are to be the group's voters in the end, ascending.
    pub fn wanted(&self) -> Vec<ReplicaId> {
        let replica =
            |node: &NodeId| self.replica_on(*node).expect("every wanted broker is to hold a replica");
        let mut wanted: Vec<ReplicaId> = self.wanted_brokers().iter().map(replica).collect();
        wanted.sort();
        wanted
    }

    /// All brokers that hold the partition or are to hold it: the wanted ones in their order, then those that leave.
    pub fn brokers(&self) -> Vec<NodeId> {
        let mut brokers = self.wanted_brokers().to_vec();
        let members = self.moves.iter().flat_map(|moves| &moves.members).map(|member| member.node);
        for node in self.replicas.iter().copied().chain(members) {
            if !brokers.contains(&node) {
                brokers.push(node);
            }
        }
        brokers
    }

    /// The brokers that did not hold it before it began to move, and are to (Kafka's adding replicas).
    pub fn adding(&self) -> Vec<NodeId> {
        let wanted = self.target().unwrap_or_default().iter().copied();
        wanted.filter(|node| !self.replicas.contains(node)).collect()
    }

    /// The brokers that hold it and are to give it up (Kafka's removing replicas).
    pub fn removing(&self) -> Vec<NodeId> {
        let Some(target) = self.target() else { return Vec::new() };
        self.replicas.iter().copied().filter(|node| !target.contains(node)).collect()
    }

    /// The partition once it is decided that these brokers are to hold it; `None` where that is so. `renewed` has lost what it
    /// held.
    pub(crate) fn reassigned(&self, brokers: &[NodeId], renewed: Option<NodeId>) -> Option<Partition> {
        if self.wanted_brokers() == brokers && renewed.is_none() {
            return None;
        }
        let mut moves = match &self.moves {
            Some(moves) => (**moves).clone(),
            None => {
                let mut members: Vec<_> = self.replicas.iter().map(|node| ReplicaId::first(*node)).collect();
                members.sort();
                Moves { members, ..Moves::default() }
            }
        };
        moves.decision += 1;
        for node in brokers {
            if moves.member(*node).is_none() || renewed == Some(*node) {
                moves.members.push(ReplicaId { node: *node, generation: moves.decision });
                moves.members.sort();
            }
        }
        moves.target = Some(brokers.to_vec());
        Some(Partition { group: self.group, replicas: self.replicas.clone(), moves: Some(Box::new(moves)) })
    }

    /// The partition once a decision is carried out; `None` where it is not the last one, or was said before.
    pub(crate) fn moved(&self, decision: u32) -> Option<Partition> {
        let moves = self.moves.as_ref().filter(|moves| moves.decision == decision)?;
        let replicas = moves.target.clone()?;
        let moves = Moves { decision, target: None, members: self.wanted(), has_moved: true };
        Some(Partition { group: self.group, replicas, moves: Some(Box::new(moves)) })
    }
}

impl Moves {
    fn member(&self, node: NodeId) -> Option<ReplicaId> {
        self.members.iter().rfind(|member| member.node == node).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(nodes: &[i32]) -> Vec<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn text(replicas: &[ReplicaId]) -> String {
        replicas.iter().map(ReplicaId::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_broker_that_comes_back_is_another_replica() {
        let made = Partition::new(GroupId(7), nodes(&[1, 2, 3]));
        assert_eq!(text(&made.wanted()), "1.0 2.0 3.0");
        let moving = made.reassigned(&nodes(&[4, 2, 1]), None).expect("a decision");
        assert_eq!(text(&moving.first_voters()), "1.0 2.0 3.0", "one of them may not be there yet");
        assert_eq!(text(&moving.wanted()), "1.0 2.0 4.1");
        assert_eq!(
            moving.replica_on(NodeId(3)),
            Some(ReplicaId::first(NodeId(3))),
            "until the move is complete"
        );
        assert_eq!(
            (moving.brokers(), moving.adding(), moving.removing()),
            (nodes(&[4, 2, 1, 3]), nodes(&[4]), nodes(&[3]))
        );
        let moved = moving.moved(1).expect("the last decision");
        assert_eq!((moved.replicas.clone(), moved.is_moving()), (nodes(&[4, 2, 1]), false));
        assert_eq!((moved.replica_on(NodeId(3)), moved.first_voters()), (None, Vec::new()));
        let back = moved.reassigned(&nodes(&[1, 2, 3]), None).expect("a decision");
        assert_eq!(text(&back.wanted()), "1.0 2.0 3.2");
    }

    #[test]
    fn a_changed_mind_keeps_those_that_may_be_members_already() {
        let made = Partition::new(GroupId(7), nodes(&[1, 2]));
        let first = made.reassigned(&nodes(&[3, 4]), None).expect("a decision");
        let second = first.reassigned(&nodes(&[1, 2]), None).expect("a decision");
        assert_eq!(text(&second.wanted()), "1.0 2.0");
        assert_eq!(second.replica_on(NodeId(3)), Some(ReplicaId { node: NodeId(3), generation: 1 }));
        assert_eq!(second.moved(1), None, "that was the decision before");
        assert_eq!(second.moved(2).expect("carried out").replica_on(NodeId(3)), None);
        assert_eq!(second.reassigned(&nodes(&[1, 2]), None), None, "it is wanted already");
    }

    #[test]
    fn a_broker_that_lost_its_disk_is_another_replica_beside_its_former_one() {
        let made = Partition::new(GroupId(7), nodes(&[1, 2, 3]));
        let moving = made.reassigned(&nodes(&[1, 2, 3]), Some(NodeId(3))).expect("a decision");
        assert_eq!(text(&moving.wanted()), "1.0 2.0 3.1");
        assert_eq!((moving.adding(), moving.removing()), (Vec::new(), Vec::new()));
        assert_eq!(text(&moving.moved(1).expect("carried out").wanted()), "1.0 2.0 3.1");
    }

    #[test]
    fn what_a_move_takes_is_given_back_when_it_is_complete() {
        let made = Partition::new(GroupId(7), nodes(&[1, 2]));
        assert_eq!(made.snapshot_bytes(), new_partition_bytes(2));
        let mut moving = made.clone();
        let mut bytes = made.snapshot_bytes();
        for node in 3..50 {
            moving = moving.reassigned(&nodes(&[node, 2, 1]), None).expect("a decision");
            assert!(moving.snapshot_bytes() > bytes, "each may have made a member");
            bytes = moving.snapshot_bytes();
        }
        let moved = moving.moved(moving.decision()).expect("the last decision");
        assert_eq!(moved.snapshot_bytes(), new_partition_bytes(3));
        let back = moved.reassigned(&nodes(&[1]), None).expect("a decision");
        let back = back.moved(back.decision()).expect("the last decision");
        assert_eq!(back.snapshot_bytes(), new_partition_bytes(1));
    }
}
