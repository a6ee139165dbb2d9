//! Configuration from a real etcd, whatever happens to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_harness::{
    Authority, Curl, Etcd, HttpEcho, Network, Passage, Signal, Sluice, SluiceBuilder, SteadyLoad, eventually,
    within,
};
use sluice_tests::admin::{expect, with_keys};

/// Time in which a fleet has the state of a store that is back.
const RECOVERY: Duration = Duration::from_secs(20);

/// A listener on a port that each node chooses, an upstream and a route to it.
fn fill(etcd: &Etcd, origin: &HttpEcho) {
    etcd.put("listeners", "edge", &json!({"bind": "127.0.0.1:0"}));
    etcd.put("upstreams", "u", &json!({"nodes": {origin.node(): 1}}));
    etcd.put("routes", "a", &route("/a"));
}

fn route(uri: &str) -> Value {
    json!({"uri": uri, "upstream_id": "u"})
}

fn node(etcd: &Etcd, id: &str) -> SluiceBuilder {
    Sluice::builder().etcd(etcd, json!({"timeout": "2s"})).boot("node", json!({"id": id, "region": "here"}))
}

fn address(sluice: &Sluice) -> SocketAddr {
    eventually("the listener is open", || {
        let status = sluice.status();
        status["listeners"][0]["binds"][0]["address"].as_str()?.parse().ok()
    })
}

fn status_of(sluice: &Sluice, path: &str) -> u16 {
    Curl::get(format!("http://{}{path}", address(sluice))).run().status
}

fn until_status(sluice: &Sluice, path: &str, status: u16) {
    eventually(&format!("{path} is answered with {status}"), || {
        (status_of(sluice, path) == status).then_some(())
    });
}

fn load(sluice: &Sluice) -> SteadyLoad {
    let load = SteadyLoad::get(address(sluice), "localhost", "/a", 2, 50);
    load.until_good(10);
    load
}

fn expect_untouched(load: SteadyLoad) {
    load.until_good(20);
    let report = load.stop();
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert!(report.good > 20);
}

/// What etcd holds: revisions by `<kind>/<id>`.
fn truth(etcd: &Etcd) -> BTreeMap<String, u64> {
    let objects = etcd.keys("/sluice/").into_iter().filter_map(|(key, _, revision)| {
        let name = key.strip_prefix("/sluice/")?.to_owned();
        let is_record = name.starts_with("nodes/") || name.starts_with("history/");
        (!is_record).then_some((name, revision))
    });
    objects.collect()
}

fn running(sluice: &Sluice) -> BTreeMap<String, u64> {
    serde_json::from_value(sluice.status_path("/v1/config")["objects"].clone()).unwrap()
}

/// Every node runs what etcd holds, no more and no less, and says so. What that is is
/// asked each time: a member that was paused may pass a write on that nobody waits for.
fn until_even(etcd: &Etcd, nodes: &[&Sluice]) {
    within(RECOVERY, "every node runs what etcd holds", || {
        let expected = truth(etcd);
        let digests: Vec<Value> =
            nodes.iter().map(|node| node.status()["config"]["store"]["digest"].clone()).collect();
        let is_even = nodes.iter().all(|node| running(node) == expected)
            && digests.iter().all(|digest| digest == &digests[0] && digest.is_string());
        is_even.then_some(())
    });
}

fn stale(sluice: &Sluice) -> Option<String> {
    sluice.status()["config"]["stale"].as_str().map(str::to_owned)
}

fn until_stale(sluice: &Sluice, words: &str) -> String {
    within(RECOVERY, &format!("stale with {words:?}"), || stale(sluice).filter(|text| text.contains(words)))
}

fn until_fresh(sluice: &Sluice) {
    within(RECOVERY, "the store is read again", || stale(sluice).is_none().then_some(()));
}

#[test]
fn objects_come_change_and_go_and_bad_ones_are_quarantined_one_by_one() {
    let (etcd, origin) = (Etcd::start(), HttpEcho::start("origin"));
    fill(&etcd, &origin);
    let sluice = node(&etcd, "one").start();
    until_status(&sluice, "/a", 200);
    etcd.put("routes", "b", &route("/b"));
    until_status(&sluice, "/b", 200);
    let large = format!("{{\"uri\": \"/b\", \"desc\": \"{}\"}}", "x".repeat(1_400_000));
    for (id, value) in
        [("b", "{\"uri\""), ("c", ""), ("d", "[1]"), ("e", "{\"uri\": 7}"), ("f", large.as_str())]
    {
        etcd.put_raw(&format!("/sluice/routes/{id}"), value);
    }
    etcd.put("routes", "g", &route("/g"));
    etcd.put_raw("/sluice/cookies/x", "{}");
    until_status(&sluice, "/g", 200);
    assert_eq!(status_of(&sluice, "/b"), 200, "the last good version stays");
    let reason = |id: &str| sluice.quarantined("routes", id).unwrap_or_default();
    for (id, words) in [("b", "not JSON"), ("c", "not JSON"), ("d", "object"), ("e", "uri"), ("f", "desc")] {
        assert!(reason(id).contains(words), "{id}: {}", reason(id));
    }
    let told = sluice.status()["config"]["quarantined"].to_string();
    assert!(told.contains("/sluice/cookies/x") && told.contains("there is no kind"), "{told}");
    for id in ["b", "c", "d", "e", "f"] {
        etcd.delete("routes", id);
    }
    etcd.with_client(async |client| client.delete("/sluice/cookies/x", None).await);
    until_status(&sluice, "/b", 404);
    until_even(&etcd, &[&sluice]);
    let quarantined = sluice.status()["config"]["quarantined"].clone();
    assert_eq!(quarantined, json!([]));
}

#[test]
fn what_is_written_together_is_in_force_together() {
    let (etcd, origin) = (Etcd::start(), HttpEcho::start("origin"));
    fill(&etcd, &origin);
    let sluice = node(&etcd, "one").start();
    until_status(&sluice, "/a", 200);
    let before = sluice.status()["config"]["revision"].as_u64().unwrap();
    etcd.put_together(&[
        ("/sluice/routes/n", json!({"uri": "/n", "upstream_id": "n"}).to_string()),
        ("/sluice/upstreams/n", json!({"nodes": {origin.node(): 1}}).to_string()),
    ]);
    until_status(&sluice, "/n", 200);
    assert_eq!(sluice.status()["config"]["revision"].as_u64().unwrap(), before + 1);
}

#[test]
fn a_burst_of_writes_is_few_changes_and_touches_no_request() {
    let (etcd, origin) = (Etcd::start(), HttpEcho::start("origin"));
    fill(&etcd, &origin);
    let sluice = node(&etcd, "one").start();
    let load = load(&sluice);
    let before = sluice.status()["config"]["revision"].as_u64().unwrap();
    let routes = (0..1500)
        .map(|number| (format!("/sluice/routes/r{number}"), route(&format!("/r{number}")).to_string()));
    etcd.put_all(routes.collect());
    until_even(&etcd, &[&sluice]);
    let changes = sluice.status()["config"]["revision"].as_u64().unwrap() - before;
    // How many depends on how long etcd takes to write; each is many writes.
    assert!(changes <= 150, "1500 writes were {changes} changes");
    until_status(&sluice, "/r1499", 200);
    expect_untouched(load);
}

#[test]
fn a_deleted_prefix_leaves_the_last_good_state_in_force_and_says_so() {
    let (etcd, origin) = (Etcd::start(), HttpEcho::start("origin"));
    fill(&etcd, &origin);
    let sluice = node(&etcd, "one").start();
    let load = load(&sluice);
    etcd.delete_prefix("/sluice/");
    let told = eventually("the loss is told", || {
        let told = sluice.status()["config"]["quarantined"].to_string();
        told.contains("all objects went at once").then_some(told)
    });
    assert!(told.contains("3 stay in force"), "{told}");
    fill(&etcd, &origin);
    etcd.put("routes", "b", &route("/b"));
    until_status(&sluice, "/b", 200);
    until_even(&etcd, &[&sluice]);
    expect_untouched(load);
}

#[test]
fn a_change_that_deletes_everything_is_no_loss_and_a_node_that_was_away_knows_it_too() {
    let (etcd, origin) = (Etcd::start(), HttpEcho::start("origin"));
    fill(&etcd, &origin);
    let (one, mut two) = (with_keys(node(&etcd, "one")).start(), node(&etcd, "two").start());
    until_even(&etcd, &[&one, &two]);
    let kept = two.folder().join("cache/etcd-state");
    eventually("the state is kept", || {
        std::fs::read_to_string(&kept).ok().filter(|text| text.contains("/a")).map(drop)
    });
    two.process().kill();
    // Of several changes the last one takes all that is left.
    expect(&one, "DELETE", "routes/a", "", 200);
    let all = [("listeners", "edge"), ("upstreams", "u")];
    let objects = all.map(|(kind, id)| json!({"kind": kind, "id": id, "value": null}));
    expect(&one, "POST", "changes", &json!({"objects": objects}).to_string(), 200);
    two.restart();
    for node in [&one, &two] {
        eventually("nothing is in force", || {
            let config = node.status()["config"].clone();
            let counts = ["listeners", "upstreams", "routes"].map(|kind| config["objects"][kind].clone());
            (counts == [json!(0), json!(0), json!(0)]).then_some(())
        });
        assert_eq!(node.status()["config"]["quarantined"], json!([]));
    }
}

#[test]
fn another_and_empty_cluster_on_the_same_address_changes_nothing() {
    let (mut etcd, origin) = (Etcd::start(), HttpEcho::start("origin"));
    fill(&etcd, &origin);
    let sluice = node(&etcd, "one").start();
    let load = load(&sluice);
    etcd.replace_by_empty();
    within(RECOVERY, "the loss is told", || {
        let told = sluice.status()["config"]["quarantined"].to_string();
        told.contains("all objects went at once").then_some(())
    });
    until_fresh(&sluice);
    fill(&etcd, &origin);
    until_even(&etcd, &[&sluice]);
    expect_untouched(load);
}

#[test]
fn a_node_that_was_away_during_writes_deletions_and_a_compaction_misses_nothing() {
    let (etcd, origin) = (Etcd::start(), HttpEcho::start("origin"));
    fill(&etcd, &origin);
    let mut sluice = node(&etcd, "one").start();
    etcd.put("routes", "gone", &route("/gone"));
    until_status(&sluice, "/gone", 200);
    sluice.process().signal(Signal::STOP);
    // More than sockets hold, so that the watch falls behind what is kept.
    let padding = "x".repeat(250);
    let pairs = (0..20_000).map(|number| {
        let id = number % 100;
        (
            format!("/sluice/routes/p{id}"),
            json!({"uri": format!("/p{id}"), "upstream_id": "u", "desc": padding}).to_string(),
        )
    });
    etcd.put_all(pairs.collect());
    etcd.delete("routes", "gone");
    etcd.compact();
    sluice.process().signal(Signal::CONT);
    until_even(&etcd, &[&sluice]);
    assert_eq!(status_of(&sluice, "/gone"), 404);
    assert_eq!(status_of(&sluice, "/p99"), 200);
}

#[test]
fn a_cluster_that_loses_its_leader_members_and_everything_touches_no_request_and_loses_no_write() {
    let (mut etcd, origin) = (Etcd::cluster(), HttpEcho::start("origin"));
    fill(&etcd, &origin);
    let one = node(&etcd, "one").start();
    let mut two = node(&etcd, "two").start();
    let load = load(&one);
    let mut number = 0;
    let mut write = |etcd: &Etcd| {
        // A write that a lost member answered with an error is made again: the
        // same value under the same key.
        number += 1;
        within(RECOVERY, "a write is taken", || {
            etcd.try_with_client(async |client| {
                let value = route(&format!("/w{number}")).to_string();
                client.put(format!("/sluice/routes/w{number}"), value, None).await
            })
            .ok()
        });
        number
    };

    let leader = etcd.leader();
    etcd.kill(leader);
    let last = write(&etcd);
    within(RECOVERY, "the write is in force", || {
        (status_of(&one, &format!("/w{last}")) == 200).then_some(())
    });
    etcd.restart(leader);
    until_even(&etcd, &[&one, &two]);

    let leader = etcd.leader();
    etcd.member(leader).signal(Signal::STOP);
    let last = write(&etcd);
    within(RECOVERY, "the write is in force", || {
        (status_of(&one, &format!("/w{last}")) == 200).then_some(())
    });
    within(RECOVERY, "the write is in force", || {
        (status_of(&two, &format!("/w{last}")) == 200).then_some(())
    });
    etcd.member(leader).signal(Signal::CONT);
    until_even(&etcd, &[&one, &two]);

    (0..3).for_each(|member| etcd.kill(member));
    until_stale(&one, "stale since");
    // A node that starts now has its kept state.
    two.process().kill();
    two.restart();
    let told = until_stale(&two, "serving what was kept at");
    assert!(told.contains("no connection"), "{told}");
    assert_eq!(status_of(&two, &format!("/w{last}")), 200);
    assert_eq!(two.status()["config"]["store"]["is_kept"], true);
    (0..3).for_each(|member| etcd.restart(member));
    etcd.until_serving();
    let last = write(&etcd);
    until_even(&etcd, &[&one, &two]);
    assert_eq!(status_of(&two, &format!("/w{last}")), 200);
    until_fresh(&two);
    expect_untouched(load);
}

#[test]
fn a_node_whose_way_to_the_store_goes_silent_serves_on_and_misses_nothing() {
    let (etcd, network) = (Etcd::start(), Network::new(1));
    let near = network.near();
    let member = etcd.urls()[0].trim_start_matches("http://").parse().unwrap();
    let passage = Passage::start(network.far(), network.address(0), member);
    let origin = HttpEcho::builder("origin").within(near, network.near_address(0)).start();
    fill(&etcd, &origin);
    etcd.put("routes", "b", &route("/b"));
    let store = json!({"timeout": "2s", "endpoints": [format!("http://{}", passage.address())]});
    let sluice =
        Sluice::builder().etcd(&etcd, json!({})).boot("store", json!({"etcd": store})).within(near).start();
    let edge = near.run(|| address(&sluice));
    let request = "GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned();
    let load = SteadyLoad::start(Some(near), edge, request, 2, 50);
    load.until_good(10);

    // Nothing is refused and nothing arrives: only the clock tells.
    network.black_hole(0);
    near.run(|| until_stale(&sluice, "stale since"));
    etcd.delete("routes", "b");
    etcd.put("routes", "c", &route("/c"));
    etcd.compact();
    assert_eq!(near.run(|| (status_of(&sluice, "/b"), status_of(&sluice, "/c"))), (200, 404));

    network.heal();
    let expected = truth(&etcd);
    near.run(|| {
        within(RECOVERY, "the node runs what etcd holds", || (running(&sluice) == expected).then_some(()));
        until_fresh(&sluice);
        assert_eq!((status_of(&sluice, "/b"), status_of(&sluice, "/c")), (404, 200));
    });
    expect_untouched(load);
}

#[test]
fn a_node_without_store_and_kept_state_is_not_ready_and_says_why() {
    let (mut etcd, origin) = (Etcd::start(), HttpEcho::start("origin"));
    fill(&etcd, &origin);
    etcd.kill(0);
    let mut sluice = node(&etcd, "one").spawn();
    let reason = eventually("a reason", || {
        let answer = Curl::get(format!("http://{}/status/ready", sluice.status_address())).run();
        let text = answer.text();
        (answer.status == 503 && text.contains("no connection")).then_some(text)
    });
    assert!(reason.contains("no state of it is kept"), "{reason}");
    etcd.restart(0);
    sluice.wait_ready();
    until_status(&sluice, "/a", 200);
}

#[test]
fn a_damaged_kept_state_is_not_used() {
    let (mut etcd, origin) = (Etcd::start(), HttpEcho::start("origin"));
    fill(&etcd, &origin);
    let mut sluice = node(&etcd, "one").start();
    until_status(&sluice, "/a", 200);
    let kept = sluice.folder().join("cache/etcd-state");
    eventually("the state is kept", || {
        std::fs::read_to_string(&kept).ok().filter(|text| text.contains("\"/a\""))
    });
    sluice.terminate(Duration::from_secs(10));
    let mut bytes = std::fs::read(&kept).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&kept, bytes).unwrap();
    etcd.kill(0);
    let log = sluice.folder().join("sluice.log");
    let restarted = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| sluice.restart());
        eventually("the damage is told", || {
            std::fs::read_to_string(&log).ok().filter(|text| text.contains("SHA-256 is another"))
        });
        etcd.restart(0);
        waiting.join()
    });
    restarted.unwrap();
    until_status(&sluice, "/a", 200);
}

#[test]
fn users_passwords_and_client_certificates_are_used_and_what_is_wrong_is_told() {
    let authority = Authority::new("etcd");
    let wrong = Authority::new("other");
    let (etcd, origin) = (Etcd::tls(authority), HttpEcho::start("origin"));
    fill(&etcd, &origin);
    let settings = |tls: Value| json!({"tls": tls, "timeout": "2s"});
    let sluice = Sluice::builder().etcd(&etcd, settings(etcd.tls_settings())).start();
    until_status(&sluice, "/a", 200);
    let mut tls = etcd.tls_settings();
    tls["ca"] = json!(wrong.path());
    let other = Sluice::builder().etcd(&etcd, settings(tls)).spawn();
    eventually("the wrong authority is told", || {
        let answer = Curl::get(format!("http://{}/status/ready", other.status_address())).run();
        (answer.status == 503 && answer.text().contains("certificate")).then_some(())
    });
}

#[test]
fn a_user_reads_with_its_password_and_a_changed_one_is_told() {
    let (etcd, origin) = (Etcd::start(), HttpEcho::start("origin"));
    fill(&etcd, &origin);
    etcd.run(&["user", "add", "root:secret-of-root"]);
    etcd.run(&["user", "grant-role", "root", "root"]);
    etcd.run(&["user", "add", "node:secret-of-node"]);
    etcd.run(&["role", "add", "reader"]);
    etcd.run(&["role", "grant-permission", "reader", "--prefix=true", "readwrite", "/sluice/"]);
    etcd.run(&["user", "grant-role", "node", "reader"]);
    etcd.run(&["auth", "enable"]);
    let settings = json!({"user": "node", "password": {"env": "ETCD_PASSWORD"}, "timeout": "2s"});
    let start = |password: &str| {
        Sluice::builder().etcd(&etcd, settings.clone()).environment("ETCD_PASSWORD", password)
    };
    let sluice = start("secret-of-node").start();
    until_status(&sluice, "/a", 200);
    let put = route("/b").to_string();
    etcd.run(&["--user", "root:secret-of-root", "put", "/sluice/routes/b", &put]);
    until_status(&sluice, "/b", 200);
    let other = start("wrong-password").spawn();
    eventually("the refusal is told", || {
        let answer = Curl::get(format!("http://{}/status/ready", other.status_address())).run();
        (answer.status == 503 && answer.text().contains("invalid user ID or password")).then_some(())
    });
    assert!(!other.observe().log().contains("wrong-password"));
}

#[test]
fn a_tree_of_apisix_runs_as_far_as_it_is_known() {
    let (etcd, origin) = (Etcd::start(), HttpEcho::start("origin"));
    // Keys and values as APISIX 3 writes them.
    let common = json!({"create_time": 1_700_000_000, "update_time": 1_700_000_001});
    let with = |object: Value| {
        let mut all = common.clone();
        all.as_object_mut().unwrap().extend(object.as_object().unwrap().clone());
        all.to_string()
    };
    for folder in ["routes", "upstreams", "services", "ssls", "consumers", "global_rules"] {
        etcd.put_raw(&format!("/apisix/{folder}/"), "init_dir");
    }
    etcd.put_raw("/apisix/listeners/edge", json!({"bind": "127.0.0.1:0"}).to_string());
    etcd.put_raw(
        "/apisix/upstreams/1",
        with(json!({"id": "1", "nodes": {origin.node(): 1}, "type": "roundrobin", "scheme": "http",
            "hash_on": "vars", "pass_host": "pass"})),
    );
    etcd.put_raw(
        "/apisix/routes/1",
        with(json!({"id": "1", "uri": "/hello", "upstream_id": "1", "status": 1, "priority": 0})),
    );
    etcd.put_raw(
        "/apisix/routes/2",
        with(json!({"id": "2", "uri": "/ai", "upstream_id": "1", "status": 1, "priority": 0,
            "plugins": {"ai-proxy": {"provider": "openai"}}})),
    );
    etcd.put_raw("/apisix/xrpc_protocols/redis", "{}");
    etcd.put_raw("/apisix/data_plane/server_info/x", "{\"id\": \"x\"}");
    etcd.put_raw("/apisix/global_rules/1", with(json!({"id": "1", "plugins": {"prometheus": {}}})));
    let sluice = Sluice::builder().etcd(&etcd, json!({"prefix": "/apisix"})).start();
    until_status(&sluice, "/hello", 200);
    assert_eq!(status_of(&sluice, "/ai"), 503, "nothing passes without its plugin");
    let told = sluice.status()["config"]["quarantined"].to_string();
    for words in ["ai-proxy", "prometheus", "/apisix/xrpc_protocols/redis"] {
        assert!(told.contains(words), "{told} lacks {words}");
    }
    assert!(!told.contains("data_plane") && !told.contains("init_dir"), "{told}");
}

#[test]
fn a_node_without_the_key_of_a_sealed_object_says_which() {
    let (etcd, origin) = (Etcd::start(), HttpEcho::start("origin"));
    fill(&etcd, &origin);
    let certificate = Authority::new("clients").leaf(&["a.example"]).ssl(&["a.example"]);
    etcd.put("ssls", "plain", &certificate);
    let mut sealed = certificate.clone();
    sealed["key"] = json!("sealed:1:2025:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    sealed["snis"] = json!(["b.example"]);
    etcd.put("ssls", "sealed", &sealed);
    let settings = json!([{"id": "2026", "env": "SEAL_KEY"}]);
    let key = "5a".repeat(32);
    let mut sluice = node(&etcd, "one").environment("SEAL_KEY", &key);
    sluice = sluice.boot("store", json!({"etcd": {"endpoints": etcd.urls()}, "encryption": settings}));
    let mut sluice = sluice.start();
    let reason = eventually("the sealed object is quarantined", || sluice.quarantined("ssls", "sealed"));
    assert!(reason.contains("key: is sealed with the key \"2025\""), "{reason}");
    assert_eq!(sluice.quarantined("ssls", "plain"), None);
    // On the disk of the node the key is sealed.
    let kept = sluice.folder().join("cache/etcd-state");
    let text = eventually("the state is kept", || {
        std::fs::read_to_string(&kept).ok().filter(|text| text.contains("ssls"))
    });
    assert!(text.contains("sealed:1:2026:") && !text.contains("PRIVATE KEY"));
    sluice.terminate(Duration::from_secs(10));
    sluice.restart();
    assert_eq!(sluice.quarantined("ssls", "plain"), None);
}

#[test]
fn a_write_through_one_nodes_admin_api_is_in_force_on_every_node_with_its_keys_sealed() {
    let (mut etcd, origin) = (Etcd::start(), HttpEcho::start("origin"));
    fill(&etcd, &origin);
    let start = |id: &str| {
        let store = json!({
            "etcd": {"endpoints": etcd.urls(), "timeout": "2s"},
            "encryption": [{"id": "2026", "env": "SEAL_KEY"}],
        });
        let builder = node(&etcd, id).environment("SEAL_KEY", &"5a".repeat(32)).boot("store", store);
        with_keys(builder).start()
    };
    let (one, two) = (start("one"), start("two"));
    expect(&one, "PUT", "routes/b", &route("/b").to_string(), 201);
    until_status(&two, "/b", 200);
    let certificate = Authority::new("clients").leaf(&["a.example"]).ssl(&["a.example"]);
    expect(&one, "PUT", "ssls/s", &certificate.to_string(), 201);
    let (_, written, _) = etcd.keys("/sluice/ssls/s").remove(0);
    assert!(written.contains("sealed:1:2026:") && !written.contains("PRIVATE KEY"), "{written}");
    until_even(&etcd, &[&one, &two]);
    for node in [&one, &two] {
        assert_eq!(node.status()["config"]["objects"]["ssls"], 1);
    }
    expect(&two, "DELETE", "routes/b", "", 200);
    until_status(&one, "/b", 404);
    until_even(&etcd, &[&one, &two]);
    etcd.kill(0);
    until_stale(&one, "no connection");
    let refused = expect(&one, "PUT", "routes/c", &route("/c").to_string(), 503);
    assert!(
        refused["error_msg"].as_str().is_some_and(|text| text.contains("cannot be reached")),
        "{refused}"
    );
}

#[test]
fn the_fleet_shows_every_node_while_it_lives() {
    let (etcd, origin) = (Etcd::start(), HttpEcho::start("origin"));
    fill(&etcd, &origin);
    let one = node(&etcd, "one").start();
    let mut two = node(&etcd, "two").start();
    let status = one.status_address().to_string();
    let fleet = |arguments: &[&str]| {
        let output =
            Sluice::command(&[&["status", "--fleet", "--addr", &status][..], arguments].concat()).output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    eventually("both are ready with the same objects", || {
        let (code, shown) = fleet(&[]);
        (code == Some(0) && shown.contains("one") && shown.contains("two")).then_some(())
    });
    let (_, text) = fleet(&["--json"]);
    let nodes: Value = serde_json::from_str(&text).unwrap();
    let first = &nodes["nodes"][0];
    assert_eq!(
        (&first["id"], &first["region"], &first["state"]),
        (&json!("one"), &json!("here"), &json!("ready"))
    );
    assert!(first["lines"].as_array().is_some_and(|lines| lines[0]["upstream"] == "upstreams/u"), "{first}");
    two.process().kill();
    within(Duration::from_secs(30), "a dead node leaves the fleet", || {
        let (code, shown) = fleet(&[]);
        (code == Some(0) && !shown.contains("two")).then_some(())
    });
}
