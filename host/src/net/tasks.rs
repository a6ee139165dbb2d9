//! The tasks of a worker: counted, told to drain, ended at a deadline.
//!
//! Every task of a worker starts through [`Tasks::spawn`]. A drain wakes each
//! of them once, so waiting for it ([`Tasks::draining`]) keeps no state and
//! allocates nothing: what would be a list of waiters is the list of tasks
//! that exists anyway.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(Debug, Default)]
struct Inner {
    wakers: RefCell<Slots>,
    count: Cell<usize>,
    draining: Cell<bool>,
    ended: Cell<bool>,
    deadline: Cell<Option<Instant>>,
    empty: Notify,
}

/// Wakers by slot; a free slot names the next free one, so that taking and
/// giving back a slot never searches.
#[derive(Debug, Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Option<u32>,
}

#[derive(Debug)]
enum Slot {
    Task(Option<Waker>),
    Free(Option<u32>),
}

impl Slots {
    fn take(&mut self) -> u32 {
        if let Some(index) = self.free {
            if let Slot::Free(next) = self.slots[index as usize] {
                self.free = next;
            }
            self.slots[index as usize] = Slot::Task(None);
            return index;
        }
        self.slots.push(Slot::Task(None));
        u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
    }

    fn give_back(&mut self, index: u32) {
        self.slots[index as usize] = Slot::Free(self.free);
        self.free = Some(index);
    }
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Tasks that ran when the drain began to be waited for.
    pub running: usize,
    /// Tasks that the deadline ended.
    pub ended: usize,
}

/// A worker's tasks. Cloning gives another handle to the same set.
#[derive(Debug, Clone, Default)]
pub struct Tasks(Rc<Inner>);

impl Tasks {
    /// No task yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `future` on this worker until it ends or the drain's deadline drops it.
    ///
    /// Must be called on a worker, inside its `LocalRuntime`.
    pub fn spawn<F: Future<Output = ()> + 'static>(&self, future: F) {
        self.spawn_holding(future, ());
    }

    /// [`spawn`](Self::spawn), and drops `guard` when the task is gone,
    /// however it ends. Costs the future nothing.
    pub fn spawn_holding<F, G>(&self, future: F, guard: G)
    where
        F: Future<Output = ()> + 'static,
        G: 'static,
    {
        let slot = self.0.wakers.borrow_mut().take();
        self.0.count.set(self.0.count.get() + 1);
        let held = Held { tasks: Rc::clone(&self.0), slot, is_registered: false };
        tokio::task::spawn_local(Tracked { future, guard, held });
    }

    /// Tasks that run now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.count.get()
    }

    /// Whether the worker drains: flows finish what they have and take nothing new.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.draining.get()
    }

    /// Whether the drain's deadline is over and tasks are being dropped.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.0.ended.get()
    }

    /// When what still runs is ended, once a drain has one.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline.get()
    }

    /// Returns once the worker drains.
    ///
    /// To be awaited in a task of this set, alone, in `select!` or in a
    /// `poll_fn` that is polled whenever the task is; not inside
    /// `FuturesUnordered` or another executor, which would not pass the wake
    /// on. Cancel-safe; holds no state.
    pub async fn draining(&self) {
        poll_fn(|_| self.poll_draining()).await;
    }

    /// [`draining`](Self::draining) for hand-written futures.
    pub fn poll_draining(&self) -> Poll<()> {
        if self.is_draining() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Begins the drain: every task is woken once and sees it.
    pub fn drain(&self) {
        if !self.0.draining.replace(true) {
            self.wake_all();
        }
    }

    /// Wakes every task once, so that each looks at its listener's state again.
    pub fn wake_all(&self) {
        // Waking may run no task here, but may drop the last handle of one:
        // so nothing is borrowed while it happens.
        let wakers: Vec<Waker> = self
            .0
            .wakers
            .borrow()
            .slots
            .iter()
            .filter_map(|slot| match slot {
                Slot::Task(waker) => waker.clone(),
                Slot::Free(_) => None,
            })
            .collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Drains and waits until no task runs; ends what still does after `grace`.
    ///
    /// To be called outside the set's own tasks.
    pub async fn drained(&self, grace: Duration) -> Drained {
        let deadline = Instant::now() + grace;
        self.0.deadline.set(Some(deadline));
        self.drain();
        let running = self.count();
        let in_time = tokio::time::timeout_at(deadline, self.wait_empty()).await.is_ok();
        let ended = if in_time { 0 } else { self.count() };
        if !in_time {
            self.0.ended.set(true);
            self.wake_all();
            // Each task is woken and drops its future at its next poll, which
            // nothing can hold up for longer than one poll of another task.
            self.wait_empty().await;
        }
        Drained { running, ended }
    }

    async fn wait_empty(&self) {
        while self.count() > 0 {
            self.0.empty.notified().await;
        }
    }
}

/// A task's place in the set, given back when the task ends, panics or is dropped.
struct Held {
    tasks: Rc<Inner>,
    slot: u32,
    is_registered: bool,
}

impl Held {
    fn register(&mut self, context: &Context<'_>) {
        // A task's waker stays the same all its life: once is enough.
        if !self.is_registered {
            self.is_registered = true;
            self.tasks.wakers.borrow_mut().slots[self.slot as usize] =
                Slot::Task(Some(context.waker().clone()));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.tasks.wakers.borrow_mut().give_back(self.slot);
        self.tasks.count.set(self.tasks.count.get().saturating_sub(1));
        if self.tasks.count.get() == 0 {
            self.tasks.empty.notify_waiters();
            self.tasks.empty.notify_one();
        }
    }
}

pin_project_lite::pin_project! {
    struct Tracked<F, G> {
        // Dropped before `held`: the count falls once the task's state is gone.
        #[pin]
        future: F,
        guard: G,
        held: Held,
    }
}

impl<F: Future<Output = ()>, G> Future for Tracked<F, G> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        this.held.register(context);
        if this.held.tasks.ended.get() {
            return Poll::Ready(());
        }
        this.future.poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::LocalRuntime;

    fn on_worker<F: Future>(future: F) -> F::Output {
        LocalRuntime::new().unwrap().block_on(future)
    }

    #[test]
    fn a_drain_wakes_every_task_and_waits_for_all() {
        on_worker(async {
            let tasks = Tasks::new();
            for _ in 0..100 {
                let own = tasks.clone();
                tasks.spawn(async move { own.draining().await });
            }
            tokio::task::yield_now().await;
            assert_eq!(tasks.count(), 100);
            assert!(!tasks.is_draining());
            let drained = tasks.drained(Duration::from_secs(10)).await;
            assert_eq!(drained, Drained { running: 100, ended: 0 });
            assert!(tasks.is_draining());
        });
    }

    #[test]
    fn the_deadline_ends_what_does_not_listen() {
        on_worker(async {
            let tasks = Tasks::new();
            tasks.spawn(std::future::pending());
            let own = tasks.clone();
            tasks.spawn(async move { own.draining().await });
            let drained = tasks.drained(Duration::from_millis(20)).await;
            assert_eq!(drained, Drained { running: 2, ended: 1 });
            assert_eq!(tasks.count(), 0);
        });
    }

    #[test]
    fn a_task_that_panics_is_no_longer_counted() {
        on_worker(async {
            let tasks = Tasks::new();
            tasks.spawn(async { panic!("on purpose") });
            assert_eq!(tasks.drained(Duration::from_secs(10)).await.ended, 0);
        });
    }

    #[test]
    fn places_of_ended_tasks_are_used_again() {
        on_worker(async {
            let tasks = Tasks::new();
            for _ in 0..1_000 {
                tasks.spawn(async {});
                tokio::task::yield_now().await;
            }
            assert!(tasks.0.wakers.borrow().slots.len() < 10);
        });
    }

    #[test]
    fn waking_lets_a_task_look_at_state_of_its_own() {
        on_worker(async {
            let tasks = Tasks::new();
            let closing = Rc::new(Cell::new(false));
            let seen = Rc::clone(&closing);
            tasks.spawn(poll_fn(move |_| if seen.get() { Poll::Ready(()) } else { Poll::Pending }));
            tokio::task::yield_now().await;
            closing.set(true);
            tasks.wake_all();
            tasks.wait_empty().await;
            assert!(!tasks.is_draining());
        });
    }
}
