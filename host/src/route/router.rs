//! The table of routes.

use std::fmt;
use std::sync::Arc;

use crate::message::{Params, Subject};

use super::matcher::RouteMatch;
use super::pattern::PathPattern;
use super::radix::{Slot, Tree};

/// A route in the table.
struct Entry<T> {
    key: Box<str>,
    rule: RouteMatch,
    value: T,
}

/// One path of a route, at its place in the tree.
struct Candidate<T> {
    entry: Arc<Entry<T>>,
    path: usize,
}

impl<T> Clone for Candidate<T> {
    fn clone(&self) -> Self {
        Self { entry: Arc::clone(&self.entry), path: self.path }
    }
}

impl<T> Candidate<T> {
    fn pattern(&self) -> &PathPattern {
        &self.entry.rule.paths[self.path]
    }

    /// What is tried first among the candidates of one place: the higher
    /// priority, then the longer pattern, then the smaller key, so that the
    /// order is the same however the table came about.
    fn rank(&self) -> (std::cmp::Reverse<i64>, std::cmp::Reverse<usize>, &str, usize) {
        let length = self.pattern().text().len();
        (std::cmp::Reverse(self.entry.rule.priority), std::cmp::Reverse(length), &self.entry.key, self.path)
    }
}

/// Candidates at one place of the path tree, in the order they are tried.
struct PathSlot<T> {
    exact: Vec<Candidate<T>>,
    open: Vec<Candidate<T>>,
}

impl<T> Default for PathSlot<T> {
    fn default() -> Self {
        Self { exact: Vec::new(), open: Vec::new() }
    }
}

impl<T> Clone for PathSlot<T> {
    fn clone(&self) -> Self {
        Self { exact: self.exact.clone(), open: self.open.clone() }
    }
}

impl<T> Slot for PathSlot<T> {
    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.open.is_empty()
    }
}

type Paths<T> = Tree<PathSlot<T>>;

/// The path trees of one host.
struct HostSlot<T> {
    exact: Option<Paths<T>>,
    wildcard: Option<Paths<T>>,
}

impl<T> Default for HostSlot<T> {
    fn default() -> Self {
        Self { exact: None, wildcard: None }
    }
}

impl<T> Clone for HostSlot<T> {
    fn clone(&self) -> Self {
        Self { exact: self.exact.clone(), wildcard: self.wildcard.clone() }
    }
}

impl<T> Slot for HostSlot<T> {
    fn is_empty(&self) -> bool {
        self.exact.is_none() && self.wildcard.is_none()
    }
}

/// The entries by their key.
struct KeySlot<T>(Option<Arc<Entry<T>>>);

impl<T> Default for KeySlot<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Clone for KeySlot<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Slot for KeySlot<T> {
    fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// The route found for a request.
#[derive(Debug)]
pub struct Found<'r, T> {
    /// What was inserted with the route.
    pub value: &'r T,
    /// The route's key.
    pub key: &'r str,
    /// The `uri` that matched, as it was written.
    pub uri: &'r str,
    /// What its parameters captured.
    pub params: Params,
}

/// The table of routes. Clones share everything until one is changed.
pub struct Router<T> {
    keys: Tree<KeySlot<T>>,
    hosts: Tree<HostSlot<T>>,
    anywhere: Paths<T>,
    len: usize,
}

impl<T> Clone for Router<T> {
    fn clone(&self) -> Self {
        Self {
            keys: self.keys.clone(),
            hosts: self.hosts.clone(),
            anywhere: self.anywhere.clone(),
            len: self.len,
        }
    }
}

impl<T> Default for Router<T> {
    fn default() -> Self {
        Self { keys: Tree::default(), hosts: Tree::default(), anywhere: Tree::default(), len: 0 }
    }
}

impl<T> fmt::Debug for Router<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("routes", &self.len).finish_non_exhaustive()
    }
}

impl<T> Router<T> {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of routes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is held under `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&T> {
        self.keys.get(key.as_bytes()).and_then(|slot| slot.0.as_deref()).map(|entry| &entry.value)
    }

    /// All routes, in the order of their keys.
    pub fn each<'r>(&'r self, mut visit: impl FnMut(&'r str, &'r T)) {
        self.keys.each(&mut |slot| {
            if let Some(entry) = slot.0.as_deref() {
                visit(&entry.key, &entry.value);
            }
        });
    }

    /// Puts a route in the table, in the place of one of the same key. Costs
    /// the length of its paths and hosts, whatever the size of the table.
    pub fn insert(&mut self, key: &str, rule: RouteMatch, value: T) {
        self.remove(key);
        let entry = Arc::new(Entry { key: key.into(), rule, value });
        self.keys.edit(key.as_bytes(), |slot| slot.0 = Some(Arc::clone(&entry)));
        self.len += 1;
        self.edit_places(&entry, |paths, candidate| {
            let is_exact = candidate.pattern().is_exact();
            let key: Box<[u8]> = candidate.pattern().key().into();
            paths.edit(&key, |slot| {
                let list = if is_exact { &mut slot.exact } else { &mut slot.open };
                let at = list.partition_point(|other| other.rank() < candidate.rank());
                list.insert(at, candidate);
            });
        });
    }

    /// Takes a route out; says whether there was one.
    pub fn remove(&mut self, key: &str) -> bool {
        let Some(entry) = self.keys.get(key.as_bytes()).and_then(|slot| slot.0.clone()) else { return false };
        self.keys.edit(key.as_bytes(), |slot| slot.0 = None);
        self.len -= 1;
        self.edit_places(&entry, |paths, candidate| {
            paths.edit(candidate.pattern().key(), |slot| {
                let is_other = |own: &Candidate<T>| !Arc::ptr_eq(&own.entry, &candidate.entry);
                slot.exact.retain(is_other);
                slot.open.retain(is_other);
            });
        });
        true
    }

    /// Visits every place where an entry stands or is to stand.
    fn edit_places(&mut self, entry: &Arc<Entry<T>>, mut edit: impl FnMut(&mut Paths<T>, Candidate<T>)) {
        let mut edit_paths = |paths: &mut Paths<T>| {
            for path in 0..entry.rule.paths.len() {
                edit(paths, Candidate { entry: Arc::clone(entry), path });
            }
        };
        if entry.rule.hosts.is_empty() {
            return edit_paths(&mut self.anywhere);
        }
        for host in &entry.rule.hosts {
            self.hosts.edit(&host.reversed, |slot| {
                let place = if host.is_wildcard { &mut slot.wildcard } else { &mut slot.exact };
                let mut paths = place.take().unwrap_or_default();
                edit_paths(&mut paths);
                *place = (!paths.is_empty()).then_some(paths);
            });
        }
    }

    /// The route for a request. Allocates nothing on a match without `vars`
    /// whose way through the tree has at most 16 places that hold routes.
    #[must_use]
    pub fn find<'r>(&'r self, subject: &Subject<'_>) -> Option<Found<'r, T>> {
        let request = subject.request?;
        let host = request.host_bytes();
        let host = host.strip_suffix(b".").unwrap_or(host);
        let length = host.len();
        if !self.hosts.is_empty() && length > 0 {
            let trail = self.hosts.trail(length, |i| host[length - 1 - i].to_ascii_lowercase());
            let exact =
                trail.last().filter(|(_, at)| *at == length).and_then(|(slot, _)| slot.exact.as_ref());
            let wildcards = trail.iter().rev().filter(|(_, at)| *at < length);
            let wildcards = wildcards.filter_map(|(slot, _)| slot.wildcard.as_ref());
            let found = exact.into_iter().chain(wildcards).find_map(|paths| find_in(paths, subject));
            if found.is_some() {
                return found;
            }
        }
        find_in(&self.anywhere, subject)
    }
}

fn find_in<'r, T>(paths: &'r Paths<T>, subject: &Subject<'_>) -> Option<Found<'r, T>> {
    let path = subject.request?.path();
    let bytes = path.as_bytes();
    let trail = paths.trail(bytes.len(), |i| bytes[i]);
    let exact = trail.last().filter(|(_, at)| *at == bytes.len()).map(|(slot, _)| &*slot.exact);
    let open = trail.iter().rev().map(|(slot, _)| &*slot.open);
    let mut candidates = exact.into_iter().chain(open).flatten();
    candidates.find_map(|candidate| try_candidate(candidate, path, subject))
}

fn try_candidate<'r, T>(
    candidate: &'r Candidate<T>,
    path: &str,
    subject: &Subject<'_>,
) -> Option<Found<'r, T>> {
    let request = subject.request?;
    let entry = &*candidate.entry;
    if !entry.rule.admits(&request.method, subject) {
        return None;
    }
    let params = candidate.pattern().capture(path, request.spans().1.start)?;
    if entry.rule.has_vars() && !entry.rule.vars_hold(&Subject { params: Some(&params), ..*subject }) {
        return None;
    }
    Some(Found { value: &entry.value, key: &entry.key, uri: candidate.pattern().text(), params })
}

#[cfg(test)]
mod tests;
