use expect_test::{Expect, expect};

use super::super::observed::Node;
use super::*;
use crate::exit::ExitReason;

fn node(id: i32, is_alive: bool) -> Node {
    let rack = (id == 1).then(|| "a".to_owned());
    Node { id, address: format!("host-{id}:9092"), rack, is_alive }
}

fn partition(topic: &str, index: i32, leader: Option<i32>, in_sync: &[i32], offline: &[i32]) -> Partition {
    Partition {
        topic: topic.to_owned(),
        index,
        leader,
        leader_epoch: leader.map(|_| 4),
        replicas: vec![1, 2, 3],
        in_sync: in_sync.to_vec(),
        offline: offline.to_vec(),
    }
}

fn whole() -> Observed {
    Observed {
        cluster_id: Answer::Known("MkU3OEVBNTcwNTJENDM2Qk".to_owned()),
        nodes: (1..=3).map(|id| node(id, true)).collect(),
        undescribed: Vec::new(),
        topics: 1,
        partitions: (0..2)
            .map(|index| partition("orders", index, Some(index + 1), &[1, 2, 3], &[]))
            .collect(),
    }
}

/// Node 3 is gone, node 2 lags, and one partition has only node 1 left.
fn broken() -> Observed {
    Observed {
        nodes: vec![node(1, true), node(2, true), node(3, false)],
        partitions: vec![
            partition("orders", 0, Some(1), &[1], &[3]),
            partition("orders", 1, None, &[1, 2, 3], &[2, 3]),
            partition("users", 0, Some(2), &[1, 2, 3], &[]),
        ],
        undescribed: vec![("odd".to_owned(), "topic odd: refused".to_owned())],
        topics: 3,
        ..whole()
    }
}

fn check(report: &impl Report, expected: Expect) {
    expected.assert_eq(&report.text());
}

fn json(report: &impl Report) -> String {
    serde_json::to_string(report).expect("JSON")
}

fn failure(outcome: Result<(), Error>) -> String {
    let error = outcome.expect_err("not healthy");
    assert_eq!(error.reason(), ExitReason::Unhealthy);
    error.to_string()
}

#[test]
fn status_counts_what_is_wrong() {
    let status = Status::new(&whole(), &[]);
    assert!(status.outcome().is_ok());
    check(
        &status,
        expect![[r#"
            cluster MkU3OEVBNTcwNTJENDM2Qk: healthy
              nodes             3 registered, 3 alive
              topics            1
              partitions        2
              under-replicated  0
              offline           0
              leaderless        0
        "#]],
    );
    let status = Status::new(&broken(), &[]);
    expect![
        "the cluster is not healthy: 1 nodes not alive, 1 partitions under-replicated, 1 partitions offline, 1 partitions without a leader, 1 topics not described"
    ]
    .assert_eq(&failure(status.outcome()));
    expect![[
        r#"{"healthy":false,"cluster_id":"MkU3OEVBNTcwNTJENDM2Qk","nodes_registered":3,"nodes_alive":2,"topics":3,"partitions":3,"under_replicated":1,"offline":1,"leaderless":1,"undescribed":1}"#
    ]]
    .assert_eq(&json(&status));
    let unknown = Status::new(&Observed { cluster_id: Answer::unknown("it has none"), ..whole() }, &[]);
    assert_eq!(failure(unknown.outcome()), "the cluster is not healthy: it has none");
    let killed = Status::new(&whole(), &[(2, "cannot be reached".to_owned())]);
    assert_eq!(failure(killed.outcome()), "the cluster is not healthy: 1 nodes not alive");
}

#[test]
fn what_is_not_known_is_not_made_up() {
    let bytes =
        [(1, Answer::Known(1_000)), (2, Answer::Known(0)), (3, Answer::unknown("node 3 is not alive"))];
    let draining =
        [(1, Answer::Known(false)), (2, Answer::Known(true)), (3, Answer::unknown("node 3 is not alive"))];
    let nodes = Nodes::new(&broken(), bytes.into(), draining.into());
    check(
        &nodes,
        expect![[r#"
            node  address      rack  alive  draining  leaders  replicas  bytes
            1     host-1:9092  a     yes    no        1        3         1000
            2     host-2:9092  -     yes    yes       1        3         0
            3     host-3:9092  -     no     unknown   0        3         unknown
            the bytes of node 3 are unknown: node 3 is not alive
            whether node 3 is draining is unknown: node 3 is not alive
        "#]],
    );
    let json = json(&nodes);
    assert!(
        json.contains(r#""bytes":1000,"draining":false"#)
            && json.contains(r#"{"unknown":"node 3 is not alive"}"#),
        "{json}"
    );

    let key = |topic: &str, index| (topic.to_owned(), index);
    let ends =
        [(key("orders", 0), Answer::Known(17)), (key("orders", 1), Answer::unknown("it has no leader"))];
    check(
        &Partitions::new(&broken(), &ends.into()),
        expect![[r#"
            topic   partition  leader  epoch  replicas  in sync  offline  end offset
            orders  0          1       4      1,2,3     1        3        17
            orders  1          none    none   1,2,3     1,2,3    2,3      unknown
            users   0          2       4      1,2,3     1,2,3    -        unknown
            the end of orders-1 is unknown: it has no leader
            the end of users-0 is unknown: it was not asked for
            the partitions of odd are unknown: topic odd: refused
        "#]],
    );
}

#[test]
fn replicas_that_are_not_in_sync_are_named_with_the_reason() {
    check(&Isr::new(&whole()), expect!["all replicas of 2 partitions are in sync\n"]);
    check(
        &Isr::new(&broken()),
        expect![[r#"
            topic   partition  leader  replicas  in sync  missing
            orders  0          1       1,2,3     1        2 (behind), 3 (not alive)
            the partitions of odd are unknown: topic odd: refused
        "#]],
    );
}

#[test]
fn health_has_a_line_for_each_check() {
    let health = Health::new(&whole(), &[]);
    assert!(health.outcome().is_ok());
    check(
        &health,
        expect![[r#"
            ok    cluster    its id is MkU3OEVBNTcwNTJENDM2Qk
            ok    nodes      3 of 3 registered nodes are alive
            ok    majority   3 nodes are alive of 3, 2 are needed
            ok    clients    every node that is alive answers clients
            ok    leaders    0 of 2 partitions have no leader
            ok    available  0 of 2 partitions have no majority of their replicas alive
            ok    in-sync    0 of 2 partitions have replicas that are not in sync
            ok    described  0 topics could not be described
        "#]],
    );
    let health = Health::new(&broken(), &[(2, "cannot be reached".to_owned())]);
    check(
        &health,
        expect![[r#"
            ok    cluster    its id is MkU3OEVBNTcwNTJENDM2Qk
            FAIL  nodes      2 of 3 registered nodes are alive; not alive: 3
            ok    majority   2 nodes are alive of 3, 2 are needed
            FAIL  clients    node 2: cannot be reached
            FAIL  leaders    1 of 3 partitions have no leader: orders-1
            FAIL  available  1 of 3 partitions have no majority of their replicas alive: orders-1
            FAIL  in-sync    1 of 3 partitions have replicas that are not in sync: orders-0
            FAIL  described  1 topics could not be described
        "#]],
    );
    assert!(failure(health.outcome()).contains("not alive: 3"));
    assert!(json(&health).starts_with(r#"{"healthy":false,"checks":[{"check":"cluster","ok":true,"found":"#));
}
