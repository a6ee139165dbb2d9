//! Limits on how many are there at once, as lua-resty-limit-conn has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::table::{Keep, Table};

/// How many may be there at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConcurrencyRule {
    /// Let in at once; at least 1.
    pub most: u32,
    /// Let in beyond that, delayed.
    pub burst: u32,
    /// The unit of delay to begin with; more than zero.
    pub default_delay: Duration,
    /// Whether the unit follows the latency seen, or stays.
    pub adapts: bool,
}

/// The longest delay given, whatever the latencies were.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// A number for each key.
#[derive(Debug)]
pub struct Concurrency {
    rule: ConcurrencyRule,
    /// The unit of delay in microseconds: half the old one and half the latency
    /// of whoever left last.
    unit_micros: AtomicU64,
    table: Table<u32>,
}

impl Concurrency {
    /// Numbers by this rule, for at most `keys_max` keys at once.
    #[must_use]
    pub fn new(rule: ConcurrencyRule, keys_max: usize) -> Self {
        let micros = u64::try_from(rule.default_delay.as_micros()).unwrap_or(u64::MAX);
        Self { rule, unit_micros: AtomicU64::new(micros), table: Table::new(keys_max) }
    }

    /// Takes one in: its slot, and how long it has to wait. `None` when `most`
    /// and `burst` are used up.
    #[must_use]
    pub fn enter(self: &Arc<Self>, key: &[u8]) -> Option<(ConcurrencySlot, Duration)> {
        let bound = self.rule.most.saturating_add(self.rule.burst);
        let count = self.table.with(
            key,
            || 0,
            |count| *count == 0,
            |count| {
                if *count >= bound {
                    return (Keep::Yes, None);
                }
                *count += 1;
                (Keep::Yes, Some(*count))
            },
        )?;
        let slot = ConcurrencySlot { owner: Arc::clone(self), key: key.into(), is_held: true };
        if count <= self.rule.most {
            return Some((slot, Duration::ZERO));
        }
        let unit = Duration::from_micros(self.unit_micros.load(Ordering::Relaxed));
        let delay = unit.saturating_mul((count - 1) / self.rule.most).min(DELAY_MAX);
        Some((slot, delay))
    }

    /// Number of keys with someone there.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.table.len()
    }

    fn leave(&self, key: &[u8], latency: Option<Duration>) {
        self.table.with_existing(key, |count| {
            *count = count.saturating_sub(1);
            if *count == 0 { Keep::No } else { Keep::Yes }
        });
        if let Some(latency) = latency
            && self.rule.adapts
        {
            let latency = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX) / 2;
            // A lost update costs one sample of an average.
            let old = self.unit_micros.load(Ordering::Relaxed);
            self.unit_micros.store((old / 2).saturating_add(latency), Ordering::Relaxed);
        }
    }
}

/// One that is there. Gives its place back when it goes.
#[derive(Debug)]
pub struct ConcurrencySlot {
    owner: Arc<Concurrency>,
    key: Box<[u8]>,
    is_held: bool,
}

impl ConcurrencySlot {
    /// Gives the place back and tells how long it was needed.
    pub fn leave(mut self, latency: Option<Duration>) {
        self.is_held = false;
        self.owner.leave(&self.key, latency);
    }
}

impl Drop for ConcurrencySlot {
    fn drop(&mut self) {
        if self.is_held {
            self.owner.leave(&self.key, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(adapts: bool) -> Arc<Concurrency> {
        let rule = ConcurrencyRule { most: 2, burst: 3, default_delay: Duration::from_millis(100), adapts };
        Arc::new(Concurrency::new(rule, 16))
    }

    #[test]
    fn those_beyond_the_number_wait_and_those_beyond_the_burst_are_refused() {
        let limit = limit(false);
        let mut held = Vec::new();
        for expected in [0, 0, 100, 100, 200] {
            let (slot, delay) = limit.enter(b"a").unwrap();
            assert_eq!(delay, Duration::from_millis(expected));
            held.push(slot);
        }
        assert!(limit.enter(b"a").is_none());
        assert!(limit.enter(b"b").is_some(), "keys do not mix");
        held.pop();
        assert!(limit.enter(b"a").is_some());
        held.clear();
        assert_eq!(limit.keys(), 0, "no one there, nothing remembered");
    }

    #[test]
    fn the_delay_follows_the_latency_unless_told_not_to() {
        for (adapts, expected) in [(true, 250), (false, 100)] {
            let limit = limit(adapts);
            let (first, _) = limit.enter(b"a").unwrap();
            first.leave(Some(Duration::from_millis(400)));
            let _held = [limit.enter(b"a").unwrap(), limit.enter(b"a").unwrap()];
            let (_, delay) = limit.enter(b"a").unwrap();
            assert_eq!(delay, Duration::from_millis(expected));
        }
    }
}
