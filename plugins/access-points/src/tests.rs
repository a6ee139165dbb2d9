use std::time::Duration;

use serde_json::{Value, json};
use sluice_sdk::testing::{Host, Tester};

use super::*;

const URL: &str = "https://points.example/list";

fn plugin() -> AccessPoints {
    let config = json!({
        "regions": [
            {"name": "eu", "clients": ["192.0.2.0/24"],
             "points": [{"address": "203.0.113.1:443", "upstream": "edge"}, {"address": "203.0.113.2:443", "upstream": "edge"}]},
            {"name": "lab", "clients": ["192.0.2.128/25", "2001:db8::/32"], "points": [{"address": "[2001:db8::1]:443"}]},
        ],
        "default": {"name": "world", "points": [{"address": "gate.example:443"}]},
        "provider": {"url": URL},
    });
    Tester::<AccessPoints>::new(&config.to_string()).expect("a good configuration").plugin
}

fn told(plugin: &mut AccessPoints, address: &str) -> Value {
    let response = plugin.handle(Request::new("GET", "/").header("x-real-ip", address));
    assert_eq!(response.status, 200);
    serde_json::from_slice(&response.body).expect("JSON")
}

fn host() -> Host {
    let host = Host::install();
    host.grant_key_value("access-points");
    host
}

#[test]
fn the_smallest_network_says_the_region() {
    let _host = host();
    let mut plugin = plugin();
    for (address, region) in [
        ("192.0.2.5", "eu"),
        ("192.0.2.200", "lab"),
        ("::ffff:192.0.2.5", "eu"),
        ("2001:db8::7", "lab"),
        ("198.51.100.1", "world"),
        ("nonsense", "world"),
    ] {
        assert_eq!(told(&mut plugin, address)["region"], region, "{address}");
    }
}

#[test]
fn an_unhealthy_address_comes_last() {
    let host = host();
    let node = |address: &str, healthy| health::Node {
        upstream: "edge".to_owned(),
        line: "public".to_owned(),
        address: address.to_owned(),
        healthy,
        rtt: None,
    };
    host.node(node("203.0.113.1:443", false));
    host.node(node("203.0.113.2:443", true));
    assert_eq!(told(&mut plugin(), "192.0.2.5")["points"], json!(["203.0.113.2:443", "203.0.113.1:443"]));
}

#[test]
fn what_the_provider_says_goes_first_while_it_holds() {
    let host = host();
    let mut plugin = plugin();
    host.answer_ok(URL, r#"{"ttl": 20, "regions": {"eu": ["203.0.113.9:443", "203.0.113.2:443"]}}"#);
    plugin.tick().expect("the provider answers");
    let answer = told(&mut plugin, "192.0.2.5");
    assert_eq!(answer["points"], json!(["203.0.113.9:443", "203.0.113.2:443", "203.0.113.1:443"]));
    assert_eq!(answer["ttl"], 20);
    host.advance(Duration::from_secs(301));
    assert_eq!(told(&mut plugin, "192.0.2.5")["ttl"], 60, "an answer that is too old is forgotten");
}

#[test]
fn a_bad_answer_leaves_the_one_before() {
    let host = host();
    let mut plugin = plugin();
    host.answer_ok(URL, r#"{"ttl": 20, "regions": {"eu": ["203.0.113.9:443"]}}"#);
    plugin.tick().expect("the provider answers");
    for bad in ["", "[]", r#"{"ttl": 0, "regions": {}}"#, r#"{"ttl": 1, "regions": {"eu": ["nowhere"]}}"#] {
        host.answer_ok(URL, bad);
        assert!(plugin.tick().expect_err(bad).starts_with(URL));
        assert_eq!(told(&mut plugin, "192.0.2.5")["points"][0], "203.0.113.9:443", "{bad}");
    }
    host.answer(URL, Err(fetch::Error::Timeout));
    assert_eq!(plugin.tick(), Err(format!("{URL}: no answer in time")));
}

#[test]
fn without_the_grant_the_configured_list_is_told() {
    let host = Host::install();
    assert_eq!(told(&mut plugin(), "192.0.2.5")["points"][0], "203.0.113.1:443");
    assert!(host.lines()[0].1.contains("not granted"));
}

#[test]
fn bad_configurations_are_named() {
    let error = |config: Value| {
        Tester::<AccessPoints>::new(&config.to_string()).err().expect("a bad configuration").to_string()
    };
    let region = |points: Value| json!({"name": "r", "points": points});
    assert_eq!(
        error(json!({"default": region(json!([]))})),
        "default.points: []: no address: its clients would be told nothing"
    );
    assert_eq!(
        error(json!({"default": region(json!([{"address": "here"}]))})),
        "default.points[0].address: \"here\": not HOST:PORT"
    );
    assert!(
        error(json!({"default": region(json!([{"address": "a:1"}])), "regions": [
        {"name": "x", "clients": ["10.0.0.0/99"], "points": []}]}))
        .starts_with("regions[0].clients[0]: \"10.0.0.0/99\": ")
    );
}
