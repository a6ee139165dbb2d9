//! Which objects name an upstream in their plugins.
//!
//! Kept both ways, so that building one object anew costs what that object
//! names and nothing of what others do.

use std::collections::{BTreeSet, HashMap};

use crate::config::{Id, Key};

/// Owners of plugins and the upstreams these name, by either.
#[derive(Debug, Default)]
pub(super) struct Mentions {
    owners: HashMap<Id, BTreeSet<Key>>,
    names: HashMap<Key, BTreeSet<Id>>,
    /// Entries looked at since the start, for the test of what a change costs.
    #[cfg(test)]
    pub(super) looked_at: u64,
}

impl Mentions {
    /// Forgets what `owner` named; its plugins are built anew.
    pub(super) fn forget(&mut self, owner: &Key) {
        for id in self.names.remove(owner).unwrap_or_default() {
            #[cfg(test)]
            {
                self.looked_at += 1;
            }
            let Some(owners) = self.owners.get_mut(&id) else { continue };
            owners.remove(owner);
            if owners.is_empty() {
                self.owners.remove(&id);
            }
        }
    }

    /// Notes that a plugin of `owner` names the upstream `id`.
    pub(super) fn add(&mut self, owner: &Key, id: &Id) {
        self.owners.entry(id.clone()).or_default().insert(owner.clone());
        self.names.entry(owner.clone()).or_default().insert(id.clone());
    }

    /// Owners of plugins that name the upstream `id`.
    pub(super) fn owners(&self, id: &Id) -> impl Iterator<Item = &Key> {
        self.owners.get(id).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;

    #[test]
    fn forgetting_one_owner_looks_at_what_it_named_alone() {
        let id = |text: String| Id::new(&text).unwrap();
        let owner = |number: u32| (Kind::Routes, id(format!("r{number}")));
        let mut mentions = Mentions::default();
        for number in 0..10_000 {
            mentions.add(&owner(number), &id(format!("u{number}")));
            mentions.add(&owner(number), &id("shared".to_owned()));
        }
        mentions.forget(&owner(7));
        assert_eq!(mentions.looked_at, 2);
        assert_eq!(mentions.owners(&id("u7".to_owned())).count(), 0);
        assert_eq!(mentions.owners(&id("shared".to_owned())).count(), 9_999);
    }
}
