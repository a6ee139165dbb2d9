//! The modules of a node: which version of each is ready, which is on its way,
//! which was refused.
//!
//! [`Modules::find`] is asked while a chain is built and answers at once: a
//! module that is not ready is prepared on a thread beside, and
//! [`Modules::changed`] tells when that has come to an end, for the chain to be
//! built again. Until then the chain that runs keeps running, with the version
//! it has. A version nobody runs any more is freed with its last call.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, mpsc};

use super::LoadError;
use super::comparison::{Breaking, Comparisons};
use super::component::{Component, Interface};
use super::engine::{Engine, EngineOptions};
use super::host::Services;
use super::ledger::{Ledger, Origin};
use super::limits::Limits;
use super::module::{Mode, OnFailure, Plugin, Settings};
use super::timers;
use super::trial::{Trial, TrialEnd, TrialRecord};
use super::trust::{Provenance, Trust, TrustFault};
use crate::config::objects::{Module, ModuleCanary, ModuleFailure, ModuleInstance, ModuleVersion};
use crate::config::{self, Blobs, COMPONENT_BYTES_MAX, Digest, Id};

/// Modules that are compiled or tried out at one time.
const JOBS_MAX: usize = 2;
/// Time before bytes that were not there are asked for again.
const AGAIN: Duration = Duration::from_secs(2);
/// How long a module that is ready waits for the first chain that takes it:
/// others that the chain names may not be ready yet.
const UNUSED_TIME: Duration = Duration::from_secs(60);
/// Refused configurations that are remembered; beyond it all are tried again.
const REFUSALS_MAX: usize = 4096;

/// Why a module cannot be used at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gap {
    /// It is being compiled or tried out.
    Preparing,
    /// It cannot be used, for this reason.
    Refused(String),
}

/// What a chain runs of a module.
#[derive(Debug, Clone)]
pub struct Rollout {
    /// The version that serves.
    pub current: Arc<Plugin>,
    /// A version that is tried beside it.
    pub trial: Option<Arc<Trial>>,
}

/// A trial that ended by itself.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The module.
    pub id: Id,
    /// The version that was tried.
    pub version: String,
    /// Why and when.
    pub end: TrialEnd,
}

/// A trial as the registry keeps it.
struct Tried {
    record: Arc<TrialRecord>,
    /// Whether the object has said since that it is taken back.
    is_acknowledged: bool,
    /// Whether its end was told.
    is_told: bool,
}

/// The modules of a node.
pub struct Modules {
    options: EngineOptions,
    services: Arc<Services>,
    blobs: Arc<dyn Blobs>,
    slots: usize,
    uses: HashMap<Key, Use>,
    /// Modules that are ready for who may name them.
    kept: HashMap<Id, Rollout>,
    components: Components,
    done: mpsc::UnboundedReceiver<Done>,
    tell: mpsc::UnboundedSender<Done>,
    jobs: Arc<Semaphore>,
    running: Arc<Running>,
    ledger: Ledger,
    trust: Trust,
    comparisons: Comparisons,
    /// The node's id and region.
    place: (String, String),
    trials: HashMap<Id, Tried>,
    /// Which version serves, and since when.
    serving: HashMap<Id, (Arc<str>, SystemTime)>,
    /// Trials that ended by themselves; each tells it once.
    ended: mpsc::UnboundedReceiver<Id>,
    tell_ended: mpsc::UnboundedSender<Id>,
}

type Components = Arc<Mutex<HashMap<Digest, Weak<Component>>>>;

/// A version of a module with all that makes its instances what they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    id: Id,
    version: Arc<str>,
    /// The rest of it, as text.
    print: Arc<str>,
}

enum Use {
    Preparing,
    /// It lives as long as chains and calls that hold it, and for the first of
    /// them for a while.
    Ready {
        plugin: Weak<Plugin>,
        first: Option<(Arc<Plugin>, Instant)>,
    },
    Refused {
        why: String,
        again: Option<Instant>,
    },
}

struct Done {
    key: Key,
    origin: Arc<Origin>,
    outcome: Result<Arc<Plugin>, Failure>,
}

struct Failure {
    why: String,
    /// Asking again may help.
    is_passing: bool,
}

/// The modules that run, for status and metrics.
#[derive(Debug, Default)]
pub struct Running {
    list: Mutex<Vec<Weak<Plugin>>>,
    withdrawn: Mutex<BTreeSet<Arc<str>>>,
    engine: OnceLock<Engine>,
}

impl Running {
    /// All that may be called, old versions with calls under way included.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Plugin>> {
        let mut list = self.list.lock();
        list.retain(|plugin| plugin.strong_count() > 0);
        list.iter().filter_map(Weak::upgrade).filter(|plugin| !plugin.is_withdrawn()).collect()
    }

    /// Names of modules whose version was withdrawn, and that have no other yet.
    #[must_use]
    pub fn withdrawn(&self) -> BTreeSet<Arc<str>> {
        self.withdrawn.lock().clone()
    }

    /// The engine they run on, once there was a module.
    #[must_use]
    pub fn engine(&self) -> Option<&Engine> {
        self.engine.get()
    }
}

impl Modules {
    /// No modules yet. `workers` threads will call them. The engine is made for
    /// the first module, and jobs run on the runtime that is current then.
    #[must_use]
    pub fn new(
        options: EngineOptions,
        services: Arc<Services>,
        blobs: Arc<dyn Blobs>,
        workers: usize,
    ) -> Self {
        let (tell, done) = mpsc::unbounded_channel();
        let (tell_ended, ended) = mpsc::unbounded_channel();
        Self {
            options,
            services,
            blobs,
            // One for each thread, and one to go on with when one is lost.
            slots: workers + 1,
            uses: HashMap::new(),
            kept: HashMap::new(),
            components: Components::default(),
            done,
            tell,
            jobs: Arc::new(Semaphore::new(JOBS_MAX)),
            running: Arc::default(),
            ledger: Ledger::default(),
            trust: Trust::default(),
            comparisons: Comparisons::new(),
            place: (String::new(), String::new()),
            trials: HashMap::new(),
            serving: HashMap::new(),
            ended,
            tell_ended,
        }
    }

    /// The same, on a node of this id and region.
    #[must_use]
    pub fn at(self, node: &str, region: &str) -> Self {
        Self { place: (node.to_owned(), region.to_owned()), ..self }
    }

    /// The same, running what `trust` allows.
    #[must_use]
    pub fn trusting(self, trust: Trust) -> Self {
        Self { trust, ..self }
    }

    /// Whose signatures count.
    pub fn trust(&mut self) -> &mut Trust {
        &mut self.trust
    }

    /// Stops the versions for which no trust key vouches any more, at once and
    /// whatever holds them, and lets those run again for which one does. Says
    /// whether any was stopped.
    pub fn withdraw(&mut self) -> bool {
        let withdrawn = self.ledger.judge(&self.trust);
        for (plugin, why) in &withdrawn {
            let (module, version) = (plugin.name(), plugin.version());
            tracing::error!(%module, %version, reason = %why, "a version that ran is withdrawn");
            self.running.withdrawn.lock().insert(Arc::clone(module));
        }
        self.kept.retain(|_, rollout| !rollout.current.is_withdrawn());
        // What is there besides goes on: of a version that was tried the other one.
        let others: Vec<Arc<str>> = self.running.all().iter().map(|one| Arc::clone(one.name())).collect();
        self.running.withdrawn.lock().retain(|module| !others.contains(module));
        !withdrawn.is_empty()
    }

    /// Where the version that serves comes from; a fault where it may not run.
    ///
    /// # Errors
    /// Why it may not.
    pub fn provenance(&self, object: &Module) -> Result<Provenance, TrustFault> {
        object.serving().map_or(Err(TrustFault::Unsigned), |version| self.trust.judge(object, version))
    }

    /// Versions of a module that are to be called and may not be, with why.
    #[must_use]
    pub fn untrusted<'a>(&self, object: &'a Module) -> Vec<(&'a ModuleVersion, TrustFault)> {
        let tried = object.canary.as_ref().map(|canary| &canary.version);
        let tried = object.versions.iter().filter(|version| Some(&version.version) == tried);
        let called = object.serving().into_iter().chain(tried);
        called.filter_map(|version| Some((version, self.trust.judge(object, version).err()?))).collect()
    }

    /// Whether a change of trust keys may decide about a module.
    #[must_use]
    pub fn depends_on_trust(&self, object: &Module) -> bool {
        self.trust.is_required() || object.versions.iter().any(|version| version.signature.is_some())
    }

    /// Those that run.
    #[must_use]
    pub fn running(&self) -> Arc<Running> {
        Arc::clone(&self.running)
    }

    /// A module with its configuration overlaid by `overlay`, ready to be called;
    /// with the version that is tried beside it, once that is ready, too.
    ///
    /// # Errors
    /// Why there is none now.
    pub fn find(&mut self, object: &Module, overlay: &Value) -> Result<Rollout, Gap> {
        let Some(version) = object.serving() else {
            return Err(Gap::Refused("has no version".to_owned()));
        };
        let found = self.find_version(object, version, overlay);
        if found.is_err() {
            self.pause_trial(object);
        }
        let (current, provenance) = found?;
        self.running.withdrawn.lock().remove(current.name());
        self.trust.serves(&object.id, version, &provenance);
        if self.serving.get(&object.id).is_none_or(|(known, _)| known != current.version()) {
            let since = (Arc::clone(current.version()), SystemTime::now());
            self.serving.insert(object.id.clone(), since);
        }
        let trial = self.find_trial(object, overlay, &current);
        Ok(Rollout { current, trial })
    }

    /// Gives nobody a version any more that is not to be tried, at once: chains that
    /// have it may stay as they are, where what they need cannot be had.
    fn pause_trial(&self, object: &Module) {
        let Some(tried) = self.trials.get(&object.id) else { return };
        let canary = object.canary.as_ref().filter(|canary| tried.record.is_named(&canary.version));
        let version = canary
            .and_then(|canary| object.versions.iter().find(|version| version.version == canary.version));
        let why = match (canary, version) {
            (Some(canary), Some(version)) => {
                let fault = || self.trust.judge(object, version).err();
                let fault = || fault().map(|fault| format!("version {} {fault}", version.version));
                self.hindrance(canary).map(str::to_owned).or_else(fault)
            }
            // It is promoted: who has it keeps it.
            _ if object.serving().is_some_and(|serving| tried.record.is_named(&serving.version)) => None,
            _ => Some("is not tried any more".to_owned()),
        };
        if why.is_some() {
            tried.record.set_gap(why);
        }
    }

    /// Why a version is not tried here, by what the object says.
    fn hindrance(&self, canary: &ModuleCanary) -> Option<&'static str> {
        match canary.rolled_back {
            Some(_) => Some("is taken back"),
            None if !self.is_place_of(canary) => Some("is tried elsewhere"),
            None => None,
        }
    }

    /// The version that is to be tried on this node, if there is one and it can be.
    fn find_trial(&mut self, object: &Module, overlay: &Value, current: &Plugin) -> Option<Arc<Trial>> {
        let Some(canary) = &object.canary else {
            self.pause_trial(object);
            self.trials.remove(&object.id);
            return None;
        };
        let version = object.versions.iter().find(|version| version.version == canary.version)?;
        let record = self.record_of(object, version);
        if let Some(why) = self.hindrance(canary) {
            record.set_gap(Some(why.to_owned()));
            return None;
        }
        if record.is_over() {
            return None;
        }
        let (trial, gap) = match self.find_version(object, version, overlay) {
            Ok((plugin, _)) if is_filter(current) && is_filter(&plugin) => {
                (Some(Arc::new(Trial::new(plugin, Arc::clone(&record), canary))), None)
            }
            Ok(_) => {
                let why =
                    "only filters are tried on a part: functions and transcoders change for all at once";
                (None, Some(why.to_owned()))
            }
            Err(Gap::Preparing) => (None, Some("is being prepared".to_owned())),
            Err(Gap::Refused(why)) => (None, Some(why)),
        };
        record.set_gap(gap);
        trial
    }

    /// What is counted of the version that is tried: anew for another version,
    /// other thresholds, or when it is tried again after it was taken back.
    fn record_of(&mut self, object: &Module, version: &ModuleVersion) -> Arc<TrialRecord> {
        let is_back = object.canary.as_ref().is_some_and(|canary| canary.rolled_back.is_some());
        if let Some(tried) = self.trials.get_mut(&object.id) {
            let is_again = tried.is_acknowledged && !is_back;
            if tried.record.is_of(version, &object.rollback) && !is_again {
                tried.is_acknowledged = is_back;
                return Arc::clone(&tried.record);
            }
            tried.record.set_gap(Some("is not tried any more".to_owned()));
        }
        let tell = self.tell_ended.clone();
        let record = TrialRecord::new(object.id.clone(), version, object.rollback.clone(), tell);
        let record = Arc::new(record);
        let tried = Tried { record: Arc::clone(&record), is_acknowledged: is_back, is_told: false };
        self.trials.insert(object.id.clone(), tried);
        record
    }

    /// Whether a version is tried on this node, by its id and region.
    #[must_use]
    pub fn is_place_of(&self, canary: &ModuleCanary) -> bool {
        canary.is_at(&self.place.0, &self.place.1)
    }

    /// What is counted of the version of a module that is tried.
    #[must_use]
    pub fn trial(&self, id: &Id) -> Option<Arc<TrialRecord>> {
        self.trials.get(id).map(|tried| Arc::clone(&tried.record))
    }

    /// Since when the version serves that a module's object has serve; none until it does.
    #[must_use]
    pub fn serving_since(&self, object: &Module) -> Option<SystemTime> {
        let (version, since) = self.serving.get(&object.id)?;
        object.serving().is_some_and(|serving| *serving.version == **version).then_some(*since)
    }

    /// Trials that ended by themselves since this was asked last.
    pub fn take_ended(&mut self) -> Vec<Ended> {
        let mut all = Vec::new();
        for (id, tried) in self.trials.iter_mut().filter(|(_, tried)| !tried.is_told) {
            if let Some(end) = tried.record.end() {
                tried.is_told = true;
                let version = tried.record.shown().version.to_string();
                all.push(Ended { id: id.clone(), version, end: end.clone() });
            }
        }
        all
    }

    /// One version of a module with its configuration overlaid by `overlay`.
    fn find_version(
        &mut self,
        object: &Module,
        version: &ModuleVersion,
        overlay: &Value,
    ) -> Result<(Arc<Plugin>, Provenance), Gap> {
        let config = overlaid(&object.config, overlay);
        let shape = (&version.digest, &version.version, object.on_failure, object.instance);
        let print = serde_json::json!([shape, object.limits, object.grants, config]);
        let key = Key {
            id: object.id.clone(),
            version: version.version.as_str().into(),
            print: print.to_string().into(),
        };
        // Before anything of it is read, let alone compiled.
        let provenance = match self.trust.judge(object, version) {
            Ok(provenance) => provenance,
            Err(fault) => {
                let why = format!("version {} {fault}", version.version);
                tracing::warn!(module = %object.id, reason = why, "module is not trusted");
                self.uses.insert(key, Use::Refused { why: why.clone(), again: None });
                return Err(Gap::Refused(why));
            }
        };
        match self.uses.get(&key) {
            Some(Use::Ready { plugin, .. }) => {
                if let Some(plugin) = plugin.upgrade() {
                    return Ok((plugin, provenance));
                }
            }
            Some(Use::Preparing) => return Err(Gap::Preparing),
            Some(Use::Refused { again: Some(again), .. }) if *again <= Instant::now() => {}
            Some(Use::Refused { why, .. }) => return Err(Gap::Refused(why.clone())),
            None => {}
        }
        let engine = self.engine().map_err(|error| Gap::Refused(error.to_string()))?;
        self.uses.insert(key.clone(), Use::Preparing);
        let origin = Origin { object: object.clone(), version: version.clone() };
        self.prepare(engine, key, Arc::new(origin), config);
        Err(Gap::Preparing)
    }

    /// Has a module asked what its new configuration means for clients of the old
    /// one, where it can say so.
    pub fn compare(&mut self, owner: &config::Key, old: &Arc<Plugin>, new: &Arc<Plugin>) {
        if new.compares() && new.differs(old) {
            self.comparisons.begin(owner, Arc::clone(old), Arc::clone(new), &self.jobs);
        }
    }

    /// Whether what an object says of modules is being compared with what it said.
    #[must_use]
    pub fn is_compared(&self, owner: &config::Key) -> bool {
        self.comparisons.is_pending(owner)
    }

    /// What the last change of an object breaks, as far as its modules can say.
    pub fn breaking<'a>(&'a self, owner: &config::Key) -> impl Iterator<Item = &'a Breaking> {
        self.comparisons.found(owner)
    }

    /// The same of all objects.
    pub fn all_breaking(&self) -> impl Iterator<Item = (&config::Key, &Breaking)> {
        self.comparisons.all()
    }

    /// Forgets what changes of an object broke: it is gone.
    pub fn forget(&mut self, owner: &config::Key) {
        self.comparisons.forget(owner);
    }

    /// Waits until a module is ready or refused, or a comparison has ended, and says
    /// of which module. Cancel-safe.
    pub async fn changed(&mut self) -> Id {
        loop {
            let again = self.uses.iter().filter_map(|(key, one)| match one {
                Use::Refused { again: Some(again), .. } => Some((*again, key.id.clone())),
                _ => None,
            });
            let next = again.min();
            let wake =
                next.as_ref().map_or_else(|| Instant::now() + Duration::from_secs(3600), |next| next.0);
            tokio::select! {
                done = self.done.recv() => {
                    // The sender is our own and lives as long as we do.
                    let Some(done) = done else { continue };
                    return self.settle(done);
                }
                compared = self.comparisons.next() => {
                    if let Some(id) = compared {
                        return id;
                    }
                }
                ended = self.ended.recv() => {
                    if let Some(id) = ended {
                        return id;
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => {
                    if let Some((_, id)) = next {
                        return id;
                    }
                }
            }
        }
    }

    /// Whether a version of a module runs.
    #[must_use]
    pub fn is_running(&self, id: &Id) -> bool {
        self.running.all().iter().any(|plugin| **plugin.name() == **id)
    }

    /// Whether anything is being prepared.
    #[must_use]
    pub fn is_preparing(&self) -> bool {
        self.uses.values().any(|one| matches!(one, Use::Preparing))
    }

    /// Forgets what nobody uses any more. To be called when chains were built.
    pub fn sweep(&mut self) {
        let now = Instant::now();
        self.uses.retain(|_, one| match one {
            Use::Ready { plugin, first } => {
                first.take_if(|(own, until)| {
                    Arc::strong_count(own) > 1 || *until <= now || own.is_withdrawn()
                });
                plugin.strong_count() > 0
            }
            _ => true,
        });
        self.components.lock().retain(|_, component| component.strong_count() > 0);
        if self.uses.values().filter(|one| matches!(one, Use::Refused { .. })).count() > REFUSALS_MAX {
            self.uses.retain(|_, one| !matches!(one, Use::Refused { .. }));
        }
    }

    /// Keeps a module that nobody names yet, or lets it go.
    pub fn keep(&mut self, id: &Id, rollout: Option<Rollout>) {
        match rollout {
            Some(rollout) => drop(self.kept.insert(id.clone(), rollout)),
            None => drop(self.kept.remove(id)),
        }
    }

    /// Why the version of a module that is to serve was refused, with one of the
    /// configurations it is used with.
    #[must_use]
    pub fn refusal(&self, object: &Module) -> Option<String> {
        self.uses_of(object).find_map(|one| match one {
            Use::Refused { why, .. } => Some(why.clone()),
            _ => None,
        })
    }

    /// Whether the version of a module that is to serve is being prepared.
    #[must_use]
    pub fn is_being_prepared(&self, object: &Module) -> bool {
        self.uses_of(object).any(|one| matches!(one, Use::Preparing))
    }

    /// The version that is to serve, with all configurations.
    fn uses_of<'a>(&'a self, object: &'a Module) -> impl Iterator<Item = &'a Use> {
        let version = object.serving().map(|version| &*version.version);
        let own =
            self.uses.iter().filter(move |(key, _)| key.id == object.id && Some(&*key.version) == version);
        own.map(|(_, one)| one)
    }

    /// Forgets why a module was refused: it was written anew.
    pub fn renew(&mut self, id: &Id) {
        self.uses.retain(|key, one| key.id != *id || !matches!(one, Use::Refused { .. }));
    }

    /// Forgets a module that is gone.
    pub fn remove(&mut self, id: &Id) {
        self.uses.retain(|key, _| key.id != *id);
        self.kept.remove(id);
        self.trials.remove(id);
        self.serving.remove(id);
        self.running.withdrawn.lock().remove(id.as_str());
        self.services.metrics.forget(id);
    }

    fn settle(&mut self, Done { key, origin, outcome }: Done) -> Id {
        let id = key.id.clone();
        let one = match outcome {
            Ok(plugin) => {
                let took = plugin.prepared_in();
                tracing::info!(module = %id, version = %plugin.version(), ?took, "module is ready");
                self.running.list.lock().push(Arc::downgrade(&plugin));
                self.ledger.note(&plugin, origin, &self.trust);
                timers::start(&plugin);
                Use::Ready {
                    plugin: Arc::downgrade(&plugin),
                    first: Some((plugin, Instant::now() + UNUSED_TIME)),
                }
            }
            Err(Failure { why, is_passing }) => {
                tracing::warn!(module = %id, reason = why, "module cannot be used");
                Use::Refused { why, again: is_passing.then(|| Instant::now() + AGAIN) }
            }
        };
        self.uses.insert(key, one);
        id
    }

    fn engine(&self) -> Result<Engine, LoadError> {
        if let Some(engine) = self.running.engine.get() {
            return Ok(engine.clone());
        }
        let engine = Engine::new(&self.options)?;
        Ok(self.running.engine.get_or_init(|| engine).clone())
    }

    fn prepare(&self, engine: Engine, key: Key, origin: Arc<Origin>, config: Value) {
        let slots = self.slots;
        let services = Arc::clone(&self.services);
        let (blobs, components) = (Arc::clone(&self.blobs), Arc::clone(&self.components));
        let (jobs, tell) = (Arc::clone(&self.jobs), self.tell.clone());
        tokio::spawn(async move {
            let permit = jobs.acquire_owned().await;
            let made_of = Arc::clone(&origin);
            let work = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                let Origin { object, version } = &*made_of;
                let component = component(&engine, &*blobs, &components, &version.digest)?;
                let settings = settings(object, version, config, slots, component.is_function());
                let source = || blobs.read(&version.digest, COMPONENT_BYTES_MAX);
                Plugin::open(&component, settings, &services, &source).map_err(failure)
            });
            let outcome = work.await.unwrap_or_else(|error| {
                Err(Failure { why: format!("its preparation broke off: {error}"), is_passing: false })
            });
            // Nobody listens once the node ends.
            let _ = tell.send(Done { key, origin, outcome });
        });
    }
}

fn failure(error: LoadError) -> Failure {
    let is_passing = matches!(&error, LoadError::Tried(super::CallError::Busy));
    Failure { why: error.to_string(), is_passing }
}

/// The compiled component of a digest: one that is in use, or from its bytes.
fn component(
    engine: &Engine,
    blobs: &dyn Blobs,
    known: &Mutex<HashMap<Digest, Weak<Component>>>,
    digest: &Digest,
) -> Result<Arc<Component>, Failure> {
    if let Some(component) = known.lock().get(digest).and_then(Weak::upgrade) {
        return Ok(component);
    }
    let bytes = blobs.read(digest, COMPONENT_BYTES_MAX).map_err(|why| Failure { why, is_passing: true })?;
    let component = Component::compile(engine, &bytes).map_err(failure)?;
    known.lock().insert(*digest, Arc::downgrade(&component));
    Ok(component)
}

/// Whether a part of the traffic can have another version of it.
fn is_filter(plugin: &Plugin) -> bool {
    plugin.function().is_none() && !plugin.component().has(Interface::Transcoder)
}

/// The module's configuration with what a route says over it.
fn overlaid(config: &Map<String, Value>, overlay: &Value) -> Value {
    let mut all = config.clone();
    for (field, value) in overlay.as_object().into_iter().flatten() {
        all.insert(field.clone(), value.clone());
    }
    Value::Object(all)
}

/// What an object says, with the defaults of its kind: edge functions have more.
fn settings(
    object: &Module,
    version: &ModuleVersion,
    config: Value,
    slots: usize,
    is_function: bool,
) -> Settings {
    let own = &object.limits;
    let defaults = if is_function { Limits::of_functions() } else { Limits::default() };
    let limits = Limits {
        memory_max: own.memory_max.map_or(defaults.memory_max, |bytes| bytes as usize),
        deadline: own.deadline.unwrap_or(defaults.deadline),
        deadline_per_kib: own.deadline_per_kib.unwrap_or(defaults.deadline_per_kib),
        configure_deadline: own.configure_deadline.unwrap_or(defaults.configure_deadline),
        concurrency: own.concurrency.map_or(defaults.concurrency, |count| count as usize),
        fetch_timeout: own.fetch_timeout.unwrap_or(defaults.fetch_timeout),
    };
    Settings {
        name: object.id.as_str().into(),
        version: version.version.as_str().into(),
        config,
        mode: match object.instance {
            Some(ModuleInstance::Fresh) => Mode::Fresh,
            None if is_function => Mode::Fresh,
            None | Some(ModuleInstance::Reuse) => Mode::Reuse,
        },
        on_failure: match object.on_failure {
            ModuleFailure::Open => OnFailure::Open,
            ModuleFailure::Closed => OnFailure::Closed,
        },
        limits,
        kv: object.grants.kv.clone(),
        store: object.grants.store.clone(),
        fetch: object.grants.fetch.clone(),
        slots,
    }
}
