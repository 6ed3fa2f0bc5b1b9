//! The end of a turn: groups with work are driven, what they ask for becomes durable in one flush, what is committed is
//! applied.

use partition::Applied;
use raft_group::{Entry, Role, changes_membership};
use types::{GroupId, LogIndex, Now, Term};

use crate::coordinator_host::CoordinatorHost;
use crate::event::FatalReason;
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
            self.complete_moves();
            self.publish_metadata(now);
            self.continue_handover(now);
            self.route(now);
            if self.dirty.is_empty() {
                break;
            }
        }
        self.relieve_wal();
        self.start_flushes(now);
        self.send_leaders();
        self.tell_pulls();
        // A leader's entries are on their way to the others while it writes them itself.
        self.peers.flush(&mut self.effects);
        self.wal.flush(&mut self.effects);
    }

    /// A flush is durable: its groups go on, and the next flush starts at once with what has gathered.
    pub(crate) fn on_wal_flushed(&mut self, now: Now, flush: u64) {
        for unit in self.wal.on_flushed(flush) {
            if let Some(removal) = unit.removal.filter(|_| self.is_removing(unit.group)) {
                self.go_on_removing(now, unit.group, removal);
                continue;
            }
            self.remove_segments(unit.group, unit.retired_segments);
            self.clean_folder(unit.group);
            let Some(hosted) = self.hosted.get_mut(&unit.group) else { continue };
            if let (Some((_, host)), Some(index)) = (hosted.partition(), unit.last_entry) {
                host.on_durable(index, &mut self.answers);
            }
            if let Some(number) = unit.number {
                let messages = hosted.raft.on_persisted(number);
                self.dirty.insert(unit.group);
                self.send_raft(unit.group, messages);
            }
        }
        self.end_turn(now);
    }

    /// Empties one group of its work.
    pub(crate) fn drive(&mut self, now: Now, group: GroupId) {
        let mut committed = Vec::new();
        if let Some(hosted) = self.hosted.get_mut(&group) {
            hosted.undriven_bytes = 0;
        }
        while let Some(hosted) = self.hosted.get_mut(&group).filter(|hosted| hosted.raft.has_work()) {
            let mut work = hosted.raft.take_work();
            committed.extend(work.committed);
            let is_installed = work.snapshot.is_some();
            if let Some(snapshot) = work.snapshot {
                assert!(
                    committed.is_empty(),
                    "nothing is committed before the snapshot and applied after it"
                );
                let Some(checkpoint) = self.install_snapshot(group, snapshot) else { return };
                work.records.splice(0..0, checkpoint);
            }
            if !work.records.is_empty() {
                let number = Some(work.number);
                let (records, must_sync) = (work.records, work.must_sync);
                self.wal.push(Unit { group, number, records, must_sync, retired_segments: Vec::new() });
            }
            if is_installed {
                // The leader's log may start behind what is here.
                self.remove_old_segments(group);
            }
            self.send_raft(group, work.messages);
        }
        let Some(hosted) = self.hosted.get_mut(&group) else { return };
        if let Some((_, host)) = hosted.partition() {
            host.undriven_word = None;
            self.wal.on_driven(std::mem::take(&mut host.undriven_bytes));
        }
        let has_committed = !committed.is_empty();
        for entry in committed {
            self.apply(now, group, entry);
        }
        self.offer_snapshot(group);
        self.watch_durations(now, group);
        self.watch_role(now, group);
        self.continue_move(now, group);
        self.watch_ticks(now, group);
        self.resume_waits(now, group, has_committed);
        // What was applied may have changed whose copies make a majority.
        if self.hosted.get(&group).is_some_and(|hosted| hosted.raft.has_work()) {
            self.dirty.insert(group);
        }
    }

    fn apply(&mut self, now: Now, group: GroupId, entry: Entry) {
        let (index, term) = (LogIndex(entry.index), Term(entry.term));
        let hosted = self.hosted.get_mut(&group).expect("the group is being driven");
        let changes_membership = changes_membership(&entry);
        if changes_membership {
            hosted.raft.apply_membership(&entry);
        }
        match &mut hosted.machine {
            Machine::Metadata(host) => {
                let command = Some(&entry.data).filter(|data| !changes_membership && !data.is_empty());
                if let Err(why) = host.apply(index, term, command) {
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
        let Some((raft, host)) = self.hosted.get_mut(&group).and_then(Hosted::partition) else { return };
        let data = entry.data.clone();
        let mut written = Vec::new();
        let applied = match host.apply(now, entry, raft.persisted(), &mut self.answers, &mut written) {
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
            Applied::TermStart | Applied::Membership | Applied::Known => {}
        }
        self.on_records_written(now, group, written);
    }

    /// Notices that the group has another leader or term, or that this node begins or ceases to serve it.
    fn watch_role(&mut self, now: Now, group: GroupId) {
        let Some(hosted) = self.hosted.get_mut(&group) else { return };
        let role = hosted.raft.role();
        match &mut hosted.machine {
            Machine::Metadata(_) => {
                self.watch_metadata_role(role);
                self.change_voters();
            }
            Machine::Partition(host) => {
                if host.role == role {
                    return;
                }
                let (mut answers, mut written) = (Vec::new(), Vec::new());
                on_role(host, role, &mut answers, &mut written);
                self.answers.extend(answers);
                self.on_records_written(now, group, written);
                self.begin_leading(now, group);
                self.watch_coordinator(now, group, role);
            }
        }
    }

    /// Under pressure, frees the oldest WAL file: what it holds goes to segments, states are logged again.
    fn relieve_wal(&mut self) {
        let Some(blockers) = self.wal.blockers() else { return };
        for (group, highest) in &blockers.entries {
            let Some(hosted) = self.hosted.get_mut(group) else { continue };
            match &hosted.machine {
                // Nobody knows when, or whether, what is not committed will be: a group that lost its majority, or one that is
                // pulled anew, does not stop the others.
                _ if *highest > hosted.raft.applied() => self.log_entries_again(*group),
                Machine::Metadata(_) => self.checkpoint_new_metadata(),
                Machine::Partition(_) => self.force_flush(*group),
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

    /// Entries are replaced from the first one on that is written again, so all of them are in one unit.
    fn log_entries_again(&mut self, group: GroupId) {
        let Some(hosted) = self.hosted.get(&group) else { return };
        if self.wal.concerns(group) {
            return;
        }
        let unit = Unit::of_shard(group, hosted.raft.entry_records(), true);
        if self.wal.has_reserve(&unit) {
            self.wal.push(unit);
        }
    }

    fn log_state_again(&mut self, group: GroupId) {
        let Some(hosted) = self.hosted.get_mut(&group) else { return };
        let hard_state = hosted.raft.hard_state_record();
        let records = match &mut hosted.machine {
            Machine::Partition(host) => {
                vec![hosted.raft.checkpoint_record(&host.partition.checkpoint().1), hard_state]
            }
            Machine::Metadata(_) => {
                self.checkpoint_metadata(true);
                vec![hard_state]
            }
        };
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
