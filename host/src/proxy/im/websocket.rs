//! WebSocket clients in front of an upstream that speaks frames.
//!
//! [`greet`] decides on the handshake, [`serve`] answers it and runs the
//! session: that of a TLV client, over messages in place of bytes. What a
//! connection carries is in `socket`.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::message::{Client, Downstream, Name, RequestHead, ResponseHead};
use crate::net::http1::{ServerConnection, tokens};
use crate::net::http2;
use crate::net::{LazyTimer, LeasedBuffer};
use crate::proxy::error::ProxyError;
use crate::proxy::http::Edge;
use crate::proxy::journey::Journey;
use crate::proxy::tlv::{Origin, serve_over};
use crate::proxy::upgrade::{Handshake, send_switch};
use crate::snapshot::Bridge;

use super::Way;
use super::attached::{Attached, carry};
use super::lent::Lent;
use super::post::{Holder, STREAM_BATCHES, What};
use super::sessions::{ask, holder_of, number, open, refused};
use super::socket::{Speech, WebSocketDown, Wire};
use super::translate::{Transcoder, Translator};

/// The subprotocol of text messages.
const JSON: &str = "sluice.json";
/// What the subprotocol of frames begins with; the format's id follows.
const FRAMES: &str = "sluice.";

/// A handshake that is to be answered.
pub(in crate::proxy) struct Greeting {
    accept: String,
    subprotocol: Option<String>,
    is_text: bool,
    /// Who the caller is, where somebody trusted said so.
    caller: Option<u64>,
    /// Who it says it is, where nobody did; the upstream's login will tell.
    claim: Option<u64>,
    /// The session it is attached to; without one it has its own.
    attached: Option<Attached>,
    bridge: Arc<Bridge>,
}

/// A connection that speaks WebSocket from here on, with the record that is told
/// when the session ends.
pub struct Bridged {
    pub(in crate::proxy) greeting: Greeting,
    pub(in crate::proxy) journey: Journey,
}

/// Decides on a request to speak WebSocket.
pub(super) async fn greet<D: Downstream>(
    journey: &mut Journey,
    way: Way<'_>,
    caller: Option<u64>,
    session: Option<&str>,
    down: &D,
) -> Result<Greeting, ProxyError> {
    let head = &journey.exchange.request;
    let protocols: Box<[u8]> = head.fields.value(Name::Upgrade).unwrap_or_default().into();
    let handshake = Handshake::of(head, protocols, down.request_length())?;
    let Some(accept) = handshake.and_then(|handshake| handshake.accept) else {
        return Err(ProxyError::WebSocketOnly);
    };
    if head.fields.values_of(b"sec-websocket-version").next() != Some(b"13") {
        return Err(ProxyError::Handshake("websocket_version"));
    }
    check_origin(head, &way.bridge.websocket.origins)?;
    let format = way.bridge.tlv.format.id();
    let (subprotocol, is_text) = choose(head, format, way.route.transcoder.is_some())?;
    let claim = claim_of(head);
    let attached = match session {
        None => None,
        Some(_) if !is_text => return Err(ProxyError::Handshake("websocket_subprotocol")),
        Some(id) => {
            journey.hides_query = true;
            Some(attach(journey, &way, caller, id).await?)
        }
    };
    journey.upgrade = b"websocket".as_slice().into();
    Ok(Greeting { accept, subprotocol, is_text, caller, claim, attached, bridge: Arc::clone(way.bridge) })
}

/// Attaches the connection to its session, or to a new one.
async fn attach(
    journey: &Journey,
    way: &Way<'_>,
    caller: Option<u64>,
    id: &str,
) -> Result<Attached, ProxyError> {
    let head = &journey.exchange.request;
    let (holder, cursor, hello) = match id {
        "new" => {
            let made = open(journey, way, caller)?;
            let hello = made.describe(way).to_string();
            (Holder { id: made.id, token: made.token }, 0, hello)
        }
        id => {
            let mut holder = holder_of(head, id);
            let mut offered = head.fields.values_of(b"sec-websocket-protocol").flat_map(tokens);
            if let Some(token) = offered.find_map(|name| name.strip_prefix(b"token.")) {
                holder.token = String::from_utf8_lossy(token).into_owned();
            }
            let cursor = number(head, "cursor")?.unwrap_or(0);
            let hello = serde_json::json!({"session": id, "cursor": cursor}).to_string();
            (holder, cursor, hello)
        }
    };
    let (sender, batches) = mpsc::channel(STREAM_BATCHES);
    let what = |reply| What::Attach { cursor, batches: sender, reply };
    ask(journey, holder.clone(), what).await?.map_err(refused)?;
    Ok(Attached { holder, batches, hello })
}

/// Pages of other sites do not speak in a user's name.
pub(super) fn check_origin(head: &RequestHead, allowed: &[String]) -> Result<(), ProxyError> {
    let Some(origin) = head.fields.values_of(b"origin").next() else { return Ok(()) };
    let is_own = || {
        let host = origin.iter().position(|byte| *byte == b'/').and_then(|at| origin.get(at + 2..));
        host.is_some_and(|host| host.eq_ignore_ascii_case(head.authority().as_bytes()))
    };
    let is_allowed = match allowed {
        [] => is_own(),
        list => list.iter().any(|own| own == "*" || own.as_bytes().eq_ignore_ascii_case(origin)),
    };
    if is_allowed { Ok(()) } else { Err(ProxyError::Origin) }
}

/// The first of the client's subprotocols that is known here. A client that
/// names none speaks frames.
fn choose(
    head: &RequestHead,
    format: &str,
    has_transcoder: bool,
) -> Result<(Option<String>, bool), ProxyError> {
    let frames = format!("{FRAMES}{format}");
    let mut asked = false;
    for line in head.fields.values_of(b"sec-websocket-protocol") {
        for name in tokens(line) {
            asked = true;
            if name == frames.as_bytes() {
                return Ok((Some(frames), false));
            }
            if name == JSON.as_bytes() && has_transcoder {
                return Ok((Some(JSON.to_owned()), true));
            }
        }
    }
    if asked { Err(ProxyError::Handshake("websocket_subprotocol")) } else { Ok((None, false)) }
}

/// The user a client names by `?user=`. It is put in the header of its frames
/// and proves nothing: a session logs in by itself.
pub(super) fn claim_of(head: &RequestHead) -> Option<u64> {
    head.query()?.split('&').find_map(|pair| pair.strip_prefix("user="))?.parse().ok()
}

/// The client as its request names it, for the session made of it.
pub(super) fn client_of(journey: &Journey) -> Arc<Client> {
    let exchange = &journey.exchange;
    if exchange.client_ip == exchange.client.ip() {
        return Arc::clone(&exchange.client);
    }
    let address = (exchange.client_ip, exchange.client_port).into();
    Arc::new(Client { address, ..Client::clone(&exchange.client) })
}

/// Answers the handshake and carries the session until it ends.
pub(in crate::proxy) async fn serve(
    mut down: ServerConnection,
    bridged: Bridged,
    edge: Edge,
    mut timer: LazyTimer,
) {
    let Bridged { greeting, mut journey } = bridged;
    let mut head =
        ResponseHead::new(101).with("Upgrade", "websocket").with("Sec-WebSocket-Accept", &greeting.accept);
    if let Some(subprotocol) = &greeting.subprotocol {
        head = head.with("Sec-WebSocket-Protocol", subprotocol);
    }
    if send_switch(&mut down, &head, &mut timer).await.is_err() {
        journey.reason = "client_broken";
        return down.abort();
    }
    (journey.status, journey.moved) = (101, down.moved());
    let (stream, ahead) = down.into_parts();
    drop(timer);
    converse(stream, ahead, Bridged { greeting, journey }, edge).await;
}

/// The same over HTTP/2, where the connection is one stream (RFC 8441).
pub(in crate::proxy) async fn serve_stream(down: http2::ServerStream, bridged: Bridged, edge: Edge) {
    let Bridged { greeting, mut journey } = bridged;
    let mut head = ResponseHead::new(200);
    if let Some(subprotocol) = &greeting.subprotocol {
        head = head.with("Sec-WebSocket-Protocol", subprotocol);
    }
    (journey.status, journey.moved) = (200, down.moved());
    match down.into_tunnel(&head) {
        Ok(tunnel) => converse(tunnel, None, Bridged { greeting, journey }, edge).await,
        Err(_) => journey.reason = "client_broken",
    }
}

/// Carries the session of a connection that speaks WebSocket by now.
async fn converse<W: Wire>(wire: W, ahead: Option<LeasedBuffer>, bridged: Bridged, edge: Edge) {
    let Bridged { greeting, mut journey } = bridged;
    let worker = Rc::clone(&journey.worker);
    let wire = Lent::new(wire, worker.buffers.clone(), ahead);
    journey.reason = "";
    let bridge = greeting.bridge;
    if let Some(attached) = greeting.attached {
        let (conf, limit) = (bridge.websocket.clone(), edge.settings.limits.send_timeout);
        drop((edge, bridge));
        return Box::pin(carry(worker, wire, attached, conf, limit / 2)).await;
    }
    let origin = Origin {
        client: client_of(&journey),
        listener: Arc::clone(&edge.settings.source),
        first: None,
        drain: edge.drain.clone(),
        started: tokio::time::Instant::now(),
    };
    let speech = match greeting.is_text {
        false => Speech::Frames { user: greeting.caller },
        true => {
            let transcoder = Transcoder::new(Rc::clone(&worker), Arc::clone(&bridge.frames.id));
            let user = greeting.caller.or(greeting.claim);
            Speech::Text(Box::new(Translator::new(transcoder, &bridge, user)))
        }
    };
    let socket = WebSocketDown::new(wire, Arc::clone(&bridge.tlv), &bridge.websocket, speech).await;
    let (frames, tlv) = (Arc::clone(&bridge.frames), Arc::clone(&bridge.tlv));
    drop((edge, bridge));
    Box::pin(serve_over(worker, frames, tlv, socket, origin)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Fields, Method, Scheme, Version};

    fn head(fields: &[(&str, &str)]) -> RequestHead {
        let mut own = Fields::default();
        for (name, value) in fields {
            own.append(name.as_bytes(), value.as_bytes());
        }
        let (authority, path) = (own.store(b"chat.example:8443"), own.store(b"/im"));
        RequestHead::new(Method::Get, Version::Http11, Scheme::Https, authority, path, None, own)
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let any = ["*".to_owned()];
        let list = ["https://a.example".to_owned(), "null".to_owned()];
        let table: [(&str, &[String], bool); 7] = [
            ("https://chat.example:8443", &[], true),
            ("https://chat.example", &[], false),
            ("https://evil.example", &[], false),
            ("null", &[], false),
            ("https://evil.example", &any, true),
            ("https://a.example", &list, true),
            ("https://a.example.evil", &list, false),
        ];
        for (origin, allowed, is_allowed) in table {
            let head = head(&[("origin", origin)]);
            assert_eq!(check_origin(&head, allowed).is_ok(), is_allowed, "{origin} {allowed:?}");
        }
        assert!(check_origin(&head(&[]), &[]).is_ok(), "what is no browser sends no origin");
    }

    #[test]
    fn the_first_known_subprotocol_is_chosen() {
        type Case<'a> = (&'a [(&'a str, &'a str)], bool, Option<(Option<&'a str>, bool)>);
        let table: [Case<'_>; 6] = [
            (&[], true, Some((None, false))),
            (
                &[("sec-websocket-protocol", "sluice.json, sluice.im20")],
                true,
                Some((Some("sluice.json"), true)),
            ),
            (
                &[("sec-websocket-protocol", "sluice.json, sluice.im20")],
                false,
                Some((Some("sluice.im20"), false)),
            ),
            (
                &[("sec-websocket-protocol", "chat"), ("sec-websocket-protocol", "sluice.im20")],
                true,
                Some((Some("sluice.im20"), false)),
            ),
            (&[("sec-websocket-protocol", "chat")], true, None),
            (&[("sec-websocket-protocol", "sluice.json")], false, None),
        ];
        for (fields, has_transcoder, expected) in table {
            let chosen = choose(&head(fields), "im20", has_transcoder).ok();
            let chosen = chosen.as_ref().map(|(name, is_text)| (name.as_deref(), *is_text));
            assert_eq!(chosen, expected, "{fields:?}");
        }
    }
}
