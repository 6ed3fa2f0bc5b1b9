//! What the threads of a run have done so far, and a bar that shows it on a terminal.

use std::{
    io::{IsTerminal, Write, stderr},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use crate::{clock::ns_to_seconds, schedule::Window};

/// Counts that all threads of a run share.
#[derive(Debug)]
pub struct Progress {
    /// Records that the broker has acknowledged.
    pub acknowledged: AtomicU64,
    /// Records that consumers have read.
    pub read: AtomicU64,
    /// Threads whose producers may still send, or wait for answers.
    pub producing: AtomicUsize,
}

impl Progress {
    /// Nothing done yet, by so many threads.
    pub fn new(threads: usize) -> Progress {
        Progress {
            acknowledged: AtomicU64::new(0),
            read: AtomicU64::new(0),
            producing: AtomicUsize::new(threads),
        }
    }

    /// Whether everything that was acknowledged has been read, and nothing more is to come.
    pub fn is_all_read(&self) -> bool {
        // In this order: what a thread had acknowledged is counted before it is done.
        self.producing.load(Ordering::Acquire) == 0
            && self.read.load(Ordering::Acquire) >= self.acknowledged.load(Ordering::Acquire)
    }

    /// Acknowledged records that were not read.
    pub fn unread(&self) -> u64 {
        let read = self.read.load(Ordering::Acquire);
        self.acknowledged.load(Ordering::Acquire).saturating_sub(read)
    }
}

const BAR_CELLS: usize = 30;

/// A line on the terminal that is written again and again. Shows nothing where standard error is no terminal.
#[derive(Debug)]
pub struct Bar {
    name: String,
    is_shown: bool,
}

impl Bar {
    /// A bar for a run.
    pub fn new(name: &str) -> Bar {
        Bar { name: name.to_owned(), is_shown: stderr().is_terminal() }
    }

    /// Shows how far the run is.
    pub fn show(&self, now_ns: u64, window: Window, progress: &Progress) {
        if self.is_shown {
            // A terminal that is gone does not stop a run.
            let _ = write!(stderr(), "\r\x1b[K{}", self.text(now_ns, window, progress));
        }
    }

    /// Takes the line away.
    pub fn clear(&self) {
        if self.is_shown {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }

    fn text(&self, now_ns: u64, window: Window, progress: &Progress) -> String {
        let seconds = ns_to_seconds(now_ns.saturating_sub(window.load_start_ns));
        let acknowledged = progress.acknowledged.load(Ordering::Relaxed);
        let read = progress.read.load(Ordering::Relaxed);
        let counts = format!("{acknowledged} acknowledged, {read} read");
        if window.end_ns == u64::MAX {
            return format!("{} {seconds:.0} s, {counts}", self.name);
        }
        let whole = ns_to_seconds(window.end_ns - window.load_start_ns);
        let filled = ((seconds / whole * BAR_CELLS as f64) as usize).min(BAR_CELLS);
        let bar = format!("{}{}", "=".repeat(filled), " ".repeat(BAR_CELLS - filled));
        format!("{} [{bar}] {seconds:.0}/{whole:.0} s, {counts}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills_with_time() {
        let progress = Progress::new(1);
        progress.acknowledged.store(70, Ordering::Relaxed);
        let bar = Bar::new("produce");
        let window = Window::new(0, 2.0, 8.0);
        assert_eq!(
            bar.text(5_000_000_000, window, &progress),
            "produce [===============               ] 5/10 s, 70 acknowledged, 0 read",
        );
        let endless = Window { end_ns: u64::MAX, ..window };
        assert_eq!(bar.text(1_000_000_000, endless, &progress), "produce 1 s, 70 acknowledged, 0 read");
    }

    #[test]
    fn everything_is_read_when_nothing_more_can_come() {
        let progress = Progress::new(1);
        assert!(!progress.is_all_read(), "a thread may still produce");
        progress.acknowledged.store(3, Ordering::Release);
        progress.producing.store(0, Ordering::Release);
        assert!(!progress.is_all_read());
        assert_eq!(progress.unread(), 3);
        progress.read.store(3, Ordering::Release);
        assert!(progress.is_all_read());
    }
}
