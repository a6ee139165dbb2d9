//! HTTP/1.1 through the gateway: exchanges as they should be, and everything
//! that goes wrong on either side.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_harness::{Curl, HttpEcho, Nginx, Php, Raw, Sluice, eventually};
use sluice_tests::origin::Origin;

/// A gateway whose only route leads to those nodes.
fn gateway(nodes: &[String], listener: Value, upstream: Value) -> Sluice {
    let mut upstream = upstream;
    upstream["nodes"] =
        nodes.iter().map(|node| (node.clone(), json!(1))).collect::<serde_json::Map<_, _>>().into();
    Sluice::builder()
        .listener("edge", listener)
        .put("routes", "all", json!({"uri": "/*", "upstream": upstream}))
        .start()
}

fn plain(origin: &HttpEcho) -> Sluice {
    gateway(&[origin.node()], json!({}), json!({}))
}

fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[test]
fn a_connection_carries_many_requests_and_pipelined_ones_are_answered_in_order() {
    let origin = HttpEcho::start("origin");
    let sluice = plain(&origin);
    let mut client = sluice.connect("edge");
    for number in 0..20 {
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        let (status, _, body) = client.read_answer();
        let seen: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, &seen["target"]), (200, &json!(format!("/{number}"))));
    }
    let pipelined: String = (0..50).map(|n| format!("GET /p{n} HTTP/1.1\r\nHost: a.test\r\n\r\n")).collect();
    client.send(pipelined);
    for number in 0..50 {
        let seen: Value = serde_json::from_slice(&client.read_answer().2).unwrap();
        assert_eq!(seen["target"], json!(format!("/p{number}")));
    }
    assert!(origin.line().accepted() <= 2, "upstream connections are kept");
    let old = "GET /old HTTP/1.0\r\nHost: a.test\r\n\r\n";
    client.send(old);
    assert_eq!(client.read_answer().0, 200);
    assert!(client.read_to_close().is_empty());
}

#[test]
fn chunks_and_trailers_pass_both_ways() {
    let origin = HttpEcho::start("origin");
    let sluice = plain(&origin);
    let mut client = sluice.connect("edge");
    client
        .send("POST /?echo=1&trailer=x-sum:7 HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nConnection: TE\r\n");
    client.send("Transfer-Encoding: chunked\r\nTrailer: X-Client\r\n\r\n5\r\nhello\r\n");
    let head = String::from_utf8(client.read_until(b"\r\n\r\n")).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 200") && head.contains("transfer-encoding: chunked"), "{head}");
    // What is sent comes back while the request is still open.
    assert_eq!(client.read_until(b"hello\r\n"), b"5\r\nhello\r\n");
    client.send("6\r\n world\r\n0\r\nX-Client: 1\r\n\r\n");
    let rest = String::from_utf8(client.read_until(b"\r\n\r\n")).unwrap();
    assert_eq!(rest, "6\r\n world\r\n0\r\nx-sum: 7\r\n\r\n");
    let seen = eventually("the request at the origin", || origin.seen().pop());
    assert_eq!(seen.body, "hello world");
    assert_eq!(seen.trailers, [("X-Client".to_owned(), "1".to_owned())]);
}

#[test]
fn answers_without_a_body_leave_the_connection_in_step() {
    let origin = HttpEcho::start("origin");
    let sluice = plain(&origin);
    let mut client = sluice.connect("edge");
    client.send("HEAD /?size=1000 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let head = String::from_utf8(client.read_until(b"\r\n\r\n")).unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200") && head.to_lowercase().contains("content-length: 1000"),
        "{head}"
    );
    for status in [204, 304] {
        client.send(format!("GET /?status={status} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        let head = String::from_utf8(client.read_until(b"\r\n\r\n")).unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
    }
    client
        .send("HEAD /none HTTP/1.1\r\nHost: a.test\r\n\r\nGET /last?size=3 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    client.read_until(b"\r\n\r\n");
    let (status, _, body) = client.read_answer();
    assert_eq!((status, body.len()), (200, 3));
}

#[test]
fn interim_answers_pass_and_expectations_are_met() {
    let origin = HttpEcho::start("origin");
    let sluice = plain(&origin);
    let mut client = sluice.connect("edge");
    client.send("GET /?interim=103&interim=102 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    for status in ["103", "102", "200"] {
        let head = String::from_utf8(client.read_until(b"\r\n\r\n")).unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        if status == "200" {
            assert!(head.to_lowercase().contains("content-length"), "{head}");
        }
    }
    let mut client = sluice.connect("edge");
    client.send("POST /expect HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    assert_eq!(client.read_until(b"\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body");
    let (status, _, body) = client.read_answer();
    let seen: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &seen["body"]), (200, &json!("body")));

    // Refused before the body was asked for: no 100.
    let bare = Sluice::builder().listener("edge", json!({})).start();
    let mut client = bare.connect("edge");
    client.send("POST /expect HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    assert_eq!(client.read_answer().0, 404);
    client.read_to_close();
}

#[test]
fn large_bodies_pass_whole_both_ways() {
    let origin = HttpEcho::start("origin");
    let sluice = plain(&origin);
    let body: Vec<u8> = (0..20_000_000_u32).map(|at| (at % 251) as u8).collect();
    let before = sluice.observe().resident_bytes();
    let reply = Curl::post(format!("{}/?echo=1", sluice.url("edge")), body.clone()).run();
    assert_eq!((reply.exit, reply.status), (0, 200), "{}", reply.error);
    assert!(reply.body == body, "{} bytes came back, or others", reply.body.len());
    let reply = Curl::post(format!("{}/?size=20000000", sluice.url("edge")), body)
        .header("Transfer-Encoding: chunked")
        .run();
    assert_eq!((reply.exit, reply.status, reply.body.len()), (0, 200, 20_000_000), "{}", reply.error);
    let grown = sluice.observe().resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes for bodies that pass through");
}

#[test]
fn an_early_answer_reaches_a_client_that_still_sends() {
    let early = Origin::start(|talk| {
        if talk.head().is_some() {
            let _ =
                talk.send("HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nsorry");
            talk.finish();
            talk.drain();
        }
    });
    let sluice = gateway(&[early.node()], json!({}), json!({}));
    let reply = Curl::post(format!("{}/", sluice.url("edge")), vec![b'x'; 5_000_000]).header("Expect:").run();
    assert_eq!((reply.status, reply.text().as_str()), (413, "sorry"), "{}", reply.error);
    let mut client = sluice.connect("edge");
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000\r\n\r\nstart");
    assert_eq!(client.read_answer().0, 413);
    assert!(client.read_to_close().is_empty(), "no further request on a connection with half a body");
}

#[test]
fn a_client_that_leaves_cancels_what_it_asked_for() {
    let origin = Origin::start(|talk| {
        if talk.head().is_some_and(|head| head.starts_with("GET /body")) {
            let _ = talk.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nstart");
        }
        talk.drain();
    });
    let sluice = gateway(&[origin.node()], json!({}), json!({}));
    for (count, path) in [(1, "/head"), (2, "/body")] {
        let mut client = sluice.connect("edge");
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        origin.until("the request", |log| {
            log.received.last().is_some_and(|bytes| bytes.ends_with(b"\r\n\r\n"))
                && log.received.len() == count
        });
        drop(client);
        origin.until("the end of the upstream connection", |log| log.ended == count);
    }
    let mut client = sluice.connect("edge");
    client.send("POST /upload HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100\r\n\r\nstart");
    origin.until("the upload", |log| log.received.last().is_some_and(|bytes| bytes.ends_with(b"start")));
    drop(client);
    origin.until("the end of the upload", |log| log.ended == 3);
    sluice.logged("status 499", |line| line["status"] == 499);
}

/// Two nodes that do the same; how often a request reached one of them, and
/// what the client got.
fn tried(method: &str, body: &str, fault: fn(&mut sluice_tests::origin::Conversation)) -> (u16, usize) {
    let nodes = [Origin::start(fault), Origin::start(fault)];
    let names: Vec<String> = nodes.iter().map(Origin::node).collect();
    let sluice = gateway(&names, json!({}), json!({}));
    let mut client = sluice.connect("edge");
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    client.send(format!("{method} / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n{length}\r\n{body}"));
    let answer = client.read_to_close();
    let status = String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|word| word.parse().ok());
    let arrived =
        nodes.iter().map(|node| node.log().received.iter().filter(|bytes| !bytes.is_empty()).count()).sum();
    (status.unwrap_or(0), arrived)
}

#[test]
fn only_what_is_safe_is_sent_again() {
    // The head was read: it may have had its effect.
    assert_eq!(tried("POST", "body", |talk| drop(talk.head())), (502, 1));
    assert_eq!(tried("POST", "", |talk| drop(talk.head())), (502, 1));
    assert_eq!(tried("PATCH", "", |talk| drop(talk.head())), (502, 1));
    assert_eq!(
        tried("PUT", "body", |talk| {
            talk.head();
            talk.body(4);
        }),
        (502, 1)
    );
    // Idempotent, and nothing of an answer came: every node is tried once.
    assert_eq!(tried("GET", "", |talk| drop(talk.head())), (502, 2));
    // A byte of an answer came.
    assert_eq!(
        tried("GET", "", |talk| {
            talk.head();
            let _ = talk.send("H");
        }),
        (502, 1)
    );
    // An answer that is no HTTP is not asked for again.
    assert_eq!(
        tried("GET", "", |talk| {
            talk.head();
            let _ = talk.send("garbage\r\n\r\n");
        }),
        (502, 1)
    );
}

#[test]
fn a_refused_connection_is_no_reason_to_fail() {
    let good = HttpEcho::start("good");
    let refused = sluice_harness::Port::free();
    let sluice = gateway(&[refused.loopback().to_string(), good.node()], json!({}), json!({}));
    for _ in 0..6 {
        let reply = Curl::post(format!("{}/", sluice.url("edge")), "body").run();
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert_eq!(good.requests(), 6);
}

#[test]
fn a_kept_connection_that_its_origin_closed_costs_no_request() {
    let origin = Origin::start(|talk| {
        // One request a connection, without saying so.
        if talk.request().is_some() {
            let _ = talk.send(ok("ok"));
        }
    });
    let sluice = gateway(&[origin.node()], json!({}), json!({}));
    let mut client = sluice.connect("edge");
    for number in 0..20 {
        // What is not idempotent may not be sent again if the end of the
        // connection crosses it, so only GET is promised an answer.
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(client.read_answer().0, 200, "request {number}");
        origin.until("the request", |log| log.requests.len() == number + 1);
    }
    assert_eq!(origin.log().requests.len(), 20);
}

/// A port that takes no connection: its queue is full.
fn black_hole() -> (socket2::Socket, Vec<TcpStream>, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queued.push(stream);
    }
    (socket, queued, address)
}

#[test]
fn upstream_waits_end_at_their_limits() {
    let timeout = json!({"connect": 0.5, "send": 0.5, "read": 0.5});
    let limited = |node: String| gateway(&[node], json!({}), json!({"timeout": timeout, "retries": 0}));
    let (_socket, _queued, address) = black_hole();
    let sluice = limited(address.to_string());
    let reply = Curl::get(format!("{}/", sluice.url("edge"))).run();
    assert_eq!(reply.status, 504, "connect: {}", reply.text());

    let echo = HttpEcho::start("echo");
    let sluice = limited(echo.node());
    let reply = Curl::get(format!("{}/?fault=silence", sluice.url("edge"))).run();
    assert_eq!(reply.status, 504, "read: {}", reply.text());
    let reply = Curl::get(format!("{}/?fault=stall-body&size=1000", sluice.url("edge"))).run();
    assert_ne!(reply.exit, 0, "read of a body that stalls");
    // What moves, however slowly, is not cut.
    let reply = Curl::get(format!("{}/?size=10&chunked=1&body_delay=150", sluice.url("edge"))).run();
    assert_eq!((reply.exit, reply.body.len()), (0, 10));

    let deaf = Origin::start(|talk| {
        talk.head();
        thread::park_timeout(Duration::from_secs(20));
    });
    let sluice = limited(deaf.node());
    let reply = Curl::post(format!("{}/", sluice.url("edge")), vec![0; 20_000_000]).header("Expect:").run();
    assert_eq!(reply.status, 504, "send: {}", reply.error);

    let whole = json!({"connect": 5, "send": 5, "read": 5, "total": "1s"});
    let sluice = gateway(&[echo.node()], json!({}), json!({"timeout": whole}));
    let reply = Curl::get(format!("{}/?delay=15000", sluice.url("edge"))).run();
    assert_eq!(reply.status, 504, "whole: {}", reply.text());
    let began = Instant::now();
    let reply = Curl::get(format!("{}/?size=1000&chunked=1&body_delay=50", sluice.url("edge"))).run();
    assert!(reply.exit != 0 && began.elapsed() < Duration::from_secs(20), "the whole with a body under way");
}

#[test]
fn a_broken_answer_is_never_a_short_success() {
    let origin = HttpEcho::start("origin");
    let mut sluice =
        gateway(&[origin.node()], json!({}), json!({"timeout": {"connect": 2, "send": 2, "read": 1}}));
    let before = sluice.observe().resident_bytes();
    for fault in [
        "reset",
        "close",
        "half-head",
        "reset-body",
        "short-body",
        "stall-body",
        "bad-chunk",
        "unfinished-chunks",
        "garbage",
        "two-lengths",
        "length-and-chunks",
        "nul",
        "big-head",
        "silence",
    ] {
        for method in ["GET", "POST"] {
            let url = format!("{}/?fault={fault}&size=10000", sluice.url("edge"));
            let reply = Curl::get(url).method(method).run();
            let is_told = matches!(reply.status, 502 | 504) && reply.exit == 0;
            let is_cut = reply.exit != 0;
            assert!(is_told || is_cut, "{fault}: {} with {} bytes", reply.status, reply.body.len());
        }
    }
    for cut in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
        "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
        "HTTP/1.1 200 OK\r\nX : 1\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\n folded\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 099 Low\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 20 Short\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ] {
        let origin = Origin::once(cut);
        let sluice =
            gateway(&[origin.node()], json!({}), json!({"timeout": {"connect": 2, "send": 2, "read": 2}}));
        let reply = Curl::get(format!("{}/", sluice.url("edge"))).run();
        let is_told = matches!(reply.status, 502 | 504) && reply.exit == 0;
        assert!(is_told || reply.exit != 0, "{cut:?}: {} {:?}", reply.status, reply.text());
    }
    // Bytes behind an answer are nobody's answer.
    let mut client = sluice.connect("edge");
    for _ in 0..5 {
        client.send("GET /?fault=surplus&size=10 HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let (status, _, body) = client.read_answer();
        assert_eq!((status, body.len()), (200, 10));
    }
    client.send("GET /after?size=7 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client.read_answer().2.len(), 7);
    sluice.process().expect_running();
    let grown = sluice.observe().resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes kept");
}

#[test]
fn heads_over_their_limits_are_refused_without_memory() {
    let origin = HttpEcho::start("origin");
    let sluice = plain(&origin);
    Curl::get(sluice.url("edge")).run();
    let before = sluice.observe().resident_bytes();
    let requests = [
        (431, format!("GET / HTTP/1.1\r\nHost: a.test\r\nX: {}\r\n\r\n", "v".repeat(1 << 20))),
        (431, format!("GET / HTTP/1.1\r\nHost: a.test\r\n{}\r\n", "X: y\r\n".repeat(10_000))),
        (431, format!("GET / HTTP/1.1\r\nHost: a.test\r\n{}\r\n", "X: y\r\n".repeat(200))),
        (431, format!("GET / HTTP/1.1\r\nHost: a.test\r\n{}: y\r\n\r\n", "n".repeat(1 << 20))),
        (414, format!("GET /{} HTTP/1.1\r\nHost: a.test\r\n\r\n", "u".repeat(64 << 10))),
        (414, format!("GET /?{} HTTP/1.1\r\nHost: a.test\r\n\r\n", "u".repeat(20 << 10))),
        (414, format!("GET /{}", "u".repeat(2 << 20))),
    ];
    thread::scope(|scope| {
        for (expected, request) in requests.iter().flat_map(|one| std::iter::repeat_n(one, 8)) {
            let mut client = sluice.connect("edge");
            scope.spawn(move || {
                // The rest is not read by the gateway.
                let _ = client.try_send(request);
                let answer = client.read_to_close();
                let text = String::from_utf8_lossy(&answer);
                assert!(text.starts_with(&format!("HTTP/1.1 {expected} ")), "{expected}: {text:?}");
            });
        }
    });
    let grown = sluice.observe().resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes for heads that were refused");
    assert_eq!(origin.seen().len(), 1);
}

/// Sends pieces with pauses until the gateway ends the connection; how long that took.
fn drip(mut client: Raw, first: &str, piece: &'static str, pause: Duration) -> (String, Duration) {
    let began = Instant::now();
    client.send(first);
    let mut writer = client.socket().try_clone().unwrap();
    let writing = thread::spawn(move || {
        while !piece.is_empty()
            && began.elapsed() < Duration::from_secs(20)
            && writer.write_all(piece.as_bytes()).is_ok()
        {
            thread::park_timeout(pause);
        }
    });
    let answer = String::from_utf8_lossy(&client.read_to_close()).into_owned();
    let took = began.elapsed();
    drop(client);
    writing.join().unwrap();
    (answer, took)
}

#[test]
fn slow_clients_are_ended_at_the_stated_limits() {
    let origin = HttpEcho::start("origin");
    let limits = json!({
        "header_timeout": "1s", "body_timeout": "1s", "send_timeout": "1s", "idle_timeout": "1s",
        "min_rate": 1000, "min_rate_window": "1s",
    });
    let sluice = gateway(&[origin.node()], json!({"limits": limits}), json!({}));
    let pause = Duration::from_millis(100);
    let post = |framing: &str| format!("POST / HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n\r\n");
    let (length, chunked) = (post("Content-Length: 100000"), post("Transfer-Encoding: chunked"));
    let cases: Vec<(&str, String, &'static str, &str)> = vec![
        ("a silent connection", String::new(), "", ""),
        ("half a head", "GET / HTTP/1.1\r\nHos".into(), "", "408"),
        ("a head that drips", "GET / HTTP/1.1\r\nHost: a.test\r\nX: ".into(), "a", "408"),
        ("fields without end", "GET / HTTP/1.1\r\nHost: a.test\r\n".into(), "X: y\r\n", "408"),
        ("a request line that drips", "G".into(), "E", "408"),
        ("an empty line", "\r\n".into(), "", ""),
        ("no body", length.clone(), "", "408"),
        ("a body that drips", length, "b", "408"),
        ("chunks that drip", chunked.clone(), "1\r\nx\r\n", "408"),
        ("chunk extensions that drip", format!("{chunked}5;"), "e", "408"),
        ("trailers that drip", format!("{chunked}0\r\n"), "X: y\r\n", "408"),
        ("half a chunk", format!("{chunked}ff\r\nhalf"), "", "408"),
        ("after a request", "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".into(), "", "200"),
    ];
    thread::scope(|scope| {
        for (name, first, piece, status) in &cases {
            let client = sluice.connect("edge");
            scope.spawn(move || {
                let (answer, took) = drip(client, first, piece, pause);
                assert!(took < Duration::from_secs(10), "{name}: ended after {took:?}");
                let is_right = answer.is_empty() && *name != "after a request"
                    || answer.starts_with(&format!("HTTP/1.1 {status}"));
                assert!(is_right, "{name}: {answer:?}");
                assert!(status.is_empty() || !answer.is_empty(), "{name}: closed without {status}");
            });
        }
        scope.spawn(|| {
            // One that never reads.
            let mut client = sluice.connect("edge");
            client.send("GET /?size=50000000 HTTP/1.1\r\nHost: a.test\r\n\r\n");
            sluice.logged("a send timeout", |line| line.to_string().contains("send_timeout"));
        });
    });
    let reply = Curl::get(sluice.url("edge")).run();
    assert_eq!(reply.status, 200);
}

#[test]
fn nginx_is_served_from() {
    let nginx = Nginx::http(
        "server { listen 127.0.0.1:{{port}}; location / { default_type text/plain; return 200 \"$request_method $request_uri $host\"; } \
         location /gone { return 204; } }",
    );
    let sluice = gateway(&[nginx.node()], json!({}), json!({}));
    for _ in 0..3 {
        let reply = Curl::get(format!("{}/a/b?c=d", sluice.url("edge"))).header("Host: shop.test").run();
        assert_eq!((reply.status, reply.text().as_str()), (200, "GET /a/b?c=d shop.test"));
    }
    let reply = Curl::get(format!("{}/gone", sluice.url("edge"))).run();
    assert_eq!((reply.status, reply.exit), (204, 0));
    let reply = Curl::get(format!("{}/", sluice.url("edge"))).method("HEAD").run();
    assert_eq!((reply.status, reply.exit), (200, 0));
}

#[test]
fn php_is_served_from() {
    let php = Php::start();
    let sluice = gateway(&[php.node()], json!({}), json!({}));
    let direct = Curl::get(format!("http://{}/", php.address())).run();
    let reply = Curl::get(format!("{}/", sluice.url("edge"))).run();
    assert_eq!((reply.exit, reply.status), (0, 200), "{}", reply.error);
    assert_eq!(reply.body.len(), direct.body.len());
    let missing = Curl::get(format!("{}/?page=none-such", sluice.url("edge"))).run();
    assert_eq!(missing.exit, 0);
}
