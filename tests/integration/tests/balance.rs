//! Which node a request goes to.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_harness::{HttpEcho, Namespace, Port, Sluice, eventually};
use sluice_tests::lines::{SwitchedOrigin, get, get_with};

fn gateway(upstream: Value) -> Sluice {
    Sluice::builder()
        .threads(1)
        .listener("edge", json!({"protocol": "http"}))
        .put("upstreams", "app", &upstream)
        .put("routes", "all", json!({"uri": "/*", "upstream_id": "app"}))
        .start()
}

fn three() -> [SwitchedOrigin; 3] {
    ["a", "b", "c"].map(SwitchedOrigin::start)
}

/// Answers of that many requests, counted.
fn spread(sluice: &Sluice, requests: usize) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for _ in 0..requests {
        let (status, name) = get(sluice, "edge", "/");
        assert_eq!(status, 200);
        *found.entry(name).or_default() += 1;
    }
    found
}

#[test]
fn weights_share_the_traffic_and_zero_takes_none() {
    let [a, b, c] = three();
    let sluice = gateway(json!({"nodes": {a.node(): 3, b.node(): 1, c.node(): 0}}));
    let found = spread(&sluice, 40);
    assert_eq!((found["a"], found["b"], found.get("c")), (30, 10, None));
}

#[test]
fn nodes_of_a_lower_priority_wait_for_their_turn() {
    let [a, b, c] = three();
    let port = |origin: &SwitchedOrigin| -> u16 {
        origin.node().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port")
    };
    let dead = Port::free();
    let node = |port: u16, priority: i32| json!({"host": "127.0.0.1", "port": port, "weight": 1, "priority": priority});
    let upstream = |first: u16| json!({"nodes": [node(first, 1), node(port(&b), 0), node(port(&c), -1)]});
    let sluice = gateway(upstream(port(&a)));
    assert_eq!(spread(&sluice, 6), BTreeMap::from([("a".to_owned(), 6)]));
    sluice.apply("upstreams", "app", upstream(dead.number()));
    assert_eq!(spread(&sluice, 6), BTreeMap::from([("b".to_owned(), 6)]));
}

#[test]
fn a_hash_sticks_and_a_node_that_leaves_moves_its_own_keys_only() {
    let [a, b, c] = three();
    let upstream = |nodes: &[&SwitchedOrigin]| {
        let nodes: BTreeMap<String, u32> = nodes.iter().map(|origin| (origin.node(), 1)).collect();
        json!({"type": "chash", "hash_on": "header", "key": "X-User", "nodes": nodes})
    };
    let sluice = gateway(upstream(&[&a, &b, &c]));
    let owners = || -> Vec<String> {
        (0..40).map(|user| get_with(&sluice, "edge", "/", &format!("X-User: user-{user}\r\n")).1).collect()
    };
    let before = owners();
    assert_eq!(before, owners(), "the same key goes to the same node");
    for name in ["a", "b", "c"] {
        assert!(before.iter().any(|owner| owner == name), "{name} owns no key");
    }
    sluice.apply("upstreams", "app", upstream(&[&a, &c]));
    for (user, (old, new)) in before.iter().zip(owners()).enumerate() {
        assert!(*old == new || old == "b", "user-{user} moved from {old} to {new}");
    }
}

#[test]
fn the_least_busy_node_is_chosen() {
    let (busy, idle) = (HttpEcho::start("busy"), HttpEcho::start("idle"));
    let upstream = json!({"type": "least_conn", "nodes": {busy.node(): 1, idle.node(): 1}});
    let sluice = gateway(upstream);
    // Requests that stay: each node gets one, the next ones go to who has fewer.
    let mut waiting = Vec::new();
    for count in 1..=4 {
        let mut raw = sluice.connect("edge");
        raw.send("GET /?delay=30000 HTTP/1.1\r\nHost: test\r\n\r\n");
        eventually("it has arrived", || (busy.requests() + idle.requests() == count).then_some(()));
        waiting.push(raw);
    }
    assert_eq!((busy.requests(), idle.requests()), (2, 2));
    let status = sluice.upstream_status("app");
    assert_eq!(status["lines"][0]["in_use"], 4, "{status:#}");
}

#[test]
fn a_faster_node_gets_most_by_ewma() {
    let slow = SwitchedOrigin::slow("slow", Duration::from_millis(60));
    let fast = SwitchedOrigin::start("fast");
    let sluice = gateway(json!({"type": "ewma", "nodes": {slow.node(): 1, fast.node(): 1}}));
    let found = spread(&sluice, 40);
    assert!(found["fast"] >= 30, "{found:?}");
}

#[test]
fn another_node_is_tried_as_often_as_retries_say() {
    let [a, ..] = three();
    let dead: Vec<Port> = (0..3).map(|_| Port::free()).collect();
    let mut nodes: BTreeMap<String, u32> = dead.iter().map(|port| (port.loopback().to_string(), 1)).collect();
    nodes.insert(a.node(), 1);
    let sluice = gateway(json!({"nodes": nodes}));
    for _ in 0..4 {
        assert_eq!(get(&sluice, "edge", "/"), (200, "a".into()), "all nodes are tried by default");
    }
    let nodes: BTreeMap<String, u32> = dead.iter().map(|port| (port.loopback().to_string(), 1)).collect();
    sluice.apply("upstreams", "app", json!({"nodes": nodes, "retries": 1}));
    assert_eq!(get(&sluice, "edge", "/").0, 502);
    let line = sluice.logged("two attempts", |line| line["status"] == 502);
    assert_eq!(line["attempts"], 2, "{line:#}");
}

/// A DNS server that answers every question for an IPv4 address with
/// 127.0.0.N, to be kept for a second, where N can be changed.
fn dns_server(namespace: &Namespace) -> Arc<AtomicU8> {
    let socket =
        namespace.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).expect("the port is free in there"));
    let last = Arc::new(AtomicU8::new(2));
    let shown = Arc::clone(&last);
    std::thread::spawn(move || {
        let mut query = [0; 512];
        // Ends with the process: the namespace and its socket go with the test.
        while let Ok((count, from)) = socket.recv_from(&mut query) {
            let Some(answer) = dns_answer(&query[..count], shown.load(Ordering::Relaxed)) else { continue };
            let _ = socket.send_to(&answer, from);
        }
    });
    last
}

fn dns_answer(query: &[u8], last: u8) -> Option<Vec<u8>> {
    let mut at = 12;
    while *query.get(at)? != 0 {
        at += usize::from(query[at]) + 1;
    }
    let question_end = at + 5;
    let kind = u16::from_be_bytes([*query.get(at + 1)?, *query.get(at + 2)?]);
    let answers = u16::from(kind == 1);
    let mut answer = query[..2].to_vec();
    answer.extend_from_slice(&[0x81, 0x80, 0, 1]);
    answer.extend_from_slice(&answers.to_be_bytes());
    answer.extend_from_slice(&[0, 0, 0, 0]);
    answer.extend_from_slice(query.get(12..question_end)?);
    if answers == 1 {
        answer.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, last]);
    }
    Some(answer)
}

/// Gives a namespace a resolver file of its own, as `ip netns exec` mounts it.
struct ResolverFile(std::path::PathBuf);

impl ResolverFile {
    fn new(namespace: &Namespace) -> ResolverFile {
        let folder = std::path::PathBuf::from("/etc/netns").join(namespace.name());
        std::fs::create_dir_all(&folder).expect("root can write there");
        std::fs::write(folder.join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:1\n")
            .expect("root can write there");
        ResolverFile(folder)
    }
}

impl Drop for ResolverFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn names_are_resolved_again_when_their_time_is_over() {
    let namespace = Namespace::new();
    let _file = ResolverFile::new(&namespace);
    let answer = dns_server(&namespace);
    let origin = |name: &str, last: u8| {
        let address = (Ipv4Addr::new(127, 0, 0, last), 8080).into();
        HttpEcho::builder(name).within(&namespace, Ipv4Addr::LOCALHOST.into()).address(address).start()
    };
    let _origins = (origin("first", 2), origin("second", 3));
    let sluice = Sluice::builder()
        .listener("edge", json!({"protocol": "http"}))
        .put("upstreams", "app", json!({"nodes": {"app.example.net:8080": 1}}))
        .put("routes", "all", json!({"uri": "/*", "upstream_id": "app"}))
        .within(&namespace)
        .start();
    let server = || {
        let (status, body) = namespace.run(|| get(&sluice, "edge", "/"));
        assert_eq!(status, 200, "{body}");
        if body.contains("\"first\"") { "first" } else { "second" }
    };
    assert_eq!(server(), "first");
    answer.store(3, Ordering::Relaxed);
    eventually("the new address is used", || (server() == "second").then_some(()));
    let status = sluice.line_status("app", "default");
    assert_eq!(status["nodes"][0]["addresses"][0], "127.0.0.3", "{status:#}");
}
