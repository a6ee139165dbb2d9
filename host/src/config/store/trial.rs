//! What would come of changes that are not made yet.

use std::collections::{BTreeSet, HashMap};

use super::{DocumentChange, Key, Store, Written};
use crate::config::Problem;
use crate::config::objects::Reference;

/// What stands against a set of changes; nothing when both lists are empty.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Trial {
    /// What is wrong with the objects that are written, those they name included.
    pub problems: Vec<(Key, Problem)>,
    /// Objects that are deleted, each with one that would still name it.
    pub in_use: Vec<(Key, Key)>,
}

impl Trial {
    /// Whether the changes can be made.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty() && self.in_use.is_empty()
    }
}

impl Store {
    /// Tries a set of changes as if they were made together now. An object may
    /// name another one of the same set, in any order. Nothing is changed.
    pub fn try_changes(&self, changes: &[DocumentChange]) -> Trial {
        let mut trial = Trial::default();
        let mut written: HashMap<Key, Option<Vec<Reference>>> = HashMap::new();
        let mut deleted: BTreeSet<Key> = BTreeSet::new();
        for change in changes {
            let key = change.key();
            match change {
                DocumentChange::Put(document) => {
                    let references = match self.understand(document) {
                        Written::Good(object) => Some(object.references()),
                        Written::Bad(problems) => {
                            let own = problems.into_iter().map(|problem| (key.clone(), problem));
                            trial.problems.extend(own);
                            None
                        }
                        Written::Absent => None,
                    };
                    written.insert(key, references);
                }
                DocumentChange::Broken { problems, .. } => {
                    trial.problems.extend(problems.iter().map(|problem| (key.clone(), problem.clone())));
                }
                DocumentChange::Deleted(_) => {
                    deleted.insert(key);
                }
            }
        }
        for (key, references) in &written {
            for reference in references.iter().flatten() {
                self.try_reference(key, reference, &written, &deleted, &mut trial);
            }
        }
        for key in &deleted {
            let still = self.referrers(key.0, &key.1).into_iter().find(|referrer| {
                !deleted.contains(referrer) && !written.contains_key(referrer) && self.is_written(referrer)
            });
            trial.in_use.extend(still.map(|referrer| (key.clone(), referrer)));
        }
        trial.problems.sort_by(|a, b| (&a.0, &a.1.field).cmp(&(&b.0, &b.1.field)));
        trial
    }

    fn try_reference(
        &self,
        key: &Key,
        reference: &Reference,
        written: &HashMap<Key, Option<Vec<Reference>>>,
        deleted: &BTreeSet<Key>,
        trial: &mut Trial,
    ) {
        let target = (reference.kind, reference.id.clone());
        if deleted.contains(&target) {
            trial.in_use.push((target, key.clone()));
        } else if !written.contains_key(&target) {
            // A bad object of the same set is told for itself.
            let dangling = self.dangling(std::slice::from_ref(reference));
            trial.problems.extend(dangling.into_iter().map(|problem| (key.clone(), problem)));
        }
    }

    fn is_written(&self, key: &Key) -> bool {
        self.entries.get(key).is_some_and(|entry| !matches!(entry.written, Written::Absent))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::SystemTime;

    use serde_json::{Value, json};

    use super::*;
    use crate::config::{Document, Id, Kind, Origin};

    fn put(kind: Kind, id: &str, value: Value) -> DocumentChange {
        let origin = Origin::file(Path::new("test"));
        DocumentChange::Put(Arc::new(Document {
            kind,
            id: Id::new(id).unwrap(),
            value,
            origin,
            revision: 1,
            created: 0,
        }))
    }

    fn key(kind: Kind, id: &str) -> Key {
        (kind, Id::new(id).unwrap())
    }

    fn store() -> Store {
        let mut store = Store::new(Box::new(|_, _| {}));
        let upstream = put(Kind::Upstreams, "u", json!({"nodes": {"a:1": 1}}));
        let route = put(Kind::Routes, "r", json!({"uri": "/", "upstream_id": "u"}));
        store.apply(vec![upstream, route], SystemTime::now());
        store
    }

    #[test]
    fn objects_of_one_set_may_name_each_other() {
        let route = put(Kind::Routes, "new", json!({"uri": "/", "upstream_id": "other"}));
        let upstream = put(Kind::Upstreams, "other", json!({"nodes": {"a:1": 1}}));
        let store = store();
        assert!(store.try_changes(&[route.clone(), upstream]).is_clean());
        let trial = store.try_changes(&[route]);
        assert_eq!(trial.problems[0].1.message, "upstreams/other does not exist");
    }

    #[test]
    fn what_is_in_use_is_told_unless_its_user_goes_too() {
        let store = store();
        let gone = DocumentChange::Deleted(key(Kind::Upstreams, "u"));
        let trial = store.try_changes(std::slice::from_ref(&gone));
        assert_eq!(trial.in_use, [(key(Kind::Upstreams, "u"), key(Kind::Routes, "r"))]);
        let user = DocumentChange::Deleted(key(Kind::Routes, "r"));
        assert!(store.try_changes(&[gone.clone(), user]).is_clean());
        let moved = put(Kind::Routes, "r", json!({"uri": "/", "upstream": {"nodes": {"a:1": 1}}}));
        assert!(store.try_changes(&[gone.clone(), moved]).is_clean());
        let stays = put(Kind::Routes, "r", json!({"uri": "/b", "upstream_id": "u"}));
        assert_eq!(store.try_changes(&[gone, stays]).in_use.len(), 1);
    }

    #[test]
    fn indexes_rise_with_writes_and_start_with_the_time_an_object_says() {
        let mut store = Store::new(Box::new(|_, _| {}));
        let now = SystemTime::now();
        store.apply(vec![put(Kind::Upstreams, "u", json!({"nodes": {"a:1": 1}, "create_time": 7}))], now);
        let first = store.indexes(Kind::Upstreams, &Id::new("u").unwrap());
        assert_eq!(first.created, 7000);
        store.apply(vec![put(Kind::Upstreams, "u", json!({"nodes": {"a:1": 2}, "create_time": 7}))], now);
        let second = store.indexes(Kind::Upstreams, &Id::new("u").unwrap());
        assert_eq!(second.created, 7000);
        assert!(second.modified > first.modified);
    }

    #[test]
    fn indexes_are_the_revisions_of_a_store_that_counts_them() {
        let mut store = Store::new(Box::new(|_, _| {}));
        let document = |revision: u64| {
            let DocumentChange::Put(document) =
                put(Kind::Upstreams, "u", json!({"nodes": {"a:1": revision}}))
            else {
                unreachable!()
            };
            DocumentChange::Put(Arc::new(Document { revision, created: 40, ..(*document).clone() }))
        };
        for revision in [41, 77] {
            store.apply(vec![document(revision)], SystemTime::now());
            let indexes = store.indexes(Kind::Upstreams, &Id::new("u").unwrap());
            assert_eq!((indexes.created, indexes.modified), (40, revision));
        }
    }
}
