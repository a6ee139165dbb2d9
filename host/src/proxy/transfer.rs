//! Moving the bodies of one exchange: both directions from one task.
//!
//! Each side is polled in turn; bytes are lent by the side they were read from
//! and written by the other, so nothing is split, locked or copied between.
//! Time limits are looked at only when nothing moves.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::config::objects::Limits;
use crate::filter::Longer;
use crate::message::{BodyPart, Downstream, Fields, ResponseHead, TransferError, UpstreamExchange};
use crate::net::{LazyTimer, body_with_room};
use crate::upstream::Timeouts;

use super::error::ProxyError;

/// Interim responses of one exchange that are passed on; a further one breaks it.
const INTERIM_MAX: u32 = 16;

/// Room for a body before any of it has come.
const ROOM_BYTES_MAX: usize = 64 * 1024;

/// The limits of one exchange.
pub(super) struct Bounds<'a> {
    pub(super) timeouts: Timeouts,
    pub(super) limits: &'a Limits,
    /// When the whole request must have ended.
    pub(super) deadline: Option<Instant>,
    /// Calls that may be silent for long on either side (gRPC) are not hurried.
    pub(super) is_patient: bool,
}

/// The request's body on its way to the upstream.
pub(super) struct Upload {
    /// A body held back for filters, sent from memory.
    held: Option<Bytes>,
    /// What is held is the beginning; the rest comes from the client.
    is_cut: bool,
    sent: u64,
    state: State,
    wait: Wait,
    trailers: Option<Fields>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The source ended; the upstream is to be told.
    Ending,
    Done,
    /// The upstream takes no more: it answers early, or broke.
    Refused,
}

/// Whom a direction waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Client,
    Upstream,
    Nobody,
}

impl Upload {
    pub(super) fn new(held: Option<Bytes>, is_cut: bool) -> Self {
        Self { held, is_cut, sent: 0, state: State::Open, wait: Wait::Upstream, trailers: None }
    }

    /// Whether it can begin anew with another upstream.
    pub(super) fn can_restart(&self) -> bool {
        let held = self.held.as_ref().map_or(0, |held| held.len() as u64);
        self.sent <= held && (!self.is_cut || self.sent < held) || self.sent == 0
    }

    /// Begins anew.
    pub(super) fn restart(&mut self) {
        *self = Self { trailers: self.trailers.take(), ..Self::new(self.held.take(), self.is_cut) };
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::Refused)
    }

    /// Moves what it can. An upstream that fails to take the body may still
    /// answer, so that is no error here.
    fn poll<D: Downstream, U: UpstreamExchange>(
        &mut self,
        context: &mut Context<'_>,
        down: &mut D,
        up: &mut U,
        bounds: &Bounds<'_>,
    ) -> Poll<Result<(), ProxyError>> {
        match ready!(self.poll_moving(context, down, up, bounds)) {
            Err(ProxyError::Upstream(_)) => {
                self.state = State::Refused;
                Poll::Ready(Ok(()))
            }
            other => Poll::Ready(other),
        }
    }

    fn poll_moving<D: Downstream, U: UpstreamExchange>(
        &mut self,
        context: &mut Context<'_>,
        down: &mut D,
        up: &mut U,
        bounds: &Bounds<'_>,
    ) -> Poll<Result<(), ProxyError>> {
        self.wait = Wait::Upstream;
        loop {
            match self.state {
                State::Done | State::Refused => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(up.poll_finish(context, self.trailers.as_ref())).map_err(ProxyError::Upstream)?;
                    self.state = State::Done;
                }
                State::Open => {
                    if let Some(held) = &self.held {
                        let rest = &held[usize::try_from(self.sent).unwrap_or(usize::MAX).min(held.len())..];
                        if rest.is_empty() && self.is_cut {
                            ready!(self.poll_piece(context, down, up, bounds))?;
                        } else if rest.is_empty() {
                            self.state = State::Ending;
                        } else {
                            let count = ready!(up.poll_write(context, rest)).map_err(ProxyError::Upstream)?;
                            self.sent += count as u64;
                        }
                        continue;
                    }
                    ready!(self.poll_piece(context, down, up, bounds))?;
                }
            }
        }
    }

    fn poll_piece<D: Downstream, U: UpstreamExchange>(
        &mut self,
        context: &mut Context<'_>,
        down: &mut D,
        up: &mut U,
        bounds: &Bounds<'_>,
    ) -> Poll<Result<(), ProxyError>> {
        let count = match down.poll_body(context) {
            Poll::Pending => {
                ready!(up.poll_flush(context)).map_err(ProxyError::Upstream)?;
                self.wait = Wait::Client;
                return Poll::Pending;
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(ProxyError::Client(error))),
            Poll::Ready(Ok(BodyPart::End(trailers))) => {
                self.trailers = trailers;
                self.state = State::Ending;
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Ok(BodyPart::Data(data))) => {
                let limit = bounds.limits.body_bytes;
                if limit > 0 && self.sent + data.len() as u64 > limit {
                    return Poll::Ready(Err(ProxyError::BodyTooLarge(limit)));
                }
                ready!(up.poll_write(context, data)).map_err(ProxyError::Upstream)?
            }
        };
        self.sent += count as u64;
        down.consume(count);
        Poll::Ready(Ok(()))
    }

    /// Whom it waits for, once polling it was pending.
    fn waits_for(&self) -> Wait {
        if self.is_over() { Wait::Nobody } else { self.wait }
    }
}

/// Since when something waits without progress. What never waits never looks
/// at the clock.
struct Patience {
    since: Option<Instant>,
    moved: u64,
    pace: Option<(Instant, u64)>,
}

impl Patience {
    fn new() -> Self {
        Self { since: None, moved: 0, pace: None }
    }

    /// Notes how much has moved in all.
    fn note(&mut self, moved: u64) {
        if moved != self.moved {
            self.moved = moved;
            self.since = None;
        }
    }

    /// When the wait is over: the limit without any progress, and for a client
    /// the window in which too little moved.
    fn until(&mut self, wait: Wait, limit: Duration, bounds: &Bounds<'_>) -> Option<Instant> {
        let limits = bounds.limits;
        let since = *self.since.get_or_insert_with(Instant::now);
        let stalled = (!limit.is_zero()).then(|| since + limit);
        if wait != Wait::Client || bounds.is_patient || limits.min_rate == 0 {
            self.pace = None;
            return stalled;
        }
        let needed = (f64::from(limits.min_rate) * limits.min_rate_window.as_secs_f64()) as u64;
        let (start, from) = *self.pace.get_or_insert((since, self.moved));
        let start = match self.moved - from >= needed {
            true => {
                self.pace = Some((since, self.moved));
                since
            }
            false => start,
        };
        let slow = start + limits.min_rate_window;
        Some(stalled.map_or(slow, |stalled| stalled.min(slow)))
    }
}

/// Waits for the nearest of two deadlines; which one is in the error.
fn poll_deadline(
    context: &mut Context<'_>,
    timer: &mut LazyTimer,
    until: Option<Instant>,
    error: impl FnOnce() -> ProxyError,
    bounds: &Bounds<'_>,
) -> Poll<ProxyError> {
    let Some(nearest) = until.into_iter().chain(bounds.deadline).min() else { return Poll::Pending };
    ready!(timer.poll_until(context, nearest));
    Poll::Ready(if bounds.deadline == Some(nearest) { ProxyError::Deadline } else { error() })
}

/// Sends the request and waits for the head of the final response, passing
/// interim ones on. Cancel-safe as far as the two sides are.
pub(super) async fn await_head<D: Downstream, U: UpstreamExchange>(
    down: &mut D,
    up: &mut U,
    upload: &mut Upload,
    timer: &mut LazyTimer,
    bounds: &Bounds<'_>,
) -> Result<ResponseHead, ProxyError> {
    let mut patience = Patience::new();
    let mut interim = 0;
    poll_fn(|context| {
        if let Poll::Ready(Err(error)) = upload.poll(context, down, up, bounds) {
            return Poll::Ready(Err(error));
        }
        while let Poll::Ready(head) = up.poll_head(context) {
            let head = head.map_err(ProxyError::Upstream)?;
            if head.status >= 200 || head.status == 101 {
                return Poll::Ready(Ok(head));
            }
            interim += 1;
            if interim > INTERIM_MAX {
                return Poll::Ready(Err(ProxyError::Upstream(TransferError::Limit("interim_responses"))));
            }
            // `100` is this hop's own business: it was sent when the body was wanted.
            if head.status != 100 {
                down.send_interim(&head).map_err(ProxyError::Client)?;
            }
        }
        if interim > 0
            && let Poll::Ready(Err(error)) = down.poll_flush(context)
        {
            return Poll::Ready(Err(ProxyError::Client(error)));
        }
        if upload.is_over() && down.poll_gone(context).is_ready() {
            return Poll::Ready(Err(ProxyError::Gone));
        }
        patience.note(upload.sent + u64::from(upload.is_over()) + u64::from(interim));
        let wait = upload.waits_for();
        let timeouts = &bounds.timeouts;
        let (limit, error) = match wait {
            Wait::Client if bounds.is_patient => (Duration::ZERO, ProxyError::Gone),
            Wait::Client => (bounds.limits.body_timeout, ProxyError::ClientTimeout("body_timeout")),
            Wait::Upstream => (timeouts.send, ProxyError::UpstreamTimeout("upstream_send_timeout")),
            Wait::Nobody => (timeouts.read, ProxyError::UpstreamTimeout("upstream_read_timeout")),
        };
        let until = patience.until(wait, limit, bounds);
        poll_deadline(context, timer, until, || error, bounds).map(Err)
    })
    .await
}

/// Passes the response's body on, `held` bytes of it first, while the rest of
/// the request still goes the other way.
pub(super) async fn pass_body<D: Downstream, U: UpstreamExchange>(
    down: &mut D,
    up: &mut U,
    upload: &mut Upload,
    held: &[u8],
    timer: &mut LazyTimer,
    bounds: &Bounds<'_>,
) -> Result<(), ProxyError> {
    let mut download = Download { held, passed: 0, ended: false, trailers: None, wait: Wait::Upstream };
    let mut patience = Patience::new();
    poll_fn(|context| {
        if let Poll::Ready(result) = download.poll(context, down, up) {
            return Poll::Ready(result);
        }
        if !upload.is_over() {
            // A client that breaks its upload off ends the exchange; one that
            // is slow with it is not hurried once it is being answered.
            if let Poll::Ready(Err(error)) = upload.poll(context, down, up, bounds) {
                return Poll::Ready(Err(error));
            }
        } else if down.poll_gone(context).is_ready() {
            return Poll::Ready(Err(ProxyError::Gone));
        }
        patience.note(download.passed + upload.sent);
        let (limit, error) = match download.wait {
            Wait::Client => (bounds.limits.send_timeout, ProxyError::ClientTimeout("send_timeout")),
            _ => (bounds.timeouts.read, ProxyError::UpstreamTimeout("upstream_read_timeout")),
        };
        let until = patience.until(download.wait, limit, bounds);
        poll_deadline(context, timer, until, || error, bounds).map(Err)
    })
    .await
}

struct Download<'a> {
    held: &'a [u8],
    passed: u64,
    ended: bool,
    trailers: Option<Fields>,
    wait: Wait,
}

impl Download<'_> {
    fn poll<D: Downstream, U: UpstreamExchange>(
        &mut self,
        context: &mut Context<'_>,
        down: &mut D,
        up: &mut U,
    ) -> Poll<Result<(), ProxyError>> {
        self.wait = Wait::Client;
        while !self.held.is_empty() {
            let count = ready!(down.poll_write(context, self.held)).map_err(ProxyError::Client)?;
            self.held = &self.held[count..];
            self.passed += count as u64;
        }
        while !self.ended {
            let count = match up.poll_body(context) {
                Poll::Ready(Ok(BodyPart::Data(data))) => {
                    ready!(down.poll_write(context, data)).map_err(ProxyError::Client)?
                }
                Poll::Ready(Ok(BodyPart::End(trailers))) => {
                    self.trailers = trailers;
                    self.ended = true;
                    break;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(ProxyError::Upstream(error))),
                Poll::Pending => {
                    ready!(down.poll_flush(context)).map_err(ProxyError::Client)?;
                    self.wait = Wait::Upstream;
                    return Poll::Pending;
                }
            };
            up.consume(count);
            self.passed += count as u64;
        }
        down.poll_finish(context, self.trailers.as_ref()).map_err(ProxyError::Client)
    }
}

/// Sends a body from memory, after a head that was queued.
pub(super) async fn send_held<D: Downstream>(
    down: &mut D,
    body: &[u8],
    timer: &mut LazyTimer,
    bounds: &Bounds<'_>,
) -> Result<(), ProxyError> {
    let mut rest = body;
    let mut patience = Patience::new();
    poll_fn(|context| {
        let sending = loop {
            match rest {
                [] => break down.poll_finish(context, None),
                _ => match down.poll_write(context, rest) {
                    Poll::Ready(Ok(count)) => rest = &rest[count..],
                    Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                    Poll::Pending => break Poll::Pending,
                },
            }
        };
        if let Poll::Ready(result) = sending {
            return Poll::Ready(result.map_err(ProxyError::Client));
        }
        patience.note((body.len() - rest.len()) as u64);
        let until = patience.until(Wait::Client, bounds.limits.send_timeout, bounds);
        let error = || ProxyError::ClientTimeout("send_timeout");
        poll_deadline(context, timer, until, error, bounds).map(Err)
    })
    .await
}

/// Reads a body whole, at most `max` bytes: `Ok` with all of it, or what was
/// read of a longer one.
pub(super) async fn collect_response<D: Downstream, U: UpstreamExchange>(
    down: &mut D,
    up: &mut U,
    max: usize,
    timer: &mut LazyTimer,
    bounds: &Bounds<'_>,
) -> Result<Collected, ProxyError> {
    let mut body = room(None, max);
    let mut patience = Patience::new();
    poll_fn(|context| {
        loop {
            match up.poll_body(context) {
                Poll::Ready(Ok(BodyPart::Data(data))) => {
                    body.extend_from_slice(data);
                    let count = data.len();
                    up.consume(count);
                    if body.len() > max {
                        return Poll::Ready(Ok(Collected::Longer(body.split().freeze())));
                    }
                }
                Poll::Ready(Ok(BodyPart::End(_))) => {
                    return Poll::Ready(Ok(Collected::Whole(body.split().freeze())));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(ProxyError::Upstream(error))),
                Poll::Pending => break,
            }
        }
        if down.poll_gone(context).is_ready() {
            return Poll::Ready(Err(ProxyError::Gone));
        }
        patience.note(body.len() as u64);
        let until = patience.until(Wait::Upstream, bounds.timeouts.read, bounds);
        let error = || ProxyError::UpstreamTimeout("upstream_read_timeout");
        poll_deadline(context, timer, until, error, bounds).map(Err)
    })
    .await
}

/// What [`collect_response`] or [`collect_request`] read.
pub(super) enum Collected {
    Whole(Bytes),
    /// More than the limit; the rest is still to come.
    Longer(Bytes),
}

/// What a body of which `length` is known, and at most `max` bytes are kept, begins with.
fn room(length: Option<u64>, max: usize) -> BytesMut {
    let length = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    body_with_room(length.min(max).min(ROOM_BYTES_MAX))
}

/// Reads the request's body whole; one that is longer is refused.
pub(super) async fn collect_whole<D: Downstream>(
    down: &mut D,
    max: usize,
    timer: &mut LazyTimer,
    bounds: &Bounds<'_>,
) -> Result<Bytes, ProxyError> {
    match collect_request(down, max, Longer::Refuse, timer, bounds).await? {
        Collected::Whole(body) => Ok(body),
        Collected::Longer(_) => Err(ProxyError::BodyTooLarge(max as u64)),
    }
}

/// Reads the request's body for filters that asked for it: whole, or the
/// beginning of one that is longer than they want to see.
pub(super) async fn collect_request<D: Downstream>(
    down: &mut D,
    max: usize,
    longer: Longer,
    timer: &mut LazyTimer,
    bounds: &Bounds<'_>,
) -> Result<Collected, ProxyError> {
    if longer == Longer::Refuse && down.remaining().is_some_and(|length| length > max as u64) {
        return Err(ProxyError::BodyTooLarge(max as u64));
    }
    let mut body = room(down.remaining(), max);
    let mut patience = Patience::new();
    poll_fn(|context| {
        loop {
            match down.poll_body(context) {
                Poll::Ready(Ok(BodyPart::Data(data))) => {
                    if body.len() + data.len() > max {
                        if longer == Longer::Refuse {
                            return Poll::Ready(Err(ProxyError::BodyTooLarge(max as u64)));
                        }
                        // What does not fit stays where it is and follows later.
                        let count = max - body.len();
                        body.extend_from_slice(&data[..count]);
                        down.consume(count);
                        return Poll::Ready(Ok(Collected::Longer(body.split().freeze())));
                    }
                    body.extend_from_slice(data);
                    let count = data.len();
                    down.consume(count);
                }
                Poll::Ready(Ok(BodyPart::End(_))) => {
                    return Poll::Ready(Ok(Collected::Whole(body.split().freeze())));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(ProxyError::Client(error))),
                Poll::Pending => break,
            }
        }
        patience.note(body.len() as u64);
        let until = patience.until(Wait::Client, bounds.limits.body_timeout, bounds);
        let error = || ProxyError::ClientTimeout("body_timeout");
        poll_deadline(context, timer, until, error, bounds).map(Err)
    })
    .await
}
