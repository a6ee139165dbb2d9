//! Each built-in plugin at work, and how plugins of several objects are merged.

use std::thread;
use std::time::Instant;

use serde_json::{Value, json};
use sluice_harness::{Curl, HttpEcho, Reply, Sluice, SluiceBuilder, eventually};

/// A gateway with one route that has these plugins.
fn gateway(origin: &HttpEcho, plugins: Value) -> Sluice {
    builder(origin, json!({"plugins": plugins})).start()
}

/// One with a route of these fields, to the upstream `origin`.
fn builder(origin: &HttpEcho, mut route: Value) -> SluiceBuilder {
    route["uri"] = json!("/*");
    if route.get("service_id").is_none() {
        route["upstream_id"] = json!("origin");
    }
    Sluice::builder()
        .listener("edge", json!({"trusted": ["127.0.0.1/32"]}))
        .put("upstreams", "origin", json!({"nodes": {origin.node(): 1}}))
        .put("routes", "all", route)
}

fn get(sluice: &Sluice, path: &str) -> Reply {
    Curl::get(format!("{}{path}", sluice.url("edge"))).run()
}

fn get_with(sluice: &Sluice, path: &str, fields: &[&str]) -> Reply {
    let curl = Curl::get(format!("{}{path}", sluice.url("edge")));
    fields.iter().fold(curl, |curl, field| curl.header(field)).run()
}

#[test]
fn limit_count_refuses_what_is_over_the_window_and_says_so() {
    let origin = HttpEcho::start("origin");
    let plugin = json!({"count": 3, "time_window": 600, "rejected_code": 429, "key": "http_x_user"});
    let sluice = gateway(&origin, json!({"limit-count": plugin}));
    let statuses: Vec<u16> = (0..5).map(|_| get_with(&sluice, "/", &["X-User: a"]).status).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    let refused = get_with(&sluice, "/", &["X-User: a"]);
    assert_eq!(refused.header("x-ratelimit-limit"), Some("3"));
    assert_eq!(refused.header("x-ratelimit-remaining"), Some("0"));
    assert!(refused.header("retry-after").is_some());
    let other = get_with(&sluice, "/", &["X-User: b"]);
    assert_eq!((other.status, other.header("x-ratelimit-remaining")), (200, Some("2")));
    assert_eq!(origin.requests(), 4);
}

#[test]
fn limit_req_lets_the_rate_and_its_burst_through() {
    let origin = HttpEcho::start("origin");
    let plugin =
        json!({"rate": 0.01, "burst": 2, "nodelay": true, "key": "remote_addr", "rejected_code": 429});
    let sluice = gateway(&origin, json!({"limit-req": plugin}));
    let statuses: Vec<u16> = (0..6).map(|_| get(&sluice, "/").status).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429, 429]);
}

#[test]
fn limit_conn_counts_what_is_under_way() {
    let origin = HttpEcho::start("origin");
    let plugin =
        json!({"conn": 2, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr", "rejected_code": 429});
    let sluice = gateway(&origin, json!({"limit-conn": plugin}));
    thread::scope(|scope| {
        let slow: Vec<_> = (0..2).map(|_| scope.spawn(|| get(&sluice, "/?delay=2500").status)).collect();
        eventually("two requests under way", || (origin.line().accepted() == 2).then_some(()));
        assert_eq!(get(&sluice, "/").status, 429);
        for one in slow {
            assert_eq!(one.join().unwrap(), 200);
        }
    });
    // Both have left.
    assert_eq!(get(&sluice, "/").status, 200);
}

#[test]
fn proxy_rewrite_changes_what_the_origin_sees() {
    let origin = HttpEcho::start("origin");
    let plugin = json!({
        "regex_uri": ["^/old/(.*)$", "/new/$1"],
        "host": "inner.test",
        "method": "POST",
        "headers": {"set": {"X-Route": "$uri"}, "add": {"X-More": "1"}, "remove": ["X-Secret"]},
    });
    let sluice = gateway(&origin, json!({"proxy-rewrite": plugin}));
    let seen = get_with(&sluice, "/old/a/b?c=d", &["X-Secret: s", "X-Route: forged"]).seen();
    assert_eq!((seen.target.as_str(), seen.method.as_str()), ("/new/a/b?c=d", "POST"));
    assert_eq!(seen.header("host"), Some("inner.test"));
    assert_eq!(seen.all("x-more"), ["1"]);
    assert_eq!(seen.all("x-route").len(), 1);
    assert_eq!(seen.header("x-secret"), None);
    // What is captured cannot climb out of where the rule puts it.
    let climbing = get(&sluice, "/old/%2e%2e/%2e%2e/etc");
    assert_eq!(climbing.status, 400);
}

#[test]
fn response_rewrite_changes_what_the_client_sees() {
    let origin = HttpEcho::start("origin");
    let plugin = json!({
        "status_code": 202,
        "headers": {"set": {"X-Server": "gateway"}, "remove": ["X-Origin"]},
        "body": "{\"new\":true}",
        "vars": [["status", "==", 200]],
    });
    let sluice = gateway(&origin, json!({"response-rewrite": plugin}));
    let reply = get(&sluice, "/?header=X-Origin:1");
    assert_eq!((reply.status, reply.exit, reply.text().as_str()), (202, 0, "{\"new\":true}"));
    assert_eq!((reply.header("x-server"), reply.header("x-origin")), (Some("gateway"), None));
    let untouched = get(&sluice, "/?status=404");
    assert_eq!((untouched.status, untouched.header("x-server")), (404, None));
    let head = Curl::get(sluice.url("edge")).method("HEAD").run();
    assert_eq!((head.exit, head.status), (0, 202));

    let filter = json!({"filters": [{"regex": "b+", "scope": "global", "replace": "<$0>"}]});
    let sluice = gateway(&origin, json!({"response-rewrite": filter}));
    let reply = get(&sluice, "/?size=5");
    assert_eq!((reply.exit, reply.text().as_str()), (0, "a<b>cde"));
    let large = get(&sluice, "/?size=3000000");
    assert_eq!((large.exit, large.body.len()), (0, 3_000_000), "a body over the limit passes as it is");
    let chunked = get(&sluice, "/?size=5&chunked=1");
    assert_eq!((chunked.exit, chunked.text().as_str()), (0, "a<b>cde"));
}

#[test]
fn redirect_answers_without_the_origin() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(
        &origin,
        json!({"redirect": {"regex_uri": ["^/a/(.*)", "/b/$1"], "ret_code": 308, "append_query_string": true}}),
    );
    let reply = get(&sluice, "/a/x?q=1");
    assert_eq!((reply.status, reply.header("location")), (308, Some("/b/x?q=1")));
    assert_eq!(get(&sluice, "/other").status, 200);
    let sluice = gateway(&origin, json!({"redirect": {"http_to_https": true}}));
    let reply = get_with(&sluice, "/x?y", &["Host: shop.test"]);
    assert_eq!((reply.status, reply.header("location")), (301, Some("https://shop.test/x?y")));
    // A line break in the path stays in the path.
    let reply = get_with(&sluice, "/x%0d%0aSet-Cookie:%20a=b", &["Host: shop.test"]);
    assert!(reply.header("set-cookie").is_none(), "{}", reply.heads);
}

#[test]
fn ip_restriction_knows_the_client_behind_a_trusted_hop() {
    let origin = HttpEcho::start("origin");
    let sluice =
        gateway(&origin, json!({"ip-restriction": {"blacklist": ["203.0.113.0/24"], "message": "not you"}}));
    assert_eq!(get(&sluice, "/").status, 200);
    let refused = get_with(&sluice, "/", &["X-Forwarded-For: 203.0.113.9"]);
    assert_eq!((refused.status, refused.json()["error_msg"].as_str()), (403, Some("not you")));
    // Only the hop's own word counts: what a client wrote before it does not.
    assert_eq!(get_with(&sluice, "/", &["X-Forwarded-For: 203.0.113.9, 198.51.100.1"]).status, 200);
    let sluice = gateway(&origin, json!({"ip-restriction": {"whitelist": ["10.0.0.0/8"]}}));
    assert_eq!(get(&sluice, "/").status, 403);
}

#[test]
fn real_ip_takes_the_address_from_where_it_is_told() {
    let origin = HttpEcho::start("origin");
    let plugins = json!({
        "real-ip": {"source": "http_x_client", "trusted_addresses": ["127.0.0.0/8"]},
        "ip-restriction": {"whitelist": ["198.51.100.7"]},
    });
    let sluice = gateway(&origin, plugins);
    assert_eq!(get_with(&sluice, "/", &["X-Client: 198.51.100.7"]).status, 200);
    assert_eq!(get_with(&sluice, "/", &["X-Client: 198.51.100.8"]).status, 403);
    assert_eq!(get(&sluice, "/").status, 403);
}

#[test]
fn request_id_is_given_kept_and_returned() {
    let origin = HttpEcho::start("origin");
    let sluice = gateway(&origin, json!({"request-id": {}}));
    let (one, two) = (get(&sluice, "/"), get(&sluice, "/"));
    let id = one.header("x-request-id").unwrap().to_owned();
    assert_eq!(id.len(), 36);
    assert_eq!(one.seen().header("x-request-id"), Some(id.as_str()));
    assert_ne!(Some(id.as_str()), two.header("x-request-id"));
    let own = get_with(&sluice, "/", &["X-Request-Id: mine-1"]);
    assert_eq!(
        (own.header("x-request-id"), own.seen().header("x-request-id")),
        (Some("mine-1"), Some("mine-1"))
    );
    let line = sluice.logged("the id", |line| line.to_string().contains("mine-1"));
    assert_eq!(line["status"], 200);
}

#[test]
fn cors_answers_preflights_and_names_known_origins() {
    let origin = HttpEcho::start("origin");
    let plugin = json!({"allow_origins": "https://a.test,https://b.test", "allow_methods": "GET,POST", "allow_headers": "X-A", "expose_headers": "X-B", "max_age": 60, "allow_credential": true});
    let sluice = gateway(&origin, json!({"cors": plugin}));
    let preflight = Curl::get(sluice.url("edge"))
        .method("OPTIONS")
        .header("Origin: https://b.test")
        .header("Access-Control-Request-Method: POST")
        .run();
    assert_eq!(preflight.status, 200);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("https://b.test"));
    assert_eq!(preflight.header("access-control-max-age"), Some("60"));
    assert_eq!(origin.requests(), 0);
    let reply = get_with(&sluice, "/", &["Origin: https://a.test"]);
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://a.test"));
    assert_eq!(reply.header("access-control-allow-credentials"), Some("true"));
    let foreign = get_with(&sluice, "/", &["Origin: https://a.test.evil"]);
    assert_eq!((foreign.status, foreign.header("access-control-allow-origin")), (200, None));
}

#[test]
fn traffic_split_keeps_its_shares_and_its_rules() {
    let (old, new) = (HttpEcho::start("old"), HttpEcho::start("new"));
    let canary = json!({"upstream": {"nodes": {new.node(): 1}}, "weight": 1});
    let plugin = json!({"rules": [
        {"match": [{"vars": [["http_x_canary", "==", "1"]]}], "weighted_upstreams": [{"upstream": {"nodes": {new.node(): 1}}, "weight": 1}]},
        {"weighted_upstreams": [canary, {"weight": 3}]},
    ]});
    let sluice = builder(&old, json!({"plugins": {"traffic-split": plugin}})).threads(1).start();
    let to_new = (0..40).filter(|_| get(&sluice, "/").seen().server == "new").count();
    assert_eq!(to_new, 10);
    for _ in 0..5 {
        assert_eq!(get_with(&sluice, "/", &["X-Canary: 1"]).seen().server, "new");
    }
}

#[test]
fn fault_injection_aborts_and_delays() {
    let origin = HttpEcho::start("origin");
    let plugin = json!({
        "abort": {"http_status": 418, "body": "no $arg_name", "headers": {"X-Fault": "1"}, "vars": [[["arg_name", "==", "jack"]]]},
        "delay": {"duration": 0.3, "vars": [[["arg_slow", "==", "1"]]]},
    });
    let sluice = gateway(&origin, json!({"fault-injection": plugin}));
    let aborted = get(&sluice, "/?name=jack");
    assert_eq!(
        (aborted.status, aborted.text().as_str(), aborted.header("x-fault")),
        (418, "no jack", Some("1"))
    );
    let began = Instant::now();
    assert_eq!(get(&sluice, "/?slow=1").status, 200);
    assert!(began.elapsed().as_millis() >= 300);
    assert_eq!(origin.requests(), 1);
}

#[test]
fn mocking_answers_by_example_and_by_schema() {
    let origin = HttpEcho::start("origin");
    let example = json!({"response_example": "{\"uri\":\"$uri\"}", "response_status": 201, "content_type": "application/json"});
    let sluice = gateway(&origin, json!({"mocking": example}));
    let reply = get(&sluice, "/some");
    assert_eq!((reply.status, reply.header("content-type")), (201, Some("application/json")));
    assert_eq!(reply.json()["uri"], "/some");
    assert!(reply.header("x-mock-by").is_some());
    let schema = json!({"response_schema": {"type": "object", "properties": {"n": {"type": "integer", "example": 7}, "s": {"type": "string"}}}});
    let sluice = gateway(&origin, json!({"mocking": schema}));
    let reply = get(&sluice, "/");
    assert_eq!(reply.json()["n"], 7);
    assert!(reply.json()["s"].is_string());
    assert_eq!(origin.requests(), 0);
}

/// What a route's requests carry by who set it.
fn marks(reply: &Reply) -> Vec<Option<String>> {
    let seen = reply.seen();
    ["x-global", "x-service", "x-config", "x-route"]
        .iter()
        .map(|name| seen.header(name).map(str::to_owned))
        .collect()
}

#[test]
fn plugins_of_route_config_and_service_replace_each_other_whole() {
    let origin = HttpEcho::start("origin");
    let set = |name: &str| json!({"proxy-rewrite": {"headers": {"set": {name: "1"}}}});
    let service = json!({"upstream_id": "origin", "plugins": {
        "proxy-rewrite": set("X-Service")["proxy-rewrite"],
        "response-rewrite": {"headers": {"set": {"X-From": "service"}}},
    }});
    let mark = |name: &str| Some(name.to_owned());
    let sluice = builder(&origin, json!({"service_id": "s"}))
        .put("services", "s", &service)
        .put("plugin_configs", "c", json!({"plugins": set("X-Config")}))
        .put("global_rules", "g", json!({"plugins": set("X-Global")}))
        .start();
    assert_eq!(marks(&get(&sluice, "/")), [mark("1"), mark("1"), None, None]);
    sluice.apply("routes", "all", json!({"uri": "/*", "service_id": "s", "plugin_config_id": "c"}));
    eventually("the plugin config's", || {
        (marks(&get(&sluice, "/")) == [mark("1"), None, mark("1"), None]).then_some(())
    });
    sluice.apply(
        "routes",
        "all",
        json!({"uri": "/*", "service_id": "s", "plugin_config_id": "c", "plugins": set("X-Route")}),
    );
    eventually("the route's own", || {
        (marks(&get(&sluice, "/")) == [mark("1"), None, None, mark("1")]).then_some(())
    });
    // What only the service has stays.
    assert_eq!(get(&sluice, "/").header("x-from"), Some("service"));
    sluice.apply("routes", "all", json!({"uri": "/*", "service_id": "s", "plugins": {"proxy-rewrite": {"_meta": {"disable": true}, "uri": "/x"}}}));
    eventually("a disabled one hides the service's", || {
        (marks(&get(&sluice, "/")) == [mark("1"), None, None, None]).then_some(())
    });
}

#[test]
fn global_rules_see_requests_that_match_no_route() {
    let rule = json!({"plugins": {
        "response-rewrite": {"headers": {"set": {"X-Global": "yes"}}},
        "ip-restriction": {"blacklist": ["203.0.113.0/24"]},
    }});
    let sluice = Sluice::builder()
        .listener("edge", json!({"trusted": ["127.0.0.1/32"]}))
        .put("global_rules", "g", &rule)
        .start();
    let reply = get(&sluice, "/none");
    assert_eq!((reply.status, reply.header("x-global")), (404, Some("yes")));
    assert!(reply.json()["request_id"].is_string());
    assert_eq!(get_with(&sluice, "/none", &["X-Forwarded-For: 203.0.113.1"]).status, 403);
}

#[test]
fn a_plugin_that_is_configured_wrongly_is_quarantined_with_its_field() {
    let origin = HttpEcho::start("origin");
    let sluice = builder(&origin, json!({"plugins": {}})).start();
    assert_eq!(get(&sluice, "/").status, 200);
    sluice.put("routes", "all", json!({"uri": "/*", "upstream_id": "origin", "plugins": {"limit-count": {"count": -1, "time_window": 1}}}));
    let reason = eventually("the quarantine", || sluice.quarantined("routes", "all"));
    assert!(reason.contains("count"), "{reason}");
    assert_eq!(get(&sluice, "/").status, 200, "the last good version stays");
}
