//! What happened: as text where it is wanted, and as a hash over the times of all of it, which follow from one another.

use std::fmt;

use types::hash::mix64;

/// Takes note of every event of a history.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    is_printed: bool,
}

impl Trace {
    /// A trace that is only hashed, or printed as well.
    pub fn new(is_printed: bool) -> Trace {
        Trace { hash: 0, is_printed }
    }

    /// Something happened.
    pub fn note(&mut self, now_us: u64, text: fmt::Arguments<'_>) {
        self.hash = mix64(self.hash ^ now_us);
        if self.is_printed {
            println!("{now_us:>12} {text}");
        }
    }

    /// The hash over everything so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}
