//! The state machine that a driver drives.

use shard::{Effect, Event};
use types::Now;

/// One shard's pure state machine. Lives on the thread of its executor and is never moved off it.
///
/// Production runs [`shard::Shard`]; tests of the driver run machines of their own.
pub trait ShardCore: 'static {
    /// Takes in one event and appends what is to be done to `effects`, which is empty before.
    fn step(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>);

    /// The monotonic time, in microseconds of [`Now::mono_us`], at which [`Event::DeadlineReached`] is due.
    /// Asked again after each turn.
    fn next_deadline_us(&self) -> Option<u64>;
}

impl ShardCore for shard::Shard {
    fn step(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        shard::Shard::step(self, now, event, effects);
    }

    fn next_deadline_us(&self) -> Option<u64> {
        shard::Shard::next_deadline_us(self)
    }
}
