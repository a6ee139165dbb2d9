//! Log, metrics and status, read as an operator's tools read them.

use std::collections::BTreeSet;
use std::net::TcpListener;

use serde_json::{Value, json};
use sluice_harness::{Authority, Curl, HttpEcho, Raw, Signal, Sluice, WebSocketEcho, eventually};

fn gateway() -> (Sluice, HttpEcho) {
    let origin = HttpEcho::start("origin");
    let upstream = json!({
        "lines": [
            {"name": "leased", "priority": 10, "nodes": {origin.node(): 1}},
            {"name": "public", "priority": 5, "nodes": {"127.0.0.1:1": 1}},
        ],
        "checks": {"active": {"type": "tcp", "interval": 1}},
    });
    let sluice = Sluice::builder()
        .listener("edge", json!({}))
        .boot("log", json!({"headers": ["user-agent", "x-shown"]}))
        .put("upstreams", "shop", upstream)
        .put("services", "front", json!({"upstream_id": "shop"}))
        .put("routes", "cart", json!({"uri": "/cart/*", "service_id": "front"}))
        .put(
            "routes",
            "limited",
            json!({"uri": "/limited", "upstream_id": "shop", "plugins": {
            "ip-restriction": {"blacklist": ["127.0.0.0/8"]}}}),
        )
        .start();
    (sluice, origin)
}

/// Keys that `docs/observability.md` names for the access log.
fn documented() -> BTreeSet<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/observability.md");
    let text = std::fs::read_to_string(path).unwrap();
    let table = text.split("| key | in | meaning |").nth(1).unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|line| line.split('|').nth(1).map(str::to_owned)).collect::<String>();
    cells.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn keys(line: &Value) -> BTreeSet<String> {
    line.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn a_request_leaves_one_line_with_the_documented_fields() {
    let (sluice, origin) = gateway();
    let reply = Curl::post(format!("{}/cart/7?size=500&id=9", sluice.url("edge")), "0123456789")
        .header("User-Agent: test/1")
        .header("X-Shown: yes")
        .run();
    assert_eq!((reply.status, reply.body.len()), (200, 500));
    let line = sluice.logged("the request", |line| line["uri"] == "/cart/7?size=500&id=9");
    for (key, value) in [
        ("kind", json!("request")),
        ("gateway", json!("test")),
        ("client_ip", json!("127.0.0.1")),
        ("listener", json!("edge")),
        ("protocol", json!("HTTP/1.1")),
        ("method", json!("POST")),
        ("scheme", json!("http")),
        ("host", json!(sluice.address("edge").to_string())),
        ("status", json!(200)),
        ("route", json!("cart")),
        ("service", json!("front")),
        ("upstream", json!("shop")),
        ("line", json!("leased")),
        ("node", json!(origin.node())),
        ("attempts", json!(1)),
        ("user_agent", json!("test/1")),
    ] {
        assert_eq!(line[key], value, "{key} of {line}");
    }
    assert_eq!(line["headers"]["x-shown"], "yes", "{line}");
    assert!(line["bytes_in"].as_u64().unwrap() > 10 && line["bytes_out"].as_u64().unwrap() > 500, "{line}");
    for time in ["duration_ms", "connect_ms", "header_ms", "upstream_ms"] {
        assert!(line[time].as_f64().is_some_and(|ms| (0.0..60_000.0).contains(&ms)), "{time} of {line}");
    }
    let time = line["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z') && time.contains('T'), "{line}");
    assert!(line["request_id"].as_str().is_some_and(|id| id.len() >= 8), "{line}");
    let unknown: Vec<_> = keys(&line).difference(&documented()).cloned().collect();
    assert!(unknown.is_empty(), "not documented: {unknown:?}");
    assert_eq!(sluice.access_log().iter().filter(|line| line["kind"] == "request").count(), 1);
}

#[test]
fn every_request_and_connection_has_one_line() {
    let authority = Authority::new("Test root");
    let leaf = authority.leaf(&["a.example"]);
    let (origin, sockets) = (HttpEcho::start("origin"), WebSocketEcho::start());
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    std::thread::spawn(move || tcp.accept().map(drop));
    let sluice = Sluice::builder()
        .listener("edge", json!({}))
        .listener("secure", json!({"tls": true}))
        .listener("raw", json!({"protocol": "tcp"}))
        .put("ssls", "a", leaf.ssl(&["a.example"]))
        .put("upstreams", "u", json!({"nodes": {origin.node(): 1}}))
        .put("routes", "all", json!({"uri": "/*", "upstream_id": "u"}))
        .put(
            "routes",
            "ws",
            json!({"uri": "/ws", "enable_websocket": true, "upstream": {"nodes": {sockets.node(): 1}}}),
        )
        .put(
            "stream_routes",
            "raw",
            json!({"listener": "raw", "upstream": {"scheme": "tcp", "nodes": {address.to_string(): 1}}}),
        )
        .start();
    let mut raw = sluice.connect("edge");
    for turn in 0..20 {
        raw.send(format!("GET /kept/{turn}?status={} HTTP/1.1\r\nHost: h\r\n\r\n", 200 + turn % 3 * 100));
        raw.read_answer();
    }
    raw.send("BAD\r\n\r\n");
    assert_eq!(raw.read_answer().0, 400);
    let reply =
        Curl::get("https://a.example/h2").to(sluice.address("secure")).ca(authority.path()).http2().run();
    assert_eq!(reply.status, 200, "{}", reply.error);
    let mut upgrade = sluice.connect("edge");
    upgrade.send(
        "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let head = upgrade.read_until(b"\r\n\r\n");
    assert!(head.starts_with(b"HTTP/1.1 101"), "{:?}", String::from_utf8_lossy(&head));
    drop(upgrade);
    let mut stream = sluice.connect("raw");
    stream.read_to_close();
    // Its line is written when both sides have ended.
    drop(stream);

    let line = sluice.logged("h2", |line| line["uri"] == "/h2");
    assert_eq!((&line["protocol"], &line["scheme"]), (&json!("HTTP/2.0"), &json!("https")), "{line}");
    let tls = &line["tls"];
    assert_eq!(
        (&tls["version"], &tls["sni"], &tls["alpn"]),
        (&json!("TLSv1.3"), &json!("a.example"), &json!("h2")),
        "{line}"
    );
    let line = sluice.logged("the WebSocket", |line| line["uri"] == "/ws");
    assert_eq!((&line["status"], &line["upgrade"]), (&json!(101), &json!("websocket")), "{line}");
    let line = sluice.logged("TCP", |line| line["listener"] == "raw");
    assert_eq!(
        (&line["kind"], &line["protocol"], &line["route"]),
        (&json!("connection"), &json!("tcp"), &json!("raw")),
        "{line}"
    );
    let line = sluice.logged("the bad request", |line| line["status"] == 400 && line["route"].is_null());
    assert!(line["reason"].is_string(), "{line}");

    let (all, known) = (sluice.access_log(), documented());
    for turn in 0..20 {
        let uri = format!("/kept/{turn}?");
        let count = all
            .iter()
            .filter(|line| line["uri"].as_str().is_some_and(|found| found.starts_with(&uri)))
            .count();
        assert_eq!(count, 1, "{uri}");
    }
    for line in &all {
        let unknown: Vec<_> = keys(line).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "not documented: {unknown:?} in {line}");
        assert!(["request", "connection", "blocked"].contains(&line["kind"].as_str().unwrap()), "{line}");
    }
    let requests: Vec<_> = all.iter().filter(|line| line["kind"] == "request").collect();
    let ids: BTreeSet<_> = requests.iter().map(|line| line["request_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), requests.len(), "ids are unique");
}

#[test]
fn what_peers_send_never_breaks_a_line() {
    let (sluice, _origin) = gateway();
    let mut raw = sluice.connect("edge");
    raw.send(b"GET /cart/\"%0a\\?x=%22\xe2\x80\xa8 HTTP/1.1\r\nHost: h\r\nUser-Agent: \"q\" \\ \t \x80\xff\r\n\r\n");
    let (status, _, _) = raw.read_answer();
    assert!((200..500).contains(&status));
    raw = sluice.connect("edge");
    raw.send(b"GET /cart/ua HTTP/1.1\r\nHost: h\r\nUser-Agent: a\"b\\c\tb\x80\xff\xe2\x80\xa8\r\n\r\n");
    assert_eq!(raw.read_answer().0, 200);
    // Every line is parsed by the harness.
    let line = sluice.logged("the odd client", |line| line["uri"] == "/cart/ua");
    assert!(line["user_agent"].as_str().unwrap().starts_with("a\"b\\c"), "{line}");
}

#[test]
fn a_verdict_of_a_filter_is_in_log_and_metrics() {
    let (sluice, origin) = gateway();
    assert_eq!(Curl::get(format!("{}/limited", sluice.url("edge"))).run().status, 403);
    let line = sluice.logged("the refusal", |line| line["uri"] == "/limited");
    assert_eq!(line["verdicts"][0]["plugin"], "ip-restriction", "{line}");
    assert_eq!(line["verdicts"][0]["verdict"], "deny", "{line}");
    assert!(line.get("node").is_none(), "{line}");
    assert_eq!(origin.requests(), 0);
    let metrics = sluice.metrics();
    let labels = [("plugin", "ip-restriction"), ("verdict", "deny")];
    assert_eq!(metrics.value("sluice_filter_verdicts_total", &labels), Some(1.0));
}

#[test]
fn the_log_is_opened_again_on_sigusr1() {
    let (mut sluice, _origin) = gateway();
    let (log, old) = (sluice.folder().join("access.log"), sluice.folder().join("access.log.1"));
    Curl::get(format!("{}/cart/before", sluice.url("edge"))).run();
    sluice.logged("the first line", |line| line["uri"] == "/cart/before");
    std::fs::rename(&log, &old).unwrap();
    sluice.process().signal(Signal::USR1);
    eventually("the file is there again", || log.exists().then_some(()));
    Curl::get(format!("{}/cart/after", sluice.url("edge"))).run();
    sluice.logged("the line after", |line| line["uri"] == "/cart/after");
    assert!(!std::fs::read_to_string(&old).unwrap().contains("/cart/after"));
}

#[test]
fn metrics_are_prometheus_text_and_count_what_happened() {
    let (sluice, _origin) = gateway();
    for path in ["/cart/1", "/cart/2", "/cart/3?status=500", "/none"] {
        Curl::get(format!("{}{path}", sluice.url("edge"))).run();
    }
    let metrics = eventually("all requests are counted", || {
        let metrics = sluice.metrics();
        (metrics.count("apisix_http_requests_total", &[]) == 4.0).then_some(metrics)
    });
    let cart = |code| metrics.count("apisix_http_status", &[("route", "cart"), ("code", code)]);
    assert_eq!((cart("200"), cart("500")), (2.0, 1.0), "{}", metrics.text());
    let requests = [("type", "request"), ("route", "cart")];
    assert_eq!(metrics.value("apisix_http_latency_count", &requests), Some(3.0));
    assert!(metrics.count("apisix_bandwidth", &[("type", "egress"), ("route", "cart")]) > 0.0);
    assert_eq!(metrics.value("sluice_ready", &[]), Some(1.0));
    assert_eq!(metrics.count("sluice_http_errors_total", &[("reason", "no_route")]), 1.0);
    assert_eq!(metrics.value("sluice_line_up", &[("upstream", "shop"), ("line", "leased")]), Some(1.0));
    // Every family is typed once, and its samples stand together.
    let mut families = BTreeSet::new();
    let mut current = String::new();
    for line in metrics.text().lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(families.insert(name.to_owned()), "{name} is typed twice");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            current = name.to_owned();
        } else if !line.starts_with('#') {
            assert!(line.starts_with(&current) && !current.is_empty(), "{line} under {current}");
        }
    }
    // The same at the short address; nothing else is there.
    let short = Curl::get(format!("http://{}/metrics", sluice.metrics_address())).run();
    assert_eq!(short.status, 200);
    assert!(short.header("content-type").unwrap().starts_with("text/plain"), "{}", short.heads);
    assert_eq!(Curl::get(format!("http://{}/x", sluice.metrics_address())).run().status, 404);
}

#[test]
fn the_status_says_how_everything_is() {
    let (sluice, origin) = gateway();
    Curl::get(format!("{}/cart/1", sluice.url("edge"))).run();
    let status = eventually("the public line is seen to be down", || {
        let status = sluice.status();
        let lines = status["upstreams"].as_array()?.iter().find(|one| one["id"] == "shop")?["lines"].clone();
        let public = lines.as_array()?.iter().find(|line| line["name"] == "public")?;
        (public["state"] != "healthy").then_some(status.clone())
    });
    assert_eq!((&status["node"]["id"], &status["node"]["region"]), (&json!("test"), &json!("here")));
    assert_eq!((&status["node"]["workers"], &status["state"]), (&json!(2), &json!("ready")), "{status:#}");
    let config = &status["config"];
    assert!(config["revision"].as_u64().unwrap() > 0 && config["source"].as_str().unwrap().contains("conf"));
    assert_eq!((&config["objects"]["routes"], &config["objects"]["upstreams"]), (&json!(2), &json!(1)));
    assert_eq!(config["quarantined"], json!([]));
    let line = sluice.line_status("shop", "leased");
    assert_eq!(
        (&line["active"], &line["priority"], &line["state"]),
        (&json!(true), &json!(10), &json!("healthy")),
        "{line:#}"
    );
    assert_eq!(line["nodes"][0]["port"], origin.address().port(), "{line:#}");
    let public = sluice.line_status("shop", "public");
    assert!(public["why"].is_string() && public["since"].is_string(), "{public:#}");
    assert!(status["connections"]["accepted"].as_u64().unwrap() >= 1);
    assert!(status["process"]["descriptors"].as_u64().unwrap() > 3);
    assert_eq!(status["process"]["pid"], sluice.observe().pid());

    let health = sluice.status_path("/v1/healthcheck");
    let all = health.as_array().unwrap();
    assert_eq!(all.len(), 1, "{health:#}");
    let one = sluice.status_path("/v1/healthcheck/upstreams/shop");
    assert_eq!(one["nodes"].as_array().unwrap().len(), 2, "{one:#}");
    assert!(one["nodes"][0]["counter"].is_object() && one["nodes"][0]["status"].is_string(), "{one:#}");
    assert_eq!(sluice.status_path("/status/ready")["status"], "ok");
    let ready = Curl::get(format!("http://{}/status", sluice.status_address())).run();
    assert_eq!(ready.status, 200);
    let mut foreign = Raw::connect(sluice.status_address());
    foreign.send("GET /v1/status HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    assert!(String::from_utf8_lossy(&foreign.read_to_close()).starts_with("HTTP/1.1 421"));
}

#[test]
fn sluice_status_prints_lines_and_nodes() {
    let (sluice, origin) = gateway();
    let address = sluice.status_address().to_string();
    let run = |arguments: &[&str]| {
        let output = Sluice::command(arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = run(&["status", "--addr", &address]);
    assert_eq!(code, 0, "{text}");
    for word in ["test", "shop", "leased", "public", &origin.node(), "edge"] {
        assert!(text.contains(word), "{text} lacks {word}");
    }
    assert!(!text.contains('\x1b'), "no colours where it is no terminal");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let (code, text) = run(&["status", "--addr", &address, "--json"]);
    assert_eq!(code, 0);
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["node"]["id"], "test");
    assert_eq!(run(&["status", "--addr", "127.0.0.1:1"]).0, 1);
    // One that is about to end answers, and says so.
    let mut ending = Sluice::builder().boot("shutdown", json!({"notice": "60s"})).start();
    let own = ending.status_address().to_string();
    ending.process().signal(Signal::TERM);
    eventually("the code of one that is not ready", || {
        (run(&["status", "--addr", &own]).0 == 2).then_some(())
    });
    assert_eq!(ending.status_path("/status/ready")["state"], "draining");
}
