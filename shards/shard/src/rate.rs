//! A bound on bytes per second.

use types::Now;

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

    /// When something may be taken, on the monotonic clock in microseconds; at `now` or before where it may at once.
    pub(crate) fn ready_us(&mut self, now: Now) -> u64 {
        let passed_us = now.mono_us.saturating_sub(self.filled_us);
        self.filled_us = now.mono_us;
        let filled = self.left_bytes + passed_us as f64 / 1e6 * self.bytes_per_second;
        self.left_bytes = filled.min(self.bytes_per_second * BURST_SECONDS);
        match self.left_bytes >= 0.0 {
            true => now.mono_us,
            false => now.mono_us + (-self.left_bytes / self.bytes_per_second * 1e6).ceil() as u64,
        }
    }

    pub(crate) fn take(&mut self, bytes: usize) {
        self.left_bytes -= bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_made_up_for() {
        let at = |mono_us| Now { mono_us, wall_ms: 0 };
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
}
