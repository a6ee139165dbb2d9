//! Waiting for a condition, never for a fixed time.

use std::time::{Duration, Instant};

/// How long [`eventually`] waits. Generous: it bounds failures, and costs
/// nothing when the condition comes soon.
pub const DEADLINE: Duration = Duration::from_secs(15);

const STEP: Duration = Duration::from_millis(5);

/// Tries `condition` until it gives a value; panics with `what` after
/// [`DEADLINE`]. For a condition without a value: `|| test().then_some(())`.
pub fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(DEADLINE, what, condition)
}

/// [`eventually`] with a deadline of its own.
pub fn within<T>(deadline: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        std::thread::sleep(STEP);
    }
}

/// [`eventually`] for an asynchronous test.
pub async fn eventually_async<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(STEP).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_ends_the_wait() {
        let mut tries = 0;
        let value = eventually("three tries", || {
            tries += 1;
            (tries == 3).then_some(tries)
        });
        assert_eq!(value, 3);
    }

    #[test]
    #[should_panic(expected = "a thing that never happens")]
    fn the_deadline_names_what_was_waited_for() {
        within(Duration::from_millis(20), "a thing that never happens", || None::<()>);
    }
}
