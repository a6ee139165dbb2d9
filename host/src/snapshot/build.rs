//! From objects in force to the next snapshot.
//!
//! The store says which objects changed; this builds them, and what names
//! them, into live state. Whatever did not change is taken over as it is, so
//! the cost is that of the change. What cannot be built stays as it was and is
//! told with its reason. Only `control` (and `sluice check`) call this.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::objects::{self, BUILT_IN_PLUGINS, Plugin, Plugins, WATCHING_PLUGINS};
use crate::config::{Change, Id, KINDS, Key, Kind, Object, Problem, Store};
use crate::filter::{
    BuildContext, Chain, ChainKind, FoundModule, Groups, ModulePlace, ModuleSource, UpstreamSource, merge,
};
use crate::frame::FrameFormat;
use crate::message::RouteLabels;
use crate::net::tls::{Entry, Sessions};
use crate::observe::{self, Metrics};
use crate::plugin::{Gap, Modules, TrustFault};
use crate::route::RouteMatch;
use crate::upstream::{Environment, Timeouts, Upstream};

use super::bridge::{Bridge, bridge_identity, check_inspection, idle_modules, part_plugins};
use super::check::{build_format, route_match};
use super::consumers::{self, Directory};
use super::mentions::Mentions;
use super::secrets::{has_reference, resolve};
use super::stream::{StreamFlow, StreamRoute, TlvSettings, stream_identity};
use super::upstreams::{Around, UpstreamChanges, Upstreams};
use super::{Route, Snapshot, shown};

/// Builds snapshots, one from the other.
pub struct Builder {
    metrics: Arc<Metrics>,
    sessions: Sessions,
    modules: Modules,
    groups: Groups,
    current: Snapshot,
    upstreams: Upstreams,
    mentions: Mentions,
    formats: HashMap<Id, Arc<FrameFormat>>,
    directory: Directory,
    /// Consumers and credentials that show what others do.
    doubles: BTreeSet<Key>,
    failed: BTreeMap<Key, Failure>,
    global: GlobalChain,
    /// Modules that global rules name and that are not there, because the rule has
    /// another fault.
    barred: BTreeSet<String>,
    /// Nothing is live yet: the store is empty, or the first modules are on
    /// their way.
    is_starting: bool,
    /// Routes that are live without modules they name, and refuse for them.
    closed: BTreeSet<Key>,
    /// What becomes of chains that are built now.
    gaps: Gaps,
}

/// What the chain of the global rules is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GlobalChain {
    /// Nothing was in force before it: where a module that fails closed is
    /// missing, requests are refused.
    Unproven,
    /// It was whole once: that stays when the next one cannot be built.
    Proven,
    /// It was whole until a module was withdrawn: requests are refused as well.
    Withdrawn,
}

/// What becomes of a chain whose module cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gaps {
    /// It is not built.
    AreFaults,
    /// It is built without it, and refuses what would have met it unless the
    /// module's object says that it may fail open.
    AreClosed,
}

/// What is said of a module that is on its way.
const PREPARING: &str = "is being prepared";

/// Why an object could not be built.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Since when.
    pub since: SystemTime,
    /// Whether an earlier version of it is live.
    pub last_good: bool,
}

/// What a round of building brought.
#[derive(Debug)]
pub struct Built {
    /// The next snapshot.
    pub snapshot: Arc<Snapshot>,
    /// Upstreams that are new, other or gone: their checks are to follow.
    pub upstreams: UpstreamChanges,
    /// Routes and stream routes that were built anew, or gone.
    pub rebuilt: usize,
    /// Things worth a warning, with the object they are about.
    pub warnings: Vec<(Key, String)>,
}

impl Built {
    /// Takes in what a round before this one brought, which nobody was told of.
    pub fn follow(&mut self, before: Self) {
        self.upstreams.follow(before.upstreams);
        self.rebuilt += before.rebuilt;
        self.warnings.extend(before.warnings);
    }
}

impl Builder {
    /// A builder that starts from nothing.
    #[must_use]
    pub fn new(
        environment: Arc<Environment>,
        metrics: Arc<Metrics>,
        sessions: Sessions,
        modules: Modules,
    ) -> Self {
        Self {
            metrics,
            sessions,
            modules,
            groups: Groups::default(),
            current: Snapshot::default(),
            upstreams: Upstreams::new(environment),
            mentions: Mentions::default(),
            formats: HashMap::new(),
            directory: Directory::default(),
            doubles: BTreeSet::new(),
            failed: BTreeMap::new(),
            global: GlobalChain::Unproven,
            barred: BTreeSet::new(),
            is_starting: true,
            closed: BTreeSet::new(),
            gaps: Gaps::AreFaults,
        }
    }

    /// Objects that are sound by themselves and could not be built, with why.
    /// Their last good version, if there was one, is live.
    #[must_use]
    pub fn failed(&self) -> &BTreeMap<Key, Failure> {
        &self.failed
    }

    /// Objects whose plugins name an upstream.
    pub fn named_by_plugins(&self, upstream: &Id) -> impl Iterator<Item = &Key> {
        self.mentions.owners(upstream)
    }

    /// Entries of the index of upstreams named by plugins that were looked at so far.
    #[cfg(test)]
    pub(super) fn looked_at(&self) -> u64 {
        self.mentions.looked_at
    }

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
    fn compare(&mut self, owner: &Key, before: Option<&Chain>, now: &Chain) {
        for new in now.modules() {
            let mut olds = before.into_iter().flat_map(Chain::modules);
            if let Some(old) = olds.find(|old| old.name() == new.name()) {
                self.modules.compare(owner, old, new);
            }
        }
    }

    /// The modules, to look at.
    #[must_use]
    pub fn modules_view(&self) -> &Modules {
        &self.modules
    }

    /// The modules, to wait for.
    pub fn modules(&mut self) -> &mut Modules {
        &mut self.modules
    }

    /// Builds what names a module, once that is ready or refused.
    pub fn module_changed(&mut self, store: &Store, id: &Id) -> Built {
        let key = (Kind::Modules, id.clone());
        self.module(store, &key);
        let dirty = users(store, &key);
        self.build(store, dirty, Vec::new(), Vec::new())
    }

    /// What stands against a consumer or credential beside what the store knows:
    /// references that lead nowhere, and what others show already.
    #[must_use]
    pub fn faults_of(&self, store: &Store, object: &Object) -> Vec<Problem> {
        let key = (object.kind(), object.id().clone());
        match object {
            Object::Consumer(consumer) => {
                consumers::faults(store, &self.current.consumers, &key, &consumer.plugins)
            }
            Object::Credential(credential) => {
                consumers::faults(store, &self.current.consumers, &key, &credential.plugins)
            }
            Object::Module(module) => self.trust_faults(module),
            _ => Vec::new(),
        }
    }

    /// Why versions that a module object has serve or be tried may not run here.
    fn trust_faults(&self, module: &objects::Module) -> Vec<Problem> {
        let problem = |(version, fault): (&objects::ModuleVersion, TrustFault)| {
            let place = module.versions.iter().position(|one| one == version)?;
            let field = format!("versions[{place}].signature");
            Some(Problem { field, message: fault.to_string(), value: Some(format!("{:?}", version.version)) })
        };
        self.modules.untrusted(module).into_iter().filter_map(problem).collect()
    }

    /// Builds what `changes` touch. They come from the same batch of `store`.
    pub fn apply(&mut self, store: &Store, changes: &[Change]) -> Built {
        let mut warnings = Vec::new();
        let mut dirty: BTreeSet<Key> = BTreeSet::new();
        let mut protos = Vec::new();
        let mut people: BTreeSet<Key> = BTreeSet::new();
        dirty.extend(self.trust_keys(store, changes));
        for change in changes {
            let key = (change.kind, change.id.clone());
            if change.new.is_none() {
                self.failed.remove(&key);
            }
            match change.kind {
                // Before the modules they sign.
                Kind::TrustKeys => {}
                Kind::Routes | Kind::StreamRoutes | Kind::GlobalRules => {
                    dirty.insert(key);
                }
                Kind::Modules => {
                    match change.new {
                        Some(_) => self.modules.renew(&change.id),
                        None => self.modules.remove(&change.id),
                    }
                    self.module(store, &key);
                    dirty.extend(users(store, &key));
                }
                Kind::Upstreams => dirty.extend(self.upstream(store, &change.id)),
                Kind::FrameFormats => {
                    self.frame_format(change);
                    dirty.extend(self.touch_referrers(store, &key));
                }
                Kind::Ssls => {
                    self.certificate(change, &mut warnings);
                    dirty.extend(self.touch_referrers(store, &key));
                }
                Kind::Services => {
                    if change.new.is_none() {
                        self.upstreams.forget(&key);
                    }
                    dirty.extend(users(store, &key));
                }
                Kind::PluginConfigs => dirty.extend(users(store, &key)),
                Kind::Protos => {
                    dirty.extend(users(store, &key));
                    protos.push(key);
                }
                Kind::Consumers | Kind::ConsumerGroups | Kind::Credentials => {
                    people.extend(consumers::concerned(store, &key));
                }
                Kind::Secrets => {
                    people.extend(consumers::concerned(store, &key));
                    dirty.extend(with_references(store));
                }
                Kind::PluginMetadata => {}
                Kind::Listeners => {
                    self.listener(change);
                    dirty.extend(users(store, &key));
                }
            }
        }
        dirty.extend(people);
        self.build(store, dirty, protos, warnings)
    }

    fn build(
        &mut self,
        store: &Store,
        dirty: BTreeSet<Key>,
        mut protos: Vec<Key>,
        warnings: Vec<(Key, String)>,
    ) -> Built {
        let is_person =
            |key: &Key| matches!(key.0, Kind::Consumers | Kind::ConsumerGroups | Kind::Credentials);
        let (people, dirty): (BTreeSet<Key>, BTreeSet<Key>) = dirty.into_iter().partition(is_person);
        let people: BTreeSet<Key> = people.iter().flat_map(|key| consumers::concerned(store, key)).collect();
        self.people(store, &people);
        // Rules that were never good are in force for their modules, until they go.
        let has_bad_rules =
            || self.global == GlobalChain::Unproven && !modules_of_bad_rules(store).is_empty();
        let is_barred = !self.barred.is_empty();
        if is_barred || dirty.iter().any(|key| key.0 == Kind::GlobalRules) || has_bad_rules() {
            self.global_rules(store);
        }
        let rebuilt = dirty.len();
        for key in dirty {
            match key.0 {
                Kind::Routes => self.route(store, key),
                Kind::StreamRoutes => self.stream_route(store, key),
                _ => {}
            }
        }
        self.modules.sweep();
        self.is_starting &= store.is_empty() || self.modules.is_preparing();
        if !self.is_starting && self.barred.is_empty() && !has_global_rules(store) {
            // It began without rules: one that comes later and is no good changes nothing.
            self.global = GlobalChain::Proven;
        }
        // One that was at fault may be so no longer, now that its users changed.
        protos.extend(self.failed.keys().filter(|key| key.0 == Kind::Protos).cloned());
        for key in protos {
            self.judge_proto(store, key);
        }
        self.current.revision += 1;
        let upstreams = self.upstreams.take_changes();
        Built { snapshot: Arc::new(self.current.clone()), upstreams, rebuilt, warnings }
    }

    /// Builds consumers and credentials, and the table of them all.
    fn people(&mut self, store: &Store, dirty: &BTreeSet<Key>) {
        if dirty.is_empty() {
            return;
        }
        let mut directory = std::mem::take(&mut self.directory);
        let outcomes = directory.update(store, dirty, &mut |key, plugins, before| {
            self.chain(store, key, ChainKind::Consumer, plugins, NO_FRAMES, before)
        });
        let (table, doubles) = directory.table();
        self.directory = directory;
        let now = doubles.iter().map(|(key, _)| key.clone()).collect();
        for key in std::mem::replace(&mut self.doubles, now) {
            if !self.doubles.contains(&key) {
                self.failed.remove(&key);
            }
        }
        self.current.consumers = Arc::new(table);
        for (key, outcome) in outcomes.into_iter().chain(doubles) {
            self.note(&key, outcome);
        }
    }

    /// Has everything that refers to `key`, a certificate or frame format, built
    /// anew; returns the routes among it.
    fn touch_referrers(&mut self, store: &Store, key: &Key) -> BTreeSet<Key> {
        let mut dirty = BTreeSet::new();
        for referrer in store.referrers(key.0, &key.1) {
            match referrer.0 {
                Kind::Upstreams => dirty.extend(self.upstream(store, &referrer.1)),
                Kind::Services => {
                    self.upstreams.touch(&referrer);
                    dirty.extend(users(store, &referrer));
                }
                _ => {
                    self.upstreams.touch(&referrer);
                    dirty.insert(referrer);
                }
            }
        }
        dirty
    }

    /// A proto that its users cannot be built with is told as what is at
    /// fault: it was they that worked before.
    fn judge_proto(&mut self, store: &Store, key: Key) {
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

    /// Notes how building an object went.
    fn note<T>(&mut self, key: &Key, result: Result<T, Vec<Problem>>) -> Option<T> {
        match result {
            Ok(value) => {
                self.failed.remove(key);
                Some(value)
            }
            Err(problems) => {
                let last_good = self.is_live(key);
                // A module on its way is no fault; it is in status until it is ready.
                for problem in problems.iter().filter(|problem| !problem.message.ends_with(PREPARING)) {
                    tracing::warn!(object = %format_args!("{}/{}", key.0, key.1), last_good, %problem, "object cannot be built");
                }
                let known = self.failed.get(key).filter(|known| known.problems == problems);
                let since = known.map_or_else(SystemTime::now, |known| known.since);
                self.failed.insert(key.clone(), Failure { problems, since, last_good });
                None
            }
        }
    }

    fn is_live(&self, key: &Key) -> bool {
        let (kind, id) = key;
        match kind {
            Kind::Routes => self.current.router.get(id.as_str()).is_some() && !self.closed.contains(key),
            Kind::StreamRoutes => self.current.stream_routes.get(id.as_str()).is_some(),
            Kind::Upstreams => self.upstreams.get(id).is_some(),
            Kind::Ssls => self.current.certificates.entry(id).is_some(),
            Kind::Modules => self.modules.is_running(id),
            Kind::FrameFormats => self.formats.contains_key(id),
            // Told of only where routes go on with the definition before.
            Kind::Protos => true,
            Kind::Consumers | Kind::Credentials => self.directory.holds(key),
            _ => false,
        }
    }

    /// Builds an upstream; returns the routes that use it.
    fn upstream(&mut self, store: &Store, id: &Id) -> BTreeSet<Key> {
        let key = (Kind::Upstreams, id.clone());
        match store.upstream(id) {
            None => self.upstreams.remove(id),
            Some(object) => {
                let built = self.upstreams.put(object, Around { store, formats: &self.formats });
                self.note(&key, built);
            }
        }
        let mut users = users(store, &key);
        users.extend(self.mentions.owners(id).cloned());
        users
    }

    /// Has a module prepared with its own configuration, so that a fault shows
    /// before a route names it.
    fn module(&mut self, store: &Store, key: &Key) {
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
    fn trust_keys(&mut self, store: &Store, changes: &[Change]) -> BTreeSet<Key> {
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
    fn has_withdrawn(&self, key: &Key) -> bool {
        let id = key.1.as_str();
        let own = self.current.router.get(id).map(|route| &route.chain);
        let frames = self.current.bridged.get(id).map(|frames| &frames.chain);
        own.into_iter().chain(frames).any(|chain| chain.has_withdrawn())
    }

    fn frame_format(&mut self, change: &Change) {
        let Some(Object::FrameFormat(object)) = &change.new else {
            self.formats.remove(&change.id);
            return;
        };
        let built = build_format(object);
        if let Some(format) = self.note(&(Kind::FrameFormats, change.id.clone()), built) {
            self.formats.insert(change.id.clone(), format);
        }
    }

    fn certificate(&mut self, change: &Change, told: &mut Vec<(Key, String)>) {
        let key = (Kind::Ssls, change.id.clone());
        let Some(Object::Ssl(object)) = &change.new else {
            Arc::make_mut(&mut self.current.certificates).remove(&change.id);
            return;
        };
        let built = Entry::build(object, &self.sessions).map_err(|error| error.problems);
        match self.note(&key, built) {
            Some(Some(entry)) => {
                let mut warnings = entry.warnings().to_vec();
                warnings.extend(Arc::make_mut(&mut self.current.certificates).insert(Arc::new(entry)));
                told.extend(warnings.into_iter().map(|warning| (key.clone(), warning)));
            }
            Some(None) => Arc::make_mut(&mut self.current.certificates).remove(&change.id),
            None => {}
        }
    }

    fn listener(&mut self, change: &Change) {
        let listeners = Arc::make_mut(&mut self.current.listeners);
        match &change.new {
            Some(Object::Listener(object)) if object.status.is_enabled() => {
                listeners.insert(change.id.clone(), Arc::clone(object));
            }
            _ => {
                listeners.remove(&change.id);
            }
        }
    }

    /// Builds the chain of all global rules.
    fn global_rules(&mut self, store: &Store) {
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

    /// Builds something that is to be there even if its modules are not.
    fn without_modules<T>(&mut self, build: impl FnOnce(&mut Self) -> T) -> T {
        self.gaps = Gaps::AreClosed;
        let built = build(self);
        self.gaps = Gaps::AreFaults;
        built
    }

    /// Builds a chain and notes which upstreams its plugins name.
    fn chain(
        &mut self,
        store: &Store,
        owner: &Key,
        kind: ChainKind,
        plugins: &Plugins,
        (frame_fields, modules): (&[&str], ModulePlace<'_>),
        previous: Option<&Chain>,
    ) -> Result<Chain, Vec<Problem>> {
        // The frame side of a route comes second, and its filters name no upstream.
        if !(kind == ChainKind::Frames && owner.0 == Kind::Routes) {
            self.mentions.forget(owner);
        }
        let https_port = self.https_port();
        let around = Around { store, formats: &self.formats };
        let (place, gaps, is_starting) = (modules, self.gaps, self.is_starting);
        let is_barred = |name: &str| {
            gaps == Gaps::AreClosed && owner.0 == Kind::GlobalRules && self.barred.contains(name)
        };
        let modules = RefCell::new(&mut self.modules);
        let module = |source: ModuleSource<'_>| {
            let id = Id::new(source.name).map_err(|_| "unknown plugin".to_owned())?;
            // What was not in force before, good or closed, does not come into force bad.
            let is_new = || !is_starting && !previous.is_some_and(|chain| chain.has(source.name));
            let Some(Object::Module(object)) = store.live(Kind::Modules, &id) else {
                return match gaps {
                    _ if WATCHING_PLUGINS.contains(&source.name) => Ok(FoundModule::LeftOut),
                    Gaps::AreFaults => Err(format!("modules/{id} does not exist")),
                    Gaps::AreClosed if is_new() && !is_barred(source.name) => Ok(FoundModule::LeftOut),
                    Gaps::AreClosed => Ok(FoundModule::Missing),
                };
            };
            if is_barred(source.name) {
                return Ok(match object.on_failure {
                    objects::ModuleFailure::Open => FoundModule::LeftOut,
                    objects::ModuleFailure::Closed => FoundModule::Missing,
                });
            }
            match (modules.borrow_mut().find(object, source.config), gaps) {
                (Ok(rollout), _) => Ok(FoundModule::Ready(rollout)),
                (Err(_), Gaps::AreClosed)
                    if object.on_failure == objects::ModuleFailure::Open || is_new() =>
                {
                    Ok(FoundModule::LeftOut)
                }
                (Err(_), Gaps::AreClosed) => Ok(FoundModule::Missing),
                (Err(Gap::Preparing), Gaps::AreFaults) => Err(format!("modules/{id} {PREPARING}")),
                (Err(Gap::Refused(why)), Gaps::AreFaults) => Err(format!("modules/{id} {why}")),
            }
        };
        let found = RefCell::new((&mut self.upstreams, &mut self.mentions));
        let upstream = |source: UpstreamSource<'_>| {
            let (upstreams, mentions) = &mut *found.borrow_mut();
            match source {
                UpstreamSource::Id(text) => {
                    let id = Id::new(text).map_err(|error| error.to_string())?;
                    mentions.add(owner, &id);
                    upstreams.get(&id).cloned().ok_or_else(|| "does not exist".to_owned())
                }
                UpstreamSource::Inline { place, object } => {
                    let object: objects::Upstream =
                        objects::parse(&owner.1, object).map_err(|error| shown(&error.problems))?;
                    let name = format!("{}/{}#{place}", owner.0, owner.1);
                    upstreams.inline(owner, &name, &object, around).map_err(|problems| shown(&problems))
                }
            }
        };
        let groups = &self.groups;
        let context = BuildContext {
            kind,
            upstream: &upstream,
            module: &module,
            groups,
            https_port,
            frame_fields,
            modules: place,
        };
        if !plugins.values().any(|plugin| has_reference(&plugin.config)) {
            return Chain::build(plugins, &context, previous);
        }
        let mut resolved = plugins.clone();
        for (name, plugin) in &mut resolved {
            plugin.config = resolve(store, &format!("plugins.{name}"), &plugin.config)?;
        }
        Chain::build(&resolved, &context, previous)
    }

    /// The port clients reach HTTPS at: that of the first TLS listener for HTTP.
    fn https_port(&self) -> u16 {
        self.current
            .listeners
            .values()
            .filter(|listener| {
                matches!(listener.tls, objects::ListenerTls::Terminate(_))
                    && listener.protocol == objects::Protocol::Http
            })
            .find_map(|listener| listener.bind.first())
            .map_or(443, std::net::SocketAddr::port)
    }

    fn route(&mut self, store: &Store, key: Key) {
        let Some(object) = store.route(&key.1).filter(|object| object.status.is_enabled()) else {
            self.current.router.remove(key.1.as_str());
            self.bridge_is(key.1.as_str(), None);
            self.upstreams.forget(&key);
            self.mentions.forget(&key);
            self.failed.remove(&key);
            self.closed.remove(&key);
            self.modules.forget(&key);
            return;
        };
        let built = self.try_route(store, &key, object);
        if built.is_err() && self.has_withdrawn(&key) {
            self.closed.insert(key.clone());
        }
        if let Some(route) = self.note(&key, built) {
            self.closed.remove(&key);
            self.put_route(&key, route);
        } else if (self.is_starting && !self.is_live(&key)) || self.closed.contains(&key) {
            // There is no version to go on with. Were it not there, a wider route
            // would take its requests, unseen by the module.
            if let Ok(route) = self.without_modules(|own| own.try_route(store, &key, object)) {
                self.closed.insert(key.clone());
                self.put_route(&key, route);
            }
        }
    }

    fn try_route(
        &mut self,
        store: &Store,
        key: &Key,
        object: &objects::Route,
    ) -> Result<(RouteMatch, Route), Vec<Problem>> {
        let before = self.upstreams.begin(key);
        let built = self.build_route(store, key, object);
        self.upstreams.finish(key, before, built.is_ok());
        built
    }

    fn put_route(&mut self, key: &Key, (rule, route): (RouteMatch, Route)) {
        let before = self.current.router.get(key.1.as_str()).map(|route| Arc::clone(&route.chain));
        self.compare(key, before.as_deref(), &route.chain);
        self.bridge_is(&route.id, route.bridge.as_ref().map(|bridge| Arc::clone(&bridge.frames)));
        self.current.router.insert(key.1.as_str(), rule, Arc::new(route));
    }

    /// Takes note of the frame side of a route, or that it has none.
    fn bridge_is(&mut self, id: &str, frames: Option<Arc<StreamRoute>>) {
        match frames {
            Some(frames) => _ = Arc::make_mut(&mut self.current.bridged).insert(id.into(), frames),
            None if self.current.bridged.contains_key(id) => {
                Arc::make_mut(&mut self.current.bridged).remove(id);
            }
            None => {}
        }
    }

    /// The frame side of a route whose upstream speaks frames.
    fn build_bridge(
        &mut self,
        store: &Store,
        key: &Key,
        object: &objects::Route,
        plugins: &Plugins,
        upstream: &Arc<Upstream>,
        labels: &Arc<RouteLabels>,
    ) -> Result<Arc<Bridge>, Vec<Problem>> {
        let protocol = object.protocol.as_deref().cloned().unwrap_or_default();
        let tlv = self.tlv_settings(&protocol.conf, None)?;
        let fields: Vec<&str> = tlv.format.field_names().collect();
        let previous = self.current.bridged.get(key.1.as_str()).cloned();
        let chain = previous.as_ref().map(|frames| &*frames.chain);
        let inspect = &protocol.conf.inspect;
        let place = ModulePlace { is_shared: true, inspect };
        let chain = self.chain(store, key, ChainKind::Frames, plugins, (&fields, place), chain)?;
        check_inspection(inspect, &chain)?;
        let frames = StreamRoute {
            id: key.1.as_str().into(),
            labels: Some(Arc::clone(labels)),
            chain: Arc::new(chain),
            flow: StreamFlow::Tlv(Arc::clone(&tlv)),
            upstream: Some(Arc::clone(upstream)),
            // The route's times are those of its requests; sessions last.
            timeouts: None,
            on_change: object.on_change,
            identity: bridge_identity(object, &upstream.id),
            is_bridged: true,
            metrics: self.metrics.stream_route(key.1.as_str()),
        };
        Bridge::new(&protocol, frames, tlv).map(Arc::new)
    }

    fn build_route(
        &mut self,
        store: &Store,
        key: &Key,
        object: &objects::Route,
    ) -> Result<(RouteMatch, Route), Vec<Problem>> {
        let previous = self.current.router.get(key.1.as_str()).cloned();
        let service = object.service_id.as_ref().and_then(|id| store.service(id)).cloned();
        let plugin_config = object.plugin_config_id.as_ref().and_then(|id| store.plugin_config(id)).cloned();
        let (rule, patterns) = route_match(object, service.as_deref())?;
        let mut plugins = merge(
            service.as_ref().map(|service| &service.plugins),
            plugin_config.as_ref().map(|config| &config.plugins),
            Some(&object.plugins),
        );
        with_protos(store, &mut plugins);
        let upstream = self.resolve_upstream(
            store,
            key,
            object.upstream_id.as_ref(),
            object.upstream.as_deref(),
            service.as_deref(),
        )?;
        let speaks_frames = upstream.as_ref().is_some_and(|upstream| upstream.scheme.is_tlv());
        if object.protocol.is_some() && !speaks_frames {
            return Err(vec![Problem {
                field: "protocol".to_owned(),
                message: "needs an upstream of scheme tlv or tlvs".to_owned(),
                value: None,
            }]);
        }
        let (plugins, frame_plugins) =
            if speaks_frames { part_plugins(&plugins) } else { (plugins, Plugins::new()) };
        let chain = previous.as_ref().map(|route| &*route.chain);
        let place = ModulePlace { is_shared: speaks_frames, inspect: &[] };
        let chain = self.chain(store, key, ChainKind::Http, &plugins, (&[], place), chain)?;
        let timeouts = timeouts(object.timeout.as_ref(), upstream.as_deref());
        let service_id = object.service_id.as_ref().map(|id| id.as_str().into());
        let metrics = self.metrics.route(observe::RouteLabels {
            route: key.1.as_str().into(),
            matched_uri: patterns.uris.join(",").into(),
            matched_host: patterns.hosts.join(",").into(),
            service: service_id.clone().unwrap_or_default(),
        });
        let labels = RouteLabels {
            route_id: key.1.as_str().into(),
            route_name: object.name.as_deref().unwrap_or_default().into(),
            service_id: service_id.unwrap_or_default(),
            service_name: service
                .as_ref()
                .and_then(|service| service.name.as_deref())
                .unwrap_or_default()
                .into(),
        };
        let enable_websocket = object
            .enable_websocket
            .or_else(|| service.as_ref().and_then(|service| service.enable_websocket))
            .unwrap_or(false);
        let transcoder = chain.transcoder();
        let labels = Arc::new(labels);
        let bridge = match upstream.as_ref().filter(|_| speaks_frames) {
            None => None,
            // Without its modules there may be nothing that makes frames.
            Some(_) if chain.is_closed() => None,
            Some(_) if transcoder.is_none() && !enable_websocket => {
                return Err(vec![Problem {
                    field: "plugins".to_owned(),
                    message: "the upstream speaks frames: the plugin transcode makes them of requests, \
                              enable_websocket lets clients send their own"
                        .to_owned(),
                    value: None,
                }]);
            }
            Some(upstream) => {
                let bridge = self.build_bridge(store, key, object, &frame_plugins, upstream, &labels)?;
                let idle = idle_modules(&plugins, [&chain, &bridge.frames.chain]);
                if !idle.is_empty() {
                    return Err(idle);
                }
                Some(bridge)
            }
        };
        let route = Route {
            id: key.1.as_str().into(),
            labels,
            chain: Arc::new(chain),
            upstream,
            timeouts,
            enable_websocket,
            transcoder,
            bridge,
            on_change: object.on_change,
            metrics,
        };
        Ok((rule, route))
    }

    /// The upstream of a route: its own by id, its own written inside, then the
    /// service's in the same order.
    fn resolve_upstream(
        &mut self,
        store: &Store,
        key: &Key,
        id: Option<&Id>,
        inline: Option<&objects::Upstream>,
        service: Option<&objects::Service>,
    ) -> Result<Option<Arc<Upstream>>, Vec<Problem>> {
        let around = Around { store, formats: &self.formats };
        let by_id = |upstreams: &Upstreams, field: &str, id: &Id| {
            upstreams.get(id).cloned().map(Some).ok_or_else(|| {
                let message = format!("upstreams/{id} could not be built");
                vec![Problem { field: field.to_owned(), message, value: Some(format!("{:?}", id.as_str())) }]
            })
        };
        match (id, inline, service) {
            (Some(id), _, _) => by_id(&self.upstreams, "upstream_id", id),
            (None, Some(object), _) => {
                let name = format!("{}/{}", key.0, key.1);
                self.upstreams.inline(key, &name, object, around).map(Some)
            }
            (None, None, Some(service)) => match (&service.upstream_id, service.upstream.as_deref()) {
                (Some(id), _) => by_id(&self.upstreams, "service_id", id),
                (None, Some(object)) => {
                    // One for all routes of the service: they share its health and pools.
                    let owner = (Kind::Services, service.id.clone());
                    let name = format!("{}/{}", owner.0, owner.1);
                    self.upstreams.inline(&owner, &name, object, around).map(Some)
                }
                (None, None) => Ok(None),
            },
            (None, None, None) => Ok(None),
        }
    }

    fn stream_route(&mut self, store: &Store, key: Key) {
        let Some(object) = store.stream_route(&key.1).filter(|object| object.status.is_enabled()) else {
            self.current.stream_routes.remove(key.1.as_str());
            self.upstreams.forget(&key);
            self.mentions.forget(&key);
            self.failed.remove(&key);
            self.modules.forget(&key);
            return;
        };
        let before = self.upstreams.begin(&key);
        let built = self.build_stream_route(store, &key, object);
        self.upstreams.finish(&key, before, built.is_ok());
        if let Some(route) = self.note(&key, built) {
            let before = self.current.stream_routes.get(key.1.as_str()).map(|route| Arc::clone(&route.chain));
            self.compare(&key, before.as_deref(), &route.chain);
            self.current.stream_routes.insert(object, Arc::new(route));
        }
    }

    fn build_stream_route(
        &mut self,
        store: &Store,
        key: &Key,
        object: &objects::StreamRoute,
    ) -> Result<StreamRoute, Vec<Problem>> {
        let previous = self.current.stream_routes.get(key.1.as_str()).cloned();
        let service = object.service_id.as_ref().and_then(|id| store.service(id)).cloned();
        let upstream = self.resolve_upstream(
            store,
            key,
            object.upstream_id.as_ref(),
            object.upstream.as_deref(),
            service.as_deref(),
        )?;
        let listener = object.listener.as_ref().and_then(|id| store.listener(id)).cloned();
        let flow = self.stream_flow(object, listener.as_deref(), upstream.as_deref())?;
        let mut plugins =
            merge(service.as_ref().map(|service| &service.plugins), None, Some(&object.plugins));
        with_protos(store, &mut plugins);
        let (kind, fields) = match &flow {
            StreamFlow::Tcp => (ChainKind::Stream, Vec::new()),
            StreamFlow::Tlv(settings) => (ChainKind::Frames, settings.format.field_names().collect()),
        };
        let chain = previous.as_ref().map(|route| &*route.chain);
        let inspect = object.protocol.as_ref().map_or(&[][..], |protocol| &protocol.conf.inspect);
        let place = ModulePlace { is_shared: false, inspect };
        let chain = self.chain(store, key, kind, &plugins, (&fields, place), chain)?;
        check_inspection(inspect, &chain)?;
        let labels = RouteLabels {
            route_id: key.1.as_str().into(),
            route_name: object.name.as_deref().unwrap_or_default().into(),
            service_id: object.service_id.as_ref().map(|id| id.as_str().into()).unwrap_or_default(),
            service_name: service
                .as_ref()
                .and_then(|service| service.name.as_deref())
                .unwrap_or_default()
                .into(),
        };
        Ok(StreamRoute {
            id: key.1.as_str().into(),
            labels: Some(Arc::new(labels)),
            chain: Arc::new(chain),
            flow,
            upstream,
            timeouts: object.timeout.as_ref().map(Timeouts::of),
            on_change: object.on_change,
            identity: stream_identity(object),
            is_bridged: false,
            metrics: self.metrics.stream_route(key.1.as_str()),
        })
    }

    /// What a stream route speaks: as it says, else as its listener does, else
    /// as its upstream does.
    fn stream_flow(
        &self,
        object: &objects::StreamRoute,
        listener: Option<&objects::Listener>,
        upstream: Option<&Upstream>,
    ) -> Result<StreamFlow, Vec<Problem>> {
        let said = object.protocol.as_ref().map(|protocol| protocol.name);
        let is_tlv = match (said, listener.map(|listener| listener.protocol)) {
            (Some(name), _) => name == objects::StreamProtocolName::Tlv,
            (None, Some(protocol)) => protocol == objects::Protocol::Tlv,
            (None, None) => upstream.is_some_and(|upstream| upstream.scheme.is_tlv()),
        };
        if !is_tlv {
            return Ok(StreamFlow::Tcp);
        }
        let conf = object.protocol.as_ref().map(|protocol| protocol.conf.clone()).unwrap_or_default();
        self.tlv_settings(&conf, listener).map(StreamFlow::Tlv)
    }

    fn tlv_settings(
        &self,
        conf: &objects::TlvConf,
        listener: Option<&objects::Listener>,
    ) -> Result<Arc<TlvSettings>, Vec<Problem>> {
        let id = conf
            .frame_format
            .clone()
            .or_else(|| listener.and_then(|listener| listener.frame_format.clone()))
            .unwrap_or_else(|| objects::FrameFormat::built_in().id);
        let format = match self.formats.get(&id) {
            Some(format) => Arc::clone(format),
            None if id == objects::FrameFormat::built_in().id => Arc::new(FrameFormat::im20()),
            None => {
                let message = format!("frame_formats/{id} could not be built");
                return Err(vec![Problem {
                    field: "protocol.conf.frame_format".to_owned(),
                    message,
                    value: None,
                }]);
            }
        };
        TlvSettings::new(conf, format)
            .map(Arc::new)
            .map_err(|message| vec![Problem { field: "protocol.conf".to_owned(), message, value: None }])
    }
}

/// What a chain without frames knows of them.
const NO_FRAMES: (&[&str], ModulePlace<'_>) = (&[], ModulePlace { is_shared: false, inspect: &[] });

/// The route's own times where it has them, else the upstream's.
fn timeouts(own: Option<&objects::Timeout>, upstream: Option<&Upstream>) -> Timeouts {
    match (own, upstream) {
        (Some(own), _) => Timeouts::of(own),
        (None, Some(upstream)) => upstream.timeouts,
        (None, None) => Timeouts::of(&objects::Timeout::default()),
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
fn modules_of_bad_rules(store: &Store) -> BTreeSet<String> {
    let bad = store.quarantined().map(|(key, ..)| key).filter(|key| key.0 == Kind::GlobalRules);
    let bad = bad.filter(|key| store.live(key.0, &key.1).is_none());
    let plugins = bad.filter_map(|key| store.document(key.0, &key.1)?.value.get("plugins")?.as_object());
    plugins
        .flatten()
        .filter(|(name, plugin)| is_module(name) && plugin["_meta"]["disable"] != true)
        .map(|(name, _)| name.clone())
        .collect()
}

fn has_global_rules(store: &Store) -> bool {
    store.live_of(Kind::GlobalRules).next().is_some()
}

/// Plugins that name a proto get its content beside its id, as
/// `"protos": {"<id>": "<content>"}`: a module reads no store.
fn with_protos(store: &Store, plugins: &mut Plugins) {
    for plugin in plugins.values_mut() {
        let Some(proto) = objects::proto_id(&plugin.config).and_then(|id| store.proto(&id)) else { continue };
        if let Some(fields) = plugin.config.as_object_mut() {
            let content = serde_json::json!({ proto.id.as_str(): proto.content });
            fields.insert("protos".to_owned(), content);
        }
    }
}

/// Routes, stream routes and global rules whose plugins, or those of what they
/// name, refer to secrets.
fn with_references(store: &Store) -> BTreeSet<Key> {
    let mut found = BTreeSet::new();
    for kind in KINDS {
        for object in store.live_of(kind) {
            let refers = |plugins: &Plugins| plugins.values().any(|plugin| has_reference(&plugin.config));
            if !object.plugins().is_some_and(refers) {
                continue;
            }
            let key = (kind, object.id().clone());
            match kind {
                Kind::Routes | Kind::StreamRoutes | Kind::GlobalRules => {
                    found.insert(key);
                }
                Kind::Services | Kind::PluginConfigs => found.extend(users(store, &key)),
                _ => {}
            }
        }
    }
    found
}

/// An object and what names it.
fn concerned(store: &Store, key: &Key) -> BTreeSet<Key> {
    let mut all = users(store, key);
    all.insert(key.clone());
    all
}

/// Routes and stream routes that name an object, directly, by a service or by
/// a plugin config; and global rules.
fn users(store: &Store, key: &Key) -> BTreeSet<Key> {
    let mut users = BTreeSet::new();
    for referrer in store.referrers(key.0, &key.1) {
        if matches!(referrer.0, Kind::Services | Kind::PluginConfigs) {
            users.extend(store.referrers(referrer.0, &referrer.1));
        } else {
            users.insert(referrer);
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::{Document, DocumentChange, Origin};
    use crate::upstream::Options;

    struct Rig {
        store: Store,
        builder: Builder,
    }

    impl Rig {
        fn new() -> Self {
            let environment = Environment::new(Options::default());
            let blobs = Arc::new(crate::config::source::DirectoryBlobs::new(".".into()));
            let services = crate::plugin::Services::alone(".".into());
            let modules = Modules::new(crate::plugin::EngineOptions::default(), services, blobs, 1);
            let builder = Builder::new(environment, Metrics::new(1, "test"), Sessions::new(), modules);
            Self { store: Store::new(Box::new(|_, _| {})), builder }
        }

        fn put(&mut self, kind: Kind, id: &str, value: Value) -> Arc<Snapshot> {
            let origin = Origin::file(std::path::Path::new(id));
            let id = Id::new(id).unwrap();
            let document = Document { kind, id, value, origin, revision: 1, created: 0 };
            let changes =
                self.store.apply(vec![DocumentChange::Put(Arc::new(document))], SystemTime::UNIX_EPOCH);
            self.builder.apply(&self.store, &changes).snapshot
        }
    }

    #[test]
    fn a_plugin_gets_the_proto_it_names_with_its_configuration() {
        let mut rig = Rig::new();
        rig.put(Kind::Protos, "7", json!({"content": "syntax = \"proto3\";"}));
        let mut plugins: Plugins =
            serde_json::from_value(json!({"transcode": {"proto_id": 7}, "cors": {}})).unwrap();
        with_protos(&rig.store, &mut plugins);
        let expected = json!({"proto_id": 7, "protos": {"7": "syntax = \"proto3\";"}});
        assert_eq!((&plugins["transcode"].config, &plugins["cors"].config), (&expected, &json!({})));
    }

    #[test]
    fn a_route_to_frames_has_a_frame_side_with_its_own_filters() {
        let mut rig = Rig::new();
        rig.put(Kind::Upstreams, "im", json!({"scheme": "tlv", "nodes": {"127.0.0.1:1": 1}}));
        let limit = json!({"rate": 1, "burst": 1, "key": "frame_from", "rejected": "error_frame"});
        let plugins = json!({"limit-req": limit, "cors": {}});
        let route = json!({
            "uri": "/ws", "enable_websocket": true, "upstream_id": "im", "plugins": plugins,
            "protocol": {"name": "tlv", "conf": {"login": ["0x0101"]}},
        });
        let snapshot = rig.put(Kind::Routes, "im", route.clone());
        assert!(rig.builder.failed().is_empty(), "{:?}", rig.builder.failed());
        let found = snapshot.router.get("im").unwrap();
        let frames = &found.bridge.as_ref().unwrap().frames;
        assert_eq!(found.chain.names().collect::<Vec<_>>(), ["cors"]);
        assert_eq!(frames.chain.names().collect::<Vec<_>>(), ["limit-req"]);
        assert!(Arc::ptr_eq(&snapshot.bridged["im"], frames));
        let identity = frames.identity;
        let mut other = route.clone();
        other["plugins"] = json!({});
        assert_eq!(rig.put(Kind::Routes, "im", other.clone()).bridged["im"].identity, identity);
        other["protocol"]["conf"]["login"] = json!(["0x0102"]);
        assert_ne!(rig.put(Kind::Routes, "im", other.clone()).bridged["im"].identity, identity);
        other["status"] = json!(0);
        assert!(rig.put(Kind::Routes, "im", other).bridged.is_empty());
    }

    #[test]
    fn what_can_make_no_frames_keeps_its_last_good_version() {
        let mut rig = Rig::new();
        rig.put(Kind::Upstreams, "im", json!({"nodes": {"127.0.0.1:1": 1}}));
        rig.put(Kind::Routes, "r", json!({"uri": "/", "upstream_id": "im"}));
        let snapshot = rig.put(Kind::Upstreams, "im", json!({"scheme": "tlv", "nodes": {"127.0.0.1:1": 1}}));
        assert!(snapshot.router.get("r").is_some());
        let failure = rig.builder.failed().values().next().unwrap();
        assert!(failure.last_good && failure.problems[0].message.contains("speaks frames"), "{failure:?}");
    }
}
