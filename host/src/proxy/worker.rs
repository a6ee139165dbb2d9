//! What the flows of one worker thread share.

use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::message::path_signature::FleetKey;
use crate::message::trace::TraceOrigin;
use crate::net::{BufferLimits, BufferPool, Counters, Tasks, http1, http2};
use crate::observe::{AccessLog, Metrics, WorkerMetrics};
use crate::snapshot::Snapshot;
use crate::upstream::{Environment, Pools, Reusable, Shared as SharedConnection};

/// Idle HTTP/1.1 connections to upstreams that one worker keeps, over all nodes.
const IDLE_CONNECTIONS_MAX: usize = 4096;

/// What every thread shares.
pub struct Shared {
    /// The live configuration. Only `control` stores into it.
    pub snapshot: ArcSwap<Snapshot>,
    /// What happens at the edge.
    pub counters: Arc<Counters>,
    /// All series.
    pub metrics: Arc<Metrics>,
    /// Who this node is.
    pub node: NodeIdentity,
    /// Where the trace context of a request without one comes from.
    pub trace: TraceOrigin,
    /// Where sessions of polling clients are reached, whichever worker has them.
    pub im: super::im::PostOffice,
    /// What all upstreams share; relays go on by it.
    pub environment: Arc<Environment>,
}

/// Who this node is towards its fleet.
#[derive(Debug)]
pub struct NodeIdentity {
    /// Unique in the fleet.
    pub id: Box<str>,
    /// The region's name.
    pub region: Box<str>,
    /// The key that signs `x-sluice-path`; none: paths are neither believed nor signed.
    pub fleet_key: Option<FleetKey>,
}

/// One worker thread's own things. Flows hold it by `Rc`.
pub struct Worker {
    /// 0 for the first.
    pub index: usize,
    /// What every thread shares.
    pub shared: Arc<Shared>,
    /// Buffers lent to connections that have bytes waiting.
    pub buffers: BufferPool,
    /// Connections to upstreams that wait for their next request.
    pub pools: Pools<http1::ClientConnection, http2::ClientConnection>,
    /// Connections and sessions of clients that do not speak frames themselves.
    pub im: super::im::Instruments,
    /// The tasks of this worker.
    pub tasks: Tasks,
    /// This worker's end of the access log.
    pub log: AccessLog,
    /// This worker's shard of the series.
    pub metrics: WorkerMetrics,
}

impl Worker {
    /// A worker with nothing to do yet.
    #[must_use]
    pub fn new(index: usize, workers: u32, shared: Arc<Shared>, log: AccessLog) -> Self {
        Self {
            index,
            metrics: shared.metrics.worker(index),
            shared,
            buffers: BufferPool::new(BufferLimits::default()),
            pools: Pools::new(IDLE_CONNECTIONS_MAX, workers),
            im: super::im::Instruments::default(),
            tasks: Tasks::new(),
            log,
        }
    }

    /// The configuration that is live now. An HTTP request asks once, a long
    /// session for each frame.
    #[must_use]
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.shared.snapshot.load()
    }
}

impl Reusable for http1::ClientConnection {
    fn is_usable(&mut self) -> bool {
        self.is_idle_usable()
    }
}

impl SharedConnection for http2::ClientConnection {
    fn is_usable(&self) -> bool {
        !self.is_closed()
    }

    fn has_room(&self) -> bool {
        Self::has_room(self)
    }
}

/// How flows hold their worker.
pub type SharedWorker = Rc<Worker>;
