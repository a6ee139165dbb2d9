//! Requests, WebSocket and polling clients, through real sockets, with a node
//! the test plays itself and a transcoder whose bodies are plain text.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::testing::Double;
use crate::config::objects;
use crate::filter::{BuildContext, Chain, ChainKind, FoundModule, Groups, ModulePlace};
use crate::frame::{FrameDecoder, FrameFormat, Piece};
use crate::message::{Client, RouteLabels};
use crate::net::{Accepted, Counters, Drain, Listener, Stream};
use crate::observe::{LogConfig, LogTarget, LogWriter, Metrics, RouteLabels as MetricLabels};
use crate::proxy::http::{HttpSettings, serve_http1};
use crate::proxy::{NodeIdentity, Shared, SharedWorker, Worker};
use crate::route::{RouteFields, RouteMatch};
use crate::snapshot::{Bridge, Route, Snapshot, StreamFlow, StreamRoute, TlvSettings};
use crate::upstream::{Environment, Options, References, Timeouts, Upstream};

struct Rig {
    address: SocketAddr,
    worker: SharedWorker,
    node: TcpListener,
}

fn run<F: Future>(future: F) -> F::Output {
    let test = async { tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time") };
    tokio::runtime::LocalRuntime::new().unwrap().block_on(test)
}

fn frame_chain(plugins: &Value) -> Chain {
    let plugins = serde_json::from_value(plugins.clone()).unwrap();
    let format = FrameFormat::im20();
    let fields: Vec<&str> = format.field_names().collect();
    let context = BuildContext {
        kind: ChainKind::Frames,
        upstream: &|_| Err("none".to_owned()),
        module: &|_| Ok(FoundModule::LeftOut),
        groups: &Groups::default(),
        https_port: 443,
        frame_fields: &fields,
        modules: ModulePlace::default(),
    };
    Chain::build(&plugins, &context, None).unwrap()
}

fn snapshot(metrics: &Arc<Metrics>, node: SocketAddr, protocol: Value, plugins: &Value) -> Snapshot {
    let object = json!({
        "id": "u", "scheme": "tlv", "nodes": {node.to_string(): 1}, "retries": 1,
        "timeout": {"connect": 1, "send": 1, "read": 1},
    });
    let object: objects::Upstream = serde_json::from_value(object).unwrap();
    let environment = Environment::new(Options::default());
    let upstream = Arc::new(Upstream::build(&object, "u", None, &References::NONE, &environment).unwrap());
    let protocol: objects::RouteProtocol = serde_json::from_value(protocol).unwrap();
    let tlv = Arc::new(TlvSettings::new(&protocol.conf, Arc::new(FrameFormat::im20())).unwrap());
    let frames = StreamRoute {
        id: "r".into(),
        flow: StreamFlow::Tlv(Arc::clone(&tlv)),
        upstream: Some(Arc::clone(&upstream)),
        timeouts: None,
        on_change: objects::OnChange::Keep,
        identity: 1,
        is_bridged: true,
        chain: Arc::new(frame_chain(plugins)),
        labels: None,
        metrics: metrics.stream_route("r"),
    };
    let bridge = Arc::new(Bridge::new(&protocol, frames, tlv).unwrap());
    let mut snapshot = Snapshot { revision: 1, ..Snapshot::default() };
    Arc::make_mut(&mut snapshot.bridged).insert("r".into(), Arc::clone(&bridge.frames));
    let route = Route {
        id: "r".into(),
        labels: Arc::new(RouteLabels { route_id: "r".into(), ..RouteLabels::default() }),
        chain: Arc::new(Chain::default()),
        timeouts: Timeouts::of(&objects::Timeout {
            ..serde_json::from_value(json!({"connect": 1, "send": 1, "read": 1})).unwrap()
        }),
        upstream: Some(upstream),
        enable_websocket: true,
        transcoder: Some(Arc::new(Double)),
        bridge: Some(bridge),
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
    });
    snapshot.router.insert("r", rule.unwrap(), Arc::new(route));
    snapshot
}

async fn rig(protocol: Value) -> Rig {
    rig_with(protocol, json!({})).await
}

async fn rig_with(mut protocol: Value, plugins: Value) -> Rig {
    protocol["name"] = json!("tlv");
    let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let metrics = Metrics::new(1, "test");
    let log =
        LogWriter::start(&LogConfig { access: LogTarget::Off, ..LogConfig::default() }, "test").unwrap();
    let shared = Arc::new(Shared {
        snapshot: ArcSwap::from_pointee(snapshot(&metrics, node.local_addr().unwrap(), protocol, &plugins)),
        counters: Arc::new(Counters::default()),
        metrics: Arc::clone(&metrics),
        node: NodeIdentity { id: "n".into(), region: "r".into(), fleet_key: None },
        trace: Default::default(),
        im: Default::default(),
        environment: Environment::new(Options::default()),
    });
    let worker = Rc::new(Worker::new(0, 1, shared, log.worker()));
    tokio::task::spawn_local(super::serve_sessions(Rc::clone(&worker)));
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let object = json!({ "id": "edge", "bind": address.to_string(), "trusted": ["127.0.0.0/8"] });
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
    Rig { address, worker, node }
}

/// An answer over HTTP.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl Rig {
    async fn accept(&self) -> Node {
        Node(self.node.accept().await.unwrap().0)
    }

    /// Sends a request on a connection of its own and reads its answer.
    fn ask(&self, method: &str, target: &str, extra: &str, body: &str) -> tokio::task::JoinHandle<Answer> {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n{extra}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let address = self.address;
        tokio::task::spawn_local(async move {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            tcp.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            tcp.read_to_string(&mut text).await.unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
            let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
            Answer {
                status,
                head: head.to_ascii_lowercase(),
                body: serde_json::from_str(body).unwrap_or(Value::Null),
            }
        })
    }

    fn post(&self, target: &str, body: &str) -> tokio::task::JoinHandle<Answer> {
        self.ask("POST", target, "", body)
    }

    async fn websocket(&self, target: &str, protocol: &str) -> WebSocketStream<TcpStream> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let mut request = format!("ws://a.test{target}").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        client_async(request, tcp).await.unwrap().0
    }
}

struct Node(TcpStream);

#[derive(Debug, Clone, PartialEq)]
struct Seen {
    command: u32,
    sequence: u64,
    user: u64,
    body: String,
}

impl Node {
    async fn read(&mut self) -> Seen {
        let mut head = [0; 21];
        self.0.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes(head[17..21].try_into().unwrap()) as usize;
        let mut bytes = head.to_vec();
        bytes.resize(21 + length + 1, 0);
        self.0.read_exact(&mut bytes[21..]).await.unwrap();
        seen(&bytes)
    }

    async fn write(&mut self, command: u32, sequence: u64, body: &str) {
        self.0.write_all(&frame(command, sequence, 0, body)).await.unwrap();
    }
}

fn seen(bytes: &[u8]) -> Seen {
    let format = FrameFormat::im20();
    let Ok(Piece::Frame(frame)) = FrameDecoder::default().next(&format, bytes, usize::MAX) else {
        panic!("no frame: {bytes:?}")
    };
    Seen {
        command: format.command().unwrap().read(frame.head()) as u32,
        sequence: format.sequence().unwrap().read(frame.head()),
        user: format.user().unwrap().read(frame.head()),
        body: String::from_utf8_lossy(frame.body()).into_owned(),
    }
}

fn frame(command: u32, sequence: u64, user: u64, body: &str) -> Vec<u8> {
    let format = FrameFormat::im20();
    let fields = [
        (format.command().unwrap(), u64::from(command)),
        (format.sequence().unwrap(), sequence),
        (format.user().unwrap(), user),
    ];
    let mut out = Vec::new();
    format.encode(&mut out, &fields, body.as_bytes()).unwrap();
    out
}

async fn next_text(socket: &mut WebSocketStream<TcpStream>) -> Value {
    match socket.next().await.unwrap().unwrap() {
        Message::Text(text) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn close_code(socket: &mut WebSocketStream<TcpStream>) -> u16 {
    while let Some(message) = socket.next().await {
        if let Ok(Message::Close(frame)) = message {
            return frame.map_or(1005, |frame| frame.code.into());
        }
    }
    0
}

#[test]
fn requests_share_a_connection_and_get_their_own_replies() {
    run(async {
        let rig = rig(json!({"requests": {"connections_max": 1}})).await;
        let first = rig.post("/769", "one");
        let mut node = rig.accept().await;
        let one = node.read().await;
        let second = rig.post("/769", "two");
        let two = node.read().await;
        assert_eq!((one.body.as_str(), two.body.as_str()), ("one", "two"));
        assert_ne!(one.sequence, two.sequence);
        node.write(0x0310, one.sequence, "a push").await;
        node.write(0x0302, two.sequence, "TWO").await;
        node.write(0x0302, one.sequence, "ONE").await;
        let (first, second) = (first.await.unwrap(), second.await.unwrap());
        assert_eq!((first.status, &first.body), (200, &json!({"reply": 770, "body": "ONE"})));
        assert_eq!(second.body, json!({"reply": 770, "body": "TWO"}));
        assert_eq!(rig.worker.im.mux.count(), 1);
    });
}

#[test]
fn a_late_reply_meets_nobody() {
    run(async {
        let rig = rig(json!({"requests": {"connections_max": 1}})).await;
        let late = rig.post("/769", "late");
        let mut node = rig.accept().await;
        let asked = node.read().await;
        let answer = late.await.unwrap();
        assert_eq!((answer.status, answer.body["error_msg"].as_str()), (504, Some("request took too long")));
        let next = rig.post("/769", "next");
        let other = node.read().await;
        assert_ne!(other.sequence, asked.sequence, "the number is set aside");
        node.write(0x0302, asked.sequence, "LATE").await;
        node.write(0x0302, other.sequence, "NEXT").await;
        assert_eq!(next.await.unwrap().body["body"], "NEXT");
    });
}

#[test]
fn a_broken_connection_fails_what_was_on_it_and_repeats_only_what_is_safe() {
    run(async {
        let rig = rig(json!({"conf": {"safe": [800]}, "requests": {"connections_max": 1}})).await;
        let unsafe_one = rig.post("/769", "unsafe");
        let mut node = rig.accept().await;
        node.read().await;
        let safe_one = rig.post("/800", "safe");
        node.read().await;
        drop(node);
        let answer = unsafe_one.await.unwrap();
        assert_eq!(answer.status, 502);
        let mut node = rig.accept().await;
        let again = node.read().await;
        assert_eq!((again.command, again.body.as_str()), (800, "safe"));
        node.write(801, again.sequence, "SAFE").await;
        assert_eq!(safe_one.await.unwrap().body["body"], "SAFE");
    });
}

#[test]
fn more_than_may_be_outstanding_is_refused_at_once() {
    run(async {
        let limits = json!({"connections_max": 1, "outstanding_max": 2});
        let rig = rig(json!({"requests": limits})).await;
        let waiting = [rig.post("/769", "a"), rig.post("/769", "b")];
        let mut node = rig.accept().await;
        let seen = [node.read().await, node.read().await];
        let refused = rig.post("/769", "c").await.unwrap();
        assert_eq!(refused.status, 503);
        assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
        for one in seen {
            node.write(0x0302, one.sequence, "x").await;
        }
        for one in waiting {
            assert_eq!(one.await.unwrap().status, 200);
        }
    });
}

#[test]
fn the_caller_is_in_the_header_and_each_has_a_login_of_its_own() {
    run(async {
        let login = r#"{"cmd":257,"body":"user $im_user"}"#;
        let rig = rig(json!({"user": "$http_x_user_id", "requests": {"login": login}})).await;
        let nobody = rig.post("/769", "x").await.unwrap();
        assert_eq!(nobody.status, 401);
        let one = rig.ask("POST", "/769", "X-User-Id: 17\r\n", "hello");
        let mut node = rig.accept().await;
        let login = node.read().await;
        assert_eq!((login.command, login.user, login.body.as_str()), (257, 17, "user 17"));
        node.write(258, login.sequence, "").await;
        let asked = node.read().await;
        assert_eq!((asked.user, asked.body.as_str()), (17, "hello"));
        node.write(0x0302, asked.sequence, "").await;
        assert_eq!(one.await.unwrap().status, 200);
        let other = rig.ask("POST", "/769", "X-User-Id: 18\r\n", "hello");
        let mut node = rig.accept().await;
        let login = node.read().await;
        assert_eq!(login.body, "user 18");
        let refusal = "\u{8}\u{4}\u{12}\u{3}bad";
        node.write(0x00FF, login.sequence, refusal).await;
        let answer = other.await.unwrap();
        assert_eq!(
            (answer.status, &answer.body["error_msg"]),
            (401, &json!("the upstream refused the login: bad"))
        );
    });
}

#[test]
fn what_cannot_be_transcoded_or_is_refused_says_why() {
    run(async {
        let rig = rig(json!({})).await;
        let answer = rig.post("/769", "bad").await.unwrap();
        assert_eq!((answer.status, &answer.body["path"]), (400, &json!("body")));
        assert_eq!(rig.post("/none", "").await.unwrap().status, 404);
        let one_way = rig.post("/9", "x");
        let mut node = rig.accept().await;
        assert_eq!(node.read().await.command, 9);
        assert_eq!(one_way.await.unwrap().status, 202);
        let slow = rig.post("/769", "x");
        let asked = node.read().await;
        node.write(0x00FF, asked.sequence, "\u{8}\u{7}\u{12}\u{4}slow\u{18}\u{64}").await;
        let answer = slow.await.unwrap();
        assert_eq!((answer.status, &answer.body["error_msg"]), (429, &json!("slow")));
        assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
    });
}

#[test]
fn a_binary_message_is_a_frame_each_way() {
    run(async {
        let rig = rig(json!({})).await;
        let mut socket = rig.websocket("/ws", "sluice.im20").await;
        let sent = frame(0x0301, 7, 5, "hello");
        socket.send(Message::binary(sent.clone())).await.unwrap();
        let mut node = rig.accept().await;
        assert_eq!(node.read().await, seen(&sent));
        let two = [frame(0x0302, 7, 0, "reply"), frame(0x0310, 1, 0, "push")];
        node.0.write_all(&two.concat()).await.unwrap();
        for expected in two {
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::binary(expected));
        }
        drop(node);
        assert_eq!(close_code(&mut socket).await, 1000);
    });
}

#[test]
fn what_is_no_single_frame_ends_the_connection() {
    run(async {
        let rig = rig(json!({})).await;
        let one = frame(0x0301, 7, 5, "hello");
        let mut bad_begin = one.clone();
        bad_begin[0] = 1;
        let table: [(Message, u16); 5] = [
            (Message::binary([one.clone(), one.clone()].concat()), 1007),
            (Message::binary(one[..10].to_vec()), 1007),
            (Message::binary(bad_begin), 1007),
            (Message::text("{}"), 1003),
            (Message::binary(vec![0; 300_000]), 1009),
        ];
        for (message, code) in table {
            let mut socket = rig.websocket("/ws", "sluice.im20").await;
            socket.send(message).await.unwrap();
            // An error frame may come before the close.
            assert_eq!(close_code(&mut socket).await, code);
        }
    });
}

#[test]
fn text_messages_go_through_the_transcoder() {
    run(async {
        let rig = rig(json!({})).await;
        let mut socket = rig.websocket("/ws?user=5", "sluice.json").await;
        socket.send(Message::text(r#"{"cmd":769,"id":"m1","body":7}"#)).await.unwrap();
        let refused = next_text(&mut socket).await;
        assert_eq!((&refused["id"], &refused["error"]["path"]), (&json!("m1"), &json!("body")));
        socket.send(Message::text(r#"{"cmd":769,"id":"m2","body":"hi"}"#)).await.unwrap();
        let mut node = rig.accept().await;
        let asked = node.read().await;
        assert_eq!((asked.command, asked.user, asked.body.as_str()), (769, 5, "hi"));
        node.write(0x0310, 1, "push").await;
        node.write(0x0302, asked.sequence, "done").await;
        assert_eq!(next_text(&mut socket).await, json!({"cmd": 784, "body": "push"}));
        assert_eq!(next_text(&mut socket).await, json!({"cmd": 770, "id": "m2", "body": "done"}));
        socket.close(None).await.unwrap();
        assert_eq!(
            node.0.read(&mut [0; 1]).await.unwrap(),
            0,
            "the client's close ends the node's connection"
        );
    });
}

#[test]
fn a_session_goes_on_over_another_node_when_its_own_is_lost() {
    run(async {
        let rig = rig(json!({"conf": {"replay": [257], "login": [257]}})).await;
        let mut socket = rig.websocket("/ws?user=5", "sluice.json").await;
        socket.send(Message::text(r#"{"cmd":257,"id":1,"body":"login"}"#)).await.unwrap();
        let mut node = rig.accept().await;
        let login = node.read().await;
        node.write(258, login.sequence, "welcome").await;
        assert_eq!(next_text(&mut socket).await["id"], 1);
        socket.send(Message::text(r#"{"cmd":769,"id":2,"body":"lost"}"#)).await.unwrap();
        node.read().await;
        drop(node);
        let mut node = rig.accept().await;
        assert_eq!(node.read().await, login);
        node.write(258, login.sequence, "welcome back").await;
        let told = next_text(&mut socket).await;
        assert_eq!((&told["id"], &told["error"]["message"]), (&json!(2), &json!("request_lost")));
        socket.send(Message::text(r#"{"cmd":769,"id":3,"body":"again"}"#)).await.unwrap();
        assert_eq!(node.read().await.body, "again");
    });
}

#[test]
fn limits_on_frames_count_messages_and_requests_alike() {
    run(async {
        let limit = json!({"rate": 1, "burst": 0, "key": "frame_from", "rejected": "error_frame"});
        let rig = rig_with(json!({"user": "$http_x_user_id"}), json!({"limit-req": limit})).await;
        let mut socket = rig.websocket("/ws?user=5", "sluice.json").await;
        for id in 1..=2 {
            let text = format!(r#"{{"cmd":769,"id":{id},"body":"x"}}"#);
            socket.send(Message::text(text)).await.unwrap();
        }
        let told = next_text(&mut socket).await;
        assert_eq!((&told["id"], &told["error"]["status"]), (&json!(2), &json!(429)));
        let refused = rig.ask("POST", "/769", "X-User-Id: 5\r\n", "x").await.unwrap();
        assert_eq!(refused.status, 429);
    });
}

/// Session and token of an answer.
fn session_of(answer: &Answer) -> (String, String) {
    assert_eq!(answer.status, 201, "{answer:?}");
    let text = |name: &str| answer.body[name].as_str().unwrap().to_owned();
    (text("session"), format!("X-Session-Token: {}\r\n", text("token")))
}

#[test]
fn a_session_moves_between_polls_streams_and_websockets() {
    run(async {
        let rig = rig(json!({})).await;
        let made = rig.post("/im?session=new&user=5", r#"{"cmd":257,"id":0,"body":"login"}"#);
        let mut node = rig.accept().await;
        let login = node.read().await;
        assert_eq!((login.command, login.user), (257, 5));
        let made = made.await.unwrap();
        let (id, token) = session_of(&made);
        let get = |query: &str| rig.ask("GET", &format!("/im?session={id}&{query}"), &token, "");
        // A poll that waits.
        let poll = get("cursor=0&wait=10s");
        node.write(258, login.sequence, "in").await;
        let answer = poll.await.unwrap();
        assert_eq!(
            answer.body["messages"],
            json!([{"cursor": 1, "message": {"cmd": 258, "id": 0, "body": "in"}}])
        );
        // A message sent twice under one number goes once.
        let send =
            || rig.ask("POST", &format!("/im?session={id}&n=1"), &token, r#"{"cmd":769,"id":1,"body":"hi"}"#);
        assert_eq!(send().await.unwrap().body, json!({"accepted": true, "duplicate": false}));
        assert_eq!(send().await.unwrap().body, json!({"accepted": true, "duplicate": true}));
        let asked = node.read().await;
        assert_eq!(asked.body, "hi");
        // The same session over a WebSocket, from where the poll was.
        let secret = made.body["token"].as_str().unwrap();
        let target = format!("/im?session={id}&cursor=1");
        let mut socket = rig.websocket(&target, &format!("sluice.json, token.{secret}")).await;
        assert_eq!(next_text(&mut socket).await, json!({"session": id, "cursor": 1}));
        node.write(0x0302, asked.sequence, "sent").await;
        let told = next_text(&mut socket).await;
        assert_eq!(told, json!({"cursor": 2, "message": {"cmd": 770, "id": 1, "body": "sent"}}));
        socket.send(Message::text(r#"{"n":2,"message":{"cmd":769,"id":2,"body":"ws"}}"#)).await.unwrap();
        assert_eq!(next_text(&mut socket).await, json!({"accepted": 2, "duplicate": false}));
        assert_eq!(node.read().await.body, "ws");
        drop(socket);
        // And an event stream, which asks for what the WebSocket may not have shown.
        node.write(0x0310, 9, "push").await;
        let mut tcp = TcpStream::connect(rig.address).await.unwrap();
        let request = format!(
            "GET /im?session={id}&cursor=0 HTTP/1.1\r\nHost: a.test\r\nAccept: text/event-stream\r\nLast-Event-ID: 1\r\n{token}\r\n"
        );
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        while !text.contains("\"push\"") {
            let mut piece = [0; 1024];
            let count = tcp.read(&mut piece).await.unwrap();
            assert_ne!(count, 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
        let ids: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
        assert_eq!(ids, ["2", "3"], "{text}");
        // Closed, it is gone for whoever asks.
        let closed = rig.ask("DELETE", &format!("/im?session={id}"), &token, "").await.unwrap();
        assert_eq!(closed.status, 204);
        assert_eq!(node.0.read(&mut [0; 1]).await.unwrap(), 0);
    });
}

#[test]
fn a_session_is_only_its_holders() {
    run(async {
        let rig = rig(json!({})).await;
        let made = rig.post("/im?session=new", "").await.unwrap();
        let (id, token) = session_of(&made);
        let target = format!("/im?session={id}");
        for (target, token, status) in [
            (target.as_str(), "", 404),
            (target.as_str(), "X-Session-Token: x\r\n", 404),
            ("/im?session=0-x", token.as_str(), 404),
            ("/im?session=9-x", token.as_str(), 404),
            (&format!("{target}&cursor=99"), token.as_str(), 400),
            (&format!("{target}&cursor=x"), token.as_str(), 400),
            (target.as_str(), token.as_str(), 200),
        ] {
            let answer = rig.ask("GET", target, token, "").await.unwrap();
            assert_eq!(answer.status, status, "{target} {token}");
        }
        let evil = "Origin: https://evil.example\r\n";
        assert_eq!(rig.ask("POST", "/im?session=new", evil, "").await.unwrap().status, 403);
        let bad = rig.ask("POST", &target, &token, r#"{"cmd":769,"id":4,"body":5}"#).await.unwrap();
        assert_eq!((bad.status, &bad.body["path"], &bad.body["id"]), (400, &json!("body"), &json!(4)));
    });
}
