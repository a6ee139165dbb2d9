//! Which route a request finds, through the running gateway.

use serde_json::{Value, json};
use sluice_harness::{Curl, HttpEcho, Sluice};

/// A gateway whose routes answer with their own id.
fn gateway(routes: &[(&str, Value)]) -> (Sluice, HttpEcho) {
    let origin = HttpEcho::start("origin");
    let mut builder = Sluice::builder().listener("edge", json!({"trusted": ["127.0.0.0/8"]})).put(
        "upstreams",
        "u",
        json!({"nodes": {origin.node(): 1}}),
    );
    for (id, rule) in routes {
        let mut route = rule.clone();
        route["upstream_id"] = json!("u");
        // What the answer carries back tells which route it was.
        route["plugins"] = json!({"response-rewrite": {"headers": {"set": {"x-route": id}}}});
        builder = builder.put("routes", id, route);
    }
    (builder.start(), origin)
}

/// Sends one request, `fields` behind the request line; the route that took
/// it, or the status.
fn route_of(sluice: &Sluice, line: &str, fields: &str) -> String {
    let mut raw = sluice.connect("edge");
    raw.send(format!("{line} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n"));
    let (status, head, _) = raw.read_answer();
    let head = head.to_ascii_lowercase();
    let found = head.lines().find_map(|line| line.strip_prefix("x-route: "));
    found.map_or_else(|| status.to_string(), str::to_owned)
}

#[test]
fn hosts_are_matched_exactly_then_by_the_longer_wildcard_then_by_none() {
    let (sluice, _origin) = gateway(&[
        ("exact", json!({"uri": "/*", "host": "a.shop.example"})),
        ("near", json!({"uri": "/*", "host": "*.shop.example"})),
        ("far", json!({"uri": "/*", "hosts": ["*.example", "other.test"]})),
        ("any", json!({"uri": "/*"})),
        ("exact-path", json!({"uri": "/only", "host": "b.shop.example"})),
    ]);
    for (host, expected) in [
        ("a.shop.example", "exact"),
        ("A.Shop.Example:8080", "exact"),
        ("a.shop.example.", "exact"),
        ("b.shop.example", "near"),
        ("x.y.shop.example", "near"),
        ("shop.example", "far"),
        ("other.test", "far"),
        ("example", "any"),
        ("127.0.0.1", "any"),
    ] {
        assert_eq!(route_of(&sluice, "GET /x", &format!("Host: {host}\r\n")), expected, "{host}");
    }
    // Where the better host's routes do not fit, the next host's are tried.
    assert_eq!(route_of(&sluice, "GET /only", "Host: b.shop.example\r\n"), "exact-path");
    assert_eq!(route_of(&sluice, "GET /else", "Host: b.shop.example\r\n"), "near");
}

#[test]
fn paths_methods_and_priorities_decide_among_candidates() {
    let (sluice, _origin) = gateway(&[
        ("exact", json!({"uri": "/a/b"})),
        ("prefix", json!({"uri": "/a/*"})),
        ("user", json!({"uri": "/u/:id"})),
        ("page", json!({"uri": "/u/:id/p/:page"})),
        ("write", json!({"uri": "/m", "methods": ["POST", "PUT"]})),
        ("read", json!({"uri": "/m", "methods": ["GET"]})),
        ("low", json!({"uri": "/p", "priority": 1})),
        ("high", json!({"uri": "/p", "priority": 10, "methods": ["GET"]})),
        ("off", json!({"uri": "/off", "status": 0})),
    ]);
    for (line, expected) in [
        ("GET /a/b", "exact"),
        ("GET /a/b/c", "prefix"),
        ("GET /a/", "prefix"),
        ("GET /a", "404"),
        ("GET /a/./x/../b", "exact"),
        ("GET /a/%62", "exact"),
        ("GET /a//b", "exact"),
        ("GET /u/7", "user"),
        ("GET /u/7/p/2?x=1", "page"),
        ("GET /u/", "404"),
        ("GET /u/7/p", "404"),
        ("POST /m", "write"),
        ("GET /m", "read"),
        ("DELETE /m", "404"),
        ("GET /p", "high"),
        ("POST /p", "low"),
        ("GET /off", "404"),
    ] {
        let fields =
            if line.starts_with("POST") { "Host: h\r\nContent-Length: 0\r\n" } else { "Host: h\r\n" };
        assert_eq!(route_of(&sluice, line, fields), expected, "{line}");
    }
}

#[test]
fn expressions_and_the_clients_address_decide_too() {
    let tiers = json!([["arg_beta", "==", "1"], ["http_x_tier", "in", ["gold", "silver"]]]);
    let (sluice, _origin) = gateway(&[
        ("beta", json!({"uri": "/v", "priority": 9, "vars": tiers})),
        ("cookie", json!({"uri": "/v", "priority": 8, "vars": [["cookie_lane", "~~", "^fast"]]})),
        (
            "neither",
            json!({"uri": "/v", "priority": 7, "vars": ["!OR", ["arg_a", "==", "1"], ["arg_b", ">", 10]]}),
        ),
        ("rest", json!({"uri": "/v"})),
        ("inside", json!({"uri": "/w", "remote_addrs": ["203.0.113.0/24", "2001:db8::/32"]})),
        ("param", json!({"uri": "/x/:id", "vars": [["uri_param_id", "==", "42"]]})),
    ]);
    for (line, fields, expected) in [
        ("GET /v?beta=1&a=1", "X-Tier: gold\r\n", "beta"),
        ("GET /v?beta=1&a=1", "X-Tier: tin\r\n", "rest"),
        ("GET /v?a=1", "Cookie: a=b; lane=fastest\r\n", "cookie"),
        ("GET /v", "", "neither"),
        ("GET /v?b=11", "", "rest"),
        ("GET /v?b=9", "", "neither"),
        ("GET /w", "X-Forwarded-For: 203.0.113.9\r\n", "inside"),
        ("GET /w", "X-Forwarded-For: 2001:db8::7\r\n", "inside"),
        ("GET /w", "X-Forwarded-For: 198.51.100.1\r\n", "404"),
        ("GET /w", "", "404"),
        ("GET /x/42", "", "param"),
        ("GET /x/43", "", "404"),
    ] {
        let route = route_of(&sluice, line, &format!("Host: h\r\n{fields}"));
        assert_eq!(route, expected, "{line} {fields}");
    }
}

#[test]
fn no_route_is_a_404_in_json_with_the_requests_id() {
    let (sluice, _origin) = gateway(&[("one", json!({"uri": "/one"}))]);
    let reply = Curl::get(format!("{}/two", sluice.url("edge"))).run();
    assert_eq!(reply.status, 404);
    let body = reply.json();
    assert_eq!(body["error_msg"], "404 Route Not Found");
    assert!(body["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{body}");
    let line = sluice.logged("the 404", |line| line["uri"] == "/two");
    assert_eq!((&line["status"], &line["reason"]), (&json!(404), &json!("no_route")), "{line}");
    assert_eq!(line["request_id"], body["request_id"]);
    assert!(line.get("route").is_none(), "{line}");
}

#[test]
fn services_plugin_configs_and_global_rules_are_merged_into_a_route() {
    let origin = HttpEcho::start("origin");
    let set = |value: &str| json!({"response-rewrite": {"headers": {"set": {"x-from": value}}}});
    let service = json!({"upstream_id": "u", "hosts": ["s.example"], "plugins": set("service")});
    let own = json!({"uri": "/own", "service_id": "s", "plugin_config_id": "p", "plugins": set("route")});
    let sluice = Sluice::builder()
        .listener("edge", json!({}))
        .put("upstreams", "u", json!({"nodes": {origin.node(): 1}}))
        .put("services", "s", service)
        .put("plugin_configs", "p", json!({"plugins": set("config")}))
        .put("global_rules", "g", json!({"plugins": {"cors": {"allow_origins": "https://a.example"}}}))
        .put("routes", "plain", json!({"uri": "/plain", "service_id": "s"}))
        .put(
            "routes",
            "configured",
            json!({"uri": "/configured", "service_id": "s", "plugin_config_id": "p"}),
        )
        .put("routes", "own", own)
        .start();
    for (path, expected) in [("/plain", "service"), ("/configured", "config"), ("/own", "route")] {
        let reply = Curl::get(format!("{}{path}", sluice.url("edge")))
            .header("Host: s.example")
            .header("Origin: https://a.example")
            .run();
        assert_eq!(reply.header("x-from"), Some(expected), "{path}: {}", reply.heads);
        assert_eq!(reply.header("access-control-allow-origin"), Some("https://a.example"), "{path}");
    }
    // The routes have their hosts from the service.
    let mut raw = sluice.connect("edge");
    raw.send("GET /plain HTTP/1.1\r\nHost: other.example\r\n\r\n");
    assert_eq!(raw.read_answer().0, 404);
}
