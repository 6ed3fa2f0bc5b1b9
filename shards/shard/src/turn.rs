//! The end of a turn: groups with work are driven, what they ask for becomes durable in one flush, what is committed is
//! applied.

use log::wal::Record;
use partition::Applied;
use raft_group::{Entry, Role};
use types::{GroupId, LogIndex, Now, Term};

use crate::coordinator_host::CoordinatorHost;
use crate::event::{Effect, FatalReason, LeaderChange, ShardMessage};
use crate::partition_host::{Answer, PartitionHost, WrittenRecords};
use crate::shard::{Hosted, Machine, Shard};
use crate::wal::Unit;

impl Shard {
    /// Drives all that came up since the last turn, and starts the next flush.
    pub(crate) fn end_turn(&mut self, now: Now) {
        self.compact_coordinators(now);
        loop {
            self.retry_stalled(now);
            while let Some(group) = self.dirty.pop_first() {
                self.drive(now, group);
            }
            self.publish_metadata(now);
            self.route(now);
            if self.dirty.is_empty() {
                break;
            }
        }
        self.relieve_wal();
        self.start_flushes(now);
        self.wal.flush(&mut self.effects);
    }

    /// A flush is durable: its groups go on, and the next flush starts at once with what has gathered.
    pub(crate) fn on_wal_flushed(&mut self, now: Now, flush: u64) {
        for unit in self.wal.on_flushed(flush) {
            if let Some(limit) = unit.deletable_below {
                self.remove_segments(unit.group, limit);
            }
            let Some(hosted) = self.hosted.get_mut(&unit.group) else { continue };
            if let Some(number) = unit.number {
                let messages = hosted.raft.on_persisted(number);
                assert!(messages.is_empty(), "a group of one voter has nobody to write to");
                self.dirty.insert(unit.group);
            }
            if let (Some((_, host)), Some(index)) = (hosted.partition(), unit.last_entry) {
                host.on_durable(index, &mut self.answers);
            }
        }
        self.end_turn(now);
    }

    /// Empties one group of its work.
    pub(crate) fn drive(&mut self, now: Now, group: GroupId) {
        let Some(hosted) = self.hosted.get_mut(&group) else { return };
        let mut committed = Vec::new();
        while hosted.raft.has_work() {
            let work = hosted.raft.take_work();
            assert!(work.messages.is_empty(), "a group of one voter has nobody to write to");
            committed.extend(work.committed);
            if !work.records.is_empty() {
                let number = Some(work.number);
                let (records, must_sync) = (work.records, work.must_sync);
                self.wal.push(Unit { group, number, records, must_sync, deletable_below: None });
            }
        }
        if let Some((_, host)) = hosted.partition() {
            self.wal.on_driven(std::mem::take(&mut host.undriven_bytes));
        }
        for entry in committed {
            self.apply(now, group, entry);
        }
        self.watch_role(now, group);
    }

    fn apply(&mut self, now: Now, group: GroupId, entry: Entry) {
        let (index, term) = (LogIndex(entry.index), Term(entry.term));
        let hosted = self.hosted.get_mut(&group).expect("the group is being driven");
        match &mut hosted.machine {
            Machine::Metadata(host) => {
                if let Err(why) = host.apply(index, term, &entry.data) {
                    return self.fatal(FatalReason::Damaged(why));
                }
                hosted.raft.on_applied(index, term);
            }
            Machine::Partition(_) => {
                hosted.raft.on_applied(index, term);
                self.apply_to_partition(now, group, entry);
            }
        }
    }

    fn apply_to_partition(&mut self, now: Now, group: GroupId, entry: Entry) {
        let Some((_, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        let data = entry.data.clone();
        let mut written = Vec::new();
        let applied = match host.apply(now, entry, &mut self.answers, &mut written) {
            Ok(applied) => applied,
            Err(why) => return self.fatal(FatalReason::Damaged(format!("group {group}: {why}"))),
        };
        match applied {
            Applied::Batch { bytes, .. } => {
                if let Some(CoordinatorHost { loading: None, .. }) = host.coordinator {
                    self.replay_committed(group, &data);
                }
                self.wake_fetches(group, bytes);
                self.consider_flush(now, group);
            }
            Applied::LogStart(_) => self.remove_old_segments(group),
            Applied::TermStart => {}
        }
        self.on_records_written(now, group, written);
    }

    /// Notices that the group has another leader or term, or that this node begins or ceases to serve it.
    fn watch_role(&mut self, now: Now, group: GroupId) {
        let Some(hosted) = self.hosted.get_mut(&group) else { return };
        let role = hosted.raft.role();
        match &mut hosted.machine {
            Machine::Metadata(host) => {
                if !role.serving {
                    let answers = host.on_resigned();
                    self.answers.extend(answers);
                    return;
                }
                for command in host.plan_registration(role.term, &self.config.registration) {
                    if let Err(error) = self.propose_metadata(command, None) {
                        self.effects.push(Effect::Warn(format!("this node cannot register: {error:?}")));
                    }
                }
            }
            Machine::Partition(host) => {
                if host.role == role {
                    return;
                }
                let (mut answers, mut written) = (Vec::new(), Vec::new());
                on_role(host, role, &mut answers, &mut written);
                self.answers.extend(answers);
                self.on_records_written(now, group, written);
                self.report_leader(LeaderChange {
                    group,
                    term: role.term,
                    leader: role.leader.filter(|leader| *leader != self.node || role.serving),
                });
                self.watch_coordinator(now, group, role);
            }
        }
    }

    /// Publishes a changed image to all shards, then gives the answers that depend on it.
    fn publish_metadata(&mut self, now: Now) {
        let Some(Hosted { raft, machine: Machine::Metadata(host) }) = self.hosted.get_mut(&GroupId::METADATA)
        else {
            return;
        };
        // Until this node leads, what was applied may be older than what is committed, and groups that are missing
        // from it may exist.
        if !raft.role().serving && raft.is_single_voter() {
            return;
        }
        if let Some(image) = host.take_image() {
            self.send_to_all(|| ShardMessage::Image(std::sync::Arc::clone(&image)));
            self.on_image(now, image);
        }
        let Some(Hosted { machine: Machine::Metadata(host), .. }) = self.hosted.get_mut(&GroupId::METADATA)
        else {
            return;
        };
        let answers = host.take_answers();
        self.answers.extend(answers);
        self.checkpoint_metadata(false);
    }

    /// Writes the metadata's state to the WAL, so that the entries before it may go.
    pub(crate) fn checkpoint_metadata(&mut self, forced: bool) {
        let Some(Hosted { raft, machine: Machine::Metadata(host) }) = self.hosted.get_mut(&GroupId::METADATA)
        else {
            return;
        };
        let Some(state) = host.take_checkpoint(forced) else { return };
        let index = raft.applied();
        let term = raft.term_of(index).expect("the last applied entry is retained");
        raft.compact(index);
        let records = vec![Record::Checkpoint { group: GroupId::METADATA, index, term, state }];
        // Forced, it frees a WAL file that somebody may wait for.
        self.wal.push(Unit::of_shard(GroupId::METADATA, records, forced));
    }

    /// Writes a checkpoint of what the metadata's last one lacks. The one that frees a file may still be on its way.
    fn checkpoint_new_metadata(&mut self) {
        let is_new = |raft: &raft_group::Group| raft.applied() > raft.compacted().0;
        if self.hosted.get(&GroupId::METADATA).is_some_and(|hosted| is_new(&hosted.raft)) {
            self.checkpoint_metadata(true);
        }
    }

    /// Under pressure, frees the oldest WAL file: what it holds goes to segments, states are logged again.
    fn relieve_wal(&mut self) {
        let Some(blockers) = self.wal.blockers() else { return };
        for (group, _) in &blockers.entries {
            match self.hosted.get_mut(group).map(|hosted| &hosted.machine) {
                Some(Machine::Metadata(_)) => self.checkpoint_new_metadata(),
                Some(Machine::Partition(_)) => self.force_flush(*group),
                None => {}
            }
        }
        // Groups that the metadata has not named yet have no state to log; the file waits for them.
        let are_hosted = blockers.states.iter().all(|group| self.hosted.contains_key(group));
        if blockers.entries.is_empty() && are_hosted && self.wal.take_relog(blockers.file) {
            for group in blockers.states {
                self.log_state_again(group);
            }
        }
    }

    fn log_state_again(&mut self, group: GroupId) {
        let Some(hosted) = self.hosted.get_mut(&group) else { return };
        let mut records = vec![hosted.raft.hard_state_record()];
        let (compacted, term) = hosted.raft.compacted();
        if compacted > LogIndex(0) {
            let state = match &mut hosted.machine {
                Machine::Partition(host) => host.partition.checkpoint().1,
                Machine::Metadata(_) => {
                    self.checkpoint_metadata(true);
                    return self.wal.push(Unit::of_shard(group, records, true));
                }
            };
            records.push(Record::Checkpoint { group, index: compacted, term, state });
        }
        self.wal.push(Unit::of_shard(group, records, true));
    }
}

fn on_role(
    host: &mut PartitionHost,
    role: Role,
    answers: &mut Vec<Answer>,
    written: &mut Vec<WrittenRecords>,
) {
    let lost = host.role.serving && !(role.serving && role.term == host.role.term);
    host.role = role;
    if lost {
        host.on_resigned(answers, written);
    }
}
