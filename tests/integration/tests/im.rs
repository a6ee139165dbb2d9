//! Clients that speak no frames, in front of the IM server that knows nothing else.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sluice_harness::{ImServer, Raw, Sluice, eventually};
use sluice_services::frame::command;
use sluice_services::im_client::{ImClient, ImError};
use sluice_tests::lines::{frame, frames_of, line_is, two_lines, wait_active};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn route(extra: Value) -> Value {
    let mut route = json!({
        "uri": "/ws", "enable_websocket": true, "upstream_id": "im",
        "protocol": {
            "name": "tlv",
            "conf": {
                "replay": ["0x0101"], "login": ["0x0101"], "safe": ["0x0320"], "heartbeat": "0x0001",
            },
            "websocket": {"message_max": "70KiB"},
        },
    });
    sluice_tests::lines::merge(&mut route, extra);
    route
}

fn gateway(server: &ImServer, extra: Value) -> Sluice {
    let upstream = two_lines("tlv", &server.line("leased").node(), &server.line("public").node(), "tlv");
    let sluice = Sluice::builder()
        .listener("edge", json!({}))
        .listener("im", json!({"protocol": "tlv"}))
        .put("upstreams", "im", upstream)
        .put("routes", "im", route(extra))
        .put("stream_routes", "im", sluice_tests::lines::im_route(json!({})))
        .start();
    wait_active(&sluice, "im", "leased");
    sluice
}

/// A client of the IM server over WebSocket: a binary message a frame.
async fn browser(address: SocketAddr, user: u32) -> ImClient {
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut request = format!("ws://{address}/ws").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "sluice.im20".parse().unwrap());
    request.headers_mut().insert("origin", format!("http://{address}").parse().unwrap());
    let (socket, answer) = client_async(request, tcp).await.unwrap();
    assert_eq!(answer.headers().get("sec-websocket-protocol").unwrap(), "sluice.im20");
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (mut write, mut read) = socket.split();
    let (mut from, mut to) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(Ok(message)) = read.next().await {
            if let Message::Binary(bytes) = message {
                assert_eq!(frames_of(&bytes).len(), 1, "a message is one frame");
                if to.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        }
        let _ = to.shutdown().await;
    });
    tokio::spawn(async move {
        let mut waiting = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut piece).await {
            waiting.extend_from_slice(&piece[..count]);
            while let Some(length) = waiting.get(17..21) {
                let body = u32::from_be_bytes(length.try_into().unwrap()) as usize;
                if waiting.len() < body + 22 {
                    break;
                }
                let one: Vec<u8> = waiting.drain(..body + 22).collect();
                if write.send(Message::binary(one)).await.is_err() {
                    return;
                }
            }
        }
        let _ = write.close().await;
    });
    ImClient::over(near, user)
}

async fn push(client: &ImClient) -> String {
    let push = tokio::time::timeout(Duration::from_secs(15), client.push());
    push.await.expect("a push in time").expect("a push").text
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_and_phones_talk_to_each_other() {
    let server = ImServer::start(&["leased", "public"]);
    let sluice = gateway(&server, json!({}));
    let web = browser(sluice.address("edge"), 1).await;
    let reply = web.login("web").await.unwrap();
    assert_eq!(reply.client_ip, "127.0.0.1");
    let (phone, _) = ImClient::login_at(sluice.address("im"), 2, "phone").await.unwrap();
    web.send(2, "from the browser").await.unwrap();
    assert_eq!(push(&phone).await, "from the browser");
    phone.send(1, "from the phone").await.unwrap();
    assert_eq!(push(&web).await, "from the phone");
    web.heartbeat().await.unwrap();
    drop(web);
    let line = sluice.logged("the session", |line| line["protocol"] == "websocket");
    assert_eq!(
        (&line["route"], &line["user"], &line["reason"]),
        (&json!("im"), &json!("1"), &json!("client_closed"))
    );
    sluice.logged("the handshake", |line| line["status"] == 101);
}

/// What came of a conversation.
struct Talk {
    acknowledged: Vec<String>,
    received: Vec<String>,
}

async fn talk(address: SocketAddr, stop: Arc<AtomicBool>) -> Result<Talk, ImError> {
    let receiver = browser(address, 2).await;
    receiver.login("web").await?;
    let sender = browser(address, 1).await;
    sender.login("web").await?;
    let mut talk = Talk { acknowledged: Vec::new(), received: Vec::new() };
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let text = number.to_string();
        match sender.send(2, &text).await {
            Ok(_) => talk.acknowledged.push(text),
            Err(ImError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The server pushes again what a lost connection had not acknowledged, so
    // doubles are told by their id, as any client does.
    let mut ids = HashSet::new();
    let wanted: HashSet<String> = talk.acknowledged.iter().cloned().collect();
    let mut missing = wanted.len();
    while missing > 0 {
        let message = tokio::time::timeout(Duration::from_secs(15), receiver.push()).await;
        let Some(message) = message.ok().flatten() else { break };
        if ids.insert(message.message_id) {
            missing -= usize::from(wanted.contains(&message.text));
            talk.received.push(message.text);
        }
    }
    Ok(talk)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_over_websocket_outlives_its_line() {
    let server = ImServer::start(&["leased", "public"]);
    let sluice = gateway(&server, json!({}));
    let stop = Arc::new(AtomicBool::new(false));
    let talking = tokio::spawn(talk(sluice.address("edge"), Arc::clone(&stop)));
    tokio::task::block_in_place(|| {
        eventually("both sessions on the leased line", || {
            (server.line("leased").open_connections() >= 2).then_some(())
        });
        server.line("leased").cut();
        line_is(&sluice, "im", "leased", "unhealthy");
        eventually("both sessions on the public line", || {
            (server.line("public").open_connections() >= 2).then_some(())
        });
    });
    let before = server.stats().messages;
    tokio::task::block_in_place(|| {
        eventually("the talk goes on", || (server.stats().messages > before + 10).then_some(()));
    });
    stop.store(true, Ordering::Relaxed);
    let talk = talking.await.unwrap().unwrap();
    assert!(talk.acknowledged.len() > 5, "{:?}", talk.acknowledged);
    let lost: Vec<_> = talk.acknowledged.iter().filter(|text| !talk.received.contains(text)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let numbers: Vec<u32> = talk.received.iter().map(|text| text.parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "doubled or out of order: {numbers:?}");
}

fn handshake(extra: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{extra}\r\n"
    )
}

fn greeted(sluice: &Sluice) -> Raw {
    let mut raw = sluice.connect("edge");
    raw.send(handshake("Sec-WebSocket-Protocol: sluice.im20\r\n"));
    let head = String::from_utf8_lossy(&raw.read_until(b"\r\n\r\n")).to_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    raw
}

/// A client's frame, masked with zeros.
fn part(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        length @ 0..126 => out.push(0x80 | length as u8),
        length => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out
}

/// The server's next frame: its first byte and its payload.
fn answer(raw: &mut Raw) -> (u8, Vec<u8>) {
    let head = raw.read_bytes(2);
    let length = match head[1] {
        126 => usize::from(u16::from_be_bytes(raw.read_bytes(2).try_into().unwrap())),
        length => usize::from(length),
    };
    (head[0], raw.read_bytes(length))
}

fn closes_with(raw: &mut Raw) -> u16 {
    loop {
        let (first, payload) = answer(raw);
        if first == 0x88 {
            return payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
        }
    }
}

#[test]
fn what_breaks_the_protocol_is_closed_with_its_code() {
    let server = ImServer::start(&["leased", "public"]);
    let sluice = gateway(&server, json!({}));
    let login = frame(command::LOGIN, 1, 1, b"");
    let table: Vec<(&str, Vec<u8>, u16)> = vec![
        ("unmasked", vec![0x82, 0x01, 0x00], 1002),
        ("reserved bit", part(0xC2, b"x"), 1002),
        ("reserved data opcode", part(0x83, b"x"), 1002),
        ("reserved control opcode", part(0x8B, b""), 1002),
        ("fragmented ping", part(0x09, b""), 1002),
        ("ping of 126 bytes", part(0x89, &[0; 126]), 1002),
        ("continuation of nothing", part(0x80, b"x"), 1002),
        ("a message inside another", [part(0x02, b"x"), part(0x82, b"y")].concat(), 1002),
        ("close of one byte", part(0x88, b"x"), 1002),
        ("close with a code that is none", part(0x88, &999_u16.to_be_bytes()), 1002),
        ("text that is not UTF-8", part(0x81, b"\xff\xfe"), 1007),
        ("text where frames are spoken", part(0x81, b"{}"), 1003),
        ("half a frame", part(0x82, &login[..10]), 1007),
        ("two frames", part(0x82, &[login.clone(), login.clone()].concat()), 1007),
        ("a login that is none", part(0x82, &frame(command::SEND, 1, 1, b"")), 1008),
        ("a close", part(0x88, &1000_u16.to_be_bytes()), 1000),
    ];
    for (name, bytes, code) in table {
        let mut raw = greeted(&sluice);
        raw.send(bytes);
        assert_eq!(closes_with(&mut raw), code, "{name}");
    }
    let mut raw = greeted(&sluice);
    let piece = part(0x02, &[0; 40_000]);
    let more = part(0x00, &[0; 40_000]);
    raw.send([piece, more].concat());
    assert_eq!(closes_with(&mut raw), 1009, "fragments are counted together");
}

#[test]
fn a_message_in_fragments_with_pings_between_is_one_frame() {
    let server = ImServer::start(&["leased", "public"]);
    let sluice = gateway(&server, json!({}));
    let mut raw = greeted(&sluice);
    let beat = frame(command::HEARTBEAT, 7, 0, b"");
    raw.send(part(0x02, &beat[..5]));
    raw.send(part(0x89, b"there?"));
    assert_eq!(answer(&mut raw), (0x8A, b"there?".to_vec()));
    raw.send(part(0x00, b""));
    raw.send(part(0x80, &beat[5..]));
    let login = b"\x08\x01\x12\x06demo-1\x1a\x03web";
    raw.send(part(0x82, &frame(command::LOGIN, 8, 1, login)));
    let mut commands = Vec::new();
    while commands.len() < 2 {
        let (first, payload) = answer(&mut raw);
        assert_eq!(first, 0x82);
        commands.extend(frames_of(&payload).iter().map(|frame| (frame.command, frame.sequence)));
    }
    assert_eq!(commands, [(command::HEARTBEAT_REPLY, 7), (command::LOGIN_REPLY, 8)]);
}

#[test]
fn a_handshake_that_is_not_welcome_says_why() {
    let server = ImServer::start(&["leased", "public"]);
    let sluice = gateway(&server, json!({}));
    let table = [
        (handshake("Origin: https://evil.example\r\n"), 403, "this origin may not connect"),
        (handshake("Sec-WebSocket-Protocol: chat\r\n"), 400, "websocket_subprotocol"),
        (handshake("").replace("Version: 13", "Version: 12"), 426, "websocket_version"),
        (handshake("").replace(KEY, "short"), 400, "websocket_bad_key"),
        ("GET /ws HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), 426, "WebSocket"),
    ];
    for (request, status, message) in table {
        let mut raw = sluice.connect("edge");
        raw.send(&request);
        let (found, head, body) = raw.read_answer();
        let body = String::from_utf8_lossy(&body).into_owned();
        assert!(found == status && body.contains(message), "{request}: {found} {body}");
        if status == 426 {
            assert!(head.to_lowercase().contains("sec-websocket-version: 13"), "{head}");
        }
    }
}

#[test]
fn limits_on_frames_hold_for_websocket_clients() {
    let server = ImServer::start(&["leased", "public"]);
    let limit =
        json!({"rate": 1, "burst": 1, "nodelay": true, "key": "frame_from", "rejected": "error_frame"});
    let sluice = gateway(&server, json!({"plugins": {"limit-req": limit}}));
    let mut raw = greeted(&sluice);
    let login = b"\x08\x01\x12\x06demo-1\x1a\x03web";
    raw.send(part(0x82, &frame(command::LOGIN, 1, 1, login)));
    for sequence in 2..8 {
        raw.send(part(0x82, &frame(command::HISTORY, sequence, 1, b"\x08\x01")));
    }
    let mut refused = 0;
    while refused < 5 {
        let (_, payload) = answer(&mut raw);
        for frame in frames_of(&payload) {
            refused += usize::from(frame.command == command::ERROR);
        }
    }
    let line = sluice.logged("a blocked frame", |line| line["kind"] == "blocked");
    assert_eq!(line["route"], "im");
}

#[test]
fn a_route_that_can_make_no_frames_is_refused_with_its_reason() {
    let server = ImServer::start(&["leased", "public"]);
    let sluice = gateway(&server, json!({}));
    sluice.put("routes", "plain", json!({"uri": "/plain", "upstream_id": "im"}));
    let told = eventually("the refusal", || sluice.quarantined("routes", "plain"));
    assert!(told.contains("the upstream speaks frames"), "{told}");
    sluice.put("upstreams", "web", json!({"nodes": {"127.0.0.1:1": 1}}));
    sluice.put("routes", "odd", json!({"uri": "/odd", "upstream_id": "web", "protocol": {"name": "tlv"}}));
    let told = eventually("the refusal", || sluice.quarantined("routes", "odd"));
    assert!(told.contains("needs an upstream of scheme tlv"), "{told}");
}
