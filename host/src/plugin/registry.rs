//! The modules of a node: which version of each is ready, which is on its way,
//! which was refused.
//!
//! [`Modules::find`] is asked while a chain is built and answers at once: a
//! module that is not ready is prepared on a thread beside, and
//! [`Modules::changed`] tells when that has come to an end, for the chain to be
//! built again. Until then the chain that runs keeps running, with the version
//! it has. A version nobody runs any more is freed with its last call.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, mpsc};

use super::comparison::{Breaking, Comparisons};
use super::component::Component;
use super::engine::{Engine, EngineOptions};
use super::host::Services;
use super::limits::Limits;
use super::module::{Mode, OnFailure, Plugin, Settings};
use super::trust::{Provenance, Trust, TrustFault};
use super::{LoadError, Visit};
use crate::config::objects::{Module, ModuleFailure, ModuleInstance};
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

/// The modules of a node.
pub struct Modules {
    options: EngineOptions,
    services: Arc<Services>,
    blobs: Arc<dyn Blobs>,
    slots: usize,
    uses: HashMap<Key, Use>,
    /// Modules that are ready for who may name them.
    kept: HashMap<Id, Arc<Plugin>>,
    components: Components,
    done: mpsc::UnboundedReceiver<Done>,
    tell: mpsc::UnboundedSender<Done>,
    jobs: Arc<Semaphore>,
    running: Arc<Running>,
    trust: Trust,
    comparisons: Comparisons,
}

type Components = Arc<Mutex<HashMap<Digest, Weak<Component>>>>;

/// A module with all that makes its instances what they are.
type Key = (Id, Arc<str>);

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
    engine: OnceLock<Engine>,
}

impl Running {
    /// All that run, old versions with calls under way included.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Plugin>> {
        let mut list = self.list.lock();
        list.retain(|plugin| plugin.strong_count() > 0);
        list.iter().filter_map(Weak::upgrade).collect()
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
            trust: Trust::default(),
            comparisons: Comparisons::new(),
        }
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

    /// Where the version that serves comes from; a fault where it may not run.
    ///
    /// # Errors
    /// Why it may not.
    pub fn provenance(&self, object: &Module) -> Result<Provenance, TrustFault> {
        object.serving().map_or(Err(TrustFault::Unsigned), |version| self.trust.judge(object, version))
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

    /// A module with its configuration overlaid by `overlay`, ready to be called.
    ///
    /// # Errors
    /// Why there is none now.
    pub fn find(&mut self, object: &Module, overlay: &Value) -> Result<Arc<Plugin>, Gap> {
        let config = overlaid(&object.config, overlay);
        let Some(version) = object.serving() else {
            return Err(Gap::Refused("has no version".to_owned()));
        };
        let shape = (&version.digest, &version.version, object.on_failure, object.instance);
        let print = serde_json::json!([shape, object.limits, object.grants, config]);
        let key = (object.id.clone(), Arc::from(print.to_string()));
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
                    self.trust.serves(&object.id, version, &provenance);
                    return Ok(plugin);
                }
            }
            Some(Use::Preparing) => return Err(Gap::Preparing),
            Some(Use::Refused { again: Some(again), .. }) if *again <= Instant::now() => {}
            Some(Use::Refused { why, .. }) => return Err(Gap::Refused(why.clone())),
            None => {}
        }
        let engine = self.engine().map_err(|error| Gap::Refused(error.to_string()))?;
        self.uses.insert(key.clone(), Use::Preparing);
        self.prepare(engine, key, version.digest, object.clone(), config);
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
                Use::Refused { again: Some(again), .. } => Some((*again, key.0.clone())),
                _ => None,
            });
            let next = again.min();
            let wake =
                next.as_ref().map_or_else(|| Instant::now() + Duration::from_secs(3600), |next| next.0);
            tokio::select! {
                done = self.done.recv() => {
                    // The sender is our own and lives as long as we do.
                    let Some(Done { key, outcome }) = done else { continue };
                    return self.settle(key, outcome);
                }
                compared = self.comparisons.next() => {
                    if let Some(id) = compared {
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
                first.take_if(|(own, until)| Arc::strong_count(own) > 1 || *until <= now);
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
    pub fn keep(&mut self, id: &Id, plugin: Option<Arc<Plugin>>) {
        match plugin {
            Some(plugin) => drop(self.kept.insert(id.clone(), plugin)),
            None => drop(self.kept.remove(id)),
        }
    }

    /// Why a module was refused, with one of the configurations it is used with.
    #[must_use]
    pub fn refusal(&self, id: &Id) -> Option<String> {
        self.uses.iter().find_map(|(key, one)| match one {
            Use::Refused { why, .. } if key.0 == *id => Some(why.clone()),
            _ => None,
        })
    }

    /// Whether a module is being prepared.
    #[must_use]
    pub fn is_being_prepared(&self, id: &Id) -> bool {
        self.uses.iter().any(|(key, one)| key.0 == *id && matches!(one, Use::Preparing))
    }

    /// Forgets why a module was refused: it was written anew.
    pub fn renew(&mut self, id: &Id) {
        self.uses.retain(|key, one| key.0 != *id || !matches!(one, Use::Refused { .. }));
    }

    /// Forgets a module that is gone.
    pub fn remove(&mut self, id: &Id) {
        self.uses.retain(|key, _| key.0 != *id);
        self.kept.remove(id);
        self.services.metrics.forget(id);
    }

    fn settle(&mut self, key: Key, outcome: Result<Arc<Plugin>, Failure>) -> Id {
        let id = key.0.clone();
        let one = match outcome {
            Ok(plugin) => {
                let took = plugin.prepared_in();
                tracing::info!(module = %id, version = %plugin.version(), ?took, "module is ready");
                self.running.list.lock().push(Arc::downgrade(&plugin));
                start_timer(&plugin);
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

    fn prepare(&self, engine: Engine, key: Key, digest: Digest, object: Module, config: Value) {
        let slots = self.slots;
        let services = Arc::clone(&self.services);
        let (blobs, components) = (Arc::clone(&self.blobs), Arc::clone(&self.components));
        let (jobs, tell) = (Arc::clone(&self.jobs), self.tell.clone());
        tokio::spawn(async move {
            let permit = jobs.acquire_owned().await;
            let work = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                let component = component(&engine, &*blobs, &components, &digest)?;
                let settings = settings(&object, config, slots, component.is_function());
                Plugin::open(&component, settings, &services).map_err(failure)
            });
            let outcome = work.await.unwrap_or_else(|error| {
                Err(Failure { why: format!("its preparation broke off: {error}"), is_passing: false })
            });
            // Nobody listens once the node ends.
            let _ = tell.send(Done { key, outcome });
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

/// The module's configuration with what a route says over it.
fn overlaid(config: &Map<String, Value>, overlay: &Value) -> Value {
    let mut all = config.clone();
    for (field, value) in overlay.as_object().into_iter().flatten() {
        all.insert(field.clone(), value.clone());
    }
    Value::Object(all)
}

/// What an object says, with the defaults of its kind: edge functions have more.
fn settings(object: &Module, config: Value, slots: usize, is_function: bool) -> Settings {
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
        version: object.serving().map_or("", |version| &version.version).into(),
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
        fetch: object.grants.fetch.clone(),
        slots,
    }
}

/// Runs a module's timer while the module is in use, one run after the other.
fn start_timer(plugin: &Arc<Plugin>) {
    if let Some(function) = plugin.function() {
        if let Some(interval) = function.timer_interval() {
            tokio::spawn(tick_function(Arc::downgrade(plugin), interval));
        }
        return;
    }
    let interval = Duration::from_millis(plugin.interest().timer_interval.into());
    let plugin = Arc::downgrade(plugin);
    tokio::spawn(async move {
        if interval.is_zero() {
            return tend(plugin).await;
        }
        let mut visit = Some(Visit::default());
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let tending = tokio::spawn(tend(plugin.clone()));
        loop {
            ticks.tick().await;
            let Some(plugin) = plugin.upgrade() else { break };
            let mut own = visit.take().unwrap_or_default();
            let work = tokio::task::spawn_blocking(move || {
                let (outcome, _) = super::wait(plugin.tick(&mut own));
                if let Ok(Err(text)) = outcome {
                    tracing::warn!(module = %plugin.name(), reason = text, "a module's timer failed");
                }
                own
            });
            visit = work.await.ok();
        }
        tending.abort();
    });
}

/// Runs the timer of an edge function while the function is in use.
async fn tick_function(plugin: Weak<Plugin>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(plugin) = plugin.upgrade() else { return };
        let Some(function) = plugin.function() else { return };
        match function.tick().await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => tracing::warn!(module = %plugin.name(), reason, "a module's timer failed"),
            Err(error) => tracing::warn!(module = %plugin.name(), %error, "a module's timer failed"),
        }
    }
}

/// Makes new instances for a module in the places of those that are lost or spent.
async fn tend(plugin: Weak<Plugin>) {
    /// How often it is looked whether the module is still in use.
    const LOOK: Duration = Duration::from_secs(5);
    /// Time before another try when there was no new instance to be had.
    const PAUSE: Duration = Duration::from_secs(1);
    loop {
        let Some(wanted) = plugin.upgrade().map(|plugin| plugin.wanted()) else { return };
        let _ = tokio::time::timeout(LOOK, wanted.notified()).await;
        let Some(strong) = plugin.upgrade() else { return };
        if !strong.wants_instances() {
            continue;
        }
        let work = tokio::task::spawn_blocking(move || strong.refill());
        if !work.await.unwrap_or(false) {
            tokio::time::sleep(PAUSE).await;
        }
    }
}
