//! From objects in force to the next snapshot.
//!
//! The store says which objects changed; this builds them, and what names
//! them, into live state. Whatever did not change is taken over as it is, so
//! the cost is that of the change. What cannot be built stays as it was and is
//! told with its reason. Only `control` (and `sluice check`) call this.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::objects::{self, Plugins};
use crate::config::{Change, Id, KINDS, Key, Kind, Object, Problem, Store};
use crate::filter::{ChainKind, Groups};
use crate::frame::FrameFormat;
use crate::message::RouteLabels;
use crate::net::tls::{Entry, Sessions};
use crate::observe::Metrics;
use crate::plugin::Modules;
use crate::upstream::Environment;

use super::Snapshot;
use super::check::build_format;
use super::consumers::{self, Directory};
use super::mentions::Mentions;
use super::secrets::has_reference;
use super::upstreams::{Around, UpstreamChanges, Upstreams};

mod chain;
mod global;
mod modules;
mod routes;
mod streams;

use chain::{Gaps, NO_FRAMES};
use global::{GlobalChain, has_global_rules, modules_of_bad_rules};
use modules::PREPARING;

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

    /// The modules, to look at.
    #[must_use]
    pub fn modules_view(&self) -> &Modules {
        &self.modules
    }

    /// The modules, to wait for.
    pub fn modules(&mut self) -> &mut Modules {
        &mut self.modules
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
}

/// What a route or stream route is called, with the service it names.
fn labels(
    key: &Key,
    name: Option<&str>,
    service_id: Option<&Id>,
    service: Option<&objects::Service>,
) -> RouteLabels {
    RouteLabels {
        route_id: key.1.as_str().into(),
        route_name: name.unwrap_or_default().into(),
        service_id: service_id.map(|id| id.as_str().into()).unwrap_or_default(),
        service_name: service.and_then(|service| service.name.as_deref()).unwrap_or_default().into(),
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

    use super::modules::with_protos;
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
