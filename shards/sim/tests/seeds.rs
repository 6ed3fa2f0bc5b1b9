//! Histories that every change must survive, and that the simulator repeats itself.

use std::panic::catch_unwind;

/// Seeds that once found something, with what they found.
const REGRESSIONS: &[(u64, &str)] = &[
    (8, "groups of a WAL whose shard no longer hosts them began anew, empty"),
    (9, "a torn index file of the active segment ended the process at each start"),
    (11, "a node without a cluster denied that a topic can have one replica"),
    (17, "a removed segment was the active one of the last durable checkpoint"),
    (22, "a group whose folder a crash had prevented had nowhere to put its segments"),
    (67, "an index file kept a hole after its segment was complete"),
];

fn failures(seeds: impl Iterator<Item = u64>) -> Vec<u64> {
    seeds.filter(|seed| catch_unwind(|| sim::run_seed(*seed, false)).is_err()).collect()
}

#[test]
fn a_hundred_histories_hold() {
    assert_eq!(
        failures(1_000..1_100),
        [0u64; 0],
        "replay with: cargo run --profile sim -p sim -- --seed S --trace"
    );
}

#[test]
fn what_was_found_once_stays_fixed() {
    assert_eq!(failures(REGRESSIONS.iter().map(|(seed, _)| *seed)), [0u64; 0], "{REGRESSIONS:?}");
}

#[test]
fn the_same_seed_gives_the_same_history_twice() {
    for seed in 2_000..2_012 {
        let first = sim::run_seed(seed, false);
        assert_eq!(sim::run_seed(seed, false), first, "seed {seed}");
        assert!(first.acknowledged_records > 0, "seed {seed} gets something done");
    }
}
