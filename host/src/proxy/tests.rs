//! The HTTP flow through real sockets, against scripted origins.

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalRuntime;

use super::http::{HttpSettings, serve_http1};
use super::{NodeIdentity, Shared, Worker};
use crate::config::objects;
use crate::filter::Chain;
use crate::message::{Client, RouteLabels};
use crate::net::{Accepted, Counters, Drain, Listener, Stream};
use crate::observe::{LogConfig, LogTarget, LogWriter, Metrics, RouteLabels as MetricLabels};
use crate::route::{RouteFields, RouteMatch};
use crate::snapshot::{Route, Snapshot};
use crate::upstream::{Environment, Options, References, Upstream};

/// Longest wait for anything: generous, since the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

fn on_worker<F: Future>(future: F) -> F::Output {
    LocalRuntime::new().unwrap().block_on(async { tokio::time::timeout(PATIENCE, future).await.unwrap() })
}

struct Gateway {
    address: SocketAddr,
    worker: Rc<Worker>,
}

fn snapshot(metrics: &Arc<Metrics>, nodes: &[SocketAddr], extra: serde_json::Value) -> Snapshot {
    let nodes: serde_json::Map<String, serde_json::Value> =
        nodes.iter().map(|node| (node.to_string(), json!(1))).collect();
    let mut object = json!({ "type": "roundrobin", "nodes": nodes });
    for (key, value) in extra.as_object().unwrap() {
        object[key] = value.clone();
    }
    let object: objects::Upstream = serde_json::from_value(object).unwrap();
    let environment = Environment::new(Options::default());
    let upstream = Upstream::build(&object, "u", None, &References::NONE, &environment).unwrap();
    let timeouts = upstream.timeouts;
    let route = Route {
        id: "r".into(),
        labels: Arc::new(RouteLabels::default()),
        chain: Arc::new(Chain::default()),
        upstream: Some(Arc::new(upstream)),
        timeouts,
        enable_websocket: true,
        transcoder: None,
        bridge: None,
        on_change: objects::OnChange::Keep,
        metrics: metrics.route(MetricLabels::default()),
    };
    let rule = RouteMatch::parse(&RouteFields {
        hosts: &[],
        uris: &["/*".to_owned()],
        methods: &[],
        remote_addrs: &[],
        vars: None,
        priority: 0,
    })
    .unwrap();
    let mut snapshot = Snapshot::default();
    snapshot.router.insert("r", rule, Arc::new(route));
    snapshot
}

/// A gateway in front of these nodes, with limits that tests can wait for.
async fn gateway(nodes: &[SocketAddr], extra: serde_json::Value) -> Gateway {
    let metrics = Metrics::new(1, "test");
    let log =
        LogWriter::start(&LogConfig { access: LogTarget::Off, ..LogConfig::default() }, "test").unwrap();
    let shared = Arc::new(Shared {
        snapshot: ArcSwap::from_pointee(snapshot(&metrics, nodes, extra)),
        counters: Arc::new(Counters::default()),
        metrics: Arc::clone(&metrics),
        node: NodeIdentity { id: "n".into(), region: "r".into(), fleet_key: None },
        trace: Default::default(),
        im: Default::default(),
        environment: Environment::new(Options::default()),
    });
    let worker = Rc::new(Worker::new(0, 1, shared, log.worker()));
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let limits = json!({ "header_timeout": "300ms", "body_timeout": "300ms", "body_bytes": "1MiB" });
    let object = json!({ "id": "edge", "bind": address.to_string(), "protocol": "http", "limits": limits });
    let listener = Arc::new(Listener::new(Arc::new(serde_json::from_value(object).unwrap())).unwrap());
    let settings = Rc::new(HttpSettings::of(&listener));
    let serving = Rc::clone(&worker);
    tokio::task::spawn_local(async move {
        loop {
            let (tcp, peer) = socket.accept().await.unwrap();
            let client = Client { peer, address: peer, local: address, tls: None, path: None };
            let accepted = Accepted {
                stream: Stream::from(tcp),
                client: Arc::new(client),
                listener: Arc::clone(&listener),
                first: None,
                sni: None,
                rule: None,
                drain: Drain::new(serving.tasks.clone(), Arc::clone(&listener)),
                started: tokio::time::Instant::now(),
            };
            tokio::task::spawn_local(serve_http1(Rc::clone(&serving), accepted, Rc::clone(&settings)));
        }
    });
    Gateway { address, worker }
}

impl Gateway {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes on a connection of their own and reads to its end.
    async fn ask(&self, bytes: &[u8]) -> String {
        let mut client = self.connect().await;
        client.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// An origin that runs `handle` for each connection, and counts them.
async fn origin<F: Future<Output = ()> + 'static>(
    handle: impl Fn(TcpStream, usize) -> F + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        for index in 0.. {
            let (tcp, _) = listener.accept().await.unwrap();
            tokio::task::spawn_local(handle(tcp, index));
        }
    });
    address
}

/// Reads one head, and the body its `Content-Length` or chunks announce.
async fn read_message(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut byte = [0; 1];
        if stream.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        bytes.push(byte[0]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let lower = head.to_ascii_lowercase();
        let length: Option<usize> =
            lower.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        let done = match length {
            Some(length) => body.len() == length,
            None if lower.contains("transfer-encoding: chunked") => body.ends_with("0\r\n\r\n"),
            None => true,
        };
        if done {
            return Some(text.into_owned());
        }
    }
}

/// An origin that answers every request with the same bytes.
async fn answering(answer: &'static [u8]) -> SocketAddr {
    origin(move |mut tcp, _| async move {
        while read_message(&mut tcp).await.is_some() {
            tcp.write_all(answer).await.unwrap();
        }
    })
    .await
}

/// An origin that answers with the request it got.
async fn echoing() -> SocketAddr {
    origin(|mut tcp, _| async move {
        while let Some(request) = read_message(&mut tcp).await {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.len());
            tcp.write_all(format!("{head}{request}").as_bytes()).await.unwrap();
        }
    })
    .await
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn pipelined_requests_are_answered_in_order_over_one_upstream_connection() {
    on_worker(async {
        let node = origin(|mut tcp, connection| async move {
            while let Some(request) = read_message(&mut tcp).await {
                let path = request.split(' ').nth(1).unwrap().to_owned();
                let body = format!("{connection}{path}");
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                tcp.write_all(answer.as_bytes()).await.unwrap();
            }
        })
        .await;
        let gateway = gateway(&[node], json!({})).await;
        let last = "GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let text = format!(
            "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi{last}"
        );
        let answer = gateway.ask(text.as_bytes()).await;
        let places: Vec<_> = ["0/1", "0/2", "0/3"].iter().map(|body| answer.find(body)).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{answer}");
        assert_eq!(gateway.worker.buffers.lent(), 0);
        assert_eq!(gateway.worker.pools.http1.len(), 1);
    });
}

#[test]
fn hostile_requests_are_refused_and_no_byte_reaches_the_origin() {
    on_worker(async {
        let seen = Rc::new(std::cell::Cell::new(0));
        let count = Rc::clone(&seen);
        let node = origin(move |_, _| {
            count.set(count.get() + 1);
            async {}
        })
        .await;
        let gateway = gateway(&[node], json!({})).await;
        for (bytes, status) in [
            (&b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"[..], "400"),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd", "400"),
            (b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\nHost: a\n\n", "400"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"),
            (b"\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
            (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "501"),
            (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: x\r\n\r\n", "417"),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", "413"),
            (b"GET / HTTP/1.1\r\nHost: a", "408"),
        ] {
            let answer = gateway.ask(bytes).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer:?}");
            assert!(answer.contains("Connection: close") && answer.contains("\"error_msg\""), "{answer:?}");
        }
        assert_eq!(seen.get(), 0);
    });
}

#[test]
fn what_goes_out_is_framed_anew_and_says_who_the_client_is() {
    on_worker(async {
        let gateway = gateway(&[echoing().await], json!({})).await;
        let answer = gateway
            .ask(
                b"POST /a/../b?x HTTP/1.1\r\nHost: shop\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-Real-IP: 6.6.6.6\r\n\
                  X_Real_IP: 6.6.6.6\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n0\r\n\r\n",
            )
            .await;
        assert!(answer.contains("POST /b?x HTTP/1.1\r\nHost: shop\r\n"), "{answer}");
        assert!(answer.contains("X-Real-IP: 127.0.0.1\r\n"), "{answer}");
        assert!(answer.contains("\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), "{answer}");
        for absent in ["X-Hop", "6.6.6.6", "ext="] {
            assert!(!answer.contains(absent), "{absent} in {answer}");
        }
    });
}

#[test]
fn faults_of_the_upstream_are_seen_as_such() {
    on_worker(async {
        for (answer, status) in [
            (&b"garbage\r\n\r\n"[..], Some("502")),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", Some("502")),
            (b"HTTP/1.1 200 OK\r\nX: \0\r\n\r\n", Some("502")),
            (b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", Some("502")),
            (b"HTTP/1.1 200 OK\r\nContent-", Some("502")),
            // A head that was passed on: the cut must be seen.
            (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", None),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nxyz", None),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", None),
        ] {
            let node = origin(move |mut tcp, _| async move {
                let _ = read_message(&mut tcp).await;
                tcp.write_all(answer).await.unwrap();
            })
            .await;
            let gateway = gateway(&[node], json!({})).await;
            let mut client = gateway.connect().await;
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let mut got = Vec::new();
            let shown = String::from_utf8_lossy(answer);
            match status {
                Some(status) => {
                    let head = read_message(&mut client).await.unwrap();
                    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{shown:?}: {head}");
                }
                None => {
                    assert!(client.read_to_end(&mut got).await.is_err(), "{shown:?} must end in a reset");
                }
            }
        }
    });
}

#[test]
fn only_what_is_harmless_is_tried_again() {
    on_worker(async {
        // The first node takes the request and breaks off; the second answers.
        for (request, status) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], "200"),
            (b"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", "200"),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", "502"),
            (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", "502"),
        ] {
            let breaking = origin(|mut tcp, _| async move {
                let _ = read_message(&mut tcp).await;
            })
            .await;
            let good = answering(OK).await;
            let gateway = gateway(&[breaking, good], json!({})).await;
            // Round robin: one of two requests meets the breaking node first.
            let mut statuses = Vec::new();
            for _ in 0..2 {
                let mut client = gateway.connect().await;
                client.write_all(request).await.unwrap();
                statuses.push(read_message(&mut client).await.unwrap()[9..12].to_owned());
            }
            statuses.sort();
            assert_eq!(statuses, ["200", status], "{}", String::from_utf8_lossy(request));
        }
        // Nobody listens: nothing was sent, so anything may be tried again.
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let gateway = gateway(&[closed, answering(OK).await], json!({})).await;
        for _ in 0..2 {
            let mut client = gateway.connect().await;
            client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
            assert!(read_message(&mut client).await.unwrap().starts_with("HTTP/1.1 200"));
        }
    });
}

#[test]
fn a_kept_connection_that_went_stale_is_replaced() {
    on_worker(async {
        // Each connection serves one request, then closes when the next arrives.
        let node = origin(|mut tcp, _| async move {
            let _ = read_message(&mut tcp).await;
            tcp.write_all(OK).await.unwrap();
            let _ = read_message(&mut tcp).await;
        })
        .await;
        let gateway = gateway(&[node], json!({})).await;
        let mut client = gateway.connect().await;
        for _ in 0..3 {
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            assert!(read_message(&mut client).await.unwrap().starts_with("HTTP/1.1 200"));
        }
    });
}

#[test]
fn time_limits_end_silence_on_either_side() {
    on_worker(async {
        let silent = origin(|mut tcp, _| async move {
            let _ = read_message(&mut tcp).await;
            std::future::pending::<()>().await;
        })
        .await;
        let gateway =
            gateway(&[silent], json!({ "timeout": { "connect": 1, "send": 1, "read": 0.2 }, "retries": 0 }))
                .await;
        let mut client = gateway.connect().await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(read_message(&mut client).await.unwrap().starts_with("HTTP/1.1 504"));
        let answer = gateway.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab").await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    });
}

#[test]
fn a_client_that_leaves_cancels_the_work() {
    on_worker(async {
        let (left, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let node = origin(move |mut tcp, _| {
            let left = left.clone();
            async move {
                let _ = read_message(&mut tcp).await;
                left.send("asked").unwrap();
                assert!(read_message(&mut tcp).await.is_none());
                left.send("cancelled").unwrap();
            }
        })
        .await;
        let gateway = gateway(&[node], json!({})).await;
        let mut client = gateway.connect().await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(seen.recv().await, Some("asked"));
        drop(client);
        assert_eq!(seen.recv().await, Some("cancelled"));
    });
}

#[test]
fn continue_is_said_when_the_body_is_wanted_and_early_hints_pass() {
    on_worker(async {
        let node = answering(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        let gateway = gateway(&[node], json!({})).await;
        let mut client = gateway.connect().await;
        client
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
            .await
            .unwrap();
        assert!(read_message(&mut client).await.unwrap().starts_with("HTTP/1.1 100 "));
        client.write_all(b"hi").await.unwrap();
        let hints = read_message(&mut client).await.unwrap();
        assert!(hints.starts_with("HTTP/1.1 103 ") && hints.contains("Link: x"), "{hints}");
        assert!(read_message(&mut client).await.unwrap().starts_with("HTTP/1.1 200 "));
    });
}

#[test]
fn large_bodies_pass_both_ways_at_once() {
    on_worker(async {
        let node = origin(|mut tcp, _| async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(tcp.read_u8().await.unwrap());
            }
            tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n").await.unwrap();
            let mut left = 900_000;
            let mut buffer = vec![0; 7000];
            while left > 0 {
                let count = tcp.read(&mut buffer).await.unwrap();
                tcp.write_all(&buffer[..count]).await.unwrap();
                left -= count;
            }
        })
        .await;
        let gateway = gateway(&[node], json!({})).await;
        let (mut read, mut write) = gateway.connect().await.into_split();
        let body: Vec<u8> = (0..900_000_u32).map(|index| index as u8).collect();
        let sent = body.clone();
        let send = async {
            write.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n").await.unwrap();
            write.write_all(&sent).await.unwrap();
        };
        let mut answer = Vec::new();
        let receive = async {
            while answer.len() < 900_000 || !answer.ends_with(&body[800_000..]) {
                assert!(read.read_buf(&mut answer).await.unwrap() > 0);
            }
        };
        tokio::join!(send, receive);
        assert!(answer.ends_with(&body));
    });
}

#[test]
fn an_upgrade_passes_with_what_was_sent_ahead() {
    on_worker(async {
        let node = origin(|mut tcp, _| async move {
            let request = read_message(&mut tcp).await.unwrap();
            assert!(request.contains("Connection: Upgrade\r\nUpgrade: websocket\r\n"), "{request}");
            tcp.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nahead",
            )
            .await
            .unwrap();
            let (mut read, mut write) = tcp.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        })
        .await;
        let gateway = gateway(&[node], json!({})).await;
        let mut client = gateway.connect().await;
        client
            .write_all(
                b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\nearly",
            )
            .await
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"aheadearly") {
            assert!(client.read_buf(&mut answer).await.unwrap() > 0, "{}", String::from_utf8_lossy(&answer));
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
        client.write_all(b"more").await.unwrap();
        client.shutdown().await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"more");
    });
}

#[test]
fn a_handshake_that_proves_nothing_never_gets_a_101() {
    on_worker(async {
        let forging = answering(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n",
        )
        .await;
        let gateway = gateway(&[forging], json!({})).await;
        for (key, status) in [("dGhlIHNhbXBsZSBub25jZQ==", "502"), ("short", "400")] {
            let mut client = gateway.connect().await;
            let text = format!(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: {key}\r\n\r\n"
            );
            client.write_all(text.as_bytes()).await.unwrap();
            let answer = read_message(&mut client).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
    });
}

#[test]
fn answers_without_a_length_and_to_head_are_framed_for_their_client() {
    on_worker(async {
        let closing = origin(|mut tcp, _| async move {
            let request = read_message(&mut tcp).await.unwrap();
            let body = if request.starts_with("HEAD") { "" } else { "body" };
            tcp.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{body}").as_bytes()).await.unwrap();
        })
        .await;
        let gateway = gateway(&[closing], json!({})).await;
        let answer = gateway.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert!(
            answer.ends_with("Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
            "{answer}"
        );
        let answer = gateway.ask(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
        assert!(answer.ends_with("Connection: close\r\n\r\nbody") && !answer.contains("chunked"), "{answer}");
        let answer = gateway.ask(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
    });
}
