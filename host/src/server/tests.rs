//! A server with flows that tell what they were given, through real sockets.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::LocalRuntime;
use tokio_rustls::TlsConnector;

use super::*;
use crate::config::objects;
use crate::net::proxy_protocol::{Outgoing, encode_v2};
use crate::net::tls::{Entry, Sessions};
use crate::net::{HandshakeFailure, Inherited, Listeners, ProxyHeaderFailure, Queue};

const LIMIT: Duration = Duration::from_secs(10);

/// Answers each connection with what it was given, then echoes.
#[derive(Clone, Default)]
struct Tell {
    certificates: Arc<Certificates>,
    /// Flows that run, with when they should end.
    draining_seen: Rc<Cell<usize>>,
    /// Connections that were refused.
    refused: Rc<RefCell<Vec<CloseReason>>>,
}

impl Tell {
    async fn tell(self, name: &'static str, mut accepted: Accepted) {
        let client = &accepted.client;
        let alpn = client.tls.as_ref().and_then(|tls| tls.alpn.as_deref()).unwrap_or("-");
        let told = format!(
            "{name} client={} sni={} alpn={alpn} path={}\n",
            client.address.ip(),
            accepted.sni.as_deref().unwrap_or("-"),
            client.path.as_deref().unwrap_or("-"),
        );
        let _ = accepted.stream.write_all(told.as_bytes()).await;
        if let Some(first) = accepted.first.take() {
            let _ = accepted.stream.write_all(&first).await;
        }
        let drain = accepted.drain.clone();
        let mut buffer = [0; 1024];
        loop {
            let count = tokio::select! {
                read = accepted.stream.read(&mut buffer) => read.unwrap_or(0),
                () = drain.draining() => {
                    self.draining_seen.set(self.draining_seen.get() + 1);
                    return;
                }
            };
            if count == 0 || accepted.stream.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    }
}

impl Flows for Tell {
    fn certificates(&self) -> Arc<Certificates> {
        Arc::clone(&self.certificates)
    }

    fn http1(&self, accepted: Accepted) -> impl Future<Output = ()> + 'static {
        self.clone().tell("http1", accepted)
    }

    fn http2(&self, accepted: Accepted) -> impl Future<Output = ()> + 'static {
        self.clone().tell("http2", accepted)
    }

    fn tlv(&self, accepted: Accepted) -> impl Future<Output = ()> + 'static {
        self.clone().tell("tlv", accepted)
    }

    fn tcp(&self, accepted: Accepted) -> impl Future<Output = ()> + 'static {
        self.clone().tell("tcp", accepted)
    }

    fn refused(&self, _: &crate::message::Client, _: &Listener, reason: CloseReason, _: Instant) {
        self.refused.borrow_mut().push(reason);
    }
}

/// One worker and its listeners.
struct Edge {
    server: Server<Tell>,
    listeners: RefCell<Listeners>,
    tasks: Tasks,
    buffers: BufferPool,
    counters: Arc<Counters>,
    flows: Tell,
}

impl Edge {
    fn new(flows: Tell) -> Self {
        Self::with_room(flows, u64::MAX)
    }

    /// In a process that may have this many connections.
    fn with_room(flows: Tell, open_max: u64) -> Self {
        let (tasks, buffers) = (Tasks::new(), BufferPool::default());
        let counters = Arc::new(Counters::with_room(open_max));
        let seat = seats(1).remove(0);
        let server = Server::new(flows.clone(), tasks.clone(), buffers.clone(), Arc::clone(&counters), seat);
        let listeners = RefCell::new(Listeners::new(1, Inherited::default()));
        Self { server, listeners, tasks, buffers, counters, flows }
    }

    fn with(object: serde_json::Value) -> (Self, SocketAddr) {
        let edge = Self::new(Tell::default());
        let address = edge.set(object);
        (edge, address)
    }

    /// Makes one listener of `object` the whole configuration.
    fn set(&self, mut object: serde_json::Value) -> SocketAddr {
        object["id"] = "edge".into();
        object["bind"] = "127.0.0.1:0".into();
        let object: objects::Listener = serde_json::from_value(object).unwrap();
        self.put(&[Arc::new(object)]);
        self.listeners.borrow().bound().next().unwrap().1[0]
    }

    fn put(&self, objects: &[Arc<objects::Listener>]) {
        let outcome = self.listeners.borrow_mut().apply(objects, std::time::Instant::now());
        assert!(outcome.errors.is_empty(), "{:?}", outcome.errors);
        for (_, change) in outcome.changes {
            self.server.apply(change).unwrap();
        }
    }

    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let waiting = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(tokio::time::timeout(LIMIT, waiting).await.is_ok(), "never came: {what}");
    }

    async fn closed_by(&self, reason: CloseReason) {
        self.until(reason.as_str(), || self.counters.closed(reason) == 1).await;
        self.until("no connection", || self.server.connections() == 0).await;
        assert_eq!(self.buffers.lent(), 0);
    }
}

fn on_worker<F: Future>(future: F) -> F::Output {
    LocalRuntime::new().unwrap().block_on(async { tokio::time::timeout(LIMIT * 2, future).await.unwrap() })
}

async fn line(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut text = String::new();
    loop {
        match stream.read_u8().await {
            Ok(b'\n') | Err(_) => return text,
            Ok(byte) => text.push(char::from(byte)),
        }
    }
}

async fn say(address: SocketAddr, parts: &[&[u8]]) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for part in parts {
        stream.write_all(part).await.unwrap();
        tokio::task::yield_now().await;
    }
    let told = line(&mut stream).await;
    (stream, told)
}

fn header() -> Vec<u8> {
    let outgoing = Outgoing {
        path: Some("far"),
        ..Outgoing::new("192.0.2.7:1".parse().unwrap(), "192.0.2.8:2".parse().unwrap())
    };
    let mut bytes = Vec::new();
    encode_v2(&outgoing, &mut bytes).unwrap();
    bytes
}

#[test]
fn the_protocol_is_found_and_nothing_that_was_read_is_lost() {
    on_worker(async {
        let (_edge, address) = Edge::with(serde_json::json!({}));
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        for (name, bytes) in [("http1", &b"PUT / HTTP/1.1\r\n\r\n"[..]), ("http2", preface)] {
            let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
            for parts in [&[bytes][..], &pieces] {
                let (mut stream, told) = say(address, parts).await;
                assert!(told.starts_with(name), "{told}");
                let mut echoed = vec![0; bytes.len()];
                stream.read_exact(&mut echoed).await.unwrap();
                assert_eq!(echoed, bytes);
            }
        }
        for protocol in ["tcp", "tlv"] {
            let (_edge, address) = Edge::with(serde_json::json!({"protocol": protocol}));
            // Not a byte is needed: the server may be the one that speaks first.
            let (_, told) = say(address, &[]).await;
            assert!(told.starts_with(protocol), "{told}");
        }
    });
}

#[test]
fn a_proxy_header_names_the_client_from_trusted_addresses_only() {
    on_worker(async {
        let object = |from: &str| serde_json::json!({"proxy_protocol": {"from": [from]}});
        let (_edge, address) = Edge::with(object("127.0.0.0/8"));
        let bytes = [&header()[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        for parts in [&[&bytes[..]][..], &pieces] {
            let (mut stream, told) = say(address, parts).await;
            assert_eq!(told, "http1 client=192.0.2.7 sni=- alpn=- path=far");
            assert_eq!(line(&mut stream).await, "GET / HTTP/1.1\r");
        }
        let (edge, address) = Edge::with(object("10.0.0.0/8"));
        let (_stream, told) = say(address, &[&bytes]).await;
        assert_eq!(told, "http1 client=127.0.0.1 sni=- alpn=- path=-");
        drop(edge);
    });
}

#[test]
fn a_bad_or_missing_proxy_header_closes_with_its_reason() {
    on_worker(async {
        for (bytes, reason) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], ProxyHeaderFailure::Missing),
            (b"PROXY TCP4 x\r\n", ProxyHeaderFailure::Malformed),
            (b"PROX", ProxyHeaderFailure::Timeout),
        ] {
            let settings = serde_json::json!({"from": ["127.0.0.1"], "timeout": "50ms"});
            let (edge, address) = Edge::with(serde_json::json!({"proxy_protocol": settings}));
            let (_, told) = say(address, &[bytes]).await;
            assert_eq!(told, "");
            edge.closed_by(CloseReason::ProxyHeader).await;
            assert_eq!(edge.counters.proxy_header_failures(reason), 1, "{reason}");
        }
    });
}

#[test]
fn an_optional_header_may_be_missing() {
    on_worker(async {
        let settings = serde_json::json!({"from": ["127.0.0.1"], "required": false, "timeout": "50ms"});
        for (protocol, bytes, wanted) in
            [("http", &b"GET /"[..], "http1 client=127.0.0.1"), ("tcp", b"", "tcp client=127.0.0.1")]
        {
            let object = serde_json::json!({"protocol": protocol, "proxy_protocol": settings});
            let (_edge, address) = Edge::with(object);
            let (_, told) = say(address, &[bytes]).await;
            assert!(told.starts_with(wanted), "{told}");
        }
    });
}

struct Tls {
    flows: Tell,
    client: ClientConfig,
}

fn tls() -> Tls {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["im.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    let object = serde_json::json!({
        "id": "1", "sni": "im.example", "cert": certificate.pem(), "key": key.serialize_pem()
    });
    let ssl: objects::Ssl = serde_json::from_value(object).unwrap();
    let mut certificates = Certificates::new();
    certificates.insert(Arc::new(Entry::build(&ssl, &Sessions::new()).unwrap().unwrap()));
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Tls { flows: Tell { certificates: Arc::new(certificates), ..Tell::default() }, client }
}

#[test]
fn tls_decides_by_alpn_and_comes_after_the_proxy_header() {
    on_worker(async {
        let Tls { flows, client } = tls();
        let edge = Edge::new(flows);
        let proxy = serde_json::json!({"from": ["127.0.0.1"]});
        for (alpn, wanted) in [
            (&[][..], "http1 client=192.0.2.7 sni=im.example alpn=- path=far"),
            (&["http/1.1"], "http1 client=192.0.2.7 sni=im.example alpn=http/1.1 path=far"),
            (&["h2", "http/1.1"], "http2 client=192.0.2.7 sni=im.example alpn=h2 path=far"),
        ] {
            let address = edge.set(serde_json::json!({"tls": true, "proxy_protocol": proxy}));
            let mut config = client.clone();
            config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
            let mut tcp = TcpStream::connect(address).await.unwrap();
            tcp.write_all(&header()).await.unwrap();
            let name = ServerName::try_from("im.example").unwrap();
            let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
            assert_eq!(line(&mut stream).await, wanted);
        }
        assert_eq!(edge.counters.handshakes(), 3);
    });
}

#[test]
fn passthrough_finds_the_name_and_keeps_every_byte() {
    on_worker(async {
        let (edge, address) = Edge::with(serde_json::json!({"protocol": "tcp", "tls": "passthrough"}));
        let config = Arc::new(tls().client);
        let name = ServerName::try_from("im.example").unwrap();
        let mut session = rustls::ClientConnection::new(config, name).unwrap();
        let mut hello = Vec::new();
        session.write_tls(&mut hello).unwrap();
        let pieces: Vec<&[u8]> = hello.chunks(7).collect();
        for parts in [&[&hello[..]][..], &pieces] {
            let (mut stream, told) = say(address, parts).await;
            assert_eq!(told, "tcp client=127.0.0.1 sni=im.example alpn=- path=-");
            let mut passed = vec![0; hello.len()];
            stream.read_exact(&mut passed).await.unwrap();
            assert_eq!(passed, hello);
        }
        let (_, told) = say(address, &[b"GET / HTTP/1.1\r\n"]).await;
        assert_eq!(told, "");
        edge.until("reason", || edge.counters.handshake_failures(HandshakeFailure::NotTls) == 1).await;
    });
}

#[test]
fn silence_ends_at_the_limit_and_holds_no_buffer() {
    on_worker(async {
        let limits = serde_json::json!({"header_timeout": "50ms", "handshake_timeout": "50ms"});
        let (edge, address) = Edge::with(serde_json::json!({"limits": limits}));
        let mut silent = TcpStream::connect(address).await.unwrap();
        edge.until("accepted", || edge.server.connections() == 1).await;
        assert_eq!(edge.buffers.lent(), 0);
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
        edge.closed_by(CloseReason::FirstByteTimeout).await;

        let (edge, address) = Edge::with(serde_json::json!({"tls": true, "limits": limits}));
        let mut silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
        edge.closed_by(CloseReason::Handshake).await;
        assert_eq!(edge.counters.handshake_failures(HandshakeFailure::Timeout), 1);
    });
}

#[test]
fn connections_over_the_limit_are_reset_and_others_served() {
    on_worker(async {
        let (edge, address) =
            Edge::with(serde_json::json!({"protocol": "tcp", "limits": {"connections": 2}}));
        let (first, _) = say(address, &[]).await;
        let (_second, told) = say(address, &[]).await;
        assert!(told.starts_with("tcp"), "{told}");
        let (_, told) = say(address, &[]).await;
        assert_eq!(told, "");
        assert_eq!(edge.counters.closed(CloseReason::TooManyConnections), 1);
        drop(first);
        edge.until("room", || edge.server.connections() == 1).await;
        let (_, told) = say(address, &[]).await;
        assert!(told.starts_with("tcp"), "{told}");
    });
}

#[test]
fn a_process_short_of_descriptors_takes_no_more_than_it_can_serve() {
    on_worker(async {
        let edge = Edge::with_room(Tell::default(), 1);
        let address = edge.set(serde_json::json!({"protocol": "tcp"}));
        let (first, told) = say(address, &[]).await;
        assert!(told.starts_with("tcp"), "{told}");
        assert_eq!(say(address, &[]).await.1, "");
        assert_eq!(edge.counters.closed(CloseReason::DescriptorsShort), 1);
        drop(first);
        edge.until("room", || edge.server.connections() == 0).await;
        assert!(say(address, &[]).await.1.starts_with("tcp"));
    });
}

#[test]
fn a_changed_object_holds_for_new_connections_and_keeps_the_old() {
    on_worker(async {
        let (edge, address) = Edge::with(serde_json::json!({"protocol": "tcp"}));
        let (mut old, _) = say(address, &[]).await;
        assert_eq!(edge.set(serde_json::json!({"protocol": "tlv"})), address);
        let (_new, told) = say(address, &[]).await;
        assert!(told.starts_with("tlv"), "{told}");
        old.write_all(b"still here\n").await.unwrap();
        assert_eq!(line(&mut old).await, "still here");
        assert_eq!(edge.flows.draining_seen.get(), 0);
    });
}

#[test]
fn a_removed_listener_serves_what_was_queued_and_drains() {
    on_worker(async {
        let (edge, address) = Edge::with(serde_json::json!({"protocol": "tcp"}));
        let (mut old, _) = say(address, &[]).await;
        // Made with a blocking call, so that nothing was accepted yet.
        let queued = std::net::TcpStream::connect(address).unwrap();
        edge.put(&[]);
        assert_eq!(line(&mut old).await, "");
        queued.set_nonblocking(true).unwrap();
        let mut queued = TcpStream::from_std(queued).unwrap();
        assert!(line(&mut queued).await.starts_with("tcp"));
        edge.until("both told", || edge.flows.draining_seen.get() == 2).await;
        edge.until("closed", || std::net::TcpStream::connect(address).is_err()).await;
        assert!(!edge.tasks.is_draining());
    });
}

#[test]
fn a_drain_ends_all_and_counts_down_to_nothing() {
    on_worker(async {
        let (edge, address) = Edge::with(serde_json::json!({"protocol": "tcp"}));
        let (_one, _) = say(address, &[]).await;
        let (_two, _) = say(address, &[]).await;
        let drained = edge.tasks.drained(LIMIT).await;
        assert_eq!(drained.ended, 0);
        assert_eq!((edge.server.connections(), edge.flows.draining_seen.get()), (0, 2));
        assert_eq!(edge.counters.closed(CloseReason::Served), 2);
    });
}

#[test]
fn after_a_takeover_the_queue_is_left_alone() {
    on_worker(async {
        let (edge, address) = Edge::with(serde_json::json!({"protocol": "tcp"}));
        let taken: Vec<_> =
            edge.listeners.borrow().sockets().map(|(_, socket)| socket.try_clone().unwrap()).collect();
        tokio::task::yield_now().await;
        let queued = std::net::TcpStream::connect(address).unwrap();
        for (_, change) in edge.listeners.borrow_mut().close_all(Queue::Leave) {
            edge.server.apply(change).unwrap();
        }
        edge.tasks.drained(LIMIT).await;
        assert_eq!(edge.counters.accepted(), 0);
        assert_eq!(taken[0].accept().unwrap().1, queued.local_addr().unwrap());
    });
}

#[test]
fn a_crowded_worker_hands_new_connections_over() {
    on_worker(async {
        let counters = Arc::new(Counters::default());
        let flows = Tell::default();
        let servers: Vec<Server<Tell>> = seats(2)
            .into_iter()
            .map(|seat| {
                let tasks = Tasks::new();
                Server::new(flows.clone(), tasks, BufferPool::default(), Arc::clone(&counters), seat)
            })
            .collect();
        // The only socket is the first worker's.
        let mut listeners = Listeners::new(1, Inherited::default());
        let object = serde_json::json!({"id": "edge", "bind": "127.0.0.1:0", "protocol": "tcp"});
        let object = Arc::new(serde_json::from_value(object).unwrap());
        for (_, change) in listeners.apply(&[object], std::time::Instant::now()).changes {
            servers[0].apply(change).unwrap();
        }
        let address = listeners.bound().next().unwrap().1[0];
        let mut open = Vec::new();
        for _ in 0..100 {
            let (stream, told) = say(address, &[]).await;
            assert!(told.starts_with("tcp"), "{told}");
            open.push(stream);
        }
        let loads = (servers[0].connections(), servers[1].connections());
        assert_eq!(loads.0 + loads.1, 100);
        assert!(loads.0 - loads.1 <= 18, "{loads:?}");
        assert_eq!(counters.handed_over(), loads.1 as u64);
        drop(open);
        for server in &servers {
            while server.connections() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
}
