//! The metadata group's shard: changes from this node and from others are proposed or passed on to the leader, and what is
//! applied is published.

use std::sync::Arc;

use bytes::Bytes;
use metadata::Command;
use protocol::messages::ErrorCode;
use raft_group::{Group, Role};
use types::limits::BATCH_BYTES_MAX;
use types::{GroupId, LogIndex, NodeId, Now, Term};

use crate::event::{Effect, FatalReason, ShardMessage};
use crate::metadata_host::{MetadataHost, Waiter};
use crate::peer_message::PeerMessage;
use crate::shard::{Hosted, Machine, Shard};
use crate::wal::Unit;

impl Shard {
    /// The metadata group and its state machine, on the shard that hosts it.
    fn metadata(&mut self) -> Option<(&mut Group, &mut MetadataHost)> {
        match self.hosted.get_mut(&GroupId::METADATA) {
            Some(Hosted { raft, machine: Machine::Metadata(host), .. }) => Some((raft, host)),
            _ => None,
        }
    }

    /// Brings a change to the leader of the metadata group. Its outcome, or that there is none, comes through the
    /// metadata host, where somebody waits for it.
    pub(crate) fn change_metadata(&mut self, command: &Command, waiter: Option<Waiter>) {
        self.submit_change(command.encode(), waiter);
    }

    fn submit_change(&mut self, command: Bytes, waiter: Option<Waiter>) {
        // No frame between nodes takes more either.
        if command.len() > BATCH_BYTES_MAX {
            let answer =
                |waiter: Waiter| (waiter.0, broker::OpResult::Metadata(Err(ErrorCode::MessageTooLarge)));
            return self.answers.extend(waiter.map(answer));
        }
        // What this node proposes for itself is small and must not be lost to a full WAL.
        let has_room = waiter.is_none() || self.wal.has_room(command.len());
        let node = self.node;
        let Some((raft, host)) = self.metadata() else {
            unreachable!("changes of the metadata are brought to the shard that hosts it")
        };
        let leader = leader_of(raft, node);
        match leader {
            Some(leader) if leader == node => {
                match propose(raft, &command, has_room) {
                    Ok((index, term)) => {
                        if let Some(waiter) = waiter {
                            host.on_proposed(index, term, waiter);
                        }
                        self.dirty.insert(GroupId::METADATA);
                    }
                    Err(error) => {
                        let answer = |waiter: Waiter| (waiter.0, broker::OpResult::Metadata(Err(error)));
                        self.answers.extend(waiter.map(answer));
                    }
                };
            }
            Some(leader) if self.peers.is_connected(leader) => {
                let Some((_, host)) = self.metadata() else { return };
                let request = host.on_forwarded(leader, Some(command.clone()), waiter);
                let message = PeerMessage::Propose { request, command };
                self.peers.send(leader, &message, &mut self.effects);
            }
            // There is no leader, or none that can be reached: it waits for the next one, or the connection.
            Some(_) | None => {
                if let (Some((_, host)), Some(waiter)) = (self.metadata(), waiter) {
                    host.wait_for_leader(command, waiter);
                }
            }
        }
    }

    /// Changes that waited for a leader that can be reached are tried again.
    pub(crate) fn submit_waiting_changes(&mut self) {
        let Some((_, host)) = self.metadata() else { return };
        for (command, waiter) in host.take_waiting() {
            self.submit_change(command, Some(waiter));
        }
    }

    /// Somebody waits for another leader of a group.
    pub(crate) fn await_hand_over(&mut self, group: GroupId, to: NodeId, waiter: Waiter) {
        let Some((_, host)) = self.metadata() else {
            unreachable!("leaders are known on the shard that hosts the metadata")
        };
        host.await_hand_over(group, to, waiter);
    }

    /// Another node passes a change on to us.
    pub(crate) fn on_forwarded(&mut self, peer: NodeId, request: u64, command: Bytes) {
        let has_room = self.wal.has_room(command.len());
        let Some((raft, _)) = self.metadata() else { return };
        let outcome = propose(raft, &command, has_room);
        self.dirty.insert(GroupId::METADATA);
        // It goes before the entry itself, so that the other node waits for the entry before it applies it.
        self.peers.send(peer, &PeerMessage::Proposed { request, outcome }, &mut self.effects);
    }

    /// The leader answers what was passed on to it.
    pub(crate) fn on_proposed(
        &mut self,
        now: Now,
        request: u64,
        outcome: Result<(LogIndex, Term), ErrorCode>,
    ) {
        if let Some((_, host)) = self.metadata() {
            host.on_forwarded_answered(now, request, outcome);
        }
    }

    /// The connection to a node is gone, and with it what it was to propose.
    pub(crate) fn on_proposals_lost(&mut self, peer: NodeId) {
        if let Some((_, host)) = self.metadata() {
            host.on_forwarded_lost(peer);
        }
    }

    /// The metadata group was driven: it may have another leader.
    pub(crate) fn watch_metadata_role(&mut self, role: Role) {
        let registration = self.config.registration.clone();
        let first_voters = self.config.first_voters.clone();
        let node = self.node;
        let Some((_, host)) = self.metadata() else { return };
        let leader = role.leader.filter(|leader| *leader != node || role.serving);
        if host.watch_leader(leader) && leader.is_some() {
            host.register_now();
            self.submit_waiting_changes();
        }
        let Some((_, host)) = self.metadata() else { return };
        if role.serving
            && let Some(command) = host.plan_cluster_id(role.term, &first_voters, &registration)
        {
            self.change_metadata(&command, None);
        }
    }

    pub(crate) fn on_metadata_deadline(&mut self, now: Now) {
        let Some((_, host)) = self.metadata() else { return };
        host.on_deadline(now);
        if host.take_retry(now) {
            self.submit_waiting_changes();
        }
    }

    /// Publishes a changed image to all shards, then gives the answers that depend on it.
    pub(crate) fn publish_metadata(&mut self, now: Now) {
        let Some((_, host)) = self.metadata() else { return };
        if let Some(image) = host.take_image() {
            self.send_to_all(|| ShardMessage::Image(Arc::clone(&image)));
            self.on_image(now, image);
            // It may want other voters.
            self.change_voters();
        }
        let Some((_, host)) = self.metadata() else { return };
        let (answers, is_joined) = (host.take_answers(), host.is_joined());
        self.answers.extend(answers);
        if !is_joined {
            self.join(now);
        }
        self.checkpoint_metadata(false);
    }

    /// Registers this node, until it is a member of the cluster.
    fn join(&mut self, now: Now) {
        let registration = self.config.registration.clone();
        let node = self.node;
        let Some((raft, host)) = self.metadata() else { return };
        let has_leader = leader_of(raft, node).is_some();
        let joined = host.take_joined(&registration);
        let registering = host.plan_registration(now, has_leader, &registration);
        let refusal = host.take_refusal(&registration);
        self.effects.extend(refusal.map(Effect::Warn));
        if let Some(cluster_id) = joined {
            self.effects.push(Effect::Joined { cluster_id });
        }
        if let Some(command) = registering {
            self.change_metadata(&command, None);
        }
    }

    /// Writes the metadata's state to the WAL, so that the entries before it may go.
    pub(crate) fn checkpoint_metadata(&mut self, forced: bool) {
        let Some((raft, host)) = self.metadata() else { return };
        let Some(state) = host.take_checkpoint(forced) else { return };
        let (index, (previous, _)) = (raft.applied(), raft.checkpointed());
        raft.on_checkpointed(index);
        // What came since the last checkpoint but one stays in memory for followers that lag.
        raft.compact(previous);
        let records = vec![raft.checkpoint_record(&state)];
        // Forced, it frees a WAL file that somebody may wait for.
        self.wal.push(Unit::of_shard(GroupId::METADATA, records, forced));
    }

    /// Writes a checkpoint of what the metadata's last one lacks. The one that frees a file may still be on its way.
    pub(crate) fn checkpoint_new_metadata(&mut self) {
        if self.metadata().is_some_and(|(raft, _)| raft.applied() > raft.checkpointed().0) {
            self.checkpoint_metadata(true);
        }
    }

    /// Takes over the leader's metadata. Returns the state as it goes to the WAL.
    pub(crate) fn restore_metadata(&mut self, state: &[u8]) -> Option<Bytes> {
        let (_, host) = self.metadata()?;
        match host.restore(state) {
            Ok(()) => Some(host.snapshot()),
            Err(why) => {
                self.fatal(FatalReason::Damaged(why));
                None
            }
        }
    }

    /// Tells the other nodes of groups that this one has begun to lead.
    pub(crate) fn send_leaders(&mut self) {
        let Some((_, host)) = self.metadata() else { return };
        let news = host.take_untold();
        if news.is_empty() {
            return;
        }
        let message = PeerMessage::Leaders(news);
        let peers: Vec<NodeId> = self.peers.connected().collect();
        for peer in peers {
            self.peers.send(peer, &message, &mut self.effects);
        }
    }

    /// Tells a node that has just been reached of all groups that this one leads.
    pub(crate) fn tell_leaders(&mut self, peer: NodeId) {
        let node = self.node;
        let Some((_, host)) = self.metadata() else { return };
        let led = host.led_by(node);
        if !led.is_empty() {
            self.peers.send(peer, &PeerMessage::Leaders(led), &mut self.effects);
        }
    }
}

/// Who takes changes of the metadata: the leader, once it serves if that is this node.
fn leader_of(raft: &Group, node: NodeId) -> Option<NodeId> {
    let role = raft.role();
    role.leader.filter(|leader| *leader != node || role.serving)
}

/// Proposes an encoded command to the metadata group. Returns where it stands if it commits.
fn propose(raft: &mut Group, command: &Bytes, has_room: bool) -> Result<(LogIndex, Term), ErrorCode> {
    // Every node ends at an entry that it cannot read, at each start again: none such may get into the log.
    Command::decode(command).map_err(|_| ErrorCode::InvalidRequest)?;
    let role = raft.role();
    if !role.serving {
        return Err(ErrorCode::NotController);
    }
    if !has_room {
        return Err(ErrorCode::KafkaStorageError);
    }
    match raft.propose(Bytes::new(), command.clone()) {
        Ok(index) => Ok((index, role.term)),
        Err(_) => Err(ErrorCode::NotController),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_node_could_read_again_is_refused_before_anything_else() {
        let own = types::ReplicaId::first(NodeId(1));
        let mut raft = Group::create(GroupId::METADATA, own, vec![own]);
        let mut propose = |node| propose(&mut raft, &Command::UnregisterBroker { node }.encode(), true);
        assert_eq!(propose(NodeId(-1)), Err(ErrorCode::InvalidRequest));
        assert_eq!(propose(NodeId(1)), Err(ErrorCode::NotController), "it is not led yet");
    }
}
