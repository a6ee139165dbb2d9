//! Connections that leave HTTP: WebSocket and other upgrades, passed through.
//!
//! A route with `enable_websocket` passes every `Upgrade` on but `h2c` and TLS,
//! which change the framing between two hops and not what is spoken end to end;
//! other routes answer as if it had not been asked for. A `101` must name a
//! protocol that was asked for, and for WebSocket prove that the handshake was
//! read. What either side sent ahead is kept and delivered first.

use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use base64::Engine as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::config::objects::OnChange;
use crate::message::{
    BodyLength, BodyWrite, Downstream, Method, Moved, Name, RequestHead, ResponseHead, TransferError,
};
use crate::net::http1::{ClientConnection, ServerConnection, tokens};
use crate::net::{LazyTimer, LeasedBuffer, http2};
use crate::observe::ReasonFamily;
use crate::snapshot::Route;

use super::error::ProxyError;
use super::forward::Upgraded;
use super::http::Edge;
use super::journey::Journey;
use super::relay::{Pending, RelayCounters, RelayEnd, RelayLimits, Side, relay};
use super::worker::SharedWorker;

/// RFC 6455 §1.3.
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// How long a client may take for the `101`.
const SWITCH_TIME: Duration = Duration::from_secs(10);
/// How often a session whose route is to drain or evict looks for a change.
const CHANGE_CHECK: Duration = Duration::from_secs(1);
/// How long a session may go on after its route changed, with `on_change: drain`.
const CHANGE_DRAIN: Duration = Duration::from_secs(30);

/// An upgrade that is passed on.
pub(super) struct Handshake {
    /// The protocols, as the client listed them.
    pub(super) protocols: Box<[u8]>,
    /// What `Sec-WebSocket-Accept` must be.
    pub(super) accept: Option<String>,
}

impl Handshake {
    /// The handshake of a request, or `None` when the upgrade is not passed on.
    ///
    /// # Errors
    /// A WebSocket handshake without the one key that would prove its answer.
    pub(super) fn of(
        head: &RequestHead,
        protocols: Box<[u8]>,
        body: BodyLength,
    ) -> Result<Option<Self>, ProxyError> {
        let is = |name: &[u8]| tokens(&protocols).any(|token| token.eq_ignore_ascii_case(name));
        if is(b"h2c")
            || is(b"tls")
            || tokens(&protocols).any(|token| token.to_ascii_lowercase().starts_with(b"tls/"))
        {
            return Ok(None);
        }
        if !is(b"websocket") {
            return Ok(body.is_empty().then_some(Self { protocols, accept: None }));
        }
        if head.method != Method::Get || !body.is_empty() {
            return Err(ProxyError::Handshake("websocket_not_get"));
        }
        let mut keys = head.fields.values_of(b"sec-websocket-key");
        let (Some(key), None) = (keys.next(), keys.next()) else {
            return Err(ProxyError::Handshake("websocket_key_missing"));
        };
        let decoded = base64::engine::general_purpose::STANDARD.decode(key);
        if decoded.map_or(0, |bytes| bytes.len()) != 16 {
            return Err(ProxyError::Handshake("websocket_bad_key"));
        }
        let accept = Some(accept_of(key));
        drop(keys);
        Ok(Some(Self { protocols, accept }))
    }

    /// Whether a `101` answers this handshake.
    pub(super) fn check(&self, head: &ResponseHead) -> Result<(), TransferError> {
        let chosen = head.value(Name::Upgrade).unwrap_or_default();
        let asked = tokens(chosen).all(|token| {
            let name = |text: &[u8]| {
                text.split(|&byte| byte == b'/').next().unwrap_or_default().to_ascii_lowercase()
            };
            tokens(&self.protocols).any(|own| own.eq_ignore_ascii_case(token) || name(own) == name(token))
        });
        if chosen.is_empty() || !asked {
            return Err(TransferError::Malformed("unasked_upgrade"));
        }
        if let Some(accept) = &self.accept {
            let mut given = head.fields.values_of(b"sec-websocket-accept");
            if given.next() != Some(accept.as_bytes()) || given.next().is_some() {
                return Err(TransferError::Malformed("websocket_bad_accept"));
            }
        }
        Ok(())
    }
}

pub(super) fn accept_of(key: &[u8]) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(WEBSOCKET_GUID);
    base64::engine::general_purpose::STANDARD.encode(context.finish())
}

/// Passes the `101` on and joins the two connections until they end.
pub(super) async fn run(mut down: ServerConnection, upgraded: Upgraded, edge: Edge, mut timer: LazyTimer) {
    let Upgraded { mut head, connection, mut journey } = upgraded;
    keep_upgrade_fields(&mut head);
    if send_switch(&mut down, &head, &mut timer).await.is_err() {
        journey.reason = "client_broken";
        return down.abort();
    }
    let before = down.moved();
    let (mut client, forward) = down.into_parts();
    drop((head, timer));
    let joined = Joined { upgraded: (connection, journey), edge, forward, before };
    if joined.run(&mut client).await {
        client.abort();
    }
}

/// The same over HTTP/2, where the tunnel is one stream (RFC 8441).
pub(super) async fn run_stream(down: http2::ServerStream, upgraded: Upgraded, edge: Edge) {
    let Upgraded { mut head, connection, mut journey } = upgraded;
    super::outgoing::strip_response(&mut head.fields);
    // It proves to us that the handshake was read; the client sent no key.
    head.fields.remove(b"sec-websocket-accept");
    let before = down.moved();
    let mut client = match down.into_tunnel(&head) {
        Ok(tunnel) => tunnel,
        Err(_) => {
            journey.reason = "client_broken";
            return;
        }
    };
    // The status the client got.
    journey.status = 200;
    drop(head);
    let joined = Joined { upgraded: (connection, journey), edge, forward: None, before };
    if joined.run(&mut client).await {
        client.abort();
    }
}

/// Two sides that left HTTP.
struct Joined {
    upgraded: (ClientConnection, Journey),
    edge: Edge,
    /// What the client sent ahead.
    forward: Option<LeasedBuffer>,
    before: Moved,
}

impl Joined {
    /// Passes bytes until they end, and writes the session's line. Says whether
    /// the client's side is to look cut.
    async fn run<A: AsyncRead + AsyncWrite + Unpin>(self, client: &mut A) -> bool {
        let Self { upgraded: (connection, mut journey), edge, forward, before } = self;
        let worker = Rc::clone(&journey.worker);
        let route = journey.route.clone();
        let (mut upstream, backward) = connection.into_parts();
        let own = &edge.settings.limits;
        let limits = RelayLimits {
            idle_timeout: own.upgrade_idle_timeout,
            first_send_timeout: own.send_timeout,
            second_send_timeout: route.as_ref().map_or(own.send_timeout, |route| route.timeouts.send),
            ..RelayLimits::default()
        };
        drop(edge);
        let counters = RelayCounters::default();
        let pending_bytes = Pending { forward, backward };
        let stop = changed(Rc::clone(&worker), route);
        let buffers = worker.buffers.clone();
        let end = relay(client, &mut upstream, pending_bytes, &buffers, limits, &counters, stop).await;
        journey.moved.received = before.received + counters.forward.get();
        journey.moved.sent = before.sent + counters.backward.get();
        journey.reason = "";
        worker.metrics.reason(ReasonFamily::Close, end.reason());
        // A cut on one side shows as a cut on the other.
        match end {
            RelayEnd::Failed(Side::Second, _) => return true,
            RelayEnd::Failed(Side::First, _) => upstream.abort(),
            RelayEnd::Stalled(_) => {
                upstream.abort();
                return true;
            }
            RelayEnd::Closed | RelayEnd::Idle | RelayEnd::HalfCloseTimeout | RelayEnd::Stopped => {}
        }
        false
    }
}

/// Takes the connection's own fields out of a `101`, but for `Upgrade`.
fn keep_upgrade_fields(head: &mut ResponseHead) {
    let upgrade = head.value(Name::Upgrade).map(Box::<[u8]>::from);
    super::outgoing::strip_response(&mut head.fields);
    if let Some(upgrade) = upgrade {
        head.fields.set(b"Upgrade", &upgrade);
    }
}

pub(super) async fn send_switch(
    down: &mut ServerConnection,
    head: &ResponseHead,
    timer: &mut LazyTimer,
) -> Result<(), TransferError> {
    down.send_switch(head)?;
    let until = Instant::now() + SWITCH_TIME;
    poll_fn(|context| match down.poll_flush(context) {
        Poll::Ready(result) => Poll::Ready(result),
        Poll::Pending => {
            timer.poll_until(context, until).map(|()| Err(TransferError::Timeout("send_timeout")))
        }
    })
    .await
}

/// Returns once the session is to end because its route changed, by the
/// route's `on_change`. Boxed where it does anything: most sessions keep.
async fn changed(worker: SharedWorker, route: Option<Arc<Route>>) {
    match route {
        Some(route) if route.on_change != OnChange::Keep => Box::pin(watch(worker, route)).await,
        _ => pending().await,
    }
}

async fn watch(worker: SharedWorker, route: Arc<Route>) {
    loop {
        tokio::time::sleep(CHANGE_CHECK).await;
        let now = worker.snapshot().router.get(&route.id).cloned();
        if now.is_none_or(|now| !Arc::ptr_eq(&now, &route)) {
            break;
        }
    }
    if route.on_change == OnChange::Drain {
        tokio::time::sleep(CHANGE_DRAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_value_is_that_of_the_standard() {
        assert_eq!(accept_of(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
