//! Replicas with their WALs in one thread, and messages between them that arrive at once.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use log::wal::{Checkpoint, Entry, Record, RecoveredGroup};
use raft_group::{Group, Message, changes_membership};
use types::{GroupId, LogIndex, NodeId, ReplicaId, Term};

const GROUP: GroupId = GroupId(7);
pub const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// A replica with its WAL: what is written, and what is on its way there.
pub struct Replica {
    pub group: Group,
    written: Vec<Record>,
    unwritten: VecDeque<(u64, Vec<Record>)>,
    /// Whether writes become durable as they come.
    pub writes: bool,
    applied: Vec<(u64, Bytes)>,
}

impl Replica {
    pub fn new(node: NodeId, recovered: Option<RecoveredGroup>) -> Replica {
        match recovered {
            Some(recovered) => {
                let (group, _) = Group::restore(GROUP, recovered).expect("it was written by one");
                Replica::of(group)
            }
            None => Replica::made(ReplicaId::first(node), NODES.map(ReplicaId::first).to_vec()),
        }
    }

    /// One that the leader is to tell of the group.
    pub fn newcomer(own: ReplicaId) -> Replica {
        Replica::made(own, Vec::new())
    }

    fn made(own: ReplicaId, voters: Vec<ReplicaId>) -> Replica {
        let mut replica = Replica::of(Group::create(GROUP, own, voters));
        replica.written.push(replica.group.checkpoint_record(b""));
        replica
    }

    fn of(group: Group) -> Replica {
        Replica { group, written: Vec::new(), unwritten: VecDeque::new(), writes: true, applied: Vec::new() }
    }

    /// Does what there is to do, and returns what may be sent.
    pub fn turn(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        if self.group.wants_snapshot() {
            self.group.offer_snapshot(Bytes::new());
        }
        while self.group.has_work() || (self.writes && !self.unwritten.is_empty()) {
            if self.group.has_work() {
                let mut work = self.group.take_work();
                if let Some(snapshot) = work.snapshot {
                    let truncated = Record::Truncated { group: GROUP, from: snapshot.truncated_from };
                    work.records.splice(0..0, [truncated, self.group.checkpoint_record(&snapshot.state)]);
                }
                messages.extend(work.messages);
                self.unwritten.push_back((work.number, work.records));
                for entry in work.committed {
                    if changes_membership(&entry) {
                        self.group.apply_membership(&entry);
                    } else {
                        self.applied.push((entry.index, entry.data.clone()));
                    }
                    self.group.on_applied(LogIndex(entry.index), Term(entry.term));
                }
            }
            while let Some((number, records)) = self.unwritten.pop_front_if(|_| self.writes) {
                self.written.extend(records);
                messages.extend(self.group.on_persisted(number));
            }
        }
        messages
    }

    /// What a restart finds: nothing that was not written.
    pub fn recovered(&self) -> RecoveredGroup {
        let mut found = RecoveredGroup {
            term: Term(0),
            vote: 0,
            commit: LogIndex(0),
            checkpoint: None,
            entries: Vec::new(),
            state_file: None,
        };
        for record in self.written.clone() {
            match record {
                Record::Entry { term, index, entry_type, context, data, .. } => {
                    found.entries.retain(|entry| entry.index < index);
                    found.entries.push(Entry { term, index, entry_type, context, data });
                }
                Record::HardState { term, vote, commit, .. } => {
                    (found.term, found.vote, found.commit) = (term, vote, commit);
                }
                Record::Checkpoint { index, term, state, .. } => {
                    found.entries.retain(|entry| entry.index > index);
                    found.checkpoint = Some(Checkpoint { index, term, state });
                }
                Record::Truncated { from, .. } => found.entries.retain(|entry| entry.index < from),
                Record::GroupRemoved { .. } => unreachable!("none is written here"),
            }
        }
        assert!(found.commit <= found.last_index(), "no more is said to be committed than is written");
        found
    }
}

pub struct Cluster(pub BTreeMap<NodeId, Replica>);

impl Cluster {
    /// Three replicas, the first of which leads.
    pub fn led_by_first() -> Cluster {
        let mut cluster = Cluster(NODES.iter().map(|node| (*node, Replica::new(*node, None))).collect());
        cluster.replica(1).group.campaign();
        cluster.run();
        assert!(cluster.replica(1).group.role().serving);
        cluster
    }

    pub fn replica(&mut self, node: i32) -> &mut Replica {
        self.0.get_mut(&NodeId(node)).expect("there are three")
    }

    /// Brings messages to those who are there, until there are none.
    pub fn run(&mut self) {
        loop {
            let messages: Vec<Message> = self.0.values_mut().flat_map(Replica::turn).collect();
            if messages.is_empty() {
                return;
            }
            for message in messages {
                let to = ReplicaId::from_raft_id(message.to).expect("a replica");
                if let Some(receiver) = self.0.get_mut(&to.node) {
                    receiver.group.step(message);
                }
            }
        }
    }

    /// Those who are there elect this one.
    pub fn elect(&mut self, node: i32) {
        self.0.values_mut().for_each(|replica| replica.group.forget_leader());
        self.replica(node).group.campaign();
        self.run();
        assert!(self.replica(node).group.role().serving);
    }

    pub fn propose(&mut self, node: i32, data: &'static str) -> LogIndex {
        let proposed = self.replica(node).group.propose(Bytes::new(), Bytes::from_static(data.as_bytes()));
        proposed.expect("it leads")
    }

    /// What a replica has applied, without the entries that begin terms.
    pub fn applied(&mut self, node: i32) -> Vec<Bytes> {
        let applied = self.replica(node).applied.iter().map(|(_, data)| data.clone());
        applied.filter(|data| !data.is_empty()).collect()
    }
}
