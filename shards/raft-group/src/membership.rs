//! Who belongs to a group: replicas that vote and replicas that learn, as they travel and lie in checkpoints; and the way
//! from one set of replicas to another.
//!
//! A change goes in steps, each an entry of the group's own log that counts once it is applied, one at a time (Raft thesis,
//! chapter 4): newcomers learn until they have what the others have; then all voters change at once, by joint consensus
//! where more than one does; then the replicas that are to go are out. Voters are only ever replaced by replicas that
//! are caught up.

use bytes::{BufMut, Bytes, BytesMut};
use protobuf::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType,
};
use types::ReplicaId;

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
    if membership.is_joint() {
        // Whatever is wanted by now: first the change that was begun comes to its end.
        return match voters.contains(&own) {
            true => Step::Change(ConfChangeV2::default()),
            false => Step::HandOver,
        };
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
