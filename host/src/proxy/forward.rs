//! Reaching an upstream, and what may be tried again.
//!
//! A request goes to one node after the other until one answers or nothing is
//! left: always when nothing of it was sent (a refused connect), for idempotent
//! methods also when the connection broke before any byte of an answer, never
//! once bytes of its body have left, unless they are held in memory.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::filter::{BodyAction, Filters, Longer, Rewritten};
use crate::message::forwarded::Origin;
use crate::message::{
    BodyLength, Downstream, Name, RequestShape, ResponseHead, Subject, TransferError, UpstreamExchange,
    UpstreamView,
};
use crate::net::http1::ClientConnection;
use crate::net::{LazyTimer, http2};
use crate::observe::ReasonFamily;
use crate::snapshot::Route;
use crate::upstream::{
    self, Alpn, ConnectRequest, Failure, Outcome, Pooled, Scheme, Target, Tried, Upstream,
};

use super::error::ProxyError;
use super::hops;
use super::http::{Edge, Passed};
use super::im;
use super::journey::Journey;
use super::outgoing;
use super::transfer::{self, Bounds, Collected, Upload};
use super::upgrade;

/// A connection whose upstream switched protocols.
pub(super) struct Switched {
    /// The `101`.
    pub(super) head: ResponseHead,
    pub(super) connection: ClientConnection,
}

/// [`Switched`], with the record that is told when the session ends.
pub struct Upgraded {
    pub(super) head: ResponseHead,
    pub(super) connection: ClientConnection,
    pub(super) journey: Journey,
}

impl Switched {
    pub(super) fn with(self, journey: Journey) -> Upgraded {
        Upgraded { head: self.head, connection: self.connection, journey }
    }
}

/// What does not change from attempt to attempt.
struct Plan<'a> {
    filters: Filters<'a>,
    edge: &'a Edge,
    bounds: Bounds<'a>,
    body: BodyLength,
    upgrade: Option<upgrade::Handshake>,
    trailers: bool,
}

pub(super) async fn forward<D: Downstream>(
    journey: &mut Journey,
    route: &Arc<Route>,
    filters: Filters<'_>,
    edge: &Edge,
    origin: &Origin,
    down: &mut D,
    timer: &mut LazyTimer,
) -> Result<Passed, ProxyError> {
    let chosen = journey.exchange.upstream.clone().or_else(|| route.upstream.clone());
    let upstream = chosen.ok_or(ProxyError::NoUpstream)?;
    journey.upstream = Some(Arc::clone(&upstream));
    if let Some(bridge) = route.bridge.as_ref().filter(|_| upstream.scheme.is_tlv()) {
        let way = im::Way { route, bridge, upstream: &upstream, filters, edge };
        return Box::pin(im::forward(journey, way, down, timer)).await;
    }
    if !upstream.scheme.is_http() {
        return Err(ProxyError::NotHttp);
    }
    let plan = prepare(journey, route, filters, edge, origin, down, Some(&upstream))?;
    let hash = if upstream.is_hashed() { hash_of(journey, &upstream) } else { 0 };
    let mut upload = Upload::new(journey.exchange.body.clone(), journey.exchange.body_is_cut);
    let mut tried = Tried::default();
    // Where filters may have waited the clock is asked again.
    let began = match filters.sees_requests() || journey.exchange.body.is_some() {
        true => Instant::now(),
        false => journey.exchange.started,
    };
    journey.forwarded = Some(began);
    let mut last = None;
    loop {
        let target = match upstream.select(hash, &mut tried) {
            Ok(target) => target,
            Err(none) => return Err(last.unwrap_or(ProxyError::NoLine(none))),
        };
        let own = journey.exchange.upstream_host();
        let own = if own.is_empty() { &target.node.name } else { own };
        let host = upstream.host_for(&target.node, own);
        if host.as_bytes() != journey.exchange.request.authority_bytes() {
            let host = host.to_owned();
            journey.exchange.request.set_authority(&host);
        }
        hops::sign(journey, &target);
        journey.attempts += 1;
        journey.target = Some(target);
        let error = match attempt(journey, &plan, &upstream, down, &mut upload, timer).await {
            Ok(passed) => return Ok(passed),
            Err(Attempt::Final(error)) => return Err(error),
            Err(Attempt::Again(error)) => error,
        };
        journey.worker.metrics.reason(ReasonFamily::Upstream, error.reason());
        let late = upstream.retry_timeout.is_some_and(|limit| began.elapsed() >= limit);
        let over = plan.bounds.deadline.is_some_and(|deadline| tokio::time::Instant::now() >= deadline);
        if journey.attempts > upstream.retries || late || over {
            return Err(error);
        }
        upload.restart();
        last = Some(error);
    }
}

fn hash_of(journey: &Journey, upstream: &Upstream) -> u64 {
    let exchange = &journey.exchange;
    upstream.hash_key(&Subject {
        client_port: exchange.client_port,
        params: Some(&exchange.params),
        labels: exchange.labels.as_deref(),
        ..Subject::of_request(&exchange.client, exchange.client_ip, &exchange.request)
    })
}

/// Has the route's edge function answer, which stands where an upstream would.
/// It is called once: what it did before it failed nobody knows.
pub(super) async fn call<D: Downstream>(
    journey: &mut Journey,
    route: &Route,
    filters: Filters<'_>,
    edge: &Edge,
    origin: &Origin,
    down: &mut D,
    timer: &mut LazyTimer,
) -> Result<Passed, ProxyError> {
    let function = route.chain.function().ok_or(ProxyError::NoUpstream)?;
    let plan = prepare(journey, route, filters, edge, origin, down, None)?;
    let mut upload = Upload::new(journey.exchange.body.clone(), journey.exchange.body_is_cut);
    journey.forwarded = Some(Instant::now());
    journey.attempts = 1;
    let mut called = function.call(journey.worker.index).map_err(ProxyError::Function)?;
    match drive(journey, &plan, down, &mut called, &mut upload, timer).await {
        Ok(_) => Ok(Passed::Answered),
        Err(error) => Err(called.failure().cloned().map_or(error, ProxyError::Function)),
    }
}

/// Makes the head ready to leave and gathers what all attempts share.
fn prepare<'a, D: Downstream>(
    journey: &mut Journey,
    route: &Route,
    filters: Filters<'a>,
    edge: &'a Edge,
    origin: &Origin,
    down: &D,
    upstream: Option<&Upstream>,
) -> Result<Plan<'a>, ProxyError> {
    let exchange = &mut journey.exchange;
    let stripped = outgoing::strip_request(&mut exchange.request.fields);
    let mut handshake = None;
    let may_upgrade = upstream.is_some() && route.enable_websocket && down.asks_upgrade();
    if let Some(protocols) = stripped.upgrade.filter(|_| may_upgrade) {
        handshake = upgrade::Handshake::of(&exchange.request, protocols, down.request_length())?;
    }
    if down.is_tunnel() && handshake.is_none() {
        return Err(ProxyError::Handshake("websocket_not_enabled"));
    }
    let memory = &edge.memory.addresses;
    origin.pass_on(&mut exchange.request, &exchange.client, &edge.settings.trusted, memory);
    let body = match &exchange.body {
        Some(_) if down.request_length() == BodyLength::None => BodyLength::None,
        // The beginning may have another length now.
        Some(_) if exchange.body_is_cut && exchange.body_is_changed => BodyLength::Unknown,
        Some(_) if exchange.body_is_cut => down.request_length(),
        Some(held) => BodyLength::Known(held.len() as u64),
        None => down.request_length(),
    };
    let is_grpc = upstream.is_some_and(|upstream| upstream.scheme.is_grpc());
    let deadline = route.timeouts.total.map(|total| tokio::time::Instant::now() + total);
    let bounds =
        Bounds { timeouts: route.timeouts, limits: &edge.settings.limits, deadline, is_patient: is_grpc };
    Ok(Plan { filters, edge, bounds, body, upgrade: handshake, trailers: stripped.takes_trailers })
}

/// Why an attempt failed, and whether another may be made.
enum Attempt {
    Again(ProxyError),
    Final(ProxyError),
}

async fn attempt<D: Downstream>(
    journey: &mut Journey,
    plan: &Plan<'_>,
    upstream: &Upstream,
    down: &mut D,
    upload: &mut Upload,
    timer: &mut LazyTimer,
) -> Result<Passed, Attempt> {
    if upstream.scheme.is_grpc() {
        let mut stream = Box::pin(open_stream(journey, plan, down)).await.map_err(connect_failed)?;
        let driven = drive(journey, plan, down, &mut stream, upload, timer).await;
        return match driven {
            Ok(_) => Ok(Passed::Answered),
            Err(error) => Err(judge(journey, error, &stream, upload, down)),
        };
    }
    let mut fresh = false;
    loop {
        let mut pooled = match take_idle(journey).filter(|_| !fresh) {
            Some(pooled) => pooled,
            None => Box::pin(dial(journey, plan, down)).await.map_err(connect_failed)?,
        };
        journey.address = Some(pooled.address());
        let was_used = pooled.requests() > 0;
        match drive(journey, plan, down, &mut *pooled.connection, upload, timer).await {
            Ok(Driven::Answered) => {
                if pooled.connection.is_reusable() {
                    journey.worker.pools.http1.put(pooled);
                }
                return Ok(Passed::Answered);
            }
            Ok(Driven::Switched(head)) => {
                return Ok(Passed::Upgraded(Switched { head, connection: *pooled.connection }));
            }
            Err(error) => {
                // A kept connection may have been closed in the moment it was
                // used: that says nothing of the node. A fresh one tells.
                let stale = was_used && !fresh && error.is_break();
                match judge(journey, error, &*pooled.connection, upload, down) {
                    Attempt::Again(_) if stale => {
                        upload.restart();
                        fresh = true;
                    }
                    verdict => return Err(report(journey, verdict)),
                }
            }
        }
    }
}

fn connect_failed(error: ProxyError) -> Attempt {
    match error {
        ProxyError::Connect(_) | ProxyError::Upstream(_) => Attempt::Again(error),
        other => Attempt::Final(other),
    }
}

/// Whether a failed attempt may be followed by another.
fn judge<D: Downstream, U: UpstreamExchange>(
    journey: &Journey,
    error: ProxyError,
    up: &U,
    upload: &Upload,
    down: &D,
) -> Attempt {
    let method = &journey.exchange.request.method;
    let is_upstreams = error.failure().is_some() || matches!(error, ProxyError::LineLost);
    let unseen = !up.is_answering() && !down.is_answered() && is_upstreams;
    let harmless = method.is_idempotent() || up.moved().sent == 0;
    let malformed = error.failure() == Some(Failure::Malformed);
    match unseen && harmless && upload.can_restart() && !malformed {
        true => Attempt::Again(error),
        false => Attempt::Final(error),
    }
}

/// Tells the node's state what became of it.
fn report(journey: &Journey, attempt: Attempt) -> Attempt {
    let (Attempt::Again(error) | Attempt::Final(error)) = &attempt;
    let outcome = match error.failure() {
        Some(failure) => Outcome::Failed(failure),
        None => Outcome::Abandoned,
    };
    if let Some(target) = &journey.target {
        target.report(outcome, Duration::ZERO);
    }
    attempt
}

fn tls_name<'a>(journey: &'a Journey, target: &'a Target) -> Option<&'a str> {
    if target.is_tls() { target.tls_name(Some(journey.exchange.request.host())) } else { None }
}

fn take_idle(journey: &Journey) -> Option<Pooled<ClientConnection>> {
    let target = journey.target.as_ref().filter(|target| target.is_poolable())?;
    journey.worker.pools.http1.take(target, tls_name(journey, target))
}

/// Connects, unless the client leaves before it stands.
async fn reach<D: Downstream>(
    journey: &Journey,
    plan: &Plan<'_>,
    down: &mut D,
    target: &Target,
    alpn: Alpn,
) -> Result<crate::net::Stream, ProxyError> {
    let client = (!target.is_poolable()).then_some(&*plan.edge.client);
    let timeout = Some(plan.bounds.timeouts.connect).filter(|limit| !limit.is_zero());
    let request = ConnectRequest { tls_name: tls_name(journey, target), client, path: None, alpn, timeout };
    let mut connecting = pin!(upstream::connect(target, &request));
    let watches = down.is_end();
    poll_fn(|context| {
        if let Poll::Ready(result) = connecting.as_mut().poll(context) {
            return Poll::Ready(result.map_err(ProxyError::Connect));
        }
        if watches && down.poll_gone(context).is_ready() {
            return Poll::Ready(Err(ProxyError::Gone));
        }
        Poll::Pending
    })
    .await
}

async fn dial<D: Downstream>(
    journey: &mut Journey,
    plan: &Plan<'_>,
    down: &mut D,
) -> Result<Pooled<ClientConnection>, ProxyError> {
    let began = Instant::now();
    let Some(target) = &journey.target else { return Err(ProxyError::NoUpstream) };
    let stream = reach(journey, plan, down, target, Alpn::Http1).await?;
    let address = stream.peer_address().map_err(|error| ProxyError::Upstream(TransferError::Io(error)))?;
    let limits = Rc::clone(&plan.edge.settings.response_head);
    let connection = ClientConnection::new(stream, journey.worker.buffers.clone(), limits);
    let pooled = Pooled::new(target, tls_name(journey, target), address, connection);
    journey.connect = Some(began.elapsed());
    Ok(pooled)
}

/// A stream on an HTTP/2 connection that is shared with other requests.
async fn open_stream<D: Downstream>(
    journey: &mut Journey,
    plan: &Plan<'_>,
    down: &mut D,
) -> Result<http2::ClientStream, ProxyError> {
    let began = Instant::now();
    let wait = plan.bounds.timeouts.connect;
    let Some(target) = &journey.target else { return Err(ProxyError::NoUpstream) };
    let slot = journey.worker.pools.http2.slot(target, tls_name(journey, target));
    if let Some(connection) = slot.ready() {
        return connection.exchange(wait).await.map_err(ProxyError::Upstream);
    }
    let _permit = slot.dial_permit().await;
    if let Some(connection) = slot.ready() {
        return connection.exchange(wait).await.map_err(ProxyError::Upstream);
    }
    let stream = reach(journey, plan, down, target, Alpn::Http2).await?;
    let address: Option<SocketAddr> = stream.peer_address().ok();
    let scheme = if stream.is_tls() { crate::message::Scheme::Https } else { crate::message::Scheme::Http };
    let limits = http2::ClientLimits::default();
    let (connection, driver) =
        http2::ClientConnection::handshake(stream, &limits, scheme).await.map_err(ProxyError::Upstream)?;
    journey.worker.tasks.spawn(driver);
    slot.add(connection.clone());
    let exchange = connection.exchange(wait).await.map_err(ProxyError::Upstream)?;
    journey.address = address;
    journey.connect = Some(began.elapsed());
    Ok(exchange)
}

enum Driven {
    Answered,
    Switched(ResponseHead),
}

/// Whether a request that waits for its answer may be sent to another line.
fn may_move(journey: &Journey, plan: &Plan<'_>) -> bool {
    let has_lines = journey.upstream.as_ref().is_some_and(|upstream| upstream.lines.len() > 1);
    has_lines && plan.body == BodyLength::None && journey.exchange.request.method.is_idempotent()
}

/// Waits for an answer, unless the line it is to come by goes down while
/// another one is up: a black hole would hold the request for the read time-out.
async fn unless_lost<T>(
    upstream: Option<&Upstream>,
    watch: Option<&Target>,
    waiting: impl Future<Output = Result<T, ProxyError>>,
) -> Result<T, ProxyError> {
    let mut waiting = pin!(waiting);
    let mut lost = pin!(watch.map(Target::lost));
    poll_fn(|context| {
        if let Poll::Ready(answer) = waiting.as_mut().poll(context) {
            return Poll::Ready(answer);
        }
        if let Some(loss) = lost.as_mut().as_pin_mut()
            && loss.poll(context).is_ready()
        {
            lost.set(None);
            if upstream.is_some_and(Upstream::is_up) {
                return Poll::Ready(Err(ProxyError::LineLost));
            }
        }
        Poll::Pending
    })
    .await
}

/// One attempt on a connection that stands.
async fn drive<D: Downstream, U: UpstreamExchange>(
    journey: &mut Journey,
    plan: &Plan<'_>,
    down: &mut D,
    up: &mut U,
    upload: &mut Upload,
    timer: &mut LazyTimer,
) -> Result<Driven, ProxyError> {
    let began = Instant::now();
    let upgrade = plan.upgrade.as_ref().map(|handshake| &*handshake.protocols);
    let shape = RequestShape { body: plan.body, upgrade, trailers: plan.trailers };
    up.send_head(&journey.exchange.request, shape).map_err(ProxyError::Upstream)?;
    let mut head = {
        let watch = journey.target.as_ref().filter(|_| may_move(journey, plan));
        let waiting = transfer::await_head(down, up, upload, timer, &plan.bounds);
        unless_lost(journey.upstream.as_deref(), watch, waiting).await?
    };
    let took = began.elapsed();
    journey.header = Some(took);
    if let Some(target) = &journey.target {
        target.report_at(Outcome::Status(head.status), took, began + took);
    }
    if head.status == 101 {
        if let Some(handshake) = &plan.upgrade {
            handshake.check(&head).map_err(ProxyError::Upstream)?;
            journey.upgrade = handshake.protocols.clone();
        }
        journey.status = 101;
        return Ok(Driven::Switched(head));
    }
    if down.is_tunnel() && head.status < 300 {
        return Err(ProxyError::Upstream(TransferError::Malformed("upgrade_not_taken")));
    }
    outgoing::strip_response(&mut head.fields);
    let action = run_response_filters(journey, plan, &mut head, took);
    journey.status = head.status;
    journey.reason = journey.exchange.refused.take().unwrap_or("");
    if plan.edge.drain.is_draining() {
        down.close_after();
    }
    answer(journey, plan, down, up, upload, timer, head, action).await?;
    Ok(Driven::Answered)
}

fn run_response_filters(
    journey: &mut Journey,
    plan: &Plan<'_>,
    head: &mut ResponseHead,
    took: Duration,
) -> BodyAction {
    // Without filters nothing looks at the view, so none is made.
    if plan.filters.is_empty() {
        return BodyAction::Pass;
    }
    let status = head.status;
    let host = journey.exchange.request.authority().to_owned();
    let address = journey.address.map(|address| address.to_string()).unwrap_or_default();
    let line = journey.target.as_ref().map(|target| Arc::clone(&target.line.name));
    let view = UpstreamView {
        address: &address,
        status: Some(status),
        host: &host,
        scheme: match journey.upstream.as_ref().map(|upstream| upstream.scheme) {
            Some(Scheme::Https | Scheme::Wss) => "https",
            Some(Scheme::Grpc) => "grpc",
            Some(Scheme::Grpcs) => "grpcs",
            _ => "http",
        },
        line: line.as_deref().unwrap_or_default(),
        response_time: Some(took),
    };
    plan.filters.on_response(&mut journey.exchange, head, Some(view))
}

/// Passes the response on, with what filters make of its body.
#[allow(clippy::too_many_arguments)]
async fn answer<D: Downstream, U: UpstreamExchange>(
    journey: &mut Journey,
    plan: &Plan<'_>,
    down: &mut D,
    up: &mut U,
    upload: &mut Upload,
    timer: &mut LazyTimer,
    mut head: ResponseHead,
    action: BodyAction,
) -> Result<(), ProxyError> {
    let length = up.response_length();
    let bounds = &plan.bounds;
    let whole = match action {
        BodyAction::Replace(body) | BodyAction::Refuse(body) => Some(body),
        BodyAction::Transform { max, longer, encoded }
            if length != BodyLength::None && (encoded || head.value(Name::ContentEncoding).is_none()) =>
        {
            let collected = transfer::collect_response(down, up, max, timer, bounds).await?;
            let (start, is_whole) = match collected {
                Collected::Whole(body) => (body, true),
                Collected::Longer(start) => (start, false),
            };
            if !is_whole && longer == Longer::Refuse {
                return Err(ProxyError::Upstream(TransferError::Limit("response_over_filter_limit")));
            }
            let before = (start.as_ptr(), start.len());
            let rewritten = match is_whole || longer == Longer::Begin {
                true => plan.filters.transform_body(&mut journey.exchange, start, is_whole),
                false => Rewritten::Body(start),
            };
            match rewritten {
                Rewritten::Body(body) if is_whole => Some(body),
                Rewritten::Body(start) => {
                    let is_same = before == (start.as_ptr(), start.len());
                    let length = if is_same { length } else { BodyLength::Unknown };
                    down.send_head(&head, length).map_err(ProxyError::Client)?;
                    return transfer::pass_body(down, up, upload, &start, timer, bounds).await;
                }
                Rewritten::Refused(response) => {
                    head = response.head;
                    journey.status = head.status;
                    journey.reason = response.reason;
                    journey.exchange.refused = None;
                    Some(response.body)
                }
            }
        }
        BodyAction::Pass | BodyAction::Transform { .. } => None,
    };
    let Some(body) = whole else {
        down.send_head(&head, length).map_err(ProxyError::Client)?;
        return transfer::pass_body(down, up, upload, &[], timer, bounds).await;
    };
    let is_bodyless =
        journey.exchange.request.method == crate::message::Method::Head || matches!(head.status, 204 | 304);
    let length = if is_bodyless { BodyLength::None } else { BodyLength::Known(body.len() as u64) };
    down.send_head(&head, length).map_err(ProxyError::Client)?;
    let body = if is_bodyless { &[][..] } else { &body[..] };
    transfer::send_held(down, body, timer, bounds).await
}
