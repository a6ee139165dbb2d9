//! A request that becomes a frame, and the reply that becomes its response.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant as Clock};

use bytes::Bytes;
use tokio::time::Instant;

use crate::filter::{FilterNote, FrameBatch, FrameContext, FrameVerdict, LocalResponse, Word};
use crate::frame::{Frame, FrameDecoder, Piece};
use crate::message::{Downstream, Outgoing, TranscodeProblem};
use crate::net::LazyTimer;
use crate::observe::ReasonFamily;
use crate::proxy::error::{ProxyError, refusal};
use crate::proxy::http::{Passed, answer, local_bounds};
use crate::proxy::journey::Journey;
use crate::proxy::tlv::{Header, next_connection};
use crate::proxy::transfer;
use crate::snapshot::{LoginText, TlvSettings};
use crate::upstream::{NoLine, Target, Tried};

use super::Way;
use super::line::{Opening, run};
use super::mux::{Answer, Asked, Line, Lost, NotTaken, Ticket};
use super::translate::{ErrorFrame, encode_frame};
use super::websocket::client_of;

/// The time a request has where the route sets none.
const REQUEST_TIME: Duration = Duration::from_secs(60);

/// Sends a request by way of the transcoder and answers with the reply.
pub(super) async fn exchange<D: Downstream>(
    journey: &mut Journey,
    way: Way<'_>,
    caller: Option<u64>,
    down: &mut D,
    timer: &mut LazyTimer,
) -> Result<Passed, ProxyError> {
    let Some(transcoder) = &way.route.transcoder else { return Err(ProxyError::WebSocketOnly) };
    let max = way.bridge.requests.body_max as usize;
    let body = whole_body(journey, &way, max, down, timer).await?;
    let (head, client) = (&journey.exchange.request, journey.exchange.client_ip);
    let mut outgoing =
        transcoder.encode_request(head, client, &body, caller).map_err(ProxyError::Transcode)?;
    drop(body);
    let deadline = Instant::now() + time_of(&way);
    let response = match Box::pin(filter(journey, &way, &mut outgoing, caller, deadline)).await? {
        Filtered::Answered(response) => response,
        Filtered::Replied(reply) => respond(journey, &way, &outgoing, reply)?,
        Filtered::Passed => {
            let began = Clock::now();
            journey.forwarded = Some(began);
            let reply = ask(journey, &way, &outgoing, caller, Waiting { down, timer, deadline }).await?;
            journey.header = Some(began.elapsed());
            respond(journey, &way, &outgoing, reply)?
        }
    };
    answer(journey, way.filters, way.edge, down, timer, response).await.map(|()| Passed::Answered)
}

/// The request's body: what filters had held of it, with what follows.
pub(super) async fn whole_body<D: Downstream>(
    journey: &Journey,
    way: &Way<'_>,
    max: usize,
    down: &mut D,
    timer: &mut LazyTimer,
) -> Result<Bytes, ProxyError> {
    let held = journey.exchange.body.clone().unwrap_or_default();
    let is_all = journey.exchange.body.is_some() && !journey.exchange.body_is_cut;
    let too_large = || ProxyError::BodyTooLarge(max as u64);
    let left = max.checked_sub(held.len()).ok_or_else(too_large)?;
    if is_all {
        return Ok(held);
    }
    let bounds = local_bounds(&way.edge.settings.limits);
    let rest = transfer::collect_whole(down, left, timer, &bounds).await.map_err(|error| match error {
        ProxyError::BodyTooLarge(_) => too_large(),
        other => other,
    })?;
    Ok(if held.is_empty() { rest } else { [held, rest].concat().into() })
}

/// The whole time of a request: the route's own, or that of a read.
fn time_of(way: &Way<'_>) -> Duration {
    let timeouts = &way.route.timeouts;
    let read = Some(timeouts.read).filter(|read| !read.is_zero());
    timeouts.total.into_iter().chain(read).min().unwrap_or(REQUEST_TIME)
}

/// What the filters that look at frames made of a request.
enum Filtered {
    /// It goes on.
    Passed,
    /// It is answered here.
    Answered(LocalResponse),
    /// A module answered it in the upstream's place.
    Replied(Answer),
}

/// Asks the filters that look at frames, as a session would for a message.
async fn filter(
    journey: &mut Journey,
    way: &Way<'_>,
    outgoing: &mut Outgoing,
    caller: Option<u64>,
    deadline: Instant,
) -> Result<Filtered, ProxyError> {
    let frames = &way.bridge.frames;
    if !frames.chain.sees_frames() {
        return Ok(Filtered::Passed);
    }
    let tlv = &way.bridge.tlv;
    let mut bytes = Vec::new();
    encode_frame(tlv, &mut bytes, outgoing.command, 0, caller, &outgoing.body)
        .map_err(ProxyError::Transcode)?;
    let client = client_of(journey);
    let (mut verdict, mut note) = (FrameVerdict::Pass, None);
    if frames.chain.sees_batches() {
        let (format, decoder) = (&tlv.format, FrameDecoder::default());
        let mut batch = FrameBatch::of(next_connection(), &client, format, decoder, &bytes);
        if let Some(ruled) = frames.chain.on_batch(&mut batch).pop() {
            (verdict, note) = ruled;
        }
    }
    journey.exchange.notes.extend(note.map(|note| *note));
    if let FrameVerdict::Rewrite(frame) = &verdict {
        let frame = whole_frame(tlv, frame).ok_or(ProxyError::Refused("rewritten_request"))?;
        (outgoing.body, verdict) = (frame.body().to_vec(), FrameVerdict::Pass);
    }
    if verdict == FrameVerdict::Pass {
        let header = Header { format: &tlv.format, head: &bytes };
        let labels = frames.labels.as_deref();
        let context = FrameContext { client: &client, labels, frame: &header, now: Clock::now() };
        let (judged, plugin) = frames.chain.judge_frame(&context);
        if let Some((word, code)) = judged.word() {
            journey.exchange.notes.push(FilterNote::of(&Word::Fixed(plugin), word, code));
        }
        verdict = judged;
    }
    let (code, retry_after) = match verdict {
        FrameVerdict::Pass | FrameVerdict::Rewrite(_) => return Ok(Filtered::Passed),
        FrameVerdict::Delay(time) => {
            tokio::time::sleep_until(deadline.min(Instant::now() + time)).await;
            return Ok(Filtered::Passed);
        }
        FrameVerdict::Reply(frames) => {
            let frame = whole_frame(tlv, &frames).ok_or(ProxyError::Refused("module_reply"))?;
            let command = tlv.format.command().map_or(0, |field| field.read(frame.head()));
            let command = u32::try_from(command).unwrap_or(u32::MAX);
            return Ok(Filtered::Replied(Answer { command, body: frame.body().to_vec() }));
        }
        FrameVerdict::Reject { code, retry_after } => (code, retry_after),
        FrameVerdict::Drop(code) | FrameVerdict::Close(code) => (code, None),
    };
    Ok(Filtered::Answered(filter_refusal(journey, code, retry_after)))
}

/// The first of whole frames.
fn whole_frame<'a>(tlv: &TlvSettings, bytes: &'a [u8]) -> Option<Frame<'a>> {
    match FrameDecoder::default().next(&tlv.format, bytes, usize::MAX) {
        Ok(Piece::Frame(frame)) => Some(frame),
        _ => None,
    }
}

/// A filter's refusal over HTTP. What a filter drops or closes a connection for
/// is refused here: a request wants an answer.
fn filter_refusal(journey: &Journey, code: &'static str, retry_after: Option<Duration>) -> LocalResponse {
    let (status, message) = match code {
        "rate_limited" | "quota_exceeded" => (429, "limit reached"),
        "module_deny" | "module_drop" | "module_close" => (403, "refused by a filter of this route"),
        _ => (503, "a filter of this route failed"),
    };
    let response = refusal(status, code, message, journey.exchange.request_id.get());
    match retry_after {
        Some(time) => response.retry_after(time),
        None => response,
    }
}

/// What waiting for a reply needs of the client's side.
struct Waiting<'a, D> {
    down: &'a mut D,
    timer: &'a mut LazyTimer,
    deadline: Instant,
}

/// Sends the frame to one node after the other until one answers.
async fn ask<D: Downstream>(
    journey: &mut Journey,
    way: &Way<'_>,
    outgoing: &Outgoing,
    caller: Option<u64>,
    mut waiting: Waiting<'_, D>,
) -> Result<Answer, ProxyError> {
    let hash = way.upstream.hash_key(&journey.exchange.subject());
    let login = login_of(journey, way, caller)?;
    let is_safe = way.bridge.tlv.safe.contains(outgoing.command);
    let asked =
        Asked { command: outgoing.command, reply: outgoing.reply, user: caller, body: &outgoing.body };
    let mut tried = Tried::default();
    let mut last: Option<ProxyError> = None;
    loop {
        let target = match way.upstream.select(hash, &mut tried) {
            Ok(target) => target,
            // A connection that broke says little of its node: a fresh one to the
            // same node is an attempt like any other.
            Err(NoLine::AllTried) if last.is_some() => {
                tried.clear();
                match way.upstream.select(hash, &mut tried) {
                    Ok(target) => target,
                    Err(none) => return Err(ProxyError::NoLine(none)),
                }
            }
            Err(none) => return Err(ProxyError::NoLine(none)),
        };
        let line = pick(journey, way, &target, &login, caller)?;
        journey.attempts += 1;
        journey.target = Some(target);
        let ticket = match line.send(&way.bridge.tlv, asked, way.bridge.requests.quarantine) {
            Ok(ticket) => ticket,
            Err(NotTaken::Request(problem)) => return Err(ProxyError::Transcode(problem)),
            Err(NotTaken::Line) => return Err(ProxyError::Busy),
        };
        let outcome = wait(ticket, &mut waiting).await?;
        journey.address = line.address.get();
        let (error, reason) = match outcome {
            Ok(answer) => return Ok(answer),
            Err(Lost::Login(problem)) => return Err(ProxyError::Transcode(problem)),
            Err(Lost::Unsent(reason)) => (ProxyError::Unsent(reason), reason),
            Err(Lost::Sent) if is_safe => (ProxyError::RequestLost, "request_lost"),
            Err(Lost::Sent) => return Err(ProxyError::RequestLost),
        };
        journey.worker.metrics.reason(ReasonFamily::Upstream, reason);
        if journey.attempts > way.upstream.retries {
            return Err(error);
        }
        last = Some(error);
    }
}

/// What the connection must begin with, as text; empty without a login.
fn login_of(journey: &Journey, way: &Way<'_>, caller: Option<u64>) -> Result<Vec<u8>, ProxyError> {
    let Some(login) = &way.bridge.login else { return Ok(Vec::new()) };
    Ok(login.text(&journey.exchange.subject(), caller))
}

fn pick(
    journey: &Journey,
    way: &Way<'_>,
    target: &Target,
    login: &[u8],
    caller: Option<u64>,
) -> Result<Rc<Line>, ProxyError> {
    let worker = &journey.worker;
    let mut failed = None;
    let picked = worker.im.mux.pick(target, login, &way.bridge.requests, |line| {
        let name = format!("{}-{}-{}", worker.shared.node.id, worker.index, line.number);
        let login = LoginText::for_connection(login, &name);
        let frame = match login_frame(way, &login, caller) {
            Ok(frame) => frame,
            Err(problem) => {
                worker.im.mux.forget(&line);
                failed = Some(problem);
                return;
            }
        };
        let opening = Opening {
            worker: Rc::clone(worker),
            target: target.again(),
            settings: Arc::clone(&way.bridge.tlv),
            login: frame,
            idle_timeout: way.bridge.requests.idle_timeout,
            send_timeout: way.edge.settings.limits.send_timeout,
        };
        worker.tasks.spawn(run(line, opening));
    });
    match failed {
        Some(problem) => Err(ProxyError::Transcode(problem)),
        None => picked.map_err(|_| ProxyError::Busy),
    }
}

/// The frame of a login and its command.
fn login_frame(
    way: &Way<'_>,
    login: &[u8],
    caller: Option<u64>,
) -> Result<Option<(Vec<u8>, u32)>, TranscodeProblem> {
    let Some(transcoder) = way.route.transcoder.as_ref().filter(|_| !login.is_empty()) else {
        return Ok(None);
    };
    // A login that cannot be made is the operator's fault, not the client's.
    let wrong = |problem: TranscodeProblem| TranscodeProblem {
        status: 500,
        message: format!("protocol.requests.login: {problem}"),
        path: String::new(),
    };
    let outgoing = transcoder.encode_message(login, caller).map_err(wrong)?.outgoing;
    let mut bytes = Vec::new();
    encode_frame(&way.bridge.tlv, &mut bytes, outgoing.command, 0, caller, &outgoing.body).map_err(wrong)?;
    Ok(Some((bytes, outgoing.command)))
}

/// Waits for the reply, the deadline, or the client's leaving.
async fn wait<D: Downstream>(
    mut ticket: Ticket,
    waiting: &mut Waiting<'_, D>,
) -> Result<Result<Answer, Lost>, ProxyError> {
    poll_fn(|context| {
        if let Poll::Ready(answer) = ticket.poll(context) {
            return Poll::Ready(Ok(answer));
        }
        if waiting.down.is_end() && waiting.down.poll_gone(context).is_ready() {
            return Poll::Ready(Err(ProxyError::Gone));
        }
        waiting.timer.poll_until(context, waiting.deadline).map(|()| Err(ProxyError::Deadline))
    })
    .await
}

/// The response of a reply.
fn respond(
    journey: &Journey,
    way: &Way<'_>,
    outgoing: &Outgoing,
    reply: Answer,
) -> Result<LocalResponse, ProxyError> {
    let tlv = &way.bridge.tlv;
    let (Some(expected), Some(transcoder)) = (outgoing.reply, &way.route.transcoder) else {
        return Ok(LocalResponse::json(202, "", &serde_json::json!({})));
    };
    let is_error = tlv.error.is_some_and(|(error, _)| error == reply.command && error != expected);
    let decoded = transcoder.decode_reply(outgoing.command, reply.command, &reply.body);
    if is_error {
        let error = ErrorFrame::read(tlv, &reply.body).unwrap_or_default();
        // What the map of commands says of the error counts more than what the
        // gateway makes of its code.
        let status = match decoded {
            Err(problem) if problem.status != 502 => problem.status,
            _ => error.status(),
        };
        return Ok(upstream_refusal(journey, status, &error));
    }
    let body = decoded.map_err(ProxyError::Transcode)?;
    let mut response = LocalResponse::new(200, "");
    response.head.fields.append(b"Content-Type", b"application/json");
    response.body = body.into();
    Ok(response)
}

/// What the upstream's error frame says, over HTTP.
fn upstream_refusal(journey: &Journey, status: u16, error: &ErrorFrame) -> LocalResponse {
    let body = serde_json::json!({
        "error_msg": error.text, "code": error.code, "request_id": journey.exchange.request_id.get(),
    });
    let response = LocalResponse::json(status, "upstream_refused", &body);
    match status {
        429 | 503 => response.retry_after(Duration::from_millis(error.retry_after_ms)),
        _ => response,
    }
}
