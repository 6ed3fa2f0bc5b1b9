//! The monotonic clock of a run.

use std::time::{Duration, Instant};

/// Microseconds since the run began. Copies tell the same time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that stands at 0 now.
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    /// The time in microseconds.
    pub fn now_us(&self) -> u64 {
        micros(self.origin.elapsed())
    }
}

/// A duration in microseconds.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("a run lasts less than half a million years")
}
