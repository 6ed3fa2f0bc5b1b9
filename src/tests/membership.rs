//! Nodes that come and go, and replicas that move, under load: everything acknowledged is on every replica in the end.

mod support;

use serde_json::Value;
use support::finish;
use support::nodes::Nodes;

/// What `cluster nodes` says of a node; null where it does not know it.
fn row_of(nodes: &Nodes, node: i64) -> Value {
    let (_, view) = nodes.json("nodes");
    let rows = view["nodes"].as_array().expect("nodes");
    rows.iter().find(|row| row["node"] == node).cloned().unwrap_or_default()
}

/// How many replicas a node holds.
fn replicas_on(nodes: &Nodes, node: i64) -> u64 {
    row_of(nodes, node)["replicas"].as_u64().unwrap_or(0)
}

#[test]
fn replicas_of_a_topic_become_fewer_and_more_while_it_is_written() {
    let nodes = Nodes::three("factor", 1);
    nodes.any().ask(&["topic", "create", "t", "--partitions", "1", "--replication-factor", "3"], "");
    let feed = nodes.feed("t");
    for factor in ["1", "3", "2", "3"] {
        nodes.any().ask(&["topic", "alter", "t", "--replication-factor", factor], "");
    }
    let count = feed.end();
    (1..=3).for_each(|node| nodes.check_replica(node, "t", count));
    nodes.await_healthy();
}

#[test]
fn a_node_is_added_and_another_one_is_drained_and_removed() {
    let mut nodes = Nodes::three("added", 2);
    nodes.any().ask(&["topic", "create", "t", "--partitions", "1", "--replication-factor", "3"], "");
    nodes.any().ask(&["topic", "create", "many", "--partitions", "12", "--replication-factor", "3"], "");
    let feed = nodes.feed("t");
    let refused = nodes.any().client(&["cluster", "drain", "2"], "");
    assert!(refused.stderr.contains("no other broker can take that of broker 2"), "{refused:?}");
    assert_eq!(row_of(&nodes, 2)["draining"], false, "nothing has changed");

    // The first time at an address where nobody is; as after an attempt whose answer was lost, it may be asked again.
    let raft_address = nodes.choose_raft_address(4);
    for address in ["127.0.0.1:1", &raft_address] {
        let added = nodes.any().ask(&["cluster", "add-node", "4", "--raft-addr", address], "");
        assert!(added.contains("raft-cluster --join"), "{added}");
    }
    nodes.start(4, nodes.joiner(4));
    let again = nodes.any().client(&["cluster", "add-node", "4", "--raft-addr", &raft_address], "");
    assert!(again.stderr.contains("DuplicateVoter"), "{again:?}");
    // It gets its share by itself; asked to, the command waits for that and for what is left.
    nodes.any().ask(&["cluster", "rebalance"], "");
    let held: Vec<u64> = (1..=4).map(|node| replicas_on(&nodes, node)).collect();
    assert!(held.iter().all(|held| (9..=10).contains(held)), "{held:?}");

    nodes.any().ask(&["cluster", "drain", "2"], "");
    let drained = row_of(&nodes, 2);
    assert!(drained["replicas"] == 0 && drained["draining"] == true, "{drained}");
    nodes.any().ask(&["topic", "create", "later", "--partitions", "3", "--replication-factor", "3"], "");
    assert_eq!(replicas_on(&nodes, 2), 0, "it gets no new ones");
    nodes.any().ask(&["cluster", "remove-node", "2"], "");
    nodes.stop(2, "TERM");
    let count = feed.end();
    nodes.await_healthy();
    [1, 3, 4].into_iter().for_each(|node| nodes.check_replica(node, "t", count));
}

#[test]
fn a_node_comes_back_with_an_empty_disk() {
    let mut nodes = Nodes::three("replaced", 3);
    nodes.any().ask(&["topic", "create", "t", "--partitions", "1", "--replication-factor", "3"], "");
    let feed = nodes.feed("t");
    let replace = ["cluster", "replace-node", "3", "--raft-addr", &nodes.raft_address(3)];
    let refused = nodes.any().client(&replace, "");
    assert!(refused.stderr.contains("node 3 is alive"), "{refused:?}");
    nodes.kill(3);
    std::fs::remove_dir_all(nodes.data_dir(3)).expect("emptied");
    nodes.ask_until(&replace, |outcome| outcome.code == Some(0));
    nodes.start(3, nodes.joiner(3));
    nodes.await_healthy();
    let count = feed.end();
    (1..=3).for_each(|node| nodes.check_replica(node, "t", count));
    // It votes again: with it, one of the others may go.
    nodes.kill(1);
    nodes.any().ask(&["produce", "t"], &format!("{count}\n"));
    [2, 3].into_iter().for_each(|node| nodes.check_replica(node, "t", count + 1));
}

#[test]
fn a_broker_that_was_alone_becomes_the_first_of_a_cluster() {
    let mut nodes = Nodes::none("grown", 4);
    nodes.start(1, nodes.command(1, "standalone"));
    nodes.any().ask(&["topic", "create", "t", "--partitions", "1"], "");
    nodes.produce(0..1_000);
    nodes.stop(1, "TERM");
    nodes.choose_raft_address(1);
    nodes.start(1, nodes.clustered(1));
    for node in [2, 3] {
        let raft_address = nodes.choose_raft_address(node);
        let add = ["cluster", "add-node", &node.to_string(), "--raft-addr", &raft_address];
        nodes.any().ask(&add, "");
        nodes.start(node, nodes.joiner(node));
    }
    nodes.any().ask(&["topic", "alter", "t", "--replication-factor", "3"], "");
    nodes.produce(1_000..1_100);
    (1..=3).for_each(|node| nodes.check_replica(node, "t", 1_100));
    nodes.kill(1);
    nodes.produce(1_100..1_200);
    [2, 3].into_iter().for_each(|node| nodes.check_replica(node, "t", 1_200));
    // It knows the others by now.
    nodes.start(1, nodes.clustered(1));
    nodes.check_replica(1, "t", 1_200);
    nodes.await_healthy();

    // One that has joined never was alone.
    nodes.stop(2, "TERM");
    let alone = finish(&mut nodes.command(2, "standalone"), "");
    assert!(alone.code == Some(2) && alone.stderr.contains("raft-cluster"), "{alone:?}");
    let without_peers = finish(&mut nodes.clustered(2), "");
    assert!(
        without_peers.code == Some(2) && without_peers.stderr.contains("name the other nodes"),
        "{without_peers:?}"
    );
}
