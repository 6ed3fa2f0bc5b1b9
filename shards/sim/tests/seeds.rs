//! Histories that every change must survive, and that the simulator repeats itself.

use std::panic::catch_unwind;

use sim::coverage::Coverage;

/// Seeds that once found something, with the number of nodes and what they found.
const REGRESSIONS: &[(u64, usize, &str)] = &[
    (8, 1, "groups of a WAL whose shard no longer hosts them began anew, empty"),
    (9, 1, "a torn index file of the active segment ended the process at each start"),
    (11, 1, "a node without a cluster denied that a topic can have one replica"),
    (17, 1, "a removed segment was the active one of the last durable checkpoint"),
    (22, 1, "a group whose folder a crash had prevented had nowhere to put its segments"),
    (67, 1, "an index file kept a hole after its segment was complete"),
    (9, 3, "a replica that had pulled more than its snapshot holds died when it took it over"),
    (12, 3, "all replicas of a deleted partition were reborn after a restart, and voted again"),
    (31, 3, "nodes of different shard counts took one another for dead"),
    (120, 3, "a replica that had pulled more than its snapshot holds died when it took it over"),
];

/// Runs histories, and returns those that fail with what the others have exercised.
fn run(seeds: impl Iterator<Item = (u64, usize)>) -> (Vec<(u64, usize)>, Coverage) {
    let mut failed = Vec::new();
    let mut coverage = Coverage::default();
    for (seed, nodes) in seeds {
        match catch_unwind(|| sim::run_seed(seed, nodes, false)) {
            Ok(outcome) => coverage.add(&outcome.coverage),
            Err(_) => failed.push((seed, nodes)),
        }
    }
    (failed, coverage)
}

const NONE: [(u64, usize); 0] = [];

#[test]
fn histories_of_one_node_hold() {
    let (failed, _) = run((1_000..1_030).map(|seed| (seed, 1)));
    assert_eq!(failed, NONE, "replay with: cargo run --profile sim -p sim -- --seed S --nodes 1 --trace");
}

/// Clusters of the same seeds, and all that once found something: together they exercise everything.
#[test]
fn histories_of_clusters_hold_and_exercise_everything() {
    let seeds = (1_000..1_040).map(|seed| (seed, if seed % 8 == 0 { 5 } else { 3 }));
    let (failed, coverage) = run(seeds.chain(REGRESSIONS.iter().map(|(seed, nodes, _)| (*seed, *nodes))));
    assert_eq!(failed, NONE, "replay with: cargo run --profile sim -p sim -- --seed S --nodes N --trace");
    assert_eq!(coverage.missing(), [""; 0], "what was exercised: {coverage:?}");
}

#[test]
fn the_same_seed_gives_the_same_history_twice() {
    for (seed, nodes) in (2_000..2_008).zip([1, 3, 3, 2].into_iter().cycle()) {
        let first = sim::run_seed(seed, nodes, false);
        assert_eq!(sim::run_seed(seed, nodes, false), first, "seed {seed} with {nodes} nodes");
    }
}
