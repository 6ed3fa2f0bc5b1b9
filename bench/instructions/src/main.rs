//! Micro benchmarks of the pure crates for callgrind, which counts instructions: the same number on every run. `ci/instructions`
//! runs each case and compares it with `bench/instructions/baseline.json`.
//!
//!     instructions list     the cases, each with its repetitions
//!     instructions CASE     one case; only what goes through `measured` is meant to be counted

use std::process::ExitCode;

mod codec;
mod steps;
mod storage;
mod world;

/// One case: it repeats its work [`REPETITIONS`] times.
struct Case {
    name: &'static str,
    run: fn(),
}

/// Enough that what happens once in a while, such as a vector that grows, counts with its share.
pub const REPETITIONS: usize = 64;

const CASES: [Case; 11] = [
    Case { name: "batch_validation_1_record", run: codec::batch_validation_1_record },
    Case { name: "batch_validation_256_records", run: codec::batch_validation_256_records },
    Case { name: "produce_request_decode", run: codec::produce_request_decode },
    Case { name: "produce_response_encode", run: codec::produce_response_encode },
    Case { name: "fetch_request_decode", run: codec::fetch_request_decode },
    Case { name: "fetch_response_encode", run: codec::fetch_response_encode },
    Case { name: "wal_flush_16_entries", run: storage::wal_flush_16_entries },
    Case { name: "index_lookup_by_offset", run: storage::index_lookup_by_offset },
    Case { name: "shard_produce_frame", run: steps::produce_frame },
    Case { name: "shard_produce_whole", run: steps::produce_whole },
    Case { name: "shard_follower_append", run: steps::follower_append },
];

fn main() -> ExitCode {
    let argument = std::env::args().nth(1).unwrap_or_default();
    if argument == "list" {
        CASES.iter().for_each(|case| println!("{} {REPETITIONS}", case.name));
        return ExitCode::SUCCESS;
    }
    match CASES.iter().find(|case| case.name == argument) {
        Some(case) => {
            (case.run)();
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("usage: instructions list | CASE");
            ExitCode::from(2)
        }
    }
}

/// What callgrind counts: `--toggle-collect` names this function.
#[inline(never)]
pub fn measured<T>(work: impl FnOnce() -> T) -> T {
    std::hint::black_box(work())
}
