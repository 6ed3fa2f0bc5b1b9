//! Histories that every change must survive, and that the simulator repeats itself.
//!
//! `cargo simulate --seeds 0..500` runs many more.

use std::path::Path;
use std::process::{Command, Stdio};

use sim::History;
use sim::runner::{catch_panics, try_run};

/// Seeds that once found something, with the number of nodes and what they found. A change of the simulator gives a seed another
/// history: what can be told request by request is in `scripts` as well.
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
    (55, 3, "a leader on its way out found no heir once minds had changed"),
    (120, 3, "a replica that began anew forgot the sequences of producers, and led"),
    (18, 3, "members that did not know durably of their change asked for votes that nobody was left to give"),
    (53, 3, "a replica that a change left alone did not elect itself"),
    (74, 3, "a first replica that was made after its partition began to move waited for the others"),
    (155, 3, "a leader offered a snapshot again whose batches were gone"),
    (244, 3, "entries that nobody knew to be committed kept a WAL file until there was no other"),
    (498, 3, "segments that a snapshot made needless stayed"),
    (538, 3, "a log that starts within a batch did not take it from an entry"),
    (1_148, 3, "a follower whose WAL was full heard of no commit that would have freed it"),
    (1_073, 3, "a node refused the WAL in which it had written entries again"),
    (257, 3, "checkpoints that may wait filled the WAL of a replica that pulled small segments"),
    (359, 3, "a crash during the removal of a replica left a start that counted on files which were gone"),
    (
        1_052,
        3,
        "a leader that a change left out went without a word, and those that followed it waited for ever",
    ),
    (4_837, 3, "what a producer had sent behind a refused first batch was taken before it"),
    (5_769, 3, "a leader that was deposed without knowing told a producer that its sequence is out of order"),
    (6_341, 3, "a shard that took over the WALs of others had no file left to write to"),
    (2_658, 3, "a log that starts within a batch that was being pulled could not be restored"),
    (660, 3, "a leader was told to clients before it was said where it is"),
    (1_935, 3, "files that no checkpoint knows of stayed in the folder of a log that began anew"),
    (2_255, 3, "a first time index entry that a crash had torn sent look-ups by time too far"),
    (2_519, 3, "a replica that was being filled told readers less than the one before it on its node"),
    (211, 3, "a batch that waited for room was taken for one behind that which had found none"),
    (10_217, 3, "a leader that was elected before it had applied that it is out refused everything for ever"),
    (14_441, 3, "files that a crash had left stayed where the records in them had expired"),
    (4_072, 3, "the only voter of a group was elected before its log was durable, which ends the process"),
    (
        15_219,
        3,
        "a leader waited for ever for the word of a snapshot that was lost with the connection of its follower",
    ),
    (11_058, 3, "a leader that had not heard of the last decision carried out the one before it"),
    (8_159, 3, "a batch whose count of offsets had rotted was taken for one that readers may not see yet"),
];

#[test]
fn histories_that_found_something_hold() {
    catch_panics();
    let failed = REGRESSIONS.iter().filter_map(|(seed, nodes, once)| {
        let why = try_run(&History::new(*seed, *nodes)).err()?;
        Some(format!("seed {seed} of {nodes} nodes, which found that {once}: {why}"))
    });
    assert_eq!(failed.collect::<Vec<_>>(), [""; 0], "replay with: cargo simulate --seed S --nodes N --trace");
}

/// The trace of a history, as another process prints it that runs in this folder.
fn trace_in(folder: &Path, seed: u64, nodes: usize) -> Vec<u8> {
    let ran = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["--seed", &seed.to_string(), "--nodes", &nodes.to_string(), "--trace"])
        .current_dir(folder)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the simulator starts");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    ran.stdout
}

#[test]
fn the_same_seed_gives_the_same_trace_byte_for_byte() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (seed, nodes) in [(2_000, 1), (2_001, 3), (2_002, 5)] {
        let first = trace_in(here, seed, nodes);
        assert!(first.len() > 10_000, "a trace tells of all events");
        assert!(first == trace_in(&here.join("src"), seed, nodes), "seed {seed} with {nodes} nodes");
        let outcome = History::new(seed, nodes).run();
        let last = first.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().expect("it has lines");
        assert_eq!(
            String::from_utf8_lossy(last),
            format!("seed {seed}: {outcome:?}"),
            "in this process and another"
        );
    }
}
