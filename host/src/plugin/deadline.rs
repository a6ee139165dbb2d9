//! When a guest is stopped.
//!
//! The deadline counts the processor's time, not the clock's: on a busy machine
//! a thread may wait for its turn longer than a guest may run, and an innocent
//! call must not die of that. The epoch says when to look.

use std::time::{Duration, Instant};

use super::ticker::TICK;

/// How many times its deadline a call may take by the clock, on a machine so
/// busy that it gets no turn.
const CLOCK_TIMES_MAX: u32 = 40;

/// The clock of one call. The first half of the deadline is not measured: most
/// calls end long before, and reading the clock would cost more than they do.
#[derive(Debug, Default)]
pub(super) struct CallClock {
    deadline: Duration,
    measured: Option<Measured>,
    /// The last call was stopped for its time.
    pub(super) is_over: bool,
}

#[derive(Debug)]
struct Measured {
    began: Instant,
    used: Duration,
}

/// What to do at a look.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    Stop,
    Again(u64),
}

impl CallClock {
    /// Begins a call; returns the ticks until the first look.
    pub(super) fn begin(&mut self, deadline: Duration) -> u64 {
        self.deadline = deadline;
        self.measured = None;
        self.is_over = false;
        ticks(deadline / 2)
    }

    /// Looks whether the call is over its time.
    pub(super) fn look(&mut self) -> Look {
        let look = self.decide(Instant::now(), thread_time());
        self.is_over = look == Look::Stop;
        look
    }

    fn decide(&mut self, now: Instant, used: Duration) -> Look {
        let half = self.deadline - self.deadline / 2;
        let Some(measured) = &self.measured else {
            self.measured = Some(Measured { began: now, used });
            return Look::Again(ticks(half));
        };
        let spent = used.saturating_sub(measured.used);
        // The tick is not finer than this.
        if spent + TICK >= half || now.duration_since(measured.began) > self.deadline * CLOCK_TIMES_MAX {
            return Look::Stop;
        }
        Look::Again(ticks(half - spent))
    }
}

fn ticks(time: Duration) -> u64 {
    (time.as_millis() as u64).max(1)
}

/// The processor's time this thread has used.
#[must_use]
pub fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_loop_is_stopped_at_its_deadline() {
        let mut clock = CallClock::default();
        let now = Instant::now();
        assert_eq!(clock.begin(6 * MS), 3);
        assert_eq!(clock.decide(now, 50 * MS), Look::Again(3));
        assert_eq!(clock.decide(now + 3 * MS, 53 * MS), Look::Stop);
    }

    #[test]
    fn a_call_that_gets_no_turn_is_not_stopped_for_it() {
        let mut clock = CallClock::default();
        let now = Instant::now();
        clock.begin(6 * MS);
        clock.decide(now, 50 * MS);
        assert_eq!(clock.decide(now + 100 * MS, 51 * MS), Look::Again(2));
        assert_eq!(clock.decide(now + 300 * MS, 51 * MS), Look::Stop, "but not for ever");
    }
}
