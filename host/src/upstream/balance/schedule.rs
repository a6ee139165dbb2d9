//! Weighted turns: the order of a whole round, worked out once.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Turns in a round at most, for nodes that are not too many; weights that
/// would need more are rounded to fit, which shifts a share by less than 0.1 %
/// of the whole for each node.
const TURNS_MAX: u64 = 4096;

/// A round of turns, each node as often as its weight says and spread evenly.
#[derive(Debug)]
pub(in crate::upstream) struct Schedule {
    turns: Box<[u16]>,
    nodes: usize,
    cursor: AtomicUsize,
}

impl Schedule {
    pub(in crate::upstream) fn new(weights: impl Iterator<Item = u32>) -> Self {
        let weights = reduced(weights.map(u64::from).collect());
        let mut turns: Vec<(f64, u16)> = Vec::with_capacity(weights.iter().sum::<u64>() as usize);
        for (node, weight) in weights.iter().enumerate() {
            // Each node's turns lie evenly over the round; sorted together they
            // interleave as smooth weighted round robin does.
            let turn = |step: u64| (step as f64 + 0.5) / *weight as f64;
            turns.extend((0..*weight).map(|step| (turn(step), node as u16)));
        }
        turns.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let turns = turns.into_iter().map(|(_, node)| node).collect();
        Self { turns, nodes: weights.len(), cursor: AtomicUsize::new(0) }
    }

    pub(in crate::upstream) fn next(&self, usable: impl Fn(usize) -> bool) -> Option<usize> {
        if self.turns.is_empty() {
            return None;
        }
        // Passing over a node takes its turn too, so the others keep their
        // proportions among themselves over a whole round.
        for _ in 0..self.turns.len().min(64) {
            let turn = self.cursor.fetch_add(1, Ordering::Relaxed) % self.turns.len();
            let node = usize::from(self.turns[turn]);
            if usable(node) {
                return Some(node);
            }
        }
        // Almost nothing can be used: look at each node once.
        let start = self.cursor.fetch_add(1, Ordering::Relaxed);
        (0..self.nodes).map(|step| (start + step) % self.nodes).find(|node| usable(*node))
    }
}

/// The weights divided by what they have in common, and scaled to fit a round.
fn reduced(mut weights: Vec<u64>) -> Vec<u64> {
    let common = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
    weights.iter_mut().for_each(|weight| *weight /= common);
    let sum: u64 = weights.iter().sum();
    let turns_max = TURNS_MAX.max(4 * weights.len() as u64);
    if sum > turns_max {
        for weight in &mut weights {
            let exact = u128::from(*weight) * u128::from(turns_max) / u128::from(sum);
            *weight = (exact as u64).max(1);
        }
    }
    weights
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(weights: &[u32], picks: usize) -> Vec<usize> {
        let schedule = Schedule::new(weights.iter().copied());
        (0..picks).map(|_| schedule.next(|_| true).unwrap()).collect()
    }

    fn counts(picks: &[usize], nodes: usize) -> Vec<usize> {
        let mut counts = vec![0; nodes];
        picks.iter().for_each(|node| counts[*node] += 1);
        counts
    }

    #[test]
    fn a_round_gives_each_node_its_weight() {
        assert_eq!(counts(&round(&[5, 1, 1], 7), 3), [5, 1, 1]);
        assert_eq!(counts(&round(&[100, 50], 150), 2), [100, 50]);
        assert_eq!(round(&[1, 1, 1], 6), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn turns_of_a_heavy_node_are_spread() {
        let picks = round(&[4, 2], 60);
        let longest = picks.chunk_by(|a, b| a == b).map(<[usize]>::len).max();
        assert_eq!(longest, Some(2));
    }

    #[test]
    fn huge_weights_keep_their_proportion() {
        let picks = round(&[u32::MAX, u32::MAX / 3, 1], 4096);
        let counts = counts(&picks, 3);
        assert!((3000..=3100).contains(&counts[0]), "{counts:?}");
        assert!(counts[2] >= 1);
    }

    #[test]
    fn what_cannot_be_used_leaves_the_others_their_shares() {
        let schedule = Schedule::new([1, 1, 1, 3].into_iter());
        let picks: Vec<_> = (0..300).map(|_| schedule.next(|node| node != 1).unwrap()).collect();
        let counts = counts(&picks, 4);
        assert_eq!(counts[1], 0);
        assert!((55..=65).contains(&counts[0]) && (55..=65).contains(&counts[2]), "{counts:?}");
        assert!((175..=185).contains(&counts[3]), "{counts:?}");
    }

    #[test]
    fn the_last_usable_of_many_is_found() {
        let schedule = Schedule::new((0..5000).map(|_| 1));
        assert_eq!(schedule.next(|node| node == 4321), Some(4321));
        assert_eq!(schedule.next(|_| false), None);
        assert_eq!(Schedule::new(std::iter::empty()).next(|_| true), None);
    }
}
