//! What raises the epoch of an engine, by which guests are stopped and yield.
//!
//! A thread does it every millisecond, while guests are called: a node without
//! modules, or with modules nobody has called for a while, is not woken for it.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use wasmtime::Engine;

/// How often the epoch rises while there is a guest.
pub const TICK: Duration = Duration::from_millis(1);
/// How long it rises after the last call began or was looked after: longer than any
/// call goes on without either, be it in a guest (60 s at most) or in a guest that
/// waited before (60 s more, or the 120 s of an edge function).
const AFTER_CALL: Duration = Duration::from_secs(200);

/// The thread of one engine. It ends with the last who holds this.
pub(super) struct Ticker(Arc<Shared>);

struct Shared {
    /// Instances there are.
    instances: AtomicU32,
    /// Whether a guest was called since the last tick.
    is_called: AtomicBool,
    /// The thread sleeps until one is.
    is_parked: AtomicBool,
    ended: Mutex<bool>,
    wake: Condvar,
}

impl Ticker {
    /// Starts the thread, under this name.
    pub(super) fn start(engine: Engine, name: &str) -> std::io::Result<Arc<Self>> {
        Self::start_for(engine, name, AFTER_CALL)
    }

    fn start_for(engine: Engine, name: &str, after_call: Duration) -> std::io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            instances: AtomicU32::new(0),
            is_called: AtomicBool::new(false),
            is_parked: AtomicBool::new(false),
            ended: Mutex::new(false),
            wake: Condvar::new(),
        });
        let own = Arc::clone(&shared);
        let ticks = after_call.as_millis() / TICK.as_millis();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || own.run(&engine, ticks))?;
        Ok(Arc::new(Self(shared)))
    }

    /// Keeps it going for an instance while the result is held, and tells it of calls.
    pub(super) fn hold(self: &Arc<Self>) -> Ticking {
        self.0.instances.fetch_add(1, SeqCst);
        let ticking = Ticking(Arc::clone(self));
        ticking.call();
        ticking
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        *self.0.ended.lock() = true;
        self.0.wake.notify_one();
    }
}

impl Shared {
    fn run(&self, engine: &Engine, ticks_max: u128) {
        let mut ticks = 0;
        loop {
            ticks = if self.is_called.swap(false, SeqCst) { 0 } else { ticks + 1 };
            let is_idle = self.instances.load(SeqCst) == 0 || ticks > ticks_max;
            let mut ended = self.ended.lock();
            if is_idle {
                self.is_parked.store(true, SeqCst);
                while !self.is_called.load(SeqCst) && !*ended {
                    self.wake.wait(&mut ended);
                }
                self.is_parked.store(false, SeqCst);
                ticks = 0;
            }
            if *ended {
                return;
            }
            drop(ended);
            std::thread::sleep(TICK);
            engine.increment_epoch();
        }
    }
}

/// While it is held, guests are stopped at their deadline.
pub(super) struct Ticking(Arc<Ticker>);

impl Ticking {
    /// Tells that a guest is called, or still goes on.
    pub(super) fn call(&self) {
        let shared = &self.0.0;
        if shared.is_called.load(Relaxed) {
            return;
        }
        // One of the two sees what the other wrote: this thread that the other is
        // parked, or that one that it must not be.
        shared.is_called.store(true, SeqCst);
        if shared.is_parked.load(SeqCst) {
            drop(shared.ended.lock());
            shared.wake.notify_one();
        }
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.0.instances.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(condition: impl Fn() -> bool) {
        while !condition() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn it_rests_when_nobody_is_called_and_goes_on_with_the_next_call() {
        let ticker = Ticker::start_for(Engine::default(), "test-epoch", 20 * TICK).unwrap();
        let is_parked = || ticker.0.is_parked.load(SeqCst);
        until(is_parked);
        let ticking = ticker.hold();
        for _ in 0..3 {
            until(|| !is_parked());
            until(is_parked);
            ticking.call();
        }
        drop(ticking);
        until(is_parked);
    }
}
