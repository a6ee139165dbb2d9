//! A persistent radix tree over bytes.
//!
//! Nodes are shared between the clones of a tree; an edit copies the nodes from
//! the root to the place it changes and nothing else.

use std::sync::Arc;

use smallvec::SmallVec;

/// What a node holds. A value that is empty takes no place in the tree.
pub(super) trait Slot: Clone + Default {
    /// Whether nothing is left in it.
    fn is_empty(&self) -> bool;
}

#[derive(Debug, Clone)]
struct Node<V> {
    /// The bytes between the parent and this node.
    prefix: Box<[u8]>,
    value: V,
    /// Sorted by the first byte of each child's prefix.
    children: Vec<(u8, Arc<Node<V>>)>,
}

/// The tree.
#[derive(Debug, Clone)]
pub(super) struct Tree<V> {
    root: Arc<Node<V>>,
}

impl<V: Slot> Default for Tree<V> {
    fn default() -> Self {
        Self { root: Arc::new(Node { prefix: Box::default(), value: V::default(), children: Vec::new() }) }
    }
}

/// The places on the way of a look-up that hold something, the nearest to the
/// root first, each with the number of bytes that lead to it.
pub(super) type Trail<'t, V> = SmallVec<[(&'t V, usize); 16]>;

impl<V: Slot> Tree<V> {
    /// Lets `edit` change what is held under `key`; it starts from an empty
    /// value when there is none.
    pub(super) fn edit(&mut self, key: &[u8], edit: impl FnOnce(&mut V)) {
        Arc::make_mut(&mut self.root).edit(key, edit);
    }

    /// Whether it holds nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.root.value.is_empty() && self.root.children.is_empty()
    }

    /// What is held under exactly `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<&V> {
        let mut node = &*self.root;
        let mut rest = key;
        while let Some(first) = rest.first() {
            node = node.child(*first)?;
            rest = rest.strip_prefix(&*node.prefix)?;
        }
        (!node.value.is_empty()).then_some(&node.value)
    }

    /// Everything held under a prefix of the key, whose bytes are asked for one
    /// by one so that the key need not exist in one piece.
    pub(super) fn trail(&self, length: usize, byte: impl Fn(usize) -> u8) -> Trail<'_, V> {
        let mut trail = Trail::new();
        let mut node = &*self.root;
        let mut depth = 0;
        loop {
            if !node.value.is_empty() {
                trail.push((&node.value, depth));
            }
            if depth == length {
                return trail;
            }
            let Some(child) = node.child(byte(depth)) else { return trail };
            let end = depth + child.prefix.len();
            // The first byte led here.
            let is_on_the_way = end <= length
                && child.prefix.iter().enumerate().skip(1).all(|(i, own)| *own == byte(depth + i));
            if !is_on_the_way {
                return trail;
            }
            depth = end;
            node = child;
        }
    }

    /// Calls `visit` with everything that is held.
    pub(super) fn each<'t>(&'t self, visit: &mut impl FnMut(&'t V)) {
        self.root.each(visit);
    }
}

impl<V: Slot> Node<V> {
    fn leaf(prefix: &[u8], value: V) -> Self {
        Self { prefix: prefix.into(), value, children: Vec::new() }
    }

    fn place(&self, first: u8) -> Result<usize, usize> {
        self.children.binary_search_by_key(&first, |child| child.0)
    }

    fn child(&self, first: u8) -> Option<&Self> {
        self.place(first).ok().map(|index| &*self.children[index].1)
    }

    fn edit(&mut self, key: &[u8], edit: impl FnOnce(&mut V)) {
        let Some(&first) = key.first() else { return edit(&mut self.value) };
        let index = match self.place(first) {
            Ok(index) => index,
            Err(index) => {
                let mut value = V::default();
                edit(&mut value);
                if !value.is_empty() {
                    self.children.insert(index, (first, Arc::new(Self::leaf(key, value))));
                }
                return;
            }
        };
        let child = Arc::make_mut(&mut self.children[index].1);
        let common = child.prefix.iter().zip(key).take_while(|(a, b)| a == b).count();
        if common < child.prefix.len() {
            child.split(common);
        }
        child.edit(&key[common..], edit);
        if child.value.is_empty() {
            match child.children.len() {
                0 => drop(self.children.remove(index)),
                1 => child.join(),
                _ => {}
            }
        }
    }

    /// Puts a node of its own between the parent and this one.
    fn split(&mut self, at: usize) {
        let upper = Self::leaf(&self.prefix[..at], V::default());
        let mut lower = std::mem::replace(self, upper);
        lower.prefix = lower.prefix[at..].into();
        self.children.push((lower.prefix[0], Arc::new(lower)));
    }

    /// Takes the place of the only child.
    fn join(&mut self) {
        let Some((_, child)) = self.children.pop() else { return };
        let child = Arc::unwrap_or_clone(child);
        self.prefix = [&*self.prefix, &*child.prefix].concat().into();
        self.value = child.value;
        self.children = child.children;
    }

    fn each<'t>(&'t self, visit: &mut impl FnMut(&'t V)) {
        if !self.value.is_empty() {
            visit(&self.value);
        }
        for (_, child) in &self.children {
            child.each(visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Default, PartialEq)]
    struct Cell(Option<u32>);

    impl Slot for Cell {
        fn is_empty(&self) -> bool {
            self.0.is_none()
        }
    }

    fn shared_nodes(a: &Arc<Node<Cell>>, b: &Arc<Node<Cell>>) -> (usize, usize) {
        if Arc::ptr_eq(a, b) {
            return (0, 1);
        }
        let mut count = (1, 0);
        for (first, child) in &b.children {
            match a.place(*first) {
                Ok(index) => {
                    let below = shared_nodes(&a.children[index].1, child);
                    count = (count.0 + below.0, count.1 + below.1);
                }
                Err(_) => count.0 += 1,
            }
        }
        count
    }

    #[test]
    fn a_changed_key_copies_only_the_nodes_on_its_way() {
        let mut tree = Tree::<Cell>::default();
        for index in 0..10_000_u32 {
            tree.edit(format!("/service/{index:05}/items").as_bytes(), |cell| cell.0 = Some(index));
        }
        let mut next = tree.clone();
        next.edit(b"/service/04711/items", |cell| cell.0 = Some(0));
        let (copied, _) = shared_nodes(&tree.root, &next.root);
        assert!(copied <= 7, "{copied} nodes were copied for one change");
        assert_eq!(tree.get(b"/service/04711/items"), Some(&Cell(Some(4711))), "the old clone is as it was");
        assert_eq!(next.get(b"/service/04711/items"), Some(&Cell(Some(0))));
    }

    #[test]
    fn removing_everything_leaves_a_bare_root() {
        let mut tree = Tree::<Cell>::default();
        let keys = ["/", "/a", "/ab", "/abc", "/abd", "/b", "", "/abcde"];
        for (index, key) in keys.iter().enumerate() {
            tree.edit(key.as_bytes(), |cell| cell.0 = Some(index as u32));
        }
        for (index, key) in keys.iter().enumerate() {
            assert_eq!(tree.get(key.as_bytes()), Some(&Cell(Some(index as u32))));
            tree.edit(key.as_bytes(), |cell| cell.0 = None);
            assert_eq!(tree.get(key.as_bytes()), None);
        }
        assert!(tree.root.children.is_empty());
    }

    #[test]
    fn a_trail_names_every_prefix_that_is_held() {
        let mut tree = Tree::<Cell>::default();
        for (index, key) in ["/", "/foo", "/foo/bar", "/fox", "/foo/barn"].iter().enumerate() {
            tree.edit(key.as_bytes(), |cell| cell.0 = Some(index as u32));
        }
        let key = b"/foo/bar/x";
        let trail: Vec<_> =
            tree.trail(key.len(), |i| key[i]).iter().map(|(cell, at)| (cell.0, *at)).collect();
        assert_eq!(trail, [(Some(0), 1), (Some(1), 4), (Some(2), 8)]);
    }
}
