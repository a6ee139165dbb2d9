//! `sluice run`: start, live, end.
//!
//! The main thread is the control thread: it owns the listeners, applies the
//! configuration, probes nodes, answers status and metrics, and hears signals.
//! Each worker thread is told what to do through a channel of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::boot::{Address, Boot, TrustRule};
use super::worker::{Order, WorkerThread};
use super::{cli, limits, manager};
use crate::admin::{
    self, BindStatus, Gateway, ListenerStatus, LogCollector, MetricsSite, NetCollector, NodeInfo, Site,
    StatusCollector, StatusSite, UpstreamCollector,
};
use crate::config::cache::{self, Keeper};
use crate::config::objects;
use crate::config::source::{
    Describe, DirectorySource, EtcdOptions, EtcdSource, EtcdStart, SharedValues, Source, state_file,
};
use crate::config::{Blobs, KeptBlobs};
use crate::control::{Control, NodeView, Phase, Remote};
use crate::message::path_signature::FleetKey;
use crate::net::tls::Sessions;
use crate::net::{Counters, Inherited, Listeners, Outcome, Queue, takeover};
use crate::observe::{LogWriter, Metrics, host_name, start_events};
use crate::plugin::{EngineOptions, ModuleCollector, Modules, Services, Trust, TrustPolicy, code_folder};
use crate::proxy::{NodeIdentity, Shared};
use crate::server;
use crate::snapshot::{Builder, Checker, Snapshot};
use crate::upstream::{self, Environment, Runner, via::WayKey};

/// How long the other process may take in a takeover.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(20);
/// Time between two tries to bind an address that another process still has.
const BIND_PAUSE: Duration = Duration::from_millis(50);
/// Orders that wait for a worker.
const ORDERS_MAX: usize = 1024;
/// How long the last lines of the access log may take.
const LOG_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the gateway until it is told to end.
#[must_use]
pub(super) fn run(flags: &cli::Run) -> ExitCode {
    match start(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(flags: &cli::Run) -> Result<()> {
    let boot = boot(flags)?;
    start_events(&boot.log).map_err(anyhow::Error::msg)?;
    limits::raise_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .context("cannot start the control runtime")?;
    runtime.block_on(async { Main::new(boot, flags)?.run().await })
}

/// The boot file with what the command line says over it.
fn boot(flags: &cli::Run) -> Result<Boot> {
    let mut boot = match &flags.config {
        Some(path) => Boot::read(path)?,
        None => Boot::default(),
    };
    if let Some(directory) = &flags.conf {
        boot.store.directory = Some(directory.clone());
        boot.store.etcd = None;
    }
    if !flags.etcd.is_empty() {
        boot.store.etcd.get_or_insert_default().endpoints.clone_from(&flags.etcd);
    }
    if flags.takeover && boot.takeover.is_none() {
        anyhow::bail!("--takeover needs the path of the socket in the boot file's `takeover`");
    }
    Ok(boot)
}

/// The control thread's own.
struct Main {
    boot: Boot,
    directory: PathBuf,
    etcd: Option<EtcdOptions>,
    shared: Arc<Shared>,
    view: Arc<NodeView>,
    log: Arc<LogWriter>,
    environment: Arc<Environment>,
    listeners: Listeners,
    listener_statuses: Arc<Mutex<Vec<ListenerStatus>>>,
    workers: Vec<WorkerThread>,
    ready: Option<takeover::Ready>,
    retry_at: Option<Instant>,
    stop: CancellationToken,
}

/// What the control thread is told while it runs.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    reopen: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
        })
    }
}

impl Main {
    fn new(boot: Boot, flags: &cli::Run) -> Result<Self> {
        let fleet_key = boot.fleet_key()?;
        let workers = boot.workers();
        let connections_max = limits::connections_max();
        tracing::info!(connections_max, "as many connections as the descriptors allow");
        let counters = Arc::new(Counters::with_room(connections_max));
        let metrics = Metrics::new(workers, &boot.node.id);
        let log = LogWriter::start(&boot.log, &boot.node.id).context("cannot open the access log")?;
        let signing_key = fleet_key.as_deref().map(FleetKey::new).transpose().map_err(anyhow::Error::msg)?;
        let way_key = fleet_key.as_deref().and_then(|key| WayKey::new(&[key]));
        let environment = Environment::new(upstream::Options { way_key, ..upstream::Options::default() });
        let node = NodeIdentity {
            id: boot.node.id.as_str().into(),
            region: boot.node.region.as_str().into(),
            fleet_key: signing_key,
        };
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            counters,
            metrics,
            node,
            trace: boot.trace.origin().map_err(anyhow::Error::msg)?,
            im: Default::default(),
            environment: Arc::clone(&environment),
        });
        let etcd = boot.etcd()?;
        let directory = boot.store.directory.clone().unwrap_or_else(|| "conf".into());
        let listener_statuses = Arc::new(Mutex::new(Vec::new()));
        let view = Arc::new(NodeView::new(
            NodeInfo {
                id: boot.node.id.clone(),
                region: boot.node.region.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                hostname: host_name(),
                workers,
            },
            match &etcd {
                Some(etcd) => format!("etcd {} {}", etcd.endpoints.join(","), etcd.prefix),
                None => format!("directory {}", directory.display()),
            },
            Arc::clone(&shared),
            Box::new({
                let statuses = Arc::clone(&listener_statuses);
                move || statuses.lock().clone()
            }),
        ));
        let (inherited, ready) = inherited(&boot, flags)?;
        let listeners = Listeners::new(workers, inherited);
        let workers = server::seats(workers)
            .into_iter()
            .enumerate()
            .map(|(index, seat)| {
                WorkerThread::start(
                    index,
                    workers as u32,
                    seat,
                    Arc::clone(&shared),
                    log.worker(),
                    ORDERS_MAX,
                )
            })
            .collect::<std::io::Result<Vec<_>>>()
            .context("cannot start a worker thread")?;
        Ok(Self {
            boot,
            directory,
            etcd,
            shared,
            view,
            log,
            environment,
            listeners,
            listener_statuses,
            workers,
            ready,
            retry_at: None,
            stop: CancellationToken::new(),
        })
    }

    async fn run(mut self) -> Result<()> {
        let mut signals = Signals::new().context("cannot listen for signals")?;
        self.serve_status()?;
        let (source, keeper) = self.open_store()?;
        let writer = source.writer();
        let modules = self.modules(self.blobs(&source), source.values());
        let builder = Builder::new(
            Arc::clone(&self.environment),
            Arc::clone(&self.shared.metrics),
            Sessions::new(),
            modules,
        );
        let mut checker = Checker::new(Arc::clone(&self.environment));
        if source.values().is_none() {
            checker = checker.of_a_directory();
        }
        let (changed, mut changes) = watch::channel(0);
        let (questions, asked) = mpsc::channel(admin::QUESTIONS_MAX);
        self.serve_admin(admin::Desk::new(
            questions,
            changes.clone(),
            writer.clone(),
            self.boot.admin.history.into(),
        ))?;
        let control =
            Control::new(source, builder, Arc::clone(&self.shared), Arc::clone(&self.view), changed, checker)
                .answering(asked)
                .writing(writer.clone(), &self.boot.node.id)
                .keeping(keeper);
        let mut runner = Runner::start(&self.environment);
        let control = tokio::task::spawn_local(control.run(move |built| {
            runner.change(&built.upstreams.new, &built.upstreams.gone);
        }));
        // A process that takes over offers once it serves: until then the one
        // before does, also if this one does not come that far.
        let mut takers = match self.ready {
            None => Some(self.offer()?),
            Some(_) => None,
        };
        loop {
            let retry_at = self.retry_at.map_or_else(far_future, tokio::time::Instant::from_std);
            tokio::select! {
                result = changes.changed() => {
                    if result.is_err() {
                        anyhow::bail!("the store has ended");
                    }
                    self.apply_listeners().await;
                    if takers.is_none() {
                        takers = Some(self.offer()?);
                    }
                }
                () = tokio::time::sleep_until(retry_at) => {
                    let outcome = self.listeners.retry(Instant::now());
                    self.order(outcome).await;
                }
                _ = signals.hangup.recv() => {
                    tracing::info!("SIGHUP: reading everything again");
                    self.log.reopen();
                    writer.reread();
                }
                _ = signals.reopen.recv() => self.log.reopen(),
                _ = signals.terminate.recv() => break self.drain(Queue::Accept, &mut signals).await,
                _ = signals.interrupt.recv() => break self.drain(Queue::Accept, &mut signals).await,
                Some(taker) = next(&mut takers) => {
                    if self.hand_over(taker).await {
                        break self.drain(Queue::Leave, &mut signals).await;
                    }
                }
            }
        }
        control.abort();
        self.stop.cancel();
        if !self.log.close(LOG_CLOSE_TIMEOUT) {
            tracing::warn!("the last lines of the access log could not be written in time");
        }
        tracing::info!("ended");
        Ok(())
    }

    /// Where the bytes of modules come from; those of a remote store are kept.
    fn blobs(&self, source: &Source) -> Arc<dyn Blobs> {
        match (source, &self.boot.cache_dir) {
            (Source::Etcd(_), Some(folder)) => {
                Arc::new(KeptBlobs::new(source.blobs(), folder.join("components")))
            }
            _ => source.blobs(),
        }
    }

    /// The modules of this node, their bytes from `blobs`, with the values they share.
    fn modules(&self, blobs: Arc<dyn Blobs>, shared: Option<SharedValues>) -> Modules {
        let view = Arc::clone(&self.view);
        let health = Box::new(move |id: &str| view.node_health(id));
        let services = Services::new(self.directory.clone(), health, shared);
        let cache_dir = self.boot.cache_dir.as_deref().map(code_folder);
        let options = EngineOptions { cache_dir, ..EngineOptions::default() };
        let metrics = &self.shared.metrics;
        metrics.register(Arc::new(services.metrics.clone()));
        let policy = match self.boot.modules.trust {
            TrustRule::Off => TrustPolicy::Off,
            TrustRule::Required => TrustPolicy::Required,
        };
        let floors = self.boot.cache_dir.as_ref().map(|folder| folder.join("trust/floors.json"));
        let modules = Modules::new(options, services, blobs, self.workers.len());
        let node = &self.boot.node;
        let modules = modules.trusting(Trust::new(policy, floors)).at(&node.id, &node.region);
        metrics.register(Arc::new(ModuleCollector::new(modules.running())));
        modules
    }

    /// Opens the store, and what keeps its state where that is remote.
    fn open_store(&self) -> Result<(Source, Option<Keeper>)> {
        let Some(options) = self.etcd.clone() else {
            let source = DirectorySource::start(&self.directory)
                .with_context(|| format!("cannot read {}", self.directory.display()))?;
            return Ok((Source::Directory(source), None));
        };
        let prefix = options.prefix.clone();
        let (mut kept, mut keeper) = (None, None);
        if let Some(cache_dir) = &self.boot.cache_dir {
            let path = state_file(cache_dir);
            kept = cache::load(&path, &prefix, options.sealer.as_deref()).unwrap_or_else(|error| {
                tracing::error!(%error, "the kept state cannot be used");
                None
            });
            keeper = Some(
                Keeper::start(path, prefix, options.sealer.clone())
                    .context("cannot start the thread of the cache")?,
            );
        }
        let view = Arc::clone(&self.view);
        let describe: Describe = Box::new(move || view.registration());
        let node = Some((self.boot.node.id.clone(), describe));
        let source = EtcdSource::start(EtcdStart { options, kept, node }).context("store.etcd")?;
        self.view.watch_store(Remote { state: Box::new(source.state()), fleet: source.fleet() });
        Ok((Source::Etcd(source), keeper))
    }

    /// Serves status and metrics where the boot file says so.
    fn serve_status(&self) -> Result<()> {
        let metrics = &self.shared.metrics;
        let gateway: Arc<dyn Gateway> = Arc::clone(&self.view) as _;
        metrics.register(Arc::new(NetCollector::new(Arc::clone(&self.shared.counters), metrics)));
        metrics.register(Arc::new(LogCollector(Arc::clone(&self.log))));
        metrics.register(Arc::new(UpstreamCollector(Arc::clone(&self.environment))));
        metrics.register(Arc::new(StatusCollector(Arc::clone(&gateway))));
        let sites: [(&'static str, _, Arc<dyn Site>); 2] = [
            ("admin.status", self.boot.admin.status, Arc::new(StatusSite::new(gateway))),
            ("admin.metrics", self.boot.admin.metrics, Arc::new(MetricsSite::new(Arc::clone(metrics)))),
        ];
        for (field, address, site) in sites {
            self.serve_at(field, address, site)?;
        }
        Ok(())
    }

    /// Serves the Admin API where the boot file says so.
    fn serve_admin(&self, desk: admin::Desk) -> Result<()> {
        let keys = admin::Keys::new(self.boot.admin_keys()?);
        if let (true, Some(address)) = (keys.is_open(), self.boot.admin.api.0) {
            tracing::warn!(%address, "the Admin API asks for no key: anyone on this machine can change everything");
        }
        self.serve_at("admin.api", self.boot.admin.api, Arc::new(admin::AdminSite::new(keys, desk)))
    }

    fn serve_at(&self, field: &'static str, address: Address, site: Arc<dyn Site>) -> Result<()> {
        let Some(address) = address.0 else { return Ok(()) };
        let bound = admin::bind(address);
        if let (Err(error), None) = (&bound, &self.ready) {
            anyhow::bail!("{field}: cannot listen on {address}: {error}");
        }
        tokio::task::spawn_local(serve_site(field, address, bound, site, self.stop.clone()));
        Ok(())
    }

    /// Makes the snapshot's listeners the open ones.
    async fn apply_listeners(&mut self) {
        let wanted: Vec<_> = self.shared.snapshot.load().listeners.values().cloned().collect();
        let outcome = self.listeners.apply(&wanted, Instant::now());
        self.order(outcome).await;
        if self.ready.is_some() && wanted.is_empty() {
            // The process before serves; taking its place would end that.
            tracing::warn!("no listener is configured; the sockets are not taken over yet");
            return;
        }
        if let Some(ready) = self.ready.take()
            && let Err(error) = ready.announce()
        {
            tracing::warn!(%error, "the process before is gone already");
        }
        if self.shared.snapshot.load().revision > 0 {
            self.view.enter(Phase::Ready);
            manager::ready();
        }
    }

    /// Tells the workers, and shows, what came of a change of listeners.
    async fn order(&mut self, outcome: Outcome) {
        self.retry_at = outcome.retry_at;
        for error in &outcome.errors {
            tracing::warn!(%error, "a listener is not wholly open");
        }
        let snapshot = self.shared.snapshot.load_full();
        *self.listener_statuses.lock() = statuses(&self.listeners, &snapshot, &outcome);
        for (worker, change) in outcome.changes {
            self.workers[worker].order(Order::Change(change)).await;
        }
    }

    /// Offers the listening sockets to a new process, where the boot file says so.
    fn offer(&self) -> Result<mpsc::Receiver<takeover::Taker>> {
        let (sender, takers) = mpsc::channel(1);
        let Some(path) = &self.boot.takeover else {
            // Kept open by the thread that never ends: no offer, no taker.
            std::mem::forget(sender);
            return Ok(takers);
        };
        let offer = takeover::Offer::listen(path)
            .with_context(|| format!("takeover: cannot listen on {}", path.display()))?;
        std::thread::Builder::new().name("sluice-takeover".into()).spawn(move || {
            loop {
                match offer.wait() {
                    Ok(taker) => {
                        if sender.blocking_send(taker).is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a takeover was refused");
                        std::thread::sleep(Duration::from_millis(200));
                    }
                }
            }
        })?;
        Ok(takers)
    }

    /// Gives the sockets to a new process; says whether it has them.
    async fn hand_over(&self, taker: takeover::Taker) -> bool {
        let sockets: std::io::Result<Vec<_>> =
            self.listeners.sockets().map(|(name, socket)| Ok((name, socket.try_clone()?))).collect();
        let handed = tokio::task::spawn_blocking(move || {
            let sockets = sockets?;
            taker.hand_over(sockets.iter().map(|(name, socket)| (name.clone(), socket)), TAKEOVER_TIMEOUT)
        });
        match handed.await {
            Ok(Ok(count)) => {
                tracing::info!(count, "sockets are taken over; draining");
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "a takeover failed; this process goes on");
                false
            }
            Err(error) => {
                tracing::error!(%error, "a takeover failed; this process goes on");
                false
            }
        }
    }

    /// Takes nothing new, lets what is under way end, ends the rest at the
    /// deadline or at a second signal.
    async fn drain(&mut self, queue: Queue, signals: &mut Signals) {
        self.view.enter(Phase::Draining);
        if queue == Queue::Leave {
            // The new process is the one to ask from now on.
            self.stop.cancel();
        } else {
            manager::stopping();
        }
        let deadline = self.boot.shutdown.deadline;
        tracing::info!(?deadline, "draining");
        if queue == Queue::Accept && !self.boot.shutdown.notice.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(self.boot.shutdown.notice) => {}
                () = second_signal(signals) => return,
            }
        }
        for (worker, change) in self.listeners.close_all(queue) {
            self.workers[worker].order(Order::Change(change)).await;
        }
        for worker in &self.workers {
            worker.order(Order::Drain(deadline)).await;
        }
        let ended = async {
            for worker in &mut self.workers {
                worker.ended().await;
            }
        };
        tokio::select! {
            () = ended => {}
            () = second_signal(signals) => {}
        }
    }
}

/// The next process that asks for the sockets, once they are offered.
async fn next(takers: &mut Option<mpsc::Receiver<takeover::Taker>>) -> Option<takeover::Taker> {
    match takers {
        Some(takers) => takers.recv().await,
        None => std::future::pending().await,
    }
}

/// Waits for a signal that ends the drain.
async fn second_signal(signals: &mut Signals) {
    tokio::select! {
        _ = signals.terminate.recv() => {}
        _ = signals.interrupt.recv() => {}
    }
    tracing::warn!("second signal: ending at once");
}

/// Sockets of a process before, or of the service manager.
fn inherited(boot: &Boot, flags: &cli::Run) -> Result<(Inherited, Option<takeover::Ready>)> {
    if let (true, Some(path)) = (flags.takeover, &boot.takeover) {
        let taken = takeover::receive(path, TAKEOVER_TIMEOUT).context("cannot take the sockets over")?;
        if let Some((inherited, ready)) = taken {
            tracing::info!(count = inherited.len(), "took the listening sockets over");
            return Ok((inherited, Some(ready)));
        }
        tracing::info!("no process offers its sockets; opening new ones");
    }
    let inherited = Inherited::from_service_manager().context("bad sockets from the service manager")?;
    Ok((inherited, None))
}

/// Serves `site` at `address`. After a takeover the process before may hold the
/// address for a moment yet: then binding is tried again in the background.
async fn serve_site(
    field: &'static str,
    address: SocketAddr,
    first: std::io::Result<std::net::TcpListener>,
    site: Arc<dyn Site>,
    stop: CancellationToken,
) {
    let until = Instant::now() + TAKEOVER_TIMEOUT;
    let mut bound = first;
    while bound.is_err() && Instant::now() < until {
        tokio::time::sleep(BIND_PAUSE).await;
        bound = admin::bind(address);
    }
    let served = match bound {
        Ok(listener) => admin::serve(listener, site, admin::ServerLimits::default(), stop).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::error!(%error, field, %address, "nobody answers at this address");
    }
}

fn protocol(protocol: objects::Protocol) -> &'static str {
    match protocol {
        objects::Protocol::Http => "http",
        objects::Protocol::Tlv => "tlv",
        objects::Protocol::Tcp => "tcp",
        objects::Protocol::Relay => "relay",
    }
}

fn tls(tls: &objects::ListenerTls) -> &'static str {
    match tls {
        objects::ListenerTls::Off => "off",
        objects::ListenerTls::Passthrough => "passthrough",
        objects::ListenerTls::Terminate(_) => "terminate",
    }
}

fn statuses(listeners: &Listeners, snapshot: &Snapshot, outcome: &Outcome) -> Vec<ListenerStatus> {
    let bound: Vec<_> = listeners.bound().collect();
    snapshot
        .listeners
        .values()
        .map(|object| {
            let live = bound.iter().find(|(listener, _)| *listener.id == *object.id.as_str());
            let actual = live.map(|(_, addresses)| addresses.clone()).unwrap_or_default();
            let errors = outcome.errors.iter().filter(|error| error.id == object.id);
            let failed = errors.flat_map(|error| &error.problems).map(|problem| BindStatus {
                address: problem.value.clone().unwrap_or_default(),
                error: Some(problem.to_string()),
            });
            let open = actual.iter().map(|address| BindStatus { address: address.to_string(), error: None });
            ListenerStatus {
                id: object.id.to_string(),
                protocol: protocol(object.protocol).to_owned(),
                tls: tls(&object.tls).to_owned(),
                binds: open.chain(failed).collect(),
                connections: live.map_or(0, |(listener, _)| listener.connections() as u64),
            }
        })
        .collect()
}

fn far_future() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(86_400 * 365)
}
