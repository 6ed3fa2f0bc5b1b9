//! Replicas that are to be elsewhere: the leader of a partition changes the members of its group, as the metadata decide, and
//! tells the metadata when it is done. The metadata group's leader does the same for that group.

use log::wal::Record;
use metadata::Command;
use types::{GroupId, Now, ReplicaId};

use crate::event::{Effect, ShardMessage};
use crate::shard::{Hosted, Machine, Shard};
use crate::wal::Unit;

/// Between two reports of the same move: the first one may be lost with the metadata's leader.
const REPORT_INTERVAL_MS: i64 = 1_000;

/// Partitions that move at once while brokers that have joined get their share. Each is bounded in bytes per second
/// besides, on the broker that it moves to.
const SHARED_MOVES_MAX: usize = 32;

impl Shard {
    /// Goes on with the move of a partition's replicas, where this node leads it and there is one.
    pub(crate) fn continue_move(&mut self, now: Now, group: GroupId) {
        if !self.moving.contains(&group) {
            return;
        }
        let lag_ms_max = self.config.replica_lag_ms_max;
        let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        let placed = host.placed();
        let (decision, wanted) = (placed.decision(), placed.wanted());
        if !placed.is_moving() {
            self.moving.remove(&group);
            return;
        }
        if !host.role.serving {
            return;
        }
        if decision < host.partition.decision() {
            // The group has been told of a later one, which is on its way to this node.
            return;
        }
        self.watch_in_sync(now, group);
        let Some((raft, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        let context = partition::Command::Membership { decision }.encode();
        let is_recorded = host.partition.decision() == decision;
        let is_done = raft.change_members(&wanted, context, is_recorded, |follower| {
            host.is_caught_up(now, lag_ms_max, follower.replica)
        });
        if raft.has_work() {
            self.dirty.insert(group);
        }
        if is_done && host.may_report_move(now, decision, REPORT_INTERVAL_MS) {
            self.report_moved(group, decision);
        }
    }

    fn report_moved(&mut self, group: GroupId, decision: u32) {
        let hub = self.config.broker.layout.metadata_shard();
        if hub == self.config.shard {
            return self.on_moved(group, decision);
        }
        self.effects.push(Effect::SendToShard { to: hub, message: ShardMessage::Moved { group, decision } });
    }

    /// The leader of a partition, on this node, has carried out a decision.
    pub(crate) fn on_moved(&mut self, group: GroupId, decision: u32) {
        if let Some(Hosted { machine: Machine::Metadata(host), .. }) = self.hosted.get_mut(&GroupId::METADATA)
        {
            host.on_moved(group, decision);
        }
    }

    /// Proposes what leaders have reported since the last turn, all together.
    pub(crate) fn complete_moves(&mut self) {
        let Some(Hosted { machine: Machine::Metadata(host), .. }) = self.hosted.get_mut(&GroupId::METADATA)
        else {
            return;
        };
        let moves = host.take_moved();
        if !moves.is_empty() {
            self.change_metadata(&Command::CompleteMoves { moves }, None);
        }
    }

    /// Goes on with a change of the metadata group's voters, where this node leads it.
    pub(crate) fn change_voters(&mut self) {
        let wanted = self.image.metadata_replicas();
        let Some(Hosted { raft, .. }) = self.hosted.get_mut(&GroupId::METADATA) else { return };
        self.is_changing_voters = raft.is_leader() && !wanted.is_empty() && {
            let committed = raft.committed();
            !raft.change_members(&wanted, bytes::Bytes::new(), true, |follower| follower.matched >= committed)
        };
        if raft.has_work() {
            self.dirty.insert(GroupId::METADATA);
        }
    }

    /// Goes on giving brokers that have joined their share of the partitions, where this node leads the metadata group: a few
    /// moves at a time, none while others are under way or a broker is away.
    pub(crate) fn share_out(&mut self) {
        let image = std::sync::Arc::clone(&self.image);
        let leads = self.hosted.get(&GroupId::METADATA).is_some_and(|hosted| hosted.raft.role().serving);
        if !leads || !image.is_rebalancing() || !self.config.shares_out {
            return;
        }
        let is_settled = image.brokers().all(|broker| self.peers.is_alive(broker.node))
            && image.topics().flat_map(|topic| &topic.partitions).all(|partition| !partition.is_moving());
        if !is_settled {
            return;
        }
        let Some(partitions) = metadata::plan_share(&image, SHARED_MOVES_MAX) else { return };
        let command = match partitions.is_empty() {
            true => Command::FinishRebalance,
            false => Command::Reassign { partitions },
        };
        self.change_metadata(&command, None);
    }

    /// The metadata group knows this node by a newer replica than the one that is here: it was added to the group, perhaps
    /// once more. What is here ends, and the other one begins, empty.
    pub(crate) fn adopt_metadata_replica(&mut self, now: Now, own: ReplicaId) {
        // What is under way for the former one would be taken for the new one's.
        if self.wal.concerns(GroupId::METADATA) {
            return;
        }
        let Some(Hosted { raft, machine: Machine::Metadata(host), .. }) = self.hosted.get(&GroupId::METADATA)
        else {
            return;
        };
        if own <= raft.own() {
            return;
        }
        let snapshot = host.snapshot();
        self.wal.push(Unit::of_shard(
            GroupId::METADATA,
            vec![Record::GroupRemoved { group: GroupId::METADATA }],
            false,
        ));
        let created = self.create_group(GroupId::METADATA, own, Vec::new(), &snapshot);
        let hosted = self.hosted.get_mut(&GroupId::METADATA).expect("it was just seen");
        hosted.raft = created;
        hosted.awaits_leader = false;
        self.dirty.insert(GroupId::METADATA);
        self.watch_ticks(now, GroupId::METADATA);
    }
}
