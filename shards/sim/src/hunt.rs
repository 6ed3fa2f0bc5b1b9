//! Planted bugs, each hunted through histories until one of them fails: the proof that the checkers can.

use std::sync::Mutex;

use types::mutants::Mutant;

use crate::History;
use crate::runner::try_run;

/// Histories within which each planted bug must be found.
pub const SEEDS_MAX: u64 = 2_500;

/// How the hunt for one bug ended.
#[derive(Clone, Debug)]
pub struct Hunted {
    /// The bug.
    pub mutant: Mutant,
    /// The first seed that found it, and what that said.
    pub found: Option<(u64, String)>,
}

/// Hunts all bugs on so many threads, from seed `from` on. `tell` hears of each as its hunt ends.
pub fn hunt_all(
    mutants: &[Mutant],
    from: u64,
    nodes: usize,
    jobs: usize,
    tell: impl Fn(&Hunted) + Sync,
) -> Vec<Hunted> {
    let waiting = Mutex::new(mutants.to_vec());
    let hunted = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let Some(mutant) = waiting.lock().expect("no thread panics with it").pop() else {
                        return;
                    };
                    let found = (from..from + SEEDS_MAX).find_map(|seed| {
                        let history = History::new(seed, nodes);
                        let why = try_run(&History { mutant: Some(mutant), ..history.clone() }).err()?;
                        // What fails without the bug does not find it.
                        try_run(&history).ok().map(|_| (seed, why))
                    });
                    let ended = Hunted { mutant, found };
                    tell(&ended);
                    hunted.lock().expect("no thread panics with it").push(ended);
                }
            });
        }
    });
    hunted.into_inner().expect("no thread panicked with it")
}
