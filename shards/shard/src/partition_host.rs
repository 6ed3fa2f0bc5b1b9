//! One partition on its shard: proposals and who waits for them, readers who wait for more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use broker::{OpResult, OpToken, PartitionError, ProduceOp, Produced};
use coordinator::WriteId;
use metadata::{TimestampType, Topic, TopicConfig};
use metrics::Histogram;
use partition::{AppendError, AppendPlan, AppendRules, Applied, Command, Partition, SequenceError};
use protocol::batch;
use protocol::messages::ErrorCode;
use raft_group::{Entry, Group, ProposeError, Role};
use types::mutants::{Mutant, is_planted};
use types::{GroupId, LogIndex, NodeId, Now, Offset, PartitionIndex, ReplicaId, ShardId, Term};

use crate::catch_up::CatchUp;
use crate::coordinator_host::CoordinatorHost;
use crate::event::LeaderChange;
use crate::pull_pace::EndedCatchUp;
use crate::reads::Read;

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub shard: ShardId,
    pub token: OpToken,
}

/// An answer, and where it goes.
pub(crate) type Answer = (Asker, OpResult);

#[derive(Debug)]
enum Waiter {
    Produce {
        asker: Asker,
        needs_commit: bool,
        produced: Produced,
    },
    /// A batch that does not fit its producer's sequence: true if this node still leads.
    OutOfSequence {
        asker: Asker,
        error: PartitionError,
    },
    DeleteRecords {
        asker: Asker,
    },
    Coordinator {
        write: WriteId,
    },
}

impl Waiter {
    /// Whether the leader's own copy is enough.
    fn is_content(&self) -> bool {
        matches!(self, Waiter::Produce { needs_commit: false, .. })
    }
}

/// An entry that this node proposed as the leader of `term`.
#[derive(Debug)]
struct Proposal {
    index: LogIndex,
    term: Term,
    /// On the monotonic clock in microseconds.
    proposed_us: u64,
    /// The first offset of a batch.
    base: Option<Offset>,
    waiters: Vec<Waiter>,
}

/// What came of the entries of this shard's own coordinator.
pub(crate) type WrittenRecords = (WriteId, Result<(), ErrorCode>);

/// One partition of this shard, beside its Raft group.
pub(crate) struct PartitionHost {
    pub topic: Arc<Topic>,
    pub index: PartitionIndex,
    pub partition: Partition,
    pub role: Role,
    proposals: VecDeque<Proposal>,
    /// Entries that are applied and not durable here yet, with those who asked for just that (`acks=1`).
    unwritten: VecDeque<Proposal>,
    /// Fetches that wait for bytes of this partition, by the shard and number of their requests.
    pub fetch_waits: BTreeSet<(ShardId, u64)>,
    /// Set on partitions of `__consumer_offsets` while this node leads them.
    pub coordinator: Option<CoordinatorHost>,
    /// Reads that wait until the index of the active segment is restored.
    pub waiting_reads: Vec<Read>,
    pub is_restoring_index: bool,
    /// Whether it is listed among those whose batches go to a segment after a while.
    pub is_lingering: bool,
    pub folder: Folder,
    /// Proposed, or sent by the leader, since the group was last driven.
    pub undriven_bytes: usize,
    /// An entry that shows to those who wait for it that this node leads, and is not on its way yet.
    pub undriven_word: Option<LogIndex>,
    /// The replicas that are in sync, this one among them, while this node leads.
    pub in_sync: Arc<[NodeId]>,
    /// When each follower was last known to have everything, on the monotonic clock in microseconds.
    caught_up_us: BTreeMap<ReplicaId, u64>,
    /// The last entry as of the last look at the followers, and when that was.
    last_seen: (LogIndex, u64),
    commit_seconds: Histogram,
    /// The last move that was reported as done, and when on the monotonic clock in microseconds.
    reported_move: Option<(u32, u64)>,
    /// What this replica lacks and is to have before it may go on with the leader's log.
    pub catch_up: Option<CatchUp>,
    /// The last time that it lacked something.
    pub ended_catch_up: Option<EndedCatchUp>,
}

/// Whether the group's folder is known to be there, and to hold what it should, before which nothing is written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Folder {
    /// Not known: a crash may have come before it was made, or have left files that no checkpoint knows of.
    Unknown,
    /// As before, and part of the log is gone since: files that no checkpoint knows of go when the WAL knows of the group, whether
    /// or not anything is written.
    Stale,
    BeingMade,
    There,
}

impl PartitionHost {
    pub(crate) fn new(
        topic: Arc<Topic>,
        index: PartitionIndex,
        partition: Partition,
        role: Role,
        commit_seconds: Histogram,
    ) -> PartitionHost {
        PartitionHost {
            folder: Folder::Unknown,
            topic,
            index,
            partition,
            role,
            proposals: VecDeque::new(),
            unwritten: VecDeque::new(),
            fetch_waits: BTreeSet::new(),
            coordinator: None,
            waiting_reads: Vec::new(),
            is_restoring_index: false,
            is_lingering: false,
            undriven_bytes: 0,
            undriven_word: None,
            in_sync: Arc::default(),
            caught_up_us: BTreeMap::new(),
            last_seen: (LogIndex(0), 0),
            commit_seconds,
            reported_move: None,
            catch_up: None,
            ended_catch_up: None,
        }
    }

    /// Where the replicas are, and are to be.
    pub(crate) fn placed(&self) -> &metadata::Partition {
        self.topic.partition(self.index).expect("a topic keeps its partitions")
    }

    /// Whether what the replica on a node pulls is throttled there.
    pub(crate) fn is_throttled_follower(&self, node: NodeId) -> bool {
        self.topic.config.follower_throttled_replicas.contains(self.index, node)
    }

    /// Whether what others pull from the replica on a node is throttled there.
    pub(crate) fn is_throttled_leader(&self, node: NodeId) -> bool {
        self.topic.config.leader_throttled_replicas.contains(self.index, node)
    }

    /// Whether a move that is done is to be reported now: at once, and again after a while.
    pub(crate) fn may_report_move(&mut self, now: Now, decision: u32, interval_ms: i64) -> bool {
        let is_quiet = self.reported_move.is_some_and(|(reported, at_us)| {
            reported == decision && now.mono_us < at_us + interval_ms.unsigned_abs() * 1_000
        });
        if !is_quiet {
            self.reported_move = Some((decision, now.mono_us));
        }
        !is_quiet
    }

    /// The error of a node that does not lead, with who does.
    pub(crate) fn not_leader(&self) -> PartitionError {
        PartitionError {
            code: ErrorCode::NotLeaderOrFollower,
            leader: self.role.leader.map(|node| (node, self.role.term)),
            message: None,
        }
    }

    /// Proposes a batch, or answers at once where it is refused or was committed before.
    pub(crate) fn produce(
        &mut self,
        now: Now,
        raft: &mut Group,
        asker: Asker,
        op: ProduceOp,
    ) -> Option<Answer> {
        let header = op.header;
        match self.try_produce(now, raft, asker, op) {
            Ok(answer) => answer,
            Err(error) => {
                self.partition.on_refused(&header);
                Some((asker, OpResult::Produce(Err(error))))
            }
        }
    }

    fn try_produce(
        &mut self,
        now: Now,
        raft: &mut Group,
        asker: Asker,
        op: ProduceOp,
    ) -> Result<Option<Answer>, PartitionError> {
        let ProduceOp { group: _, mut batch, mut header, acks } = op;
        if !self.role.serving {
            return Err(self.not_leader());
        }
        let needs_commit = acks == -1;
        if needs_commit
            && self.in_sync.len() < self.topic.config.min_insync_replicas
            && !is_planted(Mutant::MinInSyncNotChecked)
        {
            return Err(ErrorCode::NotEnoughReplicas.into());
        }
        let rules = append_rules(&self.topic.config);
        let produced = |base_offset, log_append_time_ms, log_start| Produced {
            base_offset,
            log_append_time_ms,
            log_start,
        };
        let plan = match self.partition.plan_append(&header, &rules, now.wall_ms) {
            Err(error @ AppendError::Sequence(SequenceError::OutOfOrder { .. })) => {
                self.confirm_leadership(now, raft, Waiter::OutOfSequence { asker, error: error.into() })?;
                return Ok(None);
            }
            plan => plan?,
        };
        match plan {
            AppendPlan::Duplicate { base, .. } => {
                let produced = produced(base, -1, self.partition.log_start());
                let under_way = self.proposals.iter_mut().find(|proposal| proposal.base == Some(base));
                match under_way {
                    Some(proposal) => {
                        proposal.waiters.push(Waiter::Produce { asker, needs_commit, produced });
                        Ok(None)
                    }
                    None => Ok(Some((asker, OpResult::Produce(Ok(produced))))),
                }
            }
            AppendPlan::Append { base, log_append_time_ms } => {
                if let Some(timestamp_ms) = log_append_time_ms {
                    batch::set_log_append_time(&mut batch, timestamp_ms);
                }
                batch::assign(&mut batch, base, self.role.term.leader_epoch());
                header = batch::BatchHeader::parse(&batch).expect("a validated batch keeps its header");
                let bytes = batch.len();
                let index = raft.propose(Command::Batch.encode(), batch.freeze()).map_err(propose_error)?;
                self.partition.on_proposed(&header, now.wall_ms);
                self.undriven_bytes += bytes;
                let produced = produced(base, log_append_time_ms.unwrap_or(-1), self.partition.log_start());
                let waiters = vec![Waiter::Produce { asker, needs_commit, produced }];
                self.proposals.push_back(Proposal {
                    index,
                    term: self.role.term,
                    proposed_us: now.mono_us,
                    base: Some(base),
                    waiters,
                });
                Ok(None)
            }
        }
    }

    /// Has somebody wait until it is known that this node leads, by an entry that changes nothing. A leader that was deposed without
    /// having heard of it knows less than there is, and its producers would take the answer for the end.
    fn confirm_leadership(
        &mut self,
        now: Now,
        raft: &mut Group,
        waiter: Waiter,
    ) -> Result<(), PartitionError> {
        // All that ask before the entry is on its way share it: each has one of its own for nothing otherwise.
        let undriven =
            self.proposals.iter_mut().rev().find(|proposal| Some(proposal.index) == self.undriven_word);
        if let Some(proposal) = undriven {
            proposal.waiters.push(waiter);
            return Ok(());
        }
        let index = self.propose_log_start(now, raft, self.partition.log_start(), Some(waiter))?;
        self.undriven_word = Some(index);
        Ok(())
    }

    fn propose_log_start(
        &mut self,
        now: Now,
        raft: &mut Group,
        offset: Offset,
        waiter: Option<Waiter>,
    ) -> Result<LogIndex, PartitionError> {
        let command = Command::LogStart(offset).encode();
        let index = raft.propose(command, bytes::Bytes::new()).map_err(propose_error)?;
        self.proposals.push_back(Proposal {
            index,
            term: self.role.term,
            proposed_us: now.mono_us,
            base: None,
            waiters: waiter.into_iter().collect(),
        });
        Ok(index)
    }

    /// This node begins to lead. Nothing is known of the followers, so those that are alive count as in sync until they
    /// have had the time to show it.
    pub(crate) fn begin_leading(&mut self, now: Now, raft: &Group, is_alive: impl Fn(NodeId) -> bool) {
        self.last_seen = (raft.last_index(), now.mono_us);
        let alive = raft.voters().iter().filter(|voter| is_alive(voter.node));
        self.caught_up_us = alive.map(|voter| (*voter, now.mono_us)).collect();
        self.in_sync = Arc::default();
        self.update_in_sync(now, 0, raft, is_alive);
    }

    /// The log grows, and followers that had everything lack its end from now on.
    pub(crate) fn begin_lagging(&mut self, now: Now, raft: &Group) {
        self.last_seen = (raft.last_index(), now.mono_us);
        for (replica, caught_up_us) in &mut self.caught_up_us {
            if self.in_sync.contains(&replica.node) {
                *caught_up_us = now.mono_us;
            }
        }
    }

    /// Looks at the followers of a partition that this node leads: in sync are those that are alive and had everything, as of
    /// some look, within `lag_ms_max`. Whether that changed.
    pub(crate) fn update_in_sync(
        &mut self,
        now: Now,
        lag_ms_max: i64,
        raft: &Group,
        is_alive: impl Fn(NodeId) -> bool,
    ) -> bool {
        let last = raft.last_index();
        let (seen, seen_us) = std::mem::replace(&mut self.last_seen, (last, now.mono_us));
        for follower in raft.followers() {
            let had_all_us = match follower.matched {
                _ if !is_alive(follower.replica.node) => {
                    self.caught_up_us.remove(&follower.replica);
                    continue;
                }
                matched if matched == last || is_planted(Mutant::LaggingReplicaInSync) => now.mono_us,
                matched if matched >= seen => seen_us,
                _ => continue,
            };
            let caught_up_us = self.caught_up_us.entry(follower.replica).or_default();
            *caught_up_us = had_all_us.max(*caught_up_us);
        }
        let is_in_sync =
            |voter: &&ReplicaId| **voter == raft.own() || self.is_caught_up(now, lag_ms_max, **voter);
        let mut in_sync: Vec<NodeId> =
            raft.voters().iter().filter(is_in_sync).map(|voter| voter.node).collect();
        in_sync.dedup();
        let in_sync: Arc<[NodeId]> = in_sync.into();
        let has_changed = in_sync != self.in_sync;
        self.in_sync = in_sync;
        has_changed
    }

    /// Whether a follower had everything, as of some look within `lag_ms_max`.
    pub(crate) fn is_caught_up(&self, now: Now, lag_ms_max: i64, replica: ReplicaId) -> bool {
        let in_time = |at_us: &u64| now.mono_us <= at_us + lag_ms_max.unsigned_abs() * 1_000;
        self.caught_up_us.get(&replica).is_some_and(in_time)
    }

    /// For how long the slowest follower that is alive has lacked something, in microseconds; of a partition that this node leads.
    pub(crate) fn lag_us(&self, now: Now, raft: &Group) -> u64 {
        let lacks = raft.followers().filter(|follower| follower.matched < raft.last_index());
        let since = lacks.filter_map(|follower| self.caught_up_us.get(&follower.replica)).min();
        since.map_or(0, |since_us| now.mono_us.saturating_sub(*since_us))
    }

    /// What this replica knows of the group's leader, for everybody.
    pub(crate) fn leader_change(&self, group: GroupId, node: NodeId) -> LeaderChange {
        let Role { term, leader, serving } = self.role;
        LeaderChange {
            group,
            term,
            leader: leader.filter(|leader| *leader != node || serving),
            in_sync: if serving { Arc::clone(&self.in_sync) } else { Arc::default() },
        }
    }

    /// Whether nothing that this node proposed waits for its commit.
    pub(crate) fn is_settled(&self) -> bool {
        self.proposals.is_empty()
    }

    /// Proposes a batch of this shard's coordinator, which hears of its commit where it is a `write` of its.
    pub(crate) fn append_records(
        &mut self,
        now: Now,
        raft: &mut Group,
        write: Option<WriteId>,
        mut batch: bytes::BytesMut,
    ) -> Result<(), ErrorCode> {
        if !self.role.serving {
            return Err(ErrorCode::NotCoordinator);
        }
        let base = self.partition.next_offset();
        batch::assign(&mut batch, base, self.role.term.leader_epoch());
        let header = batch::BatchHeader::parse(&batch).expect("our own batch has a header");
        self.undriven_bytes += batch.len();
        let proposed = raft.propose(Command::Batch.encode(), batch.freeze());
        let index = proposed.map_err(|_| ErrorCode::CoordinatorNotAvailable)?;
        self.partition.on_proposed(&header, now.wall_ms);
        let waiters = write.map(|write| Waiter::Coordinator { write }).into_iter().collect();
        self.proposals.push_back(Proposal {
            index,
            term: self.role.term,
            proposed_us: now.mono_us,
            base: Some(base),
            waiters,
        });
        Ok(())
    }

    /// Proposes a new start of the log, for DeleteRecords (`asker`) or for retention.
    pub(crate) fn move_log_start(
        &mut self,
        now: Now,
        raft: &mut Group,
        offset: Offset,
        asker: Option<Asker>,
    ) -> Result<(), PartitionError> {
        if !self.role.serving {
            return Err(self.not_leader());
        }
        if offset < Offset(0) || offset > self.partition.high_watermark() {
            return Err(ErrorCode::OffsetOutOfRange.into());
        }
        match asker.map(|asker| Waiter::DeleteRecords { asker }) {
            Some(waiter) if offset <= self.partition.log_start() => {
                self.confirm_leadership(now, raft, waiter)
            }
            waiter => self.propose_log_start(now, raft, offset, waiter).map(drop),
        }
    }

    /// Applies a committed entry and answers those who waited for it. What is durable here ends at `persisted`.
    pub(crate) fn apply(
        &mut self,
        now: Now,
        entry: Entry,
        persisted: LogIndex,
        answers: &mut Vec<Answer>,
        written: &mut Vec<WrittenRecords>,
    ) -> Result<Applied, String> {
        let (index, term) = (LogIndex(entry.index), Term(entry.term));
        let command = Command::decode(&entry.context).map_err(|error| error.to_string())?;
        let applied = self.partition.apply(index, term, command, entry.data, now.wall_ms);
        while self.proposals.front().is_some_and(|proposal| proposal.index <= index) {
            let mut proposal = self.proposals.pop_front().expect("it was just seen");
            let is_it =
                proposal.index == index && (proposal.term == term || is_planted(Mutant::AnswerByIndexAlone));
            if is_it {
                self.commit_seconds.record(now.mono_us.saturating_sub(proposal.proposed_us) as f64 / 1e6);
            }
            // Whoever asked for this node's copy waits for it, and no longer than until it is known that there is none.
            let waits = |waiter: &Waiter| is_it && index > persisted && waiter.is_content();
            for waiter in proposal.waiters.extract_if(.., |waiter| !waits(waiter)) {
                let outcome = if is_it { Ok(()) } else { Err(self.not_leader()) };
                self.answer(waiter, outcome, answers, written);
            }
            if !proposal.waiters.is_empty() {
                self.unwritten.push_back(proposal);
            }
        }
        Ok(applied)
    }

    fn answer(
        &self,
        waiter: Waiter,
        outcome: Result<(), PartitionError>,
        answers: &mut Vec<Answer>,
        written: &mut Vec<WrittenRecords>,
    ) {
        match waiter {
            Waiter::Produce { asker, produced, .. } => {
                answers.push((asker, OpResult::Produce(outcome.map(|()| produced))));
            }
            Waiter::OutOfSequence { asker, error } => {
                let error = outcome.err().unwrap_or(error);
                answers.push((asker, OpResult::Produce(Err(error))));
            }
            Waiter::DeleteRecords { asker } => {
                let log_start = self.partition.log_start();
                answers.push((asker, OpResult::DeleteRecords(outcome.map(|()| log_start))));
            }
            Waiter::Coordinator { write } => {
                written.push((write, outcome.map_err(|_| ErrorCode::NotCoordinator)));
            }
        }
    }

    /// Entries up to `index` are durable on this node: answers those who asked for no more than that.
    pub(crate) fn on_durable(&mut self, index: LogIndex, answers: &mut Vec<Answer>) {
        let proposals = self.unwritten.iter_mut().chain(&mut self.proposals);
        for proposal in proposals.take_while(|proposal| proposal.index <= index) {
            let is_content = |waiter: &mut Waiter| {
                let is_answered_early = is_planted(Mutant::AnswerBeforeCommit);
                waiter.is_content() || (is_answered_early && matches!(waiter, Waiter::Produce { .. }))
            };
            for waiter in proposal.waiters.extract_if(.., is_content) {
                if let Waiter::Produce { asker, produced, .. } = waiter {
                    answers.push((asker, OpResult::Produce(Ok(produced))));
                }
            }
        }
        self.unwritten.retain(|proposal| !proposal.waiters.is_empty());
    }

    /// This node does not lead the term any more: what was proposed may or may not come about.
    pub(crate) fn on_resigned(&mut self, answers: &mut Vec<Answer>, written: &mut Vec<WrittenRecords>) {
        self.partition.on_resigned();
        // These are committed, which is more than they asked for.
        for waiter in std::mem::take(&mut self.unwritten).into_iter().flat_map(|proposal| proposal.waiters) {
            self.answer(waiter, Ok(()), answers, written);
        }
        if is_planted(Mutant::AnswerByIndexAlone) {
            return;
        }
        for proposal in std::mem::take(&mut self.proposals) {
            for waiter in proposal.waiters {
                self.answer(waiter, Err(self.not_leader()), answers, written);
            }
        }
    }
}

fn append_rules(config: &TopicConfig) -> AppendRules {
    AppendRules {
        log_append_time: config.message_timestamp_type == TimestampType::LogAppendTime,
        timestamp_before_max_ms: config.message_timestamp_before_max_ms,
        timestamp_after_max_ms: config.message_timestamp_after_max_ms,
    }
}

fn propose_error(error: ProposeError) -> PartitionError {
    match error {
        ProposeError::NotLeader => ErrorCode::NotLeaderOrFollower.into(),
        // A majority does not keep up. Nothing was appended, and the client tries again.
        ProposeError::Busy => ErrorCode::NotEnoughReplicas.into(),
    }
}
