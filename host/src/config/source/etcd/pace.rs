//! When what has come is told: soon, and a burst as few batches.

use std::time::Duration;

use tokio::time::Instant;

/// Events that belong together come within this time of each other.
const QUIET: Duration = Duration::from_millis(3);
/// No event waits longer than this, unless many come without a pause.
const WAIT_FIRST: Duration = Duration::from_millis(20);
/// No event waits longer than this.
const WAIT_LONGEST: Duration = Duration::from_millis(320);

/// Tells when to stop gathering. A burst that does not end is told at longer
/// and longer intervals: each batch costs the same few milliseconds.
#[derive(Debug)]
pub(super) struct Pace {
    first: Option<Instant>,
    last: Instant,
    wait: Duration,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { first: None, last: now, wait: WAIT_FIRST }
    }

    /// Notes that events have come.
    pub(super) fn heard(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        self.last = now;
    }

    /// When to tell what has come; `None` while nothing has.
    pub(super) fn due(&self) -> Option<Instant> {
        Some((self.last + QUIET).min(self.first? + self.wait))
    }

    /// Notes that everything was told.
    pub(super) fn told(&mut self, now: Instant) {
        let is_burst = self.first.is_some() && now < self.last + QUIET;
        self.wait = if is_burst { (self.wait * 2).min(WAIT_LONGEST) } else { WAIT_FIRST };
        self.first = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_is_told_at_once_and_a_burst_in_few_batches() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.due(), None);
        pace.heard(start);
        assert_eq!(pace.due(), Some(start + QUIET));
        pace.told(start + QUIET);
        let mut batches = 0;
        for millisecond in 0..1500 {
            let now = start + Duration::from_secs(1) + Duration::from_millis(millisecond);
            pace.heard(now);
            if pace.due().is_some_and(|due| due <= now + Duration::from_millis(1)) {
                pace.told(now);
                batches += 1;
            }
        }
        assert!((3..=10).contains(&batches), "{batches} batches");
    }
}
