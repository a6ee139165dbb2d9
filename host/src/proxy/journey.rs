//! One exchange's record: what became of it, told to log and metrics at its end.
//!
//! It is told when the value is dropped, so an exchange that is cancelled (its
//! client reset the stream, the worker drains) is told of as well.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::filter::Exchange;
use crate::message::Moved;
use crate::message::path_signature::Path;
use crate::observe::{HttpRecord, ReasonFamily, RequestSample, Times, UpstreamRecord, VerdictRecord};
use crate::snapshot::Route;
use crate::upstream::{Target, Upstream};

use super::http::{Edge, EdgeMemory};
use super::worker::SharedWorker;

/// An exchange on its way, and what is known of it so far.
pub(super) struct Journey {
    pub(super) worker: SharedWorker,
    pub(super) listener: Arc<str>,
    pub(super) memory: Rc<EdgeMemory>,
    pub(super) exchange: Exchange,
    pub(super) route: Option<Arc<Route>>,
    pub(super) upstream: Option<Arc<Upstream>>,
    /// The node tried last.
    pub(super) target: Option<Target>,
    pub(super) address: Option<SocketAddr>,
    pub(super) attempts: u32,
    /// The status sent; 499 when none was.
    pub(super) status: u16,
    pub(super) reason: &'static str,
    pub(super) moved: Moved,
    pub(super) connect: Option<Duration>,
    pub(super) header: Option<Duration>,
    /// When the first node was chosen.
    pub(super) forwarded: Option<Instant>,
    pub(super) upgrade: Box<[u8]>,
    /// The query holds a secret of the client's and is not logged.
    pub(super) hides_query: bool,
    pub(super) trace_id: SmallVec<[u8; 32]>,
    /// The gateways it passed before this one, checked.
    pub(super) path: Option<Box<Path>>,
}

impl Journey {
    // Inlined, as the exchange's own making is: so it is made where it stays.
    #[inline]
    pub(super) fn begin(worker: SharedWorker, edge: &Edge, exchange: Exchange) -> Self {
        worker.metrics.request_started();
        Self {
            worker,
            listener: Arc::clone(&edge.settings.listener),
            memory: Rc::clone(&edge.memory),
            exchange,
            route: None,
            upstream: None,
            target: None,
            address: None,
            attempts: 0,
            status: 499,
            reason: "client_gone",
            moved: Moved::default(),
            connect: None,
            header: None,
            forwarded: None,
            upgrade: Box::default(),
            hides_query: false,
            trace_id: SmallVec::new(),
            path: None,
        }
    }

    fn log(&self, ended: Instant, total: Duration, upstream_time: Option<Duration>) {
        let exchange = &self.exchange;
        let (host, path, query) = exchange.original();
        let query = query.filter(|_| !self.hides_query);
        let verdicts: SmallVec<[VerdictRecord<'_>; 2]> = exchange
            .notes
            .iter()
            .map(|note| VerdictRecord {
                plugin: note.plugin,
                verdict: note.verdict,
                reason: note.reason,
                ..VerdictRecord::default()
            })
            .collect();
        let labels = exchange.labels.as_deref();
        self.worker.log.http(&HttpRecord {
            ended,
            client: &exchange.client,
            client_ip: exchange.client_ip,
            client_text: Some(&self.memory.log_text),
            listener: &self.listener,
            protocol: exchange.request.version.as_str(),
            method: exchange.request.method.as_str(),
            scheme: exchange.request.scheme.as_str(),
            host,
            path,
            query,
            headers: Some(&exchange.request.fields),
            status: self.status,
            bytes_in: self.moved.received,
            bytes_out: self.moved.sent,
            upgrade: std::str::from_utf8(&self.upgrade).unwrap_or_default(),
            route: labels.map_or("", |labels| &labels.route_id),
            service: labels.map_or("", |labels| &labels.service_id),
            upstream: UpstreamRecord {
                id: self.upstream.as_ref().map_or("", |upstream| &upstream.id),
                line: self.target.as_ref().map_or("", |target| &target.line.name),
                node: self.address,
                attempts: self.attempts,
            },
            times: Times { total, connect: self.connect, header: self.header, upstream: upstream_time },
            reason: self.reason,
            verdicts: &verdicts,
            request_id: exchange.request_id.get(),
            trace_id: std::str::from_utf8(&self.trace_id).unwrap_or_default(),
        });
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        let now = Instant::now();
        let total = now.saturating_duration_since(self.exchange.started);
        let upstream_time = self.forwarded.map(|at| now.saturating_duration_since(at));
        self.exchange.upstream_time = upstream_time;
        if !self.reason.is_empty() {
            self.worker.metrics.reason(ReasonFamily::Http, self.reason);
        }
        for note in &self.exchange.notes {
            self.worker.metrics.verdict(note.plugin, note.verdict);
        }
        if let Some(route) = &self.route {
            let sample = RequestSample {
                status: self.status,
                node: self.address.map(|address| address.ip()),
                total,
                upstream: upstream_time,
                bytes_in: self.moved.received,
                bytes_out: self.moved.sent,
            };
            route.metrics.request(&self.worker.metrics, &sample);
        }
        self.worker.metrics.request_finished();
        if self.worker.log.is_on() {
            self.log(now, total, upstream_time);
        }
    }
}
