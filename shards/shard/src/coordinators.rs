//! Group coordinators of this shard: loaded when their partition is led, fed requests and timers, written through Raft.

use std::collections::BTreeSet;
use std::sync::Arc;

use broker::{GroupOp, OpResult};
use bytes::Bytes;
use coordinator::{Action, CoordinatorRecord, GroupGauges, GroupRequest, GroupResponse};
use partition::Position;
use protocol::messages::ErrorCode;
use raft_group::Role;
use types::hash::mix64;
use types::limits::{
    BATCH_BYTES_MAX, COORDINATOR_SNAPSHOT_BYTES, WAL_FLUSH_BYTES_MAX, WAL_REWRITE_BYTES_MAX,
};
use types::mutants::{Mutant, is_planted};
use types::{GroupId, Now};

use crate::coordinator_host::{CoordinatorHost, encode_records, encoded_bytes_max};
use crate::event::FatalReason;
use crate::partition_host::{Asker, WrittenRecords};
use crate::reads::{Read, Want};
use crate::shard::{Hosted, Shard};

/// Bytes of one batch of a snapshot.
const SNAPSHOT_BATCH_BYTES: usize = 512 * 1024;

impl Shard {
    pub(crate) fn on_group_request(&mut self, now: Now, asker: Asker, op: GroupOp) {
        let refused = |error: ErrorCode| (asker, OpResult::Group(Err(error)));
        let Some((_, host)) = self.hosted.get_mut(&op.group).and_then(Hosted::partition) else {
            return self.answers.push(refused(ErrorCode::NotCoordinator));
        };
        let Some(coordinator) = &mut host.coordinator else {
            return self.answers.push(refused(ErrorCode::NotCoordinator));
        };
        if coordinator.loading.is_some() {
            let answer = match op.request {
                // Nobody is expelled meanwhile, and there are clients for which any other answer is the end. So does Kafka.
                GroupRequest::Heartbeat(_) => {
                    OpResult::Group(Ok(GroupResponse::Heartbeat(Default::default())))
                }
                _ => OpResult::Group(Err(ErrorCode::CoordinatorLoadInProgress)),
            };
            return self.answers.push((asker, answer));
        }
        let token = coordinator.park(asker);
        let mut actions = Vec::new();
        coordinator.coordinator.on_request(now, token, &op.context, op.request, &mut actions);
        self.carry_out(now, op.group, actions);
    }

    pub(crate) fn on_coordinator_timer(&mut self, now: Now, group: GroupId) {
        let Some(coordinator) = self.coordinator(group) else { return };
        if coordinator.coordinator.next_deadline_us().is_none_or(|deadline_us| deadline_us > now.mono_us) {
            return;
        }
        let mut actions = Vec::new();
        coordinator.coordinator.on_timer(now, &mut actions);
        self.carry_out(now, group, actions);
    }

    /// These topics are gone: no group keeps offsets of them.
    pub(crate) fn forget_topic_offsets(&mut self, now: Now, topics: &BTreeSet<Arc<str>>) {
        for group in self.coordinators.clone() {
            if let Some(coordinator) = self.coordinator(group) {
                coordinator.deleted_topics.extend(topics.iter().cloned());
                // Not those deleted before: their turn was then, and what was left of them waits for a review.
                self.remove_offsets_of(now, group, topics);
            }
        }
    }

    /// Looks again whether offsets of deleted topics are left, for which there was no room in the WAL.
    pub(crate) fn review_deleted_topics(&mut self, now: Now) {
        for group in self.coordinators.clone() {
            let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { continue };
            let Some(coordinator) = &mut host.coordinator else { continue };
            if coordinator.loading.is_none() && !coordinator.deleted_topics.is_empty() {
                let left = coordinator.coordinator.topics_with_offsets();
                // Those of a new topic of the same name cannot be told from them.
                let is_due = |topic: &Arc<str>| left.contains(&**topic) && self.image.topic(topic).is_none();
                coordinator.deleted_topics.retain(is_due);
                self.remove_deleted_offsets(now, group);
            }
        }
    }

    /// Those of all topics that were deleted and may have offsets.
    fn remove_deleted_offsets(&mut self, now: Now, group: GroupId) {
        let Some(coordinator) = self.coordinator(group) else { return };
        let topics = coordinator.deleted_topics.clone();
        self.remove_offsets_of(now, group, &topics);
    }

    fn remove_offsets_of(&mut self, now: Now, group: GroupId, topics: &BTreeSet<Arc<str>>) {
        let Some(coordinator) = self.coordinator(group) else { return };
        if coordinator.loading.is_some() {
            return;
        }
        let mut actions = Vec::new();
        coordinator.coordinator.on_topics_deleted(now, topics, &mut actions);
        self.carry_out(now, group, actions);
    }

    fn coordinator(&mut self, group: GroupId) -> Option<&mut CoordinatorHost> {
        let (_, host) = self.hosted.get_mut(&group)?.partition()?;
        host.coordinator.as_mut()
    }

    /// Does what a coordinator asks for. A write that cannot be proposed is reported back, which may ask for more.
    fn carry_out(&mut self, now: Now, group: GroupId, actions: Vec<Action>) {
        let mut failed: Vec<WrittenRecords> = Vec::new();
        for action in actions {
            let Some((raft, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
            let Some(coordinator) = &mut host.coordinator else { return };
            match action {
                Action::Respond { token, response } => {
                    let asker = coordinator.unpark(token);
                    self.answers.push((asker, OpResult::Group(Ok(response))));
                }
                Action::Append { write, records } => {
                    // A group with all its members may be more than a batch holds.
                    let bytes = encoded_bytes_max(&records);
                    let undriven_before = host.undriven_bytes;
                    let proposed = if bytes > BATCH_BYTES_MAX {
                        Err(ErrorCode::MessageTooLarge)
                    } else if !self.wal.has_room(bytes)
                        // What is gathered in a turn goes to one WAL file.
                        || host.undriven_bytes + bytes > WAL_REWRITE_BYTES_MAX as usize
                    {
                        Err(ErrorCode::CoordinatorNotAvailable)
                    } else {
                        let batch = encode_records(&records, now.wall_ms);
                        assert!(batch.len() <= bytes, "room was found for as much as a batch has");
                        host.append_records(now, raft, Some(write), batch)
                    };
                    self.wal.on_proposed(host.undriven_bytes - undriven_before);
                    match proposed {
                        Ok(()) => {
                            self.dirty.insert(group);
                            if is_planted(Mutant::CommitBeforeWritten) {
                                failed.push((write, Ok(())));
                            }
                        }
                        Err(error) => failed.push((write, Err(error))),
                    }
                }
            }
        }
        if !failed.is_empty() {
            self.on_records_written(now, group, failed);
        }
    }

    /// Records of a coordinator are committed and replayed, or lost.
    pub(crate) fn on_records_written(&mut self, now: Now, group: GroupId, written: Vec<WrittenRecords>) {
        for (write, result) in written {
            let Some(coordinator) = self.coordinator(group) else { return };
            let mut actions = Vec::new();
            coordinator.coordinator.on_written(now, write, result, &mut actions);
            self.carry_out(now, group, actions);
        }
    }

    /// A batch of this coordinator's partition is committed.
    pub(crate) fn replay_committed(&mut self, group: GroupId, data: &Bytes) {
        let Some(coordinator) = self.coordinator(group) else { return };
        if let Err(why) = coordinator.replay(data) {
            self.fatal(FatalReason::Damaged(format!("group {group}, records of consumer groups: {why}")));
        }
    }

    /// Begins the logs of coordinators anew where they have grown far beyond what they say, so that neither the disk nor the
    /// next election pays for every commit there ever was.
    pub(crate) fn compact_coordinators(&mut self, now: Now) {
        for group in self.coordinators.clone() {
            let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { continue };
            let settled = host.is_settled();
            let is_wanted = host.coordinator.as_ref().is_some_and(|coordinator| {
                coordinator.loading.is_none() && coordinator.logged_bytes >= coordinator.snapshot_at_bytes
            });
            if settled && is_wanted {
                self.snapshot_coordinator(now, group);
            }
        }
    }

    /// Appends all that a coordinator knows, and lets the log start there. Nothing of its own is under way, so the
    /// snapshot lacks nothing that stands before it; and as entries commit in their order, the log never starts at a
    /// snapshot that is not whole.
    fn snapshot_coordinator(&mut self, now: Now, group: GroupId) {
        let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        let start = host.partition.next_offset();
        let Some(coordinator) = &mut host.coordinator else { return };
        let bytes = coordinator.coordinator.snapshot_bytes_max();
        coordinator.logged_bytes = 0;
        // The snapshot itself will be counted once more as it commits.
        coordinator.snapshot_at_bytes = bytes + COORDINATOR_SNAPSHOT_BYTES.max(4 * bytes);
        if !self.wal.has_room(bytes) {
            return;
        }
        // Only now, so that there are no more of them at once than the WAL takes.
        let records: Vec<CoordinatorRecord> = coordinator.coordinator.snapshot().collect();
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            let mut batch_bytes = 0;
            let fits = rest.iter().take_while(|record| {
                batch_bytes += record.batch_bytes_max();
                batch_bytes <= SNAPSHOT_BATCH_BYTES
            });
            let (batch, left) = rest.split_at(fits.count().max(1));
            rest = left;
            let Some((raft, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
            let undriven_before = host.undriven_bytes;
            let proposed = host.append_records(now, raft, None, encode_records(batch, now.wall_ms));
            self.wal.on_proposed(host.undriven_bytes - undriven_before);
            if proposed.is_err() {
                return;
            }
            let is_much = host.undriven_bytes >= WAL_FLUSH_BYTES_MAX;
            self.dirty.insert(group);
            if is_much {
                self.drive(now, group);
            }
        }
        let Some((raft, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        // Refused only when leadership was lost meanwhile: the snapshot then is no more than repetition.
        if host.move_log_start(now, raft, start, None).is_ok() {
            self.dirty.insert(group);
        }
    }

    /// This node begins or ceases to lead a partition of `__consumer_offsets`.
    pub(crate) fn watch_coordinator(&mut self, now: Now, group: GroupId, role: Role) {
        let config = self.config.broker.groups.clone();
        let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        if host.topic.name.as_ref() != metadata::CONSUMER_OFFSETS_TOPIC {
            return;
        }
        // A new term of the same leader is a new election: what was under way in the old one is given up.
        self.resign_coordinator(group);
        if role.serving {
            let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
            let end = host.partition.high_watermark();
            let start =
                if is_planted(Mutant::CoordinatorNotLoaded) { end } else { host.partition.log_start() };
            host.coordinator = Some(CoordinatorHost::new(config, start, end));
            self.coordinators.insert(group);
            self.load_coordinator(now, group);
        }
    }

    /// Ends a coordinator; whoever waits is told to look for another.
    pub(crate) fn resign_coordinator(&mut self, group: GroupId) {
        let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        let Some(mut coordinator) = host.coordinator.take() else { return };
        self.coordinators.remove(&group);
        let mut actions = Vec::new();
        coordinator.coordinator.on_resigned(&mut actions);
        self.group_metrics.add(coordinator.coordinator.take_counts());
        self.answer_resigned(&mut coordinator, actions);
    }

    /// Shows what the coordinators hold and have done.
    pub(crate) fn count_consumer_groups(&mut self) {
        let mut of_all = GroupGauges::default();
        for group in self.coordinators.clone() {
            let Some(CoordinatorHost { coordinator, .. }) = self.coordinator(group) else { continue };
            let (counts, gauges) = (coordinator.take_counts(), coordinator.gauges());
            self.group_metrics.add(counts);
            of_all.preparing_rebalance += gauges.preparing_rebalance;
            of_all.completing_rebalance += gauges.completing_rebalance;
            of_all.stable += gauges.stable;
            of_all.members += gauges.members;
            of_all.offsets += gauges.offsets;
        }
        self.group_metrics.set(of_all);
    }

    pub(crate) fn answer_resigned(&mut self, coordinator: &mut CoordinatorHost, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Respond { token, response } => {
                    self.answers.push((coordinator.unpark(token), OpResult::Group(Ok(response))));
                }
                Action::Append { .. } => unreachable!("a coordinator that resigned writes nothing"),
            }
        }
    }

    /// Reads on in the coordinator's partition, until it knows everything and may serve.
    pub(crate) fn load_coordinator(&mut self, now: Now, group: GroupId) {
        loop {
            let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
            let Some(coordinator) = &mut host.coordinator else { return };
            let Some((next, end)) = coordinator.loading else { return };
            if next >= end {
                coordinator.loading = None;
                let seed = mix64(self.config.seed ^ mix64(group.0) ^ host.role.term.0);
                coordinator.coordinator.on_elected(now, seed);
                return self.remove_deleted_offsets(now, group);
            }
            let data = match host.partition.locate(next) {
                Ok(Position::Memory) => host.partition.read_memory(next, usize::MAX),
                Ok(Position::Disk(segment)) => {
                    let read = Read::new(group, Want::Load { limit: end }, next, segment);
                    return self.begin_read(read);
                }
                Ok(Position::End) | Err(_) => {
                    let why = format!("group {group}: offset {next} of the consumer groups is missing");
                    return self.fatal(FatalReason::Damaged(why));
                }
            };
            for batch in data {
                if !self.load_batches(group, &batch) {
                    return;
                }
            }
        }
    }

    /// Replays committed batches that were read. `false` when they cannot be, which ends the process.
    pub(crate) fn load_batches(&mut self, group: GroupId, data: &Bytes) -> bool {
        let Some(coordinator) = self.coordinator(group) else { return false };
        let mut outcome = Ok(());
        for batch in protocol::batch::batches(data) {
            outcome = match batch {
                Ok((header, range)) => match &mut coordinator.loading {
                    Some((next, _)) => {
                        *next = header.next_offset();
                        coordinator.replay(&data.slice(range))
                    }
                    None => Ok(()),
                },
                Err(error) => Err(error.to_string()),
            };
            if outcome.is_err() {
                break;
            }
        }
        match outcome {
            Ok(()) => true,
            Err(why) => {
                self.fatal(FatalReason::Damaged(format!("group {group}, records of consumer groups: {why}")));
                false
            }
        }
    }
}
