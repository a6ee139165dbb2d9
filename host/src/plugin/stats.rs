//! How a module's calls go: what is counted of them, and when it is left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::CallError;
use super::breaker::Breaker;

/// Warnings about failed calls of one module in a second.
const LINES_A_SECOND: u64 = 5;

/// The most bytes a call is given whose failure counts for the breaker. What
/// fails on little is broken. What fails on much may be the doing of who sent it,
/// and one client must not have the module left alone for all others.
pub const BREAKER_INPUT_MAX: usize = 4 << 10;

/// Kinds of failure, as labels show them.
pub const FAILURES: [&str; 6] = ["trap", "deadline", "memory", "garbage", "busy", "waits"];

/// The calls of one version of a module with one configuration, filter or
/// function.
pub(super) struct Health {
    module: Arc<str>,
    version: Arc<str>,
    pub(super) stats: Stats,
    breaker: Breaker,
    is_withdrawn: AtomicBool,
}

impl Health {
    pub(super) fn new(module: Arc<str>, version: Arc<str>) -> Self {
        Self {
            module,
            version,
            stats: Stats::default(),
            breaker: Breaker::default(),
            is_withdrawn: AtomicBool::new(false),
        }
    }

    /// Counts a call that begins, unless the module is not to be called.
    pub(super) fn begin(&self) -> Result<(), CallError> {
        if self.is_withdrawn() {
            return Err(CallError::Withdrawn);
        }
        if !self.breaker.admits() {
            return Err(CallError::BreakerOpen);
        }
        self.stats.count_call();
        Ok(())
    }

    pub(super) fn succeeded(&self) {
        self.breaker.succeeded();
    }

    /// Counts a failure of a call that was given this many bytes, and logs it
    /// unless there were many.
    pub(super) fn failed(&self, error: &CallError, given: usize) {
        self.stats.count_failure(error);
        let (module, version) = (&self.module, &self.version);
        // That all places are taken is no fault of the module, and who is turned
        // away costs nothing: counted, it would turn away everybody.
        let is_fault = *error != CallError::Busy && given <= BREAKER_INPUT_MAX;
        if is_fault && self.breaker.failed(self.stats.calls()) {
            tracing::warn!(%module, %version, %error, "a module failed too often and is not called for a while");
        } else if self.stats.is_worth_a_line() {
            tracing::warn!(%module, %version, %error, "a call of a module failed");
        }
    }

    /// Has the module called no more, or again.
    pub(super) fn set_withdrawn(&self, is_withdrawn: bool) {
        self.is_withdrawn.store(is_withdrawn, Relaxed);
    }

    /// Whether the module is not called any more.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.is_withdrawn.load(Relaxed)
    }

    /// Whether the module is not called for a while.
    pub(super) fn is_broken(&self) -> bool {
        self.breaker.is_open()
    }
}

/// Counts of one version of a module with one configuration.
#[derive(Debug)]
pub struct Stats {
    calls: AtomicU64,
    failures: [AtomicU64; FAILURES.len()],
    began: Instant,
    /// The second in the upper half, the lines in it in the lower.
    lines: AtomicU64,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            calls: AtomicU64::new(0),
            failures: Default::default(),
            began: Instant::now(),
            lines: AtomicU64::new(0),
        }
    }
}

impl Stats {
    /// Calls so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }

    /// Failures so far, in the order of [`FAILURES`].
    #[must_use]
    pub fn failures(&self) -> [u64; FAILURES.len()] {
        std::array::from_fn(|at| self.failures[at].load(Relaxed))
    }

    pub(super) fn count_call(&self) {
        self.calls.fetch_add(1, Relaxed);
    }

    pub(super) fn count_failure(&self, error: &CallError) {
        let at = match error {
            CallError::Trap(_) => 0,
            CallError::Deadline => 1,
            CallError::Memory(_) => 2,
            CallError::Garbage(_) => 3,
            CallError::Busy => 4,
            CallError::Waits => 5,
            CallError::BreakerOpen | CallError::Withdrawn => return,
        };
        self.failures[at].fetch_add(1, Relaxed);
    }

    /// Whether a failure gets a line of the log of its own.
    pub(super) fn is_worth_a_line(&self) -> bool {
        let second = self.began.elapsed().as_secs() + 1;
        let updated = self.lines.fetch_update(Relaxed, Relaxed, |lines| match lines >> 16 == second {
            true if lines & 0xffff >= LINES_A_SECOND => None,
            true => Some(lines + 1),
            false => Some(second << 16 | 1),
        });
        updated.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::FAILURES_MIN;

    #[test]
    fn what_fails_on_long_input_is_counted_and_leaves_the_breaker_closed() {
        let health = Health::new("waf".into(), "1".into());
        let fail = |given| {
            for _ in 0..FAILURES_MIN {
                health.begin().unwrap();
                health.failed(&CallError::Deadline, given);
            }
        };
        fail(BREAKER_INPUT_MAX + 1);
        assert!(!health.is_broken());
        assert_eq!(health.stats.failures()[1], FAILURES_MIN);
        assert_eq!(health.begin(), Ok(()));
        // Of the calls in the window these are half.
        fail(BREAKER_INPUT_MAX);
        assert!(health.is_broken());
        assert_eq!(health.begin(), Err(CallError::BreakerOpen));
    }
}
