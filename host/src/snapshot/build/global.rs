//! The chain of all global rules, and what becomes of it where a rule or a module
//! is no good.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::objects::{BUILT_IN_PLUGINS, Plugin, Plugins, WATCHING_PLUGINS};
use crate::config::{Id, Key, Kind, Object, Problem, Store};
use crate::filter::{Chain, ChainKind};

use super::Builder;
use super::chain::NO_FRAMES;
use super::modules::with_protos;

/// What the chain of the global rules is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GlobalChain {
    /// Nothing was in force before it: where a module that fails closed is
    /// missing, requests are refused.
    Unproven,
    /// It was whole once: that stays when the next one cannot be built.
    Proven,
    /// It was whole until a module was withdrawn: requests are refused as well.
    Withdrawn,
}

impl Builder {
    /// Builds the chain of all global rules.
    pub(super) fn global_rules(&mut self, store: &Store) {
        let (mut merged, first) = self.merged_rules(store);
        with_protos(store, &mut merged);
        self.barred = match self.global {
            GlobalChain::Unproven => modules_of_bad_rules(store),
            GlobalChain::Proven | GlobalChain::Withdrawn => BTreeSet::new(),
        };
        // All rules are one chain; it is known to dependency tracking by one key.
        let owner = (Kind::GlobalRules, first);
        let previous = Arc::clone(&self.current.global);
        match self.chain(store, &owner, ChainKind::Global, &merged, NO_FRAMES, Some(&previous)) {
            Ok(chain) if self.barred.is_empty() => {
                self.global = GlobalChain::Proven;
                self.current.global = Arc::new(chain);
                return;
            }
            Ok(_) => {}
            Err(problems) => drop(self.note::<()>(&owner, Err(problems))),
        }
        if previous.has_withdrawn() {
            self.global = GlobalChain::Withdrawn;
        }
        if self.global != GlobalChain::Proven
            && let Some(chain) = self.closed_global(store, &owner, merged, &previous)
        {
            self.current.global = Arc::new(chain);
        }
    }

    /// The plugins of all global rules, and the id of the first.
    fn merged_rules(&mut self, store: &Store) -> (Plugins, Id) {
        let mut rules: Vec<_> = store
            .live_of(Kind::GlobalRules)
            .filter_map(|object| match object {
                Object::GlobalRule(rule) => Some(Arc::clone(rule)),
                _ => None,
            })
            .collect();
        rules.sort_by(|a, b| a.id.cmp(&b.id));
        let mut merged = Plugins::new();
        let mut from: BTreeMap<String, Id> = BTreeMap::new();
        for rule in &rules {
            let key = (Kind::GlobalRules, rule.id.clone());
            let taken: Vec<Problem> = rule
                .plugins
                .keys()
                .filter_map(|name| {
                    let other = from.get(name)?;
                    let message = format!("is set by global_rules/{other} already, which wins");
                    Some(Problem { field: format!("plugins.{name}"), message, value: None })
                })
                .collect();
            self.note(&key, if taken.is_empty() { Ok(()) } else { Err(taken) });
            for (name, plugin) in &rule.plugins {
                if !from.contains_key(name) {
                    from.insert(name.clone(), rule.id.clone());
                    merged.insert(name.clone(), plugin.clone());
                }
            }
        }
        (merged, rules.first().map_or_else(Id::default, |rule| rule.id.clone()))
    }

    /// The chain of the global rules where modules of it cannot be had: it refuses
    /// for them. Plugins that have other faults take none of the rest with them.
    fn closed_global(
        &mut self,
        store: &Store,
        owner: &Key,
        mut plugins: Plugins,
        previous: &Chain,
    ) -> Option<Chain> {
        let build = |own: &mut Self, plugins: &Plugins| {
            // Nothing of what a bad rule says of a module counts but its name.
            let barred = own.barred.iter().map(|name| (name.clone(), Plugin::default()));
            let plugins: Plugins = plugins.clone().into_iter().chain(barred).collect();
            own.without_modules(|own| {
                own.chain(store, owner, ChainKind::Global, &plugins, NO_FRAMES, Some(previous))
            })
        };
        let problems = match build(self, &plugins) {
            Ok(chain) => return Some(chain),
            Err(problems) => problems,
        };
        let is_at_fault = |name: &String| problems.iter().any(|problem| is_of(problem, name));
        self.barred.extend(plugins.keys().filter(|name| is_at_fault(name) && is_module(name)).cloned());
        plugins.retain(|name, _| !is_at_fault(name));
        build(self, &plugins).ok()
    }
}

/// Whether a problem is one of the plugin of this name.
fn is_of(problem: &Problem, name: &str) -> bool {
    let rest = problem.field.strip_prefix("plugins.").and_then(|field| field.strip_prefix(name));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Whether a plugin of this name is a module that may refuse requests.
fn is_module(name: &str) -> bool {
    !BUILT_IN_PLUGINS.contains(&name) && !WATCHING_PLUGINS.contains(&name)
}

/// Modules that are named by global rules of which no version is in force.
pub(super) fn modules_of_bad_rules(store: &Store) -> BTreeSet<String> {
    let bad = store.quarantined().map(|(key, ..)| key).filter(|key| key.0 == Kind::GlobalRules);
    let bad = bad.filter(|key| store.live(key.0, &key.1).is_none());
    let plugins = bad.filter_map(|key| store.document(key.0, &key.1)?.value.get("plugins")?.as_object());
    plugins
        .flatten()
        .filter(|(name, plugin)| is_module(name) && plugin["_meta"]["disable"] != true)
        .map(|(name, _)| name.clone())
        .collect()
}

pub(super) fn has_global_rules(store: &Store) -> bool {
    store.live_of(Kind::GlobalRules).next().is_some()
}
