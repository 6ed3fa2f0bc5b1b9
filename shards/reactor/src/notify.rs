//! A wake-up between two tasks of one executor.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// Wakes one waiting task. A notification that comes before the wait is kept; several count as one.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    notified: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Notify {
    pub(crate) fn notify(&self) {
        if !self.notified.replace(true)
            && let Some(waiter) = self.waiter.take()
        {
            waiter.wake();
        }
    }

    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.notified.replace(false) {
            return Poll::Ready(());
        }
        let mut waiter = self.waiter.borrow_mut();
        match &mut *waiter {
            Some(present) => present.clone_from(context.waker()),
            None => *waiter = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Whether there was a notification.
    pub(crate) fn take(&self) -> bool {
        self.notified.replace(false)
    }

    pub(crate) async fn notified(&self) {
        poll_fn(|context| self.poll(context)).await;
    }
}
