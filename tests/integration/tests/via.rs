//! The way through relays: other Sluices between the gateway and the node.

use serde_json::{Value, json};
use sluice_harness::{ImServer, Raw, Sluice, eventually};
use sluice_services::frame::command;
use sluice_services::im::token;
use sluice_services::im_v1::{LoginReply, LoginRequest};
use sluice_tests::lines::{Server, closes_for, im_route, read_error, read_frame};

const KEY: &str = "a fleet key of at least 32 bytes, no less";

fn relay(id: &str, key: &str) -> Sluice {
    Sluice::builder()
        .boot("node", json!({"id": id, "region": "far"}))
        .boot("fleet_key", json!({"env": "FLEET_KEY"}))
        .environment("FLEET_KEY", key)
        .listener("relay", json!({"protocol": "relay"}))
        .start()
}

/// A gateway whose only line to `node` goes through these relays.
fn gateway(node: &str, relays: &[&Sluice]) -> Sluice {
    let via: Vec<String> = relays.iter().map(|relay| relay.address("relay").to_string()).collect();
    let upstream = json!({
        "scheme": "tlv",
        "lines": [{"name": "far", "via": via, "nodes": {node: 1}}],
        "send_proxy_protocol": "v2",
        "timeout": {"connect": 3, "send": 10, "read": 60},
    });
    Sluice::builder()
        .boot("fleet_key", json!({"env": "FLEET_KEY"}))
        .environment("FLEET_KEY", KEY)
        .listener("im", json!({"protocol": "tlv", "proxy_protocol": {"from": ["127.0.0.0/8"]}}))
        .put("upstreams", "im", &upstream)
        .put("stream_routes", "im", im_route(json!({"replay": [], "safe": []})))
        .start()
}

fn login(raw: &mut Raw, client: &str) {
    let request = LoginRequest { user_id: 1, token: token(1), device: "a".into(), ..LoginRequest::default() };
    let frame = sluice_services::frame::Frame::new(command::LOGIN, 1, &request).between(1, 0);
    raw.send(format!("PROXY TCP4 {client} 198.51.100.2 4711 443\r\n"));
    raw.send(frame.to_bytes());
}

#[test]
fn the_client_is_known_at_the_far_end_of_two_relays() {
    let server = ImServer::start(&["only"]);
    let (near, far) = (relay("near", KEY), relay("far", KEY));
    let sluice = gateway(&server.line("only").node(), &[&near, &far]);
    let mut raw = sluice.connect("im");
    login(&mut raw, "203.0.113.9");
    let answer = read_frame(&mut raw);
    assert_eq!(answer.command, command::LOGIN_REPLY);
    let reply: LoginReply = answer.message().expect("a login's reply");
    assert_eq!((reply.client_ip.as_str(), reply.client_port), ("203.0.113.9", 4711));
    drop(raw);
    for relay in [&near, &far] {
        let line = relay.logged("the relayed connection", |line| line["protocol"] == "relay");
        assert!(line["bytes_in"].as_u64() > Some(20) && line["node"].is_string(), "{line:#}");
    }
    let line = closes_for(&sluice, "client_closed", 1);
    assert_eq!((&line["line"], &line["client_ip"]), (&json!("far"), &json!("203.0.113.9")), "{line:#}");
}

#[test]
fn a_node_that_refuses_is_known_through_the_relay() {
    let dead = sluice_harness::Port::free().loopback().to_string();
    let near = relay("near", KEY);
    let sluice = gateway(&dead, &[&near]);
    let mut raw = sluice.connect("im");
    login(&mut raw, "203.0.113.9");
    assert_eq!(read_error(&mut raw).1, "no_upstream");
    closes_for(&near, "relay_unreachable", 1);
    let status = sluice.line_status("im", "far");
    assert_eq!(status["state"], "unhealthy", "{status:#}");
}

#[test]
fn a_relay_with_another_key_refuses_the_way() {
    let server = ImServer::start(&["only"]);
    let stranger = relay("stranger", "another key, at least thirty-two bytes long");
    let sluice = gateway(&server.line("only").node(), &[&stranger]);
    let mut raw = sluice.connect("im");
    login(&mut raw, "203.0.113.9");
    assert_eq!(read_error(&mut raw).1, "no_upstream");
    closes_for(&stranger, "way_signature", 1);
    assert_eq!(server.line("only").accepted(), 0);
}

#[test]
fn what_brings_no_signed_way_reaches_nothing() {
    let near = relay("near", KEY);
    let inside = Server::byte_echo();
    let port = inside.address().port().to_be_bytes();
    // A PROXY v2 header with addresses and nothing else, then one whose way was
    // made up: the stop is somebody's private port.
    let mut plain = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01\x10\0".to_vec();
    plain.extend_from_slice(&port);
    let stop = format!("{}\n", inside.node());
    let mut forged = plain.clone();
    let value = [&[0; 40][..], stop.as_bytes()].concat();
    forged.push(0xE6);
    forged.extend_from_slice(&(value.len() as u16).to_be_bytes());
    forged.extend_from_slice(&value);
    let total = (12 + 3 + value.len() as u16).to_be_bytes();
    forged[14..16].copy_from_slice(&total);
    let table: [(&[u8], &str); 3] = [
        (&plain, "way_missing"),
        (&forged, "way_signature"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "way_malformed"),
    ];
    for (bytes, reason) in table {
        let mut raw = near.connect("relay");
        raw.send(bytes);
        raw.send(b"payload");
        let answer = raw.read_to_close();
        assert!(answer.is_empty() || answer.starts_with(b"SLV1\x01"), "{reason}: {answer:?}");
        closes_for(&near, reason, 1);
    }
    assert_eq!(inside.accepted(), 0);
}

#[test]
fn a_way_overheard_does_not_outlive_its_use_by_others() {
    // What the gateway sent to its relay is recorded, and its client changed.
    let recorder = Server::start(|mut connection| connection.drain());
    let near = relay("near", KEY);
    let upstream = |via: String| {
        json!({
            "scheme": "tcp", "lines": [{"name": "far", "via": [via], "nodes": {"127.0.0.1:9": 1}}],
            "timeout": {"connect": 1, "send": 10, "read": 60},
        })
    };
    let sluice = Sluice::builder()
        .boot("fleet_key", json!({"env": "FLEET_KEY"}))
        .environment("FLEET_KEY", KEY)
        .listener("raw", json!({"protocol": "tcp"}))
        .put("stream_routes", "raw", json!({"upstream": upstream(recorder.node())}))
        .start();
    let mut raw = sluice.connect("raw");
    raw.send(b"x");
    let mut header: Vec<u8> =
        eventually("a way is sent", || recorder.received().into_iter().find(|bytes| bytes.len() > 60));
    let client: Value = json!(header[16]);
    assert_eq!(client, 127, "the client's address stands at its place");
    header[19] ^= 1;
    let mut thief = near.connect("relay");
    thief.send(&header);
    let answer = thief.read_to_close();
    assert!(answer.is_empty() || answer.starts_with(b"SLV1\x01"), "{answer:?}");
    closes_for(&near, "way_signature", 1);
}
