//! Replicas that join and leave.

use raft_group::{Message, MessageType};
use types::{NodeId, ReplicaId};

use crate::harness::{Cluster, Replica};

fn replica(node: i32, generation: u32) -> ReplicaId {
    ReplicaId { node: NodeId(node), generation }
}

/// Whoever leads goes on until the group has these voters.
fn change(cluster: &mut Cluster, wanted: &[ReplicaId]) {
    for _ in 0..20 {
        let is_done = cluster.0.values_mut().any(|replica| {
            let committed = replica.group.committed();
            replica
                .group
                .change_members(wanted, Default::default(), true, |follower| follower.matched >= committed)
        });
        if is_done {
            return;
        }
        cluster.run();
    }
    panic!("{wanted:?} are not reached");
}

#[test]
fn a_newcomer_is_told_everything_and_takes_the_place_of_the_leader() {
    let mut cluster = Cluster::led_by_first();
    cluster.propose(1, "a");
    cluster.run();
    let newcomer = replica(4, 1);
    cluster.0.insert(newcomer.node, Replica::newcomer(newcomer));
    let wanted = [replica(2, 0), replica(3, 0), newcomer];
    change(&mut cluster, &wanted);
    let gone = cluster.0.remove(&NodeId(1)).expect("it was there");
    assert!(!gone.group.is_leader(), "it handed over before it was out");
    for replica in cluster.0.values_mut().filter(|replica| replica.group.is_leader()) {
        replica.group.transfer_leadership(newcomer.node);
    }
    cluster.run();
    cluster.propose(4, "b");
    cluster.run();
    for node in [2, 3, 4] {
        assert_eq!(cluster.replica(node).group.membership().voters, wanted);
        assert_eq!(cluster.applied(node).last(), Some(&"b".into()));
    }
    // What it was told is there after a restart, members included.
    let mut restarted = Replica::new(newcomer.node, Some(cluster.replica(4).recovered()));
    restarted.turn();
    assert_eq!(
        (restarted.group.own(), restarted.group.membership().voters.as_slice()),
        (newcomer, &wanted[..])
    );
}

#[test]
fn a_change_that_is_not_wanted_any_more_is_brought_to_its_end_and_taken_back() {
    let mut cluster = Cluster::led_by_first();
    let newcomer = replica(4, 1);
    cluster.0.insert(newcomer.node, Replica::newcomer(newcomer));
    let is_joint = |cluster: &Cluster| {
        cluster.0.values().any(|replica| replica.group.is_leader() && replica.group.membership().is_joint())
    };
    while !is_joint(&cluster) || !cluster.replica(1).group.membership().voters.contains(&newcomer) {
        let leader = cluster.0.values_mut().find(|replica| replica.group.is_leader()).expect("there is one");
        let committed = leader.group.committed();
        let is_caught_up = |follower: &raft_group::Follower| follower.matched >= committed;
        assert!(!leader.group.change_members(&[newcomer], Default::default(), true, is_caught_up));
        cluster.run();
    }
    let wanted = [replica(1, 0), replica(2, 0)];
    change(&mut cluster, &wanted);
    assert_eq!(cluster.replica(1).group.membership().voters, wanted);
    cluster.elect(1);
    cluster.propose(1, "a");
    cluster.run();
    assert_eq!((cluster.applied(1), cluster.applied(2)), (cluster.applied(2), vec!["a".into()]));
}

#[test]
fn a_leader_that_was_elected_before_it_knew_that_it_is_out_hands_over() {
    let mut cluster = Cluster::led_by_first();
    let wanted = [replica(1, 0), replica(3, 0)];
    assert!(!cluster.replica(1).group.change_members(&wanted, Default::default(), true, |_| true));
    // The change reaches the one that it leaves out, and its author is gone.
    for message in cluster.replica(1).turn() {
        if ReplicaId::from_raft_id(message.to) == Some(replica(2, 0)) {
            cluster.replica(2).group.step(message);
        }
    }
    cluster.replica(2).turn();
    let author = cluster.0.remove(&NodeId(1)).expect("it was there");
    cluster.elect(2);
    assert_eq!(cluster.replica(2).group.membership().voters, wanted);
    cluster.0.insert(NodeId(1), author);
    change(&mut cluster, &wanted);
    assert!(cluster.replica(3).group.role().serving);
    cluster.propose(3, "a");
    cluster.run();
    assert_eq!(cluster.applied(1), ["a"]);
}

#[test]
fn the_only_voter_is_not_elected_before_its_log_is_durable() {
    let mut cluster = Cluster::led_by_first();
    change(&mut cluster, &[replica(1, 0)]);
    cluster.run();
    cluster.replica(1).writes = false;
    cluster.propose(1, "a");
    cluster.run();
    // One that it left out leads in a later term.
    let only = &mut cluster.replica(1).group;
    let mut word = Message { to: only.own().raft_id(), from: replica(2, 0).raft_id(), ..Message::default() };
    word.set_msg_type(MessageType::MsgHeartbeat);
    word.term = only.role().term.0 + 1;
    only.step(word);
    assert!(!only.is_leader());
    let ticks = 100;
    (0..ticks).for_each(|_| only.tick());
    only.campaign();
    assert!(!only.is_leader() && only.persisted() < only.last_index());
    cluster.replica(1).writes = true;
    cluster.run();
    (0..ticks).for_each(|_| cluster.replica(1).group.tick());
    cluster.run();
    assert!(cluster.replica(1).group.role().serving);
    assert_eq!(cluster.applied(1), ["a"]);
}

#[test]
fn a_node_that_lost_its_disk_is_not_taken_for_the_replica_that_it_was() {
    let mut cluster = Cluster::led_by_first();
    cluster.0.remove(&NodeId(3));
    cluster.propose(1, "a");
    cluster.run();
    let blank = replica(3, 1);
    cluster.0.insert(blank.node, Replica::newcomer(blank));
    // Somebody asks the former one for its vote: it hears nothing of that.
    let before = cluster.replica(3).group.role();
    cluster.replica(2).group.forget_leader();
    cluster.replica(2).group.campaign();
    cluster.run();
    assert_eq!(cluster.replica(3).group.role(), before);
    change(&mut cluster, &[replica(1, 0), replica(2, 0), blank]);
    assert_eq!(cluster.replica(3).group.membership().voters, [replica(1, 0), replica(2, 0), blank]);
    // Without one of the others it is needed, and knows what was acknowledged before it came.
    cluster.0.remove(&NodeId(1));
    cluster.elect(3);
    cluster.propose(3, "b");
    cluster.run();
    assert_eq!(cluster.applied(2), ["a", "b"]);
}
