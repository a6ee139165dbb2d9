//! One HTTP exchange, whichever protocol its two sides speak.
//!
//! [`exchange`] is the story: find the route, run the filters, forward to an
//! upstream or answer. It is generic over the client's side; `forward` reaches
//! the upstream and decides what may be tried again, `transfer` moves bodies,
//! `journey` tells log and metrics. [`serve_http1`] runs an HTTP/1.1 connection,
//! one exchange after the other; HTTP/2 streams call [`exchange`] each.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::config::objects::Limits;
use crate::filter::{BodyInterest, Exchange, Filters, LocalResponse, Rewritten, Verdict};
use crate::message::forwarded::{AddressMemory, Origin};
use crate::message::trace::{self, IdSource};
use crate::message::{BodyLength, Client, Downstream, IpSet, Method, Name, RequestHead, Scheme, Subject};
use crate::net::http1::{HeadLimits, RequestError, ServerConnection};
use crate::net::path::Slashes;
use crate::net::tls::{ClientAuth, TlsProfile, check_client};
use crate::net::{Accepted, Drain, LazyTimer, Listener};
use crate::observe::{ClientText, HttpRecord, ReasonFamily, Times, UpstreamRecord};
use crate::upstream::Timeouts;

use super::error::{ProxyError, for_grpc, refusal};
use super::forward::{self, Upgraded};
use super::hops;
use super::im::{self, Bridged};
use super::journey::Journey;
use super::transfer::{self, Bounds};
use super::upgrade;
use super::worker::SharedWorker;

/// Bytes a client may still send after it was told that its connection ends.
const LINGER_BYTES_MAX: u64 = 4 << 20;
/// How long it is listened to for that.
const LINGER_TIME: Duration = Duration::from_secs(2);
/// Bytes of an upstream's response head.
const RESPONSE_HEAD_BYTES_MAX: usize = 64 << 10;
/// Fields of an upstream's response head.
const RESPONSE_FIELDS_MAX: usize = 256;

/// What an HTTP listener says of its connections, made once for each worker.
#[derive(Debug)]
pub struct HttpSettings {
    /// The listener's id.
    pub listener: Arc<str>,
    /// The limits of its object.
    pub limits: Limits,
    /// Silence between two requests.
    pub idle_timeout: Duration,
    /// The listener itself, for sessions that outlive their requests.
    pub source: Arc<Listener>,
    /// Whether WebSockets may come as streams of HTTP/2.
    pub websocket_over_http2: bool,
    /// Hops whose address headers are believed.
    pub trusted: IpSet,
    /// How TLS is spoken, where it ends here.
    pub tls: Option<Arc<TlsProfile>>,
    /// Numbers for ids.
    pub ids: IdSource,
    /// Bounds of a request's head.
    pub head: Rc<HeadLimits>,
    /// Bounds of a response's head.
    pub response_head: Rc<HeadLimits>,
}

impl HttpSettings {
    /// What `listener` says, resolved.
    #[must_use]
    pub fn of(listener: &Arc<Listener>) -> Self {
        let object = &listener.object;
        let limits = object.limits.clone();
        let head = HeadLimits {
            head_bytes_max: limits.header_bytes,
            fields_max: limits.header_count,
            target_bytes_max: limits.request_line,
            slashes: if object.merge_slashes { Slashes::Merge } else { Slashes::Keep },
        };
        let response_head =
            HeadLimits { head_bytes_max: RESPONSE_HEAD_BYTES_MAX, fields_max: RESPONSE_FIELDS_MAX, ..head };
        Self {
            listener: listener.id.as_str().into(),
            source: Arc::clone(listener),
            idle_timeout: object.idle_timeout(),
            websocket_over_http2: object.websocket_over_http2,
            trusted: IpSet::of(&object.trusted),
            tls: listener.tls.clone(),
            limits,
            ids: IdSource::new(),
            head: Rc::new(head),
            response_head: Rc::new(response_head),
        }
    }
}

/// A downstream connection, as its exchanges see it.
#[derive(Clone)]
pub struct Edge {
    /// Who is at the other end.
    pub client: Arc<Client>,
    /// What the listener says.
    pub settings: Rc<HttpSettings>,
    /// The rule for client certificates the connection was made under.
    pub rule: Option<Arc<ClientAuth>>,
    /// Tells when the connection is to end.
    pub drain: Drain,
    /// What its requests have in common.
    pub memory: Rc<EdgeMemory>,
}

/// What every request of a connection would work out anew.
#[derive(Debug, Default)]
pub struct EdgeMemory {
    /// What the log says of the client.
    pub log_text: ClientText,
    /// The address headers of the request before.
    pub addresses: AddressMemory,
}

/// How an exchange ended, for its connection.
pub enum Ended {
    /// It was answered; the connection goes on if it can.
    Answered,
    /// It was broken off; nothing more can be sent.
    Broken,
    /// The upstream switches protocols.
    Upgraded(Box<Upgraded>),
    /// The client speaks WebSocket from here on, the upstream frames.
    Bridged(Box<Bridged>),
}

/// Serves one HTTP/1.1 connection until it ends. What the worker's drain asks
/// for is done between two requests.
pub async fn serve_http1(worker: SharedWorker, accepted: Accepted, settings: Rc<HttpSettings>) {
    let scheme = if accepted.stream.is_tls() { Scheme::Https } else { Scheme::Http };
    let Accepted { stream, client, first, rule, drain, .. } = accepted;
    let edge = Edge { client, settings, rule, drain: drain.clone(), memory: Rc::default() };
    let head_limits = Rc::clone(&edge.settings.head);
    let mut connection = ServerConnection::new(stream, first, worker.buffers.clone(), head_limits, scheme);
    let mut timer = LazyTimer::new();
    let mut requests: u32 = 0;
    loop {
        let head = match next_request(&mut connection, &mut timer, &edge.settings, &drain).await {
            Next::Request(head) => head,
            Next::End => return,
            Next::Refused(status, reason) => {
                connection.close_after();
                let refused = refuse(&worker, &edge, &mut connection, &mut timer, status, reason);
                if Box::pin(refused).await {
                    Box::pin(linger(&mut connection, &mut timer)).await;
                }
                return;
            }
        };
        requests = requests.saturating_add(1);
        let share = edge.settings.limits.keepalive_requests;
        if drain.is_draining() || (share > 0 && requests >= share) {
            connection.close_after();
        }
        // Boxed, so that a connection at rest is as small as its waiting.
        let ended = Box::pin(exchange(&worker, &edge, &mut connection, head, &mut timer)).await;
        match ended {
            Ended::Answered if connection.is_reusable() => {}
            Ended::Answered => return Box::pin(linger(&mut connection, &mut timer)).await,
            Ended::Broken => return connection.abort(),
            Ended::Upgraded(upgraded) => {
                return Box::pin(upgrade::run(connection, *upgraded, edge, timer)).await;
            }
            Ended::Bridged(bridged) => {
                return Box::pin(im::websocket(connection, *bridged, edge, timer)).await;
            }
        }
    }
}

enum Next {
    Request(RequestHead),
    End,
    Refused(u16, &'static str),
}

async fn next_request(
    connection: &mut ServerConnection,
    timer: &mut LazyTimer,
    settings: &HttpSettings,
    drain: &Drain,
) -> Next {
    let mut waiting_since = None;
    let mut receiving_since = None;
    poll_fn(|context| {
        match connection.poll_request(context) {
            Poll::Ready(Ok(Some(head))) => return Poll::Ready(Next::Request(head)),
            Poll::Ready(Ok(None) | Err(RequestError::Transfer(_))) => return Poll::Ready(Next::End),
            Poll::Ready(Err(RequestError::Refused(rejection))) => {
                return Poll::Ready(Next::Refused(rejection.status, rejection.reason));
            }
            Poll::Pending => {}
        }
        if !connection.is_receiving() {
            receiving_since = None;
            if drain.poll_draining().is_ready() {
                return Poll::Ready(Next::End);
            }
            return match settings.idle_timeout.is_zero() {
                true => Poll::Pending,
                false => {
                    let since = *waiting_since.get_or_insert_with(Instant::now);
                    timer.poll_until(context, since + settings.idle_timeout).map(|()| Next::End)
                }
            };
        }
        // Counted from the head's first byte, so that dripping does not help.
        let since = *receiving_since.get_or_insert_with(Instant::now);
        timer
            .poll_until(context, since + settings.limits.header_timeout)
            .map(|()| Next::Refused(408, "header_timeout"))
    })
    .await
}

/// Answers a request that never became one, and logs it; says whether the
/// answer went out.
pub(super) async fn refuse<D: Downstream>(
    worker: &SharedWorker,
    edge: &Edge,
    down: &mut D,
    timer: &mut LazyTimer,
    status: u16,
    reason: &'static str,
) -> bool {
    let started = Instant::now();
    let id = crate::filter::RequestId::default();
    worker.metrics.request_started();
    worker.metrics.reason(ReasonFamily::Http, reason);
    let message = match status {
        408 => "request head took too long",
        414 => "request target is too long",
        417 => "expectation cannot be met",
        431 => "request head is too large",
        501 => "not supported",
        _ => "malformed request",
    };
    let response = refusal(status, reason, message, id.get());
    let bounds = local_bounds(&edge.settings.limits);
    let sent = send_local(down, &response, false, timer, &bounds).await;
    let moved = down.moved();
    if worker.log.is_on() {
        worker.log.http(&HttpRecord {
            ended: std::time::Instant::now(),
            client: &edge.client,
            client_ip: edge.client.ip(),
            client_text: Some(&edge.memory.log_text),
            listener: &edge.settings.listener,
            protocol: "",
            method: "",
            scheme: "",
            host: b"",
            path: b"",
            query: None,
            headers: None,
            status: if sent.is_ok() { status } else { 499 },
            bytes_in: moved.received,
            bytes_out: moved.sent,
            upgrade: "",
            route: "",
            service: "",
            upstream: UpstreamRecord::default(),
            times: Times { total: started.elapsed(), ..Times::default() },
            reason,
            verdicts: &[],
            request_id: id.get(),
            trace_id: "",
        });
    }
    worker.metrics.request_finished();
    sent.is_ok()
}

/// Ends a connection so that its client reads the last answer.
async fn linger(connection: &mut ServerConnection, timer: &mut LazyTimer) {
    let until = Instant::now() + LINGER_TIME;
    poll_fn(|context| {
        if connection.poll_linger(context, LINGER_BYTES_MAX).is_ready() {
            return Poll::Ready(());
        }
        timer.poll_until(context, until)
    })
    .await;
}

/// Passes one request through: route, filters, upstream, answer.
pub async fn exchange<D: Downstream>(
    worker: &SharedWorker,
    edge: &Edge,
    down: &mut D,
    mut head: RequestHead,
    timer: &mut LazyTimer,
) -> Ended {
    let started = std::time::Instant::now();
    let origin = Origin::of(&edge.client, &head.fields, &edge.settings.trusted);
    if let Some(stop) = &origin.stop {
        worker.metrics.reason(ReasonFamily::Identity, stop.as_str());
    }
    let trace = trace::pass_on(&mut head.fields, worker.shared.trace, &edge.settings.ids);
    let path = hops::take(worker, &mut head.fields);
    let mut request = Exchange::new(head, Arc::clone(&edge.client), origin.ip, started);
    request.client_port = origin.port.unwrap_or_default();
    request.hop_is_trusted = edge.settings.trusted.contains(edge.client.ip());
    let mut journey = Journey::begin(Rc::clone(worker), edge, request);
    journey.path = path;
    journey.trace_id =
        trace.map(|trace| SmallVec::from_slice(trace.trace_id().as_bytes())).unwrap_or_default();
    let outcome = pass(&mut journey, edge, &origin, down, timer).await;
    journey.moved = down.moved();
    match outcome {
        Ok(Passed::Answered) => Ended::Answered,
        Ok(Passed::Upgraded(upgraded)) => Ended::Upgraded(Box::new(upgraded.with(journey))),
        Ok(Passed::Bridged(greeting)) => Ended::Bridged(Box::new(Bridged { greeting, journey })),
        Err(error) => fail(&mut journey, edge, down, timer, &error).await,
    }
}

/// How an exchange that did not fail ended.
pub(super) enum Passed {
    Answered,
    Upgraded(forward::Switched),
    Bridged(im::Greeting),
}

async fn pass<D: Downstream>(
    journey: &mut Journey,
    edge: &Edge,
    origin: &Origin,
    down: &mut D,
    timer: &mut LazyTimer,
) -> Result<Passed, ProxyError> {
    let global = find_route(journey);
    let route = journey.route.clone();
    let filters = Filters { global: &global, route: route.as_ref().map(|route| &*route.chain) };
    check_certificate(journey, edge)?;
    let limits = &edge.settings.limits;
    if limits.body_bytes > 0 && down.remaining().is_some_and(|length| length > limits.body_bytes) {
        return Err(ProxyError::BodyTooLarge(limits.body_bytes));
    }
    journey.exchange.body_follows = down.request_length() != BodyLength::None;
    if let BodyInterest::Buffered { max, longer } = filters.body_interest() {
        let bounds = local_bounds(limits);
        match transfer::collect_request(down, max, longer, timer, &bounds).await? {
            transfer::Collected::Whole(body) => journey.exchange.body = Some(body),
            transfer::Collected::Longer(start) => {
                journey.exchange.body = Some(start);
                journey.exchange.body_is_cut = true;
            }
        }
    }
    if filters.sees_requests()
        && let Verdict::Respond(response) = filters.on_request(&mut journey.exchange).await
    {
        return answer(journey, filters, edge, down, timer, *response).await.map(|()| Passed::Answered);
    }
    let Some(route) = &route else { return Err(ProxyError::NoRoute) };
    if route.chain.function().is_some() {
        let calling = forward::call(journey, route, filters, edge, origin, down, timer);
        return Box::pin(calling).await;
    }
    forward::forward(journey, route, filters, edge, origin, down, timer).await
}

/// Whether the connection's client certificate is enough for the host and path asked for.
fn check_certificate(journey: &Journey, edge: &Edge) -> Result<(), ProxyError> {
    let (Some(profile), Some(client)) = (&edge.settings.tls, &edge.client.tls) else { return Ok(()) };
    let request = &journey.exchange.request;
    let snapshot = journey.worker.snapshot();
    let rule = edge.rule.as_ref();
    check_client(&snapshot.certificates, profile, rule, client, request.host(), request.path())
        .map_err(ProxyError::Certificate)
}

/// Finds the route and notes what it captured; returns the global chain.
fn find_route(journey: &mut Journey) -> Arc<crate::filter::Chain> {
    let worker = Rc::clone(&journey.worker);
    let snapshot = worker.snapshot();
    let exchange = &mut journey.exchange;
    let subject = Subject {
        client_port: exchange.client_port,
        ..Subject::of_request(&exchange.client, exchange.client_ip, &exchange.request)
    };
    if let Some(found) = snapshot.router.find(&subject) {
        journey.route = Some(Arc::clone(found.value));
        exchange.labels = Some(Arc::clone(&found.value.labels));
        exchange.params = found.params;
    }
    let asks = |chain: &crate::filter::Chain| chain.needs_consumers();
    if asks(&snapshot.global) || journey.route.as_ref().is_some_and(|route| asks(&route.chain)) {
        exchange.consumers = Some(Arc::clone(&snapshot.consumers));
    }
    Arc::clone(&snapshot.global)
}

/// Bounds of what the gateway does with a client alone.
pub(super) fn local_bounds(limits: &Limits) -> Bounds<'_> {
    let none = Duration::ZERO;
    let timeouts = Timeouts { connect: none, send: none, read: none, total: None };
    Bounds { timeouts, limits, deadline: None, is_patient: false }
}

/// Answers out of the gateway, by way of the response filters.
pub(super) async fn answer<D: Downstream>(
    journey: &mut Journey,
    filters: Filters<'_>,
    edge: &Edge,
    down: &mut D,
    timer: &mut LazyTimer,
    mut response: LocalResponse,
) -> Result<(), ProxyError> {
    let action = filters.on_response(&mut journey.exchange, &mut response.head, None);
    match action {
        crate::filter::BodyAction::Pass => {}
        crate::filter::BodyAction::Replace(body) | crate::filter::BodyAction::Refuse(body) => {
            response.body = body
        }
        crate::filter::BodyAction::Transform { .. } => {
            match filters.transform_body(&mut journey.exchange, response.body, true) {
                Rewritten::Body(body) => response.body = body,
                Rewritten::Refused(refusal) => {
                    response.head = refusal.head;
                    response.body = refusal.body;
                }
            }
        }
    }
    journey.status = response.head.status;
    journey.reason = journey.exchange.refused.take().unwrap_or(response.reason);
    let fields = &journey.exchange.request.fields;
    if fields.value(Name::ContentType).is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        response = for_grpc(response);
    }
    let is_head = journey.exchange.request.method == Method::Head;
    if edge.drain.is_draining() {
        down.close_after();
    }
    down.discard_request();
    send_local(down, &response, is_head, timer, &local_bounds(&edge.settings.limits)).await
}

/// Answers a failure, where there is still someone to tell and a way to.
async fn fail<D: Downstream>(
    journey: &mut Journey,
    edge: &Edge,
    down: &mut D,
    timer: &mut LazyTimer,
    error: &ProxyError,
) -> Ended {
    journey.reason = error.reason();
    tracing::debug!(reason = error.reason(), %error, "exchange failed");
    if down.is_answered() || error.status() == 499 {
        if !down.is_answered() {
            journey.status = 499;
        }
        down.abort();
        return Ended::Broken;
    }
    let response = error.response(journey.exchange.request_id.get());
    // Where the client's own bytes are broken, what follows them cannot be read.
    if matches!(error, ProxyError::Client(_) | ProxyError::ClientTimeout(_) | ProxyError::BodyTooLarge(_)) {
        down.close_after();
    }
    let global = Arc::clone(&journey.worker.snapshot().global);
    let route = journey.route.clone();
    let filters = Filters { global: &global, route: route.as_ref().map(|route| &*route.chain) };
    let sent = answer(journey, filters, edge, down, timer, response).await;
    journey.moved = down.moved();
    journey.reason = error.reason();
    match sent {
        Ok(()) => Ended::Answered,
        Err(_) => {
            down.abort();
            Ended::Broken
        }
    }
}

async fn send_local<D: Downstream>(
    down: &mut D,
    response: &LocalResponse,
    is_head: bool,
    timer: &mut LazyTimer,
    bounds: &Bounds<'_>,
) -> Result<(), ProxyError> {
    let mut head = response.head.clone();
    let length = response.body.len() as u64;
    let bodyless = is_head || matches!(head.status, 204 | 304);
    if is_head {
        head.fields.set(b"Content-Length", itoa::Buffer::new().format(length).as_bytes());
    }
    if head.value(crate::message::Name::Date).is_none() {
        head.fields.append(b"Date", super::error::http_date().as_bytes());
    }
    let body = if bodyless { BodyLength::None } else { BodyLength::Known(length) };
    down.send_head(&head, body).map_err(ProxyError::Client)?;
    let bytes = if bodyless { &[][..] } else { &response.body[..] };
    transfer::send_held(down, bytes, timer, bounds).await
}
