//! Deadlines on the monotonic clock.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What to do when a deadline passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TimerTask {
    /// The session of a member, or of a member id that has not joined yet.
    Session { group: Arc<str>, member: Arc<str> },
    /// The wait of an empty group for more members; `remaining_ms` is what may still be added to it.
    InitialJoin { group: Arc<str>, delay_ms: i32, remaining_ms: i32 },
    /// The rebalance timeout of the join phase.
    Join { group: Arc<str> },
    /// The rebalance timeout of the sync phase of one generation.
    Sync { group: Arc<str>, generation: i32 },
    /// The check of offset retention.
    ExpireOffsets,
}

/// An armed timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerId {
    deadline_us: u64,
    sequence: u64,
}

impl TimerId {
    pub fn deadline_us(self) -> u64 {
        self.deadline_us
    }
}

/// All armed timers, by deadline and then by the order in which they were armed.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    armed: BTreeMap<TimerId, TimerTask>,
    next_sequence: u64,
}

impl Timers {
    pub fn arm(&mut self, deadline_us: u64, task: TimerTask) -> TimerId {
        let id = TimerId { deadline_us, sequence: self.next_sequence };
        self.next_sequence += 1;
        self.armed.insert(id, task);
        id
    }

    pub fn cancel(&mut self, id: TimerId) {
        let cancelled = self.armed.remove(&id);
        assert!(cancelled.is_some(), "a timer is cancelled once, and not after it fired");
    }

    pub fn next_deadline_us(&self) -> Option<u64> {
        self.armed.keys().next().map(|id| id.deadline_us)
    }

    /// The mark up to which [`Timers::pop_due`] may go in one turn, so that a timer that is armed
    /// for "now" while others fire waits for the next turn and the turn ends.
    pub fn mark(&self) -> u64 {
        self.next_sequence
    }

    pub fn pop_due(&mut self, now_us: u64, mark: u64) -> Option<TimerTask> {
        let due = self
            .armed
            .keys()
            .take_while(|id| id.deadline_us <= now_us)
            .find(|id| id.sequence < mark)
            .copied()?;
        self.armed.remove(&due)
    }

    pub fn clear(&mut self) {
        self.armed.clear();
    }

    pub fn contains(&self, id: TimerId) -> bool {
        self.armed.contains_key(&id)
    }

    pub fn len(&self) -> usize {
        self.armed.len()
    }
}
