//! Choices by comparison: the better of two, the least of all.

use std::sync::atomic::{AtomicU64, Ordering};

/// Nodes up to which `least_conn` looks at all of them; above, at this many
/// picked by chance, which is as good for all that can be measured.
const LOOKED_AT: usize = 64;

/// Compares nodes by their cost.
#[derive(Debug)]
pub(in crate::upstream) struct Choice {
    nodes: usize,
    cursor: AtomicU64,
}

impl Choice {
    pub(in crate::upstream) fn new(nodes: usize) -> Self {
        Self { nodes, cursor: AtomicU64::new(0) }
    }

    fn chance(&self) -> u64 {
        mix(self.cursor.fetch_add(1, Ordering::Relaxed))
    }

    /// The cheaper of two picked by chance.
    pub(in crate::upstream) fn better_of_two(
        &self,
        usable: impl Fn(usize) -> bool,
        cost: impl Fn(usize) -> f64,
    ) -> Option<usize> {
        let count = self.nodes as u64;
        if count == 0 {
            return None;
        }
        let chance = self.chance();
        let first = self.first_usable((chance % count) as usize, &usable)?;
        // A second one that differs, where there is one: start past the first.
        let offset = 1 + (chance >> 32) % count.max(2).wrapping_sub(1).max(1);
        let second =
            self.first_usable((first + offset as usize) % self.nodes, |node| node != first && usable(node));
        match second {
            Some(second) if cost(second) < cost(first) => Some(second),
            _ => Some(first),
        }
    }

    /// The cheapest; among equals by chance.
    pub(in crate::upstream) fn least(
        &self,
        usable: impl Fn(usize) -> bool,
        cost: impl Fn(usize) -> f64,
    ) -> Option<usize> {
        if self.nodes == 0 {
            return None;
        }
        let start = (self.chance() % self.nodes as u64) as usize;
        let mut best: Option<(usize, f64)> = None;
        for node in (0..self.nodes.min(LOOKED_AT)).map(|step| (start + step) % self.nodes) {
            if usable(node) {
                let own = cost(node);
                if best.is_none_or(|(_, least)| own < least) {
                    best = Some((node, own));
                }
            }
        }
        best.map(|(node, _)| node).or_else(|| self.first_usable(start, usable))
    }

    fn first_usable(&self, start: usize, usable: impl Fn(usize) -> bool) -> Option<usize> {
        (0..self.nodes).map(|step| (start + step) % self.nodes).find(|node| usable(*node))
    }
}

/// Spreads the bits of a counter or hash (the finisher of SplitMix64).
pub(in crate::upstream) fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_the_cheaper_is_taken() {
        let choice = Choice::new(2);
        assert!((0..100).all(|_| choice.better_of_two(|_| true, |node| node as f64) == Some(0)));
        assert_eq!(choice.better_of_two(|node| node == 1, |node| node as f64), Some(1));
        assert_eq!(choice.better_of_two(|_| false, |_| 0.0), None);
        assert_eq!(Choice::new(1).better_of_two(|_| true, |_| 0.0), Some(0));
        assert_eq!(Choice::new(0).better_of_two(|_| true, |_| 0.0), None);
    }

    #[test]
    fn the_dearest_of_many_is_never_the_better_of_two() {
        let choice = Choice::new(5);
        let mut counts = [0; 5];
        for _ in 0..5000 {
            counts[choice.better_of_two(|_| true, |node| node as f64).unwrap()] += 1;
        }
        assert_eq!(counts[4], 0);
        assert!(counts[0] > counts[1] && counts[1] > counts[2] && counts[2] > counts[3], "{counts:?}");
    }

    #[test]
    fn the_least_is_found_and_equals_take_turns() {
        let choice = Choice::new(4);
        assert_eq!(choice.least(|_| true, |node| if node == 2 { 0.0 } else { 1.0 }), Some(2));
        let mut counts = [0; 4];
        (0..4000).for_each(|_| counts[choice.least(|_| true, |_| 1.0).unwrap()] += 1);
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        let many = Choice::new(1000);
        assert_eq!(many.least(|node| node == 777, |_| 1.0), Some(777));
    }
}
