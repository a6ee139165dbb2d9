//! When a module that keeps failing is not called for a while.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The time over which failures are counted.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Failures in the window, at least, before it opens.
pub const FAILURES_MIN: u64 = 20;
/// How long it stays open before one call is let through to see.
pub const OPEN_TIME: Duration = Duration::from_secs(5);

/// Opens when, in [`WINDOW`], there were [`FAILURES_MIN`] failures and they were
/// at least half of the calls.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    is_open: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    began: Option<Instant>,
    calls_before: u64,
    failures: u64,
    probe_at: Option<Instant>,
}

impl Breaker {
    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Relaxed)
    }

    /// Whether a call may be made.
    pub(super) fn admits(&self) -> bool {
        !self.is_open() || self.admits_at(Instant::now())
    }

    fn admits_at(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        match state.probe_at {
            Some(at) if now < at => false,
            _ => {
                state.probe_at = Some(now + OPEN_TIME);
                true
            }
        }
    }

    pub(super) fn succeeded(&self) {
        if self.is_open() {
            *self.state.lock() = State::default();
            self.is_open.store(false, Relaxed);
        }
    }

    /// Notes a failure, of `calls` calls so far; says whether that opened it.
    pub(super) fn failed(&self, calls: u64) -> bool {
        self.failed_at(calls, Instant::now())
    }

    fn failed_at(&self, calls: u64, now: Instant) -> bool {
        let mut state = self.state.lock();
        if state.began.is_none_or(|began| now.duration_since(began) > WINDOW) {
            state.began = Some(now);
            state.calls_before = calls.saturating_sub(1);
            state.failures = 0;
        }
        state.failures += 1;
        let is_too_much =
            state.failures >= FAILURES_MIN && state.failures * 2 >= calls.saturating_sub(state.calls_before);
        if !is_too_much {
            return false;
        }
        state.probe_at.get_or_insert(now + OPEN_TIME);
        !self.is_open.swap(true, Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_when_half_of_the_calls_fail_and_closes_when_one_is_good() {
        let breaker = Breaker::default();
        let now = Instant::now();
        for call in 1..FAILURES_MIN {
            assert!(!breaker.failed_at(call * 2, now));
        }
        assert!(breaker.failed_at(FAILURES_MIN * 2, now));
        assert!(!breaker.admits_at(now + OPEN_TIME / 2));
        assert!(breaker.admits_at(now + OPEN_TIME));
        assert!(!breaker.admits_at(now + OPEN_TIME), "one call is enough to see");
        breaker.succeeded();
        assert!(breaker.admits());
    }

    #[test]
    fn one_failure_in_a_hundred_calls_leaves_it_closed() {
        let breaker = Breaker::default();
        let now = Instant::now();
        assert!((1..1000).all(|call| !breaker.failed_at(call * 100, now)));
        assert!(breaker.admits());
    }
}
