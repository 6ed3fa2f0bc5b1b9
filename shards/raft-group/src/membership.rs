//! Who belongs to a group: replicas that vote and replicas that learn, as they travel and lie in checkpoints; and the way
//! from one set of replicas to another.
//!
//! A change goes in steps, each an entry of the group's own log that counts once it is applied, one at a time (Raft thesis,
//! chapter 4): newcomers learn until they have what the others have; then all voters change at once, by joint consensus
//! where more than one does; then the replicas that are to go are out. Voters are only ever replaced by replicas that
//! are caught up.

use bytes::{BufMut, Bytes, BytesMut};
use log::wal::{Record, RecoveredGroup};
use protobuf::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType,
};
use types::{GroupId, LogIndex, ReplicaId, Term};

use crate::frame::{FrameError, FrameReader, FrameWriter};

/// The members of a group as of some entry of its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The replicas that vote, ascending.
    pub voters: Vec<ReplicaId>,
    /// While voters change: those of before, whose majority counts too.
    pub outgoing: Vec<ReplicaId>,
    /// The replicas that have the log and do not vote.
    pub learners: Vec<ReplicaId>,
}

/// A checkpoint that does not begin with a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the checkpoint says nothing of the group's members: {0}")]
pub struct NoMembership(#[from] FrameError);

impl Membership {
    /// That of a group that begins with these voters.
    pub fn of_voters(mut voters: Vec<ReplicaId>) -> Membership {
        voters.sort();
        Membership { voters, ..Membership::default() }
    }

    pub(crate) fn of_conf_state(state: &ConfState) -> Membership {
        let ids = |ids: &[u64]| {
            let replica = |id: &u64| ReplicaId::from_raft_id(*id).expect("members have ids of replicas");
            let mut replicas: Vec<ReplicaId> = ids.iter().map(replica).collect();
            replicas.sort();
            replicas
        };
        assert!(state.learners_next.is_empty(), "a voter never becomes a learner");
        Membership {
            voters: ids(&state.voters),
            outgoing: ids(&state.voters_outgoing),
            learners: ids(&state.learners),
        }
    }

    pub(crate) fn conf_state(&self) -> ConfState {
        let ids = |replicas: &[ReplicaId]| replicas.iter().map(|replica| replica.raft_id()).collect();
        let mut state = ConfState::default();
        state.set_voters(ids(&self.voters));
        state.set_voters_outgoing(ids(&self.outgoing));
        state.set_learners(ids(&self.learners));
        state
    }

    /// Whether the voters are changing, so that two majorities count.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether these replicas can decide alone: during a change of voters it takes a majority of those of before as well.
    pub fn has_majority(&self, is_one: impl Fn(&ReplicaId) -> bool) -> bool {
        let is_enough = |voters: &[ReplicaId]| {
            let ones = voters.iter().filter(|voter| is_one(voter)).count();
            voters.is_empty() || ones > voters.len() / 2
        };
        is_enough(&self.voters) && is_enough(&self.outgoing)
    }

    /// All replicas whose votes count, ascending.
    pub(crate) fn all_voters(&self) -> Vec<ReplicaId> {
        let mut voters = [self.voters.as_slice(), self.outgoing.as_slice()].concat();
        voters.sort();
        voters.dedup();
        voters
    }

    pub(crate) fn write(&self, frame: &mut FrameWriter) {
        for replicas in [&self.voters, &self.outgoing, &self.learners] {
            frame.put_u32(u32::try_from(replicas.len()).expect("a group has few replicas"));
            replicas.iter().for_each(|replica| frame.put_u64(replica.raft_id()));
        }
    }

    pub(crate) fn read(frame: &mut FrameReader) -> Result<Membership, FrameError> {
        let mut replicas = || {
            let count = frame.u32()? as usize;
            if count > frame.left_bytes() / 8 {
                return Err(FrameError::Short);
            }
            let mut replicas = Vec::with_capacity(count);
            for _ in 0..count {
                replicas.push(read_replica(frame)?);
            }
            Ok(replicas)
        };
        Ok(Membership { voters: replicas()?, outgoing: replicas()?, learners: replicas()? })
    }
}

fn read_replica(frame: &mut FrameReader) -> Result<ReplicaId, FrameError> {
    ReplicaId::from_raft_id(frame.u64()?).ok_or(FrameError::Field("replica"))
}

/// The state of a checkpoint: which replica this is, the members as of then, and what the machine remembers.
pub(crate) fn join_checkpoint(own: ReplicaId, membership: &Membership, machine: &[u8]) -> Bytes {
    let mut frame = FrameWriter::default();
    frame.put_u64(own.raft_id());
    membership.write(&mut frame);
    let mut state = BytesMut::with_capacity(frame.len_bytes() + machine.len());
    frame.finish().iter().for_each(|part| state.put_slice(part));
    state.put_slice(machine);
    state.freeze()
}

/// Says in the WAL that a replica is being removed: a checkpoint, at the index and term of its last one, of a replica that has no
/// state. Its files may be gone in part, so the next start goes on with the removal.
pub fn removal_record(group: GroupId, index: LogIndex, term: Term) -> Record {
    Record::Checkpoint { group, index, term, state: Bytes::new() }
}

/// Whether the WAL ends with a [`removal_record`] of the group.
pub fn is_being_removed(recovered: &RecoveredGroup) -> bool {
    recovered.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.state.is_empty())
}

/// The machine's part of the state of a checkpoint, with the replica that wrote it and the members as of then.
///
/// # Errors
///
/// Where the bytes do not begin with a membership.
pub fn read_checkpoint(state: Bytes) -> Result<(ReplicaId, Membership, Bytes), NoMembership> {
    let mut frame = FrameReader::new(state);
    let own = read_replica(&mut frame)?;
    let membership = Membership::read(&mut frame)?;
    Ok((own, membership, frame.rest()))
}

/// Whether an entry changes the group's members.
pub fn changes_membership(entry: &Entry) -> bool {
    entry.entry_type != EntryType::EntryNormal
}

pub(crate) fn change_of_entry(entry: &Entry) -> ConfChangeV2 {
    let mut change = ConfChangeV2::default();
    change.merge_from_bytes(&entry.data).expect("a committed change was encoded by a leader");
    change
}

pub(crate) fn entry_of_change(context: Bytes, change: &ConfChangeV2) -> Entry {
    let data = change.write_to_bytes().expect("a change has no required fields");
    Entry { entry_type: EntryType::EntryConfChangeV2, context, data: data.into(), ..Entry::default() }
}

/// What is next on the way to the wanted voters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// They are the voters, and there are no other members.
    Done,
    /// Learners have not caught up.
    Wait,
    /// Somebody who stays has to lead.
    HandOver,
    /// Propose this.
    Change(ConfChangeV2),
}

/// Plans the next step towards `wanted` (ascending) on the leader, `own`. No change may be pending.
pub(crate) fn plan_step(
    membership: &Membership,
    wanted: &[ReplicaId],
    own: ReplicaId,
    caught_up: &[ReplicaId],
) -> Step {
    assert!(!wanted.is_empty(), "a group keeps a voter");
    let Membership { voters, learners, .. } = membership;
    if !voters.contains(&own) {
        // It is about to be out, or has been since before it was elected and had not applied that. raft-rs leaves it the lead, and
        // takes no proposal of it.
        return Step::HandOver;
    }
    if membership.is_joint() {
        // Whatever is wanted by now: first the change that was begun comes to its end.
        return Step::Change(ConfChangeV2::default());
    }
    let without = |from: &[ReplicaId], gone: &[ReplicaId]| -> Vec<ReplicaId> {
        from.iter().copied().filter(|replica| !gone.contains(replica)).collect()
    };
    let joining = without(wanted, voters);
    let (unknown, strangers) = (without(&joining, learners), without(learners, wanted));
    if !unknown.is_empty() || !strangers.is_empty() {
        let added = unknown.iter().map(|replica| (ConfChangeType::AddLearnerNode, *replica));
        let removed = strangers.iter().map(|replica| (ConfChangeType::RemoveNode, *replica));
        return Step::Change(change(added.chain(removed)));
    }
    if voters.as_slice() == wanted {
        return Step::Done;
    }
    if !joining.iter().all(|replica| caught_up.contains(replica)) {
        return Step::Wait;
    }
    let leaving = without(voters, wanted);
    if leaving.contains(&own) && leaving.len() + joining.len() == 1 {
        // Without joint consensus it would be out at once.
        return Step::HandOver;
    }
    let added = joining.iter().map(|replica| (ConfChangeType::AddNode, *replica));
    let removed = leaving.iter().map(|replica| (ConfChangeType::RemoveNode, *replica));
    Step::Change(change(added.chain(removed)))
}

fn change(changes: impl Iterator<Item = (ConfChangeType, ReplicaId)>) -> ConfChangeV2 {
    let single = |(kind, replica): (ConfChangeType, ReplicaId)| {
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = replica.raft_id();
        single
    };
    let changes: Vec<ConfChangeSingle> = changes.map(single).collect();
    let mut change = ConfChangeV2::default();
    // One alone is safe as it is. raft-rs would leave a joint configuration by itself, but not a new leader.
    if changes.len() > 1 {
        change.set_transition(ConfChangeTransition::Explicit);
    }
    change.set_changes(changes.into());
    change
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicas(text: &str) -> Vec<ReplicaId> {
        let replica = |word: &str| {
            let (node, generation) = word.split_once('.').unwrap_or((word, "0"));
            let number = |text: &str| text.parse::<u32>().expect("a number");
            ReplicaId { node: types::NodeId(number(node) as i32), generation: number(generation) }
        };
        text.split_whitespace().map(replica).collect()
    }

    /// What raft-rs makes of a change.
    fn applied(membership: &Membership, change: &ConfChangeV2) -> Membership {
        let mut next = membership.clone();
        if change.changes.is_empty() {
            next.outgoing.clear();
            return next;
        }
        if change.changes.len() > 1 {
            next.outgoing = next.voters.clone();
        }
        for single in &change.changes {
            let replica = ReplicaId::from_raft_id(single.node_id).expect("a replica");
            next.voters.retain(|other| *other != replica);
            next.learners.retain(|other| *other != replica);
            match single.get_change_type() {
                ConfChangeType::AddNode => next.voters.push(replica),
                ConfChangeType::AddLearnerNode => next.learners.push(replica),
                ConfChangeType::RemoveNode => {}
            }
        }
        next.voters.sort();
        next.learners.sort();
        next
    }

    fn text(membership: &Membership) -> String {
        let list =
            |replicas: &[ReplicaId]| replicas.iter().map(ReplicaId::to_string).collect::<Vec<_>>().join(" ");
        let mut text = list(&membership.voters);
        for (mark, replicas) in [(" from ", &membership.outgoing), (" taught ", &membership.learners)] {
            if !replicas.is_empty() {
                text += mark;
                text += &list(replicas);
            }
        }
        text
    }

    /// Goes the whole way, and hands over when asked to, from the first voter on.
    fn check(from: &str, wanted: &str, expected: &[&str]) {
        let mut membership = Membership::of_voters(replicas(from));
        let (mut leader, wanted) = (membership.voters[0], replicas(wanted));
        let mut way = Vec::new();
        loop {
            match plan_step(&membership, &wanted, leader, &membership.learners) {
                Step::Done => break,
                Step::Wait => panic!("everybody has caught up"),
                Step::HandOver => {
                    let heir = |voter: &&ReplicaId| wanted.contains(voter);
                    leader = *membership.voters.iter().find(heir).expect("somebody stays");
                    way.push(format!("{leader} leads"));
                }
                Step::Change(change) => {
                    membership = applied(&membership, &change);
                    way.push(text(&membership));
                }
            }
        }
        assert_eq!(way, expected, "{from} to {wanted:?}");
        assert_eq!(membership, Membership::of_voters(wanted));
    }

    #[test]
    fn every_way_leads_through_learners_and_joint_voters() {
        check("1 2 3", "1 2 3", &[]);
        check("1", "1 2.1", &["1.0 taught 2.1", "1.0 2.1"]);
        check("1 2", "1", &["1.0"]);
        check("1 2", "2", &["2.0 leads", "2.0"]);
        check(
            "1",
            "1 2.1 3.1",
            &["1.0 from 1.0 taught 2.1 3.1", "1.0 taught 2.1 3.1", "1.0 2.1 3.1 from 1.0", "1.0 2.1 3.1"],
        );
        check(
            "1 2 3",
            "4.1 5.1",
            &[
                "1.0 2.0 3.0 from 1.0 2.0 3.0 taught 4.1 5.1",
                "1.0 2.0 3.0 taught 4.1 5.1",
                "4.1 5.1 from 1.0 2.0 3.0",
                "4.1 leads",
                "4.1 5.1",
            ],
        );
        check("1 2 3", "1 2 3.4", &["1.0 2.0 3.0 taught 3.4", "1.0 2.0 3.4 from 1.0 2.0 3.0", "1.0 2.0 3.4"]);
    }

    #[test]
    fn a_newcomer_that_lags_is_waited_for_and_one_that_is_not_wanted_goes() {
        let leader = ReplicaId::first(types::NodeId(1));
        let membership =
            Membership { learners: replicas("3.1 4.1"), ..Membership::of_voters(replicas("1 2")) };
        let wanted = replicas("1 2 3.1");
        let Step::Change(change) = plan_step(&membership, &wanted, leader, &replicas("3.1 4.1")) else {
            panic!("4.1 is to go first")
        };
        let membership = applied(&membership, &change);
        assert_eq!(text(&membership), "1.0 2.0 taught 3.1");
        assert_eq!(plan_step(&membership, &wanted, leader, &[]), Step::Wait);
    }

    #[test]
    fn a_change_that_was_begun_ends_before_another_begins() {
        let leader = ReplicaId::first(types::NodeId(1));
        let membership =
            Membership { outgoing: replicas("1 2 3"), ..Membership::of_voters(replicas("1 4.1")) };
        let step = plan_step(&membership, &replicas("1 2 3"), leader, &[]);
        assert_eq!(step, Step::Change(ConfChangeV2::default()));
    }

    #[test]
    fn checkpoints_are_read_as_written() {
        let membership =
            Membership { voters: replicas("1 4.1"), outgoing: replicas("1 2 3"), learners: replicas("5.2") };
        let own = ReplicaId { node: types::NodeId(4), generation: 1 };
        let state = join_checkpoint(own, &membership, b"machine");
        assert_eq!(
            read_checkpoint(state.clone()),
            Ok((own, membership.clone(), Bytes::from_static(b"machine")))
        );
        assert_eq!(Membership::of_conf_state(&membership.conf_state()), membership);
        for cut in 0..state.len() - b"machine".len() {
            assert!(read_checkpoint(state.slice(..cut)).is_err(), "cut at {cut}");
        }
    }
}
