//! A module as a route names it: one version of a component with one
//! configuration, its instances, and how calls of it go.
//!
//! [`Plugin::open`] tries a component out and warms its instances; nothing of
//! that is for a thread that serves. After it every call is one of its methods; a
//! [`Visit`] holds what the calls of one exchange share. An error drops the
//! instance it happened in, and nothing else.

mod calls;
mod checks;

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Notify;

use super::LoadError;
use super::abi::Interest;
use super::component::{Component, Interface, Made};
use super::edge::{Function, Spec};
use super::host::{Lines, Owner, Services};
use super::instance::{Config, Live, shorten};
use super::limits::Limits;
use super::slots::Slots;
use super::stats::{Health, Stats};
pub use calls::{Told, Visit, at_once};
use checks::{check_grants, check_interest, make_image, try_out};

/// The most of a body a module may ask for, in bytes.
pub const BODY_BYTES_MAX: u32 = 16 << 20;
/// The shortest time between two runs of a timer.
pub(super) const TIMER_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// A module that is configured in less than this gets new instances where they
/// are needed; others get them beside the traffic.
const QUICK_CONFIGURE: Duration = Duration::from_millis(2);

/// Whether instances serve one exchange or many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// A few instances serve all exchanges.
    #[default]
    Reuse,
    /// Each exchange has an instance of its own.
    Fresh,
}

/// What becomes of an exchange when its module fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// It goes on without the module.
    Open,
    /// It is refused.
    #[default]
    Closed,
}

/// What a module is used with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The module's name.
    pub name: Arc<str>,
    /// Its version, for logs.
    pub version: Arc<str>,
    /// What `configure` is given: an object.
    pub config: Value,
    /// How its instances are used.
    pub mode: Mode,
    /// What its failures do.
    pub on_failure: OnFailure,
    /// What it may use.
    pub limits: Limits,
    /// Namespaces of the key-value store it may use.
    pub kv: Vec<String>,
    /// Namespaces of the values it shares on all nodes; its calls may wait then.
    pub store: Vec<String>,
    /// Hosts it may fetch from; none: it may not.
    pub fetch: Vec<String>,
    /// Instances that are kept ready, at most `limits.concurrency`.
    pub slots: usize,
}

impl Settings {
    /// A module with this configuration and the defaults for the rest.
    #[must_use]
    pub fn new(name: &str, config: Value) -> Self {
        Self {
            name: name.into(),
            version: "".into(),
            config,
            mode: Mode::default(),
            on_failure: OnFailure::default(),
            limits: Limits::default(),
            kv: Vec::new(),
            store: Vec::new(),
            fetch: Vec::new(),
            slots: 2,
        }
    }
}

/// A version of a module with a configuration, ready to be called.
pub struct Plugin {
    component: Arc<Component>,
    owner: Arc<Owner>,
    config: Arc<Config>,
    version: Arc<str>,
    mode: Mode,
    on_failure: OnFailure,
    interest: Interest,
    /// Of an edge function: what is called, in place of all others.
    function: Option<Function>,
    /// What instances of exchanges of their own are made of; or why they are
    /// configured one by one.
    image: Option<Result<Arc<Component>, String>>,
    slots: Slots,
    /// Instances of exchanges of their own.
    alone: Arc<AtomicUsize>,
    health: Arc<Health>,
    is_quick: bool,
    wanted: Arc<Notify>,
    since: std::time::SystemTime,
    prepared_in: Duration,
}

/// Runs what waits on the runtime that is current, or on one of its own.
pub(super) fn on_a_runtime<T>(future: impl Future<Output = Result<T, LoadError>>) -> Result<T, LoadError> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.block_on(future),
        Err(_) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| LoadError::Engine(error.to_string()))?
            .block_on(future),
    }
}

/// Gives the bytes of a component, or says why it cannot.
pub type Source<'a> = &'a dyn Fn() -> Result<Vec<u8>, String>;

impl Plugin {
    /// Tries a component out with its settings: imports against grants, an
    /// instance, `configure`, and a call of each kind it wants. Where each exchange
    /// gets an instance, makes the image these begin with; `source` gives the
    /// component's bytes for it. Blocks for as long as that takes.
    ///
    /// # Errors
    /// Says why it cannot be used.
    pub fn open(
        component: &Arc<Component>,
        settings: Settings,
        services: &Arc<Services>,
        source: Source<'_>,
    ) -> Result<Arc<Self>, LoadError> {
        let opened = Instant::now();
        check_grants(component, &settings)?;
        let config = Config::new(settings.config);
        let owner = Arc::new(Owner {
            module: settings.name,
            kv: settings.kv.into_iter().map(Into::into).collect(),
            store: settings.store.into_iter().map(Into::into).collect(),
            fetch: settings.fetch.into_iter().map(Into::into).collect(),
            limits: settings.limits,
            services: Arc::clone(services),
            lines: Lines::new(),
        });
        let health = Arc::new(Health::new(Arc::clone(&owner.module), Arc::clone(&settings.version)));
        if let Made::Function(code) = &component.made {
            let spec = Spec::new(Arc::clone(&owner), Arc::clone(&config), settings.mode);
            let (edge, _) = component.engine().edge()?;
            let opening = Function::open(edge, code, &spec, Arc::clone(&health), settings.slots);
            let function = on_a_runtime(opening)?;
            return Ok(Arc::new(Self {
                component: Arc::clone(component),
                version: settings.version,
                mode: settings.mode,
                on_failure: settings.on_failure,
                interest: Interest::none(),
                function: Some(function),
                image: None,
                slots: Slots::new(0),
                alone: Arc::default(),
                health,
                is_quick: true,
                wanted: Arc::default(),
                since: std::time::SystemTime::now(),
                prepared_in: opened.elapsed(),
                owner,
                config,
            }));
        }
        let (interest, is_quick, live) = wait(async {
            let began = Instant::now();
            let (mut live, interest) = Live::start(component, &owner, &config).await?;
            let is_quick = began.elapsed() < QUICK_CONFIGURE;
            let interest = check_interest(component, interest)?;
            try_out(&mut live, &interest).await.map_err(LoadError::Tried)?;
            Ok::<_, LoadError>((interest, is_quick, live))
        })?;
        let (slots, image) = match settings.mode {
            Mode::Reuse => (settings.slots.clamp(1, owner.limits.concurrency.max(1)), None),
            Mode::Fresh => (0, Some(make_image(component, source, &owner, &config, &interest)?)),
        };
        let plugin = Self {
            component: Arc::clone(component),
            version: settings.version,
            mode: settings.mode,
            on_failure: settings.on_failure,
            interest,
            function: None,
            image,
            slots: Slots::new(slots),
            alone: Arc::default(),
            health,
            is_quick,
            wanted: Arc::default(),
            since: std::time::SystemTime::now(),
            prepared_in: opened.elapsed(),
            owner,
            config,
        };
        if slots > 0 {
            plugin.slots.fill(0, live);
            for place in 1..slots {
                plugin.slots.fill(place, wait(plugin.start())?);
            }
        }
        Ok(Arc::new(plugin))
    }

    /// What it wants to see.
    #[must_use]
    pub fn interest(&self) -> &Interest {
        &self.interest
    }

    /// Whether its calls may have to be waited for.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.component.waits || self.owner.may_wait()
    }

    /// Its module's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.owner.module
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// What its failures do.
    #[must_use]
    pub fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    /// The component it runs.
    #[must_use]
    pub fn component(&self) -> &Arc<Component> {
        &self.component
    }

    /// The edge function it is, if it is one.
    #[must_use]
    pub fn function(&self) -> Option<&Function> {
        self.function.as_ref()
    }

    /// Whether the instances of exchanges of their own begin configured, or why
    /// they do not; nothing where instances are used again.
    #[must_use]
    pub fn image(&self) -> Option<Result<(), &str>> {
        self.image.as_ref().map(|image| image.as_ref().map(|_| ()).map_err(String::as_str))
    }

    /// What has been counted of its calls.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.health.stats
    }

    /// Instances it has.
    #[must_use]
    pub fn instances(&self) -> usize {
        let own = self.function.as_ref().map_or(0, Function::instances);
        own + self.slots.count() + self.alone.load(Relaxed)
    }

    /// Bytes of linear memory of the largest of its instances that wait for a
    /// call; 0 where each exchange has one of its own.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.slots.memory()
    }

    /// Whether it is not called for a while.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.health.is_broken()
    }

    /// Takes it out of service, or back: withdrawn, it is called no more and keeps no
    /// instances, whatever still holds it. Calls under way end.
    pub(super) fn set_withdrawn(&self, is_withdrawn: bool) {
        self.health.set_withdrawn(is_withdrawn);
        while is_withdrawn && self.slots.take().is_some() {}
    }

    /// Whether it is not called any more: no trust key vouches for it.
    #[must_use]
    pub fn is_withdrawn(&self) -> bool {
        self.health.is_withdrawn()
    }

    /// Since when it has been ready.
    #[must_use]
    pub fn since(&self) -> std::time::SystemTime {
        self.since
    }

    /// How long it took to try it out.
    #[must_use]
    pub fn prepared_in(&self) -> Duration {
        self.prepared_in
    }

    /// Told when [`refill`](Self::refill) has something to do.
    pub(super) fn wanted(&self) -> Arc<Notify> {
        Arc::clone(&self.wanted)
    }

    /// Whether it has.
    pub(super) fn wants_instances(&self) -> bool {
        self.slots.is_any_wanted()
    }

    /// Whether it can say what a change of its configuration breaks.
    #[must_use]
    pub fn compares(&self) -> bool {
        self.component.has(Interface::Comparison)
    }

    /// Whether it is used with another configuration than `other`.
    #[must_use]
    pub fn differs(&self, other: &Self) -> bool {
        self.config != other.config
    }

    /// What clients written for the configuration of `old` would stumble over with
    /// its own, by an instance made for this. For a thread that may block.
    pub(super) fn breaking(&self, old: &Self) -> Result<Vec<String>, String> {
        let deadline = self.owner.limits.configure_deadline;
        let answer = wait(async {
            let mut live = self.start().await.map_err(|error| error.to_string())?;
            live.breaking(&old.config.text, deadline).await.map_err(|error| error.to_string())
        })?;
        Ok(answer.map_err(|why| shorten(&why))?.iter().map(|change| shorten(change)).collect())
    }

    /// Fills the places that calls found empty or spent; for a thread that may
    /// block. Says whether it could.
    pub fn refill(&self) -> bool {
        for place in self.slots.wanted() {
            match wait(self.start()) {
                Ok(live) => self.slots.fill(place, live),
                Err(error) => {
                    tracing::warn!(module = %self.owner.module, %error, "a module gets no new instance");
                    self.slots.want(place);
                    return false;
                }
            }
        }
        true
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.owner.module)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// Runs a future of this module to its end, on a thread that may block.
///
/// # Panics
/// On a thread that runs tasks, if the future has to wait.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static OWN: Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime of one thread needs nothing that can be missing");
    }
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    match Handle::try_current() {
        // Components that never wait are done at the first poll.
        Ok(handle) => match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => value,
            Poll::Pending => handle.block_on(future),
        },
        Err(_) => OWN.with(|runtime| runtime.block_on(future)),
    }
}
