//! Sessions clients come back to: what requests with `?session=` ask.
//!
//! `POST ?session=new` makes one, `POST ?session=ID` sends, `GET` receives by a
//! poll or as an event stream, `DELETE` closes. Id and token name the session on
//! whichever connection the client comes by, the cursor what it has. A session
//! behind it is that of any TLV client (`mail`).

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::filter::LocalResponse;
use crate::message::{BodyLength, Downstream, Method, RequestHead, ResponseHead};
use crate::net::LazyTimer;
use crate::proxy::error::{ProxyError, http_date};
use crate::proxy::http::{Passed, answer};
use crate::proxy::journey::Journey;
use crate::proxy::tlv::{Origin, serve_over};

use super::Way;
use super::mail::MailDown;
use super::mailbox::{Batch, Mailbox};
use super::post::{Holder, Member, Order, Refused, STREAM_BATCHES, What};
use super::request::whole_body;
use super::translate::{Transcoder, Translator};
use super::websocket::{check_origin, claim_of, client_of};

/// How often an event stream without events shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a request says of its session.
pub(super) fn session_of(head: &RequestHead) -> Option<String> {
    argument(head, "session").map(str::to_owned)
}

fn argument<'a>(head: &'a RequestHead, name: &str) -> Option<&'a str> {
    head.query()?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

pub(super) fn number(head: &RequestHead, name: &str) -> Result<Option<u64>, ProxyError> {
    let Some(text) = argument(head, name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| ProxyError::Session(400, "session_argument"))
}

/// Id and token: the token from its header, else from the query, where
/// browsers' event streams and WebSockets have to put it.
pub(super) fn holder_of(head: &RequestHead, id: &str) -> Holder {
    let header = head.fields.values_of(b"x-session-token").next();
    let header = header.and_then(|value| std::str::from_utf8(value).ok());
    let token = header.or_else(|| argument(head, "token")).unwrap_or_default();
    Holder { id: id.to_owned(), token: token.to_owned() }
}

/// Does what a request asks of a session.
pub(super) async fn exchange<D: Downstream>(
    journey: &mut Journey,
    way: Way<'_>,
    caller: Option<u64>,
    id: &str,
    down: &mut D,
    timer: &mut LazyTimer,
) -> Result<Passed, ProxyError> {
    journey.hides_query = true;
    let method = journey.exchange.request.method.clone();
    let holder = holder_of(&journey.exchange.request, id);
    let response = match method {
        Method::Post if id == "new" => create(journey, &way, caller, down, timer).await?,
        Method::Post => send(journey, &way, holder, down, timer).await?,
        Method::Get if wants_stream(&journey.exchange.request) => {
            return Box::pin(stream(journey, &way, holder, down, timer)).await;
        }
        Method::Get => receive(journey, &way, holder, down).await?,
        Method::Delete => {
            ask(journey, holder, |reply| What::Close { reply }).await?.map_err(refused)?;
            LocalResponse::new(204, "")
        }
        _ => return Err(ProxyError::Session(405, "session_method")),
    };
    answer(journey, way.filters, way.edge, down, timer, response).await.map(|()| Passed::Answered)
}

fn wants_stream(head: &RequestHead) -> bool {
    let mut accepts = head.fields.values_of(b"accept");
    accepts.any(|value| memchr::memmem::find(value, b"text/event-stream").is_some())
}

/// Sends an order and waits for its answer.
pub(super) async fn ask<T>(
    journey: &Journey,
    holder: Holder,
    what: impl FnOnce(oneshot::Sender<T>) -> What,
) -> Result<T, ProxyError> {
    let (reply, answer) = oneshot::channel();
    let id = holder.id.clone();
    let office = &journey.worker.shared.im;
    office.send(&id, Order { holder, what: what(reply) }).map_err(refused)?;
    // A worker that ends drops the order.
    answer.await.map_err(|_| refused(Refused::Unknown))
}

pub(super) fn refused(refused: Refused) -> ProxyError {
    match refused {
        Refused::Unknown => ProxyError::Session(404, "session_unknown"),
        Refused::Busy => ProxyError::Session(429, "session_busy"),
        Refused::Ended => ProxyError::Session(410, "session_ended"),
        Refused::Cursor => ProxyError::Session(400, "session_cursor"),
        Refused::Message(_) => ProxyError::Session(400, "session_message"),
    }
}

async fn body_of<D: Downstream>(
    journey: &Journey,
    way: &Way<'_>,
    down: &mut D,
    timer: &mut LazyTimer,
) -> Result<Bytes, ProxyError> {
    let max = way.bridge.websocket.message_max as usize;
    whole_body(journey, way, max, down, timer).await
}

/// Makes a session; its first message, the login, may stand in the body.
async fn create<D: Downstream>(
    journey: &mut Journey,
    way: &Way<'_>,
    caller: Option<u64>,
    down: &mut D,
    timer: &mut LazyTimer,
) -> Result<LocalResponse, ProxyError> {
    check_origin(&journey.exchange.request, &way.bridge.websocket.origins)?;
    let body = body_of(journey, way, down, timer).await?;
    let made = open(journey, way, caller)?;
    if !body.is_empty() {
        let holder = Holder { id: made.id.clone(), token: made.token.clone() };
        match ask(journey, holder.clone(), |reply| What::Send { text: body, number: None, reply }).await? {
            Ok(_) => {}
            Err(why) => {
                let _ = ask(journey, holder, |reply| What::Close { reply }).await;
                return Ok(not_sent(journey, why));
            }
        }
    }
    Ok(LocalResponse::json(201, "", &made.describe(way)))
}

/// A session that was just made.
pub(super) struct Made {
    pub(super) id: String,
    pub(super) token: String,
}

impl Made {
    /// What its client is told of it.
    pub(super) fn describe(&self, way: &Way<'_>) -> serde_json::Value {
        let conf = &way.bridge.sessions;
        serde_json::json!({
            "session": self.id, "token": self.token, "cursor": 0,
            "limits": {
                "history_messages": conf.history_messages,
                "history_bytes": conf.history_bytes,
                "history_seconds": conf.history_time.as_secs_f64(),
                "idle_seconds": conf.idle_timeout.as_secs_f64(),
                "wait_seconds": conf.wait_max.as_secs_f64(),
            },
        })
    }
}

/// Begins a session on this worker.
pub(super) fn open(journey: &Journey, way: &Way<'_>, caller: Option<u64>) -> Result<Made, ProxyError> {
    let worker = &journey.worker;
    let bridge = way.bridge;
    if worker.im.members.len() >= bridge.sessions.max as usize || worker.tasks.is_draining() {
        return Err(ProxyError::Busy);
    }
    let made = Made { id: format!("{}-{}", worker.index, secret()?), token: secret()? };
    let transcoder = Transcoder::new(Rc::clone(worker), Arc::clone(&bridge.frames.id));
    let user = caller.or_else(|| claim_of(&journey.exchange.request));
    let translator = Rc::new(RefCell::new(Translator::new(transcoder, bridge, user)));
    let mailbox = Rc::new(Mailbox::new(&made.token, bridge.sessions.clone()));
    let down = MailDown::new(
        Rc::clone(&mailbox),
        Arc::clone(&bridge.tlv),
        Rc::clone(&translator),
        bridge.websocket.ping_interval,
    );
    let origin = Origin {
        client: client_of(journey),
        listener: Arc::clone(&way.edge.settings.source),
        first: None,
        drain: way.edge.drain.clone(),
        started: Instant::now(),
    };
    let (frames, tlv) = (Arc::clone(&bridge.frames), Arc::clone(&bridge.tlv));
    let session = serve_over(Rc::clone(worker), frames, tlv, down, origin);
    worker.im.members.insert(made.id.clone(), Member { mailbox: Rc::clone(&mailbox), translator });
    worker.tasks.spawn(async move {
        session.await;
        // However it ended: who comes now is told.
        mailbox.end("aborted");
    });
    Ok(made)
}

/// 128 bits nobody can guess.
fn secret() -> Result<String, ProxyError> {
    let mut bytes = [0; 16];
    // Without a source of randomness nobody gets a session that others could guess.
    getrandom::fill(&mut bytes).map_err(|_| ProxyError::Busy)?;
    Ok(HEXLOWER.encode(&bytes))
}

async fn send<D: Downstream>(
    journey: &mut Journey,
    way: &Way<'_>,
    holder: Holder,
    down: &mut D,
    timer: &mut LazyTimer,
) -> Result<LocalResponse, ProxyError> {
    let number = number(&journey.exchange.request, "n")?;
    let text = body_of(journey, way, down, timer).await?;
    match ask(journey, holder, |reply| What::Send { text, number, reply }).await? {
        Ok(is_new) => {
            Ok(LocalResponse::json(202, "", &serde_json::json!({"accepted": true, "duplicate": !is_new})))
        }
        Err(why) => Ok(not_sent(journey, why)),
    }
}

/// Why a message was not taken, as the client meets it.
fn not_sent(journey: &Journey, why: Refused) -> LocalResponse {
    let id = journey.exchange.request_id.get();
    let Refused::Message(text) = why else { return refused(why).response(id) };
    let told: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let error = &told["error"];
    let status = error["status"].as_u64().and_then(|status| u16::try_from(status).ok());
    let body = serde_json::json!({
        "error_msg": error["message"], "path": error["path"], "id": told["id"], "request_id": id,
    });
    LocalResponse::json(status.filter(|status| *status >= 400).unwrap_or(400), "transcode_refused", &body)
}

/// Answers a poll.
async fn receive<D: Downstream>(
    journey: &mut Journey,
    way: &Way<'_>,
    holder: Holder,
    down: &mut D,
) -> Result<LocalResponse, ProxyError> {
    let cursor = number(&journey.exchange.request, "cursor")?.unwrap_or(0);
    let wait = match argument(&journey.exchange.request, "wait") {
        None => Duration::ZERO,
        Some(text) => crate::config::objects::units::parse_duration(text)
            .or_else(|why| text.parse().map(Duration::from_secs).map_err(|_| why))
            .map_err(|_| ProxyError::Session(400, "session_argument"))?,
    };
    let wait = wait.min(way.bridge.sessions.wait_max);
    let asking = ask(journey, holder, |reply| What::Receive { cursor, wait, reply });
    let mut asking = pin!(asking);
    let batch = poll_fn(|context| {
        if let Poll::Ready(batch) = asking.as_mut().poll(context) {
            return Poll::Ready(batch);
        }
        if down.is_end() && down.poll_gone(context).is_ready() {
            return Poll::Ready(Err(ProxyError::Gone));
        }
        Poll::Pending
    });
    let batch = batch.await?.map_err(refused)?;
    let mut response = LocalResponse::new(200, "");
    response.head.fields.append(b"Content-Type", b"application/json");
    response.head.fields.append(b"Cache-Control", b"no-store");
    response.body = batch_text(&batch).into();
    Ok(response)
}

/// A batch as the answer to a poll.
fn batch_text(batch: &Batch) -> Vec<u8> {
    let mut out = format!("{{\"cursor\":{},\"messages\":[", batch.cursor).into_bytes();
    for (index, (cursor, text)) in batch.messages.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        message_text(&mut out, *cursor, text);
    }
    out.push(b']');
    if let Some(gap) = batch.gap {
        out.extend_from_slice(format!(",\"gap\":{}", gap_text(gap)).as_bytes());
    }
    if let Some(reason) = batch.ended {
        out.extend_from_slice(format!(",\"end\":{{\"reason\":\"{reason}\"}}").as_bytes());
    }
    out.extend_from_slice(b"}\n");
    out
}

pub(super) fn message_text(out: &mut Vec<u8>, cursor: u64, text: &[u8]) {
    out.extend_from_slice(b"{\"cursor\":");
    out.extend_from_slice(itoa::Buffer::new().format(cursor).as_bytes());
    out.extend_from_slice(b",\"message\":");
    out.extend_from_slice(text);
    out.push(b'}');
}

pub(super) fn gap_text((after, through): (u64, u64)) -> String {
    format!("{{\"after\":{after},\"through\":{through}}}")
}

/// Sends what comes as an event stream, until either side goes.
async fn stream<D: Downstream>(
    journey: &mut Journey,
    way: &Way<'_>,
    holder: Holder,
    down: &mut D,
    timer: &mut LazyTimer,
) -> Result<Passed, ProxyError> {
    let head = &journey.exchange.request;
    // What a browser asks when it comes back by itself counts more than its URL.
    let last = head.fields.values_of(b"last-event-id").next();
    let last = last.and_then(|text| std::str::from_utf8(text).ok()).and_then(|text| text.parse().ok());
    let cursor = match last {
        Some(cursor) => cursor,
        None => number(head, "cursor")?.unwrap_or(0),
    };
    let (batches, mut arriving) = mpsc::channel(STREAM_BATCHES);
    ask(journey, holder, |reply| What::Attach { cursor, batches, reply }).await?.map_err(refused)?;
    let mut head = ResponseHead::new(200)
        .with("Content-Type", "text/event-stream")
        .with("Cache-Control", "no-store")
        .with("X-Accel-Buffering", "no")
        .with("Date", &http_date());
    let _ = way.filters.on_response(&mut journey.exchange, &mut head, None);
    down.send_head(&head, BodyLength::Unknown).map_err(ProxyError::Client)?;
    (journey.status, journey.reason) = (200, "");
    let limit = way.edge.settings.limits.send_timeout;
    let mut out = b": open\n\n".to_vec();
    let drain = way.edge.drain.clone();
    loop {
        write(down, &out, timer, limit).await?;
        out.clear();
        let mut alive = pin!(tokio::time::sleep(KEEP_ALIVE));
        let next = poll_fn(|context| {
            if let Poll::Ready(batch) = arriving.poll_recv(context) {
                return Poll::Ready(Next::Batch(batch));
            }
            if down.poll_gone(context).is_ready() {
                return Poll::Ready(Next::Gone);
            }
            // A browser comes back by itself; it had better do so elsewhere.
            if drain.poll_draining().is_ready() {
                return Poll::Ready(Next::Batch(None));
            }
            alive.as_mut().poll(context).map(|()| Next::Silence)
        });
        match next.await {
            Next::Gone => return Err(ProxyError::Gone),
            Next::Silence => out.extend_from_slice(b": alive\n\n"),
            Next::Batch(None) => break,
            Next::Batch(Some(batch)) => events(&mut out, &batch),
        }
    }
    poll_fn(|context| down.poll_finish(context, None)).await.map_err(ProxyError::Client)?;
    Ok(Passed::Answered)
}

enum Next {
    /// What has come; nothing once the stream is over.
    Batch(Option<Batch>),
    Silence,
    Gone,
}

/// A batch as events. Messages have the cursor as their id.
fn events(out: &mut Vec<u8>, batch: &Batch) {
    if let Some(gap) = batch.gap {
        let id = gap.1;
        out.extend_from_slice(format!("event: gap\nid: {id}\ndata: {}\n\n", gap_text(gap)).as_bytes());
    }
    for (cursor, text) in &batch.messages {
        out.extend_from_slice(format!("id: {cursor}\ndata: ").as_bytes());
        // A line end would end the field; in JSON text it can only be blank space.
        out.extend(text.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
        out.extend_from_slice(b"\n\n");
    }
    if let Some(reason) = batch.ended {
        out.extend_from_slice(format!("event: end\ndata: {{\"reason\":\"{reason}\"}}\n\n").as_bytes());
    }
}

/// Writes and flushes, within the time a client has to take something.
async fn write<D: Downstream>(
    down: &mut D,
    bytes: &[u8],
    timer: &mut LazyTimer,
    limit: Duration,
) -> Result<(), ProxyError> {
    let mut rest = bytes;
    let mut since = Instant::now();
    poll_fn(|context| {
        while !rest.is_empty() {
            match down.poll_write(context, rest) {
                Poll::Ready(Ok(count)) => {
                    rest = &rest[count..];
                    since = Instant::now();
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(ProxyError::Client(error))),
                Poll::Pending => break,
            }
        }
        if rest.is_empty()
            && let Poll::Ready(flushed) = down.poll_flush(context)
        {
            return Poll::Ready(flushed.map_err(ProxyError::Client));
        }
        timer.poll_until(context, since + limit).map(|()| Err(ProxyError::ClientTimeout("send_timeout")))
    })
    .await
}
