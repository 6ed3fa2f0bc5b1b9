//! Replicas that lack more than their leader's log still holds.
//!
//! The leader offers a snapshot: where its log goes on, and what it knows of producers and leader epochs as of then. Batches
//! are not in it. The follower pulls those that it lacks from the leader, by offset and a piece at a time, into segments of its own, and takes
//! the snapshot over when the last one is durable. All of them are committed, so that it does no harm when this is given up
//! half way: the next offer finds less missing.

use std::collections::BTreeMap;

use bytes::Bytes;
use log::wal::Record;
use partition::Position;
use raft_group::{Group, InstalledSnapshot, Message};
use types::limits::{PULL_BYTES, PULLS_PER_SHARD_MAX, SEGMENT_WRITE_BYTES_MAX};
use types::{GroupId, NodeId, Now, Offset};

use crate::event::{Effect, FatalReason};
use crate::partition_host::{Folder, PartitionHost};
use crate::peer_message::PeerMessage;
use crate::pull_pace::{EndedCatchUp, Haste};
use crate::reads::{Read, Want};
use crate::shard::{Hosted, Machine, Shard};
use crate::throttle::DeferredPull;

/// What a replica is to have before it takes over its leader's snapshot.
#[derive(Debug)]
pub(crate) struct CatchUp {
    leader: NodeId,
    /// When the first offer came, on the monotonic clock in microseconds.
    since_us: u64,
    /// The snapshot, as it goes to Raft in the end.
    message: Message,
    /// Where the leader's log starts and ends as of the snapshot.
    log_start: Offset,
    end: Offset,
    /// The offset that was asked for, and when.
    asked: Option<(Offset, u64)>,
    haste: Haste,
}

impl Shard {
    /// Keeps a snapshot where Raft has asked for one.
    pub(crate) fn offer_snapshot(&mut self, group: GroupId) {
        let Some(hosted) = self.hosted.get_mut(&group) else { return };
        if hosted.raft.wants_snapshot() {
            let state = match &hosted.machine {
                Machine::Partition(host) => host.partition.snapshot(),
                Machine::Metadata(host) => host.snapshot(),
            };
            hosted.raft.offer_snapshot(state);
            self.raft_metrics.snapshots_offered.increment(1);
            self.dirty.insert(group);
        }
    }

    /// The leader offers its state in place of entries.
    pub(crate) fn on_snapshot_offered(&mut self, now: Now, leader: NodeId, group: GroupId, message: Message) {
        let Some(hosted) = self.hosted.get_mut(&group) else { return };
        let index = message.get_snapshot().get_metadata().index;
        let Machine::Partition(host) = &mut hosted.machine else { return hosted.raft.step(message) };
        if index <= hosted.raft.applied().0 || message.term < hosted.raft.role().term.0 {
            // It comes late; Raft tells the sender.
            return hosted.raft.step(message);
        }
        match partition::snapshot_range(&message.get_snapshot().data) {
            Ok((log_start, end)) => {
                let (since_us, haste) = match &host.catch_up {
                    Some(catch_up) => (catch_up.since_us, catch_up.haste),
                    None => (
                        now.mono_us,
                        host.ended_catch_up.map(|ended| ended.next_haste(now)).unwrap_or_default(),
                    ),
                };
                host.catch_up =
                    Some(CatchUp { leader, since_us, message, log_start, end, asked: None, haste });
                self.catch_up(now, group);
            }
            Err(error) => {
                let what = format!("node {leader} offers a snapshot of group {group} that is none: {error}");
                self.effects.push(Effect::Warn(what));
            }
        }
    }

    /// Goes on with a replica that lacks batches: asks for the next ones, waits until they are written, or is done.
    pub(crate) fn catch_up(&mut self, now: Now, group: GroupId) {
        let Some((raft, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        let is_throttled_here = host.is_throttled_follower(self.node);
        let is_throttled = host.is_pull_throttled(self.node);
        let Some(catch_up) = &mut host.catch_up else { return };
        if catch_up.message.term < raft.role().term.0 {
            // Another leader has been elected; it makes an offer of its own if it must.
            host.end_catch_up(now);
            return self.end_pull(now, group);
        }
        let next = host.partition.high_watermark();
        if next < catch_up.log_start {
            // Nothing that this replica has is still in the leader's log.
            let log_start = catch_up.log_start;
            host.partition.reset_to(raft.applied(), log_start);
            if host.folder == Folder::Unknown {
                host.folder = Folder::Stale;
            }
            self.checkpoint_partition(group);
            return self.catch_up(now, group);
        }
        if next >= catch_up.end {
            if host.partition.unflushed_bytes() > 0 {
                self.disk.want_flush(group);
                return;
            }
            if host.partition.is_flushing() {
                return;
            }
            let CatchUp { message, since_us, .. } = host.end_catch_up(now).expect("it was just seen");
            raft.step(message);
            let seconds = now.mono_us.saturating_sub(since_us) as f64 / 1e6;
            self.raft_metrics.snapshot_seconds.record(seconds);
            self.dirty.insert(group);
            return self.end_pull(now, group);
        }
        let may_begin = self.pulling.contains_key(&group) || has_place(&self.pulling, is_throttled);
        let is_asked = catch_up.asked.is_some_and(|(offset, _)| offset == next);
        if is_asked || !may_begin || !self.peers.is_reachable(catch_up.leader) {
            return;
        }
        if host.partition.unflushed_bytes() >= SEGMENT_WRITE_BYTES_MAX {
            self.disk.want_flush(group);
            return;
        }
        // An administrator who throttles knows how much may be pulled.
        let paced_us = if is_throttled { 0 } else { self.pull_pace.ready_us() };
        let (mut ready_us, mut bytes) = (paced_us.max(now.mono_us), PULL_BYTES);
        for rate in self.pull_rates.of_pulls(is_newcomer(raft), is_throttled_here) {
            ready_us = ready_us.max(rate.ready_us(now));
            bytes = bytes.min(rate.pull_bytes());
        }
        if ready_us > now.mono_us {
            self.paced_pulls.insert(group, ready_us);
            return;
        }
        catch_up.asked = Some((next, now.mono_us));
        if !is_throttled {
            self.pull_pace.on_asked(now, catch_up.haste);
        }
        self.paced_pulls.remove(&group);
        self.pulling.insert(group, is_throttled);
        let bytes = u32::try_from(bytes).expect("it is a few MiB");
        let pull = PeerMessage::Pull { group, offset: next, bytes };
        self.peers.send(catch_up.leader, &pull, &mut self.effects);
    }

    /// A replica pulls no longer: the next one may.
    fn end_pull(&mut self, now: Now, group: GroupId) {
        if self.pulling.remove(&group).is_some() {
            self.begin_pulls(now);
        }
    }

    /// Replicas that wait for a place among those that pull take what is there.
    pub(crate) fn begin_pulls(&mut self, now: Now) {
        let waits = |(group, hosted): (&GroupId, &Hosted)| match &hosted.machine {
            Machine::Partition(host) if host.catch_up.as_ref()?.asked.is_none() => {
                let is_paced = self.paced_pulls.contains_key(group);
                (!is_paced).then(|| (*group, host.is_pull_throttled(self.node)))
            }
            Machine::Partition(_) | Machine::Metadata(_) => None,
        };
        let waiting: Vec<(GroupId, bool)> = self.hosted.iter().filter_map(waits).collect();
        for (group, is_throttled) in waiting {
            if has_place(&self.pulling, is_throttled) {
                self.catch_up(now, group);
            }
        }
    }

    /// There is a new connection to a node, or it is heard again, or no longer: what was asked of it may have been lost, so
    /// that it is asked anew. Should it answer twice, the second answer is passed over. While it cannot be asked, others pull in the
    /// place of those that pull from it.
    pub(crate) fn restart_pulls(&mut self, now: Now, leader: NodeId) {
        for (group, hosted) in &mut self.hosted {
            let catch_up = hosted.partition().and_then(|(_, host)| host.catch_up.as_mut());
            if let Some(catch_up) = catch_up.filter(|catch_up| catch_up.leader == leader) {
                catch_up.asked = None;
                self.pulling.remove(group);
            }
        }
        self.begin_pulls(now);
    }

    /// A follower asks for committed batches.
    pub(crate) fn on_pull(&mut self, now: Now, peer: NodeId, group: GroupId, offset: Offset, bytes: u32) {
        let Some((raft, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        let mut max_bytes = (bytes as usize).min(PULL_BYTES);
        if let Some(rate) = self.pull_rates.of_answers(host.is_throttled_leader(self.node)) {
            let ready_us = rate.ready_us(now);
            if ready_us > now.mono_us {
                self.deferred_pulls.insert((group, peer), DeferredPull { offset, bytes, ready_us });
                return;
            }
            max_bytes = max_bytes.min(rate.pull_bytes());
        }
        match host.partition.locate(offset) {
            Ok(Position::Memory) => {
                let batches = host.partition.read_memory(offset, max_bytes);
                self.send_pulled(peer, group, offset, batches);
            }
            Ok(Position::Disk(segment)) => {
                let limit = host.partition.high_watermark();
                let want = Want::Pull { peer, limit, max_bytes };
                self.begin_read(Read::new(group, want, offset, segment));
            }
            // The log starts later by now: a newer snapshot says so.
            Ok(Position::End) | Err(_) => {
                raft.on_snapshot_failed(peer);
                self.dirty.insert(group);
                self.send_pulled(peer, group, offset, Vec::new());
            }
        }
    }

    /// Answers a follower that pulls.
    pub(crate) fn send_pulled(&mut self, peer: NodeId, group: GroupId, offset: Offset, batches: Vec<Bytes>) {
        if let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition)
            && let Some(rate) = self.pull_rates.of_answers(host.is_throttled_leader(self.node))
        {
            rate.take(batches.iter().map(Bytes::len).sum());
        }
        self.peers.send(peer, &PeerMessage::Pulled { group, offset, batches }, &mut self.effects);
    }

    /// Batches that this replica lacked.
    pub(crate) fn on_pulled(
        &mut self,
        now: Now,
        peer: NodeId,
        group: GroupId,
        offset: Offset,
        batches: &[Bytes],
    ) {
        let Some((raft, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        let asked = host
            .catch_up
            .as_ref()
            .filter(|catch_up| catch_up.leader == peer)
            .and_then(|catch_up| catch_up.asked);
        let Some((_, asked_us)) = asked.filter(|(asked, _)| *asked == offset) else { return };
        if !host.is_pull_throttled(self.node) {
            self.pull_pace.on_answered(now.mono_us - asked_us);
        }
        if batches.is_empty() {
            // The leader has them no more and will make another offer.
            host.end_catch_up(now);
            return self.end_pull(now, group);
        }
        let bytes = batches.iter().map(Bytes::len).sum();
        for rate in self.pull_rates.of_pulls(is_newcomer(raft), host.is_throttled_follower(self.node)) {
            rate.take(bytes);
        }
        for data in batches {
            self.raft_metrics.pulled_bytes.increment(data.len() as u64);
            if let Err(why) = host.partition.append_pulled(data) {
                host.end_catch_up(now);
                // A question that cannot be answered: the leader offers another snapshot.
                let beyond = PeerMessage::Pull { group, offset: Offset(i64::MAX), bytes: 0 };
                self.peers.send(peer, &beyond, &mut self.effects);
                self.effects.push(Effect::Warn(format!("node {peer} sent batches of group {group}: {why}")));
                return self.end_pull(now, group);
            }
        }
        self.consider_flush(now, group);
        self.catch_up(now, group);
    }

    /// Raft has taken a snapshot over: the machine does too. Returns what goes to the WAL in its place; `None` when the process
    /// ends.
    pub(crate) fn install_snapshot(
        &mut self,
        group: GroupId,
        snapshot: InstalledSnapshot,
    ) -> Option<[Record; 2]> {
        let InstalledSnapshot { index, term, truncated_from, state } = snapshot;
        self.raft_metrics.snapshots_installed.increment(1);
        let hosted = self.hosted.get_mut(&group).expect("the group is being driven");
        let state = match &mut hosted.machine {
            Machine::Partition(host) => match host.partition.install(index, &state) {
                Ok(()) => host.partition.checkpoint().1,
                Err(error) => {
                    self.fatal(FatalReason::Damaged(format!("group {group}, a snapshot: {error}")));
                    return None;
                }
            },
            Machine::Metadata(_) => self.restore_metadata(&state)?,
        };
        let raft = &self.hosted.get(&group).expect("the group is being driven").raft;
        assert!(raft.checkpointed() == (index, term), "a snapshot is a checkpoint");
        Some([Record::Truncated { group, from: truncated_from }, raft.checkpoint_record(&state)])
    }
}

impl PartitionHost {
    /// The replica has what it lacked, or another offer is awaited.
    fn end_catch_up(&mut self, now: Now) -> Option<CatchUp> {
        let catch_up = self.catch_up.take();
        if let Some(CatchUp { haste, .. }) = catch_up {
            self.ended_catch_up = Some(EndedCatchUp { at_us: now.mono_us, haste });
        }
        catch_up
    }

    /// Whether what this replica lacks is throttled, here or where it comes from.
    fn is_pull_throttled(&self, node: NodeId) -> bool {
        let is_throttled_there = |catch_up: &CatchUp| self.is_throttled_leader(catch_up.leader);
        self.is_throttled_follower(node) || self.catch_up.as_ref().is_some_and(is_throttled_there)
    }
}

/// Whether one more replica may pull. Those that are throttled have places of their own: slow as they are, they would keep
/// the others waiting for hours.
fn has_place(pulling: &BTreeMap<GroupId, bool>, is_throttled: bool) -> bool {
    pulling.values().filter(|other| **other == is_throttled).count() < PULLS_PER_SHARD_MAX
}

/// Whether a replica is to be filled before it votes.
pub(crate) fn is_newcomer(raft: &Group) -> bool {
    !raft.voters().contains(&raft.own())
}
