//! Leadership that moves on purpose: away from a node that ends, and back to the replicas that are to lead.

use raft_group::Group;
use types::{GroupId, LogIndex, NodeId, Now};

use crate::event::{Effect, ShardMessage};
use crate::peer_message::PeerMessage;
use crate::shard::{Hosted, Machine, Shard};

/// How long a node that ends may take to hand over what it leads.
const HANDOVER_MS_MAX: i64 = 5_000;

/// Between two attempts to hand over a group. Raft gives one up after an election time-out.
const HANDOVER_RETRY_MS: i64 = 600;

/// A node leads again what it is to lead after it was alive for so long.
const SETTLED_MS: i64 = 5_000;

/// The handing over of all that a node that ends leads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handover {
    begun_us: u64,
    ends_us: u64,
    retry_us: u64,
}

impl Handover {
    pub(crate) fn next_deadline_us(&self) -> u64 {
        self.retry_us.min(self.ends_us)
    }
}

impl Hosted {
    /// Hands the group over to the voter of a node, if there is one.
    fn hand_over(&mut self, now: Now, to: NodeId) -> bool {
        let begins = self.raft.transfer_leadership(to);
        if begins {
            self.handing_over_since_us.get_or_insert(now.mono_us);
        }
        begins
    }
}

impl Shard {
    /// The process is to end: first others are to lead what this node leads.
    pub(crate) fn begin_handover(&mut self, now: Now) {
        let ends_us = now.after_ms(HANDOVER_MS_MAX);
        self.handover = Some(Handover { begun_us: now.mono_us, ends_us, retry_us: now.mono_us });
        self.continue_handover(now);
    }

    /// Goes on with the end of the process once nothing is led here, or it took too long.
    pub(crate) fn continue_handover(&mut self, now: Now) {
        let Some(handover) = &mut self.handover else { return };
        let is_due = handover.retry_us <= now.mono_us;
        if is_due {
            handover.retry_us = now.after_ms(HANDOVER_RETRY_MS);
        }
        let is_over = handover.ends_us <= now.mono_us;
        let passed_us = now.mono_us - handover.begun_us;
        let peers = &self.peers;
        let mut led = 0;
        for (group, hosted) in &mut self.hosted {
            let Some(to) = heir(&hosted.raft, |node| peers.is_alive(node)) else { continue };
            led += 1;
            if is_due {
                hosted.hand_over(now, to);
                self.raft_metrics.handovers.increment(1);
                self.dirty.insert(*group);
            }
        }
        if led == 0 || is_over {
            self.handover = None;
            self.raft_metrics.shutdown_seconds.record(passed_us as f64 / 1e6);
            self.finish_accepted(now);
        }
    }

    /// Leadership of partitions goes back to their first replicas (Kafka's `auto.leader.rebalance.enable`), once they have been
    /// back for a while.
    pub(crate) fn balance_leadership(&mut self, now: Now) {
        let peers = &self.peers;
        for (group, hosted) in &mut self.hosted {
            let Machine::Partition(host) = &hosted.machine else { continue };
            let preferred = host.placed().wanted_brokers()[0];
            if hosted.raft.is_leader()
                && preferred != self.node
                && peers.is_settled(now, preferred, SETTLED_MS)
                && is_caught_up(&hosted.raft, preferred)
                && hosted.hand_over(now, preferred)
            {
                self.raft_metrics.handovers.increment(1);
                self.dirty.insert(*group);
            }
        }
    }

    /// Somebody asks for another leader of a group that this node leads.
    pub(crate) fn on_hand_over(&mut self, now: Now, group: GroupId, to: NodeId) {
        let Some(hosted) = self.hosted.get_mut(&group) else { return };
        if hosted.raft.is_leader() && to != self.node && hosted.hand_over(now, to) {
            self.raft_metrics.handovers.increment(1);
            self.dirty.insert(group);
        }
    }

    /// Measures how long a group is without a leader, and how long leadership takes to be handed over.
    pub(crate) fn watch_durations(&mut self, now: Now, group: GroupId) {
        let Some(hosted) = self.hosted.get_mut(&group) else { return };
        let seconds_since = |since_us: u64| now.mono_us.saturating_sub(since_us) as f64 / 1e6;
        let role = hosted.raft.role();
        match role.leader {
            None => {
                hosted.leaderless_since_us.get_or_insert(now.mono_us);
            }
            // It begins to serve once an entry of its term is committed.
            Some(leader) if leader == self.node && !role.serving => {}
            Some(leader) => {
                let since = hosted.leaderless_since_us.take().filter(|_| leader == self.node);
                since.iter().for_each(|us| self.raft_metrics.election_seconds.record(seconds_since(*us)));
            }
        }
        if !hosted.raft.is_transferring() {
            let since = hosted.handing_over_since_us.take().filter(|_| !hosted.raft.is_leader());
            since.iter().for_each(|us| self.raft_metrics.handover_seconds.record(seconds_since(*us)));
        }
    }

    /// Brings a wish for another leader to the shard that leads the group.
    pub(crate) fn ask_hand_over(&mut self, now: Now, leader: NodeId, group: GroupId, to: NodeId) {
        if leader != self.node {
            return self.peers.send(leader, &PeerMessage::HandOver { group, to }, &mut self.effects);
        }
        let shard = self.config.broker.layout.shard_of(group);
        if shard == self.config.shard {
            return self.on_hand_over(now, group, to);
        }
        let message = PeerMessage::HandOver { group, to };
        self.effects.push(Effect::SendToShard {
            to: shard,
            message: ShardMessage::FromPeer { peer: leader, message },
        });
    }
}

/// Who is to lead a group that this node leads and leaves: of those alive, the one that has most of it.
fn heir(raft: &Group, is_alive: impl Fn(NodeId) -> bool) -> Option<NodeId> {
    let voters = &raft.membership().voters;
    let heirs = raft
        .followers()
        .filter(|follower| is_alive(follower.replica.node) && voters.contains(&follower.replica));
    heirs
        .max_by_key(|follower| (follower.matched, std::cmp::Reverse(follower.replica)))
        .map(|follower| follower.replica.node)
}

fn is_caught_up(raft: &Group, node: NodeId) -> bool {
    let matched = raft.followers().find(|follower| follower.replica.node == node);
    matched.is_some_and(|follower| follower.matched > LogIndex(0) && follower.matched == raft.last_index())
}
