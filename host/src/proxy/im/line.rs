//! Driving one shared connection: dial, login, bytes both ways, its end.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::frame::{FrameDecoder, Piece};
use crate::message::TranscodeProblem;
use crate::net::{LazyTimer, Stream};
use crate::observe::ReasonFamily;
use crate::proxy::SharedWorker;
use crate::proxy::tlv::{Inlet, Pace};
use crate::snapshot::TlvSettings;
use crate::upstream::{Alpn, ConnectRequest, Failure, Outcome, Target, connect};

use super::mux::{Line, Lost, Received};
use super::translate::ErrorFrame;

/// What a connection is opened with.
pub(super) struct Opening {
    pub(super) worker: SharedWorker,
    /// The node.
    pub(super) target: Target,
    pub(super) settings: Arc<TlvSettings>,
    /// The login's frame and its command; nothing where none is needed.
    pub(super) login: Option<(Vec<u8>, u32)>,
    pub(super) idle_timeout: Duration,
    /// How long the node may take nothing.
    pub(super) send_timeout: Duration,
}

/// Opens a connection and drives it until it ends. Whoever waits on it is told.
pub(super) async fn run(line: Rc<Line>, opening: Opening) {
    let worker = Rc::clone(&opening.worker);
    let why = drive(&line, opening).await;
    worker.im.mux.forget(&line);
    line.state.borrow_mut().end(&why);
}

async fn drive(line: &Rc<Line>, opening: Opening) -> Lost {
    let Opening { worker, target, settings, login, idle_timeout, send_timeout } = opening;
    let request =
        ConnectRequest { tls_name: target.tls_name(None), alpn: Alpn::None, ..ConnectRequest::default() };
    let mut stream = match connect(&target, &request).await {
        Ok(stream) => stream,
        Err(error) => return Lost::Unsent(error.failure.code()),
    };
    line.address.set(stream.peer_address().ok());
    if let Some((frame, command)) = login {
        let limit = settings.replay_timeout;
        match timeout(limit, log_in(&mut stream, &worker, &settings, &frame, command)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return why,
            Err(_) => return Lost::Unsent("login_timeout"),
        }
    }
    let mut driver = Driver {
        line: Rc::clone(line),
        worker,
        settings,
        stream,
        inlet: Inlet::default(),
        need: 0,
        timer: LazyTimer::new(),
        busy_until: Instant::now(),
        blocked_since: None,
        unflushed: false,
        target,
        idle_timeout,
        send_timeout,
    };
    let end = poll_fn(|context| driver.poll(context)).await;
    if let End::Broken(failure) = end {
        driver.target.report(Outcome::Failed(failure), Duration::ZERO);
    }
    if end == End::Idle {
        let _ = timeout(Duration::from_secs(1), driver.stream.shutdown()).await;
    }
    Lost::Sent
}

/// Sends the login and waits for its answer; what else comes is dropped.
async fn log_in(
    stream: &mut Stream,
    worker: &SharedWorker,
    settings: &TlvSettings,
    frame: &[u8],
    command: u32,
) -> Result<(), Lost> {
    let broken = |_| Lost::Unsent("upstream_closed");
    stream.write_all(frame).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    if settings.one_way.contains(command) {
        return Ok(());
    }
    let mut inlet = Inlet::default();
    let mut need = 0;
    loop {
        match FrameDecoder::default().next(&settings.format, inlet.front(), usize::MAX) {
            Ok(Piece::Frame(found)) => {
                let read = |field: Option<crate::frame::FrameField>| {
                    field.map_or(0, |field| field.read(found.head()))
                };
                let answer = u32::try_from(read(settings.format.command())).unwrap_or(u32::MAX);
                let is_refusal = settings.error.is_some_and(|(error, _)| error == answer);
                if is_refusal {
                    return Err(Lost::Login(refusal(settings, found.body())));
                }
                if settings.is_reply(command, answer) {
                    return Ok(());
                }
                let length = found.bytes().len();
                inlet.consume(length);
                need = 0;
                continue;
            }
            Ok(Piece::More { need: more }) => need = more.max(need),
            Ok(Piece::Part { .. }) | Err(_) => return Err(Lost::Unsent("upstream_malformed")),
        }
        let fill = poll_fn(|context| {
            let pace = Pace { is_fast: &mut false, may_grow: false };
            inlet.poll_fill(context, &worker.buffers, stream, need, pace)
        });
        if fill.await.map_err(broken)? == 0 {
            return Err(Lost::Unsent("upstream_closed"));
        }
    }
}

fn refusal(settings: &TlvSettings, body: &[u8]) -> TranscodeProblem {
    let error = ErrorFrame::read(settings, body).unwrap_or_default();
    let message = format!("the upstream refused the login: {}", error.text);
    TranscodeProblem { status: error.status(), path: String::new(), message }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nobody needed it.
    Idle,
    /// The node ended it.
    Closed,
    /// It broke, or what came was no frame.
    Broken(Failure),
}

struct Driver {
    line: Rc<Line>,
    worker: SharedWorker,
    settings: Arc<TlvSettings>,
    stream: Stream,
    inlet: Inlet,
    need: usize,
    timer: LazyTimer,
    /// When somebody last waited for something.
    busy_until: Instant,
    blocked_since: Option<Instant>,
    /// The stream holds bytes that need a flush.
    unflushed: bool,
    target: Target,
    idle_timeout: Duration,
    send_timeout: Duration,
}

impl Driver {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let now = Instant::now();
        {
            let mut state = self.line.state.borrow_mut();
            state.register(context);
            state.release(now);
        }
        if self.target.is_lost() {
            return Poll::Ready(End::Closed);
        }
        if let Poll::Ready(end) = self.poll_write(context, now) {
            return Poll::Ready(end);
        }
        if let Poll::Ready(end) = self.poll_read(context) {
            return Poll::Ready(end);
        }
        let is_busy = self.line.state.borrow().is_busy();
        if is_busy {
            self.busy_until = now;
        } else if self.worker.tasks.is_draining() {
            return Poll::Ready(End::Idle);
        }
        let stalled = self.blocked_since.map(|since| since + self.send_timeout);
        let since = if is_busy { now } else { self.busy_until };
        let at = stalled.map_or(since + self.idle_timeout, |stalled| stalled.min(since + self.idle_timeout));
        ready!(self.timer.poll_until(context, at));
        Poll::Ready(if stalled == Some(at) { End::Broken(Failure::Timeout) } else { End::Idle })
    }

    fn poll_write(&mut self, context: &mut Context<'_>, now: Instant) -> Poll<End> {
        let mut state = self.line.state.borrow_mut();
        while !state.rest().is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, state.rest()) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(End::Broken(Failure::Broken)),
                Poll::Ready(Ok(count)) => {
                    state.wrote(count);
                    self.unflushed = true;
                    self.blocked_since = None;
                }
                Poll::Pending => {
                    self.blocked_since.get_or_insert(now);
                    return Poll::Pending;
                }
            }
        }
        if self.unflushed {
            match ready!(Pin::new(&mut self.stream).poll_flush(context)) {
                Ok(()) => self.unflushed = false,
                Err(_) => return Poll::Ready(End::Broken(Failure::Broken)),
            }
        }
        Poll::Pending
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<End> {
        loop {
            let (pool, need) = (&self.worker.buffers, self.need);
            let pace = Pace { is_fast: &mut false, may_grow: false };
            match ready!(self.inlet.poll_fill(context, pool, &mut self.stream, need, pace)) {
                Ok(0) => return Poll::Ready(End::Closed),
                Err(_) => return Poll::Ready(End::Broken(Failure::Broken)),
                Ok(_) => {}
            }
            loop {
                let piece =
                    FrameDecoder::default().next(&self.settings.format, self.inlet.front(), usize::MAX);
                let length = match piece {
                    Ok(Piece::Frame(frame)) => {
                        let received = self.line.state.borrow_mut().received(&self.settings, &frame);
                        self.count(&received);
                        frame.bytes().len()
                    }
                    Ok(Piece::More { need }) => {
                        self.need = need;
                        break;
                    }
                    Ok(Piece::Part { .. }) | Err(_) => {
                        return Poll::Ready(End::Broken(Failure::Malformed));
                    }
                };
                self.inlet.consume(length);
            }
        }
    }

    fn count(&self, received: &Received) {
        let metrics = &self.worker.metrics;
        match received {
            Received::Reply(sent) => self.target.report(Outcome::Answered, sent.elapsed()),
            Received::Late => metrics.reason(ReasonFamily::Upstream, "late_reply"),
            Received::Push => metrics.reason(ReasonFamily::Upstream, "push_without_session"),
        }
    }
}
