//! Many histories at once, on all cores: each on a thread of its own, where it is as deterministic as alone.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::coverage::Coverage;
use crate::{History, Outcome};

thread_local! {
    /// What the last panic of this thread said, and where.
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What many histories came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Histories that ran.
    pub histories: u64,
    /// What does not hold, by seed.
    pub failed: BTreeMap<u64, String>,
    /// What all of them exercised.
    pub coverage: Coverage,
    /// Records that were acknowledged.
    pub acknowledged_records: u64,
    /// How much virtual time passed.
    pub virtual_us: u64,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    fn add(&mut self, seed: u64, outcome: Result<Outcome, String>) {
        self.histories += 1;
        match outcome {
            Ok(outcome) => {
                self.coverage.add(&outcome.coverage);
                self.acknowledged_records += outcome.acknowledged_records;
                self.virtual_us += outcome.virtual_us;
            }
            Err(why) => {
                self.failed.insert(seed, why);
            }
        }
    }
}

/// Lets panics be told by those who catch them, and not be printed.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let said = panic.payload_as_str().unwrap_or("something that is no text");
        let place = panic.location().map(|at| format!(" ({}:{})", at.file(), at.line()));
        LAST_PANIC.set(format!("{said}{}", place.unwrap_or_default()));
    }));
}

/// Runs one history.
///
/// # Errors
///
/// What does not hold. Needs [`catch_panics`].
pub fn try_run(history: &History) -> Result<Outcome, String> {
    catch_unwind(AssertUnwindSafe(|| history.run())).map_err(|_| LAST_PANIC.take())
}

/// Runs the histories of all these seeds on so many threads, and tells of each that fails when it does.
pub fn run_all(
    seeds: Range<u64>,
    jobs: usize,
    history_of: impl Fn(u64) -> History + Sync,
    on_failed: impl Fn(u64, &str) + Sync,
) -> Report {
    let begun = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let report = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = try_run(&history_of(seed));
                    if let Err(why) = &outcome {
                        on_failed(seed, why);
                    }
                    report.lock().expect("no thread panics with it").add(seed, outcome);
                }
            });
        }
    });
    let mut report = report.into_inner().expect("no thread panicked with it");
    report.took = begun.elapsed();
    report
}
