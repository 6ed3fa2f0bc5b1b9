//! A leader that commits and applies what others have made durable, before its own write is.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use log::wal::{Checkpoint, Entry, Record, RecoveredGroup};
use raft_group::{Group, GroupOptions, Message};
use types::{GroupId, LogIndex, NodeId, Term};

const GROUP: GroupId = GroupId(7);
const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// A replica with its WAL: what is written, and what is on its way there.
struct Replica {
    group: Group,
    written: Vec<Record>,
    unwritten: VecDeque<(u64, Vec<Record>)>,
    /// Whether writes become durable as they come.
    writes: bool,
    applied: Vec<(u64, Bytes)>,
}

impl Replica {
    fn new(node: NodeId, recovered: Option<RecoveredGroup>) -> Replica {
        let options = GroupOptions { group: GROUP, node, voters: NODES.to_vec() };
        let group = Group::new(options, recovered);
        Replica { group, written: Vec::new(), unwritten: VecDeque::new(), writes: true, applied: Vec::new() }
    }

    /// Does what there is to do, and returns what may be sent.
    fn turn(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while self.group.has_work() || (self.writes && !self.unwritten.is_empty()) {
            if self.group.has_work() {
                let work = self.group.take_work();
                assert!(work.snapshot.is_none(), "nobody is that far behind");
                messages.extend(work.messages);
                self.unwritten.push_back((work.number, work.records));
                for entry in work.committed {
                    self.applied.push((entry.index, entry.data.clone()));
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
    fn recovered(&self) -> RecoveredGroup {
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
                Record::Truncated { .. } | Record::GroupRemoved { .. } => {
                    unreachable!("none is written here")
                }
            }
        }
        assert!(found.commit <= found.last_index(), "no more is said to be committed than is written");
        found
    }
}

struct Cluster(BTreeMap<NodeId, Replica>);

impl Cluster {
    /// Three replicas, the first of which leads.
    fn led_by_first() -> Cluster {
        let mut cluster = Cluster(NODES.iter().map(|node| (*node, Replica::new(*node, None))).collect());
        cluster.replica(1).group.campaign();
        cluster.run();
        assert!(cluster.replica(1).group.role().serving);
        cluster
    }

    fn replica(&mut self, node: i32) -> &mut Replica {
        self.0.get_mut(&NodeId(node)).expect("there are three")
    }

    /// Brings messages to those who are there, until there are none.
    fn run(&mut self) {
        loop {
            let messages: Vec<Message> = self.0.values_mut().flat_map(Replica::turn).collect();
            if messages.is_empty() {
                return;
            }
            for message in messages {
                let to = NodeId::from_raft_id(message.to).expect("a node");
                if let Some(receiver) = self.0.get_mut(&to) {
                    receiver.group.step(message);
                }
            }
        }
    }

    /// Those who are there elect this one.
    fn elect(&mut self, node: i32) {
        self.0.values_mut().for_each(|replica| replica.group.forget_leader());
        self.replica(node).group.campaign();
        self.run();
        assert!(self.replica(node).group.role().serving);
    }

    fn propose(&mut self, node: i32, data: &'static str) -> LogIndex {
        let proposed = self.replica(node).group.propose(Bytes::new(), Bytes::from_static(data.as_bytes()));
        proposed.expect("it leads")
    }

    /// What a replica has applied, without the entries that begin terms.
    fn applied(&mut self, node: i32) -> Vec<Bytes> {
        let applied = self.replica(node).applied.iter().map(|(_, data)| data.clone());
        applied.filter(|data| !data.is_empty()).collect()
    }
}

#[test]
fn a_leader_applies_what_the_others_have_written_and_it_has_not() {
    let mut cluster = Cluster::led_by_first();
    cluster.replica(1).writes = false;
    let index = cluster.propose(1, "a");
    cluster.run();
    assert_eq!(cluster.applied(1), ["a"]);
    assert_eq!((cluster.applied(2), cluster.applied(3)), (vec!["a".into()], vec!["a".into()]));
    let leader = &cluster.replica(1).group;
    assert_eq!((leader.applied(), leader.committed()), (index, index));
    assert!(leader.persisted() < index);

    let index = cluster.propose(1, "b");
    cluster.replica(1).writes = true;
    cluster.run();
    assert_eq!(cluster.replica(1).group.persisted(), index);
    assert_eq!(cluster.applied(1), ["a", "b"], "each is applied once");
    assert!(!cluster.replica(1).group.has_work());
}

#[test]
fn followers_apply_what_they_have_written() {
    let mut cluster = Cluster::led_by_first();
    cluster.replica(3).writes = false;
    cluster.propose(1, "a");
    cluster.run();
    assert_eq!((cluster.applied(2), cluster.applied(3)), (vec!["a".into()], vec![]));
    cluster.replica(3).writes = true;
    cluster.run();
    assert_eq!(cluster.applied(3), ["a"]);
}

#[test]
fn a_leader_alone_with_its_write_commits_nothing() {
    let mut cluster = Cluster::led_by_first();
    for node in [2, 3] {
        cluster.replica(node).writes = false;
    }
    cluster.propose(1, "a");
    cluster.run();
    assert!(cluster.applied(1).is_empty());
}

#[test]
fn the_log_stays_until_it_is_written_whatever_is_checkpointed() {
    let mut cluster = Cluster::led_by_first();
    cluster.replica(1).writes = false;
    let index = cluster.propose(1, "a");
    cluster.run();
    let leader = &mut cluster.replica(1).group;
    leader.on_checkpointed(index);
    leader.compact(index);
    assert_eq!(leader.compacted().0, leader.persisted());
    cluster.replica(1).writes = true;
    cluster.run();
    let leader = &mut cluster.replica(1).group;
    assert_eq!(leader.persisted(), index);
    leader.compact(index);
    assert_eq!(leader.compacted().0, index);
}

#[test]
fn a_leader_that_dies_before_its_write_finds_it_with_the_others() {
    let mut cluster = Cluster::led_by_first();
    cluster.propose(1, "a");
    cluster.run();
    cluster.replica(1).writes = false;
    let lost = cluster.propose(1, "b");
    cluster.run();
    assert_eq!(cluster.applied(1), ["a", "b"]);

    let dead = cluster.0.remove(&NodeId(1)).expect("it was there");
    let recovered = dead.recovered();
    assert!(recovered.last_index() < lost, "what was not written is gone");
    cluster.0.insert(NodeId(1), Replica::new(NodeId(1), Some(recovered)));

    // It cannot lead without what it lost: the others have it and vote for nobody who has not.
    for node in [2, 3] {
        cluster.replica(node).group.forget_leader();
    }
    cluster.replica(1).group.campaign();
    cluster.run();
    assert!(!cluster.replica(1).group.is_leader());

    cluster.elect(2);
    cluster.propose(2, "c");
    cluster.run();
    for node in [1, 2, 3] {
        assert_eq!(cluster.applied(node), ["a", "b", "c"], "node {node}");
    }
}

#[test]
fn a_deposed_leader_goes_on_from_what_it_has_applied_and_not_written() {
    let mut cluster = Cluster::led_by_first();
    cluster.replica(1).writes = false;
    cluster.propose(1, "a");
    cluster.run();
    let cut_off = cluster.0.remove(&NodeId(1)).expect("it was there");
    cluster.elect(2);
    cluster.propose(2, "b");
    cluster.run();
    cluster.0.insert(NodeId(1), cut_off);
    cluster.replica(2).group.on_peer_connected(NodeId(1));
    cluster.run();
    assert_eq!(cluster.replica(1).group.role().leader, Some(NodeId(2)));
    assert_eq!(cluster.applied(1), ["a"], "it follows and applies only what is written");
    cluster.replica(1).writes = true;
    cluster.run();
    assert_eq!(cluster.applied(1), ["a", "b"]);
    assert_eq!(cluster.replica(1).recovered().last_index(), cluster.replica(2).recovered().last_index());
    // It may lead again, with all that raft-rs asserts of a new leader.
    cluster.0.remove(&NodeId(2));
    cluster.elect(1);
}
