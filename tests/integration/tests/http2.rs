//! HTTP/2 through the gateway: exchanges as they should be, and what a client
//! can do to a connection with frames.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_harness::{Authority, Curl, HttpEcho, Sluice, eventually};
use sluice_tests::frames::{self, Client, END_HEADERS, END_STREAM, block, frame, get, kind};
use sluice_tests::origin::Origin;

const ENHANCE_YOUR_CALM: u32 = 11;

fn gateway(node: String, limits: Value) -> Sluice {
    Sluice::builder()
        .listener("edge", json!({"limits": limits}))
        .put("routes", "all", json!({"uri": "/*", "upstream": {"nodes": {node: 1}}}))
        .start()
}

#[test]
fn curl_speaks_it_by_prior_knowledge_and_by_alpn() {
    let origin = HttpEcho::start("origin");
    let authority = Authority::new("test");
    let sluice = Sluice::builder()
        .listener("edge", json!({}))
        .listener("tls", json!({"tls": true}))
        .put("ssls", "a", authority.leaf(&["a.test"]).ssl(&["a.test"]))
        .put("routes", "all", json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}}))
        .start();
    let url = sluice.url("edge");
    let reply = Curl::get(format!("{url}/x?y")).http2_prior_knowledge().run();
    assert_eq!((reply.status, reply.version.as_str()), (200, "2"));
    assert_eq!((reply.seen().target.as_str(), reply.seen().version.as_str()), ("/x?y", "HTTP/1.1"));
    let secure = |curl: Curl| curl.ca(authority.path()).to(sluice.address("tls")).run();
    let reply = secure(Curl::get("https://a.test/s").http2());
    assert_eq!((reply.status, reply.version.as_str()), (200, "2"), "{}", reply.error);
    assert_eq!(reply.seen().header("host"), Some("a.test"));
    assert_eq!(reply.seen().header("x-forwarded-proto"), Some("https"));
    let reply = secure(Curl::get("https://a.test/s").http1());
    assert_eq!((reply.status, reply.version.as_str()), (200, "1.1"));
    let body: Vec<u8> = (0..20_000_000_u32).map(|at| (at % 251) as u8).collect();
    let reply = secure(Curl::post("https://a.test/?echo=1", body.clone()).http2());
    assert_eq!((reply.exit, reply.status), (0, 200), "{}", reply.error);
    assert!(reply.body == body, "{} bytes came back, or others", reply.body.len());
    for (path, status) in
        [("/?status=204", 204), ("/?status=304", 304), ("/?status=404", 404), ("/?interim=103", 200)]
    {
        let reply = Curl::get(format!("{url}{path}")).http2_prior_knowledge().run();
        assert_eq!((reply.exit, reply.status), (0, status), "{path}");
    }
    let head = Curl::get(format!("{url}/?size=1000")).method("HEAD").http2_prior_knowledge().run();
    assert_eq!((head.exit, head.status, head.header("content-length")), (0, 200, Some("1000")));
    let trailers =
        Curl::get(format!("{url}/?trailer=x-sum:7")).header("TE: trailers").http2_prior_knowledge().run();
    assert_eq!((trailers.exit, trailers.status), (0, 200));
    assert!(trailers.heads.contains("x-sum: 7"), "{}", trailers.heads);
}

#[test]
fn a_broken_answer_resets_the_stream() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(origin.node(), json!({}));
    for fault in [
        "reset",
        "close",
        "half-head",
        "reset-body",
        "short-body",
        "bad-chunk",
        "unfinished-chunks",
        "garbage",
        "two-lengths",
        "length-and-chunks",
        "nul",
        "big-head",
    ] {
        let url = format!("{}/?fault={fault}&size=10000", sluice.url("edge"));
        let reply = Curl::get(url).http2_prior_knowledge().run();
        let is_told = matches!(reply.status, 502 | 504) && reply.exit == 0;
        assert!(is_told || reply.exit != 0, "{fault}: {} with {} bytes", reply.status, reply.body.len());
    }
}

#[test]
fn a_stream_that_is_reset_cancels_what_it_asked_for_and_no_other() {
    let origin = Origin::start(|talk| {
        if talk.head().is_some_and(|head| head.starts_with("GET /ok")) {
            let _ = talk.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
        talk.drain();
    });
    let sluice = gateway(origin.node(), json!({}));
    let mut client = Client::connect(sluice.address("edge"));
    assert!(client.send(frames::request(1, &get("/wait"))));
    origin.until("the request", |log| log.received.len() == 1 && log.received[0].ends_with(b"\r\n\r\n"));
    assert!(client.send(frame(kind::RST_STREAM, 0, 1, &8_u32.to_be_bytes())));
    origin.until("the end upstream", |log| log.ended == 1);
    assert!(client.send(frames::request(3, &get("/ok"))));
    client.until("the other stream's end", |frame| frame.stream == 3 && frame.kind == kind::DATA);
}

/// Sends up to `count` pieces while the answers are read; the code of the
/// GOAWAY that ended the connection and the last stream it names.
fn flood(sluice: &Sluice, first: &[u8], count: u32, piece: impl Fn(u32) -> Vec<u8>) -> Option<(u32, u32)> {
    let mut client = Client::connect(sluice.address("edge"));
    client.send(first);
    let mut reader = client.reader();
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let mut last = None;
            while let Some(frame) = reader.frame() {
                if frame.kind == kind::GOAWAY {
                    let stream = u32::from_be_bytes(frame.payload[..4].try_into().unwrap());
                    last = Some((frame.error_code().unwrap(), stream));
                }
            }
            last
        });
        for start in (0..count).step_by(50) {
            let batch: Vec<u8> = (start..start + 50).flat_map(&piece).collect();
            if !client.send(batch) {
                break;
            }
        }
        reading.join().unwrap()
    })
}

#[test]
fn floods_of_every_frame_end_the_connection_and_leave_nothing_behind() {
    let origin = HttpEcho::start("origin");
    let mut sluice = gateway(origin.node(), json!({}));
    let url = sluice.url("edge");
    assert_eq!(Curl::get(&url).http2_prior_knowledge().run().status, 200);
    let before = sluice.observe().resident_bytes();
    let reset = |stream: u32| frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    let open = frames::request(1, &get("/?delay=20000"));
    // A body that is never finished keeps a stream open for DATA.
    let mut post = get("/");
    post[0].1 = "POST";
    let uploading = frame(kind::HEADERS, END_HEADERS, 1, &block(&post));
    let endless = frame(kind::HEADERS, END_STREAM, 1, &block(&get("/")));
    type Piece = Box<dyn Fn(u32) -> Vec<u8>>;
    let floods: Vec<(&str, Vec<u8>, u32, Piece)> = vec![
        (
            "rapid reset",
            vec![],
            100_000,
            Box::new(move |n| [frames::request(2 * n + 1, &get("/?delay=1000")), reset(2 * n + 1)].concat()),
        ),
        ("ping", vec![], 100_000, Box::new(|_| frame(kind::PING, 0, 0, &[0; 8]))),
        ("settings", vec![], 100_000, Box::new(|_| frame(kind::SETTINGS, 0, 0, &[]))),
        (
            "settings that say something",
            vec![],
            100_000,
            Box::new(|n| frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, (n % 100) as u8, 1])),
        ),
        ("priority", vec![], 100_000, Box::new(|n| frame(kind::PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 1]))),
        (
            "priority of one stream",
            open.clone(),
            100_000,
            Box::new(|_| frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ),
        (
            "window update",
            vec![],
            100_000,
            Box::new(|_| frame(kind::WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ),
        (
            "window update of a stream",
            open.clone(),
            100_000,
            Box::new(|_| frame(kind::WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes())),
        ),
        (
            "reset of one stream",
            open.clone(),
            100_000,
            Box::new(|_| frame(kind::RST_STREAM, 0, 1, &8_u32.to_be_bytes())),
        ),
        ("empty data", uploading, 100_000, Box::new(|_| frame(kind::DATA, 0, 1, &[]))),
        ("unknown frames", vec![], 100_000, Box::new(|_| frame(0xbe, 0, 0, b"x"))),
        ("empty continuation", endless.clone(), 100_000, Box::new(|_| frame(kind::CONTINUATION, 0, 1, &[]))),
        (
            "continuation",
            endless,
            10_000,
            Box::new(|_| frame(kind::CONTINUATION, 0, 1, &block(&[("x", &"y".repeat(1000))]))),
        ),
        (
            "resets provoked from the server",
            vec![],
            50_000,
            Box::new(|n| {
                // A window that overflows is the server's to reset.
                let stream = 2 * n + 1;
                let update = frame(kind::WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
                [frames::request(stream, &get("/?delay=1000")), update].concat()
            }),
        ),
    ];
    let mut wrong = Vec::new();
    for (name, first, count, piece) in &floods {
        match flood(&sluice, first, *count, piece) {
            Some((ENHANCE_YOUR_CALM, last)) if last <= 4000 => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    sluice.process().expect_running();
    assert_eq!(Curl::get(&url).http2_prior_knowledge().run().status, 200);
    eventually("memory is back", || {
        let grown = sluice.observe().resident_bytes().saturating_sub(before);
        (grown < 16 << 20).then_some(())
    });
    assert!(origin.requests() < 6_000, "{} requests of floods reached the origin", origin.requests());
}

#[test]
fn header_lists_that_grow_when_unpacked_are_refused() {
    let origin = HttpEcho::start("origin");
    let mut sluice = gateway(origin.node(), json!({}));
    let before = sluice.observe().resident_bytes();
    // One field of 4,000 bytes goes into the table, then is named 10,000 times.
    let mut bomb = block(&get("/bomb"));
    bomb.push(0x40);
    bomb.extend_from_slice(&[1, b'x', 127, 0xa1, 0x1e]);
    bomb.extend_from_slice(&[b'v'; 4000]);
    bomb.extend_from_slice(&[0xbe; 10_000]);
    for _ in 0..20 {
        let mut client = Client::connect(sluice.address("edge"));
        client.send(frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, &bomb));
        let answer = client.until("a refusal", |frame| match frame.kind {
            kind::HEADERS | kind::RST_STREAM => frame.stream == 1,
            other => other == kind::GOAWAY,
        });
        // The connection itself may be used further, if it is still open.
        assert!(answer.kind != kind::HEADERS || answer.payload.len() < 500);
    }
    assert!(origin.seen().iter().all(|seen| seen.target != "/bomb"));
    sluice.process().expect_running();
    let grown = sluice.observe().resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes");
}

#[test]
fn a_window_that_is_never_opened_ends_the_stream_at_the_send_timeout() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(origin.node(), json!({"send_timeout": "1s"}));
    // SETTINGS_INITIAL_WINDOW_SIZE 0.
    let mut client = Client::connect_with(sluice.address("edge"), &[0, 4, 0, 0, 0, 0]);
    assert!(client.send(frames::request(1, &get("/?size=1000000"))));
    let began = Instant::now();
    client.until("the reset", |frame| frame.kind == kind::RST_STREAM && frame.stream == 1);
    assert!(began.elapsed() < Duration::from_secs(10));
    eventually("the upstream connection's end", || (origin.line().open_connections() == 0).then_some(()));
}

#[test]
fn a_silent_connection_is_ended() {
    let origin = HttpEcho::start("origin");
    let limits = json!({"idle_timeout": "1s", "header_timeout": "1s", "body_timeout": "1s"});
    let sluice = gateway(origin.node(), limits);
    // After the preface, after a request, within a frame's head, within a header block, within a body.
    let mut post = get("/");
    post[0].1 = "POST";
    let cases: [(&str, Vec<u8>); 5] = [
        ("nothing", vec![]),
        ("a request", frames::request(1, &get("/"))),
        ("half a frame's head", vec![0, 0]),
        ("half a header block", frame(kind::HEADERS, END_STREAM, 1, &block(&get("/")))),
        ("half a frame", frames::request(1, &get("/"))[..12].to_vec()),
    ];
    for (name, bytes) in cases {
        let mut client = Client::connect(sluice.address("edge"));
        client.send(bytes);
        let began = Instant::now();
        client.until_end();
        assert!(began.elapsed() < Duration::from_secs(10), "{name}");
    }
    let mut client = Client::connect(sluice.address("edge"));
    client.send(frame(kind::HEADERS, END_HEADERS, 1, &block(&post)));
    client.send(frame(kind::DATA, 0, 1, b"half"));
    client.until("an answer to half a body", |frame| {
        frame.stream == 1 && matches!(frame.kind, kind::HEADERS | kind::RST_STREAM)
    });
    client.until_end();
}

#[test]
fn requests_that_are_not_sound_reach_no_origin() {
    let origin = Origin::answering(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec());
    let sluice = gateway(origin.node(), json!({"header_timeout": "2s", "idle_timeout": "2s"}));
    let base = |extra: &[(&'static str, &'static str)]| {
        let mut fields = get("/bad");
        fields.extend_from_slice(extra);
        fields
    };
    let without =
        |name: &str| get("/bad").into_iter().filter(|(found, _)| *found != name).collect::<Vec<_>>();
    let with = |name: &str, value: &'static str| {
        let mut fields = get("/bad");
        fields.iter_mut().find(|(found, _)| *found == name).unwrap().1 = value;
        fields
    };
    let heads: Vec<Vec<(&str, &str)>> = vec![
        base(&[("x", "a\r\nb: c")]),
        base(&[("x", "a\nb")]),
        base(&[("x", "a\0b")]),
        base(&[("x\r\ny", "1")]),
        base(&[("x y", "1")]),
        base(&[("X-Upper", "1")]),
        base(&[("", "1")]),
        base(&[("x:", "1")]),
        base(&[("connection", "close")]),
        base(&[("transfer-encoding", "chunked")]),
        base(&[("upgrade", "h2c")]),
        base(&[("keep-alive", "1")]),
        base(&[("proxy-connection", "1")]),
        base(&[("te", "gzip")]),
        base(&[(":path", "/two")]),
        base(&[(":unknown", "1")]),
        base(&[("x", "1"), (":late", "1")]),
        base(&[("host", "other.test")]),
        base(&[("content-length", "5")]),
        base(&[("content-length", "+0")]),
        base(&[("content-length", "0"), ("content-length", "1")]),
        without(":method"),
        without(":path"),
        without(":scheme"),
        with(":path", ""),
        with(":path", "bad"),
        with(":path", "/bad here"),
        with(":path", "/bad\r\nX: 1"),
        with(":path", "/bad HTTP/1.1\r\nX: 1"),
        with(":path", "/%00"),
        with(":path", "/../bad"),
        with(":authority", "a@b"),
        with(":authority", "a b"),
        with(":authority", "a\r\nb"),
        with(":authority", "a/b"),
        with(":authority", ""),
        with(":method", "GE T"),
        with(":method", "GET / HTTP/1.1\r\nX: 1\r\n\r\nGET"),
        with(":method", ""),
        with(":method", "CONNECT"),
        with(":scheme", "ht tp"),
    ];
    let mut wrong = Vec::new();
    for head in &heads {
        let mut client = Client::connect(sluice.address("edge"));
        client.send(frames::request(1, head));
        client.send(frames::request(3, &get("/probe")));
        client.until_answered(&[1, 3]);
        let requests = origin.take_requests();
        if requests.iter().any(|request| request.target != "/probe") {
            wrong.push(format!("{head:?} became {requests:?}"));
        }
    }
    // Bodies that are not as long as they say.
    for (said, sent) in [("5", "four"), ("3", "four"), ("0", "four")] {
        let mut fields = base(&[("content-length", said)]);
        fields[0].1 = "POST";
        let mut client = Client::connect(sluice.address("edge"));
        client.send(frame(kind::HEADERS, END_HEADERS, 1, &block(&fields)));
        client.send(frame(kind::DATA, END_STREAM, 1, sent.as_bytes()));
        client.until_answered(&[1]);
        let requests = origin.take_requests();
        if !requests.is_empty() {
            wrong.push(format!("{said} bytes said, {sent:?} sent: {requests:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(origin.log().faults.is_empty(), "{:?}", origin.log().faults);
}

#[test]
fn cookies_and_repeated_fields_arrive_as_http_1_has_them() {
    let origin = Origin::answering(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec());
    let sluice = gateway(origin.node(), json!({}));
    let mut fields = get("/ok");
    fields.extend([("cookie", "a=1"), ("cookie", "b=2"), ("x", "1"), ("x", "2")]);
    let mut client = Client::connect(sluice.address("edge"));
    client.send(frames::request(1, &fields));
    client.until("the answer", |frame| frame.kind == kind::HEADERS && frame.stream == 1);
    let request = origin.take_requests().remove(0);
    assert_eq!(request.all("cookie"), ["a=1; b=2"]);
    assert_eq!(request.all("x"), ["1", "2"]);
    assert_eq!(request.all("host"), ["a.test"]);
}
