//! From consumers, their groups and credentials to the table requests are
//! looked up in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::secrets::resolve;
use crate::config::objects::{self, Plugins};
use crate::config::{Id, Key, Kind, Object, Problem, Store};
use crate::filter::{BodyInterest, Chain, Consumer, Consumers, Grant, Proof, is_auth_plugin};

/// What consumers and credentials were built into, by their keys.
#[derive(Debug, Default)]
pub(super) struct Directory {
    consumers: BTreeMap<Id, Arc<Consumer>>,
    proofs: BTreeMap<Key, Vec<Proof>>,
}

/// Which objects' building went how.
pub(super) type Outcomes = Vec<(Key, Result<(), Vec<Problem>>)>;

/// Builds the chain of a consumer's plugins over the one it had.
pub(super) type MakeChain<'a> =
    &'a mut dyn FnMut(&Key, &Plugins, Option<&Chain>) -> Result<Chain, Vec<Problem>>;

/// Consumers and credentials that a changed object concerns.
pub(super) fn concerned(store: &Store, key: &Key) -> BTreeSet<Key> {
    match key.0 {
        Kind::Consumers | Kind::Credentials => BTreeSet::from([key.clone()]),
        Kind::ConsumerGroups => store.referrers(key.0, &key.1),
        // Which secrets are named where is not kept: there are few, and they change seldom.
        _ => [Kind::Consumers, Kind::Credentials]
            .into_iter()
            .flat_map(|kind| store.live_of(kind).map(move |object| (kind, object.id().clone())))
            .collect(),
    }
}

impl Directory {
    /// Builds what is `dirty`; what cannot be built stays as it was.
    pub(super) fn update(&mut self, store: &Store, dirty: &BTreeSet<Key>, chain: MakeChain<'_>) -> Outcomes {
        dirty
            .iter()
            .map(|key| {
                let outcome = match store.live(key.0, &key.1) {
                    Some(Object::Consumer(object)) => self.consumer(store, key, object, chain),
                    Some(Object::Credential(object)) => proofs(store, &object.plugins).map(|proofs| {
                        self.proofs.insert(key.clone(), proofs);
                    }),
                    _ => {
                        self.proofs.remove(key);
                        if key.0 == Kind::Consumers {
                            self.consumers.remove(&key.1);
                        }
                        Ok(())
                    }
                };
                (key.clone(), outcome)
            })
            .collect()
    }

    fn consumer(
        &mut self,
        store: &Store,
        key: &Key,
        object: &objects::Consumer,
        chain: MakeChain<'_>,
    ) -> Result<(), Vec<Problem>> {
        let proofs = proofs(store, &object.plugins)?;
        let group = object.group_id.as_ref().and_then(|id| store.consumer_group(id));
        let mut plugins = Plugins::new();
        for layer in [group.map(|group| &group.plugins), Some(&object.plugins)].into_iter().flatten() {
            let own = layer.iter().filter(|(name, _)| !is_auth_plugin(name));
            plugins.extend(own.map(|(name, plugin)| (name.clone(), plugin.clone())));
        }
        let before = self.consumers.get(&key.1).and_then(|consumer| consumer.chain.clone());
        let chain = match plugins.is_empty() {
            true => None,
            false => Some(Arc::new(chain(key, &plugins, before.as_deref())?)),
        };
        if chain.as_ref().is_some_and(|chain| chain.body_interest() != BodyInterest::None) {
            let message = "a consumer's plugins cannot look at the request's body";
            return Err(vec![Problem {
                field: "plugins".to_owned(),
                message: message.to_owned(),
                value: None,
            }]);
        }
        let consumer = Consumer {
            name: object.username.as_str().into(),
            group: object.group_id.as_ref().map(|id| id.as_str().into()).unwrap_or_default(),
            custom_id: object.labels.get("custom_id").map(|id| id.as_str().into()),
            chain,
        };
        self.consumers.insert(key.1.clone(), Arc::new(consumer));
        self.proofs.insert(key.clone(), proofs);
        Ok(())
    }

    /// Whether a version of an object was built.
    pub(super) fn holds(&self, key: &Key) -> bool {
        self.proofs.contains_key(key)
    }

    /// The table of all that was built; what two show counts for the first.
    pub(super) fn table(&self) -> (Consumers, Outcomes) {
        let mut table = Consumers::default();
        let mut outcomes = Outcomes::new();
        self.consumers.values().for_each(|consumer| table.add(consumer));
        for (key, proofs) in &self.proofs {
            let (consumer, credential) = match key.0 {
                Kind::Credentials => match key.1.split_once('.') {
                    Some((consumer, own)) => (consumer, Some(Arc::from(own))),
                    None => continue,
                },
                _ => (key.1.as_str(), None),
            };
            let Some(consumer) = self.consumers.get(consumer) else { continue };
            for proof in proofs {
                let grant = Grant { consumer: Arc::clone(consumer), credential: credential.clone() };
                if let Err(other) = table.allow(proof, grant) {
                    outcomes.push((key.clone(), Err(vec![double(&other)])));
                }
            }
        }
        (table, outcomes)
    }
}

/// What stands against a consumer or credential besides its own faults: a
/// reference that leads nowhere, or something another one shows already.
pub(super) fn faults(store: &Store, table: &Consumers, key: &Key, plugins: &Plugins) -> Vec<Problem> {
    let proofs = match proofs(store, plugins) {
        Ok(proofs) => proofs,
        Err(problems) => return problems,
    };
    let is_own = |grant: &Grant| match (&grant.credential, key.1.split_once('.')) {
        (Some(own), Some((consumer, credential))) => {
            *grant.consumer.name == *consumer && **own == *credential
        }
        (None, _) => key.0 == Kind::Consumers && *grant.consumer.name == *key.1,
        (Some(_), None) => false,
    };
    let others = proofs.iter().filter_map(|proof| table.holder(proof)).filter(|grant| !is_own(grant));
    others.map(|grant| double(&grant.consumer.name)).collect()
}

fn double(other: &str) -> Problem {
    let message = format!("duplicate key found with consumer: {other}");
    Problem { field: "plugins".to_owned(), message, value: None }
}

fn proofs(store: &Store, plugins: &Plugins) -> Result<Vec<Proof>, Vec<Problem>> {
    let own = plugins.iter().filter(|(name, plugin)| is_auth_plugin(name) && !plugin.meta.disable);
    own.map(|(name, plugin)| {
        let config = resolve(store, &format!("plugins.{name}"), &plugin.config)?;
        Proof::parse(name, &config).map_err(|problem| vec![problem])
    })
    .collect()
}
