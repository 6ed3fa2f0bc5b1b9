//! How fast a WAL fills: what other writes to the same disk take their time by.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The rate is that of the last time of this length, or of what has passed since then.
const WINDOW: Duration = Duration::from_millis(100);

/// Shared by the WAL of a shard, which it is about, and what writes beside it.
#[derive(Clone)]
pub(crate) struct WalProgress(Rc<Counts>);

struct Counts {
    written_bytes: Cell<u64>,
    window: Cell<Window>,
}

#[derive(Clone, Copy)]
struct Window {
    begun: Instant,
    bytes_before: u64,
    /// Of the window before.
    bytes_per_second: u64,
}

impl Window {
    fn rate(&self, now: Instant, written_bytes: u64) -> Option<u64> {
        let time = now.saturating_duration_since(self.begun);
        (time >= WINDOW).then(|| ((written_bytes - self.bytes_before) as f64 / time.as_secs_f64()) as u64)
    }
}

impl WalProgress {
    pub(crate) fn new(now: Instant) -> WalProgress {
        let window = Window { begun: now, bytes_before: 0, bytes_per_second: 0 };
        WalProgress(Rc::new(Counts { written_bytes: Cell::new(0), window: Cell::new(window) }))
    }

    pub(crate) fn on_written(&self, now: Instant, bytes: u64) {
        let written_bytes = self.written_bytes() + bytes;
        self.0.written_bytes.set(written_bytes);
        if let Some(bytes_per_second) = self.0.window.get().rate(now, written_bytes) {
            self.0.window.set(Window { begun: now, bytes_before: written_bytes, bytes_per_second });
        }
    }

    /// Since the start.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.0.written_bytes.get()
    }

    pub(crate) fn bytes_per_second(&self, now: Instant) -> u64 {
        let window = self.0.window.get();
        window.rate(now, self.written_bytes()).unwrap_or(window.bytes_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_tenth_of_a_second_or_more() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let progress = WalProgress::new(begun);
        progress.on_written(at(10), 500);
        assert_eq!((progress.written_bytes(), progress.bytes_per_second(at(20))), (500, 0));
        progress.on_written(at(100), 500);
        assert_eq!(progress.bytes_per_second(at(100)), 10_000);
        progress.on_written(at(150), 4_000);
        assert_eq!(progress.bytes_per_second(at(199)), 10_000);
        assert_eq!(progress.bytes_per_second(at(200)), 40_000);
        assert_eq!(progress.bytes_per_second(at(500)), 10_000);
        progress.on_written(at(500), 0);
        assert_eq!((progress.written_bytes(), progress.bytes_per_second(at(510))), (5_000, 10_000));
        assert_eq!(progress.bytes_per_second(at(700)), 0);
    }
}
