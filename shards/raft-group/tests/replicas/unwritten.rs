//! A leader that commits and applies what others have made durable, before its own write is.

use types::NodeId;

use crate::harness::{Cluster, Replica};

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
