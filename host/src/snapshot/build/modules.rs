//! Modules: prepared before a route names them, compared with what they replace,
//! withdrawn when no key vouches for them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::objects::{self, Plugins};
use crate::config::{Change, Id, Key, Kind, Object, Problem, Store};
use crate::filter::Chain;
use crate::plugin::{Gap, TrustFault};

use super::{Builder, Built, concerned, users};

/// What is said of a module that is on its way.
pub(super) const PREPARING: &str = "is being prepared";

impl Builder {
    /// What changes of an object since then break for clients, as far as modules
    /// can say: its own, and those of what names it.
    #[must_use]
    pub fn breaking_since(&self, store: &Store, key: &Key, since: SystemTime) -> Vec<String> {
        let mut told = Vec::new();
        for owner in concerned(store, key) {
            let name = if owner == *key { String::new() } else { format!("{}/{}: ", owner.0, owner.1) };
            for found in self.modules.breaking(&owner).filter(|found| found.since >= since) {
                let module = &found.module;
                told.extend(found.changes.iter().map(|change| format!("{name}plugins.{module}: {change}")));
            }
        }
        told
    }

    /// Whether it will be known in a moment what a change of an object breaks.
    #[must_use]
    pub fn is_comparing(&self, store: &Store, key: &Key) -> bool {
        concerned(store, key).iter().any(|owner| {
            let is_prepared = || {
                let problems = self.failed.get(owner).into_iter().flat_map(|failure| &failure.problems);
                let mut messages = problems.map(|problem| problem.message.as_str());
                messages.any(|message| message.ends_with(PREPARING)) && self.compares(owner)
            };
            self.modules.is_compared(owner) || is_prepared()
        })
    }

    /// Whether modules of a route that is live can say what changes break.
    fn compares(&self, key: &Key) -> bool {
        let chain = match key.0 {
            Kind::Routes => self.current.router.get(key.1.as_str()).map(|route| &route.chain),
            Kind::StreamRoutes => self.current.stream_routes.get(key.1.as_str()).map(|route| &route.chain),
            _ => None,
        };
        chain.is_some_and(|chain| chain.modules().any(|module| module.compares()))
    }

    /// Has modules asked what their new configurations mean for clients.
    pub(super) fn compare(&mut self, owner: &Key, before: Option<&Chain>, now: &Chain) {
        for new in now.modules() {
            let mut olds = before.into_iter().flat_map(Chain::modules);
            if let Some(old) = olds.find(|old| old.name() == new.name()) {
                self.modules.compare(owner, old, new);
            }
        }
    }

    /// Builds what names a module, once that is ready or refused.
    pub fn module_changed(&mut self, store: &Store, id: &Id) -> Built {
        let key = (Kind::Modules, id.clone());
        self.module(store, &key);
        let dirty = users(store, &key);
        self.build(store, dirty, Vec::new(), Vec::new())
    }

    /// Why versions that a module object has serve or be tried may not run here.
    pub(super) fn trust_faults(&self, module: &objects::Module) -> Vec<Problem> {
        let problem = |(version, fault): (&objects::ModuleVersion, TrustFault)| {
            let place = module.versions.iter().position(|one| one == version)?;
            let field = format!("versions[{place}].signature");
            Some(Problem { field, message: fault.to_string(), value: Some(format!("{:?}", version.version)) })
        };
        self.modules.untrusted(module).into_iter().filter_map(problem).collect()
    }

    /// A proto that its users cannot be built with is told as what is at
    /// fault: it was they that worked before.
    pub(super) fn judge_proto(&mut self, store: &Store, key: Key) {
        let problems: Vec<Problem> = users(store, &key)
            .iter()
            .filter_map(|user| Some((user, self.failed.get(user).filter(|failure| failure.last_good)?)))
            .flat_map(|(user, failure)| {
                failure.problems.iter().map(move |problem| Problem {
                    field: format!("{}/{}: {}", user.0, user.1, problem.field),
                    ..problem.clone()
                })
            })
            .collect();
        let is_there = store.proto(&key.1).is_some();
        self.note(&key, if problems.is_empty() || !is_there { Ok(()) } else { Err(problems) });
    }

    /// Has a module prepared with its own configuration, so that a fault shows
    /// before a route names it.
    pub(super) fn module(&mut self, store: &Store, key: &Key) {
        let Some(Object::Module(object)) = store.live(Kind::Modules, &key.1) else { return };
        let problem = |message| vec![Problem { field: String::new(), message, value: None }];
        if !users(store, key).is_empty() {
            self.modules.keep(&key.1, None);
            // Its users have it tried out, with what they say of it.
            let outcome = self.modules.refusal(object).map_or(Ok(()), |why| Err(problem(why)));
            self.note(key, outcome);
            return;
        }
        match self.modules.find(object, &serde_json::Value::Null) {
            Ok(rollout) => {
                self.modules.keep(&key.1, Some(rollout));
                self.note(key, Ok(()));
            }
            Err(Gap::Refused(why)) => drop(self.note::<()>(key, Err(problem(why)))),
            // What is known of it stays until more is.
            Err(Gap::Preparing) => {}
        }
    }

    /// Takes up keys that changed; returns what names modules whose signatures
    /// may count now, or count no longer.
    pub(super) fn trust_keys(&mut self, store: &Store, changes: &[Change]) -> BTreeSet<Key> {
        let mut is_changed = false;
        for change in changes.iter().filter(|change| change.kind == Kind::TrustKeys) {
            let key = match &change.new {
                Some(Object::TrustKey(key)) => Some(Arc::clone(key)),
                _ => None,
            };
            self.modules.trust().put_key(&change.id, key);
            is_changed = true;
        }
        let mut dirty = BTreeSet::new();
        if !is_changed {
            return dirty;
        }
        if self.modules.withdraw() {
            dirty.extend(self.with_withdrawn());
        }
        for object in store.live_of(Kind::Modules) {
            let Object::Module(object) = object else { continue };
            if self.modules.depends_on_trust(object) {
                self.modules.renew(&object.id);
                let key = (Kind::Modules, object.id.clone());
                self.module(store, &key);
                dirty.extend(users(store, &key));
            }
        }
        dirty
    }

    /// What has a chain with a module that was withdrawn, whatever its object names
    /// by now.
    fn with_withdrawn(&self) -> BTreeSet<Key> {
        let mut found = Vec::new();
        let mut look = |kind, id: &str, chain: &Chain| {
            if chain.has_withdrawn() {
                found.push((kind, id.to_owned()));
            }
        };
        look(Kind::GlobalRules, "global", &self.current.global);
        self.current.router.each(|id, route| look(Kind::Routes, id, &route.chain));
        let streams = self.current.stream_routes.iter();
        streams.for_each(|route| look(Kind::StreamRoutes, &route.id, &route.chain));
        let bridged = self.current.bridged.iter();
        bridged.for_each(|(id, frames)| look(Kind::Routes, id, &frames.chain));
        found.into_iter().filter_map(|(kind, id)| Some((kind, Id::new(&id).ok()?))).collect()
    }

    /// Whether a route goes on with a module that was withdrawn.
    pub(super) fn has_withdrawn(&self, key: &Key) -> bool {
        let id = key.1.as_str();
        let own = self.current.router.get(id).map(|route| &route.chain);
        let frames = self.current.bridged.get(id).map(|frames| &frames.chain);
        own.into_iter().chain(frames).any(|chain| chain.has_withdrawn())
    }
}

/// Plugins that name a proto get its content beside its id, as
/// `"protos": {"<id>": "<content>"}`: a module reads no store.
pub(super) fn with_protos(store: &Store, plugins: &mut Plugins) {
    for plugin in plugins.values_mut() {
        let Some(proto) = objects::proto_id(&plugin.config).and_then(|id| store.proto(&id)) else { continue };
        if let Some(fields) = plugin.config.as_object_mut() {
            let content = serde_json::json!({ proto.id.as_str(): proto.content });
            fields.insert("protos".to_owned(), content);
        }
    }
}
