//! A module as a route names it: one version of a component with one
//! configuration, its instances, and how calls of it go.
//!
//! [`Plugin::open`] tries a component out and warms its instances; nothing of
//! that is for a thread that serves. After it every call is one of the methods
//! below; a [`Visit`] holds what the calls of one exchange share. An error drops
//! the instance it happened in, and nothing else.

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

use super::abi::{ChunkVerdict, Frame, FrameRuling, Head, HeadVerdict, Interest, Phases};
use super::component::{Component, Interface, Made};
use super::edge::{Function, Spec};
use super::host::{Lines, Note, Owner, Services};
use super::image;
use super::instance::{Config, Live, Side, shorten};
use super::limits::Limits;
use super::slots::{Slot, Slots};
use super::stats::{Health, Stats};
use super::{CallError, LoadError};

/// The most of a body a module may ask for, in bytes.
pub const BODY_BYTES_MAX: u32 = 16 << 20;
/// The shortest time between two runs of a timer.
pub(super) const TIMER_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// How long the call may take that tries a module out; the first one is slow.
const TRIAL_DEADLINE: Duration = Duration::from_millis(200);
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

/// What the calls of one exchange share.
#[derive(Default)]
pub struct Visit {
    exchange: u64,
    slot: Option<Arc<Slot>>,
    alone: Option<Box<Alone>>,
}

/// An instance that serves one exchange.
struct Alone {
    live: Live,
    count: Arc<AtomicUsize>,
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Relaxed);
    }
}

impl Visit {
    /// The number that names the exchange for the module; 0 before the first call.
    #[must_use]
    pub fn exchange(&self) -> u64 {
        self.exchange
    }
}

impl fmt::Debug for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visit").field("exchange", &self.exchange).finish_non_exhaustive()
    }
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

/// A verdict, and what the guest noted on the way.
pub type Told<T> = (Result<T, CallError>, Vec<Note>);

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

    /// Shows it a request's head. `end` says that no body follows.
    pub async fn request_head(&self, visit: &mut Visit, head: Head<'_>, end: bool) -> Told<HeadVerdict> {
        let (given, deadline) = self.given(head.bytes.len());
        let act = async |live: &mut Live, id| live.on_head(Side::Request, id, head, end, deadline).await;
        self.call(visit, given, act).await
    }

    /// Shows it a piece of a request's body.
    pub async fn request_body(&self, visit: &mut Visit, chunk: &[u8], end: bool) -> Told<ChunkVerdict> {
        let (given, deadline) = self.given(chunk.len());
        let act = async |live: &mut Live, id| live.on_body(Side::Request, id, chunk, end, deadline).await;
        self.call(visit, given, act).await
    }

    /// Shows it a response's head.
    pub async fn response_head(&self, visit: &mut Visit, head: Head<'_>, end: bool) -> Told<HeadVerdict> {
        let (given, deadline) = self.given(head.bytes.len());
        let act = async |live: &mut Live, id| live.on_head(Side::Response, id, head, end, deadline).await;
        self.call(visit, given, act).await
    }

    /// Shows it a piece of a response's body.
    pub async fn response_body(&self, visit: &mut Visit, chunk: &[u8], end: bool) -> Told<ChunkVerdict> {
        let (given, deadline) = self.given(chunk.len());
        let act = async |live: &mut Live, id| live.on_body(Side::Response, id, chunk, end, deadline).await;
        self.call(visit, given, act).await
    }

    /// Shows it the frames of one read; gives a ruling for each.
    pub async fn frames(
        &self,
        visit: &mut Visit,
        connection: u64,
        peer: &str,
        buffer: &[u8],
        frames: &[Frame],
    ) -> Told<Vec<FrameRuling>> {
        let (given, deadline) = self.given(buffer.len());
        self.call(visit, given, async |live, _| {
            let rulings = live.on_frames(connection, peer, buffer, frames, deadline).await?;
            if rulings.len() != frames.len() {
                let (given, wanted) = (rulings.len(), frames.len());
                return Err(CallError::Garbage(format!("{given} verdicts for {wanted} frames")));
            }
            Ok(rulings)
        })
        .await
    }

    /// Runs its timer once.
    pub async fn tick(&self, visit: &mut Visit) -> Told<Result<(), String>> {
        // Nobody waits for it.
        let deadline = self.owner.limits.deadline.max(Duration::from_secs(1));
        self.call(visit, 0, async |live, _| live.tick(deadline).await).await
    }

    /// Calls one of its other exports on any instance, with so many bytes.
    pub(super) async fn with<T>(
        &self,
        bytes: usize,
        act: impl AsyncFnOnce(&mut Live, Duration) -> Result<T, CallError>,
    ) -> Told<T> {
        let (given, deadline) = self.given(bytes);
        self.call(&mut Visit::default(), given, async |live, _| act(live, deadline).await).await
    }

    /// Bytes a call is given, and the time it has for them.
    fn given(&self, bytes: usize) -> (usize, Duration) {
        (bytes, self.owner.limits.deadline_for(bytes))
    }

    /// Counts a verdict that was refused after the call: the instance is kept,
    /// since it kept the rules of its interface.
    pub fn note_garbage(&self) {
        self.health.failed(&CallError::Garbage("a verdict that is not allowed".to_owned()), 0);
    }

    /// One call on an instance: the exchange's own, or any.
    async fn call<T>(
        &self,
        visit: &mut Visit,
        given: usize,
        act: impl AsyncFnOnce(&mut Live, u64) -> Result<T, CallError>,
    ) -> Told<T> {
        if let Err(error) = self.health.begin() {
            return (Err(error), Vec::new());
        }
        if visit.exchange == 0 {
            visit.exchange = self.owner.services.next_exchange();
        }
        let (outcome, notes) = match self.mode {
            Mode::Reuse => self.call_shared(visit, act).await,
            Mode::Fresh => self.call_alone(visit, act).await,
        };
        match &outcome {
            Ok(_) => self.health.succeeded(),
            Err(error) => self.health.failed(error, given),
        }
        (outcome, notes)
    }

    async fn call_shared<T>(
        &self,
        visit: &mut Visit,
        act: impl AsyncFnOnce(&mut Live, u64) -> Result<T, CallError>,
    ) -> Told<T> {
        let (slot, mut live) = match self.take(visit).await {
            Ok(taken) => taken,
            Err(error) => return (Err(error), Vec::new()),
        };
        let outcome = act(&mut live, visit.exchange).await;
        let notes = live.take_notes();
        if outcome.is_ok() {
            let is_spent = live.calls_left == 0 || live.memory() >= self.owner.limits.memory_max / 4 * 3;
            if is_spent && self.is_quick {
                // The next call makes a new one; exchanges under way begin anew.
                drop(live);
            } else {
                if is_spent {
                    self.want(slot.place());
                }
                slot.put(live);
            }
        } else {
            drop(live);
            self.want(slot.place());
        }
        visit.slot = Some(slot);
        (outcome, notes)
    }

    /// An instance: that of the exchange, else one that is free, else a new one
    /// where that is quick.
    async fn take(&self, visit: &Visit) -> Result<(Arc<Slot>, Box<Live>), CallError> {
        if let Some(own) = &visit.slot
            && let Some(live) = own.take()
        {
            return Ok((Arc::clone(own), live));
        }
        if let Some(taken) = self.slots.take() {
            return Ok(taken);
        }
        let Some(place) = self.slots.empty() else { return Err(CallError::Busy) };
        if !self.is_quick {
            self.want(place);
            return Err(CallError::Busy);
        }
        let live = self.start().await.map_err(call_error)?;
        Ok((self.slots.renew(place), Box::new(live)))
    }

    async fn call_alone<T>(
        &self,
        visit: &mut Visit,
        act: impl AsyncFnOnce(&mut Live, u64) -> Result<T, CallError>,
    ) -> Told<T> {
        let mut alone = match visit.alone.take() {
            Some(alone) => alone,
            None => match self.start_alone().await {
                Ok(alone) => alone,
                Err(error) => return (Err(error), Vec::new()),
            },
        };
        let outcome = act(&mut alone.live, visit.exchange).await;
        let notes = alone.live.take_notes();
        if outcome.is_ok() {
            visit.alone = Some(alone);
        }
        (outcome, notes)
    }

    async fn start_alone(&self) -> Result<Box<Alone>, CallError> {
        if self.alone.fetch_add(1, Relaxed) >= self.owner.limits.concurrency {
            self.alone.fetch_sub(1, Relaxed);
            return Err(CallError::Busy);
        }
        let count = Arc::clone(&self.alone);
        match self.start().await {
            Ok(live) => Ok(Box::new(Alone { live, count })),
            Err(error) => {
                self.alone.fetch_sub(1, Relaxed);
                Err(call_error(error))
            }
        }
    }

    async fn start(&self) -> Result<Live, LoadError> {
        let mut live = match &self.image {
            Some(Ok(image)) => Live::instantiate(image, &self.owner).await?,
            _ => Live::start(&self.component, &self.owner, &self.config).await?.0,
        };
        if self.mode == Mode::Reuse {
            live.calls_left = super::slots::calls_of_a_life();
        }
        Ok(live)
    }

    /// Has a place filled beside the traffic.
    fn want(&self, place: usize) {
        if !self.is_quick {
            self.slots.want(place);
            self.wanted.notify_one();
        }
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

fn call_error(error: LoadError) -> CallError {
    match error {
        LoadError::Tried(error) => error,
        other => CallError::Trap(other.to_string()),
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

/// Runs a call where nobody can wait: ready at once, or not at all.
pub fn at_once<T>(future: impl Future<Output = Told<T>>) -> Told<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(told) => told,
        Poll::Pending => (Err(CallError::Waits), Vec::new()),
    }
}

/// The image of a component, tried out as the component was; or why there is none.
///
/// # Errors
/// There is no place for an instance at this moment.
fn make_image(
    component: &Component,
    source: Source<'_>,
    owner: &Arc<Owner>,
    config: &Arc<Config>,
    interest: &Interest,
) -> Result<Result<Arc<Component>, String>, LoadError> {
    let made = source().map_err(LoadError::NoImage).and_then(|bytes| {
        let image = image::bake(component, &bytes, owner, config)?;
        wait(async {
            let mut live = Live::instantiate(&image, owner).await?;
            try_out(&mut live, interest).await.map_err(LoadError::Tried)
        })?;
        Ok(image)
    });
    match made {
        Ok(image) => Ok(Ok(image)),
        Err(error @ LoadError::Tried(CallError::Busy)) => Err(error),
        Err(error) => {
            let reason = shorten(&match error {
                LoadError::NoImage(why) => why,
                other => format!("its image {other}"),
            });
            tracing::info!(module = %owner.module, reason, "each new instance of a module is configured");
            Ok(Err(reason))
        }
    }
}

fn check_grants(component: &Component, settings: &Settings) -> Result<(), LoadError> {
    for grant in &component.outline().grants {
        let is_given = match *grant {
            "kv" => !settings.kv.is_empty() || !settings.store.is_empty(),
            _ => !settings.fetch.is_empty(),
        };
        if !is_given {
            let import = match *grant {
                "kv" => "sluice:plugin/key-value",
                _ => "sluice:plugin/fetch",
            };
            return Err(LoadError::NotGranted { import: import.to_owned(), grant });
        }
    }
    Ok(())
}

fn check_interest(component: &Component, interest: Interest) -> Result<Interest, LoadError> {
    let needs = [
        (Phases::REQUEST_HEAD | Phases::REQUEST_BODY, Interface::RequestFilter),
        (Phases::RESPONSE_HEAD | Phases::RESPONSE_BODY, Interface::ResponseFilter),
        (Phases::FRAMES, Interface::FrameFilter),
    ];
    for (phases, interface) in needs {
        if (interest.phases & phases) != Phases::empty() && !component.has(interface) {
            let name = interface.name();
            return Err(LoadError::Interest(format!("phases of {name}, which it does not export")));
        }
    }
    for (field, value) in
        [("request-body-max", interest.request_body_max), ("response-body-max", interest.response_body_max)]
    {
        if value > BODY_BYTES_MAX {
            return Err(LoadError::Interest(format!("{field} of {value}, at most {BODY_BYTES_MAX}")));
        }
    }
    let interval = interest.timer_interval;
    if interval > 0 && u128::from(interval) < TIMER_INTERVAL_MIN.as_millis() {
        return Err(LoadError::Interest(format!("timer-interval of {interval} ms, at least 100")));
    }
    if interval > 0 && !component.has(Interface::Timer) {
        return Err(LoadError::Interest("timer-interval without exporting timer".to_owned()));
    }
    Ok(interest)
}

/// Calls what the module wants, with harmless input.
async fn try_out(live: &mut Live, interest: &Interest) -> Result<(), CallError> {
    let wants = |phase: Phases| (interest.phases & phase) != Phases::empty();
    if wants(Phases::REQUEST_HEAD) {
        let text = b"GEThttplocalhost/127.0.0.1";
        let spans = [0, 3, 3, 4, 7, 9, 16, 1, 17, 9];
        live.on_head(Side::Request, 0, Head { bytes: text, spans: &spans }, true, TRIAL_DEADLINE).await?;
    }
    if wants(Phases::RESPONSE_HEAD) {
        let head = Head { bytes: b"200", spans: &[0, 3] };
        live.on_head(Side::Response, 0, head, true, TRIAL_DEADLINE).await?;
    }
    if wants(Phases::FRAMES) {
        live.on_frames(0, "127.0.0.1", &[], &[], TRIAL_DEADLINE).await?;
    }
    live.take_notes();
    Ok(())
}
