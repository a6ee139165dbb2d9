//! What raises the epoch of an engine, by which guests are stopped and yield.
//!
//! A thread does it every millisecond, while there is a guest: a node without
//! modules, or with modules nobody calls, is not woken for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use wasmtime::Engine;

/// How often the epoch rises while there is a guest.
pub const TICK: Duration = Duration::from_millis(1);

/// The thread of one engine. It ends with the last who holds this.
pub(super) struct Ticker(Arc<Shared>);

struct Shared {
    users: AtomicU32,
    ended: Mutex<bool>,
    wake: Condvar,
}

impl Ticker {
    /// Starts the thread, under this name.
    pub(super) fn start(engine: Engine, name: &str) -> std::io::Result<Arc<Self>> {
        let shared = Shared { users: AtomicU32::new(0), ended: Mutex::new(false), wake: Condvar::new() };
        let shared = Arc::new(shared);
        let own = Arc::clone(&shared);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || own.run(&engine))?;
        Ok(Arc::new(Self(shared)))
    }

    /// Keeps it going while the result is held.
    pub(super) fn hold(self: &Arc<Self>) -> Ticking {
        let held = self.0.ended.lock();
        self.0.users.fetch_add(1, Relaxed);
        self.0.wake.notify_one();
        drop(held);
        Ticking(Arc::clone(self))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        // It must not sleep for want of users when it is to end.
        self.0.users.fetch_add(1, Relaxed);
        *self.0.ended.lock() = true;
        self.0.wake.notify_one();
    }
}

impl Shared {
    fn run(&self, engine: &Engine) {
        loop {
            {
                let mut ended = self.ended.lock();
                while self.users.load(Relaxed) == 0 && !*ended {
                    self.wake.wait(&mut ended);
                }
                if *ended {
                    return;
                }
            }
            std::thread::sleep(TICK);
            engine.increment_epoch();
        }
    }
}

/// While it is held, guests are stopped at their deadline.
pub(super) struct Ticking(Arc<Ticker>);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.0.users.fetch_sub(1, Relaxed);
    }
}
