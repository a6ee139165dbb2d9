//! The leaky bucket of lua-resty-limit-req.

use std::time::{Duration, Instant};

use super::Rejected;
use super::table::{Keep, Table};

/// How fast a bucket leaks, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeakyRule {
    /// Requests a second; more than 0.
    pub rate: f64,
    /// Requests beyond the rate that are let in, delayed.
    pub burst: f64,
}

/// What is done with a request the bucket has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// It is rejected and leaves no trace.
    Reject,
    /// It is let in all the same, with a delay of at most this.
    Delay(Duration),
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Requests beyond the rate.
    excess: f64,
    last: Instant,
}

/// A leaky bucket for each key.
#[derive(Debug)]
pub struct LeakyBucket {
    rule: LeakyRule,
    table: Table<Option<Bucket>>,
}

impl LeakyBucket {
    /// Buckets by this rule, for at most `keys_max` keys.
    #[must_use]
    pub fn new(rule: LeakyRule, keys_max: usize) -> Self {
        Self { rule, table: Table::new(keys_max) }
    }

    /// Takes one request in and returns how long it has to wait.
    ///
    /// # Errors
    /// The bucket is full and `overflow` says reject.
    pub fn incoming(&self, key: &[u8], now: Instant, overflow: Overflow) -> Result<Duration, Rejected> {
        let LeakyRule { rate, burst } = self.rule;
        let leaked = |bucket: &Bucket| {
            let elapsed = now.saturating_duration_since(bucket.last).as_secs_f64();
            bucket.excess - rate * elapsed
        };
        let is_idle = |bucket: &Option<Bucket>| bucket.as_ref().is_none_or(|bucket| leaked(bucket) <= -1.0);
        self.table.with(
            key,
            || None,
            is_idle,
            |bucket| {
                // As in the original, the first request of a key fills nothing.
                let mut excess = bucket.as_ref().map_or(0.0, |bucket| (leaked(bucket) + 1.0).max(0.0));
                if excess > burst {
                    match overflow {
                        Overflow::Reject => {
                            let wait = Duration::try_from_secs_f64((excess - burst) / rate);
                            let rejected = Rejected { retry_after: wait.unwrap_or(Duration::MAX) };
                            return (Keep::Yes, Err(rejected));
                        }
                        Overflow::Delay(most) => excess = excess.min(rate * most.as_secs_f64()).max(burst),
                    }
                }
                *bucket = Some(Bucket { excess, last: now });
                (Keep::Yes, Ok(Duration::try_from_secs_f64(excess / rate).unwrap_or(Duration::MAX)))
            },
        )
    }

    /// Number of keys remembered.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.table.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(result: Result<Duration, Rejected>) -> Result<u128, u128> {
        result.map(|wait| wait.as_millis()).map_err(|rejected| rejected.retry_after.as_millis())
    }

    #[test]
    fn rate_burst_and_delay_follow_the_original() {
        let limit = LeakyBucket::new(LeakyRule { rate: 2.0, burst: 1.0 }, 16);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let table = [
            (0, Ok(0)),
            (0, Ok(500)),
            // Excess would be 2 over a burst of 1: half a second too early.
            (0, Err(500)),
            (500, Ok(500)),
            (500, Err(500)),
            (1250, Ok(250)),
            (9000, Ok(0)),
        ];
        for (ms, expected) in table {
            assert_eq!(millis(limit.incoming(b"a", at(ms), Overflow::Reject)), expected, "at {ms} ms");
        }
        assert_eq!(millis(limit.incoming(b"b", at(0), Overflow::Reject)), Ok(0), "keys do not mix");
    }

    #[test]
    fn a_retry_after_the_time_named_passes() {
        let limit = LeakyBucket::new(LeakyRule { rate: 0.5, burst: 0.0 }, 16);
        let now = Instant::now();
        assert_eq!(millis(limit.incoming(b"a", now, Overflow::Reject)), Ok(0));
        let rejected = limit.incoming(b"a", now, Overflow::Reject).unwrap_err();
        assert_eq!(rejected.retry_after, Duration::from_secs(2));
        assert!(limit.incoming(b"a", now + rejected.retry_after, Overflow::Reject).is_ok());
    }

    #[test]
    fn delaying_in_place_of_rejecting_is_bounded() {
        let limit = LeakyBucket::new(LeakyRule { rate: 10.0, burst: 0.0 }, 16);
        let now = Instant::now();
        let most = Duration::from_secs(1);
        for _ in 0..100 {
            assert!(limit.incoming(b"a", now, Overflow::Delay(most)).unwrap() <= most);
        }
        assert_eq!(limit.incoming(b"a", now, Overflow::Delay(most)), Ok(most));
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_changes_nothing() {
        let limit = LeakyBucket::new(LeakyRule { rate: 1.0, burst: 5.0 }, 16);
        let now = Instant::now() + Duration::from_secs(60);
        assert_eq!(millis(limit.incoming(b"a", now, Overflow::Reject)), Ok(0));
        assert_eq!(millis(limit.incoming(b"a", now - Duration::from_secs(30), Overflow::Reject)), Ok(1000));
    }
}
