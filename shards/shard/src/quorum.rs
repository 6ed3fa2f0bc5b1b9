//! How the metadata group is: its leader knows, and tells other nodes that are asked.

use broker::{OpResult, Quorum, QuorumReplica};
use protocol::messages::ErrorCode;
use types::{GroupId, LogIndex, NodeId, Now, ReplicaId};

use crate::metadata_host::Waiter;
use crate::peer_message::PeerMessage;
use crate::shard::{Hosted, Machine, Shard};

impl Shard {
    /// Says how the metadata group is, or asks its leader.
    pub(crate) fn describe_quorum(&mut self, now: Now, waiter: Waiter) {
        let node = self.node;
        let Some(Hosted { raft, machine: Machine::Metadata(host), .. }) =
            self.hosted.get_mut(&GroupId::METADATA)
        else {
            unreachable!("the quorum is asked about on the shard that hosts it")
        };
        match raft.role().leader.filter(|leader| *leader == node || self.peers.has_room(*leader)) {
            Some(leader) if leader != node => {
                let request = host.on_forwarded(leader, None, Some(waiter));
                self.peers.send(leader, &PeerMessage::AskQuorum { request }, &mut self.effects);
            }
            _ => {
                let outcome = self.quorum(now);
                self.answer_quorum(waiter, outcome);
            }
        }
    }

    /// Another node asks.
    pub(crate) fn on_quorum_asked(&mut self, now: Now, peer: NodeId, request: u64) {
        let outcome = self.quorum(now);
        self.peers.send(peer, &PeerMessage::Quorum { request, outcome }, &mut self.effects);
    }

    /// The leader has told what it was asked.
    pub(crate) fn on_quorum_told(&mut self, request: u64, outcome: Result<Quorum, ErrorCode>) {
        let Some(Hosted { machine: Machine::Metadata(host), .. }) = self.hosted.get_mut(&GroupId::METADATA)
        else {
            return;
        };
        if let Some(waiter) = host.take_forwarded(request) {
            self.answer_quorum(waiter, outcome);
        }
    }

    fn answer_quorum(&mut self, (asker, _): Waiter, outcome: Result<Quorum, ErrorCode>) {
        let result = match outcome {
            Ok(quorum) => OpResult::Quorum(quorum),
            Err(error) => OpResult::Metadata(Err(error)),
        };
        self.answers.push((asker, result));
    }

    /// The group, where this node leads it.
    fn quorum(&self, now: Now) -> Result<Quorum, ErrorCode> {
        let Some(Hosted { raft, .. }) = self.hosted.get(&GroupId::METADATA) else {
            return Err(ErrorCode::NotLeaderOrFollower);
        };
        if !raft.is_leader() {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let replica = |replica: &ReplicaId, matched: LogIndex| {
            let is_own = *replica == raft.own();
            let heard_ms = if is_own { Some(now.wall_ms) } else { self.peers.heard_ms(now, replica.node) };
            QuorumReplica {
                node: replica.node,
                last: matched,
                heard_ms,
                // What it had while it lacked something is not kept.
                caught_up_ms: heard_ms.filter(|_| matched >= raft.last_index()),
            }
        };
        let followers = raft.followers().map(|follower| (follower.replica, follower.matched));
        let members: Vec<(ReplicaId, LogIndex)> =
            followers.chain([(raft.own(), raft.last_index())]).collect();
        let (voters, observers): (Vec<_>, Vec<_>) =
            members.iter().partition(|(replica, _)| raft.voters().contains(replica));
        let described = |members: Vec<&(ReplicaId, LogIndex)>| {
            let mut replicas: Vec<QuorumReplica> =
                members.into_iter().map(|(member, matched)| replica(member, *matched)).collect();
            replicas.sort_by_key(|replica| replica.node);
            replicas
        };
        Ok(Quorum {
            leader: self.node,
            term: raft.role().term,
            committed: raft.committed(),
            voters: described(voters),
            observers: described(observers),
        })
    }
}
