//! TCP streams: bytes from a client to a node and back.
//!
//! TLS has ended at the listener, or its hello was read for the server name and
//! is still among the bytes: [`serve`] does not care which. A node that cannot
//! be reached is replaced by the next one as long as no byte has passed. A
//! listener with `protocol: relay` is the middle of another Sluice's way
//! (`via`): it goes where the signed way says and becomes a pipe.

#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use smallvec::SmallVec;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};
use tokio_util::either::Either;

use super::dial::{Link, dial};
use super::relay::{Pending, RelayCounters, RelayEnd, RelayLimits, Side, relay};
use super::tlv::random_share;
use super::worker::{SharedWorker, Worker};
use super::{stream_route, tlv};
use crate::config::objects::{OnChange, Protocol};
use crate::filter::{ConnectionScope, ConnectionVerdict, FilterNote};
use crate::message::{Client, Subject};
use crate::net::{Accepted, Drain, LazyTimer, LeasedBuffer, Listener, Stream};
use crate::observe::{ConnectionRecord, ReasonFamily, Times, UpstreamRecord, VerdictRecord};
use crate::snapshot::{StreamFlow, StreamRoute};
use crate::upstream::{Timeouts, Tried, relay as go_on, via};

/// How long before a drain's deadline every connection has been closed.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);
/// Over how long connections are closed at most when they have to be.
const SPREAD_MAX: Duration = Duration::from_secs(10);
/// How long a relay may take to reach the next stop of a way.
const RELAY_CONNECT_MAX: Duration = Duration::from_secs(10);

/// Serves a connection until both sides have ended. Counts and logs it.
///
/// A stream route may say that a connection of a `tcp` listener carries frames,
/// and one of a `tlv` listener bytes: the route decides.
pub fn serve(worker: SharedWorker, accepted: Accepted) -> impl Future<Output = ()> + 'static {
    if accepted.listener.object.protocol == Protocol::Relay {
        return Either::Right(serve_way(worker, accepted).boxed());
    }
    let route = stream_route(&worker, &accepted);
    let frames = route.as_ref().and_then(|route| match &route.flow {
        StreamFlow::Tlv(settings) => Some((Arc::clone(route), Arc::clone(settings))),
        StreamFlow::Tcp => None,
    });
    match frames {
        Some((route, settings)) => Either::Left(tlv::serve(worker, route, settings, accepted)),
        None => Either::Right(serve_route(worker, route, accepted).boxed()),
    }
}

/// Boxes a flow, so that a session of frames, of which there are many at rest,
/// is not as large as the largest of all flows.
trait Boxed: Future<Output = ()> + Sized + 'static {
    fn boxed(self) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(self)
    }
}

impl<F: Future<Output = ()> + 'static> Boxed for F {}

/// What a connection's line says, written when this goes.
struct Ledger {
    worker: SharedWorker,
    client: Arc<Client>,
    listener: Arc<Listener>,
    route: Option<Arc<StreamRoute>>,
    link: Option<Box<LinkNotes>>,
    protocol: &'static str,
    attempts: u32,
    started: Instant,
    counters: RelayCounters,
    /// What filters hold while the connection lives, and have decided.
    scope: ConnectionScope,
    reason: &'static str,
}

struct LinkNotes {
    line: Arc<str>,
    node: Option<std::net::SocketAddr>,
    connect_time: Duration,
}

impl Ledger {
    fn new(worker: &SharedWorker, route: Option<Arc<StreamRoute>>, accepted: &Accepted) -> Self {
        if let Some(route) = &route {
            route.metrics.opened(&worker.metrics);
        }
        let is_passed_through = accepted.sni.is_some() && accepted.client.tls.is_none();
        Self {
            worker: Rc::clone(worker),
            client: Arc::clone(&accepted.client),
            listener: Arc::clone(&accepted.listener),
            route,
            link: None,
            protocol: if is_passed_through { "tls" } else { "tcp" },
            attempts: 0,
            started: accepted.started,
            counters: RelayCounters::default(),
            scope: ConnectionScope::default(),
            // However the task ends, this is what it says unless it knows better.
            reason: "aborted",
        }
    }

    fn reached(&mut self, link: &Link, attempts: usize) {
        self.attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
        self.link = Some(Box::new(LinkNotes {
            line: Arc::clone(&link.line),
            node: link.address,
            connect_time: link.connect_time,
        }));
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let metrics = &self.worker.metrics;
        let (bytes_in, bytes_out) = (self.counters.forward.get(), self.counters.backward.get());
        metrics.reason(ReasonFamily::Close, self.reason);
        let (mut route_id, mut upstream) = ("", UpstreamRecord::default());
        if let Some(route) = &self.route {
            route.metrics.bytes_in(metrics, bytes_in);
            route.metrics.bytes_out(metrics, bytes_out);
            route.metrics.closed(metrics);
            route_id = &route.id;
            upstream.id = route.upstream.as_deref().map_or("", |upstream| &upstream.id);
        }
        if let Some(link) = &self.link {
            (upstream.line, upstream.node) = (&link.line, link.node);
        }
        upstream.attempts = self.attempts;
        let verdicts = verdicts(Some(&self.scope));
        for verdict in &verdicts {
            metrics.verdict(verdict.plugin, verdict.verdict);
        }
        self.worker.log.connection(&ConnectionRecord {
            client: &self.client,
            listener: self.listener.id.as_str(),
            protocol: self.protocol,
            route: route_id,
            upstream,
            bytes_in,
            bytes_out,
            frames_in: 0,
            frames_out: 0,
            user: "",
            times: Times {
                total: self.started.elapsed(),
                connect: self.link.as_ref().map(|link| link.connect_time),
                ..Times::default()
            },
            reason: self.reason,
            verdicts: &verdicts,
            request_id: "",
        });
    }
}

async fn serve_route(worker: SharedWorker, route: Option<Arc<StreamRoute>>, accepted: Accepted) {
    let mut ledger = Ledger::new(&worker, route.clone(), &accepted);
    let Some(route) = route else {
        ledger.reason = "no_route";
        accepted.stream.abort();
        return;
    };
    if let Err(code) = admit(&route, &accepted.client, &mut ledger.scope).await {
        ledger.reason = code;
        accepted.stream.abort();
        return;
    }
    let Some(link) = Box::pin(reach(&worker, &route, &accepted, &mut ledger)).await else {
        ledger.reason = "no_upstream";
        accepted.stream.abort();
        return;
    };
    let Accepted { stream, listener, first, drain, .. } = accepted;
    let limits = relay_limits(&listener, route.timeouts.as_ref());
    let orders = orders(Rc::clone(&worker), route, drain, ledger.started);
    ledger.reason = pipe(&worker, stream, link.stream, first, limits, &ledger.counters, orders).await;
    // The node counts as in use until here.
    drop(link.target);
}

/// The listener's limits, and the route's own towards the node in their place.
fn relay_limits(listener: &Listener, own: Option<&Timeouts>) -> RelayLimits {
    let object = &listener.object;
    let said = |limit: Option<Duration>, other| limit.filter(|limit| !limit.is_zero()).unwrap_or(other);
    RelayLimits {
        idle_timeout: said(own.map(|own| own.read), object.idle_timeout()),
        half_close_timeout: HALF_CLOSE_TIMEOUT,
        first_send_timeout: object.limits.send_timeout,
        second_send_timeout: said(own.map(|own| own.send), object.limits.send_timeout),
    }
}

/// How long one side may bring nothing once the other has ended.
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Asks the route's filters; what they hold is held by `scope`.
pub(super) async fn admit(
    route: &StreamRoute,
    client: &Client,
    scope: &mut ConnectionScope,
) -> Result<(), &'static str> {
    if !route.chain.sees_connections() {
        return Ok(());
    }
    match route.chain.on_connection(client, route.labels.as_deref(), scope) {
        ConnectionVerdict::Continue => Ok(()),
        ConnectionVerdict::Delay(time) => {
            Box::pin(tokio::time::sleep(time)).await;
            Ok(())
        }
        ConnectionVerdict::Close(code) => Err(code),
    }
}

/// What the connection's line says of its filters.
pub(super) fn verdicts(scope: Option<&ConnectionScope>) -> SmallVec<[VerdictRecord<'_>; 2]> {
    let notes = scope.map(ConnectionScope::notes).unwrap_or_default();
    notes.iter().map(record).collect()
}

/// The rules of a note are in the line of the frame it was about.
fn record(note: &FilterNote) -> VerdictRecord<'_> {
    VerdictRecord {
        plugin: &note.plugin,
        version: note.version.as_deref().unwrap_or_default(),
        verdict: &note.verdict,
        reason: &note.reason,
        ..VerdictRecord::default()
    }
}

/// How long one connect may take, where the route says so; 0 leaves it to the upstream.
pub(super) fn connect_limit(route: &StreamRoute) -> Option<Duration> {
    route.timeouts.map(|timeouts| timeouts.connect).filter(|limit| !limit.is_zero())
}

async fn reach(
    worker: &Worker,
    route: &StreamRoute,
    accepted: &Accepted,
    ledger: &mut Ledger,
) -> Option<Link> {
    let upstream = route.upstream.as_deref()?;
    let subject = Subject {
        labels: route.labels.as_deref(),
        sni: accepted.sni.as_deref(),
        ..Subject::of_client(&accepted.client)
    };
    let mut tried = Tried::default();
    let link = dial(worker, upstream, &subject, &mut tried, connect_limit(route)).await;
    match &link {
        Some(link) => ledger.reached(link, tried.len()),
        None => ledger.attempts = u32::try_from(tried.len()).unwrap_or(u32::MAX),
    }
    link
}

/// Joins the two sides and ends both as their relay ended.
async fn pipe(
    worker: &Worker,
    mut down: Stream,
    mut up: Stream,
    first: Option<LeasedBuffer>,
    limits: RelayLimits,
    counters: &RelayCounters,
    stop: impl Future<Output = &'static str>,
) -> &'static str {
    let pending = Pending { forward: first, backward: None };
    let mut stopped = "stopped";
    let stop = async { stopped = stop.await };
    let end = relay(&mut down, &mut up, pending, &worker.buffers, limits, counters, stop).await;
    match end {
        // A cut must not look like an orderly end to the other side.
        RelayEnd::Failed(Side::First, _) => up.abort(),
        RelayEnd::Failed(Side::Second, _) => down.abort(),
        RelayEnd::Stalled(_) => {
            up.abort();
            down.abort();
        }
        RelayEnd::Stopped => return stopped,
        _ => {}
    }
    end.reason()
}

/// Ready with the reason once drain or configuration want the connection to end.
fn orders(
    worker: SharedWorker,
    route: Arc<StreamRoute>,
    drain: Drain,
    started: Instant,
) -> impl Future<Output = &'static str> {
    let total = route.timeouts.as_ref().and_then(|own| own.total).map(|total| started + total);
    let mut revision = worker.snapshot().revision;
    let mut ending: Option<(Instant, &'static str)> = None;
    let mut timer = LazyTimer::new();
    poll_fn(move |context| {
        if drain.is_draining() && !matches!(ending, Some((_, "drained"))) {
            ending = Some((drain_at(drain.deadline()), "drained"));
        }
        let snapshot = worker.snapshot();
        if snapshot.revision != revision {
            revision = snapshot.revision;
            let now = snapshot.stream_routes.get(&route.id);
            if now.is_none_or(|now| now.identity != route.identity) {
                match now.map_or(route.on_change, |now| now.on_change) {
                    OnChange::Keep => {}
                    OnChange::Evict => return Poll::Ready("route_changed"),
                    OnChange::Drain => {
                        let at = Instant::now() + SPREAD_MAX.mul_f64(random_share());
                        ending.get_or_insert((at, "route_changed"));
                    }
                }
            }
        }
        let over = total.map(|at| (at, "session_timeout"));
        match ending.into_iter().chain(over).min_by_key(|(at, _)| *at) {
            Some((at, reason)) => timer.poll_until(context, at).map(|()| reason),
            None => Poll::Pending,
        }
    })
}

/// Bytes have no quiet moment that could be waited for, so connections live as
/// long as the deadline lets them, and end spread over the time before it.
fn drain_at(deadline: Option<Instant>) -> Instant {
    let now = Instant::now();
    let Some(deadline) = deadline else { return now + SPREAD_MAX.mul_f64(random_share()) };
    let left = deadline.saturating_duration_since(now).saturating_sub(DRAIN_MARGIN);
    now + left - SPREAD_MAX.min(left / 2).mul_f64(random_share())
}

/// The relay's part of a way: check, go on, answer, pipe.
async fn serve_way(worker: SharedWorker, mut accepted: Accepted) {
    let mut ledger = Ledger::new(&worker, None, &accepted);
    ledger.protocol = "relay";
    let limit = accepted.listener.object.limits.header_timeout;
    let mut buffer = accepted.first.take().unwrap_or_else(|| worker.buffers.lease_large());
    let wanted = match timeout(limit, read_way(&worker, &mut accepted.stream, &mut buffer)).await {
        Ok(Ok(wanted)) => wanted,
        Ok(Err(code)) => {
            ledger.reason = code;
            let _ = timeout(limit, accepted.stream.write_all(&via::Answer::Refused.encode(0))).await;
            return;
        }
        Err(_) => {
            ledger.reason = "way_timeout";
            return;
        }
    };
    buffer.consume(wanted.header_bytes);
    let connecting = go_on(&worker.shared.environment, &wanted, RELAY_CONNECT_MAX);
    let up = match connecting.await {
        Ok(up) => up,
        Err((answer, error)) => {
            tracing::debug!(%error, "cannot go on to the next stop of a way");
            ledger.reason = "relay_unreachable";
            let _ = timeout(limit, accepted.stream.write_all(&answer)).await;
            return;
        }
    };
    ledger.link = Some(Box::new(LinkNotes {
        line: Arc::from(""),
        node: up.peer_address().ok(),
        connect_time: ledger.started.elapsed(),
    }));
    let Accepted { mut stream, listener, drain, .. } = accepted;
    if stream.write_all(&via::Answer::Connected.encode(0)).await.is_err() || stream.flush().await.is_err() {
        ledger.reason = "downstream_failed";
        return;
    }
    // What came behind the header moves to a buffer of the common size, if it fits.
    let first = (!buffer.is_empty()).then_some(buffer);
    let limits = relay_limits(&listener, None);
    let mut timer = LazyTimer::new();
    let mut ending = None;
    let stop = poll_fn(|context| {
        if drain.is_draining() {
            let at = *ending.get_or_insert_with(|| drain_at(drain.deadline()));
            return timer.poll_until(context, at).map(|()| "drained");
        }
        Poll::Pending
    });
    ledger.reason = pipe(&worker, stream, up, first, limits, &ledger.counters, stop).await;
}

/// Reads until the way is whole; the error is the reason's code.
async fn read_way(
    worker: &Worker,
    stream: &mut Stream,
    buffer: &mut LeasedBuffer,
) -> Result<via::Accepted, &'static str> {
    let Some(key) = worker.shared.environment.way_key() else { return Err("way_no_key") };
    loop {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        match via::accept(buffer.filled(), key, now_ms) {
            Ok(Some(wanted)) => return Ok(wanted),
            Ok(None) => {}
            Err(error) => return Err(error.code()),
        }
        match poll_fn(|context| buffer.poll_fill(context, stream)).await {
            Ok(0) => return Err("way_truncated"),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Err("way_too_long"),
            Err(_) => return Err("downstream_failed"),
        }
    }
}
