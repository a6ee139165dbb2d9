//! Consistent hashing: points of the nodes on a ring.

/// Points of a node for each unit of weight, as APISIX has.
const POINTS: u64 = 160;

/// Points on a ring at most, unless the nodes are so many that one point each
/// needs more. Beyond it every node keeps the first half (quarter, …) of its
/// points, so that adding a node still moves little.
const POINTS_MAX: u64 = 1 << 16;

/// A ring of points; a key belongs to the node of the next point.
#[derive(Debug)]
pub(in crate::upstream) struct Ring {
    points: Box<[(u32, u16)]>,
    nodes: usize,
}

impl Ring {
    /// A ring over nodes by name and weight. The same names and weights make
    /// the same ring on every gateway, whatever their order.
    pub(in crate::upstream) fn new(nodes: &[(&str, u32)]) -> Self {
        let wanted: u64 = nodes.iter().map(|(_, weight)| u64::from(*weight) * POINTS).sum();
        let mut halvings = 0;
        while wanted >> halvings > POINTS_MAX {
            halvings += 1;
        }
        let mut points = Vec::new();
        for (index, (name, weight)) in nodes.iter().enumerate() {
            let base = hash_bytes(name.as_bytes());
            let count = ((u64::from(*weight) * POINTS) >> halvings).max(1);
            points.extend((0..count).map(|step| (point(base, step), index as u16, *name)));
        }
        // Equal points are ordered by name, not by place in the list.
        points.sort_unstable_by(|a, b| (a.0, a.2).cmp(&(b.0, b.2)));
        Self { points: points.into_iter().map(|(at, node, _)| (at, node)).collect(), nodes: nodes.len() }
    }

    pub(in crate::upstream) fn find(&self, hash: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let at = (super::mix(hash) >> 32) as u32;
        let start = self.points.partition_point(|(point, _)| *point < at);
        let mut from_start = (0..self.points.len()).map(|step| {
            let place = (start + step) % self.points.len();
            usize::from(self.points[place].1)
        });
        let own = from_start.next()?;
        if usable(own) {
            return Some(own);
        }
        // Walking a ring on which nothing can be used would be long.
        (0..self.nodes).any(&usable).then(|| from_start.find(|node| usable(*node))).flatten()
    }
}

fn point(base: u64, step: u64) -> u32 {
    (super::mix(base ^ super::mix(step.wrapping_add(1))) >> 32) as u32
}

/// A hash that is the same on every machine and in every version (FNV-1a).
pub(in crate::upstream) fn hash_bytes(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners<'a>(nodes: &[(&'a str, u32)]) -> Vec<&'a str> {
        let ring = Ring::new(nodes);
        let key = |index: u32| hash_bytes(format!("user-{index}").as_bytes());
        (0..10_000).map(|index| nodes[ring.find(key(index), |_| true).unwrap()].0).collect()
    }

    fn share(owners: &[&str], name: &str) -> usize {
        owners.iter().filter(|owner| **owner == name).count()
    }

    #[test]
    fn keys_spread_by_weight() {
        let owners = owners(&[("a:1", 1), ("b:1", 1), ("c:1", 2)]);
        for (name, expected) in [("a:1", 2500), ("b:1", 2500), ("c:1", 5000)] {
            let found = share(&owners, name);
            assert!(found.abs_diff(expected) < 700, "{name}: {found}");
        }
    }

    #[test]
    fn a_node_that_leaves_moves_only_its_own_keys() {
        let before = owners(&[("a:1", 1), ("b:1", 1), ("c:1", 1), ("d:1", 1)]);
        let after = owners(&[("a:1", 1), ("b:1", 1), ("d:1", 1)]);
        for (old, new) in before.iter().zip(&after) {
            assert!(old == new || *old == "c:1", "{old} moved to {new}");
        }
    }

    #[test]
    fn a_node_that_comes_takes_keys_and_moves_no_others() {
        let before = owners(&[("a:1", 100), ("b:1", 100)]);
        let after = owners(&[("c:1", 100), ("b:1", 100), ("a:1", 100)]);
        let moved = before.iter().zip(&after).filter(|(old, new)| old != new).count();
        assert!(before.iter().zip(&after).all(|(old, new)| old == new || *new == "c:1"));
        assert!((2500..4200).contains(&moved), "{moved}");
    }

    #[test]
    fn a_node_that_is_down_spreads_its_keys_over_the_others() {
        let nodes = [("a:1", 1), ("b:1", 1), ("c:1", 1)];
        let ring = Ring::new(&nodes);
        let mut counts = [0; 3];
        for index in 0..3000_u32 {
            let hash = hash_bytes(&index.to_be_bytes());
            let own = ring.find(hash, |_| true).unwrap();
            let other = ring.find(hash, |node| node != 0).unwrap();
            assert!(own == 0 || own == other);
            counts[other] += 1;
        }
        assert_eq!(counts[0], 0);
        assert!(counts[1] > 1000 && counts[2] > 1000, "{counts:?}");
        assert_eq!(ring.find(1, |_| false), None);
    }

    #[test]
    fn huge_weights_make_a_bounded_ring() {
        let ring = Ring::new(&[("a:1", u32::MAX), ("b:1", u32::MAX), ("c:1", 1)]);
        assert!(ring.points.len() as u64 <= POINTS_MAX + 3);
        assert!(Ring::new(&[]).find(1, |_| true).is_none());
    }
}
