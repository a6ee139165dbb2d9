//! The HTTP server of the control plane.
//!
//! The only place that names hyper. It reads a request whole, within limits, and
//! lets a [`Site`] answer on a blocking thread, so that neither a long scrape nor
//! a slow client holds up what else the control thread does.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::exchange::{Request, Response, Site};

/// Bytes of a refused body that are read and dropped, at most.
const DISCARD_BYTES_MAX: u64 = 256 << 20;
/// Time for that.
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// Bounds of the control plane's server.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Connections served at once; more wait to be accepted. Default 64.
    pub connections_max: usize,
    /// Requests answered at once; more wait. Default 4.
    pub requests_max: usize,
    /// From the first byte of a head to its last, and the wait for one. Default 10 s.
    pub header_timeout: Duration,
    /// From the head to the answer's last byte. Default 60 s.
    pub request_timeout: Duration,
    /// Bytes of a head. Default 16 KiB.
    pub header_bytes_max: usize,
    /// Bytes of a request's body. Default 1.5 MiB: an object of etcd's limit fits.
    pub body_bytes_max: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections_max: 64,
            requests_max: 4,
            header_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
            header_bytes_max: 16 << 10,
            body_bytes_max: 3 << 19,
        }
    }
}

/// Binds an address of the control plane; for [`serve`].
///
/// # Errors
/// What the system said.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

struct Server {
    site: Arc<dyn Site>,
    limits: ServerLimits,
    answering: Arc<Semaphore>,
    /// Whether only this machine can reach it.
    is_loopback: bool,
}

/// Serves `site` until `stop` is cancelled; connections that are answering then
/// have [`ServerLimits::request_timeout`] to end. Runs on a `LocalRuntime` or in
/// a `LocalSet`.
///
/// # Errors
/// When the listener cannot be registered with the runtime.
pub async fn serve(
    listener: std::net::TcpListener,
    site: Arc<dyn Site>,
    limits: ServerLimits,
    stop: CancellationToken,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let is_loopback = listener.local_addr()?.ip().is_loopback();
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let answering = Arc::new(Semaphore::new(limits.requests_max));
    let server = Rc::new(Server { site, limits, answering, is_loopback });
    loop {
        // The place first: a connection that cannot be served is left to the kernel's queue.
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let accepted = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (server, stop) = (server.clone(), stop.clone());
                tokio::task::spawn_local(async move {
                    let _place = place;
                    server.connection(stream, stop).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the control plane cannot accept");
                // Out of descriptors: what is open must end first.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Server {
    async fn connection(self: Rc<Self>, stream: TcpStream, stop: CancellationToken) {
        // Without it small answers wait for acknowledgements; failing changes nothing else.
        let _ = stream.set_nodelay(true);
        let limits = self.limits;
        let service = service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(limits.header_bytes_max)
            .max_headers(64)
            .half_close(false)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let lifetime = tokio::time::sleep(limits.request_timeout * 10);
        tokio::pin!(lifetime);
        tokio::select! {
            // How a client's connection ends is the client's affair.
            _ = connection.as_mut() => return,
            () = stop.cancelled() => {}
            // A client that reads an answer byte by byte, or never asks to close.
            () = &mut lifetime => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(limits.request_timeout, connection).await;
    }

    async fn answer(&self, request: hyper::Request<Incoming>) -> hyper::Response<Full<Bytes>> {
        let outcome = tokio::time::timeout(self.limits.request_timeout, self.respond(request)).await;
        written(outcome.unwrap_or_else(|_| Response::error(504, "the answer took too long")))
    }

    async fn respond(&self, request: hyper::Request<Incoming>) -> Response {
        let (head, body) = request.into_parts();
        let headers: Vec<(String, String)> = head
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
            .collect();
        let mut request = Request {
            method: head.method.as_str().to_owned(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().map(ToOwned::to_owned),
            headers,
            body: Vec::new(),
        };
        if let Err(host) = self.check_host(request.header("host")) {
            let message = format!("host `{host}` is not this machine: ask by its address or localhost");
            return Response::error(421, &message);
        }
        let waits = if request.header("expect").is_some() { Waits::Yes } else { Waits::No };
        if let Err(refusal) = self.site.admit(&request) {
            return discarded(body, waits, refusal).await;
        }
        let limit = self.limits.body_bytes_max;
        match read(body, limit).await {
            Ok(body) => request.body = body,
            Err(BodyError::TooLarge(rest)) => {
                let message = format!("body is over the limit of {limit} bytes");
                return discarded(rest, waits, Response::error(413, &message)).await;
            }
            Err(BodyError::Broken) => {
                return Response::error(400, "body broke off").with("connection", "close");
            }
        }
        let Ok(turn) = self.answering.clone().acquire_owned().await else {
            return Response::error(503, "the control plane is closing");
        };
        let site = self.site.clone();
        let answer = move || {
            // Held by the thread: a client that leaves does not make room for one thread more.
            let _turn = turn;
            site.respond(&request)
        };
        match tokio::task::spawn_blocking(answer).await {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(%error, "an answer of the control plane failed");
                Response::error(500, "the answer failed; the log says why")
            }
        }
    }

    /// On loopback only names of loopback are answered: a page in the operator's
    /// browser whose name was pointed at 127.0.0.1 gets nothing.
    fn check_host<'a>(&self, host: Option<&'a str>) -> Result<(), &'a str> {
        let Some(host) = host.filter(|_| self.is_loopback) else { return Ok(()) };
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let is_local = name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok();
        if is_local { Ok(()) } else { Err(host) }
    }
}

/// Whether a client sends its body only when it is told to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    Yes,
    No,
}

/// Why a body is not there.
enum BodyError {
    /// It is too large; what is left of it.
    TooLarge(Incoming),
    Broken,
}

/// Reads a body of at most `limit` bytes.
async fn read(mut body: Incoming, limit: usize) -> Result<Vec<u8>, BodyError> {
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyError::TooLarge(body));
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(BodyError::TooLarge(body));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Refuses a request whose body was not read. The body is read and dropped, up
/// to a limit, so that a client that writes first and reads then sees the answer
/// and not a reset.
async fn discarded(mut body: Incoming, waits: Waits, refusal: Response) -> Response {
    let mut left = DISCARD_BYTES_MAX;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
            if left == 0 {
                return;
            }
        }
    };
    // A client that waits for leave to send gets the answer at once.
    if waits == Waits::No {
        let _ = tokio::time::timeout(DISCARD_TIME, reading).await;
    }
    refusal.with("connection", "close")
}

fn written(response: Response) -> hyper::Response<Full<Bytes>> {
    let mut built = hyper::Response::builder()
        .status(response.status)
        .header("server", "sluice")
        .header("cache-control", "no-store")
        .header("x-content-type-options", "nosniff");
    for (name, value) in &response.headers {
        built = built.header(*name, value);
    }
    built.body(Full::new(Bytes::from(response.body))).unwrap_or_else(|_| {
        // A header value that is none: a fault of ours, not a reason to fall silent.
        let mut empty = hyper::Response::new(Full::default());
        *empty.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
        empty
    })
}

#[cfg(test)]
mod tests;
