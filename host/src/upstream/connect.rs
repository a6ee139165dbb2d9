//! Reaching a node: TCP, the relays of the line, the PROXY header, TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use rustls::ClientConfig;
use smallvec::SmallVec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout_at;

use crate::message::Client;
use crate::net::proxy_protocol::{self, Outgoing};
use crate::net::{Stream, TcpOptions};

use super::environment::Environment;
use super::health::{Sign, Source};
use super::model::{Addresses, Line, Node, Via};
use super::outcome::Failure;
use super::select::Target;
use super::spec::ProxyProtocol;
use super::tls::{ServerNameFrom, server_name};
use super::via::{self, Answer, Way};

/// Addresses of one name tried in one connect at most.
const ADDRESSES_TRIED: usize = 4;

/// The protocol offered in the TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Alpn {
    /// No offer: raw bytes and frames.
    #[default]
    None,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// What a connection is made for.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConnectRequest<'a> {
    /// What [`Target::tls_name`] gave.
    pub tls_name: Option<&'a str>,
    /// The client it is made for, named in the PROXY header; `None` when it
    /// will serve many.
    pub client: Option<&'a Client>,
    /// The signed path of Sluice hops, this one included, for PROXY v2's TLV 0xE5.
    pub path: Option<&'a str>,
    /// What to offer in TLS.
    pub alpn: Alpn,
    /// The route's own limit, if it has one, instead of the upstream's.
    pub timeout: Option<Duration>,
}

/// A node could not be reached. Nothing of a request was sent, so another may
/// be tried whatever the request is. Already reported to the node's state.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {node} on line {line}: {}: {source}", failure.code())]
pub struct ConnectError {
    /// Name of the line.
    pub line: Arc<str>,
    /// The node as written.
    pub node: Arc<str>,
    /// What went wrong, as checks and metrics count it.
    pub failure: Failure,
    /// The cause.
    pub source: io::Error,
}

/// Connects to a target, and reports how that went to its state.
///
/// Waits at most [`Target::connect_limit`] for everything together: the name's first resolution,
/// TCP, relays, TLS. Cancel-safe: dropped, it closes what it began.
///
/// # Errors
/// [`ConnectError`] with the failure.
pub async fn connect(target: &Target, request: &ConnectRequest<'_>) -> Result<Stream, ConnectError> {
    let started = Instant::now();
    let limit = target.connect_limit(request.timeout);
    // Boxed: dialling is rare and its state large, waiting sessions are many.
    let outcome = Box::pin(dial_target(target, request, limit)).await;
    let (line, node) = (&target.line, &target.node);
    let counters = [&line.live.counters, &node.live.counters];
    counters.iter().for_each(|own| _ = own.connects.fetch_add(1, Relaxed));
    match outcome {
        Ok(stream) => {
            // For HTTP the answer's status is the sign; elsewhere the connect is.
            if !line.plan.scheme.is_http() {
                line.judge(node, Source::Passive, Sign::Good, target.forced(), Instant::now());
            }
            Ok(stream)
        }
        Err(error) => {
            counters.iter().for_each(|own| _ = own.connect_failures.fetch_add(1, Relaxed));
            if error.is_of_the_node {
                let sign = Sign::Bad(error.failure);
                line.judge(node, Source::Passive, sign, target.forced(), Instant::now());
            }
            tracing::debug!(
                upstream = &*line.upstream, line = &*line.name, node = &*node.name,
                reason = error.failure.code(), error = %error.source,
                took_ms = started.elapsed().as_secs_f64() * 1e3, "connect failed"
            );
            Err(ConnectError {
                line: Arc::clone(&line.name),
                node: Arc::clone(&node.name),
                failure: error.failure,
                source: error.source,
            })
        }
    }
}

/// A dial that failed.
#[derive(Debug)]
pub(super) struct DialError {
    pub(super) failure: Failure,
    /// Whether it says something of the node: not a certificate that does not
    /// bear a name the client chose.
    pub(super) is_of_the_node: bool,
    pub(super) source: io::Error,
}

impl DialError {
    fn new(failure: Failure, source: io::Error) -> Self {
        Self { failure, is_of_the_node: true, source }
    }

    fn other(failure: Failure, message: impl Into<String>) -> Self {
        Self::new(failure, io::Error::other(message.into()))
    }
}

/// How a connection is to be made.
pub(super) struct Dial<'a> {
    /// Another port than the node's.
    pub(super) port: Option<u16>,
    pub(super) proxy: ProxyProtocol,
    pub(super) client: Option<&'a Client>,
    pub(super) path: Option<&'a str>,
    pub(super) tls: Option<(&'a Arc<ClientConfig>, &'a str)>,
    pub(super) limit: Duration,
}

async fn dial_target(
    target: &Target,
    request: &ConnectRequest<'_>,
    limit: Duration,
) -> Result<Stream, DialError> {
    let plan = &target.line.plan;
    let tls = plan
        .tls
        .as_ref()
        .map(|tls| (tls.config(request.alpn), request.tls_name.unwrap_or(&target.node.host)));
    let dial = Dial {
        port: None,
        proxy: plan.proxy_protocol,
        client: request.client,
        path: request.path,
        tls,
        limit,
    };
    let outcome = dial.run(&target.line, &target.node).await;
    outcome.map_err(|mut error| {
        let is_clients_name = plan.tls.as_ref().is_some_and(|tls| tls.name == ServerNameFrom::Request);
        if error.failure == Failure::Tls && is_clients_name && request.tls_name != Some(&target.node.host) {
            error.is_of_the_node = false;
        }
        error
    })
}

impl Dial<'_> {
    /// Makes the connection and records its round trip.
    pub(super) async fn run(&self, line: &Line, node: &Node) -> Result<Stream, DialError> {
        let deadline = tokio::time::Instant::now() + self.limit;
        let made = timeout_at(deadline, self.establish(line, node, deadline)).await;
        made.unwrap_or_else(|_| Err(timed_out(self.limit)))
    }

    async fn establish(
        &self,
        line: &Line,
        node: &Node,
        deadline: tokio::time::Instant,
    ) -> Result<Stream, DialError> {
        let started = Instant::now();
        let mut tcp = match &line.plan.via {
            None => dial_addresses(&node.addresses, self.port, deadline).await?,
            Some(via) => self.through(line, via, node, deadline).await?,
        };
        let now = Instant::now();
        let round_trip = now - started;
        node.live.rtt.record(round_trip, now);
        line.live.rtt.record(round_trip, now);
        if let Some(header) = self.proxy_header()? {
            tcp.write_all(&header).await.map_err(|error| DialError::new(Failure::Broken, error))?;
        }
        let Some((config, name)) = self.tls else { return Ok(Stream::Plain(tcp)) };
        let Some(server) = server_name(name) else {
            return Err(DialError::other(
                Failure::Tls,
                format!("{name:?} is no name a certificate can bear"),
            ));
        };
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
        match connector.connect(server, tcp).await {
            Ok(stream) => Ok(Stream::ClientTls(Box::new(stream))),
            Err(error) => Err(DialError::new(Failure::Tls, error)),
        }
    }

    /// Connects through the line's relays and waits for the first one's answer.
    async fn through(
        &self,
        line: &Line,
        via: &Via,
        node: &Node,
        deadline: tokio::time::Instant,
    ) -> Result<TcpStream, DialError> {
        let way = via
            .way_to(&node.host, self.port.unwrap_or(node.port))
            .map_err(|error| DialError::other(Failure::Relay, error.to_string()))?;
        let tcp = dial_addresses(&via.first, None, deadline).await?;
        let addresses = self.client.map(|client| (client.address, client.local));
        ask_relay(&line.environment, tcp, &way, addresses, self.path).await.map_err(|(answer, source)| {
            let failure = match answer {
                Some(Answer::NoListener) => Failure::Refused,
                Some(Answer::TimedOut) => Failure::ConnectTimeout,
                Some(Answer::Unreachable) => Failure::Unreachable,
                _ => Failure::Relay,
            };
            DialError::new(failure, source)
        })
    }

    fn proxy_header(&self) -> Result<Option<Vec<u8>>, DialError> {
        let mut header = Vec::with_capacity(64);
        match (self.proxy, self.client) {
            (ProxyProtocol::Off, _) => return Ok(None),
            (ProxyProtocol::V1, None) => header.extend_from_slice(b"PROXY UNKNOWN\r\n"),
            (ProxyProtocol::V2, None) => proxy_protocol::encode_local(&mut header),
            (ProxyProtocol::V1, Some(client)) => {
                proxy_protocol::encode_v1(client.address, client.local, &mut header);
            }
            (ProxyProtocol::V2, Some(client)) => {
                let outgoing = Outgoing { path: self.path, ..Outgoing::new(client.address, client.local) };
                proxy_protocol::encode_v2(&outgoing, &mut header)
                    .map_err(|error| DialError::other(Failure::Local, error.to_string()))?;
            }
        }
        Ok(Some(header))
    }
}

fn timed_out(limit: Duration) -> DialError {
    let message = format!("no connection within {} ms", limit.as_millis());
    DialError::new(Failure::ConnectTimeout, io::Error::new(io::ErrorKind::TimedOut, message))
}

/// Connects to the first address that answers.
async fn dial_addresses(
    addresses: &Addresses,
    port: Option<u16>,
    deadline: tokio::time::Instant,
) -> Result<TcpStream, DialError> {
    let candidates: SmallVec<[SocketAddr; 8]> = match addresses {
        Addresses::Fixed(address) => {
            SmallVec::from_slice(&[SocketAddr::new(address.ip(), port.unwrap_or(address.port()))])
        }
        Addresses::Named(host, own) => {
            // Only a name that has just come into use has no answer at all yet.
            host.first_answer().await;
            let port = port.unwrap_or(*own);
            host.in_order().into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
        }
    };
    let mut last = None;
    for address in candidates.into_iter().take(ADDRESSES_TRIED) {
        let outcome = match timeout_at(deadline, dial_address(address)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {address}"))),
        };
        if let Addresses::Named(host, _) = addresses {
            host.mark(address.ip(), outcome.is_ok());
        }
        match outcome {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = Some(DialError::new(Failure::of_connect(&error), error)),
        }
    }
    Err(last.unwrap_or_else(|| {
        let trouble = match addresses {
            Addresses::Named(host, _) => host.trouble(),
            Addresses::Fixed(_) => None,
        };
        DialError::other(Failure::Unresolved, trouble.as_deref().unwrap_or("name has no address"))
    }))
}

async fn dial_address(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    TcpOptions::UPSTREAM.apply(socket2::SockRef::from(&tcp))?;
    Ok(tcp)
}

/// Sends the way to a relay just connected to and waits for its answer.
async fn ask_relay(
    environment: &Environment,
    mut tcp: TcpStream,
    way: &Way,
    addresses: Option<(SocketAddr, SocketAddr)>,
    path: Option<&str>,
) -> Result<TcpStream, (Option<Answer>, io::Error)> {
    let fail = |error: io::Error| (None, error);
    let key = environment.way_key().ok_or_else(|| fail(io::Error::other("no fleet key is set")))?;
    let addresses = match addresses {
        Some(addresses) => addresses,
        None => (tcp.local_addr().map_err(fail)?, tcp.peer_addr().map_err(fail)?),
    };
    let header = via::encode_header(way, key, addresses, path, now_ms())
        .map_err(|error| fail(io::Error::other(error.to_string())))?;
    tcp.write_all(&header).await.map_err(fail)?;
    let mut answer = [0; via::ANSWER_BYTES];
    tcp.read_exact(&mut answer).await.map_err(fail)?;
    match Answer::decode(&answer) {
        Ok((Answer::Connected, _)) => Ok(tcp),
        Ok((other, back)) => {
            let message = format!("relay {} on the way answered {}", u32::from(back) + 1, other.code());
            Err((Some(other), io::Error::other(message)))
        }
        Err(error) => Err(fail(io::Error::other(error.to_string()))),
    }
}

/// The relay's part: goes on to the next stop of a way that [`via::accept`]
/// let in, and returns the connection to it. The caller then sends
/// `Answer::Connected.encode(0)` to the one who asked and pipes bytes both ways,
/// those that came behind the header first.
///
/// # Errors
/// What to answer, encoded, and the cause. Nothing else is to be sent then.
pub async fn relay(
    environment: &Environment,
    accepted: &via::Accepted,
    limit: Duration,
) -> Result<Stream, ([u8; via::ANSWER_BYTES], io::Error)> {
    let (host, port) = accepted.way.next();
    let addresses = Addresses::of(environment, host, port);
    let deadline = tokio::time::Instant::now() + limit;
    let dialled = Box::pin(timeout_at(deadline, dial_addresses(&addresses, None, deadline))).await;
    let tcp = match dialled.unwrap_or_else(|_| Err(timed_out(limit))) {
        Ok(tcp) => tcp,
        Err(error) => {
            let answer = match error.failure {
                Failure::Refused => Answer::NoListener,
                Failure::ConnectTimeout => Answer::TimedOut,
                Failure::Local => Answer::Busy,
                _ => Answer::Unreachable,
            };
            return Err((answer.encode(0), error.source));
        }
    };
    let Some(rest) = accepted.way.after_next() else { return Ok(Stream::Plain(tcp)) };
    let asked = ask_relay(environment, tcp, &rest, accepted.addresses, accepted.path.as_deref());
    match Box::pin(timeout_at(deadline, asked)).await {
        Ok(Ok(tcp)) => Ok(Stream::Plain(tcp)),
        Ok(Err((answer, error))) => Err((answer.unwrap_or(Answer::Unreachable).encode(1), error)),
        Err(_) => Err((Answer::TimedOut.encode(1), timed_out(limit).source)),
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Addresses {
    /// An address as it is, a name by its entry among those in use.
    pub(super) fn of(environment: &Environment, host: &str, port: u16) -> Self {
        match host.parse() {
            Ok(ip) => Self::Fixed(SocketAddr::new(ip, port)),
            Err(_) => Self::Named(environment.hosts.get(host), port),
        }
    }
}
