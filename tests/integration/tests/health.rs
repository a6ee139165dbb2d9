//! Checks of nodes: active of every type, passive, and each without the other.

use serde_json::{Value, json};
use sluice_harness::{Authority, HttpEcho, ImServer, Sluice, eventually};
use sluice_tests::lines::{SwitchedOrigin, get};

fn gateway(upstream: Value) -> Sluice {
    Sluice::builder()
        .listener("edge", json!({"protocol": "http"}))
        .put("upstreams", "app", &upstream)
        .put("routes", "all", json!({"uri": "/*", "upstream_id": "app"}))
        .start()
}

fn node(sluice: &Sluice, name: &str) -> Value {
    let status = sluice.line_status("app", "default");
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let port: Option<u64> = name.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let found = nodes.into_iter().find(|node| node["port"].as_u64() == port);
    found.unwrap_or_else(|| panic!("no node {name} in {status:#}"))
}

fn node_is(sluice: &Sluice, name: &str, wanted: &[&str]) -> Value {
    eventually(&format!("node {name} is one of {wanted:?}"), || {
        let status = node(sluice, name);
        wanted.contains(&status["state"].as_str().unwrap_or_default()).then_some(status)
    })
}

const UP: [&str; 2] = ["healthy", "mostly_healthy"];
const DOWN: [&str; 2] = ["unhealthy", "mostly_unhealthy"];

#[test]
fn an_http_check_takes_a_node_out_by_status_and_back() {
    let (one, two) = (SwitchedOrigin::start("one"), SwitchedOrigin::start("two"));
    let sluice = gateway(json!({
        "nodes": {one.node(): 1, two.node(): 1},
        "checks": {"active": {
            "type": "http", "http_path": "/health", "host": "probe.test", "req_headers": ["X-Probe: 1"],
            "interval": 0.1,
            "healthy": {"http_statuses": [200], "successes": 2},
            "unhealthy": {"http_statuses": [503], "http_failures": 2},
        }},
    }));
    eventually("a probe", || (one.requests("GET /health HTTP/1.1") > 0).then_some(()));
    assert!(one.requests("X-Probe: 1") > 0 && one.requests("probe.test") > 0);
    one.answer(503);
    let status = node_is(&sluice, &one.node(), &DOWN);
    assert_eq!(status["why"], "status", "{status:#}");
    for _ in 0..6 {
        assert_eq!(get(&sluice, "edge", "/"), (200, "two".into()));
    }
    // 404 is in neither list: it says nothing.
    two.answer(404);
    let probes = two.requests("GET /health");
    eventually("more probes", || (two.requests("GET /health") > probes + 6).then_some(()));
    assert!(UP.contains(&node(&sluice, &two.node())["state"].as_str().unwrap_or_default()));
    one.answer(200);
    node_is(&sluice, &one.node(), &UP);
    eventually("it serves again", || (get(&sluice, "edge", "/").1 == "one").then_some(()));
}

#[test]
fn an_https_check_verifies_the_certificate() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let origin = |name: &str, authority: &Authority| {
        let leaf = authority.leaf(&["node.test", "127.0.0.1"]);
        HttpEcho::builder(name).tls(leaf.server_config(&["http/1.1"])).start()
    };
    let (good, forged) = (origin("good", &ours), origin("forged", &other));
    let sluice = gateway(json!({
        "scheme": "https",
        "nodes": {good.node(): 1, forged.node(): 1},
        "pass_host": "rewrite", "upstream_host": "node.test",
        "tls": {"ca": ours.pem()},
        "checks": {"active": {"type": "https", "http_path": "/", "interval": 0.1, "fall": 2}},
    }));
    let status = node_is(&sluice, &forged.node(), &DOWN);
    assert_eq!(status["why"], "tls", "{status:#}");
    node_is(&sluice, &good.node(), &UP);
    for _ in 0..4 {
        let (status, body) = get(&sluice, "edge", "/");
        assert_eq!(status, 200, "{body}");
        assert!(body.contains("\"good\""), "{body}");
    }
    assert!(forged.seen().is_empty(), "nothing was said to a node with a forged certificate");
}

#[test]
fn a_tcp_check_notices_a_closed_port() {
    let (one, two) = (HttpEcho::start("one"), HttpEcho::start("two"));
    let sluice = gateway(json!({
        "nodes": {one.node(): 1, two.node(): 1},
        "checks": {"active": {"type": "tcp", "interval": 0.1, "fall": 2, "rise": 2}},
    }));
    one.line().cut();
    let status = node_is(&sluice, &one.node(), &DOWN);
    assert_eq!(status["why"], "refused", "{status:#}");
    let labels = [("upstream", "app"), ("line", "default"), ("node", &one.node())];
    assert_eq!(sluice.metrics().value("sluice_node_up", &labels), Some(0.0));
    one.line().restore();
    let status = node_is(&sluice, &one.node(), &UP);
    assert!(status["since"].is_string(), "{status:#}");
}

#[test]
fn a_tlv_check_notices_a_server_that_no_longer_answers() {
    let server = ImServer::start(&["a", "b"]);
    let sluice = Sluice::builder()
        .listener("im", json!({"protocol": "tlv"}))
        .put(
            "upstreams",
            "app",
            json!({
                "scheme": "tlv",
                "nodes": {server.line("a").node(): 1, server.line("b").node(): 1},
                "checks": {"active": {"type": "tlv", "interval": 0.1, "timeout": 0.3, "fall": 2}},
            }),
        )
        .put("stream_routes", "im", json!({"listener": "im", "upstream_id": "app"}))
        .start();
    eventually("heartbeats", || (server.stats().commands.get("0x0001")? > &2).then_some(()));
    // It goes on accepting: only the protocol's own answer tells.
    server.line("a").hang();
    let status = node_is(&sluice, &server.line("a").node(), &DOWN);
    assert_eq!(status["why"], "timeout", "{status:#}");
    node_is(&sluice, &server.line("b").node(), &UP);
    server.line("a").restore();
    node_is(&sluice, &server.line("a").node(), &UP);
}

#[test]
fn a_passive_check_works_without_an_active_one() {
    let (one, two) = (SwitchedOrigin::start("one"), SwitchedOrigin::start("two"));
    let sluice = gateway(json!({
        "nodes": {one.node(): 1, two.node(): 1},
        "failover": {"hold_down": "1s"},
        "checks": {"passive": {
            "type": "http", "unhealthy": {"http_statuses": [500], "http_failures": 2},
        }},
    }));
    one.answer(500);
    let mut bad = 0;
    eventually("the node is out", || {
        bad += u32::from(get(&sluice, "edge", "/").0 == 500);
        DOWN.contains(&node(&sluice, &one.node())["state"].as_str()?).then_some(())
    });
    assert!((2..=3).contains(&bad), "{bad} bad answers were needed");
    assert_eq!(one.requests("GET /") as u32, bad, "nobody probes it");
    one.answer(200);
    // On trial after the hold-down.
    eventually("it is back", || (get(&sluice, "edge", "/").1 == "one").then_some(()));
}

#[test]
fn a_passive_check_counts_what_active_probes_do_not_see() {
    let (one, two) = (SwitchedOrigin::start("one"), SwitchedOrigin::start("two"));
    let sluice = gateway(json!({
        "nodes": {one.node(): 1, two.node(): 1},
        "checks": {
            "active": {"type": "tcp", "interval": 0.1},
            "passive": {"type": "http", "unhealthy": {"http_statuses": [500], "http_failures": 3}},
        },
    }));
    one.answer(500);
    let mut bad = 0;
    eventually("the node is out", || {
        bad += u32::from(get(&sluice, "edge", "/").0 == 500);
        DOWN.contains(&node(&sluice, &one.node())["state"].as_str()?).then_some(())
    });
    // Good probes in between wipe nothing out.
    assert!((3..=4).contains(&bad), "{bad} bad answers were needed");
}

#[test]
fn when_all_nodes_are_down_one_is_tried_and_the_state_is_visible() {
    let one = SwitchedOrigin::start("one");
    let sluice = gateway(json!({
        "nodes": {one.node(): 1},
        "checks": {"active": {"type": "http", "interval": 0.1, "unhealthy": {"http_failures": 1}}},
    }));
    one.answer(503);
    node_is(&sluice, &one.node(), &DOWN);
    assert_eq!(get(&sluice, "edge", "/"), (503, "one".into()), "the node itself answers");
    let line = sluice.line_status("app", "default");
    assert_eq!(line["state"], "unhealthy", "{line:#}");
    let health = sluice.status_path("/v1/healthcheck/upstreams/app");
    let status = health["nodes"][0]["status"].as_str().unwrap_or_default();
    assert!(DOWN.contains(&status), "{health:#}");
}
