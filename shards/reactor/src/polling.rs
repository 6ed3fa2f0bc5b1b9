//! Polling instead of sleeping.

use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::timer::Timer;

use crate::core::ShardCore;
use crate::driver::Driver;

/// Between two times that others may have the CPU. Nobody is woken for it: the executor spins, see [`SPIN`].
const YIELD_INTERVAL: Duration = Duration::from_micros(2);

/// How long the executor of a shard that polls looks at its rings before it sleeps: longer than until the next timer.
pub(crate) const SPIN: Duration = Duration::from_micros(20);

/// How long a shard polls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PollTimes {
    /// After each event.
    pub(crate) event: Duration,
    /// For the end of a WAL write, where the last one took no longer.
    pub(crate) write: Duration,
}

impl PollTimes {
    pub(crate) fn is_never(self) -> bool {
        self.event.is_zero() && self.write.is_zero()
    }
}

impl<C: ShardCore> Driver<C> {
    /// Keeps the executor from sleeping while something is near. Meanwhile it lets others have the CPU: the kernel ends a durable
    /// write on a worker of the CPU that the disk interrupts, which would else wait for a time slice, 3 ms, before what is polled for
    /// happens.
    pub(crate) async fn run_polling(self: Rc<Self>, times: PollTimes) {
        loop {
            self.woken.notified().await;
            let mut last = Instant::now();
            while last.elapsed() < self.poll_time(times) {
                // First, so that the executor has submitted what the turn brought when others get the CPU.
                Timer::new(YIELD_INTERVAL).await;
                std::thread::yield_now();
                if self.woken.take() {
                    last = Instant::now();
                }
            }
        }
    }

    fn poll_time(&self, PollTimes { event, write }: PollTimes) -> Duration {
        let is_write_near = self.wal.write_time().is_some_and(|last| last <= write);
        if is_write_near { event.max(write) } else { event }
    }
}
