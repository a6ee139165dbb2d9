//! TCP stream routes: bytes, and TLS that is not ended here.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_harness::{Authority, HttpEcho, Raw, Sluice, eventually};
use sluice_services::proxy_header;
use sluice_tests::lines::{Server, closes_for, merge};

fn gateway(listener: Value, route: Value) -> Sluice {
    let mut object = json!({"protocol": "tcp"});
    merge(&mut object, listener);
    Sluice::builder().listener("raw", object).put("stream_routes", "raw", &route).start()
}

fn to(server: &Server) -> Value {
    json!({"upstream": {"scheme": "tcp", "nodes": {server.node(): 1}}})
}

#[test]
fn bytes_pass_both_ways_and_are_counted() {
    let server = Server::byte_echo();
    let sluice = gateway(json!({}), to(&server));
    let mut raw = sluice.connect("raw");
    let data: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    let mut writer = raw.socket().try_clone().expect("a socket can be copied");
    let sent = data.clone();
    let sending = std::thread::spawn(move || {
        writer.write_all(&sent).expect("the relay takes it");
        writer.shutdown(std::net::Shutdown::Write).expect("the socket is open");
    });
    assert!(raw.read_to_close() == data, "what came back is what was sent");
    sending.join().expect("all was sent");
    let line = closes_for(&sluice, "closed", 1);
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&json!(3_000_000), &json!(3_000_000)), "{line:#}");
    assert_eq!((&line["protocol"], &line["route"]), (&json!("tcp"), &json!("raw")), "{line:#}");
}

#[test]
fn an_end_on_one_side_leaves_the_other_open() {
    // Answers only once the client has ended.
    let server = Server::start(|mut connection| {
        connection.drain();
        let _ = connection.stream.write_all(b"the answer");
    });
    let sluice = gateway(json!({}), to(&server));
    let mut raw = sluice.connect("raw");
    raw.send(b"the question");
    raw.finish();
    assert_eq!(raw.read_to_close(), b"the answer");
    assert_eq!(server.received()[0], b"the question");
    closes_for(&sluice, "closed", 1);
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    let server = Server::start(|mut connection| {
        let _ = connection.stream.write_all(b"220 hello\r\n");
        connection.drain();
    });
    let sluice = gateway(json!({}), to(&server));
    let mut raw = sluice.connect("raw");
    assert_eq!(raw.read_until(b"\r\n"), b"220 hello\r\n");
}

#[test]
fn a_reset_goes_on_as_a_reset() {
    let origin = HttpEcho::start("one");
    let sluice = gateway(json!({}), json!({"upstream": {"scheme": "tcp", "nodes": {origin.node(): 1}}}));
    let mut raw = sluice.connect("raw");
    raw.send(b"GET /?delay=20000 HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the origin has it", || (origin.requests() == 1).then_some(()));
    origin.line().reset_connections();
    let mut buffer = [0; 16];
    let error = raw.socket().read(&mut buffer).expect_err("an orderly end would look whole");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    closes_for(&sluice, "upstream_failed", 1);
}

#[test]
fn silence_ends_a_connection_at_the_limit() {
    let server = Server::byte_echo();
    let sluice = gateway(json!({"limits": {"idle_timeout": "700ms"}}), to(&server));
    let mut raw = sluice.connect("raw");
    raw.send(b"x");
    raw.read_bytes(1);
    let started = Instant::now();
    assert!(raw.read_to_close().is_empty());
    assert!(started.elapsed() >= Duration::from_millis(500), "{:?}", started.elapsed());
    closes_for(&sluice, "idle_timeout", 1);
}

#[test]
fn the_server_name_chooses_and_tls_is_not_ended() {
    let authority = Authority::new("ours");
    let origin = |name: &str, host: &str| {
        HttpEcho::builder(name).tls(authority.leaf(&[host]).server_config(&["http/1.1"])).start()
    };
    let (one, other) = (origin("one", "one.test"), origin("other", "x.other.test"));
    let route = |sni: &str, node: String| json!({"listener": "raw", "sni": sni, "upstream": {"scheme": "tcp", "nodes": {node: 1}}});
    let sluice = Sluice::builder()
        .listener("raw", json!({"protocol": "tcp", "tls": "passthrough"}))
        .put("stream_routes", "one", route("one.test", one.node()))
        .put("stream_routes", "other", route("*.other.test", other.node()))
        .start();
    for (host, name) in [("one.test", "one"), ("x.other.test", "other")] {
        // The certificate is the origin's own: verified here, end to end.
        let raw = Raw::connect_tls(sluice.address("raw"), authority.client_config(&["http/1.1"]), host);
        let mut raw = raw.unwrap_or_else(|error| panic!("{host}: {error}"));
        raw.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let (status, _, body) = raw.read_answer();
        let body = String::from_utf8_lossy(&body).into_owned();
        assert!(status == 200 && body.contains(&format!("\"{name}\"")), "{host}: {status} {body}");
    }
    let unknown = Raw::connect_tls(sluice.address("raw"), authority.client_config(&[]), "unknown.test");
    assert!(unknown.is_err());
    closes_for(&sluice, "no_route", 1);
    let line = sluice.logged("a connection by name", |line| line["route"] == "one");
    assert_eq!(line["protocol"], "tls", "{line:#}");
}

#[test]
fn a_hello_in_single_bytes_is_understood() {
    let authority = Authority::new("ours");
    let origin = HttpEcho::builder("one").tls(authority.leaf(&["one.test"]).server_config(&[])).start();
    let sluice = gateway(
        json!({"tls": "passthrough"}),
        json!({"sni": "one.test", "upstream": {"scheme": "tcp", "nodes": {origin.node(): 1}}}),
    );
    let name = rustls::pki_types::ServerName::try_from("one.test").expect("a name");
    let config = authority.client_config(&[]);
    let mut tls = rustls::ClientConnection::new(config, name).expect("a client");
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).expect("memory takes it");
    let mut raw = sluice.connect("raw");
    for byte in &hello {
        raw.send([*byte]);
    }
    let mut socket = raw.socket();
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).expect("the handshake goes through");
    }
}

#[test]
fn port_and_client_address_choose_the_route() {
    let (by_port, by_client, rest) = (Server::byte_echo(), Server::byte_echo(), Server::byte_echo());
    let server = |server: &Server| json!({"scheme": "tcp", "nodes": {server.node(): 1}});
    let mut sluice = Sluice::builder()
        .listener("one", json!({"protocol": "tcp"}))
        .listener(
            "two",
            json!({"protocol": "tcp", "proxy_protocol": {"from": ["127.0.0.1"], "required": false}}),
        )
        .put(
            "stream_routes",
            "client",
            json!({
                "listener": "two", "remote_addr": "192.0.2.0/24", "upstream": server(&by_client),
            }),
        )
        .put("stream_routes", "rest", json!({"listener": "two", "upstream": server(&rest)}))
        .start();
    let port = sluice.address("one").port();
    sluice.apply("stream_routes", "port", json!({"server_port": port, "upstream": server(&by_port)}));
    sluice.process().expect_running();
    let talk = |listener: &str, before: &str| {
        let mut raw = sluice.connect(listener);
        raw.send(format!("{before}x"));
        assert_eq!(raw.read_bytes(1), b"x");
    };
    talk("one", "");
    talk("two", "PROXY TCP4 192.0.2.9 127.0.0.1 4711 80\r\n");
    talk("two", "PROXY TCP4 198.51.100.1 127.0.0.1 4711 80\r\n");
    assert_eq!((by_port.accepted(), by_client.accepted(), rest.accepted()), (1, 1, 1));
    let line = sluice.logged("the client", |line| line["route"] == "client");
    assert_eq!(line["client_ip"], "192.0.2.9", "{line:#}");
}

#[test]
fn the_client_goes_on_in_a_proxy_header() {
    let server = Server::byte_echo();
    let sluice = gateway(
        json!({"proxy_protocol": {"from": ["127.0.0.0/8"]}}),
        json!({"upstream": {"scheme": "tcp", "nodes": {server.node(): 1}, "send_proxy_protocol": "v2"}}),
    );
    let mut raw = sluice.connect("raw");
    raw.send("PROXY TCP4 203.0.113.9 198.51.100.2 4711 443\r\nhello");
    let received = eventually("header and bytes", || {
        server.received().into_iter().next().filter(|bytes| bytes.ends_with(b"hello"))
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be built");
    let mut rest = bytes::BytesMut::new();
    let header = runtime.block_on(proxy_header::read(&mut &received[..], &mut rest));
    let header = header.expect("the header is one").expect("there is a header");
    assert_eq!(header.source, Some("203.0.113.9:4711".parse().expect("an address")));
    assert_eq!(header.destination, Some("198.51.100.2:443".parse().expect("an address")));
    assert_eq!(&rest[..], b"hello");
}

#[test]
fn a_node_that_refuses_is_replaced_and_none_left_is_a_reason() {
    let server = Server::byte_echo();
    let dead = sluice_harness::Port::free().loopback().to_string();
    let sluice = gateway(
        json!({}),
        json!({"upstream": {"scheme": "tcp", "nodes": {dead.clone(): 1, server.node(): 1}}}),
    );
    for _ in 0..3 {
        let mut raw = sluice.connect("raw");
        raw.send(b"x");
        assert_eq!(raw.read_bytes(1), b"x");
    }
    sluice.apply("stream_routes", "raw", json!({"upstream": {"scheme": "tcp", "nodes": {dead: 1}}}));
    // The reset may come before the client has even looked.
    if let Ok(mut raw) = Raw::try_connect(sluice.address("raw")) {
        raw.read_to_close();
    }
    closes_for(&sluice, "no_upstream", 1);
}
