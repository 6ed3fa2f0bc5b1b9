//! Latency over the time of a run, in slices of equal length.

use serde::{Deserialize, Serialize};

use crate::{clock::ns_to_seconds, histogram::Latency, schedule::Window};

/// Slices of a run, and the points of its plot.
const SLICES: u64 = 60;
/// Slices are no shorter, so that each has latencies to speak of.
const SLICE_NS_MIN: u64 = 200_000_000;

/// A histogram for each slice of a run. Costs no memory for slices in which nothing was due.
#[derive(Clone, Debug)]
pub struct Timeline {
    start_ns: u64,
    slice_ns: u64,
    slices: Vec<Latency>,
}

/// The latencies of what was due in one slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelinePoint {
    /// Where the slice begins, in nanoseconds from the start of the measured part.
    pub start_ns: u64,
    /// Latencies counted.
    pub count: u64,
    /// The median.
    pub p50_ns: u64,
    /// 99 % are at most this.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl TimelinePoint {
    /// Where the slice begins, in seconds.
    pub fn start_seconds(&self) -> f64 {
        ns_to_seconds(self.start_ns)
    }
}

impl Timeline {
    /// Slices of a window.
    pub fn new(window: Window) -> Timeline {
        let slice_ns = window.duration_ns().div_ceil(SLICES).max(SLICE_NS_MIN);
        Timeline { start_ns: window.start_ns, slice_ns, slices: Vec::new() }
    }

    /// Counts the latency of what was due at a time within the window.
    pub fn record(&mut self, due_ns: u64, latency_ns: u64) {
        let at = ((due_ns - self.start_ns) / self.slice_ns) as usize;
        if at >= self.slices.len() {
            self.slices.resize_with(at + 1, Latency::new_coarse);
        }
        self.slices[at].record(latency_ns);
    }

    /// Adds what another thread counted in the same window.
    ///
    /// # Panics
    ///
    /// When the windows differ.
    pub fn merge(&mut self, other: &Timeline) {
        assert_eq!((self.start_ns, self.slice_ns), (other.start_ns, other.slice_ns), "one run, one window");
        if self.slices.len() < other.slices.len() {
            self.slices.resize_with(other.slices.len(), Latency::new_coarse);
        }
        self.slices.iter_mut().zip(&other.slices).for_each(|(slice, other)| slice.merge(other));
    }

    /// The slices in which something was due.
    pub fn points(&self) -> Vec<TimelinePoint> {
        let slices = self.slices.iter().enumerate();
        let point = |(at, slice): (usize, &Latency)| {
            let summary = slice.summary()?;
            Some(TimelinePoint {
                start_ns: at as u64 * self.slice_ns,
                count: summary.count,
                p50_ns: summary.p50_ns,
                p99_ns: summary.p99_ns,
                max_ns: summary.max_ns,
            })
        };
        slices.filter_map(point).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_count_where_they_were_due() {
        let window = Window::new(0, 1.0, 60.0);
        let (mut one, mut other) = (Timeline::new(window), Timeline::new(window));
        one.record(window.start_ns, 100);
        one.record(window.start_ns + 999_999_999, 200);
        other.record(window.end_ns - 1, 300);
        one.merge(&other);
        let points: Vec<_> =
            one.points().iter().map(|point| (point.start_seconds(), point.count, point.max_ns)).collect();
        assert_eq!(points, [(0.0, 2, 200), (59.0, 1, 301)]);
    }

    #[test]
    fn a_run_without_an_end_has_few_slices() {
        let window = Window { load_start_ns: 0, start_ns: 5, end_ns: u64::MAX };
        let mut timeline = Timeline::new(window);
        timeline.record(3_600_000_000_000, 7);
        assert_eq!(timeline.points().len(), 1);
    }
}
