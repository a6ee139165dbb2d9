//! State that belongs to one exchange.

use std::collections::{HashMap, VecDeque};

/// Names one request and its response, for all calls about it. Unique on a node
/// while the exchange lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeId(pub u64);

/// Values by exchange, at most so many.
///
/// A plugin is not told that an exchange was broken off, so values may be left
/// behind: past the limit the oldest one is dropped.
///
/// ```
/// use sluice_sdk::{ExchangeId, Exchanges};
///
/// let mut seen = Exchanges::new(2);
/// seen.insert(ExchangeId(1), "one");
/// seen.insert(ExchangeId(2), "two");
/// seen.insert(ExchangeId(3), "three");
/// assert_eq!(seen.get_mut(ExchangeId(1)), None);
/// assert_eq!(seen.remove(ExchangeId(3)), Some("three"));
/// ```
#[derive(Debug)]
pub struct Exchanges<T> {
    values: HashMap<ExchangeId, T>,
    /// In the order in which they came; may name exchanges that are gone.
    order: VecDeque<ExchangeId>,
    entries_max: usize,
}

impl<T> Exchanges<T> {
    /// Room for `entries_max` exchanges, at least one. As many calls as the
    /// module's limit `concurrency` allows can be under way at once.
    #[must_use]
    pub fn new(entries_max: usize) -> Self {
        Self { values: HashMap::new(), order: VecDeque::new(), entries_max: entries_max.max(1) }
    }

    /// Keeps `value` for the exchange, in place of the one before.
    pub fn insert(&mut self, exchange: ExchangeId, value: T) {
        if self.values.insert(exchange, value).is_some() {
            return;
        }
        self.order.push_back(exchange);
        while self.values.len() > self.entries_max {
            match self.order.pop_front() {
                Some(oldest) => self.values.remove(&oldest),
                None => break,
            };
        }
        if self.order.len() > 2 * self.entries_max {
            self.order.retain(|exchange| self.values.contains_key(exchange));
        }
    }

    /// The value of the exchange.
    pub fn get_mut(&mut self, exchange: ExchangeId) -> Option<&mut T> {
        self.values.get_mut(&exchange)
    }

    /// Takes the value of the exchange away, as one does at the message's end.
    pub fn remove(&mut self, exchange: ExchangeId) -> Option<T> {
        self.values.remove(&exchange)
    }

    /// How many exchanges have a value.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether none has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_does_not_grow_with_exchanges_that_come_and_go() {
        let mut exchanges = Exchanges::new(4);
        for id in 0..1000 {
            exchanges.insert(ExchangeId(id), ());
            exchanges.remove(ExchangeId(id));
        }
        assert!(exchanges.is_empty());
        assert!(exchanges.order.len() <= 9, "{}", exchanges.order.len());
    }

    #[test]
    fn an_exchange_that_comes_again_takes_no_second_place() {
        let mut exchanges = Exchanges::new(2);
        for _ in 0..3 {
            exchanges.insert(ExchangeId(1), 1);
        }
        exchanges.insert(ExchangeId(2), 2);
        assert_eq!(exchanges.len(), 2);
        assert_eq!(exchanges.get_mut(ExchangeId(1)), Some(&mut 1));
    }
}
