//! The one timer of a shard.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use glommio::timer::Timer;
use shard::Event;

use crate::core::ShardCore;
use crate::driver::Driver;
use crate::notify::Notify;

/// The shortest sleep: a deadline that stays in the past cannot keep the loop from its sockets.
const SLEEP_US_MIN: u64 = 100;

/// What the timer waits for, each in microseconds of the monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    core_us: Cell<Option<u64>>,
    connections_us: Cell<Option<u64>>,
    /// The time for which the timer is set. It may be earlier than needed, never later.
    armed_us: Cell<Option<u64>>,
    earlier: Notify,
}

impl Deadlines {
    /// The shard's deadline is this one now.
    pub(crate) fn set_core(&self, deadline_us: Option<u64>) {
        self.core_us.set(deadline_us);
        self.rearm();
    }

    /// The connections' deadline is this one now.
    pub(crate) fn set_connections(&self, deadline_us: Option<u64>) {
        self.connections_us.set(deadline_us);
        self.rearm();
    }

    fn next_us(&self) -> Option<u64> {
        [self.core_us.get(), self.connections_us.get()].into_iter().flatten().min()
    }

    fn rearm(&self) {
        if let Some(next_us) = self.next_us()
            && self.armed_us.get().is_none_or(|armed_us| next_us < armed_us)
        {
            self.armed_us.set(Some(next_us));
            self.earlier.notify();
        }
    }
}

impl<C: ShardCore> Driver<C> {
    /// Tells the shard and the connections of each deadline that has come.
    pub(crate) async fn run_deadlines(self: Rc<Self>) {
        loop {
            let next_us = self.deadlines.next_us();
            self.deadlines.armed_us.set(next_us);
            let sleep_us =
                next_us.map(|next_us| next_us.saturating_sub(self.clock.mono_us()).max(SLEEP_US_MIN));
            let mut timer = pin!(sleep_us.map(|sleep_us| Timer::new(Duration::from_micros(sleep_us))));
            poll_fn(|context| {
                // First, since a timer registers again each time it is polled.
                if self.deadlines.earlier.poll(context).is_ready() {
                    return Poll::Ready(());
                }
                timer.as_mut().as_pin_mut().map_or(Poll::Pending, |timer| timer.poll(context).map(|_| ()))
            })
            .await;
            let now_us = self.clock.mono_us();
            let is_due =
                |deadline_us: Option<u64>| deadline_us.is_some_and(|deadline_us| deadline_us <= now_us);
            if is_due(self.deadlines.connections_us.get()) {
                self.on_connections_deadline();
            }
            if is_due(self.deadlines.core_us.get()) {
                // The turn that follows asks the shard for the next one.
                self.deadlines.core_us.set(None);
                self.feed(Event::DeadlineReached);
            }
        }
    }
}
