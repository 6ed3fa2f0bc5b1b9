//! A bound on bytes per second.

use types::Now;
use types::limits::{BLOCK_BYTES, PULL_BYTES, PULLS_PER_SHARD_MAX};

/// How far ahead of its rate a bound lets somebody be who took nothing for a while, in seconds.
const BURST_SECONDS: f64 = 0.25;

/// So many bytes per second. What is taken may exceed what is there; nothing more may be taken then until it is made up for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    bytes_per_second: f64,
    left_bytes: f64,
    filled_us: u64,
}

impl Rate {
    pub(crate) fn new(now: Now, bytes_per_second: u64) -> Rate {
        Rate { bytes_per_second: bytes_per_second as f64, left_bytes: 0.0, filled_us: now.mono_us }
    }

    /// It is another one from now on, at which also that is made up for which was taken before.
    pub(crate) fn change(&mut self, now: Now, bytes_per_second: u64) {
        self.fill(now);
        self.bytes_per_second = bytes_per_second as f64;
    }

    /// When something may be taken, on the monotonic clock in microseconds; at `now` or before where it may at once, and
    /// [`u64::MAX`] where it never may at this rate.
    pub(crate) fn ready_us(&mut self, now: Now) -> u64 {
        self.fill(now);
        if self.bytes_per_second <= 0.0 {
            return u64::MAX;
        }
        match self.left_bytes >= 0.0 {
            true => now.mono_us,
            false => {
                let missing_us = (-self.left_bytes / self.bytes_per_second * 1e6).ceil() as u64;
                now.mono_us.saturating_add(missing_us)
            }
        }
    }

    /// How much to pull at once, so that all who pull together are no further ahead of a low rate than a rest lets them be.
    pub(crate) fn pull_bytes(&self) -> usize {
        let burst_bytes = self.bytes_per_second * BURST_SECONDS;
        ((burst_bytes / PULLS_PER_SHARD_MAX as f64) as usize).clamp(BLOCK_BYTES, PULL_BYTES)
    }

    pub(crate) fn take(&mut self, bytes: usize) {
        self.left_bytes -= bytes as f64;
    }

    fn fill(&mut self, now: Now) {
        let passed_us = now.mono_us.saturating_sub(self.filled_us);
        self.filled_us = now.mono_us;
        let filled = self.left_bytes + passed_us as f64 / 1e6 * self.bytes_per_second;
        self.left_bytes = filled.min(self.bytes_per_second * BURST_SECONDS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_us: u64) -> Now {
        Now { mono_us, wall_ms: 0 }
    }

    #[test]
    fn what_is_taken_is_made_up_for() {
        let mut rate = Rate::new(at(0), 1_000_000);
        assert_eq!(rate.ready_us(at(0)), 0);
        rate.take(500_000);
        assert_eq!(rate.ready_us(at(0)), 500_000);
        assert_eq!(rate.ready_us(at(400_000)), 500_000);
        assert_eq!(rate.ready_us(at(500_000)), 500_000);
        // An hour of rest gives a quarter of a second ahead.
        assert_eq!(rate.ready_us(at(3_600_000_000)), 3_600_000_000);
        rate.take(250_000);
        assert_eq!(rate.ready_us(at(3_600_000_000)), 3_600_000_000);
        rate.take(100_000);
        assert_eq!(rate.ready_us(at(3_600_000_000)), 3_600_100_000);
    }

    #[test]
    fn what_was_taken_is_made_up_for_at_the_rate_that_holds() {
        let mut rate = Rate::new(at(0), 1_000_000);
        rate.take(1_000_000);
        rate.change(at(500_000), 100_000);
        assert_eq!(rate.ready_us(at(500_000)), 5_500_000);
        rate.change(at(1_500_000), 0);
        assert_eq!(rate.ready_us(at(1_500_000)), u64::MAX);
        assert_eq!(rate.ready_us(at(3_600_000_000)), u64::MAX, "nothing comes in at no rate");
        rate.change(at(3_600_000_000), 400_000);
        assert_eq!(rate.ready_us(at(3_600_000_000)), 3_601_000_000);
        rate.change(at(3_600_000_000), u64::MAX);
        assert_eq!(rate.ready_us(at(3_600_000_001)), 3_600_000_001);
    }

    #[test]
    fn pieces_are_small_at_low_rates() {
        assert_eq!(Rate::new(at(0), 80_000 * PULLS_PER_SHARD_MAX as u64).pull_bytes(), 20_000);
        assert_eq!(Rate::new(at(0), 0).pull_bytes(), BLOCK_BYTES);
        assert_eq!(Rate::new(at(0), u64::MAX).pull_bytes(), PULL_BYTES);
    }
}
