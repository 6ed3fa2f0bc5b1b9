//! How fast replicas that are far behind pull what they lack, beside live traffic.
//!
//! Disks, network and cores are shared with it, and whichever of them is busy shows in how long a pull takes to be answered. So pulls
//! of a shard begin some times as far apart as the last one took, and most of the time none is under way.

use types::Now;

/// How many times as far apart pulls begin as one takes.
const DISTANCE: u64 = 4;

/// The most between two: a mebibyte each, so that no replica stays behind for ever because everything is slow.
const DISTANCE_US_MAX: u64 = 40_000;

/// How long a pull is believed to take before one was answered.
const FIRST_US: u64 = 5_000;

/// A catch-up that begins so soon after the last one goes on with it: more was written meanwhile than the leader's log keeps.
const CONTINUED_US_MAX: u64 = 10_000_000;

/// When a shard may pull next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PullPace {
    ready_us: u64,
    took_us: u64,
}

impl PullPace {
    pub(crate) fn new() -> PullPace {
        PullPace { ready_us: 0, took_us: FIRST_US }
    }

    /// On the monotonic clock in microseconds.
    pub(crate) fn ready_us(&self) -> u64 {
        self.ready_us
    }

    pub(crate) fn on_asked(&mut self, now: Now, haste: Haste) {
        let distance_us = (self.took_us * DISTANCE).min(DISTANCE_US_MAX);
        self.ready_us = now.mono_us + distance_us.checked_shr(haste.0).unwrap_or(0);
    }

    pub(crate) fn on_answered(&mut self, took_us: u64) {
        self.took_us = took_us;
    }
}

/// How many catch-ups of a replica came one right after the other before this one. With each, pulls come twice as fast:
/// a replica whose leader writes faster than it pulls would else stay behind for as long as that lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Haste(u32);

/// The last catch-up of a replica.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndedCatchUp {
    pub at_us: u64,
    pub haste: Haste,
}

impl EndedCatchUp {
    /// That of a catch-up that begins now.
    pub(crate) fn next_haste(&self, now: Now) -> Haste {
        match now.mono_us <= self.at_us + CONTINUED_US_MAX {
            true => Haste(self.haste.0 + 1),
            false => Haste::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_us: u64) -> Now {
        Now { mono_us, wall_ms: 0 }
    }

    fn distance_us(pace: &mut PullPace, haste: u32) -> u64 {
        pace.on_asked(at(7), Haste(haste));
        pace.ready_us() - 7
    }

    #[test]
    fn pulls_are_as_far_apart_as_the_last_one_took_to_be_answered() {
        let mut pace = PullPace::new();
        assert_eq!(pace.ready_us(), 0);
        assert_eq!(distance_us(&mut pace, 0), 20_000);
        pace.on_answered(1_000);
        assert_eq!(distance_us(&mut pace, 0), 4_000);
        pace.on_answered(3_600_000_000);
        assert_eq!(distance_us(&mut pace, 0), 40_000);
    }

    #[test]
    fn catch_ups_that_follow_one_another_hurry() {
        let mut pace = PullPace::new();
        let mut ended = EndedCatchUp { at_us: 1_000, haste: Haste::default() };
        ended.haste = ended.next_haste(at(10_001_000));
        assert_eq!(distance_us(&mut pace, ended.haste.0), 10_000);
        ended.haste = ended.next_haste(at(1_000));
        assert_eq!(distance_us(&mut pace, ended.haste.0), 5_000);
        assert_eq!(distance_us(&mut pace, u32::MAX), 0);
        assert_eq!(ended.next_haste(at(10_001_001)), Haste::default());
    }
}
