//! When a replica without a leader asks for votes.

use crate::harness::{Cluster, NODES, Replica};

fn leaders(cluster: &Cluster) -> usize {
    cluster.0.values().filter(|replica| replica.group.role().serving).count()
}

#[test]
fn nobody_waits_for_a_leader_once_a_majority_is_there() {
    let all = || Cluster(NODES.iter().map(|node| (*node, Replica::new(*node, None))).collect());
    let tick = |cluster: &mut Cluster| {
        cluster.0.values_mut().for_each(|replica| replica.group.tick());
        cluster.run();
    };
    let mut patient = all();
    tick(&mut patient);
    assert_eq!(leaders(&patient), 0);
    let mut hastened = all();
    hastened.0.values_mut().for_each(|replica| replica.group.hasten_election());
    tick(&mut hastened);
    assert_eq!(leaders(&hastened), 1);
}

#[test]
fn a_replica_in_a_hurry_deposes_no_leader() {
    let mut cluster = Cluster::led_by_first();
    cluster.propose(1, "a");
    cluster.run();
    let term = cluster.replica(1).group.role().term;
    let recovered = cluster.replica(3).recovered();
    *cluster.replica(3) = Replica::new(NODES[2], Some(recovered));
    for _ in 0..100 {
        let restarted = &mut cluster.replica(3).group;
        restarted.hasten_election();
        restarted.tick();
        cluster.run();
    }
    let role = cluster.replica(1).group.role();
    assert!(role.serving && role.term == term);
    let follows = cluster.replica(3).group.role();
    assert_eq!((follows.leader, follows.term), (Some(NODES[0]), term));
}
