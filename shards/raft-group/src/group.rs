//! The group itself: raft-rs behind a face that speaks of WAL records and committed entries.

use std::collections::VecDeque;

use bytes::Bytes;
use log::wal::{Record, RecoveredGroup};
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Message, MessageType};
use raft::{Config, Error, INVALID_ID, ProgressState, RawNode, SnapshotStatus, StateRole, Storage};
use types::hash::mix64;
use types::limits::APPEND_BYTES_MAX;
use types::mutants::{Mutant, is_planted};
use types::{GroupId, LogIndex, NodeId, Term};

use crate::LogView;

/// Ticks without a word from the leader before an election.
const ELECTION_TICKS: usize = 10;

/// Ticks between the campaigns of two replicas that miss their leader at the same time: enough for the first to be elected
/// before the next one tries, so that they do not split the votes.
const CAMPAIGN_TICKS_APART: usize = 3;

/// Ticks between two heartbeats of a leader that is ticked.
const HEARTBEAT_TICKS: usize = 2;

/// Append messages to one follower that are not yet acknowledged.
const APPENDS_IN_FLIGHT_MAX: usize = 32;

/// Proposed and not yet committed bytes of one group; beyond it proposals are refused.
const UNCOMMITTED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What a group is made of, beside what was recovered of it.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// The group.
    pub group: GroupId,
    /// This node, one of `voters`.
    pub node: NodeId,
    /// The nodes that vote.
    pub voters: Vec<NodeId>,
}

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
    pub node: NodeId,
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
/// Lifecycle: made from recovered state or for a new replica, driven by `propose`/`step`/`tick`, emptied
/// with `take_work` while `has_work`, told of durability with `on_persisted`, dropped when the replica is removed.
/// `compacted ≤ checkpointed ≤ applied ≤ committed ≤ last`, and `applied ≤ persisted`: entries between `compacted` and
/// `checkpointed` are durable outside the WAL and stay in memory for followers that lag.
pub struct Group {
    options: GroupOptions,
    node: RawNode<LogView>,
    unpersisted: VecDeque<Unpersisted>,
    checkpointed: (LogIndex, Term),
    applied: LogIndex,
    applied_term: Term,
}

impl Group {
    /// Restores a group, or makes a new one when `recovered` is `None`. Entries behind the checkpoint
    /// come out of [`Group::take_work`] again once they are known to be committed.
    pub fn new(options: GroupOptions, recovered: Option<RecoveredGroup>) -> Group {
        let conf_state =
            ConfState::from((options.voters.iter().map(|n| n.raft_id()).collect::<Vec<_>>(), vec![]));
        let checkpoint = recovered.as_ref().and_then(|recovered| recovered.checkpoint.as_ref());
        let (index, term) = checkpoint.map_or((LogIndex(0), Term(0)), |c| (c.index, c.term));
        let mut view = LogView::new(conf_state, index.0, term.0);
        if let Some(recovered) = recovered {
            let entries: Vec<Entry> = recovered.entries.into_iter().map(entry_of_record).collect();
            view.append(&entries);
            view.set_hard_state(HardState {
                term: recovered.term.0,
                vote: recovered.vote,
                // A snapshot is committed, whatever was known when the hard state was written.
                commit: recovered.commit.max(index).0,
                ..HardState::default()
            });
        }

        let config = Config {
            id: options.node.raft_id(),
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            min_election_tick: ELECTION_TICKS,
            max_election_tick: ELECTION_TICKS + CAMPAIGN_TICKS_APART * options.voters.len() + 1,
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
            options,
            node,
            unpersisted: VecDeque::new(),
            checkpointed: (index, term),
            applied: index,
            applied_term: term,
        };
        group.reset_election_timeout();
        group
    }

    /// Takes a message of another replica. Those that come late, or from a replica that is none any more, change nothing.
    pub fn step(&mut self, mut message: Message) {
        assert!(message.to == self.node.raft.id, "a message is brought to its receiver");
        if is_planted(Mutant::AcceptStaleAppend) && message.msg_type == MessageType::MsgAppend {
            message.term = message.term.max(self.node.raft.term);
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
        if message.msg_type == MessageType::MsgSnapshot {
            // The configuration is the group's own and does not travel.
            let conf_state = self.node.store().conf_state().clone();
            message.mut_snapshot().mut_metadata().set_conf_state(conf_state);
        }
        match self.node.step(message) {
            Ok(()) | Err(Error::StepPeerNotFound | Error::ProposalDropped) => {}
            Err(error) => unreachable!("raft-rs takes every message between nodes, but: {error}"),
        }
    }

    /// A tick has passed. Only groups without a leader, or with something to repair, need ticks.
    pub fn tick(&mut self) {
        self.reset_election_timeout();
        self.node.tick();
    }

    /// The leader is not to be reached: the next ticks bring an election, and others' requests for votes are heard.
    pub fn forget_leader(&mut self) {
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Follower && raft.leader_id != INVALID_ID {
            raft.leader_id = INVALID_ID;
            raft.election_elapsed = ELECTION_TICKS;
        }
    }

    /// The way to another replica is open, and messages before may be lost: a leader looks how far it is.
    pub fn on_peer_connected(&mut self, peer: NodeId) {
        if self.node.raft.state != StateRole::Leader {
            return;
        }
        let id = peer.raft_id();
        let Some(state) = self.node.raft.prs().get(id).map(|progress| progress.state) else { return };
        match state {
            ProgressState::Snapshot => self.node.report_snapshot(id, SnapshotStatus::Failure),
            ProgressState::Replicate => self.node.report_unreachable(id),
            ProgressState::Probe => {}
        }
        self.node.ping();
    }

    /// A follower cannot take over the snapshot it was sent: it is looked at anew.
    pub fn on_snapshot_failed(&mut self, peer: NodeId) {
        if self.node.raft.state == StateRole::Leader {
            self.node.report_snapshot(peer.raft_id(), SnapshotStatus::Failure);
            self.node.ping();
        }
    }

    /// Asks all followers how far they are.
    pub fn ping(&mut self) {
        self.node.ping();
    }

    /// Messages to another replica were dropped: a leader sends one at a time until it answers again.
    pub fn on_messages_dropped(&mut self, peer: NodeId) {
        if self.node.raft.state == StateRole::Leader {
            self.node.report_unreachable(peer.raft_id());
        }
    }

    /// Hands leadership over to a replica that is to take it at once. Proposals are refused meanwhile, for as long as an
    /// election may take.
    pub fn transfer_leadership(&mut self, to: NodeId) {
        self.node.transfer_leader(to.raft_id());
    }

    /// Whether leadership is being handed over.
    pub fn is_transferring(&self) -> bool {
        self.node.raft.lead_transferee.is_some()
    }

    /// Whether this node leads its term, though it may not serve yet.
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// What a leader knows of the others; empty on other replicas.
    pub fn followers(&self) -> impl Iterator<Item = Follower> {
        let raft = &self.node.raft;
        let progresses = self.is_leader().then(|| raft.prs().iter()).into_iter().flatten();
        progresses.filter(|(id, _)| **id != raft.id).map(|(id, progress)| Follower {
            node: NodeId::from_raft_id(*id).expect("replicas have ids of nodes"),
            matched: LogIndex(progress.matched),
        })
    }

    /// The nodes that vote.
    pub fn voters(&self) -> &[NodeId] {
        &self.options.voters
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
        if self.node.raft.promotable() {
            self.node.campaign().expect("a promotable node may campaign");
        }
        self.reset_election_timeout();
    }

    /// Whether this node is the only voter.
    pub fn is_single_voter(&self) -> bool {
        self.options.voters.as_slice() == [self.options.node]
    }

    /// This node's current part.
    pub fn role(&self) -> Role {
        let raft = &self.node.raft;
        Role {
            term: Term(raft.term),
            leader: NodeId::from_raft_id(raft.leader_id),
            serving: raft.state == StateRole::Leader
                && (self.applied_term.0 == raft.term || is_planted(Mutant::ServeBeforeOwnTerm)),
        }
    }

    /// Proposes one entry and returns where it stands if it commits in the current term. `context` says
    /// what kind of entry it is and is small, `data` is the payload.
    pub fn propose(&mut self, context: Bytes, data: Bytes) -> Result<LogIndex, ProposeError> {
        if self.node.raft.state != StateRole::Leader {
            return Err(ProposeError::NotLeader);
        }
        let before = self.last_index();
        let entry = Entry { context, data, ..Entry::default() };
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

    /// Whether [`Group::take_work`] has something to give.
    pub fn has_work(&self) -> bool {
        self.node.has_ready()
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
            committed: ready.take_committed_entries(),
            ..Work::default()
        };
        if !ready.snapshot().is_empty() {
            work.snapshot = Some(self.install(ready.snapshot()));
        }
        self.node.mut_store().append(ready.entries());
        work.records.extend(ready.entries().iter().map(|entry| record_of_entry(self.options.group, entry)));
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
        self.reset_election_timeout();
        self.release_unsynced(&mut work.messages);
        work
    }

    fn install(&mut self, snapshot: &raft::eraftpb::Snapshot) -> InstalledSnapshot {
        let (index, term) = (LogIndex(snapshot.get_metadata().index), Term(snapshot.get_metadata().term));
        let truncated_from = self.compacted().0.next();
        self.node.mut_store().install(index.0, term.0);
        self.checkpointed = (index, term);
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
        if let Some(index) = released.snapshot {
            self.node.advance_apply_to(index.0);
        }
    }

    /// The committed entry at `index` was applied.
    pub fn on_applied(&mut self, index: LogIndex, term: Term) {
        assert!(index > self.applied, "each entry is applied once, in order");
        self.applied = index;
        self.applied_term = term;
        self.node.advance_apply_to(index.0);
    }

    /// Entries up to `index` are durable outside the WAL. They stay in memory for other replicas until they are
    /// compacted; where there are none, they leave it now.
    pub fn on_checkpointed(&mut self, index: LogIndex) {
        assert!(index <= self.applied, "only applied entries are checkpointed");
        assert!(index >= self.checkpointed.0, "checkpoints come in order");
        let term = self.term_of(index).expect("entries behind the last checkpoint are retained");
        self.checkpointed = (index, term);
        if self.is_single_voter() {
            self.compact(index);
        }
    }

    /// Drops entries up to `index` from memory, as far as they are checkpointed.
    pub fn compact(&mut self, index: LogIndex) {
        self.node.mut_store().compact(index.min(self.checkpointed.0).0);
    }

    /// The hard state as a WAL record, to be written again when the file with the last one is recycled.
    pub fn hard_state_record(&self) -> Record {
        let hard_state = self.node.store().hard_state();
        Record::HardState {
            group: self.options.group,
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

    /// An entry that is still in memory: its term and its payload.
    pub fn entry(&self, index: LogIndex) -> Option<(Term, &Bytes)> {
        self.node.store().entry(index.0).map(|entry| (Term(entry.term), &entry.data))
    }

    /// The last entry of the log, committed or not.
    pub fn last_index(&self) -> LogIndex {
        LogIndex(self.node.raft.raft_log.last_index())
    }

    /// raft-rs draws time-outs from thread randomness. An order of the voters by hash makes them repeatable, keeps the
    /// voters of a group apart, and lets the groups of a lost leader go to different nodes.
    fn reset_election_timeout(&mut self) {
        let GroupOptions { group, node, voters } = &self.options;
        let term = self.node.raft.term;
        let draw = |node: NodeId| mix64(group.0 ^ mix64(node.raft_id() ^ mix64(term)));
        let own = (draw(*node), *node);
        let place = voters.iter().filter(|other| (draw(**other), **other) < own).count();
        self.node.raft.set_randomized_election_timeout(ELECTION_TICKS + CAMPAIGN_TICKS_APART * place);
    }
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
