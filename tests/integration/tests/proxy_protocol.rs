//! PROXY protocol: believed from those who may send it, and sent on.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::thread;

use serde_json::{Value, json};
use sluice_harness::{Authority, Curl, Haproxy, HttpEcho, Raw, Sluice, eventually};

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A v2 header: client 203.0.113.9:1111 to 192.0.2.1:443.
fn v2() -> Vec<u8> {
    let addresses = [203, 0, 113, 9, 192, 0, 2, 1, 0x04, 0x57, 0x01, 0xBB];
    [V2, &[0x21, 0x11, 0, 12], &addresses].concat()
}

fn gateway(listener: Value) -> (Sluice, HttpEcho) {
    let origin = HttpEcho::start("origin");
    let sluice = Sluice::builder()
        .listener("edge", listener)
        .put("routes", "all", json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}}))
        .start();
    (sluice, origin)
}

/// The address the origin was told, with `header` before the request.
fn real_ip(sluice: &Sluice, header: &[u8]) -> String {
    let mut raw = sluice.connect("edge");
    raw.send(header).send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let (status, head, body) = raw.read_answer();
    assert_eq!(status, 200, "{head}");
    let seen: sluice_harness::service::http_echo::Seen = serde_json::from_slice(&body).unwrap();
    seen.header("x-real-ip").unwrap_or_default().to_owned()
}

#[test]
fn both_versions_are_believed_from_trusted_addresses() {
    let (sluice, _origin) = gateway(json!({"proxy_protocol": {"from": ["127.0.0.0/8"]}}));
    let v6 =
        [V2, &[0x21, 0x21, 0, 36], &[0x20, 0x01, 0x0d, 0xb8], &[0; 11], &[7], &[0; 16], &[0, 80, 1, 187]];
    let with_tlvs = {
        let mut header = v2();
        header[15] = 12 + 5;
        header.extend([0xEA, 0, 2, b'a', b'b']);
        header
    };
    let local = [V2, &[0x20, 0x00, 0, 0]].concat();
    for (header, expected) in [
        (v2(), "203.0.113.9"),
        (with_tlvs, "203.0.113.9"),
        (v6.concat(), "2001:db8::7"),
        (b"PROXY TCP4 198.51.100.7 192.0.2.1 1111 443\r\n".to_vec(), "198.51.100.7"),
        (b"PROXY TCP6 2001:db8::8 2001:db8::1 1111 443\r\n".to_vec(), "2001:db8::8"),
        (local, "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
    ] {
        assert_eq!(real_ip(&sluice, &header), expected, "{:?}", String::from_utf8_lossy(&header));
    }
    let line = sluice.logged("the client of the header", |line| line["client_ip"] == "203.0.113.9");
    assert_eq!(line["client_port"], 1111, "{line}");
    assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
}

#[test]
fn a_header_is_read_at_every_split() {
    let (sluice, _origin) = gateway(json!({"proxy_protocol": {"from": ["127.0.0.1"]}}));
    for header in [v2(), b"PROXY TCP4 203.0.113.9 192.0.2.1 1111 443\r\n".to_vec()] {
        for cut in 1..header.len() {
            let mut raw = sluice.connect("edge");
            raw.send(&header[..cut]);
            thread::yield_now();
            raw.send(&header[cut..]).send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
            assert_eq!(raw.read_answer().0, 200, "cut at {cut}");
        }
        let mut raw = sluice.connect("edge");
        for byte in &header {
            raw.send([*byte]);
            thread::yield_now();
        }
        raw.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(raw.read_answer().0, 200, "byte by byte");
    }
}

#[test]
fn what_is_no_header_ends_the_connection_and_is_counted() {
    let limits = json!({"from": ["127.0.0.1"], "timeout": "300ms"});
    let (sluice, origin) = gateway(json!({"proxy_protocol": limits}));
    let mut bad_version = v2();
    bad_version[12] = 0x31;
    let mut short = v2();
    short[15] = 4;
    let long = format!("PROXY TCP4 {} 192.0.2.1 1 2\r\n", "1".repeat(200));
    let cases: [(&str, Vec<u8>); 8] = [
        ("no header at all", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec()),
        ("a version that is none", bad_version),
        ("too short for its addresses", short),
        ("no addresses", b"PROXY TCP4 a b 1 2\r\n".to_vec()),
        ("a port that is none", b"PROXY TCP4 203.0.113.9 192.0.2.1 1111 70000\r\n".to_vec()),
        ("too long", long.into_bytes()),
        ("nothing", Vec::new()),
        ("half of one", v2()[..10].to_vec()),
    ];
    for (what, bytes) in cases {
        let before = sluice.metrics().count("sluice_proxy_header_failures_total", &[]);
        let mut raw = sluice.connect("edge");
        raw.send(&bytes);
        assert_eq!(raw.read_to_close(), b"", "{what}");
        eventually(&format!("{what} is counted"), || {
            (sluice.metrics().count("sluice_proxy_header_failures_total", &[]) > before).then_some(())
        });
    }
    assert_eq!(origin.requests(), 0);
    sluice.logged("a refused connection", |line| {
        line["kind"] == "connection" && line["reason"].as_str().is_some_and(|reason| reason.contains("proxy"))
    });
}

#[test]
fn a_header_of_anyone_else_is_no_header() {
    let (sluice, origin) = gateway(json!({"proxy_protocol": {"from": ["10.0.0.0/8"]}}));
    let mut raw = sluice.connect("edge");
    raw.send("PROXY TCP4 203.0.113.9 192.0.2.1 1111 443\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(raw.read_answer().0, 400);
    assert_eq!(origin.requests(), 0);
    assert_eq!(real_ip(&sluice, b""), "127.0.0.1", "without one they are clients of their own");
}

#[test]
fn one_that_is_not_required_may_be_left_out() {
    let rule = json!({"from": ["127.0.0.1"], "required": false});
    let (sluice, _origin) = gateway(json!({"proxy_protocol": rule}));
    assert_eq!(real_ip(&sluice, b""), "127.0.0.1");
    assert_eq!(real_ip(&sluice, &v2()), "203.0.113.9");
}

#[test]
fn haproxy_in_front_passes_its_client_on() {
    let origin = HttpEcho::start("origin");
    let authority = Authority::new("Test root");
    let leaf = authority.leaf(&["shop.example"]);
    let sluice = Sluice::builder()
        .listener("plain", json!({"proxy_protocol": {"from": ["127.0.0.1"]}}))
        .listener("secure", json!({"tls": true, "proxy_protocol": {"from": ["127.0.0.1"]}}))
        .put("ssls", "shop", leaf.ssl(&["shop.example"]))
        .put("routes", "all", json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}}))
        .start();
    let haproxy = Haproxy::start(&format!(
        "listen two\n mode tcp\n bind 127.0.0.1:{{{{port}}}}\n server s {} send-proxy-v2\n\
         listen one\n mode tcp\n bind 127.0.0.1:{{{{port2}}}}\n server s {} send-proxy\n\
         listen tls\n mode tcp\n bind 127.0.0.1:{{{{port3}}}}\n server s {} send-proxy-v2\n",
        sluice.address("plain"),
        sluice.address("plain"),
        sluice.address("secure"),
    ));
    for port in [1, 2] {
        let address = haproxy.port(port);
        let reply = Curl::get(format!("http://{address}/")).arg("--interface").arg("127.0.0.77").run();
        assert_eq!(reply.status, 200, "{}", reply.error);
        assert_eq!(reply.seen().header("x-real-ip"), Some("127.0.0.77"), "port {port}");
    }
    let reply = Curl::get("https://shop.example/")
        .to(haproxy.port(3))
        .ca(authority.path())
        .http2()
        .arg("--interface")
        .arg("127.0.0.78")
        .run();
    assert_eq!((reply.status, reply.version.as_str()), (200, "2"), "{}", reply.error);
    assert_eq!(reply.seen().header("x-real-ip"), Some("127.0.0.78"));
}

/// Accepts one connection, answers `ok`, and gives back what came first.
fn tcp_origin() -> (SocketAddr, thread::JoinHandle<Vec<u8>>) {
    use std::io::Read;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let origin = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        let mut piece = [0; 4096];
        while !received.ends_with(b"hello") {
            match stream.read(&mut piece).unwrap() {
                0 => break,
                count => received.extend_from_slice(&piece[..count]),
            }
        }
        stream.write_all(b"ok").unwrap();
        received
    });
    (address, origin)
}

#[test]
fn a_tcp_upstream_is_told_the_client_in_version_2() {
    let (address, origin) = tcp_origin();
    let upstream = json!({"scheme": "tcp", "nodes": {address.to_string(): 1}, "send_proxy_protocol": "v2"});
    let sluice = Sluice::builder()
        .listener("raw", json!({"protocol": "tcp", "proxy_protocol": {"from": ["127.0.0.1"]}}))
        .put("stream_routes", "raw", json!({"listener": "raw", "upstream": upstream}))
        .start();
    let mut raw: Raw = sluice.connect("raw");
    raw.send(v2()).send("hello");
    assert_eq!(raw.read_bytes(2), b"ok");
    let received = origin.join().unwrap();
    assert_eq!(&received[..12], V2, "{received:?}");
    assert_eq!(received[12..14], [0x21, 0x11]);
    assert_eq!(received[16..20], [203, 0, 113, 9], "the client");
    assert_eq!(received[24..26], [0x04, 0x57], "and its port");
    let length = usize::from(u16::from_be_bytes([received[14], received[15]]));
    assert_eq!(&received[16 + length..], b"hello");
}
