//! Everything random, from one seed.

use types::hash::mix64;

/// A row of numbers that follows from its seed alone (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The row of this seed.
    pub fn new(seed: u64) -> Random {
        Random { state: mix64(seed) }
    }

    /// A row of its own, so that one consumer of randomness does not shift another's.
    pub fn fork(&mut self) -> Random {
        Random::new(self.next_u64())
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let drawn = mix64(self.state);
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        drawn
    }

    /// A number below `bound`, which is above 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below 0");
        self.next_u64() % bound
    }

    /// A number from `min` to `max`, both included.
    pub fn between(&mut self, min: u64, max: u64) -> u64 {
        min + self.below(max - min + 1)
    }

    /// A position in something of this length, which is above 0.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("it is below a usize")
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A duration in microseconds: mostly short, sometimes up to `max`.
    pub fn delay_us(&mut self, max: u64) -> u64 {
        match self.below(10) {
            0..5 => 0,
            5..9 => self.below(max / 16 + 1),
            _ => self.below(max + 1),
        }
    }
}
