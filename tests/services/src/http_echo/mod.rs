//! An HTTP origin that tells what it received, and misbehaves on request.
//!
//! Speaks HTTP/1.1 and HTTP/2 (by ALPN, or by prior knowledge on plain TCP) on
//! one port. The answer to any path is JSON: a [`Seen`]. The query says what
//! else to do, so it works behind any route:
//!
//! | parameter | effect |
//! | --- | --- |
//! | `status=503` | the answer's status |
//! | `delay=100` | milliseconds before the head |
//! | `body_delay=100` | milliseconds between head and body, and between chunks |
//! | `size=1000` | a body of that many bytes instead of the JSON |
//! | `echo=1` | the request's body comes back as it is, while it arrives |
//! | `chunked=10` | chunks of that many bytes instead of a length |
//! | `header=name:value` | adds a field; may be repeated |
//! | `trailer=name:value` | adds a trailer field; may be repeated |
//! | `interim=103` | an interim response first; may be repeated |
//! | `close=1` | closes the connection after the answer |
//! | `early=1` | answers before it reads the body |
//! | `upgrade=1` | 101 to an upgrade; then every byte comes back |
//! | `fault=KIND` | one of [`Fault`], in kebab case |
//!
//! Start at [`HttpEcho::start`]. HTTP/1.1 is written to the socket by hand, so
//! that every fault is exactly what it says.

mod http1;
mod http2;
mod plan;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::port::{Ending, Port};

pub use plan::Fault;

/// Requests remembered for [`HttpEcho::seen`].
const SEEN_MAX: usize = 20_000;
/// Bytes of a request's body that are kept and shown.
const BODY_SHOWN_MAX: usize = 64 * 1024;

/// A request as it arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The name the server was given.
    pub server: String,
    /// The method.
    pub method: String,
    /// The request target, byte for byte; in HTTP/2 the path.
    pub target: String,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub version: String,
    /// Fields in the order and case they came in; pseudo fields first.
    pub headers: Vec<(String, String)>,
    /// The body's length.
    pub body_bytes: u64,
    /// The body's first 64 KiB.
    pub body: String,
    /// Trailer fields.
    pub trailers: Vec<(String, String)>,
    /// The other end of the connection.
    pub peer: String,
    /// Number of the connection, from 1.
    pub connection: u64,
    /// Number of the request on its connection, from 1.
    pub request: u64,
    /// What TLS agreed on, if it is used.
    pub tls: Option<SeenTls>,
}

/// What a TLS handshake agreed on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenTls {
    /// For example `TLSv1_3`.
    pub protocol: String,
    /// The name the client asked for.
    pub server_name: Option<String>,
    /// The protocol agreed by ALPN.
    pub alpn: Option<String>,
    /// Certificates the client presented.
    pub client_certificates: usize,
}

impl Seen {
    /// The first field of that name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Every field of that name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }
}

/// What a server is to be.
#[derive(Clone, Default)]
pub struct HttpEchoOptions {
    /// Shown in every answer, to tell servers apart.
    pub name: String,
    /// Where to listen; a free loopback port if not given.
    pub address: Option<SocketAddr>,
    /// Speak TLS. ALPN decides between the protocols.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

struct Shared {
    name: String,
    tls: Option<TlsAcceptor>,
    connections: AtomicU64,
    requests: AtomicU64,
    refused: AtomicU64,
    seen: Mutex<VecDeque<Seen>>,
}

/// A running server. Dropping it closes its port.
pub struct HttpEcho {
    port: Port,
    shared: Arc<Shared>,
}

impl HttpEcho {
    /// Listens; serves as tasks of the current runtime.
    pub async fn start(options: HttpEchoOptions) -> io::Result<HttpEcho> {
        let shared = Arc::new(Shared {
            name: options.name,
            tls: options.tls.map(TlsAcceptor::from),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            seen: Mutex::default(),
        });
        let address = options.address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let served = shared.clone();
        let port = Port::open(address, move |stream, peer| serve(served.clone(), stream, peer)).await?;
        Ok(HttpEcho { port, shared })
    }

    /// The listening port: its address, and the switch to break it.
    pub fn port(&self) -> &Port {
        &self.port
    }

    /// Requests whose head was read.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Connections that sent something other than a request.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// The requests that were read to their end, oldest first; at most the
    /// newest 20,000.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen().iter().cloned().collect()
    }

    /// Forgets the requests seen so far.
    pub fn forget(&self) {
        self.shared.seen().clear();
    }
}

impl Drop for HttpEcho {
    fn drop(&mut self) {
        self.port.close();
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, VecDeque<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, seen: &Seen) {
        let mut all = self.seen();
        if all.len() == SEEN_MAX {
            all.pop_front();
        }
        all.push_back(seen.clone());
    }
}

/// What every request of a connection has in common.
#[derive(Clone)]
struct Connection {
    shared: Arc<Shared>,
    template: Seen,
}

async fn serve(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr) -> Ending {
    let number = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
    let template =
        Seen { server: shared.name.clone(), peer: peer.to_string(), connection: number, ..Seen::default() };
    let mut connection = Connection { shared: shared.clone(), template };
    let outcome = match &shared.tls {
        None => serve_stream(connection, stream).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => {
                connection.template.tls = Some(describe(stream.get_ref().1));
                serve_stream(connection, stream).await
            }
            Err(error) => Err(error),
        },
    };
    // A client that breaks off is what tests do; there is nobody to tell. The
    // plan's own resets come up as errors of this kind.
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ending::Reset,
        _ => Ending::Close,
    }
}

fn describe(session: &rustls::ServerConnection) -> SeenTls {
    SeenTls {
        protocol: session.protocol_version().map(|version| format!("{version:?}")).unwrap_or_default(),
        server_name: session.server_name().map(str::to_owned),
        alpn: session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        client_certificates: session.peer_certificates().map_or(0, |chain| chain.len()),
    }
}

async fn serve_stream<S>(connection: Connection, mut stream: S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut buffer = BytesMut::new();
    loop {
        let shared = buffer.len().min(PREFACE.len());
        if buffer[..shared] != PREFACE[..shared] {
            return http1::serve(connection, stream, buffer).await;
        }
        if shared == PREFACE.len() {
            return http2::serve(connection, stream, buffer).await;
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tokio::io::AsyncWriteExt;

    async fn origin() -> HttpEcho {
        HttpEcho::start(HttpEchoOptions { name: "one".into(), ..HttpEchoOptions::default() }).await.unwrap()
    }

    /// Sends bytes on a new connection and reads until it ends.
    async fn talk(origin: &HttpEcho, request: &str) -> (String, io::Result<usize>) {
        let mut stream = TcpStream::connect(origin.port().address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let outcome = stream.read_to_end(&mut answer).await;
        (String::from_utf8_lossy(&answer).into_owned(), outcome)
    }

    #[tokio::test]
    async fn an_answer_tells_what_arrived() {
        let origin = origin().await;
        let request = "POST /a%20b?x=1 HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nConnection: close\r\n\
                       Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Trail: t\r\n\r\n";
        let (answer, _) = talk(&origin, request).await;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let seen: Seen = serde_json::from_str(body).unwrap();
        assert_eq!((seen.target.as_str(), seen.body.as_str()), ("/a%20b?x=1", "abc"));
        assert_eq!(seen.header("x-one"), Some("1"));
        assert_eq!(seen.trailers, [("X-Trail".to_owned(), "t".to_owned())]);
        assert_eq!(origin.seen(), [seen]);
    }

    #[tokio::test]
    async fn faults_are_what_they_say() {
        let origin = origin().await;
        let get = |fault: &str| format!("GET /?size=100&fault={fault} HTTP/1.1\r\nHost: h\r\n\r\n");
        let (answer, outcome) = talk(&origin, &get("reset")).await;
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(answer, "");
        let (answer, outcome) = talk(&origin, &get("short-body")).await;
        assert!(outcome.is_ok() && answer.contains("content-length: 100\r\n"));
        assert_eq!(answer.split_once("\r\n\r\n").unwrap().1.len(), 50);
        let (answer, outcome) = talk(&origin, &get("reset-body")).await;
        assert!(outcome.is_err() && answer.contains("content-length: 100\r\n"));
        assert!(talk(&origin, &get("bad-chunk")).await.0.contains("\r\nzz\r\n"));
        assert!(talk(&origin, &get("none-such")).await.0.starts_with("HTTP/1.1 400"));
    }

    #[tokio::test]
    async fn both_protocols_share_the_port() {
        let origin = origin().await;
        let stream = TcpStream::connect(origin.port().address()).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::post("http://h/?trailer=x-t:v").body(()).unwrap();
        let (response, mut body) = client.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(b"abc"), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut text = Vec::new();
        while let Some(piece) = body.data().await {
            text.extend_from_slice(&piece.unwrap());
        }
        let seen: Seen = serde_json::from_slice(&text).unwrap();
        assert_eq!((seen.version.as_str(), seen.body.as_str()), ("HTTP/2", "abc"));
        assert_eq!(body.trailers().await.unwrap().unwrap()["x-t"], "v");
    }
}
