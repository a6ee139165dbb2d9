//! One timer a connection, moved lazily.
//!
//! A connection's time limits change with every request, and almost none is
//! ever reached. [`LazyTimer`] stays armed for the earliest deadline it was
//! asked about; when it fires and the deadline has moved on, it is armed again
//! for the new one. So a busy connection touches the timer wheel about once a
//! time limit, not once a request.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that costs nothing until it is first asked.
#[derive(Default)]
pub struct LazyTimer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Which task the timer would wake: the address its waker stands for. The
    /// timer keeps that task's memory, so no other task can have it.
    registered: usize,
}

impl LazyTimer {
    /// A timer that was never armed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ready once `deadline` has passed; otherwise the task is woken at that
    /// time at the latest, and perhaps once before it.
    pub fn poll_until(&mut self, context: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let task = context.waker().data() as usize;
        if let Some(sleep) = &self.sleep
            && self.registered == task
            && sleep.deadline() <= deadline
            && !sleep.is_elapsed()
        {
            // Armed early enough, and known to wake this task: nothing to do.
            return Poll::Pending;
        }
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        self.registered = task;
        while sleep.as_mut().poll(context).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moved_on_is_waited_for() {
        let mut timer = LazyTimer::new();
        let start = Instant::now();
        let near = start + Duration::from_secs(1);
        let far = start + Duration::from_secs(5);
        let armed = poll_fn(|context| Poll::Ready(timer.poll_until(context, near))).await;
        assert!(armed.is_pending());
        poll_fn(|context| timer.poll_until(context, far)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_nearer_deadline_is_kept() {
        let mut timer = LazyTimer::new();
        let start = Instant::now();
        let armed =
            poll_fn(|context| Poll::Ready(timer.poll_until(context, start + Duration::from_secs(60)))).await;
        assert!(armed.is_pending());
        poll_fn(|context| timer.poll_until(context, start + Duration::from_secs(2))).await;
        assert_eq!(start.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn it_wakes_the_task_that_asked_last() {
        let mut timer = LazyTimer::new();
        let start = Instant::now();
        let deadline = start + Duration::from_secs(1);
        let armed = poll_fn(|context| Poll::Ready(timer.poll_until(context, deadline))).await;
        assert!(armed.is_pending());
        let elsewhere = tokio::spawn(async move {
            poll_fn(|context| timer.poll_until(context, deadline)).await;
        });
        elsewhere.await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }
}
