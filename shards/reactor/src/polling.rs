//! Polling instead of sleeping.

use std::rc::Rc;
use std::time::Duration;

use glommio::timer::Timer;

use crate::core::ShardCore;
use crate::driver::Driver;

/// Between two times that others may have the CPU. Nobody is woken for it: the executor spins, see [`SPIN`].
const YIELD_INTERVAL: Duration = Duration::from_micros(2);

/// How long the executor of a shard that polls looks at its rings before it sleeps: longer than until the next timer.
pub(crate) const SPIN: Duration = Duration::from_micros(100);

impl<C: ShardCore> Driver<C> {
    /// Keeps the executor from sleeping for so long after each turn. Meanwhile it lets others have the CPU: the kernel ends a
    /// durable write on a worker of the CPU that the disk interrupts, which would else wait for a time slice, 3 ms, before what is
    /// polled for happens.
    pub(crate) async fn run_polling(self: Rc<Self>, busy_poll: Duration) {
        let busy_poll_us = u64::try_from(busy_poll.as_micros()).expect("options bound it by a second");
        loop {
            self.woken.notified().await;
            let mut last_us = self.clock.mono_us();
            while self.clock.mono_us() < last_us + busy_poll_us {
                std::thread::yield_now();
                Timer::new(YIELD_INTERVAL).await;
                if self.woken.take() {
                    last_us = self.clock.mono_us();
                }
            }
        }
    }
}
