//! The instances that serve many exchanges, one after the other.
//!
//! A call takes an instance out and puts it back; the locks are held for the
//! time of a move, never over a call. Threads begin at places of their own, so
//! that they hardly meet. An exchange keeps the slot its first call was in: its
//! later calls come to the same instance, as long as that lives.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;

use super::instance::Live;

/// Calls after which an instance is replaced, at least; up to twice as many, so
/// that not all are replaced at one time. Bounds what leaks of one's own do.
const CALLS_MIN: u32 = 100_000;

/// Calls the life of an instance has.
pub(super) fn calls_of_a_life() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness all live equally long.
    let _ = getrandom::fill(&mut bytes);
    CALLS_MIN + u32::from_le_bytes(bytes) % CALLS_MIN
}

/// A place for an instance.
pub(super) struct Slot {
    place: usize,
    live: Mutex<Option<Box<Live>>>,
}

impl Slot {
    pub(super) fn place(&self) -> usize {
        self.place
    }

    pub(super) fn take(&self) -> Option<Box<Live>> {
        self.live.lock().take()
    }

    pub(super) fn put(&self, live: Box<Live>) {
        *self.live.lock() = Some(live);
    }
}

/// The places of one module.
pub(super) struct Slots {
    places: Box<[Place]>,
}

struct Place {
    slot: Mutex<Arc<Slot>>,
    is_wanted: AtomicBool,
}

impl Slots {
    /// Places without instances.
    pub(super) fn new(count: usize) -> Self {
        let places = (0..count).map(|place| Place {
            slot: Mutex::new(Arc::new(Slot { place, live: Mutex::new(None) })),
            is_wanted: AtomicBool::new(false),
        });
        Self { places: places.collect() }
    }

    /// A free instance.
    pub(super) fn take(&self) -> Option<(Arc<Slot>, Box<Live>)> {
        let count = self.places.len();
        let home = thread_number();
        (0..count).find_map(|step| {
            let slot = Arc::clone(&self.places[(home + step) % count].slot.lock());
            let live = slot.take()?;
            Some((slot, live))
        })
    }

    /// A place without an instance of its own, as far as can be seen.
    pub(super) fn empty(&self) -> Option<usize> {
        let count = self.places.len();
        let home = thread_number();
        (0..count)
            .map(|step| (home + step) % count)
            .find(|place| self.places[*place].slot.lock().live.lock().is_none())
    }

    /// Gives a place a new slot for an instance that is taken already.
    pub(super) fn renew(&self, place: usize) -> Arc<Slot> {
        let slot = Arc::new(Slot { place, live: Mutex::new(None) });
        *self.places[place].slot.lock() = Arc::clone(&slot);
        slot
    }

    /// Puts a new instance in a place. Exchanges under way keep the old one.
    pub(super) fn fill(&self, place: usize, live: Live) {
        let slot = Arc::new(Slot { place, live: Mutex::new(Some(Box::new(live))) });
        *self.places[place].slot.lock() = slot;
    }

    /// Notes that a place needs a new instance.
    pub(super) fn want(&self, place: usize) {
        self.places[place].is_wanted.store(true, Relaxed);
    }

    /// Whether a place needs one.
    pub(super) fn is_any_wanted(&self) -> bool {
        self.places.iter().any(|place| place.is_wanted.load(Relaxed))
    }

    /// The places that need one; asking takes the notes away.
    pub(super) fn wanted(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|place| self.places[*place].is_wanted.swap(false, Relaxed)).collect()
    }

    /// Bytes of linear memory of the largest instance that waits for a call.
    pub(super) fn memory(&self) -> usize {
        let bytes = |place: &Place| place.slot.lock().live.lock().as_ref().map_or(0, |live| live.memory());
        self.places.iter().map(bytes).max().unwrap_or_default()
    }

    /// Instances that wait for a call.
    pub(super) fn count(&self) -> usize {
        self.places.iter().filter(|place| place.slot.lock().live.lock().is_some()).count()
    }
}

/// A number of this thread's own, from 0.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    OWN.with(|own| {
        if own.get() == usize::MAX {
            own.set(NEXT.fetch_add(1, Relaxed));
        }
        own.get()
    })
}
