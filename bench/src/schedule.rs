//! Open load: when each request is due, fixed before the run.

use crate::clock::seconds_to_ns;

/// The part of a run that counts. What is due before it warms the broker up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// When the load starts, in nanoseconds of the run's clock.
    pub load_start_ns: u64,
    /// When the warm-up is over.
    pub start_ns: u64,
    /// When the load ends.
    pub end_ns: u64,
}

impl Window {
    /// A window after a warm-up, both in seconds.
    pub fn new(load_start_ns: u64, warm_up_seconds: f64, duration_seconds: f64) -> Window {
        let start_ns = load_start_ns + seconds_to_ns(warm_up_seconds);
        Window { load_start_ns, start_ns, end_ns: start_ns + seconds_to_ns(duration_seconds) }
    }

    /// Whether a time counts.
    pub fn contains(&self, time_ns: u64) -> bool {
        (self.start_ns..self.end_ns).contains(&time_ns)
    }

    /// The length of the part that counts, in nanoseconds.
    pub fn duration_ns(&self) -> u64 {
        self.end_ns - self.start_ns
    }
}

/// One thread's share of the arrivals of a run: every `threads`-th, from `thread` on.
#[derive(Clone, Debug)]
pub struct Schedule {
    window: Window,
    interval_ns: f64,
    next: u64,
    step: u64,
}

impl Schedule {
    /// Evenly spaced arrivals, `requests_per_second` over all threads.
    ///
    /// # Panics
    ///
    /// When the rate is not positive or `thread` is not below `threads`.
    pub fn new(window: Window, requests_per_second: f64, thread: usize, threads: usize) -> Schedule {
        assert!(requests_per_second > 0.0, "a rate is positive");
        assert!(thread < threads, "threads are numbered from 0");
        Schedule { window, interval_ns: 1e9 / requests_per_second, next: thread as u64, step: threads as u64 }
    }

    /// When the next request is due; `None` when there are no more. Does not depend on what was taken when.
    pub fn next_due_ns(&self) -> Option<u64> {
        let due_ns = self.window.load_start_ns + (self.next as f64 * self.interval_ns) as u64;
        (due_ns < self.window.end_ns).then_some(due_ns)
    }

    /// Takes the next request if it is due, and returns when it was.
    pub fn take_due(&mut self, now_ns: u64) -> Option<u64> {
        let due_ns = self.next_due_ns().filter(|&due_ns| due_ns <= now_ns)?;
        self.next += self.step;
        Some(due_ns)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::histogram::Latency;

    const MILLISECOND: u64 = 1_000_000;

    /// A client in front of a server that takes `service_ns` per request, one at a time, and does nothing from
    /// `stall` on for its length. Returns latency from the schedule and from the send.
    fn against_stalling_server(
        mut schedule: Schedule,
        service_ns: u64,
        stall: std::ops::Range<u64>,
    ) -> (Latency, Latency) {
        let (mut from_schedule, mut from_send) = (Latency::new(), Latency::new());
        let mut free_at = 0;
        while let Some(due_ns) = schedule.next_due_ns() {
            // A client with one request in flight sends when the last answer is there.
            let sent_ns = due_ns.max(free_at);
            assert_eq!(schedule.take_due(sent_ns), Some(due_ns));
            let begins = if stall.contains(&sent_ns) { stall.end } else { sent_ns };
            free_at = begins + service_ns;
            from_schedule.record(free_at - due_ns);
            from_send.record(free_at - sent_ns);
        }
        (from_schedule, from_send)
    }

    #[test]
    fn a_stall_shows_in_every_request_that_it_held_up() {
        let window = Window::new(0, 0.0, 10.0);
        let schedule = Schedule::new(window, 1_000.0, 0, 1);
        let stall = 4_000 * MILLISECOND..5_000 * MILLISECOND;
        let (from_schedule, from_send) = against_stalling_server(schedule, MILLISECOND / 10, stall);

        // One second of ten: the requests due in it wait for what is left of it.
        assert_eq!(from_schedule.count(), 10_000);
        assert!(from_schedule.quantile_ns(0.50) < MILLISECOND);
        let p99 = from_schedule.quantile_ns(0.99);
        assert!(p99 > 850 * MILLISECOND, "{p99}");
        let held_up = from_schedule.count_above_ns(MILLISECOND);
        assert!((1_000..1_250).contains(&held_up), "{held_up}");

        // From the send, one single request is slow: that is coordinated omission.
        assert_eq!(from_send.count_above_ns(MILLISECOND), 1);
        assert!(from_send.quantile_ns(0.99) < MILLISECOND);
    }

    #[test]
    fn arrivals_are_due_at_fixed_times() {
        let mut schedule = Schedule::new(Window::new(500, 1.0, 1.0), 4.0, 1, 2);
        let mut due = Vec::new();
        while let Some(at) = schedule.take_due(u64::MAX) {
            due.push(at);
        }
        assert_eq!(due, [250_000_500, 750_000_500, 1_250_000_500, 1_750_000_500]);
    }

    #[test]
    fn nothing_is_taken_early() {
        let mut schedule = Schedule::new(Window::new(0, 0.0, 1.0), 10.0, 0, 1);
        assert_eq!(schedule.take_due(0), Some(0));
        assert_eq!(schedule.take_due(99_999_999), None);
        assert_eq!(schedule.take_due(100_000_000), Some(100_000_000));
    }

    #[test]
    fn the_warm_up_is_not_in_the_window() {
        let window = Window::new(10, 1.0, 2.0);
        assert_eq!(window.duration_ns(), 2_000_000_000);
        for (time_ns, inside) in
            [(10, false), (1_000_000_009, false), (1_000_000_010, true), (3_000_000_010, false)]
        {
            assert_eq!(window.contains(time_ns), inside, "{time_ns}");
        }
    }

    proptest! {
        #[test]
        fn threads_share_the_schedule_of_one(rate in 1.0..5_000.0f64, threads in 1usize..6) {
            let window = Window::new(7, 0.1, 0.4);
            let collect = |thread, threads| {
                let mut schedule = Schedule::new(window, rate, thread, threads);
                std::iter::from_fn(move || schedule.take_due(u64::MAX)).collect::<Vec<_>>()
            };
            let mut shared: Vec<u64> = (0..threads).flat_map(|thread| collect(thread, threads)).collect();
            shared.sort_unstable();
            prop_assert_eq!(shared, collect(0, 1));
        }
    }
}
