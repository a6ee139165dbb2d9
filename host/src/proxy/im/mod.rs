//! Clients that do not speak frames themselves, in front of an upstream that does.
//!
//! A request becomes a frame on a connection that many share (`request`,
//! `mux`, `line`); a WebSocket connection carries a session of its own
//! (`websocket`, `socket`), by [`tlv`](super::tlv) as that of any client; and so
//! does a mailbox that clients poll or stream from (`sessions`, `post`, `mail`,
//! `mailbox`), which outlives their connections. `translate` turns
//! text messages into frames and back. Only a module knows what stands in a
//! body: it is asked by way of [`Transcode`](crate::message::Transcode). Start at
//! [`forward`]; `docs/im.md` is the operator's page.

mod attached;
mod lent;
mod line;
mod mail;
mod mailbox;
mod mux;
mod post;
mod request;
mod sessions;
mod socket;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod translate;
mod websocket;

use std::sync::Arc;

use crate::filter::Filters;
use crate::message::Downstream;
use crate::net::LazyTimer;
use crate::snapshot::{Bridge, Route};
use crate::upstream::Upstream;

use super::error::ProxyError;
use super::http::{Edge, Passed};
use super::journey::Journey;

pub use post::{Order, PostOffice, serve as serve_sessions};
pub use websocket::Bridged;
pub(super) use websocket::{Greeting, serve as websocket, serve_stream as websocket_stream};

/// What one worker keeps for such clients.
#[derive(Default)]
pub struct Instruments {
    mux: mux::Mux,
    members: post::Members,
}

/// Where a request goes.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) route: &'a Arc<Route>,
    pub(super) bridge: &'a Arc<Bridge>,
    pub(super) upstream: &'a Arc<Upstream>,
    pub(super) filters: Filters<'a>,
    pub(super) edge: &'a Edge,
}

/// Passes a request on to an upstream that speaks frames.
pub(super) async fn forward<D: Downstream>(
    journey: &mut Journey,
    way: Way<'_>,
    down: &mut D,
    timer: &mut LazyTimer,
) -> Result<Passed, ProxyError> {
    let exchange = &journey.exchange;
    let trusted = exchange.hop_is_trusted;
    let rule = way.bridge.caller.as_ref();
    let caller = rule.and_then(|rule| rule.caller(&exchange.subject(), trusted));
    let session = match way.route.enable_websocket {
        true => sessions::session_of(&journey.exchange.request),
        false => None,
    };
    if way.route.enable_websocket && down.asks_upgrade() {
        let greeting = websocket::greet(journey, way, caller, session.as_deref(), down);
        return Box::pin(greeting).await.map(Passed::Bridged);
    }
    if down.is_tunnel() {
        return Err(ProxyError::Handshake("websocket_not_enabled"));
    }
    if let Some(id) = session.filter(|_| way.route.transcoder.is_some()) {
        return sessions::exchange(journey, way, caller, &id, down, timer).await;
    }
    if rule.is_some() && caller.is_none() {
        return Err(ProxyError::NoCaller);
    }
    request::exchange(journey, way, caller, down, timer).await
}
