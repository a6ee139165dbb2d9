//! Counters that one thread writes and another reads.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Adds to a counter only the calling thread writes: a load and a store, which
/// cost a fraction of an atomic addition.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// Reads a counter.
pub(super) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

/// `N` counters for each of a few numeric keys (status codes, commands); at most
/// `SLOTS` keys, the rest share one row. Written by one thread.
#[derive(Debug)]
pub(super) struct Table<const SLOTS: usize, const N: usize> {
    rows: [Row<N>; SLOTS],
    other: [AtomicU64; N],
}

#[derive(Debug)]
struct Row<const N: usize> {
    /// The key plus one; 0 is an empty row.
    key: AtomicU64,
    counters: [AtomicU64; N],
}

impl<const SLOTS: usize, const N: usize> Default for Table<SLOTS, N> {
    fn default() -> Self {
        let counters = || std::array::from_fn(|_| AtomicU64::new(0));
        Self {
            rows: std::array::from_fn(|_| Row { key: AtomicU64::new(0), counters: counters() }),
            other: counters(),
        }
    }
}

impl<const SLOTS: usize, const N: usize> Table<SLOTS, N> {
    /// The counters of `key`.
    pub(super) fn row(&self, key: u32) -> &[AtomicU64; N] {
        let wanted = u64::from(key) + 1;
        let start = key as usize % SLOTS;
        for step in 0..SLOTS {
            let row = &self.rows[(start + step) % SLOTS];
            match row.key.load(Relaxed) {
                found if found == wanted => return &row.counters,
                0 => {
                    row.key.store(wanted, Relaxed);
                    return &row.counters;
                }
                _ => {}
            }
        }
        &self.other
    }

    /// Every key in use with its counters' values; `None` is the shared row.
    pub(super) fn each(&self, mut visit: impl FnMut(Option<u32>, [u64; N])) {
        let values = |counters: &[AtomicU64; N]| std::array::from_fn(|index| read(&counters[index]));
        for row in &self.rows {
            if let Some(key) = read(&row.key).checked_sub(1) {
                visit(Some(key as u32), values(&row.counters));
            }
        }
        let other: [u64; N] = values(&self.other);
        if other.iter().any(|value| *value > 0) {
            visit(None, other);
        }
    }
}

/// A list that one thread appends to and others read: entries never move.
#[derive(Debug)]
pub(super) struct Chain<T> {
    first: OnceLock<Box<Link<T>>>,
}

#[derive(Debug)]
struct Link<T> {
    value: T,
    next: OnceLock<Box<Link<T>>>,
}

impl<T> Default for Chain<T> {
    fn default() -> Self {
        Self { first: OnceLock::new() }
    }
}

impl<T> Chain<T> {
    /// The first entry `is` says yes to, or one more made by `make` as long as
    /// there are fewer than `max`; beyond that the last.
    pub(super) fn find(&self, max: usize, is: impl Fn(&T) -> bool, make: impl Fn(bool) -> T) -> &T {
        let mut slot = &self.first;
        for position in 0.. {
            let last = position + 1 >= max;
            let link = slot.get_or_init(|| Box::new(Link { value: make(last), next: OnceLock::new() }));
            if last || is(&link.value) {
                return &link.value;
            }
            slot = &link.next;
        }
        unreachable!("the loop ends at `max` entries")
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        std::iter::successors(self.first.get(), |link| link.next.get()).map(|link| &link.value)
    }
}

impl<T> Drop for Chain<T> {
    // One by one: dropping the first link would recurse once a link.
    fn drop(&mut self) {
        let mut next = self.first.take();
        while let Some(mut link) = next {
            next = link.next.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_counts_by_key_and_shares_a_row_when_full() {
        let table = Table::<4, 2>::default();
        for key in [200, 204, 404, 0, u32::MAX, 500, 200] {
            add(&table.row(key)[0], 1);
        }
        let mut seen = Vec::new();
        table.each(|key, values| seen.push((key, values)));
        seen.sort();
        let expected = [
            (None, [2, 0]),
            (Some(0), [1, 0]),
            (Some(200), [2, 0]),
            (Some(204), [1, 0]),
            (Some(404), [1, 0]),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_chain_is_bounded_and_ends_in_the_shared_entry() {
        let chain = Chain::<(Option<u32>, AtomicU64)>::default();
        for key in [1, 2, 1, 3, 4] {
            let entry =
                chain.find(3, |e| e.0 == Some(key), |last| ((!last).then_some(key), AtomicU64::new(0)));
            add(&entry.1, 1);
        }
        let seen: Vec<_> = chain.iter().map(|(key, count)| (*key, read(count))).collect();
        assert_eq!(seen, [(Some(1), 2), (Some(2), 1), (None, 2)]);
    }
}
