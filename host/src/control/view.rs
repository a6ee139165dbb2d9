//! What the control thread shows of itself to status and metrics.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::admin::{
    BreakingStatus, ConfigStatus, ConnectionStatus, Gateway, InForce, ListenerStatus, ModuleStatus, NodeInfo,
    ProcessStatus, ProvenanceStatus, Quarantined, Readiness, RunningStatus, Since, Status, StoreStatus,
    TrialStatus, UpstreamStatus,
};
use crate::config::cache::GoodDocument;
use crate::config::objects::{self, Module, ModuleCanary};
use crate::config::source::{Fleet, Stamp, StoreState};
use crate::config::{KINDS, Key, Kind, Object, Origin, Problem, Quarantine, Store};
use crate::net::CloseReason;
use crate::plugin::{Breaking, FAILURES, NodeHealth, Plugin, Provenance, Running, TrialRecord, TrustFault};
use crate::proxy::Shared;
use crate::snapshot::{Builder, UpstreamChanges};
use crate::upstream::{self, Upstream};

/// Where the process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No snapshot yet, or listeners not open yet.
    Starting,
    /// Serving.
    Ready,
    /// Ending.
    Draining,
}

/// The configuration as it was applied last.
#[derive(Debug, Clone, Default)]
pub struct View {
    revision: u64,
    applied: Option<SystemTime>,
    objects: BTreeMap<String, usize>,
    quarantined: Vec<Held>,
    breaking: Vec<(Key, Breaking)>,
    modules: Vec<ModuleView>,
    running: Arc<Running>,
    stamp: Option<Stamp>,
}

/// A module as its object says, and what became of that.
#[derive(Debug, Clone)]
struct ModuleView {
    object: Arc<Module>,
    state: &'static str,
    why: Option<String>,
    provenance: Result<Provenance, TrustFault>,
    since: Option<SystemTime>,
    record: Option<Arc<TrialRecord>>,
    is_elsewhere: bool,
}

impl ModuleView {
    fn of(object: &Arc<Module>, builder: &Builder) -> Self {
        let modules = builder.modules_view();
        let why = modules.refusal(object);
        let state = match (&why, modules.is_being_prepared(object)) {
            (_, true) => "preparing",
            (Some(_), _) if modules.running().withdrawn().contains(object.id.as_str()) => "withdrawn",
            (Some(_), _) => "failed",
            (None, _) => "ready",
        };
        let provenance = modules.provenance(object);
        let is_elsewhere = object.canary.as_ref().is_some_and(|canary| !modules.is_place_of(canary));
        let record = modules.trial(&object.id);
        let since = modules.serving_since(object);
        Self { object: Arc::clone(object), state, why, provenance, since, record, is_elsewhere }
    }

    fn shown(&self, running: &[Arc<Plugin>]) -> ModuleStatus {
        let own = || running.iter().filter(|plugin| **plugin.name() == *self.object.id);
        let serving = self.object.serving();
        ModuleStatus {
            name: self.object.id.to_string(),
            active: serving.map(|version| version.version.clone()).unwrap_or_default(),
            digest: serving.map(|version| version.digest.to_string()).unwrap_or_default(),
            versions: self.object.versions.iter().map(|version| version.version.clone()).collect(),
            state: self.state.to_owned(),
            why: self.why.clone(),
            provenance: provenance_status(&self.provenance),
            canary: self.object.canary.as_ref().map(|canary| canary.version.clone()),
            trial: self.object.canary.as_ref().map(|canary| self.trial_status(canary)),
            running: own().map(|plugin| running_status(plugin)).collect(),
            since: self.since.map(since_of).unwrap_or_default(),
        }
    }

    fn trial_status(&self, canary: &ModuleCanary) -> TrialStatus {
        let shown = self.record.as_ref().map(|record| record.shown());
        let shown = shown.filter(|shown| *shown.version == *canary.version);
        let mut status = TrialStatus {
            state: "waiting".to_owned(),
            percent: canary.percent.unwrap_or(100.0),
            shadow: canary.is_shadow(),
            ..TrialStatus::default()
        };
        if let Some(shown) = &shown {
            status.state = if shown.gap.is_some() { "waiting" } else { "running" }.to_owned();
            status.why = shown.gap.clone().or_else(|| shown.note.clone());
            status.since = since_of(shown.since);
            status.counts = shown.counts;
        }
        if self.is_elsewhere {
            status.state = "elsewhere".to_owned();
        }
        // What this node saw itself says more than what another one wrote.
        if let Some(end) = shown.and_then(|shown| shown.end) {
            status.state = "rolled_back".to_owned();
            status.since = since_of(end.at);
            status.why = Some(format!("{}; {} exchanges had met it", end.why, end.exchanges));
        } else if let Some(back) = &canary.rolled_back {
            status.state = "rolled_back".to_owned();
            status.why = Some(format!("{}; {} exchanges had met it there", back.why, back.exchanges));
        }
        status.by = canary.rolled_back.as_ref().map(|back| back.node.clone());
        status
    }
}

fn provenance_status(found: &Result<Provenance, TrustFault>) -> ProvenanceStatus {
    let state = |state: &str| ProvenanceStatus { state: state.to_owned(), ..ProvenanceStatus::default() };
    match found {
        Ok(Provenance::Unsigned) => state("unsigned"),
        Ok(Provenance::Signed { key, number, expires }) => ProvenanceStatus {
            key: Some(key.to_string()),
            number: Some(*number),
            expires: expires.map(objects::moment),
            ..state("signed")
        },
        Ok(Provenance::Unproven(why)) => ProvenanceStatus { why: Some(why.to_string()), ..state("unproven") },
        Err(why) => ProvenanceStatus { why: Some(why.to_string()), ..state("refused") },
    }
}

fn breaking_status(((kind, id), found): &(Key, Breaking)) -> BreakingStatus {
    BreakingStatus {
        kind: kind.to_string(),
        id: id.to_string(),
        plugin: found.module.to_string(),
        changes: found.changes.clone(),
        since: since_of(found.since),
    }
}

fn running_status(plugin: &Plugin) -> RunningStatus {
    let failures = FAILURES.iter().zip(plugin.stats().failures()).filter(|(_, count)| *count > 0);
    RunningStatus {
        version: plugin.version().to_string(),
        digest: plugin.component().outline().digest.to_string(),
        instances: plugin.instances(),
        calls: plugin.stats().calls(),
        failures: failures.map(|(kind, count)| ((*kind).to_owned(), count)).collect(),
        breaker_open: plugin.is_broken(),
        prepared_in_ms: plugin.prepared_in().as_millis() as u64,
        image: plugin.image().is_some_and(|image| image.is_ok()),
        no_image: plugin.image().and_then(|image| image.err().map(str::to_owned)),
        since: since_of(plugin.since()),
    }
}

/// Something that is not live as it is written.
#[derive(Debug, Clone)]
enum Held {
    /// An object, why, and whether an earlier version of it is live.
    Object(Key, Quarantine, bool),
    /// A fault of the store that is of no object.
    Store(String),
}

impl Held {
    fn shown(&self) -> Quarantined {
        match self {
            Self::Object(key, quarantine, last_good) => Quarantined::of(key, quarantine, *last_good),
            Self::Store(reason) => Quarantined { reason: reason.clone(), ..Quarantined::default() },
        }
    }
}

impl View {
    /// What store and builder hold at `revision`; `problems` are of no object.
    #[must_use]
    pub fn of(store: &Store, builder: &Builder, problems: &[String], revision: u64, now: SystemTime) -> Self {
        let objects = KINDS.into_iter().map(|kind| (kind.to_string(), store.count(kind))).collect();
        let mut quarantined: Vec<Held> = store
            .quarantined()
            .map(|(key, quarantine, live)| Held::Object(key.clone(), quarantine.clone(), live.is_some()))
            .collect();
        // What was never good by itself is told once.
        let is_told = |key: &Key| {
            store.quarantine_of(key.0, &key.1).is_some() && store.good_document(key.0, &key.1).is_none()
        };
        let failed = builder.failed().iter().filter(|(key, _)| !is_told(key));
        quarantined.extend(failed.map(|(key, failure)| {
            let document = store.document(key.0, &key.1);
            let origin =
                document.map_or_else(|| Origin::file(Path::new("")), |document| document.origin.clone());
            let quarantine = Quarantine { problems: failure.problems.clone(), origin, since: failure.since };
            Held::Object(key.clone(), quarantine, failure.last_good)
        }));
        quarantined.extend(store.held().map(|(key, since)| {
            let message = "deleted, but in force until no object in force names it";
            let problem = Problem { field: String::new(), message: message.to_owned(), value: None };
            let origin = Origin::file(Path::new(""));
            Held::Object(key.clone(), Quarantine { problems: vec![problem], origin, since }, true)
        }));
        quarantined.extend(problems.iter().cloned().map(Held::Store));
        Self {
            revision,
            applied: Some(now),
            objects,
            quarantined,
            breaking: builder
                .modules_view()
                .all_breaking()
                .map(|(key, found)| (key.clone(), found.clone()))
                .collect(),
            modules: store
                .live_of(Kind::Modules)
                .filter_map(|object| match object {
                    Object::Module(object) => Some(ModuleView::of(object, builder)),
                    _ => None,
                })
                .collect(),
            running: builder.modules_view().running(),
            stamp: None,
        }
    }

    /// The same, of this state of a remote store.
    #[must_use]
    pub fn stamped(mut self, stamp: Option<Stamp>) -> Self {
        self.stamp = stamp;
        self
    }
}

/// Tells how the listeners are.
pub type Listeners = Box<dyn Fn() -> Vec<ListenerStatus> + Send + Sync>;

/// A remote store as it shows itself.
pub struct Remote {
    /// How it is doing.
    pub state: Box<dyn Fn() -> StoreState + Send + Sync>,
    /// Which nodes read it.
    pub fleet: Fleet,
}

/// The node as status and metrics show it.
pub struct NodeView {
    info: NodeInfo,
    source: String,
    shared: Arc<Shared>,
    listeners: Listeners,
    view: ArcSwap<View>,
    /// Those in force; objects of their own before those inside others.
    upstreams: Mutex<BTreeMap<(bool, String), Arc<Upstream>>>,
    /// Revisions in the store of what is in force.
    in_force: Mutex<BTreeMap<Key, u64>>,
    phase: ArcSwap<Phase>,
    remote: OnceLock<Remote>,
}

impl NodeView {
    /// A view of a node that has read nothing yet.
    #[must_use]
    pub fn new(info: NodeInfo, source: String, shared: Arc<Shared>, listeners: Listeners) -> Self {
        Self {
            info,
            source,
            shared,
            listeners,
            view: ArcSwap::default(),
            upstreams: Mutex::default(),
            in_force: Mutex::default(),
            phase: ArcSwap::from_pointee(Phase::Starting),
            remote: OnceLock::new(),
        }
    }

    /// Shows a configuration from now on; `changes` lead to its upstreams from
    /// those of the one before.
    pub fn publish(&self, view: View, changes: &UpstreamChanges) {
        let mut upstreams = self.upstreams.lock();
        let place = |upstream: &Upstream| (upstream.id.contains('/'), upstream.id.to_string());
        for upstream in &changes.gone {
            upstreams.remove(&place(upstream));
        }
        upstreams.extend(changes.new.iter().map(|upstream| (place(upstream), Arc::clone(upstream))));
        self.view.store(Arc::new(view));
    }

    /// Shows where the process stands from now on.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(Arc::new(phase));
    }

    /// How the nodes of an upstream are, for modules that ask.
    #[must_use]
    pub fn node_health(&self, id: &str) -> Vec<NodeHealth> {
        let all = self.upstreams();
        let Some(upstream) = all.iter().find(|upstream| &*upstream.id == id) else {
            return Vec::new();
        };
        let status = upstream::status(upstream);
        let lines = status.lines.iter();
        lines
            .flat_map(|line| {
                line.nodes.iter().map(|node| NodeHealth {
                    upstream: id.to_owned(),
                    line: line.name.to_string(),
                    address: node.name.to_string(),
                    healthy: node.state == "up",
                    rtt: node.rtt.rtt_average_ms.map(|time| (time * 1e3) as u32),
                })
            })
            .collect()
    }

    /// Shows which versions of these objects are in force from now on.
    pub fn note_in_force(&self, documents: &[GoodDocument]) {
        let mut in_force = self.in_force.lock();
        for (key, document) in documents {
            match document {
                Some(document) => in_force.insert(key.clone(), document.revision),
                None => in_force.remove(key),
            };
        }
    }

    /// Shows a remote store from now on; only the first call counts.
    pub fn watch_store(&self, remote: Remote) {
        let _ = self.remote.set(remote);
    }

    fn store_state(&self) -> Option<StoreState> {
        self.remote.get().map(|remote| (remote.state)())
    }

    /// What other nodes of the fleet are told of this one.
    #[must_use]
    pub fn registration(&self) -> serde_json::Value {
        let status = self.status();
        let store = status.config.store.unwrap_or_default();
        let lines: Vec<serde_json::Value> = status
            .upstreams
            .iter()
            .flat_map(|upstream| upstream.lines.iter().map(move |line| (upstream, line)))
            .take(LINES_TOLD_MAX)
            .map(|(upstream, line)| {
                let upstream = format!("{}/{}", upstream.kind, upstream.id);
                serde_json::json!({"upstream": upstream, "line": line.name, "state": line.state, "active": line.active})
            })
            .collect();
        let modules: Vec<serde_json::Value> = status
            .modules
            .iter()
            .map(|module| {
                let mut running: Vec<&str> = module.running.iter().map(|one| one.version.as_str()).collect();
                running.sort_unstable();
                running.dedup();
                serde_json::json!({
                    "name": module.name, "active": module.active, "digest": module.digest,
                    "state": module.state, "canary": module.canary, "since": module.since.since,
                    "running": running, "trial": module.trial.as_ref().map(|trial| &trial.state),
                })
            })
            .collect();
        serde_json::json!({
            "id": status.node.id,
            "region": status.node.region,
            "version": status.node.version,
            "hostname": status.node.hostname,
            "state": status.state,
            "revision": store.revision,
            "digest": store.digest,
            "quarantined": status.config.quarantined.len(),
            "modules": modules,
            "lines": lines,
        })
    }

    fn config(&self, view: &View) -> ConfigStatus {
        let state = self.store_state();
        let store = view.stamp.map(|stamp| StoreStatus {
            cluster: format!("{:x}", stamp.cluster),
            revision: stamp.revision,
            digest: format!("{:016x}", stamp.digest),
            is_kept: stamp.is_kept,
            endpoint: state.as_ref().and_then(|state| state.endpoint.clone()),
        });
        ConfigStatus {
            revision: view.revision,
            source: self.source.clone(),
            applied: view.applied.map(since_of).unwrap_or_default(),
            objects: view.objects.clone(),
            quarantined: view.quarantined.iter().map(Held::shown).collect(),
            breaking: view.breaking.iter().map(breaking_status).collect(),
            stale: state.and_then(|state| state.stale_reason()),
            store,
        }
    }

    fn upstreams(&self) -> Vec<Arc<Upstream>> {
        self.upstreams.lock().values().cloned().collect()
    }

    fn connections(&self) -> ConnectionStatus {
        let counters = &self.shared.counters;
        let accepted = counters.accepted();
        let closed: u64 = CloseReason::ALL.iter().map(|reason| counters.closed(*reason)).sum();
        let active = accepted.saturating_sub(closed);
        let (requests, requests_active) = self.shared.metrics.requests();
        ConnectionStatus { active, accepted, requests_active, requests }
    }
}

/// Lines that a node's entry in the fleet tells of.
const LINES_TOLD_MAX: usize = 500;

impl Gateway for NodeView {
    fn in_force(&self) -> InForce {
        let in_force = self.in_force.lock();
        let objects =
            in_force.iter().map(|((kind, id), revision)| (format!("{kind}/{id}"), *revision)).collect();
        InForce { revision: self.view.load().revision, objects }
    }

    fn fleet(&self) -> Result<Vec<serde_json::Value>, String> {
        match self.remote.get() {
            Some(remote) => (remote.fleet)(),
            None => Err("this node reads a directory: it knows of no other nodes".to_owned()),
        }
    }

    fn readiness(&self) -> Readiness {
        match **self.phase.load() {
            Phase::Ready => Readiness::Ready,
            Phase::Draining => Readiness::Draining,
            Phase::Starting if self.view.load().revision == 0 => {
                let stale = self.store_state().and_then(|state| state.stale);
                Readiness::Starting(match stale {
                    Some((_, reason)) => {
                        format!("the store was not read yet and no state of it is kept: {reason}")
                    }
                    None => "no snapshot yet".to_owned(),
                })
            }
            Phase::Starting => Readiness::Starting("listeners are not open yet".to_owned()),
        }
    }

    fn status(&self) -> Status {
        let readiness = self.readiness();
        let view = self.view.load();
        let running = view.running.all();
        Status {
            node: self.info.clone(),
            state: readiness.as_str().to_owned(),
            reason: readiness.reason(),
            config: self.config(&view),
            listeners: (self.listeners)(),
            upstreams: self.upstreams().iter().map(|upstream| of_upstream(upstream)).collect(),
            modules: view.modules.iter().map(|module| module.shown(&running)).collect(),
            connections: self.connections(),
            process: ProcessStatus::now(self.shared.metrics.uptime()),
        }
    }
}

fn since_of(time: SystemTime) -> Since {
    Since::instant(std::time::Instant::now() - time.elapsed().unwrap_or(Duration::ZERO))
}

/// An upstream written inside another object goes under that one's kind and id.
fn of_upstream(upstream: &Upstream) -> UpstreamStatus {
    let (kind, id) = upstream.id.split_once('/').unwrap_or(("upstreams", &upstream.id));
    UpstreamStatus::of(kind, id, upstream.check_name(), upstream)
}
