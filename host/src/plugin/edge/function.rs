//! An edge function: a compiled component with its configuration, and the
//! instances that serve its requests.
//!
//! Every worker thread has instances of its own, so that a call never leaves
//! its thread. How an instance is driven is the library's part
//! ([`ProxyHandler`]); how long it lives, what it may use and when it is given
//! up is decided here.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::Sleep;
use wasmtime::component::{
    Component, ComponentExportIndex, ComponentNamedList, GuestTaskId, Instance as Linked, Lift, Linker,
    Lower, TypedFunc,
};
use wasmtime::{AsContextMut, Store, StoreContextMut};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, Proxy, ProxyHandler, ProxyPre, ShouldAccept, WorkerExpiration, WorkerState,
    WorkerStatus,
};
use wasmtime_wasi_http::p2::bindings as p2;
use wasmtime_wasi_http::p3::bindings as p3;

use super::EdgeCall;
use super::engine::EdgeEngine;
use super::state::{DeadlinePassed, EdgeState};
use crate::plugin::abi::{Configure, Interest, Tick};
use crate::plugin::host::{self, FileAccess, Owner};
use crate::plugin::instance::{Config, Signature};
use crate::plugin::module::{Mode, TIMER_INTERVAL_MIN};
use crate::plugin::stats::Health;
use crate::plugin::{CallError, LoadError};

/// How long the timer of a function may compute, at least.
const TIMER_DEADLINE_MIN: Duration = Duration::from_secs(1);
/// How long an instance that may be used again waits for its next request.
const IDLE_TIME: Duration = Duration::from_secs(10);
/// How long an instance may go on after its response was sent.
const AFTERWARDS_TIME: Duration = Duration::from_secs(10);
/// How long one request may wait on others' answers, over all; the route's
/// own times are usually shorter.
const REQUEST_TIME: Duration = Duration::from_secs(120);
/// Requests an instance serves that may be used again.
pub const REUSES_MAX: usize = 1000;

/// What a function is made of besides its component.
#[derive(Clone)]
pub(in crate::plugin) struct Spec {
    /// Whose it is, and what it may use.
    pub(in crate::plugin) owner: Arc<Owner>,
    /// What `configure` is given, where it is exported.
    pub(in crate::plugin) config: Arc<Config>,
    /// What `wasi:config/store` answers.
    pub(super) variables: Arc<WasiConfigVariables>,
    /// Requests an instance serves before it is made anew.
    requests_max: usize,
}

impl Spec {
    /// Instances that serve one request each, or [`REUSES_MAX`] one after the other.
    pub(in crate::plugin) fn new(owner: Arc<Owner>, config: Arc<Config>, mode: Mode) -> Self {
        let variables = variables_of(&config.value);
        let requests_max = match mode {
            Mode::Fresh => 1,
            Mode::Reuse => REUSES_MAX,
        };
        Self { owner, config, variables, requests_max }
    }
}

/// Values of `wasi:config/store`: the configuration's members, text as it is
/// and anything else as JSON.
fn variables_of(config: &serde_json::Value) -> Arc<WasiConfigVariables> {
    let pairs = config.as_object().into_iter().flatten().map(|(key, value)| match value {
        serde_json::Value::String(text) => (key.clone(), text.clone()),
        other => (key.clone(), other.to_string()),
    });
    Arc::new(pairs.collect())
}

/// A function that can be called.
pub struct Function {
    workers: Box<[PerWorker]>,
    health: Arc<Health>,
    alive: Arc<AtomicUsize>,
    concurrency: usize,
    timer: Option<Timer>,
}

struct PerWorker {
    handler: ProxyHandler<Instances>,
    under_way: Arc<AtomicUsize>,
}

/// What a function that exports a timer asked for.
#[derive(Debug, Clone, Copy)]
struct Timer {
    interval: Duration,
    tick: ComponentExportIndex,
}

impl Function {
    /// Prepares a component for as many worker threads, and makes one instance
    /// to see that it starts and takes its configuration.
    ///
    /// # Errors
    /// What its start ends in, or why it refuses its configuration.
    pub(in crate::plugin) async fn open(
        engine: &EdgeEngine,
        code: &Arc<Prepared>,
        spec: &Spec,
        health: Arc<Health>,
        workers: usize,
    ) -> Result<Self, LoadError> {
        let alive = Arc::new(AtomicUsize::new(0));
        let instances = || Instances {
            engine: engine.clone(),
            code: Arc::clone(code),
            spec: spec.clone(),
            alive: Arc::clone(&alive),
        };
        let (_, _, interest) = instances().start().await?;
        let interval = interest.map_or(0, |interest| interest.timer_interval);
        let timer = code.tick.filter(|_| interval > 0).map(|tick| {
            let interval = Duration::from_millis(interval.into()).max(TIMER_INTERVAL_MIN);
            Timer { interval, tick }
        });
        let workers = (0..workers.max(1))
            .map(|_| PerWorker { handler: ProxyHandler::new(instances()), under_way: Arc::default() })
            .collect();
        Ok(Self { workers, health, alive, concurrency: spec.owner.limits.concurrency, timer })
    }

    /// Instances it has at this moment.
    #[must_use]
    pub fn instances(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }

    /// A call on this worker's instances, to be driven by the HTTP flow.
    ///
    /// # Errors
    /// [`CallError::Busy`] when as many are under way as may be, and
    /// [`CallError::BreakerOpen`] when it failed too often.
    pub fn call(&self, worker: usize) -> Result<EdgeCall, CallError> {
        self.health.begin()?;
        let own = &self.workers[worker % self.workers.len()];
        match Place::take(&own.under_way, self.concurrency) {
            Some(place) => Ok(EdgeCall::new(own.handler.clone(), place, Arc::clone(&self.health))),
            None => {
                self.health.failed(&CallError::Busy, 0);
                Err(CallError::Busy)
            }
        }
    }

    /// How often [`tick`](Self::tick) is to be called; `None`: never.
    pub(in crate::plugin) fn timer_interval(&self) -> Option<Duration> {
        self.timer.map(|timer| timer.interval)
    }

    /// Runs its timer once, on an instance of its own.
    pub(in crate::plugin) async fn tick(&self) -> Result<Result<(), String>, LoadError> {
        let (Some(timer), Some(worker)) = (self.timer, self.workers.first()) else { return Ok(Ok(())) };
        let instances = worker.handler.state();
        let (mut store, instance, _) = instances.start().await?;
        // Nobody waits for it.
        let deadline = instances.spec.owner.limits.deadline.max(TIMER_DEADLINE_MIN);
        EdgeState::begin(store.as_context_mut(), deadline, Arc::default());
        let function = typed::<Tick>(&mut store, &instance, timer.tick, "timer.tick")?;
        let (answer,) = function.call_async(&mut store, ()).await.map_err(|error| tried(&error))?;
        Ok(answer)
    }
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Function").field("instances", &self.instances()).finish_non_exhaustive()
    }
}

/// A compiled function, linked.
pub(in crate::plugin) struct Prepared {
    pre: ProxyPre<EdgeState>,
    configure: Option<ComponentExportIndex>,
    tick: Option<ComponentExportIndex>,
}

impl Prepared {
    /// Links the imports a function may have.
    ///
    /// # Errors
    /// When the component imports what is not given to edge functions, or
    /// exports no `wasi:http` handler that fits; the message names it.
    pub(in crate::plugin) fn new(engine: &EdgeEngine, code: &Component) -> wasmtime::Result<Self> {
        let mut linker: Linker<EdgeState> = Linker::new(engine.inner());
        host::add_all(&mut linker, |state| &mut state.host)?;
        // Everything a WASI guest may import is there; files, environment and
        // sockets among it are empty or refuse.
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_config::add_to_linker(&mut linker, |state: &mut EdgeState| {
            WasiConfig::from(&*state.variables)
        })?;
        let pre = linker.instantiate_pre(code)?;
        let pre = match p3::ServicePre::new(pre.clone()) {
            Ok(service) => ProxyPre::P3(service),
            Err(_) => ProxyPre::P2(p2::ProxyPre::new(pre)?),
        };
        let own = |interface: &str, function: &str| {
            let instance = code.get_export_index(None, format!("sluice:plugin/{interface}@0.1.0"))?;
            code.get_export_index(Some(&instance), function)
        };
        Ok(Self { pre, configure: own("lifecycle", "configure"), tick: own("timer", "tick") })
    }
}

fn tried(error: &wasmtime::Error) -> LoadError {
    if error.downcast_ref::<DeadlinePassed>().is_some() {
        return LoadError::Tried(CallError::Deadline);
    }
    LoadError::Tried(CallError::Trap(error.root_cause().to_string()))
}

type Typed<T> = TypedFunc<<T as Signature>::Params, <T as Signature>::Results>;

fn typed<T: Signature>(
    store: &mut Store<EdgeState>,
    instance: &Linked,
    index: ComponentExportIndex,
    name: &str,
) -> Result<Typed<T>, LoadError>
where
    T::Params: ComponentNamedList + Lower,
    T::Results: ComponentNamedList + Lift,
{
    instance
        .get_typed_func(store, index)
        .map_err(|error| LoadError::WrongType { export: name.to_owned(), why: format!("{error:#}") })
}

/// Counts an instance while it is there.
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(alive: &Arc<AtomicUsize>) -> Self {
        alive.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(alive))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place among the calls under way, given back when dropped.
pub(super) struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(under_way: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        if under_way.fetch_add(1, Ordering::Relaxed) >= most {
            under_way.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(Arc::clone(under_way)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes instances.
pub(super) struct Instances {
    engine: EdgeEngine,
    code: Arc<Prepared>,
    spec: Spec,
    alive: Arc<AtomicUsize>,
}

impl Instances {
    /// An instance that is configured, if it can be.
    async fn start(&self) -> Result<(Store<EdgeState>, Linked, Option<Interest>), LoadError> {
        let mut store = EdgeState::store(&self.engine, &self.spec).map_err(LoadError::Tried)?;
        let pre = match &self.code.pre {
            ProxyPre::P2(pre) => pre.instance_pre(),
            ProxyPre::P3(pre) => pre.instance_pre(),
        };
        let instance = pre.instantiate_async(&mut store).await.map_err(|error| tried(&error))?;
        store.data_mut().counted = Some(Counted::new(&self.alive));
        let Some(configure) = self.code.configure else { return Ok((store, instance, None)) };
        let configure = typed::<Configure<'_>>(&mut store, &instance, configure, "lifecycle.configure")?;
        let config = &self.spec.config;
        store.data_mut().host.files = Some(Box::new(FileAccess::of(config)));
        let answer = configure.call_async(&mut store, (&config.text,)).await;
        store.data_mut().host.files = None;
        let (answer,) = answer.map_err(|error| tried(&error))?;
        let interest = answer.map_err(LoadError::Refused)?;
        Ok((store, instance, Some(interest)))
    }
}

impl HandlerState for Instances {
    type StoreData = EdgeState;
    type WorkerExpiration = Patience;
    type WorkerState = InstanceUse;

    async fn instantiate(&self) -> wasmtime::Result<Instance<EdgeState, Patience, InstanceUse>> {
        let (mut store, instance, _) = self.start().await.map_err(|error| {
            tracing::warn!(module = &*self.spec.owner.module, %error, "edge function cannot be started");
            wasmtime::Error::new(error)
        })?;
        let proxy = match &self.code.pre {
            ProxyPre::P2(_) => Proxy::P2(p2::Proxy::new(&mut store, &instance)?),
            ProxyPre::P3(_) => Proxy::P3(p3::Service::new(&mut store, &instance)?),
        };
        let client = Client::default();
        Ok(Instance {
            store,
            proxy,
            view: EdgeState::http,
            expiration: Patience { client: Arc::clone(&client), sleep: None },
            state: InstanceUse {
                owner: Arc::clone(&self.spec.owner),
                requests_max: self.spec.requests_max,
                client,
            },
        })
    }
}

/// What joins a call and the instance that serves it.
pub(super) struct Ties {
    /// Resolved with `Ok` when the exchange ended well, dropped when it was
    /// broken off.
    pub(super) ending: oneshot::Receiver<()>,
    /// How the call went, as far as the instance knows.
    pub(super) fate: Arc<Fate>,
}

/// What became of a call on the instance's side.
#[derive(Debug, Default)]
pub(super) struct Fate {
    /// It passed its deadline.
    pub(super) passed: AtomicBool,
    /// Its instance failed.
    pub(super) broke: AtomicBool,
}

/// The end of the call under way, for who looks at an instance from outside.
type Client = Arc<Mutex<Option<oneshot::Receiver<()>>>>;

/// How often an instance is used.
pub(super) struct InstanceUse {
    owner: Arc<Owner>,
    requests_max: usize,
    client: Client,
}

impl WorkerState for InstanceUse {
    type StoreData = EdgeState;
    type RequestData = Ties;

    // One request at a time: what one client sent is never in memory that is
    // being worked on for another.
    fn should_accept_request(&self, under_way: usize, total: usize) -> ShouldAccept {
        match (total >= self.requests_max, under_way) {
            (true, _) => ShouldAccept::Never,
            (false, 0) => ShouldAccept::Yes,
            (false, _) => ShouldAccept::No,
        }
    }

    fn on_request_start(
        &self,
        store: StoreContextMut<'_, EdgeState>,
        ties: Ties,
        _task: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        EdgeState::begin(store, self.owner.limits.deadline, ties.fate);
        // Seen from within, the end of a call goes unseen while the guest waits in
        // a call of the host: it is for [`Patience`] to see.
        *self.client.lock() = Some(ties.ending);
        Box::pin(std::future::pending())
    }

    fn drop(&self, store: Store<EdgeState>, result: Result<(), wasmtime::Error>) {
        let Err(error) = result else { return };
        if self.client.lock().take().is_some_and(|mut ending| ending.try_recv() == Err(TryRecvError::Closed))
        {
            tracing::debug!(
                module = &*self.owner.module,
                "a client left; the function's instance is dropped"
            );
            return;
        }
        // Noted before the store is dropped, which ends what it was answering.
        store.data().broke();
        tracing::warn!(module = &*self.owner.module, error = %error.root_cause(), "edge function failed; its instance is dropped");
        tracing::debug!(module = &*self.owner.module, error = %format_args!("{error:#}"), "where it failed");
    }
}

/// How long an instance may stay in each state, and that it goes when its client
/// does.
pub(super) struct Patience {
    client: Client,
    sleep: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl WorkerExpiration for Patience {
    fn poll(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        status: WorkerStatus,
        start: Instant,
    ) -> Poll<()> {
        let until = start
            + match status {
                WorkerStatus::Idle => IDLE_TIME,
                WorkerStatus::Requests => REQUEST_TIME,
                WorkerStatus::PostReturn => AFTERWARDS_TIME,
            };
        let own = self.get_mut();
        let mut client = own.client.lock();
        if let Some(ending) = &mut *client
            && let Poll::Ready(ended) = Pin::new(ending).poll(context)
        {
            match ended {
                Ok(()) => *client = None,
                // It stays, for the instance's end to know why.
                Err(_) => return Poll::Ready(()),
            }
        }
        drop(client);
        let (set, sleep) =
            own.sleep.get_or_insert_with(|| (until, Box::pin(tokio::time::sleep_until(until.into()))));
        if *set != until {
            *set = until;
            sleep.as_mut().reset(until.into());
        }
        ready!(sleep.as_mut().poll(context));
        Poll::Ready(())
    }
}
