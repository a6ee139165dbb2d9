//! A worker thread: one runtime, one server, told what to do by the main thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::config::Id;
use crate::config::objects::Protocol;
use crate::message::{Client, trace::IdSource};
use crate::net::{Accepted, CloseReason, Listener, WorkerChange, tls::Certificates};
use crate::observe::{AccessLog, ConnectionRecord, Times, UpstreamRecord};
use crate::proxy::{self, Shared, Worker, http::HttpSettings};
use crate::server::{Flows, Seat, Server};

/// How often idle upstream connections are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What a worker is told.
pub(super) enum Order {
    /// A listening socket has come, changed or gone.
    Change(WorkerChange),
    /// Finish what is under way within this time, then end.
    Drain(Duration),
}

/// A running worker thread.
pub(super) struct WorkerThread {
    orders: mpsc::Sender<Order>,
    ended: oneshot::Receiver<()>,
}

impl WorkerThread {
    pub(super) fn start(
        index: usize,
        workers: u32,
        seat: Seat,
        shared: Arc<Shared>,
        log: AccessLog,
        orders_max: usize,
    ) -> io::Result<Self> {
        let (orders, inbox) = mpsc::channel(orders_max);
        let (told, ended) = oneshot::channel();
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(tokio::runtime::LocalOptions::default());
            match runtime {
                Ok(runtime) => runtime.block_on(serve(index, workers, seat, shared, log, inbox)),
                Err(error) => tracing::error!(%error, index, "a worker's runtime cannot start"),
            }
            let _ = told.send(());
        })?;
        Ok(Self { orders, ended })
    }

    /// Gives an order; a worker that has ended needs none.
    pub(super) async fn order(&self, order: Order) {
        let _ = self.orders.send(order).await;
    }

    /// Returns once the thread's work has ended.
    pub(super) async fn ended(&mut self) {
        let _ = (&mut self.ended).await;
    }
}

/// What a version of a listener's object says.
type Resolved = (Arc<Listener>, Rc<HttpSettings>);

/// The flows of one worker, as its server calls them.
#[derive(Clone)]
struct WorkerFlows {
    worker: Rc<Worker>,
    /// What HTTP listeners say, resolved once for each version of their object.
    settings: Rc<RefCell<HashMap<Id, Resolved>>>,
    /// Names connections that are refused.
    ids: Rc<IdSource>,
}

impl WorkerFlows {
    fn settings(&self, listener: &Arc<Listener>) -> Rc<HttpSettings> {
        let mut known = self.settings.borrow_mut();
        if let Some((version, settings)) = known.get(&listener.id)
            && Arc::ptr_eq(version, listener)
        {
            return Rc::clone(settings);
        }
        // Listeners that are gone leave with the next new one.
        known.retain(|_, (version, _)| !version.is_closing());
        let settings = Rc::new(HttpSettings::of(listener));
        known.insert(listener.id.clone(), (Arc::clone(listener), Rc::clone(&settings)));
        settings
    }
}

impl Flows for WorkerFlows {
    fn certificates(&self) -> Arc<Certificates> {
        Arc::clone(&self.worker.snapshot().certificates)
    }

    fn http1(&self, accepted: Accepted) -> impl Future<Output = ()> + 'static {
        let settings = self.settings(&accepted.listener);
        proxy::http::serve_http1(Rc::clone(&self.worker), accepted, settings)
    }

    fn http2(&self, accepted: Accepted) -> impl Future<Output = ()> + 'static {
        let settings = self.settings(&accepted.listener);
        proxy::http2::serve(Rc::clone(&self.worker), accepted, settings)
    }

    fn tlv(&self, accepted: Accepted) -> impl Future<Output = ()> + 'static {
        proxy::tcp::serve(Rc::clone(&self.worker), accepted)
    }

    fn refused(
        &self,
        client: &Client,
        listener: &Listener,
        reason: CloseReason,
        started: tokio::time::Instant,
    ) {
        if !self.worker.log.is_on() {
            return;
        }
        let id = self.ids.request_id();
        self.worker.log.connection(&ConnectionRecord {
            client,
            listener: listener.id.as_str(),
            protocol: match listener.object.protocol {
                Protocol::Tlv => "tlv",
                Protocol::Tcp => "tcp",
                _ => "http",
            },
            route: "",
            upstream: UpstreamRecord::default(),
            bytes_in: 0,
            bytes_out: 0,
            frames_in: 0,
            frames_out: 0,
            user: "",
            times: Times { total: started.elapsed(), ..Times::default() },
            reason: reason.as_str(),
            verdicts: &[],
            request_id: std::str::from_utf8(&id).unwrap_or_default(),
        });
    }

    fn tcp(&self, accepted: Accepted) -> impl Future<Output = ()> + 'static {
        proxy::tcp::serve(Rc::clone(&self.worker), accepted)
    }
}

async fn serve(
    index: usize,
    workers: u32,
    seat: Seat,
    shared: Arc<Shared>,
    log: AccessLog,
    mut orders: mpsc::Receiver<Order>,
) {
    let worker = Rc::new(Worker::new(index, workers, shared, log));
    let counters = Arc::clone(&worker.shared.counters);
    let flows =
        WorkerFlows { worker: Rc::clone(&worker), settings: Rc::default(), ids: Rc::new(IdSource::new()) };
    let server = Server::new(flows, worker.tasks.clone(), worker.buffers.clone(), counters, seat);
    let sweeping = Rc::clone(&worker);
    // Not one of the tracked tasks: a drain does not wait for it.
    let sweeper = tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            sweeping.pools.sweep(Instant::now());
        }
    });
    let watcher = tokio::task::spawn_local(proxy::tlv::watch(Rc::clone(&worker)));
    let sessions = tokio::task::spawn_local(proxy::im::serve_sessions(Rc::clone(&worker)));
    while let Some(order) = orders.recv().await {
        match order {
            Order::Change(change) => {
                if let Err(error) = server.apply(change) {
                    tracing::error!(%error, index, "a worker cannot use a listening socket");
                }
            }
            Order::Drain(deadline) => {
                let drained = worker.tasks.drained(deadline).await;
                tracing::info!(index, running = drained.running, cut = drained.ended, "worker has drained");
                break;
            }
        }
    }
    sweeper.abort();
    watcher.abort();
    sessions.abort();
}
