//! The modules of a node: which version of each is ready, which is on its way,
//! which was refused.
//!
//! [`Modules::find`] is asked while a chain is built and answers at once: a
//! module that is not ready is prepared on a thread beside, and
//! [`Modules::changed`] tells when that has come to an end, for the chain to be
//! built again. Until then the chain that runs keeps running, with the version
//! it has. A version nobody runs any more is freed with its last call.

mod prepare;
mod trials;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, mpsc};

use super::LoadError;
use super::comparison::{Breaking, Comparisons};
use super::engine::{Engine, EngineOptions};
use super::host::Services;
use super::ledger::{Ledger, Origin};
use super::module::Plugin;
use super::timers;
use super::trial::Trial;
use super::trust::{Provenance, Trust, TrustFault};
use crate::config::objects::{Module, ModuleVersion};
use crate::config::{self, Blobs, Id};
use prepare::{Components, Done, Failure};
pub use trials::Ended;
use trials::Tried;

/// Time before bytes that were not there are asked for again.
const AGAIN: Duration = Duration::from_secs(2);
/// Modules that are compiled or tried out at one time.
const JOBS_MAX: usize = 2;
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

    /// Since when the version serves that a module's object has serve; none until it does.
    #[must_use]
    pub fn serving_since(&self, object: &Module) -> Option<SystemTime> {
        let (version, since) = self.serving.get(&object.id)?;
        object.serving().is_some_and(|serving| *serving.version == **version).then_some(*since)
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
}

/// The module's configuration with what a route says over it.
fn overlaid(config: &Map<String, Value>, overlay: &Value) -> Value {
    let mut all = config.clone();
    for (field, value) in overlay.as_object().into_iter().flatten() {
        all.insert(field.clone(), value.clone());
    }
    Value::Object(all)
}
