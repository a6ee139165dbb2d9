//! An HTTP/2 connection from a client: its streams, each an exchange of its own.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use tokio::time::Instant;

use super::http::{Edge, Ended, HttpSettings, exchange, refuse};
use super::im;
use super::upgrade;
use super::worker::SharedWorker;
use crate::message::Scheme;
use crate::net::http2::{self, ConnectionError, Refused, ServerConnection, ServerLimits};
use crate::net::{Accepted, Drain, LazyTimer};
use crate::observe::ReasonFamily;

/// What is open on a connection.
#[derive(Debug)]
struct Streams {
    open: Cell<u32>,
    /// When the last one ended; the connection's beginning before the first.
    idle_since: Cell<Instant>,
}

/// Counts a stream as open until it is dropped, however its exchange ends.
struct Open(Rc<Streams>);

impl Open {
    fn new(streams: &Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        Self(Rc::clone(streams))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.idle_since.set(Instant::now());
    }
}

/// Serves one HTTP/2 connection until it ends. A drain tells the client by
/// GOAWAY; the streams that are open end by themselves.
pub async fn serve(worker: SharedWorker, accepted: Accepted, settings: Rc<HttpSettings>) {
    let scheme = if accepted.stream.is_tls() { Scheme::Https } else { Scheme::Http };
    let Accepted { stream, client, first, rule, drain, .. } = accepted;
    let limits = limits(&settings);
    let handshake = ServerConnection::handshake(stream, first, &limits, scheme, settings.head.slashes);
    let edge = Edge { client, settings, rule, drain: drain.clone(), memory: Rc::default() };
    let ended = match Box::pin(handshake).await {
        Ok(mut connection) => accept_streams(&worker, &edge, &drain, &mut connection).await,
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        let reason = reason(&error);
        worker.metrics.reason(ReasonFamily::Http, reason);
        tracing::debug!(reason, %error, client = %edge.client.address, "http/2 connection ended");
    }
}

async fn accept_streams<S>(
    worker: &SharedWorker,
    edge: &Edge,
    drain: &Drain,
    connection: &mut ServerConnection<S>,
) -> Result<(), ConnectionError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let streams = Rc::new(Streams { open: Cell::new(0), idle_since: Cell::new(Instant::now()) });
    let mut timer = LazyTimer::new();
    let mut is_ending = false;
    let mut served: u32 = 0;
    let share = edge.settings.limits.keepalive_requests;
    loop {
        let next = poll_fn(|context| {
            if !is_ending && drain.poll_draining().is_ready() {
                is_ending = true;
                connection.drain();
            }
            if let Poll::Ready(next) = connection.poll_accept(context) {
                return Poll::Ready(next);
            }
            let idle_timeout = edge.settings.idle_timeout;
            if streams.open.get() == 0
                && !idle_timeout.is_zero()
                && timer.poll_until(context, streams.idle_since.get() + idle_timeout).is_ready()
            {
                // Told to a client that hears; dropped either way.
                connection.close();
                let _ = connection.poll_accept(context);
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await;
        let Some(accepted) = next else { return Ok(()) };
        let accepted = accepted?;
        served = served.saturating_add(1);
        if share > 0 && served >= share && !is_ending {
            is_ending = true;
            connection.drain();
        }
        let task = stream(Rc::clone(worker), edge.clone(), accepted, Open::new(&streams));
        // Boxed: a task's future is moved several times, and this one is large.
        worker.tasks.spawn(Box::pin(task));
    }
}

async fn stream(worker: SharedWorker, edge: Edge, accepted: http2::Accepted, open: Open) {
    let http2::Accepted { head, mut stream } = accepted;
    let mut timer = LazyTimer::new();
    match head {
        Ok(head) => {
            let ended = exchange(&worker, &edge, &mut stream, head, &mut timer).await;
            match ended {
                Ended::Upgraded(upgraded) => Box::pin(upgrade::run_stream(stream, *upgraded, edge)).await,
                Ended::Bridged(bridged) => Box::pin(im::websocket_stream(stream, *bridged, edge)).await,
                Ended::Answered | Ended::Broken => {}
            }
        }
        Err(refused) => {
            let status = match refused {
                Refused::Bad(_) => 400,
                Refused::TooManyFields => 431,
            };
            refuse(&worker, &edge, &mut stream, &mut timer, status, refused.reason()).await;
        }
    }
    drop(open);
}

fn limits(settings: &HttpSettings) -> ServerLimits {
    ServerLimits {
        streams_max: settings.limits.streams,
        header_bytes_max: u32::try_from(settings.limits.header_bytes).unwrap_or(u32::MAX),
        header_count_max: settings.limits.header_count,
        handshake_timeout: settings.limits.header_timeout,
        ..ServerLimits::default()
    }
}

fn reason(error: &ConnectionError) -> &'static str {
    match error {
        ConnectionError::HandshakeTimeout => "h2_handshake_timeout",
        ConnectionError::Flood(flood) => flood.reason(),
        ConnectionError::Transfer(_) => "h2_connection_error",
    }
}
