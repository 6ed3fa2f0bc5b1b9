//! Time of one run.

use std::time::Instant;

/// Nanoseconds on the monotonic clock since the run's origin. Copies share the origin, so that threads agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that is at 0 now.
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    /// The time since the origin.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).expect("a run is shorter than 584 years")
    }
}

/// Seconds as nanoseconds.
pub fn seconds_to_ns(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// Nanoseconds as seconds.
pub fn ns_to_seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
