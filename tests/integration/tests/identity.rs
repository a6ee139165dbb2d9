//! Who the client is, as the origin, the routes and the log see it.

use serde_json::{Value, json};
use sluice_harness::service::http_echo::Seen;
use sluice_harness::{Curl, HttpEcho, Sluice, eventually};

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn gateway(trusted: Value) -> (Sluice, HttpEcho) {
    let origin = HttpEcho::start("origin");
    let sluice = Sluice::builder()
        .listener("edge", json!({"trusted": trusted}))
        .put("routes", "all", json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}}))
        .start();
    (sluice, origin)
}

/// The request as the origin saw it.
fn seen(sluice: &Sluice, fields: &[&str]) -> Seen {
    let mut call = Curl::get(format!("{}/", sluice.url("edge")));
    for field in fields {
        call = call.header(field);
    }
    let reply = call.run();
    assert_eq!(reply.status, 200, "{fields:?}: {}", reply.text());
    reply.seen()
}

#[test]
fn the_chain_is_walked_from_the_right_through_trusted_hops() {
    let (sluice, _origin) = gateway(json!(["127.0.0.0/8", "10.0.0.0/8", "2001:db8:1::/48"]));
    for (fields, client, chain) in [
        (vec![], "127.0.0.1", "127.0.0.1"),
        (vec!["X-Forwarded-For: 203.0.113.9"], "203.0.113.9", "203.0.113.9, 127.0.0.1"),
        (
            vec!["X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.0.0.2"],
            "203.0.113.9",
            "203.0.113.9, 10.0.0.2, 127.0.0.1",
        ),
        (
            vec!["X-Forwarded-For: 6.6.6.6, 203.0.113.9", "X-Forwarded-For: 10.0.0.2"],
            "203.0.113.9",
            "203.0.113.9, 10.0.0.2, 127.0.0.1",
        ),
        (vec!["X-Forwarded-For: 10.0.0.9, 10.0.0.2"], "10.0.0.9", "10.0.0.9, 10.0.0.2, 127.0.0.1"),
        (vec!["X-Forwarded-For: junk, 10.0.0.2"], "10.0.0.2", "10.0.0.2, 127.0.0.1"),
        (vec!["X-Forwarded-For: 203.0.113.9:4711"], "203.0.113.9", "203.0.113.9, 127.0.0.1"),
        (vec!["Forwarded: for=203.0.113.9;proto=https"], "203.0.113.9", "203.0.113.9, 127.0.0.1"),
        (
            vec!["Forwarded: for=\"[2001:db8::9]:80\", for=\"[2001:db8:1::2]\""],
            "2001:db8::9",
            "2001:db8::9, 2001:db8:1::2, 127.0.0.1",
        ),
        (vec!["X-Real-IP: 203.0.113.9"], "127.0.0.1", "127.0.0.1"),
    ] {
        let seen = seen(&sluice, &fields);
        assert_eq!(seen.all("x-real-ip"), [client], "{fields:?}");
        assert_eq!(seen.all("x-forwarded-for").join(", "), chain, "{fields:?}");
        let forwarded = seen.all("forwarded").join(", ");
        assert!(forwarded.contains(client), "{fields:?}: {forwarded}");
    }
    sluice.logged("the client behind two hops", |line| line["client_ip"] == "203.0.113.9");
}

#[test]
fn what_a_client_forges_does_not_go_on() {
    let (sluice, _origin) = gateway(json!(["10.0.0.0/8"]));
    let forged = [
        "X-Forwarded-For: 203.0.113.9",
        "X-Real-IP: 203.0.113.9",
        "Forwarded: for=203.0.113.9;host=evil.example",
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Port: 443",
        "x-sluice-path: 1;203.0.113.9,edge-1;fra;leased;1767225600123,4kQ0hT2cXg7mJ0bq1rYw5A",
    ];
    let seen = seen(&sluice, &forged);
    let text = format!("{:?}", seen.headers);
    assert!(!text.contains("203.0.113.9") && !text.contains("evil.example"), "{text}");
    assert_eq!(seen.all("x-real-ip"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
    let counted = eventually("ignored headers are counted", || {
        let count =
            sluice.metrics().count("sluice_client_address_ignored_total", &[("reason", "untrusted_peer")]);
        (count > 0.0).then_some(count)
    });
    assert!(counted >= 1.0);
}

#[test]
fn proto_host_and_port_of_the_client_go_on() {
    let (sluice, _origin) = gateway(json!(["127.0.0.1"]));
    let seen_directly = seen(&sluice, &["Host: shop.example:8443"]);
    assert_eq!(seen_directly.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen_directly.all("x-forwarded-host"), ["shop.example:8443"]);
    assert_eq!(seen_directly.all("x-forwarded-port"), ["8443"]);
    let seen = seen(
        &sluice,
        &[
            "X-Forwarded-For: 203.0.113.9",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: www.example",
            "X-Forwarded-Port: 443",
        ],
    );
    assert_eq!(seen.all("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.all("x-forwarded-host"), ["www.example"]);
    assert_eq!(seen.all("x-forwarded-port"), ["443"]);
}

/// Two gateways of one fleet: the inner one's origin tells what came.
struct Fleet {
    outer: Sluice,
    inner: Sluice,
    _origin: HttpEcho,
}

fn node(id: &str, key: &str, trusted: &str, next: &str) -> Sluice {
    Sluice::builder()
        .boot("node", json!({"id": id, "region": "fra"}))
        .boot("fleet_key", json!({"env": "FLEET_KEY"}))
        .environment("FLEET_KEY", key)
        .listener("edge", json!({"trusted": [trusted]}))
        .put("routes", "all", json!({"uri": "/*", "upstream": {"nodes": {next: 1}}}))
        .start()
}

fn fleet(inner_key: &str) -> Fleet {
    let origin = HttpEcho::start("origin");
    let inner = node("core-2", inner_key, "127.0.0.1", &origin.node());
    let outer = node("edge-1", KEY, "10.0.0.0/8", &inner.address("edge").to_string());
    Fleet { outer, inner, _origin: origin }
}

fn path_of(seen: &Seen) -> String {
    let all = seen.all("x-sluice-path");
    assert_eq!(all.len(), 1, "{:?}", seen.headers);
    all[0].to_owned()
}

#[test]
fn the_path_names_every_hop_of_the_fleet() {
    let fleet = fleet(KEY);
    let path = path_of(&seen(&fleet.outer, &[]));
    assert!(path.starts_with("1;127.0.0.1,edge-1;fra;"), "{path}");
    let hops: Vec<&str> = path.split(',').collect();
    assert_eq!(hops.len(), 4, "client, two hops, signature: {path}");
    assert!(hops[2].starts_with("core-2;fra;"), "{path}");
    assert!(!hops[3].contains(';') && hops[3].len() == 22, "{path}");
}

#[test]
fn a_forged_or_foreign_path_is_removed_and_counted() {
    let same = fleet(KEY);
    let good = path_of(&seen(&same.outer, &[]));
    let mut changed = good.clone();
    changed.replace_range(..good.find(',').unwrap(), "1;203.0.113.9");
    for (forged, reason) in [
        (changed, "path_signature"),
        ("nonsense".to_owned(), "path_malformed"),
        (good.replacen("1;", "9;", 1), "path_version"),
        ("1;203.0.113.9,".repeat(200), "path_too_long"),
    ] {
        let seen = seen(&same.inner, &[&format!("x-sluice-path: {forged}")]);
        let path = path_of(&seen);
        assert!(path.starts_with("1;127.0.0.1,core-2;"), "{forged}: {path}");
        eventually(&format!("{reason} is counted"), || {
            let labels = [("reason", reason)];
            (same.inner.metrics().count("sluice_client_address_ignored_total", &labels) > 0.0).then_some(())
        });
    }
    let foreign = fleet("another key that is long enough to be one");
    let path = path_of(&seen(&foreign.outer, &[]));
    assert!(!path.contains("edge-1"), "{path}");
}

#[test]
fn trace_context_goes_on_as_it_came() {
    let (sluice, _origin) = gateway(json!([]));
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let with = seen(&sluice, &[&format!("traceparent: {parent}"), "tracestate: a=1,b=2"]);
    assert_eq!(with.all("traceparent"), [parent]);
    assert_eq!(with.all("tracestate"), ["a=1,b=2"]);
    sluice.logged("the trace", |line| line["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736");
    for bad in ["junk", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"] {
        let without = seen(&sluice, &[&format!("traceparent: {bad}"), "tracestate: a=1"]);
        assert!(without.all("traceparent").is_empty() && without.all("tracestate").is_empty(), "{bad}");
    }
    assert!(seen(&sluice, &[]).all("traceparent").is_empty(), "none is made by default");
}

#[test]
fn a_trace_is_begun_where_that_is_wanted() {
    let origin = HttpEcho::start("origin");
    let sluice = Sluice::builder()
        .boot("trace", json!({"generate": true}))
        .listener("edge", json!({}))
        .put("routes", "all", json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}}))
        .start();
    let made = seen(&sluice, &[]).all("traceparent").join(" ");
    assert_eq!((made.len(), &made[..3], &made[52..]), (55, "00-", "-00"), "{made}");
    sluice.logged("the trace that was begun", |line| line["trace_id"] == made[3..35]);
}
