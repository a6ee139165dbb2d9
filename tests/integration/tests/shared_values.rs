//! Values that the modules of a fleet share, in a real etcd.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_harness::guest::Guest;
use sluice_harness::{Curl, Etcd, HttpEcho, Reply, Sluice, SluiceBuilder, SteadyLoad, eventually, within};
use sluice_tests::admin::{ADMIN_KEY, expect, with_keys};

/// A guest that counts heads under the key `k` of the namespace `n` of the fleet,
/// for so many milliseconds: it marks the first three, denies those that follow,
/// and lets pass unmarked those of which it was told an error.
fn counting(ttl: u32) -> Guest {
    let import = r#"(import "sluice:plugin/key-value@0.1.0" "increment"
        (func $increment (param i32 i32 i32 i32 i32 i64 i32 i32)))"#;
    let head = format!(
        "(i32.store16 (i32.const 6000) (i32.const 0x6b6e))
         (call $increment (i32.const 1) (i32.const 6000) (i32.const 1) (i32.const 6001) (i32.const 1)
           (i64.const 1) (i32.const {ttl}) (i32.const 6016))
         (if (i32.load8_u (i32.const 6016)) (then (return (i32.const 2048))))
         (if (i64.gt_s (i64.load (i32.const 6024)) (i64.const 3)) (then (return (i32.const 3072))))
         (i32.const 3200)"
    );
    Guest::new("counted").import("sluice:plugin/key-value@0.1.0", import).on_head(&head)
}

fn node(etcd: &Etcd, id: &str) -> SluiceBuilder {
    let node = json!({"id": id, "region": "here"});
    with_keys(Sluice::builder().etcd(etcd, json!({"timeout": "2s"}))).boot("node", node)
}

/// Brings a component into the fleet, with these flags.
fn push(node: &Sluice, name: &str, component: &Path, flags: &[&str]) {
    let output = Sluice::command(&["plugin", "push", name, &component.to_string_lossy()])
        .args(flags)
        .env("SLUICE_ADMIN", format!("http://{}", node.admin_address()))
        .env("SLUICE_ADMIN_KEY", ADMIN_KEY)
        .env_remove("SLUICE_CLIENT")
        .output()
        .expect("sluice runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Brings the guest in, with a listener and two routes, one of them guarded by it.
fn fill(node: &Sluice, origin: &HttpEcho, guest: &Guest) {
    let file = node.folder().join("guest.wasm");
    guest.write(&file);
    push(node, "guest", &file, &["--version", "1", "--store", "n"]);
    let put = |path: &str, object: Value| expect(node, "PUT", path, &object.to_string(), 201);
    put("listeners/edge", json!({"bind": "127.0.0.1:0"}));
    put("upstreams/u", json!({"nodes": {origin.node(): 1}}));
    put("routes/free", json!({"uri": "/free", "upstream_id": "u"}));
    put("routes/guarded", json!({"uri": "/guarded", "upstream_id": "u", "plugins": {"guest": {}}}));
}

fn url(node: &Sluice, path: &str) -> String {
    let address = eventually("the listener is open", || {
        Some(node.status()["listeners"][0]["binds"][0]["address"].as_str()?.to_owned())
    });
    format!("http://{address}{path}")
}

fn get(node: &Sluice) -> Reply {
    Curl::get(url(node, "/guarded")).run()
}

fn is_marked(reply: &Reply) -> bool {
    reply.status == 200 && reply.seen().headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("x-guest"))
}

/// Waits until the route is there, and takes away what the guest counted when each
/// node tried it out.
fn until_routed(nodes: &[&Sluice], etcd: &Etcd) {
    for node in nodes {
        eventually("the route is there", || {
            (node.status_path("/v1/config")["objects"]["routes/guarded"].is_u64()
                && node.status_path("/v1/modules")[0]["state"] == "ready")
                .then_some(())
        });
    }
    etcd.delete_prefix("/sluice/kv/");
}

/// Names of the values that etcd has.
fn values(etcd: &Etcd) -> Vec<String> {
    etcd.keys("/sluice/kv/").into_iter().map(|(key, _, _)| key).collect()
}

#[test]
fn a_count_is_of_the_whole_fleet_ends_by_its_lease_and_wakes_no_watch() {
    let (origin, etcd) = (HttpEcho::start("origin"), Etcd::start());
    let (one, two) = (node(&etcd, "one").start(), node(&etcd, "two").start());
    fill(&one, &origin, &counting(1000));
    until_routed(&[&one, &two], &etcd);
    let revision = two.status()["config"]["revision"].clone();
    let replies: Vec<Reply> = [&one, &two, &one, &two, &one].into_iter().map(get).collect();
    // It may have ended meanwhile on a slow machine, and begun anew.
    let marked = replies.iter().filter(|reply| is_marked(reply)).count();
    assert!(is_marked(&replies[0]) && marked >= 3, "{marked}");
    assert!(replies.iter().all(|reply| is_marked(reply) || reply.status == 403));
    eventually("there are too many", || (get(&one).status == 403 && get(&two).status == 403).then_some(()));
    assert_eq!(values(&etcd), ["/sluice/kv/guest/n/k"]);
    within(Duration::from_secs(20), "the count ends", || values(&etcd).is_empty().then_some(()));
    assert!(is_marked(&get(&two)));
    assert_eq!(two.status()["config"]["revision"], revision, "no object has changed");
    assert_eq!(two.status()["config"]["quarantined"], json!([]));
}

#[test]
fn many_nodes_and_clients_at_once_lose_no_count() {
    let (origin, etcd) = (HttpEcho::start("origin"), Etcd::start());
    let (one, two) = (node(&etcd, "one").start(), node(&etcd, "two").start());
    fill(&one, &origin, &counting(0));
    until_routed(&[&one, &two], &etcd);
    let urls = [url(&one, "/guarded"), url(&two, "/guarded")];
    let marked: usize = std::thread::scope(|scope| {
        let clients = (0..8).map(|number| {
            let url = &urls[number % 2];
            scope.spawn(move || (0..3).filter(|_| is_marked(&Curl::get(url).run())).count())
        });
        let clients: Vec<_> = clients.collect();
        clients.into_iter().map(|client| client.join().expect("a client")).sum()
    });
    assert_eq!(marked, 3, "of all of them three are the first");
}

#[test]
fn a_quota_and_a_store_that_is_away_are_errors_of_the_guest_and_hold_up_nobody_else() {
    let (origin, mut etcd) = (HttpEcho::start("origin"), Etcd::start());
    let one = node(&etcd, "one").threads(1).start();
    fill(&one, &origin, &counting(0));
    until_routed(&[&one], &etcd);
    let filling = (0..4096).map(|number| (format!("/sluice/kv/guest/other/{number}"), "1".to_owned()));
    etcd.put_all(filling.collect());
    let reply = get(&one);
    assert_eq!((reply.status, is_marked(&reply)), (200, false), "the quota is of the module");
    assert_eq!(values(&etcd).len(), 4096, "what was too much is gone again");
    etcd.with_client(async |client| client.delete("/sluice/kv/guest/other/7", None).await);
    assert!(is_marked(&get(&one)));
    // Another module's values count for themselves, and are not this one's.
    assert!(values(&etcd).contains(&"/sluice/kv/guest/n/k".to_owned()));

    let free = url(&one, "/free").replace("http://", "").replace("/free", "");
    let load = SteadyLoad::get(free.parse().expect("an address"), "localhost", "/free", 1, 200);
    load.until_good(20);
    etcd.kill(0);
    for _ in 0..3 {
        let begun = Instant::now();
        let reply = get(&one);
        assert_eq!((reply.status, is_marked(&reply)), (200, false));
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }
    let report = load.stop();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    // The only worker has served these while the other requests waited.
    let waits = report.times.iter().filter(|time| **time > Duration::from_millis(700)).count();
    assert_eq!(waits, 0, "{:?}", report.longest);
    etcd.restart(0);
    etcd.until_serving();
    within(Duration::from_secs(20), "the values are there again", || is_marked(&get(&one)).then_some(()));
}

#[test]
fn a_namespace_must_be_granted_and_a_directory_has_none() {
    let origin = HttpEcho::start("origin");
    let bytes = counting(0).build();
    let route =
        json!({"uri": "/guarded", "upstream": {"nodes": {origin.node(): 1}}, "plugins": {"guest": {}}});
    let sluice = with_keys(Sluice::builder())
        .listener("edge", json!({}))
        .bytes("modules/guest.wasm", &bytes)
        .put("modules", "guest", json!({"grants": {"kv": ["n"]}}))
        .put("routes", "guarded", &route)
        .start();
    let reply = Curl::get(format!("{}/guarded", sluice.url("edge"))).run();
    assert_eq!((reply.status, is_marked(&reply)), (200, false), "the grant is of the node's values");
    let version = json!({"version": "1", "digest": format!("sha256:{}", "0".repeat(64))});
    let object = json!({"versions": [version], "grants": {"store": ["n"]}}).to_string();
    let refused = expect(&sluice, "PUT", "modules/guest", &object, 400);
    let told = refused["error_msg"].as_str().unwrap_or_default();
    assert!(told.contains("grants.store") && told.contains("needs an etcd store"), "{refused}");
    sluice.apply("modules", "guest", json!({"grants": {"store": ["n"]}}));
    let told = sluice.quarantined("modules", "guest").expect("the object is in quarantine");
    assert!(told.contains("grants.store") && told.contains("needs an etcd store"), "{told}");
}

#[test]
fn a_login_by_code_begins_on_one_node_and_is_confirmed_on_another() {
    let etcd = Etcd::start();
    let (one, two) = (node(&etcd, "one").start(), node(&etcd, "two").start());
    let component = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/plugins/qr-login.wasm");
    let key = "what the service shows, 32 bytes or more";
    let config = json!({
        "url": "https://im.example/qr#", "confirm_key": key, "session_key": "what sessions are signed with, 32 bytes",
        "token_ttl": 60, "shared": true,
    });
    push(&one, "qr-login", &component, &["--version", "1", "--store", "qr-login"]);
    let mut object = expect(&one, "GET", "modules/qr-login", "", 200)["value"].clone();
    object["config"] = config;
    expect(&one, "PUT", "modules/qr-login", &object.to_string(), 200);
    let put = |path: &str, object: Value| expect(&one, "PUT", path, &object.to_string(), 201);
    put("listeners/edge", json!({"bind": "127.0.0.1:0"}));
    put("routes/login", json!({"uri": "/qr-login/*", "plugins": {"qr-login": {}}}));
    let start = |node: &Sluice| Curl::post(url(node, "/qr-login/start"), "").run();
    for node in [&one, &two] {
        within(Duration::from_secs(60), "the function answers", || (start(node).status == 200).then_some(()));
    }
    let begun = start(&one);
    let cookie = begun.header("set-cookie").and_then(|cookie| cookie.split(';').next()).expect("a cookie");
    let token = begun.json()["token"].as_str().expect("a token").to_owned();
    let poll = |node: &Sluice| {
        Curl::get(url(node, &format!("/qr-login/poll?token={token}")))
            .header(&format!("Cookie: {cookie}"))
            .run()
    };
    assert_eq!(poll(&two).status, 202);
    let body = json!({"token": token, "user": "7"}).to_string();
    let confirmed =
        Curl::post(url(&two, "/qr-login/confirm"), body).header(&format!("Authorization: Bearer {key}"));
    assert_eq!(confirmed.run().status, 204);
    assert_eq!(poll(&one).status, 200);
    assert_eq!(poll(&two).status, 410, "the session is given once");
}
