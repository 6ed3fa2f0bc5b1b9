//! The group itself: raft-rs behind a face that speaks of WAL records and committed entries.

use std::collections::VecDeque;

use bytes::Bytes;
use log::wal::{Record, RecoveredGroup};
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Message, MessageType};
use raft::{Config, RawNode, StateRole, Storage};
use types::hash::mix64;
use types::{GroupId, LogIndex, NodeId, Term};

use crate::LogView;

/// Ticks without a word from the leader before an election.
const ELECTION_TICKS: usize = 10;

/// Bytes of one append message between nodes.
const APPEND_BYTES_MAX: u64 = 1024 * 1024;

/// Append messages to one follower that are not yet acknowledged.
const APPENDS_IN_FLIGHT_MAX: usize = 64;

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
    /// The source of election randomness: the same seed gives the same time-outs.
    pub seed: u64,
}

/// Why a proposal was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead the group.
    #[error("this node does not lead the group")]
    NotLeader,
    /// Too many bytes wait for their commit, or leadership is being handed over.
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
    /// Entries to apply, in order, each exactly once.
    pub committed: Vec<Entry>,
    /// Messages that may go to other nodes at once.
    pub messages: Vec<Message>,
}

struct Unpersisted {
    number: u64,
    messages: Vec<Message>,
}

/// One Raft group on one shard.
///
/// Lifecycle: made from recovered state or for a new replica, driven by `propose`/`step`/`tick`, emptied
/// with `take_work` while `has_work`, told of durability with `on_persisted`, dropped when the replica is removed.
/// `compacted ≤ applied ≤ committed ≤ last`, and `applied ≤ persisted`.
pub struct Group {
    options: GroupOptions,
    node: RawNode<LogView>,
    unpersisted: VecDeque<Unpersisted>,
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
                commit: recovered.commit.0,
                ..HardState::default()
            });
        }

        let config = Config {
            id: options.node.raft_id(),
            election_tick: ELECTION_TICKS,
            heartbeat_tick: 1,
            applied: index.0,
            max_size_per_msg: APPEND_BYTES_MAX,
            max_inflight_msgs: APPENDS_IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, view, &logger).expect("the configuration is valid");
        let mut group =
            Group { options, node, unpersisted: VecDeque::new(), applied: index, applied_term: term };
        group.reset_election_timeout();
        group
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
            serving: raft.state == StateRole::Leader && self.applied_term.0 == raft.term,
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
        assert!(ready.snapshot().is_empty(), "no node sends snapshots yet");
        self.node.mut_store().append(ready.entries());
        work.records.extend(ready.entries().iter().map(|entry| record_of_entry(self.options.group, entry)));
        if let Some(hard_state) = ready.hs() {
            self.node.mut_store().set_hard_state(hard_state.clone());
            work.records.push(self.hard_state_record());
        }
        let messages = ready.take_persisted_messages();
        self.unpersisted.push_back(Unpersisted { number: ready.number(), messages });
        self.node.advance_append_async(ready);
        self.reset_election_timeout();
        work
    }

    /// Everything up to the work `number` is durable. Returns the messages that waited for it.
    pub fn on_persisted(&mut self, number: u64) -> Vec<Message> {
        let mut messages = Vec::new();
        while self.unpersisted.front().is_some_and(|waiting| waiting.number <= number) {
            messages.append(&mut self.unpersisted.pop_front().expect("it was just seen").messages);
        }
        self.node.on_persist_ready(number);
        messages
    }

    /// The committed entry at `index` was applied.
    pub fn on_applied(&mut self, index: LogIndex, term: Term) {
        assert!(index > self.applied, "each entry is applied once, in order");
        self.applied = index;
        self.applied_term = term;
        self.node.advance_apply_to(index.0);
    }

    /// Entries up to `index` are durable outside the WAL: they leave memory and the log.
    pub fn compact(&mut self, index: LogIndex) {
        assert!(index <= self.applied, "only applied entries are compacted");
        self.node.mut_store().compact(index.0);
    }

    /// The hard state as a WAL record, to be written again when the file with the last one is recycled.
    pub fn hard_state_record(&self) -> Record {
        let hard_state = self.node.store().hard_state();
        Record::HardState {
            group: self.options.group,
            term: Term(hard_state.term),
            vote: hard_state.vote,
            commit: LogIndex(hard_state.commit),
        }
    }

    /// The term of a retained entry, or of the one the log starts behind.
    pub fn term_of(&self, index: LogIndex) -> Option<Term> {
        self.node.store().term(index.0).ok().map(Term)
    }

    /// Where the retained log starts: the index and term of the entry before it.
    pub fn compacted(&self) -> (LogIndex, Term) {
        let (index, term) = self.node.store().compacted();
        (LogIndex(index), Term(term))
    }

    /// The last entry that was applied.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The last entry of the log, committed or not.
    pub fn last_index(&self) -> LogIndex {
        LogIndex(self.node.raft.raft_log.last_index())
    }

    /// raft-rs draws time-outs from thread randomness; a hash makes them repeatable and still different
    /// between nodes, groups and terms.
    fn reset_election_timeout(&mut self) {
        let GroupOptions { group, node, seed, .. } = &self.options;
        let random = mix64(seed ^ mix64(group.0 ^ mix64(node.raft_id() ^ mix64(self.node.raft.term))));
        let spread = usize::try_from(random % ELECTION_TICKS as u64).expect("it is below ten");
        self.node.raft.set_randomized_election_timeout(ELECTION_TICKS + spread);
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
