//! Counting in windows of time, as APISIX's limit-count does.

use std::time::{Duration, Instant};

use super::Rejected;
use super::table::{Keep, Table};

/// How many in which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowRule {
    /// Requests in one window; at least 1.
    pub count: u64,
    /// Length of a window; more than zero.
    pub window: Duration,
}

/// What is left of a window, for the headers that tell the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Requests still allowed.
    pub remaining: u64,
    /// Time until the window ends.
    pub reset: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    used: u64,
    ends: Instant,
}

/// A count for each key. A window begins with a key's first request and is
/// fixed; when it has ended the next request begins a new one.
#[derive(Debug)]
pub struct WindowCount {
    table: Table<Option<Window>>,
}

impl WindowCount {
    /// Counts for at most `keys_max` keys.
    #[must_use]
    pub fn new(keys_max: usize) -> Self {
        Self { table: Table::new(keys_max) }
    }

    /// Counts one request. The rule comes with each call: it may hold variables.
    ///
    /// # Errors
    /// The window is used up.
    pub fn incoming(&self, key: &[u8], rule: WindowRule, now: Instant) -> Result<Quota, Rejected> {
        let is_idle = |window: &Option<Window>| window.as_ref().is_none_or(|window| window.ends <= now);
        self.table.with(
            key,
            || None,
            is_idle,
            |window| {
                let fresh = Window { used: 0, ends: now + rule.window };
                let window = match window {
                    Some(current) if current.ends > now => current,
                    window => window.insert(fresh),
                };
                let reset = window.ends.saturating_duration_since(now);
                if window.used >= rule.count {
                    return (Keep::Yes, Err(Rejected { retry_after: reset }));
                }
                window.used += 1;
                (Keep::Yes, Ok(Quota { remaining: rule.count - window.used, reset }))
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

    #[test]
    fn a_window_counts_down_and_begins_anew() {
        let limit = WindowCount::new(16);
        let rule = WindowRule { count: 2, window: Duration::from_secs(10) };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let quota = |remaining, reset| Ok(Quota { remaining, reset: Duration::from_secs(reset) });
        let rejected = |after| Err(Rejected { retry_after: Duration::from_secs(after) });
        assert_eq!(limit.incoming(b"a", rule, at(0)), quota(1, 10));
        assert_eq!(limit.incoming(b"a", rule, at(3)), quota(0, 7));
        assert_eq!(limit.incoming(b"a", rule, at(4)), rejected(6));
        assert_eq!(limit.incoming(b"b", rule, at(4)), quota(1, 10));
        assert_eq!(limit.incoming(b"a", rule, at(10)), quota(1, 10));
    }

    #[test]
    fn a_lower_count_takes_effect_in_a_running_window() {
        let limit = WindowCount::new(16);
        let now = Instant::now();
        let window = Duration::from_secs(10);
        for _ in 0..5 {
            assert!(limit.incoming(b"a", WindowRule { count: 5, window }, now).is_ok());
        }
        assert!(limit.incoming(b"a", WindowRule { count: 2, window }, now).is_err());
        assert!(limit.incoming(b"a", WindowRule { count: 6, window }, now).is_ok());
    }
}
