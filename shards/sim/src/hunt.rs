//! Planted bugs, each hunted through histories until one of them fails: the proof that the checkers can.

use std::sync::Mutex;

use types::mutants::{MUTANTS, Mutant};

use crate::History;
use crate::runner::try_run;

/// Histories within which each planted bug must be found.
pub const SEEDS_MAX: u64 = 400;

/// How the hunt for one bug ended.
#[derive(Clone, Debug)]
pub struct Hunted {
    /// The bug.
    pub mutant: Mutant,
    /// The first seed that found it, and what that said.
    pub found: Option<(u64, String)>,
}

/// Hunts all bugs on so many threads, from seed `from` on.
pub fn hunt_all(mutants: &[Mutant], from: u64, nodes: usize, jobs: usize) -> Vec<Hunted> {
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
                    hunted.lock().expect("no thread panics with it").push(Hunted { mutant, found });
                }
            });
        }
    });
    let mut hunted = hunted.into_inner().expect("no thread panicked with it");
    hunted.sort_by_key(|hunted| MUTANTS.iter().position(|mutant| *mutant == hunted.mutant));
    hunted
}
