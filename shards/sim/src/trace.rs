//! What happened, as a hash and, where it is wanted, as text.

use std::fmt::{self, Write};

use types::hash::mix64;

/// Takes note of every event of a history.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    is_printed: bool,
    line: String,
}

impl Trace {
    /// A trace that is only hashed, or printed as well.
    pub fn new(is_printed: bool) -> Trace {
        Trace { hash: 0, is_printed, line: String::new() }
    }

    /// Something happened.
    pub fn note(&mut self, now_us: u64, text: fmt::Arguments<'_>) {
        self.line.clear();
        write!(self.line, "{now_us:>12} {text}").expect("a string takes everything");
        for chunk in self.line.as_bytes().chunks(8) {
            let word = chunk.iter().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
            self.hash = mix64(self.hash ^ word);
        }
        if self.is_printed {
            println!("{}", self.line);
        }
    }

    /// The hash over everything so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}
