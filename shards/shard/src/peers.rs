//! The other nodes: what is gathered for them, whether they are alive, and what their silence means for groups.
//!
//! A group whose leader is alive is not ticked and sends nothing while it has nothing to do. That a leader is alive is known of its
//! node, by one beat per interval and shard however many groups there are. So these rules take the place of each group's heartbeats:
//!
//! - Messages between two shards arrive in order or the connection breaks. When it is up again, leaders look how far
//!   their followers are ([`raft_group::Group::on_peer_connected`]), and followers wait for that word as for a heartbeat.
//! - A node that is not heard, or does not hear us, is lost: groups that it leads elect another leader. Groups led here that lost their
//!   majority are ticked, so that the leader steps down.
//! - A leader that stops leading asks for votes, by which its followers know (`Group::step`).

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::sync::Arc;

use bytes::Bytes;
use metadata::MetadataImage;
use raft_group::{Follower, FrameReader, FrameWriter, Message, MessageType};
use types::limits::{PEER_BYTES_QUEUED_MAX, PEER_FRAME_BYTES_FULL, WAL_FLUSH_BYTES_MAX};
use types::mutants::{Mutant, is_planted};
use types::{GroupId, NodeId, Now, ReplicaId};

use crate::event::{Effect, PeerAddress, ShardMessage};
use crate::peer_message::PeerMessage;
use crate::shard::{Hosted, Machine, Shard};

/// Between two beats to a node.
const BEAT_INTERVAL_MS: i64 = 100;

/// A node that was not heard for so long is lost.
const SILENCE_MS_MAX: i64 = 600;

/// One Raft tick of a group that needs them.
const TICK_INTERVAL_MS: i64 = 50;

/// A follower that has not come closer to its leader for so long is asked how far it is.
const LAG_CHECK_INTERVAL_MS: i64 = 250;

/// Between two looks at all groups for the metrics.
const COUNT_INTERVAL_MS: i64 = 5_000;

/// Messages for groups that the metadata has not named here yet, kept until it does.
const EARLY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Another node, as one shard sees it.
struct Peer {
    /// It belongs to the cluster. One that left stays here, with what the driver has not dropped yet of what was given for it.
    is_member: bool,
    /// The connection to it is up.
    is_connected: bool,
    heard_us: Option<u64>,
    /// As its last beat said.
    hears_us: bool,
    is_alive: bool,
    /// When it was last found to be alive again.
    alive_since_us: u64,
    /// The metadata shard says that it is alive. Shards that the peer has no counterpart of hear nothing of it themselves.
    is_said_alive: bool,
    /// Bytes given to the driver that have not left yet.
    queued_bytes: usize,
    /// What is gathered for the next frame.
    frame: FrameWriter,
}

/// The other nodes, as one shard sees them, and the groups that need time to pass.
pub(crate) struct Peers {
    own: NodeId,
    /// Where the members are.
    addresses: Vec<PeerAddress>,
    peers: BTreeMap<NodeId, Peer>,
    beat_at_us: u64,
    ticking: BTreeSet<GroupId>,
    tick_at_us: Option<u64>,
    /// Groups led here with a follower that lacks entries, and how far all followers were at the last look.
    lagging: BTreeMap<GroupId, Vec<Follower>>,
    lag_check_at_us: u64,
    balance_at_us: Option<u64>,
    count_at_us: u64,
    /// Messages for groups that are not hosted yet, and how much memory they take.
    early: BTreeMap<GroupId, Vec<(NodeId, Message)>>,
    early_bytes: usize,
}

impl Peers {
    pub(crate) fn new(now: Now, own: NodeId, balance_interval_ms: Option<i64>) -> Peers {
        Peers {
            own,
            addresses: Vec::new(),
            peers: BTreeMap::new(),
            beat_at_us: now.after_ms(BEAT_INTERVAL_MS),
            ticking: BTreeSet::new(),
            tick_at_us: None,
            lagging: BTreeMap::new(),
            lag_check_at_us: now.mono_us,
            balance_at_us: balance_interval_ms.map(|ms| now.after_ms(ms)),
            count_at_us: now.mono_us,
            early: BTreeMap::new(),
            early_bytes: 0,
        }
    }

    /// The other nodes are these. Returns those that are so no longer, and were.
    fn set_addresses(&mut self, addresses: Vec<PeerAddress>) -> Vec<NodeId> {
        let mut left: BTreeSet<NodeId> =
            self.peers.iter().filter(|(_, peer)| peer.is_member).map(|(node, _)| *node).collect();
        for PeerAddress { node, .. } in &addresses {
            left.remove(node);
            self.peers.entry(*node).or_insert_with(Peer::new).is_member = true;
        }
        for node in &left {
            let peer = self.peers.get_mut(node).expect("it was just listed");
            *peer = Peer { queued_bytes: peer.queued_bytes, is_alive: peer.is_alive, ..Peer::new() };
        }
        self.addresses = addresses;
        left.into_iter().collect()
    }

    /// When [`Shard::on_peers_deadline`] is due. `has_changes`: members of groups are to change.
    pub(crate) fn next_deadline_us(&self, has_changes: bool) -> Option<u64> {
        if self.peers.is_empty() {
            return None;
        }
        let lag_check = (!self.lagging.is_empty() || has_changes).then_some(self.lag_check_at_us);
        [Some(self.beat_at_us), self.tick_at_us, lag_check, self.balance_at_us].into_iter().flatten().min()
    }

    /// Whether a node is heard, and hears us. A node is so itself.
    pub(crate) fn is_alive(&self, node: NodeId) -> bool {
        node == self.own || self.peers.get(&node).is_some_and(|peer| peer.is_alive)
    }

    /// When another node was last heard, on the wall clock in milliseconds.
    pub(crate) fn heard_ms(&self, now: Now, node: NodeId) -> Option<i64> {
        let heard_us = self.peers.get(&node)?.heard_us?;
        let ago_ms = now.mono_us.saturating_sub(heard_us) / 1_000;
        Some(now.wall_ms - i64::try_from(ago_ms).expect("a process does not last so long"))
    }

    /// Whether another node has been alive for so long.
    pub(crate) fn is_settled(&self, now: Now, node: NodeId, ms: i64) -> bool {
        let since = self.peers.get(&node).filter(|peer| peer.is_alive).map(|peer| peer.alive_since_us);
        since.is_some_and(|since_us| since_us + ms.unsigned_abs() * 1_000 <= now.mono_us)
    }

    /// The other nodes that are alive.
    pub(crate) fn alive(&self) -> impl Iterator<Item = NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.is_alive).map(|(node, _)| *node)
    }

    /// Whether there is a connection to another node.
    pub(crate) fn is_connected(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.is_connected)
    }

    /// The other nodes that there is a connection to.
    pub(crate) fn connected(&self) -> impl Iterator<Item = NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.is_connected).map(|(node, _)| *node)
    }

    /// Whether more may be given for a node: it is connected and its queue is not full.
    pub(crate) fn has_room(&self, to: NodeId) -> bool {
        self.peers.get(&to).is_some_and(|peer| {
            peer.is_connected && peer.queued_bytes + peer.frame.len_bytes() <= PEER_BYTES_QUEUED_MAX
        })
    }

    /// Whether a node that is asked something can be expected to answer.
    pub(crate) fn is_reachable(&self, node: NodeId) -> bool {
        self.is_connected(node) && self.is_alive(node)
    }

    /// Gathers a message for a node; dropped where it is not connected.
    pub(crate) fn send(&mut self, to: NodeId, message: &PeerMessage, effects: &mut Vec<Effect>) {
        let Some(peer) = self.peers.get_mut(&to).filter(|peer| peer.is_connected) else { return };
        message.write(&mut peer.frame);
        if peer.frame.len_bytes() >= PEER_FRAME_BYTES_FULL {
            peer.flush(to, effects);
        }
    }

    /// Hands over what was gathered in this turn.
    pub(crate) fn flush(&mut self, effects: &mut Vec<Effect>) {
        for (to, peer) in &mut self.peers {
            peer.flush(*to, effects);
        }
    }

    /// The group is gone.
    pub(crate) fn forget_group(&mut self, group: GroupId) {
        self.ticking.remove(&group);
        self.lagging.remove(&group);
    }

    fn set_ticking(&mut self, now: Now, group: GroupId, is_ticking: bool) {
        if is_ticking {
            self.ticking.insert(group);
            self.tick_at_us.get_or_insert(now.after_ms(TICK_INTERVAL_MS));
        } else {
            self.ticking.remove(&group);
            if self.ticking.is_empty() {
                self.tick_at_us = None;
            }
        }
    }
}

impl Peer {
    fn new() -> Peer {
        Peer {
            is_member: false,
            is_connected: false,
            heard_us: None,
            hears_us: false,
            is_alive: false,
            alive_since_us: 0,
            is_said_alive: false,
            queued_bytes: 0,
            frame: FrameWriter::default(),
        }
    }

    fn flush(&mut self, to: NodeId, effects: &mut Vec<Effect>) {
        if !self.frame.is_empty() {
            let frame = std::mem::take(&mut self.frame);
            self.queued_bytes += frame.len_bytes();
            effects.push(Effect::SendToPeer { to, parts: frame.finish() });
        }
    }

    fn is_heard(&self, now: Now) -> bool {
        self.is_said_alive || self.is_heard_here(now)
    }

    fn is_heard_here(&self, now: Now) -> bool {
        self.heard_us.is_some_and(|heard_us| now.mono_us < heard_us + SILENCE_MS_MAX as u64 * 1_000)
    }
}

impl Shard {
    pub(crate) fn on_peer_connected(&mut self, now: Now, peer: NodeId) {
        let Some(found) = self.peers.peers.get_mut(&peer).filter(|found| found.is_member) else { return };
        found.is_connected = true;
        let hears_you = found.is_heard(now);
        self.peers.send(peer, &PeerMessage::Beat { hears_you }, &mut self.effects);
        self.look_at_replicas(peer);
        self.tell_leaders(peer);
        self.submit_waiting_changes();
        self.restart_pulls(now, peer);
    }

    pub(crate) fn on_peer_disconnected(&mut self, now: Now, peer: NodeId, has_ended: bool) {
        let Some(found) = self.peers.peers.get_mut(&peer) else { return };
        found.is_connected = false;
        found.frame = FrameWriter::default();
        if has_ended {
            found.heard_us = None;
            self.judge_peer(now, peer);
        }
        self.forget_deferred_pulls(peer);
        self.on_proposals_lost(peer);
    }

    /// Leaders here look how far their replicas on a node are.
    fn look_at_replicas(&mut self, peer: NodeId) {
        for (group, hosted) in &mut self.hosted {
            if hosted.raft.is_leader() && hosted.raft.has_member(peer) {
                hosted.raft.on_peer_connected(peer);
                self.dirty.insert(*group);
            }
        }
    }

    /// Whatever the peer's groups said before may be lost in part: their followers here wait for a new word, and leaders do not wait
    /// for what was answered before, such as that a snapshot is taken over.
    pub(crate) fn on_peer_joined(&mut self, now: Now, peer: NodeId) {
        self.look_at_replicas(peer);
        let followed: Vec<GroupId> = self
            .hosted
            .iter_mut()
            .filter(|(_, hosted)| hosted.raft.role().leader == Some(peer))
            .map(|(group, hosted)| {
                hosted.awaits_leader = true;
                *group
            })
            .collect();
        for group in followed {
            self.watch_ticks(now, group);
        }
    }

    pub(crate) fn on_peer_sent(&mut self, peer: NodeId, bytes: usize) {
        if let Some(found) = self.peers.peers.get_mut(&peer) {
            assert!(found.queued_bytes >= bytes, "no more is sent than was given");
            found.queued_bytes -= bytes;
        }
    }

    pub(crate) fn on_peer_frame(&mut self, now: Now, peer: NodeId, frame: Bytes) {
        let Some(found) = self.peers.peers.get_mut(&peer).filter(|found| found.is_member) else { return };
        let was_heard = found.is_heard_here(now);
        found.heard_us = Some(now.mono_us);
        if !was_heard {
            // It counts this node as alive once it knows, and may wait for that with an election.
            self.peers.send(peer, &PeerMessage::Beat { hears_you: true }, &mut self.effects);
        }
        let mut frame = FrameReader::new(frame);
        while frame.left_bytes() > 0 {
            match PeerMessage::read(peer, &mut frame) {
                Ok(message) => self.route_peer_message(now, peer, message),
                Err(error) => {
                    let what = format!("node {peer} sent what this release does not understand: {error}");
                    return self.effects.push(Effect::Warn(what));
                }
            }
        }
    }

    /// Brings a message to the shard that it is for.
    fn route_peer_message(&mut self, now: Now, peer: NodeId, message: PeerMessage) {
        let to = message.group().map(|group| self.config.broker.layout.shard_of(group));
        match to.filter(|to| *to != self.config.shard) {
            None => self.on_peer_message(now, peer, message),
            Some(to) => {
                let message = ShardMessage::FromPeer { peer, message };
                self.effects.push(Effect::SendToShard { to, message });
            }
        }
    }

    /// A message of another node for this shard.
    pub(crate) fn on_peer_message(&mut self, now: Now, peer: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::Beat { hears_you } => {
                self.raft_metrics.beats_received.increment(1);
                if let Some(found) = self.peers.peers.get_mut(&peer) {
                    found.hears_us = hears_you;
                    self.judge_peer(now, peer);
                }
            }
            PeerMessage::Raft { group, message } => self.on_raft_message(now, peer, group, message),
            PeerMessage::Leaders(changes) => {
                for change in changes {
                    self.on_leader(change);
                }
            }
            PeerMessage::Propose { request, command } => self.on_forwarded(peer, request, command),
            PeerMessage::Proposed { request, outcome } => self.on_proposed(now, request, outcome),
            PeerMessage::HandOver { group, to } => self.on_hand_over(now, group, to),
            PeerMessage::AskQuorum { request } => self.on_quorum_asked(now, peer, request),
            PeerMessage::Quorum { request, outcome } => self.on_quorum_told(request, outcome),
            PeerMessage::Pull { group, offset, bytes } => self.on_pull(now, peer, group, offset, bytes),
            PeerMessage::Pulled { group, offset, batches } => {
                self.on_pulled(now, peer, group, offset, &batches)
            }
        }
    }

    fn on_raft_message(&mut self, now: Now, peer: NodeId, group: GroupId, mut message: Message) {
        let (from, to) = (ReplicaId::from_raft_id(message.from), ReplicaId::from_raft_id(message.to));
        let Some(to) = to.filter(|to| from.is_some_and(|from| from.node == peer) && to.node == self.node)
        else {
            let what =
                format!("node {peer} sent a message of group {group} that is not its own or not for us");
            return self.effects.push(Effect::Warn(what));
        };
        if group == GroupId::METADATA {
            self.adopt_metadata_replica(now, to);
        }
        let Some(hosted) = self.hosted.get_mut(&group) else {
            // The group of a deleted topic has nothing to say any more. What finds no room is asked for again.
            let bytes = message_bytes(&message);
            if self.is_expected(group) && self.peers.early_bytes + bytes <= EARLY_BYTES_MAX {
                self.peers.early_bytes += bytes;
                self.peers.early.entry(group).or_default().push((peer, message));
            }
            return;
        };
        if to != hosted.raft.own() {
            // For a replica that this node had before, or is about to have.
            return;
        }
        let is_leaders_word = matches!(
            message.msg_type,
            MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot
        );
        if is_leaders_word {
            hosted.awaits_leader = false;
        }
        self.dirty.insert(group);
        if message.msg_type == MessageType::MsgSnapshot {
            return self.on_snapshot_offered(now, peer, group, message);
        }
        let is_append = message.msg_type == MessageType::MsgAppend && !message.entries.is_empty();
        if is_append && !self.wal.has_room(message_bytes(&message)) {
            // As if the entries were lost: they come again when there is room. That they follow on what is here is heard all the
            // same, and what is committed by now: it may be what frees WAL files.
            message.entries.clear();
        }
        let bytes = message_bytes(&message);
        hosted.undriven_bytes += bytes;
        let is_much = hosted.undriven_bytes >= WAL_FLUSH_BYTES_MAX;
        hosted.raft.step(message);
        if let Some((_, host)) = hosted.partition() {
            host.undriven_bytes += bytes;
            self.wal.on_proposed(bytes);
        }
        if is_much {
            // What one group is sent in a turn must fit one flush, however much of it comes at once.
            self.dirty.remove(&group);
            self.drive(now, group);
        }
    }

    /// Whether messages for a group that is not hosted are kept: it is about to be.
    fn is_expected(&self, group: GroupId) -> bool {
        self.image.may_allocate(group) || self.has_recovered(group)
    }

    /// The group is hosted now: what came for it before is taken in.
    pub(crate) fn deliver_early(&mut self, now: Now, group: GroupId) {
        let Some(early) = self.peers.early.remove(&group) else { return };
        self.peers.early_bytes -= early.iter().map(|(_, message)| message_bytes(message)).sum::<usize>();
        for (peer, message) in early {
            self.on_raft_message(now, peer, group, message);
        }
    }

    /// There is a newer image: groups that it neither brought here nor may bring are not waited for.
    pub(crate) fn drop_early(&mut self) {
        let groups = self.peers.early.keys().copied();
        let given_up: Vec<GroupId> = groups.filter(|group| !self.is_expected(*group)).collect();
        for group in given_up {
            let early = self.peers.early.remove(&group).expect("it was just listed");
            self.peers.early_bytes -= early.iter().map(|(_, message)| message_bytes(message)).sum::<usize>();
        }
    }

    /// Sends the Raft messages of a group. Entries and requests for votes for a node that does not keep up are left out; Raft sends
    /// them again, and they would gather without end.
    pub(crate) fn send_raft(&mut self, group: GroupId, messages: Vec<Message>) {
        for message in messages {
            let to = ReplicaId::from_raft_id(message.to).expect("Raft writes to replicas");
            let asks_for_votes =
                matches!(message.msg_type, MessageType::MsgRequestPreVote | MessageType::MsgRequestVote);
            let has_entries = !message.entries.is_empty();
            if (has_entries || asks_for_votes) && !self.peers.has_room(to.node) {
                if let Some(hosted) = self.hosted.get_mut(&group).filter(|_| has_entries) {
                    hosted.raft.on_message_dropped(to);
                }
                continue;
            }
            self.peers.send(to.node, &PeerMessage::Raft { group, message }, &mut self.effects);
        }
    }

    /// The time of [`Peers::next_deadline_us`] has come.
    pub(crate) fn on_peers_deadline(&mut self, now: Now) {
        if !self.peers.peers.is_empty() && self.peers.beat_at_us <= now.mono_us {
            self.peers.beat_at_us = now.after_ms(BEAT_INTERVAL_MS);
            self.beat(now);
        }
        if self.peers.tick_at_us.is_some_and(|at_us| at_us <= now.mono_us) {
            self.peers.tick_at_us = Some(now.after_ms(TICK_INTERVAL_MS));
            for group in self.peers.ticking.clone() {
                if let Some(hosted) = self.hosted.get_mut(&group) {
                    hosted.raft.tick();
                    self.dirty.insert(group);
                }
            }
        }
        if self.peers.lag_check_at_us <= now.mono_us {
            self.peers.lag_check_at_us = now.after_ms(LAG_CHECK_INTERVAL_MS);
            self.check_laggards(now);
            for group in self.moving.clone() {
                self.continue_move(now, group);
            }
            if self.is_changing_voters {
                self.change_voters();
            }
            self.share_out();
        }
        if self.peers.balance_at_us.is_some_and(|at_us| at_us <= now.mono_us) {
            self.peers.balance_at_us = self.config.leader_balance_interval_ms.map(|ms| now.after_ms(ms));
            if self.handover.is_none() {
                self.balance_leadership(now);
            }
        }
        if self.handover.is_some() {
            self.continue_handover(now);
        }
        if self.peers.count_at_us <= now.mono_us {
            self.peers.count_at_us = now.after_ms(COUNT_INTERVAL_MS);
            self.count_groups(now);
            self.count_consumer_groups();
            self.rest_pulls(now);
        }
    }

    /// Shows how many groups are led here, and how far behind the slowest follower is.
    fn count_groups(&self, now: Now) {
        let (mut leaders, mut lag, mut lag_bytes, mut lag_us) = (0u32, 0, 0, 0);
        for Hosted { raft, machine, .. } in self.hosted.values().filter(|hosted| hosted.raft.is_leader()) {
            leaders += 1;
            let last = raft.last_index();
            let Some(matched) = raft.followers().map(|follower| follower.matched).min() else { continue };
            lag = lag.max(last.0 - matched.0);
            lag_bytes = lag_bytes.max(raft.bytes_behind(matched));
            if let Machine::Partition(host) = machine {
                lag_us = lag_us.max(host.lag_us(now, raft));
            }
        }
        let hosted = u32::try_from(self.hosted.len()).expect("groups are bounded far below 2^32");
        let ticking = u32::try_from(self.peers.ticking.len()).expect("so are these");
        self.raft_metrics.leaders.set(f64::from(leaders));
        self.raft_metrics.followers.set(f64::from(hosted - leaders));
        self.raft_metrics.ticking.set(f64::from(ticking));
        self.raft_metrics.lag_entries.set(lag as f64);
        self.raft_metrics.lag_bytes.set(lag_bytes as f64);
        self.raft_metrics.lag_seconds.set(lag_us as f64 / 1e6);
    }

    fn beat(&mut self, now: Now) {
        let peers: Vec<NodeId> = self.peers.peers.keys().copied().collect();
        for peer in peers {
            self.judge_peer(now, peer);
            let hears_you = self.peers.peers[&peer].is_heard(now);
            self.peers.send(peer, &PeerMessage::Beat { hears_you }, &mut self.effects);
            self.raft_metrics.beats_sent.increment(1);
        }
    }

    /// Decides whether a node is alive.
    fn judge_peer(&mut self, now: Now, peer: NodeId) {
        let found = self.peers.peers.get_mut(&peer).expect("the caller knows the peer");
        let is_alive = found.is_said_alive || (found.is_heard_here(now) && found.hears_us);
        if std::mem::replace(&mut found.is_alive, is_alive) == is_alive {
            return;
        }
        found.alive_since_us = now.mono_us;
        self.raft_metrics.set_alive(peer, is_alive);
        let groups: Vec<GroupId> = self.hosted.keys().copied().collect();
        for group in groups {
            let hosted = self.hosted.get_mut(&group).expect("it was just listed");
            if !hosted.raft.has_member(peer) && hosted.raft.role().leader != Some(peer) {
                continue;
            }
            if !is_alive && hosted.raft.role().leader == Some(peer) {
                hosted.raft.forget_leader();
                self.dirty.insert(group);
            }
            if is_alive && hosted.raft.is_leader() {
                // It may have forgotten us, though no connection broke.
                hosted.raft.on_peer_connected(peer);
                self.dirty.insert(group);
            }
            if is_alive && hosted.raft.has_majority(|node| self.peers.is_alive(node)) {
                hosted.raft.hasten_election();
            }
            self.watch_ticks(now, group);
            self.watch_in_sync(now, group);
        }
        self.restart_pulls(now, peer);
        self.tell_alive();
    }

    /// The metadata shard says who is alive. It hears all nodes, whatever the numbers of their shards.
    pub(crate) fn on_alive(&mut self, now: Now, alive: Arc<BTreeSet<NodeId>>) {
        let peers: Vec<NodeId> = self.peers.peers.keys().copied().collect();
        for peer in peers {
            self.peers.peers.get_mut(&peer).expect("it was just listed").is_said_alive =
                alive.contains(&peer);
            self.judge_peer(now, peer);
        }
        self.broker.on_alive(alive);
    }

    /// Tells all shards of this node who is alive, as the metadata shard hears them.
    fn tell_alive(&mut self) {
        if self.config.broker.layout.metadata_shard() == self.config.shard {
            let alive = Arc::new(self.peers.alive().chain([self.node]).collect::<BTreeSet<NodeId>>());
            self.send_to_all(|| ShardMessage::Alive(Arc::clone(&alive)));
            self.broker.on_alive(alive);
        }
    }

    /// Begins or ends the ticks of a group: it needs them while it looks for a leader, and to notice that it lost its majority.
    pub(crate) fn watch_ticks(&mut self, now: Now, group: GroupId) {
        let Some(hosted) = self.hosted.get(&group) else { return };
        let is_ticking = self.needs_ticks(group, hosted);
        self.peers.set_ticking(now, group, is_ticking);
        self.watch_lag(now, group);
    }

    fn needs_ticks(&self, group: GroupId, hosted: &Hosted) -> bool {
        let raft = &hosted.raft;
        if is_planted(Mutant::NoElection) {
            return false;
        }
        match raft.role().leader {
            // A node that may not begin a cluster waits until one finds it.
            None => {
                let is_blank = group == GroupId::METADATA && raft.is_new();
                !is_blank || self.config.may_begin_cluster
            }
            Some(leader) if leader == self.node => {
                raft.is_transferring() || !raft.has_majority(|node| self.peers.is_alive(node))
            }
            Some(leader) => hosted.awaits_leader || !self.peers.is_alive(leader),
        }
    }

    /// Notes whether a group led here has followers that lack entries.
    fn watch_lag(&mut self, now: Now, group: GroupId) {
        let Some(hosted) = self.hosted.get_mut(&group) else { return };
        let last = hosted.raft.last_index();
        let lags = hosted
            .raft
            .followers()
            .any(|follower| follower.matched < last && self.peers.is_alive(follower.replica.node));
        if lags {
            if let btree_map::Entry::Vacant(vacant) = self.peers.lagging.entry(group) {
                vacant.insert(Vec::new());
                if let Machine::Partition(host) = &mut hosted.machine {
                    host.begin_lagging(now, &hosted.raft);
                }
            }
            return;
        }
        self.peers.lagging.remove(&group);
        // A replica that came back has everything now.
        let alive = hosted.raft.voters().iter().filter(|voter| self.peers.is_alive(voter.node)).count();
        if hosted.in_sync().is_some_and(|in_sync| in_sync < alive) {
            self.watch_in_sync(now, group);
        }
    }

    /// Asks followers that lack entries and have not come closer, whatever the others do: what they were sent is lost.
    fn check_laggards(&mut self, now: Now) {
        let groups: Vec<GroupId> = self.peers.lagging.keys().copied().collect();
        for group in groups {
            let Some(hosted) = self.hosted.get_mut(&group) else { continue };
            let last = hosted.raft.last_index();
            let followers: Vec<Follower> = hosted.raft.followers().collect();
            let before = self.peers.lagging.insert(group, followers.clone()).unwrap_or_default();
            let is_stuck = |follower: &Follower| follower.matched < last && before.contains(follower);
            if followers.iter().any(is_stuck) {
                hosted.raft.ping();
                self.dirty.insert(group);
            }
            self.watch_in_sync(now, group);
        }
    }

    /// Keeps the set of in-sync replicas of a partition that this node leads, and tells of changes.
    pub(crate) fn watch_in_sync(&mut self, now: Now, group: GroupId) {
        let lag_ms_max = self.config.replica_lag_ms_max;
        let Some(Hosted { raft, machine: Machine::Partition(host), .. }) = self.hosted.get_mut(&group) else {
            return;
        };
        if !host.role.serving {
            return;
        }
        let peers = &self.peers;
        let before = host.in_sync.len();
        if host.update_in_sync(now, lag_ms_max, raft, |node| peers.is_alive(node)) {
            match host.in_sync.len() < before {
                true => self.raft_metrics.in_sync_shrinks.increment(1),
                false => self.raft_metrics.in_sync_expansions.increment(1),
            }
            let change = host.leader_change(group, self.node);
            self.report_leader(change);
        }
    }

    /// A partition has another leader or term: this node begins to lead it, or hears who does.
    pub(crate) fn begin_leading(&mut self, now: Now, group: GroupId) {
        let Some(Hosted { raft, machine: Machine::Partition(host), .. }) = self.hosted.get_mut(&group) else {
            return;
        };
        if host.role.serving {
            let peers = &self.peers;
            host.begin_leading(now, raft, |node| peers.is_alive(node));
            self.raft_metrics.elections.increment(1);
        }
        let change = host.leader_change(group, self.node);
        self.report_leader(change);
    }

    /// The shard begins: the driver is told whom to connect to.
    pub(crate) fn begin_peers(&mut self, now: Now) {
        if self.config.is_clustered {
            self.set_peers(now, self.config.peers.clone());
        }
    }

    /// A newer image may know of other nodes, and of other directories of theirs.
    pub(crate) fn update_peers(&mut self, now: Now, before: &MetadataImage) {
        let image = Arc::clone(&self.image);
        if !before.directories().eq(image.directories()) {
            let directories = image.directories().collect();
            self.effects.push(Effect::KnownDirectories { directories });
        }
        let addresses = self.known_addresses();
        if image.voters().len() > 0 && addresses != self.peers.addresses {
            self.set_peers(now, addresses);
        }
    }

    /// Where the other nodes are: as they were configured here, or as they were added, or as they say themselves.
    fn known_addresses(&self) -> Vec<PeerAddress> {
        let configured = |node: NodeId| self.config.peers.iter().find(|peer| peer.node == node).cloned();
        let others = self.image.voters().filter(|(node, _)| *node != self.node);
        let mut addresses: Vec<PeerAddress> = others
            .filter_map(|(node, voter)| {
                let said = self.image.broker(node).and_then(|broker| broker.peer.as_ref());
                let known = voter.peer.as_ref().or(said);
                let known = known.map(|at| PeerAddress { node, host: at.host.clone(), port: at.port });
                configured(node).or(known)
            })
            .collect();
        if !self.is_image_current() {
            // What has changed since this node was last here is yet to be heard, perhaps from one that is new to it.
            let is_new = |peer: &&PeerAddress| addresses.iter().all(|known| known.node != peer.node);
            let new: Vec<PeerAddress> = self.config.peers.iter().filter(is_new).cloned().collect();
            addresses.extend(new);
            addresses.sort_by_key(|peer| peer.node);
        }
        addresses
    }

    fn set_peers(&mut self, now: Now, addresses: Vec<PeerAddress>) {
        self.effects.push(Effect::SetPeers { peers: addresses.clone() });
        for left in self.peers.set_addresses(addresses) {
            self.judge_peer(now, left);
        }
    }
}

/// About what a message takes in memory.
fn message_bytes(message: &Message) -> usize {
    let entries = message.entries.iter().map(|entry| entry.data.len() + entry.context.len() + 128);
    256 + entries.sum::<usize>() + message.get_snapshot().data.len()
}
