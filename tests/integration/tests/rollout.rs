//! Versions of modules that are tried on a part of the traffic: who gets them,
//! and that they are taken back by themselves.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::{Value, json};
use sluice_harness::guest::{Guest, phases};
use sluice_harness::{Curl, HttpEcho, LoadReport, Reply, Sluice, SluiceBuilder, SteadyLoad, eventually};
use sluice_tests::lines::{Server, frame, im_route, read_error, read_frame};

/// The digest of a component, as objects write it.
fn digest_of(component: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), component).expect("written");
    let path = file.path().to_string_lossy();
    let arguments = ["plugin", "inspect", &path, "--output", "json"];
    let output = Sluice::command(&arguments).output().expect("sluice runs");
    let description: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    description["digest"].as_str().expect("a digest").to_owned()
}

/// Two versions of the module `guest` in the store, and a route that names it.
struct Rig {
    one: Vec<u8>,
    two: Vec<u8>,
}

impl Rig {
    fn new(one: &Guest, two: &Guest) -> Self {
        Self { one: one.build(), two: two.build() }
    }

    /// The object: version 1 serves, with these fields as well.
    fn object(&self, more: &Value) -> Value {
        let mut object = json!({
            "versions": [
                {"version": "1", "digest": digest_of(&self.one)},
                {"version": "2", "digest": digest_of(&self.two)},
            ],
            "active": "1",
        });
        object.as_object_mut().expect("an object").extend(more.as_object().expect("fields").clone());
        object
    }

    fn gateway(&self, origin: &HttpEcho, more: &Value) -> SluiceBuilder {
        let route = json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}, "plugins": {"guest": {}}});
        self.with_module(Sluice::builder(), more)
            // Clients are told apart by the address that tests give them.
            .listener("edge", json!({"trusted": ["127.0.0.0/8"]}))
            .put("routes", "all", route)
    }

    fn with_module(&self, builder: SluiceBuilder, more: &Value) -> SluiceBuilder {
        let blob = |bytes: &[u8]| format!("blobs/{}.wasm", digest_of(bytes).replace(':', "-"));
        builder.bytes(&blob(&self.one), &self.one).bytes(&blob(&self.two), &self.two).put(
            "modules",
            "guest",
            self.object(more),
        )
    }
}

fn get(sluice: &Sluice, client: u32, path: &str) -> Reply {
    let client = Ipv4Addr::from(0x0a00_0000 + client);
    Curl::get(format!("{}{path}", sluice.url("edge"))).header(&format!("X-Forwarded-For: {client}")).run()
}

/// The version a client meets, by the mark it leaves.
fn mark(reply: &Reply) -> String {
    let seen = reply.seen();
    let field = seen.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-guest"));
    field.map(|(_, value)| value.clone()).unwrap_or_default()
}

fn module(sluice: &Sluice) -> Value {
    sluice.status_path("/v1/modules")[0].clone()
}

fn until_trial(sluice: &Sluice, state: &str) -> Value {
    eventually(&format!("the trial is {state}"), || {
        let module = module(sluice);
        (module["trial"]["state"] == state).then_some(module)
    })
}

#[test]
fn a_share_of_the_clients_gets_the_version_that_is_tried_and_keeps_it_as_the_share_grows() {
    let origin = HttpEcho::start("origin");
    let rig = Rig::new(&Guest::new("one"), &Guest::new("two"));
    let sluice = rig.gateway(&origin, &json!({"canary": {"version": "2", "percent": 30}})).start();
    let clients = 0..60;
    let met = |sluice: &Sluice| -> BTreeMap<u32, String> {
        clients.clone().map(|client| (client, mark(&get(sluice, client, "/")))).collect()
    };
    until_trial(&sluice, "running");
    let first = eventually("both versions are met", || {
        let met = met(&sluice);
        met.values().any(|version| version == "two").then_some(met)
    });
    let count = |met: &BTreeMap<u32, String>| met.values().filter(|version| *version == "two").count();
    assert!((5..35).contains(&count(&first)), "30 % of 60: {}", count(&first));
    assert!(first.values().all(|version| version == "one" || version == "two"));
    assert_eq!(met(&sluice), first, "a client stays with its version");
    let shown = until_trial(&sluice, "running");
    assert!(shown["trial"]["exchanges"].as_u64() >= Some(2 * count(&first) as u64), "{shown}");
    assert_eq!(shown["active"], "1", "{shown}");
    sluice.apply("modules", "guest", rig.object(&json!({"canary": {"version": "2", "percent": 80}})));
    let grown = met(&sluice);
    assert!(count(&grown) > count(&first), "{} and {}", count(&grown), count(&first));
    assert!(first.iter().all(|(client, version)| version == "one" || grown[client] == "two"));
    // Elsewhere nobody gets it; here, in this region, all do.
    for (place, version) in [(json!({"nodes": ["other"]}), "one"), (json!({"regions": ["here"]}), "two")] {
        let mut canary = place;
        canary["version"] = json!("2");
        sluice.apply("modules", "guest", rig.object(&json!({"canary": canary})));
        eventually("the place counts", || met(&sluice).values().all(|met| met == version).then_some(()));
    }
    // And promoted it is for all.
    sluice.apply("modules", "guest", rig.object(&json!({"active": "2"})));
    eventually("all have it", || met(&sluice).values().all(|met| met == "two").then_some(()));
}

/// What clients of some addresses send at a steady rate.
fn load(sluice: &Sluice, clients: u8, path: &str, rate: u32) -> Vec<SteadyLoad> {
    let address = sluice.address("edge");
    let start = |client: u8| {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 10.0.0.{client}\r\n\r\n");
        SteadyLoad::start(None, address, request, 1, rate)
    };
    (0..clients).map(start).collect()
}

/// All that some loads have met, as one.
fn together(reports: impl Iterator<Item = LoadReport>) -> LoadReport {
    reports.fold(LoadReport::default(), |mut all, one| {
        all.good += one.good;
        all.failed += one.failed;
        all.failures.extend(one.failures);
        for (server, count) in one.servers {
            *all.servers.entry(server).or_default() += count;
        }
        all
    })
}

#[test]
fn a_version_that_traps_on_one_request_in_a_hundred_is_taken_back_under_load_and_none_passes_unseen() {
    let origin = HttpEcho::start("origin");
    let rig = Rig::new(&Guest::new("one"), &Guest::new("two").traps_on_each(100));
    let sluice = rig.gateway(&origin, &json!({"on_failure": "closed"})).start();
    let (good, evil) = (load(&sluice, 12, "/", 40), load(&sluice, 12, "/?q=evil", 10));
    let until = |more: u64| good.iter().chain(&evil).for_each(|load| load.until_good(more));
    until(3);
    let canary = json!({"version": "2", "percent": 30});
    let more = json!({"on_failure": "closed", "canary": canary, "rollback": {"traps": 3}});
    sluice.apply("modules", "guest", rig.object(&more));
    let shown = until_trial(&sluice, "rolled_back");
    let failed = || together(good.iter().chain(&evil).map(SteadyLoad::so_far)).failed;
    // What was under way has ended by then, and nothing fails from here on.
    until(1);
    let touched = failed();
    until(10);
    assert_eq!(failed(), touched, "{shown}");
    let [good, evil] = [good, evil].map(|loads| together(loads.into_iter().map(SteadyLoad::stop)));
    let shown_later = module(&sluice);
    let trial = &shown_later["trial"];
    assert!(good.failures.iter().chain(&evil.failures).all(|why| why.starts_with("status 503")), "{good:?}");
    assert_eq!(trial["failed"], json!(touched), "{shown_later}");
    assert!((3..=5).contains(&touched), "{touched}");
    assert_eq!(evil.servers.get("origin"), None, "nothing that is refused gets to the origin");
    assert_eq!(good.servers.get("origin"), Some(&good.good));
    let exchanges = trial["exchanges"].as_u64().expect("a number");
    let all = good.good + good.failed + evil.good + evil.failed;
    // Of the instances that count for themselves there are three.
    assert!((200..=700).contains(&exchanges) && exchanges < all, "{exchanges} of {all}: {shown_later}");
    let why = trial["why"].as_str().unwrap_or_default();
    assert!(why.starts_with("3 traps within a minute") && why.contains("exchanges had met it"), "{why}");
    println!("of {all} requests {exchanges} met the version and {touched} were answered with 503: {why}");
}

/// A guest that marks heads, and runs these instructions on those with `evil`.
fn failing(instructions: &str) -> Guest {
    Guest::new("two").on_evil(instructions)
}

/// The object as the store has it.
fn stored(sluice: &Sluice) -> Option<Value> {
    serde_json::from_str(&std::fs::read_to_string(sluice.conf().join("modules/guest.json")).ok()?).ok()
}

#[test]
fn what_is_taken_back_stays_so_after_a_restart_until_it_is_to_be_tried_anew() {
    let origin = HttpEcho::start("origin");
    let rig = Rig::new(&Guest::new("one"), &failing("unreachable"));
    let more = json!({"canary": {"version": "2", "percent": 100}, "rollback": {"traps": 3}});
    let mut sluice = rig.gateway(&origin, &more).start();
    until_trial(&sluice, "running");
    let statuses: Vec<u16> = (0..4).map(|_| get(&sluice, 7, "/?q=evil").status).collect();
    assert_eq!(statuses, [503, 503, 503, 403], "the fourth meets the version before");
    assert_eq!(mark(&get(&sluice, 7, "/")), "one");
    let object = eventually("the object says so", || {
        stored(&sluice).filter(|object| object["canary"]["rolled_back"]["why"].is_string())
    });
    let back = &object["canary"]["rolled_back"];
    assert_eq!((&back["node"], &back["exchanges"]), (&json!("test"), &json!(3)), "{object}");
    let history = Curl::get(sluice.admin_url("history?kind=modules&id=guest")).run().json();
    let change = &history["list"][0];
    assert_eq!((&change["by"], &change["action"]), (&json!("node test"), &json!("rollback")), "{history}");
    sluice.process().kill();
    sluice.restart();
    let shown = until_trial(&sluice, "rolled_back");
    assert_eq!(shown["trial"]["by"], "test", "{shown}");
    assert_eq!(get(&sluice, 7, "/?q=evil").status, 403);
    sluice.apply("modules", "guest", rig.object(&more));
    until_trial(&sluice, "running");
    assert_eq!(get(&sluice, 7, "/?q=evil").status, 503);
}

#[test]
fn a_version_that_misses_its_deadlines_or_is_slow_is_taken_back() {
    let origin = HttpEcho::start("origin");
    let rig = Rig::new(&Guest::new("one"), &failing("(loop $spin (br $spin))"));
    let more = json!({
        "canary": {"version": "2", "percent": 100}, "rollback": {"deadline": 2}, "limits": {"deadline": "20ms"},
    });
    let sluice = rig.gateway(&origin, &more).start();
    until_trial(&sluice, "running");
    let statuses: Vec<u16> = (0..3).map(|_| get(&sluice, 7, "/?q=evil").status).collect();
    assert_eq!(statuses, [503, 503, 403]);
    let shown = until_trial(&sluice, "rolled_back");
    let why = shown["trial"]["why"].as_str().unwrap_or_default();
    assert!(why.starts_with("2 missed deadlines within a minute"), "{shown}");
    drop(sluice);
    // Some ten million steps: milliseconds on any machine.
    let slow = "(local.set $at (i32.const 10000000))
        (loop $step (local.set $at (i32.sub (local.get $at) (i32.const 1))) (br_if $step (local.get $at)))
        (i32.const 3200)";
    let rig = Rig::new(&Guest::new("one"), &Guest::new("two").on_head(slow));
    let more = json!({
        "canary": {"version": "2", "percent": 100, "shadow": true}, "rollback": {"latency": "500us"},
        "limits": {"deadline": "2s"},
    });
    let sluice = rig.gateway(&origin, &more).start();
    until_trial(&sluice, "running");
    let load = load(&sluice, 2, "/", 50);
    let shown = until_trial(&sluice, "rolled_back");
    let report = together(load.into_iter().map(SteadyLoad::stop));
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    let why = shown["trial"]["why"].as_str().unwrap_or_default();
    assert!(why.starts_with("its calls take "), "{shown}");
}

#[test]
fn responses_meet_the_version_that_is_tried_as_well() {
    let origin = HttpEcho::start("origin");
    // Responses alone: nothing of an exchange was seen before.
    let guest = |version| Guest::new(version).phases(phases::RESPONSE_HEAD);
    let rig = Rig::new(&guest("one"), &guest("two").on_response_head("(i32.const 3072)"));
    let more = json!({"canary": {"version": "2", "percent": 30}, "rollback": {"block_rate": 0.2}});
    let sluice = rig.gateway(&origin, &more).start();
    until_trial(&sluice, "running");
    let loads = load(&sluice, 12, "/", 100);
    let shown = until_trial(&sluice, "rolled_back");
    loads.iter().for_each(|load| load.until_good(2));
    let report = together(loads.into_iter().map(SteadyLoad::stop));
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    let why = shown["trial"]["why"].as_str().unwrap_or_default();
    assert!(why.starts_with("it refuses 100.00 % of its exchanges, the current version 0.00 %"), "{shown}");
    let refused = shown["trial"]["refused"].as_u64().unwrap_or_default();
    assert!((100..=200).contains(&refused), "{shown}");
    assert_eq!(report.servers["origin"] + module(&sluice)["trial"]["refused"].as_u64().unwrap(), report.good);
}

#[test]
fn a_version_in_the_shadow_acts_on_nothing_and_is_compared() {
    let origin = HttpEcho::start("origin");
    let both = phases::REQUEST_HEAD | phases::REQUEST_BODY;
    // It would deny everything.
    let strict = Guest::new("two").phases(both).on_head("(i32.const 3072)");
    let rig = Rig::new(&Guest::new("one").phases(both), &strict);
    let canary = json!({"version": "2", "percent": 100, "shadow": true});
    let sluice = rig.gateway(&origin, &json!({"canary": canary})).start();
    until_trial(&sluice, "running");
    let shown = eventually("copies are compared", || {
        assert_eq!(mark(&get(&sluice, 1, "/")), "one");
        assert_eq!(get(&sluice, 1, "/?q=evil").status, 403);
        let shown = module(&sluice);
        (shown["trial"]["differing"].as_u64() >= Some(3)).then_some(shown)
    });
    let count = |field: &str| shown["trial"][field].as_u64().unwrap_or_default();
    // Where both deny nothing differs.
    assert!(count("exchanges") > count("differing"), "{shown}");
    assert_eq!(count("refused"), count("exchanges"), "{shown}");
    // One that refuses more than it may is taken back from the shadow, too.
    let back = json!({"canary": canary, "rollback": {"block_rate": 0.2}});
    sluice.apply("modules", "guest", rig.object(&back));
    let load = SteadyLoad::get(sluice.address("edge"), "localhost", "/", 2, 400);
    let shown = until_trial(&sluice, "rolled_back");
    assert_eq!(load.stop().failed, 0);
    assert!(shown["trial"]["why"].as_str().is_some_and(|why| why.contains("refuses 100.00 %")), "{shown}");
}

#[test]
fn a_version_in_the_shadow_is_shown_responses_with_their_bodies() {
    let origin = HttpEcho::start("origin");
    let responses = phases::RESPONSE_HEAD | phases::RESPONSE_BODY;
    for phases in [phases::REQUEST_HEAD | responses, responses] {
        // It lets heads pass, and would deny bodies.
        let pass = |version: &str| {
            let guest = Guest::new(version).phases(phases);
            guest.on_head("(i32.const 2048)").on_response_head("(i32.const 2048)").on_body("(i32.const 2048)")
        };
        let rig = Rig::new(&pass("one"), &pass("two").on_body("(i32.const 3072)"));
        let canary = json!({"version": "2", "percent": 100, "shadow": true});
        let sluice = rig.gateway(&origin, &json!({"canary": canary})).start();
        until_trial(&sluice, "running");
        let shown = eventually("copies are compared", || {
            assert_eq!(get(&sluice, 1, "/").status, 200);
            let shown = module(&sluice);
            (shown["trial"]["differing"].as_u64() >= Some(3)).then_some(shown)
        });
        let trial = &shown["trial"];
        assert_eq!(
            (&trial["differing"], &trial["refused"]),
            (&trial["exchanges"], &trial["exchanges"]),
            "{shown}"
        );
        assert_eq!(trial["failed"], 0, "{shown}");
    }
}

#[test]
fn frames_go_to_the_version_of_their_client() {
    let server = Server::frame_echo();
    let guest = |version| Guest::new(version).phases(phases::FRAMES);
    // One judges by the first four bytes of a body, the other by the next four.
    let rig = Rig::new(&guest("one"), &guest("two").frames_at(4));
    let mut route = im_route(json!({}));
    route["plugins"] = json!({"guest": {}});
    let more = json!({"canary": {"version": "2", "percent": 100}, "rollback": {"traps": 2}});
    let sluice = rig
        .with_module(Sluice::builder(), &more)
        .listener("im", json!({"protocol": "tlv"}))
        .put("upstreams", "im", json!({"scheme": "tlv", "nodes": {server.node(): 1}}))
        .put("stream_routes", "im", &route)
        .start();
    until_trial(&sluice, "running");
    let mut raw = sluice.connect("im");
    for sequence in 0..2 {
        raw.send(frame(0x0301, sequence, 7, b"passtrap"));
        assert_eq!(read_error(&mut raw), (sequence, "module_trap".to_owned()));
    }
    until_trial(&sluice, "rolled_back");
    raw.send(frame(0x0301, 2, 7, b"passtrap"));
    assert_eq!(read_frame(&mut raw).sequence, 2, "the session goes on with the version before");
}
