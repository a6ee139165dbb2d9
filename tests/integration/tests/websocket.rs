//! WebSocket passed through: what either side says arrives as it was said.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sluice_harness::{HttpEcho, Raw, Signal, Sluice, WebSocketEcho, eventually};
use sluice_tests::origin::Origin;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};
use tokio_tungstenite::{WebSocketStream, client_async};

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn gateway(node: String, limits: Value) -> Sluice {
    Sluice::builder()
        .listener("edge", json!({"limits": limits, "websocket_over_http2": true}))
        .put("routes", "ws", json!({"uri": "/ws", "enable_websocket": true, "upstream_id": "origin"}))
        .put("routes", "plain", json!({"uri": "/plain", "upstream_id": "origin"}))
        .put(
            "upstreams",
            "origin",
            json!({"nodes": {node: 1}, "timeout": {"connect": 5, "send": 5, "read": 5}}),
        )
        .start()
}

async fn connect(sluice: &Sluice) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(sluice.address("edge")).await.unwrap();
    client_async("ws://a.test/ws", stream).await.unwrap().0
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Message {
    let next = tokio::time::timeout(Duration::from_secs(15), socket.next());
    next.await.expect("a message in time").expect("a message").unwrap()
}

#[tokio::test]
async fn messages_pings_and_closes_pass_as_they_are() {
    let origin = WebSocketEcho::start();
    let sluice = gateway(origin.node(), json!({}));
    let stream = TcpStream::connect(sluice.address("edge")).await.unwrap();
    let mut request = "ws://a.test/ws".into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "chat, other".parse().unwrap());
    let (mut socket, answer) = client_async(request, stream).await.unwrap();
    assert_eq!(answer.headers().get("sec-websocket-protocol").unwrap(), "chat");
    let large: Vec<u8> = (0..1_000_000_u32).map(|at| at as u8).collect();
    for message in [
        Message::text("h\u{e9}llo"),
        Message::text(""),
        Message::binary(vec![0, 255, 9, 10]),
        Message::binary(large),
    ] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(next(&mut socket).await, message);
    }
    socket.send(Message::Ping("abc".into())).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::Pong("abc".into()));
    socket.send(Message::text("ping down")).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::Ping("down".into()));
    socket.send(Message::text("close 4001 bye")).await.unwrap();
    let closed = next(&mut socket).await;
    assert_eq!(
        closed,
        Message::Close(Some(CloseFrame { code: CloseCode::from(4001), reason: "bye".into() }))
    );
    while socket.next().await.is_some() {}
    // The line is written when the session has ended on both sides.
    drop(socket);
    let line = sluice.logged("the session", |line| line["status"] == 101);
    assert_eq!(line["route"], "ws");
}

#[tokio::test]
async fn a_client_s_close_reaches_the_origin_and_comes_back() {
    let origin = WebSocketEcho::start();
    let sluice = gateway(origin.node(), json!({}));
    let mut socket = connect(&sluice).await;
    socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "done".into() })).await.unwrap();
    match next(&mut socket).await {
        Message::Close(Some(frame)) => assert_eq!(frame.code, CloseCode::Normal),
        other => panic!("{other:?}"),
    }
    eventually("the end at the origin", || (origin.line().open_connections() == 0).then_some(()));
}

#[tokio::test]
async fn fragments_and_what_stands_between_them_are_untouched() {
    // Bytes as a masked client sends them: three fragments and a ping between.
    let mut bytes = Vec::new();
    let piece = |bytes: &mut Vec<u8>, head: u8, payload: &[u8]| {
        bytes.extend_from_slice(&[head, 0x80 | payload.len() as u8, 0, 0, 0, 0]);
        bytes.extend_from_slice(payload);
    };
    piece(&mut bytes, 0x01, b"one ");
    piece(&mut bytes, 0x89, b"ping");
    piece(&mut bytes, 0x00, b"");
    piece(&mut bytes, 0x80, b"two");
    let expected = bytes.clone();
    let origin = Origin::start(|talk| {
        if talk.head().is_some() {
            let _ = talk.send(SWITCHED);
            talk.drain();
        }
    });
    let sluice = gateway(origin.node(), json!({}));
    let mut client = sluice.connect("edge");
    client.send(HANDSHAKE);
    client.read_until(b"\r\n\r\n");
    for byte in &bytes {
        client.send([*byte]);
    }
    origin.until("every byte, as it was", |log| log.received[0].ends_with(&expected));
    // And through a real peer.
    let echo = WebSocketEcho::start();
    let sluice = gateway(echo.node(), json!({}));
    let mut socket = connect(&sluice).await;
    for (text, code, last) in
        [("a", Data::Text, false), ("b", Data::Continue, false), ("c", Data::Continue, true)]
    {
        socket.send(Message::Frame(Frame::message(text, OpCode::Data(code), last))).await.unwrap();
    }
    assert_eq!(next(&mut socket).await, Message::text("abc"));
}

#[test]
fn an_upgrade_that_a_route_does_not_allow_is_a_plain_request() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(origin.node(), json!({}));
    let mut client = sluice.connect("edge");
    let request = HANDSHAKE.replace("/ws", "/plain?upgrade=1");
    client.send(request);
    let (status, _, body) = client.read_answer();
    let seen: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, 200);
    assert!(!seen.to_string().to_lowercase().contains("\"upgrade\""), "{seen}");
    // The connection still speaks HTTP.
    client.send("GET /plain HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client.read_answer().0, 200);
}

#[test]
fn an_origin_that_does_not_switch_is_answered_for_and_http_goes_on() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(origin.node(), json!({}));
    let mut client = sluice.connect("edge");
    client.send(format!("{HANDSHAKE}GET /plain HTTP/1.1\r\nHost: a.test\r\n\r\n"));
    assert_eq!(client.read_answer().0, 200);
    let (status, _, body) = client.read_answer();
    let seen: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &seen["target"]), (200, &json!("/plain")));
}

#[test]
fn a_switch_that_does_not_fit_the_handshake_is_no_switch() {
    let wrong = [
        SWITCHED.replace("s3pP", "AAAA"),
        SWITCHED.replace("Sec-WebSocket-Accept", "X-Other"),
        SWITCHED.replace("Upgrade: websocket", "Upgrade: chat"),
        SWITCHED.replace("Upgrade: websocket\r\n", ""),
        SWITCHED.replace("Connection: Upgrade\r\n", "Connection: Upgrade\r\nSec-WebSocket-Accept: x\r\n"),
    ];
    for answer in wrong {
        let origin = Origin::once(answer.clone());
        let sluice = gateway(origin.node(), json!({}));
        let mut client = sluice.connect("edge");
        client.send(HANDSHAKE);
        let received = String::from_utf8_lossy(&client.read_until(b"\r\n\r\n")).into_owned();
        assert!(received.starts_with("HTTP/1.1 502 "), "{answer:?}: {received}");
    }
}

#[test]
fn a_handshake_that_is_none_never_gets_101() {
    let origin = WebSocketEcho::start();
    let sluice = gateway(origin.node(), json!({}));
    let wrong = [
        HANDSHAKE.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
        HANDSHAKE.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"),
        HANDSHAKE.replace(
            "Sec-WebSocket-Version",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version",
        ),
        HANDSHAKE.replace("GET", "POST"),
        HANDSHAKE.replace("GET", "HEAD"),
        HANDSHAKE.replace("Connection: Upgrade\r\n", ""),
        HANDSHAKE.replace("Upgrade: websocket\r\n", ""),
        HANDSHAKE.replace("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 12"),
        HANDSHAKE.replace("HTTP/1.1", "HTTP/1.0"),
        HANDSHAKE.replace("\r\n\r\n", "\r\nContent-Length: 3\r\n\r\nabc"),
    ];
    for request in wrong {
        let mut client = sluice.connect("edge");
        client.send(&request);
        let head = String::from_utf8_lossy(&client.read_until(b"\r\n\r\n")).into_owned();
        assert!(!head.starts_with("HTTP/1.1 101"), "{request}: {head}");
    }
    assert_eq!(origin.handshakes(), 0);
}

#[test]
fn bytes_behind_the_handshake_are_delivered_both_ways() {
    let origin = Origin::start(|talk| {
        if talk.head().is_some() {
            let _ = talk.send(format!("{SWITCHED}ahead"));
            talk.drain();
        }
    });
    let sluice = gateway(origin.node(), json!({}));
    let mut client = sluice.connect("edge");
    client.send(format!("{HANDSHAKE}behind"));
    let head = String::from_utf8_lossy(&client.read_until(b"\r\n\r\n")).to_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: websocket"), "{head}");
    assert_eq!(client.read_bytes(5), b"ahead");
    origin.until("what was sent behind the handshake", |log| log.received[0].ends_with(b"\r\n\r\nbehind"));
}

#[test]
fn one_side_may_end_before_the_other() {
    let origin = Origin::start(|talk| {
        if talk.head().is_some() {
            let _ = talk.send(SWITCHED);
            talk.drain();
            let _ = talk.send("after your end");
        }
    });
    let sluice = gateway(origin.node(), json!({}));
    let mut client = sluice.connect("edge");
    client.send(format!("{HANDSHAKE}last"));
    client.read_until(b"\r\n\r\n");
    client.finish();
    assert_eq!(client.read_to_close(), b"after your end");
    assert!(origin.log().received[0].ends_with(b"last"));
}

#[test]
fn silence_ends_a_session_at_its_limit() {
    let origin = Origin::start(|talk| {
        if talk.head().is_some() {
            let _ = talk.send(SWITCHED);
            talk.drain();
        }
    });
    let sluice = gateway(origin.node(), json!({"upgrade_idle_timeout": "1s", "idle_timeout": "600s"}));
    let mut client = sluice.connect("edge");
    client.send(HANDSHAKE);
    client.read_until(b"\r\n\r\n");
    assert!(client.read_to_close().is_empty());
    origin.until("the end at the origin", |log| log.ended == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_while_the_gateway_drains() {
    let origin = WebSocketEcho::start();
    let mut sluice = gateway(origin.node(), json!({}));
    let mut socket = connect(&sluice).await;
    sluice.process().signal(Signal::TERM);
    let address = sluice.address("edge");
    eventually("no new connections", || Raw::try_connect(address).is_err().then_some(()));
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::text("still here"));
    socket.close(None).await.unwrap();
    while socket.next().await.is_some() {}
    drop(socket);
    assert!(sluice.process().wait(Duration::from_secs(20)).success());
}

/// A WebSocket on one stream of an HTTP/2 connection, as RFC 8441 has it: the
/// `h2` client opens the stream, `tungstenite` speaks over it.
async fn connect_over_http2(
    sluice: &Sluice,
    path: &str,
) -> (http::StatusCode, Option<WebSocketStream<tokio::io::DuplexStream>>) {
    let tcp = TcpStream::connect(sluice.address("edge")).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let offered = async {
        while !sender.is_extended_connect_protocol_enabled() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), offered).await.expect("the server offers it");
    let request = http::Request::builder()
        .method("CONNECT")
        .uri(format!("http://a.test{path}"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat, other")
        .extension(h2::ext::Protocol::from_static("websocket"))
        .body(())
        .unwrap();
    let (answer, mut outgoing) = sender.send_request(request, false).unwrap();
    let answer = answer.await.unwrap();
    let status = answer.status();
    if !status.is_success() {
        return (status, None);
    }
    assert_eq!(answer.headers().get("sec-websocket-protocol").unwrap(), "chat");
    assert!(!answer.headers().contains_key("sec-websocket-accept"));
    let mut incoming = answer.into_body();
    let (near, far) = tokio::io::duplex(64 << 10);
    let (mut reader, mut writer) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(Ok(data)) = incoming.data().await {
            let _ = incoming.flow_control().release_capacity(data.len());
            if writer.write_all(&data).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            if outgoing.send_data(buffer[..count].to_vec().into(), false).is_err() {
                return;
            }
        }
        let _ = outgoing.send_data(bytes::Bytes::new(), true);
    });
    (status, Some(WebSocketStream::from_raw_socket(near, Role::Client, None).await))
}

// The client's connection is a task of its own, which goes on while the log is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_on_an_http_2_stream_reaches_an_http_1_origin() {
    let origin = WebSocketEcho::start();
    let sluice = gateway(origin.node(), json!({}));
    let (status, socket) = connect_over_http2(&sluice, "/ws").await;
    assert_eq!(status, 200);
    let mut socket = socket.expect("a tunnel");
    let large: Vec<u8> = (0..300_000_u32).map(|at| at as u8).collect();
    for message in [Message::text("h\u{e9}llo"), Message::binary(vec![0, 255]), Message::binary(large)] {
        socket.send(message.clone()).await.unwrap();
        let next = tokio::time::timeout(Duration::from_secs(15), socket.next());
        assert_eq!(next.await.expect("a message in time").expect("a message").unwrap(), message);
    }
    socket.send(Message::text("close 4001 bye")).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Close(Some(frame)) = message {
            assert_eq!(u16::from(frame.code), 4001);
        }
    }
    drop(socket);
    let line = sluice.logged("the session", |line| line["upgrade"] == "websocket");
    assert_eq!((line["protocol"].as_str(), line["status"].as_u64()), (Some("HTTP/2.0"), Some(200)));
    assert!(line["bytes_in"].as_u64() > Some(300_000), "{line:#}");
}

#[tokio::test]
async fn what_opens_no_tunnel_is_never_answered_with_success() {
    // The route takes no upgrades; the origin answers as if none was asked for.
    let origin = Origin::answering(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec());
    let sluice = gateway(origin.node(), json!({}));
    assert_eq!(connect_over_http2(&sluice, "/plain").await.0, 400);
    assert_eq!(connect_over_http2(&sluice, "/ws").await.0, 502);
    assert_eq!(connect_over_http2(&sluice, "/nowhere").await.0, 404);
}
