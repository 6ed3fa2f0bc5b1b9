//! The group itself: raft-rs behind a face that speaks of WAL records and committed entries.

use std::collections::VecDeque;

use bytes::Bytes;
use log::wal::{Record, RecoveredGroup};
use raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType};
use raft::{
    Config, Error, GetEntriesContext, INVALID_ID, ProgressState, RawNode, SnapshotStatus, StateRole, Storage,
};
use types::hash::mix64;
use types::limits::{APPEND_BYTES_MAX, WAL_REWRITE_BYTES_MAX};
use types::mutants::{Mutant, is_planted};
use types::{GroupId, LogIndex, NodeId, ReplicaId, Term};

use crate::LogView;
use crate::membership::{Membership, NoMembership, join_checkpoint, read_checkpoint};

mod changes;

/// Ticks without a word from the leader before an election.
const ELECTION_TICKS: usize = 10;

/// Ticks between the campaigns of two replicas that miss their leader at the same time: enough for the first to be elected
/// before the next one tries, so that they do not split the votes.
const CAMPAIGN_TICKS_APART: usize = 3;

/// Replicas beyond so many do not wait longer than those before them.
const CAMPAIGN_PLACES_MAX: usize = 16;

/// The index and the term that the log of a new group starts behind, on its first replicas. A replica that joins later has
/// nothing, and so cannot be sent entries alone: it needs a snapshot, which says who the members are.
const FIRST_CHECKPOINT: (LogIndex, Term) = (LogIndex(1), Term(1));

/// Ticks between two heartbeats of a leader that is ticked.
const HEARTBEAT_TICKS: usize = 2;

/// Append messages to one follower that are not yet acknowledged.
const APPENDS_IN_FLIGHT_MAX: usize = 32;

/// Bytes of one group that are not committed or not written here yet; beyond it proposals are refused. They can be written again in one flush,
/// when the WAL file that holds them is wanted back.
const UNCOMMITTED_BYTES_MAX: u64 = WAL_REWRITE_BYTES_MAX * 4 / 5;

/// Why a proposal was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead the group, or is handing leadership over.
    #[error("this node does not lead the group")]
    NotLeader,
    /// Too many bytes wait for their commit.
    #[error("the group takes no proposals now")]
    Busy,
}

/// This node's part in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role {
    /// The current term, which is the partition's leader epoch.
    pub term: Term,
    /// Who leads the term, if that is known.
    pub leader: Option<NodeId>,
    /// Whether this node leads *and* has applied an entry of its own term, so that it knows the whole log.
    /// Before that it must not assign offsets.
    pub serving: bool,
}

/// What one turn of a group asks its shard to do, in this order: persist `records`, apply `committed`.
#[derive(Default, Debug)]
pub struct Work {
    /// Identifies this work in [`Group::on_persisted`].
    pub number: u64,
    /// WAL records. They must be durable before `on_persisted` when `must_sync` is set; otherwise they only
    /// have to be durable with whatever is written next.
    pub records: Vec<Record>,
    /// Whether a flush must be started for `records`.
    pub must_sync: bool,
    /// The state that takes the place of everything before it. Its checkpoint goes to the WAL in front of `records`, and
    /// `committed` is empty.
    pub snapshot: Option<InstalledSnapshot>,
    /// Entries to apply, in order, each exactly once.
    pub committed: Vec<Entry>,
    /// Messages that may go to other nodes at once.
    pub messages: Vec<Message>,
}

/// A snapshot that this replica takes over from its leader.
#[derive(Debug)]
pub struct InstalledSnapshot {
    /// The last entry that it stands for.
    pub index: LogIndex,
    /// The term of that entry.
    pub term: Term,
    /// Entries from here on are gone from the log.
    pub truncated_from: LogIndex,
    /// The leader's state as of then.
    pub state: Bytes,
}

/// What a leader knows of another replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    /// The replica.
    pub replica: ReplicaId,
    /// It has every entry up to this one, durably.
    pub matched: LogIndex,
}

struct Unpersisted {
    number: u64,
    /// Whether the messages wait for a flush of their own, or only for those before it.
    must_sync: bool,
    messages: Vec<Message>,
    /// The index of a snapshot in it.
    snapshot: Option<LogIndex>,
}

/// One Raft group on one shard.
///
/// Lifecycle: [restored](Group::restore), or [made](Group::create) for a new replica, driven by `propose`/`step`/`tick`, emptied
/// with `take_work` while `has_work`, told of durability with `on_persisted`, dropped when the replica is removed.
/// `compacted ≤ checkpointed ≤ applied ≤ delivered ≤ committed ≤ last`: entries between `compacted` and
/// `checkpointed` are durable outside the WAL and stay in memory for followers that lag.
/// `compacted ≤ persisted`. A leader applies what any majority has made durable, before its own write if need be, so that
/// `persisted ≤ applied` is as good as the reverse. raft-rs hands out and counts as applied only what is persisted here,
/// so it is told `min(applied, persisted)` and the group keeps count itself.
pub struct Group {
    group: GroupId,
    own: ReplicaId,
    /// The members as of the checkpoint and since, each with the entry that made them so; never empty.
    memberships: VecDeque<(LogIndex, Membership)>,
    /// All whose votes count now.
    voters: Vec<ReplicaId>,
    /// The last entry of the log when the members last changed here.
    settled_behind: LogIndex,
    /// The last entry that this node proposed so that members, and why they are these, are known; and its term.
    settling: Option<(Term, LogIndex)>,
    node: RawNode<LogView>,
    unpersisted: VecDeque<Unpersisted>,
    checkpointed: (LogIndex, Term),
    /// The last entry that [`Group::take_work`] gave to be applied.
    delivered: LogIndex,
    applied: LogIndex,
    applied_term: Term,
}

impl Group {
    /// A new replica: one of those that the group begins with, `voters`, or one that is to be told of the group by its leader,
    /// where there are none. [`Group::checkpoint_record`] of it must be the first of the group in the WAL.
    pub fn create(group: GroupId, own: ReplicaId, voters: Vec<ReplicaId>) -> Group {
        let (index, term) = if voters.is_empty() { (LogIndex(0), Term(0)) } else { FIRST_CHECKPOINT };
        let membership = Membership::of_voters(voters);
        let view = LogView::new(membership.conf_state(), index.0, term.0);
        Group::new(group, own, membership, view, (index, term))
    }

    /// Restores a replica, and gives the state of the machine as of its checkpoint. Entries behind the checkpoint come out
    /// of [`Group::take_work`] again once they are known to be committed.
    ///
    /// # Errors
    ///
    /// [`NoMembership`] where the checkpoint is not one of [`Group::checkpoint_record`].
    pub fn restore(group: GroupId, recovered: RecoveredGroup) -> Result<(Group, Bytes), NoMembership> {
        let (index, term, state) = match recovered.checkpoint {
            Some(checkpoint) => (checkpoint.index, checkpoint.term, checkpoint.state),
            None => (LogIndex(0), Term(0), Bytes::new()),
        };
        let (own, membership, machine) = read_checkpoint(state)?;
        let mut view = LogView::new(membership.conf_state(), index.0, term.0);
        let entries: Vec<Entry> = recovered.entries.into_iter().map(entry_of_record).collect();
        view.append(&entries);
        view.set_hard_state(HardState {
            term: recovered.term.0,
            vote: recovered.vote,
            // A snapshot is committed, whatever was known when the hard state was written.
            commit: recovered.commit.max(index).0,
            ..HardState::default()
        });
        Ok((Group::new(group, own, membership, view, (index, term)), machine))
    }

    fn new(
        group: GroupId,
        own: ReplicaId,
        membership: Membership,
        view: LogView,
        (index, term): (LogIndex, Term),
    ) -> Group {
        let config = Config {
            id: own.raft_id(),
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            min_election_tick: ELECTION_TICKS,
            max_election_tick: ELECTION_TICKS + CAMPAIGN_TICKS_APART * CAMPAIGN_PLACES_MAX + 1,
            applied: index.0,
            max_size_per_msg: APPEND_BYTES_MAX as u64,
            max_inflight_msgs: APPENDS_IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, view, &logger).expect("the configuration is valid");
        let mut group = Group {
            group,
            own,
            voters: membership.all_voters(),
            settled_behind: LogIndex(0),
            settling: None,
            memberships: VecDeque::from([(index, membership)]),
            node,
            unpersisted: VecDeque::new(),
            checkpointed: (index, term),
            delivered: index,
            applied: index,
            applied_term: term,
        };
        group.settled_behind = group.last_index();
        group.reset_election_timeout();
        group
    }

    /// Takes a message of another replica. Those that come late, from a replica that is none any more, or for one that this node
    /// had of the group before, change nothing.
    pub fn step(&mut self, message: Message) {
        if message.to != self.node.raft.id {
            return;
        }
        // Who asks for votes does not lead any more. Its followers would otherwise trust in it for as long as its node
        // is alive, because nobody ticks them.
        let asks_for_votes =
            matches!(message.msg_type, MessageType::MsgRequestPreVote | MessageType::MsgRequestVote);
        if asks_for_votes && message.from == self.node.raft.leader_id {
            self.forget_leader();
        }
        // A replica that looks for a leader while there is one has missed it, and hears nothing of one that rests.
        if asks_for_votes && self.is_leader() {
            self.node.ping();
        }
        if message.msg_type == MessageType::MsgTimeoutNow && !self.may_campaign() {
            return;
        }
        match self.node.step(message) {
            Ok(()) | Err(Error::StepPeerNotFound | Error::ProposalDropped) => {}
            Err(error) => unreachable!("raft-rs takes every message between nodes, but: {error}"),
        }
    }

    /// A tick has passed. Only groups without a leader, or with something to repair, need ticks.
    pub fn tick(&mut self) {
        if !self.is_leader() && !self.may_campaign() {
            return;
        }
        self.reset_election_timeout();
        self.node.tick();
        self.ask_for_leader();
    }

    /// A replica that cannot be elected and knows of no leader asks the voters, once in each election time-out, as if it wanted
    /// their votes, which it would not count: a leader answers, and who followed this one until it was left out does not any longer.
    fn ask_for_leader(&mut self) {
        let raft = &mut self.node.raft;
        let is_asking = raft.leader_id == INVALID_ID && !raft.promotable();
        if !is_asking || !raft.election_elapsed.is_multiple_of(ELECTION_TICKS) {
            return;
        }
        let (from, term) = (raft.id, raft.term + 1);
        // A voter may only refuse who lacks entries, and cannot while it is in no term yet.
        let (index, log_term) = (raft.raft_log.last_index(), raft.raft_log.last_term());
        let question = |voter: &ReplicaId| {
            let mut message =
                Message { from, to: voter.raft_id(), term, index, log_term, ..Message::default() };
            message.set_msg_type(MessageType::MsgRequestPreVote);
            message
        };
        raft.msgs.extend(self.voters.iter().map(question));
    }

    /// Whether raft-rs can campaign. Not while a snapshot is taken over and not durable yet: it would look for entries between
    /// the last applied one and the snapshot, and there are none. Nor may the only voter with entries that are not durable
    /// yet: others send their requests for votes behind them, but it is elected at once, and a new leader's log is to be durable.
    fn may_campaign(&self) -> bool {
        let is_durable = self.persisted() == self.last_index() || !self.is_single_voter();
        is_durable && self.unpersisted.iter().all(|waiting| waiting.snapshot.is_none())
    }

    /// The leader is not to be reached: the next ticks bring an election, and others' requests for votes are heard.
    pub fn forget_leader(&mut self) {
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Follower && raft.leader_id != INVALID_ID {
            raft.leader_id = INVALID_ID;
            self.hasten_election();
        }
    }

    /// Without a leader, the next ticks bring an election, in which the voters take their turns: a majority is there to be asked.
    /// Should there be a leader that this replica has not heard of yet, those who know it give no votes.
    pub fn hasten_election(&mut self) {
        let raft = &mut self.node.raft;
        if raft.state != StateRole::Leader && raft.leader_id == INVALID_ID {
            raft.election_elapsed = raft.election_elapsed.max(ELECTION_TICKS);
        }
    }

    /// The way to another node is open, and messages before may be lost: a leader looks how far its replica is.
    pub fn on_peer_connected(&mut self, peer: NodeId) {
        let replicas: Vec<(u64, ProgressState)> = self.progress_of(peer).collect();
        for (id, state) in &replicas {
            match state {
                ProgressState::Snapshot => self.node.report_snapshot(*id, SnapshotStatus::Failure),
                ProgressState::Replicate => self.node.report_unreachable(*id),
                ProgressState::Probe => {}
            }
        }
        if !replicas.is_empty() {
            self.node.ping();
        }
    }

    /// A follower cannot take over the snapshot it was sent, since what it is to pull is gone: it is looked at anew, and sent one
    /// of what is there by then.
    pub fn on_snapshot_failed(&mut self, peer: NodeId) {
        self.node.mut_store().forget_snapshot();
        let waiting = self.progress_of(peer).filter(|(_, state)| *state == ProgressState::Snapshot);
        let replicas: Vec<u64> = waiting.map(|(id, _)| id).collect();
        for id in &replicas {
            self.node.report_snapshot(*id, SnapshotStatus::Failure);
        }
        if !replicas.is_empty() {
            self.node.ping();
        }
    }

    /// What a leader knows of the replicas of a node: one, or two while one takes the place of the other.
    fn progress_of(&self, node: NodeId) -> impl Iterator<Item = (u64, ProgressState)> {
        let own = self.node.raft.id;
        let progresses = self.is_leader().then(|| self.node.raft.prs().iter()).into_iter().flatten();
        progresses
            .filter(move |(id, _)| **id != own && node_of(**id) == Some(node))
            .map(|(id, progress)| (*id, progress.state))
    }

    /// Asks all followers how far they are.
    pub fn ping(&mut self) {
        self.node.ping();
    }

    /// A message to another replica was dropped: a leader sends one at a time until it answers again.
    pub fn on_message_dropped(&mut self, to: ReplicaId) {
        if self.is_leader() {
            self.node.report_unreachable(to.raft_id());
        }
    }

    /// Hands leadership over to the voter of a node, which is to take it at once. Proposals are refused meanwhile, for as
    /// long as an election may take. Whether there is such a voter.
    pub fn transfer_leadership(&mut self, to: NodeId) -> bool {
        let membership = self.membership();
        let Some(voter) = membership.voters.iter().rfind(|voter| voter.node == to).copied() else {
            return false;
        };
        self.node.transfer_leader(voter.raft_id());
        true
    }

    /// Whether leadership is being handed over.
    pub fn is_transferring(&self) -> bool {
        self.node.raft.lead_transferee.is_some()
    }

    /// Whether this node leads its term, though it may not serve yet.
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// What a leader knows of the others, learners too; empty on other replicas.
    pub fn followers(&self) -> impl Iterator<Item = Follower> {
        let raft = &self.node.raft;
        let progresses = self.is_leader().then(|| raft.prs().iter()).into_iter().flatten();
        progresses.filter(|(id, _)| **id != raft.id).map(|(id, progress)| Follower {
            replica: ReplicaId::from_raft_id(*id).expect("members have ids of replicas"),
            matched: LogIndex(progress.matched),
        })
    }

    /// Which replica of the group this is.
    pub fn own(&self) -> ReplicaId {
        self.own
    }

    /// The members as of the last applied entry.
    pub fn membership(&self) -> &Membership {
        &self.memberships.back().expect("there is always one").1
    }

    /// All replicas whose votes count, ascending: during a change of voters, those of before and after it.
    pub fn voters(&self) -> &[ReplicaId] {
        &self.voters
    }

    /// Whether a node holds a member.
    pub fn has_member(&self, node: NodeId) -> bool {
        let learners = &self.membership().learners;
        self.voters.iter().chain(learners).any(|replica| replica.node == node)
    }

    /// Whether the voters on these nodes can decide alone.
    pub fn has_majority(&self, is_alive: impl Fn(NodeId) -> bool) -> bool {
        self.membership().has_majority(|voter| is_alive(voter.node))
    }

    /// Whether a follower needs what is compacted, so that [`Group::offer_snapshot`] is asked for.
    pub fn wants_snapshot(&self) -> bool {
        self.is_leader() && self.node.store().wants_snapshot()
    }

    /// The state as of the last applied entry, for followers that are too far behind for entries.
    pub fn offer_snapshot(&mut self, state: Bytes) {
        let (index, term) = (self.applied.0, self.applied_term.0);
        self.node.mut_store().offer_snapshot(index, term, state);
        // Raft asks again when a follower answers.
        self.node.ping();
    }

    /// Starts an election at once: the first replica of a new partition does, and the only voter of a group.
    pub fn campaign(&mut self) {
        // raft-rs refuses only a node that may not vote, which then waits to be told otherwise.
        if self.node.raft.promotable() && self.may_campaign() {
            self.node.campaign().expect("a promotable node may campaign");
        }
        self.reset_election_timeout();
    }

    /// Whether this node is the only voter.
    pub fn is_single_voter(&self) -> bool {
        self.voters.as_slice() == [self.own]
    }

    /// This node's current part.
    pub fn role(&self) -> Role {
        let raft = &self.node.raft;
        Role {
            term: Term(raft.term),
            leader: node_of(raft.leader_id),
            // No leader made what a group begins behind, though it has a term.
            serving: raft.state == StateRole::Leader
                && self.applied > FIRST_CHECKPOINT.0
                && (self.applied_term.0 == raft.term || is_planted(Mutant::ServeBeforeOwnTerm)),
        }
    }

    /// Proposes one entry and returns where it stands if it commits in the current term. `context` says
    /// what kind of entry it is and is small, `data` is the payload.
    pub fn propose(&mut self, context: Bytes, data: Bytes) -> Result<LogIndex, ProposeError> {
        self.propose_entry(Entry { context, data, ..Entry::default() })
    }

    fn propose_entry(&mut self, entry: Entry) -> Result<LogIndex, ProposeError> {
        if self.node.raft.state != StateRole::Leader {
            return Err(ProposeError::NotLeader);
        }
        let before = self.last_index();
        let mut message = Message { from: self.node.raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(vec![entry].into());
        match self.node.raft.step(message) {
            Ok(()) => {
                let index = self.last_index();
                assert!(index == before.next(), "one proposal makes one entry");
                Ok(index)
            }
            Err(_) if self.is_transferring() => Err(ProposeError::NotLeader),
            Err(_) => Err(ProposeError::Busy),
        }
    }

    /// Whether so many bytes more may be proposed to this leader, beside what is not committed or not written here yet. An
    /// entry that is alone is always taken.
    pub fn has_room(&self, bytes: usize) -> bool {
        let uncommitted = self.node.raft.uncommitted_size();
        uncommitted == 0 || (uncommitted + bytes) as u64 <= UNCOMMITTED_BYTES_MAX
    }

    /// Whether [`Group::take_work`] has something to give.
    pub fn has_work(&self) -> bool {
        self.node.has_ready() || self.delivered < self.deliverable()
    }

    /// The last entry that may be applied. What a leader knows to be committed is durable on a majority, whether or not this
    /// node is of it; a node that does not lead applies what it could lead with, which is what is durable here.
    fn deliverable(&self) -> LogIndex {
        match self.is_leader() {
            true => self.committed(),
            false => self.committed().min(self.persisted()),
        }
    }

    /// Takes what has come up. Must be called only while [`Group::has_work`].
    ///
    /// The order is raft-rs's: entries and hard state become readable in the log view before
    /// `advance_append_async`; the messages of a non-leader wait until their state is durable.
    pub fn take_work(&mut self) -> Work {
        assert!(self.has_work(), "take_work is called while there is work");
        let mut ready = self.node.ready();
        let mut work = Work {
            number: ready.number(),
            must_sync: ready.must_sync(),
            messages: ready.take_messages(),
            ..Work::default()
        };
        if !ready.snapshot().is_empty() {
            work.snapshot = Some(self.install(ready.snapshot()));
        }
        self.node.mut_store().append(ready.entries());
        work.records.extend(ready.entries().iter().map(|entry| record_of_entry(self.group, entry)));
        if let Some(hard_state) = ready.hs() {
            self.node.mut_store().set_hard_state(hard_state.clone());
            work.records.push(self.hard_state_record());
        }
        self.unpersisted.push_back(Unpersisted {
            number: ready.number(),
            must_sync: work.must_sync && !is_planted(Mutant::AckBeforeDurable),
            messages: ready.take_persisted_messages(),
            snapshot: work.snapshot.as_ref().map(|snapshot| snapshot.index),
        });
        self.node.advance_append_async(ready);
        work.committed = self.deliver();
        self.reset_election_timeout();
        self.release_unsynced(&mut work.messages);
        work
    }

    /// The entries that may be applied and were not given out yet, all of them readable by now.
    fn deliver(&mut self) -> Vec<Entry> {
        let (from, to) = (self.delivered, self.deliverable());
        if from >= to {
            return Vec::new();
        }
        self.delivered = to;
        let context = GetEntriesContext::empty(false);
        let entries = self.node.store().entries(from.next().0, to.next().0, None, context);
        entries.expect("what is not applied is not compacted")
    }

    fn install(&mut self, snapshot: &raft::eraftpb::Snapshot) -> InstalledSnapshot {
        let (index, term) = (LogIndex(snapshot.get_metadata().index), Term(snapshot.get_metadata().term));
        let truncated_from = self.compacted().0.next();
        let membership = Membership::of_conf_state(snapshot.get_metadata().get_conf_state());
        self.node.mut_store().install(index.0, term.0, membership.conf_state());
        self.memberships.clear();
        self.set_membership(index, membership);
        self.checkpointed = (index, term);
        self.delivered = index;
        self.applied = index;
        self.applied_term = term;
        InstalledSnapshot { index, term, truncated_from, state: snapshot.data.clone() }
    }

    /// Everything up to the work `number` is durable. Returns the messages that waited for it.
    pub fn on_persisted(&mut self, number: u64) -> Vec<Message> {
        let mut messages = Vec::new();
        while self.unpersisted.front().is_some_and(|waiting| waiting.number <= number) {
            self.release_first(&mut messages);
        }
        self.release_unsynced(&mut messages);
        messages
    }

    /// Messages that depend on nothing that is not durable yet go at once. raft-rs lets them wait behind earlier ones.
    fn release_unsynced(&mut self, messages: &mut Vec<Message>) {
        while self.unpersisted.front().is_some_and(|waiting| !waiting.must_sync) {
            self.release_first(messages);
        }
    }

    fn release_first(&mut self, messages: &mut Vec<Message>) {
        let mut released = self.unpersisted.pop_front().expect("the caller has seen it");
        messages.append(&mut released.messages);
        self.node.on_persist_ready(released.number);
        self.advance_applied();
    }

    /// Tells raft-rs what is applied, as far as it may know.
    fn advance_applied(&mut self) {
        let applied = self.applied.min(self.persisted());
        if applied.0 > self.node.raft.raft_log.applied {
            self.node.advance_apply_to(applied.0);
        }
    }

    /// The committed entry at `index` was applied.
    pub fn on_applied(&mut self, index: LogIndex, term: Term) {
        assert!(index > self.applied, "each entry is applied once, in order");
        self.applied = index;
        self.applied_term = term;
        self.advance_applied();
    }

    /// Entries up to `index` are durable outside the WAL. They stay in memory for other replicas until they are
    /// compacted; where there are none, they leave it now.
    pub fn on_checkpointed(&mut self, index: LogIndex) {
        assert!(index <= self.applied, "only applied entries are checkpointed");
        assert!(index >= self.checkpointed.0, "checkpoints come in order");
        let term = self.term_of(index).expect("entries behind the last checkpoint are retained");
        self.checkpointed = (index, term);
        while self.memberships.get(1).is_some_and(|(since, _)| *since <= index) {
            self.memberships.pop_front();
        }
        if self.is_single_voter() && self.membership().learners.is_empty() {
            self.compact(index);
        }
    }

    /// Drops entries up to `index` from memory, as far as they are checkpointed, and durable in the WAL: raft-rs asks for
    /// the terms of those that are not.
    pub fn compact(&mut self, index: LogIndex) {
        let index = index.min(self.checkpointed.0).min(self.persisted());
        self.node.mut_store().compact(index.0);
    }

    /// The checkpoint as a WAL record, with the state of the machine as of [`Group::checkpointed`].
    pub fn checkpoint_record(&self, machine: &[u8]) -> Record {
        let (index, term) = self.checkpointed;
        let (since, membership) = self.memberships.front().expect("there is always one");
        assert!(*since <= index, "the members as of the checkpoint are known");
        let state = join_checkpoint(self.own, membership, machine);
        Record::Checkpoint { group: self.group, index, term, state }
    }

    /// The entries behind the checkpoint as WAL records, to be written again, all at once, when the file with the first of
    /// them is to be recycled.
    pub fn entry_records(&self) -> Vec<Record> {
        let behind = self.checkpointed.0.next().0..=self.last_index().0;
        let entries = behind.map(|index| self.node.store().entry(index).expect("the log has no gaps"));
        entries.map(|entry| record_of_entry(self.group, entry)).collect()
    }

    /// The hard state as a WAL record, to be written again when the file with the last one is recycled.
    pub fn hard_state_record(&self) -> Record {
        let hard_state = self.node.store().hard_state();
        Record::HardState {
            group: self.group,
            term: Term(hard_state.term),
            vote: if is_planted(Mutant::ForgetVote) { 0 } else { hard_state.vote },
            commit: LogIndex(hard_state.commit),
        }
    }

    /// The term of a retained entry, or of the one the log starts behind.
    pub fn term_of(&self, index: LogIndex) -> Option<Term> {
        self.node.store().term(index.0).ok().map(Term)
    }

    /// The index and term of the last entry that is durable outside the WAL.
    pub fn checkpointed(&self) -> (LogIndex, Term) {
        self.checkpointed
    }

    /// Where the log in memory starts: the index and term of the entry before it.
    pub fn compacted(&self) -> (LogIndex, Term) {
        let (index, term) = self.node.store().compacted();
        (LogIndex(index), Term(term))
    }

    /// The last entry that was applied.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The last entry that is known to be committed.
    pub fn committed(&self) -> LogIndex {
        LogIndex(self.node.raft.raft_log.committed)
    }

    /// The last entry that is durable in this node's WAL.
    pub fn persisted(&self) -> LogIndex {
        LogIndex(self.node.raft.raft_log.persisted)
    }

    /// An entry that is still in memory: its term and its payload.
    pub fn entry(&self, index: LogIndex) -> Option<(Term, &Bytes)> {
        self.node.store().entry(index.0).map(|entry| (Term(entry.term), &entry.data))
    }

    /// Whether nothing ever happened in the group, as far as this replica knows.
    pub fn is_new(&self) -> bool {
        self.last_index() <= FIRST_CHECKPOINT.0
    }

    /// Bytes of the entries behind `index`, as far as they are in memory.
    pub fn bytes_behind(&self, index: LogIndex) -> usize {
        let behind = (index.next().0..=self.last_index().0).rev().map_while(|at| self.node.store().entry(at));
        behind.map(|entry| entry.data.len()).sum()
    }

    /// The last entry of the log, committed or not.
    pub fn last_index(&self) -> LogIndex {
        LogIndex(self.node.raft.raft_log.last_index())
    }

    /// raft-rs draws time-outs from thread randomness. An order of the voters by hash makes them repeatable, keeps the
    /// voters of a group apart, and lets the groups of a lost leader go to different nodes.
    fn reset_election_timeout(&mut self) {
        let term = self.node.raft.term;
        let draw = |replica: ReplicaId| mix64(self.group.0 ^ mix64(replica.raft_id() ^ mix64(term)));
        let own = (draw(self.own), self.own);
        let place = self.voters.iter().filter(|other| (draw(**other), **other) < own).count();
        let places = CAMPAIGN_TICKS_APART * place.min(CAMPAIGN_PLACES_MAX);
        self.node.raft.set_randomized_election_timeout(ELECTION_TICKS + places);
    }
}

fn node_of(raft_id: u64) -> Option<NodeId> {
    ReplicaId::from_raft_id(raft_id).map(|replica| replica.node)
}

fn record_of_entry(group: GroupId, entry: &Entry) -> Record {
    Record::Entry {
        group,
        term: Term(entry.term),
        index: LogIndex(entry.index),
        entry_type: match entry.entry_type {
            EntryType::EntryNormal => 0,
            EntryType::EntryConfChange => 1,
            EntryType::EntryConfChangeV2 => 2,
        },
        context: entry.context.clone(),
        data: entry.data.clone(),
    }
}

fn entry_of_record(entry: log::wal::Entry) -> Entry {
    Entry {
        term: entry.term.0,
        index: entry.index.0,
        entry_type: match entry.entry_type {
            0 => EntryType::EntryNormal,
            1 => EntryType::EntryConfChange,
            _ => EntryType::EntryConfChangeV2,
        },
        context: entry.context,
        data: entry.data,
        ..Entry::default()
    }
}
