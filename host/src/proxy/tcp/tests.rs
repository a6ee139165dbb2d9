//! Stream routes through a real worker: TCP, TLV, and the stops of a way.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalRuntime;
use tokio::time::{Instant, timeout};

use super::serve;
use crate::config::objects;
use crate::filter::Chain;
use crate::frame::FrameFormat;
use crate::message::Client;
use crate::message::path_signature::FleetKey;
use crate::net::proxy_protocol::{Addresses, parse};
use crate::net::{Accepted, Counters, Drain, Listener, Stream};
use crate::observe::{LogConfig, LogTarget, LogWriter, Metrics};
use crate::proxy::{NodeIdentity, Shared, Worker, tlv};
use crate::snapshot::{Snapshot, StreamFlow, StreamRoute, TlvSettings, stream_identity};
use crate::upstream::via::WayKey;
use crate::upstream::{Environment, Options, References, Upstream};

const PATIENCE: Duration = Duration::from_secs(20);
const FLEET: &[u8] = &[7; 32];

fn run(test: impl Future<Output = ()>) {
    LocalRuntime::new().unwrap().block_on(async { timeout(PATIENCE, test).await.unwrap() });
}

/// A worker with one stream route to `upstream` (none without one).
fn worker(flow: StreamFlow, upstream: Option<Value>) -> Rc<Worker> {
    let metrics = Metrics::new(1, "test");
    let config = LogConfig { access: LogTarget::Off, ..LogConfig::default() };
    let log = LogWriter::start(&config, "test").unwrap();
    let environment = Environment::new(Options { way_key: WayKey::new(&[FLEET]), ..Options::default() });
    let mut snapshot = Snapshot::default();
    if let Some(upstream) = upstream {
        let object: objects::Upstream = serde_json::from_value(upstream).unwrap();
        let upstream = Upstream::build(&object, "u", None, &References::NONE, &environment).unwrap();
        let object = json!({"id": "s", "upstream_id": "u"});
        let object: objects::StreamRoute = serde_json::from_value(object).unwrap();
        let route = StreamRoute {
            id: "s".into(),
            flow,
            upstream: Some(Arc::new(upstream)),
            on_change: objects::OnChange::Keep,
            timeouts: None,
            identity: stream_identity(&object),
            is_bridged: false,
            chain: Arc::new(Chain::default()),
            labels: None,
            metrics: metrics.stream_route("s"),
        };
        snapshot.stream_routes.insert(&object, Arc::new(route));
    }
    let shared = Arc::new(Shared {
        snapshot: ArcSwap::from_pointee(snapshot),
        counters: Arc::new(Counters::default()),
        metrics,
        node: NodeIdentity {
            id: "n".into(),
            region: "r".into(),
            fleet_key: Some(FleetKey::new(FLEET).unwrap()),
        },
        trace: Default::default(),
        im: Default::default(),
        environment,
    });
    Rc::new(Worker::new(0, 1, shared, log.worker()))
}

/// Serves connections of a listener of this protocol on the worker.
async fn listen(worker: &Rc<Worker>, protocol: &str) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let object = json!({"id": "l", "bind": address.to_string(), "protocol": protocol});
    let listener = Arc::new(Listener::new(Arc::new(serde_json::from_value(object).unwrap())).unwrap());
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        loop {
            let (tcp, peer) = socket.accept().await.unwrap();
            let client = Arc::new(Client { peer, address: peer, local: address, tls: None, path: None });
            let accepted = Accepted {
                stream: Stream::from(tcp),
                client,
                listener: Arc::clone(&listener),
                first: None,
                sni: None,
                rule: None,
                drain: Drain::new(worker.tasks.clone(), Arc::clone(&listener)),
                started: Instant::now(),
            };
            let own = Rc::clone(&worker);
            worker.tasks.spawn(serve(own, accepted));
        }
    });
    address
}

async fn node() -> (TcpListener, SocketAddr) {
    let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = node.local_addr().unwrap();
    (node, address)
}

/// An address nobody listens at.
async fn dead() -> SocketAddr {
    node().await.1
}

fn closes(worker: &Worker, reason: &str) -> bool {
    let line = format!("sluice_session_closes_total{{reason=\"{reason}\"}} 1");
    worker.shared.metrics.render().contains(&line)
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn bytes_pass_both_ways_over_the_first_node_that_answers() {
    run(async {
        let (node, address) = node().await;
        let nodes = json!({dead().await.to_string(): 1, address.to_string(): 1});
        let worker = worker(StreamFlow::Tcp, Some(json!({"scheme": "tcp", "nodes": nodes, "retries": 1})));
        let front = listen(&worker, "tcp").await;
        for _ in 0..4 {
            let mut client = TcpStream::connect(front).await.unwrap();
            let (mut far, _) = node.accept().await.unwrap();
            client.write_all(b"hello").await.unwrap();
            client.shutdown().await.unwrap();
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"hello");
            // The client has ended; the node's answer still arrives.
            far.write_all(b"answer").await.unwrap();
            drop(far);
            got.clear();
            client.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"answer");
        }
        until(|| worker.tasks.count() == 0).await;
        assert_eq!(worker.buffers.lent(), 0);
    });
}

#[test]
fn what_has_nowhere_to_go_is_reset_with_its_reason() {
    run(async {
        let unreachable = json!({"scheme": "tcp", "nodes": {dead().await.to_string(): 1}});
        for (upstream, reason) in [(None, "no_route"), (Some(unreachable), "no_upstream")] {
            let worker = worker(StreamFlow::Tcp, upstream);
            let mut client = TcpStream::connect(listen(&worker, "tcp").await).await.unwrap();
            assert!(client.read(&mut [0]).await.is_err(), "{reason}");
            until(|| closes(&worker, reason)).await;
        }
    });
}

#[test]
fn a_cut_stays_a_cut() {
    run(async {
        let (node, address) = node().await;
        let upstream = json!({"scheme": "tcp", "nodes": {address.to_string(): 1}});
        let worker = worker(StreamFlow::Tcp, Some(upstream));
        let mut client = TcpStream::connect(listen(&worker, "tcp").await).await.unwrap();
        let (mut far, _) = node.accept().await.unwrap();
        client.write_all(b"x").await.unwrap();
        far.read_exact(&mut [0]).await.unwrap();
        far.set_zero_linger().unwrap();
        drop(far);
        assert!(client.read(&mut [0]).await.is_err(), "an orderly end would look like all of it");
        until(|| closes(&worker, "upstream_failed")).await;
    });
}

#[test]
fn a_drain_ends_connections_before_its_deadline() {
    run(async {
        let (node, address) = node().await;
        let upstream = json!({"scheme": "tcp", "nodes": {address.to_string(): 1}});
        let worker = worker(StreamFlow::Tcp, Some(upstream));
        let _client = TcpStream::connect(listen(&worker, "tcp").await).await.unwrap();
        let _far = node.accept().await.unwrap();
        assert_eq!(worker.tasks.drained(Duration::from_secs(2)).await.ended, 0);
        assert!(closes(&worker, "drained"));
    });
}

#[test]
fn a_node_of_frames_learns_who_the_client_is_and_by_which_way_it_came() {
    run(async {
        let (node, address) = node().await;
        let nodes = json!({address.to_string(): 1});
        let upstream = json!({"scheme": "tlv", "nodes": nodes, "send_proxy_protocol": "v2"});
        let conf = objects::TlvConf::default();
        let settings = TlvSettings::new(&conf, Arc::new(FrameFormat::im20())).unwrap();
        let worker = worker(StreamFlow::Tlv(Arc::new(settings)), Some(upstream));
        let mut client = TcpStream::connect(listen(&worker, "tlv").await).await.unwrap();
        let mut frame = Vec::new();
        FrameFormat::im20().encode(&mut frame, &[], b"body").unwrap();
        client.write_all(&frame).await.unwrap();
        let (mut far, _) = node.accept().await.unwrap();
        let mut got = Vec::new();
        let (header, length) = loop {
            far.read_buf(&mut got).await.unwrap();
            if let Some(found) = parse(&got).unwrap() {
                break found;
            }
        };
        let Addresses::Inet { source, .. } = header.addresses else { panic!("{header:?}") };
        assert_eq!(source, client.local_addr().unwrap());
        let path = header.path.unwrap();
        assert!(path.starts_with("1;127.0.0.1,n;r;default;"), "{path}");
        while got.len() < length + frame.len() {
            far.read_buf(&mut got).await.unwrap();
        }
        assert_eq!(got[length..], frame);
    });
}

#[test]
fn a_session_at_rest_learns_that_its_route_is_gone() {
    run(async {
        let (node, address) = node().await;
        let upstream = json!({"scheme": "tlv", "nodes": {address.to_string(): 1}});
        let settings = TlvSettings::new(&objects::TlvConf::default(), Arc::new(FrameFormat::im20())).unwrap();
        let worker = worker(StreamFlow::Tlv(Arc::new(settings)), Some(upstream));
        tokio::task::spawn_local(tlv::watch(Rc::clone(&worker)));
        let mut client = TcpStream::connect(listen(&worker, "tlv").await).await.unwrap();
        let (mut far, _) = node.accept().await.unwrap();
        let mut frame = Vec::new();
        FrameFormat::im20().encode(&mut frame, &[], b"").unwrap();
        client.write_all(&frame).await.unwrap();
        far.read_exact(&mut vec![0; frame.len()]).await.unwrap();
        // The removal closes nothing by itself: the route's own `on_change` is
        // `keep`. The same route again, another in all that counts, evicts.
        let mut snapshot = Snapshot::clone(&worker.snapshot());
        let object = json!({"id": "s", "upstream_id": "u", "server_port": 1, "on_change": "evict"});
        let object: objects::StreamRoute = serde_json::from_value(object).unwrap();
        let before = snapshot.stream_routes.get("s").cloned().unwrap();
        let changed = StreamRoute {
            id: "s".into(),
            flow: StreamFlow::Tcp,
            upstream: before.upstream.clone(),
            on_change: objects::OnChange::Evict,
            timeouts: None,
            identity: stream_identity(&object),
            is_bridged: false,
            chain: Arc::clone(&before.chain),
            labels: None,
            metrics: Arc::clone(&before.metrics),
        };
        snapshot.stream_routes.insert(&object, Arc::new(changed));
        snapshot.revision += 1;
        worker.shared.snapshot.store(Arc::new(snapshot));
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        drop(client);
        until(|| closes(&worker, "route_changed")).await;
    });
}

#[test]
fn a_way_goes_through_relays_of_the_fleet() {
    run(async {
        let (node, address) = node().await;
        let relay_worker = worker(StreamFlow::Tcp, None);
        let (first, second) = (listen(&relay_worker, "relay").await, listen(&relay_worker, "relay").await);
        let lines = json!([{
            "name": "far",
            "via": [first.to_string(), second.to_string()],
            "nodes": {address.to_string(): 1},
        }]);
        let worker = worker(StreamFlow::Tcp, Some(json!({"scheme": "tcp", "lines": lines})));
        let mut client = TcpStream::connect(listen(&worker, "tcp").await).await.unwrap();
        client.write_all(b"through two stops").await.unwrap();
        let (mut far, _) = node.accept().await.unwrap();
        let mut got = [0; 17];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"through two stops");
        far.write_all(b"and back").await.unwrap();
        drop(far);
        let mut back = Vec::new();
        client.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"and back");
    });
}

#[test]
fn a_relay_refuses_what_the_fleet_has_not_signed() {
    run(async {
        let worker = worker(StreamFlow::Tcp, None);
        let front = listen(&worker, "relay").await;
        let mut client = TcpStream::connect(front).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: internal\r\n\r\n").await.unwrap();
        let mut answer = [0; 8];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"SLV1\x01\x00\x00\x00");
        until(|| closes(&worker, "way_malformed")).await;
    });
}
